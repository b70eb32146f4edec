"""The engine inside a process: fork, threads, signals, the GIL, arrays beyond 2^32 elements."""

from __future__ import annotations

import gc
import mmap
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import oracle
import resmem
from cases import make
from resmem import _core

QUERIES, ROWS = make("gaussian", 0, 20_000, 200, 64)
FEW, OTHERS = make("gaussian", 1, 1500, 40, 24)
PATIENCE = 60  # seconds after which what should have ended counts as hung

forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def same(got, wanted):
    return all(a.tobytes() == b.tobytes() for a, b in zip(got, wanted, strict=True))


@pytest.fixture(scope="module")
def answer():
    """Return the answer to a search of some milliseconds."""
    return oracle.search(FEW, OTHERS, 9)


@pytest.fixture(scope="module")
def long():
    """Return queries whose search takes at least 0.5 s on one thread, and the answer."""
    queries, shortest = QUERIES, 0.0
    while shortest < 0.5 and len(queries) < 100_000:
        queries = np.concatenate([queries, queries])
        moments = [time.monotonic()]
        for _ in range(2):  # the machine may be held up once
            wanted = resmem.search(queries, ROWS, 9, threads=1)
            moments.append(time.monotonic())
        shortest = min(np.diff(moments))
    return queries, wanted


def forked(work):
    """Return whether `work()` is true in a forked child, which must not hang."""
    child = os.fork()
    if child == 0:  # never back into pytest
        status = 2
        try:
            signal.alarm(PATIENCE)
            status = 0 if work() else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# ---- Fork ------------------------------------------------------------------------------------


@forks
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_forked_children_and_grandchildren_search(answer, threads):
    def search():
        return same(resmem.search(FEW, OTHERS, 9, threads=threads), answer)

    assert same(
        resmem.search(FEW, OTHERS, 9, threads=2), answer
    )  # now there are helper threads to lose
    assert forked(lambda: search() and forked(search) and search())
    assert search()


@forks
@pytest.mark.parametrize("moment", [0.0, 0.02, 0.1])
def test_child_forked_during_a_search_can_search(long, answer, moment):
    queries, wanted = long
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(resmem.search, queries, ROWS, 9, threads=2)
        time.sleep(moment)
        for _ in range(3):
            assert forked(lambda: same(resmem.search(FEW, OTHERS, 9, threads=2), answer))
        assert same(busy.result(PATIENCE), wanted)


@forks
def test_changes_of_a_child_stay_in_the_child():
    mem = resmem.Memory(k=9).fit(OTHERS, OTHERS[:, :3], np.arange(len(OTHERS)) % 3)
    wanted = mem.correct(FEW, FEW[:, :3])

    def change():
        mem.add(FEW, FEW[:, :3], np.zeros(len(FEW), dtype=int))
        changed = mem.correct(FEW, FEW[:, :3])
        mem.remove(np.arange(len(OTHERS), len(OTHERS) + len(FEW)))
        back = mem.correct(FEW, FEW[:, :3])
        return same([back], [wanted]) and not same([changed], [wanted])

    assert forked(change)
    assert len(mem) == len(OTHERS)


# ---- Threads ---------------------------------------------------------------------------------


def test_threads_that_search_at_once_get_their_own_answers():
    cases = [make("gaussian", seed, 700 + 100 * seed, 50, 8 + seed) for seed in range(4)]
    wanted = [oracle.search(*case, 7) for case in cases]
    barrier = threading.Barrier(len(cases))

    def repeat(i):
        barrier.wait(PATIENCE)
        return all(
            same(resmem.search(*cases[i], 7, threads=1 + turn % 3), wanted[i]) for turn in range(25)
        )

    with ThreadPoolExecutor(len(cases)) as pool:
        assert all(pool.map(repeat, range(len(cases)), timeout=PATIENCE))


def test_two_long_searches_at_once_give_the_right_answers(long):
    queries, wanted = long
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(resmem.search, queries, ROWS, 9, threads=2) for _ in range(2)]
        assert all(same(one.result(PATIENCE), wanted) for one in both)


@pytest.mark.parametrize("threads", [1, 3, 64])
@pytest.mark.parametrize(("n", "q"), [(1, 1), (3, 2), (0, 4), (5, 0), (1500, 40)])
def test_more_threads_than_work_give_the_oracles_bits(n, q, threads):
    queries, rows = FEW[:q], OTHERS[:n]
    assert same(resmem.search(queries, rows, 4, threads=threads), oracle.search(queries, rows, 4))


