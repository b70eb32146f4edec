"""How residuals are kept: whole, sparse, or as the linear layer that gives them.

`store.py` is what a store has to tell, each other file one of them, and `named.py` finds the one
that a name asks for. CONTRACT.md defines the numbers.
"""
