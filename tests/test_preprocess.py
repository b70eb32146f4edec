"""Preprocessing: applying it gives the oracle's bits, and a fit finds what it should."""

from __future__ import annotations

import importlib.util
import math
import pickle
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import oracle
import resmem
from resmem import _core
from resmem._base.execution import DEFAULT, Execution
from resmem._base.sample import sample
from resmem._keys import nca
from resmem._keys import preprocess as _preprocess

D, C = 5, 3
LEARNED = ["nca:1", "nca:3", "nca:5"] if importlib.util.find_spec("sklearn") else []
FITTED = ["center", "standardize", "pca:1", "pca:3", "pca:5", "whiten:2", "whiten:5", *LEARNED]
ALL = ["none", "unit", *FITTED]
needs_sklearn = pytest.mark.skipif(not LEARNED, reason="scikit-learn is not installed")
HALF_ULP = 2.0**-24  # relative, in float32
F64_ROOM = 2.0**-50  # some roundings of float64, relative
LARGEST = float(np.finfo(np.float32).max)


def spread(rng, n, d=D):
    """Return embeddings whose columns differ in scale and depend on each other."""
    mixed = rng.standard_normal((n, d)) @ (rng.standard_normal((d, d)) + 2 * np.eye(d))
    return (mixed * np.linspace(1, 3, d) + np.arange(d)).astype(np.float32)


FAMILIES = {
    "spread": spread,
    "lattice": lambda rng, n: rng.integers(-2, 3, (n, D)),
    "offset": lambda rng, n: spread(rng, n) + 1000,
    "large": lambda rng, n: spread(rng, n) * 1e20,
    "tiny": lambda rng, n: spread(rng, n) * 1e-20,
    "constant column": lambda rng, n: spread(rng, n) * [1, 0, 1, 1, 1] + [0, 0.1, 0, 0, 0],
    "duplicates": lambda rng, n: spread(rng, 2)[rng.integers(0, 2, n)],
    "line": lambda rng, n: rng.standard_normal((n, 1)) * np.arange(D) + 1,
}


def examples(rng, n, family="spread"):
    keys = np.asarray(FAMILIES[family](rng, n), dtype=np.float32)
    return keys, rng.standard_normal((n, C)).astype(np.float32), rng.integers(0, C, n)


def fitted(preprocess, n=60, **options):
    """Return a memory of fitted and added rows, some of which are removed."""
    rng = np.random.default_rng(0)
    mem = resmem.Memory(k=4, preprocess=preprocess, **options).fit(*examples(rng, n))
    return mem.add(*examples(rng, 9)).remove([3, 61])


def rekeyed(mem, preprocess, key_dtype):
    """Return a memory of the same rows with other keys."""
    twin = resmem.Memory(mem.task, mem.output_kind, base=mem.base)
    twin._state.publish(
        **vars(mem._state.view.rekeyed(preprocess, key_dtype).with_measured_sigma())
    )
    return twin


def fitted_arrays(mem):
    return mem._state.view.rows.preprocess.arrays


def keys_of(mem):
    """Return the keys of all rows, widened to float32."""
    parts = [resmem._keys.stored.widen_keys(s["keys"]) for s in mem._state.view.rows.segments]
    return np.concatenate(parts)


def same_bits(got, wanted):
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    assert got.tobytes() == wanted.tobytes()


def same_answers(one, other):
    queries, outputs, _ = examples(np.random.default_rng(1), 7)
    same_bits(one.correct(queries, outputs), other.correct(queries, outputs))
    for got, wanted in zip(one.kneighbors(queries), other.kneighbors(queries), strict=True):
        same_bits(got, wanted)


