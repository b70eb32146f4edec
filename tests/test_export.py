"""Exports: plain arrays for other programs, checked when they come back."""

from __future__ import annotations

import json
import subprocess
import zipfile

import numpy as np
import pytest

import resmem
from resmem import _core
from resmem._files import export, formats

D, C = 4, 3
FORMS = ["m.npz", "m.safetensors"]
STORES = ["dense", "sparse:2", "head"]


def layer(rng):
    return rng.standard_normal((C, D)), rng.standard_normal(C)


def memory(task="classification", n=30, **options):
    """Return a memory of two segments, each with a removed row."""
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


def load(path, mem, **how):
    """Return the rows in an export of ``mem``."""
    return export.load(path, **how).rows(mem._state.view.spec.schema)[0]


# ---- Layout ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("store", STORES)
def test_an_export_is_mapped_and_not_read(tmp_path, form, store):
    memory(store=store).export(tmp_path / form)
    for name, opened in formats.members(str(tmp_path / form)).items():
        assert isinstance(opened(), np.memmap), name
    (segment,) = resmem.Memory.load(tmp_path / form)._state.view.rows.segments
    for array in segment.arrays.values():
        assert not array.flags.owndata
        assert not array.flags.writeable


def test_bfloat16_keys_in_safetensors_are_mapped_too(tmp_path):
    mem = memory(key_dtype="bfloat16").export(tmp_path / "m.safetensors")
    twin = resmem.Memory.load(tmp_path / "m.safetensors")
    keys = twin._state.view.rows.segments[0]["keys"]
    assert not keys.flags.owndata
    assert keys.tobytes() == b"".join(
        s["keys"][s.living(1)].tobytes() for s in mem._state.view.rows.segments
    )


def test_the_data_of_every_array_in_a_npz_is_aligned(tmp_path):
    path = tmp_path / "m.npz"
    memory().export(path)
    for opened in formats.members(str(path)).values():
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


# ---- Retired ids -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_an_export_remembers_the_ids_of_removed_rows(tmp_path, form):
    mem = memory().remove(range(4, 9)).export(tmp_path / form)
    twin = resmem.Memory.load(tmp_path / form)
    assert twin._state.view.rows.retired.tolist() == [[3, 8], [31, 31]]
    one = np.zeros((1, D)), np.zeros((1, C)), [0]
    for each in (mem, twin):
        for used in (3, 6, 31, 34):
            with pytest.raises(ValueError, match=f"must never have been used before .* {used}$"):
                each.add(*one, ids=[used])
        assert each.add(*one)._state.view.rows.next_id == 36


def test_a_memory_whose_rows_are_all_removed_comes_back_empty(tmp_path):
    memory().remove([i for i in range(35) if i not in (3, 31)]).export(tmp_path / "m.npz")
    twin = resmem.Memory.load(tmp_path / "m.npz")
    assert (len(twin), twin._state.view.rows.retired.tolist()) == (0, [[0, 34]])


def test_export_without_retired_ids_has_none(tmp_path):
    arrays = exported(tmp_path)
    del arrays["retired"]
    np.savez(tmp_path / "m.npz", **arrays)
    assert len(resmem.Memory.load(tmp_path / "m.npz")._state.view.rows.retired) == 0


# ---- What is checked -------------------------------------------------------------------------


def exported(folder, *args, **options):
    """Return the arrays of an export."""
    memory(*args, **options).export(folder / "good.npz")
    with np.load(folder / "good.npz") as found:
        return dict(found)


def changed(array, value, at=5):
    """Return a copy with another value in one row."""
    array = array.copy()
    array[at] = value
    return array


def refused(folder, arrays, match):
    np.savez(folder / "bad.npz", **arrays)
    with pytest.raises(resmem.FileFormatError, match=match) as caught:
        resmem.Memory.load(folder / "bad.npz")
    assert str(folder / "bad.npz") in str(caught.value)


NAN, INF = np.nan, np.inf


