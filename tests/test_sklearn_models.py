"""Memories over scikit-learn's models: what they are made of, how tuned, what they refuse."""

from __future__ import annotations

import doctest
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn.frozen", reason="needs scikit-learn 1.6 or later")

import sklearn
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.datasets import load_digits, make_classification, make_friedman1
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import SelectKBest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneGroupOut,
    ShuffleSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
    cross_val_predict,
    cross_validate,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils import get_tags

import resmem
from resmem.adapters.sklearn import models
from resmem.adapters.sklearn import neighbors as neighbours
from resmem.adapters.sklearn.embeddings import learns_targets
from resmem.sklearn import ResMemClassifier, ResMemRegressor

# So few settings are tried here that the best of them are the last ones, which tuning warns of.
pytestmark = pytest.mark.filterwarnings("ignore:tune:UserWarning")

X, Y = make_classification(240, 6, n_informative=4, n_classes=3, class_sep=0.7, random_state=0)
NAMES = np.array(["ant", "bee", "cat"])[Y]
VALUES = X[:, 0] * X[:, 1] + X[:, 2]
FEW = {"k": [4], "sigma": [1.0], "strength": [0, 1]}  # so that tests are fast
NEW = X + 0.01


def untuned(estimator, *args, **settings):
    kind = ResMemRegressor if sklearn.base.is_regressor(estimator) else ResMemClassifier
    return kind(estimator, *args, **{"tune": False, **settings})


# ---- what the memory is made of ----------------------------------------------------------------


def test_outputs_are_those_of_models_that_did_not_see_the_row():
    folds = StratifiedKFold(4, shuffle=True, random_state=3)
    model = untuned(LogisticRegression(), cv=folds).fit(X, NAMES)
    honest = cross_val_predict(LogisticRegression(), X, NAMES, cv=folds, method="predict_log_proba")
    memory = resmem.Memory(preprocess="standardize").fit(X, honest, NAMES)
    base = LogisticRegression().fit(X, NAMES)
    expected = memory.predict_proba(NEW, base.predict_log_proba(NEW))
    np.testing.assert_allclose(model.predict_proba(NEW), expected, rtol=1e-12)
    assert model.memory_.residuals == "out-of-fold"
    np.testing.assert_array_equal(model.predict(NEW), memory.classes_[expected.argmax(axis=1)])


def test_random_folds_are_those_of_the_seed():
    folds = StratifiedKFold(3, shuffle=True, random_state=7)
    counted = untuned(LogisticRegression(), cv=3, random_state=7).fit(X, Y)
    named = untuned(LogisticRegression(), cv=folds).fit(X, Y)
    np.testing.assert_array_equal(counted.predict_proba(NEW), named.predict_proba(NEW))
    other = untuned(LogisticRegression(), cv=3, random_state=8).fit(X, Y)
    assert (other.predict_proba(NEW) != named.predict_proba(NEW)).any()
    sorted_values = untuned(Ridge(), cv=3, random_state=7).fit(X, VALUES)
    shuffled = untuned(Ridge(), cv=KFold(3, shuffle=True, random_state=7)).fit(X, VALUES)
    np.testing.assert_array_equal(sorted_values.predict(NEW), shuffled.predict(NEW))


def test_folds_trained_side_by_side_give_the_same():
    one, two = (untuned(Ridge(), cv=3, n_jobs=n).fit(X, VALUES) for n in (None, 2))
    np.testing.assert_array_equal(one.predict(NEW), two.predict(NEW))


def test_collect_gives_what_the_memory_takes():
    model = untuned(LogisticRegression()).fit(X, NAMES)
    embeddings, outputs = model.collect(NEW)
    assert embeddings.shape == (240, 6)
    assert outputs.shape == (240, 3)
    evaluation = model.memory_.evaluate(embeddings, outputs, NAMES)
    scores = {method.name: method.scores["accuracy"] for method in evaluation.methods}
    assert scores["base"] == model.estimator_.score(NEW, NAMES)
    assert model.score(NEW, NAMES) in scores.values()


@pytest.mark.parametrize(
    "labels",
    [NAMES, NAMES.astype(object), Y + 1, Y - 1, Y * 2.0, Y > 0, (Y > 0) + 4, Y.tolist()],
    ids=["text", "object", "from 1", "negative", "floats", "bools", "two of 4 and 5", "list"],
)
@pytest.mark.parametrize("base", [LogisticRegression(), LinearSVC(), SVC()])
def test_labels_of_any_kind_come_back(labels, base):
    model = ResMemClassifier(base, cv=2, tune=FEW).fit(X, labels)
    found = model.predict(NEW)
    assert set(found) <= set(labels)
    assert (found == np.asarray(labels)).mean() > 0.6
    np.testing.assert_array_equal(model.classes_, np.unique(labels))
    proba = model.predict_proba(NEW)
    np.testing.assert_array_equal(model.classes_[proba.argmax(axis=1)], found)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(NEW)), proba)


