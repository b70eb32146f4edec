"""Memories that compare by other metrics than the Euclidean one."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
import resmem
from cases import METRICS, same_bits
from resmem._files import container

D, C = 5, 3
OTHERS = [metric for metric in METRICS if metric != "euclidean"]


def examples(rng, n, d=D):
    """Draw embeddings whose lengths differ, logits and classes."""
    keys = rng.standard_normal((n, d)) * rng.choice([0.5, 1.0, 3.0], (n, 1))
    return keys.astype(np.float32), rng.standard_normal((n, C)), rng.integers(0, C, n)


def fitted(metric, n=60, seed=0, **options):
    return resmem.Memory(**{"k": 7, "metric": metric, **options}).fit(
        *examples(np.random.default_rng(seed), n)
    )


@settings(max_examples=settings().max_examples // 2)
@given(
    seed=st.integers(0, 2**31),
    metric=st.sampled_from(METRICS),
    store=st.sampled_from(["dense", "sparse:1", "head"]),
    key_dtype=st.sampled_from(["float32", "float64", "bfloat16"]),
    method=st.sampled_from(["residual", "targets"]),
    gated=st.booleans(),
    n=st.sampled_from([1, 7, 40]),
    k=st.sampled_from([1, 6, 50]),
)
def test_every_metric_gives_the_oracles_bits(seed, metric, store, key_dtype, method, gated, n, k):
    rng = np.random.default_rng(seed)
    key_dtype = "float32" if store == "head" else key_dtype
    head = rng.standard_normal((C, D)).astype(np.float32), np.zeros(C, np.float32)
    options = {
        "k": k, "strength": 0.7, "store": store, "head": head if store == "head" else None,
        "key_dtype": key_dtype, "method": method, "metric": metric,
    }  # fmt: skip
    edge = -0.5 if metric == "inner_product" else 0.5
    mine = resmem.Memory(
        **options, gate=f"distance: 1.0 to {edge}, 0.5 beyond" if gated else "none"
    )
    steps = (("distance", (edge,), (1.0, 0.5)),) if gated else ()
    theirs = oracle.OracleMemory(**options, gate=steps)
    first, more = examples(rng, n), examples(rng, 9)
    if key_dtype == "float64":
        first, more = ((part[0] * (1 + 1e-12), *part[1:]) for part in (first, more))
    for memory in (mine, theirs):
        for step, (keys, outputs, targets) in ((memory.fit, first), (memory.add, more)):
            step(keys, None if store == "head" else outputs, targets)
        memory.remove(np.arange(n // 3))
    assert mine.sigma_ == theirs.sigma_
    queries, outputs, _ = examples(rng, 6)
    queries[0] = 0  # which is at a cosine distance of 1 from every row
    for got, wanted in zip(mine.kneighbors(queries), theirs.kneighbors(queries), strict=True):
        same_bits(got, wanted)
    same_bits(mine.correction(queries), theirs.correction(queries))
    for name in ("correct", "predict", "predict_proba"):
        same_bits(getattr(mine, name)(queries, outputs), getattr(theirs, name)(queries, outputs))


@pytest.mark.parametrize("metric", METRICS)
def test_neighbours_are_those_of_search(metric):
    keys, outputs, targets = examples(np.random.default_rng(1), 500)
    memory = resmem.Memory(metric=metric).fit(keys, outputs, targets)
    queries = examples(np.random.default_rng(2), 20)[0]
    for k in (3, 600):  # of which 100 are padding
        found = memory.kneighbors(queries, k)
        for got, wanted in zip(found, resmem.search(queries, keys, k, metric), strict=True):
            same_bits(got, wanted)


@pytest.mark.parametrize("metric", METRICS)
def test_whom_a_query_may_ask_holds_for_every_metric(metric):
    rng = np.random.default_rng(3)
    keys, outputs, targets = examples(rng, 200)
    times, groups = rng.permutation(200), rng.integers(0, 9, 200)
    memory = resmem.Memory(metric=metric, k=5, sigma=0.7)
    memory.fit(keys, outputs, targets, times=times, groups=groups)
    queries, asked, _ = examples(rng, 8)
    among = np.flatnonzero(rng.random(200) < 0.6)
    seen = among[(times[among] < 120) & (groups[among] != 4)]
    few = resmem.Memory(metric=metric, k=5, sigma=0.7)
    few.fit(keys[seen], outputs[seen], targets[seen], ids=seen)
    limits = {"among": among, "before": np.full(8, 120), "exclude_groups": np.full(8, 4)}
    for got, wanted in zip(
        memory.kneighbors(queries, **limits), few.kneighbors(queries), strict=True
    ):
        same_bits(got, wanted)
    same_bits(memory.correct(queries, asked, **limits), few.correct(queries, asked))


@pytest.mark.parametrize("metric", METRICS)
def test_aggregate_takes_the_metric_of_the_memory(metric):
    memory = fitted(metric)
    queries, outputs, _ = examples(np.random.default_rng(4), 9)
    near = memory.kneighbors(queries)
    wanted = memory.correct(queries, outputs)
    same_bits(memory.aggregate(*near, outputs), wanted)
    same_bits(memory.aggregate(*near, outputs, metric=metric), wanted)


def test_euclidean_distances_and_squares_become_each_other():
    queries, outputs, _ = examples(np.random.default_rng(5), 9)
    for metric, other in (("euclidean", "sqeuclidean"), ("sqeuclidean", "euclidean")):
        memory = fitted(metric)
        distances, ids = memory.kneighbors(queries)
        turned = np.square(distances) if metric == "euclidean" else np.sqrt(distances)
        got = memory.aggregate(turned, ids, outputs, metric=other)
        np.testing.assert_allclose(got, memory.correct(queries, outputs), rtol=1e-12)


def test_squared_is_for_euclidean_distances():
    queries = examples(np.random.default_rng(6), 4)[0]
    squares = fitted("euclidean").kneighbors(queries, squared=True)
    for got, wanted in zip(fitted("sqeuclidean").kneighbors(queries), squares, strict=True):
        same_bits(got, wanted)
    same_bits(fitted("sqeuclidean").kneighbors(queries, squared=True)[0], squares[0])
    with pytest.raises(ValueError, match=r"this memory has metric='cosine', .* leave squared out"):
        fitted("cosine").kneighbors(queries, squared=True)


@pytest.mark.parametrize("metric", OTHERS)
@pytest.mark.parametrize("suffix", ["resmem", "npz", "safetensors"])
def test_metric_survives_files_and_copies(metric, suffix, tmp_path):
    memory = fitted(metric)
    queries, outputs, _ = examples(np.random.default_rng(7), 9)
    path = tmp_path / f"m.{suffix}"
    memory.save(path) if suffix == "resmem" else memory.export(path)
    wanted = memory.correct(queries, outputs)
    for other in (
        resmem.Memory.load(path), copy.copy(memory), copy.deepcopy(memory),
        pickle.loads(pickle.dumps(memory)),
    ):  # fmt: skip
        assert other.metric == metric == other.info()["metric"]
        assert f"metric={metric!r}" in repr(other)
        same_bits(other.correct(queries, outputs), wanted)
        other.add(*examples(np.random.default_rng(8), 3))
        more = resmem.Memory(k=7, metric=metric).fit(*examples(np.random.default_rng(0), 60))
        more.add(*examples(np.random.default_rng(8), 3))
        same_bits(other.kneighbors(queries)[0], more.kneighbors(queries)[0])


def test_files_with_another_metric_refuse_readers_that_know_none(tmp_path):
    for metric in METRICS:
        path = tmp_path / f"{metric}.resmem"
        fitted(metric).save(path)
        assert ("needs/metric" in container.load(path).required) == (metric != "euclidean")
        resmem.Index(np.eye(3), metric=metric).save(path)  # of which all versions know the metric
        assert not container.load(path).required & {"needs/metric"}
        fitted(metric).export(tmp_path / "m.npz")
        with np.load(tmp_path / "m.npz") as arrays:  # earlier versions need an array "resmem"
            assert ("resmem" in arrays) == (metric == "euclidean")


def test_memories_of_two_metrics_are_not_merged():
    with pytest.raises(ValueError, match=r"one metric to be merged, got 'cosine' and 'euclidean'"):
        fitted("cosine").merge(fitted("euclidean"))


@pytest.mark.parametrize("metric", METRICS)
def test_parts_merge_to_the_bits_of_the_whole(metric):
    rows = examples(np.random.default_rng(9), 50)
    first, second = ([part[at] for part in rows] for at in (slice(20), slice(20, None)))
    whole = resmem.Memory(metric=metric, sigma=0.3, k=4).fit(*rows)
    parts = resmem.Memory(metric=metric, sigma=0.3, k=4).fit(*first)
    parts.merge(resmem.Memory(metric=metric, sigma=0.3, k=4).fit(*second, ids=np.arange(20, 50)))
    queries, outputs, _ = examples(np.random.default_rng(10), 9)
    same_bits(parts.correct(queries, outputs), whole.correct(queries, outputs))


@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
def test_rows_too_near_for_float32_are_compared_in_float64(metric):
    rng = np.random.default_rng(11)
    near = 1.0 + 1e-12 * rng.standard_normal((40, 3))
    outputs, targets = np.zeros((40, 2)), rng.integers(0, 2, 40)
    memory = resmem.Memory(k=4, metric=metric).fit(near, outputs, targets)
    assert memory.key_dtype == "float64"
    memory.add(near + 0.5, outputs, targets)
    wanted = resmem.search(near, np.concatenate([near, near + 0.5]), 5, metric)
    for got, right in zip(memory.kneighbors(near, 5), wanted, strict=True):
        same_bits(got, right)


@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
def test_rounding_is_judged_beside_the_lengths_of_rows(metric):
    rng = np.random.default_rng(19)
    spread = rng.standard_normal((60, 3)) * 1e9  # float32 tells the directions of these apart
    outputs, targets = np.zeros((60, 2)), rng.integers(0, 2, 60)
    memory = resmem.Memory(k=4, metric=metric).fit(spread, outputs, targets)
    assert memory.key_dtype == "float32"
    memory.correct(spread[:3] * 1.1, outputs[:3])
    memory.add(spread[:9] * 1.1, outputs[:9], targets[:9])
    close = 1e3 * spread[0] * (1 + 1e-13 * rng.standard_normal((40, 3)))
    with pytest.raises(
        ValueError, match=r"rounded to float32 .* fit all rows again, with key_dtyp"
    ):
        memory.add(close, np.zeros((40, 2)), rng.integers(0, 2, 40))


def test_scaled_float64_keys_are_not_made_anew():
    rng = np.random.default_rng(12)
    memory = resmem.Memory(k=4, metric="cosine", key_dtype="float64").fit(*examples(rng, 40))
    wanted = memory.correction(examples(rng, 3)[0])
    with pytest.raises(ValueError, match=r"with metric='cosine', .* fit again, with key_dtype='f"):
        memory.use(resmem.Settings(4, 1.0, 1.0, 1.0, preprocess="center"))
    rng = np.random.default_rng(12)
    again = resmem.Memory(k=4, metric="cosine", key_dtype="float32").fit(*examples(rng, 40))
    assert memory.preprocess == "none"
    np.testing.assert_allclose(again.correction(examples(rng, 3)[0]), wanted, rtol=1e-4, atol=1e-6)
    again.use(resmem.Settings(4, 1.0, 1.0, 1.0, preprocess="center"))
    assert again.preprocess == "center"


# ---------------------------------------------------------------------- what is done with a memory


def separable(rng, n, metric):
    """Draw rows whose class, of which the logits know nothing, the metric's neighbours tell."""
    classes = rng.integers(0, C, n)
    keys = np.eye(C)[classes] * 3 + 0.6 * rng.standard_normal((n, C))
    if metric == "cosine":
        keys *= rng.choice([0.01, 1.0, 100.0], (n, 1))
    return keys.astype(np.float32), np.zeros((n, C)), classes


