"""Intervals and sets against the oracle's bits; their coverage; calibrations that do not fit."""

from __future__ import annotations

import json
import pickle
import warnings

import numpy as np
import pytest

import oracle
import resmem

D, C = 3, 4
HEAD = tuple(np.random.default_rng(0).standard_normal(s, dtype=np.float32) for s in ((C, D), C))
VALUES = {
    "flat": {},
    "several": {"strength": 0.5},
    "half": {"residual_dtype": "float16", "sigma": np.inf},
    "off": {"strength": 0.0, "sigma": 0.3},
    "few": {"k": 90},
    "wide": {"key_dtype": "float64", "strength": -1.5},
    "targets": {"method": "targets", "strength": 0.7},
    "gated": {"gate": "distance: 1.0 to 0.4, 0.5 to 0.6, 0.0 beyond"},
}
CLASSES = {
    "dense": {},
    "kept": {"probability_map": "keep:0.4", "temperature": 2.0, "strength": 1.5},
    "sparse": {"store": "sparse:1", "temperature": 0.5},
    "head": {"store": "head", "head": HEAD},
    "probabilities": {"output_kind": "probabilities", "strength": 0.5},
    "targets": {"method": "targets", "strength": 0.7},
}


def numbers(seed, n, columns=None):
    """Return embeddings, values that miss the truth by what depends on the embedding, and it."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, D), dtype=np.float32)
    outputs = z @ rng.standard_normal((D, C))
    noise = np.exp(z[:, :1]) * rng.standard_normal((n, C))
    parts = outputs, outputs + np.sin(3 * z[:, 1:2]) + noise
    return (z, *(part[:, 0] if columns is None else part[:, :columns] for part in parts))


def classes(seed, n, case="dense"):
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((n, D), dtype=np.float32)
    logits = oracle.head_logits(z, *HEAD)
    truth = logits + np.sin(3 * z[:, [0, 1, 2, 0]]) + rng.gumbel(size=(n, C))
    outputs = oracle.softmax(logits).astype(np.float32) if case == "probabilities" else logits
    return z, None if case == "head" else outputs, truth.argmax(axis=1)


def regression(case="flat", n=300, **options):
    """Return a memory of two segments, some rows of which were removed, and all its rows."""
    columns = None if case == "flat" else 3
    mem = resmem.Memory("regression", **{"k": 5, **VALUES[case], **options})
    rows = numbers(1, n, columns)
    mem.fit(*(part[: n - 20] for part in rows)).add(*(part[n - 20 :] for part in rows))
    return mem.remove(np.arange(0, n, 7)), rows


def classifier(case="dense", **options):
    return resmem.Memory(**{"k": 5, **CLASSES[case], **options}).fit(*classes(1, 200, case))


def units(mem, rows, z, outputs, excluded):
    """Return the oracle's typical error and units of the scores of queries."""
    stored, targets = (part.reshape(len(part), -1) for part in rows[1:])
    residuals = oracle.residuals("regression", "values", stored, targets, wide=True)
    residuals = residuals.astype(mem.residual_dtype)
    lives = np.setdiff1d(np.arange(len(rows[0])), np.arange(0, len(rows[0]), 7))

    def applied(z, outputs, excluded):
        return (mem.correct(z, outputs, excluded) - outputs).reshape(len(z), -1)

    own = lives[oracle.sampled(len(lives), 256)]
    typical = oracle.typical_error(residuals[own], applied(rows[0][own], rows[1][own], own))
    distances, ids = mem.kneighbors(z, exclude_ids=excluded)  # an id is a row's number here
    local = oracle.spread(distances, ids, residuals, applied(z, outputs, excluded), mem.sigma_)
    return typical, np.where(np.isnan(local), typical, local) + typical


# ---- The oracle's bits ---------------------------------------------------------------------


