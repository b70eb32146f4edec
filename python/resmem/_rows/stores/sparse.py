"""The sparse store: the class and the largest probabilities; the rest is spread evenly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import resmem._core as _core
from resmem._base.arrays import F32, F64, I64, Array
from resmem._base.execution import Execution
from resmem._devices import engine
from resmem._devices.device import Device
from resmem._rows.segment import Schema, Segment, checked_stored
from resmem._rows.stores.store import Store, StoredRows


@dataclass(frozen=True)
class Sparse(Store):
    """The class and the ``m`` largest other probabilities; the rest is spread evenly."""

    m: int
    half: bool = False  # whether values are float16
    fixed_temperature: ClassVar[bool] = True
    gives_outputs: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return f"sparse:{self.m}"

    @property
    def residual_dtype(self) -> str:
        return "float16" if self.half else "float32"

    def schema(self, columns: int) -> Schema:
        entries = (min(self.m, columns - 1) + 1,)
        value = np.float16 if self.half else np.float32
        return {"index": (np.int32, entries), "value": (value, entries), "rest": (np.float32, ())}

    def rows(
        self, outputs: Array, targets: Array, temperature: float, first_row: int = 0
    ) -> StoredRows:
        index, value, rest, error = _core.sparse_residuals(
            outputs, targets, temperature, self.m, half=self.half
        )
        return {"index": index, "value": value, "rest": rest}, error

    def for_core(self, rows: Segment) -> _core.SparseRows:
        return _core.SparseRows(rows["index"], rows["value"], rows["rest"])

    def bring(self, segment: Segment, columns: int, device: Device, there: Any) -> Any:
        if there is None:
            width = segment["index"].shape[1]
            there = engine.sparse_rows(device, self.residual_dtype, columns, width)
        arrays = (segment[name] for name in ("index", "value", "rest"))
        there.extend(*map(np.ascontiguousarray, arrays))
        return there

    def residuals(
        self, segment: Segment, rows: I64, columns: int, temperature: float, kept: float
    ) -> F32:
        """Return the stored residuals, rounded to float32."""
        rest, value = segment["rest"][rows, None], segment["value"][rows].astype(np.float32)
        residuals = np.repeat(-rest, columns, axis=1)
        index = checked_stored(segment["index"][rows], columns, "index")
        np.put_along_axis(residuals, index.astype(np.int64), value - rest, axis=1)
        return residuals

    def values(
        self, segment: Segment, rows: I64, columns: I64, count: int, temperature: float,
        execution: Execution,
    ) -> tuple[F64, F64]:  # fmt: skip
        values, kept = np.zeros(columns.shape), segment["value"][rows]
        index = checked_stored(segment["index"][rows], count, "index")
        for entry in range(index.shape[1]):
            np.copyto(values, kept[:, entry, None], where=index[:, entry, None] == columns)
        return values, segment["rest"][rows].astype(np.float64)
