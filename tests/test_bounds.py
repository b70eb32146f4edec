"""The filter's certificate: canonical keys never leave their brackets, and nearly reach the ends.

``filter_brackets`` gives, for every pair, the interval in which the filter believes the
canonical key to lie. ``reach`` is how far from the middle the key really is, as a fraction of the
half width: above 1 the certificate is wrong; if constructed cases come near 1, the bound cannot
be made half as wide without failing here. The end of a run prints the largest reach of each case.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from cases import (
    FAMILIES,
    ISAS,
    METRICS,
    WIDE_FAMILIES,
    assert_same,
    core_search,
    make,
    make_wide,
    max_abs,
    only_segment,
)
from resmem import _core

U = 2.0**-24  # unit roundoff of float32


def brackets(queries, rows, metric, kind, isa="", depth_block=0):
    return _core.filter_brackets(
        queries,
        max_abs(queries),
        only_segment(rows),
        metric,
        kind,
        depth_block=depth_block,
        execution=_core.Execution(isa=isa),
    )


def reaches(queries, rows, metric, kind, isa):
    """Return each key's distance from the middle of its bracket, in half widths; the brackets."""
    low, high = brackets(queries, rows, metric, kind, isa)
    half = (high - low) / 2
    assert (half > 0).all()
    return (oracle.order_key(queries, rows, metric) - (low + half)) / half, low, high


def kinds(metric):
    return ("dot", "difference") if "euclidean" in metric else ("dot",)


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    seed=st.integers(0, 2**31),
    n=st.integers(1, 30),
    d=st.sampled_from([1, 2, 3, 4, 8, 17, 64, 200]),
    metric=st.sampled_from(["euclidean", "cosine", "inner_product"]),
    depth_block=st.sampled_from([0, 4, 16]),
)
def test_canonical_keys_lie_in_their_brackets(family, seed, n, d, metric, depth_block):
    queries, rows = make(family, seed, n, 7, d)
    keys = oracle.order_key(queries, rows, metric)
    for isa in ISAS:
        for kind in kinds(metric):
            low, high = brackets(queries, rows, metric, kind, isa, depth_block)
            assert (low <= keys).all(), (isa, kind)
            assert (keys <= high).all(), (isa, kind)


@given(
    family=st.sampled_from(sorted(WIDE_FAMILIES)),
    seed=st.integers(0, 2**31),
    n=st.integers(1, 30),
    d=st.sampled_from([1, 2, 3, 4, 8, 17, 64, 200]),
    metric=st.sampled_from(["euclidean", "cosine", "inner_product"]),
)
def test_canonical_keys_of_float64_lie_in_their_brackets(family, seed, n, d, metric):
    queries, rows = (oracle.as_float64(x, metric) for x in make_wide(family, seed, n, 7, d))
    if family == "some tiny" and metric == "inner_product":
        queries[np.abs(queries).max(axis=1) < 2.0**-400] = 1.0  # these are not filtered
    largest = max(max_abs(queries), max_abs(rows))
    if largest == 0 or (metric == "inner_product" and max_abs(rows) < 2.0**-400):
        return
    keys = oracle.order_key(queries, rows, metric, wide=True)
    for isa in ISAS:
        for kind in kinds(metric):
            low, high = brackets(queries, rows, metric, kind, isa)
            assert (low <= keys).all(), (isa, kind)
            assert (keys <= high).all(), (isa, kind)


@pytest.mark.parametrize("d", [1, 4, 64])
def test_float64_brackets_are_not_wider_than_rounding_needs(d, record_property):
    """Rows that staging rounds by half a unit, all in one direction, away from the query."""
    rng = np.random.default_rng(d)
    for kind in ("dot", "difference"):
        reach = 0.0
        for _ in range(40):
            rows = np.float32(rng.uniform(0.5, 1, (64, d))).astype(np.float64)
            rows += rng.choice([-1, 1], (64, 1)) * 0.499 * 2.0**-24
            queries = rows[:4] + rng.normal(size=(4, d)) * 1e-4
            low, high = brackets(queries, rows, "euclidean", kind)
            keys = oracle.order_key(queries, rows, "euclidean", wide=True)
            middle, half = (high + low) / 2, (high - low) / 2
            reach = max(reach, float(np.abs((keys - middle) / half).max()))
        record_property("reach", (f"float64 {kind} d={d}", reach))
        assert 0.02 < reach < 1


