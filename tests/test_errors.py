"""Every message: what is refused, how it is said, and that nothing has changed after it."""

# ruff: noqa: E501 - one case a line

from __future__ import annotations

import ast
import datetime
import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import devices
import resmem
from resmem import _core
from resmem._base.errors import DeviceError
from resmem._correction.on_device import DeviceCorrector
from resmem._devices import (
    arrays,
    choice,
    engine,
    given_neighbours,
    places,
    results,
    several,
    streams,
)
from resmem._devices.array_search import ArraySearch
from resmem._devices.device import CPU
from resmem._rows.resident import Residency, visible_there
from resmem._rows.visibility import Visibility

RNG = np.random.default_rng(3)
N, D, C = 6, 3, 2
Z = RNG.standard_normal((N, D)).astype(np.float32)
L = RNG.standard_normal((N, C)).astype(np.float32)
Y = RNG.integers(0, C, N)
P = np.full((N, C), 0.5, np.float32)
HEAD = np.ones((C, D)), np.zeros(C)
V = RNG.standard_normal(N)
TOO_MANY = 2**64


def with_value(array, row, value, dtype=np.float32):
    changed = array.astype(dtype)
    changed[row, -1 if array.ndim > 1 else ...] = value
    return changed


class Unreadable:
    """An array-like on a device that NumPy cannot read."""

    def __array__(self, *_args, **_kwargs):
        raise RuntimeError("the data are elsewhere")


class Short:
    """A data set that gives fewer rows than asked for."""

    shape, dtype = Z.shape, Z.dtype

    def __getitem__(self, rows):
        return Z[:1]


class Tree:
    """A model that tells no leaves."""

    def predict(self, X):
        return X


class Steps(Tree):
    """A pipeline, whose last step alone tells leaves."""

    steps = (("model", Tree()),)


class Attached:
    """A tensor that records operations."""

    requires_grad = True


class Tensor:
    """A stand-in for a PyTorch tensor; one on a device cannot become an array."""

    def __init__(self, array=Z, device="cpu", requires_grad=False):
        self.array, self.device, self.requires_grad = np.asarray(array), device, requires_grad
        self.dtype, self.shape = self.array.dtype, self.array.shape

    def detach(self):
        return Tensor(self.array, self.device)

    def cpu(self):
        return Tensor(self.array, "cpu", self.requires_grad)

    def __array__(self, *_args, **_kwargs):
        if self.device != "cpu" or self.requires_grad:
            raise TypeError("it is elsewhere, or records operations")
        return self.array


class Sparse:
    """A minimal stand-in for a sparse matrix of SciPy."""

    def toarray(self):
        return Z


class SparseTensor:
    """A stand-in for a sparse tensor of PyTorch."""

    layout = "torch.sparse_coo"

    def to_dense(self):
        return Z


class Nullable:
    """A stand-in for a DataFrame of nullable columns, one of which lacks a value."""

    class Float64:
        numpy_dtype = np.dtype("float64")

    ndim, columns, dtypes, iloc = 2, ("a", "b"), (Float64(), Float64()), None

    def isna(self):
        return np.array([[False, False], [False, True]])

    def fillna(self, value):
        return np.array([[1.0, 2.0], [3.0, value]])

    def __len__(self):
        return 2


class Table:
    """A minimal stand-in for a DataFrame with a column of text."""

    columns = ("a", "b")

    def __getitem__(self, name):
        return {"a": np.zeros(6), "b": np.array(list("abcabc"))}[name]

    def __array__(self, *_args, **_kwargs):
        return np.array([[0.0, letter] for letter in "abcabc"], dtype=object)


def memory(**options):
    return resmem.Memory(k=2, **options).fit(Z, L, Y)


TIMES = 1.7e9 + np.arange(8.0).reshape(4, 2)


def times():
    return resmem.Memory(k=2).fit(TIMES, L[:4], Y[:4])


def vectors(*rows):
    column = np.empty(len(rows), dtype=object)
    column[:] = rows
    return column


def text_memory():
    return resmem.Memory(k=2).fit(Z, L, np.array(["a", "b"])[Y])


def chances():
    return resmem.Memory(k=2, output_kind="probabilities").fit(Z, P, Y)


def values(two_dimensional=False):
    pair = [a[:, None] if two_dimensional else a for a in (V, V[::-1].copy())]
    return resmem.Memory("regression", k=2).fit(Z, *pair)


NAN = with_value(Z, 4, np.nan)
NO_ROWS = np.empty((0, D)), np.empty((0, C)), np.empty(0, dtype=int)


def index(**options):
    return resmem.Index(Z, **options)


class Named:
    """A minimal stand-in for a DataFrame of numbers."""

    def __init__(self, columns):
        self.columns = tuple(columns)

    def __getitem__(self, name):
        return Z[:, self.columns.index(name)]

    def __array__(self, *_args, **_kwargs):
        return Z


class NamedOutputs(Named):
    def __getitem__(self, name):
        return L[:, self.columns.index(name)]

    def __array__(self, *_args, **_kwargs):
        return L


def memory_of(columns, first=0):
    return resmem.Memory(k=2).fit(Named(columns), L, Y, ids=np.arange(first, first + N))


def merged(one, two):
    """Merge two memories of the same rows whose arguments differ."""
    options = {"k": 2, "store": "sparse:1"}
    mine, theirs = (resmem.Memory(**{**options, **more}) for more in (one, two))
    head = mine.store == "head"
    mine.fit(Z, None if head else L, Y)
    return mine.merge(theirs.fit(Z + 1, None if head else L, Y, ids=np.arange(N) + 50))


