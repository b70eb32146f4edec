"""Memories that take the rows of others, which a fit of all rows would give too."""

# ruff: noqa: E501 - one case a line

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import resmem
from test_rows_by_id import HEAD, STORES, examples, same, sections_of, settled

PLAIN = {"k": 3, "sigma": 0.7}


def part_of(rows, at):
    return [None if part is None else part[at] for part in rows]


def memory(rng, n=6, first=0, **options):
    rows = examples(rng, n, "values" if options.get("task") == "regression" else "logits")
    return resmem.Memory(**PLAIN, **options).fit(*rows, ids=np.arange(first, first + n))


def assert_equal(one, two, store="logits"):
    """Check that two memories hold the same rows and answer with the same bits."""
    assert sorted(one.ids.tolist()) == sorted(two.ids.tolist())
    queries, outputs, _ = examples(np.random.default_rng(50), 5, store)
    for found, wanted in zip(
        (*one.kneighbors(queries), one.correct(queries, outputs)),
        (*two.kneighbors(queries), two.correct(queries, outputs)),
        strict=True,
    ):
        same(found, wanted)
    rows, wanted = one.get(two.ids), two.get(two.ids)
    for name in ("embeddings", "outputs", "targets"):
        same(getattr(rows, name), getattr(wanted, name))


@pytest.mark.parametrize("key_dtype", ["float32", "float16"])
@pytest.mark.parametrize("store", STORES)
@settings(max_examples=40)
@given(data=st.data())
def test_merge_of_parts_equals_one_fit_of_all(store, key_dtype, data):
    """Rows are dealt to up to three memories; some are removed from these or updated before."""
    if store == "head":
        key_dtype = "float32"
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    n = data.draw(st.integers(1, 14))
    rows, ids = examples(rng, n, store), rng.permutation(3 * n)[:n]
    owner = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    options = {**PLAIN, **STORES[store], "key_dtype": key_dtype}
    parts = []
    for each in range(3):
        at = np.flatnonzero(owner == each)
        if len(at) == 0 and each:
            continue
        mem = resmem.Memory(**options).fit(*part_of(rows, at[:2]), ids=ids[at[:2]])
        if len(at[2:]):
            mem.add(*part_of(rows, at[2:]), ids=ids[at[2:]])
        if len(at) and data.draw(st.booleans()):
            mem.update(ids[at[-1:]], *part_of(rows, at[-1:]))
        if data.draw(st.booleans()):
            extra = 3 * n + each
            mem.add(*examples(rng, 1, store), ids=[extra]).remove([extra])
        parts.append(mem)
    first, *others = parts
    for other in others:
        assert first.merge(other) is first
    whole = resmem.Memory(**options).fit(*rows, ids=ids)
    assert_equal(settled(first), whole, store)
    assert first._state.view.rows.id_fault() == ""


def test_merge_shares_arrays_and_changes_stay_apart():
    rng = np.random.default_rng(1)
    one, two = memory(rng, 6), memory(rng, 5, 100)
    two.add(*examples(rng, 2), ids=[105, 106]).remove([101])
    before, queries = copy.copy(two), examples(rng, 4)[0]
    one.merge(two)
    first = two._state.view.rows.segments[0]["keys"]
    assert any(np.shares_memory(s["keys"], first) for s in one._state.view.rows.segments)
    one.remove([100, 102]).update([103], *examples(rng, 1)).add(*examples(rng, 3), ids=[7, 8, 9])
    for found, wanted in zip(two.kneighbors(queries), before.kneighbors(queries), strict=True):
        same(found, wanted)
    ids = sorted(one.ids.tolist())
    two.update([103], *examples(rng, 1)).remove([104]).add(*examples(rng, 2), ids=[200, 201])
    assert sorted(one.ids.tolist()) == ids == [0, 1, 2, 3, 4, 5, 7, 8, 9, 103, 104, 105, 106]
    assert sorted(two.ids.tolist()) == [100, 102, 103, 105, 106, 200, 201]


def test_merge_retires_what_the_other_has_removed():
    rng = np.random.default_rng(2)
    one, two = memory(rng, 6), memory(rng, 6, 10)
    two.remove([12, 15])
    three = memory(rng, 4, 3).remove([4, 5]).update([3], *examples(rng, 1)).remove([3, 6])
    three.add(*examples(rng, 1), ids=[30])
    one.merge(two).merge(three)  # rows that have such an id keep it
    assert sorted(one.ids.tolist()) == [*range(6), 10, 11, 13, 14, 30]
    for used in (12, 15, 6, 3):
        with pytest.raises(ValueError, match=f"never have been used before .* got {used}$"):
            one.add(*examples(rng, 1), ids=[used])
    assert one._state.view.rows.all_retired().tolist() == [[6, 6], [12, 12], [15, 15]]
    one.add(*examples(rng, 1))
    assert one.ids.max() == 31


