"""Aggregation alone, and the whole correction, side by side. Run inside a worker process.

An aggregator turns (q, k) distances and ids into ``sum_j w_j r_j``; a corrector turns queries
and logits into ``softmax(logits) + sum_j w_j r_j``, search included.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from data import SIGMA, AnyArray, Float32, Float64, Int64
from peers import FaissTuned

GATHER_BYTES = 64 << 20  # residuals that NumPy gathers at a time


def softmax(logits: AnyArray) -> AnyArray:
    """Return the softmax of each row, in the precision of ``logits``."""
    exps: AnyArray = np.exp(logits - logits.max(axis=1, keepdims=True))
    total: AnyArray = exps.sum(axis=1, keepdims=True)
    return exps / total


def weights(distances: AnyArray) -> Float32:
    """Return ``exp((D_1 - D_j) / sigma)``, normalised, in float32."""
    return softmax(np.asarray(distances, np.float32) / np.float32(-SIGMA))


def residuals(logits: Float32, targets: Int64) -> Float32:
    """Return ``onehot(targets) - softmax(logits)``."""
    out = -softmax(logits)
    out[np.arange(len(out)), targets] += 1
    return out


class Aggregator(Protocol):
    """The interface of an aggregator for a worker."""

    def __init__(self, threads: int) -> None: ...
    def load(self, residuals: Float32) -> None: ...
    def aggregate(self, distances: Float64, ids: Int64) -> AnyArray: ...


class ResmemAggregator:
    """The fused kernel: float64 weights and sums, multiplied then added in neighbour order."""

    def __init__(self, threads: int) -> None:
        from resmem import _core

        self.core, self.threads = _core, threads

    def load(self, residuals: Float32) -> None:
        self.residuals = residuals

    def aggregate(self, distances: Float64, ids: Int64) -> AnyArray:
        columns = self.residuals.shape[1]
        return self.core.aggregate(
            [self.core.DenseRows(self.residuals)],
            distances,
            ids,
            SIGMA,
            columns,
            execution=self.core.Execution(self.threads),
        )


class TorchAggregator:
    """``embedding_bag`` with per-sample weights, in float32."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch = torch

    def load(self, residuals: Float32) -> None:
        self.residuals = self.torch.from_numpy(residuals)

    def aggregate(self, distances: Float64, ids: Int64) -> AnyArray:
        bag = self.torch.nn.functional.embedding_bag
        tensors = [self.torch.from_numpy(array) for array in (ids, weights(distances))]
        return bag(tensors[0], self.residuals, mode="sum", per_sample_weights=tensors[1]).numpy()


class NumpyAggregator:
    """A gather and a batched matrix product, for a block of queries at a time."""

    def __init__(self, threads: int) -> None:
        pass  # BLAS threads come from the environment

    def load(self, residuals: Float32) -> None:
        self.residuals = residuals

    def aggregate(self, distances: Float64, ids: Int64) -> AnyArray:
        sums = np.empty((len(ids), self.residuals.shape[1]), np.float32)
        step = max(1, GATHER_BYTES // (ids.shape[1] * self.residuals.strides[0]))
        for start in range(0, len(ids), step):
            block = slice(start, start + step)
            gathered = self.residuals[ids[block]]
            sums[block] = np.matmul(weights(distances[block])[:, None], gathered)[:, 0]
        return sums


class Corrector(Protocol):
    """The interface of a corrector for a worker."""

    def __init__(self, threads: int) -> None: ...
    def load(self, rows: Float32, logits: Float32, targets: Int64) -> None: ...
    def correct(self, queries: Float32, logits: Float32, k: int) -> AnyArray: ...


class ResmemCorrector:
    """``Memory.correct``."""

    def __init__(self, threads: int) -> None:
        import resmem

        self.resmem, self.threads = resmem, threads

    def load(self, rows: Float32, logits: Float32, targets: Int64) -> None:
        self.memory = self.resmem.Memory("classification", "logits", k=1, sigma=SIGMA)
        self.memory.fit(rows, logits, targets, copy=False)

    def correct(self, queries: Float32, logits: Float32, k: int) -> AnyArray:
        self.memory.k = k
        return self.memory.correct(queries, logits, threads=self.threads)


class FaissCorrector:
    """faiss, tuned, for the search, then one of the aggregators."""

    aggregator: type[Aggregator]
    environment = FaissTuned.environment

    def __init__(self, threads: int) -> None:
        self.faiss, self.sums = FaissTuned(threads), self.aggregator(threads)

    def load(self, rows: Float32, logits: Float32, targets: Int64) -> None:
        self.faiss.load(rows)
        self.sums.load(residuals(logits, targets))

    def correct(self, queries: Float32, logits: Float32, k: int) -> AnyArray:
        squares, ids = self.faiss.search("faiss, tuned", queries, k)
        distances: Any = np.sqrt(np.maximum(squares, 0), dtype=np.float32)
        return softmax(logits) + self.sums.aggregate(distances, ids)


class FaissNumpyCorrector(FaissCorrector):
    """faiss and NumPy."""

    aggregator = NumpyAggregator


class FaissTorchCorrector(FaissCorrector):
    """faiss and torch."""

    aggregator = TorchAggregator


AGGREGATORS: dict[str, type[Aggregator]] = {
    "resmem": ResmemAggregator,
    "torch embedding_bag": TorchAggregator,
    "NumPy": NumpyAggregator,
}
CORRECTORS: dict[str, type[Corrector]] = {
    "resmem": ResmemCorrector,
    "faiss + NumPy": FaissNumpyCorrector,
    "faiss + torch": FaissTorchCorrector,
}
