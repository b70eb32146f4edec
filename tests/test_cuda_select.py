"""The reach becomes the k-th least high end, and hits beyond it go; no neighbour does."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import device_oracle as oracle
from cases import FAMILIES, make
from test_cuda_filter import coded_at, oracle_distances, random_codes


def all_hits(queries, rows, rng):
    """Return every row as a hit of every query, each in an order of its own."""
    products = queries.codes.astype(np.int64) @ rows.codes.astype(np.int64).T
    order = np.array([rng.permutation(len(rows.codes)) for _ in products])
    return np.stack([order, np.take_along_axis(products, order, axis=1)], axis=2).astype(np.int32)


def ends_of(queries, rows, i, hit):
    """Return the ends of the distance of query i and the row of a hit."""
    j, product = map(int, hit)
    return oracle.distance_ends(
        int(queries.squares[i]), float(queries.errors[i]), int(queries.exponents[i]),
        int(rows.squares[j]), float(rows.errors[j]), int(rows.exponents[j]), product,
    )  # fmt: skip


def reach_of(kth):
    """Return how far rows may be whose canonical keys, of one dimension, are the k-th or less."""
    relative = 2 * oracle.theta(1)
    return math.sqrt(kth * kth * (1 + 2 * relative))


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    n=st.sampled_from([1, 2, 31, 33, 255, 256, 257, 600]),
    k=st.sampled_from([1, 2, 30, 300]),
    spread=st.sampled_from([0, 2, 9]),
    equal=st.booleans(),
)
def test_selection_is_that_of_the_definition(emulated, seed, n, k, spread, equal):
    rng = np.random.default_rng(seed)
    exponents = range(-spread, spread + 1)
    queries, rows = random_codes(rng, 3, 64, exponents), random_codes(rng, n, 64, exponents)
    if equal:
        rows.codes[:], rows.errors[:] = rows.codes[0], rows.errors[0]
    hits = all_hits(queries, rows, rng)
    counts = np.array([n, max(1, n // 2), n + 1], dtype=np.uint32)  # the last list overflowed
    reach = np.array([np.inf, 1e3, np.inf])
    given_ = (emulated.Coded(c.codes, c.squares, c.exponents, c.errors) for c in (queries, rows))
    found, kept, left = emulated.select(*given_, reach, k, counts, hits, seed)
    for i, count in enumerate(map(int, counts)):
        ends = [ends_of(queries, rows, i, hit) for hit in hits[i, : min(count, n)]]
        if count < k or count > n:
            assert (found[i], kept[i]) == (reach[i], count)
            continue
        kth = sorted(oracle.rounded_up(high) for _, high in ends)[k - 1]
        wanted = min(reach[i], reach_of(kth))
        assert found[i] == wanted
        here = [
            hit[0] for hit, (low, _) in zip(hits[i].tolist(), ends, strict=False)
            if oracle.rounded_down(low) <= wanted
        ]  # fmt: skip
        assert left[i, : kept[i]].tolist() == here


@settings(max_examples=30)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 2**31),
    d=st.sampled_from([1, 3, 16, 64, 65, 130]),
    k=st.sampled_from([1, 5, 40]),
)
def test_selection_keeps_the_k_nearest(emulated, family, seed, d, k):
    queries, rows = make(family, seed, 150, 4, d)
    offset = rows[:32].mean(axis=0, dtype=np.float64).astype(np.float32)
    largest = [np.abs(oracle.rotated(x, offset)).max() for x in (queries, rows)]
    b, a = (oracle.exponent_for(float(x)) for x in largest)
    coded = coded_at(queries, offset, b), coded_at(rows, offset, a)
    distances = oracle_distances(queries, rows)
    hits = all_hits(*coded, np.random.default_rng(seed))
    for i in range(4):
        for hit in hits[i]:
            low, high = ends_of(*coded, i, hit)
            assert low <= distances[i, hit[0]] * (1 + 2**-50)
            assert distances[i, hit[0]] <= high * (1 + 2**-50)
    given_ = (emulated.Coded(c.codes, c.squares, c.exponents, c.errors) for c in coded)
    counts, reach = np.full(4, 150, np.uint32), np.full(4, np.inf)
    found, kept, left = emulated.select(*given_, reach, k, counts, hits, seed)
    for i in range(4):
        kth = np.sort(distances[i])[k - 1]
        assert found[i] >= kth * (1 - 2**-50)
        nearest = np.flatnonzero(distances[i] <= kth)
        assert set(nearest.tolist()) <= set(left[i, : kept[i]].tolist())
