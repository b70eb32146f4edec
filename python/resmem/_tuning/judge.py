"""Tuning: the choice of a memory's settings, and the proof that it helps.

Every setting is scored on every fold of the validation rows, and the best over all rows is the
candidate. Rows that chose a setting cannot also prove it. So, for each fold, the other folds choose
both settings and the base model's temperature, and the fold's own rows compare the two. The
interval of that gain over all rows decides whether the memory is used.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from resmem._base.arrays import F64
from resmem._correction.own_rows import MemoryRows
from resmem._scores.intervals import Estimate, Interval, estimate_of
from resmem._scores.metrics import gains_of
from resmem._state.settings import Settings
from resmem._tuning.dependence import Mask
from resmem._tuning.extension import edges, growing
from resmem._tuning.gates import FittedGate, Judging, fitted_gate
from resmem._tuning.held_out import HeldOutComparison, Pick
from resmem._tuning.ranking import Costs, RankedSettings
from resmem._tuning.result import TABLE, TuneResult
from resmem._tuning.tuner import Tuner
from resmem._tuning.validation import Predictor

_MOST_TIMES = 100.0  # as many rows as there are; more that would be needed are not told of
_ORDER_NOTE = (
    "gains of rows that follow each other are alike, so the intervals take batches of them as "
    "independent, not rows; times= tells their order in time, groups= which belong together; if "
    "their order has no meaning, shuffle them"
)
_ORDER_NOTE_OF_MEMORY = (
    "gains of the memory's rows that follow each other are alike, so the intervals take batches of "
    "them as independent, not rows; on other rows, groups= or times= can tell tune which of them "
    "belong together"
)
STAND_INS = {
    "mean": "the mean residual of all rows",
    "shuffled": "the neighbours of other rows",
}
PROOF_PREDICTIONS = 6  # predictions of each row that the proof compares
KEYS_PREDICTIONS = 2  # predictions of each row that compare ways to keep keys


def tuned(tuner: Tuner) -> TuneResult:
    """Search, sweep, choose and prove."""
    times = [time.perf_counter()]
    tuner.search()
    times.append(time.perf_counter())
    costs = tuner.swept()
    times.append(time.perf_counter())
    result = Judge(tuner, *costs).result()
    times.append(time.perf_counter())
    result.seconds.update(zip(("search", "sweep", "proof"), np.diff(times).tolist(), strict=True))
    return result


class Choice(NamedTuple):
    """Two settings, by their numbers: the best base, and the best memory beside it."""

    base: int
    candidate: int


class Proof(NamedTuple):
    """What the memory gains on rows that did not choose, and whether that is clear of chance."""

    gain: Estimate  # of the candidate over the base
    local: Estimate  # of the candidate over the stand-in that it gains least over
    stand_in: str  # the name of that, in ``STAND_INS``
    warmer: Estimate  # of the base at its own temperature over the base as given
    useful: bool


class Judge:
    """Turns costs into a result: the choice, and whether it is proved to help."""

    def __init__(self, tuner: Tuner, costs: Costs, mean: Costs, alone: Costs) -> None:
        self._tuner, first = tuner, tuner.runs[0]
        one_se = tuner.rule == "one_se"
        settings, self._run_of = tuner.settings_of_runs()
        self._memory = RankedSettings(settings, costs, tuner.score, one_se)
        self._mean = RankedSettings(first.settings("mean"), mean, tuner.score, one_se)
        self._alone = RankedSettings(first.settings("targets"), alone, tuner.score, one_se)
        present = [run.keys_name == first.keys_name for run in tuner.runs]
        self._present: Mask = np.array(present)[self._run_of]
        self._of_targets: Mask = np.array([s.method == "targets" for s in settings])

    def result(self) -> TuneResult:
        """Return the result of tuning, but for its times."""
        tuner, memory, first = self._tuner, self._memory, self._tuner.runs[0]
        where = self._eligible()
        base, candidate = choice = self._choice(where)
        without = [self._choice(where, fold) for fold in range(len(memory.costs.rest))]
        published = memory.best(where & self._as_published())
        mixed = where & self._of_targets
        interpolation = memory.best(mixed) if mixed.any() else None
        knn = self._alone.best()
        given = replace(
            memory.settings[base], temperature=first.given_temperature, probability_map="clip"
        )
        compared = self._compared(choice, without, given)
        proof = self._proof(compared)
        gate = self._gate(candidate) if proof.useful else None
        return TuneResult(
            task=first.spec.task,
            score=tuner.score.name,
            greater_is_better=tuner.score.greater_is_better,
            rows=len(tuner.folds),
            folds=len(without),
            best=self._best(choice, given, proof, gate),
            candidate=memory.settings[candidate],
            base=memory.settings[base],
            published=memory.settings[published],
            knn=self._alone.settings[knn],
            interpolation=None if interpolation is None else memory.settings[interpolation],
            scores={
                "base": compared.score_of_all("given"),
                "base, own temperature": self._score_of(memory, base),
                "mean residual": self._score_of(self._mean, self._mean.best(self._mean.bounded)),
                "kNN alone": self._score_of(self._alone, knn),
                "published": self._score_of(memory, published),
                **(
                    {}
                    if interpolation is None
                    else {"interpolation": self._score_of(memory, interpolation)}
                ),
                "candidate": self._score_of(memory, candidate),
            },
            held_out={name: compared.score(name) for name in ("base", "candidate")},
            gain=proof.gain.interval(tuner.confidence),
            local_gain=proof.local.interval(tuner.confidence),
            temperature_gain=proof.warmer.interval(tuner.confidence),
            gate_gain=None if gate is None else gate.gain,
            useful=proof.useful,
            reason=self._reason(proof, bool(memory.strength[candidate] == 0)),
            notes=(
                *tuner.dependence.notes,
                *((self._order_note,) if compared.in_order else ()),
                *self._edge_notes(candidate if proof.useful else base),
            ),
            table=self._table(),
            per_fold=tuple(memory.settings[each.candidate] for each in without),
            seconds={},
            risk=tuner.risk,
        )

    def _choice(self, where: Mask, without: int | None = None) -> Choice:
        """Return the choice among these settings, by all rows or by those of all folds but one."""
        memory, methods = self._memory, self._tuner.runs[0].grid.methods
        base = memory.best(where & (memory.strength == 0), without)
        return Choice(base, memory.best(where & memory.choosable(methods, base), without))

    def _compared(
        self, choice: Choice, without: list[Choice], given: Settings
    ) -> HeldOutComparison:
        """Compare the candidate with what it has to be better than; ``given`` is the base model as
        it came, and ``without`` are the choices without each fold."""
        memory, mean = self._memory, self._mean
        chosen = [each.candidate for each in without]
        best = memory.settings[choice.candidate], int(self._run_of[choice.candidate])
        picks: dict[str, list[Pick]] = {
            "candidate": self._picks(memory, chosen),
            "chosen": [(*best, "memory")] * len(chosen),
            "base": self._picks(memory, [each.base for each in without]),
            "given": [(given, 0, "memory")] * len(chosen),
            "mean": self._picks(mean, mean.best_per_fold(mean.bounded), "mean"),
            "shuffled": self._picks(memory, chosen, "shuffled"),
        }
        return HeldOutComparison(self._tuner, picks)

    def _proof(self, compared: HeldOutComparison) -> Proof:
        """Judge the gains on rows that did not choose."""
        risk = self._tuner.risk
        # The picks of the folds tell what the candidate gains. If they differ from it, its gain may
        # have a larger spread than theirs.
        gain = compared.gain("candidate", "base").at_least(compared.gain("chosen", "base"))
        warmer = compared.gain("base", "given")
        over = {name: compared.gain("candidate", name) for name in STAND_INS}
        stand_in = min(over, key=lambda name: over[name].mean)
        local = over[stand_in]
        clear = min(gain.low(risk), local.low(risk)) > 0
        useful = clear and compared.gain("candidate", "given").mean > 0
        return Proof(gain, local, stand_in, warmer, useful)

    def _best(
        self, choice: Choice, given: Settings, proof: Proof, gate: FittedGate | None
    ) -> Settings:
        """Return the settings to keep: the candidate's, with its gate, or those of strength 0."""
        memory, first = self._memory, self._tuner.runs[0]
        if proof.useful:
            best = memory.settings[choice.candidate]
            return best if gate is None else replace(best, gate=gate.gate.name)
        kept = given
        if proof.warmer.low(self._tuner.risk) > 0:
            kept = memory.settings[choice.base]
        # Switched off, the memory gets the k and sigma of the published method for its keys.
        plain = memory.settings[memory.best(self._present & self._as_published())]
        return replace(
            plain, strength=0.0, temperature=kept.temperature,
            probability_map=kept.probability_map, preprocess=first.preprocess,
            key_dtype=first.spec.key_dtype,
        )  # fmt: skip

    def _gate(self, candidate: int) -> FittedGate | None:
        """Return the gate of the candidate; None where rows have no scores of their own."""
        tuner, run = self._tuner, self._tuner.runs[self._run_of[candidate]]
        score = tuner.score
        if not score.by_row:
            return None

        # The numbers of rows that a score is made of, squared errors, are costs whatever the score.
        sign = tuner.cost_sign if score.parts is None else 1.0
        dependence, targets = tuner.dependence, tuner.targets

        def row_costs(predicted: F64) -> F64:
            return sign * score.numbers(tuner.shaped(predicted), targets)

        def interval(costs: F64, others: F64, tried: int) -> Interval:
            """Share the risk among the gates tried (Bonferroni)."""
            at = dependence.judged
            gains = gains_of(costs[at], others[at])
            if score.scale is not None:
                gains = gains / score.scale(costs[at], others[at], targets[at])
            classes = targets[at] if run.spec.task == "classification" else None
            clusters, _ = dependence.clusters(gains, classes)
            return estimate_of(gains, clusters).interval(1 - 2 * tuner.risk / tried)

        judging = Judging(row_costs, interval, dependence.choosing, dependence.judged)
        return fitted_gate(run, self._memory.settings[candidate], judging)

    def _as_published(self) -> Mask:
        """Return which settings are the published method: residuals, strength 1 and, if tried,
        "clip"."""
        full: Mask = (self._memory.strength == 1) & ~self._of_targets
        plain: Mask = np.array([s.probability_map == "clip" for s in self._memory.settings])
        return full & plain if (full & plain).any() else full

    def _eligible(self) -> Mask:
        """Return which settings may be chosen: those with the present keys, or all of them if other
        keys clearly gain over the present ones."""
        every = np.ones(len(self._run_of), dtype=np.bool_)
        present = self._present
        if present.all():
            return every
        methods = self._tuner.runs[0].grid.methods
        named = self._memory.choosable(methods, int(np.argmin(self._memory.temperatures)))
        picks = {
            name: self._picks(self._memory, self._memory.best_per_fold(where & named))
            for name, where in (("every", every), ("present", present))
        }
        gain = HeldOutComparison(self._tuner, picks).gain("every", "present")
        return every if gain.low(self._tuner.risk) > 0 else present

    def _picks(
        self, choices: RankedSettings, chosen: list[int], predictor: Predictor = "memory"
    ) -> list[Pick]:
        """Return the pick for each fold, from the settings chosen without it."""
        own = choices is self._memory
        return [
            (choices.settings[i], int(self._run_of[i]) if own else 0, predictor) for i in chosen
        ]

    # ------------------------------------------------------------------ words and tables

    def _score_of(self, choices: RankedSettings, setting: int) -> float:
        return float(self._tuner.cost_sign * choices.costs.every[setting])

    def _reason(self, proof: Proof, base_is_best: bool) -> str:
        tuner, gain, local = self._tuner, proof.gain, proof.local
        name = f"in {tuner.score.name} on rows that did not choose"
        at = "" if tuner.risk == (1 - tuner.confidence) / 2 else f" at a risk of {tuner.risk:g}"
        if proof.useful:
            return f"The memory helps: its gain {name}, {self._text(gain)}, is clear of 0{at}."
        off = "The memory is switched off:"
        if base_is_best:
            return f"{off} no setting of it is better than the base."
        if gain.low(tuner.risk) > 0 and local.low(tuner.risk) <= 0:
            return (
                f"{off} its gain {name}, {self._text(gain)}, is not due to its neighbours. Over "
                f"{STAND_INS[proof.stand_in]} it is {self._text(local)}, not clear of 0{at}."
            )
        few = self._too_few(gain, local)
        if few is not None:
            return f"{off} {few} Its gain {name} is {self._text(gain)}."
        return f"{off} its gain {name}, {self._text(gain)}, is not clear of 0{at}."

    def _too_few(self, gain: Estimate, local: Estimate) -> str | None:
        """Return that there are too few rows, if more of them would make these gains clear of 0.

        A standard error falls with the root of the number of rows, so ``(margin / mean)^2`` times
        as many rows have a margin as large as the mean. More than 100 times as many are not worth
        telling of.
        """
        rows, risk = len(self._tuner.dependence.judged), self._tuner.risk
        unclear = [each for each in (gain, local) if each.low(risk) <= 0]
        if not unclear or min(each.mean for each in unclear) <= 0:
            return None
        worst = max(unclear, key=lambda each: each.margin(risk) / each.mean)
        times = (worst.margin(risk) / worst.mean) ** 2
        if not times <= _MOST_TIMES:
            return None
        needed = float(f"{rows * times:.1e}")
        return (
            f"{rows:,} rows are too few to tell (a gain of {worst.mean:.2g} would need about "
            f"{needed:,.0f})."
        )

    def _text(self, gain: Estimate) -> str:
        return _gain_text(gain.interval(self._tuner.confidence))

    @property
    def _order_note(self) -> str:
        own = isinstance(self._tuner.runs[0].source, MemoryRows)
        return _ORDER_NOTE_OF_MEMORY if own else _ORDER_NOTE

    def _edge_notes(self, setting: int) -> tuple[str, ...]:
        """Return a note for each value of the setting that is the least or largest that the caller
        has named, if values beyond it may be better."""
        best, run = self._memory.settings[setting], self._tuner.runs[self._run_of[setting]]
        reach = self._tuner.reach_of(run)
        return tuple(
            f"{edge.name}={edge.value:.4g} is the {edge.word} that was tried: try more"
            for edge in edges(reach, best, run.most_neighbours)
            if edge.axis not in reach.open or (edge.axis in growing(reach) and edge.beyond)
        )

    def _table(self) -> npt.NDArray[Any]:
        settings = self._memory.settings
        table = np.empty(len(settings), dtype=TABLE)
        for name in TABLE.names or ():
            if name != "score":
                table[name] = [getattr(s, name) for s in settings]
        table["score"] = self._tuner.cost_sign * self._memory.costs.every
        return table


def _gain_text(gain: Interval) -> str:
    return f"{gain.mean:+.3g} [{gain.low:+.3g}, {gain.high:+.3g}]"
