"""The arrays that options name: `FILE`, or `FILE:NAME` for one of several in it."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from resmem._files.formats import Rows, members

from .files import split

_NAMES_SHOWN = 20  # most names of arrays in a message


def rows(text: str, option: str) -> Rows:
    """Return the array that ``text`` names; without NAME the only array of the file, or the one
    called like the option."""
    file, name = split(text)
    found = members(file)
    if not found:
        raise ValueError(f"{option}: {file!r} holds no array")
    if name is None:
        name = next(iter(found)) if len(found) == 1 else option
    if name not in found:
        if "" in found:
            raise ValueError(f"{option}: a .npy file holds one array; leave out {':' + name!r}")
        raise ValueError(
            f"{option}: {file!r} holds no array {name!r}; choose with {file}:NAME one of "
            + _listed(found)
        )
    return found[name]()


def optional(text: str | None, option: str) -> Rows | None:
    """Return the array of an option that may be left out."""
    return None if text is None else rows(text, option)


def array(text: str, option: str) -> npt.NDArray[Any]:
    """Return the array that ``text`` names, read as a whole."""
    return np.asarray(rows(text, option)[:])


def ids(text: str, option: str) -> npt.NDArray[Any]:
    """Return ids from a file, or from a list in the option itself, such as `3,17,20`."""
    if re.fullmatch(r"-?\d+(,-?\d+)*", text) and not os.path.exists(text):
        return np.array([int(word) for word in text.split(",")])
    return array(text, option)


def lines(path: str, option: str, count: int) -> list[str]:
    """Return the lines of a text file; raise ValueError unless there are ``count`` of them."""
    try:
        with open(path, encoding="utf-8") as file:
            found = file.read().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{option}: {path!r} must be UTF-8 text") from error
    if len(found) != count:
        raise ValueError(f"{option}: {path!r} must have {count} lines, got {len(found)}")
    return found


def _listed(names: Any) -> str:
    shown = [repr(name) for name in sorted(names)]
    more = len(shown) - _NAMES_SHOWN
    return ", ".join(shown[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
