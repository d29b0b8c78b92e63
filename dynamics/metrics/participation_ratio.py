from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming import STATE_SITES, Spectral
from dynamics.metrics.streaming.spectrum import gram, trace


def participation_ratio(x: Float[Tensor, "*batch n d"]) -> Float64[Tensor, "*batch"]:
    """Return the number of directions among which the states' variance is shared out.

    Formula: tr(S)^2 / |S|_F^2 = (sum_i v_i)^2 / sum_i v_i^2, v the eigenvalues of the covariance S.
    Pitfalls: of n Gaussian states in width d it is about n d / (n + d), not d (and at most min(n - 1, d)): always say
        n.
    Interval: windows' influence functions, Student's t on the log scale; sampling error only, not that bias.

    NaN for fewer than two states, equal states, or states that are not finite.
    >>> participation_ratio(Tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0], [0.0, -3.0]]))
    tensor(2., dtype=torch.float64)
    """
    product = gram(x)
    return trace(product).square() / product.square().sum((-2, -1))


class ParticipationRatio(Spectral):
    """How many directions share the variance."""

    unit = "dimensions"
    range = (1, None)
    wide = True
    estimator = "tr(S)² / ‖S‖² of the covariance S"
    source = "Gao et al., A theory of multineuronal dimensionality (bioRxiv 214262)"
    default_sites = dict.fromkeys(STATE_SITES, 5)

    @staticmethod
    def of_eigenvalues(values: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        return values.sum(-1).square() / values.square().sum(-1)
