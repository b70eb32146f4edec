"""The rows of a memory: segments that grow at their end only, published as snapshots.

Three rules let a running search keep the snapshot it found, without a copy:

1. a published row is never written again; new rows go behind the last published one;
2. a removal stamps its row with the version of the first snapshot that lacks it, and a search
   ignores the stamps of versions later than its own;
3. whoever adds, removes or compacts holds the memory's lock and publishes a new snapshot.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from resmem import _core
from resmem._arrays import I64, Keys
from resmem._errors import FileFormatError
from resmem._growth import UNKNOWN, Basis
from resmem._planner import KeySegment, Planner
from resmem._preprocess import AS_GIVEN, Fitted

Array: TypeAlias = npt.NDArray[Any]
Schema: TypeAlias = Mapping[str, tuple[npt.DTypeLike, tuple[int, ...]]]  # dtype, shape of a row

_LEAST_ROOM = 1 << 20  # bytes of a new segment that rows will be added to
_ROWS_AT_ONCE = 1 << 18  # of which a part of a segment is asked which live
_COPY_BYTES = 8 << 20  # compaction copies this much at a time
_FEW_SEGMENTS = 8  # this many of similar size are merged into one
_IDS = 1 << 20  # that are looked up at a time
_MOST_COPIED = 64 << 20  # bytes of borrowed rows that a compaction may take into memory


NO_RUNS: I64 = np.empty((0, 2), dtype=np.int64)


@dataclass(frozen=True)
class Stored:
    """Where a segment lies in a file."""

    uuid: str
    number: int
    names: frozenset[str]  # the arrays that are there as they are here


@dataclass(frozen=True)
class Segment:
    """Rows that lie together: the first ``n`` of some arrays."""

    arrays: dict[str, Array]  # by name, (capacity, ..): "keys", "targets", perhaps "ids", residuals
    n: int
    keys_max: float = 0.0  # no |value| of the keys is larger
    first_id: int = 0  # ids are first_id, first_id + 1, .. unless there are "ids"
    error: float = 0.0  # no residual is off by more
    died: I64 | None = None  # (capacity,) versions at which rows were removed; 0: it lives
    dead: int = 0  # rows that are removed
    growing: bool = False  # rows may be added behind the last one
    borrowed: bool = False  # arrays lie in a file or belong to the caller: they cost no memory
    stored: Stored | None = None
    planner: Planner = field(default_factory=Planner, repr=False, compare=False)
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
    def nbytes(self) -> int:
        died = 0 if self.died is None else 8 * self.n
        return died + sum(self[name].nbytes for name in self.arrays)

    @property
    def copied_bytes(self) -> int:
        """Memory that a copy of its living rows would newly take."""
        return self.nbytes * (self.n - self.dead) // max(1, self.n) if self.borrowed else 0

    def ids_of(self, rows: I64) -> I64:
        ids: I64 = self["ids"][rows] if self.has_ids else rows + self.first_id
        return ids

    def find(self, ids: I64) -> I64:
        """Row of each id, removed ones too; -1 where this segment never had it."""
        if not self.has_ids:
            rows = ids - self.first_id
            return np.where((ids >= self.first_id) & (rows < self.n), rows, -1)
        self._table.extend_to(np.ascontiguousarray(self["ids"]))
        rows = self._table.find(np.ascontiguousarray(ids))
        return np.where(rows < self.n, rows, -1)  # later snapshots have more rows

    def living(self, version: int) -> I64:
        """The rows that live at this version."""
        if self.died is None:
            return np.arange(self.n)
        died = self.died[: self.n]
        return np.flatnonzero((died == 0) | (died > version))

    def living_parts(self, version: int, step: int = _ROWS_AT_ONCE) -> Iterator[I64]:
        """The same, of ``step`` rows at a time."""
        for start in range(0, self.n, step):
            stop = min(self.n, start + step)
            rows = np.arange(start, stop)
            if self.died is not None:
                died = self.died[start:stop]
                rows = rows[(died == 0) | (died > version)]
            if len(rows):
                yield rows

    def living_at(self, positions: I64, version: int) -> I64:
        """The rows at these ascending positions among those that live."""
        if self.dead == 0:
            return positions
        found, before = [positions[:0]], 0
        for rows in self.living_parts(version):
            here = slice(*np.searchsorted(positions, (before, before + len(rows))))
            found.append(rows[positions[here] - before])
            before += len(rows)
        return np.concatenate(found)

    def dead_rows(self, version: int) -> I64:
        """The rows removed up to this version."""
        found = [np.empty(0, dtype=np.int64)]
        if self.died is None:
            return found[0]
        for start in range(0, self.n, _ROWS_AT_ONCE):
            died = self.died[start : min(self.n, start + _ROWS_AT_ONCE)]
            found.append(start + np.flatnonzero((died > 0) & (died <= version)))
        return np.concatenate(found)

    def with_dead(self, rows: I64, version: int) -> Segment:
        """With these living rows removed."""
        died = np.zeros(self.capacity, dtype=np.int64) if self.died is None else self.died
        _core.mark_died(died, rows, version)
        return replace(self, died=died, dead=self.dead + len(rows))

    def with_arrays(self, arrays: dict[str, Array], changed: frozenset[str]) -> Segment:
        """With other arrays, of which a file does not have those ``changed``."""
        stored = self.stored
        if stored is not None:
            stored = replace(stored, names=stored.names - changed)
        return replace(self, arrays=arrays, stored=stored)

    def portable(self, without: frozenset[str]) -> dict[str, Any]:
        """What a copy by value carries; not the arrays named."""
        carried = ("n", "keys_max", "first_id", "error")
        return {
            **{name: getattr(self, name) for name in carried},
            "arrays": {name: self[name] for name in self.arrays if name not in without},
        }

    def keys_for_core(self) -> KeySegment:
        """What the core's search takes."""
        died = None if self.died is None or self.dead == 0 else self.died[: self.n]
        ids = self["ids"] if self.has_ids else None
        return (self["keys"], ids, self.first_id, died, self.keys_max)


