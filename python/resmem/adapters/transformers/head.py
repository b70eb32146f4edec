"""A model's last layer: where it lies, and the weights and bias that it comes down to."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from resmem.adapters.torch.modes import evaluating
from resmem.adapters.transformers.kinds import Kind, kind_of

F32 = npt.NDArray[np.float32]

_TOLERANCE = 1e-3  # of the largest logit


def output_layer(model: Any, kind: Kind) -> torch.nn.Module:
    """Return the layer that logits come from; ValueError if there is none to be found."""
    if kind.of_tokens:
        layer = model.get_output_embeddings()
        if layer is not None:
            found: torch.nn.Module = layer
            return found
    else:
        linear = [
            module
            for module in model.modules()
            if isinstance(module, torch.nn.Linear) and module.out_features == model.num_labels
        ]
        if linear:
            return linear[-1]
    raise ValueError(
        f"{type(model).__name__} does not tell which layer its logits come from; name the layer "
        "that embeddings come from: layer=.."
    )


def head(model: Any) -> tuple[F32, F32]:
    """Return the weight (C, d) and bias (C,) that give a model's logits from its embeddings.

    They are what ``resmem.Memory(store="head", head=..)`` takes, for embeddings that ``collect``
    takes by default: the norm before the layer is in the embeddings. A constant factor of the
    logits and a bias that is added to them (``final_logits_bias``) are in the result; weights tied
    to the embeddings of tokens are copied.

    Raises
    ------
    ValueError
        The logits are no linear function of the embeddings, as with ``final_logit_softcapping``.
    """
    layer = output_layer(model, kind_of(model))
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if weight is None or weight.ndim != 2:
        raise _not_linear(model, f"its last layer is a {type(layer).__name__}")
    text = getattr(model.config, "get_text_config", lambda: model.config)()
    if getattr(text, "final_logit_softcapping", None):
        raise _not_linear(model, "final_logit_softcapping bends its logits")
    added = getattr(model, "final_logits_bias", None)
    shift = torch.zeros(len(weight)) if added is None else added.detach().float().cpu().ravel()
    factor = _factor(model, layer, shift)
    offset = torch.zeros(len(weight)) if bias is None else bias.detach().float().cpu()
    return (
        (weight.detach().float().cpu() * factor).numpy(),
        (offset * factor + shift).numpy(),
    )


def _factor(model: Any, layer: torch.nn.Module, shift: torch.Tensor) -> float:
    """Return by what the layer's outputs are multiplied, as a batch of two tokens shows."""
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda _, __, output: seen.append(output))
    try:
        with evaluating(model), torch.no_grad():
            output = model(**_probe(model)).logits
    finally:
        hook.remove()
    logits = output.float().cpu()
    if not seen:
        raise _not_linear(model, "its last layer does not run as a module")
    made, wanted = seen[-1].float().cpu(), logits - shift
    if made.numel() != wanted.numel():  # a classifier takes one token's outputs
        rows = made.reshape(-1, made.shape[-1])
        fits = rows @ wanted[0] / rows.norm(dim=1).square().clamp_min(1e-30)
        made = rows[(fits[:, None] * rows - wanted).abs().amax(1).argmin()]
    made = made.reshape(logits.shape)
    factor = float((made * wanted).sum() / (made * made).sum().clamp_min(1e-30))
    # A product and a sum are rounded each, in the model's own type.
    tolerance = max(_TOLERANCE, 2 * torch.finfo(output.dtype).eps)
    if float((factor * made - wanted).abs().max()) > tolerance * float(logits.abs().max()):
        raise _not_linear(model, "its logits are more than its last layer times a constant")
    return factor


def _probe(model: Any) -> dict[str, torch.Tensor]:
    """Return a batch as small as any that the model takes."""
    if model.main_input_name == "pixel_values":
        config = model.config
        side = config.image_size
        size = side if isinstance(side, (list, tuple)) else (side, side)
        return {"pixel_values": torch.zeros(1, config.num_channels, *size, device=model.device)}
    ids = torch.tensor([[0, 1]], device=model.device)
    decoder = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    return {"input_ids": ids, **decoder}


def _not_linear(model: Any, why: str) -> ValueError:
    return ValueError(
        f"store='head' cannot compute the logits of {type(model).__name__}: {why}; collect with "
        "outputs=True and keep them with store='sparse:32' or 'dense'"
    )


class HeadOutputs:
    """Logits (n, C) that are computed from embeddings when rows are read, block by block.

    They take no room: ``fit``, ``tune`` and ``evaluate`` of a memory read slices of it as they
    read slices of an array.

    Parameters
    ----------
    embeddings : array (n, d)
    head : (weight, bias), as ``head`` returns them
    """

    dtype = np.dtype(np.float32)

    def __init__(self, embeddings: Any, head: tuple[F32, F32]) -> None:
        self.head, self._embeddings = head, embeddings
        self._weight, self._bias = map(torch.from_numpy, head)
        self.shape = (len(embeddings), len(head[0]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> F32:
        """Return the logits of these rows: a slice, or an array of numbers or of bools."""
        chosen = torch.from_numpy(np.array(self._embeddings[rows], dtype=np.float32))
        logits: F32 = torch.nn.functional.linear(chosen, self._weight, self._bias).numpy()
        return logits
