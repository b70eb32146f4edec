"""A query asks only the rows that it may see, with the bits of a search of these alone."""

from __future__ import annotations

import datetime
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
import resmem
from cases import ISAS, METRICS, STORED, as_stored, assert_same, make, max_abs, same_bits
from resmem import _core
from resmem._rows.attributes import times_of

D = 5
COMPONENT = st.sampled_from([None, 0.0, 0.02, 0.3, 0.7, 1.0])  # share of the rows


def indexed(keys, kind, largest, metric):
    """Return an index of the keys; None where the kind serves no such search."""
    some = _core.Segment(keys, None, 0, None, largest)
    if len(keys) == 0 or kind == "none":
        return None
    if kind == "cascade" and metric != "sqeuclidean":
        return _core.Cascade(some, D, 4, 3, True, metric=metric)
    return _core.Tree(some, D, leaf=4) if "euclidean" in metric else None


@given(
    seed=st.integers(0, 2**31),
    sizes=st.lists(st.integers(0, 90), min_size=1, max_size=4),
    metric=st.sampled_from(METRICS),
    index=st.sampled_from(["none", "cascade", "tree"]),
    k=st.sampled_from([1, 7, 60]),
    q=st.sampled_from([1, 5, 20]),
    family=st.sampled_from(["gaussian", "integers", "duplicates", "one ulp"]),
    among=COMPONENT,
    grouped=st.sampled_from([0, 1, 20]),
    timed=st.booleans(),
    removed=st.sampled_from([0.0, 0.3]),
    excluded=st.sampled_from([0, 2]),
    threads=st.sampled_from([1, 3]),
)
def test_queries_see_what_the_oracle_says(
    seed, sizes, metric, index, k, q, family, among, grouped, timed, removed, excluded, threads
):
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    queries, rows = make(family, seed, n, q, D)
    ids = rng.permutation(10 * n)[:n].astype(np.int64)
    alive = rng.random(n) >= removed
    times, groups = rng.integers(-20, 20, n), rng.integers(-1, 9, n)
    segments, start = [], 0
    for number, size in enumerate(sizes):
        part = slice(start, start + size)
        keys, rows[part] = as_stored(rows[part], STORED[number % 3])
        # The segments of one search have groups or lack them.
        of_groups = groups[part] if number % 2 == 0 else None
        if of_groups is None:
            groups[part] = -1
        died = (~alive[part]).astype(np.int64)
        largest = max_abs(rows[part])
        segment = _core.Segment(
            keys, ids[part], 0, died, largest, times=times[part], groups=of_groups
        )
        covered = int(rng.integers(0, size + 1))
        segments.append(segment.with_index(indexed(keys[:covered], index, largest, metric)))
        start += size
    before = rng.integers(-21, 21, q) if timed else None
    lists = rng.integers(-1, 9, (q, grouped)) if grouped else None
    exclude = rng.choice(np.append(ids, -1), (q, excluded)).astype(np.int64) if excluded else None
    some = None if among is None else np.flatnonzero(rng.random(n) < among)
    seen = oracle.visible(
        q, n, groups=groups, exclude_groups=lists, times=times, before=before, among=some
    )
    wanted = oracle.search(queries, rows, k, metric, ids, exclude, alive, seen=seen)
    for isa in ISAS:
        got = _core.search(
            queries, max_abs(queries), segments, k, metric, exclude, 1,
            exclude_groups=lists, before=before, among=some,
            execution=_core.Execution(threads, isa),
        )  # fmt: skip
        assert_same(got, wanted, isa)
        found = got[2] >= 0
        assert np.array_equal(ids[got[2][found]], got[1][found])


