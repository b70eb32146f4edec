"""The filter's hits are those of its definition, and no row within reach is lost."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import device_oracle as oracle
from cases import FAMILIES, make
from device_oracle import TILE, Coded128


def coded_at(vectors, offset, exponent):
    """Return vectors coded with one exponent, and the errors that are stored."""
    y = oracle.rotated(vectors, offset)
    codes = np.rint(np.clip(np.ldexp(y, exponent), -127, 127))
    off = np.ldexp(codes, -exponent) - y
    errors = [
        oracle.error_from(oracle.lane_sum(o * o), oracle.lane_sum(v * v), len(v))
        for o, v in zip(off, y, strict=True)
    ]
    exponents = np.full(len(vectors), exponent, np.int32)
    return Coded128(codes.astype(np.int8), exponents, np.array(errors, np.float32))


def run(emulated, queries, rows, reach, capacity, seed, streamed=False):
    """Return the hits of each query as a set, and their counts."""
    given = (emulated.Coded(c.codes, c.squares, c.exponents, c.errors) for c in (queries, rows))
    counts, hits = emulated.filter(*given, reach, capacity, seed, streamed)
    most = np.minimum(counts, capacity).tolist()
    kept = [dict(mine[:count].tolist()) for mine, count in zip(hits, most, strict=True)]
    products = queries.codes.astype(np.int64) @ rows.codes.astype(np.int64).T
    for i, mine in enumerate(kept):
        assert all(product == products[i, row] for row, product in mine.items())
    rest = [mine[count:] for mine, count in zip(hits, most, strict=True)]
    assert (np.concatenate(rest) == -1).all()  # nobody wrote there
    return [set(mine) for mine in kept], counts


def random_codes(rng, n, depth, exponents):
    """Return codes whose exponents are those of their tile, but in a quarter of the tiles."""
    codes = rng.integers(-127, 128, (n, depth)).astype(np.int8)
    codes[rng.random(n) < 0.1] //= 16
    each = np.repeat(rng.choice(exponents, -(-n // TILE)), TILE)[:n]
    mixed = np.repeat(rng.random(-(-n // TILE)) < 0.25, TILE)[:n]
    each = np.where(mixed, rng.choice(exponents, n), each).astype(np.int32)
    return Coded128(codes, each, rng.random(n).astype(np.float32) * 2.0 ** -int(each.max()))


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    q=st.sampled_from([1, 2, 63, 64, 65, 127, 128, 129, 200]),
    n=st.sampled_from([1, 31, 32, 33, 127, 128, 129, 300]),
    depth=st.sampled_from([64, 128, 192, 256, 320]),
    spread=st.sampled_from([0, 1, 3, 20, 40]),
)
def test_hits_are_those_of_the_definition(emulated, seed, q, n, depth, spread):
    """Exponents of rows and queries differ by up to ``spread``, beyond what integers hold."""
    rng = np.random.default_rng(seed)
    exponents = range(-spread, spread + 1)
    queries, rows = random_codes(rng, q, depth, exponents), random_codes(rng, n, depth, exponents)
    far = 150 * np.sqrt(depth) * 2.0**spread
    reach = rng.random(q) * far * rng.choice([0, 0.5, 1], q)
    reach[rng.random(q) < 0.05] = np.inf
    hits, counts = run(emulated, queries, rows, reach, n, seed)
    wanted = oracle.filter_hits(queries, rows, reach)
    assert hits == wanted
    assert counts.tolist() == [len(w) for w in wanted]


def test_score_at_the_threshold_passes(emulated):
    """The threshold of query i is the score of row i, whose square is odd and halved downwards."""
    rng = np.random.default_rng(3)
    queries, rows = random_codes(rng, 64, 64, [0]), random_codes(rng, 64, 64, [0])
    queries.errors[:], rows.errors[:] = 0, 0
    rows.codes[rows.squares % 2 == 0, 0] ^= 1
    rows = Coded128(rows.codes, rows.exponents, rows.errors)  # with the new squares
    products = (queries.codes.astype(np.int64) @ rows.codes.astype(np.int64).T).diagonal()
    scores = products - rows.squares // 2
    reach = np.sqrt(queries.squares - 2 * (scores + 0.5))
    hits, _ = run(emulated, queries, rows, reach, 64, 1)
    assert all(i in mine for i, mine in enumerate(hits))
    assert hits == oracle.filter_hits(queries, rows, reach)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    q=st.sampled_from([1, 2, 7, 8, 9, 15, 16]),
    n=st.sampled_from([1, 8, 31, 33, 127, 128, 129, 300]),
    depth=st.sampled_from([64, 128, 320]),
    spread=st.sampled_from([0, 3, 40]),
)
def test_streamed_hits_are_those_of_wide_tiles(emulated, seed, q, n, depth, spread):
    rng = np.random.default_rng(seed)
    exponents = range(-spread, spread + 1)
    queries, rows = random_codes(rng, q, depth, exponents), random_codes(rng, n, depth, exponents)
    reach = rng.random(q) * 150 * np.sqrt(depth) * 2.0**spread * rng.choice([0, 0.5, 1], q)
    reach[rng.random(q) < 0.05] = np.inf
    hits, counts = run(emulated, queries, rows, reach, n, seed, streamed=True)
    assert hits == oracle.filter_hits(queries, rows, reach, wide=True)
    assert counts.tolist() == [len(mine) for mine in hits]


@settings(max_examples=30)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 2**31),
    d=st.sampled_from([1, 3, 16, 63, 64, 65, 130]),
    k=st.sampled_from([1, 5, 40]),
)
def test_no_row_within_reach_is_lost(emulated, family, seed, d, k):
    queries, rows = make(family, seed, 150, 20, d)
    offset = rows[:32].mean(axis=0, dtype=np.float64).astype(np.float32)
    largest = [np.abs(oracle.rotated(x, offset)).max() for x in (queries, rows)]
    b, a = (oracle.exponent_for(float(x)) for x in largest)
    distances = oracle_distances(queries, rows)
    reach = np.sort(distances, axis=1)[:, k - 1].copy()
    hits, _ = run(
        emulated, coded_at(queries, offset, b), coded_at(rows, offset, a), reach, 150, seed
    )
    for i, mine in enumerate(hits):
        assert set(np.flatnonzero(distances[i] <= reach[i]).tolist()) <= mine


def oracle_distances(queries, rows):
    """Return distances (q, n) that no float64 rounding makes larger than the exact ones."""
    wide = np.longdouble
    difference = queries[:, None].astype(wide) - rows[None].astype(wide)
    return np.sqrt((difference * difference).sum(axis=2)).astype(np.float64)


def test_hits_beyond_the_capacity_are_counted(emulated):
    rng = np.random.default_rng(0)
    queries, rows = random_codes(rng, 4, 64, [0]), random_codes(rng, 200, 64, [0])
    reach = np.array([np.inf, 0, np.inf, 0])  # all rows and none in turn
    hits, counts = run(emulated, queries, rows, reach, 7, 1)
    assert counts.tolist() == [200, 0, 200, 0]
    assert [len(mine) for mine in hits] == [7, 0, 7, 0]


def test_few_rows_beyond_reach_pass(emulated):
    """Of rows that are no neighbours, codes let through a few: the filter is worth its time."""
    queries, rows = make("gaussian", 3, 3000, 20, 64)
    offset = np.zeros(64, np.float32)
    largest = [np.abs(oracle.rotated(x, offset)).max() for x in (queries, rows)]
    b, a = (oracle.exponent_for(float(x)) for x in largest)
    reach = np.sort(oracle_distances(queries, rows), axis=1)[:, 9].copy()
    coded = coded_at(queries, offset, b), coded_at(rows, offset, a)
    _, counts = run(emulated, *coded, reach, 3000, 1)
    assert counts.min() >= 10
    assert counts.mean() <= 30
