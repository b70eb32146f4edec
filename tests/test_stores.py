"""Key types and residual stores of a `Memory`: the oracle's bits, and what they cost."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
import resmem
from cases import same_bits

D, C = 4, 5
STORES = ["dense", "sparse:1", "sparse:3", "sparse:4", "sparse:9", "head"]


def examples(rng, n, kind="logits"):
    keys = rng.standard_normal((n, D)).astype(np.float32)
    outputs = rng.standard_normal((n, C)).astype(np.float32) * 3
    if kind == "probabilities":
        outputs = oracle.softmax(outputs).astype(np.float32)
    return keys, outputs, rng.integers(0, C, n)


def layer(rng):
    return (
        rng.standard_normal((C, D)).astype(np.float32),
        rng.standard_normal(C).astype(np.float32),
    )


def pair(rng, store, **options):
    head = layer(rng) if store == "head" else None
    options |= {"store": store, "head": head}
    return resmem.Memory(**options), oracle.OracleMemory(**options)


@settings(max_examples=settings().max_examples // 4)
@given(
    seed=st.integers(0, 2**31),
    store=st.sampled_from(STORES),
    kind=st.sampled_from(["logits", "probabilities"]),
    key_dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    half=st.booleans(),
    temperature=st.sampled_from([1.0, 0.4, 2.5]),
    strength=st.sampled_from([1.0, 0.3]),
    n=st.sampled_from([1, 7, 40]),
    k=st.sampled_from([1, 6, 50]),
)
def test_every_store_and_key_type_gives_the_oracles_bits(
    seed, store, kind, key_dtype, half, temperature, strength, n, k
):
    rng = np.random.default_rng(seed)
    kind = "logits" if store == "head" else kind
    both = mine, theirs = pair(
        rng,
        store,
        output_kind=kind,
        k=k,
        temperature=temperature if kind == "logits" else 1.0,
        strength=strength,
        key_dtype=key_dtype,
        residual_dtype="float16" if half and store != "head" else "float32",
    )
    keys, outputs, targets = examples(rng, n, kind)
    more, gone = examples(rng, 9, kind), rng.permutation(n)[: n // 3]
    for m in both:
        m.fit(keys, None if store == "head" else outputs, targets)
        m.add(more[0], None if store == "head" else more[1], more[2]).remove(gone)
    queries, given_outputs, _ = examples(rng, 6, kind)
    assert mine.sigma_ == theirs.sigma_
    assert mine.residual_error_ == theirs.residual_error_
    for got, wanted in zip(mine.kneighbors(queries), theirs.kneighbors(queries), strict=True):
        same_bits(got, wanted)
    same_bits(mine.correction(queries), theirs.correction(queries))
    for outputs in (given_outputs, None) if store == "head" else (given_outputs,):
        for method in ("correct", "predict", "predict_proba"):
            same_bits(
                getattr(mine, method)(queries, outputs), getattr(theirs, method)(queries, outputs)
            )
        for columns in (rng.integers(0, C, 3), rng.integers(0, C, (6, 2)), np.empty(0, int)):
            same_bits(
                mine.correct(queries, outputs, columns=columns),
                theirs.correct(queries, outputs, columns=columns),
            )
            same_bits(
                mine.correction(queries, columns=columns),
                theirs.correction(queries, columns=columns),
            )
    twin = pickle.loads(pickle.dumps(mine))
    same_bits(twin.correct(queries, given_outputs), mine.correct(queries, given_outputs))


@pytest.mark.parametrize("half", ["float16", "float32"])
def test_half_residuals_of_regression_give_the_oracles_bits(half):
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((30, D)).astype(np.float32)
    values, targets = rng.standard_normal((2, 30, 2))
    mine, theirs = (
        m("regression", "values", k=4, residual_dtype=half).fit(keys, values, targets)
        for m in (resmem.Memory, oracle.OracleMemory)
    )
    same_bits(mine.correct(keys, values), theirs.correct(keys, values))


def test_head_memory_equals_a_dense_memory_of_its_logits():
    rng = np.random.default_rng(1)
    weight, bias = layer(rng)
    keys, _, targets = examples(rng, 50)
    logits = oracle.head_logits(keys, weight, bias)
    dense = resmem.Memory(k=7).fit(keys, logits, targets)
    head = resmem.Memory(k=7, store="head", head=(weight, bias)).fit(keys, None, targets)
    queries = examples(rng, 9)[0]
    for temperature in (1.0, 0.5):
        dense.temperature = head.temperature = temperature
        same_bits(head.correction(queries), dense.correction(queries))
    assert head.nbytes < dense.nbytes


def test_a_head_may_be_a_linear_layer_without_bias():
    class Tensor:
        def __init__(self, values):
            self.values = values

        def detach(self):
            return self.values

    class Linear:
        weight, bias = Tensor(np.eye(C, D, dtype=np.float32)), None

    mem = resmem.Memory(k=1, store="head", head=Linear()).fit(np.eye(3, D), None, [0, 1, 2])
    same = resmem.Memory(k=1, store="head", head=(np.eye(C, D), None))
    same.fit(np.eye(3, D), None, [0, 1, 2])
    same_bits(mem.correct(np.eye(2, D)), same.correct(np.eye(2, D)))


def test_the_error_of_a_sparse_store_bounds_every_correction():
    rng = np.random.default_rng(2)
    keys, logits, targets = examples(rng, 200)
    queries = examples(rng, 40)[0]
    whole = resmem.Memory(k=9).fit(keys, logits, targets).correction(queries)
    errors = []
    for m in (1, 2, 3):
        mem = resmem.Memory(k=9, store=f"sparse:{m}").fit(keys, logits, targets)
        off = np.abs(mem.correction(queries) - whole).max()
        assert off <= mem.residual_error_ + 2**-23  # the float32 roundings of both
        errors.append(mem.residual_error_)
    assert errors[0] > errors[1] > 1e-3  # the bound is not trivial
    assert errors[2] < 2**-23  # the rest belongs to the only class left


def test_the_temperature_of_a_sparse_store_stays_that_of_fit():
    mem = resmem.Memory(store="sparse:2", k=3)
    mem.temperature = 2.0
    mem.fit(*examples(np.random.default_rng(3), 20))
    with pytest.raises(ValueError, match=r"temperature is fixed at fit for store='sparse:2' \(2\)"):
        mem.temperature = 1.0
    mem.temperature = 2.0
    assert mem.temperature == 2.0


def test_half_width_keys_take_half_the_space():
    rng = np.random.default_rng(4)
    rows = examples(rng, 1000)
    sizes = {
        dtype: resmem.Memory(k=3, key_dtype=dtype).fit(*rows).nbytes
        for dtype in ("float32", "float16", "bfloat16")
    }
    assert sizes["float32"] - sizes["float16"] == sizes["float32"] - sizes["bfloat16"] == 2000 * D


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounded_keys_are_searched_as_stored(dtype):
    rng = np.random.default_rng(5)
    keys, outputs, targets = examples(rng, 300)
    mem = resmem.Memory(k=5, sigma=1.0, key_dtype=dtype).fit(keys, outputs, targets)
    stored = oracle.round_keys(keys, dtype)
    assert not np.array_equal(stored, keys)
    assert (mem.kneighbors(stored, k=1)[0] == 0).all()
    assert mem._state.view.rows.segments[0].keys_max == np.abs(stored).max()
    for got, wanted in zip(mem.kneighbors(keys), oracle.search(keys, stored, 5), strict=True):
        same_bits(got, wanted)


def test_half_keys_that_need_no_conversion_are_borrowed():
    rng = np.random.default_rng(6)
    keys, outputs, targets = examples(rng, 30)
    keys = keys.astype(np.float16)
    mem = resmem.Memory(k=2, key_dtype="float16").fit(keys, outputs, targets, copy=False)
    assert np.shares_memory(mem._state.view.rows.segments[0]["keys"], keys)


def test_repr_and_info_name_the_store():
    rows = examples(np.random.default_rng(7), 20)
    mem = resmem.Memory(k=3, store="sparse:2", key_dtype="bfloat16", residual_dtype="float16")
    text = repr(mem.fit(*rows))
    assert "key_dtype='bfloat16', residual_dtype='float16', store='sparse:2')" in text
    info = mem.info()
    assert info["store"] == "sparse:2"
    assert info["rows"] == 20
    assert info["residual_error_"] == mem.residual_error_ > 0


# ---- Input that is read block by block -----------------------------------------------------


class OnDisk:
    """A data set that can only be sliced, and that keeps the length of its largest slice."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.most = 0

    def __getitem__(self, rows):
        part = self.array[rows]
        self.most = max(self.most, len(part))
        return part


