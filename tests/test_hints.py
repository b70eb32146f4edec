"""Every hint of a message, followed to the letter: what it says works.

A case causes a message, and then does what it says. Code in a message is taken from it and run.
The last test compares the list with the sources: every text that tells what to do has a case here
or is left out with a reason.
"""

# ruff: noqa: E501 - one case a line

from __future__ import annotations

import ast
import copy
import io
import os
import re
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest

import devices
import resmem
from resmem.__main__ import main
from resmem._devices.device import CPU
from resmem._devices.given_neighbours import lie_on_device
from resmem._devices.places import check_places
from resmem._devices.streams import stream_of
from resmem._files.container import layout
from test_errors import (
    GIVEN,
    ON_1,
    OUT,
    Named,
    Nullable,
    Sparse,
    SparseTensor,
    Tensor,
    Unreadable,
    chosen,
    chosen_all,
    divided,
    keys_there,
    known_there,
    seen_on,
    seen_there,
    typed,
    vectors,
    written,
)

RNG = np.random.default_rng(11)
N, D, C = 60, 3, 2
Z = RNG.standard_normal((N, D)).astype(np.float32)
L = RNG.standard_normal((N, C)).astype(np.float32)
Y = RNG.integers(0, C, N)
P = np.exp(L) / np.exp(L).sum(axis=1, keepdims=True)
V = RNG.standard_normal(N)
V6 = V[:6]  # of the memories of test_errors.py
FRESH = Z + np.float32(0.1)
HEAD = RNG.standard_normal((C, D)), np.zeros(C)
DAYS = [f"2024-{1 + i // 28:02}-{1 + i % 28:02}" for i in range(N)]
QUICK = {"k": [1, 2], "sigma": 1.0, "strength": 1, "temperature": 1.0, "apply": False}
CHANCES = {"output_kind": "probabilities"}


def memory(**options):
    return resmem.Memory(**{"k": 2, **options}).fit(Z, L, Y)


def labelled():
    return resmem.Memory(k=2).fit(Z, L, Y * 7)


def values_of_base():
    return resmem.Memory("regression", k=2).fit(Z, V, V)


OFF = memory()


def switched_off(mem):
    """Judge a memory by rows that it makes worse, until it is switched off."""
    far = 40 * np.eye(C)[Y].astype(np.float32)
    monitor = mem.fit(Z, far, 1 - Y).monitor(off_when_harmful=True)
    for _ in range(20):
        monitor.update(FRESH, far, Y)


class Model:
    """A classifier that knows a class which the rows lack."""

    classes_ = np.array(["ant", "cat", "dog"])


def values(**options):
    return resmem.Memory("regression", k=2, **options).fit(Z, V, V[::-1].copy())


def message_of(call):
    """Return the text of a call's error or warning, or of its result if it has neither."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            said = call()
        except (Exception, SystemExit) as error:
            return str(error)
    return str(caught[0].message) if caught else str(said)


class Follow:
    """Runs the code in a message that the group of ``pattern`` matches, with these names."""

    def __init__(self, pattern, then=None, **names):
        self.pattern, self.then, self.names = pattern, then, names

    def __call__(self, message):
        found = re.search(self.pattern, message)
        assert found, message
        result = eval(found[1], {"numpy": np, "resmem": resmem, **self.names})
        if self.then is not None:
            self.then(result)


def quietly(call):
    """Run a call and check that it warns of nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "tuning takes|tune: .* that was tried")
        return call()


BINARY = {"logits": (V, {}), "probabilities": (np.abs(P[:, 1]), CHANCES)}
TINY = 1e-41 * Z.astype(np.float64)
CUBE, BOOLS, DATES = Z.reshape(N, D, 1), Z > 0, np.arange(6).astype("datetime64[s]").reshape(2, 3)
NAMES = np.array(["cat", "dog"])[Y]
DOG = np.flatnonzero(Y == 1)[:1]
PADDED = np.where(np.arange(N) < 5, -100, Y)[None]
GAPPY = [None, *NAMES[1:].tolist()]
PAIRS = [("a", 1), ("b", 2)]
ODD = np.eye(2)
COLUMNS = dict(zip("abc", Z.T, strict=True))
FIELDS = np.array([tuple(row) for row in Z], dtype=[(name, "f4") for name in "abc"])
UNEVEN = vectors([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0])
MASK = np.arange(N) % 3 == 1
SHUFFLED = np.array([[0.5, 0.1]]), np.array([[3, 4]])


WIDE = Z.astype(np.float64)
TIMES = 1.7e9 + np.arange(8.0).reshape(4, 2)
MORE_TIMES = TIMES * 1.01 + 0.3


class NamedOutputs(Named):
    """A minimal stand-in for a DataFrame of outputs."""

    def __getitem__(self, name):
        return L[:, self.columns.index(name)]

    def __array__(self, *_args, **_kwargs):
        return L


def gated():
    return resmem.Memory(k=2, gate="distance: 1.0 to 1.0, 0.5 beyond").fit(Z, L, Y)


def ungated():
    mem = gated()
    mem.gate = "none"
    return mem


def timed():
    """Return a memory whose rows have times and groups."""
    return resmem.Memory(k=2, sigma=1.0).fit(Z, L, Y, times=np.arange(N), groups=np.arange(N))


def dated():
    """Return a memory whose rows have days."""
    return resmem.Memory(k=2, sigma=1.0).fit(Z, L, Y, times=np.array(DAYS, dtype="datetime64[D]"))


def memory_of_chances():
    return resmem.Memory(k=2, **CHANCES).fit(Z, P, Y)


def memory_of_logarithms():
    return resmem.Memory(k=2).fit(Z, np.log(P), Y)


def memory_of_far_times():
    return resmem.Memory(k=2).fit(np.concatenate([TIMES, 3 * TIMES]), L[:8], Y[:8])


def rounded(key_dtype):
    return resmem.Settings(2, 1.0, 1.0, 1.0, key_dtype=key_dtype)


def headed(embeddings):
    head = np.ones((C, 2), np.float32), None
    memory = resmem.Memory(k=2, metric="cosine", store="head", head=head)
    return memory.fit(embeddings, None, Y[: len(embeddings)])


def memory_of_times():
    return resmem.Memory(k=2).fit(TIMES, L[:4], Y[:4])


def grown(**options):
    """Return a call that adds many more rows than there were."""
    mem = resmem.Memory(k=2, **options).fit(Z[:3], L[:3], Y[:3])
    return lambda: mem.add(Z[3:], L[3:], Y[3:])


def impossible():
    """Return logits that rule out the class of the first two rows."""
    outputs = L.copy()
    outputs[[0, 1], Y[:2]] = -np.inf
    return outputs