def test_queries_see_the_rows_of_one_snapshot():
    half, nothing, ones = OTHERS[:700], np.zeros(700), np.ones(700)
    mem = resmem.Memory("regression", k=5, sigma=1.0).fit(half, nothing, ones)
    moments = [mem.kneighbors(FEW)[0].tobytes()]
    stop = threading.Event()

    def ask():
        seen = set()
        while not stop.is_set():
            seen.add(mem.kneighbors(FEW, threads=2)[0].tobytes())
        return seen

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            for first in range(700, 700 * 30, 700):
                mem.add(OTHERS[700:1400], nothing, ones)
                moments.append(mem.kneighbors(FEW)[0].tobytes())
                mem.remove(np.arange(first, first + 700))
        finally:
            stop.set()
        seen = asking.result(PATIENCE)
    assert len(set(moments)) == 2
    assert seen <= set(moments)


@pytest.mark.parametrize("threads", [1, 2])
def test_search_releases_the_gil(long, threads):
    queries, wanted = long
    ticks = []
    stop = threading.Event()

    def tick():
        while not stop.wait(0.001):
            ticks.append(time.monotonic())

    other = threading.Thread(target=tick)
    other.start()
    start = time.monotonic()
    got = resmem.search(queries, ROWS, 9, threads=threads)
    end = time.monotonic()
    stop.set()
    other.join()
    assert same(got, wanted)
    tenths = {int(10 * (t - start) / (end - start)) for t in ticks if start < t < end}
    assert len(tenths) >= 5  # the other thread ran from beginning to end


THREAD_VARIABLES = ("RESMEM_NUM_THREADS", "OMP_NUM_THREADS", "OMP_THREAD_LIMIT")


def default_threads(**environment):
    done = subprocess.run(
        [sys.executable, "-c", "from resmem import _core; print(_core.default_threads())"],
        env={k: v for k, v in os.environ.items() if k not in THREAD_VARIABLES} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def test_the_environment_sets_the_number_of_threads():
    assert default_threads(RESMEM_NUM_THREADS="1") == 1
    assert default_threads(RESMEM_NUM_THREADS="37") == 37
    assert default_threads(RESMEM_NUM_THREADS="") == default_threads()


def test_the_affinity_bounds_the_number_of_threads():
    script = """
import os
from resmem import _core
allowed = sorted(os.sched_getaffinity(0))
before = _core.default_threads()
os.sched_setaffinity(0, allowed[:1])
print(1 <= before <= len(allowed), _core.default_threads())  # a cgroup may allow fewer
"""
    environment = {k: v for k, v in os.environ.items() if k not in THREAD_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "True 1\n"


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "OMP_THREAD_LIMIT"])
@pytest.mark.parametrize("text", ["1", " 1", "1,2", "1 , 4"])
def test_openmp_variables_limit_the_number_of_threads(name, text):
    assert default_threads(**{name: text}) == 1


@pytest.mark.parametrize("text", ["", "0", "-1", "all", "1.5", "1x", ",1"])
def test_malformed_openmp_variables_are_ignored(text):
    assert default_threads(OMP_NUM_THREADS=text, OMP_THREAD_LIMIT=text) == default_threads()


def test_resmem_variable_takes_precedence_over_openmp():
    assert default_threads(RESMEM_NUM_THREADS="3", OMP_NUM_THREADS="1") == 3
    assert default_threads(OMP_NUM_THREADS="1000000") == default_threads()


