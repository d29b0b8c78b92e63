import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

from dynamics.metrics.streaming import AttentionStatistics
from dynamics.metrics.streaming.arithmetic import floating, precise
from dynamics.metrics.streaming.attention import attend, chunks


@torch.no_grad()
def entropy(
    query: Float[Tensor, "B H T d_h"],
    key: Float[Tensor, "B H S d_h"],
    scaling: float | None = None,
    mask: Shaped[Tensor, "..."] | None = None,
    is_causal: bool = False,
) -> Float64[Tensor, " H"]:
    """Return the mean entropy of the attention distributions of a layer's queries, never forming the whole matrix.

    Formula: mean over queries of -sum_j p_j log p_j, p = softmax(scaling q.k + mask); by chunks of queries as log Z -
        sum_j e_j s_j / Z with s the logits less their maximum, e = exp(s), Z = sum_j e_j.
    Pitfalls: its ceiling is the log of the number of keys seen, so that causal and bidirectional models, or lengths,
        compare by `normalized_entropy` only. A sink that is no key (gpt_oss: one more logit in each softmax) takes
        probability, and the sum is over the keys alone: the entropy of the weights that the model uses.

    Args:
        query: as it enters the dot product.
        scaling: factor of the product; default 1 / sqrt(d_h).
        mask: added to the logits (float), or True where a query sees a key (bool); broadcasts to (B, H, T, S). Queries
            that see nothing are left out.
        is_causal: query i sees the keys 0..i only, on top of the mask.

    >>> entropy(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 8, 4)).exp()
    tensor([8.0000], dtype=torch.float64)
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    rows, heads, queries, keys = *query.shape[:3], key.shape[2]
    query, key = floating(query), floating(key)
    if mask is not None:
        mask = mask[(None,) * (4 - mask.ndim)].expand(rows, -1, -1, -1)
    total = torch.zeros(heads, dtype=torch.float64, device=query.device)
    count = torch.zeros_like(total)
    ranges = list(chunks(queries, heads * keys, most=128 if is_causal else 512))
    size = ranges[0][1]
    later = query.new_full((size, size), -torch.inf).triu(1)
    # Used again and again: memory that is new costs more than the arithmetic.
    room = query.new_empty(2, heads * size * keys)
    for row in range(rows):
        for start, stop in ranges:
            reach = min(stop, keys) if is_causal else keys
            logits, p = room[:, : heads * (stop - start) * reach].view(2, heads, stop - start, reach)
            with precise(query):
                product = query[row, :, start:stop], key[row, :, :reach].mT
                torch.baddbmm(logits, *product, beta=0, alpha=scaling, out=logits)
            if mask is not None:
                logits += _bias(mask[row], start, stop, reach, logits.dtype)
            if is_causal and start < reach:
                logits[:, :, start:] += later[: stop - start, : reach - start]
            values, _, greatest, _ = attend(logits, out=p)
            used = greatest != -torch.inf
            total += values.where(used, 0).double().sum(-1)
            count += used.sum(-1)
    return total / count


def _bias(mask: Tensor, start: int, stop: int, reach: int, dtype: torch.dtype) -> Float[Tensor, "H c keys"]:
    """Return what a row's mask, any axis of which may be 1, adds to the logits of some queries."""
    if mask.shape[1] > 1:
        mask = mask[:, start:stop]
    if mask.shape[2] > 1:
        mask = mask[..., :reach]
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)


class Entropy(AttentionStatistics):
    """Low: sharp attention; high: spread over many keys."""

    title = "attention entropy"
    unit = "nats"
    range = (0, None)
    estimator = "entropy of each attention row, mean over queries"
    source = "Ghader and Monz (arXiv 1710.03348); Zhai et al. (arXiv 2303.06296) for its collapse"
    default_sites = {"attention": 3}
