"""The rows of a memory on a device, brought there segment by segment."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from resmem._base import convert
from resmem._base.arrays import F64, I64, Keys
from resmem._base.metric import Metric, is_euclidean
from resmem._devices import engine
from resmem._devices.arrays import DeviceArray, is_on_device
from resmem._devices.device import Device
from resmem._devices.libraries import library_of
from resmem._devices.results import results_for
from resmem._rows.resident_residuals import ResidentResiduals
from resmem._rows.segment import Segment
from resmem._rows.snapshot import Snapshot
from resmem._rows.visibility import Visibility, check_groups, check_times


@dataclass
class _Resident:
    """The rows of a segment, and how many of its removals are known on the device."""

    rows: Any
    dead: int = 0


class Residency:
    """Which segments of a memory are on a device.

    Segments are brought when a search first needs them; later ones bring what was added or removed
    since. So are times and groups, which few searches need. Segments that the memory no longer has
    are dropped.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self._held: dict[int, _Resident] = {}  # by the segments' uids
        self._lock = threading.Lock()
        self.residuals = ResidentResiduals(device)

    @property
    def nbytes(self) -> int:
        """Bytes of keys, codes and all else on the device."""
        rows = sum(int(each.rows.nbytes) for each in list(self._held.values()))
        return rows + self.residuals.nbytes

    def bring(self, snapshot: Snapshot, attributes: Iterable[str] = ()) -> list[tuple[Any, int]]:
        """Bring the rows of a snapshot, and some of their ``attributes``: "times" or "groups".

        Return each segment's rows on the device, and how many count.
        """
        with self._lock:
            metric, brought = snapshot.metric, []
            for segment in snapshot.segments:
                rows = self._brought(segment, metric)
                for name in attributes:
                    if name in segment.arrays:
                        rows.bring(name, np.ascontiguousarray(segment[name]))
                brought.append((rows, segment.n))
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
        self, snapshot: Snapshot, queries: Keys, k: int, metric: Metric, visible: Mapping[str, Any]
    ) -> tuple[F64, I64, I64]:
        """Return values of a metric, ids and positions of the neighbours, (q, k) each.

        ``serves`` holds for the metric; ``visible`` is as for ``engine.search``.
        """
        shape = (len(queries), k)
        distances = np.empty(shape)
        ids, positions = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.int64)
        engine.search(
            engine.Call(self.device), queries, self._segments(snapshot, visible), k, metric,
            visible, distances, ids, positions, snapshot.version,
        )  # fmt: skip
        return distances, ids, positions

    def kneighbors(
        self, snapshot: Snapshot, embeddings: Any, k: int, visible: Visibility, stream: int,
        out: Any, metric: Metric,
    ) -> tuple[Any, Any]:  # fmt: skip
        """Return distances and ids of the neighbours of queries of which arrays lie on the device.

        See ``Memory.kneighbors``; ``stream`` is the address of the call's stream.
        """
        call = engine.Call(self.device, stream)
        keys = self._keys_there(snapshot, embeddings, call)
        q = keys.shape[0]
        seen = visible_there(visible, snapshot, q, call)
        results = results_for(embeddings, (q, k), out, self.device, stream, call.maker())
        engine.search(
            call, keys, self._segments(snapshot, seen), k, metric, seen, results[0].target,
            results[1].target, version=snapshot.version,
        )  # fmt: skip
        return results[0].given, results[1].given

    def described_search(
        self, snapshot: Snapshot, embeddings: Any, k: int, visible: Visibility, call: engine.Call
    ) -> tuple[int, Any]:
        """Return the number of queries, and what ``engine.correct`` searches for them."""
        keys = self._keys_there(snapshot, embeddings, call)
        seen = visible_there(visible, snapshot, keys.shape[0], call)
        segments = self._segments(snapshot, seen)
        search = engine.described(call, keys, segments, k, snapshot.metric, seen, snapshot.version)
        return keys.shape[0], search

    def _segments(self, snapshot: Snapshot, visible: Mapping[str, Any]) -> list[tuple[Any, int]]:
        """Return the segments for a search, with the attributes that it asks for."""
        asked = {"times": visible["before"], "groups": visible["exclude_groups"]}
        return self.bring(snapshot, [name for name, given in asked.items() if given is not None])

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


def serves(metric: Metric, other: Metric) -> bool:
    """Tell whether rows that were brought for one metric are searched by the other, too."""
    return metric == other or (is_euclidean(metric) and is_euclidean(other))


def visible_there(
    visible: Visibility, snapshot: Snapshot, q: int, call: engine.Call
) -> dict[str, Any]:
    """Return which rows ``q`` queries see, as ``engine.search`` takes it.

    Numbers of each query stay on the device where they lie there.
    """
    there = {name: v for name, v in visible.of_each_query.items() if is_on_device(v)}
    seen = replace(visible, **dict.fromkeys(there)).of(snapshot, q).for_core()
    if "exclude_ids" in there:
        seen["exclude"] = engine.excluded_ids_there(there["exclude_ids"], q, call)
    if "exclude_groups" in there:
        check_groups(snapshot)
        seen["exclude_groups"] = engine.lists_there(
            there["exclude_groups"], "exclude_groups", q, call
        )
    if "before" in there:
        check_times(snapshot)
        if snapshot.time_kind != "integers":
            on_host = library_of(there["before"]).on_host.format(name="before")
            raise TypeError(
                f"before on a device must hold integers, but the times of the rows are "
                f"{snapshot.time_kind}; pass {on_host}"
            )
        seen["before"] = engine.numbers_there(there["before"], "before", q, call)
    return seen
