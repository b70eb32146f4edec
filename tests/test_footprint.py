"""Memory taken by calls: beyond stored rows, inputs and results, 64 MiB whatever the sizes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PREPARE = """
import numpy as np
import resmem
from resmem import _core

def highest():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024

def measure(call):
    open("/proc/self/clear_refs", "w").write("5")  # the high-water mark starts anew
    before = highest()
    results = call()
    results = results if isinstance(results, tuple) else (results,)
    taken = highest() - before
    print(taken - sum(part.nbytes for part in results if isinstance(part, np.ndarray)) / 2**20)

rng = np.random.default_rng(0)
"""

SEARCH = """
n, d, q, k, threads, strategy = {}
rows, queries = rng.random((n, d), dtype=np.float32), rng.random((q, d), dtype=np.float32)
segments = [_core.Segment(rows, None, 0, None, 1.0)]
def search(queries):
    forced, execution = _core.ForcedPlan(strategy), _core.Execution(threads)
    return _core.search(queries, 1.0, segments, k, "euclidean", forced=forced, execution=execution)
search(queries[:40])
measure(lambda: search(queries))
"""

QUERY = """
n, q, columns, k = 1000, {}, {}, {}
keys = rng.random((n, 8), dtype=np.float32)
memory = resmem.Memory(k=k, sigma=1.0)
memory.fit(keys, rng.random((n, columns), dtype=np.float32), np.zeros(n, dtype=int), copy=False)
queries, outputs = rng.random((q, 8), dtype=np.float32), rng.random((q, columns), dtype=np.float32)
targets = rng.integers(0, columns, q)
few = dict(k=[5], sigma=[1.0], temperature=1.0, strength=[1.0], apply=False)
memory.predict(queries[:2], outputs[:2])
measure(lambda: memory.{})
"""

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="/proc/self/clear_refs is not there"
)


def extra(script):
    """Return the MiB that a script takes beyond its results."""
    done = subprocess.run(
        [sys.executable, "-c", PREPARE + script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.parametrize(
    ("n", "d", "q", "k", "threads", "strategy"),
    [
        (60_000, 128, 2000, 10, 2, "automatic"),
        (10_000, 128, 2000, 10, 16, "by_rows"),
        (10_000, 128, 2000, 10, 16, "by_queries"),
        (10_000, 128, 50, 10, 16, "stream"),
        (5_000, 64, 500, 2000, 2, "automatic"),
        (3_000, 9000, 100, 5, 2, "automatic"),
    ],
)
def test_search_takes_at_most_64_mib_beyond_its_results(n, d, q, k, threads, strategy):
    assert extra(SEARCH.format((n, d, q, k, threads, strategy))) <= 64


@pytest.mark.parametrize(
    "call",
    [
        "correct(queries, outputs)",
        "correction(queries)",
        "predict(queries, outputs)",
        "predict_proba(queries, outputs)",
        "evaluate(queries, outputs, targets)",
        "explain(queries[:600], outputs[:600])",
        "tune(queries, outputs, targets, **few)",
    ],
)
@pytest.mark.parametrize(("q", "columns", "k"), [(1200, 10_000, 20), (60_000, 3, 200)])
def test_query_takes_at_most_64_mib_beyond_its_results(q, columns, k, call):
    """No array (q, n) or (q, k, C) is made, nor a second one (q, C)."""
    assert extra(QUERY.format(q, columns, k, call)) <= 64


MANY_ROWS = """
n = 12_000_000
keys = np.zeros((n, 2), np.float32)
keys[:, 0] = np.arange(n) % 1000
targets, head = np.zeros(n, np.int64), (np.eye(2, dtype=np.float32), np.zeros(2, np.float32))
memory = resmem.Memory(k=2, store="head", head=head, sigma={})
def fit():
    memory.fit(keys, None, targets, copy=False)
"""


def test_sigma_of_many_rows_is_measured_in_little_memory():
    """No array of all row numbers is made, which would take 92 MiB."""
    assert extra(MANY_ROWS.format("'auto'") + "measure(lambda: fit() or ())") <= 64


@pytest.mark.parametrize("removed", ["", "memory.remove([5])\n"])
@pytest.mark.parametrize(
    "call",
    [
        "next(iter(memory._state.view.rows.sample(np.arange(0, n - 1, 50_000))))[1].sum()",
        "index_trial._sampled_rows(keys, 512, 0).sum()",
        "tune._sample(memory._state.view.rows, 0).sum()",
    ],
)
def test_samples_of_many_rows_take_little_memory(call, removed):
    script = "from resmem._indexes import trial as index_trial\nfrom resmem._tuning import tune\n"
    assert (
        extra(MANY_ROWS.format("1.0") + "fit()\n" + removed + script + f"measure(lambda: {call})")
        < 9
    )


@pytest.mark.parametrize(("suffix", "most"), [("m", 90), ("m.npz", 64)])
def test_file_of_many_rows_is_written_in_little_memory(tmp_path, suffix, most):
    """No list of the rows that are left is made, which would take 92 MiB."""
    call = f"memory.{'export' if '.' in suffix else 'save'}({str(tmp_path / suffix)!r}) and ()"
    script = MANY_ROWS.format("1.0") + f"fit()\nmemory.remove([5])\nmeasure(lambda: {call})"
    assert extra(script) <= most
