"""The stream of a call, as CUDA's address of it: 0 is the legacy default stream."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from resmem._devices.arrays import is_on_device
from resmem._devices.device import Device, handle_of
from resmem._devices.libraries import library_of


def stream_of(stream: Any, arrays: Iterable[Any], device: Device, in_memory: bool = False) -> int:
    """Return the address of the stream in whose order a call works.

    Parameters
    ----------
    stream : int, object or None
        The caller's: an address, or a stream of CuPy, Numba, PyTorch or with ``__cuda_stream__``.
        None: the current stream of the library of the first array on a device, or else the legacy
        default stream.
    arrays : arrays
        The arguments of the call, of any kind.
    device : Device
        The device of the call, or of the memory if ``in_memory``.
    in_memory : bool
        Whether the messages are about a memory's device, which ``Memory.to`` changes.

    Raises
    ------
    TypeError, ValueError
        This is no stream, or the CPU works, which has none.
    """
    if stream is None:
        first = next(filter(is_on_device, arrays), None)
        return 0 if first is None else address_of(library_of(first).current_stream(device.ordinal))
    if device.kind == "cpu":
        works, instead = ("device is 'cpu'", "pass device='cuda'")
        if in_memory:
            works, instead = ("the memory is on cpu", "move it with memory.to('cuda')")
        raise ValueError(
            f"stream must be None where {works}, got {stream!r}; {instead} or leave stream out"
        )
    return address_of(stream)


def address_of(stream: Any) -> int:
    """Return the address of a stream of any library."""
    address = _handle(stream)
    if address is None:
        raise TypeError(
            f"stream must be a stream of CUDA or its address, got {type(stream).__name__}"
        )
    if not 0 <= address < 2**64:
        raise ValueError(f"stream must be an address, got {address}")
    return handle_of(address)


def _handle(stream: Any) -> int | None:
    """Return the handle of a stream; None if it does not look like a stream."""
    if isinstance(stream, (int, np.integer)) and not isinstance(stream, bool):
        return int(stream)
    if hasattr(stream, "__cuda_stream__"):
        _version, handle = stream.__cuda_stream__()
        return int(handle)
    if hasattr(stream, "cuda_stream"):  # of PyTorch
        return int(stream.cuda_stream)
    if hasattr(stream, "ptr"):  # of CuPy
        return int(stream.ptr)
    if hasattr(stream, "handle"):  # of Numba: of ctypes, whose null is None, or of CUDA's bindings
        handle = getattr(stream.handle, "value", stream.handle)
        return 0 if handle is None else int(handle)
    return None
