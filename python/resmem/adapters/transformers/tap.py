"""What a memory reads of a model: the input of its last layer, or of a layer that is named."""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

from resmem.adapters.torch import layers
from resmem.adapters.transformers.head import output_layer
from resmem.adapters.transformers.kinds import Kind, kind_of


class Tap:
    """Runs a model and returns the embeddings of the call beside its output.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    layer : str or module, optional
        As for ``resmem.torch.collect``. Default: the input of the last layer, which makes the
        logits.
    shorten : bool
        Let the last layer of a language model see one token only: where logits are not needed,
        they are not computed.
    """

    def __init__(self, model: Any, layer: layers.LayerLike | None = None, shorten: bool = False):
        self.kind: Kind = kind_of(model)
        self._model = model
        self._shorten = shorten and self.kind.of_tokens
        self._last = last = self._last_layer(layer is None)
        self.place = place = (
            replace(last, name=last.name + ":input", of_input=True)
            if layer is None and last is not None
            else layers.find(model, layer)
        )
        self._is_last = last is not None and place.of_input and place.module is last.module

    def _last_layer(self, needed: bool) -> layers.Layer | None:
        """Return the last layer; None if it cannot be found and nothing depends on it."""
        try:
            return layers.find(self._model, output_layer(self._model, self.kind))
        except ValueError:
            if needed or self._shorten:
                raise
            return None

    def run(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """Call the model; return embeddings, what the last layer reads (in language models), and
        the model's output. Embeddings are (batch, tokens, d), or (batch, d) of classifiers."""
        own, made, states = (layers.Capture(self.place) for _ in range(3))
        with ExitStack() as hooks:
            if self.place.module is not None and not (self._is_last and self._shorten):
                _hook(hooks, self.place.module, own)
            if self._last is not None and self._last.module is not None:
                made = layers.Capture(self._last)
                _hook(hooks, self._last.module, made)
                states = layers.Capture(replace(self._last, of_input=True))
                hooks.callback(self._listen_before(self._last.module, states).remove)
            read, (given, (outputs, returned)) = states.of(
                lambda: own.of(lambda: made.of(lambda: self._model(*args, **kwargs)))
            )
        of_last = read[-1] if read else None
        if self._is_last:
            seen = layers.only(read, self.place.name)
        elif self.place.function is not None:
            seen = self.place.function(returned)
        else:
            seen = layers.only(given, self.place.name)
        if self.kind.of_tokens:
            if seen.ndim != 3:
                raise ValueError(
                    f"layer {self.place.name!r} must give (batch, tokens, d), got "
                    f"{tuple(seen.shape)}"
                )
            return seen, seen if of_last is None else of_last, returned
        named = inspect.signature(self._model.forward).bind_partial(*args, **kwargs).arguments
        mask = named.get("attention_mask")
        rows = self._of_examples(seen, outputs[-1] if outputs else None, returned, mask)
        return rows, rows, returned

    def _listen_before(self, module: torch.nn.Module, capture: layers.Capture) -> Any:
        """Keep what a layer reads, and shorten it if that was asked for."""

        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            capture(module, args, kwargs, None)
            if not self._shorten:
                return None
            return (args[0][..., :1, :], *args[1:]), kwargs

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def _of_examples(
        self, seen: torch.Tensor, made: torch.Tensor | None, returned: Any,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:  # fmt: skip
        """Return a classifier's embeddings (batch, d).

        They are those of the token whose output became the logits; of a named layer, the mean over
        the tokens of ``mask``, or over all places.
        """
        if seen.ndim == 4:
            return seen.mean(dim=(2, 3))  # maps of an image (batch, d, height, width)
        if seen.ndim == 2:
            return seen
        if self._is_last and made is not None:
            return seen[torch.arange(len(seen), device=seen.device), _last(made, returned, mask)]
        shape = seen.shape[:2]
        weights = seen.new_ones(shape) if mask is None or mask.shape != shape else mask
        kept = weights[..., None].to(seen)
        return (seen * kept).sum(1) / kept.sum(1)


def _last(made: torch.Tensor, returned: Any, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the place of the token (batch,) whose output (batch, tokens, C) became the logits.

    It is the last one, as several tokens may have equal outputs, and models that give one for each
    token take that of the last.
    """
    same = (made == returned.logits[:, None]).all(-1)
    if mask is not None and mask.shape == same.shape:
        same &= mask.to(same.device) != 0
    if not same.any(1).all():
        raise ValueError(
            "the logits are not those of one token of each example; name the layer that "
            "embeddings come from: layer=.."
        )
    places = torch.arange(same.shape[1], device=same.device)
    return places.where(same, -1).amax(1)


def _hook(hooks: ExitStack, module: torch.nn.Module, capture: layers.Capture) -> None:
    hooks.callback(module.register_forward_hook(capture, with_kwargs=True).remove)
