"""``aggregate``: the correction from neighbours that are known already."""

from __future__ import annotations

from typing import Any

import numpy as np

import resmem._core as _core
from resmem._base import checks, convert
from resmem._base.arrays import F64, I64, Keys, float_state
from resmem._base.execution import execution_of
from resmem._base.metric import Metric, as_distances, checked_metric, is_euclidean
from resmem._devices import engine
from resmem._devices.arrays import is_on_device
from resmem._devices.choice import choose
from resmem._devices.engine import Call, Placed
from resmem._devices.given_neighbours import lie_on_device, read_neighbours
from resmem._devices.results import result_for, written
from resmem._devices.streams import stream_of


@float_state()
def aggregate(
    distances: Any,
    ids: Any,
    residuals: Any,
    sigma: float,
    base: Any = None,
    strength: float = 1.0,
    metric: Metric = "euclidean",
    threads: int | None = None,
    *,
    device: str = "auto",
    stream: Any = None,
    out: Any = None,
) -> Any:
    """Return ``base + strength * sum_j w_j r_j`` over neighbours that any index found.

    The index may be FAISS or cuVS, for example. ``w_j`` is proportional to ``exp(-D_j / sigma)``,
    and the weights of a query sum to 1 (ResMem, Yang et al., NeurIPS 2023, section 3). A query
    without neighbours has a correction of 0. ``Memory.aggregate`` does the same with the residuals
    of a memory.

    Parameters
    ----------
    distances : array (q, k)
        Finite, ascending in each row; inner products descend.
    ids : int array (q, k)
        Row numbers in ``residuals``; -1 is padding, behind all others.
    residuals : array (n, C)
        Target minus output of the base model, for each row. They are used as float32, or as
        float64 if float32 does not hold their dtype.
    sigma : float
        Length scale of the weights; ``inf`` weights all neighbours alike.
    base : array (q, C), optional
        The base model's outputs. Left out, the result is the correction alone.
    strength : float
        Factor of the correction if ``base`` is given; default 1.
    metric : {"euclidean", "sqeuclidean", "cosine", "inner_product"}
        Which distances are given. FAISS's indexes give squared ones, or inner products, which
        descend. Weights fall with the Euclidean distance, with ``1 - cosine``, or with the
        product, as in attention: ``sigma`` has the unit of that. Default "euclidean".
    threads : int, optional
        Default: as for ``resmem.search``.
    device : {"auto", "cpu", "cuda", "cuda:0", ..}
        What computes, with the same bits. "auto", the default: the device that the arrays lie on.
    stream : int or object, optional
        As for ``resmem.search``.
    out : float64 array (q, C), optional
        Where the result is written: a NumPy array or, as the distances, on the device.

    Returns
    -------
    float64 array (q, C)
        A NumPy array, or ``out``. Where the distances lie on a device, an array of their library
        there.

    Notes
    -----
    Arrays on a device are read where they lie, as ``resmem.search`` reads them: distances of
    float64, Euclidean rather than squared, ids of int64, residuals of float32, float64 or float16.
    Their values are not checked. A query whose base outputs are not finite, whose distances do not
    ascend or whose ids are no rows has NaN throughout.
    """
    arrays = {"distances": distances, "ids": ids, "residuals": residuals, "base": base}
    chosen = choose(device, arrays)
    call = Call(chosen, stream_of(stream, arrays.values(), chosen))
    length, share = (
        checks.positive(sigma, "sigma", infinite=True),
        checks.finite(strength, "strength"),
    )
    execution = execution_of(threads)
    if chosen.kind != "cpu":
        return _ArrayAggregation(call, checked_metric(metric)).of(
            distances, ids, residuals, length, base, share, out
        )
    ascending, row_numbers = convert.neighbours(distances, ids, metric)
    rows = _checked_rows(residuals)
    _check_row_numbers(row_numbers, len(rows))
    into = None if base is None else _checked_base(base, len(row_numbers), rows.shape[1])
    found = _core.aggregate(
        [_core.DenseRows(rows)], ascending, row_numbers, length, rows.shape[1], share, into,
        execution=execution,
    )  # fmt: skip
    return written(out, found)


