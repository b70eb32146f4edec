"""Hypothesis profiles, and a report of the ISAS that ran and of the errors that were reached."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

from resmem import _core
from tested_device import DEVICE, EMULATED, TestedDevice

hypothesis.settings.register_profile("default", deadline=None, derandomize=True, max_examples=400)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=5000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

ALL_ISAS = ("scalar", "avx2", "avx512", "avx512vnni", "neon", "neon_dotprod")


@pytest.fixture(scope="session")
def tested() -> TestedDevice:
    """The device that is searched."""
    return TestedDevice()


@pytest.fixture(scope="session")
def emulated() -> Any:
    """What the emulation alone has: single kernels, faults, a count of memory."""
    if DEVICE != EMULATED:
        pytest.skip(f"needs the emulation, and RESMEM_TEST_DEVICE is {DEVICE}")
    return pytest.importorskip("resmem._cuda_emulated", reason="built without the emulation")


@pytest.fixture
def played(emulated: Any) -> Iterator[Any]:
    """Two devices, in which a test leaves nothing behind."""
    gc.collect()
    emulated.reset_devices()
    emulated.faults().devices = 2
    before = emulated.bytes_in_use(), emulated.pinned_in_use(), emulated.handles_in_use()
    yield emulated
    gc.collect()
    emulated.reset_devices()
    assert before == (emulated.bytes_in_use(), emulated.pinned_in_use(), emulated.handles_in_use())


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt, also where a shell started the tests with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    available = _core.available_isas()
    states = [
        f"{isa}: not executed"
        if isa not in available
        else f"{isa}: {'emulated' if available[isa] else 'native'}"
        for isa in ALL_ISAS
    ]
    terminalreporter.write_line("kernels  " + ", ".join(states))

    largest: dict[str, float] = {}
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "reach":
                case, reach = value
                largest[case] = max(reach, largest.get(case, 0.0))
    if largest:
        texts = [f"{case}: {reach:.4f}" for case, reach in largest.items()]
        terminalreporter.write_line("largest error, as a part of its bound  " + ", ".join(texts))
