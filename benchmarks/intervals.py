"""Intervals and sets of memories: how often they hold the truth, and how wide they are.

``python benchmarks/intervals.py`` takes 200 random splits of diamonds and of synthetic rows whose
noise depends on the place, with two base models each. A split has 2,000 rows that train the base
model, 2,000 for the memory, which the model has not seen, 1,000 for calibration and 2,000 to test.
Three kinds of intervals are compared around the same corrected values on the same rows:

- plain: split-conformal intervals of one width;
- crepes: those of the package ``crepes``, normalised by its difficulty of nearest neighbours. What
  it looks at, its number of neighbours and its constant are those that give the smallest mean width
  on the *test* rows of five other splits;
- resmem: ``Memory.predict_interval``.

The hardest tenth of the test rows is told by neither: of the synthetic rows by their true noise, of
diamonds by a boosting model of the absolute errors of the corrected values on the memory's rows.
"tuned on the calibration rows" shows what it costs to let ``tune`` choose on the rows that
calibrate.

Sets are made for the packaged images of clothes: the base model is a linear discriminant of their
pixels, the memory holds the training images with outputs of models that did not see them, its
settings are fixed, and the validation and test images are split 200 times into 2,000 for
calibration and 4,000 to test. ``Memory.predict_set`` scores a class by the probability of those
before it; beside it stand sets by the probability of the class alone (LAC, Sadinle et al. 2019, the
most probable class always among them), and by those before it and a random share of its own (APS,
Romano et al. 2020).

Seeds are those of the splits, 0 to 199; those of the choice for crepes begin at 9000.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import crepes
import numpy as np
import numpy.typing as npt
from crepes.extras import DifficultyEstimator
from plotnine.data import diamonds as diamond_table
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

import resmem
from resmem.demo import data as clothes

SIZES = (2000, 2000, 1000, 2000)  # rows for base model, memory, calibration, test
COVERAGES = (0.8, 0.9, 0.95)
FIRST_CHOICE_SEED, CHOICE_SPLITS = 9000, 5
BASES: dict[str, Callable[[], Any]] = {
    "linear": Ridge,
    "boosting": partial(HistGradientBoostingRegressor, max_iter=60, random_state=0),
}

Array = npt.NDArray[Any]
Settings = tuple[str, int, float]  # what crepes looks at, its neighbours and its constant
Tables = dict[tuple[str, float], list[tuple[float, ...]]]  # by method and coverage, one per split


# ---------------------------------------------------------------------- rows


def diamonds(_rng: np.random.Generator) -> tuple[Array, Array, None]:
    """Return what is known of each diamond, and the logarithm of its price, less 8."""
    table = diamond_table.drop_duplicates()
    columns = [c.cat.codes if c.dtype == "category" else c for _, c in table.items()]
    known, price = np.column_stack(columns).astype(float), table.columns.get_loc("price")
    return np.delete(known, price, axis=1), np.log(known[:, price]) - 8, None


def synthetic(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Return places in three dimensions, values, and the standard deviation of their noise."""
    x = rng.uniform(-2, 2, (sum(SIZES), 3))
    noise = 0.1 + np.abs(np.sin(2 * x[:, 0]))
    return x, x[:, 0] + 2 * np.sin(2 * x[:, 1]) + noise * rng.standard_normal(len(x)), noise


ROWS = {"diamonds": diamonds, "synthetic": synthetic}


