"""The methods that an evaluation compares, and their predictions for a block of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from resmem._base import checks
from resmem._base.arrays import F64, I64
from resmem._base.execution import Execution
from resmem._correction.correct import Corrector
from resmem._correction.correct import Method as SumOf
from resmem._correction.gate import OPEN
from resmem._correction.simplex import SimplexMap, map_named
from resmem._evaluation.rows import Block, GivenRows
from resmem._state.view import MemoryView

_PUBLISHED_MAP = map_named("clip")  # for the published sum, whatever map the memory has

_PUBLISHED_SHARE = 0.25  # of the neighbours' targets, in the paper on kNN-LM (ICLR 2020)


class Method(NamedTuple):
    """A method, and how it predicts."""

    kind: str  # as in MethodResult
    name: str
    predict: Callable[[BlockPredictions], F64]  # probabilities or values (b, C), a new array


class Judged(NamedTuple):
    """A memory at one moment, and which residuals it holds, as ``Memory.residuals``."""

    view: MemoryView
    residuals: str | None


class Weighting(NamedTuple):
    """How many neighbours count, and how their weights fall with their distance."""

    k: int
    sigma: float


class Mixture(NamedTuple):
    """How the neighbours' targets are mixed with the base (kNN-LM)."""

    temperature: float  # of the base
    share: float  # of the targets, "lambda"


class BlockPredictions:
    """The sums for a block of rows that several methods share, each computed once."""

    def __init__(
        self, corrector: Corrector, block: slice, rows: Block, execution: Execution
    ) -> None:
        self.corrector, self.block, self._rows, self.execution = corrector, block, rows, execution
        self._known: dict[tuple[str, Any], F64] = {}

    def base(self, temperature: float) -> F64:
        """Return the base model's predictions at this temperature; not to be changed."""

        def computed() -> F64:
            return self.corrector.spec.base(self._rows.outputs, temperature, self.execution)

        return self._once("base", temperature, computed)

    def mean(self, method: SumOf, weighting: Weighting) -> F64:
        """Return the weighted mean of the neighbours' residuals or targets; not to be changed."""

        def computed() -> F64:
            own = replace(
                self.corrector, k=weighting.k, sigma=weighting.sigma, method=method, gate=OPEN
            )
            return own.aggregate(*self._nearest(weighting.k), None, None, self.execution)

        return self._once(method, weighting, computed)

    def neighbours_alone(self, weighting: Weighting, simplex_map: SimplexMap) -> F64:
        """Return the mean of the neighbours' targets; rows without neighbours have the base."""
        values = self.mean("targets", weighting).copy()
        if self.corrector.spec.task == "classification":
            simplex_map.apply(values, None, 1.0, self.execution)
        values[self._lonely] = self.base(1.0)[self._lonely]
        return values

    def interpolation(self, weighting: Weighting, mixture: Mixture) -> F64:
        """Return the base and the neighbours' targets in this mixture."""
        base, share = self.base(mixture.temperature), mixture.share
        values: F64 = (1 - share) * base + share * self.mean("targets", weighting)
        values[self._lonely] = base[self._lonely]
        return values

    def published(self, weighting: Weighting) -> F64:
        """Return the base plus the whole mean residual, as probabilities or values."""
        mean = self.mean("residual", weighting)
        return self._published(mean, self.corrector.rows.temperature)

    def published_by(self, other: OtherMemory) -> F64:
        """Return the same sum with the residuals of another memory."""
        return self._published(other.mean(self.block, self.execution), other.temperature)

    def corrected(self) -> F64:
        """Return what the memory makes of the base with its own settings."""
        base = self.base(self.corrector.rows.temperature)
        return self.corrector.corrected(base, *self._nearest(self.corrector.k), self.execution)

    def _published(self, mean: F64, temperature: float) -> F64:
        base = self.base(temperature)
        values: F64 = base + mean
        if self.corrector.spec.task == "classification":
            _PUBLISHED_MAP.apply(values, base, 1.0, self.execution)
        return values

    @property
    def _lonely(self) -> I64:
        """The rows without neighbours."""
        return np.flatnonzero(self._rows.positions[:, 0] < 0)

    def _nearest(self, k: int) -> tuple[F64, I64]:
        distances = np.ascontiguousarray(self._rows.distances[:, :k])
        return distances, np.ascontiguousarray(self._rows.positions[:, :k])

    def _once(self, what: str, how: Any, computed: Callable[[], F64]) -> F64:
        if (what, how) not in self._known:
            self._known[what, how] = computed()
        return self._known[what, how]


