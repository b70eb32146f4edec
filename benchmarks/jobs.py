"""The jobs of a worker for each kind of case: load a shape, then answer calls."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import data
from cases import Case
from data import AnyArray, Shape
from peers import PEERS, Peer
from peers_residual import AGGREGATORS, CORRECTORS, Aggregator, Corrector

Answer = tuple[AnyArray, ...]


class Timing(NamedTuple):
    """The seconds of one call, and the processor time of the whole timing."""

    seconds: float
    processor: float


class Job(Protocol):
    """A job; call ``i`` of a case takes its own queries, so that nothing is answered twice."""

    def load(self, shape: Shape) -> None: ...
    def call(self, label: str, case: Case, i: int) -> Answer: ...


class SearchJob:
    """Answers with (distances, ids)."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    def load(self, shape: Shape) -> None:
        rows, self.queries = data.embeddings(shape)
        self.peer.load(rows)

    def call(self, label: str, case: Case, i: int) -> Answer:
        start = i * case.queries % (len(self.queries) - case.queries + 1)
        return self.peer.search(label, self.queries[start : start + case.queries], case.k)


class AggregateJob:
    """Answers with the sums of weighted residuals."""

    def __init__(self, aggregator: Aggregator) -> None:
        self.aggregator = aggregator

    def load(self, shape: Shape) -> None:
        self.aggregator.load(data.residuals(shape))
        self.distances, self.ids = data.neighbours(shape, shape.queries, shape.ks[-1])

    def call(self, label: str, case: Case, i: int) -> Answer:
        block = slice(case.queries)
        return (self.aggregator.aggregate(self.distances[block], self.ids[block]),)


class CorrectJob:
    """Answers with the corrected outputs."""

    def __init__(self, corrector: Corrector) -> None:
        self.corrector = corrector

    def load(self, shape: Shape) -> None:
        rows, self.queries = data.embeddings(shape)
        self.corrector.load(rows, *data.logits(shape, shape.rows, part=0))
        self.logits, _ = data.logits(shape, shape.queries, part=1)

    def call(self, label: str, case: Case, i: int) -> Answer:
        block = slice(case.queries)
        return (self.corrector.correct(self.queries[block], self.logits[block], case.k),)


def make(group: str, label: str, threads: int) -> Job:
    """Return the job of one contender; an ImportError means that its library is missing."""
    if group == "aggregate":
        return AggregateJob(AGGREGATORS[label](threads))
    if group == "correct":
        return CorrectJob(CORRECTORS[label](threads))
    return SearchJob(PEERS[label](threads))


def environment(group: str, label: str) -> dict[str, str]:
    """Return the variables that a contender needs before its process starts."""
    contenders: dict[str, Any] = {"aggregate": AGGREGATORS, "correct": CORRECTORS}.get(group, PEERS)
    found: dict[str, str] = getattr(contenders[label], "environment", {})
    return found


def library(group: str, label: str) -> str:
    """Return the name of a contender's worker; labels with the same name share a process."""
    return PEERS[label].__name__ if group == "search" else label
