"""Evaluation: what a memory changes on rows whose targets are known, for better and worse."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import resmem._core as _core
from resmem._base import checks, convert
from resmem._base.arrays import (
    F64,
    I64,
    distinct,
    quantiles,
    read_block,
    release_pages,
    sliceable,
)
from resmem._base.blocks import blocks
from resmem._base.errors import warn
from resmem._base.execution import Execution, execution_of
from resmem._correction.correct import Corrector
from resmem._correction.gate import OPEN
from resmem._correction.simplex import SimplexMap, map_named
from resmem._evaluation.explain import aligned, targets_of
from resmem._rows import plausible
from resmem._scores.intervals import Interval, paired_interval
from resmem._scores.metrics import (
    error_of,
    gains_of,
    losses_of,
    r2_from_sums,
    reliability,
)
from resmem._state.view import MemoryView

Mask: TypeAlias = npt.NDArray[np.bool_]

_MOST_EXAMPLES = 50  # rows listed as corrected, and as harmed
_PUBLISHED_MAP = map_named("clip")  # for the published sum, whatever map the memory has


@dataclass(frozen=True)
class MethodResult:
    """The scores of one method.

    Attributes
    ----------
    name : str
    scores : dict
        Classification: "accuracy", "log_loss", "brier", "calibration_error"; regression: "rmse",
        "mae", "r2".
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
        The memory's settings; "knn_k" and "knn_sigma", used for the neighbours alone;
        "published_k" and "published_sigma", used for the method as published.
    methods : tuple of MethodResult
        "base": the outputs as given. "base, T=..": the outputs at the memory's temperature, if
        that is not 1. "kNN alone": the weighted mean of the neighbours' targets. "ResMem as
        published": strength 1, with the ``k`` and ``sigma`` that tuning found for it if ``knn`` is
        its result, else with the memory's. "ResMem, strength ..": the memory's own settings, if
        they differ from those. The map "clip" makes probabilities of the published sum, and the
        map of ``knn`` those of the neighbours alone; the base has its own. Rows without neighbours
        have the base's outputs.
    by_class : list of dict, or None
        For each class that occurs: "class", "rows", a dict {"accuracy", "log_loss"} under the name
        of each method, and how many rows the last method "corrected" and "harmed".
    by_distance : list of dict
        For each bucket of distances to the nearest row, split at quantiles: "from", "to", "rows",
        the log-loss (rmse) under the name of each method, and the last method's "gain" with "low"
        and "high". Rows without neighbours are a bucket of their own, at infinity.
    reliability : dict or None
        Under the name of each method, for each bin of the largest probability: "low", "high",
        "rows", mean "confidence" and "accuracy" (NaN in empty bins).
    examples : dict
        "corrected" and "harmed": up to 50 rows each that the last method changed, those first
        where the true class's probability (the squared error) changed most.
    """

    task: str
    rows: int
    settings: dict[str, Any]
    methods: tuple[MethodResult, ...]
    by_class: list[dict[str, Any]] | None
    by_distance: list[dict[str, Any]]
    reliability: dict[str, list[dict[str, Any]]] | None
    examples: dict[str, list[int]]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it: NaN is None, infinities are "inf" and "-inf"."""
        return dict(json_ready(self))

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
        for name, cells in self._lines():
            gain = "{gain:+.4g} [{gain_low:+.4g}, {gain_high:+.4g}]".format(**cells)
            last = "" if math.isnan(cells["gain"]) else gain
            table.append([name, *(f"{cells[score]:.4g}" for score in scores), last])
        settings = ", ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in self.settings.items()
        )
        return "\n".join([f"Evaluation of {self.rows} rows ({settings})", *aligned(table)])


def evaluate(
    view: MemoryView,
    embeddings: Any,
    outputs: Any,
    targets: Any,
    exclude_ids: Any,
    knn: Any,
    buckets: int,
    bins: int,
    threads: int | None,
) -> Evaluation:
    """See ``Memory.evaluate``."""
    buckets, bins = checks.count(buckets, "buckets"), checks.count(bins, "bins")
    comparison = _MethodComparison(view, knn, execution_of(threads))
    tallies, nearest, classes = comparison.run(embeddings, outputs, targets, exclude_ids)
    base, last = tallies["base"], list(tallies.values())[-1]
    _warn_of_impossible_classes(base)
    corrected, harmed, change = last.changes_from(base)
    by_class = calibration = None
    if classes is not None:
        by_class = _by_class(tallies, classes, corrected, harmed)
        calibration = {name: _reliability_bins(tally, bins) for name, tally in tallies.items()}
    return Evaluation(
        task=comparison.corrector.spec.task,
        rows=len(nearest),
        settings=comparison.settings,
        methods=tuple(_result(name, tally, base, bins) for name, tally in tallies.items()),
        by_class=by_class,
        by_distance=[
            _bucket_scores(tallies, nearest, at) for at in _distance_buckets(nearest, buckets)
        ],
        reliability=calibration,
        examples={
            kind: _most_changed(mask, change)
            for kind, mask in (("corrected", corrected), ("harmed", harmed))
        },
    )