def test_binary_decisions_are_log_odds_and_finite():
    model = untuned(DecisionTreeClassifier(random_state=0), k=3).fit(X, Y > 0)
    proba, decisions = model.predict_proba(NEW), model.decision_function(NEW)
    assert decisions.shape == (240,)
    assert np.isfinite(decisions).all()
    np.testing.assert_array_equal(decisions > 0, model.predict(NEW))
    known = proba.min(axis=1) > 0
    np.testing.assert_allclose(decisions[known], np.log(proba[known, 1] / proba[known, 0]))
    assert untuned(LogisticRegression()).fit(X, Y).decision_function(NEW).shape == (240, 3)


def test_class_that_a_fold_lacks_has_no_probability_there():
    folds = KFold(3)
    order = np.argsort(Y, kind="stable")  # a class a fold, about
    model = untuned(LogisticRegression(), cv=folds, memory_params={"store": "dense"})
    model.fit(X[order], Y[order])
    outputs = model.memory_.get(np.arange(240)).outputs
    assert np.isneginf(outputs[:60, 0]).all()
    assert np.isfinite(outputs[:60, 1:]).all()


@pytest.mark.parametrize("shape", [(240,), (240, 1), (240, 2)])
@pytest.mark.parametrize("base", [Ridge(), DecisionTreeRegressor()])  # a tree gives (n,) always
def test_values_keep_the_shape_of_the_targets(shape, base):
    y = np.resize(VALUES, shape)
    model = ResMemRegressor(base, tune=FEW).fit(X, y)
    assert model.predict(NEW).shape == shape
    assert model.score(X, y) <= 1


def test_regression_adds_the_honest_residuals():
    folds = KFold(4)
    model = untuned(Ridge(), cv=folds, k=5).fit(X, VALUES)
    honest = cross_val_predict(Ridge(), X, VALUES, cv=folds)
    memory = resmem.Memory("regression", k=5, preprocess="standardize").fit(X, honest, VALUES)
    base = Ridge().fit(X, VALUES)
    np.testing.assert_allclose(model.predict(NEW), memory.predict(NEW, base.predict(NEW)))


def test_settings_of_the_memory_are_passed_on():
    model = untuned(
        LogisticRegression(), k=7, sigma=2.0, strength=0.5,
        memory_params={"preprocess": "pca:2", "probability_map": "keep", "store": "sparse:2"},
    ).fit(X, Y)  # fmt: skip
    memory = model.memory_
    assert (memory.k, memory.sigma, memory.strength) == (7, 2.0, 0.5)
    assert (memory.preprocess, memory.probability_map, memory.store) == (
        "pca:2",
        "keep",
        "sparse:2",
    )


# ---- embeddings --------------------------------------------------------------------------------


def test_steps_of_a_pipeline_are_the_default_embedding():
    pipe = make_pipeline(StandardScaler(), PCA(2), LogisticRegression())
    model = untuned(pipe).fit(X, Y)
    np.testing.assert_allclose(model.collect(NEW)[0], model.estimator_[:-1].transform(NEW))
    assert model.memory_.preprocess == "none"
    searched = untuned(GridSearchCV(pipe, {"logisticregression__C": [1.0]}, cv=2)).fit(X, Y)
    np.testing.assert_allclose(searched.collect(NEW)[0], model.collect(NEW)[0])
    frozen = untuned(FrozenEstimator(pipe.fit(X, Y))).fit(X, Y)
    np.testing.assert_allclose(frozen.collect(NEW)[0], model.collect(NEW)[0])


