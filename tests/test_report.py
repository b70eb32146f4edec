"""The report: one file that needs nothing else, and says harms as plainly as gains."""

from __future__ import annotations

import math
import os
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

import resmem
import results
from resmem import plot

EMPTY = {"meta"}
GATE = "distance: 1.0 to 0.8, 0.0 beyond"
NASTY = ['shirt & "co"', "<script>alert(1)</script>", "a'b", "\x00\ud800 <b>"]


class Page(HTMLParser):
    """A parsed page, in which every element must be closed in its place."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(set(names)) == len(names)
        self.elements.append((tag, dict(attributes)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def read(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>\n")
    return Page(text)


@pytest.fixture(scope="module")
def figured(tmp_path_factory):
    """Return the file of a report with all figures."""
    pytest.importorskip("matplotlib")
    path = tmp_path_factory.mktemp("figured") / "r.html"
    resmem.report(path, **everything())
    return path


@pytest.fixture
def draw(tmp_path):
    """Return a function that writes a report with figures and returns its page."""
    pytest.importorskip("matplotlib")

    def drawn(*arguments, **more):
        resmem.report(tmp_path / "r.html", *arguments, **more)
        return read(tmp_path / "r.html")

    return drawn


@pytest.fixture
def write(tmp_path, without_matplotlib):
    """Return a function like that of `draw`, without figures, which take long."""

    def written(*arguments, **more):
        resmem.report(tmp_path / "r.html", *arguments, **more)
        return read(tmp_path / "r.html")

    return written


@pytest.fixture
def without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


def audited(labels=None):
    """Return an audit of 50 rows in two classes."""
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(50, 2)), rng.integers(0, 2, 50)
    return resmem.Memory(k=3).fit(z, z, y if labels is None else np.array(labels)[y]).audit()


def everything(**changed):
    return {
        "tuning": results.tuning(),
        "evaluation": results.evaluation(),
        "explanation": results.explanation(),
        "rows": results.EXPLAINED,
        **changed,
    }


# ---- What it says ----------------------------------------------------------------------------


def test_report_answers_its_questions_in_order(write):
    page = write(**everything())
    order = [
        "Does the memory help? The memory helps: on 2,000 rows its log-loss is 0.06 nats better "
        "than the base model's at its own temperature (95% interval of the gain +0.04 to +0.08).",
        "100 predictions were corrected and 40 harmed: accuracy 80.00% before, 85.00% after.",
        "The temperature alone, without any neighbour, is 0.02 nats better (95% interval of the "
        "gain +0.01 to +0.03).",
        "What was chosen? The gain is clear of 0. By log-loss (smaller is better) on 2,000",
        "sigma lies at the edge of its grid",
        "Where does it help, and where does it harm? Of 10 groups of rows by distance to the "
        "nearest stored row, 3 clearly gain, 4 clearly lose, and 3 are not clear either way.",
        "Is it calibrated? The memory's calibration error is 0.02, the base model's at its own "
        "temperature 0.06: it is better calibrated.",
        "Who corrected what?",
        "What does the memory hold? 12,345 rows, each an embedding of 64 dimensions and 4 outputs: "
        "5.0 MiB in all. All of a row's residuals and outputs are kept (store dense); embeddings "
        "as float32. Nobody has said whether its residuals are honest (out-of-fold).",
        "How was this made?",
    ]
    places = [page.text.index(words) for words in order]
    assert places == sorted(places)
    assert f"resmem {resmem.__version__}" in page.text
    assert page.all("h1") == [{}]


def test_a_harm_is_said_as_plainly_as_a_gain(write):
    page = write(evaluation=results.evaluation(gain=-0.08))
    assert (
        "The memory harms: on 2,000 rows its log-loss is 0.06 nats worse than the base model's "
        "at its own temperature (95% interval of the gain -0.08 to -0.04)."
    ) in page.text
    assert {"class": "harm"} in page.all("span")


def test_gain_that_is_not_clear_is_not_claimed(write):
    page = write(evaluation=results.evaluation(gain=0.004))
    assert "Whether the memory helps is not clear: on 2,000 rows" in page.text
    page = write(tuning=results.tuning(useful=False))
    assert (
        "Whether the memory helps is not clear: on 2,000 rows that did not choose the settings "
        "its log-loss is 0.002 better than that of the base model at its own temperature (95% "
        "interval of the gain -0.008 to +0.012), and 0.001 better than with the mean residual of "
        "all rows, or other rows' neighbours, in their place (-0.009 to +0.011)."
    ) in page.text


def test_infinite_log_losses_are_not_compared(write):
    rng = np.random.default_rng(5)
    z, logits, y = rng.normal(size=(400, 4)), rng.normal(size=(400, 3)), rng.integers(0, 3, 400)
    mem = resmem.Memory(k=10).fit(z[:200], logits[:200], y[:200])
    logits[np.arange(200, 205), y[200:205]] = -np.inf
    with pytest.warns(resmem.ResmemWarning, match="its log-loss is infinite"):
        evaluation = mem.evaluate(z[200:], logits[200:], y[200:])
    page = write(evaluation=evaluation)
    assert (
        "Whether the memory helps is not clear: on 200 rows both give probability 0 to the class "
        "of some, and their log-losses are infinite."
    ) in page.text


def test_helping_means_a_gain_over_both_bases(write):
    clear, unclear, loss = (results.interval(mean, 0.02) for mean in (0.1, 0.01, -0.1))
    for over, words in (
        ((clear, clear), "The memory helps: on 2,000 rows its log-loss is 0.1 nats better than"),
        ((clear, unclear), "Whether the memory helps is not clear: on 2,000 rows its log-loss is"),
        ((clear, loss), "The memory harms: on 2,000 rows its log-loss is 0.1 nats worse than the "
         "base model's (95%"),
    ):  # fmt: skip
        named = dict(zip(("base, T=1.25", "base"), over, strict=True))
        assert words in write(evaluation=replace(results.evaluation(), over=named)).text


def test_an_infinite_log_loss_does_not_help(write):
    evaluation = results.evaluation()
    evaluation.methods[-1].scores["log_loss"] = math.inf
    assert (
        "Whether the memory helps is not clear: on 2,000 rows it gives probability 0 to the class "
        "of some, and its log-loss is infinite."
    ) in write(evaluation=evaluation).text


def test_gain_of_the_temperature_alone_is_called_so(write):
    for added, words in (
        (0.01, "The memory's temperature helps, whether its neighbours do is not clear: on 2,000"),
        (-0.1, "The memory's temperature helps, its neighbours harm: on 2,000 rows"),
    ):
        over = {"base, T=1.25": results.interval(added, 0.02)}
        page = write(evaluation=replace(results.evaluation(), over=over))
        assert words in page.text
        assert "The memory helps" not in page.text


def test_methods_that_beat_the_memory_are_named_at_the_top(write):
    evaluation = results.evaluation()
    words = "Better than the memory is "
    assert words not in write(evaluation=evaluation).text
    evaluation.over["kNN alone"] = results.interval(-0.03)
    said = f"{words}kNN alone, by 0.03 nats (+0.02 to +0.04)."
    assert said in write(evaluation=evaluation).text
    evaluation.settings["strength"] = 0
    assert said in write(evaluation=evaluation).text
    harmful = results.evaluation(gain=-0.08)
    assert f"{words}base" not in write(evaluation=harmful).text


def test_a_memory_that_is_switched_off_is_called_so(write):
    evaluation = results.evaluation(gain=0.0)
    evaluation.settings["strength"] = 0
    page = write(results.tuning(useful=False), evaluation)
    assert (
        "The memory is switched off: its strength is 0. Whether the memory helps is not clear: on "
        "2,000 rows that did not choose the settings"
    ) in page.text
    assert "is 0 nats better" in page.text  # the temperature alone
    assert "Where does it help" not in page.text


def test_evaluation_outweighs_the_tuning_in_a_report(write):
    page = write(results.tuning(), results.evaluation(gain=-0.08))
    assert "The memory harms" in page.text
    assert "The memory helps" not in page.text


def test_every_method_has_its_scores_and_its_harms(write):
    page = write(evaluation=results.evaluation())
    for line in (
        "method gain accuracy log-loss corrected harmed Brier score calibration error base",
        "base – 80.00% 0.5 – – 0.3 0.07",  # noqa: RUF001
        "kNN alone -0.08 -0.09 to -0.07 82.00% 0.46 40 16 0.3 0.05",
        "ResMem, strength 0.75 +0.08 +0.07 to +0.09 85.00% 0.4 100 40 0.3 0.02",
        "gain of ResMem, strength 0.75 over gain base, T=1.25 +0.06 +0.04 to +0.08 base +0.06",
    ):
        assert line in page.text


def test_classes_are_ordered_from_most_won_to_most_lost(write):
    page = write(evaluation=results.evaluation(), classes=["shirt", "coat", "bag", "dress"])
    lines = ["dress 500 9 1 83.00%", "bag 500 6 2", "coat 500 3 3", "shirt 500 0 4"]
    places = [page.text.index(line) for line in lines]
    assert places == sorted(places)


def test_of_many_classes_the_most_changed_are_shown(write):
    page = write(evaluation=results.evaluation(classes=1000))
    assert "The 30 of 1000 classes in which most changed on balance." in page.text
    assert page.text.count(" 2 ") < 2000
    assert "class 999" in page.text
    assert "class 400 " not in page.text


def test_report_of_a_regression_has_its_own_words(write):
    page = write(
        evaluation=results.evaluation(gain=-0.1, task="regression"),
        explanation=results.explanation("regression"),
        rows=results.EXPLAINED,
    )
    assert "The memory harms: on 2,000 rows its squared error per row is 0.075 worse" in page.text
    assert "100 predictions were improved and 40 made worse: RMSE 2.5 before, 2 after." in page.text
    assert "RMSE" in page.text
    assert "calibrated" not in page.text
    assert "0.6 → 0.4" in page.text
    assert "units of the value" in page.text


def test_examples_name_the_neighbours_that_corrected_them(write):
    page = write(**everything(classes=["shirt", "coat", "bag", "dress"]))
    titles = ["Row 7, corrected: coat 60% → bag 50%", "Row 3, corrected:", "Row 5, harmed:"]
    places = [page.text.index(title) for title in titles]
    assert places == sorted(places)
    explanation = results.explanation()
    push = explanation.contributions[2, 0, 1] - explanation.contributions[2, 0, 0]
    assert f"108 shirt 0.1 40.0% {100 * push:+.3g}" in page.text


def test_more_neighbours_than_are_shown_are_summed(write):
    page = write(**everything(explanation=results.explanation(k=9)))
    assert "4 more" in page.text


def test_report_without_a_changed_example_says_so(write):
    page = write(**everything(rows=[20, 21, 22]))
    assert "None of the examples that are explained was changed." in page.text


def test_a_tuning_that_switched_off_says_why(write):
    page = write(tuning=results.tuning(useful=False))
    assert "The gain is not clear of 0." in page.text
    assert "chosen 20 1 1.25 0 residual clip" in page.text
    assert "best of the grid 20 1 1.25 0.75 residual clip" in page.text
    assert "without fold 5 5 1 1.25 0.75" in page.text


def test_each_part_alone_is_a_report(write):
    assert len(write(results.tuning()).all("h2")) == 3
    assert len(write(evaluation=results.evaluation()).all("h2")) == 5
    assert len(write(explanation=results.explanation()).all("h2")) == 2
    with pytest.raises(ValueError, match=r"^nothing to report: give tuning, evalu"):
        write()


def test_numbers_that_are_not_finite_are_printed(write):
    evaluation = results.evaluation(buckets=2)
    evaluation.by_distance[0].update(low=-math.inf, high=math.inf)
    evaluation.by_distance[1].update(gain=math.nan, low=math.nan, high=math.nan)
    for method in evaluation.methods:
        method.scores["log_loss"] = math.inf
    page = write(evaluation=evaluation)
    assert "80.00% inf" in page.text
    assert "-inf to +inf" in page.text


def test_words_of_the_tables_are_explained_once(write):
    evaluation = results.evaluation()
    evaluation.settings["probability_map"] = "keep:0.3"
    page = write(results.tuning(), evaluation)
    for words in (
        "base, T The model alone, its outputs divided by the temperature T",
        "kNN alone No model: the nearest stored rows vote",
        "interpolation, lambda A mix (kNN-LM)",
        "published As in the paper on ResMem",
        "strength How much of what the neighbours say is used",
        "keep:0.3 Every class keeps at least 0.3 times the probability that the model gives it.",
        "targets Neighbours give their own answers, mixed with the model's",
        "k How many of the nearest stored rows count.",
        "sigma How fast a row counts less with its distance",
    ):
        assert page.text.count(words) == 1, words
    assert page.text.index("strength How much") < page.text.index("What was chosen?")
    alone = write(results.tuning())
    assert "strength How much of what the neighbours say" in alone.text
    assert "keep:0.3" not in alone.text


@pytest.mark.parametrize(
    ("residuals", "words"),
    [
        ("in-sample", "Its residuals are in-sample: of rows that the model was trained on."),
        ("out-of-fold", "Its residuals are out-of-fold: of models that did not see the row."),
    ],
)
def test_report_says_which_residuals_the_memory_holds(write, residuals, words):
    evaluation = results.evaluation()
    evaluation.memory.update(residuals=residuals, store="sparse:8", preprocess="pca:16")
    page = write(evaluation=evaluation)
    assert words in page.text
    assert f"{residuals} residuals" in page.text
    assert "The 8 largest of a row's residuals are kept (store sparse:8)" in page.text
    assert "embeddings as float32 after pca:16." in page.text
    evaluation.memory.update(metric="cosine")
    page = write(evaluation=evaluation)
    assert "embeddings as float32 after pca:16, compared by metric cosine." in page.text


def test_settings_that_a_method_has_not_are_left_out(write):
    page = write(tuning=results.tuning())
    none = "–"  # noqa: RUF001
    assert f"base {none} {none} 1.25 {none} {none} {none} {none} {none}" in page.text
    assert f"kNN alone 50 1 {none} {none} {none} clip none float32" in page.text
    assert f"interpolation 20 1 1.25 0.4 targets {none} none float32" in page.text
    assert "gate" not in page.text


def test_report_of_a_gated_memory_of_targets_says_so(write):
    gated = replace(results.tuning(), best=replace(results.settings(), gate=GATE))
    evaluation = results.evaluation()
    evaluation.settings.update(method="targets", gate=GATE)
    page = write(gated, evaluation)
    assert f"gated The strength depends on the query: {GATE}." in page.text
    assert page.text.index("targets Neighbours give") < page.text.index("What was chosen?")
    assert f"residual clip none float32 {GATE} best of the grid" in page.text


def test_perplexity_is_shown_where_classes_are_many(write):
    many = results.evaluation(classes=200)
    assert "log-loss perplexity corrected" in write(evaluation=many).text
    assert "perplexity" not in write(evaluation=results.evaluation()).text
    many.memory["output_kind"] = "probabilities"
    assert "perplexity" not in write(evaluation=many).text


def test_worst_groups_come_first_in_a_report(write):
    page = write(evaluation=results.evaluation(groups=12))
    assert "The 10 worst of 12. The group that the memory predicts worst comes first." in page.text
    assert "g0 +0.1 +0.05 to +0.15 0.48 0.4 10 3 1 g1 +0.07" in page.text
    assert "g10" not in page.text
    assert "with its 95% interval, by 12 groups" in page.text
    assert "By group" not in write(evaluation=results.evaluation()).text


def test_outputs_are_ordered_by_the_fall_of_their_errors(write):
    evaluation = results.evaluation(task="regression")
    evaluation.by_output[1]["ResMem, strength 0.75"]["rmse"] = 0.5
    page = write(evaluation=evaluation)
    assert "By output From the output whose error fell most." in page.text
    assert "R², memory 1 2 0.5 0.25 0.25 height 1 1 0.25 0.25" in page.text


def test_examples_are_explained_without_being_asked_for(write):
    page = write(evaluation=results.evaluation(explained=True))
    assert "Who corrected what?" in page.text
    assert "Row 7, corrected:" in page.text
    other = write(
        evaluation=results.evaluation(explained=True),
        explanation=results.explanation(k=9),
        rows=results.EXPLAINED,
    )
    assert "4 more" in other.text


# ---- How it is made --------------------------------------------------------------------------


def test_report_refers_to_no_other_file(figured):
    page, text = read(figured), figured.read_text(encoding="utf-8")
    assert "://" not in text
    assert "@import" not in text
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "img", "a"}
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png"))
    assert 'name="viewport"' in text
    assert page.all("html") == [{"lang": "en"}]
    assert len(text) < 400_000


def test_figures_are_inline_and_have_alternative_text(figured):
    page = read(figured)
    figures = [attributes for attributes in page.all("svg") if "role" in attributes]
    assert len(figures) == len(page.all("figure")) == 4
    for attributes in figures:
        assert attributes["role"] == "img"
        assert len(attributes["aria-label"]) > 40
        assert "width" not in attributes  # the page sets the width
        assert "viewbox" in attributes
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    used = re.compile(r"url\(#([^)]+)\)")
    for _, attributes in page.elements:
        links = [attributes["href"][1:]] if attributes.get("href", "").startswith("#") else []
        links += used.findall(" ".join(filter(None, attributes.values())))
        assert set(links) <= set(ids)


def test_images_are_part_of_the_file(draw):
    images = np.random.default_rng(0).random((200, 6, 6))
    page = draw(**everything(images=images, row_images=images))
    embedded = [attributes["href"] for attributes in page.all("image")]
    assert embedded
    assert all(link.startswith("data:image/png;base64,") for link in embedded)


def test_wide_tables_scroll_by_themselves(write):
    page = write(**everything())
    around = [a for a in page.all("div") if a.get("class") == "wide" and a["tabindex"] == "0"]
    assert len(page.all("table")) == len(around) > 10


def test_names_are_escaped(draw):
    page = draw(**everything(classes=NASTY, title=NASTY[1], date='<"2026">'))
    assert "script" not in [tag for tag, _ in page.elements]
    for name in NASTY[:3]:
        assert name in page.text
    assert "�� <b>" in page.text
    assert '<"2026">' in page.text
    assert page.all("title") == [{}]
    assert not page.all("b")


def test_the_same_results_give_the_same_bytes(figured, tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 0.0)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    matplotlib = pytest.importorskip("matplotlib")
    settings = {"axes.facecolor": "red", "font.size": 30, "svg.fonttype": "path"}
    with matplotlib.rc_context(settings):
        before = dict(matplotlib.rcParams)
        resmem.report(tmp_path / "r.html", **everything())
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "r.html").read_bytes() == figured.read_bytes()
    assert b">date<" not in figured.read_bytes()


def test_letters_without_a_matplotlib_glyph_stay_text(draw):
    page = draw(**everything(classes=["日本", "語", "한국", "ไทย"]))
    assert "日本" in page.text


@pytest.mark.usefixtures("without_matplotlib")
def test_a_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "r.html"
    path.write_text("before")
    with pytest.raises(ValueError, match="classes must name every class"):
        resmem.report(path, **everything(classes=["a"]))
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        resmem.report(path, **everything())
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["r.html"]


# ---- Without matplotlib ----------------------------------------------------------------------


def test_without_matplotlib_there_are_open_tables_and_a_hint(write):
    page = write(**everything())
    assert not page.all("svg")
    assert not page.all("figure")
    assert "Figures need matplotlib: pip install 'residual-memory[plot]'." in page.text
    assert len([a for a in page.all("details") if "open" in a]) == 3
    assert "0.6 to 0.9 +0.04 +0.01 to +0.07 200" in page.text
    assert len(page.all("table")) >= 10


@pytest.mark.usefixtures("without_matplotlib")
def test_without_matplotlib_drawing_says_how_to_get_it():
    message = r"^resmem.plot needs matplotlib: pip install 'residual-memory\[plot\]'$"
    for draw in (
        lambda: plot.tuning_map(results.tuning()),
        lambda: plot.gain_by_distance(results.evaluation()),
        lambda: plot.reliability(results.evaluation()),
        lambda: plot.corrections(results.explanation()),
    ):
        with pytest.raises(ImportError, match=message):
            draw()


# ---- Rows that look wrong --------------------------------------------------------------------


def test_the_audit_lists_contradicted_and_harmful_rows(write):
    audit = audited()
    page = write(audit=audit, classes=NASTY[:2])
    assert "Which rows look wrong?" in page.text
    assert all(line in page.text for line in audit.findings)
    first = f"{audit.ids[0]} {NASTY[audit.targets[0]]} {NASTY[audit.expected[0]]} "
    assert first + f"{audit.score[0]:.3g}" in page.text
    worst = audit.harmful[0]
    at = audit.ids.tolist().index(worst)
    assert f"{worst} {audit.harm[at]:+.3g} {audit.misled[at]} of {audit.used[at]}" in page.text
    assert len(page.all("svg")) == 0


def test_the_audit_is_drawn_and_says_labels(draw):
    page = draw(audit=audited(NASTY[:2]))
    assert NASTY[1] in page.text
    assert len(page.all("svg")) == 1


def test_an_audit_without_harm_has_no_table_of_it(write):
    audit = audited()
    page = write(audit=replace(audit, harm=-np.ones(len(audit)), memory_rows=99))
    assert "The most harmful rows" not in page.text
    assert "Each of 50 of 99 rows" in page.text
    values = replace(audit, task="regression", targets=np.full(50, 0.25), expected=np.ones((50, 2)))
    text = write(audit=values).text
    assert "0.25 (2 values)" in text


def test_the_pruning_is_told_and_drawn(draw):
    page = draw(pruning=results.pruning())
    assert "Which rows are not needed?" in page.text
    assert "600 are kept and 1,400 could go: the loss of 200 rows, +0.3, is clear." in page.text
    assert len(page.all("svg")) == 1
    assert "600 30% 0.31 +0.01 -0.01 to +0.03 0.4" in page.text


def test_a_clear_rise_of_a_pruning_is_a_harm(write):
    page = write(pruning=replace(results.pruning(), applied=True))
    assert "1,400 were removed" in page.text
    rises = [at["class"] for at in page.all("span") if at["class"] in ("gain", "harm", "plain")]
    assert rises == ["plain", "plain", "plain", "harm"]
