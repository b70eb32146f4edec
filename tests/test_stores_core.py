"""The core's parts: half-width numbers, stored residuals of every kind, removal and ids."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from cases import ISAS, STORED, as_stored
from resmem import _core

EVERY_HALF = np.arange(2**16, dtype=np.uint32).astype(np.uint16).reshape(256, 256)
STRENGTHS = st.sampled_from([None, 0.7])


def same_bits(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def bits(array):
    return array.view(np.uint16 if array.itemsize == 2 else np.uint32)


@pytest.fixture(params=[False, True], ids=["gradual", "flushing"])
def caller(request):
    """Return a function that calls others, with or without flushing subnormals to zero."""

    def call(function, *arguments):
        _core.set_flush_to_zero(request.param)
        try:
            return function(*arguments)
        finally:
            _core.set_flush_to_zero(False)

    return call


# ---- Half-width numbers ----------------------------------------------------------------------


@pytest.mark.parametrize("isa", ISAS)
def test_every_half_is_widened_exactly(isa, caller):
    halves = EVERY_HALF.view(np.float16)
    nan = np.isnan(halves)
    got = caller(_core.widen, halves, _core.Execution(2, isa))
    assert np.array_equal(bits(got)[~nan], bits(halves.astype(np.float32))[~nan])
    assert np.isnan(got[nan]).all()
    assert same_bits(got, _core.widen(halves, execution=_core.Execution(1, "scalar")))
    wide = EVERY_HALF.astype(np.uint32) << 16
    assert same_bits(bits(caller(_core.widen, EVERY_HALF, _core.Execution(2, isa))), wide)


def around(values):
    """Return float32 numbers, the points halfway between them, and those one step aside."""
    with np.errstate(over="ignore"):
        halfway = (values[:-1].astype(np.float64) + values[1:].astype(np.float64)) / 2
        halfway = halfway.astype(np.float32)
    down, up = (np.nextafter(halfway, np.float32(end)) for end in (-np.inf, np.inf))
    return np.concatenate([values, halfway, down, up])


def halfway_cases(kind):
    """Return all numbers of a type, and float32 numbers around its rounding limits."""
    every = EVERY_HALF.ravel()
    wide = _core.widen(
        (every.view(np.float16) if kind == "float16" else every)[None],
        execution=_core.Execution(1, "scalar"),
    )
    numbers = np.sort(wide[np.isfinite(wide)])
    largest = np.finfo(np.float32).max
    edges = np.float32([65519.996, 65520, 65536, 1e6, largest, 2**-149, 2**-26, np.inf, -0.0])
    rng = np.random.default_rng(0)
    any_bits = rng.integers(0, 2**32, 50_000, dtype=np.uint32).view(np.float32)
    return np.concatenate([around(numbers), edges, -edges, any_bits])[None]


def to_bfloat16(values):
    """Round to nearest even in integers: the upper half, plus 1 if the lower half rounds up."""
    wide = bits(values).astype(np.uint64)
    lower, upper = wide & 0xFFFF, wide >> 16
    upper += (lower > 0x8000) | ((lower == 0x8000) & (upper % 2 == 1))
    return upper.astype(np.uint16)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_narrowing_rounds_to_nearest_even(isa, kind, caller):
    values = halfway_cases(kind)
    nan = np.isnan(values)
    got = caller(_core.narrow, values, kind, _core.Execution(2, isa))
    assert got.dtype == (np.float16 if kind == "float16" else np.uint16)
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = values.astype(np.float16) if kind == "float16" else to_bfloat16(values)
    assert np.array_equal(bits(got)[~nan], bits(wanted)[~nan])
    assert np.isnan(_core.widen(got)[nan]).all()
    assert same_bits(got, _core.narrow(values, kind, execution=_core.Execution(1, "scalar")))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_numbers_are_converted_at_every_place_of_a_vector(isa, kind):
    for n in range(40):
        values = np.arange(1, n + 1, dtype=np.float32)[None]
        narrow = _core.narrow(values, kind, execution=_core.Execution(1, isa))
        assert same_bits(_core.widen(narrow, execution=_core.Execution(1, isa)), values)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_large_copies_are_shared_by_threads(kind):
    values = np.random.default_rng(0).integers(-99, 100, (3001, 101)).astype(np.float32)
    for threads in (1, 2, 7):
        assert same_bits(
            _core.widen(
                _core.narrow(values, kind, execution=_core.Execution(threads)),
                execution=_core.Execution(threads),
            ),
            values,
        )


def test_widen_and_narrow_of_other_types_are_refused():
    for wrong in (np.ones((2, 2)), np.ones((4, 4), np.float16)[:, ::2], np.ones((2, 2), ">f2")):
        with pytest.raises(TypeError, match=r"must be C-contiguous float32, float16 or uint16"):
            _core.widen(wrong)
    with pytest.raises(ValueError, match="expected one of 'float16', 'bfloat16', got 'half'"):
        _core.narrow(np.ones((2, 2), np.float32), "half")


# ---- Stored residuals ------------------------------------------------------------------------

COLUMNS = st.sampled_from([1, 2, 3, 5, 8, 9, 17, 33, 64, 65, 129, 300])


def outputs_of(rng, n, columns):
    """Return logits, some with ties and one row with a single possible class, and labels."""
    logits = (rng.standard_normal((n, columns)) * 6).astype(np.float32)
    logits[::4] = np.round(logits[::4] / 4)
    if n > 2:
        logits[1] = 0
        logits[2, 1:] = -np.inf
    return logits, rng.integers(0, columns, n)


@given(
    seed=st.integers(0, 2**31),
    columns=COLUMNS,
    m=st.sampled_from([1, 2, 8, 16, 40, 1000]),
    half=st.booleans(),
    threads=st.sampled_from([1, 2, 7]),
)
def test_sparse_residuals_have_the_bits_of_the_oracle(seed, columns, m, half, threads):
    rng = np.random.default_rng(seed)
    logits, labels = outputs_of(rng, 13, columns)
    base = oracle.softmax(logits, 0.8)
    probabilities = base.astype(np.float32)
    for outputs, temperature, b in (
        (logits, 0.8, base),
        (probabilities, 0.0, oracle.widen(probabilities)),
    ):
        wanted = oracle.sparse_residuals(b, labels, m, half)
        for isa in ISAS:
            got = _core.sparse_residuals(
                outputs, labels, temperature, m, half, execution=_core.Execution(threads, isa)
            )
            assert all(map(same_bits, got[:3], wanted[:3]))
            assert got[3] == wanted[3]


@pytest.mark.parametrize("order", ["ascending", "descending", "equal", "shuffled", "ties"])
def test_sparse_residuals_of_classes_in_any_order_are_right(order):
    """The orders include the best and the worst one for the running threshold."""
    rng = np.random.default_rng(0)
    values = np.sort(rng.random(20_000)).astype(np.float32)
    rows = {
        "ascending": values,
        "descending": values[::-1],
        "equal": np.ones_like(values),
        "shuffled": rng.permutation(values),
        "ties": rng.permutation(np.round(values * 20)),
    }[order]
    logits, labels = np.stack([rows, rows]), np.array([3, 19_999])
    wanted = oracle.sparse_residuals(oracle.softmax(logits), labels, 33)
    got = _core.sparse_residuals(logits, labels, 1.0, 33)
    assert all(map(same_bits, got[:3], wanted[:3]))
    assert got[3] == wanted[3]


def test_float16_class_residuals_have_the_bits_of_the_oracle():
    logits, labels = outputs_of(np.random.default_rng(0), 40, 33)
    wanted = oracle.residuals("classification", "logits", logits, labels, 0.8, half=True)
    for isa in ISAS:
        assert same_bits(
            _core.class_residuals(
                logits, labels, 0.8, half=True, execution=_core.Execution(2, isa)
            ),
            wanted,
        )


def test_row_without_valid_residuals_is_named():
    logits, labels = outputs_of(np.random.default_rng(0), 9, 5)
    for wrong in (-1, 5, 2**40):
        bad = labels.copy()
        bad[7] = wrong
        for compute in (_core.class_residuals, lambda *args: _core.sparse_residuals(*args, 2)):
            with pytest.raises(ValueError, match=f"classes 0 to 4, row 7 has {wrong}"):
                compute(logits, bad, 1.0)
    base = oracle.softmax(logits).astype(np.float32)
    for outputs, temperature in ((logits, 1.0), (base, 0.0)):
        for value in (np.inf, np.nan)[: 1 if temperature else 2]:
            bad = outputs.copy()
            bad[6, 3] = value
            with pytest.raises(ValueError, match="row 6 gives a base output that is not"):
                _core.sparse_residuals(bad, labels, temperature, 2)


@given(
    seed=st.integers(0, 2**31),
    n=st.sampled_from([0, 1, 2, 3, 4, 5, 11, 50]),
    columns=COLUMNS,
    d=st.sampled_from([1, 3, 7, 8, 9, 16, 31, 100]),
    stored=st.sampled_from(STORED),
)
def test_head_logits_have_the_bits_of_the_oracle(seed, n, columns, d, stored):
    rng = np.random.default_rng(seed)
    keys, wide = as_stored(rng.standard_normal((n, d)).astype(np.float32), stored)
    weight = rng.standard_normal((columns, d)).astype(np.float32)
    bias = rng.standard_normal(columns).astype(np.float32)
    wanted = oracle.head_logits(wide, weight, bias)
    for isa in ISAS:
        for threads in (1, 2, 7):
            assert same_bits(
                _core.head_logits(
                    keys, _core.LinearHead(weight, bias), execution=_core.Execution(threads, isa)
                ),
                wanted,
            )


@pytest.mark.parametrize("isa", ISAS)
def test_head_logits_of_many_panels_have_the_oracles_bits(isa):
    rng = np.random.default_rng(0)
    for n, columns, d in ((700, 30, 1000), (3, 70, 5000), (2, 3, 300_001)):
        keys = rng.standard_normal((n, d)).astype(np.float32)
        weight = rng.standard_normal((columns, d)).astype(np.float32)
        got = _core.head_logits(
            keys,
            _core.LinearHead(weight, np.ones(columns, np.float32)),
            execution=_core.Execution(2, isa),
        )
        assert same_bits(got, oracle.head_logits(keys, weight, np.ones(columns)))


@pytest.mark.parametrize("isa", ISAS)
def test_logits_beyond_float32_are_the_largest_of_their_sign(isa):
    largest = np.finfo(np.float32).max
    keys = np.float32([[largest, 1], [-largest, 1], [1e-40, 0], [1, 0]])
    weight = np.float32([[largest, 0], [2, 0], [1e-5, 1e-30], [0, 0]])
    bias = np.float32([0, largest, -0.0, 2**-149])
    got = _core.head_logits(keys, _core.LinearHead(weight, bias), execution=_core.Execution(1, isa))
    assert same_bits(got, oracle.head_logits(keys, weight, bias))
    assert set(np.abs(got[:, 0])) >= {largest}
    assert np.isfinite(got).all()


# ---- Sums of stored residuals ----------------------------------------------------------------


def cut(parts, at):
    """Split arrays of rows into segments at the given rows."""
    return list(zip(*(np.split(part, at) for part in parts), strict=True))


class Stored:
    """Residuals of 40 rows in every store, and neighbours of some queries among them."""

    def __init__(self, rng, columns, q, k):
        n, d = 40, 9
        self.columns = columns
        self.logits, self.labels = outputs_of(rng, n, columns)
        self.distances = np.sort(rng.random((q, k)), axis=1)
        self.positions = rng.integers(0, n, (q, k))
        if q > 3:
            self.distances[2, k // 2 :], self.positions[2, k // 2 :] = np.inf, -1
            self.distances[3], self.positions[3] = np.inf, -1
        self.keys = rng.standard_normal((n, d)).astype(np.float32)
        self.weight = rng.standard_normal((columns, d)).astype(np.float32)
        self.bias = rng.standard_normal(columns).astype(np.float32)

    def stores(self):
        """Yield the segments of each store, its head or None, and the oracle's correction."""
        at = [7, 7, 30]
        where = self.distances, self.positions
        for half in (False, True):
            dense = oracle.residuals(
                "classification", "logits", self.logits, self.labels, half=half
            )
            wanted = oracle.correction(*where, dense, 0.3)
            yield [_core.DenseRows(part) for part in np.split(dense, at)], None, wanted
            base = oracle.softmax(self.logits)
            sparse = oracle.sparse_residuals(base, self.labels, 4, half)[:3]
            wanted = oracle.sparse_correction(*where, *sparse, self.columns, 0.3)
            yield [_core.SparseRows(*parts) for parts in cut(sparse, at)], None, wanted
        for stored in STORED:
            keys, wide = as_stored(self.keys, stored)
            logits = oracle.head_logits(wide, self.weight, self.bias)
            dense = oracle.residuals("classification", "logits", logits, self.labels, 1.3)
            wanted = oracle.correction(*where, dense, 0.3)
            segments = [_core.HeadRows(*parts) for parts in cut((keys, self.labels), at)]
            yield segments, _core.LinearHead(self.weight, self.bias, 1.3), wanted


