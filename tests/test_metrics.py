"""Scores against their definitions, written out value by value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resmem._base.arrays import quantiles
from resmem._scores.intervals import estimate_of, expected_of, paired_interval
from resmem._scores.metrics import error_of, gains_of, reliability, score_named

NAMES = {
    "classification": ["log_loss", "accuracy", "brier", "calibration_error"],
    "regression": ["rmse", "mae", "r2"],
}


@st.composite
def classified(draw):
    """Draw probabilities, with ties, zeros and ones among them, and classes."""
    rows, classes = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    parts = st.lists(st.integers(0, 5), min_size=classes, max_size=classes).filter(any)
    counts = np.array([draw(parts) for _ in range(rows)], dtype=np.float64)
    labels = [draw(st.integers(0, classes - 1)) for _ in range(rows)]
    return counts / counts.sum(axis=1, keepdims=True), np.array(labels)


def reference(name, chances, labels):
    """Return the scores of rows and the whole score, in plain Python."""
    table = [[float(p) for p in row] for row in chances]
    pairs = list(zip(table, labels, strict=True))
    tops = [(max(row), float(row.index(max(row)) == y)) for row, y in pairs]
    if name == "log_loss":
        rows = [-math.log(row[y]) if row[y] > 0 else math.inf for row, y in pairs]
    elif name == "accuracy":
        rows = [hit for _, hit in tops]
    elif name == "brier":
        rows = [sum((p - (c == y)) ** 2 for c, p in enumerate(row)) for row, y in pairs]
    else:
        bins = [[t for t in tops if min(int(t[0] * 15), 14) == b] for b in range(15)]
        gaps = [abs(sum(h for _, h in b) - sum(c for c, _ in b)) for b in bins]
        return None, sum(gaps) / len(tops)
    return rows, sum(rows) / len(rows)


@pytest.mark.parametrize("name", NAMES["classification"])
@settings(max_examples=settings().max_examples // 4)
@given(case=classified())
def test_scores_of_probabilities_are_their_definitions(name, case):
    score = score_named(name, "classification")
    rows, whole = reference(name, *case)
    assert score.whole(*case) == pytest.approx(whole, rel=1e-12, abs=1e-12)
    assert score.greater_is_better == (name == "accuracy")
    if rows is None:
        assert score.rows is None
    else:
        np.testing.assert_allclose(score.rows(*case), rows, rtol=1e-12)


@st.composite
def measured(draw):
    """Draw predictions and targets, (n,) or (n, C); some columns may be constant."""
    rows, columns = draw(st.integers(1, 10)), draw(st.integers(0, 3))
    value = st.integers(-3, 3).map(lambda v: v / 10)
    values = [draw(value) for _ in range(2 * rows * max(1, columns))]
    return np.array(values).reshape((2, rows, columns) if columns else (2, rows))


@settings(max_examples=settings().max_examples // 4)
@given(case=measured())
def test_scores_of_values_are_their_definitions(case):
    predictions, targets = case.reshape(2, case.shape[1], -1)
    pairs = list(zip(predictions.ravel().tolist(), targets.ravel().tolist(), strict=True))
    squares = sum((p - t) ** 2 for p, t in pairs)
    rmse, mae, r2 = (score_named(name, "regression") for name in NAMES["regression"])
    assert rmse.whole(*case) == pytest.approx(math.sqrt(squares / len(pairs)))
    assert mae.whole(*case) == pytest.approx(sum(abs(p - t) for p, t in pairs) / len(pairs))
    assert mae.rows(*case).mean() == pytest.approx(mae.whole(*case))
    assert mae.rows(*case).shape == (len(predictions),)
    assert rmse.rows is r2.rows is None
    varies = [column for column in targets.T.tolist() if len(set(column)) > 1]
    if varies:
        total = sum((t - sum(column) / len(column)) ** 2 for column in varies for t in column)
        assert r2.whole(*case) == pytest.approx(1 - squares / total)
    else:
        assert r2.whole(*case) == (1.0 if squares == 0 else -math.inf)


def test_scores_of_small_cases_match_hand_calculation():
    chances, labels = np.array([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]]), np.array([0, 1, 1])
    scores = {
        n: score_named(n, "classification").whole(chances, labels) for n in NAMES["classification"]
    }
    assert scores["log_loss"] == pytest.approx(-math.log(0.5 * 0.8 * 0.1) / 3)
    assert scores["accuracy"] == pytest.approx(2 / 3)  # the first of equal classes is chosen
    assert scores["brier"] == pytest.approx((0.5 + 0.08 + 1.62) / 3)
    assert scores["calibration_error"] == pytest.approx((0.5 + 0.2 + 0.9) / 3)
    values, targets = np.array([[1.0, 0.0], [3.0, 2.0]]), np.array([[1.0, 1.0], [3.0, 5.0]])
    scores = {n: score_named(n, "regression").whole(values, targets) for n in NAMES["regression"]}
    assert scores == {
        "rmse": pytest.approx(math.sqrt(10 / 4)),
        "mae": pytest.approx(1.0),
        "r2": pytest.approx(1 - 10 / (2 + 8)),
    }


def test_r2_of_constant_targets_ignores_rounding_of_the_mean():
    score = score_named("r2", "regression")
    assert score.whole(np.full(3, 0.2), np.full(3, 0.1)) == -math.inf
    assert score.whole(np.full(3, 0.1), np.full(3, 0.1)) == 1


def test_gain_of_two_infinite_losses_is_zero():
    losses, others = np.array([1.0, np.inf, 2.0]), np.array([3.0, np.inf, np.inf])
    assert gains_of(losses, others).tolist() == [2, 0, np.inf]
    assert gains_of(others, losses).tolist() == [-2, 0, -np.inf]
    assert gains_of(losses[[0, 2]], others[[0, 2]]).tolist() == [2, 743]  # one of them is finite
    assert gains_of(others[[0, 2]], losses[[0, 2]]).tolist() == [-2, -743]
    for gains in (gains_of(losses, others), np.array([np.inf, -np.inf, 1.0])):
        interval = paired_interval(gains)
        assert (interval.low, interval.high) == (-np.inf, np.inf)


def test_log_loss_of_a_class_of_probability_0_is_infinite():
    score = score_named("log_loss", "classification")
    case = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1])
    assert score.rows(*case).tolist() == [0, math.inf]
    assert not np.signbit(score.rows(*case)[0])
    assert score.whole(*case) == math.inf


def test_reliability_bins_include_their_lower_edge():
    confidence = np.array([0.0, 0.5, 0.5, 0.74, 0.75, 1.0])
    rows, means, accuracy = reliability(confidence, np.array([0, 1, 0, 0, 1, 1.0]), 4)
    assert rows.tolist() == [1, 0, 3, 2]
    assert means[[0, 2, 3]].tolist() == pytest.approx([0, 0.58, 0.875])
    assert accuracy[[0, 2, 3]].tolist() == pytest.approx([0, 1 / 3, 1])
    assert np.isnan([means[1], accuracy[1]]).all()
    assert error_of(rows, means, accuracy) == pytest.approx((3 * (0.58 - 1 / 3) + 0.25) / 6)


def test_function_as_score_is_called():
    def worst(predictions, targets):
        return np.abs(predictions - targets).max()

    score = score_named(worst, "regression", greater_is_better=False)
    assert (score.name, score.task, score.greater_is_better) == ("worst", "regression", False)
    assert score.rows is None
    got = score.whole(np.array([1.0, 4.0]), np.array([1.0, 2.0]))
    assert type(got) is float
    assert got == 2
    for wrong, message in ((lambda p, t: math.nan, "NaN"), (lambda p, t: None, "a number")):
        with pytest.raises((TypeError, ValueError), match=message):
            score_named(wrong, "regression", False).whole([1.0], [1.0])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("rmse", "classification"), ValueError, "'log_loss'.* for classification, got 'rmse'"),
        (("brier", "regression"), ValueError, "'r2' for regression, got 'brier'"),
        (("brier", "classification", True), ValueError, "is for functions"),
        ((max, "regression"), ValueError, "must be True or False"),
        ((max, "regression", 1), ValueError, "must be True or False"),
        ((3, "regression"), TypeError, "a name or a function"),
    ],
)
def test_unknown_score_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        score_named(*arguments)


@pytest.mark.parametrize("name", NAMES["classification"])
@pytest.mark.parametrize(
    ("predictions", "targets", "message"),
    [
        ([[0.5, 0.5]], [0, 1], "one row per row of predictions"),
        ([[0.5, 0.5]], [2], "row 0 is class 2"),
        ([[0.5, 0.5]], [[1]], r"shape \(n,\)"),
        (np.empty((0, 2)), [], "must have rows"),
        ([0.5, 0.5], [0, 1], r"shape \(n, C\)"),
        ([[0.5, np.nan]], [0], "NaN"),
    ],
)
def test_predictions_of_classes_are_checked(name, predictions, targets, message):
    with pytest.raises(ValueError, match=message):
        score_named(name, "classification").whole(np.array(predictions), np.array(targets))


@pytest.mark.parametrize("name", ["log_loss", "brier", "calibration_error"])
def test_scores_of_probabilities_refuse_raw_scores(name):
    score = score_named(name, "classification")
    with pytest.raises(ValueError, match=r"row 1 holds values outside \[0, 1\]"):
        score.whole(np.array([[0.5, 0.5], [1.1, -0.1]]), np.array([0, 0]))
    score.whole(np.array([[1 + 1e-9, 0.0]]), np.array([0]))  # rounding


@pytest.mark.parametrize("name", NAMES["regression"])
def test_predictions_of_values_are_checked(name):
    score = score_named(name, "regression")
    for predictions in (np.ones(3), np.ones((2, 2)), np.array([1.0, np.inf])):
        with pytest.raises(ValueError, match=r"must have one shape|NaN or infinity"):
            score.whole(predictions, np.ones(2))
    with pytest.raises(ValueError, match="rows and columns"):
        score.whole(np.empty(0), np.empty(0))


# ---- scores taken apart into rows --------------------------------------------------------------


@pytest.mark.parametrize("name", ["log_loss", "brier", "accuracy"])
def test_gains_by_class_are_those_that_each_class_gives(name):
    rng = np.random.default_rng(3)
    one, other = rng.dirichlet(np.ones(4), (2, 30))
    score = score_named(name, "classification")
    sign = -1 if score.greater_is_better else 1
    gains = np.stack(
        [
            sign * (score.rows(other, np.full(30, c)) - score.rows(one, np.full(30, c)))
            for c in range(4)
        ],
        axis=1,
    )
    np.testing.assert_allclose(score.by_class(one, other), gains, rtol=1e-12, atol=1e-15)
    second, fourth = expected_of(gains, other)
    drawn = gains[0, rng.choice(4, 200_000, p=other[0])]
    off = drawn - drawn.mean()
    assert second[0] == pytest.approx(np.square(off).mean(), rel=0.03)
    assert fourth[0] == pytest.approx((off**4).mean(), rel=0.05)


@pytest.mark.parametrize("name", ["rmse", "r2"])
@pytest.mark.parametrize("columns", [1, 3])
def test_parts_of_smooth_scores_have_their_mean_and_error(name, columns):
    """The delta method's error is that of a jackknife over all rows, but for terms of 1 / n."""
    rng = np.random.default_rng(8)
    score, n = score_named(name, "regression"), 400
    wanted = rng.standard_normal((n, columns)) * [3, 1, 2][:columns]
    given_values = wanted + rng.standard_normal((n, columns))
    values = score.values(score.numbers(given_values, wanted), wanted)
    assert values.mean() == pytest.approx(score.whole(given_values, wanted), rel=1e-12)
    every = np.arange(n)
    without = np.array([score.whole(given_values[every != i], wanted[every != i]) for i in every])
    jackknife = math.sqrt(np.square(without - without.mean()).sum() * (n - 1) / n)
    assert estimate_of(values).error == pytest.approx(jackknife, rel=0.02)


