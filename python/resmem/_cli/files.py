"""Which options name files that a command reads or writes, and that no file is both.

The parser marks them by their types, so that every option that is declared is looked at.
"""

from __future__ import annotations

import os
from argparse import Namespace

_POSITIONAL = {"memory": "M.resmem", "out": "OUT"}


class Source(str):
    """The text of an option that names a file to read: `FILE`, or `FILE:NAME` of an array in it."""

    __slots__ = ()


class Target(str):
    """The text of an option that names a file to write."""

    __slots__ = ()


class Changed(Source, Target):
    """The text of an option that names a file that is read and then written."""

    __slots__ = ()


def split(text: str) -> tuple[str, str | None]:
    """Path and name of what is given as `FILE` or `FILE:NAME`. A path may hold colons: the shortest
    part before one that is a file."""
    colons = [at for at, letter in enumerate(text) if letter == ":"]
    if not os.path.exists(text):
        for at in colons:
            if os.path.isfile(text[:at]):
                return text[:at], text[at + 1 :]
    return text, None


def refuse_overwriting(options: Namespace, *more: str | os.PathLike[str]) -> None:
    """ValueError if a file to write is one to read, by whatever name or link.

    ``more``: files that the command reads and no option names.
    """
    read = [(_called(name), str(text)) for name, text in vars(options).items()
            if isinstance(text, Source)]  # fmt: skip
    read += [("", os.fspath(path)) for path in more]
    for name, target in vars(options).items():
        if not isinstance(target, Target) or target == "-":
            continue
        for option, text in read:
            if option != _called(name) and _one_file(target, split(text)[0]):
                raise ValueError(
                    f"{target!r} is read by this command, as {f'{option} {text}'.strip()}; "
                    f"give {_called(name)} another file"
                )


def _one_file(path: str, other: str) -> bool:
    """Whether both lead to one file, or would if it were there."""
    if os.path.realpath(path) == os.path.realpath(other):
        return True
    return os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other)


def _called(name: str) -> str:
    """An option as it is given."""
    return _POSITIONAL.get(name, "--" + name.replace("_", "-"))
