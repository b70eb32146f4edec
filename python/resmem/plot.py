"""Figures of the results of tuning, evaluation, explanation, audit and pruning.

They are drawn with matplotlib (``pip install 'residual-memory[plot]'``), which is imported only
when something is drawn. Each function returns a Figure, a new one unless the caller says where to
draw; pyplot and its global state are not touched. Blue is a gain and orange a harm, which
colour-blind readers can tell apart, and shape or position shows the same. Figures are narrow, so
that they can be read on a phone.
"""

from resmem._report.plots import (
    audit,
    corrections,
    gain_by_distance,
    pruning,
    reliability,
    tuning_map,
)

__all__ = ["audit", "corrections", "gain_by_distance", "pruning", "reliability", "tuning_map"]
