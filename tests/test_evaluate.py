"""Evaluation against the same numbers from the memory's own predictions, row by row."""

from __future__ import annotations

import copy
import datetime
import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import oracle
import resmem
from resmem._scores.intervals import paired_interval
from resmem._scores.metrics import gains_of, reliability, score_named

D, C = 3, 4
HEAD = tuple(np.random.default_rng(0).standard_normal((C, w), dtype=np.float32) for w in (D, 1))
CASES = {
    "dense": {},
    "weak": {"strength": 0.5, "temperature": 2.0},
    "off": {"strength": 0.0},
    "projected": {"strength": 0.7, "probability_map": "project:0.001"},
    "sparse": {"store": "sparse:1", "temperature": 0.5, "k": 90},
    "head": {"store": "head", "head": (HEAD[0], HEAD[1][:, 0]), "temperature": 3.0},
    "kept": {"probability_map": "keep:0.4", "temperature": 2.0, "strength": 1.5},
    "probabilities": {"output_kind": "probabilities", "key_dtype": "float16"},
    "values": {"task": "regression", "strength": 0.5},
    "flat": {"task": "regression"},
    "targets": {"method": "targets", "strength": 0.4, "temperature": 2.0},
    "targets of values": {"task": "regression", "method": "targets", "strength": 0.7},
    "gated": {"gate": "distance: 1.0 to 0.6, 0.25 beyond", "probability_map": "keep:0.4"},
}
VALUES = ("values", "flat", "targets of values")
# Marks tests that evaluate a memory on its own rows, which causes a warning.
evaluates_own_rows = pytest.mark.filterwarnings("ignore:evaluate")
SCORES = {
    "classification": ["accuracy", "log_loss", "brier", "calibration_error", "perplexity"],
    "regression": ["rmse", "mae", "r2"],
}


def examples(rng, case, n):
    """Return embeddings, outputs and targets with which a memory often helps."""
    z = rng.standard_normal((n, D), dtype=np.float32)
    logits = oracle.head_logits(z, HEAD[0], HEAD[1][:, 0])
    truth = logits + 2 * np.sin(3 * z[:, [0, 1, 2, 0]]) + rng.gumbel(size=(n, C))
    if case in VALUES:
        return (z, logits[:, 0], truth[:, 0]) if case == "flat" else (z, logits, truth)
    if case == "probabilities":
        logits = oracle.softmax(logits)
    return z, logits.astype(np.float32), truth.argmax(axis=1)


def judged(case, n=80, q=60, knn=None, **options):
    """Return a memory of two segments with removed rows, new rows, and their evaluation."""
    rng = np.random.default_rng(1)
    mem = resmem.Memory(**{"k": 5, **CASES[case]})
    for add, some in ((mem.fit, n), (mem.add, 20)):
        z, outputs, targets = examples(rng, case, some)
        add(z, None if case == "head" else outputs, targets)
    mem.remove(np.arange(0, n, 7))
    z, outputs, targets = examples(rng, case, q)
    excluded = rng.integers(0, n, (q, 2))
    got = mem.evaluate(z, None if case == "head" else outputs, targets, excluded, knn, **options)
    return mem, (z, outputs, targets, excluded), got


def alone(mem, z, targets_of, excluded, k, sigma):
    """Return the weighted mean of the neighbours' targets."""
    distances, ids = mem.kneighbors(z, k=k, exclude_ids=excluded)
    weights, totals = oracle.weights(distances, sigma)
    means = np.zeros((len(z), C if mem.task == "classification" else targets_of.shape[1]))
    for i, j in np.ndindex(ids.shape):
        if ids[i, j] < 0:
            continue
        if mem.task == "classification":
            means[i, targets_of[ids[i, j]]] += weights[i, j]
        else:
            means[i] += weights[i, j] * targets_of[ids[i, j]]
    return means / totals[:, None]


def memories_targets(case):
    rng = np.random.default_rng(1)
    both = np.concatenate([examples(rng, case, 80)[2], examples(rng, case, 20)[2]])
    return both[:, None] if case == "flat" else both


