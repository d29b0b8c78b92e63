"""A quantity of the states of each window alone, averaged over windows."""

from collections.abc import Callable, Hashable
from importlib import import_module

import torch
from torch import Tensor

from dynamics import metrics as registry
from dynamics.metrics.streaming import STATE_SITES, Estimate, States, Windowed, estimate

SUFFIX = "_within_windows"


class WithinWindows(Windowed):
    """Mean over windows of a quantity of the states of each window alone.

    Args:
        of: name of the quantity.
        most: tokens of a window that are used, evenly spaced; all when None.
    """

    sites = STATE_SITES
    values: list[Tensor]
    tokens: Tensor

    def __init__(self, of: str, most: int | None = None) -> None:
        super().__init__()
        self.name, self._of, self._most = of + SUFFIX, of, most
        self._quantity: Callable[[Tensor], Tensor] = getattr(import_module(f"dynamics.metrics.{of}"), of)
        metric = registry.resolve(of)
        self.unit, self.range, self.wide, self.source = metric.unit, metric.range, metric.wide, metric.source
        self.estimator = metric.estimator
        self.add_state("values", [], dist_reduce_fx="cat")  # (W,)
        self.add_state("tokens", torch.tensor(0), dist_reduce_fx="sum")

    @property
    def accumulator(self) -> Hashable:
        return WithinWindows, self._of, self._most

    def update(self, batch: States) -> None:
        """Add one batch of one head."""
        sizes = batch.windows.unique_consecutive(return_counts=True)[1]
        parts = [evenly_spaced(x, self._most) for x in batch.x[:, 0].split(sizes.tolist())]
        self.values.append(torch.stack([self._quantity(x) for x in parts]))
        self.tokens = self.tokens + sum(map(len, parts))

    def estimate(self, states: "WithinWindows") -> Estimate:
        values = torch.cat(states.values)
        return estimate(
            values.mean()[None],
            int(states.tokens),
            influence=(values - values.mean())[:, None],
            windows=len(values),
            scale=self.interval_scale,
            reason=self.nan_reason,
        )


def evenly_spaced(x: Tensor, count: int | None) -> Tensor:
    """Return `count` evenly spaced rows of `x`; all where it has no more, or when None.

    >>> evenly_spaced(torch.arange(7), 3)
    tensor([0, 2, 4])
    """
    if count is None or len(x) <= count:
        return x
    return x[torch.arange(count, device=x.device) * len(x) // count]
