"""Checks and conversions of a caller's arrays: embeddings, outputs, targets, ids.

Messages name the array and the first row that is refused. Another thread may write to a caller's
array during a call: `arrays.py` says what must hold then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import resmem._core as _core
from resmem._base import checks
from resmem._base.arrays import (
    F32,
    F64,
    I64,
    LARGEST_WIDE,
    SMALLEST_WIDE,
    to_numpy,
)
from resmem._base.errors import warn
from resmem._base.execution import DEFAULT, Execution
from resmem._base.metric import Metric, as_distances, checked_metric

_LARGEST = float(np.finfo(np.float64).max)
_EXACT_INTEGERS = 2**53  # float64 holds every integer up to this one
_LARGE_LOGIT = 64.0  # |logit| beyond which the row's largest one is subtracted before rounding
IGNORED = -100  # the label that other libraries give to tokens that have none
# What makes logits of one column the outputs of two classes, for messages.
BOTH_COLUMNS = (
    "for two classes, pass both columns, numpy.hstack([numpy.zeros_like(outputs), outputs])"
)
BOTH_PROBABILITIES = (  # the same for probabilities
    "for the probability of the second of two classes, pass "
    "numpy.hstack([1 - numpy.asarray(outputs), outputs])"
)
TOKENS = "resmem.tokens(embeddings, outputs, targets)"  # what leaves these out, for messages
_LEAST_PROBABILITY = 2.0**-149  # the smallest positive number of float32


def real(value: Any, name: str, shape: str) -> npt.NDArray[Any]:
    """Return a numeric array with the dimensions that ``shape`` lists, such as "(n, d)"."""
    array = to_numpy(value, name)
    check_layout(array, name, shape)
    return array


def check_layout(rows: Any, name: str, shape: str) -> None:
    """Refuse rows that are not real numbers or have other dimensions than ``shape`` lists."""
    if rows.dtype.kind not in "fiu":
        raise TypeError(
            f"{name} must hold real numbers, got dtype {rows.dtype}{_to_numbers(rows.dtype, name)}"
        )
    check_dimensions(rows.shape, name, shape)


def check_dimensions(given: Sequence[int], name: str, shape: str) -> None:
    """Refuse an array of other dimensions than ``shape`` lists."""
    dimensions, got = shape.count(",") + (0 if shape.endswith(",)") else 1), tuple(given)
    if len(got) != dimensions:
        hint = ""
        if dimensions == 2 and got == (0,):
            hint = "; an array without rows has shape (0, columns)"
        elif dimensions == 2 and len(got) == 1:
            hint = f"; a single row is numpy.atleast_2d({name})"
        elif dimensions == 2 and len(got) > 2:
            hint = (
                f"; for one row per position, pass numpy.reshape({name}, (-1, {got[-1]})); "
                f"for one row per example, pass numpy.reshape({name}, (len({name}), -1))"
            )
            if name in ("embeddings", "outputs"):
                hint += f"; for one row per labelled token, use {TOKENS}"
        elif dimensions == 1 and got[1:] == (1,):
            hint = f"; pass numpy.ravel({name})"
        raise ValueError(f"{name} must have shape {shape}, got {got}{hint}")


def _to_numbers(dtype: np.dtype[Any], name: str) -> str:
    """Return how values of this dtype become real numbers, as the end of a message."""
    if dtype.kind in "bO":
        return f"; convert it, for example with numpy.asarray({name}, dtype='float64')"
    if dtype.kind in "mM":
        return f"; convert it, for example with numpy.asarray({name}).astype('int64')"
    if dtype.names is not None:
        return f"; pass its fields, numpy.stack([{name}[field] for field in {name}.dtype.names], 1)"
    if dtype.kind in "SUT":
        return f"; numbers as text become numbers by numpy.asarray({name}).astype('float64')"
    if dtype.kind == "c":
        return f"; pass its parts, numpy.hstack([numpy.real({name}), numpy.imag({name})])"
    return ""


def check_embedding_layout(
    rows: Any, name: str, d: int | None = None, shape: str = "(n, d)"
) -> None:
    """Refuse rows that cannot be embeddings, or have not ``d`` columns where it is given."""
    check_layout(rows, name, shape)
    check_columns(rows.shape, name, d)


def check_columns(shape: Sequence[int], name: str, d: int | None = None) -> None:
    """Refuse embeddings (n, columns) without a column, or without ``d`` where it is given."""
    if shape[1] == 0:
        raise ValueError(f"{name} must have at least one column, got shape {tuple(shape)}")
    if d is not None and shape[1] != d:
        raise ValueError(f"{name} must have {d} columns like the stored rows, got {shape[1]}")


def float32(value: Any, name: str, shape: str) -> F32:
    """Return a C-contiguous float32 array; values beyond float32 become infinite."""
    array = real(value, name, shape)
    if array.dtype == np.float16 and array.ndim == 2:
        return _core.widen(np.ascontiguousarray(array))  # NumPy is many times slower
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=np.float32)


def fits_float32(dtype: np.dtype[Any]) -> bool:
    """Tell whether float32 holds every number of this dtype."""
    return dtype.itemsize <= 2 or dtype == np.float32


def wide(value: Any, name: str, shape: str) -> F64:
    """Return a C-contiguous float64 array; warn if float64 rounds some of the values."""
    array = real(value, name, shape)
    with np.errstate(over="ignore"):
        result: F64 = np.ascontiguousarray(array, dtype=np.float64)
    if array.dtype.itemsize > 4 and array.dtype != np.float64 and _rounding_changes(array, result):
        shifted = f"({name} - offset)" + ("" if array.dtype.kind == "f" else ".astype('int64')")
        warn(
            f"{name} of dtype {array.dtype} are rounded to float64, which does not hold all of "
            "them; first subtract the same offset from them and from all that they are compared "
            f"with, {shifted}"
        )
    return result


def beyond_float32(array: npt.NDArray[Any]) -> bool:
    """Tell whether all values are finite and the largest |value| is beyond float32."""
    if fits_float32(array.dtype) or array.size == 0:
        return False
    largest = max(float(array.max()), -float(array.min()))  # NaN if there is one
    return bool(np.isfinite(largest) and largest > float(np.finfo(np.float32).max))


def _rounding_changes(array: npt.NDArray[Any], rounded: F64) -> bool:
    """Tell whether rounding to float64 has changed an integer or a long double."""
    if array.dtype.kind == "f":
        return bool(np.any((rounded != array) & np.isfinite(array)))
    if array.size == 0 or (
        int(array.max()) <= _EXACT_INTEGERS and int(array.min()) >= -_EXACT_INTEGERS
    ):
        return False
    exact = rounded.astype(np.longdouble) == array.astype(np.longdouble)  # longdouble holds 64 bits
    return not bool(exact.all())


def float64(value: Any, name: str, shape: str, first_row: int = 0) -> F64:
    """Return a C-contiguous, finite float64 array."""
    array = wide(value, name, shape)
    finite = np.isfinite(array)
    if not finite.all():
        raise _not_finite(name, first_row + int(np.argwhere(~finite)[0][0]), as_dtype="float64")
    return array


def vectors(
    value: Any, name: str, d: int | None = None, execution: Execution = DEFAULT, first_row: int = 0
) -> tuple[F32, float]:
    """Return finite float32 embeddings (n, d) and their largest absolute value.

    ``first_row`` is the number of the first row, for messages about a block of a larger array.
    """
    array = float32(value, name, "(n, d)")
    check_embedding_layout(array, name, d)
    largest, bad_row = _core.inspect_rows(array, execution)
    if bad_row >= 0 and np.isfinite(to_numpy(value, name)[bad_row]).all():
        raise ValueError(
            f"{name}: row {first_row + bad_row} is beyond float32, which ends at 3.4e38; "
            f"rescale all {name}"
        )
    if bad_row >= 0:
        raise _not_finite(name, first_row + bad_row)
    return array, largest


def wide_vectors(
    value: Any, name: str, d: int | None = None, execution: Execution = DEFAULT, first_row: int = 0
) -> tuple[F64, float]:
    """Return what ``vectors`` does, in float64."""
    array = wide(value, name, "(n, d)")
    check_embedding_layout(array, name, d)
    largest, bad_row = _core.inspect_rows(array, execution)
    if bad_row >= 0:
        raise _not_finite(name, first_row + bad_row, as_dtype="float64")
    if largest > LARGEST_WIDE:
        raise _not_rescaled(name, largest)
    return array, largest


def refuse_tiny(largest: float, name: str) -> None:
    """Refuse float64 vectors whose squares may underflow; ``largest`` is their largest |value|."""
    if 0 < largest < SMALLEST_WIDE:
        raise _not_rescaled(name, largest)


def _not_rescaled(name: str, largest: float) -> ValueError:
    return ValueError(
        f"{name} must have a largest |value| between 2^-400 and 2^480, got {largest:g}; "
        "rescale them"
    )


def logits(value: Any, name: str, first_row: int = 0) -> F32:
    """Return float32 logits (n, C): -inf is legal, but not for a whole row; NaN and +inf are not.

    Where float32 may not hold large logits, the largest of the row is subtracted before they are
    rounded (CONTRACT.md, "Softmax, residuals").
    """
    given = real(value, name, "(n, C)")
    array = float32(given if fits_float32(given.dtype) else _shifted(given, name), name, "(n, C)")
    if not (np.isfinite(array.min(initial=0)) and np.isfinite(array.max(initial=0))):
        bad = np.isnan(array).any(axis=1) | (array == np.inf).any(axis=1)
        if bad.any():
            raise _not_finite(
                name, first_row + int(np.argmax(bad)), "; only -inf is allowed in logits"
            )
        whole = (array == -np.inf).all(axis=1)
        if whole.any():
            raise ValueError(
                f"{name}: row {first_row + int(np.argmax(whole))} is -inf throughout, "
                "so no class is possible"
            )
    return array


def _shifted(given: npt.NDArray[Any], name: str) -> F64:
    """Subtract its largest logit from each row that has a large one; leave other rows unchanged."""
    array = wide(given, name, "(n, C)")
    with np.errstate(invalid="ignore"):
        large = ((np.abs(array) > _LARGE_LOGIT) & np.isfinite(array)).any(axis=1)
        if large.any():
            top = np.where(large, array.max(axis=1, initial=-np.inf), 0.0)
            array = array - np.where(np.isfinite(top), top, 0.0)[:, None]
    return array


def probabilities(value: Any, name: str, first_row: int = 0) -> F32:
    """Return float32 probabilities (n, C): in [0, 1], each row summing to 1 within 0.01."""
    given = real(value, name, "(n, C)")
    array = float32(given, name, "(n, C)")
    if not fits_float32(given.dtype):
        array = np.where((array == 0) & (given > 0), np.float32(_LEAST_PROBABILITY), array)
    ok = (array >= 0) & (array <= 1)
    if not ok.all():
        row = int(np.argmin(ok.all(axis=1)))
        hint = "for raw scores use output_kind='logits'"
        if (array[row] >= 0).all() and abs(array[row].sum(dtype=np.float64) - 100) <= 1:
            hint = f"for percentages, pass numpy.asarray({name}) / 100"
        raise ValueError(f"{name}: row {first_row + row} holds values outside [0, 1]; {hint}")
    totals = array.sum(axis=1, dtype=np.float64)
    off = np.abs(totals - 1) > 1e-2
    if off.any():
        row, hint = int(np.argmax(off)), ""
        if array.shape[1] == 1:
            hint = f"; {BOTH_PROBABILITIES}"
        raise ValueError(
            f"{name}: row {first_row + row} sums to {totals[row]:.6g}, expected 1{hint}"
        )
    return array


def integers(value: Any, name: str, shape: str) -> I64:
    """Return a C-contiguous int64 copy of an integer array."""
    array = to_numpy(value, name)
    if array.size == 0 and array.dtype.kind == "f":
        array = array.astype(np.int64)  # an empty list is float64 to NumPy
    if array.dtype.kind not in "iu":
        hint = ""
        if array.dtype.kind == "b" and name != "targets":
            hint = "; use -1 where no id is excluded"
            if name != "exclude_ids":
                hint = f"; for a mask, pass numpy.flatnonzero({name})"
        elif array.dtype.kind in "fb":
            hint = f"; convert it with numpy.asarray({name}).astype('int64')"
            if name == "targets" and array.dtype.kind == "f":
                hint += ", or, if these are values and not classes, use task='regression'"
        elif name == "targets":
            hint = (
                "; number the classes like the columns of outputs, numpy.searchsorted(classes, "
                "targets), where classes are the model's in ascending order (classes_)"
            )
        raise TypeError(f"{name} must hold integers, got dtype {array.dtype}{hint}")
    dimensions = shape.count(",") + (0 if shape.endswith(",)") else 1)
    if array.ndim != dimensions:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    own: I64 = np.array(array, dtype=np.int64, order="C")
    if array.dtype == np.uint64 and own.min(initial=0) < 0:
        raise ValueError(f"{name} holds values beyond int64")
    return own


def labels(value: Any, classes: int, first_row: int = 0, has_outputs: bool = True) -> I64:
    """Return class indices (n,) in [0, classes).

    ``has_outputs``: outputs have that many columns; else there are none, and ``fit`` told classes.
    """
    array = integers(value, "targets", "(n,)")
    bad = (array < 0) | (array >= classes)
    if bad.any():
        row, hint = int(np.argmax(bad)), ""
        if not has_outputs and array[row] != IGNORED:
            raise ValueError(
                f"targets: row {first_row + row} is class {array[row]}, but this memory has the "
                f"classes 0 to {classes - 1}; name all that may come before fit, for example "
                "resmem.Memory(classes=list(range(10)))"
            )
        if classes == 1:
            hint = f"; {BOTH_COLUMNS}"
        elif array[row] == IGNORED:
            hint = f"; to leave out rows labelled {IGNORED}, use {TOKENS}"
        elif array.min() > 0 and array.max() == classes:
            hint = "; for classes counted from 1, pass numpy.asarray(targets) - 1"
        raise ValueError(
            f"targets: row {first_row + row} is class {array[row]}, but outputs have {classes} "
            f"columns, so classes are 0 to {classes - 1}{hint}"
        )
    return array


def row_ids(value: Any, n: int, of: str = "embeddings") -> I64:
    """Return unique, non-negative ids (n,) of the rows in the array that ``of`` names."""
    array = integers(value, "ids", "(n,)")
    checks.same_length("ids", len(array), of, n)
    if n and array.min() < 0:
        row = int(np.argmax(array < 0))
        raise ValueError(f"ids must not be negative, got {array[row]} at row {row}")
    ordered = np.sort(array)
    twice = ordered[1:] == ordered[:-1]
    if twice.any():
        raise ValueError(f"ids must be unique, got {ordered[1:][twice][0]} more than once")
    return array


def some_ids(value: Any) -> I64:
    """Return the ids (m,) that a caller names; a single number becomes one id."""
    array = to_numpy(value, "ids")
    return integers(array[None] if array.ndim == 0 else array, "ids", "(n,)")


def excluded_ids(value: Any, q: int) -> I64 | None:
    """Return the ids (q, m) that each query must not find as neighbours; -1 excludes none."""
    if value is None:
        return None
    array = to_numpy(value, "exclude_ids")
    array = integers(value, "exclude_ids", "(q,)" if array.ndim == 1 else "(q, m)")
    if array.ndim == 1:
        array = array[:, None]
    checks.same_length("exclude_ids", len(array), "queries", q)
    return array


def neighbours(
    distances: Any, ids: Any, metric: Any, wanted: Metric = "euclidean"
) -> tuple[F64, I64]:
    """Return distances and ids, (q, k) each, of neighbours found by another program.

    Squared distances become Euclidean, or these squared if that is the ``wanted`` metric, and inner
    products negative, so that all ascend. ValueError, naming a row, if they cannot be those of
    nearest neighbours.
    """
    metric = checked_metric(metric)
    found = integers(ids, "ids", "(q, k)")
    given = real(distances, "distances", "(q, k)")
    if given.shape != found.shape:
        raise ValueError(f"distances {given.shape} and ids {found.shape} must have one shape")
    apart = np.array(given, dtype=np.float64, order="C")
    there = found >= 0
    late = (there[:, 1:] > there[:, :-1]).any(axis=1)
    if late.any():
        row = int(np.argmax(late))
        raise ValueError(f"ids: row {row} has -1, which is padding, before other ids")
    products = metric == "inner_product"
    apart = as_distances(apart, metric)
    apart[~there] = np.inf
    good = ~there | ((apart >= (-np.inf if products else 0)) & (np.abs(apart) < np.inf))
    good[:, 1:] &= apart[:, 1:] >= apart[:, :-1]
    if not good.all():
        row = int(np.argmin(good.all(axis=1)))
        order = "descending" if products else "not negative and ascending"
        raise ValueError(
            f"distances: row {row} must be finite, {order}, as metric={metric!r} has them; sort "
            "neighbours, the nearest first, or pass their own metric"
        )
    if metric == "sqeuclidean" and wanted != "sqeuclidean":
        return np.sqrt(apart), found
    if metric == "euclidean" and wanted == "sqeuclidean":
        with np.errstate(over="ignore"):
            return np.where(there, np.minimum(np.square(apart), _LARGEST), np.inf), found
    return apart, found


def column_numbers(value: Any, q: int, columns: int) -> I64 | None:
    """Return the requested output columns: (t,) for all queries alike, or (q, t)."""
    if value is None:
        return None
    array = to_numpy(value, "columns")
    array = integers(array, "columns", "(t,)" if array.ndim == 1 else "(q, t)")
    if array.ndim == 2:
        checks.same_length("columns", len(array), "queries", q)
    bad = (array < 0) | (array >= columns)
    if bad.any():
        raise ValueError(f"columns must lie between 0 and {columns - 1}, got {array[bad][0]}")
    return array


def _not_finite(name: str, row: int, more: str = "", as_dtype: str = "float32") -> ValueError:
    return ValueError(f"{name}: row {row} holds NaN or infinity (as {as_dtype}){more}")
