"""Draw the picture of README.md: how a memory corrects one prediction.

``python benchmarks/draw_readme.py`` trains the base model of README.md's example on the images that
the package carries, asks a memory of five neighbours for one test image, and writes
``benchmarks/correction.png``. Every bar is a number that resmem computed. The image was picked by
hand, from those that the memory corrects, because its neighbours are easy to tell apart by eye.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

import resmem
from resmem.demo import data

IMAGE = 3277  # the number of the test image
NEIGHBOURS = 5
SETTINGS = {"k": NEIGHBOURS, "sigma": 0.5, "temperature": 2.8}
OUTPUT = Path(__file__).parent / "correction.png"

WIDTH, HEIGHT, DPI = 12.0, 5.0, 125  # inches, inches, pixels per inch
BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#9A9A9A", "#222222"

Span = tuple[float, float]  # from where to where, as a fraction of the picture's width or height

BASE: Span = (0.086, 0.191)
BOX: Span = (0.222, 0.806)
TERMS: list[Span] = [(0.237 + 0.092 * j, 0.237 + 0.092 * j + 0.070) for j in range(NEIGHBOURS)]
SUM: Span = (0.711, 0.791)
CORRECTED: Span = (0.851, 0.956)
IMAGES: Span = (0.66, 0.83)
BARS: Span = (0.125, 0.585)
HEADS: Span = (0.935, 0.875)  # the heights of the two lines above each column
FOOT = 0.075  # the height of the weights

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Correction:
    """One test image, its neighbours, and every term of its corrected prediction."""

    image: Array
    true_class: int
    base: Array  # (C,)
    neighbour_images: list[Array]
    neighbour_classes: list[int]
    weights: Array  # (k,), they sum to 1
    residuals: Array  # (k, C)
    correction: Array  # (C,)
    corrected: Array  # (C,)

    @property
    def base_class(self) -> int:
        """The class that the base model predicts."""
        return int(self.base.argmax())

    def colours(self) -> list[str]:
        """Of each class: blue is the true one, orange the one that the base model predicts."""
        special = {self.true_class: BLUE, self.base_class: ORANGE}
        return [special.get(c, GREY) for c in range(len(self.base))]


# ---------------------------------------------------------------------- numbers


def compute(number: int) -> Correction:
    """Train the base model, fit the memory, and take one prediction apart."""
    train, test = data.load("train"), data.load("test")
    pixels = train.images.reshape(-1, 784)
    means = np.stack([pixels[train.labels == c].mean(axis=0) for c in range(10)])
    spread = np.cov((pixels - means[train.labels]).T) + 0.03 * np.eye(784)
    slopes = np.linalg.solve(spread, means.T)
    offsets = (means * slopes.T).sum(axis=1) / 2
    memory = resmem.Memory(**SETTINGS).fit(pixels, pixels @ slopes - offsets, train.labels)

    query = test.images[number : number + 1].reshape(-1, 784)
    terms = memory.explain(query, query @ slopes - offsets, columns=np.arange(10))[0]
    base, corrected, truth = terms.base[0], terms.corrected[0], int(test.labels[number])
    if base.argmax() == truth or corrected.argmax() != truth:
        raise SystemExit(f"The memory does not correct image {number}; choose another one.")
    return Correction(
        image=test.images[number],
        true_class=truth,
        base=base,
        neighbour_images=[train.images[i] for i in terms.ids[0]],
        neighbour_classes=[int(c) for c in terms.targets[0]],
        weights=terms.weights[0],
        residuals=terms.contributions[0] / terms.weights[0][:, None],
        correction=terms.correction[0],
        corrected=corrected,
    )


# ---------------------------------------------------------------------- drawing


def draw(correction: Correction) -> Figure:
    """The whole picture, a column of bars for each term of the equation."""
    figure = Figure(figsize=(WIDTH, HEIGHT))
    figure.patch.set_alpha(0)  # the card is white, on pages of any colour
    card(figure, (0.003, 0.997), (0.006, 0.994), "white", "#BBBBBB")
    card(figure, BOX, (0.03, 0.975), "#F1F5F9", "none")
    draw_prediction(figure, correction)
    draw_neighbours(figure, correction)
    draw_result(figure, correction)
    sign(figure, (BASE[1] + BOX[0]) / 2, "+")
    sign(figure, (BOX[1] + CORRECTED[0]) / 2, "=")
    return figure


def draw_prediction(figure: Figure, correction: Correction) -> None:
    """The new image, and what the model says of it."""
    colours, said = correction.colours(), correction.base_class
    axes = bars(figure, BASE, correction.base, colours)
    axes.set_yticks(range(10), data.CLASSES, fontsize=10.5)
    axes.tick_params(length=0)
    for label, colour in zip(axes.get_yticklabels(), colours, strict=True):
        label.set_color(INK if colour == GREY else colour)
    show(figure, BASE, correction.image, INK, "new image")
    write(figure, middle(BASE), HEADS[0], "The model predicts")
    answer = f"{data.CLASSES[said]}, {correction.base[said]:.0%}"
    write(figure, middle(BASE), HEADS[1], answer, color=colours[said], weight="bold")


def draw_neighbours(figure: Figure, correction: Correction) -> None:
    """The stored rows, their residuals and weights, and the weighted sum."""
    colours = correction.colours()
    write(
        figure, middle(BOX), HEADS[0], "The memory finds the nearest training images, and adds up"
    )
    write(figure, middle(BOX), HEADS[1], "what the model got wrong there (truth minus prediction)")
    for j, span in enumerate(TERMS):
        label = correction.neighbour_classes[j]
        bars(figure, span, correction.residuals[j], colours, signed=True)
        show(figure, span, correction.neighbour_images[j], colours[label], data.CLASSES[label])
        write(figure, middle(span), FOOT, f"\N{MULTIPLICATION SIGN} {correction.weights[j]:.2f}")
        if j:
            sign(figure, (TERMS[j - 1][1] + span[0]) / 2, "+")
    sign(figure, (TERMS[-1][1] + SUM[0]) / 2, "=")
    bars(figure, SUM, correction.correction, colours, signed=True)
    write(figure, middle(SUM), middle(IMAGES), "weighted\nsum", linespacing=1.4)
    write(figure, middle(SUM), FOOT, "\N{LEFTWARDS ARROW} weights", fontsize=10.5)


def draw_result(figure: Figure, correction: Correction) -> None:
    """The same image, and its corrected prediction."""
    truth, colour = correction.true_class, correction.colours()[correction.true_class]
    bars(figure, CORRECTED, correction.corrected, correction.colours())
    show(figure, CORRECTED, correction.image, colour, f"truth: {data.CLASSES[truth]}")
    write(figure, middle(CORRECTED), HEADS[0], "Corrected prediction")
    answer = f"{data.CLASSES[truth]}, {correction.corrected[truth]:.0%}"
    write(figure, middle(CORRECTED), HEADS[1], answer, color=colour, weight="bold")


def card(figure: Figure, across: Span, up: Span, face: str, edge: str) -> None:
    """A rectangle with round corners behind everything that is drawn later."""
    figure.add_artist(
        FancyBboxPatch(
            (across[0], up[0]), across[1] - across[0], up[1] - up[0],
            boxstyle="round,pad=0,rounding_size=0.012", mutation_aspect=WIDTH / HEIGHT,
            transform=figure.transFigure, facecolor=face, edgecolor=edge, zorder=-1,
        )
    )  # fmt: skip


def write(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """A text around a point."""
    style = {"color": INK, "fontsize": 12, "ha": "center", "va": "center", **style}
    figure.text(x, y, text, **style)


def middle(span: Span) -> float:
    """The centre of a column."""
    return (span[0] + span[1]) / 2


def bars(
    figure: Figure, span: Span, values: Array, colours: list[str], signed: bool = False
) -> Axes:
    """Values of all classes as bars: from 0 to 1, or from -1 to 1 if ``signed``."""
    axes = figure.add_axes((span[0], BARS[0], span[1] - span[0], BARS[1] - BARS[0]))
    axes.barh(range(len(values)), values, color=colours, height=0.72)
    axes.set_xlim(-1.02 if signed else 0, 1.02)
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor("none")
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def show(figure: Figure, span: Span, image: Array, colour: str, name: str) -> None:
    """A training or test image above its column, framed in the colour of its class."""
    height = IMAGES[1] - IMAGES[0]
    width = height * HEIGHT / WIDTH
    axes = figure.add_axes((middle(span) - width / 2, IMAGES[0], width, height))
    axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(name, fontsize=10.5, color=INK if colour == GREY else colour, labelpad=3)
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=2)


def sign(figure: Figure, x: float, text: str) -> None:
    """A plus or an equals sign between two columns."""
    y = (BARS[0] + BARS[1]) / 2
    write(figure, x, y, text, fontsize=17)


def main() -> None:
    """Draw the picture to a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", type=int, default=IMAGE, help="number of the test image")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    figure = draw(compute(arguments.image))
    figure.savefig(arguments.output, dpi=DPI, metadata={"Software": None})
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
