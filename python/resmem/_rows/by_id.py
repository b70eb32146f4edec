"""Rows of a memory by id, as they are stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from resmem._base.arrays import I64, Array, Keys
from resmem._keys.stored import widen_keys
from resmem._rows.attributes import times_as_given
from resmem._rows.segment import Segment, room
from resmem._rows.snapshot import Snapshot
from resmem._rows.spec import Spec


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a memory, in the order in which their ids were asked for.

    Attributes
    ----------
    ids : int64 array (m,)
    embeddings : float32 or float64 array (m, w)
        The keys, as ``preprocess`` made them and at full width; with preprocess="none" these are
        the embeddings, as far as ``key_dtype`` holds them. Float64 embeddings of a memory with
        metric="cosine" are multiplied by powers of two, row by row, which leaves cosines as they
        are.
    outputs : array (m, C) or (m,), or None
        The base model's outputs as they were given, in float32, for regression in float64; None if
        the store keeps none of them (all but "dense").
    targets : array (m,) of classes, as in ``Memory.classes_``; for regression (m, C) or (m,)
    attributes : dict
        "weights", "times" and "groups" (m,), those that some rows of the memory were given; rows
        that were not given a weight or a group have 1 and -1. Groups are the numbers that labels
        have (``Memory.fit``).
    """

    ids: I64
    embeddings: Keys
    outputs: Array | None
    targets: Array
    attributes: Mapping[str, Array]

    def __len__(self) -> int:
        return len(self.ids)


def rows_by_id(rows: Snapshot, ids: I64, spec: Spec) -> Rows:
    """Return the rows with these ids (m,), which may repeat; ValueError if one is not there."""
    found = Gathered(rows, ids, spec)
    names = frozenset.intersection(*(frozenset(s.arrays) for s in found.segments))
    targets = found.array("targets")
    outputs = found.array("outputs") if "outputs" in names else None
    if rows.flat:
        targets, outputs = targets[:, 0], None if outputs is None else outputs[:, 0]
    attributes = {name: found.array(name) for name in rows.attributes}
    if rows.time_kind is not None and "times" in attributes:
        attributes["times"] = times_as_given(attributes["times"], rows.time_kind)
    return Rows(ids, found.embeddings(), outputs, targets, attributes)


class Gathered:
    """Living rows with these ids (m,), which may repeat, gathered from their segments."""

    def __init__(self, rows: Snapshot, ids: I64, spec: Spec, verb: str = "get") -> None:
        self._preprocess, self._count = rows.preprocess, len(ids)
        found = zip(rows.segments, rows.rows_of(ids, verb), strict=True)
        every = [(segment, at, where) for segment, (at, where) in found]
        if not every:
            empty = Segment(room(spec.schema(rows.d, rows.columns), 0), 0)
            every = [(empty, ids, np.arange(len(ids)))]
        # Segments, some of their rows, and where these go.
        self._parts = [part for part in every if len(part[1])] or every[:1]

    @property
    def segments(self) -> list[Segment]:
        """The segments that hold some of the rows; a single one if there are none."""
        return [segment for segment, _, _ in self._parts]

    def array(self, name: str) -> Array:
        """Return the rows of an array."""
        array: Array = self._gathered(lambda segment, at: segment.values(name, at))
        # Earlier versions took groups below -1 too, which mean none.
        return np.maximum(array, -1) if name == "groups" else array

    def embeddings(self) -> Keys:
        """Return the keys at full width; an offset that was subtracted is added again."""
        made_by = self._preprocess
        keys: Keys = self._gathered(lambda s, at: made_by.unshifted(widen_keys(s["keys"][at])))
        return keys

    def _gathered(self, part_of: Callable[[Segment, I64], Any]) -> Any:
        parts = [(part_of(segment, at), where) for segment, at, where in self._parts]
        first = parts[0][0]
        dtype = np.result_type(*(part for part, _ in parts))
        gathered = np.empty((self._count, *first.shape[1:]), dtype)
        for part, where in parts:
            gathered[where] = part
        return gathered
