"""Scores, their intervals, folds and out-of-fold outputs; nothing here depends on a memory."""
