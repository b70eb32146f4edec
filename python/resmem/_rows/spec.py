"""The specification of a memory: what is stored of each row, and what outputs mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import resmem._core as _core
from resmem._base import convert, labels
from resmem._base.arrays import F64, I64, Array, sliceable, to_numpy
from resmem._base.execution import Execution
from resmem._base.labels import LabelTable
from resmem._base.metric import Metric
from resmem._devices import engine
from resmem._devices.device import Device
from resmem._keys.preprocess import NO_PREPROCESS, Preprocess
from resmem._keys.stored import KEY_DTYPES, KeyDtype
from resmem._rows.segment import Schema, Segment
from resmem._rows.stores.store import Store

INDEX_TASK = "search"  # the task of an index, whose rows are keys alone


def key_and_target_schema(task: str, key_dtype: KeyDtype, width: int, columns: int) -> Schema:
    """Return the arrays of a segment that every store has, for keys of ``width`` columns."""
    target = (np.int64, ()) if task == "classification" else (np.float64, (columns,))
    return {"keys": (KEY_DTYPES[key_dtype], (width,)), "targets": target}


@dataclass(frozen=True)
class Spec:
    """What is stored of each row, and what outputs mean."""

    task: str
    output_kind: str
    key_dtype: KeyDtype
    store: Store
    preprocess: Preprocess = NO_PREPROCESS
    labels: LabelTable | None = None  # what targets call the columns; None: 0 to C-1
    metric: Metric = "euclidean"  # by which keys are compared

    def schema(self, d: int, columns: int) -> Schema:
        """Return names, dtypes and row shapes of a segment's arrays, for embeddings (n, d)."""
        width = self.preprocess.width(d)
        if self.task == INDEX_TASK:
            return {"keys": (KEY_DTYPES[self.key_dtype], (width,))}
        of_rows = key_and_target_schema(self.task, self.key_dtype, width, columns)
        return {**of_rows, **self.store.schema(columns)}

    def targets_for_core(self, rows: Segment) -> _core.ResidualRows:
        """Return the core's description of a segment's targets, to be summed like residuals."""
        targets = rows["targets"]
        return (
            _core.LabelRows(targets) if self.task == "classification" else _core.DenseRows(targets)
        )

    def bring_targets(self, segment: Segment, columns: int, device: Device, there: Any) -> Any:
        """Return a segment's targets on a device, to be summed like residuals.

        ``there`` is what was returned before, when the segment may have had fewer rows, or None.
        """
        if there is None and self.task == "classification":
            there = engine.label_rows(device, columns)
        elif there is None:
            there = engine.residual_rows(device, "float64", columns)
        there.extend(np.ascontiguousarray(segment["targets"]))
        return there

    def softmax_at(self, temperature: float) -> float:
        """Return the temperature as the core takes it: 0 if outputs are no logits."""
        return temperature if self.output_kind == "logits" else 0.0

    @property
    def says_nothing(self) -> bool:
        """Whether there is no base model: outputs are left out, and are the same for all rows."""
        return self.output_kind == "none"

    @property
    def gives_outputs(self) -> bool:
        """Whether the base model's outputs of rows can be had."""
        return self.store.gives_outputs or self.says_nothing

    def sliceable_outputs(self, outputs: Any) -> Any:
        """Return outputs as an object that rows can be sliced from."""
        if outputs is None:
            raise ValueError(
                "outputs are missing; without a base model use output_kind='none'; else only "
                "store='head' does without them"
            )
        return sliceable(outputs, "outputs")

    def silent_outputs(self, outputs: Any, n: int, columns: int, flat: bool = False) -> Array:
        """Return the outputs of no base model, which takes no memory: each class is as probable
        as any other, and each value is 0."""
        if outputs is not None:
            raise ValueError(
                "outputs must be None with output_kind='none', which has no base model, got "
                f"{type(outputs).__name__}"
            )
        value = np.float32(1 / columns) if self.task == "classification" else np.float64(0)
        return np.broadcast_to(value, (n,) if flat else (n, columns))

    def class_numbers(self, targets: Array, columns: int, first_row: int = 0) -> I64:
        """Return the classes (b,), numbers of columns, of targets as the caller gives them."""
        return labels.class_numbers(
            self.labels, columns, targets, first_row, has_outputs=not self.says_nothing
        )

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The labels of the columns as text; None if they are numbers."""
        return None if self.labels is None else tuple(map(str, self.labels.names))

    def labelled(self, numbers: I64) -> Array:
        """Return what targets call these columns."""
        return numbers if self.labels is None else self.labels.labels(numbers)

    def column_count(self, outputs: Any, like: int | None) -> int:
        """Return the number of columns of outputs; refuse a number other than ``like``."""
        flat = self.task == "regression" and len(outputs.shape) == 1
        if len(outputs.shape) == 1 and not flat:
            other = "numpy.zeros_like(outputs)"
            if self.output_kind == "probabilities":
                other = "numpy.subtract(1, outputs)"
            raise ValueError(
                f"outputs must have shape (n, C), got {tuple(outputs.shape)}; for values to "
                "predict use task='regression'; a single row is numpy.atleast_2d(outputs); scores "
                f"of the second of two classes become numpy.stack([{other}, outputs], axis=1)"
            )
        convert.check_layout(outputs, "outputs", "(n,)" if flat else "(n, C)")
        columns = 1 if flat else int(outputs.shape[1])
        if columns == 0:
            shape = tuple(outputs.shape)
            raise ValueError(f"outputs must have at least one column, got shape {shape}")
        if like is not None and columns != like:
            hint = ""
            if self.task == "classification" and (columns, like) == (1, 2):
                logits = self.output_kind == "logits"
                hint = f"; {convert.BOTH_COLUMNS if logits else convert.BOTH_PROBABILITIES}"
            raise ValueError(f"outputs must have {like} columns as in fit, got {columns}{hint}")
        return columns

    def outputs(self, outputs: Any, first_row: int = 0) -> npt.NDArray[Any]:
        """Return checked outputs (n, C): float32 for classification, else float64."""
        if self.output_kind == "logits":
            return convert.logits(outputs, "outputs", first_row)
        if self.output_kind == "probabilities" or (
            self.says_nothing and self.task == "classification"
        ):
            return convert.probabilities(outputs, "outputs", first_row)
        return self.values(outputs, "outputs", first_row)

    def base(self, outputs: npt.NDArray[Any], temperature: float, execution: Execution) -> F64:
        """Return the base model's predictions from checked outputs (b, C), as a copy."""
        if self.output_kind == "logits":
            return _core.softmax(np.ascontiguousarray(outputs), temperature, execution)
        base: F64 = outputs.astype(np.float64)
        return base

    @staticmethod
    def values(values: Any, name: str, first_row: int = 0) -> F64:
        """Return regression values (n,) or (n, C) as (n, C)."""
        flat = to_numpy(values, name).ndim == 1
        array = convert.float64(values, name, "(n,)" if flat else "(n, C)", first_row)
        return array[:, None] if flat else array
