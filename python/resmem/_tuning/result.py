"""The result of tuning."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from resmem._base.arrays import F64, I64, distinct
from resmem._scores.intervals import Interval
from resmem._state.settings import Settings

TABLE = np.dtype(
    [("k", np.int64), ("sigma", np.float64), ("temperature", np.float64), ("strength", np.float64),
     ("probability_map", "U48"), ("preprocess", "U48"), ("key_dtype", "U8"), ("method", "U8"),
     ("score", np.float64)]
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class TuneResult:
    """Settings chosen on validation rows, and whether the memory helps there.

    ``gain`` decides: it compares the settings that the other folds chose with the base model at the
    temperature that the other folds chose, on rows that took no part in either choice. ``scores``
    are those of the rows that chose, and so are flattering.

    Attributes
    ----------
    task, score : str
    greater_is_better : bool
        Whether a greater score is better. ``gain`` is positive for the better in either case.
    rows, folds : int
        Numbers of validation rows, and of the folds they were cut into.
    best : Settings
        The settings to use: ``candidate``, or strength 0 where its gain is not clear of 0, then
        with ``k`` and ``sigma`` of the best at strength 1, as published.
    candidate : Settings
        The best of the grid by the score over all rows.
    base, published, knn : Settings
        The best at strength 0, the best at strength 1 with the map "clip" (if tried), and the best
        for the neighbours' targets alone (where only ``k``, ``sigma`` and ``probability_map``
        matter).
    interpolation : Settings or None
        The best with method="targets" (kNN-LM); None if that was not tried.
    scores : dict
        Score over all rows of "base" (as given), "base, own temperature", "mean residual",
        "kNN alone", "published", "interpolation" and "candidate".
    held_out : dict
        Score over all rows (in time, those after the first fold) of "base" (own temperature) and
        "candidate", each row predicted with the settings chosen without its fold.
    gain : Interval
        Gain of the candidate over the base at its own temperature (``resmem._scores.intervals``
        has the arithmetic).
    local_gain : Interval
        Gain of the candidate over the better of two stand-ins for the neighbours: the mean
        residual of all rows, and the neighbours of other validation rows.
    temperature_gain : Interval
        Gain of the base with its own temperature and probability map over the base as given.
    gate_gain : Interval or None
        Gain of the best gate over one strength for all queries, on rows that did not fit it, at a
        confidence that allows for the choice among several. ``best`` has that gate if the gain is
        clear of 0. None where none was tried: the memory is switched off, the rows are too few, or
        the score is not made of single rows.
    useful : bool
        Whether ``gain`` and ``local_gain`` are clear of 0, and the candidate's mean gain over the
        base as given is positive.
    reason : str
        Why the memory was kept or switched off.
    notes : tuple of str
        Other facts to know, such as a best value at the edge of its grid, or validation rows that
        depend on each other.
    table : structured array
        One row per setting: the fields of ``Settings`` but ``gate``, and "score" over all rows.
    per_fold : tuple of Settings
        The candidates chosen without each fold.
    seconds : dict
        Seconds that "search", "sweep" and "proof" took.
    risk : float
        The accepted probability of keeping a useless memory: gains are clear of 0 if the lower end
        of their interval at this one-sided risk is positive.
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
    interpolation: Settings | None
    scores: dict[str, float]
    held_out: dict[str, float]
    gain: Interval
    local_gain: Interval
    temperature_gain: Interval
    gate_gain: Interval | None
    useful: bool
    reason: str
    notes: tuple[str, ...]
    table: npt.NDArray[Any]
    per_fold: tuple[Settings, ...]
    seconds: dict[str, float]
    risk: float = 0.025

    def with_notes(self, notes: tuple[str, ...]) -> TuneResult:
        """Return the same result with these notes."""
        return replace(self, notes=notes)

    def surface(self) -> tuple[I64, F64, F64]:
        """Return ks, sigmas and their scores (ks, sigmas), all else as in ``candidate``."""
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
        """Return the table as a DataFrame (needs pandas)."""
        import pandas

        return pandas.DataFrame(self.table)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, strings, lists and dicts; infinity is "inf"."""
        whole = asdict(self)
        whole["gain"] = self.gain._asdict()
        whole["local_gain"] = self.local_gain._asdict()
        whole["temperature_gain"] = self.temperature_gain._asdict()
        whole["gate_gain"] = None if self.gate_gain is None else self.gate_gain._asdict()
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
            ("interpolation", self.interpolation),
            ("candidate", self.candidate),
        ):
            if name not in self.scores:
                continue
            text = str(settings)
            if settings is None:
                text = "as given" if name == "base" else "of all rows, instead of the neighbours'"
            if name == "kNN alone":
                text = f"k={self.knn.k}, sigma={self.knn.sigma:.4g}"
            elif name == "base, own temperature":
                text = f"temperature={self.base.temperature:g}"
            lines.append(f"  {name:<21} {self.scores[name]:>9.5g}  {text}")
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
