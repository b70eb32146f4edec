"""Stores: how residuals are kept, dense, sparse, or as the linear layer that gives them.

`store.py` is the interface of a store, `layer.py` the layer that one may have, and each other file
holds a store; `named.py` finds the store of a name. CONTRACT.md defines the numbers.
"""
