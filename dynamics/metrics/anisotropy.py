from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming import STATE_SITES, Spectral
from dynamics.metrics.streaming.spectrum import gram, top_share


def anisotropy(x: Float[Tensor, "*batch n d"]) -> Float64[Tensor, "*batch"]:
    """Return the share of the states' variance that lies along its first principal axis.

    Formula: sigma_1^2 / sum_i sigma_i^2, sigma the singular values of the centred states (n, d).
    Pitfalls: one outlier dimension can make it 1; of few states in a wide space it is never near 0, for it is at least
        1 / min(n - 1, d).
    Interval: windows' influence functions, Student's t on the logit scale; sampling error only, without the upward bias
        of a finite sample.

    `x`: states of any floating type (half precision is computed in float32). NaN for fewer than two states, equal
    states, or states that are not finite. Within 1e-5 (float32) or 1e-9
    (float64) of the singular values' route.
    >>> x = Tensor([[3.0, 1.0], [-3.0, 1.0], [0.0, 1.0 + 3.0], [0.0, 1.0 - 3.0]])
    >>> anisotropy(x)
    tensor(0.5000, dtype=torch.float64)
    """
    return top_share(gram(x))


class Anisotropy(Spectral):
    """Share of the variance along one single direction: 1/d in a round cloud, 1 on a line."""

    range = (0, 1)
    rivals = 3
    estimator = "σ₁² / Σσᵢ² of the centred states"
    source = "Razzhigaev et al., The Shape of Learning (arXiv 2311.05928), as their code computes it"
    default_sites = dict.fromkeys(STATE_SITES, 1)

    @staticmethod
    def of_eigenvalues(values: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        return values[..., 0] / values.sum(-1)