def expected(case, mem, rows, k, sigma):
    """Return the predictions of every method by name, and the classes they choose."""
    z, outputs, _, excluded = rows
    twin = copy.deepcopy(mem)

    def own(strength):
        twin.strength = strength
        return twin.correct(z, outputs, excluded)

    twin.method, twin.gate = "residual", "none"

    base = outputs.astype(np.float64)
    if mem.output_kind == "logits":
        base = oracle.softmax(outputs)
    found = {"base": base}
    if mem.temperature != 1:
        found[f"base, T={mem.temperature:g}"] = own(0)
    found["kNN alone"] = alone(mem, z, memories_targets(case), excluded, k, sigma)
    share, targets = (
        mem.strength if 0 < mem.strength < 1 else 0.25,
        alone(mem, z, memories_targets(case), excluded, mem.k, mem.sigma_),
    )
    mixed = (1 - share) * own(0).reshape(len(z), -1) + share * targets
    found[f"interpolation, lambda {share:g}"] = mixed
    found["ResMem as published"] = own(1)
    plain, targets = mem.probability_map == "clip", mem.method == "targets"
    name = f"ResMem{' by targets' if targets else ''}, strength {mem.strength:g}"
    name += "" if plain else f", {mem.probability_map}"
    name += "" if mem.gate == "none" else ", gated"
    if mem.strength != 1 or not plain:
        found[name] = mem.correct(z, outputs, excluded)
    if mem.task == "regression":
        return {name: values.reshape(len(z), -1) for name, values in found.items()}, {}
    own_base = own(0)
    kind, floor = (
        ("clip", 1e-6)
        if mem._state.view.map.keeps_base
        else (mem._state.view.map.kind, mem._state.view.map.floor)
    )
    nobody = mem.kneighbors(z, k=1, exclude_ids=excluded)[1][:, 0] < 0
    for name, values in found.items():
        if name == "kNN alone":
            found[name] = oracle.simplex(values, floor, kind)
            found[name][nobody] = base[nobody]
        elif name == "ResMem as published":
            found[name] = oracle.simplex(values, base=own_base)
        elif name.startswith("ResMem, "):
            mem._state.view.map.apply(values, own_base, mem.strength)
    return found, {name: values.argmax(axis=1) for name, values in found.items()}


@pytest.mark.parametrize("knn", [None, SimpleNamespace(k=11, sigma=0.3)])
@pytest.mark.parametrize("case", CASES)
def test_every_method_has_the_scores_of_its_predictions(case, knn):
    mem, rows, got = judged(case, knn=knn)
    k, sigma = (mem.k, mem.sigma_) if knn is None else (knn.k, knn.sigma)
    predictions, tops = expected(case, mem, rows, k, sigma)
    targets = rows[2] if mem.task == "classification" else rows[2].reshape(len(rows[2]), -1)
    assert (got.task, got.rows) == (mem.task, 60)
    assert [method.name for method in got.methods] == list(predictions)
    for method in got.methods:
        values = predictions[method.name]
        assert list(method.scores) == SCORES[mem.task]
        for name, score in method.scores.items():
            if name == "perplexity":
                assert score == math.exp(method.scores["log_loss"])
                continue
            whole = score_named(name, mem.task).whole(values, targets)
            assert score == pytest.approx(whole, rel=1e-12, abs=1e-12), (method.name, name)
        losses = loss(values, targets, tops)
        if tops:
            right, before = tops[method.name] == targets, tops["base"] == targets
        else:
            right, before = losses, loss(predictions["base"], targets, tops)
            right, before = right < before, before < right
        assert method.corrected == (right & ~before).sum()
        assert method.harmed == (before & ~right).sum()
        if method.name == "base":
            assert method.gain is None
        else:
            gains = gains_of(losses, loss(predictions["base"], targets, tops))
            assert method.gain == pytest.approx(paired_interval(gains), rel=1e-9)
    last = loss(list(predictions.values())[-1], targets, tops)
    rivals = [name for name in predictions if name.startswith(("base", "kNN", "interp"))]
    rivals[:-2] = reversed(rivals[:-2])  # the base at its own temperature comes first
    if mem.method == "targets":
        rivals.pop()  # the memory is that interpolation
    assert list(got.over) == rivals
    for name, gain in got.over.items():
        gains = gains_of(last, loss(predictions[name], targets, tops))
        assert gain == pytest.approx(paired_interval(gains), rel=1e-9)
    assert {n: m.corrected for n, m in zip(predictions, got.methods, strict=True)}["base"] == 0


def loss(values, targets, tops):
    if tops:
        with np.errstate(divide="ignore"):
            return -np.log(values[np.arange(len(values)), targets])
    return np.square(values - targets).sum(axis=1)


@pytest.mark.parametrize(
    "case", ["weak", "off", "projected", "kept", "sparse", "head", "probabilities", "targets"]
)
def test_classes_confidence_and_examples_add_up(case):
    mem, rows, got = judged(case, bins=7)
    targets = rows[2]
    predictions, tops = expected(case, mem, rows, mem.k, mem.sigma_)
    last = list(predictions)[-1]
    right = {name: top == targets for name, top in tops.items()}
    corrected, harmed = right[last] & ~right["base"], right["base"] & ~right[last]
    assert [part["class"] for part in got.by_class] == sorted(set(targets.tolist()))
    for part in got.by_class:
        inside = targets == part["class"]
        assert part["rows"] == inside.sum()
        assert part["corrected"] == corrected[inside].sum()
        assert part["harmed"] == harmed[inside].sum()
        for name, values in predictions.items():
            score = part[name]
            assert score["accuracy"] == pytest.approx(right[name][inside].mean())
            assert score["log_loss"] == pytest.approx(loss(values, targets, tops)[inside].mean())
    for name, values in predictions.items():
        confidence = values[np.arange(len(values)), tops[name]]
        bins = got.reliability[name]
        columns = [[b[part] for b in bins] for part in ("rows", "confidence", "accuracy")]
        for column, wanted in zip(columns, reliability(confidence, right[name], 7), strict=True):
            np.testing.assert_allclose(column, wanted)
        assert [b["low"] for b in bins] == pytest.approx(np.arange(7) / 7)
        assert [b["high"] for b in bins] == pytest.approx(np.arange(1, 8) / 7)
    true = {name: values[np.arange(len(values)), targets] for name, values in predictions.items()}
    change = np.abs(true[last] - true["base"])
    for kind, mask in (("corrected", corrected), ("harmed", harmed)):
        assert sorted(got.examples[kind]) == np.flatnonzero(mask).tolist()
        assert (np.diff(change[got.examples[kind]]) <= 0).all()
    assert case == "off" or (got.examples["corrected"] and got.examples["harmed"])


