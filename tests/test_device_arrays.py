"""Arrays on a device, read through DLPack or the CUDA array interface, and capsules of our own."""

from __future__ import annotations

import ctypes
import gc
import weakref

import numpy as np
import pytest

from devices import (
    CUDA,
    MANAGED,
    PINNED,
    Exporter,
    Interface,
    OldExporter,
    address_of,
    device,
    libraries,
    of_module,
)
from resmem import _core
from resmem._devices.arrays import is_on_device, ordinal_of, read, view
from test_memory import DELETER, NEW_CAPSULE, DataType, ManagedTensor
from test_memory import Device as Place

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
FLOATS = ("float32", "float64", "float16", "bfloat16")


def seen(value, *arrays, dtypes=FLOATS, stream=0):
    return read(value, "queries", device(0, ROWS, *arrays), stream, dtypes)


# ---- host or device ------------------------------------------------------------------------------


class Placeless:
    """A tensor without memory, or on several devices."""

    def __dlpack_device__(self):
        raise BufferError("it is everywhere")


@pytest.mark.parametrize(
    ("value", "on_device"),
    [
        (ROWS, False),
        ([[1.0]], False),
        (None, False),
        ("rows.npy", False),
        (Exporter(ROWS, (1, 0)), False),
        (Exporter(ROWS, (PINNED, 0)), False),
        (Placeless(), False),
        (Exporter(ROWS, (CUDA, 0)), True),
        (Exporter(ROWS, (MANAGED, 3)), True),
        (Interface(ROWS), True),
    ],
)
def test_arrays_on_a_device_are_told_from_others(value, on_device):
    assert is_on_device(value) == on_device


def test_dlpack_goes_before_the_older_interface():
    value = Exporter(ROWS, (CUDA, 1))
    value.__cuda_array_interface__ = Interface(ROWS).__cuda_array_interface__
    assert ordinal_of(value, device(0, ROWS)) == 1
    assert view(value, "rows", device(0, ROWS), 0).ordinal == 1


# ---- DLPack --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Exporter, OldExporter])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint64", "bool"])
def test_dlpack_says_where_the_numbers_are(kind, dtype):
    rows = ROWS.astype(dtype)
    array = seen(kind(rows, (MANAGED, 5)), dtypes=[dtype])
    assert (array.address, array.shape, array.dtype) == (address_of(rows), (4, 3), dtype)
    assert (array.ordinal, array.contiguous, array.stream) == (5, True, None)
    assert (array.item_bytes, array.nbytes) == (rows.itemsize, rows.nbytes)
    assert not array.read_only


def test_bfloat16_has_its_name():
    rows = np.zeros((2, 3), dtype=np.uint16)
    array = seen(Exporter(rows, dtype="bfloat16"))
    assert (array.dtype, array.nbytes) == ("bfloat16", 12)


@pytest.mark.parametrize(("stream", "asked"), [(0, 1), (2, 2), (4096, 4096)])
def test_the_producer_is_told_the_stream_that_will_read(stream, asked):
    """0 is not allowed there: the legacy default stream is 1."""
    new, old = Exporter(ROWS), OldExporter(ROWS)
    for value in (new, old):
        seen(value, stream=stream)
    assert new.asked == [(asked, (1, 0))]
    assert old.asked == [(asked, None)]


def test_a_producer_is_asked_on_the_device_of_its_array():
    """PyTorch takes the current stream of the current device for that of the array."""
    with libraries() as fakes:
        seen(fakes.array("torch", ROWS, ordinal=1))
    assert fakes.log == [("torch", 1)]


@pytest.mark.parametrize("kind", [Exporter, OldExporter])
def test_the_tensor_is_returned_when_the_array_goes(kind):
    rows = ROWS.copy()
    gone = weakref.ref(rows)
    array = seen(kind(rows))
    del rows
    gc.collect()
    assert gone() is not None
    del array
    gc.collect()
    assert gone() is None


