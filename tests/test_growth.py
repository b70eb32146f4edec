"""Memories that begin with few rows or none: when sigma is measured, and warnings of growth."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import oracle
import resmem

D, C = 4, 3
LEARNED = ["nca:2"] if importlib.util.find_spec("sklearn") else []
FITTED = ["center", "standardize", "pca:2", "whiten:3", *LEARNED]
ALL = ["none", "unit", *FITTED]
MEASURED = {"sigma_rows", "preprocess_rows"}
FORMS = ["m.resmem", "m.npz", "m.safetensors", "append", "pickle"]


def examples(seed, n):
    rng = np.random.default_rng(seed)
    keys = rng.standard_normal((n, D)).astype(np.float32) + 3
    return keys, rng.standard_normal((n, C)).astype(np.float32), rng.integers(0, C, n)


NOTHING = examples(0, 0)
ROWS, MORE = examples(1, 40), examples(2, 30)


def same(one, other):
    """Check that both memories have the same answers and the same info."""
    queries, outputs, _ = examples(3, 6)
    assert one.correct(queries, outputs).tobytes() == other.correct(queries, outputs).tobytes()
    for got, wanted in zip(one.kneighbors(queries), other.kneighbors(queries), strict=True):
        assert got.tobytes() == wanted.tobytes()
    apart = ("nbytes", "segments", "file", "file_bytes", "generation")
    infos = [{k: v for k, v in m.info().items() if k not in apart} for m in (one, other)]
    assert infos[0] == infos[1]


def through(form, mem, tmp_path):
    """Return the memory after it went through a file or a pickle."""
    path = tmp_path / form
    if form == "pickle":
        return pickle.loads(pickle.dumps(mem))
    if form == "append":
        twin = resmem.Memory.load(mem.save(path)._state.view.file.path)
        twin.save(path, append=True)
    elif form.endswith(".resmem"):
        mem.save(path)
    else:
        mem.export(path)
    return resmem.Memory.load(path)


# ---- sigma="auto" ------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("given_ids", [False, True])
def test_sigma_is_measured_once_there_are_two_rows(first, given_ids):
    ids = np.arange(100, 140)[::-1] if given_ids else np.arange(40)
    mem = resmem.Memory(k=5)
    mem.fit(*(part[:first] for part in ROWS), ids=ids[:first])
    assert mem.sigma_ == 1.0
    assert mem.info()["sigma_rows"] == 0
    mem.add(*(part[first:] for part in ROWS), ids=ids[first:])
    assert mem.sigma_ == oracle.auto_sigma(ROWS[0], ids, 5) != 1.0
    assert mem.info()["sigma_rows"] == 40
    measured = mem.sigma_
    assert mem.add(*MORE).sigma_ == measured  # it is measured once


def test_sigma_of_rows_added_one_by_one_is_measured_at_two():
    mem = resmem.Memory(k=5)
    for i in range(3):
        mem.add(*(part[i : i + 1] for part in ROWS))
    assert mem.sigma_ == oracle.auto_sigma(ROWS[0][:2], None, 5)


def test_sigma_is_measured_again_whenever_it_is_set_to_auto():
    mem = resmem.Memory(k=5).fit(*(part[:9] for part in ROWS)).add(*(part[9:] for part in ROWS))
    assert mem.sigma_ == oracle.auto_sigma(ROWS[0][:9], None, 5)
    mem.sigma = "auto"
    assert mem.sigma_ == oracle.auto_sigma(ROWS[0], None, 5)
    mem.remove(range(30))
    mem.sigma = "auto"
    assert mem.sigma_ == oracle.auto_sigma(ROWS[0][30:], np.arange(30, 40), 5)
    assert mem.info()["sigma_rows"] == 10
    mem.remove(range(30, 39))
    mem.sigma = "auto"  # there is one row: it waits for others
    mem.add(*MORE)
    living = np.concatenate([ROWS[0][39:], MORE[0]])
    assert mem.sigma_ == oracle.auto_sigma(living, np.arange(39, 70), 5)


def test_use_measures_sigma_again_only_if_it_changes():
    mem = resmem.Memory(k=5).fit(*(part[:9] for part in ROWS)).add(*(part[9:] for part in ROWS))
    measured, settings = mem.sigma_, mem.settings
    assert mem.use(settings).sigma_ == measured
    mem.sigma = 7.0
    assert mem.use(settings).sigma_ == oracle.auto_sigma(ROWS[0], None, 5)


# ---- Warnings of growth ------------------------------------------------------------------------


def warnings_of_add(mem, rows, ids=None):
    """Add rows and return the texts of the warnings."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        mem.add(*rows, ids=ids)
    assert all(each.category is resmem.ResmemWarning for each in said)
    assert all(each.filename == __file__ for each in said)
    return [str(each.message) for each in said]


