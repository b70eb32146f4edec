"""Search through a tree returns the oracle's bits, and rescores few rows."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

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


def tree_of(rows, covered=None, leaf=0, threads=0, isa=""):
    """Return a tree of the first rows."""
    some = rows[:covered]
    return _core.Tree(
        _core.Segment(some, None, 0, None, max_abs(some)),
        rows.shape[1],
        leaf,
        execution=_core.Execution(threads, isa),
    )


def searched(queries, rows, tree, k, threads=0, isa=""):
    segment = _core.Segment(rows, None, 0, None, max_abs(rows), tree)
    return _core.search(
        queries,
        max_abs(queries),
        [segment],
        k,
        "euclidean",
        execution=_core.Execution(threads, isa),
    )


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 2**31),
    n=st.sampled_from([1, 2, 7, 8, 9, 31, 32, 33, 127, 257, 300, 1021]),
    d=st.integers(1, 16),
    q=st.sampled_from([0, 1, 2, 7, 33]),
    k=st.sampled_from([1, 2, 4, 16, 600]),
    leaf=st.sampled_from([0, 1, 2, 3, 8]),
    metric=st.sampled_from(["euclidean", "sqeuclidean"]),
    threads=st.sampled_from([1, 2, 7]),
)
def test_a_tree_gives_the_bits_of_the_oracle(family, seed, n, d, q, k, leaf, metric, threads):
    queries, rows = make(family, seed, n, q, d)
    wanted = oracle.search(queries, rows, k, metric)
    segment = _core.Segment(
        rows, None, 0, None, max_abs(rows), tree_of(rows, None, leaf, threads=threads)
    )
    for isa in ISAS:
        got = _core.search(
            queries, max_abs(queries), [segment], k, metric, execution=_core.Execution(threads, isa)
        )
        assert_same(got, wanted, isa)
        if q and 8 * k <= n:
            assert (got[3]["strategy"], got[3]["filter"]) == ("tree", "boxes")


@given(
    seed=st.integers(0, 2**31),
    sizes=st.lists(st.tuples(st.integers(0, 90), st.booleans()), min_size=1, max_size=4),
    width=st.sampled_from([0, 1, 17]),
    removed=st.sampled_from([0.0, 0.3, 1.0]),
    k=st.sampled_from([1, 3, 8, 70]),
    family=st.sampled_from(["gaussian", "integers", "duplicates", "one ulp", "offset 1e4"]),
    threads=st.sampled_from([1, 3]),
)
def test_mixed_segments_and_exclusions_give_the_oracles_bits(
    seed, sizes, width, removed, k, family, threads
):
    """Some segments have a tree of their first rows, one has a cascade, others have none. If one is
    large enough for k, the indices of all are used, even of those with fewer rows than k."""
    rng = np.random.default_rng(seed)
    n, d, q = sum(size for size, _ in sizes), 3, 14
    queries, rows = make(family, seed, n, q, d)
    ids = rng.choice(2**62, size=n, replace=False).astype(np.int64)
    alive = rng.random(n) >= removed
    segments, start = [], 0
    for number, (size, indexed) in enumerate(sizes):
        part = slice(start, start + size)
        keys, rows[part] = as_stored(rows[part], STORED[number % 3])
        largest = max_abs(rows[part])
        first = 2**63 - 1 - 1000 * number - size
        if number % 2:
            ids[part] = first + np.arange(size)
        given_ids = None if number % 2 else ids[part]
        segment = _core.Segment(keys, given_ids, first, (~alive[part]).astype(np.int64), largest)
        covered = int(rng.integers(0, size + 1))
        if indexed and covered:
            some = _core.Segment(keys[:covered], None, 0, None, largest)
            if number == 3:
                segment = segment.with_index(
                    _core.Cascade(some, d, 4, 3, False, execution=_core.Execution(threads))
                )
            else:
                segment = segment.with_index(
                    _core.Tree(some, d, leaf=4, execution=_core.Execution(threads))
                )
            assert len(segment.index) == covered
        segments.append(segment)
        start += size
    exclude = rng.choice(np.append(ids, -1), (q, width)).astype(np.int64) if width else None
    wanted = oracle.search(queries, rows, k, ids=ids, exclude_ids=exclude, alive=alive)
    for isa in ISAS:
        got = _core.search(
            queries,
            max_abs(queries),
            segments,
            k,
            "euclidean",
            exclude,
            version=1,
            execution=_core.Execution(threads, isa),
        )
        assert_same(got, wanted, isa)
        found = got[2] >= 0
        assert np.array_equal(found, got[1] >= 0)
        assert np.array_equal(ids[got[2][found]], got[1][found])


@pytest.mark.parametrize("d", [1, 2, 3, 8])
@pytest.mark.parametrize("q", [1, 20, 300])
def test_tree_search_rescores_few_rows(d, q):
    rng = np.random.default_rng(d)
    rows = rng.random((20_000, d), dtype=np.float32)
    queries = rng.random((q, d), dtype=np.float32)
    tree, wanted = tree_of(rows), oracle.search(queries, rows, 5)
    done = []
    for isa in ISAS:
        for threads in (1, 2):
            got = searched(queries, rows, tree, 5, threads=threads, isa=isa)
            assert_same(got, wanted)
            done.append({name: count for name, count in got[3].items() if name != "isa"})
    stats = done[0]
    assert all(each == stats for each in done)
    assert stats["pairs_filtered"] == stats["pairs_coded"] == stats["given_up"] == 0
    assert 2 * np.log2(tree.leaves) * q < stats["boxes"] < 1500 * q
    assert 5 * q <= stats["rescored"] < (0.3 if d == 8 else 0.02) * len(rows) * q


@pytest.mark.parametrize("d", [1, 2, 16])
@pytest.mark.parametrize("leaf", [1, 5, 0])
def test_a_tree_is_the_same_whatever_isa_and_threads_built_it(d, leaf):
    _, rows = make("integers", 3, 3001, 1, d)
    keys, _ = as_stored(rows, "float16")
    trees = [
        _core.Tree(
            _core.Segment(keys, None, 0, None, 2.0),
            d,
            leaf=leaf,
            execution=_core.Execution(threads, isa),
        )
        for isa in ISAS
        for threads in (1, 2, 5)
    ]
    assert len({tree.digest() for tree in trees}) == 1
    rows_of = trees[0].arrays()["rows"]
    ends = np.arange(trees[0].leaves + 1) * len(rows) // trees[0].leaves
    assert np.array_equal(np.sort(rows_of), np.arange(len(rows)))
    assert min(np.diff(ends)) >= (leaf or 16)
    for first, last in pairwise(ends):
        assert (np.diff(rows_of[first:last]) > 0).all()


def test_smallest_ids_of_many_duplicates_are_found_soon():
    rows = np.tile(np.float32([[1, 2]]), (20_000, 1))
    tree = tree_of(rows)
    got = searched(rows[:20], rows, tree, 5)
    assert (got[0] == 0).all()
    assert (got[1] == np.arange(5)).all()
    assert got[3]["rescored"] <= 20 * 32  # one leaf each; no other has a smaller id
    ids = np.arange(20_000)[::-1].copy()
    segment = _core.Segment(rows, ids, 0, None, 2.0, tree)
    got = _core.search(rows[:20], 2.0, [segment], 5, "euclidean")
    assert (got[1] == np.arange(5)).all()


def test_tree_of_another_segment_is_refused():
    queries, rows = make("gaussian", 0, 500, 3, 4)
    tree = tree_of(rows)
    for wrong in (rows[:300], np.ascontiguousarray(rows[:, :3])):
        asked = np.ascontiguousarray(queries[:, : wrong.shape[1]])
        with pytest.raises(ValueError, match="the tree is not one of this segment"):
            searched(asked, wrong, tree, 3)
    with pytest.raises(ValueError, match="a tree has 1 to 16 dimensions"):
        tree_of(np.zeros((3, 17), np.float32))
    with pytest.raises(ValueError, match="rows"):
        tree_of(rows[:0])
    for bad in (np.nan, np.inf, -np.inf):
        rows[7, 3] = bad
        with pytest.raises(ValueError, match="a row is not what its segment says"):
            tree_of(rows)


def test_rows_that_become_non_finite_are_no_neighbours():
    queries, rows = make("gaussian", 1, 500, 9, 3)
    tree = tree_of(rows)
    alive = np.arange(500) % 3 > 0
    wanted = oracle.search(queries, rows, 7, alive=alive)
    rows[::6], rows[3::6] = np.nan, np.inf
    segment = _core.Segment(rows, None, 0, None, 9.0, tree)
    assert_same(_core.search(queries, 9.0, [segment], 7, "euclidean"), wanted)


# ------------------------------------------------------------------ bounds of boxes


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 2**31),
    n=st.sampled_from([1, 5, 33, 200]),
    d=st.integers(1, 16),
    leaf=st.sampled_from([1, 2, 16]),
)
def test_no_row_of_a_node_has_a_smaller_key_than_its_box(family, seed, n, d, leaf):
    queries, rows = make(family, seed, n, 9, d)
    tree = tree_of(rows, None, leaf)
    segment = _core.Segment(rows, None, 0, None, max_abs(rows), tree)
    bounds = _core.tree_bounds(queries, [segment])
    assert bounds.shape == (9, n, 1 + np.log2(tree.leaves))
    keys = oracle.order_key(queries, rows, "sqeuclidean")
    assert (bounds <= keys[:, :, None]).all()
    assert (np.diff(bounds, axis=2) >= 0).all()  # a box within a box is no nearer


def test_a_row_on_the_edge_of_a_box_reaches_its_bound():
    """In one dimension the row nearest to a query outside a box lies on the box's edge."""
    queries, rows = make("gaussian", 5, 300, 40, 1)
    tree = tree_of(rows, None, 1)
    bounds = _core.tree_bounds(queries, [_core.Segment(rows, None, 0, None, max_abs(rows), tree)])
    keys = oracle.order_key(queries, rows, "sqeuclidean")
    of_leaf = tree.arrays()["rows"]
    for level in range(bounds.shape[2]):
        for j in range(2**level):
            first, last = (end * 300 >> level for end in (j, j + 1))
            inside = of_leaf[first:last]
            least = keys[:, inside].min(1)
            outside = (queries[:, 0] < rows[inside].min()) | (queries[:, 0] > rows[inside].max())
            assert np.array_equal(bounds[outside, inside[0], level], least[outside])
            assert (bounds[~outside, inside[0], level] == 0).all()


