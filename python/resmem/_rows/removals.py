"""The removals among a segment's rows: which came when, by row and in order."""

from __future__ import annotations

import numpy as np

import resmem._core as _core
from resmem._base.arrays import I64


class Removals:
    """A stamp for each row, and a journal of the removed rows in the order of their removal.

    The snapshots of a memory share it, and each knows how many entries of the journal are its own.
    Those are never written again; whoever removes rows holds the memory's lock.
    """

    def __init__(self, capacity: int) -> None:
        self.stamps: I64 = np.zeros(capacity, dtype=np.int64)  # version of removal; 0: living
        self._journal: I64 = np.empty(0, dtype=np.int64)
        self._written = 0

    def first(self, count: int) -> I64:
        """Return the first ``count`` rows that were removed, in that order."""
        return self._journal[:count]

    def add(self, rows: I64, version: int, count: int) -> None:
        """Remove living rows at ``version``, behind the ``count`` entries that are published."""
        self.undo(count)
        if count + len(rows) > len(self._journal):
            # Readers keep the shorter array that they have.
            longer = np.empty(max(count + len(rows), 2 * count), dtype=np.int64)
            longer[:count] = self._journal[:count]
            self._journal = longer
        self._journal[count : count + len(rows)] = rows
        self._written = count + len(rows)
        _core.mark_died(self.stamps, rows, version)

    def undo(self, count: int) -> None:
        """Bring back the rows behind ``count`` entries: their removal was never published."""
        late = self._journal[count : self._written]
        self._written = count
        _core.mark_died(self.stamps, late, 0)
