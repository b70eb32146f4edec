"""Scores of predictions, over all rows and row by row."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from resmem._base import checks, convert
from resmem._base.arrays import F64, I64, to_numpy

BINS = 15  # bins of equal width for the calibration error
# The names that other libraries' scores give to the parameters for targets and for predictions.
_TRUTH = {"y_true", "y_test", "y", "true", "truth", "labels_true", "target", "targets", "labels"}
_PREDICTED = {
    "y_pred", "y_score", "y_prob", "y_proba", "y_hat", "pred_decision", "labels_pred",
    "pred", "preds", "prediction", "predictions", "predicted", "scores", "probabilities", "probs",
}  # fmt: skip
_ROUNDING = 1e-6  # how far probabilities may exceed 1
_IMPOSSIBLE = (
    745.0  # stands for an infinite log-loss; the largest finite one, of 2**-1074, is 744.4
)
_SMALLEST = float(np.finfo(np.float64).tiny)

ScoreFunction: TypeAlias = Callable[[Any, Any], float]
RowFunction: TypeAlias = Callable[[Any, Any], F64]


@dataclass(frozen=True)
class Score:
    """A number that says how good predictions are.

    Predictions are probabilities (n, C) for classification, values (n,) or (n, C) for
    regression; targets are as in ``Memory.fit``.
    """

    name: str
    task: str
    greater_is_better: bool
    whole: ScoreFunction  # the score from (predictions, targets)
    rows: RowFunction | None = None  # (n,) values whose mean is the score; None if it is no mean
    custom: bool = False  # whether the function is the caller's
    # From (predictions, others), (n, C) each: the gains (n, C) of the predictions over the others
    # that each class would give; None where rows have no class, or the score is no mean.
    by_class: RowFunction | None = None
    # Of a score that is a smooth function of means over rows: what (n,) it needs of each row, and
    # the values (n,), made of these and the targets, whose mean is the score and whose spread over
    # rows is that of the score (to first order, by the delta method).
    parts: RowFunction | None = None
    linear: RowFunction | None = None
    # From (numbers, others, targets): what the mean of ``others - numbers`` is divided by to give
    # the gain, exactly.
    scale: Callable[[F64, F64, Any], float] | None = None

    @property
    def by_row(self) -> bool:
        """Whether the score is made of numbers of single rows."""
        return self.rows is not None or self.parts is not None

    def numbers(self, predictions: Any, targets: Any) -> F64:
        """Return the number of each row of which ``values`` makes the score."""
        found = self.rows or self.parts
        assert found is not None
        return found(predictions, targets)

    def values(self, numbers: F64, targets: Any) -> F64:
        """Return values (n,) with the mean and the spread of the score from the rows' numbers."""
        return numbers if self.linear is None else self.linear(numbers, targets)


