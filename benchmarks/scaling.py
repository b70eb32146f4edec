"""The time of a search by the number of rows: ``python benchmarks/scaling.py --plot cost.svg``.

``Memory.kneighbors`` and FAISS's flat index at its best search 10,000 to 3,000,000 rows in rounds
(clusters, 128 dimensions, batches of 1,000 queries, k = 10), both prepared before the clock starts.
resmem must have the bits of the oracle. An exponent is the slope of a line through all times, both
axes logarithmic: 1 for brute force.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from statistics import median

import numpy as np

import machine
from arena import Arena, Outcome, Result
from cases import Case
from data import SCALING
from report import aligned, clock, conditions, correctness

LABEL = {"resmem": "resmem", "faiss, tuned": "FAISS flat"}
COLOUR = {"resmem": "#d1495b", "faiss, tuned": "#30638e"}


def seconds(result: Result) -> list[float]:
    """Return all rounds except the first, which warms up after the check."""
    return result.seconds[1:]


def exponent(outcomes: list[Outcome], label: str) -> float:
    """Return the slope of time by rows, both logarithmic."""
    rows = [outcome.case.shape.rows for outcome in outcomes]
    times = [median(seconds(outcome.results[label])) for outcome in outcomes]
    return float(np.polyfit(np.log(rows), np.log(times), 1)[0])


def table(outcomes: list[Outcome]) -> list[str]:
    """Return medians and ranges, whether resmem was exact, and the ratio of times."""
    lines = [["rows", *LABEL.values(), "answers", "ratio"]]
    for outcome in outcomes:
        taken = [seconds(outcome.results[label]) for label in LABEL]
        cells = [f"{clock(median(t))} ({clock(min(t))} .. {clock(max(t))})" for t in taken]
        ratio = f"{median(taken[-1]) / median(taken[0]):.2f}"
        checked = correctness(outcome.results["resmem"])
        lines.append([f"{outcome.case.shape.rows:,}", *cells, checked, ratio])
    slopes = [f"{exponent(outcomes, label):.2f}" for label in LABEL]
    return aligned([*lines, ["exponent", *slopes, "", ""]])


def plot(outcomes: list[Outcome], path: Path) -> None:
    """Draw the medians with both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    rows = [outcome.case.shape.rows for outcome in outcomes]
    for label in LABEL:
        times = [seconds(outcome.results[label]) for outcome in outcomes]
        name = f"{LABEL[label]}: n^{exponent(outcomes, label):.2f}"
        axes.plot(rows, [median(t) for t in times], "o-", color=COLOUR[label], label=name)
    case = outcomes[0].case
    axes.set(xscale="log", yscale="log", xlabel="rows", ylabel="seconds")
    axes.set_title(f"{case.queries:,} queries, d = {case.shape.dim}, k = {case.k}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> int:
    """Run all sizes; return 1 if resmem was not exact."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="default 2")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument("--largest", type=int, default=SCALING[-1].rows, help="rows, at most")
    parser.add_argument("--plot", type=Path, help="where to draw, as SVG or PNG (matplotlib)")
    chosen = parser.parse_args()
    shapes = [shape for shape in SCALING if shape.rows <= chosen.largest]
    if len(shapes) < 2 or chosen.rounds < 1:
        parser.error(f"needs two sizes, so --largest {SCALING[1].rows} or more, and a round")
    if chosen.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install matplotlib")
    print(machine.unset_blas_variables())
    arena = Arena()
    for shape in shapes:
        case = Case("scaling", shape, shape.queries, shape.ks[0], chosen.threads, 1 + chosen.rounds)
        print(f"{case}   {conditions(arena.outcome(case))}", flush=True)
    arena.close()
    if arena.absent:
        print("\n".join(f"{library} {why}" for library, why in arena.absent.items()))
        return 1
    print("\n".join(table(arena.outcomes)))
    if chosen.plot:
        plot(arena.outcomes, chosen.plot)
    return 0 if all(outcome.results["resmem"].exact for outcome in arena.outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
