"""The gate: how far each query may rely on its neighbours, fitted on validation rows.

A gate has one step function of one feature: the factor of the strength falls with the distance of
the nearest row or with the base's confidence, or rises with the agreement of the neighbours. It is
kept only if, on rows that took no part in fitting it, it clearly gains over one strength for all.
Beyond the farthest validation row nothing is known of the memory, and the base's output stays; if
the memory helps the farthest rows, it is trusted twice as far.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from resmem._base.arrays import F64, I64, distinct, quantiles
from resmem._correction.gate import Feature, Gate, Step
from resmem._scores.intervals import Interval
from resmem._state.settings import Settings
from resmem._tuning.dependence import Mask
from resmem._tuning.validation import ValidationRun

FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the strength, in every bin of a feature
_MOST_BINS = 5
_BIN_ROWS = 40  # least rows of a bin
_FAR_ROWS = 20  # of the farthest rows, or 1 % of all, that tell whether the memory helps far off
_FALLING: tuple[Feature, ...] = ("distance", "confidence")  # trust falls as these grow

Costs = F64  # (factors, rows)


@dataclass(frozen=True)
class Judging:
    """How predictions of the validation rows are compared."""

    row_costs: Callable[[F64], F64]  # the costs (q,) of predictions of all rows
    # The interval of the mean gain of costs (q,) over others (q,), at a confidence that allows for
    # the choice of the best of so many.
    interval: Callable[[F64, F64, int], Interval]
    choosing: Callable[[int], Mask]  # which folds fit the steps that a fold judges
    judged: I64  # the rows that are judged


@dataclass(frozen=True)
class FittedGate:
    """A gate, and by how much its step gains over one strength for all queries."""

    gate: Gate
    gain: Interval | None  # of the best feature's step on rows that did not fit it; None: no step


def fitted_gate(run: ValidationRun, settings: Settings, judging: Judging) -> FittedGate:
    """Return the gate for these settings."""
    nearest = run.distances[:, 0]
    if not np.isfinite(nearest).any():
        return FittedGate(Gate(), None)
    costs = _costs(run, settings, judging)
    zero = float(nearest.min()) if run.spec.metric == "inner_product" else 0.0
    limit = Step("distance", (_reach(nearest, zero, costs),), (1.0, 0.0))
    if len(nearest) < 2 * _BIN_ROWS:
        return FittedGate(Gate((limit,)), None)
    features = run.features(settings)
    gated = {
        feature: _held_out(feature, values, costs, run.folds, judging)
        for feature, values in features.items()
    }
    best = min(gated, key=lambda feature: float(gated[feature][judging.judged].mean()))
    gain = judging.interval(gated[best], costs[-1], len(gated))
    if not gain.low > 0:
        return FittedGate(Gate((limit,)), gain)
    step = fit_step(best, features[best], costs)
    if best != "distance":
        return FittedGate(Gate((limit, step)), gain)
    if step.edges[-1] < limit.edges[0]:
        step = replace(step, edges=(*step.edges, *limit.edges), factors=(*step.factors, 0.0))
    return FittedGate(Gate((step,)), gain)


def _reach(nearest: F64, zero: float, costs: Costs) -> float:
    """Return the distance up to which the memory is trusted, from each row's nearest one.

    Where the rows farthest off gain, that is twice as far from ``zero`` as any of them.
    """
    order = np.argsort(np.where(np.isfinite(nearest), nearest, -np.inf), kind="stable")
    farthest = order[-max(_FAR_ROWS, len(order) // 100) :]
    helps = costs[-1][farthest].sum() < costs[0][farthest].sum()
    farthest_off = float(nearest[order[-1]])
    return farthest_off + (farthest_off - zero if helps else 0.0)


def fit_step(feature: Feature, values: F64, costs: Costs) -> Step:
    """Return the monotone step function of a feature that costs least on some rows.

    Its bins hold about equally many rows. Among monotone choices of a factor for each bin the
    cheapest is found bin by bin, of equal ones that with the larger factors.
    """
    bins = min(_MOST_BINS, len(values) // _BIN_ROWS)
    edges = distinct(quantiles(values, np.arange(1, bins) / bins)) if bins > 1 else np.empty(0)
    edges = edges[edges < values.max()]
    number = np.searchsorted(edges, values)
    sums = [np.bincount(number, each, len(edges) + 1) for each in costs]
    totals = np.stack(sums).astype(np.float64)
    if feature not in _FALLING:
        totals = totals[:, ::-1]
    chosen = _falling_factors(totals)
    if feature not in _FALLING:
        chosen = chosen[::-1]
    factors = tuple(FACTORS[i] for i in chosen)
    changes = [i for i in range(len(edges)) if factors[i] != factors[i + 1]]
    if not changes:  # one factor for all: an edge is needed all the same
        return Step(feature, (float(values.max()),), (factors[0], factors[0]))
    edges = edges[changes]
    return Step(feature, tuple(edges.tolist()), (*(factors[i] for i in changes), factors[-1]))


def _falling_factors(totals: Costs) -> I64:
    """Return for each bin the number of its factor, never rising, of least cost (factors, bins)."""
    levels, bins = totals.shape
    least = np.zeros(levels)  # of the bins so far, if the last has at least this factor
    choices = np.empty((bins, levels), dtype=np.int64)
    for b in range(bins):
        here = least + totals[:, b]
        # The next bin may have this factor or a smaller one: of larger factors the cheapest counts.
        best, at = np.inf, levels - 1
        for level in range(levels - 1, -1, -1):
            if here[level] < best:
                best, at = here[level], level
            least[level], choices[b, level] = best, at
    chosen = np.empty(bins, dtype=np.int64)
    level = 0
    for b in range(bins - 1, -1, -1):
        level = chosen[b] = choices[b, level]
    return chosen


def _held_out(feature: Feature, values: F64, costs: Costs, folds: I64, judging: Judging) -> F64:
    """Return each row's cost under the step that the rows of the choosing folds fit."""
    found = np.empty(len(values))
    for fold in range(int(folds.max()) + 1):
        mine, fits = folds == fold, judging.choosing(fold)[folds]
        step = fit_step(feature, values[fits], costs[:, fits])
        at = np.searchsorted(FACTORS, step.of(values[mine]))
        found[mine] = costs[at, np.flatnonzero(mine)]
    return found


def _costs(run: ValidationRun, settings: Settings, judging: Judging) -> Costs:
    """Return the costs of each row at every factor of the strength."""
    rows = np.arange(len(run.source))
    parts = []
    for factor in FACTORS:
        tried = replace(settings, strength=settings.strength * factor)
        parts.append(judging.row_costs(run.predictions(tried, rows)))
    return np.stack(parts)
