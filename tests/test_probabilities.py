"""``predict_proba`` keeps the base's own bits, its mass and its impossible classes."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
import resmem
from cases import same_bits

MAPS = ("clip", "clip:0.3", "project", "project:0.3", "keep", "keep:0.9")
STORES = ("dense", "sparse:2", "head")


def softmax(logits):
    """Return the softmax in plain float64."""
    e = np.exp(np.asarray(logits, np.float64) - np.max(logits, axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def losses(chances, y):
    with np.errstate(divide="ignore"):
        return -np.log(chances[np.arange(len(y)), y])


def sure(C, q=3, gap=18.4):
    """Return logits of a model that is sure of the right class and prefers no other."""
    y = np.arange(q) * 7 % C
    logits = np.zeros((q, C), np.float32)
    logits[np.arange(q), y] = gap
    return logits, y


# ---- The base model's own bits -----------------------------------------------------------


@pytest.mark.parametrize("name", MAPS)
def test_a_sure_model_of_many_outputs_keeps_its_log_loss(name):
    C = 131_072
    logits, y = sure(C)
    mem = resmem.Memory(k=1, strength=0, probability_map=name, store="sparse:1")
    mem.fit(np.eye(3), logits, (y + 1) % C)
    got = losses(mem.predict_proba(np.eye(3), logits), y).mean()
    assert got == pytest.approx(losses(softmax(logits), y).mean(), rel=1e-12)
    assert got == pytest.approx(0.0013, abs=1e-4)


@pytest.mark.parametrize("C", [2, 100, 101, 50_000, 262_144])
@pytest.mark.parametrize("name", ["clip", "project"])
def test_floors_of_many_classes_take_little_probability(C, name):
    """Little is taken also where rows are corrected, here in agreement with a sure model."""
    logits, y = sure(C, gap=40.0)
    mem = resmem.Memory(k=1, probability_map=name, store="sparse:1").fit(np.eye(3), logits, y)
    p = mem.predict_proba(np.eye(3), logits)
    of_base = softmax(logits)[np.arange(3), y]
    assert (of_base - p[np.arange(3), y] <= 1e-4 * (1 + 1e-9)).all()
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)


def remembered(store, C=6, n=40, seed=0, masks=True, **options):
    """Return a memory over a base that calls some classes impossible, new rows and its rows."""
    rng = np.random.default_rng(seed)
    head = tuple(rng.standard_normal((C, w), dtype=np.float32) for w in (4, 1))
    head = (head[0], head[1][:, 0]) if store == "head" else None
    z, q = rng.standard_normal((2, n, 4), dtype=np.float32)
    of_rows, logits = 2 * rng.standard_normal((2, n, C), dtype=np.float32)
    y = rng.integers(0, C, n)
    if masks:
        for some in (of_rows, logits):
            hidden = rng.random((n, C)) < 0.4
            hidden[np.arange(n), rng.integers(0, C, n)] = False
            some[hidden] = -np.inf
    mem = resmem.Memory(store=store, head=head, **{"k": 3, **options})
    mem.fit(z, None if head else of_rows, y)
    return mem, q, logits, (z, of_rows, y)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_rows_without_correction_keep_the_bits_of_the_base(store, name, temperature):
    mem, z, logits, _ = remembered(store, probability_map=name, temperature=temperature)
    base = oracle.softmax(logits, temperature)
    everyone = np.tile(np.arange(40), (40, 1))
    same_bits(mem.predict_proba(z, logits, exclude_ids=everyone), base)
    mem.strength = 0
    same_bits(mem.predict_proba(z, logits), base)
    np.testing.assert_array_equal(mem.predict(z, logits), base.argmax(axis=1))
    mem.strength = 1
    some = everyone.copy()
    some[::2] = -1
    got = mem.predict_proba(z, logits, exclude_ids=some)
    same_bits(got[1::2], base[1::2])
    assert not np.array_equal(got[::2], base[::2])


def test_given_probabilities_come_back_unchanged():
    p = np.array([[0.5, 0.499, 0.0], [1.0, 0.0, 0.0]], np.float32)  # the sum is a little off
    mem = resmem.Memory(output_kind="probabilities", k=1, strength=0).fit(np.eye(2), p, [0, 0])
    for name in MAPS:
        mem.probability_map = name
        same_bits(mem.predict_proba(np.eye(2), p), p.astype(np.float64))
    mem.strength = 1.0
    same_bits(mem.predict_proba(np.eye(2), p)[1], p[1].astype(np.float64))  # a residual of 0


# ---- Impossible classes ------------------------------------------------------------------


@settings(max_examples=settings().max_examples)
@given(
    st.integers(0, 2**31), st.sampled_from(STORES), st.sampled_from(MAPS),
    st.sampled_from([1.0, 0.3, 2.0, 0.0, -0.5, -3.0]), st.sampled_from([2, 6, 130]),
)  # fmt: skip
def test_impossible_class_needs_a_neighbour_to_be_possible(seed, store, name, strength, C):
    mem, z, logits, (_, _, y) = remembered(
        store, C, seed=seed, strength=strength, probability_map=name
    )
    impossible = np.isneginf(logits)
    _, ids = mem.kneighbors(z)
    had = (y[ids][:, :, None] == np.arange(C)).any(axis=1)
    p = mem.predict_proba(z, logits)
    assert not p[impossible & ~had].any()
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    if strength <= 0:
        assert not p[impossible].any()
    if strength != 0:
        moved = (mem.correction(z) != 0).any(axis=1)
        assert (p[moved][~impossible[moved]] > 0).all()  # what the base allows stays possible
    np.testing.assert_array_equal(mem.predict(z, logits), p.argmax(axis=1))


@pytest.mark.parametrize("name", MAPS)
def test_padding_of_outputs_gets_no_probability(name):
    """The outputs are padded with -inf to a round number of columns."""
    rng = np.random.default_rng(0)
    logits = np.full((30, 1024), -np.inf, np.float32)
    logits[:, :1000] = rng.standard_normal((30, 1000))
    z = rng.standard_normal((30, 4))
    mem = resmem.Memory(k=5, probability_map=name).fit(z, logits, rng.integers(0, 1000, 30))
    p = mem.predict_proba(z + 0.1, logits)
    assert not p[:, 1000:].any()
    assert (p[:, :1000] > 0).all()


def test_neighbours_make_a_class_possible():
    logits = np.array([[0, 0, -np.inf]], np.float32)
    for name in MAPS:
        mem = resmem.Memory(k=1, probability_map=name).fit([[0.0]], logits, [2])
        p = mem.predict_proba([[0.0]], logits)[0]
        assert p[2] > 0.5
        assert mem.predict([[0.0]], logits).tolist() == [2]


# ---- Tuning and evaluation ---------------------------------------------------------------


def confident(C=3000, q=300):
    """Return rows of a model that is sure and mostly right, over many classes."""
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((2 * q, 4)), rng.integers(0, C, 2 * q)
    logits = rng.standard_normal((2 * q, C)).astype(np.float32)
    logits[np.arange(2 * q), y] += 22
    logits[:, -1] = -np.inf
    y = np.minimum(y, C - 2)
    logits[np.arange(2 * q), y] = np.maximum(logits[np.arange(2 * q), y], 20)
    return (z[:q], logits[:q], y[:q]), (z[q:], logits[q:], y[q:])


def test_the_base_is_scored_on_its_own_probabilities():
    rows, fresh = confident()
    mem = resmem.Memory(k=3).fit(*rows)
    own = losses(softmax(fresh[1]), fresh[2]).mean()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = mem.tune(*fresh, apply=False, k=[1, 3], sigma=[1.0, math.inf], temperature=[1.0])
    assert result.scores["base"] == pytest.approx(own, rel=1e-9)
    at_rest = result.table[result.table["strength"] == 0]
    np.testing.assert_allclose(at_rest["score"], own, rtol=1e-9)
    found = mem.evaluate(*fresh, knn=result)
    assert found.methods[0].name == "base"
    assert found.methods[0].scores["log_loss"] == pytest.approx(own, rel=1e-9)
    mem.strength = 0.0
    last = mem.evaluate(*fresh).methods[-1].scores
    assert last["log_loss"] == found.methods[0].scores["log_loss"]


# The first rows are those that the base is wrong about.
IN_ORDER = pytest.mark.filterwarnings("ignore:tune. gains of .*rows that follow each other")


def wrongly_sure(q=200, wrong=3):
    """Return rows of a model that calls the class of a few rows impossible."""
    rng = np.random.default_rng(1)
    z, y = rng.standard_normal((2 * q, 3)), rng.integers(0, 4, 2 * q)
    logits = rng.standard_normal((2 * q, 4)).astype(np.float32)
    logits[np.arange(q, q + wrong), y[q : q + wrong]] = -np.inf
    return (z[:q], logits[:q], y[:q]), (z[q:], logits[q:], y[q:])


@IN_ORDER
@pytest.mark.parametrize("loo", [False, True])
def test_tune_warns_of_classes_that_the_base_calls_impossible(loo):
    rows, fresh = wrongly_sure()
    mem = resmem.Memory(k=3).fit(*(fresh if loo else rows))
    given = () if loo else fresh
    with pytest.warns(UserWarning, match="exactly 0") as told:
        result = mem.tune(*given, loo=loo, apply=False)
    assert result.scores["base"] == math.inf
    note = f"gives exactly 0 to the class of 3 of {len(fresh[2])} rows"
    assert any(note in str(w.message) for w in told)
    assert any(note in line for line in result.notes)
    assert "inf" in repr(result)
    # Do what the note says: use another score, or leave these rows out.
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*exactly 0")
        warnings.filterwarnings("ignore", message="tune: (?!the base gives)")
        assert math.isfinite(mem.tune(*given, loo=loo, apply=False, score="brier").scores["base"])
        if not loo:
            left = mem.tune(*(part[3:] for part in fresh), apply=False)
            assert math.isfinite(left.scores["base"])
            assert math.isfinite(left.gain.low)


@IN_ORDER
@pytest.mark.filterwarnings("ignore:tune. strength=. is the largest:UserWarning")
def test_memory_that_knows_the_impossible_classes_is_kept():
    """The neighbours of every row have its class, so the gain is finite and clear of 0."""
    rng = np.random.default_rng(2)
    z = rng.integers(0, 4, 400)
    logits = np.zeros((400, 4), np.float32)
    logits[np.arange(400), z] = -np.inf
    keys = np.eye(4)[z] + 0.01 * rng.standard_normal((400, 4))
    mem = resmem.Memory().fit(keys[:200], logits[:200], z[:200])
    with pytest.warns(UserWarning, match="exactly 0 to the class of 200 of 200 rows"):
        result = mem.tune(keys[200:], logits[200:], z[200:], strength=[0.5, 1.0, 2.0])
    assert result.useful
    assert 0 < result.gain.low <= result.gain.mean <= 745
    with pytest.warns(resmem.ResmemWarning, match="exactly 0 to the class of 200 of 200 rows"):
        found = mem.evaluate(keys[200:], logits[200:], z[200:], knn=result)
    assert found.methods[0].scores["log_loss"] == math.inf
    assert found.methods[-1].scores["log_loss"] < 1
    assert 0 < found.methods[-1].gain.low <= 745


@IN_ORDER
def test_evaluate_warns_of_classes_the_base_calls_impossible(tmp_path):
    rows, fresh = wrongly_sure()
    mem = resmem.Memory(k=3).fit(*rows)
    said = r"exactly 0 to the class of 3 of 200 rows, the first of them row 0, .* or leave these"
    with pytest.warns(resmem.ResmemWarning, match=said):
        found = mem.evaluate(*fresh)
    assert found.methods[0].scores["log_loss"] == math.inf
    for gain in (method.gain for method in found.methods[1:]):
        assert math.isfinite(gain.mean) or (gain.low, gain.high) == (-math.inf, math.inf)
    assert "inf" in repr(found)
    page = tmp_path / "report.html"
    with pytest.warns(UserWarning, match="exactly 0"):
        result = mem.tune(*fresh, k=[1, 2], sigma=[1.0, math.inf])
    resmem.report(page, result, found)
    assert page.read_text(encoding="utf-8")
    mem.evaluate(*(part[3:] for part in fresh))  # as the message advises: no warning


# ---- After a memory is switched off -------------------------------------------------------


def misled(n=300):
    """Return rows of a regression base whose errors do not depend on the place."""
    rng = np.random.default_rng(5)
    z, truth = rng.standard_normal((2 * n, 3)), 50 * rng.standard_normal(2 * n)
    outputs = truth + 55 * rng.standard_normal(2 * n)
    return (z[:n], outputs[:n], truth[:n]), (z[n:], outputs[n:], truth[n:])


def test_memory_switched_off_keeps_the_published_setting():
    rows, fresh = misled()
    mem = resmem.Memory("regression", k=1).fit(*rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = mem.tune(*fresh)
    assert not result.useful
    assert (mem.k, mem.sigma, mem.strength) == (result.published.k, result.published.sigma, 0)
    assert (result.best.k, result.best.sigma) == (result.published.k, result.published.sigma)
    for knn in (result, None, result.knn):
        found = mem.evaluate(*fresh, knn=knn)
        scores = {m.name: m.scores["rmse"] for m in found.methods}
        assert scores["ResMem as published"] == pytest.approx(result.scores["published"], rel=1e-9)
        assert found.settings["published_k"] == result.published.k
        assert found.settings["published_sigma"] == result.published.sigma


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_published_method_has_the_setting_that_tuning_found(task):
    if task == "regression":
        rows, fresh = misled()
    else:
        rng = np.random.default_rng(3)
        z, logits = rng.standard_normal((400, 3)), rng.standard_normal((400, 4))
        y = rng.integers(0, 4, 400)
        rows, fresh = (
            tuple(p[some] for p in (z, logits, y)) for some in np.split(np.arange(400), 2)
        )
    mem = resmem.Memory(task, k=1, sigma=0.5).fit(*rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = mem.tune(
            *fresh, temperature=1.0 if task == "classification" else None, apply=False
        )
    name = "log_loss" if task == "classification" else "rmse"
    of_result = mem.evaluate(*fresh, knn=result)
    scores = {m.name: m.scores[name] for m in of_result.methods}
    assert scores["ResMem as published"] == pytest.approx(result.scores["published"], rel=1e-9)
    # The memory's own setting, at another k and sigma, has its own line.
    own = {m.name: m.scores[name] for m in mem.evaluate(*fresh).methods}
    assert scores["ResMem, strength 1"] == own["ResMem as published"]
    assert list(scores)[-1] == "ResMem, strength 1"
    assert own["ResMem as published"] != scores["ResMem as published"]
    assert mem.evaluate(*fresh).settings["published_k"] == 1


def test_published_method_ignores_settings_of_other_keys():
    """Their sigma has other units, so the memory's own settings are used."""
    rows, fresh = misled()
    mem = resmem.Memory("regression", k=4, sigma=2.0, preprocess="unit").fit(*rows)
    other = resmem.Memory("regression", k=4, sigma=2.0).fit(*rows)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = other.tune(*fresh, apply=False)
    found = mem.evaluate(*fresh, knn=result)
    assert (found.settings["published_k"], found.settings["published_sigma"]) == (4, 2.0)
