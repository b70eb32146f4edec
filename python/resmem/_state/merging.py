"""Merging two memories: what they must have in common, and the rows of both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from resmem._rows.snapshot import Snapshot
from resmem._state.view import MemoryView


def merged(into: MemoryView, other: MemoryView) -> MemoryView:
    """Return ``into`` with the rows of ``other`` behind its own, in segments that both share.

    ValueError if they are kept in different ways, or if a row of ``other`` has an id that ``into``
    has or ever had. Both must have rows.
    """
    mine, theirs = into.fitted_rows, other.fitted_rows
    _refuse_other_arguments(_arguments(into), _arguments(other))
    _refuse_other_columns(mine, theirs)
    _refuse_other_numbers(into, other)
    if theirs.temperature != mine.temperature:
        if other.spec.store.fixed_temperature:
            raise ValueError(
                f"temperature is fixed at fit for store={other.spec.store.name!r}, and the "
                f"memories have {mine.temperature:g} and {theirs.temperature:g}; fit the other one "
                f"again with temperature={mine.temperature!r}"
            )
        theirs = other.at_temperature(mine.temperature).fitted_rows
    if theirs.time_kind != mine.time_kind:
        raise ValueError(
            "memories must both have times, of one kind, or none to be merged, got "
            f"{mine.time_kind or 'none'} and {theirs.time_kind or 'none'}; fit the other one again"
        )
    rows = mine.with_checked_ids().joined_with(theirs.with_checked_ids())
    return replace(into, rows=rows).with_measured_sigma()


def _refuse_other_arguments(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Refuse other arguments of ``Memory``, as far as they say how rows are kept."""
    for name, value in mine.items():
        if theirs[name] != value:
            raise ValueError(
                f"memories must have one {name} to be merged, got {value!r} and {theirs[name]!r}; "
                f"fit the other one again with {name}={value!r}"
            )


def _arguments(view: MemoryView) -> dict[str, Any]:
    """Return the arguments of ``Memory`` that say how rows are kept."""
    spec = view.spec
    return {
        "task": spec.task,
        "output_kind": spec.output_kind,
        "store": spec.store.name,
        "residual_dtype": spec.store.residual_dtype,
        "preprocess": spec.preprocess.name,
        "key_dtype": spec.key_dtype,
        "metric": spec.metric,
        "classes": None if spec.labels is None else [*spec.labels.names],
    }


def _refuse_other_columns(mine: Snapshot, theirs: Snapshot) -> None:
    """Refuse rows whose columns are others than those of ``mine``."""
    for what, one, two in (
        ("width of embeddings", mine.d, theirs.d),
        ("width of outputs", mine.columns, theirs.columns),
        ("shape of targets", *("(n,)" if rows.flat else "(n, C)" for rows in (mine, theirs))),
    ):
        if one != two:
            raise ValueError(f"memories must have one {what} to be merged, got {one} and {two}")
    for what, names, others in (
        ("embeddings", mine.embedding_names, theirs.embedding_names),
        ("outputs", mine.output_names, theirs.output_names),
    ):
        if names is not None and others is not None and names != others:
            at = next(i for i, name in enumerate(names) if name != others[i])
            raise ValueError(
                f"memories must have the same columns of {what}, column {at} is {names[at]!r} and "
                f"{others[at]!r}; fit the other one again with columns in one order"
            )


def _refuse_other_numbers(into: MemoryView, other: MemoryView) -> None:
    """Refuse a preprocess or a head whose numbers are not, to the bit, those of ``into``."""
    mine, theirs = (view.fitted_rows.preprocess for view in (into, other))
    if not _equal(mine.arrays, theirs.arrays):
        raise ValueError(
            "memories must have the same numbers, and these were fitted to different rows "
            f"({mine.described}, {theirs.described}); make the other one of a copy of this one: "
            "copy.copy(memory), remove all of its rows, add the other rows with ids of their own"
        )
    if not _equal(into.spec.store.shared, other.spec.store.shared):
        raise ValueError(
            "memories must have one head to be merged, and these have other weights or biases; fit "
            "the other one again with the head of this one"
        )


def _equal(one: Any, two: Any) -> bool:
    return one.keys() == two.keys() and all(np.array_equal(one[n], two[n]) for n in one)
