"""Numbers and verdicts in words. Harms are said as plainly as gains."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resmem import Evaluation, TuneResult

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
    return "log-loss (nats)" if task == "classification" else "squared error"


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


def verdict(tuning: TuneResult | None, evaluation: Evaluation | None) -> list[tuple[str, str]]:
    """Does the memory help? Sentences, the first with its sign."""
    if evaluation is not None:
        return _evaluated(evaluation)
    return [] if tuning is None else [_tuned(tuning)]


def _evaluated(evaluation: Evaluation) -> list[tuple[str, str]]:
    method = evaluation.methods[-1]
    if evaluation.settings["strength"] == 0:
        return [("", "The memory is switched off: its strength is 0.")]
    gain, is_classes = method.gain, evaluation.task == "classification"
    heard = sign(gain.low, gain.high)
    opening = {
        "gain": "The memory helps",
        "harm": "The memory harms",
        "": "Whether the memory helps is not clear",
    }[heard]
    score, unit = ("log-loss", " nats") if is_classes else ("mean squared error", "")
    change = "better" if gain.mean >= 0 else "worse"
    won, lost = ("corrected", "harmed") if is_classes else ("improved", "made worse")
    told = [
        (
            heard,
            f"{opening}: on {evaluation.rows:,} rows its {score} is {abs(gain.mean):.3g}{unit} "
            f"{change} than the base model's ({_sureness(gain)}).",
        ),
        ("", f"{method.corrected:,} predictions were {won} and {method.harmed:,} {lost}."),
    ]
    tempered = [m.gain for m in evaluation.methods if m.name.startswith("base, T=")]
    if tempered:
        gains = f"gains {interval(tempered[0])}"
        told.append(("", f"The temperature alone, without any neighbour, {gains}."))
    return told


def _tuned(tuning: TuneResult) -> tuple[str, str]:
    gain = tuning.gain
    heard = "gain" if tuning.useful else ""
    opening = "The memory helps" if tuning.useful else "It is not clear that the memory helps"
    return (
        heard,
        f"{opening}: on rows that did not choose the settings its {scored(tuning.score)} is "
        f"{abs(gain.mean):.3g} {'better' if gain.mean >= 0 else 'worse'} than that of the base "
        f"model at its own temperature ({_sureness(gain)}, {tuning.rows:,} rows).",
    )


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
