"""The state of a memory: what it holds now, and how something else is published.

Everything that it holds is one frozen value, ``State.view``. Whoever makes another one publishes it
in one store, so that a query, which takes the value once, needs no lock.
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
from resmem._base.arrays import float_state, to_numpy
from resmem._base.errors import warn
from resmem._base.threads import room_for
from resmem._correction.correct import Corrector
from resmem._correction.simplex import map_named
from resmem._files import persist
from resmem._files.atomic import sole_writer
from resmem._rows.ingest import Incoming
from resmem._rows.segment import merge
from resmem._rows.snapshot import Snapshot
from resmem._rows.spec import Spec
from resmem._rows.stores.named import residual_dtype_for, store_named
from resmem._state.settings import (
    SETTINGS,
    checked_keys,
    checked_kind,
    checked_settings,
    checked_sigma,
    checked_temperature,
    identity,
)
from resmem._state.view import MemoryView, derived, fitted_to

_LAST_ID = 2**63 - 1


class State:
    """The settings and the rows of a memory.

    ``hold`` publishes another view. Whoever makes other rows, or other residuals or keys of them,
    holds the lock meanwhile (``change``).
    """

    def __init__(
        self, view: MemoryView, residual_dtype: str, base: str | dict[str, Any] | None
    ) -> None:
        self.view, self.residual_dtype, self.base = view, residual_dtype, base
        self._live()

    @staticmethod
    def asked_for(
        *, task: Any, output_kind: Any, k: Any, sigma: Any, temperature: Any, strength: Any,
        key_dtype: Any, residual_dtype: Any, store: Any, head: Any, base: Any, preprocess: Any,
        probability_map: Any, auto_prepare: Any = True,
    ) -> State:  # fmt: skip
        """A state without rows, from the arguments of ``Memory``, which are checked."""
        kind = checked_kind(task, output_kind)
        stored = residual_dtype_for(task, residual_dtype)
        kept = store_named(store, task, kind, stored, head)
        method = checked_keys(preprocess, key_dtype, kept)
        spec = Spec(task, kind, key_dtype, kept, method)
        made_by = identity(base)
        view = MemoryView(
            spec,
            key_dtype,
            checks.count(k, "k"),
            checked_sigma(sigma),
            checked_temperature(temperature, spec),
            checks.finite(strength, "strength"),
            map_named(probability_map),
            checks.boolean(auto_prepare, "auto_prepare"),
        )
        return State(view, stored, made_by)

    def _live(self) -> None:
        """Make what no copy or file of a memory carries."""
        self._lock = threading.RLock()
        self._storing = threading.RLock()  # for the moment in which ``view`` is replaced
        self._changing = False  # somebody who holds the lock is about to publish a snapshot
        self._saving = threading.RLock()
        self._compactor: threading.Thread | None = None
        _alive.add(self)

    def corrector(self, base: Any = None) -> Corrector:
        """What a call computes with, whatever changes meanwhile."""
        if base is not None and identity(base) != self.base:
            made = "an unnamed base" if self.base is None else f"base {self.base!r}"
            raise ValueError(f"this memory was made from {made}, not from {base!r}")
        return self.view.corrector

    # ---------------------------------------------------------------- publication

    def hold(self, **fields: Any) -> None:
        """Publish a value with other fields."""
        with self._storing:
            while True:
                before = self.view
                after = replace(before, **fields)
                if self.view is before:  # no signal handler has published one meanwhile
                    self.view = after
                    return

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Hold the lock, to publish other rows.

        What a signal handler would publish while it interrupts a change would be overwritten by
        that one, so it is refused.
        """
        with self._lock:
            if self._changing:
                raise RuntimeError(
                    "this memory is being changed by the code that was interrupted; "
                    "change it when that is done"
                )
            try:
                self._changing = True
                yield
            finally:
                self._changing = False

    def _publish(self, made: MemoryView) -> None:
        """Publish rows that were added, and how they are kept, and start a thread that merges
        segments if that is worth it and none is at it."""
        after, spec = made.fitted, made.spec
        idle = self._compactor is None or not self._compactor.is_alive()
        at = after.worth_compacting() if idle else None
        if at is None or not room_for(1):
            self.hold(rows=after, spec=spec)
            return
        after = after.sealed()
        thread = threading.Thread(
            target=self._compact, args=(after, at), name="resmem-compact", daemon=True
        )
        try:
            thread.start()  # which will wait for the lock; where it is interrupted, no rows came
            self._compactor = thread
        except RuntimeError:
            pass  # no thread to be had: another time
        self.hold(rows=after, spec=spec)

    def _compact(self, before: Snapshot, at: slice) -> None:
        with contextlib.suppress(MemoryError):  # no room to tidy up: rows stay where they are
            merged, gone = merge(before.segments[at], before.version), before.dead_ids(at)
            with self._lock:
                now = self.view.rows
                after = None if now is None else now.compacted(at, before, merged, gone)
                if after is not None:
                    self.hold(rows=after)

    # ---------------------------------------------------------------- settings

    def use(self, settings: Any) -> None:
        """See ``Memory.use``."""
        checked_settings(settings)
        with self._change():
            made = vars(self.view.using(settings))
            self.hold(**{name: made[name] for name in made if name != "auto_prepare"})

    @float_state()
    def set_sigma(self, value: Any) -> None:
        """See ``Memory.sigma``."""
        sigma = checked_sigma(value)
        if sigma != "auto":
            self.hold(sigma=sigma)
            return
        with self._change():
            view = replace(self.view, sigma=sigma).unmeasured().measured()
            self.hold(sigma=sigma, rows=view.rows)

    def set_temperature(self, value: Any) -> None:
        """See ``Memory.temperature``."""
        with self._change():
            view = self.view.at_temperature(checked_temperature(value, self.view.spec))
            self.hold(temperature=view.temperature, rows=view.rows)

    # ---------------------------------------------------------------- rows

    @float_state()
    def fit(
        self, embeddings: Any, outputs: Any, targets: Any, ids: Any = None, copy: bool = True
    ) -> None:
        """See ``Memory.fit``."""
        start = self.view
        rows = Incoming(start.asking, embeddings, outputs, targets, ids)
        snapshot = _without_rows(start, rows)
        arrays = {} if copy else rows.borrowable()
        if not copy and rows.ids is not None and isinstance(ids, np.ndarray):
            as_kept = ids.dtype == np.int64 and ids.flags.c_contiguous
            arrays["ids"] = ids if as_kept else rows.ids
        if rows.n:
            snapshot = _with_rows(snapshot, rows, arrays)
        made = replace(start, spec=rows.spec, rows=snapshot).measured()
        with self._change():
            now = self.view
            if now.spec is start.spec:  # what else somebody has set meanwhile holds
                now = replace(now, spec=made.spec, rows=made.rows)
                now = now.at_temperature(self.view.temperature).measured()
                self.hold(spec=now.spec, rows=now.rows, file=None)
                return
        self.fit(embeddings, outputs, targets, ids, copy)  # keys are kept otherwise by now

    @float_state()
    def add(self, embeddings: Any, outputs: Any, targets: Any, ids: Any = None) -> None:
        """See ``Memory.add``."""
        with self._change():
            now = self.view
            first = now.rows is None or now.rows.never_held  # this is as good as a fit
            spec = now.asking if first else now.spec
            rows = Incoming(spec, embeddings, outputs, targets, ids, now.rows)
            if now.rows is not None and rows.n == 0:
                return
            if now.rows is not None and rows.flat != now.rows.flat:
                expected = "(n,)" if now.rows.flat else "(n, C)"
                raise ValueError(f"targets must have shape {expected} as in fit")
            if first:
                after = _without_rows(now, rows)
                if now.rows is not None:
                    after = after.with_names_of(now.rows)
                if rows.n:
                    after = _with_rows(after, rows, {})
            else:
                before = now.fitted.with_checked_ids()
                rows.refuse_rounding(before)
                if rows.ids is not None:
                    before.refuse_used(rows.ids)
                after = _with_rows(before, rows)
            made = replace(now, spec=rows.spec, rows=after).measured()
            made, notes = made.outgrown()
            self._publish(made)
        for note in notes:
            warn(note)

    def remove(self, ids: Any) -> None:
        """See ``Memory.remove``."""
        array = to_numpy(ids, "ids")
        flat = convert.integers(array[None] if array.ndim == 0 else array, "ids", "(n,)")
        with self._change():
            before = self.view.fitted
            try:
                self.hold(rows=before.without(flat))
            except BaseException:
                if self.view.rows is before:
                    before.unmark_unpublished()
                raise

    # ---------------------------------------------------------------- copies and files

    def save(
        self,
        path: str | os.PathLike[str],
        append: bool,
        progress: Callable[[int], None] | None,
    ) -> None:
        """See ``Memory.save``."""
        checks.progress_function(progress)
        if os.fspath(path).lower().endswith(persist.EXPORTS):
            raise ValueError(
                f"path must not end in .npz or .safetensors, got {os.fspath(path)!r}; "
                "export writes such files"
            )
        with self._saving, sole_writer(path, "call"):
            file = self.view.file if append else None
            if append and (file is None or file.path != os.path.abspath(os.fspath(path))):
                last = "no file yet" if file is None else f"{file.path!r}"
                raise ValueError(
                    "append=True continues the file that this memory was loaded from or last "
                    f"saved to ({last}), got {os.fspath(path)!r}; save without append"
                )
            if self._compactor is not None and not self._changing:
                self._compactor.join()  # what it merges need not be written twice
            with self._lock:
                now = self.view
                rows = now.fitted.sealed()
                if not self._changing:
                    self.hold(rows=rows)
            saved = persist.save(
                path, self.settings(now), now.spec.store.shared, rows, file, progress
            )
            with self._lock:
                rows = self.view.fitted
                if rows.preprocess is saved.rows.preprocess:  # no other fit has come meanwhile
                    self.hold(rows=saved.followed_by(rows), file=saved.file)

    def export(self, path: str | os.PathLike[str], progress: Any) -> None:
        """See ``Memory.export``."""
        from resmem._files import export  # which is seldom needed

        view = self.view
        export.save(path, self.settings(view), view.spec.store.shared, view.fitted, progress)

    def settings(self, of: MemoryView) -> dict[str, Any]:
        """What files keep of the settings."""
        told = {**of.settings(), "residual_dtype": self.residual_dtype, "base": self.base}
        return {**{name: told[name] for name in SETTINGS}, **told}

    def __getstate__(self) -> dict[str, Any]:
        """Everything by value; residuals that follow from outputs are left out."""
        state, now = self.__dict__.copy(), self.view
        for name in ("view", "_lock", "_storing", "_changing", "_saving", "_compactor"):
            del state[name]
        rows = None if now.rows is None else now.rows.portable(now.spec.store.derived)
        return {
            **state,
            **{name: getattr(now, name) for name in _CARRIED},
            "_snapshot": rows,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        parts = state.pop("_snapshot")
        self.view = MemoryView(**{name: state.pop(name) for name in _CARRIED})
        self.__dict__.update(state)
        self._live()
        spec = self.view.spec
        if parts is not None:
            rows = Snapshot.restored(parts)
            softmax_at = spec.softmax_at(rows.temperature)
            segments = (derived(segment, spec.store, softmax_at) for segment in rows.segments)
            self.hold(rows=replace(rows, segments=tuple(segments)))


# Fields that copies carry.
_CARRIED = ("spec", "asked", "k", "sigma", "temperature", "strength", "map", "auto_prepare")


def _without_rows(start: MemoryView, rows: Incoming) -> Snapshot:
    """What the first rows are added to."""
    made_by, allowed = rows.fitted()
    return Snapshot(
        (), rows.d, rows.columns, start.temperature, rows.flat, preprocess=made_by,
        preprocess_basis=fitted_to(rows.n, made_by), allowed=allowed,
        embedding_names=rows.names[0], output_names=rows.names[1],
    )  # fmt: skip


def _with_rows(
    before: Snapshot, rows: Incoming, borrowed: dict[str, npt.NDArray[Any]] | None = None
) -> Snapshot:
    """The snapshot after these rows came."""
    if rows.ids is None and before.next_id + rows.n > _LAST_ID + 1:
        raise ValueError(
            f"ids must be given: default ids would continue at {before.next_id}, past int64"
        )
    schema = rows.spec.schema(rows.d, rows.columns)
    if borrowed is not None:
        tail = before.first_segment(schema, rows.n, rows.ids is not None, borrowed)
    else:
        tail = before.tail(schema, rows.n, rows.ids is not None)
    if tail.has_ids and "ids" not in (borrowed or ()):
        ids = rows.ids
        if ids is None:
            ids = np.arange(before.next_id, before.next_id + rows.n)
        tail.arrays["ids"][tail.n : tail.n + rows.n] = ids
    largest, error = rows.write(tail.arrays, tail.n, before, frozenset(borrowed or ()))
    return before.grown(tail, rows.n, largest, error)


# A child forked while another thread was changing a memory would find its lock held for ever.
_alive: weakref.WeakSet[State] = weakref.WeakSet()


def _renew_locks() -> None:
    for state in _alive:
        rows = state.view.rows
        if state._changing and rows is not None:
            rows.unmark_unpublished()  # of a removal that nobody will publish here
        state._lock, state._saving = threading.RLock(), threading.RLock()
        state._storing = threading.RLock()
        state._changing, state._compactor = False, None


os.register_at_fork(after_in_child=_renew_locks)
