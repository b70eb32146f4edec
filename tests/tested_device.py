"""The device that tests search: the emulation, or the one that `RESMEM_TEST_DEVICE` names."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from devices import Emulated
from resmem._devices.choice import choose

EMULATED = "cuda:emulated"
DEVICE = os.environ.get("RESMEM_TEST_DEVICE", EMULATED)
_FORCED = ("first_phase", "capacity", "queries", "listed", "slab_rows")
DTYPES = {"float32": "float32", "float16": "float16", "uint16": "bfloat16", "float64": "float64"}


class TestedDevice:
    """A device, and copies of arrays to and from its memory."""

    __test__ = False  # Its name is one that pytest would collect.

    def __init__(self) -> None:
        if DEVICE == EMULATED:
            pytest.importorskip("resmem._cuda_emulated", reason="built without the emulation")
        found = choose(DEVICE, {})
        self.name, self.extension, self.ordinal = str(found), found.extension, found.ordinal

    def shuffle(self, seed: int) -> None:
        """Choose the order of blocks and threads, which a real device chooses by itself."""
        if DEVICE == EMULATED:
            self.extension.set_seed(seed)

    def forget_failures(self) -> None:
        """Make an emulated device one of a new process, without faults."""
        if DEVICE == EMULATED:
            self.extension.reset_devices()

    def place(self, array: Any) -> Any:
        """Return a copy in the device's memory; skip the test if nothing here makes one."""
        given = np.ascontiguousarray(array)
        if DEVICE == EMULATED:
            return Emulated(self.extension, given, self.ordinal)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Its import warns of what others have deprecated.
            torch = pytest.importorskip("torch", reason=f"no PyTorch to place arrays on {DEVICE}")
        return torch.from_numpy(given).to(self.name)

    def fetch(self, array: Any) -> Any:
        """Return what an array on the device holds."""
        if hasattr(array, "cpu"):
            return array.cpu().numpy()
        interface = array.__cuda_array_interface__
        shape, dtype = interface["shape"], np.dtype(interface["typestr"])
        size = prod(shape) * dtype.itemsize
        raw = self.extension.copy_out(interface["data"][0], size, self.ordinal)
        return np.frombuffer(raw, dtype).reshape(shape)


def examples(count: int) -> settings:
    """Try so many examples: few, as the emulation is slow, but many more in a thorough run."""
    thorough = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
    return settings(max_examples=count * (20 if thorough else 1))


@dataclass
class Searched:
    """The device, and others that its module drives, as tests search them."""

    module: Any
    ordinal: int

    def rows(
        self, keys: Any, metric: str = "euclidean", ids: Any = None, first_id: int = 0,
        least_coded: int = 1, dtype: str | None = None, most_bytes: int | None = None,
        ordinal: int | None = None, **attributes: Any,
    ) -> Any:  # fmt: skip
        """Return rows that stay on a device, as many as ``most_bytes`` of it hold.

        ``attributes`` are their ``times`` and ``groups``.
        """
        made = self.module.Rows(
            self.ordinal if ordinal is None else ordinal, dtype or DTYPES[str(keys.dtype)],
            keys.shape[1], metric, None, least_coded,
        )  # fmt: skip
        made.extend(keys, ids, first_id, most_bytes)
        for name, values in attributes.items():
            if values is not None:
                made.bring(name, values)
        return made

    def search(
        self, queries: Any, /, segments: Any, k: int, metric: str = "euclidean", **options: Any
    ) -> tuple[Any, Any, Any, dict[str, int]]:
        """Return values, ids, positions and counters; segments are rows, or rows and a count."""
        counted = [s if isinstance(s, tuple) else (s, len(s)) for s in segments]
        starts = np.cumsum([0, *(n for _, n in counted)])
        placed = [(rows, n, start) for (rows, n), start in zip(counted, starts, strict=False)]
        forced = {name: options.pop(name) for name in _FORCED if name in options}
        shape = (len(queries), k)
        out = {name: np.empty(shape, np.int64) for name in ("ids", "positions")}
        values = np.empty(shape)
        stats = self.module.search(
            queries, placed, k, metric, options.pop("excluded", None), options.pop("version", 0),
            values=values, **out, device=options.pop("device", self.ordinal),
            forced=self.module.ForcedSearch(**forced), counted=True, **options,
        )  # fmt: skip
        return values, out["ids"], out["positions"], stats
