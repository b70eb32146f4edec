"""The bytes and the time that a memory would take, before it is built."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

import resmem._core as _core
from resmem._base import checks
from resmem._base.platform import memory_available
from resmem._base.units import bytes_text, duration_text
from resmem._keys.stored import KEY_DTYPES, KeyDtype
from resmem._rows.rates import rates
from resmem._rows.segment import row_bytes
from resmem._rows.spec import key_and_target_schema
from resmem._rows.stores.named import (
    residual_dtype_for,
    shared_schema,
    unshared_schema,
)

_SUGGESTED_M = 32  # entries of the sparse store that an estimate shows
_DENSE_BYTES = 256 << 20  # bytes up to which a dense store is suggested, whatever its columns
_DENSE_COLUMNS = 1000  # columns up to which other stores are not much smaller than a dense one
_DEFAULT_BUDGET = 0.5  # part of the available memory that a suggestion may take by default


@dataclass(frozen=True)
class Option:
    """One way to store the rows.

    ``nbytes`` is the size in memory and in a file; ``milliseconds`` is the time to correct 1,000
    queries.
    """

    store: str
    residual_dtype: str
    nbytes: int
    milliseconds: float
    keeps: str


@dataclass(frozen=True)
class Estimate:
    """The bytes and the time that every store would take, and the store to start with."""

    n: int
    d: int
    columns: int
    key_dtype: str
    k: int
    threads: int  # that the times are for
    budget: int  # bytes that a memory may take
    budget_is_default: bool
    options: tuple[Option, ...]
    suggested: Option

    def to_dict(self) -> dict[str, object]:
        """Return the estimate as plain numbers and strings."""
        return asdict(self)

    def __str__(self) -> str:
        limit = bytes_text(self.budget)
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
            cost = f"{bytes_text(option.nbytes):>11} {duration_text(option.milliseconds):>9}"
            lines.append(f"{mark} {cost}  {name:<40} {option.keeps}")
        return "\n".join(lines)


def estimate(
    n: int,
    d: int,
    columns: int,
    task: str,
    key_dtype: KeyDtype,
    budget: int | None,
    k: int = 50,
) -> Estimate:
    """Return the estimate that ``Memory.estimate`` describes."""
    if task not in ("classification", "regression"):
        raise ValueError(f"task must be 'classification' or 'regression', got {task!r}")
    if key_dtype == "auto":
        key_dtype = "float32"  # what "auto" becomes for nearly all embeddings
    n = checks.count(n, "n", 0)
    d, columns, k = checks.count(d, "d"), checks.count(columns, "C"), checks.count(k, "k")
    if key_dtype not in KEY_DTYPES:
        raise ValueError(f"key_dtype must be one of {', '.join(KEY_DTYPES)}, got {key_dtype!r}")
    limit = (
        int(memory_available() * _DEFAULT_BUDGET)
        if budget is None
        else checks.count(budget, "budget")
    )
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
        kept = unshared_schema(name, task, dtype, columns)
        schema = {**key_and_target_schema(task, key_dtype, d, columns), **kept}
        shared = shared_schema(name, columns, d).values()
        fixed = sum(np.dtype(kind).itemsize * math.prod(shape) for kind, shape in shared)
        seconds = rates(d).seconds_per_query(n, d, columns, min(k, n), name.split(":")[0], entries)
        options.append(Option(name, dtype, n * row_bytes(schema) + fixed, 1e6 * seconds, keeps))
    return Estimate(
        n, d, columns, key_dtype, k, _core.default_threads(), limit, budget is None, tuple(options),
        _suggested(options, limit, columns),
    )  # fmt: skip


def _suggested(options: list[Option], limit: int, columns: int) -> Option:
    """Return the first option that fits, or the smallest if none does.

    Dense ones count only if they are small or have few columns.
    """
    fits = [option for option in options if option.nbytes <= limit]
    for option in fits:
        small = option.nbytes <= _DENSE_BYTES or columns <= _DENSE_COLUMNS
        if option.store != "dense" or small:
            return option
    return (fits or [min(options, key=lambda option: option.nbytes)])[0]
