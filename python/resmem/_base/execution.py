"""How calls of the core are carried out: results never depend on it."""

from __future__ import annotations

from typing import Any

from resmem._base.checks import count
from resmem._core import Execution

__all__ = ["DEFAULT", "Execution", "execution_of"]

DEFAULT = Execution()  # on as many threads as the process may use


def execution_of(threads: Any) -> Execution:
    """Return the execution for the ``threads`` of a public call; None lets the core decide."""
    return DEFAULT if threads is None else Execution(count(threads, "threads"))
