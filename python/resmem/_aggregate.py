"""Aggregation of residuals over neighbours that are known already."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from resmem import _core
from resmem._base import checks, convert
from resmem._base.arrays import F64, Keys, float_state


@float_state()
def aggregate(
    distances: Any,
    ids: Any,
    residuals: Any,
    sigma: float,
    base: Any = None,
    strength: float = 1.0,
    metric: Literal["euclidean", "sqeuclidean"] = "euclidean",
    threads: int | None = None,
) -> F64:
    """``base + strength * sum_j w_j r_j`` over neighbours of any index, such as FAISS or cuVS.

    ``w_j`` is proportional to ``exp(-D_j / sigma)``; the weights of a query sum to 1 (ResMem, Yang
    et al., NeurIPS 2023, section 3). Without neighbours the correction is 0. ``Memory.aggregate``
    does the same with the residuals of a memory.

    Parameters
    ----------
    distances : array (q, k)
        Finite, ascending in each row.
    ids : int array (q, k)
        Rows of ``residuals``; -1 is padding, behind all others.
    residuals : array (n, C)
        What the base model got wrong; float32, float64 where that does not hold their type.
    sigma : float
        Length scale of the weights, in units of Euclidean distance; ``inf`` weights all alike.
    base : array (q, C), optional
        The base model's outputs. Left out, the result is the correction alone.
    strength : float
        Factor of the correction where ``base`` is given.
    metric : {"euclidean", "sqeuclidean"}
        What the distances are. FAISS's indexes give squared ones.
    threads : int, optional

    Returns
    -------
    float64 array (q, C)
    """
    apart, found = convert.neighbours(distances, ids, metric)
    given = convert.real(residuals, "residuals", "(n, C)")
    dtype = "float32" if convert.fits_float32(given.dtype) else "float64"
    as_dtype = convert.float32 if dtype == "float32" else convert.wide
    rows: Keys = as_dtype(given, "residuals", "(n, C)")
    if rows.shape[1] == 0:
        raise ValueError(f"residuals must have at least one column, got shape {rows.shape}")
    _, bad_row = _core.inspect_rows(rows, 0)
    if bad_row >= 0:
        raise ValueError(f"residuals: row {bad_row} holds NaN or infinity (as {dtype})")
    if found.max(initial=-1) >= len(rows):
        raise ValueError(
            f"ids must be rows of residuals, 0 to {len(rows) - 1}, or -1; got {found.max()}"
        )
    into = None
    if base is not None:
        into = np.array(convert.float64(base, "base", "(q, C)"))
        if into.shape != (len(found), rows.shape[1]):
            raise ValueError(
                f"base must have shape {(len(found), rows.shape[1])}, a row per query and a "
                f"column per column of residuals, got {into.shape}"
            )
    return _core.aggregate(
        [("dense", rows)],
        apart,
        found,
        checks.positive(sigma, "sigma", infinite=True),
        rows.shape[1],
        checks.finite(strength, "strength"),
        into,
        checks.thread_count(threads),
    )
