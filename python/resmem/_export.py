"""Memories as plain arrays, in .npz and .safetensors files, for other programs and back."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from resmem import _core, _formats
from resmem._atomic import replacing
from resmem._errors import FileFormatError
from resmem._ingest import blocks
from resmem._persist import EXPORTS, Saved, SchemaOf
from resmem._rows import Array, Segment, Snapshot
from resmem._stores import widen_keys

Progress: TypeAlias = "Callable[[int], None] | None"

_NAMES = {"keys": "embeddings"}  # of arrays that are called otherwise in an export
_TYPES = {
    np.dtype(np.float64): "F64", np.dtype(np.float32): "F32", np.dtype(np.float16): "F16",
    np.dtype(np.int64): "I64", np.dtype(np.int32): "I32", np.dtype(np.uint8): "U8",
    np.dtype(np.uint16): "BF16",
}  # fmt: skip


@dataclass(frozen=True)
class _Column:
    """One array of an export, written block by block."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    parts: Callable[[], Iterator[Array]]

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape))


def save(
    path: str | os.PathLike[str],
    settings: Mapping[str, Any],
    head: Mapping[str, Array],
    rows: Snapshot,
    progress: Progress,
) -> None:
    """Write the living rows."""
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix not in EXPORTS:
        raise ValueError(f"path must end in .npz or .safetensors, got {os.fspath(path)!r}")
    about = {**settings, "d": rows.d, "columns": rows.columns, "next_id": rows.next_id}
    about["error"] = rows.error
    text = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    columns = [_whole("resmem", text)]
    columns += [_whole(f"head_{name}", array) for name, array in head.items()]
    if rows.segments:
        names = ["ids", *(name for name in rows.segments[0].arrays if name != "ids")]
        wide = suffix == ".npz"  # NumPy has no bfloat16
        columns += [_column(rows, name, wide) for name in names]
    write = _write_npz if suffix == ".npz" else _write_safetensors
    with replacing(path) as raw:
        file = io.BufferedWriter(raw)  # `raw` may write less than it is given
        write(file, columns, progress or (lambda _: None))
        file.flush()


def _whole(name: str, array: Array) -> _Column:
    return _Column(name, array.dtype, array.shape, lambda: iter([array]))


def _column(rows: Snapshot, name: str, wide: bool) -> _Column:
    """The array of that name over the living rows of all segments."""
    dtype, shape = np.dtype(np.int64), (len(rows),)
    if name != "ids":
        first = rows.segments[0][name]
        dtype, shape = first.dtype, (len(rows), *first.shape[1:])
    widened = wide and dtype == np.uint16
    row_bytes = 2 * dtype.itemsize * int(np.prod(shape[1:]))

    def parts() -> Iterator[Array]:
        for segment in rows.segments:
            for some in _living(segment, rows.version, row_bytes):
                part = segment.ids_of(some) if name == "ids" else segment[name][some]
                yield widen_keys(part) if widened else part

    kept = np.dtype(np.float32) if widened else dtype
    return _Column(_NAMES.get(name, name), kept, shape, parts)


def _living(segment: Segment, version: int, row_bytes: int) -> Iterator[npt.NDArray[np.int64]]:
    rows = segment.living(version)
    for block in blocks(len(rows), row_bytes):
        yield rows[block]


def _write_npz(file: IO[bytes], columns: list[_Column], progress: Callable[[int], None]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for column in columns:
            with _formats.npz_member(archive, file, column.name) as member:
                _formats.write_header(member, column.dtype, column.shape)
                for part in column.parts():
                    _formats.write_rows(member, part)
                    progress(part.nbytes)


def _write_safetensors(
    file: IO[bytes], columns: list[_Column], progress: Callable[[int], None]
) -> None:
    """The widest types first, so that every array is aligned in the file."""
    columns = sorted(columns, key=lambda column: -column.dtype.itemsize)
    header, end = {}, 0
    for column in columns:
        header[column.name] = {
            "dtype": _TYPES[column.dtype],
            "shape": column.shape,
            "data_offsets": [end, end := end + column.nbytes],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for column in columns:
        for part in column.parts():
            _formats.write_rows(file, part)
            progress(part.nbytes)


def load(path: str | os.PathLike[str]) -> Saved:
    """Read an export; its arrays are mapped where they lie, if they can be."""
    name = os.path.abspath(os.fspath(path))

    def bad(what: str) -> FileFormatError:
        return FileFormatError(f"{name} is not a memory that resmem exported: {what}")

    try:
        members = _formats.members(name)
        found = {each: np.asarray(read()) for each, read in members.items()}
        about = json.loads(found.pop("resmem").tobytes())
    except KeyError as error:
        raise bad("it has no array 'resmem'; fit a memory to its arrays instead") from error
    except (ValueError, RecursionError) as error:
        raise bad(str(error)) from error
    if not isinstance(about, dict):
        raise bad("'resmem' is not a table of settings")
    head = {}
    if about.get("store") == "head":
        weight, bias = found.get("head_weight"), found.get("head_bias")
        if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise bad("head_weight (C, d) and head_bias (C,) are not there")
        if weight.dtype != np.float32 or bias.dtype != np.float32:
            raise bad("head_weight and head_bias must be float32")
        head = {"weight": weight, "bias": bias}
    return Saved(about, head, lambda schema_of: (_rows(about, found, schema_of, bad), None), bad)


def _rows(
    about: dict[str, Any],
    found: dict[str, Array],
    schema_of: SchemaOf,
    bad: Callable[[str], FileFormatError],
) -> Snapshot:
    for name in ("d", "columns", "next_id"):
        value = about.get(name)
        least = 0 if name == "next_id" else 1
        most = 2**63 if name == "next_id" else 2**31 - 1
        if type(value) is not int or not least <= value <= most:
            raise bad(f"{name} is {value!r}")
    d, columns, next_id = about["d"], about["columns"], about["next_id"]
    snapshot = Snapshot((), d, columns, next_id=next_id)
    ids = found.get("ids")
    if ids is None:
        return snapshot
    arrays = {}
    for name, (dtype, shape) in {**schema_of(d, columns), "ids": (np.int64, ())}.items():
        array = found.get(_NAMES.get(name, name))
        wanted = (len(ids), *shape)
        if array is not None and name == "keys" and dtype == np.uint16 and array.shape == wanted:
            array = _core.narrow(np.ascontiguousarray(array, dtype=np.float32), "bfloat16")
        if array is None or array.dtype != dtype or array.shape != wanted:
            got = "nothing" if array is None else f"{array.dtype} {array.shape}"
            raise bad(f"{_NAMES.get(name, name)} is {got}, expected {np.dtype(dtype)} {wanted}")
        arrays[name] = np.ascontiguousarray(array)
    largest = 0.0
    for block in blocks(len(ids), 8 * d):
        peak, row = _core.inspect_rows(widen_keys(arrays["keys"][block]))
        if row >= 0:
            raise bad(f"embeddings: row {block.start + row} holds NaN or infinity")
        largest = max(largest, peak)
    error = about.get("error")
    if not isinstance(error, (int, float)) or not error >= 0:
        raise bad(f"error is {error!r}")
    only = Segment(arrays, len(ids), keys_max=largest, error=float(error), borrowed=True)
    return Snapshot((only,), d, columns, next_id=max(next_id, int(ids.max(initial=-1)) + 1))
