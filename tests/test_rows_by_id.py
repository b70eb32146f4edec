"""Rows by id: read as they are stored, and replaced under their ids."""

from __future__ import annotations

import copy
import pickle
import re
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import resmem
from resmem import _core
from resmem._files import container
from resmem._rows import snapshot as _snapshot
from resmem._rows.ids import cut, in_runs, joined, runs
from resmem._rows.segment import Segment
from resmem._rows.snapshot import Snapshot

D, C = 3, 2
HEAD = np.arange(6.0).reshape(C, D), np.zeros(C)
STORES = {
    "logits": {},
    "probabilities": {"output_kind": "probabilities"},
    "values": {"task": "regression"},
    "flat values": {"task": "regression"},
    "sparse": {"store": "sparse:1"},
    "head": {"store": "head", "head": HEAD},
}


def examples(rng, n, store="logits"):
    keys = rng.standard_normal((n, D)).astype(np.float32)
    outputs, targets = rng.standard_normal((n, C)).astype(np.float32), rng.integers(0, C, n)
    if store == "probabilities":
        outputs = np.full((n, C), 0.5, np.float32)
    elif store == "values":
        outputs, targets = rng.standard_normal((n, C)), rng.standard_normal((n, C))
    elif store == "flat values":
        outputs, targets = rng.standard_normal(n), rng.standard_normal(n)
    elif store == "head":
        outputs = None
    return keys, outputs, targets


def settled(mem):
    """Wait for the compaction, if there is one, and return the memory."""
    if mem._state._compactor is not None:
        mem._state._compactor.join()
    return mem


def same(one, two):
    assert (one is None) == (two is None)
    if one is not None:
        assert (one.dtype, one.tobytes()) == (two.dtype, two.tobytes())


# ---- Reading ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", [None, [7, 3, 900, 5, 11, 2]])
@pytest.mark.parametrize("store", STORES)
def test_get_returns_what_was_given_in_the_order_asked(store, ids):
    rng = np.random.default_rng(1)
    keys, outputs, targets = examples(rng, 6, store)
    mem = resmem.Memory(**STORES[store]).fit(keys, outputs, targets, ids=ids)
    mem.add(*examples(rng, 3, store))
    known = np.arange(6) if ids is None else np.array(ids)
    assert mem.ids.tolist() == [*known, *range(known.max() + 1, known.max() + 4)]
    order = [4, 0, 4, 5]
    got = mem.get(known[order])
    assert (len(got), got.ids.tolist()) == (4, known[order].tolist())
    same(got.embeddings, keys[order])
    same(got.targets, targets[order])
    same(got.outputs, None if store in ("sparse", "head") else outputs[order])
    assert got.attributes == {}
    assert mem.get(int(known[2])).targets.shape[0] == 1
    nothing = mem.get([])
    assert (nothing.embeddings.shape, len(nothing.targets)) == ((0, D), 0)
    with pytest.raises(ValueError, match=r"ids to get must be in the memory, -1 is not"):
        mem.get([known[0], -1])
    mem.remove(known[4])
    with pytest.raises(ValueError, match=rf"ids to get must be in the memory, {known[4]} is not"):
        mem.get(known[order])


def test_get_widens_keys_and_adds_a_subtracted_offset():
    rng = np.random.default_rng(2)
    keys, outputs, targets = examples(rng, 40)
    for key_dtype in ("float16", "bfloat16"):
        got = resmem.Memory(key_dtype=key_dtype).fit(keys, outputs, targets).get([3]).embeddings
        assert got.dtype == np.float32
        np.testing.assert_allclose(got[0], keys[3], rtol=2**-7)
    times = 1.7e9 + np.cumsum(rng.uniform(size=(40, 1)), axis=0)
    got = resmem.Memory().fit(times, outputs, targets).get([3, 39]).embeddings
    np.testing.assert_allclose(got, times[[3, 39]], atol=1e-5, rtol=0)
    mem = resmem.Memory(preprocess="center").fit(keys, outputs, targets)
    np.testing.assert_allclose(mem.get([5]).embeddings[0], keys[5] - keys.mean(axis=0), atol=1e-6)


