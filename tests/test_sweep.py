"""A sweep's sums are as near the definitions as rounding allows, with the same bits everywhere."""

from __future__ import annotations

import dataclasses
import math
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import oracle
from cases import ISAS
from resmem import _core

UNIT = 2.0**-53  # unit roundoff of float64
TINY = 1e-290  # more than all underflow here can add up to
BINS = 11  # no probability 1 / C of these cases lies on the end of a bin
PATIENCE = 60

KS = (1, 4, 17)  # some queries have 3 neighbours, some none
SIGMAS = (0.3, math.inf, 1e-300)
STRENGTHS = (1.0, -2.0, 1e4)
MAPS = (
    ("clip", 1e-6), ("project", 1e-6), ("project", 0.0), ("clip", 0.0), ("clip", 0.02),
    ("project", 0.3), ("keep", 0.1),
)  # fmt: skip
BOUNDS = {0: (0, 0), 1: (0, 1), 2: (0, 1, 1, 2), 37: (0, 0, 11, 11, 12, 37, 37)}  # empty folds too


@dataclasses.dataclass(frozen=True)
class Case:
    residuals: Any
    distances: Any
    positions: Any
    base: Any
    targets: Any
    bounds: Sequence[int]
    ks: Sequence[int] = KS
    sigmas: Sequence[float] = SIGMAS
    strengths: Sequence[float] = STRENGTHS
    maps: Sequence[tuple[str, float]] = MAPS
    bins: int = BINS

    def core(self, threads: int = 0, isa: str = "") -> Any:
        """Return all scores of the targets, side by side as the oracle has them."""
        *given, bins = (getattr(self, field.name) for field in dataclasses.fields(self))
        scores = ["squared_error", "absolute_error"]
        if self.targets.dtype.kind == "i":
            scores = ["log_loss", "accuracy", "brier"] + ["calibration"] * (bins > 0)
        execution = _core.Execution(threads, isa)
        parts = [_core.sweep(*given, score, max(1, bins), execution=execution) for score in scores]
        return np.concatenate(parts, axis=-1)

    def rows(self) -> Any:
        """Return the oracle's scores of every query."""
        given = (getattr(self, field.name) for field in dataclasses.fields(self))
        residuals, distances, positions, base, targets, _, *settings = given
        return oracle.sweep(distances, positions, residuals, base, targets, *settings)

    def of_folds(self, rows: Any) -> Any:
        """Return the sums over the queries of every fold."""
        pairs = zip(self.bounds[:-1], self.bounds[1:], strict=True)
        return np.stack([rows[first:last].sum(axis=0) for first, last in pairs])


def neighbours(rng, q, k, n):
    """Return neighbours; of seven queries one has 3, one has none, one has all at distance 0."""
    distances, positions = np.sort(rng.random((q, k)), axis=1), rng.integers(0, n, (q, k))
    distances[2::7, 3:], positions[2::7, 3:] = np.inf, -1
    distances[3::7], positions[3::7] = np.inf, -1
    distances[4::7] = 0.0
    return distances, positions


def classes(C, q, **settings):
    rng = np.random.default_rng([C, q])
    n, k = 60, max(KS)
    of_rows = (rng.standard_normal((n, C)) * 2).astype(np.float32)
    of_queries = (rng.standard_normal((q, C)) * 2).astype(np.float32)
    residuals = oracle.residuals("classification", "logits", of_rows, rng.integers(0, C, n))
    base = oracle.softmax(of_queries) if q else np.zeros((0, C))
    labels = rng.integers(0, C, q)
    where = neighbours(rng, q, k, n)
    return Case(residuals, *where, base, labels, BOUNDS[q], **settings)


def values(C, q, **settings):
    rng = np.random.default_rng([C, q, 1])
    residuals = rng.standard_normal((60, C)).astype(np.float32)
    where = neighbours(rng, q, max(KS), 60)
    base, targets = rng.standard_normal((2, q, C))
    settings = {"maps": MAPS[:1], "bins": 0} | settings
    return Case(residuals, *where, base, targets, BOUNDS[q], **settings)


