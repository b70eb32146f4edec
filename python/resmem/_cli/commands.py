"""The commands. Each returns its outcome: facts for programs, and a text for people."""

from __future__ import annotations

import io
import os
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import resmem
from resmem._base.errors import DeviceError
from resmem._base.units import bytes_text
from resmem._devices.choice import choose
from resmem._files import container
from resmem._files.export import bytes_to_verify, has_checksums
from resmem._files.formats import Rows
from resmem._files.persist import EXPORTS
from resmem._report.words import verdict
from resmem._rows.estimate import estimate
from resmem._rows.ingest import Incoming
from resmem._state.description import describe_file
from resmem._state.settings import SETTINGS
from resmem.adapters.progress import Step, bar

from . import collected, inputs, outputs, times
from .files import refuse_overwriting
from .labelled import (
    ROWS,
    TUNED_SETTINGS,
    LabelledRows,
    evaluated,
    has_text_labels,
    own_asks,
    refuse_rows,
    tuned,
)
from .printing import Outcome, in_options, print_outcome, say, table, warnings_printed
from .queries import Queries

_MOST_AUDITED = 10_000  # rows that a report audits
_ROWS_PER_BLOCK = 4096  # rows that are read at a time


def run(options: Namespace) -> None:
    """Run the command that the options name, and print its outcome on standard output."""
    refuse_overwriting(options)
    try:
        if options.command == "demo":
            _demo(options)
            return
        with warnings_printed():
            outcome = _COMMANDS[options.command](options)
    except (ValueError, TypeError, DeviceError) as error:
        error.args = (in_options(str(error)),)
        raise
    print_outcome(outcome, options.json, options.quiet)


# ---- Commands --------------------------------------------------------------------------------


def collect(options: Namespace) -> Outcome:
    """Call resmem.torch.collect."""
    found = collected.collect(options, not (options.quiet or options.no_progress))
    arrays = dict(zip(ROWS, found, strict=True)) | found.extra
    shapes = {name: list(array.shape) for name, array in arrays.items() if array is not None}
    facts = {"folder": options.output, "arrays": shapes, "base": found.base}
    rows = len(found.embeddings)
    return Outcome(facts, f"{options.output}: {rows} rows of {', '.join(shapes)}")


def fit(options: Namespace) -> Outcome:
    """Call Memory.fit and save."""
    _check_new_memory(options.out, options.force, "fit")
    parameters = _parameters(options)
    if options.collected is not None:
        parameters = {"base": collected.take(options), **parameters}
    memory = resmem.Memory(**parameters)
    rows = _training(options, memory)
    checked = Incoming(memory._state.view.spec, *rows)  # finds errors before the long work begins
    needs = estimate(
        checked.n,
        checked.key_width,
        checked.columns,
        checked.spec.task,
        checked.spec.key_dtype,
        None,
        memory.k,
    )
    if not options.quiet:
        say(str(needs))
    memory.fit(*rows, copy=False, **_attributes(options))
    with _bar(options, "save", memory.nbytes) as step:
        memory.save(options.out, progress=step)
    facts = {"file": options.out, "memory": memory.info(), "estimate": needs.to_dict()}
    return Outcome(facts, f"{options.out}: {_summary(memory)}")


def add(options: Namespace) -> Outcome:
    """Call Memory.remove and add, and append the changes to the file."""
    wanted = any(_row_files(options))
    if not wanted and options.remove is None:
        raise ValueError("nothing to do: give --embeddings, --outputs and --targets, or --remove")
    if _is_export(options.memory):
        raise ValueError(f"{options.memory!r} is an export; only .resmem files can be added to")
    memory = _load(options)
    rows = _training(options, memory) if wanted else None
    before = len(memory)
    if options.remove is not None:
        memory.remove(inputs.ids(options.remove, "remove"))
    kept = len(memory)
    if rows is not None:
        memory.add(*rows, **_attributes(options))
    with _bar(options, "save", None) as step:  # only the save itself knows how many bytes are new
        memory.save(options.memory, append=True, progress=step)
    facts = {"file": options.memory, "added": len(memory) - kept, "removed": before - kept}
    text = f"{facts['added']} rows added, {facts['removed']} removed; {_summary(memory)}"
    return Outcome({**facts, "rows": len(memory)}, f"{options.memory}: {text}")