def test_get_returns_other_arrays_of_a_segment_by_name():
    rng = np.random.default_rng(3)
    mem = resmem.Memory().fit(*examples(rng, 5))
    rows = mem._state.view.rows
    (segment,) = rows.segments
    weighted = segment.with_arrays({**segment.arrays, "weights": np.arange(5.0)}, frozenset())
    mem._state.publish(rows=Snapshot((weighted,), D, C, next_id=5))
    assert mem.get([4, 1]).attributes["weights"].tolist() == [4.0, 1.0]


@pytest.mark.parametrize("store", STORES)
def test_memory_fitted_to_no_rows_gets_none_of_them(store, tmp_path):
    mem = resmem.Memory(**STORES[store])
    rows = examples(np.random.default_rng(15), 2, store)
    mem.fit(*(None if part is None else part[:0] for part in rows))
    for one in (mem, resmem.Memory.load(mem.save(tmp_path / "m")._state.view.file.path)):
        got = one.get([])
        same(got.embeddings, rows[0][:0])
        same(got.targets, rows[2][:0])
        same(got.outputs, None if store in ("sparse", "head") else rows[1][:0])
        assert (got.embeddings.shape, got.targets.shape) == ((0, D), rows[2][:0].shape)
        with pytest.raises(ValueError, match=r"ids to get must be in the memory, 0 is not"):
            one.get([0])


def test_memory_without_rows_has_no_ids_and_gets_none():
    assert resmem.Memory().ids.tolist() == []
    with pytest.raises(resmem.NotFittedError):
        resmem.Memory().get([0])
    with pytest.raises(resmem.NotFittedError):
        resmem.Memory().update([0], *examples(np.random.default_rng(0), 1))


# ---- Updates ---------------------------------------------------------------------------------


class Mirror:
    """What a memory should hold: rows by id, in a dictionary."""

    def __init__(self, store, given_ids, rng):
        self.store, self.rng, self.rows = store, rng, {}
        self.mem = resmem.Memory(k=3, sigma=1.0, **STORES[store])
        n = 12
        ids = rng.permutation(40)[:n] if given_ids else np.arange(n)
        rows = examples(rng, n, store)
        self.mem.fit(*rows, ids=ids if given_ids else None)
        self.next = int(ids.max()) + 1
        self.note(ids, rows)

    def note(self, ids, rows):
        for at, i in enumerate(ids):
            self.rows[int(i)] = [None if part is None else part[at] for part in rows]

    def update(self, count):
        ids = self.rng.choice(list(self.rows), min(count, len(self.rows)), replace=False)
        rows = examples(self.rng, len(ids), self.store)
        self.mem.update(ids, *rows)
        self.note(ids, rows)

    def add(self, count):
        rows = examples(self.rng, count, self.store)
        self.mem.add(*rows)
        self.note(range(self.next, self.next + count), rows)
        self.next += count

    def remove(self, count):
        if len(self.rows) > count + 3:
            ids = self.rng.choice(list(self.rows), count, replace=False)
            self.mem.remove(ids)
            for i in ids:
                del self.rows[int(i)]

    def whole(self):
        """Return a memory fitted to the rows that there should be."""
        parts = zip(*self.rows.values(), strict=True)
        rows = [None if part[0] is None else np.stack(part) for part in parts]
        mem = resmem.Memory(k=3, sigma=1.0, **STORES[self.store])
        return mem.fit(*rows, ids=list(self.rows))

    def check(self, mem):
        assert sorted(mem.ids.tolist()) == sorted(self.rows)
        asked = list(self.rows)
        wanted, got = self.whole().get(asked), mem.get(asked)
        for name in ("embeddings", "outputs", "targets"):
            same(getattr(got, name), getattr(wanted, name))
        queries, outputs, _ = examples(np.random.default_rng(5), 4, self.store)
        for one, two in zip(
            (*mem.kneighbors(queries), mem.correct(queries, outputs)),
            (*self.whole().kneighbors(queries), self.whole().correct(queries, outputs)),
            strict=True,
        ):
            same(one, two)
        assert mem._state.view.rows.id_fault() == ""


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["update", "update", "remove", "add", "append", "save", "pickle", "copy", "export"]
        ),
        st.integers(1, 6),
    ),
    max_size=14,
)


