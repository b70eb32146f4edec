"""Where a call writes its results: to new arrays like the caller's, or to those of ``out``."""

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
_NAMES = ("out[0]", "out[1]")


@dataclass(frozen=True)
class Maker:
    """What it takes to make results on a device."""

    allocate: Callable[[int], tuple[int, Any]]  # bytes -> address, owner
    wait_for: Callable[[int, int], None]  # makes a stream wait for what another has been asked


@dataclass(frozen=True)
class Result:
    """An array of results: what the caller gets, and where it is written."""

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
    wanted = [_Wanted(shape, dtype, device, stream, _library(queries)) for dtype in _DTYPES]
    if out is not None:
        return _pair_of(out, wanted[0], wanted[1])
    return wanted[0].made(maker), wanted[1].made(maker)


def result_for(
    queries: Any, shape: tuple[int, ...], dtype: str, out: Any, device: Device, stream: int,
    maker: Maker,
) -> Result:  # fmt: skip
    """Return where one array of results goes, as ``results_for`` does; ``out`` is the array."""
    wanted = _Wanted(shape, dtype, device, stream, _library(queries))
    return wanted.made(maker) if out is None else wanted.of(out, "out")


def written_to(out: Any, distances: F64, ids: I64) -> tuple[Any, Any]:
    """Copy results in host memory to the arrays of ``out``, which are checked and returned."""
    wanted = [_Wanted(ids.shape, dtype, CPU, 0, None) for dtype in _DTYPES]
    results = _pair_of(out, wanted[0], wanted[1])
    return _copied(distances, results[0]), _copied(ids, results[1])


def written(out: Any, found: npt.NDArray[Any]) -> Any:
    """Return results in host memory, copied to ``out`` if that is given, which is checked."""
    if out is None:
        return found
    return _copied(found, _Wanted(found.shape, str(found.dtype), CPU, 0, None).of(out, "out"))


def _copied(found: npt.NDArray[Any], result: Result) -> Any:
    """Copy results to an array in host memory, and return it."""
    assert isinstance(result.target, np.ndarray)
    result.target[...] = found
    return result.given


def _library(queries: Any) -> Library | None:
    """Return the library of queries on a device; None if they are in host memory."""
    return library_of(queries) if is_on_device(queries) else None


def _pair_of(out: Any, distances: _Wanted, ids: _Wanted) -> tuple[Result, Result]:
    """Return the arrays of ``out``, which are to be these two."""
    if not isinstance(out, (tuple, list)) or len(out) != 2:
        raise TypeError(f"out must be a pair of arrays (distances, ids), got {_kind(out)}")
    first, second = distances.of(out[0], _NAMES[0]), ids.of(out[1], _NAMES[1])
    if _share_memory(first.target, second.target):
        ids.refuse(_NAMES[1], f"share no memory with {_NAMES[0]}", "some of its memory")
    return first, second


@dataclass(frozen=True)
class _Wanted:
    """What an array of results has to be."""

    shape: tuple[int, ...]
    dtype: str
    device: Device
    stream: int
    library: Library | None  # of the queries; None if they are in host memory

    def made(self, maker: Maker) -> Result:
        """Return a new array of the library, or a buffer of our own, or one of NumPy."""
        if self.library is None:
            new = np.empty(self.shape, dtype=self.dtype)
            return Result(new, new)
        ordinal, stream = self.device.ordinal, self.stream
        array = self.library.empty(self.shape, self.dtype, ordinal, stream)
        if array is not None:
            return Result(array, view(array, "out", self.device, stream))
        size = prod(self.shape) * np.dtype(self.dtype).itemsize
        address, owner = maker.allocate(size) if size else (0, None)
        array = DeviceBuffer(
            address, self.shape, self.dtype, ordinal, stream, maker.wait_for, owner
        )
        target = DeviceArray(address, self.shape, self.dtype, ordinal, True, False, None, array)
        return Result(array, target)

    def of(self, value: Any, name: str) -> Result:
        """Return the caller's array, or refuse it; messages call it ``name``."""
        array: DeviceArray | npt.NDArray[Any]
        if self.library is None:
            array = self._on_host(value, name)
            contiguous, writeable = array.flags.c_contiguous, array.flags.writeable
        else:
            array = self._on_device(value, name)
            contiguous, writeable = array.contiguous, not array.read_only
        if array.dtype != self.dtype:
            self.refuse(name, f"have dtype {self.dtype}", str(array.dtype))
        if tuple(array.shape) != self.shape:
            self.refuse(name, f"have shape {self.shape}", str(tuple(array.shape)))
        if not contiguous:
            self.refuse(name, "be C-contiguous", "other strides")
        if not writeable:
            self.refuse(name, "be writeable", "a read-only array")
        return Result(value, array)

    def _on_host(self, value: Any, name: str) -> npt.NDArray[Any]:
        if not isinstance(value, np.ndarray):
            self.refuse(name, "be a NumPy array, as queries are in host memory", _kind(value))
        return value

    def _on_device(self, value: Any, name: str) -> DeviceArray:
        expected = f"lie on {self.device}, as queries do"
        if not is_on_device(value):
            self.refuse(name, expected, _kind(value))
        array = view(value, name, self.device, self.stream)
        if array.ordinal != self.device.ordinal:
            self.refuse(name, expected, f"one on {self.device.sibling(array.ordinal)}")
        return array

    def refuse(self, name: str, expected: str, got: str) -> NoReturn:
        """Raise the error about an array, with code that makes a right one."""
        new = "numpy.empty({shape}, dtype='{dtype}')" if self.library is None else self.library.new
        new = new.format(shape=self.shape, dtype=self.dtype, place=self.device)
        raise ValueError(f"{name} must {expected}, got {got}; pass {new}")


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
