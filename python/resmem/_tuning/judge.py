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
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from resmem._base.arrays import F64, I64, Array
from resmem._base.blocks import blocks
from resmem._scores.metrics import Interval, Score, gains_of, normal_quantile, paired_interval
from resmem._state.settings import Settings
from resmem._tuning.result import TABLE, TuneResult
from resmem._tuning.trial import Kind, Trial, scores_of

_GROUPS = 50  # of the jackknife
PROVED = 5  # predictions of every row that the proof compares
RIVALS = 2  # the same of ways to keep keys, where there are several

Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Costs:
    """The score of settings, signed so that less is better."""

    every: F64  # (settings,) over all rows
    own: F64  # (folds, settings) over the rows of a fold; none for the rule that does without
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

    def run(self) -> TuneResult:
        """Search, sweep, choose and judge."""
        times = [time.perf_counter()]
        for trial in self.trials:
            trial.search()
        times.append(time.perf_counter())
        costs = Costs.joined([self._costs(trial) for trial in self.trials])
        mean, alone = (self._costs(self.trials[0], kind) for kind in ("mean", "targets"))
        times.append(time.perf_counter())
        result = Judge(self, costs, mean, alone).result()
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

    def _costs(self, trial: Trial, kind: Kind = "memory") -> Costs:
        if not self.score.custom:
            return self._over_folds(self._of_sums(trial.sweep(self.score, kind)))
        found = []
        for settings in trial.settings(kind):
            found.append(self._over_folds(self._of_predictions(trial, settings, kind)))
        return Costs.joined(found)

    def _over_folds(self, cost: Callable[[Mask], F64]) -> Costs:
        """``cost`` takes the folds whose rows count."""
        count = int(self.folds.max()) + 1
        one = np.eye(count, dtype=np.bool_)
        every, rest = cost(np.ones(count, dtype=np.bool_)), np.stack([cost(mask) for mask in ~one])
        own = [cost(mask) for mask in one] if self.rule == "one_se" else []
        return Costs(every, np.stack(own) if own else np.empty((0, len(every))), rest)

    def _of_sums(self, sums: F64) -> Callable[[Mask], F64]:
        def cost(folds: Mask) -> F64:
            targets = self.trials[0].source.targets[folds[self.folds]]
            return self.sign * scores_of(self.score, sums[folds].sum(axis=0), targets)

        return cost

    def _of_predictions(
        self, trial: Trial, settings: Settings, kind: Kind
    ) -> Callable[[Mask], F64]:
        predicted = self.shaped(trial.predictions(settings, np.arange(len(self.folds)), kind))
        targets = self.targets

        def cost(folds: Mask) -> F64:
            rows = folds[self.folds]
            return np.array([self.sign * self.score.whole(predicted[rows], targets[rows])])

        return cost


class Choices:
    """Settings, their costs, and the best of them."""

    def __init__(self, settings: list[Settings], costs: Costs, one_se: bool) -> None:
        self.settings, self.costs, self._one_se = settings, costs, one_se
        self.strength = np.array([s.strength for s in settings])
        self._ranks = simplicity(settings)

    def best(self, where: Mask | None = None, without: int | None = None) -> int:
        """The best of all or some, by all rows or by those that are not in a fold."""
        costs = self.costs.every if without is None else self.costs.rest[without]
        some = np.arange(len(costs)) if where is None else np.flatnonzero(where)
        best = int(some[first_best(costs[some], self._ranks[some])])
        if not self._one_se:
            return best
        own = self.costs.own
        own = own if without is None else np.delete(own, without, axis=0)
        with np.errstate(invalid="ignore"):  # infinite costs
            worse = own[:, some] - own[:, [best]]
            spread = worse.std(axis=0, ddof=1) / math.sqrt(len(own))
        near = some[worse.mean(axis=0) <= spread]
        return int(near[np.argmin(self._ranks[near])]) if len(near) else best

    def each(self, where: Mask | None = None) -> list[int]:
        """Chosen without each fold."""
        return [self.best(where, without=f) for f in range(len(self.costs.rest))]


Pick: TypeAlias = tuple[Settings, int, Kind]  # the int is the number of its trial


