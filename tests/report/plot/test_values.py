import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.report.names import words
from dynamics.report.plot.canvas import Canvas
from dynamics.report.plot.values import StepScale, Values

BAR = Canvas(1, 1, panel=100).bar("")


def test_a_wide_quantity_has_a_logarithmic_axis_and_true_labels():
    values = Values.of(words("intrinsic_dimension"), [1.0, 40.0, np.nan])
    colours = values.colours(BAR)
    assert (values.axis()["type"], values.title) == ("log", "intrinsic dimension (log)")
    assert values.shade(np.array([1.0, 10.0])).tolist() == [0, 1]
    ticks = dict(zip(colours["colorbar"]["ticktext"], colours["colorbar"]["tickvals"], strict=True))
    assert ticks["10"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("metric", "taken"),
    [("intrinsic_dimension", [5.0, 24.0]), ("norm_of_mean", [0.0, 20.0]), ("anisotropy", [1e-3, 0.9])],
)
def test_narrow_or_zero_or_bounded_ones_have_a_linear_axis(metric, taken):
    values = Values.of(words(metric), taken)
    assert values.axis() == {}
    assert values.shade(np.array(taken)).tolist() == taken


@pytest.mark.parametrize(
    ("metric", "taken", "ends"),
    [
        ("qk_alignment", [-0.2, 0.5], (-0.5, 0.5)),
        ("mean_cosine", [-0.001, 0.5], (-0.001, 0.5)),
        ("anisotropy", [0.1, 0.5], (0.1, 0.5)),
        ("anisotropy", [np.nan], (0, 1)),
        ("anisotropy", [0.5, 0.5], (0.5, 1.0)),
    ],
)
def test_colours_diverge_from_zero_only_where_both_signs_are_taken(metric, taken, ends):
    colours = Values.of(words(metric), taken).colours(BAR)
    assert (colours["cmin"], colours["cmax"]) == ends


steps = st.sets(st.integers(0, 10**6), min_size=1, max_size=30)


@given(steps)
def test_positions_keep_their_order_and_lie_on_the_axis(values):
    scale = StepScale.of(values)
    placed = scale.place(sorted(values))
    assert placed == sorted(set(placed))
    low, high = scale.axis("step")["range"]
    assert all(10**low <= x <= 10**high for x in placed)


@given(steps)
def test_ticks_are_few_true_and_on_the_axis(values):
    at, text = StepScale.of(values).ticks()
    assert 1 <= len(at) <= 8
    assert ("0" in text) == (0 in values)
    assert len(set(text)) == len(text)


@given(steps)
def test_colours_run_from_the_first_to_the_last_position(values):
    ordered = sorted(values)
    shades = StepScale.of(values).fraction(ordered)
    assert shades[0] == 0
    assert len(ordered) == 1 or abs(shades[-1] - 1) < 1e-9


def test_zero_stands_at_half_the_first_step_and_is_called_zero():
    axis = StepScale.of([0, 1000, 143000]).axis("step")
    assert StepScale.of([0, 1000, 143000]).place([0]) == [500]
    assert dict(zip(axis["tickvals"], axis["ticktext"], strict=True))[500] == "0"


def test_negative_values_make_the_axis_linear():
    scale = StepScale.of([-2, 0, 2])
    assert "type" not in scale.axis("weight")
    assert scale.place([-2, 0]) == [-2, 0]
    assert scale.fraction([-2, 0, 2]).tolist() == [0, 0.5, 1]
