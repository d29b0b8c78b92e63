import numpy as np
import pytest

from dynamics.report import tables
from dynamics.report.names import words
from dynamics.report.plot.style import looks
from dynamics.report.sections import geometry
from dynamics.report.study import load
from tests.report.conftest import HEADS, LAYERS, STEPS, filled


@pytest.fixture(scope="module")
def study(twins):
    return load(twins)


@pytest.fixture(scope="module")
def styles(study):
    return looks(study.arm_names)


@pytest.fixture
def table(study):
    return tables.without_heads(tables.geometry(study.rows, "residual", "anisotropy"))


def test_the_profile_of_every_step_is_drawn_for_every_arm_and_the_last_is_bold(table, styles):
    figure = geometry.plot(table, words("anisotropy"), styles)
    first_panel = [trace for trace in filled(figure, "scatter") if trace.yaxis == "y"]
    assert len(first_panel) == len(STEPS)
    assert [trace.line.width for trace in first_panel] == [1.4] * (len(STEPS) - 1) + [2.8]
    last = table[(table["arm"] == next(iter(styles))) & (table["at"] == STEPS[-1])]
    assert list(first_panel[-1].y) == pytest.approx(last.sort_values("layer")["value"].tolist())


def test_maps_show_layers_by_steps_in_one_colour_scale(table, styles):
    figure = geometry.plot(table, words("anisotropy"), styles)
    maps = filled(figure, "heatmap")
    assert {trace.coloraxis for trace in maps} == {"coloraxis"}
    assert [np.shape(trace.z) for trace in maps] == [(LAYERS, len(STEPS))] * 3  # without the embeddings
    colours, blocks = figure.layout.coloraxis, table[table["layer"] > 0]
    assert (colours.cmin, colours.cmax) == (blocks["value"].min(), blocks["value"].max())


def test_arms_share_their_value_axis(table, styles):
    layout = geometry.plot(table, words("anisotropy"), styles).layout
    assert [layout[f"yaxis{i}"].matches for i in (2, 3, 4)] == ["y"] * 3
    assert [layout[f"yaxis{i}"].matches for i in (6, 7, 8)] == ["y5"] * 3


def test_quantities_of_both_signs_have_colours_that_diverge_from_zero(study, styles):
    table = tables.geometry(study.rows, "attention", "qk_alignment")
    colours = geometry.plot_heads(table, words("qk_alignment"), styles).layout.coloraxis
    assert colours.cmin == -colours.cmax < 0


def test_every_head_of_every_layer_and_arm_has_its_line_in_a_map(study, styles):
    table = tables.geometry(study.rows, "query", "drift")
    maps = filled(geometry.plot_heads(table, words("drift"), styles), "heatmap")
    assert len(maps) == LAYERS * 3
    assert {np.shape(trace.z) for trace in maps} == {(HEADS, len(STEPS))}
    assert list(maps[0].y) == list(range(HEADS))


def test_an_arm_without_rows_leaves_its_panel_empty(table, styles):
    missing = next(iter(styles))
    figure = geometry.plot(table[table["arm"] != missing], words("anisotropy"), styles)
    assert not [trace for trace in filled(figure, "scatter") if trace.yaxis == "y"]
    assert len([trace for trace in filled(figure, "scatter") if trace.yaxis == "y2"]) == len(STEPS)
