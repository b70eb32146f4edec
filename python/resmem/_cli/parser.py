"""The options of the command line. Their values are checked where they are used."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from resmem._core import __version__

from .files import Changed, Source, Target

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_ARRAY = "FILE[:NAME]"
_ARRAYS = (
    f"Arrays are given as {_ARRAY}: a .npy, .npz or .safetensors file, and which of several arrays "
    "in it, by default the one called like the option. Files are mapped, not read, where they can "
    "be, so they may be larger than memory. Targets may be a column of a .csv file: without NAME "
    "its only one, without a header; with NAME that of a table with a header."
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of `resmem`."""
    top = argparse.ArgumentParser(
        prog="resmem", description="Residual memories over any model.", allow_abbrev=False
    )
    top.add_argument("--version", action="version", version=f"resmem {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    for add in (
        _collect,
        _fit,
        _add,
        _update,
        _get,
        _merge,
        _audit,
        _prune,
        _predict,
        _evaluate,
        _tune,
        _report,
        _info,
        _verify,
        _export,
        _version,
        _demo,
    ):
        add(commands)
    return top


# ---- Commands --------------------------------------------------------------------------------


def _collect(commands: _Commands) -> None:
    collect = _command(
        commands,
        "collect",
        "run a PyTorch model over a loader and write what a memory is fitted to",
        "A stopped command, given again, goes on behind the last batch that is whole. "
        "resmem fit --collected FOLDER fits a memory.",
    )
    collect.add_argument(
        "model", metavar="MODEL", help="MODULE:NAME of a model, or of a function that makes it"
    )
    collect.add_argument(
        "loader", metavar="LOADER", help="MODULE:NAME of a loader, or of a function that makes it"
    )
    collect.add_argument(
        "-o", "--output", required=True, type=Target, metavar="FOLDER", help="the folder to write"
    )
    collect.add_argument(
        "--layer",
        required=True,
        metavar="NAME",
        help="where embeddings are read: a name of model.named_modules(), whose output is taken, "
        "or NAME:input",
    )
    places = collect.add_argument_group(
        "places", "names, or numbers in a tuple; those of resmem.torch.collect, with its defaults"
    )
    places.add_argument(
        "--outputs", metavar="NAME", help="of what the model returns, the outputs; or none"
    )
    places.add_argument("--targets", metavar="NAME", help="of a batch, the targets; or none")
    places.add_argument("--inputs", metavar="NAME,..", help="of a batch, the model's inputs")
    places.add_argument("--mask", metavar="NAME", help="of a batch, which tokens are rows")
    places.add_argument(
        "--extra",
        metavar="NAME,..",
        help="of a batch, further columns to keep; NAME=PLACE gives a column another name, which "
        "numbers need",
    )
    collect.add_argument(
        "--pool", metavar="MODULE:NAME", help="a function that makes rows of what the layer gives"
    )
    collect.add_argument(
        "--device", metavar="NAME", help="where inputs are brought; default: to the first weights"
    )


