"""What a memory is told and what it holds: settings, the published rows, and how both change."""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from resmem import _arrays, _core, _persist, _sigma, _threads
from resmem._arguments import named, suggestion
from resmem._arrays import F32, I64
from resmem._errors import NotFittedError
from resmem._ingest import Spec, blocks
from resmem._preprocess import NONE, Fitted, method_named
from resmem._rows import Segment, Snapshot, merge
from resmem._simplex import map_named
from resmem._stores import KEY_DTYPES, Dense, Head, KeyDtype, narrow_keys, store_named, widen_keys

Some = TypeVar("Some", bound="State")

_KINDS = {"classification": ("logits", "probabilities"), "regression": ("values",)}
SETTINGS = (
    "task", "output_kind", "k", "sigma", "temperature", "strength",
    "preprocess", "key_dtype", "residual_dtype", "store", "base",
    "probability_map",
)  # fmt: skip
CHANGEABLE = ("k", "sigma", "temperature", "strength", "probability_map")  # of a memory with rows


class State:
    """The settings and the rows of a memory.

    All that a query reads of the rows is in one object, ``_snapshot``, so that one store
    publishes it; whoever does that holds the lock (``_change``).
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
        key_dtype: Literal["float32", "float16", "bfloat16"] = "float32",
        residual_dtype: Literal["float32", "float16"] = "float32",
        store: str = "dense",
        head: Any = None,
        base: str | dict[str, Any] | None = None,
        preprocess: str = "none",
        probability_map: str = "clip",
    ) -> None:
        if not isinstance(task, str) or task not in _KINDS:
            raise ValueError(f"task must be 'classification' or 'regression', got {task!r}")
        kind = _KINDS[task][0] if output_kind is None else output_kind
        if kind not in _KINDS[task]:
            names = " or ".join(map(repr, _KINDS[task]))
            raise ValueError(f"output_kind must be {names} for {task}, got {output_kind!r}")
        if not isinstance(key_dtype, str) or key_dtype not in KEY_DTYPES:
            names = ", ".join(map(repr, KEY_DTYPES))
            raise ValueError(f"key_dtype must be one of {names}, got {key_dtype!r}")
        self._residual_dtype = residual_dtype
        method = method_named(preprocess)
        if store == "head" and method != NONE:
            raise ValueError(
                "store='head' needs preprocess='none', as its layer reads the embeddings from the "
                f"keys, got {preprocess!r}"
            )
        self._spec = Spec(
            task, kind, key_dtype, store_named(store, task, kind, residual_dtype, head), method
        )
        self._base: str | dict[str, Any] | None = identity(base)
        self._snapshot: Snapshot | None = None
        self._file: _persist.File | None = None  # where the rows were last saved to or loaded from
        self._live()
        self.k = k
        self.sigma = sigma
        self.temperature = temperature
        self.strength = strength
        self.probability_map = probability_map

    def __setattr__(self, name: str, value: Any) -> None:
        if name[:1] != "_" and not hasattr(type(self), name):
            hint = suggestion(name, CHANGEABLE)
            if hint is not None:  # it would be set, and change nothing
                raise AttributeError(f"{type(self).__name__} has no {name!r} to set{hint}")
        super().__setattr__(name, value)

    def _live(self) -> None:
        """What no copy or file of a memory carries."""
        self._lock = threading.RLock()
        self._changing = False  # somebody who holds the lock is about to publish a snapshot
        self._saving = threading.RLock()
        self._compactor: threading.Thread | None = None
        _alive.add(self)

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
        """How embeddings are stored: "float32", "float16" or "bfloat16"."""
        return self._spec.key_dtype

    @property
    def residual_dtype(self) -> str:
        """How residual values are stored: "float32" or "float16"."""
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
        return self._rows().error

    @property
    def embedding_names_(self) -> tuple[str, ...] | None:
        """Names of the columns of embeddings, if ``fit`` was given a DataFrame."""
        return self._rows().embedding_names

    @property
    def output_names_(self) -> tuple[str, ...] | None:
        """Names of the columns of outputs, if ``fit`` was given a DataFrame."""
        return self._rows().output_names

    @property
    def k(self) -> int:
        """Neighbours per query; may be set at any time."""
        return self._k

    @k.setter
    def k(self, value: int) -> None:
        self._k = _arrays.count(value, "k")

    @property
    def sigma(self) -> float | Literal["auto"]:
        """Length scale of the weights, or "auto"; may be set at any time."""
        return self._sigma

    @sigma.setter
    @_arrays.float_state()
    def sigma(self, value: float | Literal["auto"]) -> None:
        if isinstance(value, str):
            if value != "auto":
                raise ValueError(f"sigma must be a positive number or 'auto', got {value!r}")
            while (rows := self._snapshot) is not None and rows.auto_sigma is None:
                measured = replace(rows, auto_sigma=_sigma.measure(rows, self._k))
                with self._change():
                    if self._snapshot is rows:
                        self._snapshot = measured
            self._sigma: float | Literal["auto"] = "auto"
        else:
            self._sigma = positive(value, "sigma", " or 'auto'", infinite=True)

    @property
    def sigma_(self) -> float:
        """The length scale in use: ``sigma``, or what "auto" measured at ``fit``."""
        return self._scale(self._rows()) if self._sigma == "auto" else float(self._sigma)

    def _scale(self, rows: Snapshot) -> float:
        if self._sigma != "auto":
            return float(self._sigma)
        return _sigma.measure(rows, self._k) if rows.auto_sigma is None else rows.auto_sigma

    @property
    def temperature(self) -> float:
        """Softmax temperature; setting it derives the residuals anew."""
        return self._temperature

    @temperature.setter
    @_arrays.float_state()
    def temperature(self, value: float) -> None:
        temperature = positive(value, "temperature")
        if not 1e-100 <= temperature <= 1e100:  # so that logits / T stays finite
            raise ValueError(f"temperature must lie between 1e-100 and 1e100, got {value!r}")
        if self._spec.output_kind != "logits" and temperature != 1:
            raise ValueError(
                f"temperature must be 1 for {self._spec.output_kind}, got {value!r}: "
                "only logits have one"
            )
        with self._change():
            rows = self._snapshot
            if rows is not None and temperature != rows.temperature:
                self._snapshot = self._at_temperature(rows, temperature)
            self._temperature: float = temperature

    def _at_temperature(self, rows: Snapshot, temperature: float) -> Snapshot:
        store = self._spec.store
        segments = rows.segments
        if isinstance(store, Dense):
            segments = tuple(_derived(s, store, temperature) for s in segments)
        elif not isinstance(store, Head):
            raise ValueError(
                f"temperature is fixed at fit for store={store.name!r} "
                f"({rows.temperature:g}), got {temperature:g}; fit again, or use store='dense'"
            )
        return replace(rows, segments=segments, temperature=temperature)

    @property
    def strength(self) -> float:
        """Factor of the correction; may be set at any time."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        self._strength = finite(value, "strength")

    @property
    def probability_map(self) -> str:
        """How ``predict_proba`` maps corrected outputs to the simplex; may be set at any time."""
        return self._map.name

    @probability_map.setter
    def probability_map(self, value: str) -> None:
        self._map = map_named(value)

    # ---------------------------------------------------------------- changes

    def _rows(self) -> Snapshot:
        if self._snapshot is None:
            raise NotFittedError("this Memory holds no rows yet; call fit first")
        return self._snapshot

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Hold the lock, to publish a new snapshot.

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

    def _publish(self, before: Snapshot, after: Snapshot) -> None:
        """Publish rows that were added, and start a thread that merges segments if that is
        worth it and none is at it."""
        idle = self._compactor is None or not self._compactor.is_alive()
        at = after.worth_compacting() if idle else None
        if at is None or not _threads.room_for(1):
            self._snapshot = after
            return
        self._snapshot = after = after.sealed()
        thread = threading.Thread(
            target=self._compact, args=(after, at), name="resmem-compact", daemon=True
        )
        try:
            thread.start()
            self._compactor = thread
        except RuntimeError:
            pass  # no thread to be had: another time
        except BaseException:  # an interrupt: the rows did not come
            self._snapshot = before
            raise

    def _compact(self, before: Snapshot, at: slice) -> None:
        with contextlib.suppress(MemoryError):  # no room to tidy up: rows stay where they are
            merged, gone = merge(before.segments[at], before.version), before.gone(at)
            with self._lock:
                if self._snapshot is not None:
                    after = self._snapshot.compacted(at, before, merged, gone)
                    self._snapshot = self._snapshot if after is None else after

    # ---------------------------------------------------------------- copies and files

    def _settings(self) -> dict[str, Any]:
        rows = self._rows()
        settings = {name: getattr(self, name) for name in SETTINGS}
        settings["temperature"] = rows.temperature
        if settings["sigma"] == math.inf:
            settings["sigma"] = "inf"
        return {
            **settings,
            "flat": rows.flat,
            "embedding_names": rows.embedding_names,
            "output_names": rows.output_names,
            "sigma_": rows.auto_sigma if self._sigma != "auto" else self._scale(rows),
        }

    @_arrays.float_state()
    def _rekeyed(self: Some, preprocess: str, key_dtype: KeyDtype) -> Some:
        """A memory of the same rows whose keys are made anew from those stored here.

        Its other arrays are those of this memory, where no row was removed, and not copied.
        """
        with self._lock:
            rows, settings = self._rows(), self._settings()
        if (self.preprocess, self.key_dtype) != ("none", "float32"):
            raise ValueError(
                "keys can be made anew only of embeddings stored as they came, with "
                "preprocess='none' and key_dtype='float32', not with "
                f"preprocess={self.preprocess!r} and key_dtype={self.key_dtype!r}; fit again"
            )
        given = {name: settings[name] for name in SETTINGS}
        given |= {"preprocess": preprocess, "key_dtype": key_dtype, "sigma": self._sigma}
        head = self._spec.store if isinstance(self._spec.store, Head) else None
        memory = type(self)(**given, head=head)

        def rows_at(positions: I64) -> F32:
            return np.concatenate([s["keys"][at] for s, at in rows.sample(positions)])

        made_by = memory._spec.preprocess.fit(len(rows), rows.d, rows_at)
        segments: list[Segment] = []
        for segment in rows.segments:
            shared = replace(segment, borrowed=True)
            kept = merge((segment,), rows.version) if segment.dead else shared
            segments.append(_rekeyed(kept, made_by, key_dtype, sum(map(len, segments))))
        after = replace(
            rows,
            segments=tuple(segments),
            auto_sigma=None,
            retired=rows.all_retired(),
            preprocess=made_by,
        )
        if memory._sigma == "auto":
            after = replace(after, auto_sigma=_sigma.measure(after, memory._k))
        memory._snapshot = after
        return memory

    def _check_weighing(self, settings: Any) -> None:
        """Refuse what a setter would, before any has been called."""
        _arrays.count(settings.k, "k")
        if settings.sigma != "auto":
            positive(settings.sigma, "sigma", " or 'auto'", infinite=True)
        finite(settings.strength, "strength")
        map_named(settings.probability_map)

    def _rekey(self, preprocess: str, key_dtype: KeyDtype) -> None:
        """Keep keys in another way from now on; see ``_rekeyed``."""
        with self._change():
            made = self._rekeyed(preprocess, key_dtype)
            self._spec, self._snapshot, self._file = made._spec, made._snapshot, None

    def _head(self) -> dict[str, npt.NDArray[Any]]:
        store = self._spec.store
        return {"weight": store.weight, "bias": store.bias} if isinstance(store, Head) else {}

    def __getstate__(self) -> dict[str, Any]:
        """Everything by value; residuals that follow from outputs are left out."""
        state = self.__dict__.copy()
        for name in ("_lock", "_changing", "_saving", "_compactor", "_file"):
            del state[name]
        if self._snapshot is not None:
            state["_snapshot"] = self._snapshot.portable(self._spec.store.derived)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._file = None
        self._live()
        parts, store = state["_snapshot"], self._spec.store
        if parts is not None:
            rows = Snapshot.restored(parts)
            if isinstance(store, Dense):
                softmax_at = self._spec.softmax_at(rows.temperature)
                segments = (_derived(s, store, softmax_at) for s in rows.segments)
                rows = replace(rows, segments=tuple(segments))
            self._snapshot = rows


