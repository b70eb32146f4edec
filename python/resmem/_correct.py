"""The correction of queries: neighbours, weights and residuals, block by block of queries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from resmem import _arrays, _core
from resmem._arrays import F32, F64, I64
from resmem._ingest import Spec, blocks
from resmem._rows import Snapshot
from resmem._simplex import SimplexMap
from resmem._stores import Head


def search(
    rows: Snapshot, queries: F32, largest: float, k: int, excluded: I64 | None, threads: int
) -> tuple[F64, I64, I64]:
    """Euclidean distances, ids and positions of the neighbours, (q, k) each."""
    rows.plan(len(queries), k, threads)
    distances, ids, positions, _ = _core.search(
        queries, largest, rows.keys_for_core(len(queries)), k, "euclidean", excluded, threads,
        version=rows.version,
    )  # fmt: skip
    return distances, ids, positions


class Searched:
    """Queries whose neighbours are searched for, block by block."""

    name = "embeddings"

    def __init__(
        self, rows: Snapshot, k: int, embeddings: Any, exclude_ids: Any, threads: int
    ) -> None:
        # Shapes and dtypes are checked here, even of no rows; values block by block.
        self._source = _arrays.rows_of(embeddings, "embeddings")
        _arrays.embedding_layout(self._source, "embeddings", rows.d, "(q, d)")
        self._rows, self.k, self._threads = rows, k, threads
        self._excluded = _arrays.excluded_ids(exclude_ids, len(self))

    def __len__(self) -> int:
        return int(self._source.shape[0])

    def queries(self, block: slice) -> tuple[F32, float]:
        """What is searched for, and its largest absolute value."""
        part = _arrays.block_of(self._source, block, "embeddings")
        return self._rows.keys(part, self._threads, block.start)

    def find(self, block: slice, queries: F32 | None, largest: float) -> tuple[F64, I64]:
        """Distances and positions of their neighbours."""
        assert queries is not None
        excluded = None if self._excluded is None else self._excluded[block]
        found = search(self._rows, queries, largest, self.k, excluded, self._threads)
        return found[0], found[2]

    def forget(self, block: slice) -> None:
        _arrays.forget(self._source, block)


class Given:
    """Queries whose neighbours the caller knows."""

    name = "distances"

    def __init__(self, distances: F64, positions: I64) -> None:
        self._distances, self._positions = distances, positions
        self.k = distances.shape[1]

    def __len__(self) -> int:
        return len(self._distances)

    def queries(self, block: slice) -> tuple[None, float]:
        return None, 0.0

    def find(self, block: slice, queries: F32 | None, largest: float) -> tuple[F64, I64]:
        return self._distances[block], self._positions[block]

    def forget(self, block: slice) -> None:
        pass


Queries: TypeAlias = "Searched | Given"


@dataclass(frozen=True)
class Corrector:
    """The rows and settings of a memory at one moment."""

    spec: Spec
    rows: Snapshot
    k: int  # no more than there are rows
    sigma: float
    strength: float

    def searched(self, embeddings: Any, exclude_ids: Any, threads: int | None) -> Searched:
        """Queries that are searched for with the memory's ``k``."""
        workers = _arrays.thread_count(threads)
        return Searched(self.rows, self.k, embeddings, exclude_ids, workers)

    def whole(
        self,
        queries: Queries,
        outputs: Any,
        threads: int | None,
        columns: Any = None,
        with_base: bool = True,
        to: SimplexMap | None = None,
    ) -> F64:
        """Correction (q, C) or (q, t), added to the base unless told otherwise."""
        q = len(queries)
        wanted = _arrays.column_numbers(columns, q, self.rows.columns)
        if wanted is not None and self.rows.flat:
            raise ValueError("columns needs outputs of several columns, this memory has (n,)")
        result = np.empty((q, self.rows.columns if wanted is None else wanted.shape[-1]))
        start = 0
        for part in self.blocks(queries, outputs, threads, wanted, with_base, to):
            result[start : start + len(part)] = part
            start += len(part)
        return result[:, 0] if self.rows.flat else result

    def blocks(
        self,
        queries: Queries,
        outputs: Any,
        threads: int | None,
        columns: I64 | None = None,
        with_base: bool = True,
        to: SimplexMap | None = None,
    ) -> Iterator[F64]:
        """The same, block by block of queries, so that it takes bounded memory.

        ``to``: what the sums are mapped by.
        """
        workers = _arrays.thread_count(threads)
        given = self.given_outputs(outputs, len(queries), queries.name) if with_base else None
        # Of a query: distance, id and position of k neighbours; base or sum, and its checks; key.
        rows = self.rows
        outputs_taken = (16 if to is None else 24) * rows.columns  # with a map, the base as well
        taken = 24 * queries.k + outputs_taken + rows.preprocess.row_bytes(rows.d)
        for block in blocks(len(queries), taken):
            with _arrays.float_state():
                keys, largest = queries.queries(block)
                select = None if columns is None else _columns_of(columns, block)
                base = None
                if with_base:
                    base = self.base(keys, given, block, workers)
                    if select is not None:
                        base = np.take_along_axis(base, select, axis=1)
                distances, positions = queries.find(block, keys, largest)
                before = None if base is None or to is None else base.copy()
                corrected = self.aggregate(distances, positions, base, select, workers)
                if to is not None:
                    to.apply(corrected, before, self.strength, workers)
            yield corrected
            del corrected
            queries.forget(block)
            _arrays.forget(given, block)

    def aggregate(
        self, distances: F64, positions: I64, base: F64 | None, select: I64 | None, threads: int
    ) -> F64:
        """The correction by these neighbours, added to the base in place if there is one."""
        store = self.spec.store
        residuals = [store.for_core(segment) for segment in self.rows.segments]
        head = (
            (store.weight, store.bias, self.rows.temperature) if isinstance(store, Head) else None
        )
        return _core.aggregate(
            residuals, distances, positions, self.sigma, self.rows.columns, self.strength, base,
            threads, head=head, select=select,
        )  # fmt: skip

    def given_outputs(self, outputs: Any, q: int, of: str = "embeddings") -> Any:
        """Outputs of the queries, to be sliced; None where the head computes them."""
        if outputs is None and isinstance(self.spec.store, Head):
            return None
        given = _arrays.rows_of(outputs, "outputs")
        if len(given.shape) == 0 and outputs is not None:
            raise ValueError("outputs must have shape (n, C), got ()")
        self.spec.layout(given, self.rows.columns)
        _arrays.same_length("outputs", given.shape[0], of, q)
        return given

    def base(self, keys: F32 | None, given: Any, block: slice, threads: int) -> F64:
        """Base outputs of a block of queries, a copy of their own."""
        outputs = self.raw_outputs(keys, given, block, threads)
        return self.spec.base(outputs, self.rows.temperature, threads)

    def raw_outputs(self, keys: F32 | None, given: Any, block: slice, threads: int) -> Any:
        """What the base model says of a block of queries, checked: (b, C)."""
        if given is not None:
            return self.spec.outputs(_arrays.block_of(given, block, "outputs"), block.start)
        assert isinstance(self.spec.store, Head)
        assert keys is not None
        return self.spec.store.logits(keys, threads)


def given_neighbours(rows: Snapshot, distances: Any, ids: Any, metric: str) -> Given:
    """Neighbours that somebody else found, as rows of a memory."""
    apart, found = _arrays.neighbours(distances, ids, metric)
    return Given(apart, rows.positions_of(found))


def _columns_of(columns: I64, block: slice) -> I64:
    """Columns wanted by the queries of a block, (b, t)."""
    if columns.ndim == 2:
        return columns[block]
    return np.tile(columns, (block.stop - block.start, 1))
