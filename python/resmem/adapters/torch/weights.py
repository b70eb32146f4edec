"""What a memory records of the model that made its rows, and how another model is told apart."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
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
    """Add a value to a hash, in the same way in every process.

    Tensors count by shape, dtype and bytes, containers by what they hold, other values by their
    pickle, and those that have none by their type.
    """
    if isinstance(value, torch.Tensor):
        _add_tensor(value, digest, name)
    elif isinstance(value, Mapping):
        digest.update(f"{len(value)} by name\n".encode())
        for key, part in value.items():
            digest.update(f"{key!r}\n".encode())
            digest_of(part, digest, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        digest.update(f"{len(value)} in order\n".encode())
        for at, part in enumerate(value):
            digest_of(part, digest, f"{name}.{at}")
    elif isinstance(value, (set, frozenset)):  # which has another order in another process
        digest_of(sorted(map(repr, value)), digest, name)
    else:
        digest.update(_pickled(value))


class _Pickler(pickle.Pickler):
    """Puts hashes in the place of tensors, whose pickles hold addresses."""

    def persistent_id(self, value: Any) -> str | None:
        if not isinstance(value, torch.Tensor):
            return None
        digest = hashlib.sha256()
        _add_tensor(value, digest, "a tensor")
        return digest.hexdigest()


def _pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    try:
        _Pickler(buffer, protocol=4).dump(value)
    except (AttributeError, TypeError, pickle.PicklingError):  # such as of a local function
        return type(value).__qualname__.encode()
    return buffer.getvalue()


def _add_tensor(value: torch.Tensor, digest: Any, name: str) -> None:
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
