"""``resmem.transformers.wrap`` and the logits processor: every form of output, ``generate``,
chains."""

from __future__ import annotations

import copy
import inspect
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")
transformers = pytest.importorskip("transformers", reason="needs transformers")

import resmem  # noqa: E402
import resmem.transformers as rt  # noqa: E402
from transformers_models import TEXTS, images, labelled, made, pairs, tokenizer  # noqa: E402

TOKENS, ENDS = tokenizer(), tokenizer(ends=True)
GIVEN = {
    "gpt2": (TOKENS, TEXTS), "llama": (TOKENS, TEXTS), "bert": (ENDS, TEXTS * 3),
    "t5": (ENDS, pairs()), "bert classes": (TOKENS, labelled()),
    "llama classes": (TOKENS, labelled()), "vit": (None, images()),
}  # fmt: skip


def fitted(model, name, **settings):
    processor, given = GIVEN[name]
    data = rt.collect(model, processor, given, outputs=True, progress=False)
    memory = resmem.Memory(k=4, base=data.base, **settings)
    return memory.fit(*data, groups=data.extra["document"]), data


def asked(name):
    """Return what a model is called with: two rows, with padding where there are tokens."""
    if name == "vit":
        return {"pixel_values": torch.tensor(np.stack([row["pixel_values"] for row in images(2)]))}
    processor = GIVEN[name][0]
    batch = dict(processor(TEXTS[1:3], return_tensors="pt", padding=True))
    batch.pop("token_type_ids", None)
    if name == "t5":
        batch["decoder_input_ids"] = torch.tensor([[1, 5, 7], [1, 9, 7]])
    return batch


def read_slowly(memory, embeddings, logits):
    """Return log(base + strength * sum_j w_j r_j), clipped, by plain NumPy, for rows (q, d)."""
    rows = memory.get(memory.ids)
    exp = np.exp(rows.outputs - rows.outputs.max(1, keepdims=True).astype(np.float64))
    residuals = np.eye(rows.outputs.shape[1])[rows.targets] - exp / exp.sum(1, keepdims=True)
    found = []
    for embedding, row in zip(embeddings, logits, strict=True):
        distances = np.sqrt(((rows.embeddings - embedding.astype(np.float64)) ** 2).sum(1))
        near = np.argsort(distances, kind="stable")[: memory.k]
        weights = np.exp(-(distances[near] - distances[near][0]) / memory.sigma_)
        base = np.exp(row - row.max(), dtype=np.float64)
        mixed = base / base.sum() + memory.strength * (weights / weights.sum()) @ residuals[near]
        clipped = np.maximum(mixed, 1e-6)
        found.append(np.log(clipped / clipped.sum()))
    return np.array(found)


@pytest.mark.parametrize("name", list(GIVEN))
def test_logits_are_logarithms_of_the_corrected_probabilities(name):
    model = made(name)
    memory, _ = fitted(model, name, strength=0.7)
    batch = asked(name)
    wrapped = rt.wrap(model, memory)
    with torch.no_grad():
        bare, output = model(**batch), wrapped(**batch)
        hook = []
        last = model.get_submodule(memory.base["layer"].removesuffix(":input"))
        handle = last.register_forward_pre_hook(lambda _, args: hook.append(args[0]))
        model(**batch)
        handle.remove()
    states = hook[0]
    if name == "llama classes":  # its last layer sees every token, and the last of them counts
        length = batch["attention_mask"].sum(1) - 1
        states = states[torch.arange(len(states)), length]
    expected = read_slowly(
        memory, states.reshape(-1, states.shape[-1]).numpy(),
        bare.logits.reshape(-1, bare.logits.shape[-1]).numpy(),
    )  # fmt: skip
    assert type(output) is type(bare)
    assert isinstance(wrapped, type(model))
    np.testing.assert_allclose(
        output.logits.reshape(expected.shape).numpy(), expected, rtol=2e-4, atol=2e-4
    )
    assert not torch.allclose(output.logits.softmax(-1), bare.logits.softmax(-1), atol=1e-3)


