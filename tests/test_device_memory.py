"""Memories that a device has no room for, or that several devices share: the bits of the CPU."""

from __future__ import annotations

import gc
import signal
import threading

import numpy as np
import pytest

import resmem
from cases import METRICS, assert_same, make
from devices import Emulated
from resmem._devices import engine
from resmem._devices.several import shares

TWO = ["cuda:emulated", "cuda:emulated:1"]
FEW = 60_000  # bytes, into which a slab and some hundred rows of 20 dimensions fit


@pytest.fixture
def counted(played, monkeypatch):
    """What each search on a device counted."""
    counters = []

    class Counting:
        def __getattr__(self, name):
            return getattr(played, name)

        def search(self, *args, **named):
            counters.append(played.search(*args, **named, counted=True))

    monkeypatch.setattr(engine, "_extension", lambda device: Counting())
    return counters


def twins(n=1500, seed=11, **settings):
    """Return two equal memories, and queries for them."""
    rng = np.random.default_rng(seed)
    embeddings = rng.standard_normal((n + 30, 20)).astype(np.float32)
    outputs = rng.standard_normal((n + 30, 4)).astype(np.float32)
    targets = rng.integers(0, 4, n + 30)
    both = [
        resmem.Memory(k=7, **settings).fit(embeddings[:n], outputs[:n], targets[:n])
        for _ in range(2)
    ]
    return (*both, (embeddings[n:], outputs[n:], targets[n:]))


def same_results(memory, other, queries):
    embeddings, outputs, _ = queries
    assert_same(memory.kneighbors(embeddings), other.kneighbors(embeddings))
    assert_same(memory.kneighbors(embeddings[:3], 40), other.kneighbors(embeddings[:3], 40))
    excluded = np.arange(len(embeddings))
    assert_same(
        memory.kneighbors(embeddings, 3, excluded), other.kneighbors(embeddings, 3, excluded)
    )
    mine, theirs = (m.correct(embeddings, outputs) for m in (memory, other))
    assert mine.tobytes() == theirs.tobytes()


PLACES = {
    "slabs": {"device": TWO[0], "resident_bytes": FEW},
    "two devices": {"device": TWO},
    "slabs on two devices": {"device": TWO, "resident_bytes": FEW},
}


@pytest.mark.parametrize("place", PLACES.values(), ids=list(PLACES))
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"key_dtype": "float16"},
        {"key_dtype": "bfloat16", "metric": "inner_product"},
        {"key_dtype": "float64"},
        {"metric": "cosine"},
    ],
    ids=str,
)
def test_memories_have_the_bits_of_the_cpu(counted, place, settings):
    memory, other, queries = twins(**settings)
    memory.to(**place)
    assert memory.device == place["device"]
    same_results(memory, other, queries)
    slabs = "resident_bytes" in place and settings.get("key_dtype") != "float16"
    assert all((each["slabs"] > 0) >= slabs for each in counted)
    assert {each["devices"] for each in counted} == {2 if memory.device == TWO else 1}


@pytest.mark.parametrize("place", PLACES.values(), ids=list(PLACES))
def test_rows_come_and_go(counted, place):
    memory, other, queries = twins(n=400)
    memory.to(**place)
    rng = np.random.default_rng(12)
    for step in range(6):
        more = rng.standard_normal((190, 20)).astype(np.float32)
        outputs, targets = rng.standard_normal((190, 4)).astype(np.float32), rng.integers(0, 4, 190)
        gone = np.arange(step * 50, step * 50 + 40)
        for each in (memory, other):
            each.remove(gone)
            each.add(more, outputs, targets, None)
        same_results(memory, other, queries)
    held = memory.nbytes_by_place
    if "resident_bytes" in place:
        assert all(held[name] <= FEW for name in held if name.startswith("cuda"))
        assert counted[-1]["slabs"] > 0


