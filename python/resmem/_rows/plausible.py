"""Data that can be read, but seem to mean something else than what they are taken for.

A few rows are looked at, once a call; what is found is said with the way to mend it. A check
belongs here only if correct use does not meet it: a warning that is often wrong is soon ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from resmem import _core
from resmem._base.arrays import F64, I64, Array, Keys, read_block
from resmem._base.errors import warn
from resmem._base.sample import sample
from resmem._keys.stored import widen_keys
from resmem._rows.snapshot import Snapshot

if TYPE_CHECKING:
    from resmem._rows.spec import Spec

_ROWS = 256  # that are looked at
_VALUES = 1 << 20  # of them, at most
_HALF_WIDTH = 1e-2  # by how much rows of float16 probabilities miss 1
_SINGLE_WIDTH = 1e-5  # the same of float32
_MANY = 8  # so many logits do not sum to 1 by chance within a hundredth
_SHARE = 0.05  # of rows that are rows of the memory: more than chance and habit explain
_MOST_NAMES = 1 << 20  # letters of all names of columns that a memory keeps

# ---------------------------------------------------------------------- logits


def check_logits(spec: Spec, outputs: Any, fitted: bool = False) -> None:
    """Warn of probabilities that are given as logits. ``outputs``: rows that can be sliced;
    ``fitted``: they are those of queries."""
    if outputs is None or spec.output_kind != "logits" or len(outputs.shape) != 2:
        return
    n, columns = (int(length) for length in outputs.shape)
    if n == 0 or columns < 2:
        return
    rows = sample(n, max(1, min(_ROWS, _VALUES // columns)))
    tolerance = _HALF_WIDTH if len(rows) >= _MANY else _SINGLE_WIDTH
    whole, votes = 0.0, len(rows) < _MANY  # a few rows of zeros and a one may be anything
    for row in rows:  # the first row of logits ends the loop
        values = read_block(outputs, slice(row, row + 1), "outputs")
        whole = _sum_of_chances(values, tolerance, whole)
        if whole == 0:
            return
        votes = votes and bool(np.all(values == np.round(values)))
    if votes:
        return
    percent = " in percent" if whole == 100 else ""
    divided = " and divide them by 100" if whole == 100 else ""
    logarithms = ", or, if it was fitted with log-probabilities, pass numpy.log(outputs)"
    if whole == 100 or not fitted:
        logarithms = ""
    warn(
        f"outputs look like probabilities{percent}: none is negative and every row sums to "
        f"{whole:g}, but they are taken for logits; make the memory with "
        f"output_kind='probabilities'{divided}{logarithms}"
    )


def _sum_of_chances(values: Array, tolerance: float, whole: float) -> float:
    """1 or 100, to which all probabilities of a row sum; 0 if it holds something else, or not what
    the rows before it sum to (``whole``, 0 before the first)."""
    if not values.min() >= 0:
        return 0.0
    total = values.sum(dtype=np.float64)
    for wanted in (1.0, 100.0):
        near = abs(total - wanted) <= tolerance * wanted
        if whole in (0.0, wanted) and near and values.max() <= wanted:
            return wanted
    return 0.0


def check_roles(outputs: Any, targets: Any) -> None:
    """Refuse outputs and targets of classes that were given for each other."""
    classes = len(outputs.shape) == 1 and outputs.dtype.kind in "iu"
    if classes and len(targets.shape) == 2 and targets.dtype.kind == "f":
        raise ValueError(
            f"outputs hold integers {tuple(outputs.shape)} and targets real numbers "
            f"{tuple(targets.shape)}, as if one were given for the other; the order is "
            "embeddings, outputs, targets"
        )


# ---------------------------------------------------------------------- rows of the memory


class Seen:
    """Counts the judged rows that are rows of the memory with the same target, in a sample."""

    def __init__(self, spec: Spec, rows: Snapshot, q: int) -> None:
        self._spec, self._rows, self._sampled = spec, rows, sample(q, _ROWS)
        self._found = 0

    def blocks(self) -> Iterator[slice]:
        """The sampled rows, each a slice."""
        return (slice(int(row), int(row) + 1) for row in self._sampled)

    def look(self, block: slice, keys: Keys, nearest: I64, targets: npt.NDArray[Any]) -> None:
        """At the sampled rows of a block, given the keys (b, m) that were searched for, the
        positions (b,) of the nearest rows, -1 for none, and their targets."""
        at = self._sampled[(self._sampled >= block.start) & (self._sampled < block.stop)]
        at = at[nearest[at - block.start] >= 0] - block.start
        at = at[np.argsort(nearest[at], kind="stable")]
        start = 0
        for segment, there in self._rows.at(nearest[at]):
            here = at[start : start + len(there)]
            start += len(there)
            same = (segment["keys"][there] == self._as_stored(keys[here])).all(axis=1)
            alike = segment["targets"][there] == targets[here]
            self._found += int((same & alike.reshape(len(here), -1).all(axis=1)).sum())

    def _as_stored(self, keys: Keys) -> Array:
        """Rounded as the keys of the memory are; what is beyond them is infinite."""
        dtype = self._spec.key_dtype
        if dtype not in ("float16", "bfloat16"):
            return keys
        return _core.narrow(np.ascontiguousarray(keys, dtype=np.float32), dtype)

    def note(self, rows: str) -> str | None:
        """What is to be said of them, called ``rows``; None if there is nothing."""
        share = self._found / max(1, len(self._sampled))
        if self._found < 2 or share <= _SHARE:
            return None
        return (
            f"{share:.0%} of the {rows} rows lie on rows of the memory with the same target: if "
            "they are the same examples, and not others that happen to be equal, they prove "
            "nothing; name them with exclude_ids, use rows that are not in the memory, or "
            "tune(loo=True)"
        )


# ---------------------------------------------------------------------- neighbours


def check_distances(rows: Snapshot, distances: F64, positions: I64, metric: str) -> None:
    """Warn of squared distances that are taken for plain ones, and the reverse.

    ``distances`` (q, k) are Euclidean as they were taken. With those of the nearest and of the
    last neighbour, the distance between the two rows makes a triangle; no side of a triangle is
    longer than the others together.
    """
    some = sample(len(positions), _ROWS)
    last = (positions[some] >= 0).sum(axis=1) - 1 if len(some) else some
    some, last = some[last > 0], last[last > 0]
    if len(some) < _MANY:
        return
    near, far = (_keys_at(rows, positions[some, at]) for at in (0, last))
    side = np.sqrt(np.square(far - near).sum(axis=1))
    first, second = distances[some, 0], distances[some, last]
    other = np.square if metric == "sqeuclidean" else np.sqrt
    if _triangles(first, second, side).mean() > 0.5:
        return
    if _triangles(other(first), other(second), side).all():
        wanted = "euclidean" if metric == "sqeuclidean" else "sqeuclidean"
        cure = "if they are plain" if metric == "sqeuclidean" else "if they are squared, as FAISS's"
        warn(
            f"distances taken for metric={metric!r} contradict those between the neighbours "
            f"themselves; {cure}, pass metric={wanted!r}"
        )


def _keys_at(rows: Snapshot, positions: I64) -> F64:
    """The stored keys (m, w) at positions (m,) in any order."""
    order = np.argsort(positions, kind="stable")
    found = [widen_keys(segment["keys"][at]) for segment, at in rows.at(positions[order])]
    keys = np.empty((len(positions), found[0].shape[1]))
    keys[order] = np.concatenate(found)
    return keys


def _triangles(first: F64, second: F64, side: F64) -> npt.NDArray[np.bool_]:
    """Whether there are triangles with such sides, but for what float32 rounds off."""
    slack = 1e-3 * (first + second + side)
    longest = np.maximum(np.maximum(first, second), side)
    return np.asarray(2 * longest <= first + second + side + slack)


# ---------------------------------------------------------------------- names of columns


def column_names(table: Any) -> tuple[str, ...] | None:
    """Of a DataFrame (pandas, polars) or its like whose columns all have names; else None."""
    if isinstance(table, np.ndarray):
        return None
    for attribute in ("columns", "column_names"):
        names = getattr(table, attribute, None)
        if names is None or callable(names) or not hasattr(names, "__len__"):
            continue
        if len(names) and all(isinstance(name, str) for name in names):
            return tuple(map(str, names)) if sum(map(len, names)) <= _MOST_NAMES else None
    return None


def check_names(
    table: Any, name: str, known: tuple[str, ...] | None, of: str = "fit", kept: str = ""
) -> None:
    """Refuse columns that have other names, or another order, than ``known``, those of ``of``.

    ``kept``: where the caller finds these; by default in the memory.
    """
    names = column_names(table)
    if names is None or known is None or names == known:
        return
    missing = [each for each in known if each not in set(names)]
    if missing:
        raise ValueError(
            f"{name} must have the columns that {of} had, column {missing[0]!r} is missing; rename "
            f"the columns, or pass {name}.to_numpy() if they mean the same in this order"
        )
    at = next((i for i, each in enumerate(known) if names[i] != each), len(known))
    got = f"column {at} is {names[at]!r}"
    got += f" and not {known[at]!r}" if at < len(known) else f", which {of} had not"
    kept = kept or f"memory.{name[:-1]}_names_"
    raise ValueError(
        f"{name} must have the columns that {of} had in their order, {got}; pass "
        f"{name}[list({kept})]"
    )


def check_order(targets: Any, outputs: tuple[str, ...] | None, kept: str) -> None:
    """Refuse targets of several columns whose names are those of the outputs in another order.

    ``kept``: where the caller finds the names of the outputs.
    """
    names = column_names(targets)
    if names is None or outputs is None or names == outputs or sorted(names) != sorted(outputs):
        return
    at = next(i for i, each in enumerate(outputs) if names[i] != each)
    raise ValueError(
        f"targets must have the columns of outputs in their order, column {at} is {names[at]!r} "
        f"and not {outputs[at]!r}; pass targets[list({kept})]"
    )
