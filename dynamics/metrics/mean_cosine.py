from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming import HEAD_SITES, STATE_SITES, Sums


def mean_cosine(x: Float[Tensor, "*batch n d"]) -> Float64[Tensor, "*batch"]:
    """Return the mean cosine similarity over all pairs of different states, exactly, without forming the pairs.

    Formula: (|sum_i u_i|^2 - n) / (n (n - 1)), u_i = x_i / |x_i|.
    Pitfalls: it sees the mean's drift above all: under x + b with x ~ N(0, I) it is |b|^2 / (|b|^2 + d). Pairs of one
        window count (`mean_cosine_across_windows` leaves them out). It is at least -1 / (n - 1).

    NaN for fewer than two states or where a state is zero or not finite.
    >>> mean_cosine(Tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]))
    tensor(0.3333, dtype=torch.float64)
    """
    x = x.double()
    n = x.shape[-2]
    total = (x / x.norm(dim=-1, keepdim=True)).sum(-2)
    return (total.square().sum(-1) - n) / (n * (n - 1) or float("nan"))


class MeanCosine(Sums):
    """Cosine between two states taken at random: 0 in all directions alike, 1 in a narrow cone."""

    range = (-1, 1)
    estimator = "closed form over all pairs of different tokens, not centred"
    source = "Godey, de la Clergerie and Sagot (arXiv 2401.12143); Ethayarajh (arXiv 1909.00512)"
    default_sites = dict.fromkeys(STATE_SITES, 8) | dict.fromkeys(HEAD_SITES, 3)
    nan_reason = "a state is zero: it has no direction"

    def value_and_influence(self, states: Sums) -> tuple[Float64[Tensor, " heads"], Float64[Tensor, "w heads"]]:
        n, directions = states.n, slice(states.width, -1)
        mean = states.mean[:, directions]
        value = (n * mean.square().sum(-1) - 1) / (n - 1)
        return value, 2 * (states.deviations[..., directions] * mean).sum(-1)
