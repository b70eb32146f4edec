"""How residuals are kept: whole, sparse, or as the linear layer that gives them.

A store names the arrays it keeps for each row, fills them from checked outputs and targets, and
hands them to the core's aggregation. CONTRACT.md defines the numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from resmem import _core
from resmem._base import convert
from resmem._base.arrays import F32, F64, I64, Keys
from resmem._rows.segment import Array, Schema, Segment, intact

Rows: TypeAlias = "tuple[dict[str, Array], float]"  # arrays by name, largest error of a residual

KeyDtype: TypeAlias = Literal["auto", "float32", "float64", "float16", "bfloat16"]

# "auto" becomes one of these when rows come.
KEY_DTYPES: dict[KeyDtype, Any] = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float16,
    "bfloat16": np.uint16,
}
VALUE_DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16}


@dataclass(frozen=True)
class Dense:
    """Outputs, and the residuals that follow from them at one temperature."""

    task: str
    dtype: str = "float32"  # of the residuals
    name: ClassVar[str] = "dense"
    derived: ClassVar[frozenset[str]] = frozenset({"residuals"})  # what follows from the rest

    def schema(self, columns: int) -> Schema:
        kept = np.float32 if self.task == "classification" else np.float64
        return {
            "outputs": (kept, (columns,)),
            "residuals": (VALUE_DTYPES[self.dtype], (columns,)),
        }

    def rows(self, outputs: Array, targets: Array, temperature: float, first_row: int = 0) -> Rows:
        """``temperature`` 0: the outputs are probabilities."""
        if self.task == "classification":
            half = self.dtype == "float16"
            residuals = _core.class_residuals(outputs, targets, temperature, half=half)
        else:
            residuals = self._differences(outputs, targets, first_row)
        return {"outputs": outputs, "residuals": residuals}, 0.0

    def derive(self, arrays: Mapping[str, Array], temperature: float) -> dict[str, Array]:
        """The derived arrays of rows that are kept, at another temperature."""
        targets = intact(arrays["targets"], arrays["outputs"].shape[1])
        rows, _ = self.rows(arrays["outputs"], targets, temperature)
        return {"residuals": rows["residuals"]}

    def for_core(self, rows: Segment) -> tuple[Any, ...]:
        return ("dense", rows["residuals"])

    def residuals(
        self, segment: Segment, rows: I64, columns: int, temperature: float | None = None
    ) -> Keys:
        """Residuals (m, C) of some rows, as they are kept or at another temperature."""
        if temperature is None or self.task != "classification":
            return widen_keys(segment["residuals"][rows])
        arrays = {"outputs": segment["outputs"][rows], "targets": segment["targets"][rows]}
        return widen_keys(self.derive(arrays, temperature)["residuals"])

    def _differences(self, outputs: F64, targets: F64, first_row: int) -> Array:
        with np.errstate(over="ignore"):
            residuals: Array = np.ascontiguousarray(targets - outputs)
            if self.dtype != "float64":
                residuals = residuals.astype(np.float32)
        if self.dtype == "float16":
            residuals = _core.narrow(residuals, "float16")
        finite = np.isfinite(residuals).all(axis=1)
        if not finite.all():
            row = first_row + int(np.argmin(finite))
            wider = "" if self.dtype == "float64" else " or use residual_dtype='float64'"
            raise ValueError(
                f"targets - outputs: row {row} is beyond {self.dtype}, in which residuals are "
                f"kept; rescale targets and outputs{wider}"
            )
        return residuals


@dataclass(frozen=True)
class Sparse:
    """The class and the ``m`` largest other probabilities; the rest is spread evenly."""

    m: int
    half: bool = False
    derived: ClassVar[frozenset[str]] = frozenset()

    @property
    def name(self) -> str:
        return f"sparse:{self.m}"

    def schema(self, columns: int) -> Schema:
        entries = (min(self.m, columns - 1) + 1,)
        value = np.float16 if self.half else np.float32
        return {"index": (np.int32, entries), "value": (value, entries), "rest": (np.float32, ())}

    def rows(self, outputs: Array, targets: Array, temperature: float, first_row: int = 0) -> Rows:
        index, value, rest, error = _core.sparse_residuals(
            outputs, targets, temperature, self.m, half=self.half
        )
        return {"index": index, "value": value, "rest": rest}, error

    def for_core(self, rows: Segment) -> tuple[Any, ...]:
        return ("sparse", rows["index"], rows["value"], rows["rest"])

    def residuals(
        self, segment: Segment, rows: I64, columns: int, temperature: float | None = None
    ) -> F32:
        """Those that are kept, rounded to float32; their temperature is that of ``fit``."""
        rest, value = segment["rest"][rows, None], segment["value"][rows].astype(np.float32)
        kept = np.repeat(-rest, columns, axis=1)
        index = intact(segment["index"][rows], columns, "index")
        np.put_along_axis(kept, index.astype(np.int64), value - rest, axis=1)
        return kept


@dataclass(frozen=True)
class Head:
    """Nothing but the classes: the base model's last layer gives the residuals of a key."""

    weight: F32  # (C, d)
    bias: F32  # (C,)
    name: ClassVar[str] = "head"
    derived: ClassVar[frozenset[str]] = frozenset()

    def schema(self, columns: int) -> Schema:
        return {}

    def rows(self, outputs: Array, targets: Array, temperature: float, first_row: int = 0) -> Rows:
        return {}, 0.0

    def for_core(self, rows: Segment) -> tuple[Any, ...]:
        return ("head", rows["keys"], rows["targets"])

    def residuals(
        self, segment: Segment, rows: I64, columns: int, temperature: float | None = None
    ) -> F32:
        """Computed from the rows' keys; they must be told the temperature."""
        assert temperature is not None
        logits = self.logits(widen_keys(segment["keys"][rows]), 0)
        targets = intact(segment["targets"][rows], columns)
        residuals: F32 = _core.class_residuals(logits, targets, temperature)
        return residuals

    def logits(self, queries: Keys, threads: int) -> F32:
        """What the base model says of queries."""
        return _core.head_logits(queries, self.weight, self.bias, threads)


