"""What can be chosen of a memory that has rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from resmem._rows.stores import KeyDtype


@dataclass(frozen=True)
class Settings:
    """What can be chosen of a memory that is fitted."""

    k: int
    sigma: Any  # a number, or "auto" of a memory whose ``sigma`` is
    temperature: float
    strength: float
    probability_map: str = "clip"
    preprocess: str = "none"
    key_dtype: KeyDtype = "auto"  # as they are kept

    def __str__(self) -> str:
        sigma = self.sigma if self.sigma == "auto" else f"{self.sigma:.4g}"
        text = f"k={self.k}, sigma={sigma}, strength={self.strength:g}"
        usual = {"temperature": (1.0,), "probability_map": ("clip",), "preprocess": ("none",)}
        for name, untold in {**usual, "key_dtype": ("auto", "float32")}.items():
            value = getattr(self, name)
            if value not in untold:
                text += f", {name}={value:g}" if name == "temperature" else f", {name}={value}"
        return text


def checked_settings(settings: Any) -> None:
    """Refuse what is no ``Settings``, naming what the caller may have meant."""
    if isinstance(settings, Settings):
        return
    hint = "such as tune(..).best"
    if isinstance(getattr(settings, "best", None), Settings):
        hint = "pass its best"
    elif isinstance(settings, dict):
        one = next((name for name in settings if name in CHANGEABLE), "k")
        hint = f"to change some of them, set them by name: memory.{one} = {settings.get(one, 50)!r}"
    raise TypeError(f"settings must be resmem.Settings, got {type(settings).__name__}; {hint}")


CHANGEABLE = ("k", "sigma", "temperature", "strength", "probability_map")  # of a memory with rows
