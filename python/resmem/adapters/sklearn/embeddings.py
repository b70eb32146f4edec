"""Embeddings of the rows that an estimator reads: where they come from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import issparse
from scipy.special import expit
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils.validation import check_array, check_is_fitted

import resmem
from resmem.adapters.sklearn.base_outputs import Array, take, unwrapped

NAMES = ("input", "hidden", "leaves")
Embedding = Callable[[Any], Any]  # It makes embeddings (n, d) of rows (n, ..).

_TRIED_ROWS = 1_000  # They tell whether a transformer uses targets.
_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda values: values,
    "logistic": expit,
    "relu": lambda values: np.maximum(values, 0),
    "tanh": np.tanh,
}


def check_embed(embed: Any) -> None:
    """Refuse what makes no embeddings."""
    if isinstance(embed, type):
        raise TypeError(f"embed must be an instance, such as {embed.__name__}(), got the class")
    known = embed is None or (isinstance(embed, str) and embed in NAMES)
    if not known and not callable(embed) and not hasattr(embed, "transform"):
        raise ValueError(
            f"embed must be None, one of {', '.join(map(repr, NAMES))}, a function of rows or a "
            f"transformer, got {embed!r}"
        )


def is_input(embed: Any, estimator: Any) -> bool:
    """Tell whether the rows themselves are the embeddings."""
    if embed is not None:
        return isinstance(embed, str) and embed == "input"
    return not isinstance(unwrapped(estimator), Pipeline) or len(unwrapped(estimator)) == 1


def embedding_of(embed: Any, model: Any, X: Any, y: Any) -> Embedding:
    """Return what makes the embeddings, for a model that was fitted on these rows.

    A transformer that is fitted is taken as it is; another one is copied and fitted on the rows.
    """
    if is_input(embed, model):
        return _numbers
    if embed is None:
        return partial(_steps_before_last, model)
    if isinstance(embed, str):
        return partial(_hidden_layer if embed == "hidden" else _leaves, model)
    if hasattr(embed, "transform"):
        return (embed if _is_fitted(embed) else clone(embed).fit(X, y)).transform  # type: ignore[no-any-return]
    return embed  # type: ignore[no-any-return]


def learns_targets(embed: Any, model: Any, X: Any, y: Array) -> bool:
    """Tell whether fitting the embedding uses targets, so that known rows lie too near their own.

    Then only rows that took no part in it are honest validation rows. Of transformers that are to
    be fitted, no tag tells it: copies are fitted to some rows, with their targets and without, and
    if both embed these rows alike, targets are not used. The model is a fitted one, since a search
    over settings chooses the steps that its pipeline ends up with.
    """
    if is_input(embed, model):
        return False
    if embed is None or isinstance(embed, str):
        if isinstance(model, FrozenEstimator):
            return False
        if embed is not None:
            return True
        embed = make_pipeline(*_split(model)[0])
    elif not hasattr(embed, "transform") or _is_fitted(embed):
        return False
    some = np.random.default_rng(0).permutation(len(y))[:_TRIED_ROWS]
    rows = take(X, some)
    try:
        one, other = (clone(embed).fit(rows, known).transform(rows) for known in (y[some], None))
    except Exception:  # a transformer that needs targets, or more rows, fails in its own way
        return True
    if issparse(one):
        return bool(one.shape != other.shape or (one != other).nnz)
    return not np.array_equal(np.asarray(one), np.asarray(other))


def checked(embeddings: Any, embed: Any) -> Any:
    """Return embeddings, unless they are what no distance can be measured with."""
    if not issparse(embeddings):
        return embeddings
    made_by = "the steps before the last" if embed is None else f"embed={embed!r}"
    raise TypeError(
        f"embeddings must be dense, {made_by} gave a sparse matrix; give as embed a transformer "
        "that makes dense ones, such as sklearn.decomposition.TruncatedSVD(64), in a pipeline "
        "behind what it needs"
    )


# ---- kinds of embeddings -------------------------------------------------------------------------


def _numbers(X: Any) -> Any:
    """Return the rows as they are."""
    if issparse(X):
        return X
    try:
        return check_array(X, dtype=[np.float64, np.float32])
    except ValueError as error:
        raise ValueError(
            f"{error}\nThe rows themselves are the embeddings (embed='input'), so that all must be "
            "numbers and none may be missing. For other rows give as embed 'leaves' (forests and "
            "boosting) or a transformer that makes such numbers of them"
        ) from error


def _steps_before_last(model: Any, X: Any) -> Any:
    return _last_step(model, X)[1]


def _hidden_layer(model: Any, X: Any) -> npt.NDArray[np.floating[Any]]:
    """Return what the last hidden layer of a multi-layer perceptron makes of rows."""
    last, rows = _last_step(model, X)
    if not hasattr(last, "coefs_") or len(last.coefs_) < 2:
        raise ValueError(
            "embed='hidden' needs an MLPClassifier or MLPRegressor with a hidden layer, alone or "
            f"as the last step of a pipeline, got {last!r}; embed='input' needs none"
        )
    values: npt.NDArray[np.floating[Any]]
    values = check_array(rows, dtype=last.coefs_[0].dtype, accept_sparse="csr")
    for weight, bias in zip(last.coefs_[:-1], last.intercepts_[:-1], strict=True):
        values = _ACTIVATIONS[last.activation](values @ weight + bias)
    return values


def _leaves(model: Any, X: Any) -> npt.NDArray[np.float32]:
    return resmem.leaf_keys(*_last_step(model, X))


# ---- models within models ------------------------------------------------------------------------


def _last_step(model: Any, X: Any) -> tuple[Any, Any]:
    """Return the fitted model at the end of all pipelines, and rows as it reads them."""
    transformers, last = _split(model)
    for transformer in transformers:
        X = transformer.transform(X)
    return last, X


def _split(model: Any) -> tuple[list[Pipeline], Any]:
    """Return the steps before the last of each pipeline, in their order, and the last model."""
    transformers = []
    model = unwrapped(model)
    while isinstance(model, Pipeline):
        if len(model) > 1:
            transformers.append(model[:-1])
        model = unwrapped(model[-1])
    return transformers, model


def _is_fitted(transformer: Any) -> bool:
    try:
        check_is_fitted(transformer)
    except NotFittedError:
        return False
    return True