def test_ties_with_the_last_neighbour_are_ordered_by_id():
    """The corners of a cube around the query are equally far, each in its own box."""
    corners = np.stack(np.meshgrid(*[[-1, 1]] * 4), -1).reshape(-1, 4).astype(np.float32)
    query = np.zeros((1, 4), np.float32)
    rng = np.random.default_rng(8)
    rows = np.concatenate([corners, 5 + np.abs(rng.standard_normal((40, 4)))]).astype(np.float32)
    for _ in range(50):
        ids = rng.permutation(len(rows))
        segment = _core.Segment(rows, ids, 0, None, max_abs(rows), tree_of(rows, None, 1))
        got = _core.search(query, 0.0, [segment], 4, "euclidean")
        assert got[3]["strategy"] == "tree"
        assert np.array_equal(got[1][0], np.sort(ids[:16])[:4])
        assert (got[0] == 2).all()


# ------------------------------------------------------------------ trees of arrays


def test_tree_of_arrays_is_the_same_and_copies_no_rows():
    queries, rows = make("gaussian", 2, 3000, 20, 3)
    tree = tree_of(rows)
    arrays = tree.arrays()
    assert tree.nbytes == sum(arrays[name].nbytes for name in ("rows", "splits", "box"))
    again = _core.Tree.of(arrays)
    assert again.digest() == tree.digest()
    assert np.shares_memory(again.arrays()["rows"], arrays["rows"])
    assert not arrays["rows"].flags.writeable
    del tree, arrays
    assert_same(searched(queries, rows, again, 7), oracle.search(queries, rows, 7))