@given(seed=st.integers(0, 2**31), metric=st.sampled_from(METRICS), among=COMPONENT)
def test_float64_rows_are_seen_as_the_oracle_says(seed, metric, among):
    rng = np.random.default_rng(seed)
    rows, queries = 1e9 + rng.standard_normal((60, 3)), 1e9 + rng.standard_normal((9, 3))
    times, before = rng.integers(0, 9, 60), rng.integers(0, 9, 9)
    some = None if among is None else np.flatnonzero(rng.random(60) < among)
    seen = oracle.visible(9, 60, times=times, before=before, among=some)
    wanted = oracle.search(queries, rows, 5, metric, wide=True, seen=seen)
    segment = _core.Segment(rows, largest=max_abs(rows), times=times)
    got = _core.search(queries, max_abs(queries), [segment], 5, metric, before=before, among=some)
    assert_same(got, wanted)


@pytest.mark.parametrize("strategy", ["by_queries", "by_rows", "stream", "exact"])
def test_every_path_sees_the_same_rows(strategy):
    rng = np.random.default_rng(5)
    queries, rows = make("gaussian", 5, 900, 30, 8)
    times, groups = rng.integers(0, 50, 900), rng.integers(0, 9, 900)
    before, lists = rng.integers(0, 50, 30), rng.integers(-1, 9, (30, 2))
    for share in (0.05, 0.9):
        some = np.flatnonzero(rng.random(900) < share)
        seen = oracle.visible(
            30, 900, groups=groups, exclude_groups=lists, times=times, before=before, among=some
        )
        wanted = oracle.search(queries, rows, 6, seen=seen)
        segment = _core.Segment(rows, largest=max_abs(rows), times=times, groups=groups)
        got = _core.search(
            queries, max_abs(queries), [segment], 6, "euclidean",
            exclude_groups=lists, before=before, among=some,
            forced=_core.ForcedPlan(strategy=strategy),
        )  # fmt: skip
        assert_same(got, wanted, share)
        assert got[3]["strategy"] == strategy


def test_few_rows_are_copied_and_many_are_masked():
    queries, rows = make("gaussian", 6, 40_000, 20, 16)
    segment = [_core.Segment(rows, largest=max_abs(rows))]
    for among, gathered in ((np.arange(0, 40_000, 100), 400), (np.arange(39_999), 0)):
        stats = _core.search(queries, max_abs(queries), segment, 5, "euclidean", among=among)[3]
        assert stats["rows_gathered"] == gathered


def test_copies_of_many_rows_are_made_part_by_part():
    # 12,000 rows of 400 numbers are copied in three parts of at most 8 MiB.
    queries, rows = make("gaussian", 7, 24_000, 30, 400)
    among = np.arange(0, 24_000, 2)
    segments = [
        _core.Segment(part, first_id=first, largest=max_abs(part))
        for first, part in ((0, rows[:9_000]), (9_000, rows[9_000:]))
    ]
    got = _core.search(queries, max_abs(queries), segments, 9, "euclidean", among=among)
    assert got[3]["rows_gathered"] == 12_000
    alone = [_core.Segment(rows[among], largest=max_abs(rows))]
    values, ids, _, _ = _core.search(queries, max_abs(queries), alone, 9, "euclidean")
    assert_same(got, (values, among[ids]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"among": np.array([3, 2])}, "ascending"),
        ({"among": np.array([2, 2])}, "ascending"),
        ({"among": np.array([9])}, "positions of rows"),
        ({"among": np.array([-1])}, "positions of rows"),
        ({"among": np.array([[1]])}, r"\(m,\)"),
        ({"before": np.array([1])}, r"before must be \(q,\)"),
        ({"exclude_groups": np.array([1])}, r"must be \(q, m\)"),
    ],
)
def test_the_core_refuses_what_is_no_visibility(changes, message):
    rows = np.zeros((9, 2), np.float32)
    numbers = np.arange(9)
    segment = _core.Segment(rows, times=numbers, groups=numbers)
    with pytest.raises(ValueError, match=message):
        _core.search(rows[:2], 0.0, [segment], 1, "euclidean", **changes)


def test_the_core_needs_times_for_before():
    rows = np.zeros((9, 2), np.float32)
    with pytest.raises(ValueError, match="needs rows with times"):
        _core.search(rows[:2], 0.0, [_core.Segment(rows)], 1, "euclidean", before=np.zeros(2, int))


