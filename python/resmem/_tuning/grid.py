"""Settings of a memory, and which of them tuning tries."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from resmem._base import checks
from resmem._base.arrays import F64
from resmem._correction.simplex import SimplexMap, map_named
from resmem._keys.stored import KeyDtype
from resmem._rows.spec import Spec
from resmem._state.settings import Settings

KS = (1, 2, 4, 8, 16, 32, 64, 128)
SIGMAS = (*np.geomspace(0.01, 2, 11).tolist(), math.inf)  # times the median distance of the last k
TEMPERATURES = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
STRENGTHS = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Grid:
    """The values that are tried of every setting: all combinations of them."""

    ks: tuple[int, ...]
    sigmas: tuple[float, ...]  # ``None`` came: times a distance that is not known yet
    relative: bool
    temperatures: tuple[float, ...]
    strengths: tuple[float, ...]
    maps: tuple[SimplexMap, ...]

    def scaled(self, distances: F64) -> Grid:
        """With sigmas that are no longer relative, given the neighbours' distances (q, k)."""
        if not self.relative:
            return self
        last = np.where(np.isfinite(distances), distances, -1.0).max(axis=1, initial=-1.0)
        last = last[last > 0]
        unit = float(np.median(last)) if len(last) else 1.0
        return replace(self, sigmas=tuple(unit * s for s in self.sigmas), relative=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """(temperatures, ks, sigmas, strengths, maps)."""
        return tuple(map(len, self._axes()))

    def settings(self, preprocess: str, key_dtype: KeyDtype) -> list[Settings]:
        """All combinations, in C order of ``shape``."""
        return [
            Settings(k, sigma, temperature, strength, to.name, preprocess, key_dtype)
            for temperature, k, sigma, strength, to in product(*self._axes())
        ]

    def _axes(self) -> tuple[tuple[Any, ...], ...]:
        return self.temperatures, self.ks, self.sigmas, self.strengths, self.maps


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
) -> Grid:
    """The values asked for, checked; None: the defaults. ``rows``: how many a query can have."""
    ks = sorted({min(checks.count(v, "k"), rows) for v in _listed(KS if k is None else k, "k")})
    sigmas = sorted({checks.positive(v, "sigma", infinite=True) for v in _listed(sigma, "sigma")})
    strengths = {checks.finite(v, "strength") for v in _listed(strength, "strength")}
    return Grid(
        tuple(ks),
        tuple(sigmas) if sigma is not None else SIGMAS,
        sigma is None,
        _temperatures(spec, temperature, temperature_now),
        tuple(sorted(strengths | ({0.0, 1.0} if strength is not None else set(STRENGTHS)))),
        _maps(spec, columns, probability_map),
    )


def _temperatures(spec: Spec, asked: Any, now: float) -> tuple[float, ...]:
    tried = {checks.positive(v, "temperature") for v in _listed(asked, "temperature")}
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


def _maps(spec: Spec, columns: int, asked: Any) -> tuple[SimplexMap, ...]:
    if spec.task != "classification":
        if asked is not None:
            raise ValueError("probability_map is for classification")
        return (map_named("clip"),)
    # All but the first keep single rows from deciding: -log(1e-6) is 14. The floors of two of them
    # are 0.1 in all: from 100 classes on, a map divides what it is told by their number.
    floor = f"{0.1 / min(columns, 100):.0e}"
    usual = ("clip", f"clip:{floor}", f"project:{floor}", "keep", "keep:0.3")
    named = usual if asked is None else _listed(asked, "probability_map")
    return tuple(dict.fromkeys(map_named(name) for name in named))


def _listed(values: Any, name: str) -> list[Any]:
    """One value or several as a list; none of None."""
    if values is None:
        return []
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        return [values]
    listed = list(values)
    if not listed:
        raise ValueError(f"{name} must have at least one value to try")
    return listed


def choices(values: Any, now: str, name: str) -> tuple[Any, ...]:
    """What is there now, and the other names to be tried."""
    listed = _listed(values, name)
    if not all(isinstance(value, str) for value in listed):
        raise TypeError(f"{name} must be a name or a list of names, got {values!r}")
    return tuple(dict.fromkeys((now, *listed)))
