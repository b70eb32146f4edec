"""``resmem.torch.wrap``: corrected outputs in every form, and the model untouched."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle
import threading
import warnings
from collections import namedtuple

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")

from torch import nn  # noqa: E402
from torch.utils import data  # noqa: E402

import resmem  # noqa: E402
import resmem.torch  # noqa: E402
from resmem.adapters.torch.correcting import logarithms, stays  # noqa: E402
from torch_models import Images, Tokens, images, loader, made, sequences, table  # noqa: E402

X, Y = images()
NEW, _ = images(9, seed=5)


def fitted(model, **settings):
    collected = resmem.torch.collect(model, loader(X, Y), "avgpool")
    return resmem.Memory(k=5, base=collected.base, **settings).fit(*collected)


@pytest.fixture
def model():
    return made(Images)


@pytest.fixture
def memory(model):
    return fitted(model)


def by_hand(model, memory, x=NEW):
    """Return what the memory makes of the model's embeddings and logits."""
    with torch.no_grad():
        h = model.avgpool(model.relu(model.bn(model.conv(x)))).flatten(1)
        return memory.predict_proba(h, model.fc(h)), model.fc(h)


# ---- What comes out ------------------------------------------------------------------------------


def test_wrapped_model_returns_the_memorys_probabilities(model, memory):
    wrapped = resmem.torch.wrap(model, memory)
    found = wrapped(NEW)
    wanted, logits = by_hand(model, memory)
    assert found.dtype == torch.float32
    assert np.array_equal(found, wanted.astype(np.float32))
    assert not np.allclose(found, logits.softmax(1), atol=1e-3)
    assert torch.equal(model(NEW), logits)  # the model itself is not corrected


def test_logits_are_logarithms_of_the_probabilities(model, memory):
    found = resmem.torch.wrap(model, memory, mode="logits")(NEW)
    wanted, _ = by_hand(model, memory)
    assert np.array_equal(found, np.log(wanted).astype(np.float32))


def test_mode_defaults_to_what_the_task_has(model):
    x, y = torch.randn(30, 4), torch.randn(30)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)).eval()
    collected = resmem.torch.collect(net, loader(x, y), "1", outputs=lambda out: out[:, 0])
    memory = resmem.Memory("regression", k=3, base=collected.base).fit(*collected)
    wrapped = resmem.torch.wrap(net, memory)
    hidden, out = net[:2](x[:5]).detach(), net(x[:5]).detach()
    assert wrapped(x[:5]).shape == (5, 1)
    assert np.allclose(wrapped(x[:5])[:, 0], memory.correct(hidden, out[:, 0]).ravel(), atol=1e-6)
    with pytest.raises(ValueError, match="mode must be 'values' for regression, got 'logits'"):
        resmem.torch.wrap(net, memory, mode="logits")
    with pytest.raises(ValueError, match="'probabilities' or 'logits' for classification"):
        resmem.torch.wrap(model, fitted(model), mode="proba")


def test_double_models_are_corrected_in_double():
    model = made(Images).double()
    collected = resmem.torch.collect(model, [(X.double(), Y)], "avgpool")
    memory = resmem.Memory(k=5, base=collected.base).fit(*collected)
    found = resmem.torch.wrap(model, memory)(NEW.double())
    assert np.array_equal(found, by_hand(model, memory, NEW.double())[0])


def test_table_model_is_corrected():
    x, y = torch.randn(30, 4), torch.randint(0, 3, (30,))
    model = table().eval()
    collected = resmem.torch.collect(model, loader(x, y), model[3])
    memory = resmem.Memory(k=3, base=collected.base).fit(*collected)
    found = resmem.torch.wrap(model, memory)(x[:7])
    wanted = memory.predict_proba(model[:4](x[:7]).detach(), model(x[:7]).detach())
    assert np.array_equal(found, wanted.astype(np.float32))


