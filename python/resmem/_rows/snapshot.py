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
from typing import Any

import numpy as np

from resmem import _core
from resmem._base.arrays import I64, Array, Keys
from resmem._keys.preprocess import IDENTITY, FittedPreprocess
from resmem._rows.growth import UNKNOWN, Basis
from resmem._rows.ids import AT_ONCE, NO_RUNS, distinct, in_runs, joined, repeated, runs
from resmem._rows.segment import LEAST_ROOM, Schema, Segment, damaged, room, row_bytes

_FEW_SEGMENTS = 8  # this many of similar size are merged into one
_MOST_COPIED = 64 << 20  # bytes of borrowed rows that a compaction may take into memory


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
    preprocess: FittedPreprocess = (
        IDENTITY  # makes keys of embeddings; not that of the memory until there
    )
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
        """Return the keys of queries and their largest |value|; see ``FittedPreprocess.keys``."""
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
            segment.planner.note_queries(*of, queries, k, threads, at_once)

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
                    if twice := repeated(ids):
                        return twice
                if ids[0] < 0:
                    return f"{ids[0]} is the id of a row"
                for start in range(0, len(ids) if len(self.retired) else 0, AT_ONCE):
                    retired = in_runs(some := ids[start : start + AT_ONCE], self.retired)
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
                if twice := repeated(np.sort(np.concatenate(ids))):
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
        least = LEAST_ROOM // max(1, row_bytes(schema))
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
