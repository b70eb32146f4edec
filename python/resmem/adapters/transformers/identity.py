"""Hashes of memories and processors, which tell predictions and rows apart."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

import resmem
from resmem.adapters.torch.weights import digest_of

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


def processor_fingerprint(processor: Any) -> str:
    """Return a hash of a tokenizer or image processor; the same in another process.

    What a tokenizer was last called with (truncation, padding) does not count, but its sides do.
    """
    backend = getattr(processor, "backend_tokenizer", None)
    described: Any = processor
    if backend is not None:
        facts = json.loads(backend.to_str())
        kept = {name: part for name, part in facts.items() if name not in ("truncation", "padding")}
        sides = [getattr(processor, name, None) for name in ("padding_side", "truncation_side")]
        described = [json.dumps(kept), sides]
    elif hasattr(processor, "to_json_string"):  # of image processors
        described = processor.to_json_string()
    sums = hashlib.sha256()
    digest_of(described, sums, "processor")
    return sums.hexdigest()[:16]
