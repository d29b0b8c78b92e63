import numpy as np
import pytest
import torch

from dynamics import metrics
from dynamics.metrics.drift import drift
from dynamics.metrics.mean_norm import mean_norm
from dynamics.metrics.norm_of_mean import norm_of_mean
from dynamics.metrics.streaming.base import States
from tests.metrics import streams


def test_drift_is_the_distance_from_the_reference_it_kept():
    before, after = streams.clustered(heads=3, seed=1), streams.clustered(heads=3, seed=2)
    start = metrics.resolve("drift")
    start.update(before)
    assert np.isnan(start.compute().value).all()
    assert "reference" in start.compute().reason

    now = metrics.resolve("drift")
    now.reference = start.reference_state()
    now.update(after)
    expected = np.linalg.norm(after.x.numpy().mean(0) - before.x.numpy().mean(0), axis=-1)
    assert now.compute().value == pytest.approx([*expected, expected.mean()])
    assert drift(after.x[:, 1], now.reference[0, 1]).item() == pytest.approx(expected[1])


def test_no_drift_yet():
    metric = metrics.resolve("drift")
    metric.update(streams.clustered(heads=2))
    metric.reference = metric.reference_state()
    assert metric.compute().value == pytest.approx([0, 0, 0])


def test_a_reference_of_another_model_is_told():
    metric = metrics.resolve("drift")
    metric.update(streams.clustered(heads=2))
    metric.reference = torch.zeros(3, 8)
    estimate = metric.compute()
    assert np.isnan(estimate.value).all()
    assert "(3, 8)" in estimate.reason


def test_unsound_states_leave_no_reference():
    metric = metrics.resolve("drift")
    metric.update(States(torch.full((5, 2, 4), torch.nan), torch.arange(5)))
    assert metric.reference_state() is None


def test_norms():
    x = streams.clustered().x[:, 0]
    a = x.numpy()
    assert norm_of_mean(x).item() == pytest.approx(np.linalg.norm(a.mean(0)))
    assert mean_norm(x).item() == pytest.approx(np.linalg.norm(a, axis=1).mean())
    for function in (norm_of_mean, mean_norm):
        assert function(x @ streams.rotation(8)).item() == pytest.approx(function(x).item())
        assert function(3 * x).item() == pytest.approx(3 * function(x).item())
        assert function(torch.tensor([[1.0, torch.inf]])).isnan()
        assert function(torch.zeros(0, 3)).isnan()
