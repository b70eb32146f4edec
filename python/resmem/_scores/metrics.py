"""Scores of predictions, whole and row by row, and how sure a mean is."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from resmem._base import checks, convert
from resmem._base.arrays import F64, I64, to_numpy

BINS = 15  # of equal width, for the calibration error
# Names of parameters by which other libraries' scores call targets and what is held against them.
_TRUTH = {"y_true", "y_test", "y", "true", "truth", "labels_true", "target", "targets", "labels"}
_PREDICTED = {
    "y_pred", "y_score", "y_prob", "y_proba", "y_hat", "pred_decision", "labels_pred",
    "pred", "preds", "prediction", "predictions", "predicted", "scores", "probabilities", "probs",
}  # fmt: skip
_ROUNDING = 1e-6  # by which probabilities may leave [0, 1]
_IMPOSSIBLE = 745.0  # more than any finite log-loss: that of 2**-1074 is 744.4
_SMALLEST = float(np.finfo(np.float64).tiny)

Whole: TypeAlias = Callable[[Any, Any], float]
Rows: TypeAlias = Callable[[Any, Any], F64]


@dataclass(frozen=True)
class Score:
    """A number that says how good predictions are.

    Predictions are probabilities (n, C) for classification, values (n,) or (n, C) for
    regression; targets are as in ``Memory.fit``.
    """

    name: str
    task: str
    greater_is_better: bool
    whole: Whole  # of (predictions, targets)
    rows: Rows | None = None  # (n,) values whose mean is the score; None where it is no mean
    given: bool = False  # a function of the caller's
    worst: Rows | None = None  # of (predictions, others), (n, C) each: the least gain of the former
    # that any class would give; None where it has no bound


class Interval(NamedTuple):
    """A mean, and the interval that covers the true one with this confidence."""

    mean: float
    low: float
    high: float
    confidence: float


def score_named(score: str | Whole, task: str, greater_is_better: bool | None = None) -> Score:
    """The score of this name, or one that a function ``f(predictions, targets)`` gives.

    Classification: "log_loss" (natural logarithm), "accuracy" (the first of equal classes),
    "brier" (squared differences, summed over classes), "calibration_error" (of the top class, 15
    bins of equal width). Regression: "rmse" and "mae" (over all values), "r2".

    ``greater_is_better`` must be given for a function, and for it alone.
    """
    if isinstance(score, str):
        known = {s.name: s for s in _SCORES if s.task == task}
        if score not in known:
            names = ", ".join(map(repr, known))
            raise ValueError(f"score must be one of {names} for {task}, got {score!r}")
        if greater_is_better not in (None, known[score].greater_is_better):
            raise ValueError(
                f"greater_is_better is for functions; of {score!r} it is "
                f"{known[score].greater_is_better}"
            )
        return known[score]
    if not callable(score):
        raise TypeError(
            "score must be a name or a function f(predictions, targets) -> float, "
            f"got {type(score).__name__}"
        )
    if not isinstance(greater_is_better, bool):
        raise ValueError(
            "greater_is_better must be True or False where score is a function, "
            f"got {greater_is_better!r}"
        )
    name = str(getattr(score, "__name__", type(score).__name__))
    _check_order(score, name)
    return Score(name, task, greater_is_better, _checked(score, name), given=True)


def _check_order(score: Whole, name: str) -> None:
    """Refuse a function whose parameters say that it takes its arguments in another order."""
    try:
        first, second = [p.lower() for p in inspect.signature(score).parameters][:2]
    except (TypeError, ValueError):  # it does not say
        return
    if (first, second) == ("estimator", "x"):
        raise TypeError(
            f"score must be a function f(predictions, targets), got the scorer {name}, which takes "
            "an estimator; of the function f that it was made of, pass "
            "lambda predictions, targets: f(targets, predictions)"
        )
    if first in _TRUTH and second in _PREDICTED:
        raise TypeError(
            f"score must take (predictions, targets), {name} takes ({first}, {second}); pass "
            f"lambda predictions, targets: {name}(targets, predictions), and where {name} wants "
            "classes, not probabilities, predictions.argmax(axis=1)"
        )


def paired_interval(gains: Any, confidence: float = 0.95, worst: float | None = None) -> Interval:
    """The mean of gains (n,), and its interval by normal theory.

    The gains, such as differences of losses of the same rows, are taken as independent draws:
    mean +- z * s / sqrt(n), with the sample's standard deviation ``s``. Rows that are alike or
    come in groups make the interval too narrow, and so do losses too rare to be among them: with
    ``worst``, one more row is taken to have gained that. Of less than two gains, or of infinite
    ones, no spread is known: the interval is infinite. The mean of none is NaN.
    """
    confidence = checked_confidence(confidence)
    array = np.asarray(gains, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"gains must have shape (n,), got {array.shape}")
    n = len(array)
    with np.errstate(invalid="ignore"):
        mean = float(array.mean()) if n else math.nan
    if n < 2 or not math.isfinite(mean):
        return Interval(mean, -math.inf, math.inf, confidence)
    if worst is not None:
        array, n = np.append(array, min(worst, mean)), n + 1
    z = normal_quantile(confidence)
    middle, half = float(array.mean()), z * float(array.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, middle - half, middle + half, confidence)


def checked_confidence(confidence: Any) -> float:
    """A number between 0 and 1."""
    checked = checks.number(confidence, "confidence")
    if not 0 < checked < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence!r}")
    return checked


def normal_quantile(confidence: float) -> float:
    """The ``z`` for which a standard normal draw lies in [-z, z] with this probability.

    It is taken from the lower tail: 1 - confidence is exact near 1, where 0.5 + confidence / 2
    would be rounded to 1 and have no quantile.
    """
    return 0.0 - NormalDist().inv_cdf((1 - confidence) / 2)


# -------------------------------------------------------------------- classification


def log_losses(predictions: Any, targets: Any) -> F64:
    """Of each row ``-log p`` of its class; infinite where that has probability 0."""
    chances, labels = _classified(predictions, targets)
    return losses_of(chances[np.arange(len(labels)), labels])


def losses_of(chances: F64) -> F64:
    """``-log p`` of the probabilities of the true classes; infinite at 0."""
    with np.errstate(divide="ignore"):
        losses: F64 = -np.log(chances) + 0.0  # of 1: not -0
    return losses


def hits(predictions: Any, targets: Any) -> F64:
    """1 where the class of a row has the first largest prediction, else 0."""
    values = convert.float64(predictions, "predictions", "(n, C)")
    labels = _labels(targets, values)
    right: F64 = (values.argmax(axis=1) == labels).astype(np.float64)
    return right


def brier_scores(predictions: Any, targets: Any) -> F64:
    """Of each row the squared differences from its class, summed over classes: 0 to 2."""
    chances, labels = _classified(predictions, targets)
    differences = chances.copy()
    differences[np.arange(len(labels)), labels] -= 1
    scores: F64 = np.square(differences).sum(axis=1)
    return scores


def gains_of(losses: F64, others: F64) -> F64:
    """By how much the losses are below the others, row by row.

    What both call impossible, with infinite log-losses, is no gain of either. Where one of the two
    never does, what the other calls so counts as 745, just above all log-losses that are finite:
    its sum is infinitely worse, and the gain has a size and a spread. Where both do, of different
    rows, both sums are infinite: these gains and losses are, and nothing is said by their mean.
    """
    impossible = np.isinf(others), np.isinf(losses)
    if all(each.any() for each in impossible):
        with np.errstate(invalid="ignore"):  # infinity less infinity
            return np.where(impossible[0] & impossible[1], 0.0, others - losses)
    before, after = (np.where(np.isinf(x), _IMPOSSIBLE, x) for x in (others, losses))
    gains: F64 = before - after
    return gains


def worst_log_loss(predictions: F64, others: F64) -> F64:
    """Of each row the least ``log p - log p'`` of any class, none taken as below 2**-1022."""
    ratios = np.maximum(predictions, _SMALLEST) / np.maximum(others, _SMALLEST)
    least: F64 = np.log(ratios.min(axis=1))
    return least