class Compared:
    """Predictions of every row by what was picked for its fold, under several names.

    Of a score that is a mean over rows, nothing is kept but numbers of each row.
    """

    def __init__(self, tuner: Tuner, picks: dict[str, list[Pick]]) -> None:
        self._tuner, self._picks = tuner, picks
        self._worst: dict[tuple[str, str], float] = {}
        q, columns = len(tuner.folds), tuner.trials[0].rows.columns
        self._by_row = tuner.score.rows is not None
        self._costs = {name: np.empty(q) for name in picks}
        self._whole: dict[str, Array] = {}
        if not self._by_row:
            every = np.arange(q)
            self._whole = {name: tuner.shaped(self._predicted(name, every)) for name in picks}
            return
        for block in blocks(q, 8 * columns * (len(picks) + 1)):
            self._compare(np.arange(block.start, block.stop))

    def gain(self, name: str, other: str) -> Interval:
        """Of the first over the second."""
        tuner = self._tuner
        if not self._by_row:
            return self._jackknife(self._whole[name], self._whole[other])
        worst = None
        if tuner.score.worst is not None:
            worst = self._worst[name, other] / len(tuner.folds)
        gains = gains_of(self._costs[name], self._costs[other])
        return paired_interval(gains, tuner.confidence, worst)

    def score(self, name: str) -> float:
        """Over all rows."""
        if self._by_row:
            return float(self._tuner.sign * self._costs[name].mean())
        return self._tuner.score.whole(self._whole[name], self._tuner.targets)

    def _compare(self, rows: I64) -> None:
        """Costs of some rows, and the sums of the worst gains that they allow."""
        tuner, score = self._tuner, self._tuner.score
        predicted = {name: tuner.shaped(self._predicted(name, rows)) for name in self._picks}
        assert score.rows is not None
        for name, values in predicted.items():
            self._costs[name][rows] = tuner.sign * score.rows(values, tuner.targets[rows])
        if score.worst is None:
            return
        for name, values in predicted.items():
            for other, others in predicted.items():
                if name != other:
                    worst = float(score.worst(values, others).sum())
                    self._worst[name, other] = self._worst.get((name, other), 0.0) + worst

    def _predicted(self, name: str, rows: I64) -> Array:
        tuner, picks = self._tuner, self._picks[name]
        folds = tuner.folds[rows]
        predicted = np.empty((len(rows), tuner.trials[0].rows.columns))
        for each in dict.fromkeys(picks):
            settings, trial, kind = each
            mine = np.isin(folds, [f for f, pick in enumerate(picks) if pick == each])
            if mine.any():
                predicted[mine] = tuner.trials[trial].predictions(settings, rows[mine], kind)
        return predicted

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
        half = normal_quantile(tuner.confidence) * math.sqrt(variance)
        return Interval(mean, mean - half, mean + half, tuner.confidence)


