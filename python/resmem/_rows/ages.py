"""Ages of rows: spans of time in the unit of their times, and weights that fall with age."""

from __future__ import annotations

import datetime
import math
from typing import Any, TypeAlias

import numpy as np

import resmem._core as _core
from resmem._base import checks
from resmem._base.arrays import F64, I64
from resmem._rows.attributes import TimeKind, times_as_given

Age: TypeAlias = "int | float | np.timedelta64"

MOST_HALVINGS = 300  # a row's weight falls no further, so that it stays far above 0
_LN2 = math.log(2)
_LONGEST = 2**63  # nanoseconds, which a timedelta cannot hold any more
# Of the units that have a fixed length, which months and years have not; the longest first.
UNITS = {
    "W": 604_800 * 10**9, "D": 86_400 * 10**9, "h": 3_600 * 10**9, "m": 60 * 10**9, "s": 10**9,
    "ms": 10**6, "us": 10**3, "ns": 1,
}  # fmt: skip


def checked_age(value: Any, name: str) -> Age:
    """Return a span of time that a caller gives: of at least 0, a timedelta in nanoseconds."""
    if isinstance(value, (np.timedelta64, datetime.timedelta)):
        exact = _nanoseconds(value, name)
        if not exact >= np.timedelta64(0, "ns"):  # NaT neither
            got = in_own_unit(value)
            raise ValueError(f"{name} must be a time span of at least 0, got {got}")
        return exact
    age = checks.number(value, name)
    if not 0 <= age < math.inf:
        raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")
    return int(value) if isinstance(value, (int, np.integer)) else age


def _nanoseconds(value: Any, name: str) -> np.timedelta64:
    """Return a time span in nanoseconds; ValueError if they do not hold it."""
    if isinstance(value, np.timedelta64) and np.isnat(value):
        return np.timedelta64("NaT", "ns")
    count, unit = _count_and_unit(value)
    if unit not in UNITS:
        raise ValueError(f"{name} must be in a unit from weeks to nanoseconds, got {value!r}")
    exact = count * UNITS[unit]
    if abs(exact) >= _LONGEST:
        raise too_long(name, in_own_unit(value))
    return np.timedelta64(exact, "ns")


def too_long(name: str, given: str) -> ValueError:
    """Return the error about a time span that nanoseconds in int64 do not hold."""
    return ValueError(f"{name} must be below 292 years, got {given}")


def _count_and_unit(span: np.timedelta64 | datetime.timedelta) -> tuple[int, str]:
    """Return a span that is not NaT as a number of units."""
    if isinstance(span, datetime.timedelta):
        return (span.days * 86_400 + span.seconds) * 10**6 + span.microseconds, "us"
    unit, steps = np.datetime_data(span.dtype)
    return int(span.astype(np.int64)) * steps, unit


def in_own_unit(span: Any) -> str:
    """Return a span for people, as the command line takes it, in the unit in which it was given;
    NaT, spans in other units and numbers as Python shows them."""
    if not isinstance(span, (np.timedelta64, datetime.timedelta)):
        return repr(span)
    if isinstance(span, np.timedelta64) and np.isnat(span):
        return repr(span)
    count, unit = _count_and_unit(span)
    return f"{count}{unit}" if unit in UNITS else repr(span)


def recorded(age: Age | None) -> Any:
    """Return a span of time as files keep it."""
    return f"{age.astype(np.int64)} ns" if isinstance(age, np.timedelta64) else age


def in_longest_unit(age: Age | None) -> Any:
    """Return a span of time for people, as the command line takes it: 30D; a number as it is."""
    if not isinstance(age, np.timedelta64):
        return age
    nanoseconds = int(age.astype(np.int64))
    unit = next(unit for unit, length in UNITS.items() if nanoseconds % length == 0)
    return f"{nanoseconds // UNITS[unit]}{unit}"


def as_recorded(value: Any) -> Any:
    """Return the span of time that ``recorded`` made this of; ValueError for other text."""
    if not isinstance(value, str):
        return value
    try:
        return np.timedelta64(int(value.removesuffix(" ns")), "ns")
    except OverflowError as error:
        raise ValueError(str(error)) from error


def in_units(age: Age, kind: TimeKind | None, name: str) -> int | float:
    """Return a span of time in units of times of this kind, of datetimes in nanoseconds.

    ValueError if rows have no times, or times of another kind.
    """
    if kind is None:
        raise ValueError(
            f"{name} needs times of rows, which fit was not given; fit with times=numpy.arange(n), "
            f"say, or set {name}=None"
        )
    if isinstance(age, np.timedelta64) != (kind == "datetimes"):
        expected = "a numpy.timedelta64" if kind == "datetimes" else "a number"
        got = in_longest_unit(age)
        raise ValueError(f"{name} must be {expected}, as times are {kind}, got {got}")
    return int(age.astype(np.int64)) if isinstance(age, np.timedelta64) else age


def decay(times: I64, newest: int, kind: TimeKind, half_life: float) -> F64:
    """Return the factors (n,) by which weights fall with age; see CONTRACT.md, "Decay".

    ``times`` (n,) and ``newest`` are as they are stored, ``half_life`` is in units of times.
    """
    if kind == "floats":
        with np.errstate(invalid="ignore", over="ignore"):  # infinite times, and far ones
            values, last = (times_as_given(np.atleast_1d(t), kind) for t in (times, newest))
            ages = np.where(times == newest, 0.0, last - values)
    else:
        # Differences of int64 fit into uint64, which rounds once on its way to float64.
        ages = (np.array([newest]).view(np.uint64) - times.view(np.uint64)).astype(np.float64)
    with np.errstate(over="ignore"):
        halvings = np.clip(ages / half_life, 0.0, MOST_HALVINGS)
    return _core.exp(-(halvings * _LN2))
