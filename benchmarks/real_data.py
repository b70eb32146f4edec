"""Gains of tuned memories for models of real data: a table, and whether any memory harmed.

``python benchmarks/real_data.py`` takes three data sets and three base models for each. Every
set is cut into training, validation and test rows by committed seeds. The base model is trained on
the training rows; the memory holds the same rows with outputs of models that did not see them
(``resmem.out_of_fold``); ``Memory.tune``, with its defaults, chooses on the validation rows. Test
rows are opened once, when everything is chosen.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import sklearn
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import resmem
from resmem.demo import data as clothes

SEED = 2302  # for splits, folds and models

Array = npt.NDArray[Any]
Rows = tuple[Array, Array]  # features, targets

CLASSIFIERS = {
    "linear": LogisticRegression(max_iter=2000),
    "MLP": MLPClassifier((64,), early_stopping=True, max_iter=100, random_state=SEED),
    "boosting": HistGradientBoostingClassifier(random_state=SEED),
}
REGRESSORS = {
    "linear": Ridge(),
    "MLP": MLPRegressor(
        hidden_layer_sizes=(64, 64), early_stopping=True, max_iter=100, random_state=SEED
    ),
    "boosting": HistGradientBoostingRegressor(random_state=SEED),
}
SHOWN = {"classification": ("log_loss", "accuracy"), "regression": ("rmse", "r2")}


# ---------------------------------------------------------------------- data


@dataclass(frozen=True)
class Problem:
    """One data set; ``part`` reads training, validation or test rows, and only those."""

    task: str
    part: Callable[[str], Rows]
    prepare: Any  # fitted on the training rows: features to inputs of every model


def fashion_mnist(part: str) -> Rows:
    """Return the demo's images: 12,000, 2,000 and 4,000, balanced."""
    split = clothes.load(part)  # type: ignore[arg-type]
    return split.images.reshape(len(split), -1), split.labels


def digits(part: str) -> Rows:
    """Return scikit-learn's handwritten digits, 8 by 8: 1,000, 397 and 400."""
    return cut(*load_digits(return_X_y=True), part, 1_000, 397)


def diamonds(part: str) -> Rows:
    """Return logarithms of prices, less 8, and ordered qualities: 30,000, 8,000 and the rest.

    Rows that occur twice are left out: they would be in the memory and in the test.
    """
    from plotnine.data import diamonds as table

    table = table.drop_duplicates()
    columns = [c.cat.codes if c.dtype == "category" else c for _, c in table.items()]
    known = np.column_stack(columns).astype(np.float64)
    price = table.columns.get_loc("price")
    return cut(np.delete(known, price, axis=1), np.log(known[:, price]) - 8, part, 30_000, 8_000)


def cut(features: Array, targets: Array, part: str, train: int, validation: int) -> Rows:
    """Return a part of the rows, in a random order by the seed."""
    order = np.random.default_rng(SEED).permutation(len(targets))
    cuts = np.split(order, [train, train + validation])
    rows = cuts[("train", "validation", "test").index(part)]
    return features[rows], targets[rows]


PROBLEMS = {
    "Fashion-MNIST": Problem("classification", fashion_mnist, PCA(64, random_state=SEED)),
    "digits": Problem("classification", digits, StandardScaler()),
    "diamonds": Problem("regression", diamonds, StandardScaler()),
}


# ---------------------------------------------------------------------- one base model


def outputs(model: Any, inputs: Array) -> Array:
    """Return the logits of a classifier or the values of a regressor."""
    if not hasattr(model, "predict_proba"):
        return np.asarray(model.predict(inputs))
    with np.errstate(divide="ignore"):
        return np.log(model.predict_proba(inputs))


def embeddings(model: Any, inputs: Array) -> Array:
    """Return the last hidden layer of a network, or the inputs of any other model."""
    layers = zip(getattr(model, "coefs_", [])[:-1], getattr(model, "intercepts_", []), strict=False)
    for weights, bias in layers:
        inputs = np.maximum(inputs @ weights + bias, 0)
    return inputs