# call, exception, the whole message as a regular expression
SEARCHES = [
    (lambda: resmem.Index(NAN), ValueError, r"rows: row 4 holds NaN or infinity \(as float32\)"),
    (lambda: resmem.Index(Z, ids=[1, 2]), ValueError, r"ids must have one row per row of rows \(6\), got 2"),
    (lambda: resmem.Index(Z[0]), ValueError, r"rows must have shape \(n, d\), got \(3,\).*"),
    (lambda: resmem.Index(Z, metric="l1"), ValueError, r"metric must be one of 'euclidean', 'sqeuclidean', 'cosine', 'inner_product', got 'l1'"),
    (lambda: resmem.Index(Z, key_dtype="int8"), ValueError, r"key_dtype must be one of 'auto', 'float32', 'float64', 'float16', 'bfloat16', got 'int8'"),
    (lambda: index().search(Z, 0), ValueError, r"k must be at least 1, got 0"),
    (lambda: index().search(NAN, 1), ValueError, r"queries: row 4 holds NaN or infinity \(as float32\)"),
    (lambda: index().search(Z[:, :2], 1), ValueError, r"queries must have 3 columns like the stored rows, got 2"),
    (lambda: index().search(Z, 1, exclude_ids=[1]), ValueError, r"exclude_ids must have one row per row of queries \(6\), got 1"),
    (lambda: index().add(Z[:, :2]), ValueError, r"rows must have 3 columns like the stored rows, got 2"),
    (lambda: index().add(Z, ids=np.arange(N)), ValueError, r"ids must never have been used before in this memory, got 0"),
    (lambda: index().remove(9), ValueError, r"ids to remove must be in the memory, 9 is not"),
    (lambda: index().update([9], Z[:1]), ValueError, r"ids to update must be in the memory, 9 is not"),
    (lambda: index().update(None, Z[:1]), ValueError, r"ids are missing; update needs those of the rows to replace"),
    (lambda: index().get([9]), ValueError, r"ids to get must be in the memory, 9 is not"),
    (lambda: index().save("a.npz"), ValueError, r"path must not end in \.npz or \.safetensors, got 'a\.npz'; give it another ending, such as \.resmem"),
    (lambda: merged({}, {"temperature": 2.0}), ValueError, r"temperature is fixed at fit for store='sparse:1', and the memories have 1 and 2; fit the other one again with temperature=1\.0"),
    (lambda: merged({"base": "a"}, {"base": "b"}), ValueError, r"memories must be of one base to be merged, got 'a' and 'b'"),
    (lambda: merged({"preprocess": "center"}, {"preprocess": "center"}), ValueError, r"memories must have the same numbers, and these were fitted to different rows \(preprocess='center', preprocess='center'\); make the other one of a copy of this one: copy\.copy\(memory\), remove all of its rows, add the other rows with ids of their own"),
    (lambda: resmem.Memory(output_kind="none").fit(Z, None, Y).add(Z[:1], None, [5]), ValueError, r"targets: row 0 is class 5, but this memory has the classes 0 to 1; name all that may come before fit, for example resmem\.Memory\(classes=list\(range\(10\)\)\)"),
    (lambda: resmem.Memory().fit(Z, NamedOutputs(["dog", "cat"]), np.array(["cat", "dog"])[Y]), ValueError, r"columns of outputs are named 'dog', 'cat', and the labels that stand for them are 'cat', 'dog'; give their order, resmem\.Memory\(classes=\['dog', 'cat'\]\)"),
    (lambda: timed().merge(memory()), ValueError, r"memories must both have times, of one kind, or none to be merged, got integers and none; fit the other one again"),
    (lambda: merged({"store": "head", "head": HEAD}, {"store": "head", "head": (HEAD[0], HEAD[1] + 1)}), ValueError, r"memories must have one head to be merged, and these have other weights or biases; fit the other one again with the head of this one"),
    (lambda: memory_of("abc").merge(memory_of("bac", 50)), ValueError, r"memories must have the same columns of embeddings, column 0 is 'a' and 'b'; fit the other one again with columns in one order"),
    (lambda: resmem.search(NAN, Z, 1), ValueError, r"queries: row 4 holds NaN or infinity \(as float32\)"),
    (lambda: resmem.search(Z, NAN, 1), ValueError, r"rows: row 4 holds NaN or infinity \(as float32\)"),
    (lambda: resmem.search(with_value(Z, 1, np.inf), Z, 1), ValueError, r"queries: row 1 holds NaN or infinity \(as float32\)"),
    (lambda: resmem.search(Z, with_value(Z, 0, -np.inf), 1), ValueError, r"rows: row 0 holds NaN or infinity \(as float32\)"),
    (lambda: resmem.search(with_value(Z, 2, np.nan, np.float64), Z, 1), ValueError, r"queries: row 2 holds NaN or infinity \(as float32\)"),
    (lambda: resmem.search(with_value(Z, 2, 1e150, np.float64), Z, 1), ValueError, r"queries must have a largest \|value\| between 2\^-400 and 2\^480, got 1e\+150; rescale them"),
    (lambda: times().add(TIMES * 1.01 + 0.3, L[:4], Y[:4]), ValueError, r"embeddings of dtype float64, rounded to float32 as the rows of this memory are, would be moved by more than 10% of what neighbours lie apart; fit all rows again, with key_dtype='float64' if more such will come"),
    (lambda: memory().kneighbors(Table()), TypeError, r"embeddings must hold real numbers, got columns that do not, b; convert all columns, for example with numpy\.asarray\(embeddings\)\.astype\('float64'\), or leave these out"),
    (lambda: memory().kneighbors(with_value(Z, 1, 1e39, np.float64)), ValueError, r"embeddings: row 1 is beyond float32, which ends at 3\.4e38; rescale all embeddings"),
    (lambda: memory().use({"k": 3}), TypeError, r"settings must be resmem\.Settings, got dict; to change some of them, set them by name: memory\.k = 3"),
    (lambda: resmem._base.checks.not_negative(-1, "allowed"), ValueError, r"allowed must be a number of at least 0, got -1"),
    (lambda: resmem.Memory(k=2, key_dtype="float32").fit(Z, L, Y)._state.view.rekeyed("none", "auto"), ValueError, r"key_dtype must be one of 'float32', 'float64', 'float16', 'bfloat16', got 'auto'"),
    (lambda: resmem.Memory(k=2, key_dtype="float64", metric="cosine").fit(Z, L, Y)._state.view.rekeyed("center", "float64"), ValueError, r"keys cannot be made anew of float64 embeddings with metric='cosine', which are stored multiplied by powers of two; fit again, with key_dtype='float32' if that is as precise as you need"),
    (lambda: resmem.Memory(k=2, metric="cosine").fit(Z, L, Y).kneighbors(Z, squared=True), ValueError, r"squared=True is for Euclidean distances, this memory has metric='cosine', whose values order its neighbours already; leave squared out"),
    (lambda: resmem.Memory(key_dtype="float64", preprocess="pca:2"), ValueError, r"key_dtype='float64' does not go with preprocess='pca:2', whose layer works on float32; use key_dtype='auto'"),
    (lambda: resmem.Memory(key_dtype="float64", store="head", head=HEAD), ValueError, r"key_dtype='float64' does not go with store='head', whose layer works on float32; use key_dtype='auto'"),
    (lambda: resmem.search(Z, Z, 1, key_dtype="float16"), ValueError, r"key_dtype must be one of 'auto', 'float32', 'float64', got 'float16'"),
    (lambda: resmem.search(Z[0], Z, 1), ValueError, r"queries must have shape \(n, d\), got \(3,\); a single row is numpy\.atleast_2d\(queries\)"),
    (lambda: resmem.search(Z, Z[None], 1), ValueError, r"rows must have shape \(n, d\), got \(1, 6, 3\); for one row per position, pass numpy\.reshape\(rows, \(-1, 3\)\); for one row per example, pass numpy\.reshape\(rows, \(len\(rows\), -1\)\)"),
    (lambda: resmem.search(Z, 1.5, 1), ValueError, r"rows must have shape \(n, d\), got \(\)"),
    (lambda: resmem.search(Z[:, :0], Z[:, :0], 1), ValueError, r"rows must have at least one column, got shape \(6, 0\)"),
    (lambda: resmem.search(Z[:, :2], Z, 1), ValueError, r"queries must have 3 columns like the stored rows, got 2"),
    (lambda: resmem.search(Z > 0, Z, 1), TypeError, r"queries must hold real numbers, got dtype bool; convert it, for example with numpy\.asarray\(queries, dtype='float64'\)"),
    (lambda: resmem.search(Z, Z.astype(object), 1), TypeError, r"rows must hold real numbers, got dtype object; .*"),
    (lambda: resmem.search(Z * 1j, Z, 1), TypeError, r"queries must hold real numbers, got dtype complex64; .*"),
    (lambda: resmem.search([["a"]], Z, 1), TypeError, r"queries must hold real numbers, got dtype <U1; numbers as text become numbers by numpy\.asarray\(queries\)\.astype\('float64'\)"),
    (lambda: resmem.search(np.zeros(2, [("a", "f4"), ("b", "f4")]), Z, 1), TypeError, r"queries must hold real numbers, got dtype .*; pass its fields, numpy\.stack\(\[queries\[field\] for field in queries\.dtype\.names\], 1\)"),
    (lambda: resmem.search(None, Z, 1), TypeError, r"queries must be an array, got None"),
    (lambda: resmem.search("q.npy", Z, 1), TypeError, r"queries must be an array, got str; numpy\.load\(path, mmap_mode='r'\) reads the array of a \.npy file"),
    (lambda: resmem.search(Tensor(device="cuda:0"), Z, 1), TypeError, r"queries lies on cuda:0; pass queries\.cpu\(\)"),
    (lambda: resmem.search(Tensor(device="cuda:0", requires_grad=True), Z, 1), TypeError, r"queries is a tensor that requires grad; pass queries\.detach\(\)\.cpu\(\)"),
    (lambda: resmem.search(Sparse(), Z, 1), TypeError, r"queries is a sparse Sparse; pass queries\.toarray\(\), or, where that is too large, what sklearn\.decomposition\.TruncatedSVD\(64\) makes of it"),
    (lambda: resmem.search(SparseTensor(), Z, 1), TypeError, r"queries is a sparse SparseTensor; pass queries\.to_dense\(\)"),
    (lambda: resmem.search({1.0, 2.0}, Z, 1), TypeError, r"queries must be an array, got set; pass a list, which has an order"),
    (lambda: resmem.search(vectors([1, 2, 3], [4]), Z, 1), ValueError, r"queries: every row must hold a vector of one length; row 0 holds 3 numbers, row 1 has shape \(1,\); leave such rows out, or fill them"),
    (lambda: resmem.search(vectors([1, 2, 3], None), Z, 1), ValueError, r"queries: every row must hold a vector of one length; row 0 holds 3 numbers, row 1 has None; leave such rows out, or fill them"),
    (lambda: resmem.search(Nullable(), Z, 1), ValueError, r"queries: row 1 has no value in column 'b'; leave such rows out, or fill them, for example with queries\.fillna\(0\)"),
    (lambda: resmem.search({"a": 1}, Z, 1), TypeError, r"queries must be an array, got dict; pass numpy\.column_stack\(list\(queries\.values\(\)\)\), a column for each key"),
    (lambda: resmem.search(iter(Z), Z, 1), TypeError, r"queries must be an array, got iterator; pass numpy\.array\(list\(queries\)\)"),
    (lambda: resmem.search(Z, Z, 1, np.array(["cosine"])), ValueError, r"metric must be one of .*, got array\(.*\)"),
    (lambda: resmem.search(Z.astype("datetime64[s]"), Z, 1), TypeError, r"queries must hold real numbers, got dtype datetime64\[s\]; .*"),
    (lambda: resmem.search([[1, 2, 3], [4]], Z, 1), TypeError, r"queries cannot be read as an array: list \(.*\); give all rows as many numbers"),
    (lambda: resmem.search(Unreadable(), Z, 1), TypeError, r"queries cannot be read as an array: Unreadable \(the data are elsewhere\); pass a NumPy array or a CPU tensor"),
    (lambda: resmem.search(Attached(), Z, 1), TypeError, r"queries is a tensor that requires grad; pass queries\.detach\(\)"),
    (lambda: resmem.search(Z, Z, 0), ValueError, r"k must be at least 1, got 0"),
    (lambda: resmem.search(Z, Z, -3), ValueError, r"k must be at least 1, got -3"),
    (lambda: resmem.search(Z, Z, 1.0), TypeError, r"k must be an integer, got 1\.0"),
    (lambda: resmem.search(Z, Z, True), TypeError, r"k must be an integer, got True"),
    (lambda: resmem.search(Z, Z, "1"), TypeError, r"k must be an integer, got '1'"),
    (lambda: resmem.search(Z, Z, None), TypeError, r"k must be an integer, got None"),
    (lambda: resmem.search(Z, Z, 1, threads=0), ValueError, r"threads must be at least 1, got 0"),
    (lambda: resmem.search(Z, Z, 1, threads=2.0), TypeError, r"threads must be an integer, got 2\.0"),
    (lambda: resmem.search(Z, Z, 1, "l2"), ValueError, r"metric must be one of 'euclidean', 'sqeuclidean', 'cosine', 'inner_product', got 'l2'"),
    (lambda: resmem.search(Z, Z, 1, exclude_ids=[0, 1]), ValueError, r"exclude_ids must have one row per row of queries \(6\), got 2"),
    (lambda: resmem.search(Z, Z, 1, exclude_ids=[0.5] * N), TypeError, r"exclude_ids must hold integers, got dtype float64; convert it with numpy\.asarray\(exclude_ids\)\.astype\('int64'\)"),
    (lambda: resmem.search(Z, Z, 1, exclude_ids=[True] * N), TypeError, r"exclude_ids must hold integers, got dtype bool; use -1 where no id is excluded"),
    (lambda: resmem.search(Z, Z, 1, exclude_ids=np.zeros((N, 1, 1), int)), ValueError, r"exclude_ids must have shape \(q, m\), got \(6, 1, 1\)"),
    (lambda: resmem.search(Z, Z, 1, exclude_ids=np.full(N, 2**63, np.uint64)), ValueError, r"exclude_ids holds values beyond int64"),
]  # fmt: skip

PATHS = r"path must be a str or a path, got BytesIO: rows are mapped from files by name; for an open file or bytes, use a path such as os\.path\.join\(tempfile\.mkdtemp\(\), 'memory\.resmem'\) and copy that file"

