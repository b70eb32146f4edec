"""What a memory records of the model that made its rows, and how another model is told apart."""

from __future__ import annotations

import hashlib
import pickle
from typing import Any

import torch
from torch import nn


def fingerprint(model: nn.Module) -> str:
    """Return a hash of the model's ``state_dict``: names, shapes, dtypes and bytes.

    Equal weights have equal fingerprints, on any device and in any process. Models that were cast
    to another dtype, quantised or trained on have another one. It reads all weights, at about
    a gigabyte per second.

    Raises ValueError for weights on the meta device, which have no values.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}\n".encode())
        digest_of(value, digest, name)
    return f"sha256:{digest.hexdigest()}"


def digest_of(value: Any, digest: Any, name: str) -> None:
    """Add a tensor's shape, dtype and bytes to a hash, or any other value's pickle."""
    if not isinstance(value, torch.Tensor):
        digest.update(pickle.dumps(value, protocol=4))
        return
    if value.is_meta:
        raise ValueError(f"{name!r} lies on the meta device: load the weights first")
    digest.update(f"{tuple(value.shape)} {value.dtype}\n".encode())
    plain = value.detach()
    if plain.is_quantized:
        plain = plain.dequantize()
    if plain.layout != torch.strided:
        plain = plain.to_dense()
    digest.update(plain.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def description(model: nn.Module, layer: str, pool: str | None) -> dict[str, Any]:
    """Return what names a model and the place where its embeddings are read."""
    made: dict[str, Any] = {
        "model": type(model).__name__, "layer": layer, "fingerprint": fingerprint(model),
    }  # fmt: skip
    return made if pool is None else {**made, "pool": pool}


def check_base(base: Any, model: nn.Module, layer: str, pool: str | None) -> None:
    """Raise ValueError if a memory's ``base`` says that another model, or layer, made its rows.

    A base that tells no fingerprint, such as a mere name, is not checked.
    """
    if not isinstance(base, dict) or "fingerprint" not in base:
        return
    given = description(model, layer, pool)
    differ = [
        f"{name} {base.get(name)!r}, not {given.get(name)!r}"
        for name in ("layer", "pool", "fingerprint")
        if base.get(name) != given.get(name)
    ]
    if differ:
        raise ValueError(
            f"this memory was made from another base ({base.get('model')} with {'; '.join(differ)})"
            ": collect again with this model, or give the one it was made from; check=False trusts "
            "that its embeddings are alike"
        )
