"""The audit of a memory's rows against NumPy, and that wrong rows come first."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import resmem
from resmem._base import blocks

N, D, C, K, SIGMA = 60, 3, 3, 7, 0.8


def rows(seed, n=N):
    """Return keys, two of them equal, logits, classes, values (n, 2) and base values."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, D)).astype(np.float32)
    z[1] = z[0]
    logits = rng.normal(size=(n, C)).astype(np.float32)
    values = rng.normal(size=(n, 2))
    classes = rng.integers(0, C, n)
    classes[:2] = 0, 1
    return z, logits, classes, values, values + rng.normal(size=(n, 2))


def neighbours(z, hidden, weights):
    """Return the k nearest rows (n, k) that are not hidden, and their shares of the weight."""
    apart = np.sqrt(np.square(z[:, None].astype(float) - z[None]).sum(axis=2))
    apart[hidden] = np.inf
    near = np.argsort(apart, axis=1, kind="stable")[:, :K]
    distances = np.take_along_axis(apart, near, axis=1)
    first = np.where(np.isfinite(distances[:, :1]), distances[:, :1], 0.0)
    shares = np.exp(-(distances - first) / SIGMA) * weights[near]
    return near, shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-300), distances


def softmax(logits):
    whole = np.exp(logits - logits.max(axis=1, keepdims=True))
    return whole / whole.sum(axis=1, keepdims=True)


def by_id(audit, name):
    """Return a column of an audit in the order of ids."""
    return getattr(audit, name)[np.argsort(audit.ids)]


@pytest.mark.parametrize("method", ["residual", "targets"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), hides=st.booleans(), weighted=st.booleans())
def test_audit_of_classes_equals_its_definition(method, seed, hides, weighted):
    z, logits, y, _, _ = rows(seed)
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.5, 2, N) if weighted else np.ones(N)
    groups, times = rng.integers(0, 9, N), rng.integers(0, 50, N)
    mem = resmem.Memory(k=K, sigma=SIGMA, method=method, strength=0.3)
    mem.fit(z, logits, y, sample_weight=weights, groups=groups, times=times)
    hidden, seen = np.eye(N, dtype=bool), {}
    if hides:
        hidden |= (groups[:, None] == groups) | (times[None] >= times[:, None])
        seen = {"before": "own", "exclude_groups": "own"}
    near, shares, distances = neighbours(z, hidden, weights)
    own = y[:, None]
    base = softmax(logits.astype(float))
    agree = (shares * (y[near] == own)).sum(axis=1)
    alone = ~np.isfinite(distances[:, 0])
    one_hot = np.eye(C)[y]
    added = (one_hot - base)[near, own]
    if method == "targets":
        added = one_hot[near, own] - base[np.arange(N), y][:, None]
    away = np.where(np.isfinite(distances), -shares * added, 0.0)
    got = mem.audit(**seen)
    np.testing.assert_allclose(by_id(got, "score"), np.where(alone, 0.0, 1 - agree), atol=1e-9)
    twins = ((distances == 0) & (y[near] != own)).sum(axis=1)
    assert by_id(got, "duplicates").tolist() == twins.tolist()
    harm = np.bincount(near.ravel(), away.ravel(), N)
    np.testing.assert_allclose(by_id(got, "harm"), harm, atol=1e-6)
    used = np.bincount(near[np.isfinite(distances)], minlength=N)
    assert by_id(got, "used").tolist() == used.tolist()
    assert (by_id(got, "misled") <= used).all()
    assert (np.diff(got.score) <= 0).all()
    said = np.stack([(shares * (y[near] == c)).sum(axis=1) for c in range(C)], axis=1)
    clear = np.sort(said, axis=1)[:, -1] - np.sort(said, axis=1)[:, -2] > 1e-9
    assert (by_id(got, "expected") == np.argmax(said, axis=1))[clear & ~alone].all()
    assert (by_id(got, "expected") == y)[alone].all()


