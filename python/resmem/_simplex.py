"""Maps from corrected outputs to probabilities (CONTRACT.md, "Probabilities")."""

from __future__ import annotations

from dataclasses import dataclass

from resmem import _core
from resmem._arrays import F64

_FLOOR = 1e-6  # CONTRACT.md


@dataclass(frozen=True)
class SimplexMap:
    """What ``probability_map`` names."""

    project: bool  # onto the nearest point; else what is below the floor is moved up to it
    floor: float  # of a probability

    @property
    def name(self) -> str:
        kind = "project" if self.project else "clip"
        return kind if self.floor == _FLOOR else f"{kind}:{self.floor!r}"

    def apply(self, values: F64, threads: int = 0) -> F64:
        """Rows (n, C) mapped, in place."""
        _core.simplex(values, self.floor, threads, project=self.project)
        return values


def map_named(name: str) -> SimplexMap:
    """The map called so; ValueError if there is none."""
    kind, colon, text = name.partition(":") if isinstance(name, str) else ("", "", "")
    try:
        floor = float(text) if colon else _FLOOR
    except ValueError:
        floor = 0.0
    if kind not in ("clip", "project") or not 0 < floor < 1:
        raise ValueError(
            "probability_map must be 'clip' or 'project', or with a smallest probability such as "
            f"'clip:0.001', got {name!r}"
        )
    return SimplexMap(kind == "project", floor)
