"""``resmem.transformers.collect``: rows of every kind of model, against a slow reading of it."""

from __future__ import annotations

import time

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")
transformers = pytest.importorskip("transformers", reason="needs transformers")

from torch.utils import data  # noqa: E402

import resmem  # noqa: E402
import resmem.transformers as rt  # noqa: E402
from resmem.adapters.transformers import batches as reading  # noqa: E402
from resmem.adapters.transformers.kinds import kind_of  # noqa: E402
from transformers_models import (  # noqa: E402
    SIZES,
    TEXTS,
    images,
    labelled,
    made,
    pairs,
    tokenizer,
)

TOKENS, ENDS = tokenizer(), tokenizer(ends=True)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@torch.no_grad()
def read_slowly(model, ids, **more):
    """Return the last layer's input and the logits of one sequence, (t, d) and (t, C)."""
    output = model(torch.tensor([ids]), output_hidden_states=True, **more)
    return output.hidden_states[-1][0].numpy(), output.logits[0].numpy()


def windows_by_hand(ids, window, stride):
    """Yield (start, end, first target) of each window, by the definition of strided windows."""
    seen = 1  # the first token is predicted by nothing
    for start in range(0, len(ids), stride):
        end = min(start + window, len(ids))
        yield start, end, seen
        seen = end
        if end == len(ids):
            return


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize(("window", "stride", "batch_size"), [(64, 32, 3), (6, 3, 2), (5, 4, 4)])
def test_causal_rows_are_those_of_each_window_read_alone(name, window, stride, batch_size):
    model = made(name)
    found = rt.collect(
        model, TOKENS, TEXTS, window=window, stride=stride, batch_size=batch_size, progress=False
    )
    at = 0
    for document, text in enumerate(TEXTS):
        ids = TOKENS(text)["input_ids"]
        for start, end, first in windows_by_hand(ids, window, stride):
            states, logits = read_slowly(model, ids[start:end])
            for target in range(first, end):
                row = target - 1 - start
                np.testing.assert_allclose(found.embeddings[at], states[row], **CLOSE)
                np.testing.assert_allclose(found.outputs[at : at + 1][0], logits[row], **CLOSE)
                assert found.targets[at] == ids[target]
                assert found.extra["document"][at] == document
                at += 1
    assert at == len(found.embeddings)
    assert found.base["layer"] == "lm_head:input"
    assert (found.base["d"], found.base["C"]) == (16, 24)


def test_windows_that_overlap_predict_each_token_once():
    found = rt.collect(made("llama"), TOKENS, TEXTS, window=6, stride=2, progress=False)
    expected = [TOKENS(text)["input_ids"][1:] for text in TEXTS]
    np.testing.assert_array_equal(found.targets, np.concatenate(expected))


def test_labels_of_minus_100_and_padding_are_no_rows():
    ids = torch.tensor([[7, 5, 8, 9], [1, 1, 6, 8]])  # the second is padded on the left
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    given = [{"input_ids": ids, "attention_mask": mask}]
    loader = data.DataLoader(given, batch_size=None)
    found = rt.collect(made("llama"), None, loader, progress=False)
    assert found.targets.tolist() == [5, 8, 9, 8]
    labels = torch.tensor([[7, -100, 8, 9], [-100, -100, -100, 8]])
    loader = data.DataLoader([{**given[0], "labels": labels}], batch_size=None)
    found = rt.collect(made("llama"), None, loader, progress=False)
    assert found.targets.tolist() == [8, 9, 8]
    assert found.extra["document"].tolist() == [0, 0, 1]


def test_masked_rows_are_the_guessed_tokens():
    model = made("bert")
    row = {"input_ids": [3, 2, 7, 2, 4], "labels": [-100, 6, -100, 9, -100]}
    found = rt.collect(model, ENDS, [row], progress=False)
    with torch.no_grad():
        base = model.bert(torch.tensor([row["input_ids"]])).last_hidden_state
        states = model.cls.predictions.transform(base)[0].numpy()
        logits = model(torch.tensor([row["input_ids"]])).logits[0].numpy()
    np.testing.assert_allclose(found.embeddings, states[[1, 3]], **CLOSE)
    np.testing.assert_allclose(found.outputs[:], logits[[1, 3]], **CLOSE)
    assert found.targets.tolist() == [6, 9]