# ---- Logarithms ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_corrected_logits_are_finite_where_the_models_are(dtype):
    """Softmax rounds the probability of logits far below others to 0, which no map may lift."""
    memory = resmem.Memory(k=1, sigma=1.0).fit(np.eye(3), np.zeros((3, 4)), np.array([0, 0, 0]))
    logits = torch.tensor(
        [[0.0, -2000, -3e38, 1], [0, -torch.inf, -745, 1], [-torch.inf, 0, 0, 0]], dtype=dtype
    )
    for strength in (0.0, 0.3, 1.0):
        memory.strength = strength
        for map_name in ("clip", "project", "keep"):
            memory.probability_map = map_name
            p = torch.as_tensor(memory.predict_proba(np.eye(3), logits))
            found = logarithms(p, logits, memory, dtype).to(dtype)
            assert torch.equal(found == -torch.inf, (logits == -torch.inf) & (p == 0))
            assert not found.isnan().any()
            assert torch.allclose(found[p > 0].exp(), p[p > 0].to(dtype))
            if strength == 0:
                assert torch.equal(found.argsort(1), logits.argsort(1))


def test_logarithms_of_other_outputs_may_be_infinite():
    p = np.array([[0.2, 0.8, 0.0], [0.5, 0.5, 0.0]])
    memory = resmem.Memory(k=1, output_kind="probabilities").fit(np.eye(2), p, np.array([0, 1]))
    memory.strength = 0
    found = logarithms(
        torch.as_tensor(memory.predict_proba(np.eye(2), p)),
        torch.as_tensor(p),
        memory,
        torch.float32,
    )
    assert torch.equal(found.isneginf(), torch.as_tensor(p == 0))


# ---- Other memories ------------------------------------------------------------------------------


def test_memory_without_a_base_model_predicts_alone(model):
    collected = resmem.torch.collect(model, loader(X, Y), "avgpool")
    memory = resmem.Memory(k=5, output_kind="none").fit(
        collected.embeddings, None, collected.targets
    )
    h = resmem.torch.collect(model, [NEW], "avgpool").embeddings
    for given in ({}, {"outputs": None}):
        found = resmem.torch.wrap(model, memory, "avgpool", **given)(NEW)
        assert np.array_equal(found, memory.predict_proba(h).astype(np.float32))


def test_memory_with_the_models_head_gives_the_same(model, memory):
    collected = resmem.torch.collect(model, loader(X, Y), "fc:input")
    other = resmem.Memory(k=5, store="head", head=model.fc, base=collected.base)
    other.fit(collected.embeddings, None, collected.targets)
    found = resmem.torch.wrap(model, other)(NEW)
    assert torch.allclose(found, resmem.torch.wrap(model, memory)(NEW), atol=1e-5)


@pytest.mark.parametrize("n", [0, 1])
def test_batches_of_few_rows_are_corrected(model, memory, n):
    for mode in ("probabilities", "logits"):
        assert resmem.torch.wrap(model, memory, mode=mode)(NEW[:n]).shape == (n, 3)


# ---- What the model returns ----------------------------------------------------------------------

Pair = namedtuple("Pair", ["scores", "hidden"])


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    loss: float = 3.0


class Simple:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize(
    ("form", "which", "read"),
    [
        (lambda z: {"logits": z, "loss": 3.0}, "auto", lambda r: r["logits"]),
        (lambda z: {"scores": z}, "scores", lambda r: r["scores"]),
        (lambda z: (z, 3.0), 0, lambda r: r[0]),
        (lambda z: [3.0, z], -1, lambda r: r[1]),
        (lambda z: (z,), "auto", lambda r: r[0]),
        (lambda z: Pair(z, 3.0), "scores", lambda r: r.scores),
        (lambda z: Pair(z, 3.0), 0, lambda r: r.scores),
        (Output, "auto", lambda r: r.logits),
        (Simple, "auto", lambda r: r.logits),
        (lambda z: {"a": [z]}, lambda r: r["a"][0], None),
    ],
)
def test_outputs_are_replaced_in_what_the_model_returns(memory, form, which, read):
    class Formed(Images):
        def forward(self, x):
            self.returned = form(super().forward(x))
            return self.returned

    model = made(Formed)
    model.load_state_dict(made(Images).state_dict())
    plain = resmem.torch.wrap(made(Images), memory)(NEW)
    bare = model(NEW)
    found = resmem.torch.wrap(model, memory, outputs=which)(NEW)
    if read is None:
        assert torch.equal(found, plain)
        return
    assert type(found) is type(bare)
    assert torch.equal(read(found), plain)
    assert not torch.equal(read(model.returned), plain)  # what the model made is not changed


