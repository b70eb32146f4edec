"""The file format: whole or not at all, whatever happens to the process, the disk or the bytes."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import mmap
import os
import random
import resource
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import resmem
from faults import largest_file
from fuzz import fuzz_container
from fuzz.fuzz_container import build, sealed
from resmem._base import platform
from resmem._base.errors import FileFormatError
from resmem._files import atomic, container
from resmem._files.atomic import replacing
from resmem._files.container import Section, Version, append, checksums, layout, load, save

HERE = Path(__file__).parent
KILLS = int(os.environ.get("RESMEM_KILLS", "20"))
PATIENCE = 60  # seconds after which what should have ended counts as hung
DTYPES = ["float16", "float32", "float64", "int32", "int64", "uint8", "uint16"]
TWO_CHUNKS = checksums.CHUNK + 3 * layout.BLOCK + 12  # bytes, with padding

forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def some(n=6, dtype="float32"):
    return np.arange(n).astype(dtype)


def same(got, wanted):
    return {n: (a.dtype, a.shape, a.tobytes()) for n, a in got.items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in wanted.items()
    }


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.resmem"


@pytest.fixture
def folder():
    """A folder on disk that other users may look into."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def forked(work):
    """Return what `work()` returns in a forked child, passed through JSON."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # never back into pytest
        try:
            signal.alarm(PATIENCE)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.write(write, json.dumps(work()).encode())
        except BaseException as error:
            os.write(write, json.dumps(f"{type(error).__name__}: {error}").encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer)


# ---- Round trips -------------------------------------------------------------------------------


@st.composite
def arrays(draw):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    content = draw(st.binary(min_size=1, max_size=9))
    size = math.prod(shape) * dtype.itemsize
    return np.frombuffer((content * size)[:size], dtype).reshape(shape)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)  # fmt: skip
metas = st.dictionaries(st.text(max_size=5), json_values, max_size=4)
names = st.text(min_size=1, max_size=4)


@settings(max_examples=30)
@given(st.data())
def test_what_is_saved_and_appended_is_loaded(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("trip") / "file"
    model, version = {}, None
    for _ in range(data.draw(st.integers(1, 4))):
        meta = data.draw(metas)
        drawn = data.draw(st.dictionaries(names, st.tuples(arrays(), st.booleans()), max_size=3))
        if version is None or data.draw(st.booleans()):
            model = drawn
            version = save(path, meta, [Section(n, a, r) for n, (a, r) in drawn.items()])
        else:
            keep = data.draw(st.sets(st.sampled_from(sorted(model)))) if model else set()
            new = {n: v for n, v in drawn.items() if n not in keep}
            version = append(
                path, version, meta, keep, [Section(n, a, r) for n, (a, r) in new.items()]
            )
            model = {n: v for n, v in model.items() if n in keep} | new
        loaded = load(path)
        assert loaded.meta == meta
        assert loaded.version == version
        assert same(loaded.arrays, {n: a for n, (a, _) in model.items()})
        assert loaded.required == {n for n, (_, r) in model.items() if r}


@pytest.mark.parametrize("size", [layout.BLOCK, checksums.CHUNK, TWO_CHUNKS, TWO_CHUNKS + 52])
@pytest.mark.parametrize("threads", [None, 1, 3])
def test_sections_of_many_blocks_are_loaded_and_counted(path, size, threads):
    wanted = {"large": np.random.default_rng(0).integers(0, 256, size, np.uint8), "end": some(3)}
    wrote, read = [], []
    sections = [Section(*item) for item in wanted.items()]
    save(path, {}, sections, wrote.append)
    loaded = load(path, True, read.append, threads)
    assert same(loaded.arrays, wanted)
    assert sum(wrote) == size + 12
    assert sum(read) == container.bytes_to_verify(path) == size + 12


def test_arrays_are_read_only_views_of_one_map(path):
    save(path, {}, [Section("a", some()), Section("b", some(3))])
    loaded = load(path).arrays
    assert loaded["a"].base is loaded["b"].base
    assert isinstance(loaded["a"].base, mmap.mmap)
    assert loaded["a"].ctypes.data % layout.ALIGN == 0
    with pytest.raises(ValueError, match="read-only"):
        loaded["a"][0] = 1


def test_views_outlive_the_file_that_was_replaced(path):
    save(path, {}, [Section("a", some())])
    old = load(path)
    save(path, {}, [Section("a", some() + 1)])
    path.unlink()
    assert same(old.arrays, {"a": some()})


def test_a_file_is_saved_over_itself_and_appended_from_itself(path):
    version = save(path, {}, [Section("a", some(100_000))])
    kept = load(path).arrays["a"]
    version = append(path, version, {}, ["a"], [Section("b", kept)])
    save(path, {}, [Section("a", load(path).arrays["b"])])
    assert same(load(path).arrays, {"a": some(100_000)})


def test_sections_may_come_from_a_generator(path):
    save(path, {}, (Section(str(i), some(i)) for i in range(4)))
    assert same(load(path).arrays, {str(i): some(i) for i in range(4)})


def test_a_container_is_known_by_its_first_bytes(path):
    save(path, {}, [])
    assert container.is_container(path)
    assert not container.is_container(__file__)
    with pytest.raises(FileNotFoundError):
        container.is_container(path.with_name("missing"))


# ---- The layout of FORMAT.md, read by other code -----------------------------------------------


def parse(data):
    """Arrays, meta and generation, by FORMAT.md: struct, json and zlib only."""
    magic, version = struct.unpack_from("<8sI", data)
    assert (magic, version) == (b"\x89RESMEM\n", 1)
    slots = []
    for page in (0, 1, 2):
        body = data[4096 * page : 4096 * page + 4092]
        (crc,) = struct.unpack_from("<I", data, 4096 * page + 4092)
        assert crc == zlib.crc32(body)
        slots.append(struct.unpack_from("<QQQI", body))
    assert slots[1] == slots[2]
    generation, offset, length, crc = slots[1]
    assert offset % 64 == 0
    assert offset + length == len(data)
    manifest = data[offset:]
    assert zlib.crc32(manifest) == crc
    fields = json.loads(manifest)
    found = {}
    for section in fields["sections"]:
        start, size = section["offset"], section["length"]
        padded = (size + 63) // 64 * 64
        stored = data[start : start + padded]
        sums = [zlib.crc32(stored[at : at + 2**20]) for at in range(0, size, 2**20)]
        table = struct.pack(f"<{len(sums)}I", *sums)
        table += bytes(-len(table) % 64)
        assert stored[size:] == bytes(padded - size)
        assert data[start + padded : start + padded + len(table)] == table
        assert section["crc32"] == zlib.crc32(table)
        values = np.frombuffer(stored[:size], section["dtype"]).reshape(section["shape"])
        found[section["name"]] = values, section["required"]
    return found, fields["meta"], generation


def test_files_are_as_documented(path):
    first = {"a": some(TWO_CHUNKS // 4), "half": some(3, "float16"), "none": np.zeros((0, 2))}
    version = save(path, {"k": 1}, [Section(n, a, n != "half") for n, a in first.items()])
    found, meta, generation = parse(path.read_bytes())
    assert same({n: a for n, (a, _) in found.items()}, first)
    assert {n: r for n, (_, r) in found.items()} == {"a": True, "half": False, "none": True}
    assert (meta, generation) == ({"k": 1}, 1)
    append(path, version, {"k": 2}, ["none", "half"], [Section("new", np.array(2.5))])
    found, meta, generation = parse(path.read_bytes())
    assert same({n: a for n, (a, _) in found.items()},
                {"none": first["none"], "half": first["half"], "new": np.array(2.5)})  # fmt: skip
    assert (meta, generation) == ({"k": 2}, 2)


@pytest.mark.parametrize("file", sorted((HERE / "fuzz" / "corpus").iterdir()), ids=lambda p: p.name)
def test_every_file_of_the_corpus_is_loaded_or_refused(file):
    data = file.read_bytes()
    assert fuzz_container.check(data) == (file.name in {"saved", "appended"})
    fuzz_container.check(fuzz_container.mended(data))  # raises if it is neither


def test_files_of_the_first_version_are_read():
    loaded = load(HERE / "fuzz" / "corpus" / "saved")
    assert loaded.meta == {"task": "classification", "k": 5, "nested": [[1.5, None]]}
    keys, half = some().reshape(2, 3), np.array([0.5, -2], np.float16)
    assert same(loaded.arrays, {"keys": keys, "half": half, "nothing": np.zeros((0, 3), np.int64)})
    loaded = load(HERE / "fuzz" / "corpus" / "appended")
    assert same(loaded.arrays, {"keys": keys, "half": half, "scalar": np.array(7, np.uint8)})
    assert (loaded.meta, loaded.required) == ({"k": 6}, {"keys", "scalar"})


def test_mutations_of_the_fuzzer_pass_the_checksums():
    rng, reached = random.Random(0), set()
    for data in fuzz_container.seeds().values():
        for _ in range(60):
            reached.add(fuzz_container.check(fuzz_container.restructured(data, rng)))
    assert reached == {True, False}


# ---- Damage ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[0, 2], ids=["saved", "appended to"])
def intact(request, tmp_path_factory):
    """Return the path, bytes and content of a small file."""
    path = tmp_path_factory.mktemp("intact") / "file"
    version = save(path, {"k": 1}, [Section("a", some(20)), Section("b", some(3, "uint8"))])
    for turn in range(request.param):
        version = append(path, version, {"k": turn}, ["a"], [Section("b", some(turn))])
    loaded = load(path)
    content = loaded.meta, {n: a.copy() for n, a in loaded.arrays.items()}, loaded.required
    return path, path.read_bytes(), content


def holds(path, content):
    """Return True if the file loads with just this content, False if refused as damaged."""
    try:
        loaded = load(path, threads=1)
    except FileFormatError:
        return False
    meta, arrays, required = content
    assert (loaded.meta, loaded.required) == (meta, required)
    assert same(loaded.arrays, arrays)
    return True


def test_no_flipped_byte_changes_what_is_loaded(intact):
    path, data, content = intact
    unharmed = []
    with open(path, "r+b", buffering=0) as file:
        for at, byte in enumerate(data):
            os.pwrite(file.fileno(), bytes([byte ^ (1 << at % 8)]), at)
            if holds(path, content):
                unharmed.append(at)
            os.pwrite(file.fileno(), bytes([byte]), at)
    assert holds(path, content)
    generation = fuzz_container.root(data)[0]
    assert set(range(4096, 3 * 4096)) <= set(unharmed)  # one slot stands in for the other
    if generation == 1:
        assert len(unharmed) == 2 * 4096  # every other byte is needed, padding included


def test_every_truncation_is_noticed(intact):
    path, data, content = intact
    try:
        for size in reversed(range(len(data))):
            os.truncate(path, size)
            assert not holds(path, content)
    finally:
        path.write_bytes(data)


def test_junk_behind_the_manifest_is_dropped_by_an_append(intact):
    path, data, content = intact
    path.write_bytes(data + b"junk" * 5000)
    assert holds(path, content)
    loaded = load(path)
    append(path, loaded.version, loaded.meta, loaded.arrays, [])
    assert holds(path, content)
    assert b"junk" not in path.read_bytes()
    path.write_bytes(data)


@pytest.mark.parametrize("torn", [0, 1, None])
@pytest.mark.parametrize("half", [bytes(4096), b"\xff" * 2048, struct.pack("<Q", 2**62)])
def test_one_torn_slot_is_survived_and_two_are_refused(path, torn, half):
    version = save(path, {"k": 1}, [Section("a", some())])
    data = bytearray(path.read_bytes())
    for slot in {torn} if torn is not None else {0, 1}:
        data[4096 * (1 + slot) : 4096 * (1 + slot) + len(half)] = half
    path.write_bytes(data)
    if torn is None:
        with pytest.raises(FileFormatError, match="neither of its two slots"):
            load(path)
        return
    assert load(path).version == version
    append(path, version, {"k": 2}, ["a"], [])
    parse(path.read_bytes())  # both slots are whole again


@pytest.mark.parametrize("written", [0, 1])
def test_between_two_slots_the_newer_one_counts(path, written):
    version = save(path, {"k": 1}, [Section("a", some())])
    old = path.read_bytes()
    newer = append(path, version, {"k": 2}, ["a"], [])
    data = bytearray(path.read_bytes())
    other = 4096 * (2 - written)
    data[other : other + 4096] = old[other : other + 4096]
    path.write_bytes(data)
    assert load(path).version == newer
    newest = append(path, newer, {"k": 3}, ["a"], [])
    assert (load(path).version, load(path).meta) == (newest, {"k": 3})
    parse(path.read_bytes())


def test_reader_that_sees_both_slots_torn_reads_again(path, monkeypatch):
    version = save(path, {}, [])
    data = path.read_bytes()
    path.write_bytes(data[:4096] + bytes(8192) + data[12288:])
    monkeypatch.setattr("time.sleep", lambda _: path.write_bytes(data))
    assert load(path).version == version


def test_damage_of_a_large_section_is_located(path):
    save(path, {}, [Section("first", some()), Section("large", some(TWO_CHUNKS // 4))])
    at = path.stat().st_size // 2
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 4]))
    assert load(path, verify=False).arrays["large"].shape == (TWO_CHUNKS // 4,)
    for threads in (1, 2):
        with pytest.raises(FileFormatError, match=r"'large'.*between bytes") as caught:
            load(path, threads=threads)
        first, last = map(int, str(caught.value).split("bytes ")[1].split(" of")[0].split(" and "))
        assert first <= at < last <= first + layout.BLOCK


# ---- Files that were never saved ---------------------------------------------------------------


def section(**changes):
    fields = {"name": "a", "dtype": "float32", "shape": [4], "offset": 12288, "length": 16,
              "required": True, "crc32": 0}  # fmt: skip
    return {k: v for k, v in (fields | changes).items() if v != "absent"}


BAD_SECTIONS = {
    "huge offset": [section(offset=2**62)],
    "offset beyond int64": [section(offset=2**63)],
    "offset beyond uint64": [section(offset=2**64 + 12288)],
    "offset and length overflow": [section(offset=2**63 - 64, shape=[2**60], length=2**62)],
    "negative offset": [section(offset=-64)],
    "offset in the headers": [section(offset=8192)],
    "offset not aligned": [section(offset=12289)],
    "offset is a float": [section(offset=12288.0)],
    "offset is a boolean": [section(offset=True)],
    "offset is a text": [section(offset="12288")],
    "no offset": [section(offset="absent")],
    "behind the manifest": [section(offset=12288 + 64 * 1000)],
    "longer than the file": [section(shape=[2**20], length=2**22)],
    "length contradicts shape": [section(length=12)],
    "length contradicts dtype": [section(dtype="float64")],
    "negative length": [section(length=-16)],
    "negative shape": [section(shape=[-2, -2])],
    "shape overflows": [section(shape=[2**32, 2**32], length=0)],
    "shape overflows to the length": [section(shape=[2**62, 4], length=0)],
    "empty with a huge shape": [section(shape=[2**62, 2**62, 0], length=0)],
    "too many dimensions": [section(shape=[1] * 33, length=4)],
    "shape is no list": [section(shape=4)],
    "shape of lists": [section(shape=[[4]])],
    "dtype is an object": [section(dtype={})],
    "dtype of objects": [section(dtype="object")],
    "no name": [section(name="")],
    "name is a number": [section(name=3)],
    "required is a number": [section(required=1)],
    "checksum beyond 32 bits": [section(crc32=2**32)],
    "same name": [section(shape=[0], length=0), section(shape=[0], length=0)],
    "same bytes": [section(), section(name="b")],
    "overlap": [section(), section(name="b", offset=12352)],
    "not an object": [[]],
    "null": [None],
}


@pytest.mark.parametrize("case", BAD_SECTIONS)
@pytest.mark.parametrize("verify", [True, False])
def test_crafted_sections_are_refused(path, case, verify):
    text = json.dumps({"meta": {}, "sections": BAD_SECTIONS[case]})
    path.write_bytes(build(text.encode(), bytes(1024)))
    with pytest.raises(FileFormatError, match=r"m\.resmem") as caught:
        load(path, verify)
    assert "manifest is not valid" in str(caught.value) or "later version" in str(caught.value)


BAD_MANIFESTS = {
    "empty": b"",
    "no JSON": b"\x00" * 64,
    "not UTF-8": b'{"meta":{"a":"\xff"},"sections":[]}',
    "UTF-16": '{"meta":{},"sections":[]}'.encode("utf-16"),
    "a list": b"[]",
    "no meta": b'{"sections":[]}',
    "meta is a list": b'{"meta":[],"sections":[]}',
    "no sections": b'{"meta":{}}',
    "sections is an object": b'{"meta":{},"sections":{}}',
    "NaN": b'{"meta":{"sigma":NaN},"sections":[]}',
    "infinity": b'{"meta":{"sigma":-Infinity},"sections":[]}',
    "beyond float64": b'{"meta":{"sigma":1e999},"sections":[]}',
    "a key twice": b'{"meta":{"k":1,"k":2},"sections":[]}',
    "a huge integer": b'{"meta":{"k":' + b"9" * 10_000 + b'},"sections":[]}',
    "nested lists": b'{"meta":{},"sections":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "nested objects": b'{"meta":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b"}",
    "cut off": b'{"meta":{},"sections":[{"name"',
    "trailing": b'{"meta":{},"sections":[]} {}',
}


@pytest.mark.parametrize("case", BAD_MANIFESTS)
def test_crafted_manifests_are_refused(path, case):
    path.write_bytes(build(BAD_MANIFESTS[case]))
    with pytest.raises(FileFormatError, match="manifest is not valid"):
        load(path)


@pytest.mark.parametrize(
    ("generation", "offset", "length", "message"),
    [
        (1, 2**62, 25, "ends at byte"),
        (1, 2**64 - 1, 2**64 - 1, "points outside"),
        (1, 4096, 25, "points outside"),
        (2**63, 12288, 25, "points outside"),
        (1, 12288, 2**24 + 1, "more than"),
        (1, 12288, 26, "ends at byte"),
        (1, 12288, 24, "does not match its checksum"),
    ],
)
def test_crafted_slots_are_refused(path, generation, offset, length, message):
    data = build(b'{"meta":{},"sections":[]}')
    crc = zlib.crc32(data[12288:])
    slot = sealed(struct.pack("<QQQI", generation, offset, length, crc))
    path.write_bytes(data[:4096] + 2 * slot + data[12288:])
    with pytest.raises(FileFormatError, match=message):
        load(path)


def test_the_last_generation_is_read_but_not_appended_to(path):
    path.write_bytes(build(b'{"meta":{},"sections":[]}', generation=2**63 - 1))
    with pytest.raises(ValueError, match="save it as a new file"):
        append(path, load(path).version, {}, [], [])


def test_a_later_format_is_refused_by_name(path):
    data = build(b"{}")
    path.write_bytes(sealed(data[:8] + struct.pack("<I", 7) + data[12:4096]) + b"anything")
    with pytest.raises(FileFormatError, match=r"format 7.*reads format 1.*later version"):
        load(path)


def of_later_version(required):
    """Return a file with a section of a dtype, and with JSON keys, that are not known yet."""
    new = section(dtype="float8", shape=[5, 3], required=required)
    known = section(name="b", offset=12416, shape=[0], length=0)
    data = fuzz_container.summed(build(b"", bytes(range(16)).ljust(128, b"\0")), [new])
    manifest = {"meta": {}, "sections": [new | {"hint": {}}, known], "later": 1}
    return fuzz_container.with_manifest(data, json.dumps(manifest).encode())


def test_optional_section_of_unknown_dtype_is_still_verified(path):
    data = of_later_version(required=False)
    path.write_bytes(data)
    assert list(load(path).arrays) == ["b"]
    append(path, load(path).version, {}, ["a"], [])
    path.write_bytes(data.replace(bytes(range(16)), bytes(16)))
    with pytest.raises(FileFormatError, match="'a' does not match its checksum"):
        load(path)


def test_required_section_of_unknown_dtype_is_refused_by_name(path):
    path.write_bytes(of_later_version(required=True))
    with pytest.raises(FileFormatError, match=r"later version of resmem.*'float8'.*'a'"):
        load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04 a zip file", r"not a file of resmem \(it begins with b'PK"),
        (b"\x89RESM", "not a file of resmem"),
        (b"\x89RESMEM\n", "is damaged"),
    ],
)
def test_file_of_another_program_is_refused(path, content, message):
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=message):
        load(path)
    with pytest.raises(FileFormatError, match=message):
        append(path, Version("", 1, 0), {}, [], [])


def test_system_errors_keep_their_type_and_file_name(path, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, error, code in [
        ("missing", FileNotFoundError, errno.ENOENT),
        (".", IsADirectoryError, errno.EISDIR),
        ("missing/file", FileNotFoundError, errno.ENOENT),
        ("pipe", OSError, errno.EINVAL),
    ]:
        for call in (load, lambda p: append(p, Version("", 1, 0), {}, [], [])):
            with pytest.raises(error) as caught:
                call(tmp_path / name)
            assert caught.value.errno == code
            assert caught.value.filename == str(tmp_path / name)


def sparse(path, length):
    """Write a file of one section of zeros that takes no room; its checksums are wrong."""
    sections = [section(shape=[length // 4], length=length)]
    manifest = json.dumps({"meta": {}, "sections": sections}).encode()
    offset = 12288 + length + length // 2**14
    slot = struct.pack("<QQQI", 1, offset, len(manifest), zlib.crc32(manifest))
    with open(path, "wb") as file:
        file.write(build(b"")[:4096] + 2 * sealed(slot))
        file.seek(offset)
        file.write(manifest)


def test_a_file_of_ten_gigabytes_opens_at_once(path):
    sparse(path, 10 << 30)
    shortest = math.inf
    for _ in range(3):
        start = time.monotonic()
        array = load(path, verify=False).arrays["a"]
        shortest = min(shortest, time.monotonic() - start)
    assert (array.nbytes, array[-1]) == (10 << 30, 0)
    assert shortest < 0.05


@forks
def test_without_address_space_there_is_a_memory_error(path):
    sparse(path, 10 << 30)

    def restricted():
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, resource.RLIM_INFINITY))
        load(path, verify=False)

    assert "MemoryError: no address space to map the 1073" in forked(restricted)


# ---- What cannot be written --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Section("a", some(dtype=">f4")), "must be of one of float16.*got >f4"),
        (Section("a", some(dtype="bool")), "got bool"),
        (Section("a", some().astype(object)), "got object"),
        (Section("a", some()[::2]), "C-contiguous"),
        (Section("", some()), "name of a section"),
        (Section("there", some()), "'there' twice"),
    ],
)
def test_sections_that_cannot_be_stored_leave_no_trace(path, bad, message):
    version = save(path, {}, [Section("there", some())])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        append(path, version, {}, ["there"], [Section("new", some()), bad])
    with pytest.raises(ValueError, match=message):
        save(path, {}, [Section("there", some()), bad])
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_sections_to_keep_must_be_there(path):
    version = save(path, {}, [Section("there", some())])
    with pytest.raises(ValueError, match=r"no section 'gone' to keep; it has \['there'\]"):
        append(path, version, {}, ["there", "gone"], [])


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("meta", "error", "message"),
    [
        ({"sigma": math.inf}, ValueError, "meta cannot be stored"),
        ({"deep": nested(100_000)}, ValueError, "meta cannot be stored"),
        ({"1": 0, 1: 0}, ValueError, "key twice"),
        ({"large": "x" * (16 << 20)}, ValueError, "store what is large as a section"),
        ({"array": some()}, TypeError, "ndarray"),
    ],
)
def test_meta_that_cannot_be_read_again_is_refused(path, meta, error, message):
    with pytest.raises(error, match=message):
        save(path, meta, [])
    assert not path.exists()
    version = save(path, {}, [])
    with pytest.raises(error, match=message):
        append(path, version, meta, [], [])


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_must_be_positive(path, threads):
    save(path, {}, [])
    with pytest.raises(ValueError, match="threads must be at least 1"):
        load(path, threads=threads)


# ---- Failures on the way -----------------------------------------------------------------------


def failing(after):
    """Return a progress callback that raises once ``after`` bytes are done."""
    done = 0

    def progress(more):
        nonlocal done
        done += more
        if done >= after:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("after", [1, TWO_CHUNKS])
def test_an_interrupted_save_leaves_the_old_file_alone(path, after):
    for existing in (False, True):
        with pytest.raises(KeyboardInterrupt):
            save(path, {}, [Section("a", some(TWO_CHUNKS // 4))], failing(after))
        assert os.listdir(path.parent) == [path.name] * existing
        if existing:
            assert same(load(path).arrays, {"a": some()})
        else:
            save(path, {}, [Section("a", some())])


@pytest.mark.parametrize("after", [1, TWO_CHUNKS])
def test_interrupted_append_leaves_the_file_as_it_was(path, after):
    version = save(path, {}, [Section("a", some())])
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        append(path, version, {}, ["a"], [Section("b", some(TWO_CHUNKS // 4))], failing(after))
    assert path.read_bytes() == before
    append(path, version, {}, ["a"], [Section("b", some(3))])
    assert same(load(path).arrays, {"a": some(), "b": some(3)})


@pytest.mark.parametrize("room", [0, 20_000, 5_000_000])
def test_file_beyond_the_size_limit_is_an_error_without_trace(path, room):
    version = save(path, {}, [Section("a", some())])
    before = path.read_bytes()
    large = [Section("b", some(TWO_CHUNKS // 4))]
    with largest_file(len(before) + room):
        for call in (lambda: save(path, {}, large), lambda: append(path, version, {}, [], large)):
            with pytest.raises(OSError, match=str(path)) as caught:
                call()
            assert caught.value.errno == errno.EFBIG
            assert path.read_bytes() == before
            assert os.listdir(path.parent) == [path.name]
    append(path, version, {}, ["a"], large)
    assert same(load(path).arrays, {"a": some(), "b": some(TWO_CHUNKS // 4)})


@pytest.fixture
def small_disk(tmp_path):
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here (not root, or not allowed)")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_full_disk_is_an_error_without_trace(small_disk):
    path = small_disk / "file"
    version = save(path, {}, [Section("a", some(250_000))])
    large = [Section("b", some(1_000_000))]
    for call in (lambda: save(path, {}, large), lambda: append(path, version, {}, [], large)):
        with pytest.raises(OSError, match=str(path)) as caught:
            call()
        assert caught.value.errno == errno.ENOSPC
        assert os.listdir(small_disk) == ["file"]
    append(path, version, {}, ["a"], [Section("b", some(500_000))])
    assert same(load(path).arrays, {"a": some(250_000), "b": some(500_000)})


def state(i):
    """Return content that shows whether parts of two states were mixed."""
    return np.full(300_000 + 1000 * (i % 7), i, np.int64)


def saves(path, report):
    for i in range(1, 10**6):
        save(path, {"i": i}, [Section("a", state(i)), Section("b", state(i + 1))])
        report(i)


def appends(path, report):
    loaded = load(path)
    version, first = loaded.version, loaded.meta["i"] + 1
    for i in range(first, first + 10**6):
        new = [Section(f"b{i}", state(i + 1)), Section(f"a{i}", state(i))]
        version = append(path, version, {"i": i}, [f"b{i - 1}"], new)
        report(i)


def killed(work, path, delay):
    """Return the last number that a process reported before it was killed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # never back into pytest
        try:
            work(path, lambda i: os.write(write, struct.pack("<q", i)))
        finally:
            os._exit(1)
    os.close(write)
    with open(read, "rb") as pipe:
        seen = pipe.read(8)  # the child has begun
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        seen += pipe.read()
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    return struct.unpack(f"<{len(seen) // 8}q", seen)[-1]


