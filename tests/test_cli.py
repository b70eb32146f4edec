"""The command line: every command, every form of input, every way to go wrong."""

from __future__ import annotations

import csv
import errno
import fcntl
import functools
import io
import json
import math
import os
import pty
import re
import resource
import signal
import struct
import subprocess
import sys
import termios
import time
import tracemalloc
import warnings
import zipfile
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import resmem
from resmem.__main__ import main
from resmem._base.platform import memory_available
from resmem._base.units import bytes_text
from resmem._cli import commands, inputs, queries
from resmem._cli.files import Changed, Source, Target
from resmem._cli.parser import parser
from resmem._evaluation.result import json_ready
from resmem._files import formats
from resmem._files.formats import members
from resmem.adapters import progress
from resmem.demo import data as demo_data

F32 = np.arange(12, dtype=np.float32).reshape(6, 2) - 3.5
HALVES = np.array([[1.0, -2.5], [0.0, 3.140625]], np.float32)  # bfloat16 holds them exactly
CODES = {"float32": "F32", "float16": "F16", "int64": "I64", "uint16": "BF16"}


def safetensors(path, arrays, pad=0, **entries):
    """Write a .safetensors file of ``arrays``; ``entries`` replace entries of its header."""
    header, data = {}, b""
    for name, array in arrays.items():
        code = {"float32": "F32", "float16": "F16", "int64": "I64", "uint16": "BF16"}[
            str(array.dtype)
        ]
        span = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": span}
        data += array.tobytes()
    return raw_safetensors(path, json.dumps({**header, **entries}).encode() + b" " * pad, data)


def raw_safetensors(path, header, data=b"", length=None):
    size = len(header) if length is None else length
    path.write_bytes(struct.pack("<Q", size) + header + data)
    return str(path)


def npy(path, array):
    np.save(path, array)
    return str(path)


# ---- Inputs ----------------------------------------------------------------------------------


def written(path, array):
    """Write the array to every kind of file and return their paths."""
    np.save(path / "a.npy", array)
    np.savez(path / "a.npz", a=array)
    np.savez_compressed(path / "b.npz", a=array)
    files = [path / "a.npy", path / "a.npz", path / "b.npz"]
    if array.flags.c_contiguous and array.dtype.isnative:
        safetensors(path / "a.safetensors", {"a": array})
        safetensors(path / "b.safetensors", {"a": array}, pad=3)  # the data is not aligned
        files += [path / "a.safetensors", path / "b.safetensors"]
    return [str(file) for file in files]


@pytest.mark.parametrize(
    "array",
    [
        F32,
        F32.astype(np.float16),
        np.arange(7),
        np.zeros((0, 3), np.float32),
        np.zeros((3, 0), np.float32),
        np.asfortranarray(F32),
        F32.astype(">f4"),
    ],
    ids=["float32", "float16", "int64", "no rows", "no columns", "by columns", "big-endian"],
)
def test_every_kind_of_file_gives_the_array_that_was_written(tmp_path, array):
    for file in written(tmp_path, array):
        got = inputs.rows(file, "embeddings")
        assert (got.shape, got.dtype, len(got)) == (array.shape, array.dtype, len(array))
        for part in (slice(0, 0), slice(1, 3), slice(2, 100)):
            assert got[part].flags.aligned
            assert np.array_equal(got[part], array[part])
        assert np.array_equal(np.asarray(got), array)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.safetensors", "b.safetensors"])
def test_uncompressed_arrays_are_mapped_and_not_read(tmp_path, name):
    written(tmp_path, F32)
    got = inputs.rows(str(tmp_path / name), "embeddings")
    assert isinstance(getattr(got, "_stored", got), np.memmap)


def test_bfloat16_becomes_float32_as_it_is_sliced(tmp_path):
    bits = (HALVES.view(np.uint32) >> 16).astype(np.uint16)
    got = inputs.rows(safetensors(tmp_path / "h.safetensors", {"h": bits}), "embeddings")
    assert got.dtype == np.float32
    assert got[1:].tobytes() == HALVES[1:].tobytes()
    assert np.array_equal(np.asarray(got, dtype=np.float64), HALVES)


