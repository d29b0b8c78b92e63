"""Intervals cover what they say: the estimator's expectation, in about 95 of 100 draws of the windows."""

import numpy as np
import pytest
import torch

from dynamics import metrics
from dynamics.metrics.streaming.base import Attention, Pair, States, groups
from dynamics.metrics.streaming.intervals import t_interval
from dynamics.scales import SCALES
from tests.metrics import streams

REPETITIONS = 160
OF_STATES = (
    *("anisotropy", "anisotropy_uncentered", "singular_value_share", "participation_ratio", "isoscore"),
    *("effective_rank", "kurtosis", "mean_norm", "norm_of_mean", "mean_cosine", "mean_cosine_across_windows"),
)
OF_ATTENTION = (
    *("entropy", "normalized_entropy", "max_probability", "sink_mass"),
    *("qk_alignment", "qk_mean_cosine"),
)


OF_PAIRS = ("linear_cka", "procrustes_linearity")


def coverage(names, draw):
    """Share of the draws whose interval holds the estimates' mean, (entries of value,) for each name."""
    estimates = {name: [] for name in names}
    members = groups(metrics.resolve(name) for name in names)
    for repetition in range(REPETITIONS):
        batch = draw(repetition)
        for group in members:
            group.states.reset()
            group.update(batch)
            for name, estimate in group.compute().items():
                estimates[name].append(estimate)
    return {name: covered(of_name) for name, of_name in estimates.items()}


def covered(estimates):
    """Share of the intervals that hold the estimates' mean, for each head."""
    value, low, high = (np.stack([getattr(e, part) for e in estimates]) for part in ("value", "low", "high"))
    truth = value.mean(axis=0)
    return ((low <= truth) & (truth <= high)).mean(axis=0)


@pytest.fixture(scope="module")
def shares():
    return {
        **coverage(OF_STATES, lambda seed: streams.clustered(windows=24, tokens=12, width=4, seed=seed)),
        **coverage(OF_ATTENTION, whole_windows),
        **coverage(OF_PAIRS, two_layers),
        **coverage(("intrinsic_dimension",), lambda seed: independent(seed, 400)),
        "drift": covered([drifted(seed) for seed in range(REPETITIONS)]),
    }


def two_layers(seed):
    x, windows = streams.clustered(windows=24, tokens=12, width=4, seed=seed)
    noise = torch.randn(len(x), 1, 3, generator=streams.generator(seed), dtype=torch.float64)
    return Pair(x, torch.tanh(x @ torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)) + 0.2 * noise, windows)


def drifted(seed):
    """Two heads, moved from where the reference was taken on the same tokens, in part by what each token is."""
    before = streams.clustered(windows=24, tokens=12, heads=2, width=4, seed=seed)
    start, now = metrics.resolve("drift"), metrics.resolve("drift")
    start.update(before)
    now.reference = start.reference_state()
    now.update(States(before.x + 0.3 * torch.tanh(before.x) + 0.2, before.windows))
    return now.compute()


def whole_windows(seed):
    return streams.attention(windows=24, heads=2, tokens=12, seed=seed, padded=False)


def independent(seed, n):
    x = torch.randn(n, 1, 5, generator=streams.generator(seed))
    return States(x, torch.arange(n))


@pytest.mark.parametrize("name", [*OF_STATES, *OF_ATTENTION, *OF_PAIRS, "intrinsic_dimension", "drift"])
def test_coverage(shares, name):
    assert ((shares[name] >= 0.9) & (shares[name] <= 0.98)).all(), shares[name]


def test_tokens_are_not_the_units():
    """The same states, each called a window of its own: far too sure."""
    too_sure = coverage(
        ("mean_cosine",),
        lambda seed: States(streams.clustered(24, 40, width=4, seed=seed).x, torch.arange(24 * 40)),
    )
    assert too_sure["mean_cosine"] < 0.6


def places(seed, windows=24, tokens=36):
    """Windows of few values with noise around them, of as many dimensions as the window has; and their ids."""
    g = streams.generator(seed)
    values = 2 * torch.randn(40, 1, 10, generator=streams.generator())
    size = 0.1 + 0.8 * torch.rand(windows, 1, 1, generator=g)
    used = torch.arange(10) < torch.randint(2, 11, (windows, 1, 1), generator=g)
    noise = size * used * torch.randn(windows, tokens, 10, generator=g)
    x = values[torch.randint(40, (windows, tokens), generator=g), 0] + noise
    return States(x.flatten(0, 1)[:, None], torch.arange(windows).repeat_interleave(tokens))


def test_a_dimension_that_differs_from_window_to_window():
    name = "intrinsic_dimension"
    assert 0.9 <= coverage([name], places)[name] <= 0.98
    too_sure = coverage([name], lambda seed: States(places(seed).x, torch.arange(24 * 36)))
    assert too_sure[name] < 0.6


