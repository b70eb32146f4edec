"""The results of a run of the demo: models, their memories, and their scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import resmem

from .base import Base, Outputs

if TYPE_CHECKING:
    from resmem._evaluation.result import MethodResult


@dataclass(frozen=True)
class Fit:
    """The scores of a trained model on one split."""

    accuracy: float
    log_loss: float
    residual: float  # mean of 1 - p(label), the residual of the true class


@dataclass(frozen=True)
class TunedModel:
    """A trained base model, its memory, and what tuning on the validation images found."""

    base: Base
    memory: resmem.Memory
    train: Fit
    validation: Fit
    tuned: resmem.TuneResult


@dataclass(frozen=True)
class Result:
    """The test results of one base model and its memory."""

    tuned_model: TunedModel
    outputs: Outputs
    methods: dict[str, MethodResult]  # by name, the base model first
    examples: dict[str, list[int]]  # images that ResMem as published changed most
    search_rate: float  # queries searched per second
    correct_rate: float  # queries corrected per second
