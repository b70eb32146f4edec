"""Memories as plain arrays in .npz and .safetensors files, to exchange with other programs."""

from __future__ import annotations

import io
import json
import math
import os
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np
import numpy.typing as npt

import resmem._core as _core
from resmem._base import convert
from resmem._base.arrays import Array, release_pages
from resmem._base.blocks import blocks, rows_per_block
from resmem._base.errors import FileFormatError
from resmem._files import formats
from resmem._files.atomic import replacing
from resmem._files.formats import Rows
from resmem._files.persist import EXPORTS, LoadedMemory, Progress, SchemaOf, fitted_preprocess
from resmem._keys.preprocess import FittedPreprocess
from resmem._keys.stored import widen_keys
from resmem._rows.attributes import ATTRIBUTES, are_weights
from resmem._rows.ids import NO_RUNS, in_runs
from resmem._rows.segment import Segment
from resmem._rows.snapshot import Snapshot
from resmem._rows.stores.named import shared_schema

# What tells the settings. Versions that know no other metric refuse a file without the first name,
# where they would take all distances for Euclidean.
_ABOUT, _ABOUT_OTHER_METRIC = "resmem", "resmem_metric"
_NAMES = {"keys": "embeddings"}  # names in an export, where they differ
# Names of all arrays that may have one entry per row.
_ROWS = (
    "ids", "embeddings", "targets", "outputs", "residuals", "index", "value", "rest", *ATTRIBUTES,
)  # fmt: skip
# The names that .safetensors gives to dtypes; uint16 holds the bits of bfloat16.
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
    """Write the living rows, settings and other arrays of a memory to an export."""
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    if suffix not in EXPORTS:
        raise ValueError(f"path must end in .npz or .safetensors, got {os.fspath(path)!r}")
    about = {**settings, "d": rows.d, "columns": rows.columns, "next_id": rows.next_id}
    about["error"] = rows.error
    text = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    about_name = _ABOUT if rows.metric == "euclidean" else _ABOUT_OTHER_METRIC
    columns = [_whole(about_name, text), _whole("retired", rows.all_retired())]
    columns += [_whole(f"head_{name}", array) for name, array in head.items()]
    made_by = rows.preprocess.arrays
    columns += [_whole(f"preprocess_{name}", array) for name, array in made_by.items()]
    if rows.segments:
        first = [n for n in rows.segments[0].arrays if n != "ids" and n not in ATTRIBUTES]
        names = ["ids", *first, *rows.attributes]
        wide = suffix == ".npz"  # NumPy has no bfloat16
        columns += [_column(rows, name, wide) for name in names]
    write = _write_npz if suffix == ".npz" else _write_safetensors
    with replacing(path) as raw:
        file = io.BufferedWriter(raw)  # `raw` may write fewer bytes than it is given
        write(file, columns, progress or (lambda _: None))
        file.flush()


def _whole(name: str, array: Array) -> _Column:
    """Return an array that is written in one part."""
    return _Column(name, array.dtype, array.shape, lambda: iter([array]))


def _column(rows: Snapshot, name: str, wide: bool) -> _Column:
    """Return the array of that name, of the living rows of all segments."""
    dtype: np.dtype[Any] = np.dtype(np.int64)
    shape: tuple[int, ...] = (len(rows),)
    if name in ATTRIBUTES:
        dtype = np.dtype(ATTRIBUTES[name][0])
    elif name != "ids":
        first = rows.segments[0][name]
        dtype, shape = first.dtype, (len(rows), *first.shape[1:])
    widened = wide and dtype == np.uint16
    row_bytes = 2 * dtype.itemsize * int(np.prod(shape[1:]))

    def parts() -> Iterator[Array]:
        for segment in rows.segments:
            for some in segment.living_parts(rows.version, rows_per_block(row_bytes)):
                part = segment.values(name, some)
                yield widen_keys(part) if widened else part

    written = np.dtype(np.float32) if widened else dtype
    return _Column(_NAMES.get(name, name), written, shape, parts)


def _write_npz(file: IO[bytes], columns: list[_Column], progress: Callable[[int], None]) -> None:
    """Write the arrays, uncompressed and aligned, so that they can be mapped."""
    with zipfile.ZipFile(file, "w") as archive:
        for column in columns:
            with formats.npz_member(archive, file, column.name) as member:
                formats.write_header(member, column.dtype, column.shape)
                for part in column.parts():
                    formats.write_rows(member, part)
                    progress(part.nbytes)


def _write_safetensors(
    file: IO[bytes], columns: list[_Column], progress: Callable[[int], None]
) -> None:
    """Write the arrays, the widest types first, so that every array is aligned in the file."""
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
            formats.write_rows(file, part)
            progress(part.nbytes)