def test_data_sets_are_read_block_by_block(monkeypatch):
    monkeypatch.setattr(resmem._base.blocks, "_BLOCK_BYTES", 2000)
    rng = np.random.default_rng(8)
    rows = examples(rng, 200)
    queries = examples(rng, 90)
    wanted = resmem.Memory(k=4).fit(*rows)
    sources = [OnDisk(part) for part in rows]
    mem = resmem.Memory(k=4).fit(*sources).add(*(OnDisk(part) for part in rows))
    assert all(0 < source.most < 50 for source in sources)
    asked = [OnDisk(part) for part in queries[:2]]
    mem.remove(range(200, 400))
    same_bits(mem.correct(*asked), wanted.correct(*queries[:2]))
    assert all(0 < source.most < 50 for source in asked)


@pytest.mark.parametrize("store", ["dense", "sparse:2"])
def test_columns_per_query_are_right_in_every_block(store, monkeypatch):
    rng = np.random.default_rng(13)
    mem = resmem.Memory(k=4, sigma=1.0, store=store).fit(*examples(rng, 60))
    queries, outputs, _ = examples(rng, 50)
    columns = rng.integers(0, C, (50, 2))
    wanted = np.take_along_axis(mem.correct(queries, outputs), columns, axis=1)
    monkeypatch.setattr(resmem._base.blocks, "_BLOCK_BYTES", 1000)
    same_bits(mem.correct(queries, outputs, columns=columns), wanted)


