"""The filter's certificate: canonical keys never leave their brackets, and nearly reach the ends.

``filter_brackets`` gives, for every pair, the interval in which the filter believes the
canonical key to lie. ``reach`` is how far from the middle the key really is, as a fraction of the
half width: above 1 the certificate is wrong; if constructed cases come near 1, the bound cannot
be made half as wide without failing here.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from cases import FAMILIES, ISAS, METRICS, core_search, make, max_abs
from resmem import _core

U = 2.0**-24


def reach(queries, rows, metric, kind, isa, depth_block=0):
    """Largest distance of a key from the middle of its bracket, in half widths."""
    segment = (rows, None, 0, None, max_abs(rows))
    low, high = _core.filter_brackets(
        queries, max_abs(queries), [segment], metric, kind, isa, depth_block
    )
    keys = oracle.order_key(queries, rows, metric)
    assert (low <= high).all()
    half = (high - low) / 2
    assert (half > 0).all()
    return float((np.abs(keys - (low + half)) / half).max())


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
    segment = (rows, None, 0, None, max_abs(rows))
    for isa in ISAS:
        for kind in kinds(metric):
            low, high = _core.filter_brackets(
                queries, max_abs(queries), [segment], metric, kind, isa, depth_block
            )
            assert (low <= keys).all(), (isa, kind)
            assert (keys <= high).all(), (isa, kind)


def lossy(first, d, product):
    """(first, s, s, ..) with s * s = product: added to a large first term, every product is
    just too small to change the running sum, so all roundings go the same way."""
    x = np.full((1, d), np.sqrt(product), np.float32)
    x[0, 0] = first
    return x


def inner_product_case(d):
    # Norms just below 1 and just above 1/2; another row keeps the scale at 1.
    query, row, other = lossy(0.9997, d, 0.499 * U), lossy(0.5003, d, 0.499 * U), np.zeros((1, d))
    other[0, 0] = 0.75
    return query, np.concatenate([row, other]).astype(np.float32), "inner_product", "dot"


def euclidean_dot_case(d):
    row = lossy(1.0, d, 0.998 * U)
    query = -lossy(0.5005, d, 0.998 * U)
    return query, np.concatenate([row, -row]), "euclidean", "dot"  # so that the mean is 0


def difference_case(d):
    return lossy(1.0, d, 0.998 * U), np.zeros((1, d), np.float32), "euclidean", "difference"


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("d", [512, 1024, 2048])
@pytest.mark.parametrize(
    ("case", "least"),
    [(inner_product_case, 0.6), (euclidean_dot_case, 0.6), (difference_case, 0.9)],
)
def test_constructed_cases_nearly_reach_the_bound(case, least, d, isa, record_property):
    found = reach(*case(d), isa)
    record_property("reach", found)
    print(f"{case.__name__} d={d} {isa}: {found:.4f} of the bound")
    assert least <= found <= 1


@pytest.mark.parametrize("kind", ["dot", "difference"])
def test_a_search_for_worse_cases_stays_inside(kind):
    """Hill climbing on one pair, from the constructed case and from random ones."""
    rng = np.random.default_rng(11)
    d, worst = 96, 0.0
    for start in range(6):
        if start:
            queries, rows = make("gaussian", start, 2, 1, d)
        else:
            case = euclidean_dot_case if kind == "dot" else difference_case
            queries, rows, _, _ = case(d)
        best = reach(queries, rows, "euclidean", kind, ISAS[-1])
        for _ in range(150):
            trial = queries.copy(), rows.copy()
            for array in trial:
                change = rng.random(array.shape) < 0.05
                array[change] *= (1 + rng.normal(0, 1e-3, change.sum())).astype(np.float32)
            found = reach(*trial, "euclidean", kind, ISAS[-1])
            assert found <= 1
            if found >= best:
                best, (queries, rows) = found, trial
        worst = max(worst, best)
    print(f"{kind}: {worst:.4f} of the bound")
    assert worst > 0.5


@pytest.mark.parametrize("isa", ISAS)
def test_rounding_against_the_true_neighbour_does_not_lose_it(isa):
    """Rows whose sums are exact stand beside one whose roundings all make it look farther.

    Its true key is better than theirs by less than the filter's error, so that a bound half
    as wide drops it.
    """
    d, n = 2048, 400
    query, rows, _, _ = inner_product_case(d)
    true = float(oracle.order_key(query, rows, "inner_product")[0, 0])  # minus the product
    rivals = np.zeros((n, d), np.float32)
    lost = (d - 1) * 0.499 * U
    rivals[:, 0] = (-true - 0.1 * lost) / query[0, 0]
    crowd = np.concatenate([rivals, rows[:1], 0.4 * rows[1:]]).astype(np.float32)
    wanted = oracle.search(query, crowd, 1, "inner_product")
    assert wanted[1][0, 0] == n
    for strategy in ("by_rows", "by_queries"):
        got = core_search(
            query, crowd, 1, "inner_product", isa=isa, strategy=strategy, blocks=(0, 12, 0, 0)
        )
        assert np.array_equal(got[1], wanted[1])


@pytest.mark.parametrize("metric", METRICS)
def test_the_bound_leaves_few_rows_in_doubt(metric):
    queries, rows = make("gaussian", 0, 8000, 32, 128)
    stats = core_search(queries, rows, 20, metric, strategy="by_queries")[3]
    assert stats["rescored"] <= 1.05 * 20 * 32
