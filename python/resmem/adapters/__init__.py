"""Memories where models live: each folder here is one library, imported only when it is used.

``collection`` and ``folder`` gather a model's embeddings, outputs and targets with NumPy alone.
All of this room uses resmem's public names only.
"""
