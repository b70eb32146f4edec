"""A room imports only rooms below it: Python's imports and the core's includes.

`FLOORS` and `CORE` are the pictures in `python/resmem/README.md` and `cpp/README.md`, from the
ground up. Rooms of one floor do not know each other.
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
    {"_indexes", "_keys", "_scores"},
    {"_rows"},
    {"_correction", "_files"},
    {"_state"},
    {"_evaluation", "_tuning"},
    {"faces", "report"},
    {"demo"},
    {"_cli"},
)
CORE = (
    {"kernels"}, {"base"}, {"rows"}, {"flat"}, {"residuals"}, {"index"}, {"engine"},
    {"bindings", "check"},
)  # fmt: skip
# Files of the package's own folder.
FACES = {"_aggregate", "_memory", "_search"}
FILES = {**dict.fromkeys(FACES, "faces"), "plot": "report", "__main__": "_cli", "__init__": "faces"}
# The extension lies below every room. `from resmem import _core` would go through the package's
# face, which lies above: `import resmem._core as _core` does not.
EXTENSION = "_core"

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


def includes(core: Path) -> Iterator[Arrow]:
    for path in sorted([*core.rglob("*.h"), *core.rglob("*.cpp")]):
        for target in re.findall(r'^#include "(.*)"', path.read_text(encoding="utf-8"), re.M):
            to = (path.parent / target).resolve().relative_to(core.resolve())
            yield str(path.relative_to(core)), str(to)


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


# ---- the core ------------------------------------------------------------------------------------


def test_core_rooms_include_only_rooms_below():
    core = ROOT / "cpp"
    assert {core_room(here) for here, _ in includes(core)} <= set().union(*CORE)
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


def test_a_circle_of_modules_is_found():
    assert circle(iter([("a", "b"), ("b", "c")])) == []
    assert circle(iter([("a", "b"), ("b", "c"), ("c", "b")])) == ["b", "c", "b"]


def test_upward_include_is_found(tmp_path):
    (tmp_path / "rows").mkdir()
    (tmp_path / "flat").mkdir()
    (tmp_path / "rows/row.h").write_text("#include <vector>\n", encoding="utf-8")
    (tmp_path / "flat/scan.h").write_text('#include "../rows/row.h"\n', encoding="utf-8")
    assert upward(includes(tmp_path), CORE, core_room) == []
    (tmp_path / "rows/row.h").write_text('#include "../flat/scan.h"\n', encoding="utf-8")
    assert upward(includes(tmp_path), CORE, core_room) == ["rows/row.h imports flat/scan.h"]
    assert circle(includes(tmp_path)) != []
