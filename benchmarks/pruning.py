"""Pruned memories of real data on test rows, beside all rows and random pruning of as many.

``python benchmarks/pruning.py`` takes the sets, splits and models of ``real_data.py``. Odd
validation rows choose the settings (the best of ``Memory.tune``, whether it would keep the memory
or not), even ones judge ``Memory.prune``. Test rows are opened once, when all memories are pruned,
with ``--test``. It then fails unless half of the rows of some memory can go without clear loss, and
each memory of half the rows is better than random ones of as many. For the digits ``--splits``
tells whether it is: of their 400 test rows, three can make most of the difference.

``--splits 50`` fits, tunes and prunes anew for each of 50 random splits of all digits, by committed
seeds, and judges each on its own test rows. It fails unless half of the rows are better than a
random half, by an interval over the splits. ``--development`` takes other seeds, and only rows that
are not test rows of ``real_data.py``: whatever is chosen by figures is chosen by these.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats
from sklearn.base import clone
from threadpoolctl import threadpool_limits

import real_data
import resmem
from resmem._scores.intervals import Interval, paired_interval

CASES = (("Fashion-MNIST", "linear"), ("digits", "MLP"), ("diamonds", "MLP"))
HALF = 0.5  # share of the rows that the compared memories keep
DRAWS = 5  # random prunings, whose losses are averaged
SPLIT_CASE = ("digits", "MLP")  # what --splits judges
SPLIT_TRAIN = 1_000  # training rows of each split; half of the others validate, half test
SPLIT_SHARES = (HALF, 0.2)  # of the rows that are kept
JUDGED, DEVELOPMENT = 0, 1  # of the seeds of splits

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Tuned:
    """A tuned memory of all rows, and the rows that judge its pruning."""

    problem: real_data.Problem
    title: str
    model: Any
    memory: resmem.Memory
    judges: list[Array]

    def pruned(self, keep: float | None) -> resmem.Pruning:
        """Return which rows would go."""
        return self.memory.prune(*self.judges, keep, apply=False)

    def losses(self, inputs: Array, targets: Array, gone: Array) -> Array:
        """Return the losses of rows by the memory without these ids."""
        memory = copy.copy(self.memory)
        if len(gone):
            memory.remove(gone)
        given = real_data.embeddings(self.model, inputs), real_data.outputs(self.model, inputs)
        if memory.task == "regression":
            return np.square(memory.predict(*given) - targets)
        chances = memory.predict_proba(*given)[np.arange(len(targets)), targets]
        return -np.log(np.maximum(chances, 1e-300))

    def test_losses(
        self, prunings: list[resmem.Pruning]
    ) -> tuple[Array, list[tuple[Array, Array]]]:
        """Open the test rows: return their losses by all rows, and by each pruned memory and, in
        the mean, by random ones of as many."""
        features, targets = self.problem.part("test")
        rows = self.problem.prepare.transform(features), targets
        found = []
        for result in prunings:
            drawn = []
            for seed in range(DRAWS):
                order = np.random.default_rng((real_data.SEED, seed)).permutation(self.memory.ids)
                drawn.append(self.losses(*rows, order[: len(result.ids)]))
            found.append((self.losses(*rows, result.ids), np.mean(drawn, axis=0)))
        return self.losses(*rows, np.empty(0, np.int64)), found


def tune(problem: real_data.Problem, name: str, base: str) -> Tuned:
    """Fit a memory and tune it on odd validation rows; even ones are left to judge."""
    features, targets = problem.part("train")
    train = problem.prepare.fit_transform(features), targets
    held_out, true = problem.part("validation")
    held_out = problem.prepare.transform(held_out)
    models = real_data.CLASSIFIERS if problem.task == "classification" else real_data.REGRESSORS
    with threadpool_limits(1):  # makes the figures repeatable to the digit
        model = clone(models[base]).fit(*train)
        honest = resmem.out_of_fold(models[base], *train, seed=real_data.SEED)
    kind = "logits" if problem.task == "classification" else "values"
    memory = resmem.Memory(problem.task, output_kind=kind)
    memory.fit(real_data.embeddings(model, train[0]), honest, train[1])
    validation = real_data.embeddings(model, held_out), real_data.outputs(model, held_out), true
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tune's warnings tell when it would switch off
        tuned = memory.tune(*(part[1::2] for part in validation), apply=False)
    memory.use(tuned.candidate)
    title = f"{name}, {base}, {tuned.candidate}"
    return Tuned(problem, title, model, memory, [part[::2] for part in validation])


def text(found: Interval) -> str:
    """Return a mean and its interval."""
    return f"{found.mean:+.5f} [{found.low:+.5f}, {found.high:+.5f}]"


# ---------------------------------------------------------------------- the splits of real_data.py


def judge_sets(open_test: bool) -> bool:
    """Prune all memories, and judge them on test rows if these are opened; return whether the gates
    are met."""
    prunings = []
    for name, base in CASES:
        tuned = tune(real_data.PROBLEMS[name], name, base)
        start = time.perf_counter()
        chosen = tuned.pruned(None)
        print(f"\n{tuned.title}: {time.perf_counter() - start:.1f} s")
        print(chosen)
        prunings.append((tuned, chosen, tuned.pruned(HALF)))
    if not open_test:
        return True
    verdicts = [test(*pruning) for pruning in prunings]
    compared = [better for case, (_, better) in zip(CASES, verdicts, strict=True)
                if case != SPLIT_CASE]  # fmt: skip
    print("Half of the rows of one go without clear loss, and half is better than random on those")
    print("that --splits does not judge:")
    return any(no_loss for no_loss, _ in verdicts) and all(compared)


def test(tuned: Tuned, chosen: resmem.Pruning, half: resmem.Pruning) -> tuple[bool, bool]:
    """Print what test rows say; return whether half the rows go without clear loss, and whether
    that is better than random."""
    full, found = tuned.test_losses([chosen, half])
    print(f"\n{tuned.title}: {len(full)} test rows, all rows {full.mean():.5f}")
    good = True, True
    for what, result, (loss, drawn) in zip(("chosen", "half"), (chosen, half), found, strict=True):
        rise, below = paired_interval(loss - full), paired_interval(drawn - loss)
        print(f"{what:7} {result.kept_rows:6} rows, loss {loss.mean():.5f}: over all rows ", end="")
        print(f"{text(rise)}, below random {text(below)}")
        good = rise.low <= 0, below.mean > 0
    return good


# ---------------------------------------------------------------------- many splits of one set


def split(name: str, seeds: int, number: int) -> real_data.Problem:
    """Return a random split of the rows of a set: all of them, or in development none of its test
    rows."""
    problem = real_data.PROBLEMS[name]
    names = ("train", "validation") if seeds == DEVELOPMENT else ("train", "validation", "test")
    features, targets = (
        np.concatenate(parts) for parts in zip(*map(problem.part, names), strict=True)
    )
    order = np.random.default_rng((real_data.SEED, seeds, number)).permutation(len(targets))
    train, validation, test = np.split(order, [SPLIT_TRAIN, (SPLIT_TRAIN + len(order)) // 2])
    rows = {"train": train, "validation": validation, "test": test}
    return real_data.Problem(
        problem.task,
        lambda part: (features[rows[part]], targets[rows[part]]),
        clone(problem.prepare),
    )


def judge_splits(seeds: int, count: int) -> bool:
    """Print the mean differences over splits; return whether half is clearly better than random.

    The interval over splits is for this set of rows. For other rows of the same kind it is wider,
    as the splits share rows: Nadeau and Bengio (2003) add the ratio of test to training rows.
    """
    name, base = SPLIT_CASE
    means = np.empty((count, len(SPLIT_SHARES), 3))  # of all rows, pruned ones and random ones
    for number in range(count):
        tuned = tune(split(name, seeds, number), name, base)
        full, found = tuned.test_losses([tuned.pruned(share) for share in SPLIT_SHARES])
        tested = len(full)
        means[number] = [(full.mean(), loss.mean(), drawn.mean()) for loss, drawn in found]
        rises = ", ".join(f"{loss - whole:+.4f} ({drawn - whole:+.4f})"
                          for whole, loss, drawn in means[number])  # fmt: skip
        print(f"split {number}: all rows {full.mean():.4f}; rise (random): {rises}", flush=True)
    lows = {}
    print(f"\n{name}, {base}: {count} splits, {SPLIT_TRAIN} rows, {tested} test rows each")
    for share, (full, loss, drawn) in zip(SPLIT_SHARES, means.transpose(1, 2, 0), strict=True):
        below = drawn - loss
        over_splits = interval(below, 1 / count)
        other_rows = interval(below, 1 / count + tested / SPLIT_TRAIN)
        print(f"{share:.0%} of the rows: all rows {full.mean():.4f}, pruned {loss.mean():.4f}, "
              f"random {drawn.mean():.4f}")  # fmt: skip
        print(f"  pruned is above all rows by {text(interval(loss - full, 1 / count))}")
        print(f"  and below random by {text(over_splits)}, in {(below > 0).sum()} splits; ", end="")
        print(f"for other rows of the kind {text(other_rows)}")
        lows[share] = over_splits.low
    print("Half of the rows are better than a random half:")
    return lows[HALF] > 0


def interval(values: Array, share: float) -> Interval:
    """Return the mean of values, one of each split, with the interval by ``share`` of their
    variance."""
    half = stats.t.ppf(0.975, len(values) - 1) * np.sqrt(values.var(ddof=1) * share)
    return Interval(values.mean(), values.mean() - half, values.mean() + half, 0.95)


def main() -> int:
    """Judge the sets, or many splits of one; return 1 if a gate is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--test", action="store_true", help="open the test rows of the sets")
    parser.add_argument(
        "--splits",
        type=int,
        metavar="N",
        help="judge so many random splits of the digits, 2 or more",
    )
    parser.add_argument("--development", action="store_true", help="take other splits")
    options = parser.parse_args()
    if options.splits is None:
        if options.development:
            parser.error("--development is for --splits: add --splits 50")
        met = judge_sets(options.test)
        if not options.test:
            return 0
    elif options.splits < 2:
        parser.error(f"--splits must be 2 or more, got {options.splits}")
    else:
        met = judge_splits(DEVELOPMENT if options.development else JUDGED, options.splits)
    print("met" if met else "missed")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
