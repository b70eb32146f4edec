"""Stores: how residuals are kept, dense, sparse, or as the linear layer that gives them.

`store.py` is the interface of a store, and each other file holds one; `named.py` finds the store
of a name. CONTRACT.md defines the numbers.
"""