@pytest.mark.parametrize(
    ("returned", "which", "words"),
    [
        (lambda z: (z, z), "auto", r"no outputs in the tuple .* give one of 0, 1 as outputs="),
        (lambda z: {"a": z}, "auto", "no outputs in the dict .* give one of 'a' as outputs="),
        (lambda z: z, "logits", "no outputs 'logits' in the Tensor .*; give a function of what"),
    ],
)
def test_outputs_that_are_not_found_are_an_error(model, memory, returned, which, words):
    class Formed(Images):
        def forward(self, x):
            return returned(super().forward(x))

    wrapped = resmem.torch.wrap(made(Formed), memory, outputs=which)
    with pytest.raises(ValueError, match=words):
        wrapped(NEW)


def test_outputs_that_do_not_serve_are_refused(model, memory):
    for which, error, words in (
        (lambda z: 3, TypeError, "outputs must be a tensor, got int"),
        (lambda z: z[:, 0], ValueError, "must have a column for each class"),
    ):
        with pytest.raises(error, match=words):
            resmem.torch.wrap(model, memory, outputs=which)(NEW)


# ---- Sequences -----------------------------------------------------------------------------------


def tagger():
    model, (ids, mask, labels) = made(Tokens), sequences()
    batch = {"ids": ids, "attention_mask": mask, "labels": labels}
    collected = resmem.torch.collect(model, [batch], "encoder")
    return model, resmem.Memory(k=5, temperature=1.5, base=collected.base).fit(*collected)


@pytest.mark.parametrize("mode", ["probabilities", "logits"])
@pytest.mark.parametrize("masked", ["attention_mask", "function", None])
def test_tokens_of_a_mask_are_corrected(mode, masked):
    model, memory = tagger()
    ids, mask, _ = sequences(4, seed=3)
    place = (lambda ids, attention_mask: attention_mask) if masked == "function" else masked
    wrapped = resmem.torch.wrap(model, memory, mode=mode, mask=place)
    found = wrapped(ids, attention_mask=mask)["logits"]
    handle = model.encoder.register_forward_hook(lambda *_: None)  # keeps it off its fast path
    with torch.no_grad():
        returned = model(ids, mask)
    handle.remove()
    h, logits = returned["hidden"].flatten(0, 1), returned["logits"].flatten(0, 1)
    wanted = torch.as_tensor(memory.predict_proba(h, logits)).reshape(4, 5, 3)
    base = (returned["logits"].double() / 1.5).softmax(-1)
    if masked is not None:
        wanted[mask == 0] = base[mask == 0]
    wanted = wanted.log() if mode == "logits" else wanted
    assert torch.allclose(found, wanted.float(), atol=1e-6)


def test_pooled_sequences_are_corrected():
    class Classifier(Tokens):
        def forward(self, ids, attention_mask=None):
            return super().forward(ids, attention_mask)["logits"].mean(1)

    model, (ids, mask, _) = made(Classifier), sequences()
    labels = torch.arange(12) % 3

    def mean(h, mask):
        return (h * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)

    how = {"mask": "attention_mask", "pool": mean}
    batch = {"ids": ids, "attention_mask": mask, "labels": labels}
    collected = resmem.torch.collect(model, [batch], "encoder", **how)
    memory = resmem.Memory(k=1, sigma=1e-3, base=collected.base).fit(*collected)
    found = resmem.torch.wrap(model, memory, **how)(ids, mask)
    assert torch.equal(found.argmax(1), labels)
    with pytest.raises(ValueError, match=r"pool '.*mean', not None"):
        resmem.torch.wrap(model, memory, mask="attention_mask")


def test_outputs_of_other_tokens_are_refused():
    model, memory = tagger()
    wrapped = resmem.torch.wrap(model, memory, outputs=lambda returned: returned["logits"][:, :2])
    with pytest.raises(ValueError, match=r"a value for each of \(12, 5\) tokens, .* \(12, 2, 3\)"):
        wrapped(sequences()[0])


