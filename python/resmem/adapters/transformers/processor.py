"""A memory as one of the logits processors of ``generate``."""

from __future__ import annotations

from typing import Any

import torch
import transformers

import resmem
from resmem.adapters.torch.layers import LayerLike
from resmem.adapters.transformers.chains import Searches
from resmem.adapters.transformers.correction import Correction


class MemoryLogitsProcessor(transformers.LogitsProcessor):  # type: ignore[misc]
    """Corrects the scores of each step of ``model.generate(logits_processor=[..])``.

    It does what ``wrap`` does, for a model that is called by others, and at a place of the
    caller's among other processors. It listens to the model until ``remove`` is called, or until
    the end of a ``with`` block.

    Parameters
    ----------
    model, memory, layer, chains, check, **settings
        As for ``wrap``. ``searches`` counts what ``chains`` skipped.

    Examples
    --------
    ``with MemoryLogitsProcessor(model, memory) as corrected:``
    ``    model.generate(**inputs, logits_processor=[corrected])``
    """

    def __init__(
        self, model: Any, memory: resmem.Memory, *, layer: LayerLike | None = None,
        chains: int = 0, check: bool = True, **settings: Any,
    ) -> None:  # fmt: skip
        self._correction = Correction(model, memory, layer, chains, check, settings)
        if self._correction.kind.name not in ("causal", "seq2seq"):
            raise ValueError(f"{type(model).__name__} does not generate")
        place = self._correction.tap.place
        if place.module is None:
            raise ValueError("a logits processor needs a layer of the model, not a function")
        self._embeddings: torch.Tensor | None = None
        self._of_input = place.of_input
        self._hook = place.module.register_forward_hook(self._keep, with_kwargs=True)

    def _keep(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        value = (args[0] if args else next(iter(kwargs.values()))) if self._of_input else output
        self._embeddings = (value[0] if isinstance(value, tuple) else value)[:, -1].detach().clone()

    @property
    def searches(self) -> Searches | None:
        """Searches made and skipped, where ``chains`` were asked for."""
        return self._correction.searches

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the corrected scores (batch, C), as logarithms of probabilities.

        Tokens that processors before this one forbid (-inf) stay forbidden.
        """
        embeddings, self._embeddings = self._embeddings, None
        if embeddings is None:
            raise RuntimeError(
                "the model was not called since this processor was made, or was last asked; "
                "assisted generation, which asks for several tokens of one call, needs "
                "resmem.transformers.wrap"
            )
        if self._correction.chains is None:
            made = self._correction.logits(embeddings, scores)
        else:
            each = scores[:, None]
            made = self._correction.chained(embeddings, each, input_ids, input_ids)[:, 0]
        return made.masked_fill(scores == -torch.inf, -torch.inf)

    def remove(self) -> None:
        """Stop listening to the model."""
        self._hook.remove()

    def __enter__(self) -> MemoryLogitsProcessor:
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()
