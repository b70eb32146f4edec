"""The demo: `python -m resmem demo`.

Two models are trained on the spot on a part of Fashion-MNIST, each is given a memory of its own
residuals, and base, neighbours alone and ResMem are shown side by side on images that nothing
was fitted to or chosen on.

`data.py` reads the images, `base.py` holds the two models, `experiment.py` is the run from
training through `Memory.tune` to the test, `results.py` what it finds, `report.py` says what came
of it and `picture.py` draws it.
"""

from __future__ import annotations

from pathlib import Path

from . import data
from .base import recipes
from .experiment import fit_and_tune, run_test
from .report import Report


def run(picture: Path | None = None, quick: bool = False) -> None:
    """Run the demo and print its report; draw it to `picture` unless that is None.

    `quick` cuts the data and the training down to a few seconds, to see that it all works.
    """
    report = Report()
    report.opening()
    with report.stage("load"):
        train, validation = data.load("train", quick), data.load("validation", quick)
    report.data(train, validation)
    trials = []
    for recipe in recipes(quick):
        trial = fit_and_tune(recipe, train, validation, report)
        report.model(trial)
        trials.append(trial)
    with report.stage("load"):
        test = data.load("test", quick)
    results = [run_test(trial, test, report) for trial in trials]
    report.table(results, len(test))
    report.throughput(results)
    if picture is not None:
        from .picture import draw

        with report.stage("picture"):
            drawn = draw(picture, results[-1], train, test)
        report.drawn(picture, drawn)
    report.times()
