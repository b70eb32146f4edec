"""``evaluate_perplexity``: every method's loss, token by token, and intervals by document."""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")
transformers = pytest.importorskip("transformers", reason="needs transformers")

import resmem  # noqa: E402
import resmem.transformers as rt  # noqa: E402
from transformers_models import TEXTS, labelled, made, tokenizer  # noqa: E402

TOKENS = tokenizer()
READING = {"window": 8, "stride": 4, "progress": False}
NEW = ["the dog sat on the mat and the owl ran .", "a cat saw the house , and then a dog ran ."]


@pytest.fixture(scope="module")
def model():
    return made("llama")


@pytest.fixture(scope="module")
def memory(model):
    data = rt.collect(model, TOKENS, TEXTS, outputs=True, **READING)
    made_of = resmem.Memory(k=4, strength=0.5, base=data.base)
    return made_of.fit(*data, groups=data.extra["document"])


@pytest.fixture(scope="module")
def found(model, memory):
    return rt.evaluate_perplexity(model, memory, NEW, TOKENS, chains=(1, 3), **READING)


def losses_by_windows(model, texts, window, stride):
    """Return the model's own losses of the tokens of strided windows, each read alone."""
    losses = []
    for text in texts:
        ids, seen = TOKENS(text)["input_ids"], 1
        for start in range(0, len(ids), stride):
            end = min(start + window, len(ids))
            with torch.no_grad():
                logs = model(torch.tensor([ids[start:end]])).logits[0].log_softmax(-1)
            losses += [-float(logs[at - 1 - start, ids[at]]) for at in range(seen, end)]
            seen = end
            if end == len(ids):
                break
    return np.array(losses)


def test_the_base_is_the_model_itself(model, found):
    expected = losses_by_windows(model, NEW, 8, 4)
    np.testing.assert_allclose(found.losses["base"], expected, rtol=1e-4)
    base = found.methods["base"]
    assert base.perplexity.value == pytest.approx(np.exp(expected.mean()), rel=1e-4)
    assert base.ratio == (1.0, 1.0, 1.0)
    size = sum(len(text) for text in NEW)
    assert base.bits_per_byte == pytest.approx(expected.sum() / math.log(2) / size, rel=1e-4)


def test_every_method_predicts_the_same_tokens(model, memory, found):
    assert list(found.methods) == ["base", "kNN-LM", "ResMem", "memory", "chains 1", "chains 3"]
    data = rt.collect(model, TOKENS, NEW, outputs=True, **READING)
    rows = np.arange(len(data.targets))
    base = np.exp(-losses_by_windows(model, NEW, 8, 4))
    own = memory.predict_proba(data.embeddings, data.outputs)[rows, data.targets]
    np.testing.assert_allclose(found.losses["memory"], -np.log(own), rtol=1e-6)
    distances, ids = memory.kneighbors(data.embeddings)
    weights = np.exp(-(distances - distances[:, :1]) / memory.sigma_)
    weights /= weights.sum(1, keepdims=True)
    share = (weights * (memory.get(ids.ravel()).targets.reshape(ids.shape)
                        == data.targets[:, None])).sum(1)  # fmt: skip
    mixed = (1 - memory.strength) * base + memory.strength * share
    np.testing.assert_allclose(found.losses["kNN-LM"], -np.log(mixed), rtol=1e-3)
    assert found.methods["ResMem"].settings.strength == 1
    assert {len(each) for each in found.losses.values()} == {len(rows)}
    assert all(each.tokens_per_second > 0 for each in found.methods.values())


def test_intervals_are_drawn_by_document(model, memory):
    texts = [*NEW, *TEXTS[:2], *NEW[:1]]
    found = rt.evaluate_perplexity(model, memory, texts, TOKENS, **READING)
    sums, counts = (
        np.bincount(found.documents, weights) for weights in (found.losses["memory"], None)
    )
    rng = np.random.default_rng(0)
    means = []
    for drawn in rng.integers(0, len(counts), (4000, len(counts))):
        means.append(sum(sums[d] for d in drawn) / sum(counts[d] for d in drawn))
    low, high = np.exp(np.quantile(means, (0.025, 0.975)))
    interval = found.methods["memory"].perplexity
    assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))
    assert interval.low < interval.value < interval.high


def test_chains_are_those_of_a_wrapped_model(model, memory, found):
    for least in (1, 3):
        each = found.methods[f"chains {least}"]
        wrapped = rt.wrap(model, memory, chains=least)
        losses = []
        for text in NEW:
            ids = torch.tensor([TOKENS(text)["input_ids"]])
            with torch.no_grad():
                logs = rt.wrap(model, memory)(ids).logits
                wrapped(ids[:, :-1])
            losses.append(logs)
        # The windows are shorter than the texts here, so that only the counts of steps agree.
        assert each.searches.made + each.searches.skipped == len(found.documents)
        assert wrapped.searches.made + wrapped.searches.skipped == len(found.documents)
    assert found.methods["chains 1"].searches.skipped > 0
    assert "chains 1: " in repr(found)
    assert "of searches skipped" in repr(found)


