"""Axes and resamples against plain numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.experiments.cone import axis as axes
from dynamics.experiments.cone import resampling


def cloud(n, d, seed=0, long=5.0):
    noise = np.random.default_rng(seed)
    x = noise.normal(size=(n, d)) + 2
    x[:, 1] += long * noise.normal(size=n)
    return x


@pytest.mark.parametrize(("n", "d"), [(40, 8), (8, 40)])
def test_the_axis_is_that_of_the_svd(n, d):
    x = cloud(n, d)
    found = axes.axis(x)
    _, values, vectors = np.linalg.svd(x - x.mean(0))
    _, _, uncentered = np.linalg.svd(x)
    assert found.share == pytest.approx(values[0] ** 2 / (values**2).sum())
    assert abs(found.direction @ vectors[0]) == pytest.approx(1)
    assert abs(found.uncentered @ uncentered[0]) == pytest.approx(1)
    np.testing.assert_allclose(found.mean, x.mean(0) / np.linalg.norm(x.mean(0)))
    assert found.direction @ x.mean(0) >= 0


def test_equal_vectors_have_no_axis():
    found = axes.axis(np.full((5, 3), 0.1))
    assert np.isnan(found.share)
    assert np.isnan(found.direction).all()


@pytest.mark.parametrize(("n", "d"), [(40, 8), (12, 40), (60, 30)])
def test_resampled_axes_are_those_of_the_repeated_vectors(n, d):
    x, weights = cloud(n, d), resampling.weights(n, draws=5)
    found = axes.resampled(x, weights)
    for direction, weight in zip(found, weights, strict=True):
        again = axes.axis(np.repeat(x, weight.astype(int), axis=0)).direction
        assert abs(direction @ again) == pytest.approx(1, abs=1e-6)


@given(st.integers(3, 12), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_mean_cosines_of_resamples_count_each_pair(n, seed):
    noise = np.random.default_rng(seed)
    counts = noise.integers(1, 4, size=n)
    tokens = [noise.normal(size=(count, 5)) + 0.5 for count in counts]
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in tokens]
    sentences = np.stack([x.mean(0) for x in tokens])
    weight = resampling.weights(n, seed, draws=2)[1]
    vectors = sentences / np.linalg.norm(sentences, axis=1, keepdims=True)
    total = pairs = all_total = all_pairs = 0.0
    for i in range(n):
        for j in range(n):
            if i != j:
                total += weight[i] * weight[j] * (vectors[i] @ vectors[j])
                pairs += weight[i] * weight[j]
                all_total += weight[i] * weight[j] * (units[i] @ units[j].T).sum()
                all_pairs += weight[i] * weight[j] * counts[i] * counts[j]
        within = units[i] @ units[i].T
        all_total += weight[i] * (within.sum() - np.trace(within))
        all_pairs += weight[i] * (counts[i] ** 2 - counts[i])
    found = resampling.mean_cosine(sentences, weight[None])[0]
    assert found == pytest.approx(total / pairs if pairs else np.nan, nan_ok=True)
    sums = np.stack([x.sum(0) for x in units])
    found = resampling.token_mean_cosine(sums, counts.astype(float), weight[None])[0]
    assert found == pytest.approx(all_total / all_pairs if all_pairs else np.nan, nan_ok=True)


def test_the_interval_covers_the_spread_of_samples():
    """Percentiles of resamples are as wide as the spread over new samples."""
    noise = np.random.default_rng(0)
    values = [resampling.mean_cosine(noise.normal(size=(200, 20)) + 0.5, np.ones((1, 200)))[0] for _ in range(200)]
    x = noise.normal(size=(200, 20)) + 0.5
    drawn = resampling.mean_cosine(x, resampling.weights(200))
    assert drawn.std() == pytest.approx(np.std(values), rel=0.25)


@pytest.mark.parametrize("cosine", [0.05, 0.4, 0.8])
def test_intervals_of_cosines_hold_the_true_one(cosine):
    """Clouds of two known axes: of 100 intervals of nominal 95 % as many as calibrated ones would hold it."""
    known = np.zeros((2, 8))
    known[0, 0], known[1, :2] = 1, (cosine, np.sqrt(1 - cosine**2))
    held = 0
    for seed in range(100):
        noise = np.random.default_rng(seed)
        x = [noise.normal(size=(80, 8)) + 1.6 * noise.normal(size=(80, 1)) * axis for axis in known]
        one, other = (axes.axis(y).direction for y in x)
        drawn = [axes.resampled(y, resampling.weights(80, 2 * seed + i, 100)) for i, y in enumerate(x)]
        found = axes.agreement(one, other, *drawn)
        assert found.value == pytest.approx(abs(one @ other))
        assert 0 <= found.low <= found.high <= 1
        held += found.low <= cosine <= found.high
    assert 88 <= held <= 99


@pytest.mark.parametrize(("long", "steady"), [(0.7, False), (2.0, True)])
def test_an_axis_that_resampling_turns_has_no_interval(long, steady):
    noise = np.random.default_rng(0)
    x = noise.normal(size=(100, 30))
    x[:, 0] += long * noise.normal(size=100)
    found, drawn = axes.axis(x).direction, axes.resampled(x, resampling.weights(100, draws=50))
    assert (axes.cosine(drawn, found).mean() >= axes.STEADY) == steady
    certain, sure = np.eye(30)[0], np.tile(np.eye(30)[0], (50, 1))
    for one in (axes.agreement(found, certain, drawn, sure), axes.agreement(certain, found, sure, drawn)):
        assert one.value == pytest.approx(abs(found[0]))
        assert np.isfinite([one.low, one.high]).all() == steady


def test_two_different_sentences_have_an_axis_in_every_resample():
    """Resamples of them are of rank one, which ARPACK gives up on."""
    x = np.repeat(np.random.default_rng(0).normal(size=(2, 16)), 10, axis=0)
    drawn = axes.resampled(x, resampling.weights(len(x), draws=20))
    assert axes.cosine(drawn, axes.axis(x).direction) == pytest.approx(np.ones(20))
