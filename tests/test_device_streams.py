"""Streams of any library, and the one that a call uses if it is given none."""

from __future__ import annotations

import numpy as np
import pytest

from devices import Exporter, Handle, Interface, Stream, device, libraries
from resmem._devices.device import CPU
from resmem._devices.streams import address_of, stream_of

ROWS = np.ones((4, 3), dtype=np.float32)


@pytest.mark.parametrize(
    ("stream", "address"),
    [
        (0, 0),
        (1, 0),
        (2, 2),
        (np.int64(4096), 4096),
        (2**64 - 1, 2**64 - 1),
        (Stream(__cuda_stream__=lambda: (0, 4096)), 4096),
        (Stream(__cuda_stream__=lambda: (0, 1)), 0),
        (Stream(cuda_stream=4096), 4096),
        (Stream(cuda_stream=0), 0),
        (Stream(ptr=4096), 4096),
        (Stream(handle=Handle(4096)), 4096),
        (Stream(handle=Handle(0)), 0),
        (Stream(handle=4096), 4096),
        (Stream(__cuda_stream__=lambda: (0, 8), cuda_stream=16, ptr=32), 8),
    ],
)
def test_a_stream_of_any_library_has_its_address(stream, address):
    assert address_of(stream) == address
    assert stream_of(stream, [ROWS], device()) == address


@pytest.mark.parametrize("stream", [True, "0", 0.0, object(), ROWS])
def test_what_is_no_stream_is_refused(stream):
    with pytest.raises(TypeError, match=r"^stream must be a stream of CUDA or its address, got "):
        address_of(stream)


@pytest.mark.parametrize("stream", [-1, 2**64])
def test_numbers_that_are_no_address_are_refused(stream):
    with pytest.raises(ValueError, match=f"^stream must be an address, got {stream}$"):
        address_of(stream)


@pytest.mark.parametrize(("library", "address"), [("torch", 64), ("cupy", 128), ("numba", 0)])
def test_the_current_stream_of_a_library_is_used(library, address):
    with libraries() as fakes:
        array = fakes.array(library, ROWS, ordinal=1)
        assert stream_of(None, [ROWS, array], device(1)) == address
        assert fakes.log == [(library, 1)]
        assert stream_of(5, [array], device(1)) == 5


def test_the_first_array_on_the_device_decides():
    with libraries() as fakes:
        arrays = [ROWS, fakes.array("cupy", ROWS), fakes.array("torch", ROWS)]
        assert stream_of(None, arrays, device()) == 128


@pytest.mark.parametrize("arrays", [[], [ROWS], [Exporter(ROWS)], [Interface(ROWS)]])
def test_without_a_known_library_it_is_the_legacy_stream(arrays):
    assert stream_of(None, arrays, device()) == 0


def test_the_cpu_has_no_streams():
    assert stream_of(None, [ROWS], CPU) == 0
    with pytest.raises(ValueError, match=r"^stream must be None where device is 'cpu', got 0; "):
        stream_of(0, [ROWS], CPU)
