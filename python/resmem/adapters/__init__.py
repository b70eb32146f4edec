"""Memories where models live: one folder for each library that trains them.

A folder here imports its library, resmem's public names and other modules of this room, and nothing
else of the package. Users import ``resmem.sklearn``, ``resmem.torch`` and ``resmem.transformers``,
which hold the names; until then none of the libraries is imported. ``collection`` and ``folder``
gather a model's embeddings, outputs and targets with NumPy alone.
"""
