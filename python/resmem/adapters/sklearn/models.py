"""A memory over an estimator of scikit-learn, as an estimator."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn import get_config
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    MetaEstimatorMixin,
    RegressorMixin,
    clone,
    is_classifier,
    is_regressor,
)
from sklearn.model_selection import check_cv
from sklearn.utils import Bunch, get_tags, indexable
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import (
    check_array,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

import resmem
from resmem.adapters.sklearn.base_outputs import (
    fold_numbers,
    logits,
    take,
    take_parameters,
    weight_name,
)
from resmem.adapters.sklearn.embeddings import (
    Embedding,
    check_embed,
    checked,
    embedding_of,
    is_input,
    learns_targets,
)

_OF_THE_ESTIMATOR = {
    "task": "the class says it",
    "classes": "y says them",
    **dict.fromkeys(("k", "sigma", "strength"), "it is a parameter of its own"),
}
_OF_FIT = {
    **dict.fromkeys(("embeddings", "outputs", "targets", "loo", "apply"), "fit gives it"),
    **dict.fromkeys(("groups", "exclude_groups"), "give groups to fit"),
}
_FEWEST = 10  # `Memory.tune` cuts rows into ten folds.


@dataclass(frozen=True)
class _Rows:
    """The rows that a memory is made of, with what belongs to each."""

    X: Any
    y: npt.NDArray[Any]
    outputs: npt.NDArray[np.float64]  # They are from models that did not see the row.
    weights: npt.NDArray[np.float64] | None
    groups: Any
    params: dict[str, Any]  # The estimator's `fit` takes them.

    def take(self, which: npt.NDArray[np.intp]) -> _Rows:
        """Return the rows with these numbers."""
        return _Rows(
            take(self.X, which), self.y[which], self.outputs[which],
            None if self.weights is None else self.weights[which],
            None if self.groups is None else take(self.groups, which),
            take_parameters(self.params, len(self.y), which),
        )  # fmt: skip


class _ResMem(MetaEstimatorMixin, BaseEstimator):
    """What both tasks share."""

    _task: ClassVar[Any]
    # It holds what tells estimators of the other task, the kind wanted, the class for the others.
    _other_kind: ClassVar[tuple[Any, str, str]]

    def __init__(
        self,
        estimator: Any,
        embed: Any = None,
        *,
        k: int = 50,
        sigma: Any = "auto",
        strength: float = 1.0,
        tune: Any = True,
        cv: Any = 5,
        memory_params: Any = None,
        n_jobs: Any = None,
        random_state: Any = 0,
    ) -> None:
        self.estimator = estimator
        self.embed = embed
        self.k = k
        self.sigma = sigma
        self.strength = strength
        self.tune = tune
        self.cv = cv
        self.memory_params = memory_params
        self.n_jobs = n_jobs
        self.random_state = random_state

    # ---- fit -------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any, sample_weight: Any = None, **fit_params: Any) -> Any:
        """Train the model, collect its honest outputs, and fit and tune the memory.

        Parameters
        ----------
        X : array, sparse matrix, DataFrame or list of n rows
            As the estimator takes them.
        y : array (n,)
            Labels, or values; values may be (n, outputs).
        sample_weight : array (n,), optional
            Weights of the rows, for the estimator and for the rows of the memory.
        **fit_params
            Further arguments of the estimator's ``fit``, and ``groups`` of a splitter such as
            ``GroupKFold``: then rows do not tune on rows of their own group. With
            metadata routing, who gets what is as requested, and groups need a splitter that
            requests them: ``cv=GroupKFold(5)``.

        Returns
        -------
        self
        """
        check_embed(self.embed)
        other, wanted, cure = self._other_kind
        if other(self.estimator):
            raise TypeError(
                f"{type(self).__name__} needs a {wanted}, got {self.estimator!r}; use {cure}"
            )
        if not isinstance(self.tune, (bool, dict)):
            raise TypeError(f"tune must be True, False or a dict of arguments, got {self.tune!r}")
        _refuse_names("memory_params", self.memory_params, _OF_THE_ESTIMATOR)
        _refuse_names("tune", self.tune, _OF_FIT)
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None"
            )
        validate_data(self, X, skip_check_array=True)
        X, y = indexable(X, y)
        y, weights = self._checked_targets(y), _checked_weights(sample_weight, y)
        base_params, groups = self._routed(weights, fit_params)
        folds = fold_numbers(self.cv, X, y, groups, self._classifies, self.random_state)
        outputs = self._honest_outputs(X, y, folds, base_params)
        rows = _Rows(X, y, outputs, weights, groups, base_params)

        self.estimator_ = clone(self.estimator).fit(X, y, **base_params)
        self.embedding_ = embedding_of(self.embed, self.estimator_, X, y)
        self.memory_ = self._memory(self.embedding_, rows)
        self.tuned_ = None
        if self.tune is not False:
            self.tuned_ = self._tuned(rows, folds)
            off = replace(self.memory_.settings, strength=0)
            self.memory_.use(off if self.tuned_ is None else self.tuned_.best)
        return self

    def _checked_targets(self, y: Any) -> npt.NDArray[Any]:
        raise NotImplementedError

    @property
    def _classifies(self) -> bool:
        return bool(self._task == "classification")

    def _routed(self, weights: Any, fit_params: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """Return the arguments of the estimator's ``fit``, and the groups of the rows."""
        if get_config()["enable_metadata_routing"]:
            given = {} if weights is None else {"sample_weight": weights}
            routed = process_routing(self, "fit", **given, **fit_params)
        else:
            params = dict(fit_params)
            splitter = Bunch(split={"groups": params.pop("groups", None)})
            name = weight_name(self.estimator)
            if weights is not None and name is not None:
                params[name] = weights
            elif weights is not None:
                warnings.warn(
                    f"{type(self.estimator).__name__}.fit takes no sample_weight: the memory alone "
                    "uses it",
                    resmem.ResmemWarning,
                    stacklevel=3,
                )
            routed = Bunch(estimator=Bunch(fit=params), splitter=splitter)
        return dict(routed.estimator.fit), routed.splitter.split.get("groups")

    def _honest_outputs(
        self, X: Any, y: npt.NDArray[Any], folds: npt.NDArray[Any], params: dict[str, Any]
    ) -> npt.NDArray[np.float64]:
        """Return outputs (n, ..) of each row by a model that was trained without its fold."""
        parts = [np.flatnonzero(folds == fold) for fold in range(folds.max() + 1)]

        def outputs_of(held: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
            others = np.delete(np.arange(len(y)), held)
            model = clone(self.estimator)
            model.fit(take(X, others), y[others], **take_parameters(params, len(y), others))
            return self._outputs(model, take(X, held))

        found = Parallel(n_jobs=self.n_jobs)(delayed(outputs_of)(held) for held in parts)
        outputs = np.empty((len(y), *found[0].shape[1:]))
        for held, part in zip(parts, found, strict=True):
            outputs[held] = part
        return outputs

    def _memory(self, embedding: Embedding, rows: _Rows) -> resmem.Memory:
        """Return a memory of these rows, with the settings that were given."""
        settings: dict[str, Any] = {
            "preprocess": "standardize" if is_input(self.embed, self.estimator_) else "none",
            "residuals": "out-of-fold",
            **(self.memory_params or {}),
        }
        if self._classifies:
            settings["classes"] = self.classes_
        memory = resmem.Memory(
            self._task, k=self.k, sigma=self.sigma, strength=self.strength, **settings
        )
        return memory.fit(
            checked(embedding(rows.X), self.embed), rows.outputs, rows.y,
            sample_weight=rows.weights, groups=rows.groups,
        )  # fmt: skip

    def _tuned(self, rows: _Rows, folds: npt.NDArray[Any]) -> resmem.TuneResult | None:
        """Return what tuning on honest rows finds, or None where these are too few."""
        arguments: dict[str, Any] = {} if self.tune is True else dict(self.tune)
        learns = self._learns_keys() or learns_targets(self.embed, self.estimator_, rows.X, rows.y)
        judging = folds < max(1, (folds.max() + 1) * 2 // 5)
        held, others = np.flatnonzero(judging), np.flatnonzero(~judging)
        judges = len(held) if learns else len(self.memory_)
        if judges < _FEWEST or not len(others):
            warnings.warn(
                f"tune needs {_FEWEST} rows to judge by, there are {judges}: the memory is "
                "switched off; tune=False uses it as it is set",
                resmem.ResmemWarning,
                stacklevel=3,
            )
            return None
        if not learns:
            if rows.groups is not None:
                arguments["exclude_groups"] = "own"
            return self.memory_.tune(loo=True, apply=False, **arguments)
        known, new = rows.take(others), rows.take(held)
        model = clone(self.estimator).fit(known.X, known.y, **known.params)
        embedding = embedding_of(self.embed, model, known.X, known.y)
        trial = self._memory(embedding, known)
        if new.groups is not None:
            arguments["groups"] = new.groups
        return trial.tune(embedding(new.X), new.outputs, new.y, apply=False, **arguments)

    def _learns_keys(self) -> bool:
        """Tell whether the memory, or what tuning tries, learns its keys from targets ("nca:m")."""
        given = (self.memory_params or {}, self.tune if isinstance(self.tune, dict) else {})
        return any("nca:" in str(settings.get("preprocess")) for settings in given)

    # ---- queries ---------------------------------------------------------------------------------

    def collect(self, X: Any) -> tuple[Any, npt.NDArray[Any]]:
        """Return embeddings (q, d) and the estimator's outputs of rows, as ``memory_`` takes them.

        Outputs are logits (q, C) of the classes, or what the estimator predicts.
        """
        check_is_fitted(self, "memory_")
        # The estimator comes first, for it tells best what is wrong with X.
        outputs = self._outputs(self.estimator_, X)
        validate_data(self, X, reset=False, skip_check_array=True)
        return checked(self.embedding_(X), self.embed), outputs

    def _outputs(self, model: Any, X: Any) -> npt.NDArray[Any]:
        raise NotImplementedError

    # ---- what scikit-learn asks ------------------------------------------------------------------

    def get_metadata_routing(self) -> MetadataRouter:
        """Return who asks for which arguments of ``fit``: the model, the splitter, the memory."""
        fit = MethodMapping().add(caller="fit", callee="fit")
        split = MethodMapping().add(caller="fit", callee="split")
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)
            .add(estimator=self.estimator, method_mapping=fit)
            .add(splitter=check_cv(self.cv), method_mapping=split)
        )

    def __sklearn_tags__(self) -> Any:
        tags, base = super().__sklearn_tags__(), get_tags(self.estimator)
        tags.input_tags = replace(base.input_tags)
        if is_input(self.embed, self.estimator):  # Distances need all numbers.
            tags.input_tags.sparse = tags.input_tags.allow_nan = False
        tags.non_deterministic = base.non_deterministic
        return tags