@pytest.mark.parametrize("base", [LogisticRegression(), make_pipeline(LogisticRegression())])
@pytest.mark.parametrize("embed", [None, "input"])
def test_input_is_standardised(base, embed):
    model = untuned(base, embed).fit(X * [1, 1, 1, 1, 1, 9], Y)
    assert model.memory_.preprocess == "standardize"
    np.testing.assert_array_equal(model.collect(NEW)[0], NEW)
    pipe = make_pipeline(StandardScaler(), PCA(2), base)
    assert untuned(pipe, "input").fit(X, Y).collect(NEW)[0].shape == (240, 6)


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("layers", [(5,), (7, 4)])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_hidden_layer_is_what_the_output_layer_reads(activation, layers):
    settings = {"activation": activation, "max_iter": 3, "random_state": 0}
    net = MLPRegressor(hidden_layer_sizes=layers, **settings)
    model = untuned(make_pipeline(StandardScaler(), net), "hidden", cv=2).fit(X, VALUES)
    embeddings, outputs = model.collect(NEW)
    assert embeddings.shape == (240, layers[-1])
    last = model.estimator_[-1]
    np.testing.assert_allclose(
        (embeddings @ last.coefs_[-1] + last.intercepts_[-1])[:, 0], outputs, rtol=1e-9
    )
    alone = untuned(MLPClassifier((3,), max_iter=3, random_state=0), "hidden", cv=2).fit(X, Y)
    assert alone.collect(NEW)[0].shape == (240, 3)


@pytest.mark.parametrize(
    "base",
    [RandomForestClassifier(5, random_state=0), HistGradientBoostingClassifier(max_iter=2),
     GradientBoostingRegressor(n_estimators=3)],
)  # fmt: skip
def test_leaves_are_keys_of_the_model(base):
    model = untuned(base, "leaves", cv=2).fit(X, Y)
    np.testing.assert_array_equal(model.collect(NEW)[0], resmem.leaf_keys(model.estimator_, NEW))
    within = untuned(make_pipeline(StandardScaler(), base), "leaves", cv=2).fit(X, Y)
    scaled = within.estimator_[:-1].transform(NEW)
    np.testing.assert_array_equal(
        within.collect(NEW)[0], resmem.leaf_keys(within.estimator_[-1], scaled)
    )


def first_two(rows):
    return rows[:, :2]


def test_functions_and_transformers_make_embeddings():
    model = untuned(LogisticRegression(), first_two).fit(X, Y)
    np.testing.assert_array_equal(model.collect(NEW)[0], NEW[:, :2])
    fresh = PCA(3)
    model = untuned(LogisticRegression(), fresh).fit(X, Y)
    np.testing.assert_allclose(model.collect(NEW)[0], PCA(3).fit(X).transform(NEW))
    assert not hasattr(fresh, "components_")


def test_fitted_transformer_is_taken_as_it_is():
    known = PCA(3).fit(X[:50])
    for embed in (known, FrozenEstimator(known)):
        model = untuned(LogisticRegression(), embed).fit(X, Y)
        np.testing.assert_array_equal(model.collect(NEW)[0], known.transform(NEW))
    kept = clone(untuned(LogisticRegression(), FrozenEstimator(known))).fit(X, Y)
    np.testing.assert_array_equal(kept.collect(NEW)[0], known.transform(NEW))


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_set_output_of_transformers_is_followed(kind):
    pytest.importorskip(kind, reason=f"{kind} is optional")
    plain = untuned(make_pipeline(StandardScaler(), PCA(2), Ridge())).fit(X, VALUES)
    pipe = make_pipeline(StandardScaler(), PCA(2), Ridge()).set_output(transform=kind)
    model = untuned(pipe).fit(X, VALUES)
    assert model.memory_.embedding_names_ == ("pca0", "pca1")
    np.testing.assert_allclose(model.predict(NEW), plain.predict(NEW))
    embedded = untuned(Ridge(), PCA(2).set_output(transform=kind)).fit(X, VALUES)
    assert embedded.memory_.embedding_names_ == ("pca0", "pca1")


# ---- tuning ------------------------------------------------------------------------------------


def test_tuning_finds_what_a_linear_model_misses():
    rows, y = make_friedman1(700, random_state=0)
    model = ResMemRegressor(Ridge(), tune={"k": [8, 16]}).fit(rows[:400], y[:400])
    assert model.tuned_.useful
    assert model.memory_.settings == model.tuned_.best
    base = model.estimator_.score(rows[400:], y[400:])
    assert model.score(rows[400:], y[400:]) > base + 0.02


def test_useless_memory_is_switched_off():
    rng = np.random.default_rng(0)
    rows, y = rng.normal(size=(200, 3)), rng.integers(0, 2, 200)
    model = ResMemClassifier(LogisticRegression(), tune={"k": [4], "sigma": [1.0]}).fit(rows, y)
    assert model.memory_.strength == 0
    base = model.estimator_.predict_proba(NEW[:, :3])
    if model.memory_.temperature == 1:
        np.testing.assert_allclose(model.predict_proba(NEW[:, :3]), base, rtol=1e-6)