# ---- Constructed cases ---------------------------------------------------------------------
# A large first term, then terms just below (or above) half a unit in the last place of the
# running sum: every addition rounds the same way. The row `near` is the true neighbour and is
# made to look as far as it can be, the row `far` as near as it can be; of all such rows, `far` is
# the one whose key is only just the larger. The difference of their computed scores is then all
# error, and a bound narrower than `needed` times the present one would lose `near`.


def vector(first, d, rest):
    return np.array([first] + [rest] * (d - 1), np.float32)


def only_just(beyond, make_row, inside, outside):
    """Return, by bisection, the row of the float32 nearest to `inside` that is still `beyond`."""
    inside, outside = np.float32(inside), np.float32(outside)
    assert beyond(make_row(outside))
    assert not beyond(make_row(inside))
    while (middle := np.float32((float(inside) + float(outside)) / 2)) not in (inside, outside):
        if beyond(make_row(middle)):
            outside = middle
        else:
            inside = middle
    return make_row(outside)


def key(query, row, metric):
    return float(oracle.order_key(query[None], row[None], metric)[0, 0])


def inner_product(d):
    # Norms just below 1 and just above 1/2, the running sum just above 1/2: half a unit is U/2.
    s = np.sqrt(0.499 * U)
    query, near = vector(0.9997, d, s), vector(0.5004, d, s)
    bar = key(query, near, "inner_product")
    far = only_just(
        lambda row: key(query, row, "inner_product") > bar,
        lambda first: vector(first, d, -s),
        inside=0.51,
        outside=0.5,
    )
    return query, near, far


def cosine(d):
    # The running sum is just above 1 for `far`, since it starts with the spread, and below 1 for
    # `near`, whose last coordinate turns it away from the query.
    s = np.sqrt(0.99 * U)
    query, far = vector(1, d, s), vector(1, d, -s)
    query[-1] = far[-1] = 0
    bar = key(query, far, "cosine")

    def turned(last):
        row = vector(1, d, s / 2)
        row[-1] = last
        return row

    near = only_just(lambda row: key(query, row, "cosine") < bar, turned, inside=1, outside=0)
    return query, near, far


def euclidean_dot(d):
    # -|x|^2 / 2 + q x is just below -2: half a unit is 2 U.
    s, first = np.sqrt(1.99 * U), 1.1549
    query, near = vector(-first, d, -s), vector(1.0004 * first, d, -s)
    bar = key(query, near, "euclidean")
    far = only_just(
        lambda row: key(query, row, "euclidean") > bar,
        lambda first: vector(first, d, s),
        inside=0.995 * first,
        outside=1.001 * first,
    )
    return query, near, far


def euclidean_difference(d):
    # Terms just above half a unit all round up for `near`, just below they are lost for `far`.
    query, near = np.zeros(d, np.float32), vector(1.0001, d, np.sqrt(1.005 * U))
    bar = key(query, near, "euclidean")
    far = only_just(
        lambda row: key(query, row, "euclidean") > bar,
        lambda first: vector(first, d, np.sqrt(0.995 * U)),
        inside=1.0,
        outside=1.001,
    )
    return query, near, far


# name: metric, filter, construction, the least part of the bound that near and far reach
CASES = {
    "inner product": ("inner_product", "dot", inner_product, 0.85),
    "cosine": ("cosine", "dot", cosine, 0.6),
    "euclidean, dot": ("euclidean", "dot", euclidean_dot, 0.95),
    "euclidean, difference": ("euclidean", "difference", euclidean_difference, 0.95),
}


def crowd(name, query, near, far, copies=1, farther=0):
    """Return `copies` rows `far`, `farther` rows beyond them and `near`; and how many rows are
    nearer than `near`: the Euclidean dot filter centres rows, so each gets its mirror image.
    """
    other = 2 * near if "euclidean" in name else -query / 2
    others = np.linspace(1, 1.25, farther, dtype=np.float32)[:, None] * other
    rows = np.concatenate([np.tile(far, (copies, 1)), others, near[None]])
    if name != "euclidean, dot":
        return rows, 0
    return np.stack([rows, -rows], 1).reshape(-1, rows.shape[1]), len(rows)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", [512, 1024, 2048])
