"""The driver's end of a worker process; each holds one library, so no two thread pools meet."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import jobs
from data import Shape

SESSION = Path(__file__).with_name("session.py")
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "RESMEM_NUM_THREADS",
)


class MissingError(Exception):
    """The library of a contender cannot be imported."""


class WorkerError(Exception):
    """A worker failed; the traceback is on its standard error."""


class Worker:
    """Starts the process and calls into it."""

    def __init__(self, group: str, label: str, threads: int) -> None:
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads]))
        program = [sys.executable, str(SESSION), group, label, str(threads)]
        command = ["taskset", "--cpu-list", cores, *program]
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
        environment |= jobs.environment(group, label)
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment)
        self.shape: Shape | None = None
        self.receive()

    def load(self, shape: Shape) -> None:
        """Load ``shape`` in the process, unless it is loaded."""
        if self.shape != shape:
            self.call("load", shape)
            self.shape = shape

    def call(self, method: str, *arguments: Any) -> Any:
        """Run a method of ``Session`` in the process."""
        assert self.process.stdin is not None
        pickle.dump((method, arguments), self.process.stdin)
        self.process.stdin.flush()
        return self.receive()

    def receive(self) -> Any:
        """Wait for an answer, or raise what it reports."""
        assert self.process.stdout is not None
        try:
            status, answer = pickle.load(self.process.stdout)
        except EOFError:
            raise WorkerError(f"exit code {self.process.wait()}") from None
        if status == "missing":
            raise MissingError(answer)
        if status == "failed":
            raise WorkerError(answer)
        return answer

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