@_arrays.float_state()
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


def _rekeyed(segment: Segment, made_by: Fitted, dtype: KeyDtype, first_row: int) -> Segment:
    """With other keys. ``first_row``: how many rows come before, for messages."""
    arrays = {name: segment[name] for name in segment.arrays}
    d, largest = arrays["keys"].shape[1], segment.keys_max
    if made_by.method != NONE or dtype != "float32":
        arrays["keys"] = np.empty((segment.n, made_by.method.width(d)), KEY_DTYPES[dtype])
        largest = 0.0
        for block in blocks(segment.n, 8 * d):
            first = first_row + block.start
            keys, _ = made_by.keys(segment["keys"][block], d, 0, first)
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
        if memory._changing and memory._snapshot is not None:
            memory._snapshot.withdraw_later()  # of a removal that nobody will publish here
        memory._lock, memory._saving = threading.RLock(), threading.RLock()
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


def number(value: Any, name: str) -> float:
    if isinstance(value, (bool, np.bool_, str, bytes)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{name} must be within float64, got a larger number") from error
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a number, got {value!r}") from error


def positive(value: Any, name: str, more: str = "", infinite: bool = False) -> float:
    checked = number(value, name)
    if not checked > 0 or (math.isinf(checked) and not infinite):
        raise ValueError(f"{name} must be a positive number{more}, got {value!r}")
    return checked


def finite(value: Any, name: str) -> float:
    checked = number(value, name)
    if not math.isfinite(checked):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return checked
