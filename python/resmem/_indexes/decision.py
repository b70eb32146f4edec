"""What was decided for some rows: the index that was built of them, and what a file keeps of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from resmem import _core

Index: TypeAlias = "_core.Cascade | _core.Tree"


KINDS: dict[str, type[_core.Cascade] | type[_core.Tree]] = {
    "cascade": _core.Cascade,
    "tree": _core.Tree,
}


FEW = 16  # fewer queries are bound by memory: they are measured one after the other


def kind_of(index: Index) -> str:
    """Its name, for people and in files."""
    return next(name for name, kind in KINDS.items() if isinstance(index, kind))


@dataclass(frozen=True)
class Decision:
    """What was measured of some rows, and what came of it."""

    rows: int  # the first ones of the segment
    keys: npt.NDArray[Any]  # the array it was built of
    index: Index | None
    tried: tuple[dict[str, Any], ...]  # all trials, described
    batches: bool  # whether it serves batches of queries
    singles: bool  # whether it serves few queries
    reason: str
    stored: tuple[str, int] | None = None  # the file and the segment where it lies

    def serves(self, queries: int) -> bool:
        return self.singles if queries < FEW else self.batches

    def described(self) -> dict[str, Any]:
        """For people and tools."""
        kind = "float32" if self.index is None else kind_of(self.index)
        return {
            "rows": self.rows,
            "search": kind if self.batches else "float32",
            "search_few": kind if self.singles else "float32",
            "reason": self.reason,
            "bytes": 0 if self.index is None else self.index.nbytes,
            "tried": list(self.tried),
        }

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What a file keeps of it, by kind and name; nothing if nothing was built."""
        if self.index is None:
            return {}
        serves = np.array([self.batches, self.singles], dtype=np.uint8)
        arrays = {**self.index.arrays(), "serves": serves}
        return {f"{kind_of(self.index)}/{name}": array for name, array in arrays.items()}


def saved(
    kind: str, arrays: dict[str, npt.NDArray[Any]], keys: npt.NDArray[Any], stored: tuple[str, int]
) -> Decision | None:
    """The decision of which a file keeps these arrays; none if they make no sense."""
    try:
        index = KINDS[kind].of({name: array.ravel() for name, array in arrays.items()})
        batches, singles = (bool(served) for served in arrays["serves"])
    except (ValueError, TypeError, KeyError):
        return None
    if len(index) > len(keys) or index.dimensions != keys.shape[1]:
        return None
    if isinstance(index, _core.Cascade) and not index.euclidean:  # as a memory's searches are
        return None
    reason = "saved in the file"
    return Decision(len(index), keys, index, (), batches, singles, reason, stored)
