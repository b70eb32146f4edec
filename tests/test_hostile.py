"""Arrays that change during a call, and malformed tensors, cause an ordinary error at worst.

What could end the process runs in processes of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import resmem
from resmem import _core

PATIENCE = 300
TESTS = Path(__file__).parent


def run(*arguments):
    """Run a Python process that finds the modules of these tests."""
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, paths))},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("script", ["hostile.py", "soak.py"])
def test_short_run_of_hostile_or_soak_finds_no_fault(script):
    done = run(str(TESTS / script), "--seconds", "2", "--seed", "5")
    assert (done.returncode, done.stderr) == (0, "")
    assert "calls" in done.stdout


WRITTEN = """
import sys, threading, time, warnings
import numpy as np
import resmem
warnings.simplefilter("ignore")
sys.setswitchinterval(1e-6)
rng = np.random.default_rng(0)
z, logits = rng.random((2000, 3), dtype=np.float32), rng.random((2000, 4), dtype=np.float32)
classes = rng.integers(0, 4, 2000)
mem = resmem.Memory(k=5, sigma=1.0).fit(z, logits, classes)
near, apart = rng.integers(0, 2000, (9000, 20)), np.sort(rng.random((9000, 20)), axis=1)
columns, targets = rng.integers(0, 4, (2000, 3)), classes.copy()
one = {"k": [3], "sigma": [1.0], "temperature": [1.0], "strength": [1.0]}
array, call = {
    "ids": (near, lambda: resmem.aggregate(apart, near, logits, 0.5)),
    "ids of a memory": (near, lambda: mem.aggregate(apart, near)),
    "columns": (columns, lambda: mem.correct(z, logits, columns=columns)),
    "targets": (targets, lambda: mem.tune(z + 1, logits, targets, **one)),
    "targets of evaluate": (targets, lambda: mem.evaluate(z + 1, logits, targets)),
    "targets of fit": (targets, lambda: resmem.Memory(store="sparse:2").fit(z, logits, targets)),
}[sys.argv[1]]
good, stop = array[-1].copy(), time.monotonic() + float(sys.argv[2])

def write():
    while time.monotonic() < stop:
        for value in (2**40, good):
            array[-1] = value
            time.sleep(0)

threading.Thread(target=write, daemon=True).start()
while time.monotonic() < stop:
    try:
        call()
    except ValueError:  # names the number that was there when it was checked
        pass
"""


@pytest.mark.parametrize(
    "name",
    ["ids", "ids of a memory", "columns", "targets", "targets of evaluate", "targets of fit"],
)
def test_indices_are_used_as_they_were_checked(name):
    done = run("-c", WRITTEN, name, "4")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint64])
def test_integers_are_copied_before_they_are_checked(dtype):
    given = np.arange(3, dtype=dtype)
    own = resmem._base.convert.integers(given, "ids", "(n,)")
    given[:] = 9
    assert list(own) == [0, 1, 2]
    assert own.dtype == np.int64
    assert own.flags.c_contiguous


def test_inspect_rows_ends_when_a_thread_mends_the_bad_row():
    """Another thread makes the row finite again before it is looked for in its block."""
    done = run(
        "-c",
        """
import sys, threading, time
import numpy as np
from resmem import _core
sys.setswitchinterval(1e-6)
rows, stop = np.zeros((20000, 64), np.float32), time.monotonic() + 2
def write():
    while time.monotonic() < stop:
        rows[-1, -1] = np.nan
        time.sleep(0)
        rows[-1, -1] = 0
threading.Thread(target=write, daemon=True).start()
while time.monotonic() < stop:
    assert -1 <= _core.inspect_rows(rows, _core.Execution(1))[1] < len(rows)
""",
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_nan_confidence_falls_into_a_bin():
    base, labels = np.full((2, 3), np.nan), np.zeros(2, dtype=np.int64)
    sums = _core.sweep(
        np.zeros((1, 3), np.float32), np.zeros((2, 1)), np.zeros((2, 1), np.int64), base, labels,
        [0, 2], [1], [1.0], [1.0], [("clip", 1e-6)], "calibration", 4,
    )  # fmt: skip
    assert sums[0, 0, 0, 0, 0, 0::3].sum() == 2


TENSORS = """
import sys
import numpy as np
import resmem
from test_memory import NEW_CAPSULE, Bfloat16
import ctypes

class Wrong(Bfloat16):
    def __init__(self, case):
        super().__init__(np.zeros((2, 3), np.uint16))
        self.case, tensor = case, self._tensor.tensor
        if case == "no data":
            tensor.data = None
        elif case == "a negative size":
            tensor.shape[0] = -2
        elif case == "a huge size":
            tensor.shape[0] = 2**62
        elif case == "no shape":
            tensor.shape = None
        elif case == "a negative number of dimensions":
            tensor.ndim = -1
        elif case == "many dimensions":
            sizes = (ctypes.c_int64 * 100)(*[1] * 100)
            tensor.shape, tensor.strides, tensor.ndim = sizes, None, 100

    def __dlpack__(self, **_):
        if self.case == "no capsule":
            return 5
        if self.case == "an error":
            raise ValueError("not now")
        names = {"no name": None, "a used capsule": b"used_dltensor", "another name": b"x"}
        return NEW_CAPSULE(
            ctypes.addressof(self._tensor), names.get(self.case, b"dltensor"), None
        )

wrong = Wrong(sys.argv[1])
try:
    resmem.search(wrong, np.zeros((1, 3)), 1)
except TypeError as error:
    assert str(error).startswith("queries cannot be read as an array: Wrong"), error
    assert wrong.deleted == 0
    print("refused")
"""


@pytest.mark.parametrize(
    "case",
    [
        "no name", "a used capsule", "another name", "no capsule", "an error", "no data",
        "a negative size", "a huge size", "no shape", "a negative number of dimensions",
        "many dimensions",
    ],
)  # fmt: skip
def test_malformed_tensors_are_refused(case):
    done = run("-c", TENSORS, case)
    assert (done.returncode, done.stdout, done.stderr) == (0, "refused\n", "")


def test_an_empty_tensor_may_have_no_data():
    from test_memory import Bfloat16

    tensor = Bfloat16(np.zeros((0, 3), np.uint16))
    tensor._tensor.tensor.data = None
    distances, _ = resmem.search(tensor, np.zeros((1, 3)), 1)
    assert distances.shape == (0, 1)
    assert tensor.deleted == 1
