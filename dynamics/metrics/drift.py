"""Drift: how far a mean has moved since the reference was taken."""

from torch import Tensor

from dynamics.metrics.accumulators import Sums
from dynamics.metrics.base import HEAD_SITES, Estimate, undefined
from dynamics.metrics.intervals import estimate


def drift(x: Tensor, reference: Tensor) -> Tensor:
    """The distance between the mean state and a reference mean, on the same probe tokens.

    Formula: |mean_t - mean_0|_2, for each head.
    Range: 0 to infinity; in the states' own unit.
    Source: Godey, de la Clergerie and Sagot (arXiv 2401.12143): queries and keys along training.
    Pitfalls: a key's drift along a direction that all keys share leaves attention as it is (softmax is
        shift-invariant); rotary positions average a mean away.
    Interval: none is known: both means come from the same tokens, and the reference keeps its mean only.

    Args:
        x: states, shape (..., n, d).
        reference: mean of the reference, shape (..., d).

    Returns:
        Shape (...), float64.

    >>> import torch
    >>> drift(torch.tensor([[3.0, 0.0], [3.0, 8.0]]), torch.tensor([0.0, 0.0]))
    tensor(5., dtype=torch.float64)
    """
    return (x.double().mean(-2) - reference.double()).norm(dim=-1)


class Drift(Sums):
    """Streams `drift` of queries and keys.

    `reference` (heads, d) is None until someone sets it (to the `reference_state` of step 0): until then NaN.
    """

    name = "drift"
    sites = HEAD_SITES

    def __init__(self, windows: int = 512) -> None:
        super().__init__(windows)
        self.reference: Tensor | None = None

    def reference_state(self, states: Sums | None = None) -> Tensor | None:
        """The mean to keep as the reference, (heads, d) on the host; None where there is no sound one."""
        states = states or self
        states._known.clear()
        with states.sync_context():
            return None if states.trouble else states.mean[:, : states.width].cpu()

    def estimate(self, states: Sums) -> Estimate:
        if states.trouble or self.reference is None:
            return undefined(states.heads, states.n, states.trouble or "no reference mean was kept at step 0")
        mean = states.mean[:, : states.width]
        if self.reference.shape != mean.shape:
            shapes = f"{tuple(self.reference.shape)}, the mean {tuple(mean.shape)}"
            return undefined(states.heads, states.n, f"the reference mean has shape {shapes}")
        return estimate((mean - self.reference.to(mean)).norm(dim=-1), states.n)
