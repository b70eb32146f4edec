"""Choosing k, sigma, the temperature and the strength by log-loss on validation images.

One search at the largest k serves every candidate. These sums only rank the candidates; the
figures that are reported come from the memory itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .base import Floats, Ints, log_loss, one_hot, softmax, to_simplex

KS = (5, 10, 20, 50, 100, 200)
SIGMA_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # times the memory's own sigma="auto"
TEMPERATURES = (0.7, 1.0, 1.4, 2.0)
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Choice:
    """Settings of a memory, and their log-loss on the validation images."""

    k: int
    sigma: float
    temperature: float
    strength: float
    log_loss: float

    @property
    def name(self) -> str:
        """What the tables call a memory with these settings."""
        return f"ResMem, strength {self.strength:g}"

    def __str__(self) -> str:
        return (
            f"k={self.k}, sigma={self.sigma:.3g}, T={self.temperature:g}, "
            f"strength={self.strength:g}"
        )


@dataclass(frozen=True)
class Neighbours:
    """The neighbours of the validation images among the training images."""

    distances: NDArray[np.float64]
    ids: Ints

    def weights(self, k: int, sigma: float) -> Floats:
        """Weights of the k nearest, (q, k), each row summing to one."""
        near = self.distances[:, :k]
        exps = np.exp((near[:, :1] - near) / sigma)
        weights: Floats = (exps / exps.sum(axis=1, keepdims=True)).astype(np.float32)
        return weights

    def average(self, gathered: Floats, k: int, sigma: float) -> Floats:
        """Weighted averages over the k nearest of the neighbours' rows, (q, C)."""
        weights = self.weights(k, sigma)
        average: Floats = (weights[:, None, :] @ gathered[:, :k])[:, 0]
        return average

    def averages(self, rows: Floats, sigma: float) -> Iterator[tuple[int, float, Floats]]:
        """The averages of every candidate k and sigma, out of one row per training image."""
        gathered = rows[self.ids]
        for k in KS:
            for factor in SIGMA_FACTORS:
                yield k, factor * sigma, self.average(gathered, k, factor * sigma)


def tune_memory(
    near: Neighbours, sigma: float, train: tuple[Floats, Ints], held_out: tuple[Floats, Ints]
) -> dict[float, Choice]:
    """The best settings at each strength, from the two splits' (logits, labels)."""
    best: dict[float, Choice] = {}
    for temperature in TEMPERATURES:
        base = softmax(held_out[0], temperature)
        residuals = one_hot(train[1]) - softmax(train[0], temperature)
        for k, width, correction in near.averages(residuals, sigma):
            for strength in STRENGTHS:
                corrected = to_simplex(base + np.float32(strength) * correction)
                loss = log_loss(corrected, held_out[1])
                if strength not in best or loss < best[strength].log_loss:
                    best[strength] = Choice(k, width, temperature, strength, loss)
    return best


def tune_neighbours(
    near: Neighbours, sigma: float, train: tuple[Floats, Ints], held_out: tuple[Floats, Ints]
) -> Choice:
    """The best k and sigma for the neighbours' labels alone."""
    choices = [
        Choice(k, width, 1.0, 1.0, log_loss(to_simplex(votes), held_out[1]))
        for k, width, votes in near.averages(one_hot(train[1]), sigma)
    ]
    return min(choices, key=lambda c: c.log_loss)
