"""The interface of a store of residuals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

import numpy as np

import resmem._core as _core
from resmem._base.arrays import F32, F64, I64, Array, Keys
from resmem._base.execution import Execution
from resmem._devices.device import Device
from resmem._rows.segment import Schema, Segment
from resmem._rows.stores.layer import Layer

StoredRows: TypeAlias = "tuple[dict[str, Array], float]"  # arrays by name, largest residual error

VALUE_DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16}


class Store(ABC):
    """How the residuals of rows are kept.

    A store names the arrays that it keeps beside keys and targets, fills them from checked outputs
    and targets, and hands them to the core. Other modules ask these properties what a store can do,
    and never which store it is.
    """

    derived: ClassVar[frozenset[str]] = frozenset()
    """Names of arrays that follow from the others at a temperature; copies leave them out."""
    fixed_temperature: ClassVar[bool] = False
    """Whether residuals stay at the temperature of ``fit``."""
    gives_outputs: ClassVar[bool] = True
    """Whether ``outputs`` can give the base model's outputs for the rows."""
    on_devices: ClassVar[bool] = True
    """Whether residuals can be brought to a device (``bring``)."""
    layer: Layer | None = None
    """The base model's last layer, if the store has one.

    Then keys must be unchanged float32 embeddings, callers give no outputs, and residuals are
    computed at each use.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What ``Memory(store=...)`` calls it."""

    @property
    def residual_dtype(self) -> str:
        """What ``Memory(residual_dtype=...)`` calls the dtype of stored residuals."""
        return "float32"

    @property
    def value_dtype(self) -> np.dtype[Any]:
        """The dtype of what ``residuals`` returns; half-width values are widened."""
        return np.dtype(np.float32)

    @property
    def shared(self) -> dict[str, F32]:
        """The arrays that all rows share, by name."""
        return {}

    @abstractmethod
    def schema(self, columns: int) -> Schema:
        """Return names, dtypes and shapes of the arrays that are kept per row."""

    @abstractmethod
    def rows(
        self, outputs: Array, targets: Array, temperature: float, first_row: int = 0
    ) -> StoredRows:
        """Return these arrays for new rows, and the largest error of a residual.

        ``temperature`` is 0 if the outputs are no logits; ``first_row`` is the number of the first
        row, for messages.
        """

    def derive(self, arrays: Mapping[str, Array], temperature: float) -> dict[str, Array]:
        """Return the derived arrays of stored rows at another temperature."""
        return {}

    @abstractmethod
    def for_core(self, rows: Segment) -> _core.ResidualRows:
        """Return the core's description of a segment's residuals."""

    def bring(self, segment: Segment, columns: int, device: Device, there: Any) -> Any:
        """Return a segment's residuals on a device.

        ``there`` is what was returned before, when the segment may have had fewer rows, or None.
        """
        raise AssertionError(f"residuals of store={self.name!r} are computed on the CPU")

    @abstractmethod
    def residuals(
        self, segment: Segment, rows: I64, columns: int, temperature: float, kept: float
    ) -> Keys:
        """Return residuals (m, C) of m rows at a temperature; they are stored at ``kept``."""

    @abstractmethod
    def values(
        self, segment: Segment, rows: I64, columns: I64, count: int, temperature: float,
        execution: Execution,
    ) -> tuple[F64, F64]:  # fmt: skip
        """Return values (m, t) of m rows in the columns (m, t), and a number (m,) per row.

        The residuals are the values less the row's number. There are ``count`` columns in all.
        """

    def outputs(self, segment: Segment, rows: I64, execution: Execution) -> Array:
        """Return the base model's outputs (m, C) for m rows."""
        return np.asarray(segment["outputs"][rows])


class WithoutArrays(Store):
    """A store that keeps no arrays of its own per row."""

    on_devices: ClassVar[bool] = False

    def schema(self, columns: int) -> Schema:
        return {}

    def rows(
        self, outputs: Array, targets: Array, temperature: float, first_row: int = 0
    ) -> StoredRows:
        return {}, 0.0
