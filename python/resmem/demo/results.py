"""What a run of the demo finds: a model, its memory, and how both did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import resmem

from .base import Base, Outputs

if TYPE_CHECKING:
    from resmem._evaluation.evaluate import MethodResult


@dataclass(frozen=True)
class Fit:
    """How well the trained model knows one split."""

    accuracy: float
    log_loss: float
    residual: float  # mean of 1 - p(label): what the memory stores, or would have to supply


@dataclass(frozen=True)
class Trial:
    """A trained base model, its memory, and what tuning on the validation images found."""

    base: Base
    memory: resmem.Memory
    train: Fit
    validation: Fit
    tuned: resmem.TuneResult


@dataclass(frozen=True)
class Result:
    """One base model's test."""

    trial: Trial
    outputs: Outputs
    methods: dict[str, MethodResult]  # by name, the base model first
    examples: dict[str, list[int]]  # images that ResMem as published changed most
    search_rate: float  # queries per second
    correct_rate: float
