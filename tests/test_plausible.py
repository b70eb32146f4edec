"""Data that are likely misread: which warnings come, at whose line and how often."""

from __future__ import annotations

import json
import pickle
import re
import time
import warnings

import numpy as np
import pytest

import resmem
from resmem.__main__ import main
from resmem._rows import plausible

N, D, C = 300, 4, 3
RNG = np.random.default_rng(7)
Z = RNG.standard_normal((N, D)).astype(np.float32)
L = RNG.standard_normal((N, C)).astype(np.float32)
Y = RNG.integers(0, C, N)
P = np.exp(L) / np.exp(L).sum(axis=1, keepdims=True)
FRESH = Z[:100] + np.float32(0.1)
QUICK = {"k": [1, 2], "sigma": 1.0, "strength": 1, "temperature": 1.0, "probability_map": "clip"}


def memory(**options):
    return resmem.Memory(**{"k": 5, **options}).fit(Z, L, Y)


def warnings_of(call):
    """Return the warnings of a call, which must all point to a line of this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    found = [w for w in caught if issubclass(w.category, resmem.ResmemWarning)]
    assert all(w.filename == __file__ for w in found)
    return [str(w.message) for w in found]


# ---- Probabilities given as logits ---------------------------------------------------------------

ENTRIES = {
    "fit": lambda p: resmem.Memory().fit(Z[:100], p, Y[:100]),
    "add": lambda p: memory().add(FRESH, p, Y[:100]),
    "correct": lambda p: memory().correct(FRESH, p),
    "predict": lambda p: memory().predict(FRESH, p),
    "predict_proba": lambda p: memory().predict_proba(FRESH, p),
    "aggregate": lambda p: memory().aggregate(*memory().kneighbors(FRESH), p),
    "explain": lambda p: memory().explain(FRESH, p),
    "evaluate": lambda p: memory().evaluate(FRESH, p, Y[:100]),
    "tune": lambda p: memory().tune(FRESH, p, Y[:100], apply=False, **QUICK),
    "tune, several": lambda p: memory().tune(
        FRESH, p, Y[:100], apply=False, preprocess=["unit"], **QUICK
    ),
}


LOGARITHMS = ", or, if it was fitted with log-probabilities, pass numpy.log(outputs)"


@pytest.mark.parametrize("entry", ENTRIES)
def test_probabilities_given_as_logits_are_warned_of_once(entry):
    (text,) = warnings_of(lambda: ENTRIES[entry](P[:100]))
    assert text == (
        "outputs look like probabilities: none is negative and every row sums to 1, but they are "
        "taken for logits; make the memory with output_kind='probabilities'"
        + ("" if entry in ("fit", "add") else LOGARITHMS)
    )
    assert warnings_of(lambda: ENTRIES[entry](L[:100])) == []


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_probabilities_of_every_dtype_are_recognized(dtype):
    assert warnings_of(lambda: memory().correct(FRESH, P[:100].astype(dtype)))
    assert (
        "percent" in warnings_of(lambda: memory().correct(FRESH, (100 * P[:100]).astype(dtype)))[0]
    )


def test_one_row_of_exact_probabilities_is_recognized():
    assert warnings_of(lambda: memory().correct(FRESH[:1], P[:1]))
    assert warnings_of(lambda: memory().correct(FRESH[:1], [[0.2, 0.3, 0.501]])) == []


def test_logits_are_not_warned_of():
    some = {
        "zeros": np.zeros((100, C)),
        "positive": np.abs(L[:100]),
        "one row that is not": np.vstack([P[:99], [[0.5, 0.6, 0.7]]]),
        "log of probabilities": np.log(P[:100]),
        "no rows": L[:0],
    }
    for name, outputs in some.items():
        assert warnings_of(lambda o=outputs: memory().correct(FRESH[: len(o)], o)) == [], name
    one = resmem.Memory().fit(Z, np.ones((N, 1)), np.zeros(N, int))
    assert warnings_of(lambda: one.correct(FRESH, np.ones((100, 1)))) == []
    assert warnings_of(lambda: resmem.Memory(output_kind="probabilities").fit(Z, P, Y)) == []
    assert warnings_of(lambda: resmem.Memory("regression").fit(Z, P, P)) == []


def test_probabilities_in_a_sliced_data_set_are_warned_of():
    class Lazy:
        shape, dtype = P.shape, P.dtype

        def __getitem__(self, rows):
            assert isinstance(rows, slice)
            return P[rows]

    assert warnings_of(lambda: resmem.Memory().fit(Z, Lazy(), Y))


def test_check_of_logits_takes_little_time():
    outputs = np.tile(L, (10, 1))
    mem = memory(k=50)

    def fastest(call):
        times = []
        for _ in range(5):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times)

    queries = np.tile(Z, (10, 1))
    whole = fastest(lambda: mem.correct(queries, outputs))
    assert fastest(lambda: plausible.check_logits(mem._state.view.spec, outputs)) < 0.02 * whole


# ---- Rows of the memory --------------------------------------------------------------------------


@pytest.mark.parametrize("key_dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("preprocess", ["none", "pca:2"])
def test_evaluated_rows_of_the_memory_are_warned_of(key_dtype, preprocess):
    mem = memory(key_dtype=key_dtype, preprocess=preprocess)
    for judge in (mem.evaluate, lambda *a: mem.tune(*a, apply=False, **QUICK)):
        (text,) = warnings_of(lambda judge=judge: judge(Z, L, Y))
        assert "100% of the" in text
        assert "exclude_ids" in text
        assert warnings_of(lambda judge=judge: judge(Z + np.float32(0.1), L, Y)) == []
        assert warnings_of(lambda judge=judge: judge(Z, L, (Y + 1) % C)) == []
    assert warnings_of(lambda: mem.evaluate(Z, L, Y, np.arange(N))) == []
    assert (
        warnings_of(lambda: mem.tune(Z, L, Y, exclude_ids=np.arange(N), apply=False, **QUICK)) == []
    )


@pytest.mark.parametrize(("own", "warned"), [(4, False), (20, True)])
def test_more_than_a_twentieth_of_own_rows_is_warned_of(own, warned):
    """A warning needs more than one in twenty rows, and at least two."""
    mem, z = memory(), np.vstack([Z[:own], Z[own:100] + np.float32(0.1)])
    assert bool(warnings_of(lambda: mem.evaluate(z, L[:100], Y[:100]))) == warned
    assert bool(warnings_of(lambda: mem.tune(z, L[:100], Y[:100], apply=False, **QUICK))) == warned
    assert warnings_of(lambda: mem.evaluate(Z[:1], L[:1], Y[:1])) == []


def test_rows_of_values_are_compared_in_all_their_columns():
    mem = resmem.Memory("regression", k=5).fit(Z, L, L + 1)
    assert warnings_of(lambda: mem.evaluate(Z, L, L + 1))
    other = L + 1
    other[:, 2] += 1
    assert warnings_of(lambda: mem.evaluate(Z, L, other)) == []


def test_removed_rows_do_not_count_as_own_rows():
    mem = memory().add(FRESH, L[:100], Y[:100])
    mem.remove(np.arange(N))
    assert warnings_of(lambda: mem.evaluate(Z, L, Y)) == []
    assert warnings_of(lambda: mem.evaluate(FRESH, L[:100], Y[:100]))


# ---- Squared distances ---------------------------------------------------------------------------


def test_squared_distances_are_warned_of():
    mem = memory()
    distances, ids = mem.kneighbors(Z[:50] + np.float32(0.01))
    (text,) = warnings_of(lambda: mem.aggregate(distances**2, ids, L[:50]))
    assert "pass metric='sqeuclidean'" in text
    assert warnings_of(lambda: mem.aggregate(distances, ids, L[:50])) == []
    assert warnings_of(lambda: mem.aggregate(distances**2, ids, L[:50], metric="sqeuclidean")) == []


def test_plain_distances_taken_for_squared_are_warned_of():
    mem = resmem.Memory(k=5).fit(1000 * Z, L, Y)
    distances, ids = mem.kneighbors(1000 * Z[:50] + 1)
    (text,) = warnings_of(lambda: mem.aggregate(distances, ids, metric="sqeuclidean"))
    assert "pass metric='euclidean'" in text


# ---- Names of columns ----------------------------------------------------------------------------

LETTERS = list("abcd")
CLASSES = ["cat", "dog", "eel"]


def frames(library):
    """Return embeddings and outputs as DataFrames."""
    module = pytest.importorskip(library)
    if library == "polars":
        return module.DataFrame(Z, schema=LETTERS), module.DataFrame(L, schema=CLASSES)
    return module.DataFrame(Z, columns=LETTERS), module.DataFrame(L, columns=CLASSES)


@pytest.fixture(params=["pandas", "polars"])
def tables(request):
    return frames(request.param)


QUERIES = {
    "add": lambda m, z, o: m.add(z, o, Y),
    "kneighbors": lambda m, z, o: m.kneighbors(z),
    "correction": lambda m, z, o: m.correction(z),
    "correct": lambda m, z, o: m.correct(z, o),
    "predict": lambda m, z, o: m.predict(z, o),
    "predict_proba": lambda m, z, o: m.predict_proba(z, o),
    "explain": lambda m, z, o: m.explain(z, o),
    "evaluate": lambda m, z, o: m.evaluate(z, o, Y, np.arange(N)),
    "tune": lambda m, z, o: m.tune(z, o, Y, exclude_ids=np.arange(N), apply=False, **QUICK),
}


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.filterwarnings("ignore:tune")
def test_columns_in_another_order_are_refused(query, tables):
    z, outputs = tables
    mem = resmem.Memory(k=5).fit(z, outputs, Y)
    assert mem.embedding_names_ == tuple(LETTERS)
    assert mem.output_names_ == tuple(CLASSES)
    QUERIES[query](mem, z, outputs)
    mem = resmem.Memory(k=5).fit(z, outputs, Y)
    message = (
        r"^embeddings must have the columns that fit had in their order, column 1 is 'd' and not "
        r"'b'; pass embeddings\[list\(memory\.embedding_names_\)\]$"
    )
    with pytest.raises(ValueError, match=message):
        QUERIES[query](mem, z[list("adcb")], outputs)
    if query not in ("kneighbors", "correction"):
        with pytest.raises(ValueError, match=r"pass outputs\[list\(memory\.output_names_\)\]$"):
            QUERIES[query](mem, z, outputs[CLASSES[::-1]])
    assert len(mem) == N
    QUERIES[query](mem, Z, L)  # arrays have no names to differ


@pytest.mark.parametrize("kind", ["boolean", "bool", "str"])
def test_table_of_mixed_column_types_is_refused_with_advice(kind):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"a": [0.5, 1.5, 2.5], "b": pandas.array([1, 0, 1]).astype(kind)})
    with pytest.raises(TypeError) as refused:
        resmem.search(table, table, 1)
    hint = re.search(r"columns that do not, b; .* example with (.*), or", str(refused.value))
    table = eval(hint[1], {"queries": table, "rows": table})
    assert resmem.search(table, table, 1)[1][:, 0].tolist() == [0, 1, 2]
    mem = resmem.Memory("regression", k=1).fit(table, np.zeros(3), np.arange(3.0))
    with pytest.raises(ValueError, match="had in their order"):
        mem.predict(table[["b", "a"]], np.zeros(3))


def test_search_refuses_queries_with_reordered_columns(tables):
    z = tables[0]
    assert (resmem.search(z, z, 1)[0] == 0).all()
    with pytest.raises(ValueError, match=r"pass queries\[list\(rows\.columns\)\]$"):
        resmem.search(z[LETTERS[::-1]], z, 1)
    resmem.search(Z, z, 1)


def test_misspelt_settings_set_as_attributes_are_refused():
    mem = memory()
    for name in ("n_neighbors", "temprature", "sigmas", "alpha"):
        with pytest.raises(AttributeError, match=f"has no '{name}' to set"):
            setattr(mem, name, 2)
    for name in ("metric", "store", "task"):
        with pytest.raises(
            AttributeError, match=rf"{name} cannot .* resmem\.Memory\({name}=\.\.\)"
        ):
            setattr(mem, name, "cosine")
    for name in ("preprocess", "key_dtype"):
        with pytest.raises(AttributeError, match=rf"replace\(memory\.settings, {name}=\.\.\)"):
            setattr(mem, name, "float64")
    mem.comment = "of its user"
    assert pickle.loads(pickle.dumps(mem)).comment == "of its user"


def test_a_subclass_may_set_attributes_of_its_own():
    class OfOneBase(resmem.Memory):
        base = None

    mem = OfOneBase()
    mem.base = "of the subclass"
    assert mem.base == "of the subclass"


def test_aggregate_refuses_outputs_with_reordered_columns(tables):
    mem = resmem.Memory(k=5).fit(*tables, Y)
    found = mem.kneighbors(Z)
    mem.aggregate(*found, tables[1])
    with pytest.raises(ValueError, match="column 0 is 'eel' and not 'cat'"):
        mem.aggregate(*found, tables[1][CLASSES[::-1]])


def test_missing_or_extra_columns_are_named(tables):
    z, outputs = tables
    mem = resmem.Memory(k=5).fit(z, outputs, Y)
    with pytest.raises(
        ValueError, match=r"column 'd' is missing; rename the columns, or pass numpy"
    ):
        mem.predict(z[list("abc")], outputs)
    wider = z.to_numpy()[:, [0, 1, 2, 3, 0]]
    wider = type(z)(wider, **{"schema" if "polars" in str(type(z)) else "columns": list("abcde")})
    with pytest.raises(ValueError, match="column 4 is 'e', which fit had not"):
        mem.predict(wider, outputs)


def test_tables_without_text_names_are_not_compared():
    pandas = pytest.importorskip("pandas")
    for names in (range(D), ["a", "b", 3, 4]):
        mem = resmem.Memory(k=5).fit(pandas.DataFrame(Z, columns=names), L, Y)
        assert mem.embedding_names_ is None
        mem.predict(pandas.DataFrame(Z, columns=LETTERS), L)


def test_targets_with_reordered_columns_are_refused():
    pandas = pytest.importorskip("pandas")
    values = pandas.DataFrame(L, columns=CLASSES)
    turned = values[CLASSES[::-1]]
    with pytest.raises(ValueError, match=r"pass targets\[list\(outputs\.columns\)\]$"):
        resmem.Memory("regression").fit(Z, values, turned)
    mem = resmem.Memory("regression", k=5).fit(Z, values, values)
    others = np.arange(N)
    for judge in (mem.evaluate, mem.tune):
        with pytest.raises(ValueError, match=r"pass targets\[list\(memory\.output_names_\)\]$"):
            judge(Z, values, turned, exclude_ids=others)
    assert mem.evaluate(Z, values, values.rename(columns=str.upper), others).rows == N


def test_column_names_are_kept_in_copies_and_files(tables, tmp_path):
    mem = resmem.Memory(k=5).fit(*tables, Y)
    path = tmp_path / "m.resmem"
    mem.save(path)
    copies = [pickle.loads(pickle.dumps(mem)), resmem.Memory.load(path)]
    for suffix in (".npz", ".safetensors"):
        mem.export(tmp_path / f"m{suffix}")
        copies.append(resmem.Memory.load(tmp_path / f"m{suffix}"))
    copies[1].add(FRESH, L[:100], Y[:100]).save(path, append=True)
    copies.append(resmem.Memory.load(path))
    for copy in copies:
        assert copy.embedding_names_ == tuple(LETTERS)
        assert list(copy.info()["output_names"]) == CLASSES
        with pytest.raises(ValueError, match="in their order"):
            copy.predict(tables[0][LETTERS[::-1]], L)
    assert mem.fit(Z, L, Y).embedding_names_ is None


@pytest.mark.parametrize("names", [["a"], "abcd", [1, 2, 3, 4], {"a": 1}])
def test_malformed_column_names_in_a_file_are_refused(names, tmp_path, monkeypatch):
    mem, path = memory(), tmp_path / "m.resmem"
    settings = mem._state.settings
    monkeypatch.setattr(
        mem._state, "settings", lambda *a: {**settings(*a), "embedding_names": names}
    )
    mem.save(path)
    with pytest.raises(resmem.FileFormatError, match="embedding_names"):
        resmem.Memory.load(path)


def test_very_long_column_names_are_not_kept():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(Z, columns=[letter * 300_000 for letter in LETTERS])
    assert resmem.Memory().fit(table, L, Y).embedding_names_ is None


# ---- Scores with swapped arguments ---------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:tune")
def test_score_with_swapped_arguments_is_refused():
    def backwards(y_true, y_pred):
        return 0.0

    def forwards(predictions, targets):
        return float((predictions.argmax(axis=1) == targets).mean())

    def anyhow(a, b):
        return 0.5

    mem = memory()
    rows = FRESH, L[:100], Y[:100]
    for wrong in (backwards, lambda targets, predictions: 0.0, lambda y, y_hat: 0.0):
        with pytest.raises(TypeError, match=r"pass lambda predictions, targets: .*\(targets, pred"):
            mem.tune(*rows, score=wrong, greater_is_better=True)
    for right in (forwards, anyhow):
        mem.tune(*rows, score=right, greater_is_better=True, apply=False, **QUICK)


def test_scores_of_scikit_learn_are_refused():
    metrics = pytest.importorskip("sklearn.metrics")
    mem = memory()
    for wrong in (metrics.log_loss, metrics.accuracy_score, metrics.brier_score_loss):
        with pytest.raises(TypeError, match="score must take"):
            mem.tune(FRESH, L[:100], Y[:100], score=wrong, greater_is_better=False)
    with pytest.raises(TypeError, match="takes an estimator"):
        mem.tune(
            FRESH,
            L[:100],
            Y[:100],
            score=metrics.make_scorer(metrics.accuracy_score),
            greater_is_better=True,
        )


# ---- The command line ----------------------------------------------------------------------------


@pytest.mark.filterwarnings("default::resmem.ResmemWarning")
@pytest.mark.parametrize("more", [[], ["--json"], ["--quiet"]])
def test_the_command_line_warns_in_one_line(more, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("r.npz", embeddings=Z, outputs=P, targets=Y)
    rows = ["--embeddings", "r.npz", "--outputs", "r.npz"]
    assert main(["fit", "m.resmem", *rows, "--targets", "r.npz", *more]) == 0
    out, err = capsys.readouterr()
    line = (
        "resmem: warning: outputs look like probabilities: none is negative and every row sums to "
        "1, but they are taken for logits; make the memory with --output-kind probabilities"
    )
    assert [text for text in err.splitlines() if "warning" in text] == [line]
    if more == ["--json"]:
        assert json.loads(out)["file"] == "m.resmem"
    monkeypatch.setattr("resmem._cli.queries._BLOCK_ROWS", 7)
    assert main(["predict", "m.resmem", *rows, "--output", "p.npy", *more]) == 0
    assert capsys.readouterr().err.splitlines() == [line + LOGARITHMS]
    assert main(["tune", "m.resmem", *rows, "--targets", "r.npz", "--k", "2", *more]) == 0
    assert capsys.readouterr().err.splitlines() == [line + LOGARITHMS]
    assert main(["evaluate", "m.resmem", *rows, "--targets", "r.npz", *more]) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert first == line + LOGARITHMS
    assert second.startswith("resmem: warning: evaluate: 100% of the evaluated rows lie on rows")
    assert "name them with --exclude-ids" in second
    assert second.endswith("or resmem evaluate --loo")


# ---- Calls that take long ------------------------------------------------------------------------


def head_of(columns):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((columns, D)).astype(np.float32)
    targets = rng.integers(0, columns, N)
    return resmem.Memory(k=5, store="head", head=(weight, None)).fit(Z, None, targets), targets


@pytest.mark.filterwarnings("ignore:tune")
def test_progress_over_a_head_moves_at_least_every_second():
    mem, targets = head_of(20_000)
    times = [time.monotonic()]
    mem.tune(
        FRESH[:20], None, targets[:20], k=[16, 64], sigma=1.0, temperature=[1.0, 2.0],
        apply=False, progress=lambda done: times.append(time.monotonic()),
    )  # fmt: skip
    times.append(time.monotonic())
    assert max(np.diff(times)) < 2  # seconds, on a machine that others use as well


@pytest.mark.filterwarnings("ignore:tune")
def test_long_tuning_without_progress_is_warned_of(monkeypatch):
    mem, targets = head_of(5_000)
    rows = FRESH[:20], None, targets[:20]
    some = {**QUICK, "k": [64], "temperature": [1.0, 2.0, 3.0], "apply": False}
    assert warnings_of(lambda: mem.tune(*rows, **some)) == []
    monkeypatch.setattr("resmem._tuning.tune._FORECAST_AFTER", 0.0)
    monkeypatch.setattr("resmem._tuning.tune._LONG", 0.0)
    (text,) = warnings_of(lambda: mem.tune(*rows, **some))
    assert text.startswith("tuning takes some ")
    assert "progress=True" in text
    assert warnings_of(lambda: mem.tune(*rows, progress=lambda done: None, **some)) == []


def test_forecast_counts_the_work_that_is_left(monkeypatch):
    from resmem._tuning import tune

    now = [0.0]
    monkeypatch.setattr(tune.time, "monotonic", lambda: now[0])
    forecast = tune._Forecast(tune._Steps(100, 200, 50, 10))
    said = []
    monkeypatch.setattr(tune, "warn", said.append)
    for _ in range(4):  # a search of 2 s
        now[0] += 0.5
        forecast(25)
    now[0] += 0.9
    forecast(1)
    assert said == []
    now[0] += 0.9  # two rows in 1.8 s: 198 and as many as 10 others are left
    forecast(1)
    assert [text[:29] for text in said] == ["tuning takes some 187 s more;"]
    now[0] += 5
    forecast(1)
    assert len(said) == 1