@pytest.mark.parametrize("case", VALUES)
@pytest.mark.parametrize("block_bytes", [None, 4000])
def test_intervals_have_the_oracles_bits(case, block_bytes, monkeypatch):
    if block_bytes:
        monkeypatch.setattr(resmem._base.blocks, "_BLOCK_BYTES", block_bytes)
    mem, rows = regression(case)
    z, outputs, targets = numbers(2, 60, None if case == "flat" else 3)
    excluded = np.random.default_rng(0).integers(0, 300, (60, 2))
    calibration = mem.calibrate(z, outputs, targets, excluded)
    typical, unit = units(mem, rows, z, outputs, excluded)
    values = mem.correct(z, outputs, excluded).reshape(60, -1)
    scores = np.abs(targets.reshape(60, -1) - values) / unit
    np.testing.assert_array_equal(calibration.scores, np.sort(scores, axis=0))
    np.testing.assert_array_equal(calibration.spread, typical)
    got = mem.predict_interval(z, outputs, calibration, 0.8, excluded, threads=2)
    half = oracle.limit(scores, "0.8") * unit
    for ends, expected in zip(got, (values - half, values + half), strict=True):
        np.testing.assert_array_equal(ends, expected.reshape(outputs.shape))
        assert ends.dtype == np.float64


@pytest.mark.parametrize("case", CLASSES)
def test_sets_have_the_oracles_bits(case):
    mem = classifier(case)
    (z, outputs, targets), (asked, their_outputs, _) = classes(2, 60, case), classes(3, 90, case)
    calibration = mem.calibrate(z, outputs, targets)
    scores = oracle.mass_above(mem.predict_proba(z, outputs))[np.arange(60), targets]
    np.testing.assert_array_equal(calibration.scores[:, 0], np.sort(scores))
    got = mem.predict_set(asked, their_outputs, calibration, 0.6)
    above = oracle.mass_above(mem.predict_proba(asked, their_outputs))
    expected = above <= oracle.limit(scores[:, None], "0.6")
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == np.bool_
    np.testing.assert_array_equal(got[np.arange(90), mem.predict(asked, their_outputs)], True)


# ---- Coverage ------------------------------------------------------------------------------


def test_intervals_of_many_splits_cover_as_often_as_they_say():
    """With 19 rows, 18 of 20 places of a new score are within; 150 splits err by 0.006."""
    mem, _ = regression()
    z, outputs, targets = numbers(4, 150 * 69)
    covered = []
    for split in np.split(np.arange(150 * 69), 150):
        own, asked = split[:19], split[19:]
        low, high = mem.predict_interval(
            z[asked], outputs[asked], mem.calibrate(z[own], outputs[own], targets[own]), 0.9
        )
        covered.append(((low <= targets[asked]) & (targets[asked] <= high)).mean())
    assert abs(np.mean(covered) - 0.9) < 0.02


def test_sets_of_many_splits_cover_as_often_as_they_say():
    mem = classifier()
    z, outputs, targets = classes(4, 150 * 69)
    covered = []
    for split in np.split(np.arange(150 * 69), 150):
        own, asked = split[:19], split[19:]
        calibration = mem.calibrate(z[own], outputs[own], targets[own])
        sets = mem.predict_set(z[asked], outputs[asked], calibration, 0.9)
        covered.append(sets[np.arange(50), targets[asked]].mean())
    assert abs(np.mean(covered) - 0.9) < 0.02


def test_intervals_are_wide_where_the_noise_is():
    mem, _ = regression(n=2000, k=20)
    z, outputs, _ = numbers(3, 400)
    low, high = mem.predict_interval(z, outputs, mem.calibrate(*numbers(2, 500)))
    quiet, loud = z[:, 0] < -1, z[:, 0] > 1
    assert np.mean((high - low)[loud]) > 2.5 * np.mean((high - low)[quiet])


@pytest.mark.parametrize("lone", [{"k": 1}, {"sigma": 1e-3}, {"sigma": 1e-2}])
def test_one_neighbour_of_all_weight_has_no_wide_intervals(lone):
    mem, _ = regression(**lone)
    z, outputs, targets = numbers(6, 2000)
    (own, asked), errors = np.split(np.arange(2000), 2), np.abs(targets - mem.correct(z, outputs))
    calibration = mem.calibrate(z[own], outputs[own], targets[own])
    low, high = mem.predict_interval(z[asked], outputs[asked], calibration, 0.9)
    plain = 2 * np.sort(errors[own])[int(np.ceil(1001 * 0.9)) - 1]
    assert (high - low).mean() < 1.05 * plain


