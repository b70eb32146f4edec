"""Eight threads share memories and make all public calls, switched every microsecond: results must
have the bits that one thread alone gets.

``python tests/soak.py --seconds 600 --seed 1``. Exit status 0: all results had them.
"""

from __future__ import annotations

import argparse
import collections
import os
import sys
import tempfile
import threading
import time
import traceback
import warnings
from pathlib import Path

import numpy as np

import resmem
from resmem._indexes import policy
from resmem._indexes import trial as index_trial

PATIENCE = 240  # seconds after which a call counts as hung
N, Q, D, C = 1500, 60, 6, 4
KINDS = (
    {},
    {"store": "sparse:2", "key_dtype": "float16"},
    {"store": "head", "key_dtype": "bfloat16"},
    {"key_dtype": "float64"},
    {"preprocess": "standardize", "residual_dtype": "float16", "probability_map": "keep"},
    {"output_kind": "probabilities", "preprocess": "pca:4"},
    {"task": "regression"},
)


def bits(value):
    """Return the part of a result that is compared."""
    if isinstance(value, tuple):
        return tuple(map(bits, value))
    return value.tobytes() if isinstance(value, np.ndarray) else repr(value)


class Shared:
    """A memory and the calls that read it."""

    def __init__(self, kind, number, folder, rng):
        head = {}
        z, asked = rng.standard_normal((N, D)), rng.standard_normal((Q, D))
        outputs, given = rng.standard_normal((N, C)), rng.standard_normal((Q, C))
        targets, truth = rng.integers(0, C, N), rng.integers(0, C, Q)
        if kind.get("output_kind") == "probabilities":
            outputs, given = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (outputs, given))
        if kind.get("task") == "regression":
            targets, truth = outputs + 0.1, given - 0.1
        if kind.get("store") == "head":
            head = {"head": (rng.standard_normal((C, D)), np.zeros(C))}
            outputs = given = None
        ids = rng.permutation(N)
        fitted = resmem.Memory(k=5, **kind, **head).fit(z, outputs, targets, ids)
        path = Path(folder) / f"{number}.resmem"
        fitted.save(path)
        mem = resmem.Memory.load(path)  # its table of ids is not built yet
        distances, near = fitted.kneighbors(asked)
        hidden, columns = near[:, :2].copy(), np.arange(Q)[:, None] % C
        settings = {"k": [2, 5], "sigma": [1.0], "probability_map": None}
        self.calls = {
            "kneighbors": lambda: mem.kneighbors(asked, exclude_ids=hidden),
            "correction": lambda: mem.correction(asked, threads=2),
            "correct": lambda: mem.correct(asked, given, hidden),
            "columns": lambda: mem.correct(asked, given, columns=columns),
            "predict": lambda: mem.predict(asked, given),
            "aggregate": lambda: mem.aggregate(distances, near, given),
            "explain": lambda: mem.explain(asked, given, top=2).contributions,
            "evaluate": lambda: mem.evaluate(asked, given, truth),
            "tune": lambda: mem.tune(asked, given, truth, apply=False, folds=3, **settings).best,
            "info": lambda: (mem.sigma_, len(mem), mem.nbytes, mem.residual_error_),
            "load": lambda: resmem.Memory.load(path).kneighbors(asked),
            "prepare": lambda: len(mem.prepare()),
        }
        if mem.task == "classification":
            self.calls["predict_proba"] = lambda: mem.predict_proba(asked, given)


class Changing:
    """A memory that gets and loses rows far from all queries, so that answers stay the same."""

    def __init__(self, rng, folder):
        z, logits = rng.standard_normal((N, D)), rng.standard_normal((N, C))
        self.memory = resmem.Memory(k=5, sigma=1.0).fit(z, logits, rng.integers(0, C, N))
        asked, given = rng.standard_normal((Q, D)), rng.standard_normal((Q, C))
        self.folder = Path(folder)
        distances, near = self.memory.kneighbors(asked)
        self.calls = {
            "kneighbors, changing": lambda: self.memory.kneighbors(asked),
            "correct, changing": lambda: self.memory.correct(asked, given),
            "aggregate, changing": lambda: self.memory.aggregate(distances, near, given),
            "add and remove": self.come_and_go,
            "save and load": self.kept,
            "export": self.exported,
        }
        self.numbers = iter(range(10**9))

    def come_and_go(self):
        count = 7
        ids = N + count * next(self.numbers) + np.arange(count)
        far = 1e3 + np.zeros((count, D))
        self.memory.add(far, np.zeros((count, C)), np.zeros(count, dtype=int), ids)
        self.memory.remove(ids)

    def kept(self):
        path = self.folder / f"changing-{threading.get_ident()}.resmem"
        self.memory.save(path)
        return len(resmem.Memory.load(path)) >= N

    def exported(self):
        path = self.folder / f"changing-{threading.get_ident()}.npz"
        self.memory.export(path)
        return path.exists()


def functions(rng):
    queries, rows = rng.standard_normal((Q, D)), rng.standard_normal((N, D))
    near, apart = rng.integers(0, N, (Q, 5)), np.sort(rng.random((Q, 5)), axis=1)

    def mean(X, y, Z):
        return np.full(len(Z), y.mean())

    return {
        "search": lambda: resmem.search(queries, rows, 7, threads=2),
        "search, cosine": lambda: resmem.search(queries, rows, 7, "cosine"),
        "aggregate, alone": lambda: resmem.aggregate(apart, near, rows, 0.5),
        "out_of_fold": lambda: resmem.out_of_fold(mean, rows, rows[:, 0]),
        "estimate": lambda: resmem.Memory.estimate(1000, 10, 10, budget=1 << 20),
    }


def run(seconds, seed, threads):
    policy.LEAST_ROWS, index_trial._MOST_TIME = 512, np.inf  # small memories keep indices
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        calls = functions(rng)
        for number, kind in enumerate(KINDS):
            shared = Shared(kind, number, folder, rng)
            calls |= {f"{name} {number}": call for name, call in shared.calls.items()}
        calls |= Changing(rng, folder).calls
        wanted = {name: bits(call()) for name, call in calls.items()}
        names, done, wrong = list(calls), collections.Counter(), []
        stop, beats = time.monotonic() + seconds, dict.fromkeys(range(threads), time.monotonic())

        def ask(number):
            mine = np.random.default_rng((seed, number))
            while time.monotonic() < stop and not wrong:
                name = names[mine.integers(len(names))]
                try:
                    if bits(calls[name]()) != wanted[name]:
                        wrong.append(f"{name}: another result")
                except Exception:
                    wrong.append(f"{name}: {traceback.format_exc()}")
                done[name] += 1
                beats[number] = time.monotonic()

        sys.setswitchinterval(1e-6)
        pool = [threading.Thread(target=ask, args=(i,), daemon=True) for i in range(threads)]
        for thread in pool:
            thread.start()
        for number, thread in enumerate(pool):
            while thread.is_alive():
                thread.join(1)
                if time.monotonic() - beats[number] > PATIENCE:
                    print("a call hangs", file=sys.stderr, flush=True)
                    os._exit(3)
    print(sum(done.values()), "calls of", len(done), "kinds")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=8)
    options = parser.parse_args()
    run(options.seconds, options.seed, options.threads)