@dataclass(frozen=True)
class Split:
    """Standardised features, base outputs and targets of memory, calibration and test rows."""

    memory: resmem.Memory
    own_errors: Array  # of the memory's rows, each corrected without itself
    parts: tuple[tuple[Array, Array, Array], ...]  # memory, calibration, test
    difficulty: Array  # of the test rows

    @staticmethod
    def of(name: str, base: str, seed: int) -> Split:
        """Return the split of this seed."""
        rng = np.random.default_rng(seed)
        features, targets, noise = ROWS[name](rng)
        chosen = np.split(rng.permutation(len(targets))[: sum(SIZES)], np.cumsum(SIZES)[:-1])
        mean, scale = features[chosen[0]].mean(axis=0), features[chosen[0]].std(axis=0)
        x = [(features[at] - mean) / scale for at in chosen]
        y = [targets[at] for at in chosen]
        model = BASES[base]().fit(x[0], y[0])
        parts = [(rows, model.predict(rows), y[i]) for i, rows in enumerate(x) if i > 0]
        memory = resmem.Memory("regression", k=20).fit(*parts[0])
        z, outputs, values = parts[0]
        errors = values - memory.predict(z, outputs, exclude_ids=np.arange(len(z)))
        if noise is not None:
            difficulty = noise[chosen[3]]
        else:
            judge = HistGradientBoostingRegressor(max_iter=60, random_state=0)
            difficulty = judge.fit(z, np.abs(errors)).predict(parts[2][0])
        return Split(memory, errors, tuple(parts), difficulty)

    def corrected(self, part: int) -> Array:
        z, outputs, _ = self.parts[part]
        return self.memory.predict(z, outputs)


# ---------------------------------------------------------------------- intervals


def difficulties(split: Split, kind: str, k: int) -> tuple[Array, Array]:
    """Return crepes' difficulty of calibration and test rows, to which it adds a constant."""
    z, outputs, targets = split.parts[0]
    looks_at = {
        "distances": {},
        "targets": {"y": targets},
        "base's errors": {"residuals": targets - outputs},
        "corrected errors": {"residuals": split.own_errors},
    }
    estimator = DifficultyEstimator().fit(X=z, k=k, scaler=True, beta=0.0, **looks_at[kind])
    return estimator.apply(split.parts[1][0]), estimator.apply(split.parts[2][0])


class Intervals:
    """Intervals of the test rows of a split, by the kind and the coverage."""

    def __init__(self, split: Split, settings: Settings) -> None:
        self._asked = split.parts[2][:2]
        self._memory, self._values = split.memory, split.corrected(2)
        errors = split.parts[1][2] - split.corrected(1)
        own, self._sigmas = (part + settings[2] for part in difficulties(split, *settings[:2]))
        self._plain, self._crepes = crepes.ConformalRegressor(), crepes.ConformalRegressor()
        self._plain.fit(residuals=errors)
        self._crepes.fit(residuals=errors, sigmas=own)
        self._calibration = split.memory.calibrate(*split.parts[1])

    def at(self, coverage: float) -> dict[str, tuple[Array, Array]]:
        """Return the ends by the name of the kind."""
        plain = self._plain.predict_int(self._values, confidence=coverage)
        normalised = self._crepes.predict_int(self._values, self._sigmas, confidence=coverage)
        own = self._memory.predict_interval(*self._asked, self._calibration, coverage)
        return {"plain": tuple(plain.T), "crepes": tuple(normalised.T), "resmem": own}


def best_settings(name: str, base: str) -> Settings:
    """Return the settings of crepes with the smallest mean width on test rows of other splits."""
    kinds = ("distances", "targets", "base's errors", "corrected errors")
    widths: dict[Settings, float] = defaultdict(float)
    for seed in range(FIRST_CHOICE_SEED, FIRST_CHOICE_SEED + CHOICE_SPLITS):
        split = Split.of(name, base, seed)
        errors = split.parts[1][2] - split.corrected(1)
        for kind, k in product(kinds, (10, 25, 50, 100)):
            own, asked = difficulties(split, kind, k)
            for beta in (0.01, 0.1, 0.3, 1.0):
                regressor = crepes.ConformalRegressor()
                regressor.fit(residuals=errors, sigmas=own + beta)
                ends = regressor.predict_int(np.zeros(len(asked)), asked + beta, confidence=0.9)
                widths[kind, k, beta] += float(np.mean(ends[:, 1] - ends[:, 0]))
    return min(widths, key=widths.__getitem__)


