"""A running judgement of a memory that is in use: does it still help on what has arrived since?"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from resmem._base import checks
from resmem._base.arrays import F64
from resmem._base.blocks import blocks
from resmem._base.errors import warn
from resmem._base.execution import execution_of
from resmem._base.sample import sample
from resmem._devices.places import on_the_cpu
from resmem._evaluation.rows import GivenRows
from resmem._rows.visibility import Visibility
from resmem._scores.intervals import checked_confidence
from resmem._scores.metrics import (
    absolute_errors,
    brier_scores,
    gains_of,
    hits,
    log_losses,
    squared_errors,
)
from resmem._scores.sequences import Sequence
from resmem._state.state import State
from resmem._state.view import MemoryView

# By task and name, the default first: the loss of each row.
_LOSSES: dict[str, dict[str, Callable[[Any, Any], F64]]] = {
    "classification": {
        "brier": brier_scores,
        "log_loss": log_losses,
        "accuracy": lambda predictions, targets: 1 - hits(predictions, targets),
    },
    "regression": {"mse": squared_errors, "mae": absolute_errors},
}
_SAMPLE_ROWS = 10_000  # rows whose residuals tell how large losses are
_USUAL_LOSSES = 4  # by so many mean losses a row may gain in regression
_LARGEST_CUT = 2.0**1022  # of which twice is finite
_NO_ROWS = Sequence()


class RunningGain(NamedTuple):
    """A mean gain, and an interval of it that holds at every look."""

    mean: float  # NaN without rows
    low: float
    high: float
    rows: int


@dataclass(frozen=True)
class _Record:
    """All that a monitor keeps; gains are in units of twice ``cut``."""

    score: str
    cut: float
    confidence: float
    window: int
    off_when_harmful: bool
    total: Sequence = _NO_ROWS
    # The sequences that begin at multiples of ``window`` and hold up to twice as many rows.
    older: Sequence = _NO_ROWS
    newer: Sequence = _NO_ROWS
    begun: int = 0  # how many sequences ended before ``older`` began
    switched_off: float | None = None  # the strength that the memory had when it was switched off

    def after(self, gains: F64) -> _Record:
        """Return the record after rows with these gains."""
        numbers = np.clip(gains, -self.cut, self.cut) / (2 * self.cut)
        now = replace(self, total=self.total.after(numbers))
        while len(numbers):
            some = numbers[: self.window - now.older.rows % self.window]
            numbers = numbers[len(some) :]
            full = now.older.rows + len(some) == 2 * self.window
            older, newer = now.older.after(some), now.newer
            if now.older.rows >= self.window:
                newer = newer.after(some)
            if full:
                now = replace(now, older=newer, newer=Sequence(), begun=now.begun + 1)
            else:
                now = replace(now, older=older, newer=newer)
        return now

    def gain(self) -> RunningGain:
        """Return the mean gain of all rows; half of the risk is its own."""
        return self._of(self.total, (1 - self.confidence) / 2)

    def recent(self) -> RunningGain:
        """Return that of the last rows; the windows share the other half of the risk."""
        risk = (1 - self.confidence) / 2
        return self._of(self.older, risk / ((self.begun + 1) * (self.begun + 2)))

    def _of(self, sequence: Sequence, risk: float) -> RunningGain:
        mean, low, high = (2 * self.cut * each for each in sequence.interval(risk))
        return RunningGain(mean, low, high, sequence.rows)

    def helps(self) -> bool | None:
        """Tell whether the memory helps; None if the rows do not prove either."""
        for found in (self.recent(), self.gain()):
            if found.low > 0 or found.high < 0:
                return found.low > 0
        return None


def _recorded(parts: Mapping[str, Any]) -> _Record:
    """Return the record of these parts, of which the score is checked already; raise if another is
    wrong."""
    was = parts["switched_off"]
    return _Record(
        parts["score"],
        _checked_cut(parts["cut"]),
        checked_confidence(parts["confidence"]),
        checks.count(parts["window"], "window"),
        checks.boolean(parts["off_when_harmful"], "off_when_harmful"),
        _sequence(parts["total"], "total"),
        _sequence(parts["older"], "older"),
        _sequence(parts["newer"], "newer"),
        checks.count(parts["begun"], "begun", least=0),
        None if was is None else checks.finite(was, "switched_off"),
    )


def _sequence(sums: Any, name: str) -> Sequence:
    """Return the sequence that has these sums."""
    names = {field.name for field in fields(Sequence)}
    if not isinstance(sums, Mapping) or set(sums) != names:
        raise ValueError(f"{name} must have {', '.join(sorted(names))}, got {sums!r}")
    return Sequence(
        checks.count(sums["rows"], f"rows of {name}", least=0),
        checks.finite(sums["total"], f"total of {name}"),
        checks.not_negative(sums["squares"], f"squares of {name}"),
    )


class Monitor:
    """Whether a memory helps on rows whose targets arrive after it has predicted them.

    ``Memory.monitor`` makes one. It keeps a few sums and no rows.

    Attributes
    ----------
    gain : RunningGain
        By how much the memory's loss is below that of the base model, over all rows: ``mean``,
        ``low``, ``high``, ``rows``. The base is what the memory predicts at strength 0.
    recent : RunningGain
        The same over the last rows: from ``window`` to twice as many, or all there are if fewer.
    helps : bool or None
        True if ``recent``'s interval lies above 0, False if below; where it does neither, that of
        ``gain`` tells. None: not known yet.
    """

    def __init__(self, state: State, record: _Record) -> None:
        self._state, self._record, self._lock = state, record, threading.Lock()

    @staticmethod
    def new(
        state: State, score: Any, cut: Any, confidence: Any, window: Any, off_when_harmful: Any
    ) -> Monitor:
        """See ``Memory.monitor``."""
        task = state.view.spec.task
        known = [*_LOSSES[task]]
        name = known[0] if score is None else score
        if name not in known:
            names = ", ".join(map(repr, known))
            raise ValueError(f"score must be one of {names} for {task}, got {score!r}")
        record = _Record(
            name,
            _usual_cut(state.view, name) if cut is None else _checked_cut(cut),
            checked_confidence(confidence),
            checks.count(window, "window"),
            checks.boolean(off_when_harmful, "off_when_harmful"),
        )
        return Monitor(state, record)

    @staticmethod
    def resumed(state: State, parts: Any) -> Monitor:
        """Return a monitor that goes on from what ``to_dict`` of another one gave."""
        names = [field.name for field in fields(_Record)]
        if not isinstance(parts, Mapping):
            raise TypeError(f"resume must be what to_dict gives, got {type(parts).__name__}")
        if missing := [name for name in names if name not in parts]:
            raise ValueError(f"resume must be what to_dict gives, {missing[0]!r} is missing")
        task = state.view.spec.task
        if parts["score"] not in [*_LOSSES[task]]:
            raise ValueError(f"resume must be of a score for {task}, got {parts['score']!r}")
        try:
            return Monitor(state, _recorded(parts))
        except (TypeError, ValueError) as error:
            raise ValueError(f"resume must be what to_dict gives: {error}") from error

    @on_the_cpu
    def update(
        self,
        embeddings: Any,
        outputs: Any,
        targets: Any,
        *,
        exclude_ids: Any = None,
        before: Any = None,
        exclude_groups: Any = None,
        threads: int | None = None,
    ) -> Monitor:
        """Score base and memory on rows whose targets have arrived, and return self.

        Call it before the rows are given to ``add`` or ``update``: a memory that has a row knows
        its target. Arguments are as for ``Memory.evaluate``. If this raises, nothing was counted.

        Warns
        -----
        ResmemWarning
            Many of these rows are rows of the memory; or the memory was switched off.
        """
        view = self._judged_view()
        visible = Visibility(exclude_ids, None, before, exclude_groups)
        gains = _gains(view, self._record.score, (embeddings, outputs, targets), visible, threads)
        with self._lock:
            self._record = self._record.after(gains)
            harmful = self._record.off_when_harmful and self._record.helps() is False
            if harmful and self._record.switched_off is None and view.strength != 0:
                self._record = replace(self._record, switched_off=view.strength)
                self._state.set_strength(self._state.view.method, 0.0)
                warn(
                    f"monitor: the memory harms ({self._found()}), so that it was switched off; to "
                    f"switch it on again, set memory.strength = {view.strength!r}"
                )
        return self

    def _judged_view(self) -> MemoryView:
        """Return the memory as it is, or as it would be if it were still on."""
        view, was = self._state.view, self._record.switched_off
        return view if was is None or view.strength != 0 else replace(view, strength=was)

    @property
    def gain(self) -> RunningGain:
        """See the class."""
        return self._record.gain()

    @property
    def recent(self) -> RunningGain:
        """See the class."""
        return self._record.recent()

    @property
    def helps(self) -> bool | None:
        """See the class."""
        return self._record.helps()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it; ``Memory.monitor(resume=..)`` goes on from it."""
        return asdict(self._record)

    def _found(self) -> str:
        gain, recent = self._record.gain(), self._record.recent()
        return (
            f"gain {_text(gain)} over {gain.rows} rows, {_text(recent)} over the last {recent.rows}"
        )

    def __repr__(self) -> str:
        record = self._record
        was = record.switched_off
        off = "" if was is None else f"; switched off, the strength was {was:g}"
        return f"Monitor(score={record.score!r}, helps={record.helps()}: {self._found()}{off})"