class Judge:
    """What costs say: the choice, and whether it can be trusted."""

    def __init__(self, tuner: Tuner, costs: Costs, mean: Costs, alone: Costs) -> None:
        self._tuner, first = tuner, tuner.trials[0]
        one_se = tuner.rule == "one_se"
        whole = [s for trial in tuner.trials for s in trial.settings()]
        self._memory = Choices(whole, costs, one_se)
        self._mean = Choices(first.settings("mean"), mean, one_se)
        self._alone = Choices(first.settings("targets"), alone, one_se)
        sizes = [math.prod(t.grid.shape) for t in tuner.trials]
        self._trial = np.repeat(np.arange(len(sizes)), sizes)

    def result(self) -> TuneResult:
        """Everything but the times."""
        tuner, memory, first = self._tuner, self._memory, self._tuner.trials[0]
        where = self._where()
        off, candidate, chosen = memory.strength == 0, memory.best(where), memory.each(where)
        base, published = memory.best(where & off), memory.best(where & self._as_published())
        knn, mean = self._alone.best(), self._mean.best()
        given = replace(
            memory.settings[base], temperature=first.plain_temperature, probability_map="clip"
        )
        against = self._picks(memory, memory.each(where & off))
        picks: dict[str, list[Pick]] = {
            "candidate": self._picks(memory, chosen),
            "base": against,
            "given": [(given, 0, "memory")] * len(chosen),
            "mean": self._picks(self._mean, self._mean.each(), "mean"),
            "shuffled": self._picks(memory, chosen, "shuffled"),
        }
        compared = Compared(tuner, picks)
        gain, warmer = compared.gain("candidate", "base"), compared.gain("base", "given")
        local, stand_in = min(
            (compared.gain("candidate", name), name) for name in ("mean", "shuffled")
        )
        useful = min(gain.low, local.low) > 0 and compared.gain("candidate", "given").mean > 0
        best = memory.settings[candidate]
        if not useful:
            kept = memory.settings[base] if warmer.low > 0 else given
            # At rest it has the k and sigma of the published method over the keys as they are.
            plain = memory.settings[memory.best((self._trial == 0) & self._as_published())]
            best = replace(
                plain, strength=0.0, temperature=kept.temperature,
                probability_map=kept.probability_map, preprocess=first.preprocess,
                key_dtype=first.spec.key_dtype,
            )  # fmt: skip
        return TuneResult(
            task=first.spec.task,
            score=tuner.score.name,
            greater_is_better=tuner.score.greater_is_better,
            rows=len(tuner.folds),
            folds=len(chosen),
            best=best,
            candidate=memory.settings[candidate],
            base=memory.settings[base],
            published=memory.settings[published],
            knn=self._alone.settings[knn],
            scores={
                "base": compared.score("given"),
                "base, own temperature": self._score_of(memory, base),
                "mean residual": self._score_of(self._mean, mean),
                "kNN alone": self._score_of(self._alone, knn),
                "published": self._score_of(memory, published),
                "candidate": self._score_of(memory, candidate),
            },
            held_out={name: compared.score(name) for name in ("base", "candidate")},
            gain=gain,
            local_gain=local,
            temperature_gain=warmer,
            useful=useful,
            reason=self._reason(useful, gain, local, stand_in, bool(off[candidate])),
            notes=self._edges(candidate if useful else base),
            table=self._table(),
            per_fold=tuple(memory.settings[i] for i in chosen),
            seconds={},
        )

    def _as_published(self) -> Mask:
        """Strength 1 and the sum as it is, but for what is below 0; if that was tried."""
        full: Mask = self._memory.strength == 1
        plain: Mask = np.array([s.probability_map == "clip" for s in self._memory.settings])
        return full & plain if (full & plain).any() else full

    def _where(self) -> Mask:
        """All settings; only those with keys as they are, unless others clearly gain over them."""
        every = np.ones(len(self._trial), dtype=np.bool_)
        present = self._trial == 0
        if present.all():
            return every
        picks = {
            name: self._picks(self._memory, self._memory.each(where))
            for name, where in (("every", every), ("present", present))
        }
        gain = Compared(self._tuner, picks).gain("every", "present")
        return every if gain.low > 0 else present

    def _picks(self, of: Choices, chosen: list[int], kind: Kind = "memory") -> list[Pick]:
        """What was chosen without each fold."""
        own = of is self._memory
        return [(of.settings[i], int(self._trial[i]) if own else 0, kind) for i in chosen]

    # ------------------------------------------------------------------ words and tables

    def _score_of(self, of: Choices, setting: int) -> float:
        return float(self._tuner.sign * of.costs.every[setting])

    def _reason(
        self, useful: bool, gain: Interval, local: Interval, stand_in: str, base_is_best: bool
    ) -> str:
        name = f"in {self._tuner.score.name} on rows that did not choose"
        if useful:
            return f"The memory helps: its gain {name}, {_said(gain)}, is clear of 0."
        off = "The memory is switched off:"
        if base_is_best:
            return f"{off} no setting of it is better than the base."
        if gain.low > 0 and local.low <= 0:
            other = {
                "mean": "the mean residual of all rows",
                "shuffled": "the neighbours of other rows",
            }[stand_in]
            return (
                f"{off} its gain {name}, {_said(gain)}, is not its neighbours'. Over {other} "
                f"it is {_said(local)}, not clear of 0."
            )
        return f"{off} its gain {name}, {_said(gain)}, is not clear of 0."

    def _edges(self, of: int) -> tuple[str, ...]:
        """Best values at an edge beyond which there may be better ones."""
        best, trial = self._memory.settings[of], self._tuner.trials[self._trial[of]]
        grid, on, notes = trial.grid, best.strength != 0, []
        for name, axis, smaller, larger in (
            ("k", grid.ks, False, on and best.k < trial.most),
            ("sigma", grid.sigmas, on, on and math.isfinite(best.sigma)),
            ("temperature", grid.temperatures, True, True),
            ("strength", grid.strengths, best.strength < 0, on),
        ):
            value = getattr(best, name)
            for edge, beyond, word in ((min, smaller, "smallest"), (max, larger, "largest")):
                if len(axis) > 1 and beyond and value == edge(axis):
                    notes.append(f"{name}={value:.4g} is the {word} that was tried: try more")
        return tuple(notes)

    def _table(self) -> npt.NDArray[Any]:
        settings = self._memory.settings
        table = np.empty(len(settings), dtype=TABLE)
        for name in TABLE.names or ():
            if name != "score":
                table[name] = [getattr(s, name) for s in settings]
        table["score"] = self._tuner.sign * self._memory.costs.every
        return table


def _said(gain: Interval) -> str:
    return f"{gain.mean:+.3g} [{gain.low:+.3g}, {gain.high:+.3g}]"


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
