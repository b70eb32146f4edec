"""Validation rows and their neighbours: one search, after which a setting costs only sums.

The search finds the neighbours at the largest ``k``; a smaller ``k`` uses the first of them,
``sigma`` changes their weights, the temperature their residuals, and the strength scales the sum
(CONTRACT.md, "Sweep").
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

import resmem._core as _core
from resmem._base import checks
from resmem._base.arrays import (
    F64,
    I64,
    Array,
    Keys,
    distinct,
    read_block,
    release_pages,
    sliceable,
)
from resmem._base.blocks import blocks
from resmem._base.execution import Execution
from resmem._base.labels import check_class_layout
from resmem._correction.correct import Corrector, Method
from resmem._correction.gate import Feature
from resmem._correction.own_rows import MemoryRows
from resmem._correction.simplex import map_named
from resmem._rows import plausible
from resmem._rows.segment import checked_stored
from resmem._rows.snapshot import Snapshot
from resmem._rows.spec import Spec
from resmem._rows.visibility import Visibility
from resmem._scores.metrics import BINS, Score
from resmem._state.settings import Settings
from resmem._tuning.grid import Grid

_BATCH_BYTES = 48 << 20  # for the residuals and outputs of the rows that are swept together

# Scores that are computed from sums over rows, and the core's names of them.
SWEEP_SCORES = {
    "log_loss": "log_loss",
    "accuracy": "accuracy",
    "brier": "brier",
    "calibration_error": "calibration",
    "rmse": "squared_error",
    "mae": "absolute_error",
    "r2": "squared_error",
}

# What predictions are made from: the memory's residuals; the neighbours' targets; or one of two
# stand-ins that ignore where a row lies, the mean residual of all rows of the memory and the
# neighbours of another validation row.
Predictor: TypeAlias = Literal["memory", "targets", "mean", "shuffled"]

Step: TypeAlias = Callable[[int], None]


class CallersRows:
    """Validation rows that the caller gives: embeddings, outputs and targets."""

    def __init__(
        self, corrector: Corrector, embeddings: Any, outputs: Any, targets: Any,
        visible: Visibility, k: int, execution: Execution, known: bool,
    ) -> None:  # fmt: skip
        """``known``: these outputs were checked before, with keys kept in another way."""
        self._corrector, self._execution = corrector, execution
        self._searched = corrector.queries_at_k(k, embeddings, visible, execution)
        self._given = corrector.query_outputs(outputs, len(self._searched), already_checked=known)
        self.targets: Array = checked_targets(corrector, targets, len(self._searched))

    def __len__(self) -> int:
        return len(self._searched)

    def find(self, block: slice) -> tuple[F64, I64]:
        """Return distances and positions of the neighbours of a block of rows."""
        found = self._searched.find(block, *self._searched.queries(block))
        self._searched.forget(block)
        return found

    def at_k(self, k: int) -> CallersRows:
        """Return the same rows, of which each has this many neighbours."""
        other = copy.copy(self)
        other._searched = copy.copy(self._searched)
        other._searched.k = k
        return other

    def keys(self, block: slice) -> Keys:
        """Return the keys that a block of rows is searched with."""
        return self._searched.queries(block)[0]

    def by_distance(self, k: int) -> tuple[F64, I64]:
        """Return Euclidean distances and positions (q, k) of the rows nearest to each row."""
        searched, found = self._searched, []
        for block in blocks(len(self), 24 * k + self.keys(slice(0, 1)).nbytes):
            found.append(searched.by_distance(block, *searched.queries(block), k))
        distances, positions = zip(*found, strict=True)
        return np.concatenate(distances), np.concatenate(positions)

    def count_overlaps(self, seen: plausible.OverlapCounter, nearest: I64) -> None:
        """Count which rows are rows of the memory; ``nearest`` (q,) are their first neighbours."""
        if len(rows := seen.sampled) == 0:
            return
        read = [self._searched.queries(slice(row, row + 1)) for row in rows.tolist()]
        keys, largest = np.concatenate([key for key, _ in read]), max(each for _, each in read)
        self._searched.count_overlaps(seen, rows, keys, largest, nearest[rows], self.targets[rows])

    def outputs(self, block: slice) -> Array:
        """Return the base model's outputs (b, C) of a block of rows, checked."""
        keys = self._searched.queries(block)[0] if self._given is None else None
        outputs: Array = self._corrector.raw_outputs(keys, self._given, block, self._execution)
        release_pages(self._given, block)
        return outputs


