"""``collect``: a model's embeddings, outputs and targets of the batches of a loader."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import data

from resmem.adapters.collection import Collected, Collector
from resmem.adapters.progress import bar
from resmem.adapters.torch import batches, layers
from resmem.adapters.torch.modes import evaluating
from resmem.adapters.torch.returned import AUTO, find_outputs
from resmem.adapters.torch.rows import Rows, rows_of, token_mask
from resmem.adapters.torch.weights import description, digest_of
from resmem.adapters.torch.wrapping import Wrapped


def collect(
    model: nn.Module,
    loader: Iterable[Any],
    layer: layers.LayerLike,
    *,
    outputs: Any = AUTO,
    targets: Any = batches.AUTO,
    inputs: Any = None,
    mask: Any = None,
    pool: Callable[..., torch.Tensor] | None = None,
    extra: Any = (),
    device: torch.device | str | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Collected:
    """Run a model over a loader and return embeddings, outputs and targets, for ``Memory.fit``.

    ``memory = resmem.Memory(base=collected.base).fit(*collected)`` then knows the model again.

    Parameters
    ----------
    model : nn.Module
        It stays where it is, on several devices too. It runs in eval mode and in inference mode,
        under the caller's ``torch.autocast``, and gets back the modes of all its parts.
    loader : iterable of batches
        A DataLoader, or anything that yields tensors, tuples, dicts, namedtuples or dataclasses.
    layer : str, module or function
        Where embeddings are read: a name of ``model.named_modules()`` or the module itself, whose
        output is taken (of a tuple the first part); a name and ":input", such as "fc:input", what
        this module is given; or a function of what the model returns. (m, d, 1, 1) becomes (m, d).
    outputs : str, int or function
        What of the model's return value the outputs are. Default: the tensor itself, or what is
        called "logits". None: there are none.
    targets : str, int or function of the batch
        Default: the last part of a tuple; of named parts "labels", "label", "targets", "target" or
        "y". None: there are none, and all parts are inputs.
    inputs : str, int, list of these, or function of the batch
        What the model is called with. Default: all parts that are nothing else, by name where its
        ``forward`` has these names, in order where it has none of them.
    mask : str, int or function of the batch
        For sequences (batch, tokens, d): which tokens are rows, (batch, tokens). Where each token
        has a target, those with the target -100 are left out, whether there is a mask or not.
    pool : function
        Makes rows (m, d) of what the layer gave; with ``mask`` it is called with both.
    extra : list of names, or dict
        Further parts of a batch to keep, numbers or text, a row for each example or token: their
        names, or places by name, such as {"document": 2}.
    device : device, optional
        Where inputs are brought. Default: where the model's first weights are.
    out : path, optional
        A folder: arrays are written to files there, which are mapped, and a stopped call goes on
        behind the last whole batch with the same arguments. It needs the same batches in the same
        order again. Without it, arrays are kept in memory.
    progress : bool
        Draw a bar, if standard error is a terminal and tqdm is installed.

    Raises
    ------
    ValueError
        The layer is not there, or does not run exactly once; the loader shuffles, and there is
        ``out``; the folder holds another job. The message tells what to do.
    """
    if isinstance(model, Wrapped):
        raise ValueError("a wrapped model's outputs are corrected already: give wrapped.model")
    if out is not None:
        check_order(loader)
    place = layers.find(model, layer)
    base = description(model, place.name, None if pool is None else layers.named(pool))
    reader = batches.Reader(model, inputs, targets, mask, batches.places(extra))
    upcoming = iter(loader)
    first = list(itertools.islice(upcoming, 1))
    where = {"outputs": outputs, "targets": targets, "inputs": inputs, "mask": mask, "extra": extra}
    target = batches.device_of(model) if device is None else torch.device(device)
    settings = {
        **base,
        **{name: _in_words(value) for name, value in where.items()},
        "autocast": _autocast(target),
        "batches": _length(loader),
        "first batch": _digest(first),
    }
    collector = Collector(out, settings)
    if not collector.finished:
        rest = itertools.islice(itertools.chain(first, upcoming), collector.batches, None)
        with (
            bar("collect", _length(loader), "batch", progress) as step,
            _reading(model, place) as embeddings,
            torch.inference_mode(),
        ):
            step(collector.batches)
            for batch in rest:
                args, kwargs = batches.moved(reader.arguments(batch), target)
                found = _rows(embeddings(*args, **kwargs), reader, batch, outputs, pool)
                collector.append(**found)
                step(1)
    return collector.finish({**base, "d": collector.d, "C": collector.C})


def _rows(
    ran: tuple[torch.Tensor, Any], reader: batches.Reader, batch: Any, outputs: Any, pool: Any
) -> dict[str, Any]:
    """Return the arrays of a batch, of what the layer gave and the model returned."""
    given, returned = ran
    columns = {"targets": reader.targets_of(batch), **reader.extra_of(batch)}
    columns = {name: _column(values) for name, values in columns.items() if values is not None}
    asked = reader.mask_of(batch)
    if pool is None:
        asked = token_mask(asked, columns.get("targets"), given)
    elif asked is not None:
        asked = torch.as_tensor(asked, device=given.device)
    rows = rows_of(given, asked, pool)
    made: dict[str, Any] = {"embeddings": rows.embeddings}
    scores = find_outputs(returned, outputs)
    if scores is not None:
        made["outputs"] = rows.of(scores)
    for name, values in columns.items():
        made[name] = _chosen(values, rows, given.device)
    return {name: as_array(values) for name, values in made.items()}


def _column(values: Any) -> torch.Tensor | np.ndarray[Any, Any]:
    """Return a column of a batch as a tensor, or as an array what no tensor holds: text."""
    if isinstance(values, torch.Tensor):
        return values
    array = np.asarray(values)
    return torch.tensor(array) if array.dtype.kind in "biuf" else array


def _chosen(values: Any, rows: Rows, device: torch.device) -> Any:
    """Return a column's values of the rows that are kept."""
    if isinstance(values, torch.Tensor):
        return rows.of(values.to(device))
    places = torch.arange(values.size, device=device).reshape(values.shape)
    return values.reshape(-1)[as_array(rows.of(places))]