def test_a_capsule_that_nobody_takes_is_returned_too():
    rows = ROWS.copy()
    gone = weakref.ref(rows)
    capsule = Exporter(rows).__dlpack__()
    del rows
    assert gone() is not None
    del capsule
    gc.collect()
    assert gone() is None


def test_only_new_capsules_can_say_read_only():
    assert seen(Exporter(ROWS, read_only=True)).read_only
    assert not seen(OldExporter(ROWS, read_only=True)).read_only
    with libraries() as fakes:
        assert seen(fakes.array("jaxlib._jax", ROWS)).read_only


@pytest.mark.parametrize(
    "rows",
    [ROWS[1:], ROWS[:0], ROWS[:, :0], ROWS[1:2, ::-1][:, :1], ROWS[:1, None, :1]],
)
def test_strides_of_single_numbers_do_not_count(rows):
    array = seen(Exporter(rows))
    assert array.shape == rows.shape
    assert array.nbytes == rows.nbytes


@pytest.mark.parametrize("kind", [Exporter, Interface])
@pytest.mark.parametrize("rows", [ROWS.T, ROWS[:, ::-1], ROWS[::2], ROWS[:, :2]])
def test_arrays_in_another_order_are_refused(kind, rows):
    with pytest.raises(
        ValueError, match=r"^queries must be C-contiguous, got other strides; pass "
    ):
        seen(kind(rows), rows)
    assert not view(kind(rows), "queries", device(0, rows), 0).contiguous


def test_numbers_between_their_places_are_refused():
    bytes_ = np.zeros(100, dtype=np.uint8)
    rows = np.ndarray((2, 3), np.float32, bytes_.data, offset=1 + (-address_of(bytes_)) % 4)
    with pytest.raises(ValueError, match=r"^queries must begin at a multiple of 4 bytes, got addr"):
        seen(Exporter(rows))


@pytest.mark.parametrize(
    ("rows", "hint"),
    [(ROWS.astype(int), "; pass a copy of queries of dtype float32"), (ROWS * 1j, "")],
)
def test_another_dtype_is_refused(rows, hint):
    with pytest.raises(TypeError) as caught:
        seen(Exporter(rows))
    said = f"queries must have dtype {' or '.join(FLOATS)}, got {rows.dtype}{hint}"
    assert str(caught.value) == said


def test_a_tensor_that_requires_grad_is_refused():
    value = Exporter(ROWS)
    value.requires_grad = True
    with pytest.raises(TypeError, match=r"^queries is a tensor that requires grad; pass queries\."):
        seen(value)


# ---- malformed tensors ---------------------------------------------------------------------------


class Version(ctypes.Structure):
    _fields_ = [("major", ctypes.c_uint32), ("minor", ctypes.c_uint32)]


class VersionedTensor(ctypes.Structure):
    _fields_ = [
        ("version", Version),
        ("manager_context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", ManagedTensor._fields_[0][1]),
    ]


class Raw:
    """A float32 tensor on a device that is described by hand."""

    def __init__(self, rows=ROWS, versioned=True, name=None, **changed):
        self.deleted, self.deleter = 0, DELETER(self._delete)
        self.kept = rows, (ctypes.c_int64 * rows.ndim)(*changed.pop("shape", rows.shape))
        self.managed = VersionedTensor() if versioned else ManagedTensor()
        self.name = name or (b"dltensor_versioned" if versioned else b"dltensor")
        self.managed.deleter = ctypes.cast(self.deleter, ctypes.c_void_p)
        if versioned:
            self.managed.version = Version(*changed.pop("version", (1, 3)))
        values = {
            "data": address_of(rows),
            "device": Place(CUDA, 0),
            "ndim": rows.ndim,
            "dtype": DataType(2, 32, 1),
            "shape": self.kept[1],
            **changed,
        }
        for field, value in values.items():
            setattr(self.managed.tensor, field, value)

    def _delete(self, _):
        self.deleted += 1

    def __dlpack_device__(self):
        return CUDA, 0

    def __dlpack__(self, **_):
        return NEW_CAPSULE(ctypes.addressof(self.managed), self.name, None)


