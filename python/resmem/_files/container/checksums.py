"""Checksums of payloads: one for each block, as it is written and as it is found in a file."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache

from resmem._base import platform
from resmem._files.container.layout import BLOCK

CHUNK = 8 * BLOCK  # bytes per write, and per task of a thread
PIECE = BLOCK // 4  # bytes per read, few enough to be in the cache for the checksum


def checksums_of_blocks(data: memoryview) -> list[int]:
    """Return the CRC-32 of each block."""
    crc32 = _bulk_crc32()
    return [crc32(data[start : start + BLOCK]) for start in range(0, len(data), BLOCK)]


def checksum_in_file(fd: int, offset: int, length: int, buffer: bytearray) -> int:
    """Return the CRC-32 of a part of the file, or of as much of it as exists."""
    crc, crc32 = 0, _bulk_crc32()
    with memoryview(buffer) as view:
        while length > 0 and (got := platform.read_into(view[:length], fd, offset)):
            crc = crc32(view[:got], crc)
            offset, length = offset + got, length - got
    return crc


@cache
def _bulk_crc32() -> Callable[..., int]:
    """Return isal's CRC-32, which is three times as fast, or else zlib's."""
    try:
        from isal.isal_zlib import crc32
    except (ImportError, SystemError):  # SystemError: there was no memory to load it
        return zlib.crc32
    return crc32
