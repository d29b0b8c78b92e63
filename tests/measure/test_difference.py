import copy

import numpy as np
import pytest
import torch

from dynamics.errors import InputError
from dynamics.measure import measure
from dynamics.measure.difference import differences
from dynamics.models.transformer import CharTransformerConfig, CharTransformerLM

METRICS = ["mean_norm", "isoscore", "qk_mean_cosine"]


def model():
    torch.manual_seed(3)
    config = CharTransformerConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=20
    )
    return CharTransformerLM(config).eval()


def moved(network, by=0.001):
    """A later step: every weight a little elsewhere."""
    later = copy.deepcopy(network)
    with torch.no_grad():
        for weight in later.parameters():
            weight += by * torch.randn_like(weight)
    return later


IDS = torch.randint(30, (24, 20), generator=torch.Generator().manual_seed(1))


def test_a_difference_is_known_better_than_its_parts():
    before = model()
    after = moved(before)
    rows = {row[4:8]: row for row in differences(after, before, {"input_ids": IDS}, METRICS, condition="less=before")}
    measured = [measure(m, {"input_ids": IDS}, METRICS).rows for m in (after, before)]
    for now, then in zip(*measured, strict=True):
        row = rows[now[4:8]]
        assert row.condition == "less=before"
        assert row.value == pytest.approx(now.value - then.value, abs=1e-9)
        assert row.windows == 24
        assert row.low <= row.value <= row.high
    widths = [(rows[now[4:8]].high - rows[now[4:8]].low) / (now.high - now.low) for now in measured[0]]
    assert np.median(widths) < 0.5


def test_layers_less_the_ones_before():
    network = model()
    rows = differences(network, None, {"input_ids": IDS}, ["mean_norm"])
    values = {
        row.layer: row.value
        for row in measure(network, {"input_ids": IDS}, ["mean_norm"]).rows
        if row.site == "residual"
    }
    residual = [row for row in rows if row.site == "residual"]
    assert [row.layer for row in residual] == [1, 2]
    for row in residual:
        assert row.value == pytest.approx(values[row.layer] - values[row.layer - 1])


def test_what_has_no_paired_interval_is_refused():
    with pytest.raises(InputError, match="intrinsic_dimension"):
        differences(model(), None, {"input_ids": IDS}, ["intrinsic_dimension"])
