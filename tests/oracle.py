"""The numeric contract (``cpp/CONTRACT.md``) in NumPy: slow, plain and exact to the bit.

Every function follows one section of the contract, named in its docstring. Only elementwise
float64 operations are used (each rounds once, in any SIMD width); ``np.sum``, ``np.dot`` and
``np.exp`` are not, for their order or rounding is not that of the contract.

This file imports NumPy alone, so that a fault of the engine cannot hide in its own oracle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Float16 = npt.NDArray[np.float16]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Array = npt.NDArray[Any]

Metric = Literal["euclidean", "sqeuclidean", "inner_product", "cosine"]
Task = Literal["classification", "regression"]
OutputKind = Literal["logits", "probabilities", "values"]
KeyDtype = Literal["float32", "float64", "float16", "bfloat16"]
ResidualDtype = Literal["float32", "float64", "float16"]
MapKind = Literal["clip", "project", "keep"]

ROW_BLOCK = 4096  # rows whose terms are held at once; no effect on any bit

# Constants of `cexp`.
LOG2E = float.fromhex("0x1.71547652b82fep+0")
LN2_HI = float.fromhex("0x1.62e42fee00000p-1")
LN2_LO = float.fromhex("0x1.a39ef35793c76p-33")
SHIFT = float.fromhex("0x1.8p52")

# Constants of `clog`; those of ln 2 are shared.
SQRT_HALF = math.sqrt(0.5)  # no float64 lies between it and the true root
SMALLEST_NORMAL = 2.0**-1022


# ---- Stored values ------------------------------------------------------------------------


def narrow(values: npt.ArrayLike, dtype: npt.DTypeLike) -> Array:
    """Finite values rounded once, to nearest even; one that would become infinite is refused."""
    wide = np.asarray(values)
    with np.errstate(over="ignore"):  # refused below
        rounded = wide.astype(dtype)
    _refuse_infinite(wide, rounded, np.dtype(dtype).name)
    return rounded


def round_keys(keys: npt.ArrayLike, dtype: KeyDtype) -> Float32:
    """The keys as stored, widened to float32 again. Contract: its second paragraph."""
    x = np.asarray(keys, dtype=np.float32)
    if dtype == "float32":
        return x
    if dtype == "float16":
        return narrow(x, np.float16).astype(np.float32)
    if dtype == "bfloat16":  # the upper 16 bits of a float32
        bits = x.view(np.uint32)
        odd = (bits >> np.uint32(16)) & np.uint32(1)  # a tie goes up from an odd value only
        up = bits + np.uint32(0x7FFF) + odd
        rounded = (up & np.uint32(0xFFFF0000)).view(np.float32)
        _refuse_infinite(x, rounded, dtype)
        return rounded
    raise ValueError(f"unknown key dtype: {dtype!r}")


def _refuse_infinite(values: Array, rounded: Array, dtype: str) -> None:
    infinite = np.isinf(rounded)
    if np.any(infinite):
        raise ValueError(f"{values[infinite][0]} is infinite as {dtype}: scale the values down")


# ---- Canonical sum ------------------------------------------------------------------------


def csum(terms: npt.ArrayLike) -> Float64:
    """Canonical sum over the last axis. Contract: "Canonical sum"."""
    t = np.asarray(terms, dtype=np.float64)
    p = np.zeros((*t.shape[:-1], 8))  # p_0 .. p_7, all +0.0
    for start in range(0, t.shape[-1], 8):  # i ascending: terms i .. i+7, one per partial sum
        eight = t[..., start : start + 8]
        p[..., : eight.shape[-1]] += eight
    p0, p1, p2, p3, p4, p5, p6, p7 = (p[..., j] for j in range(8))
    total: Float64 = ((p0 + p4) + (p2 + p6)) + ((p1 + p5) + (p3 + p7))
    return total


# ---- Distances and order ------------------------------------------------------------------


def widen(array: npt.ArrayLike) -> Float64:
    """Float32 values (float16 converts exactly) widened to float64, before any arithmetic."""
    return np.asarray(array, dtype=np.float32).astype(np.float64)


def _block_key(q: Float64, x: Float64, metric: Metric) -> Float64:
    """Order key of one query ``q`` (d,) against the rows ``x`` (n, d), all float64."""
    if metric in ("euclidean", "sqeuclidean"):
        difference = q - x
        return csum(difference * difference)
    if metric == "inner_product":
        return -csum(q * x)
    if metric == "cosine":
        p = csum(q * x)
        norms = csum(q * q) * csum(x * x)  # qq * xx
        zero = norms == 0.0
        c = np.maximum(0.0, 1.0 - p / np.sqrt(np.where(zero, 1.0, norms)))
        return np.where(zero, 1.0, c)
    raise ValueError(f"unknown metric: {metric!r}")


def as_float64(array: npt.ArrayLike, metric: Metric) -> Float64:
    """Float64 keys or queries as they enter the formulas: for "cosine", each vector scaled by the
    power of two that brings its largest |value| into [1/2, 1). Contract: "Float64 keys"."""
    x = np.asarray(array, dtype=np.float64)
    if metric != "cosine":
        return x
    _, exponent = np.frexp(np.max(np.abs(x), axis=1, initial=0.0))
    scaled: Float64 = np.ldexp(x, -exponent[:, None])
    return scaled


def order_key(
    queries: npt.ArrayLike, rows: npt.ArrayLike, metric: Metric, wide: bool = False
) -> Float64:
    """Key of the order, (q, n), ascending. Contract: "Distances and order", second column.

    ``wide``: queries and rows are float64, and not rounded to float32.
    """

    def taken(array: npt.ArrayLike) -> Float64:
        return as_float64(array, metric) if wide else widen(array)

    q, x = taken(queries), np.asarray(rows)
    keys = np.empty((q.shape[0], x.shape[0]))
    for start in range(0, x.shape[0], ROW_BLOCK):
        block = taken(x[start : start + ROW_BLOCK])
        for i, query in enumerate(q):
            keys[i, start : start + ROW_BLOCK] = _block_key(query, block, metric)
    return keys


def _key_to_value(key: Float64, metric: Metric) -> Float64:
    """Contract: "Distances and order", second column to third."""
    if metric == "euclidean":
        root: Float64 = np.sqrt(key)
        return root
    return -key if metric == "inner_product" else key


def value(queries: npt.ArrayLike, rows: npt.ArrayLike, metric: Metric) -> Float64:
    """Value returned, (q, n). Contract: "Distances and order", third column."""
    return _key_to_value(order_key(queries, rows, metric), metric)


def as_distances(values: npt.ArrayLike, metric: Metric) -> Float64:
    """``D``, of the values of a metric. Contract: "Weights, correction, prediction"."""
    given = np.asarray(values, dtype=np.float64)
    return 0.0 - given if metric == "inner_product" else given


def search(
    queries: npt.ArrayLike,
    rows: npt.ArrayLike,
    k: int,
    metric: Metric = "euclidean",
    ids: npt.ArrayLike | None = None,
    exclude_ids: npt.ArrayLike | None = None,
    alive: npt.ArrayLike | None = None,
    wide: bool = False,
    seen: npt.ArrayLike | None = None,
) -> tuple[Float64, Int64]:
    """The ``k`` smallest rows by (order key, id): values and ids, (q, k) each.

    ``ids`` are the positions if not given; ``exclude_ids`` is (q,) or (q, m), -1 for none;
    ``alive`` (n,) is False for removed rows; ``wide`` as for ``order_key``; ``seen`` (q, n) tells
    which other rows a query may see, as ``visible`` does.
    Contract: "Distances and order", last paragraph.
    """
    keys = order_key(queries, rows, metric, wide)
    n_queries, n = keys.shape
    row_ids = np.arange(n) if ids is None else np.asarray(ids)
    row_ids = row_ids.astype(np.int64)
    live = np.ones(n, dtype=np.bool_) if alive is None else np.asarray(alive, dtype=np.bool_)
    none = np.full(n_queries, -1)
    excluded = np.asarray(none if exclude_ids is None else exclude_ids, dtype=np.int64)
    excluded = excluded.reshape(n_queries, -1 if excluded.size else 0)

    values = np.full((n_queries, k), -np.inf if metric == "inner_product" else np.inf)
    found = np.full((n_queries, k), -1, dtype=np.int64)
    for i in range(n_queries):
        here = live & ~np.isin(row_ids, excluded[i][excluded[i] >= 0])
        candidates = np.flatnonzero(here if seen is None else here & np.asarray(seen)[i])
        order = np.lexsort((row_ids[candidates], keys[i, candidates]))  # last key is primary
        best = candidates[order[:k]]
        values[i, : best.size] = _key_to_value(keys[i, best], metric)
        found[i, : best.size] = row_ids[best]
    return values, found


def visible(
    n_queries: int,
    n: int,
    *,
    groups: npt.ArrayLike | None = None,
    exclude_groups: npt.ArrayLike | None = None,
    times: npt.ArrayLike | None = None,
    before: npt.ArrayLike | None = None,
    among: npt.ArrayLike | None = None,
) -> Bool:
    """Which rows (n,) each query may see, (q, n). Contract: "Whom a query may ask".

    ``groups`` and ``times`` (n,) are the rows'; ``exclude_groups`` is (q, m) and ``before`` (q,);
    ``among`` holds positions of rows.
    """
    seen = np.ones((n_queries, n), dtype=np.bool_)
    if exclude_groups is not None:
        group = np.asarray(groups)
        for i, listed in enumerate(np.asarray(exclude_groups)):
            seen[i] &= ~((group >= 0) & np.isin(group, listed))
    if before is not None:
        seen &= np.asarray(times)[None] < np.asarray(before)[:, None]
    if among is not None:
        seen &= np.isin(np.arange(n), np.asarray(among, dtype=np.int64))[None]
    return seen


# ---- Preprocessing ------------------------------------------------------------------------


def preprocess(
    embeddings: npt.ArrayLike,
    name: str,
    fitted: Mapping[str, npt.ArrayLike] | None = None,
    wide: bool = False,
) -> Float32 | Float64:
    """Keys or queries of embeddings, float64 ones if ``wide``. Contract: "Preprocessing", table.

    ``fitted``: what a fit has found, "mean" and "scale", or "weight" and "bias", or "offset".
    """
    given, found = np.asarray(embeddings), dict(fitted or {})
    e = given if given.dtype == np.float64 else widen(given)
    kind, _, m = name.partition(":")
    if kind in ("pca", "whiten", "nca"):
        keys = head_logits(embeddings, found["weight"], found["bias"])
        if keys.shape[1] != int(m):
            raise ValueError(f"a weight of {m} rows expected for {name}, got {keys.shape[1]}")
        if np.any(np.abs(keys) == np.finfo(np.float32).max):
            raise ValueError("a key is as large as the largest float32: scale the embeddings down")
        return keys
    if kind == "none":
        made = e - np.asarray(found.get("offset", 0.0), np.float64)
    elif kind == "unit":
        root = np.sqrt(csum(e * e))[:, None]
        made = np.where(root == 0.0, e, e / np.where(root == 0.0, 1.0, root))
    elif kind in ("center", "standardize"):
        made = e - np.asarray(found["mean"], np.float64)
        if kind == "standardize":
            made = made / np.asarray(found["scale"], np.float64)
    else:
        raise ValueError(f"unknown preprocess: {name!r}")
    return made if wide else narrow(made, np.float32)


# ---- exp ----------------------------------------------------------------------------------


def cexp(x: npt.ArrayLike) -> Float64:
    """Elementwise exponential, one line per line of the contract. Contract: "exp"."""
    x = np.minimum(np.maximum(np.asarray(x, dtype=np.float64), -746.0), 710.0)
    n = (x * LOG2E + SHIFT) - SHIFT
    r = (x - n * LN2_HI) - n * LN2_LO
    q = np.full_like(r, 1.0 / math.factorial(13))  # 13! < 2^53: the quotient is float64(1/13!)
    for j in range(12, 1, -1):
        q = q * r + 1.0 / math.factorial(j)
    e = 1.0 + (r + (r * r) * q)
    n1 = (n * 0.5 + SHIFT) - SHIFT
    n2 = n - n1
    with np.errstate(over="ignore", under="ignore"):
        result: Float64 = (e * _power_of_two(n1)) * _power_of_two(n2)
    return result


def _power_of_two(n: Float64) -> Float64:
    """2^n for integral float64 ``n`` within [-538, 512]: always a normal number."""
    power: Float64 = np.ldexp(1.0, n.astype(np.int64))
    return power


# ---- log ----------------------------------------------------------------------------------


def clog(x: npt.ArrayLike) -> Float64:
    """Elementwise logarithm of finite ``x >= 2^-1022``. Contract: "log"."""
    m, exponent = np.frexp(np.asarray(x, dtype=np.float64))  # m in [1/2, 1)
    small = m < SQRT_HALF
    m = np.where(small, m + m, m)
    e = (exponent - small).astype(np.float64)
    f = (m - 1.0) / (m + 1.0)
    s = f * f
    q = np.full_like(f, 2.0 / 21)
    for j in range(9, 0, -1):
        q = q * s + 2.0 / (2 * j + 1)
    result: Float64 = e * LN2_HI + ((f + f) + ((f * s) * q + e * LN2_LO))
    return result


# ---- Softmax, residuals -------------------------------------------------------------------


def softmax(logits: npt.ArrayLike, temperature: float = 1.0) -> Float64:
    """Softmax over the last axis. Contract: "Softmax, residuals", formula."""
    z = widen(logits) / np.float64(temperature)
    m = np.max(z, axis=-1, keepdims=True)
    e = cexp(z - m)
    probabilities: Float64 = e / csum(e)[..., None]  # W = csum(e)
    return probabilities


def base(output_kind: OutputKind, outputs: npt.ArrayLike, temperature: float = 1.0) -> Float64:
    """Base output ``b_c``, (n, C). Contract: "Softmax, residuals", table, second column."""
    if output_kind == "logits":
        return softmax(outputs, temperature)
    if temperature != 1.0:
        raise ValueError(f"temperature must be 1 for {output_kind}, got {temperature}")
    if output_kind == "probabilities":
        return widen(outputs)
    return _columns(outputs)


def residuals(
    task: Task,
    output_kind: OutputKind,
    outputs: npt.ArrayLike,
    targets: npt.ArrayLike,
    temperature: float = 1.0,
    half: bool = False,
    wide: bool = False,
) -> Float32 | Float16 | Float64:
    """Residuals, (n, C), rounded once, or once more if ``half``: float32, or float16; those of a
    regression not at all if ``wide``.

    Contract: "Softmax, residuals", table, third column, and the paragraph that follows it.
    """
    if (task == "regression") != (output_kind == "values"):
        raise ValueError(f"{output_kind} is no output kind of {task}")
    b = base(output_kind, outputs, temperature)
    if task == "classification":
        return _stored(_onehot(targets, b.shape[1]) - b, half)
    differences = _columns(targets) - b
    return differences if wide else _stored(differences, half)


def _stored(values: Float64, half: bool) -> Float32 | Float16:
    """Rounded to float32, and from there to float16 if ``half``."""
    single: Float32 = narrow(values, np.float32)
    return narrow(single, np.float16) if half else single


def _onehot(labels: npt.ArrayLike, C: int) -> Float64:
    """(n, C), 1 at the label of each row."""
    label = np.asarray(labels, dtype=np.int64)
    onehot = np.zeros((label.size, C))
    onehot[np.arange(label.size), label] = 1.0
    return onehot


def _columns(values: npt.ArrayLike) -> Float64:
    """Regression values, (n,) or (n, C), as float64 (n, C)."""
    v = np.asarray(values, dtype=np.float64)
    return v[:, None] if v.ndim == 1 else v


# ---- Sparse and head residuals ------------------------------------------------------------


def sparse_residuals(
    base: Float64, labels: npt.ArrayLike, m: int, half: bool = False
) -> tuple[Int32, Float32 | Float16, Float32, float]:
    """``S`` and ``v`` (n, s + 1), ``u`` (n,) and the largest ``error``. Contract: "Sparse".

    The class of a row is the first of its ``S``. Without rows the error is 0.0.
    """
    n, C = base.shape
    s = min(m, C - 1)
    onehot = _onehot(labels, C)
    classes = np.broadcast_to(np.arange(C), base.shape)
    # By the last key first: y, then the largest b_c, then the smaller class.
    S = np.lexsort((classes, -base, -onehot), axis=-1)[:, : s + 1]
    others = base.copy()
    np.put_along_axis(others, S, 0.0, axis=1)
    rho = csum(others)  # t_c = 0 for c in S
    rest: Float32 = narrow(rho / (C - s - 1) if s + 1 < C else np.zeros(n), np.float32)

    u, b = widen(rest)[:, None], np.take_along_axis(base, S, axis=1)
    v = u - b
    v[:, :1] = (1.0 - b[:, :1]) + u
    index, value = S.astype(np.int32), _stored(v, half)
    # Outside S this is |-u - (0 - b_c)|, which is |b_c - u| to the bit.
    wrong = np.abs(sparse_dense(index, value, rest, C) - (onehot - base))
    return index, value, rest, float(np.max(wrong, initial=0.0))


def sparse_dense(index: Array, value: Array, rest: Array, C: int) -> Float64:
    """The residual that is kept, (n, C): ``v_c - u`` in ``S``, ``-u`` elsewhere."""
    u = widen(rest)[:, None]
    kept = np.repeat(-u, C, axis=1)
    np.put_along_axis(kept, index.astype(np.int64), widen(value) - u, axis=1)
    return kept


def head_logits(keys: npt.ArrayLike, weight: npt.ArrayLike, bias: npt.ArrayLike) -> Float32:
    """Logits of a linear layer, (n, C), never infinite. Contract: "Head residuals"."""
    given = np.asarray(keys)
    x = given if given.dtype == np.float64 else widen(given)
    W, a = widen(weight), widen(bias)
    logits = np.empty((x.shape[0], W.shape[0]))
    for i, key in enumerate(x):
        logits[i] = csum(W * key) + a
    largest = float(np.finfo(np.float32).max)
    return np.clip(logits, -largest, largest).astype(np.float32)


# ---- Weights, correction, prediction ------------------------------------------------------


def weights(
    distances: npt.ArrayLike, sigma: float, own: npt.ArrayLike | None = None
) -> tuple[Float64, Float64]:
    """``e`` over the last axis, and its sum ``W``. Contract: "Weights".

    Padding (+inf, last) weighs 0; where there is nothing else, ``W`` is 1. ``own`` holds the
    neighbours' own weights ``v``, in the shape of the distances; None: 1.
    """
    distance = np.asarray(distances, dtype=np.float64)
    there = np.isfinite(distance)
    D = np.where(there, distance, 0.0)
    with np.errstate(over="ignore"):  # a tiny sigma may give -inf, and cexp(-inf) = 0
        e = np.where(there, cexp((D[..., :1] - D) / np.float64(sigma)), 0.0)
    if own is not None:
        e = np.where(there, np.asarray(own, dtype=np.float64) * e, 0.0)
    W = np.zeros(e.shape[:-1])
    for j in range(e.shape[-1]):  # neighbour order; 0 + e_1 = e_1, and padding adds +0.0
        W = W + e[..., j]
    return e, np.where(W == 0.0, 1.0, W)  # m = 0: a sum over nothing can be divided by it


def decay(times: npt.ArrayLike, half_life: float) -> Float64:
    """Factors (n,) of rows with these times (n,), integers or floats. Contract: "Decay"."""
    values = np.asarray(times)
    if values.dtype.kind == "f":
        ages = [0.0 if t == values.max() else values.max() - t for t in values]
    else:
        newest = max(int(t) for t in values)
        ages = [float(newest - int(t)) for t in values]  # of whole numbers, rounded once
    halvings = np.minimum(np.array(ages, dtype=np.float64) / np.float64(half_life), 300.0)
    return cexp(-(halvings * np.float64(float.fromhex("0x1.62e42fefa39efp-1"))))


def _own_weights(row_weights: npt.ArrayLike | None, position: Int64) -> Float64 | None:
    """The weights (q, k) of neighbours, of rows' own (n,)."""
    if row_weights is None:
        return None
    return np.append(np.asarray(row_weights, dtype=np.float64), 1.0)[position]  # -1: padding


