"""Hypothesis profiles, and a report of the ISAs that were really executed."""

from __future__ import annotations

import os

import hypothesis
import pytest

from resmem import _core

hypothesis.settings.register_profile("default", deadline=None, derandomize=True, max_examples=150)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1500)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

ALL_ISAS = ("scalar", "avx2", "avx512", "neon")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    available = _core.available_isas()
    states = [
        f"{isa}: not executed"
        if isa not in available
        else f"{isa}: {'emulated' if available[isa] else 'native'}"
        for isa in ALL_ISAS
    ]
    terminalreporter.write_line("kernels  " + ", ".join(states))
