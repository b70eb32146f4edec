"""``Memory.tune``: its arguments, the notes on its result, and its progress."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from resmem._base import checks
from resmem._base.arrays import I64, picked_rows
from resmem._base.errors import warn
from resmem._base.execution import Execution, execution_of
from resmem._base.labels import LabelTable
from resmem._base.sample import sample
from resmem._correction.correct import Corrector
from resmem._correction.own_rows import MemoryRows, refuse_known_targets
from resmem._correction.simplex import map_named
from resmem._keys.preprocess import preprocess_named
from resmem._rows.plausible import OverlapCounter
from resmem._rows.snapshot import Snapshot
from resmem._rows.visibility import Visibility, groups_or_singletons, own_times
from resmem._scores.groups import numbered_groups
from resmem._scores.intervals import checked_confidence, checked_risk
from resmem._scores.metrics import Score, score_named
from resmem._scores.trained import (
    CURE,
    TRAINED_SHARE,
    clearly_smaller,
    note_of_trained_rows,
)
from resmem._state.settings import Settings
from resmem._state.view import MemoryView
from resmem._tuning.dependence import Dependence
from resmem._tuning.grid import grid_of, names_to_try
from resmem._tuning.judge import KEYS_PREDICTIONS, PROOF_PREDICTIONS, tuned
from resmem._tuning.result import TuneResult
from resmem._tuning.tuner import Tuner
from resmem._tuning.validation import CallersRows, ValidationRun

_SAMPLE_ROWS = 10_000  # most rows of the memory that are used
_PILOT_ROWS, _PILOT_FOLDS = 256, 10  # rows that tell how long a row takes
_FORECAST_AFTER = 1.0  # seconds after which the time left is estimated
_LONG = 10.0  # seconds left that are worth a warning


def tune(
    view: MemoryView, embeddings: Any, outputs: Any, targets: Any, *, k: Any, sigma: Any,
    temperature: Any, strength: Any, probability_map: Any, methods: Any, preprocess: Any,
    key_dtype: Any, score: Any, greater_is_better: bool | None, folds: Any, groups: Any, times: Any,
    rule: Literal["best", "one_se"], confidence: float, risk: float | None, seed: int,
    visible: Visibility, loo: bool, budget: float | None, threads: int | None, progress: Any,
) -> TuneResult:  # fmt: skip
    """See ``Memory.tune``."""
    if rule not in ("best", "one_se"):
        raise ValueError(f"rule must be 'best' or 'one_se', got {rule!r}")
    task = view.spec.task
    default = "log_loss" if task == "classification" else "rmse"
    scored = score_named(default if score is None else score, task, greater_is_better)
    if scored.custom and view.spec.labels is not None:
        scored = _reading_labels(scored, view.spec.labels)
    whole = _Rows(embeddings, outputs, targets, visible, folds, groups, times)
    _check_rows(whole, view, preprocess, rule, loo)
    confidence = checked_confidence(confidence)
    risk = checked_risk(risk, confidence)
    seed = checks.seed(seed)
    execution = execution_of(threads)
    tried = _correctors(view, preprocess, key_dtype)
    values = (k, sigma, temperature, strength, probability_map, methods)
    if groups is not None:
        whole = whole._replace(groups=numbered_groups(groups))
    if loo:
        whole = whole.with_own(view.fitted_rows, seed)

    def judged_by(rows: I64 | None, pilot: bool = False) -> Tuner:
        """Return what tunes on these of the validation rows; None: on all of them.

        A pilot does not look at what belongs together, of which it may have too little.
        """
        some = whole if rows is None else whole.picked(rows)
        if pilot:
            some = some._replace(folds=_PILOT_FOLDS, groups=None, times=None)
        runs = _runs(tried, values, some, rows if loo else None, seed, loo, execution)
        dependence = Dependence.declared(
            some.folds, seed, runs[0].source.targets, some.groups, some.times
        )
        _check_folds(dependence, rule)
        for run in runs:
            run.folds = dependence.folds
        return Tuner(runs, scored, rule, confidence, risk, seed, dependence)

    note_of_budget: tuple[str, ...] = ()
    tuner = judged_by(None)
    if budget is not None:
        count = len(tuner.runs[0].source)
        least = max(_PILOT_ROWS, int(folds) if np.ndim(folds) == 0 else 0)
        rows = _rows_within(checks.positive(budget, "budget"), count, least, seed, judged_by)
        if rows is not None:
            tuner = judged_by(rows)
            note_of_budget = (f"budget={budget:g} s: {len(rows):,} of {count:,} rows were used",)
    runs = tuner.runs
    with _progress(progress, _Steps.of(runs, scored, loo)) as step:
        for run in runs:
            run.step = step
        result = tuned(tuner)
        notes = (
            *note_of_budget,
            *_note_of_small_residuals(runs[0], result, loo),
            *_note_of_known_rows(runs[0]),
            *_note_of_impossible_classes(runs[0], result),
        )
    for note in result.notes:
        warn(f"tune: {note}", UserWarning)
    for note in notes:
        warn(f"tune: {note}")
    return result.with_notes((*result.notes, *notes))


def _reading_labels(score: Score, labels: LabelTable) -> Score:
    """Return a caller's score that gets targets as the caller gave them, not numbers of columns."""
    whole = score.whole
    return replace(score, whole=lambda predicted, numbers: whole(predicted, labels.labels(numbers)))


