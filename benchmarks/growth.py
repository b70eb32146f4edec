"""A million rows added in chunks of 1,000 beside one fit; removals by number of rows.

``python benchmarks/growth.py`` prints medians and ranges of rounds that take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

import resmem

D, C, CHUNK = 64, 10, 1_000


def data(n: int):  # type: ignore[no-untyped-def]
    """Return rows from a fixed seed, and ids in random order."""
    rng = np.random.default_rng(3)
    keys = rng.standard_normal((n, D), dtype=np.float32)
    outputs = rng.standard_normal((n, C), dtype=np.float32)
    return keys, outputs, rng.integers(0, C, n), rng.permutation(3 * n)[:n]


def at_once(rows, ids, options):  # type: ignore[no-untyped-def]
    """Fit all rows at once."""
    return resmem.Memory(**options).fit(*rows, ids=ids)


def in_chunks(rows, ids, options):  # type: ignore[no-untyped-def]
    """Fit the first chunk and add the others."""
    mem = resmem.Memory(**options)
    for start in range(0, len(rows[0]), CHUNK):
        part = slice(start, start + CHUNK)
        some = None if ids is None else ids[part]
        (mem.add if start else mem.fit)(*(each[part] for each in rows), ids=some)
    return mem


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    *rows, shuffled = data(chosen.rows)
    print(f"{chosen.rows:,} rows, d={D}, C={C}, chunks of {CHUNK:,}, {chosen.rounds} rounds")
    for title, ids, options in (
        ("default settings", None, {}),
        ("default settings, ids given in random order", shuffled, {}),
        ("sigma given, so that fit searches nothing", None, {"sigma": 1.0}),
    ):
        times: dict[str, list[float]] = {"fit": [], "chunks": []}
        for _ in range(chosen.rounds):
            for name, make in (("fit", at_once), ("chunks", in_chunks)):
                start = time.perf_counter()
                mem = make(rows, ids, options)
                times[name].append(time.perf_counter() - start)
                if mem._state._compactor is not None:
                    mem._state._compactor.join()
                del mem
        texts = [
            f"{name} {statistics.median(taken):.3f} s ({min(taken):.3f} to {max(taken):.3f})"
            for name, taken in times.items()
        ]
        ratio = statistics.median(times["chunks"]) / statistics.median(times["fit"])
        print(f"{title}: {', '.join(texts)}, ratio {ratio:.2f}")
    print("removal of 1,000 ids, one call each, ids given in random order")
    for n in (10_000, 100_000, chosen.rows):
        mem = at_once([part[:n] for part in rows], shuffled[:n], {"sigma": 1.0})
        mem.remove(shuffled[0])  # hashes the ids
        start = time.perf_counter()
        for id_ in shuffled[1:1001]:
            mem.remove(id_)
        print(f"  of {n:>9,} rows: {1e3 * (time.perf_counter() - start):.1f} us each")


if __name__ == "__main__":
    main()
