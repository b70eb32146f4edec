"""Blocks of rows, so that the work on all rows takes bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

_BLOCK_BYTES = 24 << 20  # bytes of converted rows in one block


def rows_per_block(row_bytes: int) -> int:
    """Return how many rows of ``row_bytes`` bytes each take about 24 MiB; at least 1."""
    return max(1, _BLOCK_BYTES // max(1, row_bytes))


def blocks(n: int, row_bytes: int) -> Iterator[slice]:
    """Yield slices of rows 0 to n that take about 24 MiB each, at ``row_bytes`` bytes per row."""
    step = rows_per_block(row_bytes)
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))
