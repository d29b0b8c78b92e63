import torch
from jaxtyping import Float, Float64
from torch import Tensor

from dynamics.metrics.streaming import HEAD_SITES, Estimate, Referenced, Sums, estimate, undefined


def drift(x: Float[Tensor, "*batch n d"], reference: Float[Tensor, "*batch d"]) -> Float64[Tensor, "*batch"]:
    """Return the distance between the mean state and a reference mean, on the same tokens.

    Formula: |mean_t - mean_0|_2, for each head.
    Pitfalls: a key's drift along a direction that all keys share leaves attention as it is (softmax is
        shift-invariant); rotary positions average a mean away.
    Interval: windows' influence on the difference of the two means (they come from the same tokens), Student's t on the
        log scale; sampling error only. None where nothing has moved.

    `reference`: mean of the reference. In the unit of the states.
    >>> drift(torch.tensor([[3.0, 0.0], [3.0, 8.0]]), torch.tensor([0.0, 0.0]))
    tensor(5., dtype=torch.float64)
    """
    return (x.double().mean(-2) - reference.double()).norm(dim=-1)


class Drift(Referenced, Sums):
    """How far the mean has moved since the weights were drawn.

    The first entry of its reference is the mean, the others are the windows' influence on it: (1 + w, heads, d).
    """

    range = (0, None)
    estimator = "‖mean now - mean at step 0‖ per head, on the same tokens"
    source = "Godey, de la Clergerie and Sagot (arXiv 2401.12143): queries and keys along training"
    default_sites = dict.fromkeys(HEAD_SITES, 2)
    sites = (*HEAD_SITES, "value")

    def to_keep(self, states: Sums) -> Tensor | None:
        return None if states.trouble else torch.cat([states.mean[None], states.deviations])[..., : states.width]

    def estimate(self, states: Sums) -> Estimate:
        mean = self.to_keep(states)
        if mean is None or self.reference is None:
            return undefined(states.heads, states.n, states.trouble or "no reference mean was kept at step 0")
        if self.reference.shape != mean.shape:
            shapes = f"{tuple(self.reference.shape)}, this one {tuple(mean.shape)}"
            return undefined(states.heads, states.n, f"the reference is of other tokens (shape {shapes})")
        moved, *influence = mean - self.reference.to(mean)
        distance = moved.norm(dim=-1)
        along = (torch.stack(influence) * moved).sum(-1) / distance
        windows, scale = int(states.windows), self.interval_scale
        return estimate(distance, states.n, influence=along, windows=windows, scale=scale)
