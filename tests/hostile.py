"""Calls whose arrays other threads write to: anything may happen except a crash.

``python tests/hostile.py --seconds 600 --seed 1`` runs for that time, best with a build that has
AddressSanitizer. Exit status 0: every call ended, with a result or an ordinary exception.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import os
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np

import resmem
from resmem import _core
from resmem._indexes import policy
from resmem._indexes import trial as index_trial

PATIENCE = 240  # seconds after which a call counts as hung
N, Q, D, C = 700, 40, 5, 6

FLOATS = (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 0.0, 1.0, -1.0)
INTEGERS = (-(2**63), -2, -1, 0, 1, 5, C, N - 1, N, 2**31, 2**40, 2**63 - 1)


class Written:
    """An array that writer threads change, and the content it should have."""

    def __init__(self, good):
        self.good = np.ascontiguousarray(good)
        self.array = self.good.copy()

    def spoil(self, rng):
        flat = self.array.reshape(-1)
        at = rng.integers(0, flat.size, rng.integers(1, 4))
        if flat.dtype.kind == "f":
            with np.errstate(over="ignore"):
                flat[at] = np.asarray(rng.choice(FLOATS)).astype(flat.dtype)
        else:
            flat[at] = np.int64(INTEGERS[rng.integers(len(INTEGERS))]).astype(flat.dtype)

    def mend(self):
        self.array[...] = self.good


class Stage:
    """All arrays that calls get, and the calls."""

    def __init__(self, seed, folder):
        rng = np.random.default_rng(seed)
        self.folder = Path(folder)
        self.all = []
        normal = rng.standard_normal
        given = self.given
        self.rows = given(normal((N, D)).astype(np.float32))
        self.wide = given(normal((N, 24)).astype(np.float32))
        self.queries = given(normal((Q, D)).astype(np.float32))
        self.wide_queries = given(normal((Q, 24)).astype(np.float32))
        self.queries64 = given(normal((Q, D)))
        self.times = given(1.7e9 + 1e-3 * normal((N, D)))
        self.asked_times = given(1.7e9 + 1e-3 * normal((Q, D)))
        self.few = given(normal((9, D)).astype(np.float16))
        self.logits = given(normal((N, C)).astype(np.float32))
        self.asked_logits = given(normal((Q, C)).astype(np.float32))
        chances = np.exp(normal((N, C)))
        self.chances = given((chances / chances.sum(1, keepdims=True)).astype(np.float32))
        self.labels = given(rng.integers(0, C, N))
        self.asked_labels = given(rng.integers(0, C, Q))
        self.values = given(normal((N, 2)))
        self.asked_values = given(normal((Q, 2)))
        self.ids = given(rng.permutation(N).astype(np.int64))
        self.some = given(rng.permutation(N)[:9])
        self.excluded = given(rng.integers(-1, N, (Q, 3)))
        self.many_excluded = given(rng.integers(-1, N, (Q, 20)))
        self.own_weights = given(rng.random(N))
        self.days, self.asked_days = given(rng.integers(0, 9, N)), given(rng.integers(0, 9, Q))
        self.seconds, self.asked_seconds = given(normal(N)), given(normal(Q))
        self.groups = given(rng.integers(-1, 9, N))
        self.excluded_groups = given(rng.integers(-1, 9, (Q, 2)))
        self.columns = given(rng.integers(0, C, (Q, 2)))
        self.folds = given(rng.integers(0, 3, Q))
        self.near = given(rng.integers(0, N, (Q, 7)))
        self.apart = given(np.sort(rng.random((Q, 7)), axis=1))
        self.residuals = given(normal((N, C)).astype(np.float32))
        self.weight = given(normal((C, D)).astype(np.float32))
        self.bias = given(normal(C).astype(np.float32))
        self.calls = self.public() + self.memories() + self.inside()

    def given(self, good):
        written = Written(good)
        self.all.append(written)
        return written.array

    def public(self):
        def metric(rng):
            return str(rng.choice(["euclidean", "sqeuclidean", "cosine", "inner_product"]))

        def mean(X, y, Z):
            return np.full((len(Z), C), float(np.asarray(y).mean()))

        pairs = [(self.queries, self.rows), (self.wide_queries, self.wide)]
        return [
            lambda rng: resmem.search(*pairs[rng.integers(2)], 5, metric(rng), self.excluded),
            lambda rng: resmem.search(self.queries64, self.rows, 60, metric(rng)),
            lambda rng: resmem.search(self.asked_times, self.times, 6, metric(rng)),
            lambda rng: resmem.search(self.queries, self.rows, 4, exclude_ids=self.many_excluded),
            lambda rng: resmem.search(self.rows, self.rows, 3, metric(rng)),
            lambda rng: resmem.aggregate(
                self.apart, self.near, self.residuals, 0.5, self.asked_logits
            ),
            lambda rng: resmem.aggregate(self.apart, self.near, self.residuals, np.inf),
            lambda rng: resmem.out_of_fold(mean, self.wide_queries, self.asked_labels, self.folds),
        ]

    def memories(self):
        """Return calls of every public method on memories of every kind."""
        kinds = [
            {"store": store, "key_dtype": dtype, "preprocess": preprocess}
            for store in ("dense", "sparse:3", "head")
            for dtype in ("float32", "float16", "bfloat16")
            for preprocess in (("none",) if store == "head" else ("none", "standardize", "pca:3"))
        ]
        kinds += [{"residual_dtype": "float16"}, {"output_kind": "probabilities"}]
        kinds += [{"key_dtype": "float64"}, {"key_dtype": "float64", "preprocess": "center"}]
        kinds += [{"task": "regression"}, {"task": "regression", "residual_dtype": "float16"}]
        kinds += [{"task": "regression", "residual_dtype": "float32", "key_dtype": "float64"}]
        return [lambda rng, kind=kind: self.use_memory(rng, kind) for kind in kinds]

    def use_memory(self, rng, kind):
        """Fit a memory and call a few of its methods, each of which may fail."""
        head = {"head": (self.weight, self.bias)} if kind.get("store") == "head" else {}
        mem = resmem.Memory(k=7, **kind, **head)
        outputs, targets = self.logits, self.labels
        asked, truth = self.asked_logits, self.asked_labels
        if kind.get("task") == "regression":
            outputs, targets, asked, truth = (
                self.values,
                self.values[::-1].copy(),
                self.asked_values,
                self.asked_values,
            )
        if kind.get("output_kind") == "probabilities":
            outputs, asked = self.chances, self.chances[:Q]
        if head:
            outputs = None
        ids = self.ids if rng.random() < 0.5 else None
        times, before = self.days, self.asked_days
        if rng.random() < 0.5:
            times, before = self.seconds, self.asked_seconds
        about = {"sample_weight": self.own_weights, "times": times, "groups": self.groups}
        about = {name: array for name, array in about.items() if rng.random() < 0.7}
        mem.fit(self.rows, outputs, targets, ids, copy=bool(rng.random() < 0.5), **about)
        asks = {"among": self.some, "before": before, "exclude_groups": self.excluded_groups}
        asks = {name: array for name, array in asks.items() if rng.random() < 0.6}
        few = slice(0, len(self.few))
        columns = self.columns if len(asked.T) == C else None
        path = self.folder / f"{threading.get_ident()}-{rng.integers(3)}"
        query = (self.queries, asked, self.excluded)
        methods = [
            lambda: mem.kneighbors(self.queries, None, self.many_excluded),
            lambda: mem.correction(self.queries, self.excluded, columns=columns),
            lambda: mem.correct(*query, columns=columns),
            lambda: mem.correct(*query, **asks),
            lambda: mem.kneighbors(self.queries, **{**asks, "among": self.groups > 3}),
            lambda: mem.evaluate(self.queries, asked, truth, **asks),
            lambda: mem.get(self.some),
            lambda: mem.update(self.some, self.few, None if head else outputs[few], targets[few]),
            lambda: resmem.Index(self.rows, metric="cosine", groups=self.groups).search(
                self.queries, 6, exclude_groups=self.excluded_groups
            ),
            lambda: mem.predict(*query),
            lambda: mem.predict_proba(*query),
            lambda: mem.aggregate(self.apart, self.near, asked, columns=columns),
            lambda: mem.explain(*query, columns=columns),
            lambda: mem.explain(self.queries, asked, top=2),
            lambda: mem.evaluate(self.queries, asked, truth, self.excluded),
            lambda: mem.tune(
                self.queries, asked, truth, k=[2, 5], folds=self.folds, exclude_ids=self.excluded
            ),
            lambda: mem.tune(loo=True, k=[3], sigma=[0.5, 1.0], score=score),
            lambda: mem.add(self.few, None if head else outputs[few], targets[few]),
            lambda: mem.add(self.few, None if head else outputs[few], targets[few], self.some),
            lambda: mem.remove(self.some),
            lambda: mem.prepare(),
            lambda: setattr(mem, "temperature", 1.5),
            lambda: setattr(mem, "sigma", "auto"),
            lambda: mem.save(path.with_suffix(".resmem")),
            lambda: mem.save(path.with_suffix(".resmem"), append=True),
            lambda: mem.export(path.with_suffix(".npz")),
            lambda: resmem.Memory.load(path.with_suffix(".resmem")).predict(*query),
            lambda: resmem.Memory.load(path.with_suffix(".npz")).predict(*query),
        ]
        score = {"regression": "mae"}.get(kind.get("task"), "calibration_error")
        for at in rng.integers(0, len(methods), 6):
            attempt(methods[at])

    def inside(self):
        """Return searches through cascades and trees, as memories of many rows make them."""

        def built(rng, rows, queries, build):
            segment = _core.Segment(rows, None, 0, None, 5.0)
            index = build(segment, rows.shape[1])
            for q in (queries, queries[:1]):
                attempt(
                    lambda q=q: _core.search(q, 5.0, [segment.with_index(index)], 6, index_metric)
                )

        index_metric = "euclidean"
        return [
            lambda rng: built(
                rng,
                self.wide,
                self.wide_queries,
                lambda segment, d: _core.Cascade(segment, d, 12, 4, bool(rng.random() < 0.5)),
            ),
            lambda rng: built(
                rng,
                self.rows,
                self.queries,
                lambda segment, d: _core.Tree(
                    segment, d, leaf=int(rng.integers(1, 9)), execution=_core.Execution(0)
                ),
            ),
            self.search_by_cascade_of_clean_rows,
        ]

    def search_by_cascade_of_clean_rows(self, rng):
        metric = str(rng.choice(["euclidean", "cosine", "inner_product"]))
        clean = rng.standard_normal((N, 24)).astype(np.float32)
        segment = _core.Segment(clean, None, 0, None, float(np.abs(clean).max()))
        cascade = _core.Cascade(segment, 24, 12, 4, bool(rng.random() < 0.5), metric=metric)
        mine = Written(clean)
        mine.array = clean
        self.all.append(mine)  # the rows are written to from now on
        try:
            for q in (self.wide_queries, self.wide_queries[:3]):
                for k in (1, 20, 80):
                    attempt(
                        lambda q=q, k=k: _core.search(
                            q, 9.0, [segment.with_index(cascade)], k, metric
                        )
                    )
        finally:
            self.all.remove(mine)


ended = collections.Counter()


def attempt(call):
    try:
        call()
    except Exception as error:  # any ordinary exception is fine
        ended[type(error).__name__] += 1
    else:
        ended["returned"] += 1


def run(seconds, seed, callers, writers):
    policy.LEAST_ROWS, index_trial._MOST_TIME = 512, np.inf  # small memories keep indices
    sys.setswitchinterval(1e-5)
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    stop = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(seed, folder)

        def ask(number):
            rng = np.random.default_rng((seed, 0, number))
            while time.monotonic() < stop:
                call = stage.calls[rng.integers(len(stage.calls))]
                attempt(lambda call=call: call(rng))
                beats[number] = time.monotonic()

        def write(number):
            rng = np.random.default_rng((seed, 1, number))
            while time.monotonic() < stop:
                for written in tuple(stage.all):
                    if rng.random() < 0.2:
                        written.spoil(rng)
                time.sleep(rng.random() * 2e-3)
                for written in tuple(stage.all):
                    written.mend()
                time.sleep(rng.random() * 4e-3)

        beats = dict.fromkeys(range(callers), time.monotonic())
        threads = [threading.Thread(target=ask, args=(i,), daemon=True) for i in range(callers)]
        threads += [threading.Thread(target=write, args=(i,), daemon=True) for i in range(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(1)
                if time.monotonic() - min(beats.values()) > PATIENCE and thread.is_alive():
                    faulthandler.dump_traceback()
                    print("a call hangs", file=sys.stderr, flush=True)
                    os._exit(3)
    print(sum(ended.values()), "calls:", dict(ended))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--callers", type=int, default=2)
    parser.add_argument("--writers", type=int, default=2)
    options = parser.parse_args()
    faulthandler.enable()
    run(options.seconds, options.seed, options.callers, options.writers)