def _fit(commands: _Commands) -> None:
    fit = _command(commands, "fit", "fit a memory to rows and save it", _ARRAYS)
    fit.add_argument("out", type=Target, metavar="OUT.resmem", help="the file to write")
    fit.add_argument("--force", action="store_true", help="replace OUT.resmem if it exists")
    fit.add_argument(
        "--collected",
        type=Source,
        metavar="FOLDER",
        help="a folder of resmem collect: its embeddings, outputs, targets and base, where these "
        "options are not given",
    )
    _add_rows(fit, required=False)
    more = fit.add_argument_group("parameters", "those of resmem.Memory, with its defaults")
    more.add_argument("--task", metavar="TASK", help="classification or regression")
    more.add_argument("--output-kind", metavar="KIND", help="logits, probabilities, values or none")
    more.add_argument("-k", "--k", type=int, metavar="N", help="neighbours per query")
    more.add_argument("--sigma", type=_sigma, help="length scale of the weights, or auto")
    more.add_argument("--temperature", type=float, metavar="T", help="softmax temperature")
    more.add_argument("--strength", type=float, metavar="X", help="factor of the correction")
    more.add_argument(
        "--preprocess",
        metavar="NAME",
        help="how keys are made: none, center, standardize, unit, pca:M, whiten:M or nca:M",
    )
    more.add_argument(
        "--metric", help="how keys are compared: euclidean, sqeuclidean, cosine or inner_product"
    )
    more.add_argument(
        "--key-dtype", metavar="DTYPE", help="auto, float32, float64, float16 or bfloat16"
    )
    more.add_argument(
        "--residual-dtype", metavar="DTYPE", help="float32, float16, or float64 (regression)"
    )
    more.add_argument("--store", help="residuals: dense, sparse:M or head")
    more.add_argument("--head-weight", type=Source, metavar=_ARRAY, help="(C, d), for --store head")
    more.add_argument("--head-bias", type=Source, metavar=_ARRAY, help="(C,), by default 0")
    more.add_argument("--base", metavar="TEXT", help="which base model the outputs are of")
    more.add_argument("--probability-map", metavar="MAP", help="clip, project, keep, or clip:FLOOR")
    more.add_argument("--method", metavar="NAME", help="what neighbours give: residual or targets")
    more.add_argument("--gate", metavar="STEPS", help="how the strength depends on the query")
    more.add_argument(
        "--residuals", metavar="KIND", help="in-sample or out-of-fold, to be recorded"
    )
    more.add_argument(
        "--classes", type=Source, metavar=_ARRAY, help="the label of each column of outputs"
    )
    more.add_argument(
        "--max-rows", type=int, metavar="N", help="the newest rows that are kept, now and by add"
    )
    more.add_argument("--max-bytes", type=int, metavar="N", help="the same, in bytes of rows")
    more.add_argument(
        "--max-age",
        metavar="SPAN",
        help="how much older than the newest row others may be, now and by add: a number in the "
        "unit of --times, or where these are datetimes, a whole number and W, D, h, m, s, ms, us "
        "or ns, such as 30D",
    )
    more.add_argument(
        "--half-life",
        metavar="SPAN",
        help="by how much older a row must be than another to weigh half as much, as --max-age",
    )


def _add(commands: _Commands) -> None:
    add = _command(commands, "add", "add rows to a saved memory, or remove some", _ARRAYS)
    _add_memory(add, kind=Changed)
    _add_rows(add, required=False)
    add.add_argument(
        "--remove",
        type=Source,
        metavar=f"ID,ID,..|{_ARRAY}",
        help="ids of rows to remove, before any is added",
    )


def _update(commands: _Commands) -> None:
    update = _command(
        commands, "update", "replace rows of a saved memory, under their ids", _ARRAYS
    )
    _add_memory(update, kind=Changed)
    rows = update.add_argument_group("rows")
    _add_examples(rows, True, "keys", "n")
    rows.add_argument(
        "--ids",
        required=True,
        type=Source,
        metavar=f"ID,ID,..|{_ARRAY}",
        help="ids (n,) of the rows to replace",
    )
    _add_attributes(rows)


def _get(commands: _Commands) -> None:
    get = _command(
        commands,
        "get",
        "write rows of a saved memory to a file, as they are stored",
        "The file gets ids, embeddings (as they were preprocessed), targets, and outputs if the "
        "memory keeps them.",
    )
    _add_memory(get)
    get.add_argument(
        "--ids",
        type=Source,
        metavar=f"ID,ID,..|{_ARRAY}",
        help="ids of the rows, in the order to write them in; default: all",
    )
    get.add_argument(
        "-o",
        "--output",
        required=True,
        type=Target,
        metavar="OUT",
        help="a .npz file, or - to print rows of comma-separated values",
    )