def as_array(tensor: torch.Tensor | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a tensor as an array, without a copy where it lies in host memory; bfloat16, which
    NumPy does not have, becomes float32."""
    if isinstance(tensor, np.ndarray):
        return tensor
    plain = tensor.detach()
    if plain.dtype == torch.bfloat16:
        plain = plain.float()
    array: np.ndarray[Any, Any] = plain.cpu().numpy()
    return array


@contextmanager
def _reading(
    model: nn.Module, layer: layers.Layer
) -> Iterator[Callable[..., tuple[torch.Tensor, Any]]]:
    """Yield a function that runs the model, in eval mode, and returns what the layer gave and what
    the model returned. Afterwards the model is as it was."""
    capture = layers.Capture(layer)
    hook = None
    if layer.module is not None:
        hook = capture.attached(layer.module)

    def run(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, Any]:
        values, returned = capture.of(lambda: model(*args, **kwargs))
        if layer.function is not None:
            return layer.function(returned), returned
        return layers.only(values, layer.name), returned

    try:
        with evaluating(model):
            yield run
    finally:
        if hook is not None:
            hook.remove()


_RANDOM = (data.RandomSampler, data.SubsetRandomSampler, data.WeightedRandomSampler)


def check_order(loader: Any) -> None:
    """Raise ValueError if a loader will not give the same batches again."""
    if isinstance(loader, data.DataLoader):
        for sampler in (loader.sampler, getattr(loader.batch_sampler, "sampler", None)):
            if isinstance(sampler, _RANDOM) or getattr(sampler, "shuffle", False):
                raise ValueError(
                    "this loader shuffles, so that a stopped collection could not go on: give "
                    "DataLoader(.., shuffle=False), or no out="
                )
    if isinstance(loader, Iterator):
        raise ValueError(
            "with out= the same batches must come again: give a list or a DataLoader, no iterator"
        )


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:  # a loader of unknown length, such as one of an IterableDataset
        return None


def _digest(first: list[Any]) -> str:
    """Return a hash of the first batch, by which the job's data are told from others."""
    digest = hashlib.sha256()
    for batch in first:
        for name, value in batches.fields(batch).items():
            digest.update(f"{name}\n".encode())
            digest_of(value, digest, str(name))
    return digest.hexdigest()[:16]


def _in_words(place: Any) -> Any:
    """Return an argument as settings can hold it: functions by name."""
    if callable(place):
        return layers.named(place)
    if isinstance(place, dict):
        return {str(name): _in_words(part) for name, part in place.items()}
    return [_in_words(part) for part in place] if isinstance(place, (list, tuple)) else place


def _autocast(device: torch.device | None) -> str | None:
    """Return the dtype of the caller's autocast for a device, or None."""
    kind = torch.device(device or "cpu").type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return None
    return str(torch.get_autocast_dtype(kind))
