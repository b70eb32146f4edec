"""What lies where in a file: constants of FORMAT.md, sections, published states and pages."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resmem._base.errors import FileFormatError

MAGIC = b"\x89RESMEM\n"
FORMAT = 1
PAGE = 4096  # bytes; the head, the two slots and every publication start on a page
ALIGN = 64  # bytes; sections and manifests start at a multiple
BLOCK = 1 << 20  # bytes of a payload per checksum
MAX_MANIFEST = 16 << 20  # bytes
MAX_DIMENSIONS = 32
MAX_INT = 2**63 - 1

HEAD = struct.Struct("<8sI4x16s")  # magic, format, uuid
SLOT = struct.Struct("<QQQI")  # generation; manifest's offset, length and CRC-32
CRC = struct.Struct("<I")  # the last bytes of these pages: CRC-32 of the bytes before
HEADERS = 3 * PAGE  # bytes of the head and the slots
DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in ("float16", "float32", "float64", "int32", "int64", "uint8", "uint16")
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

Progress = Callable[[int], None]
Root = tuple[int, int, int]  # where a manifest lies: its offset, length and CRC-32


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
class Entry:
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
        return self.offset + aligned(self.length)

    @property
    def blocks(self) -> int:
        """The number of checksums."""
        return -(-self.length // BLOCK)

    @property
    def end(self) -> int:
        """The offset behind the padded table."""
        return self.table + aligned(CRC.size * self.blocks)


@dataclass(frozen=True)
class Published:
    """The published state of a file."""

    version: Version
    slot: int  # the slot that points to it
    end: int  # the offset behind the manifest; bytes from there on are ignored
    meta: dict[str, Any]
    entries: tuple[Entry, ...]


def aligned(position: int, to: int = ALIGN) -> int:
    return -(-position // to) * to


def head_page(identity: bytes) -> bytes:
    """Return the first page of a file, which never changes; ``identity`` has 16 bytes."""
    return sealed(HEAD.pack(MAGIC, FORMAT, identity))


def slot_page(generation: int, root: Root) -> bytes:
    """Return the page of a slot that points to the manifest at ``root``."""
    return sealed(SLOT.pack(generation, *root))


def sealed(page: bytes) -> bytes:
    """Pad the bytes to a page that ends with its own checksum."""
    body = page.ljust(PAGE - CRC.size, b"\0")
    return body + CRC.pack(zlib.crc32(body))


def intact(page: bytes) -> bool:
    """Tell whether a page is whole and matches its checksum."""
    body, seal = page[: -CRC.size], page[-CRC.size :]
    return len(page) == PAGE and CRC.pack(zlib.crc32(body)) == seal


def damaged(name: str, what: str) -> FileFormatError:
    return FileFormatError(f"{name!r} is damaged: {what}; restore it from a copy or save it anew")
