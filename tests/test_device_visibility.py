"""On a device, too, a query asks only the rows that it may see, with the bits of the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
import resmem
from cases import METRICS, STORED, as_stored, assert_same, make
from resmem import _core
from resmem._devices import engine
from tested_device import DEVICE, Searched, examples

SHARE = st.sampled_from([None, 0.0, 0.02, 0.3, 0.7, 1.0])


@pytest.fixture(scope="session")
def device(tested):
    return Searched(tested.extension, tested.ordinal)


# ---- The search ----------------------------------------------------------------------------------


class Sighted:
    """Rows in segments, what hides some of them from queries, and what the oracle finds."""

    def __init__(self, rng, queries, rows, metric, sizes, share, grouped, timed, excluded, removed):
        self.rng, self.queries, self.rows, self.metric = rng, queries, rows, metric
        self.n, self.q, self.sizes = len(rows), len(queries), sizes
        self.ids = rng.permutation(10 * self.n + 1)[: self.n]
        self.died = np.where(rng.random(self.n) < removed, rng.choice([3, 5, 7], self.n), 0)
        self.times, self.groups = rng.integers(-20, 20, self.n), rng.integers(-1, 9, self.n)
        self.before = rng.integers(-21, 21, self.q) if timed else None
        self.lists = rng.integers(-1, 9, (self.q, grouped)) if grouped else None
        self.excluded = (
            rng.choice(np.append(self.ids, -1), (self.q, excluded)) if excluded else None
        )
        self.some = None if share is None else np.flatnonzero(rng.random(self.n) < share)

    def parts(self):
        ends = np.cumsum(self.sizes)
        return [slice(end - size, end) for end, size in zip(ends, self.sizes, strict=True)]

    def hold(self, device, stored, least_coded, devices=1, most_bytes=None):
        """Return the segments on devices in turn, of which every second one has no groups."""
        held = []
        for number, part in enumerate(self.parts()):
            groups = self.groups[part] if number % 2 == 0 else None
            if groups is None:
                self.groups[part] = -1
            made = device.rows(
                np.ascontiguousarray(stored[part]), self.metric, self.ids[part],
                least_coded=least_coded, times=None if self.before is None else self.times[part],
                groups=None if self.lists is None else groups, most_bytes=most_bytes,
                ordinal=number % devices if devices > 1 else None,
            )  # fmt: skip
            gone = np.flatnonzero(self.died[part])
            made.remove(gone, self.died[part][gone])
            held.append(made)
        return held

    def wanted(self, k, wide=False):
        alive = ~np.isin(self.died, (3, 5))
        seen = oracle.visible(
            self.q, self.n, groups=self.groups, exclude_groups=self.lists, times=self.times,
            before=self.before, among=self.some,
        )  # fmt: skip
        return oracle.search(
            self.queries, self.rows, k, self.metric, self.ids, self.excluded, alive, wide, seen
        )

    def among(self, as_bits):
        if self.some is None or not as_bits:
            return self.some
        mask = np.zeros(self.n, dtype=np.bool_)
        mask[self.some] = True
        return np.packbits(mask, bitorder="little")

    def search(self, device, held, k, as_bits, /, **forced):
        return device.search(
            self.queries, held, k, self.metric, excluded=self.excluded, version=5,
            exclude_groups=self.lists, before=self.before, among=self.among(as_bits), **forced,
        )  # fmt: skip


@examples(35)
@given(
    seed=st.integers(0, 2**31),
    sizes=st.lists(st.sampled_from([0, 9, 130, 300]), min_size=1, max_size=3),
    metric=st.sampled_from(METRICS),
    dtype=st.sampled_from(STORED),
    k=st.sampled_from([1, 7, 60]),
    q=st.sampled_from([1, 5, 20, 131]),
    family=st.sampled_from(["gaussian", "integers", "duplicates", "mixed norms"]),
    share=SHARE,
    as_bits=st.booleans(),
    listed=st.sampled_from([0, 1]),
    grouped=st.sampled_from([0, 1, 20]),
    timed=st.booleans(),
    excluded=st.sampled_from([0, 2]),
    removed=st.sampled_from([0.0, 0.3]),
    coded=st.booleans(),
    capacity=st.sampled_from([0, 40]),
    together=st.sampled_from([0, 7]),
)
def test_queries_on_the_device_see_what_the_oracle_says(
    device, tested, seed, sizes, metric, dtype, k, q, family, share, as_bits, listed, grouped,
    timed, excluded, removed, coded, capacity, together,
):  # fmt: skip
    rng = np.random.default_rng(seed)
    queries, rows = make(family, seed, sum(sizes), q, 9)
    stored, rows = as_stored(rows, dtype)
    case = Sighted(rng, queries, rows, metric, sizes, share, grouped, timed, excluded, removed)
    tested.shuffle(seed)
    held = case.hold(device, stored, 1 if coded else 10**6)
    found = case.search(
        device, held, k, as_bits, first_phase=128, capacity=capacity, queries=together,
        listed=listed,
    )  # fmt: skip
    assert_same(found[:2], case.wanted(k), (metric, dtype))
    there = found[1] >= 0
    assert np.array_equal(case.ids[found[2][there]], found[1][there])
    stats = found[3]
    pairs = stats["pairs_filtered"] + stats["pairs_streamed"]
    is_listed = case.some is not None and len(case.some) <= (listed or 1024)
    if is_listed:
        assert (pairs, stats["compared"]) == (0, q * len(case.some))
    elif coded:
        assert pairs == q * sum(size for size in sizes if size > 256 or size > 128 >= k)


@examples(10)
@given(
    seed=st.integers(0, 2**31),
    metric=st.sampled_from(METRICS),
    share=SHARE,
    q=st.sampled_from([4, 20]),
)
def test_float64_rows_on_the_device_are_seen_as_the_oracle_says(device, seed, metric, share, q):
    rng = np.random.default_rng(seed)
    rows, queries = 1e3 + rng.standard_normal((300, 5)), 1e3 + rng.standard_normal((q, 5))
    if metric == "cosine":
        queries, rows = (oracle.as_float64(x, metric) for x in (queries, rows))
    case = Sighted(rng, queries, rows, metric, [300], share, 2, True, 1, 0.2)
    found = case.search(device, case.hold(device, rows, 1), 6, True, first_phase=128, listed=1)
    assert_same(found[:2], case.wanted(6, wide=True), share)


@pytest.mark.parametrize("q", [5, 30], ids=["streamed", "tiles"])
@pytest.mark.parametrize("what", ["among", "before", "exclude_groups"])
def test_hidden_rows_enter_no_list_of_the_filter(device, q, what):
    """Every pair is compared by codes, and no list has a hit beyond the rows that are seen."""
    rng = np.random.default_rng(8)
    queries, rows = make("gaussian", 8, 900, q, 8)
    times, groups = rng.permutation(900), rng.integers(0, 9, 900)
    given = {
        "among": np.flatnonzero(rng.random(900) < 0.1),
        "before": np.full(q, 90),
        "exclude_groups": np.tile(np.arange(8), (q, 1)),
    }
    held = device.rows(rows, times=times, groups=groups)
    seen = oracle.visible(q, 900, groups=groups, times=times, **{what: given[what]})
    values, ids, _, stats = device.search(
        queries, [held], 6, first_phase=128, listed=1, **{what: given[what]}
    )
    assert_same((values, ids), oracle.search(queries, rows, 6, seen=seen), what)
    assert stats["pairs_streamed" if q <= 16 else "pairs_filtered"] == q * 900
    assert 0 < stats["hits"] <= seen.sum()
    assert (stats["given_up"], stats["compared"]) == (0, 0)


@pytest.mark.parametrize("q", [5, 30], ids=["streamed", "tiles"])
def test_queries_that_see_fewer_rows_than_they_look_for(device, q):
    """No phase finds a reach for them: all rows are hits, of which few or none are seen."""
    queries, rows = make("gaussian", 9, 900, q, 8)
    times, before = np.arange(900), np.arange(q) * 3
    seen = oracle.visible(q, 900, times=times, before=before)
    found = device.search(
        queries, [device.rows(rows, times=times)], 90, first_phase=128, before=before
    )
    assert_same(found[:2], oracle.search(queries, rows, 90, seen=seen), "few")
    assert found[3]["hits"] == before.sum()
    assert found[3]["given_up"] == 0


@pytest.mark.parametrize("q", [5, 17])
def test_lists_that_overflow_hide_the_same_rows(device, q):
    rng = np.random.default_rng(10)
    queries, rows = make("duplicates", 10, 300, q, 8)
    case = Sighted(rng, queries, rows, "euclidean", [300], 0.9, 2, True, 2, 0.1)
    held = case.hold(device, rows, 1)
    found = case.search(device, held, 9, False, first_phase=128, capacity=10, listed=1)
    assert_same(found[:2], case.wanted(9), "overflow")
    assert found[3]["given_up"] > 0


def test_few_rows_are_listed_and_many_are_filtered(device):
    queries, rows = make("gaussian", 11, 3000, 20, 8)
    held = [device.rows(rows[:1000]), device.rows(rows[1000:], first_id=1000)]
    for count, listed in ((0, True), (200, True), (1024, True), (1025, False), (2900, False)):
        some = np.sort(np.random.default_rng(count).permutation(3000)[:count])
        values, ids, positions, stats = device.search(queries, held, 5, among=some)
        seen = oracle.visible(20, 3000, among=some)
        assert_same((values, ids), oracle.search(queries, rows, 5, seen=seen), count)
        assert np.array_equal(positions, ids)
        wanted = (20 * count, 0) if listed else (0, 20 * 3000)
        assert (stats["compared"], stats["pairs_filtered"]) == wanted


def test_few_queries_and_listed_rows_are_shared_by_blocks(device):
    rng = np.random.default_rng(12)
    queries, rows = make("integers", 12, 5000, 2, 3)
    some = np.sort(rng.permutation(5000)[:4500])
    found = device.search(queries, [device.rows(rows)], 30, among=some, listed=4500)
    seen = oracle.visible(2, 5000, among=some)
    assert_same(found[:2], oracle.search(queries, rows, 30, seen=seen), "shares")
    assert found[3]["compared"] == 2 * 4500


def test_attributes_come_when_they_are_brought_and_grow(device):
    rng = np.random.default_rng(13)
    queries, rows = make("gaussian", 13, 700, 6, 5)
    times, groups = rng.integers(0, 9, 700), rng.integers(-1, 4, 700)
    held = device.rows(rows[:300])
    before, lists = np.arange(6) + 2, np.arange(6)[:, None] % 4
    alone = held.nbytes
    with pytest.raises(ValueError, match="times were brought"):
        device.search(queries, [held], 4, before=before)
    for n in (300, 340, 700):
        held.extend(np.ascontiguousarray(rows[:n]), None, 0)
        held.bring("times", times[:n])
        held.bring("groups", groups[:n])
        held.bring("groups", groups[: n // 2])  # are there already
        for there in (250, n):
            seen = oracle.visible(
                6, there, times=times[:there], groups=groups[:there], before=before,
                exclude_groups=lists,
            )  # fmt: skip
            found = device.search(
                queries, [(held, there)], 4, before=before, exclude_groups=lists, first_phase=128
            )
            assert_same(found[:2], oracle.search(queries, rows[:there], 4, seen=seen), (n, there))
        assert held.nbytes >= alone + 2 * 8 * n
    held.extend(np.concatenate([rows, rows[:9]]), None, 0)
    with pytest.raises(ValueError, match="groups of all rows, or of none"):
        device.search(queries, [held], 4, exclude_groups=lists)
    with pytest.raises(ValueError, match="rows that are there"):
        held.bring("times", np.arange(710))
    assert device.search(queries, [(held, 700)], 4, before=before)[1].shape == (6, 4)


# ---- Memory --------------------------------------------------------------------------------------


@pytest.fixture
def searches(tested, monkeypatch):
    """Note the searches of the device."""
    noted, real = [], engine.search

    def search(*args, **named):
        noted.append(args[3:6])  # k, metric and what queries see
        real(*args, **named)

    monkeypatch.setattr(engine, "search", search)
    yield noted
    tested.forget_failures()


def twins(n=1500, seed=11, task="classification", **settings):
    """Return a memory on the device and one on the CPU, in two segments, and queries."""
    rng = np.random.default_rng(seed)
    embeddings = rng.standard_normal((n + 30, 12)).astype(np.float32)
    outputs = rng.standard_normal((n + 30, 3)).astype(np.float32)
    targets = outputs + 1.0 if task == "regression" else rng.integers(0, 3, n + 30)
    times, groups = rng.integers(0, 100, n), rng.integers(-1, 20, n)
    both = []
    for _ in range(2):
        made = resmem.Memory(task=task, k=7, **settings)
        for part in (slice(0, n - 300), slice(n - 300, n)):
            of_groups = groups[part] if part.start == 0 else None
            made.add(
                embeddings[part], outputs[part], targets[part], times=times[part], groups=of_groups
            )
        made.remove(np.arange(40, 90))
        both.append(made)
    rest = slice(n, None)
    return both[0].to(DEVICE), both[1], (embeddings[rest], outputs[rest], targets[rest])


def restrictions(n=1500, q=30):
    """Yield what hides rows from queries, each alone and all together."""
    rng = np.random.default_rng(3)
    most = np.setdiff1d(np.flatnonzero(rng.random(n) < 0.95), np.arange(40, 90))
    whole = {
        "among": most,
        "before": rng.integers(0, 101, q),
        "exclude_groups": rng.integers(-1, 20, (q, 5)),
        "exclude_ids": rng.integers(90, n, (q, 2)),
    }
    yield from ({name: value} for name, value in whole.items())
    yield {"among": np.arange(100, 160)}
    yield {"before": 30, "exclude_groups": 4}
    yield whole


@pytest.fixture
def device_alone(monkeypatch):
    """Return a function that lets no search of the CPU's run any more."""

    def refuse(*args, **named):
        raise AssertionError("the CPU has searched")

    def begin():
        monkeypatch.setattr(_core, "search", refuse)
        monkeypatch.setattr(_core, "correct", refuse)

    return begin


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"metric": "cosine", "key_dtype": "bfloat16"},
        {"metric": "inner_product", "key_dtype": "float16"},
        {"metric": "sqeuclidean", "key_dtype": "float64"},
        {"task": "regression"},
        {"method": "targets", "strength": 0.5},
    ],
    ids=str,
)
def test_a_memory_on_a_device_hides_rows_there(searches, device_alone, settings):
    memory, other, (embeddings, outputs, targets) = twins(**settings)
    calls = {
        "kneighbors": lambda m, hide: m.kneighbors(embeddings, **hide),
        "correction": lambda m, hide: m.correction(embeddings, **hide),
        "correct": lambda m, hide: m.correct(embeddings, outputs, **hide),
        "predict": lambda m, hide: m.predict(embeddings, outputs, **hide),
        "explain": lambda m, hide: m.explain(embeddings, outputs, **hide).distances,
        "evaluate": lambda m, hide: str(m.evaluate(embeddings, outputs, targets, **hide)),
    }
    if memory.metric != "euclidean":  # it looks for copies by Euclidean distances
        del calls["evaluate"]
    hidings = list(restrictions())[0 if settings == {} else -3 :]
    wanted = [[call(other, hide) for call in calls.values()] for hide in hidings]
    memory.sigma_  # noqa: B018  is measured on the CPU
    device_alone()
    for hide, each in zip(hidings, wanted, strict=True):
        searches.clear()
        for (name, call), theirs in zip(calls.items(), each, strict=True):
            mine = call(memory, hide)
            if name == "evaluate":
                assert mine == theirs
            elif name == "kneighbors":
                assert_same(mine, theirs, hide)
            else:
                assert mine.tobytes() == theirs.tobytes(), (name, hide)
        assert len(searches) >= len(calls)


