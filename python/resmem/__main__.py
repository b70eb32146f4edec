"""The command line: `resmem`, or `python -m resmem`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from resmem._cli.parser import parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    options = parser().parse_args(arguments)
    if options.command is None:
        parser().print_help()
        return 0
    if options.command == "demo" and arguments is None:
        restrain_blas()
    try:
        with terminable():
            with signals_waiting():
                from resmem._cli.commands import run
            run(options)
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever reads has read enough
        return 128 + signal.SIGPIPE
    except Exception as error:
        if os.environ.get("RESMEM_DEBUG") == "1":
            raise
        complain(error)
        return 2
    finally:
        drop_unwritable()
    return 0


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM unwinds the stack, so that nothing half done is left behind."""

    def leave(*_: object) -> NoReturn:
        raise SystemExit(128 + signal.SIGTERM)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def signals_waiting() -> Iterator[None]:
    """SIGINT and SIGTERM come after the block. What their handlers raise inside of an import may
    be swallowed there, and leave the lock of imports held for ever."""
    came: list[int] = []
    waiting = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _: came.append(number)) for number in waiting]
    try:
        yield
    finally:
        for number, handler in zip(waiting, before, strict=True):
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)


def complain(error: Exception) -> None:
    """One line on standard error that says what was wrong."""
    from resmem._cli.report import say

    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.strerror}: {error.filename!r}"
    elif isinstance(error, KeyError) and error.args:
        text = str(error.args[0])  # str(error) has quotes around it
    else:
        text = str(error)
    if not isinstance(error, (ValueError, TypeError, OSError)) or not text:
        text = f"{type(error).__name__}: {text}"
    say("resmem: error: " + " ".join(text.split()))


def drop_unwritable() -> None:
    """Send to nowhere what standard output does not take: Python would try again at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


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
    sys.exit(main())