# ---- Memories ----------------------------------------------------------------------------------

STORES = [
    {}, {"store": "sparse:2"}, {"task": "regression"}, {"method": "targets", "strength": 0.4},
    {"key_dtype": "float16", "residual_dtype": "float16"}, {"preprocess": "standardize"},
    {"key_dtype": "float64"}, {"gate": "agreement: 0.2 to 0.5, 1.0 beyond"},
]  # fmt: skip


def data(rng, n, task):
    embeddings = rng.standard_normal((n, D))
    outputs = rng.standard_normal((n, 3))
    return embeddings, outputs, rng.integers(0, 3, n) if task != "regression" else outputs[::-1]


@pytest.mark.parametrize("settings", STORES)
def test_some_rows_correct_like_a_memory_of_them(settings):
    rng = np.random.default_rng(11)
    task = settings.get("task")
    rows, queries = data(rng, 400, task), data(rng, 30, task)[:2]
    times, groups = rng.integers(0, 9, 400), np.arange(400) % 7
    mem = resmem.Memory(k=7, sigma=1.0, **settings).fit(*rows, times=times, groups=groups)
    some = np.flatnonzero((times < 6) & (groups != 2) & (np.arange(400) % 3 > 0))
    subset = resmem.Memory(k=7, sigma=1.0, **settings)
    subset.fit(*(part[some] for part in rows), ids=some)
    # What was fitted to all rows is no matter of whom a query asks.
    view = subset._state.view
    fitted = mem._state.view.fitted_rows.preprocess
    if settings.get("preprocess"):
        gone = np.setdiff1d(np.arange(400), some)
        subset = resmem.Memory(k=7, sigma=1.0, **settings).fit(*rows).remove(gone)
    else:
        assert view.fitted_rows.preprocess.method == fitted.method
    asks = {
        "among": np.flatnonzero(np.arange(400) % 3 > 0),
        "before": np.full(30, 6),
        "exclude_groups": np.full(30, 2),
    }
    same_bits(mem.correct(*queries, **asks), subset.correct(*queries))
    same_bits(mem.predict(*queries, **asks), subset.predict(*queries))
    same_bits(mem.correction(queries[0], **asks), subset.correction(queries[0]))
    for got, wanted in zip(
        mem.kneighbors(queries[0], **asks), subset.kneighbors(queries[0]), strict=True
    ):
        same_bits(got, wanted)
    same_bits(mem.explain(*queries, **asks).ids, subset.explain(*queries).ids)


def test_tuning_and_evaluation_ask_the_same_rows():
    rng = np.random.default_rng(12)
    rows, fresh = data(rng, 300, None), data(rng, 80, None)
    groups = np.arange(300) % 5
    mem = resmem.Memory(k=7, sigma=1.0).fit(*rows, groups=groups)
    subset = resmem.Memory(k=7, sigma=1.0).fit(*(part[groups < 4] for part in rows))
    grid = {"k": [1, 5], "sigma": [0.5, 2.0], "temperature": 1.0, "apply": False, "folds": 4}
    options = {"exclude_groups": np.full(80, 4)}
    got, wanted = mem.tune(*fresh, **grid, **options), subset.tune(*fresh, **grid)
    # The mean residual is of all rows in both, so only what neighbours make is compared.
    assert got.table["score"].tolist() == wanted.table["score"].tolist()
    assert got.scores["kNN alone"] == wanted.scores["kNN alone"]
    of_some, of_all = mem.evaluate(*fresh, **options), subset.evaluate(*fresh)
    assert of_some.methods[-1].scores == of_all.methods[-1].scores
    allowed = mem.calibrate(*fresh, **options)
    same_bits(allowed.scores, subset.calibrate(*fresh).scores)
    same_bits(
        mem.predict_set(*fresh[:2], allowed, **options),
        subset.predict_set(*fresh[:2], subset.calibrate(*fresh)),
    )
    nearest = mem.kneighbors(fresh[0], k=1, **options)[0]
    farther = nearest > mem.kneighbors(fresh[0], k=1)[0]
    usual = mem.novelty(fresh[0])
    unusual = mem.novelty(fresh[0], **options)
    assert (unusual <= usual).all()
    assert (unusual[farther[:, 0]] < usual[farther[:, 0]]).any()


