"""Rows of a memory that stand in for queries whose targets are known."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt

from resmem._base.arrays import F64, I64, Array, Keys
from resmem._base.execution import Execution
from resmem._correction.correct import Corrector, NeighbourSearch
from resmem._keys.preprocess import Preprocess
from resmem._keys.stored import widen_keys
from resmem._rows.segment import Segment, checked_stored
from resmem._rows.visibility import EVERY_ROW, Visibility


def refuse_known_targets(preprocess: Preprocess, call: str = "loo=True") -> None:
    """Raise ValueError if a preprocess has seen the targets of the rows that a call judges."""
    if preprocess.learns_targets:
        raise ValueError(
            f"{call} judges rows whose targets preprocess={preprocess.name!r} learns from: give "
            "embeddings, outputs and targets of other rows"
        )


class MemoryRows:
    """Rows of the memory that serve as queries; none is its own neighbour."""

    def __init__(
        self, corrector: Corrector, positions: I64, k: int, execution: Execution,
        visible: Visibility = EVERY_ROW,
    ) -> None:  # fmt: skip
        self._corrector, self.k, self._execution = corrector, k, execution
        self._positions = positions  # numbered through all segments
        every = slice(0, len(positions))
        self._visible = visible.of_own(corrector.rows, self.ids(every), positions)
        self.targets: Array = checked_stored(self._of("targets", every), corrector.rows.columns)

    def __len__(self) -> int:
        return len(self._positions)

    def ids(self, block: slice) -> I64:
        """Return the ids of a block of rows."""
        return np.concatenate([segment.ids_of(at) for segment, at in self._chosen(block)])

    def find(self, block: slice, keys: Keys | None = None, largest: float = 0.0) -> tuple[F64, I64]:
        """Return distances and positions of the neighbours of a block of rows.

        ``keys`` and ``largest`` are what ``queries`` returns, if it was asked already.
        """
        rows, prepare = self._corrector.rows, self._corrector.auto_prepare
        if keys is None:
            keys, largest = self.queries(block)
        search = NeighbourSearch(
            rows, keys, largest, self.k, self._visible.at(block), self._execution, prepare,
            self._corrector.resident,
        )  # fmt: skip
        distances, _, positions = search.neighbours()
        return distances, positions

    def among(self, kept: npt.NDArray[np.bool_]) -> MemoryRows:
        """Return the same rows, which see only some of the memory's: a mask of all of them."""
        other = copy.copy(self)
        other._visible = self._visible.among_rows(self._corrector.rows, kept)
        return other

    def at_k(self, k: int) -> MemoryRows:
        """Return the same rows, of which each has this many neighbours."""
        other = copy.copy(self)
        other.k = k
        return other

    def queries(self, block: slice) -> tuple[Keys, float]:
        """Return the keys of a block of rows, and a bound of their absolute values."""
        largest = max(segment.keys_max for segment, _ in self._chosen(block))
        return widen_keys(self._of("keys", block)), largest

    def outputs(self, block: slice) -> Array:
        """Return the base model's outputs (b, C) of a block of rows, from the store."""
        spec, store = self._corrector.spec, self._corrector.spec.store
        if spec.says_nothing:
            rows = block.stop - block.start
            return spec.silent_outputs(None, rows, self._corrector.rows.columns)
        chosen = self._chosen(block)
        return np.concatenate([store.outputs(s, at, self._execution) for s, at in chosen])

    def _chosen(self, block: slice) -> list[tuple[Segment, I64]]:
        return list(self._corrector.rows.at(self._positions[block]))

    def _of(self, name: str, block: slice) -> Array:
        return np.concatenate([segment[name][at] for segment, at in self._chosen(block)])
