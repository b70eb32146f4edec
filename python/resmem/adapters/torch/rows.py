"""Rows of what a layer gave: examples as they are or pooled, or tokens of sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

IGNORED = -100  # the label of tokens that have none, as for resmem.tokens


class Rows(NamedTuple):
    """Embeddings (m, d), and which tokens they are of."""

    embeddings: torch.Tensor
    tokens: torch.Tensor | None  # a mask (batch, tokens), or None where a row is an example

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values of these rows: there is one for each token or example, or a number for
        each sequence, which is that of all its tokens."""
        if self.tokens is None:
            return values
        if values.ndim == 1 and len(values) == len(self.tokens):
            values = values.unsqueeze(1).expand(self.tokens.shape)
        if values.shape[:2] != self.tokens.shape:
            raise ValueError(
                f"there must be a value for each of {tuple(self.tokens.shape)} tokens, or a "
                f"number for each sequence, got shape {tuple(values.shape)}"
            )
        return values[self.tokens]


def rows_of(
    given: torch.Tensor, mask: torch.Tensor | None, pool: Callable[..., torch.Tensor] | None
) -> Rows:
    """Return the rows of what a layer gave: examples (m, d), also (m, d, 1, 1); with ``pool`` what
    it makes of them; or else the tokens of ``mask``."""
    if pool is not None:
        pooled = pool(given) if mask is None else pool(given, mask)
        return Rows(_examples(pooled, " by pool"), None)
    if mask is None:
        return Rows(_examples(given), None)
    if given.ndim != 3 or given.shape[:2] != mask.shape:
        raise ValueError(
            f"a mask of tokens {tuple(mask.shape)} needs a layer that gives (batch, tokens, d), "
            f"got {tuple(given.shape)}"
        )
    return Rows(given[mask], mask)


def token_mask(mask: Any, targets: torch.Tensor | None, given: torch.Tensor) -> torch.Tensor | None:
    """Return which tokens are rows: those of ``mask`` and, where each token has a target, those
    whose target is not -100; None if a row is an example."""
    chosen = None if mask is None else torch.as_tensor(mask, device=given.device).bool()
    if targets is None or given.ndim != 3 or targets.shape != given.shape[:2]:
        return chosen
    labelled = targets.to(given.device) != IGNORED
    return labelled if chosen is None else chosen & labelled


def _examples(given: torch.Tensor, by: str = "") -> torch.Tensor:
    if given.ndim > 2 and given.shape[2:].numel() == 1:
        given = given.flatten(1)
    if given.ndim != 2:
        raise ValueError(
            f"embeddings must be rows (m, d), got {tuple(given.shape)}{by}; pool= makes rows of "
            "them, such as lambda h: h.flatten(2).mean(2) of feature maps, and mask= chooses "
            "tokens of sequences (batch, tokens, d)"
        )
    return given
