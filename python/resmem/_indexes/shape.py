"""The shape of a cascade: how deep its codes are, and whether rows have codes of their own.

cpp/index/cascade/README.md says what these are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from resmem._base.arrays import F64

LEAST_ROWS = 8192  # fewer are searched in no time
NARROW = 128  # dimensions; fewer have no coded rows
_MOST_BYTES = 0.4  # of float32 rows, but for trees of 1 or 2 dimensions: row numbers take half
_DEPTHS = (32, 40, 64, 96, 128, 192, 256)
_HIT = 10_000  # codes of a projection that take as long as a row that passes it


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
    coded_rows = not flat and d >= NARROW
    depth = d if flat else 40 if coded_rows and d < 160 else 64 if d <= 400 else 128
    shape = Shape(-(-min(depth, d) // 4) * 4, clusters, coded_rows)
    while shape.depth > 4 and not shape.fits(d):
        shape = replace(shape, depth=shape.depth - 4)
    return shape


def depths_of(shape: Shape, d: int) -> list[int]:
    return [p for p in _DEPTHS if p < d and replace(shape, depth=p).fits(d)]


class Survivors:
    """How many pairs of queries and other rows projections cannot tell to be out of reach."""

    def __init__(self, queries: F64, reach: F64, others: F64) -> None:
        centre = others.mean(axis=0)
        y, z = others - centre, queries - centre
        values, vectors = np.linalg.eigh(y @ y.T)
        lengths = np.sqrt(np.maximum(values, np.finfo(np.float64).tiny))
        axes = (y.T @ (vectors / lengths))[:, ::-1]  # principal directions, the first one first
        self._seen, self._asked = y @ axes, z @ axes
        self._squares = squared_lengths(y), squared_lengths(z)
        self._reach = reach

    def share(self, depth: int, wider: float = 1.0) -> float:
        """By ``depth`` principal directions of the other rows and the length of what these leave,
        at reaches so many times as wide."""
        seen, asked = (
            np.column_stack(
                [x[:, :depth], np.sqrt(np.maximum(squares - squared_lengths(x[:, :depth]), 0))]
            )
            for x, squares in zip((self._seen, self._asked), self._squares, strict=True)
        )
        squared = squared_lengths(asked)[:, None] + squared_lengths(seen) - 2 * (asked @ seen.T)
        return float((squared <= np.square(wider * self._reach)[:, None]).mean())

    def best_depth(self, depths: list[int]) -> int:
        """The least of these that takes about the least time."""
        costs = [depth + _HIT * self.share(depth, _wider(depth)) for depth in depths]
        return next(d for d, cost in zip(depths, costs, strict=True) if cost < 1.05 * min(costs))


def _wider(depth: int) -> float:
    """What is searched at first, with the errors of both codes, each ``sqrt(depth / 12)`` units
    where a reach has 90."""
    return 1.08 + 2 * math.sqrt(depth / 12) / 90


def squared_lengths(x: npt.NDArray[Any]) -> F64:
    squares: F64 = np.square(x, dtype=np.float64).sum(axis=1)
    return squares