GROUPS = {  # /proc/self/cgroup, files of /sys/fs/cgroup, CPUs that they allow (0: no limit)
    "no groups": (None, {}, 0),
    "no limit": ("0::/a/b", {"a/b/cpu.max": "max 100000", "cpu.max": "max 100000"}, 0),
    "its own": ("0::/a/b", {"a/b/cpu.max": "250000 100000"}, 3),
    "a group around it": ("0::/a/b/c", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 1"}, 2),
    "the least": ("0::/a/b", {"a/b/cpu.max": "900000 100000", "a/cpu.max": "400000 100000"}, 4),
    "the root": ("0::/", {"cpu.max": "500000 100000"}, 5),
    "a small part": ("0::/a", {"a/cpu.max": "1000 100000"}, 1),
    "outside of what is mounted": ("0::/../x", {"cpu.max": "700000 100000"}, 7),
    "version 1": (
        "5:memory:/m\n4:cpu,cpuacct:/a/b",
        {"cpu/a/cpu.cfs_quota_us": "600000", "cpu/a/cpu.cfs_period_us": "100000",
         "cpu/a/b/cpu.cfs_quota_us": "-1", "cpu/a/b/cpu.cfs_period_us": "100000"},
        6,
    ),
    "other controllers": ("4:cpuset:/a", {"a/cpu.max": "100000 100000"}, 0),
    "nonsense": ("::\nx\n0:", {"cpu.max": "nan nan"}, 0),
    "too much": ("0::/", {"cpu.max": "1e300 1"}, 10**6),
}  # fmt: skip


@pytest.mark.parametrize("case", GROUPS)
def test_control_groups_bound_the_number_of_threads(tmp_path, case):
    groups, files, wanted = GROUPS[case]
    if groups is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups + "\n")
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert _core.group_cpus(str(tmp_path)) == wanted


ENDING = """
import sys, threading, time, warnings
import numpy as np
import resmem
warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
z, logits = rng.random((9000, 48), dtype=np.float32), rng.random((9000, 5), dtype=np.float32)
y = rng.integers(0, 5, 9000)
mem = resmem.Memory(k=5, sigma=1.0).fit(z, logits, y)
some = slice(0, 300)
call = {
    "search": lambda: resmem.search(z[some], z, 5, threads=2),
    "correct": lambda: mem.correct(z[some], logits[some], threads=2),
    "tune": lambda: mem.tune(z[some] + 1, logits[some], y[some], k=[5], sigma=[1.0], threads=2),
    "evaluate": lambda: mem.evaluate(z[some] + 1, logits[some], y[some], threads=2),
    "fit": lambda: resmem.Memory(k=5, sigma=1.0).fit(z, logits, y),
}[sys.argv[1]]

def repeat():
    while True:
        call()
        once.set()

once = threading.Event()
for _ in range(2):
    threading.Thread(target=repeat, daemon=True).start()
once.wait()
time.sleep(float(sys.argv[2]))
sys.exit(7)
"""