def test_the_mean_over_heads_knows_that_heads_agree():
    """Two equal heads are no better than one."""
    query, windows = streams.attention(heads=1, key_heads=1)
    doubled = streams.Call(query.query.expand(-1, 2, -1, -1), query.key.expand(-1, 2, -1, -1), query.valid)
    for name in OF_ATTENTION:
        metric = metrics.resolve(name)
        metric.update(Attention(doubled, windows))
        estimate = metric.compute()
        np.testing.assert_allclose(estimate.low[-1], estimate.low[0])
        np.testing.assert_allclose(estimate.high[-1], estimate.high[0])


@pytest.mark.parametrize("scale", SCALES)
def test_scales(scale):
    there, back, slope = SCALES[scale]
    v = np.linspace(0.1, 0.9, 9) + (scale == "log above 1")
    np.testing.assert_allclose(back(there(v)), v)
    np.testing.assert_allclose(slope(v), (there(v + 1e-6) - there(v - 1e-6)) / 2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["anisotropy", "singular_value_share", "participation_ratio", "effective_rank"])
@pytest.mark.parametrize("rounding", [0, 1e-7])
def test_a_direction_that_no_state_has_changes_no_interval(name, rounding):
    """A layer norm takes one away, up to the rounding of the states."""
    x, windows = streams.clustered(dtype=torch.float32)
    flat = 1 + rounding * torch.randn(*x.shape[:-1], 1, generator=streams.generator(5)).to(x)
    estimates = []
    for states in (x, torch.cat([x, flat], dim=-1)):
        metric = metrics.resolve(name)
        metric.update(States(states, windows))
        estimates.append(metric.compute())
    for part in ("value", "low", "high"):
        np.testing.assert_allclose(getattr(estimates[1], part), getattr(estimates[0], part), rtol=1e-6)
    assert estimates[1].low < estimates[1].value < estimates[1].high


def test_no_interval_is_better_than_a_wrong_one():
    for scale in ("logit", "log", "atanh"):
        edge = {"logit": 1.0, "log": 0.0, "atanh": 1.0}[scale]
        assert np.isnan(t_interval(np.array([edge]), np.array([0.1]), 20.0, scale)).all()
    assert np.isnan(t_interval(np.array([0.5]), np.array([0.1]), 0.0, "logit")).all()


@pytest.mark.parametrize("name", [*OF_ATTENTION, "score_variance", "min_probability", "sink_rate"])
def test_a_window_of_padding_alone_changes_nothing(name):
    call, windows = streams.attention(windows=10, padded=False)
    parts = [torch.cat([part, torch.zeros_like(part[:1])]) for part in (call.query, call.key, call.valid)]
    longer = Attention(streams.Call(*parts), torch.arange(11))
    estimates = []
    for batch in (Attention(call, windows), longer):
        metric = metrics.resolve(name)
        metric.update(batch)
        estimates.append(metric.compute())
    assert estimates[0].windows == estimates[1].windows == 10
    for part in ("value", "low", "high"):
        np.testing.assert_array_equal(getattr(estimates[0], part), getattr(estimates[1], part))


@pytest.mark.parametrize("windows", [2, 7, 8])
def test_too_few_windows_have_no_interval(windows):
    batch = streams.clustered(windows=windows)
    for name in (*OF_STATES, "intrinsic_dimension"):
        metric = metrics.resolve(name)
        metric.update(batch)
        estimate = metric.compute()
        assert estimate.windows == windows
        assert np.isfinite(estimate.value).all()
        assert np.isfinite(estimate.low).all() == np.isfinite(estimate.high).all() == (windows >= 8)
        assert ("at least 8" in estimate.reason) == (windows < 8)


def test_one_window_that_dominates_is_named():
    batch = streams.clustered(windows=20)
    x = batch.x.clone()
    x[batch.windows == 3] *= 30
    metric = metrics.resolve("mean_norm")
    metric.update(States(x, batch.windows))
    estimate = metric.compute()
    assert "one window" in estimate.reason
    assert estimate.low < estimate.value < estimate.high


def test_the_bounds_reach_further_on_the_side_of_the_tail():
    value, error, skewness = np.array([0.0]), np.array([1.0]), np.array([0.3])
    plain = t_interval(value, error, 15.0, "identity")
    low, high = t_interval(value, error, 15.0, "identity", skewness)
    assert low == plain[0]
    assert high > 1.3 * plain[1]


def test_a_sample_of_the_windows_gives_about_the_same_interval():
    batch = streams.clustered(windows=200, tokens=10, width=4)
    widths = []
    for tokens in (10_000, 600):
        metric = metrics.resolve("anisotropy", tokens=tokens)
        metric.update(batch)
        estimate = metric.compute()
        assert len(torch.cat(metric.kept)) == min(tokens, 2000)
        widths.append(float(estimate.high[0] - estimate.low[0]))
    assert widths[1] == pytest.approx(widths[0], rel=0.25)
