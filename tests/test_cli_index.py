"""A file of an ``Index``: ``info`` and ``verify`` take it, every other command says what does."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

import resmem
from resmem.__main__ import main
from test_cli import declared

RNG = np.random.default_rng(21)
Z = RNG.standard_normal((40, 3)).astype(np.float32)
L = RNG.standard_normal((40, 2)).astype(np.float32)
Y = np.arange(40) % 2
ROWS = " --embeddings rows.npz --outputs rows.npz --targets rows.npz"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return a function that runs a command line beside an index, a memory and rows in files."""
    monkeypatch.chdir(tmp_path)
    np.savez("rows.npz", embeddings=Z, outputs=L, targets=Y)
    index().save("i.resmem")
    resmem.Memory(k=5).fit(Z, L, Y).save("m.resmem")

    def run(line):
        status = main(line.split())
        return (status, *capsys.readouterr())

    return run


def index():
    days = np.datetime64("2026-01-01") + np.arange(40)
    return resmem.Index(Z, metric="cosine", times=days, groups=Y).remove([3])


def test_info_of_an_index_says_what_it_is_and_holds(run):
    made = index()
    about = made.info()
    wanted = {
        "kind": "index",
        "rows": 39,
        "d": 3,
        "metric": "cosine",
        "key_dtype": "float32",
        "offset": False,
        "time_kind": "datetimes",
        "embedding_names": None,
        "attributes": ["times", "groups"],
        "nbytes": made.nbytes,
        "segments": 1,
        "removed": 1,
        "search": "float32",
    }
    assert about == wanted
    made.save("other.resmem")
    assert made.info() == {
        **wanted,
        "nbytes": made.nbytes,
        "removed": 0,  # a whole file leaves removed rows out, and the index continues it
        "file": os.path.abspath("other.resmem"),
        "file_bytes": os.path.getsize("other.resmem"),
        "generation": 1,
    }


def test_info_of_a_memory_names_its_kind_and_attributes():
    mem = resmem.Memory(k=5).fit(Z, L, Y, sample_weight=1 + Y, groups=Y)
    about = mem.info()
    assert (about["kind"], about["attributes"]) == ("memory", ["weights", "groups"])


def test_info_command_prints_what_the_index_tells(run):
    status, out, err = run("info i.resmem")
    lines = dict(line.strip().split(": ", 1) for line in out.splitlines())
    assert (status, err) == (0, "")
    assert (lines["kind"], lines["metric"], lines["rows"]) == ("index", "cosine", "39")
    assert json.loads(run("info i.resmem --json")[1]) == resmem.Index.load("i.resmem").info()
    assert run("info i.resmem --quiet") == (0, "", "")


def test_index_is_verified_as_a_memory_is(run):
    size = os.path.getsize("i.resmem")
    assert run("verify i.resmem") == (0, f"i.resmem: ok, {size} bytes\n", "")
    facts = json.loads(run("verify i.resmem --json")[1])
    assert facts == {**resmem.verify_file("i.resmem"), "checksums": True}
    assert resmem.verify_file("i.resmem") == resmem.Index.load("i.resmem").info()
    steps = []
    resmem.verify_file("i.resmem", progress=steps.append)
    assert sum(steps) > Z[1:].nbytes
    content = bytearray(Path("i.resmem").read_bytes())
    content[content.index(resmem.Index.load("i.resmem").get([4]).tobytes())] ^= 1
    Path("i.resmem").write_bytes(content)
    status, out, err = run("verify i.resmem")
    assert (status, out) == (2, "")
    assert "checksum" in err
    with pytest.raises(resmem.FileFormatError, match="checksum"):
        resmem.verify_file("i.resmem")
    assert run("info i.resmem")[0] == 0  # it reads no rows


OTHERS = {
    "add": ["add i.resmem" + ROWS, "add i.resmem --remove 3"],
    "update": ["update i.resmem --ids 1" + ROWS],
    "get": ["get i.resmem -o x.npz"],
    "merge": ["merge i.resmem m.resmem -o x.resmem", "merge m.resmem i.resmem -o x.resmem"],
    "audit": ["audit i.resmem"],
    "prune": ["prune i.resmem"],
    "predict": ["predict i.resmem --embeddings rows.npz --what neighbors -o x.npz"],
    "evaluate": ["evaluate i.resmem" + ROWS, f"evaluate m.resmem{ROWS} --published i.resmem"],
    "tune": [f"tune i.resmem{ROWS} --apply"],
    "report": [f"report i.resmem{ROWS} -o x.html"],
    "export": ["export i.resmem x.npz"],
}


def test_every_other_command_says_what_takes_an_index(run):
    taking = {name for name, action in declared() if action.dest in ("memory", "published")}
    assert taking == {*OTHERS, "info", "verify"}
    before = Path("i.resmem").read_bytes()
    for line in (line for lines in OTHERS.values() for line in lines):
        status, out, err = run(line + " --quiet")
        assert (status, out, err.count("\n")) == (2, "", 1), line
        assert "i.resmem holds an index, not a memory; load it with resmem.Index.load in" in err
        assert "of the commands only info and verify take one" in err
    assert Path("i.resmem").read_bytes() == before
    assert sorted(os.listdir()) == ["i.resmem", "m.resmem", "rows.npz"]
    load = eval(re.search(r"load it with (\S+)", err)[1], {"resmem": resmem})
    assert load("i.resmem").metric == "cosine"


def test_export_of_a_memory_is_no_index(run):
    for name in ("e.npz", "e.safetensors"):
        assert run(f"export m.resmem {name}")[0] == 0
        with pytest.raises(resmem.FileFormatError, match="holds a memory, not an index; load it"):
            resmem.Index.load(name)
