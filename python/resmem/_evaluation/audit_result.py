"""What ``Memory.audit`` returns, and its other forms: a printed table, JSON, a DataFrame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from resmem._base.arrays import F64, I64, Array
from resmem._evaluation.explain import aligned
from resmem._evaluation.result import import_pandas, json_ready

_ROWS_SHOWN = 10  # rows in the printed table
_FAR = 3  # spreads that few rows lie from their neighbours' mean, if these are normal


@dataclass(frozen=True, eq=False)
class Audit:
    """The rows of a memory, the most suspicious ones first.

    All arrays have the order of ``ids``: by falling ``score``, equal ones by falling ``harm``, then
    by id.

    Attributes
    ----------
    task : str
    memory_rows : int
        Number of rows of the memory, all of which may be neighbours.
    settings : dict
        The memory's "k", "sigma_" and "method".
    ids : int64 array (m,)
        Of the audited rows.
    targets : array (m,) of labels; for regression float64 (m,) or (m, C)
        Their targets.
    expected : array like ``targets``
        What their neighbours say: the class that has more of their weight than the row's own, if
        there is one, else the row's own; the weighted mean of their values.
    spread : float64 array (m,), or None
        For regression the weighted standard deviation of the neighbours' values (over several
        columns: the root of the summed variances), in units of the target.
    score : float64 array (m,)
        How clearly the neighbours contradict the row. Classification: the share, 0 to 1, of their
        weight that classes other than the row's have. Regression: the distance of the target from
        ``expected``, in units of ``spread``, which counts as at least a tenth of its median. 0 for
        a row that has no neighbours.
    duplicates : int64 array (m,)
        Neighbours that have the same key and another target.
    harm : float64 array (m,)
        What the row does to the audited rows that it is a neighbour of: by how far all that it adds
        to their answers, alone and at strength 1, moves these away from their targets, summed over
        the rows; below 0, towards them on balance. Each adds its weight times its residual (with
        ``method="targets"``, times what its target is off their base outputs). Classification: the
        fall of the probability of the row's class. Regression: the growth of the distance from the
        row's value.
    used, misled : int64 arrays (m,)
        Of how many audited rows it is a neighbour, and how many of these it moves away from their
        target.
    classes : tuple or None
        What targets call the columns, as ``Memory.classes_``, where that is not 0 to C-1.
    """

    task: str
    memory_rows: int
    settings: dict[str, Any]
    ids: I64
    targets: Array
    expected: Array
    spread: F64 | None
    score: F64
    duplicates: I64
    harm: F64
    used: I64
    misled: I64
    classes: tuple[Any, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def table(self) -> dict[str, Array]:
        """The arrays with an entry per row, by name."""
        names = (
            "ids",
            "targets",
            "expected",
            "spread",
            "score",
            "duplicates",
            "harm",
            "used",
            "misled",
        )
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def contradicting(self) -> I64:
        """The ids of rows that share their key with a neighbour of another target, worst first."""
        return self.ids[self.duplicates > 0]

    @property
    def harmful(self) -> I64:
        """The ids of rows that do more harm than good, the most harmful first."""
        order = np.argsort(-self.harm, kind="stable")
        ids: I64 = self.ids[order[self.harm[order] > 0]]
        return ids

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it, arrays as lists."""
        facts = {"task": self.task, "memory_rows": self.memory_rows, "settings": self.settings}
        columns = {name: array.tolist() for name, array in self.table.items()}
        return dict(json_ready({**facts, **columns}))

    def to_pandas(self) -> Any:
        """Return the table as a pandas.DataFrame, by id; values of several columns are lists."""
        columns = {
            name: array if array.ndim == 1 else list(array) for name, array in self.table.items()
        }
        return import_pandas().DataFrame(columns).set_index("ids")

    def __repr__(self) -> str:
        of = "" if len(self) == self.memory_rows else f" of {self.memory_rows}"
        settings = ", ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in self.settings.items()
        )
        table = [list(self.table)]
        for row in range(min(len(self), _ROWS_SHOWN)):
            table.append([_cell(array[row]) for array in self.table.values()])
        lines = [f"Audit of {len(self)}{of} rows ({settings})", *self.findings, *aligned(table)]
        if len(self) > _ROWS_SHOWN:
            lines.append(f"and {len(self) - _ROWS_SHOWN} more")
        return "\n".join(lines)

    @property
    def findings(self) -> list[str]:
        """What the audit found, in lines of text."""
        if self.task == "classification":
            against = "rows whose neighbours prefer another class"
            count = int((self.expected != self.targets).sum())
        else:
            against = f"rows beyond {_FAR} spreads of their neighbours"
            count = int((self.score > _FAR).sum())
        return [
            f"{count} {against}",
            f"{len(self.contradicting)} rows with a duplicate of another target",
            f"{len(self.harmful)} rows that do more harm than good",
        ]


def _cell(value: Any) -> str:
    if np.ndim(value):
        return f"({len(value)} values)"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