def test_sets_hold_the_most_probable_class_at_least():
    """On calibration rows that are all right the limit is 0."""
    mem = classifier()
    z, outputs, _ = classes(2, 50)
    calibration = mem.calibrate(z, outputs, mem.predict(z, outputs))
    asked, their_outputs, _ = classes(3, 50)
    sets = mem.predict_set(asked, their_outputs, calibration, 0.9)
    np.testing.assert_array_equal(sets.sum(axis=1), 1)
    np.testing.assert_array_equal(sets.argmax(axis=1), mem.predict(asked, their_outputs))


def test_sets_are_larger_where_the_model_is_less_sure():
    mem = classifier()
    calibration = mem.calibrate(*classes(2, 300))
    z, outputs, _ = classes(3, 300)
    sizes = mem.predict_set(z, outputs, calibration, 0.8).sum(axis=1)
    order = np.argsort(mem.predict_proba(z, outputs).max(axis=1))
    assert sizes[order[:100]].mean() > sizes[order[-100:]].mean() + 0.5


@pytest.mark.parametrize(("n", "coverage", "rank"), [(9, 0.7, 7), (99, 0.55, 55), (19, 0.95, 19)])
def test_rank_of_a_decimal_coverage_is_not_rounded_up(n, coverage, rank):
    mem, _ = regression()
    calibration = mem.calibrate(*numbers(2, n))
    np.testing.assert_array_equal(calibration.limits(coverage), calibration.scores[rank - 1])


def test_coverage_beyond_the_rows_is_infinite_and_said():
    mem, _ = regression()
    z, outputs, targets = numbers(2, 9)
    calibration = mem.calibrate(z, outputs, targets)
    low, high = mem.predict_interval(z, outputs, calibration, 0.9)  # 9 rows are just enough
    assert np.isfinite(high - low).all()
    text = r"coverage of 0.91 needs at least 11 calibration rows, got 9: intervals are infinite; .*"
    with pytest.warns(resmem.ResmemWarning, match=text):
        low, high = mem.predict_interval(z, outputs, calibration, 0.91)
    np.testing.assert_array_equal([low, high], [[-np.inf] * 9, [np.inf] * 9])
    mem = classifier()
    calibration = mem.calibrate(*classes(2, 8))
    with pytest.warns(resmem.ResmemWarning, match="at least 9 .*, got 8: sets hold every class"):
        assert mem.predict_set(*classes(3, 5)[:2], calibration).all()


# ---- Edges ---------------------------------------------------------------------------------


def test_query_without_neighbours_has_twice_the_typical_unit():
    mem, _ = regression()
    calibration = mem.calibrate(*numbers(2, 50))
    z, outputs, _ = numbers(3, 2)
    everything = np.tile(np.arange(300), (2, 1))
    low, high = mem.predict_interval(z, outputs, calibration, 0.8, everything)
    half = calibration.limits(0.8) * (2 * calibration.spread)
    np.testing.assert_array_equal([low, high], [outputs - half, outputs + half])


@pytest.mark.parametrize("rows", [0, 1])
def test_memory_of_hardly_any_row_has_plain_intervals(rows):
    mem, _ = regression(n=30)
    mem.remove(np.setdiff1d(np.arange(30), np.arange(0, 30, 7))[rows:])
    z, outputs, targets = numbers(2, 40)
    calibration = mem.calibrate(z, outputs, targets)
    np.testing.assert_array_equal(calibration.spread, [1.0])
    low, high = mem.predict_interval(z, outputs, calibration)
    assert np.isfinite(high - low).all()


def test_residuals_that_are_all_0_do_not_divide_by_0():
    z, outputs, _ = numbers(1, 50)
    mem = resmem.Memory("regression", k=5).fit(z, outputs, outputs)
    calibration = mem.calibrate(*numbers(2, 40))
    np.testing.assert_array_equal(calibration.spread, [1.0])
    assert np.isfinite(calibration.scores).all()


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ({}, ValueError, "parts must be those that .* gives, 'settings' is missing"),
        ({"settings": {}}, ValueError, "those that .*, 'memory_rows' is missing"),
        ({"settings": {"k": 1}, "spread": None, "scores": [[1.0]], "columns": 1, "next_id": 2,
          "memory_rows": 2}, ValueError, "settings as those that .*, 'sigma' is missing"),
        ([1], TypeError, "parts must be those that Calibration.to_dict gives, got list"),
    ],
)  # fmt: skip
def test_calibration_from_other_parts_is_refused(parts, error, message):
    with pytest.raises(error, match=message):
        resmem.Calibration.from_dict(parts)


