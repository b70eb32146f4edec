"""Every block of code on every page, run as a reader would: one after another, and each alone.

Blocks of Python run in a process each. Those of the shell run in one shell, in which a virtual
environment is as good as the page makes it: without it neither `resmem` nor `pip` is to be had.
What takes long or changes the machine is recognised by the program's name and done cheaply:

- `pip install` and `apt-get install` install nothing; files and extras named must be there;
- `python FILE.py` asks for `--help`, which must tell of every option given; where the program needs
  what is not installed, that it compiles is all;
- `pytest` runs no tests;
- `resmem demo` runs its quick version.
"""

from __future__ import annotations

import ast
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
        assert "ResmemWarning" not in done.stderr
        assert "resmem: warning" not in done.stderr
        return done.stdout

    return run


INSTALLED = "python3 -m venv .venv && . .venv/bin/activate && pip install ."


def as_lines(number, language, text):
    """A block as lines of the shell; Python's is kept in a file first."""
    if language == "sh":
        return text
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


def test_pages_that_this_file_knows_are_there():
    names = {str(page.relative_to(ROOT)) for page in PAGES}
    assert {"README.md", "benchmarks/README.md", "tests/README.md"} <= names
    assert {"python/resmem/FORMAT.md", "cpp/CONTRACT.md", "tests/fuzz/README.md"} <= names
    assert len(blocks(ROOT / "README.md")) == 6


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