def _merge(commands: _Commands) -> None:
    merge = _command(
        commands,
        "merge",
        "write the rows of several saved memories to one, under the ids that they have",
        "The settings are those of M.resmem. No file that is read is changed.",
    )
    _add_memory(merge)
    merge.add_argument(
        "others",
        nargs="+",
        type=Source,
        metavar="OTHER.resmem",
        help="saved memories that keep rows in the same way",
    )
    merge.add_argument(
        "-o", "--output", required=True, type=Target, metavar="OUT", help="the file to write"
    )
    merge.add_argument("--force", action="store_true", help="replace OUT if it exists")


def _audit(commands: _Commands) -> None:
    audit = _command(
        commands,
        "audit",
        "list rows of a saved memory that their neighbours contradict, or that mislead others",
        "Each row is judged without itself; the most suspicious ones come first.",
    )
    _add_memory(audit)
    audit.add_argument(
        "--rows", type=int, metavar="N", help="audit at most so many rows; default: all"
    )
    audit.add_argument("--seed", type=int, metavar="N", help="seed of the sample with --rows")
    _add_among(audit)
    for name, asked in (("before", "earlier rows"), ("exclude-groups", "rows of other groups")):
        audit.add_argument(f"--{name}", choices=("own",), help=f"a row asks {asked} only")
    _add_machine(audit)
    audit.add_argument(
        "-o", "--output", type=Target, metavar="OUT.csv", help="a .csv file of all audited rows"
    )


def _prune(commands: _Commands) -> None:
    prune = _command(
        commands,
        "prune",
        "remove rows of a saved memory that answers do not need",
        f"Without validation rows, rows of the memory judge. {_ARRAYS}",
    )
    _add_memory(prune)
    _add_labelled_rows(prune, "validation rows; by default rows of the memory", required=False)
    _add_query_options(prune)
    prune.add_argument(
        "--keep",
        type=float,
        metavar="F",
        help="share of the rows to keep; by default the smallest memory without clear loss",
    )
    prune.add_argument(
        "--confidence", type=float, metavar="P", help="confidence level of the intervals"
    )
    prune.add_argument("--seed", type=int, metavar="N", help="seed of samples and random prunings")
    prune.add_argument(
        "-o", "--output", type=Target, metavar="OUT", help="the .resmem file to write; by default "
        "nothing is changed"
    )  # fmt: skip
    prune.add_argument("--force", action="store_true", help="replace OUT if it exists")


def _predict(commands: _Commands) -> None:
    predict = _command(commands, "predict", "correct predictions with a saved memory", _ARRAYS)
    _add_memory(predict)
    predict.add_argument(
        "--embeddings", required=True, type=Source, metavar=_ARRAY, help="queries (q, d)"
    )
    predict.add_argument(
        "--outputs",
        type=Source,
        metavar=_ARRAY,
        help="the base model's outputs (q, C); not used by correction and neighbors",
    )
    predict.add_argument(
        "-o",
        "--output",
        required=True,
        type=Target,
        metavar="OUT",
        help="a .npy or .npz file (neighbors: a .npz of distances and ids), or - to print rows "
        "of comma-separated values",
    )
    predict.add_argument(
        "--what",
        choices=("predict", "proba", "correct", "correction", "neighbors"),
        default="predict",
        help="classes or values; probabilities; base + correction; the correction alone; "
        "distances and ids (default: %(default)s)",
    )
    predict.add_argument(
        "--columns",
        type=Source,
        metavar=_ARRAY,
        help="columns (t,) to return; for proba, correct and correction",
    )
    _add_query_options(predict)
    predict.add_argument("-k", "--k", type=int, metavar="N", help="instead of the memory's own")
    predict.add_argument("--sigma", type=_sigma, help="instead of the memory's own")
    predict.add_argument("--strength", type=float, metavar="X", help="instead of the memory's own")
    predict.add_argument("--base", metavar="TEXT", help="which base model the outputs are of")