@forks
def test_a_killed_save_leaves_the_old_file_or_the_new_one(path):
    rng = random.Random(0)
    for _ in range(KILLS):
        last = killed(saves, path, rng.random() * 0.04)
        loaded = load(path)
        i = loaded.meta["i"]
        assert i in {last, last + 1}
        assert same(loaded.arrays, {"a": state(i), "b": state(i + 1)})
        for left in set(os.listdir(path.parent)) - {path.name}:
            load(path.parent / left)  # killed between two calls of the system: whole, but hidden
            assert left.startswith(".m.resmem.")
    save(path, {}, [])
    assert os.listdir(path.parent) == [path.name]


@forks
def test_a_killed_append_leaves_the_old_state_or_the_new_one(path):
    rng = random.Random(0)
    save(path, {"i": 0}, [Section("b0", state(1))])
    for _ in range(KILLS):
        last = killed(appends, path, rng.random() * 0.04)
        loaded = load(path)
        i = loaded.meta["i"]
        assert i in {last, last + 1}
        wanted = {f"b{i - 1}": state(i), f"b{i}": state(i + 1), f"a{i}": state(i)}
        assert same(loaded.arrays, wanted)


# ---- Several processes -------------------------------------------------------------------------


def test_an_append_after_another_one_is_refused(path):
    version = save(path, {}, [])
    append(path, version, {}, [], [Section("a", some())])
    with pytest.raises(ValueError, match=r"m.resmem.*has changed since.*load it again"):
        append(path, version, {}, [], [Section("b", some())])
    assert same(load(path).arrays, {"a": some()})