class _Rows(NamedTuple):
    """Validation rows, in the forms that the caller gives."""

    embeddings: Any
    outputs: Any
    targets: Any
    visible: Visibility
    folds: Any
    groups: Any
    times: Any

    def picked(self, rows: I64) -> _Rows:
        """Return some of the rows, by their numbers in ascending order."""
        given = {name: part for name, part in self._asdict().items() if name != "visible"}
        return _Rows(visible=self.visible.picked(rows), **{
            name: part if part is None or np.ndim(part) == 0 else picked_rows(part, rows, name)
            for name, part in given.items()
        })  # fmt: skip

    def with_own(self, memory: Snapshot, seed: int) -> _Rows:
        """Return it with the times or groups of the memory's rows that are tuned on, if these do
        not see later rows, or rows of their own group. Folds go by times where both are so."""
        some = _sample(memory, seed)
        if self.visible.before is not None:
            return self._replace(times=own_times(memory, some))
        if self.visible.exclude_groups is not None:
            return self._replace(groups=groups_or_singletons(memory, some))
        return self


def _check_rows(rows: _Rows, view: MemoryView, preprocess: Any, rule: str, loo: bool) -> None:
    """Refuse rows that are missing, or that do not go with ``loo=True`` or with the rule."""
    given = (rows.embeddings, rows.outputs, rows.targets, rows.groups, rows.times)
    if loo and (any(part is not None for part in given) or not rows.visible.of_own_rows):
        raise ValueError(
            "loo=True tunes on the memory's own rows: leave out embeddings, outputs, targets, "
            "exclude_ids, groups and times; before and exclude_groups may be 'own'"
        )
    if loo:
        for name in names_to_try(preprocess, view.spec.preprocess.name, "preprocess"):
            refuse_known_targets(preprocess_named(name))
    in_time = rows.times is not None or (loo and rows.visible.before is not None)
    if rule == "one_se" and in_time:
        raise ValueError(
            "rule='one_se' compares all folds, and times leave the later ones out: give "
            "rule='best', or leave times out"
        )
    if not loo and rows.embeddings is None:
        raise TypeError(
            "tune needs validation rows: give embeddings, outputs and targets, or loo=True to tune "
            "on the memory's own rows"
        )


# The preprocess, and the memory whose keys it made.
_Tried: TypeAlias = "list[tuple[str, Corrector]]"


def _correctors(view: MemoryView, preprocess: Any, key_dtype: Any) -> _Tried:
    """Return the memory with its keys kept in every way to try; the first is the present one."""
    present = view.spec.preprocess.name, view.spec.key_dtype
    tried: dict[tuple[str, str], Corrector] = {}
    for name in names_to_try(preprocess, present[0], "preprocess"):
        for dtype in names_to_try(key_dtype, present[1], "key_dtype"):
            if dtype == "float64" and preprocess_named(name).linear:
                dtype = "float32"  # a linear layer gives float32 keys
            if (name, dtype) in tried:
                continue
            kept = view if (name, dtype) == present else view.rekeyed(name, dtype)
            tried[name, dtype] = kept.corrector
    return [(name, corrector) for (name, _), corrector in tried.items()]


def _runs(
    tried: _Tried, values: tuple[Any, ...], rows: _Rows, own: I64 | None, seed: int, loo: bool,
    execution: Execution,
) -> list[ValidationRun]:  # fmt: skip
    """Return a run for each way of keeping keys.

    ``own``: which of the sampled rows of the memory are tuned on with ``loo``; None: all of them.
    """
    runs: list[ValidationRun] = []
    for name, corrector in tried:
        most = len(corrector.rows) - loo
        if most < 1:
            needed = "two rows for loo=True" if loo else "rows"
            raise ValueError(f"tune needs a memory with {needed}, this one has {most + loo}")
        columns, temperature = corrector.rows.columns, corrector.rows.temperature
        grid = grid_of(corrector.spec, most, columns, temperature, *values)
        some = _sample(corrector.rows, seed)
        source: CallersRows | MemoryRows
        if loo:
            chosen = some if own is None else some[own]
            source = _memory_rows(corrector, chosen, grid.ks[-1], rows.visible, execution)
        else:
            known = bool(runs)
            source = CallersRows(corrector, *rows[:4], grid.ks[-1], execution, known)
        folds = np.zeros(len(source), dtype=np.int64)  # until they are known
        runs.append(
            ValidationRun(
                corrector.spec, corrector.rows, source, grid, folds, some, name, most, execution
            )
        )
    return runs


