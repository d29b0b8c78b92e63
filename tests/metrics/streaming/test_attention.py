"""Attention: against the full softmax in float64, closed forms, padding, grouped keys."""

import numpy as np
import pytest
import torch

from dynamics import metrics
from dynamics.metrics.entropy import entropy
from dynamics.metrics.logit_max import logit_max
from dynamics.metrics.max_probability import max_probability
from dynamics.metrics.min_probability import min_probability
from dynamics.metrics.normalized_entropy import normalized_entropy
from dynamics.metrics.qk_alignment import qk_alignment
from dynamics.metrics.qk_mean_cosine import qk_mean_cosine
from dynamics.metrics.score_variance import score_variance
from dynamics.metrics.sink_mass import sink_mass
from dynamics.metrics.streaming.attention import seen, summarise
from dynamics.metrics.streaming.base import Attention, groups
from tests.metrics import streams

NAMES = (
    *("entropy", "normalized_entropy", "max_probability", "sink_mass", "logit_max"),
    *("qk_alignment", "qk_mean_cosine"),
)


def measured(batch, names=NAMES):
    estimates = {}
    for group in groups(metrics.resolve(name) for name in names):
        group.update(batch)
        estimates |= group.compute()
    return estimates


def by_the_full_matrix(call, first=None):
    """Every quantity for each head from the whole matrix, written as their definitions read, in float64."""
    p = call.probabilities().numpy()
    logits = call.logits(0, call.query.shape[2]).double().numpy()
    means = {name: [] for name in NAMES[:5]}
    for head in range(p.shape[1]):
        values = {name: [] for name in means}
        for row in range(p.shape[0]):
            sink = 0 if first is None else first[row]
            for query in np.flatnonzero(call.valid[row].numpy()):
                row_p, visible = p[row, head, query], np.isfinite(logits[row, head, query])
                h = -(row_p[row_p > 0] * np.log(row_p[row_p > 0])).sum()
                values["entropy"].append(h)
                if visible.sum() > 1:
                    values["normalized_entropy"].append(h / np.log(visible.sum()))
                values["max_probability"].append(row_p.max())
                if query != sink:
                    values["sink_mass"].append(row_p[sink])
                values["logit_max"].append(logits[row, head, query][visible].max())
        for name in means:
            means[name].append(np.max(values[name]) if name == "logit_max" else np.mean(values[name]))
    return means


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_against_the_full_softmax(causal, padded):
    batch = streams.attention(tokens=70, causal=causal, padded=padded)
    estimates = measured(batch)
    for name, expected in by_the_full_matrix(batch.call).items():
        np.testing.assert_allclose(estimates[name].value[:-1], expected, rtol=1e-10)
        of_layer = np.max if name == "logit_max" else np.mean
        np.testing.assert_allclose(estimates[name].value[-1], of_layer(expected), rtol=1e-10)
        assert ("maximum" in estimates[name].reason) == (name == "logit_max")


@pytest.mark.parametrize("factor", [1, 60])
def test_float32_is_near_float64(factor):
    batch = streams.attention(tokens=200)
    expected = {}
    for dtype in (torch.float64, torch.float32):
        call = streams.Call(batch.call.query.to(dtype) * factor, batch.call.key.to(dtype), batch.call.valid)
        expected[dtype] = measured(Attention(call, batch.windows), NAMES[:4])
    for name in NAMES[:4]:
        a, b = (expected[dtype][name].value for dtype in (torch.float32, torch.float64))
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_functions_of_the_probabilities():
    batch = streams.attention(padded=False)
    p, estimates = batch.call.probabilities(), measured(batch)
    for function in (normalized_entropy, max_probability, sink_mass):
        expected = function(p).mean(0)
        np.testing.assert_allclose(estimates[function.__name__].value[:-1], expected, rtol=1e-10)
    expected = logit_max(batch.call.logits(0, 70)).amax(0)
    np.testing.assert_allclose(estimates["logit_max"].value[:-1], expected)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("masked", [None, "bool", "float"])
