"""Writes the cases that ``contract_check`` runs: inputs and the oracle's bits.

    python tests/core_cases.py OUT

The file is little-endian, without padding. ``u64``, ``i64`` and ``f64`` are single values; ``T[n]``
is the count as u64, then n elements; ``str`` is u8[n]; ``num[n]`` is u64 type, then f32[n] (type
0) or u16[n] (1 float16, 2 bfloat16). Shapes are those of ``engine/search.h``,
``residuals/residual_store.h``, ``residuals/aggregate.h`` and ``residuals/sweep.h``, row-major.

    magic    8 bytes "RESMEM04"
    u64      number of records
    records  u64 kind, str name, then by kind:

    1 search     u64 metric (0 euclidean, 1 sqeuclidean, 2 cosine, 3 inner_product), u64 q, d, k
                 f32[q*d] queries
                 u64 segments, each: u64 n, i64 first_id, num[n*d] keys,
                     i64[n or 0] ids (none: first_id, first_id + 1, ..), i64[n or 0] died
                 i64 version, u64 exclude_width, i64[q*exclude_width] exclude
                 f64[q*k] values, i64[q*k] ids wanted
    2 exp        f64[n] x, f64[n] wanted
    3 softmax    u64 n, columns, f64 temperature, f32[n*columns] logits, f64[n*columns] wanted
    4 residuals  u64 n, columns, f64 temperature (0: probabilities), f32[n*columns] outputs,
                 i64[n] labels, num[n*columns] wanted
    5 simplex    u64 n, columns, kind (0 clip, 1 project, 2 keep), f64 floor, strength,
                 f64[n*columns] values, f64[n*columns or 0] base (0: not known),
                 f64[n*columns] wanted
    6 weights    u64 q, k, f64 sigma, f64[q*k] distances, i64[q*k] positions, own weights,
                 f64[q*k] wanted, f64[q] their sums
                 own weights: u64 segments (0: each row weighs 1), each: u64 n, f64[n or 0]
    7 aggregate  u64 q, k, columns, f64 sigma, strength, u64 store
                 store 2: u64 d, f64 temperature, f32[columns*d] weight, f32[columns] bias
                 u64 segments, each: u64 n,
                     store 0 (dense): num[n*columns] residuals
                     store 1 (sparse): u64 width, i32[n*width] index, num[n*width] value,
                         f32[n] rest
                     store 2 (head): num[n*d] keys, i64[n] labels
                     store 3 (labels): i64[n] labels
                 f64[q*k] distances, i64[q*k] positions
                 u64 selected, i64[q*selected] select (0: every column; width is columns)
                 f64[q*width or 0] base outputs to correct, f64[q or 0] strengths of the queries,
                 u64 interpolate (0 or 1), own weights, f64[q*width] wanted
    8 sparse     u64 n, columns, others, f64 temperature, f32[n*columns] outputs, i64[n] labels,
                 i32[n*(others+1)] index, num[n*(others+1)] value, f32[n] rest, f64 error wanted
    9 logits     u64 n, columns, d, num[n*d] keys, f32[columns*d] weight, f32[columns] bias,
                 f32[n*columns] wanted
    10 numbers   u64 type, u16[n] halves, f32[n] widened, f32[m] x, u16[m] narrowed
    11 log       f64[n] x, f64[n] wanted
    12 sweep     u64 q, k, n, columns, f32[n*columns or 0] residuals, i64[n or 0] labels of rows,
                 f64[n or 0] weights of rows, f64[q*k] distances, i64[q*k] positions,
                 f64[q*columns] base (for classes also f64[0]: not known),
                 i64[q] labels and f64[0], or i64[0] and f64[q*columns] values,
                 i64[] ks, f64[] sigmas, f64[] strengths, i64[maps] kind, f64[maps] floor,
                 i64[] bounds, u64 bins, interpolate (0 or 1): the scalar kernels' result is wanted
    13 wide      u64 metric, u64 q, d, k, f64[q*d] queries, u64 n, f64[n*d] rows of one segment,
       search    f64[q*k] values, i64[q*k] ids wanted
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import oracle

Array = npt.NDArray[Any]
Maker = Callable[[np.random.Generator, int, int], Array]

METRICS = ("euclidean", "sqeuclidean", "cosine", "inner_product")
TYPES = ("float32", "float16", "bfloat16")
KINDS: tuple[oracle.MapKind, ...] = ("clip", "project", "keep")
LARGEST = {"float32": 3.4028234663852886e38, "float16": 65504.0, "bfloat16": 3.3895313892515355e38}
# Around the tiles (2 to 12 rows, 8 to 32 queries), the depth step (4) and vectors of 4 to 16.
ROWS = (0, 1, 2, 3, 5, 7, 11, 12, 13, 16, 17, 23, 24, 25, 31, 48, 49, 97, 131, 257)
DEPTHS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 15, 16, 17, 31, 32, 33, 64, 65, 127)
QUERIES = (0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65)
COUNTS = (1, 2, 3, 5, 8, 13, 40)
COLUMNS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 257)


def _one_ulp(rng: np.random.Generator, n: int, d: int) -> Array:
    base = np.tile(rng.standard_normal(d).astype(np.float32), (n, 1))
    steps = rng.integers(-1, 2, (n, d))
    up, down = np.nextafter(base, np.float32(np.inf)), np.nextafter(base, np.float32(-np.inf))
    return np.where(steps == 1, up, np.where(steps == -1, down, base))


def _scaled(offset: float, factor: float) -> Maker:
    return lambda rng, n, d: rng.standard_normal((n, d)) * factor + offset


FAMILIES: dict[str, Maker] = {
    "gaussian": _scaled(0, 1),
    "integers": lambda rng, n, d: rng.integers(-2, 3, (n, d)),
    "equal": lambda rng, n, d: np.full((n, d), 1.5),
    "zeros": lambda rng, n, d: np.zeros((n, d)),
    "signed zeros": lambda rng, n, d: rng.choice([0.0, -0.0, 1.0], (n, d)),
    "one hot": lambda rng, n, d: np.eye(d)[rng.integers(0, d, n)],
    "duplicates": lambda rng, n, d: rng.standard_normal((3, d))[rng.integers(0, 3, n)],
    "offset 1e3": _scaled(1e3, 1),
    "offset 1e4": _scaled(-1e4, 1),
    "offset 1e5": _scaled(1e5, 1),
    "offset 1e6": _scaled(1e6, 1),
    "1e-30": _scaled(0, 1e-30),
    "1e-12": _scaled(0, 1e-12),
    "1e12": _scaled(0, 1e12),
    "1e30": _scaled(0, 1e30),
    "subnormal": lambda rng, n, d: rng.integers(-9, 10, (n, d)) * 1e-45,
    "largest": lambda rng, n, d: rng.choice([-3.4e38, 3.4e38, 3.3e38], (n, d)),
    "mixed norms": lambda rng, n, d: (
        rng.standard_normal((n, d)) * 10.0 ** rng.integers(-30, 31, (n, 1))
    ),
    "mixed dimensions": lambda rng, n, d: (
        rng.standard_normal((n, d)) * 10.0 ** rng.integers(-20, 21, (1, d))
    ),
    "far clusters": lambda rng, n, d: (
        rng.standard_normal((n, d)) + 1e5 * rng.integers(-2, 3, (n, 1))
    ),
    "farther clusters": lambda rng, n, d: (
        rng.standard_normal((n, d)) * 1e-3 + 1e15 * rng.integers(0, 2, (n, 1))
    ),
    "one ulp": _one_ulp,
}


class Writer:
    """Gathers records and writes them after their number."""

    def __init__(self) -> None:
        self.records: list[bytes] = []

    def add(self, kind: int, name: str, *fields: object) -> None:
        parts = [struct.pack("<Q", kind), _field(np.frombuffer(name.encode(), np.uint8))]
        parts += [_field(field) for field in fields]
        self.records.append(b"".join(parts))

    def write(self, path: Path) -> None:
        head = b"RESMEM04" + struct.pack("<Q", len(self.records))
        path.write_bytes(head + b"".join(self.records))


def _field(value: object) -> bytes:
    """Return the bytes of a field: an int as 8 bytes (u64 and i64 alike), a float as f64, an array
    as count and elements, a list (as from `stored`) one after the other."""
    if isinstance(value, list):
        return b"".join(map(_field, value))
    if isinstance(value, np.ndarray):
        little = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        return struct.pack("<Q", value.size) + little.tobytes()
    if isinstance(value, float):
        return struct.pack("<d", value)
    assert isinstance(value, int)
    return struct.pack("<q", value)


def stored(values: Array, kind: str) -> tuple[list[object], Array]:
    """Return the fields of num[n] for values cut to the range of the type, and their values."""
    largest = np.float32(LARGEST[kind])
    wide = oracle.round_keys(np.clip(values, -largest, largest), kind)  # type: ignore[arg-type]
    if kind == "float32":
        return [0, wide], wide
    if kind == "float16":
        return [1, wide.astype(np.float16).view(np.uint16)], wide
    return [2, (wide.view(np.uint32) >> 16).astype(np.uint16)], wide


def numbers_of(array: Array) -> list[object]:
    """Return the fields of num[n] for an array of float32 or float16."""
    return [0, array] if array.dtype == np.float32 else [1, array.view(np.uint16)]


# ---- Search -------------------------------------------------------------------------------


def make(rng: np.random.Generator, family: str, n: int, q: int, d: int) -> tuple[Array, Array]:
    """Return queries and rows of one family; every third query is a row."""
    both = FAMILIES[family](rng, n + q, d).astype(np.float32)
    queries, rows = both[:q].copy(), both[q:].copy()
    if n and q:
        queries[::3] = rows[rng.integers(0, n, len(queries[::3]))]
    return queries, rows


def add_search(
    out: Writer,
    rng: np.random.Generator,
    family: str,
    shape: tuple[int, int, int, int],
    metric: str,
    sizes: Sequence[int] | None = None,
    id_style: str = "implied",
    live: float = 1.0,
    width: int = 0,
    kinds: Sequence[str] = ("float32",),
) -> None:
    """Write one case of ``n, q, d, k``: rows split in ``sizes``, a share alive, ids excluded."""
    version = 3
    n, q, d, k = shape
    queries, rows = make(rng, family, n, q, d)
    sizes = [n] if sizes is None else sizes
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    explicit = rng.permutation(n).astype(np.int64) * 7
    if n:
        explicit[explicit.argmax()] = 2**63 - 1
    ids = np.arange(n, dtype=np.int64)
    alive = rng.random(n) < live
    fields: list[object] = []
    for number, size in enumerate(sizes):
        part = slice(starts[number], starts[number + 1])
        given = id_style == "explicit" or (id_style == "mixed" and number % 2 == 0)
        first = 0
        if given:
            ids[part] = explicit[part]
        elif id_style != "implied":  # later segments have the smaller ids
            first = 10**12 - 10**9 * number
            ids[part] = first + np.arange(size)
        else:
            first = int(starts[number])
        keys, rows[part] = stored(rows[part], kinds[number % len(kinds)])
        died = np.where(alive[part], rng.choice([0, version + 1], size), version)
        fields += [size, first, keys]
        fields += [ids[part] if given else ids[:0], died if live < 1 else died[:0]]
    exclude = rng.choice(np.append(ids, -1), (q, width)).astype(np.int64)
    values, found = oracle.search(
        queries, rows, k, metric, ids=ids, exclude_ids=exclude if width else None, alive=alive
    )
    name = f"{metric}, {family}, n={n} q={q} d={d} k={k}, {len(sizes)} segments, {id_style} ids"
    name += f", {live:.1f} alive, {width} excluded, {' '.join(kinds)}"
    code = METRICS.index(metric)
    out.add(
        1, name, code, q, d, k, queries, len(sizes), *fields, version, width, exclude, values, found
    )  # fmt: skip


def wide_searches(out: Writer) -> None:
    """Write searches of float64 queries and rows, as the formulas take them."""
    makers: dict[str, Maker] = {
        "times": lambda rng, n, d: 1.7e9 + rng.integers(0, 50, (n, d)),
        "far clusters": lambda rng, n, d: (
            1e-3 * rng.standard_normal((n, d)) + 1e6 * rng.integers(-2, 3, (n, 1))
        ),
        "mixed": lambda rng, n, d: (
            rng.standard_normal((n, d)) * 10.0 ** rng.integers(-90, 91, (n, 1))
        ),
        "tiny": lambda rng, n, d: rng.standard_normal((n, d)) * 1e-200,
    }
    for number, (family, maker) in enumerate(makers.items()):
        for code, metric in enumerate(METRICS):
            for n, q, d, k in ((0, 2, 3, 2), (1, 1, 1, 3), (700, 21, 3, 7), (400, 9, 19, 30)):
                both = maker(np.random.default_rng([4, number, code, n]), n + q, d)
                queries, rows = (oracle.as_float64(x, metric) for x in (both[:q], both[q:]))
                values, ids = oracle.search(queries, rows, k, metric, wide=True)
                name = f"float64, {metric}, {family}, n={n} q={q} d={d} k={k}"
                out.add(13, name, code, q, d, k, queries, n, rows, values, ids)


def random_searches(out: Writer, count: int) -> None:
    """Write searches of random shapes and layouts, every family and metric in turn."""
    families = tuple(FAMILIES)
    for number in range(count):
        rng = np.random.default_rng([1, number])
        n, q, d = (int(rng.choice(choices)) for choices in (ROWS, QUERIES, DEPTHS))
        k = int(rng.choice([*COUNTS, max(1, n - 1), max(1, n), n + 1]))
        sizes = [n]
        if number % 2:
            cuts = np.sort(rng.integers(0, n + 1, int(rng.integers(1, 6))))
            sizes = [int(size) for size in np.diff(np.concatenate([[0], cuts, [n]]))]
        id_style = ("implied", "explicit", "mixed", "descending")[int(rng.integers(4))]
        live = float(rng.choice([1.0, 0.7, 0.1, 0.0], p=[0.5, 0.3, 0.15, 0.05]))
        width = int(rng.choice([0, 1, 3, 16, 17, 40], p=[0.5, 0.1, 0.1, 0.1, 0.1, 0.1]))
        metric = METRICS[(number // len(families)) % 4]
        shape = (n, q, d, k)
        family = families[number % len(families)]
        kinds = (("float32",), ("float16",), ("bfloat16",), TYPES)[number % 7 % 4]
        add_search(out, rng, family, shape, metric, sizes, id_style, live, width, kinds)


def chosen_searches(out: Writer) -> None:
    """Write searches of every family beyond the default buffers, and where paths change."""
    for number, family in enumerate(FAMILIES):
        for code, metric in enumerate(METRICS):
            rng = np.random.default_rng([2, number, code])
            kinds = TYPES[(number + code) % 3 :]
            add_search(out, rng, family, (601, 13, 18, 9), metric, kinds=kinds[:1])
    rng = np.random.default_rng(3)
    for metric in METRICS:
        add_search(
            out, rng, "gaussian", (0, 3, 4, 2), metric, sizes=[]
        )  # a search without segments
        add_search(out, rng, "gaussian", (0, 3, 4, 2), metric, sizes=[0, 0])
        add_search(out, rng, "gaussian", (40, 5, 3, 0), metric)  # k = 0
        add_search(out, rng, "gaussian", (90, 4, 2060, 5), metric)  # past the default depth block
        add_search(out, rng, "gaussian", (1031, 33, 9, 5), metric, [512, 0, 519], "mixed", 0.6, 3)
        add_search(out, rng, "duplicates", (900, 5, 3, 40), metric, [400, 500], kinds=TYPES[1:])
        add_search(out, rng, "integers", (1031, 140, 5, 70), metric, [1, 1029, 1], "explicit")
    for d in (2**19, 2**19 + 1):  # the last depth that bounds hold at, and the next
        add_search(out, rng, "gaussian", (3, 1, d, 1), "sqeuclidean")


# ---- Numbers ------------------------------------------------------------------------------


def add_exp(out: Writer, rng: np.random.Generator) -> None:
    edges = [0.0, -0.0, -np.inf, np.inf, -746.0, -745.2, -745.13, -708.4, -1e-300, 709.78, 710.0]
    edges += [1e-17, -1e308, 1e308, 0.5 * np.log(2), -0.5 * np.log(2), 5e-324]
    many = np.concatenate([edges, -rng.exponential(20, 2000), rng.uniform(-747, 711, 2000)])
    for x in [many, *(rng.uniform(-40, 4, n) for n in range(40))]:
        out.add(2, f"exp, n={x.size}", x, oracle.cexp(x))


def add_log(out: Writer, rng: np.random.Generator) -> None:
    powers = 2.0 ** np.arange(-1022.0, 1024)
    borders = np.sqrt(0.5) * powers[1:]  # where the exponent changes
    edges = np.concatenate([powers, borders, [np.finfo(np.float64).max]])
    near = np.concatenate([np.nextafter(edges[1:-1], 0), np.nextafter(edges[:-1], np.inf)])
    spread = np.exp(rng.uniform(-708, 709, 2000))
    many = np.concatenate([edges, near, spread, rng.uniform(0.4, 2.1, 2000)])
    for x in [many, *(np.exp(rng.uniform(-14, 0, n)) for n in range(40))]:
        out.add(11, f"log, n={x.size}", x, oracle.clog(x))


def add_softmax(out: Writer, rng: np.random.Generator, n: int, columns: int) -> None:
    logits = (rng.standard_normal((n, columns)) * 8).astype(np.float32)
    if columns > 2 and n > 3:
        logits[2, 1:] = -np.inf
        logits[3, ::2] = 3e38
    labels = rng.integers(0, columns, n)
    for temperature in (1.0, 0.31, 1e3):
        what = f"n={n} columns={columns} temperature={temperature}"
        wanted = oracle.softmax(logits, temperature) if n else np.zeros((0, columns))
        out.add(3, f"softmax, {what}", n, columns, temperature, logits, wanted)
        wanted = oracle.residuals("classification", "logits", logits, labels, temperature)
        out.add(4, f"residuals, {what}", n, columns, temperature, logits, labels, [0, wanted])
        half = wanted.astype(np.float16).view(np.uint16)
        out.add(4, f"float16, {what}", n, columns, temperature, logits, labels, [1, half])
        add_sparse(out, f"sparse, {what}", logits, labels, temperature)
    p = oracle.softmax(logits).astype(np.float32)
    wanted = oracle.residuals("classification", "probabilities", p, labels)
    what = f"residuals of probabilities, n={n} columns={columns}"
    out.add(4, what, n, columns, 0.0, p, labels, [0, wanted])
    add_sparse(out, f"sparse {what}", p, labels, 0.0)


def add_sparse(out: Writer, name: str, outputs: Array, labels: Array, temperature: float) -> None:
    n, columns = outputs.shape
    base = oracle.widen(outputs)
    if temperature:
        base = oracle.softmax(outputs, temperature) if n else np.zeros((0, columns))
    for m, half in ((1, False), (8, True), (40, False)):
        index, value, rest, error = oracle.sparse_residuals(base, labels, m, half)
        out.add(
            8, f"{name} m={m}", n, columns, min(m, columns - 1), temperature, outputs, labels,
            index, numbers_of(value), rest, error,
        )  # fmt: skip


def add_simplex(out: Writer, rng: np.random.Generator, n: int, columns: int) -> None:
    values = rng.standard_normal((n, columns)) * 10.0 ** rng.integers(-9, 3, (n, 1))
    if n > 2:
        values[1], values[2, 0] = -1.0, -0.0  # all clipped
    base = oracle.softmax(rng.standard_normal((n, columns))) if n else np.zeros((0, columns))
    base[:, 1:][rng.random((n, columns - 1)) < 0.3] = 0.0  # impossible, but for some neighbours
    if n > 4:
        values[3] = base[3]  # nothing is corrected
    for kind, floor in ((0, 1e-6), (0, 0.25), (1, 1e-6), (1, 0.0), (1, 0.25), (2, 0.1)):
        for strength, of in ((1.0, base), (-1.0, base), (1.0, None)):
            if of is None and kind == 2:
                continue
            wanted = oracle.simplex(values, floor, KINDS[kind], of, strength)
            known = "known" if of is not None else "unknown"
            what = f"simplex, n={n} columns={columns} {KINDS[kind]}:{floor} {strength} {known}"
            given = np.zeros(0) if of is None else of
            out.add(5, what, n, columns, kind, floor, strength, values, given, wanted)


def add_sweep(out: Writer, rng: np.random.Generator, q: int, columns: int, scales: int) -> None:
    """Write sweeps of classes and of values; of four queries one has few neighbours, one none."""
    n, k = 30, 9
    residuals = rng.uniform(-1, 1, (n, columns)).astype(np.float32)
    distances, positions = np.sort(rng.random((q, k)), axis=1), rng.integers(0, n, (q, k))
    distances[1::4, 3:], positions[1::4, 3:] = np.inf, -1
    distances[2::4], positions[2::4] = np.inf, -1
    base = oracle.softmax(rng.standard_normal((q, columns))) if q else np.zeros((0, columns))
    base[::3, 1::2] = 0.0  # impossible, but for some neighbours
    sigmas = np.append(rng.uniform(0.05, 2, scales - 1), np.inf)
    maps = np.array([0, 1, 1, 0, 2]), np.array([1e-6, 1e-6, 0.0, 0.02, 0.1])
    settings = [np.array([1, 2, 9]), sigmas, np.array([1.0, -2.0, 0.0, 50.0])]
    bounds, nothing = np.array([0, 0, q // 3, q]), np.zeros(0)
    where, no_labels = [distances, positions], np.zeros(0, np.int64)
    row_weights = rng.random(n) if q % 2 else np.zeros(0)
    given = [residuals, no_labels, row_weights, *where, base]
    what = f"q={q} columns={columns} scales={scales}"
    labels, values = rng.integers(0, columns, q), rng.standard_normal((q, columns))
    out.add(
        12, f"sweep of classes, {what}", q, k, n, columns, *given, labels, nothing,
        *settings, *maps, bounds, 7, 0,
    )  # fmt: skip
    out.add(
        12, f"sweep of neighbours alone, {what}", q, k, n, columns, *given[:5], nothing, labels,
        nothing, *settings, maps[0][:4], maps[1][:4], bounds, 7, 0,
    )  # fmt: skip
    shares, of_rows = np.array([0.0, 0.3, 1.0]), rng.integers(0, columns, n)
    no_residuals = np.zeros(0, np.float32)
    out.add(
        12, f"sweep of mixtures, {what}", q, k, n, columns, no_residuals, of_rows, row_weights,
        *where, base, labels, nothing, *settings[:2], shares, maps[0][:1], maps[1][:1], bounds,
        7, 1,
    )  # fmt: skip
    out.add(
        12, f"sweep of values, {what}", q, k, n, columns, *given, nothing, values,
        *settings, maps[0][:1], maps[1][:1], bounds, 0, 0,
    )  # fmt: skip
    out.add(
        12, f"sweep of mixtures with values, {what}", q, k, n, columns, *given, nothing, values,
        *settings[:2], shares, maps[0][:1], maps[1][:1], bounds, 0, 1,
    )  # fmt: skip


Store = tuple[str, list[object], Callable[[slice], list[object]], Array]


def dense_store(rng: np.random.Generator, n: int, columns: int, half: bool, where: Any) -> Store:
    """Return name, fields before the segments, a function of rows and the oracle's correction."""
    residuals = rng.standard_normal((n, columns)).astype(np.float32)
    residuals[:5] *= np.float32(1e-30)
    if half:
        residuals = residuals.astype(np.float16)
    wanted = oracle.correction(*where[:2], residuals, *where[2:])
    return f"{residuals.dtype}", [0], lambda rows: numbers_of(residuals[rows]), wanted