@pytest.mark.parametrize("call", ["search", "correct", "tune", "evaluate", "fit"])
def test_daemon_thread_in_a_call_does_not_change_the_exit(call):
    for attempt in range(4):
        command = [sys.executable, "-c", ENDING, call, str(0.01 * attempt)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (7, "")


def test_package_uses_no_hash_tables_of_numpy():
    """They are C++ that releases the GIL and cannot be unwound when a daemon thread ends.

    Quantiles and set operations of NumPy use them too.
    """
    package = Path(resmem.__file__).parent
    sets = r"isin\b|setdiff1d|union1d|intersect1d|setxor1d|(nan)?(quantile|percentile)"
    names = rf"np\.(unique\((?!.*return_|.*axis=)|unique_|{sets})"
    hashing = re.compile(names)
    found = [
        f"{path.name}: {line.strip()}"
        for path in package.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if hashing.search(line)
    ]
    assert not found


LITTLE_ROOM = """
import os, resource, sys
import numpy as np
import resmem
rng = np.random.default_rng(0)
rows = rng.random((20000, 64), dtype=np.float32)
pages = int(open("/proc/self/statm").read().split()[0])
room = resource.getpagesize() * pages + (int(sys.argv[1]) << 10)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
try:
    resmem.search(rows[:200], rows, 5, threads=8)
except MemoryError:
    pass
"""


def test_thread_start_near_the_memory_limit_ends_no_process():
    for kilobytes in range(12_000, 40_000, 2700):
        command = [sys.executable, "-c", LITTLE_ROOM, str(kilobytes)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (0, "")


# ---- Signals ---------------------------------------------------------------------------------

INTERRUPTED = """
import signal, sys, time
import numpy as np
import resmem
from resmem import _core
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
call, threads = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
n = 100_000
z = rng.random((n, 256), dtype=np.float32)
mem = resmem.Memory(task="regression", k=5, sigma=1.0).fit(z, np.zeros(n), np.ones(n), copy=False)
before = mem.kneighbors(z[:20])
queries = np.concatenate([z] * 3)
segment = _core.Segment(z, None, 0, None, 1.0)
calls = {
    "kneighbors": lambda: mem.kneighbors(queries, threads=threads),
    "correction": lambda: mem.correction(queries, threads=threads),
    "exact": lambda: _core.search(
        queries, 1.0, [segment], 5, "cosine", forced=_core.ForcedPlan("exact"),
        execution=_core.Execution(threads)),
    "fit": lambda: [mem.fit(z, np.zeros(n), np.ones(n)) for _ in range(1000)],
}
print("ready", flush=True)
try:
    calls[call]()
except KeyboardInterrupt:
    print(time.monotonic(), flush=True)
after = mem.kneighbors(z[:20])
print(before[0].tobytes() == after[0].tobytes(), (before[1] == after[1]).all(), len(mem) == n)
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("call", ["kneighbors", "correction", "exact", "fit"])
def test_ctrl_c_ends_a_call_at_once_and_changes_nothing(call, threads):
    delays = []
    for attempt in range(3):  # a busy machine may be late once
        command = [sys.executable, "-c", INTERRUPTED, call, str(threads)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.4 + 0.3 * attempt)
            sent = time.monotonic()  # one clock for all processes
            child.send_signal(signal.SIGINT)
            arrived, *unharmed = child.communicate(timeout=PATIENCE)[0].split()
        assert unharmed == ["True", "True", "True"]
        assert child.returncode == 0
        delays.append(float(arrived) - sent)
        if delays[-1] < 0.2:
            break
    assert min(delays) < 0.2


DECOMPOSING = """
import signal, sys, time
import numpy as np
import resmem
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
kind, d = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
z = rng.standard_normal((d, d), dtype=np.float32)
y = np.zeros(d)
mem = resmem.Memory(task="regression", k=5, sigma=1.0).fit(z[:50], y[:50], y[:50])
other = resmem.Memory(task="regression", k=5, sigma=1.0, preprocess=kind).fit(
    z[:60, :80], y[:60], y[:60]
)
before = mem.kneighbors(z[:9]), other.kneighbors(z[:9, :80])
decompose = np.linalg.eigh

def announced(*given):
    print("decomposing", flush=True)
    return decompose(*given)

np.linalg.eigh = announced
try:
    other.fit(z, y, y)
except KeyboardInterrupt:
    print(time.monotonic(), flush=True)
after = mem.kneighbors(z[:9]), other.kneighbors(z[:9, :80])
print(all(a.tobytes() == b.tobytes() for x, y in zip(before, after) for a, b in zip(x, y)))
"""


@pytest.mark.parametrize("kind", ["pca:64", "whiten:64"])
def test_ctrl_c_ends_a_decomposition_at_once(kind):
    """LAPACK takes a second or more and checks no signals; the memory stays as it was, and the
    program ends with status 0."""
    delays = []
    for attempt in range(4):  # a busy machine may be late once
        command = [sys.executable, "-c", DECOMPOSING, kind, "1500"]
        alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # waiting threads would spin
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=alone) as child:
            assert child.stdout.readline() == "decomposing\n"
            time.sleep(0.05 + 0.1 * attempt)
            sent = time.monotonic()
            child.send_signal(signal.SIGINT)
            arrived, unharmed = child.communicate(timeout=PATIENCE)[0].split()
        assert unharmed == "True"
        assert child.returncode == 0  # the program does not end while LAPACK runs
        delays.append(float(arrived) - sent)
    assert min(delays) < 0.2


def test_error_in_a_helper_thread_is_raised_in_the_caller(monkeypatch):
    z = np.random.default_rng(0).standard_normal((500, 450), dtype=np.float32)
    mem = resmem.Memory(task="regression", k=5, sigma=1.0, preprocess="pca:3")

    def fails(_):
        raise np.linalg.LinAlgError("Eigenvalues did not converge")

    wanted = mem.fit(z, z[:, 0], z[:, 0]).kneighbors(z[:9])
    with monkeypatch.context() as patch:
        patch.setattr(np.linalg, "eigh", fails)
        with pytest.raises(np.linalg.LinAlgError, match="did not converge"):
            mem.fit(z, z[:, 0], z[:, 0])
    assert same(mem.kneighbors(z[:9]), wanted)
    with ThreadPoolExecutor(1) as pool:  # where no signal comes, no other thread is needed
        pool.submit(mem.fit, z, z[:, 0], z[:, 0]).result(PATIENCE)
    assert same(mem.kneighbors(z[:9]), wanted)


class Ring(Exception):  # noqa: N818
    """Raised by a signal handler."""


def ring(*_):
    raise Ring


@contextmanager
def handler(number, function):
    """Handle a signal, without garbage collection, whose callbacks swallow exceptions."""
    previous = signal.signal(number, function)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(number, previous)


@pytest.mark.parametrize("threads", [1, 2, 64])
def test_exception_of_a_signal_handler_is_raised_unchanged(long, answer, threads):
    queries, _ = long
    with handler(signal.SIGALRM, ring):
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Ring):
            resmem.search(queries, ROWS, 9, threads=threads)
    assert same(resmem.search(FEW, OTHERS, 9, threads=threads), answer)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_signal_handler_may_search(long, answer, threads):
    queries, wanted = long
    inside = []
    with handler(
        signal.SIGALRM,
        lambda *_: inside.append(same(resmem.search(FEW, OTHERS, 9, threads=threads), answer)),
    ):
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.05)
        got = resmem.search(queries, ROWS, 9, threads=threads)
    assert same(got, wanted)
    assert inside
    assert all(inside)


def test_a_signal_does_not_stop_the_search_of_another_thread(long):
    queries, wanted = long
    with handler(signal.SIGUSR1, ring), ThreadPoolExecutor(1) as pool:
        busy = pool.submit(resmem.search, queries, ROWS, 9, threads=2)
        time.sleep(0.05)
        with pytest.raises(Ring):  # in the main thread, where Python runs handlers
            signal.raise_signal(signal.SIGUSR1)
        assert same(busy.result(PATIENCE), wanted)


# ---- Very large arrays -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def vast():
    """Return an array of more than 2^32 elements, 0 except some rows; zeros take no memory."""
    n, d = 2**22 + 1000, 1024
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    try:
        buffer = mmap.mmap(-1, 4 * n * d, flags=flags)
    except OSError as error:
        pytest.skip(f"no {4 * n * d >> 30} GiB of address space: {error}")
    shared = Path("/sys/kernel/mm/transparent_hugepage/use_zero_page")
    if shared.exists() and shared.read_text().strip() == "1":
        buffer.madvise(mmap.MADV_HUGEPAGE)
    rows = np.frombuffer(buffer, dtype=np.float32).reshape(n, d)
    planted = np.array([3, 2**21 - 1, 2**21, 2**22 - 1, 2**22, n - 1])  # 2^31 and 2^32 elements
    rows[planted] = np.random.default_rng(0).uniform(-1, 1, (6, d)).astype(np.float32)
    return rows, planted


@pytest.mark.parametrize("strategy", ["stream", "by_rows"])
def test_rows_beyond_2_to_the_32_elements_are_found(vast, strategy):
    rows, planted = vast
    queries = rows[planted[[0, 4, 5]]]
    kept = np.concatenate([[0, 1, 2], planted])  # the others are as far as 0, 1 and 2
    values, at = oracle.search(queries, rows[kept], 3, "sqeuclidean")
    segment = _core.Segment(rows, None, 0, None, 1.0)
    got = _core.search(
        queries,
        1.0,
        [segment],
        3,
        "sqeuclidean",
        None,
        forced=_core.ForcedPlan(strategy=strategy),
        execution=_core.Execution(2),
    )
    assert same(got[:2], (values, kept[at]))
    assert np.array_equal(got[2], kept[at])


def test_exact_path_beyond_2_to_the_32_elements_is_right(vast):
    rows, planted = vast
    died = np.ones(len(rows), dtype=np.int64)
    died[planted] = 0
    segment = _core.Segment(rows, None, 0, died, 1.0)
    got = _core.search(
        rows[planted],
        1.0,
        [segment],
        1,
        "cosine",
        None,
        version=1,
        forced=_core.ForcedPlan(strategy="exact"),
        execution=_core.Execution(2),
    )
    assert np.array_equal(got[1][:, 0], planted)


def test_inspect_rows_beyond_2_to_the_32_elements_is_right(vast):
    rows, planted = vast
    largest = np.abs(rows[planted]).max()
    assert _core.inspect_rows(rows, execution=_core.Execution(2)) == (largest, -1)
    last = rows[-1].copy()
    rows[-1, -1] = np.inf
    assert _core.inspect_rows(rows, execution=_core.Execution(2))[1] == len(rows) - 1
    rows[-1] = last
