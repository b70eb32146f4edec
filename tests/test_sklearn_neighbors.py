"""scikit-learn's neighbours over resmem's search: its results, or words of what is not there."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest

pytest.importorskip("sklearn.frozen", reason="needs scikit-learn 1.6 or later")

from sklearn import neighbors
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.metrics import DistanceMetric
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import resmem
from resmem.sklearn import KNeighborsClassifier, KNeighborsRegressor, NearestNeighbors

rng = np.random.default_rng(0)
ROWS, QUERIES = rng.normal(size=(300, 6)), rng.normal(size=(40, 6))
CLASSES, VALUES = rng.choice(["b", "a", "c"], 300), rng.normal(size=300)


def brute(name, **parameters):
    return getattr(neighbors, name)(algorithm="brute", **parameters)


def same_sets(found, expected):
    """Compare object arrays of arrays."""
    assert found.dtype == object
    assert found.shape == expected.shape
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


# ---- neighbours ------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["minkowski", "euclidean", "l2", "sqeuclidean", "cosine"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("own", [False, True])
def test_kneighbors_has_scikit_learns_results(metric, dtype, own):
    rows, queries = ROWS.astype(dtype), None if own else QUERIES.astype(dtype)
    ours = NearestNeighbors(n_neighbors=7, metric=metric).fit(rows)
    theirs = brute("NearestNeighbors", n_neighbors=7, metric=metric).fit(rows.astype(np.float64))
    distances, indices = ours.kneighbors(queries)
    known = None if own else queries.astype(np.float64)
    expected_distances, expected = theirs.kneighbors(known)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-9)
    np.testing.assert_array_equal(ours.kneighbors(queries, return_distance=False), indices)
    np.testing.assert_array_equal(ours.kneighbors(queries, 3)[1], indices[:, :3])
    for mode in ("connectivity", "distance"):
        graph = ours.kneighbors_graph(queries, mode=mode)
        other = theirs.kneighbors_graph(known, mode=mode)
        assert type(graph) is type(other)
        np.testing.assert_allclose(graph.toarray(), other.toarray(), rtol=1e-9)


@pytest.mark.parametrize("rows_exact", [True, False])
@pytest.mark.parametrize("queries_exact", [True, False])
def test_no_number_is_rounded(rows_exact, queries_exact):
    offset = 1.7e9  # seconds since 1970: float32 tells no two of them apart within a minute
    rows = np.arange(64.0)[:, None] + (0.0 if rows_exact else offset)
    queries = rows[:9] + (0.0 if queries_exact else 1e-9 if rows_exact else 0.25)
    found = NearestNeighbors(n_neighbors=1).fit(rows).kneighbors(queries)
    np.testing.assert_array_equal(found[1][:, 0], np.arange(9))
    np.testing.assert_array_equal(found[0][:, 0], np.abs(queries - rows[:9])[:, 0])


def test_equally_near_rows_come_by_number():
    model = NearestNeighbors(n_neighbors=1).fit(np.ones((3, 1)))
    np.testing.assert_array_equal(model.kneighbors()[1], [[1], [0], [0]])  # all but itself


@pytest.mark.parametrize("radius", [0.0, 1.2, 2.5, np.inf])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("sort_results", [False, True])
def test_radius_neighbors_has_scikit_learns_results(radius, own, sort_results):
    queries = None if own else QUERIES
    ours = NearestNeighbors(radius=radius).fit(ROWS)
    theirs = brute("NearestNeighbors", radius=radius).fit(ROWS)
    found = ours.radius_neighbors(queries, sort_results=sort_results)
    expected = theirs.radius_neighbors(queries, sort_results=sort_results)
    for one, other in zip(found, expected, strict=True):
        same_sets(one, other)
    if not sort_results:
        same_sets(ours.radius_neighbors(queries, return_distance=False), expected[1])
        graph = ours.radius_neighbors_graph(queries, mode="distance")
        other = theirs.radius_neighbors_graph(queries, mode="distance")
        np.testing.assert_allclose(graph.toarray(), other.toarray(), rtol=1e-12)


def test_radius_neighbors_ends_are_included_and_radii_differ():
    model = NearestNeighbors().fit(np.arange(300.0)[:, None])
    (few, many), (near, far) = model.radius_neighbors([[0.0], [0.0]], radius=[3, 200])
    np.testing.assert_array_equal(few, [0, 1, 2, 3])
    np.testing.assert_array_equal(near, [0, 1, 2, 3])
    np.testing.assert_array_equal(far, np.arange(201))
    np.testing.assert_array_equal(many, np.arange(201))


def test_radius_neighbors_in_pieces_gives_the_same(monkeypatch):
    model = NearestNeighbors(radius=2.0).fit(ROWS)
    whole = model.radius_neighbors(QUERIES)
    monkeypatch.setattr("resmem.adapters.sklearn.exact_rows._FIRST_K", 2)
    monkeypatch.setattr("resmem.adapters.sklearn.exact_rows._FOUND_AT_ONCE", 50)
    for one, other in zip(model.radius_neighbors(QUERIES), whole, strict=True):
        same_sets(one, other)


def test_scikit_learns_functions_take_the_estimator():
    ours, theirs = (kind(n_neighbors=3).fit(ROWS) for kind in
                    (NearestNeighbors, neighbors.NearestNeighbors))  # fmt: skip
    for include_self in (True, False):
        graphs = [
            neighbors.kneighbors_graph(each, 3, include_self=include_self).toarray()
            for each in (ours, theirs)
        ]
        np.testing.assert_array_equal(*graphs)
    assert isinstance(ours, neighbors.NearestNeighbors)


@pytest.mark.parametrize("kind", [neighbors.KDTree, neighbors.BallTree, NearestNeighbors().fit])
def test_fit_takes_the_rows_of_trees_and_models(kind):
    model = NearestNeighbors().fit(kind(ROWS))
    np.testing.assert_array_equal(
        model.kneighbors()[1], NearestNeighbors().fit(ROWS).kneighbors()[1]
    )


# ---- predictions -----------------------------------------------------------------------------


def halves(distances):
    return 0.5**distances


@pytest.mark.parametrize("weights", ["uniform", "distance", None, halves])
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("own", [False, True])
def test_classifier_has_scikit_learns_votes(weights, outputs, own):
    y = CLASSES if outputs == 1 else np.stack([CLASSES, CLASSES[::-1]], axis=1)
    queries = None if own else np.concatenate([QUERIES, ROWS[:3]])  # three at distance 0
    ours = KNeighborsClassifier(7, weights=weights).fit(ROWS, y)
    theirs = brute("KNeighborsClassifier", n_neighbors=7, weights=weights).fit(ROWS, y)
    np.testing.assert_array_equal(ours.predict(queries), theirs.predict(queries))
    np.testing.assert_allclose(ours.predict_proba(queries), theirs.predict_proba(queries))
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)
    assert ours.outputs_2d_ == theirs.outputs_2d_
    assert ours.score(ROWS, y) == theirs.score(ROWS, y) if outputs == 1 else True


@pytest.mark.parametrize("weights", ["uniform", "distance", None, halves])
@pytest.mark.parametrize("shape", [(300,), (300, 1), (300, 2)])
@pytest.mark.parametrize("own", [False, True])
def test_regressor_has_scikit_learns_means(weights, shape, own):
    y = np.resize(VALUES, shape)
    queries = None if own else np.concatenate([QUERIES, ROWS[:3]])
    ours = KNeighborsRegressor(7, weights=weights).fit(ROWS, y)
    theirs = brute("KNeighborsRegressor", n_neighbors=7, weights=weights).fit(ROWS, y)
    np.testing.assert_allclose(ours.predict(queries), theirs.predict(queries))


def test_column_of_labels_is_taken_with_a_warning():
    with pytest.warns(DataConversionWarning):
        model = KNeighborsClassifier().fit(ROWS, CLASSES[:, None])
    assert model.predict(QUERIES).shape == (40,)


def test_votes_of_no_weight_are_an_error():
    model = KNeighborsClassifier(weights=np.zeros_like).fit(ROWS, CLASSES)
    for method in (model.predict, model.predict_proba):
        with pytest.raises(ValueError, match="getting zero weights"):
            method(QUERIES)


# ---- as estimators ---------------------------------------------------------------------------


def test_searches_over_settings_pipelines_and_copies():
    pipe = make_pipeline(StandardScaler(), KNeighborsClassifier())
    search = GridSearchCV(pipe, {"kneighborsclassifier__n_neighbors": [1, 9]}, cv=3)
    search.fit(ROWS, CLASSES)
    assert len(cross_validate(KNeighborsRegressor(), ROWS, VALUES)["test_score"]) == 5
    kept = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(kept.predict(QUERIES), search.predict(QUERIES))
    assert not hasattr(clone(search.best_estimator_[-1]), "classes_")
    assert "KNeighborsClassifier" in pipe._repr_html_()


@pytest.mark.parametrize(("n_jobs", "threads"), [(None, None), (1, 1), (2, 2)])
def test_n_jobs_is_the_number_of_threads(monkeypatch, n_jobs, threads):
    seen = []
    search = resmem.Index.search
    monkeypatch.setattr(
        resmem.Index,
        "search",
        lambda self, q, k, e, t: (seen.append(t), search(self, q, k, e, t))[1],
    )
    NearestNeighbors(n_jobs=n_jobs).fit(ROWS).kneighbors(QUERIES)
    assert seen == [threads]


# ---- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        {"metric": "manhattan"}, {"p": 1}, {"metric": "precomputed"}, {"metric": "nan_euclidean"},
        {"metric": "minkowski", "metric_params": {"p": 3}}, {"metric_params": {"w": [1.0] * 6}},
        {"metric": lambda one, other: 0.0}, {"metric": DistanceMetric.get_metric("manhattan")},
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [NearestNeighbors, KNeighborsClassifier, KNeighborsRegressor])
def test_other_metrics_are_refused_and_named(kind, parameters):
    message = re.escape(f"sklearn.neighbors.{kind.__name__} has others")
    with pytest.raises(ValueError, match=message):
        kind(**parameters).fit(np.where(ROWS > 2, np.nan, ROWS), VALUES > 0)


@pytest.mark.parametrize(
    ("metric", "params"),
    [("minkowski", {"p": 2}), (DistanceMetric.get_metric("euclidean"), None)],
)
def test_euclidean_metrics_of_other_names_are_taken(metric, params):
    p = 3 if params else 2
    model = NearestNeighbors(metric=metric, p=p, metric_params=params).fit(ROWS)
    np.testing.assert_array_equal(
        model.kneighbors()[1], NearestNeighbors().fit(ROWS).kneighbors()[1]
    )


def test_sparse_rows_are_refused_and_named():
    scipy = pytest.importorskip("scipy.sparse", reason="scikit-learn has it")
    rows = scipy.csr_matrix(ROWS)
    with pytest.raises(TypeError, match=r"pass X.toarray\(\), or use sklearn.neighbors.Nearest"):
        NearestNeighbors().fit(rows)
    with pytest.raises(TypeError, match=r"pass X.toarray\(\)"):
        NearestNeighbors().fit(ROWS).kneighbors(rows)
    np.testing.assert_allclose(
        NearestNeighbors(n_neighbors=1).fit(rows.toarray()).kneighbors(ROWS)[0], 0
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_neighbors": 0}, "Expected n_neighbors > 0. Got 0"),
        ({"n_neighbors": 2.0}, "n_neighbors must be a whole number, got 2.0"),
        ({"n_neighbors": True}, "n_neighbors must be a whole number, got True"),
        ({"algorithm": "fast"}, "algorithm must be .* got 'fast'"),
        ({"weights": "even"}, "weights must be .* got 'even'"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        KNeighborsClassifier(**settings).fit(ROWS, CLASSES)


def test_more_neighbours_than_rows_are_refused():
    model = NearestNeighbors(n_neighbors=300).fit(ROWS)
    assert model.kneighbors(QUERIES)[1].shape == (40, 300)
    with pytest.raises(
        ValueError, match="n_neighbors < n_samples_fit, but n_neighbors = 300, n_sam"
    ):
        model.kneighbors()
    with pytest.raises(ValueError, match="n_neighbors <= n_samples_fit, but n_neighbors = 301"):
        model.kneighbors(QUERIES, 301)


def test_wrong_radii_and_orders_are_refused():
    model = NearestNeighbors().fit(ROWS)
    for radius in (-1.0, np.nan, [1.0, 2.0], "far", [[1.0], [2.0, 3.0]]):
        with pytest.raises(ValueError, match="radius must be a number of at least 0"):
            model.radius_neighbors(QUERIES, radius)
    with pytest.raises(ValueError, match="return_distance must be True"):
        model.radius_neighbors(QUERIES, return_distance=False, sort_results=True)
    with pytest.raises(NotFittedError):
        NearestNeighbors().radius_neighbors(QUERIES)
