"""Validation rows that depend on each other: what the caller says of them, and what shows it.

Rows of one group, copies of one row, or rows that follow each other in time are fewer witnesses
than their number. Rows of a group stay in one fold, so that none chooses settings for another, and
the interval takes groups, not rows, as independent. Rows in time are cut into consecutive folds,
each judged with settings of the folds before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import resmem._core as _core
from resmem._base.arrays import F64, I64, Array, Keys, distinct
from resmem._base.blocks import blocks
from resmem._base.sample import sample
from resmem._scores.folds import fold_numbers, group_folds, group_numbers, time_folds, time_ranks
from resmem._tuning.validation import CallersRows, ValidationRun

# Rows in a sequence are taken as independent in this many batches. Student's quantile of 15 degrees
# of freedom is 9 % above the normal one; rows may depend on each other over a good part of a batch.
_BATCHES = 16
# How much larger the variance of a mean must seem for rows to be taken as a sequence. If their
# order means nothing, it is like a chi-square of 16 degrees of freedom over 16, of which one in a
# thousand exceeds this.
_INFLATED = 2.45
_CLEAR = 3.09  # normal quantile of a risk of 0.1 %, for groups that keys show
# A validation row belongs to a group if another one is so near that, of unrelated rows, only one in
# twenty would have one so near.
_NEAR_BY_CHANCE = 0.05
_TOLD = 0.95  # groups per row below which it is told that there are groups
_LINKS = 8  # nearest validation rows to which a row is compared
_TESTED = 500  # rows that tell whether there are groups
_KEY_BYTES = 64 << 20  # largest keys of validation rows that are compared with each other

Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Dependence:
    """The folds of validation rows, and which rows are taken as independent."""

    folds: I64  # (q,) numbered from 0 without gaps
    groups: I64 | None = None  # (q,) the group of each row
    ranks: I64 | None = None  # (q,) the place of each row in time
    may_detect: bool = False  # whether rows may be regrouped by what they show
    notes: tuple[str, ...] = ()

    @staticmethod
    def declared(folds: Any, seed: int, targets: Array, groups: Any, times: Any) -> Dependence:
        """Return what the arguments of ``tune`` say of the rows."""
        if groups is not None and times is not None:
            raise ValueError("groups and times cannot both be given: leave one of them out")
        if times is not None:
            ranks = time_ranks(times, len(targets))
            return Dependence(numbered(time_folds(folds, ranks)), ranks=ranks)
        if groups is not None:
            numbers = numbered(group_numbers(groups, len(targets)))
            return Dependence(numbered(group_folds(folds, seed, targets, numbers)), numbers)
        counted = isinstance(folds, (int, np.integer))
        return Dependence(numbered(fold_numbers(folds, seed, targets)), may_detect=counted)

    def detected(self, run: ValidationRun, seed: int) -> Dependence:
        """Return folds and groups in which rows that belong together stay together.

        The neighbours of the run's rows are known.
        """
        if not self.may_detect:
            return self
        groups = groups_of_near_rows(run)
        if groups is None:
            return self
        count, rows = int(groups.max()) + 1, len(groups)
        folds = self.folds
        if count > 2:  # else some fold would choose by no rows
            folds = group_folds(int(folds.max()) + 1, seed, run.source.targets, groups)
        note = (
            f"the {rows} validation rows are judged as {count} groups, since many are copies of "
            "each other or lie nearer to each other than to the memory; groups= says which rows "
            "belong together"
        )
        notes = (note,) if count < _TOLD * rows else ()
        return Dependence(numbered(folds), groups, notes=notes)

    @property
    def is_judged(self) -> Mask:
        """Whether each row is judged: all are, or with times those after the first fold."""
        return (self.folds > 0) | (self.ranks is None)

    @property
    def judged(self) -> I64:
        """The rows that are judged."""
        return np.flatnonzero(self.is_judged)

    def choosing(self, fold: int) -> Mask:
        """Return which folds choose settings for a fold.

        In time these are the folds before it. The first one, which is not judged, chooses for
        itself.
        """
        numbers = np.arange(int(self.folds.max()) + 1)
        chooses: Mask = numbers < max(fold, 1) if self.ranks is not None else numbers != fold
        return chooses

    def clusters(self, gains: F64, labels: I64 | None) -> tuple[I64 | None, bool]:
        """Return which of the judged rows to take together, and whether their gains showed it.

        ``labels``: the classes of the judged rows, whose mean gains may differ: rows in the order
        of their classes are no sequence.
        """
        if self.groups is not None:
            return self.groups[self.judged], False
        if self.ranks is not None:
            return _batches(np.argsort(np.argsort(self.ranks[self.judged], kind="stable"))), False
        if not np.isfinite(gains).all():
            return None, False  # their interval is infinite anyway
        if follows_order(gains if labels is None else _without_class_means(gains, labels)):
            return _batches(np.arange(len(gains))), True
        return None, False

    def known_clusters(self) -> I64 | None:
        """Return which of the judged rows the caller, or their keys, say to take together."""
        if self.groups is None and self.ranks is None:
            return None
        return self.clusters(np.empty(0), None)[0]


def numbered(numbers: I64) -> I64:
    """Return the numbers of folds or groups counted from 0 without gaps."""
    return np.asarray(np.unique(numbers, return_inverse=True)[1].reshape(-1), dtype=np.int64)


def _batches(places: I64) -> I64:
    """Return the batch of each row, given its place in the sequence."""
    found: I64 = places * _BATCHES // len(places)
    return found


def _without_class_means(gains: F64, labels: I64) -> F64:
    sums, counts = np.bincount(labels, gains), np.bincount(labels)
    return gains - (sums / np.maximum(counts, 1))[labels]


def follows_order(gains: F64) -> bool:
    """Return whether the gains (n,) of rows near each other in their order are alike.

    Autocorrelations up to half a batch, added twice to 1, are the factor by which the variance of
    the mean exceeds that of independent rows. If the order means nothing, each has mean -1 / n and
    a variance of nearly 1 / n, whatever the distribution of the gains.
    """
    n = len(gains)
    lags = n // (2 * _BATCHES)
    off = gains - gains.mean() if n else gains
    total = float(np.square(off).sum())
    if lags < 2 or total == 0 or not math.isfinite(total):
        return False
    sums = np.concatenate([[0.0], np.cumsum(off)])
    ends = np.minimum(np.arange(n) + 1 + lags, n)
    together = float((off * (sums[ends] - sums[1:])).sum()) / total
    pairs = n * lags - lags * (lags + 1) / 2
    return 1 + 2 * (together + pairs / (n * (n - 1))) > _INFLATED


# ---------------------------------------------------------------------- groups that keys show


def groups_of_near_rows(run: ValidationRun) -> I64 | None:
    """Return the group (q,) of each validation row, or None if no rows seem to belong together.

    Copies of a key that the memory does not hold are one group. So are rows that lie nearer to each
    other than to the memory (by single linkage), if there are clearly more of them than chance
    gives.
    """
    source, q = run.source, len(run.source)
    if not isinstance(source, CallersRows) or q < 2:
        return None
    first = source.keys(slice(0, 1))
    if q * first.nbytes > _KEY_BYTES:
        return None
    keys: Keys = np.concatenate([source.keys(block) for block in blocks(q, first.nbytes)])
    distances, positions = _euclidean_neighbours(run, source)
    nearest = np.where(positions[:, 0] >= 0, distances[:, 0], 0.0)
    links = [_copies(keys, nearest), *_near(run, keys, nearest, distances, positions)]
    groups = _components(np.concatenate(links), q)
    return None if len(groups) == 0 or int(groups.max()) + 1 == q else groups


def _euclidean_neighbours(run: ValidationRun, source: CallersRows) -> tuple[F64, I64]:
    """Return Euclidean distances and positions (q, k) of the nearest rows of the memory."""
    if run.spec.metric == "euclidean":
        return run.distances, run.positions
    if run.spec.metric == "sqeuclidean":
        return np.sqrt(run.distances), run.positions
    return source.by_distance(min(_LINKS, run.most_neighbours))


def _copies(keys: Keys, nearest: F64) -> I64:
    """Return pairs (m, 2) of rows with the same key, which no row of the memory has."""
    as_bytes = np.ascontiguousarray(keys).view(np.dtype((np.void, keys.itemsize * keys.shape[1])))
    order = np.argsort(as_bytes.reshape(-1), kind="stable")
    same = (keys[order[1:]] == keys[order[:-1]]).all(axis=1) & (nearest[order[1:]] > 0)
    return np.stack([order[:-1][same], order[1:][same]], axis=1)


def _near(
    run: ValidationRun, keys: Keys, nearest: F64, distances: F64, positions: I64
) -> list[I64]:
    """Return pairs (m, 2) of rows that lie nearer to each other than chance gives; or nothing.

    ``distances`` and ``positions`` (q, k) are of their nearest rows in the memory; ``nearest`` (q,)
    are the distances of the first ones, 0 where there is none.
    """
    q, share = len(keys), _near_share(run, distances, positions, keys.shape[1])
    if share is None:
        return []
    some = sample(q, _TESTED)
    near = len(distinct(_links(run, keys, some, nearest * share, copies=False)[:, 0]))
    # Two rows that are each other's nearest count twice.
    spread = math.sqrt(2 * len(some) * _NEAR_BY_CHANCE * (1 - _NEAR_BY_CHANCE))
    if near <= len(some) * _NEAR_BY_CHANCE + _CLEAR * spread:
        return []
    links = _links(run, keys, np.arange(q), nearest * share)
    # If most rows hang together, they lie close rather than in groups.
    return [] if np.bincount(_components(links, q)).max() > q // 2 else [links]


def _near_share(run: ValidationRun, distances: F64, positions: I64, columns: int) -> float | None:
    """Return the share of a row's distance to the memory within which, of unrelated rows, one in
    twenty has another validation row.

    Of ``n`` rows of the memory and ``q`` validation rows in ``d`` dimensions, that share ``t``
    has ``q t^d / (q t^d + n) = 1 / 20``. The dimension is estimated from the logarithms of the
    ratios of the neighbours' distances (Levina and Bickel, 2004).
    """
    q, last = len(distances), min(distances.shape[1], _LINKS) - 1
    there = (positions[:, last] >= 0) & (distances[:, 0] > 0)
    if last < 2 or not there.any():
        return None
    near = distances[there, : last + 1]
    growth = np.log(near[:, last:] / near[:, :last]).sum() / (len(near) * last)
    dimension = float(np.clip(1 / growth if growth > 0 else math.inf, 1, columns))
    ratio = _NEAR_BY_CHANCE / (1 - _NEAR_BY_CHANCE) * run.most_neighbours / q
    return float(min(ratio ** (1 / dimension), 1.0))


def _links(run: ValidationRun, keys: Keys, some: I64, within: F64, copies: bool = True) -> I64:
    """Return the pairs (m, 2) of a row of ``some`` and another one within its distance."""
    largest = float(np.abs(keys).max(initial=0.0))
    segment = _core.Segment(keys, largest=largest)
    distances, near, _, _ = _core.search(
        keys[some], largest, [segment], _LINKS, "euclidean", some[:, None],
        execution=run.execution,
    )  # fmt: skip
    close = (near >= 0) & (distances < within[some, None]) & (copies | (distances > 0))
    at, column = np.nonzero(close)
    return np.stack([some[at], near[at, column]], axis=1)


def _components(links: I64, q: int) -> I64:
    """Return the group of each of ``q`` rows, of which the pairs (m, 2) belong together."""
    labels = np.arange(q)
    while True:
        before = labels.copy()
        for one, other in (links.T, links.T[::-1]):
            np.minimum.at(labels, one, labels[other])
        labels = labels[labels]
        if (labels == before).all():
            return np.asarray(np.unique(labels, return_inverse=True)[1].reshape(-1))
