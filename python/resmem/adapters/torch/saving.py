"""A wrapped model in a folder: its weights, and its memory beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import resmem
from resmem.adapters.torch import layers
from resmem.adapters.torch.wrapping import Wrapped, wrap

_WEIGHTS, _MEMORY, _SETTINGS = "model.pt", "memory.resmem", "wrapped.json"
_FORMAT = 1


def save(wrapped: Wrapped, folder: str | os.PathLike[str]) -> None:
    """Write a wrapped model to a folder: ``model.pt`` (its ``state_dict``), ``memory.resmem`` and
    ``wrapped.json`` (layer and mode). Each file is replaced whole."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    part = path / (_WEIGHTS + ".part")
    torch.save(wrapped.state_dict(), part)
    part.replace(path / _WEIGHTS)
    wrapped.memory.save(path / _MEMORY)
    functions = ("function", "outputs", "mask", "pool")
    settings = {name: getattr(wrapped, name) for name in ("layer", "mode", *functions)}
    needed = {n: layers.named(settings.pop(n)) for n in functions if callable(settings[n])}
    settings.pop("function", None)
    part = path / (_SETTINGS + ".part")
    part.write_text(json.dumps({"format": _FORMAT, **settings, "functions": needed}), "utf-8")
    part.replace(path / _SETTINGS)


def load(
    model: nn.Module,
    folder: str | os.PathLike[str],
    *,
    layer: Callable[[Any], torch.Tensor] | None = None,
    **functions: Any,
) -> Wrapped:
    """Load the weights in a folder that ``save`` wrote into a model of the same architecture, and
    return it wrapped with the memory there, which is mapped, in the mode of the model: call its
    ``eval()`` to correct.

    Parameters
    ----------
    model : nn.Module
    folder : path
    layer, outputs, mask, pool
        Those that are functions, which no file can hold, as ``wrap`` was given them.

    Raises
    ------
    FileNotFoundError
        ``save`` wrote nothing there.
    ValueError
        A function is missing, or the memory was made from other weights.
    RuntimeError
        The model has another architecture, as ``load_state_dict`` says.
    """
    path = Path(folder)
    settings = json.loads((path / _SETTINGS).read_text(encoding="utf-8"))
    if settings.pop("format") != _FORMAT:
        raise ValueError(f"{str(path)!r} was written by a newer version of resmem")
    given = {name: f for name, f in {"function": layer, **functions}.items() if f is not None}
    needed = settings.pop("functions")
    for name, function in needed.items():
        if name not in given:
            shown = "layer" if name == "function" else name
            raise ValueError(f"this model was wrapped with {shown}={function}: give it again")
    place = given.pop("function", settings.pop("layer"))
    weights = torch.load(path / _WEIGHTS, map_location="cpu", weights_only=True)
    model.load_state_dict(weights)
    memory = resmem.Memory.load(path / _MEMORY)
    return wrap(model, memory, place, **{**settings, **given})
