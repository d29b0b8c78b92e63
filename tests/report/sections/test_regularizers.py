"""A sweep of regularisers on one page: what is a sweep, its numbers by hand, its figure and its table."""

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from dynamics import record
from dynamics.record import Row
from dynamics.report import page
from dynamics.report.sections import regularizers
from dynamics.report.study import load
from tests.report.conftest import write_run

SEEDS = (0, 1, 2)


def score(kind, weight, seed, layer):
    direction = 1 if kind == "IStar" else 0.5
    return 0.3 + direction * 0.04 * weight + 0.01 * layer + 0.002 * seed * (1 + weight)


def write(folder, kind, weight, seed, objective="clm", reference=0.2):
    """One run; kind None has no regulariser at all."""
    name = f"{objective}-{kind}-{weight}-{reference}-{seed}"
    terms = {kind.lower(): {"class": kind, "weight": weight, "reference_weight": reference}} if kind else {}
    label = f"a, {objective}" + (f", {kind} {weight:g}" if kind else "")
    content = {"run": name, "kind": "fit", "status": "done", "label": label, "objective": objective, "seed": seed}
    write_run(folder / name, content | ({"regularizers": terms} if terms else {}))
    out = record.Record(folder / name)
    for step in (0, 8):
        rows = [
            Row(name, "", "", step, "residual", layer, -1, metric, value, n=100)
            for layer in range(3)
            for metric, value in (
                ("isoscore", score(kind, weight, seed, layer) if step else 0.5),
                ("intrinsic_dimension", 10 + weight + seed / 10),
            )
        ]
        out.write(step, rows)
    out.add_curves([Row(name, "", "", 8, "validation", -1, -1, "bits_per_character", 3 + 0.1 * abs(weight))])
    out.add_curves([Row(name, "", "", 8, "train", -1, -1, "isoscore_star", 0.2 + 0.01 * weight)])
    out.flush()
    return folder / name


@pytest.fixture
def runs(tmp_path):
    folders = [write(tmp_path, "IStar", weight, seed) for weight in (-3, 0, 3) for seed in SEEDS]
    return folders + [write(tmp_path, "CosReg", 3, seed) for seed in SEEDS]


def test_runs_that_differ_in_the_regulariser_alone_are_a_sweep(runs, tmp_path):
    (sweep,) = regularizers.sweeps(load(runs))
    assert sweep.name == "a, clm"
    assert sweep.quality == "bits_per_character"
    assert sweep.kinds == ["CosReg", "IStar"]
    twin = [write(tmp_path, "IStar", weight, 0, "mlm") for weight in (-3, 3)]
    assert [sweep.name for sweep in regularizers.sweeps(load([*runs, *twin]))] == ["a, clm", "a, mlm"]
    assert regularizers.sweeps(load(runs[:3])) == []


def test_a_run_without_any_regulariser_is_the_point_of_weight_zero(tmp_path):
    (sweep,) = regularizers.sweeps(load([write(tmp_path, "IStar", 3, 0), write(tmp_path, None, 0, 0)]))
    assert set(zip(sweep.rows["kind"], sweep.rows["weight"], strict=True)) == {("IStar", 3), ("", 0)}


def test_what_else_differs_between_regularisers_keeps_them_apart(runs, tmp_path):
    other = [write(tmp_path, "IStar", 3, seed, reference=0.8) for seed in SEEDS]
    (sweep,) = regularizers.sweeps(load([*runs, *other]))
    assert sweep.kinds == ["CosReg", "IStar, reference_weight 0.2", "IStar, reference_weight 0.8"]
    means = regularizers.over_seeds(sweep.rows).set_index(["kind", "weight", "metric"])
    assert means.loc[("IStar, reference_weight 0.8", 3, "isoscore"), "seeds"] == 3


def test_means_intervals_and_paired_changes_by_hand(runs):
    (sweep,) = regularizers.sweeps(load(runs))
    means = regularizers.over_seeds(sweep.rows).set_index(["kind", "weight", "metric"])
    values = [np.mean([score("IStar", 3, seed, layer) for layer in (1, 2)]) for seed in SEEDS]
    mean, logit = np.mean(values), special.logit(np.mean(values))
    half = stats.t.ppf(0.975, 2) * stats.sem(values) / (mean * (1 - mean))
    low, high = special.expit(logit - half), special.expit(logit + half)
    point = means.loc[("IStar", 3, "isoscore")]
    assert point[["value", "low", "high"]].tolist() == pytest.approx([np.mean(values), low, high])
    changes = regularizers.against_none(sweep).set_index(["kind", "weight"])
    plain = [np.mean([score("IStar", 0, seed, layer) for layer in (1, 2)]) for seed in SEEDS]
    change = np.subtract(values, plain)
    low, high = stats.t.interval(0.95, 2, change.mean(), stats.sem(change))
    assert changes.loc[("IStar", 3), ["value", "low", "high"]].tolist() == pytest.approx([change.mean(), low, high])
    assert changes.loc[("IStar", -3), ["lower", "higher"]].tolist() == [3, 0]


def test_two_runs_of_one_seed_are_one_repetition(runs):
    (sweep,) = regularizers.sweeps(load(runs))
    rows = sweep.rows
    pd.testing.assert_frame_equal(regularizers.over_seeds(pd.concat([rows, rows])), regularizers.over_seeds(rows))


def test_the_figure_tells_regularisers_apart_without_colour_and_labels_every_weight(runs):
    figure = regularizers.figure(regularizers.sweeps(load(runs)))
    points = [trace for trace in figure.plot.data if trace.mode == "markers+text"]
    assert [trace.name for trace in points] == ["CosReg", "IStar", "none"] * 2  # quality above, dimension below
    assert len({trace.marker.symbol for trace in points}) == 3
    assert [list(trace.text) for trace in points[:3]] == [["+3"], ["−3", "+3"], ["0"]]
    assert points[1].error_x.array[0] > 0
    lines = [trace for trace in figure.plot.data if trace.mode == "lines"]
    assert [trace.line.dash for trace in lines] == ["solid", "dot"] * 2
    assert list(lines[3].y) == pytest.approx([7.1, 10.1, 13.1])
    assert "IStar with lambda < 0 lowered IsoScore* in 3 of 3 runs" in figure.reading


def test_the_page_has_the_figure_and_the_table(runs, tmp_path):
    html = page.write(runs, tmp_path / "report.html").read_text()
    assert 'id="shaping"' in html
    assert "IStar −3" in html
    assert "3 of 3 seeds lower" in html
    (sweep,) = regularizers.sweeps(load(runs))
    table = regularizers.table(sweep)
    assert [row.label for row in table.rows] == ["none", "CosReg +3", "IStar −3", "IStar +3"]
    assert all(len(row.cells) == len(table.columns) for row in table.rows)


def test_other_pages_have_no_such_section(runs, tmp_path):
    assert 'id="shaping"' not in page.write(runs[:3], tmp_path / "report.html").read_text()
