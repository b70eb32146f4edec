"""Fork, threads, Ctrl-C, the GIL, and arrays beyond 2^32 elements."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from cases import core_search, make
from resmem import _core

QUERIES, ROWS = make("gaussian", 0, 20_000, 200, 64)


def test_two_threads_search_at_once():
    wanted = core_search(QUERIES, ROWS, 9, threads=1)[1]
    found = {}
    workers = [
        threading.Thread(
            target=lambda i=i: found.update({i: core_search(QUERIES, ROWS, 9, threads=2)[1]})
        )
        for i in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(np.array_equal(found[i], wanted) for i in range(4))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_searches_even_if_the_parent_was_searching():
    wanted = core_search(QUERIES, ROWS, 9, threads=2)[1]
    busy = threading.Thread(target=lambda: core_search(QUERIES, ROWS, 9, threads=2))
    busy.start()
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        same = np.array_equal(core_search(QUERIES, ROWS, 9, threads=2)[1], wanted)
        os._exit(0 if same else 1)
    busy.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_gil_is_released():
    ticks = []
    stop = threading.Event()

    def tick():
        while not stop.wait(0.001):
            ticks.append(time.monotonic())

    other = threading.Thread(target=tick)
    other.start()
    start = time.monotonic()
    core_search(np.repeat(QUERIES, 10, axis=0), ROWS, 9, threads=1, strategy="by_queries")
    end = time.monotonic()
    stop.set()
    other.join()
    during = sum(start < t < end for t in ticks)
    assert during >= 5


INTERRUPTED = """
import sys, time
import numpy as np, resmem
rng = np.random.default_rng(0)
z = rng.standard_normal((100_000, 256), dtype=np.float32)
mem = resmem.Memory(task="regression", k=5, sigma=1.0).fit(z, np.zeros(100_000), np.ones(100_000))
before = mem.kneighbors(z[:20])[1]
print("ready", flush=True)
try:
    mem.kneighbors(np.concatenate([z] * 3), threads=int(sys.argv[1]))
except KeyboardInterrupt:
    print(time.monotonic(), flush=True)
assert np.array_equal(mem.kneighbors(z[:20])[1], before)
print("same", flush=True)
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_answers_at_once_and_leaves_the_memory_as_it_was(threads):
    delays = []
    for _ in range(3):  # a busy machine may be late once
        child = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED, str(threads)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(1.0)
        sent = time.monotonic()
        child.send_signal(signal.SIGINT)
        delays.append(float(child.stdout.readline()) - sent)
        assert child.stdout.readline() == "same\n"
        assert child.wait(30) == 0
        child.stdout.close()
        if delays[-1] < 0.2:
            break
    assert min(delays) < 0.2


def test_rows_beyond_two_to_the_32_elements():
    d, n = 1 << 16, (1 << 16) + 70
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    try:
        buffer = mmap.mmap(-1, 4 * n * d, flags=flags)
    except OSError as error:
        pytest.skip(f"no {4 * n * d >> 30} GiB of address space: {error}")
    rows = np.frombuffer(buffer, np.float32).reshape(n, d)
    rows[n - 3] = 2
    rows[n - 1, 5] = 1
    alive = np.zeros(n, bool)
    alive[n - 40 :] = True
    queries = rows[[n - 1, n - 3]] + np.float32(0)
    assert (n - 40) * d > 2**32
    for strategy in ("exact", "by_rows"):
        part = alive if strategy == "exact" else None
        first = 0 if strategy == "exact" else 1 << 16
        segment = (rows[first:] if first else rows, None, first, part, 2.0)
        _, ids, _, _ = _core.search(
            queries, 2.0, [segment], 1, "sqeuclidean", None, 2, strategy=strategy
        )
        assert ids.ravel().tolist() == [n - 1, n - 3]
    del rows, segment


def test_threads_by_environment():
    def run(value):
        return subprocess.run(
            [sys.executable, "-c", "from resmem import _core; print(_core.default_threads())"],
            env={**os.environ, "RESMEM_NUM_THREADS": value},
            capture_output=True,
            text=True,
        )

    assert run("5").stdout == "5\n"
    assert "RESMEM_NUM_THREADS must be a whole number" in run("many").stderr
