"""Faults of the machine and of other programs: what `faults.py` counts, in small numbers."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import contextmanager

import numpy as np
import pytest

import resmem


@contextmanager
def largest_file(size):
    """No file grows beyond `size`; Python ignores the signal, so that writing fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_an_export_that_lacks_its_last_bytes_is_an_error(tmp_path, suffix):
    """The system takes what fits of a write and says no error before the next one."""
    memory = resmem.Memory(k=1).fit(np.eye(3), np.eye(3), np.arange(3))
    path = tmp_path / f"m.{suffix}"
    memory.export(path)
    whole = path.read_bytes()
    for missing in (1, 20, 300):
        with (
            pytest.raises(OSError, match=str(path)) as caught,
            largest_file(len(whole) - missing),
        ):
            memory.export(path)
        assert caught.value.errno == errno.EFBIG
        assert path.read_bytes() == whole
        assert os.listdir(tmp_path) == [path.name]
