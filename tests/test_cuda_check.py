"""What is run on a machine with a device works in the emulation: `cuda/check.sh` and its parts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import device_check
import resmem

ROOT = Path(__file__).parents[1]
SCRIPT, TIMINGS = ROOT / "cuda" / "check.sh", ROOT / "benchmarks" / "bench_cuda.py"
SLABS = ROOT / "benchmarks" / "device_slabs.py"
LOOP = ROOT / "benchmarks" / "device_loop.py"
pytestmark = pytest.mark.skipif(
    not (SCRIPT.is_file() and TIMINGS.is_file()), reason="the programs are not beside the tests"
)


@pytest.fixture
def few_trials(emulated, monkeypatch):
    """Let `device_check` make every seventh of its quick searches and corrections."""
    for name in ("trials", "corrections"):
        real = getattr(device_check, name)
        few = partial(lambda real, quick: islice(real(True), 0, None, 7), real)
        monkeypatch.setattr(device_check, name, few)
    monkeypatch.setattr(sys, "argv", ["device_check.py", "--device", "cuda:emulated", "--quick"])


def test_device_check_finds_the_bits_of_the_cpu(few_trials, capsys):
    assert device_check.main() == 0
    assert capsys.readouterr().out == (
        "9 searches on cuda:emulated, 0 differ from the CPU\n"
        "3 corrections on cuda:emulated, 0 differ from the CPU\n"
    )


def test_device_check_names_the_searches_that_differ(few_trials, monkeypatch, capsys):
    def found_by_core(trial):
        values, ids, *rest = real(trial)
        return np.nextafter(values, np.inf) if trial.metric == "cosine" else values, ids, *rest

    real = device_check.found_by_core
    monkeypatch.setattr(device_check, "found_by_core", found_by_core)
    assert device_check.main() == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("differs from the CPU: ")
    assert all("cosine" in line for line in printed[:-2])
    wrong = len(printed) - 2
    assert printed[-2] == f"9 searches on cuda:emulated, {wrong} differ from the CPU"
    assert printed[-1] == "3 corrections on cuda:emulated, 0 differ from the CPU"


def test_device_check_names_the_corrections_that_differ(few_trials, monkeypatch, capsys):
    real = device_check._core.softmax
    monkeypatch.setattr(
        device_check._core, "softmax", lambda *given: np.nextafter(real(*given), np.inf)
    )
    assert device_check.main() == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[1] == "differs from the CPU: float32, clip, 10 columns"
    assert printed[-1] == "3 corrections on cuda:emulated, 3 differ from the CPU"


def test_timings_run_in_the_emulation_on_a_tiny_shape(emulated, tmp_path):
    found = tmp_path / "timings.json"
    done = subprocess.run(
        [sys.executable, TIMINGS, "--device", "cuda:emulated", "--tiny", "--json", found],
        env={**os.environ, "PYTHONPATH": str(Path(resmem.__file__).parents[1])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "nothing was timed on a device" in done.stdout
    assert done.stdout.endswith("checked queries that differ from the CPU: 0\n")
    report = json.loads(found.read_text(encoding="utf-8"))
    assert not report["timed_on_a_device"]
    corrected = report["outcomes"][0]["corrected"]
    assert corrected["wrong"] == 0
    assert set(corrected["taken"]) == {"search", "correct"}
    filtered, streamed = (outcome["counted"] for outcome in report["outcomes"])
    assert filtered["pairs_filtered"] == 20 * 1200
    assert streamed["pairs_streamed"] == 1200


def test_a_trace_names_what_waits_within_the_loop(monkeypatch):
    monkeypatch.syspath_prepend(str(LOOP.parent))
    waits_within = import_module("device_loop").waits_within

    def event(name, start, end):
        return SimpleNamespace(name=name, time_range=SimpleNamespace(start=start, end=end))

    events = [
        event("cudaStreamSynchronize", 1, 2), event("loop", 10, 20),
        event("cudaMemcpyAsync", 11, 12), event("cudaMallocAsync", 12, 13),
        event("cudaStreamWaitEvent", 13, 14), event("cudaStreamSynchronize", 14, 15),
        event("cudaFree", 15, 16),
        event("cudaDeviceSynchronize", 21, 22),
    ]  # fmt: skip
    assert waits_within(events, "loop") == ["cudaStreamSynchronize", "cudaFree"]


def test_rows_in_slabs_are_timed_in_the_emulation(emulated):
    done = subprocess.run(
        [sys.executable, SLABS, "--device", "cuda:emulated", "--tiny"],
        env={**os.environ, "PYTHONPATH": str(Path(resmem.__file__).parents[1])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1,500 x 16, 20 queries, k = 10: ")
    assert done.stdout.endswith("checked queries that differ from the CPU: 0\n")


def test_check_script_asks_for_its_folder():
    done = subprocess.run(["bash", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "usage: bash cuda/check.sh FOLDER\n"
