"""The oracle against exact arithmetic: rationals rounded at every step; mpmath for exp and log."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

import mpmath  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import oracle

METRICS: tuple[oracle.Metric, ...] = get_args(oracle.Metric)
UNIT = Fraction(1, 2**53)  # unit roundoff of float64

few = settings(max_examples=40, deadline=None)


# ---- Correctly rounded float64 operations, by exact rationals -----------------------------
# float(Fraction) rounds to nearest even, subnormals included.


def add(a: float, b: float) -> float:
    return float(Fraction(a) + Fraction(b))


def sub(a: float, b: float) -> float:
    return float(Fraction(a) - Fraction(b))


def mul(a: float, b: float) -> float:
    return float(Fraction(a) * Fraction(b))


def div(a: float, b: float) -> float:
    return float(Fraction(a) / Fraction(b))


def sqrt(a: float) -> float:
    bits = 1200  # a * 4^bits is an integer, for every float64 `a`
    scaled = int(Fraction(a) * 4**bits)
    root = math.isqrt(scaled)
    sticky = int(root * root != scaled)  # an inexact root lies strictly above `root`
    return float(Fraction(2 * root + sticky, 2 * 2**bits))


PRECISION_AND_RANGE = {"float32": (24, 128), "float16": (11, 16), "bfloat16": (8, 128)}


def rounded(x: float, dtype: str) -> float:
    """Return the multiple of the last digit's value in ``dtype`` nearest to ``x``; ties to even."""
    precision, beyond = PRECISION_AND_RANGE[dtype]  # significant bits; all is below 2^beyond
    if x == 0.0:
        return x
    digit = Fraction(2) ** (max(math.frexp(x)[1], 3 - beyond) - precision)
    nearest = round(Fraction(x) / digit) * digit
    size = math.inf if abs(nearest) >= 2**beyond else float(abs(nearest))
    return math.copysign(size, x)


def single(x: float) -> float:
    return rounded(x, "float32")


def exact_csum(terms: Sequence[float]) -> float:
    p = [0.0] * 8
    for i, term in enumerate(terms):
        p[i % 8] = add(p[i % 8], term)
    even = add(add(p[0], p[4]), add(p[2], p[6]))
    odd = add(add(p[1], p[5]), add(p[3], p[7]))
    return add(even, odd)


def exact_dot(q: Sequence[float], x: Sequence[float]) -> float:
    return exact_csum([mul(a, b) for a, b in zip(q, x, strict=True)])


def exact_key(q: Sequence[float], x: Sequence[float], metric: str) -> float:
    if metric in ("euclidean", "sqeuclidean"):
        difference = [sub(a, b) for a, b in zip(q, x, strict=True)]
        return exact_dot(difference, difference)
    if metric == "inner_product":
        return -exact_dot(q, x)
    norms = mul(exact_dot(q, q), exact_dot(x, x))
    return 1.0 if norms == 0 else max(0.0, sub(1.0, div(exact_dot(q, x), sqrt(norms))))


def exact_value(q: Sequence[float], x: Sequence[float], metric: str) -> float:
    key = exact_key(q, x, metric)
    if metric == "euclidean":
        return sqrt(key)
    return -key if metric == "inner_product" else key


def exact_cexp(x: float) -> float:
    """The contract's steps for a finite or infinite ``x``, written apart from the oracle."""
    x = min(max(x, -746.0), 710.0)
    n = sub(add(mul(x, float.fromhex("0x1.71547652b82fep+0")), 1.5 * 2**52), 1.5 * 2**52)
    high, low = float.fromhex("0x1.62e42fee00000p-1"), float.fromhex("0x1.a39ef35793c76p-33")
    r = sub(sub(x, mul(n, high)), mul(n, low))
    q = float(Fraction(1, math.factorial(13)))
    for j in range(12, 1, -1):
        q = add(mul(q, r), float(Fraction(1, math.factorial(j))))
    e = add(1.0, add(r, mul(mul(r, r), q)))
    try:
        return float(Fraction(e) * Fraction(2) ** int(n))
    except OverflowError:
        return math.inf


def exact_running_sum(terms: Sequence[float]) -> float:
    total = 0.0
    for term in terms:
        total = add(total, term)
    return total


def exact_sum(terms: Sequence[float]) -> Fraction:
    """Return the true sum, without any rounding."""
    return sum((Fraction(term) for term in terms), Fraction(0))


def same_bits(actual: npt.ArrayLike, expected: npt.ArrayLike) -> None:
    a, b = np.asarray(actual), np.asarray(expected)
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes(), (a, b)


# ---- Strategies ---------------------------------------------------------------------------

# Small integers make ties; the rest is any finite float32, subnormals and extremes included.
elements = st.one_of(
    st.integers(-2, 2).map(float),
    st.floats(-4, 4, width=32),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)


def matrices(n: int, d: int) -> st.SearchStrategy[oracle.Float32]:
    return arrays(np.float32, (n, d), elements=elements)


@st.composite
def queries_and_rows(draw: Callable[..., Any]) -> tuple[oracle.Float32, oracle.Float32]:
    q, n, d = draw(st.integers(1, 2)), draw(st.integers(1, 8)), draw(st.integers(1, 19))
    return draw(matrices(q, d)), draw(matrices(n, d))


# ---- The file itself ----------------------------------------------------------------------


def test_the_oracle_imports_numpy_and_the_standard_library_only() -> None:
    tree = ast.parse(Path(oracle.__file__).read_text(encoding="utf-8"))
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            modules.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Name):
            assert node.id not in ("__import__", "importlib", "exec", "eval")
    assert modules == {"__future__", "collections", "fractions", "math", "numpy", "typing"}


@pytest.mark.parametrize("a", [0.0, 5e-324, 1e-310, 2.0, 3.0, 1e300, 1.7976931348623157e308])
def test_the_rational_square_root_is_that_of_ieee(a: float) -> None:
    assert sqrt(a) == math.sqrt(a)


# ---- Stored values ------------------------------------------------------------------------


