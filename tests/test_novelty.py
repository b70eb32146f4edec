"""Novelty against the oracle's bits; what the numbers mean; when rows are measured again."""

from __future__ import annotations

import numpy as np
import pytest

import oracle
import resmem
from resmem._evaluation import novelty as module

RNG = np.random.default_rng(4)
D = 3


def memory(z, **options):
    """Return a memory of these rows, whose targets do not matter."""
    n = len(z)
    outputs, targets = np.zeros((n, 2), np.float32), np.arange(n) % 2
    return resmem.Memory(k=2, **options).fit(z, outputs, targets)


def expected(mem, z, queries, excluded=None):
    """Return the oracle's novelty, from neighbours that other tests hold to be right."""
    own = oracle.sampled(len(z), 1024)
    distances, _ = mem.kneighbors(z[own], k=1, exclude_ids=own)
    nearest, _ = mem.kneighbors(queries, k=1, exclude_ids=excluded)
    return oracle.novelty(nearest[:, 0], distances[:, 0])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"key_dtype": "float16"},
        {"key_dtype": "bfloat16"},
        {"key_dtype": "float64"},
        {"preprocess": "standardize"},
        {"preprocess": "pca:2"},
        {"preprocess": "unit"},
    ],
    ids=str,
)
def test_novelty_of_every_key_has_the_oracles_bits(options):
    # Multiples of 1/8 keep their value in half precision: a row is its own query to the bit.
    z = np.round(8 * RNG.standard_normal((300, D))).astype(np.float32) / 8
    z[:40] = z[40:80]
    queries = np.concatenate([z[:20], RNG.standard_normal((50, D)).astype(np.float32), 9 * z[:20]])
    mem = memory(z, **options)
    excluded = RNG.integers(-1, 300, (len(queries), 2))
    for excluded_ids in (None, excluded):
        got = mem.novelty(queries, excluded_ids)
        np.testing.assert_array_equal(got, expected(mem, z, queries, excluded_ids))
        assert got.dtype == np.float64
    for threads in (1, 2):
        np.testing.assert_array_equal(mem.novelty(queries, excluded, threads), got)


def test_novelty_of_a_large_memory_samples_its_rows():
    z = RNG.standard_normal((2500, D)).astype(np.float32)
    mem, queries = memory(z), RNG.standard_normal((40, D)).astype(np.float32)
    got = mem.novelty(queries)
    np.testing.assert_array_equal(got, expected(mem, z, queries))
    np.testing.assert_array_equal(got * 1025, np.round(got * 1025))


def test_novelty_of_queries_like_the_rows_is_spread_evenly():
    z, queries = (RNG.standard_normal((n, D)).astype(np.float32) for n in (3000, 4000))
    got = memory(z).novelty(queries)
    for level in (0.05, 0.3, 0.7):  # 1,024 sampled rows leave an error of 0.015 at most
        assert abs((got <= level).mean() - level) < 0.04


def test_novelty_counts_rows_that_are_exactly_as_far():
    mem = memory(np.array([[0.0], [1.0], [2.0], [4.0]]))  # nearest others at 1, 1, 1 and 2
    queries = np.array([[0.0], [-1.0], [-1.5], [-2.0], [6.1]])
    np.testing.assert_array_equal(mem.novelty(queries), [1, 1, 2 / 5, 2 / 5, 1 / 5])


def test_novelty_among_copies_is_1_for_a_copy_and_least_else():
    mem = memory(np.ones((9, D)))
    np.testing.assert_array_equal(mem.novelty([[1.0] * D, [1.0, 1.0, 1.001]]), [1.0, 0.1])


def test_novelty_without_a_possible_neighbour_is_the_least():
    mem = memory(np.array([[0.0], [1.0]]))
    np.testing.assert_array_equal(mem.novelty([[0.0], [0.0]], [[0, 1], [0, -1]]), [1 / 3, 1])


def test_novelty_measures_rows_once_until_they_change(monkeypatch):
    z = RNG.standard_normal((50, D)).astype(np.float32)
    measured, search = [], module.searched_own_rows

    def counted(rows, *arguments):
        measured.append(len(rows))
        return search(rows, *arguments)

    monkeypatch.setattr(module, "searched_own_rows", counted)
    mem = memory(z)
    before = mem.novelty(z + 3)
    np.testing.assert_array_equal(mem.novelty(z + 3), before)
    assert measured == [50]
    mem.add(z[:10] + 3, np.zeros((10, 2)), np.zeros(10, int))
    after = mem.novelty(z + 3)
    assert (after[:10] == 1).all()  # a row is no farther from itself than rows are apart
    mem.remove(np.arange(50, 60))
    np.testing.assert_array_equal(mem.novelty(z + 3), before)
    assert measured == [50, 60, 50]


@pytest.mark.parametrize("rows", [0, 1])
def test_novelty_with_fewer_than_two_rows_is_refused(rows):
    mem = memory(np.ones((2, D)))
    mem.remove(np.arange(rows, 2))
    text = rf"novelty compares .* between rows: the memory must hold at least 2, got {rows}$"
    with pytest.raises(ValueError, match=text):
        mem.novelty(np.ones((1, D)))


def test_novelty_of_no_queries_is_empty():
    assert memory(np.eye(D)).novelty(np.empty((0, D))).shape == (0,)
