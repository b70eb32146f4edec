"""What a memory would take, before it is built."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from resmem import _arrays, _core
from resmem._ingest import Spec
from resmem._rates import rates
from resmem._rows import row_bytes
from resmem._stores import (
    KEY_DTYPES,
    Dense,
    KeyDtype,
    Store,
    residual_dtype_for,
    store_named,
)

_SUGGESTED_M = 32  # entries of the sparse store that an estimate shows
_DENSE_BYTES = 256 << 20  # that residuals may take of themselves where there is a smaller store
_DENSE_COLUMNS = 1000  # up to which that store is not much smaller
_SHARE = 0.5  # of the memory available that a suggestion may take, unless told


@dataclass(frozen=True)
class Option:
    """One way to keep the rows. ``nbytes`` is both the memory and the file, ``milliseconds`` what
    the correction of 1,000 queries takes."""

    store: str
    residual_dtype: str
    nbytes: int
    milliseconds: float
    keeps: str


@dataclass(frozen=True)
class Estimate:
    """Bytes and time that every store would take, and the one to start with."""

    n: int
    d: int
    columns: int
    key_dtype: str
    k: int
    threads: int  # that the times are of
    budget: int  # bytes that a memory may take
    budget_is_default: bool
    options: tuple[Option, ...]
    suggested: Option

    def to_dict(self) -> dict[str, object]:
        """The same as plain numbers and strings."""
        return asdict(self)

    def __str__(self) -> str:
        limit = in_bytes(self.budget)
        if self.budget_is_default:
            limit += " (half of the memory available)"
        if self.suggested.nbytes <= self.budget:
            hint = f"-> is the one to start with, in {limit}"
        else:
            hint = f"none fits into {limit}: keep fewer rows, or keys of half the width"
        lines = [
            f"{self.n:,} rows, d={self.d}, C={self.columns:,}, {self.key_dtype} keys; {hint}",
            f"   bytes, and time of 1,000 queries (k={self.k}, {self.threads} threads; roughly)",
        ]
        for option in self.options:
            mark = "->" if option == self.suggested else "  "
            name = f"store {option.store}"
            if option.residual_dtype == "float16":
                name += f", residual_dtype {option.residual_dtype}"
            cost = f"{in_bytes(option.nbytes):>11} {in_time(option.milliseconds):>9}"
            lines.append(f"{mark} {cost}  {name:<40} {option.keeps}")
        return "\n".join(lines)


def in_time(milliseconds: float) -> str:
    """A duration for people, with two digits."""
    if milliseconds >= 1000:
        return f"{float(f'{milliseconds / 1000:.2g}'):,g} s"
    return f"{float(f'{milliseconds:.2g}'):g} ms"


def in_bytes(count: int) -> str:
    """A number of bytes for people."""
    value, units = float(count), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1023.95 and len(units) > 1:  # which would be shown as 1024.0
        value, units = value / 1024, units[1:]
    return f"{count} bytes" if units[0] == "bytes" else f"{value:.1f} {units[0]}"


def estimate(
    n: int,
    d: int,
    columns: int,
    task: str,
    key_dtype: KeyDtype,
    budget: int | None,
    k: int = 50,
) -> Estimate:
    """See ``Memory.estimate``."""
    if task not in ("classification", "regression"):
        raise ValueError(f"task must be 'classification' or 'regression', got {task!r}")
    if key_dtype == "auto":
        key_dtype = "float32"  # as it is for nearly all embeddings
    n = _arrays.count(n, "n", 0)
    d, columns, k = _arrays.count(d, "d"), _arrays.count(columns, "C"), _arrays.count(k, "k")
    if key_dtype not in KEY_DTYPES:
        raise ValueError(f"key_dtype must be one of {', '.join(KEY_DTYPES)}, got {key_dtype!r}")
    limit = int(memory_available() * _SHARE) if budget is None else _arrays.count(budget, "budget")
    sparse = f"sparse:{_SUGGESTED_M}"
    whole = residual_dtype_for(task, None)
    ways = [
        (
            "dense",
            whole,
            "outputs and residuals; the temperature may be changed later",
        ),
        ("dense", "float16", "the same with rounded residuals"),
    ]
    if task == "classification":
        ways += [
            (sparse, "float32", "the class and the largest probabilities, the rest spread evenly"),
            (sparse, "float16", "the same with rounded residuals"),
            ("head", "float32", "classes alone; the base model's last layer gives the rest"),
        ]
    options, entries = [], min(_SUGGESTED_M, columns - 1) + 1
    for name, dtype, keeps in ways:
        store: Store = (
            Dense(task) if name == "head" else store_named(name, task, "logits", dtype, None)
        )
        schema = dict(Spec(task, "", key_dtype, store).schema(d, columns))
        fixed = 0
        if name == "head":
            schema = {part: schema[part] for part in ("keys", "targets")}
            fixed = 4 * columns * (d + 1)
        seconds = rates(d).of_query(n, d, columns, min(k, n), name.split(":")[0], entries)
        options.append(Option(name, dtype, n * row_bytes(schema) + fixed, 1e6 * seconds, keeps))
    return Estimate(
        n, d, columns, key_dtype, k, _core.default_threads(), limit, budget is None, tuple(options),
        _suggested(options, limit, columns),
    )  # fmt: skip


def _suggested(options: list[Option], limit: int, columns: int) -> Option:
    """The first that fits, residuals in full only where they are small or few; if none fits, the
    smallest."""
    fits = [option for option in options if option.nbytes <= limit]
    for option in fits:
        small = option.nbytes <= _DENSE_BYTES or columns <= _DENSE_COLUMNS
        if option.store != "dense" or small:
            return option
    return (fits or [min(options, key=lambda option: option.nbytes)])[0]


def memory_available(root: str = "/") -> int:
    """Bytes of memory that the system can give and the process's control group may take."""
    found = _group_limits(root)
    with suppress(OSError), open(os.path.join(root, "proc/meminfo"), encoding="ascii") as file:
        found += [int(x.split()[1]) * 1024 for x in file if x.startswith("MemAvailable:")]
    return min(found, default=8 << 30)


def _group_limits(root: str) -> list[int]:
    """Of the control groups (v2 and v1) that the process is in, and of those around them."""
    found = []
    with suppress(OSError), open(os.path.join(root, "proc/self/cgroup"), "rb") as file:
        for line in map(os.fsdecode, file):
            _, controllers, group = line.rstrip("\n").split(":", 2)
            if controllers == "":
                folder, name = "", "memory.max"
            elif "memory" in controllers.split(","):
                folder, name = "memory", "memory.limit_in_bytes"
            else:
                continue
            inside = PurePosixPath(group.lstrip("/"))
            for each in (inside, *inside.parents):
                with suppress(OSError, ValueError):  # no such file; "max"
                    path = Path(root, "sys/fs/cgroup", folder, each, name)
                    found.append(int(path.read_text()))
    return found