WRONG = [
    (
        "scores",
        [[0.5], [0.25]],
        r"\(n, 1\) and ascending .*, got shape \(2, 1\), which do not ascend",
    ),
    ("scores", [[np.nan]], r"got shape \(1, 1\), which do not ascend"),
    ("scores", [[0.5, 0.5]], r"spread must not be None where scores have shape \(1, 2\)$"),
    ("scores", [0.5, 0.75], r"got shape \(2,\)$"),
    ("scores", [], r"got shape \(0,\)$"),
    ("scores", None, r"scores must be numbers in lists of one length, as .* them, got None$"),
    ("scores", "a", r"scores must be numbers in lists of one length, as .* them, got 'a'$"),
    ("scores", [["a"]], r"scores must be numbers in lists .*, got \[\['a'\]\]$"),
    ("scores", [[0.5], [0.5, 0.6]], r"scores must be numbers in lists of one length, as"),
    ("spread", [1.0] * C, rf"spread must be None where scores have .* and not \(n, {C}\)$"),
    ("memory_rows", -1, "memory_rows must be at least 0, got -1"),
    ("next_id", -1, "next_id must be at least 0, got -1"),
    ("columns", 0, "columns must be at least 1, got 0"),
]


@pytest.mark.parametrize(("name", "value", "said"), WRONG)
def test_calibration_of_senseless_parts_is_refused(name, value, said):
    parts = classifier().calibrate(*classes(2, 30)).to_dict()
    with pytest.raises(ValueError, match=said):
        resmem.Calibration.from_dict({**parts, name: value})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1.0], r"spread must be that which .* of the 3 columns, got shape \(1,\)$"),
        ([[1.0] * 3], r"spread must be that which .*, got shape \(1, 3\)$"),
        ([1.0, 0.0, 2.0], r"spread must hold numbers above 0, got \[1\.0, 0\.0, 2\.0\]$"),
        ([1.0, np.nan, 2.0], r"spread must hold numbers above 0, got \[1\.0, nan, 2\.0\]$"),
        (2.0, r"spread must be numbers in lists of one length, .*, got 2\.0$"),
        (["a", 1.0, 1.0], r"spread must be numbers in lists of one length, .*, got \['a', 1\.0"),
        (None, r"spread must not be None where scores have shape \(30, 3\)$"),
    ],
)
def test_calibration_of_a_senseless_spread_is_refused(value, said):
    mem, _ = regression("several")
    parts = mem.calibrate(*numbers(2, 30, 3)).to_dict()
    with pytest.raises(ValueError, match=said):
        resmem.Calibration.from_dict({**parts, "spread": value})


def test_calibration_with_infinite_scores_survives_json():
    mem, _ = regression()
    parts = mem.calibrate(*numbers(2, 30)).to_dict()
    parts["scores"][-1], parts["spread"] = ["inf"], ["inf"]
    twin = resmem.Calibration.from_dict(parts)
    assert (twin.scores[-1, 0], twin.spread[0], twin.to_dict()) == (np.inf, np.inf, parts)


def test_calibration_survives_json_and_pickle():
    for mem, rows in (
        (regression(sigma=np.inf)[0], numbers(2, 30)),
        (classifier(), classes(2, 30)),
    ):
        calibration = mem.calibrate(*rows)
        predict = mem.predict_set if mem.task == "classification" else mem.predict_interval
        expected = predict(*rows[:2], calibration)
        parts = json.loads(json.dumps(calibration.to_dict(), allow_nan=False))
        twins = [resmem.Calibration.from_dict(parts), pickle.loads(pickle.dumps(calibration))]
        for twin in twins:
            np.testing.assert_array_equal(predict(*rows[:2], twin), expected)
            assert repr(twin) == repr(calibration)
    assert repr(calibration).startswith("Calibration on 30 rows (classification; k=5, sigma=")


