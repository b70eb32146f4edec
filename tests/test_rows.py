"""Rows that come and go: segments that grow, removals, compaction, snapshots of searches."""

from __future__ import annotations

import copy
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
import resmem
from cases import fast_switches
from resmem._base.execution import DEFAULT
from resmem._correction import correct
from resmem._correction.correct import NeighbourSearch
from resmem._rows import compaction, ingest
from resmem._rows import segment as _segment
from resmem._rows import snapshot as _snapshot
from resmem._rows.ids import NO_RUNS, in_runs, joined, runs
from resmem._rows.segment import Segment, merge, room
from resmem._rows.visibility import VisibleRows

D, C = 3, 2


def examples(rng, n):
    keys = rng.standard_normal((n, D)).astype(np.float32)
    return keys, rng.standard_normal((n, C)).astype(np.float32), rng.integers(0, C, n)


def settled(mem):
    """Wait for the compaction, if there is one, and return the memory."""
    if mem._state._compactor is not None:
        mem._state._compactor.join()
    return mem


def ids_of(mem):
    rows = mem._state.view.rows
    return np.concatenate([s.ids_of(s.living(rows.version)) for s in rows.segments])


# ---- Growth --------------------------------------------------------------------------------


def test_add_never_copies_stored_rows(monkeypatch):
    monkeypatch.setattr(_snapshot, "LEAST_ROOM", 1)
    rng = np.random.default_rng(0)
    rows = examples(rng, 401)
    mem = resmem.Memory(k=1, sigma=1.0).fit(*(part[:1] for part in rows))
    places = {}
    for i in range(1, 401):
        mem.add(*(part[i : i + 1] for part in rows))
        for number, segment in enumerate(mem._state.view.rows.segments):
            address = segment["keys"].ctypes.data
            assert places.setdefault(number, address) == address
    assert len(places) <= 10  # log2(401) segments, rounded up, and the first
    assert list(mem.kneighbors(rows[0])[1][:, 0]) == list(range(401))


def test_add_beyond_capacity_starts_a_segment_with_spare_room():
    rng = np.random.default_rng(1)
    mem = resmem.Memory(k=1, sigma=1.0).fit(*examples(rng, 100_000))
    mem.add(*examples(rng, 5))
    assert [s.capacity for s in mem._state.view.rows.segments] == [100_000, 100_000]
    mem.add(*examples(rng, 200_000))
    assert [len(s) for s in mem._state.view.rows.segments] == [100_000, 5, 200_000]


def test_add_without_memory_for_spare_room_succeeds(monkeypatch):
    real, asked = room, []

    def scarce(schema, rows):
        asked.append(rows)
        if rows > 7:
            raise MemoryError
        return real(schema, rows)

    rng = np.random.default_rng(2)
    mem = resmem.Memory(k=1, sigma=1.0).fit(*examples(rng, 30))
    monkeypatch.setattr(_snapshot, "room", scarce)
    mem.add(*examples(rng, 7))
    assert len(mem) == 37
    assert asked[0] > 7
    assert asked[1:] == [7]


def test_given_and_default_ids_share_a_segment_once_it_holds_ids():
    rng = np.random.default_rng(3)
    mem = resmem.Memory(k=1, sigma=1.0).fit(*examples(rng, 4))
    mem.add(*examples(rng, 2), ids=[50, 40])
    mem.add(*examples(rng, 2)).add(*examples(rng, 1), ids=[7])
    assert len(mem._state.view.rows.segments) == 2
    assert list(ids_of(mem)) == [0, 1, 2, 3, 50, 40, 51, 52, 7]


def test_a_failed_add_leaves_room_and_rows_as_they_were():
    rng = np.random.default_rng(4)
    mem = resmem.Memory(k=2, sigma=1.0).fit(*examples(rng, 4)).add(*examples(rng, 3))
    before = mem._state.view.rows
    keys, logits, targets = examples(rng, 5)
    keys[4, 1] = np.nan
    with pytest.raises(ValueError, match="row 4 holds NaN"):
        mem.add(keys, logits, targets)
    assert mem._state.view.rows is before
    mem.add(np.zeros((1, D)), logits[:1], targets[:1])
    assert list(mem.kneighbors(np.zeros((1, D)), k=1)[1][0]) == [7]


