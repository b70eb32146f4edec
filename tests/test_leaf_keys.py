"""Keys of leaves: what their distances estimate, and which models tell their leaves."""

from __future__ import annotations

import numpy as np
import pytest

import resmem

RNG = np.random.default_rng(0)
LEAVES = RNG.integers(0, 6, (40, 30))
X = RNG.normal(size=(300, 4))
Y = (X[:, 0] + X[:, 1] ** 2 > 0.5).astype(np.int64) + (X[:, 2] > 1)


def squared_distances(keys):
    wide = keys.astype(np.float64)
    return ((wide[:, None] - wide) ** 2).sum(axis=-1)


def shares(leaves):
    return (leaves[:, None] != leaves).mean(axis=-1)


@pytest.mark.parametrize("m", [64, 1000])
def test_squared_distances_estimate_the_share_of_trees(m):
    pairs = np.triu_indices(len(LEAVES), 1)
    true = shares(LEAVES)[pairs]
    found = squared_distances(resmem.leaf_keys(LEAVES, m=m))[pairs]
    errors = found / true - 1
    assert abs(errors.mean()) < 0.5 * np.sqrt(2 / m)
    assert 0.8 < errors.std() / np.sqrt(2 / m) < 1.2


def test_rows_in_the_same_leaves_have_the_same_key():
    keys = resmem.leaf_keys(np.repeat(LEAVES[:1], 3, axis=0))
    assert (keys == keys[0]).all()
    assert keys.shape == (3, 256)
    assert keys.dtype == np.float32


def test_codes_depend_on_tree_leaf_and_seed_alone():
    all_rows = resmem.leaf_keys(LEAVES, m=70)
    one = resmem.leaf_keys(LEAVES[7:8], m=70)
    assert one.tobytes() == all_rows[7:8].tobytes()
    assert (resmem.leaf_keys(LEAVES, m=70, seed=1) != all_rows).any()
    # Fewer columns are a prefix, but for the factor that makes distances shares.
    fewer = np.sign(resmem.leaf_keys(LEAVES[:, :1], m=20))
    assert (fewer == np.sign(resmem.leaf_keys(LEAVES[:, :1], m=70))[:, :20]).all()
    assert (resmem.leaf_keys(LEAVES[:, ::-1], m=70) != all_rows).any()


def test_codes_are_those_of_the_first_release():
    """Stored keys and those of later queries must have the same codes."""
    found = np.sign(resmem.leaf_keys([[0], [1], [-5]], m=8, seed=3)).astype(int)
    assert found.tolist() == [
        [1, -1, 1, 1, 1, -1, 1, 1],
        [-1, 1, -1, 1, -1, 1, -1, -1],
        [-1, 1, -1, 1, 1, 1, 1, -1],
    ]


def test_leaf_numbers_may_be_whole_floats_of_three_axes():
    wanted = resmem.leaf_keys(LEAVES, m=32).tobytes()
    assert resmem.leaf_keys(LEAVES.astype(np.float32), m=32).tobytes() == wanted
    assert resmem.leaf_keys(LEAVES.reshape(40, 15, 2), m=32).tobytes() == wanted
    one_tree = resmem.leaf_keys(LEAVES[:, :1], m=32).tobytes()
    assert resmem.leaf_keys(LEAVES[:, 0], m=32).tobytes() == one_tree
    assert resmem.leaf_keys(LEAVES[:0], m=32).shape == (0, 32)


class CatBoostLike:
    def predict(self, rows):
        raise AssertionError("its leaves are asked for")

    def calc_leaf_indexes(self, rows):
        return LEAVES[: len(rows)].astype(np.uint32)


class LightGBMLike:
    def predict(self, rows, raw_score=False, pred_leaf=False):
        assert pred_leaf
        return LEAVES[: len(rows)].astype(np.int32)


class XGBoostLike:
    def predict(self, rows):
        raise AssertionError("its leaves are asked for")

    def apply(self, rows):
        return LEAVES[: len(rows)].astype(np.float32)


@pytest.mark.parametrize("model", [CatBoostLike(), LightGBMLike(), XGBoostLike()])
def test_models_of_other_libraries_tell_their_leaves(model):
    wanted = resmem.leaf_keys(LEAVES[:9], m=16)
    assert resmem.leaf_keys(model, np.zeros((9, 3)), m=16).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("name", ["LGBMClassifier", "LGBMRegressor"])
