"""The growth of a memory since its sigma or its preprocess was measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

_GROWTH_FACTOR = 8  # a warning is due whenever rows have grown by this factor again


@dataclass(frozen=True)
class Basis:
    """The number of rows that a value was measured on, and the growth warned about since."""

    rows: int | None = None  # None: unknown, or nothing was measured
    told: int = 0  # a warning was given at 8^told times as many rows

    def at(self, rows: int) -> Basis:
        """Return the basis after growth to ``rows``; its ``told`` is larger if a warning is due."""
        if not self.rows:
            return self
        told = self.told
        while rows >= self.rows * _GROWTH_FACTOR ** (told + 1):
            told += 1
        return replace(self, told=told)


UNKNOWN = Basis()
