"""``collect``: the rows that a memory of a model of transformers is fitted to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from resmem.adapters.collection import Collected, Collector
from resmem.adapters.progress import Step, bar
from resmem.adapters.torch.batches import moved
from resmem.adapters.torch.collecting import check_order
from resmem.adapters.torch.layers import LayerLike
from resmem.adapters.torch.modes import evaluating
from resmem.adapters.torch.weights import description
from resmem.adapters.transformers.batches import (
    Batch,
    Reading,
    batches,
    example_count,
    fingerprint,
    usual_window,
)
from resmem.adapters.transformers.head import HeadOutputs, head
from resmem.adapters.transformers.identity import processor_fingerprint
from resmem.adapters.transformers.kinds import IGNORED, Kind, is_regression, kind_of
from resmem.adapters.transformers.tap import Tap

STATES = "states"  # what the last layer reads, in ``Collected.extra``


def collect(
    model: Any,
    processor: Any,
    dataset: Any,
    *,
    layer: LayerLike | None = None,
    outputs: bool | None = None,
    rows: int | None = None,
    window: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
    text: str = "text",
    label: str = "label",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Collected:
    """Run a model over a data set and return its embeddings, outputs and targets.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A causal, masked or seq2seq language model, or a sequence or image classifier. It runs
        where it lies, without dropout, in the caller's autocast.
    processor : tokenizer or image processor
        None where ``dataset`` has what the model takes.
    dataset : list of texts, rows or batches
        Texts; dicts or a ``datasets.Dataset`` with a column of texts (or "input_ids", or "image",
        or "pixel_values"), and of labels, where the kind of model needs them; or a ``DataLoader``
        whose batches are dicts that the model takes. It is read in its own order.
    layer : str, module or function, optional
        As for ``resmem.torch.collect``: a name of ``model.named_modules()``, whose output is the
        embedding, with ":input" behind it what it reads, such as "model.layers.29.mlp:input".
        Default: what the model's last layer reads, behind its last norm. Of a classifier's layer
        that gives a vector for each token or place, the mean is taken.
    outputs : bool, optional
        Whether logits are kept. Default: those of classifiers are; those of language models take no
        room, as they are computed from what the last layer reads (``HeadOutputs``).
    rows : int, optional
        Stop after so many rows.
    window, stride : int, optional
        Tokens read together, and by how many windows of a text follow each other. Each token is a
        row once, but for the first of a causal model's text, with at least ``window - stride``
        tokens before it, if there are as many. Default: what the model can take, 1,024 at most;
        and half of that for causal models, else all. Classifiers and seq2seq models read, and
        learn to write, no more than one window of each text.
    batch_size : int
        Examples, or windows, at a time.
    text, label : str
        Names of the columns of texts and of labels (for seq2seq models of texts to be written).
        Labels of classifiers are numbers, or names that ``model.config.label2id`` has.
    seed : int
        Of the tokens that a masked model must guess, where no labels are given.
    out : path, optional
        A folder, where rows are kept. A job that was stopped goes on there; a finished one returns
        at once. One of other data is refused, unless these are a ``DataLoader``, which only
        reading would tell apart.
    progress : bool
        Draw a progress bar, if standard error is a terminal.

    Returns
    -------
    Collected
        One row for each token with a label, or each example. Targets of causal models are the
        tokens that follow; labels of -100 and padding are no rows. ``extra["document"]`` is the
        number of each row's text or example. Of a text, rows follow each other in its order.

    Raises
    ------
    TypeError, ValueError
        The model is of no such kind; the logits of a language model are no linear function of
        what its last layer reads, and ``outputs`` is not given; the folder holds another job.
    """
    kind = kind_of(model)
    window = usual_window(model, processor) if window is None else window
    half = max(1, window // 2) if kind.name == "causal" else window
    stride = half if stride is None else stride
    sizes = {"window": window, "stride": stride, "batch_size": batch_size}
    reading = Reading(**sizes, text=text, label=label, seed=seed, shift=kind.shift)
    computed = head(model) if kind.of_tokens and outputs is None else None
    kept = outputs is not False and computed is None
    tap = Tap(model, layer, shorten=not kept)
    if out is not None:
        check_order(dataset)
    base = description(model, tap.place.name, None)
    data = None if out is None else fingerprint(dataset)
    what = {"data": data, "processor": processor_fingerprint(processor),
            "text": text, "label": label, "seed": seed}  # fmt: skip
    collector = Collector(out, {**base, **sizes, **what, "outputs": outputs, "rows": rows})
    if not collector.finished:
        every = batches(model, kind, processor, dataset, reading)
        left = islice(every, collector.batches, None)
        pass_ = _Pass(model, tap, kept, apart=computed is not None and layer is not None)
        with bar("collect", example_count(dataset), "example", progress) as step:
            _gather(pass_, left, collector, rows, step)
    columns = len(computed[0]) if computed else collector.C
    collected = collector.finish({**base, "d": collector.d, "C": columns})
    if computed is None:
        return collected
    states = collected.extra.get(STATES, collected.embeddings)
    return replace(collected, outputs=HeadOutputs(states, computed))  # type: ignore[arg-type]


def _gather(
    pass_: _Pass, left: Iterator[Batch], collector: Collector, rows: int | None, step: Step
) -> None:
    """Bring all batches, or the first ``rows`` rows, into the collector."""
    done = 0
    while rows is None or collector.rows < rows:
        batch = next(left, None)
        if batch is None:
            return
        made = pass_.rows_of(batch)
        most = None if rows is None else rows - collector.rows
        collector.append(**{name: array[:most] for name, array in made.items()})
        step(int(batch.documents[-1]) + 1 - done)
        done = int(batch.documents[-1]) + 1


class _Pass:
    """The rows that a model makes of batches.

    ``kept``: whether logits are. ``apart``: whether what the last layer reads is kept beside the
    embeddings, as these are another layer's.
    """

    def __init__(self, model: Any, tap: Tap, kept: bool, apart: bool) -> None:
        self._model, self._tap, self._kept, self._apart = model, tap, kept, apart

    def rows_of(self, batch: Batch) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays of a batch's rows, by the names that ``Collected`` has."""
        if batch.labels is None:
            raise ValueError("the rows have no labels: a memory needs targets")
        inputs = moved(batch.inputs, self._model.device)
        with evaluating(self._model), torch.inference_mode():
            embeddings, states, output = self._tap.run(**inputs)
        kind = self._tap.kind
        targets = targets_of(kind, batch.labels, inputs.get("attention_mask"))
        values = not kind.of_tokens and is_regression(self._model)
        at = torch.ones_like(targets, dtype=torch.bool) if values else targets != IGNORED
        documents = batch.documents.reshape(-1, *[1] * (targets.ndim - 1)).expand_as(targets)
        found = {"embeddings": embeddings, "targets": targets, "document": documents}
        if self._apart:
            found[STATES] = states
        if self._kept:
            found["outputs"] = output.logits
        return {name: _numpy(tensor[at.to(tensor.device)]) for name, tensor in found.items()}


def targets_of(kind: Kind, labels: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the target of each token or example; padding, and what it predicts, is IGNORED."""
    if kind.name not in ("causal", "masked") or mask is None or mask.shape != labels.shape:
        return kind.targets(labels)
    padding = mask.to(labels.device) == 0
    return kind.targets(labels.masked_fill(padding, IGNORED)).masked_fill(padding, IGNORED)


def _numpy(tensor: torch.Tensor) -> npt.NDArray[Any]:
    wide = tensor.float() if tensor.is_floating_point() else tensor
    array: npt.NDArray[Any] = wide.cpu().numpy()
    return np.ascontiguousarray(array)
