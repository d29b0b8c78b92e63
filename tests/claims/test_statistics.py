"""Intervals and tests against closed forms, scipy and simulations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dynamics.claims.statistics import Effects, Measured, corrected, directed, outcome

VALUES = st.lists(st.floats(-10, 10).map(lambda v: round(v, 3)), min_size=3, max_size=8, unique=True)


def units(values, errors=0.0):
    errors = np.broadcast_to(errors, len(values))
    return {f"u{i}": Measured(float(v), float(e)) for i, (v, e) in enumerate(zip(values, errors, strict=True))}


@given(VALUES)
def test_without_sampling_errors_it_is_students_interval(values):
    found = outcome(Effects(units(values)), 0.0, draws=20_000)
    exact = stats.ttest_1samp(values, 0.0).confidence_interval()
    assert found.effect == pytest.approx(np.mean(values))
    assert found.high - found.low == pytest.approx(exact.high - exact.low, rel=0.05)


def test_two_groups_are_welchs_interval():
    one, two = [1.0, 1.3, 0.8, 1.1], [0.2, 0.9, 0.4, 0.1, 0.6]
    found = outcome(Effects(units(one), units(two)), 0.0, draws=200_000)
    exact = stats.ttest_ind(one, two, equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), rel=0.02)
    assert found.n == 9


def test_sampling_errors_widen_as_the_closed_form_says():
    values, error = [1.0, 1.01, 0.99, 1.02], 0.5
    found = outcome(Effects(units(values, error)), 0.0, draws=200_000)
    variance = np.var(values, ddof=1) / 4 + error**2 / 4 * 4 / 3  # the bootstrap's factor n / (n - 1) on both
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * np.sqrt(variance), rel=0.02)


@given(VALUES, st.floats(0, 5))
def test_sampling_errors_never_make_it_narrower(values, error):
    bare, wide = (outcome(Effects(units(values, e)), 0.0) for e in (0.0, error))
    assert wide.high - wide.low >= (bare.high - bare.low) * (1 - 1e-9)


@given(VALUES, st.floats(-5, 5))
def test_p_values_and_interval_agree(values, threshold):
    found = outcome(Effects(units(values)), threshold)
    assert found.p_above + found.p_below == pytest.approx(1.0)
    assert (found.low > threshold) == (found.p_above < 0.025)
    assert (found.high < threshold) == (found.p_below < 0.025)


def test_units_without_spread_say_no_more_than_their_signs():
    found = outcome(Effects(units([2.0] * 5)), 1.0)
    assert (found.low, found.high, found.p_above, found.p_below) == (2.0, 2.0, 0.5**5, 1.0)
    assert outcome(Effects(units([1.0] * 5)), 1.0).p_above == 1.0


@pytest.mark.parametrize("error", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("count", [3, 5])
def test_intervals_cover_the_mean(error, count):
    generator = np.random.default_rng(0)
    draws = generator.standard_normal((600, count)) * np.hypot(1.0, error)
    found = [outcome(Effects(units(values, error)), 0.0, draws=300) for values in draws]
    assert np.mean([one.low <= 0 <= one.high for one in found]) >= 0.93


def test_the_order_of_units_does_not_matter():
    values = units([1.0, 2.0, 4.0], 0.5)
    assert outcome(Effects(values), 0.0) == outcome(Effects(dict(reversed(values.items()))), 0.0)


def test_directed_values_of_noise_average_nothing():
    noise = np.random.default_rng(0).standard_normal((4000, 4))
    sizes = [np.mean([v.value for v in directed(units(values)).values()]) for values in noise]
    assert abs(np.mean(sizes)) < 0.03
    assert [v.value for v in directed(units([-1.0, -2.0, -3.0])).values()] == [1.0, 2.0, 3.0]


def test_correction_is_that_of_statsmodels_formula():
    p = np.array([0.001, 0.02, 0.04, 0.3])
    harmonic = sum(1 / i for i in range(1, 5))
    steps = p * 4 * harmonic / np.arange(1, 5)
    assert corrected(p.tolist()) == pytest.approx(np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1))
    assert corrected([]) == []
