"""``resmem collect``: models and loaders by name, and ``resmem fit`` of what it wrote."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")

import resmem  # noqa: E402
import resmem.torch  # noqa: E402
from resmem.__main__ import main  # noqa: E402

MODULE = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

built = model()
torch.manual_seed(1)
rows = TensorDataset(torch.randn(50, 4), torch.randint(0, 3, (50,)))
loader = DataLoader(rows, batch_size=8)
shuffled = DataLoader(rows, batch_size=8, shuffle=True)
number = 3

def batches():
    return [{"input": x, "y": y, "row": torch.arange(len(y))} for x, y in loader]

class Model(nn.Sequential):
    def __init__(self):
        super().__init__(*model())

class Loader(list):
    def __init__(self):
        super().__init__(loader)

def triples(h):
    return h[:, :3]
"""


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A folder with a module ``trained``, which is the working one."""
    (tmp_path / "trained.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("trained", None)


def collect(*arguments, model="trained:model", loader="trained:loader"):
    return main(["collect", model, loader, "-o", "out", "--layer", "1", *arguments])


def test_memory_is_fitted_to_the_folder_in_one_line(trained, capsys):
    assert collect() == 0
    assert capsys.readouterr().out == "out: 50 rows of embeddings, outputs, targets\n"
    assert main(["fit", "m.resmem", "--collected", "out", "--k", "5", "--quiet"]) == 0
    import trained as module

    memory = resmem.Memory.load("m.resmem")
    assert (len(memory), memory.k) == (50, 5)
    wrapped = resmem.torch.wrap(module.model().eval(), memory)
    x = module.rows.tensors[0]
    collected = resmem.torch.collect(module.model(), module.loader, "1")
    wanted = resmem.Memory(k=5).fit(*collected).predict_proba(*list(collected)[:2])
    assert np.allclose(wrapped(x), wanted, atol=1e-6)  # a batch of another size rounds otherwise


def test_options_of_fit_come_before_those_of_the_folder(trained):
    assert collect() == 0
    np.save("other.npy", np.zeros(50, int))
    given = ["--targets", "other.npy", "--base", "a name", "--quiet"]
    assert main(["fit", "m.resmem", "--collected", "out", *given]) == 0
    memory = resmem.Memory.load("m.resmem")
    assert memory.base == "a name"
    assert not memory.get(memory.ids).targets.any()


def test_places_are_names_or_numbers(trained, capsys):
    given = ["--inputs", "input", "--targets", "y", "--extra", "row", "--outputs", "none", "--json"]
    assert collect(*given, "--pool", "trained:triples", loader="trained:batches") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["arrays"] == {"embeddings": [50, 3], "targets": [50], "row": [50]}
    assert facts["base"]["pool"] == "trained.triples"
    given = ["--inputs", "0", "--targets", "-1", "--outputs", "-1"]
    assert main(["collect", "trained:built", "trained:loader", "-o", "b", "--layer", "1"]) == 0
    assert len(resmem.Collected.load("b").targets) == 50


def test_further_columns_have_names_of_their_own(trained, capsys):
    given = ["--inputs", "input", "--extra", "number=row,row", "--json"]
    assert collect(*given, loader="trained:batches") == 0
    arrays = json.loads(capsys.readouterr().out)["arrays"]
    assert arrays["number"] == arrays["row"] == [50]
    assert (
        main(
            [
                "collect",
                "trained:built",
                "trained:loader",
                "-o",
                "b",
                "--layer",
                "1",
                "--inputs",
                "0",
                "--extra",
                "class=1",
                "--quiet",
            ]
        )
        == 0
    )
    assert np.array_equal(
        resmem.Collected.load("b").extra["class"], resmem.Collected.load("b").targets
    )
    assert collect("--extra", "1") == 2
    assert "--extra: a number needs a name, such as column=1" in capsys.readouterr().err


def test_classes_are_called_as_functions_are(trained):
    assert collect("--quiet", model="trained:Model", loader="trained:Loader") == 0
    assert collect("--quiet", "-o", "other") == 0
    found, wanted = map(resmem.Collected.load, ("out", "other"))
    assert np.array_equal(found.embeddings, wanted.embeddings)


def test_command_given_again_goes_on(trained, capsys):
    assert collect("--quiet") == 0
    before = resmem.Collected.load("out").embeddings.tobytes()
    assert collect("--quiet") == 0
    assert resmem.Collected.load("out").embeddings.tobytes() == before
    assert collect("--quiet", "--targets", "0") == 2
    assert "targets: 'auto' there, 0 now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": "trained"}, "MODEL must be MODULE:NAME, such as train:model, got 'trained'"),
        ({"model": "treined:model"}, "MODEL: there is no module 'treined' in"),
        ({"model": "no.such.one:model"}, "MODEL: there is no module 'no.such.one' in"),
        ({"model": "trained:modell"}, "MODEL: 'trained' has no 'modell'; it has model"),
        ({"model": "trained:number"}, "trained:number is of the type int"),
        ({"loader": "trained:number"}, "LOADER must yield batches"),
        ({"loader": "trained:shuffled"}, "this loader shuffles"),
    ],
)
def test_what_is_not_there_is_told(trained, capsys, given, words):
    assert collect(**given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not (trained / "out").exists()


def test_module_that_fails_is_told(trained, capsys):
    (trained / "failing.py").write_text("import no_such_module_at_all")
    assert collect(model="failing:model") == 2
    assert "No module named 'no_such_module_at_all'" in capsys.readouterr().err


def test_folder_without_a_collection_is_told(trained, capsys):
    assert main(["fit", "m.resmem", "--collected", "nowhere"]) == 2
    assert "there is no collection in 'nowhere'" in capsys.readouterr().err
