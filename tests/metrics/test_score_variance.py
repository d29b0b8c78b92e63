"""Score variance and least probability against numpy, row by row."""

import numpy as np
import pytest
import torch

from dynamics import metrics
from dynamics.metrics.min_probability import min_probability
from dynamics.metrics.score_variance import score_variance
from tests.metrics import streams


def by_rows(logits):
    """Variance and least probability of every row that sees several keys, and of every row."""
    variances, least = [], []
    for row in logits.reshape(-1, logits.shape[-1]).numpy():
        visible = row[np.isfinite(row)]
        p = np.exp(visible - visible.max())
        least.append((p / p.sum()).min())
        if len(visible) > 1:
            variances.append(np.var(visible, ddof=1))
    return np.mean(variances), np.mean(least)


@pytest.mark.parametrize("causal", [True, False])
def test_functions_and_streams_agree_with_numpy(causal):
    batch = streams.attention(causal=causal, padded=False)
    logits = batch.call.logits(0, 70)
    per_head = [by_rows(logits[:, head]) for head in range(4)]
    for i, (name, function, inputs) in enumerate(
        (("score_variance", score_variance, logits), ("min_probability", min_probability, logits.softmax(-1)))
    ):
        expected = [values[i] for values in per_head]
        np.testing.assert_allclose([function(inputs[:, head]).mean() for head in range(4)], expected, rtol=1e-9)
        metric = metrics.resolve(name)
        metric.update(batch)
        estimate = metric.compute()
        np.testing.assert_allclose(estimate.value[:-1], expected, rtol=1e-9)
        assert estimate.value[-1] == pytest.approx(np.mean(expected))
        assert (estimate.low < estimate.value).all()
        assert (estimate.value < estimate.high).all()


def test_padding_is_left_out():
    batch = streams.attention(causal=False, padded=True)
    logits, valid = batch.call.logits(0, 70), batch.call.valid
    expected = by_rows(logits.transpose(1, 2)[valid])
    for name, value in zip(("score_variance", "min_probability"), expected, strict=True):
        metric = metrics.resolve(name)
        metric.update(batch)
        assert metric.compute().value[-1] == pytest.approx(value, rel=1e-9)


def test_a_shift_of_a_row_changes_nothing_even_where_it_is_large():
    logits = torch.randn(3, 5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(score_variance(logits + 1e4), score_variance(logits), rtol=1e-8, atol=0)


def test_queries_that_see_one_key_have_no_variance():
    lonely = torch.full((2, 2, 2), -torch.inf)
    lonely[..., 0] = 1
    assert score_variance(lonely).isnan().all()


def test_no_call_gives_a_reason():
    for name in ("score_variance", "min_probability"):
        estimate = metrics.resolve(name).compute()
        assert np.isnan(estimate.value).all()
        assert estimate.reason