def test_tree_of_unnamed_numbers_is_the_same():
    _, rows = make("gaussian", 2, 700, 1, 3)
    tree = tree_of(rows)
    arrays = with_unnamed_numbers(tree.arrays(), "tree")
    assert _core.Tree.of(arrays).digest() == tree.digest()
    with pytest.raises(ValueError, match="a tree has 3 numbers"):
        _core.Tree.of({**arrays, "numbers": arrays["numbers"][:-1]})


def test_arrays_that_do_not_fit_together_are_refused():
    _, rows = make("gaussian", 2, 700, 1, 3)
    arrays = tree_of(rows).arrays()
    damaged = [{**arrays, name: array[:-1]} for name, array in arrays.items()]
    damaged += [{**arrays, name: np.append(a, a[:1])} for name, a in arrays.items()]
    damaged += [{k: v for k, v in arrays.items() if k != name} for name in arrays]
    for name in ("n", "d", "height"):
        for value in {0, 1, 4, 6, 17, 62, 64, 2**33, 1e9, -1, np.nan, np.inf} - {arrays[name][0]}:
            damaged.append({**arrays, name: np.array([value], dtype=np.float64)})
    for value in (-1, 700, int(arrays["rows"][1])):
        damaged.append({**arrays, "rows": np.r_[np.int32(value), arrays["rows"][1:]]})
    for value in np.float32([np.nan, np.inf, -np.inf]):
        damaged.append({**arrays, "box": np.r_[value, arrays["box"][1:]]})
        for at in (0, 1):
            splits = arrays["splits"].copy()
            splits[3 + at] = value.view(np.int32)
            damaged.append({**arrays, "splits": splits})
    for side in (3, -1, 2**30):
        damaged.append(
            {**arrays, "splits": np.r_[arrays["splits"][:2], np.int32(side), arrays["splits"][3:]]}
        )
    damaged.append({**arrays, "rows": arrays["rows"].astype(np.int64)})
    for each in damaged:
        with pytest.raises((ValueError, TypeError)):
            _core.Tree.of({name: np.ascontiguousarray(array) for name, array in each.items()})


