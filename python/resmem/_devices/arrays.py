"""Arrays that lie on a CUDA device: where, of what, and when they may be read.

They are read where they are, through DLPack (``__dlpack__``) or, where a library has only that,
through ``__cuda_array_interface__``. Nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

import resmem._core as _core
from resmem._devices.device import Device, handle_of
from resmem._devices.libraries import library_of

# DLPack's numbers of what a device can read: its own memory, and memory that moves between it and
# the host. Pinned memory of the host (3) is read as an array of the host.
_CUDA, _CUDA_MANAGED = 2, 13
_NEWEST_DLPACK = (1, 0)


@dataclass(frozen=True)
class DeviceArray:
    """An array of a caller in a device's memory."""

    address: int  # of the first number; 0 or anything else if there is none
    shape: tuple[int, ...]
    dtype: str  # NumPy's name, or "bfloat16"
    ordinal: int  # of the device
    contiguous: bool  # in C order
    read_only: bool
    stream: int | None  # whose work up to now must end before the array is used
    owner: Any  # keeps the memory

    @property
    def item_bytes(self) -> int:
        """The bytes of a number."""
        return 2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize

    @property
    def nbytes(self) -> int:
        """The bytes of all numbers."""
        return prod(self.shape) * self.item_bytes


def is_on_device(value: Any) -> bool:
    """Tell whether this is an array on a CUDA device."""
    if isinstance(value, np.ndarray):
        return False
    if not hasattr(value, "__dlpack_device__"):
        return hasattr(value, "__cuda_array_interface__")
    try:
        kind, _ = value.__dlpack_device__()
    except (BufferError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return False  # An array on several devices, or without memory, is refused or copied later.
    return int(kind) in (_CUDA, _CUDA_MANAGED)


def ordinal_of(value: Any, device: Device) -> int:
    """Return the number of the device that an array on a device lies on.

    ``device`` drives it. It is also what an array without numbers lies on, which has no address.
    """
    if hasattr(value, "__dlpack_device__"):
        return int(value.__dlpack_device__()[1])
    try:
        address = value.__cuda_array_interface__["data"][0]
    except (IndexError, KeyError, TypeError):  # which view() refuses by the name of the array
        return device.ordinal
    found = int(device.extension.device_of(address)) if address else -1
    return device.ordinal if found < 0 else found


def read(value: Any, name: str, device: Device, stream: int, dtypes: Sequence[str]) -> DeviceArray:
    """Return a C-contiguous array of one of these dtypes, to be used by ``stream`` from now on.

    The array lies on the device (``places.check_places``), and messages call it ``name``. Of the
    dtypes, the first is recommended where the array has another one.

    Raises
    ------
    TypeError
        The array cannot be read, or has another dtype.
    ValueError
        It is not C-contiguous, or its address is not a multiple of the size of its numbers.
    """
    array, library = view(value, name, device, stream), library_of(value)
    if array.dtype not in dtypes:
        instead = "" if "complex" in array.dtype else library.converted
        hint = instead and "; pass " + instead.format(name=name, dtype=dtypes[0])
        raise TypeError(f"{name} must have dtype {' or '.join(dtypes)}, got {array.dtype}{hint}")
    if not array.contiguous:
        raise ValueError(
            f"{name} must be C-contiguous, got other strides; "
            f"pass {library.contiguous.format(name=name)}"
        )
    if array.nbytes and array.address % array.item_bytes:
        raise ValueError(
            f"{name} must begin at a multiple of {array.item_bytes} bytes, "
            f"got address {array.address}; copy it to new memory"
        )
    return array


def view(value: Any, name: str, device: Device, stream: int) -> DeviceArray:
    """Return an array of any dtype and strides; TypeError if it cannot be read."""
    if getattr(value, "requires_grad", False):
        raise TypeError(f"{name} is a tensor that requires grad; pass {name}.detach()")
    try:
        if hasattr(value, "__dlpack_device__"):
            return _from_dlpack(value, stream)
        interface = dict(value.__cuda_array_interface__)
        if interface.get("mask") is None:
            return _from_interface(interface, value, device)
    except (BufferError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(
            f"{name} cannot be read as an array: {type(value).__name__} ({error}); "
            f"pass {library_of(value).on_host.format(name=name)}"
        ) from error
    raise TypeError(f"{name} is a masked array; fill it or drop its masked rows")


def _from_dlpack(value: Any, stream: int) -> DeviceArray:
    """Read a DLPack capsule, whose producer lets ``stream`` wait until the array is complete."""
    _, ordinal = value.__dlpack_device__()
    theirs = stream or 1  # Here DLPack's name of the legacy default stream is 1, and 0 is none.
    with library_of(value).on(ordinal):
        try:
            capsule = value.__dlpack__(stream=theirs, max_version=_NEWEST_DLPACK)
        except TypeError:  # from a library of DLPack 0.x, which does not know versions
            capsule = value.__dlpack__(stream=theirs)
    tensor = _core.BorrowedTensor(capsule)
    return DeviceArray(
        address=tensor.address,
        shape=tensor.shape,
        dtype=tensor.dtype,
        ordinal=tensor.device[1],
        contiguous=_row_major(tensor.shape, tensor.strides, 1),
        read_only=tensor.read_only or library_of(value).immutable,
        stream=None,
        owner=tensor,
    )


def _from_interface(interface: dict[str, Any], value: Any, device: Device) -> DeviceArray:
    """Read version 2 or 3 of ``__cuda_array_interface__``; only the latter has a stream."""
    if interface["version"] not in (2, 3):
        raise ValueError(f"version {interface['version']} of its interface is not 2 or 3")
    dtype, shape = np.dtype(interface["typestr"]), tuple(map(int, interface["shape"]))
    if min(shape, default=0) < 0:
        raise ValueError(f"its shape is {shape}")
    address, read_only = interface["data"]
    if address and device.extension.device_of(address) < 0:
        raise ValueError("its address is one of host memory")
    stream = interface.get("stream")
    return DeviceArray(
        address=int(address or 0),
        shape=shape,
        dtype=dtype.name if dtype.isnative else dtype.str,
        ordinal=ordinal_of(value, device),
        contiguous=_row_major(shape, interface.get("strides"), dtype.itemsize),
        read_only=bool(read_only) or library_of(value).immutable,
        stream=None if stream is None else handle_of(int(stream)),
        owner=value,
    )


def _row_major(shape: Sequence[int], strides: Sequence[int] | None, item: int) -> bool:
    """Tell whether numbers lie in C order without gaps; ``item`` is the stride of neighbours."""
    if strides is None or 0 in shape:
        return True
    expected = item
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True