@pytest.mark.parametrize(
    ("options", "name", "value", "match"),
    [
        ({}, "ids", -1, "ids must not be negative, got -1 at row 5"),
        ({}, "ids", 7, "ids must be unique, got 7 more than once"),
        ({}, "ids", 31, "ids holds 31, which is retired"),
        ({}, "embeddings", NAN, "embeddings: row 5 holds NaN"),
        ({}, "targets", C, "targets: row 5 holds no class from 0 to 2"),
        ({}, "targets", -1, "targets: row 5 holds no class"),
        ({}, "outputs", NAN, "outputs: row 5 holds NaN"),
        ({}, "outputs", INF, "outputs: row 5 holds NaN or infinity"),
        ({}, "outputs", -INF, "outputs: row 5 is -inf throughout"),
        ({}, "residuals", INF, "residuals: row 5 holds NaN or infinity"),
        ({"residual_dtype": "float16"}, "residuals", NAN, "residuals: row 5 holds NaN"),
        ({"store": "sparse:1"}, "index", C, "index: row 5 holds no class from 0 to 2"),
        ({"store": "sparse:1"}, "index", -1, "index: row 5 holds no class"),
        ({"store": "sparse:1"}, "value", NAN, "value: row 5 holds NaN"),
        ({"store": "sparse:1"}, "rest", -INF, "rest: row 5 holds NaN or infinity"),
        ({"store": "head"}, "targets", C, "targets: row 5 holds no class"),
        ({"store": "head"}, "head_bias", NAN, "head_weight or head_bias holds NaN"),
        ({"store": "head"}, "head_weight", INF, "head_weight or head_bias holds NaN"),
        ({"task": "regression"}, "targets", NAN, "targets: row 5 holds NaN"),
        ({"task": "regression"}, "outputs", INF, "outputs: row 5 holds NaN"),
    ],
)
def test_values_that_no_memory_stores_are_refused(tmp_path, options, name, value, match):
    arrays = exported(tmp_path, **options)
    at = 1 if name.startswith("head") else 5
    refused(tmp_path, {**arrays, name: changed(arrays[name], value, at)}, match)


