"""A loop of a PyTorch model and a memory on a stream: ``python benchmarks/device_loop.py``.

Each step computes embeddings and logits, corrects them with a memory on the same device, and goes
on at once. A trace of PyTorch's profiler names every call of CUDA that made the host wait within
the loop; the exit status is 1 if there is one, or if the results are not those of the CPU.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np

import resmem

ROWS, DIM, CLASSES, K, BATCH = 50_000, 64, 100, 50, 256
STEPS = 20
WAITS = ("Synchronize", "cudaMemcpy", "cudaMalloc", "cudaFree")  # of calls that may wait
NO_WAITS = ("Async", "cudaStreamWaitEvent")  # in the names of calls that do not


def waits_within(events: Any, name: str) -> list[str]:
    """Return the calls of CUDA that may make the host wait, within the range of this name."""
    around = next(event.time_range for event in events if event.name == name)
    return [
        event.name
        for event in events
        if around.start <= event.time_range.start <= around.end
        and any(part in event.name for part in WAITS)
        and not any(part in event.name for part in NO_WAITS)
    ]


def main() -> int:
    """Run the loop; see the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0", help="such as cuda:0")
    device = parser.parse_args().device
    try:
        import torch
    except ImportError:
        print("left out: there is no PyTorch")
        return 0
    if not torch.cuda.is_available():
        print("left out: PyTorch knows no GPU here")
        return 0
    rng = np.random.default_rng(11)
    keys = rng.standard_normal((ROWS, DIM), dtype=np.float32)
    outputs = rng.standard_normal((ROWS, CLASSES), dtype=np.float32)
    memory = resmem.Memory(k=K).fit(keys, outputs, rng.integers(CLASSES, size=ROWS)).to(device)
    torch.manual_seed(0)
    body, head = torch.nn.Linear(DIM, DIM).to(device), torch.nn.Linear(DIM, CLASSES).to(device)
    batch = torch.randn(BATCH, DIM, device=device)
    seen: list[tuple[Any, Any, Any]] = []

    def step() -> None:
        embeddings = body(batch)
        logits = head(embeddings)
        seen[:] = [(embeddings, logits, memory.correct(embeddings, logits))]

    stream = torch.cuda.Stream(device)
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.inference_mode(), torch.cuda.stream(stream):
        for _ in range(3):  # The first step brings the rows and loads the kernels.
            step()
        stream.synchronize()
        with torch.profiler.profile(activities=kinds) as trace:
            with torch.profiler.record_function("loop"):
                for _ in range(STEPS):
                    step()
            stream.synchronize()
    waits = waits_within(trace.events(), "loop")
    embeddings, logits, corrected = (tensor.cpu().numpy() for tensor in seen[0])
    wanted = memory.to("cpu").correct(embeddings, logits)
    wrong = int((corrected.view(np.int64) != wanted.view(np.int64)).any(axis=1).sum())
    for name in sorted(set(waits)):
        print(f"{name}: {waits.count(name)} calls within the loop")
    print(f"{STEPS} steps, {len(waits)} waits within the loop, {wrong} queries differ from the CPU")
    return 1 if waits or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
