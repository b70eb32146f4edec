"""Outputs of models that did not see the rows they are asked about."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import resmem
from resmem._scores import out_of_fold as _out_of_fold


def others_of(X_train, y_train, X_test):
    """Return, for each row to predict, 1 in the columns of the rows trained on."""
    seen = np.zeros(40)
    seen[np.asarray(X_train).ravel().astype(int)] = 1
    return np.tile(seen, (len(X_test), 1))


class Counter:
    """A classifier in scikit-learn's form that always gives the frequencies of classes."""

    def __init__(self):
        self.trained = 0

    def fit(self, X, y, sample_weight=None, scale=1.0):
        self.trained += 1
        assert self.trained == 1
        weight = np.ones(len(y)) if sample_weight is None else sample_weight
        self.classes_ = np.unique(y)
        self.scores = scale * np.array([weight[y == c].sum() for c in self.classes_])
        return self

    def rows(self, X):
        n = X.shape[0] if hasattr(X, "shape") else len(X)
        return np.tile(self.scores, (n, 1))


class Probable(Counter):
    def predict_proba(self, X):
        return self.rows(X) / self.scores.sum()

    def decision_function(self, X):
        return np.full((X.shape[0], len(self.classes_)), 7.0)

    def predict(self, X):
        return np.full(X.shape[0], self.classes_[self.scores.argmax()])


class LogProbable(Probable):
    def predict_log_proba(self, X):
        return np.log(self.predict_proba(X)) - 0.5


class Deciding(Counter):
    def decision_function(self, X):
        rows = self.rows(X)
        return rows[:, 1] - rows[:, 0] if rows.shape[1] == 2 else rows


class Valued:
    def fit(self, X, y):
        self.mean = np.mean(y, axis=0)
        return self

    def predict(self, X):
        return np.tile(self.mean, (X.shape[0],) + (1,) * np.ndim(self.mean))


X = np.arange(40.0)[:, None]
Y = np.arange(40) % 3


@given(
    n=st.integers(2, 40), folds=st.integers(2, 9), seed=st.integers(0, 9), classes=st.integers(1, 5)
)
def test_no_row_is_predicted_by_a_model_that_saw_it(n, folds, seed, classes):
    folds = min(n, folds)
    targets = np.random.default_rng(seed).integers(0, classes, n)
    seen = resmem.out_of_fold(others_of, X[:n], targets, folds, seed)[:, :n]
    assert not seen.diagonal().any()
    assert (seen == seen.T).all()  # rows of one fold do not see one another, all others do
    apart = {tuple(row) for row in seen}
    assert len(apart) == folds
    sizes = [int(n - sum(row)) for row in apart]
    assert max(sizes) - min(sizes) <= 1
    for c in range(classes):  # classes are spread evenly over the folds
        inside = [sum(t == c and s == 0 for t, s in zip(targets, r, strict=True)) for r in apart]
        assert max(inside) - min(inside) <= 1
    assert (seen == resmem.out_of_fold(others_of, X[:n], targets, folds, seed)[:, :n]).all()


def test_split_deals_permuted_rows_to_folds_in_turn():
    """Rows in the order of a permutation, class by class, are dealt to the folds in turn."""
    order = sorted(np.random.RandomState(7).permutation(40), key=lambda row: Y[row])
    fold = [order.index(row) % 4 for row in range(40)]
    seen = resmem.out_of_fold(others_of, X, Y, 4, seed=7)
    assert (seen == np.not_equal.outer(fold, fold)).all()


def test_another_seed_is_another_split():
    splits = [resmem.out_of_fold(others_of, X, Y, 4, seed) for seed in (0, 0, 1)]
    assert (splits[0] == splits[1]).all()
    assert (splits[0] != splits[2]).any()


def test_values_are_split_without_regard_to_their_order():
    seen = resmem.out_of_fold(others_of, X, np.linspace(0, 1, 40), 4)
    runs = np.abs(np.diff(seen[0])).sum()
    assert runs > 4  # neither in one run nor every fourth row
    assert len(np.unique(np.diff(np.flatnonzero(seen[0] == 0)))) > 1


def test_groups_stay_together():
    groups = np.repeat([7, -3, 7, 11], 10)
    seen = resmem.out_of_fold(others_of, X, Y, groups)
    assert (seen == (groups[:, None] != groups)).all()