# ---- Removal and compaction ------------------------------------------------------------------


def test_a_removal_that_names_an_absent_row_removes_nothing():
    mem = resmem.Memory(k=1, sigma=1.0).fit(*examples(np.random.default_rng(5), 9))
    for absent in ([3, 9], [2, -1], [2**62, 1]):
        with pytest.raises(ValueError, match=f"{max(absent) if max(absent) > 8 else -1} is not"):
            mem.remove(absent)
    assert len(mem) == 9
    mem.remove([4, 4])
    with pytest.raises(ValueError, match="4 is not"):
        mem.remove(4)
    assert list(ids_of(mem)) == [0, 1, 2, 3, 5, 6, 7, 8]


def test_interrupted_removal_removes_nothing(monkeypatch):
    rng = np.random.default_rng(6)
    rows = examples(rng, 20)
    mem = resmem.Memory(k=20, sigma=1.0).fit(*rows).add(*examples(rng, 20)).remove([1, 30])
    real, calls = Segment.with_dead, []

    def interrupted(segment, dead, version):
        result = real(segment, dead, version)
        calls.append(version)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Segment, "with_dead", interrupted)
        with pytest.raises(KeyboardInterrupt):
            mem.remove([5, 25])
    assert len(calls) == 2
    mem.remove([2])  # with the version that the interrupted removal has stamped
    assert sorted(ids_of(mem)) == sorted(set(range(40)) - {1, 2, 30})
    assert 5 in mem.kneighbors(rows[0][5:6], k=1)[1]


def test_mostly_dead_segment_is_compacted_by_a_later_add():
    rng = np.random.default_rng(7)
    mem = resmem.Memory(k=5, sigma=1.0).fit(*examples(rng, 100))
    mem.remove(np.arange(60))
    assert mem._state.view.rows.segments[0].n == 100
    settled(mem.add(*examples(rng, 1)))
    assert [len(s) for s in mem._state.view.rows.segments] == [40, 1]
    assert list(ids_of(mem)) == list(range(60, 101))
    assert mem._state.view.rows.retired.tolist() == [[0, 59]]


def test_merge_in_small_pieces_changes_no_answer(monkeypatch):
    monkeypatch.setattr(_segment, "_COPY_BYTES", 50)
    rng = np.random.default_rng(22)
    rows = examples(rng, 60)
    mem = resmem.Memory(k=9, sigma=1.0).fit(*(part[:40] for part in rows))
    mem.add(*(part[40:] for part in rows), ids=np.arange(59, 39, -1)).remove([2, 3, 50])
    merged = merge(mem._state.view.rows.segments, mem._state.view.rows.version)
    wanted = mem.correct(*rows[:2])
    mem.temperature = 2.0  # derives residuals from outputs and targets
    warmer = mem.correct(*rows[:2])
    mem.temperature = 1.0
    mem._state.publish(rows=replace(mem._state.view.rows, segments=(merged,)))
    assert mem.correct(*rows[:2]).tobytes() == wanted.tobytes()
    mem.temperature = 2.0
    assert mem.correct(*rows[:2]).tobytes() == warmer.tobytes()


def test_many_small_segments_become_one():
    rng = np.random.default_rng(8)
    mem = resmem.Memory(k=5, sigma=1.0).fit(*examples(rng, 1000))
    for _ in range(12):
        with mem._state._lock:
            mem._state.publish(rows=mem._state.view.rows.sealed())
        settled(mem.add(*examples(rng, 10)))
    assert len(mem._state.view.rows.segments) < 9
    assert mem._state.view.rows.segments[0].n == 1000  # the large one stays where it is
    assert list(ids_of(mem)) == list(range(1120))


def test_compaction_does_not_copy_many_mapped_rows(tmp_path, monkeypatch):
    rng = np.random.default_rng(13)
    path = tmp_path / "m"
    resmem.Memory(k=5, sigma=1.0).fit(*examples(rng, 3000)).save(path)
    for most, expected in ((0, [3000, 1]), (1 << 20, [1000, 1])):
        monkeypatch.setattr(compaction, "_MOST_COPIED", most)
        mem = resmem.Memory.load(path).remove(np.arange(2000))
        settled(mem.add(*examples(rng, 1)))
        assert [len(s) for s in mem._state.view.rows.segments] == expected


