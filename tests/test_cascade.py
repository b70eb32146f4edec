"""Search through a cascade returns the oracle's bits, and each of its stages really runs."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
import resmem
from cases import (
    FAMILIES,
    ISAS,
    STORED,
    as_stored,
    assert_same,
    make,
    max_abs,
    with_unnamed_numbers,
)
from resmem import _core
from resmem._indexes import decision as index_decision
from resmem._indexes import policy
from resmem._indexes import shape as index_shape
from resmem._indexes import trial as index_trial

METRICS = ("euclidean", "sqeuclidean", "cosine", "inner_product")
# Families whose projections cannot be coded; search without a cascade serves them.
EXTREME = {"zeros", "subnormal", "largest", "1e-30", "1e30", "mixed norms", "mixed dimensions"}
LARGEST = 2.0**60


def cascade_of(rows, covered=None, depth=16, clusters=5, threads=0, isa="", **options):
    """Return a cascade of the first rows, or None where they cannot be coded."""
    some = rows[:covered]
    try:
        return _core.Cascade(
            _core.Segment(some, None, 0, None, max_abs(some)),
            rows.shape[1],
            depth,
            clusters,
            execution=_core.Execution(threads, isa),
            **options,
        )
    except ValueError as error:
        if "these rows cannot be coded" not in str(error):
            raise
        return None


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 2**31),
    n=st.sampled_from([1, 2, 31, 32, 33, 127, 128, 129, 300, 513]),
    d=st.sampled_from([1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 33, 64, 65, 100]),
    q=st.sampled_from([0, 1, 2, 5, 6, 7, 13, 33]),
    k=st.sampled_from([1, 2, 10, 40, 600]),
    depth=st.sampled_from([4, 8, 16, 32, 64]),
    clusters=st.sampled_from([1, 2, 7, 40]),
    coded_rows=st.booleans(),
    metric=st.sampled_from(METRICS),
    threads=st.sampled_from([1, 2, 7]),
    zeroed=st.sampled_from([0, 1, 1]),
)
def test_a_cascade_gives_the_bits_of_the_oracle(
    family, seed, n, d, q, k, depth, clusters, coded_rows, metric, threads, zeroed
):
    queries, rows = make(family, seed, n, q, d)
    queries[3::9], rows[2::7] = 0, rows[2::7] * np.float32(zeroed)
    wanted = oracle.search(queries, rows, k, metric)
    options = {"coded_rows": coded_rows, "threads": threads, "metric": metric}
    cascade = cascade_of(rows, None, depth, clusters, **options)
    if cascade is None:
        assert family in EXTREME or not 2**-60 <= max_abs(rows) <= LARGEST
        return
    segment = _core.Segment(rows, None, 0, None, max_abs(rows), cascade)
    for isa in ISAS:
        got = _core.search(
            queries, max_abs(queries), [segment], k, metric, execution=_core.Execution(threads, isa)
        )
        assert_same(got, wanted, isa)
        if q and max_abs(queries) <= LARGEST and 8 * k <= n:
            assert got[3]["strategy"] == "cascade"


@pytest.mark.parametrize("coded_rows", [True, False])
def test_every_isa_passes_the_same_rows_in_each_stage(coded_rows):
    """On corners of a cube no score leaves 16 bits, so each stage lets the same rows through."""
    rng = np.random.default_rng(11)
    points = rng.choice([-1, 1], (2100, 8)) + 0.01 * rng.standard_normal((2100, 8))
    rows, queries = points[:2000].astype(np.float32), points[2000:].astype(np.float32)
    segment = _core.Segment(
        rows, None, 0, None, max_abs(rows), cascade_of(rows, None, 8, 6, coded_rows=coded_rows)
    )  # fmt: skip
    done = []
    for isa in ISAS:
        found = _core.search(
            queries, max_abs(queries), [segment], 9, "euclidean", execution=_core.Execution(isa=isa)
        )
        done.append({name: count for name, count in found[3].items() if name != "isa"})
    assert done[0]["code_hits"] > 0
    assert all(each == done[0] for each in done)


def test_many_neighbours_get_a_reach_before_the_scan():
    """The nearest clusters hold only a few times k rows, and still give a reach."""
    queries, rows = clustered(4000, 30, 16)
    segment = _core.Segment(
        rows, None, 0, None, max_abs(rows), cascade_of(rows, None, 16, 16, coded_rows=False)
    )
    found = _core.search(
        queries, max_abs(queries), [segment], 500, "euclidean", execution=_core.Execution(1)
    )
    assert_same(found, oracle.search(queries, rows, 500))
    assert found[3]["rescored"] < 30 * 1500


@pytest.mark.parametrize("q", [255, 256, 257, 513, 770])
def test_any_number_of_queries_gives_the_bits_of_the_oracle(q):
    queries, rows = clustered(1500, q, 20)
    segment = _core.Segment(rows, None, 0, None, max_abs(rows), cascade_of(rows, None, 12, 9))
    for threads in (1, 2):
        found = _core.search(
            queries, max_abs(queries), [segment], 6, "euclidean", execution=_core.Execution(threads)
        )
        assert_same(found, oracle.search(queries, rows, 6))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("coded_rows", [True, False])
@pytest.mark.parametrize("metric", sorted(set(METRICS) - {"sqeuclidean"}))
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - EXTREME))
def test_every_family_on_more_rows_gives_the_oracles_bits(isa, coded_rows, metric, family):
    queries, rows = make(family, 7, 3000, 40, 48)
    wanted = oracle.search(queries, rows, 20, metric)
    cascade = cascade_of(rows, None, 24, 12, coded_rows=coded_rows, metric=metric)
    segment = _core.Segment(rows, None, 0, None, max_abs(rows), cascade)
    for threads in (1, 2):
        got = _core.search(
            queries,
            max_abs(queries),
            [segment],
            20,
            metric,
            execution=_core.Execution(threads, isa),
        )
        assert_same(got, wanted)


@given(
    seed=st.integers(0, 2**31),
    sizes=st.lists(st.tuples(st.integers(0, 90), st.booleans()), min_size=1, max_size=4),
    width=st.sampled_from([0, 1, 17]),
    removed=st.sampled_from([0.0, 0.3, 1.0]),
    k=st.sampled_from([1, 8, 70]),
    family=st.sampled_from(["gaussian", "integers", "duplicates", "one ulp", "offset 1e4"]),
    coded_rows=st.booleans(),
    threads=st.sampled_from([1, 3]),
    metric=st.sampled_from(["euclidean", "cosine", "inner_product"]),
    stretched=st.sampled_from([0.0, 0.2]),
)
def test_mixed_segments_and_exclusions_give_the_oracles_bits(
    seed, sizes, width, removed, k, family, coded_rows, threads, metric, stretched
):
    """Some segments have a cascade of some of their first rows, others none."""
    rng = np.random.default_rng(seed)
    n, d, q = sum(size for size, _ in sizes), 9, 14
    queries, rows = make(family, seed, n, q, d)
    far = rng.random(n) < stretched  # rows longer than any that a cascade may have seen
    rows[far] = 9 * queries[rng.integers(0, q, far.sum())]
    ids = rng.choice(2**62, size=n, replace=False).astype(np.int64)
    alive = rng.random(n) >= removed
    segments, start = [], 0
    for number, (size, cascaded) in enumerate(sizes):
        part = slice(start, start + size)
        keys, rows[part] = as_stored(rows[part], STORED[number % 3])
        largest = max_abs(rows[part])
        first = 2**63 - 1 - 1000 * number - size
        if number % 2:
            ids[part] = first + np.arange(size)
        given_ids = None if number % 2 else ids[part]
        died = (~alive[part]).astype(np.int64)
        segment = _core.Segment(keys, given_ids, first, died, largest)
        covered = int(rng.integers(0, size + 1))
        if cascaded and covered:
            some = _core.Segment(keys[:covered], None, 0, None, largest)
            cascade = _core.Cascade(
                some, d, 8, 3, coded_rows, metric=metric, execution=_core.Execution(threads)
            )
            assert len(cascade) == covered
            segment = segment.with_index(cascade)
        segments.append(segment)
        start += size
    exclude = rng.choice(np.append(ids, -1), (q, width)).astype(np.int64) if width else None
    wanted = oracle.search(queries, rows, k, metric, ids=ids, exclude_ids=exclude, alive=alive)
    for isa in ISAS:
        got = _core.search(
            queries,
            max_abs(queries),
            segments,
            k,
            metric,
            exclude,
            version=1,
            execution=_core.Execution(threads, isa),
        )
        assert_same(got, wanted, isa)
        found = got[2] >= 0
        assert np.array_equal(found, got[1] >= 0)
        assert np.array_equal(ids[got[2][found]], got[1][found])


def clustered(n, q, d, seed=0):
    rng = np.random.default_rng(seed)
    scale = 1 / np.sqrt(np.arange(1, d + 1))
    points = rng.standard_normal((40, d))[rng.integers(40, size=n + q)]
    points = (points + 0.5 * rng.standard_normal((n + q, d))) * scale
    both = points.astype(np.float32)
    return both[:q], both[q:]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("coded_rows", [True, False])
@pytest.mark.parametrize("q", [1, 300])
@pytest.mark.parametrize("metric", METRICS)
def test_every_stage_runs_and_filters(isa, coded_rows, q, metric):
    n, k = 20_000, 10
    queries, rows = clustered(n, q, 96)
    cascade = cascade_of(rows, None, 32, 64, coded_rows=coded_rows, metric=metric)
    segment = _core.Segment(rows, None, 0, None, max_abs(rows), cascade)
    for threads in (1, 2):
        got = _core.search(
            queries, max_abs(queries), [segment], k, metric, execution=_core.Execution(threads, isa)
        )
        stats = got[3]
        assert (stats["isa"], stats["strategy"], stats["filter"]) == (isa, "cascade", "codes")
        assert stats["given_up"] <= (q // 10 if metric == "inner_product" else 0)
        assert stats["pairs_filtered"] == n * stats["given_up"]
        assert 0 < stats["pairs_coded"] < 0.8 * n * q  # clusters left rows out
        passed = 0.5 if metric == "inner_product" else 0.2
        assert 0 < stats["code_hits"] < passed * stats["pairs_coded"]
        assert (stats["rows_coded"] > 0) == coded_rows
        assert stats["rescored"] >= k * q
        if coded_rows:
            assert stats["rescored"] < 4 * k * q
        else:
            assert stats["rescored"] < 0.3 * n * q


@pytest.mark.parametrize("metric", METRICS)
def test_a_cascade_is_the_same_whatever_isa_and_threads_built_it(metric):
    _, rows = clustered(3000, 1, 40)
    built = [
        cascade_of(rows, None, 16, 9, isa=isa, threads=threads, metric=metric)
        for isa in ISAS
        for threads in (1, 2)
    ]
    assert len({cascade.digest() for cascade in built}) == 1


@pytest.mark.parametrize(("coded_rows", "go_on"), [(False, 0), (True, 4)])
def test_queries_that_all_rows_pass_leave_the_cascade(coded_rows, go_on):
    """Where rows are coded, a few queries of each block stay: so few are faster there."""
    rows = np.tile(np.float32([[1, 2, 3, 4]]), (20_000, 1))
    cascade = cascade_of(rows, None, 4, 3, coded_rows=coded_rows)
    segment = _core.Segment(rows, None, 0, None, 4.0, cascade)
    got = _core.search(rows[:600], 4.0, [segment], 5, "euclidean", execution=_core.Execution(1))
    assert got[3]["given_up"] == 600 - 3 * go_on  # three blocks
    assert (got[0] == 0).all()
    assert (got[1] == np.arange(5)).all()


def test_far_queries_are_answered():
    """The codes of far queries are clipped; the bound includes the error of clipping."""
    queries, rows = clustered(5000, 30, 24)
    cascade = cascade_of(rows, None, 12, 8)
    for factor in (3, 30, 1e6, 1e30):
        far = (queries * factor).astype(np.float32)
        segment = _core.Segment(rows, None, 0, None, max_abs(rows), cascade)
        got = _core.search(far, max_abs(far), [segment], 7, "euclidean")
        assert_same(got, oracle.search(far, rows, 7))


def test_cascade_of_another_segment_is_refused():
    queries, rows = clustered(500, 3, 24)
    cascade = cascade_of(rows)
    for wrong in (rows[:300], np.ascontiguousarray(rows[:, :20])):
        asked = np.ascontiguousarray(queries[:, : wrong.shape[1]])
        with pytest.raises(ValueError, match="the cascade is not one of this segment"):
            _core.search(
                asked, 9.0, [_core.Segment(wrong, None, 0, None, 9.0, cascade)], 3, "euclidean"
            )
    with pytest.raises(ValueError, match="depth must be a multiple of 4 from 4 to 32768"):
        cascade_of(rows, None, 6)
    rows[7, 3] = np.nan
    with pytest.raises(ValueError, match="a row is not what its segment says"):
        _core.Cascade(_core.Segment(rows, None, 0, None, 9.0), 24, 8, 3)


# ------------------------------------------------------------------ bounds of a cascade


def bounds_of(queries, rows, cascade, isa="", metric="euclidean"):
    """Return the bounds that the stages promise, and the true distances."""
    segment = _core.Segment(rows, None, 0, None, max_abs(rows), cascade)
    promised = _core.cascade_bounds(
        queries, max_abs(queries), [segment], metric, execution=_core.Execution(isa=isa)
    )
    q, x = queries.astype(np.longdouble), rows.astype(np.longdouble)
    if metric == "cosine":
        q, x = (v / np.maximum(lengths(v), np.finfo(np.longdouble).tiny) for v in (q, x))
    if metric == "inner_product":
        lift = np.longdouble(cascade.longest) ** 2 - (x * x).sum(1, keepdims=True)
        assert (lift >= 0).all()
        norms = lengths(q)
        q = np.append(q * np.where(norms > 0, cascade.longest / np.maximum(norms, 1e-300), 1),
                      np.zeros_like(norms), 1)  # fmt: skip
        x = np.append(x, np.sqrt(lift), 1)
    apart = q[:, None] - x[None]
    true = np.sqrt((apart * apart).sum(2))
    if metric == "cosine":  # a vector of zeros is similar to no other
        true[(q == 0).all(1)[:, None] | (x == 0).all(1)] = np.sqrt(np.longdouble(2))
    return promised, true


def lengths(x):
    return np.sqrt((x * x).sum(1, keepdims=True))


@given(
    family=st.sampled_from(sorted(set(FAMILIES) - EXTREME)),
    seed=st.integers(0, 2**31),
    n=st.sampled_from([1, 33, 200]),
    d=st.sampled_from([1, 3, 8, 17, 40]),
    depth=st.sampled_from([4, 8, 16, 64]),
    clusters=st.sampled_from([1, 9]),
    factor=st.sampled_from([1e-3, 1.0, 10.0, 1e5]),
    metric=st.sampled_from(sorted(set(METRICS) - {"sqeuclidean"})),
    zeroed=st.sampled_from([0, 1]),
)
def test_true_distances_lie_within_the_bounds(
    family, seed, n, d, depth, clusters, factor, metric, zeroed
):
    queries, rows = make(family, seed, n, 9, d)
    queries[1::3] *= np.float32(factor)  # some far from all rows
    queries[2], rows[::30] = queries[2] * zeroed, rows[::30] * np.float32(zeroed)
    cascade = cascade_of(rows, None, depth, clusters, metric=metric)
    if cascade is None:
        return
    for isa in ISAS:
        promised, true = bounds_of(queries, rows, cascade, isa, metric)
        by_cluster, by_projection, low, high, key_low, key_high = promised
        assert (by_cluster <= true).all()
        assert (by_projection <= true).all()
        assert (low <= true).all()
        assert (true <= high).all()
        assert (key_low <= true).all()
        assert (true <= key_high).all()


@pytest.mark.parametrize("as_queries", [False, True])
@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
def test_points_are_as_near_to_the_exact_ones_as_promised(metric, as_queries):
    """Most of the promised error is half a unit in the last place of float32."""
    worst = 0.0
    for seed, d in enumerate([1, 2, 3, 5, 8, 17, 64, 200] * 6):
        rng = np.random.default_rng(seed)
        scale = np.exp(2 * rng.standard_normal((400, 1)))
        vectors = (rng.standard_normal((400, d)) * scale).astype(np.float32)
        vectors[1::2] *= np.float32(lengths(vectors[:1]) / lengths(vectors[1::2]))  # one length
        exact = vectors.astype(np.longdouble)
        norms = lengths(exact)
        longest = float(norms.max()) * (1 + 1e-15)
        if metric == "cosine":
            exact = exact / norms
        elif as_queries:
            exact = np.append(exact * (longest / norms), 0 * norms, 1)
        else:
            lift = np.sqrt(np.maximum(np.longdouble(longest) ** 2 - norms**2, 0))
            exact = np.append(exact, lift, 1)
        for isa in ISAS:
            points, off = _core.points(
                vectors, metric, longest, as_queries, execution=_core.Execution(isa=isa)
            )
            worst = max(worst, float((lengths(points - exact)[:, 0] / off).max()))
    print(f"{metric}, queries {as_queries}: at most {worst:.4f} of what is promised")
    assert 0.7 < worst <= 1


def mirrored(d, direction):
    """Return two rows around 0 and their cascade, whose axes and scale are known in advance."""
    rows = np.stack([direction, -direction]).astype(np.float32)
    return rows, cascade_of(rows, None, d, 1)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", [8, 16, 32])
def test_projection_bound_is_nearly_reached_by_rounded_codes(d, isa):
    """Row and query are rounded away from each other, as far as the bound allows."""
    _, first = mirrored(d, np.ones(d))
    rows, cascade = mirrored(d, first.axes.T @ np.ones(d))
    assert np.array_equal(cascade.axes, first.axes)
    code = cascade.scale  # the code of every coordinate of the row
    outwards = np.round(code) > code
    # The query is rounded away from the row: inside of it, or outside if that comes nearer.
    place = -3 + 0.499 if outwards else np.round(code) + 5 - 0.499
    query = (cascade.axes.T @ np.full(d, place / code)).astype(np.float32)[None]
    (_, low, *_), true = bounds_of(query, rows, cascade, isa)
    error = (
        (abs(np.round(code) - code) + 0.499) * np.sqrt(d) / code
    )  # errors of row and query together
    reached = float(1 - (true[0, 0] - low[0, 0]) / error)
    print(f"d={d}: scale {code:.3f}, {reached:.4f} of the bound")
    assert 0.99 <= reached <= 1


@pytest.mark.parametrize("isa", ISAS)
def test_code_bound_is_nearly_reached_by_a_rounded_row(isa):
    d = 64
    rows, cascade = mirrored(d, np.ones(d))
    queries = np.stack([3 * rows[0], -3 * rows[0]])
    (_, _, low, high, _, _), true = bounds_of(queries, rows, cascade, isa)
    # A code of 115.45 steps is rounded to 115.
    error = (127 / 1.1 - 115) * 1.1 / 127 * np.sqrt(d)
    reached = 1 - float(np.stack([true - low, high - true]).min()) / error
    print(f"a row reaches {reached:.4f} of the bound")
    assert 0.99 <= reached <= 1


@pytest.mark.parametrize("isa", ISAS)
def test_cluster_bound_is_reached_by_a_row_on_the_edge(isa):
    rows, cascade = mirrored(8, np.arange(1, 9) / 4)
    queries = 5 * rows
    (by_cluster, *_), true = bounds_of(queries, rows, cascade, isa)
    near = true.min(1)
    assert (by_cluster.max(1) <= near).all()
    assert (by_cluster.max(1) >= 0.99 * near).all()


# ------------------------------------------------------------------ cascades of memories


N = index_shape.LEAST_ROWS + 500


def memory_of(rows, **options):
    nothing = np.zeros((len(rows), 1), np.float32)
    memory = resmem.Memory("regression", output_kind="values", k=5, sigma=1.0, **options)
    return memory.fit(rows, nothing, nothing)


def engines(memory):
    return [each.get("search") for each in memory.plan_]


@pytest.fixture(autouse=True)
def always_faster(monkeypatch):
    """Let cascades always measure as faster, so that no test depends on real times."""
    timed(monkeypatch, lambda queries, cascade: 2.0 if cascade is None else 1.0)


def timed(monkeypatch, seconds):
    """Let trial searches run, and report ``seconds(queries, cascade)`` as their time."""
    search = _core.search

    def time(queries, segment, ask):
        found = search(
            queries, segment.largest, [segment], ask.k, ask.metric, execution=ask.execution
        )
        return seconds(len(queries), segment.index), found[3]

    monkeypatch.setattr(index_trial, "_time", time)


def test_enough_searches_build_a_cascade_with_the_same_bits(monkeypatch):
    monkeypatch.setattr(policy, "TRIAL_QUERIES", 2000)
    queries, rows = clustered(N, 1500, 120)
    memory = memory_of(rows)
    first = memory.kneighbors(queries)
    assert engines(memory) == [None]
    again = memory.kneighbors(queries)
    assert engines(memory) == ["cascade"]
    assert_same(again, first)
    assert_same((again[0][:50], again[1][:50]), oracle.search(queries[:50], rows, 5))
    (plan,) = memory.plan_
    assert plan["rows"] == N
    assert 0 < plan["bytes"] <= 0.4 * rows.nbytes
    assert "times as fast on 512 of its rows" in plan["reason"]


@pytest.mark.parametrize("key_dtype", ["float32", "float16", "bfloat16"])
def test_added_and_removed_rows_are_seen_beside_a_cascade(key_dtype):
    queries, rows = clustered(N + 300, 40, 24)
    memory = memory_of(rows[:N], key_dtype=key_dtype).prepare()
    assert engines(memory) == ["cascade"]
    nothing = np.zeros((300, 1), np.float32)
    gone = np.arange(0, N, 3)
    memory.add(rows[N:], nothing, nothing).remove(gone)
    assert engines(memory)[0] == "cascade"
    stored = rows if key_dtype == "float32" else _core.widen(_core.narrow(rows, key_dtype))
    alive = np.ones(N + 300, dtype=bool)
    alive[gone] = False
    excluded = np.arange(1, 41)
    wanted = oracle.search(queries, stored, 5, alive=alive, exclude_ids=excluded[:, None])
    assert_same(memory.kneighbors(queries, exclude_ids=excluded), wanted)


def test_cascade_that_is_no_faster_is_dropped(monkeypatch):
    timed(monkeypatch, lambda *_: 1.0)
    _, rows = clustered(N, 1, 12)
    memory = memory_of(rows).prepare()
    assert engines(memory) == ["float32"]
    assert memory.plan_[0]["bytes"] == 0
    assert memory.plan_[0]["reason"] == (
        "1.00 times as fast on 512 of its rows, 1.00 times on one at a time"
    )


def test_few_queries_and_many_are_measured_and_served_apart(monkeypatch):
    timed(monkeypatch, lambda queries, cascade: 2.0 if (cascade is None) == (queries == 1) else 1.0)
    queries, rows = clustered(N, 30, 24)
    memory = memory_of(rows).prepare()
    (plan,) = memory.plan_
    assert (plan["search"], plan["search_few"]) == ("float32", "cascade")
    (segment,) = memory._state.view.fitted_rows.segments
    serves = segment.planner.index_of
    assert serves(segment.arrays["keys"], index_decision.LEAST_BATCH) is None
    assert serves(segment.arrays["keys"], index_decision.LEAST_BATCH - 1) is not None
    wanted = oracle.search(queries, rows, 5)
    assert_same(memory.kneighbors(queries), wanted)
    assert_same(memory.kneighbors(queries[:3]), (wanted[0][:3], wanted[1][:3]))


def test_another_depth_is_tried_where_too_many_rows_pass(monkeypatch):
    timed(monkeypatch, lambda _, cascade: 1000 / getattr(cascade, "depth", 1))
    monkeypatch.setattr(index_shape.Survivors, "best_depth", lambda *_: 64)
    rng = np.random.default_rng(5)
    for d, wanted in ((300, [(64, True), (96, True)]), (208, [(64, True), (208, False)])):
        rows = rng.standard_normal((N, d), dtype=np.float32)
        rows *= (np.arange(1, d + 1) ** -0.5).astype(np.float32)
        (plan,) = memory_of(rows).prepare().plan_
        tried = plan["tried"]
        assert [(each["depth"], each["coded_rows"]) for each in tried][:2] == wanted
        assert tried[0]["passed"] > 0.02
        assert plan["bytes"] == tried[-1]["bytes"] <= 0.4 * rows.nbytes


def test_first_depth_is_the_smallest_of_nearly_least_cost():
    """Few rows pass once the depth reaches the number of directions in the rows."""
    rng = np.random.default_rng(8)
    for true, wanted in ((30, 40), (90, 96)):
        rows = rng.standard_normal((N, true)) @ rng.standard_normal((true, 300))
        rows = (rows + 0.1 * rng.standard_normal((N, 300))).astype(np.float32)
        (plan,) = memory_of(rows).prepare().plan_
        assert plan["tried"][0]["depth"] == wanted


def test_rows_of_flat_spectrum_are_coded_in_all_dimensions():
    rng = np.random.default_rng(6)
    (plan,) = memory_of(rng.standard_normal((N, 150), dtype=np.float32)).prepare().plan_
    assert [(each["depth"], each["coded_rows"]) for each in plan["tried"]] == [(152, False)]
    wide = rng.standard_normal((N, 600), dtype=np.float32)
    (plan,) = memory_of(wide).prepare().plan_
    assert (plan["tried"], plan["reason"]) == ([], "no projection tells its rows apart")


def test_survivors_of_a_projection_are_counted_correctly():
    rng = np.random.default_rng(7)
    rows, queries = rng.standard_normal((300, 80)), rng.standard_normal((40, 80))
    y, z = rows - rows.mean(axis=0), queries - rows.mean(axis=0)
    axes = np.linalg.svd(y, full_matrices=False)[2][:64].T
    phi = [
        np.column_stack([x @ axes, np.linalg.norm(x - x @ axes @ axes.T, axis=1)]) for x in (y, z)
    ]
    apart = np.linalg.norm(phi[1][:, None] - phi[0], axis=2)
    reach = np.quantile(apart, 0.25, axis=1)
    survivors = index_shape.Survivors(queries, reach, rows)
    assert survivors.share(64) == pytest.approx((apart <= reach[:, None]).mean(), abs=1e-3)
    wider = (apart <= 1.1 * reach[:, None]).mean()
    assert survivors.share(64, 1.1) == pytest.approx(wider, abs=1e-3)
    assert survivors.share(80) < survivors.share(64) < survivors.share(8)


def test_rows_that_cannot_be_coded_are_searched_all_the_same():
    queries, rows = clustered(N, 20, 20)
    tiny, asked = rows * np.float32(1e-30), queries * np.float32(1e-30)
    memory = memory_of(tiny).prepare()
    assert engines(memory) == ["float32"]
    assert memory.plan_[0]["reason"] == "these rows cannot be coded"
    assert_same(memory.kneighbors(asked), oracle.search(asked, tiny, 5))


@pytest.fixture
def slow_builds(monkeypatch):
    """Yield the event that a build has begun, the event that lets it go on, and all builds."""
    begun, go_on, built, decide = threading.Event(), threading.Event(), [], index_trial.decide
    parent = os.getpid()

    def slowly(*arguments):
        built.append(arguments)
        begun.set()
        if os.getpid() == parent:
            assert go_on.wait(60)
        return decide(*arguments)

    monkeypatch.setattr(policy, "decide", slowly)
    yield begun, go_on, built
    go_on.set()


@pytest.mark.parametrize("began", ["prepare", "kneighbors"])
def test_prepare_beside_a_build_returns_when_it_is_built(monkeypatch, slow_builds, began):
    monkeypatch.setattr(policy, "TRIAL_QUERIES", 10)
    begun, go_on, built = slow_builds
    queries, rows = clustered(N, 20, 24)
    memory = memory_of(rows)
    work = {"prepare": memory.prepare, "kneighbors": partial(memory.kneighbors, queries)}[began]
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(work)
        assert begun.wait(60)
        others = [pool.submit(lambda: engines(memory.prepare())) for _ in range(2)]
        memory.kneighbors(queries)  # a search does not wait
        time.sleep(0.05)
        assert not any(each.done() for each in others)
        go_on.set()
        assert [each.result(60) for each in others] == [["cascade"]] * 2
        first.result(60)
    assert len(built) == 1


def test_prepare_covers_rows_added_during_another_build(slow_builds):
    begun, go_on, built = slow_builds
    _, rows = clustered(2 * N, 1, 24)
    go_on.set()
    memory = memory_of(rows).prepare()
    memory.add(
        rows[:N], *[np.zeros((N, 1), np.float32)] * 2
    )  # the new segment has room for N rows more
    for event in (begun, go_on, built):
        event.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(memory.prepare)
        assert begun.wait(60)
        memory.add(rows[: N // 2], *[np.zeros((N // 2, 1), np.float32)] * 2)
        second = pool.submit(memory.prepare)
        time.sleep(0.05)
        assert not second.done()
        go_on.set()
        first.result(60)
        second.result(60)
    assert [len(arguments[0]) for arguments in built] == [N, N + N // 2]
    assert memory.plan_[1]["rows"] == N + N // 2


class Ring(Exception):  # noqa: N818
    """Raised by a signal handler."""


@pytest.fixture
def bell():
    """Yield a function that has a handler called by a signal in 0.05 seconds."""
    previous = signal.getsignal(signal.SIGALRM)

    def ring(handler):
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    yield ring
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)


def test_a_signal_ends_the_wait_for_a_build(slow_builds, bell):
    begun, go_on, built = slow_builds
    memory = memory_of(clustered(N, 1, 24)[1])

    def ring(*_):
        raise Ring

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(memory.prepare)
        assert begun.wait(60)
        start = time.monotonic()
        bell(ring)
        with pytest.raises(Ring):
            memory.prepare()
        assert time.monotonic() - start < 5
        go_on.set()
        first.result(60)
    assert engines(memory.prepare()) == ["cascade"]
    assert len(built) == 1


def test_signal_handler_does_not_wait_for_interrupted_build(slow_builds, bell):
    _, go_on, built = slow_builds
    memory = memory_of(clustered(N, 1, 24)[1])

    def handler(*_):
        assert engines(memory.prepare()) == [None]
        go_on.set()

    bell(handler)
    assert engines(memory.prepare()) == ["cascade"]
    assert len(built) == 1


class Interrupted:
    """A lock that runs a handler just after it is first acquired."""

    def __init__(self, lock, handler):
        self.lock, self.handlers = lock, [handler]

    def acquire(self, blocking=True):
        taken = self.lock.acquire(blocking=blocking, timeout=20 if blocking else -1)
        assert taken, "the handler waits for a lock that its own thread holds"
        while self.handlers:
            self.handlers.pop()()
        return taken

    def release(self):
        self.lock.release()


def test_signal_handler_may_prepare_while_its_thread_has_lock():
    memory = memory_of(clustered(N, 1, 24)[1])
    planner = memory._state.view.rows.segments[0].planner
    planner._building = Interrupted(planner._building, memory.prepare)
    assert engines(memory.prepare()) == ["cascade"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("origin", ["as it was", "pickled"])
def test_a_child_forked_during_a_build_builds_for_itself(slow_builds, origin):
    begun, go_on, _ = slow_builds
    queries, rows = clustered(N, 5, 24)
    memory = memory_of(rows)
    wanted = memory.kneighbors(queries)[1]
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(memory.prepare)
        assert begun.wait(60)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.alarm(60)
                mine = memory if origin == "as it was" else pickle.loads(pickle.dumps(memory))
                built = engines(mine.prepare(threads=1)) == ["cascade"]
                ids = mine.kneighbors(queries, threads=1)[1]
                code = 0 if built and ids.tobytes() == wanted.tobytes() else 2
            finally:
                os._exit(code)
        go_on.set()
        first.result(60)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_threads_that_read_a_saved_cascade_at_once_all_get_it(tmp_path, monkeypatch):
    _, rows = clustered(N, 5, 24)
    memory_of(rows).prepare().save(tmp_path / "m")
    read, saved = [], index_decision.decision_from_file

    def slowly(*arguments):
        read.append(arguments)
        time.sleep(0.1)
        return saved(*arguments)

    monkeypatch.setattr("resmem._files.persist.decision_from_file", slowly)
    memory, barrier = resmem.Memory.load(tmp_path / "m"), threading.Barrier(3)

    def ask(_):
        barrier.wait()
        return engines(memory)

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(ask, range(3))) == [["cascade"]] * 3
    assert len(read) == 1


# All public calls that search, here with 20 or more queries.
SEARCHING_CALLS = {
    "kneighbors": lambda m, z, y: m.kneighbors(z),
    "correct": lambda m, z, y: m.correct(z, y),
    "predict": lambda m, z, y: m.predict(z, y),
    "explain": lambda m, z, y: m.explain(z, y),
    "evaluate": lambda m, z, y: m.evaluate(z, y, y),
    "tune": lambda m, z, y: m.tune(z, y, y, k=[2], sigma=[1.0], folds=2, apply=False),
    "tune loo": lambda m, z, y: m.tune(loo=True, k=[2], sigma=[1.0], folds=2, apply=False),
}


@pytest.mark.filterwarnings("ignore:tune. the base model errs:UserWarning")
@pytest.mark.parametrize("call", SEARCHING_CALLS)
def test_no_search_builds_without_auto_prepare(monkeypatch, call):
    monkeypatch.setattr(policy, "TRIAL_QUERIES", 20)
    queries, rows = clustered(N, 40, 24)
    outputs = np.arange(40, dtype=np.float32)[:, None]
    memory = memory_of(rows, auto_prepare=False)
    SEARCHING_CALLS[call](memory, queries, outputs)
    assert engines(memory) == [None]
    memory.auto_prepare = True
    SEARCHING_CALLS[call](memory, queries, outputs)
    assert engines(memory) == ["cascade"]


def test_auto_prepare_can_be_set_at_any_time(monkeypatch, tmp_path):
    monkeypatch.setattr(policy, "TRIAL_QUERIES", 20)
    queries, rows = clustered(N, 40, 24)
    memory_of(rows, auto_prepare=False).save(tmp_path / "m")
    memory = resmem.Memory.load(tmp_path / "m")
    assert memory.auto_prepare is True  # files do not keep this setting
    memory.auto_prepare = False
    memory.kneighbors(queries)
    assert pickle.loads(pickle.dumps(memory)).auto_prepare is False
    assert memory.use(memory.settings).auto_prepare is False
    assert engines(memory) == [None]
    assert engines(memory.prepare()) == ["cascade"]  # prepare builds all the same
    for wrong in ("never", 0, None):
        with pytest.raises(TypeError, match=r"^auto_prepare must be True or False, got "):
            memory.auto_prepare = wrong
        with pytest.raises(TypeError, match=r"^auto_prepare must be True or False, got "):
            resmem.Memory(auto_prepare=wrong)


def test_few_rows_and_many_neighbours_have_no_cascade():
    queries, rows = clustered(N, 20, 8)
    assert engines(memory_of(rows[:4000]).prepare()) == [None]
    memory = memory_of(rows).prepare()
    k = N // 8 + 1
    assert_same(memory.kneighbors(queries, k), oracle.search(queries, rows, k))


def test_rekeyed_memory_does_not_use_the_old_cascade():
    queries, rows = clustered(N, 10, 24)
    memory = memory_of(rows).prepare()
    memory._state.publish(**vars(memory._state.view.rekeyed("unit", "float32")))
    assert engines(memory) == [None]
    keys = rows / np.linalg.norm(rows.astype(np.float64), axis=1)[:, None]
    asked = queries / np.linalg.norm(queries.astype(np.float64), axis=1)[:, None]
    wanted = oracle.search(asked.astype(np.float32), keys.astype(np.float32), 5)
    assert np.array_equal(memory.kneighbors(queries)[1], wanted[1])


@pytest.mark.usefixtures("always_faster")
@pytest.mark.parametrize("metric", METRICS)
def test_one_search_builds_for_itself_if_it_is_large(monkeypatch, metric):
    monkeypatch.setattr(policy, "SINGLE_CALL_QUERIES_NARROW", 4000)
    queries, rows = clustered(N, 4000, 20)
    queries[7], rows[::1000] = 0, 0
    built = []
    decide = index_trial.decide
    monkeypatch.setattr(policy, "decide", lambda *a: built.append(decide(*a)) or built[-1])
    few = resmem.search(queries[:3999], rows, 3, metric)
    assert built == []
    many = resmem.search(queries, rows, 3, metric)
    assert [each.index is None for each in built] == [False]
    assert_same((many[0][:3999], many[1][:3999]), few)


def test_rows_of_flat_spectrum_have_no_cascade_of_any_metric():
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((N, 600)).astype(np.float32)
    segment = _core.Segment(rows, None, 0, None, max_abs(rows))
    for metric in METRICS:
        decision = index_trial.decide(segment, rows, 5, _core.Execution(2), 1, metric)
        assert decision.index is None
        assert decision.tried == ()


@pytest.mark.parametrize("slower", [1, 2])
def test_inner_products_are_tried_on_some_of_the_rows_first(monkeypatch, slower):
    timed(monkeypatch, lambda queries, cascade: 1.0 if cascade is None else slower)
    _, rows = clustered(N, 1, 40)
    segment = _core.Segment(rows, None, 0, None, max_abs(rows))
    decision = index_trial.decide(segment, rows, 5, _core.Execution(2), 1, "inner_product")
    assert (decision.tried == ()) == (slower == 2)


@pytest.mark.parametrize(
    "d", [*range(9, 25), 31, 33, 48, 64, 100, 111, 112, 127, 128, 159, 160, 200, 400, 401, 784]
)
def test_a_cascade_takes_at_most_two_fifths_of_float32_rows(d):
    _, rows = clustered(index_shape.LEAST_ROWS, 1, d)
    shape = index_shape.shape_for(len(rows), d)
    assert shape.fits(d)
    cascade = cascade_of(rows, None, shape.depth, shape.clusters, coded_rows=shape.coded_rows)
    assert cascade.nbytes <= 0.4 * rows.nbytes


@pytest.mark.parametrize("d", [1, 5, 8])
def test_rows_of_few_dimensions_have_no_cascade_small_enough(d):
    _, rows = clustered(index_shape.LEAST_ROWS, 1, d)
    assert not index_shape.shape_for(len(rows), d).fits(d)
    segment = _core.Segment(rows, None, 0, None, max_abs(rows))
    tried = index_trial.decide(segment, rows, 5, _core.Execution(2)).tried
    assert {trial["search"] for trial in tried} <= {"tree"}


# ---------------------------------------------------------------------- cascades in files


def test_cascade_of_arrays_is_the_same_and_copies_no_codes():
    queries, rows = clustered(3000, 20, 130)
    cascade = cascade_of(rows, None, 32, 9, coded_rows=True)
    arrays = cascade.arrays()
    again = _core.Cascade.of(arrays)
    assert again.digest() == cascade.digest()
    assert np.shares_memory(again.arrays()["codes"], arrays["codes"])
    assert not arrays["codes"].flags.writeable
    del cascade, arrays
    segment = _core.Segment(rows, None, 0, None, max_abs(rows), again)
    found = _core.search(queries, max_abs(queries), [segment], 7, "euclidean")
    assert found[3]["strategy"] == "cascade"
    assert_same(found, oracle.search(queries, rows, 7))


def test_cascade_of_unnamed_numbers_is_the_same():
    _, rows = clustered(3000, 20, 40)
    cascade = cascade_of(rows, None, 32, 9)
    arrays = with_unnamed_numbers(cascade.arrays(), "cascade")
    assert _core.Cascade.of(arrays).digest() == cascade.digest()
    for wrong in (arrays["numbers"][:-1], np.append(arrays["numbers"], 0)):
        with pytest.raises(ValueError, match="a cascade has 16 numbers"):
            _core.Cascade.of({**arrays, "numbers": wrong})


def test_file_with_unnamed_numbers_keeps_its_cascade(tmp_path, monkeypatch):
    queries, rows = clustered(2 * N, 20, 24)
    memory = memory_of(rows).prepare()
    named = _core.Cascade.arrays
    as_before = lambda cascade: with_unnamed_numbers(named(cascade), "cascade")  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(_core.Cascade, "arrays", as_before)
        memory.save(tmp_path / "m")
    loaded = resmem.Memory.load(tmp_path / "m")
    assert loaded.plan_[0]["reason"] == "saved in the file"
    assert engines(loaded) == ["cascade"]
    assert_same(loaded.kneighbors(queries), memory.kneighbors(queries))


@pytest.mark.parametrize("coded_rows", [True, False])
def test_arrays_that_do_not_fit_together_are_refused(coded_rows):
    _, rows = clustered(700, 1, 40)
    arrays = cascade_of(rows, None, 16, 3, coded_rows=coded_rows).arrays()
    damaged = [{**arrays, name: array[:-1]} for name, array in arrays.items() if len(array)]
    damaged += [{**arrays, name: np.append(a, a[:1])} for name, a in arrays.items() if len(a)]
    damaged += [{k: v for k, v in arrays.items() if k != name} for name in arrays]
    for name in ("n", "depth", "code_depth", "clusters", "metric", "d", "point_d", "axes", "scale"):
        for value in (0, 1, 7, 1e9, -1, np.nan, np.inf):
            may_be_so = name in ("code_depth", "scale") and value in (0, 1, 7, 1e9)
            if value != arrays[name][0] and not may_be_so:
                damaged.append({**arrays, name: np.array([value], dtype=np.float64)})
    for name in ("weight", "offset", "bias", "origin", "centres"):
        array = arrays[name].copy()
        array[1] = np.nan
        damaged.append({**arrays, name: array})
    if coded_rows:
        for value in (-1e-9, np.nan):
            coded = arrays["coded"].copy()
            coded[1] = value  # the error of the first row
            damaged.append({**arrays, "coded": coded})
    for value in (-2, 700, int(arrays["rows"][1])):
        damaged.append({**arrays, "rows": np.r_[np.int32(value), arrays["rows"][1:]]})
    for at in (0, 1, 2, 7):  # where chunks begin, how many rows they have, of which cluster
        chunks = arrays["chunks"].copy()
        chunks[at] += 32 if at != 2 else 1000
        damaged.append({**arrays, "chunks": chunks})
    for each in damaged:
        with pytest.raises((ValueError, TypeError)):
            _core.Cascade.of({name: np.ascontiguousarray(array) for name, array in each.items()})


def numbers_of(array):
    """Return views of an array of a cascade or a tree in every type its numbers may have."""
    return [array, array.view(np.float32)] if array.dtype == np.int32 else [array]


def mutated(rng, arrays):
    """Return the arrays with one number of one of them changed."""
    name = rng.choice([name for name, array in arrays.items() if array.size])
    array = arrays[name].copy()
    meant = numbers_of(array)[rng.integers(len(numbers_of(array)))].reshape(-1)
    at = rng.integers(meant.size)
    if meant.dtype.kind == "f":
        huge = [np.nan, np.inf, -np.inf, 3e38, -3e38, 2.0**47, 2.0**48 - 1, 0.5, 1e-45, 0, -1, 1, 3]
        value = rng.choice([*huge, -meant[at], 2 * meant[at], meant[at] + 1])
    else:
        few = [
            -(2**31),
            -(2**30) - 24001,
            -2,
            -1,
            0,
            1,
            31,
            32,
            127,
            128,
            255,
            700,
            2**30,
            2**31 - 1,
        ]
        value = rng.choice(few)
    with np.errstate(over="ignore"):
        meant[at] = np.asarray(value).astype(meant.dtype)
    return {**arrays, name: array}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("coded_rows", [True, False])
@pytest.mark.parametrize(("d", "depth"), [(40, 16), (12, 16)])
def test_damaged_cascade_is_refused_or_searched_within_arrays(d, depth, coded_rows, isa):
    """Neighbours may be wrong: whoever forges a cascade in a file forges its checksums too."""
    queries, rows = clustered(700, 9, d)
    arrays = cascade_of(rows, None, depth, 3, coded_rows=coded_rows).arrays()
    rng = np.random.default_rng(d)
    searched = 0
    for _ in range(600):
        try:
            cascade = _core.Cascade.of(mutated(rng, arrays))
        except ValueError:
            continue
        segment = _core.Segment(rows, None, 0, None, max_abs(rows), cascade)
        for k in (1, 80):
            found = _core.search(
                queries,
                max_abs(queries),
                [segment],
                k,
                "euclidean",
                execution=_core.Execution(isa=isa),
            )
            assert found[3]["strategy"] == "cascade"
            assert ((found[1] >= -1) & (found[1] < 700)).all()
        searched += 1
    assert searched > 50


def test_sizes_of_a_cascade_whose_products_overflow_are_refused():
    """131,072 places of 2^47 codes take 2^64 bytes, which is 0 in 64 bits."""
    _, rows = clustered(700, 1, 40)
    arrays = cascade_of(rows, None, 16, 3, coded_rows=False).arrays()
    chunks = arrays["chunks"].reshape(-1, 6)
    places, more = len(arrays["rows"]), 2**17 - len(arrays["rows"])
    padding = np.zeros((-(-more // 128), 6), np.int32)
    padding[:, 0] = places + 128 * np.arange(len(padding))
    padding[:, 1] = np.minimum(128, 2**17 - padding[:, 0])
    padding[:, 2] = 3
    whole = {
        **arrays,
        "chunks": np.concatenate([chunks, padding]).ravel(),
        "rows": np.append(arrays["rows"], np.full(more, -1, np.int32)),
        "init": np.append(arrays["init"], np.full(more, -(2**30), np.int32)),
        "panels": np.append(arrays["panels"], np.zeros(16 * more, np.uint8)),
    }
    assert len(_core.Cascade.of(whole)) == 700
    with pytest.raises(ValueError, match="do not fit together"):
        _core.Cascade.of({**whole, "depth": np.array([2.0**47]), "panels": np.zeros(0, np.uint8)})


@pytest.mark.parametrize(
    ("name", "value"), [("n", 700.5), ("depth", 16.5), ("metric", 0.5), ("has_tail", 0.5)]
)
def test_sizes_of_a_cascade_are_whole_numbers(name, value):
    _, rows = clustered(700, 1, 40)
    arrays = cascade_of(rows, None, 16, 3).arrays()
    with pytest.raises(ValueError, match=f"{name} of a cascade is out of range"):
        _core.Cascade.of({**arrays, name: np.array([value])})


def test_rows_whose_squares_leave_float32_are_not_coded():
    """Codes of such rows would have no valid bounds, and neighbours would be lost."""
    rng = np.random.default_rng(0)
    rows = (rng.choice([-1, 1], (700, 512)) * rng.uniform(0.8, 1, (700, 512))).astype(np.float32)
    rows *= np.float32(2.0**60)
    queries = rows[:9] * np.float32(0.999)
    assert cascade_of(rows, None, 64, 3, coded_rows=True) is None
    cascade = cascade_of(rows, None, 64, 3, coded_rows=False)
    segment = _core.Segment(rows, None, 0, None, max_abs(rows), cascade)
    found = _core.search(queries, max_abs(queries), [segment], 5, "euclidean")
    assert found[3]["strategy"] == "cascade"
    assert_same(found, oracle.search(queries, rows, 5))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("coded_rows", [True, False])
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "inner_product"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_search_ends_on_arrays_changed_after_their_check(value, metric, coded_rows, isa):
    queries, rows = clustered(3000, 60, 40)
    cascade = cascade_of(rows, None, 16, 9, coded_rows=coded_rows, metric=metric)
    largest = max_abs(rows), max_abs(queries)
    segment = _core.Segment(rows, None, 0, None, largest[0], cascade)
    rng = np.random.default_rng(0)
    for part in (queries[::2], rows[::3], rows):
        part[np.arange(len(part)), rng.integers(0, 40, len(part))] = value
        for k in (1, 70, 300):
            found = _core.search(
                queries, largest[1], [segment], k, metric, execution=_core.Execution(isa=isa)
            )
            assert found[3]["strategy"] == "cascade"
            assert ((found[1] >= -1) & (found[1] < 3000)).all()


def test_saved_cascade_is_kept_and_not_rewritten_by_append(tmp_path):
    path = tmp_path / "memory.resmem"
    queries, rows = clustered(N, 30, 24)
    memory = memory_of(rows).prepare()
    without = tmp_path / "without.resmem"
    memory_of(rows).save(without)
    memory.save(path)
    size = path.stat().st_size
    (plan,) = memory.plan_
    assert size - without.stat().st_size > plan["bytes"]
    loaded = resmem.Memory.load(path)
    assert engines(loaded) == ["cascade"]
    assert loaded.plan_[0]["reason"] == "saved in the file"
    assert loaded.info()["search"].startswith(f"cascade over {N} rows, ")
    wanted = oracle.search(queries, rows, 5)
    assert_same(loaded.kneighbors(queries), wanted)
    nothing = np.zeros((3, 1), np.float32)
    loaded.add(rows[:3] + 1, nothing, nothing).remove([5])
    loaded.save(path, append=True)
    assert path.stat().st_size - size < plan["bytes"] // 4
    again = resmem.Memory.load(path)
    assert engines(again)[0] == "cascade"
    alive = np.arange(N + 3) != 5
    both = np.concatenate([rows, rows[:3] + 1])
    assert_same(again.kneighbors(queries), oracle.search(queries, both, 5, alive=alive))


def test_cascade_built_after_load_is_appended(tmp_path):
    path = tmp_path / "memory.resmem"
    _, rows = clustered(N, 1, 24)
    memory_of(rows).save(path)
    memory = resmem.Memory.load(path)
    assert engines(memory) == [None]
    memory.prepare().save(path, append=True)
    assert engines(resmem.Memory.load(path)) == ["cascade"]


def test_rows_moved_by_a_save_are_saved_without_a_cascade(tmp_path):
    path = tmp_path / "memory.resmem"
    queries, rows = clustered(N, 30, 24)
    memory = memory_of(rows).prepare().remove(np.arange(100))
    memory.save(path)
    loaded = resmem.Memory.load(path)
    assert engines(loaded) == [None]
    wanted = oracle.search(queries, rows, 5, alive=np.arange(N) >= 100)
    assert_same(loaded.kneighbors(queries), wanted)
    assert_same(memory.kneighbors(queries), wanted)


def test_saved_cascade_that_does_not_fit_is_ignored():
    _, rows = clustered(700, 1, 40)
    arrays = {**cascade_of(rows, None, 16, 3).arrays(), "serves": np.ones(2, np.uint8)}
    stored = ("file", 0)
    saved = partial(index_decision.decision_from_file, "cascade")
    assert saved(arrays, rows, stored).stored == stored
    assert saved({**arrays, "serves": np.ones(3, np.uint8)}, rows, stored) is None
    assert saved({**arrays, "rows": arrays["rows"][:-1]}, rows, stored) is None
    assert saved(arrays, rows[:-1], stored) is None
    assert saved(arrays, rows[:, :-1], stored) is None
    cosine = cascade_of(rows, None, 16, 3, metric="cosine").arrays()
    assert saved({**arrays, **cosine}, rows, stored) is None
    forged = cascade_of(rows[:, :-1].copy(), None, 16, 3, metric="inner_product").arrays()
    assert saved({**arrays, **forged}, rows, stored) is None  # points have one dimension more
