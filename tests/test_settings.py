"""Settings are one value: it changes as a whole or not at all, and a query sees one."""

from __future__ import annotations

import copy
import pickle
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

import resmem
from cases import fast_switches
from resmem import Settings
from resmem._correction import correct as _correct
from resmem._state import state as _state
from resmem._state import view

D, C = 5, 3
rng = np.random.default_rng(0)
ROWS = (
    rng.normal(size=(60, D)).astype(np.float32),
    rng.normal(size=(60, C)).astype(np.float32),
    rng.integers(0, C, 60),
)
QUERIES, OUTPUTS = (rng.normal(size=(7, m)).astype(np.float32) for m in (D, C))
CHANCES = np.exp(ROWS[1]) / np.exp(ROWS[1]).sum(axis=1, keepdims=True)

ONE = Settings(
    k=2, sigma=0.3, temperature=1.0, strength=1.0, probability_map="clip", key_dtype="float32"
)
OTHER = Settings(
    k=30, sigma=9.0, temperature=2.5, strength=0.25, probability_map="keep:0.4", key_dtype="float32"
)


def memory(**options):
    return resmem.Memory(**{"k": 4, "sigma": 1.0, **options}).fit(*ROWS)


def state(mem):
    """Return the info of a memory and its answers."""
    info = {name: value for name, value in mem.info().items() if name != "search"}
    chances = CHANCES[:7] if mem.output_kind == "probabilities" else OUTPUTS
    return info, mem.predict_proba(QUERIES, chances).tobytes()


def together(work, ask):
    """Return what two threads get from `ask` while this thread works."""
    stop, seen = threading.Event(), []

    def asking():
        while not stop.is_set():
            seen.append(ask())

    threads = [threading.Thread(target=asking) for _ in range(2)]
    with fast_switches():
        for thread in threads:
            thread.start()
        try:
            turn, end = 0, time.monotonic() + 0.3
            while time.monotonic() < end:
                work(turn := turn + 1)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    return seen


# ---- A query sees one setting ------------------------------------------------------------------