@pytest.mark.parametrize("given_ids", [False, True])
@pytest.mark.parametrize("store", STORES)
@settings(max_examples=12)
@given(steps=STEPS, seed=st.integers(0, 99))
def test_updates_equal_a_fit_of_the_rows_that_are_left(
    store, given_ids, steps, seed, tmp_path_factory
):
    mirror = Mirror(store, given_ids, np.random.default_rng(seed))
    path = str(tmp_path_factory.mktemp("updates") / "m.resmem")
    mirror.mem.save(path)
    for name, count in steps:
        mem = mirror.mem
        if name in ("update", "remove", "add"):
            getattr(mirror, name)(count)
        elif name == "append" and mem._state.view.file is not None:
            mem.save(path, append=True)
            mirror.check(resmem.Memory.load(path))
            mirror.mem = resmem.Memory.load(path, verify=False)
        elif name == "save":
            mem.save(path)
        elif name == "pickle":
            mirror.mem = pickle.loads(pickle.dumps(mem))
        elif name == "copy":
            mirror.mem = copy.copy(mem)
        elif name == "export":
            mem.export(path[:-7] + ".npz")
            mirror.check(resmem.Memory.load(path[:-7] + ".npz"))
    mirror.check(mirror.mem)
    mirror.check(settled(mirror.mem))
    gone = np.setdiff1d(np.arange(mirror.next), list(mirror.rows))[:1]
    if len(gone) and not given_ids:
        with pytest.raises(ValueError, match="never have been used"):
            mirror.mem.add(*examples(mirror.rng, 1, store), ids=gone)


def test_one_id_updated_many_times_takes_no_more_room(monkeypatch):
    """Every update leaves a removed row, which the compaction takes away."""
    monkeypatch.setattr(_snapshot, "LEAST_ROOM", 1)
    rng = np.random.default_rng(4)
    mem = resmem.Memory(k=1, sigma=1.0).fit(*examples(rng, 10))
    for i in range(600):
        keys, outputs, targets = examples(rng, 1)
        mem.update([i % 2], keys, outputs, targets)
        if i % 50 == 0:
            same(mem.get([i % 2]).embeddings, keys)
            settled(mem)
    settled(mem)
    rows = mem._state.view.rows
    assert len(mem) == 10
    assert sum(s.n for s in rows.segments) < 200
    assert rows.retired.tolist() == []
    assert mem.ids.tolist()[-1] == 1  # the row that was written last lies behind all others


@pytest.mark.parametrize(("n", "count"), [(300, 15), (2000, 40), (40, 40)])
def test_a_stream_of_updates_leaves_few_segments(monkeypatch, n, count):
    """Segments that updates have emptied are merged with their neighbours, not one by one."""
    monkeypatch.setattr(_snapshot, "LEAST_ROOM", 1)
    rng = np.random.default_rng(14)
    mem = resmem.Memory(k=1, sigma=1.0).fit(*examples(rng, n))
    most = 0
    for _ in range(150):
        mem.update(rng.choice(n, count, replace=False), *examples(rng, count))
        rows = settled(mem)._state.view.rows
        most = max(most, len(rows.segments))
        assert sum(segment.n for segment in rows.segments) <= 4 * n
    assert most <= 16
    assert sorted(mem.ids.tolist()) == list(range(n))