def test_files_of_the_safetensors_library_are_read(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    library.save_file({"a": F32, "b": np.arange(3)}, tmp_path / "a.safetensors", {"made": "here"})
    for name, array in (("a", F32), ("b", np.arange(3))):
        assert np.array_equal(inputs.rows(f"{tmp_path}/a.safetensors:{name}", "ids")[:], array)


def test_a_name_chooses_one_of_several_arrays(tmp_path):
    several = {"embeddings": F32, "other": F32 + 1, "with:colon": F32 + 2}
    np.savez(tmp_path / "s.npz", **several)
    safetensors(tmp_path / "s.safetensors", several)
    for file in (f"{tmp_path}/s.npz", f"{tmp_path}/s.safetensors"):
        assert np.array_equal(inputs.rows(file, "embeddings")[:], F32)
        for name, array in several.items():
            assert np.array_equal(inputs.rows(f"{file}:{name}", "outputs")[:], array)
        with pytest.raises(ValueError, match=r"no array 'outputs'; .*'embeddings', 'other'"):
            inputs.rows(file, "outputs")
        with pytest.raises(ValueError, match="no array ''"):
            inputs.rows(f"{file}:", "outputs")


def test_a_long_list_of_names_is_cut(tmp_path):
    np.savez(tmp_path / "s.npz", **{f"a{i}": F32 for i in range(30)})
    with pytest.raises(ValueError, match=r"and 10 more$"):
        inputs.rows(f"{tmp_path}/s.npz", "outputs")


def test_the_only_array_needs_no_name(tmp_path):
    np.savez(tmp_path / "s.npz", anything=F32)
    assert np.array_equal(inputs.rows(f"{tmp_path}/s.npz", "outputs")[:], F32)


def test_a_path_may_hold_colons(tmp_path):
    folder = tmp_path / "a:b"
    folder.mkdir()
    npy(folder / "c:d.npy", F32)
    np.savez(folder / "e:f.npz", x=F32, y=F32 + 1)
    assert np.array_equal(inputs.rows(f"{folder}/c:d.npy", "ids")[:], F32)
    assert np.array_equal(inputs.rows(f"{folder}/e:f.npz:y", "ids")[:], F32 + 1)


def test_ids_are_taken_as_text_or_from_a_file(tmp_path):
    assert inputs.ids("3", "remove").tolist() == [3]
    assert inputs.ids("3,17,20", "remove").tolist() == [3, 17, 20]
    assert inputs.ids(npy(tmp_path / "i.npy", np.arange(4)), "remove").tolist() == [0, 1, 2, 3]


def refused(path, option="embeddings"):
    with pytest.raises(ValueError, match=re.escape(path.name)) as caught:
        inputs.rows(str(path), option)[:]
    return str(caught.value)


def test_files_of_other_kinds_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("1 2 3")
    assert "must be a .npy, .npz or .safetensors file" in refused(tmp_path / "a.txt")
    (tmp_path / "folder.npy").mkdir()
    assert "regular file" in refused(tmp_path / "folder.npy")
    npy(tmp_path / "a.npy", F32)
    with pytest.raises(ValueError, match="leave out ':x'"):
        inputs.rows(f"{tmp_path}/a.npy:x", "embeddings")
    np.savez(tmp_path / "none.npz")
    assert "holds no array" in refused(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError):
        inputs.rows(f"{tmp_path}/gone.npy", "embeddings")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    assert "regular file" in refused(tmp_path / "pipe.npy")


def test_damaged_npy_files_are_refused(tmp_path):
    whole = Path(npy(tmp_path / "whole.npy", F32)).read_bytes()
    file = tmp_path / "a.npy"
    for content, message in (
        (b"", "magic"),
        (b"not an array", "magic string"),
        (whole[:40], "EOF"),
        (whole[:-1], "ends early: 48 bytes of .6, 2. should follow, got 47"),
        (whole.replace(b"(6, 2)", b"(6,-2)"), "shape"),
        (whole.replace(b"2), }" + b" " * 30, b"2" + b"0" * 30 + b"), }"), "ends early"),
        (whole[:6] + b"\x03" + whole[7:], "version"),
        (whole.replace(b"'<f4'", b"'|O' "), "plain numbers"),
    ):  # fmt: skip
        file.write_bytes(content)
        assert re.search(message, refused(file))
    npy(file, np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f4")]))
    assert "plain numbers" in refused(file)
    npy(file, np.float32(3))
    assert "array of rows" in refused(file)


def test_damaged_npz_files_are_refused(tmp_path):
    file = tmp_path / "a.npz"
    np.savez_compressed(file, a=F32)
    packed = bytearray(file.read_bytes())
    np.savez(file, a=F32)
    stored = file.read_bytes()

    def message(content):
        file.write_bytes(content)
        return refused(file)

    assert "not a zip file" in message(b"nothing of the kind")
    assert "not a zip file" in message(stored[:-30])
    assert "not where the directory says" in message(b"XX" + stored[2:])
    assert "should have" in message(stored.replace(b"(6, 2)", b"(7, 2)"))
    packed[60] ^= 255
    message(packed)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", b"no array")
    assert "magic" in refused(file)


def test_compressed_member_with_wrong_checksum_is_refused(tmp_path):
    file = tmp_path / "a.npz"
    np.savez_compressed(file, a=F32)
    with zipfile.ZipFile(file) as archive:
        crc = struct.pack("<L", archive.getinfo("a.npy").CRC)
    file.write_bytes(file.read_bytes().replace(crc, b"\0\0\0\0"))
    assert "CRC" in refused(file)


@contextmanager
def traced():
    """Yield a function that returns, after the block, its peak of bytes taken in Python."""
    most = []
    tracemalloc.start()
    try:
        yield lambda: most[0]
    finally:
        most.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()


def bomb(path, shape, held, method=zipfile.ZIP_DEFLATED):
    """Write a compressed member that claims a shape of bytes and holds ``held`` zero bytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    with zipfile.ZipFile(path, "w", method) as archive, archive.open("a.npy", "w") as member:
        member.write(header.getvalue())
        for _ in range(held >> 20):
            member.write(bytes(1 << 20))
    size = len(header.getvalue()) + math.prod(shape)
    content = bytearray(path.read_bytes())
    struct.pack_into("<L", content, content.index(b"PK\x01\x02") + 24, size)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_array_beyond_free_memory_is_refused(tmp_path, monkeypatch, method):
    """A small file may hold an array that is larger than memory."""
    monkeypatch.setattr(formats, "memory_available", lambda: 64 << 20)
    file = tmp_path / "a.npz"
    bomb(file, (40, 1 << 20), 40 << 20, method)
    assert file.stat().st_size < 100_000
    with traced() as peak:
        said = refused(file)
    assert peak() < (8 << 20 if method == zipfile.ZIP_DEFLATED else 96 << 20)
    assert "'a.npy' is compressed and takes 40.0 MiB in memory, more than half" in said
    assert "(32.0 MiB); write it uncompressed, with numpy.savez or as a .npy" in said
    array = np.zeros((40, 1 << 20), dtype=np.uint8)  # as the message advises
    np.savez(file, a=array)
    np.save(tmp_path / "a.npy", array)
    for name in (file, tmp_path / "a.npy"):
        assert np.array_equal(inputs.rows(str(name), "a")[:], array)
    bomb(file, (20, 1 << 20), 20 << 20, method)
    assert inputs.rows(str(file), "a").shape == (20, 1 << 20)


def test_false_size_of_a_compressed_array_takes_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "memory_available", lambda: 8 << 30)
    file = tmp_path / "a.npz"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "ends early: 3221225472 bytes expected, got 2097152" in refused(
        bomb(file, (3 << 30,), 2 << 20)
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


def test_a_huge_header_is_not_read(tmp_path):
    """NumPy would read all of it before refusing it; compressed, it takes next to nothing."""
    start = np.lib.format.magic(2, 0) + struct.pack("<L", 2**32 - 1)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", start + bytes(1 << 26))
    (tmp_path / "a.npy").write_bytes(start + bytes(1 << 26))
    for name in ("a.npz", "a.npy"):
        with traced() as peak:
            assert "a header of 4294967295 bytes is more than 10000" in refused(tmp_path / name)
        assert peak() < 8 << 20


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(3, 5), (0, 4), (7,), (2, 3, 4)])
def test_compressed_arrays_are_what_was_written(tmp_path, order, shape):
    array = np.asarray(np.arange(math.prod(shape)).reshape(shape), order=order)
    np.savez_compressed(tmp_path / "a.npz", a=array)
    got = inputs.rows(str(tmp_path / "a.npz"), "a")[:]
    assert got.dtype == array.dtype
    assert np.array_equal(got, array)


def test_compressed_export_beyond_free_memory_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "e.npz"
    memory().export(file)
    with np.load(file) as found:
        arrays = dict(found)
    np.savez_compressed(file, **arrays)
    assert len(resmem.Memory.load(file)) == N
    monkeypatch.setattr(formats, "memory_available", lambda: 1024)
    with pytest.raises(resmem.FileFormatError, match=r"write it uncompressed, with numpy\.savez"):
        resmem.Memory.load(file)
    np.savez(file, **arrays)
    assert len(resmem.Memory.load(file)) == N


def test_an_encrypted_member_is_refused(tmp_path):
    file = tmp_path / "a.npz"
    np.savez(file, a=F32)
    content = bytearray(file.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    file.write_bytes(content)
    assert "encrypted" in refused(file)


ENTRY = {"dtype": "F32", "shape": [6, 2], "data_offsets": [0, 48]}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [6, 2]}, "lacks"),
        ([1, 2, 3], "lacks"),
        (None, "lacks"),
        ({**ENTRY, "data_offsets": [0, 1, 2]}, "lacks"),
        ({**ENTRY, "dtype": 3}, "wrong kind"),
        ({**ENTRY, "shape": [6, -2]}, "wrong kind"),
        ({**ENTRY, "shape": [6, 2.0]}, "wrong kind"),
        ({**ENTRY, "shape": [6, True]}, "wrong kind"),
        ({**ENTRY, "shape": "62"}, "wrong kind"),
        ({**ENTRY, "data_offsets": [0.0, 48]}, "wrong kind"),
        ({**ENTRY, "data_offsets": [48, 0]}, "ends before it starts"),
        ({**ENTRY, "shape": [2**40, 2**40]}, "should have"),
        ({**ENTRY, "data_offsets": [0, 40]}, "should have 48 bytes, got 40"),
        ({**ENTRY, "data_offsets": [8, 56]}, "should start at byte 0"),
        ({**ENTRY, "shape": [7, 2], "data_offsets": [0, 56]}, "bytes are expected"),
        ({**ENTRY, "dtype": "F8_E4M3"}, "dtype F8_E4M3, expected one of F64"),
    ],
)
def test_damaged_safetensors_entries_are_refused(tmp_path, entry, message):
    file = tmp_path / "a.safetensors"
    safetensors(file, {"a": F32}, a=entry)
    assert message in refused(file)


def test_damaged_safetensors_files_are_refused(tmp_path):
    file = tmp_path / "a.safetensors"
    whole = json.dumps({"a": ENTRY}).encode()
    for header, data, length, message in (
        (b"", b"", 0, "does not fit"),
        (whole, b"", 2**63, "does not fit"),
        (whole, F32.tobytes(), 100_000_001, "does not fit"),
        (b"[]", b"", None, "JSON object"),
        (b"{} x", b"", None, "Extra data"),
        (b"\xff\xff", b"", None, "decode"),
        (b"[" * 100_000, b"", None, "recursion"),
        (b'{"__metadata__": {"a": 1}}', b"", None, "__metadata__"),
        (b'{"a": {}, "a": {}}', b"", None, "twice"),
        (whole, F32.tobytes()[:-1], None, "bytes are expected"),
        (whole, F32.tobytes() + b"\0", None, "bytes are expected"),
    ):
        raw_safetensors(file, header, data, length)
        assert message in refused(file)
    file.write_bytes(b"\0\0\0")
    assert "does not fit" in refused(file)
    overlap = {"a": ENTRY, "b": {**ENTRY, "data_offsets": [24, 72]}}
    raw_safetensors(file, json.dumps(overlap).encode(), bytes(72))
    assert "'b' should start at byte 48" in refused(file)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "b.npz", "a.safetensors"])
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_randomly_changed_file_is_read_or_refused(tmp_path, name, data):
    if not (tmp_path / name).exists():
        written(tmp_path, F32)
    content = bytearray((tmp_path / name).read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path / f"changed{Path(name).suffix}"
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        arrays = [opened() for opened in members(str(file)).values()]
    except ValueError as error:
        named = str(error)
    else:
        named = str(file)
        assert all(np.asarray(array[:]).nbytes < 10_000 for array in arrays)
    assert str(file) in named


# ---- Commands --------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
N, Q, D, C = 60, 23, 4, 3
TRAIN = {
    "embeddings": RNG.standard_normal((N, D), dtype=np.float32),
    "outputs": RNG.standard_normal((N, C), dtype=np.float32),
    "targets": RNG.integers(0, C, N),
    "ids": np.arange(N) * 2 + 5,
}
QUERY = {
    "embeddings": RNG.standard_normal((Q, D), dtype=np.float32),
    "outputs": RNG.standard_normal((Q, C), dtype=np.float32),
    "exclude_ids": RNG.integers(0, N, Q) * 2 + 5,
}
ROWS = ("embeddings", "outputs", "targets")
FIT = "fit m.resmem --embeddings train.npz --outputs train.npz --targets train.npz"
UPDATE = FIT.replace("fit", "update") + " --ids train.npz"
ASK = "predict m.resmem --embeddings query.npz --outputs query.npz"


class Done(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Return a function that runs a command line in a folder with rows and queries."""
    monkeypatch.chdir(tmp_path)
    np.savez("train.npz", **TRAIN)
    np.savez("query.npz", **QUERY)

    def run(line, *more):
        status = main([*line.split(), *more])
        return Done(status, *capsys.readouterr())

    return run


@pytest.fixture
def fitted(cli):
    """Return `cli`, after `m.resmem` has been fitted."""
    assert cli(f"{FIT} --ids train.npz --k 5 --quiet") == (0, "", "")
    return cli


def memory():
    """Return the memory that `fitted` has saved."""
    return resmem.Memory(k=5).fit(*TRAIN.values())


def litter():
    """Return the files in the folder that the fixtures did not write."""
    return sorted(set(os.listdir()) - {"train.npz", "query.npz", "m.resmem"})


def test_fit_saves_the_memory_and_says_so(cli):
    done = cli(f"{FIT} --ids train.npz --k 5")
    assert done.status == 0
    assert done.out.startswith("m.resmem: 60 rows, d=4, C=3, ")
    assert done.out.count("\n") == 1
    estimate = done.err.splitlines()
    assert re.fullmatch(
        r"60 rows, d=4, C=3, float32 keys; -> is the one to start with, in [\d.]+ [KMGT]iB "
        r"\(half of the memory available\)",
        estimate[0],
    )
    assert re.fullmatch(
        r" +bytes, and time of 1,000 queries \(k=5, \d+ threads; roughly\)", estimate[1]
    )
    assert [line.startswith("->") for line in estimate[2:]] == [True, False, False, False, False]
    assert re.match(r"-> +2.\d KiB +[\d.]+ m?s  store dense  ", estimate[2])
    saved = resmem.Memory.load("m.resmem")
    got = saved.correct(QUERY["embeddings"], QUERY["outputs"])
    assert got.tobytes() == memory().correct(QUERY["embeddings"], QUERY["outputs"]).tobytes()
    assert not litter()


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_fit_reads_every_kind_of_file(cli, suffix):
    files = {}
    for name, array in TRAIN.items():
        files[name] = f"{name}{suffix}"
        if suffix == ".npy":
            np.save(files[name], array)
        elif suffix == ".npz":
            np.savez_compressed(files[name], array)
        else:
            safetensors(Path(files[name]), {"only": array})
    line = "fit m.resmem " + " ".join(f"--{name} {file}" for name, file in files.items())
    assert cli(f"{line} --k 5").status == 0
    got = resmem.Memory.load("m.resmem").correct(QUERY["embeddings"], QUERY["outputs"])
    assert got.tobytes() == ANSWERS["correct"](memory()).tobytes()


@pytest.mark.parametrize(
    "wrong",
    [
        "--k 0",
        "--embeddings query.npz",
        "--targets train.npz:embeddings",
        "--ids query.npz:targets",
        "--preprocess pca:5",
        "--preprocess unite",
    ],
)
def test_fit_of_wrong_input_fails_before_its_estimate(cli, wrong):
    np.savez("query.npz", **QUERY, targets=np.zeros(N, int))
    done = cli(f"{FIT} {wrong}")
    assert done.status == 2
    assert done.err.startswith("resmem: error: ")


def test_rows_beyond_a_limit_go_at_fit_and_at_add(cli):
    assert cli(f"{FIT} --max-rows 20 --max-bytes 4000 --quiet").status == 0
    assert cli("add m.resmem --embeddings train.npz --outputs train.npz --targets train.npz "
               "--quiet").status == 0  # fmt: skip
    mem = resmem.Memory.load("m.resmem")
    assert (mem.max_rows, mem.max_bytes) == (20, 4000)
    assert len(mem) == 20
    assert np.array_equal(mem.get(mem.ids).embeddings, TRAIN["embeddings"][-20:])


DAYS = np.datetime64("2026-01-01") + np.arange(N)
SPANS = {
    "30": 30,
    "2.5": 2.5,
    "30D": np.timedelta64(30, "D"),
    "36 h": np.timedelta64(36, "h"),
    "2W": np.timedelta64(2, "W"),
    "7ns": np.timedelta64(7, "ns"),
}


@pytest.mark.parametrize("text", SPANS)
def test_fit_takes_spans_of_time_that_info_prints(cli, text):
    span = SPANS[text]
    times = DAYS if isinstance(span, np.timedelta64) else np.arange(N)
    np.save("times.npy", times)
    status = cli(f"{FIT} --times times.npy --quiet", "--max-age", text, "--half-life", text).status
    mem = resmem.Memory(max_age=span, half_life=span)
    mem.fit(*(TRAIN[name] for name in ROWS), times=times)
    loaded = resmem.Memory.load("m.resmem")
    assert (status, loaded.max_age, loaded.half_life) == (0, mem.max_age, mem.half_life)
    assert np.array_equal(loaded.ids, mem.ids)
    for printed in (cli("info m.resmem").out, repr(loaded)):
        shown = re.findall(r"(?:max_age|half_life)[:=] ?'?([\w.]+)", printed)
        assert shown == 2 * [text.replace(" ", "")]
    span_again = ("--max-age", shown[0], "--force")
    assert cli(f"{FIT} --times times.npy --quiet", *span_again).status == 0
    assert resmem.Memory.load("m.resmem").max_age == mem.max_age


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--max-age 3d --times days.npy", "max_age must be a number, or for datetimes a whole"),
        ("--half-life soon --times days.npy", "half_life must be a number, or for datetimes a"),
        ("--half-life 1.5h --times days.npy", "such as 30D, got '1.5h'"),
        ("--half-life=-2D --times days.npy", "such as 30D, got '-2D'"),
        ("--max-age 99999999999999999999D --times days.npy",
         "max_age must be below 292 years, got 99999999999999999999D"),
        ("--max-age 999999D --times days.npy", "max_age must be below 292 years, got 999999D"),
        ("--half-life 999999W --times days.npy", "half_life must be below 292 years, got 999999W"),
        ("--half-life 0D --times days.npy", "half_life must be above 0, got 0D"),
        ("--max-age -1 --times ids.npy", "max_age must be a finite number of at least 0, got -1"),
        ("--half-life 0 --times ids.npy", "half_life must be above 0, got 0"),
        ("--max-age 3 --times days.npy", "max_age must be a span such as 30D, as times are dateti"),
        ("--half-life 36h --times ids.npy", "half_life must be a number, as times are integers, "
         "got 36h"),
        ("--half-life 30D", "was not given; give --times, or leave out --half-life"),
        ("--max-age 30", "was not given; give --times, or leave out --max-age"),
    ],
)  # fmt: skip
def test_spans_of_time_that_do_not_fit_are_refused(cli, options, message):
    np.save("days.npy", DAYS)
    np.save("ids.npy", np.arange(N))
    done = cli(f"{FIT} {options} --quiet")
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert message in done.err
    assert not os.path.exists("m.resmem")


def test_fit_with_json_prints_the_facts(cli):
    done = cli(f"{FIT} --json --quiet")
    assert done.err == ""
    facts = json.loads(done.out)
    assert facts["file"] == "m.resmem"
    assert facts["memory"]["rows"] == N
    assert facts["estimate"]["n"] == N