def checked_targets(corrector: Corrector, targets: Any, q: int) -> Array:
    """Return the targets of validation rows, checked: classes (q,), or values (q, C)."""
    spec, columns = corrector.spec, corrector.rows.columns
    plausible.check_order(targets, corrector.rows.output_names, "memory.output_names_")
    plausible.check_order(targets, spec.label_names, "memory.classes_.astype(str)")
    given = sliceable(targets, "targets")
    if len(given.shape):
        targets = read_block(given, slice(0, given.shape[0]), "targets")
    if spec.task == "classification":
        check_class_layout(given, columns)
        array: Array = spec.class_numbers(targets, columns)
    else:
        array = spec.values(targets, "targets")
        if array.shape[1] != columns:
            raise ValueError(f"targets must have {columns} columns as in fit, got {array.shape[1]}")
    checks.same_length("targets", len(array), "embeddings", q)
    return array


class Batch(NamedTuple):
    """Some validation rows, and the rows of the memory that are their neighbours."""

    rows: I64  # (b,) numbers of the validation rows
    distances: F64  # (b, k)
    neighbours: I64  # (b, k) indices into `positions`; -1 is padding
    positions: I64  # (m,) positions in the memory, ascending
    outputs: Array  # (b, C)


class NeighbourRows(NamedTuple):
    """What is summed of the neighbours of some validation rows, and what it is added to."""

    rows: Array  # residuals or values (m, C), or classes (m,)
    distances: F64  # (b, k)
    neighbours: I64  # (b, k) indices into `rows`; -1 is padding
    base: F64 | None  # (b, C); None: predictions are made of the neighbours alone
    weights: F64 | None = None  # (m,) the rows' own; None: 1


