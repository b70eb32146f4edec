"""Searches that are skipped while the memory's own text goes on as the written one does.

The rows that were found for a token have successors in the memory's text. Those whose token is the
one that was written next are likely neighbours of the next query too. While enough of these are
left, they alone are looked at; otherwise all rows are searched, exactly (after RetoMaton, Alon et
al., ICML 2022, without its clusters).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import resmem

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_BLOCK = 65_536  # rows whose targets are read at a time


@dataclass
class Searches:
    """How many tokens were searched for, and for how many a chain stood in for the search."""

    made: int = 0
    skipped: int = 0

    @property
    def saved(self) -> float:
        """The share of searches that were skipped."""
        return self.skipped / max(1, self.made + self.skipped)


class Chains:
    """Corrections token by token, by neighbours that are followed where that is possible.

    Parameters
    ----------
    memory : resmem.Memory
        Its rows are tokens whose ids follow the text: the row after ``i`` is ``i + 1`` if it has
        the same group, or if rows have no groups. Rows that come later are found by searches
        alone; make other chains after rows were removed or replaced.
    least : int
        The number of successors that must be left; otherwise all rows are searched.
    """

    def __init__(self, memory: resmem.Memory, least: int) -> None:
        if least < 1:
            raise ValueError(f"chains must be at least 1, or 0 for none, got {least}")
        self.memory, self.least, self.searches = memory, least, Searches()
        self._ids = np.sort(memory.ids)
        blocks = [self._ids[at : at + _BLOCK] for at in range(0, len(self._ids), _BLOCK)]
        targets, groups = zip(*(_tokens_of(memory, block) for block in blocks), strict=True)
        self._targets, group = np.concatenate(targets), np.concatenate(groups)
        goes_on = (np.diff(self._ids) == 1) & (group[1:] == group[:-1])
        self._goes_on = np.append(goes_on, False)

    def followed(self, ids: I64, token: int) -> I64:
        """Return the rows behind those of ``ids`` whose target is this token."""
        at = np.searchsorted(self._ids, ids).clip(max=len(self._ids) - 1)
        at = at[self._ids[at] == ids]  # neither padding, nor rows that came later
        kept = at[(self._targets[at] == token) & self._goes_on[at]]
        behind: I64 = self._ids[kept + 1]
        return behind

    def corrected(
        self, embedding: Any, outputs: Any, ids: I64, columns: Any = None
    ) -> tuple[F64, I64]:
        """Return the probabilities (C,) of one token and the rows that gave them.

        ``ids``: the rows that chains lead to. ``columns``: as for ``Memory.predict_proba``.
        """
        if len(ids) >= self.least:
            self.searches.skipped += 1
        else:
            self.searches.made += 1
            found: I64 = self.memory.kneighbors(embedding[None])[1][0]
            ids = found[found >= 0]
        made = self.memory.predict_proba(embedding[None], outputs[None], among=ids, columns=columns)
        return made[0], ids

    def walked(
        self, embeddings: Any, outputs: Any, tokens: Any, ids: I64, columns: Any = None
    ) -> tuple[F64, I64]:
        """Return the probabilities of consecutive tokens, and the rows found for the last one.

        ``tokens`` (t - 1,): what was written after each of them but the last. ``ids``: the rows
        that chains lead to from what was before. ``columns`` (t, m): those of each token.
        """
        rows = []
        for step, (embedding, logits) in enumerate(zip(embeddings, outputs, strict=True)):
            if step:
                ids = self.followed(ids, int(tokens[step - 1]))
            asked = None if columns is None else columns[step]
            row, ids = self.corrected(embedding, logits, ids, asked)
            rows.append(row)
        return np.stack(rows), ids


def _tokens_of(memory: resmem.Memory, ids: I64) -> tuple[npt.NDArray[Any], I64]:
    rows = memory.get(ids)
    groups = rows.attributes.get("groups")
    return rows.targets, np.zeros(len(ids), np.int64) if groups is None else groups
