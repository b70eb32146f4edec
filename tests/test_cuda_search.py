"""The search on a device gives the oracle's bits, whatever path it takes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from cases import FAMILIES, METRICS, WIDE_FAMILIES, as_stored, assert_same, make, make_wide
from tested_device import Searched, examples

DIMENSIONS = [1, 2, 3, 7, 8, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200, 784]
ROWS = [0, 1, 2, 127, 128, 129, 255, 256, 257, 400, 700]
QUERIES = [0, 1, 2, 15, 16, 17, 127, 128, 129, 140]
PHASES = [0, 128, 256]


@pytest.fixture(scope="session")
def device(tested):
    return Searched(tested.extension, tested.ordinal)


@examples(40)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 2**31),
    n=st.sampled_from(ROWS),
    d=st.sampled_from(DIMENSIONS),
    q=st.sampled_from(QUERIES),
    k=st.sampled_from([1, 2, 10, 63, 64, 200, 1000]),
    metric=st.sampled_from(METRICS),
    first_phase=st.sampled_from(PHASES),
)
def test_device_gives_the_bits_of_the_oracle(
    device, tested, family, seed, n, d, q, k, metric, first_phase
):
    queries, rows = make(family, seed, n, q, d)
    tested.shuffle(seed)
    wanted = oracle.search(queries, rows, k, metric)
    values, ids, positions, stats = device.search(
        queries, [device.rows(rows, metric)], k, metric, first_phase=first_phase
    )
    assert_same((values, ids), wanted, (family, metric))
    assert (positions == ids).all()
    filtered = (first_phase or 512) < n and k <= n
    paths = stats["pairs_filtered"], stats["pairs_streamed"]
    assert paths == (n * q * (filtered and q > 16), n * q * (filtered and q <= 16))
    if filtered:
        assert stats["compared"] <= n * stats["given_up"]
    else:
        assert (stats["compared"], stats["given_up"]) == (n * q, 0)


@examples(25)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(["float16", "bfloat16"]),
    d=st.sampled_from(DIMENSIONS),
    metric=st.sampled_from(METRICS),
)
def test_device_reads_half_keys_as_they_are(device, family, seed, kind, d, metric):
    queries, rows = make(family, seed, 300, 5, d)
    stored, read = as_stored(rows, kind)
    found = device.search(queries, [device.rows(stored, metric)], 7, metric, first_phase=128)
    assert_same(found[:2], oracle.search(queries, read, 7, metric), (family, kind))
    assert found[3]["pairs_streamed"] == 1500


@examples(25)
@given(
    family=st.sampled_from(sorted(WIDE_FAMILIES)),
    seed=st.integers(0, 2**31),
    d=st.sampled_from(DIMENSIONS),
    metric=st.sampled_from(METRICS),
)
def test_device_compares_float64_keys_in_float64(device, family, seed, d, metric):
    queries, rows = make_wide(family, seed, 300, 5, d)
    if metric == "cosine":
        queries, rows = (oracle.as_float64(x, metric) for x in (queries, rows))
    found = device.search(queries, [device.rows(rows, metric)], 7, metric, first_phase=128)
    assert_same(found[:2], oracle.search(queries, rows, 7, metric, wide=True), family)


@examples(30)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 2**31),
    k=st.sampled_from([1, 9, 200]),
    metric=st.sampled_from(METRICS),
    width=st.sampled_from([1, 3, 40]),
    coded=st.booleans(),
)
def test_device_hides_removed_and_excluded_rows(device, family, seed, k, metric, width, coded):
    rng = np.random.default_rng(seed)
    queries, rows = make(family, seed, 400, 6, 20)
    ids = rng.permutation(5000)[:400]
    died = rng.choice([0, 3, 5, 7], 400)
    excluded = rng.choice(np.append(ids, -1), (6, width))
    held = device.rows(rows, metric, ids, least_coded=1 if coded else 10**6)
    gone = np.flatnonzero(died)
    held.remove(gone, died[gone])
    there = 380  # the rows behind came later
    wanted = oracle.search(
        queries, rows[:there], k, metric, ids[:there], excluded, ~np.isin(died[:there], (3, 5))
    )
    values, found, positions, stats = device.search(
        queries, [(held, there)], k, metric, excluded=excluded, version=5, first_phase=128
    )
    assert_same((values, found), wanted, metric)
    assert (ids[positions[found >= 0]] == found[found >= 0]).all()
    assert (stats["pairs_streamed"] > 0) == coded


@examples(12)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 2**31),
    metric=st.sampled_from(METRICS),
    sizes=st.lists(st.sampled_from([0, 1, 130, 260]), min_size=1, max_size=5),
)
def test_device_rows_grow_and_lie_in_several_segments(device, family, seed, metric, sizes):
    """Rows come in steps, in two segments: results are those of all rows at once."""
    queries, rows = make(family, seed, 2 * sum(sizes), 4, 33)
    first, second = rows[: sum(sizes)], rows[sum(sizes) :]
    held = [device.rows(first[:0], metric), device.rows(second[:0], metric, first_id=10**6)]
    end = 0
    for size in sizes:
        end += size
        held[0].extend(np.ascontiguousarray(first[:end]), None, 0)
        held[1].extend(np.ascontiguousarray(second[:end]), None, 10**6)
        both = np.concatenate([first[:end], second[:end]])
        ids = np.concatenate([np.arange(end), 10**6 + np.arange(end)])
        found = device.search(queries, held, 6, metric, first_phase=128)
        assert_same(found[:2], oracle.search(queries, both, 6, metric, ids), (metric, end))
        there = found[1] >= 0
        assert (ids[found[2][there]] == found[1][there]).all()


@pytest.mark.parametrize("metric", METRICS)
def test_lists_that_overflow_are_searched_canonically(device, metric):
    queries, rows = make("gaussian", 4, 900, 40, 40)
    wanted = oracle.search(queries, rows, 60, metric)
    held = device.rows(rows, metric)
    counts = []
    for capacity in (128, 200, 250, 2000):
        found = device.search(queries, [held], 60, metric, first_phase=128, capacity=capacity)
        assert_same(found[:2], wanted, capacity)
        counts.append(found[3]["given_up"])
        assert 60 * counts[-1] <= found[3]["compared"] <= 900 * counts[-1]
    assert counts[0] > 0
    assert sorted(counts, reverse=True) == counts
    assert counts[-1] == 0


def test_results_and_counters_do_not_depend_on_orders(device, tested):
    """Blocks and threads run in other orders, and hits lie otherwise in their lists."""
    queries, rows = make("duplicates", 5, 700, 140, 24)
    rows[::2] += np.float32(0.25)
    runs = []
    for seed in (1, 2, 3):
        tested.shuffle(seed)
        held = device.rows(rows)
        runs.append(device.search(queries, [held], 20, first_phase=128, capacity=300))
    for values, ids, _, stats in runs[1:]:
        assert_same((values, ids), runs[0][:2], "orders")
        assert stats == runs[0][3]


def test_queries_of_many_lengths_keep_their_own_codes(device):
    """Exponents differ within a tile of queries; one for all would make the codes of most 0."""
    queries, rows = make("gaussian", 6, 3000, 140, 64)
    scale = (2.0 ** np.arange(-20, 2))[np.arange(140) % 22]
    queries = (queries * scale[:, None]).astype(np.float32)
    found = device.search(queries, [device.rows(rows)], 10)
    assert_same(found[:2], oracle.search(queries, rows, 10), "lengths")
    assert found[3]["given_up"] == 0
    assert found[3]["rescored"] <= 140 * 20


def test_rows_that_are_not_finite_are_no_neighbours(device):
    queries, rows = make("gaussian", 7, 300, 5, 40)
    rows[[4, 9, 280], [0, 39, 7]] = np.nan, np.inf, -np.inf
    for least in (1, 10**6):
        values, ids, _, _ = device.search(
            queries, [device.rows(rows, least_coded=least)], 300, first_phase=128
        )
        assert (ids[:, 297:] == -1).all()
        assert np.isinf(values[:, 297:]).all()
        kept = np.delete(np.arange(300), [4, 9, 280])
        wanted = oracle.search(queries, rows[kept], 297, ids=kept)
        assert_same((values[:, :297], ids[:, :297]), wanted, least)


def test_lengths_whose_quotient_has_no_square_keep_their_order(device):
    """The longest row is 1e154 times as long as a query: the square of that is no float64."""
    rng = np.random.default_rng(19)
    rows, queries = rng.standard_normal((900, 5)) * 1e35, rng.standard_normal((40, 5)) * 1e-119
    found = device.search(
        queries, [device.rows(rows, "inner_product")], 7, "inner_product", first_phase=128
    )
    assert_same(found[:2], oracle.search(queries, rows, 7, "inner_product", wide=True), "lengths")


def test_few_lists_are_made_where_all_rows_are_filtered(device, emulated):
    """Shares of the rows, each with a list, are for queries that are compared with all of them."""
    queries, rows = make("gaussian", 20, 13000, 1, 3)
    held, wanted = device.rows(rows), oracle.search(queries, rows, 1500)
    try:
        emulated.faults().memory = emulated.bytes_in_use() + 400_000  # a list has 156 kB
        found = device.search(queries, [held], 1500)
    finally:
        emulated.reset_devices()
    assert_same(found[:2], wanted, "one list")


def test_more_than_4096_neighbours_are_selected(device):
    queries, rows = make("gaussian", 8, 11500, 2, 3)
    found = device.search(queries, [device.rows(rows)], 4100)
    assert_same(found[:2], oracle.search(queries, rows, 4100), "many")
    assert found[3]["pairs_streamed"] == 2 * 11500
    assert found[3]["given_up"] == 0


def test_few_queries_are_compared_by_several_blocks(device):
    """Each takes a share of the rows; the nearest of all shares are those of all rows."""
    queries, rows = make("duplicates", 14, 13000, 3, 5)
    rows[::7] += np.float32(0.5)
    held = device.rows(rows, least_coded=10**6)
    for k in (3, 4090, 13000):
        found = device.search(queries, [held], k)
        assert_same(found[:2], oracle.search(queries, rows, k), k)
        assert found[3]["compared"] == 3 * 13000


def test_rows_of_more_dimensions_than_codes_hold(device):
    queries, rows = make("gaussian", 9, 130, 1, 2**16 + 1)
    found = device.search(queries, [device.rows(rows)], 3, first_phase=128)
    assert_same(found[:2], oracle.search(queries, rows, 3), "wide")
    assert found[3]["compared"] == 130


def test_a_small_workspace_makes_blocks_of_queries(device):
    queries, rows = make("gaussian", 10, 300, 300, 20)
    held = device.rows(rows)
    found = device.search(queries, [held], 5, first_phase=128, workspace_bytes=1)
    assert found[3]["query_blocks"] == 3
    assert_same(found[:2], oracle.search(queries, rows, 5), "blocks")


def test_blocks_of_queries_are_halved_where_memory_lacks(device, emulated):
    queries, rows = make("gaussian", 11, 300, 600, 20)
    held, wanted = device.rows(rows), oracle.search(queries, rows, 5)
    faults = emulated.faults()
    try:
        faults.failing_allocations = 2
        found = device.search(queries, [held], 5, first_phase=128)
        assert found[3]["query_blocks"] == 5  # 600 and 256 failed
        assert_same(found[:2], wanted, "halved")
        faults.failing_allocations = 10
        with pytest.raises(device.module.OutOfDeviceMemory, match="workspace_bytes="):
            device.search(queries, [held], 5, first_phase=128)
    finally:
        emulated.reset_devices()
    assert_same(device.search(queries, [held], 5, first_phase=128)[:2], wanted, "afterwards")


def test_memory_of_rows_and_searches_is_given_back(device, emulated):
    before = emulated.bytes_in_use()
    queries, rows = make("gaussian", 12, 500, 10, 20)
    held = device.rows(rows, ids=np.arange(500))
    held.remove(np.array([3]), np.array([1]))
    there = emulated.bytes_in_use() - before
    assert there == held.nbytes > rows.nbytes
    device.search(queries, [held], 5, first_phase=128)
    assert emulated.bytes_in_use() - before == there
    del held
    assert emulated.bytes_in_use() == before


@pytest.mark.parametrize("stream", [None, 0])
def test_memory_is_given_back_to_the_device_it_came_from(device, emulated, stream):
    """Another device may be the current one when rows go: the emulation ends the process."""
    before = emulated.bytes_in_use()
    queries, rows = make("gaussian", 15, 300, 5, 20)
    emulated.faults().devices = 2
    try:
        held = emulated.Rows(1, "float32", 20, "euclidean", stream, 1)
        held.extend(rows)
        found = device.search(queries, [held], 5, first_phase=128, device=1)
        assert_same(found[:2], oracle.search(queries, rows, 5), "the second device")
        del held
        assert emulated.bytes_in_use() == before
    finally:
        emulated.reset_devices()


def test_failed_extension_leaves_the_rows_as_they_were(device, emulated):
    queries, rows = make("gaussian", 13, 600, 5, 20)
    held = device.rows(rows[:300])
    wanted = oracle.search(queries, rows[:300], 5)
    faults = emulated.faults()
    for allowed in range(12):
        faults.succeeding_allocations, faults.failing_allocations = allowed, 1
        try:
            held.extend(rows, None, 0)
        except device.module.OutOfDeviceMemory:
            assert len(held) == 300
            emulated.reset_devices()
            assert_same(device.search(queries, [held], 5, first_phase=128)[:2], wanted, allowed)
        else:
            break
        finally:
            emulated.reset_devices()
    assert len(held) == 600
    found = device.search(queries, [held], 5, first_phase=128)
    assert_same(found[:2], oracle.search(queries, rows, 5), "all")


# ---- sorting and arrangement ---------------------------------------------------------------------


@examples(30)
@given(
    seed=st.integers(0, 2**31),
    n=st.sampled_from([1, 31, 33, 255, 256, 257, 2048, 2049, 5000]),
    bits=st.sampled_from([8, 16, 24]),
    distinct=st.sampled_from([1, 3, 300, 2**24]),
)
def test_numbers_are_sorted_and_equal_ones_keep_their_order(emulated, seed, n, bits, distinct):
    numbers = np.random.default_rng(seed).integers(0, distinct, n).astype(np.uint32)
    in_order, origin = emulated.sort(numbers, bits, seed)
    wanted = np.argsort(numbers & (2**bits - 1), kind="stable")
    assert origin.tolist() == wanted.tolist()
    assert in_order.tolist() == numbers[wanted].tolist()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 17, 1000, 4097])
def test_permutation_has_every_number_once(emulated, n):
    numbers = emulated.permutation(n)
    assert np.sort(numbers).tolist() == list(range(n))
    if n > 100:  # the first ones are a sample of all
        assert abs(np.corrcoef(numbers, np.arange(n))[0, 1]) < 0.1