PARAMETERS = [
    (lambda: resmem.Memory("ranking"), ValueError, r"task must be 'classification' or 'regression', got 'ranking'"),
    (lambda: resmem.Memory(output_kind="values"), ValueError, r"output_kind must be one of 'logits', 'probabilities', 'none' for classification, got 'values'"),
    (lambda: resmem.Memory("regression", "logits"), ValueError, r"output_kind must be one of 'values', 'none' for regression, got 'logits'"),
    (lambda: resmem.Memory(k=0), ValueError, r"k must be at least 1, got 0"),
    (lambda: resmem.Memory(k=2.5), TypeError, r"k must be an integer, got 2\.5"),
    (lambda: resmem.Memory(sigma=0), ValueError, r"sigma must be a positive number or 'auto', got 0"),
    (lambda: resmem.Memory(sigma=-1.5), ValueError, r"sigma must be a positive number or 'auto', got -1\.5"),
    (lambda: resmem.Memory(sigma=np.nan), ValueError, r"sigma must be a positive number or 'auto', got nan"),
    (lambda: resmem.Memory(sigma="large"), ValueError, r"sigma must be a positive number or 'auto', got 'large'"),
    (lambda: resmem.Memory(sigma=None), TypeError, r"sigma must be a number, got None"),
    (lambda: resmem.Memory(sigma=True), TypeError, r"sigma must be a number, got True"),
    (lambda: resmem.Memory(sigma=10**400), ValueError, r"sigma must be within float64, got a larger number"),
    (lambda: resmem.Memory(sigma=1j), TypeError, r"sigma must be a number, got 1j"),
    (lambda: resmem.Memory(temperature=0), ValueError, r"temperature must be a positive number, got 0"),
    (lambda: resmem.Memory(temperature=np.inf), ValueError, r"temperature must be a positive number, got inf"),
    (lambda: resmem.Memory(temperature=1e-300), ValueError, r"temperature must lie between 1e-100 and 1e100, got 1e-300"),
    (lambda: resmem.Memory(temperature="1"), TypeError, r"temperature must be a number, got '1'"),
    (lambda: resmem.Memory("regression", temperature=2), ValueError, r"temperature must be 1 for values, got 2: only logits have one"),
    (lambda: resmem.Memory(output_kind="probabilities", temperature=2), ValueError, r"temperature must be 1 for probabilities, got 2: only logits have one"),
    (lambda: resmem.Memory(strength=np.inf), ValueError, r"strength must be finite, got inf"),
    (lambda: resmem.Memory(strength=b"1"), TypeError, r"strength must be a number, got b'1'"),
    (lambda: resmem.Memory(auto_prepare="never"), TypeError, r"auto_prepare must be True or False, got 'never'"),
    (lambda: resmem.Memory(probability_map="softmax"), ValueError, r"probability_map must be 'clip', 'project' or 'keep', or with a number between 0 and 1 such as 'clip:0\.001', got 'softmax'"),
    (lambda: resmem.Memory(probability_map="clip:0"), ValueError, r"probability_map must be .*, got 'clip:0'"),
    (lambda: resmem.Memory(probability_map="clip:1"), ValueError, r"probability_map must be .*, got 'clip:1'"),
    (lambda: resmem.Memory(probability_map="project:x"), ValueError, r"probability_map must be .*, got 'project:x'"),
    (lambda: resmem.Memory(probability_map="clip:nan"), ValueError, r"probability_map must be .*, got 'clip:nan'"),
    (lambda: resmem.Memory(probability_map=1), ValueError, r"probability_map must be .*, got 1"),
    (lambda: resmem.Memory(method="knn"), ValueError, r"method must be 'residual' or 'targets', got 'knn'"),
    (lambda: resmem.Memory(method=["targets"]), ValueError, r"method must be 'residual' or 'targets', got \['targets'\]"),
    (lambda: resmem.Memory(method="targets", strength=1.5), ValueError, r"strength must lie between 0 and 1 with method='targets', which mixes it into the base's outputs, got 1\.5"),
    (lambda: resmem.Memory(gate="far"), ValueError, r"gate must be 'none' or steps of 'distance', 'confidence' or 'agreement' such as 'distance: 1\.0 to 0\.8, 0\.5 to 1\.2, 0\.0 beyond', got 'far'"),
    (lambda: resmem.Memory("regression", gate="agreement: 0.0 to 0.5, 1.0 beyond"), ValueError, r"gate must look at the distance alone in regression, got a step of 'agreement'"),
    (lambda: resmem.Memory(k=2).fit(Z, L, Y).monitor("f1"), ValueError, r"score must be one of 'brier', 'log_loss', 'accuracy' for classification, got 'f1'"),
    (lambda: resmem.Memory(k=2).fit(Z, L, Y).monitor(cut=0), ValueError, r"cut must be a positive number, got 0"),
    (lambda: resmem.Memory(k=2).fit(Z, L, Y).monitor(cut=1e308), ValueError, r"cut must be at most 4\.49e\+307, got 1e\+308"),
    (lambda: resmem.Memory(k=2).fit(Z, L, Y).monitor(window=0), ValueError, r"window must be at least 1, got 0"),
    (lambda: resmem.Memory(k=2).fit(Z, L, Y).monitor(off_when_harmful=1), TypeError, r"off_when_harmful must be True or False, got 1"),
    (lambda: resmem.Memory("regression").fit(Z, V, V).monitor(), ValueError, r"cut must be given: the memory has no residuals that tell how large losses are; pass cut=1.0, say, in units of the score"),
    (lambda: resmem.Memory(k=2).fit(Z, L, Y).monitor(resume=[]), TypeError, r"resume must be what to_dict gives, got list"),
    (lambda: resmem.Memory(k=2).fit(Z, L, Y).monitor(resume={}), ValueError, r"resume must be what to_dict gives, 'score' is missing"),
    (lambda: resmem.Memory("regression").fit(Z, V, V).monitor(resume=resmem.Memory(k=2).fit(Z, L, Y).monitor().to_dict()), ValueError, r"resume must be of a score for regression, got 'brier'"),
    (lambda: resmem.Memory(max_rows=0), ValueError, r"max_rows must be at least 1, got 0"),
    (lambda: resmem.Memory(max_bytes=1.5), TypeError, r"max_bytes must be an integer, got 1.5"),
    (lambda: resmem.Memory(max_age="3 days"), TypeError, r"max_age must be a number, got '3 days'"),
    (lambda: resmem.Memory(max_age=-1), ValueError, r"max_age must be a finite number of at least 0, got -1"),
    (lambda: resmem.Memory(max_age=np.timedelta64("NaT", "s")), ValueError, r"max_age must be a time span of at least 0, got .*NaT.*"),
    (lambda: resmem.Memory(max_age=np.timedelta64(1, "Y")), ValueError, r"max_age must be in a unit from weeks to nanoseconds, got (np|numpy)\.timedelta64\(1,'Y'\)"),
    (lambda: resmem.Memory(max_age=np.timedelta64(999999, "W")), ValueError, r"max_age must be below 292 years, got 999999W"),
    (lambda: resmem.Memory(half_life=datetime.timedelta.max), ValueError, r"half_life must be below 292 years, got \d+us"),
    (lambda: resmem.Memory(half_life=datetime.timedelta(0)), ValueError, r"half_life must be above 0, got 0us"),
    (lambda: resmem.Memory(half_life=np.timedelta64(0, "D")), ValueError, r"half_life must be above 0, got 0D"),
    (lambda: resmem.Memory(max_age=np.timedelta64(-3, "h")), ValueError, r"max_age must be a time span of at least 0, got -3h"),
    (lambda: resmem.Memory(max_age=3).fit(Z, L, Y), ValueError, r"max_age needs times of rows, which fit was not given; fit with times=numpy.arange\(n\), say, or set max_age=None"),
    (lambda: resmem.Memory(max_age=np.timedelta64(3, "s")).fit(Z, L, Y, times=np.arange(N)), ValueError, r"max_age must be a number, as times are integers, got .*3.*"),
    (lambda: resmem.Memory(half_life=0), ValueError, r"half_life must be above 0, got 0"),
    (lambda: resmem.Memory(half_life=3).fit(Z, L, Y), ValueError, r"half_life needs times of rows, which fit was not given; fit with times=numpy.arange\(n\), say, or set half_life=None"),
    (lambda: resmem.Memory(max_bytes=20).fit(Z, L, Y), ValueError, r"max_bytes must be at least the 36 bytes of a row, got 20"),
    (lambda: resmem.Memory(residuals="honest"), ValueError, r"residuals must be 'in-sample', 'out-of-fold' or None \(unknown\), got 'honest'"),
    (lambda: resmem.Memory(key_dtype="int8"), ValueError, r"key_dtype must be one of 'auto', 'float32', 'float64', 'float16', 'bfloat16', got 'int8'"),
    (lambda: resmem.Memory(residual_dtype="bfloat16"), ValueError, r"residual_dtype must be one of 'float32', 'float64', 'float16', got 'bfloat16'"),
    (lambda: resmem.Memory(store="sparse"), ValueError, r"store must be 'dense', 'sparse:m' \(such as 'sparse:32'\) or 'head', got 'sparse'"),
    (lambda: resmem.Memory(store="sparse:0"), ValueError, r"store must be 'dense', .* got 'sparse:0'"),
    (lambda: resmem.Memory(store=3), ValueError, r"store must be 'dense', .* got 3"),
    (lambda: resmem.Memory("regression", store="sparse:3"), ValueError, r"store='sparse:3' is for classification; regression needs store='dense'"),
    (lambda: resmem.Memory(output_kind="probabilities", store="head", head=HEAD), ValueError, r"store='head' gives logits, so output_kind must be 'logits', got 'probabilities'"),
    (lambda: resmem.Memory(store="head", head=HEAD, residual_dtype="float16"), ValueError, r"residual_dtype must be 'float32' with store='head', which keeps no residuals"),
    (lambda: resmem.Memory(store="head", head=HEAD, preprocess="unit"), ValueError, r"store='head' needs preprocess='none', as its layer reads the embeddings from the keys, got 'unit'"),
    (lambda: resmem.Memory(store="head"), ValueError, r"store='head' needs head=\(weight, bias\): the base model's last layer, \(C, d\) and \(C,\)"),
    (lambda: resmem.Memory(head=HEAD), ValueError, r"head is for store='head', got store='dense'"),
    (lambda: resmem.Memory(store="head", head=7), TypeError, r"head must be \(weight, bias\) or a linear layer, got int"),
    (lambda: resmem.Memory(store="head", head=(np.ones((0, 3)), None)), ValueError, r"head weight must have rows and columns, got shape \(0, 3\)"),
    (lambda: resmem.Memory(store="head", head=(HEAD[0], np.ones(3))), ValueError, r"head bias must have one value per row of weight \(2\), got 3"),
    (lambda: resmem.Memory(store="head", head=(HEAD[0] * np.inf, None)), ValueError, r"head weight must be finite \(as float32\)"),
    (lambda: resmem.Memory(store="head", head=(HEAD[0], [0, np.nan])), ValueError, r"head bias must be finite \(as float32\)"),
    (lambda: resmem.Memory(preprocess="pca"), ValueError, r"preprocess must be 'none', 'center', 'standardize', 'unit', 'pca:m', 'whiten:m' or 'nca:m' \(such as 'pca:64'\), got 'pca'"),
    (lambda: resmem.Memory(preprocess="pca:0"), ValueError, r"preprocess must be .*, got 'pca:0'"),
    (lambda: resmem.Memory(preprocess="unit:3"), ValueError, r"preprocess must be .*, got 'unit:3'"),
    (lambda: resmem.Memory(preprocess="pca:3\n"), ValueError, r"preprocess must be .*, got 'pca:3\\n'"),
    (lambda: resmem.Memory(preprocess=Z), ValueError, r"preprocess must be .*, got array\(.*\)"),
    (lambda: resmem.Memory(preprocess=None), ValueError, r"preprocess must be .*, got None"),
    (lambda: resmem.Memory(preprocess="whiten:4").fit(Z, L, Y), ValueError, r"preprocess='whiten:4' keeps 4 dimensions, embeddings have only 3 columns; keep fewer"),
    (lambda: resmem.Memory(preprocess="whiten:3").fit(Z * 1e-41, L, Y), ValueError, r"preprocess='whiten:3' needs weights beyond float32 for embeddings as large or small as these; rescale them"),
    (lambda: resmem.Memory(preprocess="center").fit(with_value(Z, slice(0, 6, 2), -3.4e38), L, Y).add(with_value(Z, 4, 3.4e38), L, Y), ValueError, r"embeddings: row 4 is beyond float32 after preprocess='center'; rescale the embeddings"),
    (lambda: resmem.Memory(preprocess="pca:2").fit(NAN, L, Y), ValueError, r"embeddings: row 4 holds NaN or infinity \(as float32\)"),
    (lambda: resmem.Memory(preprocess="pca:2", k=2).fit(Z, L, Y).kneighbors(Z[:, :2]), ValueError, r"embeddings must have 3 columns like the stored rows, got 2"),
    (lambda: resmem.Memory(preprocess="unit", k=2).fit(Z, L, Y)._state.view.rekeyed("none", "float32"), ValueError, r"keys can be made anew only of embeddings stored as they came, with preprocess='none' and key_dtype='float32' or 'float64', not with preprocess='unit' and key_dtype='float32'; fit again"),
    (lambda: resmem.Memory(base=1), TypeError, r"base must be a string or a dict, got int"),
    (lambda: resmem.Memory(base={"a": {1}}), TypeError, r"base must hold what JSON can: strings, numbers, lists, dicts \(.*\)"),
    (lambda: resmem.Memory.estimate(5, 2, 3, key_dtype="int8"), ValueError, r"key_dtype must be one of float32, float64, float16, bfloat16, got 'int8'"),
    (lambda: resmem.Memory.estimate(5, 0, 3), ValueError, r"d must be at least 1, got 0"),
    (lambda: resmem.Memory(key_dtype="float16").fit(with_value(Z, 3, 7e4), L, Y), ValueError, r"embeddings: row 3 is beyond float16; rescale the embeddings or use key_dtype='bfloat16' or 'float32'"),
    (lambda: resmem.Memory(key_dtype="bfloat16").fit(with_value(Z, 1, 3.4e38), L, Y), ValueError, r"embeddings: row 1 is beyond bfloat16; rescale the embeddings or use key_dtype='float32'"),
    (lambda: resmem.Memory("regression", residual_dtype="float16").fit(Z, V, V + 1e6), ValueError, r"targets - outputs: row 0 is beyond float16, in which residuals are kept; rescale targets and outputs or use residual_dtype='float64'"),
    (lambda: resmem.Memory(residual_dtype="float64"), ValueError, r"residual_dtype='float64' is for regression; probabilities need no more than 'float32'"),
    (lambda: resmem.Memory(auto_prepare=1), TypeError, r"auto_prepare must be True or False, got 1"),
    (lambda: resmem.Memory("regression", residual_dtype="float32").fit(Z, with_value(V, 1, 1e39, float), V), ValueError, r"targets - outputs: row 1 is beyond float32, in which residuals are kept; rescale targets and outputs or use residual_dtype='float64'"),
    (lambda: resmem.Memory(store="head", head=HEAD).fit(Z, L, Y), ValueError, r"outputs must be None with store='head': the head gives them from the embeddings"),
    (lambda: resmem.Memory(store="head", head=HEAD).fit(Z[:, :2], None, Y), ValueError, r"embeddings must have 3 columns like the head's weight, got 2; its weight is \(C, d\): pass weight\.T"),
    (lambda: setattr(resmem.Memory(store="sparse:1", k=2).fit(Z, L, Y), "temperature", 2), ValueError, r"temperature is fixed at fit for store='sparse:1' \(1\), got 2; fit again, or use store='dense'"),
    (lambda: resmem.aggregate([[0.0]], [0], L, 1), ValueError, r"ids must have shape \(q, k\), got \(1,\)"),
    (lambda: resmem.aggregate([[0.0, 1]], [[0]], L, 1), ValueError, r"distances \(1, 2\) and ids \(1, 1\) must have one shape"),
    (lambda: resmem.aggregate([[0.0]], [[6]], L, 1), ValueError, r"ids must be rows of residuals, 0 to 5, or -1; got 6"),
    (lambda: resmem.aggregate([[0.0]], [[0]], L[:, :0], 1), ValueError, r"residuals must have at least one column, got shape \(6, 0\)"),
    (lambda: resmem.aggregate([[0.0]], [[0]], L, 1, base=L), ValueError, r"base must have shape \(1, 2\), a row per query and a column per column of residuals, got \(6, 2\)"),
    (lambda: resmem.aggregate([[0.0]], [[0]], with_value(L, 2, np.inf), 1), ValueError, r"residuals: row 2 holds NaN or infinity \(as float32\)"),
    (lambda: resmem.aggregate([[0.0]], [[0]], L, 0), ValueError, r"sigma must be a positive number, got 0"),
    (lambda: resmem.aggregate([[0.0]], [[0]], L, 1, strength=np.inf), ValueError, r"strength must be finite, got inf"),
    (lambda: resmem.aggregate([[0.0]], [[0]], L, 1, metric="l1"), ValueError, r"metric must be one of 'euclidean', 'sqeuclidean', 'cosine', 'inner_product', got 'l1'"),
    (lambda: resmem.aggregate([[0.0, 1], [0, 1]], [[0, 1], [-1, 1]], L, 1), ValueError, r"ids: row 1 has -1, which is padding, before other ids"),
    (lambda: resmem.aggregate([[0.0, 1], [1, 0]], [[0, 1], [0, 1]], L, 1), ValueError, r"distances: row 1 must be finite, not negative and ascending, as metric='euclidean' has them; sort neighbours, the nearest first, or pass their own metric"),
    (lambda: resmem.aggregate([[1.0, 2.0]], [[0, 1]], L, 1, metric="inner_product"), ValueError, r"distances: row 0 must be finite, descending, as metric='inner_product' has them; sort neighbours, the nearest first, or pass their own metric"),
    (lambda: resmem.Memory(k=2, gate="distance: 1.0 to 1.0, 0.5 beyond").fit(Z, L, Y).aggregate([[0.0]], [[0]], L[:1], metric="cosine"), ValueError, r"the memory's gate looks at distances of metric='euclidean', got metric='cosine'; give such distances, or set memory\.gate = 'none'"),
    (lambda: resmem.aggregate([[-1.0]], [[0]], L, 1), ValueError, r"distances: row 0 must be finite, .*"),
    (lambda: resmem.aggregate([[np.nan]], [[0]], L, 1), ValueError, r"distances: row 0 must be finite, .*"),
    (lambda: resmem.aggregate([[np.inf]], [[0]], L, 1), ValueError, r"distances: row 0 must be finite, .*"),
]  # fmt: skip

