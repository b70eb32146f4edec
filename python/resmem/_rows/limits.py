"""Limits of a memory: which rows go, the oldest first, when there are too many of them.

Rows go by count and by bytes in the order of storage, and by age in the order of their times. A
segment all of whose rows go is dropped, which takes no time per row where ids are counted. Of
another one the rows are marked as removed; so segments of a limited memory are small, and one that
is larger is first copied in parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resmem._base import checks
from resmem._base.arrays import I64
from resmem._rows.ages import Age, checked_age, in_units, recorded
from resmem._rows.attributes import TimeKind, times_as_given, times_of
from resmem._rows.segment import Segment
from resmem._rows.snapshot import Snapshot

# Rows are kept in at least so many segments: what goes is marked in one of them at a time, so that
# removed rows take at most a sixteenth more than is kept.
_PARTS = 16
_LEAST_PART = 64 << 10  # bytes; smaller segments would only make searches slower
_FIRST_TIME = -(2**63)


@dataclass(frozen=True)
class Limits:
    """How many rows a memory keeps, at most; None is no limit."""

    max_rows: int | None = None
    max_bytes: int | None = None
    max_age: Age | None = None  # a timedelta in nanoseconds, for times that are datetimes

    @staticmethod
    def of(max_rows: Any, max_bytes: Any, max_age: Any) -> Limits:
        """Return limits that a caller gives, checked."""
        return Limits(
            None if max_rows is None else checks.count(max_rows, "max_rows"),
            None if max_bytes is None else checks.count(max_bytes, "max_bytes"),
            None if max_age is None else checked_age(max_age, "max_age"),
        )

    def recorded(self) -> dict[str, Any]:
        """Return the limits as files keep them."""
        age = recorded(self.max_age)
        return {"max_rows": self.max_rows, "max_bytes": self.max_bytes, "max_age": age}

    def part_rows(self, rows: int, row_bytes: int) -> int | None:
        """Return how many rows a new segment may have, beside ``rows``; None: without limits."""
        if self == UNLIMITED:
            return None
        kept = [rows] if self.max_rows is None and self.max_bytes is None else []
        if self.max_rows is not None:
            kept.append(self.max_rows)
        if self.max_bytes is not None:
            kept.append(self.max_bytes // row_bytes)
        return max(1, _LEAST_PART // row_bytes, min(kept) // _PARTS)


UNLIMITED = Limits()


def limited(rows: Snapshot, limits: Limits) -> Snapshot:
    """Return the snapshot without the rows that its limits leave no room for."""
    if limits == UNLIMITED or len(rows) == 0:
        return rows
    if limits.max_age is not None:
        rows = _without(rows, limits, _too_old(rows, limits.max_age))
    return _without(rows, limits, _first(rows, _excess(rows, limits)))


def _without(rows: Snapshot, limits: Limits, gone: Sequence[I64 | None]) -> Snapshot:
    """Return the snapshot without these rows of each segment; None: without the segment."""
    last = rows.segments[-1]
    if all(part is not None and len(part) == 0 for part in gone):
        return rows
    most = limits.part_rows(len(rows), last.row_bytes)
    return rows.shed(gone, most or last.n)


def _too_old(rows: Snapshot, max_age: Age) -> list[I64 | None]:
    """Return the rows that are older than the newest one by more than ``max_age``."""
    age, kind = in_units(max_age, rows.time_kind, "max_age"), rows.time_kind
    spans = [segment.time_span for segment in rows.segments]
    newest = max((span[1] for span in spans if span is not None), default=_FIRST_TIME)
    first = _first_kept(newest, age, kind)
    gone: list[I64 | None] = []
    for segment, span in zip(rows.segments, spans, strict=True):
        living = np.empty(0, dtype=np.int64)
        if span is not None and span[0] < first <= span[1]:
            living = segment.living(rows.version)
        whole = span is None or span[1] < first
        gone.append(None if whole else living[segment["times"][living] < first])
    return gone


def _first_kept(newest: int, age: float, kind: TimeKind | None) -> int:
    """Return the time, as it is stored, before which rows are too old."""
    if kind == "floats":
        value = times_as_given(np.array([newest]), kind) - float(age)
        return int(times_of(value, "times")[0][0])
    # Of whole times, those too old by a fraction are those too old by the whole number below it.
    return max(_FIRST_TIME, newest - int(age))


def _excess(rows: Snapshot, limits: Limits) -> int:
    """Return how many rows are too many by count or by bytes."""
    living, kept = len(rows), len(rows)
    if limits.max_rows is not None:
        kept = min(kept, limits.max_rows)
    if limits.max_bytes is not None:
        left, fit = limits.max_bytes, 0
        for segment in reversed(rows.segments):
            here = segment.n - segment.dead
            some = min(here, left // segment.row_bytes)
            fit, left = fit + some, left - some * segment.row_bytes
            if some < here:
                break
        if living and fit == 0:
            raise ValueError(
                f"max_bytes must be at least the {rows.segments[-1].row_bytes} bytes of a row, "
                f"got {limits.max_bytes}"
            )
        kept = min(kept, fit)
    return living - kept


def _first(rows: Snapshot, excess: int) -> list[I64 | None]:
    """Return the first ``excess`` living rows, by segment."""
    gone: list[I64 | None] = []
    for segment in rows.segments:
        some = min(excess, segment.n - segment.dead)
        excess -= some
        gone.append(_first_of(segment, some, rows.version))
    return gone


def _first_of(segment: Segment, count: int, version: int) -> I64 | None:
    """Return the first living rows of a segment; None if no others live."""
    if count == segment.n - segment.dead:
        return None
    return segment.living_at(np.arange(count), version)
