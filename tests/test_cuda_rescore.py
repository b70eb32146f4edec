"""Hits get the canonical keys of the contract, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from cases import FAMILIES, make

KINDS = ("sqeuclidean", "cosine", "inner_product")


def pairs(rows):
    """Return hits of these rows (q, capacity), with scores that do not count."""
    return np.stack([rows.astype(np.int32), np.full(rows.shape, 7, np.int32)], axis=2)


@settings(max_examples=60)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 2**31),
    q=st.sampled_from([1, 2, 5]),
    n=st.sampled_from([1, 15, 16, 17, 50]),
    d=st.sampled_from([1, 2, 3, 7, 8, 9, 31, 32, 33, 63, 64, 65, 127, 129]),
    metric=st.sampled_from(KINDS),
)
def test_keys_have_the_bits_of_the_oracle(emulated, family, seed, q, n, d, metric):
    queries, rows = make(family, seed, n, q, d)
    rng = np.random.default_rng(seed)
    capacity = int(rng.integers(1, n + 1))
    counts = rng.integers(0, n + 1, q).astype(np.uint32)  # perhaps more than are kept
    hits = np.array([rng.permutation(n)[:capacity] for _ in range(q)], dtype=np.uint32)
    got = emulated.rescore(queries, rows, KINDS.index(metric), counts, pairs(hits), seed)
    wanted = np.take_along_axis(oracle.order_key(queries, rows, metric), hits.astype(int), axis=1)
    there = np.arange(capacity) < np.minimum(counts, capacity)[:, None]
    assert (got[~there] == -1).all()
    assert got[there].tobytes() == wanted[there].tobytes()


@pytest.mark.parametrize("metric", KINDS)
def test_rows_that_are_not_finite_get_the_last_key(emulated, metric):
    queries, rows = make("gaussian", 1, 20, 3, 40)
    rows[[4, 9], [0, 39]] = np.nan, np.inf
    hits = np.tile(np.arange(20, dtype=np.uint32), (3, 1))
    got = emulated.rescore(
        queries, rows, KINDS.index(metric), np.full(3, 20, np.uint32), pairs(hits)
    )
    assert np.isinf(got[:, [4, 9]]).all()
    assert np.isfinite(np.delete(got, [4, 9], axis=1)).all()
