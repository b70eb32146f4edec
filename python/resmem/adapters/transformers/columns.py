"""Data sets of Hugging Face's datasets: columns as arrays, arrays as columns, and predictions."""

from __future__ import annotations

import hashlib
import importlib
import multiprocessing
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import resmem
from resmem.adapters.collection import Collected
from resmem.adapters.torch.batches import moved
from resmem.adapters.torch.layers import LayerLike
from resmem.adapters.torch.modes import evaluating
from resmem.adapters.torch.weights import fingerprint
from resmem.adapters.transformers.batches import Batch, Reading, batches, usual_window
from resmem.adapters.transformers.collecting import targets_of
from resmem.adapters.transformers.identity import memory_fingerprint, processor_fingerprint
from resmem.adapters.transformers.kinds import IGNORED, is_regression, kind_of
from resmem.adapters.transformers.wrapping import wrap

Array = npt.NDArray[Any]


def column(dataset: Any, name: str) -> Array:
    """Return a column of a ``datasets.Dataset`` as an array: numbers (n,), or vectors (n, d).

    Where the data set's Arrow table has the column in one piece, as after ``flatten_indices()``,
    the array is a read-only view of it, and nothing is copied.

    Raises
    ------
    ValueError
        Values are missing, or vectors have several lengths.
    """
    table = dataset.with_format("arrow")
    whole = table.data.column(name) if dataset._indices is None else table[:][name]
    pieces = [_array(piece, name) for piece in whole.chunks if len(piece)]
    if not pieces:
        raise ValueError(f"column {name!r} has no rows")
    if len({piece.shape[1:] for piece in pieces}) > 1:
        raise ValueError(f"column {name!r} has vectors of several lengths")
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _array(piece: Any, name: str) -> Array:
    """Return a view of an Arrow array, of the values in vectors too."""
    if piece.null_count:
        raise ValueError(f"column {name!r} has rows without a value; leave them out")
    if not hasattr(piece, "flatten") or not hasattr(piece.type, "value_type"):
        flat: Array = piece.to_numpy(zero_copy_only=False)
        return flat
    values, count = piece.flatten(), len(piece)
    lengths = piece.value_lengths().to_numpy(zero_copy_only=False)
    if len(lengths) and lengths.min() < lengths.max():
        raise ValueError(
            f"column {name!r} has vectors of {lengths.min()} to {lengths.max()} numbers; a memory "
            "needs one length"
        )
    inner = _array(values, name)
    return inner.reshape(count, len(inner) // count, *inner.shape[1:])


def to_dataset(collected: Collected) -> Any:
    """Return collected rows as a ``datasets.Dataset``, without copying the arrays.

    Its columns are "embeddings", "outputs" (unless they are computed when read), "targets" and the
    names of ``extra``; ``column`` returns them.
    """
    datasets, arrow = map(importlib.import_module, ("datasets", "pyarrow"))
    arrays = {"embeddings": collected.embeddings, "outputs": collected.outputs,
              "targets": collected.targets, **collected.extra}  # fmt: skip
    made = {}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            continue
        flat = arrow.array(np.asarray(array).reshape(-1))
        several = array.ndim == 2
        made[name] = arrow.FixedSizeListArray.from_arrays(flat, array.shape[1]) if several else flat
    return datasets.Dataset(datasets.table.InMemoryTable(arrow.table(made)))


class Predictor:
    """Adds a model's corrected predictions to a data set: ``dataset.map(predictor, batched=True)``.

    Classifiers add the columns "prediction" (a name, where ``model.config.id2label`` was given, or
    the number) and "probability" of it, regressors "prediction". Language models add "log_loss",
    the sum over a text's tokens in nats, and "tokens", how many these are.

    For the same weights, configuration, tokenizer, rows and settings it has the same hash, so that
    the cache of ``map`` finds what was computed before, in another process too. It is pickled as
    this hash, and works in the process alone that made it: ``map(num_proc=..)`` is refused, as
    models have threads of their own, which a forked process lacks.

    Parameters
    ----------
    model, memory, layer, chains, **settings
        As for ``wrap``.
    processor, text, label, window, batch_size, seed
        As for ``collect``. Each token is predicted once, with half a window before it.
    """

    def __init__(
        self, model: Any, memory: resmem.Memory, processor: Any, *, layer: LayerLike | None = None,
        chains: int = 0, text: str = "text", label: str = "label", window: int | None = None,
        batch_size: int = 8, seed: int = 0, **settings: Any,
    ) -> None:  # fmt: skip
        self._model = wrap(model, memory, layer=layer, chains=chains, **settings)
        self._kind, self._processor = kind_of(model), processor
        window = usual_window(model, processor) if window is None else window
        stride = max(1, window // 2) if self._kind.name == "causal" else window
        self._reading = Reading(window, stride, batch_size, text, label, seed, self._kind.shift)
        place = self._model._resmem.correction.tap.place.name
        self._asked = (place, chains, sorted(settings.items()))
        self._process = multiprocessing.current_process().pid

    @property
    def fingerprint(self) -> str:
        """What the predictions depend on, as a hash."""
        call = self._model._resmem.correction
        parts = (
            fingerprint(call.model), memory_fingerprint(call.memory), repr(self._reading),
            repr(self._asked), processor_fingerprint(self._processor),
            call.model.config.to_json_string(),
        )  # fmt: skip
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    def __reduce__(self) -> Any:
        name = self.fingerprint
        _KNOWN[name] = self
        return _known, (name,)

    def __call__(self, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Return the new columns of some rows."""
        if multiprocessing.current_process().pid != self._process:
            raise RuntimeError(_ALONE)
        rows = [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]
        found: dict[str, list[Any]] = {}
        losses, counts = np.zeros(len(rows)), np.zeros(len(rows), np.int64)
        model = self._model
        for batch in batches(model, self._kind, self._processor, rows, self._reading):
            with evaluating(model), torch.inference_mode():
                logits = model(**moved(batch.inputs, model.device)).logits.float().cpu()
            if self._kind.of_tokens:
                self._tally(batch, logits, losses, counts)
            else:
                for name, values in self._classes(logits).items():
                    found.setdefault(name, []).extend(values)
        if self._kind.of_tokens:
            found = {"log_loss": losses.tolist(), "tokens": counts.tolist()}
        return found

    def _tally(self, batch: Batch, logits: torch.Tensor, losses: Array, counts: Array) -> None:
        """Add the losses of a batch's tokens to those of their texts."""
        if batch.labels is None:
            raise ValueError("the rows have no labels")
        targets = targets_of(self._kind, batch.labels, batch.inputs.get("attention_mask")).cpu()
        each = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"
        )
        documents = batch.documents.numpy()
        np.add.at(losses, documents, each.sum(1).double().numpy())
        np.add.at(counts, documents, (targets != IGNORED).sum(1).numpy())

    def _classes(self, logits: torch.Tensor) -> dict[str, list[Any]]:
        if is_regression(self._model):
            return {"prediction": logits.squeeze(-1).tolist()}
        best = logits.softmax(-1).max(-1)
        names = self._model.config.id2label
        return {
            "prediction": [names.get(each, each) for each in best.indices.tolist()],
            "probability": best.values.tolist(),
        }


_KNOWN: weakref.WeakValueDictionary[str, Predictor] = weakref.WeakValueDictionary()
_ALONE = (
    "a predictor works in the process that made it; leave num_proc out: the model and the memory "
    "use all cores anyway"
)


def _known(name: str) -> Predictor:
    """Return the predictor of this hash that this process made."""
    if name not in _KNOWN:
        raise RuntimeError(_ALONE)
    return _KNOWN[name]
