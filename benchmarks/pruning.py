"""Pruned memories of real data on test rows, beside all rows and random pruning of as many.

``python benchmarks/pruning.py`` takes the sets, splits and models of ``real_data.py``. Odd
validation rows choose the settings (the best of ``Memory.tune``, whether it would keep the memory
or not), even ones judge ``Memory.prune``. Test rows are opened once, when all memories are pruned,
with ``--test``. It then fails unless half of the rows of some memory can go without clear loss, and
each memory of half the rows is better than random ones of as many.
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
from sklearn.base import clone
from threadpoolctl import threadpool_limits

import real_data
import resmem
from resmem._scores.intervals import Interval, paired_interval

CASES = (("Fashion-MNIST", "linear"), ("digits", "MLP"), ("diamonds", "MLP"))
HALF = 0.5  # share of the rows that the compared memories keep
DRAWS = 5  # random prunings, whose losses are averaged

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Pruned:
    """A memory of all rows, and the rows that go: as chosen, and as many as half of them."""

    name: str
    base: str
    model: Any
    memory: resmem.Memory
    chosen: resmem.Pruning
    half: resmem.Pruning

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


def prune(name: str, base: str) -> Pruned:
    """Fit a memory, tune it on odd validation rows, and judge its pruning on even ones."""
    problem = real_data.PROBLEMS[name]
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
    judges = [part[::2] for part in validation]
    start = time.perf_counter()
    chosen = memory.prune(*judges, apply=False)
    print(f"\n{name}, {base}, {tuned.candidate}: {time.perf_counter() - start:.1f} s")
    print(chosen)
    return Pruned(name, base, model, memory, chosen, memory.prune(*judges, HALF, apply=False))


def text(found: Interval) -> str:
    """Return a mean and its interval."""
    return f"{found.mean:+.5f} [{found.low:+.5f}, {found.high:+.5f}]"


def test(pruned: Pruned) -> tuple[bool, bool]:
    """Print what test rows say; return whether half the rows go without clear loss, and whether
    that is better than random."""
    problem = real_data.PROBLEMS[pruned.name]
    features, targets = problem.part("test")
    rows = problem.prepare.transform(features), targets
    full = pruned.losses(*rows, np.empty(0, np.int64))
    print(f"\n{pruned.name}, {pruned.base}: {len(full)} test rows, all rows {full.mean():.5f}")
    good = True, True
    for what, result in (("chosen", pruned.chosen), ("half", pruned.half)):
        loss = pruned.losses(*rows, result.ids)
        drawn = []
        for seed in range(DRAWS):
            order = np.random.default_rng((real_data.SEED, seed)).permutation(pruned.memory.ids)
            drawn.append(pruned.losses(*rows, order[: len(result.ids)]))
        rise, below = paired_interval(loss - full), paired_interval(np.mean(drawn, axis=0) - loss)
        print(f"{what:7} {result.kept_rows:6} rows, loss {loss.mean():.5f}: over all rows ", end="")
        print(f"{text(rise)}, below random {text(below)}")
        good = rise.low <= 0, below.mean > 0
    return good


def main() -> int:
    """Prune all memories, and with --test judge them; return 1 if a gate is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--test", action="store_true", help="open the test rows")
    options = parser.parse_args()
    found = [prune(*case) for case in CASES]
    if not options.test:
        return 0
    verdicts = [test(pruned) for pruned in found]
    met = any(no_loss for no_loss, _ in verdicts) and all(better for _, better in verdicts)
    print("Half of the rows of one go without clear loss, and half is better than random on all:")
    print("met" if met else "missed")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