class Memoriser(TransformerMixin, BaseEstimator):
    """An embedding that gives away the targets of the rows that it was fitted to."""

    def fit(self, X, y):
        self.known_ = {row.tobytes(): label for row, label in zip(X, y, strict=True)}
        return self

    def transform(self, X):
        chance = np.random.default_rng(len(X)).integers(0, 2, len(X))
        labels = [self.known_.get(row.tobytes(), c) for row, c in zip(X, chance, strict=True)]
        return np.array(labels, dtype=float)[:, None] * [100.0, 1.0] + X[:, :2] * 0.01


def test_embedding_that_knows_its_rows_is_judged_by_others():
    rng = np.random.default_rng(0)
    rows, y = rng.normal(size=(300, 3)), rng.integers(0, 2, 300)
    fast = {"k": [4], "sigma": [1.0]}
    model = ResMemClassifier(LogisticRegression(), Memoriser(), tune=fast).fit(rows, y)
    assert not model.tuned_.useful
    assert model.tuned_.rows == 120  # two folds of five
    assert model.memory_.tune(loo=True, apply=False, **fast).useful  # what its own rows would say


class OtherSearch(ClassifierMixin, BaseEstimator):
    """A search over settings that names them as no search of scikit-learn does."""

    def __init__(self, estimator):
        self.estimator = estimator

    def fit(self, X, y):
        self.best_estimator_ = clone(self.estimator).fit(X, y)
        self.classes_ = self.best_estimator_.classes_
        return self

    def predict_proba(self, X):
        return self.best_estimator_.predict_proba(X)


KNOWING = make_pipeline(Memoriser(), LogisticRegression())
STEPS = make_pipeline("passthrough", LogisticRegression())


@pytest.mark.parametrize(
    ("estimator", "embed"),
    [
        (FrozenEstimator(LogisticRegression()), Memoriser()),
        (make_pipeline(StandardScaler(), KNOWING), None),
        (make_pipeline(StandardScaler(), GridSearchCV(KNOWING, {}, cv=2)), None),
        (GridSearchCV(STEPS, {"passthrough": [Memoriser()]}, cv=2), None),
        (OtherSearch(KNOWING), None),
    ],
    ids=["frozen model", "pipeline within", "search within", "step of a search", "other search"],
)
def test_embedding_that_knows_its_rows_is_found_within(estimator, embed):
    rng = np.random.default_rng(0)
    rows, y = rng.normal(size=(300, 3)), rng.integers(0, 2, 300)
    if isinstance(estimator, FrozenEstimator):
        estimator = FrozenEstimator(LogisticRegression().fit(rows, y))
    fast = {"k": [4], "sigma": [1.0]}
    model = ResMemClassifier(estimator, embed, tune=fast).fit(rows, y)
    assert not model.tuned_.useful
    assert model.tuned_.rows == 120
    assert model.memory_.preprocess == "none"


def test_use_of_targets_is_told_without_chance():
    rng = np.random.default_rng(0)
    for _ in range(20):  # shuffled targets often choose the same two columns of three
        rows, y = rng.normal(size=(60, 3)), rng.integers(0, 2, 60)
        assert learns_targets(SelectKBest(k=2), LogisticRegression(), rows, y)
    rows, y = rng.normal(size=(5000, 3)), np.arange(5000) == 7  # Row 7 is not tried.
    assert learns_targets(Memoriser(), LogisticRegression(), rows, y)
    assert learns_targets(SelectKBest(k=2), LogisticRegression(), rows, y)
    assert not learns_targets(PCA(2), LogisticRegression(), rows, y)


@pytest.mark.parametrize(
    ("embed", "estimator", "learns"),
    [
        (None, LogisticRegression(), False),
        ("input", make_pipeline(SelectKBest(), LogisticRegression()), False),
        ("hidden", MLPClassifier(), True),
        ("leaves", make_pipeline(StandardScaler(), RandomForestClassifier()), True),
        ("leaves", FrozenEstimator(RandomForestClassifier().fit(X, Y)), False),
        (None, make_pipeline(StandardScaler(), LogisticRegression()), False),
        (None, make_pipeline(SelectKBest(k=2), LogisticRegression()), True),
        (None, make_pipeline("passthrough", make_pipeline(SelectKBest(k=2)), SVC()), True),
        (PCA(2), LogisticRegression(), False),
        (LinearDiscriminantAnalysis(), LogisticRegression(), True),
        (make_pipeline(PCA(2), LinearDiscriminantAnalysis()), LogisticRegression(), True),
        (LinearDiscriminantAnalysis().fit(X, Y), LogisticRegression(), False),
        (first_two, LogisticRegression(), False),
        (PCA(2, svd_solver="randomized"), LogisticRegression(), True),  # it cannot be told
        (PCA(1001), LogisticRegression(), True),  # nor here, where it fails
    ],
)
def test_embeddings_that_learn_from_targets_are_known(embed, estimator, learns):
    assert learns_targets(embed, estimator, X, Y) is learns