# ---- How far roundings may carry a score -----------------------------------------------------
#
# The sweep and the definitions round the same real numbers in another order. Below, m roundings of
# a number, one after the other, are wrong by at most gamma(m) times it.


def gamma(m):
    return m * UNIT / (1 - m * UNIT)


def corrected_and_error(case, k, sigma, strength):
    """Return the corrected outputs by the definitions, and how far the sweep's may be from them.

    Both start from the same e_j, W and sum of e_j r_jc, of a product and k additions each. Then a
    division and a product on one side, and on the other 1 / W, times the strength, times the sum;
    both add to b_c. That is less than 2 k + 9 roundings in all, of |b_c| and, since the weights sum
    to W, of the largest |strength * r_jc|.
    """
    position = case.positions[:, :k]
    moved = oracle.correction(case.distances[:, :k], position, case.residuals, sigma)
    base = np.zeros_like(moved) if case.base is None else case.base
    reach = np.zeros(base.shape)
    for column in position.T:
        there = column >= 0
        reach[there] = np.maximum(reach[there], np.abs(case.residuals[column[there]]))
    size = np.abs(base) + abs(strength) * reach
    return oracle.correct(base, moved, strength), gamma(2 * k + 9) * size + TINY


def moved_and_error(v, dv, kind, floor, base, strength):
    """Return ``v - a`` of the contract, ``f``, and the error of ``u`` (rows, 1).

    A projection's tau moves no more than the furthest v. It is rounded on both sides: times n it
    is a csum less M, of at most ceil(C / 8) + 7 roundings of sum |v| + 1; as sum max(v - tau, 0)
    falls by at least 1 for every 1 that tau grows, this bounds the error of tau, if doubled for
    columns that rounding has taken for greater than tau. Two more, tau - f and v - a.
    """
    C = v.shape[1]
    du = dv.max(axis=1, keepdims=True)
    given = np.ones(v.shape, bool) if base is None else base > 0
    # Both have the same sum_c, and so the same sign of what is added to b_c = 0.
    x = np.where(given | ((v > 0) & (strength > 0)), v, -np.inf)
    least = min(floor * min(1.0, 100 / C), 0.5 / C)
    f = np.maximum(floor * base, 1e-9) if kind == "keep" else np.full(v.shape, least)
    f = np.where(given, f, 0.0)
    if kind == "project":
        mass = 1 - np.count_nonzero(given, axis=1) * least
        size = np.abs(np.where(np.isinf(x), 0, x)).sum(axis=1, keepdims=True) + C * du + 1
        x = x - (oracle.tau(np.where(given, x, x + least), mass)[:, None] - least)
        rounding = 2 * gamma(math.ceil(C / 8) + 7) + gamma(6)
        du = 2 * (du + rounding * size)
    unmoved = np.all(v == base, axis=1)[:, None] & (base is not None)
    return np.where(unmoved, v, x), np.where(unmoved, 0, f), np.where(unmoved, 0, du)