def test_judging_rows_hide_their_own_times_and_groups(searches):
    memory, other, _ = twins(400)
    for hide in ({"before": "own"}, {"exclude_groups": "own"}, {"among": np.arange(100, 300)}):
        results = []
        for each in (memory, other):
            before = len(searches)
            tuned = each.tune(loo=True, k=[3, 7], apply=False, **hide)
            results.append((
                str(tuned), str(each.evaluate(loo=True, **hide)), str(each.audit(**hide)),
            ))  # fmt: skip
            assert (len(searches) > before) == (each is memory)
        assert results[0] == results[1]


def test_squared_distances_are_those_of_the_cpu(tested, searches, device_alone):
    for metric, dtype in (("euclidean", "float64"), ("sqeuclidean", "bfloat16")):
        memory, other, (embeddings, _, _) = twins(metric=metric, key_dtype=dtype)
        wanted = other.kneighbors(embeddings, squared=True, before=50)
        assert_same(memory.kneighbors(embeddings, squared=True, before=50), wanted, metric)
    memory, other, (embeddings, _, _) = twins()
    plain, wanted = other.kneighbors(embeddings), other.kneighbors(embeddings, squared=True)
    assert (plain[0] != wanted[0]).any()
    device_alone()
    assert_same(memory.kneighbors(embeddings, squared=True), wanted)
    values, ids = memory.kneighbors(tested.place(embeddings), squared=True)
    assert_same((tested.fetch(values), tested.fetch(ids)), wanted)
    assert [each[1] for each in searches[-2:]] == ["sqeuclidean"] * 2


