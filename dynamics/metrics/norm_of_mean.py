from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming import HEAD_SITES, STATE_SITES, Sums


def norm_of_mean(x: Float[Tensor, "*batch n d"]) -> Float64[Tensor, "*batch"]:
    """Return the Euclidean norm of the mean state.

    Formula: |sum_i x_i| / n.
    Pitfalls: of n isotropic states with mean 0 and variance v a coordinate it is about sqrt(v d / n), not 0. Rotary
        positions average a mean away. The norm of the mean key is a gauge freedom of softmax.
    Interval: windows' influence functions, Student's t on the log scale; misleading where the mean is within noise of
        0.

    In the unit of the states. NaN without states or where one is not finite.
    >>> norm_of_mean(Tensor([[3.0, 0.0], [3.0, 8.0]]))
    tensor(5., dtype=torch.float64)
    """
    value = x.double().mean(-2).norm(dim=-1)
    return value.where(value.isfinite(), float("nan"))


class NormOfMean(Sums):
    """How far the whole cloud lies from the origin."""

    title = "norm of the mean"
    range = (0, None)
    wide = True
    estimator = "‖mean of the states‖, not centred"
    source = "Godey, de la Clergerie and Sagot (arXiv 2401.12143): the drift of the mean"
    default_sites = dict.fromkeys(STATE_SITES, 11) | dict.fromkeys(HEAD_SITES, 1)

    def value_and_influence(self, states: Sums) -> tuple[Float64[Tensor, " heads"], Float64[Tensor, "w heads"]]:
        mean = states.mean[:, : states.width]
        value = mean.norm(dim=-1)
        return value, (states.deviations[..., : states.width] * mean).sum(-1) / value
