"""The correction of queries: neighbours, weights, residuals, and maps to probabilities."""
