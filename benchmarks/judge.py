"""How ``Memory.tune`` judges memories whose worth is known: worlds, protocol and table.

``python benchmarks/judge.py`` draws worlds in which a memory is useless (*null* kinds) or useful,
tunes a memory in each with the default settings, and scores what was chosen on 20,000 fresh rows
of the same world. Each draw is a line of JSON in ``--out``, so that an interrupted run goes on
where it stopped; ``--report`` prints the table of a file. Development draws (the default) and final
draws (``--final``) have different seeds: rules are made on the first, and the second are drawn
once, when nothing is changed any more.

    python benchmarks/judge.py --final --draws 100 --jobs 2

What must hold: useless memories are kept in at most 2.5 % of the draws, and in no kind in more than
6 of 100; on average what is applied costs at most 0.5 % of the score (a fall counts as no cost). Of
the useful memories whose true gain is at least 3 (5) standard errors, 80 % (95 %) are kept. The
true gain lies below ``gain.low`` in about 2.5 % of the draws.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import resmem

FRESH = 20_000  # rows that tell the truth
MEMORY = 1_000  # rows of most memories
SIZES = (90, 200, 500, 1_000, 2_000)  # validation rows of useful kinds, in turn
DEVELOPMENT, FINAL = 1, 2  # the first number of a seed

Floats = NDArray[np.float64]
Random = np.random.Generator


@dataclass(frozen=True)
class Rows:
    """Embeddings (n, d), outputs of the base model (n, C) and targets (n,) or (n, C)."""

    keys: Floats
    outputs: Floats
    targets: NDArray[Any]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.keys, self.outputs, self.targets))

    def __len__(self) -> int:
        return len(self.keys)

    def some(self, rows: Any) -> Rows:
        """Return some of the rows."""
        return Rows(*(part[rows] for part in self))


@dataclass(frozen=True)
class World:
    """Rows of a memory, validation rows and fresh rows, and what ``tune`` is told of them."""

    memory: Rows
    validation: Rows
    fresh: Rows
    told: dict[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> str:
        """The task of the memory."""
        return "regression" if self.fresh.targets.dtype.kind == "f" else "classification"


@dataclass(frozen=True)
class Kind:
    """A kind of world: a function of a random generator and the number of the draw."""

    name: str
    null: bool
    independent: bool  # whether validation rows are independent draws
    make: Callable[[Random, int], World]

    def draw(self, number: int, final: bool) -> World:
        """Return the world of this number."""
        seed = FINAL if final else DEVELOPMENT, zlib.crc32(self.name.encode()), number
        return self.make(np.random.default_rng(seed), number)


KINDS: dict[str, Kind] = {}


def kind(
    name: str, null: bool = True, independent: bool = True, **options: Any
) -> Callable[[Callable[..., World]], Callable[..., World]]:
    """Add a kind that calls the decorated function with these options."""

    def add(make: Callable[..., World]) -> Callable[..., World]:
        KINDS[name] = Kind(
            name, null, independent, lambda rng, number: make(rng, number, **options)
        )
        return make

    return add


def classes(rng: Random, logits: Floats) -> NDArray[np.int64]:
    """Draw a class of each row from the softmax of its logits."""
    return np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)


def split(rows: Rows, validation: int, told: dict[str, Any] | None = None) -> World:
    """Cut independent rows into a memory, validation rows and fresh rows."""
    memory = len(rows) - validation - FRESH
    parts = np.split(np.arange(len(rows)), [memory, memory + validation])
    return World(*(rows.some(part) for part in parts), told or {})


# ---------------------------------------------------------------------- null worlds


@kind("random keys, 60 rows", q=60)
@kind("random keys, 90 rows", q=90)
@kind("random keys, 200 rows", q=200)
@kind("random keys, 2,000 rows", q=2_000)
@kind("random keys, 5,000 rows", q=5_000)
@kind("random keys, C = 2", q=300, C=2)
@kind("random keys, C = 200", q=300, C=200)
@kind("random keys, 97 % accurate", q=500, C=10, scale=30.0)
def random_keys(rng: Random, _: int, q: int, C: int = 4, scale: float = 1.5) -> World:
    """The base errs by an effect of the row that its key does not tell; it is calibrated."""
    n = MEMORY + q + FRESH
    logits = scale * rng.standard_normal((n, C))
    return split(Rows(rng.standard_normal((n, 4)), logits, classes(rng, logits)), q)


@kind("shuffled targets")
def shuffled_targets(rng: Random, _: int) -> World:
    """The memory's targets belong to other rows."""
    world = useful_classes(rng, 0, 2.5, sizes=(1_000,))
    memory = world.memory
    return replace(world, memory=replace(memory, targets=rng.permutation(memory.targets)))