@pytest.mark.parametrize("name", CASES)
def test_constructed_cases_nearly_reach_the_bound(name, d, isa, record_property):
    metric, kind, construct, least = CASES[name]
    query, near, far = construct(d)
    rows, _ = crowd(name, query, near, far)
    signed, low, high = reaches(query[None], rows, metric, kind, isa)
    assert (abs(signed) <= 1).all()
    a, b = np.flatnonzero((rows == far).all(1))[0], np.flatnonzero((rows == near).all(1))[0]
    middle, half = (low + high)[0] / 2, (high - low)[0] / 2
    needed = (middle[b] - middle[a]) / (half[a] + half[b])
    largest = float(abs(signed).max())
    record_property("reach", (name, largest))
    print(f"{name}, d={d}, {isa}: a row reaches {largest:.4f}, both {needed:.4f} of the bound")
    assert least <= needed <= 1


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("strategy", ["by_rows", "by_queries"])
@pytest.mark.parametrize("name", CASES)
def test_adverse_rounding_keeps_the_true_neighbour(name, strategy, isa):
    """Few candidates are certified: half the bound, or half of its part for rows or for queries,
    would drop the last row.
    """
    metric, kind, construct, _ = CASES[name]
    query, near, far = construct(2048)
    rows, nearer = crowd(name, query, near, far, copies=5, farther=200)
    k = nearer + 1
    wanted = oracle.search(query[None], rows, k, metric)
    assert (rows[wanted[1][0, -1]] == near).all()
    path = {"isa": isa, "strategy": strategy, "filter": kind}
    got = core_search(query[None], rows, k, metric, threads=1, **path)
    assert got[3]["deferred"] == got[3]["exact_thinnings"] == 0
    assert_same(got, wanted)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("strategy", ["by_rows", "by_queries"])
@pytest.mark.parametrize("name", [name for name in CASES if name != "euclidean, dot"])
def test_adverse_rounding_in_a_crowd_keeps_the_true_neighbour(name, strategy, isa):
    """Canonical keys have thinned a full buffer and set the threshold before the row comes."""
    metric, kind, construct, _ = CASES[name]
    query, near, far = construct(2048)
    rows, _ = crowd(name, query, near, far, copies=400)
    wanted = oracle.search(query[None], rows, 1, metric)
    assert wanted[1][0, 0] == 400
    path = {"isa": isa, "strategy": strategy, "filter": kind}
    got = core_search(query[None], rows, 1, metric, threads=1, row_block=12, **path)
    assert got[3]["exact_thinnings"] > 0
    assert_same(got, wanted)


@pytest.mark.parametrize("name", CASES)
def test_hill_climbing_finds_no_key_outside_its_bracket(name, record_property):
    """Hill climbing on one pair, from the constructed case and from ordinary ones."""
    metric, kind, construct, _ = CASES[name]
    rng = np.random.default_rng(11)
    d, worst = 96, 0.0
    for start in range(6):
        if start:
            pair = [rng.standard_normal((n, d)).astype(np.float32) for n in (1, 2)]
        else:
            query, near, far = construct(d)
            pair = [query[None], np.stack([near, far])]
        best = 0.0
        for _ in range(150):
            trial = [array.copy() for array in pair]
            for array in trial:
                change = rng.random(array.shape) < 0.05
                array[change] *= (1 + rng.normal(0, 1e-3, change.sum())).astype(np.float32)
            found = float(abs(reaches(*trial, metric, kind, ISAS[-1])[0]).max())
            assert found <= 1
            if found >= best:
                best, pair = found, trial
        worst = max(worst, best)
    record_property("reach", (name, worst))
    print(f"{name}: {worst:.4f} of the bound")


@pytest.mark.parametrize("metric", METRICS)
def test_filter_leaves_few_rows_to_rescore(metric):
    queries, rows = make("gaussian", 0, 8000, 32, 128)
    stats = core_search(queries, rows, 20, metric, strategy="by_queries")[3]
    assert stats["rescored"] <= 1.05 * 20 * 32
