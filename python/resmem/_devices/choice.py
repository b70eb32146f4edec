"""The device that a caller names: whether it is there, and what is missing if it is not."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any

from resmem._base.errors import DeviceError
from resmem._devices.arrays import is_on_device, ordinal_of
from resmem._devices.device import CPU, Device, Kind
from resmem._devices.places import check_places

_NAME = re.compile(r"(cpu|auto)|(cuda:emulated|cuda)(?::([0-9]{1,4}))?")
_NAMES = "'cpu', 'cuda', 'auto' or, with a number, such as 'cuda:0'"
_LEAST_CAPABILITY = (8, 0)  # Earlier devices lack instructions that the filter is made of.
_EXTENSIONS: dict[Kind, tuple[str, str]] = {  # and what installs them, in a clone
    "cuda": ("resmem._cuda", "RESMEM_CUDA=wheels pip install ."),
    "emulated": (
        "resmem._cuda_emulated",
        "pip install . -C cmake.define.RESMEM_CUDA_EMULATION=ON",
    ),
}
# NVIDIA's first release of a driver for a major version of CUDA.
_RELEASES = {12: "release 525 or later", 13: "release 580 or later"}


def choose(device: Any, arrays: Mapping[str, Any]) -> Device:
    """Return the device that ``device`` names, if it can work and all arrays lie in its reach.

    Parameters
    ----------
    device : {"cpu", "cuda", "cuda:0", ..., "auto", "cuda:emulated"}
        "cuda" is the device that arrays lie on, or else the first one. "auto" is the same, or the
        CPU if no array lies on a device. "cuda:emulated" is for tests.
    arrays : mapping of str to array
        The arguments of the call by name, of any kind.

    Raises
    ------
    DeviceError
        The device, its driver or the extension is missing or too old.
    TypeError, ValueError
        ``device`` names no device, or an array lies on another one.
    """
    kind, ordinal = _parsed(device)
    lying = [value for value in arrays.values() if is_on_device(value)]
    if kind == "auto":
        chosen = _usable("cuda", ordinal, lying, device) if lying else CPU
    else:
        chosen = CPU if kind == "cpu" else _usable(kind, ordinal, lying, device)
    check_places(arrays, chosen)
    return chosen


def _parsed(device: Any) -> tuple[Any, int | None]:
    """Return the kind, which may be "auto", and the number of the device if there is one."""
    if not isinstance(device, str):
        hint = "; pass str(device)" if _NAME.fullmatch(str(device)) else ""
        raise TypeError(f"device must be a string, {_NAMES}, got {device!r}{hint}")
    found = _NAME.fullmatch(device)
    if found is None:
        raise ValueError(f"device must be {_NAMES}, got {device!r}")
    kind = found[1] or {"cuda": "cuda", "cuda:emulated": "emulated"}[found[2]]
    return kind, None if found[3] is None else int(found[3])


def _usable(kind: Kind, ordinal: int | None, lying: list[Any], asked: str) -> Device:
    """Return a device that can work: of this number, or where the first array lies, or the first.

    ``asked`` is what the caller has passed.
    """
    device = Device(kind, 0, _extension(kind, asked))
    _check_driver(device.extension, asked)
    count = device.extension.device_count()
    if count == 0:
        raise DeviceError(
            f"device={asked!r} needs a CUDA device, and the driver finds none; nvidia-smi lists "
            "those of the machine, of which CUDA_VISIBLE_DEVICES may hide some"
        )
    if ordinal is None:
        ordinal = ordinal_of(lying[0], device) if lying else 0
    if not 0 <= ordinal < count:
        names = ", ".join(repr(str(device.sibling(number))) for number in range(count))
        raise ValueError(f"device must be one of {names}, got {asked!r}")
    _check_capability(device.sibling(ordinal), count)
    return device.sibling(ordinal)


def _extension(kind: Kind, asked: str) -> Any:
    """Return the extension that drives such devices."""
    module, command = _EXTENSIONS[kind]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise DeviceError(
            f"device={asked!r} needs {module}, which this build of resmem does not have; in a "
            f"clone of resmem, run {command}"
        ) from error
    except ImportError as error:
        raise DeviceError(
            f"device={asked!r} needs {module}, which cannot be loaded ({error}); in a clone of "
            f"resmem, run {command}"
        ) from error


def _check_driver(extension: Any, asked: str) -> None:
    """Refuse a driver that is missing or, by its major version, older than the extension's CUDA."""
    driver, runtime = extension.versions()
    major = runtime // 1000
    if driver // 1000 >= major:
        return
    release = _RELEASES.get(major, "the latest release")
    needs = f"device={asked!r} needs an NVIDIA driver for CUDA {major}.0 or later"
    if driver == 0:
        raise DeviceError(f"{needs}, got none; install {release} of NVIDIA's driver")
    raise DeviceError(
        f"{needs}, got one for CUDA {driver // 1000}.{driver % 1000 // 10}; install {release} of "
        f"it, or, with nvcc of CUDA {driver // 1000} on PATH, run RESMEM_CUDA=on pip install . in "
        "a clone of resmem"
    )


def _check_capability(device: Device, count: int) -> None:
    """Refuse a device that is too old; name one that is not, if there is one."""

    def capability(ordinal: int) -> tuple[int, int]:
        found = device.extension.properties(ordinal)
        return found["major"], found["minor"]

    major, minor = capability(device.ordinal)
    if (major, minor) >= _LEAST_CAPABILITY:
        return
    others = (n for n in range(count) if capability(n) >= _LEAST_CAPABILITY)
    instead = next((str(device.sibling(ordinal)) for ordinal in others), "cpu")
    raise DeviceError(
        f"device must have compute capability 8.0 or later, got {str(device)!r} with "
        f"{major}.{minor} ({device.extension.properties(device.ordinal)['name']}); "
        f"use device={instead!r}"
    )