def correction(
    distances: npt.ArrayLike,
    positions: npt.ArrayLike,
    residuals: npt.ArrayLike,
    sigma: float,
    row_weights: npt.ArrayLike | None = None,
) -> Float64:
    """Weighted sum of residuals, (q, C). Contract: "Weights, correction", ``correction_c``.

    ``positions`` (q, k) are rows of ``residuals`` (n, C), -1 for padding; ``row_weights`` (n,) are
    the rows' own weights, None for 1.
    """
    position, kept = np.asarray(positions, dtype=np.int64), np.asarray(residuals)
    r = kept if kept.dtype == np.float64 else widen(kept)
    there = position >= 0
    own = _own_weights(row_weights, position)
    e, W = weights(np.where(there, distances, np.inf), sigma, own)
    return _weighted_sum(e, position, r) / W[:, None]


def _weighted_sum(e: Float64, position: Int64, r: Float64) -> Float64:
    """``((0 + e_1 r_1c) + e_2 r_2c) + ..``, (q, C)."""
    total = np.zeros((position.shape[0], r.shape[1]))
    for j in range(position.shape[1]):  # neighbour order
        at = position[:, j] >= 0  # padding is left out
        total[at] = total[at] + e[at, j, None] * r[position[at, j]]
    return total


def sparse_correction(
    distances: npt.ArrayLike,
    positions: npt.ArrayLike,
    index: Array,
    value: Array,
    rest: Array,
    C: int,
    sigma: float,
    row_weights: npt.ArrayLike | None = None,
) -> Float64:
    """``correction`` of sparse residuals, (q, C). Contract: "Weights, correction", ``U``."""
    position, v = np.asarray(positions, dtype=np.int64), widen(value)
    there = position >= 0
    own = _own_weights(row_weights, position)
    e, W = weights(np.where(there, distances, np.inf), sigma, own)
    total = np.repeat(_weighted_sum(e, position, -widen(rest)[:, None]), C, axis=1)  # U
    for j in range(position.shape[1]):  # neighbour order
        at = np.flatnonzero(there[:, j])
        row = position[at, j]
        S = index[row]  # distinct classes: each is added to once
        total[at[:, None], S] = total[at[:, None], S] + e[at, j, None] * v[row]
    return total / W[:, None]