@dataclass
class ValidationRun:
    """Validation rows, their neighbours in one memory, and the predictions made from them."""

    spec: Spec
    rows: Snapshot
    source: CallersRows | MemoryRows
    grid: Grid
    folds: I64  # (q,) the fold of each validation row
    sampled: I64  # positions of a sample of the memory's rows, which stands for all of them
    preprocess: str
    most_neighbours: int  # largest number of neighbours that a query can have
    execution: Execution
    # Called with the number of rows done; a row counts once for each setting or temperature.
    step: Step = lambda done: None

    @property
    def given_temperature(self) -> float:
        """The temperature of the base model as given: 1, or that of ``fit`` if it is fixed."""
        return self.rows.temperature if self.spec.store.fixed_temperature else 1.0

    @property
    def keys_name(self) -> tuple[str, str]:
        """How keys are kept: the preprocess and the dtype."""
        return self.preprocess, self.spec.key_dtype

    def settings(self, predictor: Predictor = "memory") -> list[Settings]:
        """Return the settings that are swept, in the order of the sums."""
        return self._grid(predictor).settings(self.preprocess, self.spec.key_dtype)

    def _grid(self, predictor: Predictor) -> Grid:
        if predictor == "targets":
            # Without a base, "keep" has nothing to keep.
            maps = tuple(m for m in self.grid.maps if not m.keeps_base)
            maps = maps or (map_named("clip"),)
            return replace(self.grid, temperatures=(1.0,), strengths=(1.0,), maps=maps, shares=())
        if predictor == "mean":
            return replace(self.grid, ks=(1,), sigmas=(math.inf,), shares=())
        return self.grid

    def find_neighbours(self) -> None:
        """Find the neighbours of all validation rows; called before all else."""
        q, k = len(self.source), self.grid.ks[-1]
        self.distances = np.empty((q, k))
        self.positions = np.empty((q, k), dtype=np.int64)
        for block in blocks(q, 24 * k):
            self.distances[block], self.positions[block] = self.source.find(block)
            self.step(block.stop - block.start)
        self.grid = self.grid.scaled(self.distances, self.spec.metric)
        self.reach = self.grid  # what others tried too
        self.means: dict[float, Keys] = {}  # mean residuals (1, C) by temperature
        order = np.random.RandomState(0).permutation(q)
        # The rows whose neighbours the rows get if the predictor is "shuffled".
        self.shuffled_rows = np.empty(q, dtype=np.int64)
        self.shuffled_rows[order] = np.roll(order, 1)

    # ------------------------------------------------------------------ all settings

    def sweep(self, score: Score, predictor: Predictor = "memory") -> F64:
        """Return the sums (folds, settings, width) over each fold that ``score`` is made of."""
        total: Any = 0
        grid = self._grid(predictor)
        for batch in self._batches():
            residual, of_targets = [], []
            for temperature in grid.temperatures:
                if grid.strengths:
                    residual.append(self._swept(batch, temperature, score, predictor))
                if grid.shares:
                    of_targets.append(self._swept_shares(batch, temperature, score, grid.shares))
                self.step(len(batch.rows))
            parts = [np.stack(part, axis=1) for part in (residual, of_targets) if part]
            total = total + np.concatenate(
                [part.reshape(len(part), -1, part.shape[-1]) for part in parts], axis=1
            )
        sums: F64 = total
        return sums

    def _swept(self, batch: Batch, temperature: float, score: Score, predictor: Predictor) -> F64:
        """Sweep at one temperature: sums (folds, ks, sigmas, strengths, maps, width)."""
        grid = self._grid(predictor)
        if predictor == "targets" and not self._without_base(predictor):
            return self._swept_shares(batch, temperature, score, grid.strengths)
        near = self._neighbour_rows(batch, temperature, predictor)
        on = tuple(x for x in grid.strengths if x != 0)
        swept = self._core_sweep(batch, near, score, replace(grid, strengths=on)) if on else None
        if swept is not None and 0 not in grid.strengths:
            return swept
        base_alone = replace(grid, ks=(1,), sigmas=(1.0,), strengths=(0.0,))
        off = self._core_sweep(batch, near, score, base_alone)
        # At strength 0 the sums are the same for all k and sigma.
        shape = len(off), len(grid.ks), len(grid.sigmas), 1, *off.shape[4:]
        off = np.broadcast_to(off, shape)
        if swept is None:
            return off
        at = grid.strengths.index(0)
        return np.concatenate([swept[:, :, :, :at], off, swept[:, :, :, at:]], axis=3)

    def _swept_shares(
        self, batch: Batch, temperature: float, score: Score, shares: tuple[float, ...]
    ) -> F64:
        """Sweep mixtures of base and targets: sums (folds, ks, sigmas, shares, 1, width)."""
        near = self._neighbour_rows(batch, temperature, "memory", "targets")
        grid = replace(self.grid, strengths=shares, maps=self.grid.maps[:1])
        return self._core_sweep(batch, near, score, grid, interpolate=True)

    def _core_sweep(
        self, batch: Batch, near: NeighbourRows, score: Score, grid: Grid, interpolate: bool = False
    ) -> F64:
        count = int(self.folds.max()) + 1
        bounds = np.searchsorted(self.folds[batch.rows], np.arange(count + 1)).tolist()
        targets = self.source.targets[batch.rows]
        maps = [(m.kind, m.floor) for m in grid.maps]
        return _core.sweep(
            *near[:4], targets, bounds, grid.ks, grid.sigmas, grid.strengths, maps,
            SWEEP_SCORES[score.name], BINS, interpolate, self.rows.columns, near.weights,
            self.execution,
        )  # fmt: skip

    # ------------------------------------------------------------------ one setting

    def predictions(self, settings: Settings, rows: I64, predictor: Predictor = "memory") -> F64:
        """Return the memory's probabilities or values (m, C) of some validation rows."""
        result = np.empty((len(rows), self.rows.columns))
        start, simplex_map = 0, map_named(settings.probability_map)
        for batch in self._batches(rows, predictor):
            if settings.strength == 0 and predictor != "targets":
                corrected = self.spec.base(batch.outputs, settings.temperature, self.execution)
            else:
                corrected, base = self._corrected(batch, settings, predictor)
                mixed = settings.method == "targets" and predictor != "targets"
                if self.spec.task == "classification" and not mixed:
                    simplex_map.apply(corrected, base, settings.strength, self.execution)
            result[start : start + len(batch.rows)] = corrected
            start += len(batch.rows)
            self.step(len(batch.rows))
        return result

    def _without_base(self, predictor: Predictor) -> bool:
        """Whether predictions are made from the neighbours' classes alone."""
        return predictor == "targets" and self.spec.task == "classification"

    def _corrected(
        self, batch: Batch, settings: Settings, predictor: Predictor
    ) -> tuple[F64, F64 | None]:
        """Return corrected outputs, and the base outputs, None if there are none."""
        rows, distances, near, base, weights = self._neighbour_rows(
            batch, settings.temperature, predictor, settings.method
        )
        before = None if base is None else base.copy()
        corrected = _core.aggregate(
            [_core.LabelRows(rows) if rows.ndim == 1 else _core.DenseRows(rows)],
            np.ascontiguousarray(distances[:, : settings.k]),
            np.ascontiguousarray(near[:, : settings.k]),
            settings.sigma,
            self.rows.columns,
            settings.strength,
            base,
            interpolate=predictor == "targets" or settings.method == "targets",
            row_weights=None if weights is None else [weights],
            execution=self.execution,
        )
        return corrected, before

    def features(self, settings: Settings) -> dict[Feature, F64]:
        """Return what gates look at, (q,) each; see CONTRACT.md, "Gates"."""
        nearest = self.distances[:, 0]
        if self.spec.task != "classification":
            return {"distance": nearest}
        confidence, agreement = np.empty((2, len(nearest)))
        voted = replace(settings, strength=1.0, method="targets")
        for batch in self._batches(np.arange(len(nearest))):
            base = self.spec.base(batch.outputs, settings.temperature, self.execution)
            confidence[batch.rows] = base.max(axis=1)
            shares, _ = self._corrected(batch, voted, "targets")
            agreement[batch.rows] = shares.max(axis=1)
        return {"distance": nearest, "confidence": confidence, "agreement": agreement}

    # ------------------------------------------------------------------ errors

    def base_error_sizes(self) -> F64:
        """Return the error size of the base model as given on each row; see ``error_sizes``."""
        sizes = []
        for block in blocks(len(self.source), 16 * self.rows.columns):
            base = self.spec.base(
                self.source.outputs(block), self.given_temperature, self.execution
            )
            sizes.append(self.error_sizes(base, block))
            self._report_single(block)
        return np.concatenate(sizes)

    def count_impossible(self) -> int:
        """Count the rows whose class has probability 0 in the base model as given."""
        count = 0
        for block in blocks(len(self.source), 16 * self.rows.columns):
            base = self.spec.base(
                self.source.outputs(block), self.given_temperature, self.execution
            )
            labels = self.source.targets[block]
            count += int(np.count_nonzero(base[np.arange(len(labels)), labels] == 0))
        return count

    def error_sizes(self, predicted: F64, block: slice = slice(None)) -> F64:
        """Return, for each row, 1 - the probability of its class, or its mean absolute error."""
        targets = self.source.targets[block]
        if self.spec.task == "classification":
            return 1 - predicted[np.arange(len(targets)), targets]
        sizes: F64 = np.abs(predicted - targets).mean(axis=1)
        return sizes

    # ------------------------------------------------------------------ blocks of rows

    def _batches(self, rows: I64 | None = None, predictor: Predictor = "memory") -> Iterator[Batch]:
        """Yield all validation rows in batches, sorted by fold in each; or ``rows`` in order."""
        q, k, columns = len(self.source), self.grid.ks[-1], self.rows.columns
        total = sum(segment.n for segment in self.rows.segments)
        # A batch takes memory for the residuals of its neighbours, which rows may share, and for
        # outputs, base and result.
        least = max(1, _BATCH_BYTES // (columns * (4 * k + 28)))
        rest = _BATCH_BYTES - 4 * columns * min(total, _BATCH_BYTES // columns)
        step = max(least, rest // (28 * columns))
        for start in range(0, q if rows is None else len(rows), step):
            if rows is None:
                some = np.arange(start, min(q, start + step))
                some = some[np.argsort(self.folds[some], kind="stable")]
            else:
                some = rows[start : start + step]
            yield self._batch(
                some, self.shuffled_rows[some] if predictor == "shuffled" else some, total
            )

    def _batch(self, rows: I64, near_to: I64, total: int) -> Batch:
        found = self.positions[near_to]
        there, near = _indexed(found, total)
        first, last = int(rows.min()), int(rows.max()) + 1
        outputs = self.source.outputs(slice(first, last))[rows - first]
        return Batch(rows, self.distances[near_to], near, there, outputs)

    def _neighbour_rows(
        self, batch: Batch, temperature: float, predictor: Predictor, method: Method = "residual"
    ) -> NeighbourRows:
        """Return what is summed of the neighbours of a batch."""
        base = None
        if not self._without_base(predictor):
            base = self.spec.base(batch.outputs, temperature, self.execution)
        if predictor == "mean":
            only = np.zeros((len(batch.rows), 1), dtype=np.int64)
            return NeighbourRows(self._mean_residual(temperature), np.zeros(only.shape), only, base)
        if predictor == "targets" or method == "targets":
            rows: Array = self._neighbour_targets(batch.positions)
        else:
            rows = self._residuals(batch.positions, temperature)
        weights = self.rows.weights_at(batch.positions)
        return NeighbourRows(rows, batch.distances, batch.neighbours, base, weights)

    def _report_single(self, block: slice) -> None:
        """Report rows that are read without neighbours: as many as there are k count as one."""
        self.step(self.single_steps(block.stop) - self.single_steps(block.start))

    def single_steps(self, rows: int) -> int:
        """Return how many steps so many rows without neighbours count."""
        return -(-rows // self.grid.ks[-1])

    def _residuals(self, there: I64, temperature: float) -> Keys:
        store, columns = self.spec.store, self.rows.columns
        at_which = temperature, self.rows.temperature
        found = [store.residuals(s, at, columns, *at_which) for s, at in self.rows.at(there)]
        if len(found) == 1:
            return found[0]
        residuals: Keys = np.concatenate([np.empty((0, columns), store.value_dtype), *found])
        return residuals

    def _mean_residual(self, temperature: float) -> Keys:
        """Return the mean residual of the memory's rows, by their own weights: (1, C)."""
        if temperature in self.means:
            return self.means[temperature]
        total, weight = np.zeros(self.rows.columns), 0.0
        for block in blocks(len(self.sampled), 16 * self.rows.columns):
            residuals = self._residuals(self.sampled[block], temperature)
            own = self.rows.weights_at(self.sampled[block])
            if own is None:
                total += residuals.sum(axis=0, dtype=np.float64)
            else:
                total += (own[:, None] * residuals).sum(axis=0)
            weight += float(len(residuals) if own is None else own.sum())
            self._report_single(block)
        mean: Keys = (total / weight).astype(self.spec.store.value_dtype)[None]
        self.means[temperature] = mean
        return mean

    def _neighbour_targets(self, there: I64) -> Array:
        """Return the targets of rows of the memory: classes (m,) or values (m, C)."""
        columns = self.rows.columns
        empty = (
            np.empty(0, np.int64) if self.spec.task == "classification" else np.empty((0, columns))
        )
        found = [
            checked_stored(segment["targets"][at], columns) for segment, at in self.rows.at(there)
        ]
        return np.concatenate([empty, *found])


def _indexed(found: I64, total: int) -> tuple[I64, I64]:
    """Return the positions that occur, ascending, and ``found`` as indices into them; -1 stays."""
    if found.size < total // 4:
        there = distinct(found)
        there = there[there >= 0]
        near = np.searchsorted(there, found)
    else:
        seen = np.zeros(total, dtype=np.bool_)
        seen[found[found >= 0]] = True
        there = np.flatnonzero(seen)
        number = np.cumsum(seen) - 1
        near = number[found] if total else np.zeros_like(found)
    return there, np.where(found >= 0, near, -1)


def scores_of(score: Score, sums: F64, targets: Array) -> F64:
    """Return the scores (..) from sums (.., width) over rows that have these targets."""
    if score.name == "calibration_error":  # sums of each bin: rows, confidences, hits
        gaps = np.abs(sums[..., 1::3] - sums[..., 2::3])
        return np.asarray(gaps.sum(axis=-1) / targets.size)
    total = sums[..., 0]
    if score.name == "r2":
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = np.square(targets - targets.mean(axis=0)).sum()
            return np.asarray(1 - total / spread)
    mean = np.asarray(total / targets.size)
    return np.sqrt(mean) if score.name == "rmse" else mean