# ---- The oracle's bits -----------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*has grown to:resmem.ResmemWarning")
@settings(max_examples=settings().max_examples // 4)
@given(
    seed=st.integers(0, 2**31),
    preprocess=st.sampled_from(ALL),
    family=st.sampled_from(list(FAMILIES)),
    key_dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    store=st.sampled_from(["dense", "sparse:1"]),
    n=st.sampled_from([1, 2, 40]),
)
def test_every_preprocess_gives_the_oracles_bits(seed, preprocess, family, key_dtype, store, n):
    if family in ("large", "offset") and key_dtype == "float16":
        key_dtype = "bfloat16"  # float16 ends at 65504
    rng = np.random.default_rng(seed)
    options = {"k": 6, "key_dtype": key_dtype, "store": store, "preprocess": preprocess}
    rows, more, gone = examples(rng, n, family), examples(rng, 9, family), rng.permutation(n)[1:]
    mine = resmem.Memory(**options).fit(*rows)
    theirs = oracle.OracleMemory(**options, fitted=fitted_arrays(mine)).fit(*rows)
    for memory in (mine, theirs):
        memory.add(*more).remove(gone[:9])
    queries, outputs, _ = examples(rng, 6, family)
    queries[0] = rows[0][0]
    assert mine.sigma_ == theirs.sigma_
    for got, wanted in zip(mine.kneighbors(queries), theirs.kneighbors(queries), strict=True):
        same_bits(got, wanted)
    same_bits(keys_of(mine), theirs.keys_)
    same_bits(mine.correct(queries, outputs), theirs.correct(queries, outputs))
    same_bits(mine.predict_proba(queries, outputs), theirs.predict_proba(queries, outputs))
    columns = rng.integers(0, C, (6, 2))
    same_bits(
        mine.correct(queries, outputs, columns=columns),
        theirs.correct(queries, outputs, columns=columns),
    )
    assert max(s.keys_max for s in mine._state.view.rows.segments) == np.abs(theirs.keys_).max()


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
NUMBERS = st.one_of(st.integers(-2, 2).map(float), st.floats(-4, 4, width=32), FINITE)


@settings(max_examples=settings().max_examples // 2)
@given(st.sampled_from(["center", "standardize", "unit", "pca", "whiten", "nca"]), st.data())
def test_any_fitted_numbers_give_the_oracles_bits_or_an_error(kind, data):
    d = data.draw(st.integers(1, 19))
    m = data.draw(st.integers(1, d))
    e = data.draw(arrays(np.float32, (3, d), elements=NUMBERS))
    name = f"{kind}:{m}" if kind in ("pca", "whiten", "nca") else kind
    method = _preprocess.preprocess_named(name)
    numbers = {
        each: data.draw(arrays(np.float32, shape, elements=NUMBERS)).astype(dtype)
        for each, (dtype, shape) in method.schema(d).items()
    }
    if "scale" in numbers:
        numbers["scale"] = np.abs(numbers["scale"]) + 2.0**-149
    made_by = _preprocess.FittedPreprocess(method, numbers)
    try:
        wanted = oracle.preprocess(e, name, numbers)
    except ValueError:
        with pytest.raises(ValueError, match=rf"row [0-2] is beyond float32 after .*'{name}'"):
            made_by.keys(e, d, DEFAULT, 0)
        assert not np.isfinite(made_by.apply(e)).all()
    else:
        same_bits(made_by.apply(e), wanted)
        keys, largest = made_by.keys(e, d, DEFAULT, 0)
        same_bits(keys, wanted)
        assert largest == np.abs(wanted).max()


def test_lengths_are_roots_of_canonical_sums():
    """They are compared in float64, since the rounding of keys would hide most differences."""
    for d in range(1, 30):
        e = np.random.default_rng(d).standard_normal((20, d)).astype(np.float32).astype(float)
        same_bits(_preprocess._norms(e), np.sqrt(oracle.csum(e * e))[:, None])


@pytest.mark.parametrize("preprocess", ALL)
def test_blocks_and_threads_change_no_bit(preprocess, monkeypatch):
    mem = fitted(preprocess)
    queries, outputs, _ = examples(np.random.default_rng(2), 50)
    wanted = mem.correct(queries, outputs), *mem.kneighbors(queries)
    keys = mem._state.view.rows.preprocess.apply(queries)
    monkeypatch.setattr(resmem._base.blocks, "_BLOCK_BYTES", 1000)
    monkeypatch.setattr(_preprocess, "_BLOCK_BYTES", 8 * D * 3)
    for threads in (1, 2, 5):
        same_bits(mem._state.view.rows.preprocess.apply(queries, Execution(threads)), keys)
        got = mem.correct(queries, outputs, threads=threads), *mem.kneighbors(queries)
        for one, other in zip(got, wanted, strict=True):
            same_bits(one, other)


@pytest.mark.parametrize("preprocess", ALL)
def test_no_queries_give_no_rows(preprocess):
    mem = fitted(preprocess)
    assert mem.correct(np.empty((0, D)), np.empty((0, C))).shape == (0, C)
    assert mem.kneighbors(np.empty((0, D)))[0].shape == (0, 4)


@pytest.mark.parametrize("preprocess", ALL)
def test_a_caller_that_flushes_to_zero_gets_the_same_bits(preprocess):
    rng = np.random.default_rng(3)
    rows = rng.integers(-9, 10, (30, D)) * 1e-39, *examples(rng, 30)[1:]
    if preprocess.startswith(("whiten", "nca")):
        rows = rows[0] * 1e10, *rows[1:]
    wanted = resmem.Memory(k=3, preprocess=preprocess).fit(*rows)
    try:
        _core.set_flush_to_zero(True)
        mem = resmem.Memory(k=3, preprocess=preprocess).fit(*rows)
        got = mem.kneighbors(rows[0])
    finally:
        _core.set_flush_to_zero(False)
    for name, array in fitted_arrays(wanted).items():
        same_bits(fitted_arrays(mem)[name], array)
    for one, other in zip(got, wanted.kneighbors(rows[0]), strict=True):
        same_bits(one, other)


# ---- What a fit finds ------------------------------------------------------------------------


def exact_moments(columns):
    """Yield mean and population variance of each column, as rationals."""
    for column in columns:
        values = [Fraction(float(value)) for value in column]
        mean = sum(values, Fraction(0)) / len(values)
        yield mean, sum(((v - mean) ** 2 for v in values), Fraction(0)) / len(values)


@pytest.mark.parametrize("block", [1, 7, 1000])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_means_and_scales_are_those_of_exact_arithmetic(family, block, monkeypatch):
    monkeypatch.setattr(_preprocess, "_BLOCK_BYTES", 8 * D * block)
    rows = examples(np.random.default_rng(4), 50, family)
    mem = resmem.Memory(k=3, preprocess="standardize").fit(*rows)
    same_bits(
        fitted_arrays(resmem.Memory(preprocess="center").fit(*rows))["mean"],
        fitted_arrays(mem)["mean"],
    )
    exact = exact_moments(rows[0].T)
    for column, mean, scale, (true_mean, variance) in zip(
        rows[0].T, *fitted_arrays(mem).values(), exact, strict=True
    ):
        largest = Fraction(float(np.abs(column).max()))
        assert abs(Fraction(float(mean)) - true_mean) <= 50 * F64_ROOM * largest
        if variance == 0:
            assert scale == 1
            assert mean == column[0]
        else:
            assert float(scale) == pytest.approx(math.sqrt(variance), rel=1e-12, abs=0)


def test_centred_keys_have_mean_zero():
    mem = resmem.Memory(k=3, preprocess="center").fit(*examples(np.random.default_rng(5), 500))
    keys = keys_of(mem).astype(float)
    # Each key is off by half an ulp at most, the mean itself by roundings of float64.
    room = HALF_ULP * np.abs(keys).max() + 500 * F64_ROOM * np.abs(fitted_arrays(mem)["mean"]).max()
    assert np.abs(keys.mean(axis=0)).max() <= room


def test_standardized_keys_have_deviation_one():
    mem = resmem.Memory(k=3, preprocess="standardize").fit(*examples(np.random.default_rng(6), 500))
    # A relative error of half an ulp in every key gives one as large in their deviation.
    assert np.abs(keys_of(mem).astype(float).std(axis=0) - 1).max() <= 1.01 * HALF_ULP + 1e-12


def test_unit_keys_have_length_one():
    rows = examples(np.random.default_rng(7), 300)
    rows[0][::2] *= np.float32(1e30)
    rows[0][1::4] *= np.float32(1e-40)
    rows[0][5] = 0
    keys = keys_of(resmem.Memory(k=3, preprocess="unit").fit(*rows)).astype(float)
    lengths = np.linalg.norm(keys, axis=1)
    assert (keys[5] == 0).all()
    # Each component is off by half an ulp of itself at most (or of the smallest normal number).
    assert np.abs(np.delete(lengths, 5) - 1).max() <= 1.01 * HALF_ULP


@pytest.mark.parametrize("offset", [0, 1000])
def test_pca_of_full_rank_keeps_distances(offset):
    rng = np.random.default_rng(8)
    rows = spread(rng, 200, 24) + np.float32(offset), *examples(rng, 200)[1:]
    mem = resmem.Memory(k=3, preprocess="pca:24").fit(*rows)
    e, keys = rows[0].astype(float), keys_of(mem).astype(float)
    before = np.linalg.norm(e[:, None] - e, axis=-1)
    after = np.linalg.norm(keys[:, None] - keys, axis=-1)
    # W is an orthonormal matrix rounded: off by at most 2^-24 of a Frobenius norm of sqrt(d).
    # Then two keys are rounded, and sums of float64 before that.
    room = (HALF_ULP * math.sqrt(24) + 24 * F64_ROOM) * before
    room += 2.02 * HALF_ULP * np.linalg.norm(keys, axis=1).max()
    room += 24 * F64_ROOM * np.linalg.norm(e, axis=1).max()
    assert (np.abs(after - before) <= room).all()


def test_pca_keeps_the_directions_of_largest_variance_in_order():
    rng = np.random.default_rng(9)
    rows = examples(rng, 400)
    variances = []
    for m in (1, 3, 5):
        mem = resmem.Memory(k=3, preprocess=f"pca:{m}").fit(*rows)
        variances.append(keys_of(mem).astype(float).var(axis=0))
        assert (np.diff(variances[-1]) < 0).all()
        weight = fitted_arrays(mem)["weight"].astype(float)
        assert np.abs(weight @ weight.T - np.eye(m)).max() <= 4 * HALF_ULP
        peaks = weight[np.arange(m), np.abs(weight).argmax(axis=1)]
        assert (peaks > 0).all()
    eigenvalues = np.linalg.eigvalsh(np.cov(rows[0].astype(float).T, bias=True))[::-1]
    for kept in variances:
        np.testing.assert_allclose(kept, eigenvalues[: len(kept)], rtol=1e-5)


@pytest.mark.parametrize("block", [1, 7, 1000])
@pytest.mark.parametrize("m", [2, 5])
def test_whitened_keys_have_the_identity_for_covariance(m, block, monkeypatch):
    monkeypatch.setattr(_preprocess, "_BLOCK_BYTES", 8 * D * block)
    rows = examples(np.random.default_rng(10), 500)
    keys = keys_of(resmem.Memory(k=3, preprocess=f"whiten:{m}").fit(*rows)).astype(float)
    variances = np.linalg.eigvalsh(np.cov(rows[0].astype(float).T, bias=True))[::-1]
    condition = variances[0] / variances[m - 1]
    # A row of W off by 2^-24 of itself sees, at worst, all of the largest variance; keys are
    # rounded; the eigenvectors are those of a covariance with roundings of float64.
    room = 2.02 * HALF_ULP * (math.sqrt(condition) + 1) + 500 * F64_ROOM * condition
    assert np.abs(np.cov(keys.T, bias=True) - np.eye(m)).max() <= room
    assert np.abs(keys.mean(axis=0)).max() <= 4 * HALF_ULP * np.abs(keys).max()


def test_directions_without_variance_are_left_out_of_whitening():
    """Columns that add up to 1, but for roundings, have no variance along (1, 1, .., 1)."""
    rng = np.random.default_rng(11)
    rows = oracle.softmax(examples(rng, 300)[0]).astype(np.float32), *examples(rng, 300)[1:]
    assert np.ptp(rows[0].sum(axis=1, dtype=float)) > 0
    mem = resmem.Memory(k=3, preprocess="whiten:5").fit(*rows)
    weight, keys = fitted_arrays(mem)["weight"], keys_of(mem)
    assert (weight[4] == 0).all()
    assert (keys[:, 4] == 0).all()
    np.testing.assert_allclose(keys[:, :4].std(axis=0), 1, rtol=1e-5)
    far = rows[0][:1] + np.float32(1)  # off along the direction that is left out, by sqrt(5)
    assert mem.kneighbors(far, k=1)[0][0, 0] < 1e-3
    assert np.abs(weight).max() <= 2 / rows[0].std(axis=0).min()


def test_whitening_drops_variances_below_2_to_the_minus_40():
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    rows = np.zeros((4, C)), [0] * 4
    for scale, there in ((2.0**-19, True), (2.0**-20, False), (0.0, False)):
        mem = resmem.Memory(k=1, preprocess="whiten:2").fit(signs * [1, scale], *rows)
        assert fitted_arrays(mem)["weight"].tolist() == [[1, 0], [0, 1 / scale if there else 0]]


def test_equal_embeddings_have_distance_0():
    rows = np.full((30, D), 0.1), *examples(np.random.default_rng(12), 30)[1:]
    for preprocess in FITTED:
        mem = resmem.Memory(k=3, preprocess=preprocess).fit(*rows)
        assert (mem.kneighbors(rows[0])[0] == 0).all()
        assert mem.sigma_ == 1
        away = mem.kneighbors(rows[0][:1] + 1, k=1)[0][0, 0]
        no_direction = preprocess.startswith(("whiten", "nca"))
        assert away == 0 if no_direction else away == pytest.approx(1, abs=1.3)


@pytest.mark.parametrize("preprocess", ["pca:29", "whiten:29"])
@pytest.mark.parametrize("constant", [0.0, 1e6, -1e30])
def test_constant_column_changes_no_distance(preprocess, constant):
    rng = np.random.default_rng(35)
    rows, rest = spread(rng, 300, 30), examples(rng, 300)[1:]
    rows[:, 15] = constant
    mem = resmem.Memory(k=9, preprocess=preprocess).fit(rows, *rest)
    without = np.delete(rows, 15, axis=1)
    wanted = resmem.Memory(k=9, preprocess=preprocess).fit(without, *rest)
    assert (fitted_arrays(mem)["weight"][:, 15] == 0).all()
    expected = wanted.kneighbors(without)[0]
    np.testing.assert_allclose(mem.kneighbors(rows)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("preprocess", FITTED)
def test_fewer_rows_than_dimensions_are_enough(preprocess, n):
    rows = examples(np.random.default_rng(13), n)
    mem = resmem.Memory(k=3, preprocess=preprocess).fit(*rows)
    assert keys_of(mem).shape == (n, mem._state.view.spec.preprocess.width(D))
    assert np.isfinite(mem.correct(*rows[:2])).all()
    if preprocess == "whiten:5":  # n rows spread in n - 1 directions
        assert np.count_nonzero(fitted_arrays(mem)["weight"].any(axis=1)) == n - 1


def test_first_of_equal_pca_components_is_positive():
    rows = [[-1, 1], [1, -1]], np.zeros((2, C)), [0, 0]
    weight = fitted_arrays(resmem.Memory(preprocess="pca:1").fit(*rows))["weight"]
    assert weight[0, 0] > 0 > weight[0, 1]


# ---- What is learned of targets ----------------------------------------------------------------


def hidden_classes(rng, n):
    """Return embeddings of which the two columns that tell the class vary least."""
    keys = rng.standard_normal((n, 8)) * [5, 5, 5, 5, 5, 5, 0.4, 0.4]
    classes = (keys[:, 6] > 0).astype(int) + (np.abs(keys[:, 7]) > 0.3)
    return keys.astype(np.float32), np.zeros((n, C), np.float32), classes


def share_of_right_neighbours(mem, rows, targets):
    found = mem.kneighbors(rows[0], k=5)[1]
    return (targets[found] == rows[2][:, None]).mean()


@needs_sklearn
def test_learned_keys_find_neighbours_of_the_same_class():
    rng = np.random.default_rng(40)
    rows, fresh = hidden_classes(rng, 600), hidden_classes(rng, 300)
    by = {
        name: share_of_right_neighbours(resmem.Memory(preprocess=name).fit(*rows), fresh, rows[2])
        for name in ("none", "standardize", "nca:2")
    }
    assert by["nca:2"] > 0.8
    assert max(by["none"], by["standardize"]) < 0.7


@needs_sklearn
@pytest.mark.parametrize("shape", [(-1,), (-1, 1), (-1, 2)])
def test_learned_keys_find_neighbours_of_close_values(shape):
    rng = np.random.default_rng(41)
    keys = rng.standard_normal((1200, 8)) * [5, 5, 5, 5, 5, 5, 1, 1]
    values = np.sin(2 * keys[:, 6])
    targets = np.stack([values, 100 * values + 7], axis=1) if shape == (-1, 2) else values
    targets = targets.reshape(shape)
    errors = []
    for name in ("standardize", "nca:3"):
        mem = resmem.Memory("regression", preprocess=name)
        mem.fit(keys[:900], 0 * targets[:900], targets[:900])
        found = mem.kneighbors(keys[900:], k=1)[1][:, 0]
        errors.append(np.abs(values[found] - values[900:]).mean())
    assert errors[1] < 0.3 * errors[0]


def test_values_are_cut_into_ten_classes_of_equal_size():
    values = np.random.default_rng(42).permutation(200).astype(float)
    classes = nca.classes_of(values[:, None])
    assert np.bincount(classes).tolist() == [20] * 10
    order = np.argsort(values)
    assert (np.abs(np.diff(classes[order])) <= 1).all()
    # The second column says nothing, and a third one the opposite of the first.
    more = nca.classes_of(np.stack([values, np.full(200, 3.0), -5 * values], axis=1))
    assert np.array_equal(more, classes) or np.array_equal(more, 9 - classes)
    assert len(set(nca.classes_of(np.zeros((30, 2))).tolist())) == 1


@needs_sklearn
@pytest.mark.parametrize("n", [3, 19, 60])
def test_nothing_to_learn_leaves_principal_directions(n):
    """Fewer than 20 rows, or 60 of one class."""
    rows = examples(np.random.default_rng(43), n)
    targets = np.ones(n, np.int64) if n == 60 else rows[2]
    learned, wanted = (
        fitted_arrays(resmem.Memory(preprocess=name).fit(*rows[:2], targets))["weight"]
        for name in ("nca:2", "pca:2")
    )
    np.testing.assert_allclose(learned, wanted, atol=1e-5)


@needs_sklearn
def test_keys_learned_from_targets_are_not_judged_on_these_rows():
    rows = hidden_classes(np.random.default_rng(46), 60)
    learned, plain = (resmem.Memory(preprocess=name).fit(*rows) for name in ("nca:2", "none"))
    refused = "judges rows whose targets preprocess='nca:2' learns from: give embeddings, outputs"
    for judge in (
        lambda: learned.evaluate(loo=True),
        lambda: learned.tune(loo=True),
        lambda: plain.tune(loo=True, preprocess=["center", "nca:2"]),
    ):
        with pytest.raises(ValueError, match=refused):
            judge()


@needs_sklearn
def test_learned_map_ignores_constant_columns_and_copies():
    rng = np.random.default_rng(44)
    keys, outputs, classes = hidden_classes(rng, 200)
    keys[:, 3] = 1e6
    rows = np.concatenate([keys] * 3), np.concatenate([outputs] * 3), np.tile(classes, 3)
    mem = resmem.Memory(preprocess="nca:4").fit(*rows)
    assert (fitted_arrays(mem)["weight"][:, 3] == 0).all()
    assert np.abs(fitted_arrays(mem)["weight"]).max() < 1e3
    assert share_of_right_neighbours(mem, rows, rows[2]) > 0.85


@needs_sklearn
@pytest.mark.filterwarnings("ignore:tune:UserWarning")
def test_tune_chooses_learned_keys_where_they_gain():
    rng = np.random.default_rng(45)
    mem = resmem.Memory().fit(*hidden_classes(rng, 600))
    fresh = hidden_classes(rng, 400)
    mem.tune(*fresh, preprocess=["standardize", "nca:2"])
    assert mem.preprocess == "nca:2"
    direct = resmem.Memory(preprocess="nca:2").fit(*hidden_classes(np.random.default_rng(45), 600))
    for name, array in fitted_arrays(direct).items():
        same_bits(fitted_arrays(mem)[name], array)


@needs_sklearn
def test_rows_of_learned_keys_need_their_targets():
    rows = examples(np.random.default_rng(46), 50)
    targets = rows[2].copy()
    targets[17] = C
    with pytest.raises(ValueError, match="targets: row 17"):
        resmem.Memory(preprocess="nca:2").fit(*rows[:2], targets)


def test_learning_alone_needs_scikit_learn(tmp_path, monkeypatch):
    rows = examples(np.random.default_rng(47), 50)
    if LEARNED:
        made = resmem.Memory(preprocess="nca:2").fit(*rows).save(tmp_path / "m")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.neighbors", None)
    with pytest.raises(
        ImportError, match="'nca:2' is learned with scikit-learn: pip install"
    ) as no:
        resmem.Memory(preprocess="nca:2").fit(*rows)
    assert str(no.value).endswith("'residual-memory[nca]'")
    if LEARNED:
        same_answers(resmem.Memory.load(tmp_path / "m").add(*rows), made.add(*rows))


# ---- The sample that is fitted ---------------------------------------------------------------


def test_sample_takes_all_rows_or_one_of_each_of_65536_runs():
    for n in (1, 2, 65_535, 65_536):
        assert np.array_equal(sample(n, 65_536), np.arange(n))
    for n in (65_537, 100_000, 1_000_003, 2**40 + 7):
        positions = sample(n, 65_536)
        begins = np.array([j * n // 65_536 for j in range(65_537)])
        assert (begins[:-1] <= positions).all()
        assert (positions < begins[1:]).all()
        same_bits(positions, sample(n, 65_536))
    spans = (positions - begins[:-1]) / (begins[1:] - begins[:-1])
    assert abs(spans.mean() - 0.5) < 0.01
    assert abs(spans.std() - 12**-0.5) < 0.01


class OnDisk:
    """A data set that can only be sliced, and that keeps the length of its largest slice."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.most = 0

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        part = self.array[rows]
        self.most = max(self.most, len(part))
        return part


@pytest.mark.parametrize("preprocess", ALL)
def test_data_sets_are_read_block_by_block_whatever_the_sample(preprocess, monkeypatch):
    monkeypatch.setattr(_preprocess, "_SAMPLE", 70)
    rows = examples(np.random.default_rng(14), 300)
    wanted = resmem.Memory(k=4, preprocess=preprocess).fit(*rows)
    monkeypatch.setattr(resmem._base.blocks, "_BLOCK_BYTES", 2000)
    sources = [OnDisk(part) for part in rows]
    mem = resmem.Memory(k=4, preprocess=preprocess).fit(*sources)
    assert all(0 < source.most <= 50 for source in sources)
    for name, array in fitted_arrays(wanted).items():
        same_bits(fitted_arrays(mem)[name], array)
    same_answers(mem, wanted)
    queries, outputs, _ = examples(np.random.default_rng(15), 90)
    asked = [OnDisk(queries), OnDisk(outputs)]
    same_bits(mem.correct(*asked), wanted.correct(queries, outputs))
    row = 24 * 4 + 16 * C + (0 if preprocess == "none" else 4 * keys_of(mem).shape[1])
    assert [source.most for source in asked] == [2000 // row] * 2


def test_fit_ignores_rows_outside_the_sample(monkeypatch):
    monkeypatch.setattr(_preprocess, "_SAMPLE", 20)
    rows = examples(np.random.default_rng(16), 100)
    positions = sample(100, 20)
    mem = resmem.Memory(k=3, preprocess="standardize").fit(*rows)
    for name, array in fitted_arrays(
        resmem.Memory(k=3, preprocess="standardize").fit(*(part[positions] for part in rows))
    ).items():
        same_bits(fitted_arrays(mem)[name], array)


def test_first_bad_row_is_named_even_outside_the_sample(monkeypatch):
    monkeypatch.setattr(_preprocess, "_SAMPLE", 20)
    rows = examples(np.random.default_rng(17), 100)
    positions = sample(100, 20)
    outside = np.setdiff1d(np.arange(100), positions)[2]
    inside = positions[positions > outside][0]
    for bad in ([outside], [inside], [outside, inside]):
        broken = rows[0].copy()
        broken[bad, 1] = np.nan
        with pytest.raises(ValueError, match=rf"^embeddings: row {bad[0]} holds NaN or inf"):
            resmem.Memory(preprocess="pca:2").fit(broken, *rows[1:])


def test_a_fit_is_the_same_every_time():
    rows = examples(np.random.default_rng(18), 500)
    for preprocess in FITTED:
        one, other = (
            fitted_arrays(resmem.Memory(preprocess=preprocess).fit(*rows)) for _ in range(2)
        )
        for name, array in one.items():
            same_bits(other[name], array)


# ---- Limits ----------------------------------------------------------------------------------


@pytest.mark.parametrize("preprocess", [p for p in FITTED if p[:3] not in ("whi", "nca")])
def test_largest_embeddings_are_preprocessed_or_refused_by_row(preprocess):
    rng = np.random.default_rng(19)
    largest = rng.choice([-LARGEST, LARGEST], (40, D)).astype(np.float32)
    rows = largest, *examples(rng, 40)[1:]
    mem = resmem.Memory(k=3, preprocess=preprocess)
    if preprocess == "standardize":
        assert np.abs(keys_of(mem.fit(*rows))).max() < 3
        return
    with pytest.raises(ValueError, match=rf"row \d+ is beyond float32 after .*'{preprocess}'"):
        mem.fit(*rows)
    assert np.isfinite(keys_of(mem.fit(rows[0] / 4, *rows[1:]))).all()


def test_a_row_that_a_small_scale_makes_infinite_is_named(monkeypatch):
    monkeypatch.setattr(resmem._base.blocks, "_BLOCK_BYTES", 400)  # several blocks
    rng = np.random.default_rng(20)
    mem = resmem.Memory(k=3, preprocess="standardize")
    mem.fit(*(FAMILIES["tiny"](rng, 30), *examples(rng, 30)[1:]))
    before = keys_of(mem)
    rows = examples(rng, 9)
    rows[0][:6] *= np.float32(1e-20)
    rows[0][6] *= np.float32(1e25)
    beyond = r"^embeddings: row 6 is beyond float32 after preprocess='standardize'; rescale"
    for call in (mem.add, mem.correct, mem.kneighbors):
        with pytest.raises(ValueError, match=beyond):
            call(*rows[: {mem.add: 3, mem.correct: 2}.get(call, 1)])
    same_bits(keys_of(mem), before)


@pytest.mark.parametrize("scale", [1e-42, 2e31, LARGEST])
def test_whitening_weights_beyond_float32_are_refused(scale):
    rng = np.random.default_rng(21)
    rows = rng.choice([-1, 0, 1], (40, D)) * scale, *examples(rng, 40)[1:]
    with pytest.raises(ValueError, match=r"whiten:3' needs weights beyond float32 for embeddings"):
        resmem.Memory(preprocess="whiten:3").fit(*rows)


@pytest.mark.parametrize("scale", [1e-36, 1e30])
def test_embeddings_near_the_limits_of_float32_are_whitened(scale):
    rng = np.random.default_rng(22)
    rows = rng.choice([-1, 0, 1], (40, D)) * scale, *examples(rng, 40)[1:]
    keys = keys_of(resmem.Memory(k=3, preprocess="whiten:5").fit(*rows)).astype(float)
    np.testing.assert_allclose(np.cov(keys.T, bias=True), np.eye(D), atol=1e-4)


def test_pca_of_a_huge_offset_is_refused():
    rows = np.full((9, D), 3e38) + np.eye(9, D) * 1e37, *examples(np.random.default_rng(0), 9)[1:]
    with pytest.raises(ValueError, match=r"'pca:5' needs weights beyond float32"):
        resmem.Memory(preprocess="pca:5").fit(*rows)


def test_embeddings_must_have_the_columns_of_fit():
    mem = fitted("pca:2")
    assert mem.info()["d"] == D
    assert "preprocess='pca:2'" in repr(mem)
    assert f"d={D}" in repr(mem)
    for call in (
        lambda: mem.kneighbors(np.zeros((1, 2))),
        lambda: mem.correct(np.zeros((1, 2)), np.zeros((1, C))),
        lambda: mem.add(np.zeros((1, 2)), np.zeros((1, C)), [0]),
    ):
        with pytest.raises(ValueError, match="embeddings must have 5 columns"):
            call()


def test_first_rows_after_an_empty_fit_fit_the_preprocess():
    for preprocess in ALL:
        mem = resmem.Memory(k=2, preprocess=preprocess)
        mem.fit(np.empty((0, D)), np.empty((0, C)), np.empty(0, int))
        rows = examples(np.random.default_rng(23), 5)
        wanted = resmem.Memory(k=2, preprocess=preprocess).fit(*rows)
        same_answers(mem.add(*rows), wanted)


# ---- Copies and files ------------------------------------------------------------------------


@pytest.mark.parametrize("preprocess", ALL)
@pytest.mark.parametrize("form", ["m.resmem", "m.npz", "m.safetensors", "append", "pickle"])
def test_a_copy_preprocesses_as_the_memory_does(tmp_path, form, preprocess):
    mem, path = fitted(preprocess, key_dtype="bfloat16"), tmp_path / form
    rows = examples(np.random.default_rng(24), 5)
    if form == "pickle":
        twin = pickle.loads(pickle.dumps(mem))
    elif form == "append":
        mem = fitted(preprocess).save(path)
        mem.add(*rows).remove([5]).save(path, append=True)
        twin = resmem.Memory.load(path)
    else:
        (mem.save if form == "m.resmem" else mem.export)(path)
        twin = resmem.Memory.load(path)
    assert twin.preprocess == preprocess
    assert twin.info()["preprocess"] == preprocess
    for name, array in fitted_arrays(mem).items():
        same_bits(fitted_arrays(twin)[name], array)
    same_answers(twin, mem)
    same_answers(twin.add(*rows), mem.add(*rows))


def test_an_append_does_not_write_the_preprocess_again(tmp_path):
    rng, path = np.random.default_rng(34), tmp_path / "m"
    rows = rng.standard_normal((20, 200)), *examples(rng, 20)[1:]
    mem = resmem.Memory(k=3, preprocess="pca:200").fit(*rows).save(path)
    whole = path.stat().st_size
    mem.add(*rows).save(path, append=True)
    assert path.stat().st_size - whole < 20 * 200 * 4 + 20_000 < fitted_arrays(mem)["weight"].nbytes
    assert resmem.Memory.load(path).kneighbors(rows[0])[1].tobytes() == (
        mem.kneighbors(rows[0])[1].tobytes()
    )


def test_compaction_keeps_the_preprocess():
    mem = fitted("whiten:2")
    before = fitted_arrays(mem)
    mem.remove([i for i in range(50) if i != 3]).add(*examples(np.random.default_rng(25), 3))
    mem._state._compactor.join()
    assert len(mem._state.view.rows.segments[0]) < 15
    assert fitted_arrays(mem) is before
    assert mem._state.view.rows.segments[0]["keys"].shape[1] == 2


def test_embeddings_are_borrowed_only_without_preprocess():
    rows = examples(np.random.default_rng(26), 30)
    for preprocess in ALL:
        mem = resmem.Memory(k=2, preprocess=preprocess).fit(*rows, copy=False)
        shared = np.shares_memory(mem._state.view.rows.segments[0]["keys"], rows[0])
        assert shared == (preprocess == "none")
        assert np.shares_memory(mem._state.view.rows.segments[0]["outputs"], rows[1])
        same_answers(mem, resmem.Memory(k=2, preprocess=preprocess).fit(*rows))


def test_preprocess_is_fixed_when_a_memory_is_made():
    with pytest.raises(AttributeError):
        fitted("center").preprocess = "unit"


# ---- Memories with other keys ----------------------------------------------------------------


@pytest.mark.parametrize("key_dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("preprocess", ALL)
@pytest.mark.parametrize("sigma", ["auto", 0.7, math.inf])
def test_rekeyed_memory_equals_a_new_fit(preprocess, key_dtype, sigma):
    rows = examples(np.random.default_rng(27), 60)
    options = {"k": 4, "sigma": sigma, "temperature": 1.5, "strength": 0.7, "base": "x"}
    ids = np.random.default_rng(28).permutation(99)[:60]
    mem = resmem.Memory(**options).fit(*rows, ids=ids)
    wanted = resmem.Memory(**options, preprocess=preprocess, key_dtype=key_dtype)
    wanted.fit(*rows, ids=ids)
    made = rekeyed(mem, preprocess, key_dtype)
    assert made.info() == wanted.info()
    same_answers(made, wanted)
    assert (
        made._state.view.rows.segments[0].keys_max == wanted._state.view.rows.segments[0].keys_max
    )
    for name in ("outputs", "residuals", "targets", "ids"):
        one, other = (m._state.view.rows.segments[0][name] for m in (made, mem))
        assert np.shares_memory(one, other)
    assert (made.preprocess, mem.preprocess) == (preprocess, "none")


@pytest.mark.parametrize("preprocess", ["none", "unit", "standardize", "whiten:2"])
@pytest.mark.parametrize("store", ["dense", "sparse:2"])
def test_rekeyed_memory_is_fitted_to_the_living_rows(preprocess, store, monkeypatch):
    monkeypatch.setattr(_preprocess, "_SAMPLE", 30)
    monkeypatch.setattr(_preprocess, "_BLOCK_BYTES", 8 * D * 7)
    monkeypatch.setattr(resmem._base.blocks, "_BLOCK_BYTES", 8 * D * 7)
    rng = np.random.default_rng(29)
    first, second = examples(rng, 50), examples(rng, 20)
    mem = resmem.Memory(k=4, store=store).fit(*first).add(*second)
    gone = [4, 7, 49]
    before = mem.kneighbors(second[0])[0].tobytes()
    rows = [np.concatenate(pair) for pair in zip(first, second, strict=True)]
    living = np.setdiff1d(np.arange(70), gone)
    wanted = resmem.Memory(k=4, store=store, preprocess=preprocess)
    wanted.fit(*(part[living] for part in rows), ids=living)
    untouched = rekeyed(mem, preprocess, "float32")
    made = rekeyed(mem.remove(gone), preprocess, "float32")
    same_answers(made, wanted)
    assert made.sigma_ == wanted.sigma_
    assert made.residual_error_ == mem.residual_error_
    assert (len(made), len(untouched)) == (67, 70)
    shared = [
        np.shares_memory(a["targets"], b["targets"])
        for a, b in zip(made._state.view.rows.segments, mem._state.view.rows.segments, strict=True)
    ]
    assert shared == [False, True]  # nothing was removed from the second
    with pytest.raises(ValueError, match=r"ids must never have been used .* 7$"):
        made.add(*examples(rng, 1), ids=[7])
    more = examples(rng, 30)
    made.add(*more).remove([0, 60])
    same_answers(made, wanted.add(*more).remove([0, 60]))
    assert mem.kneighbors(second[0])[0].tobytes() != before  # since rows were removed
    assert len(mem) == 67


def test_rekeyed_memory_is_independent_of_the_original():
    rng = np.random.default_rng(30)
    mem = fitted("none")
    made = rekeyed(mem, "unit", "float32")
    twin = pickle.loads(pickle.dumps(made))
    mem.add(*examples(rng, 50)).remove([0, 1, 62])
    mem.temperature = 3.0
    same_answers(made, twin)
    made.remove([8]).add(*examples(rng, 2))
    assert 8 in mem.kneighbors(examples(np.random.default_rng(0), 60)[0][8:9], k=1)[1]


def test_rekeyed_memory_measures_its_own_sigma():
    mem = fitted("none")
    old = mem.sigma_
    mem.sigma = 0.7
    made = rekeyed(mem, "standardize", "float32")
    assert (made.sigma, made.sigma_) == (0.7, 0.7)
    made.sigma = mem.sigma = "auto"
    assert made.sigma_ == rekeyed(mem, "standardize", "float32").sigma_ != old


def test_rekeyed_memory_is_saved_and_continued(tmp_path):
    made = rekeyed(fitted("none"), "pca:2", "float16").save(tmp_path / "m")
    same_answers(resmem.Memory.load(tmp_path / "m"), made)
    made.add(*examples(np.random.default_rng(31), 2)).save(tmp_path / "m", append=True)
    same_answers(resmem.Memory.load(tmp_path / "m"), made)


def test_head_memory_is_rekeyed_to_another_dtype():
    rng = np.random.default_rng(32)
    rows, head = examples(rng, 30), (rng.standard_normal((C, D)), rng.standard_normal(C))
    mem = resmem.Memory(k=3, store="head", head=head).fit(rows[0], None, rows[2])
    wanted = resmem.Memory(k=3, store="head", head=head, key_dtype="bfloat16")
    same_answers(rekeyed(mem, "none", "bfloat16"), wanted.fit(rows[0], None, rows[2]))
    with pytest.raises(ValueError, match="store='head' needs preprocess='none'"):
        rekeyed(mem, "unit", "float32")


@pytest.mark.parametrize(
    "options", [{"preprocess": "unit"}, {"key_dtype": "float16"}, {"key_dtype": "bfloat16"}]
)
def test_rekeying_needs_embeddings_stored_as_they_came(options):
    mem = fitted(**{"preprocess": "none", **options})
    with pytest.raises(ValueError, match="keys can be made anew only of embeddings stored as they"):
        rekeyed(mem, "none", "float32")


def test_rekeying_names_rows_that_the_keys_cannot_hold():
    rows = examples(np.random.default_rng(33), 60)
    rows[0][52] = 1e5
    mem = resmem.Memory(k=3).fit(*(part[:50] for part in rows)).add(*(part[50:] for part in rows))
    with pytest.raises(ValueError, match="embeddings: row 52 is beyond float16"):
        rekeyed(mem, "none", "float16")
    rows[0][52] = LARGEST
    mem = resmem.Memory(k=3).fit(*(part[:50] for part in rows)).add(*(part[50:] for part in rows))
    with pytest.raises(ValueError, match=r"embeddings: row 52 is beyond float32 after .*'pca:5'"):
        rekeyed(mem.fit(-rows[0], *rows[1:]), "pca:5", "float32")
