"""Every block of code on every page, run as a reader would: one after another, and each alone.

Blocks of Python run in a process each. Those of the shell run in one shell, in which a virtual
environment is as good as the page makes it: without it neither `resmem` nor `pip` is to be had.
What takes long or changes the machine is recognised by the program's name and done cheaply:

- `pip install` and `apt-get install` install nothing; files and extras named must be there;
- `python FILE.py` asks for `--help`, which must tell of every option given; where the program needs
  what is not installed, that it compiles is all;
- `pytest` runs no tests;
- `resmem demo` runs its quick version.

A block of Python that imports an `OPTIONAL` library, where that is not installed, is only compiled.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import resmem

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(
    not (ROOT / "README.md").is_file(), reason="the pages are not beside the tests"
)
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith((".", "build")) for part in path.relative_to(ROOT).parts)
)
# Programs that stand for those of the same name. ROOT, PYTHON and SITE are set by the test.
PROGRAMS = {
    "python3": """
case "$1" in
-m) if [ "$2" = venv ]; then
        mkdir -p "$3/bin"
        here=$(cd "$3" && pwd)
        printf 'VIRTUAL_ENV=%s\\nexport VIRTUAL_ENV\\nPATH=$VIRTUAL_ENV/bin:$PATH\\n' "$here" \\
            > "$3/bin/activate"
        cp "$STUBS/pip" "$3/bin/pip"
        exit 0
    fi ;;
*.py) exec "$PYTHON" "$CHECK" "$ROOT" "$@" ;;
esac
PYTHONPATH=$SITE exec "$PYTHON" "$@"
""",
    "pip": """
[ "$1" = install ] && [ -n "$VIRTUAL_ENV" ] || { echo "pip: no environment: $*" >&2; exit 1; }
"$PYTHON" "$CHECK" "$ROOT" "$@" || exit 1
for program in python python3 resmem pytest; do cp "$STUBS/$program" "$VIRTUAL_ENV/bin"; done
""",
    "resmem": """
if [ "$1" = demo ]; then set -- "$@" --quick --no-picture; fi
PYTHONPATH=$SITE exec "$PYTHON" -m resmem "$@"
""",
    "pytest": "exit 0\n",
    "apt-get": "exit 0\n",
}
PROGRAMS["python"] = PROGRAMS["python3"]
OPTIONAL = {"datasets", "torch", "transformers"}
CHECK = '''
"""Whether what `pip install` or `python FILE.py` is given is there."""
import ast, os, re, subprocess, sys

root, first, *rest = sys.argv[1:]
if first == "install":
    for name in rest:
        extras = re.fullmatch(r"\\.\\[(.+)\\]", name)
        text = open(os.path.join(root, "pyproject.toml")).read()
        if extras:
            assert all(re.search(rf"^{each} = ", text, re.M) for each in extras[1].split(","))
    for name in rest[rest.index("-r") + 1 :][:1] if "-r" in rest else []:
        assert os.path.isfile(os.path.join(root, name)), name
    sys.exit()
path = os.path.join(root, first)
ast.parse(open(path).read())
done = subprocess.run(
    [sys.executable, path, "--help"], capture_output=True, text=True, cwd=root,
    env={**os.environ, "PYTHONPATH": os.environ["SITE"]}, stdin=subprocess.DEVNULL,
)
if "ModuleNotFoundError" in done.stderr:
    sys.exit()
assert done.returncode == 0, done.stderr
for option in (word for word in rest if word.startswith("--")):
    assert option in done.stdout, f"{first} has no {option}"
'''


def blocks(page):
    """Language and text of each block."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    assert {language for language, _ in found} <= {"python", "sh"}
    return found


@pytest.fixture
def shell(tmp_path):
    """Runs lines of the shell in an empty folder that stands for a clone; what is printed."""
    stubs, folder = tmp_path / "stubs", tmp_path / "clone"
    stubs.mkdir()
    folder.mkdir()
    (tmp_path / "check.py").write_text(CHECK, encoding="utf-8")
    for name, text in PROGRAMS.items():
        (stubs / name).write_text("#!/bin/sh\n" + text, encoding="utf-8")
        (stubs / name).chmod(0o755)
    start = tmp_path / "bin"  # what a machine has before anything is installed
    start.mkdir()
    for name in ("python3", "apt-get", "pip"):
        shutil.copy(stubs / name, start / name)
    environment = {name: os.environ[name] for name in os.environ if name != "VIRTUAL_ENV"}
    environment |= {
        "PATH": f"{start}:/usr/bin:/bin",
        "STUBS": str(stubs),
        "CHECK": str(tmp_path / "check.py"),
        "ROOT": str(ROOT),
        "PYTHON": sys.executable,
        "SITE": str(Path(resmem.__file__).parent.parent),
    }

    def run(lines):
        done = subprocess.run(
            ["sh", "-e", "-c", lines],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr + lines
        told = [line for line in done.stderr.splitlines() if "tuning takes" not in line]
        assert not [line for line in told if "ResmemWarning" in line or "resmem: warning" in line]
        return done.stdout

    return run


INSTALLED = "python3 -m venv .venv && . .venv/bin/activate && pip install ."


def lacks_a_library(text):
    """Whether a block of Python imports, first of all, what is optional and not installed."""
    named = re.findall(r"^(?:import|from) (\w+)", text, re.M)
    return any(name in OPTIONAL and importlib.util.find_spec(name) is None for name in named)


def as_lines(number, language, text):
    """A block as lines of the shell; Python's is kept in a file first."""
    if language == "sh":
        return text
    if lacks_a_library(text):
        compile(text, f"block{number}", "exec")
        return ":"
    file = f"block{number}.txt"
    return f"cat > {file} <<'END OF BLOCK'\n{text}END OF BLOCK\npython - < {file}\n"


WITH_CODE = [page for page in PAGES if blocks(page)]


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run_one_after_another(page, shell):
    lines = [as_lines(number, *block) for number, block in enumerate(blocks(page))]
    if page != ROOT / "README.md":  # which says how to install, before all others
        lines.insert(0, INSTALLED)
    shell("\n".join(lines))


ALONE = [(page, number) for page in WITH_CODE for number in range(len(blocks(page)))]


@pytest.mark.parametrize(
    ("page", "number"), ALONE, ids=[f"{page.relative_to(ROOT)}-{number}" for page, number in ALONE]
)
def test_every_block_runs_alone(page, number, shell):
    shell(f"{INSTALLED}\n{as_lines(number, *blocks(page)[number])}")


@pytest.mark.parametrize("absent", [False, True])
def test_a_block_runs_unless_its_library_is_absent(monkeypatch, absent):
    text = "import torch\nraise SystemExit(1)\n"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None if absent else "there")
    assert (as_lines(3, "python", text) == ":") is absent
    if absent:
        with pytest.raises(SyntaxError):
            as_lines(3, "python", "import torch\nif")


