"""The arrays that options name: `FILE`, or `FILE:NAME` for one of several in it."""

from __future__ import annotations

import csv
import math
import os
import re
from argparse import Namespace
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from resmem._files.formats import Rows, members
from resmem._rows.visibility import OWN

from .files import split
from .times import moment

PER_QUERY = ("exclude_ids", "before", "exclude_groups")  # options with an entry for each query

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


def labels(text: str, option: str = "targets", as_text: bool = False) -> Rows:
    """Return the labels or values that ``text`` names, as ``rows`` does, or a column of a .csv
    file: its only one, without a header, or the one that `FILE:NAME` names in a header.

    Values of a column are numbers if all of them are, written as numbers are (007 is text), unless
    ``as_text``: those of a memory whose labels are text.
    """
    file, name = split(text)
    if not file.lower().endswith(".csv"):
        return rows(text, option)
    column = _column(file, name, option)
    for kind in () if as_text else (int, float):  # the first that all values are
        with suppress(ValueError, OverflowError):
            values = [kind(value) for value in column]
            if all(_as_written(value, text) for value, text in zip(values, column, strict=True)):
                return np.array(values, dtype=np.dtype(kind))
    return np.array(column, dtype=np.str_)


def _as_written(value: float, text: str) -> bool:
    """Tell whether a number, read from text, is what the text says: no code such as 007, no nan."""
    digits = text.strip().lstrip("+-")
    return math.isfinite(value) and (digits[:1] != "0" or digits[1:2] in ("", ".", "e", "E"))


def _column(file: str, name: str | None, option: str) -> list[str]:
    """Return the values of a column of a .csv file."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            lines = list(csv.reader(opened))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{option}: {file!r} must be UTF-8 text with commas ({error})") from error
    if name is None:
        at, width = 0, 1
    else:
        header, *lines = lines or [[]]
        if name not in header:
            raise ValueError(f"{option}: {file!r} has no column {name!r}, but {_listed(header)}")
        at, width = header.index(name), len(header)
    for number, line in enumerate(lines):
        if len(line) != width:
            raise ValueError(
                f"{option}: {file!r} must have {width} values a line, got {len(line)} in line "
                f"{number + 1 + (name is not None)}; one of several columns is FILE:NAME, by the "
                "name in the first line"
            )
    return [line[at] for line in lines]


def array(text: str, option: str) -> npt.NDArray[Any]:
    """Return the array that ``text`` names, read as a whole."""
    return np.asarray(rows(text, option)[:])


def asked(options: Namespace) -> dict[str, Any]:
    """Return whom queries ask, of those options that are given."""
    given = {name: per_query(getattr(options, name), name) for name in PER_QUERY}
    whole = {name: value if np.ndim(value) == 0 else value[:] for name, value in given.items()}
    whole["among"] = among(options)
    return {name: value for name, value in whole.items() if value is not None}


def per_query(text: str | None, option: str) -> Any:
    """Return what an option of ``PER_QUERY`` says: an array with an entry for each query; OWN,
    which is for rows of the memory itself; or one time for all queries."""
    if text is None or (text == OWN and option != "exclude_ids"):
        return text
    if option != "before" or os.path.exists(split(text)[0]):
        return rows(text, option)
    if (one := moment(text)) is None:
        raise ValueError(
            f"before must be a file, a number or a datetime (in UTC) such as 2026-01-31T12:00, "
            f"got {text!r}"
        )
    return one


def among(options: Namespace) -> npt.NDArray[Any] | None:
    """Return the only rows that are asked; None for all."""
    return None if options.among is None else array(options.among, "among")


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
