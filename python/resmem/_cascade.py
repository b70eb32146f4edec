"""When rows get a cascade, of what shape, and whether it stays (cpp/cascade/README.md)."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from resmem import _core
from resmem._arrays import F32, I64

KeySegment: TypeAlias = "tuple[npt.NDArray[Any], I64 | None, int, I64 | None, float]"

LEAST_ROWS = 8192  # fewer are searched in no time
WORTH = 2000  # queries after which building has paid: it takes as long as about a thousand
SAMPLE = 512  # rows that are searched for to measure what a cascade saves
_MOST_TIME = 0.9  # of the time without it, or it is dropped


@dataclass(frozen=True)
class Shape:
    """What to build."""

    depth: int  # codes of a projection
    clusters: int
    coded_rows: bool


def shape_for(n: int, d: int) -> Shape:
    """Within 40 % of float32 rows from 24 dimensions on: a row takes ``depth`` bytes and 8, with
    codes of its own ``d`` (rounded up to 16) and 4 more; filling panels of 32 rows adds a
    twentieth if a cluster has 320."""
    clusters = min(1024, max(4, min(round(math.sqrt(n)), n // 320)))
    if d < 128:
        return Shape(min(64, -(-d // 4) * 4), clusters, coded_rows=False)
    return Shape(40 if d < 160 else 64 if d <= 400 else 128, clusters, coded_rows=True)


@dataclass(frozen=True)
class Decision:
    """What was measured of some rows, and what came of it."""

    rows: int  # the first ones of the segment
    shape: Shape
    cascade: _core.Cascade | None
    reason: str
    seconds: float  # to build
    without: float  # seconds for ``SAMPLE`` queries
    with_it: float
    keys: npt.NDArray[Any]  # the array it was built of

    def described(self) -> dict[str, Any]:
        """For people and tools."""
        return {
            "rows": self.rows,
            "search": "float32" if self.cascade is None else "cascade",
            "reason": self.reason,
            "depth": self.shape.depth,
            "clusters": self.shape.clusters,
            "coded_rows": self.shape.coded_rows,
            "bytes": 0 if self.cascade is None else self.cascade.nbytes,
            "build_seconds": self.seconds,
            "seconds_without": self.without,
            "seconds_with": self.with_it,
        }


class Planner:
    """Counts the queries of a segment, and decides once building has paid."""

    def __init__(self) -> None:
        self.decision: Decision | None = None
        self._asked = 0
        self._lock = threading.Lock()

    def cascade_of(self, keys: npt.NDArray[Any]) -> _core.Cascade | None:
        """The cascade of the first of these rows, if there is one."""
        decision = self.decision
        same = decision is not None and decision.keys is keys
        return decision.cascade if same and decision is not None else None

    def ask(
        self,
        segment: KeySegment,
        keys: npt.NDArray[Any],
        queries: int,
        k: int,
        threads: int,
        at_once: bool = False,
    ) -> None:
        """Told before a search. ``keys``: the array whose first rows the segment's are."""
        n = len(segment[0])
        known = 0 if self.decision is None else self.decision.rows
        if n < LEAST_ROWS or n - known <= max(0 if at_once else LEAST_ROWS - 1, known // 4):
            return
        self._asked += queries
        if not at_once and self._asked < WORTH:
            return
        if self._lock.acquire(blocking=False):  # who comes meanwhile searches without
            try:
                self.decision = decide(segment, keys, k, threads)
                self._asked = 0
            finally:
                self._lock.release()


def decide(segment: KeySegment, keys: npt.NDArray[Any], k: int, threads: int) -> Decision:
    """Build a cascade, search with it and without, and keep it if that was faster."""
    rows, largest = segment[0], segment[4]
    n, d = rows.shape
    shape = shape_for(n, d)
    start = time.perf_counter()
    try:
        cascade = _core.Cascade(
            (rows, None, 0, None, largest),
            d,
            shape.depth,
            shape.clusters,
            shape.coded_rows,
            threads,
        )
    except (ValueError, MemoryError) as error:
        return Decision(n, shape, None, str(error) or "no memory", 0.0, 0.0, 0.0, keys)
    seconds = time.perf_counter() - start
    chosen = np.sort(np.random.RandomState(0).permutation(n)[:SAMPLE])
    queries = rows[chosen]
    asked: F32 = queries if queries.dtype == np.float32 else _core.widen(queries)
    without = with_it = math.inf
    for _ in range(2):
        without = min(without, _time(asked, (*segment, None), k, threads))
        with_it = min(with_it, _time(asked, (*segment, cascade), k, threads))
    faster = with_it < _MOST_TIME * without
    reason = f"{without / with_it:.2f} times as fast on {len(chosen)} of its rows"
    kept = cascade if faster else None
    return Decision(n, shape, kept, reason, seconds, without, with_it, keys)


def _time(queries: F32, segment: Any, k: int, threads: int) -> float:
    start = time.perf_counter()
    _core.search(queries, segment[4], [segment], k, "euclidean", None, threads)
    return time.perf_counter() - start
