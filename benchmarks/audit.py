"""Audits of data with labels flipped on purpose: how many of the flipped ones are listed first.

``python benchmarks/audit.py`` flips 5 % of the labels of two data sets, to another class at random,
by committed seeds, and lists all rows in the order of ``Memory.audit``, and of cleanlab's
self-confidence if cleanlab is installed. Both are given the same model, a logistic regression: its
outputs for each row are those of copies that did not see the row. The memory has its default
settings. It fails unless at least half of the flipped labels are among the first 10 % listed.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

import resmem
from resmem.demo import data as clothes

SEEDS = (2305, 2306, 2307)  # of the labels that are flipped, and of the folds
FLIPPED = 0.05  # share of the labels
FIRST = (0.025, 0.05, 0.1, 0.2)  # shares of the rows, from the head of the list
NEEDED, AMONG = 0.5, 0.1  # at least this share of flipped labels among this share of the rows

Array = npt.NDArray[Any]


def fashion_mnist() -> tuple[Array, Array]:
    """Return the demo's training images as 64 principal components, 12,000 rows."""
    split = clothes.load("train")
    return PCA(64, random_state=0).fit_transform(split.images.reshape(len(split), -1)), split.labels


def digits() -> tuple[Array, Array]:
    """Return scikit-learn's handwritten digits, 1,797 rows of 64 pixels from 0 to 1."""
    pixels, labels = load_digits(return_X_y=True)
    return pixels / 16, labels


SETS = {"Fashion-MNIST": fashion_mnist, "digits": digits}


def with_flipped(labels: Array, seed: int) -> tuple[Array, Array]:
    """Return labels of which some are other classes, and the rows of these."""
    rng = np.random.default_rng(seed)
    n, classes = len(labels), int(labels.max()) + 1
    rows = rng.choice(n, round(FLIPPED * n), replace=False)
    given = labels.astype(np.int64)
    given[rows] = (given[rows] + rng.integers(1, classes, len(rows))) % classes
    return given, rows


def orders(keys: Array, given: Array, seed: int) -> dict[str, tuple[Array, float]]:
    """Return all rows, the most suspicious first, and the seconds that took, by method."""
    with threadpool_limits(1):  # makes the figures repeatable to the digit
        honest = resmem.out_of_fold(LogisticRegression(max_iter=300), keys, given, seed=seed)
    memory = resmem.Memory().fit(keys, honest, given)
    start = time.perf_counter()
    audit = memory.audit()
    seconds = time.perf_counter() - start
    found = {"audit, by score": (audit.ids, seconds)}
    found["audit, by harm"] = (audit.ids[np.argsort(-audit.harm, kind="stable")], seconds)
    try:
        rank = importlib.import_module("cleanlab.rank")
    except ImportError:
        return found
    chances = np.exp(honest - honest.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    start = time.perf_counter()
    quality = rank.get_label_quality_scores(given, chances)
    seconds = time.perf_counter() - start
    found["cleanlab, self-confidence"] = (np.argsort(quality, kind="stable"), seconds)
    return found


def main() -> int:
    """Print the table; return 1 if too few flipped labels are found."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print(f"resmem {resmem.__version__}, NumPy {np.__version__}; means over {len(SEEDS)} seeds")
    heads = "".join(f"{f'first {share:.1%}':>14}" for share in FIRST)
    print(f"{'set':15}{'method':27}{heads}{'seconds':>10}")
    missed = False
    for name, read in SETS.items():
        keys, labels = read()
        shares: dict[str, list[Array]] = {}
        for seed in SEEDS:
            given, rows = with_flipped(labels, seed)
            for method, (order, seconds) in orders(keys, given, seed).items():
                is_flipped = np.zeros(len(labels), dtype=bool)
                is_flipped[rows] = True
                among = [is_flipped[order[: round(f * len(order))]].sum() for f in (*FIRST, AMONG)]
                shares.setdefault(method, []).append(np.array([*among, seconds]) / len(rows))
                shares[method][-1][-1] = seconds
        for method, found in shares.items():
            mean = np.mean(found, axis=0)
            cells = "".join(f"{share:>14.1%}" for share in mean[: len(FIRST)])
            print(f"{name:15}{method:27}{cells}{mean[-1]:>10.2f}")
        missed |= bool(min(found[-2] for found in shares["audit, by score"]) < NEEDED)
    print(
        f"At least {NEEDED:.0%} of the flipped labels must be among the first {AMONG:.0%}: ", end=""
    )
    print("missed" if missed else "met for every seed")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
