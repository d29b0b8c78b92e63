"""What is left of step 0: against the functions of pairs, on the same tokens only."""

import numpy as np
import pytest
import torch

from dynamics import metrics
from dynamics.metrics.linear_cka import linear_cka
from dynamics.metrics.procrustes_linearity import procrustes_linearity
from dynamics.metrics.streaming.base import States
from tests.metrics import streams

FUNCTIONS = {"cka_to_start": linear_cka, "linearity_to_start": procrustes_linearity}


def kept(name, batch, **options):
    metric = metrics.resolve(name, **options)
    metric.update(batch)
    return metric


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_compares_the_same_tokens_with_their_past(name):
    before = streams.clustered()
    after = States(before.x.square() + before.x, before.windows)
    assert "step 0" in kept(name, before).compute().reason
    now = kept(name, after)
    now.reference = kept(name, before).reference_state()
    estimate = now.compute()
    expected = FUNCTIONS[name](before.x[:, 0], after.x[:, 0]).item()
    assert estimate.value == pytest.approx([expected])
    assert estimate.low[0] < expected < estimate.high[0]
    assert estimate.n == len(before.x)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nothing_has_changed_at_step_0(name):
    now = kept(name, streams.clustered())
    now.reference = now.reference_state()
    assert now.compute().value == pytest.approx([1])


def test_of_many_tokens_the_same_sample_is_compared_in_whatever_order_they_come():
    before = streams.clustered()
    after = States(before.x.exp(), before.windows)
    windows = before.windows.unique().tolist()
    now = metrics.resolve("cka_to_start", size=40)
    for part in streams.by_windows(after, [[w] for w in reversed(windows)]):
        now.update(part)
    now.reference = kept("cka_to_start", before, size=40).reference_state()
    assert now.reference.shape == (40, before.x.shape[-1] + 1)
    estimate = now.compute()
    rows = [(before.x[:, 0] == row).all(-1).nonzero().item() for row in now.reference[:, :-1].to(before.x)]
    assert estimate.value == pytest.approx([linear_cka(before.x[rows, 0], after.x[rows, 0]).item()])
    assert estimate.n == 40


@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_tokens_and_unsound_states_are_told(name):
    before = streams.clustered()
    now = kept(name, before)
    now.reference = kept(name, States(before.x, before.windows + 1)).reference_state()
    estimate = now.compute()
    assert np.isnan(estimate.value).all()
    assert "other tokens" in estimate.reason
    assert kept(name, States(torch.full((5, 1, 4), torch.nan), torch.arange(5))).reference_state() is None
