"""The split of rows into folds."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from resmem._base import checks, convert
from resmem._base.arrays import I64


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
    count = checks.count(folds, "folds", least=2)
    if count > n:
        raise ValueError(f"folds must be at most the number of rows ({n}), got {count}")
    order = np.random.RandomState(checks.count(seed, "seed", least=0)).permutation(n)
    if targets.ndim == 1 and targets.dtype.kind in "iu":
        order = order[np.argsort(targets[order], kind="stable")]
    numbers = np.empty(n, dtype=np.int64)
    numbers[order] = np.arange(n) % count
    return numbers