def room(schema: Schema, rows: int) -> dict[str, Array]:
    """Arrays with room for so many rows, none of them touched yet."""
    return {name: np.empty((rows, *shape), dtype) for name, (dtype, shape) in schema.items()}


def row_bytes(schema: Schema) -> int:
    """Bytes of one row."""
    return sum(np.dtype(dtype).itemsize * int(np.prod(s)) for dtype, s in schema.values())


def distinct(ids: I64) -> I64:
    """Each id once, ascending. (NumPy's ``unique`` may hash, which takes much memory.)"""
    ids = np.sort(ids)
    return ids[np.r_[True, ids[1:] != ids[:-1]]] if len(ids) else ids


def runs(ids: I64) -> I64:
    """Ids as runs of consecutive ones: sorted, first and last of each, (r, 2)."""
    ids = distinct(ids)
    ends = np.flatnonzero(np.diff(ids) != 1)
    if len(ids) == 0:
        return NO_RUNS
    return np.stack([ids[np.r_[0, ends + 1]], ids[np.r_[ends, len(ids) - 1]]], axis=1)


def joined(one: I64, other: I64) -> I64:
    """The runs of both, neighbours made one; no id is in both."""
    if not (len(one) and len(other)):
        return one if len(one) else other
    both = np.concatenate([one, other])
    both = both[np.argsort(both[:, 0])]
    apart = both[1:, 0] - 1 != both[:-1, 1]
    return np.stack([both[np.r_[True, apart], 0], both[np.r_[apart, True], 1]], axis=1)


def in_runs(ids: I64, of: I64) -> npt.NDArray[np.bool_]:
    """Which ids lie in one of the runs."""
    if len(of) == 0:
        return np.zeros(len(ids), dtype=np.bool_)
    at = np.searchsorted(of[:, 0], ids, side="right") - 1
    return np.asarray((at >= 0) & (ids <= of[np.maximum(at, 0), 1]))


def intact(targets: Array, columns: int, name: str = "targets") -> Array:
    """Targets, or other class numbers, as they are stored; FileFormatError if no row could have
    these, which only a damaged file gives."""
    if fault := target_fault(targets, columns, name):
        raise damaged(fault)
    return targets


