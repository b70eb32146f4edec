"""Results written block by block, so that they need not fit in memory."""

from __future__ import annotations

import csv
import io
import math
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import chain
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from resmem._files.atomic import replacing
from resmem._files.formats import npz_member, write_header, write_rows

_LINES_AT_ONCE = 1 << 16  # lines of text that are made of arrays at a time

Block: TypeAlias = dict[str, npt.NDArray[Any]]  # arrays by name, one row per query


def check_suffix(path: str, arrays: int) -> None:
    """Raise ValueError unless a file of this name can hold so many arrays."""
    suffix = os.path.splitext(path)[1].lower()
    if path != "-" and suffix not in (".npy", ".npz"):
        raise ValueError(f"the output must be a .npy or .npz file, or '-' for text, got {path!r}")
    if suffix == ".npy" and arrays > 1:
        raise ValueError(f"{arrays} arrays need a .npz file, got {path!r}")


def save(path: str, n: int, empty: Block, blocks: Iterable[Block]) -> None:
    """Write ``n`` rows of arrays with the dtypes and columns of ``empty`` to a .npy or .npz file,
    which appears under its name only when it is whole."""
    with replacing(path) as raw:
        # The buffer is needed because one call of `raw.write` may write only a part.
        file = io.BufferedWriter(raw, 1 << 20)
        if os.path.splitext(path)[1].lower() == ".npy":
            (name,) = empty
            _write_header(file, n, empty[name])
            for block in blocks:
                write_rows(file, block[name])
        else:
            _save_npz(file, os.path.dirname(path) or ".", n, empty, blocks)
        file.flush()


def check_csv(path: str) -> None:
    """Raise ValueError unless a file of this name holds a table."""
    if os.path.splitext(path)[1].lower() != ".csv":
        raise ValueError(f"the output must be a .csv file, got {path!r}")


def save_csv(path: str, table: Block) -> None:
    """Write arrays with a row each as the columns of a .csv file with a header, which appears under
    its name only when it is whole. Several columns of one array are numbered."""
    columns: Block = {}
    for name, array in table.items():
        if array.ndim == 1:
            columns[name] = array
        else:
            columns |= {f"{name}_{i}": array[:, i] for i in range(array.shape[1])}
    with replacing(path) as raw:
        file = io.BufferedWriter(raw, 1 << 20)
        file.write(_csv_text([columns]))
        for start in range(0, len(next(iter(columns.values()))), _LINES_AT_ONCE):
            some = slice(start, start + _LINES_AT_ONCE)
            parts = [column[some].tolist() for column in columns.values()]
            file.write(_csv_text(zip(*parts, strict=True)))
        file.flush()


def _csv_text(lines: Iterable[Iterable[Any]]) -> bytes:
    written = io.StringIO()
    csv.writer(written).writerows(lines)
    return written.getvalue().encode("utf-8")


def _save_npz(file: IO[bytes], folder: str, n: int, empty: Block, blocks: Iterable[Block]) -> None:
    """Write an archive, which holds one array after the other: all arrays but the first wait in
    temporary files meanwhile."""
    first, *later = empty
    with ExitStack() as stack:
        waiting = {name: stack.enter_context(tempfile.TemporaryFile(dir=folder)) for name in later}
        archive = stack.enter_context(zipfile.ZipFile(file, "w"))
        with npz_member(archive, file, first) as member:
            _write_header(member, n, empty[first])
            for block in blocks:
                write_rows(member, block[first])
                for name in later:
                    write_rows(waiting[name], block[name])
        for name in later:
            waiting[name].seek(0)
            with npz_member(archive, file, name) as member:
                _write_header(member, n, empty[name])
                shutil.copyfileobj(waiting[name], member)


def _write_header(file: IO[bytes], n: int, empty: npt.NDArray[Any]) -> None:
    write_header(file, empty.dtype, (n, *empty.shape[1:]))


def print_rows(blocks: Iterable[Block]) -> None:
    """Print one line per query: its values of each array in turn, separated by commas."""
    if sys.stdout is None:
        raise ValueError("standard output is closed")
    line = csv.writer(sys.stdout, lineterminator="\n")
    for block in blocks:
        parts = [_printable(part).tolist() for part in block.values()]
        for row in zip(*parts, strict=True):
            line.writerow(chain.from_iterable(row))


def _printable(part: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return rows (n, m) of numbers and text as they are, and of datetimes as text."""
    rows = part.reshape(len(part), math.prod(part.shape[1:]))
    return np.datetime_as_string(rows) if rows.dtype.kind == "M" else rows