@given(
    seed=st.integers(0, 2**31),
    columns=COLUMNS,
    q=st.sampled_from([0, 1, 2, 5, 17]),
    k=st.sampled_from([0, 1, 3, 4, 5, 9, 20]),
    width=st.sampled_from([0, 1, 3, 20]),
    strength=STRENGTHS,
    threads=st.sampled_from([1, 2, 7]),
)
def test_every_store_is_summed_to_the_bits_of_the_oracle(
    seed, columns, q, k, width, strength, threads
):
    rng = np.random.default_rng(seed)
    stored = Stored(rng, columns, q, k)
    select = rng.integers(0, columns, (q, width))
    base = rng.random((q, columns))
    for segments, head, correction in stored.stores():
        for some in (None, select):
            wanted, added = correction, base
            if some is not None:
                wanted, added = (np.take_along_axis(a, some, axis=1) for a in (wanted, base))
            if strength is not None:
                wanted = oracle.correct(added, wanted, strength)
            for isa in ISAS:
                got = _core.aggregate(
                    segments,
                    stored.distances,
                    stored.positions,
                    0.3,
                    columns,
                    strength or 1.0,
                    None if strength is None else added.copy(),
                    head=head,
                    select=some,
                    execution=_core.Execution(threads, isa),
                )
                assert same_bits(got, wanted), (type(segments[0]).__name__, isa)


