"""What is asked of a device, and how its failures are told: on devices that the emulation plays."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAILED = "; device 0 cannot be used any more by this process: start a new one"


@pytest.fixture
def played(emulated):
    """The module of a device without faults, whose test releases all that it allocates."""
    emulated.reset_devices()
    before = emulated.bytes_in_use()
    yield emulated
    assert emulated.bytes_in_use() == before
    emulated.reset_devices()


# ---- which devices there are -----------------------------------------------------------------


def test_versions_are_those_of_driver_and_runtime(played):
    played.faults().driver, played.faults().runtime = 13010, 12080
    assert played.versions() == (13010, 12080)
    assert played.device_count() == 1


@pytest.mark.parametrize("driver", [0, 12080], ids=["no driver", "too old a driver"])
def test_devices_without_a_driver_that_serves_are_none(played, driver):
    played.faults().driver = driver
    assert played.device_count() == 0
    with pytest.raises(played.DeviceError) as refused:
        played.properties(0)
    assert str(refused.value) == (
        "there is no CUDA device that a driver knows, got 0; "
        'use device="cpu", or see whether nvidia-smi lists a device'
    )


def test_properties_are_those_of_the_device(played):
    faults = played.faults()
    faults.name, faults.major, faults.minor = "a small one", 12, 1
    faults.memory, faults.multiprocessors = 4096, 7
    assert played.properties(0) == {
        "name": "a small one", "major": 12, "minor": 1, "memory": 4096, "multiprocessors": 7,
    }  # fmt: skip


@pytest.mark.parametrize("number", [-1, 2])
@pytest.mark.parametrize("call", ["properties", "free_memory"])
def test_number_of_no_device_is_refused(played, call, number):
    played.faults().devices = 2
    with pytest.raises(played.DeviceError) as refused:
        getattr(played, call)(number)
    expected = f"the number of a device must be from 0 to 1, got {number}"
    assert str(refused.value) == expected


# ---- memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize("on_stream", [False, True])
def test_memory_holds_what_was_copied(played, on_stream):
    address = played.allocate(8, on_stream=on_stream)
    assert played.copy_out(address, 8) == b"\xff" * 8  # what was never written shows
    played.copy_in(address + 2, b"abc")
    assert played.copy_out(address, 8) == b"\xff\xffabc\xff\xff\xff"
    played.release(address)


def test_memory_belongs_to_the_device_that_was_current(played):
    played.faults().devices, played.faults().memory = 2, 100
    first, second = played.allocate(10), played.allocate(20, device=1)
    assert [played.device_of(first), played.device_of(second + 19)] == [0, 1]
    assert [played.free_memory(0), played.free_memory(1)] == [90, 80]
    assert played.device_of(id(first)) == -1
    played.release(first)
    played.release(second, device=1)
    assert played.device_of(first) == -1
    assert played.free_memory(0) == 100


def test_no_bytes_are_no_memory(played):
    assert played.allocate(0) == 0
    played.release(0)


def test_copies_beyond_an_allocation_are_refused(played):
    address = played.allocate(8)
    with pytest.raises(played.DeviceError, match=r"^copy_in: these 9 bytes must be memory of a de"):
        played.copy_in(address, b"too long.")
    with pytest.raises(played.DeviceError, match=r"^copy_out: these 8 bytes must be memory of a d"):
        played.copy_out(address + 1, 8)
    played.release(address)


@pytest.mark.parametrize("on_stream", [False, True])
def test_too_little_memory_is_told_with_its_bytes(played, on_stream):
    played.faults().memory = 3 << 20
    kept = played.allocate(1 << 20)
    with pytest.raises(played.OutOfDeviceMemory) as refused:
        played.allocate(5 << 19, on_stream=on_stream)
    error = refused.value
    assert (error.asked, error.free, error.total) == (5 << 19, 2 << 20, 3 << 20)
    assert str(error) == (
        "the device has 2.0 MiB of its 3.0 MiB free, and 2.5 MiB were asked for. Give a smaller "
        "workspace_bytes= (fewer queries at once), free other memory of the device, keep keys as "
        'key_dtype="float16", or use device="cpu"'
    )
    assert isinstance(error, played.DeviceError)
    assert isinstance(error, MemoryError)
    assert isinstance(error, RuntimeError)
    played.release(played.allocate(2 << 20, on_stream=on_stream))  # the device is well
    played.release(kept)


def test_allocations_fail_in_the_order_that_was_chosen(played):
    played.faults().succeeding_allocations, played.faults().failing_allocations = 1, 2
    first = played.allocate(1)
    for _ in range(2):
        with pytest.raises(played.OutOfDeviceMemory):
            played.allocate(1)
    for address in (first, played.allocate(1)):
        played.release(address)


def test_device_without_memory_pools_is_told(played):
    played.faults().memory_pools = False
    played.release(played.allocate(1))
    with pytest.raises(played.DeviceError) as refused:
        played.allocate(1, on_stream=True)
    assert str(refused.value) == (
        "device 0 must support memory pools, for memory in the order of a stream, and does not "
        '(some virtual machines lack them); use device="cpu"'
    )


def test_leaks_are_counted(played):
    before = played.bytes_in_use()
    address = played.allocate(100)
    assert played.bytes_in_use() == before + 100
    played.release(address)


def test_releasing_what_is_not_allocated_ends_the_process(emulated):
    script = (
        "from resmem import _cuda_emulated as device\n"
        "address = device.allocate(8)\n"
        "device.release(address)\n"
        "device.release(address)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode < 0
    assert "released what is no memory of device 0, or was released before" in done.stderr


# ---- failures --------------------------------------------------------------------------------


def test_failed_launch_names_the_kernel_and_ends_the_device(played):
    address = played.allocate(8)
    words = "kernel filter_tiles failed: invalid argument" + FAILED
    with pytest.raises(played.DeviceError) as first:
        played.fail_launch("filter_tiles", "invalid argument")
    assert str(first.value) == words
    for use in (
        lambda: played.free_memory(0),
        lambda: played.allocate(8),
        lambda: played.allocate(8, on_stream=True),
        lambda: played.copy_in(address, b"x"),
        lambda: played.copy_out(address, 1),
        lambda: played.wait(),
        lambda: played.fail_launch("another", "later"),
    ):
        with pytest.raises(played.DeviceError) as later:
            use()
        assert str(later.value) == words
    played.release(address)  # what is there can still be given back


def test_failure_of_a_kernel_shows_at_the_wait(played):
    played.faults().failing_wait = True
    with pytest.raises(played.DeviceError) as refused:
        played.wait()
    assert str(refused.value) == "work of the device failed" + FAILED


def test_a_device_that_failed_does_nothing_that_was_asked_before(played):
    """Callers have been told, and have given back the memory that they asked it to write."""
    address = played.allocate(8)
    lagging = 0
    for stream in range(1, 17):
        played.what_was_done(True)
        played.faults().failing_wait = True
        with pytest.raises(played.DeviceError):
            played.copy_out(address, 8, 0, stream)
        lagging += played.what_was_done(True) == []
        played.reset_devices()
        assert played.what_was_done(True) == []
    assert lagging > 0
    played.release(address)


def test_failure_of_one_device_leaves_the_other_usable(played):
    played.faults().devices = 2
    with pytest.raises(played.DeviceError):
        played.fail_launch("filter_tiles", "invalid argument", device=0)
    played.wait(device=1)
    with pytest.raises(played.DeviceError):
        played.wait(device=0)


# ---- the extension for devices of CUDA -------------------------------------------------------


def test_importing_resmem_imports_no_module_of_a_device():
    script = "import sys, resmem\nprint(*(name for name in sys.modules if 'cuda' in name))\n"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_extension_without_a_device_says_so():
    cuda = pytest.importorskip("resmem._cuda", reason="built without CUDA")
    driver, runtime = cuda.versions()
    assert runtime >= 12000
    if driver == 0:
        assert cuda.device_count() == 0
        assert cuda.device_of(id(cuda)) == -1
    with pytest.raises(cuda.DeviceError, match=r"^(there is no CUDA device|the number of a dev)"):
        cuda.properties(cuda.device_count())
    assert issubclass(cuda.OutOfDeviceMemory, (MemoryError, cuda.DeviceError))