@pytest.mark.parametrize(
    ("option", "name", "value"),
    [
        ("--k 7", "k", 7),
        ("-k 7", "k", 7),
        ("--sigma 2.5", "sigma", 2.5),
        ("--sigma inf", "sigma", "inf"),
        ("--sigma auto", "sigma", "auto"),
        ("--temperature 1.5", "temperature", 1.5),
        ("--strength 0.5", "strength", 0.5),
        ("--key-dtype bfloat16", "key_dtype", "bfloat16"),
        ("--residual-dtype float16", "residual_dtype", "float16"),
        ("--store sparse:1", "store", "sparse:1"),
        ("--preprocess standardize", "preprocess", "standardize"),
        ("--preprocess pca:2", "preprocess", "pca:2"),
        ("--base resnet", "base", "resnet"),
        ("--metric cosine", "metric", "cosine"),
    ],
)
def test_fit_takes_every_parameter(cli, option, name, value):
    facts = json.loads(cli(f"{FIT} {option} --json").out)
    assert facts["memory"][name] == value


def test_fit_preprocess_is_kept_in_the_file(cli):
    done = cli(f"{FIT} --preprocess whiten:2 --key-dtype float16 --k 5")
    assert done.err.startswith("60 rows, d=2, C=3, float16 keys")  # d of the stored keys
    assert done.out.startswith("m.resmem: 60 rows, d=4, C=3, ")  # d of the embeddings
    assert "preprocess: whiten:2\n" in cli("info m.resmem").out
    assert cli("predict m.resmem --embeddings query.npz --what neighbors -o p.npz").status == 0
    wanted = resmem.Memory(k=5, preprocess="whiten:2", key_dtype="float16")
    wanted.fit(TRAIN["embeddings"], TRAIN["outputs"], TRAIN["targets"])
    assert np.array_equal(np.load("p.npz")["ids"], wanted.kneighbors(QUERY["embeddings"])[1])
    done = cli(f"{FIT} --preprocess unit --store head --head-weight train.npz:outputs --force")
    assert "error: --store head needs --preprocess none" in done.err


def test_fit_takes_a_regression(cli):
    np.save("values.npy", TRAIN["outputs"][:, 0])
    line = "fit m.resmem --embeddings train.npz --outputs values.npy --targets values.npy"
    facts = json.loads(cli(f"{line} --task regression --output-kind values --json").out)
    assert facts["memory"]["task"] == "regression"
    assert facts["memory"]["output_kind"] == "values"
    line = "predict m.resmem --embeddings train.npz --outputs values.npy -o p.npy"
    assert cli(line).status == 0
    assert np.load("p.npy").shape == (N,)


def test_fit_takes_a_head(cli):
    weight, bias = RNG.standard_normal((C, D)).astype(np.float32), np.float32([1, 2, 3])
    np.savez("head.npz", weight=weight, bias=bias)
    line = "fit m.resmem --embeddings train.npz --targets train.npz --store head --force"
    line += " --head-weight head.npz:weight"
    for options, wanted_bias in ((" --head-bias head.npz:bias", bias), ("", 0 * bias)):
        assert "60 rows, d=4, C=3" in cli(line + options).err
        assert cli("predict m.resmem --embeddings query.npz --what proba -o p.npy").status == 0
        wanted = resmem.Memory(store="head", head=(weight, wanted_bias))
        wanted.fit(TRAIN["embeddings"], None, TRAIN["targets"])
        assert np.array_equal(np.load("p.npy"), wanted.predict_proba(QUERY["embeddings"]))
    assert cli("add m.resmem --embeddings train.npz --targets train.npz").status == 0
    assert len(resmem.Memory.load("m.resmem")) == 2 * N


def test_an_existing_file_is_replaced_only_when_forced(fitted):
    before = Path("m.resmem").read_bytes()
    done = fitted(f"{FIT} --k 9")
    assert done.status == 2
    assert "'m.resmem' exists; --force replaces it" in done.err
    assert Path("m.resmem").read_bytes() == before
    assert fitted(f"{FIT} --k 9 --force").status == 0
    assert resmem.Memory.load("m.resmem").k == 9


def test_a_failing_fit_leaves_the_existing_file(fitted):
    before = Path("m.resmem").read_bytes()
    np.save("targets.npy", np.full(N, C))
    done = fitted(f"{FIT} --force --targets targets.npy --quiet")
    assert (done.status, done.out) == (2, "")
    assert "targets: row 0 is class 3" in done.err
    assert Path("m.resmem").read_bytes() == before
    assert litter() == ["targets.npy"]


def test_add_appends_rows_and_removes_others(fitted):
    added = {n: TRAIN[n][:10] for n in ROWS} | {"ids": np.arange(1000, 1010)}
    np.savez("more.npz", **added)
    line = "add m.resmem --embeddings more.npz --outputs more.npz --targets more.npz --ids more.npz"
    done = fitted(f"{line} --remove 5,7")
    assert done.status == 0
    assert done.out.startswith("m.resmem: 10 rows added, 2 removed; 68 rows, ")
    wanted = memory()
    wanted.remove([5, 7])
    wanted.add(*added.values())
    got = resmem.Memory.load("m.resmem")
    query = QUERY["embeddings"], QUERY["outputs"]
    assert got.correct(*query).tobytes() == wanted.correct(*query).tobytes()
    np.save("ids.npy", np.arange(1000, 1010))
    facts = json.loads(fitted("add m.resmem --remove ids.npy --json").out)
    assert facts == {"file": "m.resmem", "added": 0, "removed": 10, "rows": 58}
    assert len(resmem.Memory.load("m.resmem")) == 58


def test_add_without_ids_continues_the_numbering(fitted):
    line = "add m.resmem --embeddings train.npz --outputs train.npz --targets train.npz --quiet"
    assert fitted(line) == (0, "", "")
    assert resmem.Memory.load("m.resmem").kneighbors(TRAIN["embeddings"][:1], k=2)[1].tolist() == [
        [5, 2 * N + 4]
    ]


def test_update_replaces_rows_under_their_ids(fitted):
    rows = {n: TRAIN[n][:3] for n in ROWS}
    rows["embeddings"] = rows["embeddings"] + 1
    np.savez("more.npz", **rows)
    line = "update m.resmem --embeddings more.npz --outputs more.npz --targets more.npz"
    done = fitted(f"{line} --ids 9,5,7")
    assert done.status == 0
    assert done.out.startswith("m.resmem: 3 rows updated; 60 rows, ")
    wanted = memory().update([9, 5, 7], *rows.values())
    query = QUERY["embeddings"], QUERY["outputs"]
    got = resmem.Memory.load("m.resmem")
    assert got.correct(*query).tobytes() == wanted.correct(*query).tobytes()
    np.save("ids.npy", np.array([5, 9, 7]))
    facts = json.loads(fitted(f"{line} --ids ids.npy --json").out)
    assert facts == {"file": "m.resmem", "updated": 3, "rows": 60}
    assert np.array_equal(
        resmem.Memory.load("m.resmem").get([9]).embeddings[0], rows["embeddings"][1]
    )


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_get_writes_rows_as_they_are_stored(fitted, monkeypatch, block):
    monkeypatch.setattr(commands, "_ROWS_PER_BLOCK", block)
    done = fitted("get m.resmem -o all.npz")
    assert done == (0, "all.npz: 60 rows\n", "")
    with np.load("all.npz") as found:
        for name, array in TRAIN.items():
            assert found[name].tobytes() == array.tobytes()
    facts = json.loads(fitted("get m.resmem --ids 7,5,7,11 --output some.npz --json").out)
    assert facts["arrays"] == {"ids": [4], "embeddings": [4, D], "targets": [4], "outputs": [4, C]}
    assert (
        np.load("some.npz")["embeddings"].tobytes() == TRAIN["embeddings"][[1, 0, 1, 3]].tobytes()
    )
    printed = fitted("get m.resmem --ids 7 -o -").out.split(",")
    assert (int(printed[0]), int(printed[1 + D])) == (7, TRAIN["targets"][1])
    fitted("add m.resmem --remove train.npz:ids --quiet")
    assert fitted("get m.resmem -o none.npz").status == 0
    assert np.load("none.npz")["embeddings"].shape == (0, D)
    assert fitted("get m.resmem -o -") == (0, "", "")


def test_merge_writes_the_rows_of_all_files(fitted):
    parts = [np.arange(start, N, 3) for start in range(3)]
    for i, at in enumerate(parts):
        np.savez(f"part{i}.npz", **{name: array[at] for name, array in TRAIN.items()})
        line = FIT.replace("m.resmem", f"m{i}.resmem").replace("train", f"part{i}")
        assert fitted(f"{line} --ids part{i}.npz --k 5 --sigma 2 --quiet").status == 0
    done = fitted("merge m0.resmem m1.resmem m2.resmem -o all.resmem")
    assert done.status == 0
    assert done.out.startswith("all.resmem: 60 rows, d=4, C=3, ")
    wanted = resmem.Memory(k=5, sigma=2.0).fit(*TRAIN.values())
    query = QUERY["embeddings"], QUERY["outputs"]
    got = resmem.Memory.load("all.resmem")
    assert got.correct(*query).tobytes() == wanted.correct(*query).tobytes()
    assert fitted("merge m0.resmem m1.resmem -o all.resmem").status == 2
    assert fitted("merge m0.resmem m1.resmem -o all.resmem --force --quiet") == (0, "", "")
    assert len(resmem.Memory.load("all.resmem")) == 40
    said = fitted("merge m0.resmem m1.resmem -o m1.resmem --force").err
    assert "'m1.resmem' is read by this command, as OTHER.resmem m1.resmem; give --output" in said


def test_audit_prints_the_worst_and_writes_all_rows(fitted):
    wanted = memory().audit()
    done = fitted("audit m.resmem -o rows.csv")
    assert done == (0, f"{wanted}\n", "")
    with open("rows.csv", encoding="utf-8", newline="") as file:
        head, *lines = csv.reader(file)
    assert head == list(wanted.table)
    for name, values in zip(head, zip(*lines, strict=True), strict=True):
        assert list(values) == [str(value) for value in wanted.table[name].tolist()]
    facts = json.loads(fitted("audit m.resmem --rows 20 --seed 3 --threads 1 --json").out)
    assert facts["audit"] == memory().audit(20, 3).to_dict()
    done = fitted("audit m.resmem -o rows.npz")
    assert done.status == 2
    assert "the output must be a .csv file, got 'rows.npz'" in done.err
    assert litter() == ["rows.csv"]


def test_prune_tells_and_writes_a_smaller_memory(fitted):
    before = Path("m.resmem").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wanted = memory().prune(keep=0.5, seed=2, confidence=0.9, apply=False)
    line = "prune m.resmem --keep 0.5 --seed 2 --confidence 0.9 --threads 1"
    assert fitted(line) == (0, f"{wanted}\nnothing is changed without --output\n", "")
    done = fitted(f"{line} -o less.resmem")
    assert "\nless.resmem: 30 rows, d=4, C=3, " in done.out
    assert (
        resmem.Memory.load("less.resmem").ids.tolist()
        == np.setdiff1d(TRAIN["ids"], wanted.ids).tolist()
    )
    assert fitted(f"{line} -o less.resmem").status == 2
    assert fitted(f"{line} -o less.resmem --force --quiet") == (0, "", "")
    assert "give --output another file" in fitted("prune m.resmem -o m.resmem --force").err
    assert Path("m.resmem").read_bytes() == before


def test_prune_judges_by_validation_rows(judged):
    rows = "--embeddings judged.npz --outputs judged.npz --targets judged.npz"
    facts = json.loads(judged(f"prune m.resmem {rows} --json").out)
    wanted = memory().prune(*rows_of(), apply=False)
    assert facts["pruning"] == wanted.to_dict()
    done = judged("prune m.resmem --outputs judged.npz")
    assert done.status == 2
    assert "--embeddings is missing: the rows have embeddings and targets\n" in done.err


