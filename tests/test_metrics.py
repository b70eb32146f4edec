"""Scores against their definitions, written out value by value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resmem._base.arrays import quantiles
from resmem._scores.metrics import (
    Interval,
    error_of,
    gains_of,
    normal_quantile,
    paired_interval,
    reliability,
    score_named,
)

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


def test_paired_interval_is_the_normal_interval_of_a_mean():
    interval = paired_interval([1.0, 2.0, 3.0, 6.0])
    half = 1.959963984540054 * math.sqrt(14 / 3) / 2
    assert interval == pytest.approx((3.0, 3 - half, 3 + half, 0.95))
    assert paired_interval(np.array([2.0, 2.0])) == Interval(2.0, 2.0, 2.0, 0.95)
    narrow = paired_interval([1.0, 2.0, 3.0, 6.0], confidence=0.5)
    assert interval.low < narrow.low < narrow.mean < narrow.high < interval.high


def test_interval_of_few_or_infinite_gains_is_infinite():
    assert math.isnan(paired_interval([]).mean)
    assert paired_interval([])[1:] == (-math.inf, math.inf, 0.95)
    assert paired_interval([3.0]) == Interval(3.0, -math.inf, math.inf, 0.95)
    assert paired_interval([3.0, math.inf]) == Interval(math.inf, -math.inf, math.inf, 0.95)
    assert math.isnan(paired_interval([-math.inf, math.inf]).mean)


def test_interval_covers_the_mean_as_often_as_stated():
    rng = np.random.default_rng(4)
    intervals = [paired_interval(rng.exponential(size=200), 0.9) for _ in range(1000)]
    assert 0.87 < np.mean([i.low <= 1 <= i.high for i in intervals]) < 0.93


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


@pytest.mark.parametrize("confidence", [0, 1, 95, math.nan])
def test_confidence_outside_0_and_1_is_refused(confidence):
    with pytest.raises(ValueError, match="between 0 and 1"):
        paired_interval([1.0, 2.0], confidence)


@pytest.mark.parametrize("confidence", [1 - 1e-16, 1 - 2**-53, np.float64(1 - 2**-52)])
def test_a_confidence_next_to_1_has_an_interval(confidence):
    """The tail beyond 1 - 2^-53 is 2^-54, whose quantile is -8.2924 (by mpmath)."""
    _, low, high, kept = paired_interval([1.0, 2.0, 4.0], confidence)
    z = 8.29236107581 if confidence == 1 - 2**-53 else 8.20953615160
    half = z * np.std([1.0, 2.0, 4.0], ddof=1) / math.sqrt(3)
    np.testing.assert_allclose([low, high], [7 / 3 - half, 7 / 3 + half], rtol=1e-10)
    assert kept == confidence


@pytest.mark.parametrize("confidence", [5e-324, 1e-300, 2**-60, 1e-12])
def test_a_confidence_next_to_0_has_an_interval(confidence):
    mean, low, high, _ = paired_interval([1.0, 2.0, 4.0], confidence)
    assert 0 <= high - mean < 1e-11
    assert math.copysign(1, normal_quantile(confidence)) == 1
    np.testing.assert_allclose(mean - low, high - mean, atol=1e-15)


def test_gains_of_two_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"shape \(n,\)"):
        paired_interval(np.ones((2, 2)))


# ---- losses too rare to be among the rows ------------------------------------------------------


def test_a_worst_gain_counts_as_one_more_row():
    gains = np.linspace(-0.1, 0.3, 20)
    plain, careful = paired_interval(gains), paired_interval(gains, worst=-4.0)
    wanted = paired_interval(np.append(gains, -4.0))
    assert careful == (plain.mean, wanted.low, wanted.high, 0.95)
    assert careful.low < 0 < plain.low
    assert paired_interval(gains, worst=9.0).high <= plain.high  # better than the mean is no worst


@pytest.mark.parametrize("name", ["log_loss", "brier", "accuracy"])
def test_worst_gains_are_those_of_the_worst_class(name):
    rng = np.random.default_rng(3)
    one, other = rng.dirichlet(np.ones(4), (2, 30))
    score = score_named(name, "classification")
    sign = -1 if score.greater_is_better else 1
    gains = np.stack(
        [
            sign * (score.rows(other, np.full(30, c)) - score.rows(one, np.full(30, c)))
            for c in range(4)
        ]
    )
    np.testing.assert_allclose(score.worst(one, other), gains.min(axis=0), rtol=1e-12, atol=1e-15)


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
