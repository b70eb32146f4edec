"""Memories of PyTorch models: what a model errs on is collected, its predictions are corrected.

    import resmem.torch

    collected = resmem.torch.collect(model, loader, layer="avgpool")
    memory = resmem.Memory(base=collected.base).fit(*collected)
    better = resmem.torch.wrap(model, memory, mode="logits")

``collect`` runs a model over a loader; ``wrap`` returns a module that corrects in ``forward`` and
``unwrap`` takes it off again; ``save`` and ``load`` keep both in a folder; ``fingerprint`` tells
models apart. ``Collected`` and ``Collector`` hold what was collected.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("resmem.torch needs PyTorch: pip install 'residual-memory[torch]'") from error

from resmem.adapters.collection import Collected, Collector
from resmem.adapters.torch.collecting import collect
from resmem.adapters.torch.saving import load, save
from resmem.adapters.torch.weights import fingerprint
from resmem.adapters.torch.wrapping import Wrapped, unwrap, wrap

__all__ = [
    "Collected",
    "Collector",
    "Wrapped",
    "collect",
    "fingerprint",
    "load",
    "save",
    "unwrap",
    "wrap",
]