def twins(rng):
    """Return rows of which each has a twin in its group, and which teach nothing else."""
    embeddings = np.repeat(rng.standard_normal((200, D)), 2, axis=0)
    embeddings += 1e-3 * rng.standard_normal(embeddings.shape)
    return embeddings, np.zeros((400, 2)), np.repeat(rng.integers(0, 2, 200), 2)


@pytest.mark.filterwarnings("ignore:tune:UserWarning")
def test_left_out_rows_ask_no_twin_of_their_own_group():
    rng = np.random.default_rng(13)
    mem = resmem.Memory(k=1, sigma=1.0).fit(*twins(rng), groups=np.repeat(np.arange(200), 2))
    grid = {"k": 1, "sigma": 1.0, "temperature": 1.0, "loo": True, "apply": False}
    assert mem.tune(**grid).useful
    apart = mem.tune(**grid, exclude_groups="own")
    assert not apart.useful
    assert apart.rows == 400
    leaks = mem.evaluate(loo=True).methods[-1].scores["accuracy"]
    honest = mem.evaluate(loo=True, exclude_groups="own")
    assert (leaks > 0.99) & (honest.methods[-1].scores["accuracy"] < 0.65)
    assert len(honest.by_group) == 200  # the intervals take the groups as independent


def test_own_rows_without_a_group_are_each_a_group():
    rng = np.random.default_rng(20)
    mem = resmem.Memory(k=1, sigma=1.0).fit(*data(rng, 40, None), groups=np.arange(40) // 4)
    mem.add(*data(rng, 6, None))
    judged = mem.evaluate(loo=True, exclude_groups="own")
    assert len(judged.by_group) == 10 + 6


@pytest.mark.filterwarnings("ignore:tune:UserWarning")
def test_left_out_rows_ask_no_later_row():
    rng = np.random.default_rng(14)
    embeddings, outputs, targets = twins(rng)
    # Twins have one time, so that neither is known before the other.
    mem = resmem.Memory(k=1, sigma=1.0)
    mem.fit(embeddings, outputs, targets, times=np.repeat(np.arange(200), 2))
    assert mem.evaluate(loo=True).methods[-1].scores["accuracy"] > 0.99
    assert mem.evaluate(loo=True, before="own").methods[-1].scores["accuracy"] < 0.65
    grid = {"k": 1, "sigma": 1.0, "temperature": 1.0, "loo": True, "apply": False}
    assert not mem.tune(**grid, before="own").useful


def test_rows_are_asked_by_mask_or_by_ids_alike():
    rng = np.random.default_rng(15)
    mem = resmem.Memory(k=3, sigma=1.0).fit(*data(rng, 50, None), ids=np.arange(100, 150))
    mem.remove([105, 120])
    mask = rng.random(48) < 0.5
    living = np.setdiff1d(np.arange(100, 150), [105, 120])
    queries = data(rng, 9, None)[0]
    by_mask = mem.kneighbors(queries, among=mask)
    by_ids = mem.kneighbors(queries, among=rng.permutation(np.repeat(living[mask], 2)))
    for one, other in zip(by_mask, by_ids, strict=True):
        same_bits(one, other)
    assert (mem.kneighbors(queries, among=[])[1] == -1).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32, "datetime64[s]"])
def test_times_keep_their_order_and_ties(dtype):
    rng = np.random.default_rng(16)
    values = rng.integers(-9, 9, 60)
    times = (values / 4 if np.dtype(dtype).kind == "f" else values).astype(dtype)
    rows = rng.standard_normal((60, 2))
    mem = resmem.Memory(k=60, sigma=1.0).fit(
        rows, np.zeros((60, 2)), np.zeros(60, int), times=times
    )
    found = mem.kneighbors(rows[:20], before=times[:20])[1]
    for query, ids in enumerate(found):
        assert sorted(ids[ids >= 0]) == np.flatnonzero(values < values[query]).tolist()
    same_bits(mem.kneighbors(rows[:1], before=times[0])[1], found[:1])  # one time for all