@pytest.mark.parametrize("name", list(GIVEN))
def test_loss_is_the_mean_cross_entropy_of_the_corrected_logits(name):
    model = made(name)
    memory, _ = fitted(model, name)
    batch, wrapped = asked(name), rt.wrap(model, memory)
    if name in ("gpt2", "llama"):
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        pick = lambda logits: (logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())  # noqa: E731
    elif name == "bert":
        labels = torch.where(batch["input_ids"] == 7, batch["input_ids"], -100)
        pick = lambda logits: (logits.flatten(0, 1), labels.flatten())  # noqa: E731
    elif name == "t5":
        labels = torch.tensor([[5, 7, 4], [9, 7, -100]])
        pick = lambda logits: (logits.flatten(0, 1), labels.flatten())  # noqa: E731
    else:
        labels = torch.tensor([2, 0])
        pick = lambda logits: (logits, labels)  # noqa: E731
    with torch.no_grad():
        bare, output = model(**batch, labels=labels), wrapped(**batch, labels=labels)
    for each in (bare, output):  # the bare model's own loss is the same function of its logits
        logits, targets = (part.double() if part.is_floating_point() else part
                           for part in pick(each.logits))  # fmt: skip
        kept = targets != -100
        rows = logits[kept].log_softmax(1)[torch.arange(int(kept.sum())), targets[kept]]
        np.testing.assert_allclose(float(each.loss), float(-rows.mean()), rtol=1e-5)


def test_regression_values_are_corrected():
    model = made("bert classes", num_labels=1)
    given = [{"text": TEXTS[at % 4], "label": float(at % 3)} for at in range(8)]
    data = rt.collect(model, TOKENS, given, progress=False)
    memory = resmem.Memory(task="regression", k=2, base=data.base).fit(*data)
    batch = asked("bert classes")
    with torch.no_grad():
        output = rt.wrap(model, memory)(**batch, labels=torch.tensor([1.0, 2.0]))
        bare = model(**batch).logits
        near = rt.collect(model, TOKENS, [{**given[at], "label": 0.0} for at in (1, 2)],
                          progress=False)  # fmt: skip
    expected = memory.correct(near.embeddings, near.outputs).reshape(2, 1)
    np.testing.assert_allclose(output.logits.numpy(), expected, rtol=1e-4, atol=1e-4)
    assert not np.allclose(expected, bare.numpy(), atol=0.05)
    loss = ((expected[:, 0] - np.array([1.0, 2.0])) ** 2).mean()
    np.testing.assert_allclose(float(output.loss), loss, rtol=1e-4)


def test_tuples_come_where_they_are_asked_for():
    model = made("llama")
    memory, _ = fitted(model, "llama")
    batch, wrapped = asked("llama"), rt.wrap(model, memory)
    with torch.no_grad():
        output = wrapped(**batch, labels=batch["input_ids"])
        loss, logits, *_ = wrapped(**batch, labels=batch["input_ids"], return_dict=False)
    assert torch.equal(loss, output.loss)
    assert torch.equal(logits, output.logits)


def test_the_model_is_left_as_it_is():
    model = made("llama")
    memory, _ = fitted(model, "llama")
    batch = asked("llama")
    with torch.no_grad():
        before = model(**batch).logits
        wrapped = rt.wrap(model, memory)
        corrected = wrapped(**batch).logits
        assert torch.equal(model(**batch).logits, before)
    assert not torch.equal(corrected, before)
    assert type(wrapped) is not type(model)
    assert list(wrapped.state_dict()) == list(model.state_dict())
    assert wrapped.lm_head is model.lm_head
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_forward_that_was_put_into_the_model_is_called():
    """accelerate puts one there, which brings inputs to the device of each part."""
    model = made("llama")
    memory, _ = fitted(model, "llama")
    batch = asked("llama")
    with torch.no_grad():
        expected = rt.wrap(model, memory)(**batch).logits
        forward, calls = model.forward, []

        def counted(*args, **kwargs):
            calls.append(1)
            return forward(*args, **kwargs)

        model.forward = counted
        assert torch.equal(rt.wrap(model, memory)(**batch).logits, expected)
    assert calls