def update(options: Namespace) -> Outcome:
    """Call Memory.update, and append the changes to the file."""
    if _is_export(options.memory):
        raise ValueError(f"{options.memory!r} is an export; only .resmem files can be updated")
    memory = _load(options)
    ids = inputs.ids(options.ids, "ids")
    rows = _training(options, memory, with_ids=False)
    memory.update(ids, rows.embeddings, rows.outputs, rows.targets, **_attributes(options))
    with _bar(options, "save", None) as step:
        memory.save(options.memory, append=True, progress=step)
    facts = {"file": options.memory, "updated": len(ids), "rows": len(memory)}
    return Outcome(facts, f"{options.memory}: {len(ids)} rows updated; {_summary(memory)}")


def get(options: Namespace) -> Outcome:
    """Call Memory.get, block by block of rows."""
    printed = options.output == "-"
    if printed and options.json:
        raise ValueError("--json and --output - both claim standard output; give a file")
    outputs.check_suffix(options.output, arrays=3)
    if not printed:
        _check_target(options.output)
    memory = _load(options)
    ids = memory.ids if options.ids is None else inputs.ids(options.ids, "ids")
    if printed:
        outputs.print_rows(_stored_rows(memory, ids))
        return Outcome({}, "")
    empty = next(_stored_rows(memory, ids[:0]))
    outputs.save(options.output, len(ids), empty, _stored_rows(memory, ids))
    shapes = {name: [len(ids), *part.shape[1:]] for name, part in empty.items()}
    facts = {"file": options.output, "arrays": shapes}
    return Outcome(facts, f"{options.output}: {len(ids)} rows")


def merge(options: Namespace) -> Outcome:
    """Call Memory.merge and save."""
    _check_new_memory(options.output, options.force, "merge into")
    memory = _load(options)
    for other in options.others:
        memory.merge(_load(options, other))
    with _bar(options, "save", memory.nbytes) as step:
        memory.save(options.output, progress=step)
    facts = {"file": options.output, "memory": memory.info()}
    return Outcome(facts, f"{options.output}: {_summary(memory)}")


def audit(options: Namespace) -> Outcome:
    """Call Memory.audit."""
    if options.output is not None:
        outputs.check_csv(options.output)
        _check_target(options.output)
    memory = _load(options)
    seed = 0 if options.seed is None else options.seed
    found = memory.audit(options.rows, seed, options.threads, **own_asks(options))
    if options.output is not None:
        outputs.save_csv(options.output, found.table)
    return Outcome({"file": options.memory, "audit": found.to_dict()}, str(found))