PARAMETERS += [
    (lambda: resmem.Memory(n_neighbors=5), TypeError, r"Memory has no parameter 'n_neighbors'; use k"),
    (lambda: resmem.Memory(temprature=2), TypeError, r"Memory has no parameter 'temprature'; use temperature"),
    (lambda: resmem.leaf_keys(Tree(), Z), TypeError, r"model must be a fitted tree ensemble with 'apply', 'calc_leaf_indexes' or predict\(X, pred_leaf=True\), got Tree; give an int array \(n, trees\) of leaf numbers instead of model and X"),
    (lambda: resmem.leaf_keys(Steps(), Z), TypeError, r"model must be .*, got Steps; give the last step of a pipeline, and X as the steps before it transform it"),
    (lambda: resmem.leaf_keys(Tree()), TypeError, r"X must be the rows that Tree reads, got None"),
    (lambda: resmem.leaf_keys(Z), TypeError, r"leaf numbers must be whole, got float32; without X, give an int array \(n, trees\) as the model"),
    (lambda: resmem.leaf_keys(NAN), TypeError, r"leaf numbers must be whole, got float32; .*"),
    (lambda: resmem.leaf_keys([[np.inf], [1.0]]), TypeError, r"leaf numbers must be whole, got float64; .*"),
    (lambda: resmem.leaf_keys([[2.0**63]]), TypeError, r"leaf numbers must be whole, got float64; .*"),
    (lambda: resmem.leaf_keys(np.empty((5, 0), int)), ValueError, r"leaf numbers must have shape \(n, trees\) with at least one tree, got \(5, 0\)"),
    (lambda: resmem.leaf_keys(np.int64(3)), ValueError, r"leaf numbers must have shape \(n, trees\) with at least one tree, got \(\)"),
    (lambda: resmem.leaf_keys(Y, m=0), ValueError, r"m must be at least 1, got 0"),
    (lambda: resmem.out_of_fold(lambda a, b, c: 0, Z, Y, seed=2**32), ValueError, r"seed must be below 2\*\*32, got 4294967296"),
    (lambda: resmem.leaf_keys(Y, seed=-1), ValueError, r"seed must be at least 0, got -1"),
    (lambda: resmem.Memory(metric="l2"), ValueError, r"metric must be one of 'euclidean', 'sqeuclidean', 'cosine', 'inner_product', got 'l2'"),
    (lambda: resmem.Memory(space="cosine"), TypeError, r"Memory has no parameter 'space'; use metric"),
    (lambda: resmem.Memory(n_jobs=2), TypeError, r"Memory has no parameter 'n_jobs': give threads to the methods, such as predict"),
    (lambda: resmem.Memory(weights="uniform"), TypeError, r"Memory has no parameter 'weights': neighbours are weighted by exp\(-D / sigma\); sigma=float\('inf'\) weights all alike"),
    (lambda: resmem.Memory(zzz=1), TypeError, r"Memory has no parameter 'zzz'; there are task, output_kind, k, .*"),
    (lambda: resmem.Memory(*range(24)), TypeError, r"Memory takes at most 23 arguments, got 24"),
    (lambda: resmem.Memory(["regression"]), ValueError, r"task must be .*, got \['regression'\]"),
    (lambda: resmem.Memory(key_dtype=["float16"]), ValueError, r"key_dtype must be one of .*, got \['float16'\]"),
    (lambda: setattr(resmem.Memory(), "n_neighbors", 5), AttributeError, r"Memory has no 'n_neighbors' to set; use k"),
    (lambda: resmem.Memory.load("x.resmem", progress=True), TypeError, r"progress must be a function of a number of bytes, got True"),
    (lambda: resmem.Memory().fit(Z, L[:, 0], Y), ValueError, r"outputs must have shape \(n, C\), got \(6,\); for values to predict use task='regression'; a single row is .*; scores of the second of two classes become numpy\.stack\(\[numpy\.zeros_like\(outputs\), outputs\], axis=1\)"),
    (lambda: resmem.Memory(output_kind="probabilities").fit(Z, P[:, 0], Y), ValueError, r".*numpy\.stack\(\[numpy\.subtract\(1, outputs\), outputs\], axis=1\)"),
    (lambda: resmem.Memory().fit(Z, L[:, :1], Y), ValueError, r"targets: row . is class 1, but outputs have 1 columns, so classes are 0 to 0; for two classes, pass both columns, numpy\.hstack\(\[numpy\.zeros_like\(outputs\), outputs\]\)"),
    (lambda: resmem.Memory().fit(Z, Z, [1, 3, 1, 3, 1, 3]), ValueError, r"targets: row 1 is class 3, .*; for classes counted from 1, pass numpy\.asarray\(targets\) - 1"),
    (lambda: resmem.Memory().fit(Z, L, [0, 1, -100, 1, 0, -100]), ValueError, r"targets: row 2 is class -100, .*; to leave out rows labelled -100, use resmem\.tokens\(embeddings, outputs, targets\)"),
    (lambda: resmem.Memory().fit(Z, L, [0, -100, -100, 0, 0, -100]), ValueError, r"targets: row 1 is class -100, .*; to leave out .*"),
    (lambda: resmem.Memory().fit(Z, Z, np.eye(2)[Y]), ValueError, r"targets must have shape \(n,\), \(n, 1\) or \(n, 3\), got \(6, 2\); for the column of the largest value, pass numpy\.argmax\(targets, axis=1\), and for tokens in sequences use resmem\.tokens\(embeddings, outputs, targets\)"),
    (lambda: resmem.Memory().fit(Z, L, L[None]), ValueError, r"targets must have shape \(n,\), \(n, 1\) or \(n, 2\), got \(1, 6, 2\)"),
    (lambda: resmem.Memory().fit(Z, L, with_value(np.eye(2)[Y], 3, 0.5)), ValueError, r"targets: row 3 is not one-hot, which is 1 for its class and 0 for all others; for the column of the largest value, pass numpy\.argmax\(targets, axis=1\)"),
    (lambda: resmem.Memory().fit(Z, L, list("abbabc")), ValueError, r"targets hold the labels 'a', 'b', 'c', and outputs have 2 columns; name the label of each column in order, such as those that the model has: resmem\.Memory\(classes=model\.classes_\)"),
    (lambda: resmem.Memory().fit(Z, L[:, :1], list("abbaba")), ValueError, r"targets hold the labels 'a', 'b', and outputs have 1 columns; for two classes, pass both columns, numpy\.hstack\(\[numpy\.zeros_like\(outputs\), outputs\]\)"),
    (lambda: resmem.Memory().fit(Z, L, V), ValueError, r"targets hold the labels .* and 1 more, and outputs have 2 columns; name .*, or, if these are values and not classes, use task='regression'"),
    (lambda: resmem.Memory(classes=[]), ValueError, r"classes must be a list of labels, one for each column of outputs, got shape \(0,\)"),
    (lambda: resmem.Memory(classes=["a", "b", "a"]), ValueError, r"classes must be distinct, got 'a' twice"),
    (lambda: resmem.Memory(classes=[1, True]), ValueError, r"classes must be distinct, got 1 twice"),
    (lambda: resmem.Memory("regression", classes=["a"]), ValueError, r"classes are for classification, got classes=\['a'\] for regression"),
    (lambda: resmem.Memory(classes=["a", "b", "c"]).fit(Z, L, list("abbaba")), ValueError, r"classes must name each of the 2 columns of outputs, got 3 labels"),
    (lambda: resmem.Memory(classes=["a", 1]), TypeError, r"classes must be labels of one kind, all text or all numbers, got both; make text of them, \[str\(label\) for label in classes\]"),
    (lambda: resmem.Memory(classes=[("a", 1), ("b", 2)]), TypeError, r"classes must be labels, which are text, bools, integers or floats, got tuple at row 0; make text of them, \[str\(label\) for label in classes\]"),
    (lambda: resmem.Memory(classes=["a", 2**23 * "b"]), ValueError, r"labels must take at most 8388608 bytes as JSON, as files keep them in their manifest, got 838861\d; use shorter ones, or numbers of columns"),
    (lambda: resmem.Memory(classes=["a", None]), ValueError, r"classes: row 1 has no label, but None, NaN or infinity; leave such rows out"),
    (lambda: resmem.Memory(classes=[2**70, 1]), ValueError, r"classes holds values beyond int64"),
    (lambda: resmem.Memory(classes=np.array([2**63, 1], np.uint64)), ValueError, r"classes holds values beyond int64"),
    (lambda: resmem.Memory().fit(Z, L, np.array([b"a", b"b"] * 3)), TypeError, r"targets must be labels, which are text, bools, integers or floats, got dtype \|S1; convert them, for example with numpy\.asarray\(targets\)\.astype\(str\)"),
    (lambda: resmem.Memory().fit(Z, L, with_value(V, 2, np.nan)), ValueError, r"targets: row 2 has no label, but None, NaN or infinity; leave such rows out"),
    (lambda: text_memory().add(Z[:2], L[:2], ["a", "z"]), ValueError, r"targets: row 1 has the label 'z', which is not among the classes 'a', 'b'; rows with known labels are numpy\.isin\(targets, memory\.classes_\)"),
    (lambda: text_memory().evaluate(Z, L, Y), ValueError, r"targets: row 0 has the label \d, which is not among the classes .*"),
    (lambda: resmem.Memory(k=2).fit(Z, L, 7 * Y).tune(Z, L, [7, -100, 0, 0, 0, 0]), ValueError, r"targets: row 1 has the label -100, which is not among the classes 0, 7; to leave out rows labelled -100, use resmem\.tokens\(embeddings, outputs, targets\)"),
    (lambda: resmem.Memory(output_kind="probabilities").fit(Z, P[:, :1], Y), ValueError, r"outputs: row 0 sums to 0\.5, expected 1; for the probability of the second of two classes, pass numpy\.hstack\(\[1 - numpy\.asarray\(outputs\), outputs\]\)"),
    (lambda: resmem.Memory(output_kind="none").fit(Z, L, Y), ValueError, r"outputs must be None with output_kind='none', which has no base model, got ndarray"),
    (lambda: resmem.Memory(output_kind="none").fit(Z, None, Y[None, None]), ValueError, r"targets must have shape \(n,\) or \(n, C\), got \(1, 1, 6\)"),
    (lambda: memory().save(io.BytesIO()), TypeError, PATHS),
    (lambda: memory().export(io.BytesIO()), TypeError, PATHS),
    (lambda: resmem.Memory.load(io.BytesIO()), TypeError, PATHS),
    (lambda: resmem.tokens(Z[None], L, Y[None]), ValueError, r"outputs must have the shape of targets \(1, 6\) and one axis more, got \(6, 2\)"),
    (lambda: memory().kneighbors(Z[None]), ValueError, r"embeddings must have shape \(q, d\), got \(1, 6, 3\); .*; for one row per labelled token, use resmem\.tokens\(embeddings, outputs, targets\)"),
    (lambda: resmem.Memory().fit(Z, Y, L), ValueError, r"outputs hold integers \(6,\) and targets real numbers \(6, 2\), as if one were given for the other; the order is embeddings, outputs, targets"),
    (lambda: resmem.Memory(output_kind="probabilities").fit(Z, 100 * P, Y), ValueError, r"outputs: row 0 holds values outside \[0, 1\]; for percentages, pass numpy\.asarray\(outputs\) / 100"),
]  # fmt: skip


