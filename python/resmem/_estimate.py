"""What a memory would take, before it is built."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from resmem import _arrays
from resmem._ingest import Spec
from resmem._rows import row_bytes
from resmem._stores import KEY_DTYPES, Dense, KeyDtype, Store, store_named

_SUGGESTED_M = 32  # entries of the sparse store that an estimate shows
_SHARE = 0.5  # of the memory available that a suggestion may take


@dataclass(frozen=True)
class Option:
    """One way to keep the rows. ``nbytes`` is both the memory and the file."""

    store: str
    residual_dtype: str
    nbytes: int
    keeps: str


@dataclass(frozen=True)
class Estimate:
    """Bytes that every store would take, and the one to start with: the first that fits."""

    n: int
    d: int
    columns: int
    key_dtype: str
    budget: int  # bytes that a memory may take
    options: tuple[Option, ...]
    suggested: Option

    def to_dict(self) -> dict[str, object]:
        """The same as plain numbers and strings."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{self.n:,} rows, d={self.d}, C={self.columns:,}, {self.key_dtype} keys; "
            f"up to {gib(self.budget)} wanted"
        ]
        for option in self.options:
            mark = "->" if option is self.suggested else "  "
            name = f"store={option.store!r}"
            if option.residual_dtype != "float32":
                name += f", residual_dtype={option.residual_dtype!r}"
            lines.append(f"{mark} {gib(option.nbytes):>10}  {name:<46} {option.keeps}")
        if self.suggested.nbytes > self.budget:
            lines.append("   none fits: keep fewer rows, or keys of half the width")
        return "\n".join(lines)


def gib(size: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def estimate(
    n: int, d: int, columns: int, task: str, key_dtype: KeyDtype, budget: int | None
) -> Estimate:
    """See ``Memory.estimate``."""
    n = _arrays.count(n, "n", 0)
    d, columns = _arrays.count(d, "d"), _arrays.count(columns, "C")
    if key_dtype not in KEY_DTYPES:
        raise ValueError(f"key_dtype must be one of {', '.join(KEY_DTYPES)}, got {key_dtype!r}")
    limit = int(_available() * _SHARE) if budget is None else _arrays.count(budget, "budget")
    sparse = f"sparse:{_SUGGESTED_M}"
    ways = [
        ("dense", "float32", "outputs and residuals; the temperature may be changed later"),
        ("dense", "float16", "the same with rounded residuals"),
    ]
    if task == "classification":
        ways += [
            (sparse, "float32", "the class and the largest probabilities, the rest spread evenly"),
            (sparse, "float16", "the same with rounded residuals"),
            ("head", "float32", "classes alone; the base model's last layer gives the rest"),
        ]
    options = []
    for name, dtype, keeps in ways:
        store: Store = (
            Dense(task) if name == "head" else store_named(name, task, "logits", dtype, None)
        )
        schema = dict(Spec(task, "", key_dtype, store).schema(d, columns))
        fixed = 0
        if name == "head":
            schema = {part: schema[part] for part in ("keys", "targets")}
            fixed = 4 * columns * (d + 1)
        options.append(Option(name, dtype, n * row_bytes(schema) + fixed, keeps))
    fits = [option for option in options if option.nbytes <= limit]
    smallest = min(options, key=lambda option: option.nbytes)
    return Estimate(n, d, columns, key_dtype, limit, tuple(options), (fits or [smallest])[0])


def _available() -> int:
    """Bytes of memory that the system can give."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 8 << 30
