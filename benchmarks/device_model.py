"""A paper model of a search on an H100: which of its steps explains a time.

Rates: bytes from memory at 3.0 TB/s, and rows that are gathered at three quarters of that; products
of bytes by `mma.sync` at half of 1979 TOP/s; five integer operations for each pair, on 132
multiprocessors with 64 lanes at 1.7 GHz; products and sums of float64, not fused, at 16.75 T/s.
"""

from __future__ import annotations

from collections.abc import Mapping

MEMORY, GATHERED = 3.0e12, 2.25e12  # bytes a second
PRODUCTS = 0.5 * 1979e12  # operations a second
PAIRS = 132 * 64 * 1.7e9 / 5  # pairs a second
FLOAT64 = 16.75e12  # operations a second
CACHED = 30e6  # bytes of codes that stay in the level-2 cache
WAVE = 16 * 128  # queries that share one pass over the codes
LAUNCHES, LAUNCH = 20, 3e-6  # kernels of a search, and seconds of each beside its work
HIT = 24  # bytes written and read for a hit


def milliseconds(rows: int, dim: int, queries: int, counted: Mapping[str, int]) -> dict[str, float]:
    """Return the time of each step; ``counted`` is what the search says of itself."""
    depth = -(-dim // 64) * 64
    codes = rows * depth
    passes = 1 if codes < CACHED else -(-queries // WAVE)
    pairs, streamed = counted["pairs_filtered"], counted["pairs_streamed"]
    exact = (counted["rescored"] + counted["compared"]) * dim
    terms = {
        "products": 2 * pairs * depth / PRODUCTS,
        "comparing": pairs / PAIRS,
        "codes": codes * passes / MEMORY if pairs or streamed else 0.0,
        "hits": counted["hits"] * HIT / MEMORY,
        "canonical": max(4 * exact / GATHERED, 4 * exact / FLOAT64),
        "launches": LAUNCHES * LAUNCH,
    }
    return {name: 1e3 * seconds for name, seconds in terms.items()}