def test_tokens_of_texts_are_masked_by_a_seed():
    model = made("bert")
    first, again, other = (
        rt.collect(model, ENDS, TEXTS * 3, window=12, seed=seed, progress=False).targets
        for seed in (0, 0, 1)
    )
    assert len(first)
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != other.tolist()


def test_seq2seq_rows_are_what_is_to_be_written():
    model, given = made("t5"), pairs()
    found = rt.collect(model, ENDS, given, batch_size=3, progress=False)
    at = 0
    for row in given:
        ids, labels = (ENDS(row[name])["input_ids"] for name in ("text", "label"))
        states, logits = [], []
        with torch.no_grad():
            output = model(
                torch.tensor([ids]), labels=torch.tensor([labels]), output_hidden_states=True
            )
        states = output.decoder_hidden_states[-1][0].numpy()
        logits = output.logits[0].numpy()
        rows = slice(at, at + len(labels))
        # T5 scales what its last layer reads where its weights are those of the first one.
        scale = 16**-0.5 if model.config.scale_decoder_outputs else 1.0
        np.testing.assert_allclose(found.embeddings[rows], states * scale, **CLOSE)
        np.testing.assert_allclose(found.outputs[rows], logits, **CLOSE)
        assert found.targets[rows].tolist() == labels
        at += len(labels)
    assert at == len(found.targets)


@pytest.mark.parametrize("name", ["bert classes", "llama classes"])
def test_sequence_classifier_rows_are_examples(name):
    model, given = made(name), labelled()
    found = rt.collect(model, TOKENS, given, batch_size=3, progress=False)
    last = model.classifier if name == "bert classes" else model.score
    for at, row in enumerate(given):
        with torch.no_grad():
            logits = model(torch.tensor([TOKENS(row["text"])["input_ids"]])).logits[0]
            made_of = last(torch.from_numpy(found.embeddings[at]))
        np.testing.assert_allclose(found.outputs[at], logits.numpy(), **CLOSE)
        np.testing.assert_allclose(made_of.numpy(), logits.numpy(), **CLOSE)
    assert found.targets.tolist() == [row["label"] for row in given]


def test_labels_may_be_names():
    model = made("bert classes")
    model.config.label2id = {"bad": 0, "fair": 1, "good": 2}
    given = [{"text": TEXTS[0], "label": "good"}, {"text": TEXTS[1], "label": "bad"}]
    assert rt.collect(model, TOKENS, given, progress=False).targets.tolist() == [2, 0]
    given[0]["label"] = "grand"
    with pytest.raises(ValueError, match=r"no label 'grand'; .* are 'bad', 'fair', 'good'"):
        rt.collect(model, TOKENS, given, progress=False)


def test_image_classifier_rows_are_images():
    model, given = made("vit"), images()
    found = rt.collect(model, None, given, batch_size=3, progress=False)
    pixels = torch.tensor(np.stack([row["pixel_values"] for row in given]))
    with torch.no_grad():
        states = model.vit(pixels).last_hidden_state[:, 0].numpy()
        logits = model(pixels).logits.numpy()
    np.testing.assert_allclose(found.embeddings, states, **CLOSE)
    np.testing.assert_allclose(found.outputs, logits, **CLOSE)
    assert found.targets.tolist() == [row["label"] for row in given]


def test_a_processor_reads_images():
    def processor(images, return_tensors):
        assert return_tensors == "pt"
        return {"pixel_values": torch.tensor(images)[None]}

    given = [{"image": row["pixel_values"].tolist(), "label": row["label"]} for row in images()]
    found = rt.collect(made("vit"), processor, given, progress=False)
    again = rt.collect(made("vit"), None, images(), progress=False)
    np.testing.assert_array_equal(found.embeddings, again.embeddings)


def test_a_named_layer_of_a_language_model():
    model, layer = made("llama"), "model.layers.1.mlp:input"
    found = rt.collect(model, TOKENS, TEXTS, layer=layer, progress=False)
    last = rt.collect(model, TOKENS, TEXTS, progress=False)
    seen = []
    hook = model.model.layers[1].mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(torch.tensor([TOKENS(TEXTS[0])["input_ids"]]))
    hook.remove()
    count = seen[0].shape[1] - 1
    np.testing.assert_allclose(found.embeddings[:count], seen[0][0, :-1].numpy(), **CLOSE)
    np.testing.assert_array_equal(found.outputs[:], last.outputs[:])
    assert found.base["layer"] == layer