# -------------------------------------------------------------------- row by row


class _ClassTally:
    """What is kept of a method's class probabilities: some numbers a row."""

    def __init__(self, rows: int) -> None:
        self.right: Mask = np.empty(rows, dtype=np.bool_)
        # The probabilities of the true class and of the most probable one; two losses.
        self.true, self.top, self.loss, self.brier = np.empty((4, rows))

    def add(self, block: slice, probabilities: F64, classes: I64) -> None:
        """Take in the probabilities (b, C) of a block of rows, and overwrite them."""
        rows, largest = np.arange(len(probabilities)), probabilities.argmax(axis=1)
        self.right[block] = largest == classes
        self.true[block] = probabilities[rows, classes]
        self.top[block] = probabilities[rows, largest]
        self.loss[block] = losses_of(self.true[block])
        probabilities[rows, classes] -= 1
        self.brier[block] = np.einsum("ij,ij->i", probabilities, probabilities)

    def scores(self, bins: int) -> dict[str, float]:
        return {
            "accuracy": float(self.right.mean()),
            "log_loss": float(self.loss.mean()),
            "brier": float(self.brier.mean()),
            "calibration_error": error_of(*reliability(self.top, self.right, bins)),
        }

    def mean_score(self, at: I64 | slice) -> float:
        """Return the mean log-loss of some rows."""
        return float(self.loss[at].mean())

    def changes_from(self, base: Any) -> tuple[Mask, Mask, F64]:
        """Return which rows were corrected and harmed, and the change of the true class's
        probability."""
        return self.right & ~base.right, base.right & ~self.right, self.true - base.true


class _ValueTally:
    """What is kept of a method's errors in regression: two numbers a row."""

    def __init__(self, rows: int, columns: int, deviations: _SquaredDeviations) -> None:
        # The sum of squared errors over columns, and the mean of absolute ones.
        self.loss, self.absolute = np.empty((2, rows))
        self._columns, self._deviations = columns, deviations

    def add(self, block: slice, values: F64, targets: F64) -> None:
        """Take in the predicted values (b, C) of a block of rows."""
        errors = values - targets
        self.loss[block] = np.einsum("ij,ij->i", errors, errors)
        self.absolute[block] = np.abs(errors).mean(axis=1)

    def scores(self, bins: int) -> dict[str, float]:
        return {
            "rmse": self.mean_score(slice(None)),
            "mae": float(self.absolute.mean()),
            "r2": r2_from_sums(float(self.loss.sum()), self._deviations.total),
        }

    def mean_score(self, at: I64 | slice) -> float:
        """Return the root of the mean squared error of some rows."""
        return math.sqrt(float(self.loss[at].mean()) / self._columns)

    def changes_from(self, base: Any) -> tuple[Mask, Mask, F64]:
        """Return which rows have smaller and larger errors, and by how much they are smaller."""
        return self.loss < base.loss, self.loss > base.loss, base.loss - self.loss


