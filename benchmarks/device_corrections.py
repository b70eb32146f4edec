"""Whole corrections on a CUDA device, for ``bench_cuda.py``.

A memory on the device corrects the outputs of queries: base output, search, weights and weighted
residuals. Beside it stand the search alone and what PyTorch does. Queries and outputs lie on the
device if PyTorch is there, and so do the results. Of each workload some queries are corrected on
the CPU as well. The bar is a ratio: how much longer than the search alone a correction may take on
an H100.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

import data
import resmem
from data import SIGMA, AnyArray, Shape
from device_places import InHostMemory, Place, seconds_of

CHECKED = 8  # queries that the CPU corrects as well
GATHERED = 2**28  # residuals that PyTorch gathers at a time, 1 GiB
BARS = {"A": 1.5, "C": 1.2}  # of the time of the search alone


@dataclass
class Corrected:
    """What came of a workload; all times are in milliseconds."""

    shape: str
    queries: int
    k: int
    classes: int
    taken: dict[str, list[float]]  # of each contender, by rounds
    bar: float | None
    wrong: int  # of the checked queries

    @property
    def ratio(self) -> float:
        """How many times as long as the search a correction takes."""
        return median(self.taken["correct"]) / median(self.taken["search"])


class Correction:
    """The correction of the queries of a shape by all of its rows."""

    def __init__(
        self, device: str, place: Place, shape: Shape, rows: AnyArray, queries: Any, k: int
    ) -> None:
        self._place, self._shape, self._k = place, shape, k
        outputs, targets = data.logits(shape, len(rows), 0)
        self.memory = resmem.Memory("classification", "logits", k=k, sigma=SIGMA)
        self.memory.fit(rows, outputs, targets).to(device)
        self._queries = queries
        self._on_host = data.logits(shape, len(queries), 1)[0]
        self._outputs = self._on_host
        if not isinstance(place, InHostMemory):
            self._outputs = place.torch.from_numpy(self._on_host).to(device)
            self._residuals = place.torch.from_numpy(_residuals(outputs, targets)).to(device)
            self._rows = place.torch.from_numpy(rows).to(device)

    def contenders(self) -> Mapping[str, Callable[[], Any]]:
        """Return what is timed."""
        calls: dict[str, Callable[[], Any]] = {
            "search": lambda: self.memory.kneighbors(self._queries),
            "correct": self.correct,
        }
        if not isinstance(self._place, InHostMemory):
            calls["torch float32"] = lambda: self._by_torch("highest")
            calls["torch TF32"] = lambda: self._by_torch("high")
        return calls

    def correct(self) -> Any:
        """Correct all queries."""
        return self.memory.correct(self._queries, self._outputs)

    def wrong(self) -> int:
        """Return how many queries of a sample get other bits on the device than on the CPU."""
        sample = np.unique(np.linspace(0, len(self._queries) - 1, CHECKED).astype(np.int64))
        found = self._place.on_host(self.correct())[sample]
        queries = self._place.on_host(self._queries)[sample]
        device = self.memory.device
        wanted = self.memory.to("cpu").correct(queries, self._on_host[sample])
        self.memory.to(device)
        return int((found.view(np.int64) != wanted.view(np.int64)).any(axis=1).sum())

    def _by_torch(self, precision: str) -> Any:
        """Correct with products, a selection, and gathered residuals, in parts that fit."""
        assert not isinstance(self._place, InHostMemory)
        torch = self._place.torch
        torch.set_float32_matmul_precision(precision)
        norms = (self._rows * self._rows).sum(dim=1)
        gathered = len(self._queries) * self._k * self._shape.classes
        scores = len(self._queries) * len(self._rows)
        parts = -(-max(gathered, scores) // GATHERED)
        made = []
        for part, outputs in zip(
            self._queries.tensor_split(parts), self._outputs.tensor_split(parts), strict=True
        ):
            score, ids = torch.topk(
                torch.addmm(norms, part, self._rows.T, alpha=-2), self._k, largest=False
            )
            squares = score + (part * part).sum(dim=1, keepdim=True)
            weights = torch.softmax(squares.clamp(min=0).sqrt() / -SIGMA, dim=1)
            added = torch.einsum("qk,qkc->qc", weights, self._residuals[ids])
            made.append(torch.softmax(outputs, dim=1) + added)
        return torch.cat(made)


def _residuals(outputs: AnyArray, targets: AnyArray) -> AnyArray:
    """Return the residuals of rows as the peer keeps them, in float32."""
    shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    residuals = -shifted / shifted.sum(axis=1, keepdims=True)
    residuals[np.arange(len(targets)), targets] += np.float32(1)
    return np.asarray(residuals, np.float32)


def corrected(
    device: str, place: Place, shape: Shape, rows: AnyArray, queries: Any, k: int, seconds: float
) -> Corrected:
    """Check and time the correction of these queries."""
    correction = Correction(device, place, shape, rows, queries, k)
    wrong = correction.wrong()
    taken = seconds_of(correction.contenders(), place, seconds)
    return Corrected(
        shape=shape.name,
        queries=len(queries),
        k=k,
        classes=shape.classes,
        taken={name: [1e3 * each for each in rounds] for name, rounds in taken.items()},
        bar=BARS.get(shape.name),
        wrong=wrong,
    )


def lines_of(found: Corrected) -> list[str]:
    """Return the lines of one workload."""
    lines = [f"{found.shape}, corrected: {found.queries:,} queries, {found.classes} classes"]
    search = median(found.taken["search"])
    for name, taken in found.taken.items():
        note = ""
        if name == "correct":
            note = "bits of the CPU" if not found.wrong else f"{found.wrong} QUERIES WRONG"
            if found.bar is not None:
                verdict = "passed" if found.ratio <= found.bar else "MISSED"
                note += f"; bar {found.bar} times the search: {verdict}"
        spread = f"({min(taken):.3f} .. {max(taken):.3f}, {len(taken)} rounds)"
        ratio = f"{median(taken) / search:6.2f} x"
        lines.append(f"  {name:20}{median(taken):10.3f} ms {spread:36}{ratio}  {note}".rstrip())
    return lines
