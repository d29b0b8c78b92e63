"""How much of the states' size is their common drift."""

from dynamics.metrics.streaming.accumulators import Sums
from dynamics.metrics.streaming.base import STATE_SITES, Estimate, undefined
from dynamics.metrics.streaming.intervals import estimate


class DriftShare(Sums):
    """The norm of the mean state over the mean norm: 0 where directions cancel, 1 where all states are one."""

    name = "drift_share"
    sites = STATE_SITES

    def estimate(self, states: Sums) -> Estimate:
        if states.trouble:
            return undefined(states.heads, states.n, states.trouble)
        mean, norm = states.mean[:, : states.width], states.mean[:, -1]
        of_mean, of_norm = states.deviations[..., : states.width], states.deviations[..., -1]
        size = mean.norm(dim=-1)
        share = size / norm
        influence = ((of_mean * mean).sum(-1) / size - share * of_norm) / norm  # of each window, on the share
        return estimate(share, states.n, influence=influence, windows=int(states.windows), scale="logit")
