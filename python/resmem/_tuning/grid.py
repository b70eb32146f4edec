"""The values of each setting that tuning tries."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from resmem._base import checks
from resmem._base.arrays import F64
from resmem._base.metric import Metric
from resmem._correction.correct import METHODS, Method
from resmem._correction.simplex import SimplexMap, map_named
from resmem._keys.stored import KeyDtype
from resmem._rows.spec import Spec
from resmem._state.settings import Settings, checked_method

KS = (1, 2, 4, 8, 16, 32, 64, 128)
# In units of the median distance of the farthest neighbour; of inner products, of how much smaller
# the smallest is than the largest.
SIGMAS = (*np.geomspace(0.01, 2, 11).tolist(), math.inf)
TEMPERATURES = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
STRENGTHS = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)
# Of the neighbours' targets, which cost little to try.
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Grid:
    """The values that are tried of each setting; all combinations of them are tried.

    Of the method "targets" these are ks, sigmas, temperatures and shares.
    """

    ks: tuple[int, ...]
    sigmas: tuple[float, ...]
    relative: bool  # whether the sigmas are in units of a distance that the search has yet to find
    temperatures: tuple[float, ...]
    strengths: tuple[float, ...]
    maps: tuple[SimplexMap, ...]
    shares: tuple[float, ...] = ()  # strengths of the method "targets"; none: it is not tried
    methods: tuple[Method, ...] = METHODS  # those that may be chosen
    # The axes, by their names here, of which the caller has given no values.
    open: frozenset[str] = frozenset()
    exhausted: frozenset[str] = frozenset()  # of these, those of which more values add little

    def scaled(self, distances: F64, metric: Metric) -> Grid:
        """Return the grid with absolute sigmas, given the neighbours' distances (q, k)."""
        if not self.relative:
            return self
        last = np.where(np.isfinite(distances), distances, -np.inf).max(axis=1, initial=-np.inf)
        if metric == "inner_product" and distances.shape[1]:
            last -= distances[:, 0]  # products have no zero to count from but the largest one
        last = last[last > 0]
        unit = float(np.median(last)) if len(last) else 1.0
        return replace(self, sigmas=tuple(unit * s for s in self.sigmas), relative=False)

    def with_axis(self, name: str, values: tuple[Any, ...]) -> Grid:
        """Return the grid with these values of an axis, by its name here."""
        change: Any = {name: values}
        return replace(self, **change)

    def settings(self, preprocess: str, key_dtype: KeyDtype) -> list[Settings]:
        """Return all combinations: of residuals, in C order of (temperatures, ks, sigmas,
        strengths, maps), and then of targets, in C order of (temperatures, ks, sigmas, shares)."""
        common = self.temperatures, self.ks, self.sigmas
        found = [
            Settings(k, sigma, temperature, strength, simplex_map.name, preprocess, key_dtype)
            for temperature, k, sigma, strength, simplex_map in product(
                *common, self.strengths, self.maps
            )
        ]
        of_targets = [
            Settings(k, sigma, temperature, share, "clip", preprocess, key_dtype, method="targets")
            for temperature, k, sigma, share in product(*common, self.shares)
        ]
        return found + of_targets


def grid_of(
    spec: Spec,
    rows: int,
    columns: int,
    temperature_now: float,
    k: Any,
    sigma: Any,
    temperature: Any,
    strength: Any,
    probability_map: Any,
    methods: Any,
) -> Grid:
    """Return the grid of the values given, checked; None stands for the defaults of a setting.

    The base (strength 0) and the published method (strength 1) are part of every grid.

    ``rows``: the largest number of neighbours that a query can have.
    """
    ks = sorted({min(checks.count(v, "k"), rows) for v in _listed(KS if k is None else k, "k")})
    sigmas = sorted({checks.positive(v, "sigma", infinite=True) for v in _listed(sigma, "sigma")})
    strengths = {checks.finite(v, "strength") for v in _listed(strength, "strength")}
    tried = methods_to_try(methods)
    shares = {s for s in strengths if 0 < s <= 1} if strength is not None else set(SHARES)
    if strength is None and "residual" in tried:
        strengths = set(STRENGTHS)
    if tried == ("targets",) and not shares:
        raise ValueError(
            "strength must have a value above 0 and at most 1 for methods='targets', which mixes "
            f"it into the base's outputs, got {sorted(strengths)}"
        )
    return Grid(
        tuple(ks),
        tuple(sigmas) if sigma is not None else SIGMAS,
        sigma is None,
        _temperatures(spec, temperature, temperature_now),
        tuple(sorted(strengths | {0.0, 1.0})),
        _maps(spec, columns, probability_map),
        tuple(sorted(shares)) if "targets" in tried else (),
        tried,
        _open_axes(spec, tried, k=k, sigma=sigma, temperature=temperature, strength=strength),
    )


def _open_axes(spec: Spec, methods: tuple[Method, ...], **given: Any) -> frozenset[str]:
    axes = {name for name in ("k", "sigma", "temperature", "strength") if given[name] is None}
    found = {f"{name}s" for name in axes}
    if "strength" in axes:
        found |= {"shares"}
    if "residual" not in methods:
        found -= {"strengths"}
    if spec.output_kind != "logits" or spec.store.fixed_temperature:
        found -= {"temperatures"}
    return frozenset(found)


def methods_to_try(values: Any) -> tuple[Method, ...]:
    """Return the methods given, checked; None stands for all of them."""
    if values is None:
        return METHODS
    return tuple(dict.fromkeys(checked_method(v, 0.0)[0] for v in _listed(values, "methods")))


def _temperatures(spec: Spec, values: Any, now: float) -> tuple[float, ...]:
    tried = {checks.positive(v, "temperature") for v in _listed(values, "temperature")}
    if spec.output_kind != "logits":
        if tried - {1.0}:
            raise ValueError(
                f"temperature must be 1 for {spec.output_kind}, got {min(tried - {1.0})!r}: "
                "only logits have one"
            )
        return (1.0,)
    if spec.store.fixed_temperature:
        if tried - {now}:
            raise ValueError(
                f"temperature is fixed at fit for store={spec.store.name!r} ({now:g}), "
                f"got {min(tried - {now}):g}"
            )
        return (now,)
    return tuple(sorted(tried or {*TEMPERATURES, now}))


def _maps(spec: Spec, columns: int, values: Any) -> tuple[SimplexMap, ...]:
    if spec.task != "classification":
        if values is not None:
            raise ValueError("probability_map is for classification")
        return (map_named("clip"),)
    # With "clip" alone, a single row can decide by its log-loss, up to -log(1e-6) = 14; the other
    # maps prevent that. The floors of two of them sum to 0.1 over all classes; with C > 100 classes
    # a map multiplies its floor by 100 / C itself.
    floor = f"{0.1 / min(columns, 100):.0e}"
    default = ("clip", f"clip:{floor}", f"project:{floor}", "keep", "keep:0.3")
    names = default if values is None else _listed(values, "probability_map")
    return tuple(dict.fromkeys(map_named(name) for name in names))


def _listed(values: Any, name: str) -> list[Any]:
    """Return one value or several as a list; None gives an empty list."""
    if values is None:
        return []
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        return [values]
    listed = list(values)
    if not listed:
        raise ValueError(f"{name} must have at least one value to try")
    return listed


def names_to_try(values: Any, now: str, name: str) -> tuple[Any, ...]:
    """Return the present name, followed by the other names to try."""
    listed = _listed(values, name)
    if not all(isinstance(value, str) for value in listed):
        raise TypeError(f"{name} must be a name or a list of names, got {values!r}")
    return tuple(dict.fromkeys((now, *listed)))
