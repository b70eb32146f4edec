"""The rows of a memory: immutable segments, published as snapshots.

A search takes the snapshot it finds and keeps it; ``append`` and ``without`` build the next
one and never touch what is already there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from resmem._arrays import F32, I64


@dataclass(frozen=True)
class Segment:
    """Rows that lie together. Arrays are never written to after construction."""

    keys: F32  # (n, d)
    keys_max: float  # largest |value| of keys
    outputs: npt.NDArray[Any]  # (n, C): float32 (classification) or float64 (regression)
    targets: npt.NDArray[Any]  # (n,) int64 classes or (n, C) float64 values
    residuals: F32  # (n, C), derived
    first_id: int  # ids are first_id, first_id + 1, .. unless given
    ids: I64 | None = None
    alive: npt.NDArray[np.bool_] | None = None  # None: every row lives
    _order: dict[str, I64] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def nbytes(self) -> int:
        arrays = (self.keys, self.outputs, self.targets, self.residuals, self.ids, self.alive)
        return sum(a.nbytes for a in arrays if a is not None)

    @property
    def live(self) -> int:
        return len(self) if self.alive is None else int(self.alive.sum())

    def all_ids(self) -> I64:
        if self.ids is not None:
            return self.ids
        return np.arange(self.first_id, self.first_id + len(self), dtype=np.int64)

    def find(self, ids: I64) -> I64:
        """Row of each id, -1 where this segment has no such living row."""
        if self.ids is None:
            rows = np.where((ids >= self.first_id) & (ids - self.first_id < len(self)),
                            ids - self.first_id, -1)  # fmt: skip
        elif len(self) == 0:
            rows = np.full(len(ids), -1, dtype=np.int64)
        else:
            if "by_id" not in self._order:
                self._order["by_id"] = np.argsort(self.ids, kind="stable")
            order = self._order["by_id"]
            at = np.minimum(np.searchsorted(self.ids, ids, sorter=order), len(self) - 1)
            rows = np.where(self.ids[order[at]] == ids, order[at], -1)
        if self.alive is not None:
            rows = np.where((rows >= 0) & self.alive[rows], rows, -1)
        return rows.astype(np.int64)

    def compact(self) -> Segment:
        """Without its dead rows."""
        if self.alive is None:
            return self
        return replace(
            self,
            keys=self.keys[self.alive],
            outputs=self.outputs[self.alive],
            targets=self.targets[self.alive],
            residuals=self.residuals[self.alive],
            ids=self.all_ids()[self.alive],
            alive=None,
            _order={},
        )

    def core(self) -> tuple[F32, I64 | None, int, I64 | None, float]:
        """What the core's search takes, at version 1."""
        died = None if self.alive is None else (~self.alive).astype(np.int64)
        return (self.keys, self.ids, self.first_id, died, self.keys_max)


def merge(first: Segment, second: Segment) -> Segment:
    """One segment with the living rows of both."""
    parts = (first.compact(), second.compact())

    def joined(name: str) -> npt.NDArray[Any]:
        return np.concatenate([getattr(part, name) for part in parts])

    ids = None
    implicit = all(part.ids is None for part in parts)
    if not implicit or first.first_id + len(first) != second.first_id:
        ids = np.concatenate([part.all_ids() for part in parts])
    return Segment(
        keys=joined("keys"),
        keys_max=max(first.keys_max, second.keys_max),
        outputs=joined("outputs"),
        targets=joined("targets"),
        residuals=joined("residuals"),
        first_id=first.first_id,
        ids=ids,
    )


@dataclass(frozen=True)
class Snapshot:
    """Every row at one moment."""

    segments: tuple[Segment, ...]
    next_id: int
    retired: I64  # ids that were removed, sorted: never given out again

    @property
    def d(self) -> int:
        return int(self.segments[0].keys.shape[1])

    @property
    def columns(self) -> int:
        return int(self.segments[0].outputs.shape[1])

    def __len__(self) -> int:
        return sum(s.live for s in self.segments)

    @property
    def nbytes(self) -> int:
        return sum(s.nbytes for s in self.segments) + self.retired.nbytes

    def refuse_used(self, ids: I64) -> None:
        """ValueError if an id is or was taken."""
        used = np.isin(ids, self.retired)
        for segment in self.segments:
            used |= segment.find(ids) >= 0
        if used.any():
            raise ValueError(
                f"ids must never have been used before in this memory, got {ids[used][0]}"
            )

    def append(self, segment: Segment) -> Snapshot:
        """With more rows. Segments of similar size are merged, so that there are few of them
        and a row is copied O(log n) times in its life."""
        segments = [*self.segments, segment]
        while len(segments) > 1 and len(segments[-2]) <= 2 * len(segments[-1]):
            last = segments.pop()
            segments[-1] = merge(segments[-1], last)
        highest = segment.first_id + len(segment) - 1
        if segment.ids is not None:
            highest = int(segment.ids.max(initial=-1))
        return replace(self, segments=tuple(segments), next_id=max(self.next_id, highest + 1))

    def without(self, ids: I64) -> Snapshot:
        """With these rows removed; ValueError, naming one, if any is not there."""
        ids = np.unique(ids)
        missing = np.ones(len(ids), dtype=bool)
        segments = []
        for segment in self.segments:
            rows = segment.find(ids)
            here = rows >= 0
            missing &= ~here
            if here.any():
                alive = (
                    np.ones(len(segment), bool) if segment.alive is None else segment.alive.copy()
                )
                alive[rows[here]] = False
                segment = replace(segment, alive=alive)
            segments.append(segment)
        if missing.any():
            raise ValueError(f"ids to remove must be in the memory, {ids[missing][0]} is not")
        retired = np.union1d(self.retired, ids)
        return replace(self, segments=tuple(segments), retired=retired)