def test_wide_float16_residuals_are_summed_piece_by_piece():
    rng = np.random.default_rng(0)
    residuals = rng.standard_normal((30, 2500)).astype(np.float16)
    distances, positions = np.sort(rng.random((3, 11)), axis=1), rng.integers(0, 30, (3, 11))
    wanted = oracle.correction(distances, positions, residuals, 0.5)
    for isa in ISAS:
        got = _core.aggregate(
            [_core.DenseRows(residuals)],
            distances,
            positions,
            0.5,
            2500,
            execution=_core.Execution(isa=isa),
        )
        assert same_bits(got, wanted)


def test_float32_and_float16_segments_are_summed_together():
    rng = np.random.default_rng(0)
    residuals = np.float32(rng.integers(-9, 10, (30, 70)) / 8)
    distances, positions = np.sort(rng.random((5, 11)), axis=1), rng.integers(0, 30, (5, 11))
    wanted = oracle.correction(distances, positions, residuals, 0.5)
    parts = [_core.DenseRows(residuals[:13]), _core.DenseRows(residuals[13:].astype(np.float16))]
    assert same_bits(_core.aggregate(parts, distances, positions, 0.5, 70), wanted)


def test_head_with_more_logits_than_held_has_the_oracles_bits():
    """The neighbours of a query take several parts, or several queries share one part."""
    rng = np.random.default_rng(0)
    columns, d, n = 120_000, 3, 30  # 17 rows of logits are held
    weight = rng.standard_normal((columns, d)).astype(np.float32)
    bias = np.zeros(columns, np.float32)
    keys = rng.standard_normal((n, d)).astype(np.float32)
    labels = rng.integers(0, columns, n)
    dense = oracle.residuals(
        "classification", "logits", oracle.head_logits(keys, weight, bias), labels
    )
    for q, k in ((2, 40), (5, 4)):
        distances, positions = np.sort(rng.random((q, k)), axis=1), rng.integers(0, n, (q, k))
        wanted = oracle.correction(distances, positions, dense, 0.5)
        for threads in (1, 3):
            got = _core.aggregate(
                [_core.HeadRows(keys, labels)],
                distances,
                positions,
                0.5,
                columns,
                head=_core.LinearHead(weight, bias, 1.0),
                execution=_core.Execution(threads),
            )
            assert same_bits(got, wanted)