def test_search_ends_on_wrong_splits():
    """Whoever forges a file's checksums gets wrong neighbours, but no read is out of bounds."""
    queries, rows = make("gaussian", 2, 700, 9, 3)
    arrays = tree_of(rows, None, 4).arrays()
    rng = np.random.default_rng(0)
    splits = arrays["splits"].copy().reshape(-1, 3)
    splits[:, :2] = rng.standard_normal((len(splits), 2)).astype(np.float32).view(np.int32)
    tree = _core.Tree.of({**arrays, "splits": splits.ravel()})
    got = searched(queries, rows, tree, 5)
    assert ((got[1] >= 0) & (got[1] < 700)).all()


def test_damaged_tree_is_refused_or_searched_within_arrays():
    """Neighbours may be wrong: whoever forges a tree in a file forges its checksums too."""
    queries, rows = make("gaussian", 2, 700, 9, 3)
    arrays = tree_of(rows, None, 4).arrays()
    floats = [np.nan, np.inf, -np.inf, 3e38, -3e38, 0, 0.5, 2.0**31, 2.0**47, -1]
    words = [-(2**31), -1, 0, 1, 2, 3, 699, 700, 2**30, 2**31 - 1]
    rng = np.random.default_rng(0)
    accepted = 0
    for _ in range(1500):
        name = rng.choice(list(arrays))
        array = arrays[name].copy()
        floating = array.dtype.kind == "f" or (name == "splits" and rng.random() < 0.5)
        meant = array.view(np.float32) if floating and array.dtype == np.int32 else array
        meant[rng.integers(meant.size)] = rng.choice(floats if floating else words)
        try:
            tree = _core.Tree.of({**arrays, name: array})
        except ValueError:
            continue
        got = searched(queries, rows, tree, 5)
        assert ((got[1] >= -1) & (got[1] < 700)).all()
        accepted += 1
    assert accepted > 50


