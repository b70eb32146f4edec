"""All of ``Memory.tune`` beside one search by FAISS, and its scores beside a plain NumPy sweep.

``python benchmarks/tune.py`` tunes shape A on 10,000 validation rows, over 2,880 settings and over
the default grid, in rounds with FAISS's flat search for the 53 nearest of the same rows. Then 500
of the rows are scored in all 2,880 settings by float64 NumPy that shares nothing with resmem.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

import data
import machine
from cases import Case
from data import Float32, Float64, Int64
from jobs import Timing
from worker import THREAD_VARIABLES, Worker

SETTLE = 0.15  # seconds before each timing, as in arena.py
SHAPE, K = data.SHAPES["A"], 53
KS = (1, 2, 4, 6, 8, 12, 16, 24, 36, K)
SIGMAS = 12  # values from 1/16 to 16 times the memory's own sigma
TEMPERATURES = (0.7, 1.0, 1.4, 2.0)
STRENGTHS = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)
FLOOR = 1e-6  # the floor of "clip"
SAMPLE = 500
FAISS, GRID, DEFAULT = "faiss, one search", "tune, 2,880 settings", "tune, the default grid"


@dataclass(frozen=True)
class Rows:
    """Embeddings, logits of the base model and classes."""

    keys: Float32
    logits: Float32
    labels: Int64

    def __iter__(self) -> Iterator[Any]:
        return iter((self.keys, self.logits, self.labels))

    def some(self, rows: slice) -> Rows:
        """Return a part of the rows."""
        return Rows(*(part[rows] for part in self))


def classified() -> tuple[Rows, Rows]:
    """Return the rows of shape A and its queries, in classes that depend on where they lie.

    Classes are drawn from a linear layer, and the base model is another one, so that there are
    residuals to learn. (``data.logits`` knows nothing of places, and no memory could help.)
    """
    rng = np.random.default_rng((SHAPE.seed, 1))
    layer, wrong = rng.standard_normal((2, SHAPE.dim, SHAPE.classes))
    parts = []
    for keys in data.embeddings(SHAPE):
        true = 8 * keys @ layer
        chances = np.exp(true - true.max(axis=1, keepdims=True)).cumsum(axis=1)
        drawn = rng.random((len(keys), 1)) * chances[:, -1:]
        labels = (chances < drawn).sum(axis=1)
        parts.append(Rows(keys, (4 * keys @ (layer + 0.25 * wrong)).astype(np.float32), labels))
    return parts[0], parts[1]


# ---------------------------------------------------------------------- times


@dataclass
class Contender:
    """The times of one contender, in rounds."""

    seconds: list[float] = field(default_factory=list)
    others: float = 0.0  # processor seconds of anything else
    parts: list[dict[str, float]] = field(default_factory=list)

    def note(self, timing: Timing, busy: float) -> None:
        """Note a round, and the processor seconds of the machine meanwhile."""
        self.seconds.append(timing.seconds)
        self.others += max(0.0, busy - timing.processor)

    def note_parts(self, parts: dict[str, float]) -> None:
        """Note the parts of the last round."""
        self.parts.append({**parts, "rest": self.seconds[-1] - sum(parts.values())})

    def __str__(self) -> str:
        ordered = sorted(self.seconds)
        return f"{median(ordered):.3f} s ({ordered[0]:.3f} .. {ordered[-1]:.3f})"


class Tuning:
    """A memory and validation rows."""

    def __init__(self, rows: Rows, threads: int) -> None:
        import resmem

        self.memory, self.threads = resmem.Memory().fit(*rows), threads
        self.grid = {
            "k": KS,
            "sigma": (self.memory.sigma_ * np.geomspace(1 / 16, 16, SIGMAS)).tolist(),
            "temperature": TEMPERATURES,
            "strength": STRENGTHS,
            "probability_map": "clip",
        }

    def tune(self, rows: Rows, grid: dict[str, Any]) -> Any:
        """Return the result without applying it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about edges of the grid
            return self.memory.tune(*rows, **grid, apply=False, threads=self.threads)

    def time(self, rows: Rows, grid: dict[str, Any]) -> tuple[Timing, Any]:
        """Time a whole call; return the timing and the result."""
        processor, start = time.process_time(), time.perf_counter()
        result = self.tune(rows, grid)
        seconds = time.perf_counter() - start
        return Timing(seconds, time.process_time() - processor), result


def race(threads: int, rounds: int) -> None:
    """Run rounds of all three contenders and print their times."""
    rows, held_out = classified()
    tuning = Tuning(rows, threads)
    case = Case("search", SHAPE, SHAPE.queries, K, threads, rounds)
    worker = Worker("search", "faiss, tuned", threads)
    worker.load(SHAPE)
    contenders = {name: Contender() for name in (FAISS, GRID, DEFAULT)}
    results = {}
    for turn in range(-1, rounds):  # the first warms up
        for name, contender in contenders.items():
            time.sleep(SETTLE)
            before = machine.busy_seconds()
            if name == FAISS:
                timing = worker.call("time", "faiss, tuned", case)
            else:
                grid = tuning.grid if name == GRID else {}
                timing, results[name] = tuning.time(held_out, grid)
            if turn >= 0:
                contender.note(timing, machine.busy_seconds() - before)
                if name != FAISS:
                    contender.note_parts(results[name].seconds)
    print_machine(worker.call("pools"))
    worker.close()
    print_race(contenders, threads)
    for name, result in results.items():
        print(f"\n{name}: {len(result.table):,}\n{result!r}")


