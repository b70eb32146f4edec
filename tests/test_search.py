"""Search returns the oracle's bits on every path."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
import resmem
from cases import (
    FAMILIES,
    ISAS,
    METRICS,
    STORED,
    as_stored,
    assert_same,
    core_search,
    make,
    max_abs,
    only_segment,
    paths,
)
from resmem import _core

# Around the tiles (2 to 12 rows, 8 to 32 queries), the depth step (4) and small blocks.
ROWS = st.sampled_from([0, 1, 2, 3, 5, 7, 11, 12, 13, 23, 24, 25, 47, 48, 49, 97, 131, 257])
DEPTHS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129])
QUERIES = st.sampled_from([0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65])
LARGEST_ID = 2**63 - 1
VERSION = 5
BLOCKS = st.fixed_dictionaries(
    {
        "query_block": st.sampled_from([0, 1, 5, 16, 17]),
        "row_block": st.sampled_from([0, 12, 24]),
        "depth_block": st.sampled_from([0, 4, 8, 16]),
        "buffer": st.sampled_from([0, 1, 9, 40]),
    }
)


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 2**31),
    n=ROWS,
    d=DEPTHS,
    q=QUERIES,
    k=st.one_of(st.integers(1, 40), st.integers(-2, 3)),  # below 1: from the number of rows
    metric=st.sampled_from(METRICS),
    blocks=BLOCKS,
    threads=st.sampled_from([1, 2, 7]),
)
def test_every_path_gives_the_bits_of_the_oracle(family, seed, n, d, q, k, metric, blocks, threads):
    queries, rows = make(family, seed, n, q, d)
    k = k if k > 0 else max(1, n - k)
    wanted = oracle.search(queries, rows, k, metric)
    for isa in ISAS:
        for path in paths(metric):
            got = core_search(queries, rows, k, metric, isa=isa, threads=threads, **blocks, **path)
            assert_same(got, wanted, (isa, path))
            if q > 0:
                check_counts(got[3], n, q, isa, path)


def check_counts(stats, n, q, isa, path):
    """Check that the path asked for has run over every pair."""
    assert stats["isa"] == isa
    assert path["strategy"] in ("automatic", stats["strategy"])
    if stats["strategy"] == "exact":
        assert stats["pairs_filtered"] == stats["deferred"] == 0
        assert stats["rescored"] == n * q
        return
    assert stats["filter"] == path.get("filter", stats["filter"])
    again = stats["pairs_filtered"] - n * q  # pairs that the difference filter took again
    assert (again > 0) == (n * stats["deferred"] > 0)
    assert 0 <= again <= n * q
    assert again % max(n, 1) == 0
    assert stats["hits"] <= stats["pairs_filtered"]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_on_more_rows_gives_the_oracles_bits(isa, metric, family):
    queries, rows = make(family, 7, 1500, 40, 24)
    wanted = oracle.search(queries, rows, 20, metric)
    for path in paths(metric):
        got = core_search(queries, rows, 20, metric, isa=isa, threads=2, **path)
        assert_same(got, wanted, path)


@given(
    seed=st.integers(0, 2**31),
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    metric=st.sampled_from(METRICS),
    width=st.sampled_from([0, 1, 3, 16, 17, 40]),
    removed=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    k=st.sampled_from([1, 8, 70]),
    family=st.sampled_from(sorted(FAMILIES)),
    threads=st.sampled_from([1, 2, 7]),
)
def test_mixed_segments_and_exclusions_give_the_oracles_bits(
    seed, sizes, metric, width, removed, k, family, threads
):
    rng = np.random.default_rng(seed)
    n, d, q = sum(sizes), 6, 19
    queries, rows = make(family, seed, n, q, d)
    ids = rng.choice(2**62, size=n, replace=False).astype(np.int64)
    alive = rng.random(n) >= removed
    segments, start = [], 0
    for number, size in enumerate(sizes):
        part = slice(start, start + size)
        first = LARGEST_ID - 1000 * number - max(0, size - 1)  # ids implied by the first
        if number % 2:
            ids[part] = first + np.arange(size)
        given_ids = None if number % 2 else ids[part]
        died = rng.choice([1, VERSION], size) * ~alive[part]
        died += rng.choice([0, VERSION + 1], size) * alive[part]  # removed later
        keys, rows[part] = as_stored(rows[part], STORED[number % 3])
        largest = max_abs(rows[part])
        segments.append(_core.Segment(keys, given_ids, first, died if removed else None, largest))
        start += size
    exclude = None
    if width:
        exclude = rng.choice(np.append(ids, -1), (q, width)).astype(np.int64)
    wanted = oracle.search(queries, rows, k, metric, ids=ids, exclude_ids=exclude, alive=alive)
    for isa in ISAS:
        for path in paths(metric):
            got = _core.search(
                queries,
                max_abs(queries),
                segments,
                k,
                metric,
                exclude,
                version=VERSION,
                forced=_core.ForcedPlan(row_block=12, **path),
                execution=_core.Execution(threads, isa),
            )
            assert_same(got, wanted, (isa, path))
            found = got[2] >= 0
            assert np.array_equal(found, got[1] >= 0)
            assert np.array_equal(ids[got[2][found]], got[1][found])


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 2**31),
    n=ROWS,
    d=DEPTHS,
    k=st.integers(1, 40),
    metric=st.sampled_from(METRICS),
    blocks=BLOCKS,
    threads=st.sampled_from([1, 2]),
    stored=st.sampled_from(["float16", "bfloat16"]),
)
def test_half_width_keys_give_the_bits_of_their_values(
    family, seed, n, d, k, metric, blocks, threads, stored
):
    queries, rows = make(family, seed, n, 9, d)
    keys, wide = as_stored(rows, stored)
    wanted = oracle.search(queries, wide, k, metric)
    segment = _core.Segment(keys, None, 0, None, max_abs(wide))
    for isa in ISAS:
        for path in paths(metric):
            got = _core.search(
                queries,
                max_abs(queries),
                [segment],
                k,
                metric,
                forced=_core.ForcedPlan(**blocks, **path),
                execution=_core.Execution(threads, isa),
            )
            assert_same(got, wanted, (isa, path))


@pytest.mark.parametrize("stored", STORED)
def test_streams_of_stored_keys_read_every_row(stored):
    """At these depths a stream widens one row or many at a time."""
    for d in (1, 100, 600, 5000):
        queries, rows = make("gaussian", 1, 700, 3, d)
        keys, wide = as_stored(rows, stored)
        wanted = oracle.search(queries, wide, 9)
        for isa in ISAS:
            got = _core.search(
                queries,
                6.0,
                [_core.Segment(keys, None, 0, None, 6.0)],
                9,
                "euclidean",
                forced=_core.ForcedPlan(strategy="stream"),
                execution=_core.Execution(isa=isa),
            )
            assert_same(got, wanted)


def test_search_at_a_version_sees_rows_removed_later():
    queries, rows = make("gaussian", 0, 300, 4, 5)
    died = np.arange(300) % 7  # 0: never
    for version in range(8):
        alive = (died == 0) | (died > version)
        wanted = oracle.search(queries, rows, 9, alive=alive)
        for path in paths("euclidean"):
            got = _core.search(
                queries,
                6.0,
                [_core.Segment(rows, None, 0, died, 6.0)],
                9,
                "euclidean",
                version=version,
                forced=_core.ForcedPlan(**path),
            )
            assert_same(got, wanted)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_are_not_finite_are_not_found(metric, stored, isa):
    """A damaged file may hold such rows, whatever largest value it states."""
    queries, rows = make("gaussian", 3, 1500, 21, 17)
    rng = np.random.default_rng(0)
    whole = rng.random(1500) < 0.8
    rows[~whole, rng.integers(0, 17, (~whole).sum())] = np.nan
    keys = rows if stored == "float32" else _core.narrow(rows, stored)
    wide = np.nan_to_num(rows if stored == "float32" else _core.widen(keys))
    for k in (1, 20, 1500):
        wanted = oracle.search(queries, wide, k, metric, alive=whole)
        for path in paths(metric):
            for threads in (1, 2):
                segment = _core.Segment(keys, None, 0, None, 6.0)
                got = _core.search(
                    queries,
                    6.0,
                    [segment],
                    k,
                    metric,
                    None,
                    forced=_core.ForcedPlan(**path),
                    execution=_core.Execution(threads, isa),
                )
                assert_same(got, wanted, path)


@given(
    seed=st.integers(0, 2**31),
    stored=st.sampled_from(STORED),
    claimed=st.sampled_from([0.0, 1e-30, 1.0, 1e38, -1.0, np.inf, -np.inf, np.nan]),
    share=st.sampled_from([0.01, 0.5, 1.0]),
    k=st.sampled_from([1, 9, 400]),
    metric=st.sampled_from(METRICS),
    threads=st.sampled_from([1, 2]),
)
def test_damaged_rows_crash_no_search(seed, stored, claimed, share, k, metric, threads):
    """Keys, ids, versions and the largest value have any bits; results may be wrong."""
    rng = np.random.default_rng(seed)
    n, d = 500, 7
    queries, rows = make("gaussian", seed, n, 9, d)
    noise = rng.integers(0, 2**32, (n, d), dtype=np.uint32).view(np.float32)
    rows = np.where(rng.random((n, d)) < share, noise, rows)
    if stored != "float32":
        half = rng.integers(0, 2**16, (n, d), dtype=np.uint16)
        rows = half.view(np.float16) if stored == "float16" else half
    ids, died = rng.integers(-(2**63), 2**63, (2, n))
    segments = [
        _core.Segment(rows, ids, 0, died, claimed),
        _core.Segment(rows, None, LARGEST_ID - 1, None, claimed),
    ]
    for isa in ISAS:
        for path in paths(metric):
            values, _, positions, _ = _core.search(
                queries,
                6.0,
                segments,
                k,
                metric,
                None,
                version=1,
                forced=_core.ForcedPlan(**path),
                execution=_core.Execution(threads, isa),
            )
            assert not np.isnan(values).any()
            assert ((positions >= -1) & (positions < 2 * n)).all()


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
@pytest.mark.parametrize("implied", [True, False])
def test_of_duplicates_the_smallest_ids_are_found(order, implied):
    """Once k rows at distance 0 are known, later ones may be left out only if ids ascend."""
    n, k = 600, 5
    rows = np.tile(np.float32([[1, 2, 3]]), (n, 1))
    ids = np.arange(n)
    starts = np.arange(0, n, 100)
    if order == "descending":
        ids, starts = ids[::-1].copy(), starts[::-1]
    elif order == "shuffled":
        rng = np.random.default_rng(0)
        ids, starts = rng.permutation(n), rng.permutation(starts)
    if implied:
        segments = [_core.Segment(rows[:100], None, first, None, 3.0) for first in starts]
    else:
        segments = [_core.Segment(rows, ids, 0, None, 3.0)]
    for path in paths("euclidean"):
        for threads in (1, 3):
            got = _core.search(
                rows[:9],
                3.0,
                segments,
                k,
                "euclidean",
                forced=_core.ForcedPlan(row_block=12, **path),
                execution=_core.Execution(threads),
            )
            assert (got[0] == 0).all()
            assert (got[1] == np.arange(k)).all(), path


@pytest.mark.parametrize("offset", [1e3, 1e4, 1e6])
def test_an_offset_loses_no_neighbour(offset):
    """Around such an offset float32 products say nothing about distances of a few units."""
    rng = np.random.default_rng(5)
    rows = (rng.standard_normal((20_000, 64)) + offset).astype(np.float32)
    queries = (rng.standard_normal((16, 64)) + offset).astype(np.float32)
    wanted = oracle.search(queries, rows, 10)
    assert_same(resmem.search(queries, rows, 10), wanted)
    assert_same(core_search(queries, rows, 10, strategy="by_rows", threads=2), wanted)


@pytest.mark.parametrize("metric", METRICS)
def test_batches_threads_and_strategies_change_no_bit(metric):
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
def test_forced_path_runs_and_filters(isa, strategy, kind):
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


@pytest.mark.parametrize("family", ["1e30", "1e-30"])
def test_planner_does_not_stream_squares_beyond_float32(family):
    queries, rows = make(family, 1, 4000, 1, 16)
    assert core_search(queries, rows, 5)[3]["strategy"] == "by_rows"
    assert core_search(queries, rows, 5, "cosine")[3]["strategy"] == "by_rows"


def test_path_that_does_not_serve_the_metric_is_refused():
    queries, rows = make("gaussian", 1, 300, 2, 16)
    for metric in ("cosine", "inner_product"):
        with pytest.raises(ValueError, match="'stream' serves the Euclidean metrics"):
            core_search(queries, rows, 5, metric, strategy="stream")
        with pytest.raises(ValueError, match="difference filter serves the Euclidean metrics"):
            core_search(queries, rows, 5, metric, filter="difference")
    with pytest.raises(ValueError, match=r"expected one of 'automatic', 'by_queries', .*, got 'x'"):
        core_search(queries, rows, 5, strategy="x")
    with pytest.raises(ValueError, match="ISA 'x' is not available here; there is: scalar"):
        core_search(queries, rows, 5, isa="x")


def test_the_core_converts_nothing():
    queries, rows = make("gaussian", 1, 300, 20, 16)
    segment = only_segment(rows)
    for wrong in (queries.astype(np.int32), queries[::2], np.asfortranarray(queries)):
        with pytest.raises(TypeError, match="queries must be C-contiguous float32, float16"):
            _core.search(wrong, 1.0, segment, 5, "euclidean")
        with pytest.raises(TypeError, match="segment keys must be C-contiguous float32, float16"):
            _core.search(queries, 1.0, [_core.Segment(wrong, None, 0, None, 1.0)], 5, "euclidean")
    for wrong in (np.zeros(300, np.int32), np.zeros(300, bool), np.zeros(600, np.int64)[::2]):
        for ids, died in ((wrong, None), (None, wrong)):
            with pytest.raises(TypeError, match="expected contiguous int64 ids, versions"):
                _core.Segment(rows, ids, 0, died, 1.0)


@pytest.mark.parametrize("strategy", ["by_rows", "by_queries", "stream"])
def test_copies_of_the_query_end_its_search(strategy):
    """With ascending ids, no row can follow the first k rows at distance 0 into the answer."""
    rows = np.tile(np.float32([[1, 2, 3]]), (5000, 1))
    stats = core_search(
        rows[:20], rows, 10, strategy=strategy, filter="difference", threads=1, row_block=64
    )[3]
    assert stats["exact_thinnings"] == 20
    assert stats["hits"] < 20 * 300


def test_duplicates_are_thinned_by_exact_distances():
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


def test_dimensions_beyond_the_certificate_take_the_exact_path():
    d = (1 << 19) + 1
    queries, rows = make("gaussian", 0, 8, 2, d)
    for path in paths("euclidean"):
        got = core_search(queries, rows, 3, **path)
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
    assert still_flushing  # the caller's state was restored


def test_memory_of_a_flushing_caller_gives_the_same_bits():
    rng = np.random.default_rng(0)
    keys = (rng.integers(-9, 10, (40, 4)) * 1e-45).astype(np.float32)
    logits, classes = (rng.standard_normal((40, 3)) * 40).astype(np.float32), np.arange(40) % 3
    outputs, targets = rng.standard_normal((2, 40)) * 1e-40  # residuals are subnormal in float32

    wide = keys.astype(np.float64)  # converted before flushing begins

    def answers():
        mem = resmem.Memory(k=5).fit(keys, logits, classes)
        yield mem.sigma_
        yield mem.correct(keys, logits)
        yield mem.predict_proba(keys, logits)
        mem = resmem.Memory("regression", k=5).fit(keys, outputs, targets)
        yield mem.correct(keys, outputs)
        yield resmem.search(wide, keys, 3)[0]

    wanted = [np.asarray(answer).tobytes() for answer in answers()]
    try:
        _core.set_flush_to_zero(True)
        got = [np.asarray(answer).tobytes() for answer in answers()]
    finally:
        _core.set_flush_to_zero(False)
    assert got == wanted
