"""Scores, their intervals, and rows cut into folds; nothing here knows of a memory."""
