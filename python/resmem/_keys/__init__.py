"""Keys made of embeddings: preprocessing, its fit to rows, and the effect of rounding."""
