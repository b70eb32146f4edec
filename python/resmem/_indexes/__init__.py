"""Indexes, which make search fast: when rows get one, of what shape, and whether it is kept."""
