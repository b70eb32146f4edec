"""Examples that a memory changed, and how far each neighbour pushed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from resmem._evaluation.explain import Explanation
    from resmem._evaluation.result import Evaluation

Classes = Sequence[Any] | None  # names of the classes, by index
KINDS = ("corrected", "harmed")


@dataclass(frozen=True)
class Neighbour:
    """A row of the memory, and how far it pushed the prediction."""

    id: int
    target: str
    distance: float
    weight: float
    push: float


@dataclass(frozen=True)
class Change:
    """A query with and without the memory.

    A push is a neighbour's contribution to the correction as it is applied: for classes from
    ``before`` towards ``after``, for values in the direction of the whole correction.
    """

    query: int  # its number in the explanation
    row: int  # its row number in the evaluation
    kind: str  # "corrected" or "harmed"; "" without an evaluation
    before: str
    after: str
    # The neighbours that pushed farthest, ordered from the largest push towards ``after``.
    neighbours: tuple[Neighbour, ...]
    others: int  # number of neighbours left out
    others_push: float  # sum of their pushes

    def helps(self, push: float) -> bool:
        """Whether a push is towards the truth, as far as that is known."""
        return (push >= 0) == (self.kind != "harmed")

    @property
    def pushes(self) -> list[tuple[str, float]]:
        """Every push with the text that names its neighbour."""
        near = [(f"{n.target}, {n.weight:.0%}, id {n.id}", n.push) for n in self.neighbours]
        return near + ([(f"{self.others} more", self.others_push)] if self.others else [])

    @property
    def words(self) -> str:
        """The change in one line."""
        kind = f"{self.kind}: " if self.kind else ""
        return f"{kind}{self.before} → {self.after}" if self.before else kind + self.after


def changes(
    explanation: Explanation,
    evaluation: Evaluation | None,
    rows: Any,
    classes: Classes,
    count: int,
    neighbours: int,
) -> list[Change]:
    """Return at most ``count`` corrected and ``count`` harmed examples; without an evaluation, the
    first ``count`` examples of the explanation."""
    row_of = _rows(explanation, evaluation, rows)
    if evaluation is None:
        picked = [(query, "") for query in range(min(count, len(row_of)))]
    else:
        query_of = {row: query for query, row in enumerate(row_of)}
        picked = []
        for kind in KINDS:
            there = [
                query_of[row] for row in map(int, evaluation.examples[kind]) if row in query_of
            ]
            picked += [(query, kind) for query in there[:count]]
    return [
        _change(explanation, query, row_of[query], kind, classes, neighbours)
        for query, kind in picked
    ]


def class_name(classes: Classes, index: int) -> str:
    """Return the name of a class."""
    if classes is None:
        return f"class {index}"
    if not isinstance(classes, Sequence) and not hasattr(classes, "__array__"):
        raise TypeError(f"classes must be a list of names, got {type(classes).__name__}")
    if not 0 <= index < len(classes):
        raise ValueError(
            f"classes must name every class: class {index} has no name, got {len(classes)} names"
        )
    return str(classes[index])


def _rows(explanation: Explanation, evaluation: Evaluation | None, rows: Any) -> list[int]:
    """Return the evaluated row of every query that is explained."""
    queries = len(explanation)
    if rows is not None:
        listed = np.asarray(rows)
        if listed.shape != (queries,) or listed.dtype.kind not in "iu":
            raise ValueError(
                f"rows must be ({queries},) integers, one row for each query explained, got "
                f"{listed.dtype} {listed.shape}"
            )
        return [int(row) for row in listed]
    if evaluation is not None and evaluation.rows != queries:
        raise ValueError(
            f"{queries} queries are explained and {evaluation.rows} rows evaluated: give rows=, "
            "the evaluated row of each query explained"
        )
    return list(range(queries))


def _change(
    explanation: Explanation, query: int, row: int, kind: str, classes: Classes, shown: int
) -> Change:
    ids = np.asarray(explanation.ids[query])
    there = np.flatnonzero(ids >= 0)  # the rest is padding
    before, after, column, pushes = _moved(explanation, query, classes)
    farthest = there[np.argsort(-np.abs(pushes[there]), kind="stable")]
    picked, left = farthest[:shown], farthest[shown:]
    picked = picked[np.argsort(-pushes[picked], kind="stable")]
    near = [
        Neighbour(
            id=int(ids[j]),
            target=_target(explanation, query, int(j), column, classes),
            distance=float(explanation.distances[query][j]),
            weight=float(explanation.weights[query][j]),
            push=float(pushes[j]),
        )
        for j in picked
    ]
    rest = float(pushes[left].sum())
    return Change(query, row, kind, before, after, tuple(near), len(left), rest)


def _moved(
    explanation: Explanation, query: int, classes: Classes
) -> tuple[str, str, int, npt.NDArray[np.float64]]:
    """Return before and after in words, the column that matters, and every neighbour's push."""
    columns = np.asarray(explanation.columns[query])
    contributions = np.asarray(explanation.contributions[query])
    base, corrected = explanation.base, explanation.corrected
    if not is_classes(explanation):
        before, after = "", f"{explanation.correction[query][0]:+.4g}"
        if base is not None and corrected is not None:
            before, after = f"{base[query][0]:.4g}", f"{corrected[query][0]:.4g}"
        sign = -1.0 if explanation.correction[query][0] < 0 else 1.0
        return before, after, int(columns[0]), sign * contributions[:, 0]
    if base is None or corrected is None:
        new = int(np.argmax(explanation.correction[query]))
        spread = np.asarray(explanation.spread[query])
        words = f"{class_name(classes, columns[new])} {explanation.correction[query][new]:+.0%}"
        return "", words, int(columns[new]), contributions[:, new] + spread
    old, new = int(np.argmax(base[query])), int(np.argmax(corrected[query]))
    before = f"{class_name(classes, columns[old])} {base[query][old]:.0%}"
    after = f"{class_name(classes, columns[new])} {corrected[query][new]:.0%}"
    pushes = contributions[:, new] - contributions[:, old] if old != new else contributions[:, new]
    return before, after, int(columns[new]), pushes


def is_classes(explanation: Explanation) -> bool:
    """Whether the targets are classes."""
    return np.asarray(explanation.targets).dtype.kind in "iu"


def _target(explanation: Explanation, query: int, j: int, column: int, classes: Classes) -> str:
    target = explanation.targets[query][j]
    if is_classes(explanation):
        return class_name(classes, int(target))
    return f"{np.ravel(target)[column if np.ndim(target) else 0]:.4g}"
