"""The example of PyTorch runs, and says what its memory does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")

EXAMPLE = Path(__file__).parent.parent / "examples" / "fashion_torch.py"


@pytest.mark.skipif(not EXAMPLE.is_file(), reason="the examples are not beside the tests")
def test_example_of_pytorch_runs():
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 60
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "The memory helps" in done.stdout
    assert "ResMem as published" in done.stdout
    bare, corrected = done.stdout.splitlines()[-2:]
    assert bare.startswith("bare [")
    assert corrected.startswith("with memory [")
