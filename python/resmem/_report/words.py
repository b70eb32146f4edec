"""Numbers and verdicts in words. A harm is reported as plainly as a gain."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resmem._evaluation.result import Evaluation, MethodResult
    from resmem._tuning.result import TuneResult

_SCORES = {
    "log_loss": "log-loss",
    "brier": "Brier score",
    "perplexity": "perplexity",
    "calibration_error": "calibration error",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
}
# Characters that XML does not allow.
_NO_TEXT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


# ---- Numbers ---------------------------------------------------------------------------------


def clean(text: str) -> str:
    """Return the text with every character replaced that XML or UTF-8 cannot hold."""
    return _NO_TEXT.sub("\ufffd", str(text))


def score_name(score: str) -> str:
    """Return the name of a score in text."""
    return _SCORES.get(score, score)


def gain_unit(task: str) -> str:
    """Return the unit of gains: the loss by which gains in this task are measured."""
    return "log-loss (nats)" if task == "classification" else "squared error per row"


def number(value: Any, score: str = "") -> str:
    """Return a score or a setting as text, in as many digits as are useful."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"  # noqa: RUF001 - a dash, as tables mark a missing value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2%}" if score == "accuracy" else f"{value:.4g}"


def interval(gain: Any) -> str:
    """Return a mean gain with its interval as text."""
    return f"{gain.mean:+.3g} ({gain.low:+.3g} to {gain.high:+.3g})"


def sign(low: float, high: float) -> str:
    """Return what an interval proves: "gain", "harm", or "" if it contains 0."""
    return "gain" if low > 0 else "harm" if high < 0 else ""


# ---- Verdicts --------------------------------------------------------------------------------

_OPENINGS = {
    "gain": "The memory helps",
    "harm": "The memory harms",
    "": "Whether the memory helps is not clear",
}
_TEMPERATURE_OPENINGS = {
    "harm": "The memory's temperature helps, its neighbours harm",
    "": "The memory's temperature helps, whether its neighbours do is not clear",
}


def name_of_distance(metric: str) -> str:
    """Return what tells how near rows are, for the heads of tables and the names of axes."""
    return "minus the product" if metric == "inner_product" else "distance"


def verdict(tuning: TuneResult | None, evaluation: Evaluation | None) -> tuple[str, list[str]]:
    """Return whether the memory helps ("gain", "harm" or ""), and the sentences that say so."""
    if evaluation is None:
        assert tuning is not None
        return "gain" if tuning.useful else "", [_tuned(tuning)]
    if evaluation.settings["strength"] == 0:
        chosen = [] if tuning is None else [_tuned(tuning)]
        return "", [
            "The memory is switched off: its strength is 0.",
            *chosen,
            *_on_better_methods(evaluation),
            *_on_temperature(evaluation),
        ]
    first, last = evaluation.methods[0], evaluation.methods[-1]
    rival, gain, answer = _answer(evaluation)
    is_classes = evaluation.task == "classification"
    opening = _OPENINGS[answer]
    if (
        rival == rival_name(evaluation)
        and answer != "gain"
        and not _is_infinite(last)
        and any(sign(alone.low, alone.high) == "gain" for alone in _temperature_gains(evaluation))
    ):
        opening = _TEMPERATURE_OPENINGS[answer]
    score = "log-loss" if is_classes else "squared error per row"
    won, lost = ("corrected", "harmed") if is_classes else ("improved", "made worse")
    compared = (
        f"its {score} is {_change(gain, evaluation.task)} than {_whose(rival)} "
        f"({_interval_text(gain)})"
    )
    if not math.isfinite(gain.mean):
        compared = "both give probability 0 to the class of some, and their log-losses are infinite"
    elif _is_infinite(last):
        compared = "it gives probability 0 to the class of some, and its log-loss is infinite"
    known = next(iter(last.scores))  # the first score is the best-known one
    before, after = (number(method.scores[known], known) for method in (first, last))
    return answer, [
        f"{opening}: on {evaluation.rows:,} rows {compared}.",
        f"{last.corrected:,} predictions were {won} and {last.harmed:,} {lost}: "
        f"{score_name(known)} {before} before, {after} after.",
        *_on_better_methods(evaluation),
        *_on_temperature(evaluation),
    ]


