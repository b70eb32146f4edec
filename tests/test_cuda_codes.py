"""Codes of rows and queries have the oracle's bits, and their errors hold without any rounding."""

from __future__ import annotations

import math
from fractions import Fraction

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


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 2**31),
    n=st.sampled_from([0, 1, 3, 4, 5, 9]),
    d=st.sampled_from(DIMENSIONS),
    block_threads=st.sampled_from([32, 128, 256]),
)
def test_codes_have_the_bits_of_the_oracle(emulated, family, seed, n, d, block_threads):
    vectors, offset = given_vectors(family, seed, n, d)
    codes, squares, errors, exponents, rows = emulated.code_vectors(
        vectors, offset, block_threads, seed
    )
    assert rows.tolist() == list(range(n))
    for i, vector in enumerate(vectors):
        wanted = oracle.code(vector, offset)
        assert codes[i].tobytes() == wanted.codes.tobytes()
        assert (squares[i], exponents[i]) == (wanted.square, wanted.exponent)
        assert errors[i].tobytes() == wanted.error.tobytes()
