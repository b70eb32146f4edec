"""Signs that a base model was trained on the rows by which it is judged."""

from __future__ import annotations

import math

from resmem._base.arrays import F64

# A base model was probably trained on rows if its errors there are less than this share of its
# errors on other rows, or of the errors of the neighbours' targets alone.
TRAINED_SHARE, TRAINED_SHARE_OF_NEIGHBOURS = 0.8, 0.5
CURE = "fit with outputs from models that did not see the rows (resmem.out_of_fold)"


def clearly_smaller(sizes: F64, others: F64, factor: float) -> float | None:
    """Return the ratio of the means if it is below ``factor`` by two standard errors, else None."""
    error = math.sqrt(sizes.var() / len(sizes) + factor**2 * others.var() / len(others))
    clear = sizes.mean() + 2 * error < factor * others.mean()
    return float(sizes.mean() / others.mean()) if clear else None


def note_of_trained_rows(base: F64, neighbours: F64) -> str | None:
    """Return a note if the base model seems to know the memory's rows.

    ``base`` and ``neighbours`` (n,) are the error sizes of the base model and of the neighbours'
    targets on these rows, each without itself.
    """
    share = clearly_smaller(base, neighbours, TRAINED_SHARE_OF_NEIGHBOURS)
    if share is None:
        return None
    return (
        f"the base model errs {share:.0%} as much on the memory's rows as their neighbours do: "
        f"if it was trained on them, their residuals are too small for new rows; {CURE}"
    )