@pytest.mark.parametrize("versioned", [False, True])
def test_without_strides_a_tensor_is_contiguous(versioned):
    value = Raw(versioned=versioned)
    array = seen(value)
    assert (array.address, array.shape, array.contiguous) == (address_of(ROWS), (4, 3), True)
    assert value.deleted == 0
    del array
    assert value.deleted == 1


def test_the_offset_of_a_tensor_is_added():
    assert seen(Raw(byte_offset=12)).address == address_of(ROWS) + 12


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"data": None}, "its tensor has no memory, or sizes below 0"),
        ({"shape": (4, -3)}, "its tensor has no memory, or sizes below 0"),
        ({"ndim": -1}, "its tensor has no memory, or sizes below 0"),
        ({"version": (2, 0)}, r"its capsule is of DLPack 2\.0, not 1"),
        ({"name": b"used_dltensor_versioned"}, "its capsule holds no tensor, or one that "),
        ({"name": b"other"}, "its capsule holds no tensor, or one that "),
    ],
)
def test_a_malformed_tensor_is_refused_and_left_alone(changed, said):
    value = Raw(**changed)
    with pytest.raises(TypeError, match=rf"^queries cannot be read as an array: Raw \({said}"):
        seen(value)
    assert value.deleted == 0


def test_a_tensor_without_numbers_needs_no_memory():
    array = seen(Raw(data=None, shape=(0, 3)))
    assert (array.shape, array.nbytes) == ((0, 3), 0)


def test_numbers_of_unknown_types_are_named_by_their_code():
    with pytest.raises(TypeError, match="got code 10 of 8 bits in 1 lanes; pass "):
        seen(Raw(dtype=DataType(10, 8, 1)))
    with pytest.raises(TypeError, match="got code 2 of 32 bits in 4 lanes; pass "):
        seen(Raw(dtype=DataType(2, 32, 4)))


class Broken(Exporter):
    """A library that refuses to give its array."""

    def __dlpack__(self, **_):
        raise BufferError("it is elsewhere")


class NoCapsule(Exporter):
    def __dlpack__(self, **_):
        return 3


@pytest.mark.parametrize("kind", [Broken, NoCapsule])
def test_a_library_that_gives_no_tensor_is_named(kind):
    with pytest.raises(TypeError, match=f"^queries cannot be read as an array: {kind.__name__} "):
        seen(kind(ROWS))


# ---- the CUDA array interface --------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
def test_the_older_interface_says_where_the_numbers_are(version):
    array = seen(Interface(ROWS, version=version))
    assert (array.address, array.shape, array.dtype) == (address_of(ROWS), (4, 3), "float32")
    assert (array.ordinal, array.contiguous, array.read_only, array.stream) == (
        0,
        True,
        False,
        None,
    )


@pytest.mark.parametrize(
    ("given", "waited_for"), [(None, None), (0, 0), (1, 0), (2, 2), (4096, 4096)]
)
def test_the_stream_of_the_older_interface_is_waited_for(given, waited_for):
    assert seen(Interface(ROWS, stream=given)).stream == waited_for


def test_the_older_interface_keeps_its_array():
    value = Interface(ROWS)
    assert seen(value).owner is value


def test_the_older_interface_with_strides_of_c_order():
    assert seen(Interface(ROWS, strides=(12, 4))).contiguous
    assert seen(Interface(ROWS[:1], strides=(999, 4))).contiguous


@pytest.mark.parametrize("address", [0, None])
def test_the_older_interface_without_numbers_has_no_address(address):
    array = seen(Interface(ROWS[:0], data=(address, False)))
    assert (array.address, array.shape, array.ordinal) == (0, (0, 3), 0)


def test_the_older_interface_can_say_read_only():
    assert seen(Interface(ROWS, data=(address_of(ROWS), True))).read_only


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"version": 1}, "version 1 of its interface is not 2 or 3"),
        ({"data": (8, False)}, "its address is one of host memory"),
        ({"shape": (4, -3)}, r"its shape is \(4, -3\)"),
        ({"shape": 4}, ".*"),
        ({"data": None}, ".*"),
        ({"typestr": "x"}, ".*"),
        ({"strides": (4,)}, ".*"),
    ],
)
def test_a_malformed_interface_is_refused(changed, said):
    with pytest.raises(
        TypeError, match=rf"^queries cannot be read as an array: Interface \({said}"
    ):
        seen(Interface(ROWS, **changed))


