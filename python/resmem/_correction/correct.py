"""The correction of queries: neighbours, weights and residuals, block by block of queries."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

import resmem._core as _core
from resmem._base import checks, convert
from resmem._base.arrays import (
    F64,
    I64,
    Array,
    Keys,
    float_state,
    read_block,
    release_pages,
    sliceable,
)
from resmem._base.blocks import blocks
from resmem._base.execution import Execution, execution_of
from resmem._base.metric import Metric, as_distances, checked_metric, is_euclidean
from resmem._correction.gate import OPEN, Feature, Gate
from resmem._correction.simplex import SimplexMap
from resmem._rows import plausible
from resmem._rows.ingest import warn_of_rounding
from resmem._rows.resident import Residency, serves
from resmem._rows.snapshot import Snapshot
from resmem._rows.spec import Spec
from resmem._rows.visibility import Visibility, VisibleRows

# What is done with the neighbours: their residuals are added to the base outputs, or the base
# outputs are moved towards their targets.
Method: TypeAlias = Literal["residual", "targets"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass
class NeighbourSearch:
    """The search for the neighbours of some queries among the rows of a memory."""

    rows: Snapshot
    queries: Keys
    largest: float  # no absolute value of the queries is larger
    k: int
    visible: VisibleRows
    execution: Execution
    prepare: bool = True  # whether an index may be built that makes later searches faster
    resident: Residency | None = None  # where the rows are searched; None: on the CPU
    other_metric: Metric | None = None  # None: the rows' own

    @property
    def metric(self) -> Metric:
        """What the neighbours are compared by."""
        return self.other_metric or self.rows.metric

    def neighbours(self) -> tuple[F64, I64, I64]:
        """Return distances, which ascend, ids and positions of the neighbours, (q, k) each."""
        if self._on_device:
            assert self.resident is not None
            values, ids, positions = self.resident.neighbours(
                self.rows, self.queries, self.k, self.metric, self.visible.for_core()
            )
        else:
            values, ids, positions, _ = _core.search(
                self.queries, self.largest, self._segments(), self.k, self.metric,
                version=self.rows.version, execution=self.execution, **self.visible.for_core(),
            )  # fmt: skip
        return as_distances(values, self.metric), ids, positions

    def corrections(self, summed: dict[str, Any]) -> F64:
        """Return the corrections by the neighbours, (q, C) or (q, t); these stay in the core.

        ``summed`` is what ``Corrector.summed`` returns.
        """
        if self._on_device:
            distances, _, positions = self.neighbours()
            return _core.aggregate(
                distances=distances, positions=positions, execution=self.execution, **summed
            )
        return _core.correct(
            self.queries, self.largest, self._segments(), self.k, metric=self.metric,
            version=self.rows.version, execution=self.execution, **self.visible.for_core(),
            **summed,
        )  # fmt: skip

    @property
    def _on_device(self) -> bool:
        """Whether the rows' device searches, to which they were brought for their own metric."""
        return self.resident is not None and serves(self.rows.metric, self.metric)

    def _segments(self) -> list[_core.Segment]:
        if self.prepare:
            self.rows.plan(len(self.queries), self.k, self.execution)
        return self.rows.keys_for_core(len(self.queries))


def kneighbors(
    rows: Snapshot, embeddings: Any, k: int, visible: Visibility, threads: int | None,
    prepare: bool, resident: Residency | None = None, squared: bool = False,
) -> tuple[F64, I64]:  # fmt: skip
    """Return distances and ids of the neighbours, (q, k) each; see ``Memory.kneighbors``."""
    execution = execution_of(threads)
    plausible.check_names(embeddings, "embeddings", rows.embedding_names)
    source = sliceable(embeddings, "embeddings")
    convert.check_embedding_layout(source, "embeddings", rows.d, "(q, d)")
    warn_of_rounding(source, rows)
    part = read_block(source, slice(0, source.shape[0]), "embeddings")
    queries, largest = rows.keys(part, execution)
    seen = visible.of(rows, len(queries))
    metric: Metric = "sqeuclidean" if squared else rows.metric
    search = NeighbourSearch(rows, queries, largest, k, seen, execution, prepare, resident, metric)
    distances, ids, _ = search.neighbours()
    return as_distances(distances, search.metric), ids


