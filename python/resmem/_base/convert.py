"""Arrays of the caller's as the numbers that they should be: checked, converted, named if refused.

Another thread may write to a caller's array during a call. What is used as an index must stay as
it was checked, so integers are always copied. Other numbers may change at any time: that can make
results wrong, but nothing may be read or written beyond an array, and no call may hang.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from resmem import _core
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

_WHOLE = 2**53  # float64 holds every integer up to here
_LARGE_LOGIT = 64.0


_LEAST_PROBABILITY = 2.0**-149  # that float32 holds


def real(value: Any, name: str, shape: str) -> npt.NDArray[Any]:
    """A numeric array with the dimensions that ``shape`` lists, such as "(n, d)"."""
    array = to_numpy(value, name)
    layout(array, name, shape)
    return array


def layout(rows: Any, name: str, shape: str) -> None:
    """Refuse what does not hold real numbers or has other dimensions than ``shape`` lists."""
    if rows.dtype.kind not in "fiu":
        raise TypeError(
            f"{name} must hold real numbers, got dtype {rows.dtype}{_to_numbers(rows.dtype, name)}"
        )
    dimensions, got = shape.count(",") + (0 if shape.endswith(",)") else 1), tuple(rows.shape)
    if len(got) != dimensions:
        hint = ""
        if dimensions == 2 and got == (0,):
            hint = "; without rows it is (0, columns)"
        elif dimensions == 2 and len(got) == 1:
            hint = f"; a single row is numpy.atleast_2d({name})"
        elif dimensions == 2 and len(got) > 2:
            hint = (
                f"; of one row for each position it is numpy.reshape({name}, (-1, {got[-1]})), "
                f"in one line a row numpy.reshape({name}, (len({name}), -1))"
            )
        elif dimensions == 1 and got[1:] == (1,):
            hint = f"; pass numpy.ravel({name})"
        raise ValueError(f"{name} must have shape {shape}, got {got}{hint}")


def _to_numbers(dtype: np.dtype[Any], name: str) -> str:
    """How what has this dtype becomes numbers, as the end of a message."""
    if dtype.kind in "bO":
        return f"; convert it, for example with numpy.asarray({name}, dtype='float64')"
    if dtype.kind in "mM":
        return f"; convert it, for example with numpy.asarray({name}).astype('int64')"
    if dtype.kind == "c":
        return f"; pass its parts, numpy.hstack([numpy.real({name}), numpy.imag({name})])"
    return ""


def embedding_layout(rows: Any, name: str, d: int | None = None, shape: str = "(n, d)") -> None:
    """Refuse what cannot be embeddings, with ``d`` columns if given."""
    layout(rows, name, shape)
    if rows.shape[1] == 0:
        raise ValueError(f"{name} must have at least one column, got shape {tuple(rows.shape)}")
    if d is not None and rows.shape[1] != d:
        raise ValueError(f"{name} must have {d} columns like the stored rows, got {rows.shape[1]}")


def float32(value: Any, name: str, shape: str) -> F32:
    """A C-contiguous float32 array; finite float64 values beyond float32 are refused later."""
    array = real(value, name, shape)
    if array.dtype == np.float16 and array.ndim == 2:
        return _core.widen(np.ascontiguousarray(array))  # many times as fast as NumPy
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=np.float32)


def fits_float32(dtype: np.dtype[Any]) -> bool:
    """Whether float32 holds every number of this dtype."""
    return dtype.itemsize <= 2 or dtype == np.float32


def wide(value: Any, name: str, shape: str) -> F64:
    """A C-contiguous float64 array; a warning where it does not hold what the value holds."""
    array = real(value, name, shape)
    with np.errstate(over="ignore"):
        result: F64 = np.ascontiguousarray(array, dtype=np.float64)
    if array.dtype.itemsize > 4 and array.dtype != np.float64 and _lost(array, result):
        shifted = f"({name} - offset)" + ("" if array.dtype.kind == "f" else ".astype('int64')")
        warn(
            f"{name} of dtype {array.dtype} are rounded to float64, which does not hold all of "
            "them; take one and the same offset off them and all that they are compared with "
            f"before, {shifted}"
        )
    return result


def beyond_float32(array: npt.NDArray[Any]) -> bool:
    """Whether some finite value of an array is larger than float32 can hold."""
    if fits_float32(array.dtype) or array.size == 0:
        return False
    largest = max(float(array.max()), -float(array.min()))  # NaN if there is one
    return bool(np.isfinite(largest) and largest > float(np.finfo(np.float32).max))


def _lost(array: npt.NDArray[Any], rounded: F64) -> bool:
    """Whether float64 has changed an integer or a number of an even wider type."""
    if array.dtype.kind == "f":
        return bool(np.any((rounded != array) & np.isfinite(array)))
    if array.size == 0 or (int(array.max()) <= _WHOLE and int(array.min()) >= -_WHOLE):
        return False
    exact = rounded.astype(np.longdouble) == array.astype(np.longdouble)  # it holds 64 bits
    return not bool(exact.all())


def float64(value: Any, name: str, shape: str, first_row: int = 0) -> F64:
    """A C-contiguous, finite float64 array."""
    array = wide(value, name, shape)
    finite = np.isfinite(array)
    if not finite.all():
        raise _not_finite(name, first_row + int(np.argwhere(~finite)[0][0]), as_dtype="float64")
    return array


def vectors(
    value: Any, name: str, d: int | None = None, threads: int = 0, first_row: int = 0
) -> tuple[F32, float]:
    """Finite embeddings (n, d) and their largest absolute value.

    ``first_row``: the number of the first row, for messages about a block of a larger array.
    """
    array = float32(value, name, "(n, d)")
    embedding_layout(array, name, d)
    largest, bad_row = _core.inspect_rows(array, threads)
    if bad_row >= 0 and np.isfinite(to_numpy(value, name)[bad_row]).all():
        raise ValueError(
            f"{name}: row {first_row + bad_row} is beyond float32, which ends at 3.4e38; "
            f"rescale all {name}"
        )
    if bad_row >= 0:
        raise _not_finite(name, first_row + bad_row)
    return array, largest


def wide_vectors(
    value: Any, name: str, d: int | None = None, threads: int = 0, first_row: int = 0
) -> tuple[F64, float]:
    """``vectors`` in float64."""
    array = wide(value, name, "(n, d)")
    embedding_layout(array, name, d)
    largest, bad_row = _core.inspect_rows(array, threads)
    if bad_row >= 0:
        raise _not_finite(name, first_row + bad_row, as_dtype="float64")
    if largest > LARGEST_WIDE:
        raise _not_rescaled(name, largest)
    return array, largest


def refuse_tiny(largest: float, name: str) -> None:
    """Refuse float64 vectors, of which this is the largest |value|, that are too small."""
    if 0 < largest < SMALLEST_WIDE:
        raise _not_rescaled(name, largest)


def _not_rescaled(name: str, largest: float) -> ValueError:
    return ValueError(
        f"{name} must have a largest |value| between 2^-400 and 2^480, got {largest:g}; "
        "rescale them"
    )


def logits(value: Any, name: str, first_row: int = 0) -> F32:
    """Logits (n, C): -inf is legal, but not for a whole row; NaN and +inf are not.

    Large ones that float32 may not hold are rounded less the largest of their row (CONTRACT.md,
    "Softmax, residuals").
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
    """Logits, less the largest of the row where one of them is large; all else as it came."""
    array = wide(given, name, "(n, C)")
    with np.errstate(invalid="ignore"):
        large = ((np.abs(array) > _LARGE_LOGIT) & np.isfinite(array)).any(axis=1)
        if large.any():
            top = np.where(large, array.max(axis=1, initial=-np.inf), 0.0)
            array = array - np.where(np.isfinite(top), top, 0.0)[:, None]
    return array


