"""Linearity: how well one layer's states are a linear map of another's."""

import torch
from torch import Tensor

from dynamics.metrics.accumulators import CrossMoments
from dynamics.metrics.arithmetic import about_mean
from dynamics.metrics.base import Estimate, undefined
from dynamics.metrics.intervals import estimate


def procrustes_linearity(x: Tensor, y: Tensor) -> Tensor:
    """The share of the variance of y that the best linear map of x explains.

    Formula: 1 - min_A |x A - y|_F^2, both centred and divided by their Frobenius norm; that is
        tr(y^T x (x^T x)^+ x^T y) / tr(y^T y).
    Range: 0 to 1 (y is linear in x); no unit.
    Source: Razzhigaev et al., Your Transformer is Secretly Linear (arXiv 2405.12250): the
        generalised Procrustes similarity, A any matrix.
    Pitfalls: 1 for any y when n <= d + 1: use far more tokens than the width. The residual stream alone makes
        it near 1 between neighbouring layers; of y - x it says what the block adds.
    Interval: none is known here.

    Args:
        x: shape (..., n, d).
        y: shape (..., n, e), of the same tokens.

    Returns:
        Shape (...), float64. NaN for fewer than two tokens, or where all of y or of x are equal.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 5.0], [3.0, 1.0]])
    >>> procrustes_linearity(x, x @ torch.tensor([[1.0], [2.0]]) + 7)
    tensor(1.0000, dtype=torch.float64)
    """
    x, y = about_mean(x), about_mean(y)
    return _of_blocks(x.mT @ x, y.mT @ x, y.mT @ y)


def _of_blocks(xx: Tensor, yx: Tensor, yy: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(xx.nan_to_num())
    floor = values[..., -1:] * values.shape[-1] * torch.finfo(values.dtype).eps
    along = (yx @ vectors).square().sum(-2) / values
    explained = along.where(values > floor, 0).sum(-1)
    share = explained / yy.diagonal(dim1=-2, dim2=-1).sum(-1)
    return share.where(values[..., -1] > 0, torch.nan)


class ProcrustesLinearity(CrossMoments):
    """Streams `procrustes_linearity` of pairs."""

    name = "procrustes_linearity"

    def estimate(self, states: CrossMoments) -> Estimate:
        if states.flat:
            return undefined(states.heads, states.n, states.flat)
        return estimate(_of_blocks(*states.blocks), states.n)
