"""`search` and `Memory` on a device: the bits of the CPU, and words for failures."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest

import resmem
from cases import METRICS, assert_same, make
from resmem._devices import engine
from tested_device import DEVICE


@pytest.fixture
def searches(tested, monkeypatch):
    """Count the searches that really ran on the device."""
    counted, real = [], engine.search

    def search(*args, **named):
        counted.append(args[3])  # k
        real(*args, **named)

    monkeypatch.setattr(engine, "search", search)
    yield counted
    tested.forget_failures()


# ---- search --------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64"])
def test_host_arrays_are_searched_on_a_device(searches, metric, dtype):
    queries, rows = ((20 * part).astype(dtype) for part in make("gaussian", 1, 1300, 9, 30))
    excluded = np.arange(9)[:, None] * 3
    wanted = resmem.search(queries, rows, 5, metric, excluded)
    got = resmem.search(queries, rows, 5, metric, excluded, device=DEVICE)
    assert_same(got, wanted, metric)
    assert searches == [5]


@pytest.mark.parametrize("spread", [1e-4, 1e-9])
def test_float64_host_arrays_are_compared_as_on_the_cpu(searches, spread):
    """An offset is taken off where that serves, else all is done in float64."""
    rng = np.random.default_rng(2)
    rows = 1e6 * rng.integers(-3, 4, (300, 1)) + spread * rng.standard_normal((300, 12))
    queries = np.concatenate([rows[:7] + spread / 10, rng.standard_normal((3, 12))])
    assert_same(
        resmem.search(queries, rows, 4, device=DEVICE), resmem.search(queries, rows, 4), spread
    )
    assert searches


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("queries_there", [False, True])
@pytest.mark.parametrize("metric", ["euclidean", "inner_product"])
def test_arrays_on_the_device_are_searched_there(tested, searches, dtype, queries_there, metric):
    queries, rows = make("gaussian", 3, 700, 40, 30)
    rows = rows.astype(dtype)
    queries = queries.astype("float64" if dtype == "float64" else "float32")
    wanted = resmem.search(queries, rows, 6, metric, key_dtype=str(queries.dtype))
    rows_there = tested.place(rows)
    given = tested.place(queries) if queries_there else queries
    values, ids = resmem.search(given, rows_there, 6, metric, device=DEVICE)
    if queries_there:
        values, ids = tested.fetch(values), tested.fetch(ids)
    assert_same((values, ids), wanted, dtype)
    assert searches == [6]


def test_excluded_ids_may_lie_on_the_device(tested, searches):
    queries, rows = make("gaussian", 4, 90, 5, 8)
    for excluded in (np.arange(5), np.arange(10).reshape(5, 2)):
        wanted = resmem.search(queries, rows, 3, exclude_ids=excluded)
        held, placed = tested.place(excluded), tested.place(rows)
        assert_same(resmem.search(queries, placed, 3, exclude_ids=held, device=DEVICE), wanted)
    short = tested.place(np.arange(4))
    with pytest.raises(ValueError, match=r"one row per row of queries \(5\), got 4"):
        resmem.search(queries, placed, 3, exclude_ids=short, device=DEVICE)


def test_results_are_written_where_out_says(tested, searches):
    queries, rows = make("gaussian", 5, 90, 5, 8)
    wanted = resmem.search(queries, rows, 3)
    for device in ("cpu", DEVICE):
        out = np.empty((5, 3)), np.empty((5, 3), np.int64)
        got = resmem.search(queries, rows, 3, device=device, out=out)
        assert got[0] is out[0]
        assert got[1] is out[1]
        assert_same(out, wanted, device)
    out = tested.place(np.empty((5, 3))), tested.place(np.empty((5, 3), np.int64))
    resmem.search(tested.place(queries), rows, 3, device=DEVICE, out=out)
    assert_same(tuple(map(tested.fetch, out)), wanted)


def test_a_search_leaves_no_memory_on_the_device(emulated, tested, searches):
    gc.collect()
    before = emulated.bytes_in_use()
    queries, rows = make("gaussian", 6, 1500, 20, 8)
    resmem.search(queries, rows, 3, device=DEVICE, workspace_bytes=1)
    found = resmem.search(tested.place(queries), rows, 3, device=DEVICE)
    assert emulated.bytes_in_use() == before + 20 * 3 * 16
    del found
    gc.collect()
    assert emulated.bytes_in_use() == before


def test_a_search_of_arrays_there_waits_for_nothing(tested, emulated, searches):
    """Any wait would fail here, as that for results in host memory does."""
    queries, rows = make("gaussian", 16, 1300, 20, 8)
    excluded = np.arange(20)
    placed = [tested.place(array) for array in (queries, rows, excluded)]
    memory, _, _ = twins(n=1200)
    emulated.faults().failing_wait = True
    given = {"exclude_ids": placed[2], "device": DEVICE}
    values, ids = resmem.search(placed[0], placed[1], 3, **given)
    near, _ = memory.kneighbors(tested.place(np.zeros((3, 20), np.float32)))
    emulated.faults().failing_wait = False
    wanted = resmem.search(queries, rows, 3, exclude_ids=excluded)
    assert_same((tested.fetch(values), tested.fetch(ids)), wanted)
    assert np.isfinite(tested.fetch(near)).all()
    emulated.faults().failing_wait = True
    with pytest.raises(resmem.DeviceError):
        resmem.search(queries, placed[1], 3, device=DEVICE)


def test_queries_that_are_not_finite_find_nothing_there(tested, searches):
    queries, rows = make("gaussian", 7, 1200, 20, 8)
    queries[[1, 18], [0, 7]] = np.nan, np.inf
    values, ids = resmem.search(tested.place(queries), rows, 3, device=DEVICE)
    values, ids = tested.fetch(values), tested.fetch(ids)
    assert (ids[[1, 18]] == -1).all()
    assert np.isinf(values[[1, 18]]).all()
    rest = np.delete(np.arange(20), [1, 18])
    assert_same((values[rest], ids[rest]), resmem.search(queries[rest], rows, 3))


def test_types_that_a_device_does_not_compare_are_refused(tested, searches):
    queries, rows = make("gaussian", 8, 20, 3, 8)
    wide, narrow = tested.place(rows.astype(np.float64)), tested.place(queries)
    with pytest.raises(TypeError, match="rows must have dtype float32 or float16 or bfloat16"):
        resmem.search(narrow, wide, 2, device=DEVICE)
    with pytest.raises(ValueError, match="key_dtype must be 'auto' or 'float32'"):
        resmem.search(narrow, rows, 2, device=DEVICE, key_dtype="float64")
    with pytest.raises(TypeError, match="metric 'cosine' takes float32 arrays on a device"):
        resmem.search(queries, wide, 2, "cosine", device=DEVICE)
    with pytest.raises(TypeError, match="rows must have dtype float64, got float32"):
        resmem.search(wide, narrow, 2, device=DEVICE)
    with pytest.raises(ValueError, match="queries must have 8 columns"):
        resmem.search(tested.place(queries[:, :7]), rows, 2, device=DEVICE)
    with pytest.raises(ValueError, match="workspace_bytes must be"):
        resmem.search(queries, rows, 2, device=DEVICE, workspace_bytes=0)


def test_too_little_memory_is_told(emulated, searches):
    queries, rows = make("gaussian", 9, 300, 20, 8)
    emulated.faults().memory = 20_000
    with pytest.raises(resmem.DeviceError, match="workspace_bytes="):
        resmem.search(queries, rows, 2, device=DEVICE)
    with pytest.raises(MemoryError):
        resmem.search(queries, rows, 2, device=DEVICE)
    emulated.reset_devices()
    assert_same(resmem.search(queries, rows, 2, device=DEVICE), resmem.search(queries, rows, 2))


def test_a_device_that_failed_is_refused_from_then_on(emulated, searches):
    queries, rows = make("gaussian", 10, 300, 20, 8)
    emulated.faults().failing_kernel = "compare_rows"
    with pytest.raises(resmem.DeviceError, match="kernel compare_rows failed"):
        resmem.search(queries, rows, 2, device=DEVICE)
    emulated.faults().failing_kernel = ""
    with pytest.raises(resmem.DeviceError, match="kernel compare_rows failed"):
        resmem.search(queries, rows, 2, device=DEVICE)


def test_a_waiting_search_answers_an_interrupt(emulated, searches, interruptible):
    queries, rows = make("gaussian", 15, 90, 5, 8)
    before = emulated.bytes_in_use()
    emulated.faults().busy_polls = 10**6  # for many seconds
    # By then the search waits, on a busy machine too.
    timer = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
    timer.start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        resmem.search(queries, rows, 2, device=DEVICE)
    assert time.monotonic() - started < 5
    assert emulated.bytes_in_use() == before


# ---- Memory --------------------------------------------------------------------------------------


def twins(task="classification", n=1500, seed=11, **settings):
    """Return a memory on the device and the same one on the CPU, and queries for them."""
    rng = np.random.default_rng(seed)
    embeddings = rng.standard_normal((n + 30, 20)).astype(np.float32)
    outputs = rng.standard_normal((n + 30, 4)).astype(np.float32)
    targets = outputs + 1.0 if task == "regression" else rng.integers(0, 4, n + 30)
    both = [
        resmem.Memory(task=task, k=7, **settings).fit(
            embeddings[:n], None if settings.get("store") == "head" else outputs[:n], targets[:n]
        )
        for _ in range(2)
    ]
    return both[0].to(DEVICE), both[1], (embeddings[n:], outputs[n:], targets[n:])


def same_results(memory, other, queries):
    embeddings, outputs, targets = queries
    excluded = np.arange(len(embeddings))
    assert_same(memory.kneighbors(embeddings), other.kneighbors(embeddings))
    assert_same(
        memory.kneighbors(embeddings, 3, excluded), other.kneighbors(embeddings, 3, excluded)
    )
    for method in ("correct", "predict", "predict_proba"):
        if memory.task == "regression" and method == "predict_proba":
            continue
        mine, theirs = (getattr(m, method)(embeddings, outputs) for m in (memory, other))
        assert mine.tobytes() == theirs.tobytes()
    mine, theirs = (m.evaluate(embeddings, outputs, targets) for m in (memory, other))
    assert str(mine) == str(theirs)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"task": "regression"},
        {"key_dtype": "float16"},
        {"key_dtype": "bfloat16"},
        {"key_dtype": "float64"},
        {"store": "sparse:2"},
        {"preprocess": "pca:8"},
        {"metric": "sqeuclidean"},
        {"metric": "cosine"},
        {"metric": "cosine", "key_dtype": "float64"},
        {"metric": "inner_product", "key_dtype": "bfloat16"},
    ],
    ids=str,
)
def test_a_memory_on_a_device_has_the_bits_of_the_cpu(tested, searches, settings):
    memory, other, queries = twins(**settings)
    assert (memory.device, other.device) == (tested.name, "cpu")
    same_results(memory, other, queries)
    assert len(searches) > 4


def test_rows_come_and_go_on_the_device(searches):
    memory, other, queries = twins(n=400)
    rng = np.random.default_rng(12)
    for step in range(3):
        more = rng.standard_normal((90, 20)).astype(np.float32)
        outputs, targets = rng.standard_normal((90, 4)).astype(np.float32), rng.integers(0, 4, 90)
        gone = np.arange(step * 50, step * 50 + 40)
        for each in (memory, other):
            each.remove(gone)
            each.add(more, outputs, targets, None)
        same_results(memory, other, queries)
    assert len(searches) > 10


def test_given_ids_and_removed_rows_are_known_there(searches):
    rng = np.random.default_rng(13)
    embeddings, outputs = (rng.standard_normal((300, d)).astype(np.float32) for d in (6, 3))
    ids, targets = rng.permutation(9000)[:300], rng.integers(0, 3, 300)
    memory = resmem.Memory(k=5).fit(embeddings, outputs, targets, ids=ids).to(DEVICE)
    before = memory.kneighbors(embeddings[:9])
    assert before[1][:, 0].tolist() == ids[:9].tolist()
    memory.remove(ids[:4])
    after = memory.kneighbors(embeddings[:9])
    assert not np.isin(after[1], ids[:4]).any()
    assert_same(after, memory.to("cpu").kneighbors(embeddings[:9]))
    assert searches == [5, 5]


@pytest.mark.parametrize("metric", METRICS)
def test_embeddings_on_the_device_stay_there(tested, searches, metric):
    memory, other, (embeddings, _, _) = twins(metric=metric)
    wanted = other.kneighbors(embeddings, 4)
    placed = tested.place(embeddings)
    values, ids = memory.kneighbors(placed, 4)
    assert_same((tested.fetch(values), tested.fetch(ids)), wanted)
    out = np.empty((30, 4)), np.empty((30, 4), np.int64)
    memory.kneighbors(embeddings, 4, out=out)
    assert_same(out, wanted)
    with pytest.raises(ValueError, match=r"the memory on cpu; move it with memory.to\('cuda"):
        other.kneighbors(placed, 4)


def test_keys_that_are_made_on_the_cpu_take_host_arrays(tested, searches):
    memory, _, (embeddings, _, _) = twins(preprocess="unit")
    with pytest.raises(TypeError, match=r"on the CPU \(preprocess='unit'\)"):
        memory.kneighbors(tested.place(embeddings))
    memory, other, _ = twins(metric="cosine", key_dtype="float64")
    wide = embeddings.astype(np.float64)
    with pytest.raises(TypeError, match=r"on the CPU \(scaled for metric='cosine'\); pass "):
        memory.kneighbors(tested.place(wide))
    assert_same(memory.kneighbors(wide), other.kneighbors(wide))


def test_rows_brought_to_a_device_are_a_use_of_it(searches, monkeypatch):
    """A child that is forked afterwards is told so, though nothing was searched yet."""
    monkeypatch.setattr(engine._Process, "used", False)
    twins(n=100)
    assert engine._Process.used
    assert not searches


def test_files_and_copies_forget_the_device(tested, searches, tmp_path):
    memory, _, (embeddings, _, _) = twins(n=100)
    memory.save(tmp_path / "m.resmem")
    assert resmem.Memory.load(tmp_path / "m.resmem").device == "cpu"
    assert copy.deepcopy(memory).device == "cpu"
    assert memory.device == tested.name
    assert (
        memory.fit(embeddings, np.zeros((30, 4), np.float32), np.zeros(30, int)).device
        == tested.name
    )
    assert memory.kneighbors(embeddings[:2], 1)[1].ravel().tolist() == [0, 1]


def test_memory_of_the_device_goes_with_the_memory(emulated, searches):
    gc.collect()
    before = emulated.bytes_in_use()
    memory, _, (embeddings, _, _) = twins(n=600)
    held = emulated.bytes_in_use()
    assert held >= before + 600 * 20 * 4
    memory.kneighbors(embeddings)
    assert emulated.bytes_in_use() == held
    info = memory.info()
    assert (info["device"], info["search"], info["device_nbytes"]) == (
        DEVICE,
        DEVICE,
        held - before,
    )
    assert [plan["search"] for plan in memory.plan_] == [DEVICE]
    assert repr(memory).endswith(f"on {DEVICE}]")
    memory.to("cpu")
    gc.collect()
    assert emulated.bytes_in_use() == before


def test_rows_that_do_not_fit_stay_on_the_cpu(emulated, searches):
    memory, other, queries = twins(n=100)
    memory.to("cpu")
    emulated.faults().memory = 1000
    with pytest.raises(resmem.DeviceError, match='device="cpu"'):
        memory.to(DEVICE)
    assert memory.device == "cpu"
    same_results(memory, other, queries)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_forked_child_is_told_to_be_spawned(searches):
    memory, _, (embeddings, _, _) = twins(n=100)
    memory.kneighbors(embeddings)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def ask():
        try:
            memory.kneighbors(embeddings)
        except resmem.DeviceError as error:
            theirs.send(str(error))
        else:
            theirs.send("nothing was told")

    child = context.Process(target=ask)
    child.start()
    assert ours.poll(60)
    assert "get_context('spawn')" in ours.recv()
    child.join()


def test_updates_merges_limits_and_weights_on_the_device(searches):
    memory, other, queries = twins(n=400)
    rng = np.random.default_rng(14)

    def rows(n):
        return (
            rng.standard_normal((n, 20)).astype(np.float32),
            rng.standard_normal((n, 4)).astype(np.float32),
            rng.integers(0, 4, n),
        )

    part = resmem.Memory(k=7).fit(*rows(60), ids=np.arange(1000, 1060))
    new, more = rows(90), rows(300)
    for each in (memory, other):
        each.update(np.arange(30, 120), *new)
    same_results(memory, other, queries)
    for each in (memory, other):
        each.update(np.arange(60, 150), *new)  # some of them for the second time
        each.merge(part)
        each.add(*more, sample_weight=np.arange(300) % 3)
    same_results(memory, other, queries)
    for each in (memory, other):
        each.max_rows = 450
    same_results(memory, other, queries)
    assert len(searches) > 20
