"""Corrected logits of a batch: what a wrapped model and a logits processor have in common."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import resmem
from resmem.adapters.torch.correcting import answer, logarithms
from resmem.adapters.torch.layers import LayerLike
from resmem.adapters.torch.weights import check_base as check_model
from resmem.adapters.transformers.chains import I64, Chains, Searches
from resmem.adapters.transformers.kinds import is_regression
from resmem.adapters.transformers.tap import Tap

_NONE = np.empty(0, np.int64)


class Correction:
    """A memory, as it corrects the logits of one model.

    Parameters
    ----------
    model, memory, layer, chains, settings
        As for ``wrap``.
    """

    def __init__(
        self, model: Any, memory: resmem.Memory, layer: LayerLike | None, chains: int, check: bool,
        settings: dict[str, Any],
    ) -> None:  # fmt: skip
        self.model, self.memory = model, _with_settings(memory, settings)
        self.tap = tap_of(model, memory, layer, check)
        self.kind = self.tap.kind
        if chains and self.kind.name not in ("causal", "seq2seq"):
            raise ValueError(f"chains need a model that writes, got {type(model).__name__}")
        self.chains = Chains(self.memory, chains) if chains else None
        # Sequences that were last seen, and the rows that were found for the last token of each.
        self._found: list[tuple[bytes, I64]] = []

    @property
    def searches(self) -> Searches | None:
        return None if self.chains is None else self.chains.searches

    def logits(self, embeddings: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Return the corrected logits of rows: embeddings (.., d), logits (.., C).

        They are logarithms of the corrected probabilities; for regression, corrected values.
        """
        flat, rows = _rows(embeddings), _rows(logits)
        mode = "values" if self.memory.task == "regression" else "logits"
        return answer(self.memory, flat, rows, mode).reshape(logits.shape)

    def chained(
        self, embeddings: torch.Tensor, logits: torch.Tensor, tokens: Any, before: Any
    ) -> torch.Tensor:
        """Return what ``logits`` does, by neighbours that are followed from token to token.

        ``logits`` (batch, t, C) are of the last t of ``tokens`` (batch, T). ``before``: all tokens
        of each sequence, if those before are of the last call too; else None.
        """
        assert self.chains is not None
        keys, rows = (_rows(part).cpu().float().numpy() for part in (embeddings, logits))
        steps = logits.shape[1]
        followed = tokens[:, tokens.shape[1] - steps + 1 :].cpu().numpy() if steps > 1 else None
        whole = None if before is None else before.cpu().numpy()
        found, made = [], []
        for row in range(len(logits)):
            part = slice(row * steps, (row + 1) * steps)
            ids = _NONE if whole is None or steps > 1 else self._known(row, whole[row])
            following = () if followed is None else followed[row]
            probabilities, ids = self.chains.walked(keys[part], rows[part], following, ids)
            made.append(probabilities)
            if whole is not None:
                found.append((whole[row].tobytes(), ids))
        self._found = found
        chances = torch.as_tensor(np.concatenate(made), device=logits.device)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        logs = logarithms(chances, _rows(logits), self.memory, dtype)
        return logs.to(dtype).reshape(logits.shape)

    def _known(self, row: int, sequence: Any) -> I64:
        """Return the rows that chains lead to behind a sequence whose last token is new.

        Beams change places, so that a sequence is looked for in all of the last call. Sequences
        that answer several inputs may begin alike: where several differ in what was found, and
        none is in its old place, it is not known which one goes on.
        """
        assert self.chains is not None
        before = sequence[:-1].tobytes()
        in_place = [ids for known, ids in self._found[row : row + 1] if known == before]
        alike = in_place or [ids for known, ids in self._found if known == before]
        if not alike or not all(np.array_equal(ids, alike[0]) for ids in alike):
            return _NONE
        return self.chains.followed(alike[0], int(sequence[-1]))


def _with_settings(memory: resmem.Memory, settings: dict[str, Any]) -> resmem.Memory:
    """Return the memory, or a copy with other settings, by their names as attributes."""
    if not settings:
        return memory
    for name in settings:
        if name not in vars(resmem.Settings(1, 1.0, 1.0, 1.0)):
            raise TypeError(
                f"wrap has no argument {name!r}; settings of a memory are k, sigma, temperature, "
                "strength, method, gate and probability_map"
            )
    # Together, as some settings go with some others only; sigma is not measured again.
    whole = replace(memory.settings, **{"sigma": memory.sigma_, **settings})
    return copy.copy(memory).use(whole)


def tap_of(model: Any, memory: resmem.Memory, layer: LayerLike | None, check: bool) -> Tap:
    """Return the tap at the layer that is given, or that the memory's base names.

    ValueError if the memory says that it is of another model or layer, or corrects other outputs.
    """
    if not isinstance(memory, resmem.Memory):
        raise TypeError(f"memory must be a resmem.Memory, got {type(memory).__name__}")
    if layer is None and isinstance(memory.base, dict):
        layer = memory.base.get("layer")
    tap = Tap(model, layer)
    _check_task(model, tap, memory)
    if check:
        check_model(memory.base, model, tap.place.name, None)
    return tap


def _check_task(model: Any, tap: Tap, memory: resmem.Memory) -> None:
    values = not tap.kind.of_tokens and is_regression(model)
    task, outputs = ("regression", "values") if values else ("classification", "logits")
    if (memory.task, memory.output_kind) != (task, outputs):
        raise ValueError(
            f"{type(model).__name__} needs a memory with task={task!r} and output_kind={outputs!r},"
            f" got {memory.task!r} and {memory.output_kind!r}"
        )


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().reshape(-1, tensor.shape[-1])
