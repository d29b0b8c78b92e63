"""The functions of the covariance's eigenvalues: closed forms, other people's formulas, invariances."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.metrics.anisotropy import anisotropy
from dynamics.metrics.anisotropy_uncentered import anisotropy_uncentered
from dynamics.metrics.effective_rank import effective_rank
from dynamics.metrics.isoscore import isoscore, isoscore_star
from dynamics.metrics.kurtosis import kurtosis
from dynamics.metrics.participation_ratio import participation_ratio
from dynamics.metrics.singular_value_share import singular_value_share
from dynamics.metrics.streaming.spectrum import by_squaring
from tests.metrics import streams

CENTERED = (anisotropy, singular_value_share, participation_ratio, isoscore, effective_rank)
ALL = (*CENTERED, anisotropy_uncentered)


def with_singular_values(values, n=20, seed=0):
    """Centred states (n, d) with these singular values, in a random basis."""
    d = len(values)
    g = streams.generator(seed)
    basis = torch.randn(n, d, generator=g, dtype=torch.float64)
    left = torch.linalg.qr(basis - basis.mean(0)).Q
    return left * torch.tensor(values, dtype=torch.float64) @ streams.rotation(d, seed + 1)


def released_anisotropy(x):
    """LLM-Microscope's `calculate_anisotropy_torch`, the released code of arXiv 2311.05928."""
    sigma = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    eigenvalues = sigma**2 / (len(x) - 1)
    return eigenvalues.max() / eigenvalues.sum()


def rankme(x):
    """Garrido et al. (arXiv 2210.02885), with its epsilon."""
    sigma = np.linalg.svd(x, compute_uv=False)
    p = sigma / np.abs(sigma).sum() + 1e-16
    return np.exp(-(p * np.log(p)).sum())


def published_isoscore(v):
    """Rudman et al. (arXiv 2108.07344), from the eigenvalues v of the covariance."""
    n = len(v)
    normed = v * np.sqrt(n) / np.linalg.norm(v)
    defect = np.linalg.norm(normed - 1) / np.sqrt(2 * (n - np.sqrt(n)))
    return ((n - defect**2 * (n - np.sqrt(n))) ** 2 - n) / (n * (n - 1))


def test_singular_values_ten_two_one():
    x = with_singular_values([10.0, 2.0, 1.0])
    assert anisotropy(x).item() == pytest.approx(100 / 105, abs=1e-12)
    assert anisotropy_uncentered(x).item() == pytest.approx(100 / 105, abs=1e-12)
    assert singular_value_share(x).item() == pytest.approx(10 / 13, abs=1e-12)
    assert participation_ratio(x).item() == pytest.approx(105**2 / (100**2 + 4**2 + 1), abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(1, 5), (2, 5), (5, 5), (3, 8)])
def test_k_equal_directions_of_n(k, n):
    x = with_singular_values([2.0] * k + [0.0] * (n - k))
    assert isoscore(x).item() == pytest.approx((k - 1) / (n - 1), abs=1e-9)
    assert participation_ratio(x).item() == pytest.approx(k, abs=1e-9)
    assert effective_rank(x).item() == pytest.approx(k, abs=1e-5)
    assert anisotropy(x).item() == pytest.approx(1 / k, abs=1e-9)


def test_isoscore_of_gaussian_samples_depends_on_their_number():
    d = 64
    for m in (32, 128, 1024):
        x = torch.randn(m, d, generator=streams.generator(m), dtype=torch.float64)
        assert isoscore(x).item() == pytest.approx(m / (m + d), rel=0.06)


@pytest.mark.parametrize(("n", "d"), [(500, 16), (40, 100), (64, 64)])
def test_against_other_peoples_formulas(n, d):
    g = streams.generator(n)
    x = torch.randn(n, d, generator=g, dtype=torch.float64) * torch.linspace(3, 0.5, d) + 2
    centred = x - x.mean(0)
    a = x.numpy()
    assert anisotropy(x).item() == pytest.approx(released_anisotropy(a), rel=1e-9)
    assert effective_rank(x).item() == pytest.approx(rankme(centred.numpy()), rel=1e-6)
    sigma = np.linalg.svd(centred.numpy(), compute_uv=False)
    assert singular_value_share(x).item() == pytest.approx(sigma[0] / sigma.sum(), rel=1e-9)
    eigenvalues = np.linalg.eigvalsh(np.cov(a.T)).clip(0)
    assert isoscore(x).item() == pytest.approx(published_isoscore(eigenvalues), rel=1e-9)