def _rows_within(
    budget: float, count: int, least: int, seed: int, judged_by: Callable[[I64, bool], Tuner]
) -> I64 | None:
    """Return the numbers of as many rows as can be tuned on in ``budget`` seconds; None: all.

    A pilot on a few rows tells how long a row takes. Rows are drawn at random, and no fewer than
    ``least``, which is at least as many as those of the pilot.
    """
    if count <= least:
        return None
    order = np.random.RandomState(seed).permutation(count)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it finds is found again, on more rows
        tuned(judged_by(np.sort(order[:_PILOT_ROWS]), True))
    taken = time.perf_counter() - start
    affordable = int((budget - taken) / taken * _PILOT_ROWS)
    return None if affordable >= count else np.sort(order[: max(affordable, least)])


def _check_folds(dependence: Dependence, rule: str) -> None:
    count = int(dependence.folds.max()) + 1
    if rule == "one_se" and count < 3:
        raise ValueError(f"rule='one_se' needs at least 3 folds, got {count}")


def _sample(rows: Snapshot, seed: int) -> I64:
    """Return the positions, counted through all segments, of at most 10,000 living rows."""
    return rows.numbered(sample(len(rows), _SAMPLE_ROWS, seed))


def _memory_rows(
    corrector: Corrector, some: I64, k: int, visible: Visibility, execution: Execution
) -> MemoryRows:
    if not corrector.spec.gives_outputs:
        raise ValueError(
            "loo=True needs the base model's outputs of the rows, which "
            f"store={corrector.spec.store.name!r} does not keep; tune on validation rows"
        )
    return MemoryRows(corrector, some, k, execution, visible)


# ---------------------------------------------------------------------- honest residuals


def _note_of_small_residuals(run: ValidationRun, result: TuneResult, loo: bool) -> tuple[str, ...]:
    """Return a note if the memory's residuals are smaller than those of rows that the base model
    has not seen: then it was trained on the memory's rows, and residuals teach little."""
    if loo:
        alone = run.predictions(result.knn, np.arange(len(run.source)), "targets")
        note = note_of_trained_rows(run.base_error_sizes(), run.error_sizes(alone))
        return () if note is None else (note,)
    if not run.spec.gives_outputs:
        return ()
    corrector = Corrector(run.spec, run.rows, 1, 1.0, 1.0, map_named("clip"))
    own = replace(run, source=MemoryRows(corrector, run.sampled, 1, run.execution))
    share = clearly_smaller(own.base_error_sizes(), run.base_error_sizes(), TRAINED_SHARE)
    return () if share is None else (
        f"the memory's residuals are {share:.0%} of the size of those on the validation rows: the "
        f"base model was probably trained on the memory's rows; {CURE}",
    )  # fmt: skip


def _note_of_known_rows(run: ValidationRun) -> tuple[str, ...]:
    """Return a note if validation rows are rows of the memory."""
    source = run.source
    if isinstance(source, MemoryRows):
        return ()
    seen = OverlapCounter(run.spec, run.rows, len(source))
    source.count_overlaps(seen, run.positions[:, 0])
    note = seen.warning("validation", "tune(loo=True)")
    return () if note is None else (note,)


def _note_of_impossible_classes(run: ValidationRun, result: TuneResult) -> tuple[str, ...]:
    """Return a note if the base model's log-loss is infinite: settings that leave it infinite
    cannot be told apart."""
    if result.score != "log_loss" or math.isfinite(result.scores["base"]):
        return ()
    return (
        f"the base gives exactly 0 to the class of {run.count_impossible()} of {len(run.source)} "
        "rows, so its log-loss is infinite, like that of every setting whose neighbours of one of "
        "these rows do not have that class; choose by another score, such as score='brier', or "
        "leave these rows out",
    )


# ---------------------------------------------------------------------- progress


class _Steps(NamedTuple):
    """The steps of tuning, in their order. A step is a row that is searched for, or a row at one
    temperature or setting."""

    searched: int
    swept: int
    others: int  # stand-ins for the neighbours, the proof and the notes
    as_slow: int  # those of ``others`` that take as long as a swept one

    @staticmethod
    def of(runs: list[ValidationRun], score: Score, loo: bool) -> _Steps:
        first, rows = runs[0], len(runs[0].source)

        def times(settings: list[Settings]) -> int:
            return len(settings) if score.custom else len({s.temperature for s in settings})

        proved = rows * (PROOF_PREDICTIONS + (KEYS_PREDICTIONS if len(runs) > 1 else 0))
        others = proved + rows * (times(first.settings("mean")) + times(first.settings("targets")))
        # The mean residual is computed for each temperature.
        others += first.single_steps(len(first.sampled)) * len(first.grid.temperatures)
        if loo:
            others += rows + first.single_steps(rows)
        elif first.spec.gives_outputs:
            others += first.single_steps(rows) + first.single_steps(len(first.sampled))
        return _Steps(
            rows * len(runs),
            rows * sum(times(run.settings()) for run in runs),
            others,
            proved if first.spec.store.layer or score.custom else 0,
        )


class _Forecast:
    """Counts the steps done, and warns once if many seconds are left."""

    def __init__(self, work: _Steps) -> None:
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
def _progress(progress: Any, work: _Steps) -> Iterator[Callable[[int], None]]:
    """Yield the function to call with steps done: the caller's, a progress bar's, or a forecast."""
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
