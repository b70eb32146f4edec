"""Prediction intervals and sets that hold the truth as often as they say: split-conformal.

A prediction gets a *score*, larger the worse it fits the truth. Of n calibration rows and one more
that is drawn like them, each is as likely as any other to have the r-th smallest score. So a new
row scores at most the r-th smallest of n scores with probability r / (n + 1) at least, whatever
model and memory do, if neither was made from these rows (Vovk et al. 2005; Lei et al. 2018).
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

import resmem._core as _core
from resmem._base import checks
from resmem._base.arrays import F64, I64, Keys, release_pages
from resmem._base.blocks import blocks
from resmem._base.errors import warn
from resmem._base.execution import execution_of
from resmem._correction.correct import Corrector, SearchedQueries
from resmem._correction.sampled_rows import searched_own_rows, typical
from resmem._evaluation.explain import by_segment
from resmem._evaluation.result import json_ready
from resmem._evaluation.rows import GivenTargets
from resmem._rows import plausible
from resmem._rows.segment import Segment
from resmem._rows.snapshot import Snapshot
from resmem._rows.visibility import Visibility
from resmem._state.settings import Settings
from resmem._state.view import MemoryView

_SAMPLE_ROWS = 256  # most rows of the memory whose errors are measured


@dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """How far a memory's predictions were off on calibration rows; what ``calibrate`` returns.

    Attributes
    ----------
    settings : Settings
        Those of the memory; its predictions get intervals and sets only at these.
    memory_rows, next_id : int
        The number of rows in the memory, and the next id that it would have given.
    columns : int
        Number of outputs or classes.
    scores : float64 (n, C) or (n, 1)
        Ascending in each column. Regression: of each output, ``|y - prediction|`` in units of
        the local spread plus ``spread``; classification: the probability of all classes that are
        more probable than the true one.
    spread : float64 (C,), or None for classification
        The typical error of the memory's own rows, each corrected without itself, in units of the
        targets.
    """

    settings: Settings
    memory_rows: int
    next_id: int
    columns: int
    scores: F64
    spread: F64 | None = None

    @property
    def task(self) -> str:
        """ "classification" or "regression"."""
        return "classification" if self.spread is None else "regression"

    def __len__(self) -> int:
        """Return the number of calibration rows."""
        return len(self.scores)

    def limits(self, coverage: float) -> F64:
        """Return the score (C,) or (1,) that the truth exceeds with probability ``1 - coverage``.

        It is the ``ceil((n + 1) * coverage)``-th smallest, infinite if there are only n.
        """
        # As a decimal fraction, so that 0.7 of 10 is 7 and not a little more.
        rank = math.ceil((len(self) + 1) * Fraction(str(_checked_coverage(coverage))))
        if rank > len(self):
            return np.full(self.scores.shape[1], np.inf)
        found: F64 = self.scores[rank - 1]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it; ``from_dict`` takes it back."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        arrays = {
            name: part.tolist() for name, part in parts.items() if isinstance(part, np.ndarray)
        }
        return dict(json_ready({**parts, **arrays}))

    @classmethod
    def from_dict(cls, parts: Mapping[str, Any]) -> Calibration:
        """Return the calibration of which ``to_dict`` gave these parts."""
        _check_parts(parts, cls, "those")
        _check_parts(parts["settings"], Settings, "settings as those")
        settings = {name: _number(part) for name, part in parts["settings"].items()}
        columns = checks.count(parts["columns"], "columns")
        scores = _checked_scores(parts["scores"])
        spread = _checked_spread(parts["spread"], columns, scores)
        return cls(
            Settings(**settings),
            checks.count(parts["memory_rows"], "memory_rows", least=0),
            checks.count(parts["next_id"], "next_id", least=0),
            columns,
            scores,
            spread,
        )

    def __repr__(self) -> str:
        return f"Calibration on {len(self)} rows ({self.task}; {self.settings})"


def _check_parts(parts: Any, of: type[Any], what: str) -> None:
    """Raise unless ``parts`` is a dict with the name of every field of a dataclass."""
    if not isinstance(parts, Mapping):
        raise TypeError(
            f"parts must be {what} that Calibration.to_dict gives, got {type(parts).__name__}"
        )
    for field in fields(of):
        if field.name not in parts:
            raise ValueError(
                f"parts must be {what} that Calibration.to_dict gives, {field.name!r} is missing"
            )


def _checked_scores(given: Any) -> F64:
    """Return scores (n, w); ValueError unless each column ascends."""
    scores = _numbers(given, "scores")
    rows = scores.ndim == 2 and scores.size > 0
    ascends = rows and bool((scores[1:] >= scores[:-1]).all()) and not np.isnan(scores).any()
    if not ascends:
        raise ValueError(
            "scores must be those that Calibration.to_dict gives, (n, C) or (n, 1) and ascending "
            f"in each column, got shape {scores.shape}{', which do not ascend' if rows else ''}"
        )
    return scores


def _checked_spread(given: Any, columns: int, scores: F64) -> F64 | None:
    """Return the spread (C,) of regression, or None, which scores of classification go with;
    ValueError if it does not go with the scores."""
    spread = None if given is None else _numbers(given, "spread")
    if spread is None and scores.shape[1] != 1:
        raise ValueError(f"spread must not be None where scores have shape {scores.shape}")
    if spread is not None and spread.shape != (columns,):
        raise ValueError(
            "spread must be that which Calibration.to_dict gives, with a number for each of the "
            f"{columns} columns, got shape {spread.shape}"
        )
    if spread is not None and not (spread > 0).all():
        raise ValueError(f"spread must hold numbers above 0, got {spread.tolist()}")
    if spread is not None and scores.shape[1] != columns:
        raise ValueError(
            f"spread must be None where scores have shape {scores.shape} and not (n, {columns})"
        )
    return spread


def _numbers(given: Any, name: str) -> F64:
    """Return numbers that ``json_ready`` made lists of; ValueError for anything else."""
    try:
        if isinstance(given, (list, np.ndarray)):
            return np.array(_number(given), dtype=np.float64)
    except (TypeError, ValueError) as error:
        cause: Exception | None = error
    else:
        cause = None
    raise ValueError(
        f"{name} must be numbers in lists of one length, as Calibration.to_dict gives them, got "
        f"{reprlib.repr(given)}"
    ) from cause


def _number(part: Any) -> Any:
    """Return what JSON holds, also within lists, with infinities as the numbers that they are."""
    if isinstance(part, list):
        return [_number(each) for each in part]
    return float(part) if isinstance(part, str) and part in ("inf", "-inf") else part


# ---------------------------------------------------------------------- calibration


def calibrate(
    view: MemoryView, embeddings: Any, outputs: Any, targets: Any, visible: Visibility,
    threads: int | None,
) -> Calibration:  # fmt: skip
    """See ``Memory.calibrate``."""
    predictions = _Predictions(view.corrector, embeddings, outputs, visible, threads)
    corrector, q = predictions.corrector, len(predictions.queries)
    truth = GivenTargets(corrector, targets, q)
    if q == 0:
        raise ValueError("embeddings must have at least one row to calibrate on, got none")
    spread = _typical_error(predictions)
    scores = np.empty((q, 1 if spread is None else corrector.rows.columns))
    seen = plausible.OverlapCounter(corrector.spec, corrector.rows, q)
    for part in predictions:
        true = truth.read(part.block)
        predictions.queries.count_overlaps_in(
            part.block, seen, part.keys, part.largest, part.positions[:, 0], true
        )
        if spread is None:
            scores[part.block, 0] = _mass_above(part.values)[np.arange(len(true)), true]
        else:
            scores[part.block] = np.abs(true - part.values) / predictions.widths(part, spread)
    if note := seen.warning("calibration"):
        warn(f"calibrate: {note}")
    rows = corrector.rows
    return Calibration(
        _settings(view), len(rows), rows.next_id, rows.columns, np.sort(scores, axis=0), spread
    )


def _settings(view: MemoryView) -> Settings:
    """Return the settings in use; of ``sigma="auto"`` what was measured."""
    return replace(view.as_settings, sigma=view.sigma_in_use)


def _typical_error(predictions: _Predictions) -> F64 | None:
    """Return the typical error (C,) of sampled rows of the memory, each corrected without itself.

    It comes from the memory's rows alone, so that calibration rows and later ones are scored alike.
    Unlike the spread of neighbours, it is no rounding error where one of them has all the weight.
    None for classification.
    """
    corrector, execution = predictions.corrector, predictions.execution
    if corrector.spec.task == "classification":
        return None
    columns = corrector.rows.columns
    k = min(corrector.k, len(corrector.rows) - 1)
    if k < 1:
        return np.ones(columns)
    own = searched_own_rows(corrector.rows, k, _SAMPLE_ROWS, execution)
    base = np.concatenate([segment["outputs"][at] for segment, at in own.rows])
    values = corrector.corrected(base, own.distances, own.positions, execution)
    residuals = np.concatenate([segment["residuals"][at] for segment, at in own.rows])
    errors = np.abs(residuals.astype(np.float64) - (values - base))
    return np.array([typical(errors[:, c]) for c in range(columns)])


# ---------------------------------------------------------------------- intervals and sets


def predict_interval(
    view: MemoryView, embeddings: Any, outputs: Any, calibration: Any, coverage: float,
    visible: Visibility, threads: int | None,
) -> tuple[F64, F64]:  # fmt: skip
    """See ``Memory.predict_interval``."""
    if view.spec.task != "regression":
        raise ValueError("predict_interval needs task='regression'; use predict_set")
    limits = _limits(view, calibration, coverage, "intervals are infinite")
    predictions = _Predictions(view.corrector, embeddings, outputs, visible, threads)
    flat, shape = view.fitted_rows.flat, (len(predictions.queries), len(limits))
    low, high = np.empty(shape), np.empty(shape)
    for part in predictions:
        half = limits * predictions.widths(part, calibration.spread)
        low[part.block], high[part.block] = part.values - half, part.values + half
    return (low[:, 0], high[:, 0]) if flat else (low, high)


def predict_set(
    view: MemoryView, embeddings: Any, outputs: Any, calibration: Any, coverage: float,
    visible: Visibility, threads: int | None,
) -> npt.NDArray[np.bool_]:  # fmt: skip
    """See ``Memory.predict_set``."""
    if view.spec.task != "classification":
        raise ValueError("predict_set needs task='classification'; use predict_interval")
    limit = _limits(view, calibration, coverage, "sets hold every class")[0]
    predictions = _Predictions(view.corrector, embeddings, outputs, visible, threads)
    result = np.empty((len(predictions.queries), view.fitted_rows.columns), dtype=np.bool_)
    for part in predictions:
        result[part.block] = _mass_above(part.values) <= limit
    return result


def _mass_above(probabilities: F64) -> F64:
    """Return the sum of the probabilities of the classes before each one, (b, C).

    Classes are in falling order of probability, equal ones by number. This is 0 for the first, so
    that no set is empty; and a set holds more classes where the model is less sure.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=1)
    before = np.zeros_like(ranked)
    np.add.accumulate(ranked[:, :-1], axis=1, out=before[:, 1:])
    sums = np.empty_like(before)
    np.put_along_axis(sums, order, before, axis=1)
    return sums


