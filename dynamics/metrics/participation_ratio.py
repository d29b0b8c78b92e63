from typing import Any, ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming import STATE_SITES, Moments, Spectral
from dynamics.metrics.streaming.spectrum import gram, trace


def participation_ratio(x: Float[Tensor, "*batch n d"]) -> Float64[Tensor, "*batch"]:
    """Return the number of directions among which the states' variance is shared out.

    Formula: tr(S)^2 / |S|_F^2 = (sum_i v_i)^2 / sum_i v_i^2, v the eigenvalues of the covariance S.
    Pitfalls: of n Gaussian states in width d it is about n d / (n + d), not d (and at most min(n - 1, d)): always say
        n. `participation_ratio_across_windows` is without that bias, and that of dependence within windows.
    Interval: windows' influence functions, Student's t on the log scale; sampling error only, not that bias.

    NaN for fewer than two states, equal states, or states that are not finite.
    >>> participation_ratio(Tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0], [0.0, -3.0]]))
    tensor(2., dtype=torch.float64)
    """
    product = gram(x)
    return trace(product).square() / product.square().sum((-2, -1))


def across_windows(states: Moments) -> tuple[Float64[Tensor, " heads"], Float64[Tensor, "w heads"]]:
    """Return the ratio from products of different windows alone, and its influence.

    With C_w a window's sum of outer products about the mean, tr(S)^2 becomes the sum of tr(C_v) tr(C_w) over v != w,
    and |S|_F^2 that of <C_v, C_w>: without the windows' own squares, which make the plain ratio of few tokens small.
    """
    squares, traces, sizes = states.within
    values, influence = states.spectrum
    count, kept = states.windows, len(sizes)
    norm = values.square().sum(-1, keepdim=True)
    crossed = (influence * values).sum(-1).T * (states.n / count) + sizes * norm  # <S, C_w>
    of_trace = traces * (states.n * values.sum(-1, keepdim=True) - traces)
    of_square = states.n * crossed - squares
    value = of_trace.sum(-1) / of_square.sum(-1).where(of_square.sum(-1) > 0, torch.nan)
    change = of_trace / of_trace.sum(-1, keepdim=True) - of_square / of_square.sum(-1, keepdim=True)
    return value, 2 * kept * (value[:, None] * change).T


class ParticipationRatio(Spectral):
    """How many directions share the variance.

    Args:
        across_windows: take the squares from pairs of different windows alone
    """

    unit = "dimensions"
    range = (1, None)
    wide = True
    estimator = "tr(S)² / ‖S‖² of the covariance S"
    source = "Gao et al., A theory of multineuronal dimensionality (bioRxiv 214262)"
    default_sites = dict.fromkeys(STATE_SITES, 5)

    variants: ClassVar[dict[str, dict[str, Any]]] = {"across_windows": {"across_windows": True}}

    def __init__(self, across_windows: bool = False, tokens: int = 8192) -> None:
        super().__init__(tokens)
        self.across_windows = across_windows
        if across_windows:
            self.name, self.title = "participation_ratio_across_windows", "participation ratio across windows"
            self.estimator = (
                "(tr(S)² / ‖S‖²) with both squares over pairs of different windows: not biased by few tokens"
            )

    def value_and_influence(
        self, states: Moments, first: int = 0
    ) -> tuple[Float64[Tensor, " heads"], Float64[Tensor, "w heads"]]:
        if self.across_windows:
            return across_windows(states)
        return super().value_and_influence(states, first)

    @staticmethod
    def of_eigenvalues(values: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        return values.sum(-1).square() / values.square().sum(-1)
