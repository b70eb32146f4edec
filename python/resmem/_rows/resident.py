"""The keys of a memory's rows on devices, brought there segment by segment."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resmem._base import convert
from resmem._base.arrays import F64, I64, Keys
from resmem._base.metric import Metric
from resmem._devices import engine
from resmem._devices.arrays import DeviceArray, is_on_device
from resmem._devices.device import Device
from resmem._devices.engine import Placement
from resmem._devices.libraries import library_of
from resmem._devices.results import results_for
from resmem._devices.several import lead_of, names_of, shares
from resmem._rows.segment import Segment
from resmem._rows.snapshot import Snapshot

_SLAB_SHARE = 4  # of the bytes that rows may take on a device, slabs get one in so many


@dataclass
class _Share:
    """Consecutive rows of a segment on a device, and how many of its removals are known there."""

    device: Device
    first: int  # row of the segment
    rows: Any
    dead: int = 0

    @property
    def end(self) -> int:
        """The first row of the segment behind these."""
        return self.first + len(self.rows)


class Residency:
    """Which rows of a memory are on which devices.

    Segments are brought when a search first needs them, divided among the devices; later ones
    bring what was added or removed since. Segments that the memory no longer has are dropped. Rows
    that a device has no room for stay in host memory, and every search brings them in slabs.
    """

    def __init__(self, devices: Sequence[Device], resident_bytes: int | None = None) -> None:
        self.devices = tuple(devices)
        self.resident_bytes = resident_bytes  # of each device; None: what is free
        self._held: dict[int, list[_Share]] = {}  # by the segments' uids
        self._lanes = engine.kept_lanes(self.devices[0])
        self._lock = threading.Lock()

    @property
    def device(self) -> Device:
        """The device that results are for if the queries lie on none."""
        return self.devices[0]

    @property
    def names(self) -> str | list[str]:
        """The names of all devices, as ``Memory.to`` takes them."""
        return names_of(self.devices)

    @property
    def nbytes(self) -> int:
        """Bytes of all devices."""
        return sum(self.nbytes_by_device.values())

    @property
    def nbytes_by_device(self) -> dict[str, int]:
        """Bytes of keys and codes on each device, by its name."""
        return {str(device): self._held_on(device) for device in self.devices}

    @property
    def pinned_nbytes(self) -> int:
        """Bytes of host memory that are kept for slabs."""
        return int(self._lanes.nbytes)

    def lead(self, arrays: Mapping[str, Any]) -> Device:
        """Return the device that the results of a call are for."""
        return lead_of(self.devices, arrays)

    def call(self, device: Device | None = None, stream: int = 0) -> engine.Call:
        """Return how a search is carried out whose results are for this device."""
        slabs = 0 if self.resident_bytes is None else max(1, self.resident_bytes // _SLAB_SHARE)
        return engine.Call(device or self.device, stream, slab_bytes=slabs, lanes=self._lanes)

    # ---------------------------------------------------------------- rows come and go

    def bring(self, snapshot: Snapshot) -> list[Placement]:
        """Bring the rows of a snapshot, and return where they are."""
        with self._lock:
            present = {segment.uid for segment in snapshot.segments}
            self._held = {uid: held for uid, held in self._held.items() if uid in present}
            placed, start = [], 0
            for segment in snapshot.segments:
                for share in self._brought(segment, snapshot.metric):
                    n = min(share.end, segment.n) - share.first
                    if n > 0:
                        placed.append(Placement(share.rows, n, start + share.first))
                start += segment.n
            return placed

    def _brought(self, segment: Segment, metric: Metric) -> list[_Share]:
        held = self._held.setdefault(segment.uid, [])
        for device, part in self._missing(segment, held):
            share = held[-1] if held and held[-1].device is device else None
            if share is None:
                keys = segment["keys"]
                rows = engine.kept_rows(device, str(keys.dtype), keys.shape[1], metric)
                share = _Share(device, part.start, rows)
            self._extend(share, segment, part.stop)
            if share not in held:
                held.append(share)
        for share in held:
            _remove(share, segment)
        return held

    def _missing(self, segment: Segment, held: list[_Share]) -> Iterator[tuple[Device, range]]:
        """Yield the rows that are on no device, and to which one each range of them goes."""
        there = held[-1].end if held else 0
        if there >= segment.n:
            return
        if held:
            new = range(there, segment.n)
            yield self._device_for(segment["keys"][new.start :].nbytes, segment, held), new
            return
        parts = shares(segment.n, [self._room(device) for device in self.devices])
        yield from ((d, part) for d, part in zip(self.devices, parts, strict=True) if part)

    def _device_for(self, nbytes: int, segment: Segment, held: list[_Share]) -> Device:
        """Return where rows of so many bytes go: to those before them if that device has room, and
        not twice its share of the segment; else where most room is."""
        last = held[-1].device
        mine = sum(len(share.rows) for share in held if share.device is last)
        crowded = mine * len(self.devices) > 2 * segment.n
        if len(self.devices) == 1 or (not crowded and self._room(last) > 2 * nbytes):
            return last
        return max(self.devices, key=self._room)

    def _room(self, device: Device) -> int:
        if self.resident_bytes is None:
            return engine.free_bytes(device)
        return max(0, self.resident_bytes - self._held_on(device))

    def _held_on(self, device: Device) -> int:
        held = [share for each in list(self._held.values()) for share in list(each)]
        return sum(int(share.rows.nbytes) for share in held if share.device is device)

    def _extend(self, share: _Share, segment: Segment, end: int) -> None:
        """Bring the rows of a segment before ``end`` that a share continues with."""
        most = None
        if self.resident_bytes is not None:
            most = self._room(share.device) + int(share.rows.nbytes)
        ids = None
        if segment.has_ids:
            ids = np.ascontiguousarray(segment["ids"][share.first : end])
        keys = np.ascontiguousarray(segment["keys"][share.first : end])
        share.rows.extend(keys, ids, segment.first_id + share.first, most)

    # ---------------------------------------------------------------- neighbours

    def neighbours(
        self, snapshot: Snapshot, queries: Keys, k: int, excluded: I64 | None
    ) -> tuple[F64, I64, I64]:
        """Return values of the metric, ids and positions of the neighbours, (q, k) each."""
        shape = (len(queries), k)
        distances = np.empty(shape)
        ids, positions = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.int64)
        engine.search(
            self.call(), queries, self.bring(snapshot), k, snapshot.metric, excluded, distances,
            ids, positions, snapshot.version,
        )  # fmt: skip
        return distances, ids, positions

    def kneighbors(
        self, snapshot: Snapshot, embeddings: Any, k: int, exclude_ids: Any, stream: int, out: Any
    ) -> tuple[Any, Any]:
        """Return distances and ids of the neighbours of queries of which arrays lie on a device.

        See ``Memory.kneighbors``; ``stream`` is the address of the call's stream.
        """
        device = self.lead({"embeddings": embeddings, "exclude_ids": exclude_ids})
        call = self.call(device, stream)
        keys = self._keys_there(snapshot, embeddings, call)
        q = keys.shape[0]
        excluded = engine.excluded_ids_there(exclude_ids, q, call)
        results = results_for(embeddings, (q, k), out, device, stream, call.maker())
        engine.search(
            call, keys, self.bring(snapshot), k, snapshot.metric, excluded, results[0].target,
            results[1].target, version=snapshot.version,
        )  # fmt: skip
        return results[0].given, results[1].given

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


def _remove(share: _Share, segment: Segment) -> None:
    """Bring the removals of a share's rows that are not known yet."""
    if segment.removals is None or segment.dead <= share.dead:
        return
    gone = segment.removals.first(segment.dead)[share.dead :]
    gone = np.ascontiguousarray(gone[(gone >= share.first) & (gone < share.end)])
    share.rows.remove(gone - share.first, segment.removals.stamps[gone])
    share.dead = segment.dead
