"""Validation rows against a memory: one search, then any settings at the cost of a sum.

The neighbours at the largest ``k`` are kept; every smaller ``k`` is a prefix, ``sigma`` reweights,
the temperature changes residuals, the strength scales (CONTRACT.md, "Sweep").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from resmem import _core
from resmem._base import checks, convert
from resmem._base.arrays import F64, I64, Array, Keys, block_of, distinct, forget, rows_of
from resmem._base.blocks import blocks
from resmem._correction.correct import Corrector, nearest_rows
from resmem._correction.simplex import map_named
from resmem._keys.stored import widen_keys
from resmem._rows import plausible
from resmem._rows.segment import intact
from resmem._rows.snapshot import Snapshot
from resmem._rows.spec import Spec
from resmem._scores.metrics import BINS, Score
from resmem._state.settings import Settings
from resmem._tuning.grid import Grid

_SWEPT_BYTES = 48 << 20  # of residuals and outputs in hand

# Scores that are made of sums over rows, and what the core calls these.
SWEPT = {
    "log_loss": "log_loss",
    "accuracy": "accuracy",
    "brier": "brier",
    "calibration_error": "calibration",
    "rmse": "squared_error",
    "mae": "absolute_error",
    "r2": "squared_error",
}

# What is predicted from: the memory; the neighbours' targets; and what a memory gives that knows
# nothing of places, the mean residual of all its rows, or the neighbours of other validation rows.
Kind: TypeAlias = Literal["memory", "targets", "mean", "shuffled"]

Step: TypeAlias = Callable[[int], None]


class GivenRows:
    """Rows that a caller hands over: embeddings, outputs and targets."""

    def __init__(
        self, corrector: Corrector, embeddings: Any, outputs: Any, targets: Any, exclude_ids: Any,
        k: int, threads: int, known: bool,
    ) -> None:  # fmt: skip
        """``known``: outputs and targets came before, with keys of another kind."""
        self._corrector, self._threads = corrector, threads
        self._searched = corrector.queries_at_k(k, embeddings, exclude_ids, threads)
        self._given = corrector.query_outputs(outputs, len(self._searched), already_checked=known)
        self.targets: Array = checked_targets(corrector, targets, len(self._searched))

    def __len__(self) -> int:
        return len(self._searched)

    def find(self, block: slice) -> tuple[F64, I64]:
        """Distances and positions of the neighbours of a block of rows."""
        found = self._searched.find(block, *self._searched.queries(block))
        self._searched.forget(block)
        return found

    def keys(self, block: slice) -> Keys:
        """What is searched for of a block of rows."""
        return self._searched.queries(block)[0]

    def outputs(self, block: slice) -> Array:
        """The base model's outputs (b, C), checked."""
        keys = self._searched.queries(block)[0] if self._given is None else None
        outputs: Array = self._corrector.raw_outputs(keys, self._given, block, self._threads)
        forget(self._given, block)
        return outputs


class OwnRows:
    """Rows of the memory itself, each searched for without itself."""

    def __init__(self, corrector: Corrector, positions: I64, k: int, threads: int) -> None:
        self._corrector, self._k, self._threads = corrector, k, threads
        self._positions = positions  # numbered through all segments
        stored = self._of("targets", slice(0, len(positions)))
        self.targets: Array = intact(stored, corrector.rows.columns)

    def __len__(self) -> int:
        return len(self._positions)

    def find(self, block: slice) -> tuple[F64, I64]:
        """As ``GivenRows.find``."""
        rows, prepare = self._corrector.rows, self._corrector.auto_prepare
        chosen = list(rows.at(self._positions[block]))
        own = np.concatenate([segment.ids_of(at) for segment, at in chosen])[:, None]
        largest = max(segment.keys_max for segment, _ in chosen)
        keys = self._keys(block)
        asked = (keys, largest, self._k, own, self._threads, prepare)
        distances, _, positions = nearest_rows(rows, *asked)
        return distances, positions

    def outputs(self, block: slice) -> Array:
        """As ``GivenRows.outputs``."""
        store, chosen = self._corrector.spec.store, self._corrector.rows.at(self._positions[block])
        return np.concatenate([store.outputs(s, at, self._threads) for s, at in chosen])

    def _keys(self, block: slice) -> Keys:
        return widen_keys(self._of("keys", block))

    def _of(self, name: str, block: slice) -> Array:
        chosen = self._corrector.rows.at(self._positions[block])
        return np.concatenate([segment[name][at] for segment, at in chosen])