def _evaluate(commands: _Commands) -> None:
    evaluate = _command(
        commands, "evaluate", "score base model, neighbours alone and memory on other rows", _ARRAYS
    )
    _add_memory(evaluate)
    _add_labelled_rows(
        evaluate, "rows that neither fitted nor tuned the memory; none with --loo", required=False
    )
    _add_query_options(evaluate)
    _add_judging(evaluate)


def _tune(commands: _Commands) -> None:
    tune = _command(
        commands,
        "tune",
        "find the best settings of a saved memory on validation rows",
        f"Nothing is changed without --apply. {_ARRAYS}",
    )
    _add_memory(tune, kind=Changed)
    tune.add_argument(
        "--apply",
        action="store_true",
        help="append the chosen settings to M.resmem; if they keep keys in another way, write the "
        "file anew (the original embeddings are then lost)",
    )
    _add_labelled_rows(tune, "validation rows; none with --loo", required=False)
    tune.add_argument(
        "--loo", action="store_true", help="tune on the memory's own rows, each without itself"
    )
    _add_query_options(tune)
    tried = tune.add_argument_group("what is tried", "values separated by commas")
    tried.add_argument("-k", "--k", type=_list_of(int), metavar="N,..", help="neighbours")
    tried.add_argument(
        "--sigma", type=_list_of(float), metavar="X,..", help="length scales, inf too"
    )
    tried.add_argument(
        "--temperature", type=_list_of(float), metavar="T,..", help="softmax temperatures"
    )
    tried.add_argument(
        "--strength", type=_list_of(float), metavar="X,..", help="factors of the correction"
    )
    tried.add_argument(
        "--probability-map",
        type=_list_of(str),
        metavar="MAP,..",
        help="clip, project, keep, clip:FLOOR",
    )
    tried.add_argument(
        "--methods", type=_list_of(str), metavar="NAME,..", help="residual, targets; default: both"
    )
    tried.add_argument(
        "--preprocess", type=_list_of(str), metavar="NAME,..", help="ways to make keys"
    )
    tried.add_argument(
        "--key-dtype", type=_list_of(str), metavar="DTYPE,..", help="dtypes of the keys"
    )
    how = tune.add_argument_group("how it is judged", "with the defaults of Memory.tune")
    how.add_argument("--score", metavar="NAME", help="such as log_loss, accuracy, rmse")
    how.add_argument("--folds", type=int, metavar="N", help="number of folds of validation rows")
    how.add_argument(
        "--groups", type=Source, metavar=_ARRAY, help="the group of each row, which stays whole"
    )
    how.add_argument(
        "--times", type=Source, metavar=_ARRAY, help="the time of each row: the past chooses"
    )
    how.add_argument(
        "--rule", metavar="RULE", help="best, or one_se: the simplest within one standard error"
    )
    how.add_argument(
        "--confidence", type=float, metavar="P", help="confidence level of the gain's interval"
    )
    how.add_argument(
        "--risk", type=float, metavar="P", help="accepted probability of keeping a useless memory"
    )
    how.add_argument("--seed", type=int, metavar="N", help="seed of the folds")
    how.add_argument(
        "--budget", type=float, metavar="SECONDS", help="how long it may take, roughly"
    )


