"""Intervals of mean gains: their arithmetic, and how often they cover on drawn rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from resmem._scores.intervals import (
    Expected,
    Interval,
    estimate_of,
    normal,
    paired_interval,
    student,
)


def below(draw, mean, draws=1000, **options):
    """Return the share of draws whose interval lies above the true mean."""
    return np.mean([paired_interval(draw(), **options).low > mean for _ in range(draws)])


# ---- Quantiles ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("risk", "freedom", "wanted", "rel"),
    [
        (0.025, 2, 4.302653, 0.01),
        (0.025, 4, 2.776445, 5e-4),
        (0.005, 9, 3.249836, 5e-4),
        (0.1, 30, 1.310415, 1e-5),
        (0.025, 1e9, 1.959964, 1e-6),
        (0.5, 3, 0.0, 0),
    ],
)
def test_student_quantiles_are_those_of_tables(risk, freedom, wanted, rel):
    assert student(risk, freedom) == pytest.approx(wanted, rel=rel, abs=1e-12)


@pytest.mark.parametrize("confidence", [1 - 1e-16, 1 - 2**-53, np.float64(1 - 2**-52)])
def test_a_confidence_next_to_1_has_an_interval(confidence):
    """The tail beyond 1 - 2^-53 is 2^-54, whose normal quantile is -8.2924 (by mpmath)."""
    z = 8.29236107581 if confidence == 1 - 2**-53 else 8.20953615160
    assert normal((1 - confidence) / 2) == pytest.approx(z, rel=1e-10)
    _, low, high, kept = paired_interval([1.0, 2.0, 4.0], confidence)
    assert -math.inf < low < -100 < 100 < high < math.inf
    assert kept == confidence


@pytest.mark.parametrize("confidence", [5e-324, 1e-300, 2**-60, 1e-12])
def test_a_confidence_next_to_0_has_an_interval(confidence):
    mean, low, high, _ = paired_interval([1.0, 2.0, 4.0], confidence)
    assert 0 <= high - mean < 1e-11
    assert math.copysign(1, normal((1 - confidence) / 2)) == 1
    np.testing.assert_allclose(mean - low, high - mean, atol=1e-15)


@pytest.mark.parametrize("confidence", [0, 1, 95, math.nan])
def test_confidence_outside_0_and_1_is_refused(confidence):
    with pytest.raises(ValueError, match="between 0 and 1"):
        paired_interval([1.0, 2.0], confidence)


# ---- Independent rows --------------------------------------------------------------------------


def test_interval_is_student_s_of_the_mean():
    gains = [1.0, 2.0, 3.0, 6.0]
    off = np.array(gains) - 3
    freedom = min(3, 2 / ((off**4).sum() / np.square(off).sum() ** 2 - 1 / 4) - 1)
    half = student(0.025, freedom) * math.sqrt(14 / 3) / 2
    interval = paired_interval(gains)
    assert interval == pytest.approx((3.0, 3 - half, 3 + half, 0.95))
    assert paired_interval(np.array([2.0, 2.0])) == Interval(2.0, 2.0, 2.0, 0.95)
    narrow = paired_interval(gains, confidence=0.5)
    assert interval.low < narrow.low < narrow.mean < narrow.high < interval.high


def test_interval_of_few_or_infinite_gains_is_infinite():
    assert math.isnan(paired_interval([]).mean)
    assert paired_interval([])[1:] == (-math.inf, math.inf, 0.95)
    assert paired_interval([3.0]) == Interval(3.0, -math.inf, math.inf, 0.95)
    assert paired_interval([3.0, math.inf]) == Interval(math.inf, -math.inf, math.inf, 0.95)
    assert math.isnan(paired_interval([-math.inf, math.inf]).mean)


def test_gains_of_two_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"shape \(n,\)"):
        paired_interval(np.ones((2, 2)))


def test_one_row_that_makes_up_the_spread_leaves_one_freedom():
    gains = np.zeros(100)
    gains[7] = 1.0
    assert estimate_of(gains).freedom == pytest.approx(1, abs=0.1)
    rng = np.random.default_rng(1)
    assert estimate_of(rng.uniform(size=100)).freedom == 99


@pytest.mark.parametrize(
    ("n", "draw"),
    [
        (8, lambda rng, n: rng.standard_normal(n)),
        (60, lambda rng, n: rng.standard_t(3, n)),
        (300, lambda rng, n: np.exp(rng.standard_normal(n)) * rng.standard_normal(n)),
    ],
    ids=["few", "heavy tails", "unequal noise"],
)
def test_lower_end_exceeds_the_mean_as_seldom_as_stated(n, draw):
    rng = np.random.default_rng(4)
    assert 0.01 < below(lambda: draw(rng, n), 0.0) < 0.035


# ---- Groups ------------------------------------------------------------------------------------


def test_rows_that_occur_m_times_count_as_one():
    rng = np.random.default_rng(5)
    gains = rng.standard_normal(50)
    once = estimate_of(gains)
    copied = estimate_of(np.tile(gains, 4), np.tile(np.arange(50) * 3, 4))
    assert copied == pytest.approx(once)
    assert estimate_of(np.tile(gains, 4)).error < 0.51 * once.error


def test_interval_by_groups_covers_and_that_by_rows_does_not():
    rng = np.random.default_rng(6)
    groups = np.arange(240) // 12

    def draw():
        return rng.standard_normal(20)[groups] + rng.standard_normal(240)

    assert 0.01 < below(draw, 0.0, groups=groups) < 0.04
    assert below(draw, 0.0) > 0.1


def test_groups_never_make_an_interval_narrower():
    gains = np.tile([-1.0, 1.0], 50)
    groups = np.arange(100) // 2  # the sum of each is 0
    grouped, plain = paired_interval(gains, groups=groups), paired_interval(gains)
    assert grouped.low < plain.low < plain.high < grouped.high  # by Student's quantile alone
    assert grouped.low == pytest.approx(plain.low, rel=0.02)


def test_a_group_of_nearly_all_rows_leaves_the_spread_unknown():
    gains, groups = np.arange(30.0), np.zeros(30, dtype=int)
    groups[0] = 1
    assert paired_interval(gains, groups=groups)[1:3] == (-math.inf, math.inf)


# ---- Losses too rare to be among the rows ------------------------------------------------------


def test_expected_variance_counts_if_losses_are_unseen():
    gains = np.full(50, 0.1)
    gains[::2] += 1e-3
    alone = estimate_of(gains)
    few = estimate_of(gains, expected=Expected(variance=0.01 * 16, square=16.0))
    assert few.error == pytest.approx(math.sqrt(0.01 * 16 / 50))  # half a loss is expected
    many = estimate_of(gains, expected=Expected(variance=0.5 * 16, square=16.0))
    unseen = (math.log(0.025) / 1.959964) ** 2  # of 25 expected ones, none came
    assert many.error == pytest.approx(math.sqrt(alone.error**2 + unseen * 16 / 50**2), rel=1e-6)
    wide = estimate_of(5 * gains, expected=Expected(variance=1e-9, square=1e-9))
    assert wide == estimate_of(5 * gains)


@pytest.mark.parametrize("n", [30, 100, 300, 1000])
def test_interval_allows_for_losses_of_one_in_a_hundred(n):
    """The gain is 0 in truth: 0.05 in most rows, and -5 in one of 101."""
    rng = np.random.default_rng(7)
    chance, gain, loss = 1 / 101, 0.05, -5.0
    off = (gain - loss) * np.array([chance, 1 - chance])
    second = chance * off[1] ** 2 + (1 - chance) * off[0] ** 2
    fourth = chance * off[1] ** 4 + (1 - chance) * off[0] ** 4

    def draw():
        return np.where(rng.random(n) < chance, loss, gain)

    assert below(draw, 0.0, expected=Expected(second, fourth / second)) < 0.04
    assert n == 1000 or below(draw, 0.0) > 0.04


def test_groups_have_no_more_freedom_than_they_are():
    """The error of rows may be larger by chance; the freedom is that of three groups even so."""
    groups = np.repeat(np.arange(3), 40)
    gains = np.tile([1.0, -1.0], 60) + 1e-3 * groups
    estimate = estimate_of(gains, groups)
    assert estimate.freedom <= 2
    assert estimate.error >= estimate_of(gains).error


@pytest.mark.parametrize(
    ("risk", "freedom", "wanted"),
    [
        (0.0083, 1, 38.34),
        (0.005, 1, 63.66),
        (0.0005, 2, 31.60),
        (0.025, 3, 3.182),
        (0.1, 1.5, 2.196),
    ],
)
def test_student_quantiles_of_few_degrees_of_freedom(risk, freedom, wanted):
    """Values of scipy.stats.t.isf, within what the function says."""
    assert student(risk, freedom) == pytest.approx(wanted, rel=0.04 if freedom == 1.5 else 0.03)
