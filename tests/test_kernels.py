"""exp, log, softmax, residuals, simplex, weights, weighted sums: the oracle's bits on every ISA."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

import oracle
from cases import ISAS
from resmem import _core

COLUMNS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 257, 2047, 2048, 2049)
SMALLEST = np.float32(2.0**-149)
pytestmark = pytest.mark.parametrize("isa", ISAS)


def same_bits(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def dense(*residuals):
    return [_core.DenseRows(part) for part in residuals]


@pytest.fixture
def flushing():
    """Flush subnormal numbers to zero in this thread; check that calls leave it so."""
    smallest = np.array([SMALLEST])
    _core.set_flush_to_zero(True)
    try:
        yield
        still = (smallest * np.float32(1)).item() == 0.0
    finally:
        _core.set_flush_to_zero(False)
    assert still
    assert (smallest * np.float32(1)).item() > 0.0


# ---- exp -----------------------------------------------------------------------------------


def test_exp_is_within_two_ulp_and_has_the_bits_of_the_oracle(isa):
    rng = np.random.default_rng(0)
    edges = [0.0, -0.0, -np.inf, -746.0, -745.2, -745.13, -708.4, -1e-300, 709.78, 710.0, 1e-17]
    x = np.concatenate([edges, -rng.exponential(20, 3000), rng.uniform(-745, 709, 3000)])
    got = _core.exp(x, execution=_core.Execution(isa=isa))
    assert same_bits(got, oracle.cexp(x))
    with mpmath.workprec(120):
        for value, result in zip(x[::3], got[::3], strict=True):
            exact = mpmath.exp(mpmath.mpf(float(value)))
            if np.isinf(result):
                assert exact > np.finfo(np.float64).max
                continue
            assert abs(mpmath.mpf(float(result)) - exact) <= 2 * np.spacing(result)


def test_exp_does_not_depend_on_the_position_of_a_value(isa):
    x = np.random.default_rng(1).uniform(-30, 30, 41)
    whole = oracle.cexp(x)
    for start in range(9):
        for stop in range(start, len(x) + 1):
            assert same_bits(
                _core.exp(x[start:stop].copy(), execution=_core.Execution(isa=isa)),
                whole[start:stop],
            )


# ---- log -----------------------------------------------------------------------------------


def test_log_has_the_bits_of_the_oracle(isa):
    rng = np.random.default_rng(0)
    powers = 2.0 ** np.arange(-1022.0, 1024)
    borders = np.sqrt(0.5) * powers[1:]  # where the exponent changes
    edges = np.concatenate([powers, borders, [np.finfo(np.float64).max]])
    neighbours = np.concatenate([np.nextafter(edges[1:-1], 0), np.nextafter(edges[:-1], np.inf)])
    around = [1 - 2.0**-53 * np.arange(100), 1 + 2.0**-52 * np.arange(100)]
    x = [np.exp(rng.uniform(-708, 709, 3000)), rng.uniform(0.4, 2.1, 3000)]
    x = np.concatenate([edges, neighbours, *around, *x])
    assert same_bits(_core.log(x, execution=_core.Execution(isa=isa)), oracle.clog(x))


def test_log_does_not_depend_on_the_position_of_a_value(isa):
    x = np.exp(np.random.default_rng(1).uniform(-700, 700, 41))
    whole = oracle.clog(x)
    for start in range(9):
        for stop in range(start, len(x) + 1):
            assert same_bits(
                _core.log(x[start:stop].copy(), execution=_core.Execution(isa=isa)),
                whole[start:stop],
            )


# ---- Softmax, residuals, simplex -------------------------------------------------------------


def logits_of(rng, n, columns):
    logits = (rng.standard_normal((n, columns)) * 8).astype(np.float32)
    if columns > 2 and n > 3:
        logits[3, 1:] = -np.inf
    return logits


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("n", [0, 1, 13, 83])  # 83 rows of 2049 are several tasks
def test_softmax_and_residuals_have_the_bits_of_the_oracle(isa, columns, n):
    rng = np.random.default_rng(columns)
    logits, labels = logits_of(rng, n, columns), rng.integers(0, columns, n)
    for temperature in (1.0, 0.31, 7.0):
        base = oracle.softmax(logits, temperature)
        wanted = oracle.residuals("classification", "logits", logits, labels, temperature)
        for threads in (1, 2, 7):
            assert same_bits(
                _core.softmax(logits, temperature, execution=_core.Execution(threads, isa)), base
            )
            got = _core.class_residuals(
                logits, labels, temperature, execution=_core.Execution(threads, isa)
            )
            assert same_bits(got, wanted)
    p = oracle.softmax(logits).astype(np.float32)
    wanted = oracle.residuals("classification", "probabilities", p, labels)
    assert same_bits(
        _core.class_residuals(p, labels, 0.0, execution=_core.Execution(2, isa)), wanted
    )


@pytest.mark.parametrize("temperature", [1e-100, 1e-30, 1.0, 1e30, 1e100])
def test_softmax_of_extreme_logits_is_finite(isa, temperature):
    largest = np.finfo(np.float32).max
    values = np.array([largest, -largest, 0, -0.0, SMALLEST, -SMALLEST, 1e-38, 88.7, -np.inf])
    rows = np.random.default_rng(0).choice(values.astype(np.float32), (50, 6))
    rows[:, 0] = np.where(np.isneginf(rows).all(axis=1), 0, rows[:, 0])
    got = _core.softmax(rows, temperature, execution=_core.Execution(1, isa))
    assert same_bits(got, oracle.softmax(rows, temperature))
    assert np.isfinite(got).all()


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("n", [0, 1, 11, 83])
def test_simplex_has_the_bits_of_the_oracle(isa, columns, n):
    values = np.random.default_rng(columns).standard_normal((n, columns))
    for kind, floor in (("clip", 1e-6), ("clip", 0.5), ("project", 1e-6), ("project", 0.0)):
        wanted = oracle.simplex(values, floor, kind)
        assert np.allclose(wanted.sum(axis=1), 1, atol=1e-12)
        for threads in (1, 2, 7):
            got = values.copy()
            _core.simplex(got, floor, kind=kind, execution=_core.Execution(threads, isa))
            assert same_bits(got, wanted)


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("kind", ["clip", "project", "keep"])
def test_simplex_of_corrected_rows_has_the_oracles_bits(isa, columns, kind):
    """The base calls some classes impossible, and some rows are not corrected."""
    rng = np.random.default_rng(columns)
    base = oracle.softmax(rng.standard_normal((40, columns)))
    base[:, 1:][rng.random((40, columns - 1)) < 0.4] = 0.0
    values = base + 0.3 * rng.standard_normal((40, columns))
    values[3:9] = base[3:9]
    values[9] = base[9]
    values[9, -1] = np.nextafter(base[9, -1], 2)
    for floor in (1e-6, 0.3):
        for strength in (1.0, 1e-300, -0.5):
            wanted = oracle.simplex(values, floor, kind, base, strength)
            assert same_bits(wanted[3:9], base[3:9])
            for threads in (1, 7):
                got = values.copy()
                _core.simplex(
                    got,
                    floor,
                    kind=kind,
                    base=base,
                    strength=strength,
                    execution=_core.Execution(threads, isa),
                )
                assert same_bits(got, wanted)


@pytest.mark.parametrize("columns", [1, 2, 3, 7, 8, 9, 17, 100])
@pytest.mark.parametrize("kind", ["clip", "project"])
def test_simplex_of_ties_and_large_values_has_the_oracles_bits(isa, columns, kind):
    rng = np.random.default_rng(columns)
    values = rng.integers(-2, 3, (40, columns)) * 10.0 ** rng.integers(-9, 10, (40, 1))
    values[:4] = np.array([0.0, -0.0, 1.0, -1.0])[:, None]
    values[4:8, 0] = -0.0, 1e-320, 1 - 2.0**-53, 1.0
    for floor in (0.25, 1e-6, 1e-320):
        got = values.copy()
        _core.simplex(got, floor, kind=kind, execution=_core.Execution(2, isa))
        assert same_bits(got, oracle.simplex(values, floor, kind))


@pytest.mark.parametrize("columns", COLUMNS)
def test_simplex_with_a_share_of_the_base_has_the_oracles_bits(isa, columns):
    rng = np.random.default_rng(columns)
    values, base = rng.standard_normal((7, columns)), oracle.softmax(rng.random((7, columns)) * 9)
    base[3, 1:] = 0.0
    for threads in (1, 7):
        for share in (0.1, 0.7):
            got = values.copy()
            _core.simplex(
                got, share, kind="keep", base=base, execution=_core.Execution(threads, isa)
            )
            assert same_bits(got, oracle.simplex(values, share, "keep", base))


def test_row_longer_than_a_task_has_the_bits_of_the_oracle(isa):
    rng = np.random.default_rng(2)
    logits, labels = logits_of(rng, 5, 70_001), np.arange(5)
    base = oracle.softmax(logits, 2.0)
    residuals = oracle.residuals("classification", "logits", logits, labels, 2.0)
    assert same_bits(_core.softmax(logits, 2.0, execution=_core.Execution(2, isa)), base)
    assert same_bits(
        _core.class_residuals(logits, labels, 2.0, execution=_core.Execution(2, isa)), residuals
    )
    distances, positions = np.sort(rng.random((5, 6)), axis=1), rng.integers(0, 5, (5, 6))
    got = _core.aggregate(
        dense(residuals),
        distances,
        positions,
        0.5,
        70_001,
        0.25,
        base.copy(),
        execution=_core.Execution(2, isa),
    )
    wanted = oracle.correct(base, oracle.correction(distances, positions, residuals, 0.5), 0.25)
    assert same_bits(got, wanted)
    for kind in ("clip", "project"):
        for of in (None, base):
            mapped = got.copy()
            _core.simplex(mapped, 1e-6, kind=kind, base=of, execution=_core.Execution(2, isa))
            assert same_bits(mapped, oracle.simplex(wanted, 1e-6, kind, of))


# ---- Weights and weighted sums -----------------------------------------------------------------


def neighbours(rng, q, k, n):
    """Return distances and positions; a query has fewer than k neighbours, and one has none."""
    distances, positions = np.sort(rng.random((q, k)), axis=1), rng.integers(0, n, (q, k))
    if k and q > 3:
        distances[2, k // 2 :], positions[2, k // 2 :] = np.inf, -1
        distances[3], positions[3] = np.inf, -1
    return distances, positions


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("k", [0, 1, 2, 3, 4, 5, 8, 53])
def test_weights_and_sums_have_the_bits_of_the_oracle(isa, columns, k):
    rng = np.random.default_rng(columns * 100 + k)
    q, n = 9, 60
    residuals = rng.standard_normal((n, columns)).astype(np.float32)
    distances, positions = neighbours(rng, q, k, n)
    base = rng.random((q, columns))
    for sigma in (0.1, 3.0, np.inf):
        wanted = oracle.weights(distances, sigma)
        got = _core.weights(distances, positions, sigma, execution=_core.Execution(isa=isa))
        assert all(map(same_bits, got, wanted))
        wanted = oracle.correction(distances, positions, residuals, sigma)
        for parts in (dense(residuals), dense(residuals[:7], residuals[7:7], residuals[7:])):
            for threads in (1, 2, 7):
                got = _core.aggregate(
                    parts,
                    distances,
                    positions,
                    sigma,
                    columns,
                    execution=_core.Execution(threads, isa),
                )
                assert same_bits(got, wanted)
        for strength in (0.7, 0.0, -2.0):
            got = _core.aggregate(
                dense(residuals),
                distances,
                positions,
                sigma,
                columns,
                strength,
                base.copy(),
                execution=_core.Execution(isa=isa),
            )
            assert same_bits(got, oracle.correct(base, wanted, strength))


@pytest.mark.parametrize("q", [0, 1, 2, 17, 64, 257])
def test_sums_of_many_queries_have_the_bits_of_the_oracle(isa, q):
    """A task has several queries, so the rows to prefetch may be those of the next query."""
    rng = np.random.default_rng(q)
    residuals = rng.standard_normal((300, 1000)).astype(np.float32)
    distances, positions = neighbours(rng, q, 20, 300)
    wanted = oracle.correction(distances, positions, residuals, 0.3)
    for threads in (1, 2, 7):
        got = _core.aggregate(
            dense(residuals),
            distances,
            positions,
            0.3,
            1000,
            execution=_core.Execution(threads, isa),
        )
        assert same_bits(got, wanted)


@pytest.mark.parametrize("sigma", [5e-324, 1e-300, 1e-5, 1.0, 1e300, np.inf])
def test_weights_of_extreme_sigma_have_the_oracles_bits(isa, sigma):
    distances = np.sort(np.random.default_rng(0).choice([0, 5e-324, 1e-45, 1e-3, 1, 700, 1e39], 90))
    distances = np.sort(distances.reshape(10, 9), axis=1)
    positions = np.zeros((10, 9), dtype=np.int64)
    got = _core.weights(distances, positions, sigma, execution=_core.Execution(isa=isa))
    assert all(map(same_bits, got, oracle.weights(distances, sigma)))
    assert np.allclose(got[0].sum(axis=1), got[1], rtol=1e-12, atol=0)


def test_a_position_beyond_the_rows_is_refused(isa):
    with pytest.raises(IndexError, match="position 5 is beyond the 5 rows"):
        _core.aggregate(
            dense(np.zeros((5, 2), np.float32)),
            np.zeros((1, 1)),
            np.array([[5]]),
            1.0,
            2,
            execution=_core.Execution(isa=isa),
        )


# ---- A caller that flushes to zero ---------------------------------------------------------------


def test_flushing_to_zero_does_not_reach_softmax_and_residuals(isa, flushing):
    logits = np.array([[0, -80, -700, -745, SMALLEST], [1e-40, 0, -1, -90, -95]], np.float32)
    labels = np.array([0, 1])
    _core.set_flush_to_zero(False)
    base = oracle.softmax(logits, 1.0)
    residuals = oracle.residuals("classification", "logits", logits, labels)
    p = base.astype(np.float32)
    of_p = oracle.residuals("classification", "probabilities", p, labels)
    assert (np.abs(residuals) < np.finfo(np.float32).tiny).any()  # there is something to flush
    _core.set_flush_to_zero(True)
    got = _core.softmax(logits, 1.0, execution=_core.Execution(2, isa))
    got_residuals = _core.class_residuals(logits, labels, 1.0, execution=_core.Execution(2, isa))
    got_of_p = _core.class_residuals(p, labels, 0.0, execution=_core.Execution(2, isa))
    assert same_bits(got, base)
    assert same_bits(got_residuals, residuals)
    assert same_bits(got_of_p, of_p)


def test_flushing_to_zero_does_not_reach_weights_and_sums(isa, flushing):
    _core.set_flush_to_zero(False)
    rng = np.random.default_rng(0)
    residuals = (rng.integers(-9, 10, (20, 5)) * SMALLEST).astype(np.float32)
    distances = np.sort(rng.uniform(600, 745, (6, 7)), axis=1)
    distances[:, 0] = 0
    positions = rng.integers(0, 20, (6, 7))
    base = rng.random((6, 5)) * 1e-310
    weights, _ = oracle.weights(distances, 1.0)
    correction = oracle.correction(distances, positions, residuals, 1.0)
    corrected = oracle.correct(base, correction * 0, 1.0)
    simplex = oracle.simplex(base, 1e-320)
    assert ((weights > 0) & (weights < np.finfo(np.float64).tiny)).any()
    _core.set_flush_to_zero(True)
    got = [
        _core.weights(distances, positions, 1.0, execution=_core.Execution(isa=isa))[0],
        _core.aggregate(
            dense(residuals), distances, positions, 1.0, 5, execution=_core.Execution(2, isa)
        ),
        _core.aggregate(
            dense(residuals * 0),
            distances,
            positions,
            1.0,
            5,
            1.0,
            base.copy(),
            execution=_core.Execution(2, isa),
        ),
        base.copy(),
    ]
    _core.simplex(got[3], 1e-320, execution=_core.Execution(2, isa))
    for mine, wanted in zip(got, (weights, correction, corrected, simplex), strict=True):
        assert same_bits(mine, wanted)


def test_flushing_to_zero_does_not_reach_a_projection(isa, flushing):
    _core.set_flush_to_zero(False)
    values = np.array([[1, 3e-310, 1e-310, 5e-324], [-1, 1, 0, -1e-310]])
    wanted = oracle.simplex(values, 0.0, "project")
    assert ((wanted > 0) & (wanted < np.finfo(np.float64).tiny)).any()
    _core.set_flush_to_zero(True)
    got = values.copy()
    _core.simplex(got, 0.0, kind="project", execution=_core.Execution(2, isa))
    assert same_bits(got, wanted)


# ---- Inspection ----------------------------------------------------------------------------------


def test_inspect_rows_finds_the_first_bad_row(isa):
    rng = np.random.default_rng(0)
    for n, d in ((0, 3), (1, 1), (5, 7), (300, 33), (20_000, 17)):
        rows = rng.standard_normal((n, d)).astype(np.float32)
        largest, bad = _core.inspect_rows(rows, execution=_core.Execution(2, isa))
        assert (largest, bad) == (np.abs(rows).max(initial=0), -1)
        for value in (np.nan, np.inf, -np.inf):
            if n > 4:
                spoiled = rows.copy()
                spoiled[n - 1, d - 1] = spoiled[n - 3, d // 2] = value
                assert _core.inspect_rows(spoiled, execution=_core.Execution(2, isa))[1] == n - 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_inspect_rows_looks_at_every_value(isa, value):
    rows = np.full((7, 5), -2.0, np.float32)
    for row in range(7):
        for column in range(5):
            spoiled = rows.copy()
            spoiled[row, column] = value
            assert _core.inspect_rows(spoiled, execution=_core.Execution(1, isa))[1] == row
            spoiled[row, column] = -3
            assert _core.inspect_rows(spoiled, execution=_core.Execution(1, isa)) == (3.0, -1)


@pytest.mark.parametrize("value", [np.finfo(np.float32).max, SMALLEST, 0.0])
def test_inspect_rows_of_extreme_values_gives_the_maximum(isa, value):
    rows = np.full((40, 9), -value, np.float32)
    assert _core.inspect_rows(rows, execution=_core.Execution(2, isa)) == (value, -1)
