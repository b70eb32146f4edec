"""``Memory.tune``: from its arguments to trials, and what else its result has to say."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from resmem import _arrays
from resmem._arrays import F64, I64
from resmem._correct import Corrector
from resmem._folds import fold_numbers
from resmem._metrics import Score, checked_confidence, score_named
from resmem._rows import Array, Snapshot
from resmem._stores import Sparse
from resmem._tuning.grid import choices, grid_of
from resmem._tuning.judge import Tuner
from resmem._tuning.result import TuneResult
from resmem._tuning.trial import GivenRows, Kind, OwnRows, Trial

if TYPE_CHECKING:
    from resmem._memory import Memory

_SAMPLE = 10_000  # rows of the memory that are looked at
_SMALLER = 0.8  # residuals of the memory, beside those of fresh rows, that cannot be as honest
_MOSTLY = 0.5  # of the validation rows
_MUCH_SMALLER = 0.5  # beside those of the neighbours' targets alone


def tune(
    memory: Memory, embeddings: Any, outputs: Any, targets: Any, *, k: Any, sigma: Any,
    temperature: Any, strength: Any, probability_map: Any, preprocess: Any, key_dtype: Any,
    score: Any, greater_is_better: bool | None, folds: Any, rule: Literal["best", "one_se"],
    confidence: float, seed: int, exclude_ids: Any, loo: bool, threads: int | None, progress: Any,
) -> TuneResult:  # fmt: skip
    """See ``Memory.tune``."""
    if rule not in ("best", "one_se"):
        raise ValueError(f"rule must be 'best' or 'one_se', got {rule!r}")
    usual = "log_loss" if memory.task == "classification" else "rmse"
    scored = score_named(usual if score is None else score, memory.task, greater_is_better)
    given = (embeddings, outputs, targets, exclude_ids)
    if loo and any(part is not None for part in given):
        raise ValueError(
            "loo=True tunes on the memory's own rows: leave out embeddings, outputs, targets and "
            "exclude_ids"
        )
    checked_confidence(confidence)
    if _arrays.count(seed, "seed", 0) >= 2**32:
        raise ValueError(f"seed must be below 2**32, got {seed}")
    workers = _arrays.thread_count(threads)
    trials: list[Trial] = []
    for name in choices(preprocess, memory.preprocess, "preprocess"):
        for dtype in choices(key_dtype, memory.key_dtype, "key_dtype"):
            same = (name, dtype) == (memory.preprocess, memory.key_dtype)
            corrector = (memory if same else memory._rekeyed(name, dtype))._corrector()
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
                source = GivenRows(corrector, *given, grid.ks[-1], workers)
            if not trials:
                numbers = _folds(folds, seed, source.targets, 3 if rule == "one_se" else 2)
            trials.append(
                Trial(
                    corrector.spec, corrector.rows, source, grid, numbers, some, name, most, workers
                )
            )
    with _steps(progress, _work(trials, scored)) as step:
        result = Tuner(trials, scored, rule, confidence, seed, step).run()
    notes = (
        *result.notes, *_too_small(trials[0], result, loo), *_seen(trials[0]),
        *_impossible(trials[0], result),
    )  # fmt: skip
    for note in notes:
        warnings.warn(f"tune: {note}", stacklevel=4)
    return result.with_notes(notes)


def _folds(folds: Any, seed: int, targets: Array, least: int) -> I64:
    """The fold of each row, counted from 0."""
    numbers = np.unique(fold_numbers(folds, seed, targets), return_inverse=True)[1].reshape(-1)
    if numbers.max() + 1 < least:
        raise ValueError(f"rule='one_se' needs at least {least} folds, got {numbers.max() + 1}")
    return np.asarray(numbers, dtype=np.int64)


def _sample(rows: Snapshot, seed: int) -> I64:
    """Positions, numbered through all segments, of at most 10,000 living rows."""
    living, start = [], 0
    for segment in rows.segments:
        living.append(segment.living(rows.version) + start)
        start += segment.n
    every = np.concatenate(living)
    if len(every) <= _SAMPLE:
        return every
    return every[np.sort(np.random.RandomState(seed).permutation(len(every))[:_SAMPLE])]


def _own(corrector: Corrector, some: I64, k: int, threads: int) -> OwnRows:
    if isinstance(corrector.spec.store, Sparse):
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
    if isinstance(trial.spec.store, Sparse):
        return ()  # which does not keep the outputs
    corrector = Corrector(trial.spec, trial.rows, 1, 1.0, 1.0)
    own = replace(trial, source=OwnRows(corrector, trial.some, 1, trial.threads))
    share = _clearly_smaller(own.error_sizes(), trial.error_sizes(), _SMALLER)
    return () if share is None else (
        f"the memory's residuals are {share:.0%} of the size of those on the validation rows: the "
        f"base model was probably trained on the memory's rows; {cure}",
    )  # fmt: skip


def _seen(trial: Trial) -> tuple[str, ...]:
    """A note where most rows lie on rows of the memory with the same target."""
    on = np.flatnonzero(trial.distances[:, 0] == 0)
    if isinstance(trial.source, OwnRows) or len(on) <= _MOSTLY * len(trial.source):
        return ()
    same = trial.nearest_targets(on) == trial.source.targets[on]
    share = np.count_nonzero(same.reshape(len(on), -1).all(axis=1)) / len(trial.source)
    return () if share <= _MOSTLY else (
        f"{share:.0%} of the validation rows lie on rows of the memory with the same target: if "
        "they are the same they prove nothing; leave them out with exclude_ids, or use loo=True",
    )  # fmt: skip


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


def _work(trials: list[Trial], score: Score) -> int:
    """Steps that a run takes: rows searched, and rows at each temperature or setting."""
    per_row = 0
    for trial in trials:
        grid = trial.grid
        times = math.prod(grid.shape) if score.given else len(grid.temperatures)
        per_row += 1 + times
    kinds: tuple[Kind, ...] = ("mean", "targets")
    for kind in kinds:
        settings = trials[0].settings(kind)
        per_row += len(settings) if score.given else len({s.temperature for s in settings})
    return per_row * len(trials[0].source)


@contextmanager
def _steps(progress: Any, total: int) -> Iterator[Callable[[int], None]]:
    """What is told of every step done: the caller's function, a bar, or nobody."""
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
        yield lambda done: None
    else:
        raise TypeError(f"progress must be True or a function, got {type(progress).__name__}")