@pytest.mark.parametrize("case", ["weak", "values", "flat", "targets", "gated"])
def test_buckets_of_distance_hold_each_row_once(case):
    mem, rows, got = judged(case, buckets=4)
    targets = rows[2].reshape(60, -1) if case in VALUES else rows[2]
    predictions, tops = expected(case, mem, rows, mem.k, mem.sigma_)
    losses = {name: loss(values, targets, tops) for name, values in predictions.items()}
    last = list(predictions)[-1]
    nearest = mem.kneighbors(rows[0], 1, rows[3])[0][:, 0]
    assert [bucket["rows"] for bucket in got.by_distance] == [15] * 4
    ends = [bucket[end] for bucket in got.by_distance for end in ("from", "to")]
    assert ends == sorted(ends)
    assert (ends[0], ends[-1]) == (nearest.min(), nearest.max())
    for bucket in got.by_distance:
        inside = (bucket["from"] <= nearest) & (nearest <= bucket["to"])
        for name in predictions:
            main = losses[name][inside].mean()
            if case in VALUES:
                main = math.sqrt(main / targets.shape[1])
            assert bucket[name] == pytest.approx(main)
        wanted = paired_interval((losses[next(iter(got.over))] - losses[last])[inside])
        assert (bucket["gain"], bucket["low"], bucket["high"]) == pytest.approx(wanted[:3])


def test_examples_of_values_are_those_whose_errors_changed_most():
    mem, rows, got = judged("values", q=200)
    predictions, _ = expected("values", mem, rows, mem.k, mem.sigma_)
    base, last = predictions["base"], list(predictions.values())[-1]
    gains = (np.square(base - rows[2]) - np.square(last - rows[2])).sum(axis=1)
    assert got.by_class is got.reliability is None
    order = np.argsort(-np.abs(gains)).tolist()
    assert got.examples["corrected"] == [row for row in order if gains[row] > 0][:50]
    assert got.examples["harmed"] == [row for row in order if gains[row] < 0][:50]
    assert len(got.examples["corrected"]) == 50 < got.methods[-1].corrected
    assert got.methods[-1].corrected + got.methods[-1].harmed == 200


@evaluates_own_rows
def test_equal_distances_share_a_bucket():
    rows = np.repeat([[0.0], [1.0]], [9, 1], axis=0)
    mem = resmem.Memory("regression", k=1).fit([[0.0]], [0.0], [1.0])
    distances = mem.evaluate(rows, np.zeros(10), np.ones(10)).by_distance
    assert [(b["from"], b["to"], b["rows"]) for b in distances] == [(0, 0, 9), (1, 1, 1)]
    assert distances[1]["low"] == -math.inf  # one row has no spread
    (only,) = mem.evaluate(rows[:9], np.zeros(9), np.ones(9)).by_distance
    assert only["rows"] == 9


@pytest.mark.parametrize("case", CASES)
def test_rows_without_neighbours_have_the_scores_of_the_base(case):
    mem, (z, outputs, targets, _), _ = judged(case)
    everyone = np.full((60, 100), -1)
    everyone[:40] = np.arange(100)
    given = None if case == "head" else outputs
    last = mem.evaluate(z, given, targets, everyone).by_distance[-1]
    assert (last["rows"], last["from"], last["to"]) == (40, math.inf, math.inf)
    at_temperature = {last[n] for n in last if n.startswith(("base, T", "ResMem"))}
    if mem.temperature == 1:
        at_temperature.add(last["base"])
    assert len(at_temperature) == 1
    assert last["kNN alone"] == last["base"]
    mem.remove(mem.kneighbors(z[:1], k=len(mem))[1][0])
    assert len(mem) == 0
    nobody = mem.evaluate(z, given, targets)
    assert nobody.by_distance[0]["rows"] == 60
    scores = {m.name: m.scores for m in nobody.methods}
    assert scores["base"] == scores["kNN alone"]


