"""What a command prints: its outcome on standard output, everything else on standard error."""

from __future__ import annotations

import json
import math
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TextIO

from resmem._base.errors import ResmemWarning
from resmem._base.units import bytes_text
from resmem._state.settings import SETTINGS

_NAMES_SHOWN = 20  # most names of columns in a line


class Outcome(NamedTuple):
    """The outcome of a command, for programs and for people."""

    facts: dict[str, Any]
    text: str


def print_outcome(outcome: Outcome, as_json: bool, quiet: bool) -> None:
    """Print the outcome on standard output: its facts as JSON, or else its text unless quiet."""
    if as_json:
        print(json.dumps(_plain(outcome.facts), allow_nan=False))
    elif outcome.text and not quiet:
        print(outcome.text)


def say(text: str) -> None:
    """Print on standard error if there is one; `print` would use standard output instead."""
    if sys.stderr is not None:
        print(text, file=sys.stderr)


def in_options(text: str) -> str:
    """Return a message of the library with arguments written as options of the command line."""

    def option(found: re.Match[str]) -> str:
        name, value = found.groups()
        return f"--{name.replace('_', '-')} {value}"

    names = (*SETTINGS, "before", "exclude_groups", "device")
    text = re.sub(rf"\b({'|'.join(names)})=['\"]([\w:]+)['\"]", option, text)
    text = re.sub(r"^device must\b", "--device must", text)
    text = re.sub(r"(tune|evaluate)\(loo=True\)", r"resmem \1 --loo", text)
    text = text.replace("loo=True", "--loo")
    text = re.sub(r"\b(times|groups)= ", r"--\1 ", text)
    text = text.replace("a numpy.timedelta64", "a span such as 30D")
    text = re.sub(
        r"fit with times=numpy\.arange\(n\), say, or set (\w+)=None",
        lambda found: f"give --times, or leave out --{found[1].replace('_', '-')}",
        text,
    )
    text = text.replace("progress=True shows", "a terminal (with tqdm) shows")
    text = text.replace(
        "load it with resmem.Index.load",
        "load it with resmem.Index.load in Python: of the commands only info and verify take one",
    )
    return re.sub(r"\bexclude_ids\b", "--exclude-ids", text)


@contextmanager
def warnings_printed() -> Iterator[None]:
    """Print each of the package's own warnings as one line on standard error, and only once."""
    printed: set[str] = set()
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(
            message: Warning | str, category: type[Warning], filename: str, lineno: int,
            file: TextIO | None = None, line: str | None = None,
        ) -> None:  # fmt: skip
            if not issubclass(category, ResmemWarning):
                usual(message, category, filename, lineno, file, line)
                return
            text = in_options(" ".join(str(message).split()))
            if text not in printed:
                printed.add(text)
                say(f"resmem: warning: {text}")

        warnings.showwarning = show
        yield


def table(facts: dict[str, Any]) -> str:
    """Return one line per fact, those of inner dicts as `outer.inner`."""
    lines = dict(_flat(facts, ""))
    width = max(map(len, lines), default=0)
    return "\n".join(f"{name:>{width}}: {value}" for name, value in lines.items())


def _flat(facts: dict[str, Any], prefix: str) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for name, value in facts.items():
        if isinstance(value, dict):
            lines += _flat(value, f"{prefix}{name}.")
        else:
            is_size = "bytes" in name and isinstance(value, int)
            text = f"{value} ({bytes_text(value)})" if is_size else str(value)
            if isinstance(value, tuple) and len(value) > _NAMES_SHOWN:
                shown = ", ".join(map(str, value[:_NAMES_SHOWN]))
                text = f"{shown} and {len(value) - _NAMES_SHOWN} more"
            lines.append((prefix + name, text))
    return lines


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it: infinity, which JSON lacks, as a string."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
