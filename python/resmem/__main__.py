"""The command line: `resmem`, or `python -m resmem`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from resmem._base.platform import BROKEN_PIPE_STATUS, restart
from resmem._cli.parser import parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
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
    except BrokenPipeError:  # the reader of the output has closed it
        return BROKEN_PIPE_STATUS
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
    """Make SIGTERM unwind the stack within the block, so that no half-written file stays."""

    def leave(*_: object) -> NoReturn:
        raise SystemExit(128 + signal.SIGTERM)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def signals_waiting() -> Iterator[None]:
    """Deliver SIGINT and SIGTERM only after the block, which imports modules.

    An exception of their handlers during an import may be swallowed there, or leave the import
    lock held for ever.
    """
    received: list[int] = []
    delayed = (signal.SIGINT, signal.SIGTERM)
    before = [
        signal.signal(number, lambda number, _: received.append(number)) for number in delayed
    ]
    try:
        yield
    finally:
        for number, handler in zip(delayed, before, strict=True):
            signal.signal(number, handler)
        for late in received:
            signal.raise_signal(late)


def complain(error: Exception) -> None:
    """Print one line on standard error that says what was wrong."""
    from resmem._base.errors import DeviceError
    from resmem._cli.printing import say

    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.strerror}: {error.filename!r}"
    elif isinstance(error, KeyError) and error.args:
        text = str(error.args[0])  # str(error) would put quotes around the text
    else:
        text = str(error)
    expected = (ValueError, TypeError, OSError, DeviceError)
    if not isinstance(error, expected) or not text:
        text = f"{type(error).__name__}: {text}"
    say("resmem: error: " + " ".join(text.split()))


def drop_unwritable() -> None:
    """Discard output that standard output does not take: Python would try to write it at exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())


def restrain_blas() -> None:
    """Restart the process with BLAS on one thread, unless the caller has set a number of threads.

    For matrices as small as the demo's, a second thread gains next to nothing, and on a busy
    machine the two wait for each other many times longer than they compute. BLAS reads the setting
    when NumPy is loaded, so it must be set before the process starts.
    """
    if "OPENBLAS_NUM_THREADS" not in os.environ:
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        restart()


if __name__ == "__main__":
    sys.exit(main())
