"""Every file in ``examples/`` runs as it is, and says what it should."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import resmem

EXAMPLES = Path(__file__).parent.parent / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))
pytestmark = pytest.mark.skipif(not FILES, reason="the examples are not beside the tests")
# What the output of each must hold; other examples must only run.
SAID = {
    "digits_sklearn.py": "The memory helps",
    "forest_tabular.py": "The memory helps",
    "arrays_on_disk.py": "The memory helps",
    "day_by_day.py": "helps=True",
    "fashion_torch.py": "The memory helps",
    "language_model.py": "The memory helps",
}
ARGUMENTS = {"fashion_torch.py": ["1"]}  # epochs


def libraries(path):
    """Return the libraries that a file imports, and the one that ``resmem.sklearn`` imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        for name in names:
            first, *rest = name.split(".")
            found.add(rest[0] if first == "resmem" and rest else first)
    return found - {"resmem", "demo"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_example_runs(path, tmp_path):
    for library in sorted(libraries(path)):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{path.name} needs {library}")
    site = str(Path(resmem.__file__).parent.parent)
    done = subprocess.run(
        [
            sys.executable, "-W", "error", "-W", "ignore:tuning takes", "-W", "ignore:tune",
            str(path), *ARGUMENTS.get(path.name, []),
        ],
        cwd=tmp_path,
        # With more threads PyTorch waits in loops where others use the cores.
        env={**os.environ, "PYTHONPATH": site, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert SAID.get(path.name, "") in done.stdout


def test_examples_that_say_something_are_there():
    assert set(SAID) <= {path.name for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_example_has_at_most_60_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60


def test_libraries_of_an_example_are_known(tmp_path):
    path = tmp_path / "example.py"
    path.write_text("import numpy as np\nfrom resmem.torch import wrap\nimport resmem.sklearn\n")
    assert libraries(path) == {"numpy", "torch", "sklearn"}
