"""Models and loaders of the caller's modules, and folders of what was collected of them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from argparse import Namespace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import resmem

from .files import Source

_NAMES_SHOWN = 10  # most names in a message


def named(text: str, option: str) -> Any:
    """Return what `MODULE:NAME` names, with the working folder before installed modules."""
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        raise ValueError(f"{option} must be MODULE:NAME, such as train:model, got {text!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # of the package that it would lie in
        found = None
    if found is None:
        raise ValueError(f"{option}: there is no module {module!r} in {here!r}, nor installed")
    value: Any = importlib.import_module(module)
    for part in name.split("."):
        if not hasattr(value, part):
            names = [other for other in dir(value) if other[:1] != "_"]
            near = get_close_matches(part, names, n=_NAMES_SHOWN, cutoff=0.3) or names
            raise ValueError(
                f"{option}: {module!r} has no {part!r}; it has {', '.join(near[:_NAMES_SHOWN])}"
            )
        value = getattr(value, part)
    return value


def _made(given: Any, attribute: str) -> Any:
    """Return an object that has the attribute, or what a class or a function makes."""
    is_made = hasattr(given, attribute) and not isinstance(given, type)
    return given() if callable(given) and not is_made else given


def collect(options: Namespace, progress: bool) -> resmem.Collected:
    """Call resmem.torch.collect with what the options name."""
    import resmem.torch

    model, loader = named(options.model, "MODEL"), named(options.loader, "LOADER")
    model = _made(model, "named_modules")
    if not hasattr(model, "named_modules"):
        raise ValueError(
            f"MODEL must be a module of PyTorch, or a function that makes one: {options.model} is "
            f"of the type {type(model).__name__}"
        )
    loader = _made(loader, "__iter__")
    if not hasattr(loader, "__iter__"):
        raise ValueError(
            f"LOADER must yield batches, or be a function that makes such: {options.loader} is of "
            f"the type {type(loader).__name__}"
        )
    places: dict[str, Any] = {
        name: _place(text)
        for name in ("outputs", "targets", "mask")
        if (text := getattr(options, name)) is not None
    }
    if options.inputs is not None:
        places["inputs"] = [_place(part) for part in options.inputs.split(",")]
    if options.extra is not None:
        named_places = [part.rpartition("=") for part in options.extra.split(",")]
        places["extra"] = {name or _place(place): _place(place) for name, _, place in named_places}
        if numbers := [name for name in places["extra"] if not isinstance(name, str)]:
            raise ValueError(f"--extra: a number needs a name, such as column={numbers[0]}")
    return resmem.torch.collect(
        model,
        loader,
        options.layer,
        **places,
        pool=None if options.pool is None else named(options.pool, "--pool"),
        device=options.device,
        out=options.output,
        progress=progress,
    )


def take(options: Namespace) -> Any:
    """Let options that are not given be those of the folder --collected; return its base."""
    folder = Path(options.collected)
    collected = resmem.Collected.load(folder)
    for name, array in zip(("embeddings", "outputs", "targets"), collected, strict=True):
        if getattr(options, name) is None and array is not None:
            setattr(options, name, Source(folder / f"{name}.npy"))
    return collected.base


def _place(text: str) -> str | int | None:
    """Return a place in a batch: a name, a number, or None for "none"."""
    if text == "none":
        return None
    return int(text) if text.removeprefix("-").isdecimal() else text
