"""What a store of residuals has to tell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

import numpy as np

from resmem._base.arrays import F32, F64, I64, Array, Keys
from resmem._rows.segment import Schema, Segment

Kept: TypeAlias = "tuple[dict[str, Array], float]"  # arrays by name, largest error of a residual

VALUE_DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16}


class Store(ABC):
    """How the residuals of rows are kept.

    A store names the arrays that it keeps beside keys and targets, fills them from checked outputs
    and targets, and hands them to the core. Whoever needs to know what one can do asks these
    properties, and never which store it is.
    """

    derived: ClassVar[frozenset[str]] = frozenset()
    """Arrays that follow from the others at a temperature; copies leave them out."""
    fixed_temperature: ClassVar[bool] = False
    """The residuals stay at the temperature of ``fit``."""
    gives_outputs: ClassVar[bool] = True
    """The base model's outputs of the rows can be had again (``outputs``)."""
    has_layer: ClassVar[bool] = False
    """The base model's last layer gives outputs from keys, which must be float32 embeddings as
    they came. Outputs are not taken from a caller, and residuals are computed at each use."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What ``Memory(store=...)`` calls it."""

    @property
    def value_dtype(self) -> np.dtype[Any]:
        """The dtype of ``residuals``; half-width values are widened."""
        return np.dtype(np.float32)

    @property
    def shared(self) -> dict[str, F32]:
        """Arrays that all rows share."""
        return {}

    @abstractmethod
    def schema(self, columns: int) -> Schema:
        """The arrays that are kept of each row."""

    @abstractmethod
    def rows(self, outputs: Array, targets: Array, temperature: float, first_row: int = 0) -> Kept:
        """These arrays of new rows, and the largest error of a residual.

        ``temperature`` is 0 where the outputs are probabilities; ``first_row`` is the number of
        the first row, for messages.
        """

    def derive(self, arrays: Mapping[str, Array], temperature: float) -> dict[str, Array]:
        """The derived arrays of rows that are kept, at another temperature."""
        return {}

    @abstractmethod
    def for_core(self, rows: Segment) -> tuple[Any, ...]:
        """What the core sums the residuals of a segment from."""

    def layer_for_core(self, temperature: float) -> tuple[Any, ...] | None:
        """What the core computes residuals with, if there is a layer."""
        return None

    @abstractmethod
    def residuals(
        self, segment: Segment, rows: I64, columns: int, temperature: float, kept: float
    ) -> Keys:
        """Residuals (m, C) of some rows at a temperature; they are kept at the temperature
        ``kept``."""

    @abstractmethod
    def values(
        self, segment: Segment, rows: I64, columns: I64, count: int, temperature: float,
        threads: int,
    ) -> tuple[F64, F64]:  # fmt: skip
        """What is kept of m rows in the columns (m, t), of ``count`` columns, and what is taken off
        every column of each row, (m,): the residuals are the first less the second."""

    def outputs(self, segment: Segment, rows: I64, threads: int) -> Array:
        """The base model's outputs (m, C) of some rows."""
        return np.asarray(segment["outputs"][rows])

    def outputs_of(self, queries: Keys, threads: int) -> F32:
        """What the layer gives of queries (q, d): the base model's outputs (q, C)."""
        raise NotImplementedError(f"store={self.name!r} has no layer")

    def columns_without_outputs(self, d: int, outputs: Any) -> int:
        """How many columns the layer gives; refuses ``outputs``, and embeddings of another width
        ``d`` than it reads."""
        raise NotImplementedError(f"store={self.name!r} has no layer")
