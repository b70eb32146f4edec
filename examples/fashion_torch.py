"""A convolutional network of PyTorch on images of clothes, and what a memory makes of it.

Run `python examples/fashion_torch.py`, with `pip install 'residual-memory[torch]'`; a number behind
it says how many epochs to train (default 8, half a minute).
"""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import resmem
import resmem.torch
from resmem.demo import data


def images(part):
    split = data.load(part)  # a part of Fashion-MNIST that the package carries
    return TensorDataset(torch.from_numpy(split.images)[:, None], torch.from_numpy(split.labels))


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


torch.manual_seed(0)
model = Network()
optimizer = torch.optim.Adam(model.parameters(), 1e-3)
for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 8):
    for x, y in DataLoader(images("train"), batch_size=128, shuffle=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

train, validation, test = (
    resmem.torch.collect(model, DataLoader(images(part), batch_size=256), layer="features")
    for part in ("train", "validation", "test")
)
memory = resmem.Memory(base=train.base).fit(*train)
tuned = memory.tune(*validation)
print(tuned)
print(memory.evaluate(*test, knn=tuned))

better = resmem.torch.wrap(model.eval(), memory, mode="logits")  # as any module of PyTorch
x, y = images("test")[:8]
with torch.inference_mode():
    print("true", y.tolist(), "\nbare", model(x).argmax(1).tolist())
    print("with memory", better(x).argmax(1).tolist())
