"""Rows in blocks that take bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

_BLOCK_BYTES = 24 << 20  # of the rows in hand, converted


def rows_in_hand(row_bytes: int) -> int:
    """How many rows take about 24 MiB at so many bytes a row."""
    return max(1, _BLOCK_BYTES // max(1, row_bytes))


def blocks(n: int, row_bytes: int) -> Iterator[slice]:
    """Rows 0 to n, in slices that take about 24 MiB at so many bytes a row."""
    step = rows_in_hand(row_bytes)
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))