class _SquaredDeviations:
    """Sums squared deviations from the columns' means, block by block (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.total, self._rows = 0.0, 0

    def add(self, values: F64) -> None:
        if self._rows == 0:
            self._origin, self._mean = values[0].copy(), np.zeros(values.shape[1])
        values = values - self._origin  # so that a constant column adds exactly 0
        mean, rows = values.mean(axis=0), self._rows + len(values)
        apart, share = mean - self._mean, len(values) / rows
        within = np.square(values - mean).sum()
        self.total += float(within + np.square(apart).sum() * self._rows * share)
        self._mean, self._rows = self._mean + apart * share, rows


Tally: TypeAlias = "_ClassTally | _ValueTally"
Tallies: TypeAlias = "dict[str, Tally]"


class Targets:
    """The targets of q rows, checked and read block by block."""

    def __init__(self, corrector: Corrector, targets: Any, q: int) -> None:
        rows = corrector.rows
        if corrector.spec.task == "regression":
            plausible.check_order(targets, rows.output_names, "memory.output_names_")
        self._given = sliceable(targets, "targets")
        self._q, self._columns, self._spec = q, rows.columns, corrector.spec
        self.classes: I64 | None = None  # filled in as blocks are read; None for regression
        self._deviations = _SquaredDeviations()
        if corrector.spec.task == "classification":
            convert.check_class_layout(self._given)
            self.classes = np.empty(q, dtype=np.int64)
        else:
            convert.check_layout(self._given, "targets", "(n,)" if rows.flat else "(n, C)")
            if not rows.flat and self._given.shape[1] != rows.columns:
                raise ValueError(
                    f"targets must have {rows.columns} columns as in fit, "
                    f"got {self._given.shape[1]}"
                )
        checks.same_length("targets", self._given.shape[0], "embeddings", q)

    def tally(self) -> Tally:
        """Return an empty tally for the predictions of one method."""
        if self.classes is not None:
            return _ClassTally(self._q)
        return _ValueTally(self._q, self._columns, self._deviations)

    def read(self, block: slice) -> npt.NDArray[Any]:
        """Return the classes (b,) or values (b, C) of a block of rows."""
        part = read_block(self._given, block, "targets")
        release_pages(self._given, block)
        if self.classes is not None:
            self.classes[block] = convert.labels(part, self._columns, block.start)
            return self.classes[block]
        values = self._spec.values(part, "targets", block.start)
        self._deviations.add(values)
        return values


class _MethodComparison:
    """The compared methods, with the settings and rows of a memory at one moment."""

    def __init__(self, view: MemoryView, knn: Any, execution: Execution) -> None:
        self.corrector: Corrector = view.corrector
        self.execution, self._map = execution, view.map
        most_neighbours = max(1, len(self.corrector.rows))
        k, self._knn_sigma, self._knn_map = _knn_settings(knn, view, self.corrector.sigma)
        self._knn_k = min(k, most_neighbours)
        published_k, published_sigma = _published_settings(knn, view, self.corrector.sigma)
        self._published = replace(
            self.corrector,
            k=min(published_k, most_neighbours),
            sigma=published_sigma,
            strength=1.0,
            method="residual",
            gate=OPEN,
        )
        self.settings = {
            "k": view.k,
            "sigma_": self.corrector.sigma,
            "temperature": self.corrector.rows.temperature,
            "strength": self.corrector.strength,
            "probability_map": self._map.name,
            "knn_k": k,
            "knn_sigma": self._knn_sigma,
            "published_k": published_k,
            "published_sigma": published_sigma,
        }

    def run(
        self, embeddings: Any, outputs: Any, targets: Any, exclude_ids: Any
    ) -> tuple[Tallies, F64, I64 | None]:
        """Return the tally of each method, distances to the nearest rows, and the rows' classes."""
        corrector, k = self.corrector, max(self.corrector.k, self._knn_k, self._published.k)
        queries = corrector.queries_at_k(k, embeddings, exclude_ids, self.execution)
        q = len(queries)
        given, truth = corrector.query_outputs(outputs, q), Targets(corrector, targets, q)
        if q == 0:
            raise ValueError("embeddings must have at least one row to evaluate, got none")
        tallies: Tallies = {}
        nearest, seen = np.empty(q), plausible.OverlapCounter(corrector.spec, corrector.rows, q)
        for block in blocks(q, 24 * k + 64 * corrector.rows.columns):
            keys, largest = queries.queries(block)
            raw = corrector.raw_outputs(keys, given, block, self.execution)
            distances, positions = queries.find(block, keys, largest)
            nearest[block] = distances[:, 0]
            true = truth.read(block)
            seen.count(block, keys, positions[:, 0], true)
            for name, values in self._predictions(raw, distances, positions).items():
                if name not in tallies:
                    tallies[name] = truth.tally()
                tallies[name].add(block, values, true)
            queries.forget(block)
            release_pages(given, block)
        if note := seen.warning("evaluated"):
            warn(f"evaluate: {note}")
        return tallies, nearest, truth.classes

    def _predictions(self, raw: npt.NDArray[Any], distances: F64, positions: I64) -> dict[str, F64]:
        """Return the probabilities or values (b, C) of each method, by its name."""
        corrector, temperature = self.corrector, self.corrector.rows.temperature
        base = own = corrector.spec.base(raw, 1.0, self.execution)
        found = {"base": base.copy()}
        if temperature != 1:
            own = corrector.spec.base(raw, temperature, self.execution)
            found[f"base, T={temperature:.4g}"] = own.copy()
        found["kNN alone"] = self._knn_predictions(distances, positions, base)
        published = self._correction(self._published, distances, positions)
        found["ResMem as published"] = self._corrected(own, published, 1.0, _PUBLISHED_MAP)
        plain = self._map == _PUBLISHED_MAP or corrector.spec.task == "regression"
        if corrector.strength != 1 or not plain or self._differs_from_published:
            name = f"ResMem, strength {corrector.strength:.4g}"
            name += "" if plain else f", {self._map.name}"
            found[name] = self._tuned(own, distances, positions)
        return found

    def _tuned(self, base: F64, distances: F64, positions: I64) -> F64:
        """Return the probabilities or values (b, C) of the memory's own settings."""
        near = _nearest(self.corrector.k, distances, positions)
        return self.corrector.corrected(base, *near, self.execution)

    @property
    def _differs_from_published(self) -> bool:
        """Whether the memory's k, sigma, method or gate are not those of the method as
        published."""
        one, other = self.corrector, self._published
        names = ("k", "sigma", "method", "gate")
        return any(getattr(one, name) != getattr(other, name) for name in names)

    def _correction(self, corrector: Corrector, distances: F64, positions: I64) -> F64:
        """Return the correction by the first ``corrector.k`` of these neighbours."""
        near = _nearest(corrector.k, distances, positions)
        return corrector.aggregate(*near, None, None, self.execution)

    def _corrected(
        self, base: F64, correction: F64, strength: float, simplex_map: SimplexMap
    ) -> F64:
        """Return corrected probabilities or values (b, C)."""
        values: F64 = base + strength * correction
        if self.corrector.spec.task == "classification":
            simplex_map.apply(values, base, strength, self.execution)
        return values

    def _knn_predictions(self, distances: F64, positions: I64, base: F64) -> F64:
        """Return the weighted mean of the neighbours' targets; for rows without neighbours, the
        base."""
        near, at = _nearest(self._knn_k, distances, positions)
        weights, totals = _core.weights(near, at, self._knn_sigma)
        values = np.zeros_like(base)
        for j in range(self._knn_k):
            there = np.flatnonzero(at[:, j] >= 0)
            weight, targets = weights[there, j], targets_of(self.corrector, at[there, j])
            if targets.ndim == 1:
                values[there, targets] += weight
            else:
                values[there] += weight[:, None] * targets
        # Dividing last, as a correction does, keeps the classes equal that have equal weights.
        values /= totals[:, None]
        if self.corrector.spec.task == "classification":
            self._knn_map.apply(values, None, 1.0, self.execution)
        without_neighbours = at[:, 0] < 0
        values[without_neighbours] = base[without_neighbours]
        return values


