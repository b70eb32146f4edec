"""The settings of a memory, and the checks of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from resmem._base import checks
from resmem._base.labels import LabelTable
from resmem._correction.correct import METHODS, Method
from resmem._correction.gate import Gate, gate_named
from resmem._keys.preprocess import NO_PREPROCESS, Preprocess, preprocess_named
from resmem._keys.stored import KEY_DTYPES, KeyDtype
from resmem._rows.ages import Age, checked_age, in_own_unit
from resmem._rows.spec import Spec
from resmem._rows.stores.store import Store


@dataclass(frozen=True)
class Settings:
    """The settings that a memory computes with, and that can be changed after ``fit``.

    Attributes
    ----------
    k : int
        Neighbours per query.
    sigma : float or "auto"
        Length scale of the weights; "auto" only if the memory's own ``sigma`` is.
    temperature : float
        Softmax temperature of the logits.
    strength : float
        Factor of the correction.
    probability_map, preprocess, key_dtype : str
        As in ``Memory``; ``key_dtype`` is the one in which the keys are stored, or "auto", which
        leaves the keys that there are as they are.
    method, gate : str
        As in ``Memory``.
    """

    k: int
    sigma: Any  # float or "auto"
    temperature: float
    strength: float
    probability_map: str = "clip"
    preprocess: str = "none"
    key_dtype: KeyDtype = "auto"
    method: Method = "residual"
    gate: str = "none"

    def __str__(self) -> str:
        sigma = self.sigma if self.sigma == "auto" else f"{self.sigma:.4g}"
        text = f"k={self.k}, sigma={sigma}, strength={self.strength:g}"
        omitted: dict[str, tuple[Any, ...]] = {
            "temperature": (1.0,),
            # Targets need no map.
            "probability_map": ("clip", self.probability_map if self.method == "targets" else ""),
            "preprocess": ("none",),
            "key_dtype": ("auto", "float32"),
            "method": ("residual",),
            "gate": ("none",),
        }
        for name, usual in omitted.items():
            value = getattr(self, name)
            if value not in usual:
                text += f", {name}={value:g}" if name == "temperature" else f", {name}={value}"
        return text


def checked_settings(settings: Any) -> None:
    """Raise TypeError unless this is a ``Settings``; the message names what may have been meant."""
    if isinstance(settings, Settings):
        return
    hint = "such as tune(..).best"
    if isinstance(getattr(settings, "best", None), Settings):
        hint = "pass its best"
    elif isinstance(settings, dict):
        one = next((name for name in settings if name in CHANGEABLE), "k")
        hint = f"to change some of them, set them by name: memory.{one} = {settings.get(one, 50)!r}"
    raise TypeError(f"settings must be resmem.Settings, got {type(settings).__name__}; {hint}")


# Attributes of ``Memory`` that can be set after ``fit``.
CHANGEABLE = (
    "k", "sigma", "temperature", "strength", "probability_map", "method", "gate",
    "max_rows", "max_bytes", "max_age", "half_life",
)  # fmt: skip


_OUTPUT_KINDS = {
    "classification": ("logits", "probabilities", "none"),
    "regression": ("values", "none"),
}


# Arguments of ``Memory`` that files record.
SETTINGS = (
    "task", "output_kind", "k", "sigma", "temperature", "strength",
    "preprocess", "key_dtype", "metric", "residual_dtype", "store", "base",
    "probability_map", "method", "gate", "residuals", "classes",
    "max_rows", "max_bytes", "max_age", "half_life",
)  # fmt: skip

# What is known of the rows' residuals: whether the base model had been trained on the rows.
RESIDUALS = ("in-sample", "out-of-fold")


def described_base(base: Any) -> Any:
    """Return the description of a base model in the form in which a file keeps it."""
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
    """Return the preprocess with this name; raise ValueError if it does not go with the others."""
    if not isinstance(key_dtype, str) or key_dtype not in ("auto", *KEY_DTYPES):
        names = ", ".join(map(repr, ("auto", *KEY_DTYPES)))
        raise ValueError(f"key_dtype must be one of {names}, got {key_dtype!r}")
    method = preprocess_named(preprocess)
    if key_dtype == "float64" and (store.layer or method.linear):
        what = f"store={store.name!r}" if store.layer else f"preprocess={preprocess!r}"
        raise ValueError(
            f"key_dtype='float64' does not go with {what}, whose layer works on float32; "
            "use key_dtype='auto'"
        )
    if store.layer and method != NO_PREPROCESS:
        raise ValueError(
            f"store={store.name!r} needs preprocess='none', as its layer reads the embeddings from "
            f"the keys, got {preprocess!r}"
        )
    return method


def checked_labels(classes: Any, task: str) -> LabelTable | None:
    """Return the table of the labels that name the columns of outputs; None if none are given."""
    if classes is None:
        return None
    if task != "classification":
        raise ValueError(f"classes are for classification, got classes={classes!r} for {task}")
    return LabelTable.of(classes)


def checked_sigma(value: Any) -> float | Literal["auto"]:
    if not isinstance(value, str):
        return checks.positive(value, "sigma", " or 'auto'", infinite=True)
    if value != "auto":
        raise ValueError(f"sigma must be a positive number or 'auto', got {value!r}")
    return "auto"


def checked_half_life(value: Any) -> Age | None:
    """Return the half-life of weights; None is no decay."""
    if value is None:
        return None
    age = checked_age(value, "half_life")
    if not age:  # it is at least 0
        raise ValueError(f"half_life must be above 0, got {in_own_unit(value)}")
    return age


def checked_method(method: Any, strength: Any) -> tuple[Method, float]:
    """Return method and strength, checked; ValueError if they do not go with each other."""
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"method must be 'residual' or 'targets', got {method!r}")
    checked = checks.finite(strength, "strength")
    if method == "targets" and not 0 <= checked <= 1:
        raise ValueError(
            "strength must lie between 0 and 1 with method='targets', which mixes it into the "
            f"base's outputs, got {strength!r}"
        )
    return METHODS[METHODS.index(method)], checked


def checked_gate(gate: Any, spec: Spec) -> Gate:
    """Return the gate with this name; ValueError if the memory lacks what it looks at."""
    made = gate_named(gate)
    if spec.task != "classification" and (unknown := made.features - {"distance"}):
        raise ValueError(
            f"gate must look at the distance alone in {spec.task}, got a step of {min(unknown)!r}"
        )
    return made


def checked_residuals(residuals: Any) -> str | None:
    if residuals is not None and residuals not in RESIDUALS:
        raise ValueError(
            f"residuals must be 'in-sample', 'out-of-fold' or None (unknown), got {residuals!r}"
        )
    return None if residuals is None else str(residuals)


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
    """Return the kind of the outputs; None stands for the default of the task."""
    if not isinstance(task, str) or task not in _OUTPUT_KINDS:
        raise ValueError(f"task must be 'classification' or 'regression', got {task!r}")
    kind: str = _OUTPUT_KINDS[task][0] if output_kind is None else output_kind
    if kind not in _OUTPUT_KINDS[task]:
        names = ", ".join(map(repr, _OUTPUT_KINDS[task]))
        raise ValueError(f"output_kind must be one of {names} for {task}, got {output_kind!r}")
    return kind
