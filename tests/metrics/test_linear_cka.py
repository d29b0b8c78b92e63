"""Comparisons of two representations of the same tokens."""

import numpy as np
import pytest
import torch

from dynamics import metrics
from dynamics.metrics.linear_cka import linear_cka
from dynamics.metrics.procrustes_linearity import procrustes_linearity
from dynamics.metrics.streaming.base import Pair
from tests.metrics import streams


def two_representations(n=80, d=6, e=9, seed=0):
    g = streams.generator(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64) * torch.linspace(2, 0.1, d) + 5
    y = torch.tanh(x @ torch.randn(d, e, generator=g, dtype=torch.float64))
    return x, y


def kernel_alignment(x, y):
    """Kornblith et al. (arXiv 1905.00414), by the n x n kernels: HSIC over the root of the product."""
    n = len(x)
    h = np.eye(n) - 1 / n
    k, m = h @ x @ x.T @ h, h @ y @ y.T @ h
    return (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())


def released_procrustes(x, y):
    """LLM-Microscope's `procrustes_similarity`, the released code of arXiv 2405.12250, by least squares."""
    x, y = (z - z.mean(0) for z in (x, y))
    x, y = (z / np.linalg.norm(z) for z in (x, y))
    return 1 - ((x @ np.linalg.lstsq(x, y, rcond=None)[0] - y) ** 2).sum()


def test_against_other_peoples_formulas():
    x, y = two_representations()
    assert linear_cka(x, y).item() == pytest.approx(kernel_alignment(x.numpy(), y.numpy()), rel=1e-9)
    assert procrustes_linearity(x, y).item() == pytest.approx(released_procrustes(x.numpy(), y.numpy()), rel=1e-9)


def test_a_linear_map_is_linear_even_of_states_that_lack_directions():
    x, _ = two_representations()
    x = torch.cat([x, x[:, :2]], dim=1)
    y = x @ torch.randn(8, 5, generator=streams.generator(), dtype=torch.float64) - 3
    assert procrustes_linearity(x, y).item() == pytest.approx(1, abs=1e-9)
    noise = torch.randn(80, 5, generator=streams.generator(1), dtype=torch.float64)
    assert procrustes_linearity(x, noise).item() < 0.3


def test_invariances():
    x, y = two_representations()
    moved = 3 * (x @ streams.rotation(6)) + 1
    assert streams.close(linear_cka(moved, y), linear_cka(x, y))
    assert streams.close(procrustes_linearity(moved, y), procrustes_linearity(x, y))
    assert linear_cka(x, moved).item() == pytest.approx(1)
    assert streams.close(linear_cka(x, y), linear_cka(y, x))


@pytest.mark.parametrize("function", [linear_cka, procrustes_linearity])
def test_degenerate(function):
    x, y = two_representations()
    for value in (0.0, 0.1, 1e6):
        equal = torch.full((80, 2), value)
        assert function(x, equal).isnan()
        assert function(equal, y).isnan()
        metric = metrics.resolve(function.__name__)
        metric.update(Pair(equal[:, None], y[:, None], torch.arange(80)))
        assert metric.compute().reason == "all states are equal"
    assert function(x.unsqueeze(0).expand(3, -1, -1), y.unsqueeze(0).expand(3, -1, -1)).shape == (3,)
