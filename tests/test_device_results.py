"""Where results on a device go: to new arrays of the caller's library, or to those of ``out``."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import resmem
from devices import CUDA, Emulated, Exporter, Interface, address_of, device, libraries
from resmem._devices.arrays import read
from resmem._devices.buffer import DeviceBuffer
from resmem._devices.choice import choose
from resmem._devices.device import CPU
from resmem._devices.results import Maker, results_for
from resmem._devices.streams import stream_of

QUERIES = np.ones((2, 4), dtype=np.float32)
SHAPE = (2, 3)


class Memory:
    """Gives NumPy's memory as a device's, and notes what waits for what."""

    def __init__(self):
        self.owners, self.waits = [], []
        self.maker = Maker(self._allocate, lambda stream, other: self.waits.append((stream, other)))

    def _allocate(self, size):
        self.owners.append(np.empty(size, dtype=np.uint8))
        return address_of(self.owners[-1]), self.owners[-1]


def results(queries, out=None, where=None, shape=SHAPE, stream=0, memory=None):
    return results_for(queries, shape, out, where or device(), stream, (memory or Memory()).maker)


def pair(kind=lambda array: array, shape=SHAPE):
    return kind(np.zeros(shape)), kind(np.zeros(shape, dtype=np.int64))


# ---- new arrays ----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [CPU, device()])
def test_results_of_host_arrays_are_of_numpy(where):
    distances, ids = results(QUERIES, where=where)
    assert (distances.given.dtype, ids.given.dtype) == (np.float64, np.int64)
    for result in (distances, ids):
        assert result.given.shape == SHAPE
        assert result.target is result.given


@pytest.mark.parametrize("library", ["torch", "cupy", "numba"])
def test_results_are_arrays_of_the_callers_library(library):
    with libraries() as fakes:
        found = results(fakes.array(library, QUERIES, 1), where=device(1), stream=4096)
        for result, dtype in zip(found, ("float64", "int64"), strict=True):
            assert type(result.given) is fakes.arrays[library]
            assert (result.given.shape, result.given.dtype) == (SHAPE, dtype)
            assert result.target.address == address_of(result.given.array)
            assert (result.target.shape, result.target.dtype) == (SHAPE, dtype)
        assert (library, 1) in fakes.log


@pytest.mark.parametrize("stream", [4096, 0])
def test_memory_of_results_belongs_to_the_stream(stream):
    """Otherwise the library may give it to another stream before ours has written to it."""
    with libraries() as fakes:
        results(fakes.array("torch", QUERIES), stream=stream)
        assert ("torch stream", stream) in fakes.log
        results(fakes.array("cupy", QUERIES), stream=stream)
        assert ("cupy stream", 0, stream) in fakes.log
        del fakes.modules["cupy"].cuda.Stream.from_external  # as before CuPy 14
        results(fakes.array("cupy", QUERIES), stream=stream)
        assert ("old cupy stream", stream) in fakes.log


@pytest.mark.parametrize("kind", ["jaxlib._jax", "unknown"])
def test_results_for_other_libraries_are_buffers(kind):
    memory = Memory()
    with libraries() as fakes:
        queries = Exporter(QUERIES) if kind == "unknown" else fakes.array(kind, QUERIES)
        found = results(queries, stream=4096, memory=memory)
    for result, owner, dtype in zip(found, memory.owners, ("float64", "int64"), strict=True):
        assert isinstance(result.given, DeviceBuffer)
        assert (result.given.shape, result.given.dtype) == (SHAPE, dtype)
        assert result.given.address == result.target.address == address_of(owner)
        assert owner.nbytes == result.target.nbytes == 48
        assert (result.target.stream, result.target.read_only) == (None, False)


def test_results_without_numbers_take_no_memory():
    memory = Memory()
    for result in results(Exporter(QUERIES[:0]), shape=(0, 3), memory=memory):
        assert result.given.shape == (0, 3)
    assert memory.owners == []


# ---- the buffer ----------------------------------------------------------------------------------


def buffer(stream=4096, memory=None):
    return results(Exporter(QUERIES), stream=stream, memory=memory)[0].given


@pytest.mark.parametrize(
    ("taker", "waits"),
    [
        ({}, [(0, 4096)]),
        ({"stream": 1}, [(0, 4096)]),
        ({"stream": 2}, [(2, 4096)]),
        ({"stream": 4096}, []),
        ({"stream": -1}, []),
    ],
)
def test_who_takes_a_buffer_waits_for_it(taker, waits):
    memory = Memory()
    buffer(memory=memory).__dlpack__(**taker)
    assert memory.waits == waits


def test_the_legacy_stream_does_not_wait_for_itself():
    memory = Memory()
    buffer(0, memory).__dlpack__()
    assert memory.waits == []


def test_a_buffer_is_read_through_both_interfaces():
    made = buffer()
    first = read(made, "distances", device(0), 4096, ["float64"])
    older = Interface(QUERIES)
    older.__cuda_array_interface__ = made.__cuda_array_interface__
    where = device(0)
    where.extension.memory[made.address] = 0
    second = read(older, "distances", where, 4096, ["float64"])
    for array in (first, second):
        assert (array.address, array.shape, array.ordinal) == (made.address, SHAPE, 0)
        assert not array.read_only
    assert (first.stream, second.stream) == (None, 4096)
    assert buffer(0).__cuda_array_interface__["stream"] == 1


def test_a_buffer_gives_the_capsule_that_is_asked_for():
    names = [
        repr(buffer().__dlpack__(**options)).split('"')[1]
        for options in (
            {},
            {"max_version": (0, 8)},
            {"max_version": (1, 0)},
            {"max_version": (2, 0)},
        )
    ]
    assert names == ["dltensor", "dltensor", "dltensor_versioned", "dltensor_versioned"]


def test_a_buffer_is_not_copied():
    assert buffer().__dlpack__(dl_device=(CUDA, 0), copy=False)
    for options in ({"copy": True}, {"dl_device": (1, 0)}, {"dl_device": (CUDA, 1)}):
        with pytest.raises(BufferError, match=r"^the array lies on cuda:0, and is not copied; "):
            buffer().__dlpack__(**options)


# ---- out -----------------------------------------------------------------------------------------


def test_arrays_of_the_caller_are_written_to():
    given = pair()
    for result, array in zip(results(QUERIES, given), given, strict=True):
        assert result.given is result.target is array
    given = pair(Exporter)
    for result, array in zip(results(Exporter(QUERIES), list(given)), given, strict=True):
        assert result.given is array
        assert result.target.address == address_of(array.array)


def test_halves_of_one_array_may_be_passed():
    numbers = np.empty(12)
    halves = numbers[:6].reshape(SHAPE), numbers[6:].view(np.int64).reshape(SHAPE)
    results(QUERIES, halves)
    results(Exporter(QUERIES), tuple(map(Exporter, halves)))
    empty = pair(shape=(0, 3))
    results(QUERIES[:0], empty, shape=(0, 3))
    results(Exporter(QUERIES[:0]), tuple(map(Exporter, empty)), shape=(0, 3))


DISTANCES, IDS = pair()
WRONG = [
    ((DISTANCES.astype(np.float32), IDS), r"out\[0\] must have dtype float64, got float32; pass "),
    ((DISTANCES, IDS.astype(np.int32)), r"out\[1\] must have dtype int64, got int32; pass "),
    ((DISTANCES[:1], IDS), r"out\[0\] must have shape \(2, 3\), got \(1, 3\); pass "),
    ((DISTANCES, IDS.ravel()), r"out\[1\] must have shape \(2, 3\), got \(6,\); pass "),
    ((np.zeros((3, 2)).T, IDS), r"out\[0\] must be C-contiguous, got other strides; pass "),
    ((DISTANCES, DISTANCES.view(np.int64)), r"out\[1\] must share no memory with out\[0\], got "),
]


@pytest.mark.parametrize(("out", "said"), WRONG)
@pytest.mark.parametrize("on_device", [False, True])
def test_other_arrays_are_refused(on_device, out, said):
    queries = QUERIES
    if on_device:
        queries, out = Exporter(QUERIES), tuple(map(Exporter, out))
    with pytest.raises(ValueError, match=r"^" + said):
        results(queries, out)


def test_read_only_arrays_are_refused():
    locked = DISTANCES.copy()
    locked.flags.writeable = False
    with pytest.raises(ValueError, match=r"^out\[0\] must be writeable, got a read-only array"):
        results(QUERIES, (locked, IDS))
    with pytest.raises(ValueError, match=r"^out\[0\] must be writeable, got a read-only array"):
        results(Exporter(QUERIES), (Exporter(DISTANCES, read_only=True), Exporter(IDS)))
    with libraries() as fakes:
        queries, *out = (fakes.array("jaxlib._jax", array) for array in (QUERIES, DISTANCES, IDS))
        with pytest.raises(ValueError, match=r"^out\[0\] must be writeable, got a read-only array"):
            results(queries, out)


def test_arrays_on_the_other_side_are_refused():
    with pytest.raises(
        ValueError, match=r"^out\[0\] must be a NumPy array, as queries are in host"
    ):
        results(QUERIES, tuple(map(Exporter, (DISTANCES, IDS))))
    with pytest.raises(ValueError, match=r"^out\[0\] must lie on cuda:0, as queries do, got ndarr"):
        results(Exporter(QUERIES), (DISTANCES, IDS))
    apart = Exporter(DISTANCES, (CUDA, 1)), Exporter(IDS)
    with pytest.raises(ValueError, match=r"^out\[0\] must lie on cuda:0, .*, got one on cuda:1"):
        results(Exporter(QUERIES), apart)


@pytest.mark.parametrize("out", [DISTANCES, (DISTANCES,), (DISTANCES, IDS, IDS), 3, {}])
def test_anything_but_a_pair_is_refused(out):
    with pytest.raises(TypeError, match=r"^out must be a pair of arrays \(distances, ids\), got "):
        results(QUERIES, out)


@pytest.mark.parametrize(
    ("library", "new"),
    [
        ("torch", "torch.empty((2, 3), dtype=torch.float64, device='cuda:0')"),
        ("cupy", "cupy.empty((2, 3), dtype='float64')"),
        ("numba", "numba.cuda.device_array((2, 3), dtype='float64')"),
        ("jaxlib._jax", "out=None"),
    ],
)
def test_messages_make_an_array_of_the_callers_library(library, new):
    with libraries() as fakes, pytest.raises(ValueError) as caught:  # noqa: PT011 - compared
        results(fakes.array(library, QUERIES), (DISTANCES, IDS))
    assert str(caught.value).endswith(f"; pass {new}")


# ---- the whole way, in the emulation -------------------------------------------------------------


def searched(emulated, queries, rows, k, out):
    """Search as a call does, with arrays on any side; return what the caller gets."""
    where = choose("cuda:emulated", {"queries": queries, "rows": rows})
    stream = stream_of(None, (queries, rows), where)

    def allocate(size):
        owner = Emulated(emulated, np.zeros(size, np.uint8))
        return owner.address, owner

    numbers, keys = (
        array if isinstance(array, np.ndarray) else read(array, "array", where, stream, ["float32"])
        for array in (queries, rows)
    )
    maker = Maker(allocate, lambda stream, other: None)
    found = results_for(queries, (numbers.shape[0], k), out, where, stream, maker)
    kept = emulated.Rows(where.ordinal, "float32", keys.shape[1], "euclidean", stream)
    kept.extend(keys)
    values, ids = (result.target for result in found)
    emulated.search(
        numbers, [(kept, len(kept), 0)], k, "euclidean", values=values, ids=ids, stream=stream
    )
    emulated.wait()
    return [result.given for result in found]


RNG = np.random.default_rng(5)
SEVEN, NINETY = (RNG.standard_normal((n, 8), dtype=np.float32) for n in (7, 90))


def expected(k):
    return resmem.search(SEVEN, NINETY, k)


@pytest.mark.parametrize("written_to", [False, True])
@pytest.mark.parametrize("rows_there", [False, True])
@pytest.mark.parametrize("queries_there", [False, True])
def test_a_search_on_the_device_reads_and_writes_all_sides(
    emulated, queries_there, rows_there, written_to
):
    gc.collect()
    used, right = emulated.bytes_in_use(), expected(4)

    def place(array, there):
        return Emulated(emulated, array) if there else array.copy()

    out = [place(np.zeros_like(part), queries_there) for part in right] if written_to else None
    queries, rows = place(SEVEN, queries_there), place(NINETY, rows_there)
    found = searched(emulated, queries, rows, 4, out)
    assert out is None or [*map(id, found)] == [*map(id, out)]
    for given, part in zip(found, right, strict=True):
        if queries_there:
            data = emulated.copy_out(given.address, part.nbytes)
            given = np.frombuffer(data, part.dtype).reshape(part.shape)
        np.testing.assert_array_equal(given, part)
    del queries, rows, out, found, given
    gc.collect()
    assert emulated.bytes_in_use() == used
