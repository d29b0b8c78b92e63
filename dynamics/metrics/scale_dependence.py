import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.intrinsic_dimension import FEWEST, two_nn
from dynamics.metrics.streaming import Estimate, Sample, undefined
from dynamics.metrics.streaming.arithmetic import floating
from dynamics.metrics.streaming.neighbors import nearest, without_duplicates

THINNINGS = (1, 2, 4, 8)
NO_INTERVAL = "the dimensions share their states: the error of their ratio is not known"


def scale_dependence(x: Float[Tensor, "n d"]) -> Float64[Tensor, ""]:
    """Return the intrinsic dimension of an eighth of the states over that of all of them.

    Formula: d(n / 8) / d(n), d the `intrinsic_dimension` (TwoNN), averaged over the disjoint eighths; the estimates at
        n, n/2, n/4 and n/8 and their scales (mean second neighbour distance) come as arrays.
    Pitfalls: above 1 says that noise or curvature adds dimensions at large scales, below 1 at small ones; the downward
        bias of TwoNN in many dimensions grows as n falls, which pulls it below 1.
    Interval: none. The dimensions share their states and neighbours, and intervals from their errors held in 63 to 99 %
        of the cases on states of trained models.

    `x`: states, in random order. NaN for fewer than 80 different states, or states that are not finite.
    >>> x = torch.rand(4096, 2, generator=torch.Generator().manual_seed(0))
    >>> round(float(scale_dependence(x)), 1)
    1.0
    """
    x = floating(x)
    if not x.isfinite().all() or len(x := without_duplicates(x)) < THINNINGS[-1] * FEWEST:
        return torch.tensor(torch.nan, dtype=torch.float64, device=x.device)
    (whole, _), (thin, _) = thinned(x, THINNINGS[0]), thinned(x, THINNINGS[-1])
    return torch.tensor(thin / whole, dtype=torch.float64, device=x.device)


def thinned(x: Float[Tensor, "n d"], thinning: int) -> Float64[np.ndarray, "2"]:
    """Return dimension and scale, means over the disjoint parts that a thinning of the different states `x` leaves."""
    parts = (nearest(x[part::thinning], 2)[0] for part in range(thinning))
    return np.mean([(two_nn(distances), distances[:, 1].mean().item()) for distances in parts], axis=0)


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
        dimensions, lengths = np.array([thinned(states.different, thinning) for thinning in THINNINGS]).T[:, None]
        value = dimensions[:, -1] / dimensions[:, 0]
        reason = NO_INTERVAL if np.isfinite(value).all() else "the neighbour distances leave it undefined"
        nan = np.full_like(value, np.nan)
        arrays = {"dimensions": dimensions, "scales": lengths, "points": n / np.array([THINNINGS])}
        return Estimate(value, nan, nan, n, reason, arrays, len(states.windows.unique()))
