"""Search: full batches, a sweep of batch sizes, single queries. The index is built before."""

from __future__ import annotations

from arena import Result


def check(result: Result) -> None:
    """resmem must have the oracle's bits; others are only measured."""
    assert result.exact or not result.label.startswith("resmem")


def test_search(replay: Result) -> None:
    check(replay)


def test_sweep(replay: Result) -> None:
    check(replay)


def test_single(replay: Result) -> None:
    check(replay)