class OtherMemory:
    """Another memory, whose residuals are summed as published too."""

    def __init__(self, judged: Judged, like: Corrector, weighting: Weighting) -> None:
        other = judged.view
        mine, its = ((c.spec.task, c.rows.columns) for c in (like, other.corrector))
        if mine != its:
            raise ValueError(
                f"published must be a memory for {mine[0]} with {mine[1]} output columns like this "
                f"one, got {its[0]} with {its[1]}"
            )
        for what, one, two in (
            ("classes", like.spec.label_names, other.spec.label_names),
            ("output_kind", like.spec.says_nothing, other.spec.says_nothing),
        ):
            if one != two:
                raise ValueError(
                    f"published must be a memory of the same {what} as this one; fit it with the "
                    f"{what} of this one"
                )
        if other.corrector.rows.d != like.rows.d:
            raise ValueError(
                f"published must be a memory of embeddings with {like.rows.d} columns like this "
                f"one, got one with {other.corrector.rows.d}"
            )
        if not other.spec.store.fixed_temperature:
            other = other.at_temperature(like.rows.temperature)
        self.temperature = other.corrector.rows.temperature
        self.name = published_name(judged.residuals)
        k = min(weighting.k, max(1, len(other.corrector.rows)))
        self._corrector = replace(
            other.corrector, k=k, sigma=weighting.sigma, method="residual", gate=OPEN
        )

    def search(self, rows: GivenRows) -> None:
        """Say which rows will be predicted; ``mean`` finds their neighbours."""
        self._queries = rows.queries_of(self._corrector)

    def mean(self, block: slice, execution: Execution) -> F64:
        """Return the weighted mean of the neighbours' residuals for a block of these rows."""
        found = self._queries.find(block, *self._queries.queries(block))
        return self._corrector.aggregate(*found, None, None, execution)


class Comparison:
    """The compared methods, with the settings and rows of a memory at one moment."""

    def __init__(
        self, judged: Judged, knn: Any, published: Judged | None, execution: Execution
    ) -> None:
        view = judged.view
        self.corrector: Corrector = view.corrector
        self.judged, self._execution = judged, execution
        sigma, self.temperature = self.corrector.sigma, self.corrector.rows.temperature
        neighbours, self._knn_map = _knn_settings(knn, view, sigma)
        summed = _published_settings(knn, view, sigma)
        mixed, self._mixture = _interpolation_settings(knn, view, sigma)
        self._own = Weighting(self.corrector.k, sigma)
        self._neighbours, self._published, self._mixed = map(
            self._limited, (neighbours, summed, mixed)
        )
        self._best_base = _base_temperature(knn, self.temperature)
        self.other = None
        if published is not None:
            self.other = OtherMemory(published, self.corrector, self._published)
        self.settings = {
            "k": view.k,
            "sigma_": sigma,
            "temperature": self.temperature,
            "strength": self.corrector.strength,
            "probability_map": view.map.name,
            "method": view.method,
            "gate": view.gate.name,
            **{f"knn_{name}": value for name, value in neighbours._asdict().items()},
            **{f"published_{name}": value for name, value in summed._asdict().items()},
            **{f"interpolation_{name}": value for name, value in mixed._asdict().items()},
            "interpolation_temperature": self._mixture.temperature,
            "interpolation_lambda": self._mixture.share,
        }
        self.methods = [*self._rivals(), *self._memory()]

    @property
    def most_neighbours(self) -> int:
        """The largest number of neighbours that a method needs."""
        every = (self._own, self._neighbours, self._published, self._mixed)
        return max(weighting.k for weighting in every)

    @property
    def is_interpolation(self) -> bool:
        """Whether the memory's own method is the interpolation that it is compared with."""
        own, mixture = self.corrector, Mixture(self.temperature, self.corrector.strength)
        same = (self._own, mixture) == (self._mixed, self._mixture)
        return same and own.method == "targets" and own.gate == OPEN

    def block(self, block: slice, rows: Block) -> BlockPredictions:
        """Return what the methods predict from."""
        return BlockPredictions(self.corrector, block, rows, self._execution)

    def _limited(self, weighting: Weighting) -> Weighting:
        return Weighting(min(weighting.k, max(1, len(self.corrector.rows))), weighting.sigma)

    def _rivals(self) -> Iterator[Method]:
        """Yield the methods that the memory should beat."""
        best, mixture = self._best_base, self._mixture
        yield Method("base", "base", lambda block: block.base(1.0).copy())
        if best != 1:
            yield Method(
                "own temperature", f"base, T={best:.4g}", lambda block: block.base(best).copy()
            )
        yield Method(
            "neighbours",
            "kNN alone",
            lambda block: block.neighbours_alone(self._neighbours, self._knn_map),
        )
        yield Method(
            "interpolation",
            f"interpolation, lambda {mixture.share:.4g}",
            lambda block: block.interpolation(self._mixed, mixture),
        )
        name = published_name(self.judged.residuals)
        yield Method("published", name, lambda block: block.published(self._published))
        if (other := self.other) is not None:
            again = other.name if other.name != name else f"{name}, other memory"
            yield Method("published elsewhere", again, lambda block: block.published_by(other))

    def _memory(self) -> Iterator[Method]:
        """Yield the memory with its own settings, unless it is the published sum."""
        own = self.corrector
        plain = own.map == _PUBLISHED_MAP or own.spec.task == "regression"
        as_published = plain and (own.strength, own.method, own.gate) == (1.0, "residual", OPEN)
        if as_published and self._own == self._published and self.other is None:
            return
        of_targets = own.method == "targets"
        name = f"ResMem{' by targets' if of_targets else ''}, strength {own.strength:.4g}"
        name += "" if plain or of_targets else f", {own.map.name}"
        name += "" if own.gate == OPEN else ", gated"
        yield Method("memory", name, BlockPredictions.corrected)


