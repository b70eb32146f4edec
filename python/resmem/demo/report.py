"""What the demo prints: results on standard output, a progress bar on standard error."""

from __future__ import annotations

import os
import platform
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

import resmem

if TYPE_CHECKING:
    from resmem._scores.metrics import Interval

    from .data import Split
    from .results import Result, Trial


class Stopwatch:
    """Measures the seconds spent inside a `with` block."""

    seconds = 0.0

    def __enter__(self) -> Stopwatch:
        self._start = perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds = perf_counter() - self._start


class Report:
    """Prints the demo's results, and keeps its time stage by stage."""

    def __init__(self) -> None:
        self.start = perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside the block to the stage's time."""
        with Stopwatch() as watch:
            yield
        self.seconds[name] = self.seconds.get(name, 0.0) + watch.seconds

    @contextmanager
    def bar(self, label: str, total: int, width: int = 30) -> Iterator[Callable[[], None]]:
        """A progress bar, moved on by each call; shown only on a terminal."""
        shown = sys.stderr.isatty()
        done = -1

        def tick() -> None:
            nonlocal done
            done += 1
            if shown:
                filled = width * done // total
                line = f"\r{label}: training [{'#' * filled}{'.' * (width - filled)}]"
                print(line, end="", file=sys.stderr, flush=True)

        tick()
        try:
            yield tick
        finally:
            if shown:
                print("\r\033[K", end="", file=sys.stderr, flush=True)

    def opening(self) -> None:
        """Say what is about to happen, and with which versions."""
        print("Residual memories over two models of clothes, trained here and now (Fashion-MNIST)")
        print(
            f"resmem {resmem.__version__}, NumPy {np.__version__}, "
            f"Python {platform.python_version()}, {platform.machine()}, "
            f"{len(os.sched_getaffinity(0))} cores"
        )

    def data(self, train: Split, validation: Split) -> None:
        """The data that training and tuning see."""
        print(
            f"{len(train)} images to train on, {len(validation)} to choose settings by "
            "(validation);\nthe test images stay closed until every choice is made"
        )

    def model(self, trial: Trial) -> None:
        """A trained model, its memory and the settings chosen for it."""
        base = trial.base
        print(f"\n{base.recipe.name}: {base.recipe.description}, {base.recipe.hidden} hidden units")
        print(f"  epoch {base.best_epoch} of {base.recipe.epochs}, the best on validation")
        print("              accuracy  log-loss  mean residual, 1 - p(label)")
        for name, fit in (("training", trial.train), ("validation", trial.validation)):
            print(f"  {name:10s}  {fit.accuracy:8.2%}  {fit.log_loss:8.4f}  {fit.residual:8.4f}")
        memory = trial.memory
        print(
            f"  memory: {len(memory)} rows, keys of {base.recipe.hidden} numbers, "
            f"{memory.nbytes / 1e6:.1f} MB. It holds the residuals of the very\n"
            "  images that the model was trained on, to show what this costs."
        )
        for line in repr(trial.tuned).splitlines():
            print(textwrap.fill(line, 112, initial_indent="  ", subsequent_indent="      "))

    def table(self, results: list[Result], images: int) -> None:
        """Every method on the test images, and what the memory changed."""
        print(f"\nTest on {images} images, opened once, now")
        print("  model  method                accuracy  log-loss  corrected  harmed")
        for result in results:
            model = result.trial.base.recipe.name
            for name, method in result.methods.items():
                scores = method.scores
                print(
                    f"  {model:5s}  {name:20s}  {scores['accuracy']:8.2%}  "
                    f"{scores['log_loss']:8.4f}  {method.corrected:9d}  {method.harmed:6d}"
                )
        print(
            "  corrected: the base model wrong and the method right; harmed: the reverse.\n"
            "  As published: strength 1, k, sigma and temperature tuned; the sum can leave [0, 1]\n"
            "  and is clipped. Tuned: the strength and the map to probabilities as well.\n"
            "  Gain over the base model in log-loss, per image, with 95 % confidence:"
        )
        for result in results:
            for name, method in result.methods.items():
                if method.gain is not None:
                    said = verdict(method.gain)
                    print(f"  {result.trial.base.recipe.name:5s}  {name:20s}  {said}")

    def throughput(self, results: list[Result]) -> None:
        """Queries per second."""
        print()
        for result in results:
            trial = result.trial
            print(
                f"{trial.base.recipe.name}: {result.search_rate:,.0f} queries/s searched "
                f"(k={trial.tuned.knn.k}), {result.correct_rate:,.0f} corrected "
                f"(k={trial.tuned.published.k}), {len(trial.memory)} rows"
            )

    def drawn(self, path: Path, drawn: bool) -> None:
        """Where the picture is, or how to get one."""
        if drawn:
            print(f"Picture: {path}")
        else:
            print("No picture, for want of matplotlib: pip install matplotlib")

    def times(self) -> None:
        """Seconds per stage."""
        stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds.items())
        print(f"Seconds: {stages}; {perf_counter() - self.start:.1f} in all")


def verdict(gain: Interval) -> str:
    """A gain, and whether it is clear of 0."""
    word = "better" if gain.low > 0 else "worse" if gain.high < 0 else "not clear of 0"
    return f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]  {word}"
