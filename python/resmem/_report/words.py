"""Numbers and verdicts in words. Harms are said as plainly as gains."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resmem._evaluation.evaluate import Evaluation
    from resmem._tuning.result import TuneResult

_SCORES = {
    "log_loss": "log-loss",
    "brier": "Brier score",
    "calibration_error": "calibration error",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
}
_NO_TEXT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # says XML


# ---- Numbers ---------------------------------------------------------------------------------


def clean(text: str) -> str:
    """A text that XML and UTF-8 can hold."""
    return _NO_TEXT.sub("\ufffd", str(text))


def scored(score: str) -> str:
    """What a score is called."""
    return _SCORES.get(score, score)


def gained(task: str) -> str:
    """What gains are measured in: the proper score of the task."""
    return "log-loss (nats)" if task == "classification" else "squared error per row"


def number(value: Any, score: str = "") -> str:
    """A score or a setting, in as many digits as are of use."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"  # noqa: RUF001 - nothing, as tables say it
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2%}" if score == "accuracy" else f"{value:.4g}"


def interval(gain: Any) -> str:
    """A mean gain and how sure it is."""
    return f"{gain.mean:+.3g} ({gain.low:+.3g} to {gain.high:+.3g})"


def sign(low: float, high: float) -> str:
    """What an interval says for sure: "gain", "harm", or "" where it holds 0."""
    return "gain" if low > 0 else "harm" if high < 0 else ""


# ---- Verdicts --------------------------------------------------------------------------------

_OPENINGS = {
    "gain": "The memory helps",
    "harm": "The memory harms",
    "": "Whether the memory helps is not clear",
}


def verdict(tuning: TuneResult | None, evaluation: Evaluation | None) -> tuple[str, list[str]]:
    """Does the memory help? The sign of the answer, and its sentences."""
    if evaluation is None:
        assert tuning is not None
        return "gain" if tuning.useful else "", [_tuned(tuning)]
    if evaluation.settings["strength"] == 0:
        chosen = [] if tuning is None else [_tuned(tuning)]
        return "", [
            "The memory is switched off: its strength is 0.",
            *chosen,
            *_tempered(evaluation),
        ]
    first, last = evaluation.methods[0], evaluation.methods[-1]
    assert last.gain is not None
    is_classes, heard = evaluation.task == "classification", sign(last.gain.low, last.gain.high)
    opening = _OPENINGS[heard]
    if heard == "gain" and any(
        gain.mean >= last.gain.mean for gain in _temperature_gains(evaluation)
    ):
        heard, opening = "", "The memory's temperature helps, its neighbours do not"
    score = "log-loss" if is_classes else "squared error per row"
    won, lost = ("corrected", "harmed") if is_classes else ("improved", "made worse")
    compared = (
        f"its {score} is {_change(last.gain, evaluation.task)} than the base model's "
        f"({_sureness(last.gain)})"
    )
    if not math.isfinite(last.gain.mean):
        compared = "both give probability 0 to the class of some, and their log-losses are infinite"
    known = next(iter(last.scores))  # the score that people know
    before, after = (number(method.scores[known], known) for method in (first, last))
    return heard, [
        f"{opening}: on {evaluation.rows:,} rows {compared}.",
        f"{last.corrected:,} predictions were {won} and {last.harmed:,} {lost}: {scored(known)} "
        f"{before} before, {after} after.",
        *_tempered(evaluation),
    ]


def _tuned(tuning: TuneResult) -> str:
    return (
        f"{_OPENINGS['gain' if tuning.useful else '']}: on {tuning.rows:,} rows that did not "
        f"choose the settings its {scored(tuning.score)} is {_change(tuning.gain)} than that of "
        f"the base model at its own temperature ({_sureness(tuning.gain)}), and "
        f"{_change(tuning.local_gain)} than with the mean residual of all rows, or other rows' "
        "neighbours, in their place "
        f"({tuning.local_gain.low:+.3g} to {tuning.local_gain.high:+.3g})."
    )


def _tempered(evaluation: Evaluation) -> list[str]:
    """What the temperature does by itself, if there is one."""
    return [
        "The temperature alone, without any neighbour, is "
        f"{_change(gain, evaluation.task)} ({_sureness(gain)})."
        for gain in _temperature_gains(evaluation)
    ]


def _temperature_gains(evaluation: Evaluation) -> list[Any]:
    return [method.gain for method in evaluation.methods if method.name.startswith("base, T=")]


def _change(gain: Any, task: str = "") -> str:
    unit = " nats" if task == "classification" else ""
    return f"{abs(gain.mean):.3g}{unit} {'better' if gain.mean >= 0 else 'worse'}"


def _sureness(gain: Any) -> str:
    return f"{gain.confidence:.0%} interval of the gain {gain.low:+.3g} to {gain.high:+.3g}"


def calibrated(evaluation: Evaluation) -> str:
    """Base and memory by their calibration error."""
    ends = evaluation.methods[0], evaluation.methods[-1]
    first, last = (method.scores["calibration_error"] for method in ends)
    change = "better" if last < first else "worse" if last > first else "as well"
    return (
        f"The memory's calibration error is {last:.3g}, the base model's {first:.3g}: it is "
        f"{change} calibrated. That is how far, on average, a method's confidence is from how "
        "often it is right; 0 is perfect."
    )