def test_audit_of_values_writes_a_column_for_each(cli):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 2))
    resmem.Memory("regression", k=3).fit(rng.normal(size=(30, 2)), values, values).save("m.resmem")
    assert cli("audit m.resmem --quiet -o rows.csv") == (0, "", "")
    head = Path("rows.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert head[:5] == ["ids", "targets_0", "targets_1", "expected_0", "expected_1"]


@pytest.mark.parametrize("name", ["e.npz", "e.SAFETENSORS"])
def test_an_export_is_neither_fitted_nor_added_to(fitted, name):
    done = fitted(FIT.replace("m.resmem", name))
    assert done.status == 2
    assert f"'{name}' is the name of an export: fit a .resmem file" in done.err
    assert "resmem export" in done.err
    assert litter() == []
    fitted(f"export m.resmem {name}")
    before = Path(name).read_bytes()
    done = fitted(f"add {name} --remove 7")
    wanted = f"resmem: error: '{name}' is an export; only .resmem files can be added to\n"
    assert done == (2, "", wanted)
    done = fitted(UPDATE.replace("m.resmem", name))
    wanted = f"resmem: error: '{name}' is an export; only .resmem files can be updated\n"
    assert done == (2, "", wanted)
    assert Path(name).read_bytes() == before


ANSWERS = {
    "predict": lambda m, **more: m.predict(QUERY["embeddings"], QUERY["outputs"], **more),
    "proba": lambda m, **more: m.predict_proba(QUERY["embeddings"], QUERY["outputs"], **more),
    "correct": lambda m, **more: m.correct(QUERY["embeddings"], QUERY["outputs"], **more),
    "correction": lambda m, **more: m.correction(QUERY["embeddings"], **more),
}


@pytest.mark.parametrize("rows", [1, 7, 10**6])
@pytest.mark.parametrize("what", ANSWERS)
def test_predict_gives_the_memorys_results_for_any_block_size(fitted, monkeypatch, what, rows):
    monkeypatch.setattr(queries, "_BLOCK_ROWS", rows)
    wanted = ANSWERS[what](memory())
    assert fitted(f"{ASK} -o p.npy --what {what} --quiet") == (0, "", "")
    assert fitted(f"{ASK} -o p.npz --what {what}").out == f"p.npz: {what} of 23 queries\n"
    with np.load("p.npz") as archive:
        assert archive.files == [what]
        for got in (np.load("p.npy"), archive[what]):
            assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
            assert got.tobytes() == wanted.tobytes()
    printed = fitted(f"{ASK} -o - --what {what}").out
    values = np.array([line.split(",") for line in printed.splitlines()], wanted.dtype)
    assert values.reshape(wanted.shape).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("rows", [7, 10**6])
def test_predict_gives_neighbors(fitted, monkeypatch, rows):
    monkeypatch.setattr(queries, "_BLOCK_ROWS", rows)
    distances, ids = memory().kneighbors(QUERY["embeddings"])
    line = "predict m.resmem --what neighbors --embeddings query.npz"
    facts = json.loads(fitted(f"{line} -o p.npz --json").out)
    assert facts == {"file": "p.npz", "arrays": {"distances": [Q, 5], "ids": [Q, 5]}}
    with np.load("p.npz") as archive:
        assert archive["distances"].tobytes() == distances.tobytes()
        assert archive["ids"].tobytes() == ids.tobytes()
    first = fitted(f"{line} -o -").out.splitlines()[0].split(",")
    assert [float(word) for word in first[:5]] == distances[0].tolist()
    assert [int(word) for word in first[5:]] == ids[0].tolist()
    assert litter() == ["p.npz"]


def test_predict_of_no_queries_gives_empty_arrays(fitted):
    np.savez("none.npz", **{n: QUERY[n][:0] for n in ("embeddings", "outputs")})
    line = ASK.replace("query", "none")
    assert fitted(f"{line} -o p.npy --what proba").status == 0
    assert np.load("p.npy").shape == (0, C)
    assert fitted(f"{line} -o p.npz --what neighbors").status == 0
    with np.load("p.npz") as archive:
        assert archive["ids"].shape == (0, 5)
    assert fitted(f"{line} -o -") == (0, "", "")


def test_predict_takes_its_options(fitted):
    np.save("columns.npy", [2, 0])
    for options, mem, more in (
        ("--exclude-ids query.npz", memory(), {"exclude_ids": QUERY["exclude_ids"]}),
        ("--columns columns.npy", memory(), {"columns": np.array([2, 0])}),
        ("--k 3", resmem.Memory(k=3, sigma=memory().sigma_).fit(*TRAIN.values()), {}),
        ("--sigma inf", resmem.Memory(k=5, sigma=np.inf).fit(*TRAIN.values()), {}),
        ("--strength 0.25", resmem.Memory(k=5, strength=0.25).fit(*TRAIN.values()), {}),
        ("--threads 1", memory(), {}),
    ):
        assert fitted(f"{ASK} -o p.npy --what correct {options}").status == 0
        assert np.load("p.npy").tobytes() == ANSWERS["correct"](mem, **more).tobytes()
    assert resmem.Memory.load("m.resmem").k == 5  # options do not change the file


def attributes_of(n):
    """Return what rows are given besides, and write it to files."""
    given = {
        "times": np.arange(n) % 7,
        "groups": np.arange(n) % 5,
        "sample_weight": 1 + np.arange(n),
    }
    for name, array in given.items():
        np.save(f"{name}.npy", array)
    return given


GIVEN = " --times times.npy --groups groups.npy --sample-weight sample_weight.npy"


def test_rows_are_given_attributes_and_queries_say_whom_they_ask(cli):
    n = len(TRAIN["embeddings"])
    given = attributes_of(n)
    assert cli(f"{FIT} --ids train.npz --k 5{GIVEN}").status == 0
    mem = resmem.Memory(k=5).fit(*TRAIN.values(), **given)
    q = len(QUERY["embeddings"])
    asks = {
        "among": np.arange(n) % 3 > 0,
        "before": np.arange(q) % 7,
        "exclude_groups": np.arange(q) % 5,
    }
    options = ""
    for name, array in asks.items():
        np.save(f"{name}.npy", array)
        options += f" --{name.replace('_', '-')} {name}.npy"
    assert cli(f"{ASK} -o p.npy --what correct{options}").status == 0
    wanted = mem.correct(QUERY["embeddings"], QUERY["outputs"], **asks)
    assert np.load("p.npy").tobytes() == wanted.tobytes()
    more = {name: TRAIN[name][:n] for name in ROWS}
    np.savez("more.npz", **more)
    rows = "".join(f" --{name} more.npz" for name in ROWS)
    assert cli(f"add m.resmem{rows}{GIVEN}").status == 0
    assert cli(f"update m.resmem --ids 3{rows}{GIVEN}").status == 2  # one row, not all of them
    mem.add(*more.values(), **given)
    loaded = resmem.Memory.load("m.resmem")
    asks["among"] = None
    wanted = mem.correct(QUERY["embeddings"], QUERY["outputs"], **asks)
    got = loaded.correct(QUERY["embeddings"], QUERY["outputs"], **asks)
    assert got.tobytes() == wanted.tobytes()


def test_own_rows_ask_no_later_one_on_the_command_line(cli):
    given = attributes_of(len(TRAIN["embeddings"]))
    cli(f"{FIT} --ids train.npz --k 5{GIVEN}")
    mem = resmem.Memory(k=5).fit(*TRAIN.values(), **given)
    done = cli("evaluate m.resmem --loo --before own --exclude-groups own --json")
    wanted = mem.evaluate(loo=True, before="own", exclude_groups="own").to_dict()
    assert json.loads(done.out)["evaluation"] == wanted
    done = cli("evaluate m.resmem --loo --before times.npy")
    assert (done.status, "memory itself judge, --before is own" in done.err) == (2, True)
    line = "tune m.resmem --loo --exclude-groups own --k 2 --sigma 1 --temperature 1 --json"
    tuned = json.loads(cli(line).out)["tuning"]
    grid = {"k": 2, "sigma": 1.0, "temperature": 1.0, "loo": True, "apply": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = mem.tune(**grid, exclude_groups="own")
    assert tuned["gain"] == json_ready(result.to_dict())["gain"]


def own_rows(cli, times):
    """Return a memory with these times and with groups, which is saved too."""
    mem = resmem.Memory(k=5).fit(*TRAIN.values(), times=times, groups=np.arange(N) % 5)
    mem.save("m.resmem")
    return mem


MOMENTS = {
    "30": (np.arange(N), 30),
    "2.5e1": (np.arange(N) + 0.5, 25.0),
    "inf": (np.arange(N) + 0.5, math.inf),
    "2026-01-31": (DAYS, np.datetime64("2026-01-31")),
    "2026-01-31T12": (DAYS, np.datetime64("2026-01-31T12")),
    "2026-01-31 12:30": (DAYS, np.datetime64("2026-01-31T12:30")),
    "2026-01-31T12:30:05.25Z": (DAYS, np.datetime64("2026-01-31T12:30:05.250")),
}


@pytest.mark.parametrize("text", MOMENTS)
def test_all_queries_may_ask_before_one_time(cli, monkeypatch, text):
    times, moment = MOMENTS[text]
    mem = own_rows(cli, times)
    monkeypatch.setattr(queries, "_BLOCK_ROWS", 7)
    assert cli("predict m.resmem --embeddings query.npz --what neighbors -o p.npz --before",
               text).status == 0  # fmt: skip
    wanted = mem.kneighbors(QUERY["embeddings"], before=moment)
    assert np.load("p.npz")["ids"].tolist() == wanted[1].tolist()


def test_one_time_goes_with_every_command_that_judges_rows(cli):
    mem = own_rows(cli, DAYS)
    rows = QUERY["embeddings"], QUERY["outputs"], np.arange(Q) % C
    np.savez("judged.npz", **dict(zip(ROWS, rows, strict=True)))
    line = "".join(f" --{name} judged.npz" for name in ROWS) + " --before 2026-02-01 --json"
    before = np.datetime64("2026-02-01")
    facts = json.loads(cli("evaluate m.resmem" + line).out)
    assert facts["evaluation"] == mem.evaluate(*rows, before=before).to_dict()
    facts = json.loads(cli("report m.resmem -o r.html" + line).out)
    assert facts["evaluation"] == mem.evaluate(*rows, before=before).to_dict()
    facts = json.loads(cli("prune m.resmem --keep 0.5" + line).out)
    assert facts["pruning"] == mem.prune(*rows, 0.5, apply=False, before=before).to_dict()
    grid = {"k": 2, "sigma": 1.0, "temperature": 1.0, "apply": False}
    facts = json.loads(cli("tune m.resmem --k 2 --sigma 1 --temperature 1" + line).out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = mem.tune(*rows, **grid, before=before)
    assert facts["tuning"]["gain"] == json_ready(result.to_dict())["gain"]


def test_file_called_like_a_time_is_read_all_the_same(cli):
    mem = own_rows(cli, np.arange(N))
    os.rename(npy(Path("b.npy"), np.arange(Q)), "30")
    done = cli("predict m.resmem --embeddings query.npz --what neighbors -o p.npz --before 30")
    assert (done.status, "'30' must be a .npy" in done.err) == (2, True)
    np.savez("30.npz", before=np.arange(Q))
    line = "predict m.resmem --embeddings query.npz --what neighbors -o p.npz --before 30.npz"
    assert cli(line).status == 0
    wanted = mem.kneighbors(QUERY["embeddings"], before=np.arange(Q))
    assert np.load("p.npz")["ids"].tolist() == wanted[1].tolist()


@pytest.mark.parametrize("command", ["predict", "evaluate"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--before 2026-02-30", "before must be a file, a number or a datetime (in UTC) such as "
         "2026-01-31T12:00, got '2026-02-30'"),
        ("--before 2026-01-31T12:00+02:00", "got '2026-01-31T12:00+02:00'"),
        ("--before gone.npy", "got 'gone.npy'"),
        ("--before nan", "must be datetimes, as the times of the rows are, got floats"),
        ("--before 3", "before must be datetimes, as the times of the rows are, got integers"),
        ("--before own", "--before own is for --loo; give that of each query"),
        ("--exclude-groups own", "--exclude-groups own is for --loo; give that of each query"),
    ],
)  # fmt: skip
def test_times_of_queries_that_make_no_sense_are_refused(cli, command, options, message):
    own_rows(cli, DAYS)
    line = {"predict": ASK + " -o p.npy", "evaluate": EVALUATE}[command]
    np.savez("judged.npz", **QUERY, targets=np.zeros(Q, int))
    done = cli(f"{line} {options} --quiet")
    assert (done.status, done.out, done.err.count("\n")) == (2, "", 1)
    assert message in done.err


def test_audited_rows_ask_those_that_options_name(cli):
    mem = own_rows(cli, DAYS)
    np.save("among.npy", np.arange(N) % 3 > 0)
    for options, asks in (
        ("--before own", {"before": "own"}),
        ("--exclude-groups own", {"exclude_groups": "own"}),
        ("--among among.npy", {"among": np.arange(N) % 3 > 0}),
        ("--among among.npy --before own --exclude-groups own",
         {"among": np.arange(N) % 3 > 0, "before": "own", "exclude_groups": "own"}),
    ):  # fmt: skip
        wanted = mem.audit(**asks)
        assert wanted.to_dict() != mem.audit().to_dict()
        assert json.loads(cli(f"audit m.resmem {options} --json").out)["audit"] == wanted.to_dict()
        if "own" in options:
            options += " --loo"
            found = json.loads(cli(f"report m.resmem -o r.html --audit --json {options}").out)
            assert found["audit"] == wanted.to_dict()
    rows = "".join(f" --{name} train.npz" for name in ROWS) + " --exclude-ids train.npz:ids"
    line = f"report m.resmem -o r.html{rows} --before 2026-02-01 --among among.npy --audit --json"
    wanted = mem.audit(among=np.arange(N) % 3 > 0)
    assert json.loads(cli(line).out)["audit"] == wanted.to_dict()
    with pytest.raises(SystemExit, match="2"):
        cli("audit m.resmem --before 3")


def test_errors_about_times_and_groups_name_options(cli):
    resmem.Memory(k=5).fit(*TRAIN.values()).save("m.resmem")
    for options, message in (
        ("--before own", "before needs times of the rows: give --times to fit and add"),
        ("--exclude-groups own", "needs groups of the rows: give --groups to fit or add"),
    ):
        done = cli(f"audit m.resmem {options}")
        assert (done.status, message in done.err) == (2, True)


@pytest.mark.parametrize("dtype", ["U", "S"])
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_groups_may_be_text_on_the_command_line(cli, dtype, ending):
    """The names of rows, of added rows and of queries are in files of their own."""
    names = np.array([f"user {i % 7}" for i in range(N)]).astype(dtype)
    more = {name: TRAIN[name][:5] for name in ROWS}
    np.savez("more.npz", **more, groups=names[:5])
    for file, array in {"groups": names, "asked": names[:Q]}.items():
        if ending == "npy":
            np.save(f"{file}.npy", array)
        else:
            np.savez(f"{file}.npz", names=array)
    assert cli(f"{FIT} --ids train.npz --quiet --groups groups.{ending}").status == 0
    rows = "".join(f" --{name} more.npz" for name in (*ROWS, "groups"))
    assert cli(f"add m.resmem{rows} --quiet").status == 0
    assert cli(f"update m.resmem --ids 5,7,9,11,13{rows} --quiet").status == 0
    ask = "predict m.resmem --embeddings query.npz --what neighbors -o p.npz"
    assert cli(f"{ask} -k {N + 5} --exclude-groups asked.{ending}").status == 0
    of_rows = np.concatenate([names, names[:5]])
    every = np.concatenate([TRAIN["ids"], TRAIN["ids"].max() + 1 + np.arange(5)])
    for query, ids in enumerate(np.load("p.npz")["ids"]):
        wanted = every[of_rows != names[query]]
        assert sorted(ids[ids >= 0]) == sorted(wanted)


def test_predict_refuses_another_base(cli):
    cli(f"{FIT} --base one")
    assert cli(f"{ASK} -o p.npy --base one").status == 0
    done = cli(f"{ASK} -o p.npy --base other")
    assert done.status == 2
    assert "base" in done.err


def test_error_in_a_later_block_names_its_first_query(fitted, monkeypatch):
    monkeypatch.setattr(queries, "_BLOCK_ROWS", 10)
    bad = QUERY["embeddings"].copy()
    bad[13] = np.nan
    np.save("bad.npy", bad)
    done = fitted(f"{ASK} --embeddings bad.npy -o p.npy")
    assert "row 3 holds NaN" in done.err
    assert "(counting from query 10)" in done.err
    assert litter() == ["bad.npy"]  # no unfinished result is left


@pytest.mark.parametrize("options", ["--what correct -o p.npy", "--what neighbors -o p.npz"])
def test_predict_does_not_hold_its_results_in_memory(fitted, monkeypatch, options):
    monkeypatch.setattr(queries, "_BLOCK_ROWS", 1000)

    def peak(many):
        np.save("z.npy", np.zeros((many, D), np.float32))
        np.save("o.npy", np.zeros((many, C), np.float32))
        tracemalloc.start()
        line = "predict m.resmem --embeddings z.npy --outputs o.npy"
        assert fitted(f"{line} {options}").status == 0
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    few, many = 10_000, 100_000
    peak(few)  # imports what it needs
    assert peak(many) < peak(few) + 8 * C * (many - few) / 4


def test_info_says_what_is_in_a_file(fitted):
    done = fitted("info m.resmem")
    assert done.status == 0
    lines = dict(line.strip().split(": ", 1) for line in done.out.splitlines())
    assert (lines["rows"], lines["d"], lines["k"]) == ("60", "4", "5")
    assert json.loads(fitted("info m.resmem --json").out)["rows"] == 60
    assert fitted("info m.resmem --quiet") == (0, "", "")


def test_verify_finds_a_changed_byte(fitted):
    size = os.path.getsize("m.resmem")
    assert fitted("verify m.resmem").out == f"m.resmem: ok, {size} bytes\n"
    assert isinstance(json.loads(fitted("verify m.resmem --json").out), dict)
    content = bytearray(Path("m.resmem").read_bytes())
    content[content.index(TRAIN["embeddings"][:2].tobytes())] ^= 1
    Path("m.resmem").write_bytes(content)
    for command in ("verify m.resmem", f"{ASK} -o p.npy", "export m.resmem e.npz"):
        done = fitted(command)
        assert (done.status, done.out) == (2, "")
        assert "m.resmem" in done.err
    assert litter() == []
    assert fitted(f"{ASK} -o p.npy --no-verify").status == 0


@pytest.mark.parametrize("name", ["e.npz", "e.safetensors"])
def test_export_writes_what_can_be_read_again(fitted, name):
    done = fitted(f"export m.resmem {name}")
    assert done.out == f"{name}: {os.path.getsize(name)} bytes\n"
    facts = json.loads(fitted(f"export m.resmem {name} --json").out)
    assert facts == {"file": name, "bytes": os.path.getsize(name)}
    checked = f"ok, {os.path.getsize(name)} bytes"
    if name == "e.safetensors":
        checked = "readable, but .safetensors has no checksums"
    assert fitted(f"verify {name}") == (0, f"{name}: {checked}\n", "")
    facts = json.loads(fitted(f"verify {name} --json").out)
    assert facts["checksums"] == (name == "e.npz")
    assert fitted(f"{ASK} -o p.npy".replace("m.resmem", name)).status == 0
    assert np.array_equal(np.load("p.npy"), ANSWERS["predict"](memory()))


def test_version_says_what_show_versions_does(cli, capsys):
    resmem.show_versions()
    wanted = capsys.readouterr().out
    assert cli("version") == (0, wanted, "")
    facts = json.loads(cli("version --json").out)
    assert facts["resmem"] == resmem.__version__
    assert facts["numpy"] == np.__version__
    assert len(facts) == len(wanted.splitlines())


# ---- Evaluation, tuning and reports ----------------------------------------------------------

JUDGED = {**QUERY, "targets": RNG.integers(0, C, Q)}
KNOWN_ROWS_WARNING = re.compile(
    r"resmem: warning: evaluate: \d+% of the evaluated rows lie on rows of the memory .*"
)
EVALUATE = "evaluate m.resmem --embeddings judged.npz --outputs judged.npz --targets judged.npz"
TUNE = EVALUATE.replace("evaluate", "tune") + " --k 2,5 --sigma 0.5,inf"
REPORT = EVALUATE.replace("evaluate", "report") + " -o r.html"
ALSO_TUNE = " --tune-embeddings train.npz --tune-outputs train.npz --tune-targets train.npz"


@pytest.fixture
def judged(fitted, unpictured):
    """Return `fitted`, after a file of rows with known targets has been written."""
    np.savez("judged.npz", **JUDGED)
    return fitted


@pytest.fixture
def unpictured(monkeypatch):
    """Leave figures out of reports, since drawing them takes long."""
    monkeypatch.setattr("resmem._report.figures.available", lambda: False)


def rows_of(name="judged.npz"):
    arrays = np.load(name)
    return [arrays[part] for part in ROWS]


def test_evaluate_gives_what_the_memory_gives(judged):
    wanted = memory().evaluate(*rows_of())
    assert judged(EVALUATE) == (0, f"{wanted}\n", "")
    facts = json.loads(judged(f"{EVALUATE} --json").out)
    assert facts == {"file": "m.resmem", "evaluation": wanted.to_dict()}
    assert judged(f"{EVALUATE} --quiet") == (0, "", "")


def test_evaluate_leaves_rows_out(judged):
    wanted = memory().evaluate(*rows_of(), exclude_ids=JUDGED["exclude_ids"])
    got = judged(f"{EVALUATE} --exclude-ids judged.npz --threads 1 --json").out
    assert json.loads(got)["evaluation"] == wanted.to_dict()


def test_evaluate_passes_its_judging_options_on(judged):
    np.save("groups.npy", np.arange(Q) % 5)
    other = memory()
    other.k = 2
    other.save("o.resmem")
    wanted = memory().evaluate(*rows_of(), groups=np.arange(Q) % 5, published=other)
    done = judged(f"{EVALUATE} --groups groups.npy --published o.resmem --json")
    assert json.loads(done.out)["evaluation"] == wanted.to_dict()
    wanted = memory().evaluate(loo=True, seed=3)
    line = "evaluate m.resmem --loo --seed 3"
    assert json.loads(judged(f"{line} --json").out)["evaluation"] == wanted.to_dict()
    assert f"{wanted}\n" == judged(line).out


def test_report_judges_by_groups(judged):
    np.save("groups.npy", np.arange(Q) % 4)
    assert judged(f"{REPORT} --groups groups.npy --quiet") == (0, "", "")
    assert "By group" in Path("r.html").read_text()


def test_report_tunes_by_groups(judged):
    np.save("groups.npy", np.arange(N) // 3)
    done = judged(f"{REPORT}{ALSO_TUNE} --tune-groups groups.npy --json")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mem = resmem.Memory.load("m.resmem")
        train = [TRAIN[name] for name in ("embeddings", "outputs", "targets")]
        wanted = mem.tune(*train, groups=np.arange(N) // 3, apply=False).to_dict()
    got = json.loads(done.out)["tuning"]
    assert (got["gain"], got["folds"]) == (wanted["gain"], wanted["folds"])


def test_report_lists_rows_of_the_memory_that_look_wrong(judged):
    facts = json.loads(judged(f"{REPORT} --audit --json").out)
    assert facts["audit"] == memory().audit().to_dict()
    assert "Which rows look wrong?" in Path("r.html").read_text()


def test_report_judges_the_rows_of_the_memory(judged):
    assert judged("report m.resmem --loo -o r.html --quiet") == (0, "", "")
    page = Path("r.html").read_text()
    assert f"on {N} rows" in page
    assert "Who corrected what?" in page


def settings_of(path="m.resmem"):
    """Return the settings of a memory in a file, as JSON has them: infinity is "inf"."""
    saved = resmem.Memory.load(path)
    return json_ready({name: getattr(saved, name) for name in resmem.Settings.__dataclass_fields__})


def test_tune_changes_nothing_unless_asked_to(judged):
    before = Path("m.resmem").read_bytes()
    done = judged(TUNE)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("Tuned by log_loss (smaller is better) on 23 rows, 10 folds")
    assert done.out.endswith("nothing is changed without --apply\n")
    facts = json.loads(judged(f"{TUNE} --json").out)
    assert not facts["applied"]
    assert set(facts["tuning"]["table"]["k"]) == {2, 5}
    assert Path("m.resmem").read_bytes() == before


@pytest.mark.parametrize("keys", ["", "--preprocess unit", "--key-dtype float16"])
def test_tune_saves_what_was_chosen_when_asked_to(cli, keys):
    angles = RNG.uniform(0, 6.28, 300)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    far = np.exp(RNG.normal(size=(300, 1))) if "unit" in keys else 1  # the direction alone counts
    np.savez(
        "train.npz",
        embeddings=far * points,
        outputs=np.zeros((300, 4)),
        targets=(angles // 1.571).astype(int),
        exclude_ids=np.arange(300),
    )
    assert cli(f"{FIT} --quiet").status == 0
    line = TUNE.replace("judged.npz", "train.npz") + " --exclude-ids train.npz --apply " + keys
    facts = json.loads(cli(f"{line} --json").out)
    assert facts["applied"]
    assert facts["tuning"]["useful"]
    assert settings_of() == facts["tuning"]["best"]
    assert settings_of()["preprocess"] == ("unit" if "unit" in keys else "none")
    appended = settings_of()["preprocess"] == "none" and settings_of()["key_dtype"] == "float32"
    assert resmem.Memory.load("m.resmem").info()["generation"] == (2 if appended else 1)
    done = cli(line)
    assert done.err == ""
    assert "\nnote: " in done.out  # the note is not repeated as a warning
    assert done.out.splitlines()[-1].startswith("m.resmem: set to k=")
    assert cli("verify m.resmem").status == 0


@pytest.mark.parametrize(
    ("options", "name", "values"),
    [
        ("--k 3,7", "k", {3, 7}),
        ("-k 3", "k", {3}),
        ("--sigma 0.5,inf", "sigma", {0.5, "inf"}),
        ("--temperature 0.5,3", "temperature", {0.5, 3}),
        ("--strength 0.25", "strength", {0, 0.25, 1}),
        (
            "--probability-map project,clip:0.01 --methods residual",
            "probability_map",
            {"project", "clip:0.01"},
        ),
        ("--methods targets", "method", {"residual", "targets"}),
        ("--methods residual", "method", {"residual"}),
        ("--preprocess unit,pca:2", "preprocess", {"none", "unit", "pca:2"}),
        ("--key-dtype float16", "key_dtype", {"float32", "float16"}),
    ],
)
def test_tune_tries_what_it_is_told_to(judged, options, name, values):
    facts = json.loads(judged(f"{TUNE} {options} --json").out)
    assert set(facts["tuning"]["table"][name]) == values


def test_tune_passes_its_score_and_fold_options_on(judged):
    options = "--score accuracy --folds 3 --rule one_se --confidence 0.8 --seed 4"
    facts = json.loads(judged(f"{TUNE} {options} --exclude-ids judged.npz --json").out)["tuning"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = memory().tune(
            *rows_of(), k=[2, 5], sigma=[0.5, np.inf], score="accuracy", folds=3, rule="one_se",
            confidence=0.8, seed=4, exclude_ids=JUDGED["exclude_ids"], apply=False,
        ).to_dict()  # fmt: skip
    del facts["seconds"], wanted["seconds"]
    assert facts == wanted


@pytest.mark.parametrize("name", ["groups", "times"])
def test_tune_passes_groups_times_and_risk_on(judged, name):
    given = np.arange(Q) // 3
    np.save(f"{name}.npy", given)
    facts = json.loads(judged(f"{TUNE} --{name} {name}.npy --risk 0.2 --json").out)["tuning"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = (
            memory()
            .tune(*rows_of(), k=[2, 5], sigma=[0.5, np.inf], risk=0.2, apply=False, **{name: given})
            .to_dict()
        )
    del facts["seconds"], wanted["seconds"]
    assert facts == wanted
    assert facts["risk"] == 0.2


def test_notes_of_tuning_name_options(judged, monkeypatch):
    note = "their order counts; times= tells it, groups= which belong together"
    tuned = resmem.Memory.tune
    monkeypatch.setattr(resmem.Memory, "tune", lambda *a, **k: tuned(*a, **k).with_notes((note,)))
    done = judged(TUNE)
    assert "note: their order counts; --times tells it, --groups which belong" in done.out


def test_tune_loo_uses_the_rows_of_the_memory(judged):
    facts = json.loads(judged("tune m.resmem --loo --k 2 --sigma 1 --json").out)["tuning"]
    assert facts["rows"] == N


def test_report_says_in_a_file_what_evaluate_finds(judged):
    before = Path("m.resmem").read_bytes()
    done = judged(REPORT)
    assert (done.status, done.err) == (0, "")
    page = Path("r.html").read_text()
    evaluation = memory().evaluate(*rows_of())
    assert "<h1>Residual memory m.resmem</h1>" in page
    assert done.out.startswith("r.html: ")
    assert f"{evaluation.methods[-1].corrected:,} predictions were corrected" in page
    assert "Who corrected what?" in page
    assert "What was chosen?" not in page
    assert "Figures need matplotlib" in page
    assert Path("m.resmem").read_bytes() == before


def test_report_has_figures_where_they_can_be_drawn(fitted):
    pytest.importorskip("matplotlib")
    np.savez("judged.npz", **JUDGED)
    assert fitted(f"{REPORT} --quiet") == (0, "", "")
    assert Path("r.html").read_text().count("<svg ") == 3


def test_report_explains_the_classes_before_and_after(judged):
    judged(REPORT)
    page = Path("r.html").read_text()
    evaluation = memory().evaluate(*rows_of())
    row = evaluation.examples["corrected"][0]
    one = slice(row, row + 1)
    before = JUDGED["outputs"][row].argmax()
    after = memory().predict(JUDGED["embeddings"][one], JUDGED["outputs"][one])[0]
    pattern = rf"Row {row}, <span class=.gain.>corrected: class {before} \d+% → class {after} \d"
    assert before != after == JUDGED["targets"][row]
    assert re.search(pattern, page)


def test_report_tunes_in_memory_alone(judged):
    before = Path("m.resmem").read_bytes()
    facts = json.loads(judged(f"{REPORT}{ALSO_TUNE} --exclude-ids judged.npz --json").out)
    assert facts["bytes"] == os.path.getsize("r.html")
    assert facts["tuning"]["rows"] == N
    strength = facts["evaluation"]["settings"]["strength"]
    assert strength == facts["tuning"]["best"]["strength"]
    assert facts["evaluation"]["settings"]["knn_k"] == facts["tuning"]["knn"]["k"]
    assert "What was chosen?" in Path("r.html").read_text()
    assert Path("m.resmem").read_bytes() == before


def test_report_has_the_words_it_is_given(judged):
    Path("names.txt").write_text("cat\ndog & <co>\nox\n")
    line = f"{REPORT} --title <Pets> --date 2026-02-03 --class-names names.txt --quiet"
    assert judged(line) == (0, "", "")
    page = Path("r.html").read_text()
    for words in ("<h1>&lt;Pets&gt;</h1>", "2026-02-03", "dog &amp; &lt;co&gt;"):
        assert words in page


@pytest.mark.usefixtures("unpictured")
@pytest.mark.filterwarnings("default::resmem.ResmemWarning")
@pytest.mark.parametrize("columns", [slice(1), slice(0, 1), slice(None)])
def test_values_are_evaluated_tuned_and_reported(cli, columns):
    flat = columns.stop == 1 and columns.start is None
    outputs, values = (a[:, 0] if flat else a[:, columns] for a in (TRAIN["outputs"], truth(TRAIN)))
    np.savez("train.npz", embeddings=TRAIN["embeddings"], outputs=outputs, targets=values)
    assert cli(f"{FIT} --task regression --k 5 --quiet").status == 0
    for line in (EVALUATE, TUNE, REPORT):
        done = cli(line.replace("judged.npz", "train.npz"))
        assert done.status == 0
        assert all(map(KNOWN_ROWS_WARNING.match, done.err.splitlines())), done.err
    assert "rmse" in cli(EVALUATE.replace("judged.npz", "train.npz")).out
    assert "Who corrected what?" in Path("r.html").read_text()


def truth(rows):
    """Values to be predicted, near the outputs."""
    return rows["outputs"] + np.sin(rows["embeddings"][:, :1])


@pytest.mark.usefixtures("unpictured")
@pytest.mark.filterwarnings("default::resmem.ResmemWarning")
def test_head_is_evaluated_and_tuned_without_outputs(cli):
    np.save("weight.npy", RNG.standard_normal((C, D)).astype(np.float32))
    line = "fit m.resmem --embeddings train.npz --targets train.npz --store head"
    assert cli(f"{line} --head-weight weight.npy --k 5 --quiet").status == 0
    for line in (EVALUATE, TUNE, REPORT):
        line = line.replace("judged.npz", "train.npz").replace(" --outputs train.npz", "")
        done = cli(line)
        assert done.status == 0
        assert all(map(KNOWN_ROWS_WARNING.match, done.err.splitlines())), done.err
    assert "Who corrected what?" in Path("r.html").read_text()


def test_bfloat16_rows_are_reported(judged):
    parts = {"outputs": JUDGED["outputs"], "targets": JUDGED["targets"]}
    bits = (JUDGED["embeddings"].view(np.uint32) >> 16).astype(np.uint16)
    safetensors(Path("h.safetensors"), {"embeddings": bits, **parts})
    assert judged(REPORT.replace("judged.npz", "h.safetensors")).status == 0
    assert "Who corrected what?" in Path("r.html").read_text()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (EVALUATE + " --targets judged.npz:embeddings", "targets must have shape (n,)"),
        (EVALUATE + " --targets train.npz", "targets must have one row per row of embeddings"),
        (EVALUATE.replace("--outputs judged.npz", ""), "outputs"),
        (TUNE.replace("--targets judged.npz", ""), "--targets is missing"),
        (EVALUATE.replace("--targets judged.npz", ""), "--targets is missing"),
        ("evaluate m.resmem", "--embeddings is missing: the rows have embeddings and targets; "),
        ("evaluate m.resmem --loo --published m.resmem", "memory itself: leave out --published"),
        ("report m.resmem -o r.html --loo --groups judged.npz:targets", "leave out --groups"),
        (EVALUATE + " --loo", "--loo tries the rows of the memory itself: leave out --embeddings"),
        (EVALUATE + " --groups train.npz:targets", "groups must have one row per row of embedd"),
        (EVALUATE + " --published gone.resmem", "gone.resmem"),
        (REPORT.replace("--embeddings judged.npz", ""), "--embeddings is missing"),
        (TUNE.replace("--embeddings judged.npz", ""), "--embeddings is missing"),
        (TUNE + " --loo", "--loo tries the rows of the memory itself: leave out --embeddings"),
        ("tune m.resmem --loo --exclude-ids judged.npz", "leave out --exclude-ids"),
        ("tune m.resmem --loo --groups judged.npz:targets", "leave out --groups"),
        (TUNE + " --k 0", "k must be at least 1, got 0"),
        (TUNE + " --score f1", "score must be one of"),
        (TUNE + " --folds 1", "folds"),
        (TUNE + " --rule worst", "rule"),
        (TUNE.replace("m.resmem", "e.npz") + " --apply", "'e.npz' is an export; only .resmem"),
        (REPORT.replace("r.html", "r.txt"), "the report must be a .html file, got 'r.txt'"),
        (REPORT.replace("r.html", "gone/r.html"), "there is no folder 'gone'"),
        (REPORT + " --tune-embeddings train.npz", "--tune-targets is missing"),
        (REPORT + " --tune-outputs train.npz", "--tune-embeddings is missing"),
        (REPORT + " --class-names gone.txt", "No such file or directory: 'gone.txt'"),
        (REPORT + " --class-names two.txt", "'two.txt' must have 3 lines, got 2"),
        (REPORT + " --class-names judged.npz", "'judged.npz' must be UTF-8 text"),
    ],
)
def test_errors_of_evaluate_tune_and_report_change_no_file(judged, line, message):
    judged("export m.resmem e.npz")
    Path("two.txt").write_text("a\nb\n")
    before = Path("m.resmem").read_bytes()
    done = judged(line, "--quiet")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("resmem: error: ")
    assert done.err.count("\n") == 1
    assert message in done.err
    assert Path("m.resmem").read_bytes() == before
    assert litter() == ["e.npz", "judged.npz", "two.txt"]


@pytest.mark.parametrize("line", [TUNE + " --k 1,x", TUNE + " --sigma wide", REPORT[:-10]])
def test_malformed_list_option_exits_with_2(judged, capsys, line):
    with pytest.raises(SystemExit, match="2"):
        judged(line)
    assert "usage: resmem" in capsys.readouterr().err


def test_tune_moves_its_progress_bar(judged, monkeypatch):
    steps = []
    monkeypatch.setattr(
        "resmem._cli.commands.bar",
        lambda label, *_: nullcontext(steps.append if label == "tune" else id),
    )
    assert judged(TUNE).status == 0
    assert sum(steps) > Q


# ---- Errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--store head", "--head-weight and --store head go together, one is missing"),
        ("--head-weight head.npy", "--head-weight and --store head go together"),
        ("--store head --head-weight head.npy", "--outputs must be left out: the head of this"),
        ("--store sparse:1 --task regression", "--store sparse:1 is for classification"),
        ("--store sparse:1 --task regression", "regression needs --store dense"),
        (
            "--store head --head-weight head.npy --output-kind probabilities",
            "--store head gives logits",
        ),
        (
            "--store head --head-weight head.npy --residual-dtype float16",
            "residual_dtype must be 'float32' with --store head",
        ),
        ("--output-kind probabilities", "for raw scores use --output-kind logits"),
        ("--key-dtype float16 --embeddings far.npy", "use --key-dtype bfloat16 or 'float32'"),
        (
            "--task regression --outputs far.npy --targets train.npz:embeddings "
            "--residual-dtype float16",
            "or use --residual-dtype float64",
        ),
    ],
)
def test_errors_name_options_and_not_python_arguments(cli, options, message):
    np.save("head.npy", np.zeros((C, D), np.float32))
    np.save("far.npy", np.full((N, D), 1e6, np.float32))
    done = cli(f"{FIT} {options}", "--quiet")
    assert done.status == 2
    assert message in done.err
    assert not re.search(r"\w=['\w]", done.err)


def test_only_classes_have_probabilities(cli):
    line = "fit m.resmem --embeddings train.npz --outputs train.npz --targets train.npz:outputs"
    assert cli(f"{line} --task regression").status == 0
    done = cli(f"{ASK} -o p.npy --what proba")
    assert (done.status, done.out) == (2, "")
    assert "--what proba is for classification; --what predict gives values" in done.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (FIT.replace("m.resmem", "gone/m.resmem"), "there is no folder 'gone'"),
        (FIT.replace("m.resmem", "."), "exists"),
        (FIT.replace("m.resmem", ".") + " --force", "'.' is a folder"),
        (FIT.replace("m.resmem", "train.npz") + " --force", "'train.npz' is read by this command"),
        (FIT + " --force --k 0", "k must be at least 1, got 0"),
        (FIT + " --force --task ranking", "task must be"),
        (FIT + " --force --ids query.npz", "no array 'ids'"),
        (FIT + " --force --embeddings train.npz:targets", "embeddings must have shape (n, d)"),
        (
            FIT + " --force --targets train.npz:embeddings",
            "targets must have shape (n,), (n, 1) or (n, 3), got (60, 4)",
        ),
        (FIT + " --force --embeddings query.npz", "one row per row of embeddings"),
        (FIT + " --force --head-bias train.npz:ids", "--head-bias goes with --head-weight"),
        (FIT + " --force --outputs gone.npy", "No such file or directory: 'gone.npy'"),
        ("fit x.resmem --embeddings train.npz --targets train.npz", "--outputs is missing"),
        (FIT + " --force --store head", "head"),
        ("add m.resmem", "nothing to do"),
        ("add m.resmem --embeddings train.npz", "--outputs is missing"),
        ("add m.resmem --targets train.npz", "--embeddings is missing"),
        ("add m.resmem --remove 4", "ids to remove must be in the memory, 4 is not"),
        ("add m.resmem --remove x.npy", "No such file or directory: 'x.npy'"),
        (UPDATE + " --ids 5,4", "ids must have one row per row of embeddings (60), got 2"),
        (UPDATE + " --ids ids.npy", "No such file or directory: 'ids.npy'"),
        (UPDATE + " --embeddings query.npz --outputs query.npz", "must have one row per row"),
        (UPDATE.replace(" --outputs train.npz", ""), "--outputs is missing"),
        ("get m.resmem --ids 5,4 -o p.npz", "ids to get must be in the memory, 4 is not"),
        ("get m.resmem --ids 5,7 -o p.npy", "3 arrays need a .npz file, got 'p.npy'"),
        ("get m.resmem --ids 5 -o gone/p.npz", "there is no folder 'gone'"),
        ("get m.resmem --ids 5 -o - --json", "both claim standard output"),
        ("get m.resmem --ids train.npz -o train.npz", "'train.npz' is read by this command"),
        ("merge m.resmem m.resmem -o x.resmem", "never have been used before"),
        ("merge m.resmem gone.resmem -o x.resmem", "No such file or directory: 'gone.resmem'"),
        ("merge m.resmem m.resmem -o train.npz", "'train.npz' exists; --force replaces it"),
        ("merge m.resmem m.resmem -o x.npz", "'x.npz' is the name of an export: merge into a"),
        ("add gone.resmem --remove 4", "No such file or directory: 'gone.resmem'"),
        (ASK + " -o p.txt", "must be a .npy or .npz file, or '-' for text, got 'p.txt'"),
        (ASK + " -o p.safetensors", "must be a .npy or .npz file"),
        (ASK + " -o p.npy --what neighbors", "2 arrays need a .npz file"),
        (ASK + " -o gone/p.npy", "there is no folder 'gone'"),
        (ASK + " -o query.npz", "'query.npz' is read by this command"),
        (ASK + " -o - --json", "both claim standard output"),
        (ASK + " -o p.npy --columns train.npz:ids", "--columns goes with"),
        (ASK + " -o p.npy --what correct --columns train.npz:ids", "column"),
        (ASK + " -o p.npy --outputs train.npz", "outputs must have one row per row of embeddings"),
        (ASK + " -o p.npy --exclude-ids train.npz:ids", "--exclude-ids must have one row per row"),
        (ASK + " -o p.npy --embeddings query.npz:outputs", "embeddings must have 4 columns"),
        (ASK + " -o p.npy --threads 0", "threads must be at least 1"),
        (ASK + " -o p.npy --sigma -1", "sigma must be a positive number"),
        ("predict m.resmem --embeddings query.npz -o p.npy", "--outputs is missing"),
        ("predict train.npz --embeddings query.npz --outputs query.npz -o p.npy", "train.npz"),
        ("predict query.npy --embeddings query.npz --outputs query.npz -o p.npy", "query.npy"),
        ("info gone.resmem", "No such file or directory: '/"),
        ("info .", "Is a directory"),
        ("verify gone.resmem", "No such file or directory: 'gone.resmem'"),
        ("verify train.npz", "train.npz"),
        ("export m.resmem e.txt", ".npz or .safetensors"),
        ("export m.resmem m.resmem", "'m.resmem' is read by this command"),
        ("export m.resmem gone/e.npz", "there is no folder 'gone'"),
    ],
)
def test_every_error_is_one_line_and_status_2(fitted, line, message):
    before = Path("m.resmem").read_bytes()
    done = fitted(line, "--quiet")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("resmem: error: ")
    assert done.err.count("\n") == 1
    assert message in done.err
    assert Path("m.resmem").read_bytes() == before
    assert not litter()


# ---- Files that are read are not written --------------------------------------------------------


@functools.cache
def declared():
    """Return a pair of command and argparse action for every option of every command."""
    actions = parser()._actions
    commands = next(a for a in actions if isinstance(a.choices, dict)).choices
    return [(name, action) for name, command in commands.items() for action in command._actions]


SOURCES = [(c, a) for c, a in declared() if isinstance(a.type, type) and issubclass(a.type, Source)]
TARGETS = {
    c: a for c, a in declared()
    if a.type in (Target, Changed) or isinstance(a.default, Target)
}  # fmt: skip
TEXTS = {  # options whose text is no path
    "collect": {"model", "loader", "layer", "outputs", "targets", "inputs", "mask", "extra", "pool",
                "device"},
    "fit": {"task", "output_kind", "preprocess", "key_dtype", "metric", "residual_dtype", "store",
            "base", "probability_map", "method", "gate", "residuals", "max_age", "half_life"},
    "audit": {"before", "exclude_groups", "device"},
    "predict": {"what", "base", "device"},
    "tune": {"score", "rule", "device"},
    **{command: {"device"} for command in ("demo", "evaluate", "prune")},
    "report": {"title", "date", "device"},
}  # fmt: skip


def test_every_option_is_declared_a_file_or_listed_as_text():
    """A new one must be declared as what it is: Source, Target, Changed, or listed above."""
    texts = {}
    for command, action in declared():
        takes_text = action.nargs != 0 and action.type in (None, str)
        if takes_text and action.dest != "help":
            texts.setdefault(command, set()).add(action.dest)
    assert texts == TEXTS
    assert set(TARGETS) == {
        "collect", "fit", "add", "update", "get", "merge", "audit", "prune", "predict", "tune",
        "report", "export", "demo",
    }  # fmt: skip
    assert len(SOURCES) > 30


def linked(path, link, how):
    if how == "hard link":
        os.link(path, link)
    elif how == "symbolic link":
        os.symlink(path, link)
    elif how == "link to a link":
        os.symlink(path, "between")
        os.symlink("between", link)
    return link


@pytest.mark.parametrize("how", ["name", "other spelling", "hard link", "symbolic link",
                                 "link to a link", "dangling link", "array in it"])  # fmt: skip
@pytest.mark.parametrize(
    ("command", "source"),
    [(c, a) for c, a in SOURCES if c in TARGETS and a is not TARGETS[c]],
    ids=lambda part: getattr(part, "dest", part),
)
def test_no_command_overwrites_what_it_reads(fitted, tmp_path, command, source, how):
    """Whichever option names the file that is read, and by whatever spelling or link."""
    target = TARGETS[command]
    suffix = {"report": ".html", "export": ".npz", "fit": ".resmem", "add": ".resmem",
              "update": ".resmem", "tune": ".resmem"}.get(command, ".npy")  # fmt: skip
    read, written = f"read{suffix}", f"written{suffix}"
    if how != "dangling link":
        Path(read).write_bytes(b"precious")
    written = {"name": read, "other spelling": f"{tmp_path}/./{read}", "array in it": read}.get(
        how, linked(tmp_path / read, written, how.replace("dangling", "symbolic"))
    )
    named = f"{read}:array" if how == "array in it" else read
    if how == "array in it" and not source.option_strings:
        pytest.skip("a memory has no name of an array")
    words = [command]
    for other, action in declared():
        if other == command and (action.required or action in (source, target)):
            text = named if action is source else written if action is target else "other.npy"
            words += [*action.option_strings[-1:], str(text)]
    done = fitted(" ".join(words))
    places = {"memory": "M.resmem", "others": "OTHER.resmem"}
    called = source.option_strings[-1] if source.option_strings else places[source.dest]
    other = {"out": "OUT", "memory": "M.resmem"}.get(target.dest, "--output")
    wanted = f"{str(written)!r} is read by this command, as {called} {named}; "
    wanted += f"give {other} another file"
    assert (done.status, done.err) == (2, f"resmem: error: {wanted}\n")
    if how != "dangling link":
        assert Path(read).read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("line", "read"),
    [
        (ASK + " -o x.npy --exclude-ids x.npy", "x.npy"),
        (ASK + " -o x.npy --what correct --columns x.npy", "x.npy"),
        ("fit x.npy --force --embeddings train.npz --targets train.npz --store head "
         "--head-weight x.npy", "x.npy"),
        ("fit x.npy --force --embeddings train.npz --targets train.npz --store head "
         "--head-weight train.npz --head-bias x.npy", "x.npy"),
        ("report m.resmem --embeddings query.npz --outputs query.npz --targets x.npy "
         "--output x.html --class-names x.html", "x.html"),
    ],
)  # fmt: skip
def test_output_that_is_also_an_input_is_refused(fitted, line, read):
    np.save("x.npy", np.full(Q, -1))
    Path("x.html").write_text("a\nb\nc\n")
    before = Path(read).read_bytes()
    done = fitted(line)
    assert (done.status, done.out) == (2, "")
    assert f"'{read}' is read by this command, as --" in done.err
    assert Path(read).read_bytes() == before
    other = line.replace(f"-o {read}", "-o y.npy").replace(f"fit {read}", "fit y.resmem")
    said = fitted(other.replace(f"--output {read}", "--output y.html")).err
    assert "is read by this command" not in said  # the message advises another file


