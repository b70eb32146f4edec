"""Searches and corrections on a device beside the core's, bit for bit, with nothing but NumPy.

``python tests/device_check.py --device cuda:0``. ``--quick``: a few small ones, for tools
that watch every access. Exit status 0: nothing differed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

import oracle
from cases import FAMILIES, METRICS, WIDE_FAMILIES, as_stored, core_search, make, make_wide, max_abs
from resmem import _core
from resmem._devices.choice import choose
from resmem._devices.device import Device

# Queries, rows, dimensions, neighbours, and rows of the first phase (0: as the search has it).
SHAPES = (
    (5, 700, 33, 7, 128),
    (140, 700, 33, 7, 128),
    (140, 300, 33, 7, 0),
    (140, 2100, 128, 40, 0),
)
LARGE = (300, 20_000, 96, 50, 0)
QUICK_SHAPES = ((3, 260, 20, 7, 128), (20, 260, 20, 7, 128), (3, 100, 20, 7, 0))
QUICK_FAMILIES = ("gaussian",)
STORES = ("float32", "float16", "float64", "sparse", "labels")
MAPS = ("clip", "project", "keep")
COLUMNS, QUICK_COLUMNS = (1, 2, 10, 1000, 50_257), (10,)
DTYPES = {"float32": "float32", "float16": "float16", "uint16": "bfloat16", "float64": "float64"}


@dataclass
class Trial:
    """Arrays that are searched, and what is forced."""

    name: str
    metric: str
    queries: Any
    rows: Any
    read: Any  # the rows as float32 or float64, which the core reads
    k: int
    first_phase: int
    attributes: dict[str, Any] = field(default_factory=dict)  # times and groups of the rows
    hidden: dict[str, Any] = field(default_factory=dict)  # what queries see, by the core's names


def hiding(seed: int, n: int, q: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return attributes of rows, and what hides some of them from queries."""
    rng = np.random.default_rng(seed)
    return {"times": rng.integers(0, 20, n), "groups": rng.integers(-1, 9, n)}, {
        "among": np.flatnonzero(rng.random(n) < 0.7),
        "before": rng.integers(0, 25, q),
        "exclude_groups": rng.integers(-1, 9, (q, 2)),
        "exclude": rng.integers(-1, n, (q, 2)),
    }


def trials(quick: bool) -> Iterator[Trial]:
    """Yield all trials; the seed of each is its number."""
    seed = 0
    for q, n, d, k, first in QUICK_SHAPES if quick else SHAPES:
        for metric in METRICS:
            for family in QUICK_FAMILIES if quick else FAMILIES:
                seed += 1
                queries, rows = make(family, seed, n, q, d)
                yield Trial(family, metric, queries, rows, rows, k, first)
            for family in QUICK_FAMILIES if quick else WIDE_FAMILIES:
                seed += 1
                queries, rows = make_wide(family, seed, n, q, d)
                if metric == "cosine":
                    queries, rows = (oracle.as_float64(x, metric) for x in (queries, rows))
                yield Trial(f"{family}, float64", metric, queries, rows, rows, k, first)
            for kind in ("float16", "bfloat16"):
                seed += 1
                queries, rows = make("gaussian", seed, n, q, d)
                yield Trial(kind, metric, queries, *as_stored(rows, kind), k, first)
            seed += 1
            queries, rows = make("gaussian", seed, n, q, d)
            yield Trial(
                "hidden rows", metric, queries, rows, rows, k, first, *hiding(seed, n, q)
            )  # fmt: skip
    if not quick:
        q, n, d, k, first = LARGE
        queries, rows = make("gaussian", 0, n, q, d)
        yield Trial("many rows", "euclidean", queries, rows, rows, k, first)


def found_by_core(trial: Trial) -> tuple[Any, ...]:
    """Return values and ids that the core finds."""
    segment = _core.Segment(trial.read, largest=max_abs(trial.read), **trial.attributes)
    return _core.search(
        trial.queries, max_abs(trial.queries), [segment], trial.k, trial.metric, **trial.hidden
    )


