"""The costs of all settings: a score on every fold of the validation rows, in grids that grow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from resmem._base.arrays import F64, I64, Array
from resmem._scores.metrics import Score
from resmem._state.settings import Settings
from resmem._tuning.dependence import Dependence, Mask
from resmem._tuning.extension import (
    MOST_EXTENSIONS,
    WORTH_HAVING,
    base_alone,
    extended,
    warmer_and_colder,
    with_temperatures,
)
from resmem._tuning.grid import Grid
from resmem._tuning.ranking import Costs, RankedSettings
from resmem._tuning.validation import Predictor, ValidationRun, scores_of


@dataclass
class Tuner:
    """The settings of one or several runs, which differ in how keys are kept, and their costs."""

    runs: list[ValidationRun]  # the first keeps keys as the memory does now
    score: Score
    rule: str
    confidence: float
    risk: float  # the accepted probability of keeping a useless memory
    seed: int
    # What the caller says of the rows, and from the search on also what their keys show.
    dependence: Dependence

    def search(self) -> None:
        """Find the neighbours of all rows, and which rows depend on each other."""
        for run in self.runs:
            run.find_neighbours()
        self.dependence = self.dependence.detected(self.runs[0], self.seed)
        for run in self.runs:
            run.folds = self.folds

    def swept(self) -> tuple[Costs, Costs, Costs]:
        """Return the costs of all settings, and those of the mean residual and of the neighbours
        alone."""
        parts = [self._costs(run) for run in self.runs]
        if not self.score.custom:  # each setting of a caller's function takes long
            self._extend(parts)
        costs = Costs.joined(parts)
        mean, alone = (self._costs(self.runs[0], predictor) for predictor in ("mean", "targets"))
        return costs, mean, alone

    def _extend(self, parts: list[Costs]) -> None:
        """Try values beyond the edges at which the best base and the best setting lie."""
        self._extend_temperatures(parts)
        for _ in range(MOST_EXTENSIONS):
            settings, number = self.settings_of_runs()
            costs = Costs.joined(parts)
            ranked = RankedSettings(settings, costs, self.score)
            base = ranked.best(ranked.strength == 0)
            best = ranked.best(ranked.choosable(self.runs[0].grid.methods, base))
            run = self._widest(self.runs[number[best]])
            if (found := extended(run, settings[best])) is None:
                return
            axis, more = found
            tried = self._costs(more)
            before, least = costs.every[best], float(np.nanmin(tried.every))
            with np.errstate(invalid="ignore"):  # the log-loss of a base may be infinite
                worth = before - least >= WORTH_HAVING * (costs.every[base] - before)
            if not worth:
                run.reach = replace(run.reach, exhausted=run.reach.exhausted | {axis})
                continue
            parts.append(tried)
            more.step = run.step
            self.runs.append(more)

    def _extend_temperatures(self, parts: list[Costs]) -> None:
        """Try temperatures beyond the grid if the base's best one lies at its end."""
        first = self.runs[0]
        if "temperatures" not in first.reach.open:
            return

        def costs(temperatures: tuple[float, ...]) -> F64:
            return self._costs(base_alone(first, temperatures)).every

        tried, near = warmer_and_colder(first.grid, costs)
        if not tried:
            return
        for run in list(self.runs):
            more = with_temperatures(run, tried, near)
            parts.append(self._costs(more))
            more.step = run.step
            self.runs.append(more)

    def settings_of_runs(self) -> tuple[list[Settings], I64]:
        """Return the settings of all runs, one run after the other, and the run of each."""
        of_each = [run.settings() for run in self.runs]
        numbers = np.repeat(np.arange(len(of_each)), [len(settings) for settings in of_each])
        return [s for settings in of_each for s in settings], numbers

    def _widest(self, run: ValidationRun) -> ValidationRun:
        """Return the last run, whose reach is the widest, that keeps keys in the same way."""
        return [each for each in self.runs if each.keys_name == run.keys_name][-1]

    def reach_of(self, run: ValidationRun) -> Grid:
        """Return all values that were tried with keys kept in the way of this run."""
        return self._widest(run).reach

    @property
    def folds(self) -> I64:
        """The fold (q,) of each row."""
        return self.dependence.folds

    @property
    def cost_sign(self) -> float:
        """The factor that turns a score into a cost."""
        return -1.0 if self.score.greater_is_better else 1.0

    def shaped(self, values: Array) -> Array:
        """Return predictions or targets in the caller's shape: (n,) if the memory was fitted so."""
        return values[:, 0] if self.runs[0].rows.flat and values.ndim == 2 else values

    @property
    def targets(self) -> Array:
        """The targets in the caller's shape."""
        return self.shaped(self.runs[0].source.targets)

    # ------------------------------------------------------------------ scores of all settings

    def _costs(self, run: ValidationRun, predictor: Predictor = "memory") -> Costs:
        if not self.score.custom:
            return self._over_folds(self._cost_from_sums(run.sweep(self.score, predictor)))
        found = []
        for settings in run.settings(predictor):
            found.append(self._over_folds(self._cost_from_predictions(run, settings, predictor)))
        return Costs.joined(found)

    def _over_folds(self, cost: Callable[[Mask], F64]) -> Costs:
        """Return the costs over all rows, each fold, and the folds that choose for it.

        ``cost`` returns the costs over the rows of the folds that its mask selects.
        """
        count = int(self.folds.max()) + 1
        one = np.eye(count, dtype=np.bool_)
        choosing = [self.dependence.choosing(fold) for fold in range(count)]
        every, rest = cost(np.ones(count, dtype=np.bool_)), np.stack([cost(m) for m in choosing])
        own = [cost(mask) for mask in one] if self.rule == "one_se" else []
        return Costs(every, np.stack(own) if own else np.empty((0, len(every))), rest)

    def _cost_from_sums(self, sums: F64) -> Callable[[Mask], F64]:
        def cost(folds: Mask) -> F64:
            targets = self.runs[0].source.targets[folds[self.folds]]
            return self.cost_sign * scores_of(self.score, sums[folds].sum(axis=0), targets)

        return cost

    def _cost_from_predictions(
        self, run: ValidationRun, settings: Settings, predictor: Predictor
    ) -> Callable[[Mask], F64]:
        predicted = self.shaped(run.predictions(settings, np.arange(len(self.folds)), predictor))
        targets = self.targets

        def cost(folds: Mask) -> F64:
            rows = folds[self.folds]
            return np.array([self.cost_sign * self.score.whole(predicted[rows], targets[rows])])

        return cost