def timed():
    """Return a memory whose rows have times and groups."""
    return resmem.Memory(k=2, sigma=1.0).fit(Z, L, Y, times=np.arange(N), groups=np.arange(N))


DAYS = np.datetime64("2026-01-01") + np.arange(N)
# Whom queries ask, and what rows have for it.
ASKED = [
    (lambda m: m.fit(Z, L, Y, sample_weight=-np.ones(N)), ValueError, r"sample_weight: row 0 has -1, expected 0 or a number from 1e-100 to 1e\+100"),
    (lambda m: m.fit(Z, L, Y, sample_weight=np.full(N, 1e101)), ValueError, r"sample_weight: row 0 has 1e\+101, expected 0 or a number from 1e-100 to 1e\+100"),
    (lambda m: m.fit(Z, L, Y, sample_weight=with_value(np.ones(N), 2, np.nan, float)), ValueError, r"sample_weight: row 2 holds NaN or infinity \(as float64\)"),
    (lambda m: m.fit(Z, L, Y, sample_weight=np.ones(2)), ValueError, r"sample_weight must have one row per row of embeddings \(6\), got 2"),
    (lambda m: m.fit(Z, L, Y, groups=[["a", 1]] * N), ValueError, r"groups must have shape \(n,\), got \(6, 2\)"),
    (lambda m: m.fit(Z, L, Y, groups=[{1}] * N), TypeError, r"groups must be labels, which are text, bytes, real numbers, datetimes, time spans or tuples of these, got \{1\} of type set; pass text in its place, str\(label\)"),
    (lambda m: m.fit(Z, L, Y, groups=[[1, 2], [3]]), ValueError, r"groups: rows 0 and 1 hold labels of shapes \(2,\) and \(1,\); give each row one label"),
    (lambda m: m.correct(Z, L, exclude_groups=[[1, 2], [3]]), ValueError, r"exclude_groups: rows 0 and 1 hold labels of shapes \(2,\) and \(1,\); give each row a list, and fill shorter ones with -1"),
    (lambda m: m.correct(Z, L, exclude_groups=[("a", 1)] * N), TypeError, r"exclude_groups: a tuple is one label, which a list of lists tells from several groups of one query; pass \[\[label\] for label in exclude_groups\], or, if each holds the groups of a query, \[list\(row\) for row in exclude_groups\]"),
    (lambda m: m.correct(Z, L, exclude_groups={1}), TypeError, r"exclude_groups must be labels, .*, got \{1\} of type set; .*"),
    (lambda m: m.fit(Z, L, Y, groups="alice"), TypeError, r"groups must be an array, got str; .*"),
    (lambda m: m.fit(Z, L, Y, groups=[1, 2]), ValueError, r"groups must have one row per row of embeddings \(6\), got 2"),
    (lambda m: m.fit(Z, L, Y, times=[str(day) for day in DAYS]), TypeError, r"times must be numbers or numpy\.datetime64, got dtype <U10; pass numpy\.asarray\(times, dtype='datetime64\[ns\]'\) \(of times in UTC\)"),
    (lambda m: m.fit(Z, L, Y, times=Z), ValueError, r"times must have shape \(n,\), got \(6, 3\)"),
    (lambda m: m.fit(Z, L, Y, times=with_value(V, 3, np.nan)), ValueError, r"times: row 3 is NaN"),
    (lambda m: m.fit(Z, L, Y, times=DAYS.astype("datetime64[s]") + np.timedelta64(400 * 366, "D")), ValueError, r"times: row 0 is 2426.*, expected a time from 1678 to 2261"),
    (lambda m: m.fit(Z, L, Y, times=np.full(N, np.datetime64("NaT", "D"))), ValueError, r"times: row 0 is NaT, expected a time from 1678 to 2261"),
    (lambda m: m.fit(Z, L, Y, times=np.zeros(N, "datetime64[ps]")), ValueError, r"times must be in nanoseconds or a longer unit, got datetime64\[ps\]"),
    (lambda m: m.fit(Z, L, Y, times=[1, 2]), ValueError, r"times must have one row per row of embeddings \(6\), got 2"),
    (lambda m: m.add(Z, L, Y), ValueError, r"times must be integers, as for the other rows of this memory, got none; give times to all rows, of one kind, or to none"),
    (lambda m: m.add(Z, L, Y, times=DAYS), ValueError, r"times must be integers, as for the other rows of this memory, got datetimes; give times to all rows, of one kind, or to none"),
    (lambda m: memory().add(Z, L, Y, times=DAYS), ValueError, r"times must be left out, as for the other rows of this memory, got datetimes; give times to all rows, of one kind, or to none"),
    (lambda m: memory().correct(Z, L, before=3), ValueError, r"before needs times of the rows: give times= to fit and add"),
    (lambda m: memory().evaluate(loo=True, before="own"), ValueError, r"before needs times of the rows: give times= to fit and add"),
    (lambda m: m.correct(Z, L, before=DAYS), ValueError, r"before must be integers, as the times of the rows are, got datetimes"),
    (lambda m: m.correct(Z, L, before=[1, 2]), ValueError, r"before must have one row per row of queries \(6\), got 2"),
    (lambda m: m.kneighbors(Z, before="2026-01-31"), TypeError, r"before must be numbers or numpy\.datetime64, got '2026-01-31'; of a date or a time in UTC pass numpy\.datetime64\(before\)"),
    (lambda m: m.kneighbors(Z, before="own"), ValueError, r"before='own' is for loo=True; give that of each query"),
    (lambda m: memory().correct(Z, L, exclude_groups=Y), ValueError, r"exclude_groups needs groups of the rows: give groups= to fit or add"),
    (lambda m: memory().tune(loo=True, exclude_groups="own"), ValueError, r"exclude_groups needs groups of the rows: give groups= to fit or add"),
    (lambda m: m.correct(Z, L, exclude_groups=[1]), ValueError, r"exclude_groups must have one row per row of queries \(6\), got 1"),
    (lambda m: m.correct(Z, L, exclude_groups=np.zeros((N, 1, 1), int)), ValueError, r"exclude_groups must have shape \(q, m\), got \(6, 1, 1\)"),
    (lambda m: m.correct(Z, L, among=[7]), ValueError, r"among must be those of rows in the memory, 7 is not"),
    (lambda m: m.correct(Z, L, among=[-1]), ValueError, r"among must hold ids of rows, got -1"),
    (lambda m: m.correct(Z, L, among=[0.5]), TypeError, r"among must hold integers, got dtype float64; convert it with numpy\.asarray\(among\)\.astype\('int64'\)"),
    (lambda m: m.correct(Z, L, among=[True, False]), ValueError, r"among must be a mask of the 6 rows, in the order of the property ids, or an array of ids, got a mask of shape \(2,\)"),
    (lambda m: m.tune(loo=True, before=3), ValueError, r"loo=True tunes on the memory's own rows: leave out embeddings, outputs, targets, exclude_ids, groups and times; before and exclude_groups may be 'own'"),
    (lambda m: m.evaluate(loo=True, exclude_ids=Y), ValueError, r"loo=True evaluates the memory's own rows: leave out embeddings, .* and published; before and exclude_groups may be 'own'"),
    (lambda m: m.prune(keep=0), ValueError, r"keep must be above 0 and at most 1, got 0"),
    (lambda m: m.prune(keep=1.5), ValueError, r"keep must be above 0 and at most 1, got 1\.5"),
    (lambda m: m.prune(seed=2**32), ValueError, r"seed must be below 2\*\*32, got 4294967296"),
    (lambda m: m.prune(confidence=1), ValueError, r"confidence must lie between 0 and 1, got 1"),
    (lambda m: m.prune(outputs=L), ValueError, r"without embeddings prune judges the memory's own rows: leave out outputs, targets and exclude_ids; before and exclude_groups may be 'own'"),
    (lambda m: m.prune(Z, L), TypeError, r"prune needs the targets of the validation rows, got None"),
    (lambda m: m.prune(Z[:0], L[:0], Y[:0]), ValueError, r"embeddings must have at least one row to judge, got none"),
    (lambda m: memory(strength=0.0).prune(), ValueError, r"prune asks which rows answers need, and at strength 0 they need none; set memory\.strength = 1, or tune"),
    (lambda m: memory(store="sparse:1").prune(), ValueError, r"prune needs the base model's outputs of the rows that judge, which store='sparse:1' does not keep; give validation rows"),
    (lambda m: memory().remove([1, 2, 3, 4, 5]).prune(), ValueError, r"prune needs a memory with at least 2 rows, this one has 1"),
    (lambda m: m.audit(0), ValueError, r"rows must be at least 1, got 0"),
    (lambda m: m.audit(seed=-1), ValueError, r"seed must be at least 0, got -1"),
    (lambda m: m.audit(seed=2**32), ValueError, r"seed must be below 2\*\*32, got 4294967296"),
    (lambda m: m.audit(before=3), ValueError, r"audit asks for the memory's own rows: before and exclude_groups may be 'own'"),
    (lambda m: memory().audit(before="own"), ValueError, r"before needs times of the rows: give times= to fit and add"),
    (lambda m: memory().remove([1, 2, 3, 4, 5]).audit(), ValueError, r"audit compares rows: the memory must hold at least 2, got 1"),
]  # fmt: skip

UNFITTED = r"this Memory holds no rows yet; call fit first"
UNFIT = [
    (lambda m: m.kneighbors(Z), resmem.NotFittedError, UNFITTED),
    (lambda m: m.correction(Z), resmem.NotFittedError, UNFITTED),
    (lambda m: m.correct(Z, L), resmem.NotFittedError, UNFITTED),
    (lambda m: m.predict(Z, L), resmem.NotFittedError, UNFITTED),
    (lambda m: m.predict_proba(Z, L), resmem.NotFittedError, UNFITTED),
    (lambda m: m.aggregate([[0.0]], [[0]]), resmem.NotFittedError, UNFITTED),
    (lambda m: m.audit(), resmem.NotFittedError, UNFITTED),
    (lambda m: m.prune(), resmem.NotFittedError, UNFITTED),
    (lambda m: m.remove([0]), resmem.NotFittedError, UNFITTED),
    (lambda m: m.get([0]), resmem.NotFittedError, UNFITTED),
    (lambda m: m.update([0], Z[:1], L[:1], Y[:1]), resmem.NotFittedError, UNFITTED),
    (lambda m: m.merge(memory()), resmem.NotFittedError, UNFITTED),
    (lambda m: m.sigma_, resmem.NotFittedError, UNFITTED),
]