def test_add_after_a_save_reserves_little_room(tmp_path):
    rng = np.random.default_rng(14)
    mem = resmem.Memory(k=5, sigma=1.0).fit(*examples(rng, 100_000)).save(tmp_path / "m")
    mem.add(*examples(rng, 1))
    assert mem._state.view.rows.segments[1].capacity < 50_000


def test_rows_removed_during_a_compaction_stay_removed():
    rng = np.random.default_rng(9)
    mem = resmem.Memory(k=5, sigma=1.0).fit(*examples(rng, 10)).remove(range(6))
    before = mem._state.view.rows.sealed()
    mem._state.publish(rows=before)
    merged = merge(before.segments, before.version)
    mem.remove([8])
    after = mem._state.view.rows.compacted(
        slice(0, 1), before, merged, before.dead_ids(slice(0, 1))
    )
    assert after is not None
    assert list(after.segments[0].ids_of(after.segments[0].living(after.version))) == [6, 7, 9]
    assert len(after) == 3
    assert after.retired.tolist() == [[0, 5]]
    assert after.all_retired().tolist() == [[0, 5], [8, 8]]


def test_compaction_of_replaced_rows_is_dropped():
    rng = np.random.default_rng(10)
    mem = resmem.Memory(k=5, sigma=1.0).fit(*examples(rng, 10)).remove(range(6))
    before = mem._state.view.rows
    merged = merge(before.segments, before.version)
    mem.fit(*examples(rng, 3))
    now = mem._state.view.rows
    mem._state._compact(before, slice(0, 1))
    assert mem._state.view.rows is now
    assert now.compacted(slice(0, 1), before, merged, before.dead_ids(slice(0, 1))) is None


