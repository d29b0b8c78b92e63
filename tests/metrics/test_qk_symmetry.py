import numpy as np
import pytest
import torch

from dynamics import metrics
from dynamics.metrics.qk_symmetry import qk_symmetry
from dynamics.metrics.streaming.base import Weights
from tests.metrics import streams


def published(m):
    """Saponati et al. (arXiv 2502.10927): of the squared norms of the symmetric and antisymmetric parts."""
    symmetric, antisymmetric = (m + m.T) / 2, (m - m.T) / 2
    a, b = np.linalg.norm(symmetric) ** 2, np.linalg.norm(antisymmetric) ** 2
    return (a - b) / (a + b)


def test_against_the_published_score_formed_in_full():
    weights = streams.weights()
    query, key = (w.numpy() for w in weights)
    forms = [q.T @ k for q, k in zip(query, key, strict=True)]
    metric = metrics.resolve("qk_symmetry")
    metric.update(weights)
    scores = metric.compute().value
    assert scores == pytest.approx([*map(published, forms), published(sum(forms))])
    assert qk_symmetry(*weights).numpy() == pytest.approx(scores[:-1])


def test_symmetric_antisymmetric_and_random():
    m = torch.randn(40, 40, generator=streams.generator(), dtype=torch.float64)
    identity = torch.eye(40, dtype=torch.float64)
    assert qk_symmetry(identity, m + m.T).item() == pytest.approx(1)
    assert qk_symmetry(identity, m - m.T).item() == pytest.approx(-1)
    assert qk_symmetry(identity, m).item() == pytest.approx(0, abs=0.1)
    assert qk_symmetry(0 * identity, m).isnan()


def test_shared_keys_serve_each_query_head():
    query, key = streams.weights(heads=4)
    shared, repeated = metrics.resolve("qk_symmetry"), metrics.resolve("qk_symmetry")
    shared.update(Weights(query, key[:2]))
    repeated.update(Weights(query, key[[0, 0, 1, 1]]))
    assert shared.compute().value.tolist() == repeated.compute().value.tolist()


def test_no_weights_and_zero_weights():
    metric = metrics.resolve("qk_symmetry")
    assert metric.compute().reason
    metric.update(Weights(torch.zeros(2, 3, 4), torch.ones(2, 3, 4)))
    estimate = metric.compute()
    assert np.isnan(estimate.value).all()
    assert estimate.reason
