"""The rows that are evaluated: those a caller gives, or the memory's own, each without itself."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from resmem._base import checks, convert
from resmem._base.arrays import F64, I64, picked_rows, read_block, release_pages, sliceable
from resmem._base.execution import Execution
from resmem._base.labels import check_class_layout
from resmem._correction.correct import Corrector, SearchedQueries
from resmem._correction.own_rows import MemoryRows
from resmem._evaluation.explain import Explanation, explain_rows
from resmem._evaluation.tallies import ClassTally, SquaredDeviations, Tally, ValueTally
from resmem._rows import plausible
from resmem._rows.visibility import Visibility, groups_or_singletons


class Block(NamedTuple):
    """A block of b evaluated rows."""

    outputs: npt.NDArray[Any]  # (b, C), of the base model, checked
    distances: F64  # (b, k)
    positions: I64  # (b, k)
    targets: npt.NDArray[Any]  # classes (b,) or values (b, C)


class GivenRows:
    """Rows that a caller gives, read block by block."""

    def __init__(
        self, corrector: Corrector, k: int, embeddings: Any, outputs: Any, targets: Any,
        visible: Visibility, execution: Execution,
    ) -> None:  # fmt: skip
        self._corrector, self._execution = corrector, execution
        self._queries = corrector.queries_at_k(k, embeddings, visible, execution)
        q = len(self)
        self._outputs = corrector.query_outputs(outputs, q)
        self._targets = GivenTargets(corrector, targets, q)
        self._seen = plausible.OverlapCounter(corrector.spec, corrector.rows, q)
        self._given = embeddings, visible

    def __len__(self) -> int:
        return len(self._queries)

    def among(self, kept: npt.NDArray[np.bool_]) -> GivenRows:
        """Return the same rows, which see only some of the memory's: a mask of all of them."""
        other = copy.copy(self)
        other._queries = self._queries.among(kept)
        return other

    def read(self, block: slice) -> Block:
        """Return a block of rows with their neighbours."""
        keys, largest = self._queries.queries(block)
        raw = self._corrector.raw_outputs(keys, self._outputs, block, self._execution)
        distances, positions = self._queries.find(block, keys, largest)
        true = self._targets.read(block)
        self._queries.count_overlaps_in(block, self._seen, keys, largest, positions[:, 0], true)
        return Block(raw, distances, positions, true)

    def release(self, block: slice) -> None:
        """Say that a block of rows is not needed any more."""
        self._queries.forget(block)
        release_pages(self._outputs, block)

    def note(self) -> str | None:
        """Return a warning, if many of the rows are rows of the memory."""
        return self._seen.warning("evaluated", "evaluate(loo=True)")

    def numbers(self, rows: list[int]) -> list[int]:
        """Return what a caller knows these rows by: their numbers."""
        return rows

    def queries_of(self, corrector: Corrector) -> SearchedQueries:
        """Return the same queries of another memory."""
        embeddings, visible = self._given
        try:
            return corrector.queries_at_k(
                corrector.k, embeddings, visible.elsewhere(self._corrector.rows, corrector.rows),
                self._execution,
            )  # fmt: skip
        except ValueError as error:
            raise ValueError(f"published, asked with the same arguments: {error}") from error

    def explain(self, rows: list[int], columns: I64 | None, top: int) -> Explanation:
        """Return the explanation of some rows, ascending; see ``explain_rows``."""
        embeddings, visible = self._given
        queries = self._corrector.queries_at_k(
            self._corrector.k, picked_rows(embeddings, rows, "embeddings"),
            visible.picked(np.asarray(rows)), self._execution,
        )  # fmt: skip
        outputs = None if self._outputs is None else picked_rows(self._outputs, rows, "outputs")
        return explain_rows(self._corrector, queries, outputs, columns, top, self._execution)

    def tally(self) -> Tally:
        """Return an empty tally for the predictions of one method."""
        return self._targets.tally()

    @property
    def classes(self) -> I64 | None:
        """The classes (q,) of the rows read so far; None for regression."""
        return self._targets.classes


