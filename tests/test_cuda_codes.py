"""Codes of rows and queries have the oracle's bits, and their errors hold without any rounding."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import device_oracle as oracle
from cases import FAMILIES, make

DIMENSIONS = [1, 2, 3, 7, 8, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200]


# ---- the oracle itself ---------------------------------------------------------------------------


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), d=st.sampled_from(DIMENSIONS))
def test_rotation_keeps_lengths_and_is_within_its_slack(seed, d):
    rng = np.random.default_rng(seed)
    vector = (rng.standard_normal(d) * np.exp(9 * rng.standard_normal(d))).astype(np.float32)
    offset = rng.standard_normal(d).astype(np.float32)
    exact = oracle.rotated_exactly(vector, offset)
    length = sum((Fraction(float(x)) - Fraction(float(o))) ** 2
                 for x, o in zip(vector, offset, strict=True))  # fmt: skip
    assert sum(y * y for y in exact) == length
    computed = oracle.rotated(vector[None], offset)[0]
    off = sum((Fraction(float(c)) - y) ** 2 for c, y in zip(computed, exact, strict=True))
    assert off <= (8 * Fraction(oracle.UNIT)) ** 2 * length


@given(st.floats(min_value=2.0**-200, max_value=2.0**200))
def test_exponent_is_the_largest_that_cuts_nothing_off(largest):
    exponent = oracle.exponent_for(largest)
    assert np.ldexp(largest, exponent) <= 127 < np.ldexp(largest, exponent + 1)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_stored_error_is_no_smaller_than_the_exact_one(family):
    vectors, offset = given_vectors(family, 5, 12, 70)
    for vector in vectors:
        coded = oracle.code(vector, offset)
        exact = oracle.exact_error_square(coded, vector, offset)
        assert Fraction(float(coded.error)) ** 2 >= exact
        # No float32 below it would do, but for the slack: half of it would not hold.
        length = sum(y * y for y in oracle.rotated_exactly(vector, offset))
        needed = math.sqrt(exact) + 9 * oracle.UNIT * math.sqrt(length)
        assert float(np.nextafter(coded.error, np.float32(0))) <= needed * (1 + 1e-9)


def given_vectors(family, seed, n, d):
    """Return vectors of a family of numbers, and one of them as the offset of all."""
    _, rows = make(family, seed, n, 1, d)
    return rows, rows[0].copy() if seed % 2 and n else np.zeros(d, np.float32)


# ---- the kernel ----------------------------------------------------------------------------------

METRICS = ("euclidean", "cosine", "inner_product")


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 2**31),
    n=st.sampled_from([0, 1, 3, 4, 5, 9]),
    d=st.sampled_from(DIMENSIONS),
    metric=st.sampled_from(METRICS),
    is_query=st.booleans(),
    block_threads=st.sampled_from([32, 128, 256]),
)
def test_codes_have_the_bits_of_the_oracle(
    emulated, family, seed, n, d, metric, is_query, block_threads
):
    vectors, offset = given_vectors(family, seed, n, d)
    largest = max([oracle.square_of(v) for v in vectors], default=0.0)
    longest = oracle.longest_from(largest, d)
    offset = np.append(offset, np.float32(0))[: d + (metric == "inner_product")]
    codes, squares, errors, exponents = emulated.code_vectors(
        vectors, offset.astype(np.float64), METRICS.index(metric), is_query, largest,
        block_threads, seed,
    )  # fmt: skip
    for i, vector in enumerate(vectors):
        wanted = oracle.code(*_point_and(vector, metric, is_query, longest, offset))
        assert codes[i].tobytes() == wanted.codes.tobytes()
        assert (squares[i], exponents[i]) == (wanted.square, wanted.exponent)
        assert errors[i].tobytes() == wanted.error.tobytes()


def _point_and(vector, metric, is_query, longest, offset):
    point, off = oracle.point_of(vector, metric, is_query, longest)
    return point, offset, off


def test_codes_of_damaged_vectors_let_everything_through(emulated):
    vectors = np.ones((3, 70), np.float32)
    vectors[0, 69], vectors[2, 0] = np.nan, np.inf
    codes, squares, errors, _ = emulated.code_vectors(vectors, np.zeros(70))
    assert np.isinf(errors).tolist() == [True, False, True]
    assert not codes[[0, 2]].any()
    assert squares[[0, 2]].tolist() == [0, 0]


# ---- points --------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 2**31),
    d=st.sampled_from([1, 3, 8, 40]),
    metric=st.sampled_from(["cosine", "inner_product"]),
)
def test_points_are_no_farther_off_than_they_say(family, seed, d, metric):
    """Exact points have length 1, or that of the longest row, and keep the order of keys."""
    rows, _ = given_vectors(family, seed, 4, d)
    longest = oracle.longest_from(max(oracle.square_of(row) for row in rows), d)
    with mpmath.workdps(60):
        for row in rows:
            exact = [mpmath.mpf(float(x)) for x in row]
            square = mpmath.fsum(x * x for x in exact)
            point, off = oracle.point_of(row, metric, False, longest)
            if metric == "cosine":
                if square == 0:
                    continue
                exact = [x / mpmath.sqrt(square) for x in exact]
            else:
                assert square <= mpmath.mpf(longest) ** 2
                exact.append(mpmath.sqrt(mpmath.mpf(longest) ** 2 - square))
            away = mpmath.fsum((mpmath.mpf(float(p)) - x) ** 2
                               for p, x in zip(point, exact, strict=True))  # fmt: skip
            assert mpmath.sqrt(away) <= off
            if metric == "inner_product":
                scaled, slack = oracle.point_of(row, metric, True, longest)
                scale = longest / math.sqrt(oracle.square_of(row)) if square > 0 else 1.0
                away = mpmath.fsum((mpmath.mpf(float(p)) - mpmath.mpf(scale) * mpmath.mpf(float(x)))
                                   ** 2 for p, x in zip(scaled, row, strict=False))  # fmt: skip
                assert mpmath.sqrt(away) <= slack