@dataclass(frozen=True)
class Trial:
    """A base model, its memory, and what tuning found."""

    name: str
    base: str
    model: Any
    memory: resmem.Memory
    tuned: resmem.TuneResult

    def evaluations(self, inputs: Array, targets: Array) -> Iterator[tuple[str, Any]]:
        """Yield name and result of every method."""
        given = embeddings(self.model, inputs), outputs(self.model, inputs), targets
        tempered, published, best = (
            self.memory.use(settings).evaluate(*given, knn=self.tuned)
            for settings in (self.tuned.base, self.tuned.published, self.tuned.best)
        )
        by_kind = {method.kind: method for method in published.methods}
        yield "base", by_kind["base"]
        if self.tuned.task == "classification":
            yield f"base, T={self.tuned.base.temperature:g}", tempered.methods[-1]  # strength 0
        yield "kNN alone", by_kind["neighbours"]
        yield "interpolation", by_kind["interpolation"]
        yield "ResMem as published", published.methods[-1]
        yield "ResMem tuned", best.methods[-1]


def fit_and_tune(
    name: str, base: str, estimator: Any, task: str, train: Rows, held_out: Rows
) -> Trial:
    """Train a base model, fit a memory and tune it."""
    with threadpool_limits(1):  # makes the figures repeatable to the digit
        model = clone(estimator).fit(*train)
        honest = resmem.out_of_fold(estimator, *train, seed=SEED)
    kind = "logits" if task == "classification" else "values"
    memory = resmem.Memory(task, output_kind=kind)
    memory.fit(embeddings(model, train[0]), honest, train[1])
    inputs, targets = held_out
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warnings are the printed notes
        tuned = memory.tune(embeddings(model, inputs), outputs(model, inputs), targets)
    return Trial(name, base, model, memory, tuned)


# ---------------------------------------------------------------------- report


def print_tests(trials: list[Trial], parts: dict[str, Rows]) -> list[str]:
    """Print a line per method; return the tuned memories that are worse than their base."""
    worse = []
    print("\nset            base      method                 score           gain over the base")
    for trial in trials:
        for method, result in trial.evaluations(*parts[trial.name]):
            scores = (f"{s}={result.scores[s]:.4f}" for s in SHOWN[trial.tuned.task])
            line = f"{trial.name:14} {trial.base:9} {method:20}  {'  '.join(scores)}"
            if result.gain is not None:
                gain = result.gain
                line += f"  {gain.mean:+.5f} [{gain.low:+.5f}, {gain.high:+.5f}]"
            if method == "ResMem tuned":
                line += "  on" if trial.tuned.best.strength else "  off"
                if result.gain.high < 0:
                    worse.append(f"{trial.name}, {trial.base}")
            print(line)
    print("Gains: of log-loss or squared error, paired over test rows, 95 % interval.")
    print("As published: strength 1, clipped; k, sigma and temperature are tuned.")
    return worse


def print_choices(trials: list[Trial]) -> None:
    """Print what was chosen, and why."""
    for trial in trials:
        print(f"\n{trial.name}, {trial.base}: {trial.tuned.candidate}")
        print(f"  {trial.tuned.reason}")
        for note in trial.tuned.notes:
            print(f"  note: {note}")


def main() -> int:
    """Run all sets; return 1 if a tuned memory harmed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PROBLEMS, action="append")
    chosen = parser.parse_args().only or list(PROBLEMS)
    print(
        f"resmem {resmem.__version__}, scikit-learn {sklearn.__version__}, NumPy {np.__version__}"
    )
    trials = []
    for name in chosen:
        problem = PROBLEMS[name]
        features, targets = problem.part("train")
        train = problem.prepare.fit_transform(features), targets
        features, targets = problem.part("validation")
        held_out = problem.prepare.transform(features), targets
        models = CLASSIFIERS if problem.task == "classification" else REGRESSORS
        for base, estimator in models.items():
            start = time.perf_counter()
            trials.append(fit_and_tune(name, base, estimator, problem.task, train, held_out))
            seconds = time.perf_counter() - start, sum(trials[-1].tuned.seconds.values())
            print(f"{name}, {base}: {seconds[0]:.0f} s, of which tune {seconds[1]:.1f}", flush=True)
    print_choices(trials)
    opened = {name: PROBLEMS[name].part("test") for name in chosen}
    parts = {name: (PROBLEMS[name].prepare.transform(x), y) for name, (x, y) in opened.items()}
    worse = print_tests(trials, parts)
    print(
        "Verdict: no tuned memory is worse than its base model beyond the interval."
        if not worse
        else "Verdict: worse than the base model beyond the interval: " + "; ".join(worse)
    )
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
