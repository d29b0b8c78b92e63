"""The base of the metrics that compare two representations of the same tokens by their covariances."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming.arithmetic import about_mean
from dynamics.metrics.streaming.moments import CrossMoments


def blocks(
    x: Float[Tensor, "*batch n d"], y: Float[Tensor, "*batch n e"]
) -> tuple[Float64[Tensor, "*batch d d"], Float64[Tensor, "*batch e d"], Float64[Tensor, "*batch e e"]]:
    """Return x^T x, y^T x and y^T y of the centred states."""
    x, y = about_mean(x), about_mean(y)
    return x.mT @ x, y.mT @ x, y.mT @ y


class Cross(CrossMoments):
    """A metric that is a smooth function of the two representations' joint covariance, whatever its scale."""

    refuses = "flat"

    @staticmethod
    def of_blocks(
        xx: Float[Tensor, "*batch d d"], yx: Float[Tensor, "*batch e d"], yy: Float[Tensor, "*batch e e"]
    ) -> Float[Tensor, "*batch"]:
        """Return the quantity for the covariances of x, of y with x, and of y."""
        raise NotImplementedError

    def value_and_influence(self, states: CrossMoments) -> tuple[Float64[Tensor, " heads"], Float64[Tensor, "w heads"]]:
        d = states.split
        with torch.inference_mode(False), torch.enable_grad():
            both = states.covariance.clone().requires_grad_()
            value = self.of_blocks(both[:, :d, :d], both[:, d:, :d], both[:, d:, d:])
            (slope,) = torch.autograd.grad(value.sum(), both)
        x, windows = states.sample
        z = x.double() - states.mean[:, None]
        along = (z @ slope * z).sum(-1) - (slope * states.covariance).sum((-2, -1))[:, None]
        return value.detach(), states.influence(along, windows)
