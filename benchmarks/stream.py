"""A stream of a million rows into a memory that keeps the last hundred thousand.

``python benchmarks/stream.py`` prints, for each tenth of the stream, the time per row, the bytes of
the rows, the memory of the process, and the number of segments; then the same for rows added one by
one, and a search beside the same rows in one segment.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

import resmem

D, C = 64, 10


def examples(rng, n: int):  # type: ignore[no-untyped-def]
    """Return n rows: embeddings, outputs, targets."""
    keys = rng.standard_normal((n, D), dtype=np.float32)
    return keys, rng.standard_normal((n, C), dtype=np.float32), rng.integers(0, C, n)


def resident() -> float:
    """Return the memory of this process, in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def stream(mem, rng, rows: int, chunk: int) -> None:  # type: ignore[no-untyped-def]
    """Add rows from the generator in chunks and print a line for each tenth of them."""
    taken: list[float] = []
    for done in range(0, rows, chunk):
        part = examples(rng, chunk)
        start = time.perf_counter()
        mem.add(*part)
        taken.append((time.perf_counter() - start) / chunk * 1e6)
        if (done + chunk) % (rows // 10) == 0:
            segments = mem.info()["segments"]
            print(
                f"{done + chunk:>9,} {statistics.mean(taken):8.2f} {statistics.median(taken):8.2f} "
                f"{max(taken):8.2f} {mem.nbytes / 2**20:8.1f} {resident():8.1f} {segments:4}"
            )
            taken = []


def seconds(mem, queries) -> float:  # type: ignore[no-untyped-def]
    """Return the least time of five searches."""
    found = []
    for _ in range(5):
        start = time.perf_counter()
        mem.kneighbors(queries)
        found.append(time.perf_counter() - start)
    return min(found)


def main() -> None:
    """Print the curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--limit", type=int, default=100_000)
    chosen = parser.parse_args()
    mem = resmem.Memory(k=50, sigma=1.0, max_rows=chosen.limit, auto_prepare=False)
    print(f"d={D}, C={C}, max_rows={chosen.limit:,}")
    print("     rows  us/row:  mean   median  largest  nbytes RSS, MiB segments")
    rng = np.random.default_rng(0)
    stream(mem, rng, chosen.rows, 1_000)
    print("one by one:")
    stream(mem, rng, chosen.rows // 50, 1)

    # The same rows again, from the same seed, for a memory fitted on those that are left.
    rng = np.random.default_rng(0)
    parts = [examples(rng, 1_000) for _ in range(chosen.rows // 1_000)]
    parts += [examples(rng, 1) for _ in range(chosen.rows // 50)]
    kept = [np.concatenate(part)[-chosen.limit :] for part in zip(*parts, strict=True)]
    del parts
    reference = resmem.Memory(k=50, sigma=1.0, auto_prepare=False).fit(*kept, ids=mem.ids)
    for n in (1, 1_000):
        queries = rng.standard_normal((n, D), dtype=np.float32)
        pairs = zip(mem.kneighbors(queries), reference.kneighbors(queries), strict=True)
        same = all(one.tobytes() == other.tobytes() for one, other in pairs)
        times = [1e3 * seconds(each, queries) for each in (mem, reference)]
        print(
            f"{n} queries: neighbours {'the same' if same else 'DIFFERENT'}; {times[0]:.2f} ms in "
            f"{mem.info()['segments']} segments, {times[1]:.2f} ms in one"
        )


if __name__ == "__main__":
    main()
