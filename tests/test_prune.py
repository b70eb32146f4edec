"""Pruning: what goes by its definition, the curve against smaller memories, and what is chosen."""

from __future__ import annotations

import copy
import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import resmem
from resmem._base.execution import DEFAULT
from resmem._evaluation import pruning, removal
from resmem._evaluation.pruning_result import CurvePoint
from resmem._rows.visibility import Visibility
from resmem._scores.intervals import Interval

N, D, C, K, SIGMA, STRENGTH = 50, 3, 3, 6, 0.8, 0.7


def softmax(logits):
    whole = np.exp(logits - logits.max(axis=1, keepdims=True))
    return whole / whole.sum(axis=1, keepdims=True)


def case(seed, task, n=N):
    """Return keys, outputs and targets."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, D)).astype(np.float32)
    if task == "classification":
        return z, rng.normal(size=(n, C)).astype(np.float32), rng.integers(0, C, n)
    return z, rng.normal(size=(n, 2)), rng.normal(size=(n, 2))


def memory(task, method="residual", **options):
    return resmem.Memory(task, k=K, sigma=SIGMA, strength=STRENGTH, method=method, **options)


def losses_without(z, outputs, y, task, method):
    """Return the loss (n,) of each row without itself, and (n, n) without another row too."""
    apart = np.sqrt(np.square(z[:, None].astype(float) - z[None]).sum(axis=2))
    np.fill_diagonal(apart, np.inf)
    near = np.argsort(apart, axis=1, kind="stable")[:, :K]
    distances = np.take_along_axis(apart, near, axis=1)
    weights = np.exp(-(distances - distances[:, :1]) / SIGMA)
    base = softmax(outputs.astype(float)) if task == "classification" else outputs
    true = np.eye(C)[y] if task == "classification" else y
    gives = true[near] - base[:, None] if method == "targets" else (true - base)[near]

    def loss(shares):
        mean = (shares[:, :, None] * gives).sum(axis=1) / shares.sum(axis=1)[:, None]
        answer = base + STRENGTH * mean
        if task == "classification":
            return -np.log(np.clip(answer[np.arange(N), y], 0.02, 1))
        return np.square(answer - y).sum(axis=1)

    less = np.zeros((N, N))
    for j in range(K):
        fewer = weights.copy()
        fewer[:, j] = 0
        less[np.arange(N), near[:, j]] = loss(fewer) - loss(weights)
    return less, near[:, 0]


@pytest.mark.parametrize("method", ["residual", "targets"])
@pytest.mark.parametrize("task", ["classification", "regression"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_worth_is_the_rise_of_losses_without_the_row(task, method, seed):
    z, outputs, y = case(seed, task)
    mem = memory(task, method).fit(z, outputs, y)
    asked = np.flatnonzero(np.random.default_rng(seed).random(N) < 0.7)
    worth, nearest = removal._worth(mem._state.corrector(), Visibility(), asked, DEFAULT)
    less, near = losses_without(z, outputs, y, task, method)
    total, error = less[asked].sum(axis=0), np.sqrt(np.square(less[asked]).sum(axis=0))
    clear = np.abs(total + error) > 1e-5  # which side of one standard error a row is on
    wanted = np.where(total < -error, total, np.abs(total))
    np.testing.assert_allclose(worth[clear], wanted[clear], atol=1e-5)
    assert (worth < 0).any()
    assert nearest[asked].tolist() == near[asked].tolist()
    assert (np.delete(nearest, asked) == -1).all()


def test_rows_worth_least_go_unless_their_nearest_goes():
    places, kept = np.arange(6) * 2, np.ones(6, dtype=bool)
    worth = np.array([0.0, 0.1, 0.2, 5.0, 6.0, -1.0])
    nearest = np.array([2, 0, 8, -1, 0, 6])  # rows 0 and 1 are each other's nearest
    gone = removal._worth_least(worth, nearest, places, kept, 3)
    assert sorted(gone) == [0, 2, 5]  # row 1 stays, which is worth more than row 0
    assert sorted(removal._worth_least(worth, nearest, places, kept, 5)) == [0, 1, 2, 3, 5]
    kept[5] = False
    assert sorted(removal._worth_least(worth, nearest, places, kept, 2)) == [0, 2]


def test_rounds_keep_ever_fewer_of_the_same_rows():
    z, outputs, y = case(0, "classification")
    mem = memory("classification").fit(z, outputs, y).remove([3, 4, 11])
    masks = list(removal.rounds(mem._state.corrector(), Visibility(), np.arange(12, N), 5, DEFAULT))
    counts = [int(kept.sum()) for kept in masks]
    assert counts == [37, 29, 23, 18, 14, 11, 8, 6, 5]
    assert all((later <= kept).all() for kept, later in pairwise(masks))


def twins(n=300, seed=0):
    """Return rows in clusters of 10 near-duplicates, 5 % of them with a wrong label."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, C, n // 10)
    centres = rng.normal(size=(n // 10, D)) * 3
    z = np.repeat(centres, 10, axis=0) + 0.01 * rng.normal(size=(n, D))
    y = np.repeat(kinds, 10)
    wrong = rng.permutation(n)[: n // 20]
    given = y.copy()
    given[wrong] = (y[wrong] + 1) % C
    new = np.repeat(centres, 5, axis=0) + 0.01 * rng.normal(size=(n // 2, D))
    logits = np.zeros((n, C), np.float32)
    return (z, logits, given), (new, logits[: n // 2], np.repeat(kinds, 5)), wrong


def test_near_duplicates_and_harmful_rows_go_without_loss():
    rows, judges, wrong = twins()
    mem = resmem.Memory(k=5).fit(*rows)
    result = mem.prune(*judges)
    assert result.kept_rows <= 150
    assert result.chosen.rise.mean <= 0
    assert result.chosen.over_random.low > 0
    assert np.isin(wrong, result.ids).mean() > 0.9
    assert len(mem) == result.kept_rows
    assert result.applied
    assert not np.isin(result.ids, mem.ids).any()
    with pytest.raises(ValueError, match=r"never have been used before"):
        mem.add(*(part[:1] for part in rows), ids=result.ids[:1])


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_curve_has_the_losses_of_smaller_memories(task):
    rows, judges = case(1, task), case(2, task)
    mem = memory(task, gate="distance: 1.0 to 1.5, 0.5 beyond").fit(*rows)
    result = mem.prune(*judges, keep=0.4, apply=False)
    assert len(mem) == N
    assert not result.applied
    assert result.kept_rows == 20
    smaller = copy.copy(mem).remove(result.ids)

    def losses(memory):
        if task == "classification":
            return -np.log(memory.predict_proba(*judges[:2])[np.arange(N), judges[2]])
        return np.square(memory.correct(*judges[:2]) - judges[2]).sum(axis=1)

    assert result.chosen.loss == pytest.approx(losses(smaller).mean(), rel=1e-12)
    rise = losses(smaller) - losses(mem)
    assert result.chosen.rise.mean == pytest.approx(rise.mean(), rel=1e-9)
    half = 1.96 * rise.std() / np.sqrt(N)
    assert result.chosen.rise.high - rise.mean() == pytest.approx(half, rel=0.2)
    whole = result.curve[0]
    assert whole.rows == N
    assert whole.loss == pytest.approx(whole.random_loss)
    assert tuple(whole.rise[:3]) == (0, 0, 0)
    smaller.strength = 0.0
    assert result.base_loss == pytest.approx(losses(smaller).mean(), rel=1e-12)
    below = result.chosen.random_loss - result.chosen.loss
    assert result.chosen.over_random.mean == pytest.approx(below)


def test_without_validation_rows_a_quarter_of_the_rows_judges():
    rows, _, _ = twins()
    # Judges with wrong labels make the loss of any sure answer huge, so this one is not sure.
    mem = resmem.Memory(k=5, strength=0.7, method="targets")
    mem.fit(*rows, groups=np.arange(300) // 10, times=np.arange(300))
    result = mem.prune(apply=False)
    assert (result.judged_by, result.judged_rows) == ("rows of the memory", 75)
    assert result.curve[-1].rows == 15
    assert result.curve[-1].over_random.mean > 0
    again = mem.prune(apply=False, threads=1)
    assert again.to_dict() == result.to_dict()
    assert mem.prune(apply=False, seed=1).ids.tolist() != result.ids.tolist()
    for hidden in ({"exclude_groups": "own"}, {"before": "own"}):  # no twin confirms a row
        other = mem.prune(apply=False, **hidden)
        assert other.curve[0].loss > result.curve[0].loss


def test_validation_rows_see_only_what_they_may():
    rows, judges, _ = twins()
    groups = np.arange(300) // 10
    mem = resmem.Memory(k=5).fit(*rows, groups=groups)
    result = mem.prune(*judges, keep=0.5, exclude_groups=np.arange(150) // 5, apply=False)
    chances = mem.predict_proba(*judges[:2], exclude_groups=np.arange(150) // 5)
    loss = -np.log(chances[np.arange(150), judges[2]]).mean()
    assert result.curve[0].loss == pytest.approx(loss)


def test_the_head_store_is_pruned_like_a_dense_one():
    rng = np.random.default_rng(1)
    z, y = rng.normal(size=(N, D)).astype(np.float32), rng.integers(0, C, N)
    head = rng.normal(size=(C, D)).astype(np.float32), np.zeros(C, np.float32)
    dense = memory("classification").fit(z, z @ head[0].T, y).prune(keep=0.5)
    mem = memory("classification", store="head", head=head).fit(z, None, y)
    assert mem.prune(keep=0.5).ids.tolist() == dense.ids.tolist()


def test_keeping_all_rows_removes_none():
    mem = memory("regression").fit(*case(0, "regression"))
    result = mem.prune(keep=1.0)
    assert (result.kept_rows, len(result.ids), len(mem)) == (N, 0, N)
    assert len(result.curve) == 1


def test_rows_of_the_memory_as_judges_are_warned_of():
    rows, _, _ = twins()
    mem = resmem.Memory(k=5).fit(*rows)
    with pytest.warns(resmem.ResmemWarning, match=r"^prune: .* lie on rows of the memory"):
        mem.prune(*rows, apply=False)


@pytest.mark.parametrize(
    ("rises", "chosen", "reason"),
    [
        ([0, -0.1, 0.01, 0.3], 2, "the loss of 70 rows, +0.3, is clear"),
        ([0, 0.06, 0.05, 0.15], 2, "the loss of 70 rows, +0.15, is more than 10% of the gain"),
        ([0, 0.12, 0.15, 0.18], 0, "every smaller memory that was tried loses"),
        ([0, 0.3, 0.0, 0.0], 0, "every smaller memory that was tried loses"),
        ([0, 0.12, 0.0, 0.1], 3, "no smaller memory was tried, and this one has no clear loss"),
    ],
)
def test_the_smallest_memory_before_a_clear_loss_is_chosen(rises, chosen, reason):
    nothing = Interval(0, 0, 0, 0.95)
    curve = tuple(
        CurvePoint(100 - 10 * i, 1 + rise, Interval(rise, rise - 0.2, rise + 0.2, 0.95), 1, nothing)
        for i, rise in enumerate(rises)
    )
    assert pruning._smallest_without_loss(curve, 2.0) == (chosen, reason)


def test_without_a_gain_no_rise_is_allowed():
    nothing = Interval(0, 0, 0, 0.95)
    curve = tuple(
        CurvePoint(9 - i, 1, Interval(rise, -1, 1, 0.95), 1, nothing)
        for i, rise in enumerate([0, -0.1, 0.01])
    )
    assert pruning._smallest_without_loss(curve, 0.5)[0] == 1


def test_a_pruning_is_a_table_of_text_json_and_pandas():
    rows, judges, _ = twins()
    result = resmem.Memory(k=5).fit(*rows).prune(*judges, apply=False)
    text = repr(result).splitlines()
    gone = len(result.ids)
    assert text[0] == f"Pruning: {result.kept_rows} of 300 rows, {gone} would go"
    assert text[1] == result.reason
    assert text[2].startswith("on 150 validation rows; base log-loss 1.099")
    assert sum(line.startswith(f"{result.kept_rows} <") for line in text) == 1
    facts = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert facts["ids"] == result.ids.tolist()
    assert facts["curve"][1]["rise"]["mean"] == result.curve[1].rise.mean
    pytest.importorskip("pandas")
    frame = result.to_pandas()
    assert frame.loc[result.kept_rows, "rise_high"] == result.chosen.rise.high