def test_calibration_outlives_a_file_and_a_measured_sigma(tmp_path):
    mem, _ = regression()
    z, outputs, targets = numbers(2, 30)
    calibration = mem.calibrate(z, outputs, targets)
    expected = mem.predict_interval(z, outputs, calibration)
    for twin in (resmem.Memory.load(mem.save(tmp_path / "m.resmem") and tmp_path / "m.resmem"),):
        np.testing.assert_array_equal(twin.predict_interval(z, outputs, calibration), expected)
    mem.use(calibration.settings)
    np.testing.assert_array_equal(mem.predict_interval(z, outputs, calibration), expected)


# ---- Refusals and warnings -----------------------------------------------------------------

ASKED = numbers(3, 5)[:2]
ASKED_OF_CLASSES = classes(3, 5)[:2]


def calibrated():
    mem, _ = regression()
    return mem, mem.calibrate(*numbers(2, 30))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"strength": 0.5}, r"strength, 0\.5, got 1\.0; call memory\.calibrate again"),
        ({"k": 6}, r"k, 6, got 5; call .*"),
        ({"sigma": 0.25}, r"sigma, 0\.25, got .*; call .*"),
    ],
)
def test_calibration_at_other_settings_is_refused(change, text):
    mem, calibration = calibrated()
    for name, value in change.items():
        setattr(mem, name, value)
    with pytest.raises(ValueError, match="must be made with this memory's " + text):
        mem.predict_interval(*ASKED, calibration)
    mem.predict_interval(*ASKED, mem.calibrate(*numbers(2, 30)))


def test_calibration_of_another_kind_of_memory_is_refused():
    mem, calibration = calibrated()
    with pytest.raises(ValueError, match=r"memory's columns, 3, got 1; call"):
        regression("several")[0].predict_interval(ASKED[0], numbers(3, 5, 3)[1], calibration)
    with pytest.raises(ValueError, match=r"memory's task, 'classification', got 'regression'"):
        classifier().predict_set(*ASKED_OF_CLASSES, calibration)
    with pytest.raises(ValueError, match=r"predict_interval needs task='regression'; use predict_"):
        classifier().predict_interval(*ASKED_OF_CLASSES, calibration)
    with pytest.raises(ValueError, match=r"predict_set needs task='classification'; use predict_i"):
        mem.predict_set(*ASKED, calibration)
    with pytest.raises(TypeError, match=r"must be a resmem\.Calibration, got float; call memory\."):
        mem.predict_interval(*ASKED, 0.9)


@pytest.mark.parametrize("coverage", [0, 1, 90, np.nan, -0.1])
def test_coverage_outside_of_0_and_1_is_refused(coverage):
    mem, calibration = calibrated()
    with pytest.raises(ValueError, match=rf"coverage must lie between 0 and 1, got {coverage}$"):
        mem.predict_interval(*ASKED, calibration, coverage)


def test_calibrate_without_rows_is_refused():
    mem, _ = regression()
    with pytest.raises(ValueError, match=r"at least one row to calibrate on, got none$"):
        mem.calibrate(*numbers(2, 0))


def test_calibrate_refuses_other_shapes_before_it_searches():
    mem, (z, outputs, targets) = regression()[0], numbers(2, 30)
    with pytest.raises(ValueError, match=r"targets must have one row per row of embeddings"):
        mem.calibrate(z, outputs, targets[1:])
    with pytest.raises(ValueError, match=r"outputs must have one row per row of embeddings"):
        mem.calibrate(z, outputs[1:], targets)


def test_rows_that_changed_since_cause_a_warning():
    mem, calibration = calibrated()
    count = len(mem)
    mem.add(*numbers(5, 2))
    text = rf"changed since the calibration, from {count} rows to {count + 2}: .*calibrate again"
    with pytest.warns(resmem.ResmemWarning, match=text):
        mem.predict_interval(*ASKED, calibration)
    calibration = mem.calibrate(*numbers(2, 30))
    mem.remove(np.array([1, 2])).add(*numbers(6, 2))  # as many rows as before
    with pytest.warns(resmem.ResmemWarning, match="the memory has changed"):
        mem.predict_interval(*ASKED, calibration)


def test_calibration_on_rows_of_the_memory_warns():
    mem, rows = regression()
    lives = np.setdiff1d(np.arange(300), np.arange(0, 300, 7))
    own = [part[lives] for part in rows]
    with pytest.warns(resmem.ResmemWarning, match=r"calibrate: 100% of the calibration rows lie"):
        mem.calibrate(*own)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mem.calibrate(*own, exclude_ids=lives)