@pytest.mark.parametrize("place", ["memory_params", "tune"])
def test_keys_that_learn_from_targets_are_judged_by_others(place):
    settings = {"tune": dict(FEW)}
    if place == "tune":
        settings["tune"]["preprocess"] = ["nca:2"]
        settings["memory_params"] = {"preprocess": "none"}
    else:
        settings["memory_params"] = {"preprocess": "nca:2"}
    model = ResMemClassifier(LogisticRegression(), cv=3, **settings).fit(X[:90], Y[:90])
    assert model.tuned_.rows == 30


def test_groups_stay_together_and_do_not_ask_their_own():
    groups = np.arange(240) // 4
    rows, y = np.repeat(X[:60], 4, axis=0), np.repeat(Y[:60], 4)  # four copies of each
    loose = ResMemClassifier(LogisticRegression(), tune=FEW).fit(rows, y)
    model = ResMemClassifier(LogisticRegression(), tune=FEW).fit(rows, y, groups=groups)
    named = ResMemClassifier(LogisticRegression(), cv=GroupKFold(5), tune=FEW)
    named.fit(rows, y, groups=groups)
    np.testing.assert_array_equal(model.predict_proba(X), named.predict_proba(X))
    assert loose.tuned_.scores["candidate"] < model.tuned_.scores["candidate"]
    np.testing.assert_array_equal(model.memory_.get(np.arange(240)).attributes["groups"], groups)


def test_too_few_rows_switch_the_memory_off_with_a_warning():
    model = ResMemClassifier(LogisticRegression(), cv=2)
    with pytest.warns(resmem.ResmemWarning, match="tune needs 10 rows to judge by, there are 9"):
        model.fit(X[:9], Y[:9] > 0)
    assert model.tuned_ is None
    assert model.memory_.strength == 0
    assert untuned(LogisticRegression(), cv=2).fit(X[:9], Y[:9] > 0).memory_.strength == 1


# ---- weights and further arguments -------------------------------------------------------------


class Noting(LogisticRegression):
    """A model that tells what it was fitted with."""

    seen: list = []  # noqa: RUF012

    def fit(self, X, y, sample_weight=None, hint=None):
        self.seen.append((X, sample_weight, hint))
        return super().fit(X, y, sample_weight)


@pytest.mark.parametrize("pipeline", [False, True])
def test_weights_go_with_their_rows(pipeline):
    Noting.seen.clear()
    weights = np.arange(1.0, 241.0)
    base = make_pipeline(StandardScaler(), Noting()) if pipeline else Noting()
    model = untuned(base, cv=3, k=5).fit(X, Y, sample_weight=weights)
    rows = StandardScaler().fit(X).transform(X) if pipeline else X
    assert [len(part) for part, _, _ in Noting.seen] == [160, 160, 160, 240]
    for part, given, _ in Noting.seen:
        assert len(part) == len(given)
    np.testing.assert_allclose(Noting.seen[-1][0], rows)
    if not pipeline:
        for part, given, _ in Noting.seen:
            np.testing.assert_array_equal([weights[(row == X).all(1)][0] for row in part], given)
    np.testing.assert_array_equal(model.memory_.get(np.arange(240)).attributes["weights"], weights)


def test_weights_go_through_searches_over_settings():
    weights = np.arange(1.0, 241.0)
    pipe = make_pipeline(StandardScaler(), Noting())
    for base in (pipe, make_pipeline("passthrough", GridSearchCV(pipe, {}, cv=2))):
        Noting.seen.clear()
        untuned(GridSearchCV(base, {}, cv=2), cv=2).fit(X, Y, sample_weight=weights)
        assert all(given is not None for _, given, _ in Noting.seen)
    search = GridSearchCV(KNeighborsClassifier(), {"n_neighbors": [3]}, cv=2)
    with pytest.warns(resmem.ResmemWarning, match="takes no sample_weight: the memory alone"):
        untuned(search, cv=2).fit(X, Y, sample_weight=weights)


def test_further_arguments_go_to_the_model_row_by_row():
    Noting.seen.clear()
    untuned(Noting(), cv=3).fit(X, Y, hint=Y.tolist())
    for part, _, hint in Noting.seen:
        np.testing.assert_array_equal([Y[(row == X).all(axis=1)][0] for row in part], hint)
    Noting.seen.clear()
    untuned(Noting(), cv=3).fit(X, Y, hint="all")
    assert {hint for _, _, hint in Noting.seen} == {"all"}


