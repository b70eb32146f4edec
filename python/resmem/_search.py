"""Exact nearest neighbours of arrays."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np

from resmem import _arrays, _core, _plausible
from resmem._arrays import F64, I64, Keys, count, excluded_ids, float_state, thread_count
from resmem._planner import Planner, worth_at_once
from resmem._rounding import Keeping, Metric, Neighbourhood, positions, scaled_to_one
from resmem._sample import sample

_QUERIES = 64  # that are looked at to see what rounding does


@float_state()
def search(
    queries: Any,
    rows: Any,
    k: int,
    metric: Metric = "euclidean",
    exclude_ids: Any = None,
    threads: int | None = None,
) -> tuple[F64, I64]:
    """The exact ``k`` nearest rows of every query.

    Neighbours are those of float64 arithmetic, ordered by distance and, where distances are
    equal, by row number; every machine, thread count and batch split gives the same bits.

    Parameters
    ----------
    queries : array (q, d)
        Finite real numbers; float32 C-contiguous arrays are not copied.
    rows : array (n, d)
        The rows searched; a row's id is its number, 0 to n-1.
        What is compared: queries and rows as float32, where float32 holds them or where, on a
        seeded sample, rounding moves distances by no more than a tenth of what neighbours lie
        apart; else (Unix times, positions in metres) float32 after an offset was taken off in
        float64, if that serves (Euclidean metrics); else float64.
    k : int
        Neighbours per query. If there are fewer rows, the rest is padding: id -1 and
        distance inf (-inf for "inner_product").
    metric : {"euclidean", "sqeuclidean", "cosine", "inner_product"}
        "cosine" is 1 - cosine similarity; "inner_product" returns the product itself,
        largest first.
    exclude_ids : int array (q,) or (q, m), optional
        Rows a query must not be answered with, such as itself; -1 stands for none.
    threads : int, optional
        Default: the environment variable ``RESMEM_NUM_THREADS``, else the CPUs that this process
        may use: the least of its affinity, the quotas of its control groups (cgroups),
        ``OMP_NUM_THREADS`` and ``OMP_THREAD_LIMIT``, which joblib's workers and job schedulers set.

    Returns
    -------
    distances : float64 array (q, k)
    ids : int64 array (q, k)

    Raises
    ------
    ValueError, TypeError
        Wrong shapes or dtypes; NaN or infinity, naming the first such row.

    Warns
    -----
    ResmemWarning
        Integers, or numbers of an even wider type, that float64 does not hold.
    """
    check_metric(metric)
    _plausible.check_names(
        queries, "queries", _plausible.column_names(rows), "rows", "rows.columns"
    )
    k = count(k, "k")
    workers = thread_count(threads)
    asked, queries_max, stored, rows_max = _compared(queries, rows, metric, workers)
    excluded = excluded_ids(exclude_ids, len(asked))
    segment = (stored, None, 0, None, rows_max)
    index = None
    if stored.dtype == np.float32 and worth_at_once(len(asked), stored.shape[1], metric):
        planner = Planner(most_trials=1)
        planner.ask(segment, stored, len(asked), k, workers, at_once=True, metric=metric)
        index = planner.index_of(stored, len(asked))
    values, ids, _, _ = _core.search(
        asked, queries_max, [(*segment, index)], k, metric, excluded, workers
    )
    return values, ids


def _compared(
    queries: Any, rows: Any, metric: Metric, threads: int
) -> tuple[Keys, float, Keys, float]:
    """Queries and rows as they are compared, and the largest |value| of either."""
    given_rows = _arrays.real(rows, "rows", "(n, d)")
    given_queries = _arrays.real(queries, "queries", "(n, d)")
    _arrays.embedding_layout(given_rows, "rows")
    _arrays.embedding_layout(given_queries, "queries", given_rows.shape[1])
    keeping = _keeping(given_queries, given_rows, metric)
    if keeping.dtype == "float32" and keeping.offset is None:
        stored, rows_max = _arrays.vectors(given_rows, "rows", threads=threads)
        asked, queries_max = _arrays.vectors(given_queries, "queries", threads=threads)
        return asked, queries_max, stored, rows_max
    wide_rows, rows_max = _arrays.wide_vectors(given_rows, "rows", threads=threads)
    wide_queries, queries_max = _arrays.wide_vectors(given_queries, "queries", threads=threads)
    if keeping.offset is not None:
        return (
            *_arrays.vectors(wide_queries - keeping.offset, "queries", threads=threads),
            *_arrays.vectors(wide_rows - keeping.offset, "rows", threads=threads),
        )
    if metric == "cosine":
        return scaled_to_one(wide_queries), 1.0, scaled_to_one(wide_rows), 1.0
    _arrays.refuse_tiny(rows_max, "rows")
    return wide_queries, queries_max, wide_rows, rows_max


def _keeping(queries: Any, rows: Any, metric: Metric) -> Keeping:
    """What rounding does to them, by a sample of either."""
    if _arrays.fits_float32(queries.dtype) and _arrays.fits_float32(rows.dtype):
        return Keeping()
    some_rows = rows[positions(len(rows), rows.shape[1])]
    some_queries = queries[sample(len(queries), _QUERIES)]
    empty = len(some_rows) == 0 or len(some_queries) == 0
    if empty or not _arrays.all_finite(some_rows, some_queries):
        return Keeping()
    wide_rows, _ = _arrays.wide_vectors(some_rows, "rows")
    wide_queries, _ = _arrays.wide_vectors(some_queries, "queries")
    around = Neighbourhood(wide_queries, wide_rows, len(rows), metric)
    return around.keeping(may_shift="euclidean" in metric)


def check_metric(metric: str) -> None:
    names = get_args(Metric)
    if not isinstance(metric, str) or metric not in names:
        raise ValueError(f"metric must be one of {', '.join(map(repr, names))}, got {metric!r}")