def class_errors(v, dv, kind, floor, base, strength, labels, bins):
    """Return bounds for ``oracle.class_scores``: 0 for counts, after a check that none is near."""
    C = v.shape[1]
    p = oracle.simplex(v, floor, kind, base, strength)
    moved, f, du = moved_and_error(v, dv, kind, floor, base, strength)
    u = np.maximum(moved, f)
    # The sum is a csum by the contract; by the sweep a csum of the others, plus the label.
    total, eighth = u.sum(axis=1, keepdims=True), math.ceil(C / 8)
    dtotal = C * du + gamma(2 * eighth + 12) * total
    assert np.all(dtotal < total / 2)
    dp = 1.01 * (du + p * dtotal) / (total - dtotal) + 4 * UNIT * p

    row = np.arange(len(p))
    chance, dchance = p[row, labels], dp[row, labels]
    at_label = moved[row, labels]  # 0 on both sides: below 0, or nothing that stays as it is
    zero = (f[row, labels] == 0) & ((at_label < -du[:, 0]) | ((at_label == 0) & (du[:, 0] == 0)))
    assert np.all(zero | (chance > 2 * dchance))
    chance = np.where(zero, 1.0, chance)
    others = p.copy()
    others[row, labels] = -1
    gap, most = np.abs(chance - others.max(axis=1)), dp.max(axis=1)
    assert np.all((gap > 2 * most) | (gap == 0) | zero)

    bounds = np.zeros((len(p), 3 + 3 * bins))
    # The logarithm is within 3 ulp, of at most 2 units each, on both sides.
    loss = np.abs(np.log(chance))
    bounds[:, 0] = np.where(zero, 0, dchance / (chance - dchance) + 12.1 * UNIT * loss)
    # sum |p_c - onehot_c| <= 2; the squares are a csum of squares, of at most 2.
    bounds[:, 2] = 4 * most + C * most**2 + gamma(2 * eighth + 24) * 2
    if bins:
        confidence = p.max(axis=1)
        border = np.abs(confidence * bins - np.rint(confidence * bins))
        assert np.all((border > bins * most) | (confidence > 1 - 0.5 / bins))
        first = 3 + 3 * np.minimum((confidence * bins).astype(np.int64), bins - 1)
        bounds[row, first + 1] = most
    return bounds


def value_errors(v, dv, targets):
    """Return bounds for ``oracle.value_scores``: one rounding of an error on both sides, one more
    of a square, then sums of C."""
    C, error = v.shape[1], np.abs(v - targets)
    de = dv + 2 * UNIT * (error + dv)
    squares = (2 * error + de) * de + gamma(2 * C + 4) * (error + de) ** 2
    sizes = de + gamma(2 * C + 2) * (error + de)
    return np.stack([squares.sum(axis=1), sizes.sum(axis=1)], axis=1)


def row_bounds(case):
    """Return how far the sweep's score of a query may be from the oracle's, in its shape."""
    bounds = []
    for k in case.ks:
        for sigma in case.sigmas:
            for strength in case.strengths:
                v, dv = corrected_and_error(case, k, sigma, strength)
                for kind, floor in case.maps:
                    if case.targets.ndim == 2:
                        bounds.append(value_errors(v, dv, case.targets))
                        continue
                    of = case.base, strength, case.targets, case.bins
                    bounds.append(class_errors(v, dv, kind, floor, *of))
    return np.stack(bounds, axis=1)


def assert_near_the_definitions(case, got):
    rows = case.rows()
    wanted = case.of_folds(rows)
    bound = row_bounds(case).reshape(rows.shape)
    # n terms have n - 1 additions on both sides, plus those of the parts of a fold.
    largest = case.of_folds(np.where(np.isinf(rows), 0, np.abs(rows)) + bound)
    bound = case.of_folds(bound) + gamma(2 * len(rows) + 20) * largest
    if case.targets.ndim == 1:
        counts = [1, *range(3, rows.shape[-1], 3), *range(5, rows.shape[-1], 3)]
        assert np.array_equal(got[..., counts], wanted[..., counts])
    assert got.shape == wanted.shape
    finite = np.isfinite(wanted)
    assert np.array_equal(got[~finite], wanted[~finite])
    assert np.all(np.abs(got[finite] - wanted[finite]) <= bound[finite])


def assert_the_same_everywhere(case):
    """Check that every ISA and number of threads gives the bits of one thread; return them."""
    first = case.core(threads=1, isa="scalar")
    for isa in ISAS:
        for threads in (1, 2, 7):
            assert case.core(threads=threads, isa=isa).tobytes() == first.tobytes(), (isa, threads)
    return first


# ---- Scores ----------------------------------------------------------------------------------


@pytest.mark.parametrize("q", BOUNDS)
@pytest.mark.parametrize("C", [1, 2, 7, 8, 9, 100])
def test_scores_of_classes_are_near_the_definitions(C, q):
    case = classes(C, q)
    assert_near_the_definitions(case, assert_the_same_everywhere(case))


