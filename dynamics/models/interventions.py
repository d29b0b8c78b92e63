"""What may take the place of softmax attention: one intervention each on how `CharTransformer` mixes its tokens.

Every kind has the same parameters, so that twins start from equal weights; those that it does not use are frozen:
weight decay would shrink them, which would look like learning. What a position sees is decided by the mask and the
padding alone, whatever the kind.

- `softmax`: p_ij over the seen keys, of q_i k_j / sqrt(K) (Vaswani et al., arXiv 1706.03762).
- `uniform`: the mean of the seen values. Queries and keys are zero; their projections are frozen.
- `centered`: softmax of (q_i - mean of the queries that i sees) (k_j - mean key). A vector that all queries, or all
  keys, have in common changes nothing. The mean key is that of the whole window, also of a causal model: softmax takes
  no notice of it. The mean query may not be: it would tell a position what follows. A query that sees itself alone
  has no choice, and stays as it is.
- `cosine`: softmax of sqrt(K) cos(q_i, k_j), what RMS norms without gains make of it: the norms of queries and keys
  cannot sharpen it (Henry et al., arXiv 2010.04245; Dehghani et al., arXiv 2302.05442; no scale is learned here).
- `sigmoid`: w_ij = sigmoid(q_i k_j / sqrt(K) - log n_i), n_i the number of keys that i sees: keys do not compete
  (Ramapuram et al., arXiv 2409.04431, where n is the length of the sequence, which padding would change).
- `none`: the branch is left out: tokens do not mix. All its parameters are frozen.

Shapes: B batch, H heads, T tokens, K head width.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

KINDS = ("softmax", "uniform", "centered", "cosine", "sigmoid", "none")
UNUSED = {"uniform": ("q_proj", "k_proj", "q_norm", "k_norm"), "none": ("",)}  # modules of the attention, "": it whole

Heads = Float[Tensor, "B H T K"]
Real = Bool[Tensor, "B T"] | None  # which tokens are no padding; None: all


def freeze(attention: nn.Module, kind: str) -> None:
    """Freeze the parameters of an attention that its kind does not use."""
    for name in UNUSED.get(kind, ()):
        attention.get_submodule(name).requires_grad_(False)


def changed(kind: str, query: Heads, key: Heads, real: Real, is_causal: bool) -> tuple[Heads, Heads]:
    """Return the queries and keys of a softmax, or of a sigmoid, as they enter their product."""
    if kind == "uniform":
        zeros = torch.zeros_like(query)
        return zeros, zeros
    if kind == "cosine":
        return _unit(query), _unit(key)
    if kind == "centered":
        return query - _seen_mean(query, real, is_causal), key - _seen_mean(key, real, is_causal=False)
    return query, key


def _unit(x: Heads) -> Heads:
    return nn.functional.normalize(x, dim=-1).to(x.dtype)  # autocast takes norms in float32


def _seen_mean(x: Heads, real: Real, is_causal: bool) -> Float[Tensor, "B H rows K"]:
    """Return the mean of the real tokens up to each position (T rows), or of all (1 row); 0 where that is of one."""
    if real is not None:
        x = x * real[:, None, :, None]
    ones = x.new_ones(x.shape[-2], x.shape[-2])
    sees = ones.tril() if is_causal else ones[:1]
    number = sees.sum(-1, keepdim=True) if real is None else sees @ real[:, None, :, None].to(x.dtype)
    return (sees @ x / number.clamp(min=1)).where(number > 1, 0).to(x.dtype)  # of none, 0 / 0 would have a gradient


def sigmoid_attention(
    query: Heads, key: Heads, value: Heads, scaling: float, real: Real, is_causal: bool, dropout: float = 0.0
) -> Float[Tensor, "B T H K"]:
    """Return the sums of the values that each position sees, weighted by a sigmoid; `dropout` is of the weights."""
    tokens = query.shape[-2]
    sees = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device)
    sees = sees.tril() if is_causal else sees
    if real is not None:
        sees = sees & real[:, None, None, :]
    number = sees.sum(-1, keepdim=True).clamp(min=1)
    logits = query @ key.mT * scaling - number.log()
    weights = logits.masked_fill(~sees, -torch.inf).sigmoid()
    if dropout:
        weights = nn.functional.dropout(weights, dropout)
    return (weights.to(value.dtype) @ value).transpose(1, 2)
