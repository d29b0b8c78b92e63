"""Streams of states and attention calls to measure, and ways to cut them."""

import math

import torch

from dynamics.metrics.streaming.base import Attention, States, Weights


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def clustered(windows=12, tokens=20, heads=1, width=8, seed=0, dtype=torch.float64):
    """States with a mean, unequal variances and dependence within windows: (n, heads, d) and window ids."""
    g = generator(seed)
    scale = torch.linspace(1, 0.2, width, dtype=torch.float64)
    common = torch.randn(windows, 1, heads, width, generator=g, dtype=torch.float64) * scale
    independent = torch.randn(windows, tokens, heads, width, generator=g, dtype=torch.float64) * scale
    x = (0.6 * common + independent + 0.5).flatten(0, 1).to(dtype)
    return States(x, torch.arange(windows).repeat_interleave(tokens))


class Call:
    """An attention call as the capture hands it over, kept as simple as possible."""

    def __init__(self, query, key, valid=None, causal=True):
        self.query, self.key, self.causal = query, key, causal
        self.scaling = query.shape[-1] ** -0.5
        self.valid = torch.ones(query.shape[0], query.shape[2], dtype=torch.bool) if valid is None else valid

    def reach(self, stop):
        return min(stop, self.key.shape[2]) if self.causal else self.key.shape[2]

    def logits(self, start, stop, keys=None):
        key = self.key.repeat_interleave(self.query.shape[1] // self.key.shape[1], dim=1)
        logits = self.query[:, :, start:stop] * self.scaling @ key.mT
        if key.shape[2] == self.valid.shape[1]:
            logits = logits.masked_fill(~self.valid[:, None, None], -torch.inf)
        if self.causal:
            hidden = torch.ones(self.query.shape[2], key.shape[2], dtype=torch.bool).triu(1)
            logits = logits.masked_fill(hidden[start:stop], -torch.inf)
        return logits[..., :keys].clone()

    def probabilities(self):
        """The full matrix, in float64."""
        return self.logits(0, self.query.shape[2]).double().softmax(-1)


def attention(windows=9, heads=4, key_heads=2, tokens=70, width=8, seed=0, causal=True, padded=True):
    """A call whose windows differ, with padding on the right of every second row."""
    g = generator(seed)
    bias = torch.linspace(-0.5, 1.5, width, dtype=torch.float64)
    shift = torch.randn(windows, 1, 1, width, generator=g, dtype=torch.float64)
    query = torch.randn(windows, heads, tokens, width, generator=g, dtype=torch.float64) + bias + 0.3 * shift
    key = torch.randn(windows, key_heads, tokens, width, generator=g, dtype=torch.float64) + 0.5
    valid = torch.ones(windows, tokens, dtype=torch.bool)
    if padded:
        valid[::2, tokens - 9 :] = False
    return Attention(Call(query, key, valid, causal), torch.arange(windows))


def weights(heads=3, head_width=4, width=12, seed=0):
    g = generator(seed)
    return Weights(*torch.randn(2, heads, head_width, width, generator=g, dtype=torch.float64))


def cut(batch, rows):
    """The part of a batch that `rows` selects: tokens of states, windows of attention."""
    if isinstance(batch, States):
        return States(batch.x[rows], batch.windows[rows])
    call = batch.call
    return Attention(Call(call.query[rows], call.key[rows], call.valid[rows], call.causal), batch.windows[rows])


def by_windows(batch, groups):
    """The batch cut into batches of whole windows, by lists of window ids."""
    return [cut(batch, torch.isin(batch.windows, torch.tensor(group))) for group in groups]


def rotation(width, seed=0):
    matrix = torch.randn(width, width, generator=generator(seed), dtype=torch.float64)
    return torch.linalg.qr(matrix).Q


def close(a, b, tolerance=1e-9):
    return math.isclose(float(a), float(b), rel_tol=tolerance, abs_tol=tolerance)
