"""The base models: a perceptron on pixels, and a stronger one on convolution features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from .data import CLASSES, Split

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Tick = Callable[[], None]


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """Row-wise softmax of `logits / temperature`."""
    scaled = logits / np.float32(temperature)
    exps = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: Floats = exps / exps.sum(axis=1, keepdims=True)
    return result


def log_loss(probabilities: NDArray[np.floating], labels: Ints) -> float:
    """Mean negative log-likelihood of the labels."""
    at_label = np.take_along_axis(probabilities, labels[:, None], axis=1)
    return float(-np.log(at_label, dtype=np.float64).mean())


def pixels(images: Floats) -> Floats:
    """Return the features of the simple model: each image as a row of 784 numbers."""
    return images.reshape(len(images), -1)


class PatchFeatures:
    """Convolution features that need no training (after Coates, Ng and Lee, 2011).

    The filters are 5x5 patches out of the training images, whitened. A filter's response at
    each of 24x24 places is divided by the local contrast; positive and negative parts are
    averaged over a 4x4 grid of cells, and the square root is taken.
    """

    SIZE, GRID, CHUNK = 5, 4, 50

    def __init__(self, images: Floats, filters: int) -> None:
        rng = np.random.default_rng(0)
        places = images.shape[1] - self.SIZE + 1
        windows = sliding_window_view(images, (self.SIZE, self.SIZE), axis=(1, 2))
        drawn = [rng.integers(0, stop, 20000) for stop in (len(images), places, places)]
        patches = windows[tuple(drawn)].reshape(-1, self.SIZE**2)
        patches = patches[patches.std(axis=1) > 0.02]
        patches = (patches - patches.mean(axis=1, keepdims=True)) / self._contrast(patches)
        values, vectors = np.linalg.eigh(np.cov(patches.T))
        whiten = (vectors / np.sqrt(values + 0.1)) @ vectors.T
        white = patches[:filters] @ whiten
        white /= np.linalg.norm(white, axis=1, keepdims=True)
        kernels = whiten @ white.T
        # With the mean taken out of each filter, a patch's own mean changes no response.
        self.kernels: Floats = (kernels - kernels.mean(axis=0)).astype(np.float32)
        cell = np.arange(places) * self.GRID // places
        cells = (cell[:, None] * self.GRID + cell).reshape(-1)
        pool = cells == np.arange(self.GRID**2)[:, None]
        self.pool: Floats = (pool / pool.sum(axis=1, keepdims=True)).astype(np.float32)

    @staticmethod
    def _contrast(patches: Floats) -> Floats:
        """Return the standard deviation of each patch, kept away from zero, as a column."""
        deviation: Floats = np.sqrt(patches.var(axis=1, keepdims=True) + np.float32(0.01))
        return deviation

    def __call__(self, images: Floats) -> Floats:
        """Return the features of the images, (n, 2 * 16 * filters)."""
        chunks = [images[i : i + self.CHUNK] for i in range(0, len(images), self.CHUNK)]
        with ThreadPoolExecutor(max_workers=4) as pool:
            return np.concatenate(list(pool.map(self._chunk, chunks)))

    def _chunk(self, images: Floats) -> Floats:
        windows = sliding_window_view(images, (self.SIZE, self.SIZE), axis=(1, 2))
        patches = windows.reshape(-1, self.SIZE**2)
        response = (patches @ self.kernels) / self._contrast(patches)
        response = response.reshape(len(images), -1, self.kernels.shape[1])
        positive = self.pool @ np.maximum(response, 0)
        negative = np.maximum(positive - self.pool @ response, 0)
        both = np.stack([positive, negative], axis=1)
        features: Floats = np.sqrt(both.reshape(len(images), -1))
        return features


class Perceptron:
    """One hidden layer of rectified units with dropout, trained by AdamW on log-loss."""

    RATE, DECAY, BATCH, DROPOUT = 1e-3, 1e-2, 128, np.float32(0.3)

    def __init__(self, inputs: int, hidden: int) -> None:
        self.rng = np.random.default_rng(0)
        self.params: list[Floats] = []
        for rows, columns in ((inputs, hidden), (hidden, len(CLASSES))):
            weights = self.rng.standard_normal((rows, columns), dtype=np.float32)
            self.params += [weights * np.float32(np.sqrt(2 / rows)), np.zeros(columns, np.float32)]

    def hidden(self, inputs: Floats) -> Floats:
        """Return the hidden layer, which the memory uses as embeddings."""
        weights, bias, _, _ = self.params
        units: Floats = np.maximum(inputs @ weights + bias, 0)
        return units

    def logits(self, hidden: Floats) -> Floats:
        """Return the logits for a hidden layer."""
        _, _, weights, bias = self.params
        return hidden @ weights + bias

    def gradients(self, inputs: Floats, labels: Ints) -> list[Floats]:
        """Return the gradients of the batch's mean log-loss, one per parameter, under dropout."""
        hidden = self.hidden(inputs)
        kept = self.rng.random(hidden.shape, dtype=np.float32) >= self.DROPOUT
        mask = kept / (1 - self.DROPOUT)
        hidden *= mask
        error = softmax(self.logits(hidden))
        error[np.arange(len(labels)), labels] -= 1
        error /= np.float32(len(labels))
        back = (error @ self.params[2].T) * (hidden > 0) * mask
        return [inputs.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)]

    def epochs(self, inputs: Floats, labels: Ints, epochs: int) -> Iterator[None]:
        """Train in place and yield after each epoch; the rate falls along a cosine to zero."""
        means = [np.zeros_like(p) for p in self.params]
        squares = [np.zeros_like(p) for p in self.params]
        starts = range(0, len(labels), self.BATCH)
        step, steps = 0, epochs * len(starts)
        for _ in range(epochs):
            order = self.rng.permutation(len(labels))
            for start in starts:
                rows = order[start : start + self.BATCH]
                rate = self.RATE * 0.5 * (1 + np.cos(np.pi * step / steps))
                step += 1
                scale = np.float32(rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step))
                gradients = self.gradients(inputs[rows], labels[rows])
                for p, g, m, s in zip(self.params, gradients, means, squares, strict=True):
                    m += np.float32(0.1) * (g - m)
                    s += np.float32(0.001) * (g * g - s)
                    if p.ndim == 2:
                        p *= np.float32(1 - rate * self.DECAY)
                    p -= scale * m / (np.sqrt(s) + np.float32(1e-8))
            yield

    def fit(
        self, train: tuple[Floats, Ints], held_out: tuple[Floats, Ints], epochs: int, tick: Tick
    ) -> int:
        """Train, keep the parameters of the best epoch by held-out log-loss, and return it."""
        best, best_epoch, best_params = np.inf, 0, self.params
        for epoch, _ in enumerate(self.epochs(*train, epochs), start=1):
            loss = log_loss(softmax(self.logits(self.hidden(held_out[0]))), held_out[1])
            if loss < best:
                best, best_epoch, best_params = loss, epoch, [p.copy() for p in self.params]
            tick()
        self.params = best_params
        return best_epoch


