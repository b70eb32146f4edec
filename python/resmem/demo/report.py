"""What the demo prints: results on standard output, a progress bar on standard error."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

import resmem

if TYPE_CHECKING:
    from .data import Split
    from .experiment import Result, Score, Trial


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
        rows, width = trial.known.keys.shape
        megabytes = trial.memory.nbytes / 1e6
        print(f"  memory: {rows} rows, keys of {width} numbers, {megabytes:.1f} MB")
        share = trial.train.residual / trial.validation.residual
        print(
            "  It holds the residuals of images the model was trained on, "
            f"{share:.0%} of the size\n  of those on new images."
        )
        print("  validation log-loss of the settings chosen by it")
        alone = f"k={trial.alone.k}, sigma={trial.alone.sigma:.3g}"
        for name, choice, settings in (
            ("base", trial.tempered, f"T={trial.tempered.temperature:g}"),
            ("kNN alone", trial.alone, alone),
            ("ResMem, strength 1", trial.published, str(trial.published)),
            ("ResMem, any strength", trial.chosen, str(trial.chosen)),
        ):
            print(f"  {name:20s}  {choice.log_loss:8.4f}  {settings}")

    def table(self, results: list[Result], images: int) -> None:
        """Every method on the test images, and what the memory changed."""
        print(f"\nTest on {images} images, opened once, now")
        print("  model  method                accuracy  log-loss  corrected  harmed")
        for result in results:
            name = result.trial.base.recipe.name
            for s in result.scores:
                print(
                    f"  {name:5s}  {s.method:20s}  {s.accuracy:8.2%}  {s.log_loss:8.4f}  "
                    f"{s.corrected:9d}  {s.harmed:6d}"
                )
        print(
            "  corrected: the base model wrong and the method right; harmed: the reverse.\n"
            "  Strength 1 is ResMem as published. Its sum can leave [0, 1]: the log-loss of every\n"
            "  method is taken after clipping at 1e-6 and dividing by the total."
        )
        for result in results:
            for method in result.scores[1:]:
                if method.method.startswith("ResMem"):
                    print(f"  {result.trial.base.recipe.name} {verdict(result.scores[0], method)}")

    def throughput(self, results: list[Result]) -> None:
        """Queries per second."""
        print()
        for result in results:
            trial = result.trial
            print(
                f"{trial.base.recipe.name}: {result.search_rate:,.0f} queries/s searched "
                f"(k={trial.alone.k}), {result.correct_rate:,.0f} corrected "
                f"(k={trial.published.k}), {len(trial.memory)} rows"
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


def verdict(base: Score, method: Score) -> str:
    """Gain or harm of a method against the base model, in one line."""
    points = 100 * (method.accuracy - base.accuracy)
    changed = method.corrected + method.harmed
    errors = (method.corrected - method.harmed) / max(changed, 1) ** 0.5
    loss = method.log_loss - base.log_loss
    word = "worse" if loss > 0 else "better"
    return (
        f"{method.method}: accuracy {points:+.2f} points ({errors:+.1f} standard errors), "
        f"log-loss {abs(loss):.4f} {word}"
    )
