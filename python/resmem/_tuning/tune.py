"""``Memory.tune``: from its arguments to trials, and what else its result has to say."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np

from resmem._base import checks
from resmem._base.arrays import F64, I64, Array
from resmem._base.errors import warn
from resmem._base.sample import sample
from resmem._correction.correct import Corrector
from resmem._correction.simplex import map_named
from resmem._keys.preprocess import preprocess_named
from resmem._rows.plausible import OverlapCounter
from resmem._rows.snapshot import Snapshot
from resmem._scores.folds import fold_numbers
from resmem._scores.metrics import Score, checked_confidence, score_named
from resmem._state.settings import Settings
from resmem._state.view import MemoryView
from resmem._tuning.grid import choices, grid_of
from resmem._tuning.judge import PROVED, RIVALS, Tuner
from resmem._tuning.result import TuneResult
from resmem._tuning.trial import GivenRows, OwnRows, Trial

_SAMPLE = 10_000  # rows of the memory that are looked at
_SMALLER = 0.8  # residuals of the memory, beside those of fresh rows, that cannot be as honest
_FORECAST_AFTER, _LONG = 1.0, 10.0  # seconds: when time is foretold, and what is worth telling
_MUCH_SMALLER = 0.5  # beside those of the neighbours' targets alone


def tune(
    view: MemoryView, embeddings: Any, outputs: Any, targets: Any, *, k: Any, sigma: Any,
    temperature: Any, strength: Any, probability_map: Any, preprocess: Any, key_dtype: Any,
    score: Any, greater_is_better: bool | None, folds: Any, rule: Literal["best", "one_se"],
    confidence: float, seed: int, exclude_ids: Any, loo: bool, threads: int | None, progress: Any,
) -> TuneResult:  # fmt: skip
    """See ``Memory.tune``."""
    if rule not in ("best", "one_se"):
        raise ValueError(f"rule must be 'best' or 'one_se', got {rule!r}")
    task, kept = view.spec.task, (view.spec.preprocess.name, view.spec.key_dtype)
    usual = "log_loss" if task == "classification" else "rmse"
    scored = score_named(usual if score is None else score, task, greater_is_better)
    given = (embeddings, outputs, targets, exclude_ids)
    if loo and any(part is not None for part in given):
        raise ValueError(
            "loo=True tunes on the memory's own rows: leave out embeddings, outputs, targets and "
            "exclude_ids"
        )
    if not loo and embeddings is None:
        raise TypeError(
            "tune needs validation rows: give embeddings, outputs and targets, or loo=True to tune "
            "on the memory's own rows"
        )
    confidence = checked_confidence(confidence)
    if checks.count(seed, "seed", 0) >= 2**32:
        raise ValueError(f"seed must be below 2**32, got {seed}")
    workers = checks.thread_count(threads)
    trials: list[Trial] = []
    tried: set[tuple[str, str]] = set()
    for name in choices(preprocess, kept[0], "preprocess"):
        for dtype in choices(key_dtype, kept[1], "key_dtype"):
            if dtype == "float64" and preprocess_named(name).linear:
                dtype = "float32"  # which is what its layer gives
            if (name, dtype) in tried:
                continue
            tried.add((name, dtype))
            corrector = (view if (name, dtype) == kept else view.rekeyed(name, dtype)).corrector
            most = len(corrector.rows) - loo
            if most < 1:
                needed = "two rows for loo=True" if loo else "rows"
                raise ValueError(f"tune needs a memory with {needed}, this one has {most + loo}")
            grid = grid_of(
                corrector.spec, most, corrector.rows.columns, corrector.rows.temperature, k, sigma,
                temperature, strength, probability_map,
            )  # fmt: skip
            some = _sample(corrector.rows, seed)
            source: GivenRows | OwnRows
            if loo:
                source = _own(corrector, some, grid.ks[-1], workers)
            else:
                known = bool(trials)
                source = GivenRows(corrector, *given, grid.ks[-1], workers, known)
            if not trials:
                numbers = _folds(folds, seed, source.targets, 3 if rule == "one_se" else 2)
            trials.append(
                Trial(
                    corrector.spec, corrector.rows, source, grid, numbers, some, name, most, workers
                )
            )
    with _steps(progress, _Work.of(trials, scored, loo)) as step:
        for trial in trials:
            trial.step = step
        result = Tuner(trials, scored, rule, confidence, seed).run()
        doubts = (
            *_too_small(trials[0], result, loo), *_seen(trials[0]), *_impossible(trials[0], result),
        )  # fmt: skip
    for note in result.notes:
        warnings.warn(f"tune: {note}", stacklevel=4)
    for note in doubts:
        warn(f"tune: {note}")
    return result.with_notes((*result.notes, *doubts))


def _folds(folds: Any, seed: int, targets: Array, least: int) -> I64:
    """The fold of each row, counted from 0."""
    numbers = np.unique(fold_numbers(folds, seed, targets), return_inverse=True)[1].reshape(-1)
    if numbers.max() + 1 < least:
        raise ValueError(f"rule='one_se' needs at least {least} folds, got {numbers.max() + 1}")
    return np.asarray(numbers, dtype=np.int64)


def _sample(rows: Snapshot, seed: int) -> I64:
    """Positions, numbered through all segments, of at most 10,000 living rows."""
    return rows.numbered(sample(len(rows), _SAMPLE, seed))


def _own(corrector: Corrector, some: I64, k: int, threads: int) -> OwnRows:
    if not corrector.spec.store.gives_outputs:
        raise ValueError(
            "loo=True needs the base model's outputs of the rows, which "
            f"store={corrector.spec.store.name!r} does not keep; tune on validation rows"
        )
    return OwnRows(corrector, some, k, threads)


# ---------------------------------------------------------------------- honest residuals


def _too_small(trial: Trial, result: TuneResult, loo: bool) -> tuple[str, ...]:
    """A note where the memory's residuals are smaller than those of rows that the base model has
    not seen: it was trained on the memory's rows, and so the memory has little to give."""
    cure = "fit with outputs from models that did not see the rows (resmem.out_of_fold)"
    if loo:
        alone = trial.predictions(result.knn, np.arange(len(trial.source)), "targets")
        share = _clearly_smaller(trial.error_sizes(), trial.sizes_of(alone), _MUCH_SMALLER)
        return () if share is None else (
            f"the base model errs {share:.0%} as much on the memory's rows as their neighbours do: "
            f"if it was trained on them, their residuals are too small for new rows; {cure}",
        )  # fmt: skip
    if not trial.spec.store.gives_outputs:
        return ()
    corrector = Corrector(trial.spec, trial.rows, 1, 1.0, 1.0, map_named("clip"))
    own = replace(trial, source=OwnRows(corrector, trial.some, 1, trial.threads))
    share = _clearly_smaller(own.error_sizes(), trial.error_sizes(), _SMALLER)
    return () if share is None else (
        f"the memory's residuals are {share:.0%} of the size of those on the validation rows: the "
        f"base model was probably trained on the memory's rows; {cure}",
    )  # fmt: skip