def _nearest(k: int, distances: F64, positions: I64) -> tuple[F64, I64]:
    """Return the k nearest of these neighbours."""
    return np.ascontiguousarray(distances[:, :k]), np.ascontiguousarray(positions[:, :k])


def _knn_settings(knn: Any, view: MemoryView, sigma: float) -> tuple[int, float, SimplexMap]:
    """Return k, sigma and map for the neighbours alone, from what was given for ``knn``.

    The neighbours alone have no base, so that "clip" takes the place of "keep".
    """
    k, simplex_map = view.k, view.map
    if knn is not None:
        settings = getattr(knn, "knn", knn)
        if not (hasattr(settings, "k") and hasattr(settings, "sigma")):
            raise TypeError(
                "knn must be a TuneResult, Settings (with k and sigma) or None, "
                f"got {type(knn).__name__}"
            )
        k = checks.count(settings.k, "k of knn")
        sigma = checks.positive(settings.sigma, "sigma of knn", infinite=True)
        simplex_map = map_named(getattr(settings, "probability_map", simplex_map.name))
    return k, sigma, map_named("clip") if simplex_map.keeps_base else simplex_map


def _published_settings(knn: Any, view: MemoryView, sigma: float) -> tuple[int, float]:
    """Return k and sigma for the method as published.

    They are those that tuning found for it, if it kept keys as the memory does; else the memory's.
    """
    tuned = getattr(knn, "published", None)
    keys = view.spec.preprocess.name, view.spec.key_dtype
    if tuned is None or (tuned.preprocess, tuned.key_dtype) != keys:
        return view.k, sigma
    return tuned.k, tuned.sigma


