"""What is kept of each method's predictions: some numbers a row, and a few for each column."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from resmem._base.arrays import F64, I64
from resmem._scores.metrics import error_of, losses_of, r2_from_sums, reliability

Mask: TypeAlias = npt.NDArray[np.bool_]


class ClassTally:
    """What is kept of a method's class probabilities: some numbers a row."""

    def __init__(self, rows: int) -> None:
        self.right: Mask = np.empty(rows, dtype=np.bool_)
        self.chosen: I64 = np.empty(rows, dtype=np.int64)  # the most probable class
        # The probabilities of the true class and of the most probable one; two losses.
        self.true, self.top, self.loss, self.brier = np.empty((4, rows))

    def add(self, block: slice, probabilities: F64, classes: I64) -> None:
        """Take in the probabilities (b, C) of a block of rows, and overwrite them."""
        rows, largest = np.arange(len(probabilities)), probabilities.argmax(axis=1)
        self.chosen[block], self.right[block] = largest, largest == classes
        self.true[block] = probabilities[rows, classes]
        self.top[block] = probabilities[rows, largest]
        self.loss[block] = losses_of(self.true[block])
        probabilities[rows, classes] -= 1
        self.brier[block] = np.einsum("ij,ij->i", probabilities, probabilities)

    def scores(self, bins: int) -> dict[str, float]:
        log_loss = self.mean_score(slice(None))
        return {
            "accuracy": float(self.right.mean()),
            "log_loss": log_loss,
            "brier": float(self.brier.mean()),
            "calibration_error": error_of(*reliability(self.top, self.right, bins)),
            # The exponential of more than 709 is beyond float64.
            "perplexity": math.exp(log_loss) if log_loss < 709 else math.inf,
        }

    def mean_score(self, at: I64 | slice) -> float:
        """Return the mean log-loss of some rows."""
        return float(self.loss[at].mean())

    @property
    def error_sizes(self) -> F64:
        """1 - the probability of the true class of each row."""
        return 1 - self.true

    def changes_from(self, base: Any) -> tuple[Mask, Mask, F64]:
        """Return which rows were corrected and harmed, and the change of the true class's
        probability."""
        return self.right & ~base.right, base.right & ~self.right, self.true - base.true


class ValueTally:
    """What is kept of a method's errors in regression: two numbers a row, two a column."""

    def __init__(self, rows: int, columns: int, deviations: SquaredDeviations) -> None:
        # The sum of squared errors over columns, and the mean of absolute ones.
        self.loss, self.absolute = np.empty((2, rows))
        self._columns, self._deviations = columns, deviations
        # The sums of squared and of absolute errors over rows.
        self._squares, self._sizes = np.zeros((2, columns))

    def add(self, block: slice, values: F64, targets: F64) -> None:
        """Take in the predicted values (b, C) of a block of rows."""
        errors = values - targets
        self.loss[block] = np.einsum("ij,ij->i", errors, errors)
        self._squares += np.einsum("ij,ij->j", errors, errors)
        sizes = np.abs(errors)
        self.absolute[block] = sizes.mean(axis=1)
        self._sizes += sizes.sum(axis=0)

    def scores(self, bins: int) -> dict[str, float]:
        total = float(self._deviations.totals.sum())
        return {
            "rmse": self.mean_score(slice(None)),
            "mae": float(self.absolute.mean()),
            "r2": r2_from_sums(float(self.loss.sum()), total),
        }

    def mean_score(self, at: I64 | slice) -> float:
        """Return the root of the mean squared error of some rows."""
        return math.sqrt(float(self.loss[at].mean()) / self._columns)

    def scores_of_column(self, column: int) -> dict[str, float]:
        """Return the scores of one column of the predictions."""
        rows, squares = len(self.loss), float(self._squares[column])
        return {
            "rmse": math.sqrt(squares / rows),
            "mae": float(self._sizes[column]) / rows,
            "r2": r2_from_sums(squares, float(self._deviations.totals[column])),
        }

    @property
    def error_sizes(self) -> F64:
        """The mean absolute error of each row."""
        return self.absolute

    def changes_from(self, base: Any) -> tuple[Mask, Mask, F64]:
        """Return which rows have smaller and larger errors, and by how much they are smaller."""
        return self.loss < base.loss, self.loss > base.loss, base.loss - self.loss


class SquaredDeviations:
    """Sums squared deviations from the columns' means, block by block (Chan et al. 1979)."""

    def __init__(self, columns: int) -> None:
        self.totals, self._rows = np.zeros(columns), 0

    def add(self, values: F64) -> None:
        if self._rows == 0:
            self._origin, self._mean = values[0].copy(), np.zeros(values.shape[1])
        values = values - self._origin  # so that a constant column adds exactly 0
        mean, rows = values.mean(axis=0), self._rows + len(values)
        apart, share = mean - self._mean, len(values) / rows
        within = np.square(values - mean).sum(axis=0)
        self.totals += within + np.square(apart) * (self._rows * share)
        self._mean, self._rows = self._mean + apart * share, rows


Tally: TypeAlias = "ClassTally | ValueTally"
