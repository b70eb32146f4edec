"""Rows that a device has no room for come in slabs, with the bits of rows that stay there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from cases import FAMILIES, METRICS, WIDE_FAMILIES, as_stored, assert_same, make, make_wide
from tested_device import Searched, examples

TILE = 128  # rows; slabs have a multiple of it
COPY, SEARCHED = "copy_from_pinned", "merge_shares"  # what ends the search of a slab


@pytest.fixture(scope="session")
def device(tested):
    return Searched(tested.extension, tested.ordinal)


@pytest.fixture
def watched(emulated):
    """The emulation, in which a test leaves neither memory nor streams behind."""
    before = emulated.bytes_in_use(), emulated.pinned_in_use(), emulated.handles_in_use()
    yield emulated
    emulated.reset_devices()
    now = emulated.bytes_in_use(), emulated.pinned_in_use(), emulated.handles_in_use()
    assert now == before


def room(rows, staying=0):
    """Return the bytes of a device into which a slab fits, and about so many rows that stay."""
    key, others = rows.shape[1] * rows.itemsize, (rows.shape[1] // 64 + 1) * 64 + 16 + 80
    return TILE * (2 * key + others) + staying * (key + others) + 32 * len(rows)


@examples(18)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 2**31),
    d=st.sampled_from([1, 8, 33, 65]),
    q=st.sampled_from([1, 5, 16, 17, 140]),
    k=st.sampled_from([1, 7, 40, 300]),
    metric=st.sampled_from(METRICS),
    staying=st.sampled_from([0, 90, 200]),
    least_coded=st.sampled_from([1, 10**6]),
)
def test_slabs_have_the_bits_of_the_oracle(
    device, tested, family, seed, d, q, k, metric, staying, least_coded
):
    """Streams and threads run in an order that the seed chooses."""
    queries, rows = make(family, seed, 700, q, d)
    tested.shuffle(seed)
    held = device.rows(rows, metric, most_bytes=room(rows, staying), least_coded=least_coded)
    assert staying // 2 <= len(held) - 700 + held.staying < 600
    found = device.search(queries, [held], k, metric, first_phase=128, slab_rows=TILE)
    assert_same(found[:2], oracle.search(queries, rows, k, metric), (family, metric))
    assert (found[2] == found[1]).all()
    stats = found[3]
    assert stats["slabs"] == -(-(700 - held.staying) // TILE)
    assert stats["slab_bytes"] == (700 - held.staying) * d * 4


@examples(8)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(["float16", "bfloat16"]),
    q=st.sampled_from([3, 20]),
    metric=st.sampled_from(METRICS),
)
def test_half_keys_come_in_slabs_as_they_are(device, tested, family, seed, kind, q, metric):
    queries, rows = make(family, seed, 400, q, 20)
    tested.shuffle(seed)
    stored, read = as_stored(rows, kind)
    held = device.rows(stored, metric, most_bytes=room(stored, 60))
    found = device.search(queries, [held], 7, metric, slab_rows=TILE)
    assert_same(found[:2], oracle.search(queries, read, 7, metric), (family, kind))
    assert found[3]["slabs"] >= 2


@examples(8)
@given(
    family=st.sampled_from(sorted(WIDE_FAMILIES)),
    seed=st.integers(0, 2**31),
    q=st.sampled_from([3, 20]),
    metric=st.sampled_from(["euclidean", "sqeuclidean", "inner_product"]),
)
def test_float64_keys_come_in_slabs(device, tested, family, seed, q, metric):
    queries, rows = make_wide(family, seed, 400, q, 20)
    tested.shuffle(seed)
    held = device.rows(rows, metric, most_bytes=room(rows, 60))
    found = device.search(queries, [held], 7, metric, slab_rows=TILE)
    assert_same(found[:2], oracle.search(queries, rows, 7, metric, wide=True), family)
    assert found[3]["slabs"] >= 2


@examples(10)
@given(
    seed=st.integers(0, 2**31),
    q=st.sampled_from([6, 18]),
    k=st.sampled_from([1, 9, 200]),
    metric=st.sampled_from(METRICS),
)
def test_rows_of_slabs_are_hidden_and_numbered_as_others(device, tested, seed, q, k, metric):
    rng = np.random.default_rng(seed)
    queries, rows = make("gaussian", seed, 500, q, 20)
    tested.shuffle(seed)
    ids = rng.permutation(5000)[:500]
    died = rng.choice([0, 3, 5, 7], 500)
    excluded = rng.choice(np.append(ids, -1), (q, 3))
    held = device.rows(rows, metric, ids, most_bytes=room(rows, 100))
    gone = np.flatnonzero(died)
    held.remove(gone, died[gone])
    there = 450  # the rows behind came later
    wanted = oracle.search(
        queries, rows[:there], k, metric, ids[:there], excluded, ~np.isin(died[:there], (3, 5))
    )
    values, found, positions, stats = device.search(
        queries, [(held, there)], k, metric, excluded=excluded, version=5, slab_rows=TILE
    )
    assert_same((values, found), wanted, metric)
    assert (ids[positions[found >= 0]] == found[found >= 0]).all()
    assert stats["slabs"] >= 2


def test_added_rows_come_in_slabs_once_the_device_is_full(device):
    queries, rows = make("gaussian", 3, 900, 20, 24)
    most = room(rows, 400)
    held = device.rows(rows[:200], most_bytes=most)
    assert held.staying == 200
    for end in (300, 500, 900):
        held.extend(rows[:end], None, 0, most)
        assert held.nbytes <= most
        found = device.search(queries, [held], 9, slab_rows=TILE)
        assert_same(found[:2], oracle.search(queries, rows[:end], 9), end)
    assert 200 <= held.staying < 500
    assert found[3]["slabs"] == -(-(900 - held.staying) // TILE)


def test_rows_come_once_for_all_blocks_of_queries(device):
    queries, rows = make("gaussian", 4, 600, 300, 20)
    held = device.rows(rows, most_bytes=room(rows))
    wanted = oracle.search(queries, rows, 5)
    found = device.search(queries, [held], 5, queries=40, slab_rows=TILE)
    assert_same(found[:2], wanted, "blocks")
    assert (found[3]["query_blocks"], found[3]["slabs"]) == (8, -(-(600 - held.staying) // TILE))
    found = device.search(queries, [held], 5, workspace_bytes=1, slab_rows=TILE)
    assert_same(found[:2], wanted, "rounds")
    assert found[3]["query_blocks"] == 3  # and the rows come for each of them


def test_keys_in_pinned_memory_are_copied_from_there(device, watched):
    """Nothing is staged: what the memory holds when the device gets there is what is compared."""
    queries, rows = make("gaussian", 5, 400, 3, 20)
    address = watched.allocate_pinned(rows.nbytes)
    pinned = np.frombuffer(watched.pinned(address, rows.nbytes), np.float32).reshape(rows.shape)
    pinned[:] = rows
    held = device.rows(pinned, most_bytes=room(rows))
    found = device.search(queries, [held], 7, slab_rows=TILE)
    assert_same(found[:2], oracle.search(queries, rows, 7), "pinned")
    del held, pinned
    watched.release_pinned(address)


@pytest.mark.parametrize("q", [3, 20])
def test_a_slab_is_copied_while_the_one_before_is_searched(device, watched, tested, q):
    """Copies have a stream of their own, which runs ahead by one slab where the search lags."""
    queries, rows = make("gaussian", 6, 6 * TILE, q, 20)
    held = device.rows(rows, most_bytes=room(rows))
    slabs = -(-(len(rows) - held.staying) // TILE)
    ahead = set()
    for seed in range(12):
        tested.shuffle(seed)
        watched.what_was_done(True)
        device.search(queries, [held], 7, slab_rows=TILE)
        done = watched.what_was_done()
        copies = [each for each in done if each[0] == COPY]
        assert len(copies) == slabs
        assert {stream for _, _, stream in copies}.isdisjoint(
            stream for what, _, stream in done if what != COPY and what != "wait_for"
        )
        last = max(i for i, each in enumerate(done) if each[0] == COPY)
        ahead.add(sum(each[0] == SEARCHED for each in done[last:]))
    assert ahead == {1, 2}
    del held


def test_pinned_memory_is_kept_for_the_next_search_and_released(device, watched):
    queries, rows = make("gaussian", 7, 500, 3, 20)
    held, lanes = device.rows(rows, most_bytes=room(rows)), watched.Lanes()
    before = watched.pinned_in_use()
    device.search(queries, [held], 7, slab_rows=TILE, lanes=lanes)
    assert watched.pinned_in_use() - before == lanes.nbytes == 2 * TILE * 80
    device.search(queries, [held], 7, slab_rows=TILE, lanes=lanes)
    assert watched.pinned_in_use() - before == 2 * TILE * 80
    del lanes
    assert watched.pinned_in_use() == before
    del held


def test_slabs_are_halved_where_memory_lacks(device, watched):
    queries, rows = make("gaussian", 8, 2000, 20, 20)
    held = device.rows(rows, most_bytes=room(rows))
    wanted = oracle.search(queries, rows, 5)
    watched.faults().failing_allocations = 1
    found = device.search(queries, [held], 5, slab_rows=8 * TILE)
    assert_same(found[:2], wanted, "halved")
    assert found[3]["slabs"] == -(-(2000 - held.staying) // (4 * TILE))
    watched.faults().failing_allocations = 100
    with pytest.raises(watched.OutOfDeviceMemory, match="workspace_bytes="):
        device.search(queries, [held], 5, slab_rows=8 * TILE)
    watched.reset_devices()
    assert_same(device.search(queries, [held], 5)[:2], wanted, "afterwards")
    del held


def test_allocations_that_fail_anywhere_leave_nothing_behind(device, watched):
    queries, rows = make("gaussian", 9, 500, 20, 20)
    held, wanted = device.rows(rows, most_bytes=room(rows)), oracle.search(queries, rows, 5)
    for allowed in range(30):
        watched.faults().succeeding_allocations = allowed
        watched.faults().failing_allocations = 20
        try:
            found = device.search(queries, [held], 5, slab_rows=TILE)
        except watched.OutOfDeviceMemory:
            watched.reset_devices()
            continue
        assert_same(found[:2], wanted, allowed)
        break
    assert allowed > 3
    del held


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_a_copy_that_fails_is_told(device, watched, allowed):
    queries, rows = make("gaussian", 10, 6 * TILE, 20, 20)
    held, lanes = device.rows(rows, most_bytes=room(rows)), watched.Lanes()
    faults = watched.faults()
    faults.succeeding_copies, faults.failing_copies = allowed, 1
    faults.counted_copies = "copy_from_pinned"
    with pytest.raises(watched.DeviceError, match="a copy failed: a planted fault"):
        device.search(queries, [held], 5, slab_rows=TILE, lanes=lanes)
    assert lanes.nbytes == 0  # what a failed search used is not kept
    watched.reset_devices()
    found = device.search(queries, [held], 5, slab_rows=TILE, lanes=lanes)
    assert_same(found[:2], oracle.search(queries, rows, 5), "afterwards")
    del held, lanes


def test_a_host_without_memory_to_pin_is_told(device, watched):
    queries, rows = make("gaussian", 11, 500, 3, 20)
    held = device.rows(rows, most_bytes=room(rows))
    watched.faults().pinnable = 100
    with pytest.raises(watched.DeviceError, match=r"the host has no .* to pin.*resident_bytes="):
        device.search(queries, [held], 5, slab_rows=TILE)
    del held


def test_a_device_that_holds_no_slab_is_told(device, watched):
    _, rows = make("gaussian", 12, 500, 3, 20)
    with pytest.raises(watched.OutOfDeviceMemory):
        device.rows(rows, most_bytes=1000)
