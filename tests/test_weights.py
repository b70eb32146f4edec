"""Rows have weights of their own, by which they count as neighbours."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
import resmem
from cases import ISAS, same_bits
from resmem import _core
from resmem._state.state import State

WEIGHTS = st.lists(st.sampled_from([0.25, 1.0, 3.0, 1e-100, 1e100]), min_size=30, max_size=30)


def data(rng, n, task="classification"):
    outputs = rng.standard_normal((n, 4))
    targets = rng.integers(0, 4, n) if task == "classification" else outputs[::-1].copy()
    return rng.standard_normal((n, 3)).astype(np.float32), outputs, targets


@given(seed=st.integers(0, 2**31), weights=WEIGHTS, sigma=st.sampled_from([0.3, np.inf]))
def test_weighted_sums_have_the_bits_of_the_oracle(seed, weights, sigma):
    rng = np.random.default_rng(seed)
    own = np.array(weights)
    distances, positions = np.sort(rng.random((6, 5)), axis=1), rng.integers(0, 30, (6, 5))
    distances[1, 3:], positions[1, 3:] = np.inf, -1
    residuals = rng.standard_normal((30, 4)).astype(np.float32)
    parts = [slice(0, 9), slice(9, 20), slice(20, 30)]
    own[parts[1]] = 1.0
    given_weights = [own[parts[0]], 11, own[parts[2]]]
    wanted = oracle.correction(distances, positions, residuals, sigma, own)
    near, total = oracle.weights(distances, sigma, np.append(own, 1.0)[positions])
    for isa in ISAS:
        execution = _core.Execution(2, isa)
        got = _core.aggregate(
            [_core.DenseRows(residuals[part]) for part in parts], distances, positions, sigma, 4,
            row_weights=given_weights, execution=execution,
        )  # fmt: skip
        same_bits(got, wanted)
        weighed = _core.weights(distances, positions, sigma, given_weights, execution=execution)
        same_bits(weighed[0], near)
        same_bits(weighed[1], total)


MEMORIES = [
    {}, {"store": "sparse:2"}, {"task": "regression"}, {"method": "targets", "strength": 0.5},
    {"gate": "agreement: 0.2 to 0.5, 1.0 beyond"}, {"residual_dtype": "float16"},
]  # fmt: skip


@pytest.mark.parametrize("settings", MEMORIES)
def test_a_weight_counts_like_copies(settings):
    rng = np.random.default_rng(21)
    task = settings.get("task", "classification")
    rows, queries = data(rng, 60, task), data(rng, 20, task)[:2]
    count = rng.integers(0, 4, 60)
    weighted = resmem.Memory(k=60, sigma=0.7, **settings).fit(*rows, sample_weight=count)
    copies = resmem.Memory(k=180, sigma=0.7, **settings)
    copies.fit(*(np.repeat(part, count, axis=0) for part in rows))
    one, other = weighted.correct(*queries), copies.correct(*queries)
    # Both sums round at most 180 terms, of which none is larger than 4, and divide once.
    assert np.abs(one - other).max() <= 4 * 400 * 2.0**-53 * 8
    plain = resmem.Memory(k=60, sigma=0.7, **settings).fit(*rows)
    assert np.abs(one - plain.correct(*queries)).max() > 1e-3


@pytest.mark.parametrize("settings", [*MEMORIES, {"sigma": "auto"}, {"key_dtype": "float16"}])
def test_a_weight_of_0_is_absence_to_the_bit(settings):
    rng = np.random.default_rng(22)
    task = settings.get("task", "classification")
    rows, queries = data(rng, 60, task), data(rng, 20, task)[:2]
    there = rng.random(60) < 0.6
    settings = {"k": 9, "sigma": 0.7, **settings}
    mem = resmem.Memory(**settings).fit(*rows, sample_weight=there.astype(int))
    # The others keep the ids that they have among all rows.
    subset = resmem.Memory(**settings)
    subset.fit(*(part[there] for part in rows), ids=np.flatnonzero(there))
    assert len(mem) == there.sum()
    assert mem.sigma_ == subset.sigma_
    same_bits(mem.correct(*queries), subset.correct(*queries))
    same_bits(mem.novelty(queries[0]), subset.novelty(queries[0]))
    for one, other in zip(mem.kneighbors(queries[0]), subset.kneighbors(queries[0]), strict=True):
        same_bits(one, other)
    with pytest.raises(ValueError, match="is not"):
        mem.remove([int(np.flatnonzero(~there)[0])])


def test_weights_of_1_change_no_bit():
    rng = np.random.default_rng(23)
    rows, queries = data(rng, 60), data(rng, 20)[:2]
    one = resmem.Memory(k=9).fit(*rows, sample_weight=np.ones(60))
    same_bits(one.predict_proba(*queries), resmem.Memory(k=9).fit(*rows).predict_proba(*queries))


@pytest.mark.filterwarnings("ignore:tune:UserWarning")
@pytest.mark.filterwarnings("ignore:evaluate:resmem.ResmemWarning")
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_tuning_scores_what_weighted_memories_predict(task):
    rng = np.random.default_rng(24)
    rows, fresh = data(rng, 80, task), data(rng, 50, task)
    mem = resmem.Memory(task).fit(*rows, sample_weight=rng.integers(0, 5, 80))
    grid = {"k": [3, 20], "sigma": [0.3, 2.0], "temperature": None, "strength": [0.0, 0.5, 1.0]}
    if task == "classification":
        grid["probability_map"] = ["clip", "keep"]
    result = mem.tune(*fresh, **grid, apply=False)
    for row in result.table[:: max(1, len(result.table) // 12)]:
        names = ("k", "sigma", "temperature", "strength", "probability_map", "method")
        chosen = resmem.Settings(**{name: row[name].item() for name in names})
        score = mem.use(chosen).evaluate(*fresh).methods[-1].scores[result.score]
        assert score == pytest.approx(row["score"], rel=1e-12)


def test_explained_weights_have_the_rows_own_in_them():
    rng = np.random.default_rng(25)
    rows, queries = data(rng, 40), data(rng, 6)[:2]
    own = rng.random(40) + 0.5
    mem = resmem.Memory(k=5, sigma=0.7).fit(*rows, sample_weight=own)
    explained = mem.explain(*queries)
    e, total = oracle.weights(explained.distances, 0.7, own[explained.ids])
    same_bits(explained.weights, e / total[:, None])


def test_interval_widths_follow_the_rows_weights():
    rng = np.random.default_rng(26)
    rows, fresh = data(rng, 60, "regression"), data(rng, 30, "regression")
    own = rng.choice([0.01, 100.0], 60)
    mem = resmem.Memory("regression", k=9, sigma=0.7).fit(*rows, sample_weight=own)
    plain = resmem.Memory("regression", k=9, sigma=0.7).fit(*rows)
    widths = [
        np.subtract(*m.predict_interval(*fresh[:2], m.calibrate(*fresh))) for m in (mem, plain)
    ]
    assert np.abs(widths[0] - widths[1]).max() > 1e-3


def test_rows_that_are_added_may_have_weights(tmp_path):
    rng = np.random.default_rng(27)
    first, later, queries = data(rng, 30), data(rng, 20), data(rng, 9)[:2]
    own = rng.integers(0, 3, 20)
    mem = resmem.Memory(k=9, sigma=0.7).fit(*first).add(*later, sample_weight=own)
    mem.add(*first)
    together = resmem.Memory(k=9, sigma=0.7).fit(
        *(np.concatenate(parts) for parts in zip(first, later, first, strict=True)),
        sample_weight=np.concatenate([np.ones(30), own, np.ones(30)]),
    )
    same_bits(mem.correct(*queries), together.correct(*queries))
    mem.save(tmp_path / "m")
    mem.add(*later, sample_weight=own).save(tmp_path / "m", append=True)
    same_bits(resmem.Memory.load(tmp_path / "m").correct(*queries), mem.correct(*queries))


def test_an_interrupted_add_leaves_no_row_removed(monkeypatch):
    rng = np.random.default_rng(28)
    first, later, queries = data(rng, 30), data(rng, 20), data(rng, 9)[:2]
    mem = resmem.Memory(k=9, sigma=0.7).fit(*first).add(*later)  # rows go behind these from here on
    wanted = resmem.Memory(k=9, sigma=0.7).fit(*first).add(*later).add(*later)

    def interrupted(self, made):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(State, "_publish_rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            mem.add(*later, sample_weight=np.zeros(20))
    mem.add(*later)
    assert len(mem) == 70
    same_bits(mem.correct(*queries), wanted.correct(*queries))


def test_a_memory_without_weights_adds_up_no_weights():
    rng = np.random.default_rng(29)
    mem = resmem.Memory(k=9).fit(*data(rng, 30), sample_weight=None)
    assert mem._state.view.fitted_rows.weights_for_core() is None


# ---- Decay ---------------------------------------------------------------------------------------

TIMES = {
    "integers": lambda rng: rng.integers(-(2**62), 2**62, 60),
    "small": lambda rng: rng.integers(0, 9, 60),
    "floats": lambda rng: np.append(rng.normal(0, 3, 58), [-np.inf, 8.0]),
    "datetimes": lambda rng: rng.integers(0, 10**18, 60).view("datetime64[ns]"),
}
HALVES = {"integers": 1e18, "small": 2, "floats": 0.5, "datetimes": np.timedelta64(900, "D")}


@pytest.mark.parametrize("kind", TIMES)
@pytest.mark.parametrize("settings", MEMORIES)
def test_decayed_weights_have_the_bits_of_the_oracle(settings, kind):
    rng = np.random.default_rng(31)
    task = settings.get("task", "classification")
    rows, queries = data(rng, 60, task), data(rng, 20, task)[:2]
    times, own, half = TIMES[kind](rng), rng.choice([0.5, 1.0, 2.0], 60), HALVES[kind]
    numbers, units = times, half
    if kind == "datetimes":
        numbers, units = times.view(np.int64), 900 * 86_400 * 10**9
    weights = own * oracle.decay(numbers, units)
    settings = {"k": 9, "sigma": 0.7, **settings}
    mem = resmem.Memory(**settings, half_life=half)
    mem.fit(*(part[:40] for part in rows), times=times[:40], sample_weight=own[:40])
    mem.add(*(part[40:] for part in rows), times=times[40:], sample_weight=own[40:])
    wanted = resmem.Memory(**settings).fit(*rows, sample_weight=weights)
    same_bits(mem.correct(*queries), wanted.correct(*queries))
    same_bits(mem.get(mem.ids).attributes["weights"], own)  # as they were given
    mem.half_life = None
    plain = resmem.Memory(**settings).fit(*rows, sample_weight=own)
    same_bits(mem.correct(*queries), plain.correct(*queries))


@pytest.mark.filterwarnings("ignore:tune:UserWarning")
@pytest.mark.filterwarnings("ignore:evaluate:resmem.ResmemWarning")
def test_decay_counts_wherever_weights_do():
    rng = np.random.default_rng(32)
    rows, queries = data(rng, 90), data(rng, 50)
    times = rng.integers(0, 20, 90)
    weights = oracle.decay(times, 3.0)
    mem = resmem.Memory(k=9, sigma=0.7, half_life=3).fit(*rows, times=times)
    twin = resmem.Memory(k=9, sigma=0.7).fit(*rows, times=times, sample_weight=weights)
    asked = {"k": [3, 9], "sigma": [0.5, 1.0], "strength": [0.5, 1.0], "temperature": 1.0}
    for call in (
        lambda m: {**m.tune(*queries, **asked, apply=False).to_dict(), "seconds": None},
        lambda m: m.evaluate(*queries).to_dict()["methods"],
        lambda m: m.evaluate(loo=True).to_dict()["methods"],
        lambda m: m.explain(*queries[:2]).weights.tolist(),
        lambda m: m.calibrate(*queries).scores.tolist(),
        lambda m: m.correct(*queries[:2], before=np.full(50, 9)).tolist(),
    ):
        assert call(mem) == call(twin)


def test_ages_count_from_the_newest_row_not_removed(tmp_path):
    rng = np.random.default_rng(33)
    rows, queries = data(rng, 40), data(rng, 10)[:2]
    times = np.arange(40)
    mem = resmem.Memory(k=9, sigma=0.7, half_life=3).fit(*rows, times=times)
    before = mem._state.view
    mem.correct(*queries)
    mem.remove(np.arange(30, 40))
    twin = resmem.Memory(k=9, sigma=0.7)
    twin.fit(*(part[:30] for part in rows), sample_weight=oracle.decay(times[:30], 3.0))
    wanted = twin.correct(*queries)
    same_bits(mem.correct(*queries), wanted)
    same_bits(
        resmem.Memory.load(mem.save(tmp_path / "m")._state.view.file.path).correct(*queries), wanted
    )
    same_bits(copy.copy(mem).correct(*queries), wanted)
    assert resmem.Memory.load(tmp_path / "m").half_life == 3
    whole = resmem.Memory(k=9, sigma=0.7).fit(*rows, sample_weight=oracle.decay(times, 3.0))
    weighed = before.rows.weights_for_core()[0]
    same_bits(weighed, whole._state.view.rows.weights_for_core()[0])


def test_weights_of_ancient_rows_stay_above_0():
    rng = np.random.default_rng(34)
    rows, queries = data(rng, 40), data(rng, 10)[:2]
    times = np.append(np.arange(39), 10**15)
    mem = resmem.Memory(k=9, half_life=0.001).fit(
        *rows, times=times, sample_weight=np.full(40, 1e-100)
    )
    found = mem.explain(*queries, before=np.full(10, 39))
    same_bits(found.weights.sum(axis=1).round(12), np.ones(10))
    assert np.isfinite(mem.correct(*queries)).all()
