"""Tables and columns of pandas, Polars and Arrow, and columns that hold a vector per row.

None of these libraries is imported: what an object offers tells what it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_VECTORS = (np.ndarray, list, tuple)


def names_of(table: Any) -> Sequence[Any] | None:
    """Return the names of a table's columns, of any type; None if it is no table."""
    for attribute in ("column_names", "columns"):  # `columns` of Arrow are the data
        names = getattr(table, attribute, None)
        if names is not None and not callable(names) and hasattr(names, "__len__"):
            return list(names)
    return None


def categories_of(column: Any) -> list[Any] | None:
    """Return the categories of a categorical column in their order; None for every other value."""
    names = names_of(column)
    if names is not None and len(names) == 1:
        column = column[names[0]]
    categories: Any = getattr(getattr(column, "dtype", None), "categories", None)
    # An Enum of Polars has a Series; its Categorical, whose categories are those of all columns,
    # has no list.
    listed = getattr(categories, "tolist", getattr(categories, "to_list", None))
    return None if listed is None else list(listed())


def from_nullable(value: Any, name: str) -> npt.NDArray[Any] | None:
    """Return the numbers of nullable columns of pandas; None for every other value.

    ValueError, naming the row, if one of them is missing.
    """
    if not hasattr(value, "iloc") or not hasattr(value, "isna"):
        return None
    dtypes = list(value.dtypes) if value.ndim == 2 else [value.dtype]
    plain = [getattr(dtype, "numpy_dtype", dtype) for dtype in dtypes]
    if all(isinstance(dtype, np.dtype) for dtype in dtypes):
        return None
    if not all(isinstance(dtype, np.dtype) and dtype.kind in "fiub" for dtype in plain):
        return None
    if len({dtype.kind == "b" for dtype in plain}) > 1:  # bools among numbers, which are refused
        return None
    missing = np.asarray(value.isna()).reshape(len(value), len(dtypes))
    if missing.any():
        row, column = (int(at) for at in np.argwhere(missing)[0])
        where = f" in column {value.columns[column]!r}" if value.ndim == 2 else ""
        raise ValueError(
            f"{name}: row {row} has no value{where}; leave such rows out, or fill them, for "
            f"example with {name}.fillna({value_for_none(name)})"
        )
    found: npt.NDArray[Any] = value.to_numpy(dtype=np.result_type(*plain))
    return found


def value_for_none(name: str) -> int:
    """Return what stands for a missing value of an argument."""
    return -1 if name == "exclude_ids" else 0


def stacked(column: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Return the vectors that the rows of a column hold as an array (n, d); else the column itself.

    ValueError, naming the row, if the vectors have not all one length.
    """
    rows = column[:, 0] if column.ndim == 2 and column.shape[1:] == (1,) else column
    if rows.dtype != object or rows.ndim != 1 or not len(rows):
        return column
    if not isinstance(rows[0], _VECTORS) or np.ndim(rows[0]) != 1:
        return column
    length = len(rows[0])
    for row, vector in enumerate(rows):
        if not isinstance(vector, _VECTORS) or np.shape(vector) != (length,):
            got = f"shape {np.shape(vector)}" if isinstance(vector, _VECTORS) else repr(vector)
            raise ValueError(
                f"{name}: every row must hold a vector of one length; row 0 holds {length} "
                f"numbers, row {row} has {got}; leave such rows out, or fill them"
            )
    return np.stack([np.asarray(vector) for vector in rows])