def test_metadata_routing_says_who_gets_what():
    weights, groups = np.arange(1.0, 241.0), np.arange(240) % 7
    with sklearn.config_context(enable_metadata_routing=True):
        Noting.seen.clear()
        base = Noting().set_fit_request(sample_weight=False, hint=True)
        model = untuned(base, cv=GroupKFold(3))
        model.fit(X, Y, sample_weight=weights, groups=groups, hint="all")
        assert {(w, hint) for _, w, hint in Noting.seen} == {(None, "all")}
        assert model.memory_.get([5]).attributes["weights"] == [6.0]
        Noting.seen.clear()
        base = Noting().set_fit_request(sample_weight=True)
        model = untuned(base, cv=3).set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        cross_validate(model, X, Y, params={"sample_weight": weights}, cv=2)
        assert all(len(part) == len(given) for part, given, _ in Noting.seen)
        with pytest.raises(sklearn.exceptions.UnsetMetadataPassedError):
            untuned(Noting()).fit(X, Y, sample_weight=weights)


# ---- inputs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_tables_are_taken_and_their_names_kept(kind):
    library = pytest.importorskip(kind, reason=f"{kind} is optional")
    columns = [f"c{i}" for i in range(6)]
    table = library.DataFrame(dict(zip(columns, X.T, strict=True)))
    model = ResMemClassifier(LogisticRegression(), tune=FEW).fit(table, library.Series(NAMES))
    assert model.n_features_in_ == 6
    plain = ResMemClassifier(LogisticRegression(), tune=FEW).fit(X, NAMES)
    np.testing.assert_allclose(model.predict_proba(table), plain.predict_proba(X))
    if not hasattr(LogisticRegression().fit(table, NAMES), "feature_names_in_"):
        return  # this scikit-learn does not know names of such tables
    assert list(model.feature_names_in_) == columns
    with pytest.raises(ValueError, match="feature names"):
        model.predict(library.DataFrame(dict(zip(columns[::-1], X.T, strict=True))))


def test_sparse_rows_go_to_the_model():
    scipy = pytest.importorskip("scipy.sparse", reason="scikit-learn has it")
    base = make_pipeline(TruncatedSVD(3, random_state=0), LogisticRegression())
    for form in (scipy.csr_matrix, scipy.coo_array):
        model = untuned(base).fit(form(X), Y)
        dense = untuned(base).fit(X, Y).predict_proba(NEW)
        np.testing.assert_allclose(model.predict_proba(form(NEW)), dense)
    for embed in ("leaves", TruncatedSVD(2)):
        untuned(RandomForestClassifier(3), embed).fit(scipy.csr_matrix(X), Y).predict(NEW)
    with pytest.raises(TypeError, match=r"embed='input' gave a sparse matrix.*TruncatedSVD\(64\)"):
        untuned(LogisticRegression(), "input").fit(scipy.csr_matrix(X), Y)


def test_texts_are_rows_too():
    texts = [f"{name} {'sting' if y else 'run'}" for name, y in zip(NAMES, Y, strict=True)]
    base = make_pipeline(TfidfVectorizer(), LogisticRegression())
    with pytest.raises(TypeError, match="the steps before the last gave a sparse matrix"):
        untuned(base).fit(texts, Y)
    model = untuned(base, make_pipeline(TfidfVectorizer(), TruncatedSVD(2))).fit(texts, Y)
    assert model.score(texts, Y) == 1
    assert not hasattr(model, "n_features_in_")


# ---- as estimators -----------------------------------------------------------------------------


def test_searches_copies_and_pickles():
    model = ResMemClassifier(make_pipeline(MinMaxScaler(), LogisticRegression()), tune=False)
    grid = {"k": [1, 20], "strength": [0.0, 1.0], "estimator__logisticregression__C": [0.1, 1.0]}
    search = GridSearchCV(model, grid, cv=2).fit(X, NAMES)
    kept = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(kept.predict_proba(NEW), search.predict_proba(NEW))
    assert not hasattr(clone(kept), "memory_")
    scores = cross_validate(ResMemRegressor(Ridge(), tune=FEW), X, VALUES, cv=2)["test_score"]
    assert scores.shape == (2,)


