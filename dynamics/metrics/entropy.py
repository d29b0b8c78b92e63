"""Attention entropy: how widely a query looks."""

import torch
from torch import Tensor

from dynamics.metrics.accumulators import floating, precise
from dynamics.metrics.attention import CHUNK, AttentionStatistics, summarise
from dynamics.metrics.base import Estimate


def entropy(
    query: Tensor,
    key: Tensor,
    scaling: float | None = None,
    mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """The mean entropy of the attention distributions of a layer's queries, never forming the whole matrix.

    Formula: mean over queries of -sum_j p_j log p_j, p = softmax(scaling q.k + mask); by chunks of queries as
        log Z - sum_j e_j s_j / Z with s the logits less their maximum, e = exp(s), Z = sum_j e_j.
    Range: 0 (one key takes all) to log of the number of keys seen; nats.
    Source: Ghader and Monz (arXiv 1710.03348), equation 6; Zhai et al. (arXiv 2303.06296) for its collapse.
    Pitfalls: its ceiling grows with the keys seen, so that causal and bidirectional models, or lengths, compare
        by `normalized_entropy` only.
    Interval: variance of the ratio over windows, Student's t on the log scale.

    Args:
        query: shape (B, H, T, d_h), as it enters the dot product.
        key: shape (B, H, S, d_h).
        scaling: factor of the product; default 1 / sqrt(d_h).
        mask: added to the logits (float), or True where a query sees a key (bool); broadcasts to (B, H, T, S).
            Queries that see nothing are left out.
        is_causal: query i sees the keys 0..i only, on top of the mask.

    Returns:
        Shape (H,), float64, the mean over B and T.

    >>> entropy(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 8, 4)).exp()
    tensor([8.0000], dtype=torch.float64)
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    shape = (*query.shape[:-1], key.shape[-2])
    total = count = torch.zeros(query.shape[1], dtype=torch.float64, device=query.device)
    for start in range(0, query.shape[2], CHUNK):
        stop = min(start + CHUNK, query.shape[2])
        keys = min(stop, key.shape[2]) if is_causal else key.shape[2]
        with precise(query):
            logits = (floating(query[:, :, start:stop]) * scaling) @ floating(key[:, :, :keys]).mT
        if mask is not None:
            shown = mask.expand(shape)[:, :, start:stop, :keys]
            logits = logits.masked_fill_(~shown, -torch.inf) if mask.dtype == torch.bool else logits.add_(shown)
        if is_causal:
            at = torch.arange(stop, device=logits.device)
            logits.masked_fill_(at[:keys] > at[start:, None], -torch.inf)
        values, _, greatest = summarise(logits)
        used = greatest != -torch.inf
        total = total + values[0].where(used, 0).double().sum((0, 2))
        count = count + used.sum((0, 2))
    return total / count


class Entropy(AttentionStatistics):
    """Streams `entropy` over the queries that are not padding."""

    name = "entropy"

    def estimate(self, states: AttentionStatistics) -> Estimate:
        return states.mean_of("entropy", scale="log")