def correct(base: npt.ArrayLike, correction: npt.ArrayLike, strength: float = 1.0) -> Float64:
    """``b_c + strength * correction_c``. Contract: "Weights, correction", last formula."""
    corrected: Float64 = np.asarray(base, np.float64) + np.float64(strength) * np.asarray(
        correction, np.float64
    )
    return corrected


def targets(task: Task, targets: npt.ArrayLike, C: int) -> Float64:
    """What the method "targets" sums in the place of residuals, (n, C). Contract: "Targets"."""
    return _onehot(targets, C) if task == "classification" else _columns(targets)


def interpolate(
    base: npt.ArrayLike,
    mean: npt.ArrayLike,
    strength: float | Float64,
    positions: npt.ArrayLike,
) -> Float64:
    """The base outputs moved towards the targets' mean, (q, C). Contract: "Targets".

    ``strength`` is one number or (q,) of them; ``positions`` (q, k) tell who has neighbours.
    """
    b, share = np.asarray(base, np.float64), np.asarray(strength, np.float64)[..., None]
    mixed = (np.float64(1) - share) * b + share * np.asarray(mean, np.float64)
    return np.where((np.asarray(positions) >= 0).any(axis=1)[:, None], mixed, b)


GateStep = tuple[str, Sequence[float], Sequence[float]]  # feature, edges, factors


