"""Ids of rows: sets of them as runs of consecutive numbers, (first, last) each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from resmem._base.arrays import I64

AT_ONCE = 1 << 20  # ids that are looked up at a time
NO_RUNS: I64 = np.empty((0, 2), dtype=np.int64)


def distinct(ids: I64) -> I64:
    """Each id once, ascending. (NumPy's ``unique`` may hash, which takes much memory.)"""
    ids = np.sort(ids)
    return ids[np.r_[True, ids[1:] != ids[:-1]]] if len(ids) else ids


def runs(ids: I64) -> I64:
    """Ids as runs of consecutive ones: sorted, first and last of each, (r, 2)."""
    ids = distinct(ids)
    ends = np.flatnonzero(np.diff(ids) != 1)
    if len(ids) == 0:
        return NO_RUNS
    return np.stack([ids[np.r_[0, ends + 1]], ids[np.r_[ends, len(ids) - 1]]], axis=1)


def joined(one: I64, other: I64) -> I64:
    """The runs of both, neighbours made one; no id is in both."""
    if not (len(one) and len(other)):
        return one if len(one) else other
    both = np.concatenate([one, other])
    both = both[np.argsort(both[:, 0])]
    apart = both[1:, 0] - 1 != both[:-1, 1]
    return np.stack([both[np.r_[True, apart], 0], both[np.r_[apart, True], 1]], axis=1)


def in_runs(ids: I64, of: I64) -> npt.NDArray[np.bool_]:
    """Which ids lie in one of the runs."""
    if len(of) == 0:
        return np.zeros(len(ids), dtype=np.bool_)
    at = np.searchsorted(of[:, 0], ids, side="right") - 1
    return np.asarray((at >= 0) & (ids <= of[np.maximum(at, 0), 1]))


def repeated(ids: I64) -> str:
    """Which of sorted ids is there twice; "" if none."""
    again = ids[1:] == ids[:-1]
    return f"two rows have the id {ids[1:][again][0]}" if again.any() else ""
