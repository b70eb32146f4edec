"""The shape of a cascade: the depth of its projection, its clusters, and whether rows are coded.

cpp/index/cascade/README.md says what these are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from resmem._base.arrays import F64

LEAST_ROWS = 8192  # rows; fewer are searched fast enough without an index
CODED_ROWS_DIMENSIONS = 128  # dimensions from which a cascade has coded rows
_MOST_BYTES = 0.4  # size of a cascade, as a part of that of float32 rows
_DEPTHS = (32, 40, 64, 96, 128, 192, 256)  # depths of a projection that are tried
_PASSED_ROW_COST = 10_000  # codes of a projection that take as long as a row that passes it


@dataclass(frozen=True)
class Shape:
    """The parameters of a cascade to build."""

    depth: int  # codes per row in the projection
    clusters: int
    coded_rows: bool  # whether rows have codes of all dimensions too

    def bytes_per_row(self, d: int) -> float:
        """Return how many bytes the cascade takes per row.

        A row takes ``depth + 8`` bytes; a coded row takes ``d`` (rounded up to 32) and 8 more. A
        cluster has 320 rows or more: filling panels of 32 adds a twentieth, and its centre and
        chunks add ``depth / 80`` and a third of a byte. At least ``LEAST_ROWS`` rows share the
        directions.
        """
        coded = -(-d // 32) * 32 + 8 if self.coded_rows else 0
        shared = 4 * d * self.depth / LEAST_ROWS
        return 1.05 * (self.depth + 8 + coded) + self.depth / 80 + 0.3 + shared

    def fits(self, d: int) -> bool:
        """Tell whether the cascade is small enough beside float32 rows of ``d`` dimensions."""
        return self.bytes_per_row(d) <= _MOST_BYTES * 4 * d


def shape_for(n: int, d: int, all_dimensions: bool = False) -> Shape:
    """Return the first shape to try for ``n`` rows.

    ``all_dimensions`` is for rows whose distances no projection keeps: codes take all dimensions.
    """
    clusters = min(1024, max(4, min(round(math.sqrt(n)), n // 320)))
    coded_rows = not all_dimensions and d >= CODED_ROWS_DIMENSIONS
    depth = d if all_dimensions else 40 if coded_rows and d < 160 else 64 if d <= 400 else 128
    shape = Shape(-(-min(depth, d) // 4) * 4, clusters, coded_rows)
    while shape.depth > 4 and not shape.fits(d):
        shape = replace(shape, depth=shape.depth - 4)
    return shape


def depths_of(shape: Shape, d: int) -> list[int]:
    """Return the depths below ``d`` that this shape can have and still be small enough."""
    return [p for p in _DEPTHS if p < d and replace(shape, depth=p).fits(d)]


class Survivors:
    """Estimates how many pairs of a query and a row pass a projection of some depth.

    A pair passes if its projected distance does not exceed the query's reach, the distance of its
    k-th neighbour. Then the projection cannot prove that the row is out of reach.
    """

    def __init__(self, queries: F64, reach: F64, others: F64) -> None:
        centre = others.mean(axis=0)
        y, z = others - centre, queries - centre
        values, vectors = np.linalg.eigh(y @ y.T)
        lengths = np.sqrt(np.maximum(values, np.finfo(np.float64).tiny))
        axes = (y.T @ (vectors / lengths))[:, ::-1]  # principal directions, the first one first
        self._rows, self._queries = y @ axes, z @ axes
        self._squares = squared_lengths(y), squared_lengths(z)
        self._reach = reach

    def share(self, depth: int, reach_factor: float = 1.0) -> float:
        """Return the share of pairs that pass, with each reach multiplied by ``reach_factor``.

        The projection has ``depth`` principal directions of the rows, and the length of what these
        leave out.
        """
        rows, queries = (
            np.column_stack(
                [x[:, :depth], np.sqrt(np.maximum(squares - squared_lengths(x[:, :depth]), 0))]
            )
            for x, squares in zip((self._rows, self._queries), self._squares, strict=True)
        )
        squared = squared_lengths(queries)[:, None] + squared_lengths(rows) - 2 * (queries @ rows.T)
        return float((squared <= np.square(reach_factor * self._reach)[:, None]).mean())

    def best_depth(self, depths: list[int]) -> int:
        """Return the least of these depths whose time is within 5 % of the shortest."""
        costs = [
            depth + _PASSED_ROW_COST * self.share(depth, _first_reach_factor(depth))
            for depth in depths
        ]
        return next(d for d, cost in zip(depths, costs, strict=True) if cost < 1.05 * min(costs))


def _first_reach_factor(depth: int) -> float:
    """Return by how much a search first widens its reach, the errors of both codes included.

    Each code errs by ``sqrt(depth / 12)`` units, and a reach has 90 units.
    """
    return 1.08 + 2 * math.sqrt(depth / 12) / 90


def squared_lengths(x: npt.NDArray[Any]) -> F64:
    """Return the squared length of each row, in float64."""
    squares: F64 = np.square(x, dtype=np.float64).sum(axis=1)
    return squares
