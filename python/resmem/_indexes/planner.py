"""When rows get a cascade or a tree, of what shape, and whether it stays.

cpp/index/cascade/README.md and cpp/index/tree/README.md say what these are.
"""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from resmem import _core
from resmem._base.arrays import F32, F64, I64
from resmem._base.sample import sample

Index: TypeAlias = "_core.Cascade | _core.Tree"
KINDS: dict[str, type[_core.Cascade] | type[_core.Tree]] = {
    "cascade": _core.Cascade,
    "tree": _core.Tree,
}
KeySegment: TypeAlias = "tuple[npt.NDArray[Any], I64 | None, int, I64 | None, float]"

LEAST_ROWS = 8192  # fewer are searched in no time
WORTH = 6000  # queries after which trying has paid: it takes as long as some 5,000
# Queries of one call that are worth building for, with coded rows, which save most, and without.
WORTH_AT_ONCE, WORTH_AT_ONCE_NARROW = 8000, 40_000
_NARROW = 128  # dimensions; fewer have no coded rows
_TREES = 16  # dimensions; beyond, a tree looks at most of the rows
_TREES_FIRST = 6  # dimensions up to which a tree is faster than a cascade, and so is tried first
# In up to so many dimensions a tree pays within one call of so many queries: it is built in the
# time of 1,000 to 3,000 without it and tried in that of 1,000 more. In 5 or 6, not always in 8,000.
_NARROWEST, WORTH_AT_ONCE_TREE = 4, 6000
_HOPELESS = 4.0  # times a query's time with the best: a tree so slow for a few is not asked more
SAMPLE = 512  # rows that are searched for to measure what a cascade saves
FEW = 16  # fewer queries are bound by memory: they are measured one after the other
_SINGLES = 4
_MOST_BYTES = 0.4  # of float32 rows, but for trees of 1 or 2 dimensions: row numbers take half
_MOST_BUILDING = 5.0  # times what 1,000 queries take without it
_MOST_TIME = 0.9  # of the time without it, or it is dropped
_LEAST_DEPTH = 40  # to begin with
_DEPTHS = (32, 40, 64, 96, 128, 192, 256)
_MANY, _LITTLE = 0.02, 0.001  # shares of pairs that pass; beyond, another depth is tried
_HIT = 10_000  # codes of a projection that take as long as a row that passes it
_FLAT = 0.3  # share of pairs; beyond, codes must take all dimensions, at most so many:
_MOST_FLAT = 512
_SOME_NUMBERS = 1 << 23  # that a first trial on some of the rows copies
_SOME = 0.6  # times as fast on some of the rows is enough: more rows gain more


