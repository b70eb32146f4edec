"""``aggregate``: the correction from neighbours that are known already."""

from __future__ import annotations

from typing import Any

import numpy as np

import resmem._core as _core
from resmem._base import checks, convert
from resmem._base.arrays import F64, Keys, float_state
from resmem._base.execution import execution_of
from resmem._base.metric import Metric


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
) -> F64:
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

    Returns
    -------
    float64 array (q, C)
    """
    ascending, row_numbers = convert.neighbours(distances, ids, metric)
    given = convert.real(residuals, "residuals", "(n, C)")
    dtype = "float32" if convert.fits_float32(given.dtype) else "float64"
    as_dtype = convert.float32 if dtype == "float32" else convert.wide
    rows: Keys = as_dtype(given, "residuals", "(n, C)")
    if rows.shape[1] == 0:
        raise ValueError(f"residuals must have at least one column, got shape {rows.shape}")
    _, bad_row = _core.inspect_rows(rows)
    if bad_row >= 0:
        raise ValueError(f"residuals: row {bad_row} holds NaN or infinity (as {dtype})")
    if row_numbers.max(initial=-1) >= len(rows):
        raise ValueError(
            f"ids must be rows of residuals, 0 to {len(rows) - 1}, or -1; got {row_numbers.max()}"
        )
    into = None
    if base is not None:
        into = np.array(convert.float64(base, "base", "(q, C)"))
        if into.shape != (len(row_numbers), rows.shape[1]):
            raise ValueError(
                f"base must have shape {(len(row_numbers), rows.shape[1])}, a row per query and a "
                f"column per column of residuals, got {into.shape}"
            )
    return _core.aggregate(
        [_core.DenseRows(rows)],
        ascending,
        row_numbers,
        checks.positive(sigma, "sigma", infinite=True),
        rows.shape[1],
        checks.finite(strength, "strength"),
        into,
        execution=execution_of(threads),
    )
