"""The picture: predictions that the memory changed, and the training images that did it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from resmem._files.atomic import replacing

from .base import Floats, softmax
from .data import CLASSES, Split
from .results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CORRECTED, HARMED = 4, 2  # rows for corrected and for harmed images
SHOWN = 6  # training images in a row
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8C8C8C"


class Changes:
    """The test images whose class ResMem as published changed, and the neighbours that did so."""

    def __init__(self, result: Result) -> None:
        self.result, self.settings = result, result.tuned_model.tuned.published
        self.memory = result.tuned_model.memory.use(self.settings)

    def chances(self, i: int) -> tuple[NDArray[np.floating], NDArray[np.float64]]:
        """Return the probabilities of image i from the base model and from ResMem."""
        keys, logits = (part[i : i + 1] for part in self.result.outputs)
        return softmax(logits)[0], self.memory.predict_proba(keys, logits)[0]

    def movers(self, i: int, old: int, new: int) -> Iterator[tuple[int, float, float]]:
        """Yield the neighbours that pushed image i farthest: id, weight, push to the new class."""
        near = self.memory.explain(self.result.outputs.keys[i : i + 1], columns=[old, new])
        push = near.contributions[0, :, 1] - near.contributions[0, :, 0]
        for j in np.argsort(-push, kind="stable")[:SHOWN]:
            yield int(near.ids[0, j]), float(near.weights[0, j]), float(push[j])


def draw(path: Path, result: Result, train: Split, test: Split) -> bool:
    """Draw what the memory changed to a file; return False if there is no matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    changes = Changes(result)
    rows = [*result.examples["corrected"][:CORRECTED], *result.examples["harmed"][:HARMED]]
    height = 2 + 1.5 * len(rows)
    figure = Figure(figsize=(11, height), facecolor="white")
    figure.text(0.03, 1 - 0.3 / height, title(changes, len(test)), fontsize=14, va="top")
    figure.text(0.03, 1 - 0.62 / height, legend(changes), fontsize=9, va="top", color="#404040")
    grid = figure.add_gridspec(
        max(len(rows), 1),
        SHOWN + 2,
        width_ratios=[1, 1.75] + [1] * SHOWN,
        left=0.03,
        right=0.97,
        top=1 - 1.55 / height,
        bottom=0.4 / height,
        wspace=0.12,
        hspace=0.45,
    )
    for row, i in enumerate(rows):
        panels = [figure.add_subplot(grid[row, column]) for column in range(SHOWN + 2)]
        draw_row(panels, changes, i, train, test)
    with replacing(path) as raw:
        file = io.BufferedWriter(raw)  # because one call of `raw.write` may write only a part
        figure.savefig(file, dpi=120, format=path.suffix[1:].lower())
        file.flush()
    return True


def title(changes: Changes, images: int) -> str:
    """Return the title, with the numbers of corrected and harmed images."""
    method = changes.result.methods["ResMem as published"]
    model = changes.result.tuned_model.base.recipe.name
    return (
        f"ResMem as published over the {model} model corrected "
        f"{method.corrected} and harmed {method.harmed} of {images} test images"
    )


def legend(changes: Changes) -> str:
    """Return the text that says how to read a row."""
    return (
        f"Left: a test image. Right: of its {changes.settings.k} neighbours among the "
        f"training images, the {SHOWN} that moved the prediction most, with label, weight, and\n"
        "push from the base model's class towards ResMem's, in points of probability. Blue: "
        "labelled as ResMem says; orange: as the base model said; grey: neither.\n"
        "Shown are the corrected images whose true class gained most, and the harmed ones whose "
        "true class lost most."
    )


def draw_row(panels: list[Axes], changes: Changes, i: int, train: Split, test: Split) -> None:
    """Draw one test image, its predictions before and after, and the images that changed them."""
    before, after = changes.chances(i)
    old, new, label = int(before.argmax()), int(after.argmax()), int(test.labels[i])
    word, colour = ("corrected", BLUE) if new == label else ("harmed", ORANGE)
    image, words, *others = panels
    show(image, test.images[i], "black")
    words.set_axis_off()
    lines = (
        f"true: {CLASSES[label]}",
        f"base: {CLASSES[old]}, {before[old]:.0%}",
        f"ResMem: {CLASSES[new]}, {after[new]:.0%}",
    )
    words.text(0.02, 0.95, word, color=colour, weight="bold", fontsize=11, va="top")
    words.text(0.02, 0.7, "\n".join(lines), fontsize=10, linespacing=1.6, va="top")
    for panel, (j, weight, push) in zip(others, changes.movers(i, old, new), strict=False):
        frame = {new: BLUE, old: ORANGE}.get(int(train.labels[j]), GREY)
        show(panel, train.images[j], frame)
        panel.set_title(CLASSES[train.labels[j]], fontsize=9, color=frame, pad=3)
        panel.set_xlabel(f"{weight:.1%}   {100 * push:+.1f}", fontsize=9, labelpad=3)


def show(panel: Axes, image: Floats, frame: str) -> None:
    """Draw an image, dark on white, in a coloured frame."""
    panel.imshow(image, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set(color=frame, linewidth=2)
