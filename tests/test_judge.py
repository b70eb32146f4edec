"""What tuning makes of validation rows that depend on each other, and of the risk it may take."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

import resmem
from resmem._scores.folds import group_folds, time_folds, time_ranks
from resmem._tuning import dependence
from test_tune import calibrated

pytestmark = pytest.mark.filterwarnings("ignore:tune")
GRID = {"k": [1, 4, 16, 64], "temperature": 1.0, "probability_map": ["clip", "keep"]}


def tuned(rows, fresh, **options):
    """Return the memory of some rows, and its tuning on others."""
    mem = resmem.Memory().fit(*rows)
    return mem, mem.tune(*fresh, **GRID | options)


def parts(rows, *sizes):
    """Cut rows one after the other."""
    edges = np.cumsum((0, *sizes))
    return [tuple(a[i:j] for a in rows) for i, j in itertools.pairwise(edges)]


def half_width(result):
    return result.gain.mean - result.gain.low


# ---- Groups ------------------------------------------------------------------------------------


def test_rows_of_a_group_lie_in_one_fold():
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat(np.arange(40) * 7, rng.integers(1, 9, 40)))
    folds = group_folds(5, 0, rng.integers(0, 3, len(groups)), groups)
    assert len(np.unique(folds)) == 5
    for group in np.unique(groups):
        assert len(np.unique(folds[groups == group])) == 1
    assert np.ptp(np.bincount(folds)) <= 8
    assert (group_folds(5, 1, np.zeros(len(groups)), groups) != folds).any()


def test_fewer_groups_than_folds_make_fewer_folds():
    folds = group_folds(10, 0, np.zeros(12), np.arange(12) % 3)
    assert np.array_equal(np.unique(folds), [0, 1, 2])


def test_copies_of_rows_are_found_and_count_once():
    rng = np.random.default_rng(1)
    rows, fresh = parts(calibrated(rng, 1000, useful=True), 800, 200)
    copies = tuple(np.tile(part, (4,) + (1,) * (part.ndim - 1)) for part in fresh)
    once, told, found = (
        tuned(rows, data, apply=False, **options)[1]
        for data, options in (
            (fresh, {}), (copies, {"groups": np.tile(np.arange(200), 4)}), (copies, {})
        )
    )  # fmt: skip
    assert found.gain == told.gain
    assert half_width(found) == pytest.approx(half_width(once), rel=0.3)
    assert "the 800 validation rows are judged as 200 groups" in found.notes[0]
    assert not any("groups" in note for note in (*once.notes, *told.notes))


def test_rows_near_each_other_are_judged_as_groups():
    rng = np.random.default_rng(2)
    z, logits, y = calibrated(rng, 1200, useful=False)
    at = np.arange(300) // 10
    z[900:] = z[900:930][at] + 0.05 * rng.standard_normal((300, 4))
    rows, fresh = parts((z, logits, y), 900, 300)
    _, result = tuned(rows, fresh, apply=False)
    groups = int(re.search(r"judged as (\d+) groups", result.notes[0])[1])
    assert 30 <= groups <= 35
    assert not any("judged as" in note for note in tuned(rows, fresh, groups=at)[1].notes)
    given = tuned(rows, fresh, folds=np.arange(300) % 5, apply=False)[1]
    assert not any("judged as" in note for note in given.notes)


@pytest.mark.parametrize("d", [1, 2, 4, 30])
@pytest.mark.parametrize("q", [60, 500])
def test_unrelated_rows_are_not_grouped(d, q):
    rng = np.random.default_rng(d)
    z = rng.standard_normal((400 + q, d)).astype(np.float32)
    logits = rng.standard_normal((400 + q, 2)).astype(np.float32)
    rows, fresh = parts((z, logits, rng.integers(0, 2, 400 + q)), 400, q)
    result = tuned(rows, fresh, apply=False, k=16, sigma=1.0)[1]
    assert not any("judged as" in note for note in result.notes)


def test_copies_of_one_row_prove_nothing():
    rng = np.random.default_rng(12)
    rows, fresh = parts(calibrated(rng, 400, useful=True), 370, 30)
    one = tuple(np.repeat(part[:1], 30, axis=0) for part in fresh)
    result = tuned(rows, one)[1]
    assert not result.useful
    assert result.gain.low in (-np.inf, 0)
    assert "are judged as 1 groups" in result.notes[0]


def test_groups_may_have_any_numbers():
    rng = np.random.default_rng(13)
    rows, fresh = parts(calibrated(rng, 400, useful=True), 370, 30)
    groups = np.arange(30) // 3
    for score in ("log_loss", "calibration_error"):
        small, large = (
            tuned(rows, fresh, groups=g, score=score, k=4, sigma=1.0)[1].gain
            for g in (groups, 2**62 - groups * 2**40)
        )
        assert np.isfinite(small).all()
        assert small.low == pytest.approx(large.low, abs=0.1)


def test_keys_that_the_memory_has_too_are_not_copies():
    """A key of few values says nothing of which rows belong together."""
    rng = np.random.default_rng(3)
    z = rng.integers(0, 3, (700, 2)).astype(np.float32)
    logits = rng.standard_normal((700, 2)).astype(np.float32)
    rows, fresh = parts((z, logits, rng.integers(0, 2, 700)), 500, 200)
    assert not any("judged" in note for note in tuned(rows, fresh, apply=False)[1].notes)


def test_components_join_all_rows_that_links_reach():
    links = np.array([[0, 9], [9, 4], [4, 7], [2, 3], [3, 2]])
    groups = dependence._components(links, 10)
    assert groups.tolist() == [0, 1, 2, 2, 0, 3, 4, 0, 5, 0]


# ---- Time --------------------------------------------------------------------------------------


def test_folds_in_time_are_consecutive():
    times = np.array(["2020-03-01", "2020-01-01", "2020-02-01", "2020-01-01"], "datetime64[D]")
    ranks = time_ranks(times, 4)
    assert ranks.tolist() == [3, 0, 2, 0]
    assert time_folds(2, ranks).tolist() == [1, 0, 1, 0]
    assert time_folds(4, ranks).tolist() == [3, 0, 2, 0]


def test_only_the_past_chooses_settings_in_time():
    rng = np.random.default_rng(4)
    rows, (z, logits, y) = parts(calibrated(rng, 1000, useful=True), 600, 400)
    times, late = rng.permutation(400) * 0.5, 0.8 * 200
    other = np.where(times >= late, (y + 1) % 4, y)
    one, two = (
        tuned(rows, (z, logits, targets), times=times, folds=5, apply=False)[1]
        for targets in (y, other)
    )
    assert one.per_fold[:-1] == two.per_fold[:-1]
    assert one.candidate != two.candidate
    assert one.gain.mean > two.gain.mean


def test_the_first_fold_in_time_is_not_judged():
    rng = np.random.default_rng(5)
    rows, (z, logits, y) = parts(calibrated(rng, 1000, useful=True), 600, 400)
    first = np.arange(400) < 100
    wrong = np.where(first[:, None], -20 * np.eye(4)[y], logits).astype(np.float32)
    only = {"folds": 4, "times": np.arange(400), "k": 16, "sigma": 1.0}
    only |= {"strength": 1, "methods": "residual"}
    one, two = (tuned(rows, (z, o, y), **only, apply=False)[1] for o in (logits, wrong))
    assert one.gain.mean == pytest.approx(two.gain.mean, abs=0.3)
    assert one.held_out["base"] == two.held_out["base"]
    assert two.scores["base"] > one.scores["base"] + 1


def slow(rng, n, rho=0.95):
    noise, values = rng.standard_normal(n), np.zeros(n)
    for i in range(1, n):
        values[i] = rho * values[i - 1] + noise[i]
    return values


def test_gains_alike_in_row_order_are_seen():
    rng = np.random.default_rng(6)
    gains = slow(rng, 800)
    assert dependence.follows_order(gains)
    assert not dependence.follows_order(rng.permutation(gains))
    assert not dependence.follows_order(np.ones(800))
    assert not dependence.follows_order(gains[:40])


def test_rows_in_the_order_of_their_classes_are_no_sequence():
    rng = np.random.default_rng(7)
    labels = np.sort(rng.integers(0, 5, 600))
    gains = 3.0 * labels + rng.standard_normal(600)
    everything = dependence.Dependence(np.zeros(600, dtype=int))
    assert everything.clusters(gains, labels) == (None, False)
    assert everything.clusters(gains, None)[1]


def test_slow_gains_widen_the_interval_and_are_told_of():
    rng = np.random.default_rng(8)
    z, logits = rng.standard_normal((1800, 1)), 0.5 * rng.standard_normal((1800, 2))
    now = np.ones(1800)
    now[800:] = np.sign(slow(rng, 1000) + 2)  # from time to time the neighbours are wrong
    effect = 2 * now[:, None] * np.sign(z) * [1, 0]
    y = np.argmax(logits + effect + rng.gumbel(size=(1800, 2)), axis=1)
    rows, fresh = parts((z.astype(np.float32), logits.astype(np.float32), y), 800, 1000)
    order = rng.permutation(1000)
    mixed = tuple(part[order] for part in fresh)
    one, other = (tuned(rows, each, apply=False)[1] for each in (fresh, mixed))
    assert any("gains of rows that follow each other are alike" in note for note in one.notes)
    assert not any("follow each other" in note for note in other.notes)
    assert half_width(one) > 1.5 * half_width(other)


# ---- Risk --------------------------------------------------------------------------------------


def test_a_larger_risk_keeps_a_memory_that_is_not_clear():
    rng = np.random.default_rng(11)
    rows, fresh = parts(calibrated(rng, 1100, useful=True), 1000, 100)
    careful, result = tuned(rows, fresh, probability_map="keep")
    assert not result.useful
    assert result.gain.low < 0 < result.gain.mean
    bold, other = tuned(rows, fresh, probability_map="keep", risk=0.3)
    assert other.useful
    assert other.gain == result.gain
    assert (careful.strength, bold.strength > 0) == (0, True)
    assert (result.risk, other.risk) == (pytest.approx(0.025), 0.3)
    assert "is clear of 0 at a risk of 0.3" in other.reason
    assert tuned(rows, fresh, sigma=1.0, confidence=0.4)[1].risk == pytest.approx(0.3)


def test_a_temperature_is_applied_at_the_same_risk():
    rng = np.random.default_rng(10)
    z, logits, y = calibrated(rng, 600, useful=False)
    z = rng.standard_normal(z.shape).astype(np.float32)
    rows, fresh = parts((z, 1.8 * logits, y), 500, 100)
    for risk, applied in ((0.001, 1.0), (0.3, 1.4)):
        mem, result = tuned(rows, fresh, temperature=[1.0, 1.4], risk=risk, k=64, sigma=1e9)
        assert not result.useful
        assert result.temperature_gain.mean > 0
        assert mem.temperature == result.best.temperature == applied


def test_few_rows_are_said_to_be_too_few():
    rng = np.random.default_rng(11)
    rows, fresh = parts(calibrated(rng, 1100, useful=True), 1000, 100)
    result = tuned(rows, fresh, probability_map="keep")[1]
    needs = [(1 - each.low / each.mean, each.mean) for each in (result.gain, result.local_gain)]
    times, gain = max(needs)
    needed = float(f"{100 * times**2:.1e}")
    assert needed > 100
    assert "100 rows are too few to tell" in result.reason
    assert f"(a gain of {gain:.2g} would need about {needed:,.0f})" in result.reason


def test_switched_off_memories_apply_no_harmful_temperature():
    """Of twenty calibrated bases on few rows, at most one gets another temperature."""
    changed = 0
    for seed in range(20):
        rng = np.random.default_rng(100 + seed)
        rows, fresh = parts(calibrated(rng, 560, useful=False), 500, 60)
        mem, result = tuned(rows, fresh, temperature=[0.7, 1.0, 1.4], sigma=1.0)
        assert not result.useful
        changed += mem.temperature != 1
    assert changed <= 1


def test_log_loss_does_not_choose_to_rule_classes_out():
    rng = np.random.default_rng(61)
    keys = rng.standard_normal((900, 2)).astype(np.float32)
    # The neighbours know what the base model has wrong, so ruling its class out costs nothing here.
    wrong = np.tile(np.array([2.0, 0.0], np.float32), (900, 1))
    targets = np.ones(900, dtype=int)
    rows, fresh = parts((keys, wrong, targets), 500, 400)
    options = {"methods": "residual"}
    result = tuned(rows, fresh, **options)[1]
    least = result.table[np.argmin(result.table["score"])]
    assert least["probability_map"] == "clip"
    assert result.candidate.probability_map != "clip"
    assert tuned(rows, fresh, score="brier", **options)[1].candidate.probability_map == "clip"
    named = tuned(rows, fresh, probability_map="clip", **options)[1]
    assert named.candidate.probability_map == "clip"


def test_groups_may_have_labels_of_any_kind():
    rng = np.random.default_rng(0)
    rows = parts(calibrated(rng, 60, useful=False), 40, 20)
    mem = resmem.Memory().fit(*rows[0])
    few = {"k": 2, "sigma": 1.0, "strength": 1.0, "temperature": 1.0, "apply": False}
    results = [
        mem.tune(*rows[1], groups=groups, **few).to_dict()
        for groups in (np.arange(20) // 4, [f"g{i // 4}" for i in range(20)])
    ]
    for result in results:
        del result["seconds"]
    assert results[0] == results[1]


# ---- What is refused ---------------------------------------------------------------------------

RNG = np.random.default_rng(0)
SMALL = parts(calibrated(RNG, 60, useful=False), 40, 20)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"groups": [0] * 20}, ValueError, r"groups must have at least two numbers, got 0 alone"),
        ({"groups": [0, 1]}, ValueError, r"groups must have one row per row of targets \(20\)"),
        (
            {"groups": [np.nan] * 20},
            ValueError,
            r"groups must be labels such as .*, got nan in row 0",
        ),
        ({"times": np.zeros(20)}, ValueError, r"times .* must differ between folds, got one time"),
        ({"times": [1, 2]}, ValueError, r"times must have one row per row of targets \(20\)"),
        ({"times": np.zeros((20, 1))}, ValueError, r"times must have shape \(n,\), got \(20, 1\)"),
        ({"times": ["a"] * 20}, TypeError, r"times must hold numbers or datetime64, got dtype <U1"),
        ({"times": [np.nan] * 20}, ValueError, r"times: row 0 has no time"),
        ({"times": range(20), "groups": range(20)}, ValueError, r"cannot both be given"),
        ({"times": range(20), "folds": [0, 1] * 10}, ValueError, r"folds must be a number"),
        ({"times": range(20), "rule": "one_se"}, ValueError, r"rule='one_se' compares all folds"),
        ({"risk": 0}, ValueError, r"risk must be above 0 and at most 0\.5, got 0"),
        ({"risk": 0.6}, ValueError, r"risk must be above 0 and at most 0\.5, got 0\.6"),
        ({"risk": "low"}, TypeError, r"risk must be a number, got 'low'"),
    ],
)
def test_wrong_words_about_rows_are_refused(options, kind, message):
    mem = resmem.Memory().fit(*SMALL[0])
    before = repr(mem)
    with pytest.raises(kind, match=message):
        mem.tune(*SMALL[1], **options)
    assert repr(mem) == before


def test_folds_that_cut_a_group_are_refused():
    rng = np.random.default_rng(8)
    rows, fresh = parts(calibrated(rng, 500, useful=True), 300, 200)
    with pytest.raises(
        ValueError, match=r"folds must keep each of the groups together, got group 0 "
    ):
        tuned(rows, fresh, folds=np.arange(200) % 5, groups=np.arange(200) // 4)


def test_one_judged_row_tells_of_no_spread():
    rng = np.random.default_rng(9)
    rows, fresh = parts(calibrated(rng, 500, useful=True), 300, 200)
    times = np.r_[np.zeros(199), 1]
    _, result = tuned(rows, fresh, times=times, score="calibration_error", k=4, sigma=1.0)
    assert result.gain.low == -np.inf
    assert not result.useful