@pytest.mark.parametrize("C", [2, 7, 8, 9, 100, 120])
def test_impossible_classes_are_scored_near_the_definitions(C):
    """Half of the base is 0, which every map keeps unless neighbours have the class."""
    maps = tuple(m for m in MAPS if m != ("clip", 0.0))  # clip:0 may leave no mass
    case = classes(C, 37, strengths=(1.0, -0.6, 0.0, 40.0), maps=maps)
    rng = np.random.default_rng(C)
    base = case.base.copy()
    base[:, 1:][rng.random((37, C - 1)) < 0.5] = 0.0
    residuals = case.residuals.copy()
    residuals[::2, 1:] = np.maximum(residuals[::2, 1:], 0)
    residuals[10:20, 1:] = 0.0
    case = dataclasses.replace(case, base=base, residuals=residuals)
    got = assert_the_same_everywhere(case)
    assert_near_the_definitions(case, got)
    assert np.isinf(got[..., 0]).any()
    base_alone = np.broadcast_to(got[:, :1, :1, 2:3, :1], got[:, :, :, 2:3].shape)
    assert np.array_equal(got[:, :, :, 2:3], base_alone)  # strength 0 gives the base by every map


@pytest.mark.parametrize("C", [1, 2, 9, 120])
def test_neighbours_alone_are_scored_without_a_base(C):
    """Every class has its floor, and rows without neighbours are scored as well."""
    case = classes(C, 37, maps=MAPS[:-1], strengths=(1.0,))
    votes = np.eye(C, dtype=np.float32)[np.random.default_rng(C).integers(0, C, 60)]
    case = dataclasses.replace(case, base=None, residuals=votes, maps=(MAPS[0], *MAPS[4:6]))
    got = assert_the_same_everywhere(case)
    assert_near_the_definitions(case, got)
    assert np.isfinite(got).all()


@pytest.mark.parametrize("C", [1, 2, 9, 120])
def test_mixtures_with_targets_are_near_the_definitions(C):
    """Both sides round e_j, W and the sums alike. The rest is 1 - strength, a product and an
    addition on both, with a division and a product, or 1 / W and two products: less than 12
    roundings of numbers that are at most 1 in all."""
    case = classes(C, 37)
    labels = np.random.default_rng(C).integers(0, C, 60)
    where = case.distances, case.positions
    shares = (0.0, 0.3, 1.0)
    scores = ("log_loss", "accuracy", "brier", "calibration")
    found = []
    for isa in ISAS:
        for threads in (1, 3):
            execution = _core.Execution(threads, isa)
            parts = [
                _core.sweep(
                    labels, *where, case.base, case.targets, case.bounds, KS, SIGMAS, shares,
                    MAPS[:1], score, BINS, True, C, execution=execution,
                )
                for score in scores
            ]  # fmt: skip
            found.append(np.concatenate(parts, axis=-1))
    assert all(part.tobytes() == found[0].tobytes() for part in found)
    votes = np.eye(C)[labels]
    wanted = oracle.sweep(
        *where, votes, case.base, case.targets, KS, SIGMAS, shares, MAPS[:1], BINS, True
    )
    wanted, dense = case.of_folds(wanted), np.isfinite(case.of_folds(wanted))
    assert np.array_equal(np.isinf(found[0]), ~dense)
    # The smallest probability above 0 is a share of the base's, or of one neighbour of 17.
    least = min(0.3 * case.base.min(), 0.3 / 17 * 1e-3)
    bound = 37 * (gamma(12) / least + gamma(100) * 50)
    assert np.abs(found[0][dense] - wanted[dense]).max() <= bound


