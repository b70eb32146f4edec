"""Labels of classes: whatever targets call them, the memory is that of the columns' numbers."""

from __future__ import annotations

import json
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import resmem
from resmem.__main__ import main
from resmem._base.labels import LabelTable

RNG = np.random.default_rng(5)
N, D, C = 48, 3, 3
Z = RNG.standard_normal((N, D)).astype(np.float32)
L = RNG.standard_normal((N, C)).astype(np.float32)
Y = np.arange(N) % C
FRESH = Z + np.float32(0.1)
NAMES = np.array(["cat", "dog", "eel"])
FAST = {"k": [2, 4], "sigma": 1.0, "temperature": 1.0, "strength": 1, "apply": False}

LABELS = {
    "text": NAMES,
    "objects": NAMES.astype(object),
    "negative": np.array([-1, 0, 1]),
    "sparse integers": np.array([3, 10, 700]),
    "unsigned": np.array([7, 8, 200], np.uint8),
    "floats": np.array([-0.5, 0.25, 1.5]),
    "half": np.array([0.5, 1.0, 1.5], np.float16),
}


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def numbered(**options):
    return resmem.Memory(k=4, **options).fit(Z, L, Y)


def same_predictions(mem, labels):
    """Check that a memory predicts what one of column numbers does, in these labels."""
    plain = numbered()
    same_bits(mem.predict_proba(FRESH, L), plain.predict_proba(FRESH, L))
    np.testing.assert_array_equal(mem.predict(FRESH, L), labels[plain.predict(FRESH, L)])
    np.testing.assert_array_equal(mem.classes_, labels)


def same_bits(one, other):
    assert one.dtype == other.dtype
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("kind", LABELS)
def test_labels_stand_for_columns_in_ascending_order(kind, tmp_path):
    labels = LABELS[kind]
    mem = resmem.Memory(k=4).fit(Z, L, labels[Y])
    same_predictions(mem, labels)
    same_predictions(pickle.loads(pickle.dumps(mem)), labels)
    mem.save(tmp_path / "m.resmem")
    same_predictions(resmem.Memory.load(tmp_path / "m.resmem"), labels)
    mem.export(tmp_path / "m.npz")
    loaded = resmem.Memory.load(tmp_path / "m.npz")
    same_predictions(loaded, labels)
    assert loaded.classes_.dtype == mem.classes_.dtype


@pytest.mark.parametrize("kind", LABELS)
def test_every_call_takes_the_labels_of_fit(kind):
    labels = LABELS[kind]
    mem, plain = resmem.Memory(k=4).fit(Z, L, labels[Y]), numbered()
    assert mem.tune(FRESH, L, labels[Y], **FAST).best == plain.tune(FRESH, L, Y, **FAST).best
    judged = mem.evaluate(FRESH, L, labels[Y].tolist())
    assert judged.methods == plain.evaluate(FRESH, L, Y).methods
    assert [part["label"] for part in judged.by_class] == list(judged.classes) == labels.tolist()
    same_bits(mem.calibrate(FRESH, L, labels[Y]).scores, plain.calibrate(FRESH, L, Y).scores)
    sets = [each.predict_set(FRESH, L, each.calibrate(FRESH, L, y)) for each, y in
            ((mem, labels[Y]), (plain, Y))]  # fmt: skip
    same_bits(*sets)
    mem.add(FRESH, L, labels[Y])
    plain.add(FRESH, L, Y)
    same_bits(mem.correct(Z, L), plain.correct(Z, L))


def test_score_functions_get_labels():
    mem = resmem.Memory(k=4).fit(Z, L, NAMES[Y])

    def error(predictions, targets):
        return float(np.mean(mem.classes_[predictions.argmax(axis=1)] != targets))

    def plain_error(predictions, targets):
        return float(np.mean(predictions.argmax(axis=1) != targets))

    given = {**FAST, "greater_is_better": False}
    found = mem.tune(FRESH, L, NAMES[Y], score=error, **given)
    expected = numbered().tune(FRESH, L, Y, score=plain_error, **given)
    assert found.best == expected.best
    of_run = {"score", "reason", "seconds"}  # which name the function, or the time it took
    parts, others = ({k: v for k, v in each.to_dict().items() if k not in of_run} for each in
                     (found, expected))  # fmt: skip
    assert parts == others


