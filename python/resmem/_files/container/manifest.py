"""The manifest: ``meta`` and the list of sections as JSON, written, and parsed with every check."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, TypeVar

from resmem._base.errors import FileFormatError
from resmem._files.container.layout import (
    ALIGN,
    DTYPES,
    HEADERS,
    MAX_DIMENSIONS,
    MAX_INT,
    MAX_MANIFEST,
    Entry,
    damaged,
)

_T = TypeVar("_T")


def check_meta(meta: dict[str, Any]) -> None:
    """Refuse a ``meta`` that could not be read again, before anything is written."""
    try:
        _parse_json(manifest_bytes(meta, ()))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"meta cannot be stored as JSON: {error}") from error


def manifest_bytes(meta: dict[str, Any], entries: Iterable[Entry]) -> bytes:
    """Return the manifest as ASCII JSON."""
    sections = [asdict(entry) for entry in entries]
    text = json.dumps({"meta": meta, "sections": sections}, allow_nan=False, separators=(",", ":"))
    if len(text) > MAX_MANIFEST:
        raise ValueError(
            f"meta and the list of sections take {len(text)} bytes as JSON, more than "
            f"{MAX_MANIFEST}; store what is large as a section"
        )
    return text.encode("ascii")


def parse_manifest(
    manifest: bytes, offset: int, name: str
) -> tuple[dict[str, Any], tuple[Entry, ...]]:
    """Return meta and sections. Unknown keys are ignored."""
    try:
        fields = _parse_json(manifest)
        if type(fields) is not dict:
            raise ValueError("it is not an object")
        meta = _field(fields, "meta", dict)
        entries = tuple(map(_parse_entry, _field(fields, "sections", list)))
        _check_layout(entries, offset)
    except (ValueError, RecursionError) as error:
        raise damaged(name, f"its manifest is not valid: {error}") from error
    for entry in entries:
        if entry.required and entry.dtype not in DTYPES:
            raise FileFormatError(
                f"{name!r} needs a later version of resmem: this one does not know the dtype "
                f"{entry.dtype!r} of section {entry.name!r}"
            )
    return meta, entries


def _parse_json(text: bytes) -> Any:
    """Parse strict JSON: UTF-8, no key twice, finite numbers only."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("an object has a key twice")
        return result

    def finite(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise ValueError(f"{text} is not a finite number")
        return value

    return json.loads(
        text.decode("utf-8"), object_pairs_hook=unique, parse_float=finite, parse_constant=finite
    )


def _parse_entry(fields: Any) -> Entry:
    """Return a section, with each field checked."""
    if type(fields) is not dict:
        raise ValueError("a section is not an object")
    name = _field(fields, "name", str)
    shape = tuple(_integer(n, "shape") for n in _field(fields, "shape", list))
    entry = Entry(
        name,
        _field(fields, "dtype", str),
        shape,
        _integer(fields.get("offset"), "offset"),
        _integer(fields.get("length"), "length"),
        _field(fields, "required", bool),
        _integer(fields.get("crc32"), "crc32", 2**32 - 1),
    )
    if not name or len(shape) > MAX_DIMENSIONS or entry.offset % ALIGN:
        raise ValueError(f"section {name!r}: no name, too many dimensions, or not aligned")
    if (dtype := DTYPES.get(entry.dtype)) is not None:
        # Empty arrays may have large dimensions, but none that NumPy cannot count.
        if math.prod(max(n, 1) for n in shape) > MAX_INT // dtype.itemsize:
            raise ValueError(f"section {name!r} has a shape beyond any memory")
        if math.prod(shape) * dtype.itemsize != entry.length:
            raise ValueError(f"section {name!r}: shape and length contradict each other")
    return entry


def _field(fields: dict[str, Any], key: str, kind: type[_T]) -> _T:
    value = fields.get(key)
    if type(value) is not kind:
        raise ValueError(f"{key!r} must be of type {kind.__name__}, is {type(value).__name__}")
    return value


def _integer(value: Any, key: str, largest: int = MAX_INT) -> int:
    if type(value) is not int or not 0 <= value <= largest:
        raise ValueError(f"{key!r} must be an integer from 0 to {largest}")
    return value


def _check_layout(entries: tuple[Entry, ...], manifest: int) -> None:
    """Refuse sections outside of headers and manifest, overlaps, and names that occur twice."""
    names: set[str] = set()
    free = HEADERS
    for entry in sorted(entries, key=lambda entry: (entry.offset, entry.end)):
        if not free <= entry.offset or not entry.end <= manifest:
            raise ValueError(f"section {entry.name!r} overlaps something, or ends too late")
        if entry.name in names:
            raise ValueError(f"section {entry.name!r} is there twice")
        names.add(entry.name)
        free = entry.end
