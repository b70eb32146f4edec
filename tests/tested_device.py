"""The device that tests search: the emulation, or the one that `RESMEM_TEST_DEVICE` names."""

from __future__ import annotations

import os
import warnings
from math import prod
from typing import Any

import numpy as np
import pytest

from devices import Emulated
from resmem._devices.choice import choose

EMULATED = "cuda:emulated"
DEVICE = os.environ.get("RESMEM_TEST_DEVICE", EMULATED)


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
