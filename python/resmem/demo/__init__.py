"""The demo: `python -m resmem demo`.

Two models are trained on the spot on a part of Fashion-MNIST, each is given a memory of its own
residuals, and base, neighbours alone and ResMem are shown side by side on images that nothing
was fitted to or chosen on.

`data.py` reads the images, `base.py` holds the two models, `experiment.py` runs everything from
training through `Memory.tune` to the test, `results.py` defines its results, `printer.py` prints
them and `picture.py` draws them.
"""

from __future__ import annotations

from pathlib import Path

from resmem._devices.choice import choose

from . import data
from .base import recipes
from .experiment import fit_and_tune, run_test
from .printer import Printer


def run(picture: Path | None = None, quick: bool = False, device: str = "cpu") -> None:
    """Run the demo and print its results; draw them to `picture` unless that is None.

    `quick` cuts data and training down to a few seconds, to check that everything works. `device`
    finds the neighbours.
    """
    choose(device, {})  # finds what is missing for it before anything is trained
    printer = Printer()
    printer.opening(device)
    with printer.stage("load"):
        train, validation = data.load("train", quick), data.load("validation", quick)
    printer.data(train, validation)
    tuned_models = []
    for recipe in recipes(quick):
        tuned_model = fit_and_tune(recipe, train, validation, printer, device)
        printer.model(tuned_model)
        tuned_models.append(tuned_model)
    with printer.stage("load"):
        test = data.load("test", quick)
    results = [run_test(tuned_model, test, printer) for tuned_model in tuned_models]
    printer.table(results, len(test))
    printer.throughput(results)
    if picture is not None:
        from .picture import draw

        with printer.stage("picture"):
            drawn = draw(picture, results[-1], train, test)
        printer.drawn(picture, drawn)
    printer.times()
