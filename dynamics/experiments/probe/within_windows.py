"""A quantity of the states of each window alone, averaged over windows."""

from collections.abc import Callable, Hashable
from importlib import import_module

import torch
from torch import Tensor

from dynamics.metrics.streaming.base import STATE_SITES, Estimate, Metric, States
from dynamics.metrics.streaming.intervals import estimate
from dynamics.metrics.streaming.sums import scalar

SUFFIX = "_within_windows"


class WithinWindows(Metric):
    """Streams the mean over windows of a quantity of states; its interval is Student's t over windows.

    Args:
        of: name of the quantity.
        tokens: of each window at most, evenly spaced; all when None.
    """

    sites = STATE_SITES
    values: list[Tensor]
    n: Tensor

    def __init__(self, of: str, tokens: int | None = None) -> None:
        super().__init__()
        self.name, self._of, self._tokens = of + SUFFIX, of, tokens
        self._quantity: Callable[[Tensor], Tensor] = getattr(import_module(f"dynamics.metrics.{of}"), of)
        self.add_state("values", [], dist_reduce_fx="cat")  # (W,)
        self.add_state("n", scalar(), dist_reduce_fx="sum")

    @property
    def accumulator(self) -> Hashable:
        return WithinWindows, self._of, self._tokens

    def update(self, batch: States) -> None:
        """Add one batch of one head."""
        sizes = batch.windows.unique_consecutive(return_counts=True)[1]
        parts = [evenly_spaced(x, self._tokens) for x in batch.x[:, 0].split(sizes.tolist())]
        self.values.append(torch.stack([self._quantity(x) for x in parts]))
        self.n = self.n + sum(map(len, parts))

    def estimate(self, states: "WithinWindows") -> Estimate:
        values = torch.cat(states.values)
        mean = values.mean()
        return estimate(mean[None], int(states.n), influence=(values - mean)[:, None], windows=len(values))


def evenly_spaced(x: Tensor, count: int | None) -> Tensor:
    """Return `count` evenly spaced rows of `x`; all where it has no more, or when None.

    >>> evenly_spaced(torch.arange(7), 3)
    tensor([0, 2, 4])
    """
    if count is None or len(x) <= count:
        return x
    return x[torch.arange(count, device=x.device) * len(x) // count]
