"""Scale dependence of the intrinsic dimension: what it becomes when the states are thinned out."""

import numpy as np
import torch
from torch import Tensor

from dynamics.metrics.accumulators import Sample
from dynamics.metrics.arithmetic import floating
from dynamics.metrics.base import Estimate, undefined
from dynamics.metrics.intervals import t_interval
from dynamics.metrics.intrinsic_dimension import FEWEST, two_nn, two_nn_error
from dynamics.metrics.neighbors import nearest, without_duplicates

THINNINGS = (1, 2, 4, 8)


def scale_dependence(x: Tensor) -> Tensor:
    """The intrinsic dimension of an eighth of the states over that of all of them.

    Formula: d(n / 8) / d(n), d the `intrinsic_dimension` (TwoNN), averaged over the disjoint eighths; the
        estimates at n, n/2, n/4 and n/8 and their scales (mean second neighbour distance) come as arrays.
    Range: above 0; about 1 where the dimension does not depend on the scale; no unit.
    Source: decimation, Facco et al. (arXiv 1803.06992), section on multidimensional data sets.
    Pitfalls: above 1 says that noise or curvature adds dimensions at large scales, below 1 at small ones; the
        downward bias of TwoNN in many dimensions grows as n falls, which pulls it below 1.
    Interval: from the errors of the nine `intrinsic_dimension`s, taken as independent, on the log scale (measured:
        94-96 %); sampling error only, not the bias.

    Args:
        x: states, shape (n, d), in random order.

    Returns:
        0-d, float64. NaN for fewer than 80 different states, or states that are not finite.

    >>> x = torch.rand(4096, 2, generator=torch.Generator().manual_seed(0))
    >>> round(float(scale_dependence(x)), 1)
    1.0
    """
    x = floating(x)
    if not x.isfinite().all() or len(x := without_duplicates(x)) < THINNINGS[-1] * FEWEST:
        return torch.tensor(torch.nan, dtype=torch.float64, device=x.device)
    dimensions, *_ = by_scale(x)
    return torch.tensor(dimensions[-1] / dimensions[0], dtype=torch.float64, device=x.device)


def by_scale(x: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dimensions, their standard errors and scales of the different states `x`, thinned by each of `THINNINGS`."""
    found = []
    for thinning in THINNINGS:
        parts = []
        for part in range(thinning):
            pairs, neighbours = nearest(x[part::thinning], 2)
            value = two_nn(pairs)
            error = two_nn_error(pairs, neighbours[:, 0], value)[0] if np.isfinite(value) else np.nan
            parts.append((value, error**2 / thinning, float(pairs[:, 1].mean())))
        found.append(np.mean(parts, axis=0))
    dimensions, variances, scales = np.transpose(found)
    return dimensions, np.sqrt(variances), scales


class ScaleDependence(Sample):
    """Streams `scale_dependence` over a seeded sample of the tokens."""

    name = "scale_dependence"

    def estimate(self, states: Sample) -> Estimate:
        n = len(states.different) if not states.trouble else 0
        fewest = THINNINGS[-1] * FEWEST
        if n < fewest:
            return undefined(1, n, states.trouble or f"fewer than {fewest} different states")
        dimensions, errors, scales = by_scale(states.different)
        value = dimensions[-1:] / dimensions[0]
        error = value * np.hypot(*(errors / dimensions)[[0, -1]])
        low, high = t_interval(value, error, n // THINNINGS[-1] - 1, "log")
        reason = "" if np.isfinite(value).all() else "the neighbour distances leave it undefined"
        arrays = {"dimensions": dimensions[None], "scales": scales[None], "points": n / np.array([THINNINGS])}
        return Estimate(value, low, high, n, reason, arrays)
