"""Precision: what sums of squares are taken in, and what is only rounding."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor


def floating(x: Tensor) -> Float[Tensor, "..."]:
    """Return `x` in float32 or float64: half precision is no place to sum squares."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def precise(x: Tensor) -> torch.autocast:
    """Return a context in which products are taken in the precision of their factors."""
    return torch.autocast(x.device.type, enabled=False)


def self_product(x: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch d d"]:
    """Return x^T x over the last two axes."""
    width = x.shape[-1]
    with precise(x):
        if width < 128 or x.requires_grad or x.device.type != "cpu":
            return x.mT @ x
        product = x.new_empty(*x.shape[:-2], width, width)
        for start in range(0, width, step := -(-width // 8)):  # what is left of the diagonal mirrors what is right
            stop = start + step
            product[..., start:stop, start:] = x[..., start:stop].mT @ x[..., start:]
            product[..., stop:, start:stop] = product[..., start:stop, stop:].mT
        return product


def above_rounding(values: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
    """Return eigenvalues, descending, with those set to 0 that only the rounding of the decomposition makes differ."""
    return values.where(values > values.shape[-1] * torch.finfo(values.dtype).eps * values[..., :1], 0)


def unresolved(power: Float[Tensor, "*batch"], precision: torch.dtype) -> Float[Tensor, "*batch"]:
    """Return the variance below which rows of mean square `power` are equal up to the rounding of `precision`."""
    return power * (4 * torch.finfo(precision).eps) ** 2


def all_equal(x: Float[Tensor, "n d"]) -> bool:
    """Return whether states are equal up to their rounding."""
    return bool(about_mean(x).isnan().any()) if len(x) and x.isfinite().all() else False


def about_mean(x: Float[Tensor, "*batch n d"]) -> Float64[Tensor, "*batch n d"]:
    """Return states less their mean; NaN where they are equal up to their rounding."""
    mean = x.double().mean(-2, keepdim=True)
    centred = x.double() - mean
    floor = x.shape[-2] * unresolved(mean.square().sum((-2, -1)), floating(x).dtype)
    return centred.where((centred.square().sum((-2, -1)) > floor)[..., None, None], torch.nan)
