"""Aggregation over neighbours that something else found."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import oracle
import resmem
from cases import METRICS, same_bits
from resmem import _core


@pytest.fixture
def case():
    rng = np.random.default_rng(31)
    rows, queries = rng.standard_normal((2, 90, 4), dtype=np.float32)
    residuals = rng.standard_normal((90, 3), dtype=np.float32)
    base = rng.standard_normal((90, 3))
    distances, ids = resmem.search(queries, rows, 7)
    return distances, ids, residuals, base


@pytest.mark.parametrize("threads", [None, 1, 3])
@pytest.mark.parametrize("sigma", [0.5, np.inf])
def test_aggregate_gives_the_bits_of_the_oracle(case, sigma, threads):
    distances, ids, residuals, base = case
    term = oracle.correction(distances, ids, residuals, sigma)
    got = resmem.aggregate(distances, ids, residuals, sigma, threads=threads)
    np.testing.assert_array_equal(got, term)
    got = resmem.aggregate(distances, ids, residuals, sigma, base, strength=0.7)
    np.testing.assert_array_equal(got, oracle.correct(base, term, 0.7))


def test_aggregate_takes_neighbours_of_other_libraries(case):
    """They give squared float32 distances, 32-bit ids, and padding behind the neighbours."""
    distances, ids, residuals, _ = case
    squared = np.square(distances).astype(np.float32)
    ids = ids.astype(np.int32)
    squared[:5, 4:], ids[:5, 4:] = np.finfo(np.float32).max, -1
    expected = oracle.correction(np.sqrt(squared.astype(np.float64)), ids, residuals, 0.5)
    got = resmem.aggregate(squared, ids, residuals, 0.5, metric="sqeuclidean")
    np.testing.assert_array_equal(got, expected)


def test_aggregate_without_neighbours_returns_the_base(case):
    _, _, residuals, base = case
    before = base.copy()
    for k in (0, 2):
        nobody = np.zeros((90, k)), np.full((90, k), -1)
        np.testing.assert_array_equal(resmem.aggregate(*nobody, residuals, 1), np.zeros((90, 3)))
        got = resmem.aggregate(*nobody, residuals, 1, base)
        np.testing.assert_array_equal(got, before)
    resmem.aggregate(*case[:3], 1.0, base)
    np.testing.assert_array_equal(base, before)  # aggregate does not write into it


def test_memory_aggregate_uses_every_neighbour_by_its_id():
    rng = np.random.default_rng(32)
    keys = rng.standard_normal((60, 4), dtype=np.float32)
    logits = rng.standard_normal((60, 3), dtype=np.float32)
    ids = rng.permutation(1000)[:60]
    mem = resmem.Memory(k=2).fit(keys, logits, rng.integers(0, 3, 60), ids)
    mem.remove(ids[:5]).add(keys[:9] + 1, logits[:9], rng.integers(0, 3, 9))
    mem.strength = 0.5
    near = mem.kneighbors(keys, k=11)
    wide = copy.deepcopy(mem)
    wide.k = 11
    np.testing.assert_array_equal(mem.aggregate(*near), wide.correction(keys))
    np.testing.assert_array_equal(mem.aggregate(*near, logits), wide.correct(keys, logits))
    np.testing.assert_array_equal(
        mem.aggregate(*near, logits, columns=[2]), wide.correct(keys, logits, columns=[2])
    )
    squared = mem.aggregate(near[0] ** 2, near[1], metric="sqeuclidean")
    np.testing.assert_allclose(squared, mem.aggregate(*near), rtol=1e-9)


def test_head_memory_aggregates_known_neighbours():
    rng = np.random.default_rng(33)
    keys = rng.standard_normal((40, 4), dtype=np.float32)
    head = rng.standard_normal((3, 4), dtype=np.float32), None
    mem = resmem.Memory(k=5, store="head", head=head).fit(keys, None, rng.integers(0, 3, 40))
    near = mem.kneighbors(keys)
    np.testing.assert_array_equal(mem.aggregate(*near), mem.correction(keys))
    logits = keys @ head[0].T
    np.testing.assert_array_equal(mem.aggregate(*near, logits), mem.correct(keys, logits))


# ---- search and aggregation in one call -------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_core_correct_gives_the_bits_of_search_and_aggregate(threads, strength, metric):
    rng = np.random.default_rng(32)
    rows = rng.integers(-3, 4, (700, 3)).astype(np.float32)  # with many equal distances
    queries = rng.integers(-3, 4, (60, 3)).astype(np.float32)
    values = rng.standard_normal((700, 5), dtype=np.float32)
    died = np.where(rng.random(700) < 0.1, 2, 0)
    segments = [
        _core.Segment(rows[:400], None, 0, died[:400], 4.0),
        _core.Segment(rows[400:], None, 400, died[400:], 4.0),
    ]
    residuals = [_core.DenseRows(values[:400]), _core.DenseRows(values[400:])]
    exclude = rng.integers(-1, 700, (60, 2))
    select = rng.integers(0, 5, (60, 2))
    for k in (1, 7, 800):  # 800: more than there are
        found = _core.search(
            queries,
            4.0,
            segments,
            k,
            metric,
            exclude,
            version=2,
            execution=_core.Execution(threads),
        )
        for base, columns in ((None, None), (np.ones((60, 5)), None), (np.ones((60, 2)), select)):
            options = {
                "strength": strength,
                "select": columns,
                "execution": _core.Execution(threads),
            }
            wanted = _core.aggregate(
                residuals, oracle.as_distances(found[0], metric), found[2], 0.7, 5,
                base=None if base is None else base.copy(), **options,
            )  # fmt: skip
            got = _core.correct(
                queries, 4.0, segments, k, residuals, 0.7, 5, exclude=exclude, version=2,
                metric=metric, base=None if base is None else base.copy(), **options,
            )  # fmt: skip
            assert got.tobytes() == wanted.tobytes()


def test_core_correct_refuses_residuals_of_other_rows():
    rows, values = np.zeros((5, 2), np.float32), np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match="segments must have as many rows as their residuals"):
        _core.correct(
            rows,
            0.0,
            [_core.Segment(rows, None, 0, None, 0.0)],
            1,
            [_core.DenseRows(values)],
            1.0,
            3,
        )


@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
def test_similarities_of_other_indexes_weigh_neighbours(metric):
    """Inner products weigh neighbours as attention does."""
    rng = np.random.default_rng(8)
    rows, queries = rng.standard_normal((40, 6)), rng.standard_normal((7, 6))
    outputs, targets = rng.standard_normal((40, 3)), rng.integers(0, 3, 40)
    mem = resmem.Memory(sigma=0.5).fit(rows, outputs, targets)
    found, ids = resmem.search(queries, rows, 5, metric=metric)
    residuals = oracle.residuals("classification", "logits", outputs, targets)
    ascending = -found if metric == "inner_product" else found
    wanted = oracle.correction(ascending, ids, residuals, 0.5)
    same_bits(mem.aggregate(found, ids, metric=metric), wanted)
    same_bits(resmem.aggregate(found, ids, residuals, 0.5, metric=metric), wanted)
    gated = resmem.Memory(sigma=0.5, gate="distance: 1.0 to 1.0, 0.0 beyond")
    gated.fit(rows, outputs, targets)
    gated.gate = "none"  # as the message says where the gate looks at distances
    same_bits(gated.aggregate(found, ids, metric=metric), wanted)
