"""What ``resmem.plot`` draws: functions that return figures of matplotlib's."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from resmem._report import findings
from resmem._report.changes import Change, changes, is_classes
from resmem._report.words import (
    clean,
    contradiction_unit,
    gain_unit,
    harm_unit,
    name_of_distance,
    rival_name,
    score_name,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from resmem._evaluation.audit_result import Audit
    from resmem._evaluation.explain import Explanation
    from resmem._evaluation.pruning_result import Pruning
    from resmem._evaluation.result import Evaluation
    from resmem._tuning.result import TuneResult

__all__ = ["audit", "corrections", "gain_by_distance", "pruning", "reliability", "tuning_map"]

BLUE, ORANGE, GREY, DARK = "#0072B2", "#D55E00", "#767676", "#333333"
_WIDTH = 3.6  # inches; at this width a phone shows 8 points as 11 pixels
_TEXT, _SMALL = 8, 7  # font sizes in points
_POINTS = 400  # most rows in a picture, which a page holds as so many marks
_PANEL_LETTERS = 24  # in a line above one of two panels side by side


# ---- Tuning ----------------------------------------------------------------------------------


def tuning_map(result: TuneResult, ax: Axes | None = None) -> Figure:
    """Draw the gain over the base model for every k and sigma, at the candidate's other settings.

    The gain is in units of the score, over the base at its own temperature, on the rows that
    chose; positive is better. A ring marks the candidate, the best of the grid; the title says if
    tuning nevertheless switched the memory off. Crossed cells have no finite score.

    Parameters
    ----------
    result : TuneResult
    ax : matplotlib Axes, optional
        Where to draw; default: a new Figure.

    Returns
    -------
    matplotlib Figure
    """
    findings.check_types(required=True, tuning=result)
    ax = _axes(ax, 3.3)
    ks, sigmas, scores = result.surface()
    with np.errstate(invalid="ignore"):  # the difference of infinite scores is NaN
        gains = np.asarray(scores, dtype=np.float64) - result.scores["base, own temperature"]
    if not result.greater_is_better:
        gains = -gains
    limit, extend = _limit(gains)
    image = ax.pcolormesh(
        np.ma.masked_invalid(gains), cmap=_harm_to_gain(), vmin=-limit, vmax=limit
    )
    for row, column in np.argwhere(~np.isfinite(gains)):
        ax.plot(column + 0.5, row + 0.5, "x", color=GREY, markersize=5)
    at = np.flatnonzero(sigmas == result.candidate.sigma), np.flatnonzero(ks == result.candidate.k)
    ax.plot(at[0] + 0.5, at[1] + 0.5, "o", markersize=11, mfc="none", mec="black", mew=1.8)
    _name_cells(ax.xaxis, [f"{sigma:.3g}" for sigma in sigmas], 5)
    _name_cells(ax.yaxis, [str(k) for k in ks], 10)
    ax.set_xlabel("sigma (units of the distance)", fontsize=_TEXT)
    ax.set_ylabel("k (neighbours)", fontsize=_TEXT)
    bar = ax.figure.colorbar(image, ax=ax, extend=extend, pad=0.03)
    bar.set_label(f"gain in {score_name(result.score)} over the base", fontsize=_TEXT)
    bar.ax.tick_params(labelsize=_SMALL)
    c, off = result.candidate, result.best.strength == 0
    ring = f"k={c.k}, sigma={c.sigma:.3g}, T={c.temperature:.3g}, strength={c.strength:.3g}"
    words = "Switched off: no setting is clearly better. Ring:" if off else "Chosen, the ring:"
    _title(ax, f"{words}\n{ring}")
    return ax.figure.figure


def _limit(gains: npt.NDArray[np.float64]) -> tuple[float, str]:
    """Return the gain at which the colours end, and where values lie beyond it.

    The best gain gets the strongest blue. If the worst harm set the scale, gains would be too pale
    to see next to settings that are far worse than the base.
    """
    finite = gains[np.isfinite(gains)]
    if not finite.any():
        return 1.0, "neither"
    best = finite.max()
    limit = float(best if best > 0 else np.median(np.abs(finite)) or np.abs(finite).max())
    return limit, "min" if finite.min() < -limit else "neither"


def _harm_to_gain() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("harm to gain", [ORANGE, "#F7F7F7", BLUE])
    return colours.with_extremes(bad="white")


def _name_cells(axis: Any, names: Sequence[str], most: int) -> None:
    """Label the cells of an axis, leaving labels out if there are more than ``most``."""
    step = -(-len(names) // most)
    axis.set_ticks(np.arange(0, len(names), step) + 0.5, names[::step])
    axis.set_tick_params(length=0, labelsize=_SMALL)


# ---- Evaluation ------------------------------------------------------------------------------


def gain_by_distance(evaluation: Evaluation, ax: Axes | None = None) -> Figure:
    """Draw the gain of the memory over the base model by distance to the nearest stored row.

    The base model is taken at its own temperature.

    Each bucket of the evaluation is one point with its interval; upwards is better. Buckets whose
    interval does not contain 0 are triangles: up for a gain, down for a harm.

    Parameters
    ----------
    evaluation : Evaluation
    ax : matplotlib Axes, optional
        Where to draw; default: a new Figure.

    Returns
    -------
    matplotlib Figure
    """
    findings.check_types(required=True, evaluation=evaluation)
    ax = _axes(ax, 2.8)
    buckets = evaluation.by_distance
    ax.axhline(0, color=DARK, linewidth=0.8)
    for x, bucket in enumerate(buckets):
        gain, low, high = (float(bucket[name]) for name in ("gain", "low", "high"))
        colour, marker = (BLUE, "^") if low > 0 else (ORANGE, "v") if high < 0 else (GREY, "o")
        ax.plot([x, x], [low, high], color=colour, linewidth=1.6)
        ax.plot(x, gain, marker, color=colour, markersize=6)
    edges = [bucket["from"] for bucket in buckets] + [bucket["to"] for bucket in buckets[-1:]]
    step = -(-len(edges) // 6) or 1
    ax.set_xticks(np.arange(len(edges))[::step] - 0.5, [f"{e:.3g}" for e in edges[::step]])
    rows = [bucket["rows"] for bucket in buckets] or [0]
    each = f"{min(rows)}" if min(rows) == max(rows) else f"{min(rows)} to {max(rows)}"
    near = name_of_distance(evaluation.memory.get("metric", "euclidean"))
    ax.set_xlabel(f"{near} to the nearest row ({each} rows a bucket)", fontsize=_TEXT)
    ax.set_ylabel(f"gain in {gain_unit(evaluation.task)}", fontsize=_TEXT)
    _tidy(ax)
    over = f"{evaluation.methods[-1].name}\nover {rival_name(evaluation)}"
    _title(ax, f"{over}; up is better; bars: 95% intervals")
    return ax.figure.figure


def reliability(evaluation: Evaluation, figure: Figure | SubFigure | None = None) -> Figure:
    """Draw how often each method is right, by its confidence; for classification only.

    On the diagonal a method is calibrated, below it it is too sure. The bars underneath count the
    rows in every bin of confidence, and the areas of the points grow with these counts.

    Parameters
    ----------
    evaluation : Evaluation
    figure : matplotlib Figure or SubFigure, optional
        Where to draw; default: a new Figure.

    Returns
    -------
    matplotlib Figure
    """
    findings.check_types(required=True, evaluation=evaluation)
    if evaluation.reliability is None:
        raise ValueError("reliability needs an evaluation of classification, got regression")
    methods = {method.name: method for method in evaluation.methods}
    down = -(-len(evaluation.reliability) // 2)
    figure = _figure(figure, 2.5 * down)
    panels = figure.subplots(2 * down, 2, height_ratios=[3.2, 1] * down, squeeze=False)
    for i, (name, bins) in enumerate(evaluation.reliability.items()):
        top, bottom = panels[2 * (i // 2), i % 2], panels[2 * (i // 2) + 1, i % 2]
        _diagram(top, bottom, [bin for bin in bins if bin["rows"]])
        error = methods[name].scores["calibration_error"]
        _title(top, f"{textwrap.fill(name, _PANEL_LETTERS)}\nerror {error:.3f}")
        top.set_ylabel("accuracy" if i % 2 == 0 else "", fontsize=_TEXT)
        bottom.set_ylabel("rows" if i % 2 == 0 else "", fontsize=_TEXT)
        bottom.set_xlabel("confidence", fontsize=_TEXT)
    for unused in panels[-2:, 1] if len(evaluation.reliability) % 2 else ():
        unused.set_axis_off()
    return figure.figure


def _diagram(top: Axes, bottom: Axes, bins: list[dict[str, Any]]) -> None:
    rows = np.array([bin["rows"] for bin in bins], dtype=np.float64)
    confidence = [bin["confidence"] for bin in bins]
    accuracy = [bin["accuracy"] for bin in bins]
    top.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
    top.scatter(confidence, accuracy, s=4 + 60 * rows / rows.max(initial=1), color=BLUE)
    low = [bin["low"] for bin in bins]
    bottom.bar(low, rows, [bin["high"] - bin["low"] for bin in bins], align="edge", color=GREY)
    for panel in (top, bottom):
        panel.set_xlim(0, 1)
        panel.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        _tidy(panel)
    top.set_ylim(-0.03, 1.03)
    top.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])


# ---- Explanation -----------------------------------------------------------------------------

Images = Callable[[int], Any] | Sequence[Any] | npt.NDArray[Any]  # an image for each index


def corrections(
    explanation: Explanation,
    evaluation: Evaluation | None = None,
    rows: Any = None,
    *,
    images: Images | None = None,
    row_images: Images | None = None,
    classes: Any = None,
    count: int = 3,
    neighbours: int = 5,
    figure: Figure | SubFigure | None = None,
) -> Figure:
    """Draw examples that the memory changed, and the neighbours that changed them.

    In classification, two of the explained columns matter: the class that the base model puts
    first, and the class that the memory puts first. A neighbour's push is what it adds to the
    second less what it adds to the first, in points of probability. In regression, it is what the
    neighbour adds to the first explained column, in the direction of the whole correction. Both
    include the factor ``strength``. Blue pushes are towards the truth, as far as that is known, and
    orange ones away from it. ``explain(..., columns=...)`` chooses the columns.

    Parameters
    ----------
    explanation : Explanation
    evaluation : Evaluation, optional
        Tells which examples were corrected and which harmed: ``count`` of each are drawn. Without
        it, the first ``count`` examples of the explanation are drawn.
    rows : int array (q,), optional
        The evaluated row of each query explained; by default query i is row i.
    images, row_images : array, sequence or function of an index, optional
        Images of evaluated rows by row, and of stored rows by id: (h, w) or (h, w, 3).
        Without both, neighbours are bars with labels.
    classes : sequence of str, optional
        Names of the classes; by default what targets call them, or their numbers.
    count, neighbours : int
        Most examples of each kind, and most neighbours of an example; defaults 3 and 5.
    figure : matplotlib Figure or SubFigure, optional
        Where to draw; default: a new Figure.

    Returns
    -------
    matplotlib Figure
    """
    findings.check_types(required=True, explanation=explanation)
    findings.check_types(evaluation=evaluation)
    if (images is None) != (row_images is None):
        raise ValueError("images and row_images go together, one is missing")
    classes = explanation.classes if classes is None else classes
    found = changes(explanation, evaluation, rows, classes, count, neighbours)
    unit = "points of probability" if is_classes(explanation) else "units of the value"
    factor = 100 if is_classes(explanation) else 1
    figure = _figure(figure, 0.3 + (1.15 if images is not None else 1.25) * max(len(found), 1))
    if not found:
        figure.text(0.5, 0.5, "No example was changed", ha="center", fontsize=_TEXT)
        return figure.figure
    *parts, last = figure.subfigures(
        len(found) + 1, 1, height_ratios=[1.0] * len(found) + [0.2], squeeze=False
    )[:, 0]
    for part, change in zip(parts, found, strict=True):
        colour = {"corrected": BLUE, "harmed": ORANGE}.get(change.kind, DARK)
        part.suptitle(
            _plain(_short(change.words, 60)), x=0.02, ha="left", fontsize=_TEXT, color=colour
        )
        if images is not None and row_images is not None:
            _draw_images(part, change, images, row_images, neighbours, factor)
        else:
            _draw_bars(part.subplots(), change, neighbours, factor)
    what = "weight and push of each neighbour" if images is not None else "push of each neighbour"
    last.text(0.02, 0.5, f"{what}, in {unit}", fontsize=_SMALL, va="center")
    return figure.figure


def _draw_bars(ax: Axes, change: Change, neighbours: int, factor: float) -> None:
    pushes = [factor * push for _, push in change.pushes]
    colours = [BLUE if change.helps(push) else ORANGE for push in pushes]
    at = np.arange(len(pushes))
    ax.barh(at, pushes, color=colours, height=0.7)
    ax.axvline(0, color=DARK, linewidth=0.8)
    ax.set_yticks(at, [_plain(_short(words, 34)) for words, _ in change.pushes])
    ax.set_ylim(neighbours + 0.5, -0.5)
    reach = 1.05 * (max(map(abs, pushes), default=0) or 1)
    ax.set_xlim(-reach, reach)
    _tidy(ax)


def _draw_images(
    part: SubFigure,
    change: Change,
    images: Images,
    row_images: Images,
    neighbours: int,
    factor: float,
) -> None:
    panels = part.subplots(1, neighbours + 1, squeeze=False)[0]
    _show(panels[0], _image(images, change.row), DARK, "")
    for panel in panels[1 + len(change.neighbours) :]:
        panel.set_axis_off()
    for panel, near in zip(panels[1:], change.neighbours, strict=False):
        colour = BLUE if change.helps(near.push) else ORANGE
        words = f"{_plain(_short(near.target, 12))}\n{near.weight:.0%}  {factor * near.push:+.3g}"
        _show(panel, _image(row_images, near.id), colour, words)


def _image(images: Images, index: int) -> Any:
    return images(index) if callable(images) else images[index]


def _show(panel: Axes, image: Any, frame: str, words: str) -> None:
    panel.imshow(image, cmap="gray", interpolation="nearest")
    panel.set_xticks([])
    panel.set_yticks([])
    panel.set_xlabel(words, fontsize=_SMALL, labelpad=2)
    for spine in panel.spines.values():
        spine.set(color=frame, linewidth=1.5)


# ---- Audit -----------------------------------------------------------------------------------


def audit(audit: Audit, ax: Axes | None = None) -> Figure:
    """Draw the rows of an audit by their score and by the harm that they do.

    Rows that neighbours contradict lie on the right, and those that move other rows' answers away
    from their targets above the line: triangles that point down, as opposed to rows that help. Of
    many rows, 400 are drawn, evenly spaced in the order of the audit.

    Parameters
    ----------
    audit : Audit
    ax : matplotlib Axes, optional
        Where to draw; default: a new Figure.

    Returns
    -------
    matplotlib Figure
    """
    findings.check_types(required=True, audit=audit)
    ax = _axes(ax, 2.8)
    shown = np.linspace(0, max(len(audit) - 1, 0), min(len(audit), _POINTS)).astype(np.int64)
    score, harm = audit.score[shown], audit.harm[shown]
    harms = harm > 0
    ax.axhline(0, color=DARK, linewidth=0.8)
    for some, marker, colour in ((~harms, "^", BLUE), (harms, "v", ORANGE)):
        ax.plot(score[some], harm[some], marker, color=colour, markersize=3.5, alpha=0.7)
    ax.set_xlabel(f"score: {contradiction_unit(audit.task)}", fontsize=_TEXT)
    ax.set_ylabel(f"harm, sum over rows ({harm_unit(audit.task)})", fontsize=_TEXT)
    _tidy(ax)
    of = f" of {len(audit):,}" if len(shown) < len(audit) else ""
    _title(ax, f"{len(shown)}{of} rows; right: contradicted;\nabove the line: more harm than good")
    return ax.figure.figure


# ---- Pruning ---------------------------------------------------------------------------------


def pruning(pruning: Pruning, ax: Axes | None = None) -> Figure:
    """Draw the gain over the base model against the rows kept, beside random pruning.

    Upwards is better. Bars are the intervals of the loss compared with that of all rows; memories
    whose loss is clearly larger than that are triangles that point down. A ring marks the rows that
    are kept.

    Parameters
    ----------
    pruning : Pruning
    ax : matplotlib Axes, optional
        Where to draw; default: a new Figure.

    Returns
    -------
    matplotlib Figure
    """
    findings.check_types(required=True, pruning=pruning)
    ax = _axes(ax, 2.8)
    shares = [100 * point.rows / pruning.memory_rows for point in pruning.curve]
    whole = pruning.base_loss - pruning.curve[0].loss
    random = [pruning.base_loss - point.random_loss for point in pruning.curve]
    ax.axhline(0, color=DARK, linewidth=0.8)
    ax.plot(shares, random, "--", color=GREY, linewidth=1.2, label="random rows")
    gains = [whole - point.rise.mean for point in pruning.curve]
    ax.plot(shares, gains, color=BLUE, linewidth=1.2, label="pruned")
    for x, point in zip(shares, pruning.curve, strict=True):
        low, high = whole - point.rise.high, whole - point.rise.low
        colour, marker = (ORANGE, "v") if point.rise.low > 0 else (BLUE, "o")
        ax.plot([x, x], [low, high], color=colour, linewidth=1.2)
        ax.plot(x, whole - point.rise.mean, marker, color=colour, markersize=4)
    kept = 100 * pruning.kept_rows / pruning.memory_rows
    chosen = whole - pruning.chosen.rise.mean
    ax.plot(kept, chosen, "o", markersize=11, mfc="none", mec="black", mew=1.8)
    ax.set_xlabel("rows kept (%)", fontsize=_TEXT)
    ax.set_ylabel(f"gain in {gain_unit(pruning.task)}", fontsize=_TEXT)
    ax.legend(fontsize=_SMALL, frameon=False, loc="lower right")
    _tidy(ax)
    _title(ax, f"Ring: {pruning.kept_rows:,} of {pruning.memory_rows:,} rows; up is better;\n"
               "over the base; orange: clearly worse than all rows")  # fmt: skip
    return ax.figure.figure


# ---- Shared helpers --------------------------------------------------------------------------


def _axes(ax: Axes | None, height: float) -> Axes:
    return _figure(None, height).add_subplot() if ax is None else ax


def _figure(figure: Figure | SubFigure | None, height: float) -> Any:
    if figure is not None:
        return figure
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "resmem.plot needs matplotlib: pip install 'residual-memory[plot]'"
        ) from error
    return Figure(figsize=(_WIDTH, height), layout="constrained", facecolor="white")


def _tidy(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=_SMALL, length=2)


def _title(ax: Axes, text: str) -> None:
    ax.set_title(_plain(text), fontsize=_TEXT, loc="left", color=DARK)


def _short(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def _plain(text: str) -> str:
    """Return the text with dollar signs escaped, which matplotlib would read as formulas."""
    return clean(text).replace("$", r"\$")