# ---- Reading ---------------------------------------------------------------------------------


def has_checksums(path: str | os.PathLike[str]) -> bool:
    """Tell whether the format has checksums: a .npz has those of zip, .safetensors has none."""
    return os.fspath(path).lower().endswith(".npz")


def bytes_to_verify(path: str | os.PathLike[str]) -> int:
    """Return the bytes that ``progress`` adds up to when the export is loaded and verified."""
    name = os.path.abspath(os.fspath(path))
    members = formats.members(name)
    arrays = [members[each]() for each in _ROWS if each in members]
    total = sum(len(rows) * _row_bytes(rows) for rows in arrays)
    return total + (formats.bytes_under_checksums(name) if has_checksums(name) else 0)


def load(
    path: str | os.PathLike[str], verify: bool = True, progress: Progress = None
) -> LoadedMemory:
    """Read an export; its arrays are mapped where they lie, if they can be.

    Layout, keys and ids are always checked, as search relies on them; with ``verify``, so are the
    checksums of a .npz and all other values.
    """
    name = os.path.abspath(os.fspath(path))
    step = progress if progress and verify else lambda _: None
    try:
        members = formats.members(name)
        # This refuses compressed arrays that memory has no room for.
        arrays = {member: opened() for member, opened in members.items()}
        if verify and has_checksums(name):
            for read in formats.verify_checksums(name):
                step(read)
    except ValueError as error:
        raise FileFormatError(str(error)) from error
    reader = _Reader(name, arrays, verify, step)
    return LoadedMemory(
        reader.about,
        reader.head(),
        reader.preprocess(),
        lambda schema: (reader.rows(schema), None),
        reader.bad,
    )


