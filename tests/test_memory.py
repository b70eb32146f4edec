"""`Memory`: the oracle's bits through any history, and every form its input may come in."""

from __future__ import annotations

import copy
import ctypes
import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
import resmem

KINDS = [
    ("classification", "logits"),
    ("classification", "probabilities"),
    ("regression", "values"),
]
LARGEST_ID = 2**63 - 1


def examples(rng, kind, n, d=5, c=3, flat=False, lattice=False):
    """Return embeddings, outputs and targets; a lattice has ties and duplicates."""
    keys = rng.integers(-1, 2, (n, d)) if lattice else rng.standard_normal((n, d))
    if kind == "values":
        shape = (n,) if flat else (n, c)
        return keys.astype(np.float32), rng.standard_normal(shape), rng.standard_normal(shape)
    scores = rng.standard_normal((n, c)).astype(np.float32)
    if kind == "probabilities":
        scores = oracle.softmax(scores).astype(np.float32)
    else:
        scores[rng.random((n, c)) < 0.1] = -np.inf
        scores[:, 0] = np.where(np.isneginf(scores).all(axis=1), 0, scores[:, 0])
    return keys.astype(np.float32), scores, rng.integers(0, c, n)


def pair(task, kind, **options):
    return (
        resmem.Memory(task=task, output_kind=kind, **options),
        oracle.OracleMemory(task=task, output_kind=kind, **options),
    )


def same_bits(got, wanted):
    got, wanted = np.asarray(got), np.asarray(wanted)
    wanted = wanted[:, 0] if wanted.ndim == got.ndim + 1 else wanted
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    assert got.tobytes() == wanted.tobytes()


def same_answers(mine, theirs, queries, outputs, exclude=None):
    """Check that every query method of both gives the same bits."""
    assert len(mine) == len(theirs)
    found, wanted = (m.kneighbors(queries, exclude_ids=exclude) for m in (mine, theirs))
    same_bits(found[0], wanted[0])
    same_bits(found[1], wanted[1])
    same_bits(mine.correction(queries, exclude), theirs.correction(queries, exclude))
    same_bits(mine.aggregate(*found, outputs), theirs.correct(queries, outputs, exclude))
    for method in ("correct", "predict", "predict_proba"):
        if method == "predict_proba" and mine.task == "regression":
            continue
        got, expected = (getattr(m, method)(queries, outputs, exclude) for m in (mine, theirs))
        same_bits(got, expected)


@pytest.fixture
def fitted():
    rng = np.random.default_rng(0)
    rows = examples(rng, "logits", 120)
    return resmem.Memory(k=7).fit(*rows), rows


# ---- The oracle's bits ---------------------------------------------------------------------


