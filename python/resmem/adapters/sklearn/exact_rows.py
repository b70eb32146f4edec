"""Rows that are searched exactly: the k nearest, or all within a radius."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

import resmem

_F64 = npt.NDArray[np.float64]
_I64 = npt.NDArray[np.int64]
Metric = Literal["euclidean", "sqeuclidean", "cosine"]

_FIRST_K = 64  # A search within a radius asks for so many neighbours first.
_FOUND_AT_ONCE = 1 << 22  # It holds so many distances at the same time.


class ExactRows:
    """Rows (n, d) of float32 or float64 and their neighbours, as the given numbers have them.

    They are searched in float32 where that holds every number of rows and queries, else in float64:
    nothing is ever rounded.
    """

    def __init__(self, rows: npt.NDArray[Any], metric: Metric) -> None:
        self._rows, self.metric = rows, metric
        self._index = resmem.Index(
            rows, metric=metric, key_dtype="float32" if _fits_float32(rows) else "float64"
        )

    def __len__(self) -> int:
        return len(self._rows)

    def nearest(
        self, queries: npt.NDArray[Any], k: int, exclude_ids: _I64 | None, threads: int | None
    ) -> tuple[_F64, _I64]:
        """Return distances and numbers (q, k) of the nearest rows; equal ones by number."""
        if self._index.key_dtype == "float64" or _fits_float32(queries):
            return self._index.search(queries, k, exclude_ids, threads)
        return resmem.search(
            queries, self._rows, k, self.metric, exclude_ids, threads, key_dtype="float64"
        )

    def within(
        self, queries: npt.NDArray[Any], radii: _F64, exclude_ids: _I64 | None,
        threads: int | None,
    ) -> tuple[list[_F64], list[_I64]]:  # fmt: skip
        """Return for each query distances and numbers of all rows within its radius, nearest first.

        More and more neighbours are sought, until the last lies outside.
        """
        distances: list[Any] = [None] * len(queries)
        numbers: list[Any] = [None] * len(queries)
        left, k = np.arange(len(queries)), min(_FIRST_K, len(self))
        while len(left):
            unfinished = [left[:0]]
            for some in np.array_split(left, -(-len(left) * k // _FOUND_AT_ONCE)):
                excluded = None if exclude_ids is None else exclude_ids[some]
                found, ids = self.nearest(queries[some], k, excluded, threads)
                counts = ((found <= radii[some, None]) & (ids >= 0)).sum(axis=1)
                done = (counts < k) | (k == len(self))
                for i in np.flatnonzero(done):
                    distances[some[i]] = found[i, : counts[i]].copy()
                    numbers[some[i]] = ids[i, : counts[i]].copy()
                unfinished.append(some[~done])
            left, k = np.concatenate(unfinished), min(4 * k, len(self))
        return distances, numbers


def _fits_float32(array: npt.NDArray[Any]) -> bool:
    """Tell whether float32 holds all numbers; blocks of rows are looked at until one does not."""
    if array.dtype == np.float32:
        return True
    with np.errstate(over="ignore"):
        return all(
            bool((array[at : at + 4096] == array[at : at + 4096].astype(np.float32)).all())
            for at in range(0, len(array), 4096)
        )
