"""Memories in files: saved, loaded, continued, exported, and what happens when that goes wrong."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
import resmem
from faults import answers, fitted, in_child
from faults import loaded as loaded_answers
from faults import rows as some_rows
from resmem._files import atomic, container

D, C = 4, 3
LEARNED = ["nca:2"] if importlib.util.find_spec("sklearn") else []
forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
GOLDEN = Path(__file__).parent / "golden"
KINDS = [
    ("classification", "logits"),
    ("classification", "probabilities"),
    ("regression", "values"),
]


def examples(rng, n, kind="logits"):
    keys = rng.standard_normal((n, D)).astype(np.float32)
    if kind == "values":
        return keys, rng.standard_normal((n, C)), rng.standard_normal((n, C))
    outputs = rng.standard_normal((n, C)).astype(np.float32)
    if kind == "probabilities":
        outputs = oracle.softmax(outputs).astype(np.float32)
    return keys, outputs, rng.integers(0, C, n)


def memory(**options):
    rng = np.random.default_rng(0)
    rows = examples(rng, 30)
    mem = resmem.Memory(k=4, **options).fit(*rows)
    return mem.add(*examples(rng, 5)).remove([3, 31])


def continued(path):
    """Write a file of two segments that lists a removed row of each; return its memory."""
    rng = np.random.default_rng(0)
    mem = resmem.Memory(k=4).fit(*examples(rng, 30)).add(*examples(rng, 5)).save(path)
    return mem.remove([3, 31]).save(path, append=True)


def same_memory(twin, mem):
    """Check that two memories have the same answers, settings and rows."""
    mine, theirs = mem.info(), twin.info()
    for about in (mine, theirs):
        for name in ("file", "file_bytes", "generation", "segments", "removed", "nbytes"):
            about.pop(name, None)
    assert theirs == mine
    rng = np.random.default_rng(1)
    queries, outputs, _ = examples(rng, 9, mem.output_kind)
    if mem.columns_of_one:
        outputs = outputs[:, 0]
    assert twin.correct(queries, outputs).tobytes() == mem.correct(queries, outputs).tobytes()
    for got, wanted in zip(twin.kneighbors(queries), mem.kneighbors(queries), strict=True):
        assert got.tobytes() == wanted.tobytes()


@pytest.fixture(autouse=True)
def _one_column(monkeypatch):
    monkeypatch.setattr(
        resmem.Memory, "columns_of_one", property(lambda m: m._state.view.rows.flat), raising=False
    )


# ---- There and back ------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*has grown to:resmem.ResmemWarning")
@settings(max_examples=settings().max_examples // 8)
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(KINDS),
    store=st.sampled_from(["dense", "sparse:1", "sparse:2", "head"]),
    key_dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    half=st.booleans(),
    sigma=st.sampled_from(["auto", 0.5, float("inf")]),
    preprocess=st.sampled_from(["none", "unit", "standardize", "pca:2", "whiten:4", *LEARNED]),
    n=st.sampled_from([0, 1, 40]),
    history=st.lists(st.sampled_from(["add", "given ids", "remove"]), max_size=3),
    form=st.sampled_from([".resmem", ".npz", ".safetensors", "append"]),
)
def test_what_is_loaded_is_what_was_saved(
    tmp_path_factory, seed, kind, store, key_dtype, half, sigma, preprocess, n, history, form
):
    rng = np.random.default_rng(seed)
    task, output_kind = kind
    if store == "head":
        task, output_kind, half = "classification", "logits", False
    store = "dense" if task == "regression" else store
    head = (rng.standard_normal((C, D)), rng.standard_normal(C)) if store == "head" else None
    mem = resmem.Memory(
        task, output_kind, k=3, sigma=sigma, strength=0.7, key_dtype=key_dtype, store=store,
        residual_dtype="float16" if half else "float32", head=head, base={"layer": [1, "x"]},
        preprocess="none" if store == "head" else preprocess,
    )  # fmt: skip

    def rows(n):
        keys, outputs, targets = examples(rng, n, output_kind)
        return keys, None if store == "head" else outputs, targets

    path = tmp_path_factory.mktemp("files") / f"m{form if form != 'append' else ''}"
    mem.fit(*rows(n))
    for step in history:
        if form == "append":
            mem.save(path, append=mem._state.view.file is not None)
        if step == "remove":
            living = np.flatnonzero(rng.random(mem._state.view.rows.next_id) < 0.3)
            known = {
                int(i) for s in mem._state.view.rows.segments for i in s.ids_of(s.living(10**9))
            }
            mem.remove([i for i in living if i in known])
        elif step == "add":
            mem.add(*rows(5))
        else:
            mem.add(*rows(4), ids=mem._state.view.rows.next_id + rng.permutation(9)[:4])
    if form == "append":
        mem.save(path, append=mem._state.view.file is not None)
    elif form == ".resmem":
        mem.save(path)
    else:
        mem.export(path)
    twin = resmem.Memory.load(path)
    same_memory(twin, mem)
    assert twin._state.view.rows.next_id == mem._state.view.rows.next_id
    more = rows(3)
    same_memory(twin.add(*more), mem.add(*more))


def test_flat_regression_stays_flat(tmp_path):
    rng = np.random.default_rng(2)
    keys, values = rng.standard_normal((20, D)), rng.standard_normal(20)
    mem = resmem.Memory("regression", k=3).fit(keys, values, values[::-1])
    for name in ("m.resmem", "m.npz", "m.safetensors"):
        (mem.export if "." + name.split(".")[1] != ".resmem" else mem.save)(tmp_path / name)
        twin = resmem.Memory.load(tmp_path / name)
        same_memory(twin, mem)
        assert twin.predict(keys, values).shape == (20,)


def test_rows_of_a_loaded_memory_are_mapped_and_shared(tmp_path):
    path = tmp_path / "m"
    mem = memory().save(path)
    twin = resmem.Memory.load(path)
    for segment in twin._state.view.rows.segments:
        for array in segment.arrays.values():
            assert not array.flags.writeable
            assert not array.flags.owndata
    twin.add(*examples(np.random.default_rng(3), 2)).remove([0])  # it can still grow
    assert len(twin) == len(mem) + 1
    assert len(resmem.Memory.load(path)) == len(mem)


def test_a_loaded_memory_outlives_its_file(tmp_path):
    path = tmp_path / "m"
    mem = memory().save(path)
    twin = resmem.Memory.load(path)
    resmem.Memory(k=1).fit(*examples(np.random.default_rng(4), 5)).save(path)
    same_memory(twin, mem)
    path.unlink()
    same_memory(twin, mem)


def test_progress_of_save_and_load_counts_the_bytes(tmp_path):
    path, counts = tmp_path / "m", []
    mem = memory().save(path, progress=counts.append)
    assert mem.nbytes * 0.5 < sum(counts) < 2 * path.stat().st_size
    counts.clear()
    resmem.Memory.load(path, progress=counts.append)
    assert mem.nbytes * 0.5 < sum(counts) <= path.stat().st_size
    counts.clear()
    resmem.Memory.load(path, verify=False, progress=counts.append)
    assert sum(counts) == 0


# ---- The base ------------------------------------------------------------------------------


def test_a_base_is_kept_and_checked_when_asked(tmp_path):
    base = {"model": "net", "layer": -2, "fingerprint": "9f"}
    mem = memory(base=base).save(tmp_path / "m")
    twin = resmem.Memory.load(tmp_path / "m")
    queries, outputs, _ = examples(np.random.default_rng(5), 3)
    assert twin.base == base
    for method in (twin.correct, twin.predict, twin.predict_proba):
        assert np.array_equal(method(queries, outputs, base=base), method(queries, outputs))
        with pytest.raises(ValueError, match=r"was made from base \{.*\}, not from 'other'"):
            method(queries, outputs, base="other")
    with pytest.raises(ValueError, match="made from an unnamed base, not from 'other'"):
        memory().correct(queries, outputs, base="other")
    assert mem.base is not base
    with pytest.raises(TypeError, match="base must hold what JSON can"):
        resmem.Memory(base={"weights": np.zeros(2)})
    with pytest.raises(TypeError, match="base must be a string or a dict, got int"):
        resmem.Memory(base=7)


# ---- Continuing a file ---------------------------------------------------------------------


def test_an_append_writes_only_what_is_new(tmp_path):
    path = tmp_path / "m"
    rng = np.random.default_rng(6)
    mem = resmem.Memory(k=4, sigma=1.0).fit(*examples(rng, 20_000)).save(path)
    whole = path.stat().st_size
    for _ in range(3):
        mem.add(*examples(rng, 10)).remove([int(rng.integers(20_000))]).save(path, append=True)
    mem.k = 7
    mem.save(path, append=True)
    assert path.stat().st_size < whole + 4 * 40_000
    twin = resmem.Memory.load(path)
    same_memory(twin, mem)
    assert twin.info()["generation"] == 5
    twin.add(*examples(rng, 10)).save(path, append=True)
    same_memory(resmem.Memory.load(path), twin)


def test_append_after_a_new_temperature_writes_residuals_only(tmp_path):
    path = tmp_path / "m"
    rng = np.random.default_rng(7)
    mem = resmem.Memory(k=4, sigma=1.0).fit(*examples(rng, 20_000)).save(path)
    whole = path.stat().st_size
    mem.temperature = 2.0
    mem.save(path, append=True)
    added = path.stat().st_size - whole
    assert 20_000 * C * 4 <= added < 20_000 * C * 4 + 20_000
    same_memory(resmem.Memory.load(path), mem)


def test_an_append_needs_the_file_that_the_memory_continues(tmp_path):
    path, other = tmp_path / "m", tmp_path / "other"
    mem = memory()
    with pytest.raises(ValueError, match=r"append=True continues .* \(no file yet\)"):
        mem.save(path, append=True)
    mem.save(path)
    memory().save(other)
    with pytest.raises(ValueError, match="append=True continues"):
        mem.save(other, append=True)
    first, second = resmem.Memory.load(path), resmem.Memory.load(path)
    rows = examples(np.random.default_rng(8), 3)
    first.add(*rows).save(path, append=True)
    with pytest.raises(ValueError, match="changed since"):
        second.add(*rows).save(path, append=True)
    same_memory(resmem.Memory.load(path), first)
    assert mem.fit(*rows)._state.view.file is None  # other rows: no longer that file's


def test_compaction_between_appends_changes_no_answer(tmp_path):
    path = tmp_path / "m"
    rng = np.random.default_rng(9)
    mem = resmem.Memory(k=4, sigma=1.0).fit(*examples(rng, 50)).save(path)
    mem.remove(range(40)).add(*examples(rng, 3))
    mem._state._compactor.join()
    assert [len(s) for s in mem._state.view.rows.segments] == [10, 3]
    mem.save(path, append=True)
    twin = resmem.Memory.load(path)
    same_memory(twin, mem)
    with pytest.raises(ValueError, match="never have been used"):
        twin.add(*examples(rng, 1), ids=[5])
    twin.remove([45]).save(path, append=True)
    same_memory(resmem.Memory.load(path), twin)


def test_file_with_many_small_appends_keeps_few_segments(tmp_path):
    path = tmp_path / "m"
    rng = np.random.default_rng(14)
    mem = resmem.Memory(k=4, sigma=1.0).fit(*examples(rng, 50)).save(path)
    for _ in range(40):
        mem = resmem.Memory.load(path).add(*examples(rng, 2)).save(path, append=True)
    assert len(mem._state.view.rows.segments) < 20
    twin = resmem.Memory.load(path)
    assert len(twin) == 130
    same_memory(twin, mem)


def test_a_save_leaves_removed_rows_out(tmp_path):
    path = tmp_path / "m"
    rng = np.random.default_rng(15)
    keys, outputs, targets = examples(rng, 3000)
    mem = resmem.Memory(k=4, sigma=1.0).fit(keys, outputs, targets).save(path)
    whole = path.stat().st_size
    mem.remove(np.arange(100, 2900)).save(path, append=True)
    assert path.stat().st_size > whole
    assert keys[500].tobytes() in path.read_bytes()
    wanted = mem.correct(keys[:9], outputs[:9])
    mem.save(path)
    assert path.stat().st_size < whole / 5
    assert keys[500].tobytes() not in path.read_bytes()
    assert keys[50].tobytes() in path.read_bytes()
    for twin in (mem, resmem.Memory.load(path)):
        assert [len(s) for s in twin._state.view.rows.segments] == [200]
        assert twin._state.view.rows.retired.tolist() == [[100, 2899]]
        assert twin.correct(keys[:9], outputs[:9]).tobytes() == wanted.tobytes()
        with pytest.raises(ValueError, match="never have been used"):
            twin.add(*examples(rng, 1), ids=[500])
    small = path.stat().st_size
    mem.add(*examples(rng, 1)).remove([7]).save(path, append=True)  # nothing else is written
    assert path.stat().st_size < small + 8192
    same_memory(resmem.Memory.load(path), mem)


def test_rows_removed_while_a_save_runs_are_removed_after_it(tmp_path):
    path = tmp_path / "m"
    mem = memory()
    mem.save(path, progress=lambda _: mem.remove([5]) if 5 in ids_of(mem) else None)
    assert 5 not in ids_of(mem)
    assert len(mem) == 32
    assert 5 in ids_of(resmem.Memory.load(path))
    mem.save(path, append=True)
    same_memory(resmem.Memory.load(path), mem)


def ids_of(mem):
    rows = mem._state.view.rows
    return [int(i) for s in rows.segments for i in s.ids_of(s.living(rows.version))]


def test_consecutive_removals_are_appended_as_one_run(tmp_path):
    path = tmp_path / "m"
    rng = np.random.default_rng(16)
    mem = resmem.Memory(k=4, sigma=1.0).fit(*examples(rng, 40)).save(path)
    for gone in (range(25), range(25, 33)):
        mem.remove(gone).add(*examples(rng, 1))
        if mem._state._compactor is not None:
            mem._state._compactor.join()
        mem.save(path, append=True)
        assert len(mem._state.view.rows.all_retired()) == 1
        twin = resmem.Memory.load(path)
        with pytest.raises(ValueError, match="never have been used"):
            twin.add(*examples(rng, 1), ids=[gone[-1]])


# ---- Files that rows are mapped from -----------------------------------------------------------


@pytest.mark.parametrize("name", ["m.resmem", "e.npz", "e.safetensors", "keys.npy"])
@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("removed", [False, True])
def test_memory_is_saved_over_the_file_that_it_maps(tmp_path, name, link, removed):
    """The file is replaced; its rows stay mapped from the old one for as long as they are used."""
    path = tmp_path / name
    mem = fitted(0, 3000, 64)
    if name == "keys.npy":
        keys, outputs, targets = some_rows(0, 3000, 64)
        np.save(path, keys)
        mem = resmem.Memory(k=3, sigma=1.0)
        mem.fit(np.load(path, mmap_mode="r"), outputs, targets, copy=False)
    else:
        (mem.save if name == "m.resmem" else mem.export)(path)
        mem = resmem.Memory.load(path)
    if removed:
        mem.remove([0, 7])
    written = path
    if link:
        written = tmp_path / ("link.npz" if name == "e.npz" else f"link{path.suffix}")
        os.symlink(path, written)
    before, inode = answers(mem), path.stat().st_ino
    (mem.export if name.startswith("e.") else mem.save)(written)
    assert path.stat().st_ino != inode
    assert answers(mem) == before == loaded_answers(path)
    mem.add(*some_rows(1, 10, 64))
    again = answers(mem)
    (mem.export if name.startswith("e.") else mem.save)(written)
    assert answers(mem) == again == loaded_answers(path)


def test_a_report_is_written_over_the_images_that_it_shows(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "images.npy"
    mem = fitted(0, 200)
    keys, outputs, targets = some_rows(1, 20)
    np.save(path, np.zeros((20, 4, 4)))
    images = np.load(path, mmap_mode="r")
    parts = mem.evaluate(keys, outputs, targets), mem.explain(keys, outputs)
    resmem.report(path, None, *parts, images=images, row_images=np.zeros((200, 4, 4)))
    assert path.read_bytes().startswith(b"<!DOCTYPE html>")
    assert (images == 0).all()


# ---- Saves inside of saves ---------------------------------------------------------------------


def nested(folder, outer, inner, same, by):
    """Return the outcome of ``inner`` when a signal handler or a progress function calls it in
    ``outer``, or "damaged" if the file is not what ``outer`` should write."""
    path, link = folder / "m.resmem", folder / "link.resmem"
    mem = fitted(0, 50).save(path)
    os.link(path, link)
    other = mem if same else resmem.Memory.load(path)
    mem.add(*some_rows(1, 20))
    calls = {
        "save": lambda: other.save(path),
        "append": lambda: other.save(path, append=True),
        "container": lambda: container.append(path, mem._state.view.file.version, {}, [], []),
        "other writer": lambda: atomic.replacing(path).__enter__(),
        "append to a link": lambda: container.append(
            link, mem._state.view.file.version, {}, [], []
        ),
    }
    said = []

    def interrupt(*_):
        try:
            calls[inner]()
            said.append("done")
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")

    progress = interrupt
    if by == "signal":
        signal.signal(signal.SIGUSR1, interrupt)
        progress = lambda _: signal.raise_signal(signal.SIGUSR1)  # noqa: E731
    mem.save(path, append=outer == "append", progress=progress)
    mem.save(path, append=True)  # a later append still works
    if loaded_answers(path) != answers(mem):
        return "damaged"
    return "; ".join(sorted(set(said)))


@forks
@pytest.mark.parametrize("by", ["signal", "progress"])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("inner", ["save", "append", "container", "other writer"])
@pytest.mark.parametrize("outer", ["save", "append"])
def test_a_save_inside_of_a_save_to_the_same_file_is_refused(tmp_path, outer, inner, same, by):
    """It would wait for itself, or be lost when the outer save replaces the file."""
    said = in_child(lambda: nested(tmp_path, outer, inner, same, by))
    assert re.fullmatch(r"RuntimeError: '.*m\.resmem' is being written by the code that.*", said)


@forks
def test_append_inside_an_append_through_a_link_is_refused(tmp_path):
    said = in_child(lambda: nested(tmp_path, "append", "append to a link", True, "progress"))
    assert re.fullmatch(r"RuntimeError: '.*link\.resmem' is being written by the code.*", said)


def test_a_save_inside_of_a_save_to_another_file_is_done(tmp_path):
    mem, other = fitted(0, 50), fitted(1, 60)
    calls = [
        lambda: other.save(tmp_path / "o.resmem"),
        lambda: mem.save(tmp_path / "p.resmem"),
        lambda: mem.export(tmp_path / "e.npz"),
    ]
    mem.save(tmp_path / "m.resmem", progress=lambda _: calls and calls.pop()())
    assert not calls
    for name, wanted in (("m", mem), ("o", other), ("p", mem)):
        assert loaded_answers(tmp_path / f"{name}.resmem") == answers(wanted)
    assert loaded_answers(tmp_path / "e.npz") == answers(mem)


@pytest.mark.parametrize("append", [True, False])
def test_another_thread_waits_for_a_save_to_the_same_file(tmp_path, append):
    path = tmp_path / "m.resmem"
    mem, other = fitted(0, 50).save(path), fitted(1, 60)
    mem.add(*some_rows(1, 20))
    threads = []

    def start(_):
        if not threads:
            threads.append(threading.Thread(target=other.save, args=(path,)))
            threads[0].start()
            threads[0].join(0.2)
            assert threads[0].is_alive() == append  # a save has locked nothing yet

    mem.save(path, append=append, progress=start)
    threads[0].join(60)
    assert loaded_answers(path) == answers(other if append else mem)


@forks
def test_a_child_forked_in_a_save_may_save_to_the_same_file(tmp_path):
    path, statuses = tmp_path / "m.resmem", []
    mem = fitted(0, 50).save(path)

    def fork(_):
        if not statuses:
            statuses.append(in_child(lambda: str(fitted(1, 60).save(path))[:6]))

    mem.save(path, progress=fork)
    assert statuses == ["Memory"]
    assert loaded_answers(path) == answers(mem)


def test_a_memory_is_not_saved_under_the_name_of_an_export(tmp_path):
    for name in ("m.npz", "m.SafeTensors"):
        with pytest.raises(ValueError, match="path must not end in"):
            memory().save(tmp_path / name)
    mem = memory().save(tmp_path / "m")
    (tmp_path / "m").rename(tmp_path / "m.npz")  # load accepts any name
    same_memory(resmem.Memory.load(tmp_path / "m.npz"), mem)


def test_threads_that_append_take_turns(tmp_path):
    path = tmp_path / "m"
    mem = memory().save(path)
    failed = []

    def work(seed):
        try:
            mem.add(*examples(np.random.default_rng(seed), 2)).save(path, append=True)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    same_memory(resmem.Memory.load(path), mem)


# ---- Exports -------------------------------------------------------------------------------


def test_an_export_is_plain_arrays(tmp_path):
    mem = memory(key_dtype="bfloat16").export(tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz") as found:
        arrays = dict(found)
    names = {"embeddings", "targets", "ids", "outputs", "residuals", "retired", "resmem"}
    assert set(arrays) == names
    assert list(arrays["ids"]) == sorted(set(range(35)) - {3, 31})
    assert arrays["embeddings"].dtype == np.float32
    assert json.loads(arrays["resmem"].tobytes())["k"] == 4
    refit = resmem.Memory(k=4, key_dtype="bfloat16", sigma=mem.sigma_).fit(
        arrays["embeddings"], arrays["outputs"], arrays["targets"], ids=arrays["ids"]
    )
    queries, outputs, _ = examples(np.random.default_rng(1), 4)
    assert refit.correct(queries, outputs).tobytes() == mem.correct(queries, outputs).tobytes()


def test_the_safetensors_library_reads_an_export(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    memory().export(tmp_path / "m.safetensors")
    arrays = library.load_file(tmp_path / "m.safetensors")
    assert arrays["embeddings"].shape == (33, D)
    library.save_file(arrays, tmp_path / "again.safetensors")
    same_memory(resmem.Memory.load(tmp_path / "again.safetensors"), memory())


def test_damaged_exports_are_refused(tmp_path):
    path = tmp_path / "m.npz"
    np.savez(path, embeddings=np.zeros((2, 2)))
    with pytest.raises(resmem.FileFormatError, match="has no array 'resmem'"):
        resmem.Memory.load(path)
    memory().export(path)
    with np.load(path) as found:
        good = dict(found)
    settings_of = json.loads(good["resmem"].tobytes())

    def refused(match, **changes):
        arrays = {**good, **changes}
        np.savez(path, **{name: a for name, a in arrays.items() if a is not None})
        with pytest.raises(resmem.FileFormatError, match=match):
            resmem.Memory.load(path)

    def about(**changes):
        text = json.dumps({**settings_of, **changes}).encode()
        return np.frombuffer(text, dtype=np.uint8)

    refused("embeddings is nothing", embeddings=None)
    refused("targets is int64 \\(32,\\)", targets=good["targets"][:-1])
    refused("embeddings is float64", embeddings=good["embeddings"].astype(float))
    bad = good["embeddings"].copy()
    bad[2, 1] = np.nan
    refused("embeddings: row 2 holds NaN", embeddings=bad)
    refused("not a table of settings", resmem=np.frombuffer(b"[1]", dtype=np.uint8))
    refused("is not a memory that resmem exported", resmem=np.frombuffer(b"{", dtype=np.uint8))
    refused("d is -4", resmem=about(d=-4))
    refused("error is 'x'", resmem=about(error="x"))
    refused("settings make no sense: k must be", resmem=about(k=0))
    refused("settings make no sense: preprocess must be", resmem=about(preprocess="units"))
    refused("settings make no sense: preprocess must be", resmem=about(preprocess=None))
    refused("preprocess_mean is nothing", resmem=about(preprocess="center"))
    refused("preprocess='pca:5' keeps 5 dimensions", resmem=about(preprocess="pca:5"))
    refused("flat or sigma_ is missing", resmem=about(sigma_=None))
    refused("store='head'|head_weight", resmem=about(store="head"))
    with pytest.raises(ValueError, match=r"path must end in \.npz or \.safetensors"):
        memory().export(tmp_path / "m.csv")


# ---- Damage --------------------------------------------------------------------------------


def settings_changed(path, change):
    """Change ``meta`` in the manifest of a file."""
    loaded = container.load(path)
    meta = json.loads(json.dumps(loaded.meta))
    change(meta)
    container.append(path, loaded.version, meta, loaded.arrays, [])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: m.pop("memory"), "memory is missing"),
        (lambda m: m.update(memory=3), "memory is not a table"),
        (lambda m: m["memory"].update(k=-1), "settings make no sense: k must be"),
        (lambda m: m["memory"].update(task=None), "settings make no sense: task must be"),
        (lambda m: m["memory"].update(sigma=[]), "settings make no sense: sigma must be"),
        (lambda m: m["memory"].update(flat=1), "flat or sigma_ is missing"),
        (lambda m: m["memory"].pop("preprocess"), "settings make no sense: preprocess must be"),
        (lambda m: m["memory"].update(preprocess="pca:2"), "'preprocess/weight' is missing"),
        (lambda m: m["memory"].update(preprocess="pca:5"), "'pca:5' keeps 5 dimensions"),
        (lambda m: m["memory"].update(store="sparse:2"), "section '0/index' is missing"),
        (lambda m: m["memory"].update(key_dtype="float16"), "'0/keys' is float32"),
        (lambda m: m.update(d=5), r"'0/keys' is float32 \(30, 4\), expected float32 \(30, 5\)"),
        (lambda m: m.update(d=0), "d is 0 and columns 3"),
        (lambda m: m.update(columns=True), "columns is True"),
        (lambda m: m.update(next_id=-1), "next_id is -1"),
        (lambda m: m.update(numbers=1.5), "numbers is 1.5"),
        (lambda m: m.update(segments={}), "segments is not a list"),
        (lambda m: m.update(segments=[7]), "number is missing"),
        (lambda m: m["segments"].pop(), "section '1/keys' is unknown"),
        (lambda m: m["segments"].append(m["segments"][0]), "two segments have one number"),
        (lambda m: m["segments"][0].update(rows=29), "expected float32 \\(29, 4\\)"),
        (lambda m: m["segments"][0].update(number=2), "number is 2"),
        (lambda m: m["segments"][0].update(keys_max="x"), "keys_max is 'x'"),
        (lambda m: m["segments"][0].update(first_id=2**63 - 5), "first_id is"),
        (lambda m: m["segments"][0].update(has_ids=True), "section '0/ids' is missing"),
        (lambda m: m["segments"][0].update(has_ids=0), "has_ids is 0"),
        (lambda m: m["segments"][0].update(removed=31), "removed is 31"),
        (lambda m: m["segments"][0].update(removed=2), "'0/removed' is int64"),
        (lambda m: m["segments"][0].update(removed=0), "section '0/removed' is unknown"),
        (lambda m: m["segments"][0].update(error=-1), "error is -1"),
        (lambda m: m["segments"][0].update(error=10**400), "error is 1000"),
    ],
)  # fmt: skip
def test_wrong_fields_of_the_manifest_are_refused(tmp_path, change, match):
    path = tmp_path / "m"
    continued(path)
    settings_changed(path, change)
    with pytest.raises(resmem.FileFormatError, match=match) as caught:
        resmem.Memory.load(path)
    assert str(path) in str(caught.value)


def test_removed_rows_must_be_rows_in_order(tmp_path):
    path = tmp_path / "m"
    mem = continued(path).remove([7]).save(path, append=True)
    assert mem._state.view.rows.segments[0].dead == 2
    loaded = container.load(path)
    for rows in ([7, 3], [3, 3], [-1, 3], [3, 30]):
        replaced = container.Section("0/removed", np.array(rows))
        kept = [name for name in loaded.arrays if name != "0/removed"]
        container.append(path, loaded.version, loaded.meta, kept, [replaced])
        with pytest.raises(resmem.FileFormatError, match="does not list rows in ascending order"):
            resmem.Memory.load(path)
        loaded = container.load(path)


def damaged_at(path, *sections, **changes):
    """Replace values of ``meta`` and sections in a file, with right checksums."""
    loaded = container.load(path)
    meta = json.loads(json.dumps(loaded.meta))
    for name, value in changes.items():
        place, key = (
            (meta["segments"][int(name[1])], name[3:]) if name[2:3] == "_" else (meta, name)
        )
        place[key] = value
    replaced = {section.name for section in sections}
    kept = [name for name in loaded.arrays if name not in replaced]
    container.append(path, loaded.version, meta, kept, sections)


def section(name, values, dtype=np.int64):
    return container.Section(name, np.array(values, dtype=dtype))


def with_ids(path):
    """Write a file of two segments, the first with given ids; its next_id is 25."""
    rng = np.random.default_rng(0)
    mem = resmem.Memory(k=4).fit(*examples(rng, 5), ids=[3, 9, 4, 20, 7])
    mem.save(path)
    mem._state.publish(rows=mem._state.view.rows.sealed())
    return mem.add(*examples(rng, 4)).save(path, append=True)


CONTRADICTIONS = {
    "next_id too low": (continued, {"next_id": 3}, [], "next_id is 3, but 34 is the id of a row"),
    "next_id is 0": (continued, {"next_id": 0}, [], "next_id is 0, but 34 is"),
    "counted ids overlap": (continued, {"s1_first_id": 7}, [], "two rows have the id 7"),
    "the same counted ids": (continued, {"s1_first_id": 0}, [], "two rows have the id 0"),
    "retired and living": (continued, {}, [section("retired", [[4, 5]])], "ids of removed rows"),
    "retired and at an end": (continued, {}, [section("retired", [[34, 34]])], "ids of removed"),
    "retired is higher": (continued, {}, [section("retired", [[50, 60]])], "but 60 is the id"),
    "numbers": (continued, {"numbers": 2**63 - 1}, [], "numbers is 9223372036854775807, expected"),
    "flat classes": (continued, {}, [], "flat is for values of one column, not for 3 of class"),
}
GIVEN_ID_CONTRADICTIONS = {
    "next_id below given ids": ({"next_id": 20}, [], "next_id is 20, but 24 is the id of a row"),
    "an id twice": ({}, [section("0/ids", [3, 9, 4, 9, 7])], "two rows have the id 9"),
    "an id in two segments": ({}, [section("0/ids", [3, 9, 4, 22, 7])], "two rows have the id 22"),
    "an id below 0": ({}, [section("0/ids", [3, 9, -4, 20, 7])], "-4 is the id of a row"),
    "a given id retired": ({}, [section("retired", [[8, 9]])], "9 is the id of a row and of a rem"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
@pytest.mark.parametrize("verify", [True, False])
def test_ids_and_numbers_that_contradict_each_other_are_refused(tmp_path, case, verify):
    make, changes, sections, match = CONTRADICTIONS[case]
    path = tmp_path / "m.resmem"
    make(path)
    if case == "flat classes":
        changes = {"memory": {**container.load(path).meta["memory"], "flat": True}}
    damaged_at(path, *sections, **changes)
    with pytest.raises(resmem.FileFormatError, match=match):
        resmem.Memory.load(path, verify=verify)


def test_a_head_that_is_not_finite_is_refused(tmp_path):
    path = tmp_path / "m.resmem"
    fitted(0, 9, store="head", head=(np.ones((3, 4)), np.zeros(3))).save(path)
    damaged_at(path, section("head/bias", [0, np.nan, 0], np.float32))
    with pytest.raises(resmem.FileFormatError, match="head/bias holds NaN or infinity"):
        resmem.Memory.load(path, verify=False)


@pytest.mark.parametrize("case", GIVEN_ID_CONTRADICTIONS)
def test_contradictory_given_ids_are_refused_before_an_add(tmp_path, case):
    changes, sections, match = GIVEN_ID_CONTRADICTIONS[case]
    path = tmp_path / "m.resmem"
    with_ids(path)
    damaged_at(path, *sections, **changes)
    with pytest.raises(resmem.FileFormatError, match=match):
        resmem.Memory.load(path)
    rows = examples(np.random.default_rng(2), 2)
    try:
        mem = resmem.Memory.load(path, verify=False)
    except resmem.FileFormatError as error:  # counted ids show it at once
        assert re.search(match, str(error))  # noqa: PT017
        return
    for twin in (mem, pickle.loads(pickle.dumps(mem))):
        before = len(twin)
        for ids in (None, [100, 101]):
            with pytest.raises(resmem.FileFormatError, match=match + ".*; restore the file from"):
                twin.add(*rows, ids=ids)
        assert len(twin) == before


def test_valid_ids_of_every_kind_are_loaded(tmp_path):
    path = tmp_path / "m.resmem"
    with_ids(path)
    mem = resmem.Memory.load(path).remove([9, 22]).save(path)
    mem = resmem.Memory.load(path, verify=False).add(*examples(np.random.default_rng(2), 2))
    mem.save(path, append=True)
    assert ids_of(resmem.Memory.load(path)) == [3, 4, 20, 7, 21, 23, 24, 25, 26]
    mem.add(*examples(np.random.default_rng(3), 1), ids=[2**63 - 1]).remove([2**63 - 1]).save(path)
    mem = resmem.Memory.load(path)
    with pytest.raises(ValueError, match="past int64"):
        mem.add(*examples(np.random.default_rng(3), 1))


def test_file_out_of_segment_numbers_must_be_saved_anew(tmp_path):
    path = tmp_path / "m.resmem"
    continued(path)
    damaged_at(path, numbers=2**48)
    mem = resmem.Memory.load(path).save(path, append=True)
    mem.add(*examples(np.random.default_rng(3), 1))
    with pytest.raises(ValueError, match="cannot be appended to any more; save it as a new file"):
        mem.save(path, append=True)
    mem.save(path)
    mem.add(*examples(np.random.default_rng(4), 1)).save(path, append=True)
    same_memory(resmem.Memory.load(path), mem)


@pytest.mark.parametrize("store", ["dense", "sparse:1", "head"])
@pytest.mark.parametrize("wrong", [3, -1, 2**40])
def test_targets_out_of_range_are_refused_wherever_used(tmp_path, store, wrong):
    rng, path = np.random.default_rng(0), tmp_path / "m.resmem"
    keys, outputs, targets = examples(rng, 30)
    given = {"store": store}
    if store == "head":
        given["head"], outputs = (rng.standard_normal((C, D)), rng.standard_normal(C)), None
    mem = resmem.Memory(k=4, **given).fit(keys, outputs, targets).save(path)
    export = mem.export(tmp_path / "e.npz") and tmp_path / "e.npz"
    targets = targets.copy()
    targets[::2] = wrong
    damaged_at(path, section("0/targets", targets))
    with np.load(export) as found:
        arrays = {**found, "targets": targets}
    np.savez(export, **arrays)
    queries, asked, truth = examples(rng, 40)
    asked = None if store == "head" else asked
    for name in (path, export):
        with pytest.raises(resmem.FileFormatError, match="targets"):
            resmem.Memory.load(name)
        mem = resmem.Memory.load(name, verify=False)
        calls = {
            "evaluate": lambda m=mem: m.evaluate(queries, asked, truth),
            "explain": lambda m=mem: m.explain(queries, asked),
            "tune": lambda m=mem: m.tune(queries, asked, truth, k=[2], sigma=[1.0], apply=False),
        }
        if store != "sparse:1":
            calls["loo"] = lambda m=mem: m.tune(loo=True, k=[2], sigma=[1.0], apply=False)
        if store == "dense":
            calls["temperature"] = lambda m=mem: setattr(m, "temperature", 2.0)
        for call in calls.values():
            with pytest.raises(ValueError, match="the stored rows are damaged"):
                call()


@pytest.mark.parametrize("wrong", [3, -1, 2**31 - 1])
def test_stored_classes_out_of_range_are_refused_wherever_used(tmp_path, wrong):
    rng, path = np.random.default_rng(0), tmp_path / "m.resmem"
    resmem.Memory(k=4, store="sparse:1").fit(*examples(rng, 30)).save(path)
    index = container.load(path).arrays["0/index"].copy()
    index[::2, 1] = wrong
    damaged_at(path, section("0/index", index, np.int32))
    with pytest.raises(resmem.FileFormatError, match="'index' holds"):
        resmem.Memory.load(path)
    mem = resmem.Memory.load(path, verify=False)
    queries, outputs, truth = examples(rng, 40)
    for call in (
        lambda: mem.explain(queries, outputs),
        lambda: mem.correct(queries, outputs),
        lambda: mem.evaluate(queries, outputs, truth),
        lambda: mem.tune(queries, outputs, truth, k=[2], sigma=[1.0], apply=False),
    ):
        with pytest.raises(ValueError, match=r"damaged|index|class"):
            call()


def test_optional_section_of_a_later_version_is_ignored(tmp_path):
    path = tmp_path / "m"
    mem = memory().save(path)
    loaded = container.load(path)
    for required in (False, True):
        extra = container.Section("later", np.zeros(3), required=required)
        kept = [name for name in loaded.arrays if name != "later"]
        container.append(path, loaded.version, loaded.meta, kept, [extra])
        loaded = container.load(path)
        if not required:
            same_memory(resmem.Memory.load(path), mem)
    with pytest.raises(resmem.FileFormatError, match="section 'later' is unknown"):
        resmem.Memory.load(path)


def test_flipped_bytes_and_truncations_are_found_or_harmless(tmp_path):
    path = tmp_path / "m"
    rng = np.random.default_rng(10)
    mem = resmem.Memory(k=2, sigma=1.0).fit(*examples(rng, 3)).save(path)
    mem.add(*examples(rng, 2)).remove([1]).save(path, append=True)
    good, queries = path.read_bytes(), examples(rng, 2)[0]
    wanted = mem.correction(queries).tobytes()
    step = max(1, len(good) // int(os.environ.get("RESMEM_FLIPS", 1500)))
    outcomes = {"refused": 0, "same answer": 0}

    def attempt(data):
        path.write_bytes(data)
        try:
            twin = resmem.Memory.load(path)
        except resmem.FileFormatError:
            outcomes["refused"] += 1
        else:
            assert twin.correction(queries).tobytes() == wanted
            outcomes["same answer"] += 1

    for at in range(0, len(good), step):
        attempt(good[:at] + bytes([good[at] ^ (1 << at % 8)]) + good[at + 1 :])
        attempt(good[:at])
    print(outcomes)
    assert outcomes["refused"] > 0


def test_unverified_damage_is_never_a_crash(tmp_path):
    """Without verification answers may differ, but nothing crashes or reads out of bounds."""
    code = (
        "import sys, numpy as np, resmem\n"
        "mem = resmem.Memory.load(sys.argv[1], verify=False)\n"
        "queries = np.random.default_rng(0).random((300, 4), dtype=np.float32)\n"
        "try:\n"
        "    mem.predict(queries, np.zeros((300, 3), np.float32), exclude_ids=np.zeros(300, int))\n"
        "    mem.remove([2])\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    rng = np.random.default_rng(11)
    for store in ("dense", "sparse:1", "head"):
        head = (np.ones((C, D)), np.ones(C)) if store == "head" else None
        mem = resmem.Memory(k=60, sigma=1.0, store=store, head=head)
        keys, outputs, targets = examples(rng, 400)
        given_outputs = None if head else outputs
        path = tmp_path / "m"
        mem.fit(keys, given_outputs, targets, ids=rng.permutation(900)[:400]).save(path)
        data = bytearray(path.read_bytes())
        loaded = container.load(path, verify=False)
        for array in loaded.arrays.values():  # noise where rows lie, headers left alone
            at = data.find(array.tobytes()[:64])
            assert at > 0
            data[at : at + array.nbytes] = rng.bytes(array.nbytes)
        path.write_bytes(data)
        with pytest.raises(resmem.FileFormatError):
            resmem.Memory.load(path)
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore::resmem.ResmemWarning")
def test_forged_file_with_right_checksums_is_refused_or_usable():
    sys.path.insert(0, str(Path(__file__).parent / "fuzz"))
    fuzz = importlib.import_module("fuzz_memory")
    seeds = fuzz.seeds()
    assert all(map(fuzz.check, seeds.values()))
    accepted = 0
    for number in range(150):
        rng = random.Random(number)
        data = rng.choice(list(seeds.values()))
        for _ in range(rng.randrange(1, 3)):
            data = rng.choice(fuzz.MUTATIONS)(data, rng)
        accepted += fuzz.check(data)
    assert 20 < accepted < 130  # both ways are taken


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_forged_export_is_refused_or_usable(tmp_path, suffix):
    """Whatever loads can be saved, continued, exported, and loaded again."""
    sys.path.insert(0, str(Path(__file__).parent / "fuzz"))
    fuzz = importlib.import_module("fuzz_memory")
    path, accepted, tried = tmp_path / f"e{suffix}", 0, 0
    fitted(0, 6).remove([2]).export(tmp_path / "good.npz")
    with np.load(tmp_path / "good.npz") as found:
        good = dict(found)
    about = json.loads(good["resmem"].tobytes())
    changes = [{"resmem": {**about, name: value}} for name in about for value in fuzz.VALUES[::3]]
    for array in (np.array([0, 1, 3, 4, 2**63 - 1]), np.array([9, 8, 7, 6, 5]), -np.ones(5, int)):
        changes.append({"ids": array})
    for runs in ([[0, 9]], [[2, 2], [2, 3]], [[2**63 - 1, 2**63 - 1]], [[6, 2**62]], [[2, 1]]):
        changes.append({"retired": np.array(runs)})
    changes += [{"targets": good["targets"] + by} for by in (1, -1, 2**40)]
    for change in changes:
        arrays = {**good, **change}
        text = json.dumps(change.get("resmem", about)).encode()
        arrays["resmem"] = np.frombuffer(text, dtype=np.uint8)
        if suffix == ".npz":
            np.savez(path, **arrays)
        else:
            pytest.importorskip("safetensors.numpy").save_file(arrays, path)
        tried += 1
        try:
            mem = resmem.Memory.load(path)
        except resmem.FileFormatError:
            continue
        accepted += 1
        fuzz.kept(mem)
    assert 10 < accepted < tried - 30  # both ways are taken


def test_a_load_under_a_memory_limit_is_a_memory_error(tmp_path):
    path = tmp_path / "m"
    rng = np.random.default_rng(12)
    resmem.Memory(k=2, sigma=1.0).fit(*examples(rng, 2_000_000)).save(path)
    code = (
        "import resource, sys, resmem\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (60 << 20),) * 2)\n"
        "try:\n"
        "    resmem.Memory.load(sys.argv[1], verify=False)\n"
        "except MemoryError:\n"
        "    print('MemoryError')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "MemoryError\n", done.stderr


# ---- Format 1 ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.resmem")), ids=lambda p: p.stem)
def test_files_of_earlier_versions_are_read(path):
    """These files are never written again: the first version of the format made them."""
    mem = resmem.Memory.load(path)
    with np.load(path.with_suffix(".npz")) as answers:
        given_outputs = None if mem.store == "head" else answers["outputs"]
        got = mem.correct(answers["queries"], given_outputs)
        assert got.tobytes() == answers["corrected"].tobytes()
        assert mem.kneighbors(answers["queries"])[1].tobytes() == answers["ids"].tobytes()
    assert mem.base == {"model": "golden", "layer": -1}


def test_golden_files_cover_stores_key_types_and_preprocess():
    found = [resmem.Memory.load(path) for path in GOLDEN.glob("*.resmem")]
    assert {m.store for m in found} == {"dense", "sparse:2", "head"}
    assert {m.key_dtype for m in found} == {"float32", "float16", "bfloat16"}
    assert {m.task for m in found} == {"classification", "regression"}
    assert {m.preprocess for m in found} == {"none", "standardize", "whiten:2"}


def test_exports_are_zip_files_without_pickles(tmp_path):
    memory().export(tmp_path / "m.npz")
    with zipfile.ZipFile(tmp_path / "m.npz") as archive:
        assert archive.testzip() is None
        assert all(name.endswith(".npy") for name in archive.namelist())
    with np.load(tmp_path / "m.npz", allow_pickle=False) as found:
        for name in found:
            assert found[name].dtype != object
