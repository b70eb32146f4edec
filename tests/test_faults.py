"""Faults of the machine and of other programs: the cases of `faults.py`, with few runs each."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
import threading
import weakref

import numpy as np
import pytest

import faults
import resmem
import resmem._cli
from resmem import _core
from resmem.__main__ import main as resmem_main
from resmem._files import container as _container


def holds(name):
    """Run a case a few times and check that all outcomes are allowed."""
    case = faults.CASES[name]
    try:
        outcomes = case.outcomes(full=False)
    except faults.Skipped as why:
        pytest.skip(str(why))
    assert outcomes
    assert case.others(outcomes) == []


def cases(prefix):
    """Parametrize a test with the cases whose names begin with ``prefix``."""
    names = [name for name in faults.CASES if name.startswith(prefix)]
    assert names
    return pytest.mark.parametrize("name", names)


@cases("flips")
def test_a_changed_byte_is_found_or_harmless(name):
    holds(name)


@cases("truncations")
def test_a_file_cut_short_is_refused_everywhere(name):
    holds(name)


@cases("junk")
def test_junk_behind_the_end_is_ignored_and_dropped(name):
    holds(name)


@cases("kill")
def test_a_killed_process_leaves_the_old_state_or_the_new_one(name):
    holds(name)


@cases("full-disk")
def test_a_full_disk_is_an_error_and_harms_nothing(name):
    holds(name)


@cases("file-limit")
def test_a_limit_on_files_is_an_error_and_harms_nothing(name):
    holds(name)


@cases("path")
def test_paths_of_every_kind_are_used_or_refused_as_expected(name):
    holds(name)


@cases("saves-at-once")
def test_two_saves_at_once_leave_one_of_them_whole(name):
    holds(name)


@cases("appends-at-once")
def test_appends_at_once_are_all_kept(name):
    holds(name)


@cases("saves-beside-appends")
def test_saves_and_appends_at_once_come_one_after_the_other(name):
    holds(name)


@cases("memory")
def test_too_little_memory_is_a_memory_error_and_changes_nothing(name):
    holds(name)


@cases("signals")
def test_an_interrupted_command_leaves_nothing_behind(name):
    holds(name)


def test_every_case_of_faults_is_tested():
    marks = [mark for item in globals().values() for mark in getattr(item, "pytestmark", [])]
    names = [name for mark in marks if mark.args[0] == "name" for name in mark.args[1]]
    assert sorted(names) == sorted(faults.CASES)


def test_faults_program_counts_outcomes_that_are_not_allowed(monkeypatch, capsys):
    table = {}
    monkeypatch.setattr(faults, "CASES", table)
    outcomes = {"good": ["well", "well"], "bad": ["well", "ill"]}
    for name, ends in outcomes.items():
        faults.case(name, "well", "fair", few=2, many=9)(lambda _, count, ends=ends: ends[:count])
    assert faults.main(["good"]) == 0
    assert faults.main([]) == 1
    lines = [line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["good", "2", "ok", "well 2, fair 0, other 0"]
    assert lines[-1] == ["bad", "2", "FAULT", "well 1, fair 0, other 1, 'ill' 1"]


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_an_export_that_lacks_its_last_bytes_is_an_error(tmp_path, suffix):
    """The system writes the part that fits and reports an error only at the next write."""
    memory = resmem.Memory(k=1).fit(np.eye(3), 2 * np.eye(3), np.arange(3))
    path = tmp_path / f"m.{suffix}"
    memory.export(path)
    whole = path.read_bytes()
    for missing in (1, 20, 300):
        with (
            pytest.raises(OSError, match=str(path)) as caught,
            faults.largest_file(len(whole) - missing),
        ):
            memory.export(path)
        assert caught.value.errno == errno.EFBIG
        assert path.read_bytes() == whole
        assert os.listdir(tmp_path) == [path.name]


# ---- Faults that were found and mended -----------------------------------------------------


def large():
    """Return a memory whose file is written and verified in several pieces."""
    rng = np.random.default_rng(0)
    keys, targets = rng.random((90_000, 64), dtype=np.float32), np.zeros(90_000, np.int64)
    return resmem.Memory(k=1, sigma=1.0).fit(keys, keys[:, :2], targets, copy=False)


def test_without_memory_for_a_thread_none_is_started(tmp_path, monkeypatch):
    """Python waits for ever for a thread that runs out of memory before it has begun."""
    memory, path = large(), tmp_path / "m"
    monkeypatch.setattr(_core, "default_threads", lambda: 2)
    monkeypatch.setattr(threading.Thread, "start", lambda _: pytest.fail("started"))

    def work(margin, call):
        with faults.little_memory(margin):
            return len(call(path))

    for margin, call in ((4 << 20, memory.save), (40 << 20, resmem.Memory.load)):
        outcome = faults.in_child(lambda: work(margin, call))  # noqa: B023
        assert outcome == f"{len(memory)}"
    with pytest.raises(pytest.fail.Exception):
        memory.save(path)


def test_files_are_saved_and_verified_where_no_thread_starts(tmp_path, monkeypatch):
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


@pytest.mark.parametrize("error", [MemoryError, FileNotFoundError, resmem.FileFormatError])
def test_save_succeeds_if_its_file_cannot_be_mapped_afterwards(tmp_path, monkeypatch, error):
    """No error may be raised once the new file is in place."""

    def load(*_, **__):
        raise error

    path, memory = tmp_path / "m", faults.fitted(0, 50).remove([3, 4])
    with monkeypatch.context() as patched:
        patched.setattr(_container, "load", load)
        memory.save(path)
    assert faults.loaded(path) == faults.answers(memory)
    memory.add(*faults.rows(1, 5)).remove([7]).save(path, append=True)
    loaded = resmem.Memory.load(path)
    assert faults.answers(loaded) == faults.answers(memory)
    for each in (loaded, memory):
        with pytest.raises(ValueError, match="never have been used before"):
            each.add(*faults.rows(2, 1), ids=[4])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_first_imports_is_not_lost(monkeypatch, number):
    """An exception that a handler raises in a callback of importlib is swallowed there."""

    class Key:
        pass

    class Finder:
        @staticmethod
        def find_spec(*_):
            key = Key()
            watch = weakref.ref(key, lambda _: os.kill(os.getpid(), number))
            del key
            assert watch() is None

    # The module is imported anew here; afterwards the package has the former one again.
    monkeypatch.setattr(resmem._cli, "commands", importlib.import_module("resmem._cli.commands"))
    monkeypatch.delitem(sys.modules, "resmem._cli.commands")
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    if number == signal.SIGINT:
        before = signal.signal(number, signal.default_int_handler)  # a job in the background
        try:  # ignores it from the start
            assert resmem_main(["version", "--quiet"]) == 130
        finally:
            signal.signal(number, before)
    else:
        with pytest.raises(SystemExit) as caught:
            resmem_main(["version", "--quiet"])
        assert caught.value.code == 143
