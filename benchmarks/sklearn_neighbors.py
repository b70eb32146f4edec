"""The neighbours of ``resmem.sklearn`` beside scikit-learn's brute force, in turns, on one thread.

``python benchmarks/sklearn_neighbors.py`` prints the best of five times of each, how many times as
long scikit-learn takes, and the share of neighbours that are the same rows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import sklearn
from sklearn import neighbors
from threadpoolctl import threadpool_limits

import resmem
import resmem.sklearn

K, QUERIES, ROUNDS = 10, 2_000, 5
LIBRARIES = resmem.sklearn, neighbors


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def own(model: Any, rows: Any) -> Any:
    return model.fit(rows).kneighbors()[1]


def nearest(model: Any, queries: Any) -> Any:
    return model.kneighbors(queries)[1]


def compare(name: str, ours: Callable[[], Any], theirs: Callable[[], Any]) -> None:
    """Print the best times of two calls that return arrays (q, k) or (q,)."""
    rounds = [(seconds(ours), seconds(theirs)) for _ in range(ROUNDS)]
    one, other = (min(run[side][0] for run in rounds) for side in (0, 1))
    same = np.mean(rounds[-1][0][1] == rounds[-1][1][1])
    print(f"{name:36} {one:8.3f} s {other:8.3f} s {other / one:6.1f} x   {same:.2%} the same")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--columns", type=int, default=64)
    size = parser.parse_args()
    print(f"scikit-learn {sklearn.__version__}, NumPy {np.__version__}; resmem, then scikit-learn:")
    rng = np.random.default_rng(0)
    rows, queries = (rng.normal(size=(n, size.columns)) for n in (size.rows, QUERIES))
    for dtype in (np.float32, np.float64):
        compare_with(rows.astype(dtype), queries.astype(dtype), rng.integers(0, 10, size.rows))


def compare_with(rows: Any, queries: Any, labels: Any) -> None:
    settings: dict[str, Any] = {"n_neighbors": K, "algorithm": "brute", "n_jobs": 1}

    fresh = [library.NearestNeighbors(**settings) for library in LIBRARIES]
    compare(f"{rows.dtype}: fit, neighbours of rows", *[partial(own, m, rows) for m in fresh])
    found = [library.NearestNeighbors(**settings).fit(rows) for library in LIBRARIES]
    compare(f"{rows.dtype}: {QUERIES:,} queries", *[partial(nearest, m, queries) for m in found])
    voting = [library.KNeighborsClassifier(**settings).fit(rows, labels) for library in LIBRARIES]
    compare(f"{rows.dtype}: predict", *[partial(model.predict, queries) for model in voting])


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
