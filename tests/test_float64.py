"""Float64 keys: searches give the oracle's bits; when embeddings are kept as float64."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
import resmem
from cases import (
    ISAS,
    METRICS,
    WIDE_FAMILIES,
    assert_same,
    core_search,
    make_wide,
    max_abs,
    paths,
    same_bits,
)
from resmem import _core, _search
from resmem._keys.rounding import ALLOWED_FRACTION, Neighbourhood, rounding_errors
from resmem._rows import ingest


def kept(rows, metric="euclidean"):
    """Return the dtype in which ``search`` compares rows, and whether it subtracts an offset."""
    keeping = _search._TypedSearch(np.asarray(rows), 1, metric, _core.Execution()).keeping
    return keeping.dtype, keeping.offset is not None


def warnings_of(call, *args):
    """Return the texts of the warnings of a call."""
    with warnings.catch_warnings(record=True) as each:
        warnings.simplefilter("always")
        call(*args)
    return [str(one.message) for one in each]


# ---- The core ---------------------------------------------------------------------------------


@given(
    family=st.sampled_from(sorted(WIDE_FAMILIES)),
    seed=st.integers(0, 2**31),
    n=st.sampled_from([0, 1, 2, 30, 300]),
    q=st.sampled_from([1, 3, 9, 40]),
    d=st.sampled_from([1, 2, 3, 8, 17, 70]),
    k=st.sampled_from([1, 2, 7, 50]),
    metric=st.sampled_from(METRICS),
    threads=st.sampled_from([1, 2]),
)
def test_search_of_float64_has_the_bits_of_the_oracle(family, seed, n, q, d, k, metric, threads):
    queries, rows = make_wide(family, seed, n, q, d)
    wanted = oracle.search(queries, rows, k, metric, wide=True)
    asked, stored = (oracle.as_float64(x, metric) for x in (queries, rows))
    for isa in ISAS:
        for path in paths(metric, wide=True):
            found = core_search(asked, stored, k, metric, isa=isa, threads=threads, **path)
            assert_same(found[:2], wanted, (isa, path))


@pytest.mark.parametrize("family", sorted(WIDE_FAMILIES))
def test_float64_search_uses_the_filter_that_was_asked_for(family):
    queries, rows = make_wide(family, 5, 3000, 300, 6)
    wanted = oracle.search(queries[:9], rows, 5, wide=True)
    for kind in ("dot", "difference"):
        found = core_search(queries, rows, 5, strategy="by_queries", filter=kind)
        assert_same((found[0][:9], found[1][:9]), wanted, kind)
        stats = found[3]
        if max_abs(rows) > 0:
            assert (stats["strategy"], stats["filter"]) == ("by_queries", kind)
            assert stats["pairs_filtered"] >= 300 * 3000
        if family in ("gaussian", "on a sphere"):
            assert stats["rescored"] < 300 * 60  # few rows are left to canonical keys


def test_float64_segments_and_exclusions_give_the_oracles_bits():
    queries, rows = make_wide("unix times", 6, 400, 20, 3)
    rng = np.random.default_rng(6)
    ids, dead = rng.permutation(1000)[:400], rng.random(400) < 0.3
    died = np.where(dead, 1, 0)
    exclude = rng.choice(ids, (20, 5))
    segments = [
        _core.Segment(part, ids[at].copy(), 0, died[at].copy(), max_abs(part))
        for at in (slice(0, 150), slice(150, 400))
        for part in [rows[at].copy()]
    ]
    found = _core.search(
        queries,
        max_abs(queries),
        segments,
        9,
        "euclidean",
        exclude,
        version=1,
        execution=_core.Execution(2),
    )
    wanted = oracle.search(queries, rows, 9, ids=ids, exclude_ids=exclude, alive=~dead, wide=True)
    assert_same(found[:2], wanted)


def test_queries_and_keys_of_different_width_are_refused():
    queries, rows = make_wide("gaussian", 7, 10, 3, 4)
    narrow = rows.astype(np.float32)
    for asked, stored in ((queries, narrow), (queries.astype(np.float32), rows)):
        with pytest.raises(ValueError, match="queries must be float64 for float64 keys"):
            core_search(asked, stored, 3)
    with pytest.raises(ValueError, match="stream"):
        core_search(queries, np.repeat(rows, 40, 0), 3, strategy="stream")


def test_float64_logits_of_a_head_are_those_of_the_oracle():
    rng = np.random.default_rng(8)
    keys, weight = 1e9 + rng.normal(size=(7, 13)), rng.normal(size=(5, 13)).astype(np.float32)
    bias = rng.normal(size=5).astype(np.float32)
    wanted = oracle.head_logits(keys, weight, bias)
    for isa in ISAS:
        same_bits(
            _core.head_logits(
                keys, _core.LinearHead(weight, bias), execution=_core.Execution(isa=isa)
            ),
            wanted,
        )


@pytest.mark.parametrize("isa", ISAS)
def test_inspect_rows_of_float64_gives_maximum_and_bad_row(isa):
    for n, d in ((1, 1), (3, 5), (700, 33)):
        rows = np.random.default_rng(n).normal(size=(n, d)) * 1e200
        assert _core.inspect_rows(rows, execution=_core.Execution(2, isa)) == (max_abs(rows), -1)
        rows[n // 2, d // 2] = np.nan
        rows[n - 1, d - 1] = -np.inf
        assert _core.inspect_rows(rows, execution=_core.Execution(2, isa))[1] == n // 2


# ---- What search compares ---------------------------------------------------------------------


def test_unix_times_are_told_apart():
    rows = [[1.7e9], [1.7e9 + 1], [1.7e9 + 2], [1.7e9 + 3]]
    distances, ids = resmem.search([[1.7e9 + 3]], rows, 4)
    assert distances.tolist() == [[0, 1, 2, 3]]
    assert ids.tolist() == [[3, 2, 1, 0]]
    assert kept(rows) == ("float32", True)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int32, np.float64, np.longdouble])
def test_integers_beyond_2_to_the_24_are_told_apart(dtype):
    rows = np.arange(16_777_210, 16_777_230, dtype=dtype)[:, None]
    distances, ids = resmem.search(rows, rows, 2)
    assert ids[:, 0].tolist() == list(range(20))
    assert (distances[:, 0] == 0).all()
    assert (distances[:, 1] == 1).all()


def test_positions_on_the_earth_find_the_nearest():
    rng = np.random.default_rng(3)
    cities = make_wide("on a sphere", 3, 20, 0, 3)[1]
    rows = cities[rng.integers(0, 20, 20_000)] + rng.normal(size=(20_000, 3)) * 2
    queries = rows[:300] + rng.normal(size=(300, 3)) * 0.2
    assert kept(rows) == ("float64", False)
    distances, ids = resmem.search(queries, rows, 3)
    assert_same((distances[:40], ids[:40]), oracle.search(queries[:40], rows, 3, wide=True))
    rounded = oracle.search(queries[:40], rows, 1)[1][:, 0]
    assert np.mean(rounded == ids[:40, 0]) < 0.8  # float32 would give other neighbours


@pytest.mark.parametrize("metric", METRICS)
def test_ordinary_float64_embeddings_stay_float32(metric):
    rng = np.random.default_rng(4)
    for d, scale, offset in ((2, 1, 0), (16, 1, 3), (300, 0.05, 0), (64, 1e-20, 0), (8, 1e15, 0)):
        rows = rng.normal(size=(5000, d)) * scale + offset * scale
        queries = rng.normal(size=(50, d)) * scale
        assert kept(rows, metric) == ("float32", False), d
        wanted = oracle.search(queries[:5], rows, 4, metric)
        assert_same([x[:5] for x in resmem.search(queries, rows, 4, metric)], wanted)


@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
def test_other_metrics_keep_float64_where_float32_mixes_rows_up(metric):
    rng = np.random.default_rng(5)
    rows = 1e4 + rng.normal(size=(500, 3)) * 1e-2
    queries = 1e4 + rng.normal(size=(20, 3)) * 1e-2
    assert kept(rows, metric) == ("float64", False)
    wanted = oracle.search(queries, rows, 5, metric, wide=True)
    assert_same(resmem.search(queries, rows, 5, metric), wanted)


def test_values_beyond_float32_are_compared_as_float64():
    rng = np.random.default_rng(6)
    for scale in (1e60, 1e-60):
        rows, queries = rng.normal(size=(50, 4)) * scale, rng.normal(size=(5, 4)) * scale
        assert_same(resmem.search(queries, rows, 3), oracle.search(queries, rows, 3, wide=True))
    for scale, bound in ((1e150, "2.480"), (1e-140, "2.-400")):
        with pytest.raises(ValueError, match=f"largest .value. between .*{bound}.*rescale them"):
            resmem.search(queries * scale * 1e60, rows * scale * 1e60, 3)


def test_cosines_do_not_depend_on_the_size_of_vectors():
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(50, 4)) * 10.0 ** rng.integers(-300, 300, (50, 1))
    queries = rng.normal(size=(5, 4)) * 1e-250
    with pytest.raises(ValueError, match="rescale them"):  # rows are as large as 1e300
        resmem.search(queries, rows, 3, "cosine")
    rows = rng.normal(size=(50, 4)) * 10.0 ** rng.integers(-300, 140, (50, 1))
    found = resmem.search(queries, rows, 3, "cosine")
    unit = rows / np.abs(rows).max(axis=1, keepdims=True)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    asked = queries / 1e-250
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    assert np.array_equal(found[1], np.argsort(1 - asked @ unit.T, axis=1)[:, :3])


def test_integers_beyond_float64_are_warned_of():
    rows = np.array([[2**60 + 1], [2**60 + 2]])
    said = warnings_of(resmem.search, rows, rows, 1)
    assert [each.split()[0] for each in said] == ["rows", "queries"]  # each is warned of once
    assert all("first subtract the same offset from" in each for each in said)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_advice_for_integers_beyond_float64_works(dtype):
    x = (2**62 + np.random.default_rng(8).permutation(500)[:, None]).astype(dtype)
    rows, queries = x[:400], x[400:]
    (cure,) = {
        each.split(", ")[-1]
        for each in warnings_of(resmem.search, queries, rows, 1)
        if "rows" in each
    }
    assert cure == "(rows - offset).astype('int64')"
    offset = rows[0]
    shifted = (rows - offset).astype("int64")
    near = resmem.search((queries - offset).astype("int64"), shifted, 1)[1][:, 0]
    away = np.abs(queries.astype(np.int64) - rows.astype(np.int64).T)
    assert (away[np.arange(100), near] == away.min(axis=1)).all()


def test_memory_that_begins_with_one_time_tells_times_apart():
    assert resmem.search([[1.7e9 + 1], [1.7e9 + 5]], [[1.7e9]], 1)[0].tolist() == [[1], [5]]
    mem = resmem.Memory(task="regression", k=1).fit([[1.7e9]], [0.0], [7.0])
    mem.add([[1.7e9 + 1], [1.7e9 + 2]], [0.0, 0.0], [8.0, 9.0])
    assert mem.predict([[1.7e9 + 2], [1.7e9], [1.7e9 + 1]], np.zeros(3)).tolist() == [9, 7, 8]


@pytest.mark.parametrize("twins", [90, 1000])
def test_rows_with_a_twin_very_near_find_themselves(twins):
    rows = np.random.default_rng(17).random((2000, 4))
    rows[:twins] = rows[1000 : 1000 + twins] + 1e-9
    assert (resmem.search(rows, rows, 2)[1][:, 0] == np.arange(2000)).all()
    mem = resmem.Memory(task="regression", k=1).fit(rows, np.zeros(2000), np.arange(2000.0))
    assert (mem.predict(rows, np.zeros(2000)) == np.arange(2000)).all()


def test_few_unix_times_among_small_values_are_told_apart():
    rows = np.random.default_rng(18).random((1000, 1))
    rows[:60, 0] = 1.7e9 + np.arange(60)
    assert (resmem.search(rows[:60], rows, 1)[1][:, 0] == np.arange(60)).all()
    mem = resmem.Memory(task="regression", k=1).fit(rows, np.zeros(1000), np.arange(1000.0))
    assert (mem.kneighbors(rows[:60])[1][:, 0] == np.arange(60)).all()


def test_each_query_has_the_same_neighbours_in_any_batch():
    rng = np.random.default_rng(19)
    rows = rng.random((1000, 4))
    rows[:50] = rows[50:100] + 1e-9
    for shift in (0, 1e-9, 1e5):
        queries = rng.random((300, 4))
        queries[:15] = rows[50:65] + shift
        queries = queries[rng.permutation(300)]
        whole = resmem.search(queries, rows[100:] if shift else rows, 2)
        for size in (1, 7):
            parts = [
                resmem.search(queries[at : at + size], rows[100:] if shift else rows, 2)
                for at in range(0, 300, size)
            ]
            assert_same([np.concatenate(each) for each in zip(*parts, strict=True)], whole)


def test_queries_that_float32_moves_too_far_use_float64():
    rows = np.arange(40.0)[:, None]
    queries = np.array([[1e9 + 0.25], [3.25], [1e300**0.5 / 1e10]])
    assert kept(rows) == ("float32", False)
    assert_same(resmem.search(queries, rows, 3), oracle.search(queries, rows, 3, wide=True))


@pytest.mark.parametrize("metric", METRICS)
def test_key_dtype_of_search_chooses_what_is_compared(metric):
    rng = np.random.default_rng(30)
    for offset in (0, 1e6):
        rows, queries = rng.normal(size=(300, 5)) + offset, rng.normal(size=(20, 5)) + offset
        wide = oracle.search(queries, rows, 4, metric, wide=True)
        assert_same(resmem.search(queries, rows, 4, metric, key_dtype="float64"), wide)
        narrow = oracle.search(queries.astype("f4"), rows.astype("f4"), 4, metric)
        assert_same(resmem.search(queries, rows, 4, metric, key_dtype="float32"), narrow)
        parts = queries.astype("f4"), rows.astype("f4")
        assert_same(resmem.search(*parts, 4, metric, key_dtype="float64"), narrow)


@pytest.mark.parametrize("noise", [0, 1e-16, 1e-15])
def test_equal_rows_that_float64_arithmetic_moved_stay_float32(noise):
    rng = np.random.default_rng(20)
    rows = rng.normal(size=(2000, 32))
    rows[:500] = rows[500:1000] * (1 + noise * rng.normal(size=(500, 32)))
    for metric in METRICS:
        assert kept(rows, metric) == ("float32", False)


def test_one_row_beyond_float32_is_compared_as_any_other():
    for n in (1000, 5000):
        rows = np.random.default_rng(21).random((n, 4))
        rows[500] = 1e39
        distances, ids = resmem.search(rows[499:502], rows, 1)
        assert (distances.tolist(), ids.tolist()) == ([[0]] * 3, [[499], [500], [501]])
        distances, ids = resmem.search(rows[499:502], rows[:400], 1)
        wanted = oracle.search(rows[500:501], rows[:400], 1, wide=True)
        assert_same((distances[1:2], ids[1:2]), wanted)


def test_rows_of_a_memory_beyond_float32_are_named():
    rows = np.random.default_rng(22).random((300, 2))
    far = rows.copy()
    far[200] = 1e39
    mem = resmem.Memory(task="regression", k=1).fit(rows, np.zeros(300), np.zeros(300))
    with pytest.raises(ValueError, match=r"row 200 is beyond float32.*rescale all"):
        mem.kneighbors(far)
    with pytest.raises(ValueError, match="fit all rows again, with key_dtype='float64'"):
        mem.add(far, np.zeros(300), np.zeros(300))
    wide = resmem.Memory(task="regression", k=1).fit(far, np.zeros(300), np.arange(300.0))
    assert wide.predict(far, np.zeros(300)).tolist() == list(range(300))


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean", "inner_product"])
@pytest.mark.parametrize("scale", [1e-130, 1e-161, 1e-200, 1e-310])
def test_values_too_small_for_their_squares_are_refused(metric, scale):
    rows = np.random.default_rng(23).random((100, 4)) * scale
    with pytest.raises(ValueError, match=r"between 2.-400 and 2.480, got .*; rescale them"):
        resmem.search(rows[5:6], rows, 3, metric)
    with pytest.raises(ValueError, match=r"between 2.-400 and 2.480, got .*; rescale them"):
        resmem.Memory(task="regression").fit(rows, np.zeros(100), np.zeros(100))


def test_search_without_rounding_measures_no_neighbourhood(monkeypatch):
    def refuse(*args):
        raise AssertionError("rounding was looked at")

    monkeypatch.setattr(_search, "Neighbourhood", refuse)
    rows = np.random.default_rng(8).normal(size=(20, 3))
    for dtype in (np.float32, np.float16, np.int8, np.uint16):
        part = rows.astype(dtype)
        resmem.search(part, part, 2)


# ---- What is measured -------------------------------------------------------------------------


def test_errors_are_the_norms_of_roundings():
    rng = np.random.default_rng(9)
    points = rng.normal(size=(40, 7)) * 10.0 ** rng.integers(-60, 30, (40, 1))
    with np.errstate(over="ignore"):
        off = points - points.astype(np.float32)
    assert np.allclose(rounding_errors(points), np.sqrt(np.square(off).sum(axis=1)), rtol=1e-12)
    assert rounding_errors(np.array([[1e39, 0.0]])) == np.inf
    assert rounding_errors(np.array([[3.0, 2.0**-149]])) == 0


def test_rounding_is_measured_against_neighbour_distances():
    rows = 2.0**24 + np.arange(0, 200.0)[:, None]  # a step of 1, of which float32 holds every other
    around = Neighbourhood(rows, 200)
    assert np.quantile(around.steps, 0.5) == pytest.approx(3 / 7)
    assert around.error_ratio() == pytest.approx(2 / (ALLOWED_FRACTION * 3 / 7))
    assert around.error_ratio(rows[0]) == 0
    assert around.key_precision(may_shift=False).dtype == "float64"
    assert around.key_precision(may_shift=True).offset == 2.0**24 + 99
    assert Neighbourhood(rows, 2000).steps == pytest.approx(around.steps / 10)
    twice = Neighbourhood(np.concatenate([rows, rows]), 400)  # equal rows count once
    assert (twice.steps == around.steps).all()


def test_rounding_of_points_like_those_measured_is_allowed():
    rng = np.random.default_rng(10)
    for shape in ((3000, 5), (300, 100), (2, 1)):
        rows = rng.normal(size=shape)
        keeping = Neighbourhood(rows, len(rows)).key_precision(may_shift=True)
        assert (keeping.dtype, keeping.offset) == ("float32", None)
        assert np.median(rounding_errors(rng.normal(size=shape))) < keeping.allowed / 3


# ---- Memories ---------------------------------------------------------------------------------

SECONDS = 1.7e9 + np.random.default_rng(11).permutation(4000)[:300][:, None].astype(np.float64)
METRES = 6.378e6 * np.array([[0.6, 0.64, 0.48]]) + np.random.default_rng(12).normal(size=(300, 3))
FORMS = {"float32": False, "float64": True}  # the dtypes that "auto" chooses


def fitted(rows, **options):
    rng = np.random.default_rng(13)
    logits, targets = rng.normal(size=(len(rows), 3)).astype(np.float32), rng.integers(0, 3, 300)
    return resmem.Memory(k=4, **options).fit(rows, logits, targets), logits, targets


def form(mem):
    return mem.key_dtype, "offset" in mem._state.view.rows.preprocess.arrays


def test_memory_of_times_subtracts_an_offset_and_is_exact():
    mem, logits, targets = fitted(SECONDS)
    assert form(mem) == ("float32", True)
    wanted = oracle.search(SECONDS[:50], SECONDS, 4, wide=True)
    assert_same(mem.kneighbors(SECONDS[:50]), wanted)
    mem.add(SECONDS + 5000, logits, targets)
    assert_same(mem.kneighbors(SECONDS[:50]), wanted)


def test_memory_of_positions_keeps_float64_and_is_exact():
    cities = make_wide("on a sphere", 3, 300, 0, 3)[1]
    rows = np.concatenate([cities[:150], cities[:150] + 0.05])
    mem, logits, _ = fitted(rows)
    assert form(mem) == ("float64", False)
    queries = rows + np.random.default_rng(14).normal(size=rows.shape) * 0.01
    assert_same(mem.kneighbors(queries), oracle.search(queries, rows, 4, wide=True))
    again = oracle.OracleMemory(k=4, key_dtype="float64").fit(rows, logits, fitted(rows)[2])
    assert mem.sigma_ == again.sigma_
    same_bits(mem.correct(queries, logits), again.correct(queries, logits))


@pytest.mark.parametrize("rows", [SECONDS, np.concatenate([METRES, -METRES])[:300] * 1e3])
@pytest.mark.parametrize("how", ["file", "append", "npz", "safetensors", "pickle", "copy"])
def test_copies_and_files_keep_the_dtype_and_offset_of_keys(rows, how, tmp_path):
    mem, logits, targets = fitted(rows)
    assert form(mem) in (("float32", True), ("float64", False))
    if how == "append":
        mem.save(tmp_path / "m.resmem").add(rows[:20], logits[:20], targets[:20])
        mem.save(tmp_path / "m.resmem", append=True)
    elif how == "file":
        mem.remove([3]).save(tmp_path / "m.resmem")
    if how in ("pickle", "copy"):
        twin = pickle.loads(pickle.dumps(mem)) if how == "pickle" else copy.deepcopy(mem)
    elif how in ("npz", "safetensors"):
        mem.export(tmp_path / f"m.{how}")
        twin = resmem.Memory.load(tmp_path / f"m.{how}")
    else:
        twin = resmem.Memory.load(tmp_path / "m.resmem")
    assert form(twin) == form(mem)
    assert twin._state.view.rows.allowed == mem._state.view.rows.allowed
    same_bits(twin.correct(rows, logits), mem.correct(rows, logits))
    twin.add(rows[:9] + 0.25, logits[:9], targets[:9])
    mem.add(rows[:9] + 0.25, logits[:9], targets[:9])
    same_bits(twin.correct(rows, logits), mem.correct(rows, logits))


def test_float32_that_mixes_times_up_is_warned_of_with_advice():
    with pytest.warns(resmem.ResmemWarning, match=r"moves .* 10% of .*; use key_dtype='auto'"):
        mem, *_ = fitted(SECONDS, key_dtype="float32")
    assert form(mem) == ("float32", False)
    assert form(fitted(SECONDS, key_dtype="auto")[0]) == ("float32", True)  # without a warning


def test_head_store_of_times_advises_to_subtract_an_offset():
    head = np.zeros((3, 1), np.float32), None
    with pytest.warns(
        resmem.ResmemWarning, match="subtract an offset from the embeddings, of queries too"
    ):
        resmem.Memory(k=4, store="head", head=head).fit(SECONDS, None, np.zeros(300, int))
    resmem.Memory(k=4, store="head", head=head).fit(SECONDS - SECONDS[0], None, np.zeros(300, int))


def test_far_rows_are_refused_and_far_queries_warned_of():
    mem, logits, targets = fitted(SECONDS)
    later = SECONDS * 1.01 + 0.3  # half a year later
    with pytest.raises(ValueError, match="fit all rows again, with key_dtype='float64'"):
        mem.add(later, logits, targets)
    assert len(mem) == 300
    for call in (mem.kneighbors, mem.correction):
        with pytest.warns(resmem.ResmemWarning, match="again with key_dtype='float64'"):
            call(later)
    both = np.concatenate([SECONDS, later])
    twin = resmem.Memory(k=4, key_dtype="float64")
    twin.fit(both, np.tile(logits, (2, 1)), np.tile(targets, 2))
    twin.add(later + 0.125, logits, targets)
    assert (twin.kneighbors(later)[0][:, 0] == 0).all()


def test_rows_that_lie_denser_than_those_of_fit_are_refused():
    year = np.linspace(1.7e9, 1.73e9, 200)[:, None]
    mem = resmem.Memory(task="regression", k=1).fit(year, np.zeros(200), np.zeros(200))
    dense = 1.71e9 + np.arange(5000.0)[:, None]
    with pytest.raises(ValueError, match="fit all rows again"):
        mem.add(dense, np.zeros(5000), np.arange(5000.0))
    both, values = np.concatenate([year, dense]), np.arange(5200.0)
    mem.fit(both, np.zeros(5200), values)
    assert (mem.predict(both, np.zeros(5200)) == values).all()


def test_rows_added_one_by_one_are_measured_only_sometimes(monkeypatch):
    rows = np.random.default_rng(29).random((900, 3))
    mem = resmem.Memory(task="regression", k=1).fit(rows[:300], np.zeros(300), np.arange(300.0))
    measured = []

    def counted(*arguments):
        measured.append(arguments)
        return Neighbourhood(*arguments)

    monkeypatch.setattr(ingest, "Neighbourhood", counted)
    for at in range(300, 900):
        mem.add(rows[at : at + 1], [0.0], [float(at)])
    assert 10 < len(measured) <= 64
    assert (mem.predict(rows, np.zeros(900)) == np.arange(900)).all()
    with pytest.raises(ValueError, match="fit all rows again"):
        mem.add(rows[:2] + 1e7, np.zeros(2), np.zeros(2))


def test_row_that_rounds_to_a_stored_row_is_refused():
    rows = np.concatenate([np.arange(300.0), [1.7e9]])[:, None]
    mem = resmem.Memory(task="regression", k=1).fit(rows, np.zeros(301), np.zeros(301))
    with pytest.raises(ValueError, match="fit all rows again"):
        mem.add([[1.7e9 + 1]], [0.0], [1.0])


@pytest.mark.parametrize("scale", [1, 1e3])
def test_rows_equal_to_stored_rows_are_added(scale):
    rows = np.random.default_rng(24).normal(size=(700, 5)) * scale
    for each in (rows, np.concatenate([METRES, -METRES])[:300] * 1e3):
        n = len(each)
        mem = resmem.Memory(task="regression", k=1).fit(each, np.zeros(n), np.arange(float(n)))
        assert mem.key_dtype == "float32"
        mem.add(each, np.zeros(n), np.arange(float(n)))
        mem.add(each[:20], np.zeros(20), np.arange(20.0))
        assert (mem.predict(each, np.zeros(n)) == np.arange(n)).all()


def test_repeated_times_are_told_apart():
    for n in (100, 300):
        rows, values = np.repeat(1.7e9 + np.arange(n), 10)[:, None], np.repeat(np.arange(n), 10)
        mem = resmem.Memory(task="regression", k=1).fit(rows, np.zeros(10 * n), values)
        assert (mem.predict(rows, np.zeros(10 * n)) == values).all()
        assert (resmem.search(rows, rows, 1)[0] == 0).all()


def test_memory_of_mostly_whole_numbers_is_saved_and_loaded(tmp_path):
    rows = np.random.default_rng(25).integers(0, 1000, (2000, 2)).astype(float)
    rows[::14] += 0.1
    mem = resmem.Memory(task="regression", k=3).fit(rows, np.zeros(2000), np.arange(2000.0))
    mem.save(tmp_path / "m.resmem")
    mem.export(tmp_path / "m.npz")
    for name in ("m.resmem", "m.npz"):
        assert resmem.Memory.load(tmp_path / name).info()["allowed"] == mem.info()["allowed"]


FAR = np.concatenate([1.7e9 * i + np.arange(100.0) for i in range(1, 6)])[:, None]


def test_settings_without_a_key_dtype_keep_float64():
    mem = resmem.Memory(task="regression", k=1).fit(FAR, np.zeros(500), np.arange(500.0))
    assert form(mem) == ("float64", False)
    mem.use(resmem.Settings(1, 1.0, 1.0, 1.0))
    assert form(mem) == ("float64", False)
    assert (mem.kneighbors(FAR)[1][:, 0] == np.arange(500)).all()


def test_queries_are_still_measured_after_use():
    mem, _, _ = fitted(SECONDS)
    mem.use(dataclasses.replace(mem.settings, k=2, key_dtype="auto"))
    assert not warnings_of(mem.kneighbors, SECONDS[:5])
    assert any(
        "fit the memory again" in each for each in warnings_of(mem.kneighbors, SECONDS * 1.01 + 0.3)
    )


def test_tuning_of_a_float64_memory_tries_pca_as_float32():
    rows = np.hstack([FAR, np.random.default_rng(26).random((500, 1))])
    mem = resmem.Memory(task="regression", k=1).fit(rows, np.zeros(500), np.sin(FAR[:, 0]))
    assert mem.key_dtype == "float64"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so small a grid has its best at an edge
        result = mem.tune(
            rows[:90] + 0.1, np.zeros(90), np.sin(FAR[:90, 0]), preprocess=["none", "pca:1"],
            k=[1, 2], apply=False,
        )  # fmt: skip
    kinds = set(zip(result.table["preprocess"], result.table["key_dtype"], strict=True))
    assert kinds == {("none", "float64"), ("pca:1", "float32")}


def test_tiny_rows_join_a_float64_memory_of_ordinary_ones():
    mem = resmem.Memory(task="regression", k=1, key_dtype="float64")
    mem.fit(np.random.default_rng(27).random((50, 2)), np.zeros(50), np.zeros(50))
    mem.add([[1e-150, 0.0]], [0.0], [1.0])
    assert mem.predict([[0.0, 0.0]], [0.0]).tolist() == [1]


def test_advice_for_a_head_gives_the_same_base():
    rng = np.random.default_rng(28)
    weight, bias = rng.normal(size=(3, 1)) / 1e9, rng.normal(size=3)
    base = resmem.Memory(k=4, store="head", head=(weight, bias), strength=0)
    said = warnings_of(lambda: base.fit(SECONDS, None, np.zeros(300, int)))
    assert any("add weight @ offset to the bias" in each for each in said)
    offset = SECONDS[0]
    cured = resmem.Memory(k=4, store="head", head=(weight, bias + weight @ offset), strength=0)
    assert not warnings_of(lambda: cured.fit(SECONDS - offset, None, np.zeros(300, int)))
    wanted = base.predict_proba(SECONDS)
    assert np.allclose(cured.predict_proba(SECONDS - offset), wanted, atol=1e-6)


def test_fit_chooses_the_key_dtype_anew():
    mem, logits, targets = fitted(SECONDS)
    ordinary = np.random.default_rng(15).normal(size=(300, 1))
    assert form(mem.fit(ordinary, logits, targets)) == ("float32", False)
    assert form(mem.fit(METRES[:, :1] * 1e6, logits, targets))[0] in FORMS
    assert resmem.Memory().key_dtype == "auto"


@pytest.mark.parametrize("preprocess", ["center", "standardize", "unit", "pca:1", "whiten:1"])
def test_preprocess_is_computed_from_float64_embeddings(preprocess):
    mem = fitted(np.hstack([SECONDS, SECONDS[::-1]]), preprocess=preprocess)[0]
    rows = np.hstack([SECONDS, SECONDS[::-1]])
    made_by = mem._state.view.rows.preprocess
    wanted = oracle.preprocess(rows, preprocess, made_by.arrays, made_by.wide)
    same_bits(np.concatenate([s["keys"] for s in mem._state.view.rows.segments]), wanted)
    if preprocess == "center":
        apart = mem.kneighbors(rows[:50])[0]
        assert np.allclose(apart, oracle.search(rows[:50], rows, 4, wide=True)[0], atol=1e-6)


def test_rekeying_uses_the_original_embeddings():
    rows = np.hstack([SECONDS, SECONDS[::-1]])
    mem, logits, _ = fitted(rows)
    assert form(mem) == ("float32", True)
    mem.use(dataclasses.replace(mem.settings, preprocess="center"))
    direct = fitted(rows, preprocess="center")[0]
    same_bits(mem.correct(rows, logits), direct.correct(rows, logits))
    for dtype in ("float64", "float32"):
        mem = fitted(rows)[0]
        mem.use(dataclasses.replace(mem.settings, key_dtype=dtype))
        assert form(mem) == (dtype, True)
        assert_same(mem.kneighbors(rows[:40]), oracle.search(rows[:40], rows, 4, wide=True))


def test_float64_memories_tune_evaluate_and_explain():
    rng = np.random.default_rng(16)
    place = rng.normal(size=(900, 2)) * 3
    rows, logits = place * 1e-3 + 1e7, rng.normal(size=(900, 2)).astype(np.float32)
    targets = (np.sin(place[:, 0] * 2) > 0).astype(np.int64)
    mem = resmem.Memory(k=5, key_dtype="float64").fit(rows[:500], logits[:500], targets[:500])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so small a grid has its best at an edge
        result = mem.tune(rows[500:], logits[500:], targets[500:], k=[2, 5], temperature=1.0)
    assert result.useful
    assert mem.key_dtype == "float64"
    evaluation = mem.evaluate(rows[500:], logits[500:], targets[500:])
    assert evaluation.methods[-1].scores["accuracy"] > 0.75
    explained = mem.explain(rows[500:503], logits[500:503])
    assert_same((explained.distances, explained.ids), mem.kneighbors(rows[500:503]))


def test_large_integer_targets_are_predicted_exactly():
    rows, values = np.arange(4.0)[:, None], np.array([16777217, 33554433, 2**52 + 1, 3])
    mem = resmem.Memory(task="regression", k=1).fit(rows, np.zeros(4), values)
    assert mem.predict(rows, np.zeros(4)).tolist() == values.tolist()


def test_large_logits_keep_their_differences():
    logits = np.array(
        [[-1e6 + 1, -1e6 + 1.25, -1e6], [3e9, 3e9 + 0.5, 3e9 - 1], [0.5, 0.25, -np.inf]]
    )
    rows = np.arange(3.0)[:, None]
    mem = resmem.Memory(k=1, strength=0).fit(rows, logits, [0, 1, 0])
    shifted = logits - logits.max(axis=1, keepdims=True)
    wanted = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    assert np.allclose(mem.correct(rows, logits), wanted, rtol=1e-6)
    same_bits(
        mem.correct(rows[2:], logits[2:]), oracle.softmax(logits[2:])
    )  # small logits are unchanged


def test_probabilities_below_float32_do_not_become_impossible():
    chances = np.array([[1e-60, 1 - 1e-60], [0.0, 1.0]])
    mem = resmem.Memory(k=1, output_kind="probabilities", strength=0)
    mem.fit([[0.0], [1.0]], chances, [1, 1])
    assert mem.correct([[0.0], [1.0]], chances)[:, 0].tolist() == [2.0**-149, 0]
