"""Attention entropy: how widely a query looks."""

import torch
from torch import Tensor

from dynamics.metrics.arithmetic import floating, precise
from dynamics.metrics.attention import AttentionStatistics, chunks, summarise
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
    Source: Ghader and Monz (arXiv 1710.03348); Zhai et al. (arXiv 2303.06296) for its collapse.
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
    rows, heads, queries, keys = *query.shape[:3], key.shape[2]
    shown = None if mask is None else mask.expand(rows, heads, queries, keys)
    total = torch.zeros(heads, dtype=torch.float64, device=query.device)
    count = torch.zeros_like(total)
    for row in range(rows):
        for start, stop in chunks(queries, heads * keys):
            reach = min(stop, keys) if is_causal else keys
            with precise(query):
                logits = (floating(query[row, :, start:stop]) * scaling) @ floating(key[row, :, :reach]).mT
            if shown is not None:
                part = shown[row, :, start:stop, :reach]
                logits = (
                    logits.masked_fill_(~part, -torch.inf) if part.dtype == torch.bool else logits.add_(part)
                )
            if is_causal:
                at = torch.arange(stop, device=logits.device)
                logits.masked_fill_(at[:reach] > at[start:, None], -torch.inf)
            (values, _, _), (greatest,) = summarise(logits[None])
            used = greatest != -torch.inf
            total += values[0].where(used, 0).double().sum(-1)
            count += used.sum(-1)
    return total / count


class Entropy(AttentionStatistics):
    """Streams `entropy` over the queries that are not padding."""

    name = "entropy"

    def estimate(self, states: AttentionStatistics) -> Estimate:
        return states.mean_of("entropy", scale="log")
