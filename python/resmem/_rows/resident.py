"""The keys of a memory's rows on a device, brought there segment by segment."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from resmem._base import convert
from resmem._base.arrays import F64, I64, Keys
from resmem._base.metric import Metric
from resmem._devices import engine
from resmem._devices.arrays import DeviceArray, is_on_device
from resmem._devices.device import Device
from resmem._devices.libraries import library_of
from resmem._devices.results import results_for
from resmem._rows.resident_residuals import ResidentResiduals
from resmem._rows.segment import Segment
from resmem._rows.snapshot import Snapshot


@dataclass
class _Resident:
    """The rows of a segment, and how many of its removals are known on the device."""

    rows: Any
    dead: int = 0


class Residency:
    """Which segments of a memory are on a device.

    Segments are brought when a search first needs them; later ones bring what was added or removed
    since. Segments that the memory no longer has are dropped.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._held: dict[int, _Resident] = {}  # by the segments' uids
        self._lock = threading.Lock()
        self.residuals = ResidentResiduals(device)

    @property
    def nbytes(self) -> int:
        """Bytes of keys, codes and what is summed in corrections, on the device."""
        keys = sum(int(each.rows.nbytes) for each in list(self._held.values()))
        return keys + self.residuals.nbytes

    def bring(self, snapshot: Snapshot) -> list[tuple[Any, int]]:
        """Bring the rows of a snapshot; return each segment's on the device, and how many count."""
        with self._lock:
            metric = snapshot.metric
            brought = [(self._brought(each, metric), each.n) for each in snapshot.segments]
            present = {segment.uid for segment in snapshot.segments}
            self._held = {uid: held for uid, held in self._held.items() if uid in present}
        self.residuals.keep(snapshot)
        return brought

    def _brought(self, segment: Segment, metric: Metric) -> Any:
        keys = segment["keys"]
        held = self._held.get(segment.uid)
        if held is None:
            rows = engine.kept_rows(self.device, str(keys.dtype), keys.shape[1], metric)
            held = self._held[segment.uid] = _Resident(rows)
        if segment.n > len(held.rows):
            ids = np.ascontiguousarray(segment["ids"]) if segment.has_ids else None
            held.rows.extend(np.ascontiguousarray(keys), ids, segment.first_id)
        if segment.removals is not None and segment.dead > held.dead:
            gone = segment.removals.first(segment.dead)[held.dead :]
            held.rows.remove(np.ascontiguousarray(gone), segment.removals.stamps[gone])
            held.dead = segment.dead
        return held.rows

    def neighbours(
        self, snapshot: Snapshot, queries: Keys, k: int, excluded: I64 | None
    ) -> tuple[F64, I64, I64]:
        """Return values of the metric, ids and positions of the neighbours, (q, k) each."""
        shape = (len(queries), k)
        distances = np.empty(shape)
        ids, positions = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.int64)
        engine.search(
            engine.Call(self.device), queries, self.bring(snapshot), k, snapshot.metric, excluded,
            distances, ids, positions, snapshot.version,
        )  # fmt: skip
        return distances, ids, positions

    def kneighbors(
        self, snapshot: Snapshot, embeddings: Any, k: int, exclude_ids: Any, stream: int, out: Any
    ) -> tuple[Any, Any]:
        """Return distances and ids of the neighbours of queries of which arrays lie on the device.

        See ``Memory.kneighbors``; ``stream`` is the address of the call's stream.
        """
        call = engine.Call(self.device, stream)
        keys = self._keys_there(snapshot, embeddings, call)
        q = keys.shape[0]
        excluded = engine.excluded_ids_there(exclude_ids, q, call)
        results = results_for(embeddings, (q, k), out, self.device, stream, call.maker())
        engine.search(
            call, keys, self.bring(snapshot), k, snapshot.metric, excluded, results[0].target,
            results[1].target, version=snapshot.version,
        )  # fmt: skip
        return results[0].given, results[1].given

    def described_search(
        self, snapshot: Snapshot, embeddings: Any, k: int, exclude_ids: Any, call: engine.Call
    ) -> tuple[int, Any]:
        """Return the number of queries, and what searches them in ``engine.correct``."""
        keys = self._keys_there(snapshot, embeddings, call)
        excluded = engine.excluded_ids_there(exclude_ids, keys.shape[0], call)
        return keys.shape[0], engine.described(
            call, keys, self.bring(snapshot), k, snapshot.metric, excluded, snapshot.version
        )

    def _keys_there(
        self, snapshot: Snapshot, embeddings: Any, call: engine.Call
    ) -> Keys | DeviceArray:
        """Return the keys of queries, on the device where the embeddings lie there."""
        if not is_on_device(embeddings):
            return snapshot.keys(embeddings)[0]
        scaled = snapshot.metric == "cosine" and snapshot.preprocess.wide
        if scaled or not snapshot.preprocess.plain:
            made = "scaled for metric='cosine'" if scaled else snapshot.preprocess.described
            on_host = library_of(embeddings).on_host.format(name="embeddings")
            raise TypeError(
                "embeddings on a device are compared as they are, but this memory's keys are made "
                f"of them on the CPU ({made}); pass {on_host}"
            )
        dtype = "float64" if snapshot.preprocess.wide else "float32"
        array = call.read(embeddings, "embeddings", (dtype,))
        convert.check_dimensions(array.shape, "embeddings", "(q, d)")
        convert.check_columns(array.shape, "embeddings", snapshot.d)
        return array
