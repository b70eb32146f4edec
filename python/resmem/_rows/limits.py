"""Limits of a memory: which rows go, the oldest first, when there are too many of them.

Rows go by count and by bytes in the order of storage, and by age in the order of their times. A
segment all of whose rows go is dropped, which takes no time per row where ids are counted. Of
another one the rows are marked as removed; so segments of a limited memory are small, and one that
is larger is first copied in parts.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from resmem._base import checks
from resmem._base.arrays import I64
from resmem._rows.attributes import TimeKind, times_as_given, times_of
from resmem._rows.segment import Segment
from resmem._rows.snapshot import Snapshot

Age: TypeAlias = "int | float | np.timedelta64"

# Rows are kept in at least so many segments: what goes is marked in one of them at a time, so that
# removed rows take at most a sixteenth more than is kept.
_PARTS = 16
_LEAST_PART = 64 << 10  # bytes; smaller segments would only make searches slower
_FIRST_TIME = -(2**63)
_LONGEST = 2**63  # nanoseconds, which a timedelta cannot hold any more
# Of the units that have a fixed length, which months and years have not.
_NANOSECONDS = {
    "W": 604_800 * 10**9, "D": 86_400 * 10**9, "h": 3_600 * 10**9, "m": 60 * 10**9, "s": 10**9,
    "ms": 10**6, "us": 10**3, "ns": 1,
}  # fmt: skip


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
            None if max_age is None else _checked_age(max_age),
        )

    def recorded(self) -> dict[str, Any]:
        """Return the limits as files keep them."""
        age: Any = self.max_age
        if isinstance(age, np.timedelta64):
            age = f"{age.astype(np.int64)} ns"
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


def recorded_age(value: Any) -> Any:
    """Return the ``max_age`` that ``Limits.recorded`` made this of; ValueError for other text."""
    if not isinstance(value, str):
        return value
    return np.timedelta64(int(value.removesuffix(" ns")), "ns")


def _checked_age(value: Any) -> Age:
    if isinstance(value, (np.timedelta64, datetime.timedelta)):
        exact = _nanoseconds(value)
        if not exact >= np.timedelta64(0, "ns"):  # NaT neither
            raise ValueError(f"max_age must be a time span of at least 0, got {value!r}")
        return exact
    age = checks.number(value, "max_age")
    if not 0 <= age < math.inf:
        raise ValueError(f"max_age must be a finite number of at least 0, got {value!r}")
    return int(value) if isinstance(value, (int, np.integer)) else age


def _nanoseconds(value: Any) -> np.timedelta64:
    """Return a time span in nanoseconds; ValueError if they do not hold it."""
    span = np.timedelta64(value)
    unit, steps = np.datetime_data(span.dtype)
    exact = int(span.astype(np.int64)) * steps * _NANOSECONDS.get(unit, _LONGEST)
    if abs(exact) >= _LONGEST and not np.isnat(span):
        raise ValueError(
            "max_age must be in a unit from weeks to nanoseconds, and below 292 years, got "
            f"{value!r}"
        )
    return np.timedelta64("NaT" if np.isnat(span) else exact, "ns")


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
    if rows.time_kind is None:
        raise ValueError(
            "max_age needs times of rows, which fit was not given; fit with times=numpy.arange(n), "
            "say, or set max_age=None"
        )
    spans = [segment.time_span for segment in rows.segments]
    newest = max((span[1] for span in spans if span is not None), default=_FIRST_TIME)
    first = _first_kept(newest, max_age, rows.time_kind)
    gone: list[I64 | None] = []
    for segment, span in zip(rows.segments, spans, strict=True):
        living = np.empty(0, dtype=np.int64)
        if span is not None and span[0] < first <= span[1]:
            living = segment.living(rows.version)
        whole = span is None or span[1] < first
        gone.append(None if whole else living[segment["times"][living] < first])
    return gone


def _first_kept(newest: int, max_age: Age, kind: TimeKind) -> int:
    """Return the time, as it is stored, before which rows are too old."""
    timedelta = isinstance(max_age, np.timedelta64)
    if timedelta != (kind == "datetimes"):
        expected = "a numpy.timedelta64" if kind == "datetimes" else "a number"
        raise ValueError(f"max_age must be {expected}, as times are {kind}, got {max_age!r}")
    if kind == "floats":
        value = times_as_given(np.array([newest]), kind) - float(max_age)
        return int(times_of(value, "times")[0][0])
    # Of whole times, those too old by a fraction are those too old by the whole number below it.
    age = int(max_age.astype(np.int64)) if isinstance(max_age, np.timedelta64) else int(max_age)
    return max(_FIRST_TIME, newest - age)


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
