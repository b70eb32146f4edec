"""The conversion of a caller's arrays to the rows of a segment, checked block by block.

Blocks bound the memory that this takes, so that mapped files may be larger than memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

import resmem._core as _core
from resmem._base import checks, convert, labels
from resmem._base.arrays import (
    F64,
    I64,
    Array,
    Keys,
    all_finite,
    read_block,
    release_pages,
    sliceable,
)
from resmem._base.blocks import blocks
from resmem._base.errors import warn
from resmem._base.execution import DEFAULT
from resmem._base.metric import is_euclidean
from resmem._base.sample import sample
from resmem._keys.preprocess import IDENTITY, NO_PREPROCESS, FittedPreprocess, exact
from resmem._keys.rounding import (
    ALLOWED_FRACTION,
    KeyPrecision,
    Neighbourhood,
    rounding_errors,
    sample_positions,
)
from resmem._keys.stored import narrow_keys, widen_keys
from resmem._rows import plausible
from resmem._rows.attributes import attributes_of
from resmem._rows.snapshot import Snapshot
from resmem._rows.spec import Spec

_SAMPLED_QUERIES = 64  # queries per call whose rounding is measured


class Incoming:
    """Rows that a caller gives. Shapes and dtypes are checked at once, values in ``write``."""

    name = "embeddings"  # what messages call them
    outputs: Any = None
    targets: Any = None

    def __init__(
        self,
        spec: Spec,
        embeddings: Any,
        outputs: Any,
        targets: Any,
        ids: Any,
        like: Snapshot | None = None,
        *,
        sample_weight: Any = None,
        times: Any = None,
        groups: Any = None,
    ) -> None:
        self.spec = spec
        self.names: tuple[tuple[str, ...] | None, ...] = tuple(
            plausible.column_names(table) for table in (embeddings, outputs)
        )
        if like is not None:
            plausible.check_names(embeddings, "embeddings", like.embedding_names)
            plausible.check_names(outputs, "outputs", like.output_names)
        plausible.check_order(targets, self.names[1], plausible.kept_names("outputs", outputs))
        self.embeddings = sliceable(embeddings, "embeddings")
        self.targets = sliceable(targets, "targets")
        convert.check_embedding_layout(self.embeddings, "embeddings", like.d if like else None)
        self.n, self.d = self.embeddings.shape
        self.key_width = spec.preprocess.width(self.d)
        self.flat = len(self.targets.shape) == 1 and spec.task == "regression"
        if spec.says_nothing:
            self.columns = self._columns_of_targets(targets, like)
            self.outputs = spec.silent_outputs(outputs, self.n, self.columns, self.flat)
        elif spec.store.layer is not None:
            self.columns = spec.store.layer.columns(self.d, outputs)
        else:
            self.outputs = spec.sliceable_outputs(outputs)
            if spec.task == "classification":
                plausible.check_roles(self.outputs, self.targets)
            self.columns = spec.column_count(self.outputs, like.columns if like else None)
            checks.same_length("outputs", self.outputs.shape[0], "embeddings", self.n)
        widths = self.d, self.columns
        self.names = tuple(  # a column that holds vectors has one name
            names if len(names or ()) == width else None
            for names, width in zip(self.names, widths, strict=True)
        )
        self._check_targets()
        checks.same_length("targets", self.targets.shape[0], "embeddings", self.n)
        if spec.task == "classification" and (like is None or like.never_held):
            self._find_labels(targets)
        if spec.task == "regression" and self._width(self.targets) != self._width(self.outputs):
            shapes = f"targets {tuple(self.targets.shape)} and outputs {tuple(self.outputs.shape)}"
            hint = ""
            if self._width(self.targets) == 1 and self._width(self.outputs) > 1:
                hint = "; for classes use task='classification'"
            raise ValueError(f"{shapes} must have one shape{hint}")
        self.ids: I64 | None = None if ids is None else convert.row_ids(ids, self.n)
        self._take_attributes(like, sample_weight, times, groups)
        plausible.check_logits(spec, self.outputs)

    def _take_attributes(
        self, like: Snapshot | None, sample_weight: Any = None, times: Any = None,
        groups: Any = None,
    ) -> None:  # fmt: skip
        """Check what rows were given besides; all rows have times, of one kind, or none has."""
        self.attributes = attributes_of(sample_weight, times, groups, self.n, self.name)
        if like is None or like.never_held:
            return
        expected, got = like.time_kind, self.attributes.time_kind
        if expected != got:
            raise ValueError(
                f"times must be {expected or 'left out'}, as for the other rows of this memory, "
                f"got {got or 'none'}; give times to all rows, of one kind, or to none"
            )

    def _check_targets(self) -> None:
        if self.spec.task == "regression":
            convert.check_layout(self.targets, "targets", "(n,)" if self.flat else "(n, C)")
        else:
            labels.check_class_layout(self.targets, self.columns)

    def _columns_of_targets(self, targets: Any, like: Snapshot | None) -> int:
        """Return the number of columns where there are no outputs."""
        if len(self.targets.shape) not in (1, 2):
            shape = tuple(self.targets.shape)
            raise ValueError(f"targets must have shape (n,) or (n, C), got {shape}")
        if self.spec.task == "regression":
            return self._width(self.targets)
        if like is not None and not like.never_held:
            return like.columns
        if self.spec.labels is not None:
            return len(self.spec.labels)
        return labels.found(targets, self.targets, None)[1]

    def _find_labels(self, targets: Any) -> None:
        """Set what targets call the columns, in ``spec``: the labels given, or those they hold."""
        table = self.spec.labels
        if table is None:
            table, _ = labels.found(targets, self.targets, self.columns)
        elif len(table) != self.columns:
            raise ValueError(
                f"classes must name each of the {self.columns} columns of outputs, got "
                f"{len(table)} labels"
            )
        if table is not None:
            labels.refuse_other_order(table, self.names[1])
        self.spec = replace(self.spec, labels=labels.plain_as_none(table))

    @staticmethod
    def _width(values: Any) -> int:
        return 1 if len(values.shape) == 1 else int(values.shape[1])

    def borrowable(self) -> dict[str, Array]:
        """Return the caller's arrays that a segment can hold without a copy, by name."""
        given = {"keys": self.embeddings, "outputs": self.outputs, "targets": self.targets}
        if self.spec.task == "regression":
            for name in ("outputs", "targets"):
                array = given[name]
                given[name] = array[:, None] if array.ndim == 1 else array
        found = {}
        for name, (dtype, shape) in self.spec.schema(self.d, self.columns).items():
            array = given.get(name)
            if (
                isinstance(array, np.ndarray)
                and array.dtype == dtype
                and array.shape[1:] == shape
                and array.flags.c_contiguous
                and not (name == "keys" and self._makes_keys())
                and not (name == "targets" and self.spec.labels is not None)
            ):
                found[name] = array
        return found

    def _makes_keys(self) -> bool:
        """Tell whether keys differ from the embeddings, in value or in how they are stored."""
        scaled = (self.spec.key_dtype, self.spec.metric) == ("float64", "cosine")
        return scaled or self.spec.key_dtype == "bfloat16" or self.spec.preprocess != NO_PREPROCESS

    def fitted(self) -> tuple[FittedPreprocess, float]:
        """Return the preprocess fitted to these rows, and how far rounding may move queries.

        This also replaces the key dtype "auto" in ``spec``.
        """
        made_by = self.spec.preprocess.fit(self.n, self.d, self._rows_at, self._targets_at)
        precision = self._precision(made_by)
        if self.spec.key_dtype == "auto":
            self.spec = replace(self.spec, key_dtype=precision.dtype)
        if precision.offset is not None:
            made_by = replace(made_by, arrays={"offset": precision.offset})
        return replace(made_by, wide=self.spec.key_dtype == "float64"), precision.allowed

    def _precision(self, made_by: FittedPreprocess) -> KeyPrecision:
        """Return the key precision that these rows need; warn if settings do not allow it."""
        asked = self.spec.key_dtype
        if asked not in ("auto", "float32") or self.n == 0 or made_by.method.linear:
            return KeyPrecision()
        if convert.fits_float32(self.embeddings.dtype):
            return KeyPrecision()
        given = rows_at(self.embeddings, sample_positions(self.n, self.d))
        if not all_finite(given):
            return KeyPrecision()  # ``write`` refuses the row that is not, and names it
        metric, layer = self.spec.metric, self.spec.store.layer is not None
        around = Neighbourhood(exact_keys(given, made_by), self.n, metric)
        may_shift = made_by.plain and not layer and is_euclidean(metric)
        precision = around.key_precision(may_shift)
        plain_float32 = precision.dtype == "float32" and precision.offset is None
        if plain_float32 or (asked == "auto" and not layer):
            return precision
        cure = "use key_dtype='auto'"
        if layer and is_euclidean(metric):
            cure = (
                "subtract an offset from the embeddings, of queries too, and add weight @ offset "
                "to the bias of the head"
            )
        elif layer:
            cure = "pass numpy.float32(embeddings) if that is as precise as you need"
        warn(
            f"embeddings of dtype {self.embeddings.dtype} are rounded to float32, which moves "
            f"distances by more than {ALLOWED_FRACTION:.0%} of what neighbours lie apart; {cure}"
        )
        return KeyPrecision()

    def _rows_at(self, positions: I64) -> Keys:
        """Return embeddings at ascending positions.

        ValueError if one of them is not finite; it names the first of all rows that is not.
        """
        parts: list[Any] = [
            _floats(part[at])
            for part, at, _ in _parts_at(self.embeddings, "embeddings", positions, 8 * self.d)
        ]
        rows: Keys = np.concatenate(parts)
        if _core.inspect_rows(rows)[1] >= 0:
            for block in blocks(self.n, 8 * self.d):
                part = read_block(self.embeddings, block, "embeddings")
                IDENTITY.keys(part, self.d, DEFAULT, block.start)
        return rows

    def _targets_at(self, positions: I64) -> Array:
        """Return checked targets at ascending positions: classes (s,), or values (s, C)."""
        parts = []
        for part, at, first in _parts_at(self.targets, "targets", positions, self._row_bytes):
            parts.append(self._checked_targets(part, first)[at])
        return np.concatenate(parts)

    @property
    def _row_bytes(self) -> int:
        """Bytes of a row while it is checked and written."""
        return int(8 * self.d + 16 * self.columns)

    def _checked_targets(self, part: Array, first: int) -> Array:
        if self.spec.task == "classification":
            return self.spec.class_numbers(part, self.columns, first)
        return self.spec.values(part, "targets", first)

    def refuse_other_shape(self, into: Snapshot) -> None:
        """Refuse targets (n,) for a snapshot that has (n, C), and the reverse."""
        if self.flat != into.flat:
            expected = "(n,)" if into.flat else "(n, C)"
            raise ValueError(f"targets must have shape {expected} as in fit")

    def refuse_rounding(self, into: Snapshot) -> None:
        """Refuse rows that a snapshot's float32 keys could not tell from its own or one another."""
        made_by = into.preprocess
        narrow = self.spec.store.layer is not None or self.spec.key_dtype != "float32"
        if narrow or made_by.method.linear or convert.fits_float32(self.embeddings.dtype):
            return
        given = rows_at(self.embeddings, sample_positions(self.n, self.d))
        if not all_finite(given):
            return  # ``write`` refuses the row that is not, and names it
        keys = exact_keys(given, made_by)
        moved = rounding_errors(keys, into.metric)
        if not moved.any():
            return
        n = len(into)
        step = 1 << max(0, n.bit_length() - 5)  # so measured at most 32 times while rows double
        few_new = n // step == (n + self.n) // step and math.isfinite(into.allowed)
        if few_new and moved.max() <= into.allowed:
            return
        parts = [s["keys"][at] for s, at in into.sample(sample_positions(len(into), self.d))]
        stored = np.concatenate([np.empty((0, keys.shape[1]), np.float32), *parts])
        # A stored row that equals a rounded new row is left out: it was equal before rounding too,
        # or no farther off than the new row moves, which ``mixed`` compares with what is allowed.
        with np.errstate(over="ignore"):
            new = [row.tobytes() for row in keys.astype(np.float32)]
        old = [row.tobytes() for row in stored]
        stored_rows, new_rows = set(old), set(new)
        same = np.array([row in stored_rows for row in new])
        others = stored[np.array([row not in new_rows for row in old], dtype=bool)]
        both = np.concatenate([keys, others.astype(np.float64)])
        mixed = bool((moved[same] > into.allowed).any())
        around = Neighbourhood(both, self.n + len(into), into.metric)
        if mixed or around.error_ratio() > 1:
            raise ValueError(
                f"embeddings of dtype {self.embeddings.dtype}, rounded to float32 as the rows of "
                f"this memory are, would be moved by more than {ALLOWED_FRACTION:.0%} of what "
                "neighbours lie apart; fit all rows again, with key_dtype='float64' if more such "
                "will come"
            )

    def write(
        self, arrays: dict[str, Array], at: int, into: Snapshot, skip: frozenset[str]
    ) -> tuple[float, float]:
        """Write all rows, except arrays named in ``skip``, to ``arrays`` from row ``at`` on.

        They become rows of the snapshot ``into``. Returns the largest |value| of the stored keys
        and the largest error of a residual.
        """
        keys_max, error = 0.0, 0.0
        for block in blocks(self.n, self._row_bytes):
            parts, largest, block_error = self._block(block, into)
            keys_max, error = max(keys_max, largest), max(error, block_error)
            for name, part in parts.items():
                if name not in skip:
                    arrays[name][at + block.start : at + block.stop] = part
            for rows in (self.embeddings, self.outputs, self.targets):
                release_pages(rows, block)
        if self.spec.key_dtype == "float64":
            others = max((segment.keys_max for segment in into.segments), default=0.0)
            convert.refuse_tiny(max(keys_max, others), self.name)
        elif self.spec.key_dtype != "float32":  # rounding is monotonic and keeps the largest
            one = np.full((1, 1), keys_max, dtype=np.float32)
            keys_max = float(widen_keys(narrow_keys(one, self.spec.key_dtype))[0, 0])
        return keys_max, error

    def _block(self, block: slice, into: Snapshot) -> tuple[dict[str, Array], float, float]:
        first, spec = block.start, self.spec
        embeddings = read_block(self.embeddings, block, "embeddings")
        keys, largest = into.keys(embeddings, DEFAULT, first)
        outputs = np.empty((0, self.columns), dtype=np.float32)
        if self.outputs is not None:
            outputs = spec.outputs(read_block(self.outputs, block, "outputs"), first)
        targets = self._checked_targets(read_block(self.targets, block, "targets"), first)
        softmax_at = spec.softmax_at(into.temperature)
        parts, error = spec.store.rows(outputs, targets, softmax_at, first)
        parts = {**parts, "keys": narrow_keys(keys, spec.key_dtype, first), "targets": targets}
        return parts, largest, error