def small_stores():
    index = np.int32([[0, 1], [2, 0], [1, 2]])
    value, rest = np.ones((3, 2), np.float32), np.zeros(3, np.float32)
    keys, labels = np.ones((3, 2), np.float32), np.array([0, 1, 2])
    head = _core.LinearHead(np.ones((3, 2), np.float32), np.zeros(3, np.float32))
    return {
        "dense": ([_core.DenseRows(np.ones((3, 3), np.float32))], None),
        "sparse": ([_core.SparseRows(index, value, rest)], None),
        "head": ([_core.HeadRows(keys, labels)], head),
    }


def sum_of(segments, head, select=None, position=1):
    return _core.aggregate(
        segments, np.zeros((1, 1)), np.array([[position]]), 1.0, 3, head=head, select=select
    )


@pytest.mark.parametrize("store", ["dense", "sparse", "head"])
def test_columns_and_positions_out_of_range_are_refused(store):
    segments, head = small_stores()[store]
    for wrong in (-1, 3, 2**62):
        with pytest.raises(IndexError, match=f"column {wrong} is not one of the columns 0 to 2"):
            sum_of(segments, head, np.array([[0, wrong]]))
    with pytest.raises(IndexError, match="position 3 is beyond the 3 rows"):
        sum_of(segments, head, position=3)


