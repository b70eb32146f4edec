"""Indexes tried on some rows: built, searched beside the search without one, and the best kept."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from resmem import _core
from resmem._base.arrays import F32, F64, I64
from resmem._base.sample import sample
from resmem._indexes.decision import FEW, Decision, Index, kind_of
from resmem._indexes.shape import (
    LEAST_ROWS,
    Shape,
    Survivors,
    depths_of,
    shape_for,
    squared_lengths,
)

KeySegment: TypeAlias = "tuple[npt.NDArray[Any], I64 | None, int, I64 | None, float]"
_TREES = 16  # dimensions; beyond, a tree looks at most of the rows
_TREES_FIRST = 6  # dimensions up to which a tree is faster than a cascade, and so is tried first
_HOPELESS = 4.0  # times a query's time with the best: a tree so slow for a few is not asked more
SAMPLE = 512  # rows that are searched for to measure what a cascade saves
_SINGLES = 4
_MOST_BUILDING = 5.0  # times what 1,000 queries take without it
_MOST_TIME = 0.9  # of the time without it, or it is dropped
_LEAST_DEPTH = 40  # to begin with
_MANY, _LITTLE = 0.02, 0.001  # shares of pairs that pass; beyond, another depth is tried
_FLAT = 0.3  # share of pairs; beyond, codes must take all dimensions, at most so many:
_MOST_FLAT = 512
_SOME_NUMBERS = 1 << 23  # that a first trial on some of the rows copies
_SOME = 0.6  # times as fast on some of the rows is enough: more rows gain more


@dataclass(frozen=True)
class Ask:
    """What searches ask for."""

    k: int
    threads: int
    metric: str


@dataclass(frozen=True)
class IndexTrial:
    """A cascade or a tree and what was measured of it."""

    shape: Shape | None  # of a cascade
    index: Index | None  # none: the search without
    seconds: float  # to build
    batch: float  # seconds for ``SAMPLE`` queries
    single: float  # for ``_SINGLES`` queries one after the other
    passed: float  # share of all pairs that passed the projection, of cascades

    def described(self, without: IndexTrial) -> dict[str, Any]:
        assert self.index is not None
        shape = {} if self.shape is None else asdict(self.shape)
        return {
            "search": kind_of(self.index),
            **shape,
            "bytes": self.index.nbytes,
            "build_seconds": self.seconds,
            **({} if self.shape is None else {"passed": self.passed}),
            "times_as_fast": without.batch / self.batch,
            "times_as_fast_single": without.single / self.single,
        }


def decide(
    segment: KeySegment,
    keys: npt.NDArray[Any],
    k: int,
    threads: int,
    most_trials: int = 4,
    metric: str = "euclidean",
) -> Decision:
    """Build cascades and a tree, search with them and without, and keep the fastest if that is
    faster."""
    n, d = segment[0].shape
    queries = _sample(segment[0], SAMPLE, 0)
    ask = Ask(k, threads, metric)
    none = IndexTrial(None, None, 0.0, *_measure(queries, (*segment, None), ask))
    trials: list[IndexTrial] = []
    reason = ""
    few_dimensions = d <= _TREES and "euclidean" in metric
    if few_dimensions and d <= _TREES_FIRST:
        trials += _try_tree(segment, queries, none, ask)
    if len(trials) < most_trials:
        tried, reason = _try_cascades(segment, queries, none, ask, most_trials - len(trials))
        trials += tried
    if few_dimensions and d > _TREES_FIRST and len(trials) < most_trials:
        trials += _try_tree(segment, queries, min([none, *trials], key=_batch), ask)
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


def _try_tree(segment: KeySegment, queries: F32, best: IndexTrial, ask: Ask) -> list[IndexTrial]:
    """A tree, unless there is no memory for it or a few queries show it far behind the best."""
    rows, largest = segment[0], segment[4]
    start = time.perf_counter()
    try:
        tree = _core.Tree((rows, None, 0, None, largest), rows.shape[1], ask.threads)
    except (ValueError, MemoryError):
        return []
    seconds = time.perf_counter() - start
    with_tree = (*segment, tree)
    few = queries[:FEW]
    pilot = min(_time(few, with_tree, ask)[0] for _ in range(2))
    if pilot * len(queries) > _HOPELESS * best.batch * len(few):
        return []
    return [IndexTrial(None, tree, seconds, *_measure(queries, with_tree, ask))]


def _try_cascades(
    segment: KeySegment, queries: F32, none: IndexTrial, ask: Ask, most_trials: int
) -> tuple[list[IndexTrial], str]:
    """Cascades of one shape after the other, as long as that pays; or why there is none."""
    rows, largest = segment[0], segment[4]
    n, d = rows.shape
    budget = _MOST_BUILDING * none.batch * 1000 / len(queries)
    look = _survivors(queries[:128], segment, ask) if d > 64 else None
    flat = look is not None and look.share(64) > _FLAT
    if (flat and d > _MOST_FLAT) or (
        ask.metric == "inner_product" and _misses(queries, segment, ask)
    ):
        return [], "no projection tells its rows apart"
    first = shape_for(n, d, flat)
    if not first.fits(d):
        return [], "codes take more than two fifths of so few dimensions"
    if look is not None and first.coded_rows:
        depths = [p for p in depths_of(first, d) if p >= _LEAST_DEPTH]
        first = replace(first, depth=look.best_depth(depths)) if depths else first
    trials: list[IndexTrial] = []
    shape: Shape | None = first
    while shape is not None and len(trials) < most_trials:
        start = time.perf_counter()
        try:
            cascade = _build((rows, None, 0, None, largest), shape, ask)
        except (ValueError, MemoryError) as error:
            return trials, str(error) or "no memory"
        seconds = time.perf_counter() - start
        measured = _measure(queries, (*segment, cascade), ask)
        trials.append(IndexTrial(shape, cascade, seconds, *measured))
        budget -= seconds
        shape = _next_shape(trials, n, d) if 1.4 * seconds < budget else None
    return trials, ""


def _next_shape(trials: list[IndexTrial], n: int, d: int) -> Shape | None:
    """One more depth, in the direction in which it may be faster; none once it was not."""
    last = trials[-1]
    assert last.shape is not None
    if not last.shape.coded_rows or (len(trials) > 1 and last.batch > trials[-2].batch):
        return None
    depths = depths_of(last.shape, d)
    further: list[int] = []
    if last.passed > _MANY:
        further = [p for p in depths if p > last.shape.depth][:1]
        if (not further or last.passed > _FLAT) and d <= _MOST_FLAT:
            return shape_for(n, d, flat=True)
    elif last.passed < _LITTLE:
        further = [p for p in depths if p < last.shape.depth][-1:]
    shapes = [replace(last.shape, depth=p) for p in further]
    return next((s for s in shapes if s not in [trial.shape for trial in trials]), None)


def _survivors(queries: F32, segment: KeySegment, ask: Ask) -> Survivors:
    """Some queries, what they reach, and some other rows."""
    rows, others = segment[0], _sample(segment[0], SAMPLE, 1)
    found = _core.search(queries, segment[4], [segment], ask.k, ask.metric, None, ask.threads)
    farthest = found[2][np.arange(len(queries)), (found[2] >= 0).sum(axis=1) - 1]
    last = _widened(rows[farthest])
    longest = math.sqrt(max(squared_lengths(others).max(), squared_lengths(last).max()))
    asked = _points(queries, ask.metric, longest, True)
    reach = np.sqrt(squared_lengths(asked - _points(last, ask.metric, longest)))
    return Survivors(asked, reach, _points(others, ask.metric, longest))


def _points(x: F32, metric: str, longest: float, as_queries: bool = False) -> F64:
    """Points that are nearer where a key is smaller (cpp/index/cascade/points.h)."""
    points = x.astype(np.float64)
    if metric in ("euclidean", "sqeuclidean"):
        return points
    lengths = np.sqrt(squared_lengths(points))
    if metric == "cosine" or as_queries:
        unit = points / np.maximum(lengths, np.finfo(np.float64).tiny)[:, None]
        return unit if metric == "cosine" else np.pad(unit * longest, ((0, 0), (0, 1)))
    lift = np.sqrt(np.maximum(longest**2 - lengths**2, 0))
    return np.column_stack([points, lift])


def _misses(queries: F32, segment: KeySegment, ask: Ask) -> bool:
    """Whether a cascade of some of the rows is much slower than none, as it is where lengths differ
    a lot: they leave inner products little to be told by."""
    d = segment[0].shape[1]
    rows = _sample(segment[0], max(1024, min(2 * LEAST_ROWS, _SOME_NUMBERS // d)), 2)
    some = rows, None, 0, None, segment[4]
    try:
        cascade = _build(some, shape_for(*rows.shape), ask)
    except (ValueError, MemoryError):
        return True
    without = _time(queries[:64], (*some, None), ask)[0]
    return without < _SOME * _time(queries[:64], (*some, cascade), ask)[0]


def _sample(rows: npt.NDArray[Any], count: int, seed: int) -> F32:
    return _widened(rows[sample(len(rows), count, seed)])


def _widened(rows: npt.NDArray[Any]) -> F32:
    wide: F32 = rows if rows.dtype == np.float32 else _core.widen(rows)
    return wide


def _build(rows: Any, shape: Shape, ask: Ask) -> _core.Cascade:
    d = rows[0].shape[1]
    return _core.Cascade(
        rows, d, shape.depth, shape.clusters, shape.coded_rows, ask.threads, metric=ask.metric
    )


def _measure(queries: F32, segment: Any, ask: Ask) -> tuple[float, float, float]:
    """Seconds for all queries together and for few one after the other, and the share of pairs
    that passed the projection (1 where most queries were given up)."""
    batch = single = math.inf
    for _ in range(2):
        seconds, stats = _time(queries, segment, ask)
        batch = min(batch, seconds)
        single = min(
            single, sum(_time(queries[i : i + 1], segment, ask)[0] for i in range(_SINGLES))
        )
    if stats["given_up"] > len(queries) // 4:
        return batch, single, 1.0
    return batch, single, stats["code_hits"] / (len(queries) * len(segment[0]))


def _time(queries: F32, segment: Any, ask: Ask) -> tuple[float, _core.SearchStats]:
    start = time.perf_counter()
    asked = queries, segment[4], [segment], ask.k, ask.metric, None, ask.threads
    stats = _core.search(*asked)[3]
    return time.perf_counter() - start, stats