def target_fault(targets: Array, columns: int, name: str) -> str:
    """What is wrong with stored targets, or other class numbers; "" if nothing is."""
    if targets.size == 0:
        return ""
    floats = targets.dtype.kind == "f"
    for extreme in (targets.min(), targets.max()):  # NaN, if there is one
        if not (np.isfinite(extreme) if floats else 0 <= extreme < columns):
            expected = "finite values" if floats else f"classes from 0 to {columns - 1}"
            return f"{name!r} holds {extreme}, expected {expected}"
    return ""


def damaged(what: str) -> FileFormatError:
    """For rows of a file that was loaded without looking at all of them."""
    return FileFormatError(
        f"the stored rows are damaged: {what}; restore the file from a copy, or fit again"
    )


def _twice(ids: I64) -> str:
    """Which of sorted ids is there twice; "" if none."""
    again = ids[1:] == ids[:-1]
    return f"two rows have the id {ids[1:][again][0]}" if again.any() else ""


def merge(segments: tuple[Segment, ...], version: int) -> Segment:
    """One segment with the rows of these that live at this version."""
    rows = [segment.living(version) for segment in segments]
    ends = np.cumsum([len(part) for part in rows])
    schema: dict[str, tuple[npt.DTypeLike, tuple[int, ...]]] = {
        name: (array.dtype, array.shape[1:]) for name, array in segments[0].arrays.items()
    }
    first = next(
        (int(s.ids_of(r[:1])[0]) for s, r in zip(segments, rows, strict=True) if len(r)), 0
    )
    run = first
    for segment, part in zip(segments, rows, strict=True):
        if segment.has_ids or segment.dead or (len(part) and segment.first_id != run):
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
                source = segment.ids_of(some) if name == "ids" else segment[name][some]
                target[at : at + len(some)] = source
    return Segment(
        arrays,
        int(ends[-1]),
        keys_max=max(segment.keys_max for segment in segments),
        first_id=first,
        error=max(segment.error for segment in segments),
    )


