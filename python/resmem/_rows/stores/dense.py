"""The dense store: all residuals, and the outputs that they follow from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import resmem._core as _core
from resmem._base.arrays import F64, I64, Array, Keys
from resmem._base.execution import Execution
from resmem._devices import engine
from resmem._devices.device import Device
from resmem._keys.stored import widen_keys
from resmem._rows.segment import Schema, Segment, checked_stored
from resmem._rows.stores.store import VALUE_DTYPES, Store, StoredRows


@dataclass(frozen=True)
class Dense(Store):
    """Outputs, and the residuals that follow from them at one temperature."""

    task: str
    dtype: str = "float32"  # dtype of the residuals
    derived: ClassVar[frozenset[str]] = frozenset({"residuals"})

    @property
    def name(self) -> str:
        return "dense"

    @property
    def residual_dtype(self) -> str:
        return self.dtype

    @property
    def value_dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64 if self.dtype == "float64" else np.float32)

    def schema(self, columns: int) -> Schema:
        output = np.float32 if self.task == "classification" else np.float64
        return {
            "outputs": (output, (columns,)),
            "residuals": (VALUE_DTYPES[self.dtype], (columns,)),
        }

    def rows(
        self, outputs: Array, targets: Array, temperature: float, first_row: int = 0
    ) -> StoredRows:
        if self.task == "classification":
            half = self.dtype == "float16"
            residuals = _core.class_residuals(outputs, targets, temperature, half=half)
        else:
            residuals = self._differences(outputs, targets, first_row)
        return {"outputs": outputs, "residuals": residuals}, 0.0

    def derive(self, arrays: Mapping[str, Array], temperature: float) -> dict[str, Array]:
        targets = checked_stored(arrays["targets"], arrays["outputs"].shape[1])
        rows, _ = self.rows(arrays["outputs"], targets, temperature)
        return {"residuals": rows["residuals"]}

    def for_core(self, rows: Segment) -> _core.DenseRows:
        return _core.DenseRows(rows["residuals"])

    def bring(self, segment: Segment, columns: int, device: Device, there: Any) -> Any:
        if there is None:
            there = engine.residual_rows(device, self.dtype, columns)
        there.extend(np.ascontiguousarray(segment["residuals"]))
        return there

    def residuals(
        self, segment: Segment, rows: I64, columns: int, temperature: float, kept: float
    ) -> Keys:
        if temperature == kept or self.task != "classification":
            return widen_keys(segment["residuals"][rows])
        arrays = {"outputs": segment["outputs"][rows], "targets": segment["targets"][rows]}
        return widen_keys(self.derive(arrays, temperature)["residuals"])

    def values(
        self, segment: Segment, rows: I64, columns: I64, count: int, temperature: float,
        execution: Execution,
    ) -> tuple[F64, F64]:  # fmt: skip
        return segment["residuals"][rows[:, None], columns].astype(np.float64), np.zeros(len(rows))

    def _differences(self, outputs: F64, targets: F64, first_row: int) -> Array:
        """Return regression residuals as they are stored; ValueError if one is out of range."""
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