def sparse_store(rng: np.random.Generator, n: int, columns: int, half: bool, where: Any) -> Store:
    base = oracle.softmax(rng.standard_normal((n, columns)))
    labels = rng.integers(0, columns, n)
    index, value, rest, _ = oracle.sparse_residuals(base, labels, 5, half)
    wanted = oracle.sparse_correction(*where[:2], index, value, rest, columns, *where[2:])

    def fields(rows: slice) -> list[object]:
        return [index.shape[1], index[rows], numbers_of(value[rows]), rest[rows]]

    return f"sparse {value.dtype}", [1], fields, wanted


def head_store(rng: np.random.Generator, n: int, columns: int, kind: str, where: Any) -> Store:
    d, temperature, labels = 11, 0.8, rng.integers(0, columns, n)
    keys = rng.standard_normal((n, d)).astype(np.float32)
    weight = rng.standard_normal((columns, d)).astype(np.float32)
    bias = rng.standard_normal(columns).astype(np.float32)
    logits = oracle.head_logits(stored(keys, kind)[1], weight, bias)
    residuals = oracle.residuals("classification", "logits", logits, labels, temperature)
    wanted = oracle.correction(*where[:2], residuals, *where[2:])

    def fields(rows: slice) -> list[object]:
        return [stored(keys[rows], kind)[0], labels[rows]]

    return f"head {kind}", [2, d, temperature, weight, bias], fields, wanted