def test_clashing_ids_are_named_and_nothing_changes():
    rng = np.random.default_rng(3)
    one, two = memory(rng, 6), memory(rng, 6, 5)
    before = one._state.view.rows
    with pytest.raises(ValueError, match=r"never have been used before in this memory, got 5$"):
        one.merge(two)
    one.remove([5])
    with pytest.raises(ValueError, match=r"never have been used before in this memory, got 5$"):
        one.merge(two)
    for itself in (one, copy.copy(one)):
        with pytest.raises(ValueError, match=r"merged into itself|never have been used"):
            one.merge(itself)
    assert len(before) == 6
    assert len(one) == 5


def test_residuals_are_computed_again_at_this_temperature():
    rng = np.random.default_rng(4)
    one, two = memory(rng, 6, temperature=2.0), memory(rng, 6, 10, temperature=0.5)
    rows = [np.concatenate(pair) for pair in zip(*(part(m) for m in (one, two)), strict=True)]
    whole = resmem.Memory(**PLAIN, temperature=2.0).fit(*rows, ids=[*one.ids, *two.ids])
    assert_equal(one.merge(two), whole)
    assert two.temperature == 0.5


def part(mem):
    got = mem.get(mem.ids)
    return got.embeddings, got.outputs, got.targets


@pytest.mark.parametrize("preprocess", ["center", "standardize", "unit", "pca:2", "whiten:2"])
def test_parts_with_one_preprocess_are_made_of_copies(preprocess):
    """What the message about other numbers advises works, and equals one memory of all rows."""
    rng = np.random.default_rng(5)
    first, more = memory(rng, 12, preprocess=preprocess), examples(rng, 9)
    other = memory(rng, 9, 20, preprocess=preprocess)
    if preprocess != "unit":
        words = "memories must have the same numbers, .*preprocess='" + preprocess
        with pytest.raises(ValueError, match=words):
            first.merge(other)
    whole = copy.copy(first).add(*more, ids=np.arange(20, 29))
    other = copy.copy(first)
    other.remove(other.ids).add(*more, ids=np.arange(20, 29))
    assert_equal(first.merge(other), whole)


def test_measured_sigma_stays_or_is_measured_when_missing():
    rng = np.random.default_rng(6)
    rows = examples(rng, 40)
    one = resmem.Memory(k=3).fit(*part_of(rows, slice(1)), ids=[100])
    two = resmem.Memory(k=3).fit(*part_of(rows, slice(1, 40)))
    known = two.sigma_
    assert one.merge(two).sigma_ != known
    assert one.sigma_ == resmem.Memory(k=3).fit(*rows, ids=one.ids).sigma_
    three = resmem.Memory(k=3).fit(*examples(rng, 30), ids=np.arange(200, 230))
    assert two.merge(three).sigma_ == known
    small = resmem.Memory(k=3).fit(*part_of(rows, slice(3)), ids=[300, 301, 302])
    with pytest.warns(resmem.ResmemWarning, match="measured on 3 rows"):
        small.merge(two)


def test_residuals_of_unlike_kinds_are_unknown_after_merge():
    rng = np.random.default_rng(7)
    kinds = "in-sample", "in-sample", "out-of-fold"
    one, two, three = (
        memory(rng, 4, 10 * i, residuals=kind, base="net" if i else None)
        for i, kind in enumerate(kinds)
    )
    assert one.merge(two).residuals == "in-sample"
    assert one.merge(three).residuals is None


def test_merged_memory_is_saved_continued_and_copied(tmp_path):
    rng = np.random.default_rng(8)
    paths = [str(tmp_path / f"{name}.resmem") for name in "abc"]
    one, two, three = (memory(rng, 5, 10 * i).save(p) for i, p in enumerate(paths))
    two.remove([12])
    one, three = (resmem.Memory.load(paths[i], verify=i == 0) for i in (0, 2))
    one.merge(two).merge(three).save(paths[0], append=True)
    assert "needs/updates" in sections_of(paths[0])  # 12 is retired, and that of a removed row
    for again in (resmem.Memory.load(paths[0]), pickle.loads(pickle.dumps(one)), copy.copy(one)):
        assert_equal(again, one)
        with pytest.raises(ValueError, match="never have been used"):
            again.add(*examples(rng, 1), ids=[12])
    one.save(paths[0])
    assert "needs/updates" not in sections_of(paths[0])
    assert_equal(resmem.Memory.load(paths[0]), one)
    assert len(resmem.Memory.load(paths[1])) == 5


