"""What ``Memory.prune`` returns, and its other forms: a printed table, JSON, a DataFrame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from resmem._base.arrays import I64
from resmem._evaluation.explain import aligned
from resmem._evaluation.result import import_pandas, json_ready
from resmem._scores.intervals import Interval


class CurvePoint(NamedTuple):
    """A memory of some of the rows.

    ``loss`` is its mean loss on the rows that judge: log-loss, or squared error summed over
    columns. ``rise`` is by how much that is above the loss of all rows, ``over_random`` by how much
    it is below ``random_loss``, the mean of three random prunings of as many rows; each with its
    interval, paired over the rows that judge.
    """

    rows: int
    loss: float
    rise: Interval
    random_loss: float
    over_random: Interval


@dataclass(frozen=True, eq=False)
class Pruning:
    """The curve of loss against rows kept, and which rows go.

    Attributes
    ----------
    task : str
    memory_rows, kept_rows : int
        Rows of the memory, and those of them that are kept.
    ids : int64 array (memory_rows - kept_rows,)
        Of the rows that go, in the order of storage.
    curve : tuple of CurvePoint
        From all rows to the fewest; each memory is a part of the one before.
    base_loss : float
        The mean loss of the base model on the same rows.
    judged_by : {"validation rows", "rows of the memory"}
    judged_rows : int
        How many they are.
    confidence : float
        Of the intervals.
    reason : str
        Why so many rows are kept.
    applied : bool
        Whether the rows were removed.
    """

    task: str
    memory_rows: int
    kept_rows: int
    ids: I64
    curve: tuple[CurvePoint, ...]
    base_loss: float
    judged_by: str
    judged_rows: int
    confidence: float
    reason: str
    applied: bool

    @property
    def chosen(self) -> CurvePoint:
        """The point of the curve that has as many rows as are kept."""
        return next(point for point in self.curve if point.rows == self.kept_rows)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it: infinities are "inf" and "-inf"."""
        facts = {name: value for name, value in vars(self).items() if name not in ("ids", "curve")}
        curve = [point._asdict() for point in self.curve]
        return dict(json_ready({**facts, "ids": self.ids.tolist(), "curve": curve}))

    def to_pandas(self) -> Any:
        """Return the curve as a pandas.DataFrame, by the number of rows kept."""
        lines = [
            {
                "rows": point.rows,
                "loss": point.loss,
                "rise": point.rise.mean,
                "rise_low": point.rise.low,
                "rise_high": point.rise.high,
                "random_loss": point.random_loss,
                "over_random": point.over_random.mean,
                "over_random_low": point.over_random.low,
                "over_random_high": point.over_random.high,
            }
            for point in self.curve
        ]
        return import_pandas().DataFrame(lines).set_index("rows")

    def __repr__(self) -> str:
        loss = "log-loss" if self.task == "classification" else "squared error"
        interval = f"({self.confidence:.0%})"
        table = [["rows", "share", loss, f"rise {interval}", "random", f"below random {interval}"]]
        for point in self.curve:
            mark = " <" if point.rows == self.kept_rows else ""
            table.append(
                [
                    f"{point.rows}{mark}",
                    f"{point.rows / self.memory_rows:.0%}",
                    f"{point.loss:.4g}",
                    _text(point.rise),
                    f"{point.random_loss:.4g}",
                    _text(point.over_random),
                ]
            )
        done = "removed" if self.applied else "would go"
        return "\n".join(
            [
                f"Pruning: {self.kept_rows} of {self.memory_rows} rows, {len(self.ids)} {done}",
                self.reason,
                f"on {self.judged_rows} {self.judged_by}; base {loss} {self.base_loss:.4g}",
                *aligned(table),
            ]
        )


def _text(found: Interval) -> str:
    return f"{found.mean:+.3g} [{found.low:+.3g}, {found.high:+.3g}]"