def gate(steps: Sequence[GateStep], features: Mapping[str, Float64], strength: float) -> Float64:
    """The strength of every query, (q,), from the features' values (q,). Contract: "Gates"."""
    (q,) = {len(values) for values in features.values()}
    factor = np.ones(q)
    for feature, edges, factors in steps:
        below = [int(np.count_nonzero(np.asarray(edges) < value)) for value in features[feature]]
        factor = factor * np.asarray(factors, np.float64)[below]
    return np.float64(strength) * factor


# ---- Probabilities ------------------------------------------------------------------------


def simplex(
    corrected: npt.ArrayLike,
    floor: float = 1e-6,
    kind: MapKind = "clip",
    base: npt.ArrayLike | None = None,
    strength: float = 1.0,
) -> Float64:
    """Rows mapped to the simplex. Contract: "Probabilities".

    ``floor`` is the share for ``keep``, which needs a base; ``base`` is what ``strength`` times
    the correction was added to, None if it is not known.
    """
    v = np.asarray(corrected, dtype=np.float64)
    C = v.shape[1]
    b = np.ones(v.shape) if base is None else np.asarray(base, dtype=np.float64)
    given = b > 0.0
    least = min(floor * min(1.0, 100.0 / C), 1.0 / (2 * C))
    f = np.maximum(floor * b, 1e-9) if kind == "keep" else np.full(v.shape, least)
    f = np.where(given, f, 0.0)
    x = np.where(given | ((v > 0.0) & (strength > 0.0)), v, -np.inf)
    a = np.zeros((v.shape[0], 1))
    if kind == "project":
        M = 1.0 - np.count_nonzero(given, axis=1) * least
        a = tau(np.where(given, x, x + least), M)[:, None] - least
    u = np.where(x - a > f, x - a, f)
    probabilities: Float64 = u / csum(u)[..., None]
    unmoved = np.all(v == b, axis=1) & (base is not None)
    return np.where(unmoved[:, None], b, probabilities)


