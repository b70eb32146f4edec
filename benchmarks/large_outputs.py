"""A memory over 50,000 outputs and 200,000 rows: time, peak resident memory, error.

``python benchmarks/large_outputs.py`` writes the base model's outputs (float16, 20 GB) to a
folder that it removes again, then runs every store in a process of its own: fit from the mapped
file, save, load, and correct 1,000 queries, whole and on 100 columns each. Corrections of sampled
columns are held against a float64 reference that reads the neighbours' outputs from the file.

Seeds are fixed: the embeddings are clustered, the outputs those of a linear layer, the classes
drawn from it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

K, D, CLUSTERS, COLUMNS = 20, 64, 500, 100
STORES = {
    "sparse:32": {"store": "sparse:32"},
    "sparse:32, float16": {
        "store": "sparse:32",
        "residual_dtype": "float16",
        "key_dtype": "float16",
    },
    "head": {"store": "head"},
}


def peak() -> float:
    """Return the peak resident memory of this process in MiB, file pages included."""
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def make(folder: Path, n: int, columns: int, q: int) -> None:
    """Write embeddings, layer, classes and outputs of rows and queries."""
    rng = np.random.default_rng(20_260)
    centres = rng.standard_normal((CLUSTERS, D), dtype=np.float32) * 0.5
    weight = rng.standard_normal((columns, D), dtype=np.float32) / np.sqrt(D, dtype=np.float32)
    bias = rng.standard_normal(columns, dtype=np.float32) * np.float32(0.5)
    np.save(folder / "weight.npy", weight * np.float32(3))
    np.save(folder / "bias.npy", bias)
    weight = np.load(folder / "weight.npy")
    for name, count in (("rows", n), ("queries", q)):
        at = rng.integers(0, CLUSTERS, count)
        keys = centres[at] + rng.standard_normal((count, D), dtype=np.float32)
        labels = np.empty(count, dtype=np.int64)
        outputs = np.lib.format.open_memmap(
            folder / f"{name}_outputs.npy", "w+", np.float16, (count, columns)
        )
        for start in range(0, count, 500):
            logits = keys[start : start + 500] @ weight.T + bias
            outputs[start : start + 500] = logits
            chances = np.exp(logits - logits.max(axis=1, keepdims=True)).cumsum(axis=1)
            drawn = rng.random((len(logits), 1), dtype=np.float32) * chances[:, -1:]
            labels[start : start + 500] = (chances < drawn).sum(axis=1)
        np.save(folder / f"{name}_keys.npy", keys)
        np.save(folder / f"{name}_labels.npy", labels)


class Reference:
    """Corrections on some columns, dense and in float64, from the base model's own outputs."""

    def __init__(self, folder: Path, head: bool) -> None:
        self.labels = np.load(folder / "rows_labels.npy")
        self.outputs = np.load(folder / "rows_outputs.npy", mmap_mode="r")
        self.layer = None
        if head:
            self.keys = np.load(folder / "rows_keys.npy", mmap_mode="r")
            parts = (np.load(folder / f"{part}.npy") for part in ("weight", "bias"))
            self.layer = tuple(part.astype(np.float64) for part in parts)

    def residual(self, row: int, columns: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the residual of one row."""
        logits = self.outputs[row].astype(np.float64)
        if self.layer is not None:
            logits = self.layer[0] @ self.keys[row].astype(np.float64) + self.layer[1]
        exps = np.exp(logits - logits.max())
        return (columns == self.labels[row]) - exps[columns] / exps.sum()

    def correction(self, ids, distances, sigma, columns):  # type: ignore[no-untyped-def]
        """Return the correction of one query."""
        weights = np.exp((distances[0] - distances) / sigma)
        weights /= weights.sum()
        return sum(w * self.residual(row, columns) for w, row in zip(weights, ids, strict=True))


def run(folder: Path, name: str) -> dict[str, object]:
    """Measure one store in this process."""
    import resmem

    options, stages = dict(STORES[name]), {}
    start = time.perf_counter()

    def stage(what: str) -> None:
        nonlocal start
        stages[what] = round(time.perf_counter() - start, 2)
        start = time.perf_counter()

    given = {part: np.load(folder / f"rows_{part}.npy", mmap_mode="r") for part in
             ("keys", "labels", "outputs")}  # fmt: skip
    if name == "head":
        options["head"] = (np.load(folder / "weight.npy"), np.load(folder / "bias.npy"))
    mem = resmem.Memory(k=K, **options)
    mem.fit(given["keys"], None if name == "head" else given["outputs"], given["labels"])
    stage("fit")
    path = folder / "memory.resmem"
    mem.save(path)
    stage("save")
    mem = resmem.Memory.load(path)
    stage("load")
    keys = np.load(folder / "queries_keys.npy")
    outputs = np.load(folder / "queries_outputs.npy", mmap_mode="r")
    if name == "head":
        keys, outputs = keys[:100], outputs[:100]
    chosen = np.random.default_rng(1).integers(0, outputs.shape[1], (len(keys), COLUMNS))
    corrected = mem.correct(keys, outputs)
    stage(f"correct {len(keys)}")
    few = mem.correct(keys, outputs, columns=chosen)
    stage(f"correct {len(keys)}, {COLUMNS} columns")
    assert few.tobytes() == np.take_along_axis(corrected, chosen, axis=1).tobytes()
    used = peak()

    distances, ids = mem.kneighbors(keys[:20])
    correction = mem.correction(keys[:20], columns=chosen[:20])
    # Most of a correction is in the columns of the neighbours' classes.
    labels = np.load(folder / "rows_labels.npy")
    near = labels[ids][:, :10]
    correction = np.hstack([correction, mem.correction(keys[:20], columns=near)])
    columns = np.hstack([chosen[:20], near])
    reference = Reference(folder, name == "head")
    exact = np.array([
        reference.correction(near, apart, mem.sigma_, c)
        for near, apart, c in zip(ids, distances, columns, strict=True)
    ])  # fmt: skip
    return {
        "seconds": stages,
        "peak MiB": round(used),
        "memory MiB": round(mem.nbytes / 2**20),
        "file MiB": round(path.stat().st_size / 2**20),
        "largest correction": float(np.abs(exact).max()),
        "largest error": float(np.abs(correction - exact).max()),
        "residual_error_": mem.residual_error_,
    }


def main() -> None:
    """Make the data, run every store and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--columns", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--only", choices=STORES, action="append")
    parser.add_argument("--data", type=Path, help="where data lie, or are made and kept")
    parser.add_argument("--run", choices=STORES, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.run:
        print(json.dumps(run(chosen.data, chosen.run)))
        return
    with tempfile.TemporaryDirectory(prefix="resmem-") as temporary:
        folder = chosen.data or Path(temporary)
        folder.mkdir(exist_ok=True)
        if not (folder / "queries_labels.npy").exists():
            start = time.perf_counter()
            make(folder, chosen.rows, chosen.columns, chosen.queries)
            print(f"data made in {time.perf_counter() - start:.0f} s", flush=True)
        for name in chosen.only or STORES:
            command = [sys.executable, __file__, "--data", str(folder), "--run", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True,
                                  env={**os.environ, "PYTHONUNBUFFERED": "1"})  # fmt: skip
            print(name)
            for what, value in json.loads(done.stdout).items():
                print(f"  {what:<20} {value}", flush=True)


if __name__ == "__main__":
    main()
