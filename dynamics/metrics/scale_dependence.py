from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from dynamics.metrics.intrinsic_dimension import FEWEST, two_nn, two_nn_influence
from dynamics.metrics.streaming import Estimate, Sample, undefined
from dynamics.metrics.streaming.arithmetic import floating
from dynamics.metrics.streaming.intervals import t_interval, too_few, variance_of_sum
from dynamics.metrics.streaming.neighbors import nearest, without_duplicates

THINNINGS = (1, 2, 4, 8)
FEWEST_STATES = 1000  # for an interval


def scale_dependence(x: Float[Tensor, "n d"]) -> Float64[Tensor, ""]:
    """Return the intrinsic dimension of an eighth of the states over that of all of them.

    Formula: d(n / 8) / d(n), d the `intrinsic_dimension` (TwoNN), averaged over the disjoint eighths; the estimates at
        n, n/2, n/4 and n/8 and their scales (mean second neighbour distance) come as arrays.
    Pitfalls: above 1 says that noise or curvature adds dimensions at large scales, below 1 at small ones; the downward
        bias of TwoNN in many dimensions grows as n falls, which pulls it below 1.
    Interval: from the errors of the nine `intrinsic_dimension`s, taken as independent except for the windows that they
        share, on the log scale; none for fewer than 1000 states; sampling error only, not the bias.

    `x`: states, in random order. NaN for fewer than 80 different states, or states that are not finite.
    >>> x = torch.rand(4096, 2, generator=torch.Generator().manual_seed(0))
    >>> round(float(scale_dependence(x)), 1)
    1.0
    """
    x = floating(x)
    if not x.isfinite().all() or len(x := without_duplicates(x)) < THINNINGS[-1] * FEWEST:
        return torch.tensor(torch.nan, dtype=torch.float64, device=x.device)
    whole, thin = thinned(x, THINNINGS[0]), thinned(x, THINNINGS[-1])
    return torch.tensor(thin.dimension / whole.dimension, dtype=torch.float64, device=x.device)


class Scale(NamedTuple):
    """The dimension at one thinning, its scale, and each state's influence on its logarithm and component."""

    dimension: float
    length: float
    influence: Float[np.ndarray, " n"]
    component: Int[np.ndarray, " n"]


def thinned(x: Float[Tensor, "n d"], thinning: int) -> Scale:
    """Estimate the dimension of the different states `x` when they are thinned."""
    influence, component = np.zeros(len(x)), np.zeros(len(x), dtype=int)
    values, lengths = [], []
    for part in range(thinning):
        distances, neighbours = nearest(x[part::thinning], 2)
        values.append(value := two_nn(distances))
        lengths.append(float(distances[:, 1].mean()))
        of_part, cluster = two_nn_influence(distances, neighbours[:, 0], value)
        influence[part::thinning] = value * of_part
        component[part::thinning] = cluster * thinning + part
    return Scale(float(np.mean(values)), float(np.mean(lengths)), influence / np.sum(values), component)


class ScaleDependence(Sample):
    """About 1 where the intrinsic dimension is the same at all scales."""

    range = (0, None)
    estimator = "intrinsic dimension of an eighth of the states over that of all, mean over the eighths"
    source = "decimation, Facco et al. (arXiv 1803.06992), section on multidimensional data sets"

    def estimate(self, states: Sample) -> Estimate:
        n = len(states.different) if not states.trouble else 0
        fewest = THINNINGS[-1] * FEWEST
        if n < fewest:
            return undefined(1, n, states.trouble or f"fewer than {fewest} different states")
        scales = [thinned(states.different, thinning) for thinning in THINNINGS]
        dimensions = np.array([[scale.dimension for scale in scales]])
        lengths = np.array([[scale.length for scale in scales]])
        value = dimensions[:, -1] / dimensions[:, 0]
        windows, low = len(states.windows.unique()), np.full_like(value, np.nan)
        few = f"{n} states: an interval needs at least {FEWEST_STATES}" if n < FEWEST_STATES else ""
        high, reason = low, too_few(windows) or few
        if not np.isfinite(value).all():
            reason = "the neighbour distances leave it undefined"
        elif not reason:
            error, freedom = _error(scales[0], scales[-1], states.windows.cpu().numpy())
            low, high = t_interval(value, value * error, freedom, "log")
        arrays = {"dimensions": dimensions, "scales": lengths, "points": n / np.array([THINNINGS])}
        return Estimate(value, low, high, n, reason, arrays, windows)


def _error(whole: Scale, thin: Scale, windows: Int[np.ndarray, " n"]) -> tuple[float, int]:
    """Return the standard error of the logarithm of the ratio of two dimensions, and its degrees of freedom."""
    both = whole, thin
    variances, freedoms = zip(*(variance_of_sum(s.influence, s.component, windows) for s in both), strict=True)
    window = np.unique(windows, return_inverse=True)[1]
    sums = [np.bincount(window, s.influence) for s in both]
    shared = (sums[0] * sums[1]).sum() - (whole.influence * thin.influence).sum()
    return np.sqrt(max(sum(variances) - 2 * shared, 0)), min(freedoms)
