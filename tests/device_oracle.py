"""What the device computes of rows and queries, step by step as cuda/README.md defines it.

It imports nothing from the extension. Sums run in the order of a warp: 32 lanes, each of which adds
its coordinates of the blocks in turn, and then a tree over the lanes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
BLOCK, LANES, LARGEST_CODE = 64, 32, 127
UNIT = 2.0**-53


def depth_of(d: int) -> int:
    return -(-d // BLOCK) * BLOCK


def turned(i: int) -> bool:
    """Tell whether dimension i changes its sign: the last bit of splitmix64."""
    every = 2**64 - 1
    mixed = (i + 0x9E3779B97F4A7C15) & every
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & every
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & every
    return bool((mixed ^ (mixed >> 31)) & 1)


def signs(d: int) -> F64:
    return np.array([-1.0 if turned(i) else 1.0 for i in range(d)])


def rotated(points: npt.NDArray[Any], offset: npt.NDArray[Any]) -> F64:
    """Return y (n, depth): differences with turned signs, rotated by blocks of 64."""
    n, d = points.shape
    y = np.zeros((n, depth_of(d)))
    y[:, :d] = (points.astype(np.float64) - offset.astype(np.float64)) * signs(d)
    y = y.reshape(n, -1, BLOCK)
    for bit in (32, 16, 8, 4, 2, 1):
        low = (np.arange(BLOCK) & bit) == 0
        first, second = y[..., low], y[..., ~low]
        y = np.empty_like(y)
        y[..., low], y[..., ~low] = first + second, first - second
    return np.asarray(y * 0.125).reshape(n, -1)


def rotated_exactly(vector: F32, offset: F32) -> list[Fraction]:
    """Return y of one vector without any rounding."""
    d = len(vector)
    y = [Fraction(float(x)) - Fraction(float(o)) for x, o in zip(vector, offset, strict=True)]
    y = [-v if turned(i) else v for i, v in enumerate(y)] + [Fraction(0)] * (depth_of(d) - d)
    for bit in (32, 16, 8, 4, 2, 1):
        y = [y[i ^ bit] - y[i] if i & bit else y[i] + y[i ^ bit] for i in range(len(y))]
    return [v / 8 for v in y]


def lane_sum(terms: F64) -> float:
    """Return the sum of terms (depth,) in the order of a warp."""
    lanes = np.zeros(LANES)
    for start in range(0, len(terms), LANES):
        lanes = lanes + terms[start : start + LANES]
    for bit in (16, 8, 4, 2, 1):
        lanes = lanes + lanes[np.arange(LANES) ^ bit]
    return float(lanes[0])


def exponent_for(largest: float) -> int:
    """Return the largest exponent with ``largest * 2**exponent <= 127``; 0 for 0."""
    if largest == 0:
        return 0
    mantissa, binade = math.frexp(largest)  # 0.5 <= mantissa < 1
    return (7 if mantissa <= LARGEST_CODE / 128 else 6) - binade


def error_from(off_square: float, square: float, depth: int, off: float = 0.0) -> np.float32:
    """Return the upper end of the error that is stored, rounded up to float32."""
    slack = 8 * UNIT * math.sqrt(square)
    error = (math.sqrt(off_square) + slack + off) * (1 + (depth + 16.0) * UNIT)
    rounded = np.float32(error)
    return rounded if float(rounded) >= error else np.nextafter(rounded, np.float32(np.inf))


@dataclass(frozen=True)
class Coded:
    codes: npt.NDArray[np.int8]  # (depth,)
    square: int
    error: np.float32
    exponent: int


def code(point: npt.NDArray[Any], offset: npt.NDArray[Any], off: float = 0.0) -> Coded:
    """Return the codes of one point, with the exponent that has the smaller error.

    The exact point is at most ``off`` away from it.
    """
    y = rotated(point[None], offset)[0]
    exponent = exponent_for(float(np.abs(y).max(initial=0.0)))
    tried = []
    for each in (exponent, exponent + 1):
        scaled = np.clip(np.ldexp(y, each), -LARGEST_CODE, LARGEST_CODE)
        codes = np.rint(scaled)  # halves to even
        rest = np.ldexp(codes, -each) - y
        tried.append((lane_sum(rest * rest), each, codes))
    off_square, exponent, codes = tried[1] if tried[1][0] < tried[0][0] else tried[0]
    return Coded(
        codes.astype(np.int8), int((codes * codes).sum()),
        error_from(off_square, lane_sum(y * y), len(y), off), exponent,
    )  # fmt: skip


def exact_error_square(coded: Any, vector: F32, offset: F32) -> Fraction:
    """Return ``|code / 2**exponent - y|**2`` without any rounding."""
    unit = Fraction(2) ** -int(coded.exponent)
    exact = rotated_exactly(vector, offset)
    return sum(((int(c) * unit - y) ** 2 for c, y in zip(coded.codes, exact, strict=True)),
               start=Fraction(0))  # fmt: skip


# ---- Points --------------------------------------------------------------------------------------


def theta(d: int) -> float:
    """Return the relative rounding of canonical sums."""
    n = math.ceil(d / 8) + 6
    return n * UNIT / (1 - n * UNIT)


def square_of(vector: npt.NDArray[Any]) -> float:
    """Return the square of a length, summed in the order of a warp."""
    wide = vector.astype(np.float64)
    terms = np.zeros(-(-len(wide) // LANES) * LANES)
    terms[: len(wide)] = wide * wide
    return lane_sum(terms)


def longest_from(largest_square: float, d: int) -> float:
    return math.sqrt(largest_square * (1 + 2 * theta(d))) * (1 + 4 * UNIT)


def point_of(
    vector: npt.NDArray[Any], metric: str, is_query: bool, longest: float
) -> tuple[F64, float]:
    """Return the point of a row or a query, and how far off it may be."""
    wide, d = vector.astype(np.float64), len(vector)
    square = square_of(vector)
    if metric == "cosine":
        if not square > 0:
            return wide * 0.0, 0.7072
        return wide * (1 / math.sqrt(square)), 2 * theta(d)
    if metric != "inner_product":
        return wide, 0.0
    if is_query:
        scale = longest / math.sqrt(square) if math.sqrt(square) > 0 else 1.0
        return np.append(wide * scale, 0.0), 2 * UNIT * longest
    left = longest * longest - square
    lift = math.sqrt(left) if left > 0 else 0.0
    under = 2 * theta(d) * longest * longest
    near = math.sqrt(under)
    off = min(near, under / lift) if lift > 0 else near
    return np.append(wide, lift), off * (1 + 4 * UNIT) + 2 * UNIT * lift


# ---- The filter ----------------------------------------------------------------------------------


TILE = 128


@dataclass(frozen=True)
class Coded128:
    """Rows or queries in tiles of 128."""

    codes: npt.NDArray[np.int8]  # (n, depth)
    exponents: npt.NDArray[np.int32]  # (n,)
    errors: F32  # (n,)

    @cached_property
    def squares(self) -> npt.NDArray[np.int32]:
        wide = self.codes.astype(np.int64)
        return np.asarray((wide * wide).sum(axis=1), dtype=np.int32)

    def tile(self, number: int) -> tuple[set[int], float]:
        """Return the exponents of a tile, and its largest error."""
        here = slice(number * TILE, (number + 1) * TILE)
        return set(map(int, self.exponents[here])), float(self.errors[here].max())


def fits_integers(a: int, b: int, depth: int) -> bool:
    shift = b - a - 1
    return LARGEST_CODE**2 * depth * (2**shift if shift > 0 else 1) < 2**30


def radius_of(reach: float, error: float, tile_error: float) -> float:
    return (reach + error + tile_error) * (1 + 4 * UNIT)


def least_score(square: int, radius: float, a: int, b: int) -> float:
    """Return the lower end of the scores of rows within reach, rounded as the device rounds it."""
    own = square * 2.0 ** (a - b)
    within = radius * radius * 2.0 ** (a + b)
    return 0.5 * (own - within) - 8 * UNIT * (own + within)


def integer_hits(
    products: npt.NDArray[np.int64], squares: npt.NDArray[np.int64], least: float, a: int, b: int
) -> npt.NDArray[np.bool_]:
    """Return which rows of a tile pass, where scores are integers."""
    shift = b - a - 1
    if not least > -(2.0**31):
        return np.ones(len(products), dtype=np.bool_)
    terms = squares << shift if shift >= 0 else squares >> min(-shift, 62)
    return np.asarray(products - terms >= math.floor(least))


def wide_hits(
    products: npt.NDArray[np.int64], rows: Coded128, here: slice, square: int, b: int,
    radius: float,
) -> npt.NDArray[np.bool_]:  # fmt: skip
    """Return which rows of a tile pass, where they are compared in double precision."""
    own, within = square * 2.0 ** (-2 * b), radius * radius
    query_side = (own - within) - 8 * UNIT * (own + within)
    exponents = rows.exponents[here].astype(np.int64)
    row_side = rows.squares[here] * 2.0 ** (-2 * exponents) * (1 - 8 * UNIT)
    units = 2.0 ** (1 - b) * 2.0**-exponents
    return np.asarray(products * units >= query_side + row_side)


def filter_hits(
    queries: Coded128, rows: Coded128, reach: F64, wide: bool = False
) -> list[set[int]]:
    """Return the rows that the filter lets through for each query, by definition.

    ``wide``: all tiles are compared in double precision.
    """
    products = queries.codes.astype(np.int64) @ rows.codes.astype(np.int64).T
    depth, hits = rows.codes.shape[1], [set[int]() for _ in reach]
    for tile in range(-(-len(rows.codes) // TILE)):
        here = slice(tile * TILE, (tile + 1) * TILE)
        row_exponents, tile_error = rows.tile(tile)
        for i, mine in enumerate(hits):
            query_exponents, _ = queries.tile(i // TILE)
            a, b = min(row_exponents), int(queries.exponents[i])
            square = int(queries.squares[i])
            radius = radius_of(float(reach[i]), float(queries.errors[i]), tile_error)
            uniform = len(row_exponents) == len(query_exponents) == 1
            if not wide and uniform and fits_integers(a, b, depth):
                least = least_score(square, radius, a, b)
                passed = integer_hits(
                    products[i, here], rows.squares[here].astype(np.int64), least, a, b
                )
            else:
                passed = wide_hits(products[i, here], rows, here, square, b, radius)
            mine.update((here.start + np.flatnonzero(passed)).tolist())
    return hits


# ---- Select --------------------------------------------------------------------------------------


def distance_ends(
    query_square: int, query_error: float, b: int, row_square: int, row_error: float, a: int,
    product: int,
) -> tuple[float, float]:  # fmt: skip
    """Return both ends of a distance, rounded as the device rounds them."""
    own, theirs = query_square * 2.0 ** (a - b), row_square * 2.0 ** (b - a)
    gap, off = (own + theirs) - 2.0 * product, 4 * UNIT * (own + theirs)
    unit, errors = 2.0 ** (-a - b), query_error + row_error
    low = math.sqrt(max(gap - off, 0.0) * unit) * (1 - 4 * UNIT) - errors * (1 + 4 * UNIT)
    high = math.sqrt((gap + off if gap > 0 else off) * unit)
    return (low * (1 - 4 * UNIT) if low > 0 else 0.0), (high + errors) * (1 + 8 * UNIT)


def rounded_up(x: float) -> float:
    """Return the least float32 that is no smaller."""
    rounded = np.float32(x)
    return float(rounded if float(rounded) >= x else np.nextafter(rounded, np.float32(np.inf)))


def rounded_down(x: float) -> float:
    """Return the largest float32 that is no larger."""
    rounded = np.float32(x)
    return float(rounded if float(rounded) <= x else np.nextafter(rounded, np.float32(-np.inf)))