def test_the_demo_does_not_draw_over_its_images(cli, tmp_path, monkeypatch):
    images = tmp_path / "images.npz"
    images.write_bytes(demo_data.PATH.read_bytes())
    monkeypatch.setattr(demo_data, "PATH", images)
    os.symlink(images, "x.png")
    done = cli("demo --quick --output x.png")
    assert done.status == 2
    assert f"'x.png' is read by this command, as {images}; give --output another file" in done.err
    assert images.read_bytes()[:2] == b"PK"


def test_a_picture_of_the_demo_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    import matplotlib.figure

    def fails(figure, file, **_):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", fails)
    (tmp_path / "x.png").write_bytes(b"old")
    status = main(["demo", "--quick", "--output", str(tmp_path / "x.png")])
    assert status == 2
    assert os.listdir(tmp_path) == ["x.png"]
    assert (tmp_path / "x.png").read_bytes() == b"old"


def test_every_command_prints_its_help(cli, capsys):
    commands = re.findall(r"^    (\w+) ", cli("").out, re.MULTILINE)
    assert set(commands) == {
        "collect", "fit", "add", "update", "get", "merge", "audit", "prune", "predict", "evaluate",
        "tune", "report", "info", "verify", "export", "version", "demo",
    }  # fmt: skip
    for command in commands:
        with pytest.raises(SystemExit, match="0"):
            cli(f"{command} --help")
        assert f"usage: resmem {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    ["nothing", "fit", "fit m.resmem --k five", "info", ASK, ASK + " -o p.npy --what else",
     ASK + " -o p.npy --sigma wide", "info m.resmem --js", "version extra"],
)  # fmt: skip
def test_malformed_command_line_exits_with_2(cli, capsys, line):
    with pytest.raises(SystemExit, match="2"):
        cli(line)
    assert "usage: resmem" in capsys.readouterr().err


