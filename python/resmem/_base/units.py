"""Durations and numbers of bytes as text."""

from __future__ import annotations


def duration_text(milliseconds: float) -> str:
    """Return a duration with two significant digits and its unit."""
    if milliseconds >= 1000:
        return f"{float(f'{milliseconds / 1000:.2g}'):,g} s"
    return f"{float(f'{milliseconds:.2g}'):g} ms"


def bytes_text(count: int) -> str:
    """Return a number of bytes with one decimal and its unit."""
    value, units = float(count), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1023.95 and len(units) > 1:  # from here on it would be shown as 1024.0
        value, units = value / 1024, units[1:]
    return f"{count} bytes" if units[0] == "bytes" else f"{value:.1f} {units[0]}"
