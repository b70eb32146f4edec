"""The rule of CONTRACT.md for ``sigma="auto"``."""

from __future__ import annotations

import numpy as np

from resmem._base.execution import DEFAULT
from resmem._base.sample import sample
from resmem._correction.correct import NeighbourSearch
from resmem._keys.stored import widen_keys
from resmem._rows.snapshot import Snapshot

_SAMPLE_ROWS = 256  # most rows that are measured


def measure(rows: Snapshot, k: int) -> float:
    """Return the median, over sampled rows, of the mean of ``D_j - D_1`` over their neighbours."""
    n = len(rows)
    k = min(k, n - 1)
    if k < 1:
        return 1.0
    chosen = list(rows.sample(sample(n, _SAMPLE_ROWS)))
    queries = np.concatenate([widen_keys(segment["keys"][at]) for segment, at in chosen])
    own = np.concatenate([segment.ids_of(at) for segment, at in chosen])[:, None]
    largest = max(segment.keys_max for segment, _ in chosen)
    search = NeighbourSearch(rows, queries, largest, k, own, DEFAULT, prepare=False)
    distances, _, _ = search.neighbours()
    gaps = np.add.accumulate(distances - distances[:, :1], axis=1)[:, -1] / k
    ordered = np.sort(gaps)
    half = len(ordered) // 2
    median = ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
    if median > 0:
        return float(median)
    positive = gaps[gaps > 0]
    return float(np.add.accumulate(positive)[-1] / len(positive)) if len(positive) else 1.0
