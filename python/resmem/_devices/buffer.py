"""Results on a device for callers whose library makes no arrays for others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import resmem._core as _core
from resmem._devices.device import handle_of


@dataclass(frozen=True)
class DeviceBuffer:
    """A C-contiguous array in a device's memory, which any library takes without a copy.

    It speaks ``__dlpack__`` (``jax.dlpack.from_dlpack(buffer)``) and ``__cuda_array_interface__``
    (``numba.cuda.as_cuda_array(buffer)``). Its numbers are complete once its stream gets there; who
    takes it says which stream shall wait for that.
    """

    address: int
    shape: tuple[int, ...]
    dtype: str
    ordinal: int  # of the device
    stream: int  # in whose order the numbers are written; 0: the legacy default stream
    wait_for: Callable[[int, int], None] = field(repr=False)  # makes a stream wait for another
    owner: Any = field(repr=False)  # keeps the memory

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": np.dtype(self.dtype).str,
            "data": (self.address, False),
            "strides": None,
            "version": 3,
            "stream": self.stream or 1,  # There 1 is the legacy default stream.
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return DLPack's number for CUDA, and the device's."""
        return 2, self.ordinal

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Return a capsule, as the array API standard says; BufferError if it asks for a copy."""
        if dl_device not in (None, self.__dlpack_device__()) or copy:
            raise BufferError(
                f"the array lies on cuda:{self.ordinal}, and is not copied; take it without copy "
                "and dl_device"
            )
        if stream != -1:  # with which the taker waits by itself
            taker = handle_of(1 if stream is None else stream)
            if taker != self.stream:
                self.wait_for(taker, self.stream)
        versioned = max_version is not None and max_version[0] >= 1
        return _core.make_dlpack(
            self.address,
            self.shape,
            self.dtype,
            self.__dlpack_device__(),
            self,
            versioned=versioned,
        )
