"""`Memory` against the oracle's, and what it refuses."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import oracle
import resmem

RNG = np.random.default_rng(3)


def data(n=300, d=9, c=4):
    return (
        RNG.standard_normal((n, d)).astype(np.float32),
        RNG.standard_normal((n, c)).astype(np.float32),
        RNG.integers(0, c, n),
    )


def same(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("sigma", ["auto", 0.7, float("inf")])
def test_a_history_of_fit_add_and_remove_has_the_bits_of_the_oracle(sigma, temperature):
    z, logits, y = data()
    kwargs = {"k": 11, "sigma": sigma, "temperature": temperature, "strength": 0.8}
    pair = [resmem.Memory(**kwargs), oracle.OracleMemory(**kwargs)]
    for mem in pair:
        mem.fit(z[:150], logits[:150], y[:150])
        mem.add(z[150:220], logits[150:220], y[150:220])
        mem.remove(np.arange(0, 90, 3))
        mem.add(z[220:250], logits[220:250], y[220:250])
    mine, theirs = pair
    queries, outputs = z[250:], logits[250:]
    assert len(mine) == 250 - 30
    for got, wanted in zip(mine.kneighbors(queries), theirs.kneighbors(queries), strict=True):
        assert same(got, wanted)
    assert same(mine.correction(queries), theirs.correction(queries))
    assert same(mine.correct(queries, outputs), theirs.correct(queries, outputs))
    assert same(mine.predict(queries, outputs), theirs.predict(queries, outputs))
    assert same(mine.predict_proba(queries, outputs), theirs.predict_proba(queries, outputs))


def test_regression_and_pickling():
    z, _, _ = data()
    y, yhat = RNG.standard_normal(300), RNG.standard_normal(300)
    mem = resmem.Memory(task="regression", k=7).fit(z, yhat, y)
    wanted = oracle.OracleMemory(task="regression", output_kind="values", k=7).fit(z, yhat, y)
    got = mem.predict(z[:20], yhat[:20], exclude_ids=np.arange(20))
    assert got.shape == (20,)
    assert same(got, np.ravel(wanted.predict(z[:20], yhat[:20], exclude_ids=np.arange(20))))
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        copy = pickle.loads(pickle.dumps(mem, protocol))
        assert same(copy.predict(z[:20], yhat[:20]), mem.predict(z[:20], yhat[:20]))
        assert (repr(copy), copy.nbytes) == (repr(mem), mem.nbytes)


def test_an_empty_memory_gives_the_base():
    z, logits, y = data()
    mem = resmem.Memory().fit(z[:5], logits[:5], y[:5]).remove(np.arange(5))
    assert same(mem.correct(z, logits), oracle.softmax(logits, 1.0))


def test_results_do_not_depend_on_query_blocks(monkeypatch):
    z, logits, y = data()
    mem = resmem.Memory(k=5).fit(z, logits, y)
    whole = mem.correct(z, logits)
    monkeypatch.setattr(resmem._memory, "_BLOCK_BYTES", 1000)
    assert same(mem.correct(z, logits), whole)


def test_borrowed_and_copied_rows():
    z, logits, y = data()
    borrowed = resmem.Memory().fit(z, logits, y, copy=False)._snapshot.segments[0]
    copied = resmem.Memory().fit(z, logits, y)._snapshot.segments[0]
    assert np.shares_memory(borrowed.keys, z)
    assert not np.shares_memory(copied.keys, z)


Z, L, Y = data(6, 3, 2)
FITTED = resmem.Memory().fit(Z, L, Y)
BAD = np.where(np.arange(18).reshape(6, 3) == 13, np.nan, Z)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: FITTED.kneighbors(BAD), ValueError, "embeddings: row 4 holds NaN or infinity"),
        (lambda: FITTED.kneighbors(Z[0]), ValueError, r"must have shape \(n, d\).*\[None, :\]"),
        (lambda: FITTED.kneighbors(Z[:, :2]), ValueError, "must have 3 columns .* got 2"),
        (lambda: FITTED.kneighbors(Z > 0), TypeError, "must hold real numbers, got dtype bool"),
        (lambda: FITTED.kneighbors(Z, k=0), ValueError, "k must be at least 1, got 0"),
        (lambda: FITTED.kneighbors(Z, k=1.5), TypeError, "k must be an integer, got 1.5"),
        (lambda: FITTED.correct(Z, L[:, :1]), ValueError, "outputs must have 2 columns"),
        (lambda: FITTED.correct(Z, L[:2]), ValueError, r"\(6\), got 2"),
        (lambda: FITTED.remove([9]), ValueError, "ids to remove .* 9 is not"),
        (lambda: FITTED.add(Z, L, Y, ids=np.arange(6)), ValueError, "never have been used .* 0"),
        (lambda: resmem.Memory().predict(Z, L), resmem.NotFittedError, "call fit first"),
        (lambda: resmem.Memory(sigma=0), ValueError, "sigma must be a positive number or 'auto'"),
        (lambda: resmem.Memory(temperature=1e-300), ValueError, "between 1e-100 and 1e100"),
        (lambda: resmem.Memory(task="x"), ValueError, "task must be 'classification' or"),
        (lambda: resmem.Memory().fit(Z, L, Y + 5), ValueError, "classes are 0 to 1"),
        (lambda: resmem.search(Z, Z, 1, "l2"), ValueError, "metric must be one of 'euclidean'"),
        (
            lambda: resmem.Memory(task="regression").fit(Z, np.zeros(6), np.full(6, 1e300)),
            ValueError,
            "row 0 is beyond float32",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
