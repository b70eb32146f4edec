"""What is in a batch of a loader: what the model is given, targets, a mask, other columns."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from resmem.adapters.collection import check_extra_name

AUTO = "auto"
_TARGETS = ("labels", "label", "targets", "target", "y")  # names that targets have by default


@dataclasses.dataclass(frozen=True)
class Reader:
    """How batches are read, as ``collect`` was told. A place is a name, a number in a tuple, or a
    function of the batch."""

    model: nn.Module
    inputs: Any  # a place or a list of them; None: all that is nothing else
    targets: Any  # a place, AUTO or None
    mask: Any  # a place or None
    extra: Mapping[str, Any]  # places by name

    def arguments(self, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what the model is called with."""
        if callable(self.inputs):
            given = self.inputs(batch)
            return ((), dict(given)) if isinstance(given, Mapping) else (_as_tuple(given), {})
        there = fields(batch)
        if self.inputs is not None:
            chosen = [self.inputs] if isinstance(self.inputs, (str, int)) else list(self.inputs)
            return _call(self.model, {place: at(batch, place) for place in chosen})
        taken = set(_parameters(self.model))
        aside = [self.mask, *self.extra.values()]
        targets = self._targets_place(batch)
        if targets is not None and not callable(targets):
            targets = _checked(targets, there)
        values = {
            place: value
            for place, value in there.items()
            if place != targets and (place not in aside or place in taken)
        }
        return _call(self.model, values)

    def targets_of(self, batch: Any) -> Any:
        place = self._targets_place(batch)
        return None if place is None else at(batch, place)

    def mask_of(self, batch: Any) -> Any:
        return None if self.mask is None else at(batch, self.mask)

    def extra_of(self, batch: Any) -> dict[str, Any]:
        return {name: at(batch, place) for name, place in self.extra.items()}

    def _targets_place(self, batch: Any) -> Any:
        if not (isinstance(self.targets, str) and self.targets == AUTO):
            return self.targets
        there = fields(batch)
        if all(isinstance(place, int) for place in there):
            return len(there) - 1 if len(there) > 1 else None
        found = [name for name in _TARGETS if name in there]
        return found[0] if found else None


def places(extra: Any) -> dict[str, Any]:
    """Return the places of further columns by name: given so, or as a list of names."""
    if not isinstance(extra, Mapping):
        extra = {name: name for name in ([extra] if isinstance(extra, (str, int)) else extra)}
    for name, place in extra.items():
        if not isinstance(name, str):
            raise ValueError(
                f"a further column needs a name, such as extra={{'column': {place!r}}}"
            )
        check_extra_name(name)
    return dict(extra)


def fields(batch: Any) -> dict[Any, Any]:
    """Return the parts of a batch, by name, or by number in a tuple, list or lone tensor."""
    if isinstance(batch, Mapping):
        return dict(batch)
    if hasattr(batch, "_fields"):
        return dict(zip(batch._fields, batch, strict=True))
    if dataclasses.is_dataclass(batch):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    if isinstance(batch, (tuple, list)):
        return dict(enumerate(batch))
    return {0: batch}


def at(batch: Any, place: Any) -> Any:
    """Return what lies at a place in a batch."""
    if callable(place):
        return place(batch)
    there = fields(batch)
    return there[_checked(place, there)]


def _checked(place: Any, there: dict[Any, Any]) -> Any:
    """Return the place of a part among those that are there; numbers may count from the end."""
    if isinstance(place, int) and -len(there) <= place < len(there):
        return list(there)[place]
    if place not in there:
        raise ValueError(f"a batch has no {place!r}; it has {', '.join(map(repr, there))}")
    return place


def moved(value: Any, device: torch.device | None) -> Any:
    """Return a tensor, or what holds tensors, on a device; arrays of numbers become tensors."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        # PyTorch has no tensors that cannot be written to, such as a mapped file would be.
        value = torch.as_tensor(value if value.flags.writeable else value.copy())
    if isinstance(value, torch.Tensor):
        return value if device is None else value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {name: moved(part, device) for name, part in value.items()}
    if isinstance(value, nn.utils.rnn.PackedSequence):  # a tuple with lengths that stay on the CPU
        return value if device is None else value.to(device)
    if isinstance(value, (tuple, list)):
        parts = [moved(part, device) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def device_of(model: nn.Module) -> torch.device | None:
    """Return where a model takes its inputs: where its first weights are; None if it has none."""
    first = next(iter((*model.parameters(), *model.buffers())), None)
    return None if first is None else first.device


def _parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(model.forward).parameters


def _call(model: nn.Module, values: dict[Any, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments of a model: by name where it takes all the names, else in order."""
    takes = _parameters(model)
    any_name = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values())
    named = [place for place in values if isinstance(place, str) and (any_name or place in takes)]
    if named and len(named) < len(values):
        others = [place for place in values if place not in named]
        raise ValueError(
            f"the model's forward takes {', '.join(map(repr, named))} of a batch by name, but not "
            f"{', '.join(map(repr, others))}; say inputs={named!r}"
        )
    return ((), values) if named else (tuple(values.values()), {})


def _as_tuple(given: Any) -> tuple[Any, ...]:
    return given if isinstance(given, tuple) else (given,)
