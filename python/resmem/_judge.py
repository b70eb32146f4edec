"""Tuning: the choice of a memory's settings, and the proof that it helps.

Every setting is scored on every fold of the validation rows. The best over all rows is the
candidate. What chose cannot judge: for each fold the other folds choose, settings and the base
model's temperature alike, and the fold's own rows compare the two; the interval of that gain over
all rows decides whether the memory is used.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from resmem._arrays import F64, I64
from resmem._grid import Settings
from resmem._metrics import Interval, Score, paired_interval
from resmem._rows import Array
from resmem._trial import SWEPT, Trial, scores_of
from resmem._tune_result import TABLE, TuneResult

_GROUPS = 50  # of the jackknife

Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Costs:
    """The score of settings, signed so that less is better."""

    every: F64  # (settings,) over all rows
    own: F64  # (folds, settings) over the rows of a fold
    rest: F64  # (folds, settings) over all other rows

    @staticmethod
    def joined(parts: Sequence[Costs]) -> Costs:
        """Those of all parts' settings."""
        columns = zip(*((c.every, c.own, c.rest) for c in parts), strict=True)
        return Costs(*(np.concatenate(column, axis=-1) for column in columns))


@dataclass(frozen=True)
class Tuner:
    """Validation rows against a memory, kept in one way or several."""

    trials: list[Trial]  # first as it is now
    score: Score
    rule: str
    confidence: float
    seed: int
    step: Callable[[int], None]

    def run(self) -> TuneResult:
        """Search, sweep, choose and judge."""
        times = [time.perf_counter()]
        for trial in self.trials:
            trial.search(self.step)
        times.append(time.perf_counter())
        costs = Costs.joined([self._costs(trial) for trial in self.trials])
        knn, knn_score = self._alone()
        times.append(time.perf_counter())
        judge = Judge(self, costs)
        result = judge.result(knn, knn_score)
        times.append(time.perf_counter())
        result.seconds.update(
            zip(("search", "sweep", "proof"), np.diff(times).tolist(), strict=True)
        )
        return result

    @property
    def folds(self) -> I64:
        """The fold of each row."""
        return self.trials[0].folds

    @property
    def sign(self) -> float:
        """Times the score: its cost."""
        return -1.0 if self.score.greater_is_better else 1.0

    def shaped(self, values: Array) -> Array:
        """Predictions or targets as the caller has them."""
        return values[:, 0] if self.trials[0].rows.flat and values.ndim == 2 else values

    @property
    def targets(self) -> Array:
        """As the caller has them."""
        return self.shaped(self.trials[0].source.targets)

    # ------------------------------------------------------------------ scores of all settings

    def _costs(self, trial: Trial) -> Costs:
        if self.score.name in SWEPT:
            return self._over_folds(self._of_sums(trial.sweep(self.score, self.step)))
        found = []
        for settings in trial.settings():
            found.append(self._over_folds(self._of_predictions(trial, settings)))
            self.step(len(self.folds))
        return Costs.joined(found)

    def _alone(self) -> tuple[Settings, float]:
        """The best of the neighbours' targets alone, and its score."""
        trial = self.trials[0]
        named = trial.settings(alone=True)
        whole = np.ones(int(self.folds.max()) + 1, dtype=np.bool_)
        if self.score.name in SWEPT:
            cost = self._of_sums(trial.sweep_alone(self.score))
            costs = cost(whole)
        else:
            every = [self._of_predictions(trial, settings, alone=True) for settings in named]
            costs = np.concatenate([cost(whole) for cost in every])
        best = first_best(costs, simplicity(named))
        return named[best], float(self.sign * costs[best])

    def _over_folds(self, cost: Callable[[Mask], F64]) -> Costs:
        """``cost`` takes the folds whose rows count."""
        count = int(self.folds.max()) + 1
        one = np.eye(count, dtype=np.bool_)
        own, rest = (np.stack([cost(mask) for mask in masks]) for masks in (one, ~one))
        return Costs(cost(np.ones(count, dtype=np.bool_)), own, rest)

    def _of_sums(self, sums: F64) -> Callable[[Mask], F64]:
        def cost(folds: Mask) -> F64:
            targets = self.trials[0].source.targets[folds[self.folds]]
            return self.sign * scores_of(self.score, sums[folds].sum(axis=0), targets)

        return cost

    def _of_predictions(
        self, trial: Trial, settings: Settings, alone: bool = False
    ) -> Callable[[Mask], F64]:
        predicted = self.shaped(trial.predictions(settings, np.arange(len(self.folds)), alone))
        targets = self.targets

        def cost(folds: Mask) -> F64:
            rows = folds[self.folds]
            return np.array([self.sign * self.score.whole(predicted[rows], targets[rows])])

        return cost