def finite_values(dtype: str) -> oracle.Float32:
    """Return every value >= 0 of ``dtype`` in order, from its bit patterns 0, 1, 2, ..."""
    if dtype == "float16":
        return np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    return (np.arange(0x7F80, dtype=np.uint32) << np.uint32(16)).view(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@few
@given(st.floats(width=32, allow_nan=False, allow_infinity=False) | st.floats(-9, 9, width=32))
def test_a_stored_key_is_the_nearest_value(dtype: oracle.KeyDtype, x: float) -> None:
    expected = rounded(x, dtype)
    if math.isinf(expected):
        with pytest.raises(ValueError, match=f"infinite as {dtype}"):
            oracle.round_keys([[x]], dtype)
    else:
        same_bits(oracle.round_keys([[x]], dtype), np.array([[expected]], dtype=np.float32))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_stored_values_stay_and_halfway_values_go_to_even(
    dtype: oracle.KeyDtype, sign: int
) -> None:
    values = finite_values(dtype)
    low, high = values[:-1], values[1:]
    half_way = ((low.astype(np.float64) + high) / 2).astype(np.float32)
    assert np.all((low < half_way) & (half_way < high))
    even = np.where(np.arange(low.size) % 2 == 0, low, high)
    below, above = np.nextafter(half_way, low), np.nextafter(half_way, high)
    for x, stored in ((values, values), (half_way, even), (below, low), (above, high)):
        same_bits(oracle.round_keys(sign * x[None], dtype), sign * stored[None])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_key_that_would_become_infinite_is_refused(dtype: oracle.KeyDtype, sign: int) -> None:
    largest, before = (float(x) for x in finite_values(dtype)[[-1, -2]])
    half_way = np.float32(largest + (largest - before) / 2)  # where the next value would be tied
    below = np.nextafter(half_way, np.float32(0))
    same_bits(oracle.round_keys([[sign * below]], dtype), np.array([[sign * largest]], np.float32))
    for x in (half_way, np.finfo(np.float32).max):
        with pytest.raises(ValueError, match=f"infinite as {dtype}"):
            oracle.round_keys(np.array([[0.0, sign * x]]), dtype)


def test_float32_keys_are_stored_as_they_are() -> None:
    keys = np.array([[1e-45, -0.0, 3.4e38, 1 / 3]], dtype=np.float32)
    same_bits(oracle.round_keys(keys, "float32"), keys)
    with pytest.raises(ValueError, match="dtype"):
        oracle.round_keys(keys, "float64")  # type: ignore[arg-type]


# ---- Canonical sum ------------------------------------------------------------------------

terms_ = st.lists(st.floats(-1e300, 1e300), max_size=40)


@few
@given(terms_)
def test_csum_is_the_sequence_of_correctly_rounded_additions(terms: list[float]) -> None:
    same_bits(oracle.csum(terms), np.float64(exact_csum(terms)))


@few
@given(terms_, st.integers(0, 20))
def test_csum_ignores_padding_with_zeros(terms: list[float], zeros: int) -> None:
    same_bits(oracle.csum(terms + [0.0] * zeros), oracle.csum(terms))


def test_csum_follows_the_tree_of_the_contract() -> None:
    # p_0 + p_4 first: the large terms cancel before anything small meets them.
    same_bits(oracle.csum([1e20, 1, 1, 1, -1e20, 1, 1, 1]), np.float64(6.0))
    # p_0 + p_4 absorbs the 1 before p_2 cancels the large term.
    same_bits(oracle.csum([1e20, 0, -1e20, 0, 1, 0, 0, 0]), np.float64(0.0))
    # Term 8 joins p_0, not the end of the sum.
    same_bits(oracle.csum([1e20, 1, 0, 0, 0, 0, 0, 0, -1e20]), np.float64(1.0))


def test_csum_is_over_the_last_axis_and_never_negative_zero() -> None:
    terms = np.random.default_rng(0).standard_normal((3, 4, 21))
    total = oracle.csum(terms)
    assert total.shape == (3, 4)
    for index in np.ndindex(3, 4):
        same_bits(total[index], np.float64(exact_csum(terms[index].tolist())))
    same_bits(oracle.csum(np.full((2, 9), -0.0)), np.zeros(2))
    same_bits(oracle.csum(np.empty((2, 0))), np.zeros(2))


# ---- Distances and order ------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@few
@given(queries_and_rows())
def test_keys_and_values_are_the_contract_step_by_step(
    metric: oracle.Metric, data: tuple[oracle.Float32, oracle.Float32]
) -> None:
    queries, rows = data
    q, x = queries.tolist(), rows.tolist()
    keys = np.array([[exact_key(a, b, metric) for b in x] for a in q])
    values = np.array([[exact_value(a, b, metric) for b in x] for a in q])
    # Equality, not bits: -p may be -0.0, which orders as 0.0 does.
    np.testing.assert_array_equal(oracle.order_key(queries, rows, metric), keys)
    same_bits(oracle.value(queries, rows, metric), values + 0.0)


@few
@given(queries_and_rows())
def test_the_canonical_distance_is_near_the_true_one(
    data: tuple[oracle.Float32, oracle.Float32],
) -> None:
    """Each term carries the roundings of the difference (twice, for it is squared) and of the
    product, then at most ceil(d/8) - 1 additions in its partial sum (the first is exact) and
    3 in the tree. Terms are >= 0 and nothing underflows (differences are multiples of 2^-149),
    so s = true * (1 + t), |t| <= (1 + u)^m - 1 with m the count of roundings.
    """
    queries, rows = data
    m = 3 + math.ceil(queries.shape[1] / 8) - 1 + 3
    bound = (1 + UNIT) ** m - 1
    keys = oracle.order_key(queries, rows, "sqeuclidean").tolist()
    for i, q in enumerate(queries.tolist()):
        for j, x in enumerate(rows.tolist()):
            true = sum((Fraction(a) - Fraction(b)) ** 2 for a, b in zip(q, x, strict=True))
            assert abs(Fraction(keys[i][j]) - true) <= bound * true


@pytest.mark.parametrize("metric", METRICS)
@few
@given(st.data())
def test_search_sorts_by_key_then_id(metric: oracle.Metric, data: st.DataObject) -> None:
    queries, rows = data.draw(queries_and_rows())
    n = rows.shape[0]
    ids = data.draw(st.permutations(range(0, 3 * n, 3)))
    alive = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    excluded = [data.draw(st.sampled_from([-1, *ids])) for _ in queries]
    k = data.draw(st.integers(1, n + 2))
    distances, found = oracle.search(queries, rows, k, metric, ids, excluded, alive)
    for i, q in enumerate(queries.tolist()):
        expected = sorted(
            (exact_key(q, x, metric), row_id, exact_value(q, x, metric))
            for x, row_id, live in zip(rows.tolist(), ids, alive, strict=True)
            if live and row_id != excluded[i]
        )[:k]
        padding = k - len(expected)
        assert found[i].tolist() == [e[1] for e in expected] + [-1] * padding
        worst = -math.inf if metric == "inner_product" else math.inf
        assert distances[i].tolist() == [e[2] for e in expected] + [worst] * padding
    assert distances.dtype == np.float64
    assert found.dtype == np.int64


@pytest.mark.parametrize("metric", METRICS)
def test_ties_go_to_the_smaller_id(metric: oracle.Metric) -> None:
    rows = np.ones((5, 3), dtype=np.float32)
    _, found = oracle.search(rows[:1], rows, 4, metric, ids=[9, 2, 7, 4, 1])
    assert found.tolist() == [[1, 2, 4, 7]]


def test_euclidean_is_ordered_by_the_square_not_by_the_root() -> None:
    # s = 1 and s = 1 + 2^-52 have the same root, 1.0; the larger s has the smaller id.
    distances, found = oracle.search([[0.0, 0.0]], [[1.0, 2.0**-26], [1.0, 0.0]], 2, ids=[3, 5])
    assert found.tolist() == [[5, 3]]
    assert distances.tolist() == [[1.0, 1.0]]


def test_inner_product_puts_the_largest_first() -> None:
    rows = np.array([[0, 1], [3, 3], [-5, 0], [2, 0]], dtype=np.float32)
    values, found = oracle.search([[1, 2]], rows, 5, "inner_product")
    assert found.tolist() == [[1, 0, 3, 2, -1]]  # 0 and 3 tie
    assert values.tolist() == [[9.0, 2.0, 2.0, -5.0, -math.inf]]


def test_cosine_of_zero_vectors_is_one() -> None:
    rows = np.array([[0, 0], [1, 0], [-1, 0], [0, 1e-45], [-0.0, 0]], dtype=np.float32)
    assert oracle.value([[0, 0]], rows, "cosine").tolist() == [[1.0] * 5]
    # The smallest float32 is no zero vector: qq * xx does not underflow.
    assert oracle.value([[2, 0]], rows, "cosine").tolist() == [[1.0, 0.0, 2.0, 1.0, 1.0]]
    assert oracle.value([[0, 1e-45]], rows, "cosine")[0, 3] == 0.0


def test_cosine_is_clamped_at_zero() -> None:
    rows = np.random.default_rng(0).standard_normal((200, 5)).astype(np.float32)
    clamped = 0
    for q, x in zip(rows.tolist(), (rows * np.float32(1 / 3)).tolist(), strict=True):
        quotient = div(exact_dot(q, x), sqrt(mul(exact_dot(q, q), exact_dot(x, x))))
        if quotient > 1.0:
            clamped += 1
            same_bits(oracle.value([q], [x], "cosine"), np.zeros((1, 1)))
    assert clamped > 0


@pytest.mark.parametrize("metric", METRICS)
def test_too_few_rows_are_padded(metric: oracle.Metric) -> None:
    worst = -math.inf if metric == "inner_product" else math.inf
    rows = np.eye(3, dtype=np.float32)
    distances, found = oracle.search(rows[:2], rows, 5, metric, alive=[True, False, True])
    assert found[:, 2:].tolist() == [[-1] * 3] * 2
    assert sorted(found[0, :2]) == sorted(found[1, :2]) == [0, 2]
    assert distances[:, 2:].tolist() == [[worst] * 3] * 2
    distances, found = oracle.search(rows[:2], rows[:0], 2, metric)
    assert found.tolist() == [[-1, -1]] * 2
    assert distances.tolist() == [[worst, worst]] * 2


def test_exclusions_are_by_id_and_per_query() -> None:
    rows = [[0.0], [1.0], [2.0], [3.0]]
    ids = [10, 11, 12, 13]

    def found(exclude: npt.ArrayLike | None) -> list[list[int]]:
        result: list[list[int]] = oracle.search([[0], [3]], rows, 3, "euclidean", ids, exclude)[
            1
        ].tolist()
        return result

    assert found(None) == found([-1, -1]) == found([3, 0]) == [[10, 11, 12], [13, 12, 11]]
    assert found(np.empty((2, 0))) == found(None)
    assert found([10, -1]) == [[11, 12, 13], [13, 12, 11]]
    assert found([[10, 12], [-1, 13]]) == [[11, 13, -1], [12, 11, 10]]
    assert found([[10, 10, -1], ids[:3]]) == [[11, 12, 13], [13, -1, -1]]


def test_extremes_of_float32_neither_overflow_nor_vanish() -> None:
    big, small = float(np.finfo(np.float32).max), 2.0**-149
    keys = oracle.order_key([[big], [small]], [[-big], [-small]], "sqeuclidean")
    assert keys[0, 0] == exact_key([big], [-big], "sqeuclidean") < math.inf
    assert keys[1, 1] == 2.0**-296


def test_float16_is_widened_before_the_arithmetic() -> None:
    half = np.array([[60000.0], [-60000.0]], dtype=np.float16)
    expected = (2 * float(half[0, 0])) ** 2
    assert oracle.order_key(half[:1], half, "sqeuclidean").tolist() == [[0.0, expected]]


def test_the_row_block_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    queries, rows = rng.standard_normal((3, 11)), rng.standard_normal((50, 11))
    whole = oracle.search(queries, rows, 9)
    monkeypatch.setattr(oracle, "ROW_BLOCK", 7)
    for one, other in zip(oracle.search(queries, rows, 9), whole, strict=True):
        same_bits(one, other)


# ---- exp ----------------------------------------------------------------------------------


def ulp_error(x: float, actual: float) -> float:
    """|actual - exp(x)| in units of the spacing of float64 at exp(x)."""
    with mpmath.workprec(160):
        true = mpmath.exp(mpmath.mpf(x))
        spacing = mpmath.ldexp(1, max(mpmath.frexp(true)[1] - 53, -1074))
        return float(abs(mpmath.mpf(actual) - true) / spacing)


LARGEST_X = 709.782712893384  # the largest float64 whose exp is below 2^1024


def test_cexp_is_within_2_ulp() -> None:
    rng = np.random.default_rng(0)
    half_way = (np.arange(-1070, 1023) + 0.5) * math.log(2)  # where |r| is largest
    x = np.concatenate(
        [
            rng.uniform(-745.2, LARGEST_X, 12_000),
            rng.uniform(-40, 0, 8_000),  # weights and softmax
            rng.uniform(-1, 1, 8_000),
            rng.uniform(-745.2, -708, 4_000),  # subnormal results
            rng.uniform(709, LARGEST_X, 2_000),
            rng.choice([-1, 1], 2_000) * np.exp(rng.uniform(-745, 6.5, 2_000)),
            half_way,
            np.nextafter(half_way, -np.inf),
            np.nextafter(half_way, np.inf),
        ]
    )
    errors = [ulp_error(*pair) for pair in zip(x.tolist(), oracle.cexp(x).tolist(), strict=True)]
    assert max(errors) <= 2.0
    assert max(errors) <= 1.0  # the largest error found; a larger one means changed arithmetic


def test_cexp_of_edge_cases_is_right() -> None:
    x = np.array([0.0, -0.0, 5e-324, -5e-324, 2.0**-54, -np.inf, np.inf])
    same_bits(oracle.cexp(x), np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0, np.inf]))
    beyond = [np.nextafter(LARGEST_X, np.inf), 709.79, 710.0, 711.0, 1e308]
    same_bits(oracle.cexp(beyond), np.full(5, np.inf))
    same_bits(oracle.cexp([-745.14, -746.0, -747.0, -1e308]), np.zeros(4))
    assert oracle.cexp(LARGEST_X) < np.inf
    assert oracle.cexp(-745.13) == 5e-324
    for edge in (LARGEST_X, -745.13, -745.1332191019412, -744.5, -708.3964185322641):
        assert ulp_error(edge, float(oracle.cexp(edge))) <= 1.0


