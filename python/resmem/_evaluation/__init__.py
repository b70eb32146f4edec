"""Evaluation of a memory on rows whose targets are known, and explanation of its corrections."""
