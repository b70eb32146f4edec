"""Where the arrays of a search on a device lie, and how a call on them is timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import data
from data import AnyArray, Shape
from resmem._devices.arrays import read
from resmem._devices.device import Device

CACHE_BYTES = 2**28  # more than the level-2 cache of any device
ROUNDS, LEAST_ROUNDS = 20, 3


class InHostMemory:
    """Arrays of NumPy: every search brings its queries, and brings its results back."""

    note = "without PyTorch, times hold copies of queries and results"
    seconds_per_byte = 2e-8  # of rows: to make them, to bring them and to check what is found

    def clustered(self, shape: Shape) -> tuple[Any, Any]:
        """Return rows and queries."""
        return data.clustered(shape)

    def empty(self, shape: tuple[int, int], dtype: str) -> Any:
        """Return a new array."""
        return np.empty(shape, dtype)

    def readable(self, array: Any) -> Any:
        """Return what the extension reads or writes."""
        return array

    def on_host(self, array: Any) -> AnyArray:
        """Return a NumPy array."""
        return np.asarray(array)

    def wait(self) -> None:
        """Wait for the device; results that are in host memory have waited already."""

    def cool(self) -> None:
        """Empty the device's caches, of which nothing is known here."""


class OnDevice:
    """Tensors of PyTorch on the device, whose default stream is CUDA's."""

    note = "queries and results on the device"
    seconds_per_byte = 4e-9

    def __init__(self, torch: Any, device: Device | None, name: str) -> None:
        self.torch, self.name, self._device = torch, name, device
        self._spoiler = torch.empty(CACHE_BYTES, dtype=torch.uint8, device=name)

    def clustered(self, shape: Shape) -> tuple[Any, Any]:
        """Draw rows and held-out queries as ``data.clustered`` does, with PyTorch's numbers."""
        torch, total = self.torch, shape.rows + shape.queries
        source = torch.Generator(self.name).manual_seed(shape.seed)
        options = {"generator": source, "device": self.name}
        scale = torch.arange(1, shape.dim + 1, device=self.name) ** (-shape.decay / 2)
        rotation = torch.linalg.qr(torch.randn(shape.dim, shape.dim, **options))[0]
        clusters = shape.clusters or round(shape.rows**0.5)
        centres = torch.randn(clusters, shape.dim, **options)
        out = torch.empty(total, shape.dim, device=self.name)
        for start in range(0, total, data.BLOCK):
            part = out[start : start + data.BLOCK]
            near = centres[torch.randint(clusters, (len(part),), **options)]
            noise = data.NOISE * torch.randn(len(part), shape.dim, **options)
            torch.matmul((near + noise) * scale, rotation, out=part)
        return out[: shape.rows], out[shape.rows :]

    def empty(self, shape: tuple[int, int], dtype: str) -> Any:
        """Return a new tensor."""
        return self.torch.empty(shape, dtype=getattr(self.torch, dtype), device=self.name)

    def readable(self, array: Any) -> Any:
        """Return what the extension reads or writes."""
        assert self._device is not None
        return read(array, "array", self._device, 0, ("float32", "float64", "int64"))

    def on_host(self, array: Any) -> AnyArray:
        """Return a NumPy array."""
        host: AnyArray = array.cpu().numpy()
        return host

    def wait(self) -> None:
        """Wait for the device."""
        self.torch.cuda.synchronize()

    def cool(self) -> None:
        """Overwrite what the device's caches hold."""
        self._spoiler.zero_()


Place = InHostMemory | OnDevice


def place_for(device: Device) -> Place:
    """Return where arrays for this device lie: on it, if PyTorch is there and knows it."""
    try:
        import torch
    except ImportError:
        return InHostMemory()
    if device.kind == "emulated" or not torch.cuda.is_available():
        return InHostMemory()
    torch.cuda.set_device(device.ordinal)
    return OnDevice(torch, device, str(device))


def seconds_of(
    calls: Mapping[str, Callable[[], Any]], place: Place, budget: float
) -> dict[str, list[float]]:
    """Time calls in rounds A B C, A B C: each from an idle device with cold caches to its results.

    There are up to 20 rounds, of which the fourth and later ones only begin within ``budget``
    seconds.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + budget
    for count in range(ROUNDS):
        if count >= LEAST_ROUNDS and time.perf_counter() > end:
            break
        for name, call in calls.items():
            place.cool()
            place.wait()
            start = time.perf_counter()
            call()
            place.wait()
            taken[name].append(time.perf_counter() - start)
    return taken