class SearchedQueries:
    """Queries whose neighbours have to be searched for, block by block."""

    name = "embeddings"

    def __init__(
        self, rows: Snapshot, k: int, embeddings: Any, visible: Visibility, execution: Execution,
        prepare: bool, resident: Residency | None = None,
    ) -> None:  # fmt: skip
        plausible.check_names(embeddings, "embeddings", rows.embedding_names)
        # Shapes and dtypes are checked here, even if there are no rows; values are checked when
        # their block is read.
        self._source = sliceable(embeddings, "embeddings")
        convert.check_embedding_layout(self._source, "embeddings", rows.d, "(q, d)")
        warn_of_rounding(self._source, rows)
        self._rows, self.k, self._execution, self._prepare = rows, k, execution, prepare
        self._resident = resident
        self._visible = visible.of(rows, len(self))

    def __len__(self) -> int:
        return int(self._source.shape[0])

    def among(self, kept: npt.NDArray[np.bool_]) -> SearchedQueries:
        """Return the same queries, which see only some of the memory's rows: a mask of them."""
        other = copy.copy(self)
        other._visible = self._visible.among_rows(self._rows, kept)
        return other

    def queries(self, block: slice) -> tuple[Keys, float]:
        """Return the keys to search for, and their largest absolute value."""
        part = read_block(self._source, block, "embeddings")
        return self._rows.keys(part, self._execution, block.start)

    def find(self, block: slice, queries: Keys | None, largest: float) -> tuple[F64, I64]:
        """Return distances and positions of the neighbours of a block of queries."""
        distances, _, positions = self._search(block, queries, largest).neighbours()
        return distances, positions

    def corrections(
        self, block: slice, queries: Keys | None, largest: float, summed: dict[str, Any],
        execution: Execution,
    ) -> F64:  # fmt: skip
        """Return the corrections of a block of queries."""
        return self._search(block, queries, largest).corrections(summed)

    def _search(self, block: slice, queries: Keys | None, largest: float) -> NeighbourSearch:
        assert queries is not None
        return NeighbourSearch(
            self._rows, queries, largest, self.k, self._visible.at(block), self._execution,
            self._prepare, self._resident,
        )  # fmt: skip

    def by_distance(self, rows: I64 | slice, keys: Keys, largest: float, k: int) -> tuple[F64, I64]:
        """Return Euclidean distances and positions of the ``k`` rows nearest to some queries, given
        by their numbers, whatever the metric of the memory is."""
        search = NeighbourSearch(
            self._rows, keys, largest, k, self._visible.at(rows), self._execution, False,
            other_metric="euclidean",
        )  # fmt: skip
        distances, _, positions = search.neighbours()
        return distances, positions

    def count_overlaps(
        self, seen: plausible.OverlapCounter, rows: I64, keys: Keys, largest: float,
        nearest: I64, targets: Array,
    ) -> None:  # fmt: skip
        """Count which of the sampled queries, given by their numbers, are rows of the memory.

        ``nearest`` are the positions of their first neighbours. By other metrics than the Euclidean
        distance a row need not be the first neighbour of itself, so that it is searched for.
        """
        if len(rows) and not is_euclidean(self._rows.metric):
            nearest = self.by_distance(rows, keys, largest, 1)[1][:, 0]
        seen.count(keys, nearest, targets)

    def count_overlaps_in(
        self, block: slice, seen: plausible.OverlapCounter, keys: Keys, largest: float,
        nearest: I64, targets: Array,
    ) -> None:  # fmt: skip
        """Count the sampled queries of a block (b rows) that are rows of the memory.

        ``nearest`` (b,) are the positions of the first neighbours of all its queries.
        """
        rows = seen.sampled_in(block)
        at = rows - block.start
        self.count_overlaps(seen, rows, keys[at], largest, nearest[at], targets[at])

    def forget(self, block: slice) -> None:
        release_pages(self._source, block)


class KnownNeighbours:
    """Queries whose neighbours the caller has found already."""

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

    def corrections(
        self, block: slice, queries: Keys | None, largest: float, summed: dict[str, Any],
        execution: Execution,
    ) -> F64:  # fmt: skip
        """Return the corrections of a block of queries by their known neighbours."""
        distances, positions = self.find(block, queries, largest)
        return _core.aggregate(
            distances=distances, positions=positions, execution=execution, **summed
        )

    def forget(self, block: slice) -> None:
        pass


Queries: TypeAlias = "SearchedQueries | KnownNeighbours"


