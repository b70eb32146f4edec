"""The correction of queries: neighbours, weights and residuals, block by block of queries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from resmem import _core
from resmem._base import checks, convert
from resmem._base.arrays import F64, I64, Keys, float_state, read_block, release_pages, sliceable
from resmem._base.blocks import blocks
from resmem._correction.simplex import SimplexMap
from resmem._rows import plausible
from resmem._rows.ingest import warn_of_rounding
from resmem._rows.snapshot import Snapshot
from resmem._rows.spec import Spec


def search(
    rows: Snapshot, queries: Keys, largest: float, k: int, excluded: I64 | None, threads: int,
    prepare: bool = True,
) -> tuple[F64, I64, I64]:  # fmt: skip
    """Euclidean distances, ids and positions of the neighbours, (q, k) each.

    ``prepare``: whether it may build what makes further searches fast.
    """
    if prepare:
        rows.plan(len(queries), k, threads)
    distances, ids, positions, _ = _core.search(
        queries, largest, rows.keys_for_core(len(queries)), k, "euclidean", excluded, threads,
        version=rows.version,
    )  # fmt: skip
    return distances, ids, positions


def kneighbors(
    rows: Snapshot, embeddings: Any, k: int, exclude_ids: Any, threads: int | None, prepare: bool
) -> tuple[F64, I64]:
    """Distances and ids of the neighbours of queries, (q, k) each, padded; see ``Memory``."""
    workers = checks.thread_count(threads)
    plausible.check_names(embeddings, "embeddings", rows.embedding_names)
    source = sliceable(embeddings, "embeddings")
    convert.check_embedding_layout(source, "embeddings", rows.d, "(q, d)")
    warn_of_rounding(source, rows)
    part = read_block(source, slice(0, source.shape[0]), "embeddings")
    queries, largest = rows.keys(part, workers)
    excluded = convert.excluded_ids(exclude_ids, len(queries))
    distances, ids, _ = search(rows, queries, largest, k, excluded, workers, prepare)
    return distances, ids


class Searched:
    """Queries whose neighbours are searched for, block by block."""

    name = "embeddings"

    def __init__(
        self, rows: Snapshot, k: int, embeddings: Any, exclude_ids: Any, threads: int,
        prepare: bool,
    ) -> None:  # fmt: skip
        plausible.check_names(embeddings, "embeddings", rows.embedding_names)
        # Shapes and dtypes are checked here, even of no rows; values block by block.
        self._source = sliceable(embeddings, "embeddings")
        convert.check_embedding_layout(self._source, "embeddings", rows.d, "(q, d)")
        warn_of_rounding(self._source, rows)
        self._rows, self.k, self._threads, self._prepare = rows, k, threads, prepare
        self._excluded = convert.excluded_ids(exclude_ids, len(self))

    def __len__(self) -> int:
        return int(self._source.shape[0])

    def queries(self, block: slice) -> tuple[Keys, float]:
        """What is searched for, and its largest absolute value."""
        part = read_block(self._source, block, "embeddings")
        return self._rows.keys(part, self._threads, block.start)

    def find(self, block: slice, queries: Keys | None, largest: float) -> tuple[F64, I64]:
        """Distances and positions of their neighbours."""
        assert queries is not None
        excluded = None if self._excluded is None else self._excluded[block]
        asked = (queries, largest, self.k, excluded, self._threads, self._prepare)
        found = search(self._rows, *asked)
        return found[0], found[2]

    def forget(self, block: slice) -> None:
        release_pages(self._source, block)


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

    def find(self, block: slice, queries: Keys | None, largest: float) -> tuple[F64, I64]:
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
    map: SimplexMap
    auto_prepare: bool = True  # whether searches may build what makes them fast

    def predicted(
        self, embeddings: Any, outputs: Any, exclude_ids: Any, threads: int | None
    ) -> I64 | F64:
        """See ``Memory.predict``."""
        queries = self.searched(embeddings, exclude_ids, threads)
        if self.spec.task == "regression":
            return self.whole(queries, outputs, threads)
        # The other maps keep the order, if no class that is impossible can come out first.
        to = self.map if self.map.keeps or self.strength < 0 else None
        blocks = self.blocks(queries, outputs, threads, to=to)
        parts = [np.argmax(part, axis=1) for part in blocks]
        return np.concatenate([np.empty(0, dtype=np.int64), *parts])

    def searched(self, embeddings: Any, exclude_ids: Any, threads: int | None) -> Searched:
        """Queries that are searched for with the memory's ``k``."""
        workers = checks.thread_count(threads)
        return self.searching(self.k, embeddings, exclude_ids, workers)

    def searching(self, k: int, embeddings: Any, exclude_ids: Any, threads: int) -> Searched:
        """Queries that are searched for with this ``k``."""
        return Searched(self.rows, k, embeddings, exclude_ids, threads, self.auto_prepare)

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
        wanted = convert.column_numbers(columns, q, self.rows.columns)
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
        workers = checks.thread_count(threads)
        given = self.given_outputs(outputs, len(queries), queries.name) if with_base else None
        # Of a query: distance, id and position of k neighbours; base or sum, and its checks; key.
        rows = self.rows
        outputs_taken = (16 if to is None else 24) * rows.columns  # with a map, the base as well
        taken = 24 * queries.k + outputs_taken + rows.preprocess.row_bytes(rows.d)
        for block in blocks(len(queries), taken):
            with float_state():
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
            release_pages(given, block)

    def aggregate(
        self, distances: F64, positions: I64, base: F64 | None, select: I64 | None, threads: int
    ) -> F64:
        """The correction by these neighbours, added to the base in place if there is one."""
        store = self.spec.store
        residuals = [store.for_core(segment) for segment in self.rows.segments]
        head = store.layer_for_core(self.rows.temperature)
        return _core.aggregate(
            residuals, distances, positions, self.sigma, self.rows.columns, self.strength, base,
            threads, head=head, select=select,
        )  # fmt: skip

    def given_outputs(
        self, outputs: Any, q: int, of: str = "embeddings", known: bool = False
    ) -> Any:
        """Outputs of the queries, to be sliced; None where the head computes them.

        ``known``: they came before in this call, so that all has been said that can be.
        """
        if outputs is None and self.spec.store.has_layer:
            return None
        plausible.check_names(outputs, "outputs", self.rows.output_names)
        given = self.spec.sliceable_outputs(outputs)
        if len(given.shape) == 0:
            raise ValueError("outputs must have shape (n, C), got ()")
        self.spec.column_count(given, self.rows.columns)
        checks.same_length("outputs", given.shape[0], of, q)
        if not known:
            plausible.check_logits(self.spec, given, fitted=True)
        return given

    def base(self, keys: Keys | None, given: Any, block: slice, threads: int) -> F64:
        """Base outputs of a block of queries, a copy of their own."""
        outputs = self.raw_outputs(keys, given, block, threads)
        return self.spec.base(outputs, self.rows.temperature, threads)

    def raw_outputs(self, keys: Keys | None, given: Any, block: slice, threads: int) -> Any:
        """What the base model says of a block of queries, checked: (b, C)."""
        if given is not None:
            return self.spec.outputs(read_block(given, block, "outputs"), block.start)
        assert keys is not None
        return self.spec.store.outputs_of(keys, threads)


def given_neighbours(rows: Snapshot, distances: Any, ids: Any, metric: str) -> Given:
    """Neighbours that somebody else found, as rows of a memory."""
    apart, found = convert.neighbours(distances, ids, metric)
    positions = rows.positions_of(found)
    plausible.check_distances(rows, apart, positions, metric)
    return Given(apart, positions)


def _columns_of(columns: I64, block: slice) -> I64:
    """Columns wanted by the queries of a block, (b, t)."""
    if columns.ndim == 2:
        return columns[block]
    return np.tile(columns, (block.stop - block.start, 1))
