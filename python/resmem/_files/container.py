"""The file format: a JSON object ``meta`` and named arrays, published whole or not at all.

FORMAT.md, a folder above, describes every byte. A reader trusts nothing: it checks headers and
manifest before it makes any view, and payloads against their checksums. Checksums and I/O run in
parallel without the GIL, and pages of mapped files are released once they are read or written.
"""

from __future__ import annotations

import json
import math
import os
import struct
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

import resmem._core as _core
from resmem._base import checks, platform
from resmem._base.arrays import release_pages
from resmem._base.errors import FileFormatError
from resmem._base.threads import pool, submit
from resmem._files.atomic import errors_naming, locked, replacing

MAGIC = b"\x89RESMEM\n"
FORMAT = 1
PAGE = 4096  # bytes; the head, the two slots and every publication start on a page
ALIGN = 64  # bytes; sections and manifests start at a multiple
BLOCK = 1 << 20  # bytes of a payload per checksum
MAX_MANIFEST = 16 << 20  # bytes
MAX_DIMENSIONS = 32
MAX_INT = 2**63 - 1

_HEAD = struct.Struct("<8sI4x16s")  # magic, format, uuid
_SLOT = struct.Struct("<QQQI")  # generation; manifest's offset, length and CRC-32
_CRC = struct.Struct("<I")  # the last bytes of these pages: CRC-32 of the bytes before
_HEADERS = 3 * PAGE  # bytes of the head and the slots
_DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in ("float16", "float32", "float64", "int32", "int64", "uint8", "uint16")
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_CHUNK = 8 * BLOCK  # bytes per write, and per task of a thread
_PIECE = BLOCK // 4  # bytes per read, few enough to be in the cache for the checksum

