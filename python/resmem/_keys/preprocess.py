"""Preprocessing: how keys are made of embeddings.

A preprocess is fitted once, and its numbers are kept with the rows. CONTRACT.md defines the
arithmetic of ``FittedPreprocess.apply`` to the bit, so that equal embeddings have equal keys
everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

import resmem._core as _core
from resmem._base import convert
from resmem._base.arrays import F64, I64, LARGEST_WIDE, Keys, float_state
from resmem._base.execution import DEFAULT, Execution
from resmem._base.sample import sample
from resmem._base.threads import interruptible
from resmem._keys import nca

_R = TypeVar("_R")

_SAMPLE = 65_536  # rows that a fit samples
_BLOCK_BYTES = 8 << 20  # bytes of float64 rows per block
_SLOW_COLUMNS = 400  # columns from which a product or decomposition of (d, d) takes 0.05 s or more
_LARGEST = np.finfo(np.float32).max

# Variances below this part of the largest one, and components below this part of a direction's
# length, are taken for rounding errors. The squares of float32 embeddings are rounded by 2^-48 of
# their size, eigenvectors and eigenvalues by about d 2^-52.
_ROUNDINGS = 2.0**-40
# The largest weight of a row must be at least this, 24 bits above the smallest normal float32, so
# that the row's smaller weights keep their bits too.
_LEAST_WEIGHT = 2.0**-102


@dataclass(frozen=True)
class Preprocess:
    """A preprocess that has not been fitted to rows yet."""

    kind: str  # the name without its number of dimensions
    m: int = 0  # dimensions that "pca", "whiten" and "nca" keep

    @property
    def name(self) -> str:
        """What ``Memory(preprocess=...)`` calls it."""
        return f"{self.kind}:{self.m}" if self.linear else self.kind

    @property
    def linear(self) -> bool:
        """Whether keys are a linear map of the embeddings."""
        return self.m > 0

    @property
    def learns_targets(self) -> bool:
        """Whether a fit looks at the targets, so that keys tell something of those of its rows."""
        return self.kind == "nca"

    def width(self, d: int) -> int:
        """Return how many columns the keys of embeddings with ``d`` columns have."""
        if self.m > d:
            raise ValueError(
                f"preprocess={self.name!r} keeps {self.m} dimensions, embeddings have only {d} "
                "columns; keep fewer"
            )
        return self.m or d

    def schema(self, d: int) -> dict[str, tuple[npt.DTypeLike, tuple[int, ...]]]:
        """Return the names, dtypes and shapes of the arrays that a fit computes."""
        width = self.width(d)
        if self.linear:
            return {"weight": (np.float32, (width, d)), "bias": (np.float32, (width,))}
        names = {"center": ("mean",), "standardize": ("mean", "scale")}.get(self.kind, ())
        return {name: (np.float64, (d,)) for name in names}

    def fit(
        self,
        n: int,
        d: int,
        rows_at: Callable[[I64], Keys],
        targets_at: Callable[[I64], npt.NDArray[Any]],
    ) -> FittedPreprocess:
        """Fit to ``n`` embeddings, of which ``rows_at`` gives those at ascending positions.

        ``targets_at`` gives their targets: classes (s,) as int64, or values (s, C) as float64.
        Without rows to fit to the result is ``IDENTITY``: there are no keys to compare yet either.
        """
        if not self.schema(d):
            return FittedPreprocess(self)
        if n == 0:
            return IDENTITY
        if self.learns_targets:
            nca.import_library(self.name)
            some = sample(n, nca.SAMPLE)
            learn = partial(self._learned_map, rows_at(some), targets_at(some))
            return FittedPreprocess(self, _run(learn, long=True))
        moments, positions = _Moments(d, cross_products=self.linear), sample(n, _SAMPLE)
        step = max(1, _BLOCK_BYTES // (8 * d))
        long = self.linear and d >= _SLOW_COLUMNS
        for start in range(0, len(positions), step):
            rows = rows_at(positions[start : start + step])
            _run(partial(moments.add, rows), long)
        if self.linear:
            return FittedPreprocess(self, _run(partial(self._linear_map, moments), long))
        scale = np.sqrt(moments.scatter / moments.n)
        found = {"mean": moments.mean, "scale": np.where(scale > 0, scale, 1.0)}
        return FittedPreprocess(self, {name: found[name] for name in self.schema(d)})

    def _linear_map(self, moments: _Moments) -> dict[str, npt.NDArray[Any]]:
        """Return bias and weight; its rows are the principal directions, largest variance first."""
        variances, columns = np.linalg.eigh(moments.scatter / moments.n)
        variances, rows = variances[::-1][: self.m, None], columns.T[::-1][: self.m]
        peaks = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)
        # A constant column must have weight 0, however large the constant is.
        rows = np.where(np.abs(rows) > _ROUNDINGS, rows * np.sign(peaks), 0.0)
        if self.kind == "whiten":
            there = variances > _ROUNDINGS * max(variances[0, 0], 0.0)
            rows = np.where(there, rows / np.sqrt(np.where(there, variances, 1.0)), 0.0)
        return self._rounded(rows, moments.mean)

    def _learned_map(self, rows: Keys, targets: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """Return bias and weight as NCA learns them from rows (s, d) and their targets."""
        origin = rows[0].astype(np.float64)
        centred = rows.astype(np.float64) - origin  # so that a constant column becomes exactly 0
        mean = centred.mean(axis=0)
        centred -= mean
        classes = nca.classes_of(targets) if targets.ndim == 2 else targets
        varies = centred.any(axis=0)
        # A constant column must have weight 0, however large the constant is.
        directions = np.where(varies, nca.learned_directions(centred, classes, self.m), 0.0)
        return self._rounded(directions, origin + mean)

    def _rounded(self, rows: F64, mean: F64) -> dict[str, npt.NDArray[Any]]:
        """Return the weight, which has these rows (m, d), and the bias that moves the mean to 0."""
        with np.errstate(over="ignore", invalid="ignore"):
            weight = np.ascontiguousarray(rows, dtype=np.float32)
            bias = (-(weight.astype(np.float64) @ mean)).astype(np.float32)
        heights = np.abs(rows).max(axis=1)
        if ((heights > 0) & (heights < _LEAST_WEIGHT)).any() or not (
            np.isfinite(weight).all() and np.isfinite(bias).all()
        ):
            raise ValueError(
                f"preprocess={self.name!r} needs weights beyond float32 for embeddings as large or "
                "small as these; rescale them"
            )
        return {"weight": weight, "bias": bias}


@dataclass(frozen=True, eq=False)
class FittedPreprocess:
    """A preprocess and the arrays that its fit computed.

    With the method "none", ``arrays`` may hold an "offset" (d,), which is subtracted from the
    embeddings. If ``wide``, keys are float64 and not rounded to float32.
    """

    method: Preprocess
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    wide: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of keys and queries."""
        return np.dtype(np.float64 if self.wide else np.float32)

    @property
    def plain(self) -> bool:
        """Whether keys are the embeddings, apart from rounding."""
        return self.method.kind == "none" and "offset" not in self.arrays

    @property
    def described(self) -> str:
        """What is done to embeddings, in words for messages."""
        if self.method.kind == "none" and not self.plain:
            return "an offset is subtracted"
        return f"preprocess={self.method.name!r}"

    def unshifted(self, keys: Keys) -> Keys:
        """Return the embeddings of keys that differ from them by an offset at most."""
        if "offset" not in self.arrays:
            return keys
        embeddings: F64 = keys.astype(np.float64) + self.arrays["offset"]
        return embeddings

    def apply(self, embeddings: Keys, execution: Execution = DEFAULT) -> Keys:
        """Return the keys (n, m) of finite embeddings (n, d); those beyond float32 are infinite."""
        if self.plain:
            with np.errstate(over="ignore"):
                same: Keys = np.ascontiguousarray(embeddings, dtype=self.dtype)
            return same
        n, d = embeddings.shape
        keys: Keys = np.empty((n, self.method.width(d)), dtype=self.dtype)
        step = max(1, _BLOCK_BYTES // (8 * d))
        with np.errstate(over="ignore"):
            for start in range(0, n, step):
                some = slice(start, start + step)
                keys[some] = self._applied(embeddings[some], execution)
        return keys

    def _applied(self, embeddings: Keys, execution: Execution) -> Keys:
        arrays = self.arrays
        if self.method.linear:
            keys = _core.head_logits(
                embeddings, _core.LinearHead(arrays["weight"], arrays["bias"]), execution
            )
            return np.where(np.abs(keys) < _LARGEST, keys, np.float32(np.inf))  # the core saturates
        rows = embeddings.astype(np.float64)
        if self.method.kind == "unit":
            norms = _norms(rows)
            return np.divide(rows, np.where(norms > 0, norms, 1.0))
        rows -= arrays["offset" if self.method.kind == "none" else "mean"]
        if self.method.kind == "standardize":
            rows /= arrays["scale"]
        return rows

    def keys(
        self, embeddings: Any, d: int, execution: Execution, first_row: int
    ) -> tuple[Keys, float]:
        """Return keys of the caller's embeddings (n, d), checked, and the keys' largest |value|.

        ``first_row`` is the number of the first row, for messages.
        """
        if self.plain:
            checked = convert.wide_vectors if self.wide else convert.vectors
            return checked(embeddings, "embeddings", d, execution, first_row)
        keys = self.apply(exact(embeddings, d, execution, first_row), execution)
        largest, bad_row = _core.inspect_rows(keys, execution)
        if bad_row < 0 and not (self.wide and largest > LARGEST_WIDE):
            return keys, largest
        if bad_row < 0:
            bad_row = int(np.argmax(np.abs(keys).max(axis=1) > LARGEST_WIDE))
        beyond = "2^480" if self.wide else "float32"
        step = f"preprocess={self.method.name!r}"
        if "offset" in self.arrays:
            step = "an offset was subtracted"
        raise ValueError(
            f"embeddings: row {first_row + bad_row} is beyond {beyond} after {step}; rescale the "
            "embeddings"
        )

    def row_bytes(self, d: int) -> int:
        """Return how many bytes per row ``keys`` allocates beside the embeddings."""
        return 0 if self.plain else self.dtype.itemsize * self.method.width(d)


def exact(embeddings: Any, d: int | None, execution: Execution, first_row: int) -> Keys:
    """Return finite embeddings (n, d) as float32, or as float64 if float32 may not hold them."""
    given = convert.real(embeddings, "embeddings", "(n, d)")
    narrow = convert.fits_float32(given.dtype)
    checked = convert.vectors if narrow else convert.wide_vectors
    return checked(given, "embeddings", d, execution, first_row)[0]


NO_PREPROCESS = Preprocess("none")
IDENTITY = FittedPreprocess(NO_PREPROCESS)


def preprocess_named(name: Any) -> Preprocess:
    """Return the preprocess of a name such as "pca:64"; ValueError if there is none."""
    known = "none|center|standardize|unit|(pca|whiten|nca):([1-9][0-9]{0,8})"
    match = re.fullmatch(known, name) if isinstance(name, str) else None
    if match is None:
        raise ValueError(
            "preprocess must be 'none', 'center', 'standardize', 'unit', 'pca:m', 'whiten:m' or "
            f"'nca:m' (such as 'pca:64'), got {name!r}"
        )
    return Preprocess(match[1], int(match[2])) if match[1] else Preprocess(match[0])


def _run(work: Callable[[], _R], long: bool) -> _R:
    """Return the result of the work; if it takes ``long``, let Ctrl-C interrupt the wait."""
    return interruptible(float_state()(work)) if long else work()


class _Moments:
    """Mean and scatter of rows, block by block (the update of Chan, Golub and LeVeque).

    A constant column must have scatter 0. Sums of so few equal float32 values are exact; those of
    float64 values are not, so the first row is subtracted from float64 rows before.
    """

    def __init__(self, d: int, cross_products: bool) -> None:
        """``cross_products``: the scatter is a matrix (d, d), not only its diagonal (d,)."""
        self.n, self._cross_products = 0, cross_products
        self.mean = np.zeros(d)
        self.scatter = np.zeros((d, d) if cross_products else d)

    def add(self, rows: Keys) -> None:
        if self.n == 0:
            self._origin = rows[0].astype(np.float64) if rows.dtype == np.float64 else 0.0
            self.mean += self._origin
        part = rows.astype(np.float64) - self._origin
        mean = part.mean(axis=0)
        part -= mean
        apart, n = mean - (self.mean - self._origin), self.n + len(part)
        share = self.n * len(part) / n
        if self._cross_products:
            self.scatter += part.T @ part
            self.scatter += np.outer(share * apart, apart)
        else:
            self.scatter += (part * part).sum(axis=0) + share * apart * apart
        self.mean += apart * (len(part) / n)
        self.n = n


def _norms(rows: F64) -> F64:
    """Return ``sqrt(csum(x_i * x_i))`` of each row, (n, 1), as CONTRACT.md defines it."""
    sums = np.zeros((len(rows), 8))
    squares = rows * rows
    for start in range(0, rows.shape[1], 8):
        part = squares[:, start : start + 8]
        sums[:, : part.shape[1]] += part
    fours = sums[:, :4] + sums[:, 4:]
    twos = fours[:, :2] + fours[:, 2:]
    norms: F64 = np.sqrt(twos[:, :1] + twos[:, 1:])
    return norms