def test_an_append_after_a_save_is_refused(path):
    version = save(path, {}, [])
    save(path, {}, [])
    with pytest.raises(ValueError, match="has changed since"):
        append(path, version, {}, [], [])


def test_copies_with_different_appends_are_told_apart(path):
    version = save(path, {}, [])
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    here = append(path, version, {}, [], [Section("a", some())])
    there = append(copy, version, {}, [], [Section("a", some() + 1)])
    assert (here.uuid, here.generation) == (there.uuid, there.generation)
    with pytest.raises(ValueError, match="has changed since"):
        append(copy, here, {}, [], [])


@forks
def test_appends_of_several_processes_are_all_there(path):
    save(path, {}, [])

    def work(name):
        for i in range(8):
            while True:
                loaded = load(path)
                new = [Section(f"{name}{i}", some(i))]
                try:
                    append(path, loaded.version, {}, loaded.arrays, new)
                    break
                except FileFormatError:
                    raise
                except ValueError:
                    continue
        return True

    results = [None, None]

    def run(i):
        results[i] = forked(lambda: work("ab"[i]))

    both = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for one in both:
        one.start()
    while any(one.is_alive() for one in both):  # a reader meanwhile sees whole states
        for name, array in load(path).arrays.items():
            assert array.tobytes() == some(int(name[1:])).tobytes()
    for one in both:
        one.join()
    assert results == [True, True]
    assert same(load(path).arrays, {f"{n}{i}": some(i) for n in "ab" for i in range(8)})


