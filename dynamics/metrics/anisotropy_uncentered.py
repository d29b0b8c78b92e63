import torch
from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming import STATE_SITES, Moments
from dynamics.metrics.streaming.spectrum import OfDirections, gram, top, top_share, trace
from dynamics.metrics.streaming.transfer import sent


def anisotropy_uncentered(x: Float[Tensor, "*batch n d"]) -> Float64[Tensor, "*batch"]:
    """Return the share of the states' mean square that lies along one direction, the mean included.

    Formula: sigma_1^2 / sum_i sigma_i^2, sigma the singular values of the states (n, d) as they are.
    Pitfalls: a mean far from the origin makes it near 1 whatever the shape of the cloud about it. It is at least
        1 / min(n, d).

    NaN for fewer than two states, zero states, or states that are not finite.
    >>> anisotropy_uncentered(torch.diag(torch.tensor([10.0, 2.0, 1.0])))  # 100 / 105
    tensor(0.9524, dtype=torch.float64)
    """
    return top_share(gram(x, centered=False))


class AnisotropyUncentered(OfDirections):
    """The same share with the mean left in: a cloud far from the origin counts as a line."""

    title = "anisotropy, uncentred"
    range = (0, 1)
    rivals = 1
    estimator = "σ₁² / Σσᵢ² of the states, not centred"
    source = "`anisotropy` without its centring; the uncentred first direction of the sentence-cone experiments"
    heads_apart = True
    default_sites = dict.fromkeys(STATE_SITES, 2)

    def value_and_influence(
        self, states: Moments, first: int = 0
    ) -> tuple[Float64[Tensor, " heads"], Float64[Tensor, "w heads"]]:
        second = states.covariance + states.mean[:, :, None] * states.mean[:, None, :]
        if states.layers > 1:  # one that is refused must not keep the others from their value
            second = second.nan_to_num(0, 0, 0)
        value, axis = (torch.stack(part) for part in zip(*(top(matrix, first) for matrix in second), strict=True))
        power = trace(second)
        share = value / power
        x, windows = states.sample
        axis, of_power, whole = (sent(y.to(x.dtype), x.device) for y in (axis, share[:, None], power[:, None]))
        along = (x @ axis[..., None]).square()[..., 0] - of_power * x.square().sum(-1)
        return share, states.influence(along / whole, windows)
