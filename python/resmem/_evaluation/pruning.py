"""Pruning: how small a memory can become without clear loss, on rows that did not say what goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from resmem._base import checks
from resmem._base.arrays import F64, I64
from resmem._base.blocks import blocks
from resmem._base.errors import warn
from resmem._base.execution import Execution, execution_of
from resmem._base.sample import sample
from resmem._correction.correct import Corrector
from resmem._correction.own_rows import refuse_known_targets
from resmem._evaluation.pruning_result import CurvePoint, Pruning
from resmem._evaluation.removal import Mask, rounds
from resmem._evaluation.rows import EvaluatedRows, GivenRows, OwnRows
from resmem._rows.visibility import OWN, Visibility
from resmem._scores.intervals import checked_confidence, paired_interval
from resmem._scores.metrics import losses_of

_LEAST_SHARE = 0.05  # of the rows, the smallest memory of a curve
_LOST_SHARE = 0.1  # of the gain over the base, what may be lost in the mean
_MOST_OWN_ROWS = 10_000  # rows of the memory that judge the curve
_OWN_SHARE = 4  # at most one in so many rows judges
_DRAWS = 3  # random prunings of as many rows, whose losses are averaged
_LEAST_CHANCE = float(np.finfo(np.float64).tiny)  # below it a loss counts as this one's, 708


@dataclass(frozen=True)
class _Judges:
    """The rows whose losses make the curve."""

    rows: EvaluatedRows
    name: str
    asked: I64  # positions of the memory's rows that may say which rows go


def prune(
    corrector: Corrector, given: tuple[Any, Any, Any], visible: Visibility, keep: float | None,
    confidence: float, seed: int, threads: int | None,
) -> Pruning:  # fmt: skip
    """See ``Memory.prune``; the memory stays as it is."""
    execution = execution_of(threads)
    n, least = len(corrector.rows), _least_rows(corrector, keep)
    checked_confidence(confidence)
    seed = checks.seed(seed)
    judges = _judges(corrector, given, visible, seed, execution)
    base, full = _losses(corrector, judges.rows, execution)
    if isinstance(judges.rows, GivenRows) and (note := judges.rows.note()):
        warn(f"prune: {note}")
    random = [_permutation(n, seed + draw) for draw in range(_DRAWS)]

    def point(kept: Mask) -> CurvePoint:
        count = int(kept.sum())
        loss = _losses(corrector, judges.rows.among(kept), execution)[1]
        drawn = [_losses(corrector, judges.rows.among(_only(order[:count], n)), execution)[1]
                 for order in random]  # fmt: skip
        other = np.mean(drawn, axis=0)
        return CurvePoint(
            count, float(loss.mean()), paired_interval(loss - full, confidence),
            float(other.mean()), paired_interval(other - loss, confidence),
        )  # fmt: skip

    own = None if visible.before is None else OWN, None if visible.exclude_groups is None else OWN
    masks = [np.ones(n, dtype=bool)]
    masks += rounds(corrector, Visibility(None, None, *own), judges.asked, least, execution)
    curve = tuple(point(kept) for kept in masks)
    chosen, reason = len(curve) - 1, f"keep={keep} was asked for"
    if keep is None:
        chosen, reason = _smallest_without_loss(curve, float(base.mean()))
    return Pruning(
        task=corrector.spec.task,
        memory_rows=n,
        kept_rows=curve[chosen].rows,
        ids=corrector.rows.ids[~masks[chosen]],
        curve=curve,
        base_loss=float(base.mean()),
        judged_by=judges.name,
        judged_rows=len(judges.rows),
        confidence=confidence,
        reason=reason,
        applied=False,
    )


def _least_rows(corrector: Corrector, keep: float | None) -> int:
    """Return how many rows are kept at least; raise if nothing can be pruned."""
    n = len(corrector.rows)
    if n < 2:
        raise ValueError(f"prune needs a memory with at least 2 rows, this one has {n}")
    if corrector.strength == 0:
        raise ValueError(
            "prune asks which rows answers need, and at strength 0 they need none; set "
            "memory.strength = 1, or tune"
        )
    share = _LEAST_SHARE if keep is None else checks.number(keep, "keep")
    if not 0 < share <= 1:
        raise ValueError(f"keep must be above 0 and at most 1, got {keep!r}")
    return max(1, round(share * n))


def _judges(
    corrector: Corrector, given: tuple[Any, Any, Any], visible: Visibility, seed: int,
    execution: Execution,
) -> _Judges:  # fmt: skip
    """Return the validation rows, or rows of the memory that then do not say which rows go."""
    embeddings, outputs, targets = given
    n, k = len(corrector.rows), corrector.k
    every = corrector.rows.numbered(np.arange(n))
    if embeddings is not None:
        if targets is None:
            raise TypeError("prune needs the targets of the validation rows, got None")
        rows = GivenRows(corrector, k, *given, visible, execution)
        if len(rows) == 0:
            raise ValueError("embeddings must have at least one row to judge, got none")
        return _Judges(rows, "validation rows", every)
    if outputs is not None or targets is not None or not visible.of_own_rows:
        raise ValueError(
            "without embeddings prune judges the memory's own rows: leave out outputs, targets and "
            "exclude_ids; before and exclude_groups may be 'own'"
        )
    store = corrector.spec.store
    if not corrector.spec.gives_outputs:
        raise ValueError(
            "prune needs the base model's outputs of the rows that judge, which "
            f"store={store.name!r} does not keep; give validation rows"
        )
    refuse_known_targets(corrector.spec.preprocess, "prune()")
    some = sample(n, max(1, min(_MOST_OWN_ROWS, n // _OWN_SHARE)), seed)
    own = OwnRows(corrector, k, every[some], visible, execution)
    return _Judges(own, "rows of the memory", np.delete(every, some))


def _losses(corrector: Corrector, rows: EvaluatedRows, execution: Execution) -> tuple[F64, F64]:
    """Return the losses (q,) of the base model and of the memory."""
    q, columns = len(rows), corrector.rows.columns
    base, loss = np.empty((2, q))
    for block in blocks(q, 24 * corrector.k + 48 * columns):
        read = rows.read(block)
        plain = corrector.spec.base(read.outputs, corrector.rows.temperature, execution)
        values = corrector.corrected(plain, read.distances, read.positions, execution)
        for losses, found in ((base, plain), (loss, values)):
            if corrector.spec.task == "classification":
                chances = found[np.arange(len(found)), read.targets]
                losses[block] = losses_of(np.maximum(chances, _LEAST_CHANCE))
            else:
                losses[block] = np.square(found - read.targets).sum(axis=1)
        rows.release(block)
    return base, loss


def _permutation(n: int, seed: int) -> I64:
    return np.random.RandomState(seed % 2**32).permutation(n)


def _only(rows: I64, n: int) -> Mask:
    kept = np.zeros(n, dtype=bool)
    kept[rows] = True
    return kept


def _smallest_without_loss(curve: tuple[CurvePoint, ...], base: float) -> tuple[int, str]:
    """Return the number of the smallest memory before a loss is clear, and why it is that one.

    A rise of the mean loss must also leave most of the gain over the base: of few rows that judge,
    no loss is clear, however large it is.
    """
    allowed = max(0.0, _LOST_SHARE * (base - curve[0].loss))
    clear = next((i for i, at in enumerate(curve) if at.rise.low > 0), len(curve))
    fits = [i for i, at in enumerate(curve[:clear]) if at.rise.mean <= allowed]
    chosen = fits[-1]
    if chosen == len(curve) - 1:
        return chosen, "no smaller memory was tried, and this one has no clear loss"
    if chosen == 0:
        return 0, "every smaller memory that was tried loses"
    after = curve[chosen + 1]
    why = "is clear" if after.rise.low > 0 else f"is more than {_LOST_SHARE:.0%} of the gain"
    return chosen, f"the loss of {after.rows} rows, {after.rise.mean:+.3g}, {why}"
