"""What a memory is told and what it holds: settings, the published rows, and how both change."""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from resmem import _core
from resmem._base import checks
from resmem._base.arguments import named, suggestion
from resmem._base.arrays import I64, Keys, float_state
from resmem._base.blocks import blocks
from resmem._base.errors import NotFittedError, warn
from resmem._base.threads import room_for
from resmem._correction import length_scale
from resmem._correction.correct import Corrector
from resmem._correction.simplex import SimplexMap, map_named
from resmem._files import persist
from resmem._keys.preprocess import NONE, Fitted, Method, method_named
from resmem._keys.rounding import FRACTION, Neighbourhood, positions
from resmem._rows.growth import UNKNOWN, Basis
from resmem._rows.ingest import exact_keys
from resmem._rows.segment import Segment, merge
from resmem._rows.snapshot import Snapshot
from resmem._rows.spec import Spec
from resmem._rows.stores import (
    KEY_DTYPES,
    Dense,
    Head,
    KeyDtype,
    narrow_keys,
    residual_dtype_for,
    store_named,
    widen_keys,
)
from resmem._state.settings import CHANGEABLE

_KINDS = {"classification": ("logits", "probabilities"), "regression": ("values",)}
SETTINGS = (
    "task", "output_kind", "k", "sigma", "temperature", "strength",
    "preprocess", "key_dtype", "residual_dtype", "store", "base",
    "probability_map",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Held:
    """What a memory holds at one moment: settings, rows, and the file these lie in.

    A query takes it once and so computes with one setting of everything, whatever is set while it
    runs. A change makes another one, which is published whole.
    """

    spec: Spec
    asked: KeyDtype  # for the keys of a fit: "auto", or what they have
    k: int
    sigma: float | Literal["auto"]
    temperature: float  # that of the residuals of the rows, if there are rows
    strength: float
    map: SimplexMap
    auto_prepare: bool = True
    rows: Snapshot | None = None
    file: persist.File | None = None  # where the rows were last saved to or loaded from

    @property
    def fitted(self) -> Snapshot:
        """The rows; NotFittedError if there never were any."""
        if self.rows is None:
            raise NotFittedError("this Memory holds no rows yet; call fit first")
        return self.rows

    @property
    def asking(self) -> Spec:
        """What is asked for of the first rows."""
        return replace(self.spec, key_dtype=self.asked)

    @property
    def scale(self) -> float:
        """The length scale in use."""
        if self.sigma != "auto":
            return float(self.sigma)
        rows = self.fitted
        return length_scale.measure(rows, self.k) if rows.auto_sigma is None else rows.auto_sigma

    @property
    def corrector(self) -> Corrector:
        """What a query computes with."""
        rows = self.fitted
        return Corrector(
            self.spec,
            rows,
            min(self.k, max(1, len(rows))),  # weights run over the rows that there are
            self.scale,
            self.strength,
            self.map,
            self.auto_prepare,
        )

    def measured(self) -> Held:
        """With the length scale of its rows, if that is asked for, not known, and there are two."""
        rows = self.rows
        if self.sigma != "auto" or rows is None or rows.auto_sigma is not None or len(rows) < 2:
            return self
        found, basis = length_scale.measure(rows, self.k), Basis(len(rows))
        return replace(self, rows=replace(rows, auto_sigma=found, sigma_basis=basis))

    def unmeasured(self) -> Held:
        """Without the length scale that was measured."""
        if self.rows is None:
            return self
        return replace(self, rows=replace(self.rows, auto_sigma=None, sigma_basis=UNKNOWN))

    def outgrown(self) -> tuple[Held, list[str]]:
        """What there is to tell of measurements that the rows have outgrown by far; and as one that
        has told it."""
        rows, notes = self.fitted, []
        n = len(rows)
        sigma_basis, preprocess_basis = rows.sigma_basis, rows.preprocess_basis
        if self.sigma == "auto" and (sigma_basis := sigma_basis.at(n)) != rows.sigma_basis:
            notes.append(
                f"sigma='auto' was measured on {sigma_basis.rows} rows and the memory has grown to "
                f"{n}; measure it again: memory.sigma = 'auto' (or fit all rows)"
            )
        if (preprocess_basis := preprocess_basis.at(n)) != rows.preprocess_basis:
            notes.append(
                f"preprocess={self.spec.preprocess.name!r} was fitted to {preprocess_basis.rows} "
                f"rows and the memory has grown to {n}; fit it again: memory.fit with all rows"
            )
        rows = replace(rows, sigma_basis=sigma_basis, preprocess_basis=preprocess_basis)
        return replace(self, rows=rows), notes

    def at_temperature(self, temperature: float) -> Held:
        """With residuals at this temperature."""
        store, rows = self.spec.store, self.rows
        if rows is None or temperature == rows.temperature:
            return replace(self, temperature=temperature)
        segments = rows.segments
        if isinstance(store, Dense):
            segments = tuple(_derived(s, store, temperature) for s in segments)
        elif not isinstance(store, Head):
            raise ValueError(
                f"temperature is fixed at fit for store={store.name!r} "
                f"({rows.temperature:g}), got {temperature:g}; fit again, or use store='dense'"
            )
        rows = replace(rows, segments=segments, temperature=temperature)
        return replace(self, rows=rows, temperature=temperature)

    @float_state()
    def rekeyed(self, preprocess: str, key_dtype: KeyDtype) -> Held:
        """The same rows with keys made anew from those stored here.

        Its other arrays are those of this memory, where no row was removed, and not copied.
        """
        rows, spec = self.fitted, self.spec
        if spec.preprocess != NONE or spec.key_dtype not in ("float32", "float64"):
            raise ValueError(
                "keys can be made anew only of embeddings stored as they came, with "
                "preprocess='none' and key_dtype='float32' or 'float64', not with "
                f"preprocess={spec.preprocess.name!r} and key_dtype={spec.key_dtype!r}; fit again"
            )
        if key_dtype not in KEY_DTYPES:  # "auto" is for rows to come
            names = ", ".join(map(repr, KEY_DTYPES))
            raise ValueError(f"key_dtype must be one of {names}, got {key_dtype!r}")
        method = checked_keys(preprocess, key_dtype, spec.store.name)

        def rows_at(chosen: I64) -> Keys:
            none = rows.segments[0]["keys"][:0]
            found = [none, *(s["keys"][at] for s, at in rows.sample(chosen))]
            return rows.preprocess.unshifted(np.concatenate(found))

        made_by = rows.preprocess if method == NONE else method.fit(len(rows), rows.d, rows_at)
        made_by = replace(made_by, wide=key_dtype == "float64")
        segments: list[Segment] = []
        for segment in rows.segments:
            shared = replace(segment, borrowed=True)
            kept = merge((segment,), rows.version) if segment.dead else shared
            first = sum(map(len, segments))
            segments.append(_rekeyed(kept, rows.preprocess, made_by, key_dtype, first))
        after = replace(
            rows,
            segments=tuple(segments),
            retired=rows.all_retired(),
            preprocess=made_by,
            preprocess_basis=fitted_to(len(rows), made_by),
            allowed=math.inf,
        )
        if spec.key_dtype == "float64" or math.isfinite(rows.allowed):  # of float64 embeddings
            some = rows_at(positions(len(rows), rows.d))
            after = replace(after, allowed=_allowed(some, len(rows), made_by, key_dtype))
        asked = self.asked if key_dtype == spec.key_dtype or method.linear else key_dtype
        spec = replace(spec, preprocess=method, key_dtype=key_dtype)
        return replace(self, spec=spec, asked=asked, rows=after, file=None).unmeasured()

    def keeping(self, preprocess: str, key_dtype: KeyDtype) -> Held:
        """With keys of this kind; "auto" leaves those that there are as they are."""
        if key_dtype == "auto":
            key_dtype = self.spec.key_dtype
        if (preprocess, key_dtype) == (self.spec.preprocess.name, self.spec.key_dtype):
            return self
        if self.rows is not None:
            return self.rekeyed(preprocess, key_dtype)
        method = checked_keys(preprocess, key_dtype, self.spec.store.name)
        spec = replace(self.spec, preprocess=method, key_dtype=key_dtype)
        return replace(self, spec=spec, asked=key_dtype)

    def using(self, settings: Any) -> Held:
        """With these ``Settings``; refused if one of them is."""
        k, sigma = checks.count(settings.k, "k"), checked_sigma(settings.sigma)
        strength, to = (
            checks.finite(settings.strength, "strength"),
            map_named(settings.probability_map),
        )
        temperature = checked_temperature(settings.temperature, self.spec)
        now = self.keeping(settings.preprocess, settings.key_dtype)
        now = now.at_temperature(temperature)
        if sigma == "auto" and (self.sigma, self.k) != (sigma, k):
            now = now.unmeasured()
        return replace(now, k=k, sigma=sigma, strength=strength, map=to).measured()

    def settings(self) -> dict[str, Any]:
        """What files and ``Memory.info`` tell of it, but for what never changes."""
        rows = self.fitted
        sigma_, sigma_rows = rows.auto_sigma, rows.sigma_basis.rows
        if self.sigma == "auto":
            sigma_ = self.scale
            sigma_rows = 0 if rows.auto_sigma is None else sigma_rows
        return {
            "task": self.spec.task,
            "output_kind": self.spec.output_kind,
            "k": self.k,
            "sigma": "inf" if self.sigma == math.inf else self.sigma,
            "temperature": rows.temperature,
            "strength": self.strength,
            "preprocess": self.spec.preprocess.name,
            "key_dtype": self.spec.key_dtype,
            "store": self.spec.store.name,
            "probability_map": self.map.name,
            "flat": rows.flat,
            "embedding_names": rows.embedding_names,
            "output_names": rows.output_names,
            "sigma_": sigma_,
            "offset": "offset" in rows.preprocess.arrays,
            "allowed": rows.allowed if math.isfinite(rows.allowed) else None,
            "sigma_rows": sigma_rows,
            "preprocess_rows": rows.preprocess_basis.rows,
        }


class State:
    """The settings and the rows of a memory.

    All of them are in one value, ``_now``, so that one store publishes them (``_hold``). Whoever
    makes other rows, or other residuals or keys of them, holds the lock meanwhile (``_change``).
    """

    @named
    def __init__(
        self,
        task: Literal["classification", "regression"] = "classification",
        output_kind: Literal["logits", "probabilities", "values"] | None = None,
        k: int = 50,
        sigma: float | Literal["auto"] = "auto",
        temperature: float = 1.0,
        strength: float = 1.0,
        key_dtype: KeyDtype = "auto",
        residual_dtype: Literal["float32", "float64", "float16"] | None = None,
        store: str = "dense",
        head: Any = None,
        base: str | dict[str, Any] | None = None,
        preprocess: str = "none",
        probability_map: str = "clip",
        auto_prepare: bool = True,
    ) -> None:
        if not isinstance(task, str) or task not in _KINDS:
            raise ValueError(f"task must be 'classification' or 'regression', got {task!r}")
        kind = _KINDS[task][0] if output_kind is None else output_kind
        if kind not in _KINDS[task]:
            names = " or ".join(map(repr, _KINDS[task]))
            raise ValueError(f"output_kind must be {names} for {task}, got {output_kind!r}")
        method = checked_keys(preprocess, key_dtype, store)
        self._residual_dtype = residual_dtype_for(task, residual_dtype)
        kept = store_named(store, task, kind, self._residual_dtype, head)
        spec = Spec(task, kind, key_dtype, kept, method)
        self._base: str | dict[str, Any] | None = identity(base)
        self._now = Held(
            spec,
            key_dtype,
            checks.count(k, "k"),
            checked_sigma(sigma),
            checked_temperature(temperature, spec),
            checks.finite(strength, "strength"),
            map_named(probability_map),
            checks.yes_or_no(auto_prepare, "auto_prepare"),
        )
        self._live()

    def __setattr__(self, name: str, value: Any) -> None:
        if name[:1] != "_" and not hasattr(type(self), name):
            hint = suggestion(name, CHANGEABLE)
            if hint is not None:  # it would be set, and change nothing
                raise AttributeError(f"{type(self).__name__} has no {name!r} to set{hint}")
        super().__setattr__(name, value)

    def _live(self) -> None:
        """What no copy or file of a memory carries."""
        self._lock = threading.RLock()
        self._storing = threading.RLock()  # for the moment in which ``_now`` is replaced
        self._changing = False  # somebody who holds the lock is about to publish a snapshot
        self._saving = threading.RLock()
        self._compactor: threading.Thread | None = None
        _alive.add(self)

    @property
    def _snapshot(self) -> Snapshot | None:
        return self._now.rows

    @property
    def _spec(self) -> Spec:
        return self._now.spec

    # ---------------------------------------------------------------- parameters

    @property
    def task(self) -> str:
        """ "classification" or "regression"."""
        return self._spec.task

    @property
    def output_kind(self) -> str:
        """What the outputs are: "logits", "probabilities" or "values"."""
        return self._spec.output_kind

    @property
    def preprocess(self) -> str:
        """What makes keys of embeddings: "none", "center", "standardize", "unit", "pca:m" or
        "whiten:m"."""
        return self._spec.preprocess.name

    @property
    def key_dtype(self) -> str:
        """How embeddings are stored: "float32", "float64", "float16" or "bfloat16"; "auto" as
        long as there are none."""
        return self._spec.key_dtype

    @property
    def residual_dtype(self) -> str:
        """How residual values are stored: "float32", "float64" or "float16"."""
        return self._residual_dtype

    @property
    def store(self) -> str:
        """What is kept of the residuals: "dense", "sparse:m" or "head"."""
        return self._spec.store.name

    @property
    def base(self) -> str | dict[str, Any] | None:
        """What made the outputs and embeddings, as told."""
        return self._base

    @property
    def residual_error_(self) -> float:
        """No residual of a sparse store, and so no column of a correction, is off by more.

        Largest over the rows there are; 0 for the other stores, whose residuals are those of
        the outputs (store="head": of the layer, given the keys as they are stored) but for
        the rounding to ``residual_dtype``.
        """
        return self._now.fitted.error

    @property
    def embedding_names_(self) -> tuple[str, ...] | None:
        """Names of the columns of embeddings, if ``fit`` was given a DataFrame."""
        return self._now.fitted.embedding_names

    @property
    def output_names_(self) -> tuple[str, ...] | None:
        """Names of the columns of outputs, if ``fit`` was given a DataFrame."""
        return self._now.fitted.output_names

    @property
    def k(self) -> int:
        """Neighbours per query; may be set at any time."""
        return self._now.k

    @k.setter
    def k(self, value: int) -> None:
        self._hold(k=checks.count(value, "k"))

    @property
    def sigma(self) -> float | Literal["auto"]:
        """Length scale of the weights, or "auto"; may be set at any time.

        Setting it to "auto" measures it on the rows there are then, each time anew.
        """
        return self._now.sigma

    @sigma.setter
    @float_state()
    def sigma(self, value: float | Literal["auto"]) -> None:
        sigma = checked_sigma(value)
        if sigma != "auto":
            self._hold(sigma=sigma)
            return
        with self._change():
            now = replace(self._now, sigma=sigma).unmeasured().measured()
            self._hold(sigma=sigma, rows=now.rows)

    @property
    def sigma_(self) -> float:
        """The length scale in use: ``sigma``, or what "auto" has measured (1 before there were
        two rows to measure)."""
        return self._now.scale

    @property
    def temperature(self) -> float:
        """Softmax temperature; setting it derives the residuals anew."""
        return self._now.temperature

    @temperature.setter
    def temperature(self, value: float) -> None:
        with self._change():
            now = self._now.at_temperature(checked_temperature(value, self._now.spec))
            self._hold(temperature=now.temperature, rows=now.rows)

    @property
    def strength(self) -> float:
        """Factor of the correction; may be set at any time."""
        return self._now.strength

    @strength.setter
    def strength(self, value: float) -> None:
        self._hold(strength=checks.finite(value, "strength"))

    @property
    def probability_map(self) -> str:
        """How ``predict_proba`` maps corrected outputs to the simplex; may be set at any time."""
        return self._now.map.name

    @probability_map.setter
    def probability_map(self, value: str) -> None:
        self._hold(map=map_named(value))

    @property
    def auto_prepare(self) -> bool:
        """Whether searches may build what makes them fast; may be set at any time.

        It is kept in no file.
        """
        return self._now.auto_prepare

    @auto_prepare.setter
    def auto_prepare(self, value: bool) -> None:
        self._hold(auto_prepare=checks.yes_or_no(value, "auto_prepare"))

    # ---------------------------------------------------------------- changes

    def _hold(self, **fields: Any) -> None:
        """Publish a value with other fields."""
        with self._storing:
            while True:
                before = self._now
                after = replace(before, **fields)
                if self._now is before:  # no signal handler has published one meanwhile
                    self._now = after
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

    def _publish(self, made: Held) -> None:
        """Publish rows that were added, and how they are kept, and start a thread that merges
        segments if that is worth it and none is at it."""
        after, spec = made.fitted, made.spec
        idle = self._compactor is None or not self._compactor.is_alive()
        at = after.worth_compacting() if idle else None
        if at is None or not room_for(1):
            self._hold(rows=after, spec=spec)
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
        self._hold(rows=after, spec=spec)

    def _compact(self, before: Snapshot, at: slice) -> None:
        with contextlib.suppress(MemoryError):  # no room to tidy up: rows stay where they are
            merged, gone = merge(before.segments[at], before.version), before.gone(at)
            with self._lock:
                now = self._now.rows
                after = None if now is None else now.compacted(at, before, merged, gone)
                if after is not None:
                    self._hold(rows=after)

    # ---------------------------------------------------------------- copies and files

    def _settings(self, of: Held) -> dict[str, Any]:
        """What files keep of the settings."""
        told = {**of.settings(), "residual_dtype": self._residual_dtype, "base": self._base}
        return {**{name: told[name] for name in SETTINGS}, **told}

    def _head(self) -> dict[str, npt.NDArray[Any]]:
        store = self._now.spec.store
        return {"weight": store.weight, "bias": store.bias} if isinstance(store, Head) else {}

    def __getstate__(self) -> dict[str, Any]:
        """Everything by value; residuals that follow from outputs are left out."""
        state, now = self.__dict__.copy(), self._now
        for name in ("_now", "_lock", "_storing", "_changing", "_saving", "_compactor"):
            del state[name]
        rows = None if now.rows is None else now.rows.portable(now.spec.store.derived)
        return {
            **state,
            **{f"_{name}": getattr(now, name) for name in _CARRIED},
            "_snapshot": rows,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        parts = state.pop("_snapshot")
        self._now = Held(**{name: state.pop(f"_{name}") for name in _CARRIED})
        self.__dict__.update(state)
        self._live()
        spec = self._now.spec
        if parts is not None:
            rows = Snapshot.restored(parts)
            if isinstance(spec.store, Dense):
                softmax_at, store = spec.softmax_at(rows.temperature), spec.store
                segments = (_derived(s, store, softmax_at) for s in rows.segments)
                rows = replace(rows, segments=tuple(segments))
            self._hold(rows=rows)


# Fields that copies carry.
_CARRIED = ("spec", "asked", "k", "sigma", "temperature", "strength", "map", "auto_prepare")


@float_state()
def _derived(segment: Segment, store: Dense, temperature: float) -> Segment:
    """With the derived arrays computed again."""
    arrays = dict(segment.arrays)
    schema = store.schema(arrays["outputs"].shape[1])
    for name in store.derived:
        dtype, shape = schema[name]
        arrays[name] = np.empty((segment.capacity, *shape), dtype)
    for block in blocks(segment.n, 16 * arrays["outputs"].shape[1]):
        part = {name: segment[name][block] for name in ("outputs", "targets")}
        for name, rows in store.derive(part, temperature).items():
            arrays[name][block] = rows
    return segment.with_arrays(arrays, store.derived)


def _allowed(embeddings: Keys, n: int, made_by: Fitted, dtype: KeyDtype) -> float:
    """``Snapshot.allowed`` of keys that are made of these embeddings, a sample of ``n``; a warning
    if float32 moves them too far."""
    if dtype != "float32" or made_by.method.linear or n == 0:
        return math.inf
    around = Neighbourhood(exact_keys(embeddings, made_by), n)
    used = around.used()
    if used > 1:
        warn(
            "keys are rounded to float32, which moves distances by more than "
            f"{FRACTION:.0%} of what neighbours lie apart; use key_dtype='float64'"
        )
    return around.allowed(None, used)


def _rekeyed(
    segment: Segment, before: Fitted, made_by: Fitted, dtype: KeyDtype, first_row: int
) -> Segment:
    """With other keys. ``first_row``: how many rows come before, for messages."""
    arrays = {name: segment[name] for name in segment.arrays}
    d, largest = arrays["keys"].shape[1], segment.keys_max
    if made_by.method != NONE or arrays["keys"].dtype != KEY_DTYPES[dtype]:
        arrays["keys"] = np.empty((segment.n, made_by.method.width(d)), KEY_DTYPES[dtype])
        largest = 0.0
        for block in blocks(segment.n, 8 * d):
            first = first_row + block.start
            embeddings = before.unshifted(segment["keys"][block])
            keys, _ = made_by.keys(embeddings, d, 0, first)
            arrays["keys"][block] = stored = narrow_keys(keys, dtype, first)
            largest = max(largest, _core.inspect_rows(widen_keys(stored))[0])
    return Segment(
        arrays,
        segment.n,
        keys_max=largest,
        first_id=segment.first_id,
        error=segment.error,
        borrowed=segment.borrowed,
    )


# A child forked while another thread was changing a memory would find its lock held for ever.
_alive: weakref.WeakSet[State] = weakref.WeakSet()


def _renew_locks() -> None:
    for memory in _alive:
        rows = memory._now.rows
        if memory._changing and rows is not None:
            rows.withdraw_later()  # of a removal that nobody will publish here
        memory._lock, memory._saving = threading.RLock(), threading.RLock()
        memory._storing = threading.RLock()
        memory._changing, memory._compactor = False, None


os.register_at_fork(after_in_child=_renew_locks)


def identity(base: Any) -> Any:
    """A base's description as a file keeps it."""
    if base is None or isinstance(base, str):
        return base
    if not isinstance(base, dict):
        raise TypeError(f"base must be a string or a dict, got {type(base).__name__}")
    try:
        return json.loads(json.dumps(base, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"base must hold what JSON can: strings, numbers, lists, dicts ({error})"
        ) from error


def checked_keys(preprocess: Any, key_dtype: Any, store: Any) -> Method:
    """The preprocess called so; refused if keys cannot be kept like this."""
    if not isinstance(key_dtype, str) or key_dtype not in ("auto", *KEY_DTYPES):
        names = ", ".join(map(repr, ("auto", *KEY_DTYPES)))
        raise ValueError(f"key_dtype must be one of {names}, got {key_dtype!r}")
    method = method_named(preprocess)
    if key_dtype == "float64" and (store == "head" or method.linear):
        what = "store='head'" if store == "head" else f"preprocess={preprocess!r}"
        raise ValueError(
            f"key_dtype='float64' does not go with {what}, whose layer works on float32; "
            "use key_dtype='auto'"
        )
    if store == "head" and method != NONE:
        raise ValueError(
            "store='head' needs preprocess='none', as its layer reads the embeddings from the "
            f"keys, got {preprocess!r}"
        )
    return method


def fitted_to(rows: int, preprocess: Fitted) -> Basis:
    """The rows that a preprocess was fitted to, if it is one that is."""
    return Basis(rows) if preprocess.arrays and preprocess.method != NONE else UNKNOWN


def checked_sigma(value: Any) -> float | Literal["auto"]:
    if not isinstance(value, str):
        return checks.positive(value, "sigma", " or 'auto'", infinite=True)
    if value != "auto":
        raise ValueError(f"sigma must be a positive number or 'auto', got {value!r}")
    return "auto"


def checked_temperature(value: Any, spec: Spec) -> float:
    temperature = checks.positive(value, "temperature")
    if not 1e-100 <= temperature <= 1e100:  # so that logits / T stays finite
        raise ValueError(f"temperature must lie between 1e-100 and 1e100, got {value!r}")
    if spec.output_kind != "logits" and temperature != 1:
        raise ValueError(
            f"temperature must be 1 for {spec.output_kind}, got {value!r}: only logits have one"
        )
    return temperature
