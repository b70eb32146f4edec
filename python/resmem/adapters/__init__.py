"""Memories where models live: one folder for each library that trains them.

A folder here imports its library and resmem's public names, and nothing else of the package. Users
import ``resmem.sklearn``, ``resmem.torch`` and ``resmem.transformers``, which hold the names; until
then none of the libraries is imported.
"""
