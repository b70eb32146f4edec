"""``Index``: the bits of ``resmem.search`` over rows that come and go."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import resmem
from cases import FAMILIES, METRICS
from resmem._files import container
from test_rows_by_id import same, sections_of

D = 3


def keys(rng, n, d=D):
    return rng.standard_normal((n, d)).astype(np.float32)


def assert_as_search(index, rows, queries, k=4, key_dtype="auto"):
    """Check the index against a search of its rows, given by id."""
    assert sorted(index.ids.tolist()) == sorted(rows)
    assert len(index) == len(rows)
    ids = np.array(sorted(rows), dtype=np.int64)
    array = np.stack([rows[i] for i in ids.tolist()])
    distances, found = resmem.search(queries, array, k, index.metric, key_dtype=key_dtype)
    found = np.where(found >= 0, ids[found], -1)
    for one, two in zip(index.search(queries, k), (distances, found), strict=True):
        same(one, two)


@pytest.mark.parametrize("metric", METRICS)
@settings(max_examples=60)
@given(data=st.data())
def test_index_has_the_bits_of_a_search_of_its_rows(metric, data, tmp_path_factory):
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    make = FAMILIES[data.draw(st.sampled_from(sorted(FAMILIES)))]
    n, d = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 9))
    first = np.asarray(make(rng, n, d), dtype=np.float32)
    ids = rng.permutation(30)[:n] if data.draw(st.booleans()) else None
    index = resmem.Index(first, ids, metric=metric)
    rows = dict(zip(range(n) if ids is None else ids.tolist(), first, strict=True))
    path = str(tmp_path_factory.mktemp("index") / "i.resmem")
    names = ("add", "update", "remove", "save", "append", "copy", "pickle")
    for name in data.draw(st.lists(st.sampled_from(names), max_size=7)):
        if name == "add":
            new, start = (
                np.asarray(make(rng, 2, d), dtype=np.float32),
                index._state.view.rows.next_id,
            )
            assert index.add(new) is index
            rows |= {start: new[0], start + 1: new[1]}
        elif name == "update":
            some = rng.choice(sorted(rows), min(3, len(rows)), replace=False)
            new = np.asarray(make(rng, len(some), d), dtype=np.float32)
            assert index.update(some, new) is index
            rows |= dict(zip(some.tolist(), new, strict=True))
        elif name == "remove" and len(rows) > 1:
            gone = sorted(rows)[len(rows) // 2]
            assert index.remove(gone) is index
            del rows[gone]
        elif name in ("save", "append"):
            index.save(path, append=name == "append" and index._state.view.file is not None)
            index = resmem.Index.load(path, verify=name == "save")
        elif name in ("copy", "pickle"):
            index = copy.copy(index) if name == "copy" else pickle.loads(pickle.dumps(index))
    assert_as_search(index, rows, np.asarray(make(rng, 3, d), dtype=np.float32), k=n + 2)
    asked = list(rows)
    same(index.get(asked), np.stack([rows[i] for i in asked]))


@pytest.mark.parametrize("metric", METRICS)
def test_float64_rows_are_kept_as_a_search_compares_them(metric, tmp_path):
    rng = np.random.default_rng(1)
    near = rng.standard_normal((40, D))
    apart = 1e-3 * near + 1e9 * (np.arange(40)[:, None] % 2)
    for rows in (near, 1e9 + near, apart):
        index = resmem.Index(rows, metric=metric).save(tmp_path / "f.resmem")
        for one in (index, resmem.Index.load(tmp_path / "f.resmem")):
            assert_as_search(one, dict(enumerate(rows)), rows[:9])
    assert "euclidean" not in metric or index.key_dtype == "float64"
    wide = resmem.Index(near, metric=metric, key_dtype="float64").add(near + 0.5)
    rows = dict(enumerate([*near, *(near + 0.5)]))
    assert_as_search(wide, rows, near[:5] + 0.1, key_dtype="float64")


@pytest.mark.parametrize("key_dtype", ["float16", "bfloat16"])
def test_half_width_rows_are_searched_as_they_are_stored(key_dtype):
    rng = np.random.default_rng(2)
    index = resmem.Index(keys(rng, 30), metric="inner_product", key_dtype=key_dtype)
    stored = index.get(index.ids)
    assert index.nbytes == 30 * D * 2
    assert_as_search(index, dict(enumerate(stored)), keys(rng, 5))


@pytest.mark.parametrize("metric", METRICS)
def test_index_prepares_for_its_own_metric(metric, tmp_path):
    rng = np.random.default_rng(3)
    rows = keys(rng, 9000, 24)
    rows[:, 0] *= 20  # so that a projection tells rows apart
    index = resmem.Index(rows, metric=metric).prepare(threads=1)
    (plan,) = index.plan_
    assert plan["rows"] == 9000
    decision = index._state.view.rows.segments[0].planner.decision
    assert decision.index is None or decision.index.serves_metric(metric)
    queries = rows[:30] + np.float32(0.01)
    wanted = resmem.search(queries, rows, 7, metric)
    loaded = resmem.Index.load(index.save(tmp_path / "p.resmem") and tmp_path / "p.resmem")
    assert (loaded.plan_ == [{}]) == (decision.index is None)
    for one in (index, loaded):
        for found, expected in zip(one.search(queries, 7), wanted, strict=True):
            same(found, expected)


def test_excluded_rows_padding_and_threads_are_as_in_search():
    rng = np.random.default_rng(4)
    rows = keys(rng, 6)
    index = resmem.Index(rows, metric="inner_product")
    for options in ({"exclude_ids": np.arange(6)}, {"exclude_ids": [[1, -1]] * 6}, {"threads": 2}):
        wanted = resmem.search(rows, rows, 9, "inner_product", **options)
        for one, two in zip(index.search(rows, 9, **options), wanted, strict=True):
            same(one, two)


def test_index_may_begin_and_end_without_rows(tmp_path):
    index = resmem.Index(np.empty((0, D)))
    assert (len(index), bool(index), index.d, index.ids.tolist()) == (0, True, D, [])
    assert index.get([]).shape == (0, D)
    distances, ids = index.search(np.ones((2, D)), k=2)
    assert (ids.tolist(), np.isinf(distances).all()) == ([[-1, -1]] * 2, True)
    index.save(tmp_path / "e.resmem")
    index = resmem.Index.load(tmp_path / "e.resmem").add(np.eye(D)).remove([0, 1, 2])
    assert len(index.add([[1.0, 2.0, 3.0]])) == 1
    assert index.ids.tolist() == [3]
    assert repr(index).startswith("Index(metric='euclidean', key_dtype='float32') [1 rows, d=3, ")
    assert index.save(tmp_path / "e.resmem").get([3]).tolist() == [[1.0, 2.0, 3.0]]


def test_copy_of_an_index_changes_on_its_own():
    rng = np.random.default_rng(5)
    index = resmem.Index(keys(rng, 5), ids=[5, 4, 3, 2, 1])
    other = copy.copy(index).remove([3])
    index.add(keys(rng, 1))
    assert (index.ids.tolist(), other.ids.tolist()) == ([5, 4, 3, 2, 1, 6], [5, 4, 2, 1])


def test_searches_see_an_update_of_an_index_as_a_whole():
    n, wrong, done = 300, [], threading.Event()
    index = resmem.Index(np.zeros((n, D)), key_dtype="float32")

    def search():
        while not done.is_set():
            distances, ids = index.search(np.zeros((1, D)), k=n)
            if distances[0, 0] != distances[0, -1] or sorted(ids[0]) != list(range(n)):
                wrong.append(distances)

    thread = threading.Thread(target=search)
    thread.start()
    for turn in range(80):
        index.update(np.arange(n), np.full((n, D), turn))
    done.set()
    thread.join()
    assert not wrong


def test_files_of_index_and_memory_are_told_apart(tmp_path):
    rng = np.random.default_rng(6)
    path, other = tmp_path / "i.resmem", tmp_path / "m.resmem"
    resmem.Index(keys(rng, 5), metric="cosine").save(path)
    resmem.Memory().fit(keys(rng, 5), np.zeros((5, 2)), np.zeros(5, int)).save(other)
    with pytest.raises(resmem.FileFormatError, match=r"holds an index, not a memory; load it with"):
        resmem.Memory.load(path)
    with pytest.raises(resmem.FileFormatError, match=r"holds a memory, not an index; load it with"):
        resmem.Index.load(other)
    assert resmem.Index.load(path).metric == "cosine"
    index = resmem.Index.load(path).update([2], keys(rng, 1)).save(path, append=True)
    assert "needs/updates" in sections_of(path)
    same(resmem.Index.load(path).get([2]), index.get([2]))


def test_file_of_an_index_that_makes_no_sense_is_refused(tmp_path):
    path = str(tmp_path / "i.resmem")
    resmem.Index(np.eye(3)).save(path)
    loaded = container.load(path, verify=True)
    for name, value, words in (
        ("metric", "manhattan", "metric must be one of"),
        ("key_dtype", "auto", "key_dtype is missing"),
        ("allowed", -1, "allowed must"),
    ):
        meta = {**loaded.meta, "memory": {**loaded.meta["memory"], name: value}}
        sections = (container.Section(n, a) for n, a in loaded.arrays.items())
        container.save(path, meta, sections, None)
        with pytest.raises(resmem.FileFormatError, match=words):
            resmem.Index.load(path)


def test_queries_that_float32_rounds_too_far_are_told():
    rows = 1e9 + np.random.default_rng(7).standard_normal((50, 2))
    index = resmem.Index(rows)
    with pytest.warns(resmem.ResmemWarning, match=r"queries: row 1 is rounded to float32"):
        index.search([rows[0], [5e17, 1.0]], 1)
    index.search(rows, 1)


def test_columns_of_a_table_are_checked():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(np.eye(3), columns=list("abc"))
    index = resmem.Index(table)
    assert index.columns == ("a", "b", "c")
    for call in (index.add, lambda rows: index.search(rows, 1)):
        with pytest.raises(ValueError, match=r"pass (rows|queries)\[list\(index\.columns\)\]"):
            call(table[list("bca")])
