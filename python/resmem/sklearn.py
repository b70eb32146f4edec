"""Residual memories and exact neighbours as scikit-learn's estimators.

``ResMemClassifier`` and ``ResMemRegressor`` put a memory over any estimator. ``NearestNeighbors``,
``KNeighborsClassifier`` and ``KNeighborsRegressor`` take the place of scikit-learn's.
"""

try:
    import sklearn.frozen  # noqa: F401  scikit-learn has it, and all else that is used, from 1.6 on
except ImportError as error:
    raise ImportError(
        "resmem.sklearn needs scikit-learn 1.6 or later: pip install 'residual-memory[sklearn]'"
    ) from error

from resmem.adapters.sklearn.models import ResMemClassifier, ResMemRegressor
from resmem.adapters.sklearn.neighbors import (
    KNeighborsClassifier,
    KNeighborsRegressor,
    NearestNeighbors,
)

__all__ = [
    "KNeighborsClassifier",
    "KNeighborsRegressor",
    "NearestNeighbors",
    "ResMemClassifier",
    "ResMemRegressor",
]
