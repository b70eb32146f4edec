"""CUDA devices as callers see them: which one, their arrays on it, their streams, the results."""
