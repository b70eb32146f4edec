"""What is said of arguments and attributes that there are not, with the name that was meant."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., None])

# What other libraries call a parameter of Memory, and what to do here.
_ELSEWHERE = {
    "k": ("n_neighbors", "n_neighbours", "num_neighbors", "neighbors", "neighbours", "top_k"),
    "sigma": ("bandwidth", "length_scale", "tau", "scale"),
    "temperature": ("T", "temp"),
    "strength": ("alpha", "lambda_", "weight"),
    "preprocess": ("normalize", "normalise", "scaler"),
    "key_dtype": ("dtype",),
    "head": ("layer", "linear"),
}
_NONE_SUCH = {
    "metric": "distances are Euclidean; with preprocess='unit' they order keys as cosine does",
    "weights": "neighbours are weighted by exp(-D / sigma); sigma=float('inf') weights all alike",
    **dict.fromkeys(
        ("threads", "n_jobs", "num_threads"), "give threads to the methods, such as predict"
    ),
}


def suggestion(name: str, known: Sequence[str]) -> str | None:
    """What to use in place of ``name``, as the end of a message; None if nothing is near it."""
    if name in _NONE_SUCH:
        return f": {_NONE_SUCH[name]}"
    for ours, others in _ELSEWHERE.items():
        if name in others and ours in known:
            return f"; use {ours}"
    near = difflib.get_close_matches(name, known, n=1)
    return f"; use {near[0]}" if near else None


def named(function: Function) -> Function:
    """A constructor that refuses arguments it does not have in the name of its class."""
    names = list(inspect.signature(function).parameters)[1:]

    @functools.wraps(function)
    def called(self: Any, *given: Any, **by_name: Any) -> None:
        of = type(self).__name__
        for name in by_name:
            if name not in names:
                hint = suggestion(name, names) or f"; there are {', '.join(names)}"
                raise TypeError(f"{of} has no parameter {name!r}{hint}")
        if len(given) > len(names):
            raise TypeError(f"{of} takes at most {len(names)} arguments, got {len(given)}")
        function(self, *given, **by_name)

    return cast(Function, called)
