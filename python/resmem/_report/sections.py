"""The sections of a report, in the order in which it shows them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from resmem._base.metric import Metric, value_word
from resmem._base.units import bytes_text
from resmem._report import figures, plots
from resmem._report.changes import Change, Classes, changes, class_name, is_classes
from resmem._report.glossary import memory_sentences, method_terms, setting_terms
from resmem._report.words import (
    calibration_verdict,
    contradiction_unit,
    gain_unit,
    harm_unit,
    interval,
    name_of_distance,
    number,
    rival_name,
    score_name,
    sign,
    verdict,
)
from resmem._scores.intervals import Interval

from .page import Html, Part, definitions, details, element, joined, paragraph, section, table

if TYPE_CHECKING:
    from resmem._evaluation.audit_result import Audit
    from resmem._evaluation.explain import Explanation
    from resmem._evaluation.pruning_result import Pruning
    from resmem._evaluation.result import Evaluation
    from resmem._state.settings import Settings
    from resmem._tuning.result import TuneResult

_CLASSES_SHOWN = 30  # most classes in a table: those that changed most
_GROUPS_SHOWN, _OUTPUTS_SHOWN = 10, 30
_MANY_CLASSES = 100  # classes from which the perplexity is shown, as for tokens
_SUSPECTS = 10  # rows of an audit in a table
_EXAMPLES, _NEIGHBOURS = 4, 5  # most examples of each kind, and neighbours of an example


# ---- Does it help? ---------------------------------------------------------------------------


def verdict_section(tuning: TuneResult | None, evaluation: Evaluation | None) -> Html:
    """Return the section with the answer in a sentence, and a table of all methods."""
    answer, (first, *others) = verdict(tuning, evaluation)
    opening = element("span", first, class_=answer or "plain")
    parts: list[Part] = [paragraph(opening, "verdict"), *map(paragraph, others)]
    if evaluation is not None:
        parts.append(_methods(evaluation))
    return section("Does the memory help?", *parts)


def _methods(evaluation: Evaluation) -> Html:
    """Return the table of methods, in which a phone shows the gain and the best-known scores."""
    scores = list(evaluation.methods[0].scores)
    main, more = scores[:2], scores[2:]
    if "perplexity" in more:
        more.remove("perplexity")
        if _is_language(evaluation):
            main.append("perplexity")
    head = [
        "method", "gain", *map(score_name, main), "corrected", "harmed", *map(score_name, more)
    ]  # fmt: skip
    rows = [
        (
            method.name,
            _gain(method.gain),
            *(number(method.scores[name], name) for name in main),
            *(
                number(count if method.gain else None)
                for count in (method.corrected, method.harmed)
            ),
            *(number(method.scores[name], name) for name in more),
        )
        for method in evaluation.methods
    ]
    what = (
        "Corrected: the base model wrong and the method right; harmed: the reverse."
        if evaluation.task == "classification"
        else "Corrected: the method's error is smaller than the base model's; harmed: larger."
    )
    clustered = "" if evaluation.groups is None else f", by {evaluation.groups:,} groups"
    note = (
        f"Gain: by how much {gain_unit(evaluation.task)} is below that of the base as given, as a "
        f"mean over rows with its 95% interval{clustered}; positive is better. {what}"
    )
    added = [(name, _gain(gain)) for name, gain in evaluation.over.items()]
    return joined(
        [
            table(head, rows, len(rows) - 1),
            paragraph(note, "quiet"),
            table([f"gain of {evaluation.methods[-1].name} over", "gain"], added),
            definitions(method_terms(evaluation)),
        ]
    )


def _is_language(evaluation: Evaluation) -> bool:
    """Whether the classes are so many that the perplexity is the usual score, as for words."""
    memory = evaluation.memory
    return bool(memory["output_kind"] == "logits" and memory["outputs"] >= _MANY_CLASSES)


def _gain(gain: Any) -> Part:
    """Return a gain above its interval, so that the column is narrow."""
    if gain is None:
        return number(None)
    return _signed(f"{gain.mean:+.3g}", gain.low, gain.high, f"{gain.low:+.3g} to {gain.high:+.3g}")


def _signed(text: str, low: float, high: float, below: str = "") -> Html:
    """Return a number coloured by what its interval proves, with another text below it."""
    parts: list[Part] = [text]
    if below:
        parts += [" ", element("span", below, class_="range")]
    return element("span", *parts, class_=sign(low, high) or "plain")


# ---- What was chosen? ------------------------------------------------------------------------


def settings_section(tuning: TuneResult, evaluation: Evaluation | None) -> Html:
    """Return the section with the settings, how sure the choice is, and the map of gains.

    The words that the table of the evaluation's methods explains are not explained again.
    """
    known = [] if evaluation is None else method_terms(evaluation)
    name = score_name(tuning.score)
    better = "greater is better" if tuning.greater_is_better else "smaller is better"
    settings = {
        "chosen": tuning.best,
        "best of the grid": tuning.candidate,
        "base": tuning.base,
        "as published": tuning.published,
        "kNN alone": tuning.knn,
    }
    if tuning.interpolation is not None:
        settings["interpolation"] = tuning.interpolation
    held_out = ", ".join(f"{key} {number(value)}" for key, value in tuning.held_out.items())
    return section(
        "What was chosen?",
        paragraph(tuning.reason),
        paragraph(
            f"By {name} ({better}) on {tuning.rows:,} validation rows. On rows that did not "
            f"choose, in {tuning.folds} folds: {held_out}; gain {interval(tuning.gain)}, and "
            f"{interval(tuning.local_gain)} over the mean residual of all rows, or other rows' "
            "neighbours, in the neighbours' place."
        ),
        element("ul", *(element("li", note) for note in tuning.notes)) if tuning.notes else "",
        _settings(settings),
        definitions(term for term in setting_terms(settings.values()) if term not in known),
        figures.figure(
            "tuning",
            partial(plots.tuning_map, tuning),
            f"Gain in {name} over the base by k and sigma, at the other settings of the best of "
            "the grid, which the ring marks. Blue is better, orange is worse.",
        ),
        details(
            "Every score on the rows that chose (which flatters what was chosen)",
            table(["method", name], [(key, number(value)) for key, value in tuning.scores.items()]),
        ),
        details(
            "What each fold would have chosen",
            _settings(
                {f"without fold {i + 1}": choice for i, choice in enumerate(tuning.per_fold)}
            ),
        ),
    )


# The settings that matter to these; to others all do, but for the map where targets need none.
_OWN_SETTINGS = {
    "base": ("temperature",),
    "kNN alone": ("k", "sigma", "probability_map", "preprocess", "key_dtype"),
}


def _settings(rows: dict[str, Settings]) -> Html:
    names = [
        "k", "sigma", "temperature", "strength", "method", "probability_map", "preprocess",
        "key_dtype",
    ]  # fmt: skip
    if any(settings.gate != "none" for settings in rows.values()):
        names.append("gate")
    head = ["settings", *(name.replace("_", " ") for name in names)]
    lines = [
        (
            key,
            *(
                number(getattr(s, name) if name in _own_settings(key, s, names) else None)
                for name in names
            ),
        )
        for key, s in rows.items()
    ]
    return table(head, lines, 0)


def _own_settings(key: str, settings: Settings, names: Sequence[str]) -> Sequence[str]:
    """Return the names of the settings that matter to a method."""
    if key in _OWN_SETTINGS:
        return _OWN_SETTINGS[key]
    of_targets = settings.method == "targets"
    return [name for name in names if not (of_targets and name == "probability_map")]


# ---- Where does it help, where does it harm? -------------------------------------------------


def where_section(evaluation: Evaluation, classes: Classes) -> Html:
    """Return the section with gains and harms by distance and by class."""
    last, unit = evaluation.methods[-1].name, gain_unit(evaluation.task)
    says = (
        f"Gain of {last} over {rival_name(evaluation)}, in {unit}, by distance to the nearest row "
        "of the memory, with 95% intervals. Above the line the memory helps, below it harms."
    )
    parts: list[Html] = []
    if evaluation.by_class is not None:
        parts += _by_class(evaluation, classes)
    if evaluation.by_output is not None:
        parts += _by_output(evaluation, evaluation.by_output)
    if evaluation.by_group is not None:
        parts += _by_group(evaluation, evaluation.by_group)
    return section(
        "Where does it help, and where does it harm?",
        paragraph(_extremes(evaluation)),
        figures.figure("distance", partial(plots.gain_by_distance, evaluation), says),
        details(
            "The numbers by distance", _by_distance(evaluation), opened=not figures.available()
        ),
        *parts,
    )


def _extremes(evaluation: Evaluation) -> str:
    """Return a sentence on how many buckets clearly gain, and how many clearly lose."""
    signs = [sign(bucket["low"], bucket["high"]) for bucket in evaluation.by_distance]
    return (
        f"Of {len(signs)} groups of rows by distance to the nearest stored row, "
        f"{signs.count('gain')} clearly gain, {signs.count('harm')} clearly lose, and "
        f"{signs.count('')} are not clear either way."
    )


def _by_distance(evaluation: Evaluation) -> Html:
    names = [method.name for method in evaluation.methods]
    score = "log-loss" if evaluation.task == "classification" else "RMSE"
    near = name_of_distance(evaluation.memory.get("metric", "euclidean"))
    head = [near, "gain", "rows", *(f"{score}, {name}" for name in names)]
    rows = [
        (
            f"{bucket['from']:.3g} to {bucket['to']:.3g}",
            _part_gain(bucket),
            number(bucket["rows"]),
            *(number(bucket[name]) for name in names),
        )
        for bucket in evaluation.by_distance
    ]
    return table(head, rows)


def _part_gain(part: dict[str, Any]) -> Part:
    """Return the gain of a bucket or a group."""
    return _gain(Interval(part["gain"], part["low"], part["high"], math.nan))


def _base_note(evaluation: Evaluation) -> str:
    """Return a sentence on the base of a table, if it is not the base as given."""
    name = rival_name(evaluation)
    return "" if name == "base" else f" The base is that at its own temperature ({name})."


def _by_group(evaluation: Evaluation, groups: list[dict[str, Any]]) -> Iterator[Html]:
    first, last = rival_name(evaluation), evaluation.methods[-1].name
    score = "log-loss" if evaluation.task == "classification" else "RMSE"
    head = ["group", "gain", f"{score}, base", f"{score}, memory", "rows", "corrected", "harmed"]
    rows = [
        (
            str(group["group"]),
            _part_gain(group),
            *(number(group[name]) for name in (first, last)),
            *(number(group[name]) for name in ("rows", "corrected", "harmed")),
        )
        for group in groups[:_GROUPS_SHOWN]
    ]
    yield element("h3", "By group")
    shown = (
        ""
        if len(rows) == evaluation.groups
        else f"The {len(rows)} worst of {evaluation.groups:,}. "
    )
    said = f"{shown}The group that the memory predicts worst comes first."
    yield paragraph(said + _base_note(evaluation), "quiet")
    yield table(head, rows)


def _by_output(evaluation: Evaluation, outputs: list[dict[str, Any]]) -> Iterator[Html]:
    first, last = rival_name(evaluation), evaluation.methods[-1].name

    def ratio(output: dict[str, Any]) -> float:
        before, after = (float(output[name]["rmse"]) for name in (first, last))
        return after / before if before else math.inf if after else 1.0

    head = ["output", "RMSE, base", "RMSE, memory", "R², base", "R², memory"]
    rows = [
        (
            str(output["output"]),
            *(number(output[name][score]) for score in ("rmse", "r2") for name in (first, last)),
        )
        for output in sorted(outputs, key=ratio)[:_OUTPUTS_SHOWN]
    ]
    shown = "" if len(rows) == len(outputs) else f"The first {len(rows)} of {len(outputs):,}, "
    yield element("h3", "By output")
    yield paragraph(
        f"{shown}{'from' if shown else 'From'} the output whose error fell most.", "quiet"
    )
    yield table(head, rows)


def _by_class(evaluation: Evaluation, classes: Classes) -> Iterator[Html]:
    groups = evaluation.by_class or []
    first, last = rival_name(evaluation), evaluation.methods[-1].name
    order = sorted(groups, key=lambda g: (-abs(g["corrected"] - g["harmed"]), g["class"]))
    shown = sorted(order[:_CLASSES_SHOWN], key=lambda g: (g["harmed"] - g["corrected"], g["class"]))
    head = [
        "class", "rows", "corrected", "harmed",
        "accuracy, base", "accuracy, memory", "log-loss, base", "log-loss, memory",
    ]  # fmt: skip
    rows = [
        (
            class_name(classes, group["class"]),
            number(group["rows"]),
            number(group["corrected"]),
            number(group["harmed"]),
            *(
                number(group[m][score], score)
                for score in ("accuracy", "log_loss")
                for m in (first, last)
            ),
        )
        for group in shown
    ]
    yield element("h3", "By class")
    said = "From the class that won most to the one that lost most."
    yield paragraph(said + _base_note(evaluation), "quiet")
    yield table(head, rows)
    if len(groups) > len(shown):
        yield paragraph(
            f"The {len(shown)} of {len(groups)} classes in which most changed on balance.", "quiet"
        )


# ---- Is it calibrated? -----------------------------------------------------------------------


def calibration_section(evaluation: Evaluation) -> Html:
    """Return the section on how sure the methods are, and how often they are right."""
    bins = evaluation.reliability or {}
    names = rival_name(evaluation), evaluation.methods[-1].name
    rows = [
        (
            f"{pair[0]['low']:.2f} to {pair[0]['high']:.2f}",
            *(number(bin["rows"]) for bin in pair),
            *(number(bin["accuracy"] if bin["rows"] else None, "accuracy") for bin in pair),
        )
        for pair in zip(*(bins[name] for name in names), strict=True)
        if any(bin["rows"] for bin in pair)
    ]
    columns = [f"{what}, {who}" for what in ("rows", "accuracy") for who in ("base", "memory")]
    head = ["confidence", *columns]
    return section(
        "Is it calibrated?",
        paragraph(calibration_verdict(evaluation)),
        figures.figure(
            "reliability",
            partial(plots.reliability, evaluation),
            "Accuracy by confidence for each method: on the dashed line a method is calibrated, "
            "below it it is too sure of itself. Bars count the rows.",
        ),
        details(
            "The numbers by confidence",
            table(head, rows),
            opened=not figures.available(),
        ),
    )


# ---- Who corrected what? ---------------------------------------------------------------------


def examples_section(
    explanation: Explanation,
    evaluation: Evaluation | None,
    rows: Any,
    classes: Classes,
    images: dict[str, Any],
) -> Html:
    """Return the section with single predictions and the neighbours that changed them."""
    found = changes(explanation, evaluation, rows, classes, _EXAMPLES, _NEIGHBOURS)
    unit = "points of probability" if is_classes(explanation) else "units of the value"
    draw = partial(
        plots.corrections,
        explanation,
        evaluation,
        rows,
        classes=classes,
        count=_EXAMPLES,
        neighbours=_NEIGHBOURS,
        **images,
    )
    if not found:
        words = "None of the examples that are explained was changed."
        return section("Who corrected what?", paragraph(words))
    says = (
        f"How far each neighbour pushed an example, in {unit}: blue towards the truth, orange "
        "away from it."
    )
    return section(
        "Who corrected what?",
        paragraph(_how_to_read(evaluation is not None, is_classes(explanation), unit)),
        figures.figure("examples", draw, says),
        details(
            "The numbers",
            *(_example(change, is_classes(explanation), explanation.metric) for change in found),
            opened=not figures.available(),
        ),
    )


def _how_to_read(judged: bool, classes: bool, unit: str) -> str:
    shown = "The first examples explained."
    if judged:
        shown = "Examples whose predictions changed most: corrected ones first, then harmed ones."
    push = (
        "from the base model's class towards the memory's"
        if classes
        else "in the direction of the whole correction"
    )
    return f"{shown} A neighbour's push is its contribution {push}, in {unit}."


def _example(change: Change, classes: bool, metric: Metric) -> Html:
    factor = 100 if classes else 1
    rows = [
        (str(n.id), n.target, number(n.distance), f"{n.weight:.1%}", f"{factor * n.push:+.3g}")
        for n in change.neighbours
    ]
    if change.others:
        rest = f"{factor * change.others_push:+.3g}"
        rows.append((f"{change.others} more", "", "", "", rest))
    kind = {"corrected": "gain", "harmed": "harm"}.get(change.kind, "plain")
    title = element("span", change.words, class_=kind)
    head = ["neighbour, id", "target", value_word(metric), "weight", "push"]
    return joined([element("h3", f"Row {change.row}, ", title), table(head, rows)])


# ---- Which rows look wrong? ------------------------------------------------------------------


def audit_section(audit: Audit, classes: Classes) -> Html:
    """Return the section on the rows that their neighbours contradict, and on harmful ones."""
    contradicted = [
        (
            f"{audit.ids[row]}",
            _target_text(audit.targets[row], audit, classes),
            _target_text(audit.expected[row], audit, classes),
            f"{audit.score[row]:.3g}",
        )
        for row in range(min(len(audit), _SUSPECTS))
    ]
    worst = sorted(range(len(audit)), key=lambda row: -audit.harm[row])[:_SUSPECTS]
    harmful = []
    for row in worst:
        if audit.harm[row] > 0:
            moved = f"{audit.misled[row]} of {audit.used[row]}"
            harmful.append((f"{audit.ids[row]}", f"{audit.harm[row]:+.3g}", moved))
    of = "" if len(audit) == audit.memory_rows else f" of {audit.memory_rows:,}"
    said = f"Each of {len(audit):,}{of} rows without itself: " + "; ".join(audit.findings) + "."
    unit, harm = contradiction_unit(audit.task), harm_unit(audit.task)
    return section(
        "Which rows look wrong?",
        paragraph(said),
        paragraph(f"Most contradicted. The score is the {unit}.", "quiet"),
        table(["row, id", "target", "neighbours say", "score"], contradicted),
        figures.figure(
            "audit",
            partial(plots.audit, audit),
            f"Rows by score and by harm: how far each moves the answers for its neighbours away "
            f"from their targets, in {harm}. Orange harms, blue helps.",
        ),
        details(
            "The most harmful rows",
            table(["row, id", "harm", "rows moved away"], harmful),
            opened=not figures.available(),
        )
        if harmful
        else "",
    )


def _target_text(target: Any, audit: Audit, classes: Classes) -> str:
    """Return the target of a row; a class that is a number by the name that the report gives it."""
    if np.ndim(target):
        return f"({len(target)} values)"
    if audit.task == "regression":
        return number(float(target))
    if audit.classes is None and classes is not None:
        return class_name(classes, int(target))
    return str(target)


# ---- Which rows are not needed? --------------------------------------------------------------


def pruning_section(pruning: Pruning) -> Html:
    """Return the section on how few rows the memory can do with."""
    rows = [
        (
            f"{point.rows:,}",
            f"{point.rows / pruning.memory_rows:.0%}",
            number(point.loss),
            _signed(
                f"{point.rise.mean:+.3g}",
                -point.rise.high,
                -point.rise.low,
                f"{point.rise.low:+.3g} to {point.rise.high:+.3g}",
            ),
            number(point.random_loss),
        )
        for point in pruning.curve
    ]
    marked = [point.rows for point in pruning.curve].index(pruning.kept_rows)
    gone = "were removed" if pruning.applied else "could go"
    said = (
        f"Of {pruning.memory_rows:,} rows, {pruning.kept_rows:,} are kept and {len(pruning.ids):,} "
        f"{gone}: {pruning.reason}. Judged on {pruning.judged_rows:,} {pruning.judged_by}."
    )
    unit = gain_unit(pruning.task)
    return section(
        "Which rows are not needed?",
        paragraph(said),
        figures.figure(
            "pruning",
            partial(plots.pruning, pruning),
            f"Gain in {unit} over the base by rows kept, beside random pruning; the ring marks the "
            "rows that are kept.",
        ),
        details(
            "The numbers by rows kept",
            table(["rows", "share", "loss", "rise", "random loss"], rows, marked),
            paragraph(
                f"Loss: the mean {unit}. Rise: over all rows, with its {pruning.confidence:.0%} "
                "interval.",
                "quiet",
            ),
            opened=not figures.available(),
        ),
    )


# ---- What does the memory hold? --------------------------------------------------------------


def memory_section(evaluation: Evaluation) -> Html:
    """Return the section on the size of the memory and the form in which it is stored."""
    memory = evaluation.memory
    size = (
        f"{memory['rows']:,} rows, each an embedding of {memory['dimensions']:,} dimensions and "
        f"{memory['outputs']:,} outputs: {bytes_text(memory['bytes'])} in all."
    )
    return section("What does the memory hold?", *map(paragraph, (size, *memory_sentences(memory))))


# ---- How was this made? ----------------------------------------------------------------------


def origin_section(
    version: str, tuning: TuneResult | None, evaluation: Evaluation | None, date: str | None
) -> Html:
    """Return the section that says which version, rows and settings the numbers come from."""
    facts: list[Sequence[Part]] = [("resmem", version)]
    if date is not None:
        facts.append(("date", date))
    if evaluation is not None:
        facts.append(("rows evaluated", number(evaluation.rows)))
        facts += [(name.rstrip("_"), number(value)) for name, value in evaluation.settings.items()]
    if tuning is not None:
        facts.append(("rows that chose", number(tuning.rows)))
        facts += [(f"seconds, {name}", f"{value:.2f}") for name, value in tuning.seconds.items()]
    lines = [table(["made with", "value"], facts)]
    if not figures.available():
        lines.append(paragraph(figures.INSTALL_HINT, "quiet"))
    return section("How was this made?", *lines)