@dataclass(frozen=True)
class Corrector:
    """What a query computes with: the rows and settings of a memory at one moment."""

    spec: Spec
    rows: Snapshot
    k: int  # at most the number of rows, at least 1
    sigma: float
    strength: float
    map: SimplexMap
    auto_prepare: bool = True  # whether searches may build indexes that make them faster
    resident: Residency | None = None  # where the rows are searched; None: on the CPU
    method: Method = "residual"
    gate: Gate = OPEN

    @property
    def probability_map(self) -> SimplexMap | None:
        """The map to the simplex; None if the corrected outputs lie there already."""
        return None if self.method == "targets" else self.map

    @property
    def argmax_map(self) -> SimplexMap | None:
        """The map to the simplex where that may change which class is first; else None.

        Only shares of the base do, or a negative strength, which may put a class first to which the
        base model gives exactly 0.
        """
        return self.probability_map if self.map.keeps_base or self.strength < 0 else None

    def predict(
        self, embeddings: Any, outputs: Any, visible: Visibility, threads: int | None
    ) -> Array:
        """See ``Memory.predict``."""
        queries = self.queries_for(embeddings, visible, threads)
        if self.spec.task == "regression":
            return self.correct(queries, outputs, threads)
        blocks = self.correct_blocks(queries, outputs, threads, simplex_map=self.argmax_map)
        parts = [np.argmax(part, axis=1) for part in blocks]
        return self.spec.labelled(np.concatenate([np.empty(0, dtype=np.int64), *parts]))

    def queries_for(
        self, embeddings: Any, visible: Visibility, threads: int | None
    ) -> SearchedQueries:
        """Return queries that are searched for with the memory's ``k``."""
        execution = execution_of(threads)
        return self.queries_at_k(self.k, embeddings, visible, execution)

    def queries_at_k(
        self, k: int, embeddings: Any, visible: Visibility, execution: Execution
    ) -> SearchedQueries:
        """Return queries that are searched for with this ``k``."""
        return SearchedQueries(
            self.rows, k, embeddings, visible, execution, self.auto_prepare, self.resident
        )

    def correct(
        self,
        queries: Queries,
        outputs: Any,
        threads: int | None,
        columns: Any = None,
        with_base: bool = True,
        simplex_map: SimplexMap | None = None,
    ) -> F64:
        """Return the corrected outputs, (q, C) or (q, t) for the chosen ``columns``.

        ``with_base=False``: the corrections alone. ``simplex_map``: from sums to probabilities.
        """
        q = len(queries)
        selected = convert.column_numbers(columns, q, self.rows.columns)
        if selected is not None and self.rows.flat:
            raise ValueError("columns needs outputs of several columns, this memory has (n,)")
        result = np.empty((q, self.rows.columns if selected is None else selected.shape[-1]))
        start = 0
        for part in self.correct_blocks(
            queries, outputs, threads, selected, with_base, simplex_map
        ):
            result[start : start + len(part)] = part
            start += len(part)
        return result[:, 0] if self.rows.flat else result

    def correct_blocks(
        self,
        queries: Queries,
        outputs: Any,
        threads: int | None,
        columns: I64 | None = None,
        with_base: bool = True,
        simplex_map: SimplexMap | None = None,
    ) -> Iterator[F64]:
        """Yield what ``correct`` returns, block by block of queries, so that memory is bounded."""
        execution = execution_of(threads)
        given = self.query_outputs(outputs, len(queries), queries.name) if with_base else None
        # A query takes memory for the distance, id and position of each of its k neighbours, for
        # its sum and the check of its outputs, and for its key; a map also needs the base alone.
        rows = self.rows
        output_bytes = (16 if simplex_map is None else 24) * rows.columns
        query_bytes = 24 * queries.k + output_bytes + rows.preprocess.row_bytes(rows.d)
        for block in blocks(len(queries), query_bytes):
            with float_state():
                keys, largest = queries.queries(block)
                select = None if columns is None else _columns_of(columns, block)
                base = whole = None
                mapped = None if simplex_map is None else select  # a map reads all columns
                select = None if simplex_map is not None else select
                if with_base:
                    base = whole = self.base(keys, given, block, execution)
                    if select is not None:
                        base = np.take_along_axis(base, select, axis=1)
                before = None if base is None or simplex_map is None else base.copy()
                if whole is None or self.gate == OPEN:
                    summed = self.summed(base, select)
                    corrected = queries.corrections(block, keys, largest, summed, execution)
                else:
                    near = queries.find(block, keys, largest)
                    strengths = self.strengths(*near, whole, execution)
                    corrected = self.aggregate(*near, base, select, execution, strengths)
                if simplex_map is not None:
                    simplex_map.apply(corrected, before, self.strength, execution)
                if mapped is not None:
                    corrected = np.take_along_axis(corrected, mapped, axis=1)
            yield corrected
            del corrected
            queries.forget(block)
            release_pages(given, block)

    def aggregate(
        self,
        distances: F64,
        positions: I64,
        base: F64 | None,
        select: I64 | None,
        execution: Execution,
        strengths: F64 | None = None,
    ) -> F64:
        """Return the correction by these neighbours, or what it makes of ``base``, in place.

        ``strengths`` (q,) take the place of the strength.
        """
        return _core.aggregate(
            distances=distances, positions=positions, execution=execution, strengths=strengths,
            **self.summed(base, select),
        )  # fmt: skip

    def corrected(self, base: F64, distances: F64, positions: I64, execution: Execution) -> F64:
        """Return what these neighbours make of ``base`` (q, C): values or probabilities."""
        strengths = self.strengths(distances, positions, base, execution)
        values = self.aggregate(distances, positions, base.copy(), None, execution, strengths)
        if self.probability_map is not None and self.spec.task == "classification":
            self.probability_map.apply(values, base, self.strength, execution)
        return values

    def summed(self, base: F64 | None, select: I64 | None) -> dict[str, Any]:
        """Return what the core sums for queries, whoever finds their neighbours.

        ``base`` (q, C) is corrected in place if given; ``select`` (q, t) are the columns wanted.
        """
        store, segments = self.spec.store, self.rows.segments
        of_targets = self.method == "targets"
        for_core = self.spec.targets_for_core if of_targets else store.for_core
        head = None if of_targets else store.layer
        return {
            "residuals": [for_core(segment) for segment in segments],
            "head": None if head is None else head.for_core(self.rows.temperature),
            "sigma": self.sigma,
            "columns": self.rows.columns,
            "strength": self.strength,
            "base": base,
            "select": select,
            "interpolate": of_targets,
            "row_weights": self.rows.weights_for_core(),
        }

    def strengths(
        self, distances: F64, positions: I64, base: F64 | None, execution: Execution
    ) -> F64:
        """Return the strength (q,) that the gate leaves each query.

        ``base`` (q, C) holds all columns of the base outputs, which a gate by confidence needs.
        """
        nearest = distances[:, 0] if distances.shape[1] else np.full(len(distances), np.inf)
        values: dict[Feature, F64] = {"distance": nearest}
        if base is not None and "confidence" in self.gate.features:
            values["confidence"] = base.max(axis=1)
        if "agreement" in self.gate.features:
            values["agreement"] = self.agreement(distances, positions, execution)
        return self.strength * self.gate.factors(values)

    def agreement(self, distances: F64, positions: I64, execution: Execution) -> F64:
        """Return the largest share (q,) of the neighbours' weight that one class has."""
        shares = _core.aggregate(
            [self.spec.targets_for_core(segment) for segment in self.rows.segments],
            distances, positions, self.sigma, self.rows.columns,
            row_weights=self.rows.weights_for_core(), execution=execution,
        )  # fmt: skip
        largest: F64 = shares.max(axis=1)
        return largest

    def query_outputs(
        self, outputs: Any, q: int, owner: str = "embeddings", already_checked: bool = False
    ) -> Any:
        """Return the outputs of the queries, to be sliced; None where the head computes them.

        ``owner`` names the array whose ``q`` rows they belong to. ``already_checked``: the same
        outputs were passed before, so that a warning about them would only be repeated.
        """
        if outputs is None and self.spec.store.layer is not None:
            return None
        if self.spec.says_nothing:
            return self.spec.silent_outputs(outputs, q, self.rows.columns, self.rows.flat)
        plausible.check_names(outputs, "outputs", self.rows.output_names)
        given = self.spec.sliceable_outputs(outputs)
        if len(given.shape) == 0:
            raise ValueError("outputs must have shape (n, C), got ()")
        self.spec.column_count(given, self.rows.columns)
        checks.same_length("outputs", given.shape[0], owner, q)
        if not already_checked:
            plausible.check_logits(self.spec, given, fitted=True)
        return given

    def base(self, keys: Keys | None, given: Any, block: slice, execution: Execution) -> F64:
        """Return the base outputs of a block of queries, as a new array."""
        outputs = self.raw_outputs(keys, given, block, execution)
        return self.spec.base(outputs, self.rows.temperature, execution)

    def raw_outputs(self, keys: Keys | None, given: Any, block: slice, execution: Execution) -> Any:
        """Return the base model's outputs of a block of queries, checked: (b, C)."""
        if given is not None:
            return self.spec.outputs(read_block(given, block, "outputs"), block.start)
        assert keys is not None
        assert self.spec.store.layer is not None
        return self.spec.store.layer.outputs(keys, execution)


def known_neighbours(
    rows: Snapshot, gate: Gate, distances: Any, ids: Any, metric: Metric | None
) -> KnownNeighbours:
    """Return queries with the neighbours that a caller found, given by their ids in the memory."""
    of = rows.metric if metric is None else checked_metric(metric)
    ascending, checked_ids = convert.neighbours(distances, ids, of, rows.metric)
    positions = rows.positions_of(checked_ids)
    if is_euclidean(of) and is_euclidean(rows.metric):
        plausible.check_distances(rows, ascending, positions, of)
    gate.check_metric(of, rows.metric)
    return KnownNeighbours(ascending, positions)


def _columns_of(columns: I64, block: slice) -> I64:
    """Return the columns chosen for the queries of a block, (b, t)."""
    if columns.ndim == 2:
        return columns[block]
    return np.tile(columns, (block.stop - block.start, 1))