def prune(options: Namespace) -> Outcome:
    """Call Memory.prune, and with --output save."""
    if options.output is not None:
        _check_new_memory(options.output, options.force, "prune into")
    memory = _load(options)
    if options.among is not None:
        raise ValueError("prune judges by all rows: leave out --among")
    given: dict[str, Any]
    if any(getattr(options, name) is not None for name in (*ROWS, "exclude_ids")):
        rows = LabelledRows(options, memory)
        given = {name: getattr(rows, name) for name in ROWS} | rows.asks
    else:
        given = own_asks(options)
        del given["among"]
    names = ("keep", "confidence", "seed", "threads")
    given |= {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    result = memory.prune(**given, apply=options.output is not None)
    facts = {"file": options.output, "pruning": result.to_dict()}
    if options.output is None:
        return Outcome(facts, f"{result}\nnothing is changed without --output")
    with _bar(options, "save", memory.nbytes) as step:
        memory.save(options.output, progress=step)
    return Outcome(facts, f"{result}\n{options.output}: {_summary(memory)}")


def predict(options: Namespace) -> Outcome:
    """Call Memory.predict or a method like it, block by block of queries."""
    printed = options.output == "-"
    if printed and options.json:
        raise ValueError("--json and --output - both claim standard output; give a file")
    outputs.check_suffix(options.output, arrays=2 if options.what == "neighbors" else 1)
    if not printed:
        _check_target(options.output)
    memory = _load(options)
    for name in ("k", "sigma", "strength"):
        if getattr(options, name) is not None:
            setattr(memory, name, getattr(options, name))
    queries = Queries(memory, options)
    with _bar(options, "predict", len(queries), "rows", wanted=not printed) as step:
        if printed:
            outputs.print_rows(queries.answers(step))
            return Outcome({}, "")
        outputs.save(options.output, len(queries), queries.empty, queries.answers(step))
    shapes = {name: [len(queries), *part.shape[1:]] for name, part in queries.empty.items()}
    facts = {"file": options.output, "arrays": shapes}
    return Outcome(facts, f"{options.output}: {options.what} of {len(queries)} queries")


def evaluate(options: Namespace) -> Outcome:
    """Call Memory.evaluate."""
    memory = _load(options)
    evaluation = evaluated(memory, options, _other(options))
    facts = {"file": options.memory, "evaluation": evaluation.to_dict()}
    return Outcome(facts, in_options(str(evaluation)))


def tune(options: Namespace) -> Outcome:
    """Call Memory.tune, and with --apply append the chosen settings to the file."""
    if options.apply and _is_export(options.memory):
        raise ValueError(f"{options.memory!r} is an export; only .resmem files can be applied to")
    told = ("groups", "times")
    if options.loo:
        refuse_rows(options, *told)
    memory = _load(options)
    kept = memory.preprocess, memory.key_dtype
    rows = None if options.loo else LabelledRows(options, memory)
    names = (*TUNED_SETTINGS, "score", "folds", "rule", "confidence", "risk", "seed", "budget")
    values = {name: getattr(options, name) for name in names}
    values |= {name: inputs.optional(getattr(options, name), name) for name in told}
    settings = {name: value for name, value in values.items() if value is not None}
    with _bar(options, "tune", None, "rows") as step:
        result = tuned(memory, rows, options, step, apply=options.apply, **settings)
    applied = "nothing is changed without --apply"
    if options.apply:
        with _bar(options, "save", None) as step:
            append = kept == (memory.preprocess, memory.key_dtype)  # new keys need a new file
            memory.save(options.memory, append=append, progress=step)
        applied = f"{options.memory}: set to {result.best}"
    facts = {"file": options.memory, "applied": options.apply, "tuning": result.to_dict()}
    return Outcome(facts, f"{in_options(str(result))}\n{applied}")


def report(options: Namespace) -> Outcome:
    """Call Memory.tune and evaluate, and resmem.report with their results."""
    if not options.output.lower().endswith((".html", ".htm")):
        raise ValueError(f"the report must be a .html file, got {options.output!r}")
    _check_target(options.output)
    memory = _load(options)
    classes = None
    if options.class_names is not None:
        classes = inputs.lines(options.class_names, "class_names", memory.info()["columns"])
    tuning = None
    if any(getattr(options, f"tune_{name}") is not None for name in (*ROWS, "groups")):
        validation = LabelledRows(options, memory, "tune_")
        groups = inputs.optional(options.tune_groups, "groups")
        with _bar(options, "tune", None, "rows") as step:
            tuning = tuned(memory, validation, options, step, groups=groups)
    evaluation = evaluated(memory, options, _other(options), tuning)
    found = None
    if options.audit:
        asked = own_asks(options) if options.loo else {"among": inputs.among(options)}
        found = memory.audit(_MOST_AUDITED, threads=options.threads, **asked)
    title = options.title
    if title is None:
        title = f"Residual memory {os.path.basename(options.memory)}"
    resmem.report(
        options.output, tuning, evaluation, classes=classes, title=title, date=options.date,
        audit=found,
    )  # fmt: skip
    facts: dict[str, Any] = {"file": options.output, "bytes": os.path.getsize(options.output)}
    facts["evaluation"] = evaluation.to_dict()
    facts["audit"] = None if found is None else found.to_dict()
    facts["tuning"] = None if tuning is None else tuning.to_dict()
    return Outcome(facts, f"{options.output}: {verdict(tuning, evaluation)[1][0]}")


def info(options: Namespace) -> Outcome:
    """Tell what Memory.info or Index.info does of a file, without checking its blocks."""
    facts = describe_file(options.memory, verify=False)
    return Outcome(facts, table(facts))


def verify(options: Namespace) -> Outcome:
    """Call verify_file, which checks every block."""
    with _bar(options, "verify", _bytes_to_verify(options.memory)) as step:
        facts = resmem.verify_file(options.memory, progress=step)
    checksums = not _is_export(options.memory) or has_checksums(options.memory)
    length = os.path.getsize(options.memory)
    text = f"ok, {length} bytes" if checksums else "readable, but .safetensors has no checksums"
    return Outcome({**facts, "checksums": checksums}, f"{options.memory}: {text}")


def export(options: Namespace) -> Outcome:
    """Call Memory.export."""
    _check_target(options.out)
    memory = _load(options)
    with _bar(options, "export", memory.nbytes) as step:
        memory.export(options.out, progress=step)
    length = os.path.getsize(options.out)
    return Outcome({"file": options.out, "bytes": length}, f"{options.out}: {length} bytes")


def version(_options: Namespace) -> Outcome:
    """Call show_versions."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        resmem.show_versions()
    text = printed.getvalue().rstrip("\n")
    pairs = (line.split(":", 1) for line in text.splitlines())
    return Outcome({name.strip(): value.strip() for name, value in pairs}, text)


def _demo(options: Namespace) -> None:
    from resmem.demo import data, run

    refuse_overwriting(options, data.PATH)
    run(
        picture=None if options.no_picture else Path(options.output),
        quick=options.quick,
        device="cpu" if options.device is None else options.device,
    )


_COMMANDS: dict[str, Callable[[Namespace], Outcome]] = {
    "collect": collect,
    "fit": fit,
    "add": add,
    "update": update,
    "get": get,
    "merge": merge,
    "audit": audit,
    "prune": prune,
    "predict": predict,
    "evaluate": evaluate,
    "tune": tune,
    "report": report,
    "info": info,
    "verify": verify,
    "export": export,
    "version": version,
}

# ---- Shared helpers --------------------------------------------------------------------------


class _Training(NamedTuple):
    """The arguments of Memory.fit and Memory.add."""

    embeddings: Rows
    outputs: Rows | None
    targets: Rows
    ids: Rows | None


def _row_files(options: Namespace) -> list[str]:
    """Return the given options that name arrays with one row per row of the memory."""
    texts = (getattr(options, name, None) for name in _Training._fields)
    return [text for text in texts if text is not None]


def _training(options: Namespace, memory: resmem.Memory, with_ids: bool = True) -> _Training:
    """Return the rows that the options name; ``with_ids=False`` leaves --ids out."""
    without = memory.store == "head" or memory.output_kind == "none"
    if memory.store == "head" and options.outputs is not None:
        raise ValueError("--outputs must be left out: the head of this memory computes them")
    for name in ("embeddings", "outputs", "targets"):
        if getattr(options, name) is None and not (name == "outputs" and without):
            raise ValueError(f"--{name} is missing: rows have embeddings, outputs and targets")
    return _Training(
        inputs.rows(options.embeddings, "embeddings"),
        inputs.optional(options.outputs, "outputs"),
        inputs.labels(options.targets, as_text=has_text_labels(memory)),
        inputs.optional(options.ids, "ids") if with_ids else None,
    )


def _attributes(options: Namespace) -> dict[str, Any]:
    """Return what the rows are given besides; None for what is left out."""
    names = ("sample_weight", "times", "groups")
    given = [name for name in names if getattr(options, name) is not None]
    return {name: inputs.array(getattr(options, name), name) for name in given}


def _stored_rows(memory: resmem.Memory, ids: npt.NDArray[Any]) -> Iterator[outputs.Block]:
    """Yield rows by name of array, block by block; one block without rows if there are none."""
    for start in range(0, max(1, len(ids)), _ROWS_PER_BLOCK):
        rows = memory.get(ids[start : start + _ROWS_PER_BLOCK])
        block = {"ids": rows.ids, "embeddings": rows.embeddings, "targets": rows.targets}
        if rows.outputs is not None:
            block["outputs"] = rows.outputs
        yield {**block, **rows.attributes}


def _check_new_memory(path: str, force: bool, verb: str) -> None:
    """Raise ValueError unless a memory can be written to ``path``."""
    if os.path.lexists(path) and not force:
        raise ValueError(f"{path!r} exists; --force replaces it")
    _check_target(path)
    if path.lower().endswith(EXPORTS):
        raise ValueError(
            f"{path!r} is the name of an export: {verb} a .resmem file, and turn that into one "
            "with resmem export"
        )


def _parameters(options: Namespace) -> dict[str, Any]:
    """Return the arguments for Memory; it has defaults for options that are not given."""
    given = {name: getattr(options, name) for name in SETTINGS}
    for name in ("max_age", "half_life"):
        if given[name] is not None:
            given[name] = times.span(given[name], name)
    if options.classes is not None:
        given["classes"] = inputs.labels(options.classes, "classes")
    if options.head_weight is not None:
        weight = inputs.array(options.head_weight, "head_weight")
        bias = np.zeros(len(weight), np.float32)
        if options.head_bias is not None:
            bias = inputs.array(options.head_bias, "head_bias")
        given["head"] = weight, bias
    elif options.head_bias is not None:
        raise ValueError("--head-bias goes with --head-weight")
    if ("head" in given) != (options.store == "head"):
        raise ValueError("--head-weight and --store head go together, one is missing")
    return {name: value for name, value in given.items() if value is not None}


def _load(options: Namespace, path: str | None = None) -> resmem.Memory:
    """Return the memory in a file, by default the one that the command is about, on the device
    that the options name."""
    path = options.memory if path is None else path
    device = getattr(options, "device", None) or "cpu"
    choose(device, {})  # finds what is missing for it before the file is read
    checked = not options.no_verify
    length = _bytes_to_verify(path) if checked else None
    with _bar(options, "load", length, wanted=checked) as step:
        return resmem.Memory.load(path, verify=checked, progress=step).to(device)


def _other(options: Namespace) -> resmem.Memory | None:
    """Return the memory whose residuals are summed as published too, if one is given."""
    return None if options.published is None else _load(options, options.published)


def _bytes_to_verify(path: str) -> int:
    if _is_export(path):
        return bytes_to_verify(path)
    return container.bytes_to_verify(path)


def _is_export(path: str) -> bool:
    return path.lower().endswith(EXPORTS) and not container.is_container(path)


def _check_target(path: str) -> None:
    """Raise ValueError unless a result file can be written to ``path``."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise ValueError(f"there is no folder {folder!r} for {os.path.basename(path)!r}")
    if os.path.isdir(path):
        raise ValueError(f"{path!r} is a folder; give a file")


def _bar(
    options: Namespace, label: str, total: int | None, unit: str = "B", wanted: bool = True
) -> AbstractContextManager[Step]:
    return bar(label, total, unit, wanted and not (options.quiet or options.no_progress))


def _summary(memory: resmem.Memory) -> str:
    facts = memory.info()
    return (
        f"{facts['rows']} rows, d={facts['d']}, C={facts['columns']}, {bytes_text(memory.nbytes)}"
    )
