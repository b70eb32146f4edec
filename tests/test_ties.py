"""Tied votes predict the first of the equal classes, in whatever order the rows come."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import resmem
from cases import ISAS
from resmem import _core

STORES = ("dense", "sparse:99", "head")  # residuals of all classes alike
MAPS = ("clip", "project", "keep")


def rows(y, C, store="dense", **options):
    """Return a memory of one row per target at one distance from 0, a query at 0 and its logits."""
    n = len(y)
    head = (np.zeros((C, n), np.float32), None) if store == "head" else None
    mem = resmem.Memory(store=store, head=head, **{"k": n, **options})
    outputs = None if head else np.zeros((n, C))
    return mem.fit(np.eye(n), outputs, y), np.zeros((1, n)), np.zeros((1, C))


def test_tied_vote_of_six_rows_predicts_the_first_class():
    """The first class wins, not the class of the row that comes last."""
    y = np.repeat([0, 1], 3)
    for order in ([0, 1, 2, 3, 4, 5], [3, 4, 5, 0, 1, 2], [0, 3, 1, 4, 2, 5], [3, 0, 4, 1, 5, 2]):
        mem, z, logits = rows(y[order], 3, k=6, sigma=np.inf)
        assert mem.predict(z, logits).tolist() == [0], order


ties = st.tuples(
    st.integers(1, 9),  # votes for each of the tied classes
    st.integers(2, 40),  # classes
    st.integers(0, 2**32 - 1),
)


def drawn(tie):
    """Return classes of rows in random order, the tied classes ascending, their number, an rng."""
    votes, C, seed = tie
    rng = np.random.default_rng(seed)
    tied = np.sort(rng.permutation(C)[: rng.integers(2, min(C, 6) + 1)])
    return rng.permutation(np.repeat(tied, votes)), tied, C, rng


@settings(max_examples=settings().max_examples)
@given(
    ties, st.sampled_from(STORES), st.sampled_from(["float32", "float16"]), st.sampled_from(MAPS),
    st.sampled_from([1.0, 0.3, 0.125]), st.sampled_from([1.0, math.inf]),
)  # fmt: skip
def test_tied_classes_predict_the_first_of_them(tie, store, dtype, to, strength, sigma):
    y, tied, C, rng = drawn(tie)
    options = {} if store == "head" else {"residual_dtype": dtype}
    mem, z, logits = rows(
        y, C, store, sigma=sigma, strength=strength, probability_map=to, **options
    )
    mem.remove(0)
    mem.add(
        np.eye(len(y))[:1], None if store == "head" else logits, y[:1]
    )  # the rows lie in two segments now
    assert mem.predict(z, logits).tolist() == [tied[0]]
    corrected, chances = mem.correct(z, logits)[0], mem.predict_proba(z, logits)[0]
    assert len(set(chances[tied].tolist())) == 1
    assert len(set(corrected[tied].tolist())) == 1
    order = rng.permutation(len(y))
    _, ids = mem.kneighbors(z)
    near = np.ones((1, len(y))), ids[:, order]
    same = mem.aggregate(*near, logits)[0]
    assert len(set(same[tied].tolist())) == 1
    assert np.argmax(same) == tied[0]


@given(ties, st.sampled_from(["sparse:1", "sparse:2"]), st.sampled_from([1.0, 0.3]))
def test_tied_votes_in_a_sparse_store_differ_within_its_error(tie, store, strength):
    y, tied, C, _ = drawn(tie)
    mem, z, logits = rows(y, C, store, sigma=np.inf, strength=strength)
    corrected = mem.correct(z, logits)[0, tied]
    assert np.ptp(corrected) <= 2 * strength * mem.residual_error_ + 1e-15


@given(ties, st.sampled_from([1.0, math.inf]), st.integers(0, 4))
def test_aggregate_of_tied_votes_is_equal_on_every_isa(tie, sigma, padding):
    """The neighbours were found elsewhere; padding behind them changes no bit."""
    y, tied, C, _ = drawn(tie)
    near = np.arange(len(y))[None]
    distances = np.full(near.shape, 0.7)
    residuals = (np.eye(C)[y] - 1 / C).astype(np.float32)
    found = resmem.aggregate(distances, near, residuals, sigma=sigma)
    assert len(set(found[0, tied].tolist())) == 1
    wide = np.append(distances, np.full((1, padding), np.inf), axis=1)
    padded = np.append(near, np.full((1, padding), -1), axis=1)
    for isa in ISAS:
        got = _core.aggregate(
            [_core.DenseRows(residuals)], wide, padded, sigma, C, execution=_core.Execution(isa=isa)
        )
        assert got.tobytes() == found.tobytes()


@given(ties, st.sampled_from([0.5, math.inf]), st.sampled_from(["clip", "project"]))
def test_tied_votes_of_neighbours_alone_predict_the_first(tie, sigma, to):
    """Their votes tie at several distances as well: each class has one row at each."""
    votes, _, seed = tie
    y, tied, C, _ = drawn(tie)
    rng = np.random.default_rng(seed)
    far = np.repeat(np.sort(rng.random(votes)) + 1, len(tied))
    y = np.concatenate([rng.permutation(tied) for _ in range(votes)])
    mem = resmem.Memory(k=len(y), sigma=sigma, probability_map=to)
    mem.fit(np.eye(len(y)) * far[:, None], np.zeros((len(y), C)), y)
    found = mem.evaluate(np.zeros((1, len(y))), np.zeros((1, C)), tied[:1])
    alone = next(m for m in found.methods if m.name == "kNN alone")
    assert alone.scores["accuracy"] == 1


@pytest.mark.parametrize("C", [2, 3, 7, 10, 1000])
@pytest.mark.parametrize("votes", [1, 3, 5, 7])
def test_tie_of_all_classes_predicts_the_first(votes, C):
    """Such a vote says nothing, and the first of all classes is predicted."""
    y = np.random.default_rng(C).permutation(np.repeat(np.arange(min(C, 20)), votes))
    mem, z, logits = rows(y, C, sigma=np.inf)
    assert mem.predict(z, logits).tolist() == [0]
