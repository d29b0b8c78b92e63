"""The base of the metrics that compare two representations of the same tokens by their covariances."""

from typing import ClassVar

import torch
from torch import Tensor

from dynamics.metrics.streaming.accumulators import CrossMoments
from dynamics.metrics.streaming.arithmetic import about_mean
from dynamics.metrics.streaming.base import Estimate, undefined
from dynamics.metrics.streaming.intervals import estimate

Blocks = tuple[Tensor, Tensor, Tensor]


def blocks(x: Tensor, y: Tensor) -> Blocks:
    """x^T x (..., d, d), y^T x (..., e, d) and y^T y (..., e, e) of centred states (..., n, d) and (..., n, e)."""
    x, y = about_mean(x), about_mean(y)
    return x.mT @ x, y.mT @ x, y.mT @ y


class Cross(CrossMoments):
    """A metric that is a smooth function of the two representations' joint covariance, whatever its scale.

    Interval: by the delta method, from each window's influence on that covariance.
    """

    scale: ClassVar[str] = "logit"

    @staticmethod
    def of_blocks(xx: Tensor, yx: Tensor, yy: Tensor) -> Tensor:
        """The quantity (...) for the covariances x x (..., d, d), y x (..., e, d) and y y (..., e, e)."""
        raise NotImplementedError

    def estimate(self, states: CrossMoments) -> Estimate:
        if states.flat:
            return undefined(states.heads, states.n, states.flat)
        d = states.split
        with torch.inference_mode(False), torch.enable_grad():
            both = states.covariance.clone().requires_grad_()
            value = self.of_blocks(both[:, :d, :d], both[:, d:, :d], both[:, d:, d:])
            (slope,) = torch.autograd.grad(value.sum(), both)
        x, windows = states.sample
        z = x.double() - states.mean[:, None]
        along = (z @ slope * z).sum(-1) - (slope * states.covariance).sum((-2, -1))[:, None]
        return estimate(
            value.detach(),
            states.n,
            influence=states.influence(along, windows),
            windows=int(states.windows),
            scale=self.scale,
        )
