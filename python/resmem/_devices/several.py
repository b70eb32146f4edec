"""Several devices of one host: which ones, and how rows are divided among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from resmem._devices.arrays import is_on_device, ordinal_of
from resmem._devices.choice import choose
from resmem._devices.device import Device

DeviceNames: TypeAlias = "str | Sequence[str]"


def choose_all(device: Any, arrays: Mapping[str, Any]) -> tuple[Device, ...]:
    """Return the devices that ``device`` names, one or several; see ``choose``.

    The first of several is the one that arrays lie on, if there are any, and gets the results.

    Raises
    ------
    DeviceError, TypeError, ValueError
        As ``choose``; or several devices are not of one kind, or one is named twice.
    """
    if not isinstance(device, (list, tuple)):
        return (choose(device, arrays),)
    if len(device) == 0:
        raise ValueError("device must name at least one device, got none; pass 'cpu' or 'cuda:0'")
    chosen = [choose(name, {}) for name in device]
    for place, name in zip(chosen, device, strict=True):
        if len(chosen) > 1 and (place.kind == "cpu" or place.kind != chosen[0].kind):
            raise ValueError(
                f"device must name CUDA devices alone if it names several, got {name!r} among "
                f"{list(device)}"
            )
    if len(set(map(str, chosen))) < len(chosen):
        raise ValueError(f"device must name each device once, got {list(device)}")
    lead = lead_of(chosen, arrays)
    choose(str(lead), arrays)  # which refuses arrays on other devices
    return (lead, *(place for place in chosen if place is not lead))


def lead_of(devices: Sequence[Device], arrays: Mapping[str, Any]) -> Device:
    """Return the device on which the first array lies, if it is one of these, or else the first."""
    first = next(filter(is_on_device, arrays.values()), None)
    if first is None or devices[0].kind == "cpu":
        return devices[0]
    ordinal = ordinal_of(first, devices[0])
    return next((place for place in devices if place.ordinal == ordinal), devices[0])


def names_of(devices: Sequence[Device]) -> str | list[str]:
    """Return the name of a device, or those of several: what callers pass to choose them."""
    names = [str(place) for place in devices]
    return names[0] if len(names) == 1 else names


def shares(rows: int, room: Sequence[int]) -> list[range]:
    """Divide rows among devices by the room that they have, in bytes; evenly if there is none.

    A device without a share gets an empty range.
    """
    weights = list(room) if sum(room) > 0 else [1] * len(room)
    total, before, ranges = sum(weights), 0, []
    for weight in weights:
        first, last = rows * before // total, rows * (before + weight) // total
        ranges.append(range(first, last))
        before += weight
    return ranges