def test_probabilities_that_do_not_sum_to_1_are_refused(tmp_path):
    rng = np.random.default_rng(1)
    base = np.full((9, C), 1 / 3)
    mem = resmem.Memory(output_kind="probabilities", k=2, sigma=1.0)
    mem.fit(rng.standard_normal((9, D)), base, [0] * 9).export(tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz") as found:
        arrays = dict(found)
    refused(tmp_path, {**arrays, "outputs": changed(base.astype("f4"), 0.1)}, "row 5 sums to 0.3")


def test_infinite_logits_are_no_error(tmp_path):
    outputs = np.array([[0, -np.inf, 1], [1, 2, 3]])
    mem = resmem.Memory(k=1, sigma=1.0).fit(np.eye(2), outputs, [0, 1])
    mem.export(tmp_path / "m.npz")
    assert len(resmem.Memory.load(tmp_path / "m.npz")) == 2


@pytest.mark.parametrize(
    ("runs", "match"),
    [
        ([3, 8], r"retired is int64 \(2,\), expected int64 \(2, 2\)"),
        ([[3, 8, 9]], r"retired is int64 \(1, 3\)"),
        ([[3.0, 8.0]], "retired is float64"),
        ([[8, 3]], "ascending order"),
        ([[50, 60], [40, 45]], "ascending order"),
        ([[40, 50], [50, 60]], "ascending order"),
        ([[-1, -1]], "ascending order"),
        ([[30, 40]], "ids holds 30, which is retired"),
    ],
)
def test_runs_of_retired_ids_that_make_no_sense_are_refused(tmp_path, runs, match):
    refused(tmp_path, {**exported(tmp_path), "retired": np.array(runs)}, match)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"error": float("nan")}, "error is nan"),
        ({"error": float("inf")}, "error is inf"),
        ({"error": 10**400}, "error is 1000"),
        ({"output_kind": None}, "output_kind is missing"),
        ({"next_id": 2**63 + 1}, "next_id is 9223372036854775809, expected a whole number"),
        ({"columns": C + 1}, r"outputs is float32 \(33, 3\), expected float32 \(33, 4\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, change, match):
    arrays = exported(tmp_path)
    text = json.dumps({**json.loads(arrays["resmem"].tobytes()), **change})
    refused(tmp_path, {**arrays, "resmem": np.frombuffer(text.encode(), np.uint8)}, match)


@pytest.mark.parametrize(
    ("preprocess", "name", "value", "match"),
    [
        ("center", "mean", NAN, "the numbers of its preprocess hold NaN or infinity"),
        ("standardize", "scale", INF, "the numbers of its preprocess hold NaN or infinity"),
        ("standardize", "scale", 0, "the scale of its preprocess is not positive"),
        ("pca:2", "weight", NAN, "the numbers of its preprocess hold NaN or infinity"),
        ("whiten:2", "bias", -INF, "the numbers of its preprocess hold NaN or infinity"),
    ],
)
def test_damaged_preprocess_of_an_export_is_refused(tmp_path, preprocess, name, value, match):
    arrays, name = exported(tmp_path, preprocess=preprocess), f"preprocess_{name}"
    refused(tmp_path, {**arrays, name: changed(arrays[name], value, 1)}, match)
    got = rf"{name} is nothing, expected float(32|64) "
    refused(tmp_path, {each: a for each, a in arrays.items() if each != name}, got)
    refused(tmp_path, {**arrays, name: arrays[name][..., :1]}, rf"{name} is float(32|64) \(")


def test_embeddings_of_an_export_are_preprocessed_keys(tmp_path):
    arrays = exported(tmp_path, preprocess="pca:2")
    assert arrays["embeddings"].shape == (33, 2)
    assert arrays["preprocess_weight"].shape == (2, D)
    assert json.loads(arrays["resmem"].tobytes())["d"] == D
    refused(
        tmp_path,
        {**arrays, "embeddings": np.zeros((33, D), np.float32)},
        r"embeddings is float32 \(33, 4\), expected float32 \(33, 2\)",
    )


def test_a_head_must_have_the_shape_of_the_memory(tmp_path):
    arrays = exported(tmp_path, store="head")
    narrow = {**arrays, "head_weight": arrays["head_weight"][:, :-1]}
    refused(tmp_path, narrow, r"head_weight is float32 \(3, 3\), expected float32 \(3, 4\)")


def test_a_changed_byte_of_a_npz_is_found(tmp_path):
    path = tmp_path / "m.npz"
    mem = memory(n=3000).export(path)
    content = bytearray(path.read_bytes())
    content[formats.members(str(path))["residuals"]().offset + 20_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(resmem.FileFormatError, match=r"m.npz.*Bad CRC-32.*residuals.npy"):
        resmem.Memory.load(path)
    assert len(load(path, mem, verify=False)) == 3003


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("key_dtype", ["float32", "bfloat16"])
def test_progress_adds_up_to_the_bytes_to_verify(tmp_path, form, store, key_dtype):
    path, counts = tmp_path / form, []
    mem = memory(store=store, key_dtype=key_dtype).export(path)
    load(path, mem, progress=counts.append)
    assert sum(counts) == export.bytes_to_verify(path) > 33 * D * 2
    load(path, mem, verify=False, progress=lambda _: pytest.fail("nothing was to be verified"))


def test_rows_are_checked_block_by_block(tmp_path, monkeypatch):
    mem, looked_at = memory(n=3000).export(tmp_path / "m.npz"), []
    inspect = _core.inspect_rows
    monkeypatch.setattr("resmem._base.blocks._BLOCK_BYTES", 4096)
    monkeypatch.setattr(
        _core, "inspect_rows", lambda rows: looked_at.append(len(rows)) or inspect(rows)
    )
    assert len(load(tmp_path / "m.npz", mem)) == sum(looked_at) == 3003
    assert max(looked_at) == 4096 // (8 * D)
