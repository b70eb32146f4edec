"""``report``: one HTML file that loads nothing from anywhere.

`findings.py` checks the arguments; `sections.py` makes the sections of the file; `words.py` has the
sentences and the form of numbers, `changes.py` the examples, `figures.py` the pictures of
`resmem.plot` as SVG, `page.py` the HTML.
"""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

from resmem._core import __version__
from resmem._files.atomic import replacing

if TYPE_CHECKING:
    from resmem._evaluation.audit_result import Audit
    from resmem._evaluation.explain import Explanation
    from resmem._evaluation.pruning_result import Pruning
    from resmem._evaluation.result import Evaluation
    from resmem._tuning.result import TuneResult


def report(
    path: str | os.PathLike[str],
    tuning: TuneResult | None = None,
    evaluation: Evaluation | None = None,
    explanation: Explanation | None = None,
    *,
    rows: Any = None,
    classes: Any = None,
    images: Any = None,
    row_images: Any = None,
    title: str = "Does the residual memory help?",
    date: str | None = None,
    audit: Audit | None = None,
    pruning: Pruning | None = None,
) -> None:
    """Write what tuning, evaluation, explanation, audit and pruning found to one HTML file.

    It answers in this order: does the memory help, what was chosen, where it helps and where
    it harms, is it calibrated, which neighbours changed which predictions, which rows of the memory
    look wrong, which it does not need, and what it holds. The file loads nothing from anywhere,
    reads well on a phone, and is written whole or not at all. The same results give the same bytes
    with the same version of matplotlib, which draws the figures (with its default settings);
    without matplotlib there are only tables.

    Parameters
    ----------
    path : path
    tuning : TuneResult, optional
        The result of ``Memory.tune``.
    evaluation : Evaluation, optional
        The result of ``Memory.evaluate``, on rows that neither fitted nor tuned the memory.
    explanation : Explanation, optional
        The result of ``Memory.explain``; by default the explanation of the examples that the
        evaluation changed most. With an evaluation, the report shows the examples that the
        evaluation lists as corrected and harmed; without one, the first examples.
    rows, classes, images, row_images
        As for ``resmem.plot.corrections``; ``classes`` names the classes in the whole report, by
        default as targets call them.
    title : str
    date : str, optional
        Text printed as the date. Nothing else in the file tells when it was made.

    audit : Audit, optional
        The result of ``Memory.audit``.
    pruning : Pruning, optional
        The result of ``Memory.prune``.

    Raises
    ------
    ValueError
        There is nothing to report, or the arguments do not fit together.
    OSError
        The file cannot be written; what was at ``path`` is unharmed.
    """
    from resmem._report import findings, sections

    from .page import page

    findings.check_types(tuning=tuning, evaluation=evaluation, explanation=explanation)
    findings.check_types(audit=audit, pruning=pruning)
    if all(part is None for part in (tuning, evaluation, explanation, audit, pruning)):
        raise ValueError(
            "nothing to report: give tuning, evaluation, explanation, audit or pruning"
        )
    if classes is None:
        found = next((each for each in (evaluation, explanation, audit) if each is not None), None)
        classes = None if found is None else found.classes
    parts = []
    if tuning is not None or evaluation is not None:
        parts.append(sections.verdict_section(tuning, evaluation))
    if tuning is not None:
        parts.append(sections.settings_section(tuning, evaluation))
    if evaluation is not None:
        if evaluation.settings["strength"] != 0:
            parts.append(sections.where_section(evaluation, classes))
        if evaluation.reliability is not None:
            parts.append(sections.calibration_section(evaluation))
    if explanation is None and evaluation is not None and evaluation.explanation is not None:
        explanation, rows = evaluation.explanation, evaluation.explained
    if explanation is not None:
        pictures = {"images": images, "row_images": row_images}
        parts.append(sections.examples_section(explanation, evaluation, rows, classes, pictures))
    if audit is not None:
        parts.append(sections.audit_section(audit, classes))
    if pruning is not None:
        parts.append(sections.pruning_section(pruning))
    if evaluation is not None:
        parts.append(sections.memory_section(evaluation))
    parts.append(sections.origin_section(__version__, tuning, evaluation, date))
    whole = page(title, *parts).encode("utf-8")
    with replacing(path) as raw:
        file = io.BufferedWriter(raw)  # because one call of `raw.write` may write only a part
        file.write(whole)
        file.flush()
