"""Progress bars, drawn only on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Step: TypeAlias = Callable[[int], None]


@contextmanager
def bar(label: str, total: int | None, unit: str, wanted: bool = True) -> Iterator[Step]:
    """Yield a function to call with the number of steps done since its last call.

    A bar is drawn if standard error is a terminal and tqdm is installed. It is removed at the end,
    so that only results stay. Without a total it shows a count.
    """
    if not (wanted and sys.stderr is not None and sys.stderr.isatty()):
        yield ignore_steps
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield ignore_steps
        return
    with tqdm(
        desc=label, total=total, unit=unit, unit_scale=True, leave=False, file=sys.stderr
    ) as drawn:

        def step(done: int) -> None:
            drawn.update(done)

        yield step


def ignore_steps(_done: int) -> None:
    """Ignore the steps; used where no bar is drawn."""