@forks
def test_saves_beside_appends_of_another_process_stay_whole(path):
    save(path, {"i": 0}, [Section("a", state(0))])

    def saving():
        for i in range(1, 15):
            save(path, {"i": i}, [Section("a", state(i))])
        return True

    results = []
    other = threading.Thread(target=lambda: results.append(forked(saving)))
    other.start()
    while other.is_alive():
        loaded = load(path)
        i = loaded.meta["i"]
        assert same({"a": loaded.arrays["a"]}, {"a": state(i)})
        try:
            append(path, loaded.version, {"i": i}, ["a"], [Section("b", some())])
        except FileFormatError:
            raise
        except ValueError:  # the file was replaced in between
            continue
    other.join()
    assert results == [True]
    assert load(path).meta["i"] == 14


def test_a_save_waits_for_an_append_in_progress(path):
    version = save(path, {}, [])
    appending, go_on = threading.Event(), threading.Event()

    def slowly():
        yield Section("a", some())
        appending.set()
        assert go_on.wait(PATIENCE)

    first = threading.Thread(target=append, args=(path, version, {}, [], slowly()))
    second = threading.Thread(target=save, args=(path, {"saved": True}, []))
    first.start()
    assert appending.wait(PATIENCE)
    inode = path.stat().st_ino
    second.start()
    second.join(0.1)
    assert second.is_alive()
    assert path.stat().st_ino == inode
    go_on.set()
    first.join(PATIENCE)
    second.join(PATIENCE)
    assert load(path).meta == {"saved": True}


