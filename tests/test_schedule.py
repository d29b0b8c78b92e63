"""Schedules: known beforehand, with the first and the last step always in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamics.errors import InputError
from dynamics.schedule import Every, LogSpaced

SCHEDULES = st.one_of(st.builds(Every, st.integers(1, 500)), st.builds(LogSpaced, st.none() | st.integers(1, 20)))


@given(schedule=SCHEDULES, last=st.integers(0, 5000))
def test_first_and_last_always_belong(schedule, last):
    steps = schedule.steps(last)
    assert steps[0] == 0
    assert steps[-1] == last
    assert list(steps) == sorted(set(steps))


@given(schedule=SCHEDULES, short=st.integers(0, 2000), more=st.integers(0, 2000))
def test_a_longer_run_measures_at_the_same_steps(schedule, short, more):
    inner = set(schedule.steps(short)) - {short}
    assert inner <= set(schedule.steps(short + more))


def test_ten_a_decade():
    assert len(LogSpaced(per_decade=10).steps(10_000)) == pytest.approx(41, abs=8)


@pytest.mark.parametrize("make", [lambda: Every(0), lambda: LogSpaced(0)])
def test_nonsense_is_refused(make):
    with pytest.raises(InputError, match="at least 1"):
        make()


def test_an_endless_run_is_refused():
    with pytest.raises(InputError, match="max_steps"):
        Every(5).steps(-1)
