"""The experiment: train a model, fit its memory, tune it on validation, and test once."""

from __future__ import annotations

import warnings

import numpy as np

import resmem

from .base import Base, Floats, Ints, Recipe, log_loss, softmax
from .data import Split
from .printer import Printer, Stopwatch
from .results import Fit, Result, TunedModel


def assess(logits: Floats, labels: Ints) -> Fit:
    """Return accuracy, log-loss and mean residual of the base model."""
    probabilities = softmax(logits)
    at_label = np.take_along_axis(probabilities, labels[:, None], axis=1)
    accuracy = float((logits.argmax(axis=1) == labels).mean())
    return Fit(accuracy, log_loss(probabilities, labels), float((1 - at_label).mean()))


def fit_and_tune(
    recipe: Recipe, train: Split, validation: Split, printer: Printer, device: str = "cpu"
) -> TunedModel:
    """Train a base model, fit its memory, and tune it on the validation images."""
    base = Base(recipe, train.images)
    with printer.stage("train"), printer.bar(recipe.name, recipe.epochs + 1) as tick:
        known, held_out = base.fit(train, validation, tick)
    memory = resmem.Memory(task="classification", output_kind="logits")
    with printer.stage("memory fit"):
        memory.fit(*known, train.labels).to(device)
    with printer.stage("tune"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the result's notes, which the demo prints, say the same
        tuned = memory.tune(*held_out, validation.labels)
    fits = assess(known.logits, train.labels), assess(held_out.logits, validation.labels)
    return TunedModel(base, memory, *fits, tuned)


def run_test(tuned_model: TunedModel, test: Split, printer: Printer) -> Result:
    """Score every method on the test images, and time the memory."""
    memory, tuned = tuned_model.memory, tuned_model.tuned
    with printer.stage("test"):
        outputs = tuned_model.base.outputs(tuned_model.base.inputs(test.images))
        with Stopwatch() as search:
            memory.kneighbors(outputs.keys, k=tuned.knn.k)
        memory.use(tuned.published)
        with Stopwatch() as correct:
            memory.correct(*outputs)
        tempered, published, best = (
            memory.use(settings).evaluate(*outputs, test.labels, knn=tuned)
            for settings in (tuned.base, tuned.published, tuned.best)
        )
    given = {method.kind: method for method in published.methods}
    chosen = "ResMem, tuned" if tuned.best.strength else "ResMem, switched off"
    methods = {
        "base": given["base"],
        f"base, T={tuned.base.temperature:g}": tempered.methods[-1],  # strength 0
        "kNN alone": given["neighbours"],
        "interpolation": given["interpolation"],
        "ResMem as published": published.methods[-1],
        chosen: best.methods[-1],
    }
    if tuned.base.temperature == 1:
        del methods["base, T=1"]
    rates = len(test) / search.seconds, len(test) / correct.seconds
    return Result(tuned_model, outputs, methods, published.examples, *rates)
