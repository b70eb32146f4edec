"""Checks of single arguments (numbers, counts, switches) and their error messages."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np


def same_length(name: str, got: int, other: str, expected: int) -> None:
    """Refuse an array ``name`` that has not as many rows as the array ``other``."""
    if got != expected:
        raise ValueError(f"{name} must have one row per row of {other} ({expected}), got {got}")


def count(value: Any, name: str, least: int = 1) -> int:
    """Return the value as an int; refuse all but integers from ``least`` to 2^63 - 1."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    if value > np.iinfo(np.int64).max:
        raise ValueError(f"{name} must be within int64, got {value}")
    return int(value)


def seed(value: Any) -> int:
    """Return the seed of NumPy's random numbers; refuse all but integers from 0 to 2^32 - 1."""
    checked = count(value, "seed", least=0)
    if checked >= 2**32:
        raise ValueError(f"seed must be below 2**32, got {checked}")
    return checked


def progress_function(progress: Any) -> None:
    """Refuse a ``progress`` that is neither None nor callable."""
    if progress is not None and not callable(progress):
        raise TypeError(f"progress must be a function of a number of bytes, got {progress!r}")


def path(value: Any) -> None:
    """Refuse what is no path, such as an open file: rows are mapped from a file by its name."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(
            f"path must be a str or a path, got {type(value).__name__}: rows are mapped from files "
            "by name; for an open file or bytes, use a path such as "
            "os.path.join(tempfile.mkdtemp(), 'memory.resmem') and copy that file"
        )


def boolean(value: Any, name: str) -> bool:
    """Return the value as a bool; refuse all but True and False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def number(value: Any, name: str) -> float:
    """Return the value as a float, which may be infinite or NaN; refuse booleans and text."""
    if isinstance(value, (bool, np.bool_, str, bytes)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{name} must be within float64, got a larger number") from error
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a number, got {value!r}") from error


def positive(value: Any, name: str, more: str = "", infinite: bool = False) -> float:
    """Return a number above 0, infinite only if allowed; ``more`` qualifies it in the message."""
    checked = number(value, name)
    if not checked > 0 or (math.isinf(checked) and not infinite):
        raise ValueError(f"{name} must be a positive number{more}, got {value!r}")
    return checked


def not_negative(value: Any, name: str) -> float:
    """Return a number of at least 0, which may be infinite."""
    checked = number(value, name)
    if not checked >= 0:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    return checked


def finite(value: Any, name: str) -> float:
    """Return a finite number."""
    checked = number(value, name)
    if not math.isfinite(checked):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return checked
