"""Memories of models of Hugging Face's transformers. Needs ``residual-memory[transformers]``.

``collect`` runs a model over texts, images or a data set and returns what a memory is fitted to;
``wrap`` returns a model of the same class with corrected logits; ``MemoryLogitsProcessor`` corrects
within ``generate``; ``evaluate_perplexity`` compares language models on the same tokens; ``head`` is
the model's last layer, for ``resmem.Memory(store="head", head=head(model))``; ``HeadOutputs``
computes logits when they are read.
"""

from __future__ import annotations

from resmem.adapters.transformers.chains import Chains, Searches
from resmem.adapters.transformers.collecting import collect
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
    "HeadOutputs",
    "Interval",
    "MemoryLogitsProcessor",
    "Perplexities",
    "PerplexityResult",
    "Searches",
    "collect",
    "evaluate_perplexity",
    "head",
    "wrap",
]
