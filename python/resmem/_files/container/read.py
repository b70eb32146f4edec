"""Reading: what is published in a file, mapped, and compared with its checksums on request.

A reader trusts nothing: it checks headers and manifest before it makes any view, and payloads
against their checksums.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

import resmem._core as _core
from resmem._base import checks, platform
from resmem._base.errors import FileFormatError
from resmem._base.threads import ahead, pool
from resmem._files.atomic import errors_naming
from resmem._files.container.checksums import CHUNK, PIECE, checksum_in_file
from resmem._files.container.layout import (
    BLOCK,
    DTYPES,
    FORMAT,
    HEAD,
    HEADERS,
    MAGIC,
    MAX_INT,
    MAX_MANIFEST,
    PAGE,
    SLOT,
    Entry,
    Loaded,
    Progress,
    Published,
    Version,
    aligned,
    damaged,
    intact,
)
from resmem._files.container.manifest import parse_manifest


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
        state = read_state(fd, name)
        mapped = platform.map_file(fd, state.end, name)
        if verify:
            _verify(fd, name, state.entries, progress, workers)
    arrays = {}
    for entry in state.entries:
        if (dtype := DTYPES.get(entry.dtype)) is not None:
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
        return sum(entry.length for entry in read_state(fd, name).entries)


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


def read_state(fd: int, name: str) -> Published:
    """Return the published state, with every field checked."""
    head = platform.read_at(fd, 0, PAGE)
    if not head:
        raise FileFormatError(f"{name!r} is empty; give the path of a file that resmem saved")
    if not head.startswith(MAGIC):
        raise FileFormatError(
            f"{name!r} is not a file of resmem (it begins with {head[: len(MAGIC)]!r}); "
            "give the path of a file that resmem saved"
        )
    if not intact(head):
        raise damaged(name, "its first page does not match its checksum")
    _, version, identity = HEAD.unpack_from(head)
    if version != FORMAT:
        raise FileFormatError(
            f"{name!r} is in format {version}, this version of resmem reads format {FORMAT}; "
            "install a later version of resmem"
        )
    slot, generation, offset, length, crc = _current_slot(fd, name)
    size = os.fstat(fd).st_size  # read after the slot, as the file grows before its slots change
    if offset + length > size:
        raise damaged(name, f"it ends at byte {size}, its manifest at {offset + length}")
    manifest = platform.read_at(fd, offset, length)
    if len(manifest) != length or zlib.crc32(manifest) != crc:
        raise damaged(name, "its manifest does not match its checksum")
    meta, entries = parse_manifest(manifest, offset, name)
    published = Version(identity.hex(), generation, crc)
    return Published(published, slot, offset + length, meta, entries)


def _current_slot(fd: int, name: str) -> tuple[int, int, int, int, int]:
    """Return the number and the fields of the newest slot with a valid checksum.

    A writer changes one slot after the other, so one of them is valid; but a reader that is delayed
    between its two reads may see both half written, and reads again.
    """
    for _ in range(3):
        pages = [platform.read_at(fd, PAGE * (1 + slot), PAGE) for slot in (0, 1)]
        valid = [(slot, *SLOT.unpack_from(p)) for slot, p in enumerate(pages) if intact(p)]
        if valid:
            newest: tuple[int, int, int, int, int] = max(valid, key=lambda fields: fields[1])
            _, generation, offset, length, _ = newest
            if max(generation, offset + length) > MAX_INT or offset < HEADERS:
                raise damaged(name, "its header points outside of any file")
            if length > MAX_MANIFEST:
                raise damaged(name, f"its manifest has {length} bytes, more than {MAX_MANIFEST}")
            return newest
        if len(pages[1]) < PAGE:
            break
        time.sleep(0.01)
    raise damaged(name, "neither of its two slots matches its checksum")


def _verify(
    fd: int, name: str, entries: tuple[Entry, ...], progress: Progress | None, workers: int
) -> None:
    """Compare every payload and its padding with its checksums.

    The file is read, not mapped, so that pages that are needed once stay out of the process.
    """
    tables = {entry.name: _read_table(fd, entry, name) for entry in entries}
    chunks = [(entry, at) for entry in entries for at in range(0, entry.length, CHUNK)]
    workers = min(workers, len(chunks))

    def check(chunk: tuple[Entry, int]) -> int:
        entry, start = chunk
        buffer = bytearray(PIECE)
        stop = min(start + CHUNK, entry.length)
        for at in range(start, stop, BLOCK):
            size = min(BLOCK, aligned(entry.length) - at)
            found = checksum_in_file(fd, entry.offset + at, size, buffer)
            if found != tables[entry.name][at // BLOCK]:
                raise damaged(
                    name,
                    f"section {entry.name!r} does not match its checksum between bytes "
                    f"{entry.offset + at} and {entry.offset + at + size} of the file",
                )
        return stop - start

    with pool(workers if workers > 1 else 0) as executor:
        for _, checked in ahead(executor, check, chunks, 2 * workers):
            if progress is not None:
                progress(checked)


def _read_table(fd: int, entry: Entry, name: str) -> npt.NDArray[np.uint32]:
    table = platform.read_at(fd, entry.table, entry.end - entry.table)
    if zlib.crc32(table) != entry.crc32:
        raise damaged(name, f"the checksums of section {entry.name!r} do not match their checksum")
    return np.frombuffer(table, "<u4", entry.blocks)
