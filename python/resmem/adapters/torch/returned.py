"""What a model returns: the outputs in it, and the same with other outputs."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

AUTO = "auto"  # a tensor itself, or what is called "logits"


def find_outputs(returned: Any, which: Any) -> torch.Tensor | None:
    """Return the outputs in what a model returned; None where ``which`` is None.

    ``which``: ``AUTO``, a name, a place in a tuple, or a function of what the model returned.
    """
    if which is None:
        return None
    if callable(which):
        found = which(returned)
    elif which == AUTO and isinstance(returned, torch.Tensor):
        found = returned
    else:
        found = _part(returned, _key(returned, which))
    if not isinstance(found, torch.Tensor):
        raise TypeError(f"outputs must be a tensor, got {type(found).__name__} by {which!r}")
    return found


def with_outputs(returned: Any, which: Any, outputs: torch.Tensor) -> Any:
    """Return a copy of what a model returned that has other outputs.

    Where a function found them, or they are all there is, that is the outputs themselves.
    """
    if isinstance(returned, torch.Tensor) or which is None or callable(which):
        return outputs
    key = _key(returned, which)
    if isinstance(key, int):
        parts = [outputs if at == key % len(returned) else p for at, p in enumerate(returned)]
        return returned._make(parts) if hasattr(returned, "_make") else type(returned)(parts)
    if isinstance(returned, Mapping):
        made: Any = copy.copy(returned)
        made[key] = outputs
        return made
    if hasattr(returned, "_replace"):
        return returned._replace(**{key: outputs})
    if dataclasses.is_dataclass(returned):
        return dataclasses.replace(returned, **{key: outputs})  # type: ignore[type-var]
    made = copy.copy(returned)
    setattr(made, key, outputs)
    return made


def _key(returned: Any, which: Any) -> Any:
    """Return the name or the place of the outputs."""
    if which == AUTO:
        if _has(returned, "logits"):
            return "logits"
        if isinstance(returned, (tuple, list)) and len(returned) == 1:
            return 0
    elif _has(returned, which):
        return which
    got = type(returned).__name__
    names: Any = getattr(returned, "_fields", None) or getattr(returned, "__dict__", ())
    if isinstance(returned, Mapping):
        names = returned
    elif isinstance(returned, (tuple, list)) and not names:
        names = range(len(returned))
    wanted = "outputs" if which == AUTO else f"outputs {which!r}"
    raise ValueError(
        f"there are no {wanted} in the {got} that the model returns"
        + (f"; give one of {', '.join(map(repr, names))} as outputs=, or " if names else "; give ")
        + "a function of what the model returns"
    )


def _has(returned: Any, key: Any) -> bool:
    if isinstance(key, int):
        return isinstance(returned, (tuple, list)) and -len(returned) <= key < len(returned)
    if isinstance(returned, Mapping):
        return key in returned
    return not isinstance(returned, torch.Tensor) and hasattr(returned, key)


def _part(returned: Any, key: Any) -> Any:
    if isinstance(key, int) or isinstance(returned, Mapping):
        return returned[key]
    return getattr(returned, key)
