"""What becomes of neighbours on a device has the CPU's bits, and what makes no sense is NaN."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from cases import METRICS, make, same_bits
from resmem import _core
from resmem._base import convert
from resmem._base.execution import DEFAULT
from resmem._base.metric import as_distances
from resmem._correction.gate import Gate, Step
from resmem._correction.simplex import SimplexMap
from resmem._devices.arrays import view
from resmem._devices.device import Device
from tested_device import examples

COLUMNS = [1, 2, 3, 7, 8, 9, 10, 31, 64, 65, 130, 257]
MAPS = [("clip", 1e-6), ("clip", 0.3), ("project", 1e-6), ("project", 0.4), ("keep", 0.1)]
STORES = ["float32", "float16", "float64", "sparse float32", "sparse float16", "labels"]
OUTPUTS = ["none", "logits", "probabilities", "values", "constant"]
FEATURES = ["distance", "confidence", "agreement"]


# ---- rows and outputs, on both sides -----------------------------------------------------------


@dataclass
class Rows:
    """The rows of a segment, as the core and as the device take them."""

    core: Any
    there: Any
    n: int


def pieces(rng, n):
    """Return up to three ends up to which rows are brought, one after the other."""
    return sorted({*rng.integers(0, n + 1, rng.integers(0, 3)).tolist(), n})


def stored(store, rng, n, columns, sides, repeated=False):
    """Return the rows of a segment in this store, of random numbers."""
    module, ordinal = sides.module, sides.ordinal
    if store == "labels":
        labels = rng.integers(0, columns, n)
        there = module.LabelRows(ordinal, columns)
        for end in pieces(rng, n):
            there.extend(labels[:end])
        return Rows(_core.LabelRows(labels), there, n)
    dtype = store.removeprefix("sparse ")
    if not store.startswith("sparse"):
        numbers = rng.standard_normal((n, columns)).astype(dtype)
        there = module.DenseRows(ordinal, dtype, columns)
        for end in pieces(rng, n):
            given = np.ascontiguousarray(numbers[:end])
            there.extend(sides.place(given) if rng.random() < 0.5 else given)
        return Rows(_core.DenseRows(numbers), there, n)
    width = min(columns, 40, 1 + columns // 2)
    index = rng.random((n, columns)).argsort(axis=1)[:, :width].astype(np.int32)
    if repeated:
        index = rng.integers(0, columns, (n, width)).astype(np.int32)
    value = rng.standard_normal((n, width)).astype(dtype)
    rest = rng.random(n).astype(np.float32) / columns
    there = module.SparseRows(ordinal, dtype, columns, width)
    for end in pieces(rng, n):
        there.extend(index[:end].copy(), value[:end].copy(), rest[:end].copy())
    return Rows(_core.SparseRows(index, value, rest), there, n)


def model_outputs(kind, rng, q, columns, dtype):
    """Return outputs of a model; a few of them are extreme."""
    if kind == "probabilities":
        raw = rng.random((q, columns)) ** 3 * (rng.random((q, columns)) < 0.7)
        raw[:, rng.integers(columns)] += 0.1
        if dtype == "float64":
            raw[rng.random((q, columns)) < 0.2] *= 1e-60  # beyond float32, which keeps 2^-149
            raw[:, rng.integers(columns)] += 0.1
        return (raw / raw.sum(axis=1, keepdims=True)).astype(dtype)
    raw = rng.standard_normal((q, columns)) * rng.choice([1.0, 30.0], (q, 1))
    if kind == "logits":
        raw[rng.random((q, columns)) < 0.1] = -np.inf
        raw[np.arange(q), rng.integers(0, columns, q)] = rng.standard_normal(q) * 60
        if dtype == "float64":
            raw[rng.random(q) < 0.5] += 1e9
    return raw.astype(dtype)


@dataclass
class Sides:
    """The device, and what a test hands to it."""

    tested: Any

    @property
    def module(self):
        return self.tested.extension

    @property
    def ordinal(self):
        return self.tested.ordinal

    def place(self, array):
        """Return where a copy of the array lies on the device."""
        device = Device("cuda", self.ordinal, self.module)
        return view(self.tested.place(array), "array", device, 0)

    def either(self, rng, array):
        """Return the array, or a copy of it on the device."""
        return self.place(array) if array is not None and rng.random() < 0.5 else array

    def filled(self, shape, on_device, dtype, call):
        """Return what a call writes to an array of this shape."""
        out = np.full(shape, -7, dtype=dtype)
        if not on_device:
            call(out)
            return out
        placed = self.place(out)
        call(placed)
        return self.tested.fetch(placed.owner)


@pytest.fixture(scope="session")
def sides(tested):
    return Sides(tested)


@dataclass
class Case:
    """What is made of neighbours: the settings, and the arrays of some queries."""

    columns: int
    rows: list
    sigma: float = 1.0
    strength: float = 1.0
    strengths: Any = None
    kind: str = "none"
    outputs: Any = None
    bits: Any = None  # of the outputs, where these are bfloat16
    temperature: float = 1.0
    value: float = 0.0
    interpolate: bool = False
    weights: Any = None
    steps: tuple = ()
    classes: Any = None
    select: Any = None
    map: Any = None
    argmax: bool = False
    names: Any = None

    @property
    def core_weights(self):
        if self.weights is None:
            return None
        return [each.n if w is None else w for each, w in zip(self.rows, self.weights, strict=True)]

    def base(self, q):
        """Return the base outputs, as ``Spec.base`` does."""
        if self.kind == "none":
            return None
        if self.kind == "constant":
            return np.full((q, self.columns), self.value)
        if self.kind == "logits":
            logits = convert.logits(self.outputs, "outputs")
            return _core.softmax(np.ascontiguousarray(logits), self.temperature, DEFAULT)
        if self.kind == "probabilities":
            return convert.probabilities(self.outputs, "outputs").astype(np.float64)
        return convert.float64(self.outputs, "outputs", "(n, C)")

    def gated(self, distances, positions, base):
        """Return the strengths that the gate leaves, as ``Corrector.strengths`` does."""
        nearest = np.where(positions[:, 0] >= 0, distances[:, 0], np.inf)
        values = {"distance": nearest}
        if base is not None:
            values["confidence"] = base.max(axis=1)
        if self.classes is not None:
            shares = _core.aggregate(
                [each.core for each in self.classes], distances, positions, self.sigma,
                self.columns, row_weights=self.core_weights,
            )  # fmt: skip
            values["agreement"] = shares.max(axis=1)
        gate = Gate(tuple(Step(*step) for step in self.steps))
        return self.strength * gate.factors(values)

    def on_cpu(self, distances, positions):
        """Return what ``Corrector.correct_blocks`` makes of neighbours, by the core alone."""
        q = len(distances)
        whole = self.base(q)
        select = self.select
        if select is not None and select.ndim == 1:
            select = np.tile(select, (q, 1))
        early = None if self.map is not None else select
        base = whole
        if whole is not None and early is not None:
            base = np.take_along_axis(whole, early, axis=1)
        strengths = self.strengths
        if self.steps:
            strengths = self.gated(distances, positions, whole)
        values = _core.aggregate(
            [each.core for each in self.rows], distances, positions, self.sigma, self.columns,
            self.strength, None if base is None else base.copy(), select=early,
            interpolate=self.interpolate, strengths=strengths, row_weights=self.core_weights,
        )  # fmt: skip
        if self.map is not None:
            SimplexMap(*self.map).apply(values, whole, self.strength)
            if select is not None:
                values = np.take_along_axis(values, select, axis=1)
        if not self.argmax:
            return values
        first = np.argmax(values, axis=1)
        return first if self.names is None else self.names[first]

    def on_device(self, sides, rng):
        """Return the same as the device takes it, arrays on either side."""
        module = sides.module
        weights = None
        if self.weights is not None:
            weights = []
            for rows, own in zip(self.rows, self.weights, strict=True):
                weights.append(rows.n)
                if own is not None:
                    weights[-1] = module.RowWeights(sides.ordinal)
                    weights[-1].extend(own)
        kind, floor = self.map or (None, 0.0)
        outputs = self.outputs if self.bits is None else self.bits
        return module.Aggregation(
            [each.there for each in self.rows], self.sigma, self.columns, strength=self.strength,
            strengths=sides.either(rng, self.strengths), outputs=sides.either(rng, outputs),
            output_kind=self.kind, temperature=self.temperature, output_value=self.value,
            interpolate=self.interpolate, row_weights=weights,
            gate=module.Gate(sides.ordinal, list(self.steps)) if self.steps else None,
            classes=None if self.classes is None else [each.there for each in self.classes],
            select=sides.either(rng, self.select), map=kind, floor=floor, argmax=self.argmax,
            class_labels=sides.either(rng, self.names),
        )  # fmt: skip

    def shape(self, q):
        if self.argmax:
            return (q,)
        return (q, self.columns if self.select is None else self.select.shape[-1])

    def aggregated(self, sides, rng, distances, positions, **options):
        """Return what the device makes of neighbours that are given."""
        aggregation = self.on_device(sides, rng)
        given = sides.either(rng, distances), sides.either(rng, positions)
        dtype = "int64" if self.argmax else "float64"
        return sides.filled(
            self.shape(len(distances)), rng.random() < 0.5, dtype,
            lambda out: sides.module.aggregate(
                aggregation, *given, out, device=sides.ordinal, **options
            ),
        )  # fmt: skip


def drawn_case(rng, sides, store, kind, q, columns, sizes):
    """Return a case with everything that may be asked for drawn at random."""
    rows = [stored(store, rng, n, columns, sides, rng.random() < 0.3) for n in sizes]
    outputs = bits = None
    if kind not in ("none", "constant"):
        dtype = str(rng.choice(["float32", "float16", "float64"]))
        outputs = model_outputs(kind, rng, q, columns, dtype)
        if dtype == "float16" and kind != "probabilities" and rng.random() < 0.5:
            bits = (outputs.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
            outputs = (bits.astype(np.uint32) << 16).view(np.float32)
    strength = float(rng.choice([1.0, 0.0, 0.3, -0.5, 7.0]))
    case = Case(columns, rows, float(rng.choice([0.3, 2.0, np.inf])), strength)
    case.kind, case.outputs, case.bits = kind, outputs, bits
    case.temperature = float(rng.choice([1.0, 0.37, 2.0]))
    case.value = float(np.float32(1 / columns))
    case.interpolate = kind != "none" and rng.random() < 0.3
    if rng.random() < 0.4:
        own = (10.0 ** rng.integers(-3, 4, n) * rng.random(n) for n in sizes)
        case.weights = [None if rng.random() < 0.3 else w + 1e-9 for w in own]
    if kind != "none" and rng.random() < 0.4:
        case.classes = [stored("labels", rng, n, columns, sides) for n in sizes]
        for feature in rng.permutation(FEATURES)[: rng.integers(1, 4)]:
            edges = np.sort(rng.random(rng.integers(1, 5))).tolist()
            case.steps += ((str(feature), edges, rng.random(len(edges) + 1).tolist()),)
    elif rng.random() < 0.3:
        case.strengths = rng.standard_normal(q)
    if rng.random() < 0.6:
        case.map = MAPS[rng.integers(len(MAPS) - (kind == "none"))]
    if rng.random() < 0.3:
        case.argmax = True
        case.names = rng.permutation(columns) * 3 if rng.random() < 0.5 else None
    elif rng.random() < 0.5:
        shape = (rng.integers(0, 5),) if rng.random() < 0.5 else (q, rng.integers(1, 5))
        case.select = rng.integers(0, columns, shape)
    return case


def neighbours(rng, q, k, n, wide=2.0):
    """Return distances (q, k), which ascend, and positions of rows; some is padding."""
    distances = np.sort(np.round(rng.random((q, k)) * wide, rng.integers(1, 9)), axis=1)
    positions = rng.integers(0, max(n, 1), (q, k))
    there = rng.choice([0, 1, k // 2, k, k, k], q) * (n > 0)
    missing = np.arange(k) >= there[:, None]
    distances[missing], positions[missing] = np.inf, -1
    return distances, positions


# ---- the CPU's bits ------------------------------------------------------------------------------


@examples(150)
@given(
    seed=st.integers(0, 2**31),
    store=st.sampled_from(STORES),
    kind=st.sampled_from(OUTPUTS),
    columns=st.sampled_from(COLUMNS),
    q=st.sampled_from([1, 2, 5, 9]),
    k=st.sampled_from([1, 2, 7, 8, 9, 31, 33, 70]),
    queries=st.sampled_from([0, 0, 1, 2]),
)
def test_device_makes_of_neighbours_what_the_cpu_does(
    sides, seed, store, kind, columns, q, k, queries
):
    rng = np.random.default_rng(seed)
    sides.tested.shuffle(seed)
    sizes = rng.integers(0, 30, rng.integers(1, 4)).tolist()
    case = drawn_case(rng, sides, store, kind, q, columns, sizes)
    found = neighbours(rng, q, k, sum(sizes))
    same_bits(case.aggregated(sides, rng, *found, forced_queries=queries), case.on_cpu(*found))


@examples(40)
@given(
    seed=st.integers(0, 2**31),
    store=st.sampled_from(STORES),
    kind=st.sampled_from(OUTPUTS),
    columns=st.sampled_from([1, 3, 10, 40]),
    metric=st.sampled_from(METRICS),
    k=st.sampled_from([1, 5, 40]),
    queries=st.sampled_from([0, 0, 1, 4]),
)
def test_device_searches_and_corrects_as_the_cpu_does(
    sides, seed, store, kind, columns, metric, k, queries
):
    rng = np.random.default_rng(seed)
    sides.tested.shuffle(seed)
    n, q = [150, 30], 7
    keys, places = make("duplicates" if seed % 2 else "gaussian", seed % 1000, sum(n), q, 9)
    case = drawn_case(rng, sides, store, kind, q, columns, n)
    excluded = rng.integers(-1, 180, (q, 2))
    segments, first = [], 0
    for size in n:
        held = sides.module.Rows(sides.ordinal, "float32", 9, metric, None, 1)
        held.extend(np.ascontiguousarray(places[first : first + size]), None, first)
        segments.append((held, size, first))
        first += size
    search = sides.module.Search(
        sides.either(rng, keys), segments, k, metric, sides.either(rng, excluded),
        device=sides.ordinal, forced=sides.module.ForcedSearch(first_phase=128),
    )  # fmt: skip
    aggregation = case.on_device(sides, rng)
    got = sides.filled(
        case.shape(q), rng.random() < 0.5, "int64" if case.argmax else "float64",
        lambda out: sides.module.correct(search, aggregation, out, forced_queries=queries),
    )  # fmt: skip
    values, positions = oracle.search(keys, places, k, metric, np.arange(sum(n)), excluded)
    same_bits(got, case.on_cpu(as_distances(values, metric), positions))


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("columns", [1, 2, 10, 1000, 50257])
def test_device_gives_the_bits_of_the_oracle(sides, store, columns):
    """From outputs to probabilities, without the core: C up to that of a language model."""
    rng = np.random.default_rng(columns)
    q, k, n = (4, 60, 90) if columns <= 1000 else (2, 9, 12)
    distances, positions = neighbours(rng, q, k, n)
    case = Case(columns, [Rows(None, None, n)], sigma=0.4, strength=0.8, kind="logits")
    case.outputs = model_outputs("logits", rng, q, columns, "float32")
    base = oracle.base("logits", case.outputs)
    if store == "labels":
        labels = rng.integers(0, columns, n)
        case.rows[0].there = sides.module.LabelRows(sides.ordinal, columns)
        case.rows[0].there.extend(labels)
        case.interpolate = True
        rows = oracle.targets("classification", labels, columns)
    elif store.startswith("sparse"):
        outputs = model_outputs("logits", rng, n, columns, "float32")
        half = store.endswith("16")
        index, value, rest, _ = _core.sparse_residuals(
            outputs, rng.integers(0, columns, n), 1.0, 5, half=half
        )
        case.rows[0].there = sides.module.SparseRows(
            sides.ordinal, str(value.dtype), columns, index.shape[1]
        )
        case.rows[0].there.extend(index, value, rest)
    else:
        rows = rng.standard_normal((n, columns)).astype(store)
        case.rows[0].there = sides.module.DenseRows(sides.ordinal, store, columns)
        case.rows[0].there.extend(rows)
    if store.startswith("sparse"):
        sums = oracle.sparse_correction(distances, positions, index, value, rest, columns, 0.4)
    else:
        sums = oracle.correction(distances, positions, rows, 0.4)
    if store == "labels":
        corrected = oracle.interpolate(base, sums, 0.8, positions)
    else:
        alone = (positions < 0).all(axis=1)[:, None]
        corrected = np.where(alone, base, oracle.correct(base, sums, 0.8))
    same_bits(case.aggregated(sides, rng, distances, positions), corrected)
    for map_ in (("clip", 1e-6), ("project", 1e-6), ("keep", 0.1)):
        case.map = map_
        wanted = oracle.simplex(corrected, map_[1], map_[0], base, 0.8)
        same_bits(case.aggregated(sides, rng, distances, positions), wanted)
    case.argmax = True
    same_bits(case.aggregated(sides, rng, distances, positions), wanted.argmax(axis=1))


def test_many_neighbours_and_segments(sides):
    """A kernel's table has 32 segments, and neighbours are weighed 32 at a time."""
    rng = np.random.default_rng(5)
    sizes = rng.integers(0, 60, 70).tolist()
    for store in STORES:
        case = drawn_case(rng, sides, store, "probabilities", 3, 4, sizes)
        for k in (32, 64, 1000):
            found = neighbours(rng, 3, k, sum(sizes))
            same_bits(case.aggregated(sides, rng, *found), case.on_cpu(*found))


