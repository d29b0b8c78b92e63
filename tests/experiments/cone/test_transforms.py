"""Transforms do what their papers say, on what they were fitted on and elsewhere."""

import numpy as np
import pytest
from scipy import stats

from dynamics.experiments.cone import resampling, similarity
from dynamics.experiments.cone.sentences import Pairs
from dynamics.experiments.cone.transforms import TRANSFORMS, all_but_the_top, centred, whitened


@pytest.fixture
def x():
    noise = np.random.default_rng(0)
    return noise.normal(size=(400, 20)) @ noise.normal(size=(20, 20)) + 3


def test_centring_and_the_top(x):
    np.testing.assert_allclose(centred(x)(x).mean(0), 0, atol=1e-12)
    fitted = all_but_the_top(x, 3)
    values = np.linalg.svd(x - x.mean(0), compute_uv=False)
    np.testing.assert_allclose(np.linalg.svd(fitted(x), compute_uv=False)[:17], values[3:])
    for transform, k in ((fitted, 3), (all_but_the_top(x), 1)):
        assert np.linalg.matrix_rank(transform(x)) == 20 - k


def test_whitening_gives_the_identity(x):
    y = whitened(x)(x)
    assert y.shape == x.shape
    np.testing.assert_allclose(np.cov(y.T, bias=True), np.eye(20), atol=1e-9)


def test_few_vectors_whiten_few_components(x):
    fitted = whitened(x[:12])
    assert fitted(x).shape == (400, 3)
    assert whitened(np.ones((5, 3)))(np.ones((2, 3))).shape == (2, 0)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_fit_moves_elsewhere(name, x):
    other = x[:50] + 1
    fitted = TRANSFORMS[name](x, None)
    moved = fitted(other) - fitted(x[:50])
    np.testing.assert_allclose(moved, np.broadcast_to(moved[0], moved.shape), atol=1e-9)
    assert (np.abs(moved) > 1e-6).any()


def test_spearman_is_that_of_scipy():
    noise = np.random.default_rng(1)
    a, b = noise.normal(size=50), noise.integers(0, 5, size=50).astype(float)
    assert similarity.spearman(a, b) == pytest.approx(stats.spearmanr(a, b)[0])
    found, drawn = similarity.Scored(Pairs([], [], [], list(b)), draws=300).spearman(a + b)
    assert found.value == pytest.approx(100 * stats.spearmanr(a + b, b)[0])
    assert found.low < found.value < found.high
    assert drawn.shape == (300,)


def test_preservation_is_the_rank_correlation_of_all_pairs(x):
    layers = [x[:30], x[:30] ** 3, x[:30] @ np.linalg.qr(np.random.default_rng(2).normal(size=(20, 20)))[0]]
    found = similarity.preservation(layers, x[:30], resampling.weights(30, draws=100))
    upper = np.triu_indices(30, 1)

    def cosines(y):
        return (resampling.units(y) @ resampling.units(y).T)[upper]

    for layer, one in zip(layers, found, strict=True):
        assert one.value == pytest.approx(stats.spearmanr(cosines(layer), cosines(x[:30]))[0])
    assert found[0].value == pytest.approx(1)
    assert found[2].value == pytest.approx(1)
    assert found[1].low < found[1].value < found[1].high < 1


@pytest.mark.parametrize(("n", "d", "components"), [(500, 32, 32), (5, 600, None)])
def test_what_is_left_of_all_components_is_nothing(n, d, components):
    x = np.random.default_rng(0).normal(size=(n, d))
    assert np.isnan(all_but_the_top(x, components)(x)).all()