@pytest.mark.parametrize(
    ("model", "output", "expected"),
    [
        (Probable(), "auto", lambda p, counts: np.log(p)),
        (LogProbable(), "auto", lambda p, counts: np.log(p) - 0.5),
        (Deciding(), "auto", lambda p, counts: counts),
        (LogProbable(), "predict_proba", lambda p, counts: p),
        (Probable(), "decision_function", lambda p, counts: np.full_like(p, 7.0)),
    ],
)
def test_output_chooses_the_method_of_the_classifier(model, output, expected):
    groups = np.arange(40) % 5 // 4  # fold 1: every fifth row
    got = resmem.out_of_fold(model, X, Y, groups, output=output)
    for fold in (0, 1):
        counts = np.bincount(Y[groups != fold], minlength=3).astype(float)
        np.testing.assert_allclose(got[groups == fold][0], expected(counts / counts.sum(), counts))
    assert got.shape == (40, 3)
    assert model.trained == 0  # the caller's own model is left as it was


def test_decision_values_of_two_classes_become_logits():
    targets = np.repeat([0, 1], [10, 30])
    got = resmem.out_of_fold(Deciding(), X, targets, np.arange(40) % 2)
    np.testing.assert_array_equal(got, np.tile([0.0, 10.0], (40, 1)))


@pytest.mark.parametrize(
    ("output", "nothing"),
    [("auto", -np.inf), ("predict_proba", 0.0), ("decision_function", -np.inf)],
)
def test_class_missing_in_training_is_impossible_with_warning(output, nothing):
    targets = np.where(np.arange(40) < 36, np.arange(40) % 2 * 2, 1)
    with pytest.warns(UserWarning, match="fold 1: the training rows lack class 1") as warned:
        got = resmem.out_of_fold(Probable(), X, targets, np.arange(40) // 30, output=output)
    assert warned[0].filename == __file__
    assert (got[30:, 1] == nothing).all()
    assert np.isfinite(got[:30]).all()
    assert np.isfinite(got[30:, ::2]).all()
    mem = resmem.Memory(output_kind="probabilities" if output == "predict_proba" else "logits")
    mem.fit(X, got, targets)  # such outputs are legal


def test_a_class_of_probability_0_is_no_warning():
    class Sure(Probable):
        def predict_proba(self, X):
            return np.tile([0.0, 0.0, 1.0], (X.shape[0], 1))

    got = resmem.out_of_fold(Sure(), X, Y)
    np.testing.assert_array_equal(got, np.tile([-np.inf, -np.inf, 0], (40, 1)))


@pytest.mark.parametrize("shape", [(40,), (40, 2)])
def test_a_regressor_gives_values(shape):
    targets = np.random.default_rng(1).standard_normal(shape)
    halves = np.arange(40) % 2
    got = resmem.out_of_fold(Valued(), X, targets, halves)
    assert got.shape == shape
    np.testing.assert_allclose(got[halves == 0][3], targets[halves == 1].mean(axis=0))


class Sparse:
    """A minimal sparse matrix that gives rows only after conversion."""

    shape = (40, 1)

    def tocsr(self):
        return X


class Taken:
    def __init__(self, rows):
        self.rows = rows

    def __getitem__(self, which):
        return Frame(self.rows[which])


class Frame:
    """A minimal DataFrame: subscripts select columns, iloc selects rows."""

    def __init__(self, rows):
        self.rows, self.shape = rows, rows.shape

    @property
    def iloc(self):
        return Taken(self.rows)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, column):
        raise KeyError(column)

    def __array__(self, dtype=None, copy=None):
        return self.rows


@pytest.mark.parametrize("rows", [X.tolist(), tuple(X), Sparse(), Frame(X)])
def test_rows_of_many_types_are_taken(rows):
    got = resmem.out_of_fold(others_of, rows, Y, 4)
    np.testing.assert_array_equal(got, resmem.out_of_fold(others_of, X, Y, 4))


def test_arguments_of_fit_are_split_if_they_have_rows():
    weights = np.arange(40.0)
    halves = np.arange(40) // 20
    fit_params = {"sample_weight": weights, "scale": 0.5}
    got = resmem.out_of_fold(Deciding(), X, Y, halves, fit_params=fit_params)
    expected = np.bincount(Y[:20], weights[:20]) / 2
    np.testing.assert_allclose(got[20:], np.tile(expected, (20, 1)))


def test_out_of_fold_residuals_are_as_large_as_on_new_rows():
    """A model that learns its examples by heart leaves no residuals on them."""

    def by_heart(X_train, y_train, X_test):
        return y_train[np.abs(X_test - X_train.T).argmin(axis=1)]

    rng = np.random.default_rng(2)
    rows = rng.random((200, 1))
    noisy = rows[:, 0] + rng.standard_normal(200)
    inside = by_heart(rows, noisy, rows)
    outside = resmem.out_of_fold(by_heart, rows, noisy)
    assert (inside == noisy).all()
    assert np.square(outside - noisy).mean() > 1.5


