"""Embeddings, outputs and targets of a model, gathered batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from resmem.adapters.folder import Array, Columns, Folder, load

_FIRST = ("embeddings", "outputs", "targets")  # the arrays that are no extra ones
_DIMENSIONS = {"embeddings": (2,), "outputs": (1, 2), "targets": (1, 2)}
_KINDS = "biufcMmUS"  # kinds of dtypes that a plain .npy file can hold


@dataclass(frozen=True, eq=False, repr=False)
class Collected:
    """What a memory is fitted to: ``resmem.Memory(base=collected.base).fit(*collected)``.

    Parameters
    ----------
    embeddings : array (n, d)
        float32, or float64 where batches were.
    outputs : array (n, C), or None
        Floats, as ``embeddings``.
    targets : array (n,) or (n, C), or None
    base : dict
        What made these arrays, as ``resmem.Memory(base=)`` takes it.
    extra : dict of arrays
        Further arrays of n rows, such as the document of each token.

    Arrays that came from a folder are mapped (``numpy.memmap``), read-only.
    """

    embeddings: Array
    outputs: Array | None = None
    targets: Array | None = None
    base: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Array] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Array | None]:
        """Yield embeddings, outputs and targets, the arguments of ``Memory.fit``."""
        yield from (self.embeddings, self.outputs, self.targets)

    def __repr__(self) -> str:
        arrays = {name: getattr(self, name) for name in _FIRST} | self.extra
        shapes = [f"{name} {a.shape} {a.dtype}" for name, a in arrays.items() if a is not None]
        return f"Collected({', '.join(shapes)}, base={self.base!r})"

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Collected:
        """Return what a finished ``Collector`` left in a folder; its arrays are mapped.

        Raises
        ------
        FileNotFoundError
            There is no such folder, or nothing was collected in it.
        ValueError
            The job is not finished, or the files do not belong together.
        """
        arrays, base = load(Path(folder))
        return cls(*_parted(arrays), base=base, extra=arrays)


class Collector:
    """Gathers batches of rows, in memory or in a folder.

    A folder gets one plain .npy file per array. A process that is killed at any moment leaves
    there what another one goes on from: the batches that were whole, and nothing of the next one.
    (After a loss of power the last batches may have to be made again.) Only one process at a time
    may collect in a folder.

    Parameters
    ----------
    out : path, optional
        The folder, which is made if need be. Without it rows are kept in memory.
    settings : dict, optional
        What names the job, of strings, numbers, lists and dicts. A folder in which another job
        was begun is refused.

    Attributes
    ----------
    batches : int
        The number of batches that are there already. The job goes on with the batch of this
        number, counted from 0.
    rows : int
        The number of their rows.
    d, C : int or None
        The widths of embeddings and outputs; None before the first batch. ``C`` is None without
        outputs, and 1 where these are (n,).
    finished : bool
        Whether the folder's job was finished before; ``finish`` returns its arrays.

    Raises
    ------
    ValueError
        The folder holds another job, or files that are none. The message tells what differs.
    """

    def __init__(
        self, out: str | os.PathLike[str] | None = None, settings: dict[str, Any] | None = None
    ) -> None:
        self._store = Pieces() if out is None else Folder(Path(out), settings or {})

    @property
    def batches(self) -> int:
        return self._store.batches

    @property
    def rows(self) -> int:
        return self._store.rows

    @property
    def d(self) -> int | None:
        return self._width("embeddings")

    @property
    def C(self) -> int | None:  # noqa: N802
        return self._width("outputs")

    @property
    def finished(self) -> bool:
        return self._store.finished

    def _width(self, name: str) -> int | None:
        columns = self._store.columns
        if columns is None or name not in columns:
            return None
        _, tail = columns[name]
        return tail[0] if tail else 1

    def append(
        self, embeddings: Any, outputs: Any = None, targets: Any = None, **extra: Any
    ) -> None:
        """Add one batch of m rows, whole or, where this raises, not at all.

        Parameters
        ----------
        embeddings : array (m, d)
            Kept as float32; float64 and integers of more than 16 bits as float64. ``m`` may be 0.
        outputs : array (m, C), optional
            Kept as ``embeddings`` are.
        targets : array (m,) or (m, C), optional
            Kept as they are. Text in a folder must not be longer than the dtype of the first batch
            holds: numpy.array(.., "U99") leaves room.
        **extra : arrays of m rows

        Raises
        ------
        TypeError, ValueError
            The arrays have not the same number of rows, or not the names, the shapes or the dtypes
            that those of the first batch had.
        """
        for name in extra:
            check_extra_name(name)
        given = {"embeddings": embeddings, "outputs": outputs, "targets": targets, **extra}
        arrays = {name: _checked(name, a) for name, a in given.items() if a is not None}
        any_width = isinstance(self._store, Pieces)
        self._store.append(_like_the_first(arrays, self._store.columns, any_width))

    def finish(self, base: dict[str, Any]) -> Collected:
        """Return all rows. ``base`` says what made them, and is kept with them.

        Raises ValueError where no batch was given, and in a folder, as json.dumps does, where JSON
        cannot hold ``base``.
        """
        if not self.batches:
            raise ValueError("nothing was collected: there was no batch")
        arrays, base = self._store.finish(base)
        return Collected(*_parted(arrays), base=base, extra=arrays)


class Pieces:
    """Batches in memory, joined at the end."""

    finished = False

    def __init__(self) -> None:
        self.batches = self.rows = 0
        self.columns: Columns | None = None
        self._pieces: list[dict[str, Array]] = []

    def append(self, arrays: dict[str, Array]) -> None:
        # A copy, as the caller may fill the same buffer with the next batch.
        self._pieces.append({name: array.copy() for name, array in arrays.items()})
        if self.columns is None:
            self.columns = {name: (a.dtype, a.shape[1:]) for name, a in arrays.items()}
        self.batches += 1
        self.rows += len(arrays["embeddings"])

    def finish(self, base: dict[str, Any]) -> tuple[dict[str, Array], dict[str, Any]]:
        assert self.columns is not None
        joined = {name: np.concatenate([p[name] for p in self._pieces]) for name in self.columns}
        return joined, base


def check_extra_name(name: str) -> None:
    """Raise ValueError unless a further array can have this name, as an argument and a file."""
    if not name.isidentifier() or name in (*_FIRST, "base"):
        raise ValueError(
            f"an extra array cannot be called {name!r}: give a name of letters, digits and _ that "
            f"is none of {', '.join(_FIRST)} and base"
        )


def _parted(arrays: dict[str, Array]) -> tuple[Array, Array | None, Array | None]:
    """Take embeddings, outputs and targets out of ``arrays``."""
    return arrays.pop("embeddings"), arrays.pop("outputs", None), arrays.pop("targets", None)


def _checked(name: str, value: Any) -> Array:
    """Return the array as it is kept: of a plain dtype, C-contiguous."""
    array = np.asarray(value)
    if array.dtype.kind not in _KINDS:
        raise TypeError(f"{name} must be an array of numbers or text, got {array.dtype}")
    if name in ("embeddings", "outputs"):
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name} must be real numbers, got {array.dtype}")
        wide = np.result_type(array.dtype, np.float32) != np.float32
        array = array.astype(np.float64 if wide else np.float32, copy=False)
    allowed = _DIMENSIONS.get(name)
    if array.ndim == 0 or (allowed and array.ndim not in allowed):
        wanted = {"embeddings": "(m, d)", "outputs": "(m, C)", "targets": "(m,) or (m, C)"}
        raise ValueError(
            f"{name} of a batch must have the shape {wanted.get(name, '(m, ..)')}, got "
            f"{array.shape}" + ("; resmem.tokens makes rows of tokens" if array.ndim > 2 else "")
        )
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _like_the_first(
    arrays: dict[str, Array], columns: Columns | None, any_width: bool
) -> dict[str, Array]:
    """Return the arrays with the dtypes of the first batch; raise unless they agree with it. With
    ``any_width`` text may be longer than there."""
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"the arrays of a batch must have as many rows each, got {counts}")
    if columns is None:
        return arrays
    if set(arrays) != set(columns):
        raise ValueError(
            f"the first batch had {', '.join(columns)}; this one has {', '.join(arrays)}"
        )
    alike = {}
    for name, array in arrays.items():
        dtype, tail = columns[name]
        if array.shape[1:] != tail:
            raise ValueError(
                f"{name} had rows of shape {tail} in the first batch, and has {array.shape[1:]} "
                "in this one"
            )
        text = array.dtype.kind == dtype.kind and dtype.kind in "US"
        if text and any_width:
            alike[name] = array
        elif np.can_cast(array.dtype, dtype, "safe"):
            alike[name] = array.astype(dtype, copy=False)
        else:
            raise TypeError(
                f"{name} were {dtype} in the first batch, and are {array.dtype} in this one; give "
                "all batches one dtype that holds both"
                + (f", such as numpy.array(.., '{dtype.kind}99')" if text else "")
            )
    return alike
