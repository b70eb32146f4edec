"""Intervals of a mean that hold at every look, however often one looks: confidence sequences.

Numbers ``x_i`` from -1/2 to 1/2 arrive one by one; ``m_i`` is what was to be expected of one, given
all that came before it, and ``p_i`` the mean of the numbers before it. For a rate ``0 < r < 1``,
the product of ``exp(r * (x_i - m_i) - psi(r) * (x_i - p_i)^2)`` with ``psi(r) = -log(1 - r) - r``
is a supermartingale that begins at 1 (Fan et al. 2015; Howard et al. 2021, theorem 4). So is the
mean of such products over several rates, a discrete mixture (Howard et al. 2021, section 3). It
ever exceeds ``1 / risk`` with probability ``risk`` at most (Ville 1939). That bounds the sum of
``x_i - m_i`` at all times at once, by the sum of ``(x_i - p_i)^2`` alone. Nothing is assumed of the
numbers but their range: they may depend on each other and change their ways. The interval is one of
the mean of the ``m_i`` so far.

Howard, Ramdas, McAuliffe, Sekhon: Time-uniform, nonparametric, nonasymptotic confidence sequences,
Annals of Statistics 49 (2021), arXiv:1810.08240.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from resmem._base.arrays import F64

# A rate serves best at about one number of rows; these serve from tens to millions.
_RATES = 0.8 * 0.5 ** np.arange(12)
_PSI = -np.log1p(-_RATES) - _RATES
_HALVINGS = 60  # steps of a bisection, after which float64 tells no ends apart


@dataclass(frozen=True)
class Sequence:
    """What the interval of a mean needs of the numbers so far.

    It has the same bits whether they came one by one or many at a time.
    """

    rows: int = 0
    total: float = 0.0
    squares: float = 0.0  # sum of squared differences from the mean of the numbers before

    def after(self, numbers: F64) -> Sequence:
        """Return what it is after these numbers (n,) too, from -1/2 to 1/2 each."""
        if len(numbers) == 0:
            return self
        totals = np.cumsum([self.total, *numbers])
        counts = self.rows + np.arange(len(numbers))
        squares = np.square(numbers - totals[:-1] / np.maximum(counts, 1))
        return Sequence(
            self.rows + len(numbers),
            float(totals[-1]),
            float(np.cumsum([self.squares, *squares])[-1]),
        )

    def interval(self, risk: float) -> tuple[float, float, float]:
        """Return the mean, and the ends of its interval, which ever fails with this risk."""
        if self.rows == 0:
            return math.nan, -0.5, 0.5
        mean, off = self.total / self.rows, bound(self.squares, risk / 2) / self.rows
        return mean, max(mean - off, -0.5), min(mean + off, 0.5)


def bound(squares: float, risk: float) -> float:
    """Return what the sum of ``x_i - m_i`` ever exceeds with probability ``risk`` at most."""
    wanted = math.log(len(_RATES) / risk)
    # Where one product alone exceeds what is wanted of all of them.
    low, high = 0.0, float(((wanted + _PSI * squares) / _RATES).min())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        logs = _RATES * middle - _PSI * squares
        largest = float(logs.max())
        if largest + math.log(np.exp(logs - largest).sum()) < wanted:
            low = middle
        else:
            high = middle
    return high