def test_estimators_of_scikit_learn_are_taken():
    pytest.importorskip("sklearn")
    pandas = pytest.importorskip("pandas")
    scipy = pytest.importorskip("scipy.sparse")
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    rng = np.random.default_rng(3)
    rows = rng.standard_normal((90, 4))
    labels = rows[:, :3].argmax(axis=1)
    model = make_pipeline(StandardScaler(with_mean=False), LogisticRegression())
    got = resmem.out_of_fold(model, rows, labels)
    assert (got.argmax(axis=1) == labels).mean() > 0.8
    np.testing.assert_allclose(np.exp(got).sum(axis=1), 1)
    for same in (pandas.DataFrame(rows), scipy.csr_matrix(rows), scipy.coo_matrix(rows)):
        np.testing.assert_allclose(resmem.out_of_fold(model, same, labels), got, atol=1e-6)
    named = pandas.Series(labels, index=rng.permutation(90))
    np.testing.assert_array_equal(resmem.out_of_fold(model, rows, named), got)
    for model in (RandomForestClassifier(9, random_state=0), LinearSVC()):
        assert resmem.out_of_fold(model, rows, labels).shape == (90, 3)
    assert resmem.out_of_fold(Ridge(), rows, rows[:, 0]).shape == (90,)


Uneven = type("Uneven", (Deciding,), {"decision_function": lambda self, X: np.ones((len(X), 4))})


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (3, {}, TypeError, "an estimator with fit, or a function"),
        (Probable(), {"output": "logits"}, ValueError, "'auto' or one of predict_log_proba"),
        (Probable(), {"output": "predict_log_proba"}, ValueError, "Probable has not"),
        (Probable(), {"output": "predict"}, ValueError, "gives classes alone"),
        (Counter(), {}, ValueError, "any of predict_log_proba.* Counter has not"),
        (others_of, {"output": "predict"}, ValueError, "are for estimators"),
        (others_of, {"fit_params": {}}, ValueError, "are for estimators"),
        (Uneven(), {}, ValueError, "a column for each class"),
        (others_of, {"folds": 1}, ValueError, "folds must be at least 2"),
        (others_of, {"folds": 41}, ValueError, r"at most the number of rows \(40\)"),
        (others_of, {"folds": True}, TypeError, "folds must be an integer"),
        (others_of, {"folds": "5"}, TypeError, "folds must be an array, got str"),
        (others_of, {"folds": np.ones(40, int)}, ValueError, "at least two numbers, got 1"),
        (others_of, {"folds": np.arange(3)}, ValueError, "one row per row of targets"),
        (others_of, {"seed": -1}, ValueError, "seed must be at least 0"),
        (others_of, {"seed": None}, TypeError, "seed must be an integer"),
        (others_of, {"targets": Y[:9]}, ValueError, "X must have one row per row of targets"),
        (others_of, {"targets": Y[:1]}, ValueError, "at least two rows"),
        (others_of, {"X": {"a": X}}, TypeError, "an array, a sparse matrix"),
        (Probable(), {"targets": [*Y[:-1].tolist(), None]}, ValueError, "row 39 has no label"),
        (lambda X, y, Z: np.ones(len(Z) + 1), {}, ValueError, "fold 0: outputs must have a row"),
        (lambda X, y, Z: 1.0, {}, ValueError, r"got shape \(\)"),
        (lambda X, y, Z: np.full(len(Z), np.nan), {}, ValueError, "row .* NaN"),
        (
            lambda X, y, Z: np.ones((len(Z), int(Z[0, 0]) + 1)),
            {"folds": np.arange(40) % 2},
            ValueError,
            "every model must give the same columns",
        ),
    ],
)
def test_out_of_fold_of_wrong_input_is_refused(model, options, error, message):
    arguments = {"X": X, "targets": Y, **options}
    with pytest.raises(error, match=message):
        resmem.out_of_fold(model, **arguments)


def test_docstring_example_of_out_of_fold_is_right():
    assert doctest.testmod(_out_of_fold) == (0, 3)


def test_model_function_cannot_change_the_callers_arrays():
    X, y = np.arange(12.0).reshape(6, 2), np.arange(6.0)
    before = X.copy(), y.copy()

    def model(X_train, y_train, X_test):
        for array in (X_train, y_train, X_test):
            array[:] = -1
        return np.zeros(len(X_test))

    resmem.out_of_fold(model, X, y, folds=3)
    np.testing.assert_array_equal(X, before[0])
    np.testing.assert_array_equal(y, before[1])
