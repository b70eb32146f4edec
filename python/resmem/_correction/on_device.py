"""Corrections of queries of which arrays lie on a memory's device: the whole way is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np

from resmem._base import checks, convert
from resmem._base.arrays import I64, float_state, to_numpy
from resmem._base.metric import Metric, as_distances, checked_metric
from resmem._correction.correct import Corrector, known_neighbours
from resmem._correction.gate import OPEN
from resmem._correction.simplex import SimplexMap
from resmem._devices import engine
from resmem._devices.arrays import DeviceArray, is_on_device
from resmem._devices.engine import Call, Placed
from resmem._devices.given_neighbours import lie_on_device, read_neighbours
from resmem._devices.places import copies_on_host
from resmem._devices.results import Result, result_for
from resmem._rows.resident import Residency
from resmem._rows.resident_residuals import ResidentResiduals
from resmem._rows.visibility import Visibility

_OUTPUTS = ("float32", "float64", "float16", "bfloat16")  # types of outputs on a device


@dataclass(frozen=True)
class DeviceCorrector:
    """Corrects queries on the device of a memory, in the order of a stream.

    Arrays of a call that lie in host memory are brought. Results lie where the queries do.
    """

    corrector: Corrector
    resident: Residency
    call: Call
    arrays: Mapping[str, Any]  # the caller's, by name, for messages

    def correct(
        self, embeddings: Any, outputs: Any, visible: Visibility, columns: Any, out: Any,
        with_base: bool = True, simplex_map: SimplexMap | None = None,
    ) -> Any:  # fmt: skip
        """Return what ``Corrector.correct`` does."""
        self._refuse_head(outputs, with_base)
        q, search = self._search(embeddings, visible)
        chosen = self._columns(columns, q)
        result = self._result(embeddings, self._shape(q, chosen), "float64", out)
        summed = self._aggregation(q, outputs, with_base, select=chosen, **self._map(simplex_map))
        engine.correct(self.call, search, summed, self._target(result), self._counts)
        return result.given

    def predict(self, embeddings: Any, outputs: Any, visible: Visibility, out: Any) -> Any:
        """Return what ``Corrector.predict`` does."""
        corrector = self.corrector
        if corrector.spec.task == "regression":
            return self.correct(embeddings, outputs, visible, None, out)
        self._refuse_head(outputs, True)
        labels = self._class_labels()
        q, search = self._search(embeddings, visible)
        result = self._result(embeddings, (q,), "int64", out)
        summed = self._aggregation(
            q, outputs, True, argmax=True, class_labels=labels, **self._map(corrector.argmax_map)
        )
        engine.correct(self.call, search, summed, result.target, self._counts)
        return result.given

    def aggregate(
        self, distances: Any, ids: Any, outputs: Any, metric: Metric | None, columns: Any, out: Any
    ) -> Any:
        """Return what the neighbours that a caller found make of queries."""
        with_base = outputs is not None or self.corrector.spec.says_nothing
        self._refuse_head(outputs, with_base)
        apart, positions, of = self._neighbours(distances, ids, metric)
        q = apart.shape[0]
        chosen = self._columns(columns, q)
        result = self._result(distances, self._shape(q, chosen), "float64", out)
        summed = self._aggregation(q, outputs, with_base, select=chosen)
        engine.aggregate(
            self.call, summed, apart, positions, self._target(result), of, self._counts
        )
        return result.given

    @property
    def _held(self) -> ResidentResiduals:
        return self.resident.residuals_on(self.call.device)

    @property
    def _counts(self) -> list[int]:
        """How many rows of each segment count."""
        return [segment.n for segment in self.corrector.rows.segments]

    # ---- What is asked -------------------------------------------------------------------------

    def _search(self, embeddings: Any, visible: Visibility) -> tuple[int, Any]:
        """Return the number of queries, and their search."""
        return self.resident.described_search(
            self.corrector.rows, embeddings, self.corrector.k, visible, self.call
        )

    def _neighbours(
        self, distances: Any, ids: Any, metric: Metric | None
    ) -> tuple[Placed, Placed, str]:
        """Return distances and positions (q, k), where they lie, and the metric of the former."""
        rows, gate = self.corrector.rows, self.corrector.gate
        of = rows.metric if metric is None else checked_metric(metric)
        if not lie_on_device(distances, ids):
            known = known_neighbours(rows, gate, distances, ids, metric)
            ascending, positions = known.find(slice(None), None, 0.0)
            return as_distances(ascending, of), positions, of
        if not rows.ids_are_positions:
            self._refuse(
                "ids are looked up on the CPU, unless they are 0 to n-1, counted by fit and add, "
                "and no row was ever removed"
            )
        gate.check_metric(of, rows.metric)
        return *read_neighbours(self.call, distances, ids, of, rows.metric), of

    def _columns(self, columns: Any, q: int) -> I64 | DeviceArray | None:
        """Return the columns that are wanted, (t,) or (q, t), where they lie."""
        rows = self.corrector.rows
        if columns is not None and rows.flat:
            raise ValueError("columns needs outputs of several columns, this memory has (n,)")
        if columns is None or not is_on_device(columns):
            return convert.column_numbers(columns, q, rows.columns)
        array = self.call.read(columns, "columns", ("int64",))
        if len(array.shape) not in (1, 2):
            raise ValueError(f"columns must have shape (t,) or (q, t), got {array.shape}")
        if len(array.shape) == 2:
            checks.same_length("columns", array.shape[0], "queries", q)
        return array

    # ---- What becomes of it --------------------------------------------------------------------

    def _aggregation(self, q: int, outputs: Any, with_base: bool, **more: Any) -> Any:
        """Return what the device does with neighbours of ``q`` queries."""
        corrector, held = self.corrector, self._held
        rows, spec = corrector.rows, corrector.spec
        of_targets = corrector.method == "targets"
        base: dict[str, Any] = {"output_kind": "none"}
        if with_base:
            base = {**self._base(outputs, q), **self._gate()}
        bring = held.targets if of_targets else held.residuals
        return engine.aggregation(
            self.call.device, bring(rows, spec), sigma=corrector.sigma, columns=rows.columns,
            strength=corrector.strength, interpolate=of_targets, row_weights=held.weights(rows),
            temperature=rows.temperature, **base, **more,
        )  # fmt: skip

    def _base(self, outputs: Any, q: int) -> dict[str, Any]:
        """Return the base outputs as the device takes them: what they are, and where they lie."""
        spec, rows = self.corrector.spec, self.corrector.rows
        if spec.says_nothing:
            spec.silent_outputs(outputs, q, rows.columns)  # which must be None
            value = float(spec.silent_outputs(None, 1, rows.columns)[0, 0])
            return {"output_kind": "constant", "output_value": value}
        if is_on_device(outputs):
            array = self.call.read(outputs, "outputs", _OUTPUTS)
            if rows.flat:
                convert.check_dimensions(array.shape, "outputs", "(q,)")
                array = replace(array, shape=(array.shape[0], 1))
            convert.check_dimensions(array.shape, "outputs", "(q, C)")
            if array.shape[1] != rows.columns:
                raise ValueError(
                    f"outputs must have {rows.columns} columns as in fit, got {array.shape[1]}"
                )
            checks.same_length("outputs", array.shape[0], "queries", q)
            return {"output_kind": spec.output_kind, "outputs": array}
        given = to_numpy(self.corrector.query_outputs(outputs, q)[:], "outputs")
        with float_state():
            checked = np.ascontiguousarray(spec.outputs(given))
        return {"output_kind": spec.output_kind, "outputs": checked}

    def _gate(self) -> dict[str, Any]:
        corrector, held = self.corrector, self._held
        if corrector.gate == OPEN:
            return {}
        gate: dict[str, Any] = {"gate": held.gate(corrector.gate.parts)}
        if "agreement" in corrector.gate.features:
            gate["classes"] = held.targets(corrector.rows, corrector.spec)
        return gate

    @staticmethod
    def _map(simplex_map: SimplexMap | None) -> dict[str, Any]:
        if simplex_map is None:
            return {}
        return {"map": simplex_map.kind, "floor": simplex_map.floor}

    def _class_labels(self) -> Any:
        """Return what the classes are called, on the device, if that is not 0 to C-1."""
        labels = self.corrector.spec.labels
        if labels is None:
            return None
        if labels.array.dtype.kind != "i":
            kind = "text" if labels.array.dtype.kind == "U" else str(labels.array.dtype)
            scores = "correct" if self.corrector.argmax_map is None else "predict_proba"
            self._refuse(
                f"classes are predicted on a device where they are integers, not {kind} "
                f"(memory.{scores}(..).argmax(1) gives their numbers in memory.classes_)"
            )
        return self._held.class_labels(labels.array)

    # ---- Results -------------------------------------------------------------------------------

    def _shape(self, q: int, chosen: I64 | DeviceArray | None) -> tuple[int, ...]:
        rows = self.corrector.rows
        if rows.flat:
            return (q,)
        return (q, rows.columns if chosen is None else chosen.shape[-1])

    def _result(self, queries: Any, shape: tuple[int, ...], dtype: str, out: Any) -> Result:
        call = self.call
        return result_for(queries, shape, dtype, out, call.device, call.stream, call.maker())

    def _target(self, result: Result) -> Placed:
        """Return where (q, C) results are written; those of a flat memory have one column."""
        if not self.corrector.rows.flat:
            return result.target
        shape = (result.target.shape[0], 1)
        if isinstance(result.target, DeviceArray):
            return replace(result.target, shape=shape)
        return result.target.reshape(shape)

    # ---- What the CPU alone does ---------------------------------------------------------------

    def _refuse_head(self, outputs: Any, with_base: bool) -> None:
        """Refuse what needs the base model's last layer, with which the CPU computes."""
        store = self.corrector.spec.store
        if not store.on_devices and self.corrector.method == "residual":
            self._refuse(f"residuals of store={store.name!r} are computed on the CPU")
        if store.layer is not None and outputs is None and with_base:
            self._refuse(f"outputs of store={store.name!r} are computed on the CPU")

    def _refuse(self, why: str) -> NoReturn:
        """Raise the error for arrays on a device with which only the CPU computes."""
        raise ValueError(f"{why}; pass {copies_on_host(self.arrays)}")