@dataclass(frozen=True)
class Snapshot:
    """Every row at one moment, and what was derived from them then."""

    segments: tuple[Segment, ...]
    d: int  # of embeddings; keys may be narrower
    columns: int
    temperature: float = 1.0  # of the residuals
    flat: bool = False  # regression values came as (n,)
    auto_sigma: float | None = None
    sigma_basis: Basis = UNKNOWN  # the rows that it was measured on
    next_id: int = 0
    version: int = 0  # counts removals
    retired: I64 = field(default_factory=lambda: NO_RUNS)  # runs of ids of removed rows that no
    # segment holds any longer; they are never given out again
    preprocess: Fitted = AS_GIVEN  # makes keys of embeddings; not that of the memory until there
    # are rows to fit it to
    preprocess_basis: Basis = UNKNOWN  # the rows that it was fitted to
    allowed: float = math.inf  # how far rounding to float32 may move a query
    ids_checked: bool = True  # not in a file of given ids that was loaded unverified
    embedding_names: tuple[str, ...] | None = None  # of the columns of the DataFrames of fit
    output_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return sum(s.n - s.dead for s in self.segments)

    @property
    def nbytes(self) -> int:
        return sum(s.nbytes for s in self.segments) + self.retired.nbytes

    @property
    def error(self) -> float:
        return max((s.error for s in self.segments), default=0.0)

    @property
    def never_held(self) -> bool:
        """Whether there never was a row."""
        return self.next_id == 0 and not self.segments

    def named_as(self, other: Snapshot) -> Snapshot:
        """With the names of columns that the other has."""
        return replace(
            self,
            embedding_names=other.embedding_names or self.embedding_names,
            output_names=other.output_names or self.output_names,
        )

    def all_retired(self) -> I64:
        """Runs of the ids of all rows that were ever removed."""
        found = self.retired
        for segment in self.segments:
            if segment.dead:
                found = joined(found, runs(segment.ids_of(segment.dead_rows(self.version))))
        return found

    def keys(self, embeddings: Any, threads: int = 0, first_row: int = 0) -> tuple[Keys, float]:
        """What is searched for of queries, and its largest |value|; see ``Fitted.keys``."""
        return self.preprocess.keys(embeddings, self.d, threads, first_row)

    def keys_for_core(self, queries: int) -> list[Any]:
        """What the core's search takes: segments, with what serves so many queries."""
        return [
            (*segment.keys_for_core(), segment.planner.index_of(segment.arrays["keys"], queries))
            for segment in self.segments
        ]

    def plan(self, queries: int, k: int, threads: int, at_once: bool = False) -> None:
        """Told before a search of so many queries: cascades and trees are built where that pays."""
        if self.preprocess.wide:
            return  # float64 keys have none
        for segment in self.segments:
            of = (segment.keys_for_core(), segment.arrays["keys"])
            segment.planner.ask(*of, queries, k, threads, at_once)

    def sample(self, positions: I64) -> Iterator[tuple[Segment, I64]]:
        """Segments and their rows at these ascending positions among the living rows."""
        start = 0
        for segment in self.segments:
            count = segment.n - segment.dead
            first, last = np.searchsorted(positions, (start, start + count))
            if first < last:
                yield segment, segment.living_at(positions[first:last] - start, self.version)
            start += count

    def numbered(self, positions: I64) -> I64:
        """These ascending positions among the living rows, numbered through all segments."""
        starts = np.cumsum([0, *(segment.n for segment in self.segments)])
        at = {id(segment): start for segment, start in zip(self.segments, starts, strict=False)}
        found = [at[id(segment)] + rows for segment, rows in self.sample(positions)]
        return np.concatenate([positions[:0], *found])

    def at(self, positions: I64) -> Iterator[tuple[Segment, I64]]:
        """Segments and their rows at these ascending positions, numbered through all segments."""
        start = 0
        for segment in self.segments:
            first, last = np.searchsorted(positions, (start, start + segment.n))
            if first < last:
                yield segment, positions[first:last] - start
            start += segment.n

    def positions_of(self, ids: I64) -> I64:
        """Positions, numbered through all segments, of ids; -1 for negative ones."""
        flat = np.ascontiguousarray(ids).reshape(-1)
        found, start = np.full(len(flat), -1), 0
        for segment in self.segments:
            rows = segment.find(flat)
            here = rows >= 0
            if segment.died is not None:
                died = segment.died[rows[here]]
                here[here] = (died == 0) | (died > self.version)
            found[here] = rows[here] + start
            start += segment.n
        missing = (found < 0) & (flat >= 0)
        if missing.any():
            raise ValueError(f"ids must be those of rows in the memory, {flat[missing][0]} is not")
        return found.reshape(ids.shape)

    # ------------------------------------------------------------------ ids of a file

    def with_checked_ids(self) -> Snapshot:
        """The same; FileFormatError if its ids contradict each other, as those of a file may."""
        if self.ids_checked:
            return self
        if fault := self.id_fault():
            raise damaged(fault)
        return replace(self, ids_checked=True)

    def id_fault(self, given: bool = True) -> str:
        """What is wrong with ids: each must be there once, below ``next_id`` and not retired, those
        of removed rows too. "" if all is well; without ``given``, of counted ids alone."""
        spans: list[tuple[int, int, Segment]] = []
        for segment in self.segments:
            if segment.n == 0 or (segment.has_ids and not given):
                continue
            ids = np.array([segment.first_id, segment.first_id + segment.n - 1])
            if segment.has_ids:
                ids = segment["ids"]
                if not (ids[1:] > ids[:-1]).all():
                    ids = np.sort(ids)
                    if twice := _twice(ids):
                        return twice
                if ids[0] < 0:
                    return f"{ids[0]} is the id of a row"
                for start in range(0, len(ids) if len(self.retired) else 0, _IDS):
                    retired = in_runs(some := ids[start : start + _IDS], self.retired)
                    if retired.any():
                        return f"{some[retired][0]} is the id of a row and of a removed one"
            else:
                at = bisect_left(self.retired[:, 1], segment.first_id)  # the run that ends there
                if at < len(self.retired) and self.retired[at, 0] <= ids[-1]:
                    return f"{self.retired[at]} holds the ids of removed rows and of others"
            spans.append((int(ids[0]), int(ids[-1]), segment))
        highest = max([last for _, last, _ in spans] + self.retired[-1:, 1].tolist(), default=-1)
        if highest >= self.next_id:
            return f"next_id is {self.next_id}, but {highest} is the id of a row"
        return self._overlap(sorted(spans, key=lambda span: span[:2]))

    @staticmethod
    def _overlap(spans: list[tuple[int, int, Segment]]) -> str:
        """What two segments have in common, of those whose ids lie in these spans, ascending."""
        together: list[Segment] = []
        last = -1
        for first, end, segment in spans:
            if first > last:
                together = []
            together.append(segment)
            last = max(last, end)
            if len(together) > 1:
                ids = [each.ids_of(np.arange(each.n)) for each in together]
                if twice := _twice(np.sort(np.concatenate(ids))):
                    return twice
        return ""

    # ------------------------------------------------------------------ the next snapshot

    def refuse_used(self, ids: I64) -> None:
        """ValueError if an id is or was taken."""
        if len(ids) == 0 or int(ids.min()) >= self.next_id:
            return
        used = in_runs(ids, self.retired)
        for segment in self.segments:
            used |= segment.find(ids) >= 0
        if used.any():
            raise ValueError(
                f"ids must never have been used before in this memory, got {ids[used][0]}"
            )

    def tail(self, schema: Schema, rows: int, given_ids: bool) -> Segment:
        """Where so many more rows go: the last segment if it grows and has the room, else a new,
        empty one as large as all that is in no file, so that few are ever needed."""
        if self.segments:
            last = self.segments[-1]
            follows = last.has_ids or (
                not given_ids and last.first_id + last.n == self.next_id and last.n > 0
            )
            if last.growing and follows and last.capacity - last.n >= rows:
                return last
        if given_ids:
            schema = {**schema, "ids": (np.int64, ())}
        least = _LEAST_ROOM // max(1, row_bytes(schema))
        try:
            unsaved = sum(s.n for s in self.segments if s.stored is None)
            arrays = room(schema, max(rows, least, unsaved))
        except MemoryError:
            arrays = room(schema, rows)
        return Segment(arrays, 0, first_id=0 if given_ids else self.next_id, growing=True)

    def grown(self, tail: Segment, rows: int, keys_max: float, error: float) -> Snapshot:
        """With so many rows, written behind those of ``tail``, published."""
        grown = replace(
            tail,
            n=tail.n + rows,
            keys_max=max(tail.keys_max, keys_max),
            error=max(tail.error, error),
        )
        same = bool(self.segments) and self.segments[-1].arrays is tail.arrays
        kept = self.segments[:-1] if same else self.segments
        if tail.has_ids:
            highest = int(tail.arrays["ids"][tail.n : grown.n].max(initial=-1))
        else:
            highest = grown.first_id + grown.n - 1
        return replace(self, segments=(*kept, grown), next_id=max(self.next_id, highest + 1))

    def without(self, ids: I64) -> Snapshot:
        """With these rows removed; ValueError, naming one, if any is not there.

        Takes constant time per id, whatever the number of rows.
        """
        ids = distinct(ids)
        missing = np.ones(len(ids), dtype=bool)
        found: list[I64] = []
        for segment in self.segments:
            rows = segment.find(ids)
            here = rows >= 0
            if segment.died is not None:
                here[here] = segment.died[rows[here]] == 0
            missing &= ~here
            found.append(rows[here])
        if missing.any():
            raise ValueError(f"ids to remove must be in the memory, {ids[missing][0]} is not")
        segments = tuple(
            segment.with_dead(rows, self.version + 1) if len(rows) else segment
            for segment, rows in zip(self.segments, found, strict=True)
        )
        return replace(self, segments=segments, version=self.version + 1)

    def withdraw_later(self) -> None:
        """Take back the stamps of a removal that was interrupted before it was published."""
        for segment in self.segments:
            if segment.died is not None:
                late = np.flatnonzero(segment.died[: segment.n] > self.version)
                _core.mark_died(segment.died, late, 0)

    def sealed(self) -> Snapshot:
        """The same rows; what is added later goes into a segment of its own."""
        return replace(self, segments=tuple(replace(s, growing=False) for s in self.segments))

    def first(
        self, schema: Schema, rows: int, given_ids: bool, borrowed: Mapping[str, Array]
    ) -> Segment:
        """Where the rows of a fit go: arrays of just that size, or those borrowed."""
        if given_ids:
            schema = {**schema, "ids": (np.int64, ())}
        missing = {name: kind for name, kind in schema.items() if name not in borrowed}
        return Segment({**room(missing, rows), **borrowed}, 0, borrowed=bool(borrowed))

    def marked(self, as_stored: Snapshot) -> Snapshot:
        """With what ``as_stored``, an earlier snapshot, says of where segments are stored."""
        places = {id(s.arrays): s.stored for s in as_stored.segments}
        return replace(
            self,
            segments=tuple(
                replace(s, stored=places.get(id(s.arrays), s.stored)) for s in self.segments
            ),
        )

    # ------------------------------------------------------------------ copies by value

    def portable(self, without: frozenset[str]) -> dict[str, Any]:
        """What a copy carries; not the arrays named."""
        parts = [s.portable(without) for s in self.segments]
        for part, segment in zip(parts, self.segments, strict=True):
            part["dead"] = segment.dead_rows(self.version)
        carried = (
            "d", "columns", "temperature", "flat", "auto_sigma", "sigma_basis", "next_id",
            "retired", "preprocess", "preprocess_basis", "allowed", "ids_checked",
            "embedding_names", "output_names",
        )  # fmt: skip
        return {**{name: getattr(self, name) for name in carried}, "segments": parts}

    @staticmethod
    def restored(parts: Mapping[str, Any]) -> Snapshot:
        """A snapshot of what ``portable`` gave."""
        segments = []
        for part in parts["segments"]:
            dead = part["dead"]
            owned = all(array.flags.owndata for array in part["arrays"].values())
            segment = Segment(**{**part, "dead": 0}, borrowed=not owned)
            segments.append(segment.with_dead(dead, 1) if len(dead) else segment)
        return Snapshot(**{**parts, "segments": tuple(segments), "version": 1})

    # ------------------------------------------------------------------ compaction

    def worth_compacting(self) -> slice | None:
        """Segments that should be one: a mostly dead one, or many of similar size."""
        for i, segment in enumerate(self.segments):
            if 2 * segment.dead > segment.n and segment.copied_bytes <= _MOST_COPIED:
                return slice(i, i + 1)
        if len(self.segments) <= _FEW_SEGMENTS:
            return None
        for stop in range(len(self.segments), 0, -1):
            start, rows, largest, taken = None, 0, 0, 0
            for first in range(stop - 1, -1, -1):
                segment = self.segments[first]
                taken += segment.copied_bytes
                if (rows and segment.n > 2 * rows) or taken > _MOST_COPIED:
                    break
                rows, largest = rows + segment.n, max(largest, segment.n)
                # Not for the sake of one large segment: growing ones double in size.
                if stop - first > _FEW_SEGMENTS and rows >= 4 * largest:
                    start = first
            if start is not None:
                return slice(start, stop)
        return None

    def compacted(self, at: slice, of: Snapshot, merged: Segment, gone: I64) -> Snapshot | None:
        """With ``merged``, made of ``of.segments[at]``, in their place, and rows removed since
        then removed there too; None if the segments are no longer those.

        ``gone``: runs of the ids that it lacks.
        """
        before, now = of.segments[at], self.segments[at]
        if [id(s.arrays) for s in before] != [id(s.arrays) for s in now] or any(
            a.n != b.n for a, b in zip(before, now, strict=True)
        ):
            return None
        start = 0
        for old, new in zip(before, now, strict=True):
            late = [np.empty(0, dtype=np.int64)]
            for rows in old.living_parts(of.version):
                if new.died is not None:
                    late.append(start + np.flatnonzero(new.died[rows] > 0))
                start += len(rows)
            if len(gone_since := np.concatenate(late)):
                merged = merged.with_dead(gone_since, self.version)
        segments = [*self.segments]
        segments[at] = [merged]
        return replace(self, segments=tuple(segments), retired=joined(self.retired, gone))

    def gone(self, at: slice) -> I64:
        """Runs of the ids of the dead rows of these segments."""
        return replace(self, segments=self.segments[at], retired=NO_RUNS).all_retired()