# Calls on a fitted memory, which must not change it.
CLASSES = [
    (lambda m: m.fit(NAN, L, Y), ValueError, r"embeddings: row 4 holds NaN or infinity \(as float32\)"),
    (lambda m: m.fit(Z[0], L, Y), ValueError, r"embeddings must have shape \(n, d\), got \(3,\); a single row is numpy\.atleast_2d\(embeddings\)"),
    (lambda m: m.fit(Z, L[:4], Y), ValueError, r"outputs must have one row per row of embeddings \(6\), got 4"),
    (lambda m: m.fit(Z, L[0], Y), ValueError, r"outputs must have shape \(n, C\), got \(2,\); for values to predict use task='regression'; a single row is numpy\.atleast_2d\(outputs\); scores of the second of two classes become numpy\.stack\(\[numpy\.zeros_like\(outputs\), outputs\], axis=1\)"),
    (lambda m: m.fit(Z, L[:, :0], Y), ValueError, r"outputs must have at least one column, got shape \(6, 0\)"),
    (lambda m: m.fit(Z, with_value(L, 3, np.nan), Y), ValueError, r"outputs: row 3 holds NaN or infinity \(as float32\); only -inf is allowed in logits"),
    (lambda m: m.fit(Z, with_value(L, 5, np.inf), Y), ValueError, r"outputs: row 5 holds NaN or infinity \(as float32\); only -inf is allowed in logits"),
    (lambda m: m.fit(Z, np.where(np.arange(N)[:, None] == 2, -np.inf, L), Y), ValueError, r"outputs: row 2 is -inf throughout, so no class is possible"),
    (lambda m: m.fit(Z, L, Y[:5]), ValueError, r"targets must have one row per row of embeddings \(6\), got 5"),
    (lambda m: m.tune(Z, L, Y * 0.5), TypeError, r"targets must hold integers, got dtype float64; convert it with numpy\.asarray\(targets\)\.astype\('int64'\), or, if these are values and not classes, use task='regression'"),
    (lambda m: m.add(Z, L, list("abbaba")), TypeError, r"targets must hold integers, got dtype <U1; number the classes like the columns of outputs, numpy\.searchsorted\(classes, targets\), where classes are the model's in ascending order \(classes_\)"),
    (lambda m: m.fit(Z, L, [0, 1, 2, 0, 0, 0]), ValueError, r"targets: row 2 is class 2, but outputs have 2 columns, so classes are 0 to 1"),
    (lambda m: m.fit(Z, L, [0, -1, 0, 1, 0, 0]), ValueError, r"targets: row 1 is class -1, but outputs have 2 columns, so classes are 0 to 1"),
    (lambda m: m.fit(Z, L, Y, ids=[0, 1]), ValueError, r"ids must have one row per row of embeddings \(6\), got 2"),
    (lambda m: m.fit(Z, L, Y, ids=[0, 1, 2, 3, 1, 0]), ValueError, r"ids must be unique, got 0 more than once"),
    (lambda m: m.fit(Z, L, Y, ids=[0, 1, -2, 3, 4, 5]), ValueError, r"ids must not be negative, got -2 at row 2"),
    (lambda m: m.fit(Z, L, Y, ids=np.arange(N) / 1), TypeError, r"ids must hold integers, got dtype float64; convert it with numpy\.asarray\(ids\)\.astype\('int64'\)"),
    (lambda m: m.fit(Z, L, Y, ids=np.arange(N, dtype=np.uint64) + np.uint64(2**63)), ValueError, r"ids holds values beyond int64"),
    (lambda m: m.add(Z[:, :2], L, Y), ValueError, r"embeddings must have 3 columns like the stored rows, got 2"),
    (lambda m: m.add(Z, L[:, :1], Y), ValueError, r"outputs must have 2 columns as in fit, got 1; for two classes, pass both columns, numpy\.hstack\(\[numpy\.zeros_like\(outputs\), outputs\]\)"),
    (lambda m: m.add(NAN, L, Y), ValueError, r"embeddings: row 4 holds NaN or infinity \(as float32\)"),
    (lambda m: m.add(Z, L, Y, ids=[20, 21, 22, 23, 24, 5]), ValueError, r"ids must never have been used before in this memory, got 5"),
    (lambda m: m.add(Z[:1], L[:1], Y[:1], ids=[3]), ValueError, r"ids must never have been used before in this memory, got 3"),
    (lambda m: m.add(Z[:2], L[:2], Y[:2], ids=[7, 7]), ValueError, r"ids must be unique, got 7 more than once"),
    (lambda m: m.evaluate(Z, L, Y, published=3), TypeError, r"published must be another Memory or None, got int"),
    (lambda m: m.remove([0, 9]), ValueError, r"ids to remove must be in the memory, 9 is not"),
    (lambda m: m.remove(3), ValueError, r"ids to remove must be in the memory, 3 is not"),
    (lambda m: m.remove([-1]), ValueError, r"ids to remove must be in the memory, -1 is not"),
    (lambda m: m.remove([1.0]), TypeError, r"ids must hold integers, got dtype float64; convert it with numpy\.asarray\(ids\)\.astype\('int64'\)"),
    (lambda m: m.remove([[1]]), ValueError, r"ids must have shape \(n,\), got \(1, 1\)"),
    (lambda m: m.get([0, 9]), ValueError, r"ids to get must be in the memory, 9 is not"),
    (lambda m: m.get(3), ValueError, r"ids to get must be in the memory, 3 is not"),
    (lambda m: m.get([[1]]), ValueError, r"ids must have shape \(n,\), got \(1, 1\)"),
    (lambda m: m.update([0, 9], Z[:2], L[:2], Y[:2]), ValueError, r"ids to update must be in the memory, 9 is not"),
    (lambda m: m.update([0, 3], Z[:2], L[:2], Y[:2]), ValueError, r"ids to update must be in the memory, 3 is not"),
    (lambda m: m.update([1, 1], Z[:2], L[:2], Y[:2]), ValueError, r"ids must be unique, got 1 more than once"),
    (lambda m: m.update([0], Z[:2], L[:2], Y[:2]), ValueError, r"ids must have one row per row of embeddings \(2\), got 1"),
    (lambda m: m.update(None, Z[:2], L[:2], Y[:2]), ValueError, r"ids are missing; update needs those of the rows to replace"),
    (lambda m: m.update([0, 1], NAN[3:5], L[:2], Y[:2]), ValueError, r"embeddings: row 1 holds NaN or infinity \(as float32\)"),
    (lambda m: m.merge(m), ValueError, r"a memory cannot be merged into itself; give another one"),
    (lambda m: m.merge(memory()), ValueError, r"ids must never have been used before in this memory, got 0"),
    (lambda m: m.merge(Z), TypeError, r"other must be a resmem\.Memory, got ndarray"),
    (lambda m: m.merge(memory(key_dtype="float16")), ValueError, r"memories must have one key_dtype to be merged, got 'float32' and 'float16'; fit the other one again with key_dtype='float32'"),
    (lambda m: m.merge(resmem.Memory().fit(Z[:, :2], L, Y)), ValueError, r"memories must have one width of embeddings to be merged, got 3 and 2"),
    (lambda m: m.aggregate([[0.0]], [[9]]), ValueError, r"ids must be those of rows in the memory, 9 is not"),
    (lambda m: m.aggregate([[0.0]], [[3]]), ValueError, r"ids must be those of rows in the memory, 3 is not"),
    (lambda m: m.aggregate([[0.0]], [[0]], L), ValueError, r"outputs must have one row per row of distances \(1\), got 6"),
    (lambda m: m.kneighbors(NAN), ValueError, r"embeddings: row 4 holds NaN or infinity \(as float32\)"),
    (lambda m: m.kneighbors(Z[:, :2]), ValueError, r"embeddings must have 3 columns like the stored rows, got 2"),
    (lambda m: m.kneighbors(np.empty((0, 2))), ValueError, r"embeddings must have 3 columns like the stored rows, got 2"),
    (lambda m: m.kneighbors(Z, squared=1), TypeError, r"squared must be True or False, got 1"),
    (lambda m: m.kneighbors(Z, k=0), ValueError, r"k must be at least 1, got 0"),
    (lambda m: m.kneighbors(Z, exclude_ids=5), ValueError, r"exclude_ids must have shape \(q, m\), got \(\)"),
    (lambda m: m.kneighbors(Z, threads=-1), ValueError, r"threads must be at least 1, got -1"),
    (lambda m: m.correction(NAN), ValueError, r"embeddings: row 4 holds NaN or infinity \(as float32\)"),
    (lambda m: m.correction(Z[0]), ValueError, r"embeddings must have shape \(q, d\), got \(3,\); a single row is numpy\.atleast_2d\(embeddings\)"),
    (lambda m: m.correction(np.empty((0, 2))), ValueError, r"embeddings must have 3 columns like the stored rows, got 2"),
    (lambda m: m.correction(Z, exclude_ids=[0]), ValueError, r"exclude_ids must have one row per row of queries \(6\), got 1"),
    (lambda m: m.correct(Z, L[:2]), ValueError, r"outputs must have one row per row of embeddings \(6\), got 2"),
    (lambda m: m.correct(Z, L[:, :1]), ValueError, r"outputs must have 2 columns as in fit, got 1; for two classes, pass both columns, numpy\.hstack\(\[numpy\.zeros_like\(outputs\), outputs\]\)"),
    (lambda m: m.correct(NO_ROWS[0], np.empty((0, 5))), ValueError, r"outputs must have 2 columns as in fit, got 5"),
    (lambda m: m.correct(Z, 3.0), ValueError, r"outputs must have shape \(n, C\), got \(\)"),
    (lambda m: m.correct(Z, with_value(L, 1, np.nan)), ValueError, r"outputs: row 1 holds NaN or infinity \(as float32\); only -inf is allowed in logits"),
    (lambda m: m.correct(Z, L, columns=[0, 2]), ValueError, r"columns must lie between 0 and 1, got 2"),
    (lambda m: m.correct(Z, L, columns=[[0], [-1]]), ValueError, r"columns must have one row per row of queries \(6\), got 2"),
    (lambda m: m.correction(Z, columns=[0.5]), TypeError, r"columns must hold integers, got dtype float64; convert it with numpy\.asarray\(columns\)\.astype\('int64'\)"),
    (lambda m: m.correct(Z, L, base="other"), ValueError, r"this memory was made from an unnamed base, not from 'other'"),
    (lambda m: m.save("x", append=True), ValueError, r"append=True continues the file that this memory was loaded from or last saved to \(no file yet\), got 'x'; save without append"),
    (lambda m: m.save("x.npz"), ValueError, r"path must not end in \.npz or \.safetensors, got 'x\.npz'; export writes such files"),
    (lambda m: m.fit(np.ma.masked_array(Z), L, Y), TypeError, r"embeddings is a masked array; drop its masked rows, or fill them, for example with embeddings\.filled\(0\)"),
    (lambda m: m.fit(Z, None, Y), ValueError, r"outputs are missing; without a base model use output_kind='none'; else only store='head' does without them"),
    (lambda m: m.correct(Z), ValueError, r"outputs are missing; without a base model use output_kind='none'; else only store='head' does without them"),
    (lambda m: m.correct(Short(), L), ValueError, r"embeddings: asked for rows 0 to 5, got an array of shape \(1, 3\)"),
    (lambda m: m.export("x.csv"), ValueError, r"path must end in \.npz or \.safetensors, got 'x\.csv'"),
    (lambda m: m.predict(Z, L > 0), TypeError, r"outputs must hold real numbers, got dtype bool; .*"),
    (lambda m: m.predict_proba(Z, L, threads=0), ValueError, r"threads must be at least 1, got 0"),
    (lambda m: setattr(m, "k", 0), ValueError, r"k must be at least 1, got 0"),
    (lambda m: setattr(m, "sigma", "automatic"), ValueError, r"sigma must be a positive number or 'auto', got 'automatic'"),
    (lambda m: setattr(m, "temperature", -1), ValueError, r"temperature must be a positive number, got -1"),
    (lambda m: setattr(m, "strength", np.nan), ValueError, r"strength must be finite, got nan"),
    (lambda m: setattr(m, "preprocess", "unit"), AttributeError, r"preprocess cannot be set; memory\.use\(dataclasses\.replace\(memory\.settings, preprocess=\.\.\)\) changes it"),
    (lambda m: setattr(m, "task", "regression"), AttributeError, r"task cannot be set; resmem\.Memory\(task=\.\.\) makes another one"),
]  # fmt: skip

PROBABILITIES = [
    (lambda m: m.fit(Z, P * -1, Y), ValueError, r"outputs: row 0 holds values outside \[0, 1\]; for raw scores use output_kind='logits'"),
    (lambda m: m.fit(Z, with_value(P, 3, 1.1), Y), ValueError, r"outputs: row 3 holds values outside \[0, 1\]; .*"),
    (lambda m: m.fit(Z, with_value(P, 4, np.nan), Y), ValueError, r"outputs: row 4 holds values outside \[0, 1\]; .*"),
    (lambda m: m.correct(Z, with_value(P, 2, 0.25)), ValueError, r"outputs: row 2 sums to 0\.75, expected 1"),
    (lambda m: setattr(m, "temperature", 3), ValueError, r"temperature must be 1 for probabilities, got 3: only logits have one"),
]  # fmt: skip

