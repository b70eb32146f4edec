"""The cases of every kind, and the contenders that take part in them."""

from __future__ import annotations

from dataclasses import dataclass

from data import SHAPES, Shape, unavailable
from peers import PEERS
from peers_residual import AGGREGATORS, CORRECTORS

KINDS = ("search", "sweep", "single", "aggregate", "correct")
BATCHED = tuple(label for label in PEERS if label != "NumPy")
PREPARED = tuple(label for label in PEERS if label != "resmem one-shot")
LABELS = {
    "search": BATCHED,
    "sweep": tuple(label for label in BATCHED if label != "resmem one-shot"),
    "single": PREPARED,
    "scaling": ("resmem", "faiss, tuned"),  # used by scaling.py
    "aggregate": tuple(AGGREGATORS),
    "correct": tuple(CORRECTORS),
}
SHAPES_OF = {
    "search": tuple(SHAPES),
    "sweep": ("D",),
    "single": ("A", "B", "D"),
    "aggregate": ("A", "C"),
    "correct": ("A", "B", "C", "D"),
}
ON_REQUEST = ("equal", "isotropic")  # nothing to gain from, and slow for some
DEFAULT_SHAPES = tuple(name for name in SHAPES if name not in ON_REQUEST)
QUICK_SHAPES = ("A", "B", "D")
SWEEP = (1, 4, 16, 64, 256, 1000)
ROUNDS, QUICK_ROUNDS = 5, 3
SMALL = 16  # batches up to this size are timed several calls together
CALLS, CALL_FLOATS = 20, 10**9  # the least number of calls, or of row elements read


@dataclass(frozen=True)
class Case:
    """One workload for all contenders."""

    kind: str
    shape: Shape
    queries: int
    k: int
    threads: int
    rounds: int
    calls: int = 1  # calls timed together

    def __str__(self) -> str:
        return (
            f"{self.kind}  {self.shape}  q={self.queries:,} k={self.k}"
            f"  {self.threads} thread{'s' if self.threads > 1 else ''}"
        )

    @property
    def group(self) -> str:
        """Return the name of the group of cases that share their workers."""
        return self.kind if self.kind in ("aggregate", "correct") else "search"

    @property
    def label(self) -> str:
        """Return a short name for pytest."""
        return f"{self.shape.name}-q{self.queries}-k{self.k}-t{self.threads}"


def cases(
    kind: str, threads: tuple[int, ...], shapes: tuple[str, ...], rounds: int, quick: bool
) -> list[Case]:
    """Return all cases of ``kind``; empty ``shapes`` and zero ``rounds`` mean the defaults."""
    wanted = shapes or (QUICK_SHAPES if quick else DEFAULT_SHAPES)
    rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    return [
        Case(kind, shape, queries, k, count, rounds, call_count(shape, queries))
        for count in threads
        for shape in (SHAPES[name] for name in SHAPES_OF[kind])
        if shape.name in wanted and not unavailable(shape)
        for k in neighbour_counts(kind, shape, quick)
        for queries in query_counts(kind, shape, quick)
    ]


def neighbour_counts(kind: str, shape: Shape, quick: bool) -> tuple[int, ...]:
    """Return the ``k`` of a shape: all of them for a full search, else the last."""
    return shape.ks if kind == "search" and not quick else shape.ks[-1:]


def call_count(shape: Shape, queries: int) -> int:
    """Return the number of calls in one timing."""
    return max(CALLS, CALL_FLOATS // (shape.rows * shape.dim)) if queries <= SMALL else 1


def query_counts(kind: str, shape: Shape, quick: bool) -> tuple[int, ...]:
    """Return the batch sizes of a case."""
    if kind == "single":
        return (1,)
    most = shape.quick_queries if quick else shape.queries
    return tuple(q for q in SWEEP if q <= most) if kind == "sweep" else (most,)
