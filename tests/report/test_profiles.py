"""The shape of a profile over layers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dynamics.report.profiles import BELL, profile

PROFILES = arrays(float, st.integers(3, 30), elements=st.floats(-1e3, 1e3))


def test_a_bell_a_slope_and_a_plain():
    bell, slope, plain = profile([1, 3, 2]), profile([1, 2, 3, 4]), profile([2, 2, 2])
    assert (bell.peak, bell.height, bell.span) == (0.5, 1, 2)
    assert (slope.peak, slope.height, slope.span) == (1, -1, 3)
    assert (plain.peak, plain.height, plain.span) == (0, 0, 0)


@pytest.mark.parametrize("values", [[], [1], [1, 2], [1, np.nan, 2], [1, np.inf, 2]])
def test_what_has_no_shape(values):
    assert np.isnan(profile(values)).all()


@given(PROFILES, st.floats(0.1, 10), st.floats(-100, 100))
def test_scaled_and_shifted_profiles_have_the_scaled_shape(values, scale, shift):
    one, other = profile(values), profile(values * scale + shift)
    np.testing.assert_allclose(np.array(other[1:]), np.array(one[1:]) * scale, atol=1e-8 * (1 + np.abs(values).max()))


@given(PROFILES)
def test_a_height_above_0_is_a_peak_between_the_ends(values):
    shape = profile(values)
    assert (shape.height > 1e-9) <= (0 < shape.peak < 1)
    assert shape.height <= shape.span


def test_noise_on_a_flat_profile_is_a_peak_but_no_bell():
    generator = np.random.default_rng(0)
    heights = [profile(0.3 + 0.01 * generator.standard_normal(12)).height for _ in range(200)]
    assert np.quantile(heights, 0.2) > 0
    assert max(heights) < BELL
