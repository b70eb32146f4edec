"""``resmem.torch.collect``: what is read where, from batches of every kind, stopped and resumed."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")

from torch import nn  # noqa: E402
from torch.utils import data  # noqa: E402

import resmem  # noqa: E402
import resmem.torch  # noqa: E402
from torch_models import Images, Tokens, images, loader, made, sequences, table  # noqa: E402

X, Y = images()


def by_hand(model, x=X):
    """Return what the pooling layer and the model give."""
    with torch.no_grad():
        h = model.avgpool(model.relu(model.bn(model.conv(x)))).flatten(1)
        return h.numpy(), model.fc(h).numpy()


def same(collected, embeddings, outputs, targets):
    return all(
        np.allclose(got, wanted, atol=1e-6)
        for got, wanted in zip(collected, (embeddings, outputs, targets), strict=True)
    )


# ---- Where embeddings are read -------------------------------------------------------------------


def layers(model):
    yield "avgpool"
    yield model.avgpool
    yield "dropout"
    yield "fc:input"


@pytest.mark.parametrize("which", range(4))
def test_layer_by_name_module_or_input_gives_its_rows(which):
    model = made(Images)
    layer = list(layers(model))[which]
    collected = resmem.torch.collect(model, loader(X, Y), layer)
    assert same(collected, *by_hand(model), Y)
    assert collected.embeddings.dtype == collected.outputs.dtype == np.float32


def test_function_of_what_the_model_returns_is_a_layer():
    model, (ids, mask, labels) = made(Tokens), sequences()
    batches = [{"ids": ids, "attention_mask": mask, "labels": labels}]
    read = resmem.torch.collect(model, batches, lambda returned: returned["hidden"])
    hooked = resmem.torch.collect(model, batches, "encoder")
    assert np.allclose(read.embeddings, hooked.embeddings, atol=1e-6)


def test_layer_before_one_that_works_in_place_is_read_before_it():
    model = made(Images)
    collected = resmem.torch.collect(model, loader(X, Y), "bn", pool=lambda h: h.flatten(2).amin(2))
    assert collected.embeddings.min() < 0
    with torch.no_grad():
        wanted = model.bn(model.conv(X)).flatten(2).amin(2)
    assert np.allclose(collected.embeddings, wanted, atol=1e-6)


def test_first_part_of_a_tuple_is_the_layers_output():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.fc = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)

        def forward(self, x):
            return self.fc(self.lstm(x)[0][:, -1])

    x = torch.randn(9, 5, 4)
    collected = resmem.torch.collect(made(Recurrent), [x], "lstm", pool=lambda h: h[:, -1])
    assert collected.embeddings.shape == (9, 6)


class Dropped(nn.Module):
    def forward(self, x):
        return {"x": x}


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.unused, self.drop = nn.Linear(4, 4), nn.Linear(4, 4), Dropped()

    def forward(self, x):
        return self.a(self.a(self.drop(x)["x"]))


@pytest.mark.parametrize(
    ("layer", "error", "words"),
    [
        ("avgpol", ValueError, "no layer 'avgpol'; some of .* are 'a'"),
        (nn.Linear(1, 1), ValueError, "the given Linear is no layer of this model"),
        (3, TypeError, "or a function of what the model returns, got int"),
        ("a", ValueError, "ran its layer 'a' 2 times, not once"),
        ("drop", TypeError, "layer 'drop' gave no tensor, but dict"),
        ("unused", ValueError, "did not run its layer 'unused'"),
        (lambda returned: returned[None], ValueError, r"rows \(m, d\), got \(1, 5, 4\); pool="),
    ],
)
def test_layer_that_does_not_serve_is_refused(layer, error, words):
    with pytest.raises(error, match=words):
        resmem.torch.collect(made(Twice), [torch.randn(5, 4)], layer)


def test_replicas_and_wrapped_models_are_refused():
    with pytest.raises(ValueError, match=r"give model\.module"):
        resmem.torch.collect(nn.DataParallel(made(Images)), [], "module.fc")
    model = made(Images)
    memory = resmem.Memory(k=2).fit(*resmem.torch.collect(model, loader(X, Y), "avgpool"))
    with pytest.raises(ValueError, match=r"give wrapped\.model"):
        resmem.torch.collect(resmem.torch.wrap(model, memory, "avgpool"), loader(X, Y), "avgpool")


# ---- Batches -------------------------------------------------------------------------------------

Named = namedtuple("Named", ["x", "y"])


@dataclasses.dataclass
class Record:
    x: torch.Tensor
    label: torch.Tensor


def kinds():
    yield "tuple", (X, Y), {}
    yield "list", [X, Y], {}
    yield "dict", {"x": X, "labels": Y}, {}
    yield "dict of other names", {"image": X, "target": Y}, {}
    yield "namedtuple", Named(X, Y), {}
    yield "dataclass", Record(X, Y), {}
    yield "places", {"a": X, "b": Y, "c": X[:, 0, 0]}, {"inputs": "a", "targets": "b"}
    yield "numbers", (Y, X), {"inputs": 1, "targets": 0}
    yield "last", (Y, X), {"inputs": -1, "targets": -2}
    yield (
        "functions",
        {"a": (X, Y)},
        {"inputs": lambda b: b["a"][0], "targets": lambda b: b["a"][1]},
    )
    yield "numpy", (X.numpy(), Y.numpy()), {}


@pytest.mark.parametrize(("batch", "given"), [k[1:] for k in kinds()], ids=[k[0] for k in kinds()])
def test_batches_of_every_kind_give_the_same(batch, given):
    model = made(Images)
    assert same(resmem.torch.collect(model, [batch], "avgpool", **given), *by_hand(model), Y)


def test_lone_tensors_have_no_targets():
    model = made(Images)
    for batch in (X, (X,), {"x": X}):
        assert resmem.torch.collect(model, [batch], "avgpool").targets is None
    assert resmem.torch.collect(model, [(X,)], "avgpool", targets=None).targets is None


def test_further_columns_are_kept():
    rows = torch.arange(40)
    batch = {"x": X, "y": Y, "row": rows}
    collected = resmem.torch.collect(made(Images), [batch], "avgpool", extra=["row"])
    assert collected.extra["row"].tolist() == list(range(40))
    collected = resmem.torch.collect(
        made(Images), [(X, rows, Y)], "avgpool", extra={"place": 1}, outputs=None
    )
    assert collected.extra["place"].tolist() == list(range(40))
    assert collected.outputs is None


@pytest.mark.parametrize(
    ("batch", "given", "words"),
    [
        ({"x": X, "y": Y}, {"targets": "z"}, "a batch has no 'z'; it has 'x', 'y'"),
        ({"x": X, "y": Y, "id": Y}, {}, r"takes 'x' .* but not 'id'; say inputs=\['x'\]"),
        ((X, Y), {"outputs": "probs"}, "no outputs 'probs' in the Tensor"),
        ((X, Y[:7]), {}, "as many rows each"),
    ],
)
def test_batch_that_does_not_fit_is_refused(batch, given, words):
    with pytest.raises(ValueError, match=words):
        resmem.torch.collect(made(Images), [batch], "avgpool", **given)


def test_named_inputs_of_the_hint_serve():
    batch = {"x": X, "y": Y, "id": Y}
    assert (
        len(resmem.torch.collect(made(Images), [batch], "avgpool", inputs=["x"]).embeddings) == 40
    )


# ---- Models --------------------------------------------------------------------------------------


def test_table_model_is_collected():
    x, y = torch.randn(30, 4), torch.randint(0, 3, (30,))
    model = table().eval()
    collected = resmem.torch.collect(model, loader(x, y), "3")
    assert same(collected, model[:4](x).detach(), model(x).detach(), y)


def test_tokens_without_labels_are_left_out():
    model, (ids, mask, labels) = made(Tokens), sequences()
    with torch.no_grad():
        returned = model(ids, mask)
    wanted = resmem.tokens(returned["hidden"], returned["logits"], labels)
    batch = {"ids": ids, "attention_mask": mask, "labels": labels}
    for mask_place in (None, "attention_mask"):
        collected = resmem.torch.collect(model, [batch], "encoder", mask=mask_place)
        assert same(collected, *wanted)


def test_mask_chooses_tokens_and_repeats_columns_of_sequences():
    model, (ids, mask, _) = made(Tokens), sequences()
    batch = {"ids": ids, "attention_mask": mask, "document": torch.arange(len(ids))}
    collected = resmem.torch.collect(
        model, [batch], "encoder", mask="attention_mask", extra=["document"]
    )
    assert len(collected.embeddings) == int(mask.sum())
    assert collected.extra["document"].tolist() == np.repeat(np.arange(12), mask.sum(1)).tolist()


def test_mask_that_the_model_does_not_take_is_not_given_to_it():
    model, (ids, mask, _) = made(Tokens), sequences()
    collected = resmem.torch.collect(model, [{"ids": ids, "keep": mask}], "encoder", mask="keep")
    assert len(collected.embeddings) == int(mask.sum())


def test_pool_makes_a_row_of_each_sequence():
    model, (ids, mask, _) = made(Tokens), sequences()

    def mean(h, mask):
        return (h * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)

    batch = {"ids": ids, "attention_mask": mask, "y": torch.arange(12)}
    collected = resmem.torch.collect(
        model, [batch], "encoder", mask="attention_mask", pool=mean, outputs=None
    )
    with torch.no_grad():
        wanted = mean(model(ids, mask)["hidden"], mask)
    assert np.allclose(collected.embeddings, wanted, atol=1e-6)
    assert collected.base["pool"].endswith("mean")


@pytest.mark.parametrize("given", [{"mask": "attention_mask"}, {}])
def test_sequences_without_tokens_to_choose_are_refused(given):
    ids, mask, _ = sequences()
    batch = {"ids": ids, "attention_mask": mask[:, :3] if given else mask}
    with pytest.raises(ValueError, match=r"a mask of tokens \(12, 3\)|mask= chooses tokens"):
        resmem.torch.collect(
            made(Tokens), [batch], lambda r: r["hidden"][:, :5], inputs="ids", **given
        )


# ---- The model afterwards ------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_model_is_as_it_was(fails):
    model = made(Images).train()
    model.bn.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches = [(X, Y), (X[:, :, :1], Y)] if fails else [(X, Y)]
    if fails:
        with pytest.raises(RuntimeError):
            resmem.torch.collect(model, batches, "avgpool")
    else:
        assert same(resmem.torch.collect(model, batches, "avgpool"), *by_hand(made(Images)), Y)
    assert [m.training for m in model.modules()] == [True, True, False, True, True, True, True]
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_callers_autocast_is_respected():
    model = made(Images)
    seen = []
    model.fc.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        collected = resmem.torch.collect(model, loader(X, Y), "avgpool")
    assert set(seen) == {torch.bfloat16}
    assert collected.outputs.dtype == np.float32
    assert not torch.is_inference(model.fc.weight)


def test_half_and_double_models_are_collected():
    for dtype, kept in ((torch.bfloat16, np.float32), (torch.float64, np.float64)):
        model = made(Images).to(dtype)
        collected = resmem.torch.collect(model, [(X.to(dtype), Y)], "avgpool")
        assert collected.embeddings.dtype == collected.outputs.dtype == kept


def test_inputs_are_brought_to_the_models_first_weights():
    """Weights that lie elsewhere later on, as on several devices, are left there."""
    model = made(Images)
    model.fc = model.fc.to("meta")
    seen = []
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].device.type))
    with pytest.raises(ValueError, match="lies on the meta device"):
        resmem.torch.collect(model, [(X.to("meta"), Y)], "avgpool")
    model = made(Images)
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0].device.type))
    resmem.torch.collect(model, [(X, Y)], "avgpool")
    with pytest.raises(RuntimeError):  # the weights are not brought there
        resmem.torch.collect(model, [(X, Y)], "avgpool", device="meta")
    assert seen == ["cpu", "meta"]
    assert next(model.parameters()).device.type == "cpu"


def test_workers_of_a_loader_give_the_same():
    model = made(Images)
    collected = resmem.torch.collect(model, loader(X, Y, num_workers=2), "avgpool")
    assert same(collected, *by_hand(model), Y)


# ---- What is recorded ----------------------------------------------------------------------------


def test_base_names_layer_sizes_and_weights():
    model = made(Images)
    base = resmem.torch.collect(model, loader(X, Y), "avgpool").base
    assert base == {
        "model": "Images", "layer": "avgpool", "fingerprint": resmem.torch.fingerprint(model),
        "d": 6, "C": 3,
    }  # fmt: skip


def test_fingerprint_is_of_names_shapes_dtypes_and_bytes():
    fingerprint = resmem.torch.fingerprint
    model = made(Images)
    one = fingerprint(model)
    assert one.startswith("sha256:")
    assert one == fingerprint(made(Images)) == fingerprint(model.train())
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from torch_models import *; "
        "import resmem.torch; print(resmem.torch.fingerprint(made(Images)))"
    )
    other = subprocess.run(
        [sys.executable, "-c", program, str(Path(__file__).parent)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert other.stdout.strip() == one
    others = [made(Images, seed=1), made(Images).double(), made(Images).bfloat16(), made(Tokens)]
    renamed = nn.ModuleDict({"a": nn.Linear(2, 2)})
    again = nn.ModuleDict({"b": renamed["a"]})
    shaped = nn.ParameterDict({"a": nn.Parameter(renamed["a"].weight.detach().reshape(4))})
    flat = nn.ParameterDict({"a": nn.Parameter(renamed["a"].weight.detach())})
    found = [fingerprint(m) for m in (model, *others, renamed, again, shaped, flat)]
    assert len(set(found)) == len(found)
    with torch.no_grad():
        model.fc.bias[0] += 1e-7
    assert fingerprint(model) != one


def test_fingerprint_of_unusual_weights():
    module = nn.Module()
    module.register_buffer("sparse", torch.eye(3).to_sparse())
    module.register_buffer("scalar", torch.tensor(3.0))
    module.register_buffer("columns", torch.arange(6.0).reshape(2, 3).t())
    one = resmem.torch.fingerprint(module)
    module.columns = module.columns.contiguous()
    assert resmem.torch.fingerprint(module) == one
    with pytest.raises(ValueError, match="'bias' lies on the meta device"):
        resmem.torch.fingerprint(nn.Linear(2, 2, device="meta"))


# ---- Folders -------------------------------------------------------------------------------------


class Stopping(list):
    """Batches, the process of which is interrupted before one of them."""

    def __init__(self, batches, stop):
        super().__init__(batches)
        self.stop = stop

    def __iter__(self):
        for number, batch in enumerate(super().__iter__()):
            if number == self.stop:
                raise KeyboardInterrupt
            yield batch


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_stopped_collection_goes_on_at_the_next_batch(tmp_path, stop):
    model, batches = made(Images), list(loader(X, Y))
    whole = resmem.torch.collect(model, batches, "avgpool")
    with pytest.raises(KeyboardInterrupt):
        resmem.torch.collect(model, Stopping(batches, stop), "avgpool", out=tmp_path)
    runs = []
    handle = model.register_forward_hook(lambda *_: runs.append(1))
    collected = resmem.torch.collect(model, batches, "avgpool", out=tmp_path)
    handle.remove()
    assert len(runs) == len(batches) - stop
    assert all(np.array_equal(a, b) for a, b in zip(whole, collected, strict=True))
    assert isinstance(collected.embeddings, np.memmap)
    assert collected.base == whole.base


def test_finished_folder_is_returned_without_a_run(tmp_path):
    model = made(Images)
    first = resmem.torch.collect(model, loader(X, Y), "avgpool", out=tmp_path)
    model.register_forward_hook(lambda *_: pytest.fail("ran again"))
    again = resmem.torch.collect(model, loader(X, Y), "avgpool", out=tmp_path)
    assert np.array_equal(first.outputs, again.outputs)
    assert again.base == first.base


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layer": "dropout"}, "layer: 'avgpool' there, 'dropout' now"),
        ({"model": made(Images, seed=3)}, "fingerprint: 'sha256:"),
        ({"loader": loader(*images(seed=2))}, "first batch: "),
        ({"loader": loader(X, Y, batch_size=9)}, "batches: 6 there, 5 now"),
        ({"outputs": lambda returned: returned}, "outputs: 'auto' there"),
        ({"pool": lambda h: h.flatten(1)}, "pool: None there"),
    ],
)
def test_folder_of_another_job_is_refused(tmp_path, change, words):
    job = {"model": made(Images), "loader": loader(X, Y), "layer": "avgpool", "out": tmp_path}
    resmem.torch.collect(**job)
    with pytest.raises(ValueError, match=words):
        resmem.torch.collect(**{**job, **change})


def test_folder_of_another_precision_is_refused(tmp_path):
    job = {"model": made(Images), "loader": loader(X, Y), "layer": "avgpool", "out": tmp_path}
    resmem.torch.collect(**job)
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ValueError, match=r"autocast: None there, 'torch\.bfloat16' now"),
    ):
        resmem.torch.collect(**job)


def test_loader_that_shuffles_cannot_be_resumed(tmp_path):
    model, rows = made(Images), data.TensorDataset(X, Y)
    sampled = data.BatchSampler(data.RandomSampler(rows), 5, drop_last=False)
    for shuffled in (
        data.DataLoader(rows, shuffle=True),
        data.DataLoader(rows, sampler=data.SubsetRandomSampler(range(9))),
        data.DataLoader(rows, batch_sampler=sampled),
    ):
        with pytest.raises(ValueError, match="this loader shuffles"):
            resmem.torch.collect(model, shuffled, "avgpool", out=tmp_path / "out")
        assert len(resmem.torch.collect(model, shuffled, "avgpool").targets) in (9, 40)
    with pytest.raises(ValueError, match="no iterator"):
        resmem.torch.collect(model, iter([(X, Y)]), "avgpool", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_loader_without_batches_is_an_error():
    with pytest.raises(ValueError, match="there was no batch"):
        resmem.torch.collect(made(Images), [], "avgpool")