def measured(split: Split, ends: tuple[Array, Array]) -> tuple[float, float, float]:
    """Return coverage, mean width and the coverage of the hardest tenth of the test rows."""
    low, high = ends
    within = (low <= split.parts[2][2]) & (split.parts[2][2] <= high)
    hardest = np.argsort(split.difficulty, kind="stable")[-(len(within) // 10) :]
    return float(within.mean()), float(np.mean(high - low)), float(within[hardest].mean())


def compare_intervals(name: str, base: str, splits: int) -> tuple[Settings, Tables]:
    """Return crepes' settings and what was measured of every split."""
    settings, found = best_settings(name, base), defaultdict(list)
    for seed in range(splits):
        split = Split.of(name, base, seed)
        intervals = Intervals(split, settings)
        for coverage in COVERAGES:
            for method, ends in intervals.at(coverage).items():
                found[method, coverage].append(measured(split, ends))
        split.memory.tune(*split.parts[1])
        tuned = split.memory.calibrate(*split.parts[1])
        ends = split.memory.predict_interval(*split.parts[2][:2], tuned, 0.9)
        found["tuned on the calibration rows", 0.9].append(measured(split, ends))
    return settings, found


# ---------------------------------------------------------------------- sets


@dataclass(frozen=True)
class Clothes:
    """Base logits and targets of the images that calibrate and test, and the memory."""

    memory: resmem.Memory
    pixels: Array
    logits: Array
    labels: Array

    @staticmethod
    def load() -> Clothes:
        z, labels = pixels_of("train")
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.03)
        honest = resmem.out_of_fold(model, z, labels, seed=0)
        memory = resmem.Memory(k=20, temperature=2.8, probability_map="keep:0.3")
        memory.fit(z, honest, labels)
        rows = [pixels_of(part) for part in ("validation", "test")]
        z_asked, asked = (np.concatenate(part) for part in zip(*rows, strict=True))
        logits = model.fit(z, labels).decision_function(z_asked)
        return Clothes(memory, z_asked, logits, asked)


def pixels_of(part: str) -> tuple[Array, Array]:
    images = clothes.load(part)  # type: ignore[arg-type]
    return images.images.reshape(len(images), -1), images.labels


def class_scores(p: Array, kind: str, seed: int) -> Array:
    """Return the score of each class (q, C): classes up to a limit are in the set."""
    if kind == "LAC":
        scores = 1 - p
        scores[np.arange(len(p)), p.argmax(axis=1)] = 0
        return scores
    order = np.argsort(-p, axis=1, kind="stable")
    ranked = np.take_along_axis(p, order, axis=1)
    share = np.random.default_rng(seed).random((len(p), 1)) if kind == "APS" else 0
    before = np.cumsum(ranked, axis=1) - ranked
    scores = np.empty_like(p)
    np.put_along_axis(scores, order, before + share * ranked, axis=1)
    return scores


def sets_of(scores: Array, labels: Array, own: Array, asked: Array, coverage: float) -> Array:
    """Return sets (q, C) of the rows ``asked``, from the limit on the rows ``own``."""
    chosen: Array = scores[asked] <= limit(scores[own, labels[own]], coverage)
    return chosen


def limit(scores: Array, coverage: float) -> float:
    return float(np.sort(scores)[int(np.ceil((len(scores) + 1) * coverage)) - 1])


def compare_sets(splits: int) -> Tables:
    """Return what ``measured_set`` does of every split."""
    given, found = Clothes.load(), defaultdict(list)
    p = given.memory.predict_proba(given.pixels, given.logits)
    check_sets(given, p)
    given.memory.strength = 0.0
    base = given.memory.predict_proba(given.pixels, given.logits)
    hard = -p.max(axis=1)
    for seed in range(splits):
        own, asked = split_of_clothes(len(p), seed)
        scores = {"resmem, switched off": class_scores(base, "before", seed)}
        for name, kind in (("resmem", "before"), ("LAC", "LAC"), ("APS", "APS")):
            scores[name] = class_scores(p, kind, seed)
        for coverage, method in product(COVERAGES, scores):
            sets = sets_of(scores[method], given.labels, own, asked, coverage)
            row = measured_set(sets, given.labels[asked], hard[asked])
            found[method, coverage].append(row)
    return found


def split_of_clothes(n: int, seed: int) -> tuple[Array, Array]:
    own, asked = np.split(np.random.default_rng(seed).permutation(n), [2000])
    return own, asked


def check_sets(given: Clothes, p: Array) -> None:
    """Check on one split that ``sets_of`` gives the sets of the memory itself."""
    own, asked = split_of_clothes(len(p), 0)
    memory = given.memory
    calibration = memory.calibrate(given.pixels[own], given.logits[own], given.labels[own])
    sets = memory.predict_set(given.pixels[asked], given.logits[asked], calibration, 0.9)
    if (sets != sets_of(class_scores(p, "before", 0), given.labels, own, asked, 0.9)).any():
        raise AssertionError("the sets of the benchmark are not those of predict_set")


def measured_set(sets: Array, labels: Array, hard: Array) -> tuple[float, ...]:
    """Return coverage, mean size, share of empty sets, coverage of the hardest and each class."""
    within = sets[np.arange(len(labels)), labels]
    hardest = np.argsort(hard, kind="stable")[-(len(labels) // 10) :]
    by_class = np.bincount(labels, within) / np.bincount(labels)
    return (
        float(within.mean()),
        float(sets.sum(axis=1).mean()),
        float((~sets.any(axis=1)).mean()),
        float(within[hardest].mean()),
        *map(float, by_class),
    )


# ---------------------------------------------------------------------- report


def print_intervals(name: str, base: str, settings: Settings, tables: Tables) -> bool:
    """Print a table; return whether every mean coverage of resmem is within a point."""
    print(f"\n{name}, {base}: crepes looks at {settings[0]}, k={settings[1]}, beta={settings[2]}")
    print("| coverage | intervals | mean coverage | mean width | hardest tenth |\n|-|-|-|-|-|")
    close = True
    for (method, coverage), rows in sorted(tables.items(), key=lambda item: item[0][1]):
        values = np.array(rows)
        inside, width, hardest = values.mean(axis=0)
        spread = values[:, 0].std(ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else np.nan
        print(
            f"| {coverage:g} | {method} | {inside:.2%} ± {1.96 * spread:.2%} | {width:.4f} | "
            f"{hardest:.1%} |"
        )
        close &= method != "resmem" or abs(inside - coverage) <= 0.01
    return close


def print_sets(tables: Tables) -> None:
    columns = ["coverage", "sets", "mean coverage", "mean size", "empty", "hardest tenth"]
    print("\nclothes\n| " + " | ".join([*columns, "worst class"]) + " |\n|" + "-|" * 7)
    for (method, coverage), rows in sorted(tables.items(), key=lambda item: item[0][1]):
        inside, size, empty, hardest, *by_class = np.array(rows).mean(axis=0)
        print(
            f"| {coverage:g} | {method} | {inside:.2%} | {size:.3f} | {empty:.1%} | "
            f"{hardest:.1%} | {min(by_class):.1%} |"
        )


def main() -> int:
    """Print all tables; return 1 if a mean coverage is off by more than a point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--only", choices=[*ROWS, "clothes"], action="append")
    parser.add_argument("--base", choices=BASES, action="append")
    arguments = parser.parse_args()
    chosen = arguments.only or [*ROWS, "clothes"]
    warnings.simplefilter("ignore")  # of tune, whose choices are not the subject
    print(f"resmem {resmem.__version__}, crepes {crepes.__version__}, NumPy {np.__version__}")
    close = True
    with threadpool_limits(1):
        rows, bases = (name for name in ROWS if name in chosen), arguments.base or list(BASES)
        for name, base in product(rows, bases):
            found = compare_intervals(name, base, arguments.splits)
            close &= print_intervals(name, base, *found)
            sys.stdout.flush()
        if "clothes" in chosen:
            print_sets(compare_sets(arguments.splits))
    print("Verdict: coverage within a point." if close else "Verdict: coverage is off.")
    return 0 if close else 1


if __name__ == "__main__":
    sys.exit(main())
