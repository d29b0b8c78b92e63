import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.metrics.streaming.sampling import LEAST, kept_windows, occurrence, priority, window_sums


def test_priorities_are_spread_and_seeded():
    ids = torch.arange(-5000, 5000)
    priorities = priority(ids)
    assert priorities.unique().numel() == len(ids)
    assert not torch.equal(priorities, priority(ids, seed=1))
    share = (priorities[:5000] < priorities.median()).double().mean()
    assert abs(share - 0.5) < 0.03


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=200), st.integers(1, 120))
def test_samples_of_parts_merge_into_the_sample_of_the_whole(ids, budget):
    windows = torch.tensor(ids)
    whole = windows[kept_windows(windows, budget)]
    parts = [windows[windows % 3 == rest] for rest in range(3)]
    kept = torch.cat([part[kept_windows(part, budget)] for part in parts if len(part)])
    merged = kept[kept_windows(kept, budget)]
    assert sorted(merged.tolist()) == sorted(whole.tolist())
    for window in whole.unique():
        assert (whole == window).sum() == (windows == window).sum()
    assert len(whole) <= budget or len(whole.unique()) <= LEAST


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=50))
def test_occurrences(ids):
    assert occurrence(torch.tensor(ids)).tolist() == [ids[:i].count(w) for i, w in enumerate(ids)]


def test_window_sums():
    sums, ids = window_sums(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([9, 3, 9]))
    assert sums.tolist() == [[2.0], [5.0]]
    assert ids.tolist() == [3, 9]