@pytest.mark.parametrize("C", [1, 9])
def test_mixtures_with_values_are_near_the_definitions(C):
    case = values(C, 37)
    rows = np.random.default_rng(C).standard_normal((60, C))
    where, shares = (case.distances, case.positions), (0.0, 0.3, 1.0)
    got = np.concatenate(
        [
            _core.sweep(
                rows, *where, case.base, case.targets, case.bounds, KS, SIGMAS, shares, MAPS[:1],
                score, BINS, True, C,
            )
            for score in ("squared_error", "absolute_error")
        ],
        axis=-1,
    )  # fmt: skip
    wanted = case.of_folds(
        oracle.sweep(*where, rows, case.base, case.targets, KS, SIGMAS, shares, of_targets=True)
    )
    most = max(np.abs(part).max() for part in (rows, case.base, case.targets))
    # An error is at most 2 most, its square 4 most^2, and there are 37 C of them.
    np.testing.assert_allclose(got, wanted, rtol=0, atol=37 * C * 8 * most**2 * gamma(40))


@pytest.mark.parametrize("q", BOUNDS)
@pytest.mark.parametrize("C", [1, 3, 8, 17])
def test_scores_of_values_are_near_the_definitions(C, q):
    case = values(C, q)
    assert_near_the_definitions(case, assert_the_same_everywhere(case))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9])
def test_any_number_of_sigmas_is_near_the_definitions(count):
    sigmas = tuple(np.geomspace(0.05, 20, count))
    for case in (classes(9, 37, maps=MAPS[:2]), values(9, 37)):
        case = dataclasses.replace(case, sigmas=sigmas, strengths=(0.8,), ks=(1, 16, 17))
        assert_near_the_definitions(case, assert_the_same_everywhere(case))


@pytest.mark.parametrize("ks", [(1,), (17,), (3, 3, 4), (0, 1), (0,), tuple(range(1, 18))])
def test_any_ks_are_near_the_definitions(ks):
    """k = 0 scores the base, and a k may come twice."""
    case = classes(7, 37, ks=ks, sigmas=(0.3,), strengths=(1.0,))
    assert_near_the_definitions(case, assert_the_same_everywhere(case))


def test_many_neighbours_are_near_the_definitions():
    rng = np.random.default_rng(0)
    residuals = rng.standard_normal((90, 10)).astype(np.float32)
    distances, positions = np.sort(rng.random((5, 90)), axis=1), rng.integers(0, 90, (5, 90))
    base, targets = rng.standard_normal((2, 5, 10))
    case = Case(
        residuals, distances, positions, base, targets, (0, 5), (15, 16, 17, 33, 90),
        (0.5, 2.0), (1.0,), MAPS[:1], 0,
    )  # fmt: skip
    assert_near_the_definitions(case, assert_the_same_everywhere(case))


def test_queries_without_neighbours_have_the_scores_of_the_base():
    case = classes(9, 37)
    none = np.full_like(case.positions, -1)
    alone = dataclasses.replace(
        case, positions=none, distances=np.full_like(case.distances, np.inf)
    )
    got = assert_the_same_everywhere(alone)
    assert_near_the_definitions(alone, got)
    assert np.array_equal(got, np.broadcast_to(got[:, :1, :1, :1], got.shape))
    no_rows = dataclasses.replace(alone, residuals=case.residuals[:0])
    assert no_rows.core().tobytes() == got.tobytes()


def test_a_fold_has_the_scores_of_its_own_queries():
    case = classes(7, 37)
    got = case.core()
    for fold, (first, last) in enumerate(zip(case.bounds[:-1], case.bounds[1:], strict=True)):
        part = slice(first, last)
        alone = dataclasses.replace(
            case, distances=case.distances[part], positions=case.positions[part],
            base=case.base[part], targets=case.targets[part], bounds=(0, last - first),
        )  # fmt: skip
        assert alone.core()[0].tobytes() == got[fold].tobytes()


def test_sweep_without_folds_is_empty():
    for case in (classes(3, 0), values(3, 0)):
        nothing = dataclasses.replace(case, bounds=(0,))
        assert nothing.core().shape == (0, *case.rows().shape[1:])


def test_many_settings_in_bounded_memory_are_right():
    """Memory for partial sums is bounded, so a fold has fewer parts; the sums stay right."""
    strengths = np.linspace(-1, 1, 150_000)
    case = values(1, 37, strengths=strengths, ks=(17,), sigmas=(0.3,))
    case = dataclasses.replace(case, bounds=(0, 37))
    got = case.core(threads=1)
    assert case.core(threads=7).tobytes() == got.tobytes()
    some = [0, 1, 74_999, 149_998, 149_999]
    few = dataclasses.replace(case, strengths=strengths[some].tolist())
    assert_near_the_definitions(few, got[:, :, :, some])