@settings(max_examples=settings().max_examples // 8)
@given(
    seed=st.integers(0, 2**31),
    steps=st.lists(
        st.sampled_from(["add", "given ids", "remove", "remove most", "seal", "save"]), max_size=14
    ),
)
def test_any_history_with_compactions_gives_the_oracles_rows(tmp_path_factory, seed, steps):
    """Segments of every kind, merged or not, have the oracle's rows."""
    rng = np.random.default_rng(seed)
    path = tmp_path_factory.mktemp("rows") / "memory.resmem"
    mine, theirs = resmem.Memory(k=9, sigma=1.0), oracle.OracleMemory(k=9, sigma=1.0)
    first = examples(rng, 12)
    for m in (mine, theirs):
        m.fit(*first)
    for step in steps:
        rows = examples(rng, int(rng.integers(1, 6)))
        living = theirs.ids_[theirs.alive_]
        if step == "add":
            mine.add(*rows)
            theirs.add(*rows)
        elif step == "given ids":
            ids = rng.permutation(len(rows[0])) * 3 + int(theirs.ids_.max()) + 1
            mine.add(*rows, ids=ids)
            theirs.add(*rows, ids=ids)
        elif step == "seal":
            mine._state.publish(rows=mine._state.view.rows.sealed())
        elif step == "save":
            mine.save(path, append=mine._state.view.file is not None)
            mine = resmem.Memory.load(path)
        else:
            share = 0.9 if step == "remove most" else 0.2
            gone = living[rng.random(len(living)) < share]
            mine.remove(gone)
            theirs.remove(gone)
        settled(mine)
    assert list(ids_of(mine)) == list(theirs.ids_[theirs.alive_])
    queries, outputs, _ = examples(rng, 5)
    for got, wanted in zip(mine.kneighbors(queries), theirs.kneighbors(queries), strict=True):
        assert got.tobytes() == wanted.tobytes()
    assert mine.correct(queries, outputs).tobytes() == theirs.correct(queries, outputs).tobytes()
    used = theirs.ids_
    for id_ in used:
        with pytest.raises(ValueError, match="never have been used"):
            mine.add(*(part[:1] for part in examples(rng, 1)), ids=[id_])


def test_sliding_window_stays_small():
    rng = np.random.default_rng(15)
    mem = resmem.Memory(k=5, sigma=1.0).fit(*examples(rng, 1000))
    for i in range(150):
        settled(mem.add(*examples(rng, 100)))
        mem.remove(np.arange(i * 100, i * 100 + 100))
    assert len(mem) == 1000
    assert len(mem._state.view.rows.segments) < 20
    assert mem._state.view.rows.all_retired().tolist() == [[0, 14_999]]
    assert mem.nbytes < 20 * 1000 * 60


@given(st.lists(st.sets(st.integers(0, 60)), max_size=5))
def test_runs_hold_the_ids_that_were_put_in(parts):
    taken, of = set(), NO_RUNS
    for part in parts:
        new = part - taken
        of = joined(of, runs(np.array(sorted(new), dtype=np.int64)))
        taken |= new
    every = np.arange(-1, 63)
    assert list(in_runs(every, of)) == [int(i) in taken for i in every]
    assert (of[1:, 0] > of[:-1, 1] + 1).all()  # runs are as few as possible


def test_largest_id_is_held_by_a_run():
    last = 2**63 - 1
    of = runs(np.array([last, last - 1, 5]))
    assert of.tolist() == [[5, 5], [last - 1, last]]
    assert list(in_runs(np.array([last, last - 2, 5]), of)) == [True, False, True]


def test_interrupt_at_the_start_of_compaction_undoes_the_add(monkeypatch):
    rng = np.random.default_rng(16)
    mem = resmem.Memory(k=5, sigma=1.0).fit(*examples(rng, 100)).remove(range(60))

    def interrupted(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            mem.add(*examples(rng, 7))
    assert len(mem) == 40
    settled(mem.add(*examples(rng, 7)))
    assert list(ids_of(mem)) == list(range(60, 107))


# ---- Changes during other calls ------------------------------------------------------------


def test_a_query_computes_with_the_temperature_of_its_rows(monkeypatch):
    rng = np.random.default_rng(17)
    rows = examples(rng, 50)
    mem = resmem.Memory(k=5, sigma=1.0).fit(*rows)
    queries = examples(rng, 6)
    wanted = mem.correct(*queries[:2])
    real = correct.NeighbourSearch.corrections

    def meanwhile(*arguments):
        mem.temperature = 5.0
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(correct.NeighbourSearch, "corrections", meanwhile)
        assert mem.correct(*queries[:2]).tobytes() == wanted.tobytes()
    again = resmem.Memory(k=5, sigma=1.0, temperature=5.0).fit(*rows)
    assert mem.correct(*queries[:2]).tobytes() == again.correct(*queries[:2]).tobytes()


def test_a_temperature_set_during_a_fit_is_that_of_its_residuals(monkeypatch):
    rng = np.random.default_rng(18)
    rows, queries = examples(rng, 50), examples(rng, 6)
    mem = resmem.Memory(k=5, sigma=1.0)
    real = ingest.Incoming.write

    def meanwhile(*arguments):
        mem.temperature = 5.0
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ingest.Incoming, "write", meanwhile)
        mem.fit(*rows)
    again = resmem.Memory(k=5, sigma=1.0, temperature=5.0).fit(*rows)
    assert mem.temperature == 5.0
    assert mem.correct(*queries[:2]).tobytes() == again.correct(*queries[:2]).tobytes()


def test_signal_handler_within_a_change_may_save_but_not_change(tmp_path, monkeypatch):
    rng = np.random.default_rng(19)
    mem = resmem.Memory(k=5, sigma=1.0).fit(*examples(rng, 50)).remove([3])
    real, said = ingest.Incoming.write, []

    def handler_runs(*arguments):
        mem.save(tmp_path / "m")
        for change in (
            lambda: mem.remove([4]),
            lambda: mem.add(*examples(rng, 1)),
            lambda: mem.fit(*examples(rng, 0)),
            lambda: setattr(mem, "temperature", 2.0),
        ):
            with pytest.raises(RuntimeError, match="is being changed by the code that was inter"):
                change()
            said.append(change)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ingest.Incoming, "write", handler_runs)
        mem.add(*examples(rng, 7))
    assert len(said) == 4
    assert len(mem) == 56
    assert len(resmem.Memory.load(tmp_path / "m")) == 49
    mem.remove([4]).save(tmp_path / "m", append=True)
    assert list(ids_of(resmem.Memory.load(tmp_path / "m"))) == list(ids_of(mem))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("update", [False, True])
