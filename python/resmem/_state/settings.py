"""What can be chosen of a memory that has rows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from resmem._base import checks
from resmem._keys.preprocess import NO_PREPROCESS, Preprocess, preprocess_named
from resmem._keys.stored import KEY_DTYPES, KeyDtype
from resmem._rows.spec import Spec
from resmem._rows.stores.store import Store


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


_KINDS = {"classification": ("logits", "probabilities"), "regression": ("values",)}


SETTINGS = (
    "task", "output_kind", "k", "sigma", "temperature", "strength",
    "preprocess", "key_dtype", "residual_dtype", "store", "base",
    "probability_map",
)  # fmt: skip


def identity(base: Any) -> Any:
    """A base's description as a file keeps it."""
    if base is None or isinstance(base, str):
        return base
    if not isinstance(base, dict):
        raise TypeError(f"base must be a string or a dict, got {type(base).__name__}")
    try:
        return json.loads(json.dumps(base, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"base must hold what JSON can: strings, numbers, lists, dicts ({error})"
        ) from error


def checked_keys(preprocess: Any, key_dtype: Any, store: Store) -> Preprocess:
    """The preprocess called so; refused if keys cannot be kept like this."""
    if not isinstance(key_dtype, str) or key_dtype not in ("auto", *KEY_DTYPES):
        names = ", ".join(map(repr, ("auto", *KEY_DTYPES)))
        raise ValueError(f"key_dtype must be one of {names}, got {key_dtype!r}")
    method = preprocess_named(preprocess)
    if key_dtype == "float64" and (store.has_layer or method.linear):
        what = f"store={store.name!r}" if store.has_layer else f"preprocess={preprocess!r}"
        raise ValueError(
            f"key_dtype='float64' does not go with {what}, whose layer works on float32; "
            "use key_dtype='auto'"
        )
    if store.has_layer and method != NO_PREPROCESS:
        raise ValueError(
            f"store={store.name!r} needs preprocess='none', as its layer reads the embeddings from "
            f"the keys, got {preprocess!r}"
        )
    return method


def checked_sigma(value: Any) -> float | Literal["auto"]:
    if not isinstance(value, str):
        return checks.positive(value, "sigma", " or 'auto'", infinite=True)
    if value != "auto":
        raise ValueError(f"sigma must be a positive number or 'auto', got {value!r}")
    return "auto"


def checked_temperature(value: Any, spec: Spec) -> float:
    temperature = checks.positive(value, "temperature")
    if not 1e-100 <= temperature <= 1e100:  # so that logits / T stays finite
        raise ValueError(f"temperature must lie between 1e-100 and 1e100, got {value!r}")
    if spec.output_kind != "logits" and temperature != 1:
        raise ValueError(
            f"temperature must be 1 for {spec.output_kind}, got {value!r}: only logits have one"
        )
    return temperature


def checked_kind(task: Any, output_kind: Any) -> str:
    """What outputs are, by default those of the task."""
    if not isinstance(task, str) or task not in _KINDS:
        raise ValueError(f"task must be 'classification' or 'regression', got {task!r}")
    kind: str = _KINDS[task][0] if output_kind is None else output_kind
    if kind not in _KINDS[task]:
        names = " or ".join(map(repr, _KINDS[task]))
        raise ValueError(f"output_kind must be {names} for {task}, got {output_kind!r}")
    return kind
