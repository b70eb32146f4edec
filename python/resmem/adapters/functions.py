"""``collect_keys``: what a plain function makes of batches."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

from resmem.adapters.collection import Collected, Collector
from resmem.adapters.progress import bar


def collect_keys(
    function: Callable[[Any], Any],
    batches: Iterable[Any],
    out: str | os.PathLike[str] | None = None,
    *,
    settings: dict[str, Any] | None = None,
    base: dict[str, Any] | None = None,
    progress: bool = True,
) -> Collected:
    """Call a function for each batch, and return all embeddings, outputs and targets.

    ``memory = resmem.Memory(base=collected.base).fit(*collected)`` fits a memory to them.

    Parameters
    ----------
    function : callable
        Takes a batch and returns embeddings (m, d), or a tuple of embeddings, outputs (m, C) and
        targets (m,), of which the last ones may be left out or None; or a dict of these by name
        and of further arrays of m rows.
    batches : iterable
    out : path, optional
        A folder: arrays are written to files there, which are mapped, and a stopped call goes on
        behind the last whole batch. ``batches`` must yield the same ones in the same order again.
    settings : dict, optional
        What else tells this job from others: a folder begun with other settings, another base,
        another number of batches or a function of another name is refused.
    base : dict, optional
        What to record of the model, such as its name and version. Default: the function's name.
        Widths ``d`` and ``C`` are added.
    progress : bool
        Draw a bar, if standard error is a terminal and tqdm is installed.

    Raises
    ------
    TypeError, ValueError
        The function returned what is none of these, or other arrays than for the first batch; there
        is no batch; the folder holds another job; ``batches`` is an iterator, and there is ``out``.

    Examples
    --------
    >>> import numpy as np, resmem
    >>> layer = np.random.default_rng(0).normal(size=(16, 3))
    >>> batches = [np.ones((5, 16)), np.zeros((4, 16))]
    >>> resmem.collect_keys(lambda x: (x, x @ layer), batches, base={"model": "linear"})
    Collected(embeddings (9, 16) float64, outputs (9, 3) float64, base={'model': 'linear', 'd': 16, 'C': 3})
    """  # noqa: E501
    if out is not None and isinstance(batches, Iterator):
        raise ValueError(
            "with out= the same batches must come again: give a list or the like, no iterator"
        )
    name = getattr(function, "__qualname__", type(function).__qualname__)
    name = f"{getattr(function, '__module__', None) or type(function).__module__}.{name}"
    total = len(batches) if isinstance(batches, Sized) else None
    job = {"function": name, "base": base, "batches": total}
    collector = Collector(out, {**job, **(settings or {})})
    if not collector.finished:
        with bar("collect", total, "batch", progress) as step:
            step(collector.batches)
            for batch in itertools.islice(batches, collector.batches, None):
                collector.append(**_arrays(function(batch)))
                step(1)
    made = {"function": name} if base is None else base
    return collector.finish({**made, "d": collector.d, "C": collector.C})


def _arrays(made: Any) -> dict[str, Any]:
    """Return what a function returned, by name."""
    if isinstance(made, Mapping):
        if "embeddings" not in made:
            raise ValueError(f"the function returned no 'embeddings', but {', '.join(made)}")
        return dict(made)
    if isinstance(made, tuple):
        if not 1 <= len(made) <= 3:
            raise ValueError(
                "the function must return embeddings, outputs and targets, or fewer of these; got "
                f"a tuple of {len(made)}"
            )
        return dict(zip(("embeddings", "outputs", "targets"), made, strict=False))
    return {"embeddings": made}
