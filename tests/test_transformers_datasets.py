"""Data sets: columns in, columns out, the cache of ``map``, and Arrow without copies."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")
transformers = pytest.importorskip("transformers", reason="needs transformers")
datasets = pytest.importorskip("datasets", reason="needs datasets")

from datasets.fingerprint import Hasher  # noqa: E402

import resmem  # noqa: E402
import resmem.transformers as rt  # noqa: E402
from transformers_models import TEXTS, labelled, made, pairs, tokenizer  # noqa: E402

TOKENS, ENDS = tokenizer(), tokenizer(ends=True)


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)


@pytest.fixture
def texts():
    return datasets.Dataset.from_list(labelled())


def fitted(model, given, processor=TOKENS, **settings):
    data = rt.collect(model, processor, given, progress=False)
    return resmem.Memory(k=3, base=data.base, **settings).fit(*data)


def test_a_data_set_is_read_as_a_list_of_its_rows(texts):
    model = made("bert classes")
    one = rt.collect(model, TOKENS, texts, progress=False)
    two = rt.collect(model, TOKENS, labelled(), progress=False)
    np.testing.assert_array_equal(one.embeddings, two.embeddings)
    np.testing.assert_array_equal(one.targets, two.targets)
    renamed = texts.rename_columns({"text": "words", "label": "kind"})
    three = rt.collect(model, TOKENS, renamed, text="words", label="kind", progress=False)
    np.testing.assert_array_equal(three.targets, two.targets)


def test_classes_are_predicted_in_columns(texts):
    model = made("bert classes")
    memory = fitted(model, texts)
    found = texts.map(rt.Predictor(model, memory, TOKENS, batch_size=3), batched=True)
    data = rt.collect(model, TOKENS, texts, progress=False)
    chances = memory.predict_proba(data.embeddings, data.outputs)
    assert found["prediction"][:] == [f"LABEL_{c}" for c in chances.argmax(1)]
    np.testing.assert_allclose(found["probability"][:], chances.max(1), rtol=1e-5)


@pytest.mark.parametrize(("name", "processor", "given"),
                         [("llama", TOKENS, None), ("t5", ENDS, pairs())])  # fmt: skip
def test_losses_of_texts_are_in_columns(name, processor, given):
    model = made(name)
    given = given or [{"text": text} for text in TEXTS]
    data = rt.collect(model, processor, given, progress=False)
    memory = resmem.Memory(k=3, base=data.base).fit(*data)
    rows = datasets.Dataset.from_list(given)
    predictor = rt.Predictor(model, memory, processor, method="targets", strength=0.5)
    found = rows.map(predictor, batched=True, batch_size=3)
    memory.method, memory.strength = "targets", 0.5
    chances = memory.predict_proba(data.embeddings, data.outputs, columns=data.targets[:, None])
    losses = np.bincount(data.extra["document"], -np.log(chances[:, 0]))
    np.testing.assert_allclose(found["log_loss"][:], losses, rtol=1e-4)
    assert found["tokens"][:] == np.bincount(data.extra["document"]).tolist()


def test_regression_is_predicted_in_a_column():
    model = made("bert classes", num_labels=1)
    given = [{"text": TEXTS[at % 4], "label": float(at)} for at in range(6)]
    data = rt.collect(model, TOKENS, given, progress=False)
    memory = resmem.Memory(task="regression", k=2, base=data.base).fit(*data)
    found = datasets.Dataset.from_list(given).map(rt.Predictor(model, memory, TOKENS), batched=True)
    expected = memory.correct(data.embeddings, data.outputs).ravel()
    np.testing.assert_allclose(found["prediction"][:], expected, rtol=1e-5)


def test_the_hash_is_that_of_weights_rows_and_settings(texts, tmp_path):
    model = made("bert classes")
    memory = fitted(model, texts)
    first = rt.Predictor(model, memory, TOKENS)
    name = Hasher.hash(first)
    memory.save(tmp_path / "m.resmem")
    loaded = resmem.Memory.load(tmp_path / "m.resmem")
    same = rt.Predictor(made("bert classes"), loaded, TOKENS)
    assert Hasher.hash(same) == name
    one, two = (texts.map(each, batched=True) for each in (first, same))
    assert one._fingerprint == two._fingerprint
    others = [
        rt.Predictor(model, memory, TOKENS, strength=0.25),
        rt.Predictor(model, memory, TOKENS, window=16),
        rt.Predictor(model, memory, ENDS),
        rt.Predictor(model, fitted(model, labelled(7)), TOKENS),
        rt.Predictor(model, fitted(model, texts, strength=0.5), TOKENS),
    ]
    names = {name, *map(Hasher.hash, others)}
    assert len(names) == len(others) + 1
    memory.remove([3])
    assert Hasher.hash(first) != name


def test_the_hash_knows_rows_of_one_shape_and_chains_apart():
    model, given = made("bert classes"), labelled()
    moved = [{**row, "label": (row["label"] + 1) % 3} for row in given]
    names = {
        Hasher.hash(rt.Predictor(model, fitted(model, rows, sigma=1.0), TOKENS))
        for rows in (given, moved)
    }
    writer = made("llama")
    data = rt.collect(writer, TOKENS, TEXTS, outputs=True, progress=False)
    memory = resmem.Memory(k=3, base=data.base).fit(*data)
    for chains in (0, 1, 2):
        names.add(Hasher.hash(rt.Predictor(writer, memory, TOKENS, chains=chains)))
    assert len(names) == 5


def test_it_works_in_its_own_process_alone(texts):
    model = made("bert classes")
    predictor = rt.Predictor(model, fitted(model, texts), TOKENS)
    written = pickle.dumps(predictor)
    assert pickle.loads(written) is predictor
    del predictor
    with pytest.raises(RuntimeError, match="leave num_proc out"):
        pickle.loads(written)


def test_hash_is_the_same_whatever_a_tokenizer_did_last(texts):
    model, words = made("bert classes"), tokenizer()
    memory = fitted(model, texts)
    predictor = rt.Predictor(model, memory, words)
    name = predictor.fingerprint
    words(TEXTS, truncation=True, padding=True, max_length=5)
    assert predictor.fingerprint == name
    words.truncation_side = "left"
    assert predictor.fingerprint != name


def test_the_hash_is_that_of_the_names_of_classes_too(texts):
    model = made("bert classes")
    predictor = rt.Predictor(model, fitted(model, texts), TOKENS)
    name = predictor.fingerprint
    model.config.id2label = {0: "bad", 1: "fair", 2: "good"}
    assert predictor.fingerprint != name


def test_a_predictor_leaves_modes_alone_and_has_no_dropout(texts):
    model = made("bert classes").train()
    memory = fitted(model, texts)
    predictor = rt.Predictor(model, memory, TOKENS)
    assert all(module.training for module in model.modules())
    columns = {"text": TEXTS}
    assert predictor(columns) == predictor(columns)
    assert predictor(columns) == rt.Predictor(made("bert classes"), memory, TOKENS)(columns)
    assert all(module.training for module in model.modules())


# ---- Arrow ---------------------------------------------------------------------------------------


def test_arrays_become_columns_and_columns_arrays_without_copies(texts):
    data = rt.collect(made("bert classes"), TOKENS, texts, progress=False)
    rows = rt.to_dataset(data)
    assert rows.column_names == ["embeddings", "outputs", "targets", "document"]
    for name, array in {"embeddings": data.embeddings, "outputs": data.outputs,
                        "targets": data.targets}.items():  # fmt: skip
        found = rt.column(rows, name)
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype
        assert np.shares_memory(found, array)
        assert not found.flags.writeable
    some = rows.select([5, 1])
    np.testing.assert_array_equal(rt.column(some, "embeddings"), data.embeddings[[5, 1]])
    memory = resmem.Memory(k=3).fit(*(rt.column(rows, name) for name in rows.column_names[:3]))
    assert len(memory) == len(texts)


def test_columns_in_pieces_and_lists_of_one_length():
    first = datasets.Dataset.from_dict({"z": [[1.0, 2.0], [3.0, 4.0]]})
    whole = datasets.concatenate_datasets([first, first])
    assert rt.column(whole, "z").tolist() == [[1, 2], [3, 4], [1, 2], [3, 4]]
    sliced = datasets.Dataset.from_dict({"z": [[float(at)] * 2 for at in range(6)]}).select(
        range(2, 5)
    )
    assert rt.column(sliced, "z").tolist() == [[2, 2], [3, 3], [4, 4]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [([[1.0], [2.0, 3.0]], "vectors of 1 to 2 numbers"), ([1.0, None], "rows without a value"),
     ([[1.0, None]], "rows without a value"), ([], "has no rows")],
)  # fmt: skip
def test_columns_that_are_no_arrays_are_refused(rows, message):
    given = datasets.Dataset.from_dict({"z": rows})
    with pytest.raises(ValueError, match=message):
        rt.column(given, "z")
