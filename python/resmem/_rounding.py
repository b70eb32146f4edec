"""What rounding to float32 would do to distances, and what is kept of float64 embeddings instead.

Float32 holds most embeddings well enough: it moves distances far less than neighbours lie apart.
It does not hold Unix times, positions in metres about the Earth's centre or large identifiers. On
a seeded sample of rows it is measured how far rounding moves the distances of neighbours, and how
far apart neighbours lie. Where the first is more than ``FRACTION`` of the second for more than a
tenth of the sample, an offset is taken off in float64 before rounding; where that does not help
either, keys are float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from resmem import _core
from resmem._arrays import F64, I64
from resmem._sample import sample

FRACTION = 0.1  # of the spacing of neighbours, that rounding may move a distance by
_SHARE = 0.1  # of the sampled rows, that may be moved by more
_ROWS, _QUERIES, _NEAR = 2048, 64, 8
_NUMBERS = 1 << 20  # of the sampled rows: 8 MiB

Metric: TypeAlias = Literal["euclidean", "sqeuclidean", "cosine", "inner_product"]


@dataclass(frozen=True)
class Keeping:
    """How embeddings are kept."""

    dtype: Literal["float32", "float64"] = "float32"
    offset: F64 | None = None  # (d,), taken off before rounding
    allowed: float = math.inf  # most points that come later may be moved by so much


def positions(n: int, d: int) -> I64:
    """Of the rows to look at, of ``n`` with ``d`` columns."""
    return sample(n, min(_ROWS, max(_QUERIES, _NUMBERS // d)))


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
    """Sampled queries and rows in float64, and how far apart the neighbours of each query lie."""

    def __init__(
        self, queries: F64 | None, rows: F64, n: int, metric: Metric = "euclidean"
    ) -> None:
        """``n``: how many rows ``rows`` stands for. No queries: the rows ask for one another."""
        own = None
        if queries is None:
            own = sample(len(rows), _QUERIES)
            queries = rows[own]
        self._queries, self._rows = queries, rows
        self._metric: Metric = "euclidean" if metric == "sqeuclidean" else metric
        asked, stored = (np.ascontiguousarray(self._comparable(x)) for x in (queries, rows))
        k = max(1, min(_NEAR, len(rows) - (own is not None)))
        segment = (stored, None, 0, None, _largest(stored))
        exclude = None if own is None else own[:, None]
        values, self._near, _, _ = _core.search(
            asked, _largest(asked), [segment], k, self._metric, exclude
        )
        apart = _spacing(values, self._near, self._metric == "euclidean")
        self.steps = apart * (len(rows) / max(n, 1))

    def keeping(self, may_shift: bool) -> Keeping:
        """The first that serves: float32, float32 about an offset, float64."""
        used = self.used(None)
        if used <= 1:
            return Keeping(allowed=self._allowed(None, used))
        if may_shift:
            middle = (len(self._rows) - 1) // 2  # one of the values: differences stay on their grid
            offset = np.partition(self._rows, middle, axis=0)[middle]
            if (used := self.used(offset)) <= 1:
                return Keeping(offset=offset, allowed=self._allowed(offset, used))
        return Keeping("float64")

    def used(self, offset: F64 | None) -> float:
        """What rounding, about an offset if one is given, uses of what distances of neighbours may
        be moved by; more than 1 is too much."""
        known = self.steps > 0
        with np.errstate(over="ignore"):
            queries, rows = (_rounded(x, offset) for x in (self._queries, self._rows))
        if not known.any() or not (queries[1] or rows[1]):  # all rows are one, or as they were
            return 0.0
        moved = np.zeros(len(self.steps))
        with np.errstate(over="ignore", invalid="ignore"):
            for near in self._near.T:
                before = self._values(self._queries, self._rows[near])
                change = np.abs(self._values(queries[0], rows[0][near]) - before)
                change = np.where(np.isnan(change), np.inf, change)  # beyond float32
                moved = np.maximum(moved, np.where(near >= 0, change, 0.0))
        used = moved[known] / (FRACTION * self.steps[known])
        return float(np.quantile(used, 1 - _SHARE, method="higher"))  # no mean of infinities

    def _allowed(self, offset: F64 | None, used: float) -> float:
        """How far most points may be moved that come later."""
        known = self.steps[self.steps > 0]
        if used > 0:
            rows = self._rows if offset is None else self._rows - offset
            return float(np.quantile(errors(rows), 1 - _SHARE)) / used
        return FRACTION * float(np.quantile(known, _SHARE)) / 2 if len(known) else math.inf

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


def _rounded(points: F64, offset: F64 | None) -> tuple[F64, bool]:
    """Points as float32 holds them, and whether that has changed any."""
    exact = points if offset is None else points - offset
    rounded = exact.astype(np.float32).astype(np.float64)
    return rounded, bool((rounded != exact).any())


def scaled_to_one(x: F64) -> F64:
    """Each vector times the power of two that brings its largest |value| into [1/2, 1): cosines
    stay what they are, and no square underflows that counts (CONTRACT.md, "Float64 keys")."""
    _, exponents = np.frexp(np.abs(x).max(axis=1, initial=0.0))
    scaled: F64 = np.ldexp(x, -exponents[:, None])
    return scaled


def _spacing(values: F64, ids: I64, distances: bool) -> F64:
    """Of each query, the mean step from one neighbour to the next, but no more than the distance of
    the first; where all are as far, that. 0: the neighbours are one point with the query."""
    count = (ids >= 0).sum(axis=1)
    last = values[np.arange(len(values)), np.maximum(count - 1, 0)]
    first = values[:, 0]
    with np.errstate(invalid="ignore"):
        steps = np.abs(last - first) / np.maximum(count - 1, 1)
        steps = np.where(steps > 0, steps, np.abs(first))
        if distances:
            steps = np.where(first > 0, np.minimum(steps, first), steps)
    return np.where((count > 0) & np.isfinite(steps), steps, 0.0)


def _largest(x: F64) -> float:
    return float(np.abs(x).max(initial=0.0))