def measured_again(message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mem = resmem.Memory(k=2).fit(Z[:3], L[:3], Y[:3]).add(Z[3:], L[3:], Y[3:])
    before = mem.sigma_
    exec(re.search(r"again: (memory\.sigma = 'auto')", message)[1], {"memory": mem})
    assert mem.sigma_ != before


def sorted_by_distance(_message):
    order = np.argsort(SHUFFLED[0])
    memory().aggregate(*(np.take_along_axis(part, order, 1) for part in SHUFFLED))


def backwards(y_true, y_pred):
    return float(np.mean(y_true == y_pred.argmax(axis=1)))


class Scorer:
    """A stand-in for a scorer of scikit-learn."""

    def __call__(self, estimator, X, y_true):
        return 0.0


def tuned_by(score):
    return memory().tune(FRESH, L, Y, score=score, greater_is_better=True, **QUICK)


def suggested_store_fits(_message):
    few = resmem.Memory.estimate(10**5, 64, 9, budget=10**8)
    half = resmem.Memory.estimate(10**6, 32, 9, budget=2 * 10**8, key_dtype="float16")
    for estimate in (few, half):
        assert estimate.suggested.nbytes <= estimate.budget


def named(pandas, order="abc"):
    return pandas.DataFrame(Z, columns=list("abc"))[list(order)]


FAKES = devices.FakeLibraries()
TWO_DEVICES, OLD_AND_NEW = GIVEN(), GIVEN(capabilities=((7, 5), (9, 0)))


def device_cases(library):
    """Return cases of messages about this library's arrays on a device."""

    def array(rows=Z, ordinal=0):
        return FAKES.array(library, rows, ordinal)

    def case(call, name, pattern, **given):
        """Return a case of a call where the message has code for the argument of this name."""

        def run(**changed):
            with devices.libraries(FAKES):
                return call(**{**given, **changed})

        return run, Follow(pattern, lambda v: run(**{name: v}), **FAKES.modules, **given)

    def search(device="cuda", **given):
        return chosen(device, TWO_DEVICES, **given)

    def read(queries):
        return seen_on(0, queries)

    def memorised(embeddings):
        return check_places({"embeddings": embeddings}, devices.device(), in_memory=True)

    def into(out):
        return written(array(), out, array(OUT[1]))

    def keys(embeddings):
        return keys_there(embeddings, preprocess="center")

    return {
        "order": case(read, "queries", r"pass (.*)", queries=array(np.asfortranarray(Z))),
        "dtype": case(read, "queries", r"pass (.*)", queries=array(Z.astype(int))),
        "apart": case(search, "rows", r"pass (.*)", queries=array(), rows=array(ordinal=1)),
        "device": case(search, "device", r"pass device=(.*) or", device="cuda:0", rows=array(Z, 1)),
        "host": case(search, "rows", r"' or (.*)", device="cpu", rows=array()),
        "memory": case(memorised, "embeddings", r"or pass (.*)", embeddings=array(ordinal=1)),
        "out": case(into, "out", r"pass (.*)", out=OUT[0]),
        "before": case(seen_there, "before", r"pass (.*)", before=array(V6), times=V6),
        "one place": case(lie_on_device, "distances", r"pass (.*)", distances=array(), ids=Z),
        "on the CPU": case(memory().explain, "embeddings", r"pass (.*)", embeddings=array(), top=1),
        "keys": case(keys, "embeddings", r"pass (.*)", embeddings=array()),
    }


OTHER_ROWS = {
    "store": "sparse:1",
    "residual_dtype": "float16",
    "preprocess": "unit",
    "key_dtype": "float16",
}
MERGED = memory()


def memory_at(first, **options):
    outputs = None if options.get("store") == "head" else L
    return resmem.Memory(**{"k": 2, **options}).fit(
        Z + first, outputs, Y, ids=np.arange(first, first + N)
    )


def memory_of(columns, first=0):
    return resmem.Memory(k=2).fit(Named(columns), L[:6], Y[:6], ids=np.arange(first, first + 6))


def merging(mine=None, **theirs):
    """Return a call that merges two memories whose arguments differ."""
    return lambda: memory_at(0, **(mine or {})).merge(memory_at(100, **theirs))


def argument_in(message):
    """Return the argument that a message says to fit with, by name."""
    name, value = re.search(r"again with (\w+)=(.*)$", message).groups()
    return {name: eval(value)}


def merged_again(message):
    memory_at(0).merge(memory_at(100, **argument_in(message)))


def merged_copy(message):
    """Make a memory as the message says, of a copy without its rows."""
    mine = memory_at(0, preprocess="center")
    other = eval(re.search(r"this one: (.*?), remove", message)[1], {"copy": copy, "memory": mine})
    other.remove(other.ids).add(Z, L, Y, ids=np.arange(N) + 100)
    mine.merge(other)


def saved_index():
    resmem.Index(Z).save("i.resmem")
    return "i.resmem"


# By name: a call that causes a message, and a function that does what the message says.
CASES = {
    # arguments by other names
    "n_neighbors": (lambda: resmem.Memory(n_neighbors=5), lambda m: resmem.Memory(**{after_use(m): 5})),
    "typo": (lambda: resmem.Memory(temprature=2), lambda m: resmem.Memory(**{after_use(m): 2})),
    "attribute": (lambda: setattr(memory(), "n_neighbors", 5), lambda m: setattr(memory(), after_use(m), 5)),
    "metric": (lambda: resmem.Memory(space="cosine"), lambda m: resmem.Memory(**{after_use(m): "cosine"})),
    "weights": (lambda: resmem.Memory(weights="uniform"), Follow(r"sigma=(float\('inf'\))", lambda v: memory(sigma=v))),
    "n_jobs": (lambda: resmem.Memory(n_jobs=2), lambda m: memory().predict(FRESH, L, threads=2)),
    "dict as settings": (lambda: memory().use({"k": 3}), lambda m: exec(m.split("by name: ")[1], {"memory": memory()})),
    "tune result as settings": (lambda: memory().use(RESULT), lambda m: memory().use(RESULT.best)),
    "age without times": (lambda: memory(max_age=3), Follow(r"fit with times=(.*), say", lambda t: resmem.Memory(max_age=3).fit(Z, L, Y, times=t), n=N)),
    "age is not wanted": (lambda: memory(max_age=3), Follow(r"or set max_age=(.*)", lambda age: memory(max_age=age))),
    "no losses": (lambda: values_of_base().monitor(), Follow(r"pass cut=(.*), say", lambda cut: values_of_base().monitor(cut=cut))),
    "switched off": (lambda: switched_off(OFF), lambda m: exec(m.split("again, set ")[1], {"memory": OFF})),
    # arrays
    "bool": (lambda: resmem.search(BOOLS, Z, 1), Follow(r"example with (.*)", lambda q: resmem.search(q, Z, 1), queries=BOOLS)),
    "object": (lambda: resmem.search(Z.astype(object), Z, 1), Follow(r"example with (.*)", lambda q: resmem.search(q, Z, 1), queries=Z.astype(object))),
    "list of bools": (lambda: resmem.search(BOOLS.tolist(), Z, 1), Follow(r"example with (.*)", lambda q: resmem.search(q, Z, 1), queries=BOOLS.tolist())),
    "dates": (lambda: resmem.search(DATES, Z, 1), Follow(r"example with (.*)", lambda q: resmem.search(q, q, 1), queries=DATES)),
    "complex": (lambda: resmem.search(Z * 1j, Z * 1j, 1), Follow(r"its parts, (.*)", lambda r: resmem.search(r, r, 1), rows=Z * 1j)),
    "single row": (lambda: resmem.search(Z[0], Z, 1), Follow(r"row is (.*)", lambda q: resmem.search(q, Z, 1), queries=Z[0])),
    "single list": (lambda: memory().kneighbors([1, 2, 3]), Follow(r"row is (.*)", memory().kneighbors, embeddings=[1, 2, 3])),
    "three dimensions": (lambda: resmem.search(CUBE, Z, 1), Follow(r"row per example, pass (.*)", lambda q: resmem.search(q, Z, 1), queries=CUBE)),
    "floats as ids": (lambda: memory().remove([0.0, 2.0]), Follow(r"convert it with (.*)", memory().remove, ids=[0.0, 2.0])),
    "rows of positions": (lambda: memory().kneighbors(Z[None]), Follow(r"per position, pass (.*); for one row per ex", memory().kneighbors, embeddings=Z[None])),
    "mask": (lambda: memory().remove(MASK), Follow(r"for a mask, pass (.*)", lambda ids: np.testing.assert_array_equal(np.sort(np.unique(memory().remove(ids).kneighbors(Z, k=N)[1])[1:]), np.flatnonzero(~MASK)), ids=MASK)),
    "values as classes": (lambda: resmem.Memory().fit(Z, L, V), Follow(r"not classes, use task=('regression')", lambda v: resmem.Memory(v).fit(Z, V, V))),
    "values as outputs": (lambda: resmem.Memory().fit(Z, V, V), Follow(r"to predict use task=('regression')", lambda v: resmem.Memory(v).fit(Z, V, V))),
    "classes as values": (lambda: resmem.Memory("regression").fit(Z, L, Y), Follow(r"for classes use task=('classification')", lambda v: resmem.Memory(v).fit(Z, L, Y))),
    "probabilities for logarithms": (lambda: memory_of_logarithms().predict(FRESH, P), Follow(r"log-probabilities, pass (.*)", lambda o: quietly(lambda: memory_of_logarithms().predict(FRESH, o)), outputs=P)),
    "column of values to judge": (lambda: values().evaluate(FRESH, V, V[:, None]), Follow(r"pass (.*)", lambda y: values().evaluate(FRESH, V, y), targets=V[:, None])),
    "shares of classes": (lambda: resmem.Memory().fit(Z, L, P), Follow(r"largest value, pass (.*)", lambda y: resmem.Memory().fit(Z, L, y), targets=P)),
    "shares of classes, evaluated": (lambda: memory().evaluate(FRESH, L, P), Follow(r"largest value, pass (.*)", lambda y: memory().evaluate(FRESH, L, y), targets=P)),
    "one-hot of other columns": (lambda: memory().tune(FRESH, L, np.eye(3)[Y]), Follow(r"largest value, pass (.*), and", lambda y: memory().tune(FRESH, L, y, **QUICK), targets=np.eye(3)[Y])),
    "tokens": (lambda: resmem.Memory().fit(Z[None], L[None], PADDED), Follow(r"use (resmem.tokens.*)", lambda rows: resmem.Memory().fit(*rows), embeddings=Z[None], outputs=L[None], targets=PADDED)),
    "tokens as targets": (lambda: memory().evaluate(FRESH, L, PADDED), Follow(r"use (resmem.tokens.*)", lambda rows: memory().evaluate(*rows), embeddings=FRESH[None], outputs=L[None], targets=PADDED)),
    "tokens without a label": (lambda: memory().add(Z, L, PADDED[0]), Follow(r"use (resmem.tokens.*)", lambda rows: memory().add(*rows), embeddings=Z, outputs=L, targets=PADDED[0])),
    "labelled tokens without a label": (lambda: labelled().add(Z, L, np.where(PADDED[0] < 0, -100, 7)), Follow(r"use (resmem.tokens.*)", lambda rows: memory().add(*rows), embeddings=Z, outputs=L, targets=PADDED[0])),
    "too many columns for labels": (lambda: resmem.Memory().fit(Z, Z, NAMES), Follow(r"has: (.*)", lambda m: m.fit(Z, Z, NAMES), model=Model)),
    "unknown label": (lambda: labelled().add(Z, L, Y * 7 + 1), Follow(r"labels are (.*)", lambda some: labelled().add(Z[some], L[some], (Y * 7 + 1)[some]), targets=Y * 7 + 1, memory=labelled())),
    "label of one row missing": (lambda: resmem.Memory().fit(Z, L, GAPPY), lambda m: resmem.Memory().fit(Z[1:], L[1:], GAPPY[1:])),
    "pairs as labels": (lambda: resmem.Memory(classes=PAIRS), Follow(r"text of them, (.*)", lambda c: resmem.Memory(classes=c), classes=PAIRS)),
    "text and numbers as labels": (lambda: resmem.Memory(classes=["a", 1]), Follow(r"text of them, (.*)", lambda c: resmem.Memory(classes=c), classes=["a", 1])),
    "bytes as labels": (lambda: resmem.Memory().fit(Z, L, NAMES.astype("S3")), Follow(r"example with (.*)", lambda y: resmem.Memory().fit(Z, L, y), targets=NAMES.astype("S3"))),
    "labels for one column": (lambda: resmem.Memory().fit(Z, V[:, None], NAMES), Follow(r"both columns, (.*)", lambda o: resmem.Memory().fit(Z, o, NAMES), outputs=V[:, None])),
    "one column of probabilities": (lambda: resmem.Memory(**CHANCES).fit(Z, P[:, 1:], Y), Follow(r"two classes, pass (.*)", lambda o: resmem.Memory(**CHANCES).fit(Z, o, Y), outputs=P[:, 1:])),
    "one column of two, later": (lambda: memory().predict(FRESH, L[:, 1:]), Follow(r"both columns, (.*)", lambda o: memory().predict(FRESH, o), outputs=L[:, 1:])),
    "one column of probabilities, later": (lambda: memory_of_chances().predict(FRESH, P[:, 1:]), Follow(r"two classes, pass (.*)", lambda o: np.testing.assert_array_equal(memory_of_chances().predict(FRESH, o), memory_of_chances().predict(FRESH, P)), outputs=P[:, 1:])),
    "long labels": (lambda: resmem.Memory(classes=[2**23 * "a", "b"]), lambda m: resmem.Memory(classes=["a", "b"])),
    "no base model": (lambda: resmem.Memory().fit(Z, None, Y), Follow(r"use output_kind=('none')", lambda v: resmem.Memory(output_kind=v).fit(Z, None, Y))),
    "open file": (lambda: memory().save(io.BytesIO()), lambda m: memory().save(eval(re.search(r"such as (os.*\)) and", m)[1], {"os": os, "tempfile": tempfile}))),
    "times as text": (lambda: memory().tune(FRESH, L, Y, times=DAYS), Follow(r"convert them with (.*)", lambda t: memory().tune(FRESH, L, Y, times=t, **QUICK), times=DAYS)),
    "groups and times": (lambda: memory().tune(FRESH, L, Y, groups=np.arange(N), times=np.arange(N)), lambda m: [memory().tune(FRESH, L, Y, **{name: np.arange(N)}, **QUICK) for name in re.findall("groups|times", m)[:2]]),
    "folds that cut groups": (lambda: memory().tune(FRESH, L, Y, groups=np.arange(N) // 2, folds=np.arange(N) % 2), lambda m: [memory().tune(FRESH, L, Y, **given, **QUICK, methods="residual") for given in ({"groups": np.arange(N) // 2, "folds": 2}, {"folds": np.arange(N) % 2})]),
    "one_se in time": (lambda: memory().tune(FRESH, L, Y, times=np.arange(N), rule="one_se"), Follow(r"give rule=('best')", lambda rule: memory().tune(FRESH, L, Y, times=np.arange(N), rule=rule, **QUICK))),
    "float classes": (lambda: memory().add(Z, L, (Y + 0.25).tolist()), Follow(r"convert it with (.*), or,", lambda y: memory().add(Z, L, y), targets=(Y + 0.25).tolist())),
    "named classes of some rows": (lambda: memory().add(Z[1:2], L[1:2], NAMES[DOG]), Follow(r"columns of outputs, (.*), where", lambda y: np.testing.assert_array_equal(y, [1]), targets=NAMES[DOG], classes=np.array(["cat", "dog"]))),
    "classes from 1": (lambda: memory().add(Z, L, (Y + 1).tolist()), Follow(r"from 1, pass (.*)", lambda y: memory().add(Z, L, y), targets=(Y + 1).tolist())),
    "one column for two classes": (lambda: resmem.Memory().fit(Z, V[:, None], Y), Follow(r"both columns, (.*)", lambda o: resmem.Memory().fit(Z, o, Y), outputs=V[:, None])),
    **{f"second column of two, {kind}": (lambda o=o, s=s: resmem.Memory(**s).fit(Z, o, Y), Follow(r"classes become (.*)", lambda o, s=s: quietly(lambda: resmem.Memory(**s).fit(Z, o, Y)), outputs=o)) for kind, (o, s) in BINARY.items()},
    "outputs and targets swapped": (lambda: resmem.Memory().fit(Z, Y, L), lambda m: resmem.Memory().fit(Z, L, Y)),
    "percent as probabilities": (lambda: resmem.Memory(**CHANCES).fit(Z, 100 * P, Y), Follow(r"for percentages, pass (.*)", lambda o: resmem.Memory(**CHANCES).fit(Z, o, Y), outputs=100 * P)),
    "raw scores": (lambda: resmem.Memory(**CHANCES).fit(Z, L, Y), Follow(r"use output_kind=('logits')", lambda v: resmem.Memory(output_kind=v).fit(Z, L, Y))),
    "masked array": (lambda: resmem.search(np.ma.masked_array(Z), Z, 1), lambda m: resmem.search(np.ma.masked_array(Z).filled(0), Z, 1)),
    "tensor that requires grad": (lambda: resmem.search(Tensor(Z, requires_grad=True), Z, 1), Follow(r"pass (.*)", lambda q: resmem.search(q, Z, 1), queries=Tensor(Z, requires_grad=True))),
    "tensor on a GPU": (lambda: resmem.search(Tensor(Z, "cuda:0"), Z, 1), Follow(r"pass (.*)", lambda q: resmem.search(q, Z, 1), queries=Tensor(Z, "cuda:0"))),
    "tensor on a GPU that requires grad": (lambda: resmem.search(Tensor(Z, "cuda:0", True), Z, 1), Follow(r"pass (.*)", lambda q: resmem.search(q, Z, 1), queries=Tensor(Z, "cuda:0", True))),
    "sparse": (lambda: resmem.search(Sparse(), Z, 1), Follow(r"pass (.*), or", lambda q: resmem.search(q, q, 1), queries=Sparse())),
    "sparse tensor": (lambda: resmem.search(SparseTensor(), Z, 1), Follow(r"pass (.*)", lambda q: resmem.search(q, q, 1), queries=SparseTensor())),
    "dict of columns": (lambda: resmem.search(COLUMNS, Z, 1), Follow(r"pass (.*), a column", lambda q: np.testing.assert_array_equal(q, Z), queries=COLUMNS)),
    "generator": (lambda: resmem.search((z for z in Z), Z, 1), Follow(r"pass (.*)", lambda q: resmem.search(q, Z, 1), queries=(z for z in Z))),
    "set": (lambda: resmem.search({1.0, 2.0}, Z, 1), lambda m: resmem.search([[1.0], [2.0]], [[1.0]], 1)),
    "structured": (lambda: resmem.search(FIELDS, Z, 1), Follow(r"its fields, (.*)", lambda q: np.testing.assert_array_equal(q, Z), queries=FIELDS)),
    "numbers as text": (lambda: resmem.search(Z.astype(str), Z, 1), Follow(r"numbers by (.*)", lambda q: resmem.search(q, Z, 1), queries=Z.astype(str))),
    "vectors of two lengths": (lambda: resmem.search(UNEVEN, Z, 1), lambda m: resmem.search(UNEVEN[:2], Z, 1)),
    "missing number": (lambda: resmem.search(Nullable(), Z, 1), Follow(r"example with (.*)", lambda q: resmem.search(q, q, 1), queries=Nullable())),
    "unreadable": (lambda: resmem.search(Unreadable(), Z, 1), lambda m: resmem.search(Z, Z, 1)),
    "ragged": (lambda: resmem.search([[1, 2, 3], [4]], Z, 1), lambda m: resmem.search(np.zeros((2, 3)), Z, 1)),
    "path as array": (lambda: resmem.search("z.npy", Z, 1), Follow(r"; (numpy\.load.*) reads", lambda q: resmem.search(q, Z, 1), path="z.npy")),
    "unsorted distances": (lambda: memory().aggregate(*SHUFFLED), sorted_by_distance),
    # settings
    "store": (lambda: resmem.Memory(store="sparse"), Follow(r"such as ('sparse:32')", lambda v: memory(store=v))),
    "too many dimensions": (lambda: memory(preprocess="pca:4"), lambda m: memory(preprocess="pca:3")),
    "too small to whiten": (lambda: resmem.Memory(preprocess="whiten:3").fit(TINY, L, Y), lambda m: resmem.Memory(preprocess="whiten:3").fit(1e41 * TINY, L, Y)),
    "too large to centre": (lambda: resmem.Memory(preprocess="center").fit(np.repeat([[-3.4e38], [3.4e38]], [50, 10], axis=0), L, Y), lambda m: resmem.Memory(preprocess="center").fit(np.repeat([[-3.4], [3.4]], [50, 10], axis=0), L, Y)),
    "too large for float16": (lambda: memory(key_dtype="float16").add(1e6 * Z, L, Y), Follow(r"or use key_dtype=('bfloat16' or 'float32')", lambda v: memory(key_dtype=v).add(1e6 * Z, L, Y))),
    "residuals too large": (lambda: resmem.Memory("regression", residual_dtype="float16").fit(Z, V, V + 1e6), Follow(r"or use residual_dtype=('float\d+')", lambda v: resmem.Memory("regression", residual_dtype=v).fit(Z, V, V + 1e6))),
    "residuals too large, rescaled": (lambda: resmem.Memory("regression", residual_dtype="float16").fit(Z, V, V + 1e6), lambda m: resmem.Memory("regression", residual_dtype="float16").fit(Z, V / 1e6, V / 1e6 + 1)),
    "fixed temperature": (lambda: setattr(memory(store="sparse:1"), "temperature", 2), Follow(r"or use store=('dense')", lambda v: setattr(memory(store=v), "temperature", 2))),
    "fixed temperature, fitted again": (lambda: setattr(memory(store="sparse:1"), "temperature", 2), lambda m: memory(store="sparse:1", temperature=2)),
    "weight of (d, C)": (lambda: resmem.Memory(store="head", head=(HEAD[0].T, np.zeros(D))).fit(Z, None, Y), Follow(r"pass (weight\.T)", lambda w: resmem.Memory(store="head", head=(w, None)).fit(Z, None, Y), weight=HEAD[0].T)),
    "keys made anew": (lambda: memory(preprocess="unit").tune(FRESH, L, Y, preprocess=["center"], **QUICK), lambda m: memory(preprocess="none", key_dtype="float32").tune(FRESH, L, Y, preprocess=["center"], **QUICK)),
    "metric of a memory": (lambda: setattr(memory(), "metric", "cosine"), lambda m: eval(re.search(r"; (.*)\.\.\)", m)[1] + "'cosine')").fit(Z, L, Y)),
    "keys of a memory": (lambda: setattr(memory(), "preprocess", "center"), lambda m: exec("import dataclasses; " + re.search(r"; (memory\.use.*=)\.\.", m)[1] + "'center'))", {"memory": memory()})),
    "keys of cosines made anew": (lambda: memory(metric="cosine", key_dtype="float64").tune(FRESH, L, Y, preprocess=["center"], **QUICK), Follow(r"with key_dtype=('float32')", lambda v: memory(metric="cosine", key_dtype=v).tune(FRESH, L, Y, preprocess=["center"], **QUICK))),
    "squares of cosines": (lambda: memory(metric="cosine").kneighbors(FRESH, squared=True), lambda m: memory(metric="cosine").kneighbors(FRESH)),
    "rounded for a head, by cosine": (lambda: headed(TIMES), Follow(r"pass (numpy\.float32.*) if", lambda z: quietly(lambda: headed(z)), embeddings=TIMES)),
    # methods
    "not fitted": (lambda: resmem.Memory().predict(Z, L), lambda m: resmem.Memory().fit(Z, L, Y).predict(Z, L)),
    "proba of values": (lambda: values().predict_proba(FRESH, V), lambda m: values().predict(FRESH, V)),
    "tune()": (lambda: memory().tune(), lambda m: (memory().tune(FRESH, L, Y, **QUICK), memory().tune(loo=True, **QUICK))),
    "tune(loo) of rows": (lambda: memory().tune(FRESH, L, Y, loo=True), lambda m: memory().tune(loo=True, **QUICK)),
    "tune(loo) of a sparse store": (lambda: memory(store="sparse:1").tune(loo=True), lambda m: memory(store="sparse:1").tune(FRESH, L, Y, **QUICK)),
    "evaluate()": (lambda: memory().evaluate(), lambda m: (memory().evaluate(FRESH, L, Y), quietly(lambda: memory().evaluate(loo=True)))),
    "evaluate(loo) of rows": (lambda: memory().evaluate(FRESH, L, Y, loo=True), lambda m: quietly(lambda: memory().evaluate(loo=True))),
    "evaluate(loo) of a sparse store": (lambda: memory(store="sparse:1").evaluate(loo=True), lambda m: memory(store="sparse:1").evaluate(FRESH, L, Y)),
    "a group that is no label": (lambda: resmem.Index(ODD, groups=[{1}, "a"]), Follow(r"place, (.*)", lambda text: resmem.Index(ODD, groups=[text, "a"]), label={1})),
    "groups in lists": (lambda: resmem.Index(ODD, groups=[["a"], "b"]), lambda m: resmem.Index(ODD, groups=["a", "b"])),
    "excluded groups in short lists": (lambda: timed().kneighbors(Z[:2], exclude_groups=[[1, 2], [3]]), lambda m: timed().kneighbors(Z[:2], exclude_groups=[[1, 2], [3, -1]])),
    "excluded groups of tuples": (lambda: timed().kneighbors(Z[:2], exclude_groups=PAIRS), lambda m: [Follow(p, lambda g: timed().kneighbors(Z[:2], exclude_groups=g), exclude_groups=PAIRS)(m) for p in (r"pass (.*), or,", r"a query, (.*)")]),
    "times of text": (lambda: resmem.Memory(k=2).fit(Z, L, Y, times=DAYS), Follow(r"pass (.*) \(of", lambda t: resmem.Memory(k=2).fit(Z, L, Y, times=t), times=DAYS)),
    "times of some rows": (lambda: timed().add(FRESH, L, Y), lambda m: (timed().add(FRESH, L, Y, times=Y), memory().add(FRESH, L, Y))),
    "before a date as text": (lambda: dated().correct(FRESH, L, before=DAYS[3]), Follow(r"pass (.*)", lambda t: dated().correct(FRESH, L, before=t), before=DAYS[3])),
    "before without times": (lambda: memory().correct(FRESH, L, before=Y), lambda m: timed().add(FRESH, L, Y, times=Y).correct(FRESH, L, before=Y)),
    "excluded groups without groups": (lambda: memory().correct(FRESH, L, exclude_groups=Y), lambda m: (timed().correct(FRESH, L, exclude_groups=Y), memory().add(FRESH, L, Y, groups=Y).correct(FRESH, L, exclude_groups=Y))),
    "groups of queries that are no rows": (lambda: timed().correct(FRESH, L, exclude_groups="own"), lambda m: (timed().correct(FRESH, L, exclude_groups=Y), quietly(lambda: timed().evaluate(loo=True, exclude_groups="own")))),
    "merge without times": (lambda: timed().merge(memory()), lambda m: timed().merge(resmem.Memory(k=2).fit(Z, L, Y, ids=np.arange(N, 2 * N), times=Y))),
    "columns named like labels": (lambda: resmem.Memory().fit(Z, NamedOutputs(["dog", "cat"]), NAMES), Follow(r"order, (.*)$", lambda mem: mem.fit(Z, NamedOutputs(["dog", "cat"]), NAMES))),
    "a class beyond those of fit": (lambda: resmem.Memory(output_kind="none").fit(Z, None, Y).add(FRESH[:1], None, [5]), Follow(r"classes=(.*)\)$", lambda classes: resmem.Memory(output_kind="none", classes=classes).fit(Z, None, Y).add(FRESH[:1], None, [5]))),
    "published of other classes": (lambda: memory().evaluate(FRESH, L, Y, published=resmem.Memory(k=2).fit(Z, L, NAMES)), lambda m: memory().evaluate(FRESH, L, Y, published=memory())),
    "one time for all rows": (lambda: memory().tune(FRESH, L, Y, times=np.zeros(N), **QUICK), lambda m: memory().tune(FRESH, L, Y, **QUICK)),
    "tune nothing": (lambda: resmem.Memory().fit(Z[:0], L[:0], Y[:0]).tune(FRESH, L, Y), lambda m: memory().tune(FRESH, L, Y, **QUICK)),
    "score backwards": (lambda: tuned_by(backwards), Follow(r"pass (lambda .*?), and where", tuned_by, backwards=backwards)),
    "scorer": (lambda: tuned_by(Scorer()), Follow(r"pass (lambda .*)", tuned_by, f=backwards)),
    "report of positions": (lambda: resmem.report("r.html", EVALUATION), lambda m: resmem.report("r.html", **{re.search(r"by name, (\w+)=", m)[1]: EVALUATION})),
    "empty report": (lambda: resmem.report("r.html"), lambda m: [resmem.report("r.html", **given) for given in ({"tuning": RESULT}, {"evaluation": EVALUATION}, {"explanation": EXPLANATION})]),
    "report of other rows": (lambda: resmem.report("r.html", None, EVALUATION, EXPLANATION), lambda m: resmem.report("r.html", None, EVALUATION, EXPLANATION, rows=[0, 1])),
    # data that seem to be something else
    "probabilities": (lambda: resmem.Memory().fit(Z, P, Y), Follow(r"output_kind=('probabilities')$", lambda v: quietly(lambda: resmem.Memory(output_kind=v).fit(Z, P, Y)))),
    "percent as logits": (lambda: resmem.Memory().fit(Z, 100 * P, Y), Follow(r"output_kind=('probabilities') and divide", lambda v: quietly(lambda: resmem.Memory(output_kind=v).fit(Z, 100 * P / 100, Y)))),
    "own rows": (lambda: memory().evaluate(Z, L, Y), Follow(r", or (evaluate\(.*\))", evaluate=lambda **given: quietly(lambda: (memory().evaluate(**given), memory().evaluate(Z, L, Y, exclude_ids=np.arange(N)), memory().evaluate(FRESH, L, Y))))),
    "own rows, tuned": (lambda: memory().tune(Z, L, Y, k=[1, 60], sigma=[1e-9, np.inf], strength=1, temperature=[0.1, 1.0, 9], apply=False), lambda m: memory().tune(loo=True, **QUICK)),
    "cosines beside a gate by distance": (lambda: gated().aggregate(*NEAR, metric="cosine"), lambda m: (gated().aggregate(*NEAR), ungated().aggregate(*NEAR, metric="cosine"))),
    "squared distances": (lambda: memory().aggregate(NEAR[0] ** 2, NEAR[1]), Follow(r"pass metric=(.*)", lambda v: quietly(lambda: memory().aggregate(NEAR[0] ** 2, NEAR[1], metric=v)))),
    # numbers that float32 does not hold
    "too large to square": (lambda: resmem.search(1e150 * WIDE, 1e150 * WIDE, 1), lambda m: resmem.search(WIDE, WIDE, 1)),
    "rounded rows": (lambda: resmem.Memory(k=2, key_dtype="float32").fit(TIMES, L[:4], Y[:4]), Follow(r"use key_dtype=('auto')", lambda v: quietly(lambda: resmem.Memory(k=2, key_dtype=v).fit(TIMES, L[:4], Y[:4])))),
    "rounded later": (lambda: memory_of_times().add(MORE_TIMES, L[:4], Y[:4]), Follow(r"again, with key_dtype=('float64')", lambda v: quietly(lambda: resmem.Memory(k=2, key_dtype=v).fit(np.vstack([TIMES, MORE_TIMES]), L[:8], Y[:8])))),
    "rounded queries": (lambda: memory_of_times().kneighbors(MORE_TIMES), Follow(r"again with key_dtype=('float64')", lambda v: quietly(lambda: resmem.Memory(k=2, key_dtype=v).fit(TIMES, L[:4], Y[:4]).kneighbors(MORE_TIMES)))),
    "rounded keys": (lambda: memory_of_far_times().use(rounded("float32")), Follow(r"use key_dtype=('float64')", lambda v: quietly(lambda: memory_of_far_times().use(rounded(v))))),
    "beyond float32": (lambda: memory().kneighbors(WIDE * 1e39), lambda m: quietly(lambda: memory().kneighbors(WIDE * 1e9))),
    "beyond float32 after preprocess": (lambda: memory(preprocess="center").kneighbors(WIDE * 1e39), lambda m: quietly(lambda: memory(preprocess="center").kneighbors(WIDE))),
    "wide keys of a linear map": (lambda: resmem.Memory(key_dtype="float64", preprocess="pca:2"), Follow(r"use key_dtype=('auto')", lambda v: memory(key_dtype=v, preprocess="pca:2"))),
    # measurements that were outgrown
    "outgrown sigma": (lambda: grown()(), measured_again),
    "outgrown preprocess": (lambda: grown(sigma=1.0, preprocess="center")(), lambda m: quietly(lambda: resmem.Memory(k=2, preprocess="center").fit(Z, L, Y))),
    # an infinite loss
    "evaluated without these rows": (lambda: memory().evaluate(FRESH, impossible(), Y), lambda m: quietly(lambda: memory().evaluate(FRESH[2:], impossible()[2:], Y[2:]))),
    "tuned by another score": (lambda: memory().tune(FRESH, impossible(), Y, **QUICK), Follow(r"such as score=('\w+')", lambda v: quietly(lambda: memory().tune(FRESH, impossible(), Y, score=v, **QUICK)))),
    # intervals and sets
    "interval of classes": (lambda: memory().predict_interval(FRESH, L, None), lambda m: getattr(memory(), after_use(m))(FRESH, L, calibrated(memory())[1])),
    "set of values": (lambda: values().predict_set(FRESH, V, None), lambda m: getattr(values(), after_use(m))(FRESH, V, calibrated(values())[1])),
    "interval of no calibration": (lambda: values().predict_interval(FRESH, V, 0.9), lambda m: values().predict_interval(FRESH, V, calibrated(values())[1])),
    "calibration of other settings": (lambda: values(strength=0.5).predict_interval(FRESH, V, calibrated(values())[1]), lambda m: values(strength=0.5).predict_interval(FRESH, V, calibrated(values(strength=0.5))[1])),
    "calibration of fewer rows": (lambda: with_more(*calibrated(memory())), lambda m: quietly(lambda: with_more(memory()))),
    "too few to calibrate on": (lambda: memory().predict_set(FRESH, L, calibrated(memory(), 8)[1]), lambda m: quietly(lambda: memory().predict_set(FRESH, L, calibrated(memory(), int(re.search(r"at least (\d+)", m)[1]))[1]))),
    # files
    "export by save": (lambda: memory().save("m.npz"), lambda m: memory().export("m.npz")),
    "append to nothing": (lambda: memory().save("m.resmem", append=True), lambda m: memory().save("m.resmem")),
    "changed file": (lambda: changed_elsewhere().save("c.resmem", append=True), lambda m: resmem.Memory.load("c.resmem").add(Z, L, Y).save("c.resmem", append=True)),
    "empty file": (lambda: resmem.Memory.load("empty"), lambda m: resmem.Memory.load(saved())),
    "another file": (lambda: resmem.Memory.load("z.npy"), lambda m: resmem.Memory.load(saved())),
    "damaged file": (lambda: resmem.Memory.load(damaged()), lambda m: resmem.Memory.load(memory().save("damaged.resmem") and "damaged.resmem")),
    "plain arrays": (lambda: resmem.Memory.load("arrays.npz"), lambda m: resmem.Memory().fit(**np.load("arrays.npz"))),
    # devices
    **{f"{name} of {library}": case for library in ("torch", "cupy", "numba") for name, case in device_cases(library).items()},
    "squares on a device": (lambda: known_there(metric="sqeuclidean"), Follow(r"with metric=('.*')", lambda m: known_there(metric=m))),
    "no device": (lambda: chosen_all([]), Follow(r"pass ('cpu') or", lambda name: chosen(name, TWO_DEVICES))),
    "rows there, two devices": (divided, Follow(r"pass device=('.*'), or", lambda name: chosen(name, TWO_DEVICES, rows=devices.Exporter(Z)))),
    "bytes of no device": (lambda: memory().to("cpu", resident_bytes=5), lambda m: memory().to("cpu")),
    "device of another library": (lambda: chosen(devices.Named("cuda:1")), Follow(r"pass (str\(device\))", lambda name: chosen(name, TWO_DEVICES), device=devices.Named("cuda:1"))),
    "old device": (lambda: chosen("cuda", OLD_AND_NEW), Follow(r"use device=('.*')", lambda name: chosen(name, OLD_AND_NEW))),
    "only old devices": (lambda: chosen("cuda", GIVEN(capabilities=((7, 5),))), Follow(r"use device=('.*')", lambda name: chosen(name, GIVEN(capabilities=((7, 5),))))),
    "stream of the CPU": (lambda: stream_of(5, [Z], CPU), lambda m: (stream_of(None, [Z], CPU), stream_of(5, [Z], devices.device()))),
    "out on the host": (lambda: written(Z, OUT[0].T, OUT[1]), Follow(r"pass (.*)", lambda out: written(Z, out, OUT[1]))),
    "memory on another device": (lambda: check_places({"embeddings": ON_1}, CPU, in_memory=True), Follow(r"memory\.to\(('.*')\)", lambda name: check_places({"embeddings": ON_1}, chosen(name, TWO_DEVICES), in_memory=True))),
    "float64 beside float32": (lambda: typed(Z.astype(float), Z), Follow(r"pass (.*)", lambda queries: typed(queries, Z), queries=Z.astype(float))),
    "float64 cosine": (lambda: typed(Z, Z.astype(float), "cosine"), Follow(r"use device=('cpu')", lambda device: resmem.search(Z, Z.astype(float), 1, "cosine", device=device))),
    # rows by id
    **{f"merge of another {name}": (merging(**{name: theirs}), merged_again) for name, theirs in OTHER_ROWS.items()},
    "merge of itself": (lambda: MERGED.merge(MERGED), lambda m: memory().merge(memory_at(100))),
    "merge of a sparse store": (merging(store="sparse:1", temperature=2.0, mine={"store": "sparse:1"}), lambda m: memory_at(0, store="sparse:1").merge(memory_at(100, store="sparse:1", **argument_in(m)))),
    "merge of another preprocess fit": (merging(preprocess="center", mine={"preprocess": "center"}), merged_copy),
    "merge of another head": (merging(store="head", head=(HEAD[0] + 1, HEAD[1]), mine={"store": "head", "head": HEAD}), lambda m: memory_at(0, store="head", head=HEAD).merge(memory_at(100, store="head", head=HEAD))),
    "merge of other columns": (lambda: memory_of("abc").merge(memory_of("bac", 100)), lambda m: memory_of("abc").merge(memory_of("abc", 100))),
    "file of an index": (lambda: resmem.Memory.load(saved_index()), lambda m: exec(m.split("load it with ")[1] + "('i.resmem')", {"resmem": resmem})),
    "file of a memory": (lambda: resmem.Index.load(saved()), lambda m: exec(m.split("load it with ")[1] + "('s.resmem')", {"resmem": resmem})),
    "index as an export": (lambda: resmem.Index(Z).save("i.npz"), lambda m: resmem.Index(Z).save("i" + m.split("such as ")[1])),
    "query of an index": (lambda: resmem.Index(1.7e9 + WIDE).search([[5e17, 1.0, 1.0]], 1), Follow(r"key_dtype=('float64')", lambda v: quietly(lambda: resmem.Index(1.7e9 + WIDE, key_dtype=v).search([[5e17, 1.0, 1.0]], 1)))),
    # pruning
    "prune at strength 0": (lambda: memory(strength=0.0).prune(), lambda m: exec(m.split("; set ")[1].split(",")[0] + "; memory.prune()", {"memory": memory(strength=0.0)})),
    "prune of some own rows": (lambda: memory().prune(targets=Y), lambda m: memory_at(0).prune()),
    "prune of a sparse store": (lambda: memory(store="sparse:1").prune(), lambda m: quietly(lambda: memory(store="sparse:1").prune(FRESH, L, Y))),
    # estimates
    "no store fits": (lambda: resmem.Memory.estimate(10**6, 64, 9, budget=10**8), suggested_store_fits),
}  # fmt: skip

COMMANDS = {
    "exists": ("fit m.resmem ROWS", "fit m.resmem ROWS --force"),
    "fit an export": ("fit m.npz ROWS", ("fit n.resmem ROWS", "export n.resmem n.npz")),
    "merge that exists": ("merge m.resmem o.resmem --output s.resmem", "merge m.resmem o.resmem --output s.resmem --force"),
    "merge into an export": ("merge m.resmem o.resmem --output x.npz", ("merge m.resmem o.resmem --output x.resmem", "export x.resmem x.npz")),
    "get twice standard output": ("get m.resmem --output - --json", "get m.resmem --output g.npz --json"),
    "nothing to add": ("add m.resmem", ("add m.resmem ROWS", "add m.resmem --remove 3")),
    "twice standard output": ("predict m.resmem ASKED --output - --json", "predict m.resmem ASKED --output p.npy --json"),
    "loo of rows": ("tune m.resmem ROWS --loo", "tune m.resmem --loo --k 1"),
    "an index": ("get i.resmem --output g.npz", ("info i.resmem", "verify i.resmem")),
    "an age without times": ("fit n.resmem ROWS --max-age 30", ("fit n.resmem ROWS --max-age 30 --times rows.npz:targets", "fit l.resmem ROWS")),
    "a half-life of other times": ("fit n.resmem ROWS --half-life 30 --times days.npy", "fit n.resmem ROWS --half-life 30D --times days.npy"),
    "a folder": ("predict m.resmem ASKED --output folder.npy", "predict m.resmem ASKED --output p.npy"),
    "pruning among some rows": ("prune m.resmem --among rows.npz:targets", "prune m.resmem --keep 0.5"),
    "an input": ("predict m.resmem ASKED --output rows.npz", "predict m.resmem ASKED --output p.npy"),
    "name in a .npy": ("predict m.resmem --embeddings z.npy:z --outputs rows.npz --output p.npy", "predict m.resmem --embeddings z.npy --outputs rows.npz --output p.npy"),
    "no such array": ("predict m.resmem --embeddings rows.npz:x --outputs rows.npz --output p.npy", "predict m.resmem --embeddings rows.npz:embeddings --outputs rows.npz --output p.npy"),
    "proba of values": ("predict v.resmem --embeddings rows.npz --outputs rows.npz:values --what proba --output p.npy", "predict v.resmem --embeddings rows.npz --outputs rows.npz:values --what predict --output p.npy"),
}  # fmt: skip

# Texts that tell what to do but have no case: a part of the text, and the reason.
LEFT_OUT = {
    "to_pandas needs pandas": "packages are not installed by tests (test_evaluate.py has the text)",
    "pip install 'residual-memory[cli]'": "packages are not installed by tests; test_pages.py looks for the extras",
    "pip install 'residual-memory[plot]'": "packages are not installed by tests",
    "give the last step of a pipeline": "needs scikit-learn; test_leaf_keys.py follows it",
    "give an int array (n, trees)": "test_leaf_keys.py gives such arrays",
    "of other rows": "needs scikit-learn; test_preprocess.py tunes learned keys on other rows",
    "pip install 'residual-memory[nca]'": "packages are not installed by tests; test_preprocess.py has the text",
    "install a later version of resmem": "there is none yet",
    "use a later version of resmem": "there is none yet; restoring a copy is tested with a damaged file",
    "cannot be appended to any more": "after 2^63 appends; test_container.py has the text",
    "store what is large as a section": "it is for the package's own code: files have 16 MiB of names",
    "change it when that is done": "for signal handlers; test_process.py follows it",
    "decision_function_shape='ovr'": "needs scikit-learn; test_out_of_fold.py follows it",
    "is missing; rename the columns": "of DataFrames, which tests with pandas below follow",
    "had in their order, ": "the same",
    "got columns that do not, ": "the same",
    "of outputs in their order": "the same",
    "fill it or drop its masked rows": "of arrays on a device, which tests have as stand-ins",
    "lies on a GPU": "of CuPy, which needs one",
    "RESMEM_CUDA": "an extension is not built by tests",
    " of NVIDIA's driver": "drivers are not installed by tests",
    "with numpy.savez": "of an archive larger than memory; test_cli.py follows it",
    "is the id of a row": "no hint",
    r"fit with times=numpy\.arange": "a pattern that finds a hint, which has a case",
    "; use -1 where no id is excluded": "no hint, but what is expected",
    "keep must be above 0": "no hint",
    ": set to ": "the outcome of a command, no hint",
    "store ": "a line of a table, no hint",
    "that was tried: try more": "test_tune.py widens the values and is not warned again",
    "did not see the rows": "test_tune.py fits with such outputs and is not warned again",
}


def after_use(message):
    """Return the name that a message says to use."""
    return re.search(r"; use (\w+)$", message)[1]


def calibrated(mem, n=N):
    """Return the memory and its calibration on n rows."""
    return mem, mem.calibrate(
        FRESH[:n],
        (V if mem.task == "regression" else L)[:n],
        (V[::-1] if mem.task == "regression" else Y)[:n],
    )


def with_more(mem, calibration=None):
    """Return sets of a memory that has more rows than at its calibration, or is calibrated now."""
    mem.add(Z, L, Y)
    return mem.predict_set(FRESH, L, calibration or calibrated(mem)[1])


def changed_elsewhere():
    """Return a memory whose file another memory has appended to."""
    first = memory().save("c.resmem")
    resmem.Memory.load("c.resmem").add(Z, L, Y).save("c.resmem", append=True)
    return first


def damaged():
    memory().save("damaged.resmem")
    data = bytearray(Path("damaged.resmem").read_bytes())
    data[layout.PAGE * 3 + 5] ^= 1
    Path("damaged.resmem").write_bytes(data)
    return "damaged.resmem"


def saved():
    memory().save("s.resmem")
    return "s.resmem"


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    RESULT = memory().tune(FRESH, L, Y, **QUICK)
EVALUATION = memory().evaluate(FRESH, L, Y)
EXPLANATION = memory().explain(FRESH[:2], L[:2])
NEAR = memory(k=5).kneighbors(Z + np.float32(0.01), k=5)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Write the files that some messages are about."""
    monkeypatch.chdir(tmp_path)
    np.save("z.npy", Z)
    np.savez("rows.npz", embeddings=Z, outputs=L, targets=Y, values=V)
    np.save("days.npy", np.array(DAYS, dtype="datetime64[D]"))
    np.savez("arrays.npz", embeddings=Z, outputs=L, targets=Y)
    Path("empty").touch()
    Path("folder.npy").mkdir()
    memory().save("m.resmem")
    memory_at(100).save("o.resmem")
    resmem.Index(Z).save("i.resmem")
    memory().save("s.resmem")
    values().save("v.resmem")


@pytest.mark.usefixtures("folder")
@pytest.mark.filterwarnings("ignore:tune")
@pytest.mark.parametrize("name", CASES)
def test_hint_of_a_message_works_as_written(name):
    cause, follow = CASES[name]
    follow(message_of(cause))


def ran(line, capsys):
    """Run a command; return its exit status and standard error."""
    rows = "--embeddings rows.npz --outputs rows.npz"
    words = line.replace("ROWS", f"{rows} --targets rows.npz").replace("ASKED", rows).split()
    status = main(words)
    return status, capsys.readouterr().err


@pytest.mark.usefixtures("folder")
@pytest.mark.filterwarnings("default::resmem.ResmemWarning")
@pytest.mark.parametrize("name", COMMANDS)
def test_hint_of_a_command_works_as_written(name, capsys):
    wrong, right = COMMANDS[name]
    assert ran(wrong, capsys)[0] == 2
    for line in [right] if isinstance(right, str) else right:
        status, said = ran(line, capsys)
        assert status == 0, said


def test_hints_about_tables_work():
    pandas = pytest.importorskip("pandas")
    mem = resmem.Memory(k=2).fit(named(pandas), L, Y)
    table = named(pandas, "cab")
    names = {"memory": mem, "embeddings": table}
    Follow(r"pass (.*)", lambda z: mem.predict(z, L), **names)(
        message_of(lambda: mem.predict(table, L))
    )
    names["embeddings"] = table = named(pandas).rename(columns={"c": "d"})
    said = message_of(lambda: mem.predict(table, L))
    Follow(r"or pass (\S*)", lambda z: mem.predict(z, L), **names)(said)
    mem.predict(table.rename(columns={"d": "c"}), L)
    rows, queries = named(pandas), named(pandas, "cab")
    said = message_of(lambda: resmem.search(queries, rows, 1))
    Follow(r"pass (.*)", lambda q: resmem.search(q, rows, 1), rows=rows, queries=queries)(said)
    outputs = pandas.DataFrame(Z, columns=list("abc"))
    targets = outputs[list("bca")]
    said = message_of(lambda: resmem.Memory("regression").fit(Z, outputs, targets))
    fit = resmem.Memory("regression").fit
    Follow(r"pass (.*)", lambda y: fit(Z, outputs, y), outputs=outputs, targets=targets)(said)


def test_a_layer_may_be_given_as_its_tensors():
    """They require grad and may lie on a GPU; the memory copies them."""
    weight, bias = (Tensor(part, "cuda:0", requires_grad=True) for part in HEAD)
    resmem.Memory(store="head", head=(weight, bias)).fit(Z, None, Y)
    resmem.Memory(store="head", head=(weight, None)).fit(Z, None, Y)


# ---- Nothing is left out -------------------------------------------------------------------------

ADVICE = re.compile(
    r"(?:^|[;:,] |or |and )(pass|use|give|fit|leave|install|pip install|save|convert|rescale|keep|"
    r"restore|choose|drop|sort|fill|numpy\.|load|call|set|rename|name|number|try|tune|write|store|"
    r"make|change|export writes|turn|in one line|a single row|of a|values for) "
)
ADAPTERS = ("sklearn", "torch", "transformers", "collected")


def texts():
    """Yield the place and the regular expression of every text that tells what to do."""
    package = Path(resmem.__file__).parent
    for path in sorted(package.rglob("*.py")):
        if path.name == "parser.py" or "demo" in path.parts:  # helps and prints, no messages
            continue
        if "adapters" in path.parts or path.stem in ADAPTERS:  # followed in tests of their own
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        parts = {id(p) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for p in n.values}
        parts |= {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            values = node.values if isinstance(node, ast.JoinedStr) else [node]
            kept = [getattr(value, "value", None) for value in values]
            if id(node) in parts or not any(isinstance(text, str) for text in kept):
                continue
            if not isinstance(node, (ast.JoinedStr, ast.Constant)):
                continue
            if ADVICE.search("".join(text if isinstance(text, str) else "x" for text in kept)):
                pattern = (re.escape(t) if isinstance(t, str) else "(?s:.*)" for t in kept)
                yield f"{path.relative_to(package)}:{node.lineno}", "".join(pattern)


@pytest.mark.usefixtures("folder")
def test_every_hint_has_a_case(capsys):
    seen = [message_of(cause) for cause, _ in CASES.values()]
    seen += [ran(wrong, capsys)[1] for wrong, _ in COMMANDS.values()]
    untried = [
        f"{place}: {pattern}"
        for place, pattern in texts()
        if not any(re.search(pattern, message) for message in seen)
        and not any(re.escape(part) in pattern for part in LEFT_OUT)
    ]
    assert not untried, "\n".join(untried)