class Judge:
    """What costs say: the choice, and whether it can be trusted."""

    def __init__(self, tuner: Tuner, costs: Costs) -> None:
        self._tuner, self._costs = tuner, costs
        self._settings = [s for trial in tuner.trials for s in trial.settings()]
        self._trial = np.repeat(
            np.arange(len(tuner.trials)), [math.prod(t.grid.shape) for t in tuner.trials]
        )
        self._ranks = simplicity(self._settings)
        self._strength = np.array([s.strength for s in self._settings])
        self._folds = range(int(tuner.folds.max()) + 1)

    def result(self, knn: Settings, knn_score: float) -> TuneResult:
        """Everything but the times."""
        tuner, every, off = self._tuner, self._strength > -math.inf, self._strength == 0
        chosen = [self._best(every, without=f) for f in self._folds]
        bases = [self._best(off, without=f) for f in self._folds]
        candidate, base = self._best(every), self._best(off)
        published = self._best(self._strength == 1)
        given = replace(self._settings[base], temperature=tuner.trials[0].plain_temperature)
        pooled, against = self._pooled(chosen), self._pooled(bases)
        as_given = tuner.trials[0].predictions(given, np.arange(len(tuner.folds)))
        gain = self._gain(pooled, against)
        warmer = self._gain(against, as_given)
        useful = gain.low > 0 and self._gain(pooled, as_given).mean > 0
        best = self._settings[candidate]
        if not useful:
            cooled = self._settings[base].temperature if warmer.low > 0 else given.temperature
            kept = tuner.trials[0]
            best = replace(
                best, strength=0.0, temperature=cooled, preprocess=kept.preprocess,
                key_dtype=kept.spec.key_dtype,
            )  # fmt: skip
        return TuneResult(
            task=tuner.trials[0].spec.task,
            score=tuner.score.name,
            greater_is_better=tuner.score.greater_is_better,
            rows=len(tuner.folds),
            folds=len(self._folds),
            best=best,
            candidate=self._settings[candidate],
            base=self._settings[base],
            published=self._settings[published],
            knn=knn,
            scores={
                "base": self._score(as_given),
                "base, own temperature": self._score_of(base),
                "kNN alone": knn_score,
                "published": self._score_of(published),
                "candidate": self._score_of(candidate),
            },
            held_out={"base": self._score(against), "candidate": self._score(pooled)},
            gain=gain,
            temperature_gain=warmer,
            useful=useful,
            reason=self._reason(useful, gain, bool(off[candidate])),
            notes=self._edges(candidate) if useful else (),
            table=self._table(),
            per_fold=tuple(self._settings[i] for i in chosen),
            seconds={},
        )

    # ------------------------------------------------------------------ choice

    def _best(self, where: Mask, without: int | None = None) -> int:
        """The best of some settings, by all rows or by those that are not in a fold."""
        costs = self._costs.every if without is None else self._costs.rest[without]
        some = np.flatnonzero(where)
        best = int(some[first_best(costs[some], self._ranks[some])])
        if self._tuner.rule == "best":
            return best
        own = self._costs.own
        own = own if without is None else np.delete(own, without, axis=0)
        worse = own[:, some] - own[:, [best]]
        spread = worse.std(axis=0, ddof=1) / math.sqrt(len(own))
        near = some[worse.mean(axis=0) <= spread]
        return int(near[np.argmin(self._ranks[near])]) if len(near) else best

    # ------------------------------------------------------------------ proof

    def _pooled(self, chosen: list[int]) -> Array:
        """Predictions of every row by what was chosen without its fold."""
        folds = self._tuner.folds
        pooled = np.empty((len(folds), self._tuner.trials[0].rows.columns))
        for each in dict.fromkeys(chosen):
            rows = np.flatnonzero(np.isin(folds, [f for f in self._folds if chosen[f] == each]))
            trial = self._tuner.trials[self._trial[each]]
            pooled[rows] = trial.predictions(self._settings[each], rows)
        return pooled

    def _gain(self, first: Array, second: Array) -> Interval:
        """Of predictions over others, row by row where the score is a mean over rows."""
        tuner = self._tuner
        if tuner.score.rows is None:
            return self._jackknife(tuner.shaped(first), tuner.shaped(second))
        one, other = (tuner.score.rows(tuner.shaped(p), tuner.targets) for p in (first, second))
        return paired_interval(tuner.sign * (other - one), tuner.confidence)

    def _jackknife(self, first: Array, second: Array) -> Interval:
        """Of a score that is no mean: it is taken again without each of 50 groups of rows."""
        tuner, targets = self._tuner, self._tuner.targets
        groups = np.random.RandomState(tuner.seed).permutation(len(first)) % _GROUPS

        def gain(rows: Any) -> float:
            one, other = (tuner.score.whole(p[rows], targets[rows]) for p in (first, second))
            return tuner.sign * (other - one)

        count = int(groups.max()) + 1
        mean, without = gain(slice(None)), np.array([gain(groups != g) for g in range(count)])
        variance = np.square(without - without.mean()).sum() * (count - 1) / count
        half = NormalDist().inv_cdf(0.5 + tuner.confidence / 2) * math.sqrt(variance)
        return Interval(mean, mean - half, mean + half, tuner.confidence)

    # ------------------------------------------------------------------ words and tables

    def _score(self, predicted: Array) -> float:
        return self._tuner.score.whole(self._tuner.shaped(predicted), self._tuner.targets)

    def _score_of(self, setting: int) -> float:
        return float(self._tuner.sign * self._costs.every[setting])

    def _reason(self, useful: bool, gain: Interval, base_is_best: bool) -> str:
        name = (
            f"{gain.mean:+.3g} [{gain.low:+.3g}, {gain.high:+.3g}], the gain in "
            f"{self._tuner.score.name} on rows that did not choose"
        )
        if useful:
            return f"The memory helps: {name}, is clear of 0."
        if base_is_best:
            return f"The memory is switched off: no setting is better than the base ({name})."
        return f"The memory is switched off: {name}, is not clear of 0."

    def _edges(self, candidate: int) -> tuple[str, ...]:
        """Best values at an edge beyond which there may be better ones."""
        best, trial = self._settings[candidate], self._tuner.trials[self._trial[candidate]]
        grid, notes = trial.grid, []
        for name, axis, smaller, larger in (
            ("k", grid.ks, False, best.k < trial.most),
            ("sigma", grid.sigmas, True, math.isfinite(best.sigma)),
            ("temperature", grid.temperatures, True, True),
            ("strength", grid.strengths, best.strength < 0, True),
        ):
            value = getattr(best, name)
            for edge, beyond, word in ((min, smaller, "smallest"), (max, larger, "largest")):
                if len(axis) > 1 and beyond and value == edge(axis):
                    notes.append(f"{name}={value:.4g} is the {word} that was tried: try more")
        return tuple(notes)

    def _table(self) -> npt.NDArray[Any]:
        table = np.empty(len(self._settings), dtype=TABLE)
        for name in TABLE.names or ():
            if name != "score":
                table[name] = [getattr(s, name) for s in self._settings]
        table["score"] = self._tuner.sign * self._costs.every
        return table


def simplicity(settings: Sequence[Settings]) -> I64:
    """The rank of each: less of the memory first, then fewer neighbours, smoother weights, less
    change of temperature, and what comes first."""
    keys = [(abs(s.strength), s.k, -s.sigma, abs(math.log(s.temperature))) for s in settings]
    ranks = np.empty(len(keys), dtype=np.int64)
    ranks[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys))
    return ranks


def first_best(costs: F64, ranks: I64) -> int:
    """The setting of the least cost, of equal ones the simplest; NaN is the worst."""
    costs = np.where(np.isnan(costs), np.inf, costs)
    best = np.flatnonzero(costs == costs.min())
    return int(best[np.argmin(ranks[best])])
