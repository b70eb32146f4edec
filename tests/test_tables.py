"""Tables and columns of pandas, Polars and Arrow: the memory is that of the arrays they hold."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest

import resmem

RNG = np.random.default_rng(8)
N, D, C = 24, 3, 3
Z = RNG.standard_normal((N, D)).astype(np.float32)
L = RNG.standard_normal((N, C)).astype(np.float32)
Y = np.arange(N) % C
NAMES = np.array(["cat", "dog", "eel"])
COLUMNS = list("abc")
FAST = {"k": [2], "sigma": 1.0, "temperature": 1.0, "strength": 1, "apply": False}


def pandas_tables():
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    table = pd.DataFrame(Z, columns=COLUMNS)
    outputs = pd.DataFrame(L, columns=COLUMNS)
    nullable = [part.astype("Float32") for part in (table, outputs)]
    vectors = pd.DataFrame({"z": list(Z)}), pd.DataFrame({"z": L.tolist()})
    return {
        "plain": (table, outputs, pd.Series(Y), Y),
        "nullable": (*nullable, pd.Series(Y, dtype="Int8"), Y),
        "some nullable": (table.astype({"b": "Float32"}), outputs, pd.Series(Y, dtype="Int64"), Y),
        "text": (table, outputs, pd.Series(NAMES[Y], dtype="string"), NAMES[Y]),
        "categories": (table, outputs, pd.Series(NAMES[Y], dtype="category"), NAMES[Y]),
        "frame of labels": (table, outputs, pd.DataFrame({"y": NAMES[Y]}), NAMES[Y]),
        "dummies": (table, outputs, pd.get_dummies(pd.Series(Y)), Y),
        "vectors": (*vectors, pd.Series(Y), Y),
        "columns of vectors": (vectors[0].z, vectors[1].z, pd.Series(Y), Y),
    }


def polars_tables():
    pl = pytest.importorskip("polars", reason="Polars is not installed")
    table, outputs = pl.DataFrame(Z, schema=COLUMNS), pl.DataFrame(L, schema=COLUMNS)
    rows = pl.Series("z", Z.tolist(), dtype=pl.Array(pl.Float32, D))
    lists = pl.Series("z", L.tolist(), dtype=pl.List(pl.Float32))
    return {
        "plain": (table, outputs, pl.Series(Y), Y),
        "text": (table, outputs, pl.Series(NAMES[Y]), NAMES[Y]),
        "categorical": (table, outputs, pl.Series(NAMES[Y], dtype=pl.Categorical), NAMES[Y]),
        "enum": (table, outputs, pl.Series(NAMES[Y], dtype=pl.Enum(NAMES.tolist())), NAMES[Y]),
        "columns of vectors": (rows, lists, pl.Series(Y), Y),
        "vectors": (rows.to_frame(), lists.to_frame(), pl.DataFrame({"y": Y}), Y),
    }


def arrow_tables():
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    table, outputs = (
        pa.table({name: part[:, i] for i, name in enumerate(COLUMNS)}) for part in (Z, L)
    )
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(Z.ravel()), D)
    lists = pa.chunked_array([pa.array(part.tolist(), pa.list_(pa.float32())) for part in
                              (L[:7], L[7:])])  # fmt: skip
    return {
        "plain": (table, outputs, pa.chunked_array([Y[:5], Y[5:]]), Y),
        "text": (table, outputs, pa.array(NAMES[Y]), NAMES[Y]),
        "dictionary": (table, outputs, pa.array(NAMES[Y]).dictionary_encode(), NAMES[Y]),
        "columns of vectors": (fixed, lists, pa.array(Y), Y),
        "vectors": (pa.table({"z": fixed}), pa.table({"z": lists}), pa.table({"y": Y}), Y),
    }


TABLES = {"pandas": pandas_tables, "polars": polars_tables, "pyarrow": arrow_tables}
KINDS = {
    "pandas": [
        "plain", "nullable", "some nullable", "text", "categories", "frame of labels", "dummies",
        "vectors", "columns of vectors",
    ],
    "polars": ["plain", "text", "categorical", "enum", "columns of vectors", "vectors"],
    "pyarrow": ["plain", "text", "dictionary", "columns of vectors", "vectors"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize(
    ("library", "kind"), [(name, kind) for name, kinds in KINDS.items() for kind in kinds]
)
def test_tables_are_the_arrays_they_hold(library, kind, tmp_path):
    tables = TABLES[library]()
    assert list(tables) == KINDS[library]
    z, outputs, targets, labels = tables[kind]
    mem = resmem.Memory(k=4).fit(z, outputs, targets)
    plain = resmem.Memory(k=4).fit(Z, L, labels)
    np.testing.assert_array_equal(mem.classes_, plain.classes_)
    for each in (mem, plain):
        given = (z, outputs, targets) if each is mem else (Z, L, labels)
        each.add(*given)
        each.tuned = each.tune(*given, **FAST).best
        each.scores = each.evaluate(*given).methods
        each.limits = each.calibrate(*given).scores.tobytes()
    assert (mem.tuned, mem.scores, mem.limits) == (plain.tuned, plain.scores, plain.limits)
    mem.save(tmp_path / "m.resmem")
    loaded = resmem.Memory.load(tmp_path / "m.resmem")
    expected = plain.predict_proba(Z, L)
    np.testing.assert_array_equal(loaded.predict_proba(z, outputs), expected)
    assert loaded.embedding_names_ == (None if "vectors" in kind else tuple(COLUMNS))
    values = resmem.Memory("regression", k=4).fit(z, outputs, outputs)
    np.testing.assert_array_equal(values.predict(z, outputs), values.predict(Z, L))


@pytest.mark.parametrize(
    ("library", "kind"),
    [(name, kind) for name, kinds in KINDS.items() for kind in kinds if "vectors" not in kind],
)
def test_tables_without_rows_are_queries_and_first_rows(library, kind):
    z, outputs, targets, _ = TABLES[library]()[kind]
    mem = resmem.Memory(k=4).fit(z, outputs, targets)
    assert len(mem.predict(z[:0], outputs[:0])) == 0
    assert len(resmem.Memory().fit(z[:0], outputs[:0], targets[:0])) == 0


def test_categories_give_the_order_of_columns():
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    order = ["eel", "ant", "cat"]
    given = pd.Categorical(np.array(["cat", "eel"])[Y % 2], categories=order)  # no ant
    mem = resmem.Memory(k=1).fit(Z, L, given)
    assert mem.classes_.tolist() == order
    assert mem.predict(Z, np.zeros_like(L)).tolist() == list(given)
    with pytest.raises(ValueError, match=r"the labels 'eel', 'ant', 'cat', and outputs have 2"):
        resmem.Memory().fit(Z, L[:, :2], given)
    logits = resmem.out_of_fold(lambda X, y, Z: np.zeros((len(Z), 3)), Z, given)
    assert logits.shape == (N, 3)


def test_missing_values_are_named():
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    table = pd.DataFrame(Z, columns=COLUMNS).astype("Float32")
    table.loc[5, "b"] = pd.NA
    with pytest.raises(ValueError, match="row 5 has no value in column 'b'; leave") as refused:
        resmem.Memory().fit(table, L, Y)
    filled = eval(str(refused.value).rpartition("with ")[2], {"embeddings": table})
    resmem.Memory().fit(filled, L, Y)
    for gaps in (pd.Series([1, None] * 12, dtype="Int64"), pd.Series(["a", None] * 12)):
        with pytest.raises(ValueError, match="targets: row 1 has no "):
            resmem.Memory().fit(Z, L, gaps)


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_nulls_of_other_tables_are_refused(library):
    z, _, _, _ = TABLES[library]()["plain"]
    gaps = [1.0, None] * (N // 2)
    if library == "polars":
        z = z.with_columns(b=type(z["a"])(gaps))
    else:
        z = z.set_column(1, "b", [gaps])
    with pytest.raises(ValueError, match="embeddings: row 1 holds NaN"):
        resmem.Memory().fit(z, L, Y)


@pytest.mark.parametrize("library", TABLES)
def test_queries_are_put_in_the_order_of_rows(library):
    rows, outputs, _, _ = TABLES[library]()["plain"]
    order = ["c", "a", "b"]
    mixed = rows[order] if library == "pandas" else rows.select(order)
    with pytest.raises(ValueError, match="column 0 is 'c' and not 'a'; pass ") as refused:
        resmem.search(mixed, rows, 1)
    code = str(refused.value).rpartition("pass ")[2]
    ordered = eval(code, {"queries": mixed, "rows": rows})
    assert resmem.search(ordered, rows, 1)[1][:, 0].tolist() == [*range(N)]
    with pytest.raises(ValueError, match="targets must have the columns of outputs") as refused:
        resmem.Memory("regression").fit(rows, outputs, mixed)
    code = str(refused.value).rpartition("pass ")[2]
    ordered = eval(code, {"targets": mixed, "outputs": outputs})
    resmem.Memory("regression").fit(rows, outputs, ordered)


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_columns_in_another_order_are_put_in_order(library):
    z, outputs, targets, _ = TABLES[library]()["plain"]
    mem = resmem.Memory(k=4).fit(z, outputs, targets)
    turned = z.select(["c", "a", "b"])
    with pytest.raises(ValueError, match="column 0 is 'c' and not 'a'; pass ") as refused:
        mem.predict(turned, outputs)
    code = str(refused.value).rpartition("pass ")[2]
    ordered = eval(code, {"embeddings": turned, "memory": mem})
    np.testing.assert_array_equal(mem.predict(ordered, outputs), mem.predict(Z, L))


def test_no_table_library_is_imported():
    code = (
        "import sys, numpy as np, resmem; z = np.eye(3); "
        "resmem.Memory().fit(z, z, ['a', 'b', 'c']).predict(z.tolist(), z); "
        "print(sorted({'pandas', 'polars', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
