"""A memory as a file: which arrays and settings it consists of, and what is new since last time.

``_container`` knows where the bytes lie; this module knows what they mean. Every array of a
segment is a section of its own, ``NUMBER/NAME``, so that an append writes new segments, the
lists of removed rows that changed, and the settings.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from resmem import _container
from resmem._container import Section, Version
from resmem._errors import FileFormatError
from resmem._rows import Array, Schema, Segment, Snapshot, Stored

Progress: TypeAlias = "Callable[[int], None] | None"

EXPORTS = (".npz", ".safetensors")  # files called so are not ours but _export's

_LAST_ID = 2**63 - 1


@dataclass(frozen=True)
class File:
    """What a file holds, as of the time it was last written or read."""

    path: str
    version: Version
    numbers: int = 0  # segments it ever held
    removed: Mapping[int, int] = field(default_factory=dict)  # removed rows, by segment
    retired: int = 0


def save(
    path: str | os.PathLike[str],
    settings: Mapping[str, Any],
    head: Mapping[str, Array],
    rows: Snapshot,
    after: File | None,
    progress: Progress,
) -> tuple[Snapshot, File]:
    """Write a memory; with ``after``, only what is not yet in that file.

    Returns the snapshot, its segments marked as stored, and the file.
    """
    name = os.path.abspath(os.fspath(path))
    work = _Writing(rows, head, after)
    meta = {
        "memory": dict(settings),
        "d": rows.d,
        "columns": rows.columns,
        "next_id": rows.next_id,
        "numbers": work.numbers,
        "segments": [work.described(s, n) for s, n in zip(rows.segments, work.number, strict=True)],
    }
    if after is None:
        version = _container.save(name, meta, work.sections(), progress)
    else:
        version = _container.append(
            name, after.version, meta, work.kept(), work.sections(), progress
        )
    stored = tuple(
        replace(s, stored=Stored(version.uuid, number, frozenset(s.arrays)))
        for s, number in zip(rows.segments, work.number, strict=True)
    )
    removed = {n: s.dead for s, n in zip(rows.segments, work.number, strict=True) if s.dead}
    file = File(name, version, work.numbers, removed, len(rows.retired))
    return replace(rows, segments=stored), file


class _Writing:
    """Sections of a snapshot: those that ``after`` has already and those it lacks."""

    def __init__(self, rows: Snapshot, head: Mapping[str, Array], after: File | None) -> None:
        self.rows, self.head, self.after = rows, head, after
        self.numbers = 0 if after is None else after.numbers
        self.number: list[int] = []
        for segment in rows.segments:
            if self._names(segment):
                assert segment.stored is not None
                self.number.append(segment.stored.number)
            else:
                self.number.append(self.numbers)
                self.numbers += 1

    def _names(self, segment: Segment) -> frozenset[str]:
        """Arrays of this segment that the file has."""
        stored = segment.stored
        if self.after is None or stored is None or stored.uuid != self.after.version.uuid:
            return frozenset()
        return stored.names

    @staticmethod
    def described(segment: Segment, number: int) -> dict[str, Any]:
        return {
            "number": number,
            "rows": segment.n,
            "first_id": segment.first_id,
            "has_ids": segment.has_ids,
            "keys_max": segment.keys_max,
            "error": segment.error,
            "removed": segment.dead,
        }

    def kept(self) -> list[str]:
        return [name for name, array in self._all() if array is None]

    def sections(self) -> Iterator[Section]:
        return (Section(name, array) for name, array in self._all() if array is not None)

    def _all(self) -> Iterator[tuple[str, Array | None]]:
        """Names of all sections, and the arrays of those that are to be written."""
        for name, array in self.head.items():
            yield f"head/{name}", array if self.after is None else None
        if len(self.rows.retired):
            same = self.after is not None and self.after.retired == len(self.rows.retired)
            yield "retired", None if same else self.rows.retired
        for segment, number in zip(self.rows.segments, self.number, strict=True):
            there = self._names(segment)
            for name in segment.arrays:
                yield f"{number}/{name}", None if name in there else segment[name]
            if segment.dead:
                same = bool(there) and self.after.removed.get(number, 0) == segment.dead  # type: ignore[union-attr]
                dead = None if same else segment.dead_rows(self.rows.version)
                yield f"{number}/removed", dead


# ---- reading -------------------------------------------------------------------------------


SchemaOf: TypeAlias = Callable[[int, int], Schema]  # of d and columns: the arrays of a segment


@dataclass(frozen=True)
class Saved:
    """A memory as read from a file: what it is made with, and its rows."""

    settings: dict[str, Any]
    head: dict[str, Array]  # "weight" and "bias", or nothing
    rows: Callable[[SchemaOf], tuple[Snapshot, File | None]]
    bad: Callable[[str], FileFormatError]  # what to raise if any of it makes no sense


class Reader:
    """Fields and arrays of a file, each checked when it is taken."""

    def __init__(self, path: str, loaded: _container.Loaded) -> None:
        self.path, self.meta = path, loaded.meta
        self._arrays, self._unread = loaded.arrays, set(loaded.required)

    def bad(self, what: str) -> FileFormatError:
        return FileFormatError(
            f"{self.path} is not a memory that this version can read: {what}; "
            "restore it from a copy or use a later version of resmem"
        )

    def whole(self, fields: Any, name: str, most: int = _LAST_ID) -> int:
        value = self.field(fields, name)
        if type(value) is not int or not 0 <= value <= most:
            raise self.bad(f"{name} is {value!r}, expected a whole number up to {most}")
        return value

    def number(self, fields: Any, name: str) -> float:
        value = self.field(fields, name)
        if type(value) not in (int, float) or not (math.isfinite(value) and value >= 0):
            raise self.bad(f"{name} is {value!r}, expected a number of at least 0")
        return float(value)

    def field(self, fields: Any, name: str) -> Any:
        if not isinstance(fields, dict) or name not in fields:
            raise self.bad(f"{name} is missing")
        return fields[name]

    def array(self, name: str, dtype: Any, shape: tuple[int, ...]) -> Array:
        self._unread.discard(name)
        array = self._arrays.get(name)
        if array is None:
            raise self.bad(f"section {name!r} is missing")
        if array.dtype != dtype or array.shape != shape:
            found = f"{array.dtype} {array.shape}"
            raise self.bad(f"section {name!r} is {found}, expected {np.dtype(dtype)} {shape}")
        return array

    def size(self, name: str) -> int:
        """Length of a one-dimensional array; 0 if there is none."""
        array = self._arrays.get(name)
        return 0 if array is None or array.ndim != 1 else len(array)

    def finish(self) -> None:
        """A required section that nobody asked for says something this version cannot know."""
        if self._unread:
            raise self.bad(f"section {min(self._unread)!r} is unknown")


def load(path: str | os.PathLike[str], verify: bool, progress: Progress) -> Saved:
    """Map a file."""
    name = os.path.abspath(os.fspath(path))
    loaded = _container.load(name, verify, progress)
    reader = Reader(name, loaded)
    settings = reader.field(loaded.meta, "memory")
    if not isinstance(settings, dict):
        raise reader.bad("memory is not a table of settings")
    head = {}
    if settings.get("store") == "head":
        d, columns = reader.whole(reader.meta, "d"), reader.whole(reader.meta, "columns")
        head = {
            "weight": reader.array("head/weight", np.float32, (columns, d)),
            "bias": reader.array("head/bias", np.float32, (columns,)),
        }
    file = File(name, loaded.version, reader.whole(reader.meta, "numbers"))
    return Saved(settings, head, lambda schema_of: _rows(reader, file, schema_of), reader.bad)


def _rows(reader: Reader, file: File, schema_of: SchemaOf) -> tuple[Snapshot, File]:
    meta = reader.meta
    d, columns = reader.whole(meta, "d"), reader.whole(meta, "columns")
    if not (0 < d < 2**31 and 0 < columns < 2**31):
        raise reader.bad(f"d is {d} and columns {columns}, expected 1 to 2^31 - 1")
    schema = schema_of(d, columns)
    described = reader.field(meta, "segments")
    if not isinstance(described, list):
        raise reader.bad("segments is not a list")
    segments = tuple(_segment(reader, each, schema, file) for each in described)
    if len({s.stored.number for s in segments if s.stored}) != len(segments):
        raise reader.bad("two segments have one number")
    retired = reader.array("retired", np.int64, (n,)) if (n := reader.size("retired")) else None
    reader.finish()
    rows = Snapshot(
        segments,
        d,
        columns,
        next_id=reader.whole(meta, "next_id", _LAST_ID + 1),
        version=1,
        retired=np.empty(0, dtype=np.int64) if retired is None else retired,
    )
    removed = {s.stored.number: s.dead for s in segments if s.stored and s.dead}
    return rows, replace(file, removed=removed, retired=len(rows.retired))


def _segment(reader: Reader, fields: Any, schema: Schema, file: File) -> Segment:
    number = reader.whole(fields, "number", max(0, file.numbers - 1))
    n = reader.whole(fields, "rows")
    has_ids = reader.field(fields, "has_ids")
    if has_ids is True:
        schema = {**schema, "ids": (np.int64, ())}
    elif has_ids is not False:
        raise reader.bad(f"has_ids is {has_ids!r}, expected true or false")
    arrays = {
        name: reader.array(f"{number}/{name}", dtype, (n, *shape))
        for name, (dtype, shape) in schema.items()
    }
    segment = Segment(
        arrays,
        n,
        keys_max=reader.number(fields, "keys_max"),
        first_id=reader.whole(fields, "first_id", _LAST_ID - max(0, n - 1)),
        error=reader.number(fields, "error"),
        borrowed=True,
        stored=Stored(file.version.uuid, number, frozenset(arrays)),
    )
    dead = reader.whole(fields, "removed", n)
    if dead:
        rows = reader.array(f"{number}/removed", np.int64, (dead,))
        if rows[0] < 0 or rows[-1] >= n or (rows[1:] <= rows[:-1]).any():
            raise reader.bad(f"section '{number}/removed' does not list rows in ascending order")
        segment = segment.with_dead(rows, 1)
    return segment