# ---- Ties, infinities --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["clip", "project"])
@pytest.mark.parametrize(
    ("corrected", "floor"),
    [
        ([0.25, 0.25, 0.25, 0.25], 1e-6),
        ([0.0, 0.5, 0.5, 0.0], 1e-6),
        ([0.5, 0.125, 0.375, -0.25], 0.0),
        ([-1.0, 0.5, -1.0, 2.5], 0.25),
        ([-2.0, 1.5, 1.5, -0.5], 0.0),
        ([0.25, 0.5, 0.125, 0.125], 1.0),  # all at the floor, if clipped
        ([1.0] * 3 + [-2.0] + [1.0] * 5 + [-5.0], 1e-6),
    ],
)
def test_of_equal_predictions_the_first_counts(corrected, floor, kind):
    """Weights, strength and residuals are sums of few powers of two: nothing is rounded."""
    v = np.array(corrected)
    C = len(v)
    residuals = np.repeat((2 * (v - 1 / 8))[None].astype(np.float32), 4, axis=0)
    case = Case(
        residuals, np.zeros((C, 4)), np.tile(np.arange(4), (C, 1)), np.full((C, C), 1 / 8),
        np.arange(C), range(C + 1), (1, 2, 4), (1.0, math.inf), (0.5,),
        ((kind, floor),), 0,
    )  # fmt: skip
    got = assert_the_same_everywhere(case)
    assert_near_the_definitions(case, got)
    top = int(np.argmax(oracle.simplex(v[None], floor, kind)[0]))
    wanted = (np.arange(C) == top)[:, None, None, None, None]
    assert np.array_equal(got[..., 1], np.broadcast_to(wanted, got.shape[:-1]))


def test_a_probability_of_zero_has_an_infinite_log_loss():
    case = classes(
        9,
        37,
        strengths=(1.0, 1e4),
        maps=(("project", 0.0), ("clip", 0.0), ("clip", 1e-310), MAPS[0]),
    )
    got = case.core()
    assert np.isinf(got[4, :, :, 1, :3, 0]).all()
    assert np.isfinite(got[..., 3, 0]).all()
    assert np.isfinite(got[..., 1:]).all()


# ---- The caller's state, the ends of arrays, signals ---------------------------------------------


def test_flushing_to_zero_does_not_reach_the_scores():
    """Distances, sigma and errors are so small that flushing would lose them."""
    residuals = np.array([[1.0], [3.0]], np.float32)
    where = np.array([[0.0, 1e-310]] * 3), np.array([[0, 1]] * 3)
    base, targets = np.full((3, 1), 1e-310), np.array([[0.0], [1e-310], [3e-310]])
    case = Case(
        residuals, *where, base, targets, (0, 1, 3), (1, 2), (1e-310,), (0.0, 0.5), MAPS[:1], 0
    )
    wanted = case.core()
    _core.set_flush_to_zero(True)
    try:
        got = [case.core(threads=threads, isa=isa) for threads in (1, 2) for isa in ISAS]
    finally:
        _core.set_flush_to_zero(False)
    assert_near_the_definitions(case, wanted)
    errors = np.array([[1e-310], [2e-310]])  # errors of the two folds at strength 0
    assert np.allclose(wanted[:, :, 0, 0, 0, 1], errors, rtol=1e-9, atol=0)
    assert {one.tobytes() for one in got} == {wanted.tobytes()}


