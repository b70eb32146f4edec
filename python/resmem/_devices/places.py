"""Whether arrays lie where a call, or a memory, can read them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from resmem._devices.arrays import is_on_device, ordinal_of
from resmem._devices.device import Device
from resmem._devices.libraries import library_of

_P = ParamSpec("_P")
_R = TypeVar("_R")


def check_places(arrays: Mapping[str, Any], device: Device, in_memory: bool = False) -> None:
    """Refuse arrays on other devices than the one that works; arrays in host memory may be passed.

    Parameters
    ----------
    arrays : mapping of str to array
        A call's arguments by name, of any kind.
    device : Device
        The device of the call, or of the memory if ``in_memory``.
    in_memory : bool
        Whether the messages are about a memory's device, which ``Memory.to`` changes.
    """
    lying = {name: value for name, value in arrays.items() if is_on_device(value)}
    if device.kind == "cpu":
        for name, value in lying.items():
            _refuse_on_host(name, value, in_memory)
        return
    ordinals = {name: ordinal_of(value, device) for name, value in lying.items()}
    first = next(iter(ordinals), "")
    for name, ordinal in ordinals.items():
        place = device.sibling(ordinal)
        if ordinal != ordinals[first]:
            other = device.sibling(ordinals[first])
            moved = library_of(lying[name]).moved.format(name=name, place=other)
            raise ValueError(f"{name} lies on {place}, but {first} on {other}; pass {moved}")
        if ordinal != device.ordinal:
            moved = library_of(lying[name]).moved.format(name=name, place=device)
            works, instead = _words(device, place, in_memory)
            raise ValueError(f"{name} lies on {place}, but {works}; {instead} {moved}")


def copies_on_host(arrays: Mapping[str, Any]) -> str:
    """Return what is passed instead of those of a call's arrays that lie on a device."""
    lying = {name: value for name, value in arrays.items() if is_on_device(value)}
    return " and ".join(
        library_of(value).on_host.format(name=name) for name, value in lying.items()
    )


def on_the_cpu(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make a method, which computes on the CPU, refuse arguments that lie on a device."""
    names = tuple(inspect.signature(method).parameters)

    @functools.wraps(method)
    def checked(*given: _P.args, **named: _P.kwargs) -> _R:
        if copies := copies_on_host({**dict(zip(names, given, strict=False)), **named}):
            raise TypeError(
                f"{method.__name__} computes on the CPU and takes arrays in host memory, also "
                f"where a device finds neighbours; pass {copies}"
            )
        return method(*given, **named)

    return checked


def _refuse_on_host(name: str, value: Any, in_memory: bool) -> None:
    """Refuse an array on a device where the CPU works."""
    known = hasattr(value, "__dlpack_device__")  # The other interface does not name the device.
    ordinal = f":{value.__dlpack_device__()[1]}" if known else ""
    works, instead = _words("cpu", f"cuda{ordinal}", in_memory)
    on_host = library_of(value).on_host.format(name=name)
    raise ValueError(f"{name} lies on cuda{ordinal}, but {works}; {instead} {on_host}")


def _words(device: Device | str, place: Device | str, in_memory: bool) -> tuple[str, str]:
    """Return where the work is done, and how to do it elsewhere, or else pass something else."""
    if in_memory:
        return f"the memory on {device}", f"move it with memory.to('{place}') or pass"
    return f"device is '{device}'", f"pass device='{place}' or"