def test_indexes_of_the_other_memory_come_along():
    rng = np.random.default_rng(9)
    n = 9000
    z, logits, y = (
        rng.standard_normal((n, 24)).astype(np.float32),
        np.zeros((n, 2)),
        np.zeros(n, int),
    )
    two = resmem.Memory(**PLAIN).fit(z, logits, y, ids=np.arange(10, n + 10)).prepare()
    one = resmem.Memory(**PLAIN).fit(z[:5], logits[:5], y[:5]).merge(two)
    assert one.plan_[1:] == two.plan_ != [{}]
    queries = z[:40] + np.float32(0.1)
    for found, wanted in zip(one.kneighbors(queries), two.kneighbors(queries), strict=True):
        assert found.shape == wanted.shape
    same(one.remove(np.arange(5)).kneighbors(queries)[0], two.kneighbors(queries)[0])


OTHER = {
    "task": ({"task": "regression"}, "got 'classification' and 'regression'"),
    "output_kind": ({"output_kind": "probabilities"}, "got 'logits' and 'probabilities'"),
    "store": ({"store": "sparse:1"}, "got 'dense' and 'sparse:1'"),
    "residual_dtype": ({"residual_dtype": "float16"}, "got 'float32' and 'float16'"),
    "preprocess": ({"preprocess": "unit"}, "got 'none' and 'unit'"),
    "key_dtype": ({"key_dtype": "float16"}, "got 'float32' and 'float16'"),
}


@pytest.mark.parametrize("name", OTHER)
def test_rows_kept_in_another_way_are_refused_by_name(name):
    rng = np.random.default_rng(10)
    options, words = OTHER[name]
    one = memory(rng)
    rows = examples(rng, 4, "probabilities" if name == "output_kind" else "logits")
    if name == "task":
        rows = examples(rng, 4, "values")
    two = resmem.Memory(**PLAIN, **options).fit(*rows, ids=np.arange(20, 24))
    with pytest.raises(ValueError, match=f"^memories must have one {name} to be merged, {words}"):
        one.merge(two)
    assert len(one) == 6


def test_other_columns_heads_and_temperatures_are_refused():
    rng = np.random.default_rng(11)
    keys, outputs, targets = examples(rng, 4)
    ids = np.arange(20, 24)
    wide = np.hstack([keys, keys])
    plain, flat = memory(rng), resmem.Memory("regression").fit(keys, targets, targets * 0.5)
    column = resmem.Memory("regression").fit(keys, targets[:, None], targets[:, None], ids=ids)
    sparse = {"store": "sparse:1"}
    for one, two, words in (
        (plain, resmem.Memory().fit(wide, outputs, targets, ids=ids), "one width of embeddings to be merged, got 3 and 6"),
        (plain, resmem.Memory().fit(keys, wide, targets, ids=ids), "one width of outputs to be merged, got 2 and 6"),
        (flat, column, r"one shape of targets to be merged, got (n,) and (n, C)"),
        (memory(rng, **sparse), memory(rng, 4, 20, **sparse, temperature=2.0), "temperature is fixed at fit for store='sparse:1', and the memories have 1 and 2"),
        (memory(rng, base="a"), memory(rng, 4, 20, base="b"), "of one base to be merged, got 'a' and 'b'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(words)):
            one.merge(two)
    heads = [
        resmem.Memory(store="head", head=(HEAD[0] + i, HEAD[1])).fit(keys, None, targets, ids=ids + 9 * i)
        for i in range(2)
    ]  # fmt: skip
    with pytest.raises(ValueError, match="one head to be merged, and these have other weights"):
        heads[0].merge(heads[1])
    with pytest.raises(TypeError, match=r"other must be a resmem\.Memory, got dict"):
        plain.merge({})
    for unfit in (lambda: plain.merge(resmem.Memory()), lambda: resmem.Memory().merge(plain)):
        with pytest.raises(resmem.NotFittedError):
            unfit()


def test_columns_of_tables_must_have_one_order():
    pandas = pytest.importorskip("pandas")
    keys, outputs, targets = examples(np.random.default_rng(12), 5)
    table = pandas.DataFrame(keys, columns=list("abc"))
    one = resmem.Memory().fit(table, outputs, targets)
    two = resmem.Memory().fit(table[list("bac")], outputs, targets, ids=np.arange(9, 14))
    with pytest.raises(ValueError, match="same columns of embeddings, column 0 is 'a' and 'b'"):
        one.merge(two)
    two = resmem.Memory().fit(table[list("abc")], outputs, targets, ids=np.arange(9, 14))
    assert len(one.merge(two)) == 10
