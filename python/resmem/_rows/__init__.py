"""Rows: how they are kept, come, go and are compacted, and what is kept of their residuals."""
