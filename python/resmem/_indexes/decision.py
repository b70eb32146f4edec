"""The decision whether some rows have an index, with that index, and its form in a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import resmem._core as _core

Index: TypeAlias = "_core.Cascade | _core.Tree"


# By the name of the kind, as shown and as used in files.
KINDS: dict[str, type[_core.Cascade] | type[_core.Tree]] = {
    "cascade": _core.Cascade,
    "tree": _core.Tree,
}


LEAST_BATCH = 16  # queries; fewer are bound by memory bandwidth and measured one at a time


@dataclass(frozen=True)
class Decision:
    """Whether the first rows of a segment have an index, and the measurements that decided it."""

    rows: int  # number of rows of the segment that were measured, from the first on
    keys: npt.NDArray[Any]  # the array that the index was built from
    index: Index | None
    tried: tuple[dict[str, Any], ...]  # the measurements of each trial
    batches: bool  # whether the index is used for batches of queries
    singles: bool  # whether it is used for fewer than ``LEAST_BATCH`` queries
    reason: str
    stored: tuple[str, int] | None = None  # uuid of the file and number of the segment that hold it

    def serves(self, queries: int) -> bool:
        """Whether the index is used for this many queries."""
        return self.singles if queries < LEAST_BATCH else self.batches

    def described(self) -> dict[str, Any]:
        """Return what ``Memory.info`` shows of it."""
        kind = "float32" if self.index is None else self.index.kind
        return {
            "rows": self.rows,
            "search": kind if self.batches else "float32",
            "search_few": kind if self.singles else "float32",
            "reason": self.reason,
            "bytes": 0 if self.index is None else self.index.nbytes,
            "tried": list(self.tried),
        }

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays that a file keeps, by "kind/name"; none without an index."""
        if self.index is None:
            return {}
        serves = np.array([self.batches, self.singles], dtype=np.uint8)
        arrays = {**self.index.arrays(), "serves": serves}
        return {f"{self.index.kind}/{name}": array for name, array in arrays.items()}


def decision_from_file(
    kind: str, arrays: dict[str, npt.NDArray[Any]], keys: npt.NDArray[Any],
    stored: tuple[str, int], metric: str = "euclidean",
) -> Decision | None:  # fmt: skip
    """Return the decision that was saved as these arrays; None if they contradict each other.

    ``metric`` is the one by which the rows are searched.
    """
    try:
        index = KINDS[kind].of({name: array.ravel() for name, array in arrays.items()})
        batches, singles = (bool(serves) for serves in arrays["serves"])
    except (ValueError, TypeError, KeyError):
        return None
    if len(index) > len(keys) or index.dimensions != keys.shape[1]:
        return None
    if not index.serves_metric(metric):
        return None
    reason = "saved in the file"
    return Decision(len(index), keys, index, (), batches, singles, reason, stored)
