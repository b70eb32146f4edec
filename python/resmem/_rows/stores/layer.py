"""A base model's last layer, which gives outputs from keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import resmem._core as _core
from resmem._base import convert
from resmem._base.arrays import F32, Keys
from resmem._base.execution import Execution
from resmem._rows.segment import Schema


@dataclass(frozen=True)
class Layer:
    """A linear layer: outputs are ``keys @ weight.T + bias``. Keys must be float32 embeddings."""

    weight: F32  # (C, d)
    bias: F32  # (C,)

    @staticmethod
    def schema(columns: int, d: int) -> Schema:
        """Return names, dtypes and shapes of the layer's arrays."""
        return {"weight": (np.float32, (columns, d)), "bias": (np.float32, (columns,))}

    @property
    def arrays(self) -> dict[str, F32]:
        return {"weight": self.weight, "bias": self.bias}

    def for_core(self, temperature: float = 1.0) -> _core.LinearHead:
        """Return the layer as the core computes with it; ``temperature`` is that of residuals."""
        return _core.LinearHead(self.weight, self.bias, temperature)

    def outputs(self, keys: Keys, execution: Execution) -> F32:
        """Return the outputs (q, C) for keys (q, d)."""
        return _core.head_logits(keys, self.for_core(), execution)

    def columns(self, d: int, outputs: Any) -> int:
        """Return how many outputs the layer has; refuse ``outputs`` and a ``d`` it cannot read."""
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


def checked_layer(head: Any) -> Layer:
    """Return a checked copy of a caller's layer; the bias is 0 if there is none."""
    if isinstance(head, Layer):
        return head
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
    return Layer(weight, bias)


def _detached(tensor: Any) -> Any:
    """Return a tensor that NumPy can read: without gradient, on the CPU; other values unchanged."""
    for method in ("detach", "cpu"):
        if hasattr(tensor, method):
            tensor = getattr(tensor, method)()
    return tensor
