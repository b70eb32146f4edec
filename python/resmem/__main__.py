"""The command line: `python -m resmem`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import resmem


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
        type=Path,
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


if __name__ == "__main__":
    sys.exit(main())
