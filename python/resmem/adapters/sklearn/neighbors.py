"""scikit-learn's estimators of nearest neighbours, with resmem's exact search in them.

They are subclasses of scikit-learn's, whose parameters, tags and graphs they inherit. All that
searches or uses what was found is here.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
from sklearn import neighbors
from sklearn.metrics import DistanceMetric
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from resmem.adapters.sklearn.exact_rows import ExactRows, Metric

_METRICS: dict[str, Metric] = {
    "minkowski": "euclidean",
    "euclidean": "euclidean",
    "l2": "euclidean",
    "sqeuclidean": "sqeuclidean",
    "cosine": "cosine",
}


class _Searching:
    """``kneighbors`` and what all three estimators do when they are fitted."""

    n_neighbors: Any
    algorithm: Any
    metric: Any
    metric_params: Any
    p: Any
    n_jobs: Any

    def _keep(self, X: npt.NDArray[Any]) -> None:
        """Keep validated rows for searches."""
        self._rows = ExactRows(X, self._checked_metric())
        # scikit-learn's function `kneighbors_graph` knows the rows of a model by this name.
        self._fit_X = X
        self.n_samples_fit_ = len(X)
        self.effective_metric_ = self._rows.metric
        self.effective_metric_params_: dict[str, Any] = {}

    def _check_parameters(self) -> None:
        """Refuse parameters that cannot be followed, before rows are looked at."""
        self._checked_metric()
        if self.n_neighbors is not None:  # NearestNeighbors(n_neighbors=None) is asked for radii
            _check_count(self.n_neighbors)
        if self.algorithm not in ("auto", "brute", "kd_tree", "ball_tree"):
            raise ValueError(
                "algorithm must be 'auto', 'brute', 'kd_tree' or 'ball_tree', which all find the "
                f"same neighbours here, got {self.algorithm!r}"
            )
        weights = getattr(self, "weights", None)
        if not callable(weights) and weights not in (None, "uniform", "distance"):
            raise ValueError(
                "weights must be 'uniform', 'distance', None or a function of distances, "
                f"got {weights!r}"
            )

    def _checked_metric(self) -> Metric:
        """Return resmem's name of the metric; refuse those that it does not have."""
        parameters = dict(self.metric_params or {})
        p = parameters.pop("p", self.p)
        name = self.metric
        if isinstance(name, DistanceMetric) and type(name).__name__.startswith("Euclidean"):
            name = "euclidean"
        known = isinstance(name, str) and name in _METRICS
        if not known or parameters or (name == "minkowski" and p != 2):
            raise ValueError(
                f"metric must be one of {', '.join(map(repr, _METRICS))}, with p=2 and no other "
                f"metric_params, got metric={self.metric!r}, p={p!r}, "
                f"metric_params={self.metric_params!r}; sklearn.neighbors.{type(self).__name__} "
                "has others"
            )
        return _METRICS[name]

    def _queries(self, X: Any) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64] | None, int | None]:
        """Return queries, the rows that each of them must not find, and a number of threads.

        Without ``X`` they are the rows themselves, each of which must not find itself.
        """
        threads = None if self.n_jobs is None else joblib.effective_n_jobs(self.n_jobs)
        if X is None:
            return self._fit_X, np.arange(self.n_samples_fit_), threads
        return self._validated(X, reset=False), None, threads

    def _validated(self, X: Any, **settings: Any) -> Any:
        """Return ``X``, or ``X`` and ``y`` if that is among the settings, as arrays."""
        try:
            return validate_data(self, X, dtype=[np.float64, np.float32], order="C", **settings)
        except TypeError as error:
            if hasattr(X, "toarray"):
                raise TypeError(
                    "X must be dense, got a sparse matrix; pass X.toarray(), or use "
                    f"sklearn.neighbors.{type(self).__name__}"
                ) from error
            raise

    def kneighbors(
        self, X: Any = None, n_neighbors: int | None = None, return_distance: bool = True
    ) -> Any:
        """Return the exact nearest rows of queries.

        Parameters
        ----------
        X : array (q, d), optional
            Default: the rows themselves, each of which does not find itself.
        n_neighbors : int, optional
            Default: as given to the estimator.
        return_distance : bool, default True
            Whether to return distances too.

        Returns
        -------
        distances : float64 array (q, n_neighbors)
            If ``return_distance``; ascending.
        indices : int64 array (q, n_neighbors)
            Of equally near rows the first one comes first.
        """
        check_is_fitted(self)
        k = _check_count(self.n_neighbors if n_neighbors is None else n_neighbors)
        queries, excluded, threads = self._queries(X)
        if k > self.n_samples_fit_ - (X is None):
            sign = "<" if X is None else "<="
            raise ValueError(
                f"Expected n_neighbors {sign} n_samples_fit, but n_neighbors = {k}, "
                f"n_samples_fit = {self.n_samples_fit_}, n_samples = {len(queries)}"
            )
        distances, indices = self._rows.nearest(queries, k, excluded, threads)
        return (distances, indices) if return_distance else indices

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.sparse = tags.input_tags.pairwise = tags.input_tags.allow_nan = False
        return tags