@pytest.mark.parametrize("case", CASES)
def test_blocks_and_threads_change_nothing(case, monkeypatch):
    _, _, whole = judged(case, buckets=3)
    monkeypatch.setattr("resmem._base.blocks._BLOCK_BYTES", 1)
    _, _, single = judged(case, buckets=3, threads=3)
    one, other = whole.to_dict(), single.to_dict()
    assert one["examples"] == other["examples"]
    assert one["by_class"] == other["by_class"]
    assert one["by_distance"] == other["by_distance"]
    for mine, its in zip(one["methods"], other["methods"], strict=True):
        assert mine == {**its, "scores": pytest.approx(its["scores"], rel=1e-12)}


@evaluates_own_rows
def test_r2_does_not_suffer_from_large_means():
    rng = np.random.default_rng(2)
    targets = 1e8 + rng.standard_normal((300, 2))
    targets[0] += 1e3
    outputs = targets + 0.1 * rng.standard_normal((300, 2))
    mem = resmem.Memory("regression", k=1).fit(targets - 1e8, outputs, targets)
    got = mem.evaluate(targets - 1e8, outputs, targets).methods[0].scores["r2"]
    assert got == pytest.approx(score_named("r2", "regression").whole(outputs, targets), rel=1e-9)


@evaluates_own_rows
@pytest.mark.parametrize("block", [1, 1 << 20])
def test_r2_of_constant_targets_is_minus_infinity_or_1(block, monkeypatch):
    monkeypatch.setattr("resmem._base.blocks._BLOCK_BYTES", block)
    targets = np.full(30, 0.1)
    mem = resmem.Memory("regression", k=2).fit(np.eye(30), targets - 1, targets)
    scores = {
        m.name: m.scores["r2"] for m in mem.evaluate(np.eye(30), targets - 1, targets).methods
    }
    assert scores["base"] == -math.inf
    assert scores["kNN alone"] == 1


def test_evaluation_settings_are_those_of_the_memory():
    mem, _, got = judged("weak", knn=SimpleNamespace(knn=SimpleNamespace(k=1000, sigma=math.inf)))
    assert got.settings == {
        "k": 5,
        "sigma_": mem.sigma_,
        "temperature": 2.0,
        "strength": 0.5,
        "probability_map": "clip",
        "method": "residual",
        "gate": "none",
        "knn_k": 1000,
        "knn_sigma": math.inf,
        "published_k": 5,
        "published_sigma": mem.sigma_,
        "interpolation_k": 5,
        "interpolation_sigma": mem.sigma_,
        "interpolation_temperature": 2.0,
        "interpolation_lambda": 0.5,
    }


@pytest.mark.parametrize("case", CASES)
def test_results_can_be_written_as_json(case):
    _, _, got = judged(case, knn=SimpleNamespace(k=3, sigma=math.inf), buckets=60)
    loaded = json.loads(json.dumps(got.to_dict(), allow_nan=False))
    assert loaded["settings"]["knn_sigma"] == "inf"
    assert loaded["methods"][0]["gain"] is None
    assert loaded["methods"][1]["gain"]["confidence"] == 0.95
    assert loaded["by_distance"][0]["high"] == "inf"  # the bucket has one row
    assert list(loaded) == [name for name in vars(got) if name != "explanation"]
    if got.reliability is not None:
        empty = [b for bins in loaded["reliability"].values() for b in bins if not b["rows"]]
        assert empty
        assert {b["accuracy"] for b in empty} == {None}


def test_the_methods_print_as_a_table():
    _, _, got = judged("weak")
    lines = repr(got).splitlines()
    assert lines[0].startswith("Evaluation of 60 rows (k=5, sigma_=0.")
    names = ["method", *SCORES["classification"], "corrected", "harmed"]
    assert " ".join(lines[1].split()) == " ".join([*names, "gain in log_loss (95 %)"])
    rows, below = lines[2 : 2 + len(got.methods)], lines[2 + len(got.methods) :]
    assert [line.split("  ")[0] for line in rows] == [m.name for m in got.methods]
    last = got.methods[-1]
    assert f"  {last.harmed}  " in rows[-1]
    assert rows[-1].endswith(printed(last.gain))
    assert below[0] == "gain of ResMem, strength 0.5"
    for line, (name, gain) in zip(below[1:], got.over.items(), strict=True):
        assert line.startswith(f"  over {name} ")
        assert line.endswith(printed(gain))
    assert lines[2].split()[-2:] == ["0", "0"]
    assert "squared error" in repr(judged("flat")[2])


def printed(gain):
    return f"{gain.mean:+.4g} [{gain.low:+.4g}, {gain.high:+.4g}]"


def test_to_pandas_gives_a_row_per_method():
    pandas = pytest.importorskip("pandas")
    _, _, got = judged("weak")
    frame = got.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.index) == [method.name for method in got.methods]
    changed = ["corrected", "harmed", "gain", "gain_low", "gain_high"]
    assert list(frame.columns) == SCORES["classification"] + changed
    assert frame.loc["kNN alone", "harmed"] == got.methods[2].harmed
    assert frame["gain"].isna().tolist() == [True] + 5 * [False]