def _report(commands: _Commands) -> None:
    report = _command(
        commands,
        "report",
        "write an HTML file that says whether a saved memory helps, where, and by which rows",
        f"With the --tune options, settings are chosen first; M.resmem stays as it is. {_ARRAYS}",
    )
    _add_memory(report)
    report.add_argument(
        "-o", "--output", required=True, type=Target, metavar="OUT.html", help="the file to write"
    )
    _add_labelled_rows(
        report,
        "rows to evaluate on, which neither fitted nor tuned the memory; none with --loo",
        required=False,
    )
    _add_query_options(report)
    _add_judging(report)
    tuned = report.add_argument_group("validation rows", "rows to choose settings on first")
    tuned.add_argument("--tune-embeddings", type=Source, metavar=_ARRAY, help="keys (n, d)")
    tuned.add_argument(
        "--tune-outputs", type=Source, metavar=_ARRAY, help="the base model's outputs (n, C)"
    )
    tuned.add_argument("--tune-targets", type=Source, metavar=_ARRAY, help="classes or values")
    tuned.add_argument(
        "--tune-groups",
        type=Source,
        metavar=_ARRAY,
        help="the group of each row, which stays whole",
    )
    report.add_argument(
        "--audit", action="store_true", help="list rows of the memory that look wrong, too"
    )
    words = report.add_argument_group("words")
    words.add_argument("--title", metavar="TEXT", help="by default the name of the memory")
    words.add_argument("--date", metavar="TEXT", help="date to print; by default none")
    words.add_argument(
        "--class-names", type=Source, metavar="FILE", help="a text file with one name per line"
    )


def _info(commands: _Commands) -> None:
    _add_memory(_command(commands, "info", "say what a saved memory or index holds"), checked=False)


def _verify(commands: _Commands) -> None:
    _add_memory(
        _command(commands, "verify", "check every byte of a saved memory or index"), checked=False
    )


def _export(commands: _Commands) -> None:
    export = _command(commands, "export", "write a saved memory as .npz or .safetensors")
    _add_memory(export)
    export.add_argument(
        "out", type=Target, metavar="OUT", help="the .npz or .safetensors file to write"
    )


def _version(commands: _Commands) -> None:
    _command(commands, "version", "print versions, kernels and threads")


def _demo(commands: _Commands) -> None:
    demo = commands.add_parser(
        "demo",
        help="train two small models on Fashion-MNIST and correct them, in seconds",
        description="Train two small models on a part of Fashion-MNIST, give each a residual "
        "memory, and compare base model, neighbours alone and ResMem on test images.",
        allow_abbrev=False,
    )
    demo.add_argument(
        "--output",
        type=_picture_path,
        default=Target("resmem-demo.png"),
        metavar="FILE",
        help="the picture to write (default: %(default)s; needs matplotlib)",
    )
    demo.add_argument("--no-picture", action="store_true", help="write no picture")
    _add_device(demo)
    demo.add_argument("--quick", action="store_true", help=argparse.SUPPRESS)


# ---- Shared helpers --------------------------------------------------------------------------


def _command(commands: _Commands, name: str, does: str, more: str = "") -> argparse.ArgumentParser:
    """Add a command, with the options that all commands have."""
    command = commands.add_parser(
        name, help=does, description=f"{does[0].upper()}{does[1:]}. {more}", allow_abbrev=False
    )
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.add_argument(
        "--quiet", action="store_true", help="print nothing but errors, warnings and JSON"
    )
    command.add_argument("--no-progress", action="store_true", help="draw no progress bar")
    return command


def _add_memory(
    command: argparse.ArgumentParser, checked: bool = True, kind: type[Source] = Source
) -> None:
    what = "a saved memory" if checked else "a saved memory or index"
    command.add_argument("memory", type=kind, metavar="M.resmem", help=what)
    if checked:
        command.add_argument(
            "--no-verify",
            action="store_true",
            help="trust the file: do not read all of it to check its blocks first",
        )


def _add_rows(command: argparse.ArgumentParser, required: bool) -> None:
    rows = command.add_argument_group("rows")
    _add_examples(rows, required, "keys", "n")
    rows.add_argument(
        "--ids", type=Source, metavar=_ARRAY, help="unique ids (n,); by default 0, 1, 2, .."
    )
    _add_attributes(rows)


def _add_attributes(rows: Any) -> None:
    """Add the options of what rows are given besides."""
    rows.add_argument(
        "--sample-weight", type=Source, metavar=_ARRAY, help="weights (n,) of rows; 0: left out"
    )
    rows.add_argument(
        "--times", type=Source, metavar=_ARRAY, help="times (n,) of rows, numbers or datetimes"
    )
    rows.add_argument(
        "--groups",
        type=Source,
        metavar=_ARRAY,
        help="groups (n,) of rows, by numbers or other labels, such as names; -1: none",
    )