def _text(gain: RunningGain) -> str:
    return f"{gain.mean:.4g} [{gain.low:.4g}, {gain.high:.4g}]"


def _checked_cut(cut: Any) -> float:
    """Return where gains are cut off, as a caller gives it."""
    checked = checks.positive(cut, "cut")
    if checked > _LARGEST_CUT:
        raise ValueError(f"cut must be at most {_LARGEST_CUT:.3g}, got {cut!r}")
    return checked


def _usual_cut(view: MemoryView, score: str) -> float:
    """Return where gains are cut off: at 1, or in regression at some mean losses of the base."""
    if view.spec.task == "classification":
        return 1.0
    rows = view.fitted_rows
    total, n = 0.0, min(len(rows), _SAMPLE_ROWS)
    for segment, at in rows.sample(sample(len(rows), _SAMPLE_ROWS, 0)):
        residuals = segment["residuals"][at].astype(np.float64)
        zeros = np.zeros_like(residuals)
        with np.errstate(over="ignore"):  # squares of residuals beyond 1e154 are infinite
            total += float(_LOSSES[view.spec.task][score](residuals, zeros).sum())
    if not total > 0:
        raise ValueError(
            "cut must be given: the memory has no residuals that tell how large losses are; pass "
            "cut=1.0, say, in units of the score"
        )
    return min(_USUAL_LOSSES * (total / n), _LARGEST_CUT)


def _gains(
    view: MemoryView, score: str, given: tuple[Any, Any, Any], visible: Visibility,
    threads: int | None,
) -> F64:  # fmt: skip
    """Return by how much the memory's loss is below the base's, for each of these rows (q,)."""
    corrector, execution = view.corrector, execution_of(threads)
    rows = GivenRows(corrector, corrector.k, *given, visible, execution)
    gains, loss = np.empty(len(rows)), _LOSSES[corrector.spec.task][score]
    for block in blocks(len(rows), 24 * corrector.k + 96 * corrector.rows.columns):
        read = rows.read(block)
        base = corrector.spec.base(read.outputs, corrector.rows.temperature, execution)
        corrected = corrector.corrected(base, read.distances, read.positions, execution)
        targets = read.targets
        gains[block] = gains_of(loss(corrected, targets), loss(base, targets))
        rows.release(block)
    if note := rows.note():
        warn(f"monitor: {note}")
    return gains