class ResMemClassifier(ClassifierMixin, _ResMem):
    """A classifier with a memory of what it got wrong, which corrects its probabilities.

    ``fit`` trains the estimator, gets outputs for all rows from copies of it that did not see them,
    keeps their residuals, and chooses the settings.

    Parameters
    ----------
    estimator : classifier
        The model that is corrected. It is copied, and trained on parts of the rows (``cv``) and on
        all of them. One that is trained already stays as it is in a
        ``sklearn.frozen.FrozenEstimator``; the rows should be others than it was trained on.
    embed : None, str, function or transformer
        What makes embeddings of rows. None: the steps of a pipeline before its last, else "input".
        "input": the rows themselves, standardised. "hidden": the last hidden layer of an
        ``MLPClassifier``. "leaves": the leaves of a forest or a boosted ensemble
        (``resmem.leaf_keys``). For these two the model may be the last step of a pipeline. A
        function is called with rows. A transformer is fitted on the rows, unless it is fitted
        already (``clone``, and so ``GridSearchCV``, forgets that, but for a ``FrozenEstimator``).
        Functions and fitted transformers that learnt from targets must have learnt from other rows:
        tuning cannot tell, and would find rows with the same target too near.
    k : int, default 50
        Neighbours per query.
    sigma : float or "auto", default "auto"
        Length scale of the weights, as for ``resmem.Memory``.
    strength : float, default 1.0
        Factor of the correction.
    tune : bool or dict, default True
        Whether ``fit`` chooses the settings, and switches the memory off where it does not help.
        A dict holds arguments of ``resmem.Memory.tune``, such as ``{"score": "accuracy"}``.
    cv : int or splitter, default 5
        How rows are split for outputs of models that did not see them: a number of random folds, or
        a splitter of scikit-learn that puts each row into one fold, and trains on all others.
    memory_params : dict, optional
        Further arguments of ``resmem.Memory``, such as ``{"preprocess": "pca:32"}``.
    n_jobs : int, optional
        How many of the models of the folds are trained at the same time; default 1.
    random_state : int, default 0
        Seed of the folds.

    Attributes
    ----------
    estimator_ : classifier
        The model, trained on all rows.
    memory_ : resmem.Memory
        The memory. ``memory_.evaluate(*model.collect(X), y)`` says what it gains; so for its other
        methods.
    embedding_ : function
        What makes embeddings of rows.
    tuned_ : resmem.TuneResult or None
        What ``tune`` found; None without it, or where rows were too few.
    classes_ : array (C,)
        The labels, in ascending order.
    n_features_in_, feature_names_in_
        As for scikit-learn's estimators.

    Notes
    -----
    Settings are chosen on honest rows. Where the embedding does not depend on targets, these are
    the memory's own rows, each without itself and with the output of a model that did not see it.
    Where it does ("hidden", "leaves", transformers that use targets), two fifths of the folds are
    left out of a trial model, of its embedding and its memory, and choose; the memory of all rows
    then gets these settings.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import MinMaxScaler
    >>> from resmem.sklearn import ResMemClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> base = make_pipeline(MinMaxScaler(), LogisticRegression(max_iter=500))
    >>> model = ResMemClassifier(base).fit(X[:1000], y[:1000])
    >>> bool(model.score(X[1000:], y[1000:]) > model.estimator_.score(X[1000:], y[1000:]))
    True
    """

    _task = "classification"
    _other_kind = (is_regressor, "classifier", "ResMemRegressor")

    def _checked_targets(self, y: Any) -> npt.NDArray[Any]:
        check_classification_targets(y)
        labels: npt.NDArray[Any] = column_or_1d(y, warn=True)
        # Without an index NumPy hashes, in code that must not run as a process ends.
        self.classes_ = np.unique(labels, return_index=True)[0]
        return labels

    def _outputs(self, model: Any, X: Any) -> npt.NDArray[Any]:
        return logits(model, X, self.classes_)

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Return corrected probabilities (q, C) in the order of ``classes_``."""
        collected = self.collect(X)
        probabilities: npt.NDArray[np.float64] = self.memory_.predict_proba(*collected)
        return probabilities

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Return the most probable labels (q,); of equally probable ones the first."""
        numbers = self.predict_proba(X).argmax(axis=1)
        labels: npt.NDArray[Any] = self.classes_[numbers]
        return labels

    def predict_log_proba(self, X: Any) -> npt.NDArray[np.float64]:
        """Return the logarithms (q, C) of the corrected probabilities."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def decision_function(self, X: Any) -> npt.NDArray[np.float64]:
        """Return logarithms (q, C) of the corrected probabilities; for two classes the second less
        the first, (q,). They are finite: a probability counts as 1e-300 at least."""
        logs = np.log(np.maximum(self.predict_proba(X), 1e-300))
        return logs[:, 1] - logs[:, 0] if logs.shape[1] == 2 else logs

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        base = get_tags(self.estimator).classifier_tags
        if base is not None:
            tags.classifier_tags.multi_class = base.multi_class
            tags.classifier_tags.poor_score = base.poor_score
        return tags


class ResMemRegressor(RegressorMixin, _ResMem):
    """A regressor with a memory of what it got wrong, which corrects its values.

    Parameters, attributes and methods are those of ``resmem.sklearn.ResMemClassifier``, with a
    regressor as the estimator, ``MLPRegressor`` for "hidden", and targets (n,) or (n, outputs).

    Examples
    --------
    >>> from sklearn.datasets import make_friedman1
    >>> from sklearn.linear_model import Ridge
    >>> from resmem.sklearn import ResMemRegressor
    >>> X, y = make_friedman1(1500, random_state=0)
    >>> model = ResMemRegressor(Ridge()).fit(X[:1000], y[:1000])
    >>> bool(model.score(X[1000:], y[1000:]) > model.estimator_.score(X[1000:], y[1000:]))
    True
    """

    _task = "regression"
    _other_kind = (is_classifier, "regressor", "ResMemClassifier")

    def _checked_targets(self, y: Any) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = check_array(
            y, ensure_2d=False, dtype=np.float64, input_name="y", estimator=self
        )
        return values

    def _outputs(self, model: Any, X: Any) -> npt.NDArray[Any]:
        return np.asarray(model.predict(X), dtype=np.float64)

    def predict(self, X: Any) -> npt.NDArray[np.float64]:
        """Return corrected values (q,), or (q, outputs)."""
        collected = self.collect(X)
        values: npt.NDArray[np.float64] = self.memory_.predict(*collected)
        return values

    def __sklearn_tags__(self) -> Any:
        tags, base = super().__sklearn_tags__(), get_tags(self.estimator)
        tags.target_tags.multi_output = base.target_tags.multi_output
        tags.target_tags.single_output = base.target_tags.single_output
        if base.regressor_tags is not None:
            tags.regressor_tags.poor_score = base.regressor_tags.poor_score
        return tags


def _refuse_names(parameter: str, settings: Any, taken: dict[str, str]) -> None:
    """Refuse settings that come from elsewhere; each of the taken names has its reason."""
    for name in settings if isinstance(settings, dict) else ():
        if name in taken:
            raise ValueError(f"{parameter} must not hold {name!r}: {taken[name]}")


def _checked_weights(sample_weight: Any, y: npt.NDArray[Any]) -> npt.NDArray[np.float64] | None:
    """Return weights of rows (n,), or None where all weigh the same."""
    if sample_weight is None:
        return None
    weights = np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != (len(y),):
        raise ValueError(f"sample_weight must have shape ({len(y)},), got {weights.shape}")
    if not weights.any():
        raise ValueError("sample_weight must have a weight above zero, all are zero")
    return weights