def test_to_pandas_without_pandas_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="to_pandas needs pandas; pip install pandas"):
        judged("flat")[2].to_pandas()


@pytest.mark.parametrize("case", ["weak", "flat", "values"])
def test_rows_may_lie_in_mapped_files(case, tmp_path):
    mem, rows, got = judged(case)
    mapped = []
    for i, array in enumerate(rows):
        np.save(tmp_path / f"{i}.npy", array)
        mapped.append(np.load(tmp_path / f"{i}.npy", mmap_mode="r"))
    assert mem.evaluate(*mapped).to_dict() == got.to_dict()


@pytest.mark.parametrize(
    ("case", "arguments", "error", "message"),
    [
        ("dense", {"targets": np.zeros(3, int)}, ValueError, "targets must have one row per row"),
        ("dense", {"targets": np.zeros((2, 2), int)}, ValueError, r"\(n, 4\), got \(2, 2\)"),
        ("dense", {"targets": [0.0, 1.5]}, TypeError, "targets must hold integers"),
        ("dense", {"targets": [0, C]}, ValueError, "targets: row 1 is class 4"),
        ("dense", {"outputs": None}, ValueError, "outputs are missing"),
        ("dense", {"outputs": np.zeros((2, 3))}, ValueError, "outputs must have 4 columns"),
        ("dense", {"outputs": np.full((2, C), np.nan)}, ValueError, "outputs: row 0 holds NaN"),
        ("dense", {"embeddings": np.zeros((2, 9))}, ValueError, "embeddings must have 3 columns"),
        ("dense", {"buckets": 0}, ValueError, "buckets must be at least 1, got 0"),
        ("dense", {"bins": 1.5}, TypeError, "bins must be an integer"),
        ("dense", {"knn": 5}, TypeError, r"a TuneResult, Settings .* or None, got int"),
        ("dense", {"knn": SimpleNamespace(k=0, sigma=1)}, ValueError, "k of knn must be at least"),
        ("dense", {"knn": SimpleNamespace(k=1, sigma=0)}, ValueError, "sigma of knn must be a pos"),
        ("flat", {"targets": np.zeros((2, 1))}, ValueError, r"targets must have shape \(n,\)"),
        ("flat", {"targets": [0.0, np.inf]}, ValueError, "targets: row 1 holds NaN or infinity"),
        ("values", {"targets": np.zeros(2)}, ValueError, r"targets must have shape \(n, C\)"),
        ("values", {"targets": np.zeros((2, 3))}, ValueError, "targets must have 4 columns"),
        (
            "dense",
            {"embeddings": np.zeros((0, D)), "outputs": np.zeros((0, C)), "targets": []},
            ValueError,
            "at least one row to evaluate",
        ),
    ],
)
def test_evaluate_of_wrong_input_is_refused(case, arguments, error, message):
    mem, (z, outputs, targets, _), _ = judged(case)
    given = {"embeddings": z[:2], "outputs": outputs[:2], "targets": targets[:2], **arguments}
    with pytest.raises(error, match=message):
        mem.evaluate(**given)


def test_evaluate_of_an_unfitted_memory_is_refused():
    with pytest.raises(resmem.NotFittedError):
        resmem.Memory().evaluate(np.eye(2), np.eye(2), [0, 1])


# ---- Outputs, groups, own rows, other residuals ----------------------------------------------


def test_by_output_scores_each_column_alone():
    mem, rows, got = judged("values")
    predictions, _ = expected("values", mem, rows, mem.k, mem.sigma_)
    assert [part["output"] for part in got.by_output] == [0, 1, 2, 3]
    for column, part in enumerate(got.by_output):
        for name, values in predictions.items():
            for score in SCORES["regression"]:
                wanted = score_named(score, "regression").whole(
                    values[:, column], rows[2][:, column]
                )
                assert part[name][score] == pytest.approx(wanted, rel=1e-9)
    assert judged("flat")[2].by_output is judged("dense")[2].by_output is None


def test_by_output_has_the_names_of_the_outputs():
    pandas = pytest.importorskip("pandas")
    z, outputs, targets = examples(np.random.default_rng(0), "values", 50)
    table = pandas.DataFrame(outputs, columns=list("abcd"))
    mem = resmem.Memory("regression", k=3).fit(z, table, targets)
    got = mem.evaluate(z + 1, table, targets)
    assert [part["output"] for part in got.by_output] == list("abcd")


