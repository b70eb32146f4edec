"""A memory at one moment: its settings, its rows and their file, as one frozen value."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

import resmem._core as _core
from resmem._base import checks, convert
from resmem._base.arrays import I64, Array, Keys, float_state
from resmem._base.blocks import blocks
from resmem._base.errors import NotFittedError, warn
from resmem._base.execution import DEFAULT, execution_of
from resmem._base.labels import LabelTable
from resmem._base.metric import Metric, is_euclidean
from resmem._correction import length_scale
from resmem._correction.correct import Corrector, Method, kneighbors
from resmem._correction.gate import OPEN, Gate
from resmem._correction.simplex import SimplexMap, map_named
from resmem._devices.arrays import is_on_device
from resmem._devices.device import CPU
from resmem._devices.places import check_places
from resmem._devices.results import written_to
from resmem._devices.streams import stream_of
from resmem._files import persist
from resmem._keys.preprocess import NO_PREPROCESS, FittedPreprocess
from resmem._keys.rounding import ALLOWED_FRACTION, Neighbourhood, comparable, sample_positions
from resmem._keys.stored import KEY_DTYPES, KeyDtype, narrow_keys, widen_keys
from resmem._rows.ages import Age, in_units, recorded
from resmem._rows.by_id import Rows, rows_by_id
from resmem._rows.growth import UNKNOWN, Basis
from resmem._rows.ingest import exact_keys
from resmem._rows.limits import UNLIMITED, Limits, limited
from resmem._rows.resident import Residency
from resmem._rows.segment import Segment, merge
from resmem._rows.snapshot import Snapshot
from resmem._rows.spec import Spec
from resmem._rows.stores.store import Store
from resmem._rows.visibility import Visibility
from resmem._state.settings import (
    Settings,
    checked_gate,
    checked_keys,
    checked_method,
    checked_sigma,
    checked_temperature,
)


@dataclass(frozen=True, eq=False)
class MemoryView:
    """What a memory holds at one moment: settings, rows, and the file that holds these rows.

    A query reads it once, so that settings and rows stay consistent while it runs. A change makes
    another view, which is published as a whole. Methods named by a participle or a preposition
    return such a view and leave this one as it is.
    """

    spec: Spec
    fit_key_dtype: KeyDtype  # the dtype that the next fit stores keys in; "auto": fit chooses
    k: int
    sigma: float | Literal["auto"]
    temperature: float  # the residuals of the rows, if there are any, are those at this one
    strength: float
    map: SimplexMap
    auto_prepare: bool = True
    rows: Snapshot | None = None
    file: persist.FileState | None = None  # where the rows were last saved to or loaded from
    resident: Residency | None = None  # on which device the rows are searched; None: on the CPU
    method: Method = "residual"
    gate: Gate = OPEN
    limits: Limits = UNLIMITED
    half_life: Age | None = None  # after which a row's weight is half of what it was
    fit_labels: LabelTable | None = None  # the labels that the next fit takes; None: it finds them

    @property
    def fitted_rows(self) -> Snapshot:
        """The rows; raises NotFittedError if there never were any."""
        if self.rows is None:
            raise NotFittedError("this Memory holds no rows yet; call fit first")
        return self.rows

    @property
    def fit_spec(self) -> Spec:
        """The specification that a fit starts from."""
        return replace(self.spec, key_dtype=self.fit_key_dtype, labels=self.fit_labels)

    @property
    def nbytes_by_place(self) -> dict[str, int]:
        """See ``Memory.nbytes_by_place``."""
        places = {"host": 0 if self.rows is None else self.rows.nbytes}
        if self.resident is None:
            return places
        if pinned := self.resident.pinned_nbytes:
            places["host, pinned"] = pinned
        return places | self.resident.nbytes_by_device

    @property
    def sigma_in_use(self) -> float:
        """The length scale in use, as ``Memory.sigma_``."""
        if self.sigma != "auto":
            return float(self.sigma)
        rows = self.fitted_rows
        return length_scale.measure(rows, self.k) if rows.auto_sigma is None else rows.auto_sigma

    @property
    def corrector(self) -> Corrector:
        """The rows and settings that a query computes with."""
        rows = self.fitted_rows
        return Corrector(
            self.spec,
            rows,
            min(self.k, max(1, len(rows))),
            self.sigma_in_use,
            self.strength,
            self.map,
            self.auto_prepare,
            self.resident,
            self.method,
            self.gate,
        )

    def with_measured_sigma(self) -> MemoryView:
        """Measure ``sigma="auto"`` if that is not done yet and there are at least two rows."""
        rows = self.rows
        if self.sigma != "auto" or rows is None or rows.auto_sigma is not None or len(rows) < 2:
            return self
        auto_sigma, basis = length_scale.measure(rows, self.k), Basis(len(rows))
        return replace(self, rows=replace(rows, auto_sigma=auto_sigma, sigma_basis=basis))

    def limited(self) -> MemoryView:
        """Drop the rows that the limits leave no room for; those that are left decay."""
        if self.rows is None:
            return self
        return replace(self, rows=limited(self.rows, self.limits)).decaying()

    def decaying(self) -> MemoryView:
        """Let weights of rows fall with their age as the half-life says."""
        rows, half_life = self.rows, None
        if rows is None:
            return self
        if self.half_life is not None and rows.segments:
            half_life = in_units(self.half_life, rows.time_kind, "half_life")
        if half_life == rows.half_life:
            return self
        return replace(self, rows=replace(rows, half_life=half_life))

    @property
    def part_rows(self) -> int | None:
        """How many rows a new segment may have; None: no limits say so."""
        rows = self.fitted_rows
        if not rows.segments:
            return None
        return self.limits.part_rows(len(rows), rows.segments[-1].row_bytes)

    def without_measured_sigma(self) -> MemoryView:
        """Forget the measured length scale, so that it is measured again."""
        if self.rows is None:
            return self
        return replace(self, rows=replace(self.rows, auto_sigma=None, sigma_basis=UNKNOWN))

    def with_growth_notes(self) -> tuple[MemoryView, list[str]]:
        """Return notes on measurements made on far fewer rows than there are now, and the view that
        records that these notes were given."""
        rows, notes = self.fitted_rows, []
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

    def at_temperature(self, temperature: float) -> MemoryView:
        """Set the temperature, and compute the residuals of the rows again."""
        store, rows = self.spec.store, self.rows
        if rows is None or temperature == rows.temperature:
            return replace(self, temperature=temperature)
        if store.fixed_temperature:
            raise ValueError(
                f"temperature is fixed at fit for store={store.name!r} "
                f"({rows.temperature:g}), got {temperature:g}; fit again, or use store='dense'"
            )
        segments = tuple(
            with_derived_arrays(segment, store, temperature) for segment in rows.segments
        )
        rows = replace(rows, segments=segments, temperature=temperature)
        return replace(self, rows=rows, temperature=temperature)

    @float_state()
    def rekeyed(self, preprocess: str, key_dtype: KeyDtype) -> MemoryView:
        """Make the keys of all rows again, from the embeddings that are stored as keys here.

        Segments from which no row was removed share their other arrays with this view.
        """
        rows, spec = self.fitted_rows, self.spec
        if spec.preprocess != NO_PREPROCESS or spec.key_dtype not in ("float32", "float64"):
            raise ValueError(
                "keys can be made anew only of embeddings stored as they came, with "
                "preprocess='none' and key_dtype='float32' or 'float64', not with "
                f"preprocess={spec.preprocess.name!r} and key_dtype={spec.key_dtype!r}; fit again"
            )
        if (spec.key_dtype, spec.metric) == ("float64", "cosine"):
            raise ValueError(
                "keys cannot be made anew of float64 embeddings with metric='cosine', which are "
                "stored multiplied by powers of two; fit again, with key_dtype='float32' if that "
                "is as precise as you need"
            )
        if key_dtype not in KEY_DTYPES:  # "auto" is only for rows that are still to come
            names = ", ".join(map(repr, KEY_DTYPES))
            raise ValueError(f"key_dtype must be one of {names}, got {key_dtype!r}")
        method = checked_keys(preprocess, key_dtype, spec.store)

        def rows_at(chosen: I64) -> Keys:
            empty = rows.segments[0]["keys"][:0]
            parts = [empty, *(s["keys"][at] for s, at in rows.sample(chosen))]
            return rows.preprocess.unshifted(np.concatenate(parts))

        def targets_at(chosen: I64) -> Array:
            return np.concatenate([s["targets"][at] for s, at in rows.sample(chosen)])

        fitted = rows.preprocess
        if method != NO_PREPROCESS:
            fitted = method.fit(len(rows), rows.d, rows_at, targets_at)
        fitted = replace(fitted, wide=key_dtype == "float64")
        segments: list[Segment] = []
        for segment in rows.segments:
            shared = replace(segment, borrowed=True)
            living = merge((segment,), rows.version) if segment.dead else shared
            first = sum(map(len, segments))
            segments.append(_rekeyed_segment(living, rows, fitted, key_dtype, first))
        after = replace(
            rows,
            segments=tuple(segments),
            retired=rows.all_retired(),
            preprocess=fitted,
            preprocess_basis=fit_basis(len(rows), fitted),
            allowed=math.inf,
        )
        # Rounding to float32 can lose too much only if the embeddings came as float64.
        if spec.key_dtype == "float64" or math.isfinite(rows.allowed):
            sampled = rows_at(sample_positions(len(rows), rows.d))
            after = replace(
                after, allowed=_allowed_rounding(sampled, len(rows), fitted, key_dtype, rows.metric)
            )
        fit_key_dtype = (
            self.fit_key_dtype if key_dtype == spec.key_dtype or method.linear else key_dtype
        )
        spec = replace(spec, preprocess=method, key_dtype=key_dtype)
        return replace(
            self, spec=spec, fit_key_dtype=fit_key_dtype, rows=after, file=None
        ).without_measured_sigma()

    def with_keys(self, preprocess: str, key_dtype: KeyDtype) -> MemoryView:
        """Keep keys in this way; "auto" leaves the dtype as it is."""
        if key_dtype == "auto":
            key_dtype = self.spec.key_dtype
        if (preprocess, key_dtype) == (self.spec.preprocess.name, self.spec.key_dtype):
            return self
        if self.rows is not None:
            return self.rekeyed(preprocess, key_dtype)
        method = checked_keys(preprocess, key_dtype, self.spec.store)
        spec = replace(self.spec, preprocess=method, key_dtype=key_dtype)
        return replace(self, spec=spec, fit_key_dtype=key_dtype)

    def with_settings(self, settings: Any) -> MemoryView:
        """Apply these ``Settings``; raise if one of them is wrong."""
        k, sigma = checks.count(settings.k, "k"), checked_sigma(settings.sigma)
        method, strength = checked_method(settings.method, settings.strength)
        simplex_map, gate = (
            map_named(settings.probability_map),
            checked_gate(settings.gate, self.spec),
        )
        temperature = checked_temperature(settings.temperature, self.spec)
        now = self.with_keys(settings.preprocess, settings.key_dtype)
        now = now.at_temperature(temperature)
        if sigma == "auto" and (self.sigma, self.k) != (sigma, k):
            now = now.without_measured_sigma()
        return replace(
            now, k=k, sigma=sigma, strength=strength, map=simplex_map, method=method, gate=gate
        ).with_measured_sigma()

    @property
    def as_settings(self) -> Settings:
        """See ``Memory.settings``."""
        return Settings(
            self.k,
            self.sigma,
            self.temperature,
            self.strength,
            self.map.name,
            self.spec.preprocess.name,
            self.spec.key_dtype,
            self.method,
            self.gate.name,
        )

    def rows_by_id(self, ids: Any) -> Rows:
        """See ``Memory.get``."""
        rows = rows_by_id(self.fitted_rows, convert.some_ids(ids), self.spec)
        if self.spec.says_nothing:
            rows = replace(rows, outputs=None)
        if self.spec.task == "classification":
            rows = replace(rows, targets=self.spec.labelled(rows.targets))
        return rows

    @float_state()
    def kneighbors(
        self, embeddings: Any, k: int | None, visible: Visibility, threads: int | None,
        stream: Any, out: Any, squared: bool,
    ) -> tuple[Any, Any]:  # fmt: skip
        """See ``Memory.kneighbors``."""
        k = self.k if k is None else checks.count(k, "k")
        rows = self.fitted_rows
        if checks.boolean(squared, "squared") and not is_euclidean(rows.metric):
            raise ValueError(
                f"squared=True is for Euclidean distances, this memory has metric={rows.metric!r}, "
                "whose values order its neighbours already; leave squared out"
            )
        arrays = {"embeddings": embeddings, **visible.of_each_query}
        device = CPU if self.resident is None else self.resident.lead(arrays)
        check_places(arrays, device, in_memory=True)
        address = stream_of(stream, arrays.values(), device, in_memory=True)
        if self.resident is not None and any(is_on_device(array) for array in arrays.values()):
            execution_of(threads)  # refuses what is no number of threads
            metric: Metric = "sqeuclidean" if squared else rows.metric
            return self.resident.kneighbors(rows, embeddings, k, visible, address, out, metric)
        found = kneighbors(
            rows, embeddings, k, visible, threads, self.auto_prepare, self.resident, squared
        )
        return found if out is None else written_to(out, *found)

    def settings(self) -> dict[str, Any]:
        """Return what files and ``Memory.info`` record of this view, by name."""
        rows = self.fitted_rows
        sigma_, sigma_rows = rows.auto_sigma, rows.sigma_basis.rows
        if self.sigma == "auto":
            sigma_ = self.sigma_in_use
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
            "metric": self.spec.metric,
            "store": self.spec.store.name,
            "probability_map": self.map.name,
            "method": self.method,
            "gate": self.gate.name,
            **self.limits.recorded(),
            "half_life": recorded(self.half_life),
            "flat": rows.flat,
            "time_kind": rows.time_kind,
            "embedding_names": rows.embedding_names,
            "output_names": rows.output_names,
            "classes": None if self.spec.labels is None else list(self.spec.labels.names),
            "fit_classes": None if self.fit_labels is None else list(self.fit_labels.names),
            "sigma_": sigma_,
            "offset": "offset" in rows.preprocess.arrays,
            "allowed": rows.allowed if math.isfinite(rows.allowed) else None,
            "sigma_rows": sigma_rows,
            "preprocess_rows": rows.preprocess_basis.rows,
        }


@float_state()
def with_derived_arrays(segment: Segment, store: Store, temperature: float) -> Segment:
    """Compute the arrays again that follow from others, such as residuals at a temperature."""
    if not store.derived:
        return segment
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


def _allowed_rounding(
    embeddings: Keys, n: int, fitted: FittedPreprocess, dtype: KeyDtype, metric: Metric
) -> float:
    """Return ``Snapshot.allowed`` for keys made of these embeddings, a sample of ``n``; warn if
    rounding to float32 moves them too far."""
    if dtype != "float32" or fitted.method.linear or n == 0:
        return math.inf
    around = Neighbourhood(exact_keys(embeddings, fitted), n, metric)
    used = around.error_ratio()
    if used > 1:
        warn(
            "keys are rounded to float32, which moves distances by more than "
            f"{ALLOWED_FRACTION:.0%} of what neighbours lie apart; use key_dtype='float64'"
        )
    return around.allowed(None, used)


def _rekeyed_segment(
    segment: Segment,
    before: Snapshot,
    after: FittedPreprocess,
    dtype: KeyDtype,
    first_row: int,
) -> Segment:
    """Return the segment with keys made by the preprocess ``after`` instead of those of ``before``.

    ``first_row``: the number of rows in earlier segments, for messages.
    """
    arrays = {name: segment[name] for name in segment.arrays}
    d, largest = arrays["keys"].shape[1], segment.keys_max
    if after.method != NO_PREPROCESS or arrays["keys"].dtype != KEY_DTYPES[dtype]:
        arrays["keys"] = np.empty((segment.n, after.method.width(d)), KEY_DTYPES[dtype])
        largest = 0.0
        for block in blocks(segment.n, 8 * d):
            first = first_row + block.start
            embeddings = before.preprocess.unshifted(segment["keys"][block])
            keys, _ = comparable(*after.keys(embeddings, d, DEFAULT, first), before.metric)
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


def fit_basis(rows: int, preprocess: FittedPreprocess) -> Basis:
    """Return the number of rows that a preprocess was fitted to, if it is one that is fitted."""
    return Basis(rows) if preprocess.arrays and preprocess.method != NO_PREPROCESS else UNKNOWN
