"""Runs the benchmarks and prints one table per case: ``python benchmarks/run.py --quick``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cases import KINDS
from data import SHAPES

HERE = Path(__file__).resolve().parent
FILES = {kind: "bench_search.py" for kind in ("search", "sweep", "single")}


def subset(names: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Return an argument type: some of ``names``, separated by commas."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := sorted(set(chosen) - set(names)):
            raise argparse.ArgumentTypeError(f"unknown: {unknown}; choose from {', '.join(names)}")
        return chosen

    return parse


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few queries and rounds: two minutes")
    parser.add_argument("--threads", default="", help="e.g. 2 or 2,1 (default; 2 with --quick)")
    parser.add_argument("--only", type=subset(KINDS), default=list(KINDS), help="kinds, by commas")
    parser.add_argument("--shapes", type=subset(tuple(SHAPES)), default=[], help="e.g. A,B")
    parser.add_argument("--rounds", type=int, default=0, help="default 5, 3 with --quick")
    parser.add_argument("--json", type=Path, help="where to write pytest-benchmark's JSON")
    return parser.parse_args()


def main() -> int:
    """Translate the command line for pytest, which does the rest (see conftest.py)."""
    chosen = arguments()
    tests = [f"{HERE / FILES.get(kind, f'bench_{kind}.py')}::test_{kind}" for kind in chosen.only]
    options = [f"--threads={chosen.threads}", f"--shapes={','.join(chosen.shapes)}"]
    options += [f"--rounds={chosen.rounds}", "--quick"][: 1 + chosen.quick]
    if chosen.json:
        options.append(f"--benchmark-json={chosen.json.resolve()}")
    os.environ.pop("PYTEST_ADDOPTS", None)
    return pytest.main(["-c", str(HERE / "pytest.ini"), "--rootdir", str(HERE), *options, *tests])


if __name__ == "__main__":
    sys.exit(main())
