"""In which order a memory can lose rows: what the answers for its other rows would lose by each.

Each round removes a fifth of the rows. It judges every row of the memory, removed ones too, by its
neighbours among the rows still kept. What a neighbour is worth to the row is how much the loss of
its answer would rise if the others took the neighbour's weight; what a row is worth is the sum over
all rows that it is a neighbour of. Rows that harm are worth less than 0, by more than a standard
error of the sum, and go first. Near-duplicates with the same residual are worth about 0: of the
other rows those nearest to 0 go, on either side, as what lies there may be chance. Of two rows that
are each other's nearest ones, each stands in for the other; so a row stays for this round if its
nearest row is among those worth least as well and goes before it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from resmem._base.arrays import F64, I64
from resmem._base.blocks import blocks
from resmem._base.execution import Execution
from resmem._correction.correct import Corrector
from resmem._evaluation.own_neighbours import OwnNeighbours
from resmem._rows.visibility import Visibility

Mask = npt.NDArray[np.bool_]

_STEP = 0.8  # share of the rows that a round keeps
# A lower probability of the true class counts as this one, so that few rows with huge losses do not
# decide which rows are worth most.
_LEAST_CHANCE = 0.02
_WHOLE = 1 - 1e-9  # share of the weight from which a neighbour is alone, up to rounding


def rounds(
    corrector: Corrector, visible: Visibility, asked: I64, least: int, execution: Execution
) -> Iterator[Mask]:
    """Yield masks of the rows that are kept, (n,) in the order of storage, down to ``least`` rows.

    ``asked`` are the positions of the rows that are judged: all that may tell what a row is worth.
    """
    places = corrector.rows.numbered(np.arange(len(corrector.rows)))
    kept = np.ones(len(places), dtype=bool)
    while (count := int(kept.sum())) > least:
        goes = count - max(least, int(_STEP * count))
        see = Visibility(None, kept, visible.before, visible.exclude_groups)
        worth, nearest = _worth(corrector, see, asked, execution)
        gone = _worth_least(worth[places], nearest[places], places, kept, goes)
        kept = kept.copy()
        kept[gone] = False
        yield kept


def _worth_least(worth: F64, nearest: I64, places: I64, kept: Mask, goes: int) -> I64:
    """Return the numbers of ``goes`` rows among those kept, by the rule above.

    ``nearest`` (n,) are the positions of the rows' nearest ones, -1 where they are not known;
    ``places`` (n,) those of the rows.
    """
    order = np.flatnonzero(kept)
    order = order[np.argsort(worth[order], kind="stable")]
    rank = np.full(len(worth) + 1, len(worth))  # the last entry stands for no row
    rank[order] = np.arange(len(order))
    # Rows that are removed already lie at positions too, and rank behind all others.
    near = np.minimum(np.searchsorted(places, nearest[order]), len(worth) - 1)
    near = np.where(nearest[order] >= 0, near, len(worth))
    free = (rank[order] < rank[near]) | (rank[near] >= 2 * goes)
    return np.concatenate([order[free], order[~free]])[:goes]


def _worth(
    corrector: Corrector, visible: Visibility, asked: I64, execution: Execution
) -> tuple[F64, I64]:
    """Return what each row is worth, without a sign unless it harms, and the position of its
    nearest one, -1 if it was not asked.

    Both are in the order of positions among all rows, removed ones included.
    """
    every = sum(segment.n for segment in corrector.rows.segments)
    worth, squares, nearest = np.zeros(every), np.zeros(every), np.full(every, -1)
    rows = OwnNeighbours(corrector, asked, visible, execution)
    for block in blocks(len(rows), rows.row_bytes + 16 * corrector.k * rows.width):
        near = rows.read(block)
        left, added = rows.added(block, near)
        strength, weights = corrector.strength, near.weights[:, :, None]
        mean = (weights * added).sum(axis=1, keepdims=True)
        alone = weights >= _WHOLE
        moved = weights / np.where(alone, 1.0, 1.0 - weights) * (mean - added)
        # Without its only neighbour a row has the base's answer.
        without = np.where(alone, 0.0, mean + moved)
        rise = _losses(left - strength * without, rows.classes) - _losses(
            left - strength * mean, rows.classes
        )
        at, rise = near.positions[near.there], rise[near.there]
        np.add.at(worth, at, rise)
        np.add.at(squares, at, np.square(rise))
        nearest[asked[block]] = near.positions[:, 0]
    harms = worth < -np.sqrt(squares)
    return np.where(harms, worth, np.abs(worth)), nearest


def _losses(off: F64, classes: bool) -> F64:
    """Return the losses of answers that are ``off`` (.., t), in the probability of the true class
    or in each value: (..)."""
    if classes:
        losses: F64 = -np.log(np.maximum(1.0 - np.maximum(off[..., 0], 0.0), _LEAST_CHANCE))
        return losses
    squares: F64 = np.square(off).sum(axis=-1)
    return squares
