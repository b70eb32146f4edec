"""Samples of rows, drawn in memory that does not grow with the number of rows."""

from __future__ import annotations

import numpy as np

from resmem._base.arrays import I64


def sample(n: int, most: int, seed: int = 0) -> I64:
    """Return ascending positions of at most ``most`` of ``n`` rows.

    They are all positions, or one from each of ``most`` equal runs (CONTRACT.md, "Preprocessing").
    """
    if n <= most:
        return np.arange(n)
    edges = np.arange(most + 1) * n // most
    return edges[:-1] + np.random.RandomState(seed).randint(0, np.diff(edges))
