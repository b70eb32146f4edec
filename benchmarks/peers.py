"""Search engines side by side, each with its best settings. Run inside a worker process.

A peer imports its library in ``__init__`` (an ImportError there reports it as missing), takes a
shape's rows in ``load``, and answers ``search(label, queries, k)``. One library may enter under
several labels.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np

from data import AnyArray, Float32
from machine import processor

Found = tuple[AnyArray, AnyArray]  # distances, ids

# Tuned by hand: larger blocks are no faster, smaller ones slower.
FAISS_ROWS = 4096
SCANN_BATCH = 512
TORCH_QUERIES = 1000
TORCH_ROWS = 65536


class Peer(Protocol):
    """The interface of a search engine for a worker."""

    def __init__(self, threads: int) -> None: ...
    def load(self, rows: Float32) -> None: ...
    def search(self, label: str, queries: Float32, k: int) -> Found: ...


class Resmem:
    """A fitted and prepared ``Memory``; as "resmem one-shot" a call of ``resmem.search``."""

    def __init__(self, threads: int) -> None:
        import resmem

        self.resmem, self.threads = resmem, threads

    def load(self, rows: Float32) -> None:
        self.rows = rows
        self.memory: Any = None

    def search(self, label: str, queries: Float32, k: int) -> Found:
        if label == "resmem":
            if self.memory is None or self.memory.k != k:  # only the checked call builds it
                nothing = np.zeros((len(self.rows), 1), np.float32)
                memory = self.resmem.Memory("regression", output_kind="values", k=k, sigma=1.0)
                memory.fit(self.rows, nothing, nothing, copy=False).prepare(threads=self.threads)
                self.memory = memory
            return self.memory.kneighbors(queries, k, threads=self.threads)
        return self.resmem.search(queries, self.rows, k, threads=self.threads)


class Faiss:
    """``IndexFlatL2`` with default settings: a SIMD loop for small batches, else BLAS."""

    def __init__(self, threads: int) -> None:
        import faiss

        self.faiss = faiss
        faiss.cvar.distance_compute_blas_database_bs = FAISS_ROWS
        faiss.omp_set_num_threads(threads)

    def load(self, rows: Float32) -> None:
        self.index = self.faiss.IndexFlatL2(rows.shape[1])
        self.index.add(rows)

    def search(self, label: str, queries: Float32, k: int) -> Found:
        return self.index.search(queries, k)


class FaissTuned(Faiss):
    """``IndexFlatL2`` at its best: BLAS for every batch, with the processor's best kernels.

    The OpenBLAS in faiss's wheel is of 2021: processors it does not know get SSE kernels.
    """

    environment: ClassVar[dict[str, str]] = (
        {"OPENBLAS_CORETYPE": "SkylakeX"} if "avx512f" in processor()[1] else {}
    )

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.faiss.cvar.distance_compute_blas_threshold = 1


class Scann:
    """Brute force over float32; its own thread pool for batches."""

    def __init__(self, threads: int) -> None:
        import scann

        self.scann, self.threads = scann, threads

    def load(self, rows: Float32) -> None:
        builder = self.scann.scann_ops_pybind.builder(rows, 10, "squared_l2")
        self.searcher = builder.score_brute_force().build()
        self.searcher.set_num_threads(self.threads)

    def search(self, label: str, queries: Float32, k: int) -> Found:
        if len(queries) == 1:
            ids, distances = self.searcher.search(queries[0], final_num_neighbors=k)
            return distances[None], ids[None]
        if self.threads == 1:
            ids, distances = self.searcher.search_batched(queries, k)
        else:
            batch = min(SCANN_BATCH, -(-len(queries) // self.threads))
            ids, distances = self.searcher.search_batched_parallel(queries, k, batch_size=batch)
        return distances, ids


class Sklearn:
    """scikit-learn's brute force (threads from the environment: OpenMP and BLAS)."""

    def __init__(self, threads: int) -> None:
        import sklearn
        from sklearn.neighbors import NearestNeighbors

        sklearn.set_config(assume_finite=True)
        self.estimator = NearestNeighbors(algorithm="brute")

    def load(self, rows: Float32) -> None:
        self.estimator.fit(rows)

    def search(self, label: str, queries: Float32, k: int) -> Found:
        distances, ids = self.estimator.kneighbors(queries, k)
        return distances, ids


class SklearnIntelex(Sklearn):
    """The same estimator as patched by scikit-learn-intelex (oneDAL)."""

    def __init__(self, threads: int) -> None:
        import daal4py
        import sklearnex
        from sklearnex.neighbors import NearestNeighbors

        daal4py.daalinit(threads)
        sklearnex.set_config(assume_finite=True)
        self.estimator = NearestNeighbors(algorithm="brute")


class Torch:
    """Matrix products and ``topk`` over blocks of rows and queries."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch = torch

    def load(self, rows: Float32) -> None:
        self.rows = self.torch.from_numpy(rows)
        self.norms = (self.rows * self.rows).sum(dim=1)

    def search(self, label: str, queries: Float32, k: int) -> Found:
        found = [
            self.search_block(self.torch.from_numpy(queries[start : start + TORCH_QUERIES]), k)
            for start in range(0, len(queries), TORCH_QUERIES)
        ]
        distances, ids = (self.torch.cat(parts).numpy() for parts in zip(*found, strict=True))
        return distances, ids

    def search_block(self, queries: Any, k: int) -> tuple[Any, Any]:
        """Return the ``k`` smallest of ``norm - 2 <q, x>``, computed by blocks of rows."""
        best, best_ids = [], []
        for start in range(0, len(self.rows), TORCH_ROWS):
            block = slice(start, start + TORCH_ROWS)
            scores = self.torch.addmm(self.norms[block], queries, self.rows[block].T, alpha=-2)
            values, ids = scores.topk(k, largest=False, sorted=False)
            best.append(values)
            best_ids.append(ids + start)
        values, order = self.torch.cat(best, 1).topk(k, largest=False)
        norms = (queries * queries).sum(dim=1, keepdim=True)
        return values + norms, self.torch.cat(best_ids, 1).gather(1, order)


class Numpy:
    """A matrix product and ``argpartition``, the plain way to search for one query."""

    def __init__(self, threads: int) -> None:
        pass  # BLAS threads come from the environment

    def load(self, rows: Float32) -> None:
        self.rows = rows
        self.norms = np.einsum("nd,nd->n", rows, rows)

    def search(self, label: str, queries: Float32, k: int) -> Found:
        scores = self.norms - 2 * (queries @ self.rows.T)
        ids = np.argpartition(scores, k, axis=1)[:, :k]
        values = np.take_along_axis(scores, ids, axis=1)
        order = np.argsort(values, axis=1)
        norms = np.einsum("nd,nd->n", queries, queries)[:, None]
        taken = np.take_along_axis(values, order, axis=1) + norms
        return taken, np.take_along_axis(ids, order, axis=1)


PEERS: dict[str, type[Peer]] = {  # peers by label
    "resmem": Resmem,
    "resmem one-shot": Resmem,
    "faiss": Faiss,
    "faiss, tuned": FaissTuned,
    "ScaNN": Scann,
    "scikit-learn": Sklearn,
    "scikit-learn-intelex": SklearnIntelex,
    "torch": Torch,
    "NumPy": Numpy,
}
