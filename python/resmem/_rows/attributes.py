"""What a caller says of rows besides keys, outputs and targets: weights, times and groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from resmem._base import checks, convert
from resmem._base.arrays import F64, I64, Array, to_numpy
from resmem._rows.group_labels import group_numbers
from resmem._rows.segment import Schema

# The arrays of a segment that hold them. Every row has a time or none has.
ATTRIBUTES: Schema = {
    "weights": (np.float64, ()),
    "times": (np.int64, ()),
    "groups": (np.int64, ()),
}

# Times are kept as int64, in an order that is that of the values (CONTRACT.md, "Whom a query may
# ask").
TimeKind: TypeAlias = Literal["integers", "floats", "datetimes"]
TIME_KINDS: tuple[TimeKind, ...] = get_args(TimeKind)

_LEAST_WEIGHT, _LARGEST_WEIGHT = 1e-100, 1e100
_ALL_BUT_SIGN = np.int64(2**63 - 1)
# Between these, nanoseconds since 1970 fit into int64.
_FIRST_DAY, _LAST_DAY = np.datetime64("1678-01-01"), np.datetime64("2262-01-01")


@dataclass(frozen=True)
class Attributes:
    """Attributes of some rows, as a segment keeps them."""

    arrays: dict[str, Array]  # (n,) each; those that were given
    time_kind: TimeKind | None

    @property
    def absent(self) -> I64:
        """The rows of weight 0, which no search may find."""
        weights = self.arrays.get("weights")
        none: I64 = np.empty(0, dtype=np.int64)
        return none if weights is None else np.flatnonzero(weights == 0)


def attributes_of(weights: Any, times: Any, groups: Any, n: int, owner: str) -> Attributes:
    """Check what was given for ``n`` rows, which ``owner`` names; None is nothing."""
    arrays: dict[str, Array] = {}
    kind = None
    if weights is not None:
        arrays["weights"] = _weights(weights, n, owner)
    if times is not None:
        arrays["times"], kind = times_of(times, "times")
        checks.same_length("times", len(arrays["times"]), owner, n)
    if groups is not None:
        arrays["groups"] = group_numbers(groups, "groups", "(n,)")
        checks.same_length("groups", len(arrays["groups"]), owner, n)
    return Attributes(arrays, kind)


def _weights(value: Any, n: int, owner: str) -> F64:
    """Return weights (n,) of rows."""
    # A copy of its own is checked, as another thread may write to the caller's.
    array = np.array(convert.float64(value, "sample_weight", "(n,)"))
    checks.same_length("sample_weight", len(array), owner, n)
    fits = (array == 0) | are_weights(array)
    if not fits.all():
        row = int(np.argmin(fits))
        raise ValueError(
            f"sample_weight: row {row} has {array[row]:.6g}, expected 0 or a number from "
            f"{_LEAST_WEIGHT:g} to {_LARGEST_WEIGHT:g}"
        )
    return array


def are_weights(values: Array) -> npt.NDArray[np.bool_]:
    """Tell which values may be weights of rows that are found."""
    return (values >= _LEAST_WEIGHT) & (values <= _LARGEST_WEIGHT)


def times_of(value: Any, name: str, kind: TimeKind | None = None) -> tuple[I64, TimeKind]:
    """Return times (n,) as int64 numbers in the order of their values, and their kind.

    ``kind`` is the one expected, if rows have times already.
    """
    array = to_numpy(value, name)
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape (n,), got {array.shape}")
    kinds: dict[str, TimeKind] = {"i": "integers", "u": "integers", "f": "floats", "M": "datetimes"}
    found = kinds.get(array.dtype.kind)
    if found is None:
        raise TypeError(
            f"{name} must be numbers or numpy.datetime64, got dtype {array.dtype}; pass "
            f"numpy.asarray({name}, dtype='datetime64[ns]') (of times in UTC)"
        )
    if array.size == 0 and kind is not None:
        found = kind  # an empty list is float64 to NumPy
    if kind is not None and found != kind:
        raise ValueError(f"{name} must be {kind}, as the times of the rows are, got {found}")
    if found == "integers":
        return convert.integers(array, name, "(n,)"), found
    if found == "datetimes":
        return _nanoseconds(array, name), found
    floats = np.asarray(array, dtype=np.float64) + 0.0  # which makes -0.0 the same as 0.0
    if np.isnan(floats).any():
        raise ValueError(f"{name}: row {int(np.argmax(np.isnan(floats)))} is NaN")
    bits = floats.view(np.int64)
    return np.where(bits < 0, bits ^ _ALL_BUT_SIGN, bits), found


def times_as_given(numbers: I64, kind: TimeKind) -> Array:
    """Return the values that ``times_of`` made these numbers of, which are of this kind."""
    if kind == "datetimes":
        return numbers.view("datetime64[ns]")
    if kind == "floats":
        return np.where(numbers < 0, numbers ^ _ALL_BUT_SIGN, numbers).view(np.float64)
    return numbers


def _nanoseconds(array: Array, name: str) -> I64:
    """Return datetimes as nanoseconds since 1970; ValueError, naming a row, if one is beyond."""
    if np.datetime_data(array.dtype)[0] in ("ps", "fs", "as"):
        raise ValueError(f"{name} must be in nanoseconds or a longer unit, got {array.dtype}")
    try:
        inside = (array >= _FIRST_DAY) & (array < _LAST_DAY)  # NaT is not
    except OverflowError:  # of a year that no unit of both holds
        inside = np.zeros(len(array), dtype=np.bool_)
    if not inside.all():
        row = int(np.argmin(inside))
        raise ValueError(f"{name}: row {row} is {array[row]}, expected a time from 1678 to 2261")
    return array.astype("datetime64[ns]").astype(np.int64)
