"""Corrections on a device: the bits of the CPU for every setting, and nothing on the way through
the host."""

from __future__ import annotations

import gc
import re
from functools import partial

import numpy as np
import pytest

import resmem
from cases import METRICS
from devices import Stream
from resmem._devices import engine
from resmem._rows.visibility import EVERY_ROW
from tested_device import DEVICE

Q, D = 9, 5
GATES = {
    "distance": "distance: 1.0 to 1.0, 0.5 to 1.8, 0.0 beyond",
    "confidence": "confidence: 1.0 to 0.4, 0.3 beyond",
    "agreement": "agreement: 0.25 to 0.6, 1.0 beyond",
    "all": "distance: 1.0 to 1.8, 0.5 beyond; confidence: 1.0 to 0.5, 0.7 beyond; "
    "agreement: 0.5 to 0.5, 1.0 beyond",
}


@pytest.fixture
def there(tested):
    """The device, which forgets its failures afterwards."""
    yield tested
    tested.forget_failures()


@pytest.fixture
def calls(there, monkeypatch):
    """Count what the extension is asked for: searches, corrections and aggregations."""
    counted = []

    def counts(name):
        real = getattr(engine, name)

        def call(*given, **named):
            counted.append(name)
            return real(*given, **named)

        return call

    for name in ("search", "correct", "aggregate"):
        monkeypatch.setattr(engine, name, counts(name))
    return counted


# ---- Random memories and queries -----------------------------------------------------------------