@pytest.mark.parametrize("method", ["residual", "targets"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_audit_of_values_equals_its_definition(method, seed):
    z, _, _, y, base = rows(seed)
    mem = resmem.Memory("regression", k=K, sigma=SIGMA, method=method, strength=0.3)
    got = mem.fit(z, base, y).audit()
    near, shares, _ = neighbours(z, np.eye(N, dtype=bool), np.ones(N))
    mean = (shares[:, :, None] * y[near]).sum(axis=1)
    off = shares[:, :, None] * np.square(y[near] - mean[:, None])
    spread = np.sqrt(off.sum(axis=(1, 2)))
    score = np.linalg.norm(y - mean, axis=1) / np.maximum(spread, 0.1 * np.median(spread))
    left = (y - base)[:, None]
    added = y[near] - base[:, None] if method == "targets" else (y - base)[near]
    away = np.linalg.norm(left - shares[:, :, None] * added, axis=2)
    away = away - np.linalg.norm(left, axis=2)
    np.testing.assert_allclose(by_id(got, "expected"), mean, atol=1e-9)
    np.testing.assert_allclose(by_id(got, "spread"), spread, atol=1e-9)
    np.testing.assert_allclose(by_id(got, "score"), score, rtol=1e-9)
    np.testing.assert_allclose(
        by_id(got, "harm"), np.bincount(near.ravel(), away.ravel(), N), atol=1e-9
    )
    wrong = np.bincount(near.ravel(), (away > 0).ravel(), N)
    assert by_id(got, "misled").tolist() == wrong.tolist()


def flipped(n=600):
    """Return a memory of three classes of which 5 % of the rows have another label, and these."""
    rng = np.random.default_rng(5)
    kinds = rng.integers(0, C, n)
    z = np.eye(C)[kinds] * 4 + rng.normal(size=(n, C))
    wrong = rng.permutation(n)[: n // 20]
    given = kinds.copy()
    given[wrong] = (kinds[wrong] + 1) % C
    labels = np.array(["cat", "dog", "eel"])
    return resmem.Memory(k=10).fit(z, 2 * z, labels[given]), np.sort(wrong), labels[kinds]


def test_flipped_labels_come_first_with_their_right_label():
    mem, wrong, labels = flipped()
    audit = mem.audit()
    first = audit.ids[:60]
    found = np.isin(wrong, first)
    assert found.mean() > 0.9
    right = audit.expected[:60][np.isin(first, wrong)] == labels[first[np.isin(first, wrong)]]
    assert right.mean() > 0.9
    assert np.isin(wrong, audit.harmful[:60]).mean() > 0.9
    assert mem.remove(audit.ids[:1]) is mem  # ids are those of the memory


@pytest.mark.parametrize("store", ["dense", "sparse:2", "head"])
def test_audit_is_the_same_for_stores_threads_and_blocks(store, monkeypatch):
    rng = np.random.default_rng(1)
    z, y = rng.normal(size=(N, D)).astype(np.float32), rng.integers(0, C, N)
    head = rng.normal(size=(C, D)).astype(np.float32), np.zeros(C, np.float32)
    logits = z @ head[0].T
    whole = resmem.Memory(k=K, sigma=SIGMA).fit(z, logits, y).audit()
    mem = resmem.Memory(k=K, sigma=SIGMA, store=store, head=head if store == "head" else None)
    mem.fit(z, None if store == "head" else logits, y)
    audit = mem.audit(threads=1)
    for name in ("ids", "expected", "score", "duplicates", "used"):
        assert getattr(audit, name).tolist() == getattr(whole, name).tolist()
    np.testing.assert_allclose(audit.harm, whole.harm, atol=1e-5)
    monkeypatch.setattr(blocks, "_BLOCK_BYTES", 4000)
    again = mem.audit(threads=2)
    assert all((again.table[name] == array).all() for name, array in audit.table.items())


def test_audit_after_changes_is_that_of_the_rows_left():
    z, logits, y, _, _ = rows(3)
    mem = resmem.Memory(k=K, sigma=SIGMA).fit(z, logits, y)
    mem.add(z[:5] + 1, logits[:5], y[:5]).remove(np.arange(0, 30, 2))
    kept = mem.get(mem.ids)
    fresh = resmem.Memory(k=K, sigma=SIGMA)
    fresh.fit(kept.embeddings, kept.outputs, kept.targets, ids=kept.ids)
    one, other = mem.audit(), fresh.audit()
    assert all((other.table[name] == array).all() for name, array in one.table.items())


def test_a_sample_of_rows_asks_all_rows():
    mem, _, _ = flipped()
    whole, some = mem.audit(), mem.audit(rows=50, seed=3)
    assert len(some) == 50
    assert some.ids.tolist() == mem.audit(rows=50, seed=3).ids.tolist()
    assert some.ids.tolist() != mem.audit(rows=50, seed=4).ids.tolist()
    at = {row: i for i, row in enumerate(whole.ids.tolist())}
    wanted = [whole.score[at[row]] for row in some.ids.tolist()]
    assert some.score.tolist() == wanted
    assert some.used.max() < whole.used.max()
    assert len(mem.audit(among=np.arange(20)).harmful) < 20


def test_a_lone_row_is_not_contradicted():
    z, logits, y, values, base = rows(2, n=4)
    mem = resmem.Memory(k=2).fit(z, logits, y, groups=np.zeros(4, int))
    audit = mem.audit(exclude_groups="own")
    assert audit.score.tolist() == [0.0] * 4
    assert audit.expected.tolist() == audit.targets.tolist()
    assert not audit.used.any()
    mem = resmem.Memory("regression", k=2).fit(z, base, values, groups=np.zeros(4, int))
    audit = mem.audit(exclude_groups="own")
    assert audit.score.tolist() == [0.0] * 4
    assert audit.expected.tolist() == audit.targets.tolist()


def test_an_audit_is_a_table_of_text_json_and_pandas():
    mem, _, _ = flipped(100)
    audit = mem.audit()
    text = repr(audit).splitlines()
    assert text[0].startswith("Audit of 100 rows (k=10, sigma_=")
    assert text[4].split() == list(audit.table)
    assert text[5].split()[0] == str(audit.ids[0])
    assert text[-1] == "and 90 more"
    facts = json.loads(json.dumps(audit.to_dict(), allow_nan=False))
    assert facts["ids"] == audit.ids.tolist()
    assert facts["targets"] == audit.targets.tolist()
    pandas = pytest.importorskip("pandas")
    frame = audit.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.loc[audit.ids[3], "score"] == audit.score[3]


def test_values_of_several_columns_are_lists_in_tables():
    z, _, _, y, base = rows(2)
    audit = resmem.Memory("regression", k=K).fit(z, base, y).audit()
    assert "(2 values)" in repr(audit)
    assert "3 spreads" in repr(audit)
    pytest.importorskip("pandas")
    assert len(audit.to_pandas()["expected"].iloc[0]) == 2


def test_rows_of_equal_keys_and_other_targets_are_named():
    z, logits, y, _, _ = rows(4)
    audit = resmem.Memory(k=K).fit(z, logits, y).audit()
    assert sorted(audit.contradicting) == [0, 1]
