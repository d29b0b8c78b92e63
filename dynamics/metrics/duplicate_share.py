import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming import STATE_SITES, Estimate, Sample, undefined
from dynamics.metrics.streaming.neighbors import different_rows


def duplicate_share(x: Float[Tensor, "n d"]) -> Float64[Tensor, ""]:
    """Return the share of states that equal an earlier state, up to rounding.

    Formula: 1 - (number of different rows) / n, at most 1 - 1 / n; equal means that half the distance is within
        four units in the last place of the norm.
    Pitfalls: at layer 0 of a model without added positions every token of the vocabulary repeats.
    Interval: none: it describes the sample, and grows with its size.

    NaN without states.
    >>> duplicate_share(torch.tensor([[1.0], [2.0], [1.0], [1.0]]))
    tensor(0.5000, dtype=torch.float64)
    """
    return 1 - torch.tensor(
        len(different_rows(x, k=1).rows) / (len(x) or torch.nan), dtype=torch.float64, device=x.device
    )


class DuplicateShare(Sample):
    """States that equal another one exactly; the intrinsic dimension leaves them out."""

    title = "share of duplicates"
    range = (0, 1)
    estimator = "1 - different states / n"
    source = "what `intrinsic_dimension` drops: it and TwoNN elsewhere part ways by how they treat duplicates"
    default_sites = dict.fromkeys(STATE_SITES, 13)

    def estimate(self, states: Sample) -> Estimate:
        n = len(states.places)
        if states.trouble or not n:
            return undefined(1, n, states.trouble or "no token was seen")
        value = np.array([1 - len(states.distinct.rows) / n])
        windows = len(states.windows.unique())
        reason = "; ".join(filter(None, ["no interval: it grows with the sample", states.rounded]))
        return Estimate(value, value * np.nan, value * np.nan, n, reason, windows=windows)