def test_cexp_reduction_is_as_exact_as_the_contract_says() -> None:
    for i in range(-1077, 1026):
        assert Fraction(i) * Fraction(oracle.LN2_HI) == Fraction(i * oracle.LN2_HI)
    with mpmath.workprec(160):
        log2 = mpmath.log(2)
        assert float(1 / log2) == oracle.LOG2E
        assert float(log2 - mpmath.mpf(oracle.LN2_HI)) == oracle.LN2_LO
    for j in range(2, 14):
        assert 1.0 / math.factorial(j) == float(Fraction(1, math.factorial(j)))
    # |r|: largest half way between two n.
    x = ((np.arange(-1076, 1024) + 0.5) * math.log(2))[:, None] * (1 + np.arange(-3, 4) * 2.0**-52)
    n = np.rint(x * oracle.LOG2E)
    assert np.max(np.abs((x - n * oracle.LN2_HI) - n * oracle.LN2_LO)) <= 0.3466


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.floats(-747, 711), st.floats(-1, 1), st.floats(allow_nan=False)))
def test_cexp_is_the_contract_step_by_step(x: float) -> None:
    same_bits(oracle.cexp(x), np.float64(exact_cexp(x)))


def test_cexp_does_not_depend_on_the_position_of_a_value() -> None:
    x = np.random.default_rng(0).uniform(-750, 712, 101)
    whole = oracle.cexp(x)
    same_bits(np.array([oracle.cexp(one) for one in x]), whole)
    same_bits(oracle.cexp(x[::3]), whole[::3])


# ---- log ----------------------------------------------------------------------------------


def exact_clog(x: float) -> float:
    """The contract's steps, written apart from the oracle."""
    m, e = math.frexp(x)
    if Fraction(m) ** 2 < Fraction(1, 2):
        m, e = 2 * m, e - 1
    f = div(sub(m, 1.0), add(m, 1.0))
    s = mul(f, f)
    q = float(Fraction(2, 21))
    for j in range(9, 0, -1):
        q = add(mul(q, s), float(Fraction(2, 2 * j + 1)))
    high, low = float.fromhex("0x1.62e42fee00000p-1"), float.fromhex("0x1.a39ef35793c76p-33")
    return add(mul(e, high), add(add(f, f), add(mul(mul(f, s), q), mul(e, low))))


def log_ulp_error(x: float, actual: float) -> float:
    """|actual - log(x)| in units of the spacing of float64 at log(x), for x other than 1."""
    with mpmath.workprec(160):
        true = mpmath.log(mpmath.mpf(x))
        spacing = mpmath.ldexp(1, mpmath.frexp(true)[1] - 53)
        return float(abs(mpmath.mpf(actual) - true) / spacing)


def test_clog_is_within_3_ulp() -> None:
    rng = np.random.default_rng(0)
    near = np.exp2(rng.uniform(-52, -1, 6_000))  # distances from 1
    steps = np.arange(1.0, 2_001) * 2.0**-53
    powers = 2.0 ** np.arange(-1022.0, 1024)
    borders = oracle.SQRT_HALF * powers[1:]
    x = np.concatenate(
        [
            np.exp(rng.uniform(-708, 709, 8_000)),
            rng.uniform(0.5, 1.5, 12_000),  # where it is worst
            np.exp(rng.uniform(-14, 0, 4_000)),  # probabilities above the floor
            *(1 - near, 1 + near, 1 - steps, 1 + 2 * steps),
            *(powers, np.nextafter(powers[1:], 0), np.nextafter(powers, np.inf)),
            *(borders, np.nextafter(borders, 0), np.nextafter(borders, np.inf)),
        ]
    )
    pairs = zip(x.tolist(), oracle.clog(x).tolist(), strict=True)
    errors = [log_ulp_error(*pair) for pair in pairs if pair[0] != 1.0]
    assert max(errors) <= 3.0
    assert max(errors) <= 2.0  # the largest error found; a larger one means changed arithmetic


def test_clog_of_edge_cases_is_right() -> None:
    same_bits(oracle.clog(1.0), np.float64(0.0))
    largest, smallest = float(np.finfo(np.float64).max), oracle.SMALLEST_NORMAL
    edges = [smallest, np.nextafter(smallest, 1), 2.0**1023, largest, 1 - 2.0**-53, 1 + 2.0**-52]
    for edge in map(float, edges):
        assert log_ulp_error(edge, float(oracle.clog(edge))) <= 1.0
    # The others are scaled by this; no float64 lies between it and the root.
    below = float(np.nextafter(oracle.SQRT_HALF, 0))
    assert Fraction(below) ** 2 < Fraction(1, 2) < Fraction(oracle.SQRT_HALF) ** 2


@settings(max_examples=200, deadline=None)
@given(st.floats(min_value=2.0**-1022, allow_infinity=False) | st.floats(0.4, 2.1))
def test_clog_is_the_contract_step_by_step(x: float) -> None:
    # Equality, not bits: rationals have no -0.0.
    assert float(oracle.clog(x)) == exact_clog(x)


def test_clog_does_not_depend_on_the_position_of_a_value() -> None:
    x = np.exp(np.random.default_rng(0).uniform(-700, 700, 101))
    whole = oracle.clog(x)
    same_bits(np.array([oracle.clog(one) for one in x]), whole)
    same_bits(oracle.clog(x[::3]), whole[::3])


# ---- Softmax, residuals -------------------------------------------------------------------


@few
@given(
    st.lists(st.floats(-50, 50, width=32) | st.just(-math.inf), max_size=18),
    st.floats(-50, 50, width=32),
    st.sampled_from([1.0, 0.3, 7.0]),
)
def test_softmax_is_the_contract_step_by_step(
    others: list[float], finite: float, temperature: float
) -> None:
    row = [*others, finite]
    z = [value if math.isinf(value) else div(value, temperature) for value in row]
    e = [exact_cexp(value if math.isinf(value) else sub(value, max(z))) for value in z]
    expected = [div(value, exact_csum(e)) for value in e]
    same_bits(oracle.softmax([row, row], temperature), np.array([expected, expected]))


def test_softmax_rows_sum_to_1() -> None:
    rows = np.array([[0, 0, 0, 0], [3e38, -3e38, 0, 0], [-np.inf, 5, -np.inf, 5]], np.float32)
    expected = [[0.25] * 4, [1, 0, 0, 0], [0, 0.5, 0, 0.5]]
    same_bits(oracle.softmax(rows), np.array(expected))
    wide = np.random.default_rng(0).standard_normal((20, 1000)).astype(np.float32)
    # Each term is rounded in its division, the sum in at most 125 + 3 additions.
    assert np.max(np.abs(oracle.softmax(wide).sum(axis=1) - 1)) <= 150 * 2.0**-53


def test_base_of_each_output_kind_is_right() -> None:
    logits = np.array([[1, 2], [3, -np.inf]], dtype=np.float32)
    same_bits(oracle.base("logits", logits, 2.0), oracle.softmax(logits, 2.0))
    probabilities = np.array([[0.1, 0.9]], dtype=np.float32)
    same_bits(oracle.base("probabilities", probabilities), probabilities.astype(np.float64))
    same_bits(oracle.base("values", [0.1, 0.2]), np.array([[0.1], [0.2]]))
    same_bits(oracle.base("values", [[0.1, 0.2]]), np.array([[0.1, 0.2]]))
    with pytest.raises(ValueError, match="temperature"):
        oracle.base("probabilities", [[0.5]], 2.0)
    with pytest.raises(ValueError, match="temperature"):
        oracle.base("values", [[0.5]], 2.0)


def test_residuals_of_each_output_kind_are_right() -> None:
    logits = np.array([[1, 2, 0], [3, -1, 0]], dtype=np.float32)
    b = oracle.softmax(logits, 0.5)
    r = oracle.residuals("classification", "logits", logits, [2, 0], 0.5)
    same_bits(r, (np.array([[0, 0, 1], [1, 0, 0]]) - b).astype(np.float32))
    o = np.array([[0.1, 0.9]], dtype=np.float32)
    r = oracle.residuals("classification", "probabilities", o, [1])
    same_bits(r, np.array([[-float(o[0, 0]), 1 - float(o[0, 1])]], dtype=np.float32))
    # Rounded once, from float64: the difference vanishes if y or b is rounded first.
    r = oracle.residuals("regression", "values", [1.0], [1.0 + 2.0**-40])
    same_bits(r, np.array([[2.0**-40]], dtype=np.float32))
    r = oracle.residuals("regression", "values", [[1.0, 2.0]], [[1.5, -2.0]])
    same_bits(r, np.array([[0.5, -4.0]], dtype=np.float32))
    with pytest.raises(ValueError, match="output kind"):
        oracle.residuals("regression", "logits", logits, [0, 1])


def test_float16_residuals_are_rounded_twice() -> None:
    # float32 drops 2^-40 and leaves a tie, which goes to 1; at once it would be 1 + 2^-10.
    y = [1 + 2.0**-11 + 2.0**-40, 65519.99, 0.1]
    r = oracle.residuals("regression", "values", [0.0, 0.0, 0.0], y, half=True)
    expected = [[rounded(single(value), "float16")] for value in y]
    assert expected[:2] == [[1.0], [65504.0]]
    same_bits(r, np.array(expected, dtype=np.float16))


@pytest.mark.parametrize(("beyond", "half"), [(65520.0, True), (3.5e38, False), (3.5e38, True)])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_residual_that_would_become_infinite_is_refused(
    beyond: float, half: bool, sign: int
) -> None:
    with pytest.raises(ValueError, match="infinite as float"):
        oracle.residuals("regression", "values", [0.0, 0.0], [0.0, sign * beyond], half=half)


# ---- Sparse and head residuals ------------------------------------------------------------

# Few values, so that many tie; 0 is the probability of a logit of -inf.
some_bases = st.lists(
    st.sampled_from([0.0, 0.125, 0.25, 1.0]) | st.floats(0, 1) | st.floats(0, 1e-30),
    min_size=1,
    max_size=12,
)


def exact_sparse(
    b: list[float], y: int, m: int, half: bool
) -> tuple[list[int], list[float], float, float]:
    C, s = len(b), min(m, len(b) - 1)
    others = sorted((c for c in range(C) if c != y), key=lambda c: (-b[c], c))
    S = [y, *others[:s]]
    rho = exact_csum([0.0 if c in S else b[c] for c in range(C)])
    u = 0.0 if s + 1 == C else single(div(rho, C - s - 1))
    v = [single(add(sub(1.0, b[y]), u)), *(single(sub(u, b[c])) for c in S[1:])]
    if half:
        v = [rounded(value, "float16") for value in v]
    wrong = [abs(sub(b[c], u)) for c in range(C) if c not in S]
    for c, value in zip(S, v, strict=True):
        wrong.append(abs(sub(sub(value, u), sub(float(c == y), b[c]))))
    return S, v, u, max(wrong)


