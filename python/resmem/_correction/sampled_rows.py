"""A sample of a memory's own rows, each searched for without itself: what is usual among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from resmem._base.arrays import F64, I64
from resmem._base.execution import DEFAULT, Execution
from resmem._base.sample import sample
from resmem._correction.correct import NeighbourSearch
from resmem._keys.stored import widen_keys
from resmem._rows.segment import Segment
from resmem._rows.snapshot import Snapshot
from resmem._rows.visibility import VisibleRows


@dataclass(frozen=True)
class OwnRows:
    """Sampled rows, at most m, and their neighbours among all others."""

    rows: list[tuple[Segment, I64]]  # segments, and the sampled rows in each
    distances: F64  # (m, k)
    positions: I64  # (m, k)


def searched_own_rows(rows: Snapshot, k: int, most: int, execution: Execution = DEFAULT) -> OwnRows:
    """Return at most ``most`` of the rows, of which there must be some, with their neighbours."""
    chosen = list(rows.sample(sample(len(rows), most)))
    queries = np.concatenate([widen_keys(segment["keys"][at]) for segment, at in chosen])
    own = np.concatenate([segment.ids_of(at) for segment, at in chosen])[:, None]
    seen = VisibleRows(excluded=own)
    largest = max(segment.keys_max for segment, _ in chosen)
    search = NeighbourSearch(rows, queries, largest, k, seen, execution, prepare=False)
    distances, _, positions = search.neighbours()
    return OwnRows(chosen, distances, positions)


def typical(values: F64) -> float:
    """Return the median of numbers (m,), none negative; if it is 0, the mean of the positive ones.

    Where none is positive, or there are none, this is 1.
    """
    if len(values) == 0:
        return 1.0
    ordered = np.sort(values)
    half = len(ordered) // 2
    median = ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
    if median > 0:
        return float(median)
    positive = values[values > 0]
    return float(np.add.accumulate(positive)[-1] / len(positive)) if len(positive) else 1.0
