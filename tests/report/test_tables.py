import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dynamics.report import tables
from dynamics.report.tables import COLUMNS


def frame(*rows, ends=(np.nan, np.nan)):
    """Rows of (arm, seed, at, layer, head, value[, low, high]), of a metric with the range `ends`."""
    full = [(*row, *(np.nan, np.nan)[: 8 - len(row)], 100, *ends) for row in rows]
    return pd.DataFrame(full, columns=COLUMNS).astype({"at": float, "value": float, "low": float, "high": float})


def over_seeds(values, *ends):
    """The mean over seeds of one place, of a metric with the range `ends`."""
    rows = (("a", str(seed), 1, 2, -1, value, 0.0, 9.0) for seed, value in enumerate(values))
    return tables.over_seeds(frame(*rows, ends=ends or (np.nan, np.nan))).iloc[0]


def test_a_single_seed_keeps_its_own_interval():
    means = tables.over_seeds(frame(("a", "0", 1, 2, -1, 0.5, 0.4, 0.7)))
    assert means[["value", "low", "high", "seeds"]].values.tolist() == [[0.5, 0.4, 0.7, 1]]


def test_several_seeds_have_the_t_interval_of_their_mean():
    values = [0.5, 0.8, 0.65, 0.7]
    means = over_seeds(values)
    expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert means["value"] == pytest.approx(np.mean(values))
    assert (means["low"], means["high"]) == pytest.approx(expected)


def test_two_seeds_have_a_mean_and_no_interval():
    means = over_seeds([0.3, 0.6], 0, 1)
    assert means["value"] == pytest.approx(0.45)
    assert (means["low"], means["high"]) == pytest.approx((np.nan, np.nan), nan_ok=True)


@pytest.mark.parametrize(
    ("ends", "place"),
    [
        ((0, 1), lambda v: np.log(v / (1 - v))),
        ((-1, 1), np.arctanh),
        ((0, np.nan), np.log),
        ((-2, np.nan), lambda v: np.log(v + 2)),
        ((-100, 100), lambda v: np.arctanh(v / 100)),
    ],
    ids=["logit", "Fisher's z", "log", "log from its lower end", "Fisher's z of a share"],
)
def test_an_interval_over_seeds_is_symmetric_where_the_range_is_unbounded(ends, place):
    values = [0.2, 0.35, 0.3, 0.4]
    means = over_seeds(values, *ends)
    low, middle, high = (place(means[name]) for name in ("low", "value", "high"))
    slope = (place(means["value"] + 1e-6) - place(means["value"] - 1e-6)) / 2e-6
    assert high - middle == pytest.approx(middle - low, rel=1e-6)
    assert high - middle == pytest.approx(stats.t.ppf(0.975, 3) * stats.sem(values) * slope, rel=1e-4)


@given(st.lists(st.floats(0.001, 0.999), min_size=3, max_size=6), st.sampled_from([(0, 1), (-1, 1), (0, np.nan)]))
def test_an_interval_over_seeds_lies_within_the_range_and_holds_the_mean(values, ends):
    means = over_seeds(values, *ends)
    assert ends[0] <= means["low"] <= means["value"] * (1 + 1e-9)
    assert means["value"] * (1 - 1e-9) <= means["high"] <= np.nan_to_num(ends[1], nan=np.inf)


def test_seeds_that_agree_on_an_end_of_the_range_have_no_interval():
    assert np.isnan(over_seeds([1.0, 1.0, 1.0], 0, 1)[["low", "high"]].astype(float)).all()


def test_a_mean_over_seeds_stops_where_one_of_them_stops():
    table = frame(("a", "0", 1, 1, -1, 1), ("a", "0", 2, 1, -1, 2), ("a", "1", 1, 1, -1, 3), ("b", "0", 2, 1, -1, 4))
    means = tables.over_seeds(table)
    assert means[["arm", "at", "value"]].values.tolist() == [["a", 1.0, 2.0], ["b", 2.0, 4.0]]


def test_a_gap_in_one_seed_is_a_gap_in_the_mean():
    rows = ("a", "0", 1, 1, -1, 1), ("a", "0", 1, 2, -1, 1), ("a", "1", 1, 2, -1, 3)
    for gap in ([], [("a", "1", 1, 1, -1, np.nan)]):  # a row that is missing, or undefined
        means = tables.over_seeds(frame(*rows, *gap)).set_index("layer")["value"]
        assert np.isnan(means[1])
        assert means[2] == 2


def test_layers_have_the_recorded_mean_over_heads_and_else_their_own():
    rows = ("a", "0", 1, 1, -1, 9, 8, 10), ("a", "0", 1, 1, 0, 1), ("a", "0", 1, 2, 0, 1), ("a", "0", 1, 2, 1, 3)
    layers = tables.without_heads(frame(*rows))
    assert layers[["layer", "head", "value"]].values.tolist() == [[1, -1, 9], [2, -1, 2]]
    assert layers["low"].tolist() == pytest.approx([8, np.nan], nan_ok=True)


