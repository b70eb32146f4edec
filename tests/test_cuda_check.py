"""What is run on a machine with a device works in the emulation: `cuda/check.sh` and its parts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import device_check
import resmem

ROOT = Path(__file__).parents[1]
SCRIPT, TIMINGS = ROOT / "cuda" / "check.sh", ROOT / "benchmarks" / "bench_cuda.py"
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
        "7 searches on cuda:emulated, 0 differ from the CPU\n"
        "3 corrections on cuda:emulated, 0 differ from the CPU\n"
    )


def test_device_check_names_the_searches_that_differ(few_trials, monkeypatch, capsys):
    def core_search(*arguments):
        values, ids, *rest = real(*arguments)
        return np.nextafter(values, np.inf) if arguments[3] == "cosine" else values, ids, *rest

    real = device_check.core_search
    monkeypatch.setattr(device_check, "core_search", core_search)
    assert device_check.main() == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("differs from the CPU: ")
    assert all("cosine" in line for line in printed[:-2])
    wrong = len(printed) - 2
    assert printed[-2] == f"7 searches on cuda:emulated, {wrong} differ from the CPU"
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
    filtered, streamed = (outcome["counted"] for outcome in report["outcomes"])
    assert filtered["pairs_filtered"] == 20 * 1200
    assert streamed["pairs_streamed"] == 1200


def test_check_script_asks_for_its_folder():
    done = subprocess.run(["bash", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "usage: bash cuda/check.sh FOLDER\n"
