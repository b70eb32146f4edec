"""Segments: rows that lie together in arrays of one length, and the removals among them.

An id may occur more than once in a segment that has given ids: an update writes a new row under it
and removes the old one. Of the rows with one id at most one lives at a time, and it is the last of
them, so that a hash table need only know the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import resmem._core as _core
from resmem._base.arrays import I64, Array
from resmem._base.errors import FileFormatError
from resmem._indexes.policy import Planner
from resmem._rows.ids import distinct
from resmem._rows.removals import Removals

# The dtype and the shape of one row, by the name of the array.
Schema: TypeAlias = Mapping[str, tuple[npt.DTypeLike, tuple[int, ...]]]

LEAST_ROOM = 1 << 20  # bytes that a new segment, to which rows will be added, reserves at least
_UIDS = count()
# What rows have that were not given a weight or a group.
MISSING = {"weights": np.float64(1.0), "groups": np.int64(-1)}
_ROWS_PER_STEP = 1 << 18  # rows whose removals are read at a time, which bounds memory
_COPY_BYTES = 8 << 20  # bytes that a merge copies at a time


@dataclass(frozen=True)
class Stored:
    """Where a segment lies in a file."""

    uuid: str
    number: int
    names: frozenset[str]  # arrays that are the same in the file


@dataclass(frozen=True)
class Segment:
    """Rows that lie together: the first ``n`` rows of some arrays."""

    arrays: dict[str, Array]  # (capacity, ..) by name: keys, targets, the store's, perhaps ids
    n: int
    keys_max: float = 0.0  # no |value| of the keys is larger
    first_id: int = 0  # without an array "ids", ids are first_id, first_id + 1, ..
    error: float = 0.0  # no stored residual differs from the exact one by more
    removals: Removals | None = None  # None while no row was ever removed
    dead: int = 0  # number of removed rows: the first entries of the journal of removals
    growing: bool = False  # rows may be added behind the last one
    borrowed: bool = False  # arrays are in a file or the caller's: they take no memory
    stored: Stored | None = None
    planner: Planner = field(default_factory=Planner, repr=False, compare=False)
    # Tells these arrays from all others in the process, whatever rows are added or removed.
    uid: int = field(default_factory=lambda: next(_UIDS))
    _table: _core.IdTable = field(default_factory=_core.IdTable, repr=False, compare=False)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name][: self.n]

    @property
    def capacity(self) -> int:
        return len(self.arrays["keys"])

    @property
    def has_ids(self) -> bool:
        return "ids" in self.arrays

    @property
    def died(self) -> I64 | None:
        """The version of each row's removal, (capacity,), 0 for living rows; None if all live."""
        return None if self.removals is None else self.removals.stamps

    @property
    def nbytes(self) -> int:
        removals = 0 if self.removals is None else 8 * (self.n + self.dead)
        return removals + sum(self[name].nbytes for name in self.arrays)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return sum(a.itemsize * math.prod(a.shape[1:]) for a in self.arrays.values())

    @cached_property
    def time_span(self) -> tuple[int, int] | None:
        """The oldest and the newest time of the rows that live now, of which a later snapshot may
        have removed some; None if none lives."""
        times = self["times"]
        if self.died is not None:
            times = times[self.died[: self.n] == 0]
        return (int(times.min()), int(times.max())) if len(times) else None

    @property
    def copied_bytes(self) -> int:
        """Bytes of memory that a copy of the living rows would add."""
        return self.nbytes * (self.n - self.dead) // max(1, self.n) if self.borrowed else 0

    def ids_of(self, rows: I64) -> I64:
        """Return the ids of these rows."""
        ids: I64 = self["ids"][rows] if self.has_ids else rows + self.first_id
        return ids

    def values(self, name: str, rows: I64) -> Array:
        """Return what these rows (m,) have in an array, (m, ..), which the segment may lack: ids
        that are counted, and what rows have that were not given any (``MISSING``)."""
        if name == "ids":
            return self.ids_of(rows)
        return self[name][rows] if name in self.arrays else np.full(len(rows), MISSING[name])

    def find(self, ids: I64) -> I64:
        """Return the last row of each id, also if it is removed; -1 if the segment never had it."""
        if not self.has_ids:
            rows = ids - self.first_id
            return np.where((ids >= self.first_id) & (rows < self.n), rows, -1)
        self._table.extend_to(np.ascontiguousarray(self["ids"]))
        rows = self._table.find(np.ascontiguousarray(ids))
        if (late := rows >= self.n).any():  # the table holds rows of later snapshots too
            rows[late] = self._found_by_scan(ids[late])
        return rows

    def _found_by_scan(self, ids: I64) -> I64:
        """Return what ``find`` does, by reading the ids of all rows.

        This is for ids that got another row after this snapshot, which a reader alone still has.
        """
        wanted = distinct(ids)
        last = np.full(len(wanted), -1)
        for start in range(0, self.n, _ROWS_PER_STEP):
            here = self["ids"][start : start + _ROWS_PER_STEP]
            at = np.minimum(np.searchsorted(wanted, here), len(wanted) - 1)
            rows = np.flatnonzero(wanted[at] == here)
            last[at[rows]] = start + rows  # of equal ids the last one stays
        return last[np.searchsorted(wanted, ids)]

    def find_living(self, ids: I64, version: int) -> I64:
        """Return the row of each id that lives at this version; -1 if there is none."""
        rows = self.find(ids)
        if self.died is not None:
            there = rows >= 0
            died = self.died[rows[there]]
            rows[there] = np.where((died == 0) | (died > version), rows[there], -1)
        return rows

    def living(self, version: int) -> I64:
        """Return the rows that live at this version."""
        if self.died is None:
            return np.arange(self.n)
        died = self.died[: self.n]
        return np.flatnonzero((died == 0) | (died > version))

    def living_parts(self, version: int, step: int = _ROWS_PER_STEP) -> Iterator[I64]:
        """Yield the rows that live at this version, from ``step`` rows at a time."""
        for start in range(0, self.n, step):
            stop = min(self.n, start + step)
            rows = np.arange(start, stop)
            if self.died is not None:
                died = self.died[start:stop]
                rows = rows[(died == 0) | (died > version)]
            if len(rows):
                yield rows

    def living_at(self, positions: I64, version: int) -> I64:
        """Return the rows at these ascending positions among the living rows."""
        if self.dead == 0:
            return positions
        found, before = [positions[:0]], 0
        for rows in self.living_parts(version):
            here = slice(*np.searchsorted(positions, (before, before + len(rows))))
            found.append(rows[positions[here] - before])
            before += len(rows)
        return np.concatenate(found)

    def dead_rows(self) -> I64:
        """Return the removed rows, ascending."""
        if self.removals is None:
            return np.empty(0, dtype=np.int64)
        return np.sort(self.removals.first(self.dead))

    def with_dead(self, rows: I64, version: int) -> Segment:
        """Return the segment with these living rows removed at ``version``."""
        removals = Removals(self.capacity) if self.removals is None else self.removals
        removals.add(rows, version, self.dead)
        return replace(self, removals=removals, dead=self.dead + len(rows))

    def with_arrays(self, arrays: dict[str, Array], changed: frozenset[str]) -> Segment:
        """Return the segment with other arrays; a file no longer has the ``changed`` ones."""
        stored = self.stored
        if stored is not None:
            stored = replace(stored, names=stored.names - changed)
        return replace(self, arrays=arrays, stored=stored, uid=next(_UIDS))

    def shared(self, version: int) -> Segment:
        """Return the same arrays as a segment of another memory, whose rows come and go on their
        own. Rows that are removed here are removed at ``version`` there."""
        decision = self.planner.decision
        fits = decision is not None and decision.rows <= self.n
        other = replace(
            self,
            removals=None,
            dead=0,
            growing=False,
            borrowed=True,
            stored=None,
            planner=Planner(read=lambda: decision) if fits else Planner(),
            uid=next(_UIDS),
            _table=_core.IdTable(),
        )
        return other.with_dead(self.dead_rows(), version) if self.dead else other

    def portable(self, without: frozenset[str]) -> dict[str, Any]:
        """Return what a copy by value carries, except the arrays in ``without``."""
        carried = ("n", "keys_max", "first_id", "error")
        return {
            **{name: getattr(self, name) for name in carried},
            "arrays": {name: self[name] for name in self.arrays if name not in without},
        }

    @cached_property
    def for_core(self) -> _core.Segment:
        """The rows as the core searches them, without an index."""
        died = None if self.died is None or self.dead == 0 else self.died[: self.n]
        ids, times, groups = (
            self[name] if name in self.arrays else None for name in ("ids", "times", "groups")
        )
        return _core.Segment(
            self["keys"], ids, self.first_id, died, self.keys_max, times=times, groups=groups
        )