@pytest.mark.parametrize("name", ["rmse", "r2"])
def test_scaled_differences_of_squares_are_the_gain(name):
    rng = np.random.default_rng(9)
    wanted = rng.normal([3, 0], 1, (50, 2))
    one, other = (wanted + size * rng.standard_normal((50, 2)) for size in (0.5, 1.5))
    score = score_named(name, "regression")
    numbers, others = (score.numbers(each, wanted) for each in (one, other))
    gain = score.whole(one, wanted) - score.whole(other, wanted)
    sign = 1 if score.greater_is_better else -1
    scaled = (others - numbers).mean() / score.scale(numbers, others, wanted)
    assert scaled == pytest.approx(sign * gain, rel=1e-12)


def test_parts_of_perfect_and_constant_values_are_finite():
    same = np.full(5, 2.0)
    for name, best in (("rmse", 0.0), ("r2", 1.0)):
        score = score_named(name, "regression")
        assert score.values(score.numbers(same, same), same).tolist() == [best] * 5


@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30),
    at=st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), min_size=1, max_size=4),
)
def test_quantiles_are_those_of_numpy(values, at):
    given_values = np.array(values)
    found = quantiles(given_values, at)
    np.testing.assert_allclose(found, np.quantile(given_values, at), rtol=1e-12, atol=1e-9)
    assert (found >= given_values.min()).all()
    assert (found <= given_values.max()).all()
