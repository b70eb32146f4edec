"""Out-of-fold outputs: every example's come from a model that was trained without it."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from resmem._base import checks, labels
from resmem._base.arrays import F64, I64, distinct, to_numpy
from resmem._base.labels import LabelTable
from resmem._scores.folds import fold_numbers

Output: TypeAlias = Literal[
    "auto", "predict_log_proba", "predict_proba", "decision_function", "predict"
]
_METHODS = ("predict_log_proba", "predict_proba", "decision_function", "predict")


def out_of_fold(
    model: Any,
    X: Any,
    targets: Any,
    folds: Any = 5,
    seed: int = 0,
    output: Output = "auto",
    fit_params: Mapping[str, Any] | None = None,
) -> F64:
    """Return outputs for all rows, each from a model that was trained without it.

    A model's outputs for the examples it was trained on are better than for new ones, so their
    residuals are too small, and a memory of them corrects too little. Here the rows are split
    into folds; for each, a copy of the model is trained on the others. Give the outputs to
    ``Memory.fit`` together with embeddings from one model, for all rows and queries alike:
    embeddings of different models cannot be compared. Queries get the outputs of a model that
    was trained on all rows.

    Parameters
    ----------
    model : estimator or function
        An estimator has ``fit`` and one of the methods of ``output``. Copies of it are trained,
        never itself; ``sklearn.base.clone`` copies it if it has ``get_params``, else
        ``copy.deepcopy``. A function ``f(X_train, y_train, X_test)`` gives outputs (m,) or (m, C).
    X : array, sparse matrix, DataFrame or list
        The n rows that the models read.
    targets : array (n,) of labels; for regression array (n,) or (n, C)
        Classes 0 to C-1, other labels such as text, which stand in ascending order for columns, or
        values.
    folds : int or int array (n,), default 5
        The number of folds, or the fold of each row, so that rows of one group stay together.
        With a number, every class is spread evenly over the folds if targets are integers (n,).
    seed : int, default 0
        The seed of the random split.
    output : str, default "auto"
        The estimator's method to call. "auto": the first that it has of "predict_log_proba",
        "predict_proba" (whose logarithm is taken), "decision_function" and "predict". The
        first two give logits whose softmax is the model's probabilities, whatever the model
        is; decision values do so for some models only. For two classes, decision values ``v``
        become logits ``(0, v)``.
    fit_params : dict, optional
        Arguments of the estimator's ``fit``; those with n rows, such as sample weights, are
        split like ``X``.

    Returns
    -------
    float64 array (n, C), for regression also (n,)
        Columns are classes 0 to C-1, or the labels in ascending order. A class that a training part
        lacks has the logit -inf (probability 0) in that fold, with a warning.

    Examples
    --------
    >>> import numpy as np, resmem
    >>> def mean_of_others(X_train, y_train, X_test):
    ...     return np.full(len(X_test), y_train.mean())
    >>> resmem.out_of_fold(mean_of_others, np.zeros((3, 1)), np.array([0.0, 3.0, 6.0]), folds=3)
    array([4.5, 3. , 1.5])
    """
    known = to_numpy(targets, "targets")
    if known.ndim == 0 or len(known) < 2:
        raise ValueError(f"targets must have at least two rows, got shape {known.shape}")
    X, n = _with_rows(X), len(known)
    checks.same_length("X", _length(X), "targets", n)
    classes = partial(labels.found, targets, known, None)  # read only if the model is a classifier
    train = _trainer(model, output, fit_params, known, classes)
    numbers = fold_numbers(folds, seed, _stratified(known, classes))
    result: F64 | None = None
    for fold in distinct(numbers):
        rows, others = np.flatnonzero(numbers == fold), np.flatnonzero(numbers != fold)
        outputs = train(X, rows, others, f"fold {fold}")
        if result is None:
            result = np.empty((n, *outputs.shape[1:]))
        _check(outputs, rows, result.shape[1:], f"fold {fold}")
        result[rows] = outputs
    assert result is not None
    return result


Classes: TypeAlias = Callable[[], "tuple[LabelTable | None, int]"]  # the labels, and how many


def _stratified(targets: npt.NDArray[Any], classes: Classes) -> npt.NDArray[Any]:
    """Return text and bools (n,) as class numbers, so that folds have the same share of each."""
    if targets.ndim != 1 or targets.dtype.kind in "iuf":
        return targets
    return labels.class_numbers(*classes(), targets)


def _check(outputs: npt.NDArray[Any], rows: I64, like: tuple[int, ...], name: str) -> None:
    """Refuse outputs that do not fit these rows, or have other columns than another fold's."""
    if outputs.ndim not in (1, 2) or len(outputs) != len(rows):
        raise ValueError(
            f"{name}: outputs must have a row for each of {len(rows)} rows, (m,) or (m, C), "
            f"got shape {outputs.shape}"
        )
    if outputs.shape[1:] != like:
        raise ValueError(
            f"{name}: outputs have columns {outputs.shape[1:]}, in another fold {like}; every "
            "model must give the same columns"
        )
    bad = np.isnan(outputs) | (outputs == np.inf)
    if bad.any():
        row = rows[np.argwhere(bad)[0][0]]
        raise ValueError(f"{name}: outputs of row {row} hold NaN or infinity")


