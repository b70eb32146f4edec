"""Conversion between keys and the form in which they are stored: float32, float64 or half width."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np

import resmem._core as _core
from resmem._base.arrays import F32, Array, Keys

KeyDtype: TypeAlias = Literal["auto", "float32", "float64", "float16", "bfloat16"]


# The array dtypes by name; "auto" becomes one of these when the first rows come.
KEY_DTYPES: dict[KeyDtype, Any] = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float16,
    "bfloat16": np.uint16,
}


def narrow_keys(keys: Keys, dtype: KeyDtype, first_row: int = 0) -> Array:
    """Round keys to the stored ``dtype``; ValueError, naming a row, if one is beyond it."""
    if dtype not in ("float16", "bfloat16"):
        return keys
    stored = _core.narrow(keys.astype(np.float32, copy=False), dtype)
    finite = stored if dtype == "float16" else (stored & 0x7F80) != 0x7F80
    good = (np.isfinite(finite) if dtype == "float16" else finite).all(axis=1)
    if not good.all():
        raise ValueError(
            f"embeddings: row {first_row + int(np.argmin(good))} is beyond {dtype}; "
            "rescale the embeddings or use key_dtype="
            + ("'bfloat16' or 'float32'" if dtype == "float16" else "'float32'")
        )
    return stored


def widened(values: Array) -> F32:
    """Return float16, bfloat16 or float32 values as float32, exactly."""
    values = np.ascontiguousarray(values)
    return values if values.dtype == np.float32 else _core.widen(values)


def widen_keys(keys: Array) -> Keys:
    """Return stored keys at full width, exactly: float64 keys unchanged, others as float32."""
    keys = np.ascontiguousarray(keys)
    return keys if keys.dtype == np.float64 else widened(keys)