@pytest.mark.parametrize(
    "model",
    [
        ResMemClassifier(RandomForestClassifier(3), "leaves", cv=2, tune=FEW),
        ResMemClassifier(LogisticRegression(), PCA(2), tune=FEW),
        ResMemClassifier(make_pipeline(PCA(2), LogisticRegression()), tune=FEW),
        ResMemClassifier(LogisticRegression(), first_two, tune=FEW),
    ],
    ids=["leaves", "transformer", "steps", "function"],
)
def test_fitted_model_is_pickled_whole(model):
    fitted = clone(model).fit(X, NAMES)
    kept = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(kept.predict_proba(NEW), fitted.predict_proba(NEW))
    assert kept.tuned_.best == fitted.tuned_.best


def test_html_shows_the_model_within():
    model = ResMemClassifier(make_pipeline(StandardScaler(), LogisticRegression()))
    assert repr(model).startswith("ResMemClassifier(estimator=Pipeline(")
    for shown in (model, clone(model).set_params(tune=FEW).fit(X, Y)):
        page = shown._repr_html_()
        assert "StandardScaler" in page
        assert "LogisticRegression" in page


def test_tags_are_those_of_the_model_but_for_distances():
    assert not get_tags(ResMemClassifier(LogisticRegression())).input_tags.sparse
    assert get_tags(ResMemClassifier(LogisticRegression(), PCA(2))).input_tags.sparse
    boosting = HistGradientBoostingClassifier()
    assert not get_tags(ResMemClassifier(boosting)).input_tags.allow_nan
    assert get_tags(ResMemClassifier(boosting, "leaves")).input_tags.allow_nan
    assert get_tags(ResMemRegressor(Ridge())).target_tags.multi_output


def test_model_that_is_trained_stays_as_it_is():
    known = LogisticRegression().fit(X[:80], NAMES[:80])
    model = untuned(FrozenEstimator(known)).fit(X[80:], NAMES[80:])
    np.testing.assert_array_equal(model.collect(NEW)[1], known.predict_log_proba(NEW))
    outputs = model.memory_.get(np.arange(160)).outputs
    np.testing.assert_allclose(outputs, known.predict_log_proba(X[80:]), rtol=1e-6)


def test_digits_are_corrected():
    rows, y = load_digits(return_X_y=True)
    base = make_pipeline(MinMaxScaler(), LogisticRegression(max_iter=500))
    model = ResMemClassifier(base, tune={"k": [8, 32]}).fit(rows[:900], y[:900])
    assert model.score(rows[900:], y[900:]) > model.estimator_.score(rows[900:], y[900:]) + 0.02


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ResMemClassifier(Ridge()), "needs a classifier, got Ridge(); use ResMemRegressor"),
        (ResMemRegressor(SVC()), "needs a regressor, got SVC(); use ResMemClassifier"),
        (ResMemClassifier(SVC(), "layer"), "embed must be None, one of 'input', 'hidden', "),
        (ResMemClassifier(SVC(), 5), "a function of rows or a transformer, got 5"),
        (ResMemClassifier(SVC(), tune="yes"), "tune must be True, False or a dict of arguments"),
        (untuned(LogisticRegression(), "hidden"), "embed='hidden' needs an MLPClassifier or MLP"),
        (untuned(LogisticRegression(), "leaves"), "model must be a fitted tree ensemble"),
        (untuned(LogisticRegression(), cv=ShuffleSplit(3)), "cv must put each row into one fold"),
        (
            untuned(SVC(decision_function_shape="ovo"), cv=2),
            "an SVC does with decision_function_shape='ovr'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused(model, message):
    y = np.arange(240) % 4  # of four classes there are six pairs
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        model.fit(X, y)


def test_wrong_weights_and_unfitted_models_are_refused():
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(240,\), got \(3,\)"):
        untuned(Ridge()).fit(X, VALUES, sample_weight=[1, 2, 3])
    with pytest.raises(ValueError, match="sample_weight must have a weight above zero"):
        untuned(Ridge()).fit(X, VALUES, sample_weight=np.zeros(240))
    with pytest.raises(NotFittedError):
        untuned(Ridge()).collect(X)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory_params": {"k": 3}}, "memory_params must not hold 'k': it is a parameter of its"),
        ({"memory_params": {"classes": [0]}}, "memory_params must not hold 'classes': y says them"),
        ({"tune": {"loo": False}}, "tune must not hold 'loo': fit gives it"),
        ({"tune": {"exclude_groups": "own"}}, "tune must not hold 'exclude_groups': give groups"),
        ({"embed": PCA}, "embed must be an instance, such as PCA(), got the class"),
        ({"cv": True}, "at least one train/test split"),
    ],
)
def test_settings_that_come_from_elsewhere_are_refused(settings, message):
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        ResMemClassifier(LogisticRegression(), **settings).fit(X, Y)