class _ArrayAggregation:
    """Aggregates on a device, where arrays in host memory are brought."""

    def __init__(self, call: Call, metric: Metric) -> None:
        self._call, self._metric = call, metric

    def of(
        self, distances: Any, ids: Any, residuals: Any, sigma: float, base: Any, strength: float,
        out: Any,
    ) -> Any:  # fmt: skip
        """Return what the neighbours make of ``base``; see ``aggregate``."""
        call, device = self._call, self._call.device
        metric, neighbours = self._neighbours(distances, ids)
        rows = self._rows(residuals, neighbours[1])
        q, columns = neighbours[0].shape[0], rows.shape[1]
        held = engine.residual_rows(device, str(rows.dtype), columns, call.stream)
        held.extend(rows)
        given: dict[str, Any] = {"output_kind": "none"}
        if base is not None:
            given = {"output_kind": "values", "outputs": self._base(base, q, columns)}
        summed = engine.aggregation(
            device, [held], sigma=sigma, columns=columns, strength=strength, **given
        )
        result = result_for(
            distances, (q, columns), "float64", out, device, call.stream, call.maker()
        )
        engine.aggregate(call, summed, *neighbours, result.target, metric)
        return result.given

    def _neighbours(self, distances: Any, ids: Any) -> tuple[str, tuple[Placed, Placed]]:
        """Return the metric, distances and row numbers, where they lie."""
        of = self._metric
        if lie_on_device(distances, ids):
            wanted: Metric = "euclidean" if is_euclidean(of) else of
            return of, read_neighbours(self._call, distances, ids, of, wanted)
        ascending, row_numbers = convert.neighbours(distances, ids, of)
        return of, (as_distances(ascending, of), row_numbers)

    def _rows(self, residuals: Any, row_numbers: Placed) -> Placed:
        rows: Placed
        if is_on_device(residuals):
            rows = self._call.read(residuals, "residuals", ("float32", "float64", "float16"))
            _check_columns(rows.shape)
        else:
            rows = _checked_rows(residuals)
        if isinstance(row_numbers, np.ndarray):
            _check_row_numbers(row_numbers, rows.shape[0])
        return rows

    def _base(self, base: Any, q: int, columns: int) -> Placed:
        if not is_on_device(base):
            return _checked_base(base, q, columns)
        there = self._call.read(base, "base", ("float64", "float32", "float16", "bfloat16"))
        _check_base_shape(there.shape, q, columns)
        return there


def _checked_rows(residuals: Any) -> Keys:
    """Return residuals (n, C) in host memory."""
    given = convert.real(residuals, "residuals", "(n, C)")
    dtype = "float32" if convert.fits_float32(given.dtype) else "float64"
    as_dtype = convert.float32 if dtype == "float32" else convert.wide
    rows: Keys = as_dtype(given, "residuals", "(n, C)")
    _check_columns(rows.shape)
    _, bad_row = _core.inspect_rows(rows)
    if bad_row >= 0:
        raise ValueError(f"residuals: row {bad_row} holds NaN or infinity (as {dtype})")
    return rows


def _check_row_numbers(row_numbers: I64, n: int) -> None:
    if row_numbers.max(initial=-1) >= n:
        raise ValueError(
            f"ids must be rows of residuals, 0 to {n - 1}, or -1; got {row_numbers.max()}"
        )


def _check_columns(shape: tuple[int, ...]) -> None:
    convert.check_dimensions(shape, "residuals", "(n, C)")
    if shape[1] == 0:
        raise ValueError(f"residuals must have at least one column, got shape {shape}")


def _checked_base(base: Any, q: int, columns: int) -> F64:
    """Return a copy of base outputs in host memory."""
    into = np.array(convert.float64(base, "base", "(q, C)"))
    _check_base_shape(into.shape, q, columns)
    return into


def _check_base_shape(shape: tuple[int, ...], q: int, columns: int) -> None:
    if shape != (q, columns):
        raise ValueError(
            f"base must have shape {(q, columns)}, a row per query and a column per column of "
            f"residuals, got {shape}"
        )