@given(st.lists(st.floats(allow_nan=False), min_size=2, max_size=20))
def test_float_times_are_ordered_like_their_values(values):
    numbers, kind = times_of(np.array(values), "times")
    assert kind == "floats"
    order = np.sign(np.subtract.outer(numbers.astype(object), numbers.astype(object)))
    expected = [[(a > b) - (a < b) for b in values] for a in values]
    assert order.tolist() == expected


def test_rows_that_come_later_have_times_and_groups_too(tmp_path):
    rng = np.random.default_rng(17)
    mem = resmem.Memory(k=5, sigma=1.0)
    first, later, last = (data(rng, n, None) for n in (30, 20, 10))
    day, one = np.datetime64("2026-01-01"), np.timedelta64(1, "D")
    mem.fit(*first, times=np.repeat(day, 30))  # no groups
    mem.save(tmp_path / "m")
    mem.add(*later, times=np.repeat(day + one, 20), groups=np.arange(20))
    mem.add(*last, times=np.repeat(day + 2 * one, 10))
    queries = later[0][:20]
    asks = {"before": np.repeat(day + 2 * one, 20), "exclude_groups": np.arange(20)}
    found = mem.kneighbors(queries, k=60, **asks)[1]
    assert (found.max(axis=1) < 50).all()
    assert not (found == 30 + np.arange(20)[:, None]).any()
    assert ((found >= 0).sum(axis=1) == 49).all()
    mem.save(tmp_path / "m", append=True)
    for other in (
        resmem.Memory.load(tmp_path / "m"),
        resmem.Memory.load(mem.export(tmp_path / "m.npz") and tmp_path / "m.npz"),
        pickle.loads(pickle.dumps(mem)),
    ):
        same_bits(other.kneighbors(queries, k=60, **asks)[1], found)
        with pytest.raises(ValueError, match="times must be datetimes"):
            other.add(*last)


def test_dates_of_pandas_and_python_are_times():
    pandas = pytest.importorskip("pandas")
    rows = np.zeros((3, 2))
    times = pandas.Series(pandas.date_range("2026-01-01", periods=3))
    mem = resmem.Memory(k=3, sigma=1.0).fit(rows, rows, np.zeros(3, int), times=times)
    cut = np.datetime64(datetime.datetime(2026, 1, 2, 12))
    assert (mem.kneighbors(rows[:1], before=cut)[1] >= 0).sum() == 2


def test_compaction_keeps_what_rows_were_given():
    rng = np.random.default_rng(18)
    mem = resmem.Memory(k=5, sigma=1.0).fit(*data(rng, 40, None), groups=np.arange(40))
    mem.remove(np.arange(0, 38))
    mem.add(*data(rng, 40, None), groups=np.arange(40))
    mem._state._compactor.join()
    assert len(mem._state.view.rows.segments[0]) == 2  # the removed rows are gone
    queries = data(rng, 5, None)[0]
    found = mem.kneighbors(queries, k=42, exclude_groups=np.full((5, 2), [38, 39]))[1]
    assert not np.isin(found, [38, 39, 78, 79]).any()
    assert ((found >= 0).sum(axis=1) == 38).all()


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.sampled_from([1, 9, 30]))
def test_bits_stand_for_positions(mask, q):
    queries, rows = make("gaussian", 3, len(mask), q, 3)
    segments = [
        _core.Segment(part, first_id=first, largest=max_abs(part))
        for first, part in ((0, rows[:7]), (7, rows[7:]))
    ]
    chosen = np.flatnonzero(mask), np.packbits(mask, bitorder="little")
    by_position, by_bit = (
        _core.search(queries, max_abs(queries), segments, 4, "euclidean", among=among)
        for among in chosen
    )
    assert_same(by_bit, by_position)


