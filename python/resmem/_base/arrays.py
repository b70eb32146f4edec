"""Conversion of whatever the caller has to the arrays that the core reads.

NumPy arrays, anything with DLPack (bfloat16 included) and anything with ``__array__`` are
taken, tables and columns that hold a vector per row too (``tables.py``). Integers convert; bool,
object and complex arrays are refused, as they are nearly always a mistake. A float32
C-contiguous array is passed on without a copy.

Another thread may write to a caller's array during a call. Integers that are used as indexes must
keep the values that were checked, so they are always copied. Other numbers may change at any
time: that can make results wrong, but nothing may be read or written beyond an array, and no call
may hang.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import resmem._core as _core
from resmem._base import platform, tables

F32: TypeAlias = npt.NDArray[np.float32]
F64: TypeAlias = npt.NDArray[np.float64]
I64: TypeAlias = npt.NDArray[np.int64]
Keys: TypeAlias = "F32 | F64"
Array: TypeAlias = npt.NDArray[Any]

# Sums of squares of float64 numbers may overflow above the first, and underflow below the second
# (CONTRACT.md, "Float64 keys").
LARGEST_WIDE, SMALLEST_WIDE = 2.0**480, 2.0**-400


@contextmanager
def float_state() -> Iterator[None]:
    """Give NumPy the floating-point state of the contract, gradual underflow, within the block.

    The caller's thread gets its own state back afterwards. This can be used as a decorator too.
    """
    saved = _core.enter_float_state()
    try:
        yield
    finally:
        _core.leave_float_state(saved)


def to_numpy(value: Any, name: str) -> npt.NDArray[Any]:
    """Return the value as a NumPy array of its own dtype; bfloat16 becomes float32."""
    if value is None:
        raise TypeError(f"{name} must be an array, got None")
    if isinstance(value, np.ndarray):
        if hasattr(value, "mask"):
            raise TypeError(
                f"{name} is a masked array; drop its masked rows, or fill them, for example with "
                f"{name}.filled({tables.value_for_none(name)})"
            )
        array = value
    elif isinstance(value, (str, bytes, os.PathLike)):
        raise TypeError(
            f"{name} must be an array, got {type(value).__name__}; numpy.load(path, mmap_mode='r') "
            "reads the array of a .npy file"
        )
    elif getattr(value, "requires_grad", False):
        there = "" if _device(value) is None else ".cpu()"
        raise TypeError(f"{name} is a tensor that requires grad; pass {name}.detach(){there}")
    elif _device(value) is not None:
        copies = (call for call in ("cpu", "get") if hasattr(value, call))
        copy = next((f"{name}.{call}()" for call in copies), f"a copy of {name} in host memory")
        raise TypeError(f"{name} lies on {_device(value)}; pass {copy}")
    elif hasattr(value, "toarray"):
        raise TypeError(
            f"{name} is a sparse {type(value).__name__}; pass {name}.toarray(), or, where that is "
            "too large, what sklearn.decomposition.TruncatedSVD(64) makes of it"
        )
    elif getattr(value, "is_sparse", False) is True or "sparse" in str(
        getattr(value, "layout", "")
    ):
        raise TypeError(f"{name} is a sparse {type(value).__name__}; pass {name}.to_dense()")
    elif (numbers := tables.from_nullable(value, name)) is not None:
        array = numbers
    elif hasattr(value, "__dlpack__") and (wide := _from_bfloat16(value)) is not None:
        array = wide
    else:
        try:
            only_dlpack = hasattr(value, "__dlpack__") and not hasattr(value, "__array__")
            array = np.from_dlpack(value) if only_dlpack else np.asarray(value)
        except (TypeError, ValueError, RuntimeError, BufferError) as error:
            hint = "pass a NumPy array or a CPU tensor"
            if isinstance(value, (list, tuple)):
                hint = "give all rows as many numbers"
            raise TypeError(
                f"{name} cannot be read as an array: {type(value).__name__} ({error}); {hint}"
            ) from error
    if array.dtype == object and array.ndim == 0:
        raise TypeError(
            f"{name} must be an array, got {type(value).__name__}{_to_rows(value, name)}"
        )
    if array.dtype == object:
        array = tables.stacked(array, name)
    if array.dtype == object and array.ndim == 2 and array.shape[1] > 1 and _names(value):
        converted = f"numpy.asarray({name}).astype('float64')"
        if hasattr(value, "iloc"):  # a DataFrame, which keeps its names
            converted = f"{name}.astype('float64')"
        others = [str(column) for column in _names(value) if not _is_numeric(value[column])]
        raise TypeError(
            f"{name} must hold real numbers, got columns that do not, {', '.join(others[:5])}; "
            f"convert all columns, for example with {converted}, or leave these out"
        )
    is_bfloat16 = array.dtype.kind == "V" and array.dtype.name == "bfloat16"
    return array.astype(np.float32) if is_bfloat16 else array


def _names(value: Any) -> Sequence[Any]:
    """Return the names of a table's columns; none if it is no table."""
    return tables.names_of(value) or ()


