"""Evaluation: what a memory changes on rows whose targets are known, for better and worse."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from resmem._base import checks
from resmem._base.arrays import F64, I64, distinct, quantiles
from resmem._base.blocks import blocks
from resmem._base.errors import warn
from resmem._base.execution import Execution, execution_of
from resmem._base.sample import sample
from resmem._correction.correct import Corrector
from resmem._correction.own_rows import refuse_known_targets
from resmem._evaluation.explain import Explanation
from resmem._evaluation.methods import Comparison, Judged
from resmem._evaluation.result import Evaluation, MethodResult
from resmem._evaluation.rows import EvaluatedRows, GivenRows, OwnRows
from resmem._evaluation.tallies import ClassTally, Mask, Tally, ValueTally
from resmem._rows.visibility import Visibility
from resmem._scores.groups import labelled_groups
from resmem._scores.intervals import Interval, paired_interval
from resmem._scores.metrics import gains_of, reliability
from resmem._scores.trained import note_of_trained_rows

_MOST_EXAMPLES = 50  # rows listed as corrected, and as harmed
_MOST_EXPLAINED = 4  # of each, those that are explained
_COLUMNS_EXPLAINED = 5  # in regression
_MOST_GROUPS = 1000  # groups whose scores are listed
_MOST_OWN_ROWS = 10_000  # rows of the memory that stand in for others

Tallies: TypeAlias = "dict[str, Tally]"


def evaluate(
    judged: Judged, embeddings: Any, outputs: Any, targets: Any, *, visible: Visibility, knn: Any,
    buckets: int, bins: int, groups: Any, loo: bool, published: Judged | None, seed: int,
    threads: int | None,
) -> Evaluation:  # fmt: skip
    """See ``Memory.evaluate``."""
    buckets, bins = checks.count(buckets, "buckets"), checks.count(bins, "bins")
    given, execution = (embeddings, outputs, targets, visible), execution_of(threads)
    if loo and (
        any(part is not None for part in (*given[:3], groups, published)) or not visible.of_own_rows
    ):
        raise ValueError(
            "loo=True evaluates the memory's own rows: leave out embeddings, outputs, targets, "
            "exclude_ids, groups (among a row's neighbours are rows of its group) and published; "
            "before and exclude_groups may be 'own'"
        )
    if not loo and (embeddings is None or targets is None):
        raise TypeError(
            "evaluate needs rows to predict: give embeddings, outputs and targets, or loo=True to "
            "evaluate the memory's own rows"
        )
    comparison = Comparison(judged, knn, published, execution)
    rows: EvaluatedRows
    grouping = None
    if loo:
        rows = _own_rows(comparison, visible, seed, execution)
        if visible.exclude_groups is not None:
            grouping = _Grouping.of(rows.groups(), len(rows))
    else:
        k = comparison.most_neighbours
        rows = GivenRows(comparison.corrector, k, *given, execution)
        grouping = None if groups is None else _Grouping.of(groups, len(rows))
    tallies, nearest = _tallied(comparison, rows)
    _warn(tallies, rows, comparison.corrector, loo)
    return _Summary(comparison, rows, tallies, nearest, grouping).evaluation(buckets, bins)


class _Grouping(NamedTuple):
    """The group of each row."""

    numbers: I64  # (q,)
    labels: list[Hashable]

    @staticmethod
    def of(groups: Any, n: int) -> _Grouping:
        found = _Grouping(*labelled_groups(groups))
        checks.same_length("groups", len(found.numbers), "embeddings", n)
        if len(found.labels) == 1:
            warn(
                f"evaluate: all rows are of one group, {found.labels[0]!r}, so that intervals are "
                "infinite; groups must be at least two"
            )
        return found


def _own_rows(
    comparison: Comparison, visible: Visibility, seed: int, execution: Execution
) -> OwnRows:
    """Return rows of the memory, each to be judged without itself."""
    corrector = comparison.corrector
    n, store = len(corrector.rows), corrector.spec.store
    if n < 2:
        raise ValueError(f"evaluate needs a memory with two rows for loo=True, this one has {n}")
    if not corrector.spec.gives_outputs:
        raise ValueError(
            "loo=True needs the base model's outputs of the rows, which "
            f"store={store.name!r} does not keep; evaluate other rows"
        )
    refuse_known_targets(corrector.spec.preprocess)
    seed = checks.seed(seed)
    some = sample(n, _MOST_OWN_ROWS, seed)
    k = comparison.most_neighbours
    return OwnRows(corrector, k, corrector.rows.numbered(some), visible, execution)


def _tallied(comparison: Comparison, rows: EvaluatedRows) -> tuple[Tallies, F64]:
    """Return the tally of each method by name, and the distances (q,) to the nearest rows."""
    q, columns = len(rows), comparison.corrector.rows.columns
    if q == 0:
        raise ValueError("embeddings must have at least one row to evaluate, got none")
    if comparison.other is not None and isinstance(rows, GivenRows):
        comparison.other.search(rows)
    tallies = {method.name: rows.tally() for method in comparison.methods}
    nearest = np.empty(q)
    for block in blocks(q, 24 * comparison.most_neighbours + 96 * columns):
        read = rows.read(block)
        nearest[block] = read.distances[:, 0]
        predictions = comparison.block(block, read)
        for method in comparison.methods:
            tallies[method.name].add(block, method.predict(predictions), read.targets)
        rows.release(block)
    return tallies, nearest


def _warn(tallies: Tallies, rows: EvaluatedRows, corrector: Corrector, loo: bool) -> None:
    """Warn of rows that prove little: known ones, and impossible ones."""
    base = tallies["base"]
    if note := rows.note():
        warn(f"evaluate: {note}")
    if loo and (note := note_of_trained_rows(base.error_sizes, tallies["kNN alone"].error_sizes)):
        warn(f"evaluate: {note}")
    if isinstance(base, ClassTally) and (impossible := np.flatnonzero(base.true == 0)).size:
        warn(
            f"evaluate: the base gives exactly 0 to the class of {impossible.size} of "
            f"{len(base.true)} rows, the first of them row {impossible[0]}, so its log-loss is "
            "infinite; compare by accuracy or Brier score, or leave these rows out"
        )
    if note := _note_of_ruled_out_classes(tallies, corrector):
        warn(f"evaluate: {note}")


def _note_of_ruled_out_classes(tallies: Tallies, corrector: Corrector) -> str | None:
    """Return a note if the last method alone gives 0 to the class of some rows."""
    base, last = tallies["base"], list(tallies.values())[-1]
    if not (isinstance(base, ClassTally) and isinstance(last, ClassTally)):
        return None
    ruled_out = int(((last.true == 0) & (base.true > 0)).sum())
    if ruled_out == 0:
        return None
    cure = "compare by accuracy or Brier score"
    if corrector.method == "targets" and corrector.strength == 1:
        cure = "a strength below 1 leaves every class a share of the base's probability"
    return (
        f"the memory gives exactly 0 to the class of {ruled_out} of {len(last.true)} rows, to "
        f"which the base does not, so its log-loss is infinite; {cure}"
    )


# -------------------------------------------------------------------- summaries


class _Summary:
    """What was kept of all methods, in the numbers that an ``Evaluation`` gives."""

    def __init__(
        self, comparison: Comparison, rows: EvaluatedRows, tallies: Tallies, nearest: F64,
        grouping: _Grouping | None,
    ) -> None:  # fmt: skip
        self._comparison, self._rows, self._tallies = comparison, rows, tallies
        self._nearest, self._grouping = nearest, grouping
        self._labels = comparison.corrector.spec.labels
        self._base, self._last = tallies["base"], list(tallies.values())[-1]
        names = {method.kind: method.name for method in comparison.methods}
        # The first is what gains by group and by distance are measured over.
        own_temperature = [names["own temperature"]] if "own temperature" in names else []
        self._rivals = [*own_temperature, "base", names["neighbours"]]
        if not comparison.is_interpolation:
            self._rivals.append(names["interpolation"])
        changes = self._last.changes_from(self._base)
        self._changed = dict(zip(("corrected", "harmed"), changes[:2], strict=True))
        self._change = changes[2]

    def evaluation(self, buckets: int, bins: int) -> Evaluation:
        comparison, tallies, classes = self._comparison, self._tallies, self._rows.classes
        examples = {kind: _most_changed(mask, self._change) for kind, mask in self._changed.items()}
        explained = sorted(row for rows in examples.values() for row in rows[:_MOST_EXPLAINED])
        calibration = {
            name: _reliability_bins(tally, bins)
            for name, tally in tallies.items()
            if isinstance(tally, ClassTally)
        }
        return Evaluation(
            task=comparison.corrector.spec.task,
            rows=len(self._nearest),
            settings=comparison.settings,
            methods=tuple(
                self._result(method.kind, method.name, bins) for method in comparison.methods
            ),
            over={name: self._gain(self._last, tallies[name]) for name in self._rivals},
            by_class=None if classes is None else self._by_class(classes),
            by_output=self._by_output(),
            by_group=None if self._grouping is None else self._by_group(*self._grouping),
            by_distance=[self._bucket(at) for at in _distance_buckets(self._nearest, buckets)],
            reliability=calibration or None,
            examples={kind: self._rows.numbers(rows) for kind, rows in examples.items()},
            explained=self._rows.numbers(explained),
            explanation=self._explanation(explained),
            memory=_memory_facts(comparison.judged),
            groups=None if self._grouping is None else len(self._grouping.labels),
            least_gain=None if self._grouping is None else self._least_gain(*self._grouping),
            classes=None if self._labels is None else self._labels.names,
        )

    def _result(self, kind: str, name: str, bins: int) -> MethodResult:
        tally = self._tallies[name]
        corrected, harmed, _ = tally.changes_from(self._base)
        gain = None if kind == "base" else self._gain(tally, self._base)
        counts = int(corrected.sum()), int(harmed.sum())
        return MethodResult(name, kind, tally.scores(bins), *counts, gain)

    def _by_class(self, classes: I64) -> list[dict[str, Any]]:
        """Return the scores and changes of the rows of each class that occurs."""
        rows = np.bincount(classes)

        def total(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return np.bincount(classes, values)

        tallies: dict[str, Any] = self._tallies
        sums = {name: (total(tally.right), total(tally.loss)) for name, tally in tallies.items()}
        changes = {kind: total(mask) for kind, mask in self._changed.items()}
        return [
            {
                "class": int(c),
                **({} if self._labels is None else {"label": self._labels.names[c]}),
                "rows": int(rows[c]),
                **{
                    name: {
                        "accuracy": float(right[c] / rows[c]),
                        "log_loss": float(loss[c] / rows[c]),
                    }
                    for name, (right, loss) in sums.items()
                },
                **{kind: int(count[c]) for kind, count in changes.items()},
            }
            for c in np.flatnonzero(rows)
        ]

    def _by_output(self) -> list[dict[str, Any]] | None:
        """Return the scores of each column of a regression with several."""
        rows = self._comparison.corrector.rows
        if not isinstance(self._last, ValueTally) or rows.columns == 1:
            return None
        tallies: dict[str, Any] = self._tallies
        return [
            {
                "output": column if rows.output_names is None else rows.output_names[column],
                **{name: tally.scores_of_column(column) for name, tally in tallies.items()},
            }
            for column in range(rows.columns)
        ]

    def _by_group(self, numbers: I64, labels: list[Hashable]) -> list[dict[str, Any]]:
        """Return the scores of the groups in which the last method's mean loss is largest."""
        counts = np.bincount(numbers)
        means = np.bincount(numbers, self._last.loss) / counts
        members = np.split(np.argsort(numbers, kind="stable"), np.cumsum(counts)[:-1])
        worst = np.argsort(-means, kind="stable")[:_MOST_GROUPS]
        return [{"group": labels[g], **self._part(members[g], clustered=False)} for g in worst]

    def _least_gain(self, numbers: I64, labels: list[Hashable]) -> dict[str, Any]:
        """Return the scores of the group, of all, whose mean gain is least."""
        gains = gains_of(self._last.loss, self._tallies[self._rivals[0]].loss)
        means = np.bincount(numbers, gains) / np.bincount(numbers)
        least = int(np.argmin(np.where(np.isnan(means), np.inf, means)))
        members = np.flatnonzero(numbers == least)
        return {"group": labels[least], **self._part(members, clustered=False)}

    def _bucket(self, at: I64) -> dict[str, Any]:
        """Return the scores of the rows ``at`` of one bucket of distances."""
        nearest = self._nearest[at]
        ends = {"from": float(nearest.min()), "to": float(nearest.max())}
        return {**ends, **self._part(at)}

    def _part(self, at: I64, clustered: bool = True) -> dict[str, Any]:
        """Return the scores of some rows, and what the last method changed on them."""
        gain = self._gain(self._last, self._tallies[self._rivals[0]], at, clustered)
        return {
            "rows": len(at),
            **{name: tally.mean_score(at) for name, tally in self._tallies.items()},
            **{kind: int(mask[at].sum()) for kind, mask in self._changed.items()},
            "gain": gain.mean,
            "low": gain.low,
            "high": gain.high,
        }

    def _gain(
        self, tally: Tally, other: Tally, at: I64 | slice = slice(None), clustered: bool = True
    ) -> Interval:
        """Return the gain of a method over another one on some rows."""
        groups = None
        if self._grouping is not None and clustered:
            groups = self._grouping.numbers[at]
        return paired_interval(gains_of(tally.loss[at], other.loss[at]), groups=groups)

    def _explanation(self, rows: list[int]) -> Explanation | None:
        """Return which neighbours changed some rows; for classes, in the columns before and
        after."""
        if not rows:
            return None
        base, last = self._base, self._last
        columns = None
        if isinstance(base, ClassTally) and isinstance(last, ClassTally):
            columns = np.stack([base.chosen[rows], last.chosen[rows]], axis=1)
        return self._rows.explain(rows, columns, _COLUMNS_EXPLAINED)