def print_machine(pools: list[dict[str, Any]]) -> None:
    """Print processor, versions and kernels."""
    info = machine.describe()
    blas = [pool for pool in pools if pool["user_api"] == "blas"]
    print(f"{info['processor']}, {info['cores']} cores, {' '.join(info['flags'])}")
    print(", ".join(f"{name} {info['versions'][name]}" for name in ("numpy", "faiss-cpu")))
    print("BLAS in use: " + ", ".join(f"{b['version']} {b.get('architecture')}" for b in blas))
    print(f"{info['resmem']}; load average {info['load']:.2f}")


def print_race(contenders: dict[str, Contender], threads: int) -> None:
    """Print medians, ranges, ratios and parts."""
    print(f"\n{SHAPE} q={SHAPE.queries:,} k={K} C={SHAPE.classes}, {threads} thread(s)")
    one = median(contenders[FAISS].seconds)
    for name, contender in contenders.items():
        total = median(contender.seconds)
        load = contender.others / sum(contender.seconds)
        print(f"{name:24} {contender}, {total / one:.2f} searches; other load {load:.2f} cores")
        if contender.parts:
            parts = {p: median(each[p] for each in contender.parts) for p in contender.parts[0]}
            print(" " * 25 + ", ".join(f"{part} {taken:.3f}" for part, taken in parts.items()))


# ---------------------------------------------------------------------- scores


def softmax(logits: Float64) -> Float64:
    """Return the softmax of each row."""
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exps / exps.sum(axis=1, keepdims=True)


def nearest(rows: Float32, queries: Float32) -> tuple[Float64, Int64]:
    """Return the K nearest by float64 differences, equal ones by position."""
    wide = rows.astype(np.float64)
    found = []
    for query in queries.astype(np.float64):
        distances = np.sqrt(np.square(wide - query).sum(axis=1))
        near = np.argpartition(distances, 2 * K)[: 2 * K]
        near = near[np.lexsort((near, distances[near]))][:K]
        found.append((distances[near], near))
    distances, ids = (np.stack(part) for part in zip(*found, strict=True))
    return distances, ids


def plain_sweep(rows: Rows, held_out: Rows, sigmas: list[float]) -> Float64:
    """Return log-losses by temperature, k, sigma and strength, each computed from scratch."""
    distances, ids = nearest(rows.keys, held_out.keys)
    scores = np.empty((len(TEMPERATURES), len(KS), len(sigmas), len(STRENGTHS)))
    each = np.arange(len(held_out.labels))
    for t, temperature in enumerate(TEMPERATURES):
        residuals = -softmax(rows.logits.astype(np.float64) / temperature)
        residuals[np.arange(len(rows.labels)), rows.labels] += 1
        near, base = residuals[ids], softmax(held_out.logits.astype(np.float64) / temperature)
        for i, k in enumerate(KS):
            for j, sigma in enumerate(sigmas):
                weights = np.exp((distances[:, :1] - distances[:, :k]) / sigma)
                weights /= weights.sum(axis=1, keepdims=True)
                mean = np.einsum("qk,qkc->qc", weights, near[:, :k])
                for x, strength in enumerate(STRENGTHS):
                    chances = np.maximum(base + strength * mean, FLOOR)
                    chances /= chances.sum(axis=1, keepdims=True)
                    scores[t, i, j, x] = -np.log(chances[each, held_out.labels]).mean()
    return scores


def compare() -> bool:
    """Print how far apart the scores of both sweeps are; return whether they choose alike."""
    rows, held_out = classified()
    held_out = held_out.some(slice(SAMPLE))
    tuning = Tuning(rows, 2)
    sigmas = tuning.grid["sigma"]
    result = tuning.tune(held_out, tuning.grid)
    start = time.perf_counter()
    scores = plain_sweep(rows, held_out, sigmas)
    seconds = time.perf_counter() - start
    apart = np.abs(result.table["score"].reshape(scores.shape) - scores).max()
    t, i, j, x = np.unravel_index(scores.argmin(), scores.shape)
    chosen = KS[i], sigmas[j], TEMPERATURES[t], STRENGTHS[x]
    best = result.candidate
    same = chosen == (best.k, best.sigma, best.temperature, best.strength)
    print(
        f"\n{scores.size:,} settings on {SAMPLE} rows, beside float64 NumPy ({seconds:.0f} s): "
        f"scores at most {apart:.2g} apart, of {scores.min():.4f} to {scores.max():.4f}; "
        f"chosen by {'both' if same else 'resmem'}: {best}" + ("" if same else f"; NumPy: {chosen}")
    )
    return same


def main() -> int:
    """Run every thread count in its own process, then compare the scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", default="2,1", help="default 2,1")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--run", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.run:
        race(chosen.run, chosen.rounds)
        return 0
    print(machine.unset_blas_variables())
    data.embeddings(SHAPE)
    cores = sorted(map(str, os.sched_getaffinity(0)))
    for threads in map(int, chosen.threads.split(",")):
        program = [sys.executable, __file__, "--run", str(threads), "--rounds", str(chosen.rounds)]
        command = ["taskset", "--cpu-list", ",".join(cores[:threads]), *program]
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
        subprocess.run(command, env=environment, check=True)
    return 0 if compare() else 1


if __name__ == "__main__":
    sys.exit(main())