def test_the_entropy_function(causal, masked):
    batch = streams.attention(tokens=150, key_heads=4, padded=False, causal=causal)
    call, mask = batch.call, None
    logits = call.logits(0, 150)
    if masked:
        hidden = torch.rand(150, generator=streams.generator()) < 0.3
        hidden[0] = False
        logits = logits.masked_fill(hidden, -torch.inf)
        mask = ~hidden if masked == "bool" else torch.zeros(150, dtype=torch.float64).masked_fill(hidden, -torch.inf)
    p = logits.softmax(-1)
    expected = -torch.special.xlogy(p, p).sum(-1).mean((0, 2))
    value = entropy(call.query, call.key, mask=mask, is_causal=causal)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n", [2, 7, 300])
def test_uniform_attention(n):
    call = streams.Call(torch.zeros(2, 1, n, 4), torch.randn(2, 1, n, 4), causal=False)
    estimates = measured(Attention(call, torch.arange(2)), NAMES[:4])
    assert estimates["entropy"].value == pytest.approx(np.log(n))
    assert estimates["normalized_entropy"].value == pytest.approx(1)
    assert estimates["max_probability"].value == pytest.approx(1 / n)
    assert estimates["sink_mass"].value == pytest.approx(1 / n)


def test_all_attention_on_the_sink():
    key = torch.zeros(1, 1, 5, 4)
    key[0, 0, 0] = 1e4
    call = streams.Call(torch.ones(1, 1, 5, 4), key, causal=False)
    estimates = measured(Attention(call, torch.arange(1)), NAMES[:4])
    # of the other keys the probability is 0: they are not seen
    expected = pytest.approx([0, np.nan, 1, 1], nan_ok=True)
    assert [float(estimates[name].value[0]) for name in NAMES[:4]] == expected
    assert estimates["entropy"].value >= 0


def test_padding_on_the_left_moves_the_sink():
    batch = streams.attention(padded=False, tokens=30)
    batch.call.valid[::2, :6] = False
    first = batch.call.valid.int().argmax(1).tolist()
    expected = by_the_full_matrix(batch.call, first)
    estimates = measured(batch)
    for name in expected:
        np.testing.assert_allclose(estimates[name].value[:-1], expected[name], rtol=1e-10)