@settings(max_examples=150, deadline=None)
@given(some_bases, st.integers(0, 11), st.integers(1, 14), st.booleans())
def test_sparse_residuals_are_the_contract_step_by_step(
    b: list[float], y: int, m: int, half: bool
) -> None:
    y %= len(b)
    S, v, u, error = exact_sparse(b, y, m, half)
    index, value, rest, largest = oracle.sparse_residuals(np.array([b]), [y], m, half)
    same_bits(index, np.array([S], dtype=np.int32))
    same_bits(value, np.array([v], dtype=np.float16 if half else np.float32))
    same_bits(rest, np.array([u], dtype=np.float32))
    same_bits(largest, error)
    kept = [sub(v[S.index(c)], u) if c in S else -u for c in range(len(b))]
    # Equality, not bits: rationals have no -0.0.
    np.testing.assert_array_equal(oracle.sparse_dense(index, value, rest, len(b)), [kept])


def test_sparse_residuals_match_hand_calculation() -> None:
    b = np.array([[0.25, 0.125, 0.25, 0.25, 0.125], [0.0, 0.0, 0.0, 1.0, 0.0]])
    index, value, rest, error = oracle.sparse_residuals(b, [3, 1], 2)
    assert index.tolist() == [[3, 0, 2], [1, 3, 0]]  # ties by the smaller class
    assert rest.tolist() == [0.125, 0.0]
    assert value.tolist() == [[0.875, -0.125, -0.125], [1.0, -1.0, 0.0]]
    assert error == 0.0  # the rest is spread evenly already
    assert oracle.sparse_residuals(b[:1], [3], 1)[3] == 0.25 - single(0.5 / 3)  # class 2


def test_sparse_residuals_round_in_the_order_of_the_contract() -> None:
    # Half way between two float32 but for 2^-52, which is there only if classes 2 and 10 meet
    # in one partial sum: the classes of S, 1 and 9, must keep their places.
    b = np.zeros((1, 18))
    b[0, [0, 2, 9, 10]] = 1 + 2.0**-24, 2.0**-53, 2.0, 2.0**-53
    assert oracle.sparse_residuals(b, [1], 1)[2].tolist() == [(1 + 2.0**-23) / 16]
    # 1 - b_y rounds to 1 - 2^-53; with u = 3 * 2^-24 that is half way, to the bit. Added to u
    # first, b_y would leave less.
    b = np.array([[5 * 2.0**-55, 1.0, 3 * 2.0**-24]])
    assert oracle.sparse_residuals(b, [0], 1)[1][0, 0] == 1 + 2.0**-22


def test_sparse_residuals_of_one_class_or_no_row_are_right() -> None:
    index, value, rest, error = oracle.sparse_residuals(np.array([[1.0]]), [0], 4)
    assert (index.tolist(), value.tolist(), rest.tolist(), error) == ([[0]], [[0.0]], [0.0], 0.0)
    index, value, rest, error = oracle.sparse_residuals(np.empty((0, 5)), [], 2)
    assert (index.shape, value.shape, rest.shape, error) == ((0, 3), (0, 3), (0,), 0.0)


def test_a_sparse_value_that_would_become_infinite_is_refused() -> None:
    for b, half in ((1e5, True), (1e39, False)):
        with pytest.raises(ValueError, match="infinite as float"):
            oracle.sparse_residuals(np.array([[b, 0.0]]), [1], 1, half)


@st.composite
def softmax_rows(draw: Callable[..., Any]) -> tuple[oracle.Float64, list[int]]:
    """Draw base outputs of 1 to 6 rows, with zeros and ties among them, and their classes."""
    n, C = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    logit = st.sampled_from([-math.inf, 0.0, 2.0]) | st.floats(-12, 12, width=32)
    logits = draw(arrays(np.float32, (n, C), elements=logit))
    labels = draw(st.lists(st.integers(0, C - 1), min_size=n, max_size=n))
    logits[:, draw(st.integers(0, C - 1))] = 1.0  # no row is all -inf
    return oracle.softmax(logits, 1.5), labels


def true_residuals(b: oracle.Float64, labels: list[int]) -> list[list[Fraction]]:
    rows = zip(b.tolist(), labels, strict=True)
    return [[(c == y) - Fraction(b_c) for c, b_c in enumerate(row)] for row, y in rows]


@few
@given(softmax_rows(), st.integers(1, 12), st.booleans())
def test_the_error_of_sparse_residuals_bounds_every_column(
    rows: tuple[oracle.Float64, list[int]], m: int, half: bool
) -> None:
    b, labels = rows
    index, value, rest, error = oracle.sparse_residuals(b, labels, m, half)
    kept = oracle.sparse_dense(index, value, rest, b.shape[1])
    true = true_residuals(b, labels)
    # Three roundings of numbers of at most 2 stand between the error and the true one.
    slack = 6 * UNIT
    for i, residual in enumerate(true):
        for c, r in enumerate(residual):
            assert abs(Fraction(float(kept[i, c])) - r) <= Fraction(error) + slack

    n = len(labels)
    positions, distances = np.arange(n)[None], np.sort(np.arange(n) % 3 * 0.7)[None]
    e, W = oracle.weights(distances[0], 0.8)
    w = [Fraction(x) / Fraction(float(W)) for x in e.tolist()]
    corrected = oracle.sparse_correction(distances, positions, index, value, rest, b.shape[1], 0.8)
    for c, total in enumerate(corrected[0].tolist()):
        exact = sum((w[j] * true[j][c] for j in range(n)), Fraction(0))
        # At most 4 roundings for each neighbour, and a sum of weights that n of them make.
        assert abs(Fraction(total) - exact) <= Fraction(error) + slack + 12 * n * UNIT


@few
@given(softmax_rows(), st.integers(1, 12))
def test_rest_of_sparse_residuals_is_small_and_spread_evenly(
    rows: tuple[oracle.Float64, list[int]], m: int
) -> None:
    b, labels = rows
    C = b.shape[1]
    index, value, rest, _ = oracle.sparse_residuals(b, labels, m)
    kept = oracle.sparse_dense(index, value, rest, C)
    for row, S, residual in zip(b.tolist(), index.tolist(), kept.tolist(), strict=True):
        outside = [row[c] for c in range(C) if c not in S]
        rho = exact_csum([0.0 if c in S else row[c] for c in range(C)])
        for b_c in outside:
            assert b_c <= rho
            assert b_c <= min(row[c] for c in S[1:])
        # Residuals sum to 1 - sum b. float32 rounds each v, at most 2, and u, which all share.
        true = 1 - exact_sum(row)
        assert abs(exact_sum(residual) - true) <= (len(S) + C) * Fraction(1, 2**23)


@few
@given(softmax_rows(), st.integers(0, 3), st.booleans())
def test_sparse_residuals_of_all_classes_are_the_dense_ones(
    rows: tuple[oracle.Float64, list[int]], more: int, half: bool
) -> None:
    b, labels = rows
    n, C = b.shape
    probabilities = b.astype(np.float32)
    dense = oracle.residuals("classification", "probabilities", probabilities, labels, half=half)
    stored = oracle.sparse_residuals(
        oracle.widen(probabilities), labels, max(1, C - 1 + more), half
    )[:3]
    # To the bit: u is 0, and v is rounded as a dense residual is.
    same_bits(oracle.sparse_dense(*stored, C), oracle.widen(dense))
    positions, distances = np.arange(n)[None], np.arange(n)[None] * 0.3
    same_bits(
        oracle.sparse_correction(distances, positions, *stored, C, 0.5),
        oracle.correction(distances, positions, dense, 0.5),
    )


@few
@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 3), st.booleans(), st.integers(0, 99))
def test_the_sparse_correction_is_the_contract_step_by_step(
    neighbours: int, C: int, padding: int, half: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    S = np.argsort(rng.random((7, C)), axis=1)[:, : rng.integers(1, C + 1)].astype(np.int32)
    v = rng.standard_normal(S.shape).astype(np.float16 if half else np.float32)
    u = rng.standard_normal(7).astype(np.float32)
    at = rng.permutation(7)[:neighbours].tolist()
    D = sorted(rng.random(neighbours).tolist())
    weights, W = oracle.weights(D, 0.3)
    e = weights.tolist()

    U = exact_running_sum([mul(e_j, -float(u[j])) for e_j, j in zip(e, at, strict=True)])
    expected = [U] * C
    for e_j, j in zip(e, at, strict=True):
        for c, value in zip(S[j].tolist(), v[j].tolist(), strict=True):
            expected[c] = add(expected[c], mul(e_j, value))
    expected = [div(total, float(W)) for total in expected]
    none = [-1] * (neighbours + padding)
    positions = np.array([at + [-1] * padding, none])
    distances = np.array([D + [np.inf] * padding, [np.inf] * len(none)])
    same_bits(
        oracle.sparse_correction(distances, positions, S, v, u, C, 0.3),
        np.array([expected, [0.0] * C]),
    )


@few
@given(st.integers(1, 19), st.integers(1, 4), st.data())
def test_head_logits_are_the_contract_step_by_step(d: int, C: int, data: st.DataObject) -> None:
    x, W = data.draw(matrices(2, d)), data.draw(matrices(C, d))
    a = data.draw(matrices(1, C))[0]
    largest = float(np.finfo(np.float32).max)
    expected = [
        [
            max(-largest, min(largest, single(add(exact_dot(weight, key), bias))))
            for weight, bias in zip(W.tolist(), a.tolist(), strict=True)
        ]
        for key in x.tolist()
    ]
    # Equality, not bits: rationals have no -0.0.
    np.testing.assert_array_equal(oracle.head_logits(x, W, a), np.array(expected, np.float32))


def test_head_logits_are_rounded_once() -> None:
    # The sum is half way between two float32, where it would go to 1; the bias lifts it.
    logits = oracle.head_logits([[1, 1]], [[1, 2.0**-24]], [2.0**-30])
    same_bits(logits, np.array([[1 + 2.0**-23]], dtype=np.float32))


def test_head_logits_beyond_float32_are_its_largest() -> None:
    largest = np.finfo(np.float32).max
    below = np.nextafter(largest, np.float32(0))
    W, a = np.array([[1e38, 0], [0, largest], [0, largest]], np.float32), [0, 0, 1.1e31]
    # 1.1e31 is more than half the spacing there.
    same_bits(oracle.head_logits([[9, 1]], W, a), np.array([[largest] * 3]))
    same_bits(oracle.head_logits([[-9, -1]], W, a), np.array([[-largest, -largest, -below]]))


# ---- Weights, correction, prediction ------------------------------------------------------


@few
@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=12).map(sorted),
    st.sampled_from([1.0, 0.01, 3.7]),
    st.integers(0, 3),
    st.integers(0, 2**32),
)
def test_weights_and_correction_are_the_contract_step_by_step(
    D: list[float], sigma: float, padding: int, seed: int
) -> None:
    e = [exact_cexp(div(sub(D[0], distance), sigma)) for distance in D]
    W = exact_running_sum(e)
    padded = np.array([D + [np.inf] * padding])
    found, total = oracle.weights(padded, sigma)
    same_bits(found, np.array([e + [0.0] * padding]))
    same_bits(total, np.array([W]))

    rng = np.random.default_rng(seed)
    r = rng.standard_normal((20, 3)).astype(np.float32)
    at = rng.permutation(20)[: len(D)].tolist()
    sums = [
        exact_running_sum([mul(e_j, float(r[j, c])) for e_j, j in zip(e, at, strict=True)])
        for c in range(3)
    ]
    positions = np.array([at + [-1] * padding])
    expected = np.array([[div(total, W) for total in sums]])
    same_bits(oracle.correction(padded, positions, r, sigma), expected)


