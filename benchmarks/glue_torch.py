"""The lines that a convolutional network needs to get a memory, by hand and with `resmem.torch`.

    pip install '.[torch]'
    python benchmarks/glue_torch.py         # a minute

Both ways collect embeddings, logits and labels of the demo's images and correct new ones. The
program fails unless they give the same bits, counts their lines without blank ones, and prints what
the memory gains and harms on the test images. Its settings are chosen on validation images.
"""

from __future__ import annotations

import inspect

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import resmem
import resmem.torch
from resmem.demo import data

EPOCHS = 8


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(1568, 64), nn.ReLU()),
        )
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(64, 10))

    def forward(self, x):
        return self.head(self.features(x))


# ---- By hand -------------------------------------------------------------------------------------


def collect_by_hand(model, loader):
    kept, rows = [], []
    training = model.training
    hook = model.features.register_forward_hook(lambda module, args, output: kept.append(output))
    model.eval()
    try:
        with torch.inference_mode():
            for x, y in loader:
                logits = model(x)
                rows.append((kept.pop().cpu().numpy(), logits.cpu().numpy(), y.numpy()))
    finally:
        hook.remove()
        model.train(training)
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


class CorrectedByHand(nn.Module):
    def __init__(self, model, memory):
        super().__init__()
        self.model, self.memory = model, memory

    def forward(self, x):
        if self.training:
            return self.model(x)
        kept = []
        hook = self.model.features.register_forward_hook(lambda *_: kept.append(_[-1]))
        try:
            logits = self.model(x)
        finally:
            hook.remove()
        found = self.memory.predict_proba(kept[0].detach().cpu(), logits.detach().cpu())
        return torch.from_numpy(found).log().to(logits)


def by_hand(model, loader, new):
    rows = collect_by_hand(model, loader)
    memory = resmem.Memory().fit(*rows)
    return CorrectedByHand(model, memory).eval()(new)


# ---- With resmem.torch ---------------------------------------------------------------------------


def with_adapter(model, loader, new):
    rows = resmem.torch.collect(model, loader, layer="features")
    memory = resmem.Memory(base=rows.base).fit(*rows)
    return resmem.torch.wrap(model.eval(), memory, mode="logits")(new)


# ---- The comparison ------------------------------------------------------------------------------


def lines(*parts: object) -> int:
    """Return how many lines functions and classes have; ``by_hand`` and ``with_adapter`` without
    their first ones."""
    count = 0
    for part in parts:
        found = [line for line in inspect.getsource(part).splitlines() if line.strip()]
        count += len(found) - (part in (by_hand, with_adapter))
    return count


def images(part: data.Name) -> TensorDataset:
    split = data.load(part)
    return TensorDataset(torch.from_numpy(split.images)[:, None], torch.from_numpy(split.labels))


def main() -> None:
    torch.manual_seed(0)
    model = Network()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(EPOCHS):
        for x, y in DataLoader(images("train"), batch_size=128, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    loaders = {p: DataLoader(images(p), 256) for p in ("train", "validation", "test")}
    new = images("test").tensors[0][:256]
    if not torch.equal(
        by_hand(model, loaders["train"], new), with_adapter(model, loaders["train"], new)
    ):
        raise SystemExit("the two ways differ")
    hand, adapter = lines(collect_by_hand, CorrectedByHand, by_hand), lines(with_adapter)
    print(f"lines: {hand} by hand, {adapter} with resmem.torch; the same bits")
    train, validation, test = (
        resmem.torch.collect(model, loader, layer="features") for loader in loaders.values()
    )
    memory = resmem.Memory(base=train.base).fit(*train)
    tuned = memory.tune(*validation)
    print(memory.evaluate(*test, knn=tuned))


if __name__ == "__main__":
    main()
