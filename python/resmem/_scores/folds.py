"""The split of rows into folds."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from resmem._base import checks, convert
from resmem._base.arrays import I64, to_numpy


def fold_numbers(folds: Any, seed: int, targets: npt.NDArray[Any]) -> I64:
    """Return the fold of each row, (n,).

    ``folds`` gives these numbers, or how many folds there are; then rows are shuffled by ``seed``,
    and each class (integer targets) is spread evenly.
    """
    n = len(targets)
    if not isinstance(folds, (int, np.integer)):
        given = convert.integers(folds, "folds", "(n,)")
        checks.same_length("folds", len(given), "targets", n)
        if n == 0:
            raise ValueError("folds must have at least two numbers, got none")
        if (given == given[0]).all():
            raise ValueError(f"folds must have at least two numbers, got {given[0]} alone")
        return given
    count = _count(folds, n)
    order = np.random.RandomState(checks.seed(seed)).permutation(n)
    if targets.ndim == 1 and targets.dtype.kind in "iu":
        order = order[np.argsort(targets[order], kind="stable")]
    numbers = np.empty(n, dtype=np.int64)
    numbers[order] = np.arange(n) % count
    return numbers


def group_folds(folds: Any, seed: int, targets: npt.NDArray[Any], groups: I64) -> I64:
    """Return the fold of each row, (n,), such that each of the groups (n,) lies in one fold.

    ``folds`` gives these numbers, as for ``fold_numbers``, or how many there are, at most as many
    as groups. Then groups are dealt out by size, those of one size by the class of their first row.
    """
    n = len(targets)
    if not isinstance(folds, (int, np.integer)):
        given = fold_numbers(folds, seed, targets)
        _refuse_cut_groups(given, groups)
        return given
    _, first, number = np.unique(groups, return_index=True, return_inverse=True)
    sizes = np.bincount(number.reshape(-1))
    count = min(_count(folds, n), len(sizes))
    order = np.random.RandomState(checks.seed(seed)).permutation(len(sizes))
    classes = np.zeros(len(sizes), dtype=np.int64)
    if targets.ndim == 1 and targets.dtype.kind in "iu":
        classes = targets[first].astype(np.int64)
    order = order[np.lexsort((classes[order], -sizes[order]))]
    of_group = np.empty(len(sizes), dtype=np.int64)
    of_group[order] = np.arange(len(sizes)) % count
    return of_group[number.reshape(-1)]


def _refuse_cut_groups(folds: I64, groups: I64) -> None:
    """Refuse folds (n,) that part the rows of one of the groups (n,)."""
    order = np.lexsort((folds, groups))
    same = groups[order][1:] == groups[order][:-1]
    cut = np.flatnonzero(same & (folds[order][1:] != folds[order][:-1]))
    if len(cut):
        one, other = order[cut[0]], order[cut[0] + 1]
        raise ValueError(
            f"folds must keep each of the groups together, got group {groups[one]} in folds "
            f"{folds[one]} and {folds[other]}; give the number of folds, or leave groups out"
        )


def group_numbers(groups: Any, n: int) -> I64:
    """Return the checked numbers (n,) of the rows' groups."""
    given = convert.integers(groups, "groups", "(n,)")
    checks.same_length("groups", len(given), "targets", n)
    if n and (given == given[0]).all():
        raise ValueError(f"groups must have at least two numbers, got {given[0]} alone")
    return given


def time_folds(folds: Any, ranks: I64) -> I64:
    """Return the fold of each row, (n,): consecutive in time, and equal for equal ``ranks``."""
    if not isinstance(folds, (int, np.integer)):
        raise ValueError(
            "folds must be a number where times are given, which cut the rows themselves; "
            f"got an array of {len(folds)}"
        )
    n = len(ranks)
    found: I64 = ranks * _count(folds, n) // max(n, 1)
    if n and (found == found[0]).all():
        raise ValueError(
            "times (with before='own': those of the rows) must differ between folds, got one time "
            "for nearly all rows; leave them out"
        )
    return found


def time_ranks(times: Any, n: int) -> I64:
    """Return, for each row, how many rows have an earlier time, (n,)."""
    given = to_numpy(times, "times")
    if given.ndim != 1:
        raise ValueError(f"times must have shape (n,), got {given.shape}")
    if given.dtype.kind not in "iufM":
        raise TypeError(
            f"times must hold numbers or datetime64, got dtype {given.dtype}; convert them with "
            "numpy.asarray(times, dtype='datetime64[us]')"
        )
    checks.same_length("times", len(given), "targets", n)
    unknown = np.isnat(given) if given.dtype.kind == "M" else np.isnan(given)
    if unknown.any():
        raise ValueError(f"times: row {int(np.argmax(unknown))} has no time (NaN or NaT)")
    return np.searchsorted(np.sort(given), given).astype(np.int64)


def _count(folds: Any, n: int) -> int:
    """Return the checked number of folds of ``n`` rows."""
    count = checks.count(folds, "folds", least=2)
    if count > n:
        raise ValueError(f"folds must be at most the number of rows ({n}), got {count}")
    return count
