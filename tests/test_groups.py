"""Groups of rows by labels of any kind: the same label has the same number everywhere."""

from __future__ import annotations

import datetime
import hashlib
import uuid
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

import resmem
from resmem._rows.group_labels import group_numbers
from resmem._rows.visibility import Visibility
from test_hints import DAYS, FRESH, L, N, Y, Z

TEXT = [f"user {i // 2}" for i in range(N)]
# Two rows have each label.
LABELS = {
    "text": np.array(TEXT),
    "bytes": np.array([each.encode() for each in TEXT]),
    "a list of text": TEXT,
    "a tuple of text": tuple(TEXT),
    "objects": np.array(TEXT, dtype=object),
    "objects that are numbers": np.arange(N).astype(object) // 2,
    "objects of two kinds": [each if i % 4 < 2 else i // 2 for i, each in enumerate(TEXT)],
    "floats": np.arange(N) // 2 + 0.5,
    "floats that are whole": np.float32(np.arange(N) // 2),
    "days": np.array(DAYS, dtype="datetime64[D]")[np.arange(N) // 2],
    "milliseconds": np.datetime64("2026-01-01T00:00:00.000") + np.arange(N) // 2 * 100,
    "time spans": (np.arange(N) // 2).astype("timedelta64[h]"),
    "negative numbers": np.int32(-2 - np.arange(N) // 2),
    "numbers of 64 bits": np.uint64(2**64 - 1) - np.arange(N, dtype=np.uint64) // np.uint64(2),
    "numbers beyond 64 bits": [2**70 + i // 2 for i in range(N)],
    "tuples": [("a", i // 2) for i in range(N)],
}


def columns_of(library):
    """Return columns of labels of a library of tables, of which two rows have each."""
    halves = [i // 2 for i in range(N)]
    if library == "pandas":
        pd = pytest.importorskip("pandas", reason="pandas is not installed")
        numbers = pd.Series([float(half) for half in halves])
        return [
            pd.Series(TEXT),
            pd.Series(TEXT, dtype="string"),
            pd.Series(TEXT, dtype=object),
            pd.Series(TEXT, dtype="category"),
            pd.Series(TEXT, dtype=pd.CategoricalDtype(sorted(set(TEXT))[::-1])),
            pd.Series(halves, dtype="Int64"),
            pd.Index(TEXT),
            numbers,
            numbers.astype("Float32"),
            pd.Series(LABELS["days"]),
            pd.Series(LABELS["milliseconds"]).dt.tz_localize("UTC"),
            pd.Series(LABELS["tuples"]),
        ]
    if library == "polars":
        pl = pytest.importorskip("polars", reason="Polars is not installed")
        days = pl.Series(LABELS["days"].tolist())
        negative = pl.Series([-2 - half for half in halves])
        large = pl.Series([2**64 - 1 - half for half in halves], dtype=pl.UInt64)
        return [pl.Series(TEXT), pl.Series(TEXT, dtype=pl.Categorical), days, negative, large]
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    encoded = pa.array(TEXT).dictionary_encode()
    return [pa.array(TEXT), pa.chunked_array([TEXT[:7], TEXT[7:]]), encoded]


def leave_out_their_group(labels, tmp_path):
    """Check that rows of fit and add are left out by their labels, before and after a file."""
    mem = resmem.Memory(k=N, sigma=1.0).fit(Z[:40], L[:40], Y[:40], groups=labels[:40])
    mem.add(Z[40:], L[40:], Y[40:], groups=labels[40:])
    mem.save(tmp_path / "m.resmem")
    lists = [[label] for label in labels]
    two = [[label, None] for label in labels]
    for each in (mem, resmem.Memory.load(tmp_path / "m.resmem")):
        for exclude in (lists, two) if isinstance(labels[0], tuple) else (labels, lists, two):
            found = each.kneighbors(Z, exclude_groups=exclude)[1]
            for row, ids in enumerate(found):
                assert sorted(ids[:-2]) == [i for i in range(N) if i // 2 != row // 2]
    one = mem.kneighbors(Z[:1], exclude_groups=[[labels[4]]])[1][0]
    assert sorted(one[:-2]) == [i for i in range(N) if i not in (4, 5)]


def numbers(value, shape="(n,)"):
    return group_numbers(value, "groups", shape).tolist()


def number(label):
    (found,) = numbers([label])
    return found


def hashed(text):
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") % 2**63


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_any_kind_leave_their_rows_out(kind, tmp_path):
    leave_out_their_group(LABELS[kind], tmp_path)


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_columns_of_labels_leave_their_rows_out(library, tmp_path):
    for labels in columns_of(library):
        if isinstance(labels[0], tuple):
            assert numbers(labels) == numbers(LABELS["tuples"])
        else:
            leave_out_their_group(labels, tmp_path)


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_labels_of_tables_have_the_numbers_of_lists(library):
    for labels in columns_of(library):
        # Elements of Arrow, and times of pandas, become those of Python.
        listed = labels.to_pylist() if hasattr(labels, "to_pylist") else list(labels)
        assert numbers(labels) == [number(label) for label in listed]


def test_an_index_takes_labels_too():
    index = resmem.Index(Z[:4], groups=["a", "b", "a", None])
    index.add(Z[4:6], groups=["b", "c"]).update([3], Z[3:4], groups=["c"])
    found = index.search(Z[:1], 6, exclude_groups="b")[1][0]
    assert sorted(found[:4]) == [0, 2, 3, 5]
    found = index.search(Z[:2], 6, exclude_groups=["c", "a"])[1]
    assert [sorted(ids[:4]) for ids in found] == [[0, 1, 2, 4], [1, 3, 4, 5]]


def test_every_method_that_searches_takes_labels():
    names, asked = np.array(TEXT), [f"user {i % 30}" for i in range(N)]
    mem = resmem.Memory(k=5, sigma=1.0).fit(Z, L, Y, groups=names)
    same = resmem.Memory(k=5, sigma=1.0).fit(Z, L, Y, groups=np.arange(N) // 2)
    for call in (
        lambda m, groups: m.predict_proba(FRESH, L, exclude_groups=groups),
        lambda m, groups: m.correct(FRESH, L, exclude_groups=groups),
        lambda m, groups: m.calibrate(FRESH, L, Y, exclude_groups=groups).scores,
        lambda m, groups: m.evaluate(FRESH, L, Y, exclude_groups=groups).to_dict(),
        lambda m, groups: m.monitor().update(FRESH, L, Y, exclude_groups=groups).to_dict(),
    ):
        np.testing.assert_equal(call(mem, asked), call(same, np.arange(N) % 30))


def test_labels_of_two_kinds_stay_apart_where_queries_are_picked():
    """As tuning does, which uses some of the rows."""
    asked, rows = ["1", 1, None, 2.5, ("a", 1)], np.array([1, 2, 4])
    lists = [[label] for label in asked]
    picked = Visibility(exclude_groups=lists).picked(rows).exclude_groups
    assert picked.tolist() == [[1], [-1], [number(("a", 1))]]
    assert Visibility(exclude_groups="a").picked(rows).exclude_groups == "a"


# ---- What the number of a label is ---------------------------------------------------------------


def test_the_number_of_a_label_is_as_documented():
    assert number("a") == hashed(b"text:a")
    assert number("é") == hashed("text:é".encode())
    assert number(b"a") == hashed(b"bytes:a")
    assert number(0.5) == hashed(b"number:1/2")
    assert number(-5) == hashed(b"number:-5/1")
    assert number(2**63) == hashed(b"number:8000000000000000/1")
    assert number(np.inf) == hashed(b"number:inf")
    assert number(datetime.date(2026, 1, 31)) == hashed(b"time:2026-01-31T00:00:00")
    assert number(np.datetime64(1, "ns")) == hashed(b"time:1970-01-01T00:00:00.000000001")
    assert number(datetime.timedelta(microseconds=1)) == hashed(b"span:e8d4a51000")
    assert number(("a", 1, None)) == hashed(b"tuple:6:text:a10:number:1/15:none:")


def test_missing_labels_are_no_group():
    assert numbers(["a", None, None]) == [number("a"), -1, -1]
    nothing = [None, float("nan"), np.float32("nan"), np.datetime64("NaT", "s"), Decimal("nan"),
               Decimal("snan"), np.timedelta64("NaT", "s"), np.ma.masked, -1, -1.0]  # fmt: skip
    assert numbers(nothing) == [-1] * len(nothing)
    assert numbers(np.array(["2026-01-01", "NaT"], "datetime64[s]"))[1] == -1
    assert numbers(np.ma.masked_array(["a", "b"], [False, True])) == [number("a"), -1]
    assert numbers(np.ma.masked_array([[1, 2]], [[False, True]]), "(q, m)") == [[1, -1]]


def test_missing_labels_of_pandas_are_no_group():
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    assert numbers(["a", pd.NA, pd.NaT]) == [number("a"), -1, -1]
    for column, wanted in (
        (pd.Series(["a", None]), number("a")),
        (pd.Series(["a", None], dtype=object), number("a")),
        (pd.Series(["a", None], dtype="string"), number("a")),
        (pd.Series(["a", None], dtype="category"), number("a")),
        (pd.Series([2**60 + 1, None], dtype="Int64"), 2**60 + 1),
        (pd.Series([2**60 + 1, None], dtype="Int64").astype("category"), 2**60 + 1),
        (pd.array([2**60 + 1, None], dtype="Int64"), 2**60 + 1),
        (pd.Series([True, None], dtype="boolean"), 1),
        (pd.Series([1.5, None], dtype="Float64"), number(1.5)),
        (pd.Series(pd.to_datetime(["2026-01-01", None])), number(np.datetime64("2026-01-01"))),
    ):
        assert numbers(column) == [wanted, -1]


def test_missing_labels_of_polars_are_no_group():
    pl = pytest.importorskip("polars", reason="Polars is not installed")
    assert numbers(pl.Series([2**60 + 1, None, -5])) == [2**60 + 1, -1, number(-5)]
    assert numbers(pl.Series([2**64 - 1, None], dtype=pl.UInt64)) == [number(2**64 - 1), -1]
    assert numbers(pl.Series(["a", None])) == [number("a"), -1]
    assert numbers(pl.Series([True, None])) == [1, -1]
    moment = datetime.datetime(2026, 1, 1, 0, 0, 1)
    assert numbers(pl.Series([moment, None])) == [number(moment), -1]


def test_missing_labels_of_arrow_are_no_group():
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    assert numbers(pa.array([2**60 + 1, None])) == [2**60 + 1, -1]
    assert numbers(pa.array([True, None])) == [1, -1]
    text = pa.array(["a", None])
    for column in (text, text.dictionary_encode(), pa.chunked_array([text.dictionary_encode()])):
        assert numbers(column) == [number("a"), -1]


def test_a_label_has_one_number_whatever_is_beside_it():
    assert numbers([1, None, 2, "1", 2.5]) == [1, -1, 2, number("1"), number(2.5)]
    assert numbers([2**63, -1, 3]) == [number(2**63), -1, 3]
    assert numbers([2**60 + 1, 0.5]) == [2**60 + 1, number(0.5)]
    assert numbers([True, np.int8(2), 3.0]) == [1, 2, 3]
    assert numbers([[1, "a"], ["b", None]], "(q, m)") == [[1, number("a")], [number("b"), -1]]


def test_labels_that_python_calls_equal_keep_their_numbers():
    hour = np.timedelta64(1, "h")
    assert numbers([1, hour, None]) == [1, number(hour), -1]
    assert numbers([hour, 1, None]) == [number(hour), 1, -1]
    with pytest.raises(TypeError, match=r"got .* of type complex"):
        numbers([1, 1 + 0j])


def test_integers_of_other_byte_orders_are_the_same_groups():
    for dtype, largest in ((">i8", -5), (">u8", 2**64 - 1)):
        assert numbers(np.array([largest, 3], dtype)) == [number(largest), 3]


def test_labels_of_equal_value_are_one_group():
    day = np.datetime64("2026-01-31")
    paris = datetime.timezone(datetime.timedelta(hours=1))
    for alike in (
        (3, 3.0, np.uint8(3), Decimal("3.0"), Fraction(3), np.array(3)),
        (0.5, np.float32(0.5), Decimal("0.5"), Fraction(1, 2), np.float16(0.5)),
        (-5, -5.0, np.int8(-5)),
        (2**63, 2.0**63, np.uint64(2**63)),
        (day, day.astype("datetime64[ns]"), datetime.date(2026, 1, 31),
         datetime.datetime(2026, 1, 31), datetime.datetime(2026, 1, 31, 1, tzinfo=paris)),
        (np.timedelta64(1, "h"), np.timedelta64(3_600_000, "ms"), datetime.timedelta(hours=1)),
        ("a", np.str_("a")),
        (("a", 1), (np.str_("a"), 1.0)),
    ):  # fmt: skip
        assert len({number(each) for each in alike}) == 1, alike


def test_labels_of_different_value_are_different_groups():
    apart = [
        "1", b"1", 1, ("1",), (1,), ((1,),), "", "none:", "text:1", -5, -6, 0.5, 0.25, 1e300,
        np.inf, -np.inf, 2**63 - 1, 2**63, 2**64 - 1, 2**70, 10**5000, "a\ud800", "a\ud801",
        ("a", "b"), ("ab",), (None,), (), np.timedelta64(1, "h"),
        np.datetime64("2026-01-31T00:00:00.100"),
        np.datetime64("2026-01-31T00:00:00.200"), np.datetime64("9999-01-01"),
        datetime.timedelta.max, np.datetime64(10**15, "s"),
    ]  # fmt: skip
    assert len({number(each) for each in apart}) == len(apart)


def test_numbers_that_labels_have_stand_for_them():
    """So that the groups of rows that are read back leave these rows out."""
    mem = resmem.Memory(k=N).fit(Z, L, Y, groups=TEXT)
    read = mem.get([5, 7]).attributes["groups"]
    assert read.tolist() == [number(TEXT[5]), number(TEXT[7])] == numbers(read)
    assert sorted(mem.kneighbors(Z[:1], exclude_groups=read[:1])[1][0])[:4] == [-1, -1, 0, 1]


def test_groups_below_none_of_earlier_files_are_none():
    index = resmem.Index(np.eye(3), groups=["a", -7, 5])
    index._state.view.rows.segments[0]["groups"][0] = -7  # earlier versions kept such numbers
    assert sorted(index.search(np.eye(3)[:1], 3, exclude_groups=[-7])[1][0]) == [-1, 0, 2]
    mem = resmem.Memory(k=3).fit(Z[:3], L[:3], Y[:3], groups=[1, 1, 2])
    mem._state.view.rows.segments[0]["groups"][:2] = -7
    assert mem.get([0, 2]).attributes["groups"].tolist() == [-1, 2]


# ---- What can be no label ------------------------------------------------------------------------


def test_objects_without_a_value_are_refused():
    for odd in (uuid.UUID(int=1), {1}, 1j, object(), np.timedelta64(1, "Y"), ("a", {1})):
        with pytest.raises(TypeError, match=r"^groups must be labels, .*; pass text in its place"):
            resmem.Index(Z[:2], groups=[odd, "a"])


def test_lists_that_are_no_column_are_refused():
    for wrong, message in (
        ([[1, 2], [3, 4]], r"groups must have shape \(n,\), got \(2, 2\)"),
        (np.array([["a"], ["b"]]), r"groups must have shape \(n,\), got \(2, 1\)"),
        ([[1, 2], [3]], r"groups: rows 0 and 1 hold labels of shapes \(2,\) and \(1,\); give each"),
        ([1, ["a"]], r"groups: rows 0 and 1 hold labels of shapes \(\) and \(1,\); give each"),
    ):
        with pytest.raises(ValueError, match=message):
            resmem.Index(Z[:2], groups=wrong)
