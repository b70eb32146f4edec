"""The package is installed, imported, declared and documented as it says; names of the tests."""

from __future__ import annotations

import ast
import doctest
import importlib.metadata
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import resmem
from resmem import _core, _memory, _search

PACKAGE = Path(resmem.__file__).parent
TESTS = Path(__file__).parent
GUIDE, TUNING = (TESTS.parent / "python" / "resmem" / f"{name}.md" for name in ("GUIDE", "TUNING"))
STUB = PACKAGE / "_core.pyi"

Signature = tuple[list[str], dict[str, object]]  # argument names; defaults


def signature(function: ast.FunctionDef) -> Signature:
    arguments = function.args
    assert arguments.vararg is None
    assert arguments.kwarg is None
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    defaults = dict(
        zip(reversed(names), map(ast.literal_eval, reversed(arguments.defaults)), strict=False)
    )
    return names, {n: list(v) if isinstance(v, tuple) else v for n, v in defaults.items()}


def declared() -> dict[str, Signature]:
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    return {node.name: signature(node) for node in tree.body if isinstance(node, ast.FunctionDef)}


def classes() -> dict[str, set[str]]:
    """Return the members of the stub's classes and their bases, except of typed dictionaries."""
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    members: dict[str, set[str]] = {}
    for node in (n for n in tree.body if isinstance(n, ast.ClassDef)):
        bases = [ast.unparse(base) for base in node.bases]
        if bases == ["TypedDict"]:
            continue
        own = {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
        members[node.name] = own.union(*(members[base] for base in bases))
    return members


def compiled(name: str) -> Signature:
    """Return the signature of a function of the extension, from its docstring's first line."""
    line = getattr(_core, name).__doc__.splitlines()[0]
    (function,) = ast.parse(f"def {line}: ...").body
    assert isinstance(function, ast.FunctionDef)
    assert function.name == name
    return signature(function)


# ---- types ---------------------------------------------------------------------------------


def test_the_package_is_marked_as_typed():
    assert (PACKAGE / "py.typed").is_file()
    assert STUB.is_file()


def test_the_stub_names_what_the_extension_has():
    public = {name for name in dir(_core) if not name.startswith("__")}
    assert set(declared()) | set(classes()) == public
    for name, members in classes().items():
        there = dir(getattr(_core, name))
        assert members <= set(there)
        assert {member for member in there if not member.startswith("_")} <= members
    assert isinstance(_core.__version__, str)


@pytest.mark.parametrize("name", sorted(declared()))
def test_stub_has_the_arguments_and_defaults_of_the_extension(name):
    assert declared()[name] == compiled(name)


def test_the_stub_names_the_statistics_of_a_search():
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    (stats,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "SearchStats"]
    fields = {
        node.target.id: ast.unparse(node.annotation)
        for node in stats.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    rows = np.ones((3, 2), np.float32)
    found = _core.search(rows, 1.0, [_core.Segment(rows, None, 0, None, 1.0)], 1, "euclidean")[3]
    assert {name: type(value).__name__ for name, value in found.items()} == fields


# ---- names and versions --------------------------------------------------------------------


def test_everything_public_is_there_and_documented():
    assert len(set(resmem.__all__)) == len(resmem.__all__)
    for name in resmem.__all__:
        thing = getattr(resmem, name)
        assert isinstance(thing, str) or thing.__doc__, name
    everything: dict[str, object] = {}
    exec("from resmem import *", everything)
    assert set(resmem.__all__) <= set(everything)


def test_public_methods_are_documented():
    for name, member in vars(resmem.Memory).items():
        if not name.startswith("_"):
            assert member.__doc__, name


def test_the_version_is_that_of_the_distribution():
    try:
        version = importlib.metadata.version("residual-memory")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("resmem is on the path without being installed as a distribution")
    assert resmem.__version__ == version


def test_show_versions_prints_kernels_and_threads(capsys):
    resmem.show_versions()
    printed = dict(
        (part.strip() for part in line.split(":", 1))
        for line in capsys.readouterr().out.splitlines()
    )
    assert printed["resmem"] == resmem.__version__
    assert printed["numpy"] == np.__version__
    assert printed["python"] == sys.version.split()[0]
    assert printed["kernels"] == _core.selected_isa()
    assert printed["threads"] == str(_core.default_threads())
    for isa, emulated in _core.available_isas().items():
        assert (f"{isa} (emulated)" if emulated else isa) in printed["available"].split(", ")


# ---- imports -------------------------------------------------------------------------------


def test_importing_resmem_imports_nothing_optional():
    script = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import resmem\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    imported = set(done.stdout.split())
    assert {"resmem", "numpy"} <= imported
    optional = {
        "matplotlib", "torch", "scipy", "sklearn", "tqdm", "isal", "pandas", "PIL", "jax",
        "transformers", "datasets", "joblib",
    }  # fmt: skip
    assert not imported & (optional | {"multiprocessing", "unittest", "pytest", "hypothesis"})


def test_the_oracle_imports_numpy_alone():
    tree = ast.parse((TESTS / "oracle.py").read_text(encoding="utf-8"))
    roots: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            roots.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Name):
            assert node.id not in {"__import__", "exec", "eval"}
    assert "numpy" in roots
    assert roots <= {"numpy"} | set(sys.stdlib_module_names) - {"importlib"}


# ---- examples ------------------------------------------------------------------------------


@pytest.mark.skipif(not TUNING.is_file(), reason="the page is not beside the tests")
def test_code_of_the_tuning_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = TUNING.read_text(encoding="utf-8")
    code = "".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "tune: ")
        exec(compile(code, str(TUNING), "exec"), {"__name__": "tuning"})
    assert "The memory helps" in capsys.readouterr().out
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.skipif(not GUIDE.is_file(), reason="the page is not beside the tests")
def test_shell_session_of_the_guide_runs(tmp_path):
    text = GUIDE.read_text(encoding="utf-8")
    (session,) = [b for b in re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S) if "npy" in b]
    for name, arguments in (("resmem", "-m resmem"), ("python3", "")):
        program = tmp_path / name
        text = f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n'
        program.write_text(text, encoding="utf-8")
        program.chmod(0o755)
    done = subprocess.run(
        ["sh", "-e", "-c", session],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    labels = [int(line) for line in printed[1:6]]
    truth = np.load(tmp_path / "new_classes.npy")
    assert labels == list(truth)  # the base model's logits alone do not give them
    assert list(np.load(tmp_path / "new_logits.npy").argmax(axis=1)) != labels
    chances = np.load(tmp_path / "probabilities.npy")
    assert list(chances.argmax(axis=1)) == labels
    assert "2000" in done.stdout
    assert any(": ok, " in line for line in printed)
    assert "The memory helps" in done.stdout
    assert (tmp_path / "report.html").is_file()


# ---- names of the tests --------------------------------------------------------------------

LONGEST_NAME = 60  # letters of a test's name


def names_of_tests(path: Path) -> list[str]:
    """Return the names of all tests of a file, in its order."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return [function.name for function in functions if function.name.startswith("test")]


@pytest.mark.parametrize("path", sorted(TESTS.glob("test_*.py")), ids=lambda path: path.stem)
def test_names_of_tests_are_short_and_unique_in_their_file(path):
    names = names_of_tests(path)
    assert [name for name in names if len(name) > LONGEST_NAME] == []
    assert sorted(names) == sorted(set(names))


# ---- examples of docstrings ----------------------------------------------------------------


@pytest.mark.parametrize("module", [resmem, _memory, _search], ids=lambda m: m.__name__)
def test_examples_of_docstrings_give_what_they_say(module):
    assert doctest.testmod(module).failed == 0
