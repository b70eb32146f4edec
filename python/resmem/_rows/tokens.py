"""Sequences of tokens as rows: without those that have no label."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from resmem._base.arrays import to_numpy
from resmem._base.convert import IGNORED


def tokens(
    embeddings: Any, outputs: Any, targets: Any, ignore: Any = IGNORED
) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None, npt.NDArray[Any]]:
    """Return the labelled tokens of sequences as rows: embeddings (m, d), outputs (m, C) and
    targets (m,), in the order of the arrays.

    ``Memory``'s methods take rows, ``memory.fit(*resmem.tokens(embeddings, outputs, targets))``.

    Parameters
    ----------
    embeddings : array (batch, tokens, d), or (.., d) with any leading axes, or (n, d)
    outputs : array (batch, tokens, C); None, where the memory takes none, stays None
    targets : array (batch, tokens) of labels
    ignore : label, default -100
        Tokens with this label, such as padding, are left out.

    Examples
    --------
    >>> import numpy as np, resmem
    >>> z, logits = np.zeros((2, 3, 4)), np.zeros((2, 3, 5))
    >>> y = np.array([[1, 4, -100], [0, -100, -100]])
    >>> [part.shape for part in resmem.tokens(z, logits, y)]
    [(3, 4), (3, 5), (3,)]
    """
    labels = to_numpy(targets, "targets")
    kept = np.flatnonzero(labels.ravel() != ignore)
    rows = _at(to_numpy(embeddings, "embeddings"), "embeddings", labels.shape, kept)
    given = None if outputs is None else to_numpy(outputs, "outputs")
    scores = None if given is None else _at(given, "outputs", labels.shape, kept)
    return rows, scores, labels.ravel()[kept]


def _at(
    array: npt.NDArray[Any], name: str, shape: tuple[int, ...], kept: npt.NDArray[np.int64]
) -> npt.NDArray[Any]:
    if array.ndim == 0 or array.shape[:-1] != shape:
        raise ValueError(
            f"{name} must have the shape of targets {shape} and one axis more, got {array.shape}"
        )
    return array.reshape(-1, array.shape[-1])[kept]
