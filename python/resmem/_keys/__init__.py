"""How keys are made of embeddings: what is fitted to rows, and what rounding does to them."""
