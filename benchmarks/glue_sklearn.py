"""The lines that a pipeline of scikit-learn needs to get a memory.

By hand with NumPy and scikit-learn, with the arrays of resmem, and with `resmem.sklearn`.

    pip install '.[sklearn]'
    python benchmarks/glue_sklearn.py         # half a minute

All three train a pipeline on digits, make a memory of honest outputs, choose its settings on rows
of the training part and correct the test part. The program prints their lines, without blank ones
and first ones, and what they gain and harm there, with intervals (95 %).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict, train_test_split
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

import resmem
from resmem.sklearn import ResMemClassifier


def by_hand(pipeline, x, y, x_test):
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    honest = cross_val_predict(pipeline, x, y, cv=folds, method="predict_proba")
    model = clone(pipeline).fit(x, y)
    embed = model[:-1].transform
    classes = model.classes_
    residuals = (y[:, None] == classes) - honest
    index = NearestNeighbors().fit(embed(x))

    def corrected(base, distances, ids, k, sigma, strength):
        d, i = distances[:, :k], ids[:, :k]
        weights = np.exp(-(d - d[:, :1]) / sigma)
        weights /= weights.sum(axis=1, keepdims=True)
        total = base + strength * np.einsum("qk,qkc->qc", weights, residuals[i])
        total = np.maximum(total, 1e-3)
        return total / total.sum(axis=1, keepdims=True)

    def log_loss(probabilities, labels):
        return -np.log(probabilities[np.arange(len(labels)), np.searchsorted(classes, labels)])

    own = index.kneighbors(n_neighbors=64)
    scale = np.median(own[0][:, -1])
    settings = [
        (k, sigma * scale, strength)
        for k in (1, 2, 4, 8, 16, 32, 64)
        for sigma in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
        for strength in (0, 0.25, 0.5, 0.75, 1, 1.25)
    ]
    losses = np.array([log_loss(corrected(honest, *own, *each), y) for each in settings])
    best = settings[losses.mean(axis=1).argmin()]
    gains = []  # on rows that did not choose
    for part in np.array_split(np.random.default_rng(0).permutation(len(y)), 10):
        chosen = losses[:, np.setdiff1d(np.arange(len(y)), part)].mean(axis=1).argmin()
        gains.append(log_loss(honest, y)[part] - losses[chosen][part])
    gain = np.concatenate(gains)
    if gain.mean() - 1.96 * gain.std() / len(gain) ** 0.5 <= 0:
        best = (*best[:2], 0)
    near = index.kneighbors(embed(x_test), 64)
    return corrected(model.predict_proba(x_test), *near, *best)


def with_arrays(pipeline, x, y, x_test):
    honest = resmem.out_of_fold(pipeline, x, y)
    model = clone(pipeline).fit(x, y)
    embed = model[:-1].transform
    memory = resmem.Memory(residuals="out-of-fold").fit(embed(x), honest, y)
    memory.tune(loo=True)
    return memory.predict_proba(embed(x_test), model.predict_log_proba(x_test))


def with_adapter(pipeline, x, y, x_test):
    return ResMemClassifier(pipeline).fit(x, y).predict_proba(x_test)


# ---- The comparison ------------------------------------------------------------------------------


def lines(function: Callable[..., Any]) -> int:
    """Return how many lines a function has, without its first one."""
    return sum(bool(line.strip()) for line in inspect.getsource(function).splitlines()) - 1


def interval(gains: np.ndarray) -> str:
    """Return the mean with its 95 % interval."""
    half = 1.96 * gains.std(ddof=1) / len(gains) ** 0.5
    return f"{gains.mean():+.4f} [{gains.mean() - half:+.4f}, {gains.mean() + half:+.4f}]"


def main() -> None:
    x, y = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.4, random_state=0, stratify=y)
    pipeline = make_pipeline(MinMaxScaler(), LogisticRegression(max_iter=500))
    base = clone(pipeline).fit(x, y).predict_proba(x_test)
    rows = np.arange(len(y_test))  # the labels are the numbers of the columns
    loss, right = -np.log(base[rows, y_test]), base.argmax(axis=1) == y_test
    print(f"the pipeline: accuracy {right.mean():.4f}, log-loss {loss.mean():.4f}")
    for way in (by_hand, with_arrays, with_adapter):
        found = way(pipeline, x, y, x_test)
        now = found.argmax(axis=1) == y_test
        print(
            f"{way.__name__}, {lines(way)} lines: accuracy {interval(now - 1.0 * right)}, log-loss "
            f"{interval(loss + np.log(found[rows, y_test]))}; {(now & ~right).sum()} corrected, "
            f"{(right & ~now).sum()} harmed"
        )


if __name__ == "__main__":
    main()