@kind("nothing left to learn")
def nothing_left(rng: Random, _: int) -> World:
    """The base knows the truth, which depends on the key."""
    n = MEMORY + 500 + FRESH
    keys = rng.standard_normal((n, 4))
    logits = 1.5 * keys @ rng.standard_normal((4, 3))
    return split(Rows(keys, logits, classes(rng, logits)), 500)


@kind("label noise of 30 %")
def label_noise(rng: Random, _: int) -> World:
    """Three labels of ten are random, which makes the base overconfident everywhere alike."""
    n = MEMORY + 500 + FRESH
    logits = 3 * rng.standard_normal((n, 4))
    noisy = rng.random(n) < 0.3
    targets = np.where(noisy, rng.integers(4, size=n), classes(rng, logits))
    return split(Rows(rng.standard_normal((n, 4)), logits, targets), 500)


@kind("a class of 1 %, 50 rows", q=50)
@kind("a class of 1 %, 1,000 rows", q=1_000)
def rare_class(rng: Random, _: int, q: int) -> World:
    """One class of two is rare, so that few rows show what sharper predictions cost."""
    n = MEMORY + q + FRESH
    logits = rng.normal([5.0, 0.0], 1.0, (n, 2))
    return split(Rows(rng.standard_normal((n, 3)), logits, classes(rng, logits)), q)


def grouped_rows(rng: Random, n: int, size: int, seen: bool) -> Rows:
    """Return rows in groups, each with a place and an effect of its own.

    ``seen``: whether the keys of a group lie together; else only the effect is shared.
    """
    groups = np.arange(n) // size
    count = int(groups[-1]) + 1
    keys = rng.standard_normal((n, 4))
    if seen:
        keys = rng.standard_normal((count, 4))[groups] + 0.05 * keys
    logits = 1.5 * rng.standard_normal((n, 4))
    effects = 1.5 * rng.standard_normal((count, 4))[groups]
    return Rows(keys, logits, classes(rng, logits + effects))


