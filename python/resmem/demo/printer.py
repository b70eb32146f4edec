"""What the demo prints: results on standard output, a progress bar on standard error."""

from __future__ import annotations

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
from resmem._base.platform import usable_cpus

if TYPE_CHECKING:
    from resmem._scores.intervals import Interval

    from .data import Split
    from .results import Result, TunedModel


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


class Printer:
    """Prints the demo's results, and measures the time of each stage."""

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
        """Yield a function that moves a progress bar by one step; it is drawn on terminals only."""
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

    def opening(self, device: str) -> None:
        """Print what the demo does, and the versions and the device it runs with."""
        print("Residual memories over two models of clothes, trained here and now (Fashion-MNIST)")
        print(
            f"resmem {resmem.__version__}, NumPy {np.__version__}, "
            f"Python {platform.python_version()}, {platform.machine()}, "
            f"{usable_cpus()} cores" + ("" if device == "cpu" else f", neighbours on {device}")
        )

    def data(self, train: Split, validation: Split) -> None:
        """Print the sizes of the data for training and tuning."""
        print(
            f"{len(train)} images to train on, {len(validation)} to choose settings by "
            "(validation);\nthe test images stay closed until every choice is made"
        )

    def model(self, tuned_model: TunedModel) -> None:
        """Print a trained model, its memory and the settings chosen for it."""
        base = tuned_model.base
        print(f"\n{base.recipe.name}: {base.recipe.description}, {base.recipe.hidden} hidden units")
        print(f"  epoch {base.best_epoch} of {base.recipe.epochs}, the best on validation")
        print("              accuracy  log-loss  mean residual, 1 - p(label)")
        for name, fit in (("training", tuned_model.train), ("validation", tuned_model.validation)):
            print(f"  {name:10s}  {fit.accuracy:8.2%}  {fit.log_loss:8.4f}  {fit.residual:8.4f}")
        memory = tuned_model.memory
        print(
            f"  memory: {len(memory)} rows, keys of {base.recipe.hidden} numbers, "
            f"{memory.nbytes / 1e6:.1f} MB. It holds the residuals of the very\n"
            "  images that the model was trained on, to show what this costs."
        )
        for line in repr(tuned_model.tuned).splitlines():
            print(textwrap.fill(line, 112, initial_indent="  ", subsequent_indent="      "))

    def table(self, results: list[Result], images: int) -> None:
        """Print the scores of every method on the test images, and what the memory changed."""
        print(f"\nTest on {images} images, opened once, now")
        print("  model  method                accuracy  log-loss  corrected  harmed")
        for result in results:
            model = result.tuned_model.base.recipe.name
            for name, method in result.methods.items():
                scores = method.scores
                print(
                    f"  {model:5s}  {name:20s}  {scores['accuracy']:8.2%}  "
                    f"{scores['log_loss']:8.4f}  {method.corrected:9d}  {method.harmed:6d}"
                )
        print(
            "  corrected: the base model wrong and the method right; harmed: the reverse.\n"
            "  Interpolation: the base model and a share of kNN alone (kNN-LM).\n"
            "  As published: strength 1, k, sigma and temperature tuned; the sum can leave [0, 1]\n"
            "  and is clipped. Tuned: the strength and the map to probabilities as well.\n"
            "  Gain over the base model in log-loss, per image, with 95 % confidence:"
        )
        for result in results:
            for name, method in result.methods.items():
                if method.gain is not None:
                    said = verdict(method.gain)
                    print(f"  {result.tuned_model.base.recipe.name:5s}  {name:20s}  {said}")

    def throughput(self, results: list[Result]) -> None:
        """Print the queries per second."""
        print()
        for result in results:
            tuned_model = result.tuned_model
            print(
                f"{tuned_model.base.recipe.name}: {result.search_rate:,.0f} queries/s searched "
                f"(k={tuned_model.tuned.knn.k}), {result.correct_rate:,.0f} corrected "
                f"(k={tuned_model.tuned.published.k}), {len(tuned_model.memory)} rows"
            )

    def drawn(self, path: Path, drawn: bool) -> None:
        """Print where the picture is, or how to get one."""
        if drawn:
            print(f"Picture: {path}")
        else:
            print("No picture, for want of matplotlib: pip install matplotlib")

    def times(self) -> None:
        """Print the seconds of each stage."""
        stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds.items())
        print(f"Seconds: {stages}; {perf_counter() - self.start:.1f} in all")


def verdict(gain: Interval) -> str:
    """Return a gain as text, with whether it is clear of 0."""
    word = "better" if gain.low > 0 else "worse" if gain.high < 0 else "not clear of 0"
    return f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]  {word}"
