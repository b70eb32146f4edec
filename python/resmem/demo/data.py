"""The images: a part of Fashion-MNIST that is included in the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

PATH = Path(__file__).parents[1] / "data" / "fashion-mnist-18k.npz"
CLASSES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
LEVELS = 15  # the largest pixel in the file: 16 grey levels, 0 to 15

Name = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Split:
    """Images, (n, 28, 28) float32 in [0, 1], and their class indices, (n,) int64."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def load(name: Name, quick: bool = False) -> Split:
    """Read one split, and only that one, from the data file; a fifth of it if `quick`."""
    with np.load(PATH) as arrays:
        images, labels = arrays[f"{name}_images"], arrays[f"{name}_labels"]
    if quick:
        images, labels = images[: len(labels) // 5], labels[: len(labels) // 5]
    return Split(images.astype(np.float32) / np.float32(LEVELS), labels.astype(np.int64))
