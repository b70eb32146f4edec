"""Search in few dimensions, where trees are fast: ``python benchmarks/low_dimensions.py``.

10,000 queries, k = 10, among uniform and clustered rows of 2 to 16 dimensions:
``Memory.kneighbors`` beside the k-d tree of scikit-learn. Two calls of each come before the timed
ones, which take turns; a slow contender is called less often, at least once. Distances of
both must agree, and on a sample resmem must have the bits of the oracle.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import sklearn
from sklearn.neighbors import NearestNeighbors

import data
import machine
import peers
import reference
from data import Float32, Shape
from report import aligned, clock

DIMENSIONS, ROWS, QUERIES, K = (2, 3, 4, 8, 16), (100_000, 1_000_000), 10_000, 10
QUICK_ROWS, QUICK_QUERIES = ROWS[:1], 1_000
SEED = 112
ROUNDS, SLOW = 3, 30.0  # timed calls; seconds after which a contender is not called again


def uniform(shape: Shape) -> tuple[Float32, Float32]:
    """Return points of the unit cube."""
    rng = np.random.default_rng(shape.seed)
    points = rng.random((shape.rows + shape.queries, shape.dim), dtype=np.float32)
    return points[: shape.rows], points[shape.rows :]


KINDS = {"uniform": uniform, "clustered": data.clustered}


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of a call and its result."""
    start = time.perf_counter()
    answer = call()
    return time.perf_counter() - start, answer


def compare(kind: str, shape: Shape, threads: int) -> list[str]:
    """Return one line of the table."""
    rows, queries = KINDS[kind](shape)
    tree = NearestNeighbors(algorithm="kd_tree", n_jobs=threads)
    built, _ = timed(lambda: tree.fit(rows))
    resmem = peers.Resmem(threads)
    resmem.load(rows)
    calls = (
        lambda: resmem.search("resmem", queries, K),
        lambda: tree.kneighbors(queries, K),
    )
    first, found = zip(*(timed(call) for call in calls), strict=True)
    agree(found, rows, queries)
    timings = [[seconds] for seconds in first]
    for _ in range(1 + ROUNDS):
        for call, taken in zip(calls, timings, strict=True):
            if sum(taken) < SLOW:
                taken.append(timed(call)[0])
    ours, theirs = (median(taken[2:] or taken) for taken in timings)
    times = clock(ours), clock(theirs), f"{theirs / ours:.2f}"
    return [kind, f"{shape.rows:,}", f"{shape.dim}", *times, clock(first[0]), clock(built)]


def agree(found: tuple[peers.Found, ...], rows: Float32, queries: Float32) -> None:
    """Compare distances of all queries, and neighbours of a sample."""
    (distances, ids), (others, _) = found
    if not np.allclose(distances, others, rtol=1e-9, atol=1e-12):
        raise AssertionError("distances differ from those of scikit-learn")
    sample = np.linspace(0, len(queries) - 1, reference.SAMPLE).astype(np.int64)
    exact, known = reference.exact(rows, queries[sample], K)
    if not (np.array_equal(ids[sample], known) and np.array_equal(distances[sample], exact)):
        raise AssertionError("neighbours differ from those of the oracle")


def main() -> int:
    """Compare all kinds, sizes and dimensions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="default 2")
    parser.add_argument("--quick", action="store_true", help="fewer rows and queries")
    chosen = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: chosen.threads])
    print(f"{machine.processor()[0]}; scikit-learn {sklearn.__version__}")
    count = QUICK_QUERIES if chosen.quick else QUERIES
    lines = [["", "rows", "d", "resmem", "k-d tree", "ratio", "resmem, first", "tree built"]]
    for kind in KINDS:
        for rows in QUICK_ROWS if chosen.quick else ROWS:
            for dim in DIMENSIONS:
                shape = Shape(kind, rows, dim, count, (K,), 1, quick_queries=count, seed=SEED)
                lines.append(compare(kind, shape, chosen.threads))
                print(f"  {' '.join(lines[-1])}", flush=True)
    print(f"\nq={count:,} k={K}, {chosen.threads} thread(s); distances agree, neighbours exact")
    print("\n".join(aligned(lines)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
