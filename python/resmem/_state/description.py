"""Descriptions of a memory and of an index: ``info``, ``plan_`` and the printed form."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from resmem._rows.ages import in_longest_unit
from resmem._rows.attributes import ATTRIBUTES
from resmem._rows.resident import Residency
from resmem._rows.stores.named import residual_dtype_for
from resmem._state.index_state import IndexState, index_state_in
from resmem._state.opening import holds_index, read_file, state_in
from resmem._state.state import State
from resmem._state.view import MemoryView

# What ``info`` tells of the settings of an index that files record.
_INDEX_SETTINGS = ("metric", "key_dtype", "offset", "time_kind", "embedding_names")


def describe_file(
    path: str | os.PathLike[str], verify: bool, progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Return what ``info`` tells of the memory, or the index, in a file."""
    saved = read_file(path, verify, progress)
    if holds_index(saved):
        return describe_index(index_state_in(saved))
    return describe(state_in(saved))


def describe(state: State) -> dict[str, Any]:
    """See ``Memory.info``."""
    now = state.view
    rows = now.fitted_rows
    return {
        "kind": "memory",
        "rows": len(rows),
        "d": rows.d,
        "columns": rows.columns,
        **state.settings(now),
        "max_age": in_longest_unit(now.limits.max_age),
        "half_life": in_longest_unit(now.half_life),
        "sigma_": now.sigma_in_use,
        "residual_error_": rows.error,
        **_storage(now),
    }


def describe_index(state: IndexState) -> dict[str, Any]:
    """See ``Index.info``."""
    now = state.view
    settings = state.settings(now)
    return {
        "kind": "index",
        "rows": len(now.fitted_rows),
        "d": now.fitted_rows.d,
        **{name: settings[name] for name in _INDEX_SETTINGS},
        **_storage(now),
    }


def _storage(now: MemoryView) -> dict[str, Any]:
    """Return what ``info`` tells of how rows are kept, in memory and in a file."""
    rows, file = now.fitted_rows, now.file
    about = {
        "attributes": [name for name in ATTRIBUTES if name in rows.attributes],
        "nbytes": rows.nbytes,
        "segments": len(rows.segments),
        "removed": sum(s.dead for s in rows.segments),
        "search": _describe_search(now),
    }
    if now.resident is not None:
        about["device"], about["device_nbytes"] = now.resident.names, now.resident.nbytes
    if file is not None:
        about["file"] = file.path
        about["file_bytes"] = os.path.getsize(file.path) if os.path.exists(file.path) else None
        about["generation"] = file.version.generation
    return about


def in_one_line(state: State) -> str:
    """See ``Memory.__repr__``."""
    now = state.view
    rows, sigma = now.rows, f"{now.sigma!r}"
    if now.sigma == "auto" and rows is not None:
        sigma += f" ({now.sigma_in_use:.4g})"
    text = (
        f"Memory(task={now.spec.task!r}, output_kind={now.spec.output_kind!r}, k={now.k}, "
        f"sigma={sigma}, temperature={now.temperature:g}, strength={now.strength:g}"
    )
    for name, value, usual in (
        ("preprocess", now.spec.preprocess.name, "none"),
        ("key_dtype", now.spec.key_dtype, "auto" if rows is None else "float32"),
        ("metric", now.spec.metric, "euclidean"),
        (
            "residual_dtype",
            state.residual_dtype,
            residual_dtype_for(now.spec.task, None),
        ),
        ("store", now.spec.store.name, "dense"),
        ("probability_map", now.map.name, "clip"),
        ("method", now.method, "residual"),
        ("gate", now.gate.name, "none"),
        ("residuals", state.residuals, None),
        ("max_rows", now.limits.max_rows, None),
        ("max_bytes", now.limits.max_bytes, None),
        ("max_age", in_longest_unit(now.limits.max_age), None),
        ("half_life", in_longest_unit(now.half_life), None),
    ):
        if value != usual:
            text += f", {name}={value!r}"
    text += ")"
    if rows is None:
        return text + " [not fitted]"
    size = rows.nbytes / (1 << 20)
    place = "" if now.resident is None else f", on {_places(now.resident)}"
    return text + f" [{len(rows)} rows, d={rows.d}, C={rows.columns}, {size:.1f} MiB{place}]"


def describe_plans(now: MemoryView) -> list[dict[str, Any]]:
    """See ``Memory.plan_``."""
    rows = now.fitted_rows
    if now.resident is not None:
        place = _places(now.resident)
        plan = {"search": place, "search_few": place, "reason": "memory.to was called"}
        return [{**plan, "rows": segment.n} for segment in rows.segments]
    decisions = (segment.planner.decision for segment in rows.segments)
    return [{} if each is None else each.described() for each in decisions]


def _places(resident: Residency) -> str:
    return " and ".join(map(str, resident.devices))


def _describe_search(now: MemoryView) -> str:
    if now.resident is not None:
        return _places(now.resident)
    built = [plan for plan in describe_plans(now) if plan.get("bytes")]
    if not built:
        return "float32"
    count, size = (sum(plan[each] for plan in built) for each in ("rows", "bytes"))
    kinds = {plan[each] for plan in built for each in ("search", "search_few")} - {"float32"}
    return f"{' and '.join(sorted(kinds))} over {count} rows, {size} bytes: " + "; ".join(
        plan["reason"] for plan in built
    )
