"""Which neighbours correct a prediction, and by how much."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import resmem._core as _core
from resmem._base import checks, convert
from resmem._base.arrays import F64, I64
from resmem._base.blocks import blocks
from resmem._base.execution import Execution, execution_of
from resmem._base.metric import Metric, as_distances, value_word
from resmem._correction.correct import Corrector, SearchedQueries
from resmem._correction.own_rows import MemoryRows
from resmem._rows.segment import Segment, checked_stored
from resmem._rows.snapshot import Snapshot
from resmem._rows.visibility import Visibility

_NEIGHBOURS_SHOWN = 10  # lines for neighbours in a printed table

# A segment, the mask of the positions that lie in it, and the rows of the segment they stand for.
SegmentRows = tuple[Segment, npt.NDArray[np.bool_], I64]
Queries: TypeAlias = "SearchedQueries | MemoryRows"


@dataclass(frozen=True, eq=False)
class Explanation:
    """The neighbours of q queries, and what each adds to t columns of their corrections.

    All parts are given as they are applied, times the memory's ``strength`` and what its ``gate``
    leaves of that. ``base`` plus ``correction`` is ``corrected``, to the bit (with
    method="targets", where ``correction`` is their difference, but for two roundings). The 2k parts
    ``spread[i]`` and ``contributions[i, :, c]`` add up to ``correction[i, c]`` but for rounding:
    float64 sums of the two sides, each in any order, differ by at most ``(4k + 8) * 2**-53`` times
    the sum of the parts' sizes. (A correction is divided by the sum of the weights once, at the
    end.)

    Indexing by a number gives the explanation of one query, which prints as a table; indexing by a
    slice gives that of several.

    Attributes
    ----------
    ids : int64 (q, k)
        The neighbours, nearest first; -1 is padding, whose weight and contributions are 0.
    distances : float64 (q, k)
        As ``Memory.kneighbors`` returns them; padding is infinite, or -inf for inner products.
    weights : float64 (q, k)
        They sum to 1 (0 for a query without neighbours).
    targets : int64 (q, k), float64 (q, k) or (q, k, C)
        The neighbours' classes, as numbers of columns, or values; padding is -1 or NaN.
    columns : int64 (q, t)
        The output columns (classes) explained.
    contributions : float64 (q, k, t)
        Strength times weight times residual. With store="sparse:m", the stored value takes the
        place of the residual; it is 0 for columns that are not stored. With method="targets" it is
        the target less the base output, or the target if no outputs are given.
    spread : float64 (q, k)
        What each neighbour adds to all columns alike, times the strength; 0 except with
        store="sparse:m".
    correction : float64 (q, t)
        ``Memory.correction`` times the strength that the gate leaves the query, whether outputs are
        given or not; with method="targets" and outputs, what was added to these.
    base, corrected : float64 (q, t) or None
        ``Memory.correct`` at strength 0 and at the memory's strength; None without outputs.
    classes : array (C,) or None
        What targets call the columns, as ``Memory.classes_``, where that is not 0 to C-1. The
        printed table names classes by it.
    metric : str
        The memory's, whose values ``distances`` are.
    """

    ids: I64
    distances: F64
    weights: F64
    targets: npt.NDArray[Any]
    columns: I64
    contributions: F64
    spread: F64
    correction: F64
    base: F64 | None = None
    corrected: F64 | None = None
    classes: npt.NDArray[Any] | None = None
    metric: Metric = "euclidean"

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Explanation]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, query: int | slice) -> Explanation:
        if not isinstance(query, slice):
            at = range(len(self))[query]
            query = slice(at, at + 1)
        parts = {name: array[query] for name, array in self._arrays().items()}
        return Explanation(**parts, classes=self.classes, metric=self.metric)

    def _arrays(self) -> dict[str, Any]:
        """Return the arrays with a row per query that are not None, by name."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        del arrays["classes"], arrays["metric"]
        return {name: array for name, array in arrays.items() if array is not None}

    def name_of(self, column: int) -> str:
        """Return what targets call a column, as text."""
        return str(column if self.classes is None else self.classes[column])

    def __repr__(self) -> str:
        q, k, t = self.contributions.shape
        if q == 1:
            return _table(self)
        return f"Explanation of {q} queries, {k} neighbours, {t} columns; [i] is that of query i"