def _answer(evaluation: Evaluation) -> tuple[str, Any, str]:
    """Return the base that decides whether the memory helps, the gain over it, and the answer.

    The memory helps if it clearly gains over the base both at its own temperature and as given, and
    harms if it clearly loses against one of them.
    """
    own = rival_name(evaluation)
    signs = {
        name: sign(*evaluation.over[name][1:3]) for name in (own, "base") if name in evaluation.over
    }
    answer = next((each for each in ("harm", "") if each in signs.values()), "gain")
    rival = next(name for name, each in signs.items() if each == answer)
    if answer == "gain" and _is_infinite(evaluation.methods[-1]):
        answer = ""
    return rival, evaluation.over[rival], answer


def _is_infinite(method: MethodResult) -> bool:
    return math.isinf(method.scores.get("log_loss", 0.0))


def rival_name(evaluation: Evaluation) -> str:
    """Return the name of the base that the memory has to beat: at its own temperature."""
    return next(iter(evaluation.over))


def _whose(rival: str) -> str:
    return "the base model's" + ("" if rival == "base" else " at its own temperature")


def _tuned(tuning: TuneResult) -> str:
    return (
        f"{_OPENINGS['gain' if tuning.useful else '']}: on {tuning.rows:,} rows that did not "
        f"choose the settings its {score_name(tuning.score)} is {_change(tuning.gain)} than that "
        f"of the base model at its own temperature ({_interval_text(tuning.gain)}), and "
        f"{_change(tuning.local_gain)} than with the mean residual of all rows, or other rows' "
        "neighbours, in their place "
        f"({tuning.local_gain.low:+.3g} to {tuning.local_gain.high:+.3g})."
    )


def _on_better_methods(evaluation: Evaluation) -> list[str]:
    """Return a sentence on each method, other than a base, that clearly beats the memory."""
    unit = " nats" if evaluation.task == "classification" else ""
    return [
        f"Better than the memory is {name}, by {-gain.mean:.3g}{unit} "
        f"({-gain.high:+.3g} to {-gain.low:+.3g})."
        for name, gain in evaluation.over.items()
        if name not in (rival_name(evaluation), "base") and sign(gain.low, gain.high) == "harm"
    ]


def _on_temperature(evaluation: Evaluation) -> list[str]:
    """Return a sentence on the gain of the temperature alone, if it is not 1."""
    return [
        "The temperature alone, without any neighbour, is "
        f"{_change(gain, evaluation.task)} ({_interval_text(gain)})."
        for gain in _temperature_gains(evaluation)
    ]


def _temperature_gains(evaluation: Evaluation) -> list[Any]:
    return [method.gain for method in evaluation.methods if method.kind == "own temperature"]


def _change(gain: Any, task: str = "") -> str:
    unit = " nats" if task == "classification" else ""
    return f"{abs(gain.mean):.3g}{unit} {'better' if gain.mean >= 0 else 'worse'}"


def _interval_text(gain: Any) -> str:
    return f"{gain.confidence:.0%} interval of the gain {gain.low:+.3g} to {gain.high:+.3g}"


def calibration_verdict(evaluation: Evaluation) -> str:
    """Return sentences that compare base and memory by their calibration error."""
    rival = rival_name(evaluation)
    errors = {method.name: method.scores["calibration_error"] for method in evaluation.methods}
    first, last = errors[rival], errors[evaluation.methods[-1].name]
    change = "better" if last < first else "worse" if last > first else "as well"
    return (
        f"The memory's calibration error is {last:.3g}, {_whose(rival)} {first:.3g}: it is "
        f"{change} calibrated. That is how far, on average, a method's confidence is from how "
        "often it is right; 0 is perfect."
    )


def contradiction_unit(task: str) -> str:
    """Return what the score of an audit is, in words."""
    if task == "classification":
        return "weight of neighbours of other classes"
    return "distance from the neighbours' mean, in spreads"


def harm_unit(task: str) -> str:
    """Return the unit of an audit's harm."""
    return "probability" if task == "classification" else "units of the value"
