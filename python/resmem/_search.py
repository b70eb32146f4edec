"""Exact nearest neighbours of arrays."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

import resmem._core as _core
from resmem._base import checks, convert
from resmem._base.arrays import F64, I64, Keys, all_finite, float_state
from resmem._base.blocks import blocks
from resmem._base.execution import Execution, execution_of
from resmem._base.metric import Metric, checked_metric, is_euclidean
from resmem._devices import engine
from resmem._devices.array_search import ArraySearch
from resmem._devices.arrays import is_on_device
from resmem._devices.engine import ON_CPU, Call, checked_workspace, rows_for
from resmem._devices.results import written_to
from resmem._devices.several import DeviceNames, choose_all
from resmem._devices.streams import stream_of
from resmem._indexes.policy import Planner, worth_at_once
from resmem._keys.rounding import (
    KeyPrecision,
    Neighbourhood,
    comparable,
    rounded_too_far,
    sample_positions,
)
from resmem._rows import plausible

CompareAs: TypeAlias = Literal["auto", "float32", "float64"]


@float_state()
def search(
    queries: Any,
    rows: Any,
    k: int,
    metric: Metric = "euclidean",
    exclude_ids: Any = None,
    threads: int | None = None,
    key_dtype: CompareAs = "auto",
    device: DeviceNames = "auto",
    stream: Any = None,
    out: Any = None,
    workspace_bytes: int | None = None,
) -> tuple[Any, Any]:
    """Return the exact ``k`` nearest rows of every query.

    Neighbours are those that float64 arithmetic gives, ordered by distance (for the Euclidean
    metrics by its square) and, where these are equal, by row number; every machine, thread count
    and batch split gives the same bits.

    Parameters
    ----------
    queries : array (q, d)
        Finite real numbers; float32 C-contiguous arrays are not copied.
    rows : array (n, d)
        The rows to search; a row's id is its number, 0 to n-1.
    k : int
        Neighbours per query. If there are fewer rows, the rest is padding: id -1 and
        distance inf (-inf for "inner_product").
    metric : {"euclidean", "sqeuclidean", "cosine", "inner_product"}
        "cosine" is 1 - cosine similarity; "inner_product" returns the product itself,
        largest first. Default "euclidean".
    exclude_ids : int array (q,) or (q, m), optional
        Ids of rows that a query must not get, such as its own; -1 stands for none.
    threads : int, optional
        Default: the environment variable ``RESMEM_NUM_THREADS``, else the CPUs that this process
        may use: the least of its affinity, the quotas of its control groups (cgroups),
        ``OMP_NUM_THREADS`` and ``OMP_THREAD_LIMIT``, which joblib's workers and job schedulers set.
    key_dtype : {"auto", "float32", "float64"}
        The type in which queries and rows are compared. "auto", the default: float32, if float32
        holds the numbers or if, on a seeded sample of the rows, rounding moves distances by no more
        than a tenth of what neighbours lie apart. Otherwise (Unix times, positions in metres)
        float32 after an offset was subtracted in float64, if that is enough (Euclidean metrics
        only); else float64. A query that float32 would move too far is compared in float64,
        whatever the other queries are. "float32" and "float64" check nothing: "float32" rounds all
        numbers without a warning.
    device : {"auto", "cpu", "cuda", "cuda:0", ..} or list of devices
        What searches: the CPU, or a CUDA device, with the same bits. "auto", the default: the
        device that the arrays lie on, so the CPU for arrays in host memory. "cuda": that device, or
        else the first one. ``["cuda:0", "cuda:1"]`` divides rows in host memory among devices,
        which search them at the same time; results come to where the queries are. Rows that do not
        fit a device pass through it in slabs.
    stream : int or object, optional
        The stream of CUDA in whose order a device works: its address, or a stream of PyTorch, CuPy
        or Numba. Default: the current stream of the library of the first array on the device, or
        else the legacy default stream.
    out : (array, array), optional
        Where distances and ids are written: C-contiguous, (q, k), of float64 and int64, NumPy
        arrays or, as the queries, on the device.
    workspace_bytes : int, optional
        About how much memory of the device a search may take for a while. Default: an eighth of
        what is free, at most 1 GiB.

    Returns
    -------
    distances : float64 array (q, k)
    ids : int64 array (q, k)
        NumPy arrays, or ``out``. Where the queries lie on a device, arrays of their library there.

    Notes
    -----
    Arrays on a device are read where they lie: through DLPack or ``__cuda_array_interface__``,
    C-contiguous, float32 or float64 and, the rows, float16 or bfloat16. They are compared as they
    are, so float64 arrays in float64 ("cosine": float32 alone), and their values are not checked:
    rows and queries with NaN or infinity have no neighbours. If queries, rows and results lie on
    the device, the call returns before its stream gets there.

    Raises
    ------
    ValueError, TypeError
        Wrong shapes or dtypes; NaN or infinity, naming the first such row.
    DeviceError
        The device, its driver or the extension is missing, or fails.

    Warns
    -----
    ResmemWarning
        float64 does not hold some of the integers, or of the numbers of an even wider type.
    """
    checked_metric(metric)
    _one_of(key_dtype, "key_dtype", get_args(CompareAs))
    kept = plausible.kept_names("rows", rows)
    plausible.check_names(queries, "queries", plausible.column_names(rows), "rows", kept)
    k = checks.count(k, "k")
    arrays = {"queries": queries, "rows": rows, "exclude_ids": exclude_ids}
    chosen, *others = choose_all(device, arrays)
    address = stream_of(stream, arrays.values(), chosen)
    call = Call(chosen, address, checked_workspace(workspace_bytes), tuple(others))
    execution = execution_of(threads)
    if is_on_device(queries) or is_on_device(rows):
        return ArraySearch(call, k, metric, key_dtype).search(queries, rows, exclude_ids, out)
    found = _search_host(queries, rows, k, metric, exclude_ids, key_dtype, execution, call)
    return found if out is None else written_to(out, *found)


def _search_host(
    queries: Any, rows: Any, k: int, metric: Metric, exclude_ids: Any, key_dtype: CompareAs,
    execution: Execution, call: Call,
) -> tuple[F64, I64]:  # fmt: skip
    """Search arrays in host memory; see ``search``."""
    given_rows = convert.real(rows, "rows", "(n, d)")
    given_queries = convert.real(queries, "queries", "(n, d)")
    convert.check_embedding_layout(given_rows, "rows")
    convert.check_embedding_layout(given_queries, "queries", given_rows.shape[1])
    excluded = convert.excluded_ids(exclude_ids, len(given_queries))
    search = _TypedSearch(given_rows, k, metric, execution, key_dtype, call)
    far = search.needs_float64(given_queries)
    if not far.any():
        return search.in_float32(given_queries, excluded)
    if far.all():
        return search.in_float64(given_queries, excluded)
    # An error about a query names its row among all queries, not among those of one type.
    convert.wide_vectors(given_queries, "queries", execution=execution)
    distances, ids = np.empty((len(far), k)), np.empty((len(far), k), dtype=np.int64)
    for some, find in ((far, search.in_float64), (~far, search.in_float32)):
        part = find(given_queries[some], None if excluded is None else excluded[some])
        distances[some], ids[some] = part
    return distances, ids


class _TypedSearch:
    """Compares rows with queries, each query in the type that it needs, whatever the others are."""

    def __init__(
        self,
        rows: npt.NDArray[Any],
        k: int,
        metric: Metric,
        execution: Execution,
        key_dtype: CompareAs = "auto",
        call: Call = ON_CPU,
    ) -> None:
        self._rows, self._k, self._metric, self._execution = rows, k, metric, execution
        self._call = call
        self._kept = None if key_dtype == "auto" else KeyPrecision(key_dtype)

    @property
    def keeping(self) -> KeyPrecision:
        """How the rows are kept, decided by what rounding does to a sample of them."""
        if self._kept is None:
            self._kept, rows = KeyPrecision(), self._rows
            sampled = float64(rows[sample_positions(len(rows), rows.shape[1])])
            if convert.beyond_float32(rows):
                self._kept = KeyPrecision("float64")
            elif len(sampled) and all_finite(sampled):
                around = Neighbourhood(sampled, len(rows), self._metric, self._execution)
                self._kept = around.key_precision(may_shift=is_euclidean(self._metric))
        return self._kept

    def needs_float64(self, queries: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Return which queries must be compared in float64."""
        exact = convert.fits_float32(queries.dtype)
        if self._kept is None and exact and convert.fits_float32(self._rows.dtype):
            return np.zeros(len(queries), dtype=np.bool_)
        if self.keeping.dtype == "float64":
            return np.ones(len(queries), dtype=np.bool_)
        if (exact and self.keeping.offset is None) or math.isinf(self.keeping.allowed):
            return np.zeros(len(queries), dtype=np.bool_)
        far = np.empty(len(queries), dtype=np.bool_)
        for block in blocks(len(queries), 40 * queries.shape[1]):
            part = float64(queries[block])
            with np.errstate(invalid="ignore"):  # NaN and infinity are refused later, with the row
                far[block] = rounded_too_far(part, self.keeping, self._metric)
        return np.asarray(far & np.isfinite(queries).all(axis=1))

    def in_float32(self, queries: npt.NDArray[Any], excluded: I64 | None) -> tuple[F64, I64]:
        """Return neighbours compared in float32, after the offset is subtracted if there is one."""
        rows, offset = self._rows, self._kept.offset if self._kept is not None else None
        if offset is not None:
            rows, _ = convert.wide_vectors(rows, "rows", execution=self._execution)
            queries, _ = convert.wide_vectors(queries, "queries", execution=self._execution)
            rows, queries = rows - offset, queries - offset
        stored, rows_max = convert.vectors(rows, "rows", execution=self._execution)
        checked, queries_max = convert.vectors(queries, "queries", execution=self._execution)
        if self._call.device.kind != "cpu":
            return self._found_there(checked, stored, excluded)
        segment = _core.Segment(stored, largest=rows_max)
        if worth_at_once(len(checked), stored.shape[1], self._metric):
            planner, plan = Planner(most_trials=1), (len(checked), self._k, self._execution)
            planner.note_queries(segment, stored, *plan, at_once=True, metric=self._metric)
            segment = segment.with_index(planner.index_of(stored, len(checked)))
        return self._found(checked, queries_max, segment, excluded)

    def in_float64(self, queries: npt.NDArray[Any], excluded: I64 | None) -> tuple[F64, I64]:
        """Return neighbours compared in float64."""
        wide = convert.wide_vectors(self._rows, "rows", execution=self._execution)
        rows, rows_max = comparable(*wide, self._metric)
        wide = convert.wide_vectors(queries, "queries", execution=self._execution)
        checked, queries_max = comparable(*wide, self._metric)
        convert.refuse_tiny(rows_max, "rows")
        if self._call.device.kind != "cpu":
            return self._found_there(checked, rows, excluded)
        segment = _core.Segment(rows, largest=rows_max)
        return self._found(checked, queries_max, segment, excluded)

    def _found_there(self, queries: Keys, rows: Keys, excluded: I64 | None) -> tuple[F64, I64]:
        """Search on the device; the arrays are in host memory."""
        shape = (len(queries), self._k)
        distances, ids = np.empty(shape), np.empty(shape, dtype=np.int64)
        held = rows_for(self._call, rows, self._metric, len(queries))
        engine.search(
            self._call, queries, held, self._k, self._metric, {"exclude": excluded}, distances, ids
        )  # fmt: skip
        return distances, ids

    def _found(
        self, queries: Keys, largest: float, segment: _core.Segment, excluded: I64 | None
    ) -> tuple[F64, I64]:
        distances, ids, _, _ = _core.search(
            queries, largest, [segment], self._k, self._metric, excluded, execution=self._execution
        )
        return distances, ids


def _one_of(value: Any, name: str, known: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")


def float64(array: npt.NDArray[Any]) -> F64:
    """Return the numbers as float64; the search itself warns of those that it does not hold."""
    with np.errstate(over="ignore"):
        wide: F64 = np.ascontiguousarray(array, dtype=np.float64)
    return wide