@pytest.mark.parametrize(("mean", "spread"), [(0, 1), (1000, 1), (1e4, 1e-2)])
@pytest.mark.parametrize(("n", "d"), [(1000, 64), (50, 200)])
def test_precision_against_the_singular_values(mean, spread, n, d):
    x = torch.randn(n, d, generator=streams.generator(1), dtype=torch.float64) * torch.linspace(3, 0.1, d)
    x = mean + spread * x
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        given_states = x.to(dtype)
        expected = released_anisotropy(given_states.double().numpy())
        assert anisotropy(given_states).item() == pytest.approx(expected, rel=tolerance)


def test_half_precision_is_upcast():
    x = torch.randn(400, 16, generator=streams.generator(), dtype=torch.float64).bfloat16()
    assert anisotropy(x).item() == pytest.approx(released_anisotropy(x.double().numpy()), rel=1e-5)


def test_batch_dimensions():
    x = torch.randn(2, 3, 50, 8, generator=streams.generator())
    for function in (*ALL, kurtosis):
        assert function(x).shape == (2, 3)
        assert streams.close(function(x)[1, 2], function(x[1, 2]), 1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.floats(-3, 3), st.sampled_from([(60, 7), (9, 20)]))
def test_invariances(seed, log_scale, shape):
    n, d = shape
    x = with_singular_values(list(range(1, d + 1)), n=n, seed=seed) if n > d else None
    x = torch.randn(n, d, generator=streams.generator(seed), dtype=torch.float64) if x is None else x
    order = torch.randperm(n, generator=streams.generator(seed))
    shift = torch.randn(d, generator=streams.generator(seed), dtype=torch.float64)
    for function in ALL:
        value = function(x)
        for changed in (x @ streams.rotation(d, seed), x * 10**log_scale, x[order], torch.cat([x, x])):
            assert streams.close(function(changed), value, 1e-8)
        if function in CENTERED:
            assert streams.close(function(x + shift), value, 1e-8)


def test_what_has_no_spectrum_is_nan():
    nan = float("nan")
    for function in CENTERED:
        for x in (torch.ones(5, 3), torch.ones(1, 3), torch.zeros(0, 3), torch.tensor([[1.0, nan], [0, 1]])):
            assert function(x).isnan()
    assert anisotropy_uncentered(torch.zeros(4, 3)).isnan()
    assert isoscore(torch.randn(9, 1)).isnan()


def test_isoscore_star_shrinks_towards_its_reference():
    x = torch.randn(40, 6, generator=streams.generator(), dtype=torch.float64) * torch.arange(1, 7)
    reference = torch.diag(torch.arange(6, 0, -1.0, dtype=torch.float64))
    for weight in (0.0, 0.2, 1.0):
        shrunk = (1 - weight) * np.cov(x.numpy().T) + weight * reference.numpy()
        expected = published_isoscore(np.linalg.svd(shrunk, compute_uv=False))
        assert isoscore_star(x, reference, weight).item() == pytest.approx(expected, rel=1e-12)
    assert streams.close(isoscore_star(x), isoscore(x))


def test_isoscore_star_is_differentiable_and_its_gradient_is_right():
    x = torch.randn(12, 4, generator=streams.generator(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: isoscore_star(y, torch.eye(4, dtype=torch.float64), 0.3), x)


def test_isoscore_star_ignores_autocast():
    x = torch.randn(64, 16, generator=streams.generator()) + 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert isoscore_star(x) == isoscore_star(x.clone())
        inside = isoscore_star(x)
    assert inside == isoscore_star(x)


def test_kurtosis_is_that_of_neuron_norms():
    """He et al. (arXiv 2405.19279), written out."""
    x = streams.clustered().x[:, 0]
    s = np.sqrt((x.numpy() ** 2).mean(axis=0))
    assert kurtosis(x).item() == pytest.approx((s**4).mean() / (s**2).mean() ** 2, rel=1e-12)
    assert kurtosis(torch.zeros(4, 3)).isnan()


@given(st.integers(0, 2**31), st.floats(-30, 30), st.sampled_from([1.0, 0.99, 1 - 1e-6, 1 - 1e-12]), st.integers(2, 64))
@settings(max_examples=50, deadline=None)
def test_the_largest_eigenvalue_by_squaring(seed, log_scale, ratio, d):
    g = streams.generator(seed)
    axes = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64)).Q
    values = torch.rand(d, generator=g, dtype=torch.float64)
    values[:2] = torch.tensor([1, ratio])
    matrix = axes * (values * 10**log_scale) @ axes.T
    assert by_squaring(torch.stack([matrix, matrix + matrix])).tolist() == pytest.approx(
        [10**log_scale, 2 * 10**log_scale], rel=1e-7
    )