def test_training_sees_the_bare_model():
    model = made("llama").train()
    memory, _ = fitted(model, "llama")
    wrapped = rt.wrap(model, memory)
    batch = asked("llama")
    loss = wrapped(**batch, labels=batch["input_ids"]).loss
    loss.backward()
    assert model.lm_head.weight.grad is not None
    with torch.no_grad():
        with pytest.warns(resmem.ResmemWarning, match=r"training mode.* its eval\(\)"):
            assert torch.equal(wrapped(**batch).logits, model(**batch).logits)
        wrapped.eval()
        assert not torch.equal(wrapped(**batch).logits, model(**batch).logits)


def test_it_is_pickled_and_copied_with_its_memory(tmp_path):
    model = made("llama")
    memory, _ = fitted(model, "llama")
    wrapped, batch = rt.wrap(model, memory, method="targets", strength=0.5), asked("llama")
    with torch.no_grad():
        expected = wrapped(**batch).logits
        again = pickle.loads(pickle.dumps(wrapped))
        assert torch.equal(again(**batch).logits, expected)
        assert torch.equal(copy.deepcopy(wrapped)(**batch).logits, expected)
        wrapped.save_pretrained(tmp_path)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
        assert type(loaded) is type(model)
        found = rt.wrap(loaded, memory, method="targets", strength=0.5)(**batch).logits
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)


def test_settings_are_those_of_the_call():
    model = made("llama")
    memory, _ = fitted(model, "llama")
    batch = asked("llama")
    mixed = copy.copy(memory)
    mixed.method, mixed.strength, mixed.k = "targets", 0.3, 2
    with torch.no_grad():
        one = rt.wrap(model, memory, method="targets", strength=0.3, k=2)(**batch).logits
        assert torch.equal(one, rt.wrap(model, mixed)(**batch).logits)
    assert (memory.method, memory.k) == ("residual", 4)
    with pytest.raises(TypeError, match="no argument 'lamda'; settings of a memory are k, sigma"):
        rt.wrap(model, memory, lamda=0.3)


