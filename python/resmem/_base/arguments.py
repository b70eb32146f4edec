"""Messages about unknown arguments and attributes, which suggest the name that was meant."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., None])

# The names that other libraries give to a parameter of Memory, by its name here.
_FOREIGN_NAMES = {
    "k": ("n_neighbors", "n_neighbours", "num_neighbors", "neighbors", "neighbours", "top_k"),
    "sigma": ("bandwidth", "length_scale", "tau", "scale"),
    "temperature": ("T", "temp"),
    "strength": ("alpha", "lambda_", "weight"),
    "preprocess": ("normalize", "normalise", "scaler"),
    "key_dtype": ("dtype",),
    "metric": ("distance", "space", "affinity"),
    "head": ("layer", "linear"),
    "classes": ("labels", "class_names", "classes_"),
}
# What to do here instead of giving a parameter that only other libraries have.
_REPLACEMENTS = {
    "weights": "neighbours are weighted by exp(-D / sigma); sigma=float('inf') weights all alike",
    **dict.fromkeys(
        ("threads", "n_jobs", "num_threads"), "give threads to the methods, such as predict"
    ),
}


def suggestion(name: str, known: Sequence[str]) -> str | None:
    """Return what to use in place of ``name``, as the end of a message; None if none is close."""
    if name in _REPLACEMENTS:
        return f": {_REPLACEMENTS[name]}"
    for ours, others in _FOREIGN_NAMES.items():
        if name in others and ours in known:
            return f"; use {ours}"
    close = difflib.get_close_matches(name, known, n=1)
    return f"; use {close[0]}" if close else None


def with_argument_hints(function: Function) -> Function:
    """Decorate a constructor: it refuses unknown arguments, naming its class and what to use."""
    names = list(inspect.signature(function).parameters)[1:]

    @functools.wraps(function)
    def constructor(self: Any, *positional: Any, **by_name: Any) -> None:
        owner = type(self).__name__
        for name in by_name:
            if name not in names:
                hint = suggestion(name, names) or f"; there are {', '.join(names)}"
                raise TypeError(f"{owner} has no parameter {name!r}{hint}")
        if len(positional) > len(names):
            raise TypeError(f"{owner} takes at most {len(names)} arguments, got {len(positional)}")
        function(self, *positional, **by_name)

    return cast(Function, constructor)