def test_lightgbm_and_its_booster_give_the_same_keys(name):
    model = getattr(pytest.importorskip("lightgbm"), name)(n_estimators=4, verbose=-1, n_jobs=1)
    model.fit(X, Y)
    keys, leaves = resmem.leaf_keys(model, X, m=32), model.predict(X, pred_leaf=True)
    assert keys.tobytes() == resmem.leaf_keys(model.booster_, X, m=32).tobytes()
    assert keys.tobytes() == resmem.leaf_keys(leaves, m=32).tobytes()


def test_xgboost_and_its_booster_give_the_same_keys():
    xgboost = pytest.importorskip("xgboost")
    model = xgboost.XGBClassifier(n_estimators=4, n_jobs=1).fit(X, Y)
    keys = resmem.leaf_keys(model, X, m=32)
    booster = resmem.leaf_keys(model.get_booster(), xgboost.DMatrix(X), m=32)
    assert keys.tobytes() == booster.tobytes()


@pytest.mark.parametrize(
    "name", ["RandomForestClassifier", "ExtraTreesRegressor", "GradientBoostingClassifier"]
)
def test_scikit_learn_ensembles_give_keys_of_their_leaves(name):
    model = getattr(pytest.importorskip("sklearn.ensemble"), name)(n_estimators=5, random_state=0)
    leaves = model.fit(X, Y).apply(X).reshape(len(X), -1)
    wanted = resmem.leaf_keys(leaves.astype(int), m=32)
    assert resmem.leaf_keys(model, X, m=32).tobytes() == wanted.tobytes()


def test_leaves_of_embedding_and_single_trees_are_found():
    ensemble = pytest.importorskip("sklearn.ensemble").RandomTreesEmbedding(5, random_state=0)
    assert resmem.leaf_keys(ensemble.fit(X), X, m=8).shape == (300, 8)
    tree = pytest.importorskip("sklearn.tree").DecisionTreeClassifier(max_depth=3).fit(X, Y)
    found = squared_distances(resmem.leaf_keys(tree, X, m=8)) > 0
    assert (found == (shares(tree.apply(X)[:, None]) > 0)).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("HistGradientBoostingClassifier", {}),
        ("HistGradientBoostingRegressor", {"loss": "poisson"}),
        ("HistGradientBoostingRegressor", {"categorical_features": [3]}),
    ],
)
def test_leaves_of_histogram_boosting_hold_its_predictions(name, options):
    """The values of the leaves that are found add up to what the model predicts, to the bit."""
    ensemble = pytest.importorskip("sklearn.ensemble")
    rows = X.copy()
    rows[:, 3] = np.clip(np.floor(np.abs(3 * rows[:, 3])), 0, 5)
    rows[::7, 0] = np.nan
    model = getattr(ensemble, name)(max_iter=4, min_samples_leaf=5, random_state=0, **options)
    model.fit(rows, Y)
    before = model._raw_predict(rows)
    leaves = resmem._keys.leaves._leaves_of(model, rows).astype(int)
    trees = [tree for trees in model._predictors for tree in trees]
    sums = np.zeros_like(before) + model._baseline_prediction
    for i, tree in enumerate(trees):
        assert tree.nodes["is_leaf"][leaves[:, i]].all()
        sums[:, i % before.shape[1]] += tree.nodes["value"][leaves[:, i]]
    assert sums.tobytes() == before.tobytes() == model._raw_predict(rows).tobytes()
    wanted = resmem.leaf_keys(leaves, m=16)
    assert resmem.leaf_keys(model, rows, m=16).tobytes() == wanted.tobytes()


def test_neighbours_by_leaves_share_leaves():
    queries = LEAVES[:10].copy()
    queries[:, :3] = 9  # leaves that no row of the memory is in
    memory = resmem.Memory(k=1, task="regression")
    memory.fit(resmem.leaf_keys(LEAVES), np.zeros(40), np.arange(40.0))
    found = memory.kneighbors(resmem.leaf_keys(queries))[1][:, 0]
    assert found.tolist() == list(range(10))


def test_hints_for_models_without_leaves_work():
    """The messages themselves are in test_errors.py."""
    ensemble = pytest.importorskip("sklearn.ensemble")
    pipeline = pytest.importorskip("sklearn.pipeline").make_pipeline(
        pytest.importorskip("sklearn.preprocessing").StandardScaler(),
        ensemble.RandomForestClassifier(5, random_state=0),
    )
    pipeline.fit(X, Y)
    with pytest.raises(TypeError, match="give the last step of a pipeline, and X as the steps"):
        resmem.leaf_keys(pipeline, X)
    keys = resmem.leaf_keys(pipeline[-1], pipeline[:-1].transform(X))
    leaves = pipeline[-1].apply(pipeline[:-1].transform(X))
    assert keys.tobytes() == resmem.leaf_keys(leaves).tobytes()