def tau(v: Float64, M: Float64) -> Float64:
    """Where the ``max(v_c - tau, 0)`` of every row sum to ``M``. Contract: "Probabilities"."""
    found, n = np.full(v.shape[0], -np.inf), np.full(v.shape[0], np.inf)
    while True:
        S = v > found[:, None]
        count = np.count_nonzero(S, axis=1)
        goes_on = (count > 0) & (count < n)  # once it is false it stays so: nothing changes
        if not np.any(goes_on):
            return found
        n = np.where(goes_on, count, n)
        found = np.where(goes_on, (csum(np.where(S, v, 0.0)) - M) / np.maximum(count, 1), found)


# ---- Sweep --------------------------------------------------------------------------------


def sweep(
    distances: npt.ArrayLike,
    positions: npt.ArrayLike,
    residuals: npt.ArrayLike,
    base: npt.ArrayLike | None,
    targets: npt.ArrayLike,
    ks: Sequence[int],
    sigmas: Sequence[float],
    strengths: Sequence[float],
    maps: Sequence[tuple[MapKind, float]] = (("clip", 1e-6),),
    bins: int = 0,
    of_targets: bool = False,
    row_weights: npt.ArrayLike | None = None,
) -> Float64:
    """Scores of every query, (q, ks, sigmas, strengths, maps, width), from the definitions.

    ``of_targets``: what stands for residuals are targets, towards which the base is moved.

    Classes (q,) are scored under ``maps``, (kind, floor) each, by ``class_scores``; values
    (q, C), which no map changes, by ``value_scores``. A base that is not known is 0. Contract:
    "Sweep", but for the order of the division.
    """
    distance, position, target = map(np.asarray, (distances, positions, targets))
    scores = []
    for k in ks:
        for sigma in sigmas:
            moved_by = correction(distance[:, :k], position[:, :k], residuals, sigma, row_weights)
            for strength in strengths:
                corrected = correct(0.0 if base is None else base, moved_by, strength)
                if of_targets and base is not None:
                    corrected = interpolate(base, moved_by, strength, position[:, :k])
                for kind, floor in maps:
                    if target.dtype.kind == "f":
                        scores.append(value_scores(corrected, target))
                    elif of_targets:
                        scores.append(class_scores(corrected, target, bins))
                    else:
                        p = simplex(corrected, floor, kind, base, strength)
                        scores.append(class_scores(p, target, bins))
    settings = (len(ks), len(sigmas), len(strengths), len(maps))
    width = scores[0].shape[1]
    return np.stack(scores, axis=1).reshape(len(target), *settings, width)


