"""What it costs to ask only some rows: ``among``, ``before`` and ``exclude_groups``.

``python benchmarks/visibility.py`` times searches in turn and prints medians and quartiles of their
ratios. A memory of 200,000 rows is asked among 200 of them, beside a search of a copy of these, and
among half of them, beside the search of all; with and without an index.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import resmem


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def ratio(call: Callable[[], Any], other: Callable[[], Any], rounds: int) -> str:
    """Return the median and the quartiles of the time of a call over that of another."""
    call(), other()
    ratios = [seconds(call) / seconds(other) for _ in range(rounds)]
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    n, classes = 200_000, 4
    outputs, targets = np.zeros((n, classes), np.float32), rng.integers(0, classes, n)
    resmem.show_versions()
    for d in (16, 64, 256):
        # Rows of clusters, as embeddings are; uniform ones would favour no index.
        centres = rng.standard_normal((200, d))
        keys = centres[rng.integers(0, 200, n + 2000)] + 0.5 * rng.standard_normal((n + 2000, d))
        keys = keys.astype(np.float32)
        keys, fresh = keys[:n], keys[n:]
        some, half = np.sort(rng.choice(n, 200, False)), rng.random(n) < 0.5
        for prepared in (False, True):
            mem = resmem.Memory(k=20, sigma=1.0, auto_prepare=False)
            mem.fit(
                keys, outputs, targets, times=rng.integers(0, 100, n), groups=np.arange(n) // 20
            )
            copy = resmem.Memory(k=20, sigma=1.0, auto_prepare=False)
            copy.fit(keys[some], outputs[some], targets[some])
            if prepared:
                mem.prepare()
            for q in (1, 2000):
                asked = fresh[:q]

                def of(m: resmem.Memory, asked: Any = asked, **asks: Any) -> Callable[[], Any]:
                    return lambda: m.kneighbors(asked, threads=options.threads, **asks)

                groups = rng.integers(0, n // 20, q)
                print(
                    f"d={d:<4} q={q:<5} {'prepared' if prepared else 'plain':9}"
                    f" 200 rows / their copy {ratio(of(mem, among=some), of(copy), options.rounds)}"
                    f" | half / all {ratio(of(mem, among=half), of(mem), options.rounds)}"
                    f" | before, half / all {ratio(of(mem, before=50), of(mem), options.rounds)}"
                    f" | a group out / all "
                    f"{ratio(of(mem, exclude_groups=groups), of(mem), options.rounds)}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
