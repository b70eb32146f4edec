"""How many rows the device's filter lets through, and how many get canonical keys, per query.

Counted in the emulation, which takes minutes; results are compared with the CPU's. The limits are
those that the filter was designed for: 160 keys and 1,600 hits on the packaged Fashion-MNIST, and
1.5 times what a sketch of it in NumPy had let through on sets that are hard for codes. Queries
whose lists of hits overflowed are compared "one by one" with all rows, whose codes rule out most.

    python benchmarks/device_survivors.py [NAME ...] [--scale 1.0]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

import resmem
from resmem._devices import engine
from resmem._devices.choice import choose
from resmem.demo import data

F32 = npt.NDArray[np.float32]
Made = tuple[F32, F32, int, float]  # queries, rows, k, the most canonical keys of a query


def fashion(scale: float, rng: np.random.Generator) -> Made:
    rows = np.concatenate([data.load(name).images for name in ("train", "validation")])
    rows = rows.reshape(-1, 784)
    queries = data.load("test").images.reshape(-1, 784)[:32]
    return queries, rows[: int(scale * len(rows))], 100, 160


def coordinates(scale: float, rng: np.random.Generator) -> Made:
    spread = np.linspace(1, 0.05, 1024, dtype=np.float32)
    spread[[5, 77, 600]] *= np.float32(30)
    rows = rng.standard_normal((int(scale * 60_000), 1024), dtype=np.float32) * spread
    return rng.standard_normal((16, 1024), dtype=np.float32) * spread, rows, 50, 1.5 * 231


def lengths(scale: float, rng: np.random.Generator) -> Made:
    def made(n: int) -> F32:
        points = rng.standard_normal((n, 256), dtype=np.float32)
        return points * np.exp(rng.standard_normal((n, 1))).astype(np.float32)

    return made(48), made(int(scale * 60_000)), 50, 1.5 * 930


def student(scale: float, rng: np.random.Generator) -> Made:
    rows = rng.standard_t(2.5, (int(scale * 100_000), 128)).astype(np.float32)
    return rng.standard_t(2.5, (48, 128)).astype(np.float32), rows, 50, 1.5 * 96


def sparse(scale: float, rng: np.random.Generator) -> Made:
    def made(n: int) -> F32:
        there = rng.random((n, 512)) < 0.02
        return np.where(there, rng.random((n, 512), dtype=np.float32), np.float32(0))

    return made(48), made(int(scale * 60_000)), 50, 1.5 * 82


SETS: dict[str, Callable[[float, np.random.Generator], Made]] = {
    "fashion": fashion,
    "coordinates": coordinates,
    "lengths": lengths,
    "student": student,
    "sparse": sparse,
}


def count(queries: F32, rows: F32, k: int) -> dict[str, int]:
    """Search on the emulated device; return its counters, once results are those of the CPU."""
    device = choose("cuda:emulated", {})
    kept = engine.kept_rows(device, "float32", rows.shape[1], "euclidean")
    kept.extend(rows)
    values, ids = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    counted = device.extension.search(
        queries, [(kept, len(rows), 0)], k, "euclidean", values=values, ids=ids, counted=True
    )
    wanted = resmem.search(queries, rows, k)
    assert values.tobytes() == wanted[0].tobytes()
    assert ids.tobytes() == wanted[1].tobytes()
    return dict(counted)


def main() -> None:
    """Print a line for each set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SETS))
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of rows")
    arguments = parser.parse_args()
    print(
        f"{'set':12} {'rows':>7} {'d':>5} {'k':>4} {'hits':>8} {'keys':>8} {'limit':>6} "
        f"{'one by one':>10}  seconds"
    )
    for name in arguments.names or SETS:
        queries, rows, k, limit = SETS[name](arguments.scale, np.random.default_rng(5))
        start = time.perf_counter()
        counted = count(queries, rows, k)
        hits = counted["hits"] / len(queries)
        keys = (counted["rescored"] + counted["compared"]) / len(queries)
        print(
            f"{name:12} {len(rows):7} {rows.shape[1]:5} {k:4} {hits:8.1f} {keys:8.1f} "
            f"{limit:6.0f} {counted['given_up'] / len(queries):10.1%}  "
            f"{time.perf_counter() - start:.0f}{'' if keys <= limit else '  beyond the limit'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