def test_weights_of_edge_cases_are_right() -> None:
    D = [1.0, 2.0, 2.0, 1e30, np.inf]
    for sigma, expected in ((np.inf, [1.0, 1.0, 1.0, 1.0, 0.0]), (5e-324, [1.0, 0, 0, 0, 0])):
        e, W = oracle.weights(D, sigma)
        same_bits(e, np.array(expected))
        assert sum(expected) == W
    same_bits(oracle.weights([1e30, 1e30], 1e-300)[0], np.array([1.0, 1.0]))  # never NaN
    e, W = oracle.weights([[np.inf, np.inf], [3, np.inf]], 1.0)
    same_bits(e, np.array([[0.0, 0], [1, 0]]))
    same_bits(W, np.array([1.0, 1.0]))
    assert [part.shape for part in oracle.weights(np.empty((2, 0)), 1.0)] == [(2, 0), (2,)]


@few
@given(
    st.integers(1, 6), st.integers(2, 12), st.sampled_from([0.7, math.inf]), st.integers(0, 2**32)
)
def test_votes_that_tie_are_equal_in_any_order(votes: int, C: int, sigma: float, seed: int) -> None:
    """Some classes have equally many votes of rows at one distance, over a uniform base."""
    rng = np.random.default_rng(seed)
    tied = rng.permutation(C)[: rng.integers(2, C + 1)]
    y = rng.permutation(np.repeat(tied, votes))
    logits, at = np.zeros((len(y), C), np.float32), np.arange(len(y))[None]
    r = oracle.residuals("classification", "logits", logits, y)
    D = np.full((1, len(y)), rng.random())
    corrected = oracle.correct(oracle.softmax(logits[:1]), oracle.correction(D, at, r, sigma), 0.7)
    assert len(set(corrected[0, tied].tolist())) == 1
    assert np.argmax(corrected) == tied.min()
    index, value, rest, _ = oracle.sparse_residuals(oracle.softmax(logits), y, 2)
    sparse = oracle.sparse_correction(D, at, index, value, rest, C, sigma)
    assert sparse[0, tied].max() > sparse[0].min() or len(tied) == C


def test_correction_of_nothing_is_zero() -> None:
    r = np.full((3, 2), 7, dtype=np.float32)
    none = np.full((2, 4), -1)
    same_bits(oracle.correction(np.full((2, 4), np.inf), none, r, 1.0), np.zeros((2, 2)))


def test_correct_multiplies_then_adds() -> None:
    b, c, strength = 0.1, 0.3, 1.7
    expected = np.array([[add(b, mul(strength, c))]])
    same_bits(oracle.correct([[b]], [[c]], strength), expected)


# ---- Probabilities ------------------------------------------------------------------------

some_corrected = st.lists(
    st.floats(-2, 2)
    | st.integers(-1, 2).map(float)  # ties
    | st.floats(-1e-6, 1e-6)
    | st.floats(-1e9, 1e9),
    min_size=1,
    max_size=20,
)
some_floors = st.sampled_from([0.0, 1e-6, 0.01, 0.3, 1.0])


def exact_tau(y: list[float], mass: float, where: list[int], C: int) -> float:
    """Return tau of the possible classes, which stand at these places among all."""
    tau, n = -math.inf, len(y) + 1
    while 0 < sum(value > tau for value in y) < n:
        n = sum(value > tau for value in y)
        terms = [0.0] * C
        for c, value in zip(where, y, strict=True):
            terms[c] = value if value > tau else 0.0
        tau = div(sub(exact_csum(terms), mass), n)
    return tau


def floor_of(floor: float, C: int) -> float:
    return min(mul(floor, min(1.0, div(100.0, C))), div(1.0, 2 * C))


some_bases = st.lists(
    st.sampled_from([0.0, 5e-324, 1e-12, 0.25, 1.0]) | st.floats(0, 1), min_size=20, max_size=20
)
some_kinds: Any = st.sampled_from(["clip", "project", "keep"])


@settings(max_examples=200, deadline=None)
@given(
    some_corrected, some_floors, some_kinds, st.none() | some_bases,
    st.sampled_from([1.0, 0.3, -0.5]), st.integers(1, 12),
)  # fmt: skip
def test_simplex_is_the_contract_step_by_step(
    v: list[float], floor: float, kind: oracle.MapKind, base: list[float] | None,
    strength: float, copies: int,
) -> None:  # fmt: skip
    v = v * copies  # sometimes more than 100 classes
    C = len(v)
    b = None if base is None else (base * copies * 20)[:C]
    if kind == "keep" and b is None:
        return
    if floor == 0.0 and kind != "project":
        v[0] = max(v[0], 1e-3)  # something must be left
    given = [True] * C if b is None else [b_c > 0 for b_c in b]
    if not any(given):
        return
    if b is not None and floor == 0.0:
        b[0] = max(b[0], 1e-3)
        given[0] = True
    least = floor_of(floor, C)
    f = [least if known else 0.0 for known in given]
    if kind == "keep":
        assert b is not None
        f = [max(mul(floor, b_c), 1e-9) if b_c > 0 else 0.0 for b_c in b]
    possible = [known or (x > 0 and strength > 0) for known, x in zip(given, v, strict=True)]
    a = 0.0
    if kind == "project":
        y = [
            x if known else add(x, least)
            for x, known, can in zip(v, given, possible, strict=True)
            if can
        ]
        where = [c for c in range(C) if possible[c]]
        a = sub(exact_tau(y, sub(1.0, mul(sum(given), least)), where, C), least)
    u = [max(sub(x, a), f_c) if can else 0.0 for x, f_c, can in zip(v, f, possible, strict=True)]
    expected = np.array([[div(x, exact_csum(u)) for x in u]])
    if b is not None and v == b:
        expected = np.array([b])
    same_bits(oracle.simplex([v], floor, kind, None if b is None else [b], strength), expected)
    if b is None or v != b:
        assert abs(exact_sum(expected[0].tolist()) - 1) <= (C + 8) * UNIT
    assert (
        ((expected[0] == 0) == [not can for can in possible]).all()
        or floor == 0
        or v == b
        or (kind == "project")
    )


def test_simplex_keeps_its_floor() -> None:
    half = np.array([[0.5, 0.5]])
    same_bits(oracle.simplex([[-1.0, -1.0]], floor=1.0), half)
    same_bits(oracle.simplex([[-1.0, 0.75]], floor=1.0), np.array([[0.25, 0.75]]))  # at most 1/2
    same_bits(oracle.simplex([[-1.0, 1.0]], 1.0, "project"), np.array([[0.25, 0.75]]))
    same_bits(oracle.simplex([[-1.0, 1.0]], 0.125, "project"), np.array([[0.125, 0.875]]))
    same_bits(oracle.simplex([[-0.0, 1.0]], 0.0), np.array([[0.0, 1.0]]))
    same_bits(oracle.simplex([[-0.0, 1.0]], 0.0, "project"), np.array([[0.0, 1.0]]))


@pytest.mark.parametrize("C", [2, 99, 100, 101, 50_000, 262_144])
@pytest.mark.parametrize("kind", ["clip", "project", "keep"])
def test_floors_take_little_whatever_the_number_of_classes(kind: oracle.MapKind, C: int) -> None:
    """Floors take little from a sure class, even over a base that is sure of another."""
    base = np.full((1, C), 1e-30)
    base[0, 1] = 1.0
    v = np.zeros((1, C))
    v[0, 0] = 1.0
    p = oracle.simplex(v, {"keep": 0.1}.get(kind, 1e-6), kind, base)[0]
    taken = 0.1 / 1.1 + 1e-9 * C if kind == "keep" else 1e-4
    assert 1 - p[0] <= taken * (1 + 1e-9)
    assert p.min() > 0


def test_an_impossible_class_stays_so_unless_neighbours_have_it() -> None:
    b = [[0.75, 0.25, 0.0, 0.0]]
    for kind in ("clip", "project", "keep"):
        for strength in (1.0, -1.0):
            p = oracle.simplex([[0.5, 0.0, 0.5, -0.125]], 0.01, kind, b, strength)[0]
            assert p[3] == 0 < min(p[0], p[1])
            assert (p[2] > 0) == (strength > 0)
        same_bits(oracle.simplex(b, 0.01, kind, b), np.array(b))
    # By hand: the floor is that of two classes, and the third takes part without one.
    p = oracle.simplex([[0.75, -0.5, 0.5, -9.0]], 0.125, "project", b)
    same_bits(p, np.array([[0.5625, 0.125, 0.3125, 0.0]]))


