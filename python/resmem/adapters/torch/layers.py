"""Where in a model embeddings are read, and the hook that reads them there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeAlias

import torch
from torch import nn

# A name of the model's named_modules(), with ":input" behind it what this module is given;
# the module itself; or a function of what the model returns.
LayerLike: TypeAlias = "str | nn.Module | Callable[[Any], torch.Tensor]"

_INPUT = ":input"


@dataclass(frozen=True)
class Layer:
    """A place in a model. Either ``module`` or ``function`` is None."""

    name: str
    module: nn.Module | None = None
    of_input: bool = False
    function: Callable[[Any], torch.Tensor] | None = None


def find(model: nn.Module, layer: Any) -> Layer:
    """Return the layer that a caller names; raise ValueError if the model has none like it."""
    if isinstance(model, nn.DataParallel):
        raise ValueError("the replicas of nn.DataParallel run at once: give model.module")
    names = {name: module for name, module in model.named_modules() if name}
    if isinstance(layer, nn.Module):
        for name, module in names.items():
            if module is layer:
                return Layer(name, module)
        raise ValueError(f"the given {type(layer).__name__} is no layer of this model")
    if isinstance(layer, str):
        name = layer.removesuffix(_INPUT)
        if name not in names:
            near = get_close_matches(name, names, n=5, cutoff=0.3) or list(names)[-5:]
            raise ValueError(
                f"the model has no layer {name!r}; some of model.named_modules() are "
                + ", ".join(map(repr, near))
            )
        return Layer(layer, names[name], of_input=layer != name)
    if callable(layer):
        return Layer(named(layer), function=layer)
    raise TypeError(
        "layer must be a name of model.named_modules(), a module of the model, or a function of "
        f"what the model returns, got {type(layer).__name__}"
    )


def named(function: Any) -> str:
    """Return the name by which a function is recorded."""
    module = getattr(function, "__module__", None) or type(function).__module__
    return f"{module}.{getattr(function, '__qualname__', type(function).__qualname__)}"


class _Kept:
    """What a hook has kept since it was asked to; ``asked`` is False between calls."""

    def __init__(self) -> None:
        self.asked = False
        self.values: list[Any] = []


class _OfThread(_Kept, threading.local):
    """The same, for each thread."""


class Capture:
    """A forward hook that keeps what a layer gave, for threads that have asked for it.

    Threads that run one model at the same time get what their own call gave. In a model that
    torch.compile traces, where there are no threads, it is part of the graph.
    """

    def __init__(self, layer: Layer) -> None:
        self.name, self._of_input = layer.name, layer.of_input
        self._traced, self._run = _Kept(), _OfThread()

    def __reduce__(self) -> tuple[Any, ...]:
        return Capture, (Layer(self.name, of_input=self._of_input),)

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        kept = self._kept()
        if kept.asked:
            value = output
            if self._of_input:
                value = args[0] if args else next(iter(kwargs.values()))
            if isinstance(value, tuple):
                value = value[0]
            # A copy, as a later layer may work in place, such as ReLU(inplace=True).
            kept.values.append(value.clone() if isinstance(value, torch.Tensor) else value)

    def of(self, call: Callable[[], Any]) -> tuple[list[Any], Any]:
        """Return what the layer gives during a call, each time that it runs, and the result."""
        kept = self._kept()
        kept.asked, kept.values = True, []
        try:
            result = call()
            return kept.values, result
        finally:
            kept.asked, kept.values = False, []

    def _kept(self) -> _Kept:
        return self._traced if torch.compiler.is_compiling() else self._run


def only(values: list[Any], name: str) -> torch.Tensor:
    """Return the one tensor that a layer gave in a call; raise unless there is one."""
    if not values:
        raise ValueError(
            f"the model did not run its layer {name!r}, or no hook on it; give one that runs, and "
            "of a model that torch.compile has made the model itself"
        )
    if len(values) > 1:
        raise ValueError(
            f"the model ran its layer {name!r} {len(values)} times, not once; give a layer that "
            "runs once, or a function of what the model returns"
        )
    (value,) = values
    if not isinstance(value, torch.Tensor):
        raise TypeError(
            f"layer {name!r} gave no tensor, but {type(value).__name__}; give a layer that does, "
            "or a function of what the model returns"
        )
    return value
