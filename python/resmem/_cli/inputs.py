"""The arrays that options name: `FILE`, or `FILE:NAME` for one of several."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from resmem._files.formats import Rows, members

from .files import split

_NAMES_SHOWN = 20


def rows(text: str, option: str) -> Rows:
    """The array that ``text`` names; without NAME the only one, or that called like the option."""
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
    """The same for an option that may be left out."""
    return None if text is None else rows(text, option)


def array(text: str, option: str) -> npt.NDArray[Any]:
    """The same in one piece."""
    return np.asarray(rows(text, option)[:])


def ids(text: str, option: str) -> npt.NDArray[Any]:
    """Ids from a file, or written out: `3,17,20`."""
    if re.fullmatch(r"-?\d+(,-?\d+)*", text) and not os.path.exists(text):
        return np.array([int(word) for word in text.split(",")])
    return array(text, option)


def lines(path: str, option: str, wanted: int) -> list[str]:
    """The lines of a text file, one for each of so many things."""
    try:
        with open(path, encoding="utf-8") as file:
            found = file.read().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{option}: {path!r} must be UTF-8 text") from error
    if len(found) != wanted:
        raise ValueError(f"{option}: {path!r} must have {wanted} lines, got {len(found)}")
    return found


def _listed(names: Any) -> str:
    shown = [repr(name) for name in sorted(names)]
    more = len(shown) - _NAMES_SHOWN
    return ", ".join(shown[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
