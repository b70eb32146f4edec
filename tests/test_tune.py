"""Tuning: the sweep against plain NumPy, the proof on rows that did not choose, what is applied."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest

import resmem
import resmem._rows.ingest
from resmem._scores.intervals import Expected, paired_interval
from resmem._state.settings import Settings
from resmem._tuning import validation

QUIET = pytest.mark.filterwarnings("ignore:tune")
GRID = {"k": [1, 3, 8], "sigma": [0.2, 1.0, math.inf], "strength": [0, 0.5, 1]}


def softmax(logits, temperature=1.0):
    z = np.asarray(logits, dtype=np.float64) / temperature
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def projected(v, floor):
    """Return the nearest point with coordinates of at least ``floor``, by sorting."""
    ordered = -np.sort(-v, axis=1)
    excess = np.cumsum(ordered, axis=1) - (1 - v.shape[1] * floor)
    count = np.arange(1, v.shape[1] + 1)
    last = (ordered * count > excess).sum(axis=1) - 1
    tau = np.take_along_axis(excess, last[:, None], axis=1) / (last + 1)[:, None]
    return np.maximum(v - tau, 0) + floor


def mapped(v, name, base=None):
    kind, _, floor = name.partition(":")
    floor = float(floor or (0.1 if kind == "keep" else 1e-6))
    if kind == "keep":
        floor = np.maximum(floor * base, 1e-9)
    if kind == "project":
        p = projected(v, floor)
    else:
        p = np.maximum(v, floor)
        p /= p.sum(axis=1, keepdims=True)
    return p if base is None else np.where((v == base).all(axis=1, keepdims=True), base, p)


def near(queries, rows, k):
    """Return plain distances and positions of the neighbours."""
    apart = np.sqrt(np.square(queries[:, None].astype(float) - rows[None]).sum(axis=2))
    ids = np.argsort(apart, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(apart, ids, axis=1), ids


def averages(distances, ids, values, k, sigma):
    w = np.exp((distances[:, :1] - distances[:, :k]) / sigma)
    w /= w.sum(axis=1, keepdims=True)
    return np.einsum("qk,qkc->qc", w, values[ids[:, :k]])


def logarithms(p):
    with np.errstate(divide="ignore"):  # targets alone may give a class nothing
        return np.log(p)


SCORES = {
    "log_loss": lambda p, y: -logarithms(p[np.arange(len(y)), y]).mean(),
    "accuracy": lambda p, y: (p.argmax(axis=1) == y).mean(),
    "brier": lambda p, y: np.square(p - np.eye(p.shape[1])[y]).sum(axis=1).mean(),
    "rmse": lambda p, y: math.sqrt(np.square(p - y).mean()),
    "mae": lambda p, y: np.abs(p - y).mean(),
    "r2": lambda p, y: 1 - np.square(p - y).sum() / np.square(y - y.mean(axis=0)).sum(),
}


def calibration(p, y):
    top, right = p.max(axis=1), p.argmax(axis=1) == y
    bins = np.minimum((top * 15).astype(int), 14)
    gaps = [abs((top - right)[bins == b].sum()) for b in range(15)]
    return sum(gaps) / len(y)


SCORES["calibration_error"] = calibration


class World:
    """Rows and validation rows of a base model that is wrong in some places."""

    def __init__(self, seed=0, n=600, q=400, d=2, C=3, kind="logits"):
        rng = np.random.default_rng(seed)
        total = n + q
        self.n, self.kind = n, kind
        self.z = rng.standard_normal((total, d)).astype(np.float32)
        layer = rng.standard_normal((d, C))
        self.logits = (self.z @ layer).astype(np.float32)
        truth = self.logits.astype(float).copy()
        truth[:, 0] += 4 * np.sin(3 * self.z[:, 0])  # the base model does not know this effect
        if kind == "values":
            self.outputs = self.logits.astype(float)
            self.y = truth + 0.1 * rng.standard_normal(truth.shape)
        else:
            self.y = np.argmax(truth + rng.gumbel(size=truth.shape), axis=1)
            self.outputs = self.logits
            if kind == "probabilities":
                self.outputs = softmax(self.logits).astype(np.float32)

    @property
    def rows(self):
        return self.z[: self.n], self.outputs[: self.n], self.y[: self.n]

    @property
    def fresh(self):
        return self.z[self.n :], self.outputs[self.n :], self.y[self.n :]

    def memory(self, **options):
        task = "regression" if self.kind == "values" else "classification"
        return resmem.Memory(task, self.kind, **options).fit(*self.rows)

    def base(self, outputs, temperature):
        return softmax(outputs, temperature) if self.kind == "logits" else outputs.astype(float)

    def predictions(self, settings, alone=False):
        """Return the predictions of the validation rows, by plain NumPy."""
        z, outputs, y = self.rows
        queries, fresh, _ = self.fresh
        if not hasattr(self, "near"):
            self.near = near(queries, z, 8)
        distances, ids = self.near
        target = y if self.kind == "values" else np.eye(outputs.shape[1])[y]
        if alone:
            moved = averages(distances, ids, target, settings["k"], settings["sigma"])
            return moved if self.kind == "values" else mapped(moved, settings["probability_map"])
        base, of_rows = (self.base(o, settings["temperature"]) for o in (fresh, outputs))
        if settings["method"] == "targets":
            found = averages(distances, ids, target, settings["k"], settings["sigma"])
            return (1 - settings["strength"]) * base + settings["strength"] * found
        moved = averages(distances, ids, target - of_rows, settings["k"], settings["sigma"])
        corrected = base + settings["strength"] * moved
        if self.kind == "values":
            return corrected
        return mapped(corrected, settings["probability_map"], base)


def row_of(settings):
    names = set(Settings.__dataclass_fields__) - {"gate"}  # gates are found after the table
    return {name: getattr(settings, name) for name in names}


# ---- The sweep ------------------------------------------------------------------------------


@QUIET
@pytest.mark.parametrize(
    ("kind", "score"),
    [
        ("logits", "log_loss"),
        ("logits", "accuracy"),
        ("logits", "brier"),
        ("logits", "calibration_error"),
        ("probabilities", "log_loss"),
        ("values", "rmse"),
        ("values", "mae"),
        ("values", "r2"),
    ],
)
def test_every_score_of_the_table_is_that_of_plain_numpy(kind, score):
    world = World(kind=kind)
    options = dict(GRID)
    if kind == "logits":
        options |= {"temperature": [0.5, 1.0, 2.0]}
    if kind != "values":
        options |= {"probability_map": ["clip", "project", "clip:0.01", "keep:0.2"]}
    mem = world.memory()
    result = mem.tune(*world.fresh, score=score, apply=False, **options)
    temperatures, maps = (3 if kind == "logits" else 1), (1 if kind == "values" else 4)
    residual = result.table["method"] == "residual"
    assert residual.sum() == 27 * temperatures * maps
    assert (~residual).sum() == 9 * temperatures * 2  # of the strengths above 0
    y = world.fresh[2]
    for row in result.table:
        wanted = SCORES[score](world.predictions(row), y)
        # Residuals are kept as float32; the rest is float64 on both sides. A probability of 1e-6
        # or more moves by less than 2^-24, which its logarithm divides by it.
        at_least = 1e-6 if score == "log_loss" else 1e-3
        assert row["score"] == pytest.approx(wanted, rel=1e-5, abs=2**-24 / at_least * 1e-2)
    better = max if result.greater_is_better else min
    warm = result.table["temperature"] >= result.base.temperature
    assert result.scores["candidate"] == better(result.table["score"][warm])
    alone = row_of(result.knn)
    wanted = SCORES[score](world.predictions(alone, alone=True), y)
    assert result.scores["kNN alone"] == pytest.approx(wanted, rel=1e-6)
    plain = residual & (result.table["strength"] == 1) & (result.table["probability_map"] == "clip")
    assert result.scores["interpolation"] == better(result.table["score"][~residual])
    assert result.scores["published"] == better(result.table["score"][plain])
    off = result.table["score"][result.table["strength"] == 0]
    assert result.scores["base, own temperature"] == better(off)


@QUIET
@pytest.mark.parametrize("kind", ["logits", "values"])
def test_blocks_and_threads_change_no_choice(kind, monkeypatch):
    world = World(kind=kind, q=150)
    mem = world.memory()
    whole = mem.tune(*world.fresh, apply=False, **GRID)
    for threads in (1, 2, 5):
        again = mem.tune(*world.fresh, apply=False, threads=threads, **GRID)
        assert again.table.tobytes() == whole.table.tobytes()
        assert (again.gain, again.best) == (whole.gain, whole.best)
    monkeypatch.setattr(validation, "_BATCH_BYTES", 3 * (4 * 8 + 28) * 11)  # 11 rows at a time
    parts = mem.tune(*world.fresh, apply=False, **GRID)
    np.testing.assert_allclose(parts.table["score"], whole.table["score"], rtol=1e-12)
    assert (parts.best, parts.knn) == (whole.best, whole.knn)
    assert parts.gain == pytest.approx(whole.gain)


@QUIET
def test_a_function_scores_like_the_score_of_that_name():
    world = World(q=90)
    seen = []

    def accuracy(predictions, targets):
        seen.append(predictions.shape)
        np.testing.assert_allclose(predictions.sum(axis=1), 1, rtol=1e-12)
        return (predictions.argmax(axis=1) == targets).mean()

    mem = world.memory()
    options = {"k": [2, 8], "sigma": [0.5, 2.0], "temperature": 1.0, "probability_map": "clip"}
    by_name = mem.tune(*world.fresh, score="accuracy", apply=False, **options)
    called = mem.tune(*world.fresh, score=accuracy, greater_is_better=True, apply=False, **options)
    np.testing.assert_allclose(called.table["score"], by_name.table["score"], rtol=1e-12)
    assert (called.score, called.greater_is_better) == ("accuracy", True)
    assert (called.candidate, called.knn, called.base) == (
        by_name.candidate, by_name.knn, by_name.base,
    )  # fmt: skip
    assert called.gain.mean == pytest.approx(by_name.gain.mean)
    assert called.gain.low == pytest.approx(
        by_name.gain.low, abs=0.02
    )  # the jackknife differs a little
    assert (90, 3) in seen


@QUIET
def test_score_function_gets_flat_values_as_they_were_given():
    world = World(kind="values", q=60, C=1)
    z, outputs, y = (part if i == 0 else part[:, 0] for i, part in enumerate(world.rows))
    mem = resmem.Memory("regression").fit(z, outputs, y)
    fresh = world.fresh[0], world.fresh[1][:, 0], world.fresh[2][:, 0]

    def rough(predictions, targets):
        assert predictions.shape == targets.shape == (len(targets),)
        return float(np.sqrt(np.abs(predictions - targets)).mean())

    result = mem.tune(*fresh, score=rough, greater_is_better=False, apply=False, **GRID)
    assert result.score == "rough"
    assert result.useful


# ---- The proof ------------------------------------------------------------------------------


@QUIET
@pytest.mark.parametrize("given_folds", [False, True])
def test_gain_is_measured_on_rows_that_did_not_choose(given_folds):
    world = World(seed=3, q=120)
    mem = world.memory()
    folds = np.arange(120) // 7 % 4 * 10 + 5  # any numbers may name folds
    options = dict(GRID, k=[2, 8], temperature=[0.7, 1.0], probability_map="clip")
    options |= {"methods": "residual"}
    result = mem.tune(*world.fresh, folds=folds if given_folds else 4, apply=False, **options)
    if not given_folds:
        folds = resmem._scores.folds.fold_numbers(4, 0, world.fresh[2])
    y, table = world.fresh[2], result.table
    predicted = np.stack([world.predictions(row) for row in table])
    losses = -np.log(predicted[:, np.arange(120), y])
    gains, moments, chosen = np.empty(120), np.empty((2, 120)), []
    for number in np.unique(folds):
        mine = folds == number
        others = losses[:, ~mine].mean(axis=1)
        second = int(np.argmin(np.where(table["strength"] == 0, others, np.inf)))
        warm = table["temperature"] >= table["temperature"][second]
        first = int(np.argmin(np.where(warm, others, np.inf)))
        gains[mine] = losses[second, mine] - losses[first, mine]
        each = np.log(predicted[first, mine] / predicted[second, mine])
        chances = predicted[second, mine]
        off = each - (chances * each).sum(axis=1, keepdims=True)
        moments[:, mine] = [(chances * off**power).sum(axis=1) for power in (2, 4)]
        chosen.append(first)
    assert result.gain.mean == pytest.approx(gains.mean(), rel=1e-4)
    variance, square = moments[0].mean(), moments[1].sum() / moments[0].sum()
    wanted = paired_interval(gains, expected=Expected(variance, square))
    assert result.gain.low == pytest.approx(wanted.low, rel=1e-3, abs=1e-5)
    assert result.gain.high == pytest.approx(wanted.high, rel=1e-3)
    for fold, settings in zip(chosen, result.per_fold, strict=True):
        if settings.strength:
            assert {n: table[n][fold] for n in table.dtype.names if n != "score"} == row_of(
                settings
            )
    assert result.folds == 4
    assert result.rows == 120


def calibrated(rng, n, useful):
    """Return rows whose outputs are the truth, except for an effect of place if ``useful``."""
    z = rng.standard_normal((n, 4)).astype(np.float32)
    logits = rng.standard_normal((n, 4)) * 1.5
    place = np.zeros((n, 4))
    place[:, 0] = 2.5 * np.sign(np.sin(2 * z[:, 0]))
    y = np.argmax(logits + useful * place + rng.gumbel(size=(n, 4)), axis=1)
    return z, logits.astype(np.float32), y


def log_loss(p, y):
    return SCORES["log_loss"](p, y)


@QUIET
@pytest.mark.parametrize("what", ["random keys", "shuffled targets"])
def test_a_useless_memory_is_switched_off(what):
    """At most one of 20 is kept, and none costs more than 0.5 % on test rows."""
    kept, worst = 0, 0.0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        z, logits, y = calibrated(rng, 2800, useful=what == "random keys")
        if what == "random keys":
            z = rng.standard_normal(z.shape).astype(np.float32)
        train, fresh, test = slice(0, 800), slice(800, 1300), slice(1300, None)
        shuffled = rng.permutation(y[train]) if what == "shuffled targets" else y[train]
        mem = resmem.Memory().fit(z[train], logits[train], shuffled)
        result = mem.tune(z[fresh], logits[fresh], y[fresh])
        kept += mem.strength != 0
        assert result.useful == (mem.strength != 0)
        base = log_loss(softmax(logits[test]), y[test])
        worst = max(worst, log_loss(mem.predict_proba(z[test], logits[test]), y[test]) / base)
    assert kept <= 1
    assert worst <= 1.005


@QUIET
def test_a_useful_memory_is_kept():
    """At least 19 of 20 are kept."""
    kept = 0
    for seed in range(20):
        rng = np.random.default_rng(1000 + seed)
        z, logits, y = calibrated(rng, 2800, useful=True)
        train, fresh, test = slice(0, 800), slice(800, 1300), slice(1300, None)
        mem = resmem.Memory().fit(z[train], logits[train], y[train])
        kept += mem.tune(z[fresh], logits[fresh], y[fresh]).useful
        base = log_loss(softmax(logits[test]), y[test])
        assert log_loss(mem.predict_proba(z[test], logits[test]), y[test]) < base
    assert kept >= 19


@QUIET
def test_gain_of_the_mean_residual_switches_the_memory_off():
    """A base that is wrong everywhere alike is mended by random neighbours too."""
    rng = np.random.default_rng(5)
    z, logits, y = calibrated(rng, 3000, useful=False)
    logits[:, 0] -= 1.5
    mem = resmem.Memory().fit(z[:2000], logits[:2000], y[:2000])
    result = mem.tune(z[2000:], logits[2000:], y[2000:])
    assert result.gain.low > 0
    assert result.local_gain.low <= 0
    assert not result.useful
    assert mem.strength == 0
    assert "is not due to its neighbours. Over " in result.reason
    assert result.scores["mean residual"] < result.scores["base"]


@QUIET
def test_losses_too_rare_to_be_seen_are_allowed_for():
    """Fifty rows mostly hold none of a class of 1 %, so sharper predictions seem to gain."""
    kept, changed = 0, 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        z, logits = rng.standard_normal((700, 3)), rng.normal([5.0, 0.0], 1.0, (700, 2))
        y = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
        mem = resmem.Memory().fit(z[:600], logits[:600], y[:600])
        result = mem.tune(z[600:650], logits[600:650], y[600:650])
        kept += result.useful
        changed += mem.temperature != 1
    assert kept == 0
    assert changed <= 1


@QUIET
def test_gain_of_mere_smoothing_switches_the_memory_off():
    """Overconfident probabilities have no temperature; random neighbours spread them."""
    rng = np.random.default_rng(7)
    logits = rng.standard_normal((2500, 4))
    y = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
    z, outputs = rng.standard_normal((2500, 5)), softmax(4 * logits)
    mem = resmem.Memory(output_kind="probabilities").fit(z[:1500], outputs[:1500], y[:1500])
    result = mem.tune(z[1500:], outputs[1500:], y[1500:])
    assert result.gain.low > 0
    assert not result.useful
    assert "is not due to its neighbours" in result.reason


@QUIET
def test_a_temperature_that_helps_is_no_gain_of_the_memory():
    rng = np.random.default_rng(6)
    z, logits, y = calibrated(rng, 3000, useful=False)
    mem = resmem.Memory().fit(z[:2000], 2 * logits[:2000], y[:2000])
    result = mem.tune(z[2000:], 2 * logits[2000:], y[2000:])
    assert not result.useful
    assert result.temperature_gain.low > 0
    assert result.best.temperature == mem.temperature == 2
    assert result.base.temperature == 2
    # Where it does not help, it stays as it was given.
    mem.fit(z[:2000], logits[:2000], y[:2000])
    mem.temperature = 1.4
    result = mem.tune(z[2000:], logits[2000:], y[2000:])
    assert result.temperature_gain.low <= 0
    assert mem.temperature == 1


@QUIET
def test_one_se_rule_prefers_simpler_settings():
    world = World(seed=4)
    mem = world.memory()
    best = mem.tune(*world.fresh, apply=False)
    simple = mem.tune(*world.fresh, apply=False, rule="one_se")
    assert simple.useful
    assert 0 < simple.candidate.strength <= best.candidate.strength
    assert simple.candidate != best.candidate
    assert simple.scores["candidate"] >= best.scores["candidate"]
    with pytest.raises(ValueError, match="rule='one_se' needs at least 3 folds, got 2"):
        mem.tune(*world.fresh, folds=2, rule="one_se")


# ---- What is applied --------------------------------------------------------------------------


@QUIET
def test_the_best_is_applied_unless_told_otherwise():
    world = World()
    mem = world.memory(k=5, sigma=0.25)
    before = repr(mem)
    result = mem.tune(*world.fresh, apply=False, **GRID)
    assert repr(mem) == before
    same = mem.tune(*world.fresh, **GRID)
    assert same.best == result.best
    got = (mem.k, mem.sigma, mem.temperature, mem.strength, mem.probability_map)
    best = result.best
    assert got == (best.k, best.sigma, best.temperature, best.strength, best.probability_map)
    wanted = world.predictions(row_of(best))
    np.testing.assert_allclose(mem.predict_proba(*world.fresh[:2]), wanted, atol=1e-6)
    held = log_loss(mem.predict_proba(*world.fresh[:2]), world.fresh[2])
    assert result.scores["candidate"] == pytest.approx(held, rel=1e-12)
    assert mem.use(resmem.Settings(3, 1.5, 2.0, 0.25, "project")) is mem
    got = (mem.k, mem.sigma, mem.temperature, mem.strength, mem.probability_map)
    assert got == (3, 1.5, 2.0, 0.25, "project")


@QUIET
def test_best_preprocess_and_key_dtype_are_applied(tmp_path):
    """Large columns without information hide the informative one unless standardized."""
    rng = np.random.default_rng(7)
    z, logits, y = calibrated(rng, 3000, useful=True)
    z = np.hstack([z[:, :1], 40 * rng.standard_normal((3000, 6))]).astype(np.float32)
    mem = resmem.Memory(k=4).fit(z[:2000], logits[:2000], y[:2000], ids=np.arange(2000) * 3)
    mem.remove([3, 9])
    fresh = z[2000:], logits[2000:], y[2000:]
    ks = {"k": [4, 16, 64]}
    assert not mem.tune(*fresh, **ks, apply=False).useful
    result = mem.tune(*fresh, **ks, preprocess=["standardize", "unit"], key_dtype="float16")
    assert result.useful
    assert result.best.preprocess == mem.preprocess == "standardize"
    assert result.best.key_dtype == mem.key_dtype
    names = zip(result.table["preprocess"], result.table["key_dtype"], strict=True)
    kinds = {"none", "standardize", "unit"}
    assert set(names) == {(p, t) for p in kinds for t in ("float32", "float16")}
    fitted = resmem.Memory(preprocess="standardize", key_dtype=mem.key_dtype)
    kept = np.delete(np.arange(2000), [1, 3])
    fitted.fit(z[kept], logits[kept], y[kept], ids=kept * 3).use(result.best)
    np.testing.assert_array_equal(fitted.correct(*fresh[:2]), mem.correct(*fresh[:2]))
    mem.save(tmp_path / "m.resmem")
    loaded = resmem.Memory.load(tmp_path / "m.resmem")
    np.testing.assert_array_equal(loaded.predict_proba(*fresh[:2]), mem.predict_proba(*fresh[:2]))
    again = mem.tune(*fresh, **ks, apply=False)
    assert set(again.table["preprocess"]) == {"standardize"}
    with pytest.raises(ValueError, match="only of embeddings stored as they came"):
        mem.tune(*fresh, preprocess="none")
    bad = resmem.Memory().fit(z[:2000], logits[:2000], y[:2000])
    assert bad.tune(*fresh, **ks, preprocess="whiten:2", apply=False).table is not None
    assert bad.preprocess == "none"


@QUIET
def test_other_keys_must_clearly_gain():
    world = World()
    for seed in range(3):
        mem = world.memory()
        result = mem.tune(*world.fresh, k=[4, 16], key_dtype=["float16", "bfloat16"], seed=seed)
        assert result.useful
        assert mem.key_dtype == result.candidate.key_dtype == "float32"


@QUIET
def test_settings_that_are_refused_change_nothing():
    mem = World().memory()
    before = repr(mem)
    for bad in (
        Settings(7, 1.0, 3.0, 0.5, "sort"),
        Settings(7, -1.0, 3.0, 0.5),
        Settings(0, 1.0, 3.0, 0.5),
        Settings(7, 1.0, 3.0, math.inf),
        Settings(7, 1.0, -3.0, 0.5),
        Settings(7, 1.0, 3.0, 0.5, preprocess="shrink"),
    ):
        with pytest.raises((ValueError, TypeError)):
            mem.use(bad)
        assert repr(mem) == before


@QUIET
def test_fit_during_a_change_of_keys_has_one_kind_of_keys(tmp_path, monkeypatch):
    """The settings of keys change while the rows of the fit come in."""
    world = World()
    mem, told = world.memory(), []
    write = resmem._rows.ingest.Incoming.write

    def interrupted(self, *rest):
        if not told:
            told.append(True)
            mem.use(Settings(5, 1.0, 1.0, 1.0, preprocess="pca:1"))
        return write(self, *rest)

    monkeypatch.setattr(resmem._rows.ingest.Incoming, "write", interrupted)
    mem.fit(*world.rows)
    assert mem.preprocess == "pca:1"
    mem.add(*world.rows)
    mem.save(tmp_path / "m.resmem")
    assert len(resmem.Memory.load(tmp_path / "m.resmem")) == 1200


@QUIET
def test_switched_off_memory_keeps_its_keys():
    rng = np.random.default_rng(8)
    z, logits, y = calibrated(rng, 1200, useful=False)
    mem = resmem.Memory().fit(z[:800], logits[:800], y[:800])
    result = mem.tune(z[800:], logits[800:], y[800:], preprocess=["unit", "pca:2"])
    assert not result.useful
    assert mem.preprocess == result.best.preprocess == "none"


# ---- Its own rows ----------------------------------------------------------------------------


@QUIET
def test_own_rows_are_searched_without_themselves():
    world = World()
    z, outputs, y = world.rows
    ids = np.random.default_rng(0).permutation(5000)[:600]
    mem = resmem.Memory().fit(z[:200], outputs[:200], y[:200], ids[:200])
    mem.add(z[200:], outputs[200:], y[200:], ids[200:]).remove(ids[[5, 250]])
    kept = np.delete(np.arange(600), [5, 250])
    own = mem.tune(loo=True, apply=False, **GRID)
    given = mem.tune(z[kept], outputs[kept], y[kept], exclude_ids=ids[kept], apply=False, **GRID)
    assert own.rows == 598
    np.testing.assert_array_equal(own.table, given.table)
    assert (own.best, own.gain, own.knn) == (given.best, given.gain, given.knn)


@QUIET
def test_loo_uses_a_fixed_sample_of_own_rows(monkeypatch):
    monkeypatch.setattr("resmem._tuning.tune._SAMPLE_ROWS", 50)
    world = World()
    mem = world.memory()
    one, same, other = (mem.tune(loo=True, apply=False, seed=s, **GRID) for s in (0, 0, 1))
    assert one.rows == 50
    assert one.table.tobytes() == same.table.tobytes() != other.table.tobytes()


def notes_of(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    assert [str(w.message) for w in caught] == [f"tune: {note}" for note in result.notes]
    assert all(issubclass(w.category, UserWarning) for w in caught)
    assert all(w.filename == __file__ for w in caught)
    return " ".join(result.notes)


def overfitted(world):
    """Return rows with outputs of a model that has almost learnt them by heart."""
    z, outputs, y = world.rows
    return z, outputs + 6 * np.eye(3, dtype=np.float32)[y], y


def test_residuals_that_are_too_small_are_warned_of():
    world = World()
    honest = world.memory()
    assert "residuals" not in notes_of(lambda: honest.tune(*world.fresh, apply=False))
    assert "residuals" not in notes_of(lambda: honest.tune(loo=True, apply=False))
    mem = resmem.Memory().fit(*overfitted(world))
    said = notes_of(lambda: mem.tune(*world.fresh, apply=False))
    assert "of the size of those on the validation rows" in said
    assert "resmem.out_of_fold" in said
    said = notes_of(lambda: mem.tune(loo=True, apply=False))
    assert "errs" in said
    assert "residuals are too small for new rows" in said
    values = World(kind="values")
    z, outputs, y = values.rows
    mem = resmem.Memory("regression").fit(z, y - 0.1 * (y - outputs), y)
    assert "of the size" in notes_of(lambda: mem.tune(*values.fresh, apply=False))


def test_own_rows_among_the_validation_rows_are_warned_of():
    world = World()
    mem = world.memory()
    z, outputs, y = world.rows
    assert "lie on rows of the memory" in notes_of(lambda: mem.tune(z, outputs, y, apply=False))
    assert "lie on" not in notes_of(lambda: mem.tune(z, outputs, (y + 1) % 3, apply=False))
    own = np.arange(600)
    said = notes_of(lambda: mem.tune(z, outputs, y, exclude_ids=own, apply=False))
    assert "lie on" not in said


def test_temperature_at_an_edge_is_warned_of_when_switched_off():
    rng = np.random.default_rng(6)
    z, logits, y = calibrated(rng, 1500, useful=False)
    mem = resmem.Memory().fit(z[:800], 10 * logits[:800], y[:800])
    said = notes_of(lambda: mem.tune(z[800:], 10 * logits[800:], y[800:], temperature=[1, 2, 4]))
    assert mem.strength == 0
    assert said.startswith("temperature=4 is the largest that was tried: try more")


@QUIET
def test_default_grids_grow_beyond_an_edge():
    """What is tried then has the scores that it has if it is named."""
    rng = np.random.default_rng(6)
    z, logits, y = calibrated(rng, 1500, useful=False)
    fresh = z[800:], 10 * logits[800:], y[800:]
    mem = resmem.Memory().fit(z[:800], 10 * logits[:800], y[:800])
    result = mem.tune(*fresh, apply=False)
    assert 8 <= result.base.temperature <= 12
    assert "temperature" not in "".join(result.notes)
    named = mem.tune(*fresh, temperature=[1.0, result.base.temperature], apply=False)
    assert named.scores["base, own temperature"] == result.scores["base, own temperature"]


@QUIET
def test_more_neighbours_than_the_default_are_tried_if_they_help():
    """Labels that are mostly noise need many neighbours; a small memory has no more of them."""
    rng = np.random.default_rng(3)
    z = rng.uniform(-1, 1, (4000, 1)).astype(np.float32)
    logits = np.zeros((4000, 2), np.float32)
    y = (rng.random(4000) < 0.5 + 0.12 * np.sign(z[:, 0])).astype(int)
    mem = resmem.Memory().fit(z[:2500], logits[:2500], y[:2500])
    result = mem.tune(z[2500:], logits[2500:], y[2500:])
    assert result.useful
    assert mem.k == result.best.k > 128
    named = mem.tune(z[2500:], logits[2500:], y[2500:], k=[mem.k], sigma=[mem.sigma], apply=False)
    assert named.scores["candidate"] <= result.scores["candidate"]
    small = resmem.Memory().fit(z[:150], logits[:150], y[:150])
    assert max(small.tune(z[2500:], logits[2500:], y[2500:]).table["k"]) <= 150


def test_best_values_at_an_edge_are_warned_of():
    world = World()
    mem = world.memory()

    def notes(**grid):
        return notes_of(lambda: mem.tune(*world.fresh, apply=False, **grid))

    wide = {"k": [1, 4, 16, 64, 256], "sigma": [0.05, 0.2, 0.8, 3.2], "temperature": 1.0}
    assert "k=" not in notes(**wide, strength=[0.5, 1, 1.5, 2])
    assert "k=2 is the largest that was tried: try more" in notes(**wide | {"k": [1, 2]})
    assert "sigma=3 is the smallest" in notes(**wide | {"sigma": [3.0, 9.0]})
    assert "sigma=0.01 is the largest" in notes(**wide | {"sigma": [0.001, 0.01]})
    assert "sigma" not in notes(**wide | {"sigma": [0.001, math.inf], "k": [4]})
    assert "strength" in notes(**wide, strength=[0, 0.01])
    assert "temperature=3 is the smallest" in notes(**wide | {"temperature": [3.0, 5.0]})
    assert "temperature" not in notes(**wide | {"temperature": 3.0})


# ---- Every store ------------------------------------------------------------------------------


@QUIET
@pytest.mark.parametrize("store", ["dense", "half", "sparse:2", "head"])
def test_every_store_is_tuned(store):
    rng = np.random.default_rng(9)
    n, C = 1800, 6
    z = rng.standard_normal((n, 4)).astype(np.float32)
    layer = rng.standard_normal((C, 4)).astype(np.float32)
    logits = z @ layer.T
    y = np.argmax(
        logits + 5 * np.sin(2 * z[:, :1]) * np.eye(C)[0] + rng.gumbel(size=(n, C)), axis=1
    )
    options = {"residual_dtype": "float16"} if store == "half" else {"store": store}
    options = {} if store == "dense" else options
    head = (layer, None) if store == "head" else None
    mem = resmem.Memory(head=head, k=8, **options)
    mem.fit(z[:1200], None if head else logits[:1200], y[:1200])
    mem.remove([3]).add(z[:9] + 5, None if head else logits[:9], y[:9])
    fresh = z[1200:], None if head else logits[1200:], y[1200:]
    result = mem.tune(*fresh, k=[4, 16], sigma=[0.3, 1.0])
    assert result.useful
    held = log_loss(mem.predict_proba(*fresh[:2]), fresh[2])
    precise = 1e-6 if store == "sparse:2" else 1e-12  # sparse sums are rounded once more
    assert result.scores["candidate"] == pytest.approx(held, rel=precise)
    temperatures = set(result.table["temperature"])
    assert temperatures == ({1.0} if store == "sparse:2" else {0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0})


@QUIET
def test_queries_without_neighbours_keep_the_base():
    world = World(n=2, q=40)
    mem = world.memory()
    nobody = np.tile([0, 1], (40, 1))
    result = mem.tune(*world.fresh, exclude_ids=nobody, probability_map="clip")
    assert not result.useful
    assert result.candidate.strength == 0
    assert np.ptp(result.table["score"][result.table["temperature"] == 1]) < 1e-12


# ---- The result -------------------------------------------------------------------------------


@QUIET
def test_result_prints_converts_and_gives_a_surface():
    world = World()
    mem = world.memory()
    result = mem.tune(*world.fresh, apply=False)
    text = repr(result)
    assert f"{len(result.table):,} settings" in text
    for part in ("log_loss", "400 rows, 10 folds", result.reason, "kNN alone",
                 "base, own temperature", "published", "candidate", str(result.best)):  # fmt: skip
        assert part in text
    assert max(map(len, text.splitlines())) < 160
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["best"]["k"] == result.best.k
    assert len(plain["table"]["score"]) == len(result.table)
    assert plain["gain"] == {**result.gain._asdict()}
    ks, sigmas, scores = result.surface()
    assert scores.shape == (len(set(result.table["k"])), len(set(result.table["sigma"])))
    assert np.isfinite(scores).all()
    assert sigmas[-1] == math.inf
    assert np.nanmin(scores) == result.scores["candidate"]
    at = np.unravel_index(np.argmin(scores), scores.shape)
    assert (ks[at[0]], sigmas[at[1]]) == (result.candidate.k, result.candidate.sigma)
    assert set(result.seconds) == {"search", "sweep", "proof"}
    distances = mem.kneighbors(world.fresh[0], k=128)[0]
    np.testing.assert_allclose(sigmas[0], 0.01 * np.median(distances[:, -1]))


@QUIET
def test_to_pandas_gives_the_table():
    pandas = pytest.importorskip("pandas")
    frame = World().memory().tune(*World().fresh, apply=False, **GRID).to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame)[:2] == ["k", "sigma"]


@QUIET
@pytest.mark.parametrize("score", ["log_loss", "function"])
def test_progress_adds_up_and_may_stop_the_tuning(score):
    world = World(q=50)
    mem = world.memory()
    options = {"k": [1, 2], "sigma": [1.0], "strength": [1], "probability_map": "clip"}
    options |= {"temperature": [1.0, 2.0]}
    if score == "function":
        options |= {"score": log_loss, "greater_is_better": False}
    done = []
    mem.tune(*world.fresh, progress=done.append, apply=False, **options)
    total = 50 * ((1 + 2) + 2 + 1) if score == "log_loss" else 50 * ((1 + 12) + 4 + 2)
    # The proof counts six times; mean residuals at two temperatures and two checks of rows follow,
    # with a step for two rows of the memory or of these.
    total += 6 * 50 + 3 * len(mem) // 2 + 25
    assert sum(done) == total
    before = repr(mem)

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mem.tune(*world.fresh, progress=stop, **options)
    assert repr(mem) == before
    with pytest.raises(TypeError, match="progress must be True or a function, got int"):
        mem.tune(*world.fresh, progress=3)


@QUIET
@pytest.mark.parametrize("kind", ["logits", "values"])
def test_score_function_cannot_change_its_arguments(kind):
    world = World(q=60, kind=kind)
    options = {"k": [1, 2], "sigma": [1.0], "strength": [0, 1], "temperature": 1.0, "folds": 2}
    targets = world.fresh[2]
    before, writable = targets.copy(), []

    def score(predictions, given):
        writable.append(predictions.flags.writeable or given.flags.writeable)
        return float(np.abs(predictions).mean())

    def shuffling(predictions, given):
        given.sort()
        return 0.0

    mem = world.memory()
    mem.tune(*world.fresh, score=score, greater_is_better=False, apply=False, **options)
    assert not any(writable)
    with pytest.raises(ValueError, match="read-only"):
        mem.tune(*world.fresh, score=shuffling, greater_is_better=False, apply=False, **options)
    np.testing.assert_array_equal(targets, before)
    assert targets.flags.writeable


@QUIET
def test_progress_is_reported_in_integers(tmp_path):
    told = []
    world = World(q=60)
    mem = world.memory()
    mem.tune(*world.fresh, progress=told.append, apply=False, **GRID)
    path = tmp_path / "m.resmem"
    mem.save(path, progress=told.append)
    mem.add(*world.fresh).save(path, append=True, progress=told.append)
    resmem.Memory.load(path, progress=told.append)
    for name in ("e.npz", "e.safetensors"):
        mem.export(tmp_path / name, progress=told.append)
        resmem.Memory.load(tmp_path / name, progress=told.append)
    assert {type(each) for each in told} == {int}


@QUIET
@pytest.mark.parametrize("score", ["log_loss", "calibration_error"])
def test_a_confidence_next_to_1_is_no_error(score):
    world = World(q=60)
    result = world.memory().tune(*world.fresh, confidence=1 - 1e-16, score=score, **GRID)
    assert math.isfinite(result.gain.low)
    assert not result.useful


@QUIET
def test_progress_true_draws_a_bar(capsys):
    pytest.importorskip("tqdm")
    World(q=30).memory().tune(*World(q=30).fresh, progress=True, apply=False, **GRID)
    assert "tune" in capsys.readouterr().err


@QUIET
def test_progress_without_tqdm_says_how_to_install_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"pip install 'residual-memory\[cli\]'"):
        World(q=30).memory().tune(*World(q=30).fresh, progress=True)


# ---- What is refused --------------------------------------------------------------------------

FRESH = tuple(part[:20] for part in World().fresh)
ERRORS = [
    ({"rule": "first"}, ValueError, r"rule must be 'best' or 'one_se', got 'first'"),
    ({"score": "f1"}, ValueError, r"score must be one of 'log_loss', .*, got 'f1'"),
    ({"score": "rmse"}, ValueError, r"score must be one of .* for classification, got 'rmse'"),
    ({"k": 0}, ValueError, r"k must be at least 1, got 0"),
    ({"k": []}, ValueError, r"k must have at least one value to try"),
    ({"k": [1.5]}, TypeError, r"k must be an integer, got 1\.5"),
    ({"sigma": -1}, ValueError, r"sigma must be a positive number, got -1"),
    ({"temperature": [1, 0]}, ValueError, r"temperature must be a positive number, got 0"),
    ({"strength": [math.nan]}, ValueError, r"strength must be finite, got nan"),
    ({"probability_map": "sort"}, ValueError, r"probability_map must be 'clip', .*"),
    ({"folds": 1}, ValueError, r"folds must be at least 2, got 1"),
    ({"folds": 21}, ValueError, r"folds must be at most the number of rows \(20\), got 21"),
    ({"folds": [0] * 20}, ValueError, r"folds must have at least two numbers, got 0 alone"),
    ({"folds": [0, 1]}, ValueError, r"folds must have one row per row of targets \(20\), got 2"),
    ({"seed": -1}, ValueError, r"seed must be at least 0, got -1"),
    ({"seed": 2**32}, ValueError, r"seed must be below 2\*\*32, got 4294967296"),
    ({"confidence": "x"}, TypeError, r"confidence must be a number, got 'x'"),
    ({"confidence": -0.5, "score": "accuracy"}, ValueError, r"confidence must lie between 0 and 1"),
    ({"confidence": 1}, ValueError, r"confidence must lie between 0 and 1, got 1"),
    ({"loo": True}, ValueError, r"loo=True tunes on the memory's own rows: leave out .*"),
    ({"preprocess": "shrink"}, ValueError, r"preprocess must be .*'shrink'"),
    ({"key_dtype": "int8"}, ValueError, r"key_dtype must be one of .*'int8'"),
]


@pytest.mark.parametrize(("options", "kind", "message"), ERRORS)
def test_tune_of_wrong_options_is_refused(options, kind, message):
    mem = World().memory()
    before = repr(mem)
    with pytest.raises(kind, match=message):
        mem.tune(*FRESH, **options)
    assert repr(mem) == before


def test_tune_of_wrong_rows_is_refused():
    mem = World().memory()
    z, outputs, y = FRESH
    for given, message in (
        ((z, outputs, y[:5]), r"targets must have one row per row of embeddings \(20\), got 5"),
        ((z, outputs, y + 3), "but outputs have 3 columns"),
        ((z[:, :1], outputs, y), "embeddings must have 2 columns"),
        ((z, outputs[:4], y), r"outputs must have one row per row of embeddings \(20\), got 4"),
        ((z[:0], outputs[:0], y[:0]), r"folds must be at most the number of rows \(0\), got 10"),
    ):
        with pytest.raises(ValueError, match=message):
            mem.tune(*given)
    values = World(kind="values").memory()
    with pytest.raises(ValueError, match="targets must have 3 columns as in fit, got 2"):
        values.tune(z, outputs, outputs[:, :2])
    with pytest.raises(ValueError, match="temperature must be 1 for values, got 2"):
        values.tune(z, outputs, outputs, temperature=2)
    with pytest.raises(ValueError, match="probability_map is for classification"):
        values.tune(z, outputs, outputs, probability_map="clip")
    with pytest.raises(resmem.NotFittedError):
        resmem.Memory().tune(*FRESH)
    empty = resmem.Memory(sigma=1).fit(z[:0], outputs[:0], y[:0])
    with pytest.raises(ValueError, match="tune needs a memory with rows, this one has 0"):
        empty.tune(*FRESH)
    one = resmem.Memory(sigma=1).fit(z[:1], outputs[:1], y[:1])
    with pytest.raises(ValueError, match="a memory with two rows for loo=True, this one has 1"):
        one.tune(loo=True)
    sparse = resmem.Memory(store="sparse:1").fit(z, outputs, y)
    with pytest.raises(ValueError, match="loo=True needs the base model's outputs of the rows"):
        sparse.tune(loo=True)
    with pytest.raises(
        ValueError, match=r"temperature is fixed at fit for store='sparse:1' \(1\), got 2"
    ):
        sparse.tune(*FRESH, temperature=[1, 2])


# ---- How long it may take ---------------------------------------------------------------------


@QUIET
@pytest.mark.parametrize("loo", [False, True])
def test_a_budget_takes_some_of_the_rows_and_says_so(loo):
    world = World(q=800, n=800)
    mem = world.memory(residuals="out-of-fold")
    given = () if loo else world.fresh
    options = {"loo": loo, "apply": False, "budget": 0.02}
    part = mem.tune(*given, **options)
    assert 256 <= part.rows < 800
    assert any(f"{part.rows:,} of 800 rows were used" in note for note in part.notes)
    whole = mem.tune(*given, **options | {"budget": 1000.0})
    assert whole.rows == 800
    assert whole.gain == mem.tune(*given, **options | {"budget": None}).gain


@QUIET
def test_a_budget_keeps_what_belongs_to_each_row():
    """The rows that are used have their own folds, groups and excluded ids."""
    world = World(q=2000)
    queries, outputs, y = world.fresh
    own = np.arange(2000) % 600
    mem = world.memory()
    groups = np.arange(2000) // 4
    options = {"k": [1, 4, 16], "temperature": [0.7, 1.0], "apply": False}
    result = mem.tune(queries, outputs, y, exclude_ids=own, groups=groups, budget=1e-9, **options)
    assert result.rows == 256
    some = np.sort(np.random.RandomState(0).permutation(2000)[:256])
    named = mem.tune(
        queries[some], outputs[some], y[some], exclude_ids=own[some], groups=groups[some],
        **options,
    )  # fmt: skip
    assert named.table.tobytes() == result.table.tobytes()
    assert named.gain == result.gain


# ---- Grids that grow --------------------------------------------------------------------------


@QUIET
@pytest.mark.parametrize("factor", [30, 300])
def test_the_bases_temperature_grows_as_far_as_it_must(factor):
    """It is found before the memory's settings, so that no memory gains by calming its base."""
    rng = np.random.default_rng(6)
    z, logits, y = calibrated(rng, 2000, useful=False)
    z = rng.standard_normal(z.shape).astype(np.float32)
    mem = resmem.Memory().fit(z[:1000], factor * logits[:1000], y[:1000])
    result = mem.tune(z[1000:], factor * logits[1000:], y[1000:], methods="residual")
    assert 0.7 * factor <= result.base.temperature <= 1.5 * factor
    assert not result.useful