def test_running_searches_see_the_old_rows_or_the_new():
    """All rows are replaced at once, again and again: no search may see rows of two updates."""
    n, rounds, wrong, done = 400, 120, [], threading.Event()
    outputs, targets = np.zeros((n, C), np.float32), np.zeros(n, dtype=int)

    def keys_of(turn):
        return np.full((n, D), turn, np.float32)

    mem = resmem.Memory(k=n, sigma=1.0).fit(keys_of(0), outputs, targets)

    def search():
        while not done.is_set():
            distances, ids = mem.kneighbors(np.zeros((1, D)))
            if len(set(distances[0])) != 1 or sorted(ids[0]) != list(range(n)):
                wrong.append((distances, ids))
            got = mem.get(np.arange(n))
            if len(np.unique(got.embeddings)) != 1:
                wrong.append(got)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(1, rounds):
        mem.update(np.arange(n)[:: (-1) ** turn], keys_of(turn), outputs, targets)
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert mem.kneighbors(np.zeros((1, D)), k=1)[0][0, 0] == pytest.approx((rounds - 1) * D**0.5)


def test_snapshot_from_before_an_update_still_finds_its_rows():
    rng = np.random.default_rng(6)
    keys, outputs, targets = examples(rng, 9)
    mem = resmem.Memory(k=1, sigma=1.0).fit(keys, outputs, targets, ids=np.arange(9)[::-1] * 5)
    mem.update([10, 25], *examples(rng, 2))
    before = mem._state.view.rows
    old = before.positions_of(np.array([10, 5, 25]))
    mem.update([25, 10], *examples(rng, 2)).add(*examples(rng, 1), ids=[99])
    mem.get([10, 99])  # the table of ids now holds the later rows
    assert before.positions_of(np.array([10, 5, 25])).tolist() == old.tolist()
    assert before.lives(np.array([99, 25, 7])).tolist() == [False, True, False]
    assert mem._state.view.rows.positions_of(np.array([25, 10])).tolist() != old[[2, 0]].tolist()