@pytest.mark.parametrize("metric", METRICS)
def test_tuning_and_evaluation_take_every_metric(metric):
    rng = np.random.default_rng(13)
    memory = resmem.Memory(metric=metric).fit(*separable(rng, 400, metric))
    result = memory.tune(*separable(rng, 300, metric))
    assert result.best.strength > 0
    assert memory.metric == metric
    assert memory.gate != "none"
    test = separable(rng, 200, metric)
    evaluation = memory.evaluate(*test)
    scores = {method.name: method.scores["accuracy"] for method in evaluation.methods}
    assert scores["base"] < 0.5
    assert max(scores.values()) > 0.9
    own = memory.evaluate(loo=True).methods
    assert own[0].scores["accuracy"] < 0.5
    assert own[-1].scores["accuracy"] > 0.9
    far = memory.novelty(test[0] * (-1 if metric != "sqeuclidean" else 50))
    assert np.median(far) < 0.2 < np.median(memory.novelty(test[0]))
    calibration = memory.calibrate(*separable(rng, 200, metric))
    assert memory.predict_set(test[0], test[1], calibration)[np.arange(200), test[2]].mean() > 0.8


@pytest.mark.parametrize("metric", METRICS)
def test_explanations_tell_the_values_of_the_metric(metric):
    memory = fitted(metric)
    queries, outputs, _ = examples(np.random.default_rng(14), 4)
    found = memory.explain(queries, outputs)
    distances, ids = memory.kneighbors(queries)
    same_bits(found.distances, distances)
    same_bits(found.ids, ids)
    assert found[0].metric == metric == found[1:].metric
    np.testing.assert_allclose(found.corrected, found.base + found.correction)
    assert ("product" in repr(found[0])) == (metric == "inner_product")