def test_a_value_on_an_edge_of_a_gate_is_not_beyond_it(sides):
    rng = np.random.default_rng(20)
    rows = stored("float32", rng, 4, 4, sides)
    classes = stored("labels", rng, 4, 4, sides)
    classes.core = _core.LabelRows(np.arange(4))
    classes.there = sides.module.LabelRows(sides.ordinal, 4)
    classes.there.extend(np.arange(4))
    found = np.full((1, 4), 0.25), np.arange(4)[None]
    for feature in FEATURES:
        case = Case(4, [rows], kind="constant", value=0.25, classes=[classes])
        case.steps = ((feature, [0.125, 0.25, 0.5], [0.0, 0.3, 0.6, 1.0]),)
        same_bits(case.aggregated(sides, rng, *found), case.on_cpu(*found))
        assert case.gated(*found, case.base(1)) == 0.3


def test_rows_that_do_not_count_are_not_there(sides):
    """Positions run through the rows of each segment that a call counts."""
    rng = np.random.default_rng(6)
    rows = [stored("float32", rng, 20, 3, sides) for _ in range(2)]
    numbers = [rng.standard_normal((20, 3)).astype(np.float32) for _ in range(2)]
    for each, own in zip(rows, numbers, strict=True):
        each.there = sides.module.DenseRows(sides.ordinal, "float32", 3)
        each.there.extend(own)
    first = np.concatenate([numbers[0][:7], numbers[1][:9]])
    case = Case(3, rows)
    found = neighbours(rng, 5, 8, 16)
    wanted = _core.aggregate([_core.DenseRows(first)], *found, 1.0, 3)
    same_bits(case.aggregated(sides, rng, *found, rows=[7, 9]), wanted)
    with pytest.raises(ValueError, match="as many rows as are searched"):
        case.aggregated(sides, rng, *found, rows=[7, 21])