class _Reader:
    """Settings and arrays of an export, each checked when it is read."""

    def __init__(
        self, path: str, arrays: Mapping[str, Rows], verify: bool, step: Callable[[int], None]
    ) -> None:
        self.path, self.arrays, self.verify, self.step = path, arrays, verify, step
        name = _ABOUT_OTHER_METRIC if _ABOUT_OTHER_METRIC in arrays else _ABOUT
        if name not in arrays:
            raise self.bad("it has no array 'resmem'; fit a memory to its arrays instead")
        try:
            about = json.loads(arrays[name][:].tobytes())
        except (ValueError, RecursionError) as error:
            raise self.bad(f"'resmem' is not JSON ({error})") from error
        if not isinstance(about, dict):
            raise self.bad("'resmem' is not a table of settings")
        self.about: dict[str, Any] = about

    def bad(self, what: str) -> FileFormatError:
        """Return the error that says what is wrong with the export."""
        return FileFormatError(f"{self.path} is not a memory that resmem exported: {what}")

    def integer(self, name: str, least: int, most: int) -> int:
        """Return an integer of the settings, from ``least`` to ``most``."""
        value = self.about.get(name)
        if type(value) is not int or not least <= value <= most:
            raise self.bad(f"{name} is {value!r}, expected a whole number from {least} to {most}")
        return value

    def array(self, name: str, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> Array:
        """Return an array of this dtype and shape; bfloat16 keys may be written as float32."""
        rows = self.arrays.get(name)
        bfloat16 = name == _NAMES["keys"] and dtype == np.uint16
        expected = np.dtype(np.float32 if bfloat16 else dtype)
        if rows is None or rows.dtype != expected or rows.shape != shape:
            got = "nothing" if rows is None else f"{rows.dtype} {rows.shape}"
            raise self.bad(f"{name} is {got}, expected {expected} {shape}")
        if bfloat16 and isinstance(rows, formats.Converted) and rows.bits is not None:
            return np.ascontiguousarray(rows.bits)
        array = np.ascontiguousarray(rows[:])
        return _core.narrow(array, "bfloat16") if bfloat16 else array

    def head(self) -> dict[str, Array]:
        """Return the layer of store="head"; nothing for other stores."""
        d, columns = self.integer("d", 1, 2**31 - 1), self.integer("columns", 1, 2**31 - 1)
        head = {
            name: self.array(f"head_{name}", dtype, shape)
            for name, (dtype, shape) in shared_schema(self.about.get("store"), columns, d).items()
        }
        if not all(np.isfinite(array).all() for array in head.values()):
            raise self.bad("head_weight or head_bias holds NaN or infinity")
        return head

    def preprocess(self) -> FittedPreprocess:
        """Return the preprocess with the arrays that its fit computed."""
        return fitted_preprocess(
            self.about,
            self.integer("d", 1, 2**31 - 1),
            lambda name, dtype, shape: self.array(f"preprocess_{name}", dtype, shape),
            self.bad,
            not any(each == "ids" or each.startswith("preprocess_") for each in self.arrays),
        )

    def rows(self, schema_of: SchemaOf) -> Snapshot:
        """Return the rows in one segment."""
        d, columns = self.integer("d", 1, 2**31 - 1), self.integer("columns", 1, 2**31 - 1)
        if not isinstance(self.about.get("output_kind"), str):
            raise self.bad("output_kind is missing")
        next_id, retired = self.integer("next_id", 0, 2**63), self.retired()
        next_id = max(next_id, int(retired.max(initial=-1)) + 1)
        empty = Snapshot((), d, columns, next_id=next_id, retired=retired)
        if "ids" not in self.arrays:
            return empty
        n = len(self.arrays["ids"])
        arrays = {"ids": self.ids(n, retired)}
        for name, (dtype, shape) in schema_of(d, columns).items():
            arrays[name] = self.array(_NAMES.get(name, name), dtype, (n, *shape))
        for name in self.arrays.keys() & ATTRIBUTES.keys():
            arrays[name] = self.array(name, ATTRIBUTES[name][0], (n,))
        largest = self.inspected(arrays["keys"])
        for name, array in arrays.items():
            if self.verify and name not in ("ids", "keys", "times", "groups"):
                self.check(name, array, columns)
        error = self.about.get("error")
        if not isinstance(error, (int, float)) or not 0 <= error <= sys.float_info.max:
            raise self.bad(f"error is {error!r}, expected a number of at least 0")
        only = Segment(arrays, n, keys_max=largest, error=float(error), borrowed=True)
        highest = int(arrays["ids"].max(initial=-1))
        return replace(empty, segments=(only,), next_id=max(next_id, highest + 1))

    def retired(self) -> Array:
        """Return the runs of retired ids; none if the file has no such array."""
        if "retired" not in self.arrays:
            return NO_RUNS
        runs = self.array("retired", np.int64, (len(self.arrays["retired"]), 2))
        first, last = runs[:, 0], runs[:, 1]
        if (first < 0).any() or (last < first).any() or (first[1:] <= last[:-1]).any():
            raise self.bad("retired does not list runs of ids, first and last, in ascending order")
        return runs

    def ids(self, n: int, retired: Array) -> Array:
        """Return the ids of the rows, which must be unique and not retired."""
        ids = self.array("ids", np.int64, (n,))
        try:
            convert.row_ids(ids, n)
        except ValueError as error:
            raise self.bad(str(error)) from error
        again = in_runs(ids, retired)
        if again.any():
            raise self.bad(f"ids holds {ids[again][0]}, which is retired")
        self.step(ids.nbytes)
        return ids

    def inspected(self, keys: Array) -> float:
        """Return the largest |value| of the keys, which must be finite."""
        largest = 0.0
        for block, part in self.blocks("embeddings", keys):
            peak, row = _core.inspect_rows(widen_keys(part))
            if row >= 0:
                raise self.bad(f"embeddings: row {block.start + row} holds NaN or infinity")
            largest = max(largest, peak)
        return largest

    def check(self, name: str, array: Array, columns: int) -> None:
        """Refuse values that ``fit`` could not have stored."""
        kinds = {"logits": convert.logits, "probabilities": convert.probabilities}
        check_outputs = kinds.get(self.about["output_kind"]) if name == "outputs" else None
        classes = array.dtype.kind == "i"
        for block, part in self.blocks(name, array):
            if check_outputs is not None:
                try:
                    check_outputs(part, name, block.start)
                except ValueError as error:
                    raise self.bad(str(error)) from error
                continue
            good = (part >= 0) & (part < columns) if classes else np.isfinite(part)
            if name == "weights":
                good = are_weights(part)
            rows = good.reshape(len(part), -1).all(axis=1)
            if not rows.all():
                what = f"no class from 0 to {columns - 1}" if classes else "NaN or infinity"
                what = "no weight of a row" if name == "weights" else what
                raise self.bad(f"{name}: row {block.start + int(np.argmin(rows))} holds {what}")

    def blocks(self, name: str, array: Array) -> Iterator[tuple[slice, Array]]:
        """Yield some rows at a time, and release their pages afterwards."""
        rows = self.arrays[name]
        for block in blocks(len(array), 8 * math.prod(array.shape[1:])):
            yield block, array[block]
            release_pages(rows, block)
            self.step((block.stop - block.start) * _row_bytes(rows))


def _row_bytes(rows: Rows) -> int:
    return rows.dtype.itemsize * math.prod(rows.shape[1:])