def interrupted(*arguments):
    """Stamp half of the rows, as nothing does, and end like Ctrl-C."""
    died, rows, version = arguments
    died[rows[: (len(rows) + 1) // 2]] = version
    raise KeyboardInterrupt


@pytest.mark.parametrize("removed_before", [False, True])
@pytest.mark.parametrize("where", ["stamps", "publication"])
def test_interrupted_update_changes_nothing(monkeypatch, where, removed_before):
    rng = np.random.default_rng(7)
    mem = resmem.Memory(k=3, sigma=1.0).fit(*examples(rng, 20))
    if removed_before:
        mem.remove([4]).update([6], *examples(rng, 1))
    queries, before, ids = examples(rng, 5)[0], mem._state.view.rows, mem.ids
    found = mem.kneighbors(queries, k=20)
    with monkeypatch.context() as patch:
        if where == "stamps":
            patch.setattr(_core, "mark_died", interrupted)
        else:
            patch.setattr(mem._state, "publish", lambda **_: interrupted(np.empty(0), [], 0))
        with pytest.raises(KeyboardInterrupt):
            mem.update([2, 6, 9], *examples(rng, 3))
    assert mem._state.view.rows is before
    assert mem.ids.tolist() == ids.tolist()
    for one, two in zip(found, mem.kneighbors(queries, k=20), strict=True):
        same(one, two)
    keys, outputs, targets = examples(rng, 3)
    same(mem.update([2, 6, 9], keys, outputs, targets).get([9, 2, 6]).embeddings, keys[[2, 0, 1]])
    assert len(mem) == len(ids)


def test_refused_update_changes_nothing():
    rng = np.random.default_rng(8)
    keys, outputs, targets = examples(rng, 3)
    mem = resmem.Memory(k=1).fit(*examples(rng, 6)).remove([5])
    before = mem._state.view.rows
    for ids, words in (
        ([0, 5, 1], "ids to update must be in the memory, 5 is not"),
        ([0, 77, 1], "ids to update must be in the memory, 77 is not"),
        ([0, 1, 0], "ids must be unique, got 0 more than once"),
        (None, "ids are missing; update needs those of the rows to replace"),
    ):
        with pytest.raises(ValueError, match=words):
            mem.update(ids, keys, outputs, targets)
    keys[1, 0] = np.nan
    with pytest.raises(ValueError, match="row 1 holds NaN"):
        mem.update([0, 1, 2], keys, outputs, targets)
    assert mem._state.view.rows is before
    mem.update([], *examples(rng, 0))
    assert mem._state.view.rows is before


# ---- Files -----------------------------------------------------------------------------------


def sections_of(path):
    return set(container.load(path, verify=True).arrays)


def test_file_says_that_removed_rows_have_ids_of_others(tmp_path):
    """Versions that take every id for that of one row must refuse such a file, and no other."""
    rng, path = np.random.default_rng(9), str(tmp_path / "m.resmem")
    mem = resmem.Memory(k=1).fit(*examples(rng, 9)).remove([8]).save(path)
    mem.remove([7]).save(path, append=True)
    assert "needs/updates" not in sections_of(path)
    mem.update([0, 3], *examples(rng, 2)).save(path, append=True)
    assert "needs/updates" in container.load(path, verify=True).required
    again = resmem.Memory.load(path)
    again.update([3], *examples(rng, 1)).save(path, append=True)
    same(resmem.Memory.load(path, verify=False).get([3]).embeddings, again.get([3]).embeddings)
    again.save(path)
    assert "needs/updates" not in sections_of(path)
    resmem.Memory.load(path).add(*examples(rng, 1)).save(path, append=True)
    assert "needs/updates" not in sections_of(path)


def rows_of(parts, **fields):
    """Return a snapshot of segments, each given as ids, or the first of n, and removed rows."""
    segments = []
    for ids, dead in parts:
        n = ids[1] if isinstance(ids, tuple) else len(ids)
        arrays = {"keys": np.zeros((n, D), np.float32)}
        first = ids[0] if isinstance(ids, tuple) else 0
        if not isinstance(ids, tuple):
            arrays["ids"] = np.array(ids)
        segment = Segment(arrays, n, first_id=first)
        segments.append(segment.with_dead(np.array(dead), 1) if dead else segment)
    return Snapshot(tuple(segments), D, C, next_id=50, version=1, **fields)


@pytest.mark.parametrize(
    ("parts", "retired", "fault"),
    [
        ([([3, 4, 3], [0])], [], ""),
        ([([3, 4, 3], [2])], [], "two rows have the id 3"),
        ([([3, 4, 3], [1])], [], "two rows have the id 3"),
        ([([3, 3, 3], [0, 1, 2])], [3], ""),
        ([((0, 5), [2]), ([2, 9], [])], [], ""),
        ([((0, 5), [1]), ([2, 9], [])], [], "two rows have the id 2"),
        ([((0, 5), [2]), ([2, 9], [0])], [2], ""),
        ([((0, 5), [1]), ([9], [])], [2], r"2 is the id of a row and of a removed one"),
        (
            [((0, 5), []), ([9, 9], [0])],
            [2],
            r"\[2 2\] holds the ids of removed rows and of others",
        ),
        ([((0, 5), [1]), ([60], [0])], [], "next_id is 50, but 60 is the id of a row"),
    ],
)
def test_ids_of_updated_rows_are_checked(parts, retired, fault):
    rows = rows_of(parts, retired=runs(np.array(retired, dtype=np.int64)), updated=True)
    assert re.fullmatch(fault, rows.id_fault()), rows.id_fault()
    if fault == "":  # without the mark of an update, no id may occur twice
        plain = rows_of(parts, retired=runs(np.array(retired, dtype=np.int64)))
        assert plain.id_fault() != ""


# ---- Sets of ids -----------------------------------------------------------------------------

FEW = st.lists(st.one_of(st.integers(0, 30), st.integers(2**63 - 9, 2**63 - 1)), max_size=25)


@given(one=FEW, other=FEW, gone=FEW)
def test_runs_are_joined_and_cut_like_sets(one, other, gone):
    union = joined(runs(np.array(one, np.int64)), runs(np.array(other, np.int64)))
    assert union.tolist() == runs(np.array(one + other, np.int64)).tolist()
    ids = np.array(gone, np.int64)
    ids = ids[in_runs(ids, union)]
    left = set(one + other) - set(gone)
    assert cut(union, ids).tolist() == runs(np.array(sorted(left), np.int64)).tolist()
