from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming import STATE_SITES, Spectral
from dynamics.metrics.streaming.spectrum import eigenvalues


def singular_value_share(x: Float[Tensor, "*batch n d"]) -> Float64[Tensor, "*batch"]:
    """Return the largest singular value of the centred states over the sum of all of them.

    Formula: sigma_1 / sum_i sigma_i, sigma the singular values of the centred states (n, d).
    Pitfalls: much below `anisotropy` of the same states: 10, 2, 1 give 10/13 here and 100/105 there. It is at least
        1 / min(n - 1, d).

    NaN for fewer than two states, equal states, or states that are not finite.
    >>> singular_value_share(Tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    tensor(0.7500, dtype=torch.float64)
    """
    return SingularValueShare.of_eigenvalues(eigenvalues(x))


class SingularValueShare(Spectral):
    """The largest singular value's share of their sum."""

    range = (0, 1)
    rivals = 3
    estimator = "σ₁ / Σσᵢ of the centred states"
    source = "the wording of Razzhigaev et al. (arXiv 2311.05928); their code squares, as `anisotropy` does"
    default_sites = dict.fromkeys(STATE_SITES, 3)

    @staticmethod
    def of_eigenvalues(values: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        sigma = values.sqrt()
        return sigma[..., 0] / sigma.sum(-1)