def _memory_facts(judged: Judged) -> dict[str, Any]:
    """Return what a memory holds, and in which form."""
    rows, spec = judged.view.fitted_rows, judged.view.spec
    return {
        "rows": len(rows),
        "dimensions": rows.d,
        "outputs": rows.columns,
        "output_kind": spec.output_kind,
        "bytes": rows.nbytes,
        "store": spec.store.name,
        "preprocess": spec.preprocess.name,
        "key_dtype": spec.key_dtype,
        "metric": spec.metric,
        "residuals": judged.residuals,
    }


def _distance_buckets(nearest: F64, buckets: int) -> list[I64]:
    """Return the rows of each bucket of distances, nearest first.

    Buckets have about one size, except that equal distances stay together; rows without neighbours
    are the last bucket.
    """
    known = np.isfinite(nearest)
    number = np.full(len(nearest), buckets)
    if known.any():
        inner = distinct(quantiles(nearest[known], np.arange(1, buckets) / buckets))
        number[known] = np.searchsorted(inner, nearest[known], side="right")
    return [np.flatnonzero(number == n) for n in distinct(number)]


def _reliability_bins(tally: ClassTally, bins: int) -> list[dict[str, Any]]:
    """Return the bins of a method's reliability diagram."""
    columns = zip(*reliability(tally.top, tally.right, bins), strict=True)
    return [
        {
            "low": b / bins,
            "high": (b + 1) / bins,
            "rows": int(rows),
            "confidence": float(confidence),
            "accuracy": float(accuracy),
        }
        for b, (rows, confidence, accuracy) in enumerate(columns)
    ]


def _most_changed(mask: Mask, change: F64) -> list[int]:
    """Return the rows of the mask that changed most, largest change first."""
    rows = np.flatnonzero(mask)
    order = np.argsort(-np.abs(change[rows]), kind="stable")
    return [int(row) for row in rows[order][:_MOST_EXAMPLES]]
