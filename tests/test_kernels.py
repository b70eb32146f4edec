"""exp, softmax, residuals, weights and weighted sums: the oracle's bits on every ISA."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

import oracle
from cases import ISAS
from resmem import _core

COLUMNS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 257, 2049)
pytestmark = pytest.mark.parametrize("isa", ISAS)


def same_bits(a, b):
    return np.array_equal(np.asarray(a).view(np.uint8), np.asarray(b).view(np.uint8))


def test_exp_is_within_two_ulp_and_has_the_bits_of_the_oracle(isa):
    rng = np.random.default_rng(0)
    edges = [0.0, -0.0, -np.inf, -746.0, -745.2, -745.13, -708.4, -1e-300, 709.78, 710.0, 1e-17]
    x = np.concatenate([edges, -rng.exponential(20, 3000), rng.uniform(-745, 709, 3000)])
    got = _core.exp(x, isa)
    assert same_bits(got, oracle.cexp(x))
    with mpmath.workprec(120):
        for value, result in zip(x[::7], got[::7], strict=True):
            exact = mpmath.exp(mpmath.mpf(float(value)))
            assert abs(mpmath.mpf(float(result)) - exact) <= 2 * np.spacing(result)


@pytest.mark.parametrize("columns", COLUMNS)
def test_softmax_and_residuals(isa, columns):
    rng = np.random.default_rng(columns)
    logits = (rng.standard_normal((13, columns)) * 8).astype(np.float32)
    if columns > 2:
        logits[3, 1:] = -np.inf
    labels = rng.integers(0, columns, 13)
    for temperature in (1.0, 0.31, 7.0):
        assert same_bits(
            _core.softmax(logits, temperature, 2, isa), oracle.softmax(logits, temperature)
        )
        wanted = oracle.residuals("classification", "logits", logits, labels, temperature)
        assert same_bits(_core.class_residuals(logits, labels, temperature, 2, isa), wanted)
    p = oracle.softmax(logits, 1.0).astype(np.float32)
    wanted = oracle.residuals("classification", "probabilities", p, labels, 1.0)
    assert same_bits(_core.class_residuals(p, labels, 0.0, 2, isa), wanted)


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("k", [0, 1, 2, 3, 4, 5, 8, 53])
def test_weights_and_weighted_sums(isa, columns, k):
    rng = np.random.default_rng(columns * 100 + k)
    q, n = 9, 60
    residuals = rng.standard_normal((n, columns)).astype(np.float32)
    distances = np.sort(rng.random((q, k)), axis=1)
    positions = rng.integers(0, n, (q, k))
    if k:
        distances[2, k // 2 :], positions[2, k // 2 :] = np.inf, -1  # padding
        distances[3], positions[3] = np.inf, -1
    for sigma in (0.1, 3.0, np.inf):
        wanted = oracle.weights(distances, sigma)
        assert same_bits(_core.weights(distances, positions, sigma, isa), wanted)
        wanted = oracle.correction(distances, positions, residuals, sigma)
        for parts in ([residuals], [residuals[:7], residuals[7:7], residuals[7:]]):
            for threads in (1, 2, 7):
                got = _core.aggregate(
                    parts, distances, positions, sigma, columns, threads=threads, isa=isa
                )
                assert same_bits(got, wanted)
        base = rng.random((q, columns))
        got = _core.aggregate(
            [residuals], distances, positions, sigma, columns, 0.7, base.copy(), isa=isa
        )
        assert same_bits(got, base + 0.7 * wanted)


@pytest.mark.parametrize("columns", COLUMNS)
def test_simplex(isa, columns):
    values = np.random.default_rng(columns).standard_normal((11, columns))
    got = values.copy()
    _core.simplex(got, 1e-6, 2, isa)
    assert same_bits(got, oracle.simplex(values, 1e-6))
    assert np.allclose(got.sum(axis=1), 1, atol=1e-12)


def test_inspect_rows_finds_the_first_bad_row(isa):
    rng = np.random.default_rng(0)
    for n, d in ((0, 3), (1, 1), (5, 7), (300, 33), (20_000, 17)):
        rows = rng.standard_normal((n, d)).astype(np.float32)
        largest, bad = _core.inspect_rows(rows, 2, isa)
        assert (largest, bad) == (np.abs(rows).max(initial=0), -1)
        for value in (np.nan, np.inf, -np.inf):
            if n > 4:
                spoiled = rows.copy()
                spoiled[n - 1, d - 1] = spoiled[n - 3, d // 2] = value
                assert _core.inspect_rows(spoiled, 2, isa)[1] == n - 3


def test_a_position_beyond_the_rows_is_refused(isa):
    with pytest.raises(IndexError, match="position 5 is beyond the 5 rows"):
        _core.aggregate(
            [np.zeros((5, 2), np.float32)], np.zeros((1, 1)), np.array([[5]]), 1.0, 2, isa=isa
        )
