"""A linear map learned from targets: neighbourhood components analysis (NCA).

NCA (Goldberger, Roweis, Hinton and Salakhutdinov, NeurIPS 2004) moves a linear map so that rows
lie near rows of their own class. What it finds depends on where it starts, and it goes on to fit
chance. So it sets out from three starts, and rows that it does not learn from choose the best map
on its ways. ``TUNING.md`` has its gains.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from resmem._base.arrays import F64, I64, quantiles

# Rows that are looked at. Time and memory grow with their square: 2,500 take some seconds, and on
# most data sets twice as many gain little.
SAMPLE = 2_500
_HELD_OUT = 5  # one in so many of them chooses, and the others teach
_FEWEST = 20  # rows below which a fifth is too few to choose by
_ITERATIONS, _PATIENCE = 30, 5  # most steps, and steps in a row that may bring no gain
_SLICES = 10  # classes that values are cut into
_SPREADS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)  # typical distances from a row to the nearest, in keys
_MARGIN = 1.0  # standard errors by which a later start must win, as chance must not choose
_FLOOR = 1e-3  # a probability so small counts like this one, as a row of its own must not decide


def import_library(name: str) -> None:
    """Raise ImportError with what to install, if the library that does the work is missing."""
    try:
        import sklearn.neighbors  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"preprocess={name!r} is learned with scikit-learn: pip install 'residual-memory[nca]'"
        ) from error


def classes_of(values: F64) -> I64:
    """Cut values (n, C) into ten classes (n,) with as many rows each, where they are distinct.

    Values of several columns are cut along the direction in which they vary most, after each column
    was divided by its deviation.
    """
    apart = values - values.mean(axis=0)
    deviations = apart.std(axis=0)
    apart /= np.where(deviations > 0, deviations, 1.0)
    along: F64 = apart @ np.linalg.eigh(apart.T @ apart)[1][:, -1]
    edges = quantiles(along, np.arange(1, _SLICES) / _SLICES)
    return np.searchsorted(edges, along, side="right").astype(np.int64)


def learned_directions(rows: F64, classes: I64, m: int) -> F64:
    """Return a map (m, d) for centred rows (n, d) of classes (n,), as float64.

    Of rows that are too few to choose by, or all of one class, it is the principal directions.
    Copies of a row within its class count once: a row that chooses must not find itself among those
    that teach.
    """
    labelled = np.column_stack([rows, classes])
    first_of_each = np.sort(np.unique(labelled, axis=0, return_index=True)[1])
    rows, classes = rows[first_of_each], classes[first_of_each]
    if len(rows) < _FEWEST or (classes == classes[0]).all():
        return _principal(rows)[:m]
    classes = np.unique(classes, return_inverse=True)[1].reshape(-1)  # of many, few may occur
    order = np.random.RandomState(0).permutation(len(rows))
    held, taught = np.split(order, [len(rows) // _HELD_OUT])
    judge = _Judge(rows, classes, held, taught)
    first, *later = (_descended(judge, start, m) for start in _starts(rows, classes))
    best = first
    for found in later:
        gains = found.scores - best.scores
        if gains.mean() > _MARGIN * gains.std() / np.sqrt(len(gains)):
            best = found
    return best.map


class _Judged(NamedTuple):
    """A map (m, d) at the best of several scales, and its scores of the held-out rows."""

    map: F64
    scores: F64
    scale: float  # which the map as given was multiplied by


class _Judge:
    """Tells how well a map lets the taught rows tell the classes of the held-out rows."""

    def __init__(self, rows: F64, classes: I64, held: I64, taught: I64) -> None:
        self.rows, self.classes, self._held, self.taught = rows, classes, held, taught
        self._same = classes[held][:, None] == classes[taught]

    def judged(self, map_: F64) -> _Judged:
        """Judge a map. A row's score is the logarithm of the share of weight that rows of its class
        have, with weights that fall with the squared distance as in NCA."""
        keys = self.rows @ map_.T
        held, taught = keys[self._held], keys[self.taught]
        distances = (held**2).sum(1)[:, None] + (taught**2).sum(1) - 2 * (held @ taught.T)
        distances -= distances.min(axis=1, keepdims=True)
        typical = _typical_distance(taught)
        found = []
        for spread in _SPREADS:
            scale = spread / typical
            weights = np.exp(-(scale**2) * distances)
            shares = (weights * self._same).sum(axis=1) / weights.sum(axis=1)
            scores = np.log(np.maximum(shares, _FLOOR))
            found.append(_Judged(map_ * scale, scores, scale))
        return max(found, key=lambda each: float(each.scores.mean()))


def _descended(judge: _Judge, start: F64, m: int) -> _Judged:
    """Return the best map on the way of NCA from the first ``m`` directions of a start (d, d)."""
    from sklearn.neighbors import NeighborhoodComponentsAnalysis

    best = judge.judged(start[:m])
    start = start * best.scale
    points, last_gain = judge.rows @ start.T, 0

    def watch(map_: F64, step: int) -> None:
        nonlocal best, last_gain
        here = judge.judged(map_.reshape(m, -1) @ start)
        if here.scores.mean() > best.scores.mean():
            best, last_gain = here, step
        if step >= last_gain + _PATIENCE:
            raise _NoGainError

    method = NeighborhoodComponentsAnalysis(
        n_components=m,
        init=np.eye(m, points.shape[1]),
        max_iter=_ITERATIONS,
        tol=1e-4,
        callback=watch,
    )
    with contextlib.suppress(_NoGainError):
        method.fit(points[judge.taught], judge.classes[judge.taught])
    return best


class _NoGainError(Exception):
    """The steps of NCA bring no gain any more."""


def _starts(rows: F64, classes: I64) -> Iterator[F64]:
    """Yield maps (d, d) to start from, each with its most important directions first."""
    yield _principal(rows)
    deviations = rows.std(axis=0)
    deviations[deviations == 0] = 1.0
    yield _principal(rows / deviations) / deviations
    yield _discriminant(rows, deviations, classes)


def _principal(rows: F64) -> F64:
    """Return the principal directions (d, d) of centred rows, largest variance first."""
    return _signed(np.linalg.eigh(rows.T @ rows)[1].T[::-1])


def _discriminant(rows: F64, deviations: F64, classes: I64) -> F64:
    """Return the map to the metric ``W^-1/2 (W^-1/2 B W^-1/2 + I) W^-1/2``, first what tells most.

    It is the metric of Hastie and Tibshirani (1996) over all rows at once: W and B are the
    covariances within and between classes, W shrunk as Ledoit and Wolf (2004) do.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    scaled = rows / deviations
    means = np.zeros((int(classes.max()) + 1, rows.shape[1]))
    counts = np.bincount(classes)
    np.add.at(means, classes, scaled)
    means /= np.maximum(counts, 1)[:, None]
    apart = scaled - means[classes]
    shrinkage, within = ledoit_wolf_shrinkage(apart, assume_centered=True), apart.T @ apart
    within *= (1 - shrinkage) / len(rows)
    within.flat[:: len(within) + 1] += shrinkage * (apart**2).mean()
    variances, columns = np.linalg.eigh(within)
    there = variances > 2.0**-40 * max(variances[-1], 0.0)
    roots = np.where(there, 1.0 / np.sqrt(np.where(there, variances, 1.0)), 0.0)
    whitening = roots[:, None] * columns.T
    between = (means @ whitening.T) * np.sqrt(counts / len(rows))[:, None]
    values, turns = np.linalg.eigh(between.T @ between)
    directions = _signed(turns.T[::-1]) * np.sqrt(1 + np.maximum(values[::-1, None], 0.0))
    found: F64 = directions @ whitening / deviations
    return found


def _signed(directions: F64) -> F64:
    """Make the first largest |component| of each direction positive."""
    peaks = np.abs(directions).argmax(axis=1)[:, None]
    signed: F64 = directions * np.sign(np.take_along_axis(directions, peaks, axis=1))
    return signed


def _typical_distance(keys: F64) -> float:
    """Return the median distance from a row to the nearest that lies apart; 1 if none does."""
    some = keys[:500]
    distances = (some**2).sum(1)[:, None] + (keys**2).sum(1) - 2 * (some @ keys.T)
    distances[distances <= 2.0**-40 * (keys**2).sum(1).max()] = np.inf
    nearest = distances.min(axis=1)
    nearest = nearest[nearest < np.inf]
    return float(np.sqrt(np.median(nearest))) if len(nearest) else 1.0