def probabilities(value: Any, name: str, first_row: int = 0) -> F32:
    """Probabilities (n, C): in [0, 1], rows summing to 1 within float16's rounding."""
    given = real(value, name, "(n, C)")
    array = float32(given, name, "(n, C)")
    if not fits_float32(given.dtype):
        array = np.where((array == 0) & (given > 0), np.float32(_LEAST_PROBABILITY), array)
    ok = (array >= 0) & (array <= 1)
    if not ok.all():
        row = int(np.argmin(ok.all(axis=1)))
        hint = "for raw scores use output_kind='logits'"
        if (array[row] >= 0).all() and abs(array[row].sum(dtype=np.float64) - 100) <= 1:
            hint = f"of percent pass numpy.asarray({name}) / 100"
        raise ValueError(f"{name}: row {first_row + row} holds values outside [0, 1]; {hint}")
    totals = array.sum(axis=1, dtype=np.float64)
    off = np.abs(totals - 1) > 1e-2
    if off.any():
        row = int(np.argmax(off))
        raise ValueError(f"{name}: row {first_row + row} sums to {totals[row]:.6g}, expected 1")
    return array


def integers(value: Any, name: str, shape: str) -> I64:
    """An int64 array of its own (C order) from an integer array, values unchanged."""
    array = to_numpy(value, name)
    if array.size == 0 and array.dtype.kind == "f":
        array = array.astype(np.int64)  # an empty list is float64 to NumPy
    if array.dtype.kind not in "iu":
        hint = ""
        if array.dtype.kind == "b" and name != "targets":
            hint = "; it holds -1 for none"
            if name != "exclude_ids":
                hint = f"; of a mask pass numpy.flatnonzero({name})"
        elif array.dtype.kind in "fb":
            hint = f"; convert it with numpy.asarray({name}).astype('int64')"
            if name == "targets" and array.dtype.kind == "f":
                hint += ", or, if these are values and not classes, use task='regression'"
        elif name == "targets":
            hint = (
                "; number the classes as the columns of outputs, numpy.searchsorted(classes, "
                "targets), where classes are those of the model in ascending order (classes_)"
            )
        raise TypeError(f"{name} must hold integers, got dtype {array.dtype}{hint}")
    dimensions = shape.count(",") + (0 if shape.endswith(",)") else 1)
    if array.ndim != dimensions:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    own: I64 = np.array(array, dtype=np.int64, order="C")
    if array.dtype == np.uint64 and own.min(initial=0) < 0:
        raise ValueError(f"{name} holds values beyond int64")
    return own


