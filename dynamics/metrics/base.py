"""The contract of a metric: what it is given, what it gives back, how it streams.

A quantity is a pure function on tensors; the `Metric` in the same file streams it. Metrics that keep the same
states share one accumulator (a base class): the engine puts them into one `torchmetrics` compute group, so that
a second moment is summed once, however many quantities are read off it.
"""

from typing import Any, ClassVar, NamedTuple

import torch
import torchmetrics
from torch import Tensor

STATE_SITES = ("residual", "output", "sentence", "token")
HEAD_SITES = ("query", "key")


class States(NamedTuple):
    """Token states of one batch at one site and layer, padding already dropped.

    `x` has shape (n, heads, d) (heads = 1 off the query and key sites), float32 or float64; `windows` has shape
    (n,) and gives the window (the independent unit) that each token comes from, unique over the whole stream.
    """

    x: Tensor
    windows: Tensor


class Estimate(NamedTuple):
    """A value with the 95 % interval of its sampling error.

    `value`, `low`, `high` have shape (heads,) in float64; NaN bounds mean that no interval is known. `n` is the
    number of points behind the value. `reason` says why a value is NaN. `arrays` go beside the rows, by name,
    with shape (heads, ...).
    """

    value: Tensor
    low: Tensor
    high: Tensor
    n: int
    reason: str = ""
    arrays: dict[str, Tensor] = {}  # noqa: RUF012 (never mutated)


class Metric(torchmetrics.Metric):
    """Base of every metric: a streamed quantity with a reduction for each of its states."""

    name: ClassVar[str]
    sites: ClassVar[tuple[str, ...]]
    full_state_update = False

    def update(self, batch: Any) -> None:
        """Add one batch: `States`, or the capture's attention call, or weights, by the metric's sites."""
        raise NotImplementedError

    def compute(self) -> Estimate:
        """The estimate over everything seen so far."""
        raise NotImplementedError


def undefined(heads: int, n: int, reason: str) -> Estimate:
    """The estimate of what cannot be estimated: NaN and the reason."""
    nan = torch.full((heads,), torch.nan, dtype=torch.float64)
    return Estimate(nan, nan, nan, n, reason)
