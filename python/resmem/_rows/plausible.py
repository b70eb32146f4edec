"""Checks for data that are valid, but seem to mean something else than what they are taken for.

Each check reads a sample of rows, once per call, and its message says how to fix the call. A check
belongs here only if correct use does not trigger it: a warning that is often wrong is ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import resmem._core as _core
from resmem._base.arrays import F64, I64, Array, Keys, read_block
from resmem._base.errors import warn
from resmem._base.metric import Metric
from resmem._base.sample import sample
from resmem._base.tables import names_of
from resmem._rows.snapshot import Snapshot

if TYPE_CHECKING:
    from resmem._rows.spec import Spec

_SAMPLE_ROWS = 256  # rows in a sample
_SAMPLE_VALUES = 1 << 20  # values in a sample of outputs, unless one row has more
_FLOAT16_ERROR = 1e-2  # how far sums of float16 probabilities may be from 1
_FLOAT32_ERROR = 1e-5  # how far sums of float32 probabilities may be from 1
_ENOUGH_ROWS = 8  # rows from which a pattern is no coincidence
_MOST_OVERLAP = 0.05  # share of rows that may be equal to rows of the memory by chance
_MOST_NAME_LETTERS = 1 << 20  # letters in all column names that a memory keeps

# ---------------------------------------------------------------------- logits


def check_logits(spec: Spec, outputs: Any, fitted: bool = False) -> None:
    """Warn if ``outputs``, rows that can be sliced, are probabilities given as logits.

    ``fitted`` says that the memory has been fitted and these are outputs of queries.
    """
    if outputs is None or spec.output_kind != "logits" or len(outputs.shape) != 2:
        return
    n, columns = (int(length) for length in outputs.shape)
    if n == 0 or columns < 2:
        return
    rows = sample(n, max(1, min(_SAMPLE_ROWS, _SAMPLE_VALUES // columns)))
    tolerance = _FLOAT16_ERROR if len(rows) >= _ENOUGH_ROWS else _FLOAT32_ERROR
    # A few rows of integers, such as zeros and a one, may be logits all the same.
    total, integers = 0.0, len(rows) < _ENOUGH_ROWS
    for row in rows:  # the first row that holds no probabilities ends the loop
        values = read_block(outputs, slice(row, row + 1), "outputs")
        total = _sum_of_probabilities(values, tolerance, total)
        if total == 0:
            return
        integers = integers and bool(np.all(values == np.round(values)))
    if integers:
        return
    percent = " in percent" if total == 100 else ""
    divided = " and divide them by 100" if total == 100 else ""
    logarithms = ", or, if it was fitted with log-probabilities, pass numpy.log(outputs)"
    if total == 100 or not fitted:
        logarithms = ""
    warn(
        f"outputs look like probabilities{percent}: none is negative and every row sums to "
        f"{total:g}, but they are taken for logits; make the memory with "
        f"output_kind='probabilities'{divided}{logarithms}"
    )


def _sum_of_probabilities(values: Array, tolerance: float, before: float) -> float:
    """Return 1 or 100, if a row looks like probabilities with that sum; else 0.

    The sum must be the one ``before``, of the rows before this one; 0 stands for no such row.
    """
    if not values.min() >= 0:
        return 0.0
    total = values.sum(dtype=np.float64)
    for expected in (1.0, 100.0):
        close = abs(total - expected) <= tolerance * expected
        if before in (0.0, expected) and close and values.max() <= expected:
            return expected
    return 0.0


def check_roles(outputs: Any, targets: Any) -> None:
    """Refuse outputs and classes that were given in each other's place."""
    classes = len(outputs.shape) == 1 and outputs.dtype.kind in "iu"
    if classes and len(targets.shape) == 2 and targets.dtype.kind == "f":
        raise ValueError(
            f"outputs hold integers {tuple(outputs.shape)} and targets real numbers "
            f"{tuple(targets.shape)}, as if one were given for the other; the order is "
            "embeddings, outputs, targets"
        )


# ---------------------------------------------------------------------- rows of the memory


class OverlapCounter:
    """Counts how many of a sample of evaluated rows are in the memory with the same target."""

    def __init__(self, spec: Spec, rows: Snapshot, q: int) -> None:
        self._spec, self._rows, self.sampled = spec, rows, sample(q, _SAMPLE_ROWS)
        self._overlaps = 0

    def sampled_in(self, block: slice) -> I64:
        """Return which of the sampled rows lie in a block of evaluated rows, by their numbers."""
        first, last = np.searchsorted(self.sampled, (block.start, block.stop))
        return self.sampled[first:last]

    def count(self, keys: Keys, nearest: I64, targets: npt.NDArray[Any]) -> None:
        """Count the overlaps of some sampled rows.

        ``keys`` (b, m) are theirs, ``nearest`` (b,) are the positions of the rows of the memory at
        the smallest Euclidean distance, -1 for none, and ``targets`` (b, ...) are theirs.
        """
        at = np.flatnonzero(nearest >= 0)
        at = at[np.argsort(nearest[at], kind="stable")]
        start = 0
        for segment, rows in self._rows.at(nearest[at]):
            own = at[start : start + len(rows)]
            start += len(rows)
            same = (segment["keys"][rows] == self._as_stored(keys[own])).all(axis=1)
            alike = segment["targets"][rows] == targets[own]
            self._overlaps += int((same & alike.reshape(len(own), -1).all(axis=1)).sum())

    def _as_stored(self, keys: Keys) -> Array:
        """Round keys to the key dtype of the memory; values beyond it become infinite."""
        dtype = self._spec.key_dtype
        if dtype not in ("float16", "bfloat16"):
            return keys
        return _core.narrow(np.ascontiguousarray(keys, dtype=np.float32), dtype)

    def warning(self, rows: str, own: str = "") -> str | None:
        """Return a warning about the rows, called ``rows``; None if few are in the memory.

        ``own`` is the call, if there is one, that is made for the memory's own rows.
        """
        share = self._overlaps / max(1, len(self.sampled))
        if self._overlaps < 2 or share <= _MOST_OVERLAP:
            return None
        use = "use rows that are not in the memory" + (own and f", or {own}")
        return (
            f"{share:.0%} of the {rows} rows lie on rows of the memory with the same target: if "
            "they are the same examples, and not others that happen to be equal, they prove "
            f"nothing; name them with exclude_ids, {use}"
        )


