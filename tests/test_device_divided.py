"""Rows in slabs or on two devices are hidden and corrected with the bits of the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import resmem
from cases import METRICS, assert_same, make
from devices import Emulated
from test_device_correct import Drawn, same_answers
from test_device_visibility import SHARE, Sighted, restrictions, twins
from tested_device import Searched, TestedDevice, examples

TWO = ["cuda:emulated", "cuda:emulated:1"]
TILE = 128  # rows of a slab
PLACES = {
    "slabs": {"device": TWO[0], "resident_bytes": 150_000},
    "two devices": {"device": TWO},
    "slabs on two devices": {"device": TWO, "resident_bytes": 100_000},
}
PLACED = pytest.mark.parametrize("place", PLACES.values(), ids=list(PLACES))


@pytest.fixture(scope="module")
def device(emulated):
    emulated.reset_devices()
    emulated.faults().devices = 2
    yield Searched(emulated, 0)
    emulated.reset_devices()


@pytest.fixture
def brought(played, monkeypatch):
    """Return the numbers of slabs that searches have brought."""
    slabs, real = [], played.search

    def search(*args, **named):
        slabs.append(real(*args, **named, counted=True)["slabs"])

    monkeypatch.setattr(played, "search", search)
    return slabs


# ---- Who sees what -------------------------------------------------------------------------------


@examples(20)
@given(
    seed=st.integers(0, 2**31),
    sizes=st.sampled_from([[500], [130, 300], [1, 250, 90]]),
    metric=st.sampled_from(METRICS),
    k=st.sampled_from([1, 7, 60]),
    q=st.sampled_from([1, 5, 20, 131]),
    family=st.sampled_from(["gaussian", "integers", "duplicates"]),
    share=SHARE,
    as_bits=st.booleans(),
    listed=st.sampled_from([0, 1]),
    grouped=st.sampled_from([0, 1, 20]),
    timed=st.booleans(),
    excluded=st.sampled_from([0, 2]),
    coded=st.booleans(),
    slabs=st.booleans(),
    devices=st.sampled_from([1, 2]),
    lead=st.sampled_from([0, 1]),
)
def test_queries_see_what_the_oracle_says(
    device, seed, sizes, metric, k, q, family, share, as_bits, listed, grouped, timed, excluded,
    coded, slabs, devices, lead,
):  # fmt: skip
    rng = np.random.default_rng(seed)
    queries, rows = make(family, seed, sum(sizes), q, 9)
    case = Sighted(rng, queries, rows, metric, sizes, share, grouped, timed, excluded, 0.2)
    device.module.set_seed(seed)
    most = TILE * (2 * 36 + 160) + 32 * 500 + 6000 if slabs else None
    held = case.hold(device, rows, 1 if coded else 10**6, devices, most)
    found = case.search(
        device, held, k, as_bits, first_phase=TILE, slab_rows=TILE, listed=listed, device=lead
    )
    assert_same(found[:2], case.wanted(k), (metric, sizes))
    there = found[1] >= 0
    assert np.array_equal(case.ids[found[2][there]], found[1][there])
    if case.some is not None and len(case.some) <= (listed or 1024):
        assert found[3]["compared"] == q * len(case.some)


def test_slabs_without_a_listed_row_are_not_brought(device):
    queries, rows = make("gaussian", 3, 5 * TILE, 4, 9)
    held = device.rows(rows, most_bytes=TILE * (2 * 36 + 160))
    for some, slabs in (([], 0), ([TILE, TILE + 1], 1), ([0, 5 * TILE - 1], 2)):
        some = np.array(some, dtype=np.int64)
        found = device.search(queries, [held], 3, among=some, slab_rows=TILE)
        assert found[3]["slabs"] == slabs
        assert set(found[1].ravel()) - {-1} == set(some)


@PLACED
@pytest.mark.parametrize("metric", METRICS)
def test_memories_hide_rows_with_the_bits_of_the_cpu(played, brought, place, metric):
    memory, other, (embeddings, _, _) = twins(metric=metric)
    memory.to(**place)
    there = Emulated(played, embeddings)
    for given_ in restrictions():
        wanted = other.kneighbors(embeddings, 7, **given_)
        assert_same(memory.kneighbors(embeddings, 7, **given_), wanted, list(given_))
        found = memory.kneighbors(there, 7, **given_)
        assert_same([*map(on_device(0).fetch, found)], wanted, list(given_))
        del found
    assert (max(brought) > 0) == ("resident_bytes" in place)
    if metric == "euclidean":
        wanted = other.kneighbors(embeddings, 7, squared=True)
        assert_same(memory.kneighbors(embeddings, 7, squared=True), wanted, "squared")
    del memory, there


# ---- Corrections ---------------------------------------------------------------------------------


def on_device(ordinal):
    """Return what places arrays on an emulated device."""
    there = TestedDevice()
    there.ordinal = ordinal
    return there


@PLACED
@pytest.mark.parametrize("seed", range(6))
def test_a_memory_corrects_with_the_bits_of_the_cpu(played, place, seed):
    there = on_device(seed % 2 if isinstance(place["device"], list) else 0)
    there.shuffle(seed)
    drawn = Drawn(seed, n=900)
    same_answers(drawn, there, **place)
    places = drawn.memory.nbytes_by_place
    assert places[TWO[there.ordinal]] > 0
    assert sum(places.get(name, 0) for name in TWO) == drawn.memory.info()["device_nbytes"]


def corrected(memory, there, embeddings, outputs):
    placed = there.place(embeddings), there.place(outputs)
    return there.fetch(memory.correct(*placed)).tobytes()


@PLACED
def test_rows_come_and_go(played, place):
    memory, other, (embeddings, outputs, _) = twins(n=900)
    memory.to(**place)
    rng, there = np.random.default_rng(4), on_device(0)
    for step in range(3):
        more = rng.standard_normal((190, 12)).astype(np.float32)
        rest = rng.standard_normal((190, 3)).astype(np.float32), rng.integers(0, 3, 190)
        for each in (memory, other):
            each.remove(np.arange(100 + step * 90, 140 + step * 90))
            each.add(more, *rest, times=np.arange(190))
        wanted = other.correct(embeddings, outputs).tobytes()
        assert corrected(memory, there, embeddings, outputs) == wanted
    del memory


def test_residuals_lie_where_the_arrays_do(played):
    """Each device that corrects has the residuals of all rows, and no other one has any."""
    memory, other, (embeddings, outputs, _) = twins()
    memory.to(TWO)
    keys = memory.nbytes_by_place
    wanted = other.correct(embeddings, outputs).tobytes()
    assert corrected(memory, on_device(1), embeddings, outputs) == wanted
    after = memory.nbytes_by_place
    assert after[TWO[0]] == keys[TWO[0]]
    assert after[TWO[1]] >= keys[TWO[1]] + 1500 * 3 * 4
    assert corrected(memory, on_device(0), embeddings, outputs) == wanted
    assert memory.nbytes_by_place[TWO[0]] >= keys[TWO[0]] + 1500 * 3 * 4
    assert sum(memory.nbytes_by_place[name] for name in TWO) == played.bytes_in_use()
    del memory


def test_a_slab_that_fails_within_a_correction_is_told(played):
    memory, other, (embeddings, outputs, _) = twins()
    memory.to(**PLACES["slabs"])
    played.faults().failing_copies, played.faults().counted_copies = 1, "copy_from_pinned"
    with pytest.raises(resmem.DeviceError, match="a copy failed"):
        corrected(memory, on_device(0), embeddings, outputs)
    played.reset_devices()
    wanted = other.correct(embeddings, outputs).tobytes()
    assert corrected(memory, on_device(0), embeddings, outputs) == wanted
    del memory