def test_unexpected_exception_is_printed_as_one_line(cli, monkeypatch):
    for error, message in (
        (KeyError("'x' is not there"), "KeyError: 'x' is not there"),
        (MemoryError("Unable to allocate\n8 TiB"), "MemoryError: Unable to allocate 8 TiB"),
        (OSError(28, "No space left on device", "x"), "No space left on device: 'x'"),
        (OSError("odd"), "odd"),
        (ValueError(), "ValueError: "),
    ):
        monkeypatch.setattr(resmem, "show_versions", Mock(side_effect=error))
        assert cli("version") == (2, "", f"resmem: error: {message.rstrip()}\n")


def test_resmem_debug_raises_exceptions(cli, monkeypatch):
    monkeypatch.setenv("RESMEM_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        cli("info gone.resmem")


# ---- Progress --------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_bar_is_drawn_on_terminals_only(monkeypatch):
    for stderr, wanted in ((io.StringIO(), True), (Terminal(), False), (None, True)):
        monkeypatch.setattr("sys.stderr", stderr)
        with progress.bar("work", 10, "B", wanted) as step:
            step(10)
        assert stderr is None or stderr.getvalue() == ""
    monkeypatch.setattr("sys.stderr", Terminal())
    with progress.bar("work", 10, "B") as step:
        step(10)
    assert "work" in sys.stderr.getvalue()


def test_without_tqdm_there_is_no_bar(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr("sys.stderr", Terminal())
    with progress.bar("work", 10, "B") as step:
        step(10)
    assert sys.stderr.getvalue() == ""


@pytest.mark.parametrize("name", ["m.resmem", "e.npz", "e.safetensors"])
@pytest.mark.parametrize("line", ["verify {}", "export {} other.npz"])
def test_a_file_that_is_checked_fills_its_bar(fitted, monkeypatch, name, line):
    fitted("export m.resmem e.npz")
    fitted("export m.resmem e.safetensors")
    drawn = {}

    @contextmanager
    def bar(label, total, *_):
        drawn[label] = [total, 0]

        def step(done):
            drawn[label][1] += done

        yield step

    monkeypatch.setattr("resmem._cli.commands.bar", bar)
    assert fitted(line.format(name)).status == 0
    total, done = drawn["verify" if line.startswith("verify") else "load"]
    assert total == done > 0


def test_unverified_export_draws_no_load_bar(fitted, monkeypatch):
    wanted = {}
    monkeypatch.setattr(
        "resmem._cli.commands.bar",
        lambda label, _total, _unit, shown: wanted.update({label: shown}) or nullcontext(id),
    )
    for option in ("", " --no-verify"):
        assert fitted(f"export m.resmem e.npz{option}").status == 0
        assert wanted == {"load": option == "", "export": True}


# ---- Estimates -------------------------------------------------------------------------------


def test_estimate_of_an_unknown_task_is_refused():
    message = r"^task must be 'classification' or 'regression', got 'foo'$"
    with pytest.raises(ValueError, match=message):
        resmem.Memory.estimate(10, 2, 3, task="foo")


def test_an_estimate_marks_the_suggested_store_alone():
    for budget, line in ((10**9, "-> is the one to start with, in 953.7 MiB"), (1, "none fits")):
        estimate = resmem.Memory.estimate(1000, 8, 10, budget=budget)
        first, *options = str(estimate).splitlines()
        assert line in first
        assert "memory available" not in first
        marked = [option for option in options if option.startswith("->")]
        assert len(marked) == 1
        assert f"store {estimate.suggested.store} " in marked[0]


def test_sizes_are_printed_in_binary_units():
    shown = {
        0: "0 bytes",
        1023: "1023 bytes",
        1024: "1.0 KiB",
        1536: "1.5 KiB",
        2**20 - 1: "1.0 MiB",
        2**30 - 1: "1.0 GiB",
        5 * 2**40: "5.0 TiB",
    }
    assert {count: bytes_text(count) for count in shown} == shown


@pytest.mark.parametrize(
    ("groups", "files", "wanted"),
    [
        ("0::/", {}, 4000 * 1024),
        ("0::/a/b", {"a/b/memory.max": "max"}, 4000 * 1024),
        ("0::/a/b", {"a/b/memory.max": "1000000"}, 1000000),
        ("0::/a/b", {"a/b/memory.max": "3000000", "a/memory.max": "2000000"}, 2000000),
        ("0::/elsewhere", {"memory.max": "2500000"}, 2500000),
        ("0::/a", {"a/memory.max": str(2**40)}, 4000 * 1024),
        ("4:cpu,memory:/a:b", {"memory/a:b/memory.limit_in_bytes": "900000"}, 900000),
        ("4:memory:/host", {"memory/memory.limit_in_bytes": "800000"}, 800000),
        ("4:memory:/", {"memory/memory.limit_in_bytes": str(2**63 - 4096)}, 4000 * 1024),
        ("4:cpu:/a\n0::/a", {"memory/a/memory.limit_in_bytes": "1"}, 4000 * 1024),
    ],
)
def test_the_memory_available_is_that_of_the_control_group(tmp_path, groups, files, wanted):
    files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    files["proc/self/cgroup"] = groups
    files["proc/meminfo"] = "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert memory_available(str(tmp_path)) == wanted


def test_unknown_available_memory_counts_as_8_gib(tmp_path):
    assert memory_available(str(tmp_path)) == 8 << 30


# ---- As a program ----------------------------------------------------------------------------


def program(line, **more):
    """Start `python -m resmem`."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", "resmem", *line.split()], **streams | more)


def ended(child):
    """Return the status and the output of a program that must end."""
    out, err = child.communicate(timeout=60)
    return Done(child.returncode, out, err)


def on_terminal(line):
    """Return what a program writes to a terminal that is its standard error."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    child = program(line, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert ended(child).status == 0
    return shown.decode()


def test_a_bar_is_drawn_on_a_terminal_and_nowhere_else(fitted):
    assert "predict:" in on_terminal(f"{ASK} -o p.npy")
    assert on_terminal(f"{ASK} -o p.npy --no-progress") == ""
    assert on_terminal(f"{ASK} -o p.npy --quiet") == ""
    assert ended(program(f"{ASK} -o p.npy")).err == ""


def endless(path, columns, dtype="<f4"):
    """Write a .npy file of many rows of zeros that takes no room on the disk."""
    rows = 50_000_000
    with open(path, "wb") as file:
        header = {"descr": dtype, "fortran_order": False, "shape": (rows, *columns)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + rows * int(np.prod(columns)) * np.dtype(dtype).itemsize)


def when_it_reads(child, name):
    """Wait until a file is mapped by a program."""
    deadline = time.monotonic() + 60
    while name not in Path(f"/proc/{child.pid}/maps").read_text():
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "line",
    [
        FIT + " --force --embeddings endless.npy --outputs outputs.npy --targets targets.npy",
        FIT.replace("fit", "add")
        + " --embeddings endless.npy --outputs outputs.npy --targets targets.npy",
        ASK + " --embeddings endless.npy --outputs outputs.npy -o p.npy",
        ASK + " --embeddings endless.npy -o p.npz --what neighbors",
    ],
)
def test_an_interrupted_program_leaves_nothing_behind(fitted, line, number, status):
    before = Path("m.resmem").read_bytes()
    endless("endless.npy", (D,))
    endless("outputs.npy", (C,))
    endless("targets.npy", (), "<i8")
    child = program(
        line + " --quiet",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    when_it_reads(child, "endless.npy")
    child.send_signal(number)
    assert ended(child) == (status, "", "")
    assert Path("m.resmem").read_bytes() == before
    assert litter() == ["endless.npy", "outputs.npy", "targets.npy"]


def test_a_full_disk_is_an_error_that_leaves_nothing_behind(fitted):
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))  # noqa: E731
    for output in ("p.npy", "p.npz"):
        done = ended(program(f"{ASK} --what proba -o {output}", preexec_fn=limit))
        assert (done.status, done.out) == (2, "")
        assert done.err == f"resmem: error: File too large: '{output}'\n"
        assert not litter()


