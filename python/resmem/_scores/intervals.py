"""Confidence intervals of mean gains: of independent rows and of groups of rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from resmem._base import checks
from resmem._base.arrays import F64

# Where no loss of a kind is among the rows, up to -log(0.025) = 3.69 of them may be expected, at a
# risk of 2.5 %. The interval allows for these if so many are added to the sum of squares:
# 1.96 * sqrt(3.54) = 3.69.
_UNSEEN_LOSSES = (math.log(0.025) / NormalDist().inv_cdf(0.025)) ** 2


class Interval(NamedTuple):
    """A mean, and an interval that covers the true mean with this confidence."""

    mean: float
    low: float
    high: float
    confidence: float


class Expected(NamedTuple):
    """What the base model itself expects of gains, if its probabilities are right.

    ``variance`` is the mean over rows of the variance of the gain. ``square`` is the squared size
    of the gains that make it up: the sum of their fourth powers over that of their squares.
    """

    variance: float
    square: float


@dataclass(frozen=True)
class Estimate:
    """A mean, its standard error, and the degrees of freedom of that error."""

    mean: float
    error: float
    freedom: float

    def low(self, risk: float) -> float:
        """Return the lower end that exceeds the true mean with this probability."""
        return self._end(-self.margin(risk))

    def margin(self, risk: float) -> float:
        """Return the distance of the mean from the lower end, and from the upper one."""
        if self.error == 0:
            return 0.0
        return math.inf if math.isinf(self.error) else self.error * student(risk, self.freedom)

    def at_least(self, other: Estimate) -> Estimate:
        """Return this mean with the larger of both errors and the fewer degrees of freedom."""
        return Estimate(self.mean, max(self.error, other.error), min(self.freedom, other.freedom))

    def interval(self, confidence: float) -> Interval:
        """Return the interval of the mean."""
        half = self.margin((1 - confidence) / 2)
        return Interval(self.mean, self._end(-half), self._end(half), confidence)

    def _end(self, off: float) -> float:
        """Return the mean and ``off``; where this is infinite, so is the end, whatever the mean."""
        return off if math.isinf(off) else self.mean + off


def paired_interval(
    gains: Any,
    confidence: float = 0.95,
    groups: Any = None,
    expected: Expected | None = None,
) -> Interval:
    """Return the mean of gains (n,), such as differences of losses of the same rows, and its
    interval.

    Rows are taken as independent draws: ``mean +- t * s / sqrt(n)``, with the sample's standard
    deviation ``s`` and Student's quantile ``t``. Where few rows make up most of the spread, ``s``
    itself is uncertain, and the degrees of freedom of ``t`` say how much (Satterthwaite, 1946):
    with ``d = gain - mean`` they are ``2 / (sum d^4 / (sum d^2)^2 - 1 / n) - 1``, at most n - 1,
    which normal gains have, and at least 1.

    ``groups`` (n,): the number of each row's group. Groups are independent, the rows of one need
    not be. In the place of each ``d`` stands the sum of a group's, in the place of n, but for the
    mean, the number of groups. At most, there are as many degrees of freedom as groups of equal
    size that would be as good, n^2 over the sum of squared sizes, less one.

    ``expected``: near a ceiling, the losses that count are rare, and a sample may hold none of
    them. So ``s^2`` becomes at least the variance that the base model expects (see ``Expected``),
    but at most ``s^2 + 3.54 * square / n``: what 3.54 unseen losses of that size would make of it,
    as many as an empty sample leaves possible.

    With fewer than two rows or groups, or infinite gains, the spread is unknown and the interval is
    infinite. Without gains the mean is NaN.
    """
    return estimate_of(gains, groups, expected).interval(checked_confidence(confidence))


def estimate_of(gains: Any, groups: Any = None, expected: Expected | None = None) -> Estimate:
    """Return the mean of gains and its standard error; see ``paired_interval``."""
    array = np.asarray(gains, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"gains must have shape (n,), got {array.shape}")
    n = len(array)
    with np.errstate(invalid="ignore"):
        mean = float(array.mean()) if n else math.nan
    if n < 2 or not math.isfinite(mean):
        return Estimate(mean, math.inf, 1.0)
    off = array - mean
    estimate = _of_sums(mean, off, n, float(n))
    if groups is not None:
        numbers = np.unique(groups, return_inverse=True)[1].reshape(-1)
        as_good = n * n / float(np.square(np.bincount(numbers)).sum())
        sums: F64 = np.bincount(numbers, off).astype(np.float64)
        grouped = _of_sums(mean, sums, n, as_good)
        estimate = estimate.at_least(grouped)
    if expected is not None:
        squared = estimate.error**2
        unseen = squared + _UNSEEN_LOSSES * expected.square / n**2
        squared = max(squared, min(expected.variance / n, unseen))
        estimate = replace(estimate, error=math.sqrt(squared))
    return estimate


def _of_sums(mean: float, sums: F64, n: int, as_good: float) -> Estimate:
    """Return the estimate of a mean of ``n`` rows from independent sums of ``gain - mean``.

    ``as_good``: how many sums of equally many rows would be as good.
    """
    if as_good < 2:
        return Estimate(mean, math.inf, 1.0)
    m, squares = len(sums), np.square(sums)
    total = float(squares.sum())
    error = math.sqrt(total * m / (m - 1)) / n
    if total == 0:
        return Estimate(mean, error, as_good - 1)
    shares = squares / total
    uncertain = float(np.square(shares).sum()) - 1 / m
    freedom = min(2 / uncertain - 1, as_good - 1) if uncertain > 0 else as_good - 1
    return Estimate(mean, error, max(freedom, 1.0))


def expected_of(gains: F64, chances: F64) -> tuple[F64, F64]:
    """Return each row's second and fourth central moment of the gain.

    ``gains`` (n, C) are those that each class would give, ``chances`` (n, C) their probabilities.
    """
    off = gains - (chances * gains).sum(axis=1, keepdims=True)
    squares = np.square(off)
    return (chances * squares).sum(axis=1), (chances * np.square(squares)).sum(axis=1)


def checked_confidence(confidence: Any) -> float:
    """Return the confidence as a float; refuse all but numbers between 0 and 1."""
    checked = checks.number(confidence, "confidence")
    if not 0 < checked < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence!r}")
    return checked


def checked_risk(risk: Any, confidence: float) -> float:
    """Return the risk as a float, by default that of the lower end of an interval."""
    if risk is None:
        return (1 - confidence) / 2
    checked = checks.number(risk, "risk")
    if not 0 < checked <= 0.5:
        raise ValueError(f"risk must be above 0 and at most 0.5, got {risk!r}")
    return checked


def normal(risk: float) -> float:
    """Return the number that a standard normal draw exceeds with this probability.

    It is computed from the lower tail, which is exact for the smallest risks.
    """
    return 0.0 - NormalDist().inv_cdf(risk)


def student(risk: float, freedom: float) -> float:
    """Return the number that a draw from Student's t exceeds with this probability.

    From 4 degrees of freedom on it is Fisher's expansion in their inverse (Abramowitz and Stegun,
    26.7.5). There are closed forms at 1, 2 and 4 of them; between these the logarithm is
    interpolated in the inverse. For risks from 0.0005 on the error is below 4 % between 1 and 2
    degrees of freedom, below 3 % up to 4, and below 1.4 % from there.
    """
    if freedom >= 4 or risk > 0.49:  # next to 0.5, the closed forms lose their digits
        return _expanded(risk, freedom)
    ends = (1, 2) if freedom < 2 else (2, 4)
    first, last = (math.log(_closed(risk, end)) for end in ends)
    share = (1 / freedom - 1 / ends[1]) / (1 / ends[0] - 1 / ends[1])
    return math.exp(last + share * (first - last))


def _closed(risk: float, freedom: int) -> float:
    """Return Student's quantile at 1, 2 or 4 degrees of freedom."""
    if freedom == 1:
        return 1 / math.tan(math.pi * risk)
    product = 4 * risk * (1 - risk)
    if freedom == 2:
        return (1 - 2 * risk) * math.sqrt(2 / product)
    third = math.cos(math.acos(math.sqrt(product)) / 3) / math.sqrt(product)
    return 2 * math.sqrt(third - 1)


def _expanded(risk: float, freedom: float) -> float:
    z = normal(risk)
    x = z * z
    terms = (
        z * (x + 1) / 4,
        z * ((5 * x + 16) * x + 3) / 96,
        z * (((3 * x + 19) * x + 17) * x - 15) / 384,
        z * ((((79 * x + 776) * x + 1482) * x - 1920) * x - 945) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))
