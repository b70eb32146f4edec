"""The device that a caller names, what is missing for it, and arrays on other devices."""

from __future__ import annotations

import numpy as np
import pytest

from devices import (
    CUDA,
    MANAGED,
    PINNED,
    Emulated,
    Exporter,
    Extension,
    Interface,
    address_of,
    extension,
    unloadable,
)
from resmem._base.errors import DeviceError
from resmem._devices.choice import choose
from resmem._devices.device import CPU, Device
from resmem._devices.places import check_places

ROWS = np.ones((4, 3), dtype=np.float32)
OLD = Extension(capabilities=((7, 5), (6, 1)))


def on(ordinal, kind=CUDA):
    return Exporter(ROWS, (kind, ordinal))


# ---- names ---------------------------------------------------------------------------------------


def test_the_cpu_needs_no_extension():
    with extension(None):
        assert choose("cpu", {"rows": ROWS}) == CPU
    assert str(CPU) == "cpu"


@pytest.mark.parametrize(
    ("name", "arrays", "ordinal"),
    [
        ("cuda", {}, 0),
        ("cuda", {"queries": ROWS}, 0),
        ("cuda", {"queries": ROWS, "rows": on(1)}, 1),
        ("cuda:0", {}, 0),
        ("cuda:1", {}, 1),
        ("cuda:01", {}, 1),
        ("cuda:1", {"queries": on(1), "rows": on(1, MANAGED)}, 1),
        ("cuda:0", {"queries": on(1, PINNED)}, 0),
        ("auto", {"rows": on(1)}, 1),
    ],
)
def test_a_name_chooses_its_device(name, arrays, ordinal):
    with extension(Extension()) as made:
        chosen = choose(name, arrays)
    assert chosen == Device("cuda", ordinal, made)
    assert str(chosen) == f"cuda:{ordinal}"


def test_the_emulated_device_has_an_extension_of_its_own():
    with extension(None), extension(Extension(), "resmem._cuda_emulated") as made:
        assert choose("cuda:emulated", {}) == Device("emulated", 0, made)
        assert [str(choose(f"cuda:emulated:{n}", {})) for n in (0, 1)] == [
            "cuda:emulated",
            "cuda:emulated:1",
        ]


@pytest.mark.parametrize(
    "made",
    [None, Extension(driver=0), Extension(driver=12080), Extension(capabilities=()), OLD],
    ids=["no extension", "no driver", "old driver", "no device", "old device"],
)
def test_auto_is_the_cpu_but_for_arrays_on_a_device(made):
    with extension(made):
        assert choose("auto", {"rows": ROWS}) == CPU
        with pytest.raises(DeviceError):
            choose("auto", {"rows": on(0)})
    with extension(Extension()):
        assert choose("auto", {"rows": ROWS}) == CPU


def test_the_address_tells_the_device_of_the_older_interface():
    made = Extension(memory={address_of(ROWS): 1})
    with extension(made):
        assert choose("cuda", {"rows": Interface(ROWS)}) == Device("cuda", 1, made)
        empty = Interface(ROWS[:0])
        assert choose("cuda:1", {"rows": empty}) == Device("cuda", 1, made)


@pytest.mark.parametrize(
    "name", ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda: 1", "cuda:٣", "cpu:0", "cuda:12345"]
)
def test_another_name_is_refused(name):
    with extension(Extension()), pytest.raises(ValueError, match=r"^device must be 'cpu', 'cuda'"):
        choose(name, {})


@pytest.mark.parametrize("value", [None, 0, b"cuda", True, ROWS, object()])
def test_another_type_is_refused(value):
    with pytest.raises(TypeError, match=r"^device must be a string, 'cpu'"):
        choose(value, {})


def test_numbers_end_with_the_last_device():
    with extension(Extension()), pytest.raises(ValueError, match=r"'cuda:1', got 'cuda:2'$"):
        choose("cuda:2", {})


# ---- what is missing -----------------------------------------------------------------------------


@pytest.mark.parametrize(("driver", "runtime"), [(13000, 13050), (13050, 13000), (14000, 13000)])
def test_a_driver_of_the_same_or_a_later_major_version_serves(driver, runtime):
    with extension(Extension(driver, runtime)):
        assert choose("cuda", {}).kind == "cuda"