def test_explanation_and_report_name_the_labels(tmp_path):
    mem = resmem.Memory(k=4).fit(Z, L, NAMES[Y])
    explained = mem.explain(FRESH, L)
    one = str(explained[3])
    assert explained[3].classes.tolist() == NAMES.tolist()
    assert all(name in one.splitlines()[1] for name in NAMES)
    assert NAMES[Y[explained.ids[3, 0]]] in one.splitlines()[-4]
    resmem.report(tmp_path / "r.html", evaluation=mem.evaluate(FRESH, L, NAMES[Y]))
    page = (tmp_path / "r.html").read_text()
    assert all(f">{name}<" in page for name in NAMES)


@given(st.permutations(range(C)), st.sampled_from([*LABELS]))
def test_given_classes_name_the_columns(order, kind):
    labels = LABELS[kind][list(order)]
    mem = resmem.Memory(k=4, classes=labels).fit(Z, L, labels[Y])
    same_predictions(mem, labels)
    few = resmem.Memory(k=4, classes=labels.tolist()).fit(Z[:2], L[:2], labels[[2, 2]])
    np.testing.assert_array_equal(few.classes_, labels)


def test_bools_are_both_labels_even_if_one_is_missing():
    mem = resmem.Memory(k=4).fit(Z, L[:, :2], Y == 1)
    assert mem.predict(FRESH, L[:, :2]).dtype == bool
    assert resmem.Memory().fit(Z, L[:, :2], Y >= 0).classes_.tolist() == [False, True]
    same_bits(
        mem.predict_proba(FRESH, L[:, :2]),
        resmem.Memory(k=4).fit(Z, L[:, :2], (Y == 1) * 1).predict_proba(FRESH, L[:, :2]),
    )
    assert mem.evaluate(FRESH, L[:, :2], (Y == 1).astype(int)).rows == N  # True is 1


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint16, np.float64, object])
def test_column_numbers_need_no_labels(dtype, tmp_path):
    mem = resmem.Memory(k=4).fit(Z, L, (Y % 2).astype(dtype))  # the last class does not occur
    assert mem.info()["classes"] is None
    same_bits(mem.classes_, np.arange(C))
    same_bits(mem.predict_proba(FRESH, L), numbered_few().predict_proba(FRESH, L))
    mem.save(tmp_path / "m.resmem")
    assert b"needs/classes" not in (tmp_path / "m.resmem").read_bytes()
    assert resmem.Memory(classes=[0, 1, 2]).fit(Z, L, Y % 2).info()["classes"] is None


def numbered_few():
    return resmem.Memory(k=4).fit(Z, L, Y % 2)


def test_file_with_labels_must_be_known_to_its_reader(tmp_path):
    resmem.Memory(k=4).fit(Z, L, NAMES[Y]).save(tmp_path / "m.resmem")
    assert b"needs/classes" in (tmp_path / "m.resmem").read_bytes()


def test_file_with_too_few_labels_is_refused(tmp_path):
    mem = resmem.Memory(k=4).fit(Z, L, NAMES[Y]).export(tmp_path / "m.npz")
    arrays = dict(np.load(tmp_path / "m.npz"))
    about = json.loads(arrays["resmem"].tobytes())
    for classes, said in ((["a", "b"], "2 labels for 3 columns"), (["a", "a", "b"], "distinct")):
        text = json.dumps({**about, "classes": classes}).encode()
        np.savez(tmp_path / "bad.npz", **{**arrays, "resmem": np.frombuffer(text, np.uint8)})
        with pytest.raises(resmem.FileFormatError, match=said):
            resmem.Memory.load(tmp_path / "bad.npz")
    assert mem.classes_ is not None


@pytest.mark.parametrize("dtype", ["bool", "float32", "int8"])
def test_one_hot_targets_are_classes(dtype):
    classes = np.random.default_rng(3).integers(0, C, N)
    given = np.eye(C)[classes].astype(dtype)
    one, other = resmem.Memory(k=4).fit(Z, L, given), resmem.Memory(k=4).fit(Z, L, classes)
    same_bits(one.correct(FRESH, L), other.correct(FRESH, L))
    assert one.evaluate(FRESH, L, given).methods == other.evaluate(FRESH, L, classes).methods