def test_a_query_that_sees_nothing_does_not_count():
    logits = torch.zeros(1, 1, 2, 3)
    logits[0, 0, 1] = -torch.inf
    assert seen(logits).tolist() == [[[3, 0]]]
    values, greatest = summarise(logits)
    assert greatest[0, 0, 1] == -torch.inf
    assert values[0, 0, 0, 1].isnan()
    mask = torch.tensor([[True, True, True], [False, False, False]])
    assert entropy(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 3, 4), mask=mask).exp().item() == pytest.approx(3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_gives_nan_and_a_reason(value):
    batch = streams.attention()
    batch.call.query[1, 2, 5, 0] = value
    for name, estimate in measured(batch).items():
        assert np.isnan(estimate.value[[2, -1]]).all(), name
        assert estimate.reason
        assert not estimate.arrays


def test_nothing_seen():
    for name in NAMES:
        (group,) = groups([metrics.resolve(name)])
        estimate = group.compute()[name]
        assert np.isnan(estimate.value).all()
        assert estimate.reason


def test_one_token_leaves_some_undefined():
    call = streams.Call(torch.ones(2, 1, 1, 4), torch.ones(2, 1, 1, 4))
    estimates = measured(Attention(call, torch.arange(2)))
    assert estimates["entropy"].value == pytest.approx(0)
    for name in ("normalized_entropy", "sink_mass"):
        assert np.isnan(estimates[name].value).all()
        assert estimates[name].reason


def test_histograms_count_every_sixteenth_query():
    batch = streams.attention(tokens=40, padded=False)
    estimates = measured(batch)
    logits = batch.call.logits(0, 40)[:, :, ::16]
    for name, kind, values in (
        ("logit_max", "logit", logits),
        ("max_probability", "probability", logits.softmax(-1)),
    ):
        counts, edges = (estimates[name].arrays[f"{kind}_{array}"] for array in ("histogram", "edges"))
        assert counts.shape == (5, edges.shape[1] + 1)
        for head in range(4):
            visible = values[:, head][logits[:, head] > -torch.inf]
            outside = [(visible < edges[0][0]).sum(), (visible >= edges[0][-1]).sum()]
            inside = visible[(visible >= edges[0][0]) & (visible < edges[0][-1])]
            expected = np.histogram(inside, edges[0])[0]
            assert counts[head].tolist() == [outside[0], *expected, outside[1]]
        np.testing.assert_allclose(counts[-1], counts[:-1].mean(0))


def test_means_of_queries_and_keys():
    batch = streams.attention()
    estimates = measured(batch)
    valid = batch.call.valid
    for head in range(4):
        query, key = batch.call.query[:, head][valid], batch.call.key[:, head // 2][valid]
        assert estimates["qk_alignment"].value[head] == pytest.approx(qk_alignment(query, key).item())
        assert estimates["qk_mean_cosine"].value[head] == pytest.approx(qk_mean_cosine(query, key).item())
        unit_query, unit_key = (z / z.norm(dim=1, keepdim=True) for z in (query, key))
        assert estimates["qk_mean_cosine"].value[head] == pytest.approx((unit_query @ unit_key.T).mean().item())
    assert estimates["qk_alignment"].n == int(valid.sum())


def test_a_zero_mean_has_no_direction():
    call = streams.Call(torch.tensor([[[[1.0, 0], [-1, 0]]]]), torch.ones(1, 1, 2, 2))
    estimate = measured(Attention(call, torch.arange(1)), ["qk_alignment"])["qk_alignment"]
    assert np.isnan(estimate.value).all()
    assert "zero" in estimate.reason


HIDING = [
    -1e9,
    -65504.0,
    -3000.0,
    -110.0,
    -103.0,
    -96.5,
    torch.finfo(torch.float32).min,
    torch.finfo(torch.bfloat16).min,
]


class Hiding(streams.Call):
    """A call whose hidden keys have a finite number in place of their logit, or added to it."""

    def __init__(self, call, number, added):
        super().__init__(call.query.float(), call.key.float(), call.valid, call.causal)
        self.number, self.added = number, added

    def reach(self, stop):
        return self.key.shape[2]

    def logits(self, start, stop, keys=None):
        hidden = super().logits(start, stop, keys)
        plain = streams.Call(self.query, self.key, causal=False).logits(start, stop, keys)
        return torch.where(hidden.isinf(), plain * self.added + self.number, hidden)


@pytest.mark.parametrize("number", HIDING)
@pytest.mark.parametrize("added", [True, False])
def test_probability_zero_hides_a_key_whatever_number_made_it(number, added):
    batch = streams.attention(seed=4)
    call = Hiding(batch.call, number, added)
    logits = call.logits(0, 70).transpose(0, 1)[:, batch.call.valid]
    p = logits.double().softmax(-1).float()
    estimates = measured(Attention(call, batch.windows), ["normalized_entropy", "min_probability", "score_variance"])
    for name, function, values in (
        ("normalized_entropy", normalized_entropy, p),
        ("min_probability", min_probability, p),
        ("score_variance", score_variance, logits),
    ):
        np.testing.assert_allclose(estimates[name].value[:-1], function(values), rtol=1e-4)


def test_a_sink_takes_probability_and_is_no_key():
    batch = streams.attention(seed=2)
    call, valid = batch.call, batch.call.valid
    call.sinks = torch.randn(*call.query.shape[:3], 2, generator=streams.generator(5), dtype=torch.float64)
    p = torch.cat([call.sinks, call.logits(0, 70)], -1).softmax(-1)[..., 2:]
    estimates = measured(batch, [*NAMES[:4], "min_probability"])
    for name, values in (
        ("entropy", -p.xlogy(p).sum(-1)),
        ("max_probability", p.amax(-1)),
        ("min_probability", p.where(p > 0, 1).amin(-1)),
    ):
        expected = [values[:, head][valid].mean() for head in range(4)]
        np.testing.assert_allclose(estimates[name].value[:-1], expected, rtol=1e-10)
    later = valid & (torch.arange(70) > 0)
    expected = [p[:, head, :, 0][later].mean() for head in range(4)]
    np.testing.assert_allclose(estimates["sink_mass"].value[:-1], expected, rtol=1e-10)