def _add_labelled_rows(command: argparse.ArgumentParser, rows: str, required: bool = True) -> None:
    _add_examples(command.add_argument_group("rows", rows), required, "queries", "q")


def _add_examples(group: Any, required: bool, what: str, n: str) -> None:
    """Add the options of the three arrays of rows whose targets are known."""
    group.add_argument(
        "--embeddings",
        required=required,
        type=Source,
        metavar=_ARRAY,
        help=f"{what} ({n}, d)",
    )
    group.add_argument(
        "--outputs", type=Source, metavar=_ARRAY, help=f"the base model's outputs ({n}, C)"
    )
    group.add_argument(
        "--targets", required=required, type=Source, metavar=_ARRAY, help="classes or values"
    )


def _add_query_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--exclude-ids",
        type=Source,
        metavar=_ARRAY,
        help="ids (q,) or (q, m) that must not be a query's neighbours; -1: none",
    )
    _add_among(command)
    command.add_argument(
        "--before",
        type=Source,
        metavar=f"TIME|{_ARRAY}",
        help="times (q,), or one for all queries, a number or a datetime (in UTC) such as "
        "2026-01-31: a query asks earlier rows only; where rows of the memory judge (--loo), own",
    )
    command.add_argument(
        "--exclude-groups",
        type=Source,
        metavar=_ARRAY,
        help="groups (q,) or (q, m) that a query does not ask, labels as of --groups, -1: none; "
        "where rows of the memory judge (--loo), own",
    )
    _add_machine(command)


def _add_among(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--among",
        type=Source,
        metavar=_ARRAY,
        help="ids (m,) of the only rows that are asked, or a mask of all rows",
    )


def _add_machine(command: argparse.ArgumentParser) -> None:
    """Add the options of what computes: a device, and how many threads."""
    _add_device(command)
    command.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="default: RESMEM_NUM_THREADS, else all CPUs that this process may use",
    )


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device",
        metavar="NAME",
        help="what finds neighbours: cpu (default), cuda, cuda:1; results have the same bits",
    )


def _add_judging(command: argparse.ArgumentParser) -> None:
    """Add the options of Memory.evaluate that say which rows are judged, and against what."""
    how = command.add_argument_group("how it is judged")
    how.add_argument(
        "--groups",
        type=Source,
        metavar=_ARRAY,
        help="group (q,) of each row, such as a patient or a day: scores by group, and intervals "
        "for which groups, not rows, are independent; not with --loo",
    )
    how.add_argument(
        "--loo",
        action="store_true",
        help="judge at most 10,000 rows of the memory itself, each without itself",
    )
    how.add_argument("--seed", type=int, metavar="N", help="seed of the sample with --loo")
    how.add_argument(
        "--published",
        type=Source,
        metavar="M2.resmem",
        help="another memory, whose residuals are summed as published too",
    )


def _list_of(kind: type) -> Callable[[str], list[Any]]:
    def listed(text: str) -> list[Any]:
        try:
            return [kind(word) for word in text.split(",")]
        except ValueError as error:
            what = "whole numbers" if kind is int else "numbers"
            raise argparse.ArgumentTypeError(
                f"expected {what} separated by commas, got {text!r}"
            ) from error

    return listed


def _sigma(text: str) -> float | str:
    try:
        return text if text == "auto" else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a number or auto, got {text!r}") from error


def _picture_path(text: str) -> Target:
    """Return the path of a picture to write, checked now so that no work is lost."""
    path = Path(text)
    if path.suffix.lower() not in {".png", ".pdf", ".svg"}:
        raise argparse.ArgumentTypeError(f"expected a .png, .pdf or .svg file, got {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}")
    return Target(text)