def test_closed_output_pipe_is_no_error(fitted):
    endless("endless.npy", (D,))
    child = program("predict m.resmem --what correction --embeddings endless.npy -o -")
    assert len(child.stdout.readline().split(",")) == C
    child.stdout.close()
    assert child.stderr.read() == ""
    assert child.wait(60) == 141
    child.stderr.close()


def test_output_that_cannot_be_written_is_an_error(fitted):
    with open("/dev/full", "w") as full:
        done = ended(program("info m.resmem", stdout=full))
    assert done.status == 2
    assert done.err == "resmem: error: [Errno 28] No space left on device\n"
    closed = program(f"{ASK} -o -", preexec_fn=lambda: os.close(1))
    assert ended(closed).err == "resmem: error: standard output is closed\n"


def test_the_program_is_installed_under_its_name(fitted):
    script = Path(sys.executable).with_name("resmem")
    if not script.exists():
        pytest.skip("resmem is on the path without being installed as a distribution")
    done = subprocess.run([script, "info", "m.resmem"], capture_output=True, text=True, check=True)
    assert done.stdout == fitted("info m.resmem").out


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["1", "-2", "0"], [1, -2, 0]),
        (["0.5", "-0.5", "1e3"], [0.5, -0.5, 1000.0]),
        (["007", "01", "2"], ["007", "01", "2"]),
        (["nan", "1"], ["nan", "1"]),
        (["inf", "1"], ["inf", "1"]),
        (["a", "1"], ["a", "1"]),
    ],
)
def test_codes_in_a_csv_file_are_no_numbers(cli, written, read):
    Path("y.csv").write_text("\n".join(written) + "\n")
    assert inputs.labels("y.csv").tolist() == read
    assert inputs.labels("y.csv", as_text=True).tolist() == written


def test_text_labels_are_read_as_text_and_printed_quoted(cli):
    n = len(TRAIN["embeddings"])
    names = np.array(["7", "a,b", "e\nf"])
    targets = names[TRAIN["targets"]]
    np.save("y.npy", targets)
    rows = "--embeddings train.npz --outputs train.npz --targets"
    assert cli(f"fit m.resmem {rows} y.npy --k 5").status == 0
    few = np.flatnonzero(targets == "7")[:3]
    np.savez("few.npz", embeddings=TRAIN["embeddings"][few] + 0.01, outputs=TRAIN["outputs"][few])
    Path("few.csv").write_text("7\n" * len(few))  # text, as the labels of the memory are
    done = cli("evaluate m.resmem --embeddings few.npz --outputs few.npz --targets few.csv")
    assert done.status == 0, done.err
    printed = list(csv.reader(cli("get m.resmem -o -").out.splitlines(keepends=True)))
    assert len(printed) == n
    assert [line[1 + D] for line in printed] == targets.tolist()