def warned_at(mem, sizes, seed=9):
    """Add rows in chunks of these sizes; return the lengths at which the memory warned."""
    found = []
    for i, n in enumerate(sizes):
        if warnings_of_add(mem, examples(seed + i, n)):
            found.append(len(mem))
    return found


def test_growth_to_8_and_64_times_is_warned_of_once_each():
    mem = resmem.Memory(k=5).fit(*(part[:10] for part in ROWS))
    assert warned_at(mem, [69, 1, 1, 500, 58, 1, 1, 3000]) == [80, 640]
    assert warned_at(mem, [3000]) == [6641]
    assert warned_at(resmem.Memory(k=5).fit(*(part[:10] for part in ROWS)), [9000]) == [9010]


def test_sliding_window_is_warned_of_growth_once():
    mem = resmem.Memory(k=5).fit(*(part[:10] for part in ROWS))
    said = []
    for i in range(6):
        said += warnings_of_add(mem, examples(i, 70))
        mem.remove(np.arange(10 + 70 * i, 80 + 70 * i))
    assert len(said) == 1


def test_growth_hint_for_sigma_works_as_written():
    memory = resmem.Memory(k=5).fit(*(part[:3] for part in ROWS))
    said = warnings_of_add(memory, (part[3:] for part in ROWS))
    assert said == [
        "sigma='auto' was measured on 3 rows and the memory has grown to 40; measure it again: "
        "memory.sigma = 'auto' (or fit all rows)"
    ]
    hint = said[0].rpartition(": ")[2].removesuffix(" (or fit all rows)")
    exec(hint, {"memory": memory})
    assert memory.sigma_ == oracle.auto_sigma(ROWS[0], None, 5)
    assert warnings_of_add(memory, MORE) == []


@pytest.mark.parametrize("preprocess", ALL)
def test_growth_hint_for_preprocess_works_as_written(preprocess):
    memory = resmem.Memory(k=5, sigma=1.0, preprocess=preprocess).fit(*(part[:5] for part in ROWS))
    said = warnings_of_add(memory, (part[5:] for part in ROWS))
    assert said == (preprocess in FITTED) * [
        f"preprocess={preprocess!r} was fitted to 5 rows and the memory has grown to 40; "
        "fit it again: memory.fit with all rows"
    ]
    assert memory.info()["preprocess_rows"] == (5 if preprocess in FITTED else None)
    assert warnings_of_add(memory.fit(*ROWS), MORE) == []
    same(memory, resmem.Memory(k=5, sigma=1.0, preprocess=preprocess).fit(*ROWS).add(*MORE))


def test_growth_with_a_fixed_sigma_is_not_warned_of():
    mem = resmem.Memory(k=5, sigma=1.0).fit(*(part[:3] for part in ROWS))
    assert warnings_of_add(mem, ROWS) == []


def test_rows_are_added_even_if_the_warning_is_an_error():
    mem = resmem.Memory(k=5).fit(*(part[:3] for part in ROWS))
    with pytest.raises(resmem.ResmemWarning, match="has grown to 43"):
        mem.add(*ROWS)
    assert len(mem.add(*MORE)) == 73


@pytest.mark.parametrize("form", FORMS)
def test_copy_keeps_the_number_of_measured_rows(tmp_path, form):
    mem = resmem.Memory(k=5, preprocess="center").fit(*(part[:10] for part in ROWS))
    twin = through(form, mem, tmp_path)
    assert (twin.info()["sigma_rows"], twin.info()["preprocess_rows"]) == (10, 10)
    assert len(warnings_of_add(twin, examples(5, 69))) == 0
    assert len(warnings_of_add(twin, examples(6, 1))) == 2
    if form == "pickle":
        assert warnings_of_add(copy.copy(twin), examples(7, 1)) == []