def nearest_point(v: list[float], f: float) -> list[Fraction]:
    """Return the projection by sorting: the most columns that all lie above their tau give tau."""
    mass = 1 - len(v) * Fraction(f)
    total, tau = Fraction(0), Fraction(0)
    for n, value in enumerate(sorted(map(Fraction, v), reverse=True), 1):
        total += value
        if value > (total - mass) / n:
            tau = (total - mass) / n
    return [max(Fraction(value) - tau, Fraction(0)) + Fraction(f) for value in v]


@few
@given(some_corrected, some_floors)
def test_the_exact_projection_is_the_nearest_point(v: list[float], floor: float) -> None:
    """A point p of a convex set is the nearest to v if (v - p)(x - p) <= 0 for all its corners x:
    here the floor everywhere, but for what is left of 1 in one column."""
    f = min(floor, 1 / (2 * len(v)))
    p = nearest_point(v, f)
    assert sum(p) == 1
    assert min(p) >= Fraction(f)
    away = [Fraction(value) - p_c for value, p_c in zip(v, p, strict=True)]
    at_the_floor = sum(a * (Fraction(f) - p_c) for a, p_c in zip(away, p, strict=True))
    for a in away:
        assert at_the_floor + a * (1 - len(v) * Fraction(f)) <= 0


def projection_error(v: list[float]) -> Fraction:
    """Return how far a projected probability may be from the exact one.

    n * tau is a csum and M, rounded at most ceil(C / 8) + 7 times. sum max(v_c - tau, 0) falls by 1
    or more for every 1 that tau grows: no error of tau exceeds that of n * tau, doubled for
    columns that rounding puts on the wrong side of it. Then tau - f and v - a, and their sum T,
    which is 1 but for all that.
    """
    C, eighth = len(v), math.ceil(len(v) / 8)
    size = exact_sum([abs(value) for value in v]) + 1
    of_u = size * UNIT * (2 * (eighth + 7) + 6)
    of_T = C * of_u + (eighth + 3) * UNIT
    assert of_T < Fraction(1, 2)
    return 2 * (of_u + of_T) + 3 * UNIT


@settings(max_examples=200, deadline=None)
@given(some_corrected, some_floors)
def test_project_is_the_nearest_point_but_for_roundings(v: list[float], floor: float) -> None:
    p = oracle.simplex([v], floor, "project")[0].tolist()
    exact = nearest_point(v, floor_of(floor, len(v)))
    error = projection_error(v)
    assert all(abs(Fraction(a) - b) <= error for a, b in zip(p, exact, strict=True))
    # The order stays, and what is equal; what is on the simplex stays where it is.
    for a, p_a in zip(v, p, strict=True):
        for b, p_b in zip(v, p, strict=True):
            assert p_a <= p_b if a < b else p_a == p_b or a > b
    again = oracle.simplex([p], floor, "project")[0].tolist()
    error += projection_error(p)
    assert all(abs(Fraction(a) - Fraction(b)) <= error for a, b in zip(p, again, strict=True))


@pytest.mark.parametrize("floor", [0.0, 1e-6, 0.3])
def test_project_of_one_or_equal_columns_is_uniform(floor: float) -> None:
    for value in (-3.0, 0.0, 1.0, 1e9):
        same_bits(oracle.simplex([[value]], floor, "project"), np.array([[1.0]]))
        for C in (2, 3, 7, 8, 9, 100):
            p = oracle.simplex([[value] * C], floor, "project")
            assert len(set(p[0].tolist())) == 1
            # A sum of C equal numbers is rounded ceil(C / 8) + 2 times, the quotient once.
            assert abs(Fraction(p[0, 0]) * C - 1) <= (math.ceil(C / 8) + 4) * UNIT
    assert oracle.simplex(np.empty((0, 3)), floor, "project").shape == (0, 3)


# ---- Sweep --------------------------------------------------------------------------------


def test_sweep_is_the_definitions_of_every_query_and_setting() -> None:
    rng = np.random.default_rng(5)
    q, C, bins = 7, 4, 3
    r = rng.standard_normal((9, C)).astype(np.float32)
    D, at = np.sort(rng.random((q, 5)), axis=1), rng.integers(0, 9, (q, 5))
    D[1, 2:], at[1, 2:] = np.inf, -1
    D[2], at[2] = np.inf, -1
    b, y = oracle.softmax(rng.standard_normal((q, C))), rng.integers(0, C, q)
    b[3] = 0.25  # all equal: the first counts
    at[3] = -1
    ks, sigmas, strengths = (1, 3, 5), (0.4, math.inf), (1.0, -0.7)
    b[4, ::2] = 0.0  # impossible, but for some neighbours
    maps: Any = (("clip", 1e-6), ("project", 1e-6), ("project", 0.0), ("keep", 0.3))
    scores = oracle.sweep(D, at, r, b, y, ks, sigmas, strengths, maps, bins)
    assert scores.shape == (q, 3, 2, 2, 4, 3 + 3 * bins)
    for i, h, s, t, m in np.ndindex(scores.shape[:-1]):
        w = oracle.correction(D[i : i + 1, : ks[h]], at[i : i + 1, : ks[h]], r, sigmas[s])
        kind, floor = maps[m]
        corrected = oracle.correct(b[i : i + 1], w, strengths[t])
        p = oracle.simplex(corrected, floor, kind, b[i : i + 1], strengths[t])
        row, label = p[0].tolist(), int(y[i])
        expected = [math.inf if row[label] == 0 else -float(oracle.clog(row[label]))]
        correct = float(row.index(max(row)) == label)
        squares = [mul(d, d) for d in (sub(x, float(c == label)) for c, x in enumerate(row))]
        expected += [correct, exact_csum(squares)]
        for number in range(bins):
            top = Fraction(max(row)) * bins
            inside = number <= top < number + 1 or number == bins - 1 <= top
            expected += [1.0, max(row), correct] if inside else [0.0, 0.0, 0.0]
        assert scores[i, h, s, t, m].tolist() == expected


def test_sweep_matches_hand_calculation() -> None:
    where = [[0.0, 0.0], [math.inf] * 2], [[0, 1], [-1, -1]]
    r, b = np.array([[0.5, -0.5], [0.0, 0.0]], np.float32), [[0.25, 0.75], [0.5, 0.5]]
    scores = oracle.sweep(*where, r, b, [0, 1], [1, 2], [math.inf], [1.0], [("clip", 1e-6)], 2)
    log2, log3 = float(oracle.clog(2.0)), -float(oracle.clog(0.75))
    assert scores[:, 0, 0, 0, 0].tolist() == [
        [log3, 1.0, 0.125, 0.0, 0.0, 0.0, 1.0, 0.75, 1.0],
        [log2, 0.0, 0.5, 0.0, 0.0, 0.0, 1.0, 0.5, 0.0],
    ]
    assert scores[:, 1, 0, 0, 0, :3].tolist() == [[log2, 1.0, 0.5], [log2, 0.0, 0.5]]

    y = np.array([[1.0, 0.0], [0.0, 2.0]])
    scores = oracle.sweep(*where, r, b, y, [1, 2], [math.inf], [1.0, -2.0])
    assert scores.shape == (2, 2, 1, 2, 1, 2)
    assert scores[0, :, 0, :, 0].tolist() == [
        [[0.125, 0.5], [6.125, 3.5]],  # 0.75 0.25, and -0.75 1.75
        [[0.5, 1.0], [3.125, 2.5]],  # 0.5 0.5, and -0.25 1.25
    ]
    assert scores[1].reshape(4, 2).tolist() == [[2.5, 2.0]] * 4


# ---- sigma="auto" -------------------------------------------------------------------------


def column(*values: float) -> oracle.Float32:
    return np.array(values, dtype=np.float32)[:, None]


def test_auto_sigma_matches_hand_calculation() -> None:
    # k = 2, distances to the others: (1 3), (1 2), (2 3), (4 6): m = 1, 0.5, 0.5, 1.
    assert oracle.auto_sigma(column(0, 1, 3, 7), None, 2) == 0.75
    # Three rows, (1 3), (1 2), (2 3): m = 1, 0.5, 0.5; an odd count has one middle value.
    assert oracle.auto_sigma(column(0, 1, 3), None, 2) == 0.5
    # No more neighbours than the other rows.
    assert oracle.auto_sigma(column(0, 1, 3), None, 50) == 0.5


def test_auto_sigma_of_zero_distances_is_right() -> None:
    # Every row sees only equal distances: no positive m_i.
    assert oracle.auto_sigma(column(0, 0, 0, 0, 5), None, 3) == 1.0
    # Rows at 0 see four equal rows: m = 0. The row at 5 sees 1 5 5 5, that at 6 sees 1 6 6 6.
    keys = column(0, 0, 0, 0, 0, 5, 6)
    assert oracle.auto_sigma(keys, None, 4) == ((0 + 4 + 4 + 4) / 4 + (0 + 5 + 5 + 5) / 4) / 2
    # One neighbour: its m_i is 0. One row: there is no neighbour.
    assert oracle.auto_sigma(column(0, 1, 2), None, 1) == 1.0
    assert oracle.auto_sigma(column(3), None, 5) == 1.0


@pytest.mark.parametrize(("n", "k"), [(40, 7), (255, 3), (256, 3), (257, 3), (300, 5)])
def test_auto_sigma_is_measured_on_its_sample(n: int, k: int) -> None:
    rng = np.random.default_rng(n)
    keys = rng.standard_normal((n, 4)).astype(np.float32)
    ids = rng.permutation(2 * n)[:n]
    sample = range(n)
    if n > 256:  # one of each of 256 runs that are equally long, but for roundings
        starts = [math.floor(Fraction(j * n, 256)) for j in range(257)]
        lengths = np.diff(starts)
        drawn = np.random.RandomState(0).randint(0, lengths)
        sample = [first + int(r) for first, r in zip(starts, drawn, strict=False)]
    m = []
    for i in sample:
        D = [math.sqrt(s) for s in sorted(oracle.order_key(keys[[i]], keys, "euclidean")[0])]
        assert D[0] == 0.0 < D[1]  # itself, left out below
        gaps = [distance - D[1] for distance in D[1 : k + 1]]
        m.append(div(exact_running_sum(gaps), k))
    m.sort()
    half = len(m) // 2
    expected = m[half] if len(m) % 2 else div(add(m[half - 1], m[half]), 2)
    assert oracle.auto_sigma(keys, ids, k) == expected


