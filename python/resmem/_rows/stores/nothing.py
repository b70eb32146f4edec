"""The store of an index, whose rows are keys alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NoReturn

import resmem._core as _core
from resmem._base.arrays import F64, I64, Keys
from resmem._base.execution import Execution
from resmem._rows.segment import Segment
from resmem._rows.stores.store import WithoutArrays


@dataclass(frozen=True)
class Nothing(WithoutArrays):
    """No residuals: nothing can be corrected by such rows."""

    gives_outputs: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return "nothing"

    def for_core(self, rows: Segment) -> _core.ResidualRows:
        self._refuse()

    def residuals(
        self, segment: Segment, rows: I64, columns: int, temperature: float, kept: float
    ) -> Keys:
        self._refuse()

    def values(
        self, segment: Segment, rows: I64, columns: I64, count: int, temperature: float,
        execution: Execution,
    ) -> tuple[F64, F64]:  # fmt: skip
        self._refuse()

    @staticmethod
    def _refuse() -> NoReturn:
        raise AssertionError("rows of an index have no residuals")