def room(schema: Schema, rows: int) -> dict[str, Array]:
    """Return arrays with room for this many rows; their memory is not touched yet."""
    return {name: np.empty((rows, *shape), dtype) for name, (dtype, shape) in schema.items()}


def row_bytes(schema: Schema) -> int:
    """Return the bytes of one row."""
    return sum(np.dtype(dtype).itemsize * int(np.prod(s)) for dtype, s in schema.values())


def checked_stored(targets: Array, columns: int, name: str = "targets") -> Array:
    """Return stored targets or class numbers unchanged; FileFormatError if they are out of range.

    Only a damaged file that was loaded without verification has such values.
    """
    if fault := target_fault(targets, columns, name):
        raise damaged_rows(fault)
    return targets


def target_fault(targets: Array, columns: int, name: str) -> str:
    """Say what is wrong with stored targets or class numbers; "" if nothing is."""
    if targets.size == 0:
        return ""
    floats = targets.dtype.kind == "f"
    for extreme in (targets.min(), targets.max()):  # both are NaN if there is a NaN
        if not (np.isfinite(extreme) if floats else 0 <= extreme < columns):
            expected = "finite values" if floats else f"classes from 0 to {columns - 1}"
            return f"{name!r} holds {extreme}, expected {expected}"
    return ""