def explain(
    corrector: Corrector,
    embeddings: Any,
    outputs: Any,
    visible: Visibility,
    columns: Any,
    top: int,
    threads: int | None,
) -> Explanation:
    """See ``Memory.explain``."""
    queries = corrector.queries_for(embeddings, visible, threads)
    q, rows = len(queries), corrector.rows
    selected = convert.column_numbers(columns, q, rows.columns)
    if selected is not None and rows.flat:
        raise ValueError("columns needs outputs of several columns, this memory has (n,)")
    top = checks.count(top, "top")
    has_base = _has_base(corrector, outputs)
    if not has_base and "confidence" in corrector.gate.features:
        raise ValueError(
            "outputs must be given where the gate looks at the base model's confidence, got None"
        )
    given = corrector.query_outputs(outputs, q) if has_base else None
    return explain_rows(corrector, queries, given, selected, top, execution_of(threads))


def explain_rows(
    corrector: Corrector,
    queries: Queries,
    given: Any,
    selected: I64 | None,
    top: int,
    execution: Execution,
) -> Explanation:
    """Return the explanation of queries with checked outputs ``given``, if there are any.

    ``selected`` (t,) or (q, t) are the columns; None stands for the ``top`` most corrected ones.
    """
    q, rows = len(queries), corrector.rows
    width = min(top, rows.columns)
    if selected is not None:
        selected = np.broadcast_to(selected, (q, selected.shape[-1]))
        width = selected.shape[1]
    explainer = _Explainer(corrector, queries, given, selected, width, execution)
    target = rows.columns if corrector.spec.task == "regression" else 1
    row_bytes = 8 * queries.k * (2 * width + target + 8) + 32 * rows.columns
    parts = [explainer.block(b) for b in [*blocks(q, row_bytes)] or [slice(0, 0)]]
    labels = corrector.spec.labels
    return _concatenated(parts, None if labels is None else labels.array, rows.metric)


@dataclass(frozen=True)
class _Explainer:
    corrector: Corrector
    queries: Queries
    outputs: Any  # of the queries; None if the head computes them or none are given
    columns: I64 | None  # (q, t); None: those that are corrected most
    width: int  # t, the number of columns explained
    execution: Execution

    def block(self, block: slice) -> Explanation:
        """Return the explanation of a block of queries."""
        corrector, rows = self.corrector, self.corrector.rows
        keys, largest = self.queries.queries(block)
        distances, positions = self.queries.find(block, keys, largest)
        weights, totals = _core.weights(
            distances, positions, corrector.sigma, rows.weights_for_core()
        )
        weights /= totals[:, None]
        base = corrected = None
        if _has_base(corrector, self.outputs):
            base = corrector.base(keys, self.outputs, block, self.execution)
        strengths = corrector.strengths(distances, positions, base, self.execution)
        columns = None if self.columns is None else np.ascontiguousarray(self.columns[block])
        correction = corrector.aggregate(distances, positions, None, columns, self.execution)
        if base is not None and columns is not None:
            base = np.take_along_axis(base, columns, axis=1)
        correction *= strengths[:, None]
        of_targets = corrector.method == "targets"
        if base is not None:
            corrected = base + correction
            if of_targets:
                corrected = self._interpolated(distances, positions, base, columns, strengths)
                correction = corrected - base
        if columns is None:
            order = np.argsort(-np.abs(correction), axis=1, kind="stable")
            columns = order[:, : self.width].copy()
            correction = np.take_along_axis(correction, columns, axis=1)
            if base is not None and corrected is not None:
                base, corrected = (
                    np.take_along_axis(part, columns, axis=1) for part in (base, corrected)
                )
        ids = np.full(positions.shape, -1)
        for segment, where, at in by_segment(rows, positions):
            ids[where] = segment.ids_of(at)
        targets = targets_of(corrector, positions)
        if of_targets:
            values, rest = self._distances_to_targets(targets, columns, base)
        else:
            values, rest = self._stored_residuals(positions, columns)
        return Explanation(
            ids,
            as_distances(distances, rows.metric),
            weights,
            targets[:, :, 0] if rows.flat else targets,
            columns,
            strengths[:, None, None] * (weights[:, :, None] * values) + 0.0,  # no -0
            strengths[:, None] * (weights * -rest) + 0.0,
            correction,
            base,
            corrected,
        )

    def _interpolated(
        self, distances: F64, positions: I64, base: F64, columns: I64 | None, strengths: F64
    ) -> F64:
        """Return the base outputs moved towards the neighbours' targets, by strengths (b,)."""
        moved = base.copy()
        return self.corrector.aggregate(
            distances, positions, moved, columns, self.execution, strengths
        )

    def _distances_to_targets(
        self, targets: npt.NDArray[Any], columns: I64, base: F64 | None
    ) -> tuple[F64, F64]:
        """Return the neighbours' targets in the columns, less the base outputs if these are given:
        (b, k, t), with the rests (b, k), which are 0; padding is 0."""
        if targets.ndim == 2:
            values = (targets[:, :, None] == columns[:, None, :]).astype(np.float64)
            there = targets >= 0
        else:
            values = np.take_along_axis(targets, columns[:, None, :], axis=2)
            there = ~np.isnan(targets).any(axis=2)
        if base is not None:
            values = values - base[:, None, :]
        values[~there] = 0.0
        return values, np.zeros(there.shape)

    def _stored_residuals(self, positions: I64, columns: I64) -> tuple[F64, F64]:
        """Return what is stored of the neighbours' residuals: values (b, k, t), and rests (b, k)
        that are subtracted from every column."""
        store, rows = self.corrector.spec.store, self.corrector.rows
        values, rest = np.zeros((*positions.shape, columns.shape[1])), np.zeros(positions.shape)
        for segment, where, at in by_segment(rows, positions):
            picked = columns[np.nonzero(where)[0]]
            values[where], rest[where] = store.values(
                segment, at, picked, rows.columns, rows.temperature, self.execution
            )
        return values, rest