@pytest.mark.parametrize("metric", METRICS)
def test_audit_finds_rows_with_one_key_and_two_targets(metric):
    keys, outputs, targets = examples(np.random.default_rng(15), 80)
    keys[70:] = keys[:10]
    targets[70:] = (targets[:10] + 1) % C
    keys[60:70] = keys[20:30] * np.float32(1.5)  # in the same direction, but another row
    targets[60:70] = (targets[20:30] + 1) % C
    memory = resmem.Memory(k=79, metric=metric).fit(keys, outputs, targets)
    table = memory.audit().table
    found = set(table["ids"][table["duplicates"] > 0].tolist())
    assert found == {*range(10), *range(70, 80)}


@pytest.mark.parametrize("metric", METRICS)
def test_pruning_keeps_what_the_metric_needs(metric):
    rng = np.random.default_rng(16)
    memory = resmem.Memory(metric=metric, k=5).fit(*separable(rng, 300, metric))
    result = memory.prune(*separable(rng, 300, metric), keep=0.3)
    assert len(memory) == 90 == result.kept_rows
    test = separable(rng, 200, metric)
    assert (memory.predict(test[0], test[1]) == test[2]).mean() > 0.9


def of_other_lengths(rng, n):
    """Draw rows of which many are not their own nearest row by inner product."""
    keys, outputs, targets = examples(rng, n, 8)
    return keys * rng.lognormal(0, 1.5, (n, 1)).astype(np.float32), outputs, targets


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("call", ["evaluate", "calibrate", "tune", "prune"])
def test_rows_of_the_memory_prove_nothing_by_any_metric(metric, call):
    rows = of_other_lengths(np.random.default_rng(20), 500)
    memory = resmem.Memory(metric=metric).fit(*rows)
    own = [part[:200] for part in rows]
    with pytest.warns(resmem.ResmemWarning, match="100% of the .* rows lie on rows of the memory"):
        getattr(memory, call)(*own)
    named = {"exclude_ids": np.arange(200)}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        getattr(memory, call)(*own, **named)
    assert not any("lie on rows" in str(each.message) for each in told)


