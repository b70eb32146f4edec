"""How fast rows come that a device has no room for: ``python benchmarks/device_slabs.py``.

A search brings them in slabs, and one is searched while the next is copied. The rate is that of the
bytes that a search brings at least, beside the rate of a plain copy from pinned memory by PyTorch.
Some queries are searched on the CPU as well: the exit status is 1 if any has other bits. The bar
beside the rate never fails.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

import resmem

ROWS, DIM, QUERIES, K = 1_000_000, 512, 256, 10
RESIDENT = 2**29  # bytes of the device that rows may take, of 2 GB
ROUNDS, CHECKED = 5, 4
BAR = 0.8  # of the rate of a plain copy
GIB = 2**30


def seconds(call: Callable[[], Any], wait: Callable[[], None]) -> float:
    """Return the median time of some calls after a first one."""
    taken = []
    for _ in range(ROUNDS + 1):
        wait()
        start = time.perf_counter()
        call()
        wait()
        taken.append(time.perf_counter() - start)
    return median(taken[1:])


def copied_by(torch: Any, device: str, size: int) -> float:
    """Return the seconds of a copy of so many bytes from pinned memory."""
    source = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(size, dtype=torch.uint8, device=device)
    return seconds(lambda: target.copy_(source, non_blocking=True), torch.cuda.synchronize)


def wrong(memory: resmem.Memory, queries: Any, found: Any) -> int:
    """Return how many of the queries the CPU answers with other bits."""
    wanted = memory.to("cpu").kneighbors(queries)
    same = [np.asarray(f).tobytes() == w.tobytes() for f, w in zip(found, wanted, strict=True)]
    return 0 if all(same) else len(queries)


def main() -> int:
    """Time a search of rows that come in slabs; see the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0", help="such as cuda:0 or cuda:emulated")
    parser.add_argument("--tiny", action="store_true", help="few rows, for the emulation")
    given = parser.parse_args()
    n, d, q, resident = (1_500, 16, 20, 2**16) if given.tiny else (ROWS, DIM, QUERIES, RESIDENT)
    rng = np.random.default_rng(12)
    rows = rng.standard_normal((n, d), dtype=np.float32)
    queries = rng.standard_normal((q, d), dtype=np.float32)
    memory = resmem.Memory("regression", "values", k=K)
    memory.fit(rows, np.zeros(n, np.float32), np.zeros(n, np.float32))
    memory.to(given.device, resident_bytes=resident)
    brought = rows.nbytes - resident
    taken = seconds(lambda: memory.kneighbors(queries), lambda: None)
    rate = brought / taken / GIB
    print(f"{n:,} x {d}, {q} queries, k = {K}: {1e3 * taken:.1f} ms, {rate:.2f} GiB/s or more")
    try:
        import torch
    except ImportError:
        torch = None
    if torch is not None and torch.cuda.is_available() and not given.tiny:
        plain = brought / copied_by(torch, given.device, brought) / GIB
        verdict = "passed" if rate >= BAR * plain else "MISSED"
        print(f"a plain copy: {plain:.2f} GiB/s; {rate / plain:.2f} of it, bar {BAR}: {verdict}")
    else:
        print("a plain copy: not timed, as PyTorch knows no GPU here")
    few = queries[:CHECKED]
    differ = wrong(memory, few, memory.kneighbors(few))
    print(f"checked queries that differ from the CPU: {differ}")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
