import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from dynamics.metrics.streaming import STATE_SITES, Sums
from dynamics.metrics.streaming.sampling import window_sums


def mean_cosine_across_windows(x: Float[Tensor, "n d"], windows: Int[Tensor, " n"]) -> Float64[Tensor, ""]:
    """Return the mean cosine similarity over all pairs of states from different windows, exactly.

    Formula: (|sum_i u_i|^2 - sum_w |u_w|^2) / (n^2 - sum_w n_w^2), u_i = x_i / |x_i|, u_w and n_w the sum of the
        directions in window w and their number.
    Pitfalls: states in windows of their own give `mean_cosine`; with one window there is no pair.

    `windows`: the window of each state. NaN for fewer than two windows or where a state is zero or not finite.
    >>> x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    >>> mean_cosine_across_windows(x, torch.tensor([0, 0, 1])), mean_cosine_across_windows(x, torch.arange(3))
    (tensor(0., dtype=torch.float64), tensor(0.3333, dtype=torch.float64))
    """
    x = x.double()
    sums, _ = window_sums(x / x.norm(dim=-1, keepdim=True), windows)
    sizes = window_sums(x.new_ones(len(x)), windows)[0]
    apart = sums.sum(0).square().sum() - sums.square().sum()
    pairs = sizes.sum().square() - sizes.square().sum()
    return apart / pairs.where(pairs > 0, torch.nan)


class MeanCosineAcrossWindows(Sums):
    """The mean cosine of pairs from different windows, which share no context."""

    range = (-1, 1)
    estimator = "closed form over all pairs from different windows, not centred"
    source = "`mean_cosine`, with the pairs left out that make it depend on the windows' length"
    default_sites = dict.fromkeys(STATE_SITES, 9)
    nan_reason = "a state is zero, or all come from one window"

    def value_and_influence(self, states: Sums) -> tuple[Float64[Tensor, " heads"], Float64[Tensor, "w heads"]]:
        total, n = states.total[:, states.width : -2], states.n
        cosines, pairs = states.within.unbind(-1)
        pairs = n * n - pairs
        value = (total.square().sum(-1) - cosines) / pairs.where(pairs > 0, torch.nan)
        directions, size = states.sample[..., states.width : -2], states.sample[..., -1]
        along = (directions * (total - directions)).sum(-1) - value * size * (n - size)
        return value, 2 * along / pairs * states.windows
