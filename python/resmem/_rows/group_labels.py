"""Groups of rows by labels of any kind, which become numbers.

The number of a label depends on the label alone, so that rows and queries of different calls, of
files and of different libraries agree. Missing labels are -1, no group. Whole numbers from 0 to
2^63 - 1 are themselves. Every other label is the first 8 bytes, big-endian and without the sign
bit, of the SHA-256 of a text that no other label has (``_text``).
"""

from __future__ import annotations

import datetime
import hashlib
import numbers
from contextlib import suppress
from decimal import Decimal
from typing import Any

import numpy as np

from resmem._base import tables
from resmem._base.arrays import I64, Array, to_numpy

_LARGEST = 2**63 - 1
# The lengths of units of time spans; those of years and months vary.
_ATTOSECONDS = {
    "W": 604_800 * 10**18, "D": 86_400 * 10**18, "h": 3_600 * 10**18, "m": 60 * 10**18,
    "s": 10**18, "ms": 10**15, "us": 10**12, "ns": 10**9, "ps": 10**6, "fs": 10**3, "as": 1,
}  # fmt: skip
_BELOW_SECONDS = ("ms", "us", "ns", "ps", "fs", "as")


def group_numbers(value: Any, name: str, shape: str) -> I64:
    """Return the groups of rows, or groups to exclude, as int64 numbers; -1 is none.

    ``shape`` says what is expected: "(n,)", or "(q, m)" where "(q,)" is taken as well.
    """
    found = _numbered(value, name, shape)
    if found.ndim != 1 and not (found.ndim == 2 and shape == "(q, m)"):
        raise ValueError(f"{name} must have shape {shape}, got {found.shape}")
    return found


def label_number(label: Any, name: str) -> int:
    """Return the number of the group that this label names; TypeError if it can be no label."""
    plain = _plain(label)
    number = _whole(plain)
    if number is not None:
        return number
    text = _text(plain)
    if text is None:
        raise TypeError(
            f"{name} must be labels, which are text, bytes, real numbers, datetimes, time spans "
            f"or tuples of these, got {label!r:.60} of type {type(label).__name__}; pass text in "
            "its place, str(label)"
        )
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") & _LARGEST


# ---- arrays ----------------------------------------------------------------------------------


def _numbered(value: Any, name: str, shape: str) -> I64:
    """Return the numbers of the labels in an array, a column, a table or a list, in its shape."""
    if isinstance(value, (list, tuple)):
        return _of_list(value, name, shape)
    if isinstance(value, np.ma.MaskedArray):
        return _without(value.mask, _numbered(value.data, name, shape))
    if (columns := _columns_of(value)) is not None:
        return np.stack([_numbered(column, name, "(n,)") for column in columns], axis=1)
    if hasattr(value, "isna") and hasattr(value, "dtype"):
        return _of_pandas(value, name, shape)
    array = value if isinstance(value, np.ndarray) else _unpacked(value, name)
    if isinstance(array, list) or (array.dtype == object and array.ndim == 1):
        return _of_list(list(array), name, shape)
    if array.dtype.kind in "biu":
        return _of_integers(array, name)
    if array.dtype.kind == "f":
        return _of_floats(array, name)
    if array.dtype.kind in "mM":  # tolist() would make integers of nanoseconds
        values, _, at = np.unique(array, return_index=True, return_inverse=True)
        return _of_labels([*values], name)[at].reshape(array.shape)
    return _of_labels(array.ravel().tolist(), name).reshape(array.shape)


def _columns_of(value: Any) -> list[Any] | None:
    """Return the columns of a table with at least one; None for every other value."""
    names = tables.names_of(value)
    if not names:
        return None
    if hasattr(value, "iloc"):  # pandas, where two columns may have one name
        return [value.iloc[:, at] for at in range(len(names))]
    return [value[name] for name in names]


def _of_pandas(column: Any, name: str, shape: str) -> I64:
    """Return the numbers of a Series, an index or an array of pandas."""
    dtype = column.dtype
    if isinstance(dtype, np.dtype):
        return _numbered(np.asarray(column), name, shape)
    plain = getattr(dtype, "numpy_dtype", None)
    if isinstance(plain, np.dtype) and plain.kind in "biu":
        filled = column.to_numpy(dtype=plain, na_value=plain.type(0).item())
        return _without(column.isna(), _of_integers(filled, name))
    return _numbered(np.asarray(column.astype(object), dtype=object), name, shape)