@pytest.mark.parametrize("name", ["n", "d", "height"])
def test_sizes_of_a_tree_are_whole_numbers(name):
    _, rows = make("gaussian", 2, 700, 9, 3)
    arrays = tree_of(rows, None, 4).arrays()
    arrays[name] = arrays[name] + 0.5
    with pytest.raises(ValueError, match="out of range"):
        _core.Tree.of(arrays)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_search_ends_on_arrays_changed_after_their_check(value):
    queries, rows = make("gaussian", 2, 3000, 60, 3)
    tree, largest = tree_of(rows), max_abs(rows)
    for part in (queries[::2], rows[::3], rows):
        part[np.arange(len(part)), np.arange(len(part)) % 3] = value
        for k in (1, 40):
            got = _core.search(
                queries, 9.0, [_core.Segment(rows, None, 0, None, largest, tree)], k, "euclidean"
            )
            assert got[3]["strategy"] == "tree"
            assert ((got[1] >= -1) & (got[1] < 3000)).all()


# ------------------------------------------------------------------ trees of memories


N = index_shape.LEAST_ROWS + 500


def memory_of(rows, **options):
    nothing = np.zeros((len(rows), 1), np.float32)
    memory = resmem.Memory("regression", output_kind="values", k=5, sigma=1.0, **options)
    return memory.fit(rows, nothing, nothing)


def engines(memory):
    return [each.get("search") for each in memory.plan_]


@pytest.fixture
def trees_are_fastest(monkeypatch):
    timed(monkeypatch, lambda index: {None: 4e-3, _core.Cascade: 2e-3, _core.Tree: 1e-3}[index])


def timed(monkeypatch, seconds):
    """Let trial searches run, and report ``seconds(type of index)`` per query as their time."""
    search = _core.search

    def time(queries, segment, ask):
        found = search(
            queries, segment.largest, [segment], ask.k, ask.metric, execution=ask.execution
        )
        index = None if segment.index is None else type(segment.index)
        return len(queries) * seconds(index), found[3]

    monkeypatch.setattr(index_trial, "_time", time)


@pytest.mark.parametrize("d", [1, 2, 3, 7, 16])
def test_fastest_index_that_was_tried_is_kept(d, monkeypatch, trees_are_fastest):
    queries, rows = make("gaussian", d, N, 20, d)
    memory = memory_of(rows).prepare()
    (plan,) = memory.plan_
    assert (plan["search"], plan["search_few"]) == ("tree", "tree")
    kinds = {"tree", "cascade"} if d > 8 else {"tree"}  # codes of so few dimensions are too large
    assert {each["search"] for each in plan["tried"]} == kinds
    assert plan["bytes"] <= (0.4 if d > 2 else 1.2) * rows.nbytes
    assert memory.info()["search"].startswith(f"tree over {N} rows, ")
    assert_same(memory.kneighbors(queries), oracle.search(queries, rows, 5))
    timed(monkeypatch, lambda index: 1e-3 if index is _core.Cascade else 2e-3)
    assert engines(memory_of(rows).prepare()) == ["cascade" if d > 8 else "float32"]
    timed(monkeypatch, lambda index: 1e-3 if index is None else 2e-3)
    assert engines(memory_of(rows).prepare()) == ["float32"]


def test_tree_that_is_far_slower_is_not_measured_further(monkeypatch):
    timed(monkeypatch, lambda index: 9e-3 if index is _core.Tree else 1e-3)
    for d, tried in ((3, []), (9, ["cascade"]), (17, ["cascade"])):
        _, rows = make("gaussian", d, N, 1, d)
        (plan,) = memory_of(rows).prepare().plan_
        assert [each["search"] for each in plan["tried"]] == tried


def test_rows_that_cannot_be_coded_have_a_tree(trees_are_fastest):
    for family in ("1e-30", "largest", "subnormal"):
        queries, rows = make(family, 5, N, 20, 3)
        memory = memory_of(rows).prepare()
        assert engines(memory) == ["tree"]
        assert_same(memory.kneighbors(queries), oracle.search(queries, rows, 5))


