"""Keys made of the leaves that a tree ensemble puts rows in."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from resmem._base import checks
from resmem._base.arrays import F32, I64, Array, to_numpy

_U64 = npt.NDArray[np.uint64]


def leaf_keys(model: Any, X: Any = None, m: int = 256, seed: int = 0) -> F32:
    """Return keys of rows by the leaves in which a tree ensemble puts them.

    The squared Euclidean distance of two keys estimates the share of the trees that put the two
    rows in different leaves. Give the keys to ``Memory`` as embeddings, of queries too.

    Each leaf of each tree has a code of ``m`` random signs, and a key is the sum of the codes of
    the row's leaves (a random projection of Johnson and Lindenstrauss). The standard error of an
    estimate is ``sqrt(2 / m)`` of it, or 9 % with 256 signs; rows in the same leaves have
    distance 0. The code depends on ``seed``, the number of the tree and the number of the leaf
    alone, so that keys of rows do not depend on what other rows are there.

    Parameters
    ----------
    model : fitted ensemble or tree, or int array (n, trees)
        A model with ``apply`` (scikit-learn's trees, forests and gradient boosting, XGBoost), with
        ``predict(X, pred_leaf=True)`` (LightGBM, a ``Booster`` of XGBoost), or with
        ``calc_leaf_indexes`` (CatBoost), or scikit-learn's HistGradientBoosting. Of any other
        ensemble give the leaf numbers themselves.
    X : array or DataFrame (n, features)
        The rows, as the model takes them. Left out if leaf numbers are given.
    m : int, default 256
        Columns of the keys, at least 1.
    seed : int, default 0
        The seed of the codes, at least 0; the same for the memory's rows and queries.

    Returns
    -------
    float32 array (n, m)

    Raises
    ------
    TypeError
        If the model tells no leaves, or leaf numbers are not whole.
    ValueError
        If leaf numbers are not of shape (n, trees) with at least one tree, or ``m`` or ``seed`` is
        out of range.

    Examples
    --------
    >>> import numpy as np, resmem
    >>> leaves = np.array([[3, 5], [3, 6], [4, 6]])  # two trees, three rows
    >>> keys = resmem.leaf_keys(leaves, m=10_000)
    >>> np.round(((keys - keys[0]) ** 2).sum(axis=1), 1)
    array([0. , 0.5, 1. ], dtype=float32)
    """
    m, seed = checks.count(m, "m"), checks.count(seed, "seed", 0)
    if X is None and hasattr(model, "predict"):
        raise TypeError(f"X must be the rows that {type(model).__name__} reads, got None")
    leaves = _checked(model if X is None else _leaves_of(model, X))
    sums = np.zeros((len(leaves), m), np.int32)  # whole numbers, so that no order of sums matters
    for tree, numbers in enumerate(leaves.T):
        known, at = np.unique(numbers, return_inverse=True)
        sums += _signs(seed, tree, known, m)[at.reshape(-1)]
    keys: F32 = (sums / np.sqrt(2.0 * m * leaves.shape[1])).astype(np.float32)
    return keys


def _leaves_of(model: Any, X: Any) -> Any:
    """Return the numbers of the leaves in which the model puts rows."""
    if hasattr(model, "calc_leaf_indexes"):
        return model.calc_leaf_indexes(X)
    if hasattr(model, "apply") and (hasattr(model, "predict") or hasattr(model, "estimators_")):
        return model.apply(X)
    if hasattr(model, "_predictors") and hasattr(model, "_staged_raw_predict"):
        return _leaves_of_histograms(model, X)
    if "pred_leaf" in _parameters(getattr(model, "predict", None)):
        return model.predict(X, pred_leaf=True)
    hint = "give an int array (n, trees) of leaf numbers instead of model and X"
    if hasattr(model, "steps"):
        hint = "give the last step of a pipeline, and X as the steps before it transform it"
    raise TypeError(
        "model must be a fitted tree ensemble with 'apply', 'calc_leaf_indexes' or "
        f"predict(X, pred_leaf=True), got {type(model).__name__}; {hint}"
    )


def _parameters(function: Any) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # it is none, or is written in C
        return set()


def _leaves_of_histograms(model: Any, X: Any) -> Array:
    """Return the leaves of scikit-learn's HistGradientBoosting, which has no ``apply``.

    A copy of the model predicts the number of each leaf instead of its value. Its predictions are
    running sums of these over the trees, exact in float64.
    """
    numbered = copy.copy(model)
    numbered._baseline_prediction = np.zeros_like(model._baseline_prediction, dtype=np.float64)
    numbered._predictors = [[_numbered(tree) for tree in trees] for trees in model._predictors]
    leaves, before = [], np.zeros(1)
    for sums in numbered._staged_raw_predict(X):
        leaves.append(sums - before)
        before = sums.copy()
    return np.concatenate(leaves, axis=1)


def _numbered(tree: Any) -> Any:
    """Return a copy of a tree in which the value of each node is its number."""
    twin = copy.copy(tree)
    twin.nodes = tree.nodes.copy()
    twin.nodes["value"] = np.arange(len(tree.nodes))
    return twin


def _checked(leaves: Any) -> I64:
    """Return leaf numbers as (n, trees); some libraries give one array per class, or floats."""
    array = to_numpy(leaves, "leaves")
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim == 0 or 0 in array.shape[1:]:
        raise ValueError(
            f"leaf numbers must have shape (n, trees) with at least one tree, got {array.shape}"
        )
    array = array.reshape(len(array), math.prod(array.shape[1:]))
    whole = array.dtype.kind in "iu" or (
        array.dtype.kind == "f" and bool(((array == np.floor(array)) & (abs(array) < 2**63)).all())
    )
    if not whole:
        raise TypeError(
            f"leaf numbers must be whole, got {array.dtype}; without X, give an int array "
            "(n, trees) as the model"
        )
    return array.astype(np.int64)


def _signs(seed: int, tree: int, leaves: I64, m: int) -> npt.NDArray[np.int8]:
    """Return the codes (leaves, m) of leaves of one tree: -1 or 1, bits of a hash."""
    state = _mixed(_mixed(np.array([seed], np.uint64)) + np.uint64(tree))
    state = _mixed(state + leaves.astype(np.uint64))
    words = np.arange(1, -(-m // 64) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = _mixed(state[:, None] + words).astype("<u8").view(np.uint8)
    ones = np.unpackbits(bits, axis=1, count=m, bitorder="little")
    return (2 * ones.astype(np.int8)) - np.int8(1)


def _mixed(state: _U64) -> _U64:
    """Return the words that SplitMix64 (Steele, Lea and Flood, 2014) makes of these."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))