def _is_numeric(column: Any) -> bool:
    dtype = getattr(column, "dtype", None)
    return getattr(getattr(dtype, "numpy_dtype", np.asarray(column).dtype), "kind", "O") in "fiu"


def _to_rows(value: Any, name: str) -> str:
    """Return how an object that is no array becomes one, as the end of a message."""
    if isinstance(value, Mapping):
        return f"; pass numpy.column_stack(list({name}.values())), a column for each key"
    if isinstance(value, Set):
        return "; pass a list, which has an order"
    return f"; pass numpy.array(list({name}))" if isinstance(value, Iterable) else ""


def _device(value: Any) -> str | None:
    """Return the device that an array lies on; None if NumPy can read it there."""
    if hasattr(value, "cpu") and hasattr(value, "device"):  # a tensor of PyTorch
        place = str(value.device)
        return None if place.startswith("cpu") else place
    readable = hasattr(value, "__array__") and not hasattr(value, "get")  # CuPy's refuses
    return "a GPU" if hasattr(value, "__cuda_array_interface__") and not readable else None


def sliceable(value: Any, name: str) -> Any:
    """Return an object with a shape and a dtype that rows can be sliced from.

    Arrays become NumPy arrays. An object that only looks like an array, such as a data set in a
    file, stays where it is and is read block by block.
    """
    lazy = isinstance(getattr(value, "dtype", None), np.dtype) and all(
        hasattr(value, part) for part in ("shape", "__getitem__")
    )
    if isinstance(value, np.ndarray) or not lazy:
        return to_numpy(value, name)
    if len(value.shape) == 0 or hasattr(value, "__dlpack__") or hasattr(value, "iloc"):
        return to_numpy(value, name)
    return value


def picked_rows(value: Any, at: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    """Return some rows of an array, by their numbers; of a lazy one only these are read."""
    rows, numbers = sliceable(value, name), np.asarray(at, dtype=np.int64)
    if isinstance(rows, np.ndarray):
        return rows[numbers]
    parts = [read_block(rows, slice(row, row + 1), name) for row in numbers.tolist()]
    return np.concatenate(parts)


def read_block(rows: Any, block: slice, name: str) -> npt.NDArray[Any]:
    """Return these rows of what ``sliceable`` gave; ValueError if some of them do not come."""
    part = to_numpy(rows[block], name)
    if part.ndim == 0 or len(part) != block.stop - block.start:
        raise ValueError(
            f"{name}: asked for rows {block.start} to {block.stop - 1}, got an array of shape "
            f"{part.shape}"
        )
    return part


def release_pages(rows: Any, block: slice) -> None:
    """Release the pages of a mapped file that hold these rows, once the rows have been used.

    So a pass over a file larger than memory does not fill memory. The pages stay in the system's
    cache.
    """
    if not isinstance(rows, np.ndarray):
        return
    part = rows[block]
    if not part.flags.c_contiguous or part.nbytes == 0:
        return
    base: Any = part
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if not platform.is_mapped_file(base):
        return
    if memoryview(base).readonly or getattr(part, "mode", "") == "r+":  # private pages may differ
        first = _address(part) - _address(np.frombuffer(base, dtype=np.uint8))
        platform.release_mapped(base, first, first + part.nbytes)


def _address(array: npt.NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _from_bfloat16(value: Any) -> F32 | None:
    """Return a float32 copy of a bfloat16 tensor; None for every other dtype."""
    if "bfloat16" not in str(getattr(value, "dtype", "")):
        return None
    try:
        return _core.bfloat16_from_dlpack(value.__dlpack__())
    except (BufferError, RuntimeError, TypeError, ValueError):
        return None


def distinct(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the distinct values in ascending order.

    Without ``return_index``, ``numpy.unique`` (since NumPy 2.3) hashes in C++ code that releases
    the GIL. Up to Python 3.13, a daemon thread in that code aborts the process when the program
    ends.
    """
    return np.unique(values, return_index=True)[0]


def quantiles(values: F64, at: npt.ArrayLike) -> F64:
    """Return what ``numpy.quantile`` does, for values (n,), n >= 1, none of which is NaN.

    NumPy's own finds distinct values, as ``distinct`` tells.
    """
    ordered, places = np.sort(values), np.asarray(at, dtype=np.float64) * (len(values) - 1)
    low = np.floor(places).astype(np.int64)
    first, second = ordered[low], ordered[np.minimum(low + 1, len(values) - 1)]
    part, step = places - low, second - first
    found: F64 = np.where(part < 0.5, first + step * part, second - step * (1 - part))
    return found


def all_finite(*parts: npt.NDArray[Any]) -> bool:
    """Tell whether the arrays hold neither NaN nor infinity, without naming rows that do."""
    return all(bool(np.isfinite(part).all()) for part in parts)
