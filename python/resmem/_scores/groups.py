"""Groups of rows: labels of any kind, as numbers."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import numpy.typing as npt

from resmem._base.arrays import I64, to_numpy


def labelled_groups(groups: Any) -> tuple[I64, list[Hashable]]:
    """Return the group of each row (n,), numbered as they first occur, and the groups' labels.

    ``groups`` holds a label for each row: an array (n,), or a list of anything that can be a key
    of a dict. Labels that NumPy holds become Python's.
    """
    if isinstance(groups, (list, tuple)):
        listed = [_plain(label) for label in groups]
    else:
        array = to_numpy(groups, "groups")
        if array.ndim != 1:
            raise ValueError(f"groups must have shape (n,), got {array.shape}")
        listed = _dates(array) if array.dtype.kind in "mM" else array.tolist()
    known: dict[Hashable, int] = {}
    numbers = np.empty(len(listed), dtype=np.int64)
    for row, label in enumerate(listed):
        if not _is_label(label):
            raise ValueError(
                f"groups must be labels such as numbers, strings or tuples, got {label!r} in row "
                f"{row}"
            )
        numbers[row] = known.setdefault(label, len(known))
    return numbers, list(known)


def numbered_groups(groups: Any) -> I64:
    """Return the number of the group of each row (n,): integers as they are, other labels in the
    order in which they first occur."""
    numbers, labels = labelled_groups(groups)
    if labels and all(type(label) is int and -(2**63) <= label < 2**63 for label in labels):
        return np.array(labels, dtype=np.int64)[numbers]
    return numbers


def _is_label(label: Any) -> bool:
    """Return whether rows can be told apart by this: it is known, and can be a key of a dict."""
    try:
        hash(label)
    except TypeError:
        return False
    return label is not None and bool(label == label)  # NaN and NaT differ from themselves


def _plain(label: Any) -> Any:
    """Return a label as Python has it."""
    if isinstance(label, (np.datetime64, np.timedelta64)):
        return _dates(np.array([label]))[0]
    return label.item() if isinstance(label, np.generic) else label


def _dates(array: npt.NDArray[Any]) -> list[Any]:
    """Return dates and times as those of Python, unless they are finer than microseconds."""
    whole = array
    if np.datetime_data(array.dtype)[0] in ("ns", "ps", "fs", "as"):  # Python would make integers
        whole = array.astype(f"{array.dtype.kind}8[us]")
    return whole.tolist() if (whole == array).all() else list(array)
