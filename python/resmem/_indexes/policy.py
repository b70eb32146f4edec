"""When rows get an index: after so many queries that building one has paid."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy.typing as npt

import resmem._core as _core
from resmem._base.execution import Execution
from resmem._base.platform import after_fork_in_child
from resmem._indexes.decision import Decision, Index
from resmem._indexes.shape import CODED_ROWS_DIMENSIONS, LEAST_ROWS
from resmem._indexes.trial import decide

TRIAL_QUERIES = 6000  # queries after which a trial has paid: it takes as long as some 5,000 queries
# Queries in one call for which building a cascade pays: with coded rows, which save most, and
# without them.
SINGLE_CALL_QUERIES, SINGLE_CALL_QUERIES_NARROW = 8000, 40_000
# The same for a tree, which pays in up to 4 dimensions: it is built in the time of 1,000 to 3,000
# queries without it and tried in that of 1,000 more. In 5 or 6 dimensions 8,000 queries may be too
# few for it.
_TREE_PAYS_DIMENSIONS, SINGLE_CALL_QUERIES_TREE = 4, 6000


def worth_at_once(queries: int, d: int, metric: str) -> bool:
    """Tell whether a single search of this many queries gains by building its own index."""
    if d <= _TREE_PAYS_DIMENSIONS and "euclidean" in metric:
        return queries >= SINGLE_CALL_QUERIES_TREE
    return queries >= (
        SINGLE_CALL_QUERIES_NARROW if d < CODED_ROWS_DIMENSIONS else SINGLE_CALL_QUERIES
    )


class Planner:
    """Counts the queries of a segment, and decides about an index once building one has paid."""

    def __init__(
        self, most_trials: int = 4, read: Callable[[], Decision | None] | None = None
    ) -> None:
        """``read`` loads an earlier decision from a file, when the decision is first needed."""
        self._decision: Decision | None = None
        self._read = read
        self._most_trials = most_trials
        self._queries = 0  # since the last decision
        self._make_locks()

    def _make_locks(self) -> None:
        self._building = threading.RLock()
        self._builder: int | None = None  # id of the thread that holds ``_building``
        self._reading = threading.RLock()
        _planners.add(self)

    @property
    def decision(self) -> Decision | None:
        """The present decision, read from its file if that has not been done yet."""
        if self._read is not None:
            with self._reading:
                if self._read is not None and self._decision is None:
                    self._decision = self._read()
                self._read = None
        return self._decision

    def mark_stored(self, decision: Decision, stored: tuple[str, int]) -> None:
        """Record where a decision has been saved, unless it is no longer the present one."""
        if self._decision is decision:
            self._decision = replace(decision, stored=stored)

    def index_of(self, keys: npt.NDArray[Any], queries: int) -> Index | None:
        """Return the index of the first of these rows, if it is used for this many queries."""
        decision = self.decision
        if decision is None or decision.keys is not keys:
            return None
        return decision.index if decision.serves(queries) else None

    def note_queries(
        self,
        segment: _core.Segment,
        keys: npt.NDArray[Any],
        queries: int,
        k: int,
        execution: Execution,
        at_once: bool = False,
        metric: str = "euclidean",
    ) -> None:
        """Count the queries of a search that is about to run, and decide if an index would pay.

        ``keys`` is the array whose first rows are the segment's. With ``at_once`` it
        decides now, whatever was counted, and waits for a thread that is building already.
        """
        n = len(segment)
        if not self._worth_deciding(n, at_once):
            return
        self._queries += queries
        if not at_once and self._queries < TRIAL_QUERIES:
            return
        if self._builder == threading.get_ident():  # a signal handler must not wait for the
            return  # build that it interrupts
        building = self._building  # a child that is forked meanwhile gets a new lock
        if not building.acquire(blocking=at_once):  # other searches run without an index meanwhile
            return
        try:
            self._builder = threading.get_ident()
            if self._worth_deciding(n, at_once):  # another thread may have decided meanwhile
                self._decision = decide(segment, keys, k, execution, self._most_trials, metric)
                self._queries = 0
        finally:
            self._builder = None
            building.release()

    def _worth_deciding(self, n: int, at_once: bool) -> bool:
        """Tell whether enough of the ``n`` rows came after the last decision for a new one."""
        decision = self.decision
        decided = 0 if decision is None else decision.rows
        new = n - decided
        return n >= LEAST_ROWS and new > max(0 if at_once else LEAST_ROWS - 1, decided // 4)


# After a fork, planners get new locks: a lock that another thread of the parent held would stay
# locked in the child for ever.
_planners: weakref.WeakSet[Planner] = weakref.WeakSet()


def _renew_locks() -> None:
    for planner in list(_planners):
        planner._make_locks()


after_fork_in_child(_renew_locks)
