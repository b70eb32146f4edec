"""What can be asked for on the command line. Values are judged where they are used."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

from resmem._core import __version__

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_ARRAY = "FILE[:NAME]"
_ARRAYS = (
    f"Arrays are given as {_ARRAY}: a .npy, .npz or .safetensors file, and which of several arrays "
    "in it, by default the one called like the option. Files are mapped, not read, where they can "
    "be, so they may be larger than memory."
)


def parser() -> argparse.ArgumentParser:
    """The parser of `resmem`."""
    top = argparse.ArgumentParser(
        prog="resmem", description="Residual memories over any model.", allow_abbrev=False
    )
    top.add_argument("--version", action="version", version=f"resmem {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    for add in (_fit, _add, _predict, _info, _verify, _export, _version, _demo):
        add(commands)
    return top


# ---- Commands --------------------------------------------------------------------------------


def _fit(commands: _Commands) -> None:
    fit = _command(commands, "fit", "fit a memory to rows and save it", _ARRAYS)
    fit.add_argument("out", metavar="OUT.resmem", help="the file to write")
    fit.add_argument("--force", action="store_true", help="replace OUT.resmem if it exists")
    _add_rows(fit, required=True)
    more = fit.add_argument_group("parameters", "those of resmem.Memory, with its defaults")
    more.add_argument("--task", metavar="TASK", help="classification or regression")
    more.add_argument("--output-kind", metavar="KIND", help="logits, probabilities or values")
    more.add_argument("-k", "--k", type=int, metavar="N", help="neighbours per query")
    more.add_argument("--sigma", type=_sigma, help="length scale of the weights, or auto")
    more.add_argument("--temperature", type=float, metavar="T", help="softmax temperature")
    more.add_argument("--strength", type=float, metavar="X", help="factor of the correction")
    more.add_argument(
        "--preprocess",
        metavar="NAME",
        help="of embeddings: none, center, standardize, unit, pca:M or whiten:M",
    )
    more.add_argument("--key-dtype", metavar="DTYPE", help="float32, float16 or bfloat16")
    more.add_argument("--residual-dtype", metavar="DTYPE", help="float32 or float16")
    more.add_argument("--store", help="residuals: dense, sparse:M or head")
    more.add_argument("--head-weight", metavar=_ARRAY, help="(C, d), for --store head")
    more.add_argument("--head-bias", metavar=_ARRAY, help="(C,), by default 0")
    more.add_argument("--base", metavar="TEXT", help="which base model the outputs are of")
    more.add_argument("--probability-map", metavar="MAP", help="clip, project, or clip:FLOOR")


def _add(commands: _Commands) -> None:
    add = _command(commands, "add", "add rows to a saved memory, or remove some", _ARRAYS)
    _add_memory(add)
    _add_rows(add, required=False)
    add.add_argument(
        "--remove", metavar=f"ID,ID,..|{_ARRAY}", help="ids of rows to remove, before any is added"
    )


def _predict(commands: _Commands) -> None:
    predict = _command(commands, "predict", "correct predictions with a saved memory", _ARRAYS)
    _add_memory(predict)
    predict.add_argument("--embeddings", required=True, metavar=_ARRAY, help="queries (q, d)")
    predict.add_argument(
        "--outputs",
        metavar=_ARRAY,
        help="the base model's outputs (q, C); of no use to correction and neighbors",
    )
    predict.add_argument(
        "-o",
        "--output",
        required=True,
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
        metavar=_ARRAY,
        help="these columns (t,) alone, of correct or correction",
    )
    predict.add_argument(
        "--exclude-ids", metavar=_ARRAY, help="ids not to answer with (q,) or (q, m); -1: none"
    )
    predict.add_argument("--threads", type=int, metavar="N", help="default: all that may be used")
    predict.add_argument("-k", "--k", type=int, metavar="N", help="instead of the memory's own")
    predict.add_argument("--sigma", type=_sigma, help="instead of the memory's own")
    predict.add_argument("--strength", type=float, metavar="X", help="instead of the memory's own")
    predict.add_argument("--base", metavar="TEXT", help="which base model the outputs are of")


def _info(commands: _Commands) -> None:
    _add_memory(_command(commands, "info", "say what a saved memory holds"), checked=False)


def _verify(commands: _Commands) -> None:
    _add_memory(_command(commands, "verify", "check every byte of a saved memory"), checked=False)


def _export(commands: _Commands) -> None:
    export = _command(commands, "export", "write a saved memory as .npz or .safetensors")
    _add_memory(export)
    export.add_argument("out", metavar="OUT", help="the .npz or .safetensors file to write")


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
        default=Path("resmem-demo.png"),
        metavar="FILE",
        help="the picture to write (default: %(default)s; needs matplotlib)",
    )
    demo.add_argument("--no-picture", action="store_true", help="write no picture")
    demo.add_argument("--quick", action="store_true", help=argparse.SUPPRESS)


# ---- What they share -------------------------------------------------------------------------


def _command(commands: _Commands, name: str, does: str, more: str = "") -> argparse.ArgumentParser:
    """A command, with the options that all have."""
    command = commands.add_parser(
        name, help=does, description=f"{does[0].upper()}{does[1:]}. {more}", allow_abbrev=False
    )
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.add_argument("--quiet", action="store_true", help="print nothing but errors and JSON")
    command.add_argument("--no-progress", action="store_true", help="draw no progress bar")
    return command


def _add_memory(command: argparse.ArgumentParser, checked: bool = True) -> None:
    command.add_argument("memory", metavar="M.resmem", help="a saved memory")
    if checked:
        command.add_argument(
            "--no-verify",
            action="store_true",
            help="trust the file: do not read all of it to check its blocks first",
        )


def _add_rows(command: argparse.ArgumentParser, required: bool) -> None:
    rows = command.add_argument_group("rows")
    rows.add_argument("--embeddings", required=required, metavar=_ARRAY, help="keys (n, d)")
    rows.add_argument("--outputs", metavar=_ARRAY, help="the base model's outputs (n, C)")
    rows.add_argument("--targets", required=required, metavar=_ARRAY, help="classes or values")
    rows.add_argument("--ids", metavar=_ARRAY, help="unique ids (n,); by default they are counted")


def _sigma(text: str) -> float | str:
    try:
        return text if text == "auto" else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a number or auto, got {text!r}") from error


def _picture_path(text: str) -> Path:
    """A file that a picture can be written to, checked before the work and not after it."""
    path = Path(text)
    if path.suffix.lower() not in {".png", ".pdf", ".svg"}:
        raise argparse.ArgumentTypeError(f"expected a .png, .pdf or .svg file, got {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}")
    return path
