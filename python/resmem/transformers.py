"""Memories of models of Hugging Face's transformers: language models and classifiers.

    import resmem.transformers as rt

    data = rt.collect(model, tokenizer, texts)
    memory = resmem.Memory(store="sparse:32", base=data.base).fit(*data)
    memory.tune(*rt.collect(model, tokenizer, other_texts))
    better = rt.wrap(model, memory)

``collect`` runs a model over texts, images or a data set; ``wrap`` returns a model of the same
class with corrected logits, and ``MemoryLogitsProcessor`` corrects within ``generate``;
``evaluate_perplexity`` compares language models on the same tokens. ``head`` is a model's last
layer, for ``resmem.Memory(store="head", head=head(model))``, and ``HeadOutputs`` are logits that it
computes when they are read. ``Predictor`` is for ``datasets.Dataset.map``; ``column`` and
``to_dataset`` make arrays of columns and columns of arrays.
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
    import transformers as _transformers  # noqa: F401
except ImportError as error:
    raise ImportError(
        "resmem.transformers needs PyTorch and transformers: "
        "pip install 'residual-memory[transformers]'"
    ) from error

from resmem.adapters.collection import Collected
from resmem.adapters.transformers.chains import Chains, Searches
from resmem.adapters.transformers.collecting import collect
from resmem.adapters.transformers.columns import Predictor, column, to_dataset
from resmem.adapters.transformers.head import HeadOutputs, head
from resmem.adapters.transformers.perplexity import (
    Interval,
    Perplexities,
    PerplexityResult,
    evaluate_perplexity,
)
from resmem.adapters.transformers.processor import MemoryLogitsProcessor
from resmem.adapters.transformers.wrapping import wrap

__all__ = [
    "Chains",
    "Collected",
    "HeadOutputs",
    "Interval",
    "MemoryLogitsProcessor",
    "Perplexities",
    "PerplexityResult",
    "Predictor",
    "Searches",
    "collect",
    "column",
    "evaluate_perplexity",
    "head",
    "to_dataset",
    "wrap",
]
