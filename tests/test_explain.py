"""Explanations: parts that add up to the correction, but for roundings, whatever the store."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
import resmem
from cases import same_bits

D, C = 4, 5
STORES = ["dense", "sparse:1", "sparse:3", "sparse:9", "head"]


def examples(rng, n):
    keys = rng.standard_normal((n, D), dtype=np.float32)
    return keys, 3 * rng.standard_normal((n, C), dtype=np.float32), rng.integers(0, C, n)


def remembered(rng, store, n=40, **options):
    """Return a memory, the oracle's and the targets by id, after an addition and a removal."""
    head = tuple(rng.standard_normal((C, w), dtype=np.float32) for w in (D, 1))
    head = (head[0], head[1][:, 0]) if store == "head" else None
    both = [m(store=store, head=head, **options) for m in (resmem.Memory, oracle.OracleMemory)]
    rows, more = examples(rng, n), examples(rng, 9)
    ids, gone = rng.permutation(1000)[:n], rng.permutation(n)[: n // 3]
    for mem in both:
        mem.fit(rows[0], None if head else rows[1], rows[2], ids)
        mem.add(more[0], None if head else more[1], more[2], np.arange(9) + 1000)
        mem.remove(ids[gone])
    targets = dict(zip([*ids, *range(1000, 1009)], [*rows[2], *more[2]], strict=True))
    return *both, targets


def assert_parts_add_up(explanation):
    """Check the bound that the class states, summing in neighbour order and backwards."""
    spread = np.broadcast_to(explanation.spread[:, :, None], explanation.contributions.shape)
    parts = np.concatenate([spread, explanation.contributions], axis=1)
    bound = (4 * spread.shape[1] + 8) * 2.0**-53 * np.abs(parts).sum(axis=1)
    for ordered in (parts, parts[:, ::-1]):
        total = np.add.accumulate(ordered, axis=1)[:, -1]
        assert (np.abs(total - explanation.correction) <= bound).all()


@settings(max_examples=settings().max_examples // 4)
@given(
    seed=st.integers(0, 2**31),
    store=st.sampled_from(STORES),
    key_dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    half=st.booleans(),
    temperature=st.sampled_from([1.0, 0.4]),
    n=st.sampled_from([1, 7, 40]),
    k=st.sampled_from([1, 6, 60]),
    top=st.sampled_from([1, 3, 9]),
    strength=st.sampled_from([0.7, 1.0, 0.1, -2.0, 0.0]),
)
def test_the_parts_add_up_to_the_correction(
    seed, store, key_dtype, half, temperature, n, k, top, strength
):
    rng = np.random.default_rng(seed)
    mem, theirs, targets = remembered(
        rng, store, n, k=k, temperature=temperature, strength=strength, key_dtype=key_dtype,
        residual_dtype="float16" if half and store != "head" else "float32",
    )  # fmt: skip
    queries, outputs, _ = examples(rng, 6)
    excluded = rng.choice([*targets, -1], (6, 3))
    picks = [None, rng.integers(0, C, 2), rng.integers(0, C, (6, 3)), np.empty(0, int)]
    for columns in picks:
        got = mem.explain(queries, outputs, excluded, columns, top)
        at = {"exclude_ids": excluded, "columns": got.columns}
        assert_parts_add_up(got)
        same_bits(got.correction, strength * mem.correction(queries, **at))
        same_bits(got.base + got.correction, got.corrected)
        same_bits(got.corrected, mem.correct(queries, outputs, **at))
        mem.strength = 0
        same_bits(got.base, mem.correct(queries, outputs, **at))
        mem.strength = strength
        if columns is not None:
            same_bits(got.columns, np.broadcast_to(columns, got.columns.shape).astype(int))
    distances, ids = theirs.kneighbors(queries, k=got.ids.shape[1], exclude_ids=excluded)
    same_bits(got.ids, ids)
    same_bits(got.distances, distances)
    weights, totals = oracle.weights(distances, mem.sigma_)
    same_bits(got.weights, weights / totals[:, None])
    labels = [[targets.get(i, -1) for i in row] for row in ids.tolist()]
    same_bits(got.targets, np.array(labels).reshape(ids.shape))


@pytest.mark.parametrize("store", STORES)
def test_contribution_is_the_weight_times_the_stored_residual(store):
    mem, theirs, _ = remembered(np.random.default_rng(1), store, k=8)
    got = mem.explain(examples(np.random.default_rng(2), 5)[0], columns=np.arange(C))
    rows = np.array([[list(theirs.ids_).index(i) for i in row] for row in got.ids])
    if not store.startswith("sparse"):
        kept = theirs.stored_[0][rows].astype(np.float64)
        same_bits(got.contributions, got.weights[:, :, None] * kept)
        assert not got.spread.any()
        return
    index, value, rest = theirs.stored_
    for i, j, c in np.ndindex(got.contributions.shape):
        row = rows[i, j]
        found = np.flatnonzero(index[row] == c)
        kept = float(value[row][found[0]]) if len(found) else 0.0
        assert got.contributions[i, j, c] == got.weights[i, j] * kept
    same_bits(got.spread, got.weights * -rest[rows].astype(np.float64) + 0.0)


@pytest.mark.parametrize("with_outputs", [True, False])
@pytest.mark.parametrize("strength", [0.5, -1.0, 0.0])
@pytest.mark.parametrize("store", STORES)
def test_strength_scales_all_parts_of_an_explanation(store, strength, with_outputs):
    """With half the strength neighbours add half, and the printed table says so."""
    mem, _, _ = remembered(np.random.default_rng(1), store, k=8)
    queries, outputs, _ = examples(np.random.default_rng(2), 5)
    given = outputs if with_outputs else None
    whole = mem.explain(queries, given, columns=np.arange(C))
    mem.strength = strength
    got = mem.explain(queries, given, columns=np.arange(C))
    for name in ("contributions", "spread", "correction"):
        np.testing.assert_array_equal(getattr(got, name), strength * getattr(whole, name))
    np.testing.assert_array_equal(got.weights, whole.weights)
    lines = [line.split() for line in repr(got[0]).splitlines()]
    summary = [words for words in lines if words[0] in ("base", "correction", "corrected")]
    numbers = {words[0]: [float(word) for word in words[1:]] for words in summary}
    np.testing.assert_allclose(numbers["correction"], got.correction[0], rtol=1e-3, atol=1e-12)
    assert "-0" not in {word for words in lines for word in words}
    if with_outputs:
        shown = np.add(numbers["base"], numbers["correction"])
        np.testing.assert_allclose(shown, numbers["corrected"], rtol=0, atol=2e-3)


@pytest.mark.parametrize("store", STORES)
def test_columns_are_ordered_by_the_size_of_their_correction(store):
    mem, _, _ = remembered(np.random.default_rng(3), store, k=5)
    queries = examples(np.random.default_rng(4), 20)[0]
    whole = mem.correction(queries)
    order = [sorted(range(C), key=lambda c: (-abs(row[c]), c)) for row in whole]
    for top in (1, 3, C, 99):
        np.testing.assert_array_equal(
            mem.explain(queries, top=top).columns, np.array(order)[:, :top]
        )


def test_columns_of_equal_correction_are_ordered_by_number():
    zeros = np.zeros((4, 70), dtype=np.float32)
    mem = resmem.Memory(k=2).fit(np.eye(4, 2), zeros, [33] * 4)
    got = mem.explain(np.eye(4, 2), top=50).columns
    assert got.tolist() == [[33, *(c for c in range(50) if c != 33)]] * 4


@pytest.mark.parametrize("shape", [(40,), (40, 1), (40, 3)])
def test_values_of_a_regression_are_explained(shape):
    rng = np.random.default_rng(5)
    keys = rng.standard_normal((40, D), dtype=np.float32)
    values, targets = rng.standard_normal((2, *shape))
    mem = resmem.Memory("regression", k=7, strength=0.5).fit(keys, values, targets)
    excluded = np.arange(40)
    got = mem.explain(keys, values, excluded)
    assert got.columns.shape == (40, values[0].size)
    corrected = mem.correct(keys, values, excluded).reshape(40, -1)
    same_bits(got.corrected, np.take_along_axis(corrected, got.columns, axis=1))
    assert_parts_add_up(got)
    same_bits(got.base + got.correction, got.corrected)
    same_bits(got.targets, targets[got.ids])
    nobody = mem.explain(keys[:2], exclude_ids=np.tile(np.arange(40), (2, 1)))
    assert np.isnan(nobody.targets).all()


@pytest.mark.parametrize("store", STORES)
def test_query_without_neighbours_has_an_empty_explanation(store):
    mem, _, targets = remembered(np.random.default_rng(6), store, k=3)
    queries, outputs, _ = examples(np.random.default_rng(7), 2)
    everyone = np.tile(np.array([*targets]), (2, 1))
    empty, _, _ = remembered(np.random.default_rng(6), store, k=3)
    empty.remove(empty.kneighbors(queries[:1], k=len(empty))[1][0])
    for got in (mem.explain(queries, outputs, everyone), empty.explain(queries, outputs)):
        assert (got.ids == -1).all()
        assert (got.targets == -1).all()
        for part in (got.weights, got.contributions, got.spread, got.correction):
            same_bits(part, np.zeros(part.shape))
        same_bits(got.corrected, got.base)
    nothing = mem.explain(queries[:0], outputs[:0])
    assert nothing.contributions.shape == (0, 3, C)
    assert nothing.corrected.shape == (0, C)


@pytest.mark.parametrize("store", STORES)
def test_blocks_and_threads_change_no_bit(store, monkeypatch):
    mem, _, _ = remembered(np.random.default_rng(8), store, k=6)
    queries, outputs, _ = examples(np.random.default_rng(9), 7)
    columns = np.arange(7 * 2).reshape(7, 2) % C
    for arguments in ((queries, outputs), (queries, None, None, columns)):
        whole = mem.explain(*arguments)
        monkeypatch.setattr("resmem._base.blocks._BLOCK_BYTES", 1)
        single = mem.explain(*arguments, threads=3)
        monkeypatch.undo()
        for name in vars(whole):
            one, other = getattr(whole, name), getattr(single, name)
            assert one is other is None if one is None else np.all(one == other)


def test_outputs_may_be_left_out():
    rng = np.random.default_rng(10)
    mem, _, _ = remembered(rng, "dense", k=3)
    queries = examples(rng, 2)[0]
    assert mem.explain(queries).base is mem.explain(queries).corrected is None
    head, _, _ = remembered(rng, "head", k=3)
    got = head.explain(queries)
    same_bits(got.corrected, head.correct(queries, columns=got.columns))


@pytest.mark.parametrize("step", ["distance: 1.0 to 1.5, 0.5", "agreement: 0.2 to 0.5, 1.0"])
@pytest.mark.parametrize("method", ["residual", "targets"])
def test_gates_apply_where_outputs_are_left_out(step, method):
    mem, _, _ = remembered(np.random.default_rng(1), "dense", k=6, method=method, strength=0.8)
    queries = examples(np.random.default_rng(2), 20)[0]
    columns = np.arange(C)
    plain = mem.explain(queries, columns=columns).correction
    mem.gate = f"{step} beyond"
    gated = mem.explain(queries, columns=columns).correction
    found = np.abs(gated).max(axis=1) / np.abs(plain).max(axis=1)
    low, high = (0.5, 1.0) if "distance" in step else (0.2, 1.0)
    factors = np.where(found > (low + high) / 2, high, low)
    assert len(set(factors)) == 2
    np.testing.assert_allclose(gated, factors[:, None] * plain, rtol=1e-12)


def test_gate_by_confidence_needs_outputs_to_explain():
    mem, _, _ = remembered(np.random.default_rng(1), "dense", k=6)
    mem.gate = "confidence: 1.0 to 0.5, 0.2 beyond"
    queries, outputs, _ = examples(np.random.default_rng(2), 5)
    with pytest.raises(ValueError, match="outputs must be given where the gate looks at the base"):
        mem.explain(queries)
    assert len(mem.explain(queries, outputs)) == 5


def test_item_of_an_explanation_is_one_query():
    rng = np.random.default_rng(11)
    mem, _, _ = remembered(rng, "sparse:1", k=3)
    whole = mem.explain(*examples(rng, 5)[:2])
    assert len(whole) == len(list(whole)) == 5
    assert len(whole[1:3]) == 2
    for i, one in enumerate(whole):
        assert len(one) == 1
        for name in whole._arrays():
            same_bits(getattr(one, name), getattr(whole, name)[i : i + 1])
    same_bits(whole[-1].ids, whole.ids[4:])
    with pytest.raises(IndexError):
        whole[5]
    assert whole[:2][0].base is not None
    assert mem.explain(examples(rng, 2)[0])[1].base is None


def test_one_query_prints_as_a_table():
    keys = np.arange(13.0)[:, None]
    logits = np.zeros((13, 3), dtype=np.float32)
    mem = resmem.Memory(k=12, sigma=np.inf, strength=0.5).fit(keys, logits, np.arange(13) % 3)
    text = repr(mem.explain([[0.0]], logits[:1], top=2)[0])
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "Explanation of 1 query, 12 neighbours"
    assert lines[1] == "id distance weight target column 0 column 1"
    assert [line.split()[0] for line in lines[2:5]] == ["base", "correction", "corrected"]
    assert lines[5].startswith("0 0 0.08333 0 ")
    assert len(lines) == 5 + 10 + 1
    assert lines[-1] == "and 2 more, of weight 0.1667 together"
    assert "any column" not in text
    assert repr(mem.explain(keys)) == (
        "Explanation of 13 queries, 12 neighbours, 3 columns; [i] is that of query i"
    )


def test_explanation_table_fits_the_store_and_the_task():
    rng = np.random.default_rng(12)
    sparse, _, _ = remembered(rng, "sparse:1", k=3)
    assert "any column" in repr(sparse.explain(examples(rng, 1)[0]))
    values = rng.standard_normal((9, 3))
    mem = resmem.Memory("regression", k=2).fit(values, values, values + 0.25)
    assert "(3 values)" in repr(mem.explain(values[:1]))
    flat = resmem.Memory("regression", k=1).fit(values, values[:, 0], np.full(9, 0.125))
    assert " 0.125 " in repr(flat.explain(values[:1], values[:1, 0]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"columns": [C]}, ValueError, "columns must lie between 0 and 4, got 5"),
        ({"columns": [[0], [1]]}, ValueError, "columns must have one row per row of queries"),
        ({"top": 0}, ValueError, "top must be at least 1, got 0"),
        ({"top": 2.0}, TypeError, "top must be an integer"),
        ({"outputs": np.zeros((3, 2))}, ValueError, "outputs must have 5 columns"),
        ({"outputs": np.zeros((2, C))}, ValueError, "outputs must have one row per row of emb"),
        ({"embeddings": np.zeros((3, 2))}, ValueError, "embeddings must have 4 columns"),
        ({"exclude_ids": [1]}, ValueError, "exclude_ids must have one row per row of queries"),
    ],
)
def test_explain_of_wrong_input_is_refused(arguments, error, message):
    mem, _, _ = remembered(np.random.default_rng(13), "dense", k=3)
    with pytest.raises(error, match=message):
        mem.explain(**{"embeddings": np.zeros((3, D)), **arguments})


def test_columns_of_single_values_are_refused():
    mem = resmem.Memory("regression", k=1).fit(np.eye(2), np.zeros(2), np.ones(2))
    with pytest.raises(ValueError, match=r"columns needs outputs of several columns"):
        mem.explain(np.eye(2), columns=[0])


def test_explain_of_an_unfitted_memory_is_refused():
    with pytest.raises(resmem.NotFittedError):
        resmem.Memory().explain(np.eye(2))
