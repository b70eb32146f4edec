"""What ``Memory.evaluate`` returns, and its other forms: a printed table, JSON, a DataFrame."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from resmem._evaluation.explain import Explanation, aligned
from resmem._scores.intervals import Interval


@dataclass(frozen=True)
class MethodResult:
    """The scores of one method.

    Attributes
    ----------
    name : str
    kind : str
        What the method is, whatever its settings: "base", "own temperature", "neighbours",
        "interpolation", "published", "published elsewhere" (the residuals of another memory) or
        "memory".
    scores : dict
        Classification: "accuracy", "log_loss", "brier", "calibration_error", "perplexity" (the
        exponential of the log-loss: the number of equally likely classes that would be as hard to
        guess); regression: "rmse", "mae", "r2".
    corrected, harmed : int
        Rows that the base had wrong and this method has right, and the reverse; for regression
        rows whose squared error (summed over columns) is smaller, and larger, than the base's.
    gain : Interval or None
        By how much the log-loss (regression: squared error) of a row is below the base's, as a
        mean with its 95 % interval; positive is better. None for the base. An infinite log-loss
        counts as 745 here, just above the largest finite one; where both methods have infinite
        ones on different rows, nothing is known, and the interval is infinite.
    """

    name: str
    kind: str
    scores: dict[str, float]
    corrected: int
    harmed: int
    gain: Interval | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The base model, its neighbours alone, and the memory, on the same rows.

    Attributes
    ----------
    task : str
    rows : int
        Number of rows evaluated.
    settings : dict
        The memory's settings; those of the other methods, whose names begin with "knn_",
        "published_" and "interpolation_".
    methods : tuple of MethodResult
        "base": the outputs as given. "base, T=..": the outputs at the base's own temperature, if
        that is not 1: the one that tuning found best without any neighbour if ``knn`` is its
        result, else the memory's. "kNN alone": the weighted mean of the neighbours' targets.
        "interpolation, lambda ..": (1 - lambda) times the base plus lambda times that mean
        (kNN-LM), with the settings that tuning found for it, else the memory's, with the strength
        as lambda (0.25, as in the paper, unless the strength lies between 0 and 1). "ResMem as
        published" ("published sum, out-of-fold residuals" if the memory's residuals are those):
        strength 1 over the base at the memory's temperature, with the ``k`` and ``sigma`` that
        tuning found for it if ``knn`` is its result, else with the memory's; a second such row has
        the residuals of the memory ``published``.
        Last, "ResMem, strength .." (with method="targets" "ResMem by targets, strength ..", with a
        gate ".., gated"): the memory's own settings, if they differ from those. The map "clip"
        makes probabilities of a published sum, and the map of ``knn`` those of the neighbours
        alone; base and interpolation need none. Rows without neighbours have the base's outputs.
    over : dict of Interval
        By how much the last method's loss is below that of each method that it should beat, by
        their names: the base at its own temperature, the base as given if that is another one, the
        neighbours alone, and the interpolation (unless the memory is that one). Of these, the first
        is what the neighbours add. Published sums are not among them.
    by_class : list of dict, or None
        For each class that occurs: "class" (the number of its column), "rows", a dict {"accuracy",
        "log_loss"} under the name of each method, and how many rows the last method "corrected" and
        "harmed"; where ``classes`` are given, its "label" too.
    by_output : list of dict, or None
        For each column of a regression with several: "output" (its name, or number), and a dict
        {"rmse", "mae", "r2"} under the name of each method.
    by_group : list of dict, or None
        With ``groups``, for up to 1,000 groups, those first where the last method's mean loss is
        largest: "group", "rows", the log-loss (rmse) under the name of each method, how many rows
        the last method "corrected" and "harmed", and its "gain" over the base at its own
        temperature, with "low" and "high".
    by_distance : list of dict
        For each bucket of distances to the nearest row, split at quantiles: "from", "to", "rows",
        the log-loss (rmse) under the name of each method, and of the last method "corrected",
        "harmed" and the "gain" over the base at its own temperature, with "low" and "high". Rows
        without neighbours are a bucket of their own, at infinity. Of metric="inner_product" the
        distance is minus the product.
    reliability : dict or None
        Under the name of each method, for each bin of the largest probability: "low", "high",
        "rows", mean "confidence" and "accuracy" (NaN in empty bins).
    examples : dict
        "corrected" and "harmed": up to 50 rows each that the last method changed, those first
        where the true class's probability (the squared error) changed most. Rows are numbered as
        they were given; with ``loo``, they are ids of the memory.
    explained : list of int
        The first four of each, in the order of the rows.
    explanation : Explanation or None
        Of the rows ``explained``, query by query; for classes, in the columns of the class before
        and of the class after the correction. None if no row was changed.
    memory : dict
        What the memory holds: "rows", "dimensions", "outputs" (columns), "output_kind", "bytes",
        "store", "preprocess", "key_dtype", "residuals".
    groups : int or None
        The number of groups, by which the intervals of all gains are then clustered.
    least_gain : dict or None
        Of all groups the one whose mean gain is least, as in ``by_group``.
    classes : tuple or None
        What targets call the columns, as ``Memory.classes_``, where that is not 0 to C-1.
    """

    task: str
    rows: int
    settings: dict[str, Any]
    methods: tuple[MethodResult, ...]
    over: dict[str, Interval]
    by_class: list[dict[str, Any]] | None
    by_output: list[dict[str, Any]] | None
    by_group: list[dict[str, Any]] | None
    by_distance: list[dict[str, Any]]
    reliability: dict[str, list[dict[str, Any]]] | None
    examples: dict[str, list[int]]
    explained: list[int]
    explanation: Explanation | None
    memory: dict[str, Any]
    groups: int | None = None
    least_gain: dict[str, Any] | None = None
    classes: tuple[Any, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return all but the explanation as JSON can hold it: NaN is None, infinities are "inf"
        and "-inf"."""
        whole = dict(json_ready(self))
        del whole["explanation"]
        return whole

    def to_pandas(self) -> Any:
        """Return the methods as a pandas.DataFrame, one row each."""
        rows = [{"method": name, **cells} for name, cells in self._lines()]
        return import_pandas().DataFrame(rows).set_index("method")

    def _lines(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for method in self.methods:
            gain = method.gain or Interval(math.nan, math.nan, math.nan, math.nan)
            changed = {"corrected": method.corrected, "harmed": method.harmed}
            gained = {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high}
            yield method.name, {**method.scores, **changed, **gained}

    def __repr__(self) -> str:
        gained = "log_loss" if self.task == "classification" else "squared error"
        scores = [*self.methods[0].scores, "corrected", "harmed"]
        table = [["method", *scores, f"gain in {gained} (95 %)"]]
        for method, (name, cells) in zip(self.methods, self._lines(), strict=True):
            last = "" if method.gain is None else _interval_text(method.gain)
            table.append([name, *(f"{cells[score]:.4g}" for score in scores), last])
        added = [["  over " + name, _interval_text(gain)] for name, gain in self.over.items()]
        lines = [f"Evaluation of {self.rows} rows ({self._settings_text()})", *aligned(table)]
        lines += [f"gain of {self.methods[-1].name}", *aligned(added)]
        return "\n".join([*lines, *self._group_lines()])

    def _settings_text(self) -> str:
        """Return the memory's settings, and those of other methods that differ from them."""
        own = {**self.settings, "sigma": self.settings["sigma_"]}
        own["lambda"] = own["strength"]

        def differs(name: str) -> bool:
            method, _, setting = name.partition("_")
            if method in ("knn", "published", "interpolation"):
                return bool(self.settings[name] != own[setting])
            usual = {"method": "residual", "gate": "none"}
            return bool(self.settings[name] != usual.get(name))

        return ", ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in self.settings.items()
            if differs(name)
        )

    def _group_lines(self) -> list[str]:
        """Return lines on the group that is predicted worst, and the one that gains least."""
        if not self.by_group:
            return []
        worst, least = self.by_group[0], self.least_gain
        score, last, rival = self._score_of_parts, self.methods[-1].name, next(iter(self.over))
        lines = [
            f"intervals are clustered by {self.groups} groups",
            f"worst group: {worst['group']!r}, {worst['rows']} rows, {score} {worst[last]:.4g}, "
            f"{rival} {worst[rival]:.4g}, gain {_gain_text(worst)}",
        ]
        if least is not None and least["group"] != worst["group"]:
            lines.append(
                f"least gain: group {least['group']!r}, {least['rows']} rows, {_gain_text(least)}"
            )
        return lines

    @property
    def _score_of_parts(self) -> str:
        return "log_loss" if self.task == "classification" else "rmse"


def _interval_text(gain: Interval) -> str:
    return "" if math.isnan(gain.mean) else f"{gain.mean:+.4g} [{gain.low:+.4g}, {gain.high:+.4g}]"


def _gain_text(part: dict[str, Any]) -> str:
    """Return the gain of a group or bucket, which has no interval if it has one row."""
    return _interval_text(Interval(part["gain"], part["low"], part["high"], math.nan))


def json_ready(value: Any) -> Any:
    """Return a result as JSON can hold it: NaN is None, infinities are "inf" and "-inf"."""
    if isinstance(value, dict):
        return {str(name): json_ready(part) for name, part in value.items()}
    if isinstance(value, Explanation):
        return None
    if is_dataclass(value):
        return {field.name: json_ready(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Interval):
        return json_ready(value._asdict())
    if isinstance(value, (list, tuple)):
        return [json_ready(part) for part in value]
    if isinstance(value, np.generic):
        return json_ready(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def import_pandas() -> Any:
    """Import pandas; raise ImportError with what to install if it is missing."""
    try:
        return importlib.import_module("pandas")
    except ImportError as error:
        raise ImportError("to_pandas needs pandas; pip install pandas") from error