VALUES = [
    (lambda m: m.fit(Z, V, V[:4]), ValueError, r"targets must have one row per row of embeddings \(6\), got 4"),
    (lambda m: m.fit(Z, L, V), ValueError, r"targets \(6,\) and outputs \(6, 2\) must have one shape; for classes use task='classification'"),
    (lambda m: m.fit(Z, L, L[None]), ValueError, r"targets must have shape \(n, C\), got \(1, 6, 2\); for one row per position, pass numpy\.reshape\(targets, \(-1, 2\)\); for one row per example, pass numpy\.reshape\(targets, \(len\(targets\), -1\)\)"),
    (lambda m: m.fit(Z, with_value(V, 2, np.nan, float), V), ValueError, r"outputs: row 2 holds NaN or infinity \(as float64\)"),
    (lambda m: m.fit(Z, V, with_value(V, 5, np.inf, float)), ValueError, r"targets: row 5 holds NaN or infinity \(as float64\)"),
    (lambda m: m.fit(Z, with_value(V, 1, 1.7e308, float), V - 1.7e308), ValueError, r"targets - outputs: row \d is beyond float64, in which residuals are kept; rescale targets and outputs"),
    (lambda m: m.add(Z, V, V[:, None]), ValueError, r"targets must have shape \(n,\) as in fit"),
    (lambda m: values(True).add(Z, V[:, None], V), ValueError, r"targets must have shape \(n, C\) as in fit"),
    (lambda m: m.predict(Z, with_value(V, 0, np.nan, float)), ValueError, r"outputs: row 0 holds NaN or infinity \(as float64\)"),
    (lambda m: m.correction(Z, columns=[0]), ValueError, r"columns needs outputs of several columns, this memory has \(n,\)"),
    (lambda m: m.predict_proba(Z, V), ValueError, r"predict_proba needs task='classification'; use predict"),
    (lambda m: m.tune(loo=True, preprocess="nca:2"), ValueError, r"loo=True judges rows whose targets preprocess='nca:2' learns from: give embeddings, outputs and targets of other rows"),
    (lambda m: setattr(m, "temperature", 3), ValueError, r"temperature must be 1 for values, got 3: only logits have one"),
]  # fmt: skip


ON_0, ON_1 = (devices.Exporter(Z, (devices.CUDA, ordinal)) for ordinal in (0, 1))
OUT = np.empty((N, 2)), np.empty((N, 2), dtype=np.int64)


def chosen(device, made=None, **given):
    """Choose a device where the extension is this one; None: there is none."""
    with devices.extension(made), devices.extension(made, "resmem._cuda_emulated"):
        return choice.choose(device, given)


def chosen_all(device):
    """Choose several of two devices."""
    with devices.extension(devices.Extension()):
        return several.choose_all(device, {})


def divided():
    """Divide rows that lie on a device among two devices."""
    call, rows = placed(Z)
    call = replace(call, others=(devices.device(1),))
    return engine.rows_for(call, call.read(rows, "rows", ("float32",)), "euclidean", N)


def unloadable():
    """Choose a device whose extension lacks a library."""
    with devices.unloadable("resmem._cuda", "libdl.so.9 is missing"):
        choice.choose("cuda", {})


def seen_on(ordinal, value, dtypes=("float32", "float64")):
    return arrays.read(value, "queries", devices.device(ordinal, Z), 0, dtypes)


def written(queries, *out):
    return results.results_for(queries, (N, 2), out, devices.device(), 0, None)


def unaligned():
    data = np.zeros(100, dtype=np.uint8)
    return np.ndarray((2, 3), np.float32, data.data, offset=1 + (-devices.address_of(data)) % 4)


def buffer():
    return devices.buffer(np.zeros((2, 3)))


def placed(*rows):
    """Return arrays on a device, and what calls it."""
    made = [devices.Exporter(row) for row in rows]
    return engine.Call(devices.device(0, *rows)), *made


def typed(queries, rows, metric="euclidean", key_dtype="auto"):
    """Prepare a search of rows that lie on a device."""
    call, there = placed(rows)
    search = ArraySearch(call, 1, metric, key_dtype)
    return search._placed(queries, "queries", (search._dtype(queries, there),))


def seen_there(before, times=None):
    """Say to a memory on a device, by numbers that lie there, which times its queries see."""
    known = resmem.Memory().fit(Z, L, Y, times=np.arange(N) if times is None else times)
    return visible_there(Visibility(before=before), known._state.view.rows, N, placed(Z)[0])


def excluding(ids):
    call, there = placed(ids)
    return engine.excluded_ids_there(there, N, call)


def known_there(distances=Z[:, :2], ids=OUT[1], metric="euclidean", wanted="euclidean"):
    """Read neighbours of which arrays lie on a device."""
    call, *there = placed(distances.astype(float), ids)
    assert given_neighbours.lie_on_device(*there)
    return given_neighbours.read_neighbours(call, *there, metric, wanted)


def columns_there(columns):
    """Read the columns that a memory on a device shall correct."""
    call, there = placed(columns)
    corrector = memory()._state.corrector()
    return DeviceCorrector(corrector, None, call, {})._columns(there, N)


def headed_there(embeddings):
    """Correct by a memory whose residuals the CPU computes."""
    head = resmem.Memory(store="head", head=(np.eye(2, 3), np.zeros(2))).fit(Z, None, Y)
    there = DeviceCorrector(head._state.corrector(), None, None, {"embeddings": embeddings})
    return there._refuse_head(None, False)


def keys_there(embeddings, **settings):
    """Make keys of embeddings for a memory with these settings that is on a device."""
    rows = resmem.Memory(**settings).fit(Z, L, Y)._state.view.rows
    call = engine.Call(devices.device(0, Z))
    return Residency((call.device,))._keys_there(rows, embeddings, call)


def forked():
    """Search in a process whose parent has used a device."""
    engine._Process.parent_used = True
    try:
        engine.kept_rows(devices.device(), "float32", 3, "euclidean")
    finally:
        engine._Process.parent_used = False


GIVEN = devices.Extension
DEVICES = [
    (lambda: chosen("gpu"), ValueError, r"device must be 'cpu', 'cuda', 'auto' or, with a number, such as 'cuda:0', got 'gpu'"),
    (lambda: chosen(0), TypeError, r"device must be a string, 'cpu', 'cuda', 'auto' or, with a number, such as 'cuda:0', got 0"),
    (lambda: chosen(devices.Named("cuda:0")), TypeError, r"device must be a string, .*, got Named\(cuda:0\); pass str\(device\)"),
    (lambda: chosen("cuda:0"), DeviceError, r"device='cuda:0' needs resmem\._cuda, which this build of resmem does not have; in a clone of resmem, run RESMEM_CUDA=wheels pip install \."),
    (lambda: chosen("cuda:emulated"), DeviceError, r"device='cuda:emulated' needs resmem\._cuda_emulated, which this build of resmem does not have; in a clone of resmem, run pip install \. -C cmake\.define\.RESMEM_CUDA_EMULATION=ON"),
    (unloadable, DeviceError, r"device='cuda' needs resmem\._cuda, which cannot be loaded \(libdl\.so\.9 is missing\); in a clone of resmem, run RESMEM_CUDA=wheels pip install \."),
    (lambda: chosen("cuda", GIVEN(0)), DeviceError, r"device='cuda' needs an NVIDIA driver for CUDA 13\.0 or later, got none; install release 580 or later of NVIDIA's driver"),
    (lambda: chosen("cuda", GIVEN(12040)), DeviceError, r"device='cuda' needs an NVIDIA driver for CUDA 13\.0 or later, got one for CUDA 12\.4; install release 580 or later of it, or, with nvcc of CUDA 12 on PATH, run RESMEM_CUDA=on pip install \. in a clone of resmem"),
    (lambda: chosen("cuda", GIVEN(capabilities=())), DeviceError, r"device='cuda' needs a CUDA device, and the driver finds none; nvidia-smi lists those of the machine, of which CUDA_VISIBLE_DEVICES may hide some"),
    (lambda: chosen("cuda:2", GIVEN()), ValueError, r"device must be one of 'cuda:0', 'cuda:1', got 'cuda:2'"),
    (lambda: chosen("cuda", GIVEN(capabilities=((7, 5), (9, 0)))), DeviceError, r"device must have compute capability 8\.0 or later, got 'cuda:0' with 7\.5 \(Toaster\); use device='cuda:1'"),
    (lambda: chosen("cuda", GIVEN(capabilities=((7, 5),))), DeviceError, r"device must have compute capability 8\.0 or later, got 'cuda:0' with 7\.5 \(Toaster\); use device='cpu'"),
    (lambda: chosen("cuda", GIVEN(), queries=ON_1, rows=ON_0), ValueError, r"rows lies on cuda:0, but queries on cuda:1; pass a copy of rows in host memory"),
    (lambda: chosen("cuda:0", GIVEN(), queries=Z, rows=ON_1), ValueError, r"rows lies on cuda:1, but device is 'cuda:0'; pass device='cuda:1' or a copy of rows in host memory"),
    (lambda: chosen("cpu", queries=ON_1), ValueError, r"queries lies on cuda:1, but device is 'cpu'; pass device='cuda:1' or a copy of queries in host memory"),
    (lambda: places.check_places({"embeddings": ON_1}, devices.device(), in_memory=True), ValueError, r"embeddings lies on cuda:1, but the memory on cuda:0; move it with memory\.to\('cuda:1'\) or pass a copy of embeddings in host memory"),
    (lambda: places.check_places({"embeddings": ON_1}, CPU, in_memory=True), ValueError, r"embeddings lies on cuda:1, but the memory on cpu; move it with memory\.to\('cuda:1'\) or pass a copy of embeddings in host memory"),
    (lambda: seen_on(0, devices.Exporter(Z.astype(int))), TypeError, r"queries must have dtype float32 or float64, got int64; pass a copy of queries of dtype float32"),
    (lambda: seen_on(0, devices.Exporter(Z * 1j)), TypeError, r"queries must have dtype float32 or float64, got complex64"),
    (lambda: seen_on(0, devices.Exporter(Z.T)), ValueError, r"queries must be C-contiguous, got other strides; pass a C-contiguous copy of queries"),
    (lambda: seen_on(0, devices.Exporter(unaligned())), ValueError, r"queries must begin at a multiple of 4 bytes, got address \d+; copy it to new memory"),
    (lambda: seen_on(0, devices.Attached()), TypeError, r"queries is a tensor that requires grad; pass queries\.detach\(\)"),
    (lambda: seen_on(0, devices.Interface(Z, version=1)), TypeError, r"queries cannot be read as an array: Interface \(version 1 of its interface is not 2 or 3\); pass a copy of queries in host memory"),
    (lambda: seen_on(0, devices.Interface(Z, shape=(-1, 3))), TypeError, r"queries cannot be read as an array: Interface \(its shape is \(-1, 3\)\); .*"),
    (lambda: seen_on(0, devices.Interface(Z, data=(8, False))), TypeError, r"queries cannot be read as an array: Interface \(its address is one of host memory\); .*"),
    (lambda: seen_on(0, devices.Interface(Z, mask=3)), TypeError, r"queries is a masked array; fill it or drop its masked rows"),
    (lambda: streams.address_of("0"), TypeError, r"stream must be a stream of CUDA or its address, got str"),
    (lambda: streams.address_of(-1), ValueError, r"stream must be an address, got -1"),
    (lambda: streams.stream_of(0, [Z], CPU), ValueError, r"stream must be None where device is 'cpu', got 0; pass device='cuda' or leave stream out"),
    (lambda: written(Z, OUT[0]), TypeError, r"out must be a pair of arrays \(distances, ids\), got tuple"),
    (lambda: written(Z, ON_0, ON_0), ValueError, r"out\[0\] must be a NumPy array, as queries are in host memory, got Exporter; pass numpy\.empty\(\(6, 2\), dtype='float64'\)"),
    (lambda: written(ON_0, *OUT), ValueError, r"out\[0\] must lie on cuda:0, as queries do, got ndarray; pass out=None"),
    (lambda: written(ON_0, ON_1, ON_1), ValueError, r"out\[0\] must lie on cuda:0, as queries do, got one on cuda:1; pass out=None"),
    (lambda: written(Z, *OUT[::-1]), ValueError, r"out\[0\] must have dtype float64, got int64; pass numpy\.empty\(\(6, 2\), dtype='float64'\)"),
    (lambda: written(Z, OUT[0], OUT[1][:1]), ValueError, r"out\[1\] must have shape \(6, 2\), got \(1, 2\); pass numpy\.empty\(\(6, 2\), dtype='int64'\)"),
    (lambda: written(Z, np.empty((2, 6)).T, OUT[1]), ValueError, r"out\[0\] must be C-contiguous, got other strides; pass .*"),
    (lambda: written(Z, np.frombuffer(bytes(96)).reshape(6, 2), OUT[1]), ValueError, r"out\[0\] must be writeable, got a read-only array; pass .*"),
    (lambda: written(Z, OUT[0], OUT[0].view(np.int64)), ValueError, r"out\[1\] must share no memory with out\[0\], got some of its memory; pass numpy\.empty\(\(6, 2\), dtype='int64'\)"),
    (lambda: typed(Z, Z, key_dtype="float64"), ValueError, r"key_dtype must be 'auto' or 'float32', the type of arrays on the device, got 'float64'"),
    (lambda: typed(Z, Z.astype(float), "cosine"), TypeError, r"metric 'cosine' takes float32 arrays on a device, got float64; use device='cpu' with arrays in host memory"),
    (lambda: typed(Z.astype(float), Z), TypeError, r"queries must have dtype float32, like the arrays on the device, got float64; pass numpy\.asarray\(queries, dtype='float32'\)"),
    (lambda: seen_there(devices.Exporter(np.zeros((N, 1), np.int64))), ValueError, r"before must have shape \(q,\), got \(6, 1\)"),
    (lambda: seen_there(devices.Exporter(np.zeros(N)), np.linspace(0, 1, N)), TypeError, r"before on a device must hold integers, but the times of the rows are floats; pass a copy of before in host memory"),
    (lambda: chosen_all([]), ValueError, r"device must name at least one device, got none; pass 'cpu' or 'cuda:0'"),
    (lambda: chosen_all(["cuda:0", "cpu"]), ValueError, r"device must name CUDA devices alone if it names several, got 'cpu' among \['cuda:0', 'cpu'\]"),
    (lambda: chosen_all(["cuda:0", "cuda"]), ValueError, r"device must name each device once, got \['cuda:0', 'cuda'\]"),
    (divided, ValueError, r"rows lie on cuda:0, and only rows in host memory are divided among devices; pass device='cuda:0', or rows in host memory"),
    (lambda: memory().to("cpu", resident_bytes=5), ValueError, r"resident_bytes is for rows on CUDA devices, got 5 with device='cpu'; leave it out"),
    (lambda: excluding(np.zeros((N, 1, 1), np.int64)), ValueError, r"exclude_ids must have shape \(q,\) or \(q, m\), got \(\d+, 1, 1\)"),
    (lambda: keys_there(devices.Exporter(Z), preprocess="unit"), TypeError, r"embeddings on a device are compared as they are, but this memory's keys are made of them on the CPU \(preprocess='unit'\); pass a copy of embeddings in host memory"),
    (lambda: columns_there(np.zeros((1, 1, 1), np.int64)), ValueError, r"columns must have shape \(t,\) or \(q, t\), got \(1, 1, 1\)"),
    (lambda: headed_there(ON_0), ValueError, r"residuals of store='head' are computed on the CPU; pass a copy of embeddings in host memory"),
    (lambda: given_neighbours.lie_on_device(Z, ON_0), ValueError, r"distances and ids must lie in one place, got only ids on a device; put the other there, or pass a copy of ids in host memory"),
    (lambda: known_there(ids=OUT[1][:1]), ValueError, r"distances \(6, 2\) and ids \(1, 2\) must have one shape"),
    (lambda: known_there(metric="sqeuclidean"), ValueError, r"distances on a device are used as they are, and must be of metric='euclidean' here, got metric='sqeuclidean'; pass their square roots with metric='euclidean'"),
    (lambda: memory().explain(ON_0), TypeError, r"explain computes on the CPU and takes arrays in host memory, also where a device finds neighbours; pass a copy of embeddings in host memory"),
    (forked, DeviceError, r"a process that was forked after its parent had used a CUDA device cannot use one; start processes with multiprocessing\.get_context\('spawn'\)"),
    (lambda: buffer().__dlpack__(copy=True), BufferError, r"the array lies on cuda:0, and is not copied; take it without copy and dl_device"),
]  # fmt: skip


