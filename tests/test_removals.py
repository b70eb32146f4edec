"""Removals keep each row's version and the order of removal, whatever is interrupted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resmem import _core
from resmem._rows.removals import Removals
from resmem._rows.segment import Segment

CAPACITY = 40


@given(data=st.data())
def test_removals_and_undos_leave_what_was_published(data):
    """Each step is published, or undone like an interrupted one; readers keep their entries."""
    removals, wanted, stamps = Removals(CAPACITY), [], np.zeros(CAPACITY, np.int64)
    seen = []
    for version in range(1, data.draw(st.integers(1, 12)) + 1):
        living = np.flatnonzero(stamps == 0)
        rows = data.draw(st.lists(st.sampled_from(living.tolist()), unique=True, max_size=9))
        removals.add(np.array(rows, dtype=np.int64), version, len(wanted))
        if data.draw(st.booleans()):
            wanted += rows
            stamps[rows] = version
            seen.append((removals.first(len(wanted)), list(wanted)))
        else:
            removals.undo(len(wanted))
        assert removals.first(len(wanted)).tolist() == wanted
        assert removals.stamps.tolist() == stamps.tolist()
        if len(wanted) == CAPACITY:
            break
    for entries, rows in seen:
        assert entries.tolist() == rows


def test_interrupted_removal_is_undone_by_the_next(monkeypatch):
    removals = Removals(5)
    removals.add(np.array([3]), 1, 0)
    with monkeypatch.context() as patch:
        patch.setattr(_core, "mark_died", interrupt)
        with pytest.raises(KeyboardInterrupt):
            removals.add(np.array([1, 2]), 2, 1)
    removals.add(np.array([4]), 2, 1)
    assert removals.first(2).tolist() == [3, 4]
    assert removals.stamps.tolist() == [0, 0, 0, 1, 2]


def interrupt(*arguments):
    """Stamp half of the rows, as nothing does, and end like Ctrl-C."""
    died, rows, version = arguments
    died[rows[: len(rows) // 2]] = version
    raise KeyboardInterrupt


def test_segment_keeps_its_uid_until_its_arrays_change():
    keys = np.zeros((4, 2), np.float32)
    segment, other = Segment({"keys": keys}, 4), Segment({"keys": keys}, 4)
    assert segment.uid != other.uid
    fewer = segment.with_dead(np.array([2]), 1)
    assert (fewer.uid, fewer.dead_rows().tolist()) == (segment.uid, [2])
    assert segment.dead_rows().tolist() == []
    assert fewer.with_arrays({"keys": keys}, frozenset()).uid != segment.uid
