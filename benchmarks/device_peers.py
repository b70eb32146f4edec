"""What a search on a device is compared with: PyTorch, flashlib, FAISS and cuVS.

A peer is a function of rows (n, d), queries (q, d) and k that returns a call, whose result is the
ids (q, k), or None if it finds none. An error says why it takes no part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from device_places import OnDevice

SCORES = 2**30  # that are held at a time, 4 GiB of float32

Call = Callable[[], Any]


def torch_float32(place: OnDevice, rows: Any, queries: Any, k: int) -> Call:
    """Multiply in float32, and select."""
    return _torch_search(place.torch, "highest", rows, queries, k)


def torch_tf32(place: OnDevice, rows: Any, queries: Any, k: int) -> Call:
    """Multiply numbers of 11 bits, which is not exact, and select."""
    return _torch_search(place.torch, "high", rows, queries, k)


def torch_int8(place: OnDevice, rows: Any, queries: Any, k: int) -> Call:
    """Multiply bytes, as the filter does, and write the products down, with nothing selected."""
    left, right = ((8 * array).to(place.torch.int8) for array in (queries, rows))

    def call() -> None:
        for part in _parts(left, len(rows)):
            place.torch._int_mm(part, right.T)

    return call


def flashlib(place: OnDevice, rows: Any, queries: Any, k: int) -> Call:
    """Ask flashlib, whose products of float32 are those of TF32."""
    from flashlib import flash_knn

    return lambda: flash_knn(queries, rows, k)[1]


def faiss_gpu(place: OnDevice, rows: Any, queries: Any, k: int) -> Call:
    """Ask the brute force of FAISS, on PyTorch's stream."""
    import faiss
    import faiss.contrib.torch_utils  # lets it take tensors

    resources = faiss.StandardGpuResources()
    return lambda: faiss.knn_gpu(resources, queries, rows, k)[1]


def cuvs(place: OnDevice, rows: Any, queries: Any, k: int) -> Call:
    """Ask the brute force of cuVS, whose index is built before the clock starts."""
    from cuvs.neighbors import brute_force

    index = brute_force.build(rows, metric="sqeuclidean")
    return lambda: place.torch.as_tensor(brute_force.search(index, queries, k)[1], device="cuda")


PEERS: dict[str, Callable[[OnDevice, Any, Any, int], Call]] = {
    "torch float32": torch_float32,
    "torch TF32": torch_tf32,
    "torch int8 products": torch_int8,
    "flashlib": flashlib,
    "FAISS": faiss_gpu,
    "cuVS": cuvs,
}


def _torch_search(torch: Any, precision: str, rows: Any, queries: Any, k: int) -> Call:
    """Order rows by ``|x|^2 - 2 x.q``, in parts of the queries where all scores would not fit."""
    norms = (rows * rows).sum(dim=1)

    def call() -> Any:
        torch.set_float32_matmul_precision(precision)
        found = [
            torch.topk(torch.addmm(norms, part, rows.T, alpha=-2), k, largest=False)[1]
            for part in _parts(queries, len(rows))
        ]
        return torch.cat(found)

    return call


def _parts(queries: Any, rows: int) -> Any:
    """Return equal parts of the queries, whose scores fit each."""
    return queries.tensor_split(-(-len(queries) * rows // SCORES))