# ---------------------------------------------------------------------- neighbours


def check_distances(rows: Snapshot, distances: F64, positions: I64, metric: Metric) -> None:
    """Warn if squared distances were given as plain ones, or the reverse.

    ``distances`` (q, k) are those of the memory's metric, if ``metric`` is right. A query, its
    nearest and its last neighbour form a triangle, in which no side is longer than the other two
    together.
    """
    some = sample(len(positions), _SAMPLE_ROWS)
    last = (positions[some] >= 0).sum(axis=1) - 1 if len(some) else some
    some, last = some[last > 0], last[last > 0]
    if len(some) < _ENOUGH_ROWS:
        return
    near, far = (rows.keys_at(positions[some, at]) for at in (0, last))
    side = np.sqrt(np.square(far - near).sum(axis=1))
    first, second = distances[some, 0], distances[some, last]
    if rows.metric == "sqeuclidean":
        first, second = np.sqrt(first), np.sqrt(second)
    other = np.square if metric == "sqeuclidean" else np.sqrt
    if _triangles(first, second, side).mean() > 0.5:
        return
    if _triangles(other(first), other(second), side).all():
        correct = "euclidean" if metric == "sqeuclidean" else "sqeuclidean"
        cure = "if they are plain" if metric == "sqeuclidean" else "if they are squared, as FAISS's"
        warn(
            f"distances taken for metric={metric!r} contradict those between the neighbours "
            f"themselves; {cure}, pass metric={correct!r}"
        )


def _triangles(first: F64, second: F64, side: F64) -> npt.NDArray[np.bool_]:
    """Tell which sides can form a triangle, with a tolerance for float32 rounding."""
    slack = 1e-3 * (first + second + side)
    longest = np.maximum(np.maximum(first, second), side)
    return np.asarray(2 * longest <= first + second + side + slack)


# ---------------------------------------------------------------------- names of columns


def column_names(table: Any) -> tuple[str, ...] | None:
    """Return the column names of a table, such as a DataFrame; None unless all have one."""
    if isinstance(table, np.ndarray):
        return None
    names = names_of(table)
    if not names or not all(isinstance(name, str) for name in names):
        return None
    return tuple(map(str, names)) if sum(map(len, names)) <= _MOST_NAME_LETTERS else None


def check_names(
    table: Any, name: str, known: tuple[str, ...] | None, source: str = "fit", kept: str = ""
) -> None:
    """Refuse columns with other names, or in another order, than ``known``.

    ``source`` is what had the known names, and ``kept`` is the expression that gives them; by
    default an attribute of the memory.
    """
    names = column_names(table)
    if names is None or known is None or names == known:
        return
    missing = [column for column in known if column not in set(names)]
    if missing:
        raise ValueError(
            f"{name} must have the columns that {source} had, column {missing[0]!r} is missing; "
            f"rename the columns, or pass numpy.asarray({name}) if they mean the same in this order"
        )
    at = next((i for i, column in enumerate(known) if names[i] != column), len(known))
    got = f"column {at} is {names[at]!r}"
    got += f" and not {known[at]!r}" if at < len(known) else f", which {source} had not"
    kept = kept or f"memory.{name[:-1]}_names_"
    raise ValueError(
        f"{name} must have the columns that {source} had in their order, {got}; pass "
        f"{_ordered(table, name, kept)}"
    )


def kept_names(name: str, table: Any) -> str:
    """Return the expression that gives the names of a table's columns, for ``kept``."""
    return f"{name}.{'column_names' if hasattr(table, 'column_names') else 'columns'}"


def _ordered(table: Any, name: str, kept: str) -> str:
    """Return the expression that takes a table's columns in the order of the names ``kept``."""
    if hasattr(table, "column_names"):  # a table of Arrow
        return f"{name}.select(list({kept}))"
    return f"{name}[list({kept})]"


def check_order(targets: Any, outputs: tuple[str, ...] | None, kept: str) -> None:
    """Refuse targets whose columns have the names of the outputs in another order.

    ``kept`` is the expression that gives the names of the outputs.
    """
    names = column_names(targets)
    if names is None or outputs is None or names == outputs or sorted(names) != sorted(outputs):
        return
    at = next(i for i, column in enumerate(outputs) if names[i] != column)
    raise ValueError(
        f"targets must have the columns of outputs in their order, column {at} is {names[at]!r} "
        f"and not {outputs[at]!r}; pass {_ordered(targets, 'targets', kept)}"
    )
