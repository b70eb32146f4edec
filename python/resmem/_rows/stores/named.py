"""The stores by name."""

from __future__ import annotations

import re
from typing import Any

from resmem._rows.segment import Schema
from resmem._rows.stores.dense import Dense
from resmem._rows.stores.head import Head
from resmem._rows.stores.layer import Layer, checked_layer
from resmem._rows.stores.sparse import Sparse
from resmem._rows.stores.store import VALUE_DTYPES, Store


def residual_dtype_for(task: str, asked: str | None) -> str:
    """Return the dtype in which residuals are stored; None asks for the default of the task."""
    if asked is None:
        return "float64" if task == "regression" else "float32"
    if not isinstance(asked, str) or asked not in VALUE_DTYPES:
        names = ", ".join(map(repr, VALUE_DTYPES))
        raise ValueError(f"residual_dtype must be one of {names}, got {asked!r}")
    if asked == "float64" and task != "regression":
        raise ValueError(
            "residual_dtype='float64' is for regression; probabilities need no more than 'float32'"
        )
    return asked


def store_named(name: str, task: str, output_kind: str, residual_dtype: str, head: Any) -> Store:
    """Return the store of this name; ValueError if the other settings do not allow it."""
    half = residual_dtype == "float16"
    if head is not None and name != "head":
        raise ValueError(f"head is for store='head', got store={name!r}")
    if name == "dense":
        return Dense(task, residual_dtype)
    sparse = re.fullmatch(r"sparse:([1-9][0-9]{0,8})", name) if isinstance(name, str) else None
    if sparse is None and name != "head":
        raise ValueError(
            f"store must be 'dense', 'sparse:m' (such as 'sparse:32') or 'head', got {name!r}"
        )
    if task != "classification":
        raise ValueError(f"store={name!r} is for classification; regression needs store='dense'")
    if sparse is not None:
        return Sparse(int(sparse[1]), half)
    if output_kind != "logits":
        raise ValueError(
            f"store='head' gives logits, so output_kind must be 'logits', got {output_kind!r}"
        )
    if half:
        raise ValueError(
            "residual_dtype must be 'float32' with store='head', which keeps no residuals"
        )
    return Head(checked_layer(head))


def shared_schema(name: Any, columns: int, d: int) -> Schema:
    """Return names, dtypes and shapes of the arrays that all rows of a store share."""
    if name != "head":
        return {}
    return Layer.schema(columns, d)


def unshared_schema(name: str, task: str, dtype: str, columns: int) -> Schema:
    """Return the arrays that a store keeps per row; no head layer needs to be known."""
    if name == "head":
        return {}
    return store_named(name, task, "logits", dtype, None).schema(columns)
