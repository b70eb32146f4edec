"""What rounding to float32 would do to distances, and what is kept of float64 embeddings instead.

Float32 holds most embeddings well enough: it moves distances far less than neighbours lie apart.
It does not hold Unix times, positions in metres about the Earth's centre or large identifiers. On
a seeded sample of the rows it is measured how far rounding moves the distances of neighbours, and
how far apart these lie. Where the first is more than ``FRACTION`` of the second for any of the
sample, an offset is taken off in float64 before rounding; where that does not help either, keys are
float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from resmem import _core
from resmem._base.arrays import F64, I64, SMALLEST_WIDE
from resmem._base.sample import sample

FRACTION = 0.1  # of the spacing of neighbours, that rounding may move a distance by
_ROWS, _QUERIES, _NEAR = 1024, 128, 8
_NUMBERS = 1 << 20  # of the sampled rows: 8 MiB
_LEAST_ROWS = 64
_SAME = 2.0**-44  # of their length: points that lie so near are one, but for float64 arithmetic
_LOW = 0.1  # of the sampled rows have a smaller spacing than later points are held to

Metric: TypeAlias = Literal["euclidean", "sqeuclidean", "cosine", "inner_product"]


@dataclass(frozen=True)
class Keeping:
    """How embeddings are kept."""

    dtype: Literal["float32", "float64"] = "float32"
    offset: F64 | None = None  # (d,), taken off before rounding
    # How far rounding may move a query, or of "cosine" and "inner_product" that divided by the
    # query's length; no limit where float64 is kept or nothing is known.
    allowed: float = math.inf


def positions(n: int, d: int) -> I64:
    """Of the rows to look at, of ``n`` with ``d`` columns."""
    return sample(n, min(_ROWS, max(_LEAST_ROWS, _NUMBERS // d)))


def errors(points: F64) -> F64:
    """How far each point moves when it is rounded to float32; infinite beyond float32."""
    with np.errstate(over="ignore"):
        off = np.abs(points - points.astype(np.float32))
    largest = off.max(axis=1, initial=0.0)
    scale = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)  # squares may underflow
    with np.errstate(over="ignore"):
        norms: F64 = scale * np.sqrt(np.square(off / scale[:, None]).sum(axis=1))
    return norms


class Neighbourhood:
    """Sampled rows in float64, and how far apart the neighbours of some of them lie."""

    def __init__(self, rows: F64, n: int, metric: Metric = "euclidean", threads: int = 0) -> None:
        """``rows``: finite, at least one, of the ``n`` that they stand for. Equal ones count as
        one."""
        share = min(1.0, len(rows) / max(n, 1))
        self._rows = np.unique(rows, axis=0)
        self._metric: Metric = "euclidean" if metric == "sqeuclidean" else metric
        self._own = sample(len(self._rows), _QUERIES)
        stored = np.ascontiguousarray(self._comparable(self._rows))
        k = max(1, min(_NEAR, len(self._rows) - 1))
        largest = _largest(stored)
        values, near, _, _ = _core.search(
            np.ascontiguousarray(stored[self._own]), largest, [(stored, None, 0, None, largest)], k,
            self._metric, self._own[:, None], threads,
        )  # fmt: skip
        others = near >= 0
        if self._metric != "inner_product":
            same = 2 * _SAME**2 if self._metric == "cosine" else _SAME * self._lengths()[self._own]
            others &= values > np.reshape(same, (-1, 1))
        self._near = np.where(others, near, -1)
        self.steps = share * _spacing(values, others, self._metric == "euclidean")

    def keeping(self, may_shift: bool) -> Keeping:
        """The first that serves: float32, float32 about an offset, float64."""
        if _largest(self._rows) < SMALLEST_WIDE:  # zeros to float32; float64 keys refuse it
            return Keeping() if _largest(self._rows) == 0 else Keeping("float64")
        # A single point says nothing of how near others will be: about it, all are told apart.
        offsets: list[F64 | None] = [] if may_shift and not self.steps.any() else [None]
        if may_shift:
            middle = (len(self._rows) - 1) // 2  # one of the values: differences stay on their grid
            offsets.append(np.partition(self._rows, middle, axis=0)[middle])
        for offset in offsets:
            if (used := self.used(offset)) <= 1:
                return Keeping(offset=offset, allowed=self.allowed(offset, used))
        return Keeping("float64")

    def used(self, offset: F64 | None = None) -> float:
        """What rounding, about an offset if one is given, uses of what distances of neighbours may
        be moved by, at most; more than 1 is too much."""
        exact = self._rows if offset is None else self._rows - offset
        with np.errstate(over="ignore"):
            rounded = exact.astype(np.float32).astype(np.float64)
        if (rounded == exact).all():
            return 0.0
        if not np.isfinite(rounded).all():
            return math.inf
        known = self.steps > 0
        if not known.any():  # a single point: nothing tells how far others will be
            return math.inf
        moved = np.zeros(len(self.steps))
        for near in self._near.T:
            before = self._values(self._rows[self._own], self._rows[near])
            change = np.abs(self._values(rounded[self._own], rounded[near]) - before)
            moved = np.maximum(moved, np.where(near >= 0, change, 0.0))
        return float((moved[known] / (FRACTION * self.steps[known])).max())

    def allowed(self, offset: F64 | None, used: float) -> float:
        """``Keeping.allowed``: as much as moves a distance by its share of the spacing; as any of
        the rows was moved; or as most were, which used so much of what is borne."""
        lengths = self._lengths()
        known = self.steps > 0
        if not known.any():
            return math.inf
        spacing = self.steps[known]
        if self._metric == "inner_product":
            spacing = spacing / (lengths[self._own][known] * lengths.max())
        least = FRACTION * float(np.quantile(spacing, _LOW)) / 2
        if used == 0:
            return least
        moved = errors(self._rows if offset is None else self._rows - offset)
        if self._metric != "euclidean":
            moved = moved / lengths
        return max(least, float(moved.max()), float(np.quantile(moved, 1 - _LOW)) / used)

    def _lengths(self) -> F64:
        """Of the rows; 1 where that is 0."""
        lengths = np.sqrt(np.square(self._rows).sum(axis=1))
        return np.where(lengths > 0, lengths, 1.0)

    def _comparable(self, x: F64) -> F64:
        return scaled_to_one(x) if self._metric == "cosine" else x

    def _values(self, queries: F64, rows: F64) -> F64:
        """Distances, products or cosines of pairs, (q,)."""
        x, y = self._comparable(queries), self._comparable(rows)
        if self._metric == "inner_product":
            return np.asarray(np.einsum("ij,ij->i", x, y))
        if self._metric == "cosine":
            lengths = np.sqrt(np.einsum("ij,ij->i", x, x)) * np.sqrt(np.einsum("ij,ij->i", y, y))
            products = np.einsum("ij,ij->i", x, y)
            return np.asarray(products / np.where(lengths > 0, lengths, 1.0))
        return np.asarray(np.sqrt(np.square(x - y).sum(axis=1)))


def rounded_too_far(queries: F64, keeping: Keeping, metric: Metric) -> npt.NDArray[np.bool_]:
    """Which queries (q, d) float32 would move farther than may be borne, each on its own."""
    moved = errors(queries if keeping.offset is None else queries - keeping.offset)
    if metric in ("cosine", "inner_product"):
        lengths = np.sqrt(np.square(queries).sum(axis=1))
        moved = moved / np.where(lengths > 0, lengths, 1.0)
    return np.asarray(moved > keeping.allowed)


def scaled_to_one(x: F64) -> F64:
    """Each vector times the power of two that brings its largest |value| into [1/2, 1): cosines
    stay what they are, and no square underflows that counts (CONTRACT.md, "Float64 keys")."""
    _, exponents = np.frexp(np.abs(x).max(axis=1, initial=0.0))
    scaled: F64 = np.ldexp(x, -exponents[:, None])
    return scaled


def _spacing(values: F64, others: npt.NDArray[np.bool_], distances: bool) -> F64:
    """Of each query, the mean step from one neighbour to the next, but no more than the distance of
    the first; where all are as far, that. 0: there is no neighbour."""
    count = others.sum(axis=1)
    at = np.arange(len(values))
    first = values[at, others.argmax(axis=1)]  # neighbours come in order, nearest first
    last = values[at, others.shape[1] - 1 - others[:, ::-1].argmax(axis=1)]
    with np.errstate(invalid="ignore"):
        steps = np.abs(last - first) / np.maximum(count - 1, 1)
        steps = np.where(steps > 0, steps, np.abs(first))
        if distances:
            steps = np.where(first > 0, np.minimum(steps, first), steps)
    return np.where((count > 0) & np.isfinite(steps), steps, 0.0)


def _largest(x: F64) -> float:
    return float(np.abs(x).max(initial=0.0))
