"""Labels: what targets call the classes, which rows keep as numbers of columns, 0 to C-1.

A ``LabelTable`` translates what a caller gives and gets. Integers 0 to C-1 are numbers of columns
already and have none. Labels are compared by value: 1, 1.0 and True are one label.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from resmem._base import convert, tables
from resmem._base.arrays import I64, Array, distinct, read_block, release_pages, to_numpy
from resmem._base.blocks import blocks

Label: TypeAlias = "str | bool | int | float"

_LABEL_BYTES = 64  # bytes that a label takes while it is compared
_LABELS_SHOWN = 5  # most labels in a message
_MOST_BYTES = 8 << 20  # half of what the manifest of a file may hold
_EXACT_INTEGERS = 2.0**53  # float64 holds every integer up to this one


@dataclass(frozen=True)
class LabelTable:
    """The label of each column of outputs, all of them text, bools, integers or floats."""

    names: tuple[Label, ...]

    def __post_init__(self) -> None:
        if (length := len(json.dumps(self.names))) > _MOST_BYTES:
            raise ValueError(
                f"labels must take at most {_MOST_BYTES} bytes as JSON, as files keep them in "
                f"their manifest, got {length}; use shorter ones, or numbers of columns"
            )

    @staticmethod
    def of(classes: Any, name: str = "classes") -> LabelTable:
        """Return the table of these labels, in the order of columns; TypeError or ValueError if
        they cannot be labels."""
        listed = classes if isinstance(classes, (list, tuple)) else to_numpy(classes, name)
        values = comparable(_as_column(listed), name)
        if values.ndim != 1 or len(values) == 0:
            raise ValueError(
                f"{name} must be a list of labels, one for each column of outputs, got shape "
                f"{values.shape}"
            )
        table = LabelTable(tuple(values.tolist()))
        ordered = table._ordered
        if (twice := ordered[1:] == ordered[:-1]).any():
            raise ValueError(f"{name} must be distinct, got {ordered[1:][twice][0].item()!r} twice")
        return table

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def array(self) -> Array:
        """The labels (C,)."""
        return np.array(self.names)

    @cached_property
    def _order(self) -> I64:
        return np.argsort(_numbers_of(self.array), kind="stable")

    @cached_property
    def _ordered(self) -> Array:
        ordered: Array = _numbers_of(self.array)[self._order]
        return ordered

    def labels(self, numbers: I64) -> Array:
        """Return the labels of columns with these numbers."""
        labels: Array = self.array[numbers]
        return labels

    def numbers(self, given: Array, first_row: int = 0) -> I64:
        """Return the columns (b,) that labels (b,) name; ValueError if a label is not known."""
        values = _numbers_of(comparable(given, "targets", first_row))
        if len(values) == 0:
            return np.empty(0, dtype=np.int64)
        known = self._ordered
        if (values.dtype.kind == "U") != (known.dtype.kind == "U"):
            raise self._unknown(values[0], first_row)
        at = np.minimum(np.searchsorted(known, values), len(known) - 1)
        if not (good := known[at] == values).all():
            row = int(np.argmin(good))
            raise self._unknown(values[row], first_row + row)
        return np.ascontiguousarray(self._order[at], dtype=np.int64)

    def _unknown(self, value: Any, row: int) -> ValueError:
        hint = "rows with known labels are numpy.isin(targets, memory.classes_)"
        if value == convert.IGNORED:
            hint = f"to leave out rows labelled {value}, use {convert.TOKENS}"
        return ValueError(
            f"targets: row {row} has the label {value.item()!r}, which is not among the classes "
            f"{_listed(self.names)}; {hint}"
        )


def comparable(values: Array, name: str, first_row: int = 0) -> Array:
    """Return labels as an array of text, bools, integers or finite floats; others are refused."""
    kind = values.dtype.kind
    if kind in "bU":
        return values
    if kind == "T" or (kind in "iu" and values.dtype.itemsize <= 8):
        if kind == "u" and values.max(initial=0) > np.iinfo(np.int64).max:
            raise ValueError(f"{name} holds values beyond int64")
        return values.astype(np.str_ if kind == "T" else np.int64)
    if kind == "f":
        if not (finite := np.isfinite(values)).all():
            row = first_row + int(np.argwhere(~finite)[0][0])
            raise _missing(name, row)
        return values.astype(np.float64)
    if kind == "O":
        return _of_objects(values, name, first_row)
    hint = ""
    if kind in "SmMc":
        hint = f"; convert them, for example with numpy.asarray({name}).astype(str)"
    raise TypeError(
        f"{name} must be labels, which are text, bools, integers or floats, got dtype "
        f"{values.dtype}{hint}"
    )


def class_numbers(
    table: LabelTable | None, columns: int, targets: Array, first_row: int = 0,
    has_outputs: bool = True,
) -> I64:  # fmt: skip
    """Return the classes (b,) that targets (b,), (b, 1) or one-hot (b, C) name."""
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.ndim == 2:
        return _from_one_hot(targets, first_row)
    if table is not None:
        return table.numbers(targets, first_row)
    return convert.labels(whole(targets, first_row), columns, first_row, has_outputs)


def check_class_layout(targets: Any, columns: int) -> None:
    """Refuse targets that cannot be the classes of rows: (n,), (n, 1) or one-hot (n, C)."""
    shape = tuple(targets.shape)
    if len(shape) == 1 or (len(shape) == 2 and shape[1] in (1, columns)):
        return
    hint = ""
    if len(shape) == 2:
        hint = "; for the column of the largest value, pass numpy.argmax(targets, axis=1)"
        hint += f", and for tokens in sequences use {convert.TOKENS}"
    raise ValueError(f"targets must have shape (n,), (n, 1) or (n, {columns}), got {shape}{hint}")


def found(targets: Any, rows: Any, columns: int | None) -> tuple[LabelTable | None, int]:
    """Return the table of the labels that targets hold, and the number of columns.

    ``rows`` are the targets in the form that rows can be sliced from. The table is None if they
    are integers 0 to C-1. ``columns`` None: there are no outputs, and as many columns as labels
    (as columns of one-hot targets; as the largest integer and 1, if none is negative).
    """
    if len(rows.shape) == 2 and rows.shape[1] > 1:
        return None, int(rows.shape[1]) if columns is None else columns
    categories = tables.categories_of(targets)
    labels = (
        _distinct(rows, columns) if categories is None else LabelTable.of(categories, "targets")
    )
    if labels is None:
        return None, _largest(rows) + 1 if columns is None else columns
    if columns is not None and len(labels) != columns:
        raise ValueError(
            f"targets hold the labels {_listed(labels.names)}, and outputs have {columns} columns"
            f"{_to_columns(labels, columns)}"
        )
    return plain_as_none(labels), len(labels)


def refuse_other_order(table: LabelTable, columns: tuple[str, ...] | None) -> None:
    """Refuse a table whose labels are the names of the columns of outputs, in another order."""
    texts = [str(name) for name in table.names]
    if columns is None or texts == [*columns] or sorted(texts) != sorted(columns):
        return
    by_text = dict(zip(texts, table.names, strict=True))
    raise ValueError(
        f"columns of outputs are named {_listed(columns)}, and the labels that stand for them are "
        f"{_listed(table.names)}; give their order, resmem.Memory(classes="
        f"{[by_text[name] for name in columns]!r})"
    )


def plain_as_none(table: LabelTable | None) -> LabelTable | None:
    """Return None for a table of integers 0 to C-1, which need none."""
    plain = table is not None and all(
        type(name) is int and name == at for at, name in enumerate(table.names)
    )
    return None if plain else table


# ---------------------------------------------------------------------- parts


def _distinct(rows: Any, columns: int | None) -> LabelTable | None:
    """Return the table of all labels, ascending; None if the targets are integers 0 to C-1, or
    integers that are mistaken for these, of which ``convert.labels`` names one."""
    if all(_is_plain(values, columns) for values in _parts(rows)):
        return None
    labels: Array | None = None
    for values in _parts(rows):
        some = distinct(values)
        if labels is not None and labels.dtype.kind != some.dtype.kind:  # a slice of objects each
            some = comparable(np.array([*labels.tolist(), *some.tolist()], object), "targets")
            labels = some[:0]
        labels = some if labels is None else distinct(np.concatenate([labels, some]))
        if columns is not None and len(labels) > columns:
            break
    assert labels is not None
    if labels.dtype.kind == "b" and columns in (None, 2):
        return LabelTable((False, True))
    if labels.dtype.kind == "i" and columns is not None and _is_mistaken(labels, columns):
        return None
    return LabelTable(tuple(labels.tolist()))


def _to_columns(labels: LabelTable, columns: int) -> str:
    """Return how labels and columns become equally many, as the end of a message."""
    if columns == 1:
        return f"; {convert.BOTH_COLUMNS}"
    values = ", or, if these are values and not classes, use task='regression'"
    return (
        "; name the label of each column in order, such as those that the model has: "
        "resmem.Memory(classes=model.classes_)" + (values if labels.array.dtype.kind == "f" else "")
    )


def _is_mistaken(labels: Array, columns: int) -> bool:
    """Tell whether integers, not all from 0 to C-1, are no labels: more than there are columns,
    counted from 1, or with one that stands for none."""
    from_one = len(labels) < columns and labels[0] > 0 and labels[-1] == columns
    return len(labels) > columns or bool(from_one) or bool((labels == convert.IGNORED).any())


def _is_plain(values: Array, columns: int | None) -> bool:
    """Tell whether labels are numbers of columns: integers, or floats that are whole numbers."""
    if values.dtype.kind not in "if" or values.min(initial=0) < 0:
        return False
    integers = values.dtype.kind == "i" or _are_whole(values)
    return integers and (columns is None or bool(values.max(initial=0) < columns))


def _parts(rows: Any) -> Iterator[Array]:
    """Yield comparable labels, block by block of rows."""
    for block in blocks(int(rows.shape[0]), _LABEL_BYTES):
        part = read_block(rows, block, "targets")
        yield comparable(part[:, 0] if part.ndim == 2 else part, "targets", block.start)
        release_pages(rows, block)


def _largest(rows: Any) -> int:
    """Return the largest of integers that are classes; 0 if there are none."""
    return max((int(part.max(initial=0)) for part in _parts(rows)), default=0)


def whole(values: Array, first_row: int = 0) -> Array:
    """Return bools and whole floats, objects too, as integers; other values unchanged."""
    if values.dtype.kind == "O":
        values = comparable(values, "targets", first_row)
    if values.dtype.kind == "b":
        return values.astype(np.int64)
    return values.astype(np.int64) if values.dtype.kind == "f" and _are_whole(values) else values


def _from_one_hot(targets: Array, first_row: int) -> I64:
    if targets.dtype.kind not in "biuf":
        convert.check_layout(targets, "targets", "(n, C)")
    good = ((targets == 0) | (targets == 1)).all(axis=1) & ((targets == 1).sum(axis=1) == 1)
    if not good.all():
        raise ValueError(
            f"targets: row {first_row + int(np.argmin(good))} is not one-hot, which is 1 for its "
            "class and 0 for all others; for the column of the largest value, pass "
            "numpy.argmax(targets, axis=1)"
        )
    classes: I64 = np.argmax(targets, axis=1).astype(np.int64, copy=False)
    return classes


def _of_objects(values: Array, name: str, first_row: int) -> Array:
    """Return labels that lie in an array of objects as one of their own dtype."""
    kinds = set()
    for row, value in enumerate(values.ravel()):
        if isinstance(value, (str, bool, np.bool_, int, np.integer, float, np.floating)):
            if value != value:
                raise _missing(name, first_row + row)
            kinds.add(str if isinstance(value, str) else float)
        elif value is None or type(value).__name__ in ("NAType", "NaTType"):
            raise _missing(name, first_row + row)
        else:
            raise TypeError(
                f"{name} must be labels, which are text, bools, integers or floats, got "
                f"{type(value).__name__} at row {first_row + row}; make text of them, "
                f"[str(label) for label in {name}]"
            )
    if len(kinds) > 1:
        raise TypeError(
            f"{name} must be labels of one kind, all text or all numbers, got both; make text of "
            f"them, [str(label) for label in {name}]"
        )
    converted = np.array(values.tolist())
    if converted.dtype.kind == "O" or converted.dtype.kind == "u":
        raise ValueError(f"{name} holds values beyond int64")
    return converted if converted.size == 0 else comparable(converted, name, first_row)


def _missing(name: str, row: int) -> ValueError:
    return ValueError(
        f"{name}: row {row} has no label, but None, NaN or infinity; leave such rows out"
    )


def _as_column(listed: Any) -> Array:
    """Return a list as an array of objects, so that NumPy does not turn numbers into text."""
    if isinstance(listed, np.ndarray):
        return listed
    column = np.empty(len(listed), dtype=object)
    column[:] = listed
    return column


def _numbers_of(values: Array) -> Array:
    """Return bools, and floats that are all whole, as integers, so that equal labels are equal."""
    if values.dtype.kind == "b" or (values.dtype.kind == "f" and _are_whole(values)):
        return values.astype(np.int64)
    return values


def _are_whole(values: Array) -> bool:
    return bool(((values == np.floor(values)) & (np.abs(values) <= _EXACT_INTEGERS)).all())


def _listed(names: tuple[Label, ...]) -> str:
    shown = ", ".join(map(repr, names[:_LABELS_SHOWN]))
    more = len(names) - _LABELS_SHOWN
    return shown + (f" and {more} more" if more > 0 else "")
