"""The rows of a memory on devices, brought there segment by segment."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from resmem._base import convert
from resmem._base.arrays import F64, I64, Keys
from resmem._base.metric import Metric, is_euclidean
from resmem._devices import engine
from resmem._devices.arrays import DeviceArray, is_on_device
from resmem._devices.device import Device
from resmem._devices.engine import Placement
from resmem._devices.libraries import library_of
from resmem._devices.results import results_for
from resmem._devices.several import lead_of, names_of, shares
from resmem._rows.resident_residuals import ResidentResiduals
from resmem._rows.segment import Segment
from resmem._rows.snapshot import Snapshot
from resmem._rows.visibility import Visibility, check_groups, check_times

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
    bring what was added or removed since. So are times and groups, which few searches need.
    Segments that the memory no longer has are dropped. Rows that a device has no room for stay in
    host memory, and every search brings them in slabs. Residuals are brought whole to the device
    that corrects.
    """

    def __init__(self, devices: Sequence[Device], resident_bytes: int | None = None) -> None:
        self.devices = tuple(devices)
        self.resident_bytes = resident_bytes  # of each device; None: what is free
        self._held: dict[int, list[_Share]] = {}  # by the segments' uids
        self._lanes = engine.kept_lanes(self.devices[0])
        self._lock = threading.Lock()
        self._residuals = {each: ResidentResiduals(each) for each in self.devices}

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
        """Bytes of keys, codes, residuals and all else on each device, by its name."""
        return {
            str(device): self._held_on(device) + residuals.nbytes
            for device, residuals in self._residuals.items()
        }

    @property
    def pinned_nbytes(self) -> int:
        """Bytes of host memory that are kept for slabs."""
        return int(self._lanes.nbytes)

    def lead(self, arrays: Mapping[str, Any]) -> Device:
        """Return the device that the results of a call are for."""
        return lead_of(self.devices, arrays)

    def residuals_on(self, device: Device) -> ResidentResiduals:
        """Return the residuals of all rows on one of the devices."""
        return self._residuals[device]

    def call(self, device: Device | None = None, stream: int = 0) -> engine.Call:
        """Return how a search is carried out whose results are for this device."""
        slabs = 0 if self.resident_bytes is None else max(1, self.resident_bytes // _SLAB_SHARE)
        return engine.Call(device or self.device, stream, slab_bytes=slabs, lanes=self._lanes)

    # ---------------------------------------------------------------- rows come and go

    def bring(self, snapshot: Snapshot, attributes: Iterable[str] = ()) -> list[Placement]:
        """Bring the rows of a snapshot, and some of their ``attributes``: "times" or "groups".

        Return where they are.
        """
        with self._lock:
            present = {segment.uid for segment in snapshot.segments}
            self._held = {uid: held for uid, held in self._held.items() if uid in present}
            placed, start = [], 0
            for segment in snapshot.segments:
                for share in self._brought(segment, snapshot.metric):
                    n = min(share.end, segment.n) - share.first
                    if n > 0:
                        _bring_attributes(share, segment, attributes)
                        placed.append(Placement(share.rows, n, start + share.first))
                start += segment.n
        for residuals in self._residuals.values():
            residuals.keep(snapshot)
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
        self, snapshot: Snapshot, queries: Keys, k: int, metric: Metric, visible: Mapping[str, Any]
    ) -> tuple[F64, I64, I64]:
        """Return values of a metric, ids and positions of the neighbours, (q, k) each.

        ``serves`` holds for the metric; ``visible`` is as for ``engine.search``.
        """
        shape = (len(queries), k)
        distances = np.empty(shape)
        ids, positions = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.int64)
        engine.search(
            self.call(), queries, self._placed(snapshot, visible), k, metric, visible, distances,
            ids, positions, snapshot.version,
        )  # fmt: skip
        return distances, ids, positions

    def kneighbors(
        self, snapshot: Snapshot, embeddings: Any, k: int, visible: Visibility, stream: int,
        out: Any, metric: Metric,
    ) -> tuple[Any, Any]:  # fmt: skip
        """Return distances and ids of the neighbours of queries of which arrays lie on a device.

        See ``Memory.kneighbors``; ``stream`` is the address of the call's stream.
        """
        device = self.lead({"embeddings": embeddings, **visible.of_each_query})
        call = self.call(device, stream)
        keys = self._keys_there(snapshot, embeddings, call)
        q = keys.shape[0]
        seen = visible_there(visible, snapshot, q, call)
        results = results_for(embeddings, (q, k), out, device, stream, call.maker())
        engine.search(
            call, keys, self._placed(snapshot, seen), k, metric, seen, results[0].target,
            results[1].target, version=snapshot.version,
        )  # fmt: skip
        return results[0].given, results[1].given

    def described_search(
        self, snapshot: Snapshot, embeddings: Any, k: int, visible: Visibility, call: engine.Call
    ) -> tuple[int, Any]:
        """Return the number of queries, and what ``engine.correct`` searches for them."""
        keys = self._keys_there(snapshot, embeddings, call)
        seen = visible_there(visible, snapshot, keys.shape[0], call)
        placed = self._placed(snapshot, seen)
        search = engine.described(call, keys, placed, k, snapshot.metric, seen, snapshot.version)
        return keys.shape[0], search

    def _placed(self, snapshot: Snapshot, visible: Mapping[str, Any]) -> list[Placement]:
        """Return where the rows are, brought with the attributes that a search asks for."""
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
            if snapshot.time_kind == "datetimes":
                on_host += " as an array of numpy.datetime64"
            raise TypeError(
                f"before on a device must hold integers, but the times of the rows are "
                f"{snapshot.time_kind}; pass {on_host}"
            )
        seen["before"] = engine.numbers_there(there["before"], "before", q, call)
    return seen


def _remove(share: _Share, segment: Segment) -> None:
    """Bring the removals of a share's rows that are not known yet."""
    if segment.removals is None or segment.dead <= share.dead:
        return
    gone = segment.removals.first(segment.dead)[share.dead :]
    gone = np.ascontiguousarray(gone[(gone >= share.first) & (gone < share.end)])
    share.rows.remove(gone - share.first, segment.removals.stamps[gone])
    share.dead = segment.dead


def _bring_attributes(share: _Share, segment: Segment, names: Iterable[str]) -> None:
    """Bring those of the times or groups of a share's rows that are not there yet."""
    for name in names:
        if name in segment.arrays:
            share.rows.bring(name, np.ascontiguousarray(segment[name][share.first : share.end]))