LABELS = {
    "numbers": lambda g: g + 7,
    "words": lambda g: [f"g{x}" for x in g],
    "tuples": lambda g: [(int(x), "b") for x in g],
    "numbers of NumPy": lambda g: list(g.astype(np.int32)),
    "days": lambda g: [datetime.date(2024, 1, 1) + datetime.timedelta(int(x)) for x in g],
}


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("case", ["weak", "values"])
def test_groups_are_scored_worst_first(case, labels):
    numbers = np.random.default_rng(4).integers(0, 7, 60)
    named = LABELS[labels](numbers)
    mem, rows, got = judged(case, groups=named)
    predictions, tops = expected(case, mem, rows, mem.k, mem.sigma_)
    losses = {name: loss(values, rows[2], tops) for name, values in predictions.items()}
    last, columns = list(predictions)[-1], 1 if tops else 4
    means = [losses[last][numbers == g].mean() for g in range(7)]
    order = np.argsort(-np.array(means))
    assert got.groups == 7
    assert [part["group"] for part in got.by_group] == list(LABELS[labels](order))
    for part, g in zip(got.by_group, order, strict=True):
        inside = numbers == g
        assert part["rows"] == inside.sum()
        for name, its in losses.items():
            mean = its[inside].mean() / columns
            assert part[name] == pytest.approx(mean if tops else math.sqrt(mean))
        gain = paired_interval((losses[next(iter(got.over))] - losses[last])[inside])
        assert (part["gain"], part["low"], part["high"]) == pytest.approx(gain[:3])
    worst = got.by_group[0]
    assert f"worst group: {worst['group']!r}, {worst['rows']} rows" in repr(got)
    assert "intervals are clustered by 7 groups" in repr(got)


@pytest.mark.parametrize("unit", ["D", "s", "ns"])
def test_groups_by_date_keep_their_dates(unit):
    days = np.datetime64("2024-03-01").astype(f"M8[{unit}]") + (np.arange(60) % 4).astype(
        "m8[D]"
    ).astype(f"m8[{unit}]")
    groups = {str(part["group"]) for part in judged("weak", groups=days)[2].to_dict()["by_group"]}
    assert groups == {f"2024-03-0{day}" + " 00:00:00" * (unit != "D") for day in range(1, 5)}


def test_groups_of_numpy_are_plain_in_a_dict():
    for groups in (np.arange(60) % 3, [np.int16(i % 3) for i in range(60)]):
        got = judged("weak", groups=groups)[2].to_dict()["by_group"]
        assert {type(part["group"]) for part in got} == {int}
    pairs = judged("weak", groups=[("a", np.int16(i % 3)) for i in range(60)])[2].to_dict()
    assert sorted(part["group"] for part in pairs["by_group"]) == [["a", 0], ["a", 1], ["a", 2]]


def test_intervals_of_copied_rows_need_their_groups():
    mem, (z, outputs, targets, excluded), alone = judged("weak")
    copied = [np.repeat(part, 9, axis=0) for part in (z, outputs, targets, excluded)]
    groups = np.repeat(np.arange(60), 9)
    mistaken, told = mem.evaluate(*copied), mem.evaluate(*copied, groups=groups)

    def widths(evaluation):
        gains = [evaluation.methods[-1].gain, *evaluation.over.values()]
        return np.array([gain.high - gain.low for gain in gains])

    np.testing.assert_allclose(widths(told), widths(alone), rtol=0.02)
    assert (widths(mistaken) < widths(alone) / 2).all()


@pytest.mark.parametrize("case", ["weak", "head", "flat", "kept", "values", "targets", "gated"])
def test_loo_judges_each_row_of_the_memory_without_itself(case):
    rng, given = np.random.default_rng(3), case != "head"
    z, outputs, targets = examples(rng, case, 90)
    mem = resmem.Memory(**{"k": 5, **CASES[case]}).fit(z, outputs if given else None, targets)
    mem.remove(np.arange(0, 90, 11))
    kept = np.setdiff1d(np.arange(90), np.arange(0, 90, 11))
    got = mem.evaluate(loo=True).to_dict()
    rows = [part[kept] for part in (z, outputs, targets)]
    rows[1] = rows[1] if given else None
    wanted = mem.evaluate(*rows, exclude_ids=kept).to_dict()
    for kind, numbers in wanted["examples"].items():
        assert got["examples"][kind] == kept[numbers].tolist()
    assert got["explained"] == kept[wanted["explained"]].tolist()
    for part in ("methods", "by_class", "by_distance", "over", "rows"):
        assert got[part] == wanted[part]


def test_loo_takes_a_seeded_sample_of_many_rows(monkeypatch):
    monkeypatch.setattr("resmem._evaluation.evaluate._MOST_OWN_ROWS", 30)
    z, outputs, targets = examples(np.random.default_rng(3), "weak", 90)
    mem = resmem.Memory(k=5).fit(z, outputs, targets)
    first, again, other = (mem.evaluate(loo=True, seed=seed) for seed in (0, 0, 1))
    assert first.rows == 30
    assert first.to_dict() == again.to_dict()
    assert first.methods[0].scores != other.methods[0].scores


def test_loo_warns_of_a_base_that_knows_the_rows():
    rng = np.random.default_rng(3)
    z, targets = rng.normal(size=(200, 3)), rng.integers(0, 3, 200)
    known = resmem.Memory(k=5).fit(z, 9 * np.eye(3)[targets], targets)
    with pytest.warns(resmem.ResmemWarning, match=r"^evaluate: the base model errs 0% as much"):
        known.evaluate(loo=True)


