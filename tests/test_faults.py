"""Faults of the machine and of other programs: what `faults.py` counts, in small numbers."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import threading
import weakref
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import resmem
from resmem import _core
from resmem.__main__ import main as resmem_main


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


@contextmanager
def little_memory(margin):
    """No more address space than is in use, and a margin."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + margin, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def large():
    """A memory whose file is written and verified in several pieces."""
    rng = np.random.default_rng(0)
    keys, targets = rng.random((90_000, 64), dtype=np.float32), np.zeros(90_000, np.int64)
    return resmem.Memory(k=1, sigma=1.0).fit(keys, keys[:, :2], targets, copy=False)


def test_without_memory_for_a_thread_none_is_started(tmp_path, monkeypatch):
    """Python waits for ever for a thread that runs out of memory before it has begun."""
    memory, path = large(), tmp_path / "m"
    monkeypatch.setattr(_core, "default_threads", lambda: 2)
    monkeypatch.setattr(threading.Thread, "start", lambda _: pytest.fail("started"))
    with little_memory(4 << 20):
        memory.save(path)
    with little_memory((4 << 20) + path.stat().st_size):
        assert len(resmem.Memory.load(path)) == len(memory)
    with pytest.raises(pytest.fail.Exception):
        memory.save(path)


def test_where_no_thread_can_be_started_files_are_saved_and_verified(tmp_path, monkeypatch):
    def start(_):
        raise RuntimeError("can't start new thread")

    memory, path = large(), tmp_path / "m"
    monkeypatch.setattr(_core, "default_threads", lambda: 2)
    monkeypatch.setattr(threading.Thread, "start", start)
    memory.save(path)
    assert len(resmem.Memory.load(path)) == len(memory)
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"something else")
    with pytest.raises(resmem.FileFormatError, match="does not match its checksum"):
        resmem.Memory.load(path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_first_imports_is_not_lost(monkeypatch, number):
    """What a handler raises in one of importlib's callbacks is swallowed there."""

    class Key:
        pass

    class Finder:
        @staticmethod
        def find_spec(*_):
            key = Key()
            watch = weakref.ref(key, lambda _: os.kill(os.getpid(), number))
            del key
            assert watch() is None

    monkeypatch.delitem(sys.modules, "resmem._cli.commands", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    if number == signal.SIGINT:
        assert resmem_main(["version", "--quiet"]) == 130
    else:
        with pytest.raises(SystemExit) as caught:
            resmem_main(["version", "--quiet"])
        assert caught.value.code == 143
