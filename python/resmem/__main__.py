"""The command line: `python -m resmem`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import resmem


def picture_path(text: str) -> Path:
    """A file that a picture can be written to, checked before the work and not after it."""
    path = Path(text)
    if path.suffix.lower() not in {".png", ".pdf", ".svg"}:
        raise argparse.ArgumentTypeError(f"expected a .png, .pdf or .svg file, got {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}")
    return path


def parser() -> argparse.ArgumentParser:
    """The parser of `python -m resmem`."""
    top = argparse.ArgumentParser(
        prog="python -m resmem", description="Residual memories over any model."
    )
    top.add_argument("--version", action="version", version=f"resmem {resmem.__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="train two small models on Fashion-MNIST and correct them, in seconds",
        description="Train two small models on a part of Fashion-MNIST, give each a residual "
        "memory, and compare base model, neighbours alone and ResMem on test images.",
    )
    demo.add_argument(
        "--output",
        type=picture_path,
        default=Path("resmem-demo.png"),
        metavar="FILE",
        help="the picture to write (default: %(default)s; needs matplotlib)",
    )
    demo.add_argument("--no-picture", action="store_true", help="write no picture")
    demo.add_argument("--quick", action="store_true", help=argparse.SUPPRESS)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    options = parser().parse_args(arguments)
    if options.command is None:
        parser().print_help()
        return 0
    from resmem.demo import run

    run(picture=None if options.no_picture else options.output, quick=options.quick)
    return 0


def restrain_blas() -> None:
    """Start over with BLAS on one thread, unless the caller has set a number.

    Multiplying matrices as small as the demo's, a second thread gains next to nothing, and on a
    busy machine the two wait for each other many times longer than they compute. BLAS reads the
    setting when NumPy is loaded, so it has to be there from the start.
    """
    if "OPENBLAS_NUM_THREADS" not in os.environ:
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        os.execv(sys.executable, sys.orig_argv)


if __name__ == "__main__":
    if "demo" in sys.argv[1:]:
        restrain_blas()
    sys.exit(main())
