"""The speed of this machine at the work of a query, measured within a few milliseconds.

For the search a query costs ``n d`` multiplications and ``k`` neighbours to keep, for the base
model ``C`` exponentials, and for the correction ``k C`` residuals that are read (store="dense"),
``k`` times the entries of a row ("sparse:m"), or ``k C`` residuals that are each computed from
``d`` numbers ("head"). Each kind of work is timed on arrays of fixed sizes with all threads; the
time of a query follows in proportion. Rows with a cascade or a tree are searched faster than that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

import resmem._core as _core

_REPEATS = 5  # runs, of which the fastest counts
_WIDEST = 1024  # columns of keys that are timed; more cost in proportion
_QUERIES, _NEIGHBOURS, _ROWS, _COLUMNS = 8, 16, 64, 512  # sizes of what is timed


@dataclass(frozen=True)
class Rates:
    """Seconds for one unit of each kind of work."""

    product: float  # one column of one row's key, multiplied in a search
    neighbour: float  # one neighbour of a query, kept in order
    output: float  # one output of the base model, made a probability and copied
    gathered: float  # one stored residual, read, weighted and added
    computed: float  # one residual computed from a layer, weighted and added

    def seconds_per_query(
        self, n: int, d: int, columns: int, k: int, store: str, entries: int
    ) -> float:
        """Return the seconds that one query among many takes; ``entries`` is per sparse row."""
        correction = {
            "dense": k * columns * self.gathered,
            "sparse": k * entries * self.gathered,
            "head": k * columns * self.computed,
        }[store]
        search = n * d * self.product + k * self.neighbour
        return search + columns * self.output + correction


@lru_cache(maxsize=16)
def rates(d: int) -> Rates:
    """Return the rates of this machine for keys with ``d`` columns; they are measured once."""
    rng, width = np.random.default_rng(0), min(d, _WIDEST)
    rows = rng.standard_normal((4096, width), dtype=np.float32)
    largest = float(np.abs(rows).max())
    segment = [_core.Segment(rows, largest=largest)]
    queries = rows[:_ROWS].copy()
    search = _fastest(lambda: _core.search(queries, largest, segment, 1, "euclidean"))
    few = [_core.Segment(rows[:512], largest=largest)]
    neighbour = _fastest(lambda: _core.search(queries, largest, few, _ROWS, "euclidean"))

    outputs = rng.standard_normal((_ROWS, 16384), dtype=np.float32)
    result = np.empty(outputs.shape)
    base = _fastest(lambda: np.copyto(result, _core.softmax(outputs, 1.0)))

    at = rng.integers(0, _ROWS, (_QUERIES, _NEIGHBOURS))
    distances = np.sort(rng.random(at.shape), axis=1)
    gather = _fastest(
        lambda: _core.aggregate([_core.DenseRows(outputs)], distances, at, 1.0, outputs.shape[1])
    )
    weight = rng.standard_normal((_COLUMNS, width), dtype=np.float32)
    layer = _core.LinearHead(weight, np.zeros(_COLUMNS, np.float32))
    classes = rng.integers(0, _COLUMNS, _ROWS)
    head = _fastest(
        lambda: _core.aggregate(
            [_core.HeadRows(queries, classes)], distances, at, 1.0, _COLUMNS, head=layer
        )
    )
    return Rates(
        product=search / (len(queries) * rows.size),
        neighbour=neighbour / (len(queries) * _ROWS),
        output=base / outputs.size,
        gathered=gather / (at.size * outputs.shape[1]),
        computed=head / (at.size * _COLUMNS) * (d / width),
    )


def _fastest(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of a few runs."""
    durations = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        work()
        durations.append(time.perf_counter() - start)
    return min(durations)
