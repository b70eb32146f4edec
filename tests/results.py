"""Results of tuning, evaluation and explanation, built by hand."""

from __future__ import annotations

import math

import numpy as np

from resmem import Evaluation, Explanation, Pruning, Settings, TuneResult
from resmem._evaluation.pruning_result import CurvePoint
from resmem._evaluation.result import MethodResult
from resmem._scores.intervals import Interval
from resmem._tuning.result import TABLE

KS, SIGMAS = (1, 5, 20, 50), (0.25, 0.5, 1.0, 2.0, math.inf)
METHODS = {
    "base": "base",
    "base, T=1.25": "own temperature",
    "kNN alone": "neighbours",
    "interpolation, lambda 0.3": "interpolation",
    "ResMem as published": "published",
    "ResMem, strength 0.75": "memory",
}
EXPLAINED = [3, 5, 7]  # rows of the evaluation


def interval(mean, half=0.01):
    return Interval(mean, mean - half, mean + half, 0.95)


def settings(k=20, sigma=1.0, strength=0.75, method="residual"):
    return Settings(k, sigma, 1.25, strength, key_dtype="float32", method=method)


def pruning():
    """Return a pruning of 2,000 rows to 600, after which the loss is clearly larger."""
    curve = [(2000, 0.0, 0.0, 0.0), (1200, -0.01, 0.02, 0.05), (600, 0.01, 0.02, 0.1),
             (200, 0.3, 0.1, 0.4)]  # fmt: skip
    points = tuple(
        CurvePoint(rows, 0.3 + rise, interval(rise, half), 0.3 + random, interval(random - rise))
        for rows, rise, half, random in curve
    )
    return Pruning(
        "classification", 2000, 600, np.arange(1400), points, 0.5, "validation rows", 500, 0.95,
        "the loss of 200 rows, +0.3, is clear", False,
    )  # fmt: skip


def tuning(useful=True, scores=None, ks=KS, sigmas=SIGMAS, greater_is_better=False):
    """Return a tuning of 2,000 rows; ``scores`` (ks, sigmas) share the other settings."""
    candidate = settings()
    if scores is None:
        x, y = np.minimum(np.log(sigmas), 2.0), np.log(ks)
        scores = 0.40 + 0.02 * ((y[:, None] - 3) ** 2 + (x - 0.2) ** 2)
    table = np.zeros(len(ks) * len(sigmas) + 1, dtype=TABLE)
    table["temperature"], table["strength"] = candidate.temperature, candidate.strength
    table["probability_map"], table["preprocess"], table["key_dtype"] = "clip", "none", "float32"
    table["method"] = "residual"
    table["k"][1:], table["sigma"][1:] = np.repeat(ks, len(sigmas)), np.tile(sigmas, len(ks))
    table["score"][1:] = np.ravel(scores)
    table["strength"][0], table["score"][0] = 0.0, 123.0  # a row of another strength
    return TuneResult(
        task="classification",
        score="log_loss",
        greater_is_better=greater_is_better,
        rows=2000,
        folds=5,
        best=candidate if useful else settings(strength=0.0),
        candidate=candidate,
        base=settings(strength=0.0),
        published=settings(strength=1.0),
        knn=settings(k=50),
        interpolation=settings(k=20, strength=0.4, method="targets"),
        scores={"base": 0.47, "base, own temperature": 0.45, "mean residual": 0.44,
                "kNN alone": 0.6, "published": 0.42, "interpolation": 0.41,
                "candidate": 0.40},
        held_out={"base": 0.451, "candidate": 0.409},
        gain=interval(0.042 if useful else 0.002),
        local_gain=interval(0.03 if useful else 0.001),
        temperature_gain=interval(0.02),
        gate_gain=interval(0.001),
        useful=useful,
        reason="The gain is clear of 0." if useful else "The gain is not clear of 0.",
        notes=("sigma lies at the edge of its grid",),
        table=table,
        per_fold=(candidate,) * 4 + (settings(k=5),),
        seconds={"search": 0.5, "sweep": 1.25},
    )  # fmt: skip


def method(name, i, gain, task):
    scores = {"accuracy": 0.8 + 0.01 * i, "log_loss": 0.5 - 0.02 * i, "brier": 0.3,
              "calibration_error": 0.07 - 0.01 * i, "perplexity": 1.6}  # fmt: skip
    if task == "regression":
        scores = {"rmse": 2.5 - 0.1 * i, "mae": 1.5, "r2": 0.5}
    return MethodResult(name, METHODS[name], scores, corrected=20 * i, harmed=8 * i, gain=gain)