def test_an_interface_that_is_none_is_refused():
    value = Interface(ROWS)
    value.__cuda_array_interface__ = [1]
    with pytest.raises(TypeError, match=r"^queries cannot be read as an array: Interface "):
        seen(value)


def test_masks_and_other_byte_orders_are_refused():
    with pytest.raises(TypeError, match=r"^queries is a masked array; fill it or drop"):
        seen(Interface(ROWS, mask=Interface(ROWS > 3)))
    swapped = ROWS.astype(ROWS.dtype.newbyteorder())
    with pytest.raises(TypeError, match=f"got {swapped.dtype.str}; pass"):
        seen(Interface(swapped), swapped)


# ---- what messages tell to pass ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "contiguous", "converted", "on_host"),
    [
        ("torch", "{}.contiguous()", "{}.to(torch.float32)", "{}.cpu()"),
        ("torch.nn.parameter", "{}.contiguous()", "{}.to(torch.float32)", "{}.cpu()"),
        ("cupy._core", "cupy.ascontiguousarray({})", "{}.astype('float32')", "{}.get()"),
        (
            "numba.cuda.cudadrv.devicearray",
            "numba.cuda.to_device(numpy.ascontiguousarray({}.copy_to_host()))",
            "numba.cuda.to_device({}.copy_to_host().astype('float32'))",
            "{}.copy_to_host()",
        ),
        ("jaxlib._jax", "a C-contiguous copy of {}", "{}.astype('float32')", "numpy.asarray({})"),
    ],
)
def test_messages_name_what_the_library_has(module, contiguous, converted, on_host):
    with libraries():
        kind = of_module(module)
        for rows, hint in ((ROWS.T, contiguous), (ROWS.astype(np.int64), converted)):
            with pytest.raises((TypeError, ValueError)) as caught:
                seen(kind(rows))
            assert str(caught.value).endswith("; pass " + hint.format("queries"))
        with pytest.raises(TypeError) as caught:
            seen(of_module(module, Broken)(ROWS))
        assert str(caught.value).endswith("; pass " + on_host.format("queries"))


def test_a_derived_class_is_of_its_parent_library():
    class Mine(of_module("torch")):
        pass

    with libraries(), pytest.raises(ValueError, match=r"pass queries\.contiguous\(\)$"):
        seen(Mine(ROWS.T))


# ---- capsules of our own -------------------------------------------------------------------------


class Ours:
    def __init__(self, rows, versioned, **options):
        self.rows, self.options = rows, {"versioned": versioned, **options}

    def __dlpack_device__(self):
        return 1, 0

    def __dlpack__(self, **_):
        place = self.__dlpack_device__()
        shape, dtype = self.rows.shape, self.rows.dtype.name
        return _core.make_dlpack(
            address_of(self.rows), shape, dtype, place, self.rows, **self.options
        )


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "int64", "float16", "uint8", "bool", "complex128"])
def test_capsules_of_our_own_are_read_by_numpy(versioned, dtype):
    if versioned and np.lib.NumpyVersion(np.__version__) < "2.1.0":
        pytest.skip("this NumPy does not know capsules with a version")
    rows = ROWS.astype(dtype)
    np.testing.assert_array_equal(np.from_dlpack(Ours(rows, versioned)), rows)
    empty = np.from_dlpack(Ours(rows[:0], versioned))
    assert empty.shape == (0, 3)
    assert empty.dtype == rows.dtype


def test_capsules_of_unknown_types_are_not_made():
    with pytest.raises(ValueError, match="unknown dtype float8"):
        _core.make_dlpack(8, (1,), "float8", (1, 0), None)
    with pytest.raises(ValueError, match="one stride for each size"):
        _core.make_dlpack(8, (1,), "int8", (1, 0), None, strides=(1, 1))
