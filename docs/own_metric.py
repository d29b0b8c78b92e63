from torch import Tensor

from dynamics.metrics.streaming import STATE_SITES, Sums


class DriftShare(Sums):
    """The norm of the mean state over the mean norm: 0 where directions cancel, 1 where all states are equal."""

    sites = STATE_SITES
    title = "share of the drift"
    range = (0, 1)
    estimator = "‖mean of the states‖ / mean of ‖x‖, not centred"

    def value_and_influence(self, states: Sums) -> tuple[Tensor, Tensor]:
        mean, norm = states.mean[:, : states.width], states.mean[:, -1]
        of_mean, of_norm = states.deviations[..., : states.width], states.deviations[..., -1]
        size = mean.norm(dim=-1)
        share = size / norm
        return share, ((of_mean * mean).sum(-1) / size - share * of_norm) / norm
