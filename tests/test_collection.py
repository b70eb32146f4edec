"""Batches gathered in memory and in folders, and folders after their process was stopped."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import resmem
from resmem.adapters import folder
from resmem.adapters.collection import Collected, Collector

SETTINGS = {"layer": "fc", "shape": (2, 3)}
BASE = {"model": "net", "d": 3}


def batch(number, m=4):
    rng = np.random.default_rng(number)
    return {
        "embeddings": rng.normal(size=(m, 3)).astype(np.float32),
        "outputs": rng.normal(size=(m, 2)).astype(np.float32),
        "targets": rng.integers(0, 2, m),
        "document": np.full(m, number),
    }


def gathered(out, batches=5):
    """Go on with the job of the folder until it has so many batches."""
    collector = Collector(out, SETTINGS)
    for number in range(collector.batches, batches):
        collector.append(**batch(number, m=number))
    return collector


def joined(batches=5):
    parts = [batch(number, m=number) for number in range(batches)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def assert_holds(collected, arrays):
    found = dict(zip(("embeddings", "outputs", "targets"), collected, strict=True))
    found |= collected.extra
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    assert collected.base == BASE


# ---- What comes out ------------------------------------------------------------------------------


@pytest.mark.parametrize("out", [None, "job/of/today"])
def test_batches_are_joined_in_order(tmp_path, out):
    collected = gathered(out and tmp_path / out).finish(BASE)
    assert_holds(collected, joined())
    if out is not None:
        assert isinstance(collected.embeddings, np.memmap)
        assert_holds(Collected.load(tmp_path / out), joined())


def test_memory_is_fitted_to_what_was_collected(tmp_path):
    collected = gathered(tmp_path).finish(BASE)
    memory = resmem.Memory(k=2, base=collected.base).fit(*collected)
    assert (len(memory), memory.base) == (10, BASE)


def test_embeddings_alone_can_be_collected(tmp_path):
    for out in (None, tmp_path):
        collector = Collector(out)
        collector.append(np.eye(2))
        embeddings, outputs, targets = collector.finish({})
        assert (embeddings.dtype, outputs, targets) == (np.float64, None, None)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("float16", "float32"), (">f4", "float32"), ("int16", "float32"), ("int32", "float64")],
)
def test_embeddings_and_outputs_become_floats_that_hold_them(given, kept):
    collector = Collector()
    collector.append(np.ones((2, 3), given), np.ones((2, 1), given))
    embeddings, outputs, _ = collector.finish({})
    assert (str(embeddings.dtype), str(outputs.dtype)) == (kept, kept)


def test_buffer_filled_again_does_not_change_what_was_appended():
    buffer, collector = np.zeros((2, 3), np.float32), Collector()
    for number in range(3):
        buffer[:] = number
        collector.append(buffer)
    assert collector.finish({}).embeddings[:, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_widths_are_known_from_the_first_batch(tmp_path):
    for out in (None, tmp_path):
        collector = Collector(out, SETTINGS)
        assert (collector.d, collector.C) == (None, None)
        collector.append(**batch(0))
        assert (collector.d, collector.C) == (3, 2)
    again = Collector(tmp_path, SETTINGS)
    assert (again.d, again.C) == (3, 2)
    collector = Collector()
    collector.append(np.eye(2), np.ones(2))
    assert (collector.d, collector.C) == (2, 1)


def test_batches_without_rows_count_as_batches(tmp_path):
    for out in (None, tmp_path):
        collector = Collector(out)
        for m in (0, 2, 0):
            collector.append(**batch(1, m))
        assert (collector.batches, collector.rows) == (3, 2)
        assert len(collector.finish(BASE).embeddings) == 2


def test_text_and_dates_are_kept(tmp_path):
    words = np.array(["cat", "eel"])
    days = np.array(["2026-01-01", "2026-01-02"], "datetime64[D]")
    for out in (None, tmp_path):
        collector = Collector(out)
        collector.append(np.eye(2), targets=words, day=days)
        collected = collector.finish({})
        assert np.array_equal(collected.targets, words)
        assert np.array_equal(collected.extra["day"], days)


def test_repr_tells_shapes():
    text = repr(gathered(None).finish(BASE))
    assert text.startswith("Collected(embeddings (10, 3) float32, outputs (10, 2) float32, targets")


def test_files_are_plain_and_have_no_bytes_too_many(tmp_path):
    gathered(tmp_path).finish(BASE)
    names = {"embeddings", "outputs", "targets", "document"}
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"{name}.npy" for name in names), "journal.jsonl", "collected.json",
    }  # fmt: skip
    for name, array in joined().items():
        file = tmp_path / f"{name}.npy"
        assert np.array_equal(np.load(file), array)
        assert file.stat().st_size == 256 + array.nbytes


# ---- Batches that are refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            {"embeddings": np.ones((4, 5), np.float32)},
            ValueError,
            r"rows of shape \(3,\) in the fi",
        ),
        ({"embeddings": np.ones((4, 3))}, TypeError, "were float32 in the first batch"),
        ({"embeddings": np.ones((2, 2, 3))}, ValueError, "resmem.tokens makes rows of tokens"),
        ({"embeddings": np.ones((4, 3), complex)}, TypeError, "must be real numbers"),
        ({"embeddings": np.ones(4)}, ValueError, r"must have the shape \(m, d\)"),
        ({"targets": np.ones(4)}, TypeError, "were int64 in the first batch, and are float64"),
        ({"targets": np.array([None] * 4)}, TypeError, "numbers or text"),
        ({"targets": np.ones(3, int)}, ValueError, "as many rows each, got .*'targets': 3"),
        ({"targets": None}, ValueError, "this one has embeddings, outputs, document"),
        ({"more": np.ones(4)}, ValueError, "the first batch had embeddings, outputs, targets, doc"),
        ({"base": np.ones(4)}, ValueError, "cannot be called 'base'"),
        ({"a/b": np.ones(4)}, ValueError, "cannot be called 'a/b'"),
        ({"document": np.array(3)}, ValueError, r"the shape \(m, ..\)"),
    ],
)
@pytest.mark.parametrize("out", [False, True])
def test_refused_batch_leaves_no_trace(tmp_path, out, change, error, words):
    collector = Collector(tmp_path if out else None, SETTINGS)
    collector.append(**batch(0))
    with pytest.raises(error, match=words):
        collector.append(**{**batch(1), **change})
    assert (collector.batches, collector.rows) == (1, 4)
    collector.append(**batch(1))
    assert np.array_equal(
        collector.finish(BASE).targets, [*batch(0)["targets"], *batch(1)["targets"]]
    )


def test_nothing_collected_is_an_error(tmp_path):
    for out in (None, tmp_path):
        with pytest.raises(ValueError, match="there was no batch"):
            Collector(out).finish(BASE)


def test_base_that_is_no_json_is_refused_in_time(tmp_path):
    with pytest.raises(TypeError):
        gathered(tmp_path).finish({"d": {1, 2}})
    assert_holds(gathered(tmp_path).finish(BASE), joined())


# ---- Folders -------------------------------------------------------------------------------------


def test_folder_of_another_job_is_refused(tmp_path):
    gathered(tmp_path, 2)
    with pytest.raises(ValueError, match=r"layer: 'fc' there, 'avg' now\): give another folder"):
        Collector(tmp_path, {**SETTINGS, "layer": "avg"})
    with pytest.raises(ValueError, match="seed: None there, 3 now"):
        Collector(tmp_path, {**SETTINGS, "seed": 3})
    assert Collector(tmp_path, SETTINGS).batches == 2


def test_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds 'notes\.txt' and no collection"):
        Collector(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_finished_folder_is_not_appended_to(tmp_path):
    gathered(tmp_path).finish(BASE)
    again = Collector(tmp_path, SETTINGS)
    assert (again.finished, again.batches, again.rows) == (True, 5, 10)
    with pytest.raises(ValueError, match="is finished"):
        again.append(**batch(5))
    assert_holds(again.finish({"model": "is known"}), joined())


def test_unfinished_folder_is_not_loaded(tmp_path):
    gathered(tmp_path, 2)
    with pytest.raises(ValueError, match="not finished: run it again"):
        Collected.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no collection"):
        Collected.load(tmp_path / "none")


def test_two_processes_in_one_folder_are_noticed(tmp_path):
    one, other = (Collector(tmp_path, SETTINGS) for _ in range(2))
    one.append(**batch(0))
    with pytest.raises(RuntimeError, match="another process collects"):
        other.append(**batch(0))


@pytest.mark.parametrize("line", [b"{\n", b"[]\n", b'{"rows": "x"}\n', b'{"row": 1}\n'])
def test_damaged_journal_is_refused(tmp_path, line):
    gathered(tmp_path)
    journal = tmp_path / "journal.jsonl"
    first, second, *others = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([first, second, line, *others]))
    with pytest.raises(resmem.FileFormatError, match="damaged"):
        Collector(tmp_path, SETTINGS)


def test_newer_folder_is_refused(tmp_path):
    gathered(tmp_path).finish(BASE)
    for name in ("journal.jsonl", "collected.json"):
        path = tmp_path / name
        path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ValueError, match="newer version"):
        Collector(tmp_path, SETTINGS)
    with pytest.raises(ValueError, match="newer version"):
        Collected.load(tmp_path)


def test_finished_folder_with_an_exchanged_file_is_refused(tmp_path):
    gathered(tmp_path).finish(BASE)
    np.save(tmp_path / "targets.npy", np.zeros(3, int))
    with pytest.raises(resmem.FileFormatError, match="must have 10 rows"):
        Collected.load(tmp_path)


# ---- Processes that were stopped -----------------------------------------------------------------


def test_folder_cut_at_any_byte_goes_on_at_a_whole_batch(tmp_path):
    """A stopped process leaves some first bytes of what it had to write."""
    gathered(tmp_path / "whole", 4)
    for path in sorted((tmp_path / "whole").iterdir()):
        settings = path.read_bytes().index(b"\n") + 1 if path.name == "journal.jsonl" else 0
        for size in range(settings, path.stat().st_size + 1, 7):
            out = tmp_path / "cut"
            shutil.copytree(tmp_path / "whole", out)
            os.truncate(out / path.name, size)
            assert_holds(gathered(out).finish(BASE), joined())
            shutil.rmtree(out)


def test_settings_that_were_not_written_whole_begin_anew(tmp_path):
    Collector(tmp_path, SETTINGS)
    os.truncate(tmp_path / "journal.jsonl", 20)
    assert_holds(gathered(tmp_path).finish(BASE), joined())


def test_rows_of_a_batch_that_was_not_finished_are_overwritten(tmp_path):
    gathered(tmp_path, 4)
    for path in tmp_path.glob("*.part"):
        path.write_bytes(path.read_bytes() + b"\xff" * 999)
    assert Collector(tmp_path, SETTINGS).batches == 4
    assert_holds(gathered(tmp_path).finish(BASE), joined())


def test_rows_behind_the_last_batch_are_cut_off(tmp_path):
    size = 256 + joined()["embeddings"].nbytes
    collector = gathered(tmp_path)
    with open(tmp_path / "embeddings.npy.part", "ab") as file:
        file.write(b"\xff" * 999)
    collector.finish(BASE)
    assert (tmp_path / "embeddings.npy").stat().st_size == size


@pytest.mark.parametrize("named", range(5))
def test_process_stopped_while_it_finished(tmp_path, named):
    collector = gathered(tmp_path)
    renamed = Path.replace
    count = 0

    def stopping(path, target):
        nonlocal count
        if count == named:
            raise KeyboardInterrupt
        count += 1
        return renamed(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", stopping)
        with pytest.raises(KeyboardInterrupt):
            collector.finish(BASE)
    again = Collector(tmp_path, SETTINGS)
    assert (again.batches, again.finished) == (5, False)
    assert_holds(again.finish(BASE), joined())


KILLED = """
import json, sys
import numpy as np
from resmem.adapters.collection import Collector

