import numpy as np
import pytest

from dynamics.report.plot.canvas import Canvas
from dynamics.report.plot.values import Values

BAR = Canvas(1, 1, panel=100).bar("")


def test_a_wide_quantity_has_a_logarithmic_axis_and_true_labels():
    values = Values.of("intrinsic_dimension", [1.0, 40.0, np.nan])
    colours = values.colours(BAR)
    assert values.axis()["type"] == "log"
    assert values.title == "intrinsic dimension (log)"
    assert values.shade(np.array([1.0, 10.0])).tolist() == [0, 1]
    shown = dict(zip(colours["colorbar"]["ticktext"], colours["colorbar"]["tickvals"], strict=True))
    assert shown["10"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("metric", "given"),
    [("intrinsic_dimension", [5.0, 24.0]), ("norm_of_mean", [0.0, 20.0]), ("anisotropy", [1e-3, 0.9])],
)
def test_narrow_or_zero_or_bounded_ones_have_a_linear_axis(metric, given):
    values = Values.of(metric, given)
    assert values.axis() == {}
    assert values.shade(np.array(given)).tolist() == given


@pytest.mark.parametrize(
    ("metric", "given", "ends"),
    [
        ("qk_alignment", [-0.2, 0.5], (-0.5, 0.5)),
        ("mean_cosine", [-0.001, 0.5], (-0.001, 0.5)),
        ("anisotropy", [0.1, 0.5], (0.1, 0.5)),
        ("anisotropy", [np.nan], (0, 1)),
        ("anisotropy", [0.5, 0.5], (0.5, 1.0)),
    ],
)
def test_colours_diverge_from_zero_only_where_both_signs_are_taken(metric, given, ends):
    colours = Values.of(metric, given).colours(BAR)
    assert (colours["cmin"], colours["cmax"]) == ends
