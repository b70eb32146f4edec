"""Several devices search their own rows, and what they find is merged to the bits of one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from cases import FAMILIES, METRICS, assert_same, make
from tested_device import Searched, examples


@pytest.fixture(scope="module")
def device(tested, emulated):
    emulated.reset_devices()
    emulated.faults().devices = 3
    yield Searched(emulated, 0)
    emulated.reset_devices()


@pytest.fixture
def watched(device):
    """The emulation with three devices, in which a test leaves nothing behind."""
    emulated = device.module
    before = emulated.bytes_in_use(), emulated.pinned_in_use(), emulated.handles_in_use()
    yield emulated
    emulated.reset_devices()
    emulated.faults().devices = 3
    now = emulated.bytes_in_use(), emulated.pinned_in_use(), emulated.handles_in_use()
    assert now == before


def divided(device, rows, metric, cuts, ids=None, **options):
    """Return the rows between the cuts, each part on another device in turn."""
    ends = [*cuts, len(rows)]
    held = []
    for number, (first, last) in enumerate(zip([0, *cuts], ends, strict=True)):
        part = None if ids is None else ids[first:last]
        held.append(
            device.rows(rows[first:last], metric, part, first, ordinal=number % 3, **options)
        )
    return held


@examples(15)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 2**31),
    cuts=st.lists(st.integers(0, 500), max_size=4),
    d=st.sampled_from([1, 8, 33]),
    q=st.sampled_from([1, 5, 18, 140]),
    k=st.sampled_from([1, 7, 40, 600]),
    metric=st.sampled_from(METRICS),
    lead=st.sampled_from([0, 1, 2]),
    slabs=st.booleans(),
)
def test_several_devices_have_the_bits_of_the_oracle(
    device, tested, family, seed, cuts, d, q, k, metric, lead, slabs
):
    """Equal rows lie on all devices, so that ids decide; streams and threads run in any order."""
    queries, rows = make(family, seed, 500, q, d)
    tested.shuffle(seed)
    most = 128 * (8 * d + 64 + 100) + 16000 if slabs else None
    held = divided(device, rows, metric, sorted(cuts), most_bytes=most)
    found = device.search(queries, held, k, metric, first_phase=128, slab_rows=128, device=lead)
    assert_same(found[:2], oracle.search(queries, rows, k, metric), (family, metric))
    assert (found[2] == found[1]).all()
    assert found[3]["devices"] == len({each.device for each in held} | {lead})


@examples(8)
@given(
    seed=st.integers(0, 2**31),
    k=st.sampled_from([1, 9, 200]),
    metric=st.sampled_from(METRICS),
)
def test_rows_of_several_devices_are_hidden_as_those_of_one(device, tested, seed, k, metric):
    rng = np.random.default_rng(seed)
    queries, rows = make("duplicates", seed, 400, 6, 20)
    tested.shuffle(seed)
    ids = rng.permutation(5000)[:400]
    died, excluded = rng.choice([0, 3, 5, 7], 400), rng.choice(ids, (6, 3))
    held = divided(device, rows, metric, [150, 300], ids)
    for each, first in zip(held, (0, 150, 300), strict=True):
        own = died[first : first + len(each)]
        each.remove(np.flatnonzero(own), own[own > 0])
    wanted = oracle.search(queries, rows, k, metric, ids, excluded, ~np.isin(died, (3, 5)))
    found = device.search(queries, held, k, metric, excluded=excluded, version=5)
    assert_same(found[:2], wanted, metric)
    there = found[1] >= 0
    assert (ids[found[2][there]] == found[1][there]).all()


def test_results_are_merged_by_keys_and_not_by_roots(device):
    """The nearer row has the larger id, and both squared distances have one root."""
    one = np.float32(1.0)
    tiny = np.float32(2.0**-26)
    rows = np.array([[one, tiny], [one, 0]], np.float32)
    queries = np.zeros((1, 2), np.float32)
    squares = (rows.astype(np.float64) ** 2).sum(axis=1)
    assert squares[0] > squares[1]
    assert np.sqrt(squares[0]) == np.sqrt(squares[1])
    held = divided(device, rows, "euclidean", [1])
    found = device.search(queries, held, 2)
    assert found[1].tolist() == [[1, 0]]
    assert_same(found[:2], oracle.search(queries, rows, 2), "roots")


def test_many_queries_are_merged_in_parts(device):
    queries, rows = make("gaussian", 5, 300, 300, 8)
    held = divided(device, rows, "euclidean", [100, 200])
    found = device.search(queries, held, 5, workspace_bytes=1)
    assert_same(found[:2], oracle.search(queries, rows, 5), "parts")
    assert found[3]["query_blocks"] == 9


def test_devices_search_at_the_same_time(device, watched):
    """Each has a stream of its own, and none is waited for before all have been asked."""
    queries, rows = make("gaussian", 6, 300, 20, 8)
    held = divided(device, rows, "euclidean", [100, 200])
    orders = set()
    for seed in range(12):
        watched.set_seed(seed)
        watched.what_was_done(True)
        device.search(queries, held, 5)
        done = [each for each in watched.what_was_done() if each[0] == "merge_shares"]
        orders.add(tuple(place for _, place, _ in done))
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    assert len(orders) > 1
    del held


@pytest.mark.parametrize("allowed", [0, 1, 2, 4])
def test_a_failure_of_another_device_is_told(device, watched, allowed):
    queries, rows = make("gaussian", 7, 300, 20, 8)
    held = divided(device, rows, "euclidean", [100, 200])
    faults = watched.faults()
    faults.succeeding_copies, faults.failing_copies = allowed, 1
    faults.counted_copies = "copy_across"
    with pytest.raises(watched.DeviceError, match=r"a copy failed: a planted fault; device [12]"):
        device.search(queries, held, 5)
    watched.reset_devices()
    watched.faults().devices = 3
    found = device.search(queries, held, 5)
    assert_same(found[:2], oracle.search(queries, rows, 5), "afterwards")
    del held


def test_allocations_that_fail_on_a_device_leave_nothing(device, watched):
    queries, rows = make("gaussian", 8, 300, 20, 8)
    held = divided(device, rows, "euclidean", [100, 200])
    wanted = oracle.search(queries, rows, 5)
    for allowed in range(60):
        watched.faults().succeeding_allocations = allowed
        watched.faults().failing_allocations = 20
        try:
            found = device.search(queries, held, 5)
        except watched.OutOfDeviceMemory:
            watched.faults().failing_allocations = 0
            continue
        assert_same(found[:2], wanted, allowed)
        break
    assert allowed > 5
    del held
