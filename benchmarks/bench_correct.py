"""The whole correction: base output, search, weights and weighted residuals."""

from __future__ import annotations

from arena import Result

MEMORY_LIMIT = 64 << 20  # anonymous memory beyond the stored memory and the outputs


def test_correct(replay: Result) -> None:
    """resmem must have the oracle's bits and stay within its memory."""
    if replay.label == "resmem":
        assert replay.exact
        assert replay.extra_bytes <= MEMORY_LIMIT
