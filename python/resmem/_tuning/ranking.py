"""Which of many settings is the best, by their costs on all rows or without those of a fold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resmem._base.arrays import F64, I64
from resmem._scores.metrics import Score
from resmem._state.settings import Settings
from resmem._tuning.dependence import Mask


@dataclass(frozen=True)
class Costs:
    """The score of each setting, signed so that less is better."""

    every: F64  # (settings,) over all rows
    own: F64  # (folds, settings) over the rows of a fold; no folds unless the rule is "one_se"
    rest: F64  # (folds, settings) over the rows of the folds that choose for a fold

    @staticmethod
    def joined(parts: Sequence[Costs]) -> Costs:
        """Return the costs of all parts' settings, one part after the other."""
        columns = zip(*((c.every, c.own, c.rest) for c in parts), strict=True)
        return Costs(*(np.concatenate(column, axis=-1) for column in columns))


class RankedSettings:
    """Settings with their costs, from which the best is chosen."""

    def __init__(
        self, settings: list[Settings], costs: Costs, score: Score, one_se: bool = False
    ) -> None:
        self.settings, self.costs, self._one_se = settings, costs, one_se
        self.bounded = bounded(settings, score)
        self.strength = np.array([s.strength for s in settings])
        self.temperatures = np.array([s.temperature for s in settings])
        self._ranks = simplicity_ranks(settings)

    def best(self, where: Mask | None = None, without: int | None = None) -> int:
        """Return the best setting, by all rows or by the rows of all folds but one.

        ``where``: the settings to choose among, default all. ``without``: the fold left out.
        """
        costs = self.costs.every if without is None else self.costs.rest[without]
        some = np.arange(len(costs)) if where is None else np.flatnonzero(where)
        best = int(some[simplest_best(costs[some], self._ranks[some])])
        if not self._one_se:
            return best
        own = self.costs.own
        own = own if without is None else np.delete(own, without, axis=0)
        with np.errstate(invalid="ignore"):  # differences of infinite costs are NaN
            worse = own[:, some] - own[:, [best]]
            spread = worse.std(axis=0, ddof=1) / math.sqrt(len(own))
        near = some[worse.mean(axis=0) <= spread]
        return int(near[np.argmin(self._ranks[near])]) if len(near) else best

    def choosable(self, methods: Sequence[str], base: int) -> Mask:
        """Return which settings may be chosen: those of the methods named, as warm as a base.

        A base that is more certain than it should be may score a little better under a memory that
        corrects most of its errors. But rows that the memory does not correct lose far more, and
        few rows hold few of them. Of ``bounded`` settings the same is true.
        """
        named = np.array([s.method in methods or s.strength == 0 for s in self.settings])
        warm: Mask = named & self.bounded & (self.temperatures >= self.temperatures[base])
        return warm

    def best_per_fold(self, where: Mask | None = None) -> list[int]:
        """Return the settings chosen without each fold."""
        return [self.best(where, without=f) for f in range(len(self.costs.rest))]


def bounded(settings: Sequence[Settings], score: Score) -> Mask:
    """Return which settings limit what a single row can lose; all of them if none does.

    Residuals may rule a class out. "clip" alone leaves it 1e-6, so that a row of it costs a
    log-loss of 14, and few rows hold few such rows.
    """
    harmless: Mask = np.array(
        [s.probability_map != "clip" or s.method == "targets" or s.strength == 0 for s in settings]
    )
    corrects = np.array([s.strength != 0 for s in settings])
    if score.name == "log_loss" and (harmless & corrects).any():
        return harmless
    return np.ones(len(settings), dtype=np.bool_)


def simplicity_ranks(settings: Sequence[Settings]) -> I64:
    """Return the rank of each setting by simplicity, the simplest first.

    Simpler is a smaller strength, then fewer neighbours, smoother weights, a temperature nearer to
    1, and of equal settings the earlier one.
    """
    keys = [(abs(s.strength), s.k, -s.sigma, abs(math.log(s.temperature))) for s in settings]
    ranks = np.empty(len(keys), dtype=np.int64)
    ranks[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
    return ranks


def simplest_best(costs: F64, ranks: I64) -> int:
    """Return the setting of least cost, of equal ones the simplest; NaN counts as the worst."""
    costs = np.where(np.isnan(costs), np.inf, costs)
    best = np.flatnonzero(costs == costs.min())
    return int(best[np.argmin(ranks[best])])
