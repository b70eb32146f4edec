"""Writing: a new file that replaces another, or a new state that is appended to a file."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from typing import Any

import numpy as np
import numpy.typing as npt

from resmem._base import platform
from resmem._base.arrays import release_pages
from resmem._base.threads import ahead, pool
from resmem._files.atomic import errors_naming, locked, replacing
from resmem._files.container.checksums import CHUNK, checksums_of_blocks
from resmem._files.container.layout import (
    DTYPE_NAMES,
    DTYPES,
    HEADERS,
    MAX_DIMENSIONS,
    MAX_INT,
    PAGE,
    Entry,
    Pieces,
    Progress,
    Published,
    Root,
    Section,
    Version,
    aligned,
    head_page,
    slot_page,
)
from resmem._files.container.manifest import check_meta, manifest_bytes
from resmem._files.container.read import read_state


def save(
    path: str | os.PathLike[str],
    meta: dict[str, Any],
    sections: Iterable[Section],
    progress: Progress | None = None,
) -> Version:
    """Write a new file, replace what is at ``path`` by it, and return its version."""
    check_meta(meta)
    identity = os.urandom(16)
    with replacing(path) as file:
        fd = file.fileno()
        root = _write_state(fd, HEADERS, meta, (), sections, progress)
        platform.write_at(fd, head_page(identity) + 2 * slot_page(1, root), 0)
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
    check_meta(meta)
    name = os.fsdecode(path)
    with errors_naming(name), locked(name) as fd:
        state = read_state(fd, name)
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
            root = _write_state(fd, aligned(state.end, PAGE), meta, kept, sections, progress)
            platform.sync(fd)
        except BaseException:
            os.ftruncate(fd, state.end)
            raise
        for slot in (1 - state.slot, state.slot):  # from here on readers may see the new state
            platform.write_at(fd, slot_page(after.generation + 1, root), PAGE * (1 + slot))
            platform.sync(fd)
    return Version(after.uuid, after.generation + 1, root[2])


def _write_state(
    fd: int,
    position: int,
    meta: dict[str, Any],
    kept: tuple[Entry, ...],
    sections: Iterable[Section],
    progress: Progress | None,
) -> Root:
    """Write sections and manifest from ``position`` on; return where the manifest lies."""
    entries = {entry.name: entry for entry in kept}
    with pool(1) as workers:
        for section in sections:
            if section.name in entries:
                raise ValueError(f"sections must have unique names, got {section.name!r} twice")
            entry = _write_section(fd, position, section, workers, progress)
            entries[section.name], position = entry, entry.end
    manifest = manifest_bytes(meta, entries.values())
    platform.write_at(fd, manifest, position)
    return position, len(manifest), zlib.crc32(manifest)


def _write_section(
    fd: int, offset: int, section: Section, pool: Executor | None, progress: Progress | None
) -> Entry:
    """Write payload and table of checksums; the pool computes checksums ahead of the writes."""
    dtype = _check_section(section)
    array, length = section.array, section.array.nbytes
    sums: list[int] = []
    written = 0
    for chunk, more in ahead(pool, checksums_of_blocks, _chunks(array), 2):
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
    padding = bytes(aligned(length) - length)
    if padding:
        sums[-1] = zlib.crc32(padding, sums[-1])
    table = np.array(sums, "<u4").tobytes()
    table += bytes(aligned(len(table)) - len(table))
    platform.write_at(fd, padding + table, offset + length)
    return Entry(
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
    if array.dtype not in DTYPE_NAMES:
        allowed = ", ".join(DTYPES)
        raise ValueError(f"section {name!r} must be of one of {allowed}, got {array.dtype}")
    if len(array.shape) > MAX_DIMENSIONS or (
        isinstance(array, np.ndarray) and not array.flags.c_contiguous
    ):
        raise ValueError(
            f"section {name!r} must be C-contiguous with at most {MAX_DIMENSIONS} dimensions"
        )
    return DTYPE_NAMES[array.dtype]


def _kept(state: Published, keep: Iterable[str], name: str) -> tuple[Entry, ...]:
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
    """Yield the bytes of an array, ``CHUNK`` at a time."""
    if isinstance(array, np.ndarray):
        payload = array.reshape(-1).view(np.uint8).data
        yield from (payload[start : start + CHUNK] for start in range(0, len(payload), CHUNK))
        return
    gathered = bytearray()
    for part in array.parts():
        gathered += np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
        while len(gathered) >= CHUNK:
            whole, gathered = gathered[:CHUNK], gathered[CHUNK:]
            yield memoryview(whole)
    if gathered:
        yield memoryview(gathered)
