"""Search and correction on a device: who calls the extension, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy.typing as npt

from resmem._base.arrays import I64, Keys
from resmem._base.checks import count, same_length
from resmem._base.convert import excluded_ids
from resmem._base.errors import DeviceError
from resmem._base.platform import after_fork_in_child
from resmem._devices.arrays import DeviceArray, is_on_device, read
from resmem._devices.device import CPU, Device
from resmem._devices.results import Maker
from resmem._devices.several import shares

Placed: TypeAlias = "DeviceArray | npt.NDArray[Any]"

_FEW_QUERIES = 16  # for fewer, coding the rows would take longer than comparing them
_ALWAYS_CODED, _NEVER_CODED = 1024, 2**62  # least rows that are coded


@dataclass(frozen=True)
class Call:
    """A device, and how one search on it is carried out."""

    device: Device  # which the results are for
    stream: int = 0  # the address of CUDA's stream; 0: the legacy default stream
    workspace_bytes: int = 0  # 0: an eighth of the free memory, at most 1 GiB
    others: tuple[Device, ...] = ()  # among which the rows of one search are divided as well
    slab_bytes: int = 0  # for rows that come in slabs; 0: up to 512 MiB
    lanes: Any = None  # kept for searches that bring slabs; None: made for this one

    def maker(self) -> Maker:
        """Return what makes results on the device."""
        device, stream = self.device, self.stream

        def allocate(size: int) -> tuple[int, Any]:
            memory = device.extension.Memory(size, device.ordinal, stream)
            return memory.address, memory

        def wait_for(taker: int, other: int) -> None:
            device.extension.wait_for(taker, other, device.ordinal)

        return Maker(allocate, wait_for)

    def read(self, value: Any, name: str, dtypes: Sequence[str]) -> DeviceArray:
        """Return what ``arrays.read`` does; the call's stream waits until the array is complete."""
        array = read(value, name, self.device, self.stream, dtypes)
        if array.stream is not None and array.stream != self.stream:
            self.device.extension.wait_for(self.stream, array.stream, self.device.ordinal)
        return array


ON_CPU = Call(CPU)


class Placement(NamedTuple):
    """Rows on a device, as a search sees them."""

    rows: Any
    n: int  # rows that count
    position: int  # of the first one, among all rows of the search


def checked_workspace(value: Any) -> int:
    """Return ``workspace_bytes`` of a public call; 0 for None."""
    return 0 if value is None else count(value, "workspace_bytes")


def excluded_ids_there(value: Any, q: int, call: Call) -> I64 | DeviceArray | None:
    """Return ids (q, m) that queries must not find, where they lie."""
    if value is None or not is_on_device(value):
        return excluded_ids(value, q)
    return lists_there(value, "exclude_ids", q, call)


def lists_there(value: Any, name: str, q: int, call: Call) -> DeviceArray:
    """Return numbers on a device of each query, (q, m), which may be given as (q,)."""
    array = call.read(value, name, ("int64",))
    if len(array.shape) not in (1, 2):
        raise ValueError(f"{name} must have shape (q,) or (q, m), got {array.shape}")
    same_length(name, array.shape[0], "queries", q)
    return replace(array, shape=(q, 1)) if len(array.shape) == 1 else array


def numbers_there(value: Any, name: str, q: int, call: Call) -> DeviceArray:
    """Return a number on a device of each query, (q,)."""
    array = call.read(value, name, ("int64",))
    if len(array.shape) != 1:
        raise ValueError(f"{name} must have shape (q,), got {array.shape}")
    same_length(name, array.shape[0], "queries", q)
    return array


def rows_for(call: Call, keys: Placed, metric: str, queries: int) -> list[Placement]:
    """Return rows (n, d), of float32, float16, bfloat16 or float64, for searches of one stream.

    Where there are at least so many ``queries`` that this pays, the rows are coded. Rows of the
    host are divided among the devices of the call.
    """
    least = _NEVER_CODED if queries <= _FEW_QUERIES else _ALWAYS_CODED
    kind = (str(keys.dtype), keys.shape[1], metric)
    if not call.others:
        rows = _extension(call.device).Rows(call.device.ordinal, *kind, call.stream, least)
        rows.extend(keys)
        return [Placement(rows, keys.shape[0], 0)]
    if isinstance(keys, DeviceArray):
        raise ValueError(
            f"rows lie on {call.device}, and only rows in host memory are divided among devices; "
            f"pass device='{call.device}', or rows in host memory"
        )
    devices = (call.device, *call.others)
    parts = shares(len(keys), [free_bytes(each) for each in devices])

    def brought(place: tuple[Device, range]) -> Placement:
        device, part = place
        rows = _extension(device).Rows(device.ordinal, *kind, None, least)
        rows.extend(keys[part.start : part.stop], None, part.start)
        return Placement(rows, len(part), part.start)

    with ThreadPoolExecutor(len(devices)) as threads:  # as each waits for copies of its own
        return list(threads.map(brought, zip(devices, parts, strict=True)))