def labels(value: Any, classes: int, first_row: int = 0) -> I64:
    """Class indices (n,) in [0, classes)."""
    array = integers(value, "targets", "(n,)")
    bad = (array < 0) | (array >= classes)
    if bad.any():
        row, hint = int(np.argmax(bad)), ""
        if classes == 1:
            hint = (
                "; of two classes pass both columns, "
                "numpy.hstack([numpy.zeros_like(outputs), outputs])"
            )
        elif array.min() > 0 and array.max() == classes:
            hint = "; of classes counted from 1 pass numpy.asarray(targets) - 1"
        raise ValueError(
            f"targets: row {first_row + row} is class {array[row]}, but outputs have {classes} "
            f"columns, so classes are 0 to {classes - 1}{hint}"
        )
    return array


def class_layout(targets: Any) -> None:
    """Refuse what cannot be the classes (n,) of rows."""
    shape = tuple(targets.shape)
    if len(shape) != 1:
        hint = ""
        if shape[1:] == (1,):
            hint = "; pass numpy.ravel(targets)"
        elif len(shape) == 2:
            hint = "; of a column for each class pass numpy.argmax(targets, axis=1)"
        raise ValueError(f"targets must have shape (n,), got {shape}{hint}")
    integers(targets[:0], "targets", "(n,)")


def row_ids(value: Any, n: int) -> I64:
    """Unique, non-negative row ids (n,)."""
    array = integers(value, "ids", "(n,)")
    checks.same_length("ids", len(array), "embeddings", n)
    if n and array.min() < 0:
        row = int(np.argmax(array < 0))
        raise ValueError(f"ids must not be negative, got {array[row]} at row {row}")
    ordered = np.sort(array)
    twice = ordered[1:] == ordered[:-1]
    if twice.any():
        raise ValueError(f"ids must be unique, got {ordered[1:][twice][0]} more than once")
    return array


def excluded_ids(value: Any, q: int) -> I64 | None:
    """Ids a query must not be answered with: (q,) or (q, m), -1 for none."""
    if value is None:
        return None
    array = to_numpy(value, "exclude_ids")
    array = integers(value, "exclude_ids", "(q,)" if array.ndim == 1 else "(q, m)")
    if array.ndim == 1:
        array = array[:, None]
    checks.same_length("exclude_ids", len(array), "queries", q)
    return array


def neighbours(distances: Any, ids: Any, metric: str) -> tuple[F64, I64]:
    """Euclidean distances and ids, (q, k) each, of neighbours that somebody else found;
    ValueError, naming a row, if they cannot be that."""
    if not isinstance(metric, str) or metric not in ("euclidean", "sqeuclidean"):
        raise ValueError(f"metric must be 'euclidean' or 'sqeuclidean', got {metric!r}")
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
    apart[~there] = np.inf
    good = ~there | ((apart >= 0) & (apart < np.inf))
    good[:, 1:] &= apart[:, 1:] >= apart[:, :-1]
    if not good.all():
        row = int(np.argmin(good.all(axis=1)))
        raise ValueError(
            f"distances: row {row} must be finite, not negative and ascending; "
            "sort neighbours by distance"
        )
    return np.sqrt(apart) if metric == "sqeuclidean" else apart, found


def column_numbers(value: Any, q: int, columns: int) -> I64 | None:
    """Output columns asked for, (t,) for all queries alike or (q, t)."""
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
