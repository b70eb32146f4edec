"""What the words of a report mean: a sentence for each, printed where the word stands."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resmem._evaluation.result import Evaluation
    from resmem._state.settings import Settings

Terms = list[tuple[str, str]]

_METHODS = {
    "base": ("base", "The model alone, its outputs as given."),
    "own temperature": (
        "base, T",
        "The model alone, its outputs divided by the temperature T: above 1 it makes the model "
        "less sure, below 1 surer. This needs no memory, so a memory has to beat it.",
    ),
    "neighbours": (
        "kNN alone",
        "No model: the nearest stored rows vote with their own answers, near ones count more.",
    ),
    "interpolation": (
        "interpolation, lambda",
        "A mix (kNN-LM): lambda is the share of kNN alone, the rest is the model.",
    ),
    "published": (
        "published",
        "As in the paper on ResMem: the model plus the weighted mean of what it got wrong on the "
        "nearest stored rows (their residuals), at full strength.",
    ),
    "published elsewhere": ("other memory", "The same sum, of another memory's residuals."),
    "memory": ("ResMem", "The memory with its own settings."),
}
_STRENGTH = (
    "strength",
    "How much of what the neighbours say is used: 0 leaves the model as it is, 1 uses all of it.",
)
_TARGETS = (
    "targets",
    "Neighbours give their own answers, mixed with the model's: the strength is their share.",
)
_RESIDUALS: dict[str | None, tuple[str, str]] = {
    "in-sample": (
        "in-sample residuals",
        "They are of rows that the model was trained on, and smaller than on new rows.",
    ),
    "out-of-fold": (
        "out-of-fold residuals",
        "Each is of a copy of the model that was trained without its row, as for a new row.",
    ),
}


def method_terms(evaluation: Evaluation) -> Terms:
    """Return the words in the table of methods."""
    found = [_METHODS[method.kind] for method in evaluation.methods]
    settings = evaluation.settings
    if evaluation.methods[-1].kind == "memory":
        of_targets, gate = settings["method"] == "targets", settings["gate"]
        found.append(_STRENGTH)
        found += [_TARGETS] if of_targets else _map_terms([settings["probability_map"]])
        if gate != "none":
            found.append(("gated", f"The strength depends on the query: {gate}."))
    if residuals := _RESIDUALS.get(evaluation.memory.get("residuals")):
        found.append(residuals)
    if evaluation.task == "regression":
        maps = {word for word, _ in _map_terms([settings["probability_map"]])}
        return [(word, says) for word, says in found if word not in maps]
    return found


def setting_terms(settings: Iterable[Settings]) -> Terms:
    """Return the words in the table of settings."""
    chosen = list(settings)
    found = [
        ("k", "How many of the nearest stored rows count."),
        (
            "sigma",
            "How fast a row counts less with its distance: sigma farther off, it weighs 0.37 times "
            "as much; inf: all k weigh the same.",
        ),
        ("temperature", "What the model's outputs are divided by before they are probabilities."),
        _STRENGTH,
    ]
    if any(s.method == "targets" for s in chosen):
        found.append(_TARGETS)
    finite = [s.sigma for s in chosen if s.sigma == "auto" or math.isfinite(s.sigma)]
    if not finite:
        found[1] = ("sigma inf", "All k rows weigh the same, however far they are.")
    return found + _map_terms(s.probability_map for s in chosen if s.method == "residual")


def _map_terms(names: Iterable[str]) -> Terms:
    """Return sentences on maps from sums, which may leave 0 to 1, to probabilities."""
    return [_map_term(name) for name in dict.fromkeys(names)]


def _map_term(name: str) -> tuple[str, str]:
    kind, _, floor = name.partition(":")
    if kind == "keep":
        share = f"{float(floor or 0.1):.3g}"
        says = f"Every class keeps at least {share} times the probability that the model gives it."
    elif kind == "clip":
        says = "Probabilities below a small floor are raised to it, then all are made to sum to 1."
    else:
        says = "The nearest probabilities to a sum that left 0 to 1."
    return name, says


def memory_sentences(memory: dict[str, Any]) -> list[str]:
    """Return what the memory holds, in sentences; ``memory`` is that of an evaluation."""
    kind, _, most = memory["store"].partition(":")
    kept = {
        "dense": "all of a row's residuals and outputs are kept (store dense)",
        "sparse": f"the {most} largest of a row's residuals are kept (store {memory['store']})",
        "head": "residuals are computed again from the model's last layer (store head)",
    }[kind]
    residuals = {
        None: "Nobody has said whether its residuals are honest (out-of-fold).",
        "in-sample": "Its residuals are in-sample: of rows that the model was trained on.",
        "out-of-fold": "Its residuals are out-of-fold: of models that did not see the row.",
    }
    made = "" if memory["preprocess"] == "none" else f" after {memory['preprocess']}"
    metric = memory.get("metric", "euclidean")
    by = "" if metric == "euclidean" else f", compared by metric {metric}"
    return [
        f"{kept[0].upper()}{kept[1:]}; embeddings as {memory['key_dtype']}{made}{by}.",
        residuals[memory["residuals"]],
    ]
