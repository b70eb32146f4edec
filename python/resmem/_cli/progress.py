"""How far a command has come, shown to people and to nobody else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Step: TypeAlias = Callable[[int], None]


@contextmanager
def bar(label: str, total: int | None, unit: str, wanted: bool = True) -> Iterator[Step]:
    """Yields what is told of every step done. A bar is drawn if standard error is a terminal
    and tqdm is installed; it is gone at the end, so that only results stay. Without a total it
    counts."""
    if not (wanted and sys.stderr is not None and sys.stderr.isatty()):
        yield unseen
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield unseen
        return
    with tqdm(
        desc=label, total=total, unit=unit, unit_scale=True, leave=False, file=sys.stderr
    ) as drawn:

        def step(done: int) -> None:
            drawn.update(done)

        yield step


def unseen(_done: int) -> None:
    """Told where nobody looks."""
