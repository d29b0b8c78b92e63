import numpy as np
import pytest

from dynamics.report import figures, tables
from dynamics.report.figures import Panel
from dynamics.report.plot.style import looks
from dynamics.report.study import load
from tests.report.conftest import HEADS, LAYERS, STEPS


@pytest.fixture(scope="module")
def study(twins):
    return load(twins)


@pytest.fixture(scope="module")
def look(study):
    return looks([arm.name for arm in study.arms])


def quantity(study, site, metric):
    return tables.without_heads(tables.geometry(study.rows, site, metric))


def drawn(figure, kind):
    """The traces of a kind that show anything: legends and colour bars bring traces without points."""
    return [trace for trace in figure.data if trace.type == kind and list(trace.x) not in ([], [None])]


def test_the_profile_of_every_step_is_drawn_for_every_arm_and_the_last_is_bold(study, look):
    figure = figures.geometry(quantity(study, "residual", "anisotropy"), "anisotropy", look)
    first_panel = [trace for trace in drawn(figure, "scatter") if trace.yaxis == "y"]
    assert len(first_panel) == len(STEPS)
    assert [trace.line.width for trace in first_panel] == [1.4] * (len(STEPS) - 1) + [2.8]
    table = quantity(study, "residual", "anisotropy")
    last = table[(table["arm"] == next(iter(look))) & (table["at"] == STEPS[-1])]
    assert list(first_panel[-1].y) == pytest.approx(last.sort_values("layer")["value"].tolist())


def test_maps_show_layers_by_steps_in_one_colour_scale(study, look):
    figure = figures.geometry(quantity(study, "residual", "anisotropy"), "anisotropy", look)
    maps = drawn(figure, "heatmap")
    assert {trace.coloraxis for trace in maps} == {"coloraxis3"}
    assert [np.shape(trace.z) for trace in maps] == [(LAYERS + 1, len(STEPS))] * 3
    values = quantity(study, "residual", "anisotropy")["value"]
    assert (figure.layout.coloraxis3.cmin, figure.layout.coloraxis3.cmax) == (values.min(), values.max())


def test_arms_share_their_value_axis(study, look):
    layout = figures.geometry(quantity(study, "residual", "anisotropy"), "anisotropy", look).layout
    assert [layout[f"yaxis{i}"].matches for i in (2, 3, 4)] == ["y"] * 3
    assert [layout[f"yaxis{i}"].matches for i in (6, 7, 8)] == ["y5"] * 3


def test_quantities_of_both_signs_have_colours_that_diverge_from_zero(study, look):
    table = tables.geometry(study.rows, "attention", "qk_alignment")
    axis = figures.heads(table, "qk_alignment", look).layout.coloraxis3
    assert axis.cmin == -axis.cmax < 0


def test_every_head_of_every_layer_and_arm_has_its_line_in_a_map(study, look):
    figure = figures.heads(tables.geometry(study.rows, "query", "drift"), "drift", look)
    maps = drawn(figure, "heatmap")
    assert len(maps) == LAYERS * 3
    assert {np.shape(trace.z) for trace in maps} == {(HEADS, len(STEPS))}
    assert list(maps[0].y) == list(range(HEADS))


def test_objectives_never_share_a_panel_and_step_0_is_drawn(study, look):
    table = tables.curves(study.rows, "bits_per_character")
    clm, *mlm = look
    panels = {"every character": [clm], "masked characters only": mlm}
    figure = figures.curves(table, "bits_per_character", panels, look, {"gzip": 2.7})
    marked = [trace for trace in drawn(figure, "scatter") if trace.mode == "lines+markers"]
    assert {(trace.line.color, trace.xaxis, trace.yaxis) for trace in marked} == {
        (look[clm].colour, "x", "y"),
        *((look[name].colour, "x2", "y2") for name in mlm),
    }
    assert figure.layout.yaxis2.matches is None
    assert all(trace.x[0] == 0.5 for trace in marked)
    assert figure.layout.xaxis.ticktext[0] == "0"


def test_the_level_to_compare_with_is_only_drawn_where_every_character_counts(study, look):
    table = tables.curves(study.rows, "bits_per_character")
    clm, *mlm = look
    figure = figures.curves(
        table, "bits_per_character", {"masked characters only": mlm, "all": [clm]}, look, {"gzip": 2.7}
    )
    dotted = [trace for trace in figure.data if trace.line.dash == "dot"]
    assert [(trace.yaxis, list(trace.y)) for trace in dotted] == [("y2", [2.7, 2.7])]


def test_an_interval_that_is_missing_breaks_the_band(study, look):
    name = next(iter(look))
    table = quantity(study, "residual", "anisotropy")
    table = table[(table["arm"] == name) & (table["layer"] == 1)].assign(layer=-1)
    rows = tables.over_seeds(table)
    rows.loc[3, "low"] = np.nan
    canvas = figures.Canvas(1, 1, panel=100)
    figures.draw.band(canvas, (0, 0), figures.Scale.of(rows["at"]), rows, look[name])
    (band,) = canvas.figure().data
    assert [i for i, x in enumerate(band.x) if x is None] == [6, 19]


def test_seeds_are_thin_lines_beside_their_mean(make):
    study = load([make(f"d{seed}", seed=seed) for seed in (0, 1, 2)])
    table = quantity(study, "residual", "anisotropy")
    figure = figures.grid([Panel("p", "anisotropy", table)], looks([study.arms[0].name]))
    widths = [trace.line.width for trace in drawn(figure, "scatter")]
    assert widths == [0.8, 0.8, 0.8, 1.8]


def test_an_arm_without_rows_leaves_its_panel_empty(study, look):
    table = quantity(study, "residual", "anisotropy")
    missing = next(iter(look))
    figure = figures.geometry(table[table["arm"] != missing], "anisotropy", look)
    assert not [trace for trace in drawn(figure, "scatter") if trace.yaxis == "y"]
    assert len([trace for trace in drawn(figure, "scatter") if trace.yaxis == "y2"]) == len(STEPS)
