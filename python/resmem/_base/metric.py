"""Metrics: what two vectors are compared by (CONTRACT.md, "Distances and order")."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

from resmem._base.arrays import F64

Metric: TypeAlias = Literal["euclidean", "sqeuclidean", "cosine", "inner_product"]
METRICS: tuple[Metric, ...] = get_args(Metric)


def checked_metric(metric: Any) -> Metric:
    """Return the metric with this name; ValueError if there is none."""
    if not isinstance(metric, str) or metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(map(repr, METRICS))}, got {metric!r}")
    return METRICS[METRICS.index(metric)]


def is_euclidean(metric: Metric) -> bool:
    """Tell whether neighbours come in the order of their Euclidean distances."""
    return metric in ("euclidean", "sqeuclidean")


def value_word(metric: Metric) -> str:
    """Return what a number that ``kneighbors`` returns is called at the head of a column."""
    return "product" if metric == "inner_product" else "distance"


def as_distances(values: F64, metric: Metric) -> F64:
    """Return what ascends with the order of neighbours: inner products are negated.

    The same call makes the values of the metric of such distances again.
    """
    return 0.0 - values if metric == "inner_product" else values
