"""Attention in one call, as `ScoreWatch` hears it: its arguments as `Scores`."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

_SDPA = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
_MULTIHEAD = inspect.signature(F.multi_head_attention_forward)

# Logits (B, H, queries, keys) of a range of queries and the first of it -> logits: what `flex_attention` does to them.
Change = Callable[[Float[Tensor, "B H rows keys"], int], Float[Tensor, "B H rows keys"]]


class Scores(NamedTuple):
    """What makes the scores of one attention, as the model handed it over.

    `mask` is boolean (true = visible) or additive and broadcasts to (..., T, S); None where the model computes its
    own masked `logits`, the input of its softmax, or changes the scores by a function. `sinks` are columns of the
    softmax that are no keys. Without `is_softmax` each weight is the sigmoid of its logit. `value` is None where the
    model weights its values in a product of its own.
    """

    query: Float[Tensor, "*lead T d"]
    key: Float[Tensor, "*lead_kv S d"]
    scaling: float
    mask: Shaped[Tensor, "..."] | None = None
    is_causal: bool = False
    logits: Float[Tensor, "*lead T S"] | None = None
    sinks: Float[Tensor, "*lead T columns"] | None = None
    change: Change | None = None
    is_softmax: bool = True
    value: Float[Tensor, "*lead_kv S v"] | None = None


def of_sdpa(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Scores:
    """Return the scores of `F.scaled_dot_product_attention`."""
    call = {**dict(zip(_SDPA, args, strict=False)), **kwargs}
    query, scale = call["query"], call.get("scale")
    scaling = query.shape[-1] ** -0.5 if scale is None else float(scale)
    is_causal = bool(call.get("is_causal", False))
    return Scores(query, call["key"], scaling, call.get("attn_mask"), is_causal, value=call["value"])


def of_flex(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Scores:
    """Return the scores of the operator behind `flex_attention`; the last entry of its block mask is a function."""
    query, key, value, score_mod, block_mask, scale = args[:6]
    return Scores(query, key, float(scale), change=partial(_flex, score_mod, block_mask[-1]), value=value)


def _flex(score_mod: Any, mask_mod: Any, logits: Float[Tensor, "B H c S"], start: int) -> Float[Tensor, "B H c S"]:
    """Return what the functions of `flex_attention`, which take one score and its place, make of the logits."""
    places = [torch.arange(size, device=logits.device) for size in logits.shape]
    places[2] += start

    def changed(score: Tensor, *place: Tensor) -> Tensor:
        return torch.where(mask_mod(*place), score_mod(score, *place), -torch.inf)

    for axis in (3, 2, 1, 0):
        changed = torch.vmap(changed, (0, *(0 if other == axis else None for other in range(4))))
    return changed(logits, *places)


def of_multihead(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Scores:
    """Return what enters `torch.nn.MultiheadAttention`, projected once more: its own projections are out of reach.

    A key made of `bias_k`, or of zeros, comes from no token: it is a sink.
    """
    bound = _MULTIHEAD.bind(*args, **kwargs)
    bound.apply_defaults()
    call = bound.arguments
    inputs = [call[name] if call[name].ndim == 3 else call[name][:, None] for name in ("query", "key", "value")]
    heads, bias = call["num_heads"], call["in_proj_bias"]
    if call["use_separate_proj_weight"]:
        weights = [call[f"{part}_proj_weight"] for part in "qkv"]
    else:
        weights = call["in_proj_weight"].chunk(3)
    query, key, value = (
        F.linear(x, weight, shift).unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)
        for x, weight, shift in zip(inputs, weights, (None,) * 3 if bias is None else bias.chunk(3), strict=True)
    )
    mask = _additive(call["attn_mask"], query)
    if mask is not None and mask.ndim == 3:
        mask = mask.unflatten(0, (-1, heads))
    padding = _additive(call["key_padding_mask"], query)
    if padding is not None:
        padding = padding.reshape(-1, 1, 1, padding.shape[-1])
        mask = padding if mask is None else mask + padding
    scaling = query.shape[-1] ** -0.5
    sinks = []
    if call["bias_k"] is not None:
        sinks.append(query @ call["bias_k"].reshape(heads, -1, 1) * scaling)
    if call["add_zero_attn"]:
        sinks.append(torch.zeros_like(query[..., :1]))
    return Scores(query, key, scaling, mask, sinks=torch.cat(sinks, -1) if sinks else None, value=value)


def _additive(hidden: Shaped[Tensor, "..."] | None, like: Tensor) -> Shaped[Tensor, "..."] | None:
    """Return a mask of torch's, whose boolean ones say what is hidden, as an additive one."""
    if hidden is None or hidden.dtype != torch.bool:
        return hidden
    return torch.zeros_like(hidden, dtype=like.dtype).masked_fill_(hidden, -torch.inf)
