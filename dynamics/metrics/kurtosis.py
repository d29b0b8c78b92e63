from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming import STATE_SITES, Moments
from dynamics.metrics.streaming.transfer import sent


def kurtosis(x: Float[Tensor, "*batch n d"]) -> Float64[Tensor, "*batch"]:
    """Return the kurtosis of the coordinates' root mean squares.

    Formula: mean_j(s_j^4) / mean_j(s_j^2)^2, s_j^2 = mean over states of x_ij^2, j = 1..d; at most d.
    Pitfalls: not rotation-invariant, by design: it asks about the coordinate axes. Not centred.

    NaN for fewer than two states, zero states, or states that are not finite.
    >>> kurtosis(Tensor([[1.0, 1.0, 1.0, 1.0]] * 2)), kurtosis(Tensor([[0.0, 5.0, 0.0, 0.0]] * 2))
    (tensor(1., dtype=torch.float64), tensor(4., dtype=torch.float64))
    """
    squares = x.double().square().mean(-2)
    return squares.square().mean(-1) / squares.mean(-1).square() * (1 if x.shape[-2] > 1 else float("nan"))


class Kurtosis(Moments):
    """1 where all coordinates are alike; high where a few are outliers."""

    title = "kurtosis of the neurons"
    range = (1, None)
    wide = True
    tail = 2.0
    estimator = "mean(s⁴) / mean(s²)² over the root mean squares s of the coordinates, not centred"
    source = "He et al., Understanding and Minimising Outlier Features (arXiv 2405.19279)"
    heads_apart = True
    default_sites = dict.fromkeys(STATE_SITES, 7)

    def value_and_influence(self, states: Moments) -> tuple[Float64[Tensor, " heads"], Float64[Tensor, "w heads"]]:
        squares = states.covariance.diagonal(dim1=-2, dim2=-1) + states.mean.square()
        value = squares.square().mean(-1) / squares.mean(-1).square()
        slope = 2 * (squares / squares.mean(-1, keepdim=True) - value[:, None]) / squares.sum(-1, keepdim=True)
        x, windows = states.sample
        along = ((x.double().square() - sent(squares[:, None], x.device)) @ sent(slope[..., None], x.device))[..., 0]
        return value, states.influence(along, windows)