def _parts_at(
    source: Any, name: str, positions: I64, row_bytes: int
) -> Iterator[tuple[Array, I64, int]]:
    """Yield the slices of a source that hold rows at ascending positions, as data sets may have no
    more than slices; with each, where the rows lie in it, and where it begins."""
    first, end = int(positions[0]), int(positions[-1]) + 1
    for block in blocks(end - first, row_bytes):
        span = slice(first + block.start, first + block.stop)
        here = positions[slice(*np.searchsorted(positions, (span.start, span.stop)))]
        if len(here):
            yield read_block(source, span, name), here - span.start, span.start
            release_pages(source, span)


def _floats(part: Array) -> Keys:
    """Return embeddings as float32 if it holds their dtype, else as float64."""
    if convert.fits_float32(part.dtype):
        return convert.float32(part, "embeddings", "(n, d)")
    return convert.wide(part, "embeddings", "(n, d)")


def rows_at(source: Any, at: I64) -> Array:
    """Return rows at ascending positions, of an array or of a data set that has slices only."""
    if isinstance(source, np.ndarray):
        return source[at]
    parts = [read_block(source, slice(p, p + 1), "embeddings") for p in at.tolist()]
    return np.concatenate(parts)


def exact_keys(embeddings: Array, made_by: FittedPreprocess) -> F64:
    """Return the keys of finite embeddings before they are rounded to float32."""
    keys = replace(made_by, wide=True).apply(exact(embeddings, None, DEFAULT, 0))
    return keys.astype(np.float64, copy=False)


def warn_of_rounding(embeddings: Any, rows: Snapshot) -> None:
    """Warn if rounding to float32, as keys are rounded, moves a sampled query too far."""
    n, known = embeddings.shape[0], math.isfinite(rows.allowed)
    if not known or n == 0 or convert.fits_float32(embeddings.dtype):
        return
    given = rows_at(embeddings, sample(n, _SAMPLED_QUERIES))
    if not all_finite(given):
        return
    moved = float(rounding_errors(exact_keys(given, rows.preprocess), rows.metric).max())
    if moved > rows.allowed:
        warn(
            f"embeddings of dtype {embeddings.dtype}, rounded to float32 as the rows of this "
            f"memory are, lie up to {moved:.3g} off, and neighbours are told apart up to "
            f"{rows.allowed:.3g}; fit the memory again with key_dtype='float64'"
        )
