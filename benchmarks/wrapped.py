"""What `resmem.torch.wrap` adds to a call of a model, beside the bare one: by batch and by part.

    pip install '.[torch]'
    python benchmarks/wrapped.py            # one thread, a minute

The model is a small convolutional network, trained for one epoch on the demo's images; the memory
has 60,000 rows of 128 dimensions: the 12,000 training images, each at five places. Every round
times each part once, in turn, on other test images; the table has medians in milliseconds.

search       the 50 nearest rows (`Memory.kneighbors`)
aggregation  their residuals, and probabilities (`Memory.predict_proba` without the search)
hook, copies what else the wrapped call takes: the hook's copy of the layer's output, tensors to
             arrays and back, logarithms
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import resmem
import resmem.torch
from resmem.demo import data

BATCHES, ROUNDS, K, D = (1, 32, 256), 60, 50, 128
PLACES = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))  # by how many pixels images are moved


def images(part: data.Name, places: tuple[tuple[int, int], ...] = PLACES[:1]) -> TensorDataset:
    """Return the images of a split at each of the places, (n * len(places), 1, 28, 28)."""
    split = data.load(part)
    x = torch.from_numpy(split.images)[:, None]
    moved = torch.cat([torch.roll(x, place, (2, 3)) for place in places])
    return TensorDataset(moved, torch.from_numpy(np.tile(split.labels, len(places))))


def trained() -> nn.Module:
    """Return the network after one epoch; its layer "9" has D units."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1568, D), nn.Dropout(0.3), nn.ReLU(), nn.Linear(D, 10)),
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for x, y in DataLoader(images("train"), 128, shuffle=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measured(model: nn.Module, memory: resmem.Memory, batch: int, rounds: int) -> dict[str, float]:
    """Return the median time of each part of a call, in seconds."""
    wrapped = resmem.torch.wrap(model, memory, "9", mode="logits", check=False)
    test = images("test").tensors[0]
    times: dict[str, list[float]] = {}
    for number in range(-3, rounds):  # the first three warm caches up
        start = number * batch % (len(test) - batch)
        x = test[start : start + batch]
        h = model[:-1](x)
        logits = model[-1](h)
        round_of = {
            "bare": seconds(lambda x=x: model(x)),
            "wrapped": seconds(lambda x=x: wrapped(x)),
            "search": seconds(lambda h=h: memory.kneighbors(h)),
            "corrected": seconds(lambda h=h, z=logits: memory.predict_proba(h, z)),
        }
        if number >= 0:
            for name, took in round_of.items():
                times.setdefault(name, []).append(took)
    return {name: float(np.median(all_of)) for name, all_of in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; RESMEM_NUM_THREADS too")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = trained()
    rows = resmem.torch.collect(model, DataLoader(images("train", PLACES), 512), "9")
    memory = resmem.Memory(k=K, base=rows.base, auto_prepare=False).fit(*rows)
    large = nn.Sequential(*(nn.Linear(4096, 4096) for _ in range(6)))  # 400 MB
    took = seconds(lambda: resmem.torch.fingerprint(large))
    print(f"fingerprint of {large.state_dict()['0.weight'].nbytes * 6 / 1e6:.0f} MB: {took:.2f} s")
    print(f"{len(memory):,} rows, d={D}, k={K}; medians of {options.rounds} calls, in ms")
    print("memory      batch    bare  wrapped   search  aggregation  hook, copies")
    for state in ("unprepared", "prepared"):
        if state == "prepared":
            memory.prepare()
        with torch.inference_mode():
            for batch in BATCHES:
                t = measured(model, memory, batch, options.rounds)
                parts = (
                    t["bare"], t["wrapped"], t["search"], t["corrected"] - t["search"],
                    t["wrapped"] - t["bare"] - t["corrected"],
                )  # fmt: skip
                shown = [
                    f"{1e3 * part:{width}.3f}"
                    for part, width in zip(parts, (8, 9, 9, 13, 14), strict=True)
                ]
                print(f"{state:11} {batch:5}{''.join(shown)}")


if __name__ == "__main__":
    main()