@pytest.mark.parametrize("wrong", [None, "gone", -1, 1.5, True, "7"])
def test_file_without_measured_rows_is_not_warned_of(tmp_path, monkeypatch, wrong):
    real = resmem._state.view.MemoryView.settings

    def older(held):
        told = {**real(held), "sigma_rows": wrong, "preprocess_rows": wrong}
        return {k: v for k, v in told.items() if wrong != "gone" or k not in MEASURED}

    monkeypatch.setattr(resmem._state.view.MemoryView, "settings", older)
    mem = resmem.Memory(k=5, preprocess="center").fit(*(part[:10] for part in ROWS))
    twin = resmem.Memory.load(mem.save(tmp_path / "m")._state.view.file.path)
    assert twin.sigma_ == mem.sigma_
    assert warnings_of_add(twin, examples(5, 900)) == []


def test_one_row_in_an_older_file_leaves_sigma_unmeasured(tmp_path, monkeypatch):
    real = resmem._state.view.MemoryView.settings
    told = lambda h: {k: v for k, v in real(h).items() if k not in MEASURED}  # noqa: E731
    monkeypatch.setattr(resmem._state.view.MemoryView, "settings", told)
    resmem.Memory(k=5).fit(*(part[:1] for part in ROWS)).save(tmp_path / "m")
    twin = resmem.Memory.load(tmp_path / "m").add(*(part[1:] for part in ROWS))
    assert twin.sigma_ == oracle.auto_sigma(ROWS[0], None, 5)


# ---- No rows yet -------------------------------------------------------------------------------


@pytest.mark.parametrize("given_ids", [False, True])
@pytest.mark.parametrize("preprocess", ALL)
@pytest.mark.parametrize("before", ["nothing", "no rows", "no rows twice"])
def test_first_added_rows_act_like_rows_of_a_fit(before, preprocess, given_ids):
    ids = np.arange(40)[::-1] + 7 if given_ids else None
    mem = resmem.Memory(k=5, preprocess=preprocess)
    if before != "nothing":
        mem.fit(*NOTHING)
    if before == "no rows twice":
        mem.add(*NOTHING)
    mem.add(*ROWS, ids=ids)
    wanted = resmem.Memory(k=5, preprocess=preprocess).fit(*ROWS, ids=ids)
    same(mem, wanted)
    assert mem.add(*MORE).remove([50, 20]) is mem
    same(mem, wanted.add(*MORE).remove([50, 20]))


@pytest.mark.parametrize("kind", ["values", "flat values", "probabilities", "head", "sparse"])
def test_every_kind_of_memory_may_begin_with_add(kind):
    keys, logits, classes = ROWS
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    options, rows = {
        "values": ({"task": "regression"}, (keys, logits, logits + 1)),
        "flat values": ({"task": "regression"}, (keys, logits[:, 0], logits[:, 1])),
        "probabilities": ({"output_kind": "probabilities"}, (keys, chances, classes)),
        "head": ({"store": "head", "head": (np.eye(C, D), np.zeros(C))}, (keys, None, classes)),
        "sparse": ({"store": "sparse:1"}, (keys, logits, classes)),
    }[kind]
    mem, wanted = resmem.Memory(k=5, **options).add(*rows), resmem.Memory(k=5, **options).fit(*rows)
    outputs = None if rows[1] is None else rows[1][:6]
    got = mem.correct(keys[:6] + 1, outputs)
    assert got.tobytes() == wanted.correct(keys[:6] + 1, outputs).tobytes()
    assert repr(mem) == repr(wanted)


class Table:
    """A stand-in for a DataFrame: an array whose columns have names."""

    def __init__(self, array, names):
        self.array, self.columns, self.shape = array, names, array.shape
        self.dtype, self.iloc = array.dtype, array

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.array, dtype)


@pytest.mark.parametrize("before", ["nothing", "no rows", "a file"])
@pytest.mark.parametrize("preprocess", ["none", "unit", "center"])
def test_first_rows_choose_the_key_dtype(tmp_path, before, preprocess):
    """The rows are times that float32 would make equal."""
    times = 1.7e9 + np.arange(40.0)[:, None] / 8
    rows, queries = (times, *ROWS[1:]), times[:6] + 1 / 16
    options = {"k": 5, "sigma": 1.0, "preprocess": preprocess}
    if before == "a file":
        options["key_dtype"] = "float64"
    mem = resmem.Memory(**options)
    if before != "nothing":
        mem.fit(times[:0], *NOTHING[1:])
    if before == "a file":
        mem.save(tmp_path / "m")
        mem = resmem.Memory.load(tmp_path / "m")
    mem.add(*rows)
    wanted = resmem.Memory(**options).fit(*rows)
    assert mem.key_dtype == wanted.key_dtype
    for got, expected in zip(mem.kneighbors(queries), wanted.kneighbors(queries), strict=True):
        assert got.tobytes() == expected.tobytes()
    mem.save(tmp_path / "m", append=before == "a file")
    twin = resmem.Memory.load(tmp_path / "m")
    assert twin.kneighbors(queries)[0].tobytes() == wanted.kneighbors(queries)[0].tobytes()


