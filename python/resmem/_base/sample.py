"""Which rows stand for all of them, in memory that does not grow with their number."""

from __future__ import annotations

import numpy as np

from resmem._base.arrays import I64


def sample(n: int, most: int, seed: int = 0) -> I64:
    """Positions of at most ``most`` of ``n`` rows, ascending: all, or one of each of ``most``
    equal runs (CONTRACT.md, "Preprocessing")."""
    if n <= most:
        return np.arange(n)
    edges = np.arange(most + 1) * n // most
    return edges[:-1] + np.random.RandomState(seed).randint(0, np.diff(edges))