@pytest.mark.parametrize(
    ("driver", "runtime", "words"),
    [
        (0, 13000, ("CUDA 13.0", "none", "580")),
        (0, 12080, ("CUDA 12.0", "none", "525")),
        (0, 14000, ("CUDA 14.0", "none", "the latest release")),
        (12040, 13050, ("CUDA 13.0", "CUDA 12.4", "580", "RESMEM_CUDA=on")),
    ],
)
def test_a_missing_or_old_driver_is_said_in_words(driver, runtime, words):
    with extension(Extension(driver, runtime)), pytest.raises(DeviceError) as caught:
        choose("cuda:1", {})
    assert "device='cuda:1'" in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == []


def test_the_device_is_looked_for_only_if_the_driver_serves():
    """Without a driver, CUDA would answer the other questions with errors of its own."""

    class Silent(Extension):
        def device_count(self):
            raise AssertionError("asked")

    with extension(Silent(driver=0)), pytest.raises(DeviceError):
        choose("cuda", {})


def test_another_device_is_named_where_one_is_too_old():
    with extension(Extension(capabilities=((7, 5), (9, 0)))):
        with pytest.raises(DeviceError, match=r"7\.5 \(Toaster\); use device='cuda:1'$"):
            choose("cuda", {})
        assert choose("cuda:1", {}).ordinal == 1


def test_an_extension_that_cannot_be_loaded_says_why():
    """It is there: not the same as a build without it."""
    with unloadable("resmem._cuda", "libdl.so.9: wrong"):
        with pytest.raises(DeviceError, match=r"cannot be loaded \(libdl\.so\.9: wrong\)"):
            choose("cuda", {})
        assert choose("auto", {}) == CPU


def test_the_emulated_extension_answers_like_the_stand_in(emulated):
    emulated.reset_devices()
    faults = emulated.faults()
    try:
        faults.devices = 2
        assert choose("cuda:emulated:1", {}) == Device("emulated", 1, emulated)
        rows = Emulated(emulated, ROWS, 1)
        assert choose("cuda:emulated", {"rows": rows}) == Device("emulated", 1, emulated)
        with pytest.raises(
            ValueError, match=r"^rows lies on cuda:emulated:1, but device is 'cuda:em"
        ):
            choose("cuda:emulated:0", {"rows": rows})
        faults.major = 7
        with pytest.raises(DeviceError, match=r"got 'cuda:emulated' with 7\.0 \(emulated device\)"):
            choose("cuda:emulated:0", {})
        faults.driver = 0
        with pytest.raises(DeviceError, match=r"got none; install release 580"):
            choose("cuda:emulated", {})
    finally:
        emulated.reset_devices()


# ---- arrays on other devices ---------------------------------------------------------------------


def test_arrays_in_host_memory_may_be_passed_to_any_device():
    for device in (CPU, Device("cuda", 1, Extension())):
        check_places({"queries": ROWS, "rows": ROWS.tolist(), "k": 3, "out": None}, device)


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        ("cuda", (on(1), on(0)), "rows lies on cuda:0, but queries on cuda:1; pass "),
        ("cuda:0", (on(0), on(1)), "rows lies on cuda:1, but queries on cuda:0; pass "),
        (
            "cuda:0",
            (ROWS, on(1)),
            "rows lies on cuda:1, but device is 'cuda:0'; pass device='cuda:1",
        ),
        ("cpu", (ROWS, on(1)), "rows lies on cuda:1, but device is 'cpu'; pass device='cuda:1'"),
        ("cpu", (on(0, MANAGED), ROWS), "queries lies on cuda:0, but device is 'cpu'"),
        (
            "cpu",
            (Interface(ROWS),),
            "queries lies on cuda, but device is 'cpu'; pass device='cuda'",
        ),
    ],
)
def test_an_array_apart_is_refused_by_name(name, arrays, message):
    with extension(Extension()), pytest.raises(ValueError) as caught:  # noqa: PT011 - compared
        choose(name, dict(zip(("queries", "rows"), arrays, strict=False)))
    assert str(caught.value).startswith(message)


def test_an_array_apart_from_its_memory_is_refused():
    for device, said in ((CPU, "cpu"), (Device("cuda", 0, Extension()), "cuda:0")):
        with pytest.raises(ValueError, match=rf"the memory on {said}; move it with memory\.to\('c"):
            check_places({"embeddings": on(1)}, device, in_memory=True)