collector = Collector(sys.argv[1], {"job": 1})
for number in range(collector.batches, 10**6):
    rng = np.random.default_rng(number)
    collector.append(rng.normal(size=(2000, 50)), targets=rng.integers(0, 9, 2000))
    print(collector.batches, flush=True)
"""


def test_killed_process_leaves_the_batches_it_had_appended(tmp_path):
    done = 0
    for stop_after in (1, 3, 4):  # kills at some moment of the batch that follows
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path / "job")], stdout=subprocess.PIPE, text=True
        ) as process:
            for _ in range(stop_after):
                done = int(process.stdout.readline())
            os.kill(process.pid, signal.SIGKILL)
            rest = process.stdout.read().split()
        done = int(rest[-1]) if rest else done
        collector = Collector(tmp_path / "job", {"job": 1})
        assert collector.batches in (done, done + 1)  # the last line may not have been printed
    embeddings, _, targets = collector.finish({})
    for number in range(collector.batches):
        rng = np.random.default_rng(number)
        span = slice(2000 * number, 2000 * number + 2000)
        assert np.array_equal(embeddings[span], rng.normal(size=(2000, 50)))
        assert np.array_equal(targets[span], rng.integers(0, 9, 2000))


@pytest.mark.parametrize("name", ["targets.npy.part", "journal.jsonl"])
def test_full_disk_leaves_the_collector_as_it_was(tmp_path, monkeypatch, name):
    collector = gathered(tmp_path, 3)

    class Full(io.FileIO):
        def write(self, data):
            super().write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    def opened(path, mode):
        return Full(path, mode) if path.name == name else open(path, mode)

    monkeypatch.setattr(folder, "open", opened, raising=False)
    with pytest.raises(OSError, match="No space left"):
        collector.append(**batch(3, m=3))
    monkeypatch.undo()
    assert collector.batches == 3
    for number in (3, 4):
        collector.append(**batch(number, m=number))
    assert_holds(collector.finish(BASE), joined())


# ---- Plain functions -----------------------------------------------------------------------------


def halves(x):
    return {"embeddings": x, "outputs": x[:, :2] / 2, "row": x[:, 0]}


def test_function_is_called_for_each_batch(tmp_path):
    batches = [np.full((m, 3), float(m)) for m in (2, 3, 4)]
    for out in (None, tmp_path / "job"):
        collected = resmem.collect_keys(halves, batches, out)
        assert np.array_equal(collected.embeddings, np.concatenate(batches))
        assert np.array_equal(collected.outputs, np.concatenate(batches)[:, :2] / 2)
        assert collected.extra["row"].tolist() == [2, 2, 3, 3, 3, 4, 4, 4, 4]
        assert collected.base["function"].endswith(".halves")
        assert (collected.base["d"], collected.base["C"], collected.targets) == (3, 2, None)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_function_returns_embeddings_outputs_and_targets(count):
    given = (np.eye(2), np.ones((2, 5)), np.arange(2))
    made = given[0] if count == 0 else given[:count]
    collected = resmem.collect_keys(lambda _: made, [None], base={"model": "m"})
    for at, array in enumerate(collected):
        assert array is None if at >= max(1, count) else np.array_equal(array, given[at])
    assert collected.base == {"model": "m", "d": 2, "C": 5 if count > 1 else None}


def test_stopped_function_goes_on_at_the_next_batch(tmp_path):
    batches, calls = [np.full((2, 3), float(m)) for m in range(5)], []

    def stopping(x):
        calls.append(x[0, 0])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return x

    with pytest.raises(KeyboardInterrupt):
        resmem.collect_keys(stopping, batches, tmp_path)
    collected = resmem.collect_keys(stopping, batches, tmp_path)
    assert calls == [0, 1, 2, 2, 3, 4]
    assert np.array_equal(collected.embeddings, np.concatenate(batches))
    resmem.collect_keys(stopping, batches, tmp_path)
    assert len(calls) == 6
    with pytest.raises(ValueError, match=r"function: '.*stopping' there"):
        resmem.collect_keys(halves, batches, tmp_path)
    with pytest.raises(ValueError, match="version: None there, 2 now"):
        resmem.collect_keys(stopping, batches, tmp_path, settings={"version": 2})


def test_what_a_function_should_not_return_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no 'embeddings', but z"):
        resmem.collect_keys(lambda _: {"z": np.eye(2)}, [None])
    with pytest.raises(ValueError, match="got a tuple of 4"):
        resmem.collect_keys(lambda _: (np.eye(2),) * 4, [None])
    with pytest.raises(ValueError, match="no iterator"):
        resmem.collect_keys(halves, iter([np.eye(3)]), tmp_path)


def test_resmem_torch_without_pytorch_names_the_extra():
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "import resmem, numpy as np\n"
        "assert len(resmem.collect_keys(lambda x: x, [np.eye(2)]).embeddings) == 2\n"
        "import resmem.torch"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "resmem.torch needs PyTorch: pip install 'residual-memory[torch]'" in done.stderr
