"""Snapshots: all rows of a memory at one moment, in segments that grow at their end only.

Three rules let a running search keep the snapshot that it took, without a copy:

1. a published row is never written again; new rows go behind the last published one;
2. a removal marks its row with the version of the first snapshot without it, and a search ignores
   marks of versions later than its own;
3. whoever adds, removes or compacts holds the memory's lock and publishes a new snapshot.

An update is a removal and an addition in one snapshot. After one, the rows of an id are several, of
which at most one lives. ``retired`` never holds the id of a living row.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

import resmem._core as _core
from resmem._base.arrays import F64, I64, Array, Keys
from resmem._base.execution import DEFAULT, Execution
from resmem._base.metric import Metric
from resmem._keys.preprocess import IDENTITY, FittedPreprocess
from resmem._keys.rounding import comparable
from resmem._keys.stored import widen_keys
from resmem._rows.ages import decay
from resmem._rows.attributes import ATTRIBUTES, TimeKind
from resmem._rows.growth import UNKNOWN, Basis
from resmem._rows.ids import IDS_PER_STEP, NO_RUNS, cut, distinct, in_runs, joined, repeated, runs
from resmem._rows.segment import (
    LEAST_ROOM,
    Schema,
    Segment,
    damaged_rows,
    room,
    row_bytes,
    taken_apart,
)


@dataclass(frozen=True)
class Snapshot:
    """All rows at one moment, and the values that were derived from them."""

    segments: tuple[Segment, ...]
    d: int  # columns of embeddings; keys may have fewer
    columns: int  # columns of outputs
    temperature: float = 1.0  # at which the residuals are stored
    flat: bool = False  # whether regression values came as (n,)
    auto_sigma: float | None = None  # measured for sigma="auto"
    sigma_basis: Basis = UNKNOWN  # the rows that ``auto_sigma`` was measured on
    next_id: int = 0  # larger than every id that was ever used
    version: int = 0  # the number of removals so far
    # Runs of ids of removed rows that no segment holds any longer; they are never used again.
    retired: I64 = field(default_factory=lambda: NO_RUNS)
    # What makes keys of embeddings; the identity until there are rows to fit the memory's own to.
    preprocess: FittedPreprocess = IDENTITY
    preprocess_basis: Basis = UNKNOWN  # the rows that ``preprocess`` was fitted to
    allowed: float = math.inf  # how far rounding to float32 may move a query
    metric: Metric = "euclidean"  # by which keys are compared
    ids_checked: bool = True  # False for given ids of a file that was loaded without verification
    time_kind: TimeKind | None = None  # what the rows' times are; None: they have none
    half_life: float | None = None  # of the rows' weights, in units of times; None: no decay
    embedding_names: tuple[str, ...] | None = None  # columns of the DataFrames given to fit
    output_names: tuple[str, ...] | None = None
    updated: bool = False  # whether an id may occur in several rows, all but one of them removed
    # What was measured of these rows, by name. A snapshot that is made of this one starts anew.
    measured: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

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
        """Whether the memory never had a row."""
        return self.next_id == 0 and not self.segments

    @property
    def ids_are_positions(self) -> bool:
        """Whether all rows that the memory ever had live, under the ids 0, 1, .. of their order."""
        starts = np.cumsum([0, *(segment.n for segment in self.segments)]).tolist()
        counted = all(
            not segment.has_ids and segment.dead == 0 and segment.first_id == start
            for segment, start in zip(self.segments, starts, strict=False)
        )
        return counted and self.next_id == starts[-1]

    def with_names_of(self, other: Snapshot) -> Snapshot:
        """Return the snapshot with the other's column names, where the other has some."""
        return replace(
            self,
            embedding_names=other.embedding_names or self.embedding_names,
            output_names=other.output_names or self.output_names,
        )

    def all_retired(self) -> I64:
        """Return the runs of ids that a row once had and none has now."""
        return joined(self.retired, self.dead_ids(slice(None)))

    @property
    def repeats_ids(self) -> bool:
        """Whether a removed row may have the id of another row."""
        return self.updated and any(segment.dead for segment in self.segments)

    def keys(
        self, embeddings: Any, execution: Execution = DEFAULT, first_row: int = 0
    ) -> tuple[Keys, float]:
        """Return keys as they are compared, and a bound of their |values|; see
        ``FittedPreprocess.keys``."""
        made = self.preprocess.keys(embeddings, self.d, execution, first_row)
        return comparable(*made, self.metric)

    def keys_for_core(self, queries: int) -> list[_core.Segment]:
        """Return the core's description of segments, each with its index for this many queries."""
        described = []
        for segment in self.segments:
            index = segment.planner.index_of(segment.arrays["keys"], queries)
            rows = segment.for_core
            described.append(rows if index is None else rows.with_index(index))
        return described

    @property
    def attributes(self) -> list[str]:
        """Names of the attributes that some of the rows were given."""
        return [name for name in ATTRIBUTES if any(name in s.arrays for s in self.segments)]

    def weights_for_core(self) -> list[Any] | None:
        """Return the core's description of the rows' own weights; None if all are 1."""
        if self.half_life is not None:
            if "weights" not in self.measured:
                self.measured["weights"] = self._decayed_weights(self.half_life)
            decayed: list[Any] = self.measured["weights"]
            return decayed
        if "weights" not in self.attributes:
            return None
        return [s["weights"] if "weights" in s.arrays else s.n for s in self.segments]

    def weights_at(self, positions: I64) -> F64 | None:
        """Return the own weights (m,) of the rows at these ascending positions among all rows;
        None if all weigh 1."""
        described = self.weights_for_core()
        if described is None:
            return None
        of = {s.uid: w for s, w in zip(self.segments, described, strict=True)}
        parts = [
            np.ones(len(rows)) if isinstance(of[s.uid], int) else of[s.uid][rows]
            for s, rows in self.at(positions)
        ]
        return np.concatenate([np.empty(0), *parts])

    def _decayed_weights(self, half_life: float) -> list[F64]:
        """Return weights of all rows that fall with their age, beside the newest living row."""
        assert self.time_kind is not None
        living = [s["times"][s.living(self.version)] for s in self.segments]
        newest = max((int(times.max()) for times in living if len(times)), default=0)
        return [
            s.values("weights", np.arange(s.n))
            * decay(s["times"], newest, self.time_kind, half_life)
            for s in self.segments
        ]

    def plan(self, queries: int, k: int, execution: Execution, at_once: bool = False) -> None:
        """Count the queries of a search that is about to run, and build indexes where that pays."""
        if self.preprocess.wide:
            return  # float64 keys have no index
        for segment in self.segments:
            keys = (segment.for_core, segment.arrays["keys"])
            segment.planner.note_queries(*keys, queries, k, execution, at_once, self.metric)

    def keys_at(self, positions: I64) -> F64:
        """Return the stored keys (m, w) at some positions (m,), which may have any order."""
        order = np.argsort(positions, kind="stable")
        found = [widen_keys(segment["keys"][at]) for segment, at in self.at(positions[order])]
        keys = np.empty((len(positions), found[0].shape[1]))
        keys[order] = np.concatenate(found)
        return keys

    def sample(self, positions: I64) -> Iterator[tuple[Segment, I64]]:
        """Yield segments and their rows at these ascending positions among the living rows."""
        start = 0
        for segment in self.segments:
            count = segment.n - segment.dead
            first, last = np.searchsorted(positions, (start, start + count))
            if first < last:
                yield segment, segment.living_at(positions[first:last] - start, self.version)
            start += count

    def numbered(self, positions: I64) -> I64:
        """Return the positions among all rows of these ascending positions among living rows."""
        starts = np.cumsum([0, *(segment.n for segment in self.segments)])
        at = {segment.uid: start for segment, start in zip(self.segments, starts, strict=False)}
        found = [at[segment.uid] + rows for segment, rows in self.sample(positions)]
        return np.concatenate([positions[:0], *found])

    def at(self, positions: I64) -> Iterator[tuple[Segment, I64]]:
        """Yield segments and their rows at these ascending positions among all rows."""
        start = 0
        for segment in self.segments:
            first, last = np.searchsorted(positions, (start, start + segment.n))
            if first < last:
                yield segment, positions[first:last] - start
            start += segment.n

    @property
    def ids(self) -> I64:
        """The ids of the living rows, in the order of storage."""
        parts = [segment.ids_of(segment.living(self.version)) for segment in self.segments]
        return np.concatenate([np.empty(0, dtype=np.int64), *parts])

    def lives(self, ids: I64) -> npt.NDArray[np.bool_]:
        """Tell which ids are those of living rows."""
        there = np.zeros(len(ids), dtype=bool)
        for segment in self.segments:
            there |= segment.find_living(ids, self.version) >= 0
        return there

    def positions_of(self, ids: I64, name: str = "ids") -> I64:
        """Return the positions of ids among all rows; -1 for negative ids.

        ValueError if a row is not there; ``name`` is the argument that has its id.
        """
        flat = np.ascontiguousarray(ids).reshape(-1)
        found, start = np.full(len(flat), -1), 0
        for segment in self.segments:
            rows = segment.find_living(flat, self.version)
            here = rows >= 0
            found[here] = rows[here] + start
            start += segment.n
        missing = (found < 0) & (flat >= 0)
        if missing.any():
            raise ValueError(
                f"{name} must be those of rows in the memory, {flat[missing][0]} is not"
            )
        return found.reshape(ids.shape)

    # ------------------------------------------------------------------ ids of a file

    def with_checked_ids(self) -> Snapshot:
        """Return the snapshot with ids checked; FileFormatError if they contradict each other."""
        if self.ids_checked:
            return self
        if fault := self.id_fault():
            raise damaged_rows(fault)
        return replace(self, ids_checked=True)

    def id_fault(self, given: bool = True) -> str:
        """Say what is wrong with the ids of all rows, removed ones included; "" if nothing is.

        Each id must occur once, below ``next_id``, and not be retired. After an update a removed
        row may have the id of another or a retired one, but a living row is the last of its id in
        its segment. Without ``given``, only ids that are counted from ``first_id`` are checked.
        """
        spans: list[tuple[int, int, Segment]] = []
        highest = int(self.retired[-1:, 1].max(initial=-1))
        for segment in self.segments:
            if segment.n == 0 or (segment.has_ids and not given):
                continue
            ids = np.array([segment.first_id, segment.first_id + segment.n - 1])
            if segment.has_ids:
                ids = segment["ids"]
                if not (ids[1:] > ids[:-1]).all():
                    ids = np.sort(ids)
                    if (twice := repeated(ids)) and not self._only_removed_repeat(segment):
                        return twice
                if ids[0] < 0:
                    return f"{ids[0]} is the id of a row"
            highest = max(highest, int(ids[-1]))
            some_count = self.repeats_ids and segment.dead > 0
            if some_count and len(ids := np.sort(segment.ids_of(self._counted(segment)))) == 0:
                continue
            if segment.has_ids or some_count:
                for start in range(0, len(ids) if len(self.retired) else 0, IDS_PER_STEP):
                    retired = in_runs(some := ids[start : start + IDS_PER_STEP], self.retired)
                    if retired.any():
                        return f"{some[retired][0]} is the id of a row and of a removed one"
            else:
                # The first run that ends at ``first_id`` or later.
                at = bisect_left(self.retired[:, 1], segment.first_id)
                if at < len(self.retired) and self.retired[at, 0] <= ids[-1]:
                    return f"{self.retired[at]} holds the ids of removed rows and of others"
            spans.append((int(ids[0]), int(ids[-1]), segment))
        if highest >= self.next_id:
            return f"next_id is {self.next_id}, but {highest} is the id of a row"
        return self._overlap(sorted(spans, key=lambda span: span[:2]))

    def _counted(self, segment: Segment) -> I64:
        """Return the rows of a segment whose ids no other row may have."""
        return segment.living(self.version) if self.repeats_ids else np.arange(segment.n)

    def _only_removed_repeat(self, segment: Segment) -> bool:
        """Tell whether of the rows with one id in this segment all but the last are removed."""
        if not self.repeats_ids:
            return False
        order = np.argsort(segment["ids"], kind="stable")
        ids = segment["ids"][order]
        lives = np.zeros(segment.n, dtype=bool)
        lives[segment.living(self.version)] = True
        return not lives[order[:-1][ids[1:] == ids[:-1]]].any()

    def _overlap(self, spans: list[tuple[int, int, Segment]]) -> str:
        """Say which id two segments have in common; "" if none.

        ``spans`` holds the first id, the last id and the segment, in ascending order.
        """
        together: list[Segment] = []
        last = -1
        for first, end, segment in spans:
            if first > last:
                together = []
            together.append(segment)
            last = max(last, end)
            if len(together) > 1:
                ids = [other.ids_of(self._counted(other)) for other in together]
                if twice := repeated(np.sort(np.concatenate(ids))):
                    return twice
        return ""

    # ------------------------------------------------------------------ the next snapshot

    def refuse_used(self, ids: I64) -> None:
        """Refuse ids that a row has or ever had."""
        if len(ids) == 0 or int(ids.min()) >= self.next_id:
            return
        used = in_runs(ids, self.retired)
        for segment in self.segments:
            used |= segment.find(ids) >= 0
        if used.any():
            raise ValueError(
                f"ids must never have been used before in this memory, got {ids[used][0]}"
            )

    def tail(self, schema: Schema, rows: int, given_ids: bool, most: int | None = None) -> Segment:
        """Return the segment that this many more rows go to.

        It is the last segment if that grows and has room, else a new, empty one. A new one is as
        large as all unsaved rows, so that few are ever needed, or has room for ``most`` rows.
        """
        if self.segments:
            last = self.segments[-1]
            follows = last.has_ids or (
                not given_ids and last.first_id + last.n == self.next_id and last.n > 0
            )
            fits = schema.keys() <= last.arrays.keys()
            if last.growing and follows and fits and last.capacity - last.n >= rows:
                return last
        if given_ids:
            schema = {**schema, "ids": (np.int64, ())}
        least = LEAST_ROOM // max(1, row_bytes(schema))
        try:
            unsaved = sum(s.n for s in self.segments if s.stored is None)
            arrays = room(schema, max(rows, max(least, unsaved) if most is None else most))
        except MemoryError:
            arrays = room(schema, rows)
        return Segment(arrays, 0, first_id=0 if given_ids else self.next_id, growing=True)

    def grown(self, tail: Segment, rows: int, keys_max: float, error: float) -> Snapshot:
        """Return the snapshot with this many more rows, already written behind ``tail``'s."""
        grown = replace(
            tail,
            n=tail.n + rows,
            keys_max=max(tail.keys_max, keys_max),
            error=max(tail.error, error),
        )
        same = bool(self.segments) and self.segments[-1].uid == tail.uid
        kept = self.segments[:-1] if same else self.segments
        if tail.has_ids:
            highest = int(tail.arrays["ids"][tail.n : grown.n].max(initial=-1))
        else:
            highest = grown.first_id + grown.n - 1
        return replace(self, segments=(*kept, grown), next_id=max(self.next_id, highest + 1))

    def without_rows_at_end(self, rows: I64, count: int) -> Snapshot:
        """Return the snapshot without some of the last ``count`` rows, given by their order."""
        if len(rows) == 0:
            return self
        last = self.segments[-1]
        removed = last.with_dead(rows + (last.n - count), self.version + 1)
        return replace(self, segments=(*self.segments[:-1], removed), version=self.version + 1)

    def without(self, ids: I64) -> Snapshot:
        """Return the snapshot without these rows; ValueError, naming one, if any is not there.

        This takes constant time per id, whatever the number of rows.
        """
        return self._with_dead([rows for rows, _ in self.rows_of(distinct(ids), "remove")])

    def updated_by(self, ids: I64, write: Callable[[Snapshot], Snapshot]) -> Snapshot:
        """Return the snapshot in which new rows have taken the place of the rows with these ids.

        ``write`` returns a snapshot with the new rows added. ValueError, naming one, if an id is
        not there; nothing is written then. This takes constant time per id, as ``without`` does.
        """
        old = [rows for rows, _ in self.rows_of(ids, "update")]
        return replace(write(self)._with_dead(old), updated=True)

    def rows_of(self, ids: I64, verb: str) -> list[tuple[I64, I64]]:
        """Return the living rows of each segment that have one of these ids (m,), and where in the
        ids each of them stands.

        ValueError if one is not there; ``verb`` says what its row was looked up for.
        """
        missing = np.ones(len(ids), dtype=bool)
        found: list[tuple[I64, I64]] = []
        for segment in self.segments:
            rows = segment.find_living(ids, self.version)
            here = np.flatnonzero(rows >= 0)
            missing[here] = False
            found.append((rows[here], here))
        if missing.any():
            raise ValueError(f"ids to {verb} must be in the memory, {ids[missing][0]} is not")
        return found

    def _with_dead(self, rows: list[I64]) -> Snapshot:
        """Return the snapshot with these living rows of the first segments removed."""
        segments = list(self.segments)
        for at, dead in enumerate(rows):
            if len(dead):
                segments[at] = segments[at].with_dead(dead, self.version + 1)
        return replace(self, segments=tuple(segments), version=self.version + 1)

    def shed(self, gone: Sequence[I64 | None], most: int) -> Snapshot:
        """Return the snapshot without these living rows of each segment; None: all of them.

        Segments of which no row is left are dropped. One of which some are left, and which owns
        more than twice ``most`` rows, gives way to copies of up to ``most`` of them each, so that
        the memory of the rows that are gone is given back.
        """
        marked = [np.empty(0, dtype=np.int64) if part is None else part for part in gone]
        after = self._with_dead(marked)
        left: list[Segment] = []
        lost: list[tuple[Segment, bool]] = []  # with whether all rows are lost, or removed ones
        for segment, rows in zip(after.segments, gone, strict=True):
            if rows is None:
                lost.append((segment, True))
            elif len(rows) and segment.n > 2 * most and not segment.borrowed:
                left += taken_apart(segment, after.version, most)
                lost.append((segment, False))
            else:
                left.append(segment)
        after = replace(after, segments=tuple(left))
        for segment, whole in lost:
            after = replace(after, retired=joined(after.retired, after._unused(segment, whole)))
        return after

    def _unused(self, segment: Segment, whole: bool) -> I64:
        """Return runs of the ids of all or of the removed rows of a former segment, but for those
        that a row has now."""
        if whole and segment.n and not (segment.has_ids or self.updated):
            return np.array([[segment.first_id, segment.first_id + segment.n - 1]])
        ids = segment.ids_of(np.arange(segment.n) if whole else segment.dead_rows())
        return runs(ids[~self.lives(ids)] if self.updated else ids)

    def joined_with(self, other: Snapshot) -> Snapshot:
        """Return the snapshot with the rows of ``other`` added, under their own ids.

        The rows are not copied: segments share the arrays of ``other``. What ``other`` has removed
        is removed here too, apart from ids that rows have here.
        """
        for part in other.segments:
            for rows in part.living_parts(other.version):
                self.refuse_used(part.ids_of(rows))
        version, retired = self.version + 1, other.all_retired()
        # Rows that were removed in one may have ids of the other.
        updated = self.updated or other.updated or len(retired) > 0
        for start in range(0, len(mine := self.ids) if len(retired) else 0, IDS_PER_STEP):
            some = mine[start : start + IDS_PER_STEP]
            retired = cut(retired, some[in_runs(some, retired)])
        return replace(
            self,
            segments=(
                *self.segments,
                *(s.shared(version) for s in other.segments if s.n > s.dead),
            ),
            next_id=max(self.next_id, other.next_id),
            version=version,
            retired=joined(self.retired, retired),
            allowed=min(self.allowed, other.allowed),
            updated=updated,
        ).with_names_of(other)

    def undo_unpublished_removals(self) -> None:
        """Bring back the rows of a removal that was interrupted before it was published."""
        for segment in self.segments:
            if segment.removals is not None:
                segment.removals.undo(segment.dead)

    def sealed(self) -> Snapshot:
        """Return the same rows in segments that do not grow: later rows go to a new segment."""
        return replace(self, segments=tuple(replace(s, growing=False) for s in self.segments))

    def first_segment(
        self, schema: Schema, rows: int, given_ids: bool, borrowed: Mapping[str, Array]
    ) -> Segment:
        """Return an empty segment for the rows of a fit: arrays of that size, or borrowed ones."""
        if given_ids:
            schema = {**schema, "ids": (np.int64, ())}
        missing = {name: kind for name, kind in schema.items() if name not in borrowed}
        return Segment({**room(missing, rows), **borrowed}, 0, borrowed=bool(borrowed))

    def stored_as(self, saved: Snapshot) -> Snapshot:
        """Return the snapshot with the places in a file that ``saved``, an earlier one, has."""
        places = {s.uid: s.stored for s in saved.segments}
        return replace(
            self,
            segments=tuple(replace(s, stored=places.get(s.uid, s.stored)) for s in self.segments),
        )

    # ------------------------------------------------------------------ copies by value

    def portable(self, without: frozenset[str]) -> dict[str, Any]:
        """Return what a copy by value carries, except the arrays in ``without``."""
        parts = [s.portable(without) for s in self.segments]
        for part, segment in zip(parts, self.segments, strict=True):
            part["dead"] = segment.dead_rows()
        carried = (
            "d", "columns", "temperature", "flat", "auto_sigma", "sigma_basis", "next_id",
            "retired", "preprocess", "preprocess_basis", "allowed", "metric", "ids_checked",
            "time_kind", "half_life", "embedding_names", "output_names", "updated",
        )  # fmt: skip
        return {**{name: getattr(self, name) for name in carried}, "segments": parts}

    @staticmethod
    def restored(parts: Mapping[str, Any]) -> Snapshot:
        """Return the snapshot of which ``portable`` gave these parts."""
        segments = []
        for part in parts["segments"]:
            dead = part["dead"]
            owned = all(array.flags.owndata for array in part["arrays"].values())
            segment = Segment(**{**part, "dead": 0}, borrowed=not owned)
            segments.append(segment.with_dead(dead, 1) if len(dead) else segment)
        return Snapshot(**{**parts, "segments": tuple(segments), "version": 1})

    # ------------------------------------------------------------------ compaction

    def compacted(
        self, at: slice, source: Snapshot, merged: Segment, dead_ids: I64
    ) -> Snapshot | None:
        """Return the snapshot with ``merged`` in place of the segments ``at``.

        ``merged`` was made from ``source.segments[at]``; rows removed since then are removed from
        it too. None if the segments are no longer those. ``dead_ids`` are runs of the ids that
        ``merged`` lacks.
        """
        before, now = source.segments[at], self.segments[at]
        if [s.uid for s in before] != [s.uid for s in now] or any(
            a.n != b.n for a, b in zip(before, now, strict=True)
        ):
            return None
        start = 0
        for old, new in zip(before, now, strict=True):
            late = [np.empty(0, dtype=np.int64)]
            for rows in old.living_parts(source.version):
                if new.died is not None:
                    late.append(start + np.flatnonzero(new.died[rows] > 0))
                start += len(rows)
            if len(removed_since := np.concatenate(late)):
                merged = merged.with_dead(removed_since, self.version)
        segments = [*self.segments]
        segments[at] = [merged]
        return replace(self, segments=tuple(segments), retired=joined(self.retired, dead_ids))

    def dead_ids(self, at: slice) -> I64:
        """Return runs of the ids of the removed rows in these segments that no row has now."""
        found = NO_RUNS
        for segment in self.segments[at]:
            if segment.dead:
                found = joined(found, self._unused(segment, whole=False))
        return found
