"""The covariance of states as a differentiable quantity, and how evenly it spreads its variance."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from dynamics.errors import InputError
from dynamics.metrics.streaming.arithmetic import floating, precise, self_product
from dynamics.metrics.streaming.ranks import counts_of_ranks, over_ranks


def mean_and_covariance(
    parts: Sequence[Float[Tensor, "_ d"]], of_all_ranks: bool = False
) -> tuple[int, Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Return the number, mean and unbiased covariance of the union of several sets of states.

    `parts`: states; gradients flow to them from the covariance, not from the mean. All in the precision of
    the states (float32 for half precision). With `of_all_ranks` the union is that of all ranks' states.

    Raises: InputError: fewer than two states.

    >>> mean_and_covariance([torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]])])
    (2, tensor([2., 0.]), tensor([[2., 0.], [0., 0.]]))
    """
    n, add = sum(len(x) for x in parts), over_ranks if of_all_ranks else lambda x: x
    if of_all_ranks:
        n = sum(of_rank for (of_rank,) in counts_of_ranks([n], parts[0].device))
    if n < 2:
        raise InputError(f"a covariance needs at least 2 states (got {n}): give longer or more sequences.")
    with torch.no_grad():
        mean = add(reduce(torch.add, [floating(x).sum(0) for x in parts])) / n
    return n, mean, add(_Scatter.apply(mean, *parts)) / (n - 1)


class _Scatter(torch.autograd.Function):
    """Sum of (x - mean)(x - mean)^T over all states: what depends on the mean cancels in its gradient.

    Keeps no centred copy, and spends one product on the way back where autograd would spend two.
    """

    @staticmethod
    def forward(ctx: Any, mean: Tensor, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(mean, *parts)
        return reduce(torch.add, [self_product(floating(x) - mean) for x in parts])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        mean, *parts = ctx.saved_tensors
        with precise(mean):
            both = gradient + gradient.mT
            return None, *(((floating(x) - mean) @ both).to(x.dtype) for x in parts)


def shrink(
    covariance: Float[Tensor, "d d"], reference: Float[Tensor, "d d"] | None, reference_weight: float
) -> Float[Tensor, "d d"]:
    """Return (1 - reference_weight) covariance + reference_weight reference; the covariance without a reference."""
    if reference is None:
        return covariance
    return (1 - reference_weight) * covariance + reference_weight * reference.to(covariance)


def evenness(covariance: Float[Tensor, "d d"]) -> Float[Tensor, ""]:
    """Return (PR - 1) / (d - 1), PR = tr(S)^2 / |S|_F^2: smooth wherever S is not 0; there it and its gradient are 0.

    >>> evenness(torch.eye(4)), evenness(torch.zeros(4, 4))
    (tensor(1.), tensor(0.))
    """
    # A constant factor changes nothing but keeps the squares of large and of tiny variances in range.
    scale = covariance.detach().trace()
    shares = covariance / scale.where(scale != 0, 1)
    power = shares.square().sum()
    ratio = (shares.trace().square() / power.where(power != 0, 1)).where(power != 0, 1)
    return (ratio - 1) / (covariance.shape[-1] - 1 or float("nan"))