class NearestNeighbors(_Searching, neighbors.NearestNeighbors):
    """``sklearn.neighbors.NearestNeighbors`` over resmem's exact search.

    Parameters, methods and results are those of scikit-learn, for dense rows and the metrics
    "minkowski" (with p=2), "euclidean", "l2", "sqeuclidean" and "cosine". ``algorithm`` and
    ``leaf_size`` change nothing: all algorithms find the same rows. Distances are those of the
    numbers as given, in float32 or float64; rows at equal distance come by their number. ``n_jobs``
    is the number of threads, by default that of ``resmem.search``.

    Examples
    --------
    >>> from resmem.sklearn import NearestNeighbors
    >>> neighbours = NearestNeighbors(n_neighbors=2).fit([[0.0], [1.0], [3.0], [7.0]])
    >>> neighbours.kneighbors([[0.9]], return_distance=False)
    array([[1, 0]])
    """

    def fit(self, X: Any, y: Any = None) -> NearestNeighbors:
        """Keep rows (n, d); ``y`` is ignored."""
        self._check_parameters()
        self._keep(self._validated(_rows_of(X)))
        return self

    def radius_neighbors(
        self,
        X: Any = None,
        radius: Any = None,
        return_distance: bool = True,
        sort_results: bool = False,
    ) -> Any:
        """Return all rows within a radius of each query, the ends included.

        Parameters
        ----------
        X : array (q, d), optional
            Default: the rows themselves, each of which does not find itself.
        radius : float or array (q,), optional
            The same for all queries, or one for each. Default: as given to the estimator.
        return_distance : bool, default True
            Whether to return distances too.
        sort_results : bool, default False
            Whether the nearest row comes first. Else rows come by their number.

        Returns
        -------
        distances, indices : object arrays (q,) of arrays
            The distances only if ``return_distance``.
        """
        check_is_fitted(self)
        if sort_results and not return_distance:
            raise ValueError("return_distance must be True if sort_results is True.")
        radius = self.radius if radius is None else radius
        queries, excluded, threads = self._queries(X)
        try:
            radii = np.asarray(radius, dtype=np.float64)
        except (TypeError, ValueError):
            radii = np.array(np.nan)  # What is no number is refused with the others.
        if radii.shape not in ((), (len(queries),)) or not (radii >= 0).all():
            raise ValueError(
                f"radius must be a number of at least 0, or one a query, got {radius!r}"
            )
        radii = np.broadcast_to(radii, len(queries))
        distances, indices = self._rows.within(queries, radii, excluded, threads)
        if not sort_results:
            orders = [np.argsort(numbers) for numbers in indices]
            distances = [part[order] for part, order in zip(distances, orders, strict=True)]
            indices = [part[order] for part, order in zip(indices, orders, strict=True)]
        numbers = _of_arrays(indices)
        return (_of_arrays(distances), numbers) if return_distance else numbers