@pytest.mark.parametrize("first", [0, 9])
def test_first_rows_fix_the_column_names(first):
    names, mem = list("abcd"), resmem.Memory(k=5)
    mem.add(Table(ROWS[0][:first], names), *(part[:first] for part in ROWS[1:]))
    with pytest.raises(ValueError, match="columns"):
        mem.add(Table(ROWS[0], names[::-1]), *ROWS[1:])
    mem.add(Table(ROWS[0], names), *ROWS[1:])
    assert mem.info()["embedding_names"] == tuple(names)
    with pytest.raises(ValueError, match="columns"):
        mem.add(Table(ROWS[0], names[::-1]), *ROWS[1:])


def test_refused_first_rows_leave_the_memory_unfitted():
    mem = resmem.Memory(k=5, preprocess="center")
    for bad in ((ROWS[0], ROWS[1][:9], ROWS[2]), (ROWS[0] * np.nan, *ROWS[1:])):
        with pytest.raises(ValueError, match=r"outputs|NaN"):
            mem.add(*bad)
        with pytest.raises(ValueError, match="ids"):
            mem.add(*ROWS, ids=[1])
    with pytest.raises(resmem.NotFittedError):
        mem.kneighbors(ROWS[0])
    same(mem.add(*ROWS), resmem.Memory(k=5, preprocess="center").fit(*ROWS))


def test_threads_that_add_the_first_rows_keep_all_rows():
    for _ in range(10):
        mem, barrier = resmem.Memory(k=5, sigma=1.0), threading.Barrier(4)

        def work(i, mem=mem, barrier=barrier):
            barrier.wait()
            mem.add(*examples(i, 10))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert len(mem) == 40


@pytest.mark.parametrize("preprocess", ALL)
@pytest.mark.parametrize("form", FORMS)
def test_memory_without_rows_is_saved_and_continued(tmp_path, form, preprocess):
    """Rows that are added later act like rows of a fit."""
    mem = resmem.Memory(k=5, preprocess=preprocess).fit(*NOTHING)
    queries, outputs, _ = examples(3, 6)
    distances, ids = mem.kneighbors(queries)
    assert np.isinf(distances).all()
    assert (ids == -1).all()
    assert mem.correct(queries, outputs).tobytes() == oracle.softmax(outputs).tobytes()
    twin = through(form, mem, tmp_path)
    assert len(twin) == 0
    wanted = resmem.Memory(k=5, preprocess=preprocess).fit(*ROWS)
    same(twin.add(*ROWS), wanted)
    if twin._state.view.file is not None:
        twin.save(tmp_path / form, append=True)
        twin = resmem.Memory.load(tmp_path / form)
        same(twin, wanted)
        twin.add(*MORE).save(tmp_path / form, append=True)
        same(resmem.Memory.load(tmp_path / form), wanted.add(*MORE))


def test_memory_without_rows_takes_other_keys():
    mem = resmem.Memory(k=5).fit(*NOTHING)
    mem.use(resmem.Settings(5, "auto", 1.0, 1.0, preprocess="whiten:2"))
    same(mem.add(*ROWS), resmem.Memory(k=5, preprocess="whiten:2").fit(*ROWS))


@pytest.mark.parametrize("suffix", ["m.resmem", "m.npz"])
def test_file_with_rows_but_no_fitted_preprocess_is_refused(tmp_path, monkeypatch, suffix):
    """Only a file without rows may lack it."""
    mem = resmem.Memory(k=5, preprocess="center").fit(*ROWS)
    mem._state.publish(
        rows=resmem._rows.snapshot.replace(
            mem._state.view.rows, preprocess=resmem._keys.preprocess.IDENTITY
        )
    )
    (mem.export if suffix == "m.npz" else mem.save)(tmp_path / suffix)
    with pytest.raises(resmem.FileFormatError, match="mean"):
        resmem.Memory.load(tmp_path / suffix)
