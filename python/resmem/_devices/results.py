"""Where a search writes its results: to new arrays like the caller's, or to those of ``out``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from resmem._base.arrays import F64, I64
from resmem._devices.arrays import DeviceArray, is_on_device, view
from resmem._devices.buffer import DeviceBuffer
from resmem._devices.device import CPU, Device
from resmem._devices.libraries import Library, library_of

_DTYPES = ("float64", "int64")  # of distances and ids


@dataclass(frozen=True)
class Maker:
    """What it takes to make results on a device."""

    allocate: Callable[[int], tuple[int, Any]]  # bytes -> address, owner
    wait_for: Callable[[int, int], None]  # makes a stream wait for what another has been asked


@dataclass(frozen=True)
class Result:
    """Distances or ids: what the caller gets, and where they are written."""

    given: Any
    target: DeviceArray | npt.NDArray[Any]


def results_for(
    queries: Any, shape: tuple[int, int], out: Any, device: Device, stream: int, maker: Maker
) -> tuple[Result, Result]:
    """Return where the distances and the ids of neighbours go: where the queries are.

    Parameters
    ----------
    queries : array
        The caller's. In host memory: results are NumPy arrays. On the device: arrays of the same
        library, or a ``DeviceBuffer`` if it makes none.
    shape : (int, int)
        Queries and neighbours, (q, k).
    out : (array, array) or None
        The caller's arrays to be written to: distances (q, k) of float64 and ids (q, k) of int64,
        C-contiguous, without common memory, NumPy arrays or on the device like the queries.
    device, stream
        Where and in which order the results are computed.
    maker : Maker
        Gives memory for a ``DeviceBuffer``.

    Raises
    ------
    TypeError, ValueError
        ``out`` is anything else.
    """
    on_device = is_on_device(queries)
    if out is not None:
        return _given(out, shape, device, stream, library_of(queries) if on_device else None)
    if not on_device:
        new = [np.empty(shape, dtype=dtype) for dtype in _DTYPES]
        return Result(new[0], new[0]), Result(new[1], new[1])
    made = [_made(library_of(queries), shape, dtype, device, stream, maker) for dtype in _DTYPES]
    return made[0], made[1]


def written_to(out: Any, distances: F64, ids: I64) -> tuple[Any, Any]:
    """Copy results in host memory to the arrays of ``out``, which are checked and returned."""
    results = _given(out, (len(ids), ids.shape[1]), CPU, 0, None)
    for result, found in zip(results, (distances, ids), strict=True):
        assert isinstance(result.target, np.ndarray)
        result.target[...] = found
    return results[0].given, results[1].given


def _made(
    library: Library, shape: tuple[int, int], dtype: str, device: Device, stream: int, maker: Maker
) -> Result:
    """Return a new array of this library, or a buffer of our own."""
    array = library.empty(shape, dtype, device.ordinal, stream)
    if array is None:
        size = prod(shape) * np.dtype(dtype).itemsize
        address, owner = maker.allocate(size) if size else (0, None)
        array = DeviceBuffer(address, shape, dtype, device.ordinal, stream, maker.wait_for, owner)
        target = DeviceArray(address, shape, dtype, device.ordinal, True, False, None, array)
        return Result(array, target)
    return Result(array, view(array, "out", device, stream))


# ---- arrays of the caller ------------------------------------------------------------------------


def _given(
    out: Any, shape: tuple[int, int], device: Device, stream: int, library: Library | None
) -> tuple[Result, Result]:
    """Return the arrays of ``out``; the queries lie on the device, or, without library, do not."""
    if not isinstance(out, (tuple, list)) or len(out) != 2:
        raise TypeError(f"out must be a pair of arrays (distances, ids), got {_kind(out)}")
    wanted = _Wanted(shape, device, library)
    targets = [wanted.target(out, number, stream) for number in (0, 1)]
    if _share_memory(*targets):
        wanted.refuse(1, "share no memory with out[0]", "some of its memory")
    return Result(out[0], targets[0]), Result(out[1], targets[1])


@dataclass(frozen=True)
class _Wanted:
    """What the arrays of ``out`` have to be."""

    shape: tuple[int, int]
    device: Device
    library: Library | None  # of the queries; None if they are in host memory

    def target(self, out: Any, number: int, stream: int) -> DeviceArray | npt.NDArray[Any]:
        """Return one of the arrays, or refuse it."""
        array: DeviceArray | npt.NDArray[Any]
        if self.library is None:
            array = self._on_host(out[number], number)
            contiguous, writeable = array.flags.c_contiguous, array.flags.writeable
        else:
            array = self._on_device(out[number], number, stream)
            contiguous, writeable = array.contiguous, not array.read_only
        if array.dtype != _DTYPES[number]:
            self.refuse(number, f"have dtype {_DTYPES[number]}", str(array.dtype))
        if tuple(array.shape) != self.shape:
            self.refuse(number, f"have shape {self.shape}", str(tuple(array.shape)))
        if not contiguous:
            self.refuse(number, "be C-contiguous", "other strides")
        if not writeable:
            self.refuse(number, "be writeable", "a read-only array")
        return array

    def _on_host(self, value: Any, number: int) -> npt.NDArray[Any]:
        if not isinstance(value, np.ndarray):
            self.refuse(number, "be a NumPy array, as queries are in host memory", _kind(value))
        return value

    def _on_device(self, value: Any, number: int, stream: int) -> DeviceArray:
        expected = f"lie on {self.device}, as queries do"
        if not is_on_device(value):
            self.refuse(number, expected, _kind(value))
        array = view(value, f"out[{number}]", self.device, stream)
        if array.ordinal != self.device.ordinal:
            self.refuse(number, expected, f"one on {self.device.sibling(array.ordinal)}")
        return array

    def refuse(self, number: int, expected: str, got: str) -> NoReturn:
        """Raise the error about one of the arrays, with code that makes a right one."""
        new = "numpy.empty({shape}, dtype='{dtype}')" if self.library is None else self.library.new
        new = new.format(shape=self.shape, dtype=_DTYPES[number], place=self.device)
        raise ValueError(f"out[{number}] must {expected}, got {got}; pass {new}")


def _kind(value: Any) -> str:
    return type(value).__name__


def _share_memory(
    first: DeviceArray | npt.NDArray[Any], second: DeviceArray | npt.NDArray[Any]
) -> bool:
    """Tell whether two C-contiguous arrays of one side have a byte in common."""
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return np.may_share_memory(first, second)
    return (
        first.address < second.address + second.nbytes
        and second.address < first.address + first.nbytes
    )
