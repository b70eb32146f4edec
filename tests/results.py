"""Results of tuning, evaluation and explanation, built by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np

KS, SIGMAS = (1, 5, 20, 50), (0.25, 0.5, 1.0, 2.0, math.inf)


class Settings(SimpleNamespace): ...


class Result(SimpleNamespace):
    def surface(self):
        return self._surface

    def __len__(self):
        return len(self.ids)


def interval(mean, half=0.01):
    return SimpleNamespace(mean=mean, low=mean - half, high=mean + half, confidence=0.95)


def settings(k=20, sigma=1.0, strength=0.75):
    return Settings(
        k=k, sigma=sigma, temperature=1.25, strength=strength, probability_map="clip",
        preprocess="none", key_dtype="float32",
    )  # fmt: skip


def tuning(useful=True, scores=None):
    candidate = settings()
    if scores is None:
        ks, sigmas = np.log(KS), np.minimum(np.log(SIGMAS), 2.0)
        scores = 0.45 + 0.02 * ((ks[:, None] - 3) ** 2 + (sigmas - 0.2) ** 2) - 0.05
    return Result(
        score="log_loss", greater_is_better=False, rows=2000, folds=5, task="classification",
        best=candidate if useful else settings(strength=0.0),
        candidate=candidate, base=settings(strength=0.0), published=settings(strength=1.0),
        knn=settings(k=50),
        scores={"base": 0.47, "base, own temperature": 0.45, "kNN alone": 0.6,
                "published": 0.42, "candidate": 0.40},
        held_out={"base": 0.451, "candidate": 0.409},
        gain=interval(0.042 if useful else 0.002), useful=useful,
        reason="The gain is clear of 0." if useful else "The gain is not clear of 0.",
        notes=("sigma lies at the edge of its grid",),
        table=np.zeros(3), per_fold=(candidate,) * 4 + (settings(k=5),),
        seconds={"search": 0.5, "scores": 1.25},
        _surface=(np.array(KS), np.array(SIGMAS), np.asarray(scores)),
    )  # fmt: skip


METHODS = ("base", "base, T=1.25", "kNN alone", "ResMem as published", "ResMem, strength 0.75")


def method(name, i, gain, task):
    scores = {"accuracy": 0.8 + 0.01 * i, "log_loss": 0.5 - 0.02 * i, "brier": 0.3,
              "calibration_error": 0.06 - 0.01 * i}  # fmt: skip
    if task == "regression":
        scores = {"rmse": 2.5 - 0.1 * i, "mae": 1.5, "r2": 0.5}
    return SimpleNamespace(name=name, scores=scores, corrected=20 * i, harmed=8 * i, gain=gain)


def evaluation(gain=0.08, task="classification", classes=4, buckets=10):
    gains = [None, *(interval(gain * share) for share in (0.25, -1.0, 0.75, 1.0))]
    methods = tuple(
        method(n, i, g, task) for i, (n, g) in enumerate(zip(METHODS, gains, strict=True))
    )
    score = "log_loss" if task == "classification" else "rmse"
    by_distance = [
        {"from": 0.3 * i, "to": 0.3 * i + 0.3, "rows": 200, "gain": gain - 0.02 * i,
         "low": gain - 0.02 * i - 0.03, "high": gain - 0.02 * i + 0.03,
         **{m.name: m.scores[score] for m in methods}}
        for i in range(buckets)
    ]  # fmt: skip
    by_class = [
        {"class": c, "rows": 2000 // classes, "corrected": 3 * c, "harmed": classes - c,
         **{m.name: {"accuracy": 0.8 + 0.01 * c, "log_loss": 0.5 - 0.01 * c} for m in methods}}
        for c in range(classes)
    ]  # fmt: skip
    edges = np.arange(15) / 15
    reliability = {
        m.name: [
            {"low": low, "high": low + 1 / 15, "rows": int(400 * low**2) if b else 0,
             "confidence": low + 1 / 30, "accuracy": min(1.0, low * (0.8 + 0.05 * i) + 1 / 30)}
            for b, low in enumerate(edges)
        ]
        for i, m in enumerate(methods)
    }  # fmt: skip
    is_classes = task == "classification"
    return Result(
        task=task, rows=2000,
        settings={"k": 20, "sigma_": 1.0, "temperature": 1.25, "strength": 0.75,
                  "probability_map": "clip"},
        methods=methods, by_class=by_class if is_classes else None, by_distance=by_distance,
        reliability=reliability if is_classes else None,
        examples={"corrected": np.array([7, 3, 11]), "harmed": np.array([5])},
    )  # fmt: skip


EXPLAINED = [3, 5, 7]  # rows of the evaluation


def explanation(task="classification", k=4, with_base=True):
    """Of three queries with ``k`` neighbours, the last two of the second one padding."""
    q, rng = len(EXPLAINED), np.random.default_rng(0)
    ids = np.arange(q * k).reshape(q, k) + 100
    ids[1, 2:] = -1
    weights = np.where(ids >= 0, np.linspace(0.4, 0.1, k), 0)
    targets = np.arange(q * k).reshape(q, k) % 4
    contributions = rng.normal(size=(q, k, 2)) * weights[:, :, None]
    if task == "regression":
        targets, contributions = targets + 0.5, contributions[:, :, :1]
    t = contributions.shape[2]
    correction = contributions.sum(axis=1)
    base = np.array([[0.6, 0.3]] * q)[:, :t]
    corrected = np.array([[0.4, 0.5]] * q)[:, :t]
    return Result(
        ids=ids, distances=np.where(ids >= 0, np.linspace(0.1, 0.9, k), np.inf), weights=weights,
        targets=targets, columns=np.array([[1, 2]] * q)[:, :t], contributions=contributions,
        spread=np.zeros((q, k)), correction=correction,
        base=base if with_base else None, corrected=corrected if with_base else None,
    )  # fmt: skip
