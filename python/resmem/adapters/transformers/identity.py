"""The hash of a memory's rows and settings, which tells predictions apart."""

from __future__ import annotations

import hashlib

import numpy as np

import resmem

_BLOCK = 65_536  # rows that are read at a time


def memory_fingerprint(memory: resmem.Memory) -> str:
    """Return a hash of a memory's rows and settings; the same after it was saved and loaded."""
    facts = (memory.task, memory.output_kind, memory.metric, memory.store, memory.sigma_)
    sums = hashlib.sha256(repr((*facts, memory.settings, memory.half_life)).encode())
    ids = memory.ids
    for start in range(0, len(ids), _BLOCK):
        rows = memory.get(ids[start : start + _BLOCK])
        arrays = {
            "ids": rows.ids, "embeddings": rows.embeddings, "outputs": rows.outputs,
            "targets": rows.targets, **rows.attributes,
        }  # fmt: skip
        for name, array in arrays.items():
            if array is not None:
                sums.update(f"{name}{array.dtype}{array.shape}".encode())
                sums.update(np.ascontiguousarray(array).tobytes())
    return sums.hexdigest()