@pytest.mark.parametrize("argmax", [False, True])
def test_inner_products_are_distances_once_negated(sides, argmax):
    rng = np.random.default_rng(7)
    case = Case(5, [stored("float32", rng, 20, 5, sides)], argmax=argmax)
    distances, positions = neighbours(rng, 4, 6, 20)
    distances = np.where(positions >= 0, distances - 1, np.inf)
    got = case.aggregated(sides, rng, 0.0 - distances, positions, metric="inner_product")
    same_bits(got, case.on_cpu(distances, positions))


def test_dense_rows_may_be_read_where_they_lie(sides):
    rng = np.random.default_rng(8)
    numbers = rng.standard_normal((30, 6)).astype(np.float32)
    placed = sides.place(numbers)
    borrowed = sides.module.DenseRows(sides.ordinal, "float32", 6, 0)
    borrowed.extend(placed)
    assert borrowed.nbytes == 0
    case = Case(6, [Rows(_core.DenseRows(numbers), borrowed, 30)])
    found = neighbours(rng, 4, 6, 30)
    same_bits(case.aggregated(sides, rng, *found), case.on_cpu(*found))


# ---- what makes no sense -------------------------------------------------------------------------


@dataclass
class Refused:
    """Outputs of which one row is refused."""

    kind: str
    dtype: str = "float32"
    change: dict = field(default_factory=dict)  # columns -> values, of row 1