def test_one_column_of_labels_is_taken():
    column = NAMES[Y][:, None]
    mem = resmem.Memory(k=4).fit(Z, L, column)
    same_predictions(mem, NAMES)
    assert mem.tune(FRESH, L, column, **FAST).rows == mem.evaluate(FRESH, L, column).rows == N


@given(
    st.lists(
        st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False),
        min_size=1, max_size=9, unique=True,
    ),
    st.randoms(),
)  # fmt: skip
def test_table_of_numbers_translates_both_ways(names, order):
    """Integers beyond 2^53 are kept apart where all labels are integers."""
    if not all(type(name) is int for name in names):
        names = list(dict.fromkeys(map(float, names)))
    table = LabelTable.of(names)
    rows = [order.randrange(len(names)) for _ in range(20)]
    numbers = table.numbers(np.array([names[row] for row in rows]))
    assert numbers.tolist() == rows
    assert table.labels(numbers).tolist() == [names[row] for row in rows]


@given(
    st.lists(
        st.text(min_size=1, max_size=4).filter(lambda t: t[-1] != "\0"),
        min_size=1,
        max_size=9,
        unique=True,
    )
)
def test_table_of_text_translates_both_ways(names):
    table = LabelTable.of(names)
    assert table.numbers(np.array(names[::-1])).tolist() == [*range(len(names))][::-1]
    with pytest.raises(ValueError, match="not among the classes"):
        table.numbers(np.array([*names, "".join(names) + "x"]))


def test_fit_finds_labels_again_unless_they_are_given():
    mem = resmem.Memory(k=4).fit(Z, L, NAMES[Y]).fit(Z, L, Y - 1)
    assert mem.classes_.tolist() == [-1, 0, 1]
    kept = resmem.Memory(k=4, classes=NAMES).fit(Z, L, NAMES[Y])
    with pytest.raises(ValueError, match="not among the classes"):
        kept.fit(Z, L, Y - 1)
    empty = resmem.Memory(k=4).fit(Z[:0], L[:0], NAMES[:0])
    same_predictions(empty.add(Z, L, NAMES[Y]), NAMES)


# ---- out_of_fold ---------------------------------------------------------------------------------


class Shares:
    """A classifier that gives each class its share of the rows."""

    def fit(self, X, y):
        self.classes_, counts = np.unique(y, return_counts=True)
        self.shares = counts / counts.sum()

    def predict_proba(self, X):
        return np.tile(self.shares, (len(X), 1))


@pytest.mark.parametrize("kind", ["text", "objects", "negative"])
def test_out_of_fold_outputs_stand_in_the_order_of_labels(kind):
    targets = LABELS[kind][Y**2 % C]
    folds = np.arange(N) % 4
    expected = resmem.out_of_fold(Shares(), Z, np.searchsorted(LABELS[kind][:2], targets), folds)
    found = resmem.out_of_fold(Shares(), Z, targets, folds)
    same_bits(found, expected)
    assert found.shape == (N, 2)


# ---- tokens --------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.sampled_from([(N,), (6, 8), (2, 6, 4)]))
def test_tokens_leave_out_rows_without_a_label(seed, shape):
    kept = np.random.default_rng(seed).random(N) < 0.7
    targets = np.where(kept, Y, -100).reshape(shape)
    found = resmem.tokens(Z.reshape(*shape, D), L.reshape(*shape, C), targets)
    for part, whole in zip(found, (Z, L, Y), strict=True):
        np.testing.assert_array_equal(part, whole[kept])
    named = np.where(kept, NAMES[Y], "").reshape(shape)
    z, outputs, labels = resmem.tokens(Z.reshape(*shape, D), None, named, ignore="")
    assert outputs is None
    np.testing.assert_array_equal(labels, NAMES[Y][kept])
    assert len(z) == kept.sum()


# ---- columns of probabilities, and no base model -------------------------------------------------


