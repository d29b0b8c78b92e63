import numpy as np
import pytest

from dynamics import record
from dynamics.record import Row
from dynamics.report import summary, tables
from dynamics.report.names import DASH
from dynamics.report.study import load
from tests.report.conftest import STEPS, cells


def test_bits_on_masked_characters_have_a_line_of_their_own(twins):
    numbers = summary.key_numbers(load(twins))
    every = cells(numbers, "validation bits per character, every character (clm)")
    masked = cells(numbers, "validation bits per character, masked characters only (mlm)")
    assert [cell == DASH for cell in every] == [False, True, True]
    assert [cell == DASH for cell in masked] == [True, False, False]


def test_the_peak_of_the_last_profile_stands_with_its_layer(twins):
    study = load(twins)
    peaks = cells(summary.key_numbers(study), "Anisotropy (residual stream), highest layer at the end")
    rows = tables.geometry(study.rows, "residual", "anisotropy")
    last = rows[(rows["arm"] == study.arms[0].name) & (rows["at"] == STEPS[-1])]
    peak = last.loc[last["value"].idxmax()]
    assert peaks[0].startswith(f"layer {peak['layer']}: {peak['value']:.3f} [")


def test_a_reading_names_every_arm_with_its_change(twins):
    study = load(twins)
    table = tables.geometry(study.rows, "residual", "anisotropy")
    text = summary.reading(table, study.arm_names, "step")
    assert all(f"{name}: 0.0" in text for name in study.arm_names)
    assert text.count("→") == text.count("highest at layer 2") == 3


def test_a_caption_names_estimator_settings_points_layers_and_gaps(twins):
    study = load(twins)
    table = tables.geometry(study.rows, "residual", "intrinsic_dimension")
    text = summary.caption(study, table, "residual", "intrinsic_dimension")
    parts = "TwoNN", "discard = 0.1", "n = 205 to 3900", "before the final norm", "6 of 150 values", "sampling error"
    assert all(part in text for part in parts)


def test_a_caption_says_that_seeds_are_averaged(make):
    study = load([make(f"d{seed}", seed=seed) for seed in (0, 1, 2, 3)])
    table = tables.without_heads(tables.geometry(study.rows, "attention", "qk_alignment"))
    text = summary.caption(study, table, "attention", "qk_alignment")
    assert "t interval over seeds" in text
    assert "opposite signs cancel" in text
    assert "sampling error" not in text


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({"status": "failed"}, "marked failed"),
        ({"probe": {"sha256": "2" * 64}}, "do not share their evaluation tokens"),
        ({"data": {"sha256": "2" * 64}}, "do not share their training text"),
    ],
)
def test_what_hinders_a_comparison_is_noted(make, settings, note):
    study = load([make("d"), make("e", "encoder", **settings)])
    assert any(note in text for text in summary.notes(study))


def test_nothing_is_noted_where_nothing_is_wrong(twins):
    assert summary.notes(load(twins)) == []


def test_a_quantity_without_any_value_is_noted(make):
    run = make("d")
    record.Record(run).write(300, [Row("d", "", "", 300, "query", 1, -1, "mean_cosine", np.nan)])
    note = "Mean cosine (queries) is undefined wherever it was measured: it has no figure."
    assert summary.notes(load([run])) == [note]


def test_seeds_of_different_lengths_are_noted(make):
    runs = [make("a", seed=0), make("b", seed=1)]
    record.Record(runs[1]).cut(64)
    assert "end at different steps (64 to 200)" in summary.notes(load(runs))[0]