@pytest.mark.filterwarnings("ignore:tune")
@pytest.mark.parametrize("metric", METRICS)
def test_keys_of_the_memory_are_no_copies_of_each_other(metric):
    rng = np.random.default_rng(21)
    keys = of_other_lengths(rng, 30)[0]
    keys[0] = 0

    def drawn(n):
        picked = rng.integers(0, 30, n)
        return keys[picked], rng.standard_normal((n, C)), rng.integers(0, C, n)

    result = resmem.Memory(metric=metric).fit(*drawn(400)).tune(*drawn(300))
    assert not any("judged as" in note for note in result.notes)


@pytest.mark.filterwarnings("ignore:tune")
@pytest.mark.parametrize("metric", METRICS)
def test_copies_among_validation_rows_stay_together(metric):
    rng = np.random.default_rng(17)
    memory = resmem.Memory(metric=metric).fit(*separable(rng, 200, metric))
    few = separable(rng, 40, metric)
    copies = [np.repeat(part, 6, axis=0) for part in few]
    result = memory.tune(*copies)
    assert "the 240 validation rows are judged as 40 groups" in result.notes[0]


@pytest.mark.parametrize("metric", METRICS)
def test_prepared_memories_keep_their_bits(metric):
    rng = np.random.default_rng(18)
    rows = examples(rng, 9000, 24)
    memory = resmem.Memory(metric=metric, k=6, auto_prepare=False).fit(*rows)
    queries, outputs, _ = examples(rng, 64, 24)
    wanted = memory.correct(queries, outputs)
    memory.prepare()
    decision = memory._state.view.rows.segments[0].planner.decision
    assert decision is not None
    assert decision.index is None or decision.index.serves_metric(metric)
    same_bits(memory.correct(queries, outputs), wanted)


def test_reports_name_products_as_products(tmp_path):
    rng = np.random.default_rng(22)
    memory = resmem.Memory(metric="inner_product").fit(*separable(rng, 300, "inner_product"))
    test = separable(rng, 120, "inner_product")
    evaluation = memory.evaluate(*test)
    resmem.report(tmp_path / "r.html", None, evaluation, memory.explain(*test[:2]))
    page = (tmp_path / "r.html").read_text()
    assert ">minus the product<" in page
    assert ">product<" in page
    assert ">distance<" not in page
