"""The effect of rounding keys to float32 on distances, and the key precision that follows from it.

Float32 is precise enough for most embeddings: it moves distances far less than neighbours lie
apart. It is not for Unix times, positions in metres from the Earth's centre or large identifiers.
On a seeded sample of the rows this module measures how far rounding moves the distances of
neighbours, and how far apart neighbours lie (their spacing). Where the first is more than
``ALLOWED_FRACTION`` of the second for any sampled row, an offset is subtracted in float64 before
rounding; where that does not help either, keys are float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

import resmem._core as _core
from resmem._base.arrays import F64, I64, SMALLEST_WIDE, Keys, quantiles
from resmem._base.execution import DEFAULT, Execution
from resmem._base.metric import Metric, is_euclidean
from resmem._base.sample import sample

ALLOWED_FRACTION = 0.1  # part of the spacing of neighbours that rounding may move a distance by
_SAMPLE_ROWS = 1024  # rows in the sample, fewer where they are wide
_SAMPLE_QUERIES = 128  # sampled rows whose neighbours are searched for
_NEIGHBOURS = 8  # neighbours of each of these that are compared
_SAMPLE_VALUES = 1 << 20  # numbers in the sample: 8 MiB of float64
_LEAST_SAMPLE_ROWS = 64  # rows in the sample, however wide
_COINCIDENT = 2.0**-44  # relative distance up to which points are equal but for float64 rounding
_LOW_QUANTILE = 0.1  # quantile of the spacings that later points may be moved by a part of


@dataclass(frozen=True)
class KeyPrecision:
    """How keys are rounded, and how far rounding may move later queries."""

    dtype: Literal["float32", "float64"] = "float32"
    offset: F64 | None = None  # (d,), subtracted before rounding
    # The distance by which rounding may move a query; for "cosine" and "inner_product", divided by
    # the query's length. Infinite where keys are float64 or nothing is known.
    allowed: float = math.inf


def sample_positions(n: int, d: int) -> I64:
    """Return the ascending positions of the rows to sample from ``n`` with ``d`` columns."""
    return sample(n, min(_SAMPLE_ROWS, max(_LEAST_SAMPLE_ROWS, _SAMPLE_VALUES // d)))


def rounding_errors(points: F64, metric: Metric = "euclidean") -> F64:
    """Return how far rounding to float32 moves each point, (n,); infinite beyond float32.

    For "cosine" and "inner_product" that is divided by the point's length.
    """
    with np.errstate(over="ignore"):
        off = np.abs(points - points.astype(np.float32))
    largest = off.max(axis=1, initial=0.0)
    scale = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)  # squares may underflow
    with np.errstate(over="ignore"):
        norms: F64 = scale * np.sqrt(np.square(off / scale[:, None]).sum(axis=1))
    return norms if is_euclidean(metric) else norms / _lengths(points)


class Neighbourhood:
    """Sampled rows in float64, and how far apart the neighbours of some of them lie."""

    def __init__(
        self, rows: F64, n: int, metric: Metric = "euclidean", execution: Execution = DEFAULT
    ) -> None:
        """``rows`` (at least one, finite) are a sample of ``n`` rows. Equal rows count once."""
        share = min(1.0, len(rows) / max(n, 1))
        self._rows = np.unique(rows, axis=0)
        self._metric: Metric = "euclidean" if metric == "sqeuclidean" else metric
        self._queries = sample(len(self._rows), _SAMPLE_QUERIES)
        stored = np.ascontiguousarray(self._comparable(self._rows))
        k = max(1, min(_NEIGHBOURS, len(self._rows) - 1))
        largest = _largest(stored)
        segment = _core.Segment(stored, largest=largest)
        values, near, _, _ = _core.search(
            np.ascontiguousarray(stored[self._queries]), largest, [segment], k, self._metric,
            self._queries[:, None], execution=execution,
        )  # fmt: skip
        others = near >= 0
        if self._metric != "inner_product":
            same = (
                2 * _COINCIDENT**2
                if self._metric == "cosine"
                else _COINCIDENT * _lengths(self._rows)[self._queries]
            )
            others &= values > np.reshape(same, (-1, 1))
        self._near = np.where(others, near, -1)
        self.steps = share * _spacing(values, others, self._metric == "euclidean")

    def key_precision(self, may_shift: bool) -> KeyPrecision:
        """Return the first precise enough of float32, float32 less an offset, and float64."""
        if _largest(self._rows) < SMALLEST_WIDE:  # float32 keys are 0, float64 keys refused
            return KeyPrecision() if _largest(self._rows) == 0 else KeyPrecision("float64")
        # A single point does not tell how near others will be; less that point as the offset, all
        # of them can be told apart.
        offsets: list[F64 | None] = [] if may_shift and not self.steps.any() else [None]
        if may_shift:
            middle = (len(self._rows) - 1) // 2  # a value that occurs: differences stay on the grid
            offsets.append(np.partition(self._rows, middle, axis=0)[middle])
        for offset in offsets:
            if (ratio := self.error_ratio(offset)) <= 1:
                return KeyPrecision(offset=offset, allowed=self.allowed(offset, ratio))
        return KeyPrecision("float64")

    def error_ratio(self, offset: F64 | None = None) -> float:
        """Return how far rounding moves a neighbour's distance, divided by how far it may, at most.

        An offset, if given, is subtracted before rounding. More than 1 is too much.
        """
        exact = self._rows if offset is None else self._rows - offset
        with np.errstate(over="ignore"):
            rounded = exact.astype(np.float32).astype(np.float64)
        if (rounded == exact).all():
            return 0.0
        if not np.isfinite(rounded).all():
            return math.inf
        known = self.steps > 0
        if not known.any():  # a single point: the spacing is unknown
            return math.inf
        moved = np.zeros(len(self.steps))
        for near in self._near.T:
            before = self._values(self._rows[self._queries], self._rows[near])
            change = np.abs(self._values(rounded[self._queries], rounded[near]) - before)
            moved = np.maximum(moved, np.where(near >= 0, change, 0.0))
        return float((moved[known] / (ALLOWED_FRACTION * self.steps[known])).max())

    def allowed(self, offset: F64 | None, error_ratio: float) -> float:
        """Return ``KeyPrecision.allowed``.

        It is the largest of three distances: what moves a neighbour's distance by the allowed part
        of a low spacing; the farthest that a sampled row was moved; and how far most were moved,
        divided by ``error_ratio``.
        """
        lengths = _lengths(self._rows)
        known = self.steps > 0
        if not known.any():
            return math.inf
        spacing = self.steps[known]
        if self._metric == "inner_product":
            spacing = spacing / (lengths[self._queries][known] * lengths.max())
        least = ALLOWED_FRACTION * float(quantiles(spacing, _LOW_QUANTILE)) / 2
        if error_ratio == 0:
            return least
        exact = self._rows if offset is None else self._rows - offset
        moved = rounding_errors(exact, self._metric)
        most = float(quantiles(moved, 1 - _LOW_QUANTILE))
        return max(least, float(moved.max()), most / error_ratio)

    def _comparable(self, x: F64) -> F64:
        return scaled_to_one(x) if self._metric == "cosine" else x

    def _values(self, queries: F64, rows: F64) -> F64:
        """Return the distances, inner products or cosines of q pairs, (q,)."""
        x, y = self._comparable(queries), self._comparable(rows)
        if self._metric == "inner_product":
            return np.asarray(np.einsum("ij,ij->i", x, y))
        if self._metric == "cosine":
            lengths = np.sqrt(np.einsum("ij,ij->i", x, x)) * np.sqrt(np.einsum("ij,ij->i", y, y))
            products = np.einsum("ij,ij->i", x, y)
            return np.asarray(products / np.where(lengths > 0, lengths, 1.0))
        return np.asarray(np.sqrt(np.square(x - y).sum(axis=1)))


def rounded_too_far(queries: F64, precision: KeyPrecision, metric: Metric) -> npt.NDArray[np.bool_]:
    """Return which queries (q, d) rounding to float32 moves farther than allowed."""
    exact = queries if precision.offset is None else queries - precision.offset
    return np.asarray(rounding_errors(exact, metric) > precision.allowed)


def comparable(keys: Keys, largest: float, metric: Metric) -> tuple[Keys, float]:
    """Return keys as the core compares them by this metric, and a bound of their |values|.

    Float64 keys are multiplied by a power of two for cosines, which does not change these.
    """
    if metric != "cosine" or keys.dtype == np.float32:
        return keys, largest
    return scaled_to_one(np.asarray(keys, dtype=np.float64)), 1.0


def scaled_to_one(x: F64) -> F64:
    """Multiply each vector by the power of two that brings its largest |value| into [1/2, 1).

    Cosines stay the same, and no square that matters underflows (CONTRACT.md, "Float64 keys").
    """
    _, exponents = np.frexp(np.abs(x).max(axis=1, initial=0.0))
    scaled: F64 = np.ldexp(x, -exponents[:, None])
    return scaled


def _spacing(values: F64, others: npt.NDArray[np.bool_], distances: bool) -> F64:
    """Return each query's spacing: the mean step from one neighbour to the next.

    It is at most the distance of the first neighbour if values are ``distances``, and the first
    value if all neighbours have the same; 0 without a neighbour. ``others`` marks neighbours.
    """
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


def _lengths(x: F64) -> F64:
    """Return the lengths of vectors (n, d); 1 in place of 0."""
    lengths = np.sqrt(np.square(x).sum(axis=1))
    return np.where(lengths > 0, lengths, 1.0)


def _largest(x: F64) -> float:
    return float(np.abs(x).max(initial=0.0))
