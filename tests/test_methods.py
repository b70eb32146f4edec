"""Neighbours' targets beside residuals, and gates: the oracle's bits through every entry point."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
import resmem
from cases import ISAS, same_bits
from resmem import _core
from resmem._correction.gate import FEATURES, OPEN, Gate, Step, gate_named
from resmem._files import container

C, D = 5, 3
STORES = ["dense", "sparse:2", "head", "values"]


def examples(rng, n, values=False):
    keys = rng.integers(-2, 3, (n, D)).astype(np.float32)  # with many equal distances
    if values:
        return keys, rng.standard_normal((n, C)), rng.standard_normal((n, C))
    return keys, 2 * rng.standard_normal((n, C), dtype=np.float32), rng.integers(0, C, n)


def steps_of(rng, values):
    """Return steps of a gate: of the distance, and of a feature of classes."""
    chosen = [("distance", (0.0, 1.5), (1.0, 0.7, 0.0))]
    if not values:
        feature = rng.choice(["confidence", "agreement"])
        chosen.append((str(feature), (0.4, 0.5, 0.9), (0.25, 1.0, 0.5, 0.1)))
    return chosen[: int(rng.integers(0, 3))]


def pair(rng, store, n=60, **options):
    """Return a memory and the oracle's, with the same rows, additions and removals."""
    values = store == "values"
    steps = steps_of(rng, values)
    head = (rng.standard_normal((C, D), dtype=np.float32), np.zeros(C, np.float32))
    made = {"k": 6, "sigma": 0.7, "strength": 0.4, **options}
    if values:
        made |= {"task": "regression", "output_kind": "values"}
    else:
        made |= {"store": store, "head": head if store == "head" else None}
    gate = Gate(tuple(Step(*step) for step in steps))
    both = (
        resmem.Memory(**made, gate=gate.name),
        oracle.OracleMemory(**made, gate=steps),
    )
    for part in (examples(rng, n, values), examples(rng, 9, values)):
        for mem in both:
            add = mem.add if hasattr(mem, "ids_") or getattr(mem, "plan_", None) else mem.fit
            add(part[0], None if store == "head" else part[1], part[2])
    for mem in both:
        mem.remove([0, 3, n + 2])
    return both


@settings(max_examples=settings().max_examples // 5)
@given(
    seed=st.integers(0, 2**31),
    store=st.sampled_from(STORES),
    method=st.sampled_from(["residual", "targets"]),
    strength=st.sampled_from([0.0, 0.3, 1.0]),
    sigma=st.sampled_from([0.5, math.inf]),
)
def test_methods_and_gates_give_the_bits_of_the_oracle(seed, store, method, strength, sigma):
    rng = np.random.default_rng(seed)
    mine, theirs = pair(rng, store, method=method, strength=strength, sigma=sigma)
    queries, outputs, _ = examples(rng, 12, store == "values")
    exclude = rng.integers(-1, 69, (12, 2))
    exclude[0] = -1
    same_bits(mine.correction(queries, exclude), theirs.correction(queries, exclude))
    for name in ("correct", "predict", "predict_proba"):
        if name == "predict_proba" and store == "values":
            continue
        got, wanted = (getattr(m, name)(queries, outputs, exclude) for m in (mine, theirs))
        same_bits(got, wanted)
    near = mine.kneighbors(queries, exclude_ids=exclude)
    same_bits(mine.aggregate(*near, outputs), theirs.correct(queries, outputs, exclude))
    columns = rng.integers(0, C, (12, 2))
    got = mine.correct(queries, outputs, exclude, columns=columns)
    same_bits(got, theirs.correct(queries, outputs, exclude, columns))


@pytest.mark.parametrize("store", STORES)
def test_queries_without_neighbours_keep_the_base(store):
    rng = np.random.default_rng(1)
    mem, _ = pair(rng, store, n=5, method="targets", strength=1.0)
    queries, outputs, _ = examples(rng, 4, store == "values")
    everyone = np.tile(np.arange(20), (4, 1))
    base = outputs if store == "values" else oracle.softmax(outputs)
    same_bits(mem.correct(queries, outputs, everyone), base)


def test_mixtures_of_targets_need_no_map():
    """They sum to 1 with strength 1 too, and a class that no neighbour has gets nothing."""
    rng = np.random.default_rng(2)
    keys, logits, labels = examples(rng, 80)
    mem = resmem.Memory(k=3, method="targets").fit(keys, logits, labels)
    votes = mem.predict_proba(keys, logits)
    assert (votes == 0).any()
    np.testing.assert_allclose(votes.sum(axis=1), 1, rtol=1e-15)
    same_bits(votes, mem.correct(keys, logits))
    mem.strength = 0.25
    same_bits(mem.predict(keys, logits), mem.predict_proba(keys, logits).argmax(axis=1))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 3])
