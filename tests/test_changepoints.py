import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics import changepoints
from dynamics.changepoints import deviations, fewest, knots_of, phases, places, searched

STEPS = [0, *(2**i for i in range(11))]
X = places(STEPS)


def curves(seeds=4, size=0.02, bend=1.0, seed=0):
    generator = np.random.default_rng(seed)
    mean = np.where(X < 4, X, 4 - bend * (X - 4))
    return mean + size * generator.standard_normal((seeds, len(X))) + generator.standard_normal((seeds, 1))


def test_planted_change_points_have_their_phases():
    found = phases(STEPS, curves())
    assert [point.step for point in found.points] == [16]
    assert found.points[0].low <= 16 <= found.points[0].high
    assert found.changes == pytest.approx((5, -6), abs=0.1)
    assert found.p[0] < 0.01
    assert found.seeds == 4


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 99),
    st.floats(0.01, 100),
    st.floats(-100, 100),
    st.permutations(range(4)),
)
def test_scale_offsets_and_the_order_of_seeds_do_not_matter(seed, scale, offset, order):
    table = curves(size=0.3, seed=seed)
    one = phases(STEPS, table, draws=100)
    other = phases(STEPS, (scale * table + offset + np.arange(4)[:, None])[order], draws=100)
    assert other.points == one.points
    assert other.p == pytest.approx(one.p, abs=0.011)  # one draw may lie on the edge
    assert other.changes == pytest.approx(tuple(scale * change for change in one.changes), rel=1e-6, abs=1e-6 * scale)


def test_the_search_finds_what_least_squares_over_all_knots_finds():
    generator = np.random.default_rng(1)
    for _ in range(5):
        curve = generator.standard_normal(len(X))
        pairs = [(i, j) for i in range(2, 10) for j in range(i + 2, 10)]
        designs = [np.stack([X**0, X, *(np.maximum(X - X[knot], 0) for knot in pair)], 1) for pair in pairs]
        errors = [np.linalg.lstsq(design, curve, rcond=None)[1].item() for design in designs]
        assert tuple(knots_of(X, curve, 2)) == pairs[int(np.argmin(errors))]


@pytest.mark.parametrize("place", [2.5, 4.5])
def test_a_knot_between_measured_steps_is_one_change_point(place):
    generator, mean = np.random.default_rng(0), np.where(place > X, X, 2 * place - X)
    more = [
        len(phases(STEPS, mean + 0.1 * generator.standard_normal((5, len(X))), draws=200).points) > 1 for _ in range(40)
    ]
    assert sum(more) <= 5


def test_a_contrast_of_the_mean_curve_has_students_distribution():
    from scipy import stats

    table, contrast = curves(seeds=5), np.linspace(-1, 1, len(X))
    drawn = deviations(table, 20000) @ contrast / stats.sem(table @ contrast)
    assert stats.kstest(drawn, stats.t(4).cdf).pvalue > 0.01


def test_too_few_seeds_or_steps_have_no_phases():
    assert phases(STEPS, curves()[:2]) is None
    assert phases(STEPS[:4], curves()[:, :4]) is None
    assert phases(STEPS[:6], curves()[:, :6], least=2) is None
    assert len(phases(STEPS[:7], curves()[:, :7], least=2).points) == 2
    assert fewest(2) == 7


def test_gaps_are_left_out_and_many_steps_are_thinned():
    table = curves()
    table[1, 3] = np.nan
    assert [point.step for point in phases(STEPS, table).points] == [16]
    steps = np.arange(1000)
    at, kept = searched(steps, np.tile(steps, (3, 1)))
    assert len(at) <= changepoints.POINTS
    assert (at[0], at[-1]) == (0, 999)
    assert (kept == at).all()


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_what_does_not_change_has_no_change_points(value):
    found = phases(STEPS, np.full((3, len(STEPS)), value))
    assert found.points == ()
    assert found.p == (1.0, 1.0, 1.0)


def test_a_bend_that_explains_little_is_no_change_point():
    found = phases(STEPS, curves(size=1e-4, bend=-0.8))
    assert found.p[0] < 0.01  # it is there
    assert found.points == ()