def _without(missing: Any, found: I64) -> I64:
    """Return the numbers with -1 where labels are missing."""
    found[np.broadcast_to(np.asarray(missing, dtype=np.bool_), found.shape)] = -1
    return found


def _unpacked(value: Any, name: str) -> Any:
    """Return an array of another library as one of NumPy, or as a list where this would change
    labels: integers of Polars and Arrow become floats where one of them is missing."""
    if hasattr(getattr(value, "type", None), "index_type"):  # a dictionary of Arrow
        value = value.cast(value.type.value_type)
    array = to_numpy(value, name)
    missing = getattr(value, "null_count", 0)
    if array.dtype.kind == "f" and (missing() if callable(missing) else missing):
        listed = value.to_pylist if hasattr(value, "to_pylist") else value.to_list
        return listed()
    return array


def _of_list(value: Any, name: str, shape: str) -> I64:
    """Return the numbers of labels (n,), or of lists (q,) of labels.

    NumPy would make text of numbers beside text, and floats of large integers beside floats.
    """
    if (array := _as_integers(value)) is not None:
        return _of_integers(array, name)
    if shape == "(q, m)" and any(isinstance(each, tuple) for each in value):
        raise TypeError(
            f"{name}: a tuple is one label, which a list of lists tells from several groups of one "
            f"query; pass [[label] for label in {name}], or, if each holds the groups of a query, "
            f"[list(row) for row in {name}]"
        )
    nested = [isinstance(each, list) or getattr(each, "ndim", 0) > 0 for each in value]
    if not any(nested):
        return _of_labels([*value], name)
    parts = [
        _numbered(each, name, "(n,)") if inside else np.int64(0)
        for each, inside in zip(value, nested, strict=True)
    ]
    for row, part in enumerate(parts):
        if part.shape != parts[0].shape:
            more = "give each row one label"
            if shape == "(q, m)":
                more = "give each row a list, and fill shorter ones with -1"
            raise ValueError(
                f"{name}: rows 0 and {row} hold labels of shapes {parts[0].shape} and {part.shape};"
                f" {more}"
            )
    return np.stack(parts)


def _as_integers(value: Any) -> Array | None:
    """Return a list, or lists of one length in a list, as an array if all they hold are integers
    of one type of NumPy."""
    kinds = {*map(type, value)}
    if kinds == {list} and len({*map(len, value)}) == 1:
        kinds = {kind for row in value for kind in map(type, row)}
    if not all(issubclass(kind, (int, np.integer, np.bool_)) for kind in kinds):
        return None
    array = np.asarray(value)
    return array if array.dtype.kind in "biu" else None


def _of_integers(array: Array, name: str) -> I64:
    own = np.array(array, order="C")  # another thread may write to the caller's
    found: I64 = own.astype(np.int64, copy=False)
    if own.dtype.kind == "i":
        hashed = own < -1
    elif own.dtype.kind == "u" and own.dtype.itemsize == 8:
        hashed = own > np.uint64(_LARGEST)
    else:
        return found
    if hashed.any():
        found[hashed] = _of_labels(own[hashed].tolist(), name)
    return found


def _of_floats(array: Array, name: str) -> I64:
    own = np.array(array, dtype=np.result_type(array, np.float64), order="C")
    whole = (own == np.rint(own)) & (own >= -1) & (own < 2.0**63)
    found = np.full(own.shape, -1, dtype=np.int64)
    found[whole] = own[whole].astype(np.int64)
    hashed = ~whole & ~np.isnan(own)
    found[hashed] = _of_labels(own[hashed].tolist(), name)
    return found


def _of_labels(labels: list[Any], name: str) -> I64:
    """Return the numbers (n,) of labels, of which equal ones are hashed once.

    Labels are keys of a dict together with their types where these differ, as Python calls some
    equal that are not: 1 and a time span of 1 hour, 1 and 1j ** 4.
    """
    keys: list[Any] = labels
    if several := len({*map(type, labels)}) > 1:
        keys = list(zip(map(type, labels), labels, strict=True))
    try:
        known = dict.fromkeys(keys)
    except TypeError:  # arrays without dimensions cannot be keys, and may be labels
        return np.array([label_number(label, name) for label in labels], dtype=np.int64)
    found = {key: label_number(key[1] if several else key, name) for key in known}
    return np.fromiter(map(found.__getitem__, keys), np.int64, len(keys))