# -------------------------------------------------------------------- summaries


def _warn_of_impossible_classes(base: Tally) -> None:
    """Warn of rows that make the base model's log-loss infinite."""
    if isinstance(base, _ClassTally) and (rows := np.flatnonzero(base.true == 0)).size:
        warn(
            f"evaluate: the base gives exactly 0 to the class of {rows.size} of {len(base.true)} "
            f"rows, the first of them row {rows[0]}, so its log-loss is infinite; compare by "
            "accuracy or Brier score, or leave these rows out"
        )


def _result(name: str, tally: Any, base: Any, bins: int) -> MethodResult:
    corrected, harmed, _ = tally.changes_from(base)
    gain = None if tally is base else paired_interval(gains_of(tally.loss, base.loss))
    return MethodResult(name, tally.scores(bins), int(corrected.sum()), int(harmed.sum()), gain)


def _by_class(
    tallies: dict[str, Any], classes: I64, corrected: Mask, harmed: Mask
) -> list[dict[str, Any]]:
    """Return the scores and changes of the rows of each class that occurs."""
    rows = np.bincount(classes)

    def total(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.bincount(classes, values)

    sums = {name: (total(tally.right), total(tally.loss)) for name, tally in tallies.items()}
    changes = {"corrected": total(corrected), "harmed": total(harmed)}
    return [
        {
            "class": int(c),
            "rows": int(rows[c]),
            **{
                name: {"accuracy": float(right[c] / rows[c]), "log_loss": float(loss[c] / rows[c])}
                for name, (right, loss) in sums.items()
            },
            **{kind: int(count[c]) for kind, count in changes.items()},
        }
        for c in np.flatnonzero(rows)
    ]


def _distance_buckets(nearest: F64, buckets: int) -> list[I64]:
    """Return the rows of each bucket of distances, nearest first.

    Buckets have about one size, except that equal distances stay together; rows without neighbours
    are the last bucket.
    """
    known = np.isfinite(nearest)
    number = np.full(len(nearest), buckets)
    if known.any():
        inner = distinct(quantiles(nearest[known], np.arange(1, buckets) / buckets))
        number[known] = np.searchsorted(inner, nearest[known], side="right")
    return [np.flatnonzero(number == n) for n in distinct(number)]


def _bucket_scores(tallies: Tallies, nearest: F64, at: I64) -> dict[str, Any]:
    """Return the scores of the rows ``at`` of one bucket."""
    base, last = tallies["base"], list(tallies.values())[-1]
    gain = paired_interval(gains_of(last.loss[at], base.loss[at]))
    return {
        "from": float(nearest[at].min()),
        "to": float(nearest[at].max()),
        "rows": len(at),
        **{name: tally.mean_score(at) for name, tally in tallies.items()},
        "gain": gain.mean,
        "low": gain.low,
        "high": gain.high,
    }


def _reliability_bins(tally: Any, bins: int) -> list[dict[str, Any]]:
    """Return the bins of a method's reliability diagram."""
    columns = zip(*reliability(tally.top, tally.right, bins), strict=True)
    return [
        {
            "low": b / bins,
            "high": (b + 1) / bins,
            "rows": int(rows),
            "confidence": float(confidence),
            "accuracy": float(accuracy),
        }
        for b, (rows, confidence, accuracy) in enumerate(columns)
    ]


def _most_changed(mask: Mask, change: F64) -> list[int]:
    """Return the rows of the mask that changed most, largest change first."""
    rows = np.flatnonzero(mask)
    order = np.argsort(-np.abs(change[rows]), kind="stable")
    return [int(row) for row in rows[order][:_MOST_EXAMPLES]]


# -------------------------------------------------------------------- other forms


def json_ready(value: Any) -> Any:
    """Return a result as JSON can hold it: NaN is None, infinities are "inf" and "-inf"."""
    if isinstance(value, dict):
        return {str(name): json_ready(part) for name, part in value.items()}
    if is_dataclass(value):
        return {field.name: json_ready(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Interval):
        return json_ready(value._asdict())
    if isinstance(value, (list, tuple)):
        return [json_ready(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def import_pandas() -> Any:
    """Import pandas; raise ImportError with what to install if it is missing."""
    try:
        return importlib.import_module("pandas")
    except ImportError as error:
        raise ImportError("to_pandas needs pandas; pip install pandas") from error
