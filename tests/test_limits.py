"""Limits of a memory: which rows go, when, and what is left of their space."""

from __future__ import annotations

import copy
import datetime
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import resmem
from resmem._rows.snapshot import Snapshot

D, C = 6, 3
RNG = np.random.default_rng(5)
QUERIES = RNG.standard_normal((7, D))


def examples(n, seed=0):
    rng = np.random.default_rng(seed)
    keys = rng.standard_normal((n, D)).astype(np.float32)
    return keys, rng.standard_normal((n, C)).astype(np.float32), rng.integers(0, C, n)


def some(rows, part):
    return [array[part] for array in rows]


def memory(**options):
    return resmem.Memory(**{"k": 3, "sigma": 1.0, **options})


def same_answers(limited, kept, ids):
    """Check that a memory answers as one fitted on the rows that it should keep."""
    reference = memory().fit(*kept, ids=ids)
    assert len(limited) == len(ids)
    for got, wanted in zip(limited.kneighbors(QUERIES), reference.kneighbors(QUERIES), strict=True):
        assert got.tobytes() == wanted.tobytes()
    outputs = np.zeros((len(QUERIES), C))
    answers = [each.correct(QUERIES, outputs).tobytes() for each in (limited, reference)]
    assert answers[0] == answers[1]


def segments(mem):
    return mem._state.view.rows.segments


def settled(mem):
    """Wait for the thread that merges segments."""
    if mem._state._compactor is not None:
        mem._state._compactor.join()
    return mem


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "given", "update", "remove"]), st.integers(1, 40)),
    min_size=1, max_size=12,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, most=st.integers(1, 60), old=st.integers(0, 30), seed=st.integers(0, 9))
def test_rows_left_are_the_newest_in_storage_and_time(steps, most, old, seed):
    rng = np.random.default_rng(seed)
    pool = examples(600)
    mem = memory(max_rows=most, max_age=old)
    model = []  # (id, row of the pool, time), in the order of storage
    ever, next_id, at = set(), 0, 0
    for step, count in steps:
        if step == "remove":
            gone = [entry[0] for entry in model[: min(count, len(model) - 1)]]
            if gone:
                mem.remove(gone)
                model = [entry for entry in model if entry[0] not in gone]
            continue
        rows = np.arange(at, at + count)
        times = rng.integers(0, 30, count) + at // 10
        if step == "update":
            ids = rng.permutation([entry[0] for entry in model])[:count]
            rows, times = rows[: len(ids)], times[: len(ids)]
            if len(ids) == 0:
                continue
            mem.update(ids, *some(pool, rows), times=times)
            model = [entry for entry in model if entry[0] not in ids]
        else:
            ids = next_id + (2 * rng.permutation(count) if step == "given" else np.arange(count))
            chosen = ids if step == "given" else None
            mem.add(*some(pool, rows), ids=chosen, times=times)
            next_id = max(next_id, ids.max() + 1)
            ever.update(ids.tolist())
        at += count
        model += zip(ids.tolist(), rows.tolist(), times.tolist(), strict=True)
        newest = max(entry[2] for entry in model)
        model = [entry for entry in model if entry[2] >= newest - old][-most:]
        assert mem.ids.tolist() == [entry[0] for entry in model]
    if model:
        same_answers(settled(mem), some(pool, [e[1] for e in model]), [e[0] for e in model])
        assert mem._state.view.rows.id_fault() == ""
        retired = [np.arange(a, b + 1) for a, b in mem._state.view.rows.all_retired()]
        assert set(np.concatenate([[], *retired])) == ever - {entry[0] for entry in model}


