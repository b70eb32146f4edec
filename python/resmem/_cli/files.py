"""The check that a command does not overwrite a file that it reads.

The parser marks options that name files by their types, so that no option is forgotten.
"""

from __future__ import annotations

import os
from argparse import Namespace

_POSITIONAL = {"memory": "M.resmem", "out": "OUT", "others": "OTHER.resmem"}


class Source(str):
    """The text of an option that names a file to read: `FILE`, or `FILE:NAME` of an array in it."""

    __slots__ = ()


class Target(str):
    """The text of an option that names a file to write."""

    __slots__ = ()


class Changed(Source, Target):
    """The text of an option that names a file that is read, and then written again."""

    __slots__ = ()


def split(text: str) -> tuple[str, str | None]:
    """Return path and name from `FILE` or `FILE:NAME`; the name may be None.

    A path may contain colons: it is the shortest part before a colon that is a file.
    """
    colons = [at for at, letter in enumerate(text) if letter == ":"]
    if not os.path.exists(text):
        for at in colons:
            if os.path.isfile(text[:at]):
                return text[:at], text[at + 1 :]
    return text, None


def refuse_overwriting(options: Namespace, *more: str | os.PathLike[str]) -> None:
    """Raise ValueError if a file to write is also one to read, under any name or link.

    ``more``: files that the command reads although no option names them.
    """
    read = [(_as_written(name), str(text)) for name, value in vars(options).items()
            for text in (value if isinstance(value, list) else [value])
            if isinstance(text, Source)]  # fmt: skip
    read += [("", os.fspath(path)) for path in more]
    for name, target in vars(options).items():
        if not isinstance(target, Target) or target == "-":
            continue
        for option, text in read:
            if option != _as_written(name) and _one_file(target, split(text)[0]):
                raise ValueError(
                    f"{target!r} is read by this command, as {f'{option} {text}'.strip()}; "
                    f"give {_as_written(name)} another file"
                )


def _one_file(path: str, other: str) -> bool:
    """Whether both paths lead to one file, which need not exist yet."""
    if os.path.realpath(path) == os.path.realpath(other):
        return True
    return os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other)


def _as_written(name: str) -> str:
    """Return an option's name as it is written on the command line."""
    return _POSITIONAL.get(name, "--" + name.replace("_", "-"))