@QUIET
def test_only_methods_that_are_named_make_grids_grow():
    world = World()
    result = world.memory().tune(*world.fresh, methods="targets", apply=False)
    table = result.table
    assert set(table["strength"][table["method"] == "residual"]) == {0.0, 1.0}
    assert result.candidate.method == "targets"


@QUIET
def test_strengths_grow_once():
    world = World()
    result = world.memory().tune(*world.fresh, methods="residual", apply=False)
    names = [name for name in result.table.dtype.names if name != "score"]
    settings = [tuple(row[name] for name in names) for row in result.table]
    assert len(set(settings)) == len(settings)


def test_targets_without_a_strength_to_try_are_refused():
    world = World(q=60)
    for strength in (1.5, 0):
        with pytest.raises(ValueError, match="strength must have a value above 0 and at most 1"):
            world.memory().tune(*world.fresh, methods="targets", strength=strength)


@QUIET
def test_a_budget_may_be_too_small_for_folds_and_groups():
    world = World(q=700)
    mem = world.memory()
    options = {"budget": 1e-9, "k": [4, 16], "temperature": 1.0, "apply": False}
    assert mem.tune(*world.fresh, folds=300, **options).rows == 300
    groups = np.r_[np.zeros(20), np.arange(1, 681)].astype(int)
    assert mem.tune(*world.fresh, groups=groups, **options).rows == 256
