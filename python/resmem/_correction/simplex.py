"""Maps from corrected outputs to probabilities (CONTRACT.md, "Probabilities")."""

from __future__ import annotations

from dataclasses import dataclass

import resmem._core as _core
from resmem._base.arrays import F64
from resmem._base.execution import DEFAULT, Execution

_FLOORS = {"clip": 1e-6, "project": 1e-6, "keep": 0.1}  # defaults, as in CONTRACT.md


@dataclass(frozen=True)
class SimplexMap:
    """A map to probabilities, as ``probability_map`` names it."""

    kind: str  # "clip", "project" or "keep"
    # The least probability of a class, with up to 100 classes; for "keep", the least share of the
    # base model's probability of the class.
    floor: float

    @property
    def name(self) -> str:
        return self.kind if self.floor == _FLOORS[self.kind] else f"{self.kind}:{self.floor!r}"

    @property
    def keeps_base(self) -> bool:
        """Whether its floors are shares of the base model's probabilities."""
        return self.kind == "keep"

    def apply(
        self, values: F64, base: F64 | None, strength: float, execution: Execution = DEFAULT
    ) -> F64:
        """Map rows (n, C) to probabilities in place, and return them.

        ``base`` (n, C) is what a correction, times ``strength``, was added to. It is None for
        predictions by neighbours alone, to which "keep" does not apply.
        """
        _core.simplex(values, self.floor, self.kind, base, strength, execution)
        return values


def map_named(name: str) -> SimplexMap:
    """Return the map with this name; raise ValueError if there is none."""
    kind, colon, text = name.partition(":") if isinstance(name, str) else ("", "", "")
    try:
        floor = float(text) if colon else _FLOORS.get(kind, 0.0)
    except ValueError:
        floor = 0.0
    if kind not in _FLOORS or not 0 < floor < 1:
        raise ValueError(
            "probability_map must be 'clip', 'project' or 'keep', or with a number between 0 and 1 "
            f"such as 'clip:0.001', got {name!r}"
        )
    return SimplexMap(kind, floor)
