"""Attention weights that are changed between the softmax and the values."""

import pytest
import torch
from torch import nn

from dynamics.capture.probabilities import CHANGED
from dynamics.measure.measurement import measure

WIDTH, HEADS, LENGTH = 16, 4, 8
MASK = torch.arange(LENGTH) < torch.tensor([[8], [5], [6], [8], [3], [8], [7], [4], [8]])
IDS = torch.randint(0, 30, MASK.shape, generator=torch.Generator().manual_seed(0))
MIX = torch.eye(HEADS).roll(1, 0) / 2 + torch.eye(HEADS) / 2


def times_mask(weights, keep):
    weights = weights * keep
    return weights / weights.sum(-1, keepdim=True)


def times_mask_in_place(weights, keep):
    weights *= keep.float()
    return weights


def overwritten(weights, keep):
    weights[..., 0] = 0.5
    return weights


def heads_mixed(weights, keep):
    return torch.einsum("gh,bhqk->bgqk", MIX, weights)


def softmax_again(weights, keep):
    return (4 * weights).softmax(-1)


def sharpened(weights, keep):
    return weights.pow(2).masked_fill(~keep, 0)


def masked_again(weights, keep):
    weights = weights.masked_fill(~keep, 0)
    return nn.functional.dropout(weights / weights.sum(-1, keepdim=True), 0.5, training=False).to(torch.float32)


def hidden_queries_zero(weights, keep):
    return weights * keep.mT


def entropy_beside(weights, keep):
    (-weights * weights.clamp(min=1e-9).log()).sum(-1).mean()
    return weights


class Layer(nn.Module):
    def __init__(self, change, masks_before):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.change, self.masks_before = change, masks_before

    def forward(self, x, keep):
        query, key, value = (
            part(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        scores = query @ key.mT
        if self.masks_before:
            scores = scores.masked_fill(~keep, -1e9)
        self.weights = self.change(scores.softmax(-1), keep)
        return x + self.out((self.weights @ value).transpose(1, 2).flatten(2))


class Model(nn.Module):
    def __init__(self, change, masks_before):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(30, WIDTH)
        self.layers = nn.ModuleList(Layer(change, masks_before) for _ in range(2))

    def forward(self, ids, attention_mask):
        x = self.table(ids)
        for layer in self.layers:
            x = layer(x, attention_mask[:, None, None].bool())
        return x


def measured(change, masks_before):
    model = Model(change, masks_before).eval()
    result = measure(model, [{"ids": IDS, "attention_mask": MASK}], ["entropy", "mean_norm"])
    values = {row.layer: row.value for row in result.rows if (row.site, row.head) == ("attention", -1)}
    return model, values, result.missing


@pytest.mark.parametrize(
    ("change", "masks_before"),
    [
        (times_mask, False),
        (times_mask_in_place, False),
        (overwritten, True),
        (heads_mixed, True),
        (softmax_again, True),
        (sharpened, True),
    ],
)
def test_changed_weights_are_not_measured(change, masks_before):
    _, values, missing = measured(change, masks_before)
    assert all(value != value for value in values.values())  # NaN, or no row
    assert CHANGED in {part.reason for part in missing if part.metric == "entropy"}


@pytest.mark.parametrize("change", [masked_again, hidden_queries_zero, entropy_beside])
def test_weights_that_stay_what_they_were_are_measured(change):
    model, values, missing = measured(change, True)
    assert not missing
    for number, layer in enumerate(model.layers, start=1):
        weights = layer.weights[MASK[:, None].expand(-1, HEADS, -1)]
        entropy = -torch.xlogy(weights, weights).sum(-1).mean().item()
        assert values[number] == pytest.approx(entropy, rel=1e-5)
