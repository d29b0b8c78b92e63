import numpy as np
import pandas as pd
import pytest

from dynamics.report import tables
from dynamics.report.names import words
from dynamics.report.plot import lines
from dynamics.report.plot.canvas import Canvas
from dynamics.report.plot.panels import Panel, grid
from dynamics.report.plot.style import looks
from dynamics.report.study import load
from tests.report.conftest import filled


def anisotropy(study):
    return tables.without_heads(tables.geometry(study.rows, "residual", "anisotropy"))


def test_an_interval_that_is_missing_breaks_the_band(twins):
    study = load(twins)
    table, name = anisotropy(study), study.arm_names[0]
    table = table[(table["arm"] == name) & (table["layer"] == 1)].assign(layer=-1)
    rows = tables.over_seeds(table)
    rows.loc[3, "low"] = np.nan
    canvas = Canvas(1, 1, panel=100)
    lines.band(canvas[0, 0], rows["at"], rows, looks([name])[name])
    (band,) = canvas.figure().data
    assert [i for i, x in enumerate(band.x) if x is None] == [6, 19]


def test_four_seeds_are_thin_lines_beside_their_mean(make):
    study = load([make(f"d{seed}", seed=seed) for seed in (0, 1, 2, 3)])
    figure = grid([Panel("p", words("anisotropy"), anisotropy(study))], looks(study.arm_names))
    widths = [trace.line.width for trace in filled(figure, "scatter")]
    assert widths == [0.8, 0.8, 0.8, 0.8, 1.8]


@pytest.mark.parametrize("seeds", [2, 3])
def test_few_seeds_are_points_beside_their_mean_without_a_band(make, seeds):
    study = load([make(f"d{seed}", seed=seed) for seed in range(seeds)])
    figure = grid([Panel("p", words("anisotropy"), anisotropy(study), "step")], looks(study.arm_names))
    drawn = filled(figure, "scatter")
    assert [trace.mode for trace in drawn] == [*["markers"] * seeds, "lines+markers"]


@pytest.mark.parametrize("log", [False, True])
def test_axes_are_set_by_the_values_and_only_a_little_by_the_bounds(log):
    values, bounds = np.array([1.0, 2.0, 3.0]), np.array([0.001, 1.9, 2.9])
    rows = pd.DataFrame({"value": values, "low": bounds, "high": values + 0.1})
    canvas, look = Canvas(1, 2, panel=100), looks(["a"])["a"]
    lines.band(canvas[0, 0], [0, 1, 2], rows, look)
    lines.line(canvas[0, 1], [0, 1, 2], values)
    lines.line(canvas[0, 1], [0, 1, 2], values, error_y=lines.error_bars(rows, look.colour))
    canvas[0, 0].y(**({"type": "log"} if log else {}))
    layout = canvas.figure().layout
    low, high, bound = (np.log10(x) if log else x for x in (1.0, 3.0, 3.1))
    span = high - low
    assert layout.yaxis.range == pytest.approx((low - 0.25 * span, max(bound, high + 0.06 * span)))
    assert layout.yaxis2.matches == "y"
    assert layout.yaxis2.range is layout.xaxis.range is None


def test_intervals_that_swallow_a_trend_set_the_axis():
    rows = pd.DataFrame({"value": [8.25, 8.3, 8.41], "low": [7.6, 7.6, 7.7], "high": [9.0, 9.0, 9.1]})
    canvas, look = Canvas(1, 1, panel=100), looks(["a"])["a"]
    lines.band(canvas[0, 0], [0, 1, 2], rows, look)
    lines.line(canvas[0, 0], [0, 1, 2], rows["value"])
    low, high = canvas.figure().layout.yaxis.range
    assert (low, high) == pytest.approx((7.6, 9.1))


def test_values_that_hardly_differ_are_not_blown_up():
    canvas = Canvas(1, 1, panel=100)
    lines.line(canvas[0, 0], [0, 1], [0.9999, 0.9998])
    low, high = canvas.figure().layout.yaxis.range
    assert high - low == pytest.approx(0.0112, rel=0.01)


def test_layer_0_sets_no_axis(twins):
    study = load(twins)
    table = anisotropy(study)
    table.loc[table["layer"] == 0, ["value", "low", "high"]] = 35.0
    figure = grid([Panel("p", words("anisotropy"), table)], looks(study.arm_names))
    assert figure.layout.yaxis.range[1] < 1.5
    assert max(max(trace.y) for trace in filled(figure, "scatter")) == 35.0


def test_a_level_to_compare_with_sets_no_axis():
    canvas = Canvas(1, 1, panel=100)
    lines.line(canvas[0, 0], [0, 1], [4.0, 4.2])
    lines.dotted(canvas[0, 0], [0, 1], [1.5, 1.5])
    assert canvas.figure().layout.yaxis.range[0] > 3.9


def test_a_dimension_above_the_width_is_flagged_in_its_panel(twins):
    study = load(twins)
    panel = Panel("p", words("intrinsic_dimension"), anisotropy(study).assign(value=900.0), width=128)
    figure = grid([panel], looks(study.arm_names))
    assert any("no dimension" in note.text for note in figure.layout.annotations)
    assert any(trace.y is not None and set(trace.y) == {128} for trace in figure.data)


def test_what_is_left_of_a_row_of_panels_is_hidden():
    layout = Canvas.grid(["a", "b", "c"], columns=2).figure().layout
    assert [layout[f"xaxis{i}"].visible for i in ("", 2, 3, 4)] == [None, None, None, False]
    assert layout.yaxis4.visible is False
