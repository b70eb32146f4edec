"""The running judgement of a memory in use, and the intervals that hold at every look."""

from __future__ import annotations

import json
import math
import re
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import resmem
from resmem._scores.metrics import brier_scores, squared_errors
from resmem._scores.sequences import Sequence, bound

D, C = 4, 3
CENTRES = np.random.default_rng(1).standard_normal((6, D))


def world(n, seed, shift=0):
    """Return rows of a base that errs alike near each centre; ``shift`` moves the truth."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 6, n)
    z = CENTRES[group] + 0.1 * rng.standard_normal((n, D))
    truth = (group + shift) % C
    logits = rng.standard_normal((n, C))
    logits[np.arange(n), group % C] += 0.5
    return z, logits, truth


def memory(**options):
    return resmem.Memory(**{"k": 10, "sigma": 1.0, **options}).fit(*world(600, 0))


# ---- Intervals ---------------------------------------------------------------------------------


def streams(kind, rng, rows):
    """Return numbers from -1/2 to 1/2 and what was to be expected of each."""
    if kind == "rare":  # 1 % of the rows lose what the others gain
        expected = np.zeros(rows)
        return np.where(rng.random(rows) < 0.01, -0.5, 0.5 * 0.01 / 0.99), expected
    if kind == "drifting":
        expected = np.linspace(-0.2, 0.3, rows)
        return expected + rng.uniform(-0.2, 0.2, rows), expected
    if kind == "dependent":  # the sign of what is expected follows what came before
        numbers, expected, last = np.empty(rows), np.empty(rows), 0.1
        for i, noise in enumerate(rng.uniform(-0.3, 0.3, rows)):
            expected[i] = 0.2 * np.sign(last)
            numbers[i] = last = expected[i] + noise
        return numbers, expected
    return rng.choice([-0.5, 0.5], rows), np.zeros(rows)


@pytest.mark.parametrize("kind", ["coin", "rare", "drifting", "dependent"])
def test_interval_covers_at_every_look_as_often_as_it_says(kind):
    rng, failed, risk = np.random.default_rng(3), 0, 0.2
    for _ in range(40):
        numbers, expected = streams(kind, rng, 300)
        found, missed = Sequence(), False
        for i, number in enumerate(numbers, 1):
            found = found.after(np.array([number]))
            if i % 5 == 0:
                _, low, high = found.interval(risk)
                missed |= not low <= expected[:i].mean() <= high
        failed += missed
    assert failed <= 14  # of 40 at a risk of 0.2; 15 or more have a chance below 0.01


def test_interval_of_a_fixed_size_would_fail_at_some_look():
    """The test above can fail: an interval for one look does not hold at all of them."""
    rng, failed = np.random.default_rng(3), 0
    for _ in range(40):
        numbers, _ = streams("coin", rng, 300)
        looks = np.arange(5, 301, 5)
        means = np.cumsum(numbers)[looks - 1] / looks
        failed += bool((np.abs(means) > 1.28 * 0.5 / np.sqrt(looks)).any())
    assert failed > 14


@given(risk=st.floats(1e-6, 0.5), squares=st.floats(0, 1e6))
def test_bound_solves_the_mixture(risk, squares):
    rates = 0.8 * 0.5 ** np.arange(12)
    at = bound(squares, risk)
    logs = rates * at - (-np.log1p(-rates) - rates) * squares
    total = math.log(np.exp(logs - logs.max()).mean()) + logs.max()
    assert total == pytest.approx(math.log(1 / risk), rel=1e-9, abs=1e-6)


def test_interval_narrows_like_the_root_of_the_rows():
    widths = []
    for n in (10_000, 1_000_000):
        sequence = Sequence().after(np.tile([-0.25, 0.25], n // 2))
        _, low, high = sequence.interval(0.05)
        widths.append(high - low)
    assert 9 < widths[0] / widths[1] < 12


@settings(max_examples=40, deadline=None)
@given(numbers=st.lists(st.floats(-0.5, 0.5), max_size=60), cut=st.integers(0, 60))
def test_sequence_is_the_same_however_numbers_arrive(numbers, cut):
    array = np.array(numbers, dtype=np.float64)
    at_once = Sequence().after(array)
    in_parts = Sequence().after(array[:cut]).after(array[cut:])
    one_by_one = Sequence()
    for number in array:
        one_by_one = one_by_one.after(np.array([number]))
    assert at_once == in_parts == one_by_one


# ---- Monitor -----------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1_000, 130])
def test_gain_is_the_mean_of_prequential_gains(window):
    mem, gains = memory(), []
    monitor = mem.monitor(window=window)
    for day in range(4):
        z, logits, y = world(100, 10 + day)
        chances = mem.predict_proba(z, logits)
        mem.strength = 0
        base = mem.predict_proba(z, logits)
        mem.strength = 1
        gains.append(brier_scores(base, y) - brier_scores(chances, y))
        monitor.update(z, logits, y)
        mem.add(z, logits, y)
    cut = np.clip(np.concatenate(gains), -1, 1)
    assert monitor.gain.mean == pytest.approx(cut.mean(), rel=1e-12)
    assert monitor.gain.rows == 400
    assert monitor.gain.low < monitor.gain.mean < monitor.gain.high
    last = 400 if window == 1_000 else 400 - 2 * window
    assert monitor.recent.rows == last
    assert monitor.recent.mean == pytest.approx(cut[-last:].mean(), rel=1e-12)


def test_memory_that_helps_is_told_and_stays_on():
    mem = memory()
    monitor = mem.monitor(off_when_harmful=True)
    assert monitor.helps is None
    monitor.update(*world(1_500, 5))
    assert monitor.helps is True
    assert mem.strength == 1


def test_memory_that_stops_helping_is_switched_off_once():
    mem = memory(strength=0.7)
    monitor = mem.monitor(off_when_harmful=True, window=500)
    monitor.update(*world(3_000, 5))
    assert monitor.helps is True
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for day in range(12):
            monitor.update(*world(100, 20 + day, shift=1))
    assert "the memory harms" in str(told[0].message)
    assert "set memory.strength = 0.7" in str(told[0].message)
    assert len(told) == 1
    assert mem.strength == 0
    assert monitor.gain.low > 0  # in all, it has helped
    assert monitor.helps is False
    assert "switched off, the strength was 0.7" in repr(monitor)
    monitor.update(*world(1_200, 90))  # it is judged at its former strength, and stays off
    assert monitor.recent.mean > 0
    assert mem.strength == 0


def test_harmful_memory_stays_on_unless_asked_otherwise():
    mem = memory()
    monitor = mem.monitor().update(*world(1_000, 5, shift=1))
    assert monitor.helps is False
    assert mem.strength == 1


def test_monitor_goes_on_from_json():
    mem = memory()
    monitor, twin = (mem.monitor("log_loss", window=70, confidence=0.9) for _ in range(2))
    for part in range(5):
        monitor.update(*world(40, part + 3))
        twin.update(*world(40, part + 3))
        twin = mem.monitor(resume=json.loads(json.dumps(twin.to_dict())))
    assert twin.to_dict() == monitor.to_dict()
    assert repr(twin) == repr(monitor)
    assert len(json.dumps(monitor.to_dict())) < 1_000


NONE = {"rows": 0, "total": 0.0}
WRONG = [
    ("score", ["brier"], "resume must be of a score for classification, got ['brier']"),
    ("cut", "1", "resume must be what to_dict gives: cut must be a number, got '1'"),
    ("cut", 1e308, "to_dict gives: cut must be at most 4.49e+307, got 1e+308"),
    ("confidence", 2, "to_dict gives: confidence must lie between 0 and 1, got 2"),
    ("window", 0, "to_dict gives: window must be at least 1, got 0"),
    ("off_when_harmful", 1, "to_dict gives: off_when_harmful must be True or False, got 1"),
    ("total", 3, "to_dict gives: total must have rows, squares, total, got 3"),
    ("older", NONE, "to_dict gives: older must have rows, squares, total, got {'rows': 0, "),
    ("newer", {**NONE, "squares": -1}, "squares of newer must be a number of at least 0, got -1"),
    ("begun", -1, "to_dict gives: begun must be at least 0, got -1"),
    ("switched_off", "1", "to_dict gives: switched_off must be a number, got '1'"),
]


@pytest.mark.parametrize(("name", "value", "said"), WRONG)
def test_monitor_resumes_from_no_senseless_record(name, value, said):
    mem = memory()
    with pytest.raises(ValueError, match=re.escape(said)):
        mem.monitor(resume={**mem.monitor().to_dict(), name: value})


def test_refused_rows_are_not_counted():
    mem = memory()
    monitor = mem.monitor().update(*world(50, 3))
    before = monitor.to_dict()
    z, logits, y = world(30, 4)
    with pytest.raises(ValueError, match="NaN"):
        monitor.update(np.where(np.arange(30)[:, None] == 29, np.nan, z), logits, y)
    assert monitor.to_dict() == before


def test_rows_that_were_added_first_are_warned_of():
    mem = memory()
    with pytest.warns(resmem.ResmemWarning, match="monitor: .* lie on rows of the memory"):
        mem.monitor().update(*world(600, 0))


def test_monitor_sees_only_rows_that_a_query_may_see():
    z, logits, y = world(300, 3)
    mem = resmem.Memory(k=5, sigma=1.0).fit(z, logits, y, times=np.arange(300))
    twin = resmem.Memory(k=5, sigma=1.0).fit(z[:100], logits[:100], y[:100])
    rows = world(80, 8)
    past = mem.monitor().update(*rows, before=np.full(80, 100))
    assert past.to_dict() == twin.monitor().update(*rows).to_dict()


@pytest.mark.parametrize("score", ["mse", "mae"])
def test_values_are_cut_in_units_of_the_base_losses(score):
    rng = np.random.default_rng(2)
    z = rng.standard_normal((400, D))
    truth, base = z[:, 0] + 3, rng.standard_normal(400)
    mem = resmem.Memory("regression", k=8, sigma=1.0).fit(z[:200], base[:200], truth[:200])
    monitor = mem.monitor(score).update(z[200:], base[200:], truth[200:])
    errors = (truth - base)[:200]
    mean = np.square(errors).mean() if score == "mse" else np.abs(errors).mean()
    assert monitor.to_dict()["cut"] == pytest.approx(4 * mean)
    assert monitor.helps is True
    wide = mem.monitor("mse", cut=1e6).update(z[200:], base[200:], truth[200:])
    corrected = mem.predict(z[200:], base[200:])
    gains = squared_errors(base[200:], truth[200:]) - squared_errors(corrected, truth[200:])
    assert wide.gain.mean == pytest.approx(gains.mean(), rel=1e-9)
    assert wide.helps is None


@pytest.mark.parametrize(("score", "size"), [("mse", 1e160), ("mae", 1e307), ("mse", 1e153)])
def test_monitor_of_huge_residuals_can_be_resumed(score, size):
    rng = np.random.default_rng(3)
    z, base = rng.standard_normal((60, D)), np.zeros(60)
    truth = size * rng.random(60)
    mem = resmem.Memory("regression", k=4, sigma=1.0).fit(z[:40], base[:40], truth[:40])
    monitor = mem.monitor(score)
    parts = json.loads(json.dumps(monitor.to_dict(), allow_nan=False))
    assert 0 < parts["cut"] < np.inf
    resumed = mem.monitor(resume=parts)
    rows = z[40:], base[40:], truth[40:]
    with np.errstate(over="ignore", invalid="ignore"):  # of squares beyond float64
        assert resumed.update(*rows).to_dict() == monitor.update(*rows).to_dict()
    assert all(np.isfinite([monitor.gain.mean, monitor.gain.low, monitor.gain.high]))
    assert mem.monitor(resume=monitor.to_dict()).gain == monitor.gain