def test_labels_sum_to_the_same_bits_everywhere(isa, threads):
    rng = np.random.default_rng(3)
    q, k, n, width = 40, 9, 70, 11
    distances, positions = np.sort(rng.random((q, k)), axis=1), rng.integers(0, n, (q, k))
    distances[5:, 4:], positions[5:, 4:] = np.inf, -1
    labels, base = rng.integers(0, width, n), rng.random((q, width))
    strengths = rng.random(q)
    mean = oracle.correction(distances, positions, np.eye(width)[labels], 0.3)
    rows = [_core.LabelRows(labels[:30]), _core.LabelRows(labels[30:])]
    execution = _core.Execution(threads, isa)
    same_bits(_core.aggregate(rows, distances, positions, 0.3, width, execution=execution), mean)
    got = _core.aggregate(
        rows, distances, positions, 0.3, width, base=base.copy(), interpolate=True,
        strengths=strengths, execution=execution,
    )  # fmt: skip
    same_bits(got, oracle.interpolate(base, mean, strengths, positions))
    select = rng.integers(0, width, (q, 4))
    got = _core.aggregate(
        rows, distances, positions, 0.3, width, select=select, execution=execution
    )
    same_bits(got, np.take_along_axis(mean, select, axis=1))


def test_labels_beyond_the_columns_are_refused():
    near = np.zeros((1, 2)), np.array([[0, 1]])
    for label in (3, -1):
        with pytest.raises(ValueError, match=f"label {label} is not one of the classes 0 to 2"):
            _core.aggregate([_core.LabelRows(np.array([0, label]))], *near, 1.0, 3)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("method", ["residual", "targets"])
def test_explanations_add_up_for_every_method(store, method):
    rng = np.random.default_rng(4)
    for _ in range(5):
        mem, _ = pair(rng, store, method=method)
        queries, outputs, _ = examples(rng, 6, store == "values")
        told = mem.explain(queries, outputs, top=3)
        same_bits(told.corrected, mem.correct(queries, outputs, columns=told.columns))
        base = copy.copy(mem)
        base.strength = 0.0
        same_bits(told.base, base.correct(queries, outputs, columns=told.columns))
        parts = told.contributions + told.spread[:, :, None]
        np.testing.assert_allclose(parts.sum(axis=1), told.correction, atol=1e-14)
        # The correction is a rounded difference, and the sum is rounded once more.
        apart = np.abs(told.base + told.correction - told.corrected)
        assert (apart <= 2.0**-53 * (np.abs(told.correction) + np.abs(told.corrected))).all()


def test_method_gate_and_residuals_survive_files_and_copies(tmp_path):
    rng = np.random.default_rng(5)
    keys, logits, labels = examples(rng, 50)
    gate = "distance: 1.0 to 1.25, 0.5 to 2.0, 0.0 beyond; agreement: 0.25 to 0.6, 1.0 beyond"
    mem = resmem.Memory(method="targets", gate=gate, strength=0.3, residuals="out-of-fold")
    mem.fit(keys, logits, labels).save(tmp_path / "m.resmem").export(tmp_path / "m.npz")
    for again in (
        resmem.Memory.load(tmp_path / "m.resmem"),
        resmem.Memory.load(tmp_path / "m.npz"),
        pickle.loads(pickle.dumps(mem)),
        copy.deepcopy(mem),
    ):
        assert (again.method, again.gate, again.residuals) == ("targets", gate, "out-of-fold")
        same_bits(again.predict_proba(keys, logits), mem.predict_proba(keys, logits))
    assert mem.info()["method"] == "targets"
    assert "method='targets'" in repr(mem)
    assert resmem.Memory().use(mem.settings).gate == gate


