"""The shape of profiles over seeds: numbers by hand, who is compared with whom, and the answer about the mask."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from dynamics import record
from dynamics.report import effects
from dynamics.report.profiles import profile
from dynamics.report.sections import SECTIONS, shape
from dynamics.report.study import load


@pytest.fixture
def study(make):
    """The default ablation: the middle arm differs from each of the others in one setting."""
    return load(
        [make(f"{kind}{seed}", kind, seed=seed) for kind in ("decoder", "masked", "encoder") for seed in range(3)]
    )


DECODER, MASKED, ENCODER = "decoder (causal, clm)", "causal, mlm", "encoder (bidirectional, mlm)"


def heights(kind):
    rows = record.read([f"{kind}{seed}" for seed in range(3)])
    rows = rows[(rows["metric"] == "anisotropy") & (rows["site"] == "residual") & (rows["layer"] > 0)]
    last = rows[rows["step"] == 200].sort_values(["run", "layer"])
    return np.array([profile(part["value"].to_numpy()).height for _, part in last.groupby("run")])


def test_shapes_are_means_over_seeds_with_intervals(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = shape.of(study, "anisotropy")
    assert found.place == "step 200"
    masked, free = heights("masked"), heights("encoder")
    half = stats.t.ppf(0.975, 2) * stats.sem(masked)
    height = found.of(MASKED, "height")
    assert (height.value, height.low) == pytest.approx((masked.mean(), masked.mean() - half))
    change = found.change(ENCODER, MASKED, "height")
    expected = stats.ttest_rel(masked, free).confidence_interval()
    assert (change.low, change.high) == pytest.approx((expected.low, expected.high))
    assert found.of(MASKED, "peak").value == pytest.approx(1 / 3)  # of layers 1..4, the second


def test_an_arm_is_compared_with_the_one_that_differs_in_one_setting(study):
    assert effects.references(study) == {MASKED: DECODER, ENCODER: MASKED}
    table = effects.table(study)
    assert table.columns == (f"{MASKED}, from {DECODER}", f"{ENCODER}, from {MASKED}")
    (one, *_) = [one for one in effects.comparisons(study) if one.title.startswith("Anisotropy")]
    assert one.references == {MASKED: DECODER, ENCODER: MASKED}
    assert f"(against {MASKED})" in " ".join(effects.sentences(study))


def test_the_mask_makes_the_bell_or_does_not(study):
    section = shape.section(study)
    bells, answer = section.findings
    assert bells.count("a bell, 0.") == 3
    assert answer.startswith("Does the causal mask make the bell of anisotropy (residual stream)? No: there is one")
    assert f"Height, {MASKED} less {ENCODER}: +0." in answer
    assert "(3 seeds, paired)" in answer
    by_arm, differences = section.blocks
    assert len(by_arm.rows) == len(differences.rows) == 2 * len(shape.STATISTICS)
    assert shape in SECTIONS


def test_without_three_seeds_there_is_no_section(make):
    runs = [make(f"{kind}{seed}", kind, seed=seed) for kind in ("masked", "encoder") for seed in range(2)]
    assert not shape.applies(load(runs))


def test_two_layers_have_no_shape(study):
    few = study.rows[study.rows["layer"] <= 2]
    assert shape.section(replace(study, rows=few)) is None