@pytest.mark.parametrize("ids", [None, "given"])
def test_limited_stream_keeps_few_segments_and_bytes(ids):
    pool, most = examples(24_000), 3_000
    mem = memory(max_rows=most)
    numbers = np.random.default_rng(1).permutation(24_000)
    row, sizes = None, []
    for start in range(0, 24_000, 60):
        part = slice(start, start + 60)
        mem.add(*some(pool, part), ids=None if ids is None else numbers[part])
        row = row or segments(mem)[0].row_bytes
        sizes.append((len(segments(mem)), mem.nbytes - mem._state.view.rows.retired.nbytes))
    assert max(count for count, _ in sizes) <= 33
    assert max(size for _, size in sizes) <= row * (most + 2 * (65536 // row))
    last = slice(21_000, None)
    same_answers(mem, some(pool, last), np.arange(24_000)[last] if ids is None else numbers[last])
    if ids is None:
        assert mem._state.view.rows.all_retired().tolist() == [[0, 20_999]]


def test_segments_stay_few_when_each_save_begins_another():
    pool, mem, counts = examples(9_000), memory(max_rows=6_000), []
    for start in range(0, 9_000, 60):
        mem._state.publish(rows=mem._state.view.rows and mem._state.view.rows.sealed())
        settled(mem.add(*some(pool, slice(start, start + 60))))
        counts.append(len(segments(mem)))
    assert max(counts) <= 34
    same_answers(mem, some(pool, slice(3_000, None)), np.arange(3_000, 9_000))


def test_dropping_a_segment_reads_no_row(monkeypatch):
    mem = memory(max_rows=8_000)
    pool = examples(10_000)
    for start in range(0, 8_000, 2_000):
        mem.add(*some(pool, slice(start, start + 2_000)))
    first = segments(mem)[0]
    monkeypatch.setattr(type(first), "ids_of", None)
    monkeypatch.setattr(type(first), "living", None)
    mem.add(*some(pool, slice(8_000, 10_000)))
    assert first.uid not in {segment.uid for segment in segments(mem)}
    assert len(mem) == 8_000


@pytest.mark.parametrize("step", ["fit", "set", "add"])
def test_a_large_segment_is_given_back_when_it_must_shrink(step):
    pool = examples(9_000)
    if step == "fit":
        mem = memory(max_rows=5_000).fit(*pool)
    elif step == "set":
        mem = memory().fit(*pool)
        mem.max_rows = 5_000
    else:
        mem = memory(max_rows=5_000).add(*some(pool, slice(10))).add(*some(pool, slice(10, None)))
    assert sum(segment.n for segment in segments(mem)) == 5_000
    assert not any(segment.dead for segment in segments(mem))
    assert all(not segment.has_ids for segment in segments(mem))
    same_answers(mem, some(pool, slice(4_000, None)), np.arange(4_000, 9_000))


def test_bytes_of_the_rows_left_are_within_the_limit():
    pool, mem = examples(4_000), memory(max_bytes=100_000)
    for start in range(0, 4_000, 50):
        mem.add(*some(pool, slice(start, start + 50)))
    row = segments(mem)[0].row_bytes
    assert len(mem) == 100_000 // row
    same_answers(mem, some(pool, slice(-len(mem), None)), np.arange(4_000)[-len(mem) :])


AGES = [
    (np.arange(40) * 3, 30.5, 11),
    (np.arange(40) * 0.5, 4, 9),
    (np.arange(40).astype("datetime64[D]"), datetime.timedelta(days=6), 7),
    (np.arange(40).astype("datetime64[h]"), np.timedelta64(90, "m"), 2),
    (np.full(40, -(2**63)) + np.arange(40), 2**63, 40),
]


@pytest.mark.parametrize(("times", "age", "left"), AGES)
def test_age_is_in_the_unit_of_the_times(times, age, left):
    order = np.random.default_rng(0).permutation(40)
    mem = memory(max_age=age)
    for part in np.split(order, 8):
        mem.add(*some(examples(40), part), times=times[part], ids=part)
    assert sorted(mem.ids) == list(range(40 - left, 40))


def test_limit_set_after_fit_drops_the_oldest_rows():
    mem = memory().fit(*examples(30), times=np.arange(30))
    mem.max_age = 19
    assert mem.ids.tolist() == list(range(10, 30))
    mem.max_rows = 5
    assert mem.ids.tolist() == list(range(25, 30))


def test_limit_set_to_none_lets_the_memory_grow_again():
    pool = examples(60)
    mem = memory(max_rows=5, max_age=19).fit(*some(pool, slice(30)), times=np.arange(30))
    mem.max_rows = mem.max_age = None
    mem.add(*some(pool, slice(30, 60)), times=np.arange(30, 60))
    assert mem.ids.tolist() == list(range(25, 60))


def test_a_refused_limit_changes_nothing():
    mem = memory().fit(*examples(9))
    before = mem.ids, mem.max_age, mem.max_bytes
    with pytest.raises(ValueError, match="max_age needs times"):
        mem.max_age = 3
    with pytest.raises(ValueError, match="bytes of a row"):
        mem.max_bytes = 3
    assert np.array_equal(mem.ids, before[0])
    assert (mem.max_age, mem.max_bytes) == before[1:]
    with pytest.raises(ValueError, match="max_age must be a number, as times are integers"):
        memory(max_age=np.timedelta64(3, "s")).add(*examples(9), times=np.arange(9))


def test_a_running_query_keeps_the_rows_it_began_with():
    pool = examples(6_000)
    mem = memory(max_rows=3_000).fit(*some(pool, slice(3_000)))
    before = copy.copy(mem._state.view)
    wanted = before.corrector.rows.ids
    for start in range(3_000, 6_000, 500):
        mem.add(*some(pool, slice(start, start + 500)))
    assert isinstance(before.rows, Snapshot)
    assert np.array_equal(before.rows.ids, wanted)
    assert mem.ids[0] == 3_000


@pytest.mark.parametrize("form", ["whole", "append", "export", "pickle"])
def test_files_keep_the_limits_and_the_ids_of_dropped_rows(tmp_path, form):
    pool = examples(3_000)
    age = np.timedelta64(2_000, "s")
    times = np.arange(3_000).astype("datetime64[s]")
    mem = memory(max_rows=900, max_bytes=10**6, max_age=age)
    path = tmp_path / ("m.npz" if form == "export" else "m.resmem")
    for start in range(0, 3_000, 300):
        part = slice(start, start + 300)
        mem.add(*some(pool, part), times=times[part])
        if form == "append":
            mem.save(path, append=start > 0)
    if form == "pickle":
        other = pickle.loads(pickle.dumps(mem))
    else:
        if form != "append":
            (mem.export if form == "export" else mem.save)(path)
        other = resmem.Memory.load(path)
    assert (other.max_rows, other.max_bytes, other.max_age) == (900, 10**6, age)
    assert repr(other).startswith(repr(mem)[:150])
    same_answers(other, some(pool, slice(2_100, None)), np.arange(2_100, 3_000))
    with pytest.raises(ValueError, match="never have been used"):
        other.add(*some(pool, [0]), ids=[17], times=times[-1:])
    other.add(*some(pool, slice(10)), times=times[-10:])
    assert other.ids[[0, -1]].tolist() == [2_110, 3_009]


WRONG = ["3 s", "9223372036854775808 ns", "-5 ns", -1, [], True]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ["max_age", "half_life"])
def test_file_with_a_senseless_span_of_time_is_refused(tmp_path, monkeypatch, name, wrong):
    view = resmem._state.view.MemoryView
    real = view.settings
    monkeypatch.setattr(view, "settings", lambda held: {**real(held), name: wrong})
    memory().fit(*examples(5), times=np.arange(5)).save(tmp_path / "m")
    with pytest.raises(resmem.FileFormatError, match="make no sense"):
        resmem.Memory.load(tmp_path / "m")


def test_file_with_a_half_life_but_no_times_is_refused(tmp_path, monkeypatch):
    view = resmem._state.view.MemoryView
    real = view.settings
    monkeypatch.setattr(view, "settings", lambda held: {**real(held), "half_life": 3})
    memory().fit(*examples(5)).save(tmp_path / "m")
    with pytest.raises(resmem.FileFormatError, match=r"half_life makes no sense: .* needs times"):
        resmem.Memory.load(tmp_path / "m")


def test_limits_hold_after_a_merge():
    pool = examples(50)
    mem = memory(max_rows=20).fit(*some(pool, slice(30)))
    mem.merge(memory().fit(*some(pool, slice(30, 45)), ids=np.arange(100, 115)))
    assert mem.ids.tolist() == [*range(25, 30), *range(100, 115)]