class Gap(KFold):
    """Folds whose neighbours are left out of training."""

    def split(self, X, y=None, groups=None):
        for train, test in super().split(X, y, groups):
            yield train[(train < test[0] - 9) | (train > test[-1] + 9)], test


def test_folds_that_leave_more_rows_out_are_refused():
    with pytest.raises(ValueError, match="cv must train on all rows but those of the fold"):
        untuned(LogisticRegression(), cv=Gap(3)).fit(X, Y)
    everything = [(np.arange(240), rows) for rows in np.split(np.arange(240), 3)]
    with pytest.raises(ValueError, match="cv must train on all rows but those of the fold"):
        untuned(LogisticRegression(), cv=everything).fit(X, Y)


@pytest.mark.filterwarnings("ignore:The groups parameter is ignored")
@pytest.mark.parametrize("cv", [None, KFold(3, shuffle=True), StratifiedKFold(3)])
@pytest.mark.parametrize("embed", ["input", "leaves"])
def test_folds_that_cut_groups_are_refused(cv, embed):
    groups = np.array([f"g{number}" for number in np.arange(240) % 60])
    model = untuned(DecisionTreeClassifier(), embed, cv=cv)
    with pytest.raises(ValueError, match=r"cv must keep each group in one fold, group .*'g\d+'"):
        model.fit(X, Y, groups=groups)
    for whole in (3, GroupKFold(3), LeaveOneGroupOut(), StratifiedGroupKFold(3)):
        untuned(Ridge(), cv=whole).fit(X, Y.astype(float), groups=groups)


def test_number_of_folds_may_be_numpys():
    groups = np.arange(240) // 4
    models = [
        untuned(LogisticRegression(), cv=cv).fit(X, Y, groups=groups) for cv in (4, np.int64(4))
    ]
    np.testing.assert_array_equal(*(model.predict_proba(NEW) for model in models))


def test_models_without_outputs_for_classes_are_refused():
    vote = VotingClassifier([("one", LogisticRegression()), ("other", SVC())])
    with pytest.raises(TypeError, match=r"must have predict_proba or decision_function.*Voting"):
        untuned(vote).fit(X, Y)
    models = [("one", LogisticRegression()), ("other", GaussianNB())]
    untuned(VotingClassifier(models, voting="soft")).fit(X, Y).predict(NEW)


@pytest.mark.parametrize("gap", [np.nan, "a word"])
def test_rows_that_are_no_numbers_are_refused_as_embeddings(gap):
    library = pytest.importorskip("pandas", reason="pandas is optional")
    table = library.DataFrame({"number": X[:, 0], "other": X[:, 1].astype(object)})
    table.loc[3, "other"] = gap
    table["other"] = table["other"].astype(str if gap == "a word" else float)
    if gap == "a word":
        table["other"] = table["other"].str[:2].astype("category")
    base = HistGradientBoostingClassifier(max_iter=2, categorical_features="from_dtype")
    with pytest.raises(ValueError, match=r"give as embed 'leaves' \(forests and boosting\)"):
        untuned(base, cv=2).fit(table, Y)
    untuned(base, "leaves", cv=2).fit(table, Y).predict(table)


def test_model_whose_fit_failed_is_not_fitted():
    model = untuned(make_pipeline(StandardScaler(), TfidfVectorizer(), LogisticRegression()))
    with pytest.raises(AttributeError):
        model.fit(X, Y)
    with pytest.raises(NotFittedError):
        model.predict(X)


@pytest.mark.parametrize("module", [models, neighbours], ids=lambda module: module.__name__)
def test_examples_of_docstrings_run(module):
    found = doctest.testmod(module)
    assert found.attempted >= 8
    assert found.failed == 0


# ---- without scikit-learn ----------------------------------------------------------------------


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_adapter_is_imported_when_it_is_first_used():
    code = (
        "import sys, resmem\n"
        "assert 'sklearn' not in sys.modules and not hasattr(resmem, 'keras')\n"
        "print(resmem.sklearn.ResMemClassifier.__name__, 'sklearn' in sys.modules)"
    )
    assert python(code) == "ResMemClassifier True\n"


def test_missing_library_is_named_with_its_extra():
    code = (
        "import sys\n"
        "sys.modules['sklearn'] = None\n"
        "import resmem\n"
        "try:\n"
        "    resmem.sklearn\n"
        "except ImportError as error:\n"
        "    print(error)"
    )
    assert "pip install 'residual-memory[sklearn]'" in python(code)
