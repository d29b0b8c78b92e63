from typing import Any, ClassVar

from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.participation_ratio import ParticipationRatio, across_windows, participation_ratio
from dynamics.metrics.streaming import STATE_SITES, Moments, Spectral
from dynamics.metrics.streaming.covariance import evenness, mean_and_covariance, shrink


def isoscore(x: Float[Tensor, "*batch n d"]) -> Float64[Tensor, "*batch"]:
    """Return how evenly the states' variance is spread over all d directions.

    Formula: (PR - 1) / (d - 1), PR = tr(S)^2 / |S|_F^2 the `participation_ratio`. It equals, to rounding, the published
        ((d - e^2 (d - sqrt d))^2 - d) / (d (d - 1)), e = |v' - 1| / sqrt(2 (d - sqrt d)), v' = v sqrt(d) / |v| for the
        eigenvalues v of S: no eigenvalues are needed. k equal directions of d give (k - 1) / (d - 1).
    Pitfalls: n Gaussian states in width d give about n / (n + d): always say n. Dependence within windows makes
        it smaller still (32 windows of 32 tokens in an AR(1) sequence: 0.245 for 0.309): `n_effective` says how few
        tokens would be as noisy, and `isoscore_across_windows` is without that bias.
    Interval: windows' influence functions, Student's t on the logit scale; sampling error only, not that bias.

    NaN for d = 1, fewer than two states, equal states, or states that are not finite.
    >>> isoscore(Tensor([[3.0, 0, 0], [-3.0, 0, 0], [0, 3.0, 0], [0, -3.0, 0]]))
    tensor(0.5000, dtype=torch.float64)
    """
    return (participation_ratio(x) - 1) / (x.shape[-1] - 1 or float("nan"))


def isoscore_star(
    x: Float[Tensor, "m d"], reference: Float[Tensor, "d d"] | None = None, reference_weight: float = 0.2
) -> Float[Tensor, ""]:
    """Return the IsoScore of the covariance of a batch, shrunk towards a stable reference: the regulariser of I-STAR.

    Formula: (PR - 1) / (d - 1) of S = (1 - reference_weight) cov(x) + reference_weight reference.
    Source: Rudman and Eickhoff, Stable Anisotropic Regularization (arXiv 2305.19358). `reference_weight` is the zeta of
        their released code (0.2 by default); their text gives zeta to the batch instead, so its zeta is 1 -
        reference_weight.
    Pitfalls: without shrinkage a batch of m states gives about m / (m + d), and 0.2 of a reference corrects little of
        that: with m = d / 4 the error falls to a fifth at 0.8. At S = 0 (equal states) it is 0 and has the gradient 0;
        differentiable once.
    Interval: none; a loss.

    `x`: states; gradients flow to them. `reference`: a covariance, for example of states of the whole epoch; None: no
    shrinkage. `reference_weight`: share of the reference, 0 to 1.
    The result is in the precision of x (float32 for half precision).

    Raises: InputError: fewer than two states.

    >>> x = Tensor([[2.0, 0.0], [-2.0, 0.0]])
    >>> isoscore_star(x), isoscore_star(x, Tensor([[0.0, 0.0], [0.0, 8.0]]), reference_weight=0.5)
    (tensor(0.), tensor(1.))
    """
    _, _, covariance = mean_and_covariance([x])
    return evenness(shrink(covariance, reference, reference_weight))


class Isoscore(Spectral):
    """0: all variance along one direction; 1: the same in all. It grows with the number of points.

    Args:
        across_windows: take the squares from pairs of different windows alone
    """

    title = "IsoScore"
    range = (0, 1)
    estimator = "(participation ratio - 1) / (d - 1) of the covariance"
    source = "Rudman et al., IsoScore (arXiv 2108.07344); without shrinkage IsoScore* (arXiv 2305.19358) is the same"
    default_sites = dict.fromkeys(STATE_SITES, 4)
    variants: ClassVar[dict[str, dict[str, Any]]] = {"across_windows": {"across_windows": True}}

    def __init__(self, across_windows: bool = False, tokens: int = 8192) -> None:
        super().__init__(tokens)
        self.across_windows = across_windows
        if across_windows:
            self.name, self.title = "isoscore_across_windows", "IsoScore across windows"
            self.estimator = "(participation ratio across windows - 1) / (d - 1): not biased by few tokens"

    def value_and_influence(
        self, states: Moments, first: int = 0
    ) -> tuple[Float64[Tensor, " heads"], Float64[Tensor, "w heads"]]:
        if not self.across_windows:
            return super().value_and_influence(states, first)
        value, influence = across_windows(states)
        directions = states.mean.shape[-1] - 1 or float("nan")
        return (value - 1) / directions, influence / directions

    @staticmethod
    def of_eigenvalues(values: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        return (ParticipationRatio.of_eigenvalues(values) - 1) / (values.shape[-1] - 1 or float("nan"))