@pytest.mark.parametrize(("task", "kind"), KINDS)
@settings(max_examples=settings().max_examples // 10)
@given(
    seed=st.integers(0, 2**31),
    first=st.integers(0, 40),
    steps=st.lists(st.sampled_from(["add", "given ids", "remove", "query", "refit"]), max_size=7),
    k=st.sampled_from([1, 2, 5, 17, 90]),
    sigma=st.sampled_from(["auto", 0.3, 1e-300, 4.0, float("inf")]),
    temperature=st.sampled_from([1.0, 0.25, 3.0]),
    strength=st.sampled_from([1.0, 0.0, 0.7, -2.0]),
    lattice=st.booleans(),
    flat=st.booleans(),
)
def test_any_history_gives_the_bits_of_the_oracle(
    task, kind, seed, first, steps, k, sigma, temperature, strength, lattice, flat
):
    rng = np.random.default_rng(seed)
    options = {"k": k, "sigma": 1.0 if first == 0 and sigma == "auto" else sigma}
    options |= {"temperature": temperature if kind == "logits" else 1.0, "strength": strength}
    mine, theirs = both = pair(task, kind, **options)

    def rows(n):
        return examples(rng, kind, n, flat=flat, lattice=lattice)

    start = rows(first)
    for m in both:
        m.fit(*start)
    for step in [*steps, "query"]:
        size = int(rng.integers(0, 12))
        living = theirs.ids_[theirs.alive_]
        if step == "add":
            more = rows(size)
            for m in both:
                m.add(*more)
        elif step == "given ids":
            more = rows(size)
            ids = rng.permutation(size) * 3 + int(theirs.ids_.max(initial=-1)) + 1
            for m in both:
                m.add(*more, ids=ids)
        elif step == "remove":
            gone = rng.permutation(living)[: int(rng.integers(0, len(living) + 1))]
            for m in both:
                m.remove(gone)
        elif step == "refit":
            again = rows(size + 1)
            ids = rng.permutation(size + 1) + 7
            for m in both:
                m.fit(*again, ids=ids)
        else:
            queries, outputs, _ = rows(6)
            exclude = rng.choice(np.append(theirs.ids_, -1), (6, 3))
            same_answers(mine, theirs, queries, outputs)
            same_answers(mine, theirs, queries, outputs, exclude)
        assert mine.sigma_ == theirs.sigma_


@pytest.mark.parametrize(("task", "kind"), KINDS)
def test_exclusions_of_one_and_of_several_ids_per_query(task, kind):
    rng = np.random.default_rng(1)
    rows = examples(rng, kind, 60, lattice=True)
    mine, theirs = (m.fit(*rows) for m in pair(task, kind, k=4))
    own = np.arange(20)
    for exclude in (own, own[:, None], np.stack([own, own + 1, np.full(20, -1)], axis=1)):
        same_answers(mine, theirs, rows[0][:20], rows[1][:20], exclude)
    assert not (mine.kneighbors(rows[0][:20], exclude_ids=own)[1] == own[:, None]).any()
    nothing = np.empty((20, 0), dtype=np.int64)
    same_bits(
        mine.correct(rows[0][:20], rows[1][:20], nothing), mine.correct(rows[0][:20], rows[1][:20])
    )


def test_every_row_excluded_leaves_the_base():
    rng = np.random.default_rng(2)
    keys, logits, targets = examples(rng, "logits", 4)
    mem = resmem.Memory().fit(keys, logits, targets)
    exclude = np.tile(np.arange(4), (4, 1))
    same_bits(mem.correct(keys, logits, exclude), oracle.softmax(logits))
    distances, ids = mem.kneighbors(keys, exclude_ids=exclude)
    assert (distances == np.inf).all()
    assert (ids == -1).all()


@pytest.mark.parametrize(("task", "kind"), KINDS)
def test_more_neighbours_than_rows_are_padded(task, kind):
    rng = np.random.default_rng(3)
    rows = examples(rng, kind, 5)
    mine, theirs = (m.fit(*rows) for m in pair(task, kind, k=12))
    same_answers(mine, theirs, *examples(rng, kind, 9)[:2])
    distances, ids = mine.kneighbors(rows[0])
    assert distances.shape == ids.shape == (5, 12)
    assert (ids[:, 5:] == -1).all()
    assert (distances[:, 5:] == np.inf).all()


@pytest.mark.parametrize(("task", "kind"), KINDS)
@pytest.mark.parametrize("how", ["fitted on nothing", "all removed"])
def test_an_empty_memory_gives_the_base(task, kind, how):
    rng = np.random.default_rng(4)
    rows = examples(rng, kind, 8)
    mem = resmem.Memory(task=task, output_kind=kind)
    if how == "fitted on nothing":
        mem.fit(*(part[:0] for part in rows))
    else:
        mem.fit(*rows).remove(np.arange(8))
    queries, outputs, _ = examples(rng, kind, 6)
    assert len(mem) == 0
    assert mem
    same_bits(mem.correct(queries, outputs), oracle.base(kind, outputs))
    same_bits(mem.correction(queries), np.zeros((6, 3)))
    assert (mem.kneighbors(queries, k=2)[1] == -1).all()
    mem.add(*rows)
    first = 0 if how == "fitted on nothing" else 8
    assert np.array_equal(mem.kneighbors(rows[0], k=1)[1][:, 0], first + np.arange(8))


def test_no_queries_give_no_rows(fitted):
    mem, (keys, logits, _) = fitted
    assert mem.correct(keys[:0], logits[:0]).shape == (0, 3)
    assert mem.predict(keys[:0], logits[:0]).shape == (0,)
    assert mem.predict_proba(keys[:0], logits[:0]).shape == (0, 3)
    assert mem.kneighbors(keys[:0], k=4)[1].shape == (0, 4)


def test_regression_keeps_the_form_of_its_targets():
    rng = np.random.default_rng(5)
    keys, outputs, targets = examples(rng, "values", 30, flat=True)
    flat = resmem.Memory(task="regression", k=3).fit(keys, outputs, targets)
    column = resmem.Memory(task="regression", k=3).fit(keys, outputs[:, None], targets[:, None])
    wanted = oracle.OracleMemory("regression", "values", k=3).fit(keys, outputs, targets)
    same_bits(flat.predict(keys, outputs), wanted.predict(keys, outputs)[:, 0])
    same_bits(column.predict(keys, outputs[:, None]), wanted.predict(keys, outputs))
    assert flat.correction(keys).shape == (30,)
    assert column.correction(keys).shape == (30, 1)


# ---- Parameters ----------------------------------------------------------------------------


def test_parameters_set_later_act_like_those_of_the_constructor():
    rng = np.random.default_rng(6)
    rows, more = examples(rng, "logits", 50), examples(rng, "logits", 20)
    queries, outputs, _ = examples(rng, "logits", 9)
    mem = resmem.Memory(k=3).fit(*rows).add(*more)
    for name, value in [("k", 9), ("temperature", 2.5), ("sigma", 0.4), ("strength", 0.3)]:
        before = mem.correct(queries, outputs)
        setattr(mem, name, value)
        assert getattr(mem, name) == value
        assert not np.array_equal(mem.correct(queries, outputs), before)
    wanted = oracle.OracleMemory(k=9, temperature=2.5, sigma=0.4, strength=0.3)
    same_answers(mem, wanted.fit(*rows).add(*more), queries, outputs)
    mem.sigma = np.float32(np.inf)
    assert mem.sigma_ == np.inf


def test_temperature_set_between_adds_applies_to_all_rows():
    rng = np.random.default_rng(22)
    rows, more, last = (examples(rng, "logits", n) for n in (50, 9, 30))
    mem = resmem.Memory(k=6, sigma=0.8, temperature=5.0).fit(*rows).add(*more)
    mem.remove([0, 3, 55]).temperature = 2.0
    mem.add(*last).temperature = 0.5
    wanted = oracle.OracleMemory(k=6, sigma=0.8, temperature=0.5)
    wanted.fit(*rows).add(*more).remove([0, 3, 55]).add(*last)
    same_answers(mem, wanted, *examples(rng, "logits", 12)[:2])


def test_an_interrupted_change_of_a_parameter_changes_nothing(fitted, monkeypatch):
    mem, (keys, logits, _) = fitted
    mem.sigma = 2.0
    mem._state.publish(
        rows=replace(mem._state.view.rows, auto_sigma=None)
    )  # the state after a fit with a number
    before = mem.correct(keys, logits)

    def interrupt(*_):
        raise KeyboardInterrupt

    for module, function, name, value in (
        (resmem._state.view, "with_derived_arrays", "temperature", 3.0),
        (resmem._correction.length_scale, "measure", "sigma", "auto"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, function, interrupt)
            with pytest.raises(KeyboardInterrupt):
                setattr(mem, name, value)
        assert (mem.temperature, mem.sigma) == (1.0, 2.0)
        same_bits(mem.correct(keys, logits), before)


def test_strength_zero_is_the_base_model(fitted):
    mem, (keys, logits, _) = fitted
    mem.strength = 0
    same_bits(mem.correct(keys, logits), oracle.softmax(logits))


@pytest.mark.parametrize("n", [1, 2, 3, 51, 256, 257, 400])
@pytest.mark.parametrize("k", [1, 2, 50, 500])
@pytest.mark.parametrize("given_ids", [False, True])
def test_automatic_sigma_is_that_of_the_oracle(n, k, given_ids):
    rng = np.random.default_rng(n)
    rows = examples(rng, "logits", n)
    ids = rng.permutation(3 * n)[:n] if given_ids else None
    mem = resmem.Memory(k=k).fit(*rows, ids=ids)
    assert mem.sigma_ == oracle.auto_sigma(rows[0], ids, k)
    assert mem.sigma == "auto"
    measured = mem.sigma_
    mem.add(*examples(rng, "logits", n))  # sigma stays as fitted
    assert mem.sigma_ == measured


def test_automatic_sigma_with_a_zero_median_is_positive():
    keys = np.zeros((41, 2), dtype=np.float32)
    keys[:9] = np.random.default_rng(7).standard_normal((9, 2))
    outputs, targets = np.zeros((41, 2), dtype=np.float32), np.zeros(41, dtype=np.int64)
    mem = resmem.Memory(k=5).fit(keys, outputs, targets)
    assert mem.sigma_ == oracle.auto_sigma(keys, None, 5)
    assert 0 < mem.sigma_ != 1
    assert resmem.Memory(k=5).fit(np.ones((41, 2)), outputs, targets).sigma_ == 1
    assert resmem.Memory(k=5).fit(keys[:1], outputs[:1], targets[:1]).sigma_ == 1


@pytest.mark.parametrize("meanwhile", [3.0, "auto"])
def test_sigma_set_to_auto_again_is_measured_again(meanwhile):
    rng = np.random.default_rng(8)
    rows, more = examples(rng, "logits", 40), examples(rng, "logits", 9)
    mem = resmem.Memory(k=5).fit(*rows)
    mem.sigma = meanwhile
    assert mem.sigma_ == (3.0 if meanwhile == 3.0 else oracle.auto_sigma(rows[0], None, 5))
    mem.add(*more).sigma = "auto"
    assert mem.sigma_ == oracle.auto_sigma(np.concatenate([rows[0], more[0]]), None, 5)


def test_sigma_set_to_auto_after_fit_is_measured_then():
    rng = np.random.default_rng(8)
    rows = examples(rng, "logits", 40)
    mem = resmem.Memory(k=5, sigma=3.0).fit(*rows)
    mem.sigma = "auto"
    assert mem.sigma_ == oracle.auto_sigma(rows[0], None, 5)


@pytest.mark.parametrize("added", [0, 9, 90])
@pytest.mark.parametrize("gone", [0, 20, 38])
def test_sigma_set_to_auto_is_measured_on_the_current_rows(added, gone):
    rng = np.random.default_rng(9)
    rows, more = examples(rng, "logits", 40), examples(rng, "logits", added)
    mem = resmem.Memory(k=5, sigma=3.0).fit(*rows).add(*more).remove(np.arange(gone))
    mem.sigma = "auto"
    living = np.concatenate([rows[0], more[0]])[gone:]
    assert mem.sigma_ == oracle.auto_sigma(living, np.arange(gone, 40 + added), 5)


def test_interrupted_change_of_temperature_changes_nothing(monkeypatch):
    rng = np.random.default_rng(9)
    rows = examples(rng, "logits", 40)
    mem = resmem.Memory(k=5).fit(*rows)
    before = mem.correct(*rows[:2])

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(resmem._core, "class_residuals", interrupted)
        with pytest.raises(KeyboardInterrupt):
            mem.temperature = 2.0
    assert mem.temperature == 1.0
    same_bits(mem.correct(*rows[:2]), before)


# ---- Predictions ---------------------------------------------------------------------------


def test_of_equal_classes_the_first_is_predicted():
    keys = np.zeros((2, 1), dtype=np.float32)
    mem = resmem.Memory(output_kind="probabilities", sigma=1.0)
    mem.fit(keys, np.full((2, 4), 0.25), [3, 1])
    assert mem.predict(keys[:1], np.full((1, 4), 0.25)).tolist() == [1]
    mem.strength = 0
    assert mem.predict(keys[:1], np.full((1, 4), 0.25)).tolist() == [0]


@pytest.mark.parametrize("strength", [1.0, -3.0, 40.0])
def test_predict_proba_is_not_negative_and_sums_to_1(strength):
    rng = np.random.default_rng(10)
    rows = examples(rng, "logits", 200, c=17)
    mem = resmem.Memory(k=6, strength=strength).fit(*rows)
    queries, outputs, _ = examples(rng, "logits", 50, c=17)
    proba = mem.predict_proba(queries, outputs)
    assert (proba >= 0).all()
    assert np.abs(proba.sum(axis=1) - 1).max() <= 1e-12
    best = mem.predict(queries, outputs)
    assert (proba[np.arange(50), best] == proba.max(axis=1)).all()


def test_logits_of_minus_infinity_are_probability_zero():
    keys = np.zeros((1, 2), dtype=np.float32)
    logits = np.array([[0.0, -np.inf, 0.0]], dtype=np.float32)
    mem = resmem.Memory(sigma=1.0).fit(keys, logits, [1])
    assert mem.correction(keys).tolist() == [[-0.5, 1.0, -0.5]]
    assert mem.correct(keys, logits).tolist() == [[0.0, 1.0, 0.0]]
    mem.strength = 0
    assert mem.correct(keys, logits).tolist() == [[0.5, 0.0, 0.5]]


@pytest.mark.parametrize(("task", "kind"), KINDS)
def test_batches_blocks_and_threads_change_no_bit(task, kind, monkeypatch):
    rng = np.random.default_rng(11)
    mem = resmem.Memory(task=task, output_kind=kind, k=6).fit(*examples(rng, kind, 300))
    queries, outputs, _ = examples(rng, kind, 41)
    exclude = rng.integers(-1, 300, (41, 2))
    whole = mem.correct(queries, outputs, exclude)
    for size in (1, 7, 40):
        parts = [slice(start, start + size) for start in range(0, 41, size)]
        split = [mem.correct(queries[p], outputs[p], exclude[p]) for p in parts]
        same_bits(np.concatenate(split), whole)
    for block in (1, 24 * 6 * 5, 1000):
        monkeypatch.setattr(resmem._base.blocks, "_BLOCK_BYTES", block)
        for threads in (1, 2, 5):
            same_bits(mem.correct(queries, outputs, exclude, threads), whole)


@pytest.mark.parametrize(
    "name", ["clip", "clip:0.25", "project", "project:0.001", "keep", "keep:0.5"]
)
def test_every_probability_map_has_its_properties(fitted, name):
    mem, (keys, logits, _) = fitted
    mem.strength, mem.probability_map = 2.0, name
    floor = float(name.partition(":")[2] or (0.1 if name == "keep" else 1e-6))
    got = mem.predict_proba(keys, logits)
    corrected, base = mem.correct(keys, logits), oracle.softmax(logits)
    assert (corrected < 0).any()
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-15 * 3)
    if name.startswith("keep"):
        same_bits(got, oracle.simplex(corrected, floor, "keep", base, 2.0))
    else:
        np.testing.assert_array_equal(got.argmax(axis=1), corrected.argmax(axis=1))
    known = (base > 0).all(axis=1)  # some logits are -inf
    assert 0 < known.sum() < len(base)
    if name.startswith("keep"):
        least = np.where(base > 0, np.maximum(floor * base, 1e-9), 0)
        total = np.maximum(corrected, least).sum(axis=1, keepdims=True)
        assert (got * total >= least * (1 - 1e-12)).all()
    elif name.startswith("clip"):
        same_bits(got, oracle.simplex(corrected, floor, base=base, strength=2.0))
    else:  # no point of the simplex is nearer
        same_bits(got, oracle.simplex(corrected, floor, "project", base, 2.0))
        apart = np.square(got - corrected).sum(axis=1)
        for other in (oracle.simplex(corrected), np.full((120, 3), 1 / 3), got[::-1]):
            inside = floor + (1 - 3 * floor) * other  # no coordinate below the floor either
            farther = np.square(inside - corrected).sum(axis=1)
            assert (apart <= farther + 1e-12)[known].all()
        assert got[known].min() == pytest.approx(floor)
    np.testing.assert_array_equal(mem.predict(keys, logits), got.argmax(axis=1))
    assert pickle.loads(pickle.dumps(mem)).probability_map == mem.probability_map == name
    assert ("probability_map" in repr(mem)) == (name != "clip")


def test_keep_map_with_a_large_share_predicts_the_bases_class():
    """The neighbours agree only that it is not the base's class."""
    z, logits = np.zeros((10, 1), dtype=np.float32), np.zeros((10, 11), dtype=np.float32)
    logits[:, 0] = 6
    mem = resmem.Memory(k=10).fit(z, logits, np.arange(1, 11))
    for name, same in (("clip", False), ("keep:0.05", False), ("keep:0.5", True)):
        mem.probability_map = name
        (label,) = mem.predict(z[:1], logits[:1])
        assert (label == 0) == same
        assert mem.predict_proba(z[:1], logits[:1]).argmax() == label


def test_probability_map_has_one_spelling():
    mem = resmem.Memory(probability_map="clip:1e-6")
    assert mem.probability_map == "clip"
    mem.probability_map = "project:1e-3"
    assert mem.probability_map == "project:0.001"


def test_missing_outputs_are_refused(fitted):
    mem, (keys, _, _) = fitted
    for method in (mem.correct, mem.predict, mem.predict_proba):
        with pytest.raises((TypeError, ValueError), match="outputs"):
            method(keys, None)


def test_infinities_of_both_signs_are_refused_by_row(fitted):
    mem, (keys, logits, targets) = fitted
    bad = logits.copy()
    bad[33, :2] = np.inf, -np.inf
    message = "outputs: row 33 holds NaN or infinity .* only -inf is allowed"
    with pytest.raises(ValueError, match=message):
        mem.correct(keys, bad)
    with pytest.raises(ValueError, match=message):
        mem.add(keys, bad, targets)
    assert len(mem) == 120


# ---- Rows ----------------------------------------------------------------------------------


def test_default_ids_continue_and_are_never_used_again():
    rng = np.random.default_rng(12)
    mem = resmem.Memory(k=1).fit(*examples(rng, "logits", 4))
    mem.remove([3, 2]).remove(np.uint8(0))
    rows = examples(rng, "logits", 3)
    mem.add(*rows)
    assert mem.kneighbors(rows[0])[1][:, 0].tolist() == [4, 5, 6]
    rows = examples(rng, "logits", 2)
    mem.add(*rows, ids=[90, 20])
    assert mem.kneighbors(rows[0])[1][:, 0].tolist() == [90, 20]
    rows = examples(rng, "logits", 1)
    mem.add(*rows)
    assert mem.kneighbors(rows[0])[1][:, 0].tolist() == [91]
    for used in (0, 3, 1, 5, 20, 90, 91):  # removed or held
        with pytest.raises(ValueError, match=f"never have been used before .* got {used}$"):
            mem.add(*rows, ids=[used])
    assert len(mem) == 7
    mem.add(*rows, ids=[21])  # free, although larger ones were used
    assert len(mem) == 8
    rows = examples(rng, "logits", 1)
    mem.add(*rows)
    assert mem.kneighbors(rows[0])[1].tolist() == [[92]]
    mem.fit(*rows, ids=[0])  # a new start
    assert mem.kneighbors(rows[0])[1].tolist() == [[0]]


def test_removed_ids_stay_refused_after_compaction():
    rng = np.random.default_rng(13)
    mem = resmem.Memory(k=1, sigma=1.0).fit(*examples(rng, "logits", 4))
    mem.remove([1, 2, 3]).add(*examples(rng, "logits", 40))
    mem._state._compactor.join()
    assert [len(s) for s in mem._state.view.rows.segments] == [1, 40]
    row = examples(rng, "logits", 1)
    with pytest.raises(ValueError, match=r"got 1$"):
        mem.add(*row, ids=[1])
    with pytest.raises(ValueError, match="1 is not"):
        mem.remove([0, 1])
    assert len(mem) == 41


def test_adding_no_rows_leaves_the_rows_as_they_are(fitted):
    mem, rows = fitted
    before = mem._state.view.rows
    mem.add(*(part[:0] for part in rows))
    mem.add(*(part[:0] for part in rows), ids=[])
    assert mem._state.view.rows is before


@pytest.mark.parametrize("magnitudes", [(1e30, 1e-30), (1e-30, 1e30), (1.0, 3e38)])
def test_segments_of_other_magnitudes_give_the_oracles_bits(magnitudes):
    rng = np.random.default_rng(23)
    mine, theirs = pair("classification", "logits", k=5, sigma=1.0)
    for number, magnitude in enumerate(magnitudes):
        keys, logits, targets = examples(rng, "logits", 200)
        keys = (np.clip(keys, -1, 1) * np.float32(magnitude)).astype(np.float32)
        for mem in (mine, theirs):
            (mem.fit if number == 0 else mem.add)(keys, logits, targets)
    queries = np.concatenate([segment["keys"] for segment in mine._state.view.rows.segments])[::9]
    same_answers(mine, theirs, queries, np.zeros((45, 3)))


def test_unsorted_ids_up_to_the_largest_are_found():
    rng = np.random.default_rng(14)
    keys, logits, targets = examples(rng, "logits", 60)
    ids = rng.permutation(60).astype(np.int64)
    ids[[5, 17, 40]] = [LARGEST_ID, LARGEST_ID - 1, 2**40]
    mine, theirs = (m.fit(keys, logits, targets, ids) for m in pair(*KINDS[0], k=4))
    assert np.array_equal(mine.kneighbors(keys, k=1)[1][:, 0], ids)
    same_answers(mine, theirs, keys, logits, ids)
    for m in (mine, theirs):
        m.remove(np.array([LARGEST_ID, 2**40], dtype=np.uint64))
    same_answers(mine, theirs, keys, logits, ids)


@pytest.mark.parametrize("largest", [LARGEST_ID, LARGEST_ID - 1])
def test_add_after_default_ids_run_out_is_refused(largest):
    rng = np.random.default_rng(15)
    rows = examples(rng, "logits", 3)
    mem = resmem.Memory(k=2).fit(*rows, ids=[4, largest, 2])
    before = mem.correct(*rows[:2])
    with pytest.raises(ValueError, match="ids"):
        mem.add(*rows)
    assert len(mem) == 3
    same_bits(mem.correct(*rows[:2]), before)
    mem.add(*rows, ids=[5, 6, 7])
    assert len(mem) == 6


def test_rows_may_be_added_after_the_largest_id():
    rng = np.random.default_rng(15)
    rows, more, queries = (examples(rng, "logits", n) for n in (20, 2, 6))
    ids = np.append(np.arange(19), LARGEST_ID)
    both = [m.fit(*rows, ids).add(*more, ids=[60, 50]) for m in pair(*KINDS[0], k=4)]
    same_answers(*both, *queries[:2])
    assert len(pickle.loads(pickle.dumps(both[0])).remove([60, LARGEST_ID])) == 20


def test_equal_distances_are_ordered_by_id():
    ids = np.array([7, LARGEST_ID, 0, 3])
    mem = resmem.Memory().fit(np.ones((4, 2)), np.zeros((4, 2)), np.zeros(4, np.int64), ids)
    mem.add(np.ones((1, 2)), np.zeros((1, 2)), [0], ids=[5])
    assert mem.kneighbors(np.zeros((1, 2)), k=5)[1].tolist() == [[0, 3, 5, 7, LARGEST_ID]]


def test_rows_added_one_by_one_make_few_segments():
    rng = np.random.default_rng(16)
    rows = examples(rng, "logits", 1000)
    mem = resmem.Memory(k=3, sigma=1.0).fit(*(part[:1] for part in rows))
    most = 0
    for i in range(1, 1000):
        mem.add(*(part[i : i + 1] for part in rows))
        most = max(most, len(mem._state.view.rows.segments))
    assert most <= 10  # log2(1000)
    assert len(mem) == 1000
    assert not any(
        s.has_ids for s in mem._state.view.rows.segments
    )  # consecutive ids are not stored
    at_once = resmem.Memory(k=3, sigma=1.0).fit(*rows)
    same_bits(mem.correct(*rows[:2]), at_once.correct(*rows[:2]))


def test_nbytes_and_repr_describe_the_memory(fitted):
    mem, rows = fitted
    assert len(mem) == 120
    stored = sum(part.nbytes for part in rows) + 120 * 3 * 4  # with the residuals
    assert mem.nbytes == stored
    assert repr(mem) == (
        "Memory(task='classification', output_kind='logits', k=7, "
        f"sigma='auto' ({mem.sigma_:.4g}), temperature=1, strength=1) "
        "[120 rows, d=5, C=3, 0.0 MiB]"
    )
    mem.remove(range(20))
    assert "[100 rows," in repr(mem)
    assert mem.nbytes == stored + (120 + 20) * 8  # a version of every row, a note of every removal
    assert mem.fit(*rows, ids=np.arange(120)).nbytes == stored + 120 * 8
    new = resmem.Memory(task="regression", sigma=2.5)
    assert (len(new), new.nbytes) == (0, 0)
    assert new
    assert repr(new) == (
        "Memory(task='regression', output_kind='values', k=50, sigma=2.5, temperature=1, "
        "strength=1) [not fitted]"
    )


@pytest.mark.parametrize(("task", "kind"), KINDS)
def test_borrowed_rows_share_memory_and_copied_rows_do_not(task, kind):
    rows = examples(np.random.default_rng(17), kind, 20)
    ids = np.arange(20)[::-1].copy()
    for copied in (False, True):
        mem = resmem.Memory(task=task, output_kind=kind, sigma=1.0)
        mem.fit(*rows, ids=ids, copy=copied)
        (segment,) = mem._state.view.rows.segments
        stored = tuple(segment[name] for name in ("keys", "outputs", "targets", "ids"))
        for mine, theirs in zip(stored, (*rows, ids), strict=True):
            assert np.shares_memory(mine, theirs) is not copied
            assert np.array_equal(mine, theirs)


def test_changes_of_the_callers_arrays_do_not_reach_a_copy(fitted):
    mem, rows = fitted
    before = mem.correction(rows[0].copy())
    queries = rows[0].copy()
    more = examples(np.random.default_rng(18), "logits", 9)
    mem.add(*more)
    after = mem.correction(queries)
    for part in (*rows, *more):
        part[...] = 0
    same_bits(mem.correction(queries), after)
    mem.remove(range(120, 129))
    same_bits(mem.correction(queries), before)


def test_a_running_query_keeps_the_rows_it_found(fitted, monkeypatch):
    mem, (keys, logits, targets) = fitted
    before = mem.correct(keys, logits)
    first = mem.kneighbors(keys)
    monkeypatch.setattr(
        resmem._base.blocks, "_BLOCK_BYTES", (24 * 7 + 16 * mem.correct(keys, logits).shape[1]) * 30
    )  # four blocks
    search, calls = resmem._correction.correct.NeighbourSearch.corrections, []

    def change():
        mem.remove(np.arange(0, 120, 2))
        mem.add(keys + np.float32(0.01), logits, targets)

    def slow_search(*arguments):
        if not calls:  # rows come and go between the snapshot and its search
            thread = threading.Thread(target=change)
            thread.start()
            thread.join()
        calls.append(None)
        return search(*arguments)

    monkeypatch.setattr(resmem._correction.correct.NeighbourSearch, "corrections", slow_search)
    same_bits(mem.correct(keys, logits), before)
    assert len(calls) == 4
    assert len(mem) == 180
    assert not np.array_equal(mem.kneighbors(keys)[1], first[1])


# ---- Copies --------------------------------------------------------------------------------


def all_histories():
    rng = np.random.default_rng(19)
    for task, kind in KINDS:
        for steps in ("nothing", "fit", "add and remove"):
            mem = resmem.Memory(task=task, output_kind=kind, k=4, strength=0.6)
            mem.temperature = 1.7 if kind == "logits" else 1
            if steps != "nothing":
                mem.fit(*examples(rng, kind, 30))
            if steps == "add and remove":
                mem.add(*examples(rng, kind, 4), ids=[70, 60, LARGEST_ID // 2, 50]).remove([3, 60])
            yield pytest.param(mem, kind, id=f"{kind}, {steps}")


HISTORIES = list(all_histories())


def is_equal_but_separate(twin, mem, kind):
    assert (repr(twin), twin.nbytes, len(twin)) == (repr(mem), mem.nbytes, len(mem))
    if len(mem) == 0:
        return
    rng = np.random.default_rng(20)
    queries, outputs, _ = examples(rng, kind, 7)
    before = mem.correct(queries, outputs)
    same_bits(twin.correct(queries, outputs), before)
    same_bits(twin.kneighbors(queries)[1], mem.kneighbors(queries)[1])
    assert twin.sigma_ == mem.sigma_
    with pytest.raises(ValueError, match="never have been used"):
        twin.add(*examples(rng, kind, 1), ids=[3])
    twin.add(*examples(rng, kind, 5)).remove([0, 1])
    same_bits(mem.correct(queries, outputs), before)
    assert len(twin) == len(mem) + 3


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(("mem", "kind"), HISTORIES)
def test_pickled_memory_is_equal_but_separate(mem, kind, protocol):
    is_equal_but_separate(pickle.loads(pickle.dumps(mem, protocol)), mem, kind)


@pytest.mark.parametrize("mutable", [False, True])
@pytest.mark.parametrize(("mem", "kind"), HISTORIES)
def test_pickle_with_out_of_band_buffers_is_equal(mem, kind, mutable):
    buffers = []
    data = pickle.dumps(mem, 5, buffer_callback=buffers.append)
    views = [bytearray(b.raw()) if mutable else bytes(b.raw()) for b in buffers]
    if len(mem):
        assert sum(map(len, views)) > mem._state.view.rows.segments[0]["keys"].nbytes
        assert len(data) < 4000
    is_equal_but_separate(pickle.loads(data, buffers=views), mem, kind)


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize(("mem", "kind"), HISTORIES)
def test_copied_memory_is_equal_but_separate(mem, kind, make):
    twin = make(mem)
    is_equal_but_separate(twin, mem, kind)
    twin.k, twin.strength, twin.sigma = 1, 9.0, 0.01
    assert (mem.k, mem.strength, mem.sigma) == (4, 0.6, "auto")


def test_residuals_are_not_pickled(fitted):
    mem, rows = fitted
    size = len(pickle.dumps(mem, 5))
    assert size < sum(part.nbytes for part in rows) + 2000


# ---- Forms of input ------------------------------------------------------------------------


class Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("id", ctypes.c_int32)]


class DataType(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
    ]


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", Device),
        ("ndim", ctypes.c_int32),
        ("dtype", DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class ManagedTensor(ctypes.Structure):
    _fields_ = [
        ("tensor", Tensor),
        ("manager_context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    ]


DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
NEW_CAPSULE = ctypes.pythonapi.PyCapsule_New
NEW_CAPSULE.restype = ctypes.py_object
NEW_CAPSULE.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class Bfloat16:
    """A bfloat16 tensor in the CPU's memory, with strides in elements or without."""

    dtype = "bfloat16"

    def __init__(self, halves, strides=True, offset=0):
        self.deleted = 0
        self._halves = halves  # uint16, any layout
        self._deleter = DELETER(self._delete)
        shape = (ctypes.c_int64 * halves.ndim)(*halves.shape)
        steps = (ctypes.c_int64 * halves.ndim)(*(s // 2 for s in halves.strides))
        self._tensor = ManagedTensor()
        self._tensor.tensor.data = halves.ctypes.data - offset
        self._tensor.tensor.byte_offset = offset
        self._tensor.tensor.device = Device(1, 0)
        self._tensor.tensor.ndim = halves.ndim
        self._tensor.tensor.dtype = DataType(4, 16, 1)
        self._tensor.tensor.shape = shape
        if strides:
            self._tensor.tensor.strides = steps
        self._tensor.deleter = ctypes.cast(self._deleter, ctypes.c_void_p)
        self._kept = (shape, steps)

    def _delete(self, _):
        self.deleted += 1

    def __dlpack__(self, **_):
        return NEW_CAPSULE(ctypes.addressof(self._tensor), b"dltensor", None)

    def __dlpack_device__(self):
        return (1, 0)


class Exporter:
    """A tensor of another library, which has DLPack only."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


class Convertible:
    """A tensor of another library, which has `__array__` only."""

    def __init__(self, array):
        self._array = array

    def __array__(self, dtype=None, copy=None):
        return self._array if dtype is None else self._array.astype(dtype)


def spaced(array):
    wide = np.zeros((2 * len(array), *array.shape[1:]), dtype=array.dtype)
    wide[::2] = array
    return wide[::2]


def locked(array):
    array = array.copy()
    array.setflags(write=False)
    return array


FORMS = {
    "float64": lambda a: a.astype(np.float64),
    "float16": lambda a: a.astype(np.float16),
    "longdouble": lambda a: a.astype(np.longdouble),
    "int8": lambda a: a.astype(np.int8),
    "int64": lambda a: a.astype(np.int64),
    "other byte order": lambda a: a.astype(">f4"),
    "Fortran order": np.asfortranarray,
    "non-contiguous": spaced,
    "backwards": lambda a: a[::-1].copy()[::-1],
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "read-only": locked,
    "list": lambda a: a.tolist(),
    "tuple": lambda a: tuple(map(tuple, a.tolist())),
    "DLPack": Exporter,
    "__array__": Convertible,
    "bfloat16": lambda a: Bfloat16((a.view(np.uint32) >> 16).astype(np.uint16)),
}


def whole_numbers(n=40, d=6, c=3):
    """Return small integers, which are the same in every dtype."""
    rng = np.random.default_rng(21)
    keys = rng.integers(-9, 10, (n, d)).astype(np.float32)
    return keys, rng.integers(-4, 5, (n, c)).astype(np.float32), rng.integers(0, c, n)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_array_gives_the_same_bits(form):
    keys, logits, targets = whole_numbers()
    make = FORMS[form]
    wanted = resmem.Memory(k=4).fit(keys, logits, targets).add(keys + 9, logits, targets)
    mem = resmem.Memory(k=4).fit(make(keys), make(logits), targets.tolist())
    mem.add(make(keys + 9), make(logits), targets.astype(np.uint8))
    same_bits(mem.correct(make(keys), make(logits)), wanted.correct(keys, logits))
    same_bits(mem.kneighbors(make(keys))[0], wanted.kneighbors(keys)[0])
    for got, expected in zip(
        resmem.search(make(keys), make(keys), 3), resmem.search(keys, keys, 3), strict=True
    ):
        same_bits(got, expected)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_array_gives_regressions_the_same_bits(form):
    keys, outputs, _ = whole_numbers()
    targets = outputs[::-1].copy()
    make = FORMS[form]
    wanted = oracle.OracleMemory("regression", "values", k=4).fit(keys, outputs, targets)
    mem = resmem.Memory(task="regression", k=4).fit(make(keys), make(outputs), make(targets))
    same_bits(mem.correct(make(keys), make(outputs)), wanted.correct(keys, outputs))


def test_mapped_file_is_borrowed_as_keys(tmp_path):
    keys, logits, targets = whole_numbers()
    np.save(tmp_path / "keys.npy", keys)
    mapped = np.load(tmp_path / "keys.npy", mmap_mode="r")
    mem = resmem.Memory(k=4).fit(mapped, logits, targets, copy=False)
    assert np.shares_memory(mem._state.view.rows.segments[0]["keys"], mapped)
    wanted = resmem.Memory(k=4).fit(keys, logits, targets)
    same_bits(mem.correct(mapped, logits), wanted.correct(keys, logits))


def test_ids_and_exclusions_of_any_integer_type_are_taken():
    keys, logits, targets = whole_numbers(n=9)
    ids = np.arange(9)[::-1]
    wanted = resmem.Memory(k=2).fit(keys, logits, targets, ids)
    for make in (list, np.uint8, np.int16, np.uint64, Exporter, Convertible, spaced):
        given_ids = make(ids)
        mem = resmem.Memory(k=2).fit(keys, logits, make(targets), given_ids)
        got = mem.correct(keys, logits, exclude_ids=given_ids)
        same_bits(got, wanted.correct(keys, logits, exclude_ids=ids))
        assert len(mem.remove(make(ids[:3]))) == 6


@pytest.mark.parametrize("strides", [False, True])
def test_bfloat16_is_widened_exactly_and_released_once(strides):
    halves = np.arange(2**16, dtype=np.uint32)
    values = (halves << 16).view(np.float32)
    finite = np.isfinite(values)
    wanted = values[finite].reshape(-1, 16)
    tensor = Bfloat16(halves[finite].astype(np.uint16).reshape(-1, 16), strides, offset=64)
    got = resmem._base.arrays.to_numpy(tensor, "embeddings")
    same_bits(got, wanted)
    assert tensor.deleted == 1
    part = Bfloat16(halves[finite].astype(np.uint16).reshape(-1, 16).T[::3])
    same_bits(resmem._base.arrays.to_numpy(part, "embeddings"), wanted.T[::3])


def test_bfloat16_that_is_not_finite_is_refused():
    halves = np.zeros((5, 2), dtype=np.uint16)
    halves[3, 1] = 0x7F80
    with pytest.raises(ValueError, match="queries: row 3 holds NaN or infinity"):
        resmem.search(Bfloat16(halves), np.zeros((1, 2)), 1)


def test_bfloat16_of_ml_dtypes_gives_the_same_bits():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    keys, logits, targets = (
        part.astype(ml_dtypes.bfloat16) if part.ndim == 2 else part for part in whole_numbers()
    )
    mem = resmem.Memory(k=4).fit(keys, logits, targets)
    wanted = resmem.Memory(k=4).fit(*whole_numbers())
    same_bits(mem.correct(keys, logits), wanted.correct(*whole_numbers()[:2]))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int32"])
def test_torch_tensors_give_the_same_bits(dtype):
    torch = pytest.importorskip("torch")
    keys, logits, targets = whole_numbers()
    z, outputs = (torch.tensor(part).to(getattr(torch, dtype)) for part in (keys, logits))
    mem = resmem.Memory(k=4).fit(z, outputs, torch.tensor(targets))
    wanted = resmem.Memory(k=4).fit(keys, logits, targets)
    same_bits(mem.correct(z, outputs), wanted.correct(keys, logits))
    if dtype != "int32":
        with pytest.raises(TypeError, match=r"requires grad; pass embeddings\.detach\(\)"):
            mem.correction(z.clone().requires_grad_())


def test_squared_distances_keep_an_order_that_roots_lose():
    """Parts of a memory, merged by (squared distance, id), have the order of the whole."""
    rng = np.random.default_rng(77)
    # Squared distances next to each other in float64, 1 + j 2^-52, have one root in pairs.
    rows = np.ones((40, 2), np.float32)
    rows[:, 1] = 2.0**-26 * np.sqrt(rng.integers(0, 20, 40))
    outputs, targets, ids = np.zeros((40, 2)), np.zeros(40, int), rng.permutation(40)
    whole = resmem.Memory(k=40, sigma=1.0).fit(rows, outputs, targets, ids=ids)
    query = np.zeros((1, 2), np.float32)
    squares, found = whole.kneighbors(query, squared=True)
    roots, same = whole.kneighbors(query)
    assert np.array_equal(found, same)
    assert np.sqrt(squares).tobytes() == roots.tobytes()
    assert len(set(squares[0])) > len(set(roots[0]))
    parts = [
        resmem.Memory(k=40, sigma=1.0)
        .fit(rows[part], outputs[part], targets[part], ids=ids[part])
        .kneighbors(query, k=20, squared=True)
        for part in (slice(0, 20), slice(20, 40))
    ]
    merged = sorted(pair for keys, names in parts for pair in zip(keys[0], names[0], strict=True))
    assert [number for _, number in merged] == found[0].tolist()