def test_rows_that_are_added_count_at_once():
    model = made("llama")
    memory, _ = fitted(model, "llama")
    wrapped, batch = rt.wrap(model, memory), asked("llama")
    with torch.no_grad():
        before = wrapped(**batch).logits
        memory.remove(memory.ids[len(memory) // 2 :])
        assert not torch.equal(wrapped(**batch).logits, before)


def test_another_model_or_layer_is_refused():
    model = made("llama")
    memory, _ = fitted(model, "llama")
    other = made("llama")
    with torch.no_grad():
        other.lm_head.weight += 1
    with pytest.raises(ValueError, match=r"another base .*fingerprint"):
        rt.wrap(other, memory)
    with pytest.raises(ValueError, match=r"another base .*layer"):
        rt.wrap(model, memory, layer="model.norm")
    rt.wrap(other, memory, check=False)
    with pytest.raises(TypeError, match=r"memory must be a resmem\.Memory, got dict"):
        rt.wrap(model, {})


def test_the_layer_is_the_one_that_the_memory_names():
    model = made("llama")
    data = rt.collect(model, TOKENS, TEXTS, layer="model.layers.0", progress=False)
    memory = resmem.Memory(k=3, store="sparse:8", base=data.base).fit(*data)
    ids = torch.tensor([TOKENS(TEXTS[0])["input_ids"]])
    with torch.no_grad():
        found = rt.wrap(model, memory)(ids).logits[0].exp().numpy()
        bare = model(ids, output_hidden_states=True)
    states = bare.hidden_states[1][0].numpy()
    expected = memory.predict_proba(states, bare.logits[0].numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


# ---- generation ----------------------------------------------------------------------------------

WAYS = {
    "greedy": {}, "sampled": {"do_sample": True, "temperature": 1.5}, "beams": {"num_beams": 3},
    "no cache": {"use_cache": False}, "several": {"do_sample": True, "num_return_sequences": 3},
}  # fmt: skip


def written(model, batch, **options):
    torch.manual_seed(3)
    usual = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": 4, "pad_token_id": 1}
    return model.generate(**batch, **{**usual, **options})


@pytest.mark.parametrize("chains", [0, 2])
@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_generate_writes_what_the_processor_writes(name, way, chains):
    model = made(name)
    memory, _ = fitted(model, name)
    batch = dict(GIVEN[name][0]([TEXTS[1]], return_tensors="pt"))
    batch.pop("token_type_ids", None)
    options = {"method": "targets", "strength": 0.6, "chains": chains}
    wrapped = rt.wrap(model, memory, **options)
    one = written(wrapped, batch, **WAYS[way])
    with rt.MemoryLogitsProcessor(model, memory, **options) as corrected:
        two = written(model, batch, logits_processor=[corrected], **WAYS[way])
    assert one.tolist() == two.tolist()
    assert one.tolist() != written(model, batch, **WAYS[way]).tolist()
    if chains:
        assert wrapped.searches.made
        if (name, way) != ("t5", "no cache"):  # it sees the whole text again at every step
            assert vars(wrapped.searches) == vars(corrected.searches)
    else:
        assert wrapped.searches is corrected.searches is None


def test_greedy_tokens_are_the_likeliest_of_one_forward_call():
    model = made("llama")
    memory, _ = fitted(model, "llama")
    wrapped = rt.wrap(model, memory)
    ids = written(wrapped, dict(TOKENS([TEXTS[1]], return_tensors="pt")))
    start = len(TOKENS(TEXTS[1])["input_ids"])
    with torch.no_grad():
        likeliest = wrapped(ids).logits[0].argmax(-1)
    assert ids[0, start:].tolist() == likeliest[start - 1 : -1].tolist()


def test_a_processor_stops_listening():
    model = made("llama")
    memory, _ = fitted(model, "llama")
    processor = rt.MemoryLogitsProcessor(model, memory)
    with pytest.raises(RuntimeError, match="was not called since"):
        processor(torch.tensor([[5]]), torch.zeros(1, 24))
    assert isinstance(processor, transformers.LogitsProcessor)
    assert model.lm_head._forward_hooks
    processor.remove()
    assert not model.lm_head._forward_hooks
    with pytest.raises(ValueError, match="does not generate"):
        rt.MemoryLogitsProcessor(made("bert"), fitted(made("bert"), "bert")[0])


def test_the_forward_has_the_signature_of_the_model():
    model = made("llama")
    wrapped = rt.wrap(model, fitted(model, "llama")[0])
    assert inspect.signature(wrapped.forward) == inspect.signature(model.forward)


# ---- chains --------------------------------------------------------------------------------------


def walk_slowly(memory, embeddings, logits, tokens, least):
    """Return probabilities of consecutive tokens and how many were searched for, by definition."""
    rows = memory.get(memory.ids)
    group = rows.attributes["groups"]
    chances, chain, searched = [], [], 0
    for step, (embedding, row) in enumerate(zip(embeddings, logits, strict=True)):
        if step:
            chain = [
                at + 1 for at in chain
                if rows.targets[at] == tokens[step - 1]
                and at + 1 < len(group) and group[at + 1] == group[at]
            ]  # fmt: skip
        if len(chain) < least:
            searched += 1
            chain = list(memory.kneighbors(embedding[None])[1][0])
        distances = np.linalg.norm(rows.embeddings[chain].astype(np.float64) - embedding, axis=1)
        order = np.argsort(distances, kind="stable")[: memory.k]
        near = np.array(chain)[order]
        made_of = memory.aggregate(distances[order][None], near[None], row[None])
        chances.append(made_of[0])
    return np.array(chances), searched


@pytest.mark.parametrize("least", [1, 2, 4])
def test_chains_follow_the_text_of_the_memory(least):
    model = made("llama")
    memory, _ = fitted(model, "llama", method="targets", strength=0.5)
    ids = TOKENS(TEXTS[1])["input_ids"]
    wrapped = rt.wrap(model, memory, chains=least)
    with torch.no_grad():
        found = wrapped(torch.tensor([ids])).logits[0].exp().numpy()
        bare = model(torch.tensor([ids]), output_hidden_states=True)
    states, logits = bare.hidden_states[-1][0].numpy(), bare.logits[0].numpy()
    expected, searched = walk_slowly(memory, states, logits, ids[1:], least)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert wrapped.searches.made == searched
    assert wrapped.searches.made + wrapped.searches.skipped == len(ids)
    assert wrapped.searches.saved == pytest.approx(1 - searched / len(ids))
    assert (searched < len(ids)) == (least < 4)  # no step leaves all four neighbours


def test_chains_go_on_from_step_to_step_of_generate():
    model = made("llama")
    memory, _ = fitted(model, "llama", method="targets", strength=0.9)
    wrapped = rt.wrap(model, memory, chains=1)
    ids = written(wrapped, dict(TOKENS([TEXTS[1]], return_tensors="pt")), max_new_tokens=12)
    with torch.no_grad():
        bare = model(ids, output_hidden_states=True)
    steps = slice(len(TOKENS(TEXTS[1])["input_ids"]) - 1, ids.shape[1] - 1)
    states, logits = bare.hidden_states[-1][0, steps].numpy(), bare.logits[0, steps].numpy()
    following = ids[0, steps.start + 1 :].tolist()
    chances, searched = walk_slowly(memory, states, logits, following, 1)
    assert following == chances.argmax(1).tolist()
    assert wrapped.searches.made == searched
    assert wrapped.searches.skipped == len(following) - searched > 0


def test_chains_end_with_their_document_and_at_gaps():
    memory = resmem.Memory(k=3, output_kind="none", method="targets")
    keys = np.arange(8.0)[:, None]
    memory.fit(keys, None, [1, 2, 1, 2, 1, 2, 1, 2], ids=[0, 1, 2, 3, 4, 5, 7, 8],
               groups=[0, 0, 0, 0, 9, 9, 9, 9])  # fmt: skip
    chains = rt.Chains(memory, 1)
    assert chains.followed(np.array([0, 1, 2, -1]), 1).tolist() == [1, 3]
    assert chains.followed(np.array([1, 3, 5, 8]), 2).tolist() == [2]
    with pytest.raises(ValueError, match="at least 1, or 0 for none, got -1"):
        rt.Chains(memory, -1)


def test_chains_go_on_when_rows_are_added():
    model = made("llama")
    memory, data = fitted(model, "llama")
    wrapped = rt.wrap(model, memory, chains=1)
    ids = torch.tensor([TOKENS(TEXTS[0])["input_ids"]])
    memory.add(data.embeddings[:5] + 1e-6, data.outputs[:5], data.targets[:5], groups=[9] * 5)
    with torch.no_grad():
        wrapped(ids)
    assert wrapped.searches.made + wrapped.searches.skipped == ids.shape[1]
    followed = wrapped._resmem.correction.chains.followed
    assert followed(memory.ids[-5:], int(data.targets[0])).tolist() == []


def test_chains_that_hold_everywhere_need_one_search():
    """A memory with k of all its rows, read with its own text, searches once a document."""
    model = made("llama")
    memory, _ = fitted(model, "llama")
    ids = TOKENS(TEXTS[0])["input_ids"]
    wrapped = rt.wrap(model, memory, chains=1, k=len(memory))
    with torch.no_grad():
        wrapped(torch.tensor([ids[:-1]]))
    assert wrapped.searches.made == 1


def test_chains_need_a_model_that_writes():
    model = made("bert")
    with pytest.raises(ValueError, match="chains need a model that writes"):
        rt.wrap(model, fitted(model, "bert")[0], chains=1)


# ---- what generate and trainers ask for ----------------------------------------------------------


@pytest.mark.parametrize("chains", [0, 1])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_named_layer_gives_embeddings_of_kept_logits(name, chains):
    model = made(name)
    layer = "transformer.h.0" if name == "gpt2" else "model.layers.1.mlp:input"
    data = rt.collect(model, TOKENS, TEXTS, layer=layer, progress=False)
    memory = resmem.Memory(k=4, store="sparse:8", base=data.base)
    memory.fit(*data, groups=data.extra["document"])
    wrapped, ids = rt.wrap(model, memory, chains=chains), asked(name)["input_ids"][:1]
    with torch.no_grad():
        whole = rt.wrap(model, memory)(ids).logits
        for kept in (1, 0):
            some = wrapped(ids, logits_to_keep=kept).logits
            if not (chains and not kept):
                torch.testing.assert_close(some, whole[:, -kept:], rtol=1e-4, atol=1e-4)
        if chains:
            with pytest.raises(ValueError, match="give logits_to_keep a number"):
                wrapped(ids, logits_to_keep=torch.tensor([2, 0]))
        else:
            some = wrapped(ids, logits_to_keep=torch.tensor([2, 0])).logits
            torch.testing.assert_close(some, whole[:, [2, 0]], rtol=1e-4, atol=1e-4)
    batch = {"input_ids": ids}
    one = written(rt.wrap(model, memory, chains=chains), batch)
    with rt.MemoryLogitsProcessor(model, memory, chains=chains) as corrected:
        two = written(model, batch, logits_processor=[corrected])
    assert one.tolist() == two.tolist()


@pytest.mark.parametrize("chains", [0, 1])
def test_tokens_that_are_forbidden_stay_so(chains):
    model = made("llama")
    memory, _ = fitted(model, "llama", method="targets", strength=0.9)
    batch = dict(TOKENS([TEXTS[1]], return_tensors="pt"))
    with rt.MemoryLogitsProcessor(model, memory, chains=chains) as corrected:
        free = written(model, batch, logits_processor=[corrected], eos_token_id=None)
        bad = set(free[0, batch["input_ids"].shape[1] :].tolist())
        found = written(
            model, batch, logits_processor=[corrected], eos_token_id=None,
            bad_words_ids=[[token] for token in bad],
        )  # fmt: skip
    assert not bad & set(found[0, batch["input_ids"].shape[1] :].tolist())


def test_loss_over_the_items_of_a_step():
    for name in ("gpt2", "llama"):
        model = made(name)
        memory, _ = fitted(model, name)
        batch = asked(name)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        given = {**batch, "labels": labels, "num_items_in_batch": 100}
        with torch.no_grad():
            bare, found = model(**given).loss, rt.wrap(model, memory, strength=0.0)(**given).loss
        torch.testing.assert_close(found, bare, rtol=1e-4, atol=1e-5)


def test_a_copy_keeps_its_mode():
    model = made("llama").train()
    memory, _ = fitted(model, "llama")
    wrapped = rt.wrap(model, memory).eval()
    assert not copy.copy(wrapped).training
    assert not pickle.loads(pickle.dumps(wrapped)).training


def test_chains_of_inputs_that_begin_alike_are_kept_apart():
    """Decoders of a batch all begin with one token; each follows what its own input found."""
    model = made("t5")
    memory, _ = fitted(model, "t5", method="targets", strength=0.6)

    def scores(texts):
        wrapped = rt.wrap(model, memory, chains=1)
        batch = dict(ENDS(texts, return_tensors="pt", padding=True))
        batch.pop("token_type_ids", None)
        found = written(
            wrapped, batch, eos_token_id=None, return_dict_in_generate=True, output_scores=True
        )
        return torch.stack(found.scores, 1), wrapped.searches

    together, searches = scores(TEXTS)
    apart = [scores([text]) for text in TEXTS]
    for row, (each, _) in zip(together, apart, strict=True):
        torch.testing.assert_close(row, each[0], rtol=1e-3, atol=1e-2)
    assert searches.made == sum(each.made for _, each in apart)


def test_chains_that_cannot_be_told_apart_are_searched_for():
    model = made("t5")
    memory, data = fitted(model, "t5", method="targets", strength=0.6)
    wrapped = rt.wrap(model, memory, chains=1)
    correction = wrapped._resmem.correction
    states, logits = (
        torch.from_numpy(np.array(part[[0, 1, 9]]))[:, None]
        for part in (data.embeddings, data.outputs)
    )
    first = torch.tensor([[1, 5], [1, 6], [1, 6]])
    correction.chained(states, logits, first, first)
    token = int(memory.get(memory.kneighbors(np.array(data.embeddings[9:10]))[1][0]).targets[0])
    then = torch.tensor([[1, 6, token], [1, 6, token], [1, 6, token]])
    assert len(correction._known(0, then[0].numpy())) == 0  # it was the second or the third
    expected = [
        correction.chains.followed(correction._found[row][1], token).tolist() for row in (1, 2)
    ]
    assert [correction._known(row, then[row].numpy()).tolist() for row in (1, 2)] == expected


def test_settings_that_go_together_are_set_together():
    model = made("llama")
    memory, _ = fitted(model, "llama", strength=1.5)
    batch = asked("llama")
    with torch.no_grad():
        one = rt.wrap(model, memory, method="targets", strength=0.5)(**batch).logits
        two = rt.wrap(model, memory, strength=0.5, method="targets")(**batch).logits
    assert torch.equal(one, two)


def test_sequences_of_another_call_lead_to_no_chains():
    model = made("llama")
    memory, _ = fitted(model, "llama")
    wrapped = rt.wrap(model, memory, chains=1)
    with pytest.warns(resmem.ResmemWarning, match="training mode"):  # the bare model writes
        written(wrapped.train(), dict(TOKENS([TEXTS[1]], return_tensors="pt")))
    ids = asked("llama")["input_ids"][:, :1]
    with torch.no_grad():
        found = wrapped.eval()(ids).logits
        torch.testing.assert_close(found, rt.wrap(model, memory)(ids).logits)


def test_assisted_generation_needs_a_wrapped_model():
    model = made("llama").eval()
    memory, _ = fitted(model, "llama", method="targets", strength=0.5)
    batch = dict(TOKENS([TEXTS[1]], return_tensors="pt"))
    options = {"prompt_lookup_num_tokens": 3, "eos_token_id": None}
    wrapped = rt.wrap(model, memory)
    assert written(wrapped, batch, **options).tolist() == (
        written(wrapped, batch, eos_token_id=None).tolist()
    )
    with (
        rt.MemoryLogitsProcessor(model, memory) as corrected,
        pytest.raises(
            RuntimeError, match=r"assisted generation.* needs resmem\.transformers\.wrap"
        ),
    ):
        written(model, batch, logits_processor=[corrected], **options)


def test_memories_of_other_outputs_are_refused():
    model = made("llama")
    data = rt.collect(model, TOKENS, TEXTS, outputs=True, progress=False)
    alone = resmem.Memory(output_kind="none", base=data.base)
    alone.fit(data.embeddings, None, data.targets)
    values = resmem.Memory(task="regression", base=data.base)
    values.fit(data.embeddings, data.outputs, data.outputs)
    for memory in (alone, values):
        with pytest.raises(ValueError, match="needs a memory with task='classification' and outp"):
            rt.wrap(model, memory)
        with pytest.raises(ValueError, match="needs a memory with task='classification' and outp"):
            rt.evaluate_perplexity(model, memory, TEXTS, TOKENS, progress=False)
    regressor = made("bert classes", num_labels=1)
    with pytest.raises(ValueError, match="needs a memory with task='regression'"):
        rt.wrap(regressor, fitted(made("bert classes"), "bert classes")[0], check=False)
