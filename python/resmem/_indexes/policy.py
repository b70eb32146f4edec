"""When rows get an index: once their queries are so many that building one has paid."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy.typing as npt

from resmem._indexes.decision import Decision, Index
from resmem._indexes.shape import LEAST_ROWS, NARROW
from resmem._indexes.trial import KeySegment, decide

WORTH = 6000  # queries after which trying has paid: it takes as long as some 5,000
# Queries of one call that are worth building for, with coded rows, which save most, and without.
WORTH_AT_ONCE, WORTH_AT_ONCE_NARROW = 8000, 40_000
# In up to so many dimensions a tree pays within one call of so many queries: it is built in the
# time of 1,000 to 3,000 without it and tried in that of 1,000 more. In 5 or 6, not always in 8,000.
_NARROWEST, WORTH_AT_ONCE_TREE = 4, 6000


def worth_at_once(queries: int, d: int, metric: str) -> bool:
    """Whether a single search of so many queries gains by building for itself."""
    if d <= _NARROWEST and "euclidean" in metric:
        return queries >= WORTH_AT_ONCE_TREE
    return queries >= (WORTH_AT_ONCE_NARROW if d < NARROW else WORTH_AT_ONCE)


class Planner:
    """Counts the queries of a segment, and decides once building has paid."""

    def __init__(
        self, most_trials: int = 4, read: Callable[[], Decision | None] | None = None
    ) -> None:
        """``read``: gives what was decided before, when somebody first asks."""
        self._decision: Decision | None = None
        self._read = read
        self._most_trials = most_trials
        self._asked = 0
        self._live()

    def _live(self) -> None:
        self._building = threading.RLock()
        self._builder: int | None = None  # the thread that holds it
        self._reading = threading.RLock()
        _alive.add(self)

    @property
    def decision(self) -> Decision | None:
        if self._read is not None:
            with self._reading:
                if self._read is not None and self._decision is None:
                    self._decision = self._read()
                self._read = None
        return self._decision

    def lies_at(self, decision: Decision, stored: tuple[str, int]) -> None:
        """Told where a decision has been saved, unless there is a later one."""
        if self._decision is decision:
            self._decision = replace(decision, stored=stored)

    def index_of(self, keys: npt.NDArray[Any], queries: int) -> Index | None:
        """What was built of the first of these rows, if it serves so many queries."""
        decision = self.decision
        if decision is None or decision.keys is not keys:
            return None
        return decision.index if decision.serves(queries) else None

    def ask(
        self,
        segment: KeySegment,
        keys: npt.NDArray[Any],
        queries: int,
        k: int,
        threads: int,
        at_once: bool = False,
        metric: str = "euclidean",
    ) -> None:
        """Told before a search. ``keys``: the array whose first rows the segment's are."""
        n = len(segment[0])
        if not self._lacks(n, at_once):
            return
        self._asked += queries
        if not at_once and self._asked < WORTH:
            return
        if self._builder == threading.get_ident():  # a signal handler need not wait for what it
            return  # interrupts
        building = self._building  # a child that is forked meanwhile has another
        if not building.acquire(blocking=at_once):  # other searches go without meanwhile
            return
        try:
            self._builder = threading.get_ident()
            if self._lacks(n, at_once):  # still, after another thread may have built
                self._decision = decide(segment, keys, k, threads, self._most_trials, metric)
                self._asked = 0
        finally:
            self._builder = None
            building.release()

    def _lacks(self, n: int, at_once: bool) -> bool:
        """Whether so many rows are worth building for."""
        decision = self.decision
        known = 0 if decision is None else decision.rows
        new = n - known
        return n >= LEAST_ROWS and new > max(0 if at_once else LEAST_ROWS - 1, known // 4)


# A child forked while another thread was building would find its lock held for ever.
_alive: weakref.WeakSet[Planner] = weakref.WeakSet()


def _renew_locks() -> None:
    for planner in list(_alive):
        planner._live()


os.register_at_fork(after_in_child=_renew_locks)