def test_append_that_waited_for_a_replaced_file_is_refused(path):
    version = save(path, {}, [])
    other = path.with_name("other")
    save(other, {}, [])
    errors = []

    def waiting():
        try:
            append(path, version, {}, [], [])
        except ValueError as error:
            errors.append(str(error))

    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = threading.Thread(target=waiting)
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        os.replace(other, path)
        before = path.read_bytes()
    thread.join(PATIENCE)
    assert len(errors) == 1
    assert path.read_bytes() == before


@forks
def test_waiting_for_a_lock_answers_an_interrupt(path):
    version = save(path, {}, [])

    def interrupted():
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        start = time.monotonic()
        try:
            append(path, version, {}, [], [])
        except KeyboardInterrupt:
            return time.monotonic() - start

    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert forked(interrupted) < 2


def test_without_locks_files_are_written_all_the_same(path, monkeypatch):
    def flock(*_):
        raise OSError(errno.EOPNOTSUPP, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    version = save(path, {}, [])
    append(path, version, {}, [], [Section("a", some())])
    save(path, {}, [])


# ---- Permissions, links, names -----------------------------------------------------------------


def as_nobody(work):
    if os.getuid() != 0:
        return forked(work)

    def restricted():
        os.setgid(65534)
        os.setuid(65534)
        return work()

    return forked(restricted)


@forks
def test_missing_permissions_are_errors_that_name_the_file(folder):
    path = folder / "m.resmem"
    version = save(path, {}, [Section("a", some())])
    os.chmod(path, 0o444)
    os.chmod(folder, 0o555)
    assert as_nobody(lambda: load(path).version.uuid) == version.uuid
    denied = f"PermissionError: [Errno 13] Permission denied: '{path}'"
    assert as_nobody(lambda: append(path, version, {}, [], [])) == denied
    assert as_nobody(lambda: save(path, {}, [])) == denied
    os.chmod(path, 0o000)
    assert as_nobody(lambda: load(path)) == denied
    os.chmod(folder, 0o777)  # a file that cannot be read can be replaced
    assert as_nobody(lambda: save(path, {}, []).generation) == 1
    os.chmod(path, 0o600)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_permissions_are_kept(path, named, mode, monkeypatch):
    if named:
        without_nameless_files(monkeypatch)
    before = os.umask(0o027)
    try:
        save(path, {}, [])
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        os.chmod(path, mode)
        save(path, {}, [])
        assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(before)


def without_nameless_files(monkeypatch):
    real = os.open

    def refusing(path, flags, *rest):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not on this file system")
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", refusing)


def test_hidden_temporary_file_is_removed_after_writing(path, monkeypatch):
    without_nameless_files(monkeypatch)
    seen = []
    for content in (b"first", b"second"):
        with replacing(path) as file:
            file.write(content)
            seen += set(os.listdir(path.parent)) - {path.name}
        assert path.read_bytes() == content
    assert all(name.startswith(".m.resmem.") and name.endswith(".tmp") for name in seen)
    with pytest.raises(KeyboardInterrupt), replacing(path):
        raise KeyboardInterrupt
    assert path.read_bytes() == b"second"
    assert os.listdir(path.parent) == [path.name]
    missing = path.with_name("missing") / "file"
    with pytest.raises(FileNotFoundError, match=f"'{missing}'"), replacing(missing):
        pass


def killed_before_the_move(path, nameless):
    """Return the names of the files left by a save that is killed just before its move."""
    child = os.fork()
    if child == 0:  # never back into pytest
        try:
            if not nameless:
                without_nameless_files(pytest.MonkeyPatch())
            os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            save(path, {"new": True}, [Section("a", some())])
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    return [name for name in os.listdir(path.parent) if name != path.name]


WRITERS = {
    "save": lambda path: save(path, {}, []),
    "export": lambda path: memory().export(path),
    "report": lambda path: resmem.report(path, evaluation=evaluation()),
}
ROWS = np.eye(3, 4), 2 * np.eye(3), [0, 1, 2]


def memory():
    return resmem.Memory(k=1).fit(*ROWS)


def evaluation():
    return memory().evaluate(*ROWS, exclude_ids=[0, 1, 2])


@forks
@pytest.mark.parametrize("nameless", [True, False])
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", ["m.npz", "n" * 200 + ".npz", "a[b]*?.npz", ".hidden.npz"])
def test_next_writer_removes_files_of_a_killed_writer(tmp_path, writer, nameless, name):
    path = tmp_path / name
    for _ in range(2):
        (left,) = killed_before_the_move(path, nameless)
        assert left.startswith("." + name[:50])
        load(tmp_path / left)
        WRITERS[writer](path)
        assert os.listdir(tmp_path) == [name]


@forks
@pytest.mark.parametrize("nameless", [True, False])
def test_temporary_file_of_a_running_writer_is_not_removed(path, nameless):
    """The writer waits when its file already has a name, and ends after others have saved."""
    ready, said = os.pipe()
    waits, goes_on = os.pipe()
    child = os.fork()
    if child == 0:  # never back into pytest
        try:
            if not nameless:
                without_nameless_files(pytest.MonkeyPatch())
            move = os.replace

            def slowly(*names):
                os.write(said, b".")
                os.read(waits, 1)
                move(*names)

            os.replace = slowly
            os.close(goes_on)
            save(path, {"by": "child"}, [])
            os._exit(0)
        finally:
            os._exit(1)
    os.close(waits)
    assert os.read(ready, 1) == b"."
    (hidden,) = set(os.listdir(path.parent)) - {path.name}
    (path.parent / hidden.replace(hidden[-16:-4], "0" * 12)).write_bytes(b"")  # no process locks it
    for _ in range(2):
        save(path, {"by": "parent"}, [])
        assert sorted(os.listdir(path.parent)) == sorted([hidden, path.name])
    os.write(goes_on, b".")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert load(path).meta == {"by": "child"}
    assert os.listdir(path.parent) == [path.name]


def test_other_hidden_files_are_not_removed(path):
    ends = "0123456789ab.tmp"
    names = [
        f".m.resmem.{ends[1:]}", f".m.resmem.{ends.upper()}", f"m.resmem.{ends}",
        f".m.resmem.0{ends}", f".m.resmem.{ends}~", f".other.{ends}",
    ]  # fmt: skip
    for name in names:
        (path.parent / name).write_bytes(b"kept")
    (path.parent / ".m.resmem.000000000001.tmp").mkdir()
    os.symlink("nowhere", path.parent / ".m.resmem.000000000002.tmp")
    os.mkfifo(path.parent / ".m.resmem.000000000003.tmp")
    names += [f".m.resmem.00000000000{i}.tmp" for i in (1, 2, 3)]
    if os.getuid() == 0:
        other = path.parent / ".m.resmem.000000000004.tmp"
        other.write_bytes(b"")
        os.chown(other, 65534, 65534)
        names.append(other.name)
    save(path, {}, [])
    assert sorted(os.listdir(path.parent)) == sorted([*names, path.name])


def test_without_locks_no_temporary_file_is_removed(path, monkeypatch):
    left = path.with_name(".m.resmem.0123456789ab.tmp")
    left.write_bytes(b"perhaps in the making")

    def flock(*_):
        raise OSError(errno.EOPNOTSUPP, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    save(path, {}, [])
    assert left.exists()


def test_temporary_file_removed_before_its_lock_is_made_again(path, monkeypatch):
    without_nameless_files(monkeypatch)
    locked, lock = [], platform.lock

    def late(fd):
        if not locked:
            atomic._remove_abandoned(str(path.parent), path.name)
        locked.append(fd)
        lock(fd)

    monkeypatch.setattr(platform, "lock", late)
    save(path, {"whole": True}, [])
    assert len(locked) == 2
    assert load(path).meta == {"whole": True}
    assert os.listdir(path.parent) == [path.name]


def test_replacing_shows_no_file_before_its_block_ends(path):
    with replacing(path) as file:
        file.write(b"new")
        assert os.listdir(path.parent) == []
    assert path.read_bytes() == b"new"


def test_links_are_followed(path, tmp_path):
    (tmp_path / "data").mkdir()
    for link, target in [("link", "m.resmem"), ("far", "data/new"), ("chain", "link")]:
        os.symlink(target, tmp_path / link)
        version = save(tmp_path / link, {"to": target}, [])
        assert os.path.islink(tmp_path / link)
        assert load(tmp_path / link).meta == {"to": target}
        append(tmp_path / link, version, {"to": target}, [], [])
    assert sorted(os.listdir(tmp_path)) == ["chain", "data", "far", "link", "m.resmem"]
    assert os.listdir(tmp_path / "data") == ["new"]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "a b\n'", "-"])
