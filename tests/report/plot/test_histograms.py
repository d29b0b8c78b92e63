import numpy as np
import pytest

from dynamics.record import Array, Record
from dynamics.report.plot import histograms
from dynamics.report.plot.style import looks
from dynamics.report.study import load
from tests.report.conftest import LAYERS, STEPS


@pytest.fixture
def arrays(make):
    """Replace the arrays of a run and load it: `arrays({"m/x_histogram": [...]})`."""

    def load_with(values):
        run = make("d")
        for path in (run / "record").glob("arrays-*"):
            path.unlink()
        parts = [Array("d", "", "", 0, "attention", 1, -1, metric, np.asarray(x)) for metric, x in values.items()]
        Record(run).write(400, [], parts)
        return load([run]).arrays

    return load_with


def test_every_histogram_is_found_with_shares_that_sum_to_one(twins):
    study = load(twins)
    assert histograms.names(study.arrays) == [("step", "attention", "logit")]
    table, edges = histograms.shares(study.arrays, "attention", "logit")
    assert len(table) == 3 * len(STEPS) * LAYERS
    assert {len(shares) for shares in table["shares"]} == {len(edges) + 1}
    assert [shares.sum() for shares in table["shares"]] == pytest.approx([1] * len(table))


def test_seeds_are_pooled(make):
    study = load([make(f"d{seed}", seed=seed) for seed in (0, 1)])
    table, _ = histograms.shares(study.arrays, "attention", "logit")
    counts = study.arrays[study.arrays["metric"] == "logit_max/logit_histogram"]
    rows = counts[(counts["at"] == 8) & (counts["layer"] == 1)]["values"]
    shares = table[(table["at"] == 8) & (table["layer"] == 1)]["shares"].iloc[0]
    assert shares == pytest.approx(sum(rows) / 2000)


def test_maps_leave_empty_bins_blank_and_label_round_edges(twins):
    study = load(twins)
    table, edges = histograms.shares(study.arrays, "attention", "logit")
    figure = histograms.plot(table, edges, "logit", looks(study.arm_names))
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len(maps) == 3 * LAYERS
    assert np.shape(maps[0].z) == (len(edges) + 1, len(STEPS))
    assert np.isnan(np.asarray(maps[0].z, dtype=float)[np.asarray(maps[0].customdata) == 0]).all()
    ticks = dict(zip(figure.layout.yaxis.ticktext, figure.layout.yaxis.tickvals, strict=True))
    assert ticks["0"] == list(edges).index(0) + 0.5


def test_counts_that_are_all_zero_are_drawn_blank(arrays):
    table, edges = histograms.shares(arrays({"m/x_histogram": np.zeros(4), "m/x_edges": range(3)}), "attention", "x")
    assert histograms.plot(table, edges, "x", looks(["decoder (causal, clm)"])).data


@pytest.mark.parametrize("metrics", [(), ("m/x_histogram", "m/x_edges", "m/y_histogram", "m/spectrum")])
def test_a_run_without_histograms_has_none_and_counts_without_fitting_edges_drop_out(arrays, metrics):
    assert histograms.names(arrays(dict.fromkeys(metrics, range(3)))) == []