def label_store(rng: np.random.Generator, n: int, columns: int, kind: str, where: Any) -> Store:
    labels = rng.integers(0, columns, n)
    summed = oracle.targets("classification", labels, columns)
    wanted = oracle.correction(*where[:2], summed, *where[2:])
    return "labels", [3], lambda rows: [labels[rows]], wanted


def own_weights(weights: Array | None, sizes: list[int]) -> list[object]:
    """Return the fields of rows' own weights; segments in which all are 1 leave them out."""
    if weights is None:
        return [0]
    parts = np.split(weights, np.cumsum(sizes)[:-1])
    return [len(sizes), *([len(w), w if (w != 1).any() else w[:0]] for w in parts)]


def add_aggregate(out: Writer, rng: np.random.Generator, q: int, k: int, columns: int) -> None:
    n = 60
    distances = np.sort(rng.random((q, k)), axis=1) * 10.0 ** rng.integers(-5, 6, (q, 1))
    positions = rng.integers(0, n, (q, k))
    if k and q > 3:
        distances[1] = distances[1, 0]  # ties
        distances[2, k // 2 :], positions[2, k // 2 :] = np.inf, -1  # padding
        distances[3], positions[3] = np.inf, -1
    layouts = ([n], [7, 0, n - 7], [1] * n)
    row_weights = np.where(rng.random(n) < 0.5, rng.random(n), 10.0 ** rng.integers(-100, 101, n))
    row_weights[:7] = 1.0
    makers: list[tuple[Callable[..., Store], object]] = [
        (dense_store, False), (dense_store, True), (sparse_store, False), (sparse_store, True),
        *((head_store, kind) for kind in TYPES), (label_store, ""),
    ]  # fmt: skip
    for number, sigma in enumerate((0.1, 3.0, np.inf, 1e-300)):
        what = f"q={q} k={k} columns={columns} sigma={sigma}"
        for own in (None, row_weights):
            weights, sums = oracle.weights(
                distances, sigma, None if own is None else np.append(own, 1.0)[positions]
            )
            out.add(
                6, f"weights, {what}", q, k, float(sigma), distances, positions,
                own_weights(own, [n]), weights, sums,
            )  # fmt: skip
        for turn, (maker, kind) in enumerate(makers):
            if turn and (number + turn + k) % 4:
                continue  # every kind with every shape, but not with every sigma
            own = row_weights if (number + 2 * turn + k) % 3 == 0 else None
            name, front, fields, wanted = maker(
                rng, n, columns, kind, (distances, positions, sigma, own)
            )
            selected = (0, 3)[(number + turn) % 2]
            select = rng.integers(0, columns, (q, selected))
            base, strength, strengths = np.zeros(0), 1.0, np.zeros(0)
            interpolate = maker is label_store
            if selected:
                wanted = np.take_along_axis(wanted, select, axis=1)
            if (number + k) % 2:
                base, strength = rng.random(wanted.shape), 0.7
                applied = np.full(q, strength)
                if turn % 2:
                    applied = strengths = rng.random(q)
                wanted = (
                    oracle.interpolate(base, wanted, applied, positions)
                    if interpolate
                    else oracle.correct(base, wanted * applied[:, None])
                )
            sizes = layouts[(number + k + columns) % 3]
            ends = np.cumsum(sizes)
            segments = [
                [size, fields(slice(end - size, end))]
                for end, size in zip(ends.tolist(), sizes, strict=True)
            ]
            out.add(
                7, f"aggregate {name}, {what}, {len(sizes)} segments, {selected} selected",
                q, k, columns, float(sigma), strength, front, len(sizes), segments,
                distances, positions, selected, select, base, strengths, int(interpolate),
                own_weights(own, sizes), wanted,
            )  # fmt: skip


def add_logits(out: Writer, rng: np.random.Generator, n: int, columns: int, d: int) -> None:
    for kind in TYPES:
        keys, wide = stored(rng.standard_normal((n, d)).astype(np.float32), kind)
        weight = rng.standard_normal((columns, d)).astype(np.float32)
        bias = rng.standard_normal(columns).astype(np.float32)
        weight[:1] = np.copysign(np.float32(3e38), weight[:1])  # logits beyond float32
        wanted = oracle.head_logits(wide, weight, bias)
        what = f"logits {kind}, n={n} columns={columns} d={d}"
        out.add(9, what, n, columns, d, keys, weight, bias, wanted)


def add_numbers(out: Writer, rng: np.random.Generator) -> None:
    """Write every finite half and infinity, and float32 numbers around the rounding limits."""
    halves = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
    any_bits = rng.integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)
    for code, kind in enumerate(TYPES[1:], 1):
        wide = halves.view(np.float16).astype(np.float32)
        if kind == "bfloat16":
            wide = (halves.astype(np.uint32) << 16).view(np.float32)
        number = ~np.isnan(wide)
        ordered = np.sort(wide[np.isfinite(wide)]).astype(np.float64)
        halfway = ((ordered[:-1] + ordered[1:]) / 2).astype(np.float32)
        x = np.concatenate(
            [halfway, np.nextafter(halfway, np.float32(9)), np.nextafter(halfway, np.float32(-9))]
        )
        x = np.concatenate([x, any_bits[np.abs(any_bits) < LARGEST[kind]]])
        narrow = stored(x, kind)[0][1]
        out.add(10, f"numbers {kind}", code, halves[number], wide[number], x, narrow)
        for n in range(40):
            out.add(10, f"{n} numbers", code, halves[:n], wide[:n], x[:n], narrow[:n])  # type: ignore[index]


