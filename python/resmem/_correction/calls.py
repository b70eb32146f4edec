"""Corrections as callers ask for them: on the CPU, or where their arrays lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resmem._base.execution import execution_of
from resmem._base.metric import Metric
from resmem._correction.correct import Corrector, known_neighbours
from resmem._correction.on_device import DeviceCorrector
from resmem._correction.simplex import SimplexMap
from resmem._devices.arrays import is_on_device
from resmem._devices.device import CPU
from resmem._devices.places import check_places
from resmem._devices.results import written
from resmem._devices.streams import stream_of
from resmem._rows.visibility import Visibility


@dataclass(frozen=True)
class Corrections:
    """Arguments that ``Memory.correct`` and its like have in common, and what answers them."""

    corrector: Corrector
    threads: int | None
    stream: Any = None
    out: Any = None

    def of_queries(
        self, embeddings: Any, outputs: Any, visible: Visibility, columns: Any = None,
        with_base: bool = True, simplex_map: SimplexMap | None = None,
    ) -> Any:  # fmt: skip
        """Return corrected outputs; see ``Corrector.correct``."""
        there = self._on_device(visible, embeddings=embeddings, outputs=outputs, columns=columns)
        if there is not None:
            return there.correct(
                embeddings, outputs, visible, columns, self.out, with_base, simplex_map
            )
        queries = self.corrector.queries_for(embeddings, visible, self.threads)
        found = self.corrector.correct(
            queries, outputs, self.threads, columns, with_base, simplex_map
        )
        return written(self.out, found)

    def predictions(self, embeddings: Any, outputs: Any, visible: Visibility) -> Any:
        """Return classes or values; see ``Memory.predict``."""
        there = self._on_device(visible, embeddings=embeddings, outputs=outputs)
        if there is not None:
            return there.predict(embeddings, outputs, visible, self.out)
        found = self.corrector.predict(embeddings, outputs, visible, self.threads)
        return written(self.out, found)

    def of_neighbours(
        self, distances: Any, ids: Any, outputs: Any, metric: Metric | None, columns: Any
    ) -> Any:
        """Return what known neighbours make of queries; see ``Memory.aggregate``."""
        there = self._on_device(
            Visibility(), distances=distances, ids=ids, outputs=outputs, columns=columns
        )
        if there is not None:
            return there.aggregate(distances, ids, outputs, metric, columns, self.out)
        corrector = self.corrector
        queries = known_neighbours(corrector.rows, corrector.gate, distances, ids, metric)
        with_base = outputs is not None or corrector.spec.says_nothing
        found = corrector.correct(queries, outputs, self.threads, columns, with_base=with_base)
        return written(self.out, found)

    def _on_device(self, visible: Visibility, **arrays: Any) -> DeviceCorrector | None:
        """Return what corrects on the memory's device; None if all arrays lie in host memory."""
        corrector, given = self.corrector, {**arrays, **visible.of_each_query}
        device = CPU if corrector.resident is None else corrector.resident.lead(given)
        check_places(given, device, in_memory=True)
        address = stream_of(self.stream, given.values(), device, in_memory=True)
        if corrector.resident is None or not any(map(is_on_device, given.values())):
            return None
        execution_of(self.threads)  # refuses what is no number of threads
        call = corrector.resident.call(device, address)
        return DeviceCorrector(corrector, corrector.resident, call, given)