def test_file_names_of_every_kind_are_written(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(name, {}, [])
    assert os.listdir() == [name]
    without_nameless_files(monkeypatch)
    append(name, save(name, {}, []), {}, [], [])
    load(name)
    assert os.listdir() == [name]


def test_only_files_are_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, error, code in [
        ("", IsADirectoryError, errno.EISDIR),
        ("pipe", OSError, errno.EINVAL),
        ("missing/file", FileNotFoundError, errno.ENOENT),
        ("x" * 256, OSError, errno.ENAMETOOLONG),
    ]:
        with pytest.raises(error) as caught:
            save(tmp_path / name, {}, [])
        assert caught.value.errno == code
        assert str(caught.value).endswith(f"'{tmp_path / name}'")
    assert os.listdir(tmp_path) == ["pipe"]


def test_replacing_keeps_the_file_names_in_errors_of_its_block(path):
    with pytest.raises(FileNotFoundError, match="'elsewhere'"), replacing(path):
        os.unlink("elsewhere")
    with pytest.raises(OSError, match="no number"), replacing(path):
        raise OSError("no number")


# ---- Memory ------------------------------------------------------------------------------------


FOOTPRINT = """
import sys, numpy as np
from resmem._base.errors import FileFormatError
from resmem._files.container import Section, append, load, save
def highest():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
rows = np.memmap(sys.argv[1], np.float32, "r")
before = highest()
version = save(sys.argv[2], {}, [Section("a", rows)])
loaded = load(sys.argv[2])
append(sys.argv[2], version, {}, [], [Section("b", loaded.arrays["a"].reshape(-1, 4)[3:])])
print(highest() - before)
"""


def test_saving_mapped_files_takes_little_memory(tmp_path):
    size = 160 << 20
    with open(tmp_path / "rows", "wb") as file:
        file.truncate(size)
    command = [sys.executable, "-c", FOOTPRINT, tmp_path / "rows", tmp_path / "saved"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 64


def test_pages_are_released_of_read_only_maps_only(path):
    """Changes of a private map would be lost with its pages."""
    values = np.arange(TWO_CHUNKS // 4, dtype=np.int32)
    path.write_bytes(values.tobytes())
    changed = np.memmap(path, np.int32, "c")
    changed += 1
    save(path.with_name("saved"), {}, [Section("a", changed)])
    assert np.array_equal(changed, values + 1)
    assert same(load(path.with_name("saved")).arrays, {"a": values + 1})


def test_the_folder_and_the_file_reach_the_disk_in_order(path, monkeypatch):
    """Data is synced before the name and before each slot, to survive a power failure."""
    events = []
    for name in ("fsync", "replace", "pwrite"):
        real = getattr(os, name)

        def watched(*args, real=real, name=name):
            place = args[2] if name == "pwrite" else None
            is_folder = name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode)
            slot = {4096: "slot 0", 8192: "slot 1"}.get(place)
            events.append(slot or (f"{name} folder" if is_folder else name))
            return real(*args)

        monkeypatch.setattr(os, name, watched)
    version = save(path, {}, [Section("a", some())])
    assert events[-4:] == ["pwrite", "fsync", "replace", "fsync folder"]
    events.clear()
    append(path, version, {}, ["a"], [Section("b", some())])
    assert events[-5:] == ["fsync", "slot 1", "fsync", "slot 0", "fsync"]
    path.write_bytes(path.read_bytes()[:4096] + bytes(4096) + path.read_bytes()[8192:])
    events.clear()
    append(path, load(path).version, {}, ["a"], [])
    assert events[-5:] == ["fsync", "slot 0", "fsync", "slot 1", "fsync"]  # the torn one first


def test_checksums_are_the_same_without_the_faster_library(tmp_path, monkeypatch):
    pytest.importorskip("isal")
    assert checksums._bulk_crc32() is not zlib.crc32
    rng = np.random.default_rng(3)
    arrays = [Section(str(n), rng.integers(0, 255, n, np.uint8)) for n in (1, 2**20, 3 * 2**20 + 5)]
    save(tmp_path / "fast", {}, arrays)
    monkeypatch.setattr(checksums, "_bulk_crc32", lambda: zlib.crc32)
    assert len(load(tmp_path / "fast").arrays) == 3
    save(tmp_path / "slow", {}, arrays)
    fast, slow = ((tmp_path / name).read_bytes() for name in ("fast", "slow"))
    assert fast[12288:] == slow[12288:]
