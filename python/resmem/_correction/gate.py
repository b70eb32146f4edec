"""Gates: how far a query may rely on its neighbours (CONTRACT.md, "Gates")."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias, get_args

import numpy as np

from resmem._base.arrays import F64
from resmem._base.metric import Metric, is_euclidean

# What a step looks at: the distance of the nearest neighbour, the largest probability of the base
# model, or the largest share of the neighbours' weight that one class has.
Feature: TypeAlias = Literal["distance", "confidence", "agreement"]
FEATURES: tuple[Feature, ...] = get_args(Feature)

_NUMBER = r"[-+.\w]+"
_STEP = re.compile(rf"(\w+): ((?:{_NUMBER} to {_NUMBER}, )+)({_NUMBER}) beyond")
_PART = re.compile(rf"({_NUMBER}) to ({_NUMBER}), ")


@dataclass(frozen=True)
class Step:
    """Factors of the strength by the value of one feature."""

    feature: Feature
    edges: tuple[float, ...]  # ascending
    factors: tuple[float, ...]  # one more: the first up to the first edge, the last beyond them all

    @property
    def name(self) -> str:
        """The step in words, which ``gate_named`` reads."""
        pairs = zip(self.factors, self.edges, strict=False)
        parts = "".join(f"{factor!r} to {edge!r}, " for factor, edge in pairs)
        return f"{self.feature}: {parts}{self.factors[-1]!r} beyond"

    def of(self, values: F64) -> F64:
        """Return the factor (q,) of each value (q,)."""
        factors: F64 = np.array(self.factors)[np.searchsorted(self.edges, values)]
        return factors


@dataclass(frozen=True)
class Gate:
    """Steps whose factors are multiplied; without steps every query has the whole strength."""

    steps: tuple[Step, ...] = ()

    @property
    def name(self) -> str:
        return "; ".join(step.name for step in self.steps) or "none"

    @property
    def features(self) -> frozenset[Feature]:
        """The features that the steps look at."""
        return frozenset(step.feature for step in self.steps)

    @property
    def parts(self) -> list[tuple[Feature, tuple[float, ...], tuple[float, ...]]]:
        """The feature, edges and factors of each step."""
        return [(step.feature, step.edges, step.factors) for step in self.steps]

    def check_metric(self, given: Metric, wanted: Metric) -> None:
        """Refuse distances of another metric than the memory's, if the gate looks at them.

        Euclidean distances and their squares become each other.
        """
        same = given == wanted or (is_euclidean(given) and is_euclidean(wanted))
        if not same and "distance" in self.features:
            raise ValueError(
                f"the memory's gate looks at distances of metric={wanted!r}, got metric={given!r}; "
                "give such distances, or set memory.gate = 'none'"
            )

    def factors(self, values: Mapping[Feature, F64]) -> F64:
        """Return the factor (q,) of each query's strength, given the features' values (q,)."""
        factors = np.ones(len(next(iter(values.values()))))
        for step in self.steps:
            factors *= step.of(values[step.feature])
        return factors


OPEN = Gate()


def gate_named(name: str) -> Gate:
    """Return the gate with this name; raise ValueError if there is none."""
    if name == "none":
        return OPEN
    parts = name.split("; ") if isinstance(name, str) else []
    steps = tuple(step for part in parts if (step := _step_named(part)) is not None)
    if not steps or len(steps) != len(parts) or len({s.feature for s in steps}) != len(steps):
        raise ValueError(
            "gate must be 'none' or steps of 'distance', 'confidence' or 'agreement' such as "
            f"'distance: 1.0 to 0.8, 0.5 to 1.2, 0.0 beyond', got {name!r}"
        )
    return Gate(steps)


def _step_named(text: str) -> Step | None:
    """Return the step with this name, or None if it makes no sense."""
    found = _STEP.fullmatch(text)
    if found is None or found[1] not in FEATURES:
        return None
    try:
        pairs = [(float(factor), float(edge)) for factor, edge in _PART.findall(found[2])]
        factors, edges = (*(f for f, _ in pairs), float(found[3])), tuple(e for _, e in pairs)
    except ValueError:
        return None
    finite = np.isfinite([*factors, *edges]).all() and min(factors) >= 0 and max(factors) <= 1
    ascending = all(a < b for a, b in pairwise(edges))
    return (
        Step(FEATURES[FEATURES.index(found[1])], edges, factors) if finite and ascending else None
    )