ANSWERS = {
    "correct": lambda mem: mem.correct(QUERIES, OUTPUTS, threads=1).tobytes(),
    "correction": lambda mem: mem.correction(QUERIES, threads=1).tobytes(),
    "predict_proba": lambda mem: mem.predict_proba(QUERIES, OUTPUTS, threads=1).tobytes(),
    "predict": lambda mem: mem.predict(QUERIES, OUTPUTS, threads=1).tobytes(),
    "explain": lambda mem: mem.explain(QUERIES, OUTPUTS, threads=1).corrected.tobytes(),
    "evaluate": lambda mem: str(mem.evaluate(QUERIES, OUTPUTS, ROWS[2][:7], threads=1).to_dict()),
    "info": lambda mem: str({**mem.info(), "search": None}),
    "settings": lambda mem: mem.settings,
    "repr": repr,
    "pickle": pickle.dumps,
    "copy": lambda mem: state(copy.copy(mem)),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_every_answer_is_of_one_setting_beside_use(what):
    ask, mem = ANSWERS[what], memory()
    wanted = [ask(mem.use(settings)) for settings in (ONE, OTHER)]
    assert wanted[0] != wanted[1]
    seen = together(lambda turn: mem.use((ONE, OTHER)[turn % 2]), lambda: ask(mem))
    assert set(map(wanted.count, seen)) == {1}


@pytest.mark.parametrize("what", ["correct", "predict_proba", "explain", "info", "pickle"])
def test_every_answer_is_of_one_kind_of_keys_beside_use(what):
    ask, kept = ANSWERS[what], memory()._state.view
    mem, other = memory(), replace(ONE, preprocess="unit", key_dtype="float16", k=9)
    wanted = [ask(mem.use(settings)) for settings in (ONE, other)]

    def change(turn):
        if turn % 2:
            mem.use(other)
        else:
            mem._state.publish(**vars(kept.with_settings(ONE)))

    seen = together(change, lambda: ask(mem))
    assert set(map(wanted.count, seen)) == {1}


@pytest.mark.parametrize("call", ["save", "export"])
def test_a_file_holds_one_setting(tmp_path, call):
    mem, path = memory().use(ONE), tmp_path / {"save": "m", "export": "m.npz"}[call]

    def ask():
        mine = path.with_name(f"{threading.get_ident()}{path.name}")
        getattr(mem, call)(mine)
        told = resmem.Memory.load(mine).info()
        return tuple(told[name] for name in vars(ONE))

    found = together(lambda turn: mem.use((ONE, OTHER)[turn % 2]), ask)
    assert set(found) <= {tuple(vars(settings).values()) for settings in (ONE, OTHER)}


def test_a_query_computes_with_the_settings_it_began_with(monkeypatch):
    mem = memory().use(ONE)
    wanted, real = ANSWERS["predict_proba"](mem), _correct.NeighbourSearch.corrections

    def meanwhile(*arguments):
        mem.use(OTHER)
        return real(*arguments)

    monkeypatch.setattr(_correct.NeighbourSearch, "corrections", meanwhile)
    assert ANSWERS["predict_proba"](mem) == wanted
    assert mem.k == OTHER.k


def test_tuning_takes_rows_and_settings_once(monkeypatch):
    def tuned(mem):
        return mem.tune(
            QUERIES, OUTPUTS, ROWS[2][:7], k=[3], sigma=[1.0], temperature=1.0, folds=2,
            preprocess=["unit"], apply=False,
        )  # fmt: skip

    wanted, mem, real = tuned(memory()), memory(), view.MemoryView.rekeyed

    def meanwhile(*arguments):
        monkeypatch.undo()
        made = real(*arguments)
        mem.fit(*(part[:9] for part in ROWS))
        mem.use(replace(OTHER, preprocess="center"))
        return made

    monkeypatch.setattr(view.MemoryView, "rekeyed", meanwhile)
    found = tuned(mem)
    assert found.table.tobytes() == wanted.table.tobytes()


# ---- All or nothing ----------------------------------------------------------------------------


def test_settings_refused_midway_leave_the_keys_as_they_were():
    mem = resmem.Memory(output_kind="probabilities", sigma=1.0).fit(ROWS[0], CHANCES, ROWS[2])
    before, now = state(mem), mem._state.view.rows
    with pytest.raises(ValueError, match="temperature must be 1 for probabilities"):
        mem.use(Settings(5, 1.0, 2.0, 1.0, preprocess="unit"))
    assert state(mem) == before
    assert mem._state.view.rows is now


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({}, {"k": 0}),
        ({}, {"sigma": -1.0}),
        ({}, {"sigma": "car"}),
        ({}, {"temperature": 0.0}),
        ({}, {"strength": np.nan}),
        ({}, {"probability_map": "clap"}),
        ({}, {"key_dtype": "int8"}),
        ({}, {"preprocess": "unite"}),
        ({"store": "sparse:2"}, {"temperature": 2.0}),
    ],
)
def test_settings_are_refused_as_a_whole(options, wrong):
    mem = memory(**options)
    before, now = state(mem), mem._state.view.rows
    asked = replace(OTHER, temperature=1.0, preprocess="unit")
    with pytest.raises(ValueError, match=next(iter(wrong))):
        mem.use(replace(asked, **wrong))
    assert mem._state.view.rows is now
    assert state(mem) == before