def test_what_hides_rows_may_lie_on_the_device(tested, searches):
    memory, other, (embeddings, _, _) = twins()
    placed = tested.place(embeddings)
    for hide in restrictions():
        wanted = other.kneighbors(embeddings, **hide)
        there = {
            name: tested.place(value) if name != "among" and np.ndim(value) else value
            for name, value in hide.items()
        }  # fmt: skip
        for each in (hide, there):
            values, ids = memory.kneighbors(placed, **each)
            assert_same((tested.fetch(values), tested.fetch(ids)), wanted, hide)
        # Results lie where embeddings do.
        assert_same(memory.kneighbors(embeddings, **there), wanted, hide)
    groups = np.arange(30) % 7
    values, ids = memory.kneighbors(placed, exclude_groups=tested.place(groups))
    wanted = other.kneighbors(embeddings, exclude_groups=groups)
    assert_same((tested.fetch(values), tested.fetch(ids)), wanted)


def test_arrays_on_the_device_that_do_not_fit_are_refused(tested, searches):
    memory, other, (embeddings, outputs, targets) = twins(400)
    number = tested.place(np.arange(30))
    for name, bad, error, said in (
        ("before", np.arange(29), ValueError, r"per row of queries \(30\), got 29"),
        ("before", np.ones((30, 1), np.int64), ValueError, r"shape \(q,\), got \(30, 1\)"),
        ("before", np.ones(30), TypeError, "before must have dtype int64, got float64"),
        ("exclude_groups", np.ones((30, 1, 1), np.int64), ValueError, r"\(q,\) or \(q, m\)"),
        ("exclude_groups", np.arange(4), ValueError, r"per row of queries \(30\), got 4"),
    ):
        with pytest.raises(error, match=said):
            memory.kneighbors(embeddings, **{name: tested.place(bad)})
    with pytest.raises(ValueError, match="the memory on cpu"):
        other.kneighbors(embeddings, before=number)
    plain = resmem.Memory(k=3).fit(embeddings, outputs, targets).to(DEVICE)
    with pytest.raises(ValueError, match="before needs times"):
        plain.kneighbors(embeddings, before=number)
    with pytest.raises(ValueError, match="exclude_groups needs groups"):
        plain.kneighbors(embeddings, exclude_groups=number)
    plain.fit(embeddings, outputs, targets, times=np.linspace(0, 1, 30))
    with pytest.raises(TypeError, match="the times of the rows are floats; pass "):
        plain.kneighbors(embeddings, before=number)