Progress = Callable[[int], None]
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Pieces:
    """An array that is produced while it is written, part after part in row order."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    parts: Callable[[], Iterator[npt.NDArray[Any]]]

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)


@dataclass(frozen=True)
class Section:
    """A named array of a file. Readers that do not know its dtype skip it unless ``required``."""

    name: str
    array: npt.NDArray[Any] | Pieces  # C-contiguous, of a dtype above; must not change
    required: bool = True


@dataclass(frozen=True)
class Version:
    """One published state of one file."""

    uuid: str
    generation: int
    manifest: int  # CRC-32 of the manifest: copies of a file may have different appends


@dataclass(frozen=True)
class Loaded:
    """The content of a file. The arrays are read-only views of the mapped file."""

    meta: dict[str, Any]
    arrays: dict[str, npt.NDArray[Any]]
    required: frozenset[str]  # names of the arrays that a reader must know
    version: Version


@dataclass(frozen=True)
class _Entry:
    """A section as the manifest lists it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int  # bytes of the payload
    required: bool
    crc32: int  # CRC-32 of the table of checksums

    @property
    def table(self) -> int:
        """The offset of the table of checksums, behind the padded payload."""
        return self.offset + _aligned(self.length)

    @property
    def blocks(self) -> int:
        """The number of checksums."""
        return -(-self.length // BLOCK)

    @property
    def end(self) -> int:
        """The offset behind the padded table."""
        return self.table + _aligned(_CRC.size * self.blocks)


@dataclass(frozen=True)
class _Published:
    """The published state of a file."""

    version: Version
    slot: int  # the slot that points to it
    end: int  # the offset behind the manifest; bytes from there on are ignored
    meta: dict[str, Any]
    entries: tuple[_Entry, ...]


# ---- Saving, appending, loading ----------------------------------------------------------------


def save(
    path: str | os.PathLike[str],
    meta: dict[str, Any],
    sections: Iterable[Section],
    progress: Progress | None = None,
) -> Version:
    """Write a new file, replace what is at ``path`` by it, and return its version."""
    _check_meta(meta)
    identity = os.urandom(16)
    with replacing(path) as file:
        fd = file.fileno()
        root = _write_state(fd, _HEADERS, meta, (), sections, progress)
        head = _sealed(_HEAD.pack(MAGIC, FORMAT, identity))
        platform.write_at(fd, head + 2 * _sealed(_SLOT.pack(1, *root)), 0)
    return Version(identity.hex(), 1, root[2])


def append(
    path: str | os.PathLike[str],
    after: Version,
    meta: dict[str, Any],
    keep: Iterable[str],
    sections: Iterable[Section],
    progress: Progress | None = None,
) -> Version:
    """Publish a state with new sections and those of ``after`` that ``keep`` names.

    ValueError if the file is not in the state ``after``. If this raises, the file still is in that
    state; only if the last step is interrupted, it may be in the new state instead.
    """
    _check_meta(meta)
    name = os.fsdecode(path)
    with errors_naming(name), locked(name) as fd:
        state = _read_state(fd, name)
        if state.version != after:
            raise ValueError(
                f"{name!r} has changed since it was loaded or saved: another process appended to "
                "it or replaced it, or an append of this process was interrupted at its end; load "
                "it again, and repeat what is to be appended"
            )
        if after.generation == MAX_INT:
            raise ValueError(f"{name!r} cannot be appended to any more; save it as a new file")
        kept = _kept(state, keep, name)
        os.ftruncate(fd, state.end)  # removes what a killed process left
        try:
            root = _write_state(fd, _aligned(state.end, PAGE), meta, kept, sections, progress)
            platform.sync(fd)
        except BaseException:
            os.ftruncate(fd, state.end)
            raise
        for slot in (1 - state.slot, state.slot):  # from here on readers may see the new state
            platform.write_at(
                fd, _sealed(_SLOT.pack(after.generation + 1, *root)), PAGE * (1 + slot)
            )
            platform.sync(fd)
    return Version(after.uuid, after.generation + 1, root[2])


def load(
    path: str | os.PathLike[str],
    verify: bool = True,
    progress: Progress | None = None,
    threads: int | None = None,
) -> Loaded:
    """Map what is published at ``path``. Without ``verify`` only headers and manifest are read.

    FileFormatError if the file is not one of resmem, is damaged, or needs a later version.
    """
    workers = _core.default_threads() if threads is None else checks.count(threads, "threads")
    with _opened(path) as (fd, name):
        state = _read_state(fd, name)
        mapped = platform.map_file(fd, state.end, name)
        if verify:
            _verify(fd, name, state.entries, progress, workers)
    arrays = {}
    for entry in state.entries:
        if (dtype := _DTYPES.get(entry.dtype)) is not None:
            arrays[entry.name] = np.ndarray(entry.shape, dtype, mapped, entry.offset)
    required = frozenset(entry.name for entry in state.entries if entry.required)
    return Loaded(state.meta, arrays, required, state.version)


def is_container(path: str | os.PathLike[str]) -> bool:
    """Tell whether the file at ``path`` begins with the magic bytes."""
    with _opened(path) as (fd, _):
        return platform.read_at(fd, 0, len(MAGIC)) == MAGIC


def bytes_to_verify(path: str | os.PathLike[str]) -> int:
    """Return the bytes that ``progress`` adds up to when the file is loaded and verified."""
    with _opened(path) as (fd, name):
        return sum(entry.length for entry in _read_state(fd, name).entries)


# ---- Writing -----------------------------------------------------------------------------------


def _write_state(
    fd: int,
    position: int,
    meta: dict[str, Any],
    kept: tuple[_Entry, ...],
    sections: Iterable[Section],
    progress: Progress | None,
) -> tuple[int, int, int]:
    """Write sections and manifest from ``position`` on.

    Returns what a slot holds: the manifest's offset, length and CRC-32.
    """
    entries = {entry.name: entry for entry in kept}
    with pool(1) as workers:
        for section in sections:
            if section.name in entries:
                raise ValueError(f"sections must have unique names, got {section.name!r} twice")
            entry = _write_section(fd, position, section, workers, progress)
            entries[section.name], position = entry, entry.end
    manifest = _manifest(meta, entries.values())
    platform.write_at(fd, manifest, position)
    return position, len(manifest), zlib.crc32(manifest)


def _write_section(
    fd: int, offset: int, section: Section, pool: Executor | None, progress: Progress | None
) -> _Entry:
    """Write payload and table of checksums; the pool computes checksums ahead of the writes."""
    dtype = _check_section(section)
    array, length = section.array, section.array.nbytes
    sums: list[int] = []
    written = 0
    for chunk, more in _ahead(pool, _checksums, _chunks(array), 2):
        platform.write_at(fd, chunk, offset + written)
        sums += more
        if isinstance(array, np.ndarray):
            flat = array.reshape(-1).view(np.uint8)
            release_pages(flat, slice(written, written + len(chunk)))
        written += len(chunk)
        if progress is not None:
            progress(len(chunk))
    if written != length:
        raise ValueError(f"section {section.name!r} has {written} bytes, not {length}")
    padding = bytes(_aligned(length) - length)
    if padding:
        sums[-1] = zlib.crc32(padding, sums[-1])
    table = np.array(sums, "<u4").tobytes()
    table += bytes(_aligned(len(table)) - len(table))
    platform.write_at(fd, padding + table, offset + length)
    return _Entry(
        section.name,
        dtype,
        array.shape,
        offset,
        length,
        section.required,
        zlib.crc32(table),
    )


def _check_section(section: Section) -> str:
    """Return the name of the section's dtype; ValueError if the section cannot be written."""
    name, array = section.name, section.array
    if not isinstance(name, str) or not name:
        raise ValueError(f"the name of a section must be a text that is not empty, got {name!r}")
    if array.dtype not in _NAMES:
        allowed = ", ".join(_DTYPES)
        raise ValueError(f"section {name!r} must be of one of {allowed}, got {array.dtype}")
    if len(array.shape) > MAX_DIMENSIONS or (
        isinstance(array, np.ndarray) and not array.flags.c_contiguous
    ):
        raise ValueError(
            f"section {name!r} must be C-contiguous with at most {MAX_DIMENSIONS} dimensions"
        )
    return _NAMES[array.dtype]


def _check_meta(meta: dict[str, Any]) -> None:
    """Refuse a ``meta`` that could not be read again, before anything is written."""
    try:
        _parse_json(_manifest(meta, ()))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"meta cannot be stored as JSON: {error}") from error


