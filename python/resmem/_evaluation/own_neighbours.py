"""The neighbours of a memory's own rows, and what each of them adds to the row's answer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

import resmem._core as _core
from resmem._base.arrays import F64, I64, Array
from resmem._base.blocks import blocks
from resmem._base.execution import Execution
from resmem._base.metric import is_euclidean
from resmem._correction.correct import Corrector
from resmem._correction.own_rows import MemoryRows
from resmem._evaluation.explain import by_segment, targets_of
from resmem._rows.visibility import Visibility


class Neighbours(NamedTuple):
    """The neighbours of b rows."""

    own: Array  # classes (b,) or values (b, C) of the rows
    near: Array  # those of the neighbours, (b, k) or (b, k, C); padding: -1 or NaN
    distances: F64  # (b, k)
    positions: I64  # (b, k), -1 for padding
    weights: F64  # (b, k), of which those of a row sum to 1; 0 for padding
    there: npt.NDArray[np.bool_]  # (b, k), False for padding


class OwnNeighbours:
    """Rows at ascending positions, each with its neighbours among all other rows that it sees."""

    def __init__(
        self, corrector: Corrector, positions: I64, visible: Visibility, execution: Execution
    ) -> None:
        self._corrector, self._positions, self._execution = corrector, positions, execution
        self._rows = MemoryRows(corrector, positions, corrector.k, execution, visible)
        self.classes = corrector.spec.task == "classification"
        columns = corrector.rows.columns
        # Of classes only the row's own column counts.
        self.width = 1 if self.classes else columns
        # A row takes memory for its neighbours' distances, weights and values, and its own sums.
        self.row_bytes = 8 * corrector.k * (12 + 4 * self.width) + 24 * columns
        self.targets = self._rows.targets

    def __len__(self) -> int:
        return len(self._positions)

    def read(self, block: slice) -> Neighbours:
        """Return the neighbours of a block of rows."""
        corrector = self._corrector
        distances, positions = self._rows.find(block)
        weights, totals = _core.weights(
            distances, positions, corrector.sigma, corrector.rows.weights_for_core()
        )
        there = positions >= 0
        weights = np.where(there, weights / np.where(totals > 0, totals, 1.0)[:, None], 0.0)
        near = targets_of(corrector, positions)
        return Neighbours(self.targets[block], near, distances, positions, weights, there)

    def same_keys(
        self, block: slice, found: Neighbours, of: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        """Return which of these neighbours, a mask (b, k), have the very key of their row."""
        rows = self._corrector.rows
        same: npt.NDArray[np.bool_] = of & (found.distances == 0)
        if is_euclidean(rows.metric):
            return same
        at, column = np.nonzero(of)
        for part in blocks(len(at), 16 * rows.preprocess.method.width(rows.d)):
            own = rows.keys_at(self._positions[block][at[part]])
            near = rows.keys_at(found.positions[at[part], column[part]])
            same[at[part], column[part]] = (own == near).all(axis=1)
        return same

    def added(self, block: slice, found: Neighbours) -> tuple[F64, F64]:
        """Return how far the base is off, (b, 1, t), and what each neighbour, at the whole weight
        and strength, adds to its answer, (b, k, t).

        Of classes that is the probability of the row's own class (t = 1); of values, each column.
        """
        mine, by_targets = self._positions[block, None], self._corrector.method == "targets"
        if self.classes:
            columns = found.own[:, None]
            left = self._residuals(mine, columns)
            if by_targets:
                return left, (found.near == columns)[:, :, None] - (1.0 - left)
            return left, self._residuals(found.positions, columns)
        columns = np.broadcast_to(np.arange(self.width), (len(found.own), self.width))
        left = self._residuals(mine, columns)
        if by_targets:
            apart = np.where(np.isnan(found.near), 0.0, found.own[:, None] - found.near)
            return left, left - apart
        return left, self._residuals(found.positions, columns)

    def _residuals(self, positions: I64, columns: I64) -> F64:
        """Return the residuals of rows at positions (b, m) in the columns (b, t): (b, m, t)."""
        store, rows = self._corrector.spec.store, self._corrector.rows
        result = np.zeros((*positions.shape, columns.shape[1]))
        for segment, where, at in by_segment(rows, positions):
            values, rest = store.values(
                segment, at, columns[np.nonzero(where)[0]], rows.columns, rows.temperature,
                self._execution,
            )  # fmt: skip
            result[where] = values - rest[:, None]
        return result
