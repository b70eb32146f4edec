"""Rows of an index: keys alone, compared by any metric."""

from __future__ import annotations

from typing import Any

import numpy as np

from resmem._base import convert
from resmem._base.arrays import Array, Keys, all_finite
from resmem._base.execution import DEFAULT, Execution
from resmem._base.metric import is_euclidean
from resmem._keys.preprocess import FittedPreprocess
from resmem._keys.rounding import (
    KeyPrecision,
    Neighbourhood,
    comparable,
    sample_positions,
)
from resmem._keys.stored import narrow_keys
from resmem._rows import plausible
from resmem._rows.ingest import Incoming
from resmem._rows.snapshot import Snapshot
from resmem._rows.spec import Spec


def index_keys(
    vectors: Any, name: str, rows: Snapshot, execution: Execution = DEFAULT, first_row: int = 0
) -> tuple[Keys, float]:
    """Return the keys of rows or queries (n, d), which ``name`` calls, and a bound of their
    |values|, as those of ``rows`` are made."""
    d, offset = rows.d, rows.preprocess.arrays.get("offset")
    if rows.preprocess.wide:
        keys, largest = convert.wide_vectors(vectors, name, d, execution, first_row)
        return comparable(keys, largest, rows.metric)
    if offset is not None:
        vectors = convert.wide_vectors(vectors, name, d, execution, first_row)[0] - offset
    return convert.vectors(vectors, name, d, execution, first_row)


class IncomingKeys(Incoming):
    """Rows (n, d) that a caller gives to an index. Values are checked in ``write``."""

    name = "rows"

    def __init__(
        self, spec: Spec, rows: Any, ids: Any, like: Snapshot | None = None, times: Any = None,
        groups: Any = None,
    ) -> None:  # fmt: skip
        self.spec = spec
        self.names = plausible.column_names(rows), None
        if like is not None:
            plausible.check_names(
                rows, "rows", like.embedding_names, "the first rows", "index.columns"
            )
        self.embeddings = convert.real(rows, "rows", "(n, d)")
        convert.check_embedding_layout(self.embeddings, "rows", like.d if like else None)
        self.n, self.d = self.embeddings.shape
        self.key_width, self.columns, self.flat = self.d, 1, False
        self.ids = None if ids is None else convert.row_ids(ids, self.n, "rows")
        self._take_attributes(like, times=times, groups=groups)

    def refuse_rounding(self, into: Snapshot) -> None:
        """Do nothing: later rows are rounded as the first ones are."""

    def _precision(self, made_by: FittedPreprocess) -> KeyPrecision:
        """Return the key precision that these rows need, as ``resmem.search`` chooses it."""
        rows = self.embeddings
        if self.spec.key_dtype != "auto" or self.n == 0 or convert.fits_float32(rows.dtype):
            return KeyPrecision()
        if convert.beyond_float32(rows):
            return KeyPrecision("float64")
        sampled = rows[sample_positions(self.n, self.d)].astype(np.float64)
        if not all_finite(sampled):
            return KeyPrecision()  # ``write`` refuses the row that is not, and names it
        around = Neighbourhood(sampled, self.n, self.spec.metric)
        return around.key_precision(may_shift=is_euclidean(self.spec.metric))

    def _block(self, block: slice, into: Snapshot) -> tuple[dict[str, Array], float, float]:
        part, first = self.embeddings[block], block.start
        keys, largest = index_keys(part, "rows", into, DEFAULT, first)
        return {"keys": narrow_keys(keys, self.spec.key_dtype, first)}, largest, 0.0
