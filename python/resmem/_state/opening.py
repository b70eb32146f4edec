"""Opening a file: what it holds, and the state of the memory in it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from resmem._base import checks
from resmem._base.errors import FileFormatError
from resmem._base.metric import Metric
from resmem._files import container, persist
from resmem._rows.ages import as_recorded
from resmem._rows.growth import Basis
from resmem._rows.snapshot import Snapshot
from resmem._rows.spec import INDEX_TASK
from resmem._rows.stores.layer import Layer
from resmem._state.settings import SETTINGS, checked_labels
from resmem._state.state import State

# What was used before there was a choice, whose name earlier files do not hold.
_BEFORE = {
    "probability_map": "clip", "method": "residual", "gate": "none", "metric": "euclidean"
}  # fmt: skip


def open_state(
    path: str | os.PathLike[str], verify: bool, progress: Callable[[int], None] | None
) -> State:
    """See ``Memory.load``."""
    saved = read_file(path, verify, progress)
    if holds_index(saved):
        raise FileFormatError(
            f"{os.fspath(path)} holds an index, not a memory; load it with resmem.Index.load"
        )
    return state_in(saved)


def read_file(
    path: str | os.PathLike[str], verify: bool, progress: Callable[[int], None] | None
) -> persist.LoadedMemory:
    """Return what a file of ``save`` or ``export`` holds: a memory, or an index."""
    checks.progress_function(progress)
    checks.path(path)
    named = os.fspath(path).lower().endswith(persist.EXPORTS)
    if named and not container.is_container(path):
        from resmem._files import export

        return export.load(path, verify, progress)
    return persist.load(path, verify, progress)


def holds_index(saved: persist.LoadedMemory) -> bool:
    """Tell whether a file holds an index, not a memory."""
    return saved.settings.get("task") == INDEX_TASK


def state_in(saved: persist.LoadedMemory) -> State:
    """Return the state of the memory that a file holds."""
    given: dict[str, Any] = {name: saved.settings.get(name) for name in SETTINGS}
    for name, then in _BEFORE.items():
        given[name] = saved.settings.get(name, then)
    if given["sigma"] == "inf":
        given["sigma"] = math.inf
    flat, sigma = saved.settings.get("flat"), saved.settings.get("sigma_")
    allowed = saved.settings.get("allowed")
    sigma_rows, preprocess_rows = map(saved.counted, ("sigma_rows", "preprocess_rows"))
    try:
        for name in ("max_age", "half_life"):
            given[name] = as_recorded(given[name])
        state = State.from_arguments(**given, head=Layer(**saved.head) if saved.head else None)
        given_labels = checked_labels(saved.settings.get("fit_classes"), state.view.spec.task)
        auto = None if sigma is None else checks.positive(sigma, "sigma_")
        allowed = math.inf if allowed is None else checks.not_negative(allowed, "allowed")
    except (TypeError, ValueError) as error:
        raise saved.bad(f"its settings make no sense: {error}") from error
    if type(flat) is not bool or (sigma is None and state.view.sigma == "auto"):
        raise saved.bad("flat or sigma_ is missing")
    rows, file = saved.rows(state.view.spec.schema)
    if (labels := state.view.spec.labels) is not None and len(labels) != rows.columns:
        raise saved.bad(f"classes are {len(labels)} labels for {rows.columns} columns")
    if flat and (state.view.spec.task, rows.columns) != ("regression", 1):
        raise saved.bad(
            f"flat is for values of one column, not for {rows.columns} of {state.view.spec.task}"
        )
    if state.view.sigma == "auto" and (sigma_rows == 0 or (sigma_rows is None and len(rows) < 2)):
        auto = sigma_rows = None  # sigma is still to be measured
    rows = replace(
        with_file_settings(rows, saved, allowed, state.view.spec.metric),
        temperature=state.view.temperature,
        flat=flat,
        auto_sigma=auto,
        sigma_basis=Basis(sigma_rows).at(len(rows)),  # a growth up to here was warned of already
        preprocess_basis=Basis(preprocess_rows).at(len(rows)),
    )
    try:
        rows = replace(state.view, rows=rows).decaying().fitted_rows
    except ValueError as error:
        raise saved.bad(f"its half_life makes no sense: {error}") from error
    state.publish(rows=rows, file=file, fit_labels=given_labels)
    return state


def with_file_settings(
    rows: Snapshot, saved: persist.LoadedMemory, allowed: float, metric: Metric
) -> Snapshot:
    """Return the rows with what a file tells of their keys and columns."""
    return replace(
        rows,
        preprocess=saved.preprocess,
        allowed=allowed,
        metric=metric,
        time_kind=saved.time_kind(rows),
        embedding_names=saved.names("embedding_names", rows.d),
        output_names=saved.names("output_names", rows.columns),
    )