@pytest.mark.parametrize("at", ["with_derived_arrays", "_rekeyed_segment", "length_scale.measure"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_midway_changes_nothing(monkeypatch, at, error):
    mem = memory()
    before, now = state(mem), mem._state.view.rows

    def interrupted(*_):
        raise error

    monkeypatch.setattr(f"resmem._state.view.{at}", interrupted)
    with pytest.raises(error):
        mem.use(replace(OTHER, sigma="auto", preprocess="unit"))
    assert mem._state.view.rows is now
    monkeypatch.undo()
    assert state(mem) == before
    assert mem.use(replace(OTHER, preprocess="unit")).preprocess == "unit"  # later changes work


def test_tuning_that_cannot_be_applied_changes_nothing(monkeypatch):
    mem = memory(sigma="auto")
    before = state(mem)

    def refused(*_):
        raise MemoryError

    monkeypatch.setattr(view, "with_derived_arrays", refused)
    monkeypatch.setattr(view, "_rekeyed_segment", refused)
    with pytest.raises(MemoryError):
        mem.tune(QUERIES, OUTPUTS, ROWS[2][:7], k=[3], folds=2, key_dtype="float16")
    monkeypatch.undo()
    assert state(mem) == before


def test_setting_made_by_a_signal_handler_is_kept(monkeypatch):
    """The handler runs while another setting is being published."""
    mem, real = memory(), _state.replace

    def handler(*_):
        mem.strength = 0.125

    def meanwhile(value, **fields):
        made = real(value, **fields)
        if list(fields) == ["k"]:
            monkeypatch.undo()
            handler()
        return made

    monkeypatch.setattr(_state, "replace", meanwhile)
    mem.k = 7
    assert (mem.k, mem.strength) == (7, 0.125)


def test_settings_set_by_many_threads_are_all_kept():
    mem = memory()
    values = range(1, 200)

    def set_all(name):
        for value in values:
            setattr(mem, name, value)

    names = ["k", "sigma", "strength", "temperature"]
    with fast_switches():
        threads = [threading.Thread(target=set_all, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [getattr(mem, name) for name in names] == [199] * 4


def test_settings_can_be_changed_while_rows_are_added(monkeypatch):
    """Settings do not wait for the rows, and are kept when the rows have been added."""
    from resmem._rows import ingest

    mem, real = memory(), ingest.Incoming.write

    def meanwhile(*arguments):
        thread = threading.Thread(target=setattr, args=(mem, "k", 9))
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
        mem.strength = 0.5
        return real(*arguments)

    monkeypatch.setattr(ingest.Incoming, "write", meanwhile)
    mem.add(*ROWS)
    assert (mem.k, mem.strength, len(mem)) == (9, 0.5, 120)


# ---- Memory.settings ---------------------------------------------------------------------------


def test_settings_are_those_that_were_used():
    mem = memory()
    for settings in (ONE, OTHER, replace(ONE, preprocess="unit", key_dtype="float16")):
        assert mem.use(settings).settings == settings
    with pytest.raises(AttributeError):
        mem.settings = ONE


@pytest.mark.parametrize("sigma", ["auto", 0.5])
def test_use_of_the_current_settings_changes_nothing(sigma):
    mem = memory(sigma=sigma, preprocess="unit", temperature=2.0)
    before = state(mem)
    assert state(mem.use(mem.settings)) == before
    assert mem.sigma == sigma
    assert str(mem.settings).startswith(f"k=4, sigma={sigma}, strength=1")


def test_settings_used_without_rows_are_kept_by_fit():
    mem = resmem.Memory(k=3)
    usual = mem.settings
    assert usual == Settings(3, "auto", 1.0, 1.0, key_dtype="auto")
    other = replace(OTHER, preprocess="unit")
    assert mem.use(other).settings == other
    assert mem.use(usual).use(other).settings == other
    assert mem.fit(*ROWS).settings == other
    with pytest.raises(ValueError, match="keys can be made anew only of"):
        mem.use(usual)
    mem = resmem.Memory(k=3).fit(*ROWS)
    assert mem.use(OTHER).use(usual).settings == replace(usual, key_dtype="float32")


def test_append_after_a_fit_during_a_save_is_refused(tmp_path):
    """The save wrote the rows from before the fit; those of the fit are in no file."""
    mem, path = memory(preprocess="center"), tmp_path / "m"
    mem.save(path, progress=lambda _: mem.fit(ROWS[0] + 1, *ROWS[1:]))
    with pytest.raises(ValueError, match="no file yet"):
        mem.save(path, append=True)
    mem.save(path)
    assert state(resmem.Memory.load(path))[1] == state(mem)[1]
