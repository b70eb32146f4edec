"""The correction of queries: neighbours, weights and residuals, block by block of queries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from resmem import _arrays, _core
from resmem._arrays import F32, F64, I64
from resmem._ingest import Spec, blocks
from resmem._rows import Snapshot
from resmem._stores import Head


def search(
    rows: Snapshot, queries: F32, largest: float, k: int, excluded: I64 | None, threads: int
) -> tuple[F64, I64, I64]:
    """Euclidean distances, ids and positions of the neighbours, (q, k) each."""
    distances, ids, positions, _ = _core.search(
        queries, largest, rows.keys_for_core(), k, "euclidean", excluded, threads,
        version=rows.version,
    )  # fmt: skip
    return distances, ids, positions


@dataclass(frozen=True)
class Corrector:
    """The rows and settings of a memory at one moment."""

    spec: Spec
    rows: Snapshot
    k: int  # no more than there are rows
    sigma: float
    strength: float

    def whole(
        self,
        embeddings: Any,
        outputs: Any,
        exclude_ids: Any,
        threads: int | None,
        columns: Any = None,
        with_base: bool = True,
    ) -> F64:
        """Correction (q, C) or (q, t), added to the base unless told otherwise."""
        source = _arrays.rows_of(embeddings, "embeddings")
        _arrays.embedding_layout(source, "embeddings", self.rows.d, "(q, d)")
        q = source.shape[0]
        wanted = _arrays.column_numbers(columns, q, self.rows.columns)
        if wanted is not None and self.rows.flat:
            raise ValueError("columns needs outputs of several columns, this memory has (n,)")
        result = np.empty((q, self.rows.columns if wanted is None else wanted.shape[-1]))
        start = 0
        for part in self.blocks(source, outputs, exclude_ids, threads, wanted, with_base):
            result[start : start + len(part)] = part
            start += len(part)
        return result[:, 0] if self.rows.flat else result

    def blocks(
        self,
        embeddings: Any,
        outputs: Any,
        exclude_ids: Any,
        threads: int | None,
        columns: I64 | None = None,
        with_base: bool = True,
    ) -> Iterator[F64]:
        """The same, block by block of queries, so that it takes bounded memory."""
        rows = self.rows
        workers = _arrays.thread_count(threads)
        # Shapes and dtypes are checked here, even of no rows; values block by block.
        source = _arrays.rows_of(embeddings, "embeddings")
        _arrays.embedding_layout(source, "embeddings", rows.d, "(q, d)")
        q = source.shape[0]
        excluded = _arrays.excluded_ids(exclude_ids, q)
        given = self._given(outputs, q) if with_base else None
        # Of a query: distance, id and position of k neighbours; base or sum, and its checks; key.
        taken = 24 * self.k + 16 * rows.columns + rows.preprocess.row_bytes(rows.d)
        for block in blocks(q, taken):
            with _arrays.float_state():
                queries, largest = rows.keys(
                    _arrays.block_of(source, block, "embeddings"), workers, block.start
                )
                select = None if columns is None else _columns_of(columns, block)
                base = None
                if with_base:
                    part = None if given is None else _arrays.block_of(given, block, "outputs")
                    base = self._base(queries, part, select, workers, block.start)
                out = None if excluded is None else excluded[block]
                corrected = self._corrected(queries, largest, out, base, select, workers)
            yield corrected
            del corrected
            for read in (source, given):
                _arrays.forget(read, block)

    def _corrected(
        self,
        queries: F32,
        largest: float,
        excluded: I64 | None,
        base: F64 | None,
        select: I64 | None,
        threads: int,
    ) -> F64:
        """Of one block of queries: the correction, added to the base in place if there is one."""
        rows, store = self.rows, self.spec.store
        residuals = [store.for_core(segment) for segment in rows.segments]
        head = (
            (store.weight, store.bias, self.rows.temperature) if isinstance(store, Head) else None
        )
        distances, _, positions = search(rows, queries, largest, self.k, excluded, threads)
        return _core.aggregate(
            residuals, distances, positions, self.sigma, rows.columns, self.strength, base,
            threads, head=head, select=select,
        )  # fmt: skip

    def _given(self, outputs: Any, q: int) -> Any:
        """Outputs of the queries, to be sliced; None where the head computes them."""
        if outputs is None and isinstance(self.spec.store, Head):
            return None
        given = _arrays.rows_of(outputs, "outputs")
        if len(given.shape) == 0 and outputs is not None:
            raise ValueError("outputs must have shape (n, C), got ()")
        self.spec.layout(given, self.rows.columns)
        _arrays.same_length("outputs", given.shape[0], "embeddings", q)
        return given

    def _base(
        self, queries: F32, outputs: Any, select: I64 | None, threads: int, first_row: int
    ) -> F64:
        """Base outputs of a block of queries, of the columns selected."""
        if outputs is None:
            assert isinstance(self.spec.store, Head)
            outputs = self.spec.store.logits(queries, threads)
        base = self.spec.outputs(outputs, first_row)
        if self.spec.output_kind == "logits":
            base = _core.softmax(base, self.rows.temperature, threads)
        if select is not None:
            base = np.take_along_axis(base, select, axis=1)
        return base.astype(np.float64)  # a copy: the sum is written into it


def _columns_of(columns: I64, block: slice) -> I64:
    """Columns wanted by the queries of a block, (b, t)."""
    if columns.ndim == 2:
        return columns[block]
    return np.tile(columns, (block.stop - block.start, 1))