class Drawn:
    """A memory with settings drawn by a seed, the arguments of its rows, and queries for it."""

    def __init__(self, seed, n=150, **fixed):
        self.rng = rng = np.random.default_rng(seed)
        self.settings = settings = {**drawn_settings(rng, fixed), **fixed}
        self.columns = settings.pop("columns")
        self.flat = settings.pop("flat", False)
        self.weighted, self.timed = settings.pop("weighted"), settings.pop("timed")
        if not self.timed:
            settings.pop("half_life", None)
        self.classes = settings["task"] == "classification"
        self.kind = settings["output_kind"]
        if settings.get("gate") == "drawn":
            settings["gate"] = self._gate()
        self.memory = resmem.Memory(**settings)
        self.memory.fit(*self.rows(n), **self.attributes(n))
        gone = rng.permutation(self.memory.ids)[: int(rng.integers(0, 40))]
        self.memory.remove(gone)
        if rng.random() < 0.5:
            ids = 1000 + rng.permutation(500)[:60]
            self.memory.add(*self.rows(60), ids=ids, **self.attributes(60))
        self.embeddings, self.outputs, _ = self.rows(Q)
        self.memory.sigma = float(rng.choice([0.4, 3.0, np.inf]))

    def _gate(self):
        names = ["distance", "confidence", "agreement", "all"] if self.classes else ["distance"]
        return GATES[str(self.rng.choice(names))]

    def rows(self, n):
        """Return embeddings, outputs and targets of ``n`` rows; some embeddings are alike."""
        rng, columns = self.rng, self.columns
        dtype = "float64" if self.settings.get("key_dtype") == "float64" else "float32"
        embeddings = rng.standard_normal((n, D)).astype(dtype)
        embeddings[: n // 4] = np.round(embeddings[: n // 4])
        if not self.classes:
            shape = n if self.flat else (n, columns)
            return embeddings, self.given(rng.standard_normal(shape)), rng.standard_normal(shape)
        outputs = 2 * rng.standard_normal((n, columns))
        if self.kind == "probabilities":
            outputs = np.exp(outputs)
            outputs /= outputs.sum(axis=1, keepdims=True)
        elif columns > 1:
            outputs[: n // 3, 0] = -np.inf
        return embeddings, self.given(outputs.astype(np.float32)), rng.integers(0, columns, n)

    def given(self, outputs):
        return None if self.kind == "none" else outputs

    def attributes(self, n):
        rng, given = self.rng, {"groups": self.rng.integers(0, 4, n)}
        if self.weighted:
            given["sample_weight"] = rng.choice([0.0, 0.25, 1.0, 3.0], n)
        if self.timed:
            given["times"] = rng.integers(0, 50, n)
        return given

    def asks(self):
        """Return which rows the queries may see, drawn anew."""
        rng, asks = self.rng, {}
        if rng.random() < 0.5:
            asks["exclude_ids"] = rng.integers(-1, 150, (Q, 3))
        if rng.random() < 0.3:
            asks["exclude_groups"] = rng.integers(-1, 4, Q)
        if self.timed and rng.random() < 0.3:
            asks["before"] = rng.integers(0, 60, Q)
        if rng.random() < 0.3:
            asks["among"] = self.memory.ids[: len(self.memory) // 2]
        return asks


def drawn_settings(rng, fixed):
    """Return settings of a memory that go with each other, and with those that are fixed."""
    task = str(rng.choice(["classification", "classification", "regression"]))
    task = fixed.get("task", task)
    settings = {
        "task": task,
        "k": int(rng.choice([1, 4, 11])),
        "metric": str(rng.choice(METRICS)),
        "columns": int(rng.choice([1, 2, 10])),
        "weighted": bool(rng.random() < 0.4),
        "timed": bool(rng.random() < 0.5),
        "half_life": float(rng.choice([5.0, 40.0])),
        "method": str(rng.choice(["residual", "residual", "targets"])),
        "gate": str(rng.choice(["none", "drawn"])),
        "key_dtype": str(rng.choice(["float32", "float16", "bfloat16", "float64"])),
    }
    settings["strength"] = float(rng.choice([0.0, 0.6, 1.0]))
    if settings["metric"] == "cosine" and settings["key_dtype"] == "float64":
        settings["metric"] = "euclidean"
    if task == "regression":
        settings["output_kind"] = str(rng.choice(["values", "values", "none"]))
        settings["flat"] = bool(settings["columns"] == 1 and rng.random() < 0.7)
        settings["residual_dtype"] = str(rng.choice(["float64", "float32", "float16"]))
        return settings
    if settings["method"] == "residual":
        settings["strength"] = float(rng.choice([-0.5, 0.6, 1.0, 1.7]))
    settings["output_kind"] = str(rng.choice(["logits", "logits", "probabilities", "none"]))
    settings["store"] = str(rng.choice(["dense", "sparse:2", "sparse:40"]))
    settings["residual_dtype"] = str(rng.choice(["float32", "float16"]))
    settings["probability_map"] = str(rng.choice(["clip", "project", "keep", "keep:0.4"]))
    if fixed.get("output_kind", settings["output_kind"]) == "logits":
        settings["temperature"] = float(rng.choice([1.0, 2.5]))
    return settings


def answers(memory, embeddings, outputs, columns, asks, fetch=lambda array: array):
    """Return what a memory answers, by name; all of it must be arrays of one place."""
    found = {
        "correction": memory.correction(embeddings, **asks),
        "correct": memory.correct(embeddings, outputs, **asks),
        "predict": memory.predict(embeddings, outputs, **asks),
    }
    for name, chosen in columns.items():
        found[f"correction {name}"] = memory.correction(embeddings, columns=chosen, **asks)
        found[f"correct {name}"] = memory.correct(embeddings, outputs, columns=chosen, **asks)
    if memory.task == "classification":
        found["proba"] = memory.predict_proba(embeddings, outputs, **asks)
        for name, chosen in columns.items():
            found[f"proba {name}"] = memory.predict_proba(
                embeddings, outputs, columns=chosen, **asks
            )
    return {name: fetch(array) for name, array in found.items()}


def assert_alike(got, wanted, *about):
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        assert (got[name].shape, got[name].dtype) == (array.shape, array.dtype), (name, *about)
        assert got[name].tobytes() == array.tobytes(), (name, *about)


def same_answers(drawn, there, **place):
    """Compare the memory's answers on the CPU with those to arrays on the device.

    ``place`` says where its rows are, as ``Memory.to`` takes it.
    """
    rng, asks = drawn.rng, drawn.asks()
    columns = {}
    if not drawn.flat:
        columns["alike"] = rng.integers(0, drawn.columns, 3)
        columns["of each"] = rng.integers(0, drawn.columns, (Q, 2))
    memory = drawn.memory.to("cpu")
    wanted = answers(memory, drawn.embeddings, drawn.outputs, columns, asks)
    memory.to(**{"device": DEVICE, **place})
    among = {name: value for name, value in asks.items() if name == "among"}
    placed = {name: there.place(value) for name, value in asks.items() if name != "among"}
    outputs = None if drawn.outputs is None else there.place(drawn.outputs)
    got = answers(
        memory, there.place(drawn.embeddings), outputs,
        {name: there.place(value) for name, value in columns.items()}, {**placed, **among},
        there.fetch,
    )  # fmt: skip
    assert_alike(got, wanted, drawn.settings)
    mixed = answers(
        memory, there.place(drawn.embeddings), drawn.outputs, columns, asks, there.fetch
    )
    assert_alike(mixed, wanted, "mixed", drawn.settings)


@pytest.mark.parametrize("seed", range(24))
def test_a_memory_on_a_device_corrects_with_the_bits_of_the_cpu(there, calls, monkeypatch, seed):
    there.shuffle(seed)
    if seed % 2:  # in blocks of queries, each with what it may see
        in_blocks = partial(there.extension.correct, forced_queries=4)
        monkeypatch.setattr(there.extension, "correct", in_blocks)
    same_answers(Drawn(seed), there)
    assert calls.count("correct") > 4


@pytest.mark.parametrize("store", ["dense", "sparse:3"])
@pytest.mark.parametrize("columns", [1000, 50_257])
def test_many_columns_have_the_bits_of_the_cpu(there, store, columns):
    drawn = Drawn(
        7, task="classification", columns=columns, store=store, output_kind="logits",
        residual_dtype="float16", method="residual", probability_map="keep", gate=GATES["all"],
    )  # fmt: skip
    drawn.embeddings, drawn.outputs = drawn.embeddings[:2], drawn.outputs[:2]
    memory, (embeddings, outputs) = drawn.memory, (drawn.embeddings, drawn.outputs)
    chosen = np.array([columns - 1, 0, columns // 2])
    wanted = answers(memory.to("cpu"), embeddings, outputs, {"some": chosen}, {})
    placed = there.place(embeddings), there.place(outputs), {"some": there.place(chosen)}
    assert_alike(answers(memory.to(DEVICE), *placed, {}, there.fetch), wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("kind", ["logits", "probabilities", "values"])
def test_outputs_of_every_type_are_read_on_the_device(there, dtype, kind):
    task = "regression" if kind == "values" else "classification"
    drawn = Drawn(3, task=task, output_kind=kind, columns=4, store="dense", residual_dtype=None)
    outputs = drawn.outputs.astype(dtype)
    wanted = drawn.memory.to("cpu").correct(drawn.embeddings, outputs)
    got = drawn.memory.to(DEVICE).correct(there.place(drawn.embeddings), there.place(outputs))
    assert there.fetch(got).tobytes() == wanted.tobytes()


def test_outputs_may_lie_on_the_device_alone(there, calls):
    """Then keys may be made on the CPU, and results are in host memory, as the embeddings are."""
    drawn = Drawn(4, task="classification", output_kind="logits", preprocess="center", columns=3,
                  key_dtype="float32", metric="euclidean", store="dense")  # fmt: skip
    wanted = drawn.memory.to("cpu").predict_proba(drawn.embeddings, drawn.outputs)
    got = drawn.memory.to(DEVICE).predict_proba(drawn.embeddings, there.place(drawn.outputs))
    assert isinstance(got, np.ndarray)
    assert got.tobytes() == wanted.tobytes()
    assert calls == ["correct"]


def test_host_arrays_are_aggregated_on_the_cpu(there, calls):
    drawn = Drawn(4, store="dense", task="classification", output_kind="logits", gate="none")
    drawn.memory.to(DEVICE).correct(drawn.embeddings, drawn.outputs)
    assert calls == ["search"]


# ---- Classes -------------------------------------------------------------------------------------


def labelled(labels):
    """Return a memory whose classes have these labels, and queries for it."""
    drawn = Drawn(5, task="classification", columns=len(labels), output_kind="logits")
    embeddings, outputs, targets = drawn.rows(80)
    memory = resmem.Memory(k=3).fit(embeddings, outputs, np.array(labels)[targets])
    return memory, drawn.rows(30)[:2]


@pytest.mark.parametrize("labels", [[0, 1, 2], [30, -10, 7], [5, 6, 2**60]], ids=str)
def test_classes_that_are_integers_are_predicted_on_the_device(there, labels):
    memory, queries = labelled(labels)
    wanted = memory.predict(*queries)
    assert set(wanted) == set(labels)
    got = there.fetch(memory.to(DEVICE).predict(*map(there.place, queries)))
    assert got.dtype == wanted.dtype == np.int64
    assert got.tolist() == wanted.tolist()


def test_names_of_classes_change_with_the_rows(there):
    memory, queries = labelled([30, -10, 7])
    memory.to(DEVICE)
    placed = [there.place(each) for each in queries]
    for names in ([30, -10, 7], [4, 5, 6], [30, -10, 7]):
        other, _ = labelled(names)
        rows = other.get(other.ids)
        memory.fit(rows.embeddings, rows.outputs, rows.targets)
        assert there.fetch(memory.predict(*placed)).tolist() == other.predict(*queries).tolist()
        assert there.fetch(memory.predict(*placed)).tolist() == other.predict(*queries).tolist()


@pytest.mark.parametrize(
    ("name", "strength"), [("keep:0.9", 1.0), ("clip", -1.0), ("clip", 1.0)]
)  # fmt: skip
def test_classes_are_the_first_of_mapped_sums_where_that_matters(there, name, strength):
    """Shares of the base, or a negative strength beside a class that is ruled out."""
    drawn = Drawn(5, task="classification", columns=3, output_kind="logits", store="dense")
    memory = resmem.Memory(k=3, probability_map=name, strength=strength).fit(*drawn.rows(90))
    embeddings, outputs, _ = drawn.rows(120)
    wanted = memory.predict(embeddings, outputs)
    plain_sums = memory.correct(embeddings, outputs).argmax(1)
    assert (wanted == plain_sums).all() == ((name, strength) == ("clip", 1.0))
    got = memory.to(DEVICE).predict(there.place(embeddings), there.place(outputs))
    assert there.fetch(got).tolist() == wanted.tolist()


@pytest.mark.parametrize("labels", [["no", "yes"], [False, True], [0.5, 1.5]], ids=str)
def test_other_classes_are_refused_with_words_that_help(there, labels):
    memory, queries = labelled(labels)
    wanted = memory.predict(*queries)
    placed = [*map(there.place, queries)]
    with pytest.raises(ValueError, match=r"where they are integers, not (text|bool|float64)") as no:
        memory.to(DEVICE).predict(*placed)
    assert "; pass a copy of embeddings in host memory and a copy of outputs in" in str(no.value)
    assert memory.predict(*queries).tolist() == wanted.tolist()
    assert re.search(r"memory\.correct\(\.\.\)\.argmax\(1\)", str(no.value))
    numbers = there.fetch(memory.correct(*placed)).argmax(1)
    assert memory.classes_[numbers].tolist() == wanted.tolist()


@pytest.mark.parametrize(("name", "strength"), [("keep:0.9", 1.0), ("clip", -1.0)])
def test_numbers_of_other_classes_are_what_the_error_names(there, name, strength):
    """Those of ``correct`` are others where a map changes which class is first."""
    drawn = Drawn(5, task="classification", columns=3, output_kind="logits", store="dense")
    embeddings, outputs, targets = drawn.rows(90)
    memory = resmem.Memory(k=3, probability_map=name, strength=strength)
    memory.fit(embeddings, outputs, np.array(["a", "b", "c"])[targets])
    queries = drawn.rows(120)[:2]
    wanted = memory.predict(*queries).tolist()
    placed = [*map(there.place, queries)]
    with pytest.raises(ValueError, match=r"where they are integers") as caught:
        memory.to(DEVICE).predict(*placed)
    named = re.search(r"memory\.(\w+)\(\.\.\)\.argmax\(1\)", str(caught.value)).group(1)
    numbers = there.fetch(getattr(memory, named)(*placed)).argmax(1)
    assert memory.classes_[numbers].tolist() == wanted


# ---- Residency -----------------------------------------------------------------------------------


@pytest.fixture
def uploads(there, monkeypatch):
    """Note what is brought: the kind of rows, and from which row to which."""
    noted = []

    def noting(kind):
        class Noting(getattr(there.extension, kind)):
            def extend(self, *arrays):
                before = len(self)
                super().extend(*arrays)
                if len(self) > before:
                    noted.append((kind, before, len(self)))

        return Noting

    for kind in ("DenseRows", "SparseRows", "LabelRows", "RowWeights"):
        monkeypatch.setattr(there.extension, kind, noting(kind))
    return noted


def plain(n=90, there=None, **settings):
    """Return a memory with room for more rows, on the device, and queries placed there."""
    drawn = Drawn(
        6, task="classification", columns=3, output_kind="logits", store="dense",
        key_dtype="float32",
    )  # fmt: skip
    rows, more = drawn.rows(n), drawn.rows(40)
    memory = resmem.Memory(k=4, **settings).add(*rows)
    return memory, more, [there.place(array) for array in drawn.rows(Q)[:2]]


def on_cpu(memory, placed, there):
    """Return what the memory's copy on the CPU makes of the same queries."""
    other = resmem.Memory.__copy__(memory).to("cpu")
    return other.correct(*map(there.fetch, placed))


def check(memory, placed, there):
    got = there.fetch(memory.correct(*placed))
    assert got.tobytes() == on_cpu(memory, placed, there).tobytes()


def test_residuals_are_brought_once_and_added_ones_alone(there, uploads):
    memory, more, placed = plain(there=there)
    memory.to(DEVICE)
    assert uploads == []  # until a correction needs them
    for _ in range(3):
        check(memory, placed, there)
        memory.predict(*placed)
    assert uploads == [("DenseRows", 0, 90)]
    for part in (slice(0, 10), slice(10, 40)):
        memory.add(*(array[part] for array in more)).remove(memory.ids[:10])
        check(memory, placed, there)
    assert uploads == [("DenseRows", 0, 90), ("DenseRows", 0, 10), ("DenseRows", 10, 40)]
    memory.method = "targets"
    check(memory, placed, there)
    check(memory, placed, there)
    memory.method = "residual"
    check(memory, placed, there)
    assert uploads[3:] == [("LabelRows", 0, 90), ("LabelRows", 0, 40)]


def test_residuals_at_another_temperature_are_brought_anew(there, uploads):
    memory, _, placed = plain(there=there)
    memory.to(DEVICE)
    check(memory, placed, there)
    size = memory.info()["device_nbytes"]
    memory.temperature = 3.0
    check(memory, placed, there)
    check(memory, placed, there)
    assert uploads == [("DenseRows", 0, 90)] * 2
    assert memory.info()["device_nbytes"] == size


def test_decayed_weights_are_brought_anew_when_rows_come(there, uploads):
    _, rows, placed = plain(there=there)
    memory = resmem.Memory(k=4, sigma=2.0)
    attributes = {"times": np.arange(40), "sample_weight": np.linspace(0.5, 2.0, 40)}

    def add(first, last):
        memory.add(
            *(array[first:last] for array in rows),
            **{name: array[first:last] for name, array in attributes.items()},
        )

    add(0, 20)
    add(20, 30)
    memory.to(DEVICE)
    check(memory, placed, there)
    segments = [(0, 20), (0, 10)]
    both = [(kind, *rows) for kind in ("DenseRows", "RowWeights") for rows in segments]
    assert uploads == both
    memory.half_life = 6
    check(memory, placed, there)
    check(memory, placed, there)
    assert uploads[4:] == both[2:]
    add(30, 40)
    check(memory, placed, there)
    assert uploads[6:] == [("DenseRows", 10, 20), ("RowWeights", 0, 20), ("RowWeights", 0, 20)]
    memory.half_life = None
    check(memory, placed, there)
    assert uploads[9:] == [("RowWeights", 10, 20)]


def test_another_gate_takes_the_place_of_the_one_before(there):
    memory, _, placed = plain(there=there)
    memory.to(DEVICE)
    for name in (*GATES.values(), "none", GATES["distance"]):
        memory.gate = name
        check(memory, placed, there)


def test_what_was_brought_goes_with_its_rows_and_the_memory(there, emulated):
    gc.collect()
    before = emulated.bytes_in_use()
    memory, more, placed = plain(there=there)
    memory.to(DEVICE).gate = GATES["all"]
    first = memory.correct(*placed)
    held = emulated.bytes_in_use()
    assert memory.info()["device_nbytes"] > 90 * (D + 3) * 4
    second = memory.correct(*placed)
    del first
    assert emulated.bytes_in_use() == held
    memory.fit(*more)
    memory.correct(*placed)
    gc.collect()
    assert emulated.bytes_in_use() < held
    del memory, second, placed
    gc.collect()
    assert emulated.bytes_in_use() == before


def test_two_memories_share_a_device(there):
    for settings in ({}, {"method": "targets"}):
        memory, _, placed = plain(there=there)
        other, _, _ = plain(50, there=there, **settings)
        for each in (memory, other):
            each.to(DEVICE)
        for each in (memory, other, memory):
            check(each, placed, there)


# ---- Nothing through the host, and results where they are asked for ------------------------------


@pytest.mark.parametrize("method", ["correction", "correct", "predict", "predict_proba"])
def test_arrays_there_are_corrected_without_a_wait(there, emulated, method):
    memory, _, placed = plain(there=there)
    memory.gate = GATES["all"]
    given = placed[:1] if method == "correction" else placed
    wanted = getattr(memory, method)(*map(there.fetch, given))
    memory.to(DEVICE).correct(*placed)  # brings residuals, classes and the gate
    emulated.faults().failing_wait = True
    got = getattr(memory, method)(*given)
    near = memory.kneighbors(placed[0])
    summed = memory.aggregate(*near, placed[1])
    emulated.faults().failing_wait = False
    assert there.fetch(got).tobytes() == wanted.tobytes()
    assert there.fetch(summed).tobytes() == there.fetch(memory.correct(*placed)).tobytes()
    emulated.faults().failing_wait = True
    with pytest.raises(resmem.DeviceError):  # The results of embeddings in host memory need one.
        memory.correct(there.fetch(placed[0]), placed[1])


def test_calls_work_in_the_order_of_the_stream(there, monkeypatch):
    memory, _, placed = plain(there=there)
    memory.to(DEVICE)
    near = [*map(there.place, memory.kneighbors(there.fetch(placed[0])))]
    asked = []
    monkeypatch.setattr(engine, "described", lambda call, *given: asked.append(call.stream))
    for name in ("correct", "aggregate"):
        monkeypatch.setattr(engine, name, lambda call, *given: asked.append(call.stream))
    out = there.place(np.empty((Q, 3)))
    memory.correct(*placed, stream=4096, out=out)
    memory.predict_proba(*placed, stream=Stream(cuda_stream=8192), out=out)
    memory.aggregate(*near, stream=64, out=out)
    memory.correct(*placed, out=out)
    assert asked == [4096, 4096, 8192, 8192, 64, 0, 0]
    with pytest.raises(
        ValueError, match=r"stream must be None where the memory is on cpu, .* memory\.to\('cuda'\)"
    ):
        memory.to("cpu").correct(*map(there.fetch, placed), stream=64)


def test_a_running_call_keeps_the_rows_that_it_began_with(there):
    memory, more, placed = plain(there=there)
    memory.add(*(array[:5] for array in more))  # to a segment that has room for others
    memory.to(DEVICE)
    corrections = memory._corrections(None, None, None, None)
    wanted = there.fetch(corrections.of_queries(*placed, EVERY_ROW))
    memory.add(*(array[5:] for array in more)).remove(np.arange(30))
    check(memory, placed, there)
    got = there.fetch(corrections.of_queries(*placed, EVERY_ROW))
    assert got.tobytes() == wanted.tobytes()
    near = np.zeros((2, 1)), np.array([[94], [95]])  # the last row that it knew, and the next
    got = there.fetch(corrections.of_neighbours(*map(there.place, near), None, None, None))
    assert np.isnan(got).all(axis=1).tolist() == [False, True]


def test_results_are_written_where_out_says(there):
    memory, _, placed = plain(there=there)
    queries = [*map(there.fetch, placed)]
    wanted = {
        "correct": memory.correct(*queries),
        "predict_proba": memory.predict_proba(*queries),
        "predict": memory.predict(*queries),
    }
    for device in ("cpu", DEVICE):
        memory.to(device)
        for method, array in wanted.items():
            out = np.empty_like(array)
            assert getattr(memory, method)(*queries, out=out) is out
            assert out.tobytes() == array.tobytes()
    for method, array in wanted.items():
        out = there.place(np.zeros_like(array))
        assert getattr(memory, method)(*placed, out=out) is out
        assert there.fetch(out).tobytes() == array.tobytes()
    with pytest.raises(ValueError, match=r"^out must have shape \(9, 3\), got \(9, 2\); pass "):
        memory.correct(*placed, out=there.place(np.empty((9, 2))))
    with pytest.raises(ValueError, match=r"^out must have dtype int64, got float64; pass "):
        memory.predict(*placed, out=there.place(np.empty(9)))


def test_values_of_a_flat_memory_are_flat_on_the_device(there):
    drawn = Drawn(9, task="regression", columns=1, flat=True, output_kind="values")
    wanted = drawn.memory.to("cpu").predict(drawn.embeddings, drawn.outputs)
    assert wanted.shape == (Q,)
    placed = there.place(drawn.embeddings), there.place(drawn.outputs)
    out = there.place(np.empty(Q))
    assert drawn.memory.to(DEVICE).predict(*placed, out=out) is out
    assert there.fetch(out).tobytes() == wanted.tobytes()
    got = there.fetch(drawn.memory.correct(*placed))
    assert (got.shape, got.tobytes()) == ((Q,), wanted.tobytes())


def test_queries_without_a_number_have_no_answer_there(there):
    """No call waits to tell of them; all others have the bits of the CPU."""
    memory, _, placed = plain(there=there)
    embeddings, outputs = (there.fetch(array).copy() for array in placed)
    embeddings[1, 0], outputs[4, 1] = np.nan, np.inf
    bad = np.isin(np.arange(Q), [1, 4])
    wanted = memory.correct(embeddings[~bad], outputs[~bad])
    classes = memory.predict(embeddings[~bad], outputs[~bad])
    queries = there.place(embeddings), there.place(outputs)
    got = there.fetch(memory.to(DEVICE).correct(*queries))
    assert np.isnan(got[bad]).all()
    assert got[~bad].tobytes() == wanted.tobytes()
    got = there.fetch(memory.predict(*queries))
    assert got[bad].tolist() == [-1, -1]
    assert got[~bad].tolist() == classes.tolist()
    chosen = there.place(np.array([0, 3, 1]))
    got = there.fetch(memory.correct(*queries, columns=chosen))
    assert np.isnan(got[:, 1]).all()
    assert got[~bad][:, [0, 2]].tobytes() == wanted[:, [0, 1]].tobytes()


def test_wide_queries_of_an_empty_memory_are_read_as_float64(there):
    """Half of a float64 may be a float32 that is none, and half of NaN one that is."""
    memory = resmem.Memory(task="regression", output_kind="values", key_dtype="float64", k=2)
    memory.fit(np.empty((0, 3)), np.empty((0, 2)), np.empty((0, 2)))
    embeddings, outputs = np.ones((4, 3)), np.arange(8.0).reshape(4, 2)
    embeddings.view(np.uint64)[0, 1] |= np.uint64(0x7FC00000)
    embeddings[3, 0] = np.nan
    got = there.fetch(memory.to(DEVICE).correct(there.place(embeddings), there.place(outputs)))
    assert np.isnan(got[3]).all()
    assert got[:3].tolist() == outputs[:3].tolist()


# ---- Known neighbours ----------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("method", ["residual", "targets"])
def test_known_neighbours_on_the_device_are_aggregated_there(there, calls, metric, method):
    memory, more, placed = plain(there=there, metric=metric, method=method)
    memory.add(*more)
    memory.gate = GATES["all"]
    near = memory.kneighbors(there.fetch(placed[0]), 6)
    outputs = there.fetch(placed[1])
    wanted = {
        name: memory.aggregate(*near, *given)
        for name, given in (("outputs", (outputs,)), ("nothing", ()))
    }
    wanted["columns"] = memory.aggregate(*near, outputs, columns=[2, 0])
    memory.to(DEVICE)
    near_there = [*map(there.place, near)]
    got = {
        "outputs": memory.aggregate(*near_there, placed[1]),
        "nothing": memory.aggregate(*near_there),
        "columns": memory.aggregate(*near_there, placed[1], columns=[2, 0]),
    }
    assert_alike({name: there.fetch(array) for name, array in got.items()}, wanted, metric)
    assert calls.count("aggregate") == 3
    host = memory.aggregate(*near, placed[1])
    assert isinstance(host, np.ndarray)
    assert host.tobytes() == wanted["outputs"].tobytes()


def test_neighbours_that_cannot_be_are_no_answer_there(there):
    memory, _, placed = plain(there=there)
    distances, ids = memory.kneighbors(there.fetch(placed[0]), 3)
    distances, ids = distances.copy(), ids.copy()
    wanted = memory.aggregate(distances, ids)
    distances[2, 0], ids[5, 1], ids[7, 0] = np.inf, 90, -1
    got = there.fetch(memory.to(DEVICE).aggregate(there.place(distances), there.place(ids)))
    bad = np.isin(np.arange(Q), [2, 5, 7])
    assert np.isnan(got[bad]).all()
    assert got[~bad].tobytes() == wanted[~bad].tobytes()


def test_ids_that_are_no_row_numbers_are_looked_up_on_the_cpu(there):
    memory, more, placed = plain(there=there)
    given, _, _ = plain(there=there)
    given.add(*more, ids=np.arange(500, 540))
    memory.remove([3])
    for each in (memory, given):
        near = each.kneighbors(there.fetch(placed[0]))
        wanted = each.aggregate(*near)
        each.to(DEVICE)
        with pytest.raises(
            ValueError, match=r"ids are looked up on the CPU, .*; pass a copy of dis"
        ):
            each.aggregate(*map(there.place, near))
        assert each.aggregate(*near).tobytes() == wanted.tobytes()
        outputs = there.fetch(placed[1])
        got = each.aggregate(*near, placed[1])
        assert got.tobytes() == each.aggregate(*near, outputs).tobytes()


def test_squared_distances_are_made_roots_by_the_caller(there):
    memory, _, placed = plain(there=there)
    memory.to(DEVICE)
    squares, ids = memory.kneighbors(placed[0], squared=True)
    with pytest.raises(ValueError, match=r"pass their square roots with metric='euclidean'"):
        memory.aggregate(squares, ids, metric="sqeuclidean")
    roots = there.place(np.sqrt(there.fetch(squares)))
    got = there.fetch(memory.aggregate(roots, ids, metric="euclidean"))
    assert got.tobytes() == there.fetch(memory.correction(placed[0])).tobytes()
    memory, _, _ = plain(there=there, metric="sqeuclidean")
    memory.to(DEVICE)
    with pytest.raises(ValueError, match=r"pass their squares with metric='sqeuclidean'"):
        memory.aggregate(roots, ids, metric="euclidean")


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "inner_product"])
def test_residuals_of_a_caller_are_aggregated_where_they_lie(there, calls, dtype, metric):
    rng = np.random.default_rng(10)
    residuals = rng.standard_normal((70, 6)).astype(dtype)
    queries, rows = (rng.standard_normal((n, 4)).astype(np.float32) for n in (8, 70))
    near = resmem.search(queries, rows, 5, metric)
    base = rng.standard_normal((8, 6))
    given = {"sigma": 0.7, "base": base, "strength": 0.4, "metric": metric}
    wanted = resmem.aggregate(*near, residuals, **given)
    alone = resmem.aggregate(*near, residuals, 0.7, metric=metric)
    on_device = {**given, "device": DEVICE}
    place = there.place
    near_there, held = [*map(place, near)], place(residuals)
    for rows_given in (held, residuals):
        for base_given in (place(base), base):
            got = resmem.aggregate(*near_there, rows_given, **{**on_device, "base": base_given})
            assert there.fetch(got).tobytes() == wanted.tobytes()
    out = place(np.empty((8, 6)))
    assert resmem.aggregate(*near_there, held, **on_device, out=out) is out
    assert there.fetch(out).tobytes() == wanted.tobytes()
    got = resmem.aggregate(*near_there, held, 0.7, metric=metric, device=DEVICE)
    assert there.fetch(got).tobytes() == alone.tobytes()
    for rows_given in (held, residuals):
        got = resmem.aggregate(*near, rows_given, **on_device)
        assert isinstance(got, np.ndarray)
        assert got.tobytes() == wanted.tobytes()
    assert calls == ["aggregate"] * 8
    out = np.empty((8, 6))
    assert resmem.aggregate(*near, residuals, **given, out=out) is out
    assert out.tobytes() == wanted.tobytes()


# ---- What the CPU alone does ---------------------------------------------------------------------


def head_memory(there, **settings):
    rng = np.random.default_rng(11)
    weight, bias = (rng.standard_normal(s).astype(np.float32) for s in ((3, D), 3))
    embeddings = rng.standard_normal((60, D)).astype(np.float32)
    memory = resmem.Memory(k=4, store="head", head=(weight, bias), **settings)
    memory.fit(embeddings, None, rng.integers(0, 3, 60))
    return memory, embeddings[:Q] + np.float32(0.1), (embeddings @ weight.T + bias)[:Q]


def test_a_head_computes_on_the_cpu_and_says_so(there):
    memory, embeddings, _ = head_memory(there)
    wanted = memory.correct(embeddings)
    memory.to(DEVICE)
    for ask in (memory.correct, memory.predict, memory.correction, memory.predict_proba):
        with pytest.raises(ValueError, match=r"residuals of store='head' are computed on the CPU"):
            ask(there.place(embeddings))
    assert memory.correct(embeddings).tobytes() == wanted.tobytes()


def test_targets_of_a_head_are_summed_on_the_device(there):
    memory, embeddings, outputs = head_memory(there, method="targets", strength=0.6)
    wanted = memory.correct(embeddings, outputs), memory.correction(embeddings)
    placed = there.place(embeddings), there.place(outputs)
    memory.to(DEVICE)
    got = memory.correct(*placed), memory.correction(placed[0])
    assert [there.fetch(g).tobytes() for g in got] == [w.tobytes() for w in wanted]
    with pytest.raises(ValueError, match=r"outputs of store='head' are computed on the CPU; pass"):
        memory.correct(placed[0])


def calibrated(memory, queries):
    return memory.calibrate(*queries, np.arange(len(queries[0])) % 3)


CPU_METHODS = {
    "tune": lambda m, z, y, c: m.tune(z, y, np.arange(Q) % 3),
    "evaluate": lambda m, z, y, c: m.evaluate(z, y, 1 + np.arange(Q) % 2),
    "explain": lambda m, z, y, c: m.explain(z, y),
    "audit": lambda m, z, y, c: m.audit(among=z),
    "prune": lambda m, z, y, c: m.prune(z, y, np.arange(Q) % 3),
    "calibrate": lambda m, z, y, c: m.calibrate(z, y, np.arange(Q) % 3),
    "predict_interval": lambda m, z, y, c: m.predict_interval(z, y, c),
    "predict_set": lambda m, z, y, c: m.predict_set(z, outputs=y, calibration=c),
    "novelty": lambda m, z, y, c: m.novelty(embeddings=z),
    "update": lambda m, z, y, c: m.monitor().update(z, y, np.arange(Q) % 3),
}


@pytest.mark.parametrize("method", CPU_METHODS)
def test_other_methods_say_that_they_compute_on_the_cpu(there, method):
    memory, _, placed = plain(there=there)
    memory.to(DEVICE)
    for each in (memory, resmem.Memory.__copy__(memory).to("cpu")):
        with pytest.raises(TypeError) as caught:
            CPU_METHODS[method](each, *placed, None)
        said = str(caught.value)
        assert said.startswith(f"{method} computes on the CPU and takes arrays in host memory")
        assert "; pass a copy of " in said


@pytest.mark.parametrize("method", ["explain", "predict_set", "novelty", "evaluate", "calibrate"])
def test_other_methods_find_their_neighbours_on_the_device(there, calls, method):
    memory, _, placed = plain(there=there)
    queries = [*map(there.fetch, placed)]
    calibration = calibrated(memory, queries)
    wanted = CPU_METHODS[method](memory, *queries, calibration)
    got = CPU_METHODS[method](memory.to(DEVICE), *queries, calibration)
    assert "search" in calls
    if isinstance(wanted, np.ndarray):
        assert got.tobytes() == wanted.tobytes()
    else:
        assert str(got) == str(wanted)


def test_an_index_takes_host_arrays(there):
    index = resmem.Index(np.eye(4))
    with pytest.raises(TypeError, match=r"^search computes on the CPU .*; pass a copy of queries"):
        index.search(there.place(np.eye(4, dtype=np.float32)), 1)


def test_a_number_of_threads_is_checked_on_a_device_too(there):
    memory, _, placed = plain(there=there)
    z, y = placed
    memory.to(DEVICE)
    distances, ids = np.zeros((Q, 2)), np.zeros((Q, 2), dtype=np.int64)
    for call in (
        lambda: memory.correct(z, y, threads=0),
        lambda: memory.predict(z, y, threads=0),
        lambda: memory.aggregate(there.place(distances), there.place(ids), y, threads=0),
        lambda: memory.kneighbors(z, threads=0),
        lambda: resmem.search(z, z, 2, threads=0, device=DEVICE),
        lambda: resmem.aggregate(distances, ids, y, 1.0, threads=0, device=DEVICE),
    ):
        with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
            call()


def test_row_numbers_in_host_memory_are_checked(there):
    residuals = there.place(np.ones((4, 2), dtype=np.float32))
    ids = np.array([[0, 3], [1, 4]])
    with pytest.raises(ValueError, match=r"ids must be rows of residuals, 0 to 3, or -1; got 4"):
        resmem.aggregate(np.zeros((2, 2)), ids, residuals, 1.0, device=DEVICE)


def test_what_the_cpu_alone_reads_says_where_it_lies(there):
    memory, _, placed = plain(there=there)
    z, y = placed
    numbers = there.place(np.arange(3))
    memory.to(DEVICE)
    for name, call in {
        "among": lambda: memory.correct(z, y, among=numbers),
        "ids": lambda: memory.remove(numbers),
        "embeddings": lambda: memory.add(z, y, np.zeros(Q, dtype=int)),
        "rows": lambda: resmem.Index(z),
    }.items():
        with pytest.raises(TypeError, match=rf"^{name} lies on .*; pass .*{name}"):
            call()


def test_a_memory_on_the_cpu_says_how_to_move_it(there):
    memory, _, placed = plain(there=there)
    with pytest.raises(ValueError, match=r"the memory on cpu; move it with memory.to\('cuda"):
        memory.correct(*placed)
    assert there.fetch(memory.to(DEVICE).correct(*placed)).shape == (Q, 3)


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"outputs": np.zeros((Q, 2), np.float32)}, ValueError, "outputs must have 3 columns as"),
        ({"outputs": np.zeros((4, 3), np.float32)}, ValueError, r"outputs must have one row per"),
        ({"outputs": np.zeros(Q, np.float32)}, ValueError, r"outputs must have shape \(q, C\)"),
        ({"outputs": np.zeros((Q, 3), np.int64)}, TypeError, "outputs must have dtype float32 or"),
        ({"embeddings": np.zeros((Q, 4), np.float32)}, ValueError, "embeddings must have 5 colum"),
        ({"columns": np.zeros((Q, 1, 1), np.int64)}, ValueError, r"columns must have shape \(t,\)"),
        ({"columns": np.zeros((2, 1), np.int64)}, ValueError, "columns must have one row per row"),
        ({"columns": np.zeros(2, np.int32)}, TypeError, "columns must have dtype int64, got int32"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_refused_there(there, change, kind, said):
    memory, _, placed = plain(there=there)
    given = {"embeddings": placed[0], "outputs": placed[1]}
    with pytest.raises(kind, match=said):
        memory.to(DEVICE).correct(**given | {n: there.place(a) for n, a in change.items()})


def test_settings_that_refuse_arrays_do_so_there(there):
    drawn = Drawn(9, task="regression", columns=1, flat=True, output_kind="values")
    placed = there.place(drawn.embeddings), there.place(drawn.outputs)
    memory = drawn.memory.to(DEVICE)
    with pytest.raises(ValueError, match="columns needs outputs of several columns"):
        memory.correct(*placed, columns=there.place(np.zeros(1, np.int64)))
    with pytest.raises(ValueError, match=r"outputs must have shape \(q,\)"):
        memory.correct(placed[0], there.place(drawn.outputs[:, None]))
    with pytest.raises(ValueError, match="predict_proba needs task='classification'"):
        memory.predict_proba(*placed)
    silent = Drawn(9, task="classification", columns=3, output_kind="none", store="dense").memory
    with pytest.raises(ValueError, match="outputs must be None with output_kind='none'"):
        silent.to(DEVICE).correct(placed[0], placed[1])
    center, _, placed = plain(there=there, preprocess="center")
    with pytest.raises(TypeError, match=r"made of them on the CPU \(preprocess='center'\)"):
        center.to(DEVICE).correct(*placed)
