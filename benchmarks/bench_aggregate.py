"""Aggregation alone: weighted sums of residuals, neighbours given."""

from __future__ import annotations

from arena import Result


def test_aggregate(replay: Result) -> None:
    """resmem must have the oracle's bits."""
    assert replay.exact or replay.label != "resmem"
