"""PyTorch: embeddings read by hooks (``collecting``), predictions corrected (``wrapping``)."""
