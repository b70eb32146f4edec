"""Inputs on which searches are prone to go wrong, and a search through every path."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from resmem import _core

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
METRICS = ("euclidean", "sqeuclidean", "cosine", "inner_product")
ISAS = tuple(_core.available_isas())
Maker = Callable[[np.random.Generator, int, int], npt.NDArray[Any]]


def _one_ulp(rng: np.random.Generator, n: int, d: int) -> npt.NDArray[Any]:
    base = np.tile(rng.standard_normal(d).astype(np.float32), (n, 1))
    steps = rng.integers(-1, 2, (n, d))
    up, down = np.nextafter(base, np.float32(np.inf)), np.nextafter(base, np.float32(-np.inf))
    return np.where(steps == 1, up, np.where(steps == -1, down, base))


FAMILIES: dict[str, Maker] = {
    "gaussian": lambda rng, n, d: rng.standard_normal((n, d)),
    "integers": lambda rng, n, d: rng.integers(-2, 3, (n, d)),
    "equal": lambda rng, n, d: np.full((n, d), 1.5),
    "zeros": lambda rng, n, d: np.zeros((n, d)),
    "some zeros": lambda rng, n, d: rng.standard_normal((n, d)) * rng.integers(0, 2, (n, 1)),
    "one hot": lambda rng, n, d: np.eye(d)[rng.integers(0, d, n)],
    "duplicates": lambda rng, n, d: rng.standard_normal((3, d))[rng.integers(0, 3, n)],
    "offset 1e3": lambda rng, n, d: rng.standard_normal((n, d)) + 1e3,
    "offset 1e4": lambda rng, n, d: rng.standard_normal((n, d)) + 1e4,
    "offset 1e6": lambda rng, n, d: rng.standard_normal((n, d)) + 1e6,
    "1e-30": lambda rng, n, d: rng.standard_normal((n, d)) * 1e-30,
    "1e30": lambda rng, n, d: rng.standard_normal((n, d)) * 1e30,
    "subnormal": lambda rng, n, d: rng.integers(-9, 10, (n, d)) * 1e-45,
    "largest": lambda rng, n, d: rng.choice([-3.4e38, 3.4e38, 3.3e38], (n, d)),
    "mixed norms": lambda rng, n, d: (
        rng.standard_normal((n, d)) * 10.0 ** rng.integers(-30, 31, (n, 1))
    ),
    "mixed dimensions": lambda rng, n, d: (
        rng.standard_normal((n, d)) * 10.0 ** rng.integers(-20, 21, (1, d))
    ),
    "far clusters": lambda rng, n, d: (
        rng.standard_normal((n, d)) + 1e5 * rng.integers(-2, 3, (n, 1))
    ),
    "one ulp": _one_ulp,
}


def _sphere(rng: np.random.Generator, n: int, d: int) -> npt.NDArray[Any]:
    points = rng.standard_normal((n, d))
    return 6.378e6 * points / np.linalg.norm(points, axis=1, keepdims=True)


# Families beyond the precision or range of float32, within the range of float64 keys.
WIDE_FAMILIES: dict[str, Maker] = {
    "gaussian": FAMILIES["gaussian"],
    "equal": lambda rng, n, d: np.full((n, d), 1.5e9 + 0.1),
    "zeros": FAMILIES["zeros"],
    "some zeros": FAMILIES["some zeros"],
    "unix times": lambda rng, n, d: 1.7e9 + rng.integers(0, 50, (n, d)),
    "on a sphere": _sphere,
    "duplicates": lambda rng, n, d: (1e9 + rng.standard_normal((3, d)))[rng.integers(0, 3, n)],
    "1e-100": lambda rng, n, d: rng.standard_normal((n, d)) * 1e-100,
    "1e140": lambda rng, n, d: rng.standard_normal((n, d)) * 1e140,
    "some tiny": lambda rng, n, d: (
        rng.standard_normal((n, d)) * 10.0 ** rng.choice([0, -170, -300], (n, 1))
    ),
    "mixed norms": lambda rng, n, d: (
        rng.standard_normal((n, d)) * 10.0 ** rng.integers(-100, 101, (n, 1))
    ),
    "mixed dimensions": lambda rng, n, d: (
        rng.standard_normal((n, d)) * 10.0 ** rng.integers(-60, 61, (1, d))
    ),
    "far clusters": lambda rng, n, d: (
        1e-3 * rng.standard_normal((n, d)) + 1e6 * rng.integers(-2, 3, (n, 1))
    ),
    "one ulp": lambda rng, n, d: np.nextafter(
        np.tile(rng.standard_normal(d), (n, 1)), rng.choice([-np.inf, np.inf], (n, d))
    ),
}


def make(family: str, seed: int, n: int, q: int, d: int) -> tuple[F32, F32]:
    """Return queries and rows of one family; some queries are rows."""
    return _made(FAMILIES[family], np.float32, seed, n, q, d)


def make_wide(family: str, seed: int, n: int, q: int, d: int) -> tuple[F64, F64]:
    """Return float64 queries and rows of one of the wide families."""
    return _made(WIDE_FAMILIES[family], np.float64, seed, n, q, d)


def _made(maker: Maker, dtype: Any, seed: int, n: int, q: int, d: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    both = maker(rng, n + q, d).astype(dtype)
    queries, rows = both[:q].copy(), both[q:].copy()
    if n and q:
        queries[::3] = rows[rng.integers(0, n, len(queries[::3]))]
    return queries, rows


def max_abs(array: F32 | F64) -> float:
    return float(np.abs(array).max(initial=0))


def only_segment(rows: F32 | F64) -> list[Any]:
    """Return the rows as one segment of the core, with their positions as ids."""
    return [_core.Segment(rows, largest=max_abs(rows))]


STORED = ("float32", "float16", "bfloat16")


def as_stored(rows: F32, kind: str) -> tuple[npt.NDArray[Any], F32]:
    """Return the rows as stored in ``kind``, cut to float16's range, and the values read back."""
    if kind == "float32":
        return rows, rows
    narrow = _core.narrow(rows.clip(-65504, 65504), kind)  # type: ignore[arg-type]
    return narrow, _core.widen(narrow)