NOTHING_BEYOND = """
import ctypes, mmap
import numpy as np
from resmem import _core

libc, page = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE

def at_the_end(array):
    # A copy whose last byte is followed by a page that cannot be read.
    array = np.ascontiguousarray(array)
    size = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, size + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert libc.mprotect(ctypes.c_void_p(start + size), page, 0) == 0
    copy = np.frombuffer(memory, array.dtype, array.size, size - array.nbytes)
    copy.reshape(array.shape)[...] = array
    return copy.reshape(array.shape)

rng = np.random.default_rng(0)
for C in (1, 3, 8, 21):
    q, k, n = 5, 6, 4
    arrays = [
        rng.random((n, C), dtype=np.float32), np.sort(rng.random((q, k)), axis=1),
        rng.integers(0, n, (q, k)), rng.random((q, C)), rng.integers(0, C, q),
    ]
    maps = [("clip", 1e-6), ("project", 1e-6), ("keep", 0.1)]
    settings = [0, 2, q], [1, 4, k], [0.1, 1.0, 9.0], [1.0, 2.0], maps
    held = [at_the_end(array) for array in arrays]
    for isa in _core.available_isas():
        execution = _core.Execution(2, isa)
        for score in ("log_loss", "accuracy", "brier", "calibration"):
            wanted = _core.sweep(*arrays, *settings, score, 5, execution=execution)
            same = _core.sweep(*held, *settings, score, 5, execution=execution)
            assert same.tobytes() == wanted.tobytes()
        _core.simplex(at_the_end(arrays[3]), 1e-6, "project", execution=execution)
print("done")
"""


def test_nothing_beyond_the_arrays_is_read():
    done = subprocess.run(
        [sys.executable, "-c", NOTHING_BEYOND], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": 60}, "positions must be rows"),
        ({"targets": 7}, "labels must be classes"),
        ({"targets": -1}, "labels must be classes"),
        ({"ks": (2, 1)}, "ks must ascend"),
        ({"ks": (18,)}, "ks must ascend, up to k"),
        ({"ks": ()}, "there must be a k"),
        ({"sigmas": ()}, "there must be a k"),
        ({"strengths": ()}, "there must be a k"),
        ({"maps": ()}, "there must be a k"),
        ({"bounds": ()}, "bounds must ascend"),
        ({"bounds": (0, 36)}, "bounds must ascend"),
        ({"bounds": (1, 37)}, "bounds must ascend"),
        ({"bounds": (0, 38, 37)}, "bounds must ascend"),
    ],
)
def test_sweep_of_wrong_indices_is_refused(changes, message):
    case = classes(7, 37)
    for name in ("positions", "targets"):
        if name in changes:
            array = getattr(case, name).copy()
            array.flat[-1] = changes[name]
            changes = {name: array}
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(case, **changes).core()


INTERRUPTED = """
import signal, sys, time
import numpy as np
from resmem import _core
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
columns, q, threads = map(int, sys.argv[1:])
rng = np.random.default_rng(0)
n, k = 40, 64
arguments = (
    rng.standard_normal((n, columns), dtype=np.float32), np.sort(rng.random((q, k)), axis=1),
    rng.integers(0, n, (q, k)), np.full((q, columns), 1 / columns), rng.integers(0, columns, q),
    [0, q], range(1, k + 1), np.geomspace(0.1, 10, 20), np.linspace(0, 1, 20),
    [("clip", 1e-6), ("project", 1e-6)], "log_loss", 15, False, 0, None, _core.Execution(threads),
)
print("ready", flush=True)
try:
    _core.sweep(*arguments)
except KeyboardInterrupt:
    print(time.monotonic(), flush=True)
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("columns", "q"), [(10, 20_000), (50_000, 4)])
def test_ctrl_c_ends_a_sweep_at_once(columns, q, threads):
    """It ends many short queries, and a single one that takes seconds."""
    delays = []
    for attempt in range(3):  # a busy machine may be late once
        command = [sys.executable, "-c", INTERRUPTED, *map(str, (columns, q, threads))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.3 + 0.3 * attempt)
            sent = time.monotonic()  # one clock for all processes
            child.send_signal(signal.SIGINT)
            arrived = child.communicate(timeout=PATIENCE)[0]
        assert child.returncode == 0
        delays.append(float(arrived) - sent)
        if delays[-1] < 0.2:
            break
    assert min(delays) < 0.2
