"""Eigenvalues of the covariance of states, and the base of the metrics that are functions of them."""

from typing import ClassVar

import torch
from torch import Tensor

from dynamics.metrics.accumulators import Moments, above_rounding, floating, precise, unresolved
from dynamics.metrics.base import Estimate, undefined
from dynamics.metrics.intervals import estimate


def gram(x: Tensor, centered: bool = True, precision: torch.dtype | None = None) -> Tensor:
    """The smaller Gram matrix of `x` (..., n, d) about its mean: x^T x (d <= n) or x x^T (d > n), float64.

    The product is taken in `precision` (default: that of x). NaN where a state is not finite, where there are
    fewer than two of them, or where all are equal.
    """
    x = floating(x)
    mean = x.mean(-2, keepdim=True, dtype=torch.float64) * centered
    tf32 = torch.get_float32_matmul_precision() != "highest"
    centred = (x - mean).to(precision or (torch.float64 if tf32 else x.dtype))
    n, d = x.shape[-2:]
    with precise(x):
        product = (centred.mT @ centred if n >= d else centred @ centred.mT).double()
    power = product.diagonal(dim1=-2, dim2=-1).sum(-1)
    floor = n * unresolved(mean.square().sum((-2, -1)), x.dtype)
    sound = product.isfinite().all(-1).all(-1) & (power > floor) & (n > 1)
    return product.where(sound[..., None, None], torch.nan)


def eigenvalues(x: Tensor, centered: bool = True, precision: torch.dtype | None = torch.float64) -> Tensor:
    """Eigenvalues of the `gram` matrix (squared singular values of x), descending, (..., min(n, d)), float64.

    >>> eigenvalues(torch.diag(torch.tensor([2.0, 10.0, 1.0])), centered=False)
    tensor([100.,   4.,   1.], dtype=torch.float64)
    """
    if not x.shape[-2]:
        return x.new_full((*x.shape[:-2], 1), torch.nan, dtype=torch.float64)
    matrix = gram(x, centered, precision)
    values = above_rounding(torch.linalg.eigvalsh(matrix.nan_to_num()).flip(-1))
    return values.where(matrix.isfinite().all(-1).all(-1)[..., None], torch.nan)


class Spectral(Moments):
    """A metric that is a smooth function of the covariance's eigenvalues, unchanged when they are all scaled.

    Interval: by the delta method, from each window's influence on every eigenvalue.
    """

    centered: ClassVar[bool] = True
    scale: ClassVar[str]

    @staticmethod
    def of_eigenvalues(values: Tensor) -> Tensor:
        """The quantity (...) for eigenvalues (..., d), descending."""
        raise NotImplementedError

    def estimate(self, states: Moments) -> Estimate:
        if states.trouble:
            return undefined(states.heads, states.n, states.trouble)
        values, influence = states.spectrum if self.centered else states.spectrum_uncentered
        with torch.inference_mode(False), torch.enable_grad():
            values = values.clone().requires_grad_()
            value = self.of_eigenvalues(values)
            (slope,) = torch.autograd.grad(value.sum(), values)
        return estimate(
            value.detach(),
            states.n,
            influence=(influence * slope.nan_to_num(posinf=0, neginf=0)).sum(-1),
            windows=int(states.windows),
            scale=self.scale,
        )