def differs(device: Device, trial: Trial) -> bool:
    """Tell whether the device finds other neighbours, or values with other bits."""
    rows = device.extension.Rows(
        device.ordinal, DTYPES[str(trial.rows.dtype)], trial.rows.shape[1], trial.metric,
        None, least_coded=1,
    )  # fmt: skip
    rows.extend(trial.rows)
    for name, values in trial.attributes.items():
        rows.bring(name, values)
    shape = (len(trial.queries), trial.k)
    values, ids = np.empty(shape), np.empty(shape, np.int64)
    device.extension.search(
        trial.queries, [(rows, len(rows), 0)], trial.k, trial.metric, values=values, ids=ids,
        device=device.ordinal, **trial.hidden,
        forced=device.extension.ForcedSearch(first_phase=trial.first_phase, listed=1),
    )  # fmt: skip
    wanted = found_by_core(trial)
    return ids.tobytes() != wanted[1].tobytes() or values.tobytes() != wanted[0].tobytes()


@dataclass
class Correction:
    """What is made of the neighbours of a few queries: probabilities, by this store and map."""

    store: str
    map: str
    columns: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.store}, {self.map}, {self.columns} columns"

    def rows(self, device: Device, rng: np.random.Generator, n: int) -> tuple[Any, Any]:
        """Return random rows as the core and as the device have them."""
        extension, ordinal, columns = device.extension, device.ordinal, self.columns
        labels = rng.integers(0, columns, n)
        if self.store == "labels":
            there = extension.LabelRows(ordinal, columns)
            there.extend(labels)
            return _core.LabelRows(labels), there
        numbers = rng.standard_normal((n, columns)).astype(np.float32)
        if self.store == "sparse":
            kept = _core.sparse_residuals(numbers, labels, 1.0, 20)[:3]
            there = extension.SparseRows(ordinal, "float32", columns, kept[0].shape[1])
            there.extend(*kept)
            return _core.SparseRows(*kept), there
        there = extension.DenseRows(ordinal, self.store, columns)
        there.extend(numbers.astype(self.store))
        return _core.DenseRows(numbers.astype(self.store)), there

    def differs(self, device: Device) -> bool:
        """Tell whether probabilities on the device have other bits."""
        rng, k = np.random.default_rng(self.seed), 40
        keys, places = make("duplicates", self.seed, 300, 5, 20)
        core, there = self.rows(device, rng, 300)
        logits = rng.standard_normal((5, self.columns)).astype(np.float32) * 9
        held = device.extension.Rows(device.ordinal, "float32", 20, "euclidean", None, 1024)
        held.extend(places)
        found = np.empty((5, self.columns))
        device.extension.correct(
            device.extension.Search(keys, [(held, 300, 0)], k, "euclidean", device=device.ordinal),
            device.extension.Aggregation(
                [there], 0.7, self.columns, strength=0.9, outputs=logits, output_kind="logits",
                map=self.map, floor=0.01, interpolate=self.store == "labels",
            ),
            found,
        )  # fmt: skip
        distances, ids = core_search(keys, places, k, "euclidean")[:2]
        base = _core.softmax(logits, 1.0)
        wanted = _core.aggregate(
            [core], distances, ids, 0.7, self.columns, 0.9, base.copy(),
            interpolate=self.store == "labels",
        )  # fmt: skip
        _core.simplex(wanted, 0.01, self.map, base, 0.9)
        return found.tobytes() != wanted.tobytes()


def corrections(quick: bool) -> Iterator[Correction]:
    """Yield all corrections that are tried; the seed of each is its number."""
    settings = product(STORES, MAPS, QUICK_COLUMNS if quick else COLUMNS)
    return (Correction(*each, seed) for seed, each in enumerate(settings))


def main() -> int:
    """Run all trials, and name those that differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0", help="such as cuda:0 or cuda:emulated")
    parser.add_argument("--quick", action="store_true", help="few small ones")
    chosen = parser.parse_args()
    device = choose(chosen.device, {})
    searches = (
        (f"{trial.name}, {trial.metric}, {len(trial.queries)} queries", differs(device, trial))
        for trial in trials(chosen.quick)
    )
    made = ((each.name, each.differs(device)) for each in corrections(chosen.quick))
    wrong = [
        counted_wrong(results, what, device)
        for what, results in (("searches", searches), ("corrections", made))
    ]
    return 1 if any(wrong) else 0


def counted_wrong(results: Iterable[tuple[str, bool]], what: str, device: Device) -> int:
    """Print which of the results differ, and return how many."""
    told = list(results)
    wrong = [name for name, differs in told if differs]
    for name in wrong:
        print(f"differs from the CPU: {name}")
    print(f"{len(told)} {what} on {device}, {len(wrong)} differ from the CPU")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