def test_given_ids_and_updates_are_known_on_two_devices(counted):
    rng = np.random.default_rng(13)
    embeddings, outputs = (rng.standard_normal((300, d)).astype(np.float32) for d in (6, 3))
    ids, targets = rng.permutation(9000)[:300], rng.integers(0, 3, 300)
    memory = resmem.Memory(k=5).fit(embeddings, outputs, targets, ids=ids).to(TWO)
    memory.remove(ids[100:200:3])
    memory.update(ids[:50], embeddings[50:100], outputs[:50], targets[:50])
    found = memory.kneighbors(embeddings, 9)
    assert counted[-1]["devices"] == 2
    assert_same(found, memory.to("cpu").kneighbors(embeddings, 9))


def test_queries_on_either_device_get_results_there(played):
    memory, other, (embeddings, _, _) = twins(metric="sqeuclidean")
    memory.to(TWO)
    wanted, excluded = other.kneighbors(embeddings, 4, np.arange(30)), np.arange(30)
    for ordinal in (0, 1):
        placed = [Emulated(played, array, ordinal) for array in (embeddings, excluded)]
        found = memory.kneighbors(placed[0], 4, placed[1])
        assert {each.ordinal for each in found} == {ordinal}
        raw = [played.copy_out(each.address, 30 * 4 * 8, ordinal) for each in found]
        assert raw == [each.tobytes() for each in wanted]
    placed = found = None


def test_bytes_are_told_by_place(played):
    memory, _, (embeddings, _, _) = twins()
    assert memory.nbytes_by_place == {"host": memory.nbytes}
    memory.to(TWO)
    places = memory.nbytes_by_place
    assert list(places) == ["host", *TWO]
    assert (
        sum(places[name] for name in TWO) == played.bytes_in_use() == memory.info()["device_nbytes"]
    )
    assert min(places[name] for name in TWO) > 0.3 * played.bytes_in_use()
    memory.to(TWO[0], resident_bytes=FEW)
    memory.kneighbors(embeddings)
    places = memory.nbytes_by_place
    assert places[TWO[0]] == played.bytes_in_use() <= FEW
    assert places["host, pinned"] == played.pinned_in_use() > 0
    assert memory.info()["device"] == TWO[0]
    assert repr(memory.to(TWO)).endswith(f"on {TWO[0]} and {TWO[1]}]")


def test_memories_share_a_device_and_go_one_by_one(played):
    first, _, (embeddings, _, _) = twins(n=600)
    first.to(TWO)
    alone = played.bytes_in_use()
    second, _, _ = twins(n=500, seed=3)
    second.to(TWO[1], resident_bytes=FEW).kneighbors(embeddings)
    assert played.bytes_in_use() > alone
    del second
    gc.collect()
    assert played.bytes_in_use() == alone
    assert played.pinned_in_use() == 0
    first.to("cpu")
    gc.collect()
    assert played.bytes_in_use() == 0


@pytest.mark.parametrize("metric", METRICS)
def test_search_divides_rows_among_devices(counted, metric):
    queries, rows = make("duplicates", 1, 1300, 20, 30)
    excluded = np.arange(20)[:, None] * 3
    wanted = resmem.search(queries, rows, 5, metric, excluded)
    assert_same(resmem.search(queries, rows, 5, metric, excluded, device=TWO), wanted, metric)
    assert counted[-1]["devices"] == 2
    assert counted[-1]["pairs_filtered"] == 20 * 1300 or metric


def test_search_passes_rows_that_do_not_fit_in_slabs(counted, played):
    queries, rows = make("gaussian", 2, 6000, 20, 30)
    wanted = resmem.search(queries, rows, 5)
    played.faults().memory = 700_000  # the keys take 720,000 bytes
    assert_same(resmem.search(queries, rows, 5, device=TWO[0], workspace_bytes=1), wanted)
    assert counted[-1]["slabs"] > 0
    assert_same(
        resmem.search(queries[:3], rows, 5, device=TWO, workspace_bytes=1),
        resmem.search(queries[:3], rows, 5),
    )
    assert counted[-1]["devices"] == 2