def caught(call, *arguments):
    try:
        call(*arguments)
    except Exception as error:
        return error
    return None


def check(error, kind, pattern):
    assert type(error) is kind
    assert re.fullmatch(pattern, str(error), re.DOTALL), str(error)


def state(mem, outputs):
    """Return everything that a failed call must not change."""
    answers = mem.kneighbors(Z), mem.correct(Z, outputs)
    flat = [a.tobytes() for part in answers for a in (part if isinstance(part, tuple) else (part,))]
    return flat, repr(mem), mem.nbytes, mem.sigma_, mem._state.view.rows.next_id


@pytest.mark.parametrize(("call", "kind", "pattern"), SEARCHES + PARAMETERS + DEVICES)
def test_search_and_parameter_errors_have_their_message(call, kind, pattern):
    check(caught(call), kind, pattern)


@pytest.mark.parametrize(("call", "kind", "pattern"), UNFIT)
def test_not_fitted_errors_have_their_message(call, kind, pattern):
    check(caught(call, resmem.Memory()), kind, pattern)
    assert issubclass(kind, ValueError)
    assert issubclass(kind, AttributeError)


FITTED = [
    (make, outputs, *case)
    for make, outputs, cases in (
        (memory, L, CLASSES),
        (chances, P, PROBABILITIES),
        (values, V, VALUES),
        (timed, L, ASKED),
    )
    for case in cases
]


@pytest.mark.parametrize(("make", "outputs", "call", "kind", "pattern"), FITTED)
def test_failed_call_has_its_message_and_changes_nothing(make, outputs, call, kind, pattern):
    mem = make()
    if make is memory:  # some rows have been removed
        mem.remove([3])
    before = state(mem, outputs)
    check(caught(call, mem), kind, pattern)
    assert state(mem, outputs) == before


def test_message_counts_rows_in_the_whole_array(monkeypatch):
    """Queries are worked through in blocks; rows are still counted from the first."""
    mem = memory()
    monkeypatch.setattr(resmem._base.blocks, "_BLOCK_BYTES", 24 * mem.k * 2)  # two queries
    check(caught(mem.correction, NAN), ValueError, r"embeddings: row 4 holds NaN or inf.*")
    bad = with_value(L, 3, np.nan)
    check(caught(mem.correct, Z, bad), ValueError, r"outputs: row 3 holds NaN or inf.*")
    bad = with_value(P, 5, 0.9)
    check(caught(chances().correct, Z, bad), ValueError, r"outputs: row 5 sums to 1\.4, .*")
    bad = with_value(V, 3, np.inf, float)
    check(caught(values().correct, Z, bad), ValueError, r"outputs: row 3 holds NaN or inf.*")


def test_probabilities_may_be_rounded_to_half_precision():
    third = np.tile(np.array([1 / 3, 1 / 3, 1 / 3]), (N, 1))
    for array in (third.astype(np.float16), third + 0.003, third - 0.003):
        resmem.Memory(output_kind="probabilities").fit(Z, array, Y)
    for array in (third + 0.004, third - 0.004):
        error = caught(resmem.Memory(output_kind="probabilities").fit, Z, array, Y)
        check(error, ValueError, r"outputs: row 0 sums to (1\.012|0\.988), expected 1")


def test_add_without_ids_after_the_largest_id_is_refused():
    for last in (2**63 - 1, 2**63 - 2):
        mem = resmem.Memory(k=2).fit(Z[:1], L[:1], Y[:1], ids=[last])
        error = caught(mem.add, Z[:2], L[:2], Y[:2])
        assert type(error) is ValueError
        assert "ids" in str(error)
        assert len(mem) == 1
        mem.add(Z[:2], L[:2], Y[:2], ids=[5, 6])
        assert mem.kneighbors(Z[:1], k=1)[1][0, 0] in (last, 5)


@pytest.mark.parametrize("value", [2**63, 2**64, 2**70])
def test_numbers_beyond_64_bits_are_refused_by_name(value):
    for name, call in (
        ("k", lambda: resmem.search(Z, Z, value)),
        ("threads", lambda: resmem.search(Z, Z, 1, threads=value)),
    ):
        error = caught(call)
        assert type(error) is ValueError
        assert re.match(rf"{name} must ", str(error)), str(error)


# ---- Nothing is left out ---------------------------------------------------------------------

EXCEPTIONS = {"BufferError", "DeviceError", "ValueError", "TypeError", "NotFittedError"}
TESTED_APART = {
    "__main__.py", "adapters", "plot.py", "_cli", "_evaluation", "_report", "_scores", "_tuning", "demo",
    "atomic.py", "container", "formats.py", "persist.py", "plausible.py",
}  # fmt: skip


def messages():
    """Yield the place of every message in the package's sources and its regular expression.

    Messages of some rooms are tested with their behaviour (test_container.py, ...).
    """
    package = Path(resmem.__file__).parent
    for path in sorted(package.rglob("*.py")):
        if TESTED_APART.intersection(path.relative_to(package).parts):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") in EXCEPTIONS):
                continue
            (text,) = node.args
            parts = text.values if isinstance(text, ast.JoinedStr) else [text]
            pattern = "".join(
                re.escape(part.value) if isinstance(part, ast.Constant) else ".*" for part in parts
            )
            yield f"{path.relative_to(package)}:{node.lineno}", pattern


def test_every_message_of_the_package_is_tested():
    mem = {make: make() for make in (memory, chances, values, timed)}
    mem[memory].remove([3])
    errors = [caught(call) for call, *_ in SEARCHES + PARAMETERS + DEVICES]
    seen = [str(error) for outer in errors for error in (outer, outer.__cause__)]
    seen += [str(caught(call, resmem.Memory())) for call, *_ in UNFIT]
    seen += [str(caught(call, mem[make])) for make, _, call, *_ in FITTED]
    seen.append(str(caught(lambda: resmem.search(Z, Z, TOO_MANY))))
    last = resmem.Memory().fit(Z[:1], L[:1], Y[:1], ids=[2**63 - 1])
    seen.append(str(caught(last.add, Z, L, Y)))
    untested = [
        f"{place}: {pattern}"
        for place, pattern in messages()
        if not any(re.fullmatch(pattern, text, re.DOTALL) for text in seen)
    ]
    assert not untested, "\n".join(untested)


# ---- The environment -------------------------------------------------------------------------

SEARCH = "import resmem; resmem.search([[1.0]], [[2.0]], 1)"


@pytest.mark.parametrize(
    ("name", "value", "pattern"),
    [
        ("RESMEM_NUM_THREADS", "0", r"RESMEM_NUM_THREADS must be .*, got '0'"),
        ("RESMEM_NUM_THREADS", "two", r"RESMEM_NUM_THREADS must be .*, got 'two'"),
        ("RESMEM_NUM_THREADS", "2.5", r"RESMEM_NUM_THREADS must be .*, got '2\.5'"),
        ("RESMEM_NUM_THREADS", "-1", r"RESMEM_NUM_THREADS must be .*, got '-1'"),
        ("RESMEM_ISA", "mmx", r"ISA 'mmx' is not available here; there is: scalar.* \(RESMEM_ISA .*\)"),
        ("RESMEM_ISA", "AVX2", r"ISA 'AVX2' is not available here; there is: scalar.* \(RESMEM_ISA .*\)"),
    ],
)  # fmt: skip
def test_wrong_environment_variable_is_refused_by_name(name, value, pattern):
    done = subprocess.run(
        [sys.executable, "-c", SEARCH],
        env={**os.environ, name: value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert re.fullmatch(f"ValueError: {pattern}", last), done.stderr


@pytest.mark.parametrize("isa", _core.available_isas())
def test_environment_variable_selects_the_isa(isa):
    code = "from resmem import _core; print(_core.selected_isa())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "RESMEM_ISA": isa},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [isa]


def test_huge_thread_counts_do_not_divide_by_zero():
    """16 times 2^60 is 0 in 64 bits."""
    code = """
import numpy as np, resmem
rows = np.random.default_rng(0).random((900, 4), dtype=np.float32)
for threads in (2**60, 2**61, 2**62, 2**63 - 1, None):
    for count in (1, 40, 900):
        try:
            assert (resmem.search(rows[:count], rows, 1, threads=threads)[0] == 0).all()
        except ValueError as error:  # a refusal is right too
            assert "hreads" in str(error), error
"""
    environment = {**os.environ, "RESMEM_NUM_THREADS": str(2**60)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