REFUSED = {
    "a NaN logit": Refused("logits", change={2: np.nan}),
    "a NaN logit of float64": Refused("logits", "float64", {2: np.nan, 1: 90.0}),
    "a half NaN": Refused("logits", "float16", {2: np.nan}),
    "+inf": Refused("logits", change={0: np.inf}),
    "+inf of float64": Refused("logits", "float64", {0: np.inf, 1: 90.0}),
    "nothing possible": Refused("logits", change=dict.fromkeys(range(4), -np.inf)),
    "a negative probability": Refused("probabilities", change={1: -0.001}),
    "a probability above 1": Refused("probabilities", change={1: 1.001}),
    "a NaN probability": Refused("probabilities", change={1: np.nan}),
    "a sum that is too large": Refused("probabilities", change={1: 0.30}),
    "a sum that is too small": Refused("probabilities", "float64", {1: 0.22}),
    "an infinite value": Refused("values", "float64", {3: -np.inf}),
    "a NaN value": Refused("values", change={3: np.nan}),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("map_", [None, ("clip", 0.1), ("project", 0.1), ("keep", 0.1)])
def test_outputs_that_the_cpu_refuses_give_a_row_of_nan(sides, name, map_):
    refused, rng = REFUSED[name], np.random.default_rng(9)
    good = np.full((3, 4), 0.25, dtype=refused.dtype)
    case = Case(4, [stored("float32", rng, 9, 4, sides)], kind=refused.kind, outputs=good.copy())
    case.map = map_
    found = neighbours(rng, 3, 5, 9)
    wanted = case.on_cpu(*found)
    wanted[1] = np.nan
    for column, value in refused.change.items():
        case.outputs[1, column] = value
    with pytest.raises(ValueError, match="row 1"):
        case.base(3)
    got = case.aggregated(sides, rng, *found)
    assert np.isnan(got[1]).all()
    same_bits(got[[0, 2]], wanted[[0, 2]])
    case.argmax, case.names = True, np.arange(4) + 40
    got = case.aggregated(sides, rng, *found)
    assert got[1] == -1
    assert got[[0, 2]].tolist() == (wanted[[0, 2]].argmax(axis=1) + 40).tolist()


BAD_NEIGHBOURS = {
    "a position beyond the rows": ([0.1, 0.2, 0.3], [1, 9, 2]),
    "a far position": ([0.1, 0.2, 0.3], [1, 2**40, 2]),
    "a NaN distance": ([0.1, np.nan, 0.3], [1, 2, 3]),
    "an infinite distance": ([0.1, 0.2, np.inf], [1, 2, 3]),
    "a distance that falls": ([0.2, 0.1, 0.3], [1, 2, 3]),
    "a negative distance": ([-0.1, 0.1, 0.3], [1, 2, 3]),
    "an id behind padding": ([0.1, np.inf, 0.3], [1, -1, 3]),
    "padding at first": ([np.inf, 0.1, 0.3], [-1, 1, 3]),
}


@pytest.mark.parametrize("name", BAD_NEIGHBOURS)
@pytest.mark.parametrize("store", ["float32", "sparse float32", "labels"])
def test_neighbours_that_the_cpu_refuses_give_a_row_of_nan(sides, name, store):
    rng = np.random.default_rng(10)
    case = Case(4, [stored(store, rng, 9, 4, sides)], kind="constant", value=0.25)
    case.classes = [stored("labels", rng, 9, 4, sides)]
    case.steps = (("agreement", [0.5], [0.5, 1.0]),)
    distances, positions = neighbours(rng, 3, 3, 9)
    wanted = case.on_cpu(distances, positions)
    distances[1], positions[1] = BAD_NEIGHBOURS[name]
    got = case.aggregated(sides, rng, distances, positions)
    assert np.isnan(got[1]).all()
    same_bits(got[[0, 2]], wanted[[0, 2]])


def test_neighbours_far_behind_padding_are_refused(sides):
    """They are weighed 32 at a time."""
    rng = np.random.default_rng(19)
    case = Case(4, [stored("float32", rng, 9, 4, sides)])
    distances, positions = np.full((2, 40), np.inf), np.full((2, 40), -1)
    distances[:, 0], positions[:, 0] = 0.0, 3
    wanted = case.on_cpu(distances, positions)
    distances[1], positions[1, 32] = np.linspace(0, 1, 40), 3
    got = case.aggregated(sides, rng, distances, positions)
    same_bits(got[0], wanted[0])
    assert np.isnan(got[1]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_queries_on_the_device_that_are_not_finite_give_nan(sides, dtype):
    rng = np.random.default_rng(11)
    keys, places = rng.standard_normal((5, 40)), rng.standard_normal((20, 40)).astype(dtype)
    keys[[1, 3], [0, 39]] = np.nan, -np.inf
    keys = keys.astype(dtype)
    held = sides.module.Rows(sides.ordinal, dtype, 40, "euclidean", None, 1)
    held.extend(places)
    case = Case(4, [stored("float32", rng, 20, 4, sides)], kind="constant", value=0.25)
    for queries, bad in ((sides.place(keys), [1, 3]), (keys, [])):
        search = sides.module.Search(queries, [(held, 20, 0)], 3, "euclidean", device=sides.ordinal)
        aggregation = case.on_device(sides, rng)
        got = sides.filled(
            (5, 4), True, "float64",
            lambda out, of=(search, aggregation): sides.module.correct(*of, out),
        )  # fmt: skip
        assert np.flatnonzero(np.isnan(got).any(axis=1)).tolist() == bad
        if bad:
            assert np.isnan(got[bad]).all()


@pytest.mark.parametrize("map_", [None, ("clip", 0.1)])
@pytest.mark.parametrize("store", ["float32", "sparse float32"])
def test_columns_on_the_device_that_are_not_there_are_nan(sides, map_, store):
    rng = np.random.default_rng(12)
    case = Case(4, [stored(store, rng, 20, 4, sides)], kind="constant", value=0.25, map=map_)
    found = neighbours(rng, 2, 3, 20)
    case.select = np.array([[0, 3, 1], [2, 2, 0]])
    wanted = case.on_cpu(*found)
    wanted[[0, 1], [1, 2]] = np.nan
    case.select = np.array([[0, 4, 1], [2, 2, -1]])
    with pytest.raises(IndexError, match=r"^column 4 is not one of the columns 0 to 3$"):
        case.aggregated(Sides(sides.tested), AlwaysOnHost(), *found)
    got = case.aggregated(sides, AlwaysOnDevice(), *found)
    same_bits(np.nan_to_num(got, nan=-1.0), np.nan_to_num(wanted, nan=-1.0))


class AlwaysOnDevice:
    """Decides that every array lies on the device."""

    def random(self):
        return 0.0


class AlwaysOnHost:
    """Decides that every array lies on the host."""

    def random(self):
        return 1.0


def test_damaged_rows_are_refused_when_they_come(sides):
    module, ordinal = sides.module, sides.ordinal
    labels = module.LabelRows(ordinal, 5)
    labels.extend(np.array([0, 4]))
    for bad in (5, -1):
        text = rf"^the stored rows are damaged: label {bad} is not one of the classes 0 to 4$"
        with pytest.raises(ValueError, match=text):
            labels.extend(np.array([0, 4, 1, bad]))
    assert len(labels) == 2
    sparse = module.SparseRows(ordinal, "float32", 5, 2)
    ones = np.ones((1, 2), np.float32), np.ones(1, np.float32)
    for bad in (5, -1):
        text = rf"^the stored rows are damaged: index {bad} is not one of the classes 0 to 4$"
        with pytest.raises(ValueError, match=text):
            sparse.extend(np.array([[1, bad]], np.int32), *ones)
    assert len(sparse) == 0


def test_what_does_not_fit_together_is_refused(sides):
    module, ordinal, rng = sides.module, sides.ordinal, np.random.default_rng(13)
    rows = stored("float32", rng, 9, 4, sides).there
    other = stored("float16", rng, 9, 4, sides).there
    labels = stored("labels", rng, 9, 4, sides).there
    refusals = {
        "one dtype": lambda: module.Aggregation([rows, other], 1.0, 4),
        "one kind": lambda: module.Aggregation([rows, labels], 1.0, 4),
        "have 5 columns": lambda: module.Aggregation([rows], 1.0, 5),
        "outputs are missing": lambda: module.Aggregation([rows], 1.0, 4, output_kind="logits"),
        "'keep' needs outputs": lambda: module.Aggregation([rows], 1.0, 4, map="keep"),
        "argmax takes all": lambda: module.Aggregation(
            [rows], 1.0, 4, argmax=True, select=np.array([1])
        ),
        "class_labels are for": lambda: module.Aggregation(
            [rows], 1.0, 4, class_labels=np.arange(4)
        ),
        "needs classes": lambda: module.Aggregation(
            [rows], 1.0, 4, gate=module.Gate(ordinal, [("agreement", [0.5], [0.0, 1.0])])
        ),
        "needs outputs": lambda: module.Aggregation(
            [rows], 1.0, 4, gate=module.Gate(ordinal, [("confidence", [0.5], [0.0, 1.0])])
        ),
        "one more than edges": lambda: module.Gate(ordinal, [("distance", [0.5], [0.0])]),
        "of all segments": lambda: module.Aggregation([rows], 1.0, 4, row_weights=[9, 9]),
    }
    for text, refused in refusals.items():
        with pytest.raises(ValueError, match=text):
            refused()
    with pytest.raises(TypeError, match="must be DenseRows"):
        module.Aggregation([3], 1.0, 4)


# ---- memory, failures, streams -------------------------------------------------------------------


@dataclass
class Prepared:
    """A search and what is made of it, with all arrays on the device but results."""

    search: Any
    aggregation: Any
    wanted: Any

    def corrected(self, sides, on_device=True, **options):
        return sides.filled(
            self.wanted.shape, on_device, "float64",
            lambda out: sides.module.correct(self.search, self.aggregation, out, **options),
        )  # fmt: skip


def prepared(sides, store="float32", workspace_bytes=0, q=9):
    """Return a search and what is made of it by gate, map and selection."""
    rng = np.random.default_rng(14)
    keys, places = make("gaussian", 15, 40, q, 6)
    held = sides.module.Rows(sides.ordinal, "float32", 6, "euclidean", None, 10**6)
    held.extend(places)
    case = Case(12, [stored(store, rng, 40, 12, sides)], kind="logits", map=("project", 0.01))
    case.outputs = model_outputs("logits", rng, q, 12, "float32")
    case.classes = [stored("labels", rng, 40, 12, sides)]
    case.steps = (("agreement", [0.3], [0.5, 1.0]), ("confidence", [0.5], [1.0, 0.7]))
    case.select = rng.integers(0, 12, (q, 3))
    search = sides.module.Search(
        sides.place(keys), [(held, 40, 0)], 7, "euclidean", device=sides.ordinal,
        workspace_bytes=workspace_bytes,
    )  # fmt: skip
    aggregation = case.on_device(sides, AlwaysOnDevice())
    wanted = case.on_cpu(*oracle.search(keys, places, 7, "euclidean"))
    return Prepared(search, aggregation, wanted)


def test_nothing_waits_where_all_arrays_lie_on_the_device(sides, emulated):
    """A wait would find that something has failed."""
    ready = prepared(sides)
    out = sides.place(np.zeros(ready.wanted.shape))
    emulated.faults().failing_wait = True
    try:
        sides.module.correct(ready.search, ready.aggregation, out)
        with pytest.raises(sides.module.DeviceError):
            sides.module.correct(ready.search, ready.aggregation, np.zeros(ready.wanted.shape))
    finally:
        emulated.reset_devices()
    same_bits(sides.tested.fetch(out.owner), ready.wanted)


def test_a_small_workspace_makes_blocks_of_queries(sides):
    ready = prepared(sides, workspace_bytes=1)
    for on_device in (False, True):
        same_bits(ready.corrected(sides, on_device), ready.wanted)


@pytest.mark.parametrize("store", STORES)
def test_blocks_of_queries_are_halved_where_memory_lacks(sides, emulated, store):
    """Whatever allocation fails, the result is the same or the error says so; nothing leaks."""
    ready = prepared(sides, store)
    before = emulated.bytes_in_use()
    faults = emulated.faults()
    try:
        for succeeding in range(6):
            faults.succeeding_allocations, faults.failing_allocations = succeeding, 1
            same_bits(ready.corrected(sides, on_device=False), ready.wanted)
            emulated.reset_devices()
            assert emulated.bytes_in_use() == before
        faults.failing_allocations = 20
        with pytest.raises(sides.module.OutOfDeviceMemory):
            ready.corrected(sides, on_device=False)
        emulated.reset_devices()
        assert emulated.bytes_in_use() == before
        faults.memory = before + 70_000  # a query needs so much, all of them more
        same_bits(ready.corrected(sides, on_device=False), ready.wanted)
    finally:
        emulated.reset_devices()


KERNELS = [
    "locate_rows", "weigh_neighbours", "soften_logits", "gate_queries", "sum_rows", "map_rows",
    "pick_columns", "refuse_queries",
]  # fmt: skip


@pytest.mark.parametrize("kernel", KERNELS)
def test_failed_launches_are_told_and_leave_no_memory(sides, emulated, kernel):
    ready = prepared(sides)
    before = emulated.bytes_in_use()
    emulated.faults().failing_kernel = kernel
    try:
        with pytest.raises(sides.module.DeviceError, match=f"kernel {kernel} failed"):
            ready.corrected(sides, on_device=False)
        assert emulated.bytes_in_use() == before
    finally:
        emulated.reset_devices()
    same_bits(ready.corrected(sides), ready.wanted)


def test_failed_copies_are_told_and_leave_no_memory(sides, emulated):
    """Arrays on the host are copied one by one; each copy fails once, and at last none does."""
    rng = np.random.default_rng(21)
    case = Case(6, [stored("float32", rng, 10, 6, sides)], kind="logits", map=("clip", 0.01))
    case.outputs, case.strengths = model_outputs("logits", rng, 3, 6, "float32"), np.ones(3)
    case.select = np.array([[0, 1], [2, 3], [4, 5]])
    found, faults = neighbours(rng, 3, 4, 10), emulated.faults()
    copies = 6  # distances, positions, strengths, outputs, select; results
    before = emulated.bytes_in_use()
    try:
        for done in range(copies + 1):
            faults.succeeding_copies, faults.failing_copies = done, 1
            if done == copies:
                same_bits(case.aggregated(sides, AlwaysOnHost(), *found), case.on_cpu(*found))
                continue
            with pytest.raises(sides.module.DeviceError, match="failed: a planted fault"):
                case.aggregated(sides, AlwaysOnHost(), *found)
            assert emulated.bytes_in_use() == before
            emulated.reset_devices()
    finally:
        emulated.reset_devices()


@pytest.mark.parametrize("store", STORES)
def test_failed_extension_leaves_the_rows_as_they_were(sides, emulated, store):
    rng = np.random.default_rng(16)
    columns = 6
    rows = stored(store, rng, 10, columns, sides)
    case, found = Case(columns, [rows]), neighbours(rng, 3, 4, 10)
    wanted = case.on_cpu(*found)
    if store == "labels":
        more = [rng.integers(0, columns, 40)]
    elif store.startswith("sparse"):
        two = np.zeros((40, 4), np.int32), np.zeros((40, 4), store.removeprefix("sparse "))
        more = [*two, np.zeros(40, np.float32)]
    else:
        more = [np.zeros((40, columns), store)]
    before, faults = emulated.bytes_in_use(), emulated.faults()
    try:
        for allowed, what in product(range(len(more)), ("allocations", "copies")):
            setattr(faults, f"succeeding_{what}", allowed)
            setattr(faults, f"failing_{what}", 1)
            with pytest.raises(sides.module.DeviceError):
                rows.there.extend(*more)
            emulated.reset_devices()
            assert len(rows.there) == 10
            assert emulated.bytes_in_use() == before
            same_bits(case.aggregated(sides, rng, *found), wanted)
    finally:
        emulated.reset_devices()
    rows.there.extend(*more)
    assert len(rows.there) == 40
    same_bits(case.aggregated(sides, rng, *found), wanted)


def test_memory_of_rows_weights_and_gates_is_given_back(sides, emulated):
    before = emulated.bytes_in_use()
    rng = np.random.default_rng(17)
    held = [stored(store, rng, 20, 8, sides).there for store in STORES]
    held.append(sides.module.RowWeights(sides.ordinal))
    held[-1].extend(np.ones(20))
    held.append(sides.module.Gate(sides.ordinal, [("distance", [1.0, 2.0], [1.0, 0.5, 0.0])]))
    assert held[-1].features == ["distance"]
    assert emulated.bytes_in_use() - before == sum(each.nbytes for each in held)
    del held
    assert emulated.bytes_in_use() == before


def test_several_devices_have_rows_of_their_own(emulated, sides):
    rng = np.random.default_rng(18)
    emulated.faults().devices = 2
    try:
        numbers = rng.standard_normal((20, 3)).astype(np.float32)
        there = emulated.DenseRows(1, "float32", 3)
        there.extend(numbers)
        case = Case(3, [Rows(_core.DenseRows(numbers), there, 20)])
        distances, positions = neighbours(rng, 3, 4, 20)
        aggregation = case.on_device(sides, AlwaysOnHost())
        out = np.empty((3, 3))
        with pytest.raises(ValueError, match="on the call's device"):
            emulated.aggregate(aggregation, distances, positions, out, device=0)
        emulated.aggregate(aggregation, distances, positions, out, device=1)
        same_bits(out, case.on_cpu(distances, positions))
        del there, aggregation, case
    finally:
        emulated.reset_devices()
