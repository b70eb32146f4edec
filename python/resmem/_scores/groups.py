"""Groups of rows: labels of any kind, as numbers."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from resmem._base import checks
from resmem._base.arrays import I64, to_numpy


def labelled_groups(groups: Any, owner: str, n: int) -> tuple[I64, list[Hashable]]:
    """Return the group of each row (n,), numbered as they first occur, and the groups' labels.

    ``groups`` holds a label for each row: an array (n,), or a list of anything that can be a key
    of a dict. ``owner`` names what has ``n`` rows.
    """
    labels = groups if isinstance(groups, (list, tuple)) else to_numpy(groups, "groups")
    shape = np.shape(labels) if isinstance(labels, np.ndarray) else (len(labels),)
    if len(shape) != 1:
        raise ValueError(f"groups must have shape (n,), got {shape}")
    checks.same_length("groups", len(labels), owner, n)
    listed = labels.tolist() if isinstance(labels, np.ndarray) else labels
    known: dict[Hashable, int] = {}
    numbers = np.empty(n, dtype=np.int64)
    for row, label in enumerate(listed):
        if not isinstance(label, Hashable) or label != label:
            raise ValueError(
                f"groups must be labels such as numbers, strings or tuples, got {label!r} in row "
                f"{row}"
            )
        numbers[row] = known.setdefault(label, len(known))
    return numbers, list(known)