@pytest.mark.parametrize("key_dtype", ["float32", "float16", "bfloat16"])
def test_added_and_removed_rows_are_seen_beside_a_tree(key_dtype, trees_are_fastest):
    queries, rows = make("gaussian", 1, N + 300, 40, 3)
    memory = memory_of(rows[:N], key_dtype=key_dtype).prepare()
    assert engines(memory) == ["tree"]
    nothing = np.zeros((300, 1), np.float32)
    gone = np.arange(0, N, 3)
    memory.add(rows[N:], nothing, nothing).remove(gone)
    assert engines(memory)[0] == "tree"
    stored = rows if key_dtype == "float32" else _core.widen(_core.narrow(rows, key_dtype))
    alive = np.ones(N + 300, dtype=bool)
    alive[gone] = False
    excluded = np.arange(1, 41)
    wanted = oracle.search(queries, stored, 5, alive=alive, exclude_ids=excluded[:, None])
    assert_same(memory.kneighbors(queries, exclude_ids=excluded), wanted)


def test_saved_tree_is_kept_and_not_rewritten_by_append(tmp_path, trees_are_fastest):
    path = tmp_path / "memory.resmem"
    queries, rows = make("gaussian", 2, N, 30, 3)
    memory = memory_of(rows).prepare()
    memory.save(path)
    size = path.stat().st_size
    loaded = resmem.Memory.load(path)
    assert engines(loaded) == ["tree"]
    assert loaded.plan_[0]["reason"] == "saved in the file"
    assert loaded.plan_[0]["bytes"] == memory.plan_[0]["bytes"]
    assert_same(loaded.kneighbors(queries), oracle.search(queries, rows, 5))
    nothing = np.zeros((3, 1), np.float32)
    loaded.add(rows[:3] + 1, nothing, nothing)
    loaded.save(path, append=True)
    assert path.stat().st_size - size < memory.plan_[0]["bytes"] // 2
    again = resmem.Memory.load(path)
    assert engines(again)[0] == "tree"
    both = np.concatenate([rows, rows[:3] + 1])
    assert_same(again.kneighbors(queries), oracle.search(queries, both, 5))


def test_saved_tree_that_does_not_fit_is_ignored():
    _, rows = make("gaussian", 2, 700, 1, 3)
    arrays = {**tree_of(rows).arrays(), "serves": np.ones(2, np.uint8)}
    saved = partial(index_decision.decision_from_file, "tree")
    assert saved(arrays, rows, ("file", 0)).stored == ("file", 0)
    assert saved({**arrays, "serves": np.ones(3, np.uint8)}, rows, ("file", 0)) is None
    assert saved({**arrays, "rows": arrays["rows"][:-1]}, rows, ("file", 0)) is None
    assert saved(arrays, rows[:-1], ("file", 0)) is None
    assert saved(arrays, rows[:, :-1], ("file", 0)) is None
    assert index_decision.decision_from_file("cascade", arrays, rows, ("file", 0)) is None


def test_one_search_builds_a_tree_for_itself_if_it_is_large(monkeypatch, trees_are_fastest):
    queries, rows = make("gaussian", 3, N, policy.SINGLE_CALL_QUERIES_TREE, 3)
    built = []
    decide = index_trial.decide
    monkeypatch.setattr(policy, "decide", lambda *a: built.append(decide(*a)) or built[-1])
    few = resmem.search(queries[:-1], rows, 3)
    assert built == []
    many = resmem.search(queries, rows, 3)
    assert [type(each.index) for each in built] == [_core.Tree]
    assert len(built[0].tried) == 1
    assert_same((many[0][:-1], many[1][:-1]), few)


@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
def test_other_metrics_have_no_tree(metric, trees_are_fastest):
    queries, rows = make("gaussian", 4, N, 20, 3)
    segment = _core.Segment(rows, None, 0, None, max_abs(rows), tree_of(rows))
    got = _core.search(queries, max_abs(queries), [segment], 5, metric)
    assert got[3]["strategy"] != "tree"
    assert_same(got, oracle.search(queries, rows, 5, metric))
    decision = index_trial.decide(segment.with_index(None), rows, 5, _core.Execution(1), 4, metric)
    assert "tree" not in {each["search"] for each in decision.tried}
    assert not policy.worth_at_once(policy.SINGLE_CALL_QUERIES_TREE, 3, metric)
    assert policy.worth_at_once(policy.SINGLE_CALL_QUERIES_TREE, 3, "sqeuclidean")