def _limits(view: MemoryView, calibration: Any, coverage: float, otherwise: str) -> F64:
    """Return ``calibration.limits`` once it is known to be of this memory.

    ``otherwise`` says what happens if there are too few rows for this coverage.
    """
    if not isinstance(calibration, Calibration):
        raise TypeError(
            f"calibration must be a resmem.Calibration, got {type(calibration).__name__}; call "
            "memory.calibrate"
        )
    rows, settings = view.fitted_rows, _settings(view)
    of_memory = {"task": view.spec.task, "columns": rows.columns, **vars(settings)}
    of_calibration = {"task": calibration.task, "columns": calibration.columns}
    of_calibration |= vars(calibration.settings)
    for name, value in of_memory.items():
        if of_calibration[name] != value:
            raise ValueError(
                f"calibration must be made with this memory's {name}, {value!r}, got "
                f"{of_calibration[name]!r}; call memory.calibrate again"
            )
    if (calibration.memory_rows, calibration.next_id) != (len(rows), rows.next_id):
        warn(
            f"the memory has changed since the calibration, from {calibration.memory_rows} rows "
            f"to {len(rows)}: the coverage is no longer sure; call memory.calibrate again"
        )
    limits = calibration.limits(coverage)
    if np.isinf(limits).any():
        needed = math.ceil(1 / (1 - Fraction(str(float(coverage))))) - 1
        warn(
            f"a coverage of {coverage} needs at least {needed} calibration rows, got "
            f"{len(calibration)}: {otherwise}; give memory.calibrate more rows"
        )
    return limits