def test_mask_that_is_missing_is_an_error():
    model, memory = tagger()
    wrapped = resmem.torch.wrap(model, memory, mask="attention_mask")
    with pytest.raises(ValueError, match="mask of tokens must be a tensor, got NoneType"):
        wrapped(sequences()[0])


# ---- Modes and contexts --------------------------------------------------------------------------


def test_training_mode_returns_the_models_outputs(model, memory):
    wrapped = resmem.torch.wrap(model, memory)
    assert not wrapped.training
    corrected = wrapped(NEW)
    assert wrapped.train() is wrapped
    assert model.training
    torch.manual_seed(0)
    found = wrapped(NEW)
    assert found.requires_grad
    model.load_state_dict(made(Images).state_dict())
    torch.manual_seed(0)
    assert torch.equal(found, model(NEW))
    model.load_state_dict(made(Images).state_dict())
    assert torch.equal(wrapped.eval()(NEW), corrected)
    assert resmem.torch.wrap(made(Images).train(), memory).training


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradient_modes_give_the_same(model, memory, context):
    wrapped = resmem.torch.wrap(model, memory)
    with context():
        found = wrapped(NEW)
    assert np.array_equal(found, by_hand(model, memory)[0].astype(np.float32))
    assert not found.requires_grad


def test_autocast_gives_float32(model, memory):
    wrapped = resmem.torch.wrap(model, memory, mode="logits")
    with torch.autocast("cpu", torch.bfloat16):
        found = wrapped(NEW)
        assert model(NEW).dtype == torch.bfloat16
    assert found.dtype == torch.float32
    assert torch.allclose(found, wrapped(NEW), atol=0.2)


def test_tensors_in_host_memory_are_not_copied(model, memory, monkeypatch):
    asked = []
    predict = resmem.Memory.predict_proba

    def spied(self, embeddings, outputs):
        asked.append((np.asarray(embeddings), np.asarray(outputs)))
        return predict(self, embeddings, outputs)

    monkeypatch.setattr(resmem.Memory, "predict_proba", spied)
    kept = []
    model.fc.register_forward_hook(lambda module, args, output: kept.append(output.detach()))
    resmem.torch.wrap(model, memory)(NEW)
    assert np.shares_memory(asked[0][1], kept[0].numpy())
    assert not asked[0][0].flags.owndata


def test_device_of_the_memory_is_used_where_it_can_be():
    class Placed:
        device, preprocess, store = "cuda:0", "none", "dense"

    cuda, memory = torch.device("cuda:0"), Placed()
    assert stays(cuda, memory)
    assert not stays(torch.device("cpu"), memory)
    for name, value in (("device", "cpu"), ("preprocess", "unit"), ("store", "head")):
        other = Placed()
        setattr(other, name, value)
        assert not stays(cuda, other)


class Predicted(data.Dataset):
    """Rows that a wrapped model predicts in the worker."""

    def __init__(self, wrapped):
        self.wrapped = wrapped

    def __len__(self):
        return len(NEW)

    def __getitem__(self, row):
        torch.set_num_threads(1)
        with torch.no_grad():
            return self.wrapped(NEW[row : row + 1])[0]


def test_workers_of_a_loader_predict_the_same(model, memory):
    wrapped = resmem.torch.wrap(model, memory)
    here = wrapped(NEW)
    batches = list(data.DataLoader(Predicted(wrapped), batch_size=3, num_workers=2))
    assert torch.allclose(torch.cat(batches), here, atol=1e-6)