def class_scores(p: Float64, labels: Array, bins: int = 0) -> Float64:
    """Of every row the log-loss, whether it is correct, the Brier score; then for each bin of the
    confidence whether the row is in it, and if so its confidence and whether it is correct.
    """
    row = np.arange(len(p))
    chance = p[row, labels]
    possible = chance >= SMALLEST_NORMAL
    top = np.argmax(p, axis=1)  # the first largest
    wrong = p - _onehot(labels, p.shape[1])
    scores = np.zeros((len(p), 3 + 3 * bins))
    scores[:, 0] = np.where(possible, -clog(np.where(possible, chance, 1.0)), np.inf)
    scores[:, 1] = top == labels
    scores[:, 2] = csum(wrong * wrong)
    if bins:
        confidence = p[row, top]
        first = 3 + 3 * np.minimum((confidence * bins).astype(np.int64), bins - 1)
        scores[row, first] = 1.0
        scores[row, first + 1] = confidence
        scores[row, first + 2] = scores[:, 1]
    return scores


def value_scores(corrected: Float64, values: Array) -> Float64:
    """Of every row the squared and the absolute errors, summed over the columns."""
    error = corrected - values
    return np.stack([csum(error * error), csum(np.abs(error))], axis=1)


# ---- sigma="auto" -------------------------------------------------------------------------


