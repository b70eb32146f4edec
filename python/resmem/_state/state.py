"""The state of a memory: its present view, and how the next one is published.

Settings and rows are one frozen value, ``State.view``. A change makes another value and publishes
it by one assignment, so that a query, which reads ``view`` once, needs no lock.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from resmem._base import checks, convert
from resmem._base.arrays import float_state
from resmem._base.errors import warn
from resmem._base.metric import checked_metric
from resmem._base.platform import after_fork_in_child, room_for
from resmem._correction.correct import Corrector
from resmem._correction.simplex import map_named
from resmem._devices.several import choose_all
from resmem._files import persist
from resmem._files.atomic import sole_writer
from resmem._rows.attributes import ATTRIBUTES
from resmem._rows.by_id import Gathered
from resmem._rows.compaction import worth_compacting
from resmem._rows.ingest import Incoming
from resmem._rows.limits import Limits
from resmem._rows.resident import Residency
from resmem._rows.segment import MISSING, merge
from resmem._rows.snapshot import Snapshot
from resmem._rows.spec import Spec
from resmem._rows.stores.named import residual_dtype_for, store_named
from resmem._state.merging import merged
from resmem._state.settings import (
    SETTINGS,
    checked_gate,
    checked_half_life,
    checked_keys,
    checked_kind,
    checked_labels,
    checked_method,
    checked_residuals,
    checked_settings,
    checked_sigma,
    checked_temperature,
    described_base,
)
from resmem._state.view import MemoryView, fit_basis, with_derived_arrays

_LAST_ID = 2**63 - 1


class State:
    """The settings and the rows of a memory.

    ``publish`` replaces the view. A method that makes other rows, or other residuals or keys for
    them, holds the lock while it does so (``_change``).
    """

    def __init__(
        self, view: MemoryView, residual_dtype: str, base: str | dict[str, Any] | None,
        residuals: str | None,
    ) -> None:  # fmt: skip
        self.view, self.residual_dtype, self.base = view, residual_dtype, base
        self.residuals = residuals  # "in-sample", "out-of-fold", or None if that is not known
        self._make_locks()

    @staticmethod
    def from_arguments(
        *, task: Any, output_kind: Any, k: Any, sigma: Any, temperature: Any, strength: Any,
        key_dtype: Any, residual_dtype: Any, store: Any, head: Any, base: Any, preprocess: Any,
        probability_map: Any, method: Any, gate: Any, residuals: Any, auto_prepare: Any = True,
        classes: Any = None, max_rows: Any = None, max_bytes: Any = None, max_age: Any = None,
        half_life: Any = None, metric: Any = "euclidean",
    ) -> State:  # fmt: skip
        """Return a state without rows; the arguments are those of ``Memory``, and are checked."""
        kind = checked_kind(task, output_kind)
        value_dtype = residual_dtype_for(task, residual_dtype)
        residual_store = store_named(store, task, kind, value_dtype, head)
        keys = checked_keys(preprocess, key_dtype, residual_store)
        labels = checked_labels(classes, task)
        spec = Spec(task, kind, key_dtype, residual_store, keys, labels, checked_metric(metric))
        base_model = described_base(base)
        if method is None:
            method = "targets" if (task, kind) == ("classification", "none") else "residual"
        what, share = checked_method(method, strength)
        view = MemoryView(
            spec,
            key_dtype,
            checks.count(k, "k"),
            checked_sigma(sigma),
            checked_temperature(temperature, spec),
            share,
            map_named(probability_map),
            checks.boolean(auto_prepare, "auto_prepare"),
            method=what,
            gate=checked_gate(gate, spec),
            limits=Limits.of(max_rows, max_bytes, max_age),
            half_life=checked_half_life(half_life),
            fit_labels=labels,
        )
        return State(view, value_dtype, base_model, checked_residuals(residuals))

    def _make_locks(self) -> None:
        """Make the locks and the thread's place, which copies and files do not carry."""
        self._lock = threading.RLock()  # held while rows are changed
        self._view_lock = threading.RLock()  # held only while ``view`` is replaced
        self._changing = False  # whether the thread that holds the lock is about to publish rows
        self._save_lock = threading.RLock()  # held during a save
        self._compactor: threading.Thread | None = None
        _live_states.add(self)

    def corrector(self, base: Any = None) -> Corrector:
        """Return what a call computes with, even if the memory is changed while it runs."""
        if base is not None and described_base(base) != self.base:
            made = "an unnamed base" if self.base is None else f"base {self.base!r}"
            raise ValueError(f"this memory was made from {made}, not from {base!r}")
        return self.view.corrector

    # ---------------------------------------------------------------- publication

    def publish(self, **fields: Any) -> None:
        """Replace the view by one with these fields."""
        with self._view_lock:
            while True:
                before = self.view
                after = replace(before, **fields)
                if self.view is before:  # else a signal handler has published another meanwhile
                    self.view = after
                    return

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Hold the lock while other rows are made and published.

        A signal handler that interrupts a change cannot make one itself: the interrupted change
        would overwrite it, so RuntimeError is raised.
        """
        with self._lock:
            if self._changing:
                raise RuntimeError(
                    "this memory is being changed by the code that was interrupted; "
                    "change it when that is done"
                )
            before = self.view.rows
            try:
                self._changing = True
                yield
            except BaseException:
                if before is not None and self.view.rows is before:
                    before.undo_unpublished_removals()
                raise
            finally:
                self._changing = False

    def _publish_rows(self, made: MemoryView) -> None:
        """Publish added rows with their specification, and start a thread that merges segments if
        that is worth it and no such thread is running."""
        after, spec = made.fitted_rows, made.spec
        idle = self._compactor is None or not self._compactor.is_alive()
        at = worth_compacting(after.segments, made.part_rows) if idle else None
        if at is None or not room_for(1):
            self.publish(rows=after, spec=spec)
            return
        after = after.sealed()
        thread = threading.Thread(
            target=self._compact, args=(after, at), name="resmem-compact", daemon=True
        )
        try:
            # The thread waits for the lock. If starting it is interrupted, nothing was published.
            thread.start()
            self._compactor = thread
        except RuntimeError:
            pass  # the system gives no thread now; a later call tries again
        self.publish(rows=after, spec=spec)

    def _compact(self, before: Snapshot, at: slice) -> None:
        with contextlib.suppress(MemoryError):  # without room for a copy, the segments stay
            merged, gone = merge(before.segments[at], before.version), before.dead_ids(at)
            with self._lock:
                now = self.view.rows
                after = None if now is None else now.compacted(at, before, merged, gone)
                if after is not None:
                    self.publish(rows=after)

    # ---------------------------------------------------------------- settings

    def use(self, settings: Any) -> None:
        """See ``Memory.use``."""
        checked_settings(settings)
        with self._change():
            made = vars(self.view.with_settings(settings))
            kept = ("auto_prepare", "resident")
            self.publish(**{name: made[name] for name in made if name not in kept})

    def move(self, device: Any, resident_bytes: Any) -> None:
        """See ``Memory.to``."""
        chosen = choose_all(device, {})
        most = None if resident_bytes is None else checks.count(resident_bytes, "resident_bytes")
        if most is not None and chosen[0].kind == "cpu":
            raise ValueError(
                f"resident_bytes is for rows on CUDA devices, got {most} with device='cpu'; "
                "leave it out"
            )
        resident = None if chosen[0].kind == "cpu" else Residency(chosen, most)
        if resident is not None and self.view.rows is not None:
            resident.bring(self.view.rows)  # so that a lack of memory is told here
        self.publish(resident=resident)

    @float_state()
    def set_sigma(self, value: Any) -> None:
        """See ``Memory.sigma``."""
        sigma = checked_sigma(value)
        if sigma != "auto":
            self.publish(sigma=sigma)
            return
        with self._change():
            view = replace(self.view, sigma=sigma).without_measured_sigma().with_measured_sigma()
            self.publish(sigma=sigma, rows=view.rows)

    def set_strength(self, method: Any, strength: Any) -> None:
        """See ``Memory.strength`` and ``Memory.method``, which must go with each other."""
        what, share = checked_method(method, strength)
        self.publish(method=what, strength=share)

    def set_gate(self, value: Any) -> None:
        """See ``Memory.gate``."""
        self.publish(gate=checked_gate(value, self.view.spec))

    def set_limits(self, **changed: Any) -> None:
        """See ``Memory.max_rows``, ``max_bytes`` and ``max_age``."""
        with self._change():
            limits = Limits.of(**{**vars(self.view.limits), **changed})
            view = replace(self.view, limits=limits).limited()
            self.publish(limits=limits, rows=view.rows)

    def set_half_life(self, value: Any) -> None:
        """See ``Memory.half_life``."""
        with self._change():
            view = replace(self.view, half_life=checked_half_life(value)).decaying()
            self.publish(half_life=view.half_life, rows=view.rows)

    def set_temperature(self, value: Any) -> None:
        """See ``Memory.temperature``."""
        with self._change():
            view = self.view.at_temperature(checked_temperature(value, self.view.spec))
            self.publish(temperature=view.temperature, rows=view.rows)

    # ---------------------------------------------------------------- rows

    def _incoming(
        self, spec: Spec, embeddings: Any, outputs: Any, targets: Any, ids: Any,
        like: Snapshot | None = None, **attributes: Any,
    ) -> Incoming:  # fmt: skip
        """Return rows that a caller gives, checked."""
        return Incoming(spec, embeddings, outputs, targets, ids, like, **attributes)

    @float_state()
    def fit(
        self, embeddings: Any, outputs: Any, targets: Any, ids: Any, copy: bool,
        **attributes: Any,
    ) -> None:  # fmt: skip
        """See ``Memory.fit``."""
        start = self.view
        rows = self._incoming(start.fit_spec, embeddings, outputs, targets, ids, **attributes)
        snapshot = _empty_snapshot(start, rows)
        arrays = {} if copy else rows.borrowable()
        if not copy and rows.ids is not None and isinstance(ids, np.ndarray):
            as_kept = ids.dtype == np.int64 and ids.flags.c_contiguous
            arrays["ids"] = ids if as_kept else rows.ids
        if rows.n:
            snapshot = _grown_snapshot(snapshot, rows, arrays)
        made = replace(start, spec=rows.spec, rows=snapshot).limited().with_measured_sigma()
        with self._change():
            now = self.view
            if now.spec is start.spec:  # settings that were changed meanwhile are kept
                now = replace(now, spec=made.spec, rows=made.rows).limited()
                now = now.at_temperature(self.view.temperature).with_measured_sigma()
                self.publish(spec=now.spec, rows=now.rows, file=None)
                return
        # Another call has changed how keys are stored, so that the rows must be made again.
        self.fit(embeddings, outputs, targets, ids, copy, **attributes)

    @float_state()
    def add(self, embeddings: Any, outputs: Any, targets: Any, ids: Any, **attributes: Any) -> None:
        """See ``Memory.add``."""
        with self._change():
            now = self.view
            first = now.rows is None or now.rows.never_held  # then this does what fit does
            spec = now.fit_spec if first else now.spec
            rows = self._incoming(spec, embeddings, outputs, targets, ids, now.rows, **attributes)
            if now.rows is not None and rows.n == 0:
                return
            if now.rows is not None:
                rows.refuse_other_shape(now.rows)
            if first:
                after = _empty_snapshot(now, rows)
                if now.rows is not None:
                    after = after.with_names_of(now.rows)
                if rows.n:
                    after = _grown_snapshot(after, rows, {})
            else:
                before = now.fitted_rows.with_checked_ids()
                rows.refuse_rounding(before)
                if rows.ids is not None:
                    before.refuse_used(rows.ids)
                after = _grown_snapshot(before, rows, most=now.part_rows)
            made = replace(now, spec=rows.spec, rows=after).limited().with_measured_sigma()
            made, notes = made.with_growth_notes()
            self._publish_rows(made)
        for note in notes:
            warn(note)

    @float_state()
    def update(
        self, ids: Any, embeddings: Any, outputs: Any, targets: Any, **attributes: Any
    ) -> None:
        """See ``Memory.update``."""
        with self._change():
            now = self.view
            before = now.fitted_rows.with_checked_ids()
            attributes = _kept_attributes(before, ids, now.spec, attributes)
            rows = self._incoming(now.spec, embeddings, outputs, targets, ids, before, **attributes)
            rows.refuse_other_shape(before)
            if rows.ids is None:
                raise ValueError("ids are missing; update needs those of the rows to replace")
            if rows.n == 0:
                return
            rows.refuse_rounding(before)
            after = before.updated_by(
                rows.ids, lambda into: _grown_snapshot(into, rows, most=now.part_rows)
            )
            self._publish_rows(replace(now, rows=after).limited())

    @float_state()
    def merge(self, other: State) -> None:
        """See ``Memory.merge``."""
        if other is self:
            raise ValueError("a memory cannot be merged into itself; give another one")
        theirs = other.view
        if None not in (self.base, other.base) and self.base != other.base:
            raise ValueError(
                f"memories must be of one base to be merged, got {self.base!r} and {other.base!r}"
            )
        with self._change():
            made, notes = merged(self.view, theirs).limited().with_growth_notes()
            self._publish_rows(made)
            if self.residuals != other.residuals:
                self.residuals = None
        for note in notes:
            warn(note)

    def remove(self, ids: Any) -> None:
        """See ``Memory.remove``."""
        flat = convert.some_ids(ids)
        with self._change():
            self.publish(rows=self.view.fitted_rows.without(flat))

    # ---------------------------------------------------------------- copies and files

    def save(
        self,
        path: str | os.PathLike[str],
        append: bool,
        progress: Callable[[int], None] | None,
    ) -> None:
        """See ``Memory.save``."""
        checks.progress_function(progress)
        checks.path(path)
        if os.fspath(path).lower().endswith(persist.EXPORTS):
            raise ValueError(
                f"path must not end in .npz or .safetensors, got {os.fspath(path)!r}; "
                "export writes such files"
            )
        with self._save_lock, sole_writer(path, "call"):
            file = self.view.file if append else None
            if append and (file is None or file.path != os.path.abspath(os.fspath(path))):
                last = "no file yet" if file is None else f"{file.path!r}"
                raise ValueError(
                    "append=True continues the file that this memory was loaded from or last "
                    f"saved to ({last}), got {os.fspath(path)!r}; save without append"
                )
            if self._compactor is not None and not self._changing:
                self._compactor.join()  # else rows that it merges would be written twice
            with self._lock:
                now = self.view
                rows = now.fitted_rows.sealed()
                if not self._changing:
                    self.publish(rows=rows)
            saved = persist.save(
                path, self.settings(now), now.spec.store.shared, rows, file, progress
            )
            with self._lock:
                rows = self.view.fitted_rows
                if rows.preprocess is saved.rows.preprocess:  # no fit has replaced the rows
                    self.publish(rows=saved.followed_by(rows), file=saved.file)

    def export(self, path: str | os.PathLike[str], progress: Any) -> None:
        """See ``Memory.export``."""
        from resmem._files import export  # imported here because few programs export

        checks.path(path)
        view = self.view
        export.save(path, self.settings(view), view.spec.store.shared, view.fitted_rows, progress)

    def settings(self, view: MemoryView) -> dict[str, Any]:
        """Return the settings that files record, by name."""
        recorded = {
            **view.settings(),
            "residual_dtype": self.residual_dtype,
            "base": self.base,
            "residuals": self.residuals,
        }
        return {**{name: recorded[name] for name in SETTINGS}, **recorded}

    def __getstate__(self) -> dict[str, Any]:
        """Return everything by value, but for residuals that can be computed from the outputs."""
        state, now = self.__dict__.copy(), self.view
        for name in ("view", "_lock", "_view_lock", "_changing", "_save_lock", "_compactor"):
            del state[name]
        rows = None if now.rows is None else now.rows.portable(now.spec.store.derived)
        return {
            **state,
            **{name: getattr(now, name) for name in _COPIED_FIELDS},
            "_snapshot": rows,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        parts = state.pop("_snapshot")
        self.view = MemoryView(**{name: state.pop(name) for name in _COPIED_FIELDS})
        self.__dict__.update(state)
        self._make_locks()
        spec = self.view.spec
        if parts is not None:
            rows = Snapshot.restored(parts)
            softmax_at = spec.softmax_at(rows.temperature)
            segments = (
                with_derived_arrays(segment, spec.store, softmax_at) for segment in rows.segments
            )
            self.publish(rows=replace(rows, segments=tuple(segments)))


# Fields of the view that a copy carries; its rows are copied in a form of their own.
_COPIED_FIELDS = (
    "spec",
    "fit_key_dtype",
    "k",
    "sigma",
    "temperature",
    "strength",
    "map",
    "auto_prepare",
    "method",
    "gate",
    "limits",
    "half_life",
    "fit_labels",
)


def _empty_snapshot(start: MemoryView, rows: Incoming) -> Snapshot:
    """Return the snapshot without rows that the first rows are added to."""
    preprocess, allowed = rows.fitted()
    return Snapshot(
        (), rows.d, rows.columns, start.temperature, rows.flat, preprocess=preprocess,
        preprocess_basis=fit_basis(rows.n, preprocess), allowed=allowed,
        embedding_names=rows.names[0], output_names=rows.names[1],
        time_kind=rows.attributes.time_kind, metric=rows.spec.metric,
    )  # fmt: skip


def _kept_attributes(rows: Snapshot, ids: Any, spec: Spec, given: dict[str, Any]) -> dict[str, Any]:
    """Return what updated rows are given: a weight and a group that is left out stays as it is."""
    kept = {"weights": "sample_weight", "groups": "groups"}
    left_out = [name for name in rows.attributes if name in kept and given.get(kept[name]) is None]
    if ids is None or not left_out:
        return given
    old = Gathered(rows, convert.some_ids(ids), spec, "update")
    return {**given, **{kept[name]: old.array(name) for name in left_out}}


def _grown_snapshot(
    before: Snapshot, rows: Incoming, borrowed: dict[str, npt.NDArray[Any]] | None = None,
    most: int | None = None,
) -> Snapshot:  # fmt: skip
    """Return the snapshot with these rows added.

    ``borrowed``: the caller's arrays to use; ``most``: how many rows a new segment may have.
    """
    if rows.ids is None and before.next_id + rows.n > _LAST_ID + 1:
        raise ValueError(
            f"ids must be given: default ids would continue at {before.next_id}, past int64"
        )
    given = rows.attributes.arrays
    schema = {
        **rows.spec.schema(rows.d, rows.columns), **{name: ATTRIBUTES[name] for name in given}
    }  # fmt: skip
    if borrowed is not None:
        tail = before.first_segment(schema, rows.n, rows.ids is not None, borrowed)
    else:
        tail = before.tail(schema, rows.n, rows.ids is not None, most)
    if tail.has_ids and "ids" not in (borrowed or ()):
        ids = rows.ids
        if ids is None:
            ids = np.arange(before.next_id, before.next_id + rows.n)
        tail.arrays["ids"][tail.n : tail.n + rows.n] = ids
    for name in tail.arrays.keys() & ATTRIBUTES.keys():
        tail.arrays[name][tail.n : tail.n + rows.n] = given.get(name, MISSING.get(name))
    largest, error = rows.write(tail.arrays, tail.n, before, frozenset(borrowed or ()))
    grown = before.grown(tail, rows.n, largest, error)
    return grown.without_rows_at_end(rows.attributes.absent, rows.n)


# A process forked while another thread is changing a memory would find its lock held for ever, so
# that it makes new locks for all states.
_live_states: weakref.WeakSet[State] = weakref.WeakSet()


def _renew_locks() -> None:
    for state in _live_states:
        rows = state.view.rows
        if state._changing and rows is not None:
            # A removal in progress is never published in this process.
            rows.undo_unpublished_removals()
        state._lock, state._save_lock = threading.RLock(), threading.RLock()
        state._view_lock = threading.RLock()
        state._changing, state._compactor = False, None


after_fork_in_child(_renew_locks)