@pytest.mark.parametrize("wrong", [-1, 3, -(2**31), 2**31 - 1])
def test_damaged_rows_are_refused_where_they_are_used(wrong):
    index = np.int32([[0, 1], [2, wrong], [1, 2]])
    sparse = _core.SparseRows(index, np.ones((3, 2), np.float32), np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=f"stored rows are damaged: index {wrong} is not"):
        sum_of([sparse], None)
    head = _core.HeadRows(np.ones((3, 2), np.float32), np.array([0, wrong, 2]))
    with pytest.raises(ValueError, match=f"stored rows are damaged: label {wrong} is not"):
        sum_of([head], small_stores()["head"][1])
    assert np.isfinite(sum_of([sparse], None, position=0)).all()


def test_malformed_residual_rows_are_refused():
    stores, ones = small_stores(), np.ones((3, 2), np.float32)
    (dense,), (sparse,) = stores["dense"][0], stores["sparse"][0]
    wider = _core.LinearHead(np.ones((3, 9), np.float32), np.zeros(3, np.float32))
    wrong = {
        "must be of one store": ([dense, sparse], None),
        "head must have a row per column": (stores["head"][0], None),
        "keys must have as many columns as the head": (stores["head"][0], wider),
        "residuals must have 3 columns": ([_core.DenseRows(ones)], None),
    }
    for message, (rows, head) in wrong.items():
        with pytest.raises(ValueError, match=message):
            sum_of(rows, head)
    with pytest.raises(TypeError, match="residuals must be of type ResidualRows, got"):
        sum_of([ones], None)
    with pytest.raises(ValueError, match="must be float32 or float16"):
        _core.DenseRows(np.ones((3, 3), np.uint16))
    with pytest.raises(ValueError, match=r"rest \(n,\)"):
        _core.SparseRows(ones.astype(np.int32), ones, np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"labels \(n,\)"):
        _core.HeadRows(ones, np.arange(2))
    for refused in (
        lambda: _core.SparseRows(ones.astype(np.int64), ones, np.zeros(3, np.float32)),
        lambda: _core.LinearHead(ones.astype(np.float64), np.zeros(3, np.float32)),
        lambda: sum_of([dense], None, select=np.zeros((1, 2), np.int32)),
    ):
        with pytest.raises(TypeError, match=r"incompatible (function|constructor) arguments"):
            refused()