def test_pages_that_this_file_knows_are_there():
    names = {str(page.relative_to(ROOT)) for page in PAGES}
    assert {"README.md", "benchmarks/README.md", "benchmarks/SPEED.md", "tests/README.md"} <= names
    assert {"python/resmem/FORMAT.md", "cpp/CONTRACT.md", "tests/fuzz/README.md"} <= names
    assert {f"python/resmem/{name}.md" for name in ("GUIDE", "TUNING", "LIMITS")} <= names
    with_code = {str(page.relative_to(ROOT)): len(blocks(page)) for page in WITH_CODE}
    assert with_code["README.md"] == 2
    assert with_code["python/resmem/GUIDE.md"] == 13
    assert with_code["python/resmem/TUNING.md"] == 3


def test_what_a_page_forgets_is_found(shell):
    for wrong in (
        "resmem demo",  # nothing is installed
        "pip install .",
        f"{INSTALLED}\npip install '.[nothing]'",
        f"{INSTALLED}\npython benchmarks/nothing.py",
        f"{INSTALLED}\npython benchmarks/run.py --quickly",
        f"{INSTALLED}\nresmem fit m.resmem",
    ):
        with pytest.raises(AssertionError):
            shell(wrong)


def test_python_blocks_compile():
    for page in PAGES:
        for language, text in blocks(page):
            if language == "python":
                ast.parse(text)


# ---- links -----------------------------------------------------------------------------------


def links(page):
    """Targets of the links and pictures of a page that lie in this repository."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    found = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(page):
    """Names that links into a page may have after "#": those that GitHub gives its headings."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", prose, re.M)
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert there.is_relative_to(ROOT.resolve()), target
        assert not anchor or anchor in anchors(there), target


def test_links_of_the_first_page_reach_every_page():
    reached, waiting = set(), [(ROOT / "README.md").resolve()]
    while waiting:
        page = waiting.pop()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            paths = [target.partition("#")[0] for target in links(page)]
            waiting += [(page.parent / path).resolve() for path in paths]
    assert {page.resolve() for page in PAGES} <= reached


# ---- the first page --------------------------------------------------------------------------


def test_the_first_page_has_at_most_500_words():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 500


def table_cells(page):
    """Cells of the tables of a page, without headings."""
    lines = page.read_text(encoding="utf-8").splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    return {cell.strip() for row in rows for cell in row}


@pytest.mark.parametrize(
    ("source", "figure"),
    [("benchmarks/SPEED.md", r"[\d.]+ (?:s|x)"), ("python/resmem/TUNING.md", r".* %, [\d.]+")],
    ids=["speed", "gains"],
)
def test_figures_of_the_first_page_stand_in_their_source(source, figure):
    cells = {cell for cell in table_cells(ROOT / "README.md") if re.fullmatch(figure, cell)}
    assert len(cells) >= 7
    known = (ROOT / source).read_text(encoding="utf-8").replace(" | ", ", ")
    assert not {cell for cell in cells if cell not in known}


def test_the_example_of_the_first_page_gives_its_figures(shell):
    _, code = blocks(ROOT / "README.md")[1]
    printed = shell(f"{INSTALLED}\n{as_lines(1, 'python', code)}")
    assert "The memory helps" in printed
    stated = re.findall(r"^\|.*?\|([\d.]+) %, ([\d.]+)\|", (ROOT / "README.md").read_text(), re.M)
    evaluated = printed[printed.index("Evaluation") :]
    rows = re.findall(r"^(base, T=|kNN|ResMem).*?  +(0\.\d+) +(0\.\d+)", evaluated, re.M)
    assert len(stated) == len(rows) == 4
    for (accuracy, log_loss), (_, *scores) in zip(stated, rows, strict=True):
        assert float(scores[0]) == pytest.approx(float(accuracy) / 100, abs=0.005)
        assert float(scores[1]) == pytest.approx(float(log_loss), abs=0.005)
