"""Exports: plain arrays for other programs, checked when they come back."""

from __future__ import annotations

import subprocess
import zipfile

import numpy as np
import pytest

import resmem
from resmem import _formats

D, C = 4, 3
FORMS = ["m.npz", "m.safetensors"]


def layer(rng):
    return rng.standard_normal((C, D)), rng.standard_normal(C)


def memory(task="classification", n=30, **options):
    """A memory with two segments, of which rows were removed."""
    rng = np.random.default_rng(0)
    if options.get("store") == "head":
        options["head"] = layer(rng)

    def rows(n):
        keys, values = rng.standard_normal((n, D)), rng.standard_normal((2, n, C))
        if task == "regression":
            return keys, *values
        return keys, None if "head" in options else values[0], rng.integers(0, C, n)

    mem = resmem.Memory(task, k=4, sigma=1.0, **options).fit(*rows(n))
    return mem.add(*rows(5)).remove([3, 31])


# ---- Layout ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("store", ["dense", "sparse:2", "head"])
def test_an_export_is_mapped_and_not_read(tmp_path, form, store):
    mem = memory(store=store, residual_dtype="float32" if store == "head" else "float16")
    mem.export(tmp_path / form)
    for name, opened in _formats.members(str(tmp_path / form)).items():
        array = opened()
        assert isinstance(array, np.memmap) or array.shape[0] == 0, name
    (segment,) = resmem.Memory.load(tmp_path / form)._snapshot.segments
    for array in segment.arrays.values():
        assert not array.flags.owndata
        assert not array.flags.writeable


def test_the_data_of_every_array_in_a_npz_is_aligned(tmp_path):
    path = tmp_path / "m.npz"
    memory().export(path)
    for opened in _formats.members(str(path)).values():
        assert opened().offset % 64 == 0
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        fields = [info.extra[:2] for info in archive.infolist()]
    assert fields == [b"\x35\xd9"] * len(fields)


def test_other_programs_read_a_npz(tmp_path):
    memory().export(tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz") as found:
        assert found["embeddings"].shape == (33, D)
    try:
        subprocess.run(["unzip", "-tq", tmp_path / "m.npz"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("unzip is not installed")