class KNeighborsClassifier(_Searching, neighbors.KNeighborsClassifier):
    """``sklearn.neighbors.KNeighborsClassifier`` over resmem's exact search.

    What it takes and what it refuses is as for ``resmem.sklearn.NearestNeighbors``. Of classes with
    equally many votes the first is predicted.

    Examples
    --------
    >>> from resmem.sklearn import KNeighborsClassifier
    >>> model = KNeighborsClassifier(n_neighbors=3).fit([[0], [1], [2], [9]], list("aabb"))
    >>> model.predict([[0.4]]), model.predict_proba([[0.4]]).round(2)
    (array(['a'], dtype='<U1'), array([[0.67, 0.33]]))
    """

    def fit(self, X: Any, y: Any) -> KNeighborsClassifier:
        """Keep rows (n, d) and their labels (n,), or (n, outputs)."""
        self._check_parameters()
        X, y = self._validated(_rows_of(X), y=y, multi_output=True)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        columns = y.reshape(len(y), -1).T
        found = [np.unique(column, return_inverse=True) for column in columns]
        self.outputs_2d_ = y.ndim == 2
        self.classes_: Any = [labels for labels, _ in found] if self.outputs_2d_ else found[0][0]
        self._class_numbers = np.stack([numbers.reshape(-1) for _, numbers in found], axis=1)
        self._keep(X)
        return self

    def predict(self, X: Any) -> Any:
        """Return the label (q,) with most votes, or labels (q, outputs).

        ``X`` is an array (q, d), or None for the rows themselves, without their own vote.
        """
        votes = self._votes(X)
        labels = [
            known[part.argmax(axis=1)] for known, part in zip(self._labels(), votes, strict=True)
        ]
        return np.stack(labels, axis=1) if self.outputs_2d_ else labels[0]

    def predict_proba(self, X: Any) -> Any:
        """Return each class's share of the votes (q, classes), or a list of that for each output.

        ``X`` is as for ``predict``.
        """
        votes = self._votes(X)
        for part in votes:
            part /= part.sum(axis=1, keepdims=True)
        return votes if self.outputs_2d_ else votes[0]

    def _labels(self) -> list[npt.NDArray[Any]]:
        return self.classes_ if self.outputs_2d_ else [self.classes_]

    def _votes(self, X: Any) -> list[npt.NDArray[np.float64]]:
        """Return the summed weights (q, classes) of the neighbours of each class, by output."""
        check_is_fitted(self)
        distances, indices = self.kneighbors(X)
        weights = _weights(distances, self.weights)
        if (weights == 0).all(axis=1).any():
            raise ValueError(
                "All neighbors of some sample is getting zero weights. Please modify 'weights' to "
                "avoid this case if you are using a user-defined function."
            )
        queries, votes = np.arange(len(indices)), []
        for labels, numbers in zip(self._labels(), self._class_numbers.T, strict=True):
            part = np.zeros((len(indices), len(labels)))
            for neighbour, weight in zip(indices.T, weights.T, strict=True):
                part[queries, numbers[neighbour]] += weight
            votes.append(part)
        return votes


class KNeighborsRegressor(_Searching, neighbors.KNeighborsRegressor):
    """``sklearn.neighbors.KNeighborsRegressor`` over resmem's exact search.

    What it takes and what it refuses is as for ``resmem.sklearn.NearestNeighbors``.

    Examples
    --------
    >>> from resmem.sklearn import KNeighborsRegressor
    >>> model = KNeighborsRegressor(n_neighbors=2).fit([[0], [1], [2], [9]], [0.0, 1.0, 4.0, 81.0])
    >>> model.predict([[1.6]])
    array([2.5])
    """

    def fit(self, X: Any, y: Any) -> KNeighborsRegressor:
        """Keep rows (n, d) and their values (n,), or (n, outputs)."""
        self._check_parameters()
        X, self._values = self._validated(_rows_of(X), y=y, multi_output=True, y_numeric=True)
        self._keep(X)
        return self

    def predict(self, X: Any) -> npt.NDArray[np.float64]:
        """Return the neighbours' weighted mean value (q,), or (q, outputs).

        ``X`` is an array (q, d), or None for the rows themselves, without their own value.
        """
        check_is_fitted(self)
        distances, indices = self.kneighbors(X)
        weights = _weights(distances, self.weights)
        weights = weights / weights.sum(axis=1, keepdims=True)
        means: npt.NDArray[np.float64]
        means = np.einsum("qk,qk...->q...", weights, self._values[indices])
        return means


def _rows_of(X: Any) -> Any:
    """Return the rows of what scikit-learn also fits: a tree, or a fitted model of neighbours."""
    if isinstance(X, (neighbors.KDTree, neighbors.BallTree)):
        return np.asarray(X.data)
    return getattr(X, "_fit_X", X)


def _check_count(n_neighbors: Any) -> int:
    if isinstance(n_neighbors, bool) or not isinstance(n_neighbors, Integral):
        raise TypeError(f"n_neighbors must be a whole number, got {n_neighbors!r}")
    if n_neighbors < 1:
        raise ValueError(f"Expected n_neighbors > 0. Got {n_neighbors}")
    return int(n_neighbors)


def _weights(distances: npt.NDArray[np.float64], weights: Any) -> npt.NDArray[np.float64]:
    """Return the weights (q, k) of neighbours at these distances.

    By "distance" they fall as its inverse; neighbours at distance 0, if any, have all weight.
    """
    if callable(weights):
        return np.asarray(weights(distances), dtype=np.float64)
    if weights != "distance":
        return np.ones_like(distances)
    with np.errstate(divide="ignore"):
        inverse = 1.0 / distances
    endless = np.isinf(inverse)
    return np.where(endless.any(axis=1, keepdims=True), endless, inverse)


def _of_arrays(parts: list[Any]) -> npt.NDArray[np.object_]:
    """Return an object array (q,) that holds these arrays."""
    result = np.empty(len(parts), dtype=object)
    for at, part in enumerate(parts):  # Arrays of one length would become a matrix at once.
        result[at] = part
    return result
