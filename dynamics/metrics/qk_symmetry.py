from collections.abc import Hashable
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming import Estimate, Metric, Weights, undefined


def qk_symmetry(query: Float[Tensor, "*heads d_h d"], key: Float[Tensor, "*heads d_h d"]) -> Float64[Tensor, "*heads"]:
    """Return how symmetric the bilinear form of a head's query and key projections is.

    Formula: tr(M M) / |M|_F^2, M = W_q^T W_k (the paper's W_q W_k^T in its layout); never formed: tr(M M) = tr(A A), A
        = W_k W_q^T, and |M|_F^2 = <W_q W_q^T, W_k W_k^T>.
    Pitfalls: of the weights alone: biases, rotary positions and norms between the projection and the product do not
        count. A layer's score is that of the sum of its heads' forms (all heads as one), not the mean of theirs.
    Interval: the value itself, for nothing is sampled.

    `query`: W_q, so that q = W_q x. NaN for zero weights.
    >>> w = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    >>> qk_symmetry(w, w), qk_symmetry(w, torch.tensor([[0.0, 1.0], [-1.0, -2.0]]))
    (tensor(1., dtype=torch.float64), tensor(-1., dtype=torch.float64))
    """
    query, key = query.double(), key.double()
    crossed = key @ query.mT
    square = (query @ query.mT * (key @ key.mT)).sum((-2, -1))
    return (crossed * crossed.mT).sum((-2, -1)) / square


class QkSymmetry(Metric):
    """1: symmetric; -1: antisymmetric; 0: neither (random weights)."""

    title = "symmetry of W_q W_kᵀ"
    range = (-1, 1)
    estimator = "tr(M M) / ‖M‖² with M = W_q W_kᵀ; a layer's M sums its heads'; weights alone, no data"
    source = "symmetry score of Saponati et al., The underlying structures of self-attention (arXiv 2502.10927)"
    default_sites = {"weight": 1}
    sites = ("weight",)
    heads_at: ClassVar = {"scores": 0}

    def __init__(self) -> None:
        super().__init__()
        # every rank holds the same weights, and the maximum of equals is exact
        self.add_state("scores", torch.full((), torch.nan, dtype=torch.float64), dist_reduce_fx="max")

    @property
    def accumulator(self) -> Hashable:
        return QkSymmetry

    def update(self, batch: Weights) -> None:
        query, key = (x.unflatten(0, (self.layers, -1)) for x in batch)
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        heads = qk_symmetry(query, key)
        together = qk_symmetry(query.flatten(1, 2), key.flatten(1, 2))
        self.scores = (torch.cat([heads, together[:, None]], dim=1) if heads.shape[1] > 1 else heads).flatten()

    def estimate(self, states: "QkSymmetry") -> Estimate:
        if not states.scores.ndim:
            return undefined(1, 0, "no weights were seen")
        value = states.scores.cpu().numpy()
        reason = "" if np.isfinite(value).all() else "the weights are zero or not finite"
        return Estimate(value, value, value, 1, reason)