def _manifest(meta: dict[str, Any], entries: Iterable[_Entry]) -> bytes:
    """Return the manifest as ASCII JSON."""
    sections = [asdict(entry) for entry in entries]
    text = json.dumps({"meta": meta, "sections": sections}, allow_nan=False, separators=(",", ":"))
    if len(text) > MAX_MANIFEST:
        raise ValueError(
            f"meta and the list of sections take {len(text)} bytes as JSON, more than "
            f"{MAX_MANIFEST}; store what is large as a section"
        )
    return text.encode("ascii")


def _kept(state: _Published, keep: Iterable[str], name: str) -> tuple[_Entry, ...]:
    """Return the sections of ``state`` that ``keep`` names; ValueError if one is missing."""
    published = {entry.name: entry for entry in state.entries}
    names = list(dict.fromkeys(keep))
    for section in names:
        if section not in published:
            raise ValueError(
                f"{name!r} has no section {section!r} to keep; it has {list(published)}"
            )
    return tuple(published[section] for section in names)


def _chunks(array: npt.NDArray[Any] | Pieces) -> Iterator[memoryview]:
    """Yield the bytes of an array, ``_CHUNK`` at a time."""
    if isinstance(array, np.ndarray):
        payload = array.reshape(-1).view(np.uint8).data
        yield from (payload[start : start + _CHUNK] for start in range(0, len(payload), _CHUNK))
        return
    gathered = bytearray()
    for part in array.parts():
        gathered += np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
        while len(gathered) >= _CHUNK:
            whole, gathered = gathered[:_CHUNK], gathered[_CHUNK:]
            yield memoryview(whole)
    if gathered:
        yield memoryview(gathered)


def _checksums(data: memoryview) -> list[int]:
    """Return the CRC-32 of each block."""
    crc32 = _bulk_crc32()
    return [crc32(data[start : start + BLOCK]) for start in range(0, len(data), BLOCK)]


@cache
def _bulk_crc32() -> Callable[..., int]:
    """Return isal's CRC-32, which is three times as fast, or else zlib's."""
    try:
        from isal.isal_zlib import crc32
    except (ImportError, SystemError):  # SystemError: there was no memory to load it
        return zlib.crc32
    return crc32


def _sealed(page: bytes) -> bytes:
    """Pad the bytes to a page that ends with its own checksum."""
    body = page.ljust(PAGE - _CRC.size, b"\0")
    return body + _CRC.pack(zlib.crc32(body))