# ---- one label -------------------------------------------------------------------------------


def _whole(label: Any) -> int | None:
    """Return the number of a label that is not hashed; None for every other label."""
    if isinstance(label, str):  # the most frequent kind, and the rest takes time
        return None
    if _is_missing(label):
        return -1
    numerator, denominator = _ratio(label) or (0, 0)
    return numerator if denominator == 1 and -1 <= numerator <= _LARGEST else None


def _is_missing(label: Any) -> bool:
    if label is None or type(label).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(label, Decimal):
        return label.is_nan()
    real = isinstance(label, (float, np.floating, np.datetime64, np.timedelta64))
    return real and bool(label != label)


def _plain(label: Any) -> Any:
    """Return the value of a scalar of Arrow or an array without dimensions, None if it is masked;
    every other label as it is."""
    if hasattr(label, "as_py"):
        return label.as_py()
    if label is np.ma.masked:
        return None
    is_array = hasattr(label, "__array__") and not isinstance(label, np.generic)
    return np.asarray(label)[()] if is_array and getattr(label, "ndim", 1) == 0 else label


def _text(label: Any) -> bytes | None:
    """Return what is hashed: the kind of the label and its value; None if it can be no label."""
    if _is_missing(label):
        return b"none:"
    if isinstance(label, str):
        return b"text:" + str.encode(label, "utf-8", "surrogatepass")
    if isinstance(label, bytes):
        return b"bytes:" + label
    if (ratio := _ratio(label)) is not None:
        return f"number:{ratio[0]:x}/{ratio[1]:x}".encode()
    if isinstance(label, (float, np.floating, Decimal)):
        return f"number:{float(label)}".encode()  # inf or -inf
    if (moment := _moment(label)) is not None:
        return f"time:{moment}".encode()
    if (span := _span(label)) is not None:
        return f"span:{span:x}".encode()
    if isinstance(label, tuple):
        parts = [_text(_plain(part)) for part in label]
        known = [part for part in parts if part is not None]
        if len(known) == len(parts):
            return b"tuple:" + b"".join(b"%d:%b" % (len(part), part) for part in known)
    return None


def _ratio(label: Any) -> tuple[int, int] | None:
    """Return a finite real number as the integers of its fraction in lowest terms."""
    if isinstance(label, np.timedelta64):  # an integer to NumPy
        return None
    if isinstance(label, (np.bool_, numbers.Integral)):
        return int(label), 1
    if isinstance(label, (float, np.floating, Decimal, numbers.Rational)):
        with suppress(OverflowError):  # of an infinite one
            ratio: Any = label
            numerator, denominator = ratio.as_integer_ratio()
            return int(numerator), int(denominator)
    return None


def _moment(label: Any) -> str | None:
    """Return a datetime in UTC, or a date at midnight, as ISO text that is the same in every unit:
    to the second, with those decimals that are not zeros at the end."""
    if hasattr(label, "to_datetime64"):  # of pandas
        label = label.to_datetime64()
    elif isinstance(label, datetime.datetime) and label.utcoffset() is not None:
        label = label.astimezone(datetime.timezone.utc).replace(tzinfo=None)
    if isinstance(label, datetime.date):
        label = np.datetime64(label)
    if not isinstance(label, np.datetime64):
        return None
    if np.datetime_data(label.dtype)[0] not in _BELOW_SECONDS:
        label = label.astype("datetime64[s]")
    whole, _, decimals = str(label).partition(".")
    return f"{whole}.{decimals}".rstrip("0").rstrip(".")


def _span(label: Any) -> int | None:
    """Return a time span in attoseconds; None for spans of years and months, whose length varies,
    and for every other value."""
    if hasattr(label, "to_timedelta64"):  # of pandas
        label = label.to_timedelta64()
    if isinstance(label, datetime.timedelta):
        seconds = label.days * 86_400 + label.seconds
        return (seconds * 10**6 + label.microseconds) * 10**12
    if not isinstance(label, np.timedelta64):
        return None
    unit, steps = np.datetime_data(label.dtype)
    length = _ATTOSECONDS.get(unit)
    return None if length is None else int(label.astype(np.int64)) * steps * length
