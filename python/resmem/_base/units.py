"""Numbers for people: bytes and times."""

from __future__ import annotations


def in_time(milliseconds: float) -> str:
    """A duration for people, with two digits."""
    if milliseconds >= 1000:
        return f"{float(f'{milliseconds / 1000:.2g}'):,g} s"
    return f"{float(f'{milliseconds:.2g}'):g} ms"


def in_bytes(count: int) -> str:
    """A number of bytes for people."""
    value, units = float(count), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1023.95 and len(units) > 1:  # which would be shown as 1024.0
        value, units = value / 1024, units[1:]
    return f"{count} bytes" if units[0] == "bytes" else f"{value:.1f} {units[0]}"