# ---- Reading -----------------------------------------------------------------------------------


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Open the file for the block; give its descriptor and its name for messages."""
    name = os.fsdecode(path)
    with errors_naming(name):
        fd = platform.open_regular(name)
        try:
            yield fd, name
        finally:
            os.close(fd)


def _read_state(fd: int, name: str) -> _Published:
    """Return the published state, with every field checked."""
    head = platform.read_at(fd, 0, PAGE)
    if not head:
        raise FileFormatError(f"{name!r} is empty; give the path of a file that resmem saved")
    if not head.startswith(MAGIC):
        raise FileFormatError(
            f"{name!r} is not a file of resmem (it begins with {head[: len(MAGIC)]!r}); "
            "give the path of a file that resmem saved"
        )
    if not _intact(head):
        raise _damaged(name, "its first page does not match its checksum")
    _, version, identity = _HEAD.unpack_from(head)
    if version != FORMAT:
        raise FileFormatError(
            f"{name!r} is in format {version}, this version of resmem reads format {FORMAT}; "
            "install a later version of resmem"
        )
    slot, generation, offset, length, crc = _current_slot(fd, name)
    size = os.fstat(fd).st_size  # read after the slot, as the file grows before its slots change
    if offset + length > size:
        raise _damaged(name, f"it ends at byte {size}, its manifest at {offset + length}")
    manifest = platform.read_at(fd, offset, length)
    if len(manifest) != length or zlib.crc32(manifest) != crc:
        raise _damaged(name, "its manifest does not match its checksum")
    meta, entries = _parse_manifest(manifest, offset, name)
    published = Version(identity.hex(), generation, crc)
    return _Published(published, slot, offset + length, meta, entries)


def _current_slot(fd: int, name: str) -> tuple[int, int, int, int, int]:
    """Return the number and the fields of the newest slot with a valid checksum.

    A writer changes one slot after the other, so one of them is valid; but a reader that is delayed
    between its two reads may see both half written, and reads again.
    """
    for _ in range(3):
        pages = [platform.read_at(fd, PAGE * (1 + slot), PAGE) for slot in (0, 1)]
        valid = [(slot, *_SLOT.unpack_from(p)) for slot, p in enumerate(pages) if _intact(p)]
        if valid:
            newest: tuple[int, int, int, int, int] = max(valid, key=lambda fields: fields[1])
            _, generation, offset, length, _ = newest
            if max(generation, offset + length) > MAX_INT or offset < _HEADERS:
                raise _damaged(name, "its header points outside of any file")
            if length > MAX_MANIFEST:
                raise _damaged(name, f"its manifest has {length} bytes, more than {MAX_MANIFEST}")
            return newest
        if len(pages[1]) < PAGE:
            break
        time.sleep(0.01)
    raise _damaged(name, "neither of its two slots matches its checksum")


def _parse_manifest(
    manifest: bytes, offset: int, name: str
) -> tuple[dict[str, Any], tuple[_Entry, ...]]:
    """Return meta and sections. Unknown keys are ignored."""
    try:
        fields = _parse_json(manifest)
        if type(fields) is not dict:
            raise ValueError("it is not an object")
        meta = _field(fields, "meta", dict)
        entries = tuple(map(_parse_entry, _field(fields, "sections", list)))
        _check_layout(entries, offset)
    except (ValueError, RecursionError) as error:
        raise _damaged(name, f"its manifest is not valid: {error}") from error
    for entry in entries:
        if entry.required and entry.dtype not in _DTYPES:
            raise FileFormatError(
                f"{name!r} needs a later version of resmem: this one does not know the dtype "
                f"{entry.dtype!r} of section {entry.name!r}"
            )
    return meta, entries


def _parse_json(text: bytes) -> Any:
    """Parse strict JSON: UTF-8, no key twice, finite numbers only."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("an object has a key twice")
        return result

    def finite(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise ValueError(f"{text} is not a finite number")
        return value

    return json.loads(
        text.decode("utf-8"), object_pairs_hook=unique, parse_float=finite, parse_constant=finite
    )


def _parse_entry(fields: Any) -> _Entry:
    """Return a section, with each field checked."""
    if type(fields) is not dict:
        raise ValueError("a section is not an object")
    name = _field(fields, "name", str)
    shape = tuple(_integer(n, "shape") for n in _field(fields, "shape", list))
    entry = _Entry(
        name,
        _field(fields, "dtype", str),
        shape,
        _integer(fields.get("offset"), "offset"),
        _integer(fields.get("length"), "length"),
        _field(fields, "required", bool),
        _integer(fields.get("crc32"), "crc32", 2**32 - 1),
    )
    if not name or len(shape) > MAX_DIMENSIONS or entry.offset % ALIGN:
        raise ValueError(f"section {name!r}: no name, too many dimensions, or not aligned")
    if (dtype := _DTYPES.get(entry.dtype)) is not None:
        # Empty arrays may have large dimensions, but none that NumPy cannot count.
        if math.prod(max(n, 1) for n in shape) > MAX_INT // dtype.itemsize:
            raise ValueError(f"section {name!r} has a shape beyond any memory")
        if math.prod(shape) * dtype.itemsize != entry.length:
            raise ValueError(f"section {name!r}: shape and length contradict each other")
    return entry


def _field(fields: dict[str, Any], key: str, kind: type[_T]) -> _T:
    value = fields.get(key)
    if type(value) is not kind:
        raise ValueError(f"{key!r} must be of type {kind.__name__}, is {type(value).__name__}")
    return value


def _integer(value: Any, key: str, largest: int = MAX_INT) -> int:
    if type(value) is not int or not 0 <= value <= largest:
        raise ValueError(f"{key!r} must be an integer from 0 to {largest}")
    return value


def _check_layout(entries: tuple[_Entry, ...], manifest: int) -> None:
    """Refuse sections outside of headers and manifest, overlaps, and names that occur twice."""
    names: set[str] = set()
    free = _HEADERS
    for entry in sorted(entries, key=lambda entry: (entry.offset, entry.end)):
        if not free <= entry.offset or not entry.end <= manifest:
            raise ValueError(f"section {entry.name!r} overlaps something, or ends too late")
        if entry.name in names:
            raise ValueError(f"section {entry.name!r} is there twice")
        names.add(entry.name)
        free = entry.end


def _verify(
    fd: int, name: str, entries: tuple[_Entry, ...], progress: Progress | None, workers: int
) -> None:
    """Compare every payload and its padding with its checksums.

    The file is read, not mapped, so that pages that are needed once stay out of the process.
    """
    tables = {entry.name: _read_table(fd, entry, name) for entry in entries}
    chunks = [(entry, at) for entry in entries for at in range(0, entry.length, _CHUNK)]
    workers = min(workers, len(chunks))

    def check(chunk: tuple[_Entry, int]) -> int:
        entry, start = chunk
        buffer = bytearray(_PIECE)
        stop = min(start + _CHUNK, entry.length)
        for at in range(start, stop, BLOCK):
            size = min(BLOCK, _aligned(entry.length) - at)
            if _checksum_of(fd, entry.offset + at, size, buffer) != tables[entry.name][at // BLOCK]:
                raise _damaged(
                    name,
                    f"section {entry.name!r} does not match its checksum between bytes "
                    f"{entry.offset + at} and {entry.offset + at + size} of the file",
                )
        return stop - start

    with pool(workers if workers > 1 else 0) as executor:
        for _, checked in _ahead(executor, check, chunks, 2 * workers):
            if progress is not None:
                progress(checked)


def _read_table(fd: int, entry: _Entry, name: str) -> npt.NDArray[np.uint32]:
    table = platform.read_at(fd, entry.table, entry.end - entry.table)
    if zlib.crc32(table) != entry.crc32:
        raise _damaged(name, f"the checksums of section {entry.name!r} do not match their checksum")
    return np.frombuffer(table, "<u4", entry.blocks)


def _checksum_of(fd: int, offset: int, length: int, buffer: bytearray) -> int:
    """Return the CRC-32 of a part of the file, or of as much of it as exists."""
    crc, crc32 = 0, _bulk_crc32()
    with memoryview(buffer) as view:
        while length > 0 and (got := platform.read_into(view[:length], fd, offset)):
            crc = crc32(view[:got], crc)
            offset, length = offset + got, length - got
    return crc


def _intact(page: bytes) -> bool:
    """Tell whether a page is whole and matches its checksum."""
    body, seal = page[: -_CRC.size], page[-_CRC.size :]
    return len(page) == PAGE and _CRC.pack(zlib.crc32(body)) == seal


def _damaged(name: str, what: str) -> FileFormatError:
    return FileFormatError(f"{name!r} is damaged: {what}; restore it from a copy or save it anew")


# ---- Both --------------------------------------------------------------------------------------


def _ahead(
    pool: Executor | None, work: Callable[[_T], _R], items: Iterable[_T], depth: int
) -> Iterator[tuple[_T, _R]]:
    """Yield every item with its result, in order; the pool works while earlier results are used.

    The pool is only ``depth`` items ahead, so that an error or an interrupt waits for little.
    """
    if pool is None:
        yield from ((item, work(item)) for item in items)
        return
    pending: deque[tuple[_T, Future[_R]]] = deque()
    for item in items:
        pending.append((item, submit(pool, work, item)))
        if len(pending) > depth:
            first, future = pending.popleft()
            yield first, future.result()
    for first, future in pending:
        yield first, future.result()


def _aligned(position: int, to: int = ALIGN) -> int:
    return -(-position // to) * to
