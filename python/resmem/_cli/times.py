"""Times as text of options: a moment, such as `2026-01-31`, and a span, such as `30D`."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import numpy as np

from resmem._rows.ages import UNITS, too_long

_DATETIME = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d(:\d\d(:\d\d(\.\d{1,9})?)?)?)?")
_SPAN = re.compile(rf"(\d+) ?({'|'.join(UNITS)})")


def moment(text: str) -> int | float | np.datetime64 | None:
    """Return the time that the text says, a datetime in UTC; None if it says none."""
    with suppress(ValueError):  # of a 30th of February
        if _DATETIME.fullmatch(text.removesuffix("Z")):
            return np.datetime64(text.removesuffix("Z"))
    return _number(text)


def span(text: str, option: str) -> int | float | np.timedelta64:
    """Return the span of time that the text says, which goes with times that are numbers or, with
    a unit, datetimes."""
    if found := _SPAN.fullmatch(text):
        unit: Any = found[2]
        try:
            return np.timedelta64(int(found[1]), unit)
        except OverflowError as error:  # of more steps than int64 holds
            raise too_long(option, text) from error
    number = _number(text)
    if number is None:
        raise ValueError(
            f"{option} must be a number, or for datetimes a whole number and one of the units "
            f"{', '.join(UNITS)}, such as 30D, got {text!r}"
        )
    return number


def _number(text: str) -> int | float | None:
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        return float(text)
    return None