class Outputs(NamedTuple):
    """What a model gives to its memory for some images: embeddings and logits."""

    keys: Floats
    logits: Floats


@dataclass(frozen=True)
class Recipe:
    """How one base model is made."""

    name: str
    description: str
    make_features: Callable[[Floats], Callable[[Floats], Floats]]
    epochs: int
    hidden: int = 256


def recipes(quick: bool = False) -> list[Recipe]:
    """Return the recipes of the two base models of the demo, the simple one first."""
    filters = 8 if quick else 32
    return [
        Recipe(
            "mlp",
            "perceptron on the pixels",
            lambda images: pixels,
            epochs=3 if quick else 12,
        ),
        Recipe(
            "conv",
            f"perceptron on features of {filters} convolution filters",
            lambda images: PatchFeatures(images, filters),
            epochs=3 if quick else 8,
        ),
    ]


class Base:
    """A base model: it turns images into inputs, and these into keys (hidden layer) and logits."""

    def __init__(self, recipe: Recipe, images: Floats) -> None:
        self.recipe = recipe
        self.features = recipe.make_features(images)
        self.mean, self.scale = np.float32(0), np.float32(1)
        self.best_epoch = 0

    def inputs(self, images: Floats) -> Floats:
        """Return the standardised features of images."""
        return (self.features(images) - self.mean) * self.scale

    def fit(self, train: Split, validation: Split, tick: Tick) -> tuple[Outputs, Outputs]:
        """Train, and return the outputs of the trained model on the two splits."""
        inputs = self.inputs(train.images)
        self.mean = inputs.mean(axis=0)
        # The added term keeps inputs that hardly vary (corner pixels) from being blown up.
        self.scale = 1 / (inputs.std(axis=0) + np.float32(0.1) * inputs.std())
        inputs = (inputs - self.mean) * self.scale
        held_out = self.inputs(validation.images)
        tick()
        recipe = self.recipe
        self.network = Perceptron(inputs.shape[1], recipe.hidden)
        self.best_epoch = self.network.fit(
            (inputs, train.labels), (held_out, validation.labels), recipe.epochs, tick
        )
        return self.outputs(inputs), self.outputs(held_out)

    def outputs(self, inputs: Floats) -> Outputs:
        """Return the hidden layer, scaled to unit length, and the logits."""
        hidden = self.network.hidden(inputs)
        norms = np.linalg.norm(hidden, axis=1, keepdims=True)
        keys = hidden / np.maximum(norms, np.float32(1e-12))
        return Outputs(keys, self.network.logits(hidden))
