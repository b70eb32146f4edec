"""A device that exists only in its answers, and libraries with arrays on it.

Memory is NumPy's; `Extension` says which device it lies on. A `Fake` is an array of a library, with
DLPack, the CUDA array interface or both. Libraries are put into `sys.modules` by `libraries`.
"""

from __future__ import annotations

import contextlib
import sys
import types
from dataclasses import dataclass, field

import numpy as np

from resmem import _core
from resmem._devices.buffer import DeviceBuffer
from resmem._devices.device import Device

ONE = np.ones((1, 1), dtype=np.float32)
CUDA, PINNED, MANAGED = 2, 3, 13  # DLPack's numbers


@dataclass(eq=False)
class Extension:
    """A stand-in for resmem._cuda."""

    driver: int = 13000
    runtime: int = 13000
    capabilities: tuple = ((9, 0), (8, 0))  # of each device
    memory: dict = field(default_factory=dict)  # address -> device
    Lanes = object  # what searches of slabs share, of which there are none

    def versions(self):
        return self.driver, self.runtime

    def device_count(self):
        return len(self.capabilities)

    def properties(self, ordinal):
        major, minor = self.capabilities[ordinal]
        return {"name": "Toaster", "major": major, "minor": minor}

    def device_of(self, address):
        return self.memory.get(address, -1)


def address_of(array):
    return array.__array_interface__["data"][0]


def device(ordinal=0, *arrays):
    """Return a device on which these NumPy arrays lie."""
    return Device("cuda", ordinal, Extension(memory={address_of(a): ordinal for a in arrays}))


class Interface:
    """An array of an unknown library with ``__cuda_array_interface__`` alone."""

    def __init__(self, array, **changed):
        self.array = array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (address_of(array) if array.size else 0, False),
            "strides": None if array.flags.c_contiguous else array.strides,
            "version": 3,
            **changed,
        }


class Emulated(Interface):
    """A copy of an array in the memory of an emulated device."""

    def __init__(self, extension, array, ordinal=0):
        self.extension, self.ordinal = extension, ordinal
        self.address = extension.allocate(max(1, array.nbytes), ordinal)
        extension.copy_in(self.address, array.tobytes(), ordinal)
        super().__init__(array, data=(self.address if array.size else 0, False))

    def __del__(self):
        self.extension.release(self.address, self.ordinal)


