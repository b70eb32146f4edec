"""What a base model is given and what it answers: weights, folds, outputs."""

from __future__ import annotations

import inspect
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import BaseCrossValidator, GroupKFold, KFold, StratifiedKFold, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import has_fit_parameter

Array = npt.NDArray[Any]


def logits(model: Any, X: Any, classes: Array) -> Array:
    """Return a fitted classifier's outputs (n, C), in the order of these classes.

    They are log-probabilities, or decision values where it has no probabilities: of two classes
    these are one number, which is the second logit, the first one being 0. A class that the model
    does not know has the logit -inf.
    """
    with np.errstate(divide="ignore"):  # probability 0 becomes the logit -inf
        if hasattr(model, "predict_log_proba"):
            values = np.asarray(model.predict_log_proba(X))
        elif hasattr(model, "predict_proba"):
            values = np.log(model.predict_proba(X))
        elif hasattr(model, "decision_function"):
            values = np.asarray(model.decision_function(X))
        else:
            raise TypeError(
                "estimator must have predict_proba or decision_function, which tell how sure it is "
                f"of each class, got {model!r}; sklearn.calibration.CalibratedClassifierCV and "
                "voting='soft' give them to some"
            )
    if values.ndim == 1:
        values = np.stack([np.zeros(len(values)), values], axis=1)
    known = np.searchsorted(classes, model.classes_)
    if values.shape[1:] != known.shape:
        raise ValueError(
            f"{type(model).__name__} must give a column for each of {len(known)} classes, got "
            f"shape {values.shape}; an SVC does with decision_function_shape='ovr'"
        )
    aligned = np.full((len(values), len(classes)), -np.inf)
    aligned[:, known] = values
    return aligned


def fold_numbers(cv: Any, X: Any, y: Array, groups: Any, is_classifier: bool, seed: Any) -> Array:
    """Return the fold (n,) of each row.

    ``cv`` is a number of folds, which are random unless there are groups, which stay together, or
    what scikit-learn's ``check_cv`` takes.
    """
    counted = isinstance(cv, Integral) and not isinstance(cv, bool)
    if counted and groups is not None:
        splitter: BaseCrossValidator = GroupKFold(int(cv))
    elif counted:
        kind = StratifiedKFold if is_classifier else KFold
        splitter = kind(int(cv), shuffle=True, random_state=seed)
    else:
        splitter = check_cv(cv, y, classifier=is_classifier)
    folds = np.full(len(y), -1)
    times = np.zeros(len(y), np.int64)
    whole = True
    for number, (others, held) in enumerate(splitter.split(X, y, groups)):
        folds[held] = number
        times[held] += 1
        trained = np.zeros(len(y), bool)
        trained[others] = True
        whole &= np.array_equal(trained, folds != number)
    if (times != 1).any():
        row = int(np.flatnonzero(times != 1)[0])
        raise ValueError(
            f"cv must put each row into one fold, row {row} is in {times[row]}; use a splitter "
            "such as KFold, StratifiedKFold or GroupKFold"
        )
    if not whole:
        raise ValueError(
            "cv must train on all rows but those of the fold, as the memory judges each row beside "
            "all the others; keep apart by groups, given to fit, the rows that must not meet"
        )
    if groups is not None:
        names, first, which = np.unique(groups, return_index=True, return_inverse=True)
        apart = np.flatnonzero(folds != folds[first][which])
        if len(apart):
            raise ValueError(
                f"cv must keep each group in one fold, group {names[which[apart[0]]]!r} is in "
                "several; use a number of folds, or a splitter such as GroupKFold"
            )
    return folds


def weight_name(estimator: Any) -> str | None:
    """Return what the estimator's ``fit`` calls the weights of rows; None where it takes none."""
    estimator = unwrapped(estimator)  # a search over settings hands on what it is given
    if has_fit_parameter(estimator, "sample_weight"):
        return "sample_weight"
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        within = weight_name(last)
        return None if within is None else f"{name}__{within}"
    kinds = {parameter.kind for parameter in inspect.signature(estimator.fit).parameters.values()}
    hands_on = inspect.Parameter.VAR_KEYWORD in kinds  # a vote of models does it, for example
    return "sample_weight" if hands_on else None


def unwrapped(model: Any) -> Any:
    """Return the model that a frozen one or a search over settings stands for."""
    while True:
        if isinstance(model, FrozenEstimator):
            model = model.estimator
        elif hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        elif hasattr(model, "param_grid") or hasattr(model, "param_distributions"):
            model = model.estimator
        else:
            return model


def take(values: Any, rows: Array) -> Any:
    """Return rows of an array, a sparse matrix, a table or a list."""
    if hasattr(values, "iloc"):
        return values.iloc[rows]
    if hasattr(values, "shape"):
        return values[rows]
    return [values[row] for row in rows]


def take_parameters(parameters: dict[str, Any], n: int, rows: Array) -> dict[str, Any]:
    """Return arguments of ``fit``; those with a value for each of n rows, for these rows alone."""
    return {
        name: take(value, rows) if _length(value) == n else value
        for name, value in parameters.items()
    }


def _length(value: Any) -> int:
    """Return the number of rows; -1 of what has none."""
    if getattr(value, "shape", None):
        return int(value.shape[0])
    return len(value) if isinstance(value, (list, tuple)) else -1