def test_published_sum_of_another_memory_stands_beside():
    mem, (z, outputs, targets, excluded), plain = judged("weak")
    rng = np.random.default_rng(8)
    rows = examples(rng, "weak", 150)
    other = resmem.Memory(k=50, sigma=9.0, strength=0.1, preprocess="unit").fit(*rows)
    got = mem.evaluate(z, outputs, targets, excluded, published=other)
    names = [method.name for method in got.methods]
    assert names[-3:-1] == ["ResMem as published", "ResMem as published, other memory"]
    assert got.methods[-3] == plain.methods[-2]
    assert got.methods[-1] == plain.methods[-1]
    same = copy.deepcopy(other)
    same.k, same.sigma, same.temperature, same.strength = mem.k, mem.sigma_, mem.temperature, 1
    chances = same.predict_proba(z, outputs, excluded)
    wanted = score_named("log_loss", "classification").whole(chances, targets)
    assert got.methods[-2].scores["log_loss"] == pytest.approx(wanted, rel=1e-12)
    assert got.methods[-2].kind == "published elsewhere"


def test_published_sums_are_named_by_their_residuals():
    z, outputs, targets = examples(np.random.default_rng(3), "weak", 90)
    honest = resmem.Memory(k=5, residuals="out-of-fold").fit(z, outputs, targets)
    known = resmem.Memory(k=5, residuals="in-sample").fit(z, 2 * outputs, targets)
    got = honest.evaluate(z + 1, outputs, targets, published=known)
    names = {method.kind: method.name for method in got.methods}
    assert names["published"] == "published sum, out-of-fold residuals"
    assert names["published elsewhere"] == "ResMem as published"
    assert got.memory["residuals"] == "out-of-fold"


def test_base_is_compared_at_the_temperature_tuning_found_for_it():
    tuned = SimpleNamespace(k=3, sigma=1.0, base=SimpleNamespace(temperature=3.0))
    mem, (_, outputs, targets, _), got = judged("weak", knn=tuned)
    own = score_named("log_loss", "classification").whole(oracle.softmax(outputs / 3), targets)
    assert got.methods[1].name == "base, T=3" == next(iter(got.over))
    assert got.methods[1].scores["log_loss"] == pytest.approx(own, rel=1e-6)
    assert mem.temperature == 2
    assert got.over["base, T=3"].mean == pytest.approx(
        got.methods[1].scores["log_loss"] - got.methods[-1].scores["log_loss"]
    )


@pytest.mark.parametrize("keys", [{"preprocess": "center"}, {"key_dtype": "float16"}])
def test_settings_tuned_for_other_keys_are_not_used(keys):
    other = resmem.Settings(3, 9.0, 1.0, 0.5, **{"key_dtype": "float32", **keys})
    tuned = SimpleNamespace(knn=other, published=other, interpolation=other)
    mem, _, got = judged("weak", knn=tuned)
    for name in ("knn", "published", "interpolation"):
        assert (got.settings[f"{name}_k"], got.settings[f"{name}_sigma"]) == (mem.k, mem.sigma_)


def test_interpolation_has_the_settings_that_tuning_found_for_it():
    mixed = resmem.Settings(9, 0.7, 1.5, 0.3, key_dtype="float32", method="targets")
    tuned = SimpleNamespace(k=3, sigma=1.0, interpolation=mixed)
    mem, (z, outputs, targets, excluded), got = judged("weak", knn=tuned)
    mean = alone(mem, z, memories_targets("weak"), excluded, 9, 0.7)
    chances = 0.7 * oracle.softmax(outputs / np.float32(1.5)) + 0.3 * mean
    (found,) = (m for m in got.methods if m.kind == "interpolation")
    wanted = score_named("log_loss", "classification").whole(chances, targets)
    assert found.name == "interpolation, lambda 0.3"
    assert found.scores["log_loss"] == pytest.approx(wanted, rel=1e-6)
    assert got.settings["interpolation_temperature"] == 1.5


@pytest.mark.parametrize("case", ["weak", "flat", "head", "targets", "gated"])
def test_the_most_changed_examples_are_explained(case):
    mem, (z, outputs, _, excluded), got = judged(case)
    shown = got.examples["corrected"][:4] + got.examples["harmed"][:4]
    assert got.explained == sorted(shown)
    assert len(shown) == 8
    given, columns = None if case == "head" else outputs[got.explained], None
    if case != "flat":
        last = mem.predict(z, None if case == "head" else outputs, excluded)
        columns = np.stack([outputs.argmax(axis=1), last], axis=1)[got.explained]
    wanted = mem.explain(z[got.explained], given, excluded[got.explained], columns=columns)
    for name, array in vars(wanted).items():
        np.testing.assert_array_equal(getattr(got.explanation, name), array)


