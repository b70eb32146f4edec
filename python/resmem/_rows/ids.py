"""Ids of rows. A set of ids is kept as runs of consecutive ids, (first, last) each, (r, 2)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from resmem._base.arrays import I64

IDS_PER_STEP = 1 << 20  # ids that are looked up at a time, which bounds memory
NO_RUNS: I64 = np.empty((0, 2), dtype=np.int64)


def distinct(ids: I64) -> I64:
    """Return each id once, ascending. (NumPy's ``unique`` may hash, which takes much memory.)"""
    ids = np.sort(ids)
    return ids[np.r_[True, ids[1:] != ids[:-1]]] if len(ids) else ids


def runs(ids: I64) -> I64:
    """Return the ids as ascending runs, (r, 2)."""
    ids = distinct(ids)
    ends = np.flatnonzero(np.diff(ids) != 1)
    if len(ids) == 0:
        return NO_RUNS
    return np.stack([ids[np.r_[0, ends + 1]], ids[np.r_[ends, len(ids) - 1]]], axis=1)


def joined(one: I64, other: I64) -> I64:
    """Return the union of two sets of runs; runs that touch or overlap become one."""
    if not (len(one) and len(other)):
        return one if len(one) else other
    both = np.concatenate([one, other])
    both = both[np.argsort(both[:, 0])]
    reach = np.maximum.accumulate(both[:, 1])
    apart = both[1:, 0] - 1 > reach[:-1]
    return np.stack([both[np.r_[True, apart], 0], reach[np.r_[apart, True]]], axis=1)


def cut(from_runs: I64, ids: I64) -> I64:
    """Return the runs without these ids, all of which lie in them. Neither holds negative ids."""
    gone, left = runs(ids).astype(np.uint64), from_runs.astype(np.uint64)
    one = np.uint64(1)
    first = np.sort(np.concatenate([left[:, 0], gone[:, 1] + one]))
    end = np.sort(np.concatenate([left[:, 1] + one, gone[:, 0]]))
    pieces = np.stack([first, end - one], axis=1)[first < end]
    return np.asarray(pieces, dtype=np.int64)


def in_runs(ids: I64, ascending_runs: I64) -> npt.NDArray[np.bool_]:
    """Tell which ids lie in one of the runs."""
    if len(ascending_runs) == 0:
        return np.zeros(len(ids), dtype=np.bool_)
    at = np.searchsorted(ascending_runs[:, 0], ids, side="right") - 1
    return np.asarray((at >= 0) & (ids <= ascending_runs[np.maximum(at, 0), 1]))


def repeated(ids: I64) -> str:
    """Say which of the sorted ids occurs twice; "" if none does."""
    same = ids[1:] == ids[:-1]
    return f"two rows have the id {ids[1:][same][0]}" if same.any() else ""
