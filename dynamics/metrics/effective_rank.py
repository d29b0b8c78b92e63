from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming import STATE_SITES, Estimate, Moments, Spectral
from dynamics.metrics.streaming.arithmetic import unresolved
from dynamics.metrics.streaming.spectrum import eigenvalues


def effective_rank(x: Float[Tensor, "*batch n d"]) -> Float64[Tensor, "*batch"]:
    """Return the exponential of the entropy of the singular values' shares.

    Formula: exp(-sum_i p_i log p_i), p_i = sigma_i / sum_j sigma_j, sigma the singular values of the centred states.
    Pitfalls: singular values weigh small directions more than variances do (`participation_ratio`). It is at most
        min(n - 1, d).

    NaN for fewer than two states, equal states, or states that are not finite.
    >>> effective_rank(Tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0], [0.0, -3.0]]))
    tensor(2., dtype=torch.float64)
    """
    return EffectiveRank.of_eigenvalues(eigenvalues(x))


class EffectiveRank(Spectral):
    """How many directions the states use (also known as RankMe)."""

    unit = "dimensions"
    range = (1, None)
    wide = True
    tail = 2.0
    interval_scale = "logit"  # of the place between 1 and the number of directions
    estimator = "exp of the entropy of σᵢ / Σσ"
    source = "Roy and Vetterli (EUSIPCO 2007); RankMe (Garrido et al., arXiv 2210.02885) is the same, not centred"
    default_sites = dict.fromkeys(STATE_SITES, 6)

    @staticmethod
    def of_eigenvalues(values: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        sigma = values.sqrt()
        p = sigma / sigma.sum(-1, keepdim=True)
        log_p = p.where(p > 0, 1).log()  # xlogy has a slope without end at 0, which would leave the others none
        return (-(p * log_p).sum(-1)).exp()

    def with_interval(
        self, states: Moments, value: Float[Tensor, " heads"], influence: Float[Tensor, "w heads"]
    ) -> Estimate:
        values, _ = states.spectrum
        # A layer norm leaves one direction only the states' rounding, which may be above the eigenvalues' own or not.
        floor = unresolved(states.mean.square().sum(-1) + values.sum(-1), states.precision)
        directions = (values > floor[..., None]).sum(-1)
        span = max(1, int(directions.max()) - 1)
        place = super().with_interval(states, (value - 1) / span, influence / span)
        low, high = 1 + span * place.low, 1 + span * place.high
        return place._replace(value=1 + span * place.value, low=low, high=high)
