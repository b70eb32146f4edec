"""Gates that tuning fits: the cheapest monotone steps, kept only where they clearly gain."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import resmem
from resmem._correction.gate import gate_named
from resmem._tuning.gates import _BIN_ROWS, FACTORS, _falling_factors, fit_step

QUIET = pytest.mark.filterwarnings("ignore:tune")


@given(
    costs=st.lists(
        st.lists(st.integers(-3, 3), min_size=len(FACTORS), max_size=len(FACTORS)),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_the_cheapest_falling_factors_are_found(costs):
    """All falling choices are tried; of equal ones the first with the largest factors counts."""
    totals = np.array(costs, dtype=float).T
    levels = range(len(FACTORS))
    every = [c for c in itertools.product(levels, repeat=len(costs)) if sorted(c)[::-1] == list(c)]
    cost = [sum(totals[level, b] for b, level in enumerate(choice)) for choice in every]
    got = tuple(_falling_factors(totals).tolist())
    assert got in every
    assert sum(totals[level, b] for b, level in enumerate(got)) == min(cost)


@settings(max_examples=settings().max_examples // 4)
@given(seed=st.integers(0, 2**31), feature=st.sampled_from(["distance", "confidence", "agreement"]))
def test_fitted_steps_are_monotone_and_cost_no_more(seed, feature):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2 * _BIN_ROWS, 400))
    values = rng.integers(0, 6, n) / 6 if seed % 2 else rng.random(n)
    costs = rng.standard_normal((len(FACTORS), n))
    step = fit_step(feature, values, costs)
    assert gate_named(step.name).steps == (step,)
    order = np.diff(step.factors)
    assert (order >= 0).all() if feature == "agreement" else (order <= 0).all()
    found = costs[np.searchsorted(FACTORS, step.of(values)), np.arange(n)].sum()
    assert found <= costs.sum(axis=1).min() + 1e-9


def half_known(seed, n=2600):
    """Return rows of a base that errs left of 0; right of it, the memory's targets mislead."""
    rng = np.random.default_rng(seed)
    z = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    truth = np.where(z[:, 0] < 0, 5.0 * np.sign(np.sin(20 * z[:, 1])), 0.0)
    confident = np.where(z[:, 0] < 0, 0.0, 1.5 * np.sign(np.cos(5 * z[:, 1])))
    chance = 1 / (1 + np.exp(-(truth + confident)))
    y = (rng.random(n) < chance).astype(int)
    logits = np.stack([np.zeros(n), confident], axis=1).astype(np.float32)
    return z, logits, y


@QUIET
def test_a_gate_that_clearly_gains_is_kept_and_gains():
    kept, better = 0, 0
    for seed in range(3):
        z, logits, y = half_known(seed, 5600)
        mem = resmem.Memory().fit(z[:1000], logits[:1000], y[:1000])
        fresh = z[1000:2600], logits[1000:2600], y[1000:2600]
        result = mem.tune(*fresh)
        assert result.useful
        assert "distance" in mem.gate
        assert result.gate_gain is not None
        if ";" not in mem.gate:
            continue
        kept += 1
        assert result.gate_gain.low > 0
        test = z[2600:], logits[2600:]
        gated = -np.log(mem.predict_proba(*test)[np.arange(3000), y[2600:]]).mean()
        mem.use(result.candidate)
        plain = -np.log(mem.predict_proba(*test)[np.arange(3000), y[2600:]]).mean()
        better += gated < plain
    assert kept >= 2
    assert better == kept


@QUIET
def test_a_gate_that_does_not_gain_is_left_out():
    """Where the base errs alike everywhere, at most one of 5 has a gate beside the reach."""
    kept = 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        z = rng.standard_normal((2000, 2)).astype(np.float32)
        y = (np.sin(4 * z[:, 0]) + 0.5 * rng.standard_normal(2000) > 0).astype(int)
        mem = resmem.Memory().fit(z[:1200], np.zeros((1200, 2)), y[:1200])
        result = mem.tune(z[1200:], np.zeros((800, 2)), y[1200:])
        assert result.useful
        kept += ";" in mem.gate or "0.25" in mem.gate
    assert kept <= 1


@QUIET
def test_a_tuned_memory_leaves_far_queries_to_the_base():
    z, logits, y = half_known(1)
    mem = resmem.Memory().fit(z[:1000], logits[:1000], y[:1000])
    result = mem.tune(z[1000:], logits[1000:], y[1000:])
    assert result.useful
    farthest = mem.kneighbors(z[1000:], k=1)[0].max()
    reached = float(mem.gate.split(", 0.0 beyond")[0].split(" to ")[-1])
    assert reached in (farthest, 2 * farthest)
    far = mem.predict_proba(z[:5] + 100, logits[:5])
    base = resmem.Memory(temperature=mem.temperature, strength=0.0)
    base.fit(z[:1000], logits[:1000], y[:1000])
    np.testing.assert_array_equal(far, base.predict_proba(z[:5], logits[:5]))


def test_scores_that_are_not_of_rows_have_no_gate():
    z, logits, y = half_known(2)
    mem = resmem.Memory().fit(z[:1000], logits[:1000], y[:1000])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = mem.tune(z[1000:], logits[1000:], y[1000:], score="calibration_error")
    assert result.gate_gain is None
    assert mem.gate == "none"


@QUIET
@pytest.mark.parametrize("score", ["rmse", "r2", "mae"])
def test_gates_of_every_score_of_values_have_one_sense(score):
    """Squared errors are costs whether or not a greater score is better."""
    rng = np.random.default_rng(3)
    z = rng.uniform(-1, 1, (2600, 2)).astype(np.float32)
    y = 10 * np.where(z[:, 0] < 0, np.sign(np.sin(20 * z[:, 1])), 0) + rng.standard_normal(2600)
    base = np.zeros(2600)
    mem = resmem.Memory("regression", k=4).fit(z[:1000], base[:1000], y[:1000])
    result = mem.tune(z[1000:1800], base[1000:1800], y[1000:1800], score=score)
    assert result.useful
    factors = gate_named(mem.gate).steps[0].factors
    assert list(factors) == sorted(factors, reverse=True)
    assert factors[0] == 1.0
    gated = np.square(mem.predict(z[1800:], base[1800:]) - y[1800:]).mean()
    assert gated < 0.6 * np.square(y[1800:]).mean()
    # The gain is in the units of the score: it cannot exceed the base's error.
    assert abs(result.gate_gain.mean) < 7


@QUIET
def test_gates_in_time_are_fitted_on_the_past():
    z, logits, y = half_known(4)
    mem = resmem.Memory().fit(z[:1000], logits[:1000], y[:1000])
    fresh, late = (z[1000:], logits[1000:]), np.arange(1600) >= 1280  # the last fold of five
    options = {"times": np.arange(1600), "folds": 5, "apply": False}
    seen = []

    def spy(feature, values, costs):
        seen.append(len(values))
        return fit_step(feature, values, costs)

    gates = resmem._tuning.gates
    gates.fit_step = spy
    try:
        result = mem.tune(*fresh, y[1000:], **options)
    finally:
        gates.fit_step = fit_step
    assert result.useful
    per_fold = sorted(set(seen))
    assert per_fold == [320, 640, 960, 1280] or per_fold == [320, 640, 960, 1280, 1600]
    assert late.sum() == 320
