"""``wrap``: a model of transformers whose logits are corrected by a memory."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch

import resmem
from resmem.adapters.torch.layers import LayerLike
from resmem.adapters.torch.wrapping import warn_in_training
from resmem.adapters.transformers.chains import Searches
from resmem.adapters.transformers.correction import Correction
from resmem.adapters.transformers.kinds import IGNORED, is_regression


def wrap(
    model: Any, memory: resmem.Memory, *, layer: LayerLike | None = None, chains: int = 0,
    check: bool = True, **settings: Any,
) -> Any:  # fmt: skip
    """Return a model of the same class whose logits are corrected.

    It shares all modules and weights with ``model``, which stays as it is, and has all of its
    methods: ``generate`` with samples, beams and caches, ``save_pretrained`` (of the weights alone;
    ``memory.save`` writes the memory). What its ``forward`` returns has the model's own class;
    ``logits`` are logarithms of the corrected probabilities, and ``loss`` is the mean cross-entropy
    of these. In training mode, nothing is corrected, as no gradient passes a memory; where
    gradients are off, a warning says so.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        As for ``collect``.
    memory : resmem.Memory
        Of what ``collect`` returned for this model. Rows that are added to it later count at once,
        unless ``settings`` are given, which take a copy.
    layer : str, module or function, optional
        As it was for ``collect``. Default: what the memory's ``base`` names, or else the input of
        the last layer.
    chains : int
        0, the default: every token is searched for. With m: while the texts of the memory go on as
        the written one does at m rows or more, only those rows are looked at. This is faster where
        searches take long, and no longer exact; ``searches`` of the result counts both. It needs a
        memory whose ids follow the texts and whose groups are the documents. Wrap again after rows
        were removed or replaced.
    check : bool
        Raise ValueError where the memory's ``base`` tells another model's weights (its
        fingerprint) or another layer. It is checked here, not at every call.
    **settings
        Other settings than the memory's: ``k``, ``sigma``, ``temperature``, ``strength``,
        ``method``, ``gate``, ``probability_map``. kNN-LM is ``method="targets"`` with lambda as
        ``strength``. They take a copy of the memory, with its rows and without what ``prepare``
        built; to set them in the memory itself saves that.

    Raises
    ------
    ValueError
        The memory was collected from another model or layer.
    """
    correction = Correction(model, memory, layer, chains, check, settings)
    bare: Any = type(model)
    kind = _corrected_class(bare)
    made = kind.__new__(kind)
    made.__dict__.update(vars(model))
    made.__dict__.pop("forward", None)  # hooks of accelerate, which the bare model's call runs
    made._resmem = _Call(correction)
    options = {"layer": layer, "chains": chains, "check": check, **settings}
    made._resmem_arguments = (model, memory), options
    return made


class _Call:
    """The forward call of a wrapped model."""

    def __init__(self, correction: Correction) -> None:
        self.correction = correction
        self._signature = inspect.signature(correction.model.forward)
        self.sequences: Any = None  # all tokens that ``generate`` has, for the next call

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        correction, model = self.correction, self.correction.model
        return_dict = kwargs.pop("return_dict", None)
        named = self._signature.bind_partial(*args, **kwargs).arguments
        sequences, self.sequences = self.sequences, None
        embeddings, _, output = correction.tap.run(*args, return_dict=True, **kwargs)
        embeddings = self._kept(embeddings, output.logits, named)
        output.logits = self._logits(embeddings, output.logits, named, sequences)
        if named.get("labels") is not None:
            output.loss = _loss(model, correction, output.logits, named)
        wants_dict = model.config.return_dict if return_dict is None else return_dict
        return output if wants_dict else output.to_tuple()

    def _kept(self, embeddings: torch.Tensor, logits: torch.Tensor, named: Any) -> torch.Tensor:
        """Return the embeddings of the tokens that logits were asked for (``logits_to_keep``)."""
        asked = named.get("logits_to_keep", 0)
        if self.correction.chains is not None and not isinstance(asked, int):
            raise ValueError("chains follow consecutive tokens: give logits_to_keep a number")
        if embeddings.shape[:-1] == logits.shape[:-1]:
            return embeddings  # they are what the last layer reads, or of all tokens
        return embeddings[:, slice(-asked, None) if isinstance(asked, int) else asked]

    def _logits(
        self, embeddings: torch.Tensor, logits: torch.Tensor, named: Any, sequences: Any
    ) -> torch.Tensor:
        correction = self.correction
        if correction.chains is None:
            return correction.logits(embeddings, logits)
        read = named.get("input_ids" if correction.kind.name == "causal" else "decoder_input_ids")
        if read is None:
            raise ValueError("chains need input_ids (decoder_input_ids), to know what was written")
        if sequences is not None and not torch.equal(sequences[:, -read.shape[1] :], read):
            sequences = None  # they are of another call, or tokens are read in pieces
        return correction.chained(embeddings, logits, read, sequences)


def _loss(model: Any, correction: Correction, logits: torch.Tensor, named: Any) -> Any:
    """Return the cross-entropy, or the squared error, as transformers define them: a mean, or the
    sum over ``num_items_in_batch``, where a trainer gives this."""
    labels = named["labels"]
    if not correction.kind.of_tokens and is_regression(model):
        return torch.nn.functional.mse_loss(logits.squeeze(), labels.to(logits).squeeze())
    targets = correction.kind.targets(labels).to(logits.device)
    given = named.get("kwargs", {}) if correction.kind.name == "causal" else {}
    items = given.get("num_items_in_batch")
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORED,
        reduction="mean" if items is None else "sum",
    )  # fmt: skip
    return loss if items is None else loss / items


@functools.cache
def _corrected_class(bare: Any) -> Any:
    """Return the class of wrapped models of a class: a subclass that has its name."""

    @functools.wraps(bare.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.training:
            warn_in_training()
            return self._resmem.correction.model(*args, **kwargs)
        return self._resmem(*args, **kwargs)

    members: dict[str, Any] = {"forward": forward, "__reduce__": _reduced, "__doc__": bare.__doc__}
    members["searches"] = property(_searches)
    members["__module__"], members["__qualname__"] = bare.__module__, bare.__qualname__
    if (prepare := getattr(bare, "prepare_inputs_for_generation", None)) is not None:

        @functools.wraps(prepare)
        def prepare_inputs(self: Any, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
            self._resmem.sequences = input_ids
            return prepare(self, input_ids, *args, **kwargs)

        members["prepare_inputs_for_generation"] = prepare_inputs
    return type(bare.__name__, (bare,), members)


def _searches(self: Any) -> Searches | None:
    """Searches made and skipped, where ``chains`` were asked for."""
    found: Searches | None = self._resmem.correction.searches
    return found


def _reduced(self: Any) -> Any:
    given, options = self._resmem_arguments
    return functools.partial(wrap, **options), given, {"training": self.training}