class Exporter:
    """An array of an unknown library with DLPack alone, which notes the streams it is asked for."""

    def __init__(self, array, place=(CUDA, 0), dtype=None, read_only=False):
        self.array, self.place, self.read_only = array, place, read_only
        self.dtype, self.asked = dtype or array.dtype.name, []

    @property
    def shape(self):
        return self.array.shape

    def __dlpack_device__(self):
        return self.place

    def __dlpack__(self, *, stream=None, max_version=None):
        self.asked.append((stream, max_version))
        steps = [step // self.array.itemsize for step in self.array.strides]
        versioned = max_version is not None
        return _core.make_dlpack(
            address_of(self.array), self.array.shape, self.dtype, self.place, self.array,
            versioned, steps, self.read_only,
        )  # fmt: skip


class OldExporter(Exporter):
    """The same of a library of DLPack 0.x."""

    def __dlpack__(self, *, stream=None):
        return Exporter.__dlpack__(self, stream=stream)


class Attached(Exporter):
    """A tensor on a device that records operations."""

    requires_grad = True

    def __init__(self, array=ONE):
        super().__init__(array)

    def detach(self):
        return Exporter(self.array)


class Complete(Exporter):
    """An array with what messages tell callers of PyTorch, CuPy and Numba to call."""

    def contiguous(self):
        return type(self)(np.ascontiguousarray(self.array), self.place)

    def to(self, target):
        if target.startswith("cuda:"):
            return type(self)(self.array, (CUDA, int(target.removeprefix("cuda:"))))
        return self.astype(target)

    def astype(self, dtype):
        return type(self)(self.array.astype(dtype), self.place)

    def cpu(self):
        return self.array

    get = copy_to_host = cpu


def of_module(module, parent=Complete):
    """Return a class of arrays as this module would have it."""
    return type("Fake", (parent,), {"__module__": module})


class Named:
    """A device as another library has it, with a name that resmem knows."""

    def __init__(self, name):
        self.name = name

    def __str__(self):
        return self.name

    def __repr__(self):
        return f"Named({self.name})"


def buffer(array, wait_for=lambda stream, other: None, stream=0):
    """Return results of our own at the place of this array."""
    return DeviceBuffer(
        address_of(array), array.shape, array.dtype.name, 0, stream, wait_for, array
    )


class Stream:
    """A stream with the attribute that one library gives it."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Handle:
    """A pointer of ctypes, whose null pointer has the value None."""

    def __init__(self, value):
        self.value = value or None


class Block:
    """A block that notes when it is entered."""

    def __init__(self, log, what):
        self.log, self.what = log, what

    def __enter__(self):
        self.log.append(self.what)

    def __exit__(self, *error):
        pass


class FakeLibraries:
    """PyTorch, CuPy and Numba, as much of them as resmem asks for; notes what was asked."""

    def __init__(self):
        self.log, self.current = [], {"torch": 64, "cupy": 128, "numba": 0}
        self.arrays = {name: of_module(name) for name in (*self.current, "jaxlib._jax")}
        self.modules = {
            "torch": self._module(
                float32="float32",
                float64="float64",
                int64="int64",
                empty=self._torch_empty,
                cuda=self._module(
                    device=lambda ordinal: self._within("torch", ordinal),
                    stream=lambda stream: self._within("torch stream", stream.cuda_stream),
                    current_stream=lambda ordinal: Stream(cuda_stream=self._now("torch", ordinal)),
                    default_stream=lambda ordinal: Stream(cuda_stream=0),
                    ExternalStream=lambda address, device: Stream(cuda_stream=address),
                ),
            ),
            "cupy": self._module(
                ascontiguousarray=Complete.contiguous,
                empty=lambda shape, dtype: self._new("cupy", shape, dtype),
                cuda=self._module(
                    Device=lambda ordinal: self._within("cupy", ordinal),
                    Stream=self._module(
                        from_external=lambda s: self._within("cupy stream", *s.__cuda_stream__())
                    ),
                    ExternalStream=lambda address: self._within("old cupy stream", address),
                    get_current_stream=lambda: Stream(ptr=self.current["cupy"]),
                ),
            ),
            "numba": self._module(
                cuda=self._module(
                    gpus=[self._within("numba", 0), self._within("numba", 1)],
                    default_stream=lambda: Stream(handle=Handle(self.current["numba"])),
                    to_device=lambda array: self.array("numba", array),
                    device_array=lambda shape, dtype: self._new("numba", shape, dtype),
                ),
            ),
        }

    def array(self, library, array, ordinal=0):
        return self.arrays[library](array, (CUDA, ordinal))

    @staticmethod
    def _module(**names):
        return types.SimpleNamespace(**names)

    def _now(self, library, ordinal):
        self.log.append((library, ordinal))
        return self.current[library]

    def _within(self, *what):
        return Block(self.log, what)

    def _new(self, library, shape, dtype, ordinal=0):
        return self.array(library, np.zeros(shape, dtype=dtype), ordinal)

    def _torch_empty(self, shape, dtype, device):
        return self._new("torch", shape, dtype, int(device.removeprefix("cuda:")))


@contextlib.contextmanager
def libraries(fakes=None):
    """Put the libraries into `sys.modules` within the block."""
    fakes = fakes or FakeLibraries()
    before = {name: sys.modules.get(name) for name in fakes.modules}
    sys.modules.update(fakes.modules)
    try:
        yield fakes
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


@contextlib.contextmanager
def unloadable(name, said):
    """Let the import of the extension fail within the block, though it is there."""

    class Finder:
        @staticmethod
        def find_spec(found, path=None, target=None):
            if found == name:
                raise ImportError(said)

    before = sys.modules.pop(name, None)
    sys.meta_path.insert(0, Finder)
    try:
        yield
    finally:
        sys.meta_path.remove(Finder)
        if before is not None:
            sys.modules[name] = before


@contextlib.contextmanager
def extension(made, name="resmem._cuda"):
    """Put a stand-in for the extension into `sys.modules`; None: there is no extension."""
    missing = object()
    before = sys.modules.get(name, missing)
    sys.modules[name] = made
    try:
        yield made
    finally:
        if before is missing:
            del sys.modules[name]
        else:
            sys.modules[name] = before