def sampled(n: int, most: int) -> Int64:
    """Positions of at most ``most`` of ``n`` rows. Contract: "Preprocessing", ``b_j + r_j``."""
    if n <= most:
        return np.arange(n)
    first = [j * n // most for j in range(most + 1)]
    return np.array(first[:-1]) + np.random.RandomState(0).randint(0, np.diff(first))


def typical(m: Float64) -> float:
    """The median of ``m``, or the mean of its positive values, or 1. Contract: 'sigma="auto"'."""
    ascending = np.sort(m)
    low, high = ascending[(m.size - 1) // 2], ascending[m.size // 2]
    median = float(low) if m.size % 2 else float((low + high) / 2.0)
    if median != 0.0:
        return median
    positive = [float(value) for value in m if value > 0.0]
    running = 0.0
    for term in positive:  # sample order
        running = running + term
    return running / len(positive) if positive else 1.0


def auto_sigma(
    keys: npt.ArrayLike,
    ids: npt.ArrayLike | None,
    k: int,
    wide: bool = False,
    metric: Metric = "euclidean",
) -> float:
    """The scale found at ``fit``. Contract: 'sigma="auto"'. A single row gives 1.0."""
    rows = np.asarray(keys)
    n = rows.shape[0]
    row_ids = np.arange(n) if ids is None else np.asarray(ids)
    sample = sampled(n, 256)
    neighbours = min(k, n - 1)
    if neighbours == 0:
        return 1.0  # no neighbour, hence no positive m_i
    own = row_ids[sample]
    values, _ = search(rows[sample], rows, neighbours, metric, row_ids, own, wide=wide)
    D = as_distances(values, metric)

    total = np.zeros(sample.size)
    for j in range(neighbours):  # neighbour order
        total = total + (D[:, j] - D[:, 0])
    return typical(total / neighbours)


# ---- Intervals, sets, novelty -------------------------------------------------------------


def spread(
    distances: npt.ArrayLike,
    positions: npt.ArrayLike,
    residuals: npt.ArrayLike,
    applied: npt.ArrayLike,
    sigma: float,
) -> Float64:
    """``u``, (q, C), of corrections ``applied`` (q, C); NaN where there are no neighbours.

    ``positions`` (q, k) are rows of ``residuals`` (n, C), -1 for padding.
    Contract: "Intervals and sets".
    """
    position, kept = np.asarray(positions, dtype=np.int64), np.asarray(residuals)
    r = kept if kept.dtype == np.float64 else widen(kept)
    a = np.asarray(applied, dtype=np.float64)
    e, W = weights(np.where(position >= 0, distances, np.inf), sigma)
    total = np.zeros_like(a)
    for j in range(position.shape[1]):  # neighbour order
        at = position[:, j] >= 0  # padding is left out
        total[at] = total[at] + e[at, j, None] * np.abs(r[position[at, j]] - a[at])
    nobody = np.all(position < 0, axis=1, keepdims=True)
    return np.where(nobody, np.nan, total / W[:, None])


def typical_error(residuals: npt.ArrayLike, applied: npt.ArrayLike) -> Float64:
    """``t``, (C,), of sampled rows' residuals and corrections (m, C).

    Contract: "Intervals and sets".
    """
    kept = np.asarray(residuals)
    r = kept if kept.dtype == np.float64 else widen(kept)
    errors = np.abs(r - np.asarray(applied, dtype=np.float64))
    return np.array([typical(column) for column in errors.T])


def mass_above(probabilities: npt.ArrayLike) -> Float64:
    """``m``, (q, C). Contract: "Intervals and sets"."""
    p = np.asarray(probabilities, dtype=np.float64)
    m = np.zeros_like(p)
    for i, row in enumerate(p):
        running = 0.0
        for c in sorted(range(row.size), key=lambda c: (-row[c], c)):
            m[i, c] = running
            running = running + row[c]
    return m


def limit(scores: npt.ArrayLike, coverage: str) -> Float64:
    """``l``, (C,), of scores (n, C) at a coverage in decimals. Contract: "Intervals and sets"."""
    s = np.asarray(scores, dtype=np.float64)
    rank = math.ceil((len(s) + 1) * Fraction(coverage))
    return np.sort(s, axis=0)[rank - 1] if rank <= len(s) else np.full(s.shape[1], np.inf)


def novelty(nearest: npt.ArrayLike, own: npt.ArrayLike) -> Float64:
    """Of distances (q,), by those of sampled rows (m,). Contract: "Novelty"."""
    D, D_i = np.asarray(nearest, dtype=np.float64), np.asarray(own, dtype=np.float64)
    return np.array([(1 + np.count_nonzero(D_i >= one)) / (1 + D_i.size) for one in D])


# ---- The whole memory ---------------------------------------------------------------------


class OracleMemory:
    """The functions above put together, in the shape of ``resmem.Memory``.

    ``fitted`` are the numbers that a ``preprocess`` has found: nothing is fitted here.
    Regression outputs and results are (n, C),
    with C = 1 for targets of shape (n,). Rows without given ids get the next ones after the
    largest id ever held. ``store="head"`` takes no outputs for rows and needs none for queries:
    they are those of ``head``, a weight (C, d) and a bias (C,).
    """

    def __init__(
        self,
        task: Task = "classification",
        output_kind: OutputKind = "logits",
        k: int = 50,
        sigma: float | Literal["auto"] = "auto",
        temperature: float = 1.0,
        strength: float = 1.0,
        key_dtype: KeyDtype = "float32",
        residual_dtype: ResidualDtype | None = None,
        store: str = "dense",
        head: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
        preprocess: str = "none",
        fitted: Mapping[str, npt.ArrayLike] | None = None,
        method: Literal["residual", "targets"] = "residual",
        gate: Sequence[GateStep] = (),
        metric: Metric = "euclidean",
    ) -> None:
        if store != "dense" and task != "classification":
            raise ValueError(f'store="dense" expected for {task}, got {store!r}')
        if store == "head" and (output_kind, residual_dtype or "float32") != ("logits", "float32"):
            raise ValueError("a head makes float32 residuals of logits")
        if (store == "head") != (head is not None):
            raise ValueError('a head expected for store="head", and for no other')
        if store == "head" and preprocess != "none":
            raise ValueError("a head reads the keys as they are: preprocess 'none' expected")
        self.task: Task = task
        self.output_kind: OutputKind = output_kind
        self.k = k
        self.sigma: float | Literal["auto"] = sigma
        self.temperature = temperature
        self.strength = strength
        self.key_dtype: KeyDtype = key_dtype
        self.half = residual_dtype == "float16"
        self.wide = task == "regression" and residual_dtype in (None, "float64")
        self.m = _sparse_m(store)
        self.head = head
        self.preprocess = preprocess
        self.fitted = fitted
        self.method, self.gate = method, gate
        self.metric: Metric = metric

    def fit(
        self,
        embeddings: npt.ArrayLike,
        outputs: npt.ArrayLike | None,
        targets: npt.ArrayLike,
        ids: npt.ArrayLike | None = None,
    ) -> OracleMemory:
        keys = self._keys(embeddings)
        stored, _ = self._residuals(keys, outputs, targets)
        self.keys_: Float32 = keys[:0]
        self.targets_ = np.asarray(targets)[:0]
        self.stored_: tuple[Array, ...] = tuple(part[:0] for part in stored)
        self.residual_error_ = 0.0
        self.ids_: Int64 = np.empty(0, dtype=np.int64)
        self.alive_: Bool = np.empty(0, dtype=np.bool_)
        self.sigma_ = 1.0 if self.sigma == "auto" else self.sigma
        self.measured_ = self.sigma != "auto"
        return self.add(embeddings, outputs, targets, ids)

    def add(
        self,
        embeddings: npt.ArrayLike,
        outputs: npt.ArrayLike | None,
        targets: npt.ArrayLike,
        ids: npt.ArrayLike | None = None,
    ) -> OracleMemory:
        keys = self._keys(embeddings)
        stored, error = self._residuals(keys, outputs, targets)
        first = int(self.ids_.max(initial=-1)) + 1
        new = np.arange(first, first + len(keys)) if ids is None else np.asarray(ids)
        self.keys_ = np.concatenate([self.keys_, keys])
        self.targets_ = np.concatenate([self.targets_, np.asarray(targets)])
        pairs = zip(self.stored_, stored, strict=True)
        self.stored_ = tuple(np.concatenate(pair) for pair in pairs)
        self.residual_error_ = max(self.residual_error_, error)  # of every row ever held
        self.ids_ = np.concatenate([self.ids_, new.astype(np.int64)])
        self.alive_ = np.concatenate([self.alive_, np.ones(len(keys), dtype=np.bool_)])
        if not self.measured_ and len(self) >= 2:  # later rows, and removals, leave it as it is
            self.measured_, here = True, self.alive_
            wide = self.key_dtype == "float64"
            self.sigma_ = auto_sigma(self.keys_[here], self.ids_[here], self.k, wide, self.metric)
        return self

    def remove(self, ids: Sequence[int] | Array) -> OracleMemory:
        self.alive_ = self.alive_ & ~np.isin(self.ids_, np.asarray(ids, dtype=np.int64))
        return self

    def __len__(self) -> int:
        return int(np.count_nonzero(self.alive_))

    def kneighbors(
        self,
        embeddings: npt.ArrayLike,
        k: int | None = None,
        exclude_ids: npt.ArrayLike | None = None,
    ) -> tuple[Float64, Int64]:
        count = self.k if k is None else k
        wide = self.key_dtype == "float64"
        queries = preprocess(embeddings, self.preprocess, self.fitted, wide)
        return search(
            queries, self.keys_, count, self.metric, self.ids_, exclude_ids, self.alive_, wide
        )

    def correction(
        self,
        embeddings: npt.ArrayLike,
        exclude_ids: npt.ArrayLike | None = None,
        columns: npt.ArrayLike | None = None,
    ) -> Float64:
        distances, where = self._neighbours(embeddings, exclude_ids)
        if self.method == "targets":
            return _chosen(self._targets_mean(distances, where), columns)
        if self.m is None:
            (whole,) = self.stored_
            return _chosen(correction(distances, where, whole, self.sigma_), columns)
        index, value, rest = self.stored_
        sparse = sparse_correction(distances, where, index, value, rest, self.C_, self.sigma_)
        return _chosen(sparse, columns)

    def correct(
        self,
        embeddings: npt.ArrayLike,
        outputs: npt.ArrayLike | None = None,
        exclude_ids: npt.ArrayLike | None = None,
        columns: npt.ArrayLike | None = None,
    ) -> Float64:
        b = base(self.output_kind, self._outputs(embeddings, outputs), self.temperature)
        moved_by = self.correction(embeddings, exclude_ids)
        distances, where = self._neighbours(embeddings, exclude_ids)
        strengths = self._strengths(b, distances, where)
        corrected = correct(b, moved_by * strengths[:, None])
        if self.method == "targets":
            corrected = interpolate(b, moved_by, strengths, where)
        return _chosen(corrected, columns)

    def _neighbours(
        self, embeddings: npt.ArrayLike, exclude_ids: npt.ArrayLike | None
    ) -> tuple[Float64, Int64]:
        """Distances and positions in ``keys_`` of the neighbours, (q, k) each."""
        values, found = self.kneighbors(embeddings, exclude_ids=exclude_ids)
        distances = as_distances(values, self.metric)
        position_of = {int(row_id): position for position, row_id in enumerate(self.ids_)}
        positions = [[position_of.get(int(row_id), -1) for row_id in row] for row in found]
        return distances, np.array(positions, dtype=np.int64).reshape(found.shape)

    def _targets_mean(self, distances: Float64, where: Int64) -> Float64:
        summed = targets(self.task, self.targets_, self.C_)
        return correction(distances, where, summed, self.sigma_)

    def _strengths(self, b: Float64, distances: Float64, where: Int64) -> Float64:
        """The strength (q,) of every query."""
        features = {"distance": distances[:, 0], "confidence": b.max(axis=1)}
        if self.task == "classification":
            features["agreement"] = self._targets_mean(distances, where).max(axis=1)
        return gate(self.gate, features, self.strength)

    def predict(
        self,
        embeddings: npt.ArrayLike,
        outputs: npt.ArrayLike | None = None,
        exclude_ids: npt.ArrayLike | None = None,
    ) -> Array:
        if self.task == "regression":
            return self.correct(embeddings, outputs, exclude_ids)
        of = self.predict_proba if self.strength < 0 else self.correct
        labels: Int64 = np.argmax(of(embeddings, outputs, exclude_ids), axis=1)  # first largest
        return labels

    def predict_proba(
        self,
        embeddings: npt.ArrayLike,
        outputs: npt.ArrayLike | None = None,
        exclude_ids: npt.ArrayLike | None = None,
    ) -> Float64:
        if self.task == "regression":
            raise ValueError("predict_proba is for classification")
        b = base(self.output_kind, self._outputs(embeddings, outputs), self.temperature)
        corrected = self.correct(embeddings, outputs, exclude_ids)
        if self.method == "targets":
            return corrected
        return simplex(corrected, base=b, strength=self.strength)

    def _keys(self, embeddings: npt.ArrayLike) -> Float32 | Float64:
        """As they are stored."""
        wide = self.key_dtype == "float64"
        keys = preprocess(embeddings, self.preprocess, self.fitted, wide)
        return keys if wide else round_keys(keys, self.key_dtype)

    def _outputs(self, keys: npt.ArrayLike, outputs: npt.ArrayLike | None) -> npt.ArrayLike:
        """The outputs given, or those of the head."""
        if outputs is not None:
            return outputs
        if self.head is None:
            raise ValueError('outputs expected: only store="head" makes them')
        return head_logits(keys, *self.head)

    def _residuals(
        self, keys: Float32, outputs: npt.ArrayLike | None, targets: npt.ArrayLike
    ) -> tuple[tuple[Array, ...], float]:
        """What is stored for rows, and its ``error``: 0.0 for residuals that are kept whole."""
        if self.head is not None and outputs is not None:
            raise ValueError('no outputs expected for rows: store="head" makes them')
        outputs = self._outputs(keys, outputs)
        self.C_ = base(self.output_kind, outputs, self.temperature).shape[1]
        if self.m is None:
            kind = self.output_kind
            made = residuals(
                self.task, kind, outputs, targets, self.temperature, self.half, self.wide
            )
            return (made,), 0.0
        b = base(self.output_kind, outputs, self.temperature)
        index, value, rest, error = sparse_residuals(b, targets, self.m, self.half)
        return (index, value, rest), error


def _sparse_m(store: str) -> int | None:
    """``m`` of ``"sparse:m"``, None for the stores that keep residuals whole."""
    if store in ("dense", "head"):
        return None
    kind, _, m = store.partition(":")
    if kind != "sparse" or not m.isdecimal() or int(m) < 1:
        raise ValueError(f"store 'dense', 'sparse:m' (m >= 1) or 'head' expected, got {store!r}")
    return int(m)


def _chosen(result: Float64, columns: npt.ArrayLike | None) -> Float64:
    """Columns (t,), or (q, t) per row, of a result (q, C). None: all of it."""
    if columns is None:
        return result
    column = np.asarray(columns, dtype=np.int64)
    wanted = np.broadcast_to(column, (result.shape[0], column.shape[-1]))
    return np.take_along_axis(result, wanted, axis=1)
