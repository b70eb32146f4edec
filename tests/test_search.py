"""Search returns the oracle's bits on every path."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
import resmem
from cases import FAMILIES, ISAS, METRICS, assert_same, core_search, make, max_abs, paths
from resmem import _core

# Around the tiles (2 to 12 rows, 8 to 32 queries), the depth step (4) and small blocks.
ROWS = st.sampled_from([0, 1, 2, 3, 5, 7, 11, 12, 13, 23, 24, 25, 97, 131, 257])
DEPTHS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 127])
QUERIES = st.sampled_from([0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65])
BLOCKS = st.tuples(
    st.sampled_from([0, 1, 5, 16, 17]),  # queries
    st.sampled_from([0, 12, 24]),  # rows
    st.sampled_from([0, 4, 8, 16]),  # depth
    st.sampled_from([0, 1, 9, 40]),  # buffer
)


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 2**31),
    n=ROWS,
    d=DEPTHS,
    q=QUERIES,
    k=st.integers(1, 40),
    metric=st.sampled_from(METRICS),
    blocks=BLOCKS,
    threads=st.sampled_from([1, 2, 7]),
)
def test_every_path_gives_the_bits_of_the_oracle(family, seed, n, d, q, k, metric, blocks, threads):
    queries, rows = make(family, seed, n, q, d)
    wanted = oracle.search(queries, rows, k, metric)
    for isa in ISAS:
        for path in paths(metric):
            got = core_search(
                queries, rows, k, metric, isa=isa, threads=threads, blocks=blocks, **path
            )
            assert_same(got, wanted, (isa, path))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_on_larger_blocks(isa, metric, family):
    queries, rows = make(family, 7, 1500, 40, 24)
    wanted = oracle.search(queries, rows, 20, metric)
    for path in paths(metric):
        got = core_search(queries, rows, 20, metric, isa=isa, threads=2, **path)
        assert_same(got, wanted, path)


@given(
    seed=st.integers(0, 2**31),
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    metric=st.sampled_from(METRICS),
    width=st.sampled_from([0, 1, 3, 40]),
    family=st.sampled_from(["gaussian", "integers", "duplicates"]),
)
def test_segments_ids_removed_rows_and_exclusions(seed, sizes, metric, width, family):
    rng = np.random.default_rng(seed)
    n, d, q, k = sum(sizes), 6, 19, 8
    queries, rows = make(family, seed, n, q, d)
    ids = rng.choice(2**63 - 1, size=n, replace=False).astype(np.int64)
    alive = rng.random(n) < 0.7
    segments, start = [], 0
    for number, size in enumerate(sizes):
        part = slice(start, start + size)
        if number % 2:  # ids implied by the first
            ids[part] = 10**9 * (number + 1) + np.arange(size)
        given_ids = None if number % 2 else ids[part]
        first = 10**9 * (number + 1)
        segments.append((rows[part], given_ids, first, alive[part], max_abs(rows[part])))
        start += size
    exclude = None
    if width:
        exclude = rng.choice(np.append(ids, -1), (q, width)).astype(np.int64)
    wanted = oracle.search(queries, rows, k, metric, ids=ids, exclude_ids=exclude, alive=alive)
    for isa in ISAS:
        for path in paths(metric):
            got = _core.search(
                queries, max_abs(queries), segments, k, metric, exclude, 2, isa,
                blocks=(0, 12, 0, 0), **path,
            )  # fmt: skip
            assert_same(got, wanted, (isa, path))
            found = got[2] >= 0
            assert np.array_equal(ids[got[2][found]], got[1][found])


@pytest.mark.parametrize("offset", [1e3, 1e4, 1e6])
def test_an_offset_loses_no_neighbour(offset):
    rng = np.random.default_rng(5)
    rows = (rng.standard_normal((20_000, 64)) + offset).astype(np.float32)
    queries = (rng.standard_normal((16, 64)) + offset).astype(np.float32)
    wanted = oracle.search(queries, rows, 10)
    assert_same(resmem.search(queries, rows, 10), wanted)
    assert_same(core_search(queries, rows, 10, strategy="by_rows", threads=2), wanted)


@pytest.mark.parametrize("metric", METRICS)
def test_batches_threads_and_strategies_do_not_show(metric):
    queries, rows = make("gaussian", 3, 3000, 70, 33)
    whole = core_search(queries, rows, 15, metric, threads=1)
    for threads in (1, 2, 7):
        for size in (1, 16, 33):
            for start in range(0, 70, size):
                part = core_search(queries[start : start + size], rows, 15, metric, threads=threads)
                assert_same(part, (whole[0][start : start + size], whole[1][start : start + size]))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("strategy", "kind"),
    [("by_queries", "dot"), ("by_rows", "dot"), ("by_rows", "difference"), ("stream", "automatic")],
)
def test_the_forced_path_has_really_run_and_filtered(isa, strategy, kind):
    queries, rows = make("gaussian", 1, 5000, 40, 32)
    k = 10
    stats = core_search(queries, rows, k, isa=isa, strategy=strategy, filter=kind, threads=2)[3]
    assert (stats["isa"], stats["strategy"]) == (isa, strategy)
    assert stats["filter"] == ("difference" if strategy == "stream" else kind)
    assert stats["pairs_filtered"] == 5000 * 40
    assert stats["thinnings"] > 0
    assert stats["deferred"] == stats["exact_thinnings"] == 0
    assert k * 40 <= stats["hits"] < 5000 * 40 / 3
    # Almost only true neighbours are rescored: the bounds are tight on ordinary data.
    assert k * 40 <= stats["rescored"] <= 1.05 * k * 40


def test_the_planner_streams_few_queries_and_tiles_many():
    queries, rows = make("gaussian", 1, 4000, 3000, 16)
    plans = {q: core_search(queries[:q], rows, 5, threads=2)[3]["strategy"] for q in (1, 40, 3000)}
    assert plans == {1: "stream", 40: "by_rows", 3000: "by_queries"}
    assert core_search(queries[:9], rows[:20], 5)[3]["strategy"] == "exact"


def test_duplicates_are_settled_by_distances():
    queries, rows = make("duplicates", 2, 4000, 20, 16)
    for strategy, filtering in (("by_rows", "difference"), ("stream", "automatic")):
        stats = core_search(queries, rows, 10, strategy=strategy, filter=filtering)[3]
        assert stats["exact_thinnings"] > 0


def test_queries_that_crowd_the_dot_filter_are_deferred():
    queries, rows = make("far clusters", 2, 4000, 20, 16)
    wanted = oracle.search(queries, rows, 10)
    got = core_search(queries, rows, 10, strategy="by_queries", filter="dot")
    assert got[3]["deferred"] == 20
    assert got[3]["pairs_filtered"] == 2 * 4000 * 20
    assert_same(got, wanted)


def test_depth_blocks_carry_partial_sums():
    queries, rows = make("gaussian", 4, 200, 20, 4500)  # beyond the default depth block
    assert_same(core_search(queries, rows, 7, strategy="by_rows"), oracle.search(queries, rows, 7))


def test_beyond_the_certificate_the_exact_path_answers():
    rng = np.random.default_rng(0)
    d = (1 << 19) + 1
    rows = rng.standard_normal((200, 1)).astype(np.float32) * np.ones((1, d), np.float32)
    queries = rows[:2] + np.float32(0.25)
    got = core_search(queries, rows, 3)
    assert got[3]["strategy"] == "exact"
    assert_same(got, oracle.search(queries, rows, 3))


def test_search_pads_where_rows_run_out():
    queries, rows = make("gaussian", 0, 3, 2, 4)
    for metric, padding in (("cosine", np.inf), ("inner_product", -np.inf)):
        values, ids = resmem.search(queries, rows, 5, metric)
        assert (ids[:, 3:] == -1).all()
        assert (values[:, 3:] == padding).all()


def test_search_excludes_rows():
    _, rows = make("gaussian", 0, 300, 2, 4)
    _, ids = resmem.search(rows, rows, 1, exclude_ids=np.arange(300))
    assert (ids[:, 0] != np.arange(300)).all()
    _, pairs = resmem.search(rows, rows, 1, exclude_ids=np.stack([np.arange(300), ids[:, 0]], 1))
    wanted = resmem.search(rows, rows, 3)[1][:, 2]
    assert np.array_equal(pairs[:, 0], wanted)


def test_a_caller_that_flushes_to_zero_gets_the_same_bits():
    queries, rows = make("subnormal", 1, 900, 20, 8)
    wanted = core_search(queries, rows, 5, threads=2)
    tiny = np.array([1e-45], np.float32)
    try:
        _core.set_flush_to_zero(True)
        for path in paths("euclidean"):
            assert_same(core_search(queries, rows, 5, threads=2, **path), wanted)
        still_flushing = (tiny * np.float32(1)).item() == 0.0
    finally:
        _core.set_flush_to_zero(False)
    assert still_flushing  # the caller's state was given back