Train: TypeAlias = Callable[[Any, I64, I64, str], npt.NDArray[Any]]  # X, rows, others, name


def _trainer(
    model: Any, output: str, fit_params: Mapping[str, Any] | None, targets: npt.NDArray[Any],
    classes: Classes,
) -> Train:  # fmt: skip
    """Return a function that trains a model on some rows and gives its outputs for the others."""
    if output != "auto" and output not in _METHODS:
        raise ValueError(f"output must be 'auto' or one of {', '.join(_METHODS)}, got {output!r}")
    if hasattr(model, "fit"):
        parameters = dict(fit_params or {})

        def train(X: Any, rows: I64, others: I64, name: str) -> npt.NDArray[Any]:
            part = {
                key: _take(value, others) if _length(value) == len(targets) else value
                for key, value in parameters.items()
            }
            trained = _copied(model)
            trained.fit(_take(X, others), targets[others], **part)
            return _outputs(trained, _take(X, rows), output, classes, name)

        return train
    if not callable(model):
        raise TypeError(
            "model must be an estimator with fit, or a function f(X_train, y_train, X_test), "
            f"got {type(model).__name__}"
        )
    if output != "auto" or fit_params is not None:
        raise ValueError("output and fit_params are for estimators, model is a function")

    def call(X: Any, rows: I64, others: I64, name: str) -> npt.NDArray[Any]:
        outputs = model(_take(X, others), targets[others], _take(X, rows))
        return to_numpy(outputs, "outputs")

    return call


def _copied(model: Any) -> Any:
    """Return an untrained estimator with the same parameters."""
    sklearn = sys.modules.get("sklearn.base")
    if sklearn is not None and hasattr(model, "get_params"):
        return sklearn.clone(model)
    return copy.deepcopy(model)


def _outputs(model: Any, X: Any, output: str, classes_of: Classes, name: str) -> npt.NDArray[Any]:
    """Return a trained estimator's outputs for rows; for a classifier, one column per class."""
    method = _method(model, output)
    with np.errstate(divide="ignore"):  # probability 0 becomes the logit -inf
        values = to_numpy(getattr(model, method)(X), "outputs")
        if output == "auto" and method == "predict_proba":
            values = np.log(values)
    if method == "predict":
        return values
    if values.ndim == 1:
        values = np.stack([np.zeros(len(values)), values], axis=1)
    table, known = classes_of()
    classes = max(known, values.shape[1])
    seen = np.asarray(getattr(model, "classes_", np.arange(classes)))
    seen = labels.whole(seen) if table is None else table.numbers(seen)
    if values.shape[1:] != seen.shape or seen.dtype.kind not in "iu":
        raise ValueError(
            f"{type(model).__name__}.{method} must give a column for each class, got shape "
            f"{values.shape} for classes {seen!r}"
        )
    if len(seen) < classes:
        numbers = np.array(sorted(set(range(classes)) - set(seen.tolist())))
        missing = (numbers if table is None else table.labels(numbers)).tolist()
        warnings.warn(
            f"{name}: the training rows lack class {', '.join(map(str, missing))}; that model "
            "gives it probability 0",
            stacklevel=4,
        )
    aligned = np.full((len(values), classes), 0.0 if output == "predict_proba" else -np.inf)
    aligned[:, seen] = values
    return aligned


def _method(model: Any, output: str) -> str:
    """Return the name of the estimator's method that gives its outputs."""
    name = type(model).__name__
    available = [method for method in _METHODS if hasattr(model, method)]
    if not available or (output != "auto" and output not in available):
        wanted = "any of " + ", ".join(_METHODS) if output == "auto" else output
        raise ValueError(f"model must have {wanted}; {name} has not")
    method = available[0] if output == "auto" else output
    pairs = getattr(model, "decision_function_shape", "ovr") == "ovo"
    if method == "decision_function" and pairs and len(getattr(model, "classes_", ())) > 2:
        raise ValueError(
            f"{name}.decision_function gives pairs of classes; use decision_function_shape='ovr'"
        )
    if method == "predict" and hasattr(model, "classes_"):
        raise ValueError(
            f"{name}.predict gives classes alone; residuals need probabilities or scores "
            "(predict_proba or decision_function)"
        )
    return method


def _with_rows(X: Any) -> Any:
    """Return X in a form that rows can be taken from."""
    if hasattr(X, "tocsr"):  # some sparse formats have no rows
        return X.tocsr()
    if isinstance(X, (list, tuple)) or hasattr(X, "shape") or hasattr(X, "iloc"):
        return X
    raise TypeError(
        f"X must be an array, a sparse matrix, a DataFrame or a list, got {type(X).__name__}"
    )


def _length(rows: Any) -> int:
    """Return the number of rows; -1 if the value has no rows."""
    if hasattr(rows, "shape"):
        return int(rows.shape[0]) if len(rows.shape) else -1
    return len(rows) if isinstance(rows, (list, tuple)) else -1


def _take(rows: Any, which: I64) -> Any:
    """Return the rows with these numbers."""
    if hasattr(rows, "iloc"):
        return rows.iloc[which]
    if hasattr(rows, "shape"):
        return rows[which]
    return [rows[i] for i in which]
