"""Saving and loading: rates beside plain writing and reading, and the first query of 10 GiB.

``python benchmarks/files.py`` saves and loads a memory of ``--gib`` (2), in rounds with the same
number of bytes written and synced, and read from the page cache, by plain system calls.
``python benchmarks/files.py --first-query`` builds one of 10 GiB, loads it unverified in a fresh
process, and shows what its first query makes resident.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

D, COLUMNS, CHUNK = 64, 512, 20_000
ROW_BYTES = 4 * D + 8 * COLUMNS + 8
PIECE = 8 << 20

FIRST_QUERY = """
import sys, time
import numpy as np, resmem

def resident():
    fields = dict(line.split(":") for line in open("/proc/self/status") if line.startswith("Rss"))
    return {name: int(value.split()[0]) / 1024 for name, value in fields.items()}

query = np.random.default_rng(5).standard_normal((1, %d)).astype(np.float32)
resmem.search(query, query, 1)  # starts threads and chooses kernels
before = resident()
start = time.perf_counter()
mem = resmem.Memory.load(sys.argv[1], verify=False)
loaded = time.perf_counter()
after_load = resident()
mem.correction(query)
answered = time.perf_counter()
after = resident()
keys = sum(s["keys"].nbytes for s in mem._state.view.rows.segments) / 2**20
print(f"load {1e3 * (loaded - start):.1f} ms, first query {1e3 * (answered - loaded):.0f} ms")
for name in before:
    print(f"{name:8} at load +{after_load[name] - before[name]:.1f} MiB, "
          f"at the first query +{after[name] - after_load[name]:.1f} MiB")
print(f"keys, which an exact search reads, are {keys:.1f} MiB of {mem.nbytes / 2**20:.0f}")
"""


def build(gib: float):  # type: ignore[no-untyped-def]
    """Return a dense memory of about ``gib`` GiB, from a fixed seed."""
    import resmem

    rng = np.random.default_rng(77)
    mem, rows = resmem.Memory(k=50, sigma=1.0), int(gib * 2**30 / ROW_BYTES)
    for start in range(0, rows, CHUNK):
        n = min(CHUNK, rows - start)
        chunk = (
            rng.standard_normal((n, D), dtype=np.float32),
            rng.standard_normal((n, COLUMNS), dtype=np.float32),
            rng.integers(0, COLUMNS, n),
        )
        mem = mem.add(*chunk) if start else mem.fit(*chunk)
    return mem


def plain_write(path: Path, data: memoryview, size: int) -> None:
    """Write ``size`` bytes with write and fsync."""
    with path.open("wb", buffering=0) as file:
        for start in range(0, size, PIECE):
            file.write(data[start % len(data) :][: min(PIECE, size - start)])
        os.fsync(file.fileno())


def plain_read(path: Path) -> None:
    """Read all of a file with read."""
    buffer = bytearray(PIECE)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def rates(folder: Path, gib: float, rounds: int) -> None:
    """Print medians and ranges in GB/s, and the ratios."""
    import resmem

    mem = build(gib)
    path, plain = folder / "memory.resmem", folder / "plain"
    data = memoryview(np.random.default_rng(1).bytes(32 * PIECE))
    mem.save(path)
    size = path.stat().st_size
    jobs = {
        "plain write + fsync": lambda: plain_write(plain, data, size),
        "save": lambda: mem.save(path),
        "plain read": lambda: plain_read(plain),
        "load, verified": lambda: resmem.Memory.load(path),
    }
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            os.sync()
            start = time.perf_counter()
            job()
            times[name].append(time.perf_counter() - start)
    print(f"{size / 2**30:.2f} GiB, {rounds} rounds, in {folder}")
    for name, taken in times.items():
        low, high = size / max(taken) / 1e9, size / min(taken) / 1e9
        middle = size / statistics.median(taken) / 1e9
        print(f"{name:<22} {middle:6.2f} GB/s  ({low:.2f} to {high:.2f})")
    for ours, theirs in (("save", "plain write + fsync"), ("load, verified", "plain read")):
        ratio = statistics.median(times[theirs]) / statistics.median(times[ours])
        print(f"{ours} at {100 * ratio:.0f} % of {theirs}")


def main() -> None:
    """Measure rates, or a first query."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary one)")
    parser.add_argument("--first-query", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="resmem-", dir=chosen.folder) as temporary:
        folder = Path(temporary)
        if not chosen.first_query:
            rates(folder, chosen.gib, chosen.rounds)
            return
        path = folder / "memory.resmem"
        build(10).save(path)
        print(f"{path.stat().st_size / 2**30:.2f} GiB saved", flush=True)
        subprocess.run([sys.executable, "-c", FIRST_QUERY % D, str(path)], check=True)


if __name__ == "__main__":
    main()
