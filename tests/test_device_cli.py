"""Commands on a device: their answers are those of the CPU, and what is missing is told first."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec

import numpy as np
import pytest

import resmem
from resmem.__main__ import main
from resmem._devices import engine
from tested_device import DEVICE

ASKED = "--embeddings rows.npz --outputs rows.npz"
JUDGED = f"{ASKED} --targets rows.npz"
# What a command prints, or the file that it writes.
COMMANDS = {
    "predict m.resmem " + ASKED + " --output {out}.npy": "{out}.npy",
    "predict m.resmem " + ASKED + " --what proba --output {out}.npy": "{out}.npy",
    "predict m.resmem --embeddings rows.npz --what neighbors --output {out}.npz": None,
    "evaluate m.resmem " + JUDGED + " --json": None,
    "tune m.resmem " + JUDGED + " --k 1,3 --json": None,
    "audit m.resmem --json": None,
    "prune m.resmem " + JUDGED + " --keep 0.5 --json": None,
    "report m.resmem " + JUDGED + " --audit --output {out}.html": "{out}.html",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a saved memory and files of other rows."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    rows = {
        "embeddings": rng.standard_normal((140, 6)).astype(np.float32),
        "outputs": rng.standard_normal((140, 3)).astype(np.float32),
        "targets": rng.integers(0, 3, 140),
    }
    resmem.Memory(k=3).fit(*(a[:100] for a in rows.values())).save("m.resmem")
    np.savez("rows.npz", **{name: array[100:] for name, array in rows.items()})
    return tmp_path


def ran(command, capsys):
    """Run a command; return its status and what it printed on both streams."""
    status = main(shlex.split(command))
    return status, *capsys.readouterr()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.filterwarnings("ignore::resmem.ResmemWarning")
def test_commands_give_the_answers_of_the_cpu(tested, folder, capsys, monkeypatch, command):
    counted, real = [], engine.search

    def search(*given, **named):
        counted.append(given)
        return real(*given, **named)

    monkeypatch.setattr(engine, "search", search)
    found = []
    for device, out in (("cpu", "a"), (DEVICE, "b")):
        status, printed, said = ran(command.format(out=out) + f" --device {device}", capsys)
        assert status == 0, said
        assert (device == "cpu") == (not counted)
        written = COMMANDS[command] and (folder / COMMANDS[command].format(out=out)).read_bytes()
        printed = re.sub(r'"seconds": \{[^}]*\}', "", printed)
        found.append((printed.replace(f"{out}.", "x."), written))
    assert found[0] == found[1]


def test_the_neighbours_of_a_device_may_be_asked_for(tested, folder, capsys):
    for device, out in (("cpu", "a"), (DEVICE, "b")):
        command = f"predict m.resmem --embeddings rows.npz --what neighbors --output {out}.npz"
        assert ran(f"{command} --device {device}", capsys)[0] == 0
    with np.load("a.npz") as first, np.load("b.npz") as second:
        for name in ("distances", "ids"):
            assert first[name].tobytes() == second[name].tobytes()


@pytest.mark.parametrize("command", [*COMMANDS, "demo --no-picture"])
@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("gpu", "--device must be 'cpu', 'cuda', 'auto' or, with a number, such as 'cuda:0', got"),
        ("cuda:emulated:9", "--device must be one of 'cuda:emulated'"),
    ],
)
def test_a_device_that_is_not_there_is_told_first(
    emulated, folder, capsys, monkeypatch, command, device, said
):
    """Neither is a memory read, nor a model trained."""
    monkeypatch.setattr(resmem.Memory, "load", None)
    monkeypatch.setattr("resmem.demo.data.load", None)
    status, _, error = ran(command.format(out="x") + f" --device {device}", capsys)
    assert status == 2
    assert error.startswith(f"resmem: error: {said}")


def test_the_demo_hands_the_device_on(tested, capsys, monkeypatch):
    """To search its rows in the emulation takes minutes."""
    handed = []

    def fit_and_tune(*given):
        handed.append(given[-1])
        raise ValueError("enough")

    monkeypatch.setattr("resmem.demo.fit_and_tune", fit_and_tune)
    status, printed, error = ran(f"demo --quick --no-picture --device {DEVICE}", capsys)
    assert (status, error) == (2, "resmem: error: enough\n")
    assert f", neighbours on {DEVICE}\n" in printed
    assert handed == [DEVICE]


@pytest.mark.skipif(find_spec("resmem._cuda") is not None, reason="resmem._cuda was built")
def test_an_extension_that_is_not_there_is_told_in_options(folder, capsys):
    status, _, error = ran(f"evaluate m.resmem {JUDGED} --device cuda", capsys)
    assert status == 2
    assert re.match(r"resmem: error: --device cuda needs resmem\._cuda, which this build", error)
