"""The audit of a memory's own rows: which of them their neighbours contradict, or mislead others.

Each row is judged without itself. What its neighbours say comes from their targets alone, so that
it does not depend on which rows the base model was trained on; what they do to its answer comes
from their residuals, or targets, by the memory's method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

import resmem._core as _core
from resmem._base import checks
from resmem._base.arrays import F64, I64, Array
from resmem._base.blocks import blocks
from resmem._base.execution import Execution, execution_of
from resmem._base.sample import sample
from resmem._correction.correct import Corrector
from resmem._correction.sampled_rows import typical
from resmem._evaluation.audit_result import Audit
from resmem._evaluation.own_neighbours import Neighbours, OwnNeighbours
from resmem._rows.visibility import Visibility

# Neighbours with nearly the same values have next to no spread, which would make any row of other
# rounding an outlier. This share of the median spread is the least.
_LEAST_SPREAD = 0.1


def audit(
    corrector: Corrector, visible: Visibility, rows: int | None, seed: int, threads: int | None
) -> Audit:
    """See ``Memory.audit``."""
    n = len(corrector.rows)
    if n < 2:
        raise ValueError(f"audit compares rows: the memory must hold at least 2, got {n}")
    if not visible.of_own_rows:
        raise ValueError(
            "audit asks for the memory's own rows: before and exclude_groups may be 'own'"
        )
    seed = checks.seed(seed)
    some = sample(n, n if rows is None else checks.count(rows, "rows"), seed)
    positions = corrector.rows.numbered(some)
    found = audited_rows(corrector, visible, positions, execution_of(threads))
    return _worst_first(corrector, found, positions)


@dataclass
class AuditedRows:
    """What was found of m audited rows, in the order of storage."""

    expected: Array  # classes (m,) or values (m, C) of the neighbours
    off: F64  # (m,), see ``Finding``
    spread: F64  # (m,), see ``Finding``
    duplicates: I64  # (m,) neighbours with the same key and another target
    used: I64  # by position (n,): of how many audited rows a row is a neighbour
    misled: I64  # (n,): of these, how many it moves away from their target
    harm: F64  # (n,): by how much in all, as weighted


class Finding(NamedTuple):
    """What the neighbours of b rows say of them.

    Of classes, ``off`` is the share of the neighbours' weight that classes other than the row's
    have, and ``spread`` means nothing. Of values, ``off`` is the distance of the row's target from
    the neighbours' mean, and ``spread`` their standard deviation.
    """

    expected: Array
    off: F64
    spread: F64 | float


def audited_rows(
    corrector: Corrector, visible: Visibility, positions: I64, execution: Execution
) -> AuditedRows:
    """Return what is found of rows at ascending positions, block by block of them."""
    auditor = _Auditor(corrector, visible, positions, execution)
    for block in blocks(len(positions), auditor.row_bytes):
        auditor.read(block)
    return auditor.found


class _Auditor:
    def __init__(
        self, corrector: Corrector, visible: Visibility, positions: I64, execution: Execution
    ) -> None:
        self._corrector, self._execution = corrector, execution
        self._rows = OwnNeighbours(corrector, positions, visible, execution)
        self.row_bytes = self._rows.row_bytes
        m, columns = len(positions), corrector.rows.columns
        every = sum(segment.n for segment in corrector.rows.segments)
        self.found = AuditedRows(
            np.empty(m if self._rows.classes else (m, columns), self._rows.targets.dtype),
            np.empty(m),
            np.empty(m),
            np.zeros(m, np.int64),
            np.zeros(every, np.int64),
            np.zeros(every, np.int64),
            np.zeros(every),
        )

    def read(self, block: slice) -> None:
        """Audit a block of rows."""
        found, near = self.found, self._rows.read(block)
        finding = self._said(near)
        found.expected[block], found.off[block], found.spread[block] = finding
        same = near.near == near.own[:, None]
        differ = near.there & ~(same if self._rows.classes else same.all(axis=2))
        found.duplicates[block] = self._rows.same_keys(block, near, differ).sum(axis=1)
        away, at, there = self._moved_away(block, near), near.positions, near.there
        # Counted for each position in turn, so that no block takes time for all rows.
        np.add.at(found.used, at[there], 1)
        np.add.at(found.misled, at[there & (away > 0)], 1)
        np.add.at(found.harm, at[there], away[there])

    def _said(self, near: Neighbours) -> Finding:
        """Return what the neighbours say of a block of rows."""
        corrector, own, alone = self._corrector, near.own, ~near.there[:, 0]
        means = _core.aggregate(
            [corrector.spec.targets_for_core(segment) for segment in corrector.rows.segments],
            near.distances, near.positions, corrector.sigma, corrector.rows.columns,
            row_weights=corrector.rows.weights_for_core(), execution=self._execution,
        )  # fmt: skip
        if self._rows.classes:
            at = np.arange(len(own))
            means[alone, own[alone]] = 1.0
            agree, first = means[at, own], np.argmax(means, axis=1)
            # Rounding may leave the sum of all shares a little above 1.
            off = np.maximum(1.0 - agree, 0.0)
            return Finding(np.where(means[at, first] > agree, first, own), off, 0.0)
        means[alone] = own[alone]
        apart = np.square(np.where(np.isnan(near.near), 0.0, near.near - means[:, None]))
        spread = np.sqrt((near.weights[:, :, None] * apart).sum(axis=(1, 2)))
        return Finding(means, _lengths(own - means), spread)

    def _moved_away(self, block: slice, near: Neighbours) -> F64:
        """Return how far what each neighbour adds, alone and at strength 1, moves each row's answer
        away from its target: (b, k)."""
        left, added = self._rows.added(block, near)
        if self._rows.classes:
            away: F64 = 0.0 - near.weights * added[:, :, 0]
            return away
        return _lengths(left - near.weights[:, :, None] * added) - _lengths(left)


def _lengths(vectors: F64) -> F64:
    """Return the Euclidean lengths of vectors (.., C)."""
    lengths: F64 = np.sqrt(np.square(vectors).sum(axis=-1, dtype=np.float64))
    return lengths


def _worst_first(corrector: Corrector, found: AuditedRows, positions: I64) -> Audit:
    spec, rows = corrector.spec, corrector.rows
    ids = np.concatenate([segment.ids_of(at) for segment, at in rows.at(positions)])
    targets = np.concatenate([segment["targets"][at] for segment, at in rows.at(positions)])
    expected, score, spread = found.expected, found.off, None
    if spec.task == "classification":
        targets, expected = spec.labelled(targets), spec.labelled(expected)
    else:
        spread = found.spread
        score = found.off / np.maximum(spread, _LEAST_SPREAD * typical(spread))
        if rows.flat:
            targets, expected = targets[:, 0], expected[:, 0]
    harm = found.harm[positions]
    order = np.lexsort((ids, -harm, -score))
    at = positions[order]
    return Audit(
        task=spec.task,
        memory_rows=len(rows),
        settings={"k": corrector.k, "sigma_": corrector.sigma, "method": corrector.method},
        ids=ids[order],
        targets=targets[order],
        expected=expected[order],
        spread=None if spread is None else spread[order],
        score=score[order],
        duplicates=found.duplicates[order],
        harm=harm[order],
        used=found.used[at],
        misled=found.misled[at],
        classes=None if spec.labels is None else spec.labels.names,
    )