def numbers(out: Writer) -> None:
    """Write all cases except searches."""
    rng = np.random.default_rng(4)
    add_exp(out, rng)
    add_log(out, rng)
    add_numbers(out, rng)
    for columns in COLUMNS:
        add_softmax(out, rng, 6, columns)
        add_simplex(out, rng, 5, columns)
    for n, columns in ((0, 3), (1, 1), (33, 2049)):  # the last is several tasks
        add_softmax(out, rng, n, columns)
        add_simplex(out, rng, n, columns)
    for columns in COLUMNS:
        for k in (0, 1, 2, 5, 8):
            add_aggregate(out, rng, 5, k, columns)
    for q, k, columns in ((0, 3, 2), (1, 53, 17), (90, 53, 130)):
        add_aggregate(out, rng, q, k, columns)
    for n in (0, 1, 2, 3, 4, 5, 13):
        for columns in (1, 2, 3, 4, 5, 16, 17):
            add_logits(out, rng, n, columns, int(rng.choice(DEPTHS)))
    add_logits(out, rng, 130, 7, 5000)  # several panels
    for number, columns in enumerate(COLUMNS):
        add_sweep(out, rng, 19, columns, 1 + number % 9)
    for q in (0, 1, 2, 60):
        add_sweep(out, rng, q, 10, 5)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} OUT")
    out = Writer()
    random_searches(out, 440)
    chosen_searches(out)
    wide_searches(out)
    numbers(out)
    out.write(Path(sys.argv[1]))
    print(f"{len(out.records)} cases written to {sys.argv[1]}")


if __name__ == "__main__":
    main()
