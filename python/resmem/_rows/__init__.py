"""Rows of a memory: how they are added, removed, compacted, and how their residuals are stored."""
