"""Correct a deployed model day by day, and know whether that still helps.

    pip install residual-memory
    python day_by_day.py

A model of clothes was trained once. Each day it sees images whose labels are known the day after.
From the fifth day on, shirts and T-shirts are sold under each other's names. The memory adds what
the model got wrong, replaces rows whose label was corrected, and removes what was false; a monitor
holds an interval of the gain that is true at every look.
"""

import numpy as np

import resmem
from resmem.demo import data

train, val, test = map(data.load, ("train", "validation", "test"))
rng = np.random.default_rng(0)

# The model: a linear discriminant of the pixels, trained on the training images alone.
pixels = train.images.reshape(-1, 784)
means = np.stack([pixels[train.labels == c].mean(axis=0) for c in range(10)])
spread = np.cov((pixels - means[train.labels]).T) + 0.03 * np.eye(784)
slopes = np.linalg.solve(spread, means.T)


def model(images):
    """Return embeddings and logits of images."""
    z = images.reshape(-1, 784)
    return z, (z @ slopes - (means * slopes.T).sum(axis=1) / 2) / 3


memory = resmem.Memory(k=20, probability_map="keep").fit(*model(val.images), val.labels)
monitor = memory.monitor(off_when_harmful=True)
names = np.arange(10)  # what a class is called

for day, part in enumerate(np.array_split(rng.permutation(len(test.labels)), 8), start=1):
    if day == 5:
        names[[0, 6]] = names[[6, 0]]
    z, logits = model(test.images[part])
    labels = names[test.labels[part]]
    right = (memory.predict(z, logits) == labels).mean()  # in the day
    alone = (logits.argmax(axis=1) == labels).mean()
    monitor.update(z, logits, labels)  # the labels have arrived; the memory does not have them yet

    wrong = np.flatnonzero(logits.argmax(axis=1) != labels)
    typed = np.where(rng.random(len(wrong)) < 0.02, rng.integers(0, 10, len(wrong)), labels[wrong])
    ids = memory.ids.max() + 1 + np.arange(len(wrong))
    memory.add(z[wrong], logits[wrong], typed, ids=ids)  # what was wrong, some labels mistyped
    slip = np.flatnonzero(typed != labels[wrong])  # found out later, and put right
    memory.update(ids[slip], z[wrong[slip]], logits[wrong[slip]], labels[wrong[slip]])
    memory.remove(ids[:1])  # this one was no image of clothes
    low, high = monitor.gain.low, monitor.gain.high
    print(f"day {day}: model {alone:.3f}, corrected {right:.3f}, gain [{low:+.3f}, {high:+.3f}]")
print(monitor)  # helps=True: the interval of the mean gain is above 0, however often one looks
