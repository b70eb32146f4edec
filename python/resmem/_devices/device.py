"""A device on which a call or a memory works."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["cpu", "cuda", "emulated"]


@dataclass(frozen=True)
class Device:
    """The CPU, or a CUDA device with the extension that drives it."""

    kind: Kind
    ordinal: int = 0  # CUDA's number of the device, as CUDA_VISIBLE_DEVICES leaves them
    extension: Any = None  # resmem._cuda, or resmem._cuda_emulated; None for the CPU

    def __str__(self) -> str:
        """Return the name by which callers choose the device."""
        if self.kind == "emulated":
            return "cuda:emulated" + (f":{self.ordinal}" if self.ordinal else "")
        return "cpu" if self.kind == "cpu" else f"cuda:{self.ordinal}"

    def sibling(self, ordinal: int) -> Device:
        """Return the device of this number that the same extension drives."""
        return replace(self, ordinal=ordinal)


CPU = Device("cpu")


def handle_of(stream: int) -> int:
    """Return a stream's address with one name, 0, for the legacy default stream, which has two.

    DLPack and ``__cuda_array_interface__`` call it 1, and CUDA knows both.
    """
    return 0 if stream == 1 else stream