@given(
    st.lists(st.integers(0, C - 1), min_size=1, max_size=4),
    st.sampled_from(["clip", "project", "keep"]),
    st.sampled_from(["residual", "targets"]),
    st.booleans(),
)
def test_columns_of_probabilities_are_those_of_the_whole(columns, name, method, by_query):
    mem = numbered(probability_map=name, method=method, strength=0.7)
    whole = mem.predict_proba(FRESH, L)
    wanted = (np.arange(N)[:, None] + columns) % C if by_query else np.array(columns)
    some = mem.predict_proba(FRESH, L, columns=wanted)
    same_bits(some, np.take_along_axis(whole, np.broadcast_to(wanted, (N, len(columns))), axis=1))


def test_without_a_base_model_neighbours_alone_decide(tmp_path):
    mem = resmem.Memory(output_kind="none", k=4).fit(Z, None, NAMES[Y])
    assert mem.method == "targets"
    alone = resmem.Memory(k=4, method="targets").fit(Z, L, Y)
    same_bits(mem.predict_proba(FRESH), alone.predict_proba(FRESH, L))
    nobody = mem.predict_proba(FRESH[:1], exclude_ids=np.arange(N)[None])
    np.testing.assert_allclose(nobody, 1 / 3)
    judged = mem.evaluate(FRESH, None, NAMES[Y])
    base, neighbours, *_, last = judged.methods
    np.testing.assert_allclose(base.scores["log_loss"], np.log(3))
    assert last.scores == pytest.approx(neighbours.scores, abs=1e-5)  # which are clipped
    assert mem.tune(FRESH, None, NAMES[Y], **FAST).rows == N
    mem.add(FRESH, None, NAMES[Y]).save(tmp_path / "m.resmem")
    loaded = resmem.Memory.load(tmp_path / "m.resmem")
    assert loaded.predict(FRESH).tolist() == NAMES[Y].tolist()


@pytest.mark.parametrize("values", [Z[:, 0].astype(float), Z[:, :2].astype(float)])
def test_values_without_a_base_model_are_weighted_means(values):
    mem = resmem.Memory("regression", output_kind="none", k=4).fit(Z, None, values)
    as_zeros = resmem.Memory("regression", k=4).fit(Z, np.zeros(values.shape), values)
    same_bits(mem.predict(FRESH), as_zeros.predict(FRESH, np.zeros(values.shape)))
    assert mem.evaluate(FRESH, None, values).rows == N


def test_integers_without_a_base_model_are_numbers_of_columns():
    assert resmem.Memory(output_kind="none").fit(Z, None, Y * 2).classes_.tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]
    assert resmem.Memory(output_kind="none").fit(Z, None, Y - 1).classes_.tolist() == [-1, 0, 1]
    empty = resmem.Memory(output_kind="none").fit(Z[:0], None, Y[:0])
    assert empty.add(Z, None, Y).classes_.tolist() == [0, 1, 2]
    one_hot = resmem.Memory(output_kind="none").fit(Z, None, np.eye(5)[Y])
    assert one_hot.predict_proba(FRESH).shape == (N, 5)


# ---- the command line ----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("rows.npz", embeddings=Z, outputs=L)
    np.save("y.npy", NAMES[Y])
    (tmp_path / "y.csv").write_text("\n".join(NAMES[Y]) + "\n")
    lines = [f'{i},"{name}",{i % 2}' for i, name in enumerate(NAMES[Y])]
    (tmp_path / "table.csv").write_text("\n".join(["n,label,flag", *lines]) + "\n")
    (tmp_path / "names.csv").write_text("\n".join(NAMES))


ROWS = "--embeddings rows.npz --outputs rows.npz"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("targets", ["y.npy", "y.csv", "table.csv:label"])
def test_commands_read_and_write_labels(targets, capsys):
    assert main(f"fit m.resmem {ROWS} --targets {targets} --k 4".split()) == 0
    mem = resmem.Memory.load("m.resmem")
    same_predictions(mem, NAMES)
    assert main(f"predict m.resmem {ROWS} --output p.npy".split()) == 0
    np.testing.assert_array_equal(np.load("p.npy"), mem.predict(Z, L))
    capsys.readouterr()
    assert main(f"predict m.resmem {ROWS} --output -".split()) == 0
    assert capsys.readouterr().out.split() == mem.predict(Z, L).tolist()
    assert main(f"evaluate m.resmem {ROWS} --targets {targets}".split()) == 0
    assert main(f"add m.resmem {ROWS} --targets {targets}".split()) == 0
    assert main(f"predict m.resmem {ROWS} --what proba --columns c.npy -o p.npy".split()) == 2
    np.save("c.npy", [2])
    assert main(f"predict m.resmem {ROWS} --what proba --columns c.npy -o p.npy".split()) == 0
    assert np.load("p.npy").shape == (N, 1)


