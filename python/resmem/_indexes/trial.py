"""Trials of indexes: they are built, timed against the search without one, and the best is kept."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

import resmem._core as _core
from resmem._base.arrays import F32, F64
from resmem._base.execution import Execution
from resmem._base.sample import sample
from resmem._indexes.decision import LEAST_BATCH, Decision, Index
from resmem._indexes.shape import (
    LEAST_ROWS,
    Shape,
    Survivors,
    depths_of,
    shape_for,
    squared_lengths,
)

_MOST_TREE_DIMENSIONS = 16  # beyond, a tree reads most of the rows
_TREE_FIRST_DIMENSIONS = 6  # up to here a tree is faster than a cascade and is tried first
_SLOW_TREE = 4.0  # a tree whose first queries take this many times the best is dropped untimed
SAMPLE_QUERIES = 512  # rows that are searched for to time an index
_SINGLE_QUERIES = 4  # rows that are searched for one at a time
_BUILD_BUDGET = 5.0  # time to build all cascades, in times that 1,000 queries take without one
_MOST_TIME = 0.9  # an index is dropped if it takes more than this part of the time without it
_LEAST_DEPTH = 40  # depth of the first cascade that is tried, at least
# Shares of pairs that pass the projection: more than the first need a greater depth, fewer than
# the second a smaller one.
_DEEPER_ABOVE, _SHALLOWER_BELOW = 0.02, 0.001
_ALL_DIMENSIONS_ABOVE = 0.3  # share of pairs beyond which codes must take all dimensions
_MOST_CODED_DIMENSIONS = 512  # dimensions that such codes may have
_PILOT_NUMBERS = 1 << 23  # values of the rows that a pilot trial copies
_PILOT_SPEED = 0.6  # times as fast is enough in a pilot trial: more rows gain more


@dataclass(frozen=True)
class SearchParameters:
    """The parameters of the searches that are timed."""

    k: int
    execution: Execution
    metric: str


@dataclass(frozen=True)
class IndexTrial:
    """A cascade or a tree and its measurements."""

    shape: Shape | None  # None for a tree
    index: Index | None  # None for the search without an index
    seconds: float  # time to build it
    batch: float  # seconds for ``SAMPLE_QUERIES`` queries together
    single: float  # seconds for ``_SINGLE_QUERIES`` queries one after the other
    passed: float  # share of pairs that passed the projection, for cascades

    def described(self, without: IndexTrial) -> dict[str, Any]:
        """Return the measurements, as ratios to those of the search without an index."""
        assert self.index is not None
        shape = {} if self.shape is None else asdict(self.shape)
        return {
            "search": self.index.kind,
            **shape,
            "bytes": self.index.nbytes,
            "build_seconds": self.seconds,
            **({} if self.shape is None else {"passed": self.passed}),
            "times_as_fast": without.batch / self.batch,
            "times_as_fast_single": without.single / self.single,
        }


def decide(
    segment: _core.Segment,
    keys: npt.NDArray[Any],
    k: int,
    execution: Execution,
    most_trials: int = 4,
    metric: str = "euclidean",
) -> Decision:
    """Build cascades and a tree, time searches with them and without, and keep the fastest index.

    No index is kept if none is clearly faster than the search without one.
    """
    n, d = segment.keys.shape
    queries = _sampled_rows(segment.keys, SAMPLE_QUERIES, 0)
    search = SearchParameters(k, execution, metric)
    none = IndexTrial(None, None, 0.0, *_measure(queries, segment, search))
    trials: list[IndexTrial] = []
    reason = ""
    tree_possible = d <= _MOST_TREE_DIMENSIONS and "euclidean" in metric
    if tree_possible and d <= _TREE_FIRST_DIMENSIONS:
        trials += _try_tree(segment, queries, none, search)
    if len(trials) < most_trials:
        tried, reason = _try_cascades(segment, queries, none, search, most_trials - len(trials))
        trials += tried
    if tree_possible and d > _TREE_FIRST_DIMENSIONS and len(trials) < most_trials:
        trials += _try_tree(segment, queries, min([none, *trials], key=_batch), search)
    if not trials:
        return Decision(n, keys, None, (), False, False, reason)
    best = min(trials, key=_batch)
    batches = best.batch < _MOST_TIME * none.batch
    singles = best.single < _MOST_TIME * none.single
    reason = (
        f"{none.batch / best.batch:.2f} times as fast on {len(queries)} of its rows, "
        f"{none.single / best.single:.2f} times on one at a time"
    )
    kept = best.index if batches or singles else None
    tried_all = tuple(trial.described(none) for trial in trials)
    return Decision(n, keys, kept, tried_all, batches, singles, reason)


def _batch(trial: IndexTrial) -> float:
    return trial.batch


def _try_tree(
    segment: _core.Segment, queries: F32, best: IndexTrial, search: SearchParameters
) -> list[IndexTrial]:
    """Try a tree; give none if memory is short or a first few queries are far slower."""
    rows, largest = segment.keys, segment.largest
    start = time.perf_counter()
    try:
        tree = _core.Tree(
            _core.Segment(rows, largest=largest), rows.shape[1], execution=search.execution
        )
    except (ValueError, MemoryError):
        return []
    seconds = time.perf_counter() - start
    with_tree = segment.with_index(tree)
    few = queries[:LEAST_BATCH]
    pilot = min(_time(few, with_tree, search)[0] for _ in range(2))
    if pilot * len(queries) > _SLOW_TREE * best.batch * len(few):
        return []
    return [IndexTrial(None, tree, seconds, *_measure(queries, with_tree, search))]


def _try_cascades(
    segment: _core.Segment,
    queries: F32,
    none: IndexTrial,
    search: SearchParameters,
    most_trials: int,
) -> tuple[list[IndexTrial], str]:
    """Try cascades of one shape after the other while that pays; say why if there is none."""
    rows, largest = segment.keys, segment.largest
    n, d = rows.shape
    budget = _BUILD_BUDGET * none.batch * 1000 / len(queries)
    survivors = _survivors(queries[:128], segment, search) if d > 64 else None
    all_dimensions = survivors is not None and survivors.share(64) > _ALL_DIMENSIONS_ABOVE
    if (all_dimensions and d > _MOST_CODED_DIMENSIONS) or (
        search.metric == "inner_product" and _pilot_fails(queries, segment, search)
    ):
        return [], "no projection tells its rows apart"
    first = shape_for(n, d, all_dimensions)
    if not first.fits(d):
        return [], "codes take more than two fifths of so few dimensions"
    if survivors is not None and first.coded_rows:
        depths = [p for p in depths_of(first, d) if p >= _LEAST_DEPTH]
        first = replace(first, depth=survivors.best_depth(depths)) if depths else first
    trials: list[IndexTrial] = []
    shape: Shape | None = first
    while shape is not None and len(trials) < most_trials:
        start = time.perf_counter()
        try:
            cascade = _build(_core.Segment(rows, largest=largest), shape, search)
        except (ValueError, MemoryError) as error:
            return trials, str(error) or "no memory"
        seconds = time.perf_counter() - start
        measured = _measure(queries, segment.with_index(cascade), search)
        trials.append(IndexTrial(shape, cascade, seconds, *measured))
        budget -= seconds
        shape = _next_shape(trials, n, d) if 1.4 * seconds < budget else None
    return trials, ""


def _next_shape(trials: list[IndexTrial], n: int, d: int) -> Shape | None:
    """Return a shape of the next depth that may be faster; None once a step was not faster."""
    last = trials[-1]
    assert last.shape is not None
    if not last.shape.coded_rows or (len(trials) > 1 and last.batch > trials[-2].batch):
        return None
    depths = depths_of(last.shape, d)
    further: list[int] = []
    if last.passed > _DEEPER_ABOVE:
        further = [p for p in depths if p > last.shape.depth][:1]
        if (not further or last.passed > _ALL_DIMENSIONS_ABOVE) and d <= _MOST_CODED_DIMENSIONS:
            return shape_for(n, d, all_dimensions=True)
    elif last.passed < _SHALLOWER_BELOW:
        further = [p for p in depths if p < last.shape.depth][-1:]
    shapes = [replace(last.shape, depth=p) for p in further]
    return next((s for s in shapes if s not in [trial.shape for trial in trials]), None)


def _survivors(queries: F32, segment: _core.Segment, search: SearchParameters) -> Survivors:
    """Return the queries, their reach (the distance of the k-th neighbour) and sampled rows."""
    rows, others = segment.keys, _sampled_rows(segment.keys, SAMPLE_QUERIES, 1)
    found = _core.search(
        queries, segment.largest, [segment], search.k, search.metric, execution=search.execution
    )
    farthest = found[2][np.arange(len(queries)), (found[2] >= 0).sum(axis=1) - 1]
    last = _widened(rows[farthest])
    longest = math.sqrt(max(squared_lengths(others).max(), squared_lengths(last).max()))
    points = _points(queries, search.metric, longest, True)
    reach = np.sqrt(squared_lengths(points - _points(last, search.metric, longest)))
    return Survivors(points, reach, _points(others, search.metric, longest))


def _points(x: F32, metric: str, longest: float, as_queries: bool = False) -> F64:
    """Return points whose Euclidean order is that of the metric (cpp/index/cascade/points.h)."""
    points = x.astype(np.float64)
    if metric in ("euclidean", "sqeuclidean"):
        return points
    lengths = np.sqrt(squared_lengths(points))
    if metric == "cosine" or as_queries:
        unit = points / np.maximum(lengths, np.finfo(np.float64).tiny)[:, None]
        return unit if metric == "cosine" else np.pad(unit * longest, ((0, 0), (0, 1)))
    lift = np.sqrt(np.maximum(longest**2 - lengths**2, 0))
    return np.column_stack([points, lift])


def _pilot_fails(queries: F32, segment: _core.Segment, search: SearchParameters) -> bool:
    """Tell whether a cascade of some of the rows is much slower than none.

    For inner products it is where the lengths of rows differ a lot.
    """
    d = segment.keys.shape[1]
    rows = _sampled_rows(segment.keys, max(1024, min(2 * LEAST_ROWS, _PILOT_NUMBERS // d)), 2)
    some = _core.Segment(rows, largest=segment.largest)
    try:
        cascade = _build(some, shape_for(*rows.shape), search)
    except (ValueError, MemoryError):
        return True
    without = _time(queries[:64], some, search)[0]
    return without < _PILOT_SPEED * _time(queries[:64], some.with_index(cascade), search)[0]


def _sampled_rows(rows: npt.NDArray[Any], count: int, seed: int) -> F32:
    return _widened(rows[sample(len(rows), count, seed)])


def _widened(rows: npt.NDArray[Any]) -> F32:
    wide: F32 = rows if rows.dtype == np.float32 else _core.widen(rows)
    return wide


def _build(rows: _core.Segment, shape: Shape, search: SearchParameters) -> _core.Cascade:
    d = rows.keys.shape[1]
    return _core.Cascade(
        rows, d, shape.depth, shape.clusters, shape.coded_rows, search.metric, search.execution
    )


def _measure(queries: F32, segment: Any, search: SearchParameters) -> tuple[float, float, float]:
    """Return seconds for all queries together, seconds for some one after the other, and a share.

    The share is that of pairs that passed the projection; 1 if the cascade gave up many queries.
    """
    batch = single = math.inf
    for _ in range(2):
        seconds, stats = _time(queries, segment, search)
        batch = min(batch, seconds)
        single = min(
            single,
            sum(_time(queries[i : i + 1], segment, search)[0] for i in range(_SINGLE_QUERIES)),
        )
    if stats["given_up"] > len(queries) // 4:
        return batch, single, 1.0
    return batch, single, stats["code_hits"] / (len(queries) * len(segment.keys))


def _time(queries: F32, segment: Any, search: SearchParameters) -> tuple[float, _core.SearchStats]:
    start = time.perf_counter()
    stats = _core.search(
        queries, segment.largest, [segment], search.k, search.metric, execution=search.execution
    )[3]
    return time.perf_counter() - start, stats
