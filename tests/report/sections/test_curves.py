import pytest

from dynamics.report import tables
from dynamics.report.names import words
from dynamics.report.plot.style import looks
from dynamics.report.sections import curves
from dynamics.report.study import load
from tests.report.conftest import filled


@pytest.fixture(scope="module")
def study(twins):
    return load(twins)


def plot(study, panels, level):
    table = tables.curves(study.rows, "bits_per_character")
    return curves.plot(table, words("bits_per_character"), panels, looks(study.arm_names), level)


def test_objectives_never_share_a_panel_and_step_0_is_drawn(study):
    clm, *mlm = study.arm_names
    figure = plot(study, {"every character": [clm], "masked characters only": mlm}, 2.7)
    marked = [trace for trace in filled(figure, "scatter") if trace.mode == "markers"]
    styles = looks(study.arm_names)
    assert {(trace.line.color, trace.xaxis, trace.yaxis) for trace in marked} == {
        (styles[clm].colour, "x", "y"),
        *((styles[name].colour, "x2", "y2") for name in mlm),
    }
    assert figure.layout.yaxis2.matches is None
    assert all(trace.x[0] == 0.5 for trace in marked)
    assert figure.layout.xaxis.ticktext[0] == "0"


def test_the_level_to_compare_with_is_only_drawn_where_every_character_counts(study):
    clm, *mlm = study.arm_names
    figure = plot(study, {"masked characters only": mlm, "all": [clm]}, 2.7)
    dotted = [trace for trace in figure.data if trace.line.dash == "dot"]
    assert [(trace.yaxis, list(trace.y)) for trace in dotted] == [("y2", [2.7, 2.7])]
