"""The demo: its data file, a short run from end to end, and its command line."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from resmem.demo import data

SIZES: dict[data.Name, int] = {"train": 12000, "validation": 2000, "test": 4000}
DIGEST = "fe1f2df3d1840d388ff7428634902d1e3db8e8b0e19ed591db5e5564336c263d"


@pytest.fixture(scope="module")
def splits() -> dict[data.Name, data.Split]:
    return {name: data.load(name) for name in SIZES}


def command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m resmem` as a user would, with BLAS on one thread."""
    return subprocess.run(
        [sys.executable, "-m", "resmem", *arguments],
        cwd=cwd,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_data_file_is_small_and_has_the_expected_digest() -> None:
    assert data.PATH.stat().st_size <= 3_000_000
    digest = hashlib.sha256()
    with np.load(data.PATH) as arrays:
        for name in sorted(arrays):
            digest.update(arrays[name].tobytes())
    assert digest.hexdigest() == DIGEST


def test_splits_are_balanced_and_in_range(splits: dict[data.Name, data.Split]) -> None:
    for name, size in SIZES.items():
        split = splits[name]
        assert split.images.shape == (size, 28, 28)
        assert split.images.dtype == np.float32
        assert split.images.min() == 0
        assert split.images.max() == 1
        np.testing.assert_array_equal(np.bincount(split.labels), [size // 10] * 10)


def test_no_image_is_in_two_splits(splits: dict[data.Name, data.Split]) -> None:
    seen = {image.tobytes() for split in splits.values() for image in split.images}
    assert len(seen) == sum(SIZES.values())


def rows(printed: str) -> dict[tuple[str, str], tuple[float, float, int, int]]:
    """Return the printed results: (model, method) to accuracy, log-loss, corrected, harmed."""
    pattern = r"^  (mlp|conv) +(\S.*?)  +([\d.]+)%  +([\d.]+)  +(\d+)  +(\d+)$"
    return {
        (model, method): (float(accuracy) / 100, float(loss), int(corrected), int(harmed))
        for model, method, accuracy, loss, corrected, harmed in re.findall(
            pattern, printed, re.MULTILINE
        )
    }


def test_quick_run_reports_every_method(tmp_path: Path) -> None:
    done = command("demo", "--quick", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # neither a bar, without a terminal, nor a warning
    table = rows(done.stdout)
    images = SIZES["test"] // 5
    for model in ("mlp", "conv"):
        methods = [method for owner, method in table if owner == model]
        assert methods[0] == "base"
        assert {"kNN alone", "interpolation", "ResMem as published"} <= set(methods)
        assert methods[-1] in ("ResMem, tuned", "ResMem, switched off")
        base = table[model, "base"]
        assert base[0] > 0.7
        assert base[2:] == (0, 0)
        for method in methods:
            accuracy, loss, corrected, harmed = table[model, method]
            assert 0 < loss < 1
            assert round((accuracy - base[0]) * images) == corrected - harmed
            gain = re.search(rf"^  {model} +{method}  +([+-][\d.]+) \[", done.stdout, re.MULTILINE)
            assert (gain is None) == (method == "base")
            if gain:
                assert float(gain[1]) == pytest.approx(base[1] - loss, abs=2e-4)
    for expected in ("queries/s searched", "Seconds: load", "in all"):
        assert expected in done.stdout
    reasons = re.findall(r"^  The memory (helps: its gain|is switched off:)", done.stdout, re.M)
    assert len(reasons) == 2
    picture = tmp_path / "resmem-demo.png"
    if importlib.util.find_spec("matplotlib"):
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert "Picture: resmem-demo.png" in done.stdout
    else:
        assert not picture.exists()
        assert "pip install matplotlib" in done.stdout


def test_without_matplotlib_the_demo_draws_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resmem.demo import picture

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    empty = data.Split(np.empty((0, 28, 28), np.float32), np.empty(0, np.int64))
    result: object = None  # draw does not read it
    assert not picture.draw(tmp_path / "x.png", result, empty, empty)  # type: ignore[arg-type]
    assert not (tmp_path / "x.png").exists()


def test_gradients_are_those_of_the_log_loss() -> None:
    from resmem.demo.base import Perceptron, log_loss, softmax

    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((64, 12), dtype=np.float32)
    labels = rng.integers(0, 10, 64)
    network = Perceptron(12, 8)
    network.DROPOUT = np.float32(0)
    gradients = network.gradients(inputs, labels)
    network.params = [p.astype(np.float64) for p in network.params]
    for parameter, gradient in zip(network.params, gradients, strict=True):
        place = tuple(rng.integers(0, n) for n in parameter.shape)
        losses = []
        for step in (1e-5, -2e-5):
            parameter[place] += step
            losses.append(log_loss(softmax(network.logits(network.hidden(inputs))), labels))
        parameter[place] += 1e-5
        assert (losses[0] - losses[1]) / 2e-5 == pytest.approx(gradient[place], abs=1e-4)


def test_no_arguments_print_help(tmp_path: Path) -> None:
    done = command(cwd=tmp_path)
    assert done.returncode == 0
    assert "demo" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["demo", "--no-such-option"],
        ["demo", "--output", "no-such-folder/x.png"],
        ["demo", "--output", "x.txt"],
    ],
)
def test_bad_arguments_exit_with_two(tmp_path: Path, arguments: list[str]) -> None:
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "usage:" in done.stderr