# ---- Intervals, sets, novelty -------------------------------------------------------------


@few
@given(st.integers(1, 6), st.sampled_from([0.7, math.inf]), st.integers(0, 2**32 - 1))
def test_spread_is_the_contract_step_by_step(k: int, sigma: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    D, r = np.sort(rng.exponential(size=k)), rng.standard_normal((9, 2))
    at, a = rng.permutation(9)[:k], rng.standard_normal(2)
    e = [float(oracle.cexp(div(sub(D[0], x), sigma) if math.isfinite(sigma) else 0.0)) for x in D]
    expected = []
    for c in range(2):
        terms = [mul(w, abs(sub(r[row, c], a[c]))) for w, row in zip(e, at, strict=True)]
        expected.append(div(exact_running_sum(terms), exact_running_sum(e)))
    padded = np.append(D, np.inf)[None], np.append(at, -1)[None]
    assert oracle.spread(*padded, r, a[None], sigma)[0].tolist() == expected
    nobody = oracle.spread([[np.inf]], [[-1]], r, a[None], sigma)
    assert np.isnan(nobody).all()


def test_mass_above_sums_what_is_more_probable() -> None:
    p = [[0.25, 0.5, 0.25, 0.0], [0.0, 0.0, 1.0, 0.0]]
    expected = [[0.5, 0.0, 0.75, 1.0], [1.0, 1.0, 0.0, 1.0]]
    assert oracle.mass_above(p).tolist() == expected
    ranked = [0.4, 0.3, 0.2, 0.1]
    running = [0.0, 0.4, add(0.4, 0.3), add(add(0.4, 0.3), 0.2)]
    assert oracle.mass_above([ranked[::-1]])[0].tolist() == running[::-1]


def test_limit_is_the_score_of_its_rank_or_infinite() -> None:
    scores = [[3.0, 0.5], [1.0, 0.5], [2.0, 0.25]]
    for coverage, rank in (("0.25", 1), ("0.26", 2), ("0.5", 2), ("0.75", 3)):
        expected = [sorted(column)[rank - 1] for column in zip(*scores, strict=True)]
        assert oracle.limit(scores, coverage).tolist() == expected
    assert oracle.limit(scores, "0.76").tolist() == [math.inf, math.inf]
    assert oracle.limit(np.arange(9.0)[:, None], "0.7").tolist() == [6.0]  # 0.7 * 10 in float64


def test_novelty_counts_distances_from_the_querys_on() -> None:
    expected = [1.0, 4 / 5, 4 / 5, 2 / 5, 1 / 5, 1 / 5]
    asked = [0.0, 0.5, 1.0, 1.5, 2.5, math.inf]
    assert oracle.novelty(asked, [1.0, 0.0, 2.0, 1.0]).tolist() == expected


# ---- Preprocessing ------------------------------------------------------------------------


def exact_preprocess(
    e: Sequence[float], kind: str, mean: Sequence[float], scale: Sequence[float]
) -> list[float]:
    if kind == "unit":
        root = sqrt(exact_dot(e, e))
        return [single(div(x, root)) if root else x for x in e]
    centred = [sub(x, m) for x, m in zip(e, mean, strict=True)]
    if kind == "center":
        return [single(x) for x in centred]
    return [single(div(x, s)) for x, s in zip(centred, scale, strict=True)]


@pytest.mark.parametrize("kind", ["center", "standardize", "unit"])
@few
@given(st.data())
def test_preprocessing_is_the_contract_step_by_step(kind: str, data: st.DataObject) -> None:
    d = data.draw(st.integers(1, 19))
    e, mean = data.draw(matrices(2, d)), data.draw(matrices(1, d))[0].astype(float) / 3
    scale = np.abs(data.draw(matrices(1, d))[0].astype(float)) / 7 + 2.0**-149
    numbers = mean.tolist(), scale.tolist()
    expected = [exact_preprocess(row, kind, *numbers) for row in e.tolist()]
    fitted = {"mean": mean, "scale": scale}
    if np.isinf(expected).any():
        with pytest.raises(ValueError, match="infinite as float32"):
            oracle.preprocess(e, kind, fitted)
        return
    # Equality, not bits: rationals have no -0.0.
    np.testing.assert_array_equal(
        oracle.preprocess(e, kind, fitted), np.array(expected, np.float32)
    )


def test_preprocessing_rounds_to_float32_once() -> None:
    # Half way between two float32 values, where the even one is lower, and a little more.
    third = {"mean": [-(2.0**-24) - 2.0**-50], "scale": [1.0]}
    for kind in ("center", "standardize"):
        same_bits(oracle.preprocess([[1.0]], kind, third), np.array([[1 + 2.0**-23]], np.float32))


def test_preprocessing_matches_hand_calculation() -> None:
    e = [[3.0, -4.0], [0.0, 0.0]]
    fitted = {"mean": [1.0, 2.0], "scale": [0.5, 4.0]}
    head = {"weight": [[1.0, 2.0], [0.0, -1.0], [1.0, 1.0]], "bias": [1.0, 0.0, -3.0]}
    for name, numbers, expected in (
        ("none", None, e),
        ("center", fitted, [[2.0, -6.0], [-1.0, -2.0]]),
        ("standardize", fitted, [[4.0, -1.5], [-2.0, -0.5]]),
        ("unit", None, [[0.6, -0.8], [0.0, 0.0]]),
        ("pca:3", head, [[-4.0, 4.0, -4.0], [1.0, 0.0, -3.0]]),
        ("whiten:3", head, [[-4.0, 4.0, -4.0], [1.0, 0.0, -3.0]]),
    ):
        same_bits(oracle.preprocess(e, name, numbers), np.array(expected, np.float32))


def test_unit_of_largest_or_smallest_numbers_is_right() -> None:
    for size in (float(np.finfo(np.float32).max), 2.0**-149):
        half = oracle.preprocess([[size] * 4], "unit")
        same_bits(half, np.full((1, 4), 0.5, np.float32))


def test_keys_beyond_float32_are_refused() -> None:
    largest = float(np.finfo(np.float32).max)
    with pytest.raises(ValueError, match="infinite as float32"):
        oracle.preprocess([[largest]], "center", {"mean": [-1e32]})
    with pytest.raises(ValueError, match="infinite as float32"):
        oracle.preprocess([[1.0]], "standardize", {"mean": [0.0], "scale": [1e-39]})
    below = np.nextafter(np.float32(largest), np.float32(0))
    same_bits(oracle.preprocess([[below]], "pca:1", {"weight": [[1]], "bias": [0]}), [[below]])
    for e in (largest, -largest):
        with pytest.raises(ValueError, match="as large as the largest float32"):
            oracle.preprocess([[e]], "pca:1", {"weight": [[1.0]], "bias": [0.0]})


def test_invalid_preprocess_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown preprocess: 'sphere'"):
        oracle.preprocess([[1.0]], "sphere")
    with pytest.raises(ValueError, match="a weight of 2 rows expected for pca:2, got 1"):
        oracle.preprocess([[1.0]], "pca:2", {"weight": [[1.0]], "bias": [0.0]})


# ---- The whole memory ---------------------------------------------------------------------


def classification(n: int = 30, q: int = 6) -> tuple[oracle.OracleMemory, dict[str, Any]]:
    rng = np.random.default_rng(3)
    data: dict[str, Any] = {
        "keys": rng.standard_normal((n, 4)).astype(np.float32),
        "outputs": rng.standard_normal((n, 3)).astype(np.float32),
        "targets": rng.integers(0, 3, n),
        "ids": rng.permutation(n) + 100,
        "queries": rng.standard_normal((q, 4)).astype(np.float32),
        "query_outputs": rng.standard_normal((q, 3)).astype(np.float32),
    }
    memory = oracle.OracleMemory(k=5, temperature=1.5, strength=0.8)
    memory.fit(data["keys"], data["outputs"], data["targets"], data["ids"])
    return memory, data


def test_memory_puts_the_parts_together() -> None:
    memory, data = classification()
    assert memory.sigma_ == oracle.auto_sigma(data["keys"], data["ids"], 5)
    distances, found = memory.kneighbors(data["queries"])
    by_position = oracle.search(data["queries"], data["keys"], 5)[1]
    assert found.tolist() == data["ids"][by_position].tolist()
    r = oracle.residuals("classification", "logits", data["outputs"], data["targets"], 1.5)
    expected = oracle.correction(distances, by_position, r, memory.sigma_)
    same_bits(memory.correction(data["queries"]), expected)
    corrected = oracle.softmax(data["query_outputs"], 1.5) + 0.8 * expected
    arguments = data["queries"], data["query_outputs"]
    same_bits(memory.correct(*arguments), corrected)
    assert memory.predict(*arguments).tolist() == np.argmax(corrected, axis=1).tolist()
    b = oracle.softmax(data["query_outputs"], 1.5)
    same_bits(memory.predict_proba(*arguments), oracle.simplex(corrected, base=b, strength=0.8))
    memory.strength = -0.8
    p = oracle.simplex(b - 0.8 * expected, base=b, strength=-0.8)
    same_bits(memory.predict_proba(*arguments), p)
    assert memory.predict(*arguments).tolist() == np.argmax(p, axis=1).tolist()
    memory.strength = 0.0
    same_bits(memory.predict_proba(*arguments), b)


def test_memory_leaves_out_what_is_removed_or_excluded() -> None:
    memory, data = classification()
    _, found = memory.kneighbors(data["keys"], k=1)
    assert found[:, 0].tolist() == data["ids"].tolist()
    _, found = memory.kneighbors(data["keys"], k=29, exclude_ids=data["ids"])
    assert not np.any(found == data["ids"][:, None])
    memory.remove(data["ids"][:28].tolist())
    assert len(memory) == 2
    _, found = memory.kneighbors(data["queries"])
    assert sorted(found[0]) == [-1, -1, -1, *sorted(data["ids"][28:])]
    memory.remove(data["ids"][28:])
    assert len(memory) == 0
    b = oracle.softmax(data["query_outputs"], 1.5)
    same_bits(memory.correct(data["queries"], data["query_outputs"]), b)


def test_memory_added_to_in_parts_corrects_as_one() -> None:
    memory, data = classification()
    parts = oracle.OracleMemory(k=5, sigma=memory.sigma_, temperature=1.5, strength=0.8)
    columns = [data[name] for name in ("keys", "outputs", "targets", "ids")]
    parts.fit(*(column[:11] for column in columns)).add(*(column[11:] for column in columns))
    arguments = data["queries"], data["query_outputs"]
    same_bits(parts.correct(*arguments), memory.correct(*arguments))
    assert parts.add(*(column[:2] + 1 for column in columns[:3])).ids_[-2:].tolist() == [130, 131]


def test_memory_takes_the_first_of_equal_classes() -> None:
    memory = oracle.OracleMemory(output_kind="probabilities", k=1, sigma=1.0)
    memory.fit([[0.0]], [[0.2, 0.4, 0.4]], [0], ids=[4])
    outputs = [[0.2, 0.4, 0.4]]
    assert memory.predict([[1.0]], outputs).tolist() == [0]
    assert memory.predict([[1.0]], outputs, exclude_ids=[4]).tolist() == [1]


def test_memory_for_regression_corrects_values() -> None:
    memory = oracle.OracleMemory("regression", "values", k=2, sigma=math.inf)
    memory.fit([[0.0], [1.0], [9.0]], [1.0, 2.0, 3.0], [1.5, 3.5, 0.0])
    same_bits(memory.correction([[0.2]]), np.array([[1.0]]))
    same_bits(memory.predict([[0.2], [0.3]], [10.0, 20.0]), np.array([[11.0], [21.0]]))
    with pytest.raises(ValueError, match="classification"):
        memory.predict_proba([[0.2]], [10.0])


# ---- The whole memory: stored keys, sparse and head residuals, columns --------------------


def stored_memory(**options: Any) -> tuple[oracle.OracleMemory, dict[str, Any]]:
    """Return a memory of 20 fitted and 10 added rows, and the data of ``classification``."""
    _, data = classification()
    memory = oracle.OracleMemory(k=5, sigma=0.7, temperature=1.5, strength=0.8, **options)
    outputs = None if memory.head else data["outputs"]
    for take, rows in ((memory.fit, slice(20)), (memory.add, slice(20, None))):
        some = None if outputs is None else outputs[rows]
        take(data["keys"][rows], some, data["targets"][rows], data["ids"][rows])
    return memory, data


@pytest.mark.parametrize("key_dtype", ["float16", "bfloat16"])
def test_memory_rounds_keys_and_no_query(key_dtype: oracle.KeyDtype) -> None:
    memory, data = stored_memory(key_dtype=key_dtype)
    keys = oracle.round_keys(data["keys"], key_dtype)
    same_bits(memory.keys_, keys)
    distances, found = memory.kneighbors(data["keys"], k=3)
    wanted = oracle.search(data["keys"], keys, 3, ids=data["ids"])
    same_bits(distances, wanted[0])
    same_bits(found, wanted[1])
    assert np.all(distances[:, 0] > 0)  # a query is not at the key that was stored for it


@pytest.mark.parametrize("key_dtype", ["float16", "bfloat16"])
def test_memory_finds_sigma_among_the_stored_keys(key_dtype: oracle.KeyDtype) -> None:
    _, data = classification()
    memory = oracle.OracleMemory(k=5, key_dtype=key_dtype)
    memory.fit(data["keys"], data["outputs"], data["targets"], data["ids"])
    keys = oracle.round_keys(data["keys"], key_dtype)
    assert memory.sigma_ == oracle.auto_sigma(keys, data["ids"], 5)
    assert memory.sigma_ != oracle.auto_sigma(data["keys"], data["ids"], 5)


@pytest.mark.parametrize("key_dtype", ["float32", "bfloat16"])
def test_memory_preprocesses_rows_and_queries_alike(key_dtype: oracle.KeyDtype) -> None:
    fitted = {"mean": [0.1, -2.0, 0.0, 3.0], "scale": [1.0, 0.3, 2.0, 5.0]}
    _, data = classification()
    memory, _ = stored_memory(key_dtype=key_dtype, preprocess="standardize", fitted=fitted)
    plain = oracle.OracleMemory(k=5, sigma=0.7, temperature=1.5, strength=0.8, key_dtype=key_dtype)
    keys, queries = (
        oracle.preprocess(data[name], "standardize", fitted) for name in ("keys", "queries")
    )
    plain.fit(keys, data["outputs"], data["targets"], data["ids"])
    same_bits(memory.keys_, oracle.round_keys(keys, key_dtype))
    same_bits(
        memory.correct(data["queries"], data["query_outputs"]),
        plain.correct(queries, data["query_outputs"]),
    )
    assert memory.kneighbors(data["queries"])[1].tolist() == plain.kneighbors(queries)[1].tolist()


@pytest.mark.parametrize("residual_dtype", ["float32", "float16"])
def test_memory_corrects_by_its_stored_residuals(residual_dtype: oracle.ResidualDtype) -> None:
    half = residual_dtype == "float16"
    memory, data = stored_memory(residual_dtype=residual_dtype)
    queries, labels = data["queries"], data["targets"]
    distances, at = oracle.search(queries, data["keys"], 5)
    r = oracle.residuals("classification", "logits", data["outputs"], labels, 1.5, half)
    same_bits(memory.correction(queries), oracle.correction(distances, at, r, 0.7))
    assert memory.residual_error_ == 0.0

    sparse, _ = stored_memory(residual_dtype=residual_dtype, store="sparse:1")
    b = oracle.softmax(data["outputs"], 1.5)
    index, value, rest, error = oracle.sparse_residuals(b, labels, 1, half)
    wanted = oracle.sparse_correction(distances, at, index, value, rest, 3, 0.7)
    same_bits(sparse.correction(queries), wanted)
    assert sparse.residual_error_ == error > 0
    corrected = oracle.correct(oracle.softmax(data["query_outputs"], 1.5), wanted, 0.8)
    same_bits(sparse.correct(queries, data["query_outputs"]), corrected)


def test_memory_keeps_the_largest_error_of_the_rows_it_ever_held() -> None:
    memory = oracle.OracleMemory(output_kind="probabilities", k=1, sigma=1.0, store="sparse:1")
    memory.fit([[0.0]], [[0.5, 0.5, 0.0, 0.0]], [0])
    assert memory.residual_error_ == 0.0
    memory.add([[1.0], [2.0]], [[0.5, 0.25, 0.25, 0.0], [0.5, 0.25, 0.0, 0.25]], [0, 1])
    assert memory.residual_error_ == 0.125  # b_c is 0.25 and 0, u is 0.125
    memory.add([[3.0]], [[0.5, 0.5, 0.0, 0.0]], [0]).remove([1, 2])
    assert memory.residual_error_ == 0.125
    assert memory.fit([[0.0]], [[0.5, 0.5, 0.0, 0.0]], [0]).residual_error_ == 0.0


@pytest.mark.parametrize("key_dtype", ["float32", "bfloat16"])
def test_a_head_is_a_dense_memory_fitted_with_its_logits(key_dtype: oracle.KeyDtype) -> None:
    rng = np.random.default_rng(4)
    head = rng.standard_normal((3, 4)).astype(np.float32), [0.5, -1.0, 0.0]
    memory, data = stored_memory(key_dtype=key_dtype, store="head", head=head)
    dense = oracle.OracleMemory(k=5, sigma=0.7, temperature=1.5, strength=0.8, key_dtype=key_dtype)
    # The head reads the keys as they are stored, and the queries as they come.
    stored = oracle.round_keys(data["keys"], key_dtype)
    dense.fit(data["keys"], oracle.head_logits(stored, *head), data["targets"], data["ids"])
    queries, exclude = data["queries"], data["ids"][:6]
    logits = oracle.head_logits(queries, *head)
    same_bits(memory.correction(queries, exclude), dense.correction(queries, exclude))
    same_bits(memory.correct(queries), dense.correct(queries, logits))
    same_bits(memory.predict(queries), dense.predict(queries, logits))
    same_bits(memory.predict_proba(queries), dense.predict_proba(queries, logits))
    given_outputs = queries, data["query_outputs"]
    same_bits(memory.correct(*given_outputs), dense.correct(*given_outputs))
    assert memory.residual_error_ == 0.0


@pytest.mark.parametrize("store", ["dense", "sparse:1"])
def test_columns_have_the_bits_of_the_full_result(store: str) -> None:
    memory, data = stored_memory(store=store)
    queries, outputs = data["queries"], data["query_outputs"]
    whole, corrected = memory.correction(queries), memory.correct(queries, outputs)
    per_row = [[i % 3, 2, 0, 2] for i in range(len(queries))]
    for columns, wanted in (([2, 0], [[2, 0]] * 6), (per_row, per_row), ([], [[]] * 6)):
        for full, got in (
            (whole, memory.correction(queries, columns=columns)),
            (corrected, memory.correct(queries, outputs, columns=columns)),
        ):
            rows = zip(full.tolist(), wanted, strict=True)
            same_bits(got, np.array([[row[c] for c in chosen] for row, chosen in rows], float))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "regression", "output_kind": "values", "store": "sparse:2"}, "regression"),
        ({"task": "regression", "output_kind": "values", "store": "head"}, "regression"),
        ({"output_kind": "probabilities", "store": "head", "head": ([[1.0]], [0.0])}, "logits"),
        ({"residual_dtype": "float16", "store": "head", "head": ([[1.0]], [0.0])}, "float32"),
        ({"store": "head"}, "head expected"),
        ({"head": ([[1.0]], [0.0])}, "head expected"),
        ({"store": "head", "head": ([[1.0]], [0.0]), "preprocess": "unit"}, "as they are"),
        ({"store": "sparse:0"}, "sparse:m"),
        ({"store": "sparse"}, "sparse:m"),
        ({"store": "sparser:3"}, "sparse:m"),
    ],
)
def test_memory_refuses_invalid_stores(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        oracle.OracleMemory(**options)


def test_memory_asks_for_outputs_unless_a_head_makes_them() -> None:
    memory = oracle.OracleMemory(k=1, sigma=1.0)
    with pytest.raises(ValueError, match="outputs expected"):
        memory.fit([[0.0]], None, [0])
    memory.fit([[0.0]], [[1.0, 2.0]], [0])
    with pytest.raises(ValueError, match="outputs expected"):
        memory.predict([[0.0]])
    head = [[1.0], [2.0]], [0.0, 0.0]
    with pytest.raises(ValueError, match="no outputs expected"):
        oracle.OracleMemory(store="head", head=head).fit([[0.0]], [[1.0, 2.0]], [0])
