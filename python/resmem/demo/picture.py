"""The picture: predictions that the memory changed, and the training images that did it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .base import Floats, Ints, one_hot, softmax
from .data import CLASSES, Split
from .experiment import Result
from .tuning import Neighbours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CORRECTED, HARMED, SHOWN = 4, 2, 6  # rows of either kind, training images in a row
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8C8C8C"


class Changes:
    """The test images whose class ResMem, at strength 1, changed, and what changed it."""

    def __init__(self, result: Result, labels: Ints) -> None:
        self.trial, self.keys = result.trial, result.outputs.keys
        scores = {score.method: score.probabilities for score in result.scores}
        self.before, self.after = scores["base"], scores[self.trial.published.name]
        self.old, self.new = self.before.argmax(axis=1), self.after.argmax(axis=1)
        change = np.take_along_axis(self.after - self.before, labels[:, None], axis=1)[:, 0]
        order = np.argsort(-np.abs(change), kind="stable")
        was_right, is_right = self.old[order] == labels[order], self.new[order] == labels[order]
        self.corrected = order[~was_right & is_right]
        self.harmed = order[was_right & ~is_right]

    def movers(self, i: int) -> Iterator[tuple[int, float, float]]:
        """The neighbours that moved image i most: id, weight, and push to the new class."""
        choice = self.trial.published
        near = Neighbours(*self.trial.memory.kneighbors(self.keys[i : i + 1], k=choice.k))
        ids, weights = near.ids[0], near.weights(choice.k, choice.sigma)[0]
        base = softmax(self.trial.known.logits[ids], choice.temperature)
        residuals = one_hot(self.trial.labels[ids]) - base
        push = weights * (residuals[:, self.new[i]] - residuals[:, self.old[i]])
        for j in np.argsort(-push, kind="stable")[:SHOWN]:
            yield int(ids[j]), float(weights[j]), float(push[j])


def draw(path: Path, result: Result, train: Split, test: Split) -> bool:
    """Draw what the memory changed to a file; False, and nothing drawn, without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    changes = Changes(result, test.labels)
    rows = [*changes.corrected[:CORRECTED], *changes.harmed[:HARMED]]
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
        draw_row(panels, changes, int(i), train, test)
    figure.savefig(path, dpi=120)
    return True


def title(changes: Changes, images: int) -> str:
    """What the picture shows, with both counts."""
    return (
        f"ResMem over the {changes.trial.base.recipe.name} model corrected "
        f"{len(changes.corrected)} and harmed {len(changes.harmed)} of {images} test images"
    )


def legend(changes: Changes) -> str:
    """How to read a row."""
    return (
        f"Left: a test image. Right: of its {changes.trial.published.k} neighbours among the "
        f"training images, the {SHOWN} that moved the prediction most, with label, weight, and\n"
        "push from the base model's class towards ResMem's, in points of probability. Blue: "
        "labelled as ResMem says; orange: as the base model said; grey: neither.\n"
        "Shown are the corrected images whose true class gained most, and the harmed ones whose "
        "true class lost most."
    )


def draw_row(panels: list[Axes], changes: Changes, i: int, train: Split, test: Split) -> None:
    """One test image, what was said of it before and after, and what changed it."""
    old, new, label = int(changes.old[i]), int(changes.new[i]), int(test.labels[i])
    word, colour = ("corrected", BLUE) if new == label else ("harmed", ORANGE)
    image, words, *others = panels
    show(image, test.images[i], "black")
    words.set_axis_off()
    lines = (
        f"true: {CLASSES[label]}",
        f"base: {CLASSES[old]}, {changes.before[i, old]:.0%}",
        f"ResMem: {CLASSES[new]}, {changes.after[i, new]:.0%}",
    )
    words.text(0.02, 0.95, word, color=colour, weight="bold", fontsize=11, va="top")
    words.text(0.02, 0.7, "\n".join(lines), fontsize=10, linespacing=1.6, va="top")
    for panel, (j, weight, push) in zip(others, changes.movers(i), strict=False):
        frame = {new: BLUE, old: ORANGE}.get(int(train.labels[j]), GREY)
        show(panel, train.images[j], frame)
        panel.set_title(CLASSES[train.labels[j]], fontsize=9, color=frame, pad=3)
        panel.set_xlabel(f"{weight:.1%}   {100 * push:+.1f}", fontsize=9, labelpad=3)


def show(panel: Axes, image: Floats, frame: str) -> None:
    """An image, dark on white, in a coloured frame."""
    panel.imshow(image, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set(color=frame, linewidth=2)
