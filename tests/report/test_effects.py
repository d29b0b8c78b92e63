from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dynamics import record
from dynamics.report import effects, summary
from dynamics.report.effects import difference
from dynamics.report.names import DASH, number
from dynamics.report.sections import geometry
from dynamics.report.study import load

NOISE = np.random.default_rng(0).normal(size=5)  # of seeds: twins share it


def arm(values, seeds=range(9), low=np.nan, high=np.nan):
    rows = [(str(seed), value, low, high) for seed, value in zip(seeds, values, strict=False)]
    return pd.DataFrame(rows, columns=["seed", "value", "low", "high"])


def test_arms_that_share_seeds_are_compared_within_seeds():
    first, second = 0.5 + NOISE, 0.6 + NOISE + 0.01 * NOISE**2
    effect = difference(arm(first), arm(second))
    expected = stats.ttest_rel(second, first).confidence_interval()
    assert (effect.low, effect.high) == pytest.approx((expected.low, expected.high))
    assert effect.basis == "5 seeds, paired"
    unpaired = difference(arm(first), arm(second, seeds=range(5, 10)))
    expected = stats.ttest_ind(second, first, equal_var=False).confidence_interval()
    assert (unpaired.low, unpaired.high) == pytest.approx((expected.low, expected.high))
    assert effect.high - effect.low < (unpaired.high - unpaired.low) / 10


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_have_no_interval(seeds):
    effect = difference(arm(NOISE[:seeds]), arm(NOISE[:seeds] + 1))
    assert effect.value == pytest.approx(1)
    assert np.isnan([effect.low, effect.high]).all()
    assert not effect.is_clear
    assert effect.basis == ""


def test_single_values_have_both_errors_of_sampling():
    effect = difference(arm([0.5], low=0.4, high=0.6), arm([0.9], low=0.7, high=1.0))
    assert (effect.low, effect.high) == pytest.approx((0.4 - np.hypot(0.2, 0.1), 0.4 + np.hypot(0.1, 0.1)))
    assert effect.basis == "sampling error"


def test_the_answer_names_sizes_intervals_and_what_they_rest_on(make):
    runs = [make(f"{kind}{seed}", kind, seed=seed) for kind in ("decoder", "encoder") for seed in range(3)]
    *spoken, unclear, basis = effects.sentences(load(runs))
    assert spoken[0].startswith("Anisotropy (residual stream), step 200. decoder (causal, clm): 0.3")
    assert "encoder (bidirectional, mlm): 0.1" in spoken[0]
    assert "lower by 0." in spoken[0]
    assert "3 seeds, paired" in basis
    assert unclear.startswith("Inconclusive")
    assert not any("bits" in text for text in spoken)  # of different objectives: they do not compare


def test_of_single_trained_runs_no_interval_is_claimed(twins):
    study = load(twins)
    for text in [cell for row in effects.table(study).rows for cell in row.cells]:
        assert "[" not in text
    *_, basis = effects.sentences(study)
    assert "another seed may differ by as much" in basis


def test_a_difference_names_the_arm_that_it_is_from_where_that_is_not_the_first(twins):
    labels = {row.label: row.cells for row in effects.table(load(twins)).rows}
    (masked,) = (label for label in labels if label.startswith("Validation"))
    assert masked.endswith("masked characters only (mlm), step 200, from encoder (bidirectional, mlm)")
    assert labels[masked][0] == DASH


def test_seeds_of_unequal_length_are_compared_where_all_are(make):
    short, long = make("d0", seed=0), make("d1", seed=1)
    record.Record(short).cut(64)
    (one, *_) = [one for one in effects.changes(load([short, long])) if one.title.startswith("Anisotropy")]
    assert one.place == "to step 64"
    rows = record.read([short, long])
    rows = rows[(rows["metric"] == "anisotropy") & (rows["site"] == "residual") & (rows["layer"] > 0)]
    start, end = (number(rows.loc[rows["step"] == step, "value"].mean()) for step in (0, 64))
    assert list(one.values.values()) == [f"{start} → {end}"]


def test_one_arm_is_compared_with_its_own_start(make):
    study = load([make(f"d{seed}", seed=seed) for seed in range(3)])
    text = next(text for text in effects.sentences(study) if text.startswith("Anisotropy"))
    assert "to step 200" in text
    assert "→" in text
    assert "higher by 0." in text
    assert effects.table(study) is None


def test_arms_are_compared_where_all_seeds_have_been(make):
    study = load([make("d"), make("e", "encoder")])
    short = study.rows[(study.rows["run"] == "d") | (study.rows["step"] <= 64)]
    assert all(one.place == "step 64" for one in effects.comparisons(replace(study, rows=short)))


def test_a_dimension_above_the_width_is_flagged_in_the_answer(make):
    study = load([make("d", width=8), make("e", "encoder", width=8)])
    assert "above the width, 8: no dimension" in " ".join(effects.sentences(study))
    numbers = {row.label: row.cells for row in summary.key_numbers(study)}
    for label in ("Intrinsic dimension (residual stream)", "Intrinsic dimension (residual stream), highest value"):
        assert all(cell.endswith("no dimension)") for cell in numbers[label])
    reading = geometry.figure(study, ("step", "residual", "intrinsic_dimension")).reading
    assert "decoder (causal, clm) (width 8) in layers 0, 1, 2, 3, 4" in reading