class Foreign:
    """An array of another library, with a dtype of its own."""

    dtype = "float32 of another kind"

    def __init__(self, array):
        self.array, self.shape = array, array.shape

    def __getitem__(self, rows):
        raise AssertionError("read as a whole")

    def __array__(self, dtype=None, copy=None):
        return self.array


def test_arrays_of_other_libraries_are_converted_whole():
    rng = np.random.default_rng(10)
    keys, outputs, targets = examples(rng, 40)
    mem = resmem.Memory(k=4, sigma=1.0).fit(Foreign(keys), Foreign(outputs), Foreign(targets))
    same = resmem.Memory(k=4, sigma=1.0).fit(keys, outputs, targets)
    same_bits(mem.correct(Foreign(keys), Foreign(outputs)), same.correct(keys, outputs))
    same_bits(mem.kneighbors(OnDisk(keys))[1], same.kneighbors(keys)[1])


class Short(OnDisk):
    """A data set that gives fewer rows than asked for."""

    def __getitem__(self, rows):
        return super().__getitem__(rows)[:1]


def test_data_sets_that_give_too_few_rows_are_refused():
    rng = np.random.default_rng(11)
    rows = examples(rng, 40)
    mem = resmem.Memory(k=4, sigma=1.0).fit(*rows)
    message = r"asked for rows 0 to 39, got an array of shape \(1"
    for at in range(3):
        given_rows = [Short(part) if i == at else part for i, part in enumerate(rows)]
        with pytest.raises(ValueError, match=message):
            resmem.Memory(k=4).fit(*given_rows)
    for call in (mem.correction, mem.kneighbors, lambda z: mem.correct(z, rows[1])):
        with pytest.raises(ValueError, match=message):
            call(Short(rows[0]))
    with pytest.raises(ValueError, match=message):
        mem.correct(rows[0], Short(rows[1]))


def test_far_more_neighbours_than_rows_cost_nothing():
    rng = np.random.default_rng(12)
    rows = examples(rng, 40)
    mem = resmem.Memory(k=2**62, sigma=1.0).fit(*rows)
    same = resmem.Memory(k=40, sigma=1.0).fit(*rows)
    same_bits(mem.correct(*rows[:2]), same.correct(*rows[:2]))
    mem.remove(range(40))
    assert (mem.correction(rows[0]) == 0).all()


def test_pages_of_a_mapped_file_are_released(tmp_path):
    n = 60_000
    outputs = np.lib.format.open_memmap(tmp_path / "o.npy", "w+", np.float16, (n, 256))
    outputs[:, :40] = 1.0
    outputs.flush()
    del outputs
    mapped = np.load(tmp_path / "o.npy", mmap_mode="r")
    mem = resmem.Memory(k=1, sigma=1.0, store="sparse:2")
    mem.fit(np.zeros((n, 1), np.float32), mapped, np.zeros(n, int))

    def resident():
        lines = Path("/proc/self/smaps").read_text().splitlines()
        at = next(i for i, line in enumerate(lines) if str(tmp_path) in line)
        rss = next(line for line in lines[at:] if line.startswith("Rss:"))
        return int(rss.split()[1]) * 1024

    assert resident() < mapped.nbytes / 3
    assert mapped[-1, 0] == 1


# ---- Estimates -----------------------------------------------------------------------------