def sections_of(path):
    return set(container.load(path, verify=True).arrays)


def test_files_say_what_older_readers_would_leave_out(tmp_path):
    """Required sections that they do not know make them refuse the file; plain files have none."""
    rng = np.random.default_rng(7)
    keys, logits, labels = examples(rng, 20)
    path = str(tmp_path / "m.resmem")
    mem = resmem.Memory(strength=0.5).fit(keys, logits, labels).save(path)
    assert not any(name.startswith("needs/") for name in sections_of(path))
    mem.method, mem.gate = "targets", "distance: 1.0 to 2.0, 0.0 beyond"
    mem.save(path, append=True)
    assert {"needs/targets", "needs/gate"} <= sections_of(path)
    assert {"needs/targets", "needs/gate"} <= set(container.load(path, verify=True).required)
    again = resmem.Memory.load(path)
    again.method = "residual"
    again.save(path, append=True)
    assert "needs/targets" not in sections_of(path)
    assert resmem.Memory.load(path).gate == mem.gate


def test_settings_of_methods_that_make_no_sense_change_nothing():
    mem = resmem.Memory(strength=2.0)
    with pytest.raises(ValueError, match="strength must lie between 0 and 1 with method='targets'"):
        mem.method = "targets"
    mem.strength = 0.5
    mem.method = "targets"
    with pytest.raises(ValueError, match=r"strength must lie between 0 and 1 .* got 1\.5"):
        mem.strength = 1.5
    assert (mem.method, mem.strength) == ("targets", 0.5)
    regression = resmem.Memory("regression")
    with pytest.raises(ValueError, match="gate must look at the distance alone in regression"):
        regression.gate = "confidence: 1.0 to 0.5, 0.0 beyond"
    assert regression.gate == "none"


# ---- Gates -----------------------------------------------------------------------------------


@given(
    feature=st.sampled_from(FEATURES),
    edges=st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=5, unique=True),
    factors=st.lists(st.floats(0, 1), min_size=6, max_size=6),
)
def test_a_gates_name_is_the_gate(feature, edges, factors):
    step = Step(feature, tuple(sorted(edges)), tuple(factors[: len(edges) + 1]))
    assert gate_named(Gate((step,)).name) == Gate((step,))
    values = np.array([*step.edges, *np.nextafter(step.edges, math.inf), math.inf, -math.inf])
    wanted = oracle.gate([(feature, step.edges, step.factors)], {feature: values}, 0.5)
    same_bits(0.5 * Gate((step,)).factors({feature: values}), wanted)


@pytest.mark.parametrize(
    "bad",
    [
        "", "distance", "distance: 1.0 beyond", "speed: 1.0 to 2.0, 0.0 beyond", 3,
        "distance: 1.0 to 2.0, 0.5 to 2.0, 0.0 beyond", "distance: 2.0 to 1.0, 0.0 beyond",
        "distance: 1.0 to nan, 0.0 beyond", "distance: 1.0 to 2.0, -0.1 beyond",
        "distance: 1.0 to 2.0, 0.0 beyond; distance: 1.0 to 3.0, 0.0 beyond",
        "distance: 1.0 to 2.0, 0.0 beyond;", "distance: 1.0 to 2,0, 0.0 beyond",
    ],
)  # fmt: skip
def test_gates_that_make_no_sense_are_refused(bad):
    with pytest.raises(ValueError, match="gate must be 'none' or steps"):
        gate_named(bad)
    assert gate_named("none") == OPEN


def test_a_gate_leaves_far_queries_to_the_base():
    rng = np.random.default_rng(6)
    keys, logits, labels = examples(rng, 60)
    for method in ("residual", "targets"):
        mem = resmem.Memory(k=4, method=method, gate="distance: 1.0 to 50.0, 0.0 beyond")
        mem.fit(keys, logits, labels)
        far = keys[:5] + 1000
        same_bits(mem.predict_proba(far, logits[:5]), oracle.softmax(logits[:5]))
        near = mem.predict_proba(keys[:5], logits[:5])
        mem.gate = "none"
        same_bits(mem.predict_proba(keys[:5], logits[:5]), near)
        assert (mem.predict_proba(far, logits[:5]) != oracle.softmax(logits[:5])).any()
