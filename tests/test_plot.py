"""Pictures: what is drawn where, and that nothing but the figure is touched."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import resmem
import results
from resmem import plot
from resmem._report import plots

matplotlib = pytest.importorskip("matplotlib")
Figure = pytest.importorskip("matplotlib.figure").Figure

FLAT = np.full((len(results.KS), len(results.SIGMAS)), 0.45)


def texts(figure):
    """Return every text of a figure and of its parts."""
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


def rendered(figure):
    """Draw the figure and return it."""
    figure.canvas.draw()
    return figure


def colour_of(artist):
    return matplotlib.colors.to_hex(artist.get_color()).upper()


# ---- Tuning ----------------------------------------------------------------------------------


def test_tuning_map_shows_gains_and_rings_the_candidate():
    result = results.tuning()
    figure = rendered(plot.tuning_map(result))
    ax, bar = figure.axes
    _, _, scores = result.surface()
    (mesh,) = ax.collections
    assert np.allclose(np.ravel(mesh.get_array()), np.ravel(0.45 - scores))  # smaller is better
    low, high = mesh.get_clim()
    assert low == -high < 0
    (ring,) = ax.lines
    row, column = results.KS.index(20), results.SIGMAS.index(1.0)
    assert ring.get_xydata().tolist() == [[column + 0.5, row + 0.5]]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["1", "5", "20", "50"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0.25", "0.5", "1", "2", "inf"]
    assert "sigma" in ax.get_xlabel()
    assert "distance" in ax.get_xlabel()
    assert "log-loss" in bar.get_ylabel()
    assert ax.get_title("left") == "Chosen, the ring:\nk=20, sigma=1, T=1.25, strength=0.75"


def test_a_greater_score_is_a_gain_where_greater_is_better():
    result = results.tuning(scores=FLAT + 0.1, greater_is_better=True)
    (mesh,) = plot.tuning_map(result).axes[0].collections
    assert np.allclose(mesh.get_array(), 0.1)


def test_a_tuning_map_says_when_the_memory_was_switched_off():
    figure = plot.tuning_map(results.tuning(useful=False))
    assert figure.axes[0].get_title("left").startswith("Switched off")


def test_tuning_map_shows_a_gain_beside_far_larger_harms():
    scores = FLAT + 100.0
    scores[1, 1] = 0.40
    ax, bar = plot.tuning_map(results.tuning(scores=scores)).axes
    assert np.allclose(ax.collections[0].get_clim(), (-0.05, 0.05))
    assert bar._colorbar.extend == "min"


def test_tuning_map_without_gains_scales_to_the_typical_harm():
    scores = FLAT + 0.01
    scores[0, 0] += 5
    (mesh,) = plot.tuning_map(results.tuning(scores=scores)).axes[0].collections
    assert np.allclose(mesh.get_clim(), (-0.01, 0.01))


@pytest.mark.parametrize("fill", [0.45, math.inf, math.nan])
def test_scores_that_are_equal_or_not_finite_are_drawn(fill):
    figure = rendered(plot.tuning_map(results.tuning(scores=FLAT * 0 + fill)))
    crosses = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    assert len(crosses) == (0 if math.isfinite(fill) else FLAT.size)


def test_many_settings_get_few_axis_labels():
    ks, sigmas = np.arange(1, 41), np.geomspace(0.01, 100, 33)
    result = results.tuning(scores=np.zeros((40, 33)), ks=ks, sigmas=sigmas)
    ax = plot.tuning_map(result).axes[0]
    assert len(ax.get_yticklabels()) == 10
    assert len(ax.get_xticklabels()) == 5
    assert [t.get_text() for t in ax.get_yticklabels()][:2] == ["1", "5"]


# ---- Evaluation ------------------------------------------------------------------------------


def test_gains_and_harms_by_distance_differ_in_shape_and_colour():
    evaluation = results.evaluation()
    (ax,) = rendered(plot.gain_by_distance(evaluation)).axes
    points = [line for line in ax.lines if line.get_marker() in ("^", "v", "o")]
    assert [line.get_ydata()[0] for line in points] == [b["gain"] for b in evaluation.by_distance]
    for line, bucket in zip(points, evaluation.by_distance, strict=True):
        clear = (bucket["low"] > 0) - (bucket["high"] < 0)
        assert line.get_marker() == {1: "^", -1: "v", 0: "o"}[clear]
        assert colour_of(line) == {1: plots.BLUE, -1: plots.ORANGE, 0: plots.GREY}[clear]
    assert [line for line in ax.lines if list(line.get_ydata()) == [0, 0]]
    assert ax.get_ylabel() == "gain in log-loss (nats)"
    assert "200 rows" in ax.get_xlabel()
    assert ax.get_xticklabels()[0].get_text() == "0"
    evaluation.by_distance[0]["rows"] = 190
    assert "190 to 200 rows" in plot.gain_by_distance(evaluation).axes[0].get_xlabel()


def test_gain_by_distance_with_infinite_intervals_is_drawn():
    evaluation = results.evaluation(buckets=2)
    evaluation.by_distance[0].update(low=-math.inf, high=math.inf)
    evaluation.by_distance[1].update(low=math.nan, high=math.nan, gain=math.nan)
    rendered(plot.gain_by_distance(evaluation))


def test_gain_by_distance_without_buckets_is_drawn():
    rendered(plot.gain_by_distance(results.evaluation(buckets=0)))


def test_reliability_has_a_diagram_and_counts_of_every_method():
    evaluation = results.evaluation()
    figure = rendered(plot.reliability(evaluation))
    shown = [ax for ax in figure.axes if ax.axison]
    assert len(shown) == 2 * len(evaluation.methods)
    diagrams = [ax for ax in shown if ax.collections]
    for ax, (name, bins) in zip(diagrams, evaluation.reliability.items(), strict=True):
        filled = [bin for bin in bins if bin["rows"]]
        wanted = [[bin["confidence"], bin["accuracy"]] for bin in filled]
        assert np.allclose(ax.collections[0].get_offsets(), wanted)
        lines = ax.get_title("left").splitlines()
        assert " ".join(lines).startswith(f"{name} error 0.0")
        assert max(map(len, lines)) <= 24
    counts = [ax for ax in shown if ax.patches]
    heights = [bar.get_height() for bar in counts[0].patches]
    assert heights == [bin["rows"] for bin in evaluation.reliability["base"] if bin["rows"]]


def test_reliability_of_values_is_refused():
    message = "reliability needs an evaluation of classification, got regression"
    with pytest.raises(ValueError, match=message):
        plot.reliability(results.evaluation(task="regression"))


# ---- Explanation -----------------------------------------------------------------------------

NAMES = ["shirt", "coat", "$T$-shirt_{2}", "dress"]


def test_corrections_are_bars_with_the_harmed_ones_behind():
    explanation, evaluation = results.explanation(), results.evaluation()
    rows = results.EXPLAINED
    figure = rendered(plot.corrections(explanation, evaluation, rows, classes=NAMES))
    titles = [text for text in texts(figure) if "→" in text]
    assert [title.split(":")[0] for title in titles] == ["corrected", "corrected", "harmed"]
    assert titles[0] == r"corrected: coat 60% → \$T\$-shirt_{2} 50%"
    pushes = explanation.contributions[2, :, 1] - explanation.contributions[2, :, 0]  # row 7
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert np.allclose(widths, sorted(100 * pushes, reverse=True))
    assert len(figure.axes[2].patches) == 2  # the others are padding
    for ax, helps in ((figure.axes[0], 1), (figure.axes[2], -1)):
        for bar in ax.patches:
            towards = helps * bar.get_width() >= 0
            colour = matplotlib.colors.to_hex(bar.get_facecolor()).upper()
            assert colour == (plots.BLUE if towards else plots.ORANGE)
    assert any("points of probability" in text for text in texts(figure))


def test_neighbours_that_are_not_shown_are_summed():
    explanation = results.explanation(k=8)
    figure = plot.corrections(explanation, neighbours=3)
    pushes = explanation.contributions[0, :, 1] - explanation.contributions[0, :, 0]
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert len(widths) == 4
    assert math.isclose(sum(widths), 100 * pushes.sum())
    assert "5 more" in texts(figure)


def test_corrections_without_evaluation_show_the_first_queries():
    figure = plot.corrections(results.explanation(), count=2)
    titles = [text for text in texts(figure) if "→" in text]
    assert titles == ["class 1 60% → class 2 50%"] * 2


def test_without_outputs_the_correction_alone_is_shown():
    explanation = replace(results.explanation(with_base=False), spread=np.full((3, 4), -0.01))
    figure = plot.corrections(explanation, count=1)
    column = explanation.correction[0].argmax()
    widths = [bar.get_width() / 100 for bar in figure.axes[0].patches]
    assert math.isclose(sum(widths), explanation.contributions[0, :, column].sum() - 0.04)
    assert not any("→" in text for text in texts(figure))


def test_pushes_of_values_are_in_the_direction_of_the_correction():
    explanation = results.explanation("regression")
    figure = plot.corrections(explanation, count=3)
    for ax, query in zip(figure.axes, range(3), strict=True):
        total = sum(bar.get_width() for bar in ax.patches)
        assert math.isclose(total, abs(explanation.correction[query, 0]))
    assert "0.6 → 0.4" in texts(figure)
    assert "100" not in texts(figure)
    without = results.explanation("regression", with_base=False)
    assert f"{without.correction[0, 0]:+.4g}" in texts(plot.corrections(without))


def test_targets_of_several_columns_show_the_explained_column():
    targets = np.arange(3 * 4 * 5).reshape(3, 4, 5) / 8
    explanation = replace(results.explanation("regression"), targets=targets)
    figure = plot.corrections(explanation, count=1)
    labels = {text.split(",")[0] for text in texts(figure) if ", id 10" in text}
    assert labels == {f"{explanation.targets[0, j, 1]:.4g}" for j in range(4)}


@pytest.mark.parametrize("as_functions", [False, True])
@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3)])
def test_images_are_those_of_the_row_and_of_the_ids(as_functions, shape):
    explanation, rows = results.explanation(), results.EXPLAINED
    pictures = [np.full(shape, i / 256) for i in range(200)]
    given = pictures.__getitem__ if as_functions else pictures
    figure = plot.corrections(
        explanation, results.evaluation(), rows, images=given, row_images=given, count=1
    )
    shown = [ax.images[0].get_array().ravel()[0] for ax in rendered(figure).axes if ax.images]
    shown = [round(256 * pixel) for pixel in shown]
    assert (shown[0], sorted(shown[1:5])) == (7, [108, 109, 110, 111])
    assert (shown[5], sorted(shown[6:])) == (5, [104, 105])
    weights = [text for text in texts(figure) if "%  " in text]
    assert len(weights) == 6


def test_corrections_without_a_changed_example_say_so():
    evaluation = replace(results.evaluation(), examples={"corrected": [], "harmed": []})
    figure = plot.corrections(results.explanation(), evaluation, results.EXPLAINED)
    assert texts(figure) == ["No example was changed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": [1, 2]}, r"rows must be \(3,\) integers, one row for each query explained, got "
                           r"int64 \(2,\)"),
        ({"rows": [0.5, 1, 2]}, r"rows must be \(3,\) integers, .* got float64 \(3,\)"),
        ({"evaluation": results.evaluation()}, "3 queries are explained and 2000 rows evaluated: "
                                               "give rows=, the evaluated row of each query"),
        ({"classes": ["a", "b"]}, "classes must name every class: class 2 has no name, got 2"),
        ({"images": np.zeros((9, 2, 2))}, "images and row_images go together, one is missing"),
    ],
)  # fmt: skip
def test_corrections_of_parts_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        plot.corrections(results.explanation(), **arguments)


# ---- Figures ---------------------------------------------------------------------------------


def test_figures_are_drawn_into_the_given_axes():
    figure = Figure(layout="constrained")
    left, right = figure.subplots(1, 2)
    assert plot.tuning_map(results.tuning(), ax=left) is figure
    assert plot.gain_by_distance(results.evaluation(), ax=right) is figure
    assert right.lines
    for draw in (
        lambda part: plot.reliability(results.evaluation(), figure=part),
        lambda part: plot.corrections(results.explanation(), figure=part),
    ):
        whole = Figure(layout="constrained")
        part = whole.subfigures(1, 2)[1]
        assert draw(part) is whole
        assert part.findobj(matplotlib.axes.Axes)
        assert draw(whole) is whole


def test_long_names_are_cut_and_formulas_left_as_they_are():
    names = ["x" * 500, "a $b$ c", "$\\frac$", "d\ud800\x00"]
    explanation = results.explanation()
    figure = rendered(plot.corrections(explanation, classes=names, neighbours=9))
    assert max(map(len, texts(figure))) < 70
    assert any(text.startswith(r"\$\frac\$, ") for text in texts(figure))
    assert any(text.startswith("d��, ") for text in texts(figure))


def test_drawing_does_not_import_pyplot():
    script = (
        "import sys, resmem, results\n"
        "assert 'matplotlib' not in sys.modules\n"
        "resmem.plot.gain_by_distance(results.evaluation())\n"
        "assert 'matplotlib.figure' in sys.modules\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{script}"], check=True
    )


def test_everything_public_is_documented():
    assert plot is resmem.plot
    for name in plot.__all__:
        assert getattr(plot, name).__doc__


# ---- Audit -----------------------------------------------------------------------------------


def audited(n, task="classification"):
    """Return an audit of n rows, every third of which does harm."""
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(n, 2)), rng.integers(0, 2, n)
    mem = resmem.Memory(task, k=3)
    audit = mem.fit(z, rng.normal(size=(n, 2)), y if task == "classification" else z).audit()
    return replace(audit, harm=np.where(np.arange(n) % 3, -1.0, 1.0) * np.arange(1, n + 1))


def test_audit_shows_harm_and_help_in_shape_and_colour():
    audit = audited(90)
    (ax,) = rendered(plot.audit(audit)).axes
    marks = {line.get_marker(): line for line in ax.lines if line.get_marker() in ("^", "v")}
    for marker, colour, harms in (("^", plots.BLUE, False), ("v", plots.ORANGE, True)):
        some = (audit.harm > 0) == harms
        wanted = np.stack([audit.score, audit.harm], axis=1)[some]
        np.testing.assert_array_equal(marks[marker].get_xydata(), wanted)
        assert colour_of(marks[marker]) == colour
    assert "other classes" in ax.get_xlabel()
    assert "probability" in ax.get_ylabel()
    assert ax.get_title("left").startswith("90 rows;")


def test_audit_of_many_rows_draws_some_from_first_to_last():
    audit = audited(1200, "regression")
    (ax,) = plot.audit(audit).axes
    drawn = np.concatenate([line.get_xydata() for line in ax.lines if line.get_marker() in "^v"])
    assert len(drawn) == 400
    assert {audit.score[0], audit.score[-1]} <= set(drawn[:, 0])
    assert "spreads" in ax.get_xlabel()
    assert ax.get_title("left").startswith("400 of 1,200 rows;")


def test_audit_of_something_else_is_refused():
    with pytest.raises(TypeError, match=r"^audit must be what Memory\.audit returns, got dict"):
        plot.audit({})


# ---- Pruning ---------------------------------------------------------------------------------


def test_pruning_shows_gains_by_rows_kept_beside_random_ones():
    pruning = results.pruning()
    (ax,) = rendered(plot.pruning(pruning)).axes
    lines = {line.get_label(): line.get_xydata() for line in ax.lines}
    np.testing.assert_allclose(lines["pruned"], [[100, 0.2], [60, 0.21], [30, 0.19], [10, -0.1]])
    np.testing.assert_allclose(lines["random rows"][:, 1], [0.2, 0.15, 0.1, -0.2])
    marks = [
        line for line in ax.lines if line.get_marker() in ("o", "v") and line.get_mfc() != "none"
    ]
    assert [mark.get_marker() for mark in marks] == ["o", "o", "o", "v"]
    assert [colour_of(mark) for mark in marks] == [plots.BLUE] * 3 + [plots.ORANGE]
    (ring,) = [line for line in ax.lines if line.get_mfc() == "none"]
    np.testing.assert_allclose(ring.get_xydata(), [[30, 0.19]])
    assert ax.get_xlabel() == "rows kept (%)"
    assert ax.get_ylabel() == "gain in log-loss (nats)"
    assert ax.get_title("left").startswith("Ring: 600 of 2,000 rows")
