from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming import STATE_SITES, Sums


def mean_norm(x: Float[Tensor, "*batch n d"]) -> Float64[Tensor, "*batch"]:
    """Return the mean Euclidean norm of the states.

    Formula: sum_i |x_i| / n.
    Pitfalls: residual streams grow with depth, so compare ratios across layers, not norms.

    In the unit of the states. NaN without states or where one is not finite.
    >>> mean_norm(Tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor(3., dtype=torch.float64)
    """
    value = x.double().norm(dim=-1).mean(-1)
    return value.where(value.isfinite(), float("nan"))


class MeanNorm(Sums):
    """Mean length of a state."""

    range = (0, None)
    wide = True
    estimator = "mean of ‖x‖, not centred"
    source = "Godey, de la Clergerie and Sagot (arXiv 2401.12143): the size that the drift is compared with"
    default_sites = dict.fromkeys(STATE_SITES, 10)

    def value_and_influence(self, states: Sums) -> tuple[Float64[Tensor, " heads"], Float64[Tensor, "w heads"]]:
        return states.mean[:, -1], states.deviations[..., -1]