def checked_targets(corrector: Corrector, targets: Any, q: int) -> Array:
    """Classes (q,), or values (q, C)."""
    spec, columns = corrector.spec, corrector.rows.columns
    if spec.task == "regression":
        plausible.check_order(targets, corrector.rows.output_names, "memory.output_names_")
    given = rows_of(targets, "targets")
    if len(given.shape):
        targets = block_of(given, slice(0, given.shape[0]), "targets")
    if spec.task == "classification":
        convert.class_layout(given)
        array: Array = convert.labels(targets, columns)
    else:
        array = spec.values(targets, "targets")
        if array.shape[1] != columns:
            raise ValueError(f"targets must have {columns} columns as in fit, got {array.shape[1]}")
    checks.same_length("targets", len(array), "embeddings", q)
    return array


class Part(NamedTuple):
    """Some validation rows, and the rows of the memory that are their neighbours."""

    rows: I64  # numbers of validation rows
    distances: F64
    near: I64  # (b, k) numbers in `there`, -1 padding
    there: I64  # positions in the memory, ascending
    outputs: Array


@dataclass
class Trial:
    """Validation rows, their neighbours in one memory, and what is predicted from them."""

    spec: Spec
    rows: Snapshot
    source: GivenRows | OwnRows
    grid: Grid
    folds: I64  # of each validation row
    some: I64  # positions of rows that stand for all of the memory's
    preprocess: str
    most: int  # neighbours that a query can have
    threads: int
    step: Step = lambda done: None  # told of rows, each at one setting or temperature

    @property
    def plain_temperature(self) -> float:
        """1, or the only one there can be."""
        return self.rows.temperature if self.spec.store.fixed_temperature else 1.0

    def settings(self, kind: Kind = "memory") -> list[Settings]:
        """Those that are swept, in the order of the sums."""
        return self._grid(kind).settings(self.preprocess, self.spec.key_dtype)

    def _grid(self, kind: Kind) -> Grid:
        if kind == "targets":
            maps = tuple(m for m in self.grid.maps if not m.keeps_base)  # there is no base to keep
            maps = maps or (map_named("clip"),)
            return replace(self.grid, temperatures=(1.0,), strengths=(1.0,), maps=maps)
        if kind == "mean":
            return replace(self.grid, ks=(1,), sigmas=(math.inf,))
        return self.grid

    def search(self) -> None:
        """Find the neighbours, once."""
        q, k = len(self.source), self.grid.ks[-1]
        self.distances = np.empty((q, k))
        self.positions = np.empty((q, k), dtype=np.int64)
        for block in blocks(q, 24 * k):
            self.distances[block], self.positions[block] = self.source.find(block)
            self.step(block.stop - block.start)
        self.grid = self.grid.scaled(self.distances)
        self.means: dict[float, Keys] = {}  # by temperature
        order = np.random.RandomState(0).permutation(q)
        self.other = np.empty(q, dtype=np.int64)  # whose neighbours a shuffled row is given
        self.other[order] = np.roll(order, 1)

    # ------------------------------------------------------------------ all settings

    def sweep(self, score: Score, kind: Kind = "memory") -> F64:
        """Sums (folds, settings, width) of what ``score`` is made of, over every fold."""
        total: Any = 0
        for part in self._parts():
            swept = []
            for temperature in self._grid(kind).temperatures:
                swept.append(self._swept(part, temperature, score, kind))
                self.step(len(part.rows))
            total = total + np.stack(swept, axis=1)
        sums: F64 = total.reshape(len(total), -1, total.shape[-1])
        return sums

    def _swept(self, part: Part, temperature: float, score: Score, kind: Kind) -> F64:
        """At one temperature: (folds, ks, sigmas, strengths, maps, width)."""
        grid = self._grid(kind)
        near: tuple[Keys, F64, I64, F64 | None] = self._near(part, temperature, kind)
        maps = [(m.kind, m.floor) for m in grid.maps]
        count = int(self.folds.max()) + 1
        bounds = np.searchsorted(self.folds[part.rows], np.arange(count + 1)).tolist()
        targets = self.source.targets[part.rows]
        if self._without_base(kind):
            near = (*near[:3], None)
        scored = SWEPT[score.name], BINS, self.threads
        on = [x for x in grid.strengths if x != 0]
        swept = _core.sweep(*near, targets, bounds, grid.ks, grid.sigmas, on, maps, *scored)
        if 0 not in grid.strengths:
            return swept
        off = _core.sweep(*near, targets, bounds, (1,), (1.0,), (0.0,), maps, *scored)
        off = np.broadcast_to(off, (*swept.shape[:3], 1, *swept.shape[4:]))  # whatever k and sigma
        at = grid.strengths.index(0)
        return np.concatenate([swept[:, :, :, :at], off, swept[:, :, :, at:]], axis=3)

    # ------------------------------------------------------------------ one setting

    def predictions(self, settings: Settings, rows: I64, kind: Kind = "memory") -> F64:
        """Probabilities or values (m, C) of some validation rows, as the memory would give them."""
        result = np.empty((len(rows), self.rows.columns))
        start, to = 0, map_named(settings.probability_map)
        for part in self._parts(rows, kind):
            if settings.strength == 0 and kind != "targets":
                corrected = self.spec.base(part.outputs, settings.temperature, self.threads)
            else:
                corrected, base = self._corrected(part, settings, kind)
                if self.spec.task == "classification":
                    to.apply(corrected, base, settings.strength, self.threads)
            result[start : start + len(part.rows)] = corrected
            start += len(part.rows)
            self.step(len(part.rows))
        return result

    def _without_base(self, kind: Kind) -> bool:
        """Whether the neighbours' classes are all there is."""
        return kind == "targets" and self.spec.task == "classification"

    def _corrected(self, part: Part, settings: Settings, kind: Kind) -> tuple[F64, F64 | None]:
        """Corrected outputs, and those before, if there are."""
        residuals, distances, near, base = self._near(part, settings.temperature, kind)
        before = None if self._without_base(kind) else base.copy()
        corrected = _core.aggregate(
            [("dense", residuals)],
            np.ascontiguousarray(distances[:, : settings.k]),
            np.ascontiguousarray(near[:, : settings.k]),
            settings.sigma,
            self.rows.columns,
            settings.strength,
            base,
            self.threads,
        )
        return corrected, before

    # ------------------------------------------------------------------ errors

    def error_sizes(self) -> F64:
        """What the base model as given lacks on each row, as ``sizes_of``."""
        sizes = []
        for block in blocks(len(self.source), 16 * self.rows.columns):
            base = self.spec.base(self.source.outputs(block), self.plain_temperature, self.threads)
            sizes.append(self.sizes_of(base, block))
            self._step_singly(block)
        return np.concatenate(sizes)

    def impossible(self) -> int:
        """How many rows have a class that the base model as given calls impossible."""
        count = 0
        for block in blocks(len(self.source), 16 * self.rows.columns):
            base = self.spec.base(self.source.outputs(block), self.plain_temperature, self.threads)
            labels = self.source.targets[block]
            count += int(np.count_nonzero(base[np.arange(len(labels)), labels] == 0))
        return count

    def sizes_of(self, predicted: F64, block: slice = slice(None)) -> F64:
        """1 - the probability of the class, or the mean size of the errors, of each row."""
        targets = self.source.targets[block]
        if self.spec.task == "classification":
            return 1 - predicted[np.arange(len(targets)), targets]
        sizes: F64 = np.abs(predicted - targets).mean(axis=1)
        return sizes

    # ------------------------------------------------------------------ blocks of rows

    def _parts(self, rows: I64 | None = None, kind: Kind = "memory") -> Iterator[Part]:
        """All validation rows, those of a fold together, or some of them in their order."""
        q, k, columns = len(self.source), self.grid.ks[-1], self.rows.columns
        total = sum(segment.n for segment in self.rows.segments)
        # In hand: the residuals of the neighbours, some shared; outputs, base and result.
        least = max(1, _SWEPT_BYTES // (columns * (4 * k + 28)))
        rest = _SWEPT_BYTES - 4 * columns * min(total, _SWEPT_BYTES // columns)
        step = max(least, rest // (28 * columns))
        for start in range(0, q if rows is None else len(rows), step):
            if rows is None:
                some = np.arange(start, min(q, start + step))
                some = some[np.argsort(self.folds[some], kind="stable")]
            else:
                some = rows[start : start + step]
            yield self._part(some, self.other[some] if kind == "shuffled" else some, total)

    def _part(self, rows: I64, near_to: I64, total: int) -> Part:
        found = self.positions[near_to]
        there, near = _numbered(found, total)
        first, last = int(rows.min()), int(rows.max()) + 1
        outputs = self.source.outputs(slice(first, last))[rows - first]
        return Part(rows, self.distances[near_to], near, there, outputs)

    def _near(self, part: Part, temperature: float, kind: Kind) -> tuple[Keys, F64, I64, F64]:
        """Residuals (m, C), distances and their rows (b, k), base (b, C)."""
        b, columns = len(part.rows), self.rows.columns
        if kind == "targets":
            base = np.broadcast_to(self._middle(), (b, columns)).copy()
            return self._targets(part.there), part.distances, part.near, base
        base = self.spec.base(part.outputs, temperature, self.threads)
        if kind == "mean":
            only = np.zeros((b, 1), dtype=np.int64)
            return self._mean(temperature), np.zeros((b, 1)), only, base
        return self._residuals(part.there, temperature), part.distances, part.near, base

    def _step_singly(self, block: slice) -> None:
        """Of rows that are taken without neighbours: so many of them are one step."""
        self.step(self.singly(block.stop) - self.singly(block.start))

    def singly(self, rows: int) -> int:
        """How many steps the first of such rows are."""
        return -(-rows // self.grid.ks[-1])

    def _residuals(self, there: I64, temperature: float) -> Keys:
        store, columns = self.spec.store, self.rows.columns
        at_which = temperature, self.rows.temperature
        found = [store.residuals(s, at, columns, *at_which) for s, at in self.rows.at(there)]
        if len(found) == 1:
            return found[0]
        residuals: Keys = np.concatenate([np.empty((0, columns), store.value_dtype), *found])
        return residuals

    def _mean(self, temperature: float) -> Keys:
        """Of the residuals of the memory's rows, (1, C)."""
        if temperature in self.means:
            return self.means[temperature]
        total = np.zeros(self.rows.columns)
        for block in blocks(len(self.some), 16 * self.rows.columns):
            total += self._residuals(self.some[block], temperature).sum(axis=0, dtype=np.float64)
            self._step_singly(block)
        mean: Keys = (total / len(self.some)).astype(self.spec.store.value_dtype)[None]
        self.means[temperature] = mean
        return mean

    def _targets(self, there: I64) -> Keys:
        """Of rows of the memory; values less their middle, about which float32 is precise."""
        columns = self.rows.columns
        found = self._stored_targets(there)
        if self.spec.task == "classification":
            onehot = np.zeros((len(there), columns), dtype=np.float32)
            onehot[np.arange(len(there)), np.concatenate(found or [there])] = 1
            return onehot
        values = np.concatenate(found) if found else np.empty((0, columns))
        about: Keys = (values - self._middle()).astype(self.spec.store.value_dtype)
        return about

    def _stored_targets(self, there: I64) -> list[Array]:
        """Of rows of the memory, segment by segment."""
        columns = self.rows.columns
        return [intact(segment["targets"][at], columns) for segment, at in self.rows.at(there)]

    def _middle(self) -> F64:
        if self.spec.task == "classification":
            return np.zeros(self.rows.columns)
        middle: F64 = self.source.targets.mean(axis=0)
        return middle


def _numbered(found: I64, total: int) -> tuple[I64, I64]:
    """The positions that occur, ascending, and ``found`` numbered by them; -1 stays."""
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
    """The score (..) of sums (.., width) over rows that have these targets."""
    if score.name == "calibration_error":  # of every bin: rows, confidence, correct ones
        gaps = np.abs(sums[..., 1::3] - sums[..., 2::3])
        return np.asarray(gaps.sum(axis=-1) / targets.size)
    total = sums[..., 0]
    if score.name == "r2":
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = np.square(targets - targets.mean(axis=0)).sum()
            return np.asarray(1 - total / spread)
    mean = np.asarray(total / targets.size)
    return np.sqrt(mean) if score.name == "rmse" else mean
