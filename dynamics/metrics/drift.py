"""Drift: how far a mean has moved since the reference was taken."""

import torch
from torch import Tensor

from dynamics.metrics.streaming.accumulators import Sums
from dynamics.metrics.streaming.base import HEAD_SITES, Estimate, undefined
from dynamics.metrics.streaming.intervals import estimate


def drift(x: Tensor, reference: Tensor) -> Tensor:
    """The distance between the mean state and a reference mean, on the same probe tokens.

    Formula: |mean_t - mean_0|_2, for each head.
    Pitfalls: a key's drift along a direction that all keys share leaves attention as it is (softmax is
        shift-invariant); rotary positions average a mean away.
    Interval: windows' influence on the difference of the two means (they come from the same tokens), Student's t on
        the log scale; sampling error only. None where nothing has moved.

    Args:
        x: states, shape (..., n, d).
        reference: mean of the reference, shape (..., d).

    Returns:
        Shape (...), float64, in the unit of the states.

    >>> drift(torch.tensor([[3.0, 0.0], [3.0, 8.0]]), torch.tensor([0.0, 0.0]))
    tensor(5., dtype=torch.float64)
    """
    return (x.double().mean(-2) - reference.double()).norm(dim=-1)


class Drift(Sums):
    """Streams `drift` of queries and keys.

    `reference` is None until someone sets it (to the `reference_state` of step 0): until then NaN. Its first entry is
    the mean, the others the windows' influence on it: (1 + W, heads, d).
    """

    name = "drift"
    range = (0, None)
    meaning = "How far the mean has moved since the weights were drawn."
    estimator = "‖mean now - mean at step 0‖ per head, on the same tokens"
    source = "Godey, de la Clergerie and Sagot (arXiv 2401.12143): queries and keys along training"
    default_sites = dict.fromkeys(HEAD_SITES, 2)
    sites = HEAD_SITES

    def __init__(self, windows: int = 512) -> None:
        super().__init__(windows)
        self.reference: Tensor | None = None

    def reference_state(self, states: Sums | None = None) -> Tensor | None:
        """What to keep as the reference, (1 + W, heads, d) on the host; None where there is no sound one."""
        states = states or self
        states._results.clear()
        with states.sync_context():
            return None if states.trouble else self._mean(states).cpu()

    @staticmethod
    def _mean(states: Sums) -> Tensor:
        return torch.cat([states.mean[None], states.deviations])[..., : states.width]

    def estimate(self, states: Sums) -> Estimate:
        if states.trouble or self.reference is None:
            return undefined(states.heads, states.n, states.trouble or "no reference mean was kept at step 0")
        mean = self._mean(states)
        if self.reference.shape != mean.shape:
            shapes = f"{tuple(self.reference.shape)}, this one {tuple(mean.shape)}"
            return undefined(states.heads, states.n, f"the reference is of other tokens (shape {shapes})")
        moved, *influence = mean - self.reference.to(mean)
        distance = moved.norm(dim=-1)
        along = (torch.stack(influence) * moved).sum(-1) / distance
        return estimate(distance, states.n, influence=along, windows=int(states.windows), scale="log")
