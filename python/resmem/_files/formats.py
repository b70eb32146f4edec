"""Arrays in .npy, .npz and .safetensors files, mapped instead of read; .npy and .npz writers.

No header is trusted: before anything is mapped, sizes are checked, as Python integers, against the
bytes that the file has.
"""

from __future__ import annotations

import io
import json
import math
import os
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from resmem._base.arrays import release_pages
from resmem._base.platform import memory_available
from resmem._base.units import bytes_text

_ALIGN = 64  # bytes; data of written arrays starts at a multiple, as in a .npy of NumPy
_LOCAL_HEADER = 30  # bytes of a zip member before its name
_PIECE = 1 << 20  # bytes that are read at a time
_HEADER_LIMIT = 100_000_000  # bytes of a .safetensors header, the limit of its own library
_NPY_HEADER_LIMIT = 10_000  # bytes of a .npy header, the limit of NumPy
_SAFETENSORS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2",
    "I8": "|i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
    "BF16": "<u2",
}  # fmt: skip


class Rows(Protocol):
    """The interface of an array in a file: its layout, and slices of its rows as NumPy arrays."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice, /) -> npt.NDArray[Any]: ...


Members: TypeAlias = dict[str, Callable[[], Rows]]  # the arrays of a file, opened when called


class Converted:
    """Rows that cannot be used where they lie, and are converted when they are sliced.

    An array in a .npz that NumPy wrote may start at any byte, so that it is not aligned. NumPy has
    no bfloat16, whose 16 bits are the upper half of a float32.
    """

    def __init__(self, stored: npt.NDArray[Any], bfloat16: bool) -> None:
        self._stored, self._bfloat16 = stored, bfloat16
        self.bits = stored if bfloat16 and stored.flags.aligned else None  # these may be mapped
        self.shape: tuple[int, ...] = stored.shape
        self.dtype: np.dtype[Any] = np.dtype(np.float32) if bfloat16 else stored.dtype
        self.ndim = stored.ndim

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, rows: slice, /) -> npt.NDArray[Any]:
        part = np.array(self._stored[rows], order="C")
        release_pages(self._stored, rows)
        return (part.astype(np.uint32) << 16).view(np.float32) if self._bfloat16 else part

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self[:] if dtype is None else self[:].astype(dtype, copy=False)


def members(path: str) -> Members:
    """Return the arrays of a file by name; the array of a .npy has the name ""."""
    suffix = os.path.splitext(path)[1].lower()
    readers = {".npy": _npy, ".npz": _npz, ".safetensors": _safetensors}
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{path!r} must be a regular file, which can be mapped")
    if suffix not in readers:
        raise ValueError(f"{path!r} must be a .npy, .npz or .safetensors file")
    with _reading(path):
        return readers[suffix](path)


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Turn whatever a parser raises into a ValueError that names the file."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{path!r} cannot be read: {error or type(error).__name__}") from error


def _mapped(
    path: str, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int,
    fortran: bool = False, bfloat16: bool = False,
) -> Rows:  # fmt: skip
    """Return the array at ``offset``, mapped if its alignment and dtype allow it."""
    with _reading(path):
        _check_layout(dtype, shape)
        size = math.prod(shape) * dtype.itemsize
        available = os.path.getsize(path) - offset
        if size > available:
            raise ValueError(
                f"it ends early: {size} bytes of {shape} should follow, got {available}"
            )
        array: npt.NDArray[Any]
        if size:
            array = np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")
        else:  # zero bytes cannot be mapped
            array = np.empty(shape, dtype)
        usable = array.flags.aligned and not bfloat16
        return array if usable else Converted(array, bfloat16)


def _check_layout(dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if dtype.hasobject or dtype.kind == "V":
        raise ValueError(f"plain numbers are expected, got dtype {dtype}")
    if not shape or min(shape) < 0:
        raise ValueError(f"an array of rows is expected, got shape {shape}")


# ---- .npy ------------------------------------------------------------------------------------


def _npy(path: str) -> Members:
    with open(path, "rb") as file:
        dtype, shape, fortran = _npy_header(file)
        offset = file.tell()
    return {"": partial(_mapped, path, dtype, shape, offset, fortran)}


def _npy_header(file: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    """Read dtype, shape and whether the order is Fortran's; leave the file at the data."""
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): (2, np.lib.format.read_array_header_1_0),
        (2, 0): (4, np.lib.format.read_array_header_2_0),
    }
    if version not in readers:
        raise ValueError(f"version 1.0 or 2.0 of .npy is expected, got {version[0]}.{version[1]}")
    width, reader = readers[version]
    length = file.read(width)
    size = int.from_bytes(length, "little")
    if size > _NPY_HEADER_LIMIT:  # NumPy would read all of it before it refuses it
        raise ValueError(f"a header of {size} bytes is more than {_NPY_HEADER_LIMIT}")
    shape, fortran, dtype = reader(io.BytesIO(length + file.read(size)))
    return dtype, shape, fortran