@pytest.mark.parametrize(
    ("bits", "message"),
    [(np.zeros(1, np.uint8), "all rows"), (np.array([0, 2], np.uint8), "more than the rows")],
)
def test_bits_of_other_rows_are_refused(bits, message):
    rows = np.zeros((9, 2), np.float32)
    with pytest.raises(ValueError, match=message):
        _core.search(rows[:2], 0.0, [_core.Segment(rows)], 1, "euclidean", among=bits)


# ---- Rows by id --------------------------------------------------------------------------------


def test_get_returns_what_rows_were_given():
    rng = np.random.default_rng(31)
    days = np.datetime64("2026-03-01T12", "ns") + np.arange(20)
    mem = resmem.Memory(k=5, sigma=1.0).fit(
        *data(rng, 20, None), times=days, sample_weight=np.arange(1, 21)
    )
    mem.add(*data(rng, 5, None), times=days[:5], groups=np.arange(5))
    rows = mem.get([3, 22, 3])
    same_bits(rows.attributes["times"], days[[3, 2, 3]])
    same_bits(rows.attributes["weights"], np.array([4.0, 1.0, 4.0]))
    assert rows.attributes["groups"].tolist() == [-1, 2, -1]
    for times in (np.array([-0.5, 0.0, 2.5]), np.array([3, -1, 2])):
        mem = resmem.Memory(k=5, sigma=1.0).fit(*data(rng, 3, None), times=times)
        same_bits(mem.get([0, 1, 2]).attributes["times"], times)


def test_updated_rows_get_new_times_and_groups():
    rng = np.random.default_rng(32)
    mem = resmem.Memory(k=30, sigma=1.0)
    mem.fit(*data(rng, 20, None), times=np.arange(20), groups=np.arange(20))
    mem.update([4, 7], *data(rng, 2, None), times=[100, 101], groups=[50, 51])
    query = data(rng, 1, None)[0]
    assert {4, 7} & set(mem.kneighbors(query, before=100)[1][0]) == set()
    assert 4 in mem.kneighbors(query, before=101, exclude_groups=[4])[1][0]
    assert 4 not in mem.kneighbors(query, exclude_groups=[50])[1][0]
    mem.update([5], *data(rng, 1, None), times=[0], sample_weight=[0])
    assert len(mem) == 19
    assert 5 not in mem.kneighbors(query)[1][0]


def test_merged_memories_keep_what_rows_were_given():
    rng = np.random.default_rng(33)
    rows, times, own = data(rng, 40, None), np.arange(40), rng.random(40) + 0.5
    groups = np.where(np.arange(40) < 20, -1, np.arange(40))
    whole = resmem.Memory(k=9, sigma=1.0)
    whole.fit(*rows, times=times, groups=groups, sample_weight=own)
    first, later = (
        resmem.Memory(k=9, sigma=1.0).fit(
            *(part[some] for part in rows), ids=np.arange(40)[some], times=times[some],
            groups=of_groups, sample_weight=own[some],
        )
        for some, of_groups in ((slice(0, 20), None), (slice(20, 40), groups[20:]))
    )  # fmt: skip
    first.merge(later)
    queries = data(rng, 10, None)[:2]
    asks = {"before": np.arange(20, 40, 2), "exclude_groups": np.arange(25, 35)}
    same_bits(first.correct(*queries, **asks), whole.correct(*queries, **asks))


