"""Maps from corrected outputs to probabilities (CONTRACT.md, "Probabilities")."""

from __future__ import annotations

from dataclasses import dataclass

from resmem import _core
from resmem._base.arrays import F64

_USUAL = {"clip": 1e-6, "project": 1e-6, "keep": 0.1}  # CONTRACT.md


@dataclass(frozen=True)
class SimplexMap:
    """What ``probability_map`` names."""

    kind: str  # "clip", "project" or "keep"
    floor: float  # of a probability, if there are no more than 100; "keep": its share of the base's

    @property
    def name(self) -> str:
        return self.kind if self.floor == _USUAL[self.kind] else f"{self.kind}:{self.floor!r}"

    @property
    def keeps(self) -> bool:
        """Whether its floors are shares of the base model's probabilities."""
        return self.kind == "keep"

    def apply(self, values: F64, base: F64 | None, strength: float, threads: int = 0) -> F64:
        """Rows (n, C) mapped, in place.

        ``base`` (n, C) is what a correction, times ``strength``, was added to; None where there is
        none, as of neighbours alone, which cannot be kept.
        """
        _core.simplex(values, self.floor, threads, kind=self.kind, base=base, strength=strength)
        return values


def map_named(name: str) -> SimplexMap:
    """The map called so; ValueError if there is none."""
    kind, colon, text = name.partition(":") if isinstance(name, str) else ("", "", "")
    try:
        floor = float(text) if colon else _USUAL.get(kind, 0.0)
    except ValueError:
        floor = 0.0
    if kind not in _USUAL or not 0 < floor < 1:
        raise ValueError(
            "probability_map must be 'clip', 'project' or 'keep', or with a number between 0 and 1 "
            f"such as 'clip:0.001', got {name!r}"
        )
    return SimplexMap(kind, floor)