def test_threads_get_what_their_own_calls_gave(model, memory):
    wrapped = resmem.torch.wrap(model, memory)
    wanted = [wrapped(NEW[i : i + 1]) for i in range(9)]
    wrong = []

    def run(i):
        for _ in range(30):
            with torch.no_grad():
                if not torch.equal(wrapped(NEW[i : i + 1]), wanted[i]):
                    wrong.append(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.fixture
def compiler():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch uses itself
            torch.compile(lambda x: x + 1)(torch.ones(2))
    except Exception as error:
        pytest.skip(f"torch.compile does not work here: {error}")
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")
def test_compiled_model_breaks_its_graph_once(model, memory, compiler):
    wrapped = resmem.torch.wrap(model, memory)
    with torch.inference_mode():
        wanted = wrapped(NEW)
        compiled = torch.compile(wrapped)
        for _ in range(2):
            assert torch.allclose(compiled(NEW), wanted, atol=1e-5)
        explained = torch._dynamo.explain(wrapped)(NEW)
    assert explained.graph_count == 1  # the whole model, before the correction
    assert len(explained.break_reasons) == 1


@pytest.mark.filterwarnings("ignore")
def test_model_that_was_compiled_before_is_refused(model, memory, compiler):
    compiled = torch.compile(model)
    wrapped = resmem.torch.wrap(compiled, memory, "_orig_mod.avgpool", check=False)
    with torch.inference_mode(), pytest.raises(ValueError, match=r"torch\.compile has made the"):
        wrapped(NEW)


# ---- Without a trace -----------------------------------------------------------------------------


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_unwrapped_model_is_as_it_was(model, memory):
    before = copy.deepcopy(model.__dict__)
    wrapped = resmem.torch.wrap(model, memory)
    assert hooks(model) == 1
    assert resmem.torch.unwrap(wrapped) is model
    assert hooks(model) == 0
    assert set(model.__dict__) == set(before)
    with pytest.raises(ValueError, match="did not run its layer 'avgpool', or no hook on it"):
        wrapped(NEW)
    with pytest.raises(TypeError, match="expected a wrapped model, got Images"):
        resmem.torch.unwrap(model)


def test_wrapper_that_is_gone_leaves_no_hook(model, memory):
    wrapped = resmem.torch.wrap(model, memory)
    del wrapped
    assert hooks(model) == 0


def test_hook_keeps_nothing_of_calls_of_the_bare_model(model, memory):
    wrapped = resmem.torch.wrap(model, memory)
    with pytest.raises(RuntimeError):
        wrapped(NEW[:, :, :1])
    model(NEW)
    wanted = by_hand(model, memory)[0].astype(np.float32)
    assert np.array_equal(wrapped(NEW), wanted)
    assert wrapped._capture._run.values == []


def test_two_memories_over_one_model(model, memory):
    other = fitted(model, strength=0.5)
    one, two = resmem.torch.wrap(model, memory), resmem.torch.wrap(model, other)
    assert np.array_equal(one(NEW), by_hand(model, memory)[0].astype(np.float32))
    assert np.array_equal(two(NEW), by_hand(model, other)[0].astype(np.float32))
    with pytest.raises(ValueError, match=r"give wrapped\.model"):
        resmem.torch.wrap(one, other)


def test_state_dict_is_the_models(model, memory):
    wrapped = resmem.torch.wrap(model, memory)
    assert list(wrapped.state_dict()) == list(model.state_dict())
    assert resmem.torch.fingerprint(wrapped) == resmem.torch.fingerprint(model)
    other = made(Images, seed=8)
    assert wrapped.load_state_dict(other.state_dict()).missing_keys == []
    assert torch.equal(model.fc.weight, other.fc.weight)
    with pytest.raises(RuntimeError, match=r"Missing key.*: \"conv\.weight\""):
        wrapped.load_state_dict({})


def test_state_dict_of_a_module_around_it_is_the_models(model, memory):
    around = nn.ModuleDict({"a": resmem.torch.wrap(model, memory), "b": nn.Linear(2, 2)})
    bare = nn.ModuleDict({"a": made(Images, seed=8), "b": nn.Linear(2, 2)})
    assert list(around.state_dict()) == list(bare.state_dict())
    around.load_state_dict(bare.state_dict())
    assert torch.equal(model.bn.running_var, bare["a"].bn.running_var)
    assert torch.equal(model.fc.weight, bare["a"].fc.weight)
    bare.load_state_dict(around.state_dict())


def test_pickled_and_copied_wrappers_answer_alike(model, memory):
    wrapped = resmem.torch.wrap(model, memory, mode="logits")
    wanted = wrapped(NEW)
    buffer = io.BytesIO()
    torch.save(wrapped, buffer)
    buffer.seek(0)
    for again in (
        copy.deepcopy(wrapped),
        pickle.loads(pickle.dumps(wrapped)),
        torch.load(buffer, weights_only=False),
    ):
        assert torch.equal(again(NEW), wanted)
        assert hooks(resmem.torch.unwrap(again)) == 0
    assert torch.equal(wrapped(NEW), wanted)


def test_repr_tells_memory_layer_and_mode(model, memory):
    text = repr(resmem.torch.wrap(model, memory))
    assert "layer='avgpool', mode='probabilities'" in text
    assert "memory=Memory(" in text


# ---- Other models --------------------------------------------------------------------------------


def test_memory_refuses_another_model(model, memory):
    other = made(Images, seed=3)
    with pytest.raises(ValueError, match=r"another base \(Images with fingerprint 'sha256:"):
        resmem.torch.wrap(other, memory)
    assert resmem.torch.wrap(other, memory, check=False)(NEW).shape == (9, 3)
    with pytest.raises(ValueError, match="layer 'avgpool', not 'dropout'"):
        resmem.torch.wrap(model, memory, "dropout")
    with pytest.raises(ValueError, match="fingerprint"):
        resmem.torch.wrap(copy.deepcopy(model).double(), memory)


def test_base_without_a_fingerprint_is_not_checked(model):
    for base in (None, "a name", {"layer": "avgpool"}):
        collected = resmem.torch.collect(model, loader(X, Y), "avgpool")
        memory = resmem.Memory(k=5, base=base).fit(*collected)
        assert resmem.torch.wrap(made(Images, seed=3), memory, "avgpool")(NEW).shape == (9, 3)
        if not isinstance(base, dict):
            with pytest.raises(ValueError, match="base names no layer: give layer="):
                resmem.torch.wrap(model, memory)


# ---- Files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["probabilities", "logits"])
def test_saved_model_and_memory_are_loaded(tmp_path, model, memory, mode):
    wrapped = resmem.torch.wrap(model, memory, mode=mode)
    resmem.torch.save(wrapped, tmp_path / "folder")
    names = {path.name for path in (tmp_path / "folder").iterdir()}
    assert names == {"model.pt", "memory.resmem", "wrapped.json"}
    again = resmem.torch.load(made(Images, seed=9), tmp_path / "folder")
    assert torch.equal(again(NEW), wrapped(NEW))
    weights = torch.load(tmp_path / "folder/model.pt", weights_only=True)
    made(Images).load_state_dict(weights)


def test_functions_are_given_again_when_a_model_is_loaded(tmp_path):
    model, (ids, mask, labels) = made(Tokens), sequences()
    batch = {"ids": ids, "attention_mask": mask, "labels": labels}
    layer = lambda returned: returned["hidden"]  # noqa: E731
    collected = resmem.torch.collect(model, [batch], layer)
    memory = resmem.Memory(k=5, base=collected.base).fit(*collected)
    wrapped = resmem.torch.wrap(model, memory, layer, mask="attention_mask")
    resmem.torch.save(wrapped, tmp_path)
    with pytest.raises(ValueError, match=r"wrapped with layer=.*lambda>: give it again"):
        resmem.torch.load(made(Tokens), tmp_path)
    again = resmem.torch.load(made(Tokens), tmp_path, layer=layer)
    assert torch.equal(again(ids, mask)["logits"], wrapped(ids, mask)["logits"])


def test_memory_of_other_weights_is_not_loaded(tmp_path, model, memory):
    resmem.torch.save(resmem.torch.wrap(model, memory), tmp_path)
    torch.save(made(Images, seed=4).state_dict(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match="another base"):
        resmem.torch.load(made(Images), tmp_path)


def test_newer_folder_is_refused(tmp_path, model, memory):
    resmem.torch.save(resmem.torch.wrap(model, memory), tmp_path)
    path = tmp_path / "wrapped.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ValueError, match="newer version"):
        resmem.torch.load(made(Images), tmp_path)
