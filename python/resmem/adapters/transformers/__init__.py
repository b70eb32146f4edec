"""Hugging Face's transformers: tokens and examples become rows, and logits are corrected.

``kinds`` tells models apart; ``batches`` makes batches of texts and data sets; ``tap`` reads
embeddings by the hooks of ``adapters.torch``; ``head`` is the last layer; ``collecting`` gathers
rows. ``correction`` has what ``wrapping`` and ``processor`` share, ``chains`` skips searches.
``perplexity`` compares, ``columns`` is for the library datasets. ``identity`` and ``modes`` are
hashes, and eval mode for a while.
"""
