"""Which rows a query may see, as callers say it and as searches take it."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from resmem._base import checks, convert
from resmem._base.arrays import I64, Array, distinct, picked_rows, to_numpy
from resmem._rows.attributes import times_of
from resmem._rows.group_labels import group_numbers, label_number
from resmem._rows.snapshot import Snapshot

_OF_EACH_QUERY = ("exclude_ids", "before", "exclude_groups")
OWN = "own"  # stands for the group, or time, of each row that is judged with loo=True


@dataclass(frozen=True)
class Visibility:
    """What a caller says of the rows that queries may see, as for ``Memory.correct``."""

    exclude_ids: Any = None
    among: Any = None
    before: Any = None
    exclude_groups: Any = None

    @property
    def given(self) -> tuple[Any, ...]:
        return (self.exclude_ids, self.among, self.before, self.exclude_groups)

    def elsewhere(self, rows: Snapshot, other: Snapshot) -> Visibility:
        """Return it for queries of another snapshot, ``among`` those rows that it has too."""
        if self.among is None:
            return self
        array = to_numpy(self.among, "among")
        ids = rows.ids[array] if array.dtype.kind == "b" else array
        return replace(self, among=ids[other.lives(np.asarray(ids, dtype=np.int64))])

    @property
    def of_each_query(self) -> dict[str, Any]:
        """What is said of each query, by name; it may lie on a device."""
        return {name: getattr(self, name) for name in _OF_EACH_QUERY}

    @property
    def of_own_rows(self) -> bool:
        """Whether it suits rows that are judged with ``loo=True``, which exclude themselves."""
        own = all(value is None or _is_own(value) for value in (self.before, self.exclude_groups))
        return own and self.exclude_ids is None

    def picked(self, rows: I64) -> Visibility:
        """Return it for some of the queries, given by their numbers in ascending order."""
        given = {name: getattr(self, name) for name in ("exclude_ids", "before")}
        groups = self.exclude_groups
        if groups is not None and not _is_one_group(groups):
            groups = group_numbers(groups, "exclude_groups", "(q, m)")[rows]
        return replace(self, exclude_groups=groups, **{
            name: value if value is None or np.ndim(value) == 0 else picked_rows(value, rows, name)
            for name, value in given.items()
        })  # fmt: skip

    def of(self, rows: Snapshot, q: int) -> VisibleRows:
        """Return it for ``q`` queries of a snapshot; raise where it does not fit."""
        before = groups = None
        for name in ("before", "exclude_groups"):
            if _is_own(getattr(self, name)):
                raise ValueError(f"{name}='own' is for loo=True; give that of each query")
        if self.before is not None:
            before = _before(self.before, rows, q)
        if self.exclude_groups is not None:
            groups = _excluded_groups(self.exclude_groups, rows, q)
        return VisibleRows(
            convert.excluded_ids(self.exclude_ids, q), groups, before, _among(self.among, rows)
        )

    def of_own(self, rows: Snapshot, ids: I64, positions: I64) -> VisibleRows:
        """Return it for rows of the snapshot, each of which does not see itself."""
        before = groups = None
        if self.before is not None:
            before = own_times(rows, positions)
        if self.exclude_groups is not None:
            groups = own_groups(rows, positions)[:, None]
        return VisibleRows(ids[:, None], groups, before, _among(self.among, rows))


EVERY_ROW = Visibility()


@dataclass(frozen=True)
class VisibleRows:
    """Which rows some queries may see, in the core's form; None does not restrict them."""

    excluded: I64 | None = None  # (q, m) ids, -1 for none
    groups: I64 | None = None  # (q, m) groups, -1 for none
    before: I64 | None = None  # (q,) times, of which rows have smaller ones
    # The only rows: ascending positions (m,), or a bit of each row, the lowest of a byte first.
    among: I64 | npt.NDArray[np.uint8] | None = None

    def at(self, block: slice | I64) -> VisibleRows:
        """Return the same for a block of queries, or for those with some numbers."""
        each = {"excluded": self.excluded, "groups": self.groups, "before": self.before}
        return replace(self, **{n: None if a is None else a[block] for n, a in each.items()})

    def among_rows(self, rows: Snapshot, kept: npt.NDArray[np.bool_]) -> VisibleRows:
        """Return the same for the rows of a mask alone, in the place of those it had."""
        return replace(self, among=_among(kept, rows))

    def for_core(self) -> dict[str, Any]:
        """Return the core's arguments."""
        return {
            "exclude": self.excluded,
            "exclude_groups": self.groups,
            "before": self.before,
            "among": self.among,
        }


