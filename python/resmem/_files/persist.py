"""A memory as a file: its arrays and settings, and which of them an append has to write.

``container/`` knows where the bytes lie; this module knows what they mean. Every array of a
segment is a section of its own, ``NUMBER/NAME``, so that an append writes only new segments, the
lists of removed rows that changed, and the settings.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from resmem._base.arrays import Array, release_pages
from resmem._base.errors import FileFormatError
from resmem._base.metric import METRICS
from resmem._files import container
from resmem._files.container import Pieces, Section, Version
from resmem._indexes.decision import KINDS, Decision, decision_from_file
from resmem._indexes.policy import Planner
from resmem._keys.preprocess import IDENTITY, NO_PREPROCESS, FittedPreprocess, preprocess_named
from resmem._rows.attributes import ATTRIBUTES, TIME_KINDS, TimeKind, are_weights
from resmem._rows.ids import NO_RUNS
from resmem._rows.segment import Schema, Segment, Stored, target_fault
from resmem._rows.snapshot import Snapshot
from resmem._rows.spec import INDEX_TASK
from resmem._rows.stores.named import shared_schema

Progress: TypeAlias = "Callable[[int], None] | None"

EXPORTS = (".npz", ".safetensors")  # suffixes of the files that ``export.py`` reads and writes

# What earlier versions do not know, and would leave out: a file that has it says so in a section
# that every reader must know, so that these refuse the file. Whether a file has it follows from
# the settings, the rows, and whether they are appended.
_NEEDS: dict[str, Callable[[Mapping[str, Any], Snapshot, bool], bool]] = {
    "targets": lambda settings, rows, append: settings.get("method", "residual") != "residual",
    "gate": lambda settings, rows, append: settings.get("gate", "none") != "none",
    # Earlier versions know the metric of an index.
    "metric": lambda settings, rows, append: (
        rows.metric != "euclidean" and settings.get("task") != INDEX_TASK
    ),
    "classes": lambda settings, rows, append: settings.get("classes") is not None,
    "decay": lambda settings, rows, append: settings.get("half_life") is not None,
    "attributes": lambda settings, rows, append: bool(rows.attributes),
    # A whole file leaves removed rows out, and with them all rows whose id another one has.
    "updates": lambda settings, rows, append: append and rows.repeats_ids,
}

_LAST_ID = 2**63 - 1
_MOST_NUMBERS = 2**48  # segments that a file may ever have held
_CHECKED_ROWS = 1 << 16  # rows that are checked at a time
_PIECE = 4 << 20  # bytes of living rows that are copied at a time to be written


@dataclass(frozen=True)
class FileState:
    """The content of a file when it was last written or read."""

    path: str
    version: Version
    numbers: int = 0  # number of segments that it ever held
    removed: Mapping[int, int] = field(default_factory=dict)  # removed rows per segment number
    retired: Array = field(default_factory=lambda: NO_RUNS)
    preprocess: FittedPreprocess = IDENTITY


@dataclass(frozen=True)
class SaveResult:
    """The file after a save, and how the saved rows lie in it."""

    file: FileState
    rows: Snapshot  # the saved rows, with the places of segments in the file
    mapped: dict[int, Segment]  # segments of the file without removed rows, by index in ``rows``

    def followed_by(self, now: Snapshot) -> Snapshot:
        """Return ``now``, a later snapshot, with its segments replaced by those of the file."""
        now = now.stored_as(self.rows)
        for at, segment in self.mapped.items():
            place = slice(at, at + 1)
            after = now.compacted(place, self.rows, segment, self.rows.dead_ids(place))
            now = now if after is None else after
        return now


def save(
    path: str | os.PathLike[str],
    settings: Mapping[str, Any],
    head: Mapping[str, Array],
    rows: Snapshot,
    after: FileState | None,
    progress: Progress,
) -> SaveResult:
    """Write the living rows of a memory; with ``after``, append what is not in that file yet."""
    name = os.path.abspath(os.fspath(path))
    needed = [name for name, is_in in _NEEDS.items() if is_in(settings, rows, after is not None)]
    work = _Sections(rows, head, after, needed)
    if after is None:
        version = container.save(name, work.meta(settings), work.sections(), progress)
    else:
        version = container.append(
            name, after.version, work.meta(settings), work.kept(), work.sections(), progress
        )
    file = FileState(name, version, work.numbers, work.removed(), work.retired, rows.preprocess)
    stored, mapped = [], {}
    for at, (segment, number) in enumerate(zip(rows.segments, work.number, strict=True)):
        if work.leaves_out(segment):
            mapped[at] = number
        else:
            place = Stored(version.uuid, number, frozenset(segment.arrays))
            segment = replace(segment, stored=place)
            if (decision := work.decisions[at]) is not None:
                segment.planner.mark_stored(decision, (version.uuid, number))
        stored.append(segment)
    segments = _mapped(name, rows, version, mapped) if mapped else {}
    return SaveResult(file, replace(rows, segments=tuple(stored)), segments)


def _mapped(
    name: str, rows: Snapshot, version: Version, numbers: dict[int, int]
) -> dict[int, Segment]:
    """Return segments of a file that was just written, by index in ``rows``.

    None are returned if they cannot be mapped or another process has replaced the file already:
    the save has succeeded all the same.
    """
    try:
        loaded = container.load(name, verify=False)
    except (OSError, FileFormatError, MemoryError):
        return {}
    if loaded.version != version:
        return {}
    reader = Reader(name, loaded)
    described = {each["number"]: each for each in reader.field(reader.meta, "segments")}
    file = FileState(name, version, len(described))
    segments = {}
    for at, number in numbers.items():
        schema = {
            each: (array.dtype, array.shape[1:])
            for each, array in rows.segments[at].arrays.items()
            if each != "ids"
        }
        segments[at] = _segment(reader, described[number], schema, file)
    return segments


class _Sections:
    """The sections of a snapshot: those that ``after`` has already and those that it lacks."""

    def __init__(
        self, rows: Snapshot, head: Mapping[str, Array], after: FileState | None, needed: list[str]
    ) -> None:
        self.rows, self.head, self.after, self.needed = rows, head, after, needed
        self.retired = rows.all_retired() if after is None else rows.retired
        self.numbers = 0 if after is None else after.numbers
        self.number: list[int] = []
        for segment in rows.segments:
            if self._names(segment):
                assert segment.stored is not None
                self.number.append(segment.stored.number)
            else:
                self.number.append(self.numbers)
                self.numbers += 1
        if after is not None and self.numbers > _MOST_NUMBERS:
            raise ValueError(
                f"{after.path!r} cannot be appended to any more; save it as a new file"
            )
        self.decisions = [self._decision(segment) for segment in rows.segments]

    def _decision(self, segment: Segment) -> Decision | None:
        """Return the segment's decision; None if it is outdated or removed rows are left out."""
        decision = segment.planner.decision
        same = decision is not None and decision.keys is segment.arrays["keys"]
        return decision if same and not self.leaves_out(segment) else None

    def _names(self, segment: Segment) -> frozenset[str]:
        """Return the names of the segment's arrays that the file has."""
        stored = segment.stored
        if self.after is None or stored is None or stored.uuid != self.after.version.uuid:
            return frozenset()
        return stored.names

    def leaves_out(self, segment: Segment) -> bool:
        """Tell whether removed rows of this segment are left out of the file."""
        return self.after is None and segment.dead > 0

    def removed(self) -> dict[int, int]:
        """Return how many rows the file lists as removed, by number of segment."""
        pairs = zip(self.rows.segments, self.number, strict=True)
        return {n: s.dead for s, n in pairs if s.dead and not self.leaves_out(s)}

    def meta(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the ``meta`` of the file."""
        pairs = zip(self.rows.segments, self.number, strict=True)
        return {
            "memory": dict(settings),
            "d": self.rows.d,
            "columns": self.rows.columns,
            "next_id": self.rows.next_id,
            "numbers": self.numbers,
            "segments": [self._described(segment, number) for segment, number in pairs],
        }

    def _described(self, segment: Segment, number: int) -> dict[str, Any]:
        living_only = self.leaves_out(segment)
        attributes = [name for name in ATTRIBUTES if name in segment.arrays]
        return {
            **({"attributes": attributes} if attributes else {}),
            "number": number,
            "rows": segment.n - segment.dead if living_only else segment.n,
            "first_id": 0 if living_only else segment.first_id,
            "has_ids": segment.has_ids or living_only,
            "keys_max": segment.keys_max,
            "error": segment.error,
            "removed": 0 if living_only else segment.dead,
        }

    def kept(self) -> list[str]:
        """Return the names of the sections that the file has already."""
        return [name for name, array in self._all() if array is None]

    def sections(self) -> Iterator[Section]:
        """Yield the sections to be written."""
        return (
            Section(name, array(), required=not any(f"/{kind}/" in name for kind in KINDS))
            for name, array in self._all()
            if array is not None
        )

    def _all(self) -> Iterator[tuple[str, Callable[[], Array | Pieces] | None]]:
        """Yield the name of each section and what makes its array, None if the file has it."""
        for name in self.needed:
            yield f"needs/{name}", partial(np.ones, 1, np.uint8)
        for name, array in self.head.items():
            yield f"head/{name}", partial(np.asarray, array) if self.after is None else None
        made_by = self.rows.preprocess
        same = self.after is not None and self.after.preprocess is made_by
        for name, array in made_by.arrays.items():
            yield f"preprocess/{name}", None if same else partial(np.asarray, array)
        if len(self.retired):
            same = self.after is not None and np.array_equal(self.after.retired, self.retired)
            yield "retired", None if same else partial(np.asarray, self.retired)
        segments = zip(self.rows.segments, self.number, self.decisions, strict=True)
        for segment, number, decision in segments:
            stored = self._names(segment)
            if self.leaves_out(segment):
                for name in {**segment.arrays, "ids": None}:
                    yield f"{number}/{name}", partial(self._living, segment, name)
                continue
            for name in segment.arrays:
                array_of = None if name in stored else partial(segment.__getitem__, name)
                yield f"{number}/{name}", array_of
            yield from self._index(decision, number)
            if segment.dead:
                known = {} if self.after is None else self.after.removed
                same = bool(stored) and known.get(number, 0) == segment.dead
                yield f"{number}/removed", None if same else segment.dead_rows

    def _index(
        self, decision: Decision | None, number: int
    ) -> Iterator[tuple[str, Callable[[], Array | Pieces] | None]]:
        if decision is None:
            return
        stored = self.after is not None and decision.stored == (self.after.version.uuid, number)
        for name, array in decision.arrays().items():
            yield f"{number}/{name}", None if stored else partial(np.asarray, array)

    def _living(self, segment: Segment, name: str) -> Pieces:
        """Return an array of the segment without removed rows."""
        of_ids = name == "ids"
        row = np.empty((0,), np.int64) if of_ids else segment[name][:0]
        step = max(1, _PIECE // max(1, row.dtype.itemsize * math.prod(row.shape[1:])))

        def parts() -> Iterator[Array]:
            for some in segment.living_parts(self.rows.version, step):
                yield segment.ids_of(some) if of_ids else segment[name][some]

        return Pieces(row.dtype, (segment.n - segment.dead, *row.shape[1:]), parts)


# ---- reading -------------------------------------------------------------------------------


SchemaOf: TypeAlias = Callable[[int, int], Schema]  # gives a segment's arrays for d and columns


@dataclass(frozen=True)
class LoadedMemory:
    """A memory as read from a file: its settings, its arrays, and its rows."""

    settings: dict[str, Any]
    head: dict[str, Array]  # "weight" and "bias", or nothing
    preprocess: FittedPreprocess
    rows: Callable[[SchemaOf], tuple[Snapshot, FileState | None]]
    bad: Callable[[str], FileFormatError]  # makes the error to raise if a part is not valid

    def names(self, kind: str, columns: int) -> tuple[str, ...] | None:
        """Return the names of this many columns; None if the file, such as an old one, has none."""
        names = self.settings.get(kind)
        if names is None:
            return None
        if not isinstance(names, list) or len(names) != columns:
            raise self.bad(f"{kind} is not a list of {columns} names")
        if not all(isinstance(name, str) for name in names):
            raise self.bad(f"{kind} holds what is not text")
        return tuple(names)

    def time_kind(self, rows: Snapshot) -> TimeKind | None:
        """Return what the times of these rows are; None if they have none."""
        kind = self.settings.get("time_kind")
        timed = {"times" in segment.arrays for segment in rows.segments}
        if (kind is not None and kind not in TIME_KINDS) or timed - {kind is not None}:
            raise self.bad(f"time_kind is {kind!r}, which does not go with the times of the rows")
        return kind

    def counted(self, name: str) -> int | None:
        """Return a number of rows in the settings; None if it is unknown, as in old files."""
        value = self.settings.get(name)
        return value if type(value) is int and value >= 0 else None


class Reader:
    """Fields and arrays of a file, each checked when it is read."""

    def __init__(self, path: str, loaded: container.Loaded) -> None:
        self.path, self.meta = path, loaded.meta
        self._arrays, self._unread = loaded.arrays, set(loaded.required)

    @property
    def metric(self) -> str:
        """The metric by which the rows are searched; files of earlier memories name none."""
        metric = self.field(self.meta, "memory").get("metric", "euclidean")
        return metric if metric in METRICS else "euclidean"

    def bad(self, what: str) -> FileFormatError:
        """Return the error that says what is wrong with the file."""
        return FileFormatError(
            f"{self.path} is not a memory that this version can read: {what}; "
            "restore it from a copy or use a later version of resmem"
        )

    def integer(self, fields: Any, name: str, most: int = _LAST_ID) -> int:
        """Return an integer from 0 to ``most``."""
        value = self.field(fields, name)
        if type(value) is not int or not 0 <= value <= most:
            raise self.bad(f"{name} is {value!r}, expected a whole number up to {most}")
        return value

    def number(self, fields: Any, name: str) -> float:
        """Return a finite number of at least 0."""
        value = self.field(fields, name)
        if type(value) not in (int, float) or not 0 <= value <= sys.float_info.max:
            raise self.bad(f"{name} is {value!r}, expected a number of at least 0")
        return float(value)

    def field(self, fields: Any, name: str) -> Any:
        if not isinstance(fields, dict) or name not in fields:
            raise self.bad(f"{name} is missing")
        return fields[name]

    def array(self, name: str, dtype: Any, shape: tuple[int, ...]) -> Array:
        """Return an array of this dtype and shape."""
        self._unread.discard(name)
        array = self._arrays.get(name)
        if array is None:
            raise self.bad(f"section {name!r} is missing")
        if array.dtype != dtype or array.shape != shape:
            found = f"{array.dtype} {array.shape}"
            raise self.bad(f"section {name!r} is {found}, expected {np.dtype(dtype)} {shape}")
        return array

    def below(self, prefix: str) -> dict[str, Array]:
        """Return the arrays whose names begin with the prefix, by the rest of the name."""
        skip = len(prefix)
        return {name[skip:]: a for name, a in self._arrays.items() if name.startswith(prefix)}

    def size(self, name: str) -> int:
        """Return the length of an array; 0 if there is none."""
        array = self._arrays.get(name)
        return 0 if array is None or array.ndim == 0 else len(array)

    def finish(self) -> None:
        """Refuse the file if it has a required section that this version does not read."""
        if self._unread:
            raise self.bad(f"section {min(self._unread)!r} is unknown")


def load(path: str | os.PathLike[str], verify: bool, progress: Progress) -> LoadedMemory:
    """Map the memory in a file."""
    name = os.path.abspath(os.fspath(path))
    loaded = container.load(name, verify, progress)
    reader = Reader(name, loaded)
    settings = reader.field(loaded.meta, "memory")
    if not isinstance(settings, dict):
        raise reader.bad("memory is not a table of settings")
    for each in _NEEDS:
        if reader.size(f"needs/{each}"):
            reader.array(f"needs/{each}", np.uint8, (1,))
    head = {}
    d, columns = reader.integer(reader.meta, "d"), reader.integer(reader.meta, "columns")
    for part, (dtype, shape) in shared_schema(settings.get("store"), columns, d).items():
        head[part] = reader.array(f"head/{part}", dtype, shape)
    if not all(np.isfinite(array).all() for array in head.values()):
        raise reader.bad("head/weight or head/bias holds NaN or infinity")
    preprocess = fitted_preprocess(
        settings,
        reader.integer(reader.meta, "d"),
        lambda name, dtype, shape: reader.array(f"preprocess/{name}", dtype, shape),
        reader.bad,
        not reader.below("preprocess/") and reader.field(reader.meta, "segments") == [],
    )
    numbers = reader.integer(reader.meta, "numbers", _MOST_NUMBERS)
    file = FileState(name, loaded.version, numbers, preprocess=preprocess)
    return LoadedMemory(
        settings,
        head,
        preprocess,
        lambda schema_of: _rows(reader, file, schema_of, verify),
        reader.bad,
    )


def fitted_preprocess(
    settings: Mapping[str, Any],
    d: int,
    array: Callable[[str, Any, tuple[int, ...]], Array],
    bad: Callable[[str], FileFormatError],
    waits: bool,
) -> FittedPreprocess:
    """Return the preprocess that settings name, with the arrays that its fit computed.

    ``array`` reads one by name, dtype and shape. ``waits`` says that the memory has no rows yet, to
    which the preprocess could have been fitted, and no such arrays.
    """
    try:
        method = preprocess_named(settings.get("preprocess"))
        schema = method.schema(d)
    except ValueError as error:
        raise bad(f"its settings make no sense: {error}") from error
    if settings.get("offset") is True:
        if schema:
            raise bad(f"its preprocess {method.name} has an offset besides")
        schema = {"offset": (np.float64, (d,))}
    elif waits and schema:
        schema, method = {}, NO_PREPROCESS
    arrays = {name: np.array(array(name, *layout)) for name, layout in schema.items()}
    if not all(np.isfinite(values).all() for values in arrays.values()):
        raise bad("the numbers of its preprocess hold NaN or infinity")
    if (arrays.get("scale", np.ones(1)) <= 0).any():
        raise bad("the scale of its preprocess is not positive")
    return FittedPreprocess(method, arrays, wide=settings.get("key_dtype") == "float64")


def _rows(
    reader: Reader, file: FileState, schema_of: SchemaOf, verify: bool
) -> tuple[Snapshot, FileState]:
    """Return the rows of a file, and its state."""
    meta = reader.meta
    d, columns = reader.integer(meta, "d"), reader.integer(meta, "columns")
    if not (0 < d < 2**31 and 0 < columns < 2**31):
        raise reader.bad(f"d is {d} and columns {columns}, expected 1 to 2^31 - 1")
    schema = schema_of(d, columns)
    described = reader.field(meta, "segments")
    if not isinstance(described, list):
        raise reader.bad("segments is not a list")
    segments = tuple(_segment(reader, fields, schema, file) for fields in described)
    if len({s.stored.number for s in segments if s.stored}) != len(segments):
        raise reader.bad("two segments have one number")
    retired = NO_RUNS
    if size := reader.size("retired"):
        retired = reader.array("retired", np.int64, (size, 2))
        first, last = retired[:, 0], retired[:, 1]
        if (last < first).any() or (first[1:] <= last[:-1]).any() or first[0] < 0:
            raise reader.bad("section 'retired' does not list runs of ids in ascending order")
    reader.finish()
    rows = Snapshot(
        segments,
        d,
        columns,
        next_id=reader.integer(meta, "next_id", _LAST_ID + 1),
        version=1,
        retired=retired,
        ids_checked=verify or not any(segment.has_ids for segment in segments),
        updated=reader.size("needs/updates") > 0,
    )
    fault = rows.id_fault(given=verify) or (verify and _target_fault(rows))
    if fault:
        raise reader.bad(fault)
    if verify:
        for segment in segments:  # pages that only the checks needed may leave memory
            for name in {"ids", "targets", "index"} & set(segment.arrays):
                release_pages(segment[name], slice(0, segment.n))
    removed = {s.stored.number: s.dead for s in segments if s.stored and s.dead}
    return rows, replace(file, removed=removed, retired=rows.retired)


def _target_fault(rows: Snapshot) -> str:
    """Say what is wrong with targets and numbers of columns; "" if nothing is."""
    for segment in rows.segments:
        for name in {"targets", "index"} & set(segment.arrays):
            for start in range(0, segment.n, _CHECKED_ROWS):
                values = segment[name][start : start + _CHECKED_ROWS]
                if fault := target_fault(values, rows.columns, name):
                    return fault
        for start in range(0, segment.n if "weights" in segment.arrays else 0, _CHECKED_ROWS):
            weights = segment["weights"][start : start + _CHECKED_ROWS]
            if not ((weights == 0) | are_weights(weights)).all():
                return "'weights' holds what is no weight of a row"
    return ""


def _segment(reader: Reader, fields: Any, schema: Schema, file: FileState) -> Segment:
    """Return the segment that ``fields`` of the ``meta`` describe."""
    number = reader.integer(fields, "number", max(0, file.numbers - 1))
    n = reader.integer(fields, "rows")
    has_ids = reader.field(fields, "has_ids")
    if has_ids is True:
        schema = {**schema, "ids": (np.int64, ())}
    elif has_ids is not False:
        raise reader.bad(f"has_ids is {has_ids!r}, expected true or false")
    attributes = fields.get("attributes", [])
    if not isinstance(attributes, list) or not all(name in ATTRIBUTES for name in attributes):
        raise reader.bad(f"attributes are {attributes!r}, expected some of {[*ATTRIBUTES]}")
    schema = {**schema, **{name: ATTRIBUTES[name] for name in attributes}}
    arrays = {
        name: reader.array(f"{number}/{name}", dtype, (n, *shape))
        for name, (dtype, shape) in schema.items()
    }
    segment = Segment(
        arrays,
        n,
        keys_max=reader.number(fields, "keys_max"),
        first_id=reader.integer(fields, "first_id", _LAST_ID - max(0, n - 1)),
        error=reader.number(fields, "error"),
        borrowed=True,
        stored=Stored(file.version.uuid, number, frozenset(arrays)),
    )
    for kind in KINDS:  # an index of a kind that is unknown here is not used
        if index := reader.below(f"{number}/{kind}/"):
            stored = (file.version.uuid, number)
            keys = arrays["keys"]
            read = partial(decision_from_file, kind, index, keys, stored, reader.metric)
            segment = replace(segment, planner=Planner(read=read))
    dead = reader.integer(fields, "removed", n)
    if dead:
        rows = reader.array(f"{number}/removed", np.int64, (dead,))
        if rows[0] < 0 or rows[-1] >= n or (rows[1:] <= rows[:-1]).any():
            raise reader.bad(f"section '{number}/removed' does not list rows in ascending order")
        segment = segment.with_dead(rows, 1)
    return segment