def test_a_child_forked_during_a_removal_has_all_its_rows(monkeypatch, update):
    rng = np.random.default_rng(20)
    keys, logits, targets = examples(rng, 100)
    mem = resmem.Memory(k=1, sigma=1.0).fit(keys, logits, targets)
    stamped, go_on, real = threading.Event(), threading.Event(), Segment.with_dead

    def held_up(segment, rows, version):
        result = real(segment, rows, version)
        if 5 in rows:
            stamped.set()
            go_on.wait()
        return result

    monkeypatch.setattr(Segment, "with_dead", held_up)
    mem.remove([99])  # now parent and child share stamps
    new = examples(rng, 2) if update else ()
    work = mem.update if update else mem.remove
    thread = threading.Thread(target=work, args=([5, 6], *new))
    thread.start()
    stamped.wait()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            mem.remove([50])
            found = mem.kneighbors(keys[[5, 6, 50]])[1][:, 0]
            code = 0 if list(found[:2]) == [5, 6] and found[2] != 50 and len(mem) == 98 else 2
        finally:
            os._exit(code)
    go_on.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(mem) == (99 if update else 97)


def test_copy_of_a_mapped_memory_still_borrows_its_rows(tmp_path):
    path = tmp_path / "m"
    resmem.Memory(k=1, sigma=1.0).fit(*examples(np.random.default_rng(21), 9)).save(path)
    twin = copy.copy(resmem.Memory.load(path))
    assert [s.borrowed for s in twin._state.view.rows.segments] == [True]


# ---- Ids beside queries -------------------------------------------------------------------------


def all_at_once(work, count=4):
    barrier = threading.Barrier(count)

    def begin(i):
        barrier.wait()
        return work(i)

    with fast_switches(), ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


@pytest.mark.parametrize("origin", ["fitted", "loaded", "pickled"])
def test_ids_that_many_threads_look_up_first_are_known_once(tmp_path, origin):
    """Rows added later to the same segment are found, and their ids are refused again."""
    rng = np.random.default_rng(22)
    mem = resmem.Memory(k=1, sigma=1.0).fit(*examples(rng, 3), ids=[11, 4, 6])
    if origin == "loaded":
        mem.save(tmp_path / "m")
        mem = resmem.Memory.load(tmp_path / "m")
    elif origin == "pickled":
        mem = copy.copy(mem)
    ids = 100 + rng.permutation(60 * 40).reshape(60, 40)
    for some in ids:
        mem.add(*examples(rng, 40), ids=some)  # behind the rows of the last round
        near = np.sort(some)[:, None]
        corrections = all_at_once(lambda _, near=near: mem.aggregate(0.0 * near, near).tobytes())
        assert len(set(corrections)) == 1
    for some in ids:
        with pytest.raises(ValueError, match="never have been used"):
            mem.add(*examples(rng, 1), ids=some[-1:])
    mem.remove(ids[1:].ravel())
    assert list(ids_of(mem)) == [11, 4, 6, *ids[0]]


def test_a_query_does_not_find_rows_that_came_after_it_began():
    rng = np.random.default_rng(23)
    mem = resmem.Memory(k=1, sigma=1.0).fit(*examples(rng, 3), ids=[11, 4, 6])
    before = mem.add(*examples(rng, 5), ids=[20, 25, 21, 22, 23])._state.view.rows
    mem.add(*examples(rng, 2), ids=[30, 31])
    assert mem._state.view.rows.segments[1].arrays is before.segments[1].arrays
    assert list(mem._state.view.rows.positions_of(np.array([25, 31]))) == [4, 9]
    assert before.segments[1].find(np.array([25, 31])).tolist() == [1, -1]
    with pytest.raises(ValueError, match="31 is not"):
        before.positions_of(np.array([25, 31]))


