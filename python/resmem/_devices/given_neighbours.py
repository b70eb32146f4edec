"""Neighbours that another program has found, on a device."""

from __future__ import annotations

from typing import Any

from resmem._base import convert
from resmem._base.metric import Metric, is_euclidean
from resmem._devices.arrays import DeviceArray, is_on_device
from resmem._devices.engine import Call
from resmem._devices.places import copies_on_host


def lie_on_device(distances: Any, ids: Any) -> bool:
    """Tell whether neighbours lie on a device; ValueError if only one of the two arrays does."""
    given = {"distances": distances, "ids": ids}
    lying = [name for name, array in given.items() if is_on_device(array)]
    if len(lying) == 1:
        raise ValueError(
            f"distances and ids must lie in one place, got only {lying[0]} on a device; put the "
            f"other there, or pass {copies_on_host(given)}"
        )
    return len(lying) == 2


def read_neighbours(
    call: Call, distances: Any, ids: Any, metric: Metric, wanted: Metric
) -> tuple[DeviceArray, DeviceArray]:
    """Return distances and ids, (q, k) each, of neighbours on a device; values are not checked.

    ValueError if the distances, of ``metric``, would have to be made those of the ``wanted`` one.
    """
    if metric != wanted and is_euclidean(metric) and is_euclidean(wanted):
        made = "square roots" if wanted == "euclidean" else "squares"
        raise ValueError(
            f"distances on a device are used as they are, and must be of metric={wanted!r} here, "
            f"got metric={metric!r}; pass their {made} with metric={wanted!r}"
        )
    there = call.read(distances, "distances", ("float64",)), call.read(ids, "ids", ("int64",))
    for array, name in zip(there, ("distances", "ids"), strict=True):
        convert.check_dimensions(array.shape, name, "(q, k)")
    if there[0].shape != there[1].shape:
        raise ValueError(f"distances {there[0].shape} and ids {there[1].shape} must have one shape")
    return there