@pytest.mark.usefixtures("folder")
def test_command_fits_named_classes_and_no_base_model():
    line = f"fit m.resmem {ROWS} --targets y.csv --k 4 --classes names.csv"
    assert main(line.split()) == 0
    assert resmem.Memory.load("m.resmem").classes_.tolist() == NAMES.tolist()
    rows, targets = "--embeddings rows.npz", "--targets table.csv:flag"
    assert main(f"fit n.resmem {rows} {targets} --output-kind none --k 1".split()) == 0
    assert main(f"predict n.resmem {rows} -o p.npy".split()) == 0
    assert np.load("p.npy").tolist() == [i % 2 for i in range(N)]
    assert main(f"evaluate n.resmem {rows} {targets}".split()) == 0


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ("table.csv", "must have 1 values a line, got 3 in line 1; one of several columns is"),
        ("table.csv:name", "has no column 'name', but 'flag', 'label', 'n'"),
        ("rows.npz", "holds no array 'targets'"),
        ("bad.csv", "must be UTF-8 text with commas"),
    ],
)
def test_wrong_column_of_targets_is_refused(targets, said, capsys):
    with open("bad.csv", "wb") as file:
        file.write(b"\xff\xfe\xff")
    assert main(f"fit m.resmem {ROWS} --targets {targets}".split()) == 2
    assert said in capsys.readouterr().err


# ---- Labels beside all else --------------------------------------------------------------------


def three_classes(n=300):
    """Return embeddings, logits and classes that are nearly those of the embeddings."""
    rng = np.random.default_rng(70)
    z = rng.standard_normal((n, 4)).astype(np.float32)
    return z, rng.standard_normal((n, 3)), (z[:, 0] > 0).astype(int) + (z[:, 1] > 0)


@pytest.mark.parametrize(("labels", "classes"), [([1, 2, 3], None), ([2, 0, 1], [2, 0, 1])])
def test_borrowed_integer_labels_are_translated(labels, classes, tmp_path):
    z, logits, numbers = three_classes()
    targets = np.array(labels)[numbers]
    mems = [
        resmem.Memory(k=5, method="targets", classes=classes).fit(z, logits, targets, copy=copied)
        for copied in (True, False)
    ]
    one, other = (mem.save(tmp_path / "m") and resmem.Memory.load(tmp_path / "m") for mem in mems)
    assert np.array_equal(other.get(other.ids).targets, targets)
    assert np.array_equal(one.predict(z, logits), other.predict(z, logits))


def test_columns_of_outputs_named_like_labels_keep_their_order():
    pandas = pytest.importorskip("pandas")
    z, _, numbers = three_classes()
    labels = np.array(["cat", "dog", "eel"])
    outputs = pandas.DataFrame(4 * np.eye(3)[numbers], columns=labels)[["eel", "dog", "cat"]]
    with pytest.raises(ValueError, match="named 'eel', 'dog', 'cat'") as said:
        resmem.Memory(k=5).fit(z, outputs, labels[numbers])
    mem = eval(str(said.value).partition("order, ")[2], {"resmem": resmem})
    mem.k = 5
    mem.fit(z[:200], outputs[:200], labels[numbers[:200]])
    scores = mem.evaluate(z[200:], outputs[200:], labels[numbers[200:]]).methods[0].scores
    assert scores["accuracy"] == 1