# ---- .npz ------------------------------------------------------------------------------------


def _npz(path: str) -> Members:
    with zipfile.ZipFile(path) as archive:
        found = [info for info in archive.infolist() if info.filename.endswith(".npy")]
    return {info.filename[: -len(".npy")]: partial(_npz_member, path, info) for info in found}


def _npz_member(path: str, info: zipfile.ZipInfo) -> Rows:
    with _reading(path):
        if info.flag_bits & 1:
            raise ValueError(f"{info.filename!r} is encrypted")
        if info.compress_type != zipfile.ZIP_STORED:
            return _unpacked(path, info)
        with open(path, "rb") as file:
            start = _data_offset(file, info)
            file.seek(start)
            dtype, shape, fortran = _npy_header(file)
            offset = file.tell()
        _check_member(info, dtype, shape, offset - start)
    return _mapped(path, dtype, shape, offset, fortran)


def _data_offset(file: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Return where the bytes of a member start: behind its local header, of variable length."""
    file.seek(max(info.header_offset, 0))
    header = file.read(_LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        raise ValueError(f"{info.filename!r} is not where the directory says")
    name, extra = struct.unpack("<HH", header[26:])
    return int(info.header_offset + len(header) + name + extra)


def _check_member(
    info: zipfile.ZipInfo, dtype: np.dtype[Any], shape: tuple[int, ...], header: int
) -> None:
    _check_layout(dtype, shape)
    size = header + math.prod(shape) * dtype.itemsize
    if size != info.file_size:
        raise ValueError(f"{info.filename!r} should have {size} bytes, got {info.file_size}")


def _unpacked(path: str, info: zipfile.ZipInfo) -> Rows:
    """Read a whole compressed array; its checksum is compared when the last byte is read."""
    with zipfile.ZipFile(path) as archive, archive.open(info) as file:
        dtype, shape, fortran = _npy_header(file)
        _check_member(info, dtype, shape, file.tell())
        size = math.prod(shape) * dtype.itemsize
        _check_room(info.filename, size)
        # Memory is allocated as pages are filled, so a false header costs no more than the data.
        data: npt.NDArray[Any] = np.empty(size, dtype=np.uint8)
        done, step = 0, _piece_of(info)
        while done < size and (piece := file.read(min(step, size - done))):
            data[done : done + len(piece)] = np.frombuffer(piece, dtype=np.uint8)
            done += len(piece)
        if done < size:
            raise ValueError(f"{info.filename!r} ends early: {size} bytes expected, got {done}")
        if file.read(1):
            raise ValueError(f"{info.filename!r} holds more than its header says")
    rows = data.view(dtype)
    return rows.reshape(shape[::-1]).T if fortran else rows.reshape(shape)


def _piece_of(info: zipfile.ZipInfo) -> int:
    """Return how many bytes of a member to read at a time.

    Compressions other than deflate unpack all of the bytes read at once, perhaps to a thousand
    times as many and more, so that fewer are read.
    """
    bounded = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    return _PIECE if bounded else 1 << 12


def _check_room(name: str, size: int) -> None:
    """Refuse a compressed array that would take more than half of the available memory.

    A small file may hold a huge one.
    """
    room = memory_available() // 2
    if size > room:
        raise ValueError(
            f"{name!r} is compressed and takes {bytes_text(size)} in memory, more than half of "
            f"what is available ({bytes_text(room)}); write it uncompressed, with numpy.savez or "
            "as a .npy, which is mapped instead of read"
        )


def verify_checksums(path: str) -> Iterator[int]:
    """Read all of a .npz, and yield the bytes of each read; ValueError if a checksum differs."""
    with _reading(path), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            with archive.open(info) as member:
                while piece := member.read(_piece_of(info)):
                    yield len(piece)


def bytes_under_checksums(path: str) -> int:
    """Return the number of bytes that ``verify_checksums`` reads."""
    with _reading(path), zipfile.ZipFile(path) as archive:
        return sum(info.file_size for info in archive.infolist())


# ---- .safetensors ----------------------------------------------------------------------------


def _safetensors(path: str) -> Members:
    """Parse eight bytes of length and a JSON header; arrays follow one another to the end."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
            raise ValueError(f"a header of {length} bytes does not fit the file of {size}")
        header = _safetensors_header(file.read(length))
    start = 8 + length
    found: Members = {}
    end = 0
    for first, last, name, code, shape in header:
        if first != end:
            raise ValueError(f"{name!r} should start at byte {end} of the data, got {first}")
        end = last
        found[name] = partial(_safetensors_member, path, name, code, shape, start + first)
    if start + end != size:
        raise ValueError(f"{start + end} bytes are expected, got {size}")
    return found


def _safetensors_header(text: bytes) -> list[tuple[int, int, str, str, tuple[int, ...]]]:
    """Return (first byte, last byte + 1, name, dtype, shape) of every array, in file order."""
    header = json.loads(text.decode(), object_pairs_hook=_unique)
    if not isinstance(header, dict):
        raise ValueError("its header must be a JSON object")
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise ValueError("its __metadata__ must hold strings")
    return sorted(_safetensors_entry(name, entry) for name, entry in header.items())


def _safetensors_entry(name: str, entry: Any) -> tuple[int, int, str, str, tuple[int, ...]]:
    try:
        code, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        numbers = (*shape, first, last)
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{name!r} lacks its dtype, shape or data_offsets") from error
    if not isinstance(code, str) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError(f"{name!r} has a dtype, shape or data_offsets of the wrong kind")
    if first > last:
        raise ValueError(f"{name!r} ends before it starts")
    if code in _SAFETENSORS:
        size = math.prod(shape) * np.dtype(_SAFETENSORS[code]).itemsize
        if last - first != size:
            raise ValueError(f"{name!r} should have {size} bytes, got {last - first}")
    return first, last, name, code, shape


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header names something twice")
    return found


def _safetensors_member(
    path: str, name: str, code: str, shape: tuple[int, ...], offset: int
) -> Rows:
    if code not in _SAFETENSORS:
        known = ", ".join(_SAFETENSORS)
        raise ValueError(f"{path!r}: {name!r} has dtype {code}, expected one of {known}")
    return _mapped(
        path, np.dtype(_SAFETENSORS[code]), shape, offset, bfloat16=code == "BF16"
    )  # fmt: skip


# ---- Writing ---------------------------------------------------------------------------------


def write_header(file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """Write the header of a .npy; the rows follow it."""
    descr = np.lib.format.dtype_to_descr(dtype)
    about = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)


def write_rows(file: IO[bytes], rows: npt.NDArray[Any]) -> None:
    """Write some rows as they lie in a .npy."""
    file.write(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)


def npz_member(archive: zipfile.ZipFile, file: IO[bytes], name: str) -> IO[bytes]:
    """Open a .npy for writing at the end of an archive, which is ``file``.

    An extra field of the zip header aligns its data, so that it can be mapped. It is Android's,
    with the alignment and zeros, and other readers skip it.
    """
    info = zipfile.ZipInfo(f"{name}.npy")
    alignment, zip64 = struct.calcsize("<HHH"), struct.calcsize("<HHQQ")  # bytes of extra fields
    start = file.tell() + _LOCAL_HEADER + len(info.filename.encode()) + alignment + zip64
    padding = -start % _ALIGN
    info.extra = struct.pack("<HHH", 0xD935, 2 + padding, _ALIGN) + bytes(padding)
    return archive.open(info, "w", force_zip64=True)
