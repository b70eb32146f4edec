"""The head store: classes alone; the base model's last layer gives the residuals of a key."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

import resmem._core as _core
from resmem._base.arrays import F32, F64, I64
from resmem._base.blocks import blocks
from resmem._base.execution import DEFAULT, Execution
from resmem._keys.stored import widen_keys
from resmem._rows.segment import Segment, checked_stored
from resmem._rows.stores.layer import Layer
from resmem._rows.stores.store import WithoutArrays


@dataclass(frozen=True)
class Head(WithoutArrays):
    """Only the classes are kept: the base model's last layer gives the residuals of a key."""

    layer: Layer = field()  # of which every such store has one

    @property
    def name(self) -> str:
        return "head"

    @property
    def shared(self) -> dict[str, F32]:
        return self.layer.arrays

    def for_core(self, rows: Segment) -> _core.HeadRows:
        return _core.HeadRows(rows["keys"], rows["targets"])

    def residuals(
        self, segment: Segment, rows: I64, columns: int, temperature: float, kept: float
    ) -> F32:
        logits = self.outputs(segment, rows, DEFAULT)
        targets = checked_stored(segment["targets"][rows], columns)
        residuals: F32 = _core.class_residuals(logits, targets, temperature)
        return residuals

    def values(
        self, segment: Segment, rows: I64, columns: I64, count: int, temperature: float,
        execution: Execution,
    ) -> tuple[F64, F64]:  # fmt: skip
        values = np.empty(columns.shape)
        for part in blocks(len(rows), 16 * count):
            logits = self.outputs(segment, rows[part], execution)
            labels = checked_stored(segment["targets"][rows[part]], count)
            residuals = _core.class_residuals(logits, labels, temperature, execution=execution)
            values[part] = np.take_along_axis(residuals, columns[part], axis=1)
        return values, np.zeros(len(rows))

    def outputs(self, segment: Segment, rows: I64, execution: Execution) -> F32:
        return self.layer.outputs(widen_keys(segment["keys"][rows]), execution)
