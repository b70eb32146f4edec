"""The head store: classes alone; the base model's last layer gives the residuals of a key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import resmem._core as _core
from resmem._base import convert
from resmem._base.arrays import F32, F64, I64, Array, Keys
from resmem._base.blocks import blocks
from resmem._base.execution import DEFAULT, Execution
from resmem._keys.stored import widen_keys
from resmem._rows.segment import Schema, Segment, checked_stored
from resmem._rows.stores.store import Store, StoredRows


@dataclass(frozen=True)
class Head(Store):
    """Only the classes are kept: the base model's last layer gives the residuals of a key."""

    weight: F32  # (C, d)
    bias: F32  # (C,)
    has_layer: ClassVar[bool] = True

    @property
    def name(self) -> str:
        return "head"

    @property
    def shared(self) -> dict[str, F32]:
        return {"weight": self.weight, "bias": self.bias}

    def schema(self, columns: int) -> Schema:
        return {}

    def rows(
        self, outputs: Array, targets: Array, temperature: float, first_row: int = 0
    ) -> StoredRows:
        return {}, 0.0

    def for_core(self, rows: Segment) -> _core.HeadRows:
        return _core.HeadRows(rows["keys"], rows["targets"])

    def layer_for_core(self, temperature: float) -> _core.LinearHead:
        return _core.LinearHead(self.weight, self.bias, temperature)

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
        return self.outputs_of(widen_keys(segment["keys"][rows]), execution)

    def outputs_of(self, queries: Keys, execution: Execution) -> F32:
        return _core.head_logits(queries, _core.LinearHead(self.weight, self.bias), execution)

    def columns_without_outputs(self, d: int, outputs: Any) -> int:
        if outputs is not None:
            raise ValueError(
                "outputs must be None with store='head': the head gives them from the embeddings"
            )
        columns, width = map(int, self.weight.shape)
        if d != width:
            turned = "; its weight is (C, d): pass weight.T" if d == columns else ""
            raise ValueError(
                f"embeddings must have {width} columns like the head's weight, got {d}{turned}"
            )
        return columns


def head_arrays(head: Any) -> tuple[F32, F32]:
    """Return checked copies of a layer's weight and bias; the bias is 0 if there is none."""
    if isinstance(head, Head):
        return head.weight, head.bias
    if head is None:
        raise ValueError(
            "store='head' needs head=(weight, bias): the base model's last layer, (C, d) and (C,)"
        )
    if hasattr(head, "weight"):  # torch.nn.Linear and its like
        bias = getattr(head, "bias", None)
        head = head.weight, bias
    if not isinstance(head, (tuple, list)) or len(head) != 2:
        raise TypeError(f"head must be (weight, bias) or a linear layer, got {type(head).__name__}")
    matrix, bias = map(_detached, head)  # a layer's own tensors record operations
    weight = convert.float32(matrix, "head weight", "(C, d)").copy()
    bias = np.zeros(len(weight)) if bias is None else bias
    bias = convert.float32(bias, "head bias", "(C,)").copy()
    if weight.size == 0:
        raise ValueError(f"head weight must have rows and columns, got shape {weight.shape}")
    if len(bias) != len(weight):
        raise ValueError(
            f"head bias must have one value per row of weight ({len(weight)}), got {len(bias)}"
        )
    for array, name in ((weight, "weight"), (bias, "bias")):
        if not np.isfinite(array).all():
            raise ValueError(f"head {name} must be finite (as float32)")
    return weight, bias


def _detached(tensor: Any) -> Any:
    """Return a tensor that NumPy can read: without gradient, on the CPU; other values unchanged."""
    for method in ("detach", "cpu"):
        if hasattr(tensor, method):
            tensor = getattr(tensor, method)()
    return tensor
