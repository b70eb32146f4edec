"""scikit-learn's own checks of estimators, on every estimator of ``resmem.sklearn``."""

from __future__ import annotations

import pytest

pytest.importorskip("sklearn.frozen", reason="needs scikit-learn 1.6 or later")

from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier as BaseWithoutWeights
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from resmem.sklearn import (
    KNeighborsClassifier,
    KNeighborsRegressor,
    NearestNeighbors,
    ResMemClassifier,
    ResMemRegressor,
)

FEW = {"k": [1, 8], "sigma": [1.0], "strength": [0, 0.5, 1]}  # settings, so that checks are fast
EXPECTED = "folds, and k, count rows: a row of weight 2 is one row"
DENSE, SPARSE = (f"check_sample_weight_equivalence_on_{kind}_data" for kind in ("dense", "sparse"))
# Estimators, and the checks that fail. None does where the memory is switched off, or where the
# model fits its rows without an error.
ESTIMATORS = {
    "neighbours": (NearestNeighbors(), ()),
    "classifier of neighbours": (KNeighborsClassifier(), ()),
    "regressor of neighbours": (KNeighborsRegressor(), ()),
    "tuned": (ResMemClassifier(LogisticRegression(), tune=FEW, cv=2), ()),
    "tuned regressor": (ResMemRegressor(Ridge(), tune=FEW, cv=2), ()),
    "as set": (ResMemClassifier(LogisticRegression(), tune=False, cv=2), (DENSE,)),
    "pipeline": (
        ResMemRegressor(make_pipeline(StandardScaler(), LinearRegression()), tune=False, cv=2),
        (),
    ),
    "transformer": (
        ResMemClassifier(LogisticRegression(), PCA(1), tune=False, cv=2),
        (DENSE, SPARSE),
    ),
    "leaves": (
        ResMemClassifier(DecisionTreeClassifier(random_state=0), "leaves", tune=FEW, cv=2),
        (),
    ),
    "leaves, values": (
        ResMemRegressor(DecisionTreeRegressor(random_state=0), "leaves", tune=False),
        (),
    ),
    "no weights": (ResMemClassifier(BaseWithoutWeights(), tune=FEW, cv=2), (DENSE,)),
}


def failing(estimator):
    (names,) = [names for each, names in ESTIMATORS.values() if each is estimator]
    return dict.fromkeys(names, EXPECTED)


CHECKS = parametrize_with_checks(
    [estimator for estimator, _ in ESTIMATORS.values()], expected_failed_checks=failing
)
NAMES, CASES = CHECKS.args  # scikit-learn 1.8 gives an iterator, which pytest warns of


@pytest.mark.filterwarnings("ignore")  # checks ask for what estimators warn of
@pytest.mark.parametrize(NAMES, list(CASES), **CHECKS.kwargs)
def test_estimator_passes_scikit_learns_check(estimator, check):
    check(estimator)
