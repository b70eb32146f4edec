"""What is asked of the libraries whose arrays callers pass: streams, new arrays, and how to say it.

A library is known by the module of an array's class and found in ``sys.modules``, where it must be
if there is an array of it. None is ever imported here.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any


class Library:
    """A library of arrays; this one stands for all that are not known.

    The texts are what a message tells callers to pass, with the names ``{name}`` (of an argument),
    ``{dtype}``, ``{shape}`` and ``{place}`` (a device) to be filled in.
    """

    immutable = False
    contiguous = "a C-contiguous copy of {name}"
    converted = "a copy of {name} of dtype {dtype}"
    on_host = "a copy of {name} in host memory"
    moved = on_host
    new = "out=None"

    def on(self, ordinal: int) -> AbstractContextManager[Any]:
        """Return what makes a device the library's current one within a block."""
        return nullcontext()

    def current_stream(self, ordinal: int) -> Any:
        """Return the stream, as the library has it, in whose order its arrays are computed."""
        return 0

    def empty(self, shape: tuple[int, ...], dtype: str, ordinal: int, stream: int) -> Any:
        """Return a new array for what a stream will write; None if the library makes none."""
        return None


class _Torch(Library):
    contiguous = "{name}.contiguous()"
    converted = "{name}.to(torch.{dtype})"
    on_host = "{name}.cpu()"
    moved = "{name}.to('{place}')"
    new = "torch.empty({shape}, dtype=torch.{dtype}, device='{place}')"

    def on(self, ordinal: int) -> AbstractContextManager[Any]:
        device: AbstractContextManager[Any] = sys.modules["torch"].cuda.device(ordinal)
        return device

    def current_stream(self, ordinal: int) -> Any:
        return sys.modules["torch"].cuda.current_stream(ordinal)

    def empty(self, shape: tuple[int, ...], dtype: str, ordinal: int, stream: int) -> Any:
        torch = sys.modules["torch"]
        # Its allocator hands memory that was given back to the stream that was current here.
        # ExternalStream(0) would be a new stream.
        external = torch.cuda.ExternalStream(stream, device=ordinal) if stream else None
        with torch.cuda.stream(external or torch.cuda.default_stream(ordinal)):
            return torch.empty(shape, dtype=getattr(torch, dtype), device=f"cuda:{ordinal}")


@dataclass(frozen=True)
class _Foreign:
    """A stream of another library in the protocol by which libraries exchange them."""

    address: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.address  # 0 is the version of the protocol.


class _Cupy(Library):
    contiguous = "cupy.ascontiguousarray({name})"
    converted = "{name}.astype('{dtype}')"
    on_host = moved = "{name}.get()"
    new = "cupy.empty({shape}, dtype='{dtype}')"

    def on(self, ordinal: int) -> AbstractContextManager[Any]:
        device: AbstractContextManager[Any] = sys.modules["cupy"].cuda.Device(ordinal)
        return device

    def current_stream(self, ordinal: int) -> Any:
        with self.on(ordinal):
            return sys.modules["cupy"].cuda.get_current_stream()

    def empty(self, shape: tuple[int, ...], dtype: str, ordinal: int, stream: int) -> Any:
        cupy = sys.modules["cupy"]
        # CuPy 14 warns of its ExternalStream, and earlier ones have nothing else.
        foreign = getattr(cupy.cuda.Stream, "from_external", None)
        made = foreign(_Foreign(stream)) if foreign else cupy.cuda.ExternalStream(stream)
        with self.on(ordinal), made:  # Its allocator is like PyTorch's.
            return cupy.empty(shape, dtype=dtype)


class _Numba(Library):
    contiguous = "numba.cuda.to_device(numpy.ascontiguousarray({name}.copy_to_host()))"
    converted = "numba.cuda.to_device({name}.copy_to_host().astype('{dtype}'))"
    on_host = moved = "{name}.copy_to_host()"
    new = "numba.cuda.device_array({shape}, dtype='{dtype}')"

    def on(self, ordinal: int) -> AbstractContextManager[Any]:
        device: AbstractContextManager[Any] = sys.modules["numba"].cuda.gpus[ordinal]
        return device

    def current_stream(self, ordinal: int) -> Any:
        with self.on(ordinal):
            return sys.modules["numba"].cuda.default_stream()

    def empty(self, shape: tuple[int, ...], dtype: str, ordinal: int, stream: int) -> Any:
        with self.on(ordinal):
            return sys.modules["numba"].cuda.device_array(shape, dtype=dtype)


class _Jax(Library):
    immutable = True
    converted = "{name}.astype('{dtype}')"
    on_host = moved = "numpy.asarray({name})"


UNKNOWN = Library()
_BY_MODULE: dict[str, Library] = {
    "torch": _Torch(),
    "cupy": _Cupy(),
    "numba": (numba := _Numba()),
    "numba_cuda": numba,
    "jax": (jax := _Jax()),
    "jaxlib": jax,
}


def library_of(value: Any) -> Library:
    """Return the library whose class, or a class derived from it, the array has."""
    modules = (parent.__module__.partition(".")[0] for parent in type(value).__mro__)
    return next((_BY_MODULE[name] for name in modules if name in _BY_MODULE), UNKNOWN)
