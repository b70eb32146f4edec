"""Searches and corrections on a CUDA device: ``python benchmarks/bench_cuda.py``.

Beside them stand PyTorch, flashlib, FAISS and cuVS, where they are installed.

Rows are on the device and coded, as a memory has them, before the clock starts; to bring and code
them is timed apart. Each call runs from an idle device with cold caches until its results are
there. Of each workload some queries are searched on the CPU as well: the exit status is 1 if any of
them has other ids or bits on the device. Times never fail; the bars beside them are for an H100.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import resmem
from data import SHAPES, AnyArray, Shape
from device_corrections import BARS, Corrected, corrected
from device_corrections import lines_of as lines_of_correction
from device_model import milliseconds
from device_peers import PEERS
from device_places import InHostMemory, OnDevice, Place, place_for, seconds_of
from resmem._devices import engine
from resmem._devices.choice import choose
from resmem._devices.device import Device

METRIC = "euclidean"
CHECKED = 8  # queries that the CPU searches as well
SECONDS = 4.0  # for the rounds of a workload
PEER_BYTES = 12 * 2**30  # of the device, for scores and what selects from them


@dataclass(frozen=True)
class Workload:
    """Queries of a shape; ``bar`` is in milliseconds on an H100."""

    name: str
    shape: Shape
    queries: int
    k: int
    bar: float | None


@dataclass
class Outcome:
    """What came of a workload; all times are in milliseconds."""

    workload: Workload
    taken: dict[str, list[float]]  # of each contender, by rounds
    recall: dict[str, float]  # of the peers, on the checked queries
    absent: dict[str, str]
    wrong: int  # of the checked queries
    coding: float
    counted: dict[str, int]
    model: dict[str, float]
    corrected: Corrected | None


def workloads(tiny: bool) -> list[Workload]:
    """Return all workloads; those of one shape follow one another."""
    if tiny:
        shape = Shape("tiny", 1200, 32, 20, (5,), 10, quick_queries=20, seed=1)
        return [
            Workload("tiny", shape, 20, 5, None),
            Workload("tiny, one query", shape, 1, 5, None),
        ]
    large = Shape("10M", 10_000_000, 128, 1_000, (10,), 10, quick_queries=100, seed=112)
    return [
        Workload("A", SHAPES["A"], 10_000, 53, 0.9),
        Workload("B", SHAPES["B"], 10_000, 100, 5.0),
        Workload("C", SHAPES["C"], 1_000, 80, 1.6),
        Workload("D", SHAPES["D"], 1_000, 10, 1.1),
        Workload("D, k = 100", SHAPES["D"], 1_000, 100, 1.1),
        Workload("D, one query", SHAPES["D"], 1, 10, 0.25),
        Workload("F", SHAPES["F"], 256, 64, 0.8),
        Workload("10M", large, 1_000, 10, 8.0),
    ]


class Rows:
    """The rows of a shape on a device, coded, and queries for them."""

    def __init__(self, device: Device, place: Place, shape: Shape) -> None:
        self.device, self.place = device, place
        self.rows, self.queries = place.clustered(shape)
        self.on_host: AnyArray = place.on_host(self.rows)
        for _ in range(2):  # The first time loads the kernels.
            self.kept = engine.kept_rows(device, "float32", shape.dim, METRIC)
            place.wait()
            start = time.perf_counter()
            self.kept.extend(place.readable(self.rows))
            place.wait()
            self.coding = 1e3 * (time.perf_counter() - start)


class Search:
    """The search of a workload."""

    def __init__(self, rows: Rows, workload: Workload) -> None:
        place, shape = rows.place, (workload.queries, workload.k)
        self._rows, self._k = rows, workload.k
        self.queries = rows.queries[: workload.queries]
        self.values, self.ids = (place.empty(shape, dtype) for dtype in ("float64", "int64"))
        self._arrays = [place.readable(each) for each in (self.queries, self.values, self.ids)]
        self._segments = [engine.Placement(rows.kept, len(rows.kept), 0)]

    def run(self) -> None:
        """Search as a memory does."""
        queries, values, ids = self._arrays
        call = engine.Call(self._rows.device)
        engine.search(call, queries, self._segments, self._k, METRIC, {}, values, ids)

    def counted(self) -> dict[str, int]:
        """Return what really runs."""
        queries, values, ids = self._arrays
        counted: dict[str, int] = self._rows.device.extension.search(
            queries, self._segments, self._k, METRIC, values=values, ids=ids,
            device=self._rows.device.ordinal, counted=True,
        )  # fmt: skip
        return counted

    def sample(self) -> AnyArray:
        """Return the numbers of the queries that are checked."""
        return np.unique(np.linspace(0, len(self.queries) - 1, CHECKED).astype(np.int64))

    def wanted(self) -> tuple[AnyArray, AnyArray]:
        """Return what the CPU finds for the sample."""
        queries = self._rows.place.on_host(self.queries)[self.sample()]
        found: tuple[AnyArray, AnyArray] = resmem.search(
            queries, self._rows.on_host, self._k, METRIC, device="cpu"
        )
        return found

    def wrong(self, wanted: tuple[AnyArray, AnyArray]) -> int:
        """Return how many queries of the sample have other ids or bits on the device."""
        same = np.ones(len(wanted[0]), dtype=np.bool_)
        for array, right in zip((self.values, self.ids), wanted, strict=True):
            found = self._rows.place.on_host(array)[self.sample()]
            same &= (found.view(np.int64) == right.view(np.int64)).all(axis=1)
        return int((~same).sum())


class Peers:
    """The peers that take part in a workload, and why the others do not."""

    def __init__(self, rows: Rows, search: Search, wanted: AnyArray) -> None:
        self.calls: dict[str, Callable[[], Any]] = {}
        self.recall: dict[str, float] = {}
        self.absent: dict[str, str] = {}
        for name, peer in PEERS.items():
            if isinstance(rows.place, InHostMemory):
                self.absent[name] = "there is no PyTorch that knows the device"
                continue
            try:
                call = peer(rows.place, rows.rows, search.queries, wanted.shape[1])
                ids = call()
                if ids is not None:
                    found = rows.place.on_host(ids)[search.sample()]
                    self.recall[name] = recall(found, wanted)
            except Exception as error:  # Whatever a peer fails with, it is no failure of ours.
                self.absent[name] = f"{type(error).__name__}: {error}".splitlines()[0][:100]
            else:
                self.calls[name] = call


def recall(found: AnyArray, wanted: AnyArray) -> float:
    """Return the share of the wanted ids that were found."""
    return float(np.mean([np.isin(w, f).mean() for w, f in zip(wanted, found, strict=True)]))


def outcome_of(rows: Rows, workload: Workload) -> Outcome:
    """Check, count and time the search of a workload, and time its peers."""
    search = Search(rows, workload)
    counted, wanted = search.counted(), search.wanted()
    search.run()
    wrong, peers = search.wrong(wanted), Peers(rows, search, wanted[1])
    seconds = seconds_of({"resmem": search.run, **peers.calls}, rows.place, SECONDS)
    correction = None
    if workload.name in (*BARS, "tiny"):
        correction = corrected(
            str(rows.device), rows.place, workload.shape, rows.on_host, search.queries, workload.k,
            SECONDS,
        )  # fmt: skip
    return Outcome(
        workload=workload,
        taken={name: [1e3 * each for each in rounds] for name, rounds in seconds.items()},
        recall=peers.recall,
        absent=peers.absent,
        wrong=wrong,
        coding=rows.coding,
        counted=counted,
        model=milliseconds(len(rows.kept), workload.shape.dim, workload.queries, counted),
        corrected=correction,
    )


# ---- what is run, and what is left out -----------------------------------------------------------


def left_out(workload: Workload, device: Device, place: Place, seconds: float) -> str:
    """Return why a workload is not run in the seconds that are left, or an empty string."""
    size = 4 * workload.shape.rows * workload.shape.dim
    needed = 4 + place.seconds_per_byte * size + SECONDS
    if seconds < needed:
        return f"{seconds:.0f} s are left, and it may take {needed:.0f} s"
    if isinstance(place, OnDevice):
        free = device.extension.free_memory(device.ordinal) / 2**30
        wanted = (3 * size + PEER_BYTES) / 2**30
        if free < wanted:
            return f"{free:.0f} GiB of the device are free, and it may take {wanted:.0f}"
    return ""


def outcomes(
    chosen: list[Workload], device: Device, place: Place, end: float
) -> Iterator[Outcome | str]:
    """Yield what came of each workload, or why it was left out."""
    held: Rows | None = None
    shape: Shape | None = None
    for workload in chosen:
        if workload.shape is not shape:
            held, shape = None, None
            if reason := left_out(workload, device, place, end - time.monotonic()):
                yield f"{workload.name} left out: {reason}"
                continue
            held, shape = Rows(device, place, workload.shape), workload.shape
        elif end - time.monotonic() < SECONDS:
            yield f"{workload.name} left out: no time is left"
            continue
        assert held is not None
        yield outcome_of(held, workload)


# ---- what is printed -----------------------------------------------------------------------------


def described(device: Device, place: Place) -> dict[str, Any]:
    """Return the device and the versions of everything that takes part."""
    driver, runtime = device.extension.versions()
    found = {"python": sys.version.split()[0], "resmem": resmem.__version__}
    for name in ("numpy", "torch", "triton", "flashlib", "faiss-gpu-cu12", "cuvs-cu12"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return {
        "device": {"name": str(device), **device.extension.properties(device.ordinal)},
        "versions": {**found, "driver": driver, "runtime": runtime},
        "arrays": place.note,
        "timed_on_a_device": device.kind == "cuda",
    }


def lines_of(outcome: Outcome) -> list[str]:
    """Return the lines of one workload."""
    work, shape = outcome.workload, outcome.workload.shape
    lines = [
        f"{work.name}: {shape.rows:,} x {shape.dim}, {work.queries:,} queries, k = {work.k}; "
        f"rows brought and coded in {outcome.coding:.2f} ms"
    ]
    own = median(outcome.taken["resmem"])
    for name, taken in outcome.taken.items():
        note = f"recall {outcome.recall[name]:.4f}" if name in outcome.recall else ""
        if name == "resmem":
            note = "bits of the CPU" if not outcome.wrong else f"{outcome.wrong} QUERIES WRONG"
            if work.bar is not None:
                verdict = "passed" if own <= work.bar else "MISSED"
                note += f"; bar {work.bar} ms: {verdict}"
        spread = f"({min(taken):.3f} .. {max(taken):.3f}, {len(taken)} rounds)"
        ratio = f"{median(taken) / own:6.2f} x"
        lines.append(f"  {name:20}{median(taken):10.3f} ms {spread:36}{ratio}  {note}".rstrip())
    lines += [f"  {name:20}left out: {reason}" for name, reason in outcome.absent.items()]
    terms = ", ".join(f"{name} {time:.3f}" for name, time in outcome.model.items())
    largest = max(outcome.model, key=lambda name: outcome.model[name])
    counted = ", ".join(f"{name} {count:,}" for name, count in outcome.counted.items())
    lines += [f"  model of an H100, ms: {terms}; most: {largest}", f"  {counted}"]
    return lines if outcome.corrected is None else lines + lines_of_correction(outcome.corrected)


def main() -> int:
    """Run the workloads; see the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0", help="such as cuda:0 or cuda:emulated")
    parser.add_argument("--seconds", type=float, default=300, help="for all of it (default 300)")
    parser.add_argument("--shapes", default="", help="of A, B, C, D, F and 10M, by commas")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape alone, for the emulation")
    parser.add_argument("--json", type=Path, help="where to write what was measured")
    given = parser.parse_args()
    end = time.monotonic() + given.seconds
    device = choose(given.device, {})
    place = place_for(device)
    report: dict[str, Any] = {**described(device, place), "outcomes": [], "left_out": []}
    print(json.dumps({name: report[name] for name in ("device", "versions")}))
    print(place.note if device.kind == "cuda" else "an emulation: nothing was timed on a device")
    wanted = set(filter(None, given.shapes.split(",")))
    chosen = [w for w in workloads(given.tiny) if not wanted or w.shape.name in wanted]
    for outcome in outcomes(chosen, device, place, end):
        if isinstance(outcome, str):
            report["left_out"].append(outcome)
            print(outcome, flush=True)
        else:
            report["outcomes"].append(asdict(outcome))
            print("\n".join(lines_of(outcome)), flush=True)
        if given.json:  # It is written each time, so that it is there if this is stopped.
            given.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    wrong = sum(
        outcome["wrong"] + (outcome["corrected"] or {"wrong": 0})["wrong"]
        for outcome in report["outcomes"]
    )
    print(
        f"{len(report['outcomes'])} workloads, {len(report['left_out'])} left out; "
        f"checked queries that differ from the CPU: {wrong}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
