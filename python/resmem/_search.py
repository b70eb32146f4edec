"""Exact nearest neighbours of arrays."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

from resmem import _core
from resmem._arrays import F64, I64, count, excluded_ids, float_state, thread_count, vectors
from resmem._planner import Planner, worth_at_once

Metric: TypeAlias = Literal["euclidean", "sqeuclidean", "cosine", "inner_product"]


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
        Finite real numbers; float32 C-contiguous arrays are not copied, others are converted.
    rows : array (n, d)
        The rows searched; a row's id is its number, 0 to n-1.
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
    """
    check_metric(metric)
    k = count(k, "k")
    workers = thread_count(threads)
    stored, rows_max = vectors(rows, "rows", threads=workers)
    asked, queries_max = vectors(queries, "queries", stored.shape[1], workers)
    excluded = excluded_ids(exclude_ids, len(asked))
    segment = (stored, None, 0, None, rows_max)
    index = None
    if worth_at_once(len(asked), stored.shape[1], metric):
        planner = Planner(most_trials=1)
        planner.ask(segment, stored, len(asked), k, workers, at_once=True, metric=metric)
        index = planner.index_of(stored, len(asked))
    values, ids, _, _ = _core.search(
        asked, queries_max, [(*segment, index)], k, metric, excluded, workers
    )
    return values, ids


def check_metric(metric: str) -> None:
    names = get_args(Metric)
    if metric not in names:
        raise ValueError(f"metric must be one of {', '.join(map(repr, names))}, got {metric!r}")