def worst_hit(predictions: F64, others: F64) -> F64:
    """-1 where the first largest differs: the other may be right."""
    least: F64 = np.where(predictions.argmax(axis=1) != others.argmax(axis=1), -1.0, 0.0)
    return least


def worst_brier(predictions: F64, others: F64) -> F64:
    """Of each row the least fall of the Brier score that any class would give."""
    squares = np.square(others).sum(axis=1) - np.square(predictions).sum(axis=1)
    least: F64 = squares + 2 * (predictions - others).min(axis=1)
    return least


def calibration_error(predictions: Any, targets: Any) -> float:
    """The expected calibration error of the top class over 15 bins of equal width."""
    chances, _ = _classified(predictions, targets)
    return error_of(*reliability(chances.max(axis=1), hits(predictions, targets)))


def reliability(
    confidence: F64, correct: npt.NDArray[Any], bins: int = BINS
) -> tuple[I64, F64, F64]:
    """Of each bin of confidence: its rows, their mean confidence and accuracy; NaN if empty.

    Bin ``b`` holds the confidences ``c`` with ``min(int(c * bins), bins - 1) = b``.
    """
    numbers = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    rows = np.bincount(numbers, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = np.bincount(numbers, confidence, bins) / rows
        accuracy = np.bincount(numbers, correct, bins) / rows
    return rows, means, accuracy


def error_of(rows: I64, confidence: F64, accuracy: F64) -> float:
    """The expected calibration error of bins: the mean over rows of |accuracy - confidence|."""
    there = rows > 0
    return float(np.average(np.abs(accuracy - confidence)[there], weights=rows[there]))


# -------------------------------------------------------------------- regression


def rmse(predictions: Any, targets: Any) -> float:
    """The root of the mean squared error of all values."""
    return math.sqrt(float(np.square(_errors(predictions, targets)).mean()))


def absolute_errors(predictions: Any, targets: Any) -> F64:
    """Of each row the mean of |error| over its columns."""
    errors: F64 = np.abs(_errors(predictions, targets)).mean(axis=1)
    return errors


def r2(predictions: Any, targets: Any) -> float:
    """1 - SS_res / SS_tot, sums over all columns, totals about each column's mean.

    So columns weigh by their variance. Where targets do not vary it is 1 for perfect predictions
    and else -inf, its limit.
    """
    errors = _errors(predictions, targets)
    wanted = _values(targets, "targets")
    wanted = wanted - wanted[0]  # a constant column is exactly 0
    total = float(np.square(wanted - wanted.mean(axis=0)).sum())
    return explained(float(np.square(errors).sum()), total)


def explained(left: float, total: float) -> float:
    """``r2`` of these sums of squares."""
    if total == 0:
        return 1.0 if left == 0 else -math.inf
    return 1 - left / total


# -------------------------------------------------------------------- inside


def _classified(predictions: Any, targets: Any) -> tuple[F64, I64]:
    """Probabilities (n, C) and classes (n,), checked."""
    chances = convert.float64(predictions, "predictions", "(n, C)")
    labels = _labels(targets, chances)
    if not (chances.min() >= 0 and chances.max() <= 1 + _ROUNDING):
        wrong = ((chances < 0) | (chances > 1 + _ROUNDING)).any(axis=1)
        raise ValueError(
            f"predictions: row {int(np.argmax(wrong))} holds values outside [0, 1]; "
            "this score needs probabilities"
        )
    return chances, labels


def _labels(targets: Any, predictions: F64) -> I64:
    if predictions.size == 0:
        raise ValueError(f"predictions must have rows and columns, got shape {predictions.shape}")
    labels = convert.labels(targets, predictions.shape[1])
    checks.same_length("targets", len(labels), "predictions", len(predictions))
    return labels


def _values(values: Any, name: str) -> F64:
    """Values (n,) or (n, C) as (n, C)."""
    flat = to_numpy(values, name).ndim == 1
    array = convert.float64(values, name, "(n,)" if flat else "(n, C)")
    return array[:, None] if flat else array


def _errors(predictions: Any, targets: Any) -> F64:
    values, wanted = _values(predictions, "predictions"), _values(targets, "targets")
    if values.shape != wanted.shape or values.size == 0:
        raise ValueError(
            f"predictions {values.shape} and targets {wanted.shape} must have one shape, "
            "with rows and columns"
        )
    return values - wanted


def _mean_of(rows: Rows) -> Whole:
    return lambda predictions, targets: float(rows(predictions, targets).mean())


def _read_only(array: npt.ArrayLike) -> npt.NDArray[Any]:
    """A view that cannot be written to."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


def _checked(function: Whole, name: str) -> Whole:
    """The function, whose results must be numbers that can be compared.

    It sees read-only views: the targets are the caller's own array, and predictions are scored
    more than once.
    """

    def whole(predictions: npt.NDArray[Any], targets: npt.NDArray[Any]) -> float:
        scored = function(_read_only(predictions), _read_only(targets))
        value = checks.number(scored, f"the score {name}")
        if math.isnan(value):
            raise ValueError(f"the score {name} must be a number, got NaN")
        return value

    return whole


_SCORES = (
    Score(
        "log_loss", "classification", False, _mean_of(log_losses), log_losses, worst=worst_log_loss
    ),
    Score("accuracy", "classification", True, _mean_of(hits), hits, worst=worst_hit),
    Score(
        "brier", "classification", False, _mean_of(brier_scores), brier_scores, worst=worst_brier
    ),
    Score("calibration_error", "classification", False, calibration_error),
    Score("rmse", "regression", False, rmse),
    Score("mae", "regression", False, _mean_of(absolute_errors), absolute_errors),
    Score("r2", "regression", True, r2),
)
