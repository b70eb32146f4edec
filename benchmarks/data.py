"""Shapes and data of the benchmarks: seeded generators, cached as ``.npy`` files.

Rows are drawn to resemble embeddings: about ``sqrt(n)`` clusters; centres and the noise around
them share a spectrum whose variances decay as ``1/i``; a random rotation then spreads it over
all coordinates. Queries are held-out rows of the same draw. Some shapes are harder: one Gaussian
with a flatter spectrum, an isotropic one, rows that are all equal. B, E and L are real.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
AnyArray = npt.NDArray[Any]

CACHE = Path(__file__).resolve().parent / ".cache"
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # Debian: dataset-fashion-mnist
NOISE = 0.7  # standard deviation around a centre, relative to that of the centres
BLOCK = 65536  # rows generated at a time
SIGMA = 0.5  # scale of the weights; it changes no timing


@dataclass(frozen=True)
class Shape:
    """One workload; ``ks`` are the neighbour counts searched for, the last for ``correct``."""

    name: str
    rows: int
    dim: int
    queries: int
    ks: tuple[int, ...]
    classes: int
    quick_queries: int
    seed: int
    clusters: int = 0  # 0: about sqrt(rows)
    decay: float = 1.0  # the i-th variance is i ** -decay

    def __str__(self) -> str:
        return f"{self.name} n={self.rows:,} d={self.dim}"


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("A", 50_000, 64, 10_000, (53,), 100, quick_queries=2_000, seed=101),
        Shape("B", 60_000, 784, 10_000, (10, 100), 10, quick_queries=500, seed=102),
        Shape("C", 200_000, 1280, 1_000, (80,), 1000, quick_queries=200, seed=103),
        Shape("D", 1_000_000, 128, 1_000, (10, 100), 10, quick_queries=100, seed=104),
        Shape("E", 60_000, 1280, 1_000, (50,), 10, quick_queries=200, seed=105),
        Shape("F", 1_000_000, 512, 256, (64,), 10, quick_queries=64, seed=106),
        Shape("G", 200_000, 256, 1_000, (50,), 10, quick_queries=200, seed=107, clusters=500),
        Shape("H", 200_000, 256, 1_000, (50,), 10, 200, seed=108, clusters=1, decay=0.5),
        Shape("L", 100_000, 576, 1_000, (50,), 10, quick_queries=200, seed=111),
        Shape("equal", 100_000, 128, 1_000, (50,), 10, quick_queries=200, seed=110),
        Shape("isotropic", 50_000, 1280, 1_000, (50,), 10, 200, seed=110, clusters=1, decay=0.0),
    )
}
EXTRACTED = ("E", "L")  # embed.py extracts these
SCALING = tuple(  # shapes for the time of a search by rows
    Shape(f"scaling-{rows}", rows, 128, 1_000, (10,), 10, quick_queries=100, seed=109)
    for rows in (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000)
)


def unavailable(shape: Shape) -> str:
    """Return why ``shape`` cannot be run here, or an empty string."""
    if shape.name == "B" and not FASHION_MNIST.is_dir():
        return f"no {FASHION_MNIST} (Debian package dataset-fashion-mnist)"
    if shape.name in EXTRACTED and not all(path.exists() for path in paths(shape)):
        return f"not extracted yet (python benchmarks/embed.py {shape.name})"
    return ""


def paths(shape: Shape) -> list[Path]:
    """Return the paths of the rows and the queries of ``shape``."""
    return [CACHE / f"{shape.name}-{part}.npy" for part in ("rows", "queries")]


def embeddings(shape: Shape, mmap: bool = False) -> tuple[Float32, Float32]:
    """Return the rows and the queries of ``shape``, generated on first use."""
    if not all(path.exists() for path in paths(shape)):
        if why := unavailable(shape):
            raise FileNotFoundError(f"shape {shape.name}: {why}")
        keep(shape, *generate(shape))
    rows, queries = (np.load(path, mmap_mode="r" if mmap else None) for path in paths(shape))
    return rows, queries


def keep(shape: Shape, *arrays: Float32) -> None:
    """Store the rows and the queries of ``shape``, each file whole or not at all."""
    CACHE.mkdir(exist_ok=True)
    for path, array in zip(paths(shape), arrays, strict=True):
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.save(file, array)
        partial.rename(path)


def generate(shape: Shape) -> tuple[Float32, Float32]:
    """Generate rows and queries by the kind of shape."""
    if shape.name == "B":
        return fashion_mnist()
    return equal(shape) if shape.name == "equal" else clustered(shape)


def clustered(shape: Shape) -> tuple[Float32, Float32]:
    """Draw rows and held-out queries (see the head of this file)."""
    rng = np.random.default_rng(shape.seed)
    scale = (1.0 / np.sqrt(np.arange(1, shape.dim + 1) ** shape.decay)).astype(np.float32)
    rotation = np.linalg.qr(rng.standard_normal((shape.dim, shape.dim)))[0].astype(np.float32)
    clusters = shape.clusters or round(shape.rows**0.5)
    centres = rng.standard_normal((clusters, shape.dim), dtype=np.float32)
    total = shape.rows + shape.queries
    out = np.empty((total, shape.dim), np.float32)
    for start in range(0, total, BLOCK):
        size = min(BLOCK, total - start)
        noise = rng.standard_normal((size, shape.dim), dtype=np.float32)
        points = centres[rng.integers(clusters, size=size)] + np.float32(NOISE) * noise
        np.matmul(points * scale, rotation, out=out[start : start + size])
    return out[: shape.rows], out[shape.rows :]


def equal(shape: Shape) -> tuple[Float32, Float32]:
    """Return copies of one row, and queries elsewhere: all distances of a query tie."""
    rng = np.random.default_rng(shape.seed)
    row, queries = (
        rng.standard_normal((count, shape.dim), dtype=np.float32) for count in (1, shape.queries)
    )
    return np.repeat(row, shape.rows, axis=0), queries


def fashion_mnist() -> tuple[Float32, Float32]:
    """Return the images of Fashion-MNIST, flattened, in [0, 1]."""
    rows, queries = (
        np.frombuffer(gzip.decompress((FASHION_MNIST / name).read_bytes()), np.uint8, offset=16)
        .reshape(-1, 784)
        .astype(np.float32)
        / np.float32(255)
        for name in ("train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz")
    )
    return rows, queries


def logits(shape: Shape, count: int, part: int) -> tuple[Float32, Int64]:
    """Return logits of a base model that is right four times in five, and the targets."""
    rng = np.random.default_rng((shape.seed, part))
    targets = rng.integers(shape.classes, size=count)
    outputs = rng.standard_normal((count, shape.classes), dtype=np.float32)
    guesses = np.where(rng.random(count) < 0.8, targets, rng.integers(shape.classes, size=count))
    outputs[np.arange(count), guesses] += np.float32(5)
    return outputs, targets


def residuals(shape: Shape) -> Float32:
    """Return random residuals for an aggregation alone."""
    rng = np.random.default_rng((shape.seed, 98))
    return rng.random((shape.rows, shape.classes), dtype=np.float32) - np.float32(0.5)


def neighbours(shape: Shape, count: int, k: int) -> tuple[Float64, Int64]:
    """Return ascending distances and random ids for an aggregation alone."""
    rng = np.random.default_rng((shape.seed, 99))
    return np.sort(rng.random((count, k)), axis=1), rng.integers(shape.rows, size=(count, k))