class OwnRows:
    """Rows of the memory, each of which is judged without itself."""

    def __init__(
        self, corrector: Corrector, k: int, positions: I64, visible: Visibility,
        execution: Execution,
    ) -> None:  # fmt: skip
        self._corrector, self._positions, self._execution = corrector, positions, execution
        self._visible = visible
        self._rows = MemoryRows(corrector, positions, k, execution, visible)
        self._deviations = SquaredDeviations(corrector.rows.columns)

    def __len__(self) -> int:
        return len(self._rows)

    def among(self, kept: npt.NDArray[np.bool_]) -> OwnRows:
        """Return the same rows, which see only some of the memory's: a mask of all of them."""
        other = copy.copy(self)
        other._rows = self._rows.among(kept)
        return other

    def read(self, block: slice) -> Block:
        """Return a block of rows with their neighbours."""
        true = self._rows.targets[block]
        if self.classes is None:
            self._deviations.add(true)
        return Block(self._rows.outputs(block), *self._rows.find(block), true)

    def release(self, block: slice) -> None:
        """Say that a block of rows is not needed any more."""

    def note(self) -> str | None:
        """Return nothing: these rows are known to be rows of the memory."""
        return None

    def numbers(self, rows: list[int]) -> list[int]:
        """Return what a caller knows these rows by: their ids."""
        if not rows:
            return rows
        ids = self._rows.ids(slice(0, len(self)))
        return [int(ids[row]) for row in rows]

    def groups(self) -> I64:
        """Return the rows' groups; see ``groups_or_singletons``."""
        return groups_or_singletons(self._corrector.rows, self._positions)

    def explain(self, rows: list[int], columns: I64 | None, top: int) -> Explanation:
        """Return the explanation of some rows, ascending; see ``explain_rows``."""
        queries = MemoryRows(
            self._corrector, self._positions[rows], self._corrector.k, self._execution,
            self._visible,
        )  # fmt: skip
        outputs = queries.outputs(slice(0, len(queries)))
        return explain_rows(self._corrector, queries, outputs, columns, top, self._execution)

    def tally(self) -> Tally:
        """Return an empty tally for the predictions of one method."""
        if self.classes is not None:
            return ClassTally(len(self))
        return ValueTally(len(self), self._corrector.rows.columns, self._deviations)

    @property
    def classes(self) -> I64 | None:
        """The classes (q,) of the rows; None for regression."""
        return self._rows.targets if self._corrector.spec.task == "classification" else None


EvaluatedRows: TypeAlias = "GivenRows | OwnRows"


class GivenTargets:
    """The targets of q rows, checked and read block by block."""

    def __init__(self, corrector: Corrector, targets: Any, q: int) -> None:
        rows = corrector.rows
        plausible.check_order(targets, rows.output_names, "memory.output_names_")
        plausible.check_order(targets, corrector.spec.label_names, "memory.classes_.astype(str)")
        self._given = sliceable(targets, "targets")
        self._q, self._columns, self._spec = q, rows.columns, corrector.spec
        self.classes: I64 | None = None  # filled in as blocks are read; None for regression
        self._deviations = SquaredDeviations(rows.columns)
        if corrector.spec.task == "classification":
            check_class_layout(self._given, rows.columns)
            self.classes = np.empty(q, dtype=np.int64)
        else:
            convert.check_layout(self._given, "targets", "(n,)" if rows.flat else "(n, C)")
            if not rows.flat and self._given.shape[1] != rows.columns:
                raise ValueError(
                    f"targets must have {rows.columns} columns as in fit, "
                    f"got {self._given.shape[1]}"
                )
        checks.same_length("targets", self._given.shape[0], "embeddings", q)

    def tally(self) -> Tally:
        """Return an empty tally for the predictions of one method."""
        if self.classes is not None:
            return ClassTally(self._q)
        return ValueTally(self._q, self._columns, self._deviations)

    def read(self, block: slice) -> npt.NDArray[Any]:
        """Return the classes (b,) or values (b, C) of a block of rows."""
        part = read_block(self._given, block, "targets")
        release_pages(self._given, block)
        if self.classes is not None:
            self.classes[block] = self._spec.class_numbers(part, self._columns, block.start)
            return self.classes[block]
        values = self._spec.values(part, "targets", block.start)
        self._deviations.add(values)
        return values
