"""The other end of ``worker.py``: a program that holds one library and answers calls.

Calls and replies are pickles: (method, arguments) one way, (status, answer) the other.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import jobs
from cases import Case
from data import AnyArray, Int64, Shape
from jobs import Timing

SHORT = 0.3  # seconds; timings below it are preceded by an untimed call
LONG = 1.0  # seconds; after it no further call of a timing begins


class Session:
    """One job, and the calls that a ``Worker`` may make."""

    def __init__(self, group: str, label: str, threads: int) -> None:
        self.job = jobs.make(group, label, threads)
        self.last = 0.0

    def load(self, shape: Shape) -> None:
        """Load a shape; the one before is replaced."""
        self.job.load(shape)

    def check(self, label: str, case: Case, sample: Int64) -> tuple[list[AnyArray], int]:
        """Make the first call; return sampled rows of its answer and its extra memory."""
        before = reset_peak_memory()
        answer = self.job.call(label, case, 0)
        extra = peak_memory() - before - sum(array.nbytes for array in answer)
        return [array[sample] for array in answer], extra

    def time(self, label: str, case: Case) -> Timing:
        """Time up to ``case.calls`` calls; all of their processor time is counted."""
        processor = time.process_time()
        if self.last < SHORT:
            self.job.call(label, case, case.calls)
        start = time.perf_counter()
        for i in range(case.calls):
            self.job.call(label, case, i)
            self.last = time.perf_counter() - start
            if self.last > LONG:
                break
        return Timing(self.last / (i + 1), time.process_time() - processor)

    def pools(self) -> list[dict[str, Any]]:
        """Return the BLAS and OpenMP builds in this process."""
        import threadpoolctl

        return list(threadpoolctl.threadpool_info())


def reset_peak_memory() -> int:
    """Reset the peak of resident memory to its present value, which is returned in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmRSS")


def peak_memory() -> int:
    """Return the peak of resident memory since the reset, in bytes."""
    return status_bytes("VmHWM")


def status_bytes(field: str) -> int:
    """Return a field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


def serve(group: str, label: str, threads: int) -> None:
    """Answer calls until the driver closes the pipe."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # prints of libraries must not mix with the replies

    def reply(status: str, answer: Any) -> None:
        pickle.dump((status, answer), replies)
        replies.flush()

    try:
        session = Session(group, label, threads)
    except ImportError as error:
        return reply("missing", str(error))
    reply("ready", None)
    while True:
        try:
            method, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return None
        try:
            reply("done", getattr(session, method)(*arguments))
        except Exception as error:
            traceback.print_exc()
            reply("failed", repr(error))


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