def _has_base(corrector: Corrector, outputs: Any) -> bool:
    spec = corrector.spec
    return outputs is not None or spec.store.layer is not None or spec.says_nothing


def by_segment(rows: Snapshot, positions: I64) -> Iterator[SegmentRows]:
    """Yield each segment in which some of the positions (b, k) lie; padding lies in none."""
    start = 0
    for segment in rows.segments:
        where = (positions >= start) & (positions < start + segment.n)
        if where.any():
            yield segment, where, positions[where] - start
        start += segment.n


def targets_of(corrector: Corrector, positions: I64) -> npt.NDArray[Any]:
    """Return the targets at positions (..), classes (..) or values (.., C); padding: -1 or NaN."""
    found: npt.NDArray[Any] = np.full(positions.shape, -1)
    if corrector.spec.task == "regression":
        found = np.full((*positions.shape, corrector.rows.columns), np.nan)
    for segment, where, at in by_segment(corrector.rows, positions):
        found[where] = checked_stored(segment["targets"][at], corrector.rows.columns)
    return found


def _concatenated(
    parts: list[Explanation], classes: npt.NDArray[Any] | None, metric: Metric
) -> Explanation:
    """Return the explanations of several blocks as one."""
    first, *more = (part._arrays() for part in parts)
    joined: dict[str, Any] = {
        name: np.concatenate([array, *(arrays[name] for arrays in more)])
        for name, array in first.items()
    }
    return Explanation(**joined, classes=classes, metric=metric)


def _table(query: Explanation) -> str:
    """Return one query as text: base, correction, result, and a line for each nearest row."""
    there, spread = int((query.ids[0] >= 0).sum()), query.spread.any()
    left = ["id", value_word(query.metric), "weight", "target"] + (["any column"] if spread else [])
    blank = [""] * (len(left) - 1)
    named = "column " if query.classes is None else ""
    table = [left + [named + query.name_of(c) for c in query.columns[0]]]
    for name in ("base", "correction", "corrected"):
        values = getattr(query, name)
        if values is not None:
            table.append([name, *blank, *map(_number, values[0])])
    for j in range(min(there, _NEIGHBOURS_SHOWN)):
        target = query.targets[0, j]
        table.append(
            [
                str(query.ids[0, j]),
                _number(query.distances[0, j]),
                _number(query.weights[0, j]),
                _target(query, target),
                *([f"{query.spread[0, j]:+.4g}"] if spread else []),
                *(f"{v:+.4g}" for v in query.contributions[0, j]),
            ]
        )
    lines = [f"Explanation of 1 query, {there} neighbours", *aligned(table)]
    if there > _NEIGHBOURS_SHOWN:
        weight = query.weights[0, _NEIGHBOURS_SHOWN:].sum()
        lines.append(f"and {there - _NEIGHBOURS_SHOWN} more, of weight {weight:.4g} together")
    return "\n".join(lines)


def _target(query: Explanation, target: Any) -> str:
    if query.classes is not None:
        return query.name_of(int(target))
    return _number(target) if np.ndim(target) == 0 else f"({len(target)} values)"


def _number(value: Any) -> str:
    return f"{value + 0.0:.4g}" if isinstance(value, float) else str(value)  # + 0.0: -0 becomes 0


def aligned(table: list[list[str]]) -> list[str]:
    """Return the lines of a table, its first column aligned left and the others right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in table
    ]
