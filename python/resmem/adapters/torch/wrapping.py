"""``wrap``: a module whose forward corrects the outputs of a model."""

from __future__ import annotations

import inspect
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import resmem
from resmem.adapters.torch import layers
from resmem.adapters.torch.correcting import MODES, corrected
from resmem.adapters.torch.returned import AUTO, find_outputs, with_outputs
from resmem.adapters.torch.weights import check_base


def warn_in_training() -> None:
    """Warn of a call in training mode without gradients, as nobody who trains would make it."""
    if not torch.is_grad_enabled():
        words = "this wrapped model is in training mode, and corrects nothing: call its eval()"
        warnings.warn(words, resmem.ResmemWarning, stacklevel=3)


class Wrapped(nn.Module):  # type: ignore[misc]
    """A model with a memory, as ``wrap`` makes it.

    Attributes
    ----------
    model : nn.Module
        The bare model.
    memory : resmem.Memory
        Its settings and rows may be changed at any time.
    mode : {"probabilities", "logits", "values"}
    """

    def __init__(
        self, model: nn.Module, memory: resmem.Memory, layer: layers.Layer, mode: str,
        outputs: Any, mask: Any, pool: Callable[..., torch.Tensor] | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.memory, self.mode = model, memory, mode
        self.layer = layer.name
        # One that is a module itself must not become a part of this one, with weights of its own.
        self.__dict__.update(function=layer.function, outputs=outputs, mask=mask, pool=pool)
        self._capture = layers.Capture(layer)
        self.training = model.training
        self.register_load_state_dict_pre_hook(_with_prefix)
        self.hook = None
        if layer.module is not None:
            self.hook = self._capture.attached(layer.module)
            weakref.finalize(self, self.hook.remove)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the model returns, with corrected outputs in eval mode."""
        if self.training:
            warn_in_training()
            return self.model(*args, **kwargs)
        given, returned = self._capture.of(lambda: self.model(*args, **kwargs))
        return self._corrected(given, returned, args, kwargs)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _corrected(
        self, given: list[Any], returned: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if torch.jit.is_tracing():  # which would keep the corrections of these inputs as constants
            raise RuntimeError(
                "a wrapped model cannot be traced: trace the bare one, wrapped.model"
            )
        embeddings = (
            layers.only(given, self.layer) if self.function is None else self.function(returned)
        )
        outputs = find_outputs(returned, self.outputs)
        mask = None if self.mask is None else self._mask(args, kwargs)
        made = corrected(self.memory, embeddings, outputs, mask, self.pool, self.mode)
        return with_outputs(returned, self.outputs, made)

    def _mask(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        """Return which tokens are corrected, of the arguments of a call."""
        if callable(self.mask):
            found, given = self.mask(*args, **kwargs), kwargs
        else:
            bound = inspect.signature(self.model.forward).bind(*args, **kwargs)
            given = {**bound.arguments, **kwargs}  # a forward(**kwargs) has it in the second alone
            found = given.get(self.mask)
        if not isinstance(found, torch.Tensor):
            raise ValueError(
                f"the mask of tokens must be a tensor, got {type(found).__name__} by "
                f"{self.mask!r}; the call had {', '.join(given) or 'no names'}"
            )
        return found

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return that of the bare model."""
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load that of the bare model. Nobody checks whether the memory belongs to it."""
        return self.model.load_state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        return f"memory={self.memory!r}, layer={self.layer!r}, mode={self.mode!r}"


def wrap(
    model: nn.Module,
    memory: resmem.Memory,
    layer: layers.LayerLike | None = None,
    *,
    mode: str | None = None,
    outputs: Any = AUTO,
    mask: Any = None,
    pool: Callable[..., torch.Tensor] | None = None,
    check: bool = True,
) -> Wrapped:
    """Return a module that calls a model and corrects its outputs by a memory, in eval mode.

    In training mode it returns what the model returns, and warns where gradients are off:
    corrections have no gradient. It begins in the mode that the model has. The model
    itself is not changed but for a hook on its layer, which ``unwrap`` removes. ``state_dict`` is
    the model's. What is returned is what the model returns, with corrected outputs in place of
    its own, as float32, or float64 where these are.

    Parameters
    ----------
    model : nn.Module
    memory : resmem.Memory
        Where it is on the GPU of the model's tensors (``memory.to("cuda")``), all is computed
        there. Otherwise embeddings and outputs are brought to host memory, if they are not there,
        and results back.
    layer, outputs, pool
        As for ``collect``. ``layer`` may be left out if the memory's ``base`` names one. If a
        function finds the outputs, the corrected outputs alone are returned.
    mode : {"probabilities", "logits", "values"}
        "logits": the logarithms of the probabilities, which are finite but where the model's logit
        is -inf; of what the model gives a probability too small for float64, its own. Default:
        "probabilities", for regression "values".
    mask : str, or function of the arguments
        For sequences: which tokens are corrected, (batch, tokens), the name of an argument of the
        model's ``forward``. Other tokens keep the model's outputs, as probabilities or their
        logarithms. By default all are corrected. With ``pool``, what that is called with.
    check : bool
        Raise ValueError where the memory's ``base`` tells another model's weights (its
        fingerprint), layer or pool. It is checked here, not at every call. A base without a
        fingerprint is not checked.

    Raises
    ------
    ValueError
        The model is wrapped already, has no such layer, or is not the one that ``base`` tells;
        ``mode`` is none of the memory's task. A call of what is returned raises it where the layer
        does not run exactly once, or where there are no such outputs or mask.
    """
    if isinstance(model, Wrapped):
        raise ValueError("this model is wrapped already: give wrapped.model")
    if not isinstance(memory, resmem.Memory):
        raise TypeError(
            f"memory must be a resmem.Memory, got {type(memory).__name__}; resmem.Memory.load(..) "
            "reads one from a file"
        )
    base = memory.base
    if layer is None:
        if not isinstance(base, dict) or "layer" not in base:
            raise ValueError("the memory's base names no layer: give layer=")
        layer = base["layer"]
        if not layers.has(model, base["layer"]):
            raise ValueError(
                f"this model has no layer {layer!r}, which the memory's base names: give layer=, "
                "the function, if it was one"
            )
    place = layers.find(model, layer)
    if check:
        check_base(base, model, place.name, None if pool is None else layers.named(pool))
    return Wrapped(model, memory, place, _checked_mode(mode, memory), outputs, mask, pool)


def unwrap(wrapped: Wrapped) -> nn.Module:
    """Take the hook off a wrapped model and return the bare one, as it was. ``wrapped`` itself
    cannot be called any more. Raises TypeError for any other module."""
    if not isinstance(wrapped, Wrapped):
        raise TypeError(f"expected a wrapped model, got {type(wrapped).__name__}")
    if wrapped.hook is not None:
        wrapped.hook.remove()
    return wrapped.model


def _checked_mode(mode: str | None, memory: resmem.Memory) -> str:
    allowed = MODES[memory.task]
    if mode is not None and mode not in allowed:
        raise ValueError(
            f"mode must be {' or '.join(map(repr, allowed))} for {memory.task}, got {mode!r}"
        )
    return mode or allowed[0]


def _with_prefix(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Give the keys of the bare model, which lie below ``prefix``, the names that they have within
    a wrapped one, where a module around it is loaded."""
    for key in [key for key in state if key.startswith(prefix)]:
        state[f"{prefix}model.{key[len(prefix) :]}"] = state.pop(key)
