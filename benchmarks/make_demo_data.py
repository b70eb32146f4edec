"""Make the data file of `python -m resmem demo` from the original Fashion-MNIST files.

    python benchmarks/make_demo_data.py

The four original files are what Debian's package `dataset-fashion-mnist` installs. Drawn from
them with a fixed seed, the same number from each of the ten classes:

- `train` (12000) and `validation` (2000) from the original 60000 training images,
- `test` (4000) from the original 10000 test images.

Images whose content occurs more than once are passed over, so the splits share no image. Pixels
are rounded to 16 grey levels, `round(pixel / 17)`: this is what lets 18000 images fit in 3 MB.
The same input gives the same file, byte for byte.
"""

from __future__ import annotations

import argparse
import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SOURCE = Path("/usr/share/datasets/fashion-mnist")
TARGET = Path(__file__).parents[1] / "python" / "resmem" / "data" / "fashion-mnist-18k.npz"
CLASSES = 10
TRAIN_PER_CLASS, VALIDATION_PER_CLASS, TEST_PER_CLASS = 1200, 200, 400

Bytes = NDArray[np.uint8]


def read_idx(path: Path) -> Bytes:
    """Return the array in a gzipped IDX file of unsigned bytes."""
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    ndim = raw[3]
    shape = np.frombuffer(raw, dtype=">u4", count=ndim, offset=4)
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * ndim).reshape(shape)


def read_pair(source: Path, name: str) -> tuple[Bytes, Bytes]:
    """Return images at 16 grey levels and labels of the original `train` or `t10k` set."""
    images = read_idx(source / f"{name}-images-idx3-ubyte.gz")
    labels = read_idx(source / f"{name}-labels-idx1-ubyte.gz")
    return np.rint(images / 17.0).astype(np.uint8), labels


def unique_rows(*sets: Bytes) -> list[NDArray[np.bool_]]:
    """Return, for each set, which of its images occur only once in all sets together."""
    flat = np.concatenate([images.reshape(len(images), -1) for images in sets])
    _, inverse, counts = np.unique(flat, axis=0, return_inverse=True, return_counts=True)
    once = counts[inverse.reshape(-1)] == 1
    return np.split(once, np.cumsum([len(images) for images in sets])[:-1])


def draw(
    rng: np.random.RandomState, labels: Bytes, usable: NDArray[np.bool_], per_class: list[int]
) -> list[NDArray[np.int64]]:
    """Return shuffled, disjoint groups of positions, the i-th with `per_class[i]` per class."""
    groups: list[list[NDArray[np.int64]]] = [[] for _ in per_class]
    for label in range(CLASSES):
        candidates = rng.permutation(np.flatnonzero((labels == label) & usable))
        stops = np.cumsum(per_class)
        for group, start, stop in zip(groups, stops - per_class, stops, strict=True):
            group.append(candidates[start:stop])
    return [rng.permutation(np.concatenate(group)) for group in groups]


def write_npz(path: Path, arrays: dict[str, Bytes]) -> None:
    """Write an `.npz` with LZMA members and a fixed date; `numpy.load` reads it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0))
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_LZMA
            archive.writestr(entry, buffer.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the demo's data file.")
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the IDX files")
    parser.add_argument("--output", type=Path, default=TARGET, help="the .npz file to write")
    options = parser.parse_args()

    images, labels = read_pair(options.source, "train")
    test_images, test_labels = read_pair(options.source, "t10k")
    usable, test_usable = unique_rows(images, test_images)
    rng = np.random.RandomState(0)
    train, validation = draw(rng, labels, usable, [TRAIN_PER_CLASS, VALIDATION_PER_CLASS])
    (test,) = draw(rng, test_labels, test_usable, [TEST_PER_CLASS])
    arrays = {
        "train_images": images[train],
        "train_labels": labels[train],
        "validation_images": images[validation],
        "validation_labels": labels[validation],
        "test_images": test_images[test],
        "test_labels": test_labels[test],
    }
    write_npz(options.output, arrays)
    print(f"{options.output}: {options.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
