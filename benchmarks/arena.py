"""Runs a case for all contenders in rounds, A B C, A B C, ..., so that all share the same load."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

import jobs
import machine
import reference
from cases import LABELS, Case
from jobs import Timing
from worker import MissingError, Worker, WorkerError

SETTLE = 0.15  # seconds before each timing, until the threads of the last one stop spinning


@dataclass
class Result:
    """The figures of one contender in one case."""

    case: Case
    label: str
    timings: list[Timing] = field(default_factory=list)
    elapsed: float = 0.0  # seconds of all timings, untimed calls included
    others: float = 0.0  # processor seconds that anything else took meanwhile
    recall: float | None = None  # search: share of the true neighbours found
    exact: bool = False  # the bits of the oracle
    error: float = 0.0  # largest difference from the oracle
    extra_bytes: int = 0  # memory taken during the first call, answers not counted
    absent: str = ""  # "missing" or "failed", and why

    @property
    def seconds(self) -> list[float]:
        """Return the seconds of all rounds."""
        return [timing.seconds for timing in self.timings]

    @property
    def median(self) -> float:
        """Return the median of the rounds, in seconds."""
        return median(self.seconds)


@dataclass
class Outcome:
    """The results of all contenders in one case, and the peak of the machine then."""

    case: Case
    peak: machine.Peak
    others: float  # cores that were busy with anything else during the timings
    results: dict[str, Result]


class Arena:
    """Keeps the workers of the case at hand, and the outcomes of all cases so far."""

    def __init__(self) -> None:
        self.group = ("", 0)  # kind and thread count of the cases that share the workers
        self.workers: dict[str, Worker] = {}
        self.absent: dict[str, str] = {}  # libraries that dropped out, and why
        self.outcomes: list[Outcome] = []
        self.pools: dict[str, list[dict[str, Any]]] = {}

    def outcome(self, case: Case) -> Outcome:
        """Return the outcome of ``case``, which is run on the first request."""
        if not self.outcomes or self.outcomes[-1].case != case:
            self.outcomes.append(self.run(case))
        return self.outcomes[-1]

    def run(self, case: Case) -> Outcome:
        """Check everyone's answers, then time them in rounds."""
        if self.group != (case.group, case.threads):
            self.close()
            self.group = (case.group, case.threads)
        results = {label: Result(case, label) for label in LABELS[case.kind]}
        for result in results.values():
            self.attempt(result, check)
        peaks = []
        for _ in range(case.rounds):
            peaks.append(machine.probe(case.threads))
            for result in results.values():
                self.attempt(result, measure)
        elapsed = sum(result.elapsed for result in results.values())
        others = sum(result.others for result in results.values()) / max(elapsed, 1e-9)
        best = machine.Peak(max(p.gflops for p in peaks), max(p.gbytes for p in peaks))
        return Outcome(case, best, others, results)

    def attempt(self, result: Result, step: Callable[[Result, Worker], None]) -> None:
        """Take a step with a contender's worker; a contender that fails drops out."""
        name = jobs.library(result.case.group, result.label)
        try:
            if name not in self.absent:
                step(result, self.worker(name, result))
        except MissingError as error:
            self.absent[name] = f"missing: {error}"
        except WorkerError as error:
            self.absent[name] = f"failed: {error}"
        result.absent = self.absent.get(name, "")

    def worker(self, name: str, result: Result) -> Worker:
        """Return a worker with the shape loaded."""
        if name not in self.workers:
            self.workers[name] = Worker(result.case.group, result.label, result.case.threads)
        self.workers[name].load(result.case.shape)
        return self.workers[name]

    def close(self) -> None:
        """End all workers; note the libraries they used."""
        for name, worker in self.workers.items():
            with contextlib.suppress(BrokenPipeError, WorkerError):  # Ctrl-C ends workers too
                if name not in self.absent:
                    self.pools[name] = worker.call("pools")
                worker.close()
        self.workers = {}


def check(result: Result, worker: Worker) -> None:
    """Compare a first answer with the oracle's, on a sample of the queries."""
    case = result.case
    answer, result.extra_bytes = worker.call("check", result.label, case, reference.sample(case))
    if case.group == "search":
        distances, ids = reference.neighbours(case.shape, case.k, case.queries)
        result.recall = reference.recall(answer[1], ids)
        result.exact = np.array_equal(answer[1], ids) and np.array_equal(answer[0], distances)
    else:
        expected = reference.sums(case)
        result.error = float(np.abs(answer[0] - expected).max())
        result.exact = np.array_equal(answer[0], expected)


def measure(result: Result, worker: Worker) -> None:
    """Time a contender once, and note what else the processors did meanwhile."""
    time.sleep(SETTLE)
    start, before = time.perf_counter(), machine.busy_seconds()
    timing: Timing = worker.call("time", result.label, result.case)
    result.others += max(0.0, machine.busy_seconds() - before - timing.processor)
    result.elapsed += time.perf_counter() - start
    result.timings.append(timing)
