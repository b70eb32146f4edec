"""The rule of CONTRACT.md for ``sigma="auto"``."""

from __future__ import annotations

import numpy as np

from resmem._correction.sampled_rows import searched_own_rows, typical
from resmem._rows.snapshot import Snapshot

_SAMPLE_ROWS = 256  # most rows that are measured


def measure(rows: Snapshot, k: int) -> float:
    """Return the median, over sampled rows, of the mean of ``D_j - D_1`` over their neighbours."""
    k = min(k, len(rows) - 1)
    if k < 1:
        return 1.0
    distances = searched_own_rows(rows, k, _SAMPLE_ROWS).distances
    return typical(np.add.accumulate(distances - distances[:, :1], axis=1)[:, -1] / k)