def test_evaluation_says_what_the_memory_holds():
    mem, _, got = judged("sparse")
    assert got.memory == {
        "rows": len(mem),
        "dimensions": D,
        "outputs": C,
        "output_kind": "logits",
        "bytes": mem.nbytes,
        "store": "sparse:1",
        "preprocess": "none",
        "key_dtype": "float32",
        "metric": "euclidean",
        "residuals": None,
    }


@pytest.mark.parametrize(
    ("case", "arguments", "error", "message"),
    [
        ("dense", {"groups": np.zeros((60, 2))}, ValueError, r"groups must have shape \(n,\), got"),
        ("dense", {"groups": [1, 2]}, ValueError, r"groups must have one row per row of embedd"),
        ("dense", {"groups": [[1]] * 60}, ValueError, r"got \[1\] in row 0"),
        ("dense", {"groups": np.full(60, np.nan)}, ValueError, "got nan in row 0"),
        ("dense", {"groups": [([1],)] * 60}, ValueError, r"got \(\[1\],\) in row 0"),
        ("dense", {"groups": [None] * 60}, ValueError, "got None in row 0"),
        ("dense", {"groups": np.full(60, "NaT", "M8[ns]")}, ValueError, "NaT.* in row 0"),
        ("dense", {"loo": True}, ValueError, "leave out embeddings, outputs, targets, exclude_ids"),
        ("dense", {"published": 5}, TypeError, "published must be another Memory or None, got int"),
        ("flat", {"published": "weak"}, ValueError, "memory for regression with 1 output columns"),
    ],
)
def test_evaluate_refuses_what_does_not_go_together(case, arguments, error, message):
    mem, (z, outputs, targets, _), _ = judged(case)
    if arguments.get("published") == "weak":
        arguments = {"published": judged("weak")[0]}
    with pytest.raises(error, match=message):
        mem.evaluate(z, outputs, targets, **arguments)


def test_another_memory_of_other_embeddings_is_called_so():
    mem, (z, outputs, targets, _), _ = judged("dense")
    other = resmem.Memory(k=2).fit(z[:, :2], outputs, targets)
    said = "published must be a memory of embeddings with 3 columns like this one, got one with 2"
    with pytest.raises(ValueError, match=said):
        mem.evaluate(z, outputs, targets, published=other)


def test_loo_refuses_groups_which_lie_among_their_own_neighbours():
    with pytest.raises(ValueError, match=r"leave out .*, groups \(among a row's neighbours are"):
        judged("dense")[0].evaluate(loo=True, groups=np.arange(100) % 5)


def test_the_least_gain_is_found_among_all_groups(monkeypatch):
    monkeypatch.setattr("resmem._evaluation.evaluate._MOST_GROUPS", 1)
    groups = np.arange(60) % 6
    few = judged("weak", groups=groups)[2]
    monkeypatch.setattr("resmem._evaluation.evaluate._MOST_GROUPS", 6)
    every = judged("weak", groups=groups)[2]
    assert few.by_group[0]["group"] != few.least_gain["group"]
    assert few.least_gain == min(every.by_group, key=lambda group: group["gain"])
    assert f"least gain: group {few.least_gain['group']}" in repr(few)


def test_a_memory_that_rules_classes_out_is_told_how_to_avoid_it():
    rng = np.random.default_rng(5)
    z, logits, y = rng.normal(size=(60, 2)), rng.normal(size=(60, 3)), rng.integers(0, 3, 60)
    mem = resmem.Memory(k=1, method="targets").fit(z[:30], logits[:30], y[:30])
    ruled_out = int((mem.predict_proba(z[30:], logits[30:])[np.arange(30), y[30:]] == 0).sum())
    cure = rf"exactly 0 to the class of {ruled_out} of 30 rows, .*; a strength below 1 leaves"
    with pytest.warns(resmem.ResmemWarning, match=cure):
        mem.evaluate(z[30:], logits[30:], y[30:])
    mem.strength = 0.9
    assert math.isfinite(mem.evaluate(z[30:], logits[30:], y[30:]).methods[-1].scores["log_loss"])


def test_a_single_group_is_warned_of():
    with pytest.warns(resmem.ResmemWarning, match=r"all rows are of one group, 'a', so that inter"):
        got = judged("dense", groups=["a"] * 60)[2]
    assert math.isinf(got.over["kNN alone"].high)


def test_evaluate_without_rows_says_what_to_give():
    with pytest.raises(TypeError, match=r"^evaluate needs rows to predict: .* or loo=True"):
        judged("dense")[0].evaluate()
    with pytest.raises(ValueError, match="which store='sparse:1' does not keep; evaluate other"):
        judged("sparse")[0].evaluate(loo=True)
    lonely = resmem.Memory(k=1).fit([[0.0]], [[0.0, 1.0]], [0])
    with pytest.raises(ValueError, match="a memory with two rows for loo=True, this one has 1"):
        lonely.evaluate(loo=True)
    with pytest.raises(ValueError, match=r"seed must be below 2\*\*32, got 4294967296"):
        judged("dense")[0].evaluate(loo=True, seed=2**32)
