"""The command line: every command, every form of input, every way to go wrong."""

from __future__ import annotations

import json
import os
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resmem._cli import inputs
from resmem._cli.formats import members

F32 = np.arange(12, dtype=np.float32).reshape(6, 2) - 3.5
HALVES = np.array([[1.0, -2.5], [0.0, 3.140625]], np.float32)  # bfloat16 holds them exactly
CODES = {"float32": "F32", "float16": "F16", "int64": "I64", "uint16": "BF16"}


def safetensors(path, arrays, pad=0, **entries):
    """A .safetensors file of ``arrays``; ``entries`` replace what the header says of some."""
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
    """The array in every kind of file."""
    np.save(path / "a.npy", array)
    np.savez(path / "a.npz", a=array)
    np.savez_compressed(path / "b.npz", a=array)
    files = [path / "a.npy", path / "a.npz", path / "b.npz"]
    if array.flags.c_contiguous and array.dtype.isnative:
        safetensors(path / "a.safetensors", {"a": array})
        safetensors(path / "b.safetensors", {"a": array}, pad=3)  # not aligned
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
def test_what_can_be_mapped_is_not_read(tmp_path, name):
    written(tmp_path, F32)
    got = inputs.rows(str(tmp_path / name), "embeddings")
    assert isinstance(getattr(got, "_stored", got), np.memmap)


def test_bfloat16_becomes_float32_as_it_is_sliced(tmp_path):
    bits = (HALVES.view(np.uint32) >> 16).astype(np.uint16)
    got = inputs.rows(safetensors(tmp_path / "h.safetensors", {"h": bits}), "embeddings")
    assert got.dtype == np.float32
    assert got[1:].tobytes() == HALVES[1:].tobytes()
    assert np.array_equal(np.asarray(got, dtype=np.float64), HALVES)


def test_files_of_the_library_itself_are_read(tmp_path):
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


def test_ids_are_written_out_or_in_a_file(tmp_path):
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


def test_a_compressed_member_is_held_to_its_checksum(tmp_path):
    file = tmp_path / "a.npz"
    np.savez_compressed(file, a=F32)
    with zipfile.ZipFile(file) as archive:
        crc = struct.pack("<L", archive.getinfo("a.npy").CRC)
    file.write_bytes(file.read_bytes().replace(crc, b"\0\0\0\0"))
    assert "CRC" in refused(file)


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
def test_whatever_is_in_a_file_it_is_read_or_refused(tmp_path, name, data):
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