@dataclass(frozen=True)
class Shape:
    """What to build."""

    depth: int  # codes of a projection
    clusters: int
    coded_rows: bool

    def bytes_per_row(self, d: int) -> float:
        """A row takes ``depth`` bytes and 8, with codes of its own ``d`` (rounded up to 32) and 8
        more. A cluster has 320 rows or more: filling panels of 32 adds a twentieth, its centre
        and chunks an eightieth of ``depth`` and a third of a byte; directions are shared by
        ``LEAST_ROWS`` or more."""
        coded = -(-d // 32) * 32 + 8 if self.coded_rows else 0
        shared = 4 * d * self.depth / LEAST_ROWS
        return 1.05 * (self.depth + 8 + coded) + self.depth / 80 + 0.3 + shared

    def fits(self, d: int) -> bool:
        return self.bytes_per_row(d) <= _MOST_BYTES * 4 * d


def shape_for(n: int, d: int, flat: bool = False) -> Shape:
    """The first to try. ``flat``: no projection keeps distances, so codes take all dimensions."""
    clusters = min(1024, max(4, min(round(math.sqrt(n)), n // 320)))
    coded_rows = not flat and d >= _NARROW
    depth = d if flat else 40 if coded_rows and d < 160 else 64 if d <= 400 else 128
    shape = Shape(-(-min(depth, d) // 4) * 4, clusters, coded_rows)
    while shape.depth > 4 and not shape.fits(d):
        shape = replace(shape, depth=shape.depth - 4)
    return shape


def worth_at_once(queries: int, d: int, metric: str) -> bool:
    """Whether a single search of so many queries gains by building for itself."""
    if d <= _NARROWEST and "euclidean" in metric:
        return queries >= WORTH_AT_ONCE_TREE
    return queries >= (WORTH_AT_ONCE_NARROW if d < _NARROW else WORTH_AT_ONCE)


def kind_of(index: Index) -> str:
    """Its name, for people and in files."""
    return next(name for name, kind in KINDS.items() if isinstance(index, kind))


@dataclass(frozen=True)
class Ask:
    """What searches ask for."""

    k: int
    threads: int
    metric: str


@dataclass(frozen=True)
class Trial:
    """A cascade or a tree and what was measured of it."""

    shape: Shape | None  # of a cascade
    index: Index | None  # none: the search without
    seconds: float  # to build
    batch: float  # seconds for ``SAMPLE`` queries
    single: float  # for ``_SINGLES`` queries one after the other
    passed: float  # share of all pairs that passed the projection, of cascades

    def described(self, without: Trial) -> dict[str, Any]:
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


@dataclass(frozen=True)
class Decision:
    """What was measured of some rows, and what came of it."""

    rows: int  # the first ones of the segment
    keys: npt.NDArray[Any]  # the array it was built of
    index: Index | None
    tried: tuple[dict[str, Any], ...]  # all trials, described
    batches: bool  # whether it serves batches of queries
    singles: bool  # whether it serves few queries
    reason: str
    stored: tuple[str, int] | None = None  # the file and the segment where it lies

    def serves(self, queries: int) -> bool:
        return self.singles if queries < FEW else self.batches

    def described(self) -> dict[str, Any]:
        """For people and tools."""
        kind = "float32" if self.index is None else kind_of(self.index)
        return {
            "rows": self.rows,
            "search": kind if self.batches else "float32",
            "search_few": kind if self.singles else "float32",
            "reason": self.reason,
            "bytes": 0 if self.index is None else self.index.nbytes,
            "tried": list(self.tried),
        }

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What a file keeps of it, by kind and name; nothing if nothing was built."""
        if self.index is None:
            return {}
        serves = np.array([self.batches, self.singles], dtype=np.uint8)
        arrays = {**self.index.arrays(), "serves": serves}
        return {f"{kind_of(self.index)}/{name}": array for name, array in arrays.items()}


def saved(
    kind: str, arrays: dict[str, npt.NDArray[Any]], keys: npt.NDArray[Any], stored: tuple[str, int]
) -> Decision | None:
    """The decision of which a file keeps these arrays; none if they make no sense."""
    try:
        index = KINDS[kind].of({name: array.ravel() for name, array in arrays.items()})
        batches, singles = (bool(served) for served in arrays["serves"])
    except (ValueError, TypeError, KeyError):
        return None
    if len(index) > len(keys) or index.dimensions != keys.shape[1]:
        return None
    if isinstance(index, _core.Cascade) and not index.euclidean:  # as a memory's searches are
        return None
    reason = "saved in the file"
    return Decision(len(index), keys, index, (), batches, singles, reason, stored)


class Planner:
    """Counts the queries of a segment, and decides once building has paid."""

    def __init__(
        self, most_trials: int = 4, read: Callable[[], Decision | None] | None = None
    ) -> None:
        """``read``: gives what was decided before, when somebody first asks."""
        self._decision: Decision | None = None
        self._read = read
        self._most_trials = most_trials
        self._asked = 0
        self._live()

    def _live(self) -> None:
        self._building = threading.RLock()
        self._builder: int | None = None  # the thread that holds it
        self._reading = threading.RLock()
        _alive.add(self)

    @property
    def decision(self) -> Decision | None:
        if self._read is not None:
            with self._reading:
                if self._read is not None and self._decision is None:
                    self._decision = self._read()
                self._read = None
        return self._decision

    def lies_at(self, decision: Decision, stored: tuple[str, int]) -> None:
        """Told where a decision has been saved, unless there is a later one."""
        if self._decision is decision:
            self._decision = replace(decision, stored=stored)

    def index_of(self, keys: npt.NDArray[Any], queries: int) -> Index | None:
        """What was built of the first of these rows, if it serves so many queries."""
        decision = self.decision
        if decision is None or decision.keys is not keys:
            return None
        return decision.index if decision.serves(queries) else None

    def ask(
        self,
        segment: KeySegment,
        keys: npt.NDArray[Any],
        queries: int,
        k: int,
        threads: int,
        at_once: bool = False,
        metric: str = "euclidean",
    ) -> None:
        """Told before a search. ``keys``: the array whose first rows the segment's are."""
        n = len(segment[0])
        if not self._lacks(n, at_once):
            return
        self._asked += queries
        if not at_once and self._asked < WORTH:
            return
        if self._builder == threading.get_ident():  # a signal handler need not wait for what it
            return  # interrupts
        building = self._building  # a child that is forked meanwhile has another
        if not building.acquire(blocking=at_once):  # other searches go without meanwhile
            return
        try:
            self._builder = threading.get_ident()
            if self._lacks(n, at_once):  # still, after another thread may have built
                self._decision = decide(segment, keys, k, threads, self._most_trials, metric)
                self._asked = 0
        finally:
            self._builder = None
            building.release()

    def _lacks(self, n: int, at_once: bool) -> bool:
        """Whether so many rows are worth building for."""
        decision = self.decision
        known = 0 if decision is None else decision.rows
        new = n - known
        return n >= LEAST_ROWS and new > max(0 if at_once else LEAST_ROWS - 1, known // 4)


# A child forked while another thread was building would find its lock held for ever.
_alive: weakref.WeakSet[Planner] = weakref.WeakSet()


def _renew_locks() -> None:
    for planner in list(_alive):
        planner._live()


os.register_at_fork(after_in_child=_renew_locks)


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
    none = Trial(None, None, 0.0, *_measure(queries, (*segment, None), ask))
    trials: list[Trial] = []
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


def _batch(trial: Trial) -> float:
    return trial.batch


def _try_tree(segment: KeySegment, queries: F32, best: Trial, ask: Ask) -> list[Trial]:
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
    return [Trial(None, tree, seconds, *_measure(queries, with_tree, ask))]


def _try_cascades(
    segment: KeySegment, queries: F32, none: Trial, ask: Ask, most_trials: int
) -> tuple[list[Trial], str]:
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
        depths = [p for p in _depths_of(first, d) if p >= _LEAST_DEPTH]
        first = replace(first, depth=look.best_depth(depths)) if depths else first
    trials: list[Trial] = []
    shape: Shape | None = first
    while shape is not None and len(trials) < most_trials:
        start = time.perf_counter()
        try:
            cascade = _build((rows, None, 0, None, largest), shape, ask)
        except (ValueError, MemoryError) as error:
            return trials, str(error) or "no memory"
        seconds = time.perf_counter() - start
        measured = _measure(queries, (*segment, cascade), ask)
        trials.append(Trial(shape, cascade, seconds, *measured))
        budget -= seconds
        shape = _next_shape(trials, n, d) if 1.4 * seconds < budget else None
    return trials, ""


def _next_shape(trials: list[Trial], n: int, d: int) -> Shape | None:
    """One more depth, in the direction in which it may be faster; none once it was not."""
    last = trials[-1]
    assert last.shape is not None
    if not last.shape.coded_rows or (len(trials) > 1 and last.batch > trials[-2].batch):
        return None
    depths = _depths_of(last.shape, d)
    further: list[int] = []
    if last.passed > _MANY:
        further = [p for p in depths if p > last.shape.depth][:1]
        if (not further or last.passed > _FLAT) and d <= _MOST_FLAT:
            return shape_for(n, d, flat=True)
    elif last.passed < _LITTLE:
        further = [p for p in depths if p < last.shape.depth][-1:]
    shapes = [replace(last.shape, depth=p) for p in further]
    return next((s for s in shapes if s not in [trial.shape for trial in trials]), None)


def _depths_of(shape: Shape, d: int) -> list[int]:
    return [p for p in _DEPTHS if p < d and replace(shape, depth=p).fits(d)]


def _survivors(queries: F32, segment: KeySegment, ask: Ask) -> Survivors:
    """Some queries, what they reach, and some other rows."""
    rows, others = segment[0], _sample(segment[0], SAMPLE, 1)
    found = _core.search(queries, segment[4], [segment], ask.k, ask.metric, None, ask.threads)
    farthest = found[2][np.arange(len(queries)), (found[2] >= 0).sum(axis=1) - 1]
    last = _widened(rows[farthest])
    longest = math.sqrt(max(_squares(others).max(), _squares(last).max()))
    asked = _points(queries, ask.metric, longest, True)
    reach = np.sqrt(_squares(asked - _points(last, ask.metric, longest)))
    return Survivors(asked, reach, _points(others, ask.metric, longest))


def _points(x: F32, metric: str, longest: float, as_queries: bool = False) -> F64:
    """Points that are nearer where a key is smaller (cpp/index/cascade/points.h)."""
    points = x.astype(np.float64)
    if metric in ("euclidean", "sqeuclidean"):
        return points
    lengths = np.sqrt(_squares(points))
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


class Survivors:
    """How many pairs of queries and other rows projections cannot tell to be out of reach."""

    def __init__(self, queries: F64, reach: F64, others: F64) -> None:
        centre = others.mean(axis=0)
        y, z = others - centre, queries - centre
        values, vectors = np.linalg.eigh(y @ y.T)
        lengths = np.sqrt(np.maximum(values, np.finfo(np.float64).tiny))
        axes = (y.T @ (vectors / lengths))[:, ::-1]  # principal directions, the first one first
        self._seen, self._asked = y @ axes, z @ axes
        self._squares = _squares(y), _squares(z)
        self._reach = reach

    def share(self, depth: int, wider: float = 1.0) -> float:
        """By ``depth`` principal directions of the other rows and the length of what these leave,
        at reaches so many times as wide."""
        seen, asked = (
            np.column_stack(
                [x[:, :depth], np.sqrt(np.maximum(squares - _squares(x[:, :depth]), 0))]
            )
            for x, squares in zip((self._seen, self._asked), self._squares, strict=True)
        )
        squared = _squares(asked)[:, None] + _squares(seen) - 2 * (asked @ seen.T)
        return float((squared <= np.square(wider * self._reach)[:, None]).mean())

    def best_depth(self, depths: list[int]) -> int:
        """The least of these that takes about the least time."""
        costs = [depth + _HIT * self.share(depth, _wider(depth)) for depth in depths]
        return next(d for d, cost in zip(depths, costs, strict=True) if cost < 1.05 * min(costs))


def _wider(depth: int) -> float:
    """What is searched at first, with the errors of both codes, each ``sqrt(depth / 12)`` units
    where a reach has 90."""
    return 1.08 + 2 * math.sqrt(depth / 12) / 90


def _squares(x: npt.NDArray[Any]) -> F64:
    squares: F64 = np.square(x, dtype=np.float64).sum(axis=1)
    return squares


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