Store: TypeAlias = "Dense | Sparse | Head"


def residual_dtype_for(task: str, asked: str | None) -> str:
    """How residuals are stored: as asked for, or as their task has them."""
    if asked is None:
        return "float64" if task == "regression" else "float32"
    if not isinstance(asked, str) or asked not in VALUE_DTYPES:
        names = ", ".join(map(repr, VALUE_DTYPES))
        raise ValueError(f"residual_dtype must be one of {names}, got {asked!r}")
    if asked == "float64" and task != "regression":
        raise ValueError(
            "residual_dtype='float64' is for regression; probabilities need no more than 'float32'"
        )
    return asked


def store_named(name: str, task: str, output_kind: str, residual_dtype: str, head: Any) -> Store:
    """The store that ``Memory`` was asked for; ValueError if it cannot be had."""
    half = residual_dtype == "float16"
    if head is not None and name != "head":
        raise ValueError(f"head is for store='head', got store={name!r}")
    if name == "dense":
        return Dense(task, residual_dtype)
    sparse = re.fullmatch(r"sparse:([1-9][0-9]{0,8})", name) if isinstance(name, str) else None
    if sparse is None and name != "head":
        raise ValueError(
            f"store must be 'dense', 'sparse:m' (such as 'sparse:32') or 'head', got {name!r}"
        )
    if task != "classification":
        raise ValueError(f"store={name!r} is for classification; regression needs store='dense'")
    if sparse is not None:
        return Sparse(int(sparse[1]), half)
    if output_kind != "logits":
        raise ValueError(
            f"store='head' gives logits, so output_kind must be 'logits', got {output_kind!r}"
        )
    if half:
        raise ValueError(
            "residual_dtype must be 'float32' with store='head', which keeps no residuals"
        )
    return Head(*_head_arrays(head))


def _head_arrays(head: Any) -> tuple[F32, F32]:
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
    given, bias = map(_detached, head)  # a layer's own tensors record operations
    weight = convert.float32(given, "head weight", "(C, d)").copy()
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
    """A tensor that records no operations and lies where NumPy can read it; anything else as it
    is."""
    for method in ("detach", "cpu"):
        if hasattr(tensor, method):
            tensor = getattr(tensor, method)()
    return tensor


def narrow_keys(keys: Keys, dtype: KeyDtype, first_row: int = 0) -> Array:
    """Keys as they are stored; ValueError, naming a row, if one is beyond ``dtype``."""
    if dtype not in ("float16", "bfloat16"):
        return keys
    stored = _core.narrow(keys.astype(np.float32, copy=False), dtype)
    finite = stored if dtype == "float16" else (stored & 0x7F80) != 0x7F80
    good = (np.isfinite(finite) if dtype == "float16" else finite).all(axis=1)
    if not good.all():
        raise ValueError(
            f"embeddings: row {first_row + int(np.argmin(good))} is beyond {dtype}; "
            "rescale the embeddings or use key_dtype="
            + ("'bfloat16' or 'float32'" if dtype == "float16" else "'float32'")
        )
    return stored


def widened(values: Array) -> F32:
    """Float32 or float16 residuals as float32, exactly."""
    values = np.ascontiguousarray(values)
    return values if values.dtype == np.float32 else _core.widen(values)


def widen_keys(keys: Array) -> Keys:
    """Stored keys as queries of their own, exactly: float64 ones as they are, others as float32."""
    keys = np.ascontiguousarray(keys)
    return keys if keys.dtype == np.float64 else widened(keys)