def kept_rows(device: Device, dtype: str, d: int, metric: str) -> Any:
    """Return rows that stay on a device, of which there are none yet."""
    return _extension(device).Rows(
        device.ordinal, dtype, d, metric, None, least_coded=_ALWAYS_CODED
    )


def kept_lanes(device: Device) -> Any:
    """Return what searches share that bring rows in slabs: pinned memory, above all."""
    return _extension(device).Lanes()


def free_bytes(device: Device) -> int:
    """Return the bytes of a device's memory that are free."""
    return int(_extension(device).free_memory(device.ordinal))


def search(
    call: Call,
    queries: Keys | DeviceArray,
    segments: Sequence[Placement],
    k: int,
    metric: str,
    visible: Mapping[str, Any],
    values: Placed,
    ids: Placed,
    positions: I64 | None = None,
    version: int = 0,
) -> None:
    """Fill values and ids, and positions if given, (q, k) each, of the nearest rows.

    ``visible`` says which rows queries see, by the names of the core's arguments: numbers of each
    query may lie on the device. The rows may lie on several devices, whose results come to that of
    the call. If all arrays lie on it, and no rows come in slabs, the stream is only asked for it.
    """
    _extension(call.device).search(
        queries, segments, k, metric, version=version, values=values, ids=ids,
        positions=positions, device=call.device.ordinal, stream=call.stream,
        **_room(call), **visible,
    )  # fmt: skip


def described(
    call: Call,
    queries: Keys | DeviceArray,
    segments: Sequence[Placement],
    k: int,
    metric: str,
    visible: Mapping[str, Any],
    version: int = 0,
) -> Any:
    """Return what ``search`` searches, for ``correct``."""
    return _extension(call.device).Search(
        queries, segments, k, metric, version=version, device=call.device.ordinal,
        stream=call.stream, **_room(call), **visible,
    )  # fmt: skip


def _room(call: Call) -> dict[str, Any]:
    """Return what a search may take of a device, as the extension takes it."""
    return {
        "workspace_bytes": call.workspace_bytes,
        "slab_bytes": call.slab_bytes,
        "lanes": call.lanes,
    }


def residual_rows(device: Device, dtype: str, columns: int, stream: int | None = None) -> Any:
    """Return residuals (n, columns) on a device, of which there are none yet.

    They stay there, or, with a stream, serve the calls of that stream alone.
    """
    return _extension(device).DenseRows(device.ordinal, dtype, columns, stream=stream)


def sparse_rows(device: Device, dtype: str, columns: int, width: int) -> Any:
    """Return residuals of which ``width`` are kept a row, none yet, that stay on a device."""
    return _extension(device).SparseRows(device.ordinal, dtype, columns, width)


def label_rows(device: Device, columns: int) -> Any:
    """Return classes of rows, none yet, that stay on a device."""
    return _extension(device).LabelRows(device.ordinal, columns)


def row_weights(device: Device) -> Any:
    """Return weights of rows, none yet, that stay on a device."""
    return _extension(device).RowWeights(device.ordinal)


def gate(device: Device, steps: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> Any:
    """Return a gate on a device: features, edges and factors of its steps."""
    return _extension(device).Gate(device.ordinal, steps)


def numbers(device: Device, values: I64) -> Any:
    """Return numbers (m,) on a device."""
    return _extension(device).Numbers(device.ordinal, values)


def aggregation(device: Device, residuals: Sequence[Any], **summed: Any) -> Any:
    """Return what becomes of neighbours; the arguments are those of the extension."""
    return _extension(device).Aggregation(residuals, **summed)


def correct(call: Call, search: Any, summed: Any, out: Placed, rows: Sequence[int]) -> None:
    """Fill ``out`` with what the neighbours that a search finds make of its queries.

    ``rows``: how many rows of each segment count, in the order of the residuals.
    """
    _extension(call.device).correct(search, summed, out, rows=rows)


def aggregate(
    call: Call, summed: Any, distances: Placed, positions: Placed, out: Placed, metric: str,
    rows: Sequence[int] | None = None,
) -> None:  # fmt: skip
    """Fill ``out`` with what these neighbours make of their queries.

    ``rows``: how many rows of each segment count; None: all.
    """
    _extension(call.device).aggregate(
        summed, distances, positions, out, rows=rows, metric=metric, device=call.device.ordinal,
        stream=call.stream, workspace_bytes=call.workspace_bytes,
    )  # fmt: skip


class _Process:
    """Whether this process, or one that it was forked from, has used a device."""

    used, parent_used = False, False


def _after_fork() -> None:
    _Process.parent_used = _Process.parent_used or _Process.used


after_fork_in_child(_after_fork)


def _extension(device: Device) -> Any:
    """Return what drives a device, which this process uses from now on."""
    if _Process.parent_used:
        raise DeviceError(
            "a process that was forked after its parent had used a CUDA device cannot use one; "
            "start processes with multiprocessing.get_context('spawn')"
        )
    _Process.used = True
    return device.extension
