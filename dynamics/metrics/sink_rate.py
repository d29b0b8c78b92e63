import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.sink_mass import sink_mass
from dynamics.metrics.streaming import AttentionStatistics, Estimate
from dynamics.metrics.streaming.attention import SINK


def sink_rate(probabilities: Float[Tensor, "windows *heads T S"]) -> Float64[Tensor, "*heads"]:
    """Return the share of windows in which a head spends more than 0.3 of its attention on position 0.

    Formula: mean over windows of 1[`sink_mass` of the window > 0.3]; a layer's is the mean over its heads.
    Pitfalls: the paper counts query 0, which sees itself alone and adds 1 / T; here it is left out. A threshold: what
        changes on one side of it is not seen.
    Interval: none: where almost all windows lie on one side, those that do not are too few.

    `probabilities`: rows summing to 1. (The metric never forms them all.) NaN for a single query.
    >>> p = Tensor([[[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0], [0.2, 0.8]]])
    >>> sink_rate(p)
    tensor(0.5000, dtype=torch.float64)
    """
    mass = sink_mass(probabilities)
    return (mass > SINK).double().where(mass.isfinite(), float("nan")).mean(0)


class SinkRate(AttentionStatistics):
    """Share of windows in which the head has an attention sink."""

    range = (0, 1)
    estimator = "share of windows with a sink mass above 0.3; a layer's is the mean over heads"
    source = "Gu et al., When Attention Sink Emerges (arXiv 2410.10781), whose threshold is 0.3"

    def estimate(self, states: AttentionStatistics) -> Estimate:
        estimate = super().estimate(states)
        if not np.isfinite(estimate.value).all():
            return estimate
        nan, reason = np.full_like(estimate.value, np.nan), "no interval: few windows lie near the threshold"
        return estimate._replace(low=nan, high=nan, reason=reason)