def test_rows_whose_ids_were_withdrawn_are_not_found(monkeypatch):
    """Other rows take their place."""
    rng = np.random.default_rng(24)
    mem = resmem.Memory(k=1, sigma=1.0).fit(*examples(rng, 3), ids=[11, 4, 6])
    mem.add(*examples(rng, 7), ids=range(900, 907))
    mem.remove([11, 4])

    def asked(_):
        mem._state.view.rows.positions_of(np.array([900]))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", asked)
        with pytest.raises(KeyboardInterrupt):
            mem.add(*examples(rng, 2), ids=[1001, 1002])
    settled(mem.add(*examples(rng, 2), ids=[1003, 1004]))
    mem.remove([1003])
    with pytest.raises(ValueError, match="1001 is not"):
        mem.remove([1001])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_children_forked_while_ids_are_hashed_find_them(tmp_path):
    rng = np.random.default_rng(25)
    n = 300_000
    keys, ids = np.zeros((n, 1), np.float32), rng.permutation(n) * 3
    path = tmp_path / "m"
    resmem.Memory("regression", k=1, sigma=1.0).fit(keys, keys[:, 0], keys[:, 0], ids=ids).save(
        path
    )
    for turn in range(8):
        mem = resmem.Memory.load(path, verify=False)
        thread = threading.Thread(target=mem.remove, args=(ids[:1],))
        thread.start()
        time.sleep(0.002 * turn)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.alarm(30)
                code = 0 if len(mem.remove(ids[5:9])) in (n - 4, n - 5) else 2
            finally:
                os._exit(code)
        thread.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(mem) == n - 1


# ---- Running searches --------------------------------------------------------------------------


def test_every_search_sees_one_snapshot_while_rows_change():
    """A row always has the same number of living copies, its neighbours at distance 0."""
    rng = np.random.default_rng(11)
    keys, logits, targets = examples(rng, 50)
    copies = 4
    mem = resmem.Memory(k=copies + 2, sigma=1.0)
    mem.fit(*(np.concatenate([part] * copies) for part in (keys, logits, targets)))
    stop, wrong = threading.Event(), []

    def search():
        while not stop.is_set():
            distances, ids = mem.kneighbors(keys, threads=2)
            found = (distances == 0).sum(axis=1)
            if not (found == copies).all() or any(len(set(row)) != copies + 2 for row in ids):
                wrong.append(found)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(150):  # one copy of every row comes, the oldest goes, in one step
        oldest = np.sort(ids_of(mem))[:50]
        replace_copy(mem, keys, logits, targets, oldest)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(mem) == 50 * copies


def replace_copy(mem, keys, logits, targets, oldest):
    """Add and remove rows, and publish both as one snapshot."""
    twin = resmem.Memory(k=1, sigma=1.0)
    twin._state.publish(spec=mem._state.view.spec, rows=mem._state.view.rows)
    twin.add(keys, logits, targets).remove(oldest)
    with mem._state._lock:
        mem._state.publish(rows=twin._state.view.rows)
    settled(twin)


def test_snapshots_that_share_rows_differ_in_what_was_removed():
    rng = np.random.default_rng(12)
    mem = resmem.Memory(k=9, sigma=1.0).fit(*examples(rng, 9))
    snapshots = [mem._state.view.rows]
    for gone in ([0], [3, 4], [8]):
        snapshots.append(mem.remove(gone)._state.view.rows)
    seen = [
        sorted(np.concatenate([s.ids_of(s.living(v.version)) for s in v.segments]))
        for v in snapshots
    ]
    assert [len(rows) for rows in seen] == [len(v) for v in snapshots] == [9, 8, 6, 5]
    for rows, snapshot in zip(seen, snapshots, strict=True):
        query = np.zeros((1, D), np.float32)
        _, ids, _ = NeighbourSearch(snapshot, query, 0.0, 9, VisibleRows(), DEFAULT).neighbours()
        assert sorted(ids[0][ids[0] >= 0]) == rows


def test_fresh_or_growing_memory_is_not_worth_compacting():
    growing = [Segment({"keys": np.zeros((n, D))}, n) for n in (100, 100, 200, 400, 800)]
    growing += [Segment({"keys": np.zeros((n, D))}, n) for n in (1600, 3200, 6400, 12800, 25600, 9)]
    assert compaction.worth_compacting(tuple(growing)) is None
    assert compaction.worth_compacting(()) is None
