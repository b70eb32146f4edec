"""The state of an index: the rows of a memory without outputs and targets, for any metric."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

import resmem._core as _core
from resmem._base import checks, convert
from resmem._base.arrays import F64, I64, float_state
from resmem._base.errors import FileFormatError, warn
from resmem._base.execution import execution_of
from resmem._base.metric import checked_metric
from resmem._correction.simplex import map_named
from resmem._files import persist
from resmem._keys.rounding import KeyPrecision, rounded_too_far
from resmem._keys.stored import KEY_DTYPES
from resmem._rows import plausible
from resmem._rows.keys_alone import IncomingKeys, index_keys
from resmem._rows.snapshot import Snapshot
from resmem._rows.spec import INDEX_TASK, Spec
from resmem._rows.stores.nothing import Nothing
from resmem._rows.visibility import Visibility
from resmem._state.opening import holds_index, read_file, with_file_settings
from resmem._state.state import State
from resmem._state.view import MemoryView

# What files record of an index, of all that they record of a memory.
_RECORDED = (
    "task", "preprocess", "key_dtype", "metric", "store", "flat", "offset", "allowed", "time_kind",
    "embedding_names", "output_names",
)  # fmt: skip


class IndexState(State):
    """The rows of an index, which come and go as those of a memory do."""

    def __init__(self, metric: Any, key_dtype: Any) -> None:
        if not isinstance(key_dtype, str) or key_dtype not in ("auto", *KEY_DTYPES):
            names = ", ".join(map(repr, ("auto", *KEY_DTYPES)))
            raise ValueError(f"key_dtype must be one of {names}, got {key_dtype!r}")
        compared_by = checked_metric(metric)
        spec = Spec(INDEX_TASK, "none", key_dtype, Nothing(), metric=compared_by)
        view = MemoryView(spec, key_dtype, 1, 1.0, 1.0, 0.0, map_named("clip"))
        super().__init__(view, "float32", None, None)

    def _incoming(
        self, spec: Spec, embeddings: Any, outputs: Any, targets: Any, ids: Any,
        like: Snapshot | None = None, **attributes: Any,
    ) -> IncomingKeys:  # fmt: skip
        return IncomingKeys(spec, embeddings, ids, like, **attributes)

    @float_state()
    def search(
        self, queries: Any, k: Any, visible: Visibility, threads: int | None
    ) -> tuple[F64, I64]:
        """See ``Index.search``."""
        execution, k, rows = execution_of(threads), checks.count(k, "k"), self.view.fitted_rows
        plausible.check_names(queries, "queries", rows.embedding_names, "the rows", "index.columns")
        given = convert.real(queries, "queries", "(n, d)")
        convert.check_embedding_layout(given, "queries", rows.d)
        keys, largest = index_keys(given, "queries", rows, execution)
        self._warn_of_rounding(given, rows)
        seen = visible.of(rows, len(keys))
        rows.plan(len(keys), k, execution)
        distances, ids, _, _ = _core.search(
            keys, largest, rows.keys_for_core(len(keys)), k, rows.metric, version=rows.version,
            execution=execution, **seen.for_core(),
        )  # fmt: skip
        return distances, ids

    def _warn_of_rounding(self, queries: Any, rows: Snapshot) -> None:
        """Warn if rounding to float32, as keys are rounded, moves a query too far."""
        if math.isinf(rows.allowed) or convert.fits_float32(queries.dtype):
            return
        precision = KeyPrecision("float32", rows.preprocess.arrays.get("offset"), rows.allowed)
        far = rounded_too_far(queries.astype(np.float64), precision, rows.metric)
        if far.any():
            warn(
                f"queries: row {int(np.argmax(far))} is rounded to float32, as the rows are, which "
                "moves it farther than neighbours are told apart; make the index with "
                "key_dtype='float64'"
            )

    def prepare(self, threads: int | None) -> None:
        """See ``Index.prepare``."""
        execution = execution_of(threads)
        self.view.fitted_rows.plan(0, 10, execution, at_once=True)

    def settings(self, view: MemoryView) -> dict[str, Any]:
        """Return what files record, by name."""
        of_memory = view.settings()
        return {name: of_memory[name] for name in _RECORDED}


def open_index(
    path: str | os.PathLike[str], verify: bool, progress: Callable[[int], None] | None
) -> IndexState:
    """See ``Index.load``."""
    saved = read_file(path, verify, progress)
    if not holds_index(saved):
        raise FileFormatError(
            f"{os.fspath(path)} holds a memory, not an index; load it with resmem.Memory.load"
        )
    return index_state_in(saved)


def index_state_in(saved: persist.LoadedMemory) -> IndexState:
    """Return the state of the index that a file holds."""
    try:
        state = IndexState(saved.settings.get("metric"), saved.settings.get("key_dtype"))
        allowed = saved.settings.get("allowed")
        allowed = math.inf if allowed is None else checks.not_negative(allowed, "allowed")
    except ValueError as error:
        raise saved.bad(f"its settings make no sense: {error}") from error
    if state.view.spec.key_dtype == "auto":
        raise saved.bad("key_dtype is missing")
    rows, file = saved.rows(state.view.spec.schema)
    state.publish(rows=with_file_settings(rows, saved, allowed, state.view.spec.metric), file=file)
    return state
