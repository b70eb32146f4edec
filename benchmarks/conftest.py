"""Options, fixtures and the closing table of the benchmark suite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import machine
import report
from arena import Arena, Result
from cases import KINDS, LABELS, Case, cases
from data import SHAPES, unavailable


class Clock:
    """The time pytest-benchmark reads: it advances by what the workers measured."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


ARENA = Arena()
CLOCK = Clock()
BLAS_NOTE = pytest.StashKey[str]()
INFO: pytest.StashKey[dict[str, Any]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options, which ``run.py`` explains."""
    group = parser.getgroup("resmem benchmarks")
    group.addoption("--quick", action="store_true")
    group.addoption("--threads", default="")
    group.addoption("--shapes", default="")
    group.addoption("--rounds", type=int, default=0)


def pytest_configure(config: pytest.Config) -> None:
    """Describe the machine while it is still quiet."""
    config.stash[BLAS_NOTE] = machine.unset_blas_variables()
    config.stash[INFO] = machine.describe()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Generate a test per case and contender; the tests of a case follow one another."""
    kind = metafunc.function.__name__.removeprefix("test_")
    if kind not in KINDS:
        return
    option = metafunc.config.getoption
    quick = option("--quick")
    threads = tuple(map(int, option("--threads").split(","))) if option("--threads") else ()
    shapes = tuple(filter(None, option("--shapes").split(",")))
    found = cases(kind, threads or ((2,) if quick else (2, 1)), shapes, option("--rounds"), quick)
    on_clock = pytest.mark.benchmark(timer=CLOCK)
    pairs = [
        pytest.param(case, label, id=f"{case.label}-{label}", marks=on_clock)
        for case in found
        for label in LABELS[kind]
    ]
    metafunc.parametrize(("case", "label"), pairs)


@pytest.fixture
def replay(benchmark: Any, case: Case, label: str) -> Result:
    """Run the case if it is new, and hand a contender's rounds to pytest-benchmark."""
    result = ARENA.outcome(case).results[label]
    if result.absent.startswith("missing"):
        pytest.skip(result.absent)
    if result.absent:
        pytest.fail(result.absent)
    durations = iter(result.seconds)

    def advance() -> None:
        CLOCK.now += next(durations)

    benchmark.extra_info.update(
        case=str(case),
        label=label,
        exact=result.exact,
        recall=result.recall,
        error=result.error,
        extra_bytes=result.extra_bytes,
        peak=vars(ARENA.outcome(case).peak),
        others=ARENA.outcome(case).others,
    )
    benchmark.pedantic(advance, rounds=len(result.seconds))
    return result


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Put our description beside pytest-benchmark's own."""
    info = config.stash[INFO]
    machine_info.update(info, absent=ARENA.absent)


@pytest.fixture(scope="session", autouse=True)
def workers() -> Iterator[None]:
    """End the workers with the session."""
    yield
    ARENA.close()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the tables."""
    lines = report.header(config.stash[INFO], config.stash[BLAS_NOTE], ARENA.pools, ARENA.absent)
    lines += [f"shape {s.name} left out: {why}" for s in SHAPES.values() if (why := unavailable(s))]
    terminalreporter.write_line("\n".join(["", *lines, *report.tables(ARENA.outcomes)]))
