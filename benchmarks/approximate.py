"""What approximate search gains over exact search: ``python benchmarks/approximate.py``.

Fashion-MNIST (B), its 10,000 queries in one batch. Approximate libraries build an index with every
setting of a small grid and search it with growing effort until they find ``RECALL`` of the true
neighbours; the fastest setting that does is reported, as the median of three searches. ``resmem``
is ``Memory.kneighbors`` after ``prepare``, exact, which is checked. Every library runs in a process
of its own.

SVS compresses vectors on the processors of one maker only, so it searches them uncompressed here.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, Protocol

import numpy as np

import data
import machine
import peers
import reference
from data import AnyArray, Float32
from report import aligned
from worker import THREAD_VARIABLES

SHAPE = data.SHAPES["B"]
RECALL = 0.99
ROUNDS = 3
QUICK = replace(SHAPE, rows=20_000, queries=1_000)
EFFORTS = (
    10,
    12,
    15,
    20,
    25,
    30,
    40,
    50,
    60,
    80,
    100,
    120,
    150,
    200,
    300,
    400,
    600,
)  # efforts of a search in a graph
LEAVES = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)  # partitions that a search reads
EXPANSION = 200  # effort of building a graph

Settings = dict[str, Any]
Ladder = list[Settings]  # settings of searches, by growing effort


def grid(**values: tuple[Any, ...]) -> list[Settings]:
    """Return all combinations of the values."""
    return [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]


# ---------------------------------------------------------------------- contenders


class Contender(Protocol):
    """A library; ``builds`` and each ladder are tried in order, and ``search`` returns ids."""

    module: ClassVar[str]
    package: ClassVar[str]
    builds: ClassVar[list[Settings]]

    def __init__(self, threads: int) -> None: ...
    def build(self, rows: Float32, **settings: Any) -> None: ...
    def ladders(self, k: int) -> list[Ladder]: ...
    def search(self, queries: Float32, k: int, **settings: Any) -> AnyArray: ...


class Resmem:
    """Exact search, which has no settings."""

    module, package = "resmem", "residual-memory"
    builds = grid()

    def __init__(self, threads: int) -> None:
        self.peer = peers.Resmem(threads)

    def build(self, rows: Float32) -> None:
        self.peer.load(rows)
        self.peer.search("resmem", rows[:1], SHAPE.ks[0])  # builds the index

    def ladders(self, k: int) -> list[Ladder]:
        return [grid()]

    def search(self, queries: Float32, k: int) -> AnyArray:
        return self.peer.search("resmem", queries, k)[1]


class Graph:
    """Any graph; its effort is at least ``k``."""

    builds = grid(degree=(16, 32))

    def ladders(self, k: int) -> list[Ladder]:
        return [grid(effort=tuple(effort for effort in EFFORTS if effort >= k))]


class FaissIvf:
    """Partitions whose rows are read whole."""

    module, package = "faiss", "faiss-cpu"
    builds = grid(partitions=(256, 1024))
    environment = peers.FaissTuned.environment

    def __init__(self, threads: int) -> None:
        import faiss

        self.faiss = faiss
        faiss.omp_set_num_threads(threads)

    def build(self, rows: Float32, partitions: int) -> None:
        self.index = self.faiss.index_factory(rows.shape[1], f"IVF{partitions},Flat")
        self.index.train(rows)
        self.index.add(rows)

    def ladders(self, k: int) -> list[Ladder]:
        return [grid(probes=LEAVES)]

    def search(self, queries: Float32, k: int, probes: int) -> AnyArray:
        self.index.nprobe = probes
        return self.index.search(queries, k)[1]


class FaissHnsw(Graph):
    """A graph in layers."""

    module, package = "faiss", "faiss-cpu"

    def __init__(self, threads: int) -> None:
        import faiss

        self.faiss = faiss
        faiss.omp_set_num_threads(threads)

    def build(self, rows: Float32, degree: int) -> None:
        self.index = self.faiss.IndexHNSWFlat(rows.shape[1], degree)
        self.index.hnsw.efConstruction = EXPANSION
        self.index.add(rows)

    def search(self, queries: Float32, k: int, effort: int) -> AnyArray:
        self.index.hnsw.efSearch = effort
        return self.index.search(queries, k)[1]


class Hnswlib(Graph):
    """The same kind of graph, by its inventors."""

    module = package = "hnswlib"

    def __init__(self, threads: int) -> None:
        import hnswlib

        self.hnswlib, self.threads = hnswlib, threads

    def build(self, rows: Float32, degree: int) -> None:
        self.index = self.hnswlib.Index("l2", rows.shape[1])
        self.index.init_index(len(rows), ef_construction=EXPANSION, M=degree)
        self.index.set_num_threads(self.threads)
        self.index.add_items(rows)

    def search(self, queries: Float32, k: int, effort: int) -> AnyArray:
        self.index.set_ef(effort)
        return self.index.knn_query(queries, k)[0]


class Usearch(Graph):
    """The same kind of graph."""

    module = package = "usearch"

    def __init__(self, threads: int) -> None:
        from usearch.index import Index

        self.make, self.threads = Index, threads

    def build(self, rows: Float32, degree: int) -> None:
        options = {"metric": "l2sq", "dtype": "f32", "expansion_add": EXPANSION}
        self.index = self.make(ndim=rows.shape[1], connectivity=degree, **options)
        self.index.add(np.arange(len(rows)), rows, threads=self.threads)

    def search(self, queries: Float32, k: int, effort: int) -> AnyArray:
        self.index.expansion_search = effort
        return self.index.search(queries, k, threads=self.threads).keys


class Svs(Graph):
    """A flat graph (Vamana)."""

    module, package = "svs", "scalable-vs"
    builds = grid(degree=(32, 64))

    def __init__(self, threads: int) -> None:
        import svs

        self.svs, self.threads = svs, threads

    def build(self, rows: Float32, degree: int) -> None:
        parameters = self.svs.VamanaBuildParameters(
            alpha=1.2, graph_max_degree=degree, window_size=EXPANSION
        )
        distance = self.svs.DistanceType.L2
        self.index = self.svs.Vamana.build(parameters, rows, distance, num_threads=self.threads)

    def search(self, queries: Float32, k: int, effort: int) -> AnyArray:
        self.index.search_window_size = effort
        return self.index.search(queries, k)[0]


class Scann:
    """Partitions with product quantisation; the best rows are scored again exactly."""

    module = package = "scann"
    builds = grid(partitions=(256, 1024))

    def __init__(self, threads: int) -> None:
        import scann

        self.scann, self.threads = scann, threads

    def build(self, rows: Float32, partitions: int) -> None:
        builder = self.scann.scann_ops_pybind.builder(rows, 10, "squared_l2")
        builder = builder.set_n_training_threads(self.threads)
        builder = builder.tree(partitions, 10, training_sample_size=len(rows))
        builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100)
        self.searcher = builder.build()
        self.searcher.set_num_threads(self.threads)

    def ladders(self, k: int) -> list[Ladder]:
        return [grid(rescored=(times * k,), leaves=LEAVES) for times in (2, 3, 5, 10)]

    def search(self, queries: Float32, k: int, rescored: int, leaves: int) -> AnyArray:
        if self.threads == 1:
            return self.searcher.search_batched(queries, k, rescored, leaves)[0]
        return self.searcher.search_batched_parallel(queries, k, rescored, leaves)[0]


CONTENDERS: dict[str, type[Contender]] = {
    "resmem": Resmem,
    "faiss IVF-Flat": FaissIvf,
    "faiss HNSW": FaissHnsw,
    "hnswlib": Hnswlib,
    "usearch": Usearch,
    "svs Vamana": Svs,
    "ScaNN": Scann,
}


# ---------------------------------------------------------------------- one process


@dataclass(frozen=True)
class Result:
    """The figures of one index for one ``k``."""

    label: str
    k: int
    settings: Settings
    recall: float
    build: float  # seconds
    seconds: float


def race(label: str, threads: int, quick: bool, folder: Path) -> list[Result]:
    """Measure every index of one contender for every ``k``."""
    rows, queries = data.embeddings(SHAPE)
    if quick:
        rows, queries = rows[: QUICK.rows], queries[: QUICK.queries]
    contender = CONTENDERS[label](threads)
    results = []
    for built in contender.builds[: 1 if quick else None]:
        build, _ = timed(contender.build, rows, **built)
        for k in SHAPE.ks:
            if label == "resmem":
                ids = contender.search(queries, k)
                prove(ids, rows, queries, k)
                np.save(folder / f"{k}.npy", ids)
            searched, recall = climb(contender, queries, np.load(folder / f"{k}.npy"))
            runs = [timed(contender.search, queries, k, **searched)[0] for _ in range(ROUNDS)]
            settings = built | searched
            results.append(Result(label, k, settings, recall, build, median(runs)))
            print(
                f"  {label} k={k}: {median(runs):.3f} s, recall {recall:.4f}, {settings}",
                flush=True,
            )
    return results


def timed(function: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[float, Any]:
    """Return the seconds of a call and its result."""
    start = time.perf_counter()
    answer = function(*arguments, **options)
    return time.perf_counter() - start, answer


def prove(ids: AnyArray, rows: Float32, queries: Float32, k: int) -> None:
    """Compare ids with the exact ones, on a sample of the queries."""
    sample = np.linspace(0, len(queries) - 1, reference.SAMPLE).astype(np.int64)
    _, known = reference.exact(rows, queries[sample], k)
    if not np.array_equal(ids[sample], known):
        raise AssertionError(f"resmem is not exact for k={k}")


def climb(contender: Contender, queries: Float32, known: AnyArray) -> tuple[Settings, float]:
    """Return the fastest search that finds enough, else the one that finds most; its recall."""
    k = known.shape[1]
    tried = []
    for ladder in contender.ladders(k):
        for settings in ladder:
            seconds, ids = timed(contender.search, queries, k, **settings)
            recall = reference.recall(ids, known)
            enough = recall >= RECALL
            tried.append((enough, -seconds if enough else recall, recall, settings))
            if enough:
                break
    *_, recall, settings = max(tried, key=lambda each: each[:2])
    return settings, recall


# ---------------------------------------------------------------------- all of them


def run(label: str, threads: int, quick: bool, folder: Path) -> list[Result]:
    """Run one contender in its own process; return nothing if it cannot take part."""
    contender = CONTENDERS[label]
    if importlib.util.find_spec(contender.module) is None:
        print(f"  {label} left out: {contender.package} is not installed")
        return []
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads]))
    program = [sys.executable, __file__, "--run", label, "--threads", str(threads)]
    command = ["taskset", "--cpu-list", cores, *program, "--folder", str(folder)]
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
    environment |= getattr(contender, "environment", {})
    done = subprocess.run(command + ["--quick"] * quick, env=environment, check=label == "resmem")
    if done.returncode:
        print(f"  {label} left out: exit code {done.returncode}")
        return []
    stored = json.loads((folder / f"{label}.json").read_text())
    return [Result(**each) for each in stored]


def table(results: list[Result], k: int, queries: int) -> list[str]:
    """Return a table with the best index and search of every contender."""
    title = ("", "queries/s", "/ resmem", "recall", "build", "settings")
    lines: list[tuple[str, ...]] = [title]
    pace = 1.0
    for label in CONTENDERS:
        found = [result for result in results if (result.label, result.k) == (label, k)]
        if not found:
            continue
        best = min(found, key=lambda result: (result.recall < RECALL, result.seconds))
        pace = best.seconds if label == "resmem" else pace
        settings = " ".join(f"{name}={value}" for name, value in best.settings.items()) or "-"
        recall = f"{best.recall:.4f}" + " (too low)" * (best.recall < RECALL)
        rate = f"{queries / best.seconds:,.0f}", f"{pace / best.seconds:.2f}"
        lines.append((label, *rate, recall, f"{best.build:.1f} s", settings))
    return aligned(lines)


def main() -> int:
    """Run every contender, resmem first, since its neighbours are what others should find."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="default 2")
    parser.add_argument("--only", choices=CONTENDERS, action="append", help="beside resmem")
    parser.add_argument("--quick", action="store_true", help="fewer rows, queries and settings")
    parser.add_argument("--run", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.run:
        results = race(chosen.run, chosen.threads, chosen.quick, chosen.folder)
        stored = json.dumps([asdict(result) for result in results])
        (chosen.folder / f"{chosen.run}.json").write_text(stored)
        return 0
    if why := data.unavailable(SHAPE):
        print(f"shape {SHAPE.name} left out: {why}")
        return 1
    print(machine.unset_blas_variables())
    print(f"{machine.processor()[0]}; load average {os.getloadavg()[0]:.2f}")
    packages = dict.fromkeys(contender.package for contender in CONTENDERS.values())
    print(", ".join(f"{package} {machine.version(package)}" for package in packages))
    data.embeddings(SHAPE, mmap=True)
    others = [label for label in chosen.only or CONTENDERS if label != "resmem"]
    with tempfile.TemporaryDirectory() as folder:
        options = chosen.threads, chosen.quick, Path(folder)
        results = run("resmem", *options)
        if not results:
            return 1
        for label in others:
            results += run(label, *options)
    shape = QUICK if chosen.quick else SHAPE
    for k in shape.ks:
        print(
            f"\n{shape} q={shape.queries:,} k={k}, {chosen.threads} thread(s), recall >= {RECALL}"
        )
        print("\n".join(table(results, k, shape.queries)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
