"""Grids that grow: values beyond the edge at which the best setting lies are tried too."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from resmem._base.arrays import F64
from resmem._state.settings import Settings
from resmem._tuning.grid import Grid
from resmem._tuning.validation import ValidationRun

_MOST_TEMPERATURES = 40  # times two: from 4 up to 10^12
MOST_EXTENSIONS = 4  # each tries two or three values more of one setting
WORTH_HAVING = 0.02  # share of the gain that values beyond the edge must add


class Edge(NamedTuple):
    """An end of the values tried of one setting, where the best setting lies."""

    axis: str  # the field of ``Grid``
    name: str  # the setting
    word: str  # "smallest" or "largest"
    value: float
    beyond: tuple[Any, ...]  # the values to try next


def edges(grid: Grid, best: Settings, most_neighbours: int) -> list[Edge]:
    """Return the ends of the grid at which a setting lies, if values beyond may be better."""
    on, of_targets = best.strength != 0, best.method == "targets"
    more_k = tuple(sorted({min(best.k * step, most_neighbours) for step in (2, 4)}))
    strengths = "shares" if of_targets else "strengths"
    odds = best.strength / (1 - best.strength) if of_targets and best.strength < 1 else 0.0
    candidates = (
        ("ks", "k", False, on and best.k < most_neighbours, (), more_k),
        ("sigmas", "sigma", on, on and math.isfinite(best.sigma),
         _times(best.sigma, 1 / 8, 1 / 4, 1 / 2), _times(best.sigma, 2, 4, 8)),
        ("temperatures", "temperature", True, True, _times(best.temperature, 1 / 2, 1 / 1.4),
         _times(best.temperature, 1.4, 2)),
        (strengths, "strength", of_targets or best.strength < 0, on and best.strength > 0,
         _shares(odds, 1 / 4, 1 / 2), _shares(odds, 2, 4) if of_targets else (1.25, 1.5, 2.0)),
    )  # fmt: skip
    found = []
    for axis, name, smaller, larger, below, above in candidates:
        tried, value = getattr(grid, axis), getattr(best, name)
        for end, wanted, word, beyond in (
            (min, smaller, "smallest", below), (max, larger, "largest", above),
        ):  # fmt: skip
            if len(tried) > 1 and wanted and value == end(tried):
                fresh = tuple(v for v in beyond if v not in tried)
                found.append(Edge(axis, name, word, value, fresh))
    return found


def extended(run: ValidationRun, best: Settings) -> tuple[str, ValidationRun] | None:
    """Return an axis at whose edge the best setting lies, and a run that tries values beyond it.

    None if it lies at none, or only at those of values that the caller has given. The run shares
    the rows and, unless it needs more of them, the neighbours.
    """
    for edge in edges(run.reach, best, run.most_neighbours):
        if edge.axis not in growing(run.reach) or not edge.beyond:
            continue
        more = copy.copy(run)
        # The temperature is settled; trying all of them would take as long as all else together.
        part = run.reach.with_axis("temperatures", (best.temperature,))
        part = part.with_axis(edge.axis, edge.beyond)
        if edge.axis == "shares":
            part = replace(part, strengths=())
        elif edge.axis == "strengths":
            part = replace(part, shares=())
        tried = tuple(sorted({*getattr(run.reach, edge.axis), *edge.beyond}))
        more.grid, more.step = part, lambda done: None
        if edge.axis == "ks":
            more.source = run.source.at_k(part.ks[-1])
            more.find_neighbours()
        more.reach = run.reach.with_axis(edge.axis, tried)
        return edge.axis, more
    return None


def growing(reach: Grid) -> frozenset[str]:
    """Return the axes on which values beyond those tried may be worth having.

    A temperature belongs to the base (``warmer_and_colder``): at extreme ones, corrected outputs
    may score a little better, but rows that nothing corrects lose far more.
    """
    return reach.open - reach.exhausted - {"temperatures"}


def base_alone(run: ValidationRun, temperatures: tuple[float, ...]) -> ValidationRun:
    """Return a run that scores the base at these temperatures."""
    alone = copy.copy(run)
    alone.step = lambda done: None
    alone.grid = replace(
        run.grid, temperatures=temperatures, ks=run.grid.ks[:1], sigmas=run.grid.sigmas[:1],
        strengths=(0.0,), maps=run.grid.maps[:1], shares=(),
    )  # fmt: skip
    return alone


def warmer_and_colder(
    grid: Grid, costs: Callable[[tuple[float, ...]], F64]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return temperatures beyond those of a grid: all that were tried, and those near the best.

    ``costs`` returns the base's cost at each of some temperatures. While the best of them lies at
    an end, the next two beyond it are tried. None are returned if it lies inside the grid.
    """
    tried = dict(zip(grid.temperatures, costs(grid.temperatures), strict=True))
    for _ in range(_MOST_TEMPERATURES):
        best = min(tried, key=lambda each: (tried[each], abs(math.log(each))))
        factors = (1.4, 2) if best == max(tried) else (1 / 2, 1 / 1.4)
        if best not in (min(tried), max(tried)) or len(tried) == 1:
            break
        more = _times(best, *factors)
        tried.update(zip(more, costs(more), strict=True))
    beyond = tuple(sorted(set(tried) - set(grid.temperatures)))
    return beyond, tuple(each for each in beyond if best / 2 <= each <= 2 * best)


def with_temperatures(
    run: ValidationRun, tried: tuple[float, ...], near: tuple[float, ...]
) -> ValidationRun:
    """Return a run of all settings at the temperatures ``near``; ``tried`` were tried of the
    base."""
    more = copy.copy(run)
    more.step = lambda done: None
    more.grid = run.grid.with_axis("temperatures", near)
    every = tuple(sorted({*run.reach.temperatures, *tried}))
    more.reach = run.reach.with_axis("temperatures", every)
    return more


def _times(value: float, *factors: float) -> tuple[float, ...]:
    return tuple(value * factor for factor in factors)


def _shares(odds: float, *factors: float) -> tuple[float, ...]:
    """Return the shares whose odds are these multiples."""
    return tuple(odds * factor / (1 + odds * factor) for factor in factors)
