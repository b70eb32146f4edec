"""The reference of all answers: float64 throughout, and the tests' oracle at the end."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # finds oracle.py

import data
import oracle
from cases import Case
from data import SIGMA, AnyArray, Float32, Float64, Int64, Shape

SAMPLE = 24  # queries checked per case
SPARE = 16  # candidates beyond k, so that rounding cannot hide a neighbour
BLOCK = 65536


def sample(case: Case) -> Int64:
    """Return the positions of the queries to check, spread over the batch."""
    return np.unique(np.linspace(0, case.queries - 1, SAMPLE).astype(np.int64))


@cache
def neighbours(shape: Shape, k: int, queries: int) -> tuple[Float64, Int64]:
    """Return the oracle's distances and ids for the sample of a case, kept on disk."""
    positions = sample(Case("search", shape, queries, k, threads=1, rounds=1))
    path = data.CACHE / f"{shape.name}-q{queries}-k{k}-reference.npz"
    if not path.exists():
        rows, questions = data.embeddings(shape, mmap=True)
        distances, ids = exact(rows, questions[positions], k)
        np.savez(path, distances=distances, ids=ids)
    with np.load(path) as stored:
        return stored["distances"], stored["ids"]


def exact(rows: Float32, queries: Float32, k: int) -> tuple[Float64, Int64]:
    """Find candidates by a float64 matrix product; the oracle decides among them.

    Where more rows tie than are spare, the oracle decides among all rows.
    """
    wide = queries.astype(np.float64)
    squares, candidates = shortlist(rows, wide, k + SPARE)
    slack = 1e-11 * (wide * wide).sum(axis=1).max() + 1e-12
    distances, ids = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    for i, near in enumerate(np.sort(candidates, axis=1)):
        query = queries[i : i + 1]
        values, order = oracle.search(query, rows[near], k, ids=near)
        if values[0, -1] ** 2 + slack >= squares[i].max():
            values, order = oracle.search(query, rows, k)
        distances[i], ids[i] = values[0], order[0]
    return distances, ids


def shortlist(rows: Float32, queries: Float64, size: int) -> tuple[Float64, Int64]:
    """Return rounded squared distances and ids of the ``size`` nearest rows, in any order."""
    best, ids = np.empty((len(queries), 0)), np.empty((len(queries), 0), np.int64)
    norms = np.einsum("qd,qd->q", queries, queries)[:, None]
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK].astype(np.float64)
        squares = norms + np.einsum("nd,nd->n", block, block) - 2 * queries @ block.T
        best = np.hstack([best, squares])
        fresh = np.arange(start, start + len(block))
        ids = np.hstack([ids, np.broadcast_to(fresh, squares.shape)])
        if best.shape[1] > size:
            nearest = np.argpartition(best, size - 1, axis=1)[:, :size]
            best = np.take_along_axis(best, nearest, axis=1)
            ids = np.take_along_axis(ids, nearest, axis=1)
    return best, ids


def recall(found: AnyArray, expected: Int64) -> float:
    """Return the share of expected ids that were found."""
    pairs = zip(found, expected, strict=True)
    return float(np.mean([np.isin(wanted, got).mean() for got, wanted in pairs]))


@cache
def sums(case: Case) -> Float64:
    """Return the oracle's corrections or corrected outputs for the sample of a case."""
    shape, positions = case.shape, sample(case)
    if case.kind == "aggregate":
        distances, ids = data.neighbours(shape, shape.queries, shape.ks[-1])
        residuals = data.residuals(shape)
        return oracle.correction(distances[positions], ids[positions], residuals, SIGMA)
    distances, ids = neighbours(shape, case.k, case.queries)
    logits, targets = data.logits(shape, shape.rows, part=0)
    rows, places = np.unique(ids, return_inverse=True)
    residuals = oracle.residuals("classification", "logits", logits[rows], targets[rows])
    added = oracle.correction(distances, places.reshape(ids.shape), residuals, SIGMA)
    outputs, _ = data.logits(shape, shape.queries, part=1)
    return oracle.correct(oracle.softmax(outputs[positions]), added)