def score_named(
    score: str | ScoreFunction, task: str, greater_is_better: bool | None = None
) -> Score:
    """Return the score of this name, or one made of a function ``f(predictions, targets)``.

    Classification: "log_loss" (natural logarithm), "accuracy" (the first of equal classes),
    "brier" (squared differences, summed over classes), "calibration_error" (of the top class, 15
    bins of equal width). Regression: "rmse" and "mae" (over all values), "r2".

    ``greater_is_better`` must be given for a function; for a name it is known.
    """
    if isinstance(score, str):
        known = {s.name: s for s in _SCORES if s.task == task}
        if score not in known:
            names = ", ".join(map(repr, known))
            raise ValueError(f"score must be one of {names} for {task}, got {score!r}")
        if greater_is_better not in (None, known[score].greater_is_better):
            raise ValueError(
                f"greater_is_better is for functions; for {score!r} it is "
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
    return Score(name, task, greater_is_better, _checked(score, name), custom=True)


def _check_order(score: ScoreFunction, name: str) -> None:
    """Refuse a function whose parameters are named as if it took targets first."""
    try:
        first, second = [p.lower() for p in inspect.signature(score).parameters][:2]
    except (TypeError, ValueError):  # the parameters are unknown
        return
    if (first, second) == ("estimator", "x"):
        raise TypeError(
            f"score must be a function f(predictions, targets), got the scorer {name}, which takes "
            "an estimator; for the function f that it was made of, pass "
            "lambda predictions, targets: f(targets, predictions)"
        )
    if first in _TRUTH and second in _PREDICTED:
        raise TypeError(
            f"score must take (predictions, targets), {name} takes ({first}, {second}); pass "
            f"lambda predictions, targets: {name}(targets, predictions), and where {name} wants "
            "classes, not probabilities, predictions.argmax(axis=1)"
        )


# -------------------------------------------------------------------- classification


def log_losses(predictions: Any, targets: Any) -> F64:
    """Return ``-log p`` of each row's class; infinite where its probability is 0."""
    chances, labels = _checked_classification(predictions, targets)
    return losses_of(chances[np.arange(len(labels)), labels])


def losses_of(chances: F64) -> F64:
    """Return ``-log p`` of the probabilities of the true classes; infinite at 0."""
    with np.errstate(divide="ignore"):
        losses: F64 = -np.log(chances) + 0.0  # + 0.0 turns the -0.0 of a probability of 1 into 0.0
    return losses


def hits(predictions: Any, targets: Any) -> F64:
    """Return 1.0 for each row whose class has the (first) largest prediction, else 0.0."""
    values = convert.float64(predictions, "predictions", "(n, C)")
    labels = _labels(targets, values)
    correct: F64 = (values.argmax(axis=1) == labels).astype(np.float64)
    return correct


def brier_scores(predictions: Any, targets: Any) -> F64:
    """Return each row's squared differences from its class, summed over classes: 0 to 2."""
    chances, labels = _checked_classification(predictions, targets)
    differences = chances.copy()
    differences[np.arange(len(labels)), labels] -= 1
    scores: F64 = np.square(differences).sum(axis=1)
    return scores


def gains_of(losses: F64, others: F64) -> F64:
    """Return by how much each row's loss is below the other loss.

    A row whose class both call impossible (an infinite log-loss) is no gain of either. If only one
    of the two has infinite losses, each counts as 745, just above every finite log-loss: so the
    gains have a size and a spread, although that sum is infinitely worse. If both have, in
    different rows, these gains are infinite, and their mean says nothing.
    """
    impossible = np.isinf(others), np.isinf(losses)
    if all(each.any() for each in impossible):
        with np.errstate(invalid="ignore"):  # infinity less infinity
            return np.where(impossible[0] & impossible[1], 0.0, others - losses)
    before, after = (np.where(np.isinf(x), _IMPOSSIBLE, x) for x in (others, losses))
    gains: F64 = before - after
    return gains


def log_loss_by_class(predictions: F64, others: F64) -> F64:
    """Return the gain in log-loss that each class would give, with chances of at least 2**-1022."""
    one, other = (np.log(np.maximum(chances, _SMALLEST)) for chances in (predictions, others))
    gains: F64 = one - other
    return gains


def hit_by_class(predictions: F64, others: F64) -> F64:
    """Return the gain in accuracy that each class would give."""
    classes = np.arange(predictions.shape[1])
    one, other = (each.argmax(axis=1)[:, None] == classes for each in (predictions, others))
    gains: F64 = one.astype(np.float64) - other
    return gains


def brier_by_class(predictions: F64, others: F64) -> F64:
    """Return the gain in Brier score that each class would give."""
    squares = np.square(others).sum(axis=1) - np.square(predictions).sum(axis=1)
    gains: F64 = squares[:, None] + 2 * (predictions - others)
    return gains


def calibration_error(predictions: Any, targets: Any) -> float:
    """Return the expected calibration error of the top class over 15 bins of equal width."""
    chances, _ = _checked_classification(predictions, targets)
    return error_of(*reliability(chances.max(axis=1), hits(predictions, targets)))


def reliability(
    confidence: F64, correct: npt.NDArray[Any], bins: int = BINS
) -> tuple[I64, F64, F64]:
    """Return each bin's number of rows, mean confidence and accuracy; NaN if it is empty.

    Bin ``b`` holds the confidences ``c`` with ``min(int(c * bins), bins - 1) = b``.
    """
    numbers = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    rows = np.bincount(numbers, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = np.bincount(numbers, confidence, bins) / rows
        accuracy = np.bincount(numbers, correct, bins) / rows
    return rows, means, accuracy


def error_of(rows: I64, confidence: F64, accuracy: F64) -> float:
    """Return the expected calibration error: the mean over rows of |accuracy - confidence|."""
    filled = rows > 0
    return float(np.average(np.abs(accuracy - confidence)[filled], weights=rows[filled]))


# -------------------------------------------------------------------- regression


def rmse(predictions: Any, targets: Any) -> float:
    """Return the root of the mean squared error of all values."""
    return math.sqrt(float(np.square(_errors(predictions, targets)).mean()))


def squared_errors(predictions: Any, targets: Any) -> F64:
    """Return each row's mean of squared errors over its columns."""
    errors: F64 = np.square(_errors(predictions, targets)).mean(axis=1)
    return errors


def linear_rmse(squares: F64, targets: Any) -> F64:
    """Return values (n,) whose mean is the root of the mean of ``squares`` (n,)."""
    root = math.sqrt(float(squares.mean()))
    return squares if root == 0 else root + (squares - root * root) / (2 * root)


def scale_of_rmse(squares: F64, others: F64, _: Any) -> float:
    """Return the sum of both roots, by which a difference of mean squares is one of roots."""
    return math.sqrt(float(squares.mean())) + math.sqrt(float(others.mean()))


def absolute_errors(predictions: Any, targets: Any) -> F64:
    """Return each row's mean of |error| over its columns."""
    errors: F64 = np.abs(_errors(predictions, targets)).mean(axis=1)
    return errors


def r2(predictions: Any, targets: Any) -> float:
    """Return 1 - SS_res / SS_tot, summed over all columns; SS_tot is about each column's mean.

    So columns weigh by their variance. If targets do not vary, the score is 1 for perfect
    predictions and else -inf, its limit.
    """
    errors = _errors(predictions, targets)
    wanted = _values(targets, "targets")
    wanted = wanted - wanted[0]  # a constant column is exactly 0
    total = float(np.square(wanted - wanted.mean(axis=0)).sum())
    return r2_from_sums(float(np.square(errors).sum()), total)


def linear_r2(squares: F64, targets: Any) -> F64:
    """Return values (n,) whose mean is the score ``r2``, from each row's mean squared error."""
    wanted = _values(targets, "targets")
    spread = np.square(wanted - wanted.mean(axis=0)).mean(axis=1)
    total = float(spread.mean())
    score = r2_from_sums(float(squares.mean()), total)
    if total == 0:
        return np.full(len(squares), score)
    values: F64 = score + ((1 - score) * spread - squares) / total
    return values


def scale_of_r2(_: F64, __: F64, targets: Any) -> float:
    """Return the mean square of the targets about their means."""
    wanted = _values(targets, "targets")
    return float(np.square(wanted - wanted.mean(axis=0)).mean())


def r2_from_sums(residual: float, total: float) -> float:
    """Return the score ``r2`` from its residual and its total sum of squares."""
    if total == 0:
        return 1.0 if residual == 0 else -math.inf
    return 1 - residual / total


# -------------------------------------------------------------------- helpers


def _checked_classification(predictions: Any, targets: Any) -> tuple[F64, I64]:
    """Return checked probabilities (n, C) and classes (n,)."""
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
    """Return values (n,) or (n, C) as (n, C)."""
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


def _mean_of(rows: RowFunction) -> ScoreFunction:
    return lambda predictions, targets: float(rows(predictions, targets).mean())


def _read_only(array: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return a view that cannot be written to."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


def _checked(function: ScoreFunction, name: str) -> ScoreFunction:
    """Wrap the function, so that all but comparable numbers are refused.

    The function gets read-only views: the targets are the caller's own array, and predictions are
    scored more than once.
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
        "log_loss",
        "classification",
        False,
        _mean_of(log_losses),
        log_losses,
        by_class=log_loss_by_class,
    ),
    Score("accuracy", "classification", True, _mean_of(hits), hits, by_class=hit_by_class),
    Score(
        "brier",
        "classification",
        False,
        _mean_of(brier_scores),
        brier_scores,
        by_class=brier_by_class,
    ),
    Score("calibration_error", "classification", False, calibration_error),
    Score(
        "rmse",
        "regression",
        False,
        rmse,
        parts=squared_errors,
        linear=linear_rmse,
        scale=scale_of_rmse,
    ),
    Score("mae", "regression", False, _mean_of(absolute_errors), absolute_errors),
    Score("r2", "regression", True, r2, parts=squared_errors, linear=linear_r2, scale=scale_of_r2),
)
