"""How often the intervals of a monitor fail at some look, and how soon they tell.

``python benchmarks/monitor.py`` draws 500 streams of 2,000 gains of each kind, looks at both
intervals after every 50, and counts the streams in which one of them ever missed the mean gain that
was to be expected. It also prints after how many rows half of the streams know that a memory helps.
"""

from __future__ import annotations

import argparse

import numpy as np

from resmem._evaluation.monitor import _Record

ROWS, LOOK, WINDOW = 2_000, 50, 400


def coin(rng):  # type: ignore[no-untyped-def]
    """Gains of 1 and -1."""
    return rng.choice([-1.0, 1.0], ROWS), np.zeros(ROWS)


def rare(rng):  # type: ignore[no-untyped-def]
    """One row in a hundred loses what the others gain."""
    return np.where(rng.random(ROWS) < 0.01, -1.0, 0.01 / 0.99), np.zeros(ROWS)


def drifting(rng):  # type: ignore[no-untyped-def]
    """A memory that helps less and less, and then harms."""
    expected = np.linspace(0.1, -0.1, ROWS)
    return expected + rng.uniform(-0.5, 0.5, ROWS), expected


def dependent(rng):  # type: ignore[no-untyped-def]
    """What is to be expected of a row has the sign of the row before."""
    gains, expected, last = np.empty(ROWS), np.empty(ROWS), 0.1
    for i, noise in enumerate(rng.uniform(-0.5, 0.5, ROWS)):
        expected[i] = 0.3 * np.sign(last)
        gains[i] = last = expected[i] + noise
    return gains, expected


def misses(gains, expected, confidence: float) -> tuple[bool, bool]:  # type: ignore[no-untyped-def]
    """Tell whether the interval of all rows, and that of the last ones, ever miss the truth."""
    record = _Record("brier", 1.0, confidence, WINDOW, False)
    missed = [False, False]
    for end in range(LOOK, ROWS + 1, LOOK):
        record = record.after(gains[end - LOOK : end])
        for at, found in enumerate((record.gain(), record.recent())):
            true = expected[end - found.rows : end].mean()
            missed[at] |= not found.low <= true <= found.high
    return missed[0], missed[1]


def rows_to_know(rng, mean: float, spread: float) -> int:  # type: ignore[no-untyped-def]
    """Return after how many rows it is known that a memory helps."""
    record = _Record("brier", 1.0, 0.95, 10**6, False)
    while record.helps() is None:
        record = record.after(rng.normal(mean, spread, LOOK))
    return record.total.rows


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--confidence", type=float, default=0.8)
    chosen = parser.parse_args()
    risk = (1 - chosen.confidence) / 2
    print(f"{chosen.streams} streams; each interval may fail in {risk:.0%} of them")
    for kind in (coin, rare, drifting, dependent):
        rng = np.random.default_rng(7)
        found = [misses(*kind(rng), chosen.confidence) for _ in range(chosen.streams)]
        total, recent = np.mean(found, axis=0)
        print(f"{kind.__name__:10} all rows {total:6.1%}, last rows {recent:6.1%}")
    for mean, spread in ((0.05, 0.3), (0.02, 0.2), (0.01, 0.2)):
        rng = np.random.default_rng(8)
        needed = np.median([rows_to_know(rng, mean, spread) for _ in range(20)])
        once = (1.96 * spread / mean) ** 2
        print(f"gain {mean} +- {spread}: known after {needed:.0f} rows (one look: {once:.0f})")


if __name__ == "__main__":
    main()