class Ring(Exception):  # noqa: N818
    """Raised by a signal handler."""


@pytest.mark.parametrize("threads", [1, 2])
def test_a_signal_stops_a_long_sum_at_once(threads):
    columns, d = 50_000, 768
    weight, keys = np.ones((columns, d), np.float32), np.ones((4, d), np.float32)
    head = _core.LinearHead(weight, np.zeros(columns, np.float32))
    labels = np.zeros(4, np.int64)
    q, k = 20, 50  # more than a minute of work
    distances, positions = np.zeros((q, k)), np.zeros((q, k), dtype=np.int64)
    late = []

    def ring(*_):
        late.append(time.monotonic())
        raise Ring

    previous = signal.signal(signal.SIGALRM, ring)
    try:
        for _ in range(3):  # a busy machine may be late once
            sent = time.monotonic() + 0.3
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(Ring):
                _core.aggregate(
                    [_core.HeadRows(keys, labels)],
                    distances,
                    positions,
                    1.0,
                    columns,
                    head=head,
                    execution=_core.Execution(threads),
                )
            delay = time.monotonic() - sent
            if delay < 0.2:
                break
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert delay < 0.2


# ---- Removal ---------------------------------------------------------------------------------


def test_rows_are_marked_with_the_version_of_their_removal():
    died = np.zeros(6, np.int64)
    _core.mark_died(died, np.array([4, 1]), 3)
    _core.mark_died(died, np.array([], dtype=np.int64), 9)
    assert died.tolist() == [0, 3, 0, 0, 3, 0]
    for wrong in (-1, 6, 2**62):
        with pytest.raises(IndexError, match=f"row {wrong} is not one of the 6 rows"):
            _core.mark_died(died, np.array([0, wrong]), 5)
    assert died[0] == 0  # all or nothing
    died.flags.writeable = False
    with pytest.raises(ValueError, match="not writeable"):
        _core.mark_died(died, np.array([0]), 5)


def test_search_sees_its_version_while_rows_are_removed():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((4000, 8)).astype(np.float32)
    died = np.where(np.arange(4000) % 3 == 0, 1, 0)
    segment = _core.Segment(rows, None, 0, died, 6.0)
    wanted = oracle.search(rows[:20], rows, 5, alive=died == 0)
    stop = threading.Event()

    def remove():
        living = np.flatnonzero(died == 0)
        version = 2
        while not stop.is_set():
            _core.mark_died(died, rng.choice(living, 50), version)
            version += 1

    other = threading.Thread(target=remove)
    other.start()
    try:
        for strategy in ("exact", "by_rows", "by_queries", "stream") * 10:
            got = _core.search(
                rows[:20],
                6.0,
                [segment],
                5,
                "euclidean",
                None,
                version=1,
                forced=_core.ForcedPlan(strategy=strategy),
                execution=_core.Execution(2),
            )
            assert same_bits(got[0], wanted[0])
            assert same_bits(got[1], wanted[1])
    finally:
        stop.set()
        other.join()
    assert (died > 1).any()


# ---- Ids -------------------------------------------------------------------------------------

ANY_IDS = st.lists(
    st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-5, 5)), max_size=30
)  # duplicates among them