@pytest.mark.parametrize("metric", METRICS)
def test_an_index_asks_only_the_rows_that_it_may(metric, tmp_path):
    rng = np.random.default_rng(34)
    rows, times, groups = rng.standard_normal((60, 3)), np.arange(60) % 9, np.arange(60) % 4
    index = resmem.Index(rows[:50], metric=metric, times=times[:50], groups=groups[:50])
    index.add(rows[50:], times=times[50:], groups=groups[50:])
    asks = {"before": 7, "exclude_groups": [[1]] * 5, "among": np.arange(60) % 5 > 0}
    some = np.flatnonzero((times < 7) & (groups != 1) & (np.arange(60) % 5 > 0))
    wanted = resmem.search(rows[:5], rows[some], 6, metric=metric)
    index.save(tmp_path / "i")
    for each in (index, resmem.Index.load(tmp_path / "i")):
        assert_same(each.search(rows[:5], 6, **asks), (wanted[0], some[wanted[1]]))
    index.update([0], rows[:1], times=[100], groups=[2])
    assert 0 not in index.search(rows[:1], 60, before=100)[1]


def test_updated_rows_keep_a_group_and_weight_left_out():
    rng = np.random.default_rng(35)
    rows = data(rng, 20, None)
    about = {"groups": np.arange(20) // 4, "sample_weight": np.arange(1, 21)}
    mem = resmem.Memory(k=20, sigma=1.0).fit(*rows, **about)
    read = mem.get([5, 0])
    mem.update([5, 0], read.embeddings, read.outputs, read.targets)
    assert mem.get([0, 5]).attributes["weights"].tolist() == [1, 6]
    assert not {0, 1, 2, 3} & set(mem.kneighbors(rows[0][:1], exclude_groups=[0])[1][0])
    mem.update([0], read.embeddings[1:], read.outputs[1:], read.targets[1:], groups=[9])
    assert 0 in mem.kneighbors(rows[0][:1], exclude_groups=[0])[1][0]
    index = resmem.Index(rows[0], groups=about["groups"])
    index.update([0], rows[0][:1])
    assert 0 not in index.search(rows[0][:1], 20, exclude_groups=[0])[1]
    with pytest.raises(ValueError, match="ids to update must be in the memory, 77 is not"):
        mem.update([77], *data(rng, 1, None))


def test_updated_rows_keep_a_group_that_earlier_versions_took():
    rows = np.eye(3)
    index = resmem.Index(rows, groups=[4, 4, 5])
    index._state.view.rows.segments[0]["groups"][:2] = -7  # which counted as none
    index.update([0], rows[:1])
    found = index.search(rows[:1], 3, exclude_groups=[4])[1]
    assert sorted(found[0]) == [0, 1, 2]


def test_another_published_memory_is_asked_among_its_rows():
    rng = np.random.default_rng(36)
    rows, fresh = data(rng, 80, None), data(rng, 40, None)
    mem = resmem.Memory(k=5, sigma=1.0).fit(*rows, groups=np.arange(80))
    few = resmem.Memory(k=5, sigma=1.0).fit(*(part[:60] for part in rows))
    scores = [
        mem.evaluate(*fresh, published=few, among=among).methods[-2].scores
        for among in (np.arange(70), np.arange(80) < 70)
    ]
    some = resmem.Memory(k=5, sigma=1.0).fit(*(part[:60] for part in rows))
    assert scores[0] == scores[1] == mem.evaluate(*fresh, published=some).methods[-2].scores
    with pytest.raises(ValueError, match=r"published, asked .*: exclude_groups needs"):
        mem.evaluate(*fresh, published=few, exclude_groups=np.zeros(40, int))


@pytest.mark.parametrize("kind", ["datetime", "date", "Timestamp"])
def test_before_takes_dates_of_python_and_pandas(kind):
    rng = np.random.default_rng(37)
    days = np.datetime64("2026-01-01") + np.arange(20)
    mem = resmem.Memory(k=20, sigma=1.0).fit(*data(rng, 20, None), times=days, groups=np.arange(20))
    moment = datetime.date(2026, 1, 5)
    if kind == "datetime":
        moment = datetime.datetime(2026, 1, 5)
    elif kind == "Timestamp":
        moment = pytest.importorskip("pandas").Timestamp("2026-01-05")
    found = mem.kneighbors(data(rng, 1, None)[0], before=moment, exclude_groups=2)[1][0]
    assert sorted(found[found >= 0]) == [0, 1, 3]
