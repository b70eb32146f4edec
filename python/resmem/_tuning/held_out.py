"""The comparison of methods on rows that did not choose their settings."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from resmem._base.arrays import F64, I64, Array
from resmem._base.blocks import blocks
from resmem._scores.intervals import Estimate, Expected, estimate_of, expected_of
from resmem._scores.metrics import gains_of
from resmem._state.settings import Settings
from resmem._tuning.dependence import numbered
from resmem._tuning.tuner import Tuner
from resmem._tuning.validation import Predictor

_JACKKNIFE_GROUPS = 50  # groups of rows
# The pairs of methods whose gain has an interval.
_PAIRS = (
    ("candidate", "base"),
    ("chosen", "base"),
    ("candidate", "mean"),
    ("candidate", "shuffled"),
    ("base", "given"),
    ("every", "present"),
)

# A fold is predicted by these settings, with the neighbours of the run of this number, by this
# method.
Pick: TypeAlias = tuple[Settings, int, Predictor]


class HeldOutComparison:
    """Compares methods, each by the predictions that its pick for a fold makes of the fold's rows.

    If the score is made of numbers of single rows, only these are kept.
    """

    def __init__(self, tuner: Tuner, picks: dict[str, list[Pick]]) -> None:
        self._tuner, self._picks = tuner, picks
        self._judged = tuner.dependence.judged
        self.in_order = False  # whether gains of rows near each other in their order were alike
        # For each pair of methods and each base that may be right, sums over rows of the second and
        # the fourth moment of the gain that this base expects.
        self._expected: dict[tuple[str, str], dict[str, F64]] = {}
        n, columns = len(tuner.folds), tuner.runs[0].rows.columns
        self._whole: dict[str, Array] = {}
        self._numbers: dict[str, F64] = {}
        if not tuner.score.by_row:
            every = np.arange(n)
            self._whole = {name: tuner.shaped(self._predicted(name, every)) for name in picks}
            return
        self._numbers = {name: np.empty(n) for name in picks}
        for block in blocks(n, 8 * columns * (len(picks) + 1)):
            self._compare(np.arange(block.start, block.stop))

    def gain(self, name: str, other: str) -> Estimate:
        """Return the gain of method ``name`` over method ``other``."""
        tuner = self._tuner
        if not tuner.score.by_row:
            return self._jackknife(name, other)
        score, targets = tuner.score, tuner.targets[self._judged]
        numbers, others = (self._numbers[each][self._judged] for each in (name, other))
        gains = gains_of(
            tuner.cost_sign * score.values(numbers, targets),
            tuner.cost_sign * score.values(others, targets),
        )
        classes = targets if tuner.runs[0].spec.task == "classification" else None
        clusters, shown = tuner.dependence.clusters(gains, classes)
        self.in_order |= shown
        expected = [
            Expected(second / len(gains), fourth / second)
            for second, fourth in self._expected.get((name, other), {}).values()
            if second > 0
        ]
        estimate = estimate_of(gains, clusters, max(expected, default=None))
        scale = score.scale(numbers, others, targets) if score.scale is not None else 0.0
        if scale > 0:
            # The delta method knows that the scale is estimated, too, but where tails are heavy,
            # rows that are in both may hide from it what single differences show.
            plain = estimate_of((others - numbers) / scale, clusters)
            estimate = estimate.at_least(plain)
        return estimate

    def score(self, name: str) -> float:
        """Return the score of a method over the judged rows."""
        return self._score(name, self._judged)

    def score_of_all(self, name: str) -> float:
        """Return the score of a method over all rows."""
        return self._score(name, np.arange(len(self._tuner.folds)))

    def _score(self, name: str, rows: I64) -> float:
        targets, score = self._tuner.targets[rows], self._tuner.score
        if score.by_row:
            return float(score.values(self._numbers[name][rows], targets).mean())
        return score.whole(self._whole[name][rows], targets)

    def _compare(self, rows: I64) -> None:
        """Compute the numbers of some rows, and add up what the base expects of their gains."""
        tuner, score = self._tuner, self._tuner.score
        predicted = {name: tuner.shaped(self._predicted(name, rows)) for name in self._picks}
        for name, values in predicted.items():
            self._numbers[name][rows] = score.numbers(values, tuner.targets[rows])
        if score.by_class is None:
            return
        judged = tuner.dependence.is_judged[rows]
        for name, other in _PAIRS:
            if name not in predicted or other not in predicted:
                continue
            gains = score.by_class(predicted[name], predicted[other])
            sums = self._expected.setdefault((name, other), {})
            # The base is right at its own temperature, or as it was given: rows that lack rare
            # losses make a temperature, too, seem better than it is.
            for right in ("base", "given") if "base" in predicted else (other,):
                moments = expected_of(gains, predicted[right])
                found = np.array([each[judged].sum() for each in moments])
                sums[right] = sums.get(right, 0.0) + found

    def _predicted(self, name: str, rows: I64) -> Array:
        tuner, picks = self._tuner, self._picks[name]
        folds = tuner.folds[rows]
        predicted = np.empty((len(rows), tuner.runs[0].rows.columns))
        for each in dict.fromkeys(picks):
            settings, run, predictor = each
            mine = np.array([pick == each for pick in picks], dtype=np.bool_)[folds]
            if mine.any():
                predicted[mine] = tuner.runs[run].predictions(settings, rows[mine], predictor)
        return predicted

    def _jackknife(self, name: str, other: str) -> Estimate:
        """Return the gain in a score that is not made of single rows, with a jackknife's error.

        The score is computed again without each of at most 50 groups: of random rows, or of rows
        that belong together. Student's quantile for so few groups allows for heavy tails.
        """
        tuner, targets = self._tuner, self._tuner.targets[self._judged]
        first, second = (self._whole[each][self._judged] for each in (name, other))
        clusters = tuner.dependence.known_clusters()
        rows = np.arange(len(first)) if clusters is None else clusters
        shuffled = np.random.RandomState(tuner.seed).permutation(int(rows.max()) + 1)
        groups = numbered(shuffled[rows] % _JACKKNIFE_GROUPS)

        def gain(rows: Any) -> float:
            one, other = (tuner.score.whole(p[rows], targets[rows]) for p in (first, second))
            return tuner.cost_sign * (other - one)

        count = int(groups.max()) + 1
        if count < 2:  # a single row, or rows of a single group, tell of no spread
            return Estimate(gain(slice(None)), math.inf, 1.0)
        mean, without = gain(slice(None)), np.array([gain(groups != g) for g in range(count)])
        with np.errstate(invalid="ignore"):
            variance = float(np.square(without - without.mean()).sum()) * (count - 1) / count
        if not math.isfinite(variance):
            return Estimate(mean, math.inf, 1.0)
        return Estimate(mean, math.sqrt(variance), count - 1.0)
