"""Precision: what sums of squares are taken in, and what is only rounding."""

import torch
from torch import Tensor


def floating(x: Tensor) -> Tensor:
    """`x` in float32 or float64: half precision is no place to sum squares."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def precise(x: Tensor) -> torch.autocast:
    """A context in which products are taken in the precision of their factors."""
    return torch.autocast(x.device.type, enabled=False)


def self_product(x: Tensor) -> Tensor:
    """x^T x over the last two axes, (..., n, d) -> (..., d, d)."""
    if x.ndim == 3 and len(x) == 1:
        return self_product(x[0])[None]
    if x.device.type == "cpu" and x.ndim == 2 and not x.requires_grad:
        columns = x.numpy()
        return torch.from_numpy(columns.T @ columns)  # numpy sees the symmetry (syrk): half the work
    with precise(x):
        return x.mT @ x


def above_rounding(values: Tensor) -> Tensor:
    """Eigenvalues, descending, with those set to 0 that are 0 but for the rounding of the decomposition."""
    return values.where(values > values.shape[-1] * torch.finfo(values.dtype).eps * values[..., :1], 0)


def unresolved(power: Tensor, precision: torch.dtype) -> Tensor:
    """Variance below which rows of mean square `power` are equal up to the rounding of `precision`."""
    return power * (4 * torch.finfo(precision).eps) ** 2


def about_mean(x: Tensor) -> Tensor:
    """States (..., n, d) less their mean, in float64; NaN where they are equal up to their rounding."""
    mean = x.double().mean(-2, keepdim=True)
    centred = x.double() - mean
    floor = x.shape[-2] * unresolved(mean.square().sum((-2, -1)), floating(x).dtype)
    return centred.where((centred.square().sum((-2, -1)) > floor)[..., None, None], torch.nan)