def evaluation(
    gain=0.08, task="classification", classes=4, buckets=10, groups=None, explained=False
):
    """Return an evaluation of 2,000 rows, whose gain falls with the distance."""
    gains = [None, *(interval(gain * share) for share in (0.25, -1.0, 0.5, 0.75, 1.0))]
    named = enumerate(zip(METHODS, gains, strict=True))
    methods = tuple(method(name, i, gain, task) for i, (name, gain) in named)
    is_classes = task == "classification"
    main = "log_loss" if is_classes else "rmse"
    by_distance = [
        {"from": 0.3 * i, "to": 0.3 * i + 0.3, "rows": 200,
         **{m.name: m.scores[main] for m in methods}, "corrected": 8, "harmed": 3,
         "gain": gain - 0.02 * i, "low": gain - 0.02 * i - 0.03, "high": gain - 0.02 * i + 0.03}
        for i in range(buckets)
    ]  # fmt: skip
    by_class = [
        {"class": c, "rows": 2000 // classes, "corrected": 3 * c, "harmed": classes - c,
         **{m.name: {"accuracy": 0.8 + 0.01 * c, "log_loss": 0.5 - 0.01 * c} for m in methods}}
        for c in range(classes)
    ]  # fmt: skip
    return Evaluation(
        task=task,
        rows=2000,
        settings={"k": 20, "sigma_": 1.0, "temperature": 1.25, "strength": 0.75,
                  "probability_map": "clip", "method": "residual", "gate": "none", "knn_k": 20,
                  "knn_sigma": 1.0},
        methods=methods,
        over={methods[i].name: interval(0.75 * gain, 0.02) for i in (1, 0, 2, 3)},
        by_class=by_class if is_classes else None,
        by_output=None if is_classes else by_output(methods),
        by_group=None if groups is None else by_group(methods, groups, main),
        by_distance=by_distance,
        reliability={m.name: bins(i) for i, m in enumerate(methods)} if is_classes else None,
        examples={"corrected": [7, 3, 11], "harmed": [5]},
        explained=EXPLAINED,
        explanation=explanation(task) if explained else None,
        memory={"rows": 12_345, "dimensions": 64, "outputs": classes, "output_kind": "logits",
                "bytes": 5 << 20, "store": "dense", "preprocess": "none", "key_dtype": "float32",
                "residuals": None},
        groups=groups,
    )  # fmt: skip


def by_output(methods):
    return [{"output": name, **{m.name: {"rmse": 1.0 + i, "mae": 0.5, "r2": 0.25}
             for m in methods}} for i, name in enumerate(("height", 1))]  # fmt: skip


def by_group(methods, groups, main):
    """Return groups whose scores and gains fall."""
    return [
        {"group": f"g{i}", "rows": 10 + i, **{m.name: m.scores[main] - i / 100 for m in methods},
         "corrected": 3, "harmed": 1, "gain": 0.1 - 0.03 * i, "low": 0.05 - 0.03 * i,
         "high": 0.15 - 0.03 * i}
        for i in range(groups)
    ]  # fmt: skip


def bins(i, count=15):
    """Return the bins of a method, less confident for larger ``i``; the first bin is empty."""
    return [
        {"low": low, "high": low + 1 / count, "rows": int(400 * low**2),
         "confidence": low + 0.5 / count if low else math.nan,
         "accuracy": min(1.0, low * (0.8 + 0.05 * i) + 0.03) if low else math.nan}
        for low in np.arange(count) / count
    ]  # fmt: skip


def explanation(task="classification", k=4, with_base=True):
    """Return an explanation of three queries with ``k`` neighbours; the second has two."""
    q, rng = len(EXPLAINED), np.random.default_rng(0)
    ids = np.arange(q * k).reshape(q, k) + 100
    ids[1, 2:] = -1
    weights = np.where(ids >= 0, np.linspace(0.4, 0.1, k), 0)
    targets = np.where(ids >= 0, np.arange(q * k).reshape(q, k) % 4, -1)
    contributions = rng.normal(size=(q, k, 2)) * weights[:, :, None]
    base, corrected = np.array([[0.6, 0.3]] * q), np.array([[0.4, 0.5]] * q)
    columns = np.array([[1, 2]] * q)
    if task == "regression":
        targets = np.where(ids >= 0, targets + 0.5, np.nan)
        contributions, base, corrected, columns = (
            array[..., :1] for array in (contributions, base, corrected, columns)
        )
    return Explanation(
        ids=ids,
        distances=np.where(ids >= 0, np.linspace(0.1, 0.9, k), np.inf),
        weights=weights,
        targets=targets,
        columns=columns,
        contributions=contributions,
        spread=np.zeros((q, k)),
        correction=contributions.sum(axis=1),
        base=base if with_base else None,
        corrected=corrected if with_base else None,
    )
