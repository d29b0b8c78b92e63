import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.metrics.mean_cosine import mean_cosine
from dynamics.metrics.mean_cosine_across_windows import mean_cosine_across_windows
from tests.metrics import streams


def all_pairs(x):
    """The cosine matrix, formed: sklearn's, in numpy."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit @ unit.T


def test_against_all_pairs():
    x, windows = streams.clustered()
    cosines = all_pairs(x[:, 0].numpy())
    n = len(cosines)
    assert mean_cosine(x[:, 0]).item() == pytest.approx((cosines.sum() - n) / (n * (n - 1)), abs=1e-12)
    apart = windows.numpy()[:, None] != windows.numpy()
    assert mean_cosine_across_windows(x[:, 0], windows).item() == pytest.approx(cosines[apart].mean(), abs=1e-12)


@pytest.mark.parametrize("beta", [0.5, 2.0, 8.0])
def test_biased_input(beta):
    """x + b with x ~ N(0, I): beta^2 / (beta^2 + d) (arXiv 2401.12143)."""
    d = 256
    b = torch.randn(d, generator=streams.generator(1))
    x = torch.randn(2000, d, generator=streams.generator(2)) + beta * b / b.norm()
    assert mean_cosine(x).item() == pytest.approx(beta**2 / (beta**2 + d), abs=2e-3, rel=0.02)


def test_states_in_windows_of_their_own():
    x = streams.clustered().x[:, 0]
    assert streams.close(mean_cosine_across_windows(x, torch.arange(len(x))), mean_cosine(x))
    assert mean_cosine_across_windows(x, torch.zeros(len(x), dtype=torch.long)).isnan()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999))
def test_invariances(seed):
    g = streams.generator(seed)
    x = torch.randn(30, 6, generator=g, dtype=torch.float64) + 0.4
    scales = torch.rand(30, 1, generator=g, dtype=torch.float64) + 0.1
    for changed in (x @ streams.rotation(6, seed), x * scales, x[torch.randperm(30, generator=g)]):
        assert streams.close(mean_cosine(changed), mean_cosine(x))


def test_degenerate():
    assert mean_cosine(torch.ones(1, 3)).isnan()
    assert mean_cosine(torch.tensor([[0.0, 0.0], [1.0, 1.0]])).isnan()
    assert mean_cosine(torch.full((5, 3), 2.0)).item() == pytest.approx(1)