def _seen(trial: Trial) -> tuple[str, ...]:
    """A note where the validation rows are rows of the memory."""
    source = trial.source
    if isinstance(source, OwnRows):
        return ()
    seen = OverlapCounter(trial.spec, trial.rows, len(source))
    for row in seen.blocks():
        seen.count(row, source.keys(row), trial.positions[row, 0], source.targets[row])
    note = seen.warning("validation")
    return () if note is None else (note,)


def _impossible(trial: Trial, result: TuneResult) -> tuple[str, ...]:
    """A note where the base model's log-loss is infinite, and so cannot tell settings apart that
    leave it so."""
    if result.score != "log_loss" or math.isfinite(result.scores["base"]):
        return ()
    return (
        f"the base gives exactly 0 to the class of {trial.impossible()} of {len(trial.source)} "
        "rows, so its log-loss is infinite, like that of every setting whose neighbours of one of "
        "these rows do not have that class; choose by another score, such as score='brier', or "
        "leave these rows out",
    )


def _clearly_smaller(sizes: F64, others: F64, factor: float) -> float | None:
    """The ratio of the means if it is below ``factor`` by two standard errors."""
    error = math.sqrt(sizes.var() / len(sizes) + factor**2 * others.var() / len(others))
    clear = sizes.mean() + 2 * error < factor * others.mean()
    return float(sizes.mean() / others.mean()) if clear else None


# ---------------------------------------------------------------------- progress


class _Work(NamedTuple):
    """Steps of a run in their order: a row that is searched for, or one at a temperature or
    setting."""

    searched: int
    swept: int
    others: int  # stand-ins for the neighbours, the proof, doubts
    as_slow: int  # of the others, those that take as long as one that is swept

    @staticmethod
    def of(trials: list[Trial], score: Score, loo: bool) -> _Work:
        first, rows = trials[0], len(trials[0].source)

        def times(settings: list[Settings]) -> int:
            return len(settings) if score.custom else len({s.temperature for s in settings})

        proved = rows * (PROVED + (RIVALS if len(trials) > 1 else 0))
        others = proved + rows * (times(first.settings("mean")) + times(first.settings("targets")))
        others += first.singly(len(first.some)) * len(first.grid.temperatures)  # averaged
        if loo:
            others += rows + first.singly(rows)
        elif first.spec.store.gives_outputs:
            others += first.singly(rows) + first.singly(len(first.some))
        return _Work(
            rows * len(trials),
            rows * sum(times(trial.settings()) for trial in trials),
            others,
            proved if first.spec.store.has_layer or score.custom else 0,
        )


class _Forecast:
    """Is told of every step done, and warns once, where nobody else is told, that many seconds
    are left."""

    def __init__(self, work: _Work) -> None:
        self._phases = [(work.searched, 0), (work.searched + work.swept, work.as_slow)]
        self._done, self._before, self._start = 0, 0, time.monotonic()

    def __call__(self, done: int) -> None:
        if not self._phases:
            return
        self._done += done
        now, (end, more) = time.monotonic(), self._phases[0]
        if self._done >= end:
            self._phases = self._phases[1:]
            self._before, self._start = self._done, now
            return
        taken = now - self._start
        if taken < _FORECAST_AFTER:
            return
        left = taken / (self._done - self._before) * (end - self._done + more)
        if left > _LONG:
            self._phases = []
            warn(
                f"tuning takes some {left:.0f} s more; progress=True shows how far it is, fewer "
                "rows and fewer values to try take less, and so does another store where it is "
                "'head' (see Memory.estimate)"
            )


@contextmanager
def _steps(progress: Any, work: _Work) -> Iterator[Callable[[int], None]]:
    """What is told of every step done: the caller's function, a bar, or who warns of long runs."""
    total = work.searched + work.swept + work.others
    if progress is True:
        try:
            from tqdm.auto import tqdm
        except ImportError as error:
            raise ImportError(
                "progress=True draws its bar with tqdm: pip install 'residual-memory[cli]'"
            ) from error
        with tqdm(total=total, desc="tune", unit="rows", unit_scale=True, leave=False) as bar:
            yield bar.update
    elif callable(progress):
        yield progress
    elif progress in (None, False):
        yield _Forecast(work)
    else:
        raise TypeError(f"progress must be True or a function, got {type(progress).__name__}")
