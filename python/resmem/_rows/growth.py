"""How far a memory has outgrown the rows that something was measured on."""

from __future__ import annotations

from dataclasses import dataclass, replace

_MANY_TIMES = 8


@dataclass(frozen=True)
class Basis:
    """The number of rows that something was measured on, and what growth has been told of since."""

    rows: int | None = None  # None: unknown, or nothing was measured
    told: int = 0  # growth to 8^told times as many rows

    def at(self, rows: int) -> Basis:
        """As of so many rows; ``told`` is larger if this growth has not been told of yet."""
        if not self.rows:
            return self
        told = self.told
        while rows >= self.rows * _MANY_TIMES ** (told + 1):
            told += 1
        return replace(self, told=told)


UNKNOWN = Basis()
