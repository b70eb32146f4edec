"""Searches on a device beside the core's, bit for bit, with nothing but NumPy.

``python tests/device_check.py --device cuda:0``. ``--quick``: a few small searches, for tools
that watch every access. Exit status 0: no search differed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import oracle
from cases import FAMILIES, METRICS, WIDE_FAMILIES, as_stored, core_search, make, make_wide
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
    if not quick:
        q, n, d, k, first = LARGE
        queries, rows = make("gaussian", 0, n, q, d)
        yield Trial("many rows", "euclidean", queries, rows, rows, k, first)


def differs(device: Device, trial: Trial) -> bool:
    """Tell whether the device finds other neighbours, or values with other bits."""
    rows = device.extension.Rows(
        device.ordinal, DTYPES[str(trial.rows.dtype)], trial.rows.shape[1], trial.metric,
        None, least_coded=1,
    )  # fmt: skip
    rows.extend(trial.rows)
    shape = (len(trial.queries), trial.k)
    values, ids = np.empty(shape), np.empty(shape, np.int64)
    device.extension.search(
        trial.queries, [(rows, len(rows), 0)], trial.k, trial.metric, values=values, ids=ids,
        device=device.ordinal, forced=device.extension.ForcedSearch(first_phase=trial.first_phase),
    )  # fmt: skip
    wanted = core_search(trial.queries, trial.read, trial.k, trial.metric)
    return ids.tobytes() != wanted[1].tobytes() or values.tobytes() != wanted[0].tobytes()


def main() -> int:
    """Run all trials, and name those that differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0", help="such as cuda:0 or cuda:emulated")
    parser.add_argument("--quick", action="store_true", help="few small searches")
    chosen = parser.parse_args()
    device = choose(chosen.device, {})
    tried, wrong = 0, []
    for trial in trials(chosen.quick):
        tried += 1
        if differs(device, trial):
            wrong.append(f"{trial.name}, {trial.metric}, {len(trial.queries)} queries")
    for name in wrong:
        print(f"differs from the CPU: {name}")
    print(f"{tried} searches on {device}, {len(wrong)} differ from the CPU")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