# Single numbers of indexes, in the order in which older files hold them.
INDEX_NUMBERS = {
    "cascade": (
        "n", "depth", "code_depth", "clusters", "metric", "d", "longest", "point_d", "axes",
        "has_tail", "tail_centre", "departure", "offset_norm", "scale", "code_sum",
        "largest_square",
    ),
    "tree": ("n", "d", "height"),
}  # fmt: skip


def with_unnamed_numbers(arrays: Any, kind: str) -> dict[str, Any]:
    """Return the arrays of an index as older files hold them."""
    names = INDEX_NUMBERS[kind]
    kept = {name: array for name, array in arrays.items() if name not in names}
    return {**kept, "numbers": np.concatenate([arrays[name] for name in names])}


def core_search(
    queries: F32 | F64, rows: F32 | F64, k: int, metric: str = "euclidean", threads: int = 0,
    isa: str = "", **plan: Any,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], Any]:  # fmt: skip
    """Search one plain segment with the core, in a way that ``plan`` forces."""
    return _core.search(
        queries, max_abs(queries), only_segment(rows), k, metric,
        forced=_core.ForcedPlan(**plan), execution=_core.Execution(threads, isa),
    )  # fmt: skip


def paths(metric: str, wide: bool = False) -> Iterator[dict[str, str]]:
    """Yield every strategy with every filter that it can have."""
    euclidean = "euclidean" in metric
    yield {"strategy": "automatic"}
    yield {"strategy": "exact"}
    for strategy in ("by_queries", "by_rows"):
        yield {"strategy": strategy, "filter": "dot"}
        if euclidean:
            yield {"strategy": strategy, "filter": "difference"}
    if euclidean and not wide:
        yield {"strategy": "stream"}


def assert_same(got: tuple[Any, ...], wanted: tuple[Any, ...], what: object = "") -> None:
    """Check that values have the same bits, and that ids are equal."""
    assert np.array_equal(got[1], wanted[1]), what
    assert np.array_equal(got[0].view(np.int64), wanted[0].view(np.int64)), what


def same_bits(got, wanted):
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    assert got.tobytes() == wanted.tobytes()


@contextmanager
def fast_switches():
    """Let threads take turns as often as they can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)