def _is_own(value: Any) -> bool:
    return isinstance(value, str) and value == OWN


def _is_one_group(value: Any) -> bool:
    """Tell whether ``exclude_groups`` is one label, for all queries."""
    return not isinstance(value, (list, tuple)) and np.ndim(value) == 0


def own_times(rows: Snapshot, positions: I64) -> I64:
    """Return the times of rows at ascending positions."""
    check_times(rows)
    return np.concatenate([segment["times"][at] for segment, at in rows.at(positions)])


def own_groups(rows: Snapshot, positions: I64) -> I64:
    """Return the groups of rows at ascending positions, -1 for none."""
    check_groups(rows)
    return np.concatenate([segment.values("groups", at) for segment, at in rows.at(positions)])


def groups_or_singletons(rows: Snapshot, positions: I64) -> I64:
    """Return the groups of rows at ascending positions; a row that has none is alone in a group of
    its own, whose number is below 0."""
    groups = own_groups(rows, positions)
    return np.where(groups < 0, -1 - np.arange(len(groups)), groups)


def check_times(rows: Snapshot) -> None:
    """Raise ValueError if the rows have no times."""
    if rows.time_kind is None:
        raise ValueError("before needs times of the rows: give times= to fit and add")


def check_groups(rows: Snapshot) -> None:
    """Raise ValueError if no row was ever given a group."""
    if "groups" not in rows.attributes:
        raise ValueError("exclude_groups needs groups of the rows: give groups= to fit or add")


def _before(value: Any, rows: Snapshot, q: int) -> I64:
    check_times(rows)
    assert rows.time_kind is not None
    if isinstance(value, str):
        raise TypeError(
            f"before must be numbers or numpy.datetime64, got {value!r}; of a date or a time in "
            "UTC pass numpy.datetime64(before)"
        )
    if isinstance(value, datetime.date) or hasattr(value, "to_datetime64"):  # also of pandas
        value = np.datetime64(value)
    one = np.ndim(value) == 0
    times, _ = times_of(to_numpy(value, "before")[None] if one else value, "before", rows.time_kind)
    if one:
        return np.repeat(times, q)
    checks.same_length("before", len(times), "queries", q)
    return times


def _excluded_groups(value: Any, rows: Snapshot, q: int) -> I64:
    check_groups(rows)
    if _is_one_group(value):
        return np.full((q, 1), label_number(value, "exclude_groups"), dtype=np.int64)
    groups = group_numbers(value, "exclude_groups", "(q, m)")
    checks.same_length("exclude_groups", len(groups), "queries", q)
    return groups[:, None] if groups.ndim == 1 else groups


def _among(value: Any, rows: Snapshot) -> I64 | npt.NDArray[np.uint8] | None:
    """Return rows, given by their ids or by a mask of all of them, as the core has them."""
    if value is None:
        return None
    array: Array = to_numpy(value, "among")
    if array.dtype.kind == "b":
        if array.shape != (len(rows),):
            raise ValueError(
                f"among must be a mask of the {len(rows)} rows, in the order of the property ids, "
                f"or an array of ids, got a mask of shape {array.shape}"
            )
        if all(segment.dead == 0 for segment in rows.segments):
            return np.packbits(array, bitorder="little")
        return rows.numbered(np.flatnonzero(array))
    ids = convert.integers(array, "among", "(m,)")
    if len(ids) and int(ids.min()) < 0:
        raise ValueError(f"among must hold ids of rows, got {ids.min()}")
    positions = rows.positions_of(ids, "among")
    return positions if (positions[1:] > positions[:-1]).all() else distinct(positions)
