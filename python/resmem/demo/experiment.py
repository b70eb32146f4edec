"""The run itself: train, remember, choose on validation, and test once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

import resmem

from .base import Base, Floats, Ints, Outputs, Recipe, log_loss, one_hot, softmax, to_simplex
from .data import Split
from .report import Report, Stopwatch
from .tuning import KS, Choice, Neighbours, tune_memory, tune_neighbours

Probabilities = NDArray[np.floating]


@dataclass(frozen=True)
class Fit:
    """How well the trained model knows one split."""

    accuracy: float
    log_loss: float
    residual: float  # mean of 1 - p(label): what the memory stores, or would have to supply


@dataclass(frozen=True)
class Trial:
    """A trained base model, its memory, and the settings chosen on the validation images."""

    base: Base
    memory: resmem.Memory
    known: Outputs  # of the training images: what the memory was fitted to
    labels: Ints
    train: Fit
    validation: Fit
    published: Choice  # at strength 1
    chosen: Choice  # at any strength
    tempered: Choice  # at strength 0: the base model at its best temperature
    alone: Choice  # the neighbours' labels without the base model


@dataclass(frozen=True)
class Score:
    """One method on the test images."""

    method: str
    probabilities: Probabilities
    accuracy: float
    log_loss: float
    corrected: int  # the base model wrong, this method right
    harmed: int  # the base model right, this method wrong


@dataclass(frozen=True)
class Result:
    """One base model's test."""

    trial: Trial
    outputs: Outputs
    scores: list[Score]
    search_rate: float  # queries per second
    correct_rate: float


def assess(logits: Floats, labels: Ints) -> Fit:
    """Accuracy, log-loss and mean residual of the base model."""
    probabilities = to_simplex(softmax(logits))
    at_label = np.take_along_axis(probabilities, labels[:, None], axis=1)
    accuracy = float((logits.argmax(axis=1) == labels).mean())
    return Fit(accuracy, log_loss(probabilities, labels), float((1 - at_label).mean()))


def settle(memory: resmem.Memory, choice: Choice) -> None:
    """Set a memory to a choice."""
    memory.k, memory.sigma = choice.k, choice.sigma
    memory.temperature, memory.strength = choice.temperature, choice.strength


def confirm(memory: resmem.Memory, choice: Choice, held_out: Outputs, labels: Ints) -> Choice:
    """The choice with the log-loss that the memory itself gives it."""
    settle(memory, choice)
    return replace(choice, log_loss=log_loss(memory.predict_proba(*held_out), labels))


def fit_and_tune(recipe: Recipe, train: Split, validation: Split, report: Report) -> Trial:
    """Train a base model, fit its memory, and choose the settings on the validation images."""
    base = Base(recipe, train.images)
    with report.stage("train"), report.bar(recipe.name, recipe.epochs + 1) as tick:
        known, held_out = base.fit(train, validation, tick)
    memory = resmem.Memory(task="classification", output_kind="logits")
    with report.stage("memory fit"):
        memory.fit(known.keys, known.logits, train.labels)
    with report.stage("tune"):
        near = Neighbours(*memory.kneighbors(held_out.keys, k=max(KS)))
        pair = (known.logits, train.labels), (held_out.logits, validation.labels)
        by_strength = tune_memory(near, memory.sigma_, *pair)
        alone = tune_neighbours(near, memory.sigma_, *pair)
        published, chosen = (
            confirm(memory, choice, held_out, validation.labels)
            for choice in (
                by_strength[1.0],
                min(by_strength.values(), key=lambda choice: choice.log_loss),
            )
        )
    return Trial(
        base=base,
        memory=memory,
        known=known,
        labels=train.labels,
        train=assess(*pair[0]),
        validation=assess(*pair[1]),
        published=published,
        chosen=chosen,
        tempered=by_strength[0.0],
        alone=alone,
    )


def run_test(trial: Trial, test: Split, report: Report) -> Result:
    """Score every method on the test images, and time the memory."""
    with report.stage("test"):
        outputs = trial.base.outputs(trial.base.inputs(test.images))
        reference = outputs.logits.argmax(axis=1) == test.labels
        with Stopwatch() as search:
            near = Neighbours(*trial.memory.kneighbors(outputs.keys, k=trial.alone.k))
        settle(trial.memory, trial.published)
        with Stopwatch() as correct:
            trial.memory.correct(*outputs)
        scores = [
            score(method, probabilities, test.labels, reference)
            for method, probabilities in methods(trial, outputs, near)
        ]
    rates = len(test) / search.seconds, len(test) / correct.seconds
    return Result(trial, outputs, scores, *rates)


def methods(
    trial: Trial, outputs: Outputs, near: Neighbours
) -> Iterator[tuple[str, Probabilities]]:
    """Name and probabilities of each method that is compared, the base model first."""
    for temperature in dict.fromkeys((1.0, trial.tempered.temperature)):
        name = "base" if temperature == 1 else f"base, T={temperature:g}"
        yield name, to_simplex(softmax(outputs.logits, temperature))
    votes = near.average(one_hot(trial.labels)[near.ids], trial.alone.k, trial.alone.sigma)
    yield "kNN alone", to_simplex(votes)
    for choice in dict.fromkeys((trial.published, trial.chosen)):
        settle(trial.memory, choice)
        yield choice.name, trial.memory.predict_proba(*outputs)


def score(
    method: str, probabilities: Probabilities, labels: Ints, reference: NDArray[np.bool_]
) -> Score:
    """Accuracy and log-loss, and the images won and lost against the base model."""
    right = probabilities.argmax(axis=1) == labels
    return Score(
        method,
        probabilities,
        accuracy=float(right.mean()),
        log_loss=log_loss(probabilities, labels),
        corrected=int((right & ~reference).sum()),
        harmed=int((~right & reference).sum()),
    )