def test_chains_have_the_losses_of_the_wrapped_model(model, memory):
    reading = {"window": 64, "stride": 32, "progress": False}
    found = rt.evaluate_perplexity(model, memory, NEW, TOKENS, chains=1, **reading)
    losses = []
    wrapped = rt.wrap(model, memory, chains=1)
    for text in NEW:
        ids = torch.tensor([TOKENS(text)["input_ids"]])
        with torch.no_grad():
            logs = wrapped(ids[:, :-1]).logits[0]
        losses += (-logs[torch.arange(ids.shape[1] - 1), ids[0, 1:]]).tolist()
    np.testing.assert_allclose(found.losses["chains 1"], losses, rtol=1e-4, atol=1e-5)
    assert vars(found.methods["chains 1"].searches) == vars(wrapped.searches)


def test_chains_begin_anew_with_each_document(model, memory):
    first, last = TEXTS[0][:18], TEXTS[0][15:]  # the second goes on where the first one ends
    all_of_it = copy.copy(memory)
    all_of_it.k = len(memory)
    found = rt.evaluate_perplexity(model, all_of_it, [first, last], TOKENS, chains=1, **READING)
    assert found.methods["chains 1"].searches.made == 2


def test_settings_of_a_tuning_are_used(model, memory):
    data = rt.collect(model, TOKENS, TEXTS[:3], **READING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the rows are the memory's own
        result = memory.tune(*data, k=[1, 4], apply=False, folds=2)
    found = rt.evaluate_perplexity(
        model, memory, NEW, TOKENS, tuned=result,
        methods={"one neighbour": resmem.Settings(1, 1.0, 1.0, 0.5)}, **READING,
    )  # fmt: skip
    assert found.methods["kNN-LM"].settings == result.interpolation
    assert found.methods["ResMem"].settings == result.published
    assert found.methods["one neighbour"].settings.k == 1
    assert (f"base, T={result.base.temperature:.4g}" in found.methods) == (
        result.base.temperature != 1
    )


def test_rows_that_were_collected_before_need_no_model_call(model, memory, found):
    data = rt.collect(model, TOKENS, NEW, **READING)
    again = rt.evaluate_perplexity(model, memory, data, progress=False)
    for name, losses in again.losses.items():
        np.testing.assert_allclose(losses, found.losses[name], rtol=1e-5)
    assert math.isnan(again.methods["base"].bits_per_byte)


def test_one_document_has_no_interval(model, memory):
    found = rt.evaluate_perplexity(model, memory, NEW[:1], TOKENS, **READING)
    assert math.isnan(found.methods["memory"].perplexity.low)
    assert math.isnan(found.methods["memory"].ratio.high)


def test_what_cannot_be_compared_is_refused(model, memory):
    with pytest.raises(TypeError, match="is no language model"):
        rt.evaluate_perplexity(made("bert classes"), memory, labelled(), TOKENS)
    data = rt.collect(model, TOKENS, NEW, outputs=False, **READING)
    with pytest.raises(ValueError, match="outputs=False have no base"):
        rt.evaluate_perplexity(model, memory, data)
    with pytest.raises(ValueError, match="another base"):
        rt.evaluate_perplexity(model, memory, NEW, TOKENS, layer="model.norm")


def test_bits_per_byte_are_of_texts_that_are_predicted_whole(model, memory):
    bert = made("bert")
    data = rt.collect(bert, tokenizer(ends=True), TEXTS * 5, progress=False)
    guessing = resmem.Memory(k=3, store="sparse:8", base=data.base).fit(*data)
    found = rt.evaluate_perplexity(
        bert, guessing, TEXTS * 5, tokenizer(ends=True), progress=False
    )  # some tokens alone are guessed
    assert math.isnan(found.methods["base"].bits_per_byte)
    found = rt.evaluate_perplexity(model, memory, iter(NEW), TOKENS, **READING)
    assert math.isnan(found.methods["base"].bits_per_byte)


def test_rows_of_another_layer_are_refused(model, memory):
    data = rt.collect(model, TOKENS, NEW, layer="model.layers.0", **READING)
    with pytest.raises(ValueError, match=r"another layer 'model\.layers\.0', not 'lm_head:input'"):
        rt.evaluate_perplexity(model, memory, data, progress=False)


def test_chains_of_guessed_tokens_are_refused(memory):
    with pytest.raises(ValueError, match="chains need a model that writes, got BertForMaskedLM"):
        rt.evaluate_perplexity(made("bert"), memory, NEW, TOKENS, chains=1, **READING)


def test_the_memory_is_scored_as_it_is(model, memory):
    data = rt.collect(model, TOKENS, TEXTS[:1], outputs=True, **READING)
    own = resmem.Memory(k=4, temperature=2.0, base=data.base).fit(*data)
    more = rt.collect(model, TOKENS, TEXTS[1:], outputs=True, **READING)
    own.add(*more)  # sigma is that of the first rows
    found = rt.evaluate_perplexity(model, own, NEW, TOKENS, **READING)
    new = rt.collect(model, TOKENS, NEW, outputs=True, **READING)
    chances = own.predict_proba(new.embeddings, new.outputs, columns=new.targets[:, None])
    np.testing.assert_array_equal(found.losses["memory"], -np.log(chances[:, 0]))
    logits = torch.from_numpy(new.outputs).double() / 2
    base = -logits.log_softmax(1).numpy()[np.arange(len(new.targets)), new.targets]
    np.testing.assert_allclose(found.losses["base, T=2"], base, rtol=1e-4)
