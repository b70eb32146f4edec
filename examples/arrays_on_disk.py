"""Fit and query a memory from arrays on disk, which are never in memory as a whole.

    pip install residual-memory
    python arrays_on_disk.py

The same from the shell: resmem fit memory.resmem --embeddings z.npy --outputs logits.npy
--targets y.npy, then resmem tune, evaluate and predict.
"""

import tempfile
from pathlib import Path

import numpy as np

import resmem

rng = np.random.default_rng(0)
centres, layer = rng.normal(size=(40, 32)), rng.normal(size=(32, 5))
unknown = 6 * rng.normal(size=(40, 5))  # what the model does not know of each kind of example
folder = Path(tempfile.mkdtemp())


def write(part, rows):
    """Write what a model makes of some examples, as .npy files: pieces of 5,000 rows at a time."""
    z = np.lib.format.open_memmap(folder / f"{part}_z.npy", "w+", np.float32, (rows, 32))
    logits = np.lib.format.open_memmap(folder / f"{part}_logits.npy", "w+", np.float32, (rows, 5))
    y = np.lib.format.open_memmap(folder / f"{part}_y.npy", "w+", np.int64, (rows,))
    for at in range(0, rows, 5000):
        piece = slice(at, min(at + 5000, rows))
        kind = rng.integers(0, 40, piece.stop - at)
        z[piece] = centres[kind] + 0.5 * rng.normal(size=(len(kind), 32))
        logits[piece] = z[piece] @ layer / 4
        truth = z[piece] @ layer + unknown[kind] + 2 * rng.gumbel(size=(len(kind), 5))
        y[piece] = truth.argmax(axis=1)


def mapped(part):
    """Return the arrays of a part; pages are read when they are needed."""
    return (np.load(folder / f"{part}_{name}.npy", mmap_mode="r") for name in ("z", "logits", "y"))


for part, rows in (("train", 40_000), ("validation", 3000), ("test", 3000)):
    write(part, rows)

memory = resmem.Memory().fit(*mapped("train"), copy=False)  # the embeddings stay on disk
print(memory.tune(*mapped("validation")))
memory.save(folder / "memory.resmem")

memory = resmem.Memory.load(folder / "memory.resmem")  # mapped too: processes share its pages
print(memory.evaluate(*mapped("test")))
print(memory)
