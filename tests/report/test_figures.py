import plotly.graph_objects as go
import pytest

from dynamics import record
from dynamics.errors import InputError
from dynamics.report import figures
from tests.report.conftest import LAYERS, STEPS, filled


@pytest.mark.parametrize("as_frame", [False, True], ids=["runs", "rows"])
def test_figures_of_runs_and_of_rows(twins, as_frame):
    source = record.read(twins) if as_frame else twins
    assert figures.quantities(source)[0] == ("residual", "anisotropy")
    last = filled(figures.over_depth(source, "mean_cosine"), "scatter")[0]
    rows = record.read(twins[0])
    rows = rows[(rows["metric"] == "mean_cosine") & (rows["site"] == "residual") & (rows["step"] == STEPS[-1])]
    assert list(last.y) == pytest.approx(rows.sort_values("layer")["value"].tolist())
    means = filled(figures.through_training(source, "drift", "query"), "scatter")
    assert max(len(trace.x) for trace in means) >= len(STEPS)
    assert isinstance(figures.layer_by_layer(source), go.Figure)
    maps = filled(figures.head_by_head(source), "heatmap")
    assert len(maps) == LAYERS * 3
    assert "cross-entropy" in figures.learning_curve(source, "bits_per_character").layout.yaxis.title.text


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda run: figures.over_depth(run, "no_such"), "no no_such at residual was measured: there are anisotropy"),
        (lambda run: figures.learning_curve(run, "no_such"), "no curve of no_such: there are bits_per_character"),
        (lambda run: figures.head_by_head(run, "anisotropy", "residual"), "not measured head by head"),
    ],
)
def test_what_was_not_measured_is_refused_by_name(twins, draw, message):
    with pytest.raises(InputError, match=message):
        draw(twins[0])
