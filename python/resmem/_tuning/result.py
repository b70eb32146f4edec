"""What tuning found."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from resmem._base.arrays import F64, I64, distinct
from resmem._scores.metrics import Interval
from resmem._state.settings import Settings

TABLE = np.dtype(
    [("k", np.int64), ("sigma", np.float64), ("temperature", np.float64), ("strength", np.float64),
     ("probability_map", "U48"), ("preprocess", "U48"), ("key_dtype", "U8"), ("score", np.float64)]
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class TuneResult:
    """Settings chosen on validation rows, and whether the memory helps there.

    ``gain`` decides: it compares, on rows that did not choose, the settings chosen by the other
    rows with the base model at the temperature chosen by the other rows. ``scores`` are of the
    rows that chose, and so are flattering.

    Attributes
    ----------
    task, score : str
    greater_is_better : bool
        Of the score. ``gain`` is positive where it got better, whichever way that is.
    rows, folds : int
        Validation rows, and the parts they were cut into.
    best : Settings
        What to use: ``candidate``, or strength 0 where its gain is not clear of 0, then with
        ``k`` and ``sigma`` of the best at strength 1, as published.
    candidate : Settings
        The best of the grid by the score over all rows.
    base, published, knn : Settings
        The best at strength 0, at strength 1 by the map "clip" (if tried), and of the neighbours'
        targets alone (of which only ``k``, ``sigma`` and ``probability_map`` mean anything).
    scores : dict
        Score over all rows of "base" (as given), "base, own temperature", "mean residual",
        "kNN alone", "published" and "candidate".
    held_out : dict
        Score over all rows of "base" (own temperature) and "candidate", each row's settings chosen
        without its fold.
    gain, local_gain, temperature_gain : Interval
        Of the candidate over the base at its own temperature; over the better of two stand-ins for
        the neighbours, the mean residual of all rows and the neighbours of other validation rows;
        of the base with its own
        temperature and probability map over the base as given.
    useful : bool
        Whether the first two are clear of 0.
    reason : str
        Why it was kept or switched off, in one sentence.
    notes : tuple of str
        What else there is to know, such as a best value at the edge of its grid.
    table : structured array
        A row per setting: those of ``Settings``, and "score" over all rows.
    per_fold : tuple of Settings
        The candidates chosen without each fold.
    seconds : dict
        Time of "search", "sweep" and "proof".
    """

    task: str
    score: str
    greater_is_better: bool
    rows: int
    folds: int
    best: Settings
    candidate: Settings
    base: Settings
    published: Settings
    knn: Settings
    scores: dict[str, float]
    held_out: dict[str, float]
    gain: Interval
    local_gain: Interval
    temperature_gain: Interval
    useful: bool
    reason: str
    notes: tuple[str, ...]
    table: npt.NDArray[Any]
    per_fold: tuple[Settings, ...]
    seconds: dict[str, float]

    def with_notes(self, notes: tuple[str, ...]) -> TuneResult:
        """The same with other notes."""
        return replace(self, notes=notes)

    def surface(self) -> tuple[I64, F64, F64]:
        """Scores over k and sigma, all else as in ``candidate``: ks, sigmas, (ks, sigmas)."""
        here = np.ones(len(self.table), dtype=bool)
        for name in self.table.dtype.names or ():
            if name not in ("k", "sigma", "score"):
                here &= self.table[name] == getattr(self.candidate, name)
        some = self.table[here]
        ks, sigmas = distinct(some["k"]), distinct(some["sigma"])
        scores = np.full((len(ks), len(sigmas)), np.nan)
        at = np.searchsorted(ks, some["k"]), np.searchsorted(sigmas, some["sigma"])
        scores[at] = some["score"]
        return ks, sigmas, scores

    def to_pandas(self) -> Any:
        """The table as a DataFrame (needs pandas)."""
        import pandas

        return pandas.DataFrame(self.table)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, strings, lists and dicts; infinity is "inf"."""
        whole = asdict(self)
        whole["gain"] = self.gain._asdict()
        whole["local_gain"] = self.local_gain._asdict()
        whole["temperature_gain"] = self.temperature_gain._asdict()
        names = self.table.dtype.names or ()
        whole["table"] = {name: self.table[name].tolist() for name in names}
        plain: dict[str, Any] = _plain(whole)
        return plain

    def __repr__(self) -> str:
        better = "larger" if self.greater_is_better else "smaller"
        lines = [
            f"Tuned by {self.score} ({better} is better) on {self.rows:,} rows, {self.folds} folds,"
            f" {len(self.table):,} settings",
            self.reason,
            f"best: {self.best}",
            "                          score  settings",
        ]
        for name, settings in (
            ("base", None),
            ("base, own temperature", self.base),
            ("mean residual", None),
            ("kNN alone", self.knn),
            ("published", self.published),
            ("candidate", self.candidate),
        ):
            said = str(settings)
            if settings is None:
                said = "as given" if name == "base" else "of all rows, for the neighbours'"
            if name == "kNN alone":
                said = f"k={self.knn.k}, sigma={self.knn.sigma:.4g}"
            elif name == "base, own temperature":
                said = f"temperature={self.base.temperature:g}"
            lines.append(f"  {name:<21} {self.scores[name]:>9.5g}  {said}")
        lines.append("  (on the rows that chose; held out: " + self._held_out() + ")")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def _held_out(self) -> str:
        base, candidate = self.held_out["base"], self.held_out["candidate"]
        return f"base {base:.5g}, candidate {candidate:.5g}"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
