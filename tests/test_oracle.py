"""The oracle against exact arithmetic: rationals rounded at every step, and mpmath for exp."""

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
    """The true sum, with no rounding at all."""
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
    assert modules == {"__future__", "collections", "math", "numpy", "typing"}


@pytest.mark.parametrize("a", [0.0, 5e-324, 1e-310, 2.0, 3.0, 1e300, 1.7976931348623157e308])
def test_the_rational_square_root_is_that_of_ieee(a: float) -> None:
    assert sqrt(a) == math.sqrt(a)


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
def test_padding_when_there_are_too_few_rows(metric: oracle.Metric) -> None:
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
    assert max(errors) <= 1.0  # what is found; a larger error means changed arithmetic


def test_cexp_edges() -> None:
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


def test_cexp_does_not_depend_on_where_in_an_array_a_value_stands() -> None:
    x = np.random.default_rng(0).uniform(-750, 712, 101)
    whole = oracle.cexp(x)
    same_bits(np.array([oracle.cexp(one) for one in x]), whole)
    same_bits(oracle.cexp(x[::3]), whole[::3])


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


def test_softmax_rows() -> None:
    rows = np.array([[0, 0, 0, 0], [3e38, -3e38, 0, 0], [-np.inf, 5, -np.inf, 5]], np.float32)
    expected = [[0.25] * 4, [1, 0, 0, 0], [0, 0.5, 0, 0.5]]
    same_bits(oracle.softmax(rows), np.array(expected))
    wide = np.random.default_rng(0).standard_normal((20, 1000)).astype(np.float32)
    # Each term is rounded in its division, the sum in at most 125 + 3 additions.
    assert np.max(np.abs(oracle.softmax(wide).sum(axis=1) - 1)) <= 150 * 2.0**-53


def test_base_of_each_output_kind() -> None:
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


def test_residuals_of_each_output_kind() -> None:
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
    w = [div(value, exact_running_sum(e)) for value in e]
    padded = np.array([D + [np.inf] * padding])
    same_bits(oracle.weights(padded, sigma), np.array([w + [0.0] * padding]))
    assert abs(exact_sum(w) - 1) <= 2 * len(D) * UNIT

    rng = np.random.default_rng(seed)
    r = rng.standard_normal((20, 3)).astype(np.float32)
    at = rng.permutation(20)[: len(D)].tolist()
    expected = [
        exact_running_sum([mul(w_j, float(r[j, c])) for w_j, j in zip(w, at, strict=True)])
        for c in range(3)
    ]
    positions = np.array([at + [-1] * padding])
    same_bits(oracle.correction(padded, positions, r, sigma), np.array([expected]))


def test_weights_edges() -> None:
    D = [1.0, 2.0, 2.0, 1e30, np.inf]
    same_bits(oracle.weights(D, np.inf), np.array([0.25, 0.25, 0.25, 0.25, 0.0]))
    same_bits(oracle.weights(D, 5e-324), np.array([1.0, 0.0, 0.0, 0.0, 0.0]))
    same_bits(oracle.weights([1e30, 1e30], 1e-300), np.array([0.5, 0.5]))  # never 0/0
    same_bits(oracle.weights([[np.inf, np.inf], [3, np.inf]], 1.0), np.array([[0.0, 0], [1, 0]]))
    assert oracle.weights(np.empty((2, 0)), 1.0).shape == (2, 0)


def test_correction_of_nothing_is_zero() -> None:
    r = np.full((3, 2), 7, dtype=np.float32)
    none = np.full((2, 4), -1)
    same_bits(oracle.correction(np.full((2, 4), np.inf), none, r, 1.0), np.zeros((2, 2)))


def test_correct_multiplies_then_adds() -> None:
    b, c, strength = 0.1, 0.3, 1.7
    expected = np.array([[add(b, mul(strength, c))]])
    same_bits(oracle.correct([[b]], [[c]], strength), expected)


@few
@given(st.lists(st.floats(-2, 2), min_size=1, max_size=20))
def test_simplex_is_the_contract_step_by_step(corrected: list[float]) -> None:
    v = [max(value, 1e-6) for value in corrected]
    expected = np.array([[div(value, exact_csum(v)) for value in v]])
    same_bits(oracle.simplex([corrected]), expected)
    assert abs(exact_sum(expected[0].tolist()) - 1) <= (len(v) + 8) * UNIT
    assert expected.min() > 0


def test_simplex_floor() -> None:
    same_bits(oracle.simplex([[-1.0, 1.0]], floor=1.0), np.array([[0.5, 0.5]]))


# ---- sigma="auto" -------------------------------------------------------------------------


def column(*values: float) -> oracle.Float32:
    return np.array(values, dtype=np.float32)[:, None]


def test_auto_sigma_by_hand() -> None:
    # k = 2, distances to the others: (1 3), (1 2), (2 3), (4 6): m = 1, 0.5, 0.5, 1.
    assert oracle.auto_sigma(column(0, 1, 3, 7), None, 2) == 0.75
    # Three rows, (1 3), (1 2), (2 3): m = 1, 0.5, 0.5; an odd count has one middle value.
    assert oracle.auto_sigma(column(0, 1, 3), None, 2) == 0.5
    # No more neighbours than the other rows.
    assert oracle.auto_sigma(column(0, 1, 3), None, 50) == 0.5


def test_auto_sigma_zero_cases() -> None:
    # Every row sees only equal distances: no positive m_i.
    assert oracle.auto_sigma(column(0, 0, 0, 0, 5), None, 3) == 1.0
    # Rows at 0 see four equal rows: m = 0. The row at 5 sees 1 5 5 5, that at 6 sees 1 6 6 6.
    keys = column(0, 0, 0, 0, 0, 5, 6)
    assert oracle.auto_sigma(keys, None, 4) == ((0 + 4 + 4 + 4) / 4 + (0 + 5 + 5 + 5) / 4) / 2
    # One neighbour: its m_i is 0. One row: there is no neighbour.
    assert oracle.auto_sigma(column(0, 1, 2), None, 1) == 1.0
    assert oracle.auto_sigma(column(3), None, 5) == 1.0


@pytest.mark.parametrize(("n", "k"), [(40, 7), (255, 3), (256, 3), (257, 3), (300, 5)])
def test_auto_sigma_on_its_sample(n: int, k: int) -> None:
    rng = np.random.default_rng(n)
    keys = rng.standard_normal((n, 4)).astype(np.float32)
    ids = rng.permutation(2 * n)[:n]
    sample = sorted(np.random.RandomState(0).permutation(n)[:256]) if n > 256 else range(n)
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
    same_bits(memory.predict_proba(*arguments), oracle.simplex(corrected))


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


def test_memory_for_regression() -> None:
    memory = oracle.OracleMemory("regression", "values", k=2, sigma=math.inf)
    memory.fit([[0.0], [1.0], [9.0]], [1.0, 2.0, 3.0], [1.5, 3.5, 0.0])
    same_bits(memory.correction([[0.2]]), np.array([[1.0]]))
    same_bits(memory.predict([[0.2], [0.3]], [10.0, 20.0]), np.array([[11.0], [21.0]]))
    with pytest.raises(ValueError, match="classification"):
        memory.predict_proba([[0.2]], [10.0])