def test_times_and_groups_come_with_the_first_search_that_asks(emulated, searches):
    memory, other, (embeddings, outputs, targets) = twins(1200)
    memory.kneighbors(embeddings)
    held = memory.info()["device_nbytes"]
    memory.kneighbors(embeddings, among=np.arange(100, 1100))
    assert memory.info()["device_nbytes"] == held
    memory.kneighbors(embeddings, before=50)
    assert memory.info()["device_nbytes"] >= held + 8 * 1200
    memory.kneighbors(embeddings, exclude_groups=3)
    assert memory.info()["device_nbytes"] >= held + 8 * (1200 + 900)
    for each in (memory, other):
        each.add(embeddings, outputs, targets, times=np.arange(30), groups=np.full(30, 3))
        each.update(np.arange(100, 130), embeddings, outputs, targets, times=np.arange(30))
    hide = {"before": np.arange(30) + 3, "exclude_groups": np.arange(30) % 4}
    assert_same(memory.kneighbors(embeddings, **hide), other.kneighbors(embeddings, **hide))
    before = emulated.bytes_in_use()
    memory.to("cpu")
    assert emulated.bytes_in_use() < before


def test_a_search_that_hides_rows_waits_for_nothing(tested, emulated, searches):
    """Any wait would fail here, where all that is asked for was brought before."""
    memory, other, (embeddings, _, _) = twins()
    memory.kneighbors(embeddings, before=50, exclude_groups=1)
    hide = {"before": np.arange(30) * 3, "exclude_groups": np.arange(30) % 9}
    there = {name: tested.place(value) for name, value in hide.items()}
    placed = tested.place(embeddings)
    emulated.faults().failing_wait = True
    values, ids = memory.kneighbors(placed, among=np.arange(100, 1400), **there)
    emulated.faults().failing_wait = False
    wanted = other.kneighbors(embeddings, among=np.arange(100, 1400), **hide)
    assert_same((tested.fetch(values), tested.fetch(ids)), wanted)