def _checked_coverage(coverage: Any) -> float:
    checked = checks.number(coverage, "coverage")
    if not 0 < checked < 1:
        raise ValueError(f"coverage must lie between 0 and 1, got {coverage!r}")
    return checked


# ---------------------------------------------------------------------- predictions


@dataclass(frozen=True)
class _Part:
    """The predictions for one block of b queries."""

    block: slice
    keys: Keys
    largest: float  # no absolute value of the keys is larger
    distances: F64  # (b, k)
    positions: I64  # (b, k)
    base: F64  # (b, C)
    values: F64  # corrected values or probabilities (b, C)


class _Predictions:
    """What a memory predicts for queries, block by block, with the neighbours it is due to."""

    def __init__(
        self, corrector: Corrector, embeddings: Any, outputs: Any, visible: Visibility,
        threads: int | None,
    ) -> None:  # fmt: skip
        self.corrector, self.execution = corrector, execution_of(threads)
        self.queries: SearchedQueries = corrector.queries_for(embeddings, visible, threads)
        self._outputs = corrector.query_outputs(outputs, len(self.queries))

    def __iter__(self) -> Iterator[_Part]:
        corrector, queries = self.corrector, self.queries
        columns, k = corrector.rows.columns, queries.k
        residuals = k * columns if corrector.spec.task == "regression" else 0
        for block in blocks(len(queries), 24 * k + 16 * residuals + 96 * columns):
            keys, largest = queries.queries(block)
            base = corrector.base(keys, self._outputs, block, self.execution)
            distances, positions = queries.find(block, keys, largest)
            values = corrector.corrected(base, distances, positions, self.execution)
            yield _Part(block, keys, largest, distances, positions, base, values)
            queries.forget(block)
            release_pages(self._outputs, block)

    def widths(self, part: _Part, typical_error: F64) -> F64:
        """Return the unit of each score, (b, C): the local spread plus the typical error.

        A query without neighbours has the typical error twice.
        """
        applied = part.values - part.base
        spreads = spread_of_residuals(self.corrector, part.distances, part.positions, applied)
        spreads[part.positions[:, 0] < 0] = typical_error
        return spreads + typical_error


def spread_of_residuals(corrector: Corrector, distances: F64, positions: I64, applied: F64) -> F64:
    """Return how far neighbours' residuals lie from the corrections applied, weighted: (b, C).

    A neighbour's residual less the correction that the query gets is the error which that
    correction would leave there. ``applied`` (b, C) are strength times correction; the spread of
    queries without neighbours is 0.
    """
    weights, totals = _core.weights(
        distances, positions, corrector.sigma, corrector.rows.weights_for_core()
    )
    residuals = _residuals_at(corrector.rows, positions)
    sums = np.zeros_like(applied)
    for j in range(positions.shape[1]):  # in neighbour order
        sums += weights[:, j, None] * np.abs(residuals[:, j] - applied)
    sums /= totals[:, None]
    return sums


def _residuals_at(rows: Snapshot, positions: I64) -> F64:
    """Return the residuals of a regression at positions (b, k), widened: (b, k, C)."""
    found = np.zeros((*positions.shape, rows.columns))
    segment: Segment
    for segment, where, at in by_segment(rows, positions):
        found[where] = segment["residuals"][at]
    return found