@given(parts=st.lists(ANY_IDS, max_size=5), asked=ANY_IDS)
def test_ids_are_found_as_in_a_dictionary(parts, asked):
    table, rows, ids = _core.IdTable(), {}, []
    for part in parts:
        for i in part:
            rows[i] = len(ids)  # of equal ids the last is found
            ids.append(i)
        for _ in range(2):  # the second call adds nothing
            table.extend_to(np.array(ids, dtype=np.int64))
        table.extend_to(np.array(ids[: len(ids) // 2], dtype=np.int64))
        assert len(table) == len(ids)
        everything = np.array([*rows, *asked], dtype=np.int64)
        assert table.find(everything).tolist() == [rows.get(int(i), -1) for i in everything]
    assert table.find(np.array([], dtype=np.int64)).shape == (0,)


@pytest.mark.parametrize("step", [1, 2**16, 2**32, 2**44, -(2**40)])
def test_ids_of_any_step_take_constant_time(step):
    ids = np.arange(300_000, dtype=np.int64) * step
    table = _core.IdTable()
    start = time.process_time()
    table.extend_to(ids[:7])
    table.extend_to(ids)
    assert np.array_equal(table.find(ids), np.arange(len(ids)))
    assert time.process_time() - start < 2  # clustered ids would take minutes
    assert 16 * len(ids) < table.nbytes <= 64 * len(ids)


def test_equal_ids_take_constant_time_and_the_last_is_found():
    table = _core.IdTable()
    table.extend_to(np.full(300_000, 7))
    assert len(table) == 300_000
    assert table.find(np.array([7, 8])).tolist() == [299_999, -1]


@pytest.fixture
def bell():
    """Yield a function that has a handler called by a signal after some seconds."""
    previous = signal.getsignal(signal.SIGALRM)

    def ring(handler, after):
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, after)

    yield ring
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)


def test_interrupted_id_table_continues_where_it_stopped(bell):
    ids, tables = 3 * np.arange(8_000_000), []

    def ring(*_):
        raise Ring

    def fill():
        while True:
            tables[:] = [_core.IdTable()]
            tables[0].extend_to(ids)

    bell(ring, 0.05)
    with pytest.raises(Ring):
        fill()
    (table,) = tables
    known = len(table)
    assert np.array_equal(table.find(ids[:known]), np.arange(known))
    assert (table.find(ids[known : known + 9]) == -1).all()
    table.extend_to(ids)
    assert len(table) == len(ids)
    assert np.array_equal(table.find(ids), np.arange(len(ids)))


def test_signal_handler_may_use_the_interrupted_id_table(bell):
    ids, found = 3 * np.arange(8_000_000), []
    table = _core.IdTable()

    def ask(*_):
        mine = table
        mine.extend_to(ids[:5_000_000])
        found.append(np.array_equal(mine.find(ids[:1000]), np.arange(1000)))

    bell(ask, 0.05)
    while not found:
        table = _core.IdTable()
        table.extend_to(ids[:100_000])
        table.extend_to(ids)
    assert found == [True]
    assert len(table) == len(ids)
    assert np.array_equal(table.find(ids), np.arange(len(ids)))


def test_threads_that_extend_and_ask_an_id_table_agree():
    ids, wrong = np.random.default_rng(5).permutation(700_000), []
    for size in (1000, 50_000, 700_000):
        table, barrier = _core.IdTable(), threading.Barrier(4)

        def work(first, table=table, barrier=barrier, size=size):
            barrier.wait()
            for n in range(first, size + 1, max(1, size // 7)):
                table.extend_to(ids[:n])
                if not np.array_equal(table.find(ids[:n]), np.arange(n)):
                    wrong.append(n)
            table.extend_to(ids[:size])

        workers = [threading.Thread(target=work, args=(first,)) for first in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(table) == size
        assert np.array_equal(table.find(ids[:size]), np.arange(size))
    assert not wrong


def test_other_threads_run_while_ids_are_hashed():
    ids, ticks, stop = np.random.default_rng(6).permutation(2_000_000), [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.001)

    other = threading.Thread(target=tick)
    other.start()
    start = time.monotonic()
    table = _core.IdTable()
    table.extend_to(ids)
    table.find(ids)
    end = time.monotonic()
    stop.set()
    other.join()
    tenths = {int(10 * (t - start) / (end - start)) for t in ticks if start < t < end}
    assert len(tenths) >= 5


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_child_begins_with_an_empty_id_table():
    """The child is forked while other threads hold the mutex."""
    ids, stop = np.random.default_rng(7).permutation(200_000), threading.Event()
    tables = [_core.IdTable() for _ in range(2)]

    def work(table):
        while not stop.is_set():
            table.extend_to(ids)
            table.find(ids)

    workers = [threading.Thread(target=work, args=(table,)) for table in tables]
    for worker in workers:
        worker.start()
    codes = []
    for _ in range(15):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.alarm(30)
                empty = all(len(table) == 0 for table in tables)
                tables[0].extend_to(ids[:9])
                found = tables[0].find(ids[:10])
                code = 0 if empty and found.tolist() == [*range(9), -1] else 2
            finally:
                os._exit(code)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    stop.set()
    for worker in workers:
        worker.join()
    assert codes == [0] * 15
    assert [len(table) for table in tables] == [len(ids)] * 2


# ---- Too little memory -----------------------------------------------------------------------

EXHAUSTED = """
import resource, sys
import numpy as np
from resmem import _core

rng = np.random.default_rng(0)
n, d, C = 200_000, 64, 200
rows, queries = np.ones((n, d), np.float32), np.ones((3000, d), np.float32)
outputs, labels = np.zeros((n, C), np.float32), np.zeros(n, np.int64)
D, P = np.zeros((400_000, 1)), np.zeros((400_000, 1), np.int64)
head = _core.LinearHead(np.zeros((C, d), np.float32), np.zeros(C, np.float32))
segment = _core.Segment(rows, None, 0, None, 1.0)
dense = [_core.DenseRows(np.zeros((1, 3 * C), np.float16))]
table, ids, halves = _core.IdTable(), np.arange(3_000_000), rows.astype(np.float16)
calls = {
    "search": lambda: _core.search(
        queries, 1.0, [segment], n // 4, "euclidean", execution=_core.Execution(2)),
    "exact": lambda: _core.search(
        queries[:2], 1.0, [_core.Segment(rows[:40], None, 0, None, 1.0)], 4_000_000, "euclidean"),
    "softmax": lambda: _core.softmax(outputs, 1.0),
    "class_residuals": lambda: _core.class_residuals(outputs, labels, 1.0),
    "sparse_residuals": lambda: _core.sparse_residuals(outputs, labels, 1.0, 100),
    "head_logits": lambda: _core.head_logits(rows, head),
    "aggregate": lambda: _core.aggregate(dense, D, P, 1.0, 3 * C),
    "head": lambda: _core.aggregate([_core.HeadRows(rows, labels)], D, P, 1.0, C, head=head),
    "narrow": lambda: [_core.narrow(rows, "float16") for _ in range(99)],
    "widen": lambda: [_core.widen(halves) for _ in range(99)],
    "extend": lambda: table.extend_to(ids),
}
limit = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
spare = int(sys.argv[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (limit + spare, limit + spare))
for name, call in calls.items():
    try:
        call()
        print(name, "went through")
    except MemoryError:
        print(name, "MemoryError")
"""


@pytest.mark.skipif(
    "asan" in os.environ.get("LD_PRELOAD", ""), reason="AddressSanitizer needs address space"
)
@pytest.mark.parametrize("kibibytes", [64, 1500, 20_000])
def test_without_memory_there_is_an_error_and_no_crash(kibibytes):
    done = subprocess.run(
        [sys.executable, "-c", EXHAUSTED, str(kibibytes)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert len(results) == 11
    assert list(results.values()).count("MemoryError") >= 9, results
