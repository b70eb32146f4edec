"""How unusual queries are among a memory's rows, by their distance to the nearest one."""

from __future__ import annotations

from typing import Any

import numpy as np

from resmem._base.arrays import F64
from resmem._base.blocks import blocks
from resmem._base.execution import Execution, execution_of
from resmem._correction.correct import Corrector
from resmem._correction.sampled_rows import searched_own_rows
from resmem._rows.snapshot import Snapshot
from resmem._rows.visibility import Visibility

_SAMPLE_ROWS = 1024  # most rows that are measured: tail probabilities are multiples of 1/1025


def novelty(corrector: Corrector, embeddings: Any, visible: Visibility, threads: int | None) -> F64:
    """See ``Memory.novelty``."""
    rows, execution = corrector.rows, execution_of(threads)
    if len(rows) < 2:
        raise ValueError(
            "novelty compares with the distances between rows: the memory must hold at least 2, "
            f"got {len(rows)}"
        )
    queries = corrector.queries_at_k(1, embeddings, visible, execution)
    usual = _own_distances(rows, execution)
    result = np.empty(len(queries))
    for block in blocks(len(queries), 24 + rows.preprocess.row_bytes(rows.d)):
        distances, _ = queries.find(block, *queries.queries(block))
        nearer = np.searchsorted(usual, distances[:, 0], side="left")
        result[block] = (1 + len(usual) - nearer) / (1 + len(usual))
        queries.forget(block)
    return result


def _own_distances(rows: Snapshot, execution: Execution) -> F64:
    """Return the distances of sampled rows to the nearest other row, ascending: (m,).

    The snapshot keeps them, so that they are measured once for these rows.
    """
    if "own distances" not in rows.measured:
        own = searched_own_rows(rows, 1, _SAMPLE_ROWS, execution)
        rows.measured["own distances"] = np.sort(own.distances[:, 0])
    found: F64 = rows.measured["own distances"]
    return found