def test_one_hot_tables_name_the_classes_of_a_memory():
    pandas = pytest.importorskip("pandas")
    z, logits, numbers = three_classes()
    labels = np.array(["cat", "dog", "eel"])
    mem = resmem.Memory(k=5).fit(z[:200], logits[:200], labels[numbers[:200]])
    table = pandas.DataFrame(np.eye(3)[numbers[200:]], columns=labels)
    wanted = mem.evaluate(z[200:], logits[200:], labels[numbers[200:]]).methods[-1].scores
    assert mem.evaluate(z[200:], logits[200:], table).methods[-1].scores == wanted
    for judge in (mem.evaluate, mem.tune):
        with pytest.raises(ValueError, match=r"pass targets\[list\(memory\.classes_\.astype"):
            judge(z[200:], logits[200:], table[["eel", "dog", "cat"]])


def test_a_loaded_memory_is_fitted_as_before(tmp_path):
    z, logits, numbers = three_classes(30)
    found = resmem.Memory(k=3).fit(z, logits, np.array(["a", "b", "c"])[numbers])
    found.save(tmp_path / "m")
    again = resmem.Memory.load(tmp_path / "m").fit(z, logits, np.array(["x", "y", "z"])[numbers])
    assert again.classes_.tolist() == ["x", "y", "z"]
    given = resmem.Memory(output_kind="none", classes=[0, 1, 2]).fit(z, None, numbers % 2)
    given.save(tmp_path / "m")
    again = resmem.Memory.load(tmp_path / "m").fit(z, None, numbers % 2)
    assert again.predict_proba(z).shape == (30, 3)


def test_published_is_of_the_same_classes():
    z, logits, numbers = three_classes()
    labels = np.array(["cat", "dog", "eel"])[numbers]
    mem = resmem.Memory(k=5).fit(z[:80], logits[:80], labels[:80])
    other = resmem.Memory(k=5, classes=["eel", "dog", "cat"])
    other.fit(z[:80], logits[:80, ::-1], labels[:80])
    silent = resmem.Memory(output_kind="none").fit(z[:80], None, labels[:80])
    for published, what in ((other, "classes"), (silent, "output_kind")):
        with pytest.raises(ValueError, match=f"published must be a memory of the same {what}"):
            mem.evaluate(z[80:], logits[80:], labels[80:], published=published)


# ---- Memories without a base model, beside all else ----------------------------------------------


def test_known_neighbours_correct_a_memory_without_a_base():
    z, _, numbers = three_classes()
    mem = resmem.Memory(output_kind="none", k=5, strength=0.5).fit(z[:200], None, numbers[:200])
    got = mem.aggregate(*mem.kneighbors(z[200:]))
    assert got.tobytes() == mem.correct(z[200:]).tobytes()


def test_rows_without_a_base_are_read_and_updated():
    z, _, numbers = three_classes(40)
    mem = resmem.Memory(output_kind="none", k=5).fit(z, None, numbers)
    rows = mem.get([3, 4])
    assert rows.outputs is None
    before = mem.predict_proba(z)
    assert mem.update(rows.ids, rows.embeddings, rows.outputs, rows.targets)
    assert mem.predict_proba(z).tobytes() == before.tobytes()


@pytest.mark.filterwarnings("ignore:tune:UserWarning")
def test_left_out_rows_without_a_base_need_no_outputs():
    z, _, numbers = three_classes(200)
    options = {"output_kind": "none", "k": 5, "method": "residual"}
    dense = resmem.Memory(**options).fit(z, None, numbers)
    sparse = resmem.Memory(**options, store="sparse:2").fit(z, None, numbers)
    scores = [mem.evaluate(loo=True).methods[0].scores for mem in (dense, sparse)]
    assert scores[0] == scores[1]
    assert sparse.tune(loo=True, k=5, sigma=0.5, apply=False).rows == 200


def test_a_class_beyond_those_of_fit_says_how_to_name_it():
    z, _, _ = three_classes(9)
    mem = resmem.Memory(output_kind="none").fit(z, None, [0, 1, 0, 1, 0, 1, 0, 1, 0])
    with pytest.raises(ValueError, match="classes 0 to 1; name all that may come"):
        mem.add(z[:1], None, [2])
    named = resmem.Memory(output_kind="none", classes=list(range(10)))
    named.fit(z, None, [0] * 9).add(z[:1], None, [2])