def test_the_mean_over_layers_leaves_out_embeddings_and_layers_without_any_value():
    rows = [("a", "0", at, layer, -1, value) for at in (1, 2) for layer, value in ((0, 50), (1, at), (2, 3 * at))]
    rows += [("a", "0", 1, 3, -1, np.nan), ("a", "0", 2, 3, -1, np.nan)]
    assert tables.over_layers(frame(*rows))["value"].tolist() == [2, 4]


def test_the_mean_over_layers_has_the_interval_of_errors_that_go_together():
    rows = ("a", "0", 1, 1, -1, 1, 0.5, 2), ("a", "0", 1, 2, -1, 3, 2.5, 4), ("a", "0", 2, 1, -1, 1, 0, 2)
    means = tables.over_layers(frame(*rows, ("a", "0", 2, 2, -1, 1)))
    assert means[["low", "high"]].iloc[0].tolist() == [1.5, 3.0]
    assert means[["low", "high"]].iloc[1].isna().all()  # a layer has none


def test_layer_0_is_no_peak():
    table = frame(("a", "0", 1, 0, -1, 35), ("a", "0", 1, 1, -1, 5), ("a", "0", 1, 2, -1, 8))
    assert tables.highest(table)["layer"].tolist() == [2]


def test_the_mean_over_layers_has_a_gap_where_a_layer_has_one():
    rows = ("a", "0", 1, 1, -1, 1), ("a", "0", 1, 2, -1, np.nan), ("a", "0", 2, 1, -1, 1), ("a", "0", 2, 2, -1, 3)
    assert tables.over_layers(frame(*rows))["value"].tolist() == pytest.approx([np.nan, 2], nan_ok=True)


def test_a_quantity_with_layer_0_alone_is_its_own_mean():
    assert tables.over_layers(frame(("a", "0", 1, 0, -1, 7)))["value"].tolist() == [7]


def test_the_highest_layer_is_clear_only_where_its_interval_excludes_the_runner_up():
    table = frame(
        ("a", "0", 1, 1, -1, 0.5, 0.4, 0.6), ("a", "0", 1, 2, -1, 0.9, 0.6, 0.95),
        ("a", "0", 2, 1, -1, 0.5, 0.4, 0.6), ("a", "0", 2, 2, -1, 0.4, 0.3, 0.5),
        ("a", "0", 3, 1, -1, 0.5), ("a", "0", 3, 2, -1, 0.1), ("a", "0", 4, 1, -1, np.nan),
    )  # fmt: skip
    highest = tables.highest(table)
    assert highest[["at", "layer", "clear"]].values.tolist() == [[1, 2, True], [2, 1, False], [3, 1, False]]


@given(st.sets(st.integers(0, 10**6), min_size=1, max_size=120), st.integers(2, 20))
def test_thinning_keeps_both_ends_and_its_promise(steps, most):
    positions = sorted(steps)
    kept = [positions[i] for i in tables.chosen(positions, most)]
    assert len(kept) <= max(most, 1)
    assert {positions[0], positions[-1]} <= set(kept)
    assert kept == positions or len(positions) > most


def curve(length):
    steps = np.arange(1, length + 1)
    blank = {"arm": "a", "seed": "0", "site": "train", "low": np.nan, "high": np.nan}
    blank |= dict.fromkeys(tables.RANGE, np.nan)
    return pd.DataFrame({"at": steps, "value": np.sin(steps), **blank})


def test_a_long_curve_is_averaged_and_its_first_steps_stay():
    binned = tables.binned(curve(5000))
    assert len(binned) < 250
    assert binned["at"].tolist()[:8] == list(range(1, 9))
    assert binned["value"].tolist()[:8] == pytest.approx(np.sin(np.arange(1, 9)))


@given(st.integers(1, 400), st.integers(0, 400))
def test_seeds_of_different_lengths_share_their_bins(length, more):
    short, long = tables.binned(curve(length)), tables.binned(curve(length + more))
    same = len(short) - 1
    assert short[["at", "value"]].values[:same].tolist() == long[["at", "value"]].values[:same].tolist()


def test_the_core_comes_first_and_what_is_unknown_last():
    core = [("residual", "anisotropy"), ("query", "drift")]
    rest = [("residual", "zeta"), ("attention", "entropy"), ("odd", "anisotropy")]
    rows = pd.DataFrame([("train", "loss"), *rest[::-1], *core[::-1]], columns=["site", "metric"]).assign(along="step")
    assert [quantity[1:] for quantity in tables.quantities(rows)] == core + rest