def published_name(residuals: str | None) -> str:
    """Return the name of the published sum, which is of in-sample residuals."""
    if residuals == "out-of-fold":
        return "published sum, out-of-fold residuals"
    return "ResMem as published"


# -------------------------------------------------------------------- settings


def _knn_settings(knn: Any, view: MemoryView, sigma: float) -> tuple[Weighting, SimplexMap]:
    """Return the weighting and the map for the neighbours alone, from what was given for ``knn``.

    They are the memory's own if what was given keeps keys in another way. The neighbours alone have
    no base, so that "clip" takes the place of "keep".
    """
    k, simplex_map = view.k, view.map
    if knn is not None:
        settings = getattr(knn, "knn", knn)
        if not (hasattr(settings, "k") and hasattr(settings, "sigma")):
            raise TypeError(
                "knn must be a TuneResult, Settings (with k and sigma) or None, "
                f"got {type(knn).__name__}"
            )
        of_knn = checks.count(settings.k, "k of knn")
        width = checks.positive(settings.sigma, "sigma of knn", infinite=True)
        named = map_named(getattr(settings, "probability_map", simplex_map.name))
        if _has_keys_of(settings, view):
            k, sigma, simplex_map = of_knn, width, named
    return Weighting(k, sigma), map_named("clip") if simplex_map.keeps_base else simplex_map


def _published_settings(knn: Any, view: MemoryView, sigma: float) -> Weighting:
    """Return the weighting for the method as published."""
    tuned = _tuned("published", knn, view)
    return Weighting(view.k, sigma) if tuned is None else Weighting(tuned.k, tuned.sigma)


def _interpolation_settings(knn: Any, view: MemoryView, sigma: float) -> tuple[Weighting, Mixture]:
    """Return the weighting of the neighbours' targets, and how they are mixed with the base.

    Without tuned ones, they are the memory's own, with its strength as their share. A strength
    that would leave only the base or only the targets gives way to the published share.
    """
    tuned = _tuned("interpolation", knn, view)
    if tuned is None:
        share = view.strength if 0 < view.strength < 1 else _PUBLISHED_SHARE
        return Weighting(view.k, sigma), Mixture(view.corrector.rows.temperature, share)
    return Weighting(tuned.k, tuned.sigma), Mixture(tuned.temperature, tuned.strength)


def _tuned(method: str, knn: Any, view: MemoryView) -> Any:
    """Return the settings that tuning found for a method; None if it found none, or if it kept
    keys in another way than the memory does."""
    tuned = getattr(knn, method, None)
    return tuned if tuned and _has_keys_of(tuned, view) else None


def _has_keys_of(settings: Any, view: MemoryView) -> bool:
    """Return whether settings keep keys as the memory does; those that do not say so do."""
    preprocess, key_dtype = view.spec.preprocess.name, view.spec.key_dtype
    kept = getattr(settings, "preprocess", preprocess), getattr(settings, "key_dtype", key_dtype)
    return kept == (preprocess, key_dtype)


def _base_temperature(knn: Any, temperature: float) -> float:
    """Return the temperature at which tuning found the base best, else the memory's."""
    tuned = getattr(knn, "base", None)
    return temperature if tuned is None else float(tuned.temperature)