def test_rows_of_a_file_come_in_slabs(counted, tmp_path):
    memory, other, queries = twins()
    memory.save(tmp_path / "m.resmem")
    loaded = resmem.Memory.load(tmp_path / "m.resmem").to(TWO[0], FEW)
    same_results(loaded, other, queries)
    assert counted[-1]["slabs"] > 0


def test_an_interrupt_ends_a_search_that_waits_for_slabs(played, interruptible):
    memory, other, queries = twins()
    memory.to(TWO, resident_bytes=FEW)
    played.faults().busy_polls = 10**6
    timer = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        memory.kneighbors(queries[0])
    played.faults().busy_polls = 0
    same_results(memory, other, queries)


def test_many_threads_search_one_memory(played):
    """Each has a stream, and some bring slabs meanwhile; rows come and go."""
    memory, other, (embeddings, _, _) = twins(n=700)
    memory.to(TWO, resident_bytes=FEW)
    wanted, failures = other.kneighbors(embeddings, 5), []
    placed = Emulated(played, embeddings)

    def ask(stream):
        for _ in range(2):
            found = memory.kneighbors(placed, 5, stream=stream)
            raw = [played.copy_out(each.address, 30 * 5 * 8, 0, stream) for each in found]
            if raw != [each.tobytes() for each in wanted]:
                failures.append(stream)

    threads = [threading.Thread(target=ask, args=(64 + 8 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    far = np.full((40, 20), 1e3, np.float32)  # nobody's neighbours
    for _ in range(5):
        memory.add(far, np.zeros((40, 4), np.float32), np.zeros(40, int))
        memory.remove(memory.ids[-40:])
    for thread in threads:
        thread.join()
    assert not failures
    placed = None


# ---- which devices -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ([], "must name at least one device, got none"),
        (["cuda:emulated:0", "cpu"], "must name CUDA devices alone if it names several, got 'cpu'"),
        (["cuda:emulated:0", "cuda:emulated"], "must name each device once"),
        (["cuda:emulated:0", "cuda:emulated:7"], "device must be one of"),
    ],
)
def test_devices_that_do_not_go_together_are_refused(played, device, said):
    memory, _, (embeddings, _, _) = twins(n=30)
    with pytest.raises(ValueError, match=said):
        memory.to(device)
    with pytest.raises(ValueError, match=said):
        resmem.search(embeddings, embeddings, 1, device=device)
    assert memory.device == "cpu"


def test_what_does_not_go_with_a_place_is_refused(played):
    memory, _, (embeddings, _, _) = twins(n=300)
    with pytest.raises(ValueError, match=r"resident_bytes is for rows on CUDA devices, got 5"):
        memory.to("cpu", 5)
    with pytest.raises(ValueError, match="resident_bytes must be at least 1, got 0"):
        memory.to(TWO, 0)
    with pytest.raises(resmem.DeviceError, match="were asked for"):
        memory.to(TWO[0], 100)
    placed = Emulated(played, embeddings)
    with pytest.raises(ValueError, match="only rows in host memory are divided among devices"):
        resmem.search(embeddings, placed, 1, device=TWO)
    memory.to(TWO[1])
    with pytest.raises(ValueError, match="embeddings lies on cuda:emulated, but the memory on"):
        memory.kneighbors(placed)
    placed = None


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 1000])
@pytest.mark.parametrize("room", [[1], [0, 0], [5, 5, 5], [3, 0, 1], [10**12, 1]])
def test_shares_are_consecutive_and_hold_every_row_once(rows, room):
    parts = shares(rows, room)
    assert [row for part in parts for row in part] == list(range(rows))
    if sum(room):
        for part, weight in zip(parts, room, strict=True):
            assert abs(len(part) - rows * weight / sum(room)) <= 1