def test_a_named_layer_of_a_classifier_is_a_mean_over_its_tokens():
    model, given = made("bert classes"), labelled(3)
    found = rt.collect(model, TOKENS, given, layer="bert.encoder.layer.0", progress=False)
    for at, row in enumerate(given):
        ids = torch.tensor([TOKENS(row["text"])["input_ids"]])
        with torch.no_grad():
            states = model(ids, output_hidden_states=True).hidden_states[1][0]
        np.testing.assert_allclose(found.embeddings[at], states.mean(0).numpy(), **CLOSE)


@pytest.mark.parametrize(
    ("name", "processor", "given"),
    [("gpt2", TOKENS, TEXTS), ("bert", ENDS, TEXTS), ("t5", ENDS, pairs()),
     ("bert classes", TOKENS, labelled()), ("vit", None, images())],
)  # fmt: skip
def test_a_model_is_left_as_it_was(name, processor, given):
    model = made(name).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rt.collect(model, processor, given, progress=False)
    assert all(module.training for module in model.modules())
    assert all(not module._forward_hooks and not module._forward_pre_hooks
               for module in model.modules())  # fmt: skip
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


# ---- where rows are kept -------------------------------------------------------------------------


def test_a_folder_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    model, options = made("llama"), {"window": 6, "stride": 3, "batch_size": 2, "progress": False}
    whole = rt.collect(model, TOKENS, TEXTS, **options)
    calls = []
    forward = type(model).forward

    def stopped(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    folder = tmp_path / "rows"
    reference = rt.head(model)
    monkeypatch.setattr("resmem.adapters.transformers.collecting.head", lambda _: reference)
    monkeypatch.setattr(type(model), "forward", stopped)
    with pytest.raises(KeyboardInterrupt):
        rt.collect(model, TOKENS, TEXTS, out=folder, **options)
    before = len(calls)
    found = rt.collect(model, TOKENS, TEXTS, out=folder, **options)
    every = sum(1 for _ in reading.batches(
        model, kind_of(model), TOKENS, TEXTS, reading.Reading(6, 3, 2, shift=1)))  # fmt: skip
    assert len(calls) - before == every - 3
    for one, two in zip(found, whole, strict=True):
        np.testing.assert_array_equal(one[:], two[:])
    calls_before = len(calls)
    again = rt.collect(model, TOKENS, TEXTS, out=folder, **options)
    assert len(calls) == calls_before
    np.testing.assert_array_equal(again.outputs[3:5], whole.outputs[3:5])
    with pytest.raises(ValueError, match=r"other settings \(data: .*stride: 3 there, 2 now"):
        rt.collect(model, TOKENS, TEXTS[:2], out=folder, **{**options, "stride": 2})


def test_rows_stop_where_they_are_asked_to():
    options = {"window": 6, "stride": 3, "batch_size": 2, "progress": False}
    whole = rt.collect(made("llama"), TOKENS, TEXTS, **options)
    some = rt.collect(made("llama"), TOKENS, TEXTS, rows=7, **options)
    assert len(some.embeddings) == len(some.outputs) == len(some.extra["document"]) == 7
    np.testing.assert_array_equal(some.embeddings, whole.embeddings[:7])


def test_logits_are_kept_when_asked_for():
    model = made("llama")
    kept = rt.collect(model, TOKENS, TEXTS, outputs=True, progress=False)
    computed = rt.collect(model, TOKENS, TEXTS, progress=False)
    assert isinstance(kept.outputs, np.ndarray)
    assert isinstance(computed.outputs, rt.HeadOutputs)
    np.testing.assert_allclose(kept.outputs, computed.outputs[:], **CLOSE)
    np.testing.assert_allclose(kept.outputs[[3, 1]], computed.outputs[[3, 1]], **CLOSE)
    assert rt.collect(model, TOKENS, TEXTS, outputs=False, progress=False).outputs is None


# ---- the head ------------------------------------------------------------------------------------


def scaled(model):
    """Make a model multiply its logits, as some models do by a constant of their configuration."""
    bare = type(model).forward

    class Scaled(type(model)):
        def forward(self, *args, **kwargs):
            output = bare(self, *args, **kwargs)
            output.logits = output.logits * 0.25
            return output

    model.__class__ = Scaled
    return model


def biased(model):
    bare = type(model).forward

    class Biased(type(model)):
        def forward(self, *args, **kwargs):
            output = bare(self, *args, **kwargs)
            output.logits = output.logits + self.final_logits_bias
            return output

    model.register_buffer("final_logits_bias", torch.linspace(-1, 1, 24)[None])
    model.__class__ = Biased
    return model


@pytest.mark.parametrize(
    ("model", "processor", "given"),
    [(made("gpt2"), TOKENS, TEXTS), (made("llama"), TOKENS, TEXTS), (made("bert"), ENDS, TEXTS * 3),
     (made("t5"), ENDS, pairs()), (made("t5", tie_word_embeddings=False), ENDS, pairs()),
     (scaled(made("llama")), TOKENS, TEXTS), (biased(made("llama")), TOKENS, TEXTS)],
    ids=["tied", "untied", "bias and norm", "t5 tied", "t5 untied", "factor", "bias of logits"],
)  # fmt: skip
def test_a_head_store_corrects_as_a_dense_one(model, processor, given):
    kept = rt.collect(model, processor, given, outputs=True, progress=False)
    dense = resmem.Memory(k=4).fit(*kept)
    head = resmem.Memory(k=4, store="head", head=rt.head(model))
    head.fit(kept.embeddings, None, kept.targets)
    queries = kept.embeddings[:9] + 0.01
    np.testing.assert_allclose(
        head.correct(queries, kept.outputs[:9]), dense.correct(queries, kept.outputs[:9]),
        rtol=0, atol=1e-5,
    )  # fmt: skip


def test_a_bent_head_is_refused():
    model = made("llama")
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(
        ValueError, match=r"final_logit_softcapping bends .* collect with outputs=T"
    ):
        rt.head(model)
    with pytest.raises(ValueError, match="final_logit_softcapping"):
        rt.collect(model, TOKENS, TEXTS, progress=False)
    rt.collect(model, TOKENS, TEXTS, outputs=True, progress=False)  # as the message says


def test_a_head_that_is_not_linear_is_found_out():
    model = made("llama")
    bare = type(model).forward

    class Bent(type(model)):
        def forward(self, *args, **kwargs):
            output = bare(self, *args, **kwargs)
            output.logits = torch.tanh(output.logits)
            return output

    model.__class__ = Bent
    with pytest.raises(ValueError, match="more than its last layer times a constant"):
        rt.head(model)


@pytest.mark.parametrize("factor", [1.0, 0.25])
@pytest.mark.parametrize("name", ["bert classes", "llama classes", "vit"])
def test_the_head_of_a_classifier(name, factor):
    model = made(name)
    last = model.get_submodule("score" if name == "llama classes" else "classifier")
    if factor != 1:
        scaled(model)
    weight, bias = rt.head(model)
    np.testing.assert_allclose(weight, last.weight.detach() * factor, rtol=1e-4)
    own = np.zeros(3) if last.bias is None else last.bias.detach() * factor
    np.testing.assert_allclose(bias, own, rtol=1e-4)


# ---- what is refused -----------------------------------------------------------------------------


def test_other_models_are_refused():
    with pytest.raises(TypeError, match=r"Linear is no causal.*resmem\.torch takes any"):
        rt.collect(torch.nn.Linear(2, 2), None, [])
    model = made("bert classes", problem_type="multi_label_classification")
    with pytest.raises(ValueError, match="several labels at once"):
        rt.collect(model, TOKENS, labelled())


@pytest.mark.parametrize(
    ("given", "message"),
    [("a text", "must be a list of texts"), (5, "must be a list of texts"),
     ([{"words": "the cat"}], "needs a column 'text' or 'input_ids', got 'words'")],
)  # fmt: skip
def test_data_that_cannot_be_read_are_named(given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        rt.collect(made("llama"), TOKENS, given, progress=False)


def test_sizes_and_layers_that_cannot_be_are_refused():
    model = made("llama")
    with pytest.raises(ValueError, match="stride must lie between 1 and 3, so that windows of 4"):
        rt.collect(model, TOKENS, TEXTS, window=4, stride=4)
    with pytest.raises(ValueError, match="no layer 'mlp'; some of"):
        rt.collect(model, TOKENS, TEXTS, layer="mlp")
    with pytest.raises(ValueError, match="nothing was collected"):
        rt.collect(model, TOKENS, [], progress=False)
    with pytest.raises(ValueError, match="have no labels"):
        rt.collect(made("bert classes"), TOKENS, TEXTS, progress=False)


# ---- rows that must not be there ---------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_of_rows_of_tokens_is_left_out(side):
    model, padded = made("llama"), tokenizer()
    padded.padding_side = side
    rows = [dict(padded(text, padding="max_length", max_length=20)) for text in TEXTS]
    found = rt.collect(model, TOKENS, rows, progress=False)
    plain = rt.collect(model, TOKENS, TEXTS, progress=False)
    np.testing.assert_array_equal(found.targets, plain.targets)
    np.testing.assert_allclose(found.embeddings, plain.embeddings, **CLOSE)


def test_labels_that_repeat_the_padding_are_no_rows():
    ids = torch.tensor([[7, 5, 8, 1], [1, 7, 6, 8]])
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
    given = [{"input_ids": ids, "attention_mask": mask, "labels": ids}]
    loader = data.DataLoader(given, batch_size=None)
    found = rt.collect(made("llama"), None, loader, progress=False)
    assert found.targets.tolist() == [5, 8, 6, 8]


@pytest.mark.parametrize(
    ("name", "processor"), [("llama", TOKENS), ("bert", TOKENS)], ids=["causal", "masked"]
)
def test_empty_texts_are_no_rows(name, processor):
    model = made(name)
    options = {"batch_size": 1, "progress": False}
    found = rt.collect(model, processor, ["", "cat", *TEXTS * 3, ""], **options)
    assert set(found.extra["document"].tolist()) <= set(range(1, 14))
    if name == "llama":  # the only token of a text is predicted by nothing
        plain = rt.collect(model, processor, TEXTS * 3, **options)
        np.testing.assert_array_equal(found.targets, plain.targets)
        np.testing.assert_array_equal(found.extra["document"], plain.extra["document"] + 2)


@pytest.mark.parametrize(("window", "stride"), [(8, 5), (8, 8), (6, 3)])
def test_windows_that_overlap_guess_each_token_once(window, stride):
    asked = reading.Reading(window, stride, 8)
    rows = reading._examples(made("bert"), kind_of(made("bert")), ENDS, TEXTS, asked)
    tokens = [
        (row["document"], token)
        for row in rows
        for token, special in zip(row["input_ids"], row["special_tokens_mask"], strict=True)
        if not special
    ]
    expected = [(at, token) for at, text in enumerate(TEXTS) for token in TOKENS(text)["input_ids"]]
    assert tokens == expected


def test_columns_of_labels_beside_texts_are_not_tokens():
    model = made("llama")
    found = rt.collect(model, TOKENS, [{"text": TEXTS[0], "labels": 1}], progress=False)
    assert found.targets.tolist() == TOKENS(TEXTS[0])["input_ids"][1:]
    rows = [{"input_ids": [5, 6, 7], "labels": [5, 6]}]
    with pytest.raises(
        ValueError, match=r"text of 3 input_ids needs as many labels .* got 2 and 3"
    ):
        rt.collect(model, TOKENS, rows, progress=False)


def test_examples_without_a_class_are_no_rows():
    given = [{"text": TEXTS[0], "label": -100}, {"text": TEXTS[1], "label": 1}]
    found = rt.collect(made("bert classes"), TOKENS, given, progress=False)
    assert found.targets.tolist() == [1]
    assert found.extra["document"].tolist() == [1]
    values = [{**row, "label": float(row["label"])} for row in given]
    found = rt.collect(made("bert classes", num_labels=1), TOKENS, values, progress=False)
    assert found.targets.tolist() == [-100, 1]


def test_classifiers_of_equal_outputs_embed_the_last_token():
    model = made("llama classes")
    with torch.no_grad():
        model.score.weight.zero_()
    found = rt.collect(model, TOKENS, labelled(4), batch_size=4, progress=False)
    for at, row in enumerate(labelled(4)):
        ids = torch.tensor([TOKENS(row["text"])["input_ids"]])
        with torch.no_grad():
            state = model.model(ids).last_hidden_state[0, -1]
        np.testing.assert_allclose(found.embeddings[at], state.numpy(), **CLOSE)


def test_logits_of_no_token_are_named():
    model = made("llama classes")
    bare = type(model).forward

    class Scaled(type(model)):
        def forward(self, *args, **kwargs):
            output = bare(self, *args, **kwargs)
            output.logits = output.logits * 0.3
            return output

    model.__class__ = Scaled
    with pytest.raises(ValueError, match="not those of one token"):
        rt.collect(model, TOKENS, labelled(4), progress=False)


# ---- the same job ------------------------------------------------------------------------------


def test_a_folder_of_other_rows_or_another_tokenizer_is_refused(tmp_path):
    model, options = made("bert classes"), {"out": tmp_path / "rows", "progress": False}
    first = rt.collect(model, TOKENS, labelled(4), **options)
    again = rt.collect(model, tokenizer(), labelled(4), **options)
    np.testing.assert_array_equal(first.embeddings, again.embeddings)
    with pytest.raises(ValueError, match=r"other settings \(data: "):
        rt.collect(model, TOKENS, labelled(5), **options)
    with pytest.raises(ValueError, match=r"other settings \(processor: "):
        rt.collect(model, ENDS, labelled(4), **options)


def test_data_in_no_fixed_order_have_no_folder(tmp_path):
    model, ids = made("llama"), [{"input_ids": torch.tensor([5, 6, 7])}] * 4
    loader = data.DataLoader(ids, batch_size=2, shuffle=True)
    with pytest.raises(ValueError, match="this loader shuffles"):
        rt.collect(model, None, loader, out=tmp_path / "rows", progress=False)
    with pytest.raises(ValueError, match="no iterator"):
        rt.collect(model, TOKENS, iter(TEXTS), out=tmp_path / "rows", progress=False)


@pytest.mark.parametrize(
    ("name", "given"),
    [("bert classes", [{"input_ids": [3, 5], "label": 1}]), ("llama", TEXTS), ("bert", TEXTS)],
)
def test_a_tokenizer_that_is_needed_is_asked_for(name, given):
    with pytest.raises(ValueError, match="give it as processor"):
        rt.collect(made(name), None, given, progress=False)


def test_parts_of_a_model_keep_their_modes():
    model = made("llama").train()
    model.model.layers[0].eval()
    rt.head(model)
    rt.collect(model, TOKENS, TEXTS, progress=False)
    assert model.training
    assert not model.model.layers[0].training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("change", [{"logits_scaling": 6.0}, {"logits_scaling": 0.7}])
def test_a_factor_is_found_in_models_of_16_bits(dtype, change):
    sizes = {**SIZES, "num_key_value_heads": 1, "initializer_range": 0.2}
    torch.manual_seed(0)
    config = transformers.GraniteConfig(**sizes, **change, eos_token_id=4, bos_token_id=3)
    model = transformers.GraniteForCausalLM(config).eval().to(dtype)
    computed = rt.collect(model, TOKENS, TEXTS, progress=False).outputs[:]
    kept = rt.collect(model, TOKENS, TEXTS, outputs=True, progress=False).outputs
    most = 4 * torch.finfo(dtype).eps * np.abs(kept).max()
    np.testing.assert_allclose(computed, kept, rtol=0, atol=most)


def test_rows_of_numbers_are_told_apart_at_once():
    pixels = np.random.default_rng(0).normal(size=(3, 200, 200))
    rows = [{"pixel_values": pixels.tolist(), "label": at, "name": "a"} for at in range(2)]
    same = [{**row, "pixel_values": pixels.copy().tolist()} for row in rows]
    began = time.perf_counter()
    assert reading.fingerprint(rows) == reading.fingerprint(same)
    assert time.perf_counter() - began < 2
    for change in ({"label": 5}, {"name": "b"}, {"pixel_values": (pixels + 1).tolist()}):
        assert reading.fingerprint([rows[0], {**rows[1], **change}]) != reading.fingerprint(rows)
    assert reading.fingerprint([{"z": [[1], [2, 3]]}]) != reading.fingerprint(
        [{"z": [[1], [2, 4]]}]
    )