def damaged_rows(what: str) -> FileFormatError:
    """Return the error for damaged rows of a file that was loaded without verification."""
    return FileFormatError(
        f"the stored rows are damaged: {what}; restore the file from a copy, or fit again"
    )


def merge(segments: tuple[Segment, ...], version: int) -> Segment:
    """Return one new segment with the rows of these that live at this version."""
    return _copied(segments, [segment.living(version) for segment in segments])


def taken_apart(segment: Segment, version: int, most: int) -> list[Segment]:
    """Return new segments of at most ``most`` rows with the rows that live at this version."""
    rows = segment.living(version)
    starts = range(0, len(rows), most)
    return [_copied((segment,), [rows[start : start + most]]) for start in starts]


def _copied(segments: tuple[Segment, ...], rows: list[I64]) -> Segment:
    """Return one new segment with some ascending rows of each of these."""
    ends = np.cumsum([len(part) for part in rows])
    schema: dict[str, tuple[npt.DTypeLike, tuple[int, ...]]] = {
        name: (array.dtype, array.shape[1:])
        for segment in segments
        for name, array in segment.arrays.items()
    }
    first = next(
        (int(s.ids_of(r[:1])[0]) for s, r in zip(segments, rows, strict=True) if len(r)), 0
    )
    run = first
    for segment, part in zip(segments, rows, strict=True):
        if segment.has_ids or not _is_run(segment.ids_of(part), run):
            schema["ids"] = (np.int64, ())
            break
        run += len(part)
    arrays = room(schema, int(ends[-1]))
    for segment, part, end in zip(segments, rows, ends, strict=True):
        for name, target in arrays.items():
            step = max(1, _COPY_BYTES // max(1, target[:1].nbytes))
            for start in range(0, len(part), step):
                some = part[start : start + step]
                at = end - len(part) + start
                target[at : at + len(some)] = segment.values(name, some)
    return Segment(
        arrays,
        int(ends[-1]),
        keys_max=max(segment.keys_max for segment in segments),
        first_id=first,
        error=max(segment.error for segment in segments),
    )


def _is_run(ids: I64, first: int) -> bool:
    """Tell whether these ascending ids are those from ``first`` on, without a gap."""
    return len(ids) == 0 or bool(ids[0] == first and ids[-1] == first + len(ids) - 1)