@kind("groups of 10, default folds", independent=False)
@kind("groups of 10, groups= given", independent=False, given=True)
@kind("groups of 10, not seen in keys", independent=False, seen=False)
@kind("groups of 30, default folds", independent=False, size=30)
def groups(rng: Random, _: int, size: int = 10, given: bool = False, seen: bool = True) -> World:
    """New groups have nothing to do with those of the memory."""
    parts = [grouped_rows(rng, n, size, seen) for n in (MEMORY, 600, FRESH)]
    order = rng.permutation(600)
    told = {"groups": (np.arange(600) // size)[order]} if given else {}
    return World(parts[0], parts[1].some(order), parts[2], told)


@kind("rows that occur four times", independent=False)
def duplicates(rng: Random, number: int) -> World:
    """Each validation row stands there four times."""
    world = random_keys(rng, number, 150)
    return replace(world, validation=world.validation.some(rng.permutation(600) % 150))


def slow(rng: Random, n: int, columns: int, rho: float) -> Floats:
    """Return stationary normal rows (n, columns), each ``rho`` times the one before plus noise."""
    noise = math.sqrt(1 - rho * rho) * rng.standard_normal((n, columns))
    values = np.empty((n, columns))
    last = rng.standard_normal(columns)
    for i in range(n):
        last = values[i] = rho * last + noise[i]
    return values


def slow_rows(rng: Random, n: int) -> Rows:
    """Return rows whose keys and whose effects change slowly."""
    logits = 1.5 * rng.standard_normal((n, 3))
    targets = classes(rng, logits + 1.5 * slow(rng, n, 3, 0.95))
    return Rows(slow(rng, n, 2, 0.95), logits, targets)


@kind("slow in row order", independent=False)
@kind("slow, times= given", independent=False, given=True)
def autocorrelated(rng: Random, _: int, given: bool = False) -> World:
    """Rows resemble the rows before; the memory's are from another time."""
    told = {"times": np.arange(800)} if given else {}
    return World(*(slow_rows(rng, n) for n in (MEMORY, 800, FRESH)), told)


def drifting_rows(rng: Random, n: int, rho: float) -> Rows:
    """Return rows with an effect of place whose size drifts through time."""
    keys = rng.standard_normal((n, 2))
    logits = 1.5 * rng.standard_normal((n, 3))
    effect = 1.5 * np.sign(keys[:, :1]) * slow(rng, n, 3, rho)
    return Rows(keys, logits, classes(rng, logits + effect))


@kind("drift, row order", independent=False)
@kind("drift, times= given", independent=False, given=True)
def drift(rng: Random, _: int, given: bool = False) -> World:
    """The memory has the effects of one time, which soon are those of no time to come."""
    parts = (
        drifting_rows(rng, MEMORY, 0.999),
        *(drifting_rows(rng, n, 0.98) for n in (1_000, FRESH)),
    )
    return World(*parts, {"times": np.arange(1_000) * 60.0} if given else {})


@kind("RMSE, unequal noise, 200 rows", q=200, noise="unequal")
@kind("RMSE, unequal noise, 1,000 rows", q=1_000, noise="unequal")
@kind("RMSE, most unequal noise, 500 rows", q=500, noise="most unequal")
@kind("RMSE, Student t 2.5, 300 rows", q=300, noise="t")
@kind("RMSE, lognormal, 300 rows", q=300, noise="lognormal")
def null_values(rng: Random, _: int, q: int, noise: str) -> World:
    """The base knows the mean of the values."""
    n = MEMORY + q + FRESH
    keys = rng.standard_normal((n, 3))
    outputs = keys[:, :1]
    return split(Rows(keys, outputs, outputs + noises(rng, keys, noise)), q)


def noises(rng: Random, keys: Floats, name: str) -> Floats:
    """Return noise (n, 1) of mean 0.

    Its size depends on the key where it is unequal: from a third to three times the median for
    nearly all rows, so that its kurtosis is 8, or the squares of that, and 164.
    """
    n = len(keys)
    if name == "normal":
        return rng.standard_normal((n, 1))
    if "unequal" in name:
        return np.exp(keys[:, 1:2] / (2 if name == "unequal" else 1)) * rng.standard_normal((n, 1))
    if name == "t":
        return rng.standard_t(2.5, (n, 1))
    return np.exp(rng.standard_normal((n, 1))) - math.exp(0.5)


# ---------------------------------------------------------------------- useful worlds


@kind("classes, weak", null=False, strength=0.6)
@kind("classes, middle", null=False, strength=1.2)
@kind("classes, strong", null=False, strength=2.5)
def useful_classes(
    rng: Random, number: int, strength: float, sizes: tuple[int, ...] = SIZES
) -> World:
    """An effect of place, which the base does not know, moves one class of four."""
    q = sizes[number % len(sizes)]
    n = MEMORY + q + FRESH
    keys, logits = rng.standard_normal((n, 3)), 1.5 * rng.standard_normal((n, 4))
    effect = strength * np.sign(np.sin(2 * keys[:, :1])) * np.eye(4)[0]
    return split(Rows(keys, logits, classes(rng, logits + effect)), q)


@kind("near the ceiling, weak", null=False, curved=0.02)
@kind("near the ceiling, middle", null=False, curved=0.04)
@kind("near the ceiling, strong", null=False, curved=0.08)
def useful_ceiling(rng: Random, number: int, curved: float) -> World:
    """The base is linear, sure of itself and right in 97 % of the rows; borders are curved."""
    q = SIZES[number % len(SIZES)]
    keys = rng.standard_normal((MEMORY + q + FRESH, 2))
    angles = 2 * np.pi * np.arange(6) / 6
    logits = 120 * keys @ np.stack([np.cos(angles), np.sin(angles)])
    bends = 120 * curved * np.sin(3 * keys @ rng.standard_normal((2, 6)))
    return split(Rows(keys, logits, classes(rng, logits + bends)), q)


@kind("RMSE, weak", null=False, strength=0.3)
@kind("RMSE, middle", null=False, strength=0.5)
@kind("RMSE, strong", null=False, strength=1.0)
@kind("RMSE, unequal noise, weak", null=False, strength=0.3, noise="unequal")
@kind("RMSE, unequal noise, middle", null=False, strength=0.6, noise="unequal")
@kind("RMSE, unequal noise, strong", null=False, strength=1.2, noise="unequal")
@kind("RMSE, Student t 2.5, middle", null=False, strength=1.0, noise="t")
def useful_values(rng: Random, number: int, strength: float, noise: str = "normal") -> World:
    """The base does not know an effect of place."""
    q = SIZES[number % len(SIZES)]
    n = MEMORY + q + FRESH
    keys = rng.standard_normal((n, 3))
    targets = keys[:, :1] + strength * np.sin(2 * keys[:, 2:]) + noises(rng, keys, noise)
    return split(Rows(keys, keys[:, :1], targets), q)


# ---------------------------------------------------------------------- one draw


def losses_of_base(task: str, settings: resmem.Settings, rows: Rows) -> Floats:
    """Return each row's log-loss or squared error of the base model at this temperature."""
    if task == "regression":
        errors: Floats = np.square(rows.outputs - rows.targets)[:, 0]
        return errors
    logits = rows.outputs / settings.temperature
    logits = logits - logits.max(axis=1, keepdims=True)
    chosen = logits[np.arange(len(rows)), rows.targets]
    return np.log(np.exp(logits).sum(axis=1)) - chosen


def losses(mem: resmem.Memory, settings: resmem.Settings, rows: Rows) -> Floats:
    """Return each row's log-loss or squared error under these settings."""
    if settings.strength == 0:
        return losses_of_base(mem.task, settings, rows)
    mem.use(settings)
    if mem.task == "regression":
        errors: Floats = np.square(mem.correct(*list(rows)[:2], threads=1) - rows.targets)[:, 0]
        return errors
    chances = mem.predict_proba(*list(rows)[:2], threads=1)[np.arange(len(rows)), rows.targets]
    return -np.log(np.maximum(chances, np.finfo(np.float64).tiny))


def score(task: str, values: Floats) -> float:
    """Return the log-loss or the RMSE."""
    return float(values.mean() if task == "classification" else math.sqrt(values.mean()))


def influences(task: str, values: Floats) -> Floats:
    """Return what each row adds to the score, whose mean it is to first order."""
    if task == "classification":
        return values
    root = math.sqrt(values.mean())
    return root + (values - root * root) / (2 * root)


def measured(name: str, number: int, final: bool) -> dict[str, Any]:
    """Tune in one world, and return what was decided and what fresh rows say of it."""
    world = KINDS[name].draw(number, final)
    options = {} if world.task == "classification" else {"output_kind": "values"}
    mem = resmem.Memory(world.task, **options).fit(*world.memory)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = mem.tune(*world.validation, apply=False, threads=1, **world.told)
    seconds = time.perf_counter() - start
    given = replace(result.base, temperature=1.0, strength=0.0)
    every = {"given": given, "base": result.base, "candidate": result.candidate}
    fresh = {label: losses(mem, settings, world.fresh) for label, settings in every.items()}
    kept = result.best == result.candidate
    fresh["applied"] = fresh["candidate"] if kept else losses(mem, result.best, world.fresh)
    scores = {label: score(world.task, values) for label, values in fresh.items()}
    paired = influences(world.task, fresh["base"]) - influences(world.task, fresh["candidate"])
    return {
        "kind": name,
        "number": number,
        "final": final,
        "rows": len(world.validation),
        "kept": bool(result.best.strength != 0),
        "off": bool(result.candidate.strength == 0),
        "gain": list(result.gain)[:3],
        "local": list(result.local_gain)[:3],
        "temperature_gain": list(result.temperature_gain)[:3],
        "scores": scores,
        "true_gain": scores["base"] - scores["candidate"],
        "error": float(paired.std()) / math.sqrt(len(world.validation)),
        "harm": scores["applied"] / scores["given"] - 1,
        "notes": list(result.notes),
        "seconds": seconds,
    }


# ---------------------------------------------------------------------- the run


def read(path: Path) -> list[dict[str, Any]]:
    """Return the draws in a file; a line that was cut off is left out."""
    draws = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            draws.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return draws


def run(path: Path, names: list[str], draws: int, final: bool, jobs: int) -> None:
    """Measure all draws that the file does not hold yet."""
    done = {(d["kind"], d["number"], d["final"]) for d in read(path)}
    tasks = [(n, i, final) for i in range(draws) for n in names if (n, i, final) not in done]
    with path.open("a") as out, ProcessPoolExecutor(jobs) as pool:
        waiting = [pool.submit(measured, *task) for task in tasks]
        for i, each in enumerate(as_completed(waiting)):
            out.write(json.dumps(each.result()) + "\n")
            out.flush()
            if sys.stderr.isatty():
                print(f"\r{i + 1}/{len(tasks)}", end="", file=sys.stderr)


# ---------------------------------------------------------------------- the table


def wilson(hits: int, of: int) -> str:
    """Return a share in percent with its 95 % interval by Wilson's score."""
    if not of:
        return "-"
    z, share = 1.96, hits / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return f"{100 * share:.1f} % [{100 * low:.1f}, {100 * high:.1f}] ({hits}/{of})"


def share(draws: list[dict[str, Any]], holds: Callable[[dict[str, Any]], bool]) -> str:
    """Return the share of draws for which something holds."""
    return wilson(sum(map(holds, draws)), len(draws))


def strong(draws: list[dict[str, Any]], least: float) -> list[dict[str, Any]]:
    """Return the draws whose true gain is at least so many standard errors."""
    return [d for d in draws if not d["off"] and d["true_gain"] >= least * d["error"] > 0]


def below(draw: dict[str, Any]) -> bool:
    """Return whether the true gain lies below the interval."""
    return bool(draw["true_gain"] < draw["gain"][1])


def kept(draw: dict[str, Any]) -> bool:
    """Return whether the memory was kept."""
    return bool(draw["kept"])


def by_kind(draws: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a row of the table for each kind."""
    parts = defaultdict(list)
    for draw in draws:
        parts[draw["kind"]].append(draw)
    yield "| kind | kept | kept, true gain of 3 errors | true gain below the interval | mean harm |"
    yield "|---|---|---|---|---|"
    for each in KINDS.values():
        some = parts[each.name]
        if some:
            harm = np.mean([max(d["harm"], 0) for d in some])
            cells = share(some, kept), share(strong(some, 3), kept), share(some, below)
            yield f"| {each.name} | " + " | ".join(cells) + f" | {100 * harm:.2f} % |"


def by_rows(draws: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a row for each number of validation rows, beside a judge who knows the truth."""
    yield "| rows | kept | kept by a judge who knows the truth | gain had of the gain there was |"
    yield "|---|---|---|---|"
    for rows in SIZES:
        some = [d for d in draws if d["rows"] == rows]
        truly = [d for d in some if d["true_gain"] > 0]
        # Gains are in units of the base's score, so that kinds can be added.
        there = sum(d["true_gain"] / d["scores"]["base"] for d in truly)
        had = sum(d["true_gain"] / d["scores"]["base"] for d in some if d["kept"])
        part = f"{100 * had / there:.0f} %" if there else "-"
        knows = share(some, lambda d: d["true_gain"] > 0)
        yield f"| {rows:,} | {share(some, kept)} | {knows} | {part} |"


def report(draws: list[dict[str, Any]]) -> str:
    """Return the tables as text."""
    null = [d for d in draws if KINDS[d["kind"]].null]
    useful = [d for d in draws if not KINDS[d["kind"]].null]
    own = [d for d in draws if KINDS[d["kind"]].independent and not d["off"]]
    rest = [d for d in draws if not KINDS[d["kind"]].independent and not d["off"]]
    harm = 100 * np.mean([max(d["harm"], 0) for d in null]) if null else math.nan
    lines = [
        *by_kind(draws), "", *by_rows(useful), "",
        f"null, kept: {share(null, kept)}",
        f"null, mean harm: {harm:.3f} %",
        f"null, harmed by more than 0.5 %: {share(null, lambda d: d['harm'] > 0.005)}",
        f"useful, true gain of 3 errors, kept: {share(strong(useful, 3), kept)}",
        f"useful, true gain of 5 errors, kept: {share(strong(useful, 5), kept)}",
        "useful, true gain of 3 to 4 errors, kept: "
        + share([d for d in strong(useful, 3) if d["true_gain"] < 4 * d["error"]], kept),
        f"true gain below the interval, independent rows: {share(own, below)}",
        f"true gain below the interval, other rows: {share(rest, below)}",
        f"seconds of tuning, mean: {np.mean([d['seconds'] for d in draws]):.3f}",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    """Run or report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--final", action="store_true", help="draw from the final seeds")
    parser.add_argument("--draws", type=int, default=20, help="draws of each kind")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--kinds", default="", help="only kinds whose name holds this text")
    parser.add_argument("--out", type=Path, help="file of draws, default by the seeds")
    parser.add_argument("--report", action="store_true", help="only print the table of the file")
    options = parser.parse_args()
    name = "judge-final.jsonl" if options.final else "judge-development.jsonl"
    path = options.out or Path(__file__).parent / ".cache" / name
    path.parent.mkdir(exist_ok=True)
    names = [name for name in KINDS if options.kinds in name]
    if not options.report:
        run(path, names, options.draws, options.final, options.jobs)
    mine = [d for d in read(path) if d["final"] == options.final and d["kind"] in names]
    print(report(mine))


if __name__ == "__main__":
    main()
