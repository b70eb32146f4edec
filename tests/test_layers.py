"""A room imports only rooms below it: Python's imports and the core's includes.

`FLOORS` and `CORE` are the pictures in `python/resmem/README.md` and `cpp/README.md`, from the
ground up. Rooms of one floor do not know each other. Of the package, `PLATFORM` alone knows an
operating system; for the core, `.ci/platforms` proves the same of `cpp/base/platform.cpp`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import resmem

PACKAGE = Path(resmem.__file__).parent
ROOT = Path(__file__).parent.parent

FLOORS = (
    {"_base"},
    {"_devices", "_indexes", "_keys", "_scores"},
    {"_rows"},
    {"_correction", "_files"},
    {"_state"},
    {"_evaluation", "_tuning"},
    {"faces", "report"},
    {"adapters", "demo"},
    {"_cli"},
)
CORE = (
    {"kernels"}, {"base"}, {"rows"}, {"flat"}, {"residuals"}, {"index"}, {"engine"},
    {"cuda"}, {"bindings", "check"},
)  # fmt: skip
# Files of the package's own folder.
FACES = {"__init__", "_aggregate", "_index", "_memory", "_search"}
LIBRARIES = {"sklearn", "torch", "transformers"}  # what users import of the adapters
FILES = {
    **dict.fromkeys(FACES, "faces"),
    **dict.fromkeys(LIBRARIES, "adapters"),
    "plot": "report",
    "__main__": "_cli",
}
# The extension lies below every room. `from resmem import _core` would go through the package's
# face, which lies above: `import resmem._core as _core` does not.
EXTENSION = "_core"

# This module alone knows an operating system. No other one uses modules that some systems lack or
# fill with other names, asks which system it is, or names folders of one system; of `os` and
# `signal` the others use only what is listed here as the same on every system.
PLATFORM = "_base.platform"
SYSTEM_MODULES = {
    "_winapi", "ctypes", "errno", "fcntl", "grp", "mmap", "msvcrt", "nt", "posix", "pty", "pwd",
    "resource", "select", "syslog", "termios", "tty", "winreg",
}  # fmt: skip
SYSTEM_NAMES = {"sys.platform", "sys.getwindowsversion", "platform.system", "platform.uname"}
SAME_EVERYWHERE = {
    "os": {
        "PathLike", "close", "devnull", "dup2", "environ", "fdopen", "fsdecode", "fspath", "fstat",
        "ftruncate", "lstat", "path", "scandir", "sep", "stat", "unlink", "urandom",
    },
    "signal": {"SIGINT", "SIGTERM", "raise_signal", "signal"},
}  # fmt: skip
SYSTEM_FOLDERS = ("/dev/", "/proc/", "/sys/")

Arrow = tuple[str, str]  # importer and imported: modules by dotted name, headers by path


def room_of(module: str) -> str:
    """Return the room of a module, given by its dotted name below ``resmem``."""
    first = module.split(".")[0]
    return FILES.get(first, "report" if first == "_report" else first)


def modules(package: Path) -> dict[str, Path]:
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        name = parts if len(parts) == 1 or parts[-1] != "__init__" else parts[:-1]
        found[".".join(name)] = path
    return found


def imports(package: Path) -> Iterator[Arrow]:
    """Yield every import of one module by another, within functions and for types included.

    The package's `__init__.py` only gathers the public names, so its own imports are left out.
    """
    known = modules(package)
    for name, path in known.items():
        if name == "__init__":
            continue
        inside = path.name == "__init__.py" and len(path.relative_to(package).parts) > 1
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            targets: list[str] = []
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                start = node.module or ""
                if node.level:
                    above = name.split(".") + ["__init__"] * inside
                    start = ".".join(["resmem", *above[: -node.level], *filter(None, [start])])
                targets = [f"{start}.{alias.name}" for alias in node.names]
            for target in targets:
                parts = target.split(".")
                if parts[0] != "resmem":
                    continue
                if parts[1:] == [EXTENSION] and isinstance(node, ast.ImportFrom):
                    parts.pop()
                while len(parts) > 1 and ".".join(parts[1:]) not in {*known, EXTENSION}:
                    parts.pop()  # a name within a module
                if parts[1:] != [EXTENSION]:
                    yield name, ".".join(parts[1:]) or "__init__"


def system_uses(package: Path) -> list[str]:
    """Return what modules other than `PLATFORM` use of one operating system."""
    found = []
    for name, path in modules(package).items():
        if name == PLATFORM:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            used: list[str] = []
            if isinstance(node, ast.Import):
                used = [f"{alias.name} as {alias.asname}" if alias.asname else alias.name
                        for alias in node.names]  # fmt: skip
            elif isinstance(node, ast.ImportFrom) and not node.level:
                used = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                used = [f"{node.value.id}.{node.attr}"]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                used = [node.value] * node.value.startswith(SYSTEM_FOLDERS)
            found += [f"{name} uses {text}" for text in used if of_one_system(text)]
    return found


def of_one_system(used: str) -> bool:
    """Tell whether a module, an attribute of one or a path may exist on some systems only."""
    first, _, rest = used.partition(".")
    module, _, other_name = first.partition(" as ")
    if module in SAME_EVERYWHERE:  # under another name its attributes would not be recognised
        return bool(other_name) or (bool(rest) and rest not in SAME_EVERYWHERE[module])
    return module in SYSTEM_MODULES or used in SYSTEM_NAMES or used.startswith(SYSTEM_FOLDERS)


def includes(core: Path) -> Iterator[Arrow]:
    for path in sorted([*core.rglob("*.h"), *core.rglob("*.cpp")]):
        for target in re.findall(r'^#include "(.*)"', path.read_text(encoding="utf-8"), re.M):
            to = (path.parent / target).resolve()
            base = (
                core if to.is_relative_to(core.resolve()) else core.parent
            )  # the latter has cuda/
            yield str(path.relative_to(core)), str(to.relative_to(base.resolve()))


def upward(arrows: Iterator[Arrow], floors: tuple[set[str], ...], room: object) -> list[str]:
    """Return the arrows that neither lead to a lower floor nor stay in their room."""
    floor = {name: number for number, names in enumerate(floors) for name in names}
    assert callable(room)
    found = []
    for arrow in arrows:
        here, there = map(room, arrow)
        if here != there and floor[there] >= floor[here]:
            found.append(f"{arrow[0]} imports {arrow[1]}")
    return found


def circle(arrows: Iterator[Arrow]) -> list[str]:
    """Return the modules of a circle of imports, or an empty list."""
    to: dict[str, set[str]] = {}
    for here, there in arrows:
        to.setdefault(here, set()).add(there)
    free: set[str] = set()

    def walk(at: str, path: list[str]) -> list[str]:
        if at in path:
            return [*path[path.index(at) :], at]
        if at not in free:
            for next_one in sorted(to.get(at, ())):
                if found := walk(next_one, [*path, at]):
                    return found
            free.add(at)
        return []

    for start in sorted(to):
        if found := walk(start, []):
            return found
    return []


def private_imports(package: Path) -> list[str]:
    """Return the imports by which adapters reach for what users do not have."""
    extension = [
        f"{name} imports {EXTENSION}"
        for name, path in modules(package).items()
        if room_of(name) == "adapters" and f"resmem.{EXTENSION}" in path.read_text(encoding="utf-8")
    ]
    return extension + [
        f"{here} imports {there}"
        for here, there in imports(package)
        if room_of(here) == "adapters" and room_of(there) != "adapters" and there != "__init__"
    ]


def core_room(path: str) -> str:
    return path.split("/")[0]


# ---- the package ---------------------------------------------------------------------------------


def test_every_module_has_a_room():
    rooms = set().union(*FLOORS)
    assert {room_of(name) for name in modules(PACKAGE)} == rooms
    assert len(rooms) <= 20
    assert len(FLOORS) <= 9


def test_rooms_import_only_rooms_below():
    assert upward(imports(PACKAGE), FLOORS, room_of) == []


def test_no_modules_import_in_a_circle():
    assert circle(imports(PACKAGE)) == []


def test_adapters_import_public_names_alone():
    assert private_imports(PACKAGE) == []


def test_platform_module_alone_knows_an_operating_system():
    assert system_uses(PACKAGE) == []


# ---- the core ------------------------------------------------------------------------------------


def test_core_rooms_include_only_rooms_below():
    core = ROOT / "cpp"
    assert {core_room(path) for arrow in includes(core) for path in arrow} <= set().union(*CORE)
    assert upward(includes(core), CORE, core_room) == []


def test_no_headers_include_in_a_circle():
    assert circle(includes(ROOT / "cpp")) == []


# ---- the test itself -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "from resmem._state import state",
        "from resmem._state.view import MemoryView",
        "import resmem._state.state",
        "from resmem import Memory",
        "from resmem import _memory",
        "from resmem import _core",
        "import resmem",
        "def f():\n    from resmem._memory import Memory",
        "from .._state import state",
        "from ..plot import tuning_map",
    ],
)
def test_upward_import_is_found(tmp_path, line):
    for path in ("__init__.py", "_memory.py", "plot.py", "_state/state.py", "_rows/segment.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("from resmem._core import search\n", encoding="utf-8")
    (tmp_path / "_state/state.py").write_text("from resmem._rows import segment\n")
    assert upward(imports(tmp_path), FLOORS, room_of) == []
    (tmp_path / "_rows/segment.py").write_text(line + "\n", encoding="utf-8")
    (found,) = upward(imports(tmp_path), FLOORS, room_of)
    assert found.startswith("_rows.segment imports ")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("import resmem", False),
        ("from resmem import Memory", False),
        ("from resmem.adapters.torch import wrap", False),
        ("from resmem import _search", True),
        ("from resmem._state.view import MemoryView", True),
        ("import resmem._core as _core", True),
    ],
)
def test_private_import_of_an_adapter_is_found(tmp_path, line, found):
    for path in ("__init__.py", "_search.py", "_state/view.py", "adapters/torch/wrap.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / path).write_text("", encoding="utf-8")
    (tmp_path / "adapters/torch/wrap.py").write_text(line + "\n", encoding="utf-8")
    assert bool(private_imports(tmp_path)) is found


def test_a_circle_of_modules_is_found():
    assert circle(iter([("a", "b"), ("b", "c")])) == []
    assert circle(iter([("a", "b"), ("b", "c"), ("c", "b")])) == ["b", "c", "b"]


@pytest.mark.parametrize(
    ("line", "use"),
    [
        ("import fcntl", "fcntl"),
        ("import json, mmap", "mmap"),
        ("from resource import getrlimit", "resource.getrlimit"),
        ("def f():\n    import msvcrt", "msvcrt"),
        ("import os\nos.register_at_fork(after_in_child=print)", "os.register_at_fork"),
        ("import os\ncores = len(os.sched_getaffinity(0))", "os.sched_getaffinity"),
        ("import os\nos.fsync(os.open('folder', os.O_DIRECTORY))", "os.fsync"),
        ("from os import fsync", "os.fsync"),
        ("import os as system", "os as system"),
        ("import signal\nsignal.pause()", "signal.pause"),
        ("import sys\nif sys.platform == 'linux':\n    pass", "sys.platform"),
        ("open('/proc/cpuinfo')", "/proc/cpuinfo"),
        ("n = 3\nopen(f'/proc/self/fd/{n}')", "/proc/self/fd/"),
    ],
)
def test_use_of_one_operating_system_is_found(tmp_path, line, use):
    for path in ("_base/platform.py", "_files/atomic.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("import os\nimport signal\n", encoding="utf-8")
    (tmp_path / "_base/platform.py").write_text(line + "\n", encoding="utf-8")
    assert system_uses(tmp_path) == []
    (tmp_path / "_files/atomic.py").write_text(line + "\n", encoding="utf-8")
    assert f"_files.atomic uses {use}" in system_uses(tmp_path)


def test_upward_include_is_found(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "flat").mkdir()
    (tmp_path / "rows/row.h").write_text("#include <vector>\n", encoding="utf-8")
    (tmp_path / "flat/scan.h").write_text('#include "../rows/row.h"\n', encoding="utf-8")
    assert upward(includes(tmp_path), CORE, core_room) == []
    (tmp_path / "rows/row.h").write_text('#include "../flat/scan.h"\n', encoding="utf-8")
    assert upward(includes(tmp_path), CORE, core_room) == ["rows/row.h imports flat/scan.h"]
    assert circle(includes(tmp_path)) != []
