"""A folder of plain .npy files that grow batch by batch, and outlive the process that fills them.

    NAME.npy.part    rows of one array, behind a header of fixed length that is written at the end
    journal.jsonl    a line of settings, then a line for each batch that is whole
    collected.json   written last, when every NAME.npy.part has become NAME.npy

A batch is appended to every array, and then its line to the journal. So rows behind the last line
are those of a batch that was not finished, and are overwritten. A line whose rows are not all there
counts as not written, as may be after a loss of power.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import resmem

Array: TypeAlias = npt.NDArray[Any]
# The dtype of each array, and its shape without the number of rows.
Columns: TypeAlias = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]

_FORMAT = 1
_JOURNAL, _COLLECTED = "journal.jsonl", "collected.json"
_HEADER = 256  # bytes before the first row of a .npy file


def load(folder: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the mapped arrays of a finished folder, by name, and its ``base``."""
    try:
        facts = json.loads((folder / _COLLECTED).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if (folder / _JOURNAL).is_file():
            raise ValueError(
                f"the collection in {str(folder)!r} is not finished: run it again, with the same "
                "arguments, and it goes on where it was stopped"
            ) from error
        raise FileNotFoundError(f"there is no collection in {str(folder)!r}") from error
    if facts["format"] != _FORMAT:
        raise ValueError(f"{str(folder)!r} was written by a newer version of resmem")
    arrays = {name: _mapped(folder / f"{name}.npy") for name in facts["arrays"]}
    for name, array in arrays.items():
        if len(array) != facts["rows"]:
            raise resmem.FileFormatError(
                f"{folder / name}.npy must have {facts['rows']} rows, as {_COLLECTED} says, "
                f"got {len(array)}: collect again, in another folder"
            )
    return arrays, facts["base"]


class Folder:
    """The files of one job."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.columns: Columns | None = None
        self.batches = self.rows = 0
        self._journal = path / _JOURNAL
        self._journal_size = 0
        path.mkdir(parents=True, exist_ok=True)
        lines = self._lines()
        if not lines:
            self._begin(settings)
            return
        try:
            if len(lines) == 1 and lines[0][0]["format"] == _FORMAT:
                self._write_settings(settings)  # a job that failed at once may be put right
                return
            _check_same_job(path, lines[0][0], _as_json(settings))
            self._go_on(lines)
        except (AttributeError, KeyError, TypeError) as error:
            raise self._damaged("its first lines") from error

    @property
    def finished(self) -> bool:
        return (self.path / _COLLECTED).is_file()

    def append(self, arrays: dict[str, Array]) -> None:
        if self.finished:
            raise ValueError(f"the collection in {str(self.path)!r} is finished")
        if self._journal.stat().st_size != self._journal_size:
            raise RuntimeError(f"another process collects in {str(self.path)!r}, too")
        first = self.columns is None
        columns = self.columns or {name: (a.dtype, a.shape[1:]) for name, a in arrays.items()}
        for name, array in arrays.items():
            part = self._part(name)
            with open(part, "wb" if first else "r+b") as file:
                file.seek(_HEADER + self.rows * _row_size(columns[name]))
                file.write(array.tobytes())
        rows = self.rows + len(arrays["embeddings"])
        line: dict[str, Any] = {"rows": rows}
        if first:
            line["arrays"] = {name: [dtype.str, tail] for name, (dtype, tail) in columns.items()}
        self._write_line(line)
        self.columns, self.rows = columns, rows
        self.batches += 1

    def finish(self, base: dict[str, Any]) -> tuple[dict[str, Array], dict[str, Any]]:
        if not self.finished:
            assert self.columns is not None
            facts = {"format": _FORMAT, "rows": self.rows, "arrays": list(self.columns)}
            text = json.dumps({**facts, "base": base}, allow_nan=False)
            for name, column in self.columns.items():
                part = self._part(name)
                with open(part, "r+b") as file:
                    file.truncate(_HEADER + self.rows * _row_size(column))
                    file.write(_header(column, self.rows))
                part.replace(self.path / f"{name}.npy")
            unnamed = self.path / (_COLLECTED + ".part")
            unnamed.write_text(text, encoding="utf-8")
            unnamed.replace(self.path / _COLLECTED)
        return load(self.path)

    def _part(self, name: str) -> Path:
        return self.path / f"{name}.npy.part"

    def _begin(self, settings: dict[str, Any]) -> None:
        others = [entry.name for entry in self.path.iterdir() if entry.name != _JOURNAL]
        if others:
            raise ValueError(
                f"{str(self.path)!r} holds {sorted(others)[0]!r} and no collection: give a folder "
                "that is empty, or not there yet"
            )
        self._write_settings(settings)

    def _write_settings(self, settings: dict[str, Any]) -> None:
        self._write_line({"format": _FORMAT, "settings": settings})

    def _go_on(self, lines: list[tuple[dict[str, Any], int]]) -> None:
        """Take up the batches that are whole. ``lines``: the journal's, and where each one ends."""
        (_, self._journal_size), *appended = lines
        arrays = appended[0][0]["arrays"] if appended else {}
        columns = {name: (np.dtype(dtype), tuple(tail)) for name, (dtype, tail) in arrays.items()}
        there = min((self._rows_there(*column) for column in columns.items()), default=0)
        for line, end in appended:
            if line["rows"] > there:
                break
            self.columns, self.rows, self._journal_size = columns, line["rows"], end
            self.batches += 1
        if not self.finished:
            with open(self._journal, "r+b") as file:
                file.truncate(self._journal_size)

    def _rows_there(self, name: str, column: tuple[np.dtype[Any], tuple[int, ...]]) -> float:
        """Return the number of whole rows in the file of one array."""
        part, named = self._part(name), self.path / f"{name}.npy"
        if named.exists() and not self.finished:
            named.replace(part)  # the process was stopped while it finished
        file = named if self.finished else part
        size = file.stat().st_size - _HEADER if file.exists() else -1
        return size // _row_size(column) if _row_size(column) else float("inf")

    def _lines(self) -> list[tuple[dict[str, Any], int]]:
        """Return the whole lines of the journal, and where each one ends, in bytes."""
        if not self._journal.exists():
            return []
        lines, end = [], 0
        for line in self._journal.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break  # the process was stopped while it wrote this line
            end += len(line)
            try:
                lines.append((json.loads(line), end))
            except ValueError as error:
                raise self._damaged(f"line {len(lines) + 1}") from error
        return lines

    def _damaged(self, where: str) -> resmem.FileFormatError:
        return resmem.FileFormatError(
            f"{str(self._journal)!r} is damaged in {where}: collect in another folder"
        )

    def _write_line(self, line: dict[str, Any]) -> None:
        text = json.dumps(line, allow_nan=False).encode() + b"\n"
        with open(self._journal, "r+b" if self._journal.exists() else "wb") as file:
            file.truncate(self._journal_size)
            try:
                file.seek(self._journal_size)
                file.write(text)
                file.flush()
            except BaseException:
                file.truncate(self._journal_size)
                raise
        self._journal_size += len(text)


def _check_same_job(path: Path, begun: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise ValueError unless the first line of a journal names the job of these settings."""
    if begun.get("format") != _FORMAT:
        raise ValueError(f"{str(path)!r} was written by a newer version of resmem")
    there = begun["settings"]
    differ = [
        f"{name}: {there.get(name)!r} there, {settings.get(name)!r} now"
        for name in sorted({*there, *settings})
        if there.get(name) != settings.get(name)
    ]
    if differ:
        raise ValueError(
            f"{str(path)!r} holds a collection with other settings ({'; '.join(differ)}): give "
            "another folder, or remove this one"
        )


def _as_json(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings as they are read back: tuples have become lists."""
    made: dict[str, Any] = json.loads(json.dumps(settings, allow_nan=False))
    return made


def _row_size(column: tuple[np.dtype[Any], tuple[int, ...]]) -> int:
    dtype, tail = column
    return dtype.itemsize * int(np.prod(tail, dtype=np.int64))


def _header(column: tuple[np.dtype[Any], tuple[int, ...]], rows: int) -> bytes:
    """Return the header of a .npy file, padded to a length that does not depend on ``rows``."""
    dtype, tail = column
    facts = {"descr": dtype.str, "fortran_order": False, "shape": (rows, *tail)}
    start = np.lib.format.magic(1, 0)
    text = repr(facts).ljust(_HEADER - len(start) - 3) + "\n"
    return start + struct.pack("<H", len(text)) + text.encode("latin1")


def _mapped(path: Path) -> Array:
    mapped: Array = np.load(path, mmap_mode="r")
    return mapped
