"""Searches that are captured into a graph, and replayed with other queries in the same place."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import resmem
from cases import METRICS, assert_same, make
from devices import Emulated
from resmem._rows.visibility import Visibility

STREAM = 64
K = 6


@pytest.fixture
def played(emulated):
    emulated.reset_devices()
    yield emulated
    gc.collect()
    emulated.reset_devices()


class Arrays:
    """Queries and results of one shape on the device."""

    def __init__(self, played, q, d):
        self.played = played
        self.queries = Emulated(played, np.zeros((q, d), np.float32))
        self.excluded = Emulated(played, np.full((q, 1), -1))
        self.out = (Emulated(played, np.zeros((q, K))), Emulated(played, np.zeros((q, K), int)))

    def put(self, queries, excluded):
        self.played.copy_in(self.queries.address, queries.tobytes())
        self.played.copy_in(self.excluded.address, excluded.tobytes())

    def results(self):
        raw = [
            self.played.copy_out(each.address, each.array.nbytes, 0, STREAM) for each in self.out
        ]
        shape = self.out[0].array.shape
        return np.frombuffer(raw[0]).reshape(shape), np.frombuffer(raw[1], int).reshape(shape)


def captured(played, search):
    """Return the graph of a search, after one that is not captured."""
    search()
    played.begin_capture(STREAM)
    search()
    return played.end_capture(STREAM)


@pytest.mark.parametrize("q", [3, 20])
@pytest.mark.parametrize("metric", METRICS)
def test_a_captured_search_of_a_memory_is_replayed(played, metric, q):
    _, rows = make("gaussian", 1, 1500, q, 20)
    made = [
        resmem.Memory(k=K, metric=metric).fit(rows, rows[:, :3], np.arange(1500) % 3) for _ in "ab"
    ]
    memory, other = made[0].to("cuda:emulated"), made[1]
    for each in made:
        each.remove(np.arange(100, 200))
    arrays = Arrays(played, q, 20)
    graph = captured(
        played,
        lambda: memory.kneighbors(
            arrays.queries, K, arrays.excluded, stream=STREAM, out=arrays.out
        ),
    )
    assert len(graph) > 5
    for seed in (5, 6):
        queries, _ = make("gaussian", seed, 1, q, 20)
        excluded = np.random.default_rng(seed).integers(0, 1500, (q, 1))
        arrays.put(queries, excluded)
        graph.replay()
        assert_same(arrays.results(), other.kneighbors(queries, K, excluded), (metric, seed))


def test_a_captured_correction_is_replayed(played):
    """Residuals are there from the correction before the one that is captured."""
    _, rows = make("gaussian", 7, 1500, 20, 20)
    made = [resmem.Memory(k=K).fit(rows, rows[:, :3], np.arange(1500) % 3) for _ in "ab"]
    memory, other = made[0].to("cuda:emulated"), made[1]
    arrays = Arrays(played, 20, 20)
    logits = Emulated(played, np.zeros((20, 3), np.float32))
    out = Emulated(played, np.zeros((20, 3)))
    graph = captured(
        played, lambda: memory.predict_proba(arrays.queries, logits, stream=STREAM, out=out)
    )
    for seed in (8, 9):
        queries, outputs = make("gaussian", seed, 1, 20, 20)[0], rows[seed * 20 :][:20, :3]
        arrays.put(queries, np.full((20, 1), -1))
        played.copy_in(logits.address, np.ascontiguousarray(outputs).tobytes())
        graph.replay()
        wanted = other.predict_proba(queries, outputs)
        assert played.copy_out(out.address, wanted.nbytes, 0, STREAM) == wanted.tobytes()
    logits = out = None


def test_a_captured_prediction_of_classes_with_names_is_replayed(played):
    """What classes are called is there from the prediction before, and brought by no other."""
    _, rows = make("gaussian", 7, 1500, 20, 20)
    names = np.array([30, -10, 7])
    made = [resmem.Memory(k=K).fit(rows, rows[:, :3], names[np.arange(1500) % 3]) for _ in "ab"]
    memory, other = made[0].to("cuda:emulated"), made[1]
    queries, outputs = make("gaussian", 8, 1, 20, 20)[0], np.ascontiguousarray(rows[:20, :3])
    there, logits = Emulated(played, queries), Emulated(played, outputs)
    out = Emulated(played, np.zeros(20, np.int64))
    graph = captured(played, lambda: memory.predict(there, logits, stream=STREAM, out=out))
    graph.replay()
    wanted = other.predict(queries, outputs)
    assert set(wanted) == set(names)
    assert played.copy_out(out.address, wanted.nbytes, 0, STREAM) == wanted.tobytes()
    there = logits = out = None


def test_a_captured_search_of_arrays_is_replayed(played):
    queries, rows = make("gaussian", 2, 1500, 20, 20)
    arrays, there = Arrays(played, 20, 20), Emulated(played, rows)
    graph = captured(
        played,
        lambda: resmem.search(
            arrays.queries, there, K, device="cuda:emulated", stream=STREAM, out=arrays.out
        ),
    )
    for step in (1.0, 2.0):
        arrays.put(queries * np.float32(step), np.full((20, 1), -1))
        graph.replay()
        assert_same(arrays.results(), resmem.search(queries * np.float32(step), rows, K), step)
    rows += 1  # rows that lie on the device are read anew as well
    played.copy_in(there.address, rows.tobytes())
    graph.replay()
    wanted = resmem.search(queries * np.float32(2), rows, K)
    assert_same(arrays.results(), wanted, "other rows")
    there = None


def test_blocks_of_queries_are_captured_where_workspace_is_given(played):
    queries, rows = make("gaussian", 3, 1500, 300, 8)
    memory = resmem.Memory(k=K).fit(rows, rows[:, :3], np.arange(1500) % 3).to("cuda:emulated")
    arrays = Arrays(played, 300, 8)

    def search():
        view = memory._state.view
        given = arrays.queries, K, Visibility(), STREAM, arrays.out, "euclidean"
        view.resident.kneighbors(view.rows, *given)

    graph = captured(played, search)
    arrays.put(queries, np.full((300, 1), -1))
    graph.replay()
    assert_same(arrays.results(), resmem.search(queries, rows, K), "blocks")


def test_memory_of_a_graph_goes_with_it(played):
    _, rows = make("gaussian", 4, 1500, 3, 20)
    memory = resmem.Memory(k=K).fit(rows, rows[:, :3], np.arange(1500) % 3).to("cuda:emulated")
    arrays = Arrays(played, 3, 20)
    before = played.bytes_in_use()
    graph = captured(
        played, lambda: memory.kneighbors(arrays.queries, K, stream=STREAM, out=arrays.out)
    )
    assert played.bytes_in_use() > before
    del graph
    assert played.bytes_in_use() == before


@pytest.mark.parametrize("place", ["host queries", "host rows", "new rows", "slabs", "several"])
def test_what_cannot_be_captured_is_refused(played, place):
    """The capture ends, as CUDA's does, or the search says so before anything has begun."""
    played.faults().devices = 2
    _, rows = make("gaussian", 5, 1500, 3, 20)
    memory = resmem.Memory(k=K).fit(rows, rows[:, :3], np.arange(1500) % 3)
    arrays = Arrays(played, 3, 20)
    where = {"slabs": ("cuda:emulated", 60_000), "several": (["cuda:emulated", "cuda:emulated:1"],)}
    memory.to(*where.get(place, ("cuda:emulated",)))

    def search():
        if place == "host queries":
            memory.kneighbors(rows[:3], K, arrays.excluded, stream=STREAM)
        elif place == "host rows":
            resmem.search(
                arrays.queries, rows, K, stream=STREAM, out=arrays.out, device="cuda:emulated"
            )
        else:
            memory.kneighbors(arrays.queries, K, stream=STREAM, out=arrays.out)

    search()
    if place == "new rows":
        memory.add(rows[:9], rows[:9, :3], np.zeros(9, int))
    played.begin_capture(STREAM)
    said = "cannot be captured" if place in ("slabs", "several") else "when stream is capturing"
    with pytest.raises(resmem.DeviceError, match=said):
        search()
    if said == "cannot be captured":
        assert len(played.end_capture(STREAM)) == 0
    else:
        with pytest.raises(resmem.DeviceError, match="cudaErrorStreamCaptureInvalidated"):
            played.end_capture(STREAM)
    search()
    assert len(memory.kneighbors(rows[:2])[1]) == 2


def test_the_default_stream_cannot_be_captured(played):
    with pytest.raises(resmem.DeviceError, match="legacy default stream"):
        played.begin_capture(0)
