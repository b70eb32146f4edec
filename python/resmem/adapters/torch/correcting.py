"""Corrected outputs of tensors: rows to the memory, and what it answers back in their place."""

from __future__ import annotations

from collections.abc import Callable

import torch

import resmem

from .rows import rows_of

MODES = {"classification": ("probabilities", "logits"), "regression": ("values",)}


def corrected(
    memory: resmem.Memory,
    given: torch.Tensor,
    outputs: torch.Tensor | None,
    mask: torch.Tensor | None,
    pool: Callable[..., torch.Tensor] | None,
    mode: str,
) -> torch.Tensor:
    """Return the corrected outputs, of the shape of ``outputs``, by what a layer gave; a memory
    without a base model does not look at them.

    Tokens that ``mask`` leaves out keep the model's own outputs, in the form that ``mode`` names.
    """
    if pool is None and mask is None and given.ndim == 3:
        mask = torch.ones(given.shape[:2], dtype=torch.bool, device=given.device)
    rows = rows_of(given.detach(), None if mask is None else mask.to(given.device), pool)
    own = None if outputs is None or memory.output_kind == "none" else outputs.detach()
    queries = None if own is None else rows.of(own)
    if queries is not None and queries.ndim == 1 and memory.task == "classification":
        raise ValueError("outputs must have a column for each class, got one number a row")
    found = answer(memory, rows.embeddings, queries, mode)
    if rows.tokens is None:
        return found
    whole = found.new_zeros((*rows.tokens.shape, *found.shape[1:]))
    if own is not None and not bool(rows.tokens.all()):
        whole = uncorrected(memory, own, mode).to(whole)
    whole[rows.tokens] = found
    return whole


def answer(
    memory: resmem.Memory, embeddings: torch.Tensor, outputs: torch.Tensor | None, mode: str
) -> torch.Tensor:
    """Return what the memory makes of rows (m, d) and outputs (m, C), where the embeddings lie."""
    place = embeddings.device
    dtype = torch.float32 if outputs is None else torch.promote_types(outputs.dtype, torch.float32)
    if not stays(place, memory):
        embeddings = embeddings.cpu()
        outputs = None if outputs is None else outputs.cpu()
    elif memory.key_dtype != "float64":
        embeddings = embeddings.float()
    ask = memory.correct if mode == "values" else memory.predict_proba
    found = torch.as_tensor(ask(embeddings.contiguous(), outputs))
    if mode == "values" and outputs is not None:
        found = found.reshape(outputs.shape)
    if mode == "logits":
        found = logarithms(found, outputs, memory, dtype)
    return found.to(place, dtype)


def stays(device: torch.device, memory: resmem.Memory) -> bool:
    """Tell whether a memory corrects tensors on a device where they lie."""
    return (
        device.type == "cuda"
        and memory.device != "cpu"
        and memory.preprocess == "none"
        and memory.store != "head"
    )


def logarithms(
    probabilities: torch.Tensor, outputs: torch.Tensor | None, memory: resmem.Memory,
    dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    """Return logarithms that ``dtype`` holds: finite, but where the model's logit is -inf.

    The model's softmax may have rounded a probability to 0; its logarithm is the model's own.
    """
    logs = probabilities.log()
    if outputs is None or memory.output_kind != "logits":
        return logs
    logits = outputs.to(logs)
    own = torch.log_softmax(logits / memory.temperature, dim=-1).clamp(min=torch.finfo(dtype).min)
    own = own.masked_fill(logits == -torch.inf, -torch.inf)
    return torch.where(probabilities == 0, own, logs)


def uncorrected(memory: resmem.Memory, outputs: torch.Tensor, mode: str) -> torch.Tensor:
    """Return a model's outputs in the form that corrected ones have."""
    if mode == "values":
        return outputs
    if memory.output_kind != "logits":
        return outputs.log() if mode == "logits" else outputs
    scaled = outputs.double() / memory.temperature
    return scaled.log_softmax(-1) if mode == "logits" else scaled.softmax(-1)