def test_estimate_equals_the_bytes_of_the_memory():
    rng = np.random.default_rng(9)
    rows = examples(rng, 400)
    estimate = resmem.Memory.estimate(400, D, C, key_dtype="float16")
    for option in estimate.options:
        if option.store == "head":
            mem = resmem.Memory(store="head", head=layer(rng), key_dtype="float16", k=1)
            taken = mem.fit(rows[0], None, rows[2]).nbytes + 4 * C * (D + 1)
        else:
            mem = resmem.Memory(
                store=option.store,
                residual_dtype=option.residual_dtype,
                key_dtype="float16",
                k=1,
            )
            taken = mem.fit(*rows).nbytes
        assert taken == option.nbytes, option


def test_an_estimate_suggests_the_first_store_that_fits():
    text = str(resmem.Memory.estimate(200_000, 64, 50_000, budget=2 << 30))
    assert "-> " in text
    suggested = resmem.Memory.estimate(200_000, 64, 50_000, budget=2 << 30).suggested
    assert (suggested.store, suggested.residual_dtype) == ("sparse:32", "float32")
    assert resmem.Memory.estimate(1000, 8, 10).suggested.store == "dense"
    tight = resmem.Memory.estimate(200_000, 64, 50_000, budget=1 << 20)
    assert tight.suggested.store == "head"
    assert "none fits" in str(tight)
    numbers = resmem.Memory.estimate(10, 2, 3, task="regression", budget=10**9).to_dict()
    assert [option["store"] for option in numbers["options"]] == ["dense", "dense"]


def test_estimate_prefers_dense_then_sparse_then_head():
    """Dense while that is small or sparse is no smaller; a head only if nothing else fits."""

    def suggested(n, d, columns, **more):
        return resmem.Memory.estimate(n, d, columns, **{"budget": 8 << 30, **more}).suggested.store

    assert suggested(6_500, 64, 49_152) == "sparse:32"  # dense takes 2.4 GiB
    assert suggested(500, 64, 49_152) == "dense"  # 187 MiB
    assert suggested(600_000, 64, 1_000) == "dense"  # 4.6 GiB for no more than 1,000 outputs
    assert suggested(600_000, 64, 1_001) == "sparse:32"
    assert suggested(6_500, 64, 49_152, task="regression") == "dense"  # it has no other store
    assert suggested(6_500, 64, 300, budget=2_500_000) == "head"


def test_estimate_gives_the_time_of_queries():
    some = {k: resmem.Memory.estimate(2_000, 64, 49_152, k=k) for k in (5, 50)}
    for k, estimate in some.items():
        times = {option.store: option.milliseconds for option in estimate.options}
        assert 0 < times["sparse:32"] < times["dense"] < times["head"]
        assert f"time of 1,000 queries (k={k}, " in str(estimate)
        assert estimate.to_dict()["options"][0]["milliseconds"] == estimate.options[0].milliseconds
    assert some[50].options[-1].milliseconds > 5 * some[5].options[-1].milliseconds
    assert times["head"] > 20 * times["sparse:32"]


MEASURED = """
import time
import numpy as np, resmem
from resmem._rows import rates
rates.time.perf_counter = time.process_time  # other work of the machine does not count
rng = np.random.default_rng(0)
for columns, n, q in ((1_000, 2_000, 100), (49_152, 100, 8)):
    z = rng.standard_normal((n, 64), dtype=np.float32)
    weight = rng.standard_normal((columns, 64), dtype=np.float32) / 8
    targets = rng.integers(0, columns, n)
    for option in resmem.Memory.estimate(n, 64, columns).options:
        head = option.store == "head"
        layer = (weight, None) if head else None
        mem = resmem.Memory(k=50, store=option.store, head=layer, sigma=1.0)
        outputs = z @ weight.T
        mem.fit(z, None if head else outputs, targets)
        best = 1e9
        for _ in range(3):
            start = time.process_time()
            mem.correct(z[:q], outputs[:q])
            best = min(best, time.process_time() - start)
        print(columns, option.store, option.milliseconds / (1e6 * best / q))
"""


def test_estimated_time_is_within_a_factor_of_4():
    """A wrong estimate fails each try; a machine whose speed changed meanwhile does not."""
    told = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", MEASURED],
            env={**os.environ, "RESMEM_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        told.append(done.stdout)
        lines = done.stdout.splitlines()
        assert len(lines) == 10
        if all(1 / 4 < float(line.split()[-1]) < 4 for line in lines):
            return
    pytest.fail("\n".join(told))
